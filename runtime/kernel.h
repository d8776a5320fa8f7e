/* Inside the ctx: kernels from name to loaded function. */
#ifndef TML_KERNEL_H
#define TML_KERNEL_H

#include "ctx.h"

/* Loads a cubin and makes everything ready that a launch needs. `kernel` has variant and hash. The
 * primary context must be current. DRIVER; UNSUPPORTED if it does not fit the device; INTERNAL if
 * its parameters are not those that were declared. On failure nothing stays loaded. */
tml_status kernel_load(tml_ctx *ctx, tml_kernel *kernel, const void *cubin);
/* Unloads every kernel of the ctx. */
void kernel_free_all(tml_ctx *ctx);
void kernel_forget_refusals(tml_ctx *ctx);

#endif
