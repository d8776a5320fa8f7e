/* Fibres: functions with a stack of their own, switched by hand. Portable C: a ucontext makes the
 * first entry, _setjmp/_longjmp the later ones (no system call). Under AddressSanitizer swapcontext
 * does it all, with the sanitizer told of every switch. */
#ifndef EMU_FIBRE_H
#define EMU_FIBRE_H

#include <stddef.h>

typedef struct emu_fibre emu_fibre;
typedef struct emu_fibres emu_fibres; /* a pool of stacks; one runs at a time */

emu_fibres *emu_fibres_create(void);
/* Also with fibres suspended: their stacks just go. */
void emu_fibres_destroy(emu_fibres *pool);

/* A fibre that will call fn(arg) at its first emu_fibre_resume. NULL: out of memory. */
emu_fibre *emu_fibre_take(emu_fibres *pool, void (*fn)(void *), void *arg);
/* Runs it until it yields (1) or fn returns (0: the fibre went back to the pool). */
int emu_fibre_resume(emu_fibre *fibre);
/* In a fibre: back to who resumed it. */
void emu_fibre_yield(emu_fibre *fibre);
/* Gives a suspended fibre's stack back without finishing it. */
void emu_fibre_drop(emu_fibre *fibre);

#endif
