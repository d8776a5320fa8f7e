/* Tensor maps as the emulator keeps them in a CUtensorMap's 128 bytes, and the boxes that they
 * cut. */
#ifndef EMU_TENSOR_H
#define EMU_TENSOR_H

#include "state.h"

/* Decodes a map; 0: these bytes are no map of the emulator. */
int emu_tensor_decode(const void *map, emu_tensor *tensor);

/* A line of a box: its bytes along the innermost dimension. */
typedef struct {
  u32 line; /* from 0, in the order of shared memory */
  u32 skip,
      bytes; /* bytes of the line before and inside the tensor; bytes 0: all of it is outside */
  u64 at;    /* global address of the first byte inside */
} emu_line;
/* The map of a primitive of the running thread; 0 after a report (load.c). */
int emu_tma_map(const void *map, u32 rank, emu_tensor *tensor);
u32 emu_box_lines(const emu_tensor *tensor);
u32 emu_box_pitch(const emu_tensor *tensor); /* bytes of a line in shared memory */
emu_line emu_box_line(const emu_tensor *tensor, const i32 *at, u32 line);

/* Where byte `linear` (an offset whose zero is at a multiple of 1024) stands under a swizzle. */
static inline u32 emu_swizzle(u32 linear, int swizzle)
{
  u32 bits = (1u << swizzle) - 1;
  return linear ^ ((linear >> 7 & bits) << 4);
}

#endif
