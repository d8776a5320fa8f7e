/* wgmma: asynchronous groups per warpgroup.
 *
 * A thread that issues an operation only leaves a note; when all 128 threads have, the operands are
 * checked, and when all have committed the group it is computed at a random later time, in order.
 * From issue to the wait that covers it a thread's accumulators hold a poison NaN; the sums stand
 * in a table of the warpgroup. */
#include "mma.h"
#include "prims.h"

#include <stdlib.h>
#include <string.h>

static emu_warpgroup *group_of(emu_thread *self)
{
  emu_cta *cta = self->cta;
  u32 index = self->index / 128;
  emu_warpgroup *group = cta->group[index];
  if (group) return group;
  group = cta->group[index] = emu_need(calloc(1, sizeof *group));
  group->agent = cta->slot->group * EMU_GROUP + EMU_AGENT_TENSOR + index;
  group->base = cta->slot->now[EMU_AGENT_TENSOR + index];
  return group;
}

void emu_mma_free(emu_warpgroup *group)
{
  if (!group) return;
  for (u32 i = 0; i < 8; ++i) free(group->acc[i].sum);
  free(group);
}

/* ---- A thread's part of the accumulators ----------------------------------------------------- */
/* Row and column of value i of a thread. */
static u32 place_of(u32 thread, u32 i, u32 columns)
{
  u32 row = thread / 32 * 16 + thread % 32 / 4 + 8 * (i / 2 % 2);
  return row * columns + 8 * (i / 4) + 2 * (thread % 4) + i % 2;
}

static float poison(void)
{
  union {
    u32 u;
    float f;
  } x = {EMU_POISON};
  return x.f;
}

static int intact(const float *d, u32 count)
{
  const float p = poison();
  for (u32 i = 0; i < count; ++i) {
    if (memcmp(&d[i], &p, 4) != 0) return 0;
  }
  return 1;
}

static void take(emu_accumulator *acc, u32 thread, float *d, int load)
{
  u32 count = acc->columns / 2;
  const float p = poison();
  for (u32 i = 0; i < count; ++i) {
    if (load) acc->sum[place_of(thread, i, acc->columns)] = d[i];
    d[i] = p;
  }
  acc->d[thread] = d;
  ++acc->users;
}

static void give_back(emu_accumulator *acc, u32 thread)
{
  float *d = acc->d[thread];
  u32 count = acc->columns / 2;
  if (!intact(d, count)) {
    emu_hazard_here(EMU_ACCUMULATOR, 0,
                    "accumulators were written between the issue of wgmma and this wait");
  }
  for (u32 i = 0; i < count; ++i) d[i] = acc->sum[place_of(thread, i, acc->columns)];
  acc->d[thread] = NULL;
  --acc->users;
}

/* The accumulator that this thread's d is, attached where it was not in flight. */
static u32 attach(emu_thread *self, emu_warpgroup *group, emu_mma *op, float *d)
{
  u32 t = self->index % 128, i;
  for (i = 0; i < 8; ++i) {
    if (group->acc[i].users > 0 && group->acc[i].d[t] == d) break;
  }
  if (i < 8) {
    if (!intact(d, op->columns / 2)) {
      emu_hazard_here(EMU_ACCUMULATOR, 0,
                      "accumulators were written while an earlier wgmma has them");
    }
    if (group->acc[i].columns != op->columns ||
        (op->accumulator != UINT32_MAX && op->accumulator != i)) {
      emu_hazard_here(EMU_ACCUMULATOR, 0,
                      "wgmma of another shape, or other accumulators, while one is in flight");
    }
    return i;
  }
  if (!self->fenced)
    emu_hazard_here(EMU_ACCUMULATOR, 0,
                    "wgmma without wgmma_fence after its accumulators were the thread's own");
  i = op->accumulator;
  if (i == UINT32_MAX) {
    for (i = 0; i < 7 && group->acc[i].users > 0;) ++i;
    group->acc[i].columns = op->columns;
    group->acc[i].sum = emu_need(realloc(group->acc[i].sum, 64 * op->columns * sizeof(float)));
    group->acc[i].users = 0;
  }
  take(&group->acc[i], t, d, (int)op->accumulate);
  return i;
}

/* ---- Computing ------------------------------------------------------------------------------- */
static void perform_group(void *arg)
{
  emu_mma_event *event = arg;
  emu_warpgroup *group = event->group;
  emu_cta *cta = event->cta;
  u32 end = group->group_end[group->performed % EMU_MMAS];
  for (; group->head != end; ++group->head) {
    const emu_mma *op = &group->ring[group->head % EMU_MMAS];
    emu_mma_compute(cta, op, group->acc[op->accumulator].sum);
  }
  ++group->performed;
  emu_wake(cta->m, &group->waiting);
  --cta->reads;
  emu_object_free(event);
  if (cta->live == 0) emu_cta_quiet(cta);
}

static void nothing(void *object) { (void)object; }

static void all_committed(emu_thread *self, emu_warpgroup *group)
{
  emu_cta *cta = self->cta;
  u64 due = cta->m->now + emu_late(cta->m);
  emu_mma_event *event = emu_object_new(cta->m, sizeof *event, nothing);
  event->cta = cta;
  event->group = group;
  ++group->groups;
  cta->slot->now[group->agent % EMU_GROUP] = group->base + group->groups;
  ++cta->reads;
  /* groups complete in order */
  if (due < group->due) due = group->due;
  group->due = due;
  emu_at(cta->m, due - cta->m->now, perform_group, event);
}

/* ---- Primitives ------------------------------------------------------------------------------ */
/* All of wgmma is .sync.aligned: lanes that ran ahead wait here for their warp. */
void emu_wgmma_fence(emu_site *site)
{
  emu_thread *self = emu_enter(site);
  self->fenced = 1;
  if (emu_gather(self, "wgmma_fence")) emu_scatter(self);
}

static void check_operands(emu_thread *self, emu_warpgroup *group, const emu_mma *op)
{
  emu_access access = emu_generic(self, 0);
  access.proxy = &self->warp->order.smem;
  access.agent = group->agent;
  access.clock = group->base + op->group + 1;
  emu_mma_operands(self, op, &access);
}

void emu_wgmma(emu_site *site, float *d, u64 a, u64 b, u32 columns, u32 fp16, u32 accumulate)
{
  emu_thread *self = emu_enter(site);
  emu_warpgroup *group = group_of(self);
  u32 number = self->mmas++;
  emu_mma *op = &group->ring[number % EMU_MMAS];
  if (number - group->head >= EMU_MMAS) {
    emu_hazard_here(EMU_MISUSE, 0, "the emulator holds %u wgmma in flight", EMU_MMAS);
    return;
  }
  if (number == group->tail) {
    emu_mma fresh = {a, b, columns, fp16, accumulate, 0, UINT32_MAX, self->groups, self->site};
    *op = fresh;
    ++group->tail;
  } else if (op->a != a || op->b != b || op->columns != columns || op->accumulate != accumulate) {
    emu_hazard_here(EMU_ACCUMULATOR, 0, "threads of one warpgroup issue different wgmma");
  }
  op->accumulator = attach(self, group, op, d);
  group->acc[op->accumulator].last[self->index % 128] = self->groups;
  if (++op->threads == 128) check_operands(self, group, op);
}

void emu_wgmma_commit(emu_site *site)
{
  emu_thread *self = emu_enter(site);
  emu_warpgroup *group = group_of(self);
  u32 place = self->groups++ % EMU_MMAS;
  if (group->group_threads[place] == 0) group->group_end[place] = self->mmas;
  if (group->group_end[place] != self->mmas) {
    emu_hazard_here(EMU_ACCUMULATOR, 0, "threads of one warpgroup commit different groups");
  }
  if (++group->group_threads[place] == 128) {
    group->group_threads[place] = 0;
    all_committed(self, group);
  }
}

void emu_wgmma_wait(emu_site *site, u32 pending)
{
  emu_thread *self = emu_enter(site);
  emu_warpgroup *group = group_of(self);
  u32 end = self->groups > pending ? self->groups - pending : 0, t = self->index % 128;
  while ((i32)(group->performed - end) < 0)
    emu_wait(&group->waiting, "wgmma_wait", end, group->performed);
  emu_vector_raise(&self->warp->order.all, group->agent, group->base + end);
  for (u32 i = 0; i < 8; ++i) {
    emu_accumulator *acc = &group->acc[i];
    if (acc->users == 0 || !acc->d[t] || acc->last[t] >= end) continue;
    give_back(acc, t);
    self->fenced = 0;
  }
}

void emu_poisoned(emu_site *site)
{
  emu_enter(site);
  emu_hazard_here(EMU_ACCUMULATOR, 0,
                  "an accumulator is used between the issue of wgmma and the wait that covers it");
}

void emu_mma_leave(emu_thread *self)
{
  const emu_warpgroup *group = self->cta->group[self->index / 128];
  if (!group || self->mmas == 0) return;
  if ((i32)(group->performed - self->groups) < 0) {
    emu_hazard_here(EMU_ACCUMULATOR, 0, "the thread ended without waiting for its wgmma");
  }
}
