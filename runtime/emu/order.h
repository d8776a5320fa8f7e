/* Vector clocks: who knows of which work.
 *
 * An agent is what does work in one order of its own: a warp, the tensor cores of a warpgroup, the
 * bulk stores of a thread (their reads and their writes apart), the loads that complete on one
 * mbarrier, a stream's copies. Lanes of a warp share their warp's clock. The clock of an mbarrier's
 * agent is its phase, so that knowing a phase is exactly knowing the loads that completed in it.
 *
 * Agents come in groups of 128 (a block, or 128 streams); a group's clocks are a shared, counted
 * chunk that is copied when written, so joining two clocks is mostly comparing pointers. */
#ifndef EMU_ORDER_H
#define EMU_ORDER_H

#include <stdint.h>

#define EMU_GROUP 128u

typedef struct {
  uint32_t refs;
  uint32_t at[EMU_GROUP];
} emu_chunk;

typedef struct {
  uint32_t groups;
  emu_chunk **chunk;
} emu_vector;

/* Known at all; known to the async proxy in shared memory; the same in global memory. */
typedef struct {
  emu_vector all, smem, global;
} emu_order;

void emu_vector_init(emu_vector *vector, uint32_t groups);
void emu_vector_free(emu_vector *vector);
void emu_vector_set(emu_vector *vector, uint32_t agent, uint32_t clock);
void emu_vector_raise(emu_vector *vector, uint32_t agent, uint32_t clock); /* to at least */
void emu_vector_join(emu_vector *into, const emu_vector *from);
/* Only clocks of asynchronous agents of blocks (what tensor cores and TMA have read and
 * written). */
void emu_vector_join_async(emu_vector *into, const emu_vector *from, uint32_t block_groups);
void emu_vector_copy(emu_vector *into, const emu_vector *from);

static inline uint32_t emu_vector_get(const emu_vector *vector, uint32_t agent)
{
  const emu_chunk *chunk = vector->chunk[agent / EMU_GROUP];
  return chunk ? chunk->at[agent % EMU_GROUP] : 0;
}

void emu_order_init(emu_order *order, uint32_t groups);
void emu_order_free(emu_order *order);
void emu_order_join(emu_order *into, const emu_order *from);
void emu_order_copy(emu_order *into, const emu_order *from);

/* Allocates or ends the process with a sentence: an emulator without memory has no state to go on
 * from. */
void *emu_need(void *pointer);

#endif
