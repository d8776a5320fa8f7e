#include "order.h"

#include "state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *emu_need(void *pointer)
{
  if (!pointer) {
    fputs("tidemill emulator: out of memory; run with fewer devices or resident blocks\n", stderr);
    abort();
  }
  return pointer;
}

static void unref(emu_chunk *chunk)
{
  if (chunk && --chunk->refs == 0) free(chunk);
}

static emu_chunk *fresh(void)
{
  emu_chunk *chunk = emu_need(malloc(sizeof *chunk));
  chunk->refs = 1;
  return chunk;
}

void emu_vector_init(emu_vector *vector, uint32_t groups)
{
  vector->groups = groups;
  vector->chunk = emu_need(calloc(groups, sizeof *vector->chunk));
}

static void clear(emu_vector *vector)
{
  for (uint32_t i = 0; i < vector->groups; ++i) {
    unref(vector->chunk[i]);
    vector->chunk[i] = NULL;
  }
}

void emu_vector_free(emu_vector *vector)
{
  if (!vector->chunk) return;
  clear(vector);
  free(vector->chunk);
  vector->chunk = NULL;
}

void emu_vector_set(emu_vector *vector, uint32_t agent, uint32_t clock)
{
  emu_chunk **slot = &vector->chunk[agent / EMU_GROUP];
  if (!*slot) {
    *slot = fresh();
    memset((*slot)->at, 0, sizeof(*slot)->at);
  } else if ((*slot)->refs > 1) {
    emu_chunk *own = fresh();
    memcpy(own->at, (*slot)->at, sizeof own->at);
    unref(*slot);
    *slot = own;
  }
  (*slot)->at[agent % EMU_GROUP] = clock;
}

void emu_vector_raise(emu_vector *vector, uint32_t agent, uint32_t clock)
{
  if (emu_vector_get(vector, agent) < clock) emu_vector_set(vector, agent, clock);
}

static void share(emu_chunk **slot, emu_chunk *chunk)
{
  ++chunk->refs;
  unref(*slot);
  *slot = chunk;
}

/* -1: a below b, 1: a covers b (or equal), 0: neither */
static int compare(const uint32_t *a, const uint32_t *b)
{
  uint32_t above = 0, below = 0;
  for (uint32_t i = 0; i < EMU_GROUP; ++i) {
    above |= a[i] > b[i];
    below |= a[i] < b[i];
  }
  return below == 0 ? 1 : above == 0 ? -1 : 0;
}

static void join_chunk(emu_chunk **slot, emu_chunk *from)
{
  int order;
  if (!from || *slot == from) return;
  order = *slot ? compare((*slot)->at, from->at) : -1;
  if (order > 0) return;
  if (order < 0) {
    share(slot, from);
    return;
  }
  if ((*slot)->refs > 1) {
    emu_chunk *own = fresh();
    memcpy(own->at, (*slot)->at, sizeof own->at);
    unref(*slot);
    *slot = own;
  }
  for (uint32_t i = 0; i < EMU_GROUP; ++i) {
    if ((*slot)->at[i] < from->at[i]) (*slot)->at[i] = from->at[i];
  }
}

void emu_vector_join(emu_vector *into, const emu_vector *from)
{
  for (uint32_t i = 0; i < into->groups; ++i) join_chunk(&into->chunk[i], from->chunk[i]);
}

void emu_vector_join_async(emu_vector *into, const emu_vector *from, uint32_t block_groups)
{
  for (uint32_t g = 0; g < block_groups; ++g) {
    const emu_chunk *chunk = from->chunk[g];
    if (!chunk || chunk == into->chunk[g]) continue;
    for (uint32_t i = EMU_AGENT_ASYNC; i < EMU_GROUP; ++i) {
      if (chunk->at[i]) emu_vector_raise(into, g * EMU_GROUP + i, chunk->at[i]);
    }
  }
}

void emu_vector_copy(emu_vector *into, const emu_vector *from)
{
  for (uint32_t i = 0; i < into->groups; ++i) {
    if (into->chunk[i] == from->chunk[i]) continue;
    if (from->chunk[i]) {
      share(&into->chunk[i], from->chunk[i]);
    } else {
      unref(into->chunk[i]);
      into->chunk[i] = NULL;
    }
  }
}

void emu_order_init(emu_order *order, uint32_t groups)
{
  emu_vector_init(&order->all, groups);
  emu_vector_init(&order->smem, groups);
  emu_vector_init(&order->global, groups);
}

void emu_order_free(emu_order *order)
{
  emu_vector_free(&order->all);
  emu_vector_free(&order->smem);
  emu_vector_free(&order->global);
}

void emu_order_join(emu_order *into, const emu_order *from)
{
  emu_vector_join(&into->all, &from->all);
  emu_vector_join(&into->smem, &from->smem);
  emu_vector_join(&into->global, &from->global);
}

void emu_order_copy(emu_order *into, const emu_order *from)
{
  emu_vector_copy(&into->all, &from->all);
  emu_vector_copy(&into->smem, &from->smem);
  emu_vector_copy(&into->global, &from->global);
}
