/* The arithmetic of wgmma, and which shared memory it reads. */
#ifndef EMU_MMA_H
#define EMU_MMA_H

#include "state.h"

typedef struct {
  emu_object object;
  emu_cta *cta;
  emu_warpgroup *group;
} emu_mma_event;

/* sum[64][columns] (+)= A B^T, in fp32; for each element the 16 products are added in order of k
 * (products of two 16-bit elements are exact in fp32). */
void emu_mma_compute(emu_cta *cta, const emu_mma *op, float *sum);
/* Checks the descriptors and reads the cells of both operands. */
void emu_mma_operands(emu_thread *self, const emu_mma *op, emu_access *access);

float emu_from_half(u32 half);
u32 emu_to_half(float x);

#endif
