/* Making and ending a machine; clocks of streams, events and host threads. */
#include "state.h"

#include <stdlib.h>
#include <string.h>

#define STREAM_GROUPS 2u

void *emu_object_new(emu_machine *m, size_t bytes, void (*destroy)(void *))
{
  emu_object *object = emu_need(calloc(1, bytes));
  object->destroy = destroy;
  object->previous = &m->objects;
  object->next = m->objects.next;
  m->objects.next->previous = object;
  m->objects.next = object;
  return object;
}

void emu_object_free(void *pointer)
{
  emu_object *object = pointer;
  object->next->previous = object->previous;
  object->previous->next = object->next;
  object->destroy(object);
  free(object);
}

static u64 mix(u64 x)
{
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

emu_machine *emu_machine_create(const emu_config *config)
{
  emu_machine *m;
  if (config->devices < 1 || config->devices > EMU_MAX_DEVICES) return NULL;
  if (config->resident < 0 || config->resident > 32) return NULL;
  m = calloc(1, sizeof *m);
  if (!m) return NULL;
  m->config = *config;
  if (m->config.resident == 0) m->config.resident = 4;
  if (m->config.switch_every <= 0) m->config.switch_every = 16;
  if (m->config.late_ns == 0) m->config.late_ns = 2000;
  m->random[0] = mix(config->seed);
  m->random[1] = mix(m->random[0]);
  m->now = 1000000000;
  m->block_groups = (u32)(m->config.devices * m->config.resident);
  m->groups = m->block_groups + STREAM_GROUPS;
  m->slot = emu_need(calloc(m->block_groups, sizeof *m->slot));
  m->active = emu_need(calloc(m->block_groups, sizeof(emu_slot *)));
  for (u32 i = 0; i < m->block_groups; ++i) m->slot[i].group = i;
  for (int d = 0; d < EMU_MAX_DEVICES; ++d) m->halt_after[d] = UINT64_MAX;
  m->objects.next = m->objects.previous = &m->objects;
  m->fibres = emu_need(emu_fibres_create());
  return m;
}

void emu_machine_destroy(emu_machine *m)
{
  if (!m) return;
  for (u32 i = 0; i < m->block_groups; ++i) {
    emu_slot *slot = &m->slot[i];
    if (slot->cta) emu_cta_free(slot->cta);
    free(slot->smem);
    free(slot->cells);
    free(slot->mbar_at);
    free(slot->ready);
  }
  free(m->slot);
  while (m->objects.next != &m->objects) emu_object_free(m->objects.next);
  while (m->runs) {
    emu_run_state *run = m->runs;
    m->runs = run->next;
    emu_run_free(run);
  }
  while (m->mapping_count > 0) {
    emu_unmap(m, m->mapping[m->mapping_count - 1].at, m->mapping[m->mapping_count - 1].bytes);
  }
  free(m->mapping);
  while (m->memories) {
    m->memories->refs = 1;
    emu_memory_release(m->memories);
  }
  free(m->active);
  free(m->event);
  emu_report_clear(m);
  emu_fibres_destroy(m->fibres);
  free(m);
}

emu_counts emu_count(const emu_machine *m) { return m->counts; }

/* ---- Clocks ---------------------------------------------------------------------------------- */
/* Beyond 255 clocks that have worked at a time, some share an agent: orders between those two are
 * lost. */
emu_clock *emu_clock_create(emu_machine *m)
{
  emu_clock *clock = calloc(1, sizeof *clock);
  if (!clock) return NULL;
  clock->m = m;
  clock->agent = UINT32_MAX;
  emu_vector_init(&clock->all, m->groups);
  return clock;
}

/* Agents go to clocks that have operations of their own: streams and host threads, not events. */
static void take_agent(emu_clock *clock)
{
  emu_machine *m = clock->m;
  u32 pick = 0, count = EMU_GROUP * STREAM_GROUPS;
  while (pick < count - 1 && (m->stream_agents[pick / 32] >> pick % 32 & 1)) ++pick;
  m->stream_agents[pick / 32] |= 1u << pick % 32;
  clock->agent = m->block_groups * EMU_GROUP + pick;
}

u32 emu_clock_next(emu_clock *clock)
{
  if (clock->agent == UINT32_MAX) take_agent(clock);
  return ++clock->m->stream_now[clock->agent - clock->m->block_groups * EMU_GROUP];
}

void emu_clock_destroy(emu_clock *clock)
{
  if (!clock) return;
  if (clock->agent != UINT32_MAX) {
    u32 pick = clock->agent - clock->m->block_groups * EMU_GROUP;
    clock->m->stream_agents[pick / 32] &= ~(1u << pick % 32);
  }
  emu_vector_free(&clock->all);
  free(clock);
}

void emu_clock_join(emu_clock *into, const emu_clock *from)
{
  emu_vector_join(&into->all, &from->all);
}
void emu_clock_copy(emu_clock *into, const emu_clock *from)
{
  emu_vector_copy(&into->all, &from->all);
}
