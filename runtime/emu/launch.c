/* Kernels: submission, which blocks are resident, the life of a block and of a thread. */
#include "state.h"

#include <stdlib.h>
#include <string.h>

void emu_run_free(emu_run_state *run)
{
  for (u32 i = 0; run->params[i]; ++i) free(run->params[i]);
  free(run->params);
  free(run->name);
  emu_order_free(&run->start);
  emu_vector_free(&run->finish);
  free(run);
}

static const char *refuse(const emu_machine *m, const emu_launch *l)
{
  if (l->device < 0 || l->device >= m->config.devices) return "no such device";
  if (l->grid == 0 || l->block == 0 || l->block > 1024)
    return "the grid or the block has a wrong size";
  if (l->cluster == 0 || l->cluster > 8 || l->grid % l->cluster)
    return "the grid is not a multiple of the cluster";
  if (l->smem > EMU_SMEM_MAX) return "more shared memory than a block can have";
  if (l->cluster > (u32)m->config.resident)
    return "the cluster has more blocks than the device holds";
  if (l->cooperative && l->grid > (u32)m->config.resident)
    return "the cooperative grid does not fit the device";
  return NULL;
}

const char *emu_submit_launch(emu_machine *m, const emu_launch *l, emu_clock *clock,
                              void (*done)(void *), void *arg)
{
  const char *reason = refuse(m, l);
  emu_run_state *run, **link;
  if (reason) return reason;
  run = emu_need(calloc(1, sizeof *run));
  run->params = emu_need(calloc((size_t)l->count + 1, sizeof(void *)));
  for (int i = 0; i < l->count; ++i) {
    run->params[i] = emu_need(aligned_alloc(64, ((size_t)l->sizes[i] + 63) / 64 * 64));
    memcpy(run->params[i], l->params[i], l->sizes[i]);
  }
  run->m = m;
  run->device = l->device;
  run->name = emu_need(strdup(l->name));
  run->entry = l->entry;
  run->grid = l->grid;
  run->block = l->block;
  run->cluster = l->cluster;
  run->smem = l->smem;
  run->clock = clock;
  run->done = done;
  run->arg = arg;
  emu_order_init(&run->start, m->groups);
  emu_vector_init(&run->finish, m->groups);
  if (clock) { /* the boundary of a kernel orders all proxies */
    emu_vector_copy(&run->start.all, &clock->all);
    emu_vector_copy(&run->start.smem, &clock->all);
    emu_vector_copy(&run->start.global, &clock->all);
    emu_vector_copy(&run->finish, &clock->all);
  }
  for (link = &m->runs; *link;) link = &(*link)->next;
  *link = run;
  ++m->under_way;
  ++m->counts.launches;
  m->dispatch = 1;
  return NULL;
}

/* ---- Blocks ---------------------------------------------------------------------------------- */
static void start_warp(emu_cta *cta, u32 w)
{
  emu_machine *m = cta->m;
  emu_warp *warp = &cta->warp[w];
  warp->cta = cta;
  warp->agent = cta->slot->group * EMU_GROUP + EMU_AGENT_WARP + w;
  warp->live = cta->threads - w * 32 < 32 ? cta->threads - w * 32 : 32;
  emu_order_init(&warp->order, m->groups);
  emu_order_init(&warp->fenced, m->groups);
  emu_order_copy(&warp->order, &cta->run->start);
  emu_tick(warp);
}

/* Shared memory holds whatever was there before: poison, and nothing is defined. */
static void prepare_slot(emu_slot *slot, const emu_machine *m)
{
  if (!slot->smem) {
    slot->smem = emu_need(malloc(EMU_SMEM_MAX));
    slot->cells = emu_need(malloc(EMU_SMEM_MAX / EMU_CELL * sizeof(emu_cell)));
    slot->mbar_at = emu_need(malloc(EMU_SMEM_MAX / 8 * sizeof(u16)));
    memset(slot->smem, 0xfb, EMU_SMEM_MAX);
  }
  if (!m->config.no_hazards) memset(slot->cells, 0, EMU_SMEM_MAX / EMU_CELL * sizeof(emu_cell));
  memset(slot->mbar_at, 0, EMU_SMEM_MAX / 8 * sizeof(u16));
}

static emu_cta *start_block(emu_run_state *run, emu_slot *slot, emu_cluster *cluster, u32 rank)
{
  emu_machine *m = run->m;
  emu_cta *cta = emu_need(calloc(1, sizeof *cta));
  prepare_slot(slot, m);
  slot->cta = cta;
  cta->m = m;
  cta->run = run;
  cta->slot = slot;
  cta->cluster = cluster;
  cta->device = run->device;
  cta->block = run->started++;
  cta->rank = rank;
  cta->smem_bytes = run->smem;
  cta->threads = cta->live = run->block;
  cta->warps = (run->block + 31) / 32;
  cta->thread = emu_need(calloc(cta->threads, sizeof *cta->thread));
  cta->warp = emu_need(calloc(cta->warps, sizeof *cta->warp));
  emu_order_init(&cta->open, m->groups);
  emu_order_init(&cta->done, m->groups);
  for (u32 w = 0; w < cta->warps; ++w) start_warp(cta, w);
  for (u32 t = 0; t < cta->threads; ++t) {
    emu_thread *thread = &cta->thread[t];
    thread->cta = cta;
    thread->warp = &cta->warp[t / 32];
    thread->index = t;
    thread->state = EMU_NEW;
    emu_ready(m, thread);
  }
  cluster->cta[rank] = cta;
  cluster->live += cta->threads;
  return cta;
}

/* The device's free places for one cluster; 0: not enough. */
static int start_cluster(emu_run_state *run)
{
  emu_machine *m = run->m;
  emu_slot *free_slot[8];
  u32 count = 0, resident = (u32)m->config.resident;
  emu_cluster *cluster;
  for (u32 i = 0; i < resident && count < run->cluster; ++i) {
    emu_slot *slot = &m->slot[(u32)run->device * resident + i];
    if (!slot->cta) free_slot[count++] = slot;
  }
  if (count < run->cluster) return 0;
  cluster = emu_need(calloc(1, sizeof *cluster));
  cluster->count = cluster->left = run->cluster;
  emu_order_init(&cluster->open, m->groups);
  emu_order_init(&cluster->done, m->groups);
  for (u32 i = 0; i < run->cluster; ++i) start_block(run, free_slot[i], cluster, i);
  return 1;
}

/* A kernel's blocks start in order; the next kernel of the device may start when all of them
 * have. */
void emu_dispatch(emu_machine *m)
{
  u32 full = 0; /* devices whose oldest unstarted kernel waits for a place */
  m->dispatch = 0;
  for (emu_run_state *run = m->runs; run; run = run->next) {
    if (full >> run->device & 1) continue;
    while (run->started < run->grid && start_cluster(run)) continue;
    if (run->started < run->grid) full |= 1u << run->device;
  }
}

void emu_cta_free(emu_cta *cta)
{
  emu_cluster *cluster = cta->cluster;
  for (u32 t = 0; t < cta->threads; ++t) {
    emu_thread *thread = &cta->thread[t];
    if (thread->fibre) emu_fibre_drop(thread->fibre);
    emu_bulk_free(thread->bulk);
  }
  for (u32 w = 0; w < cta->warps; ++w) {
    emu_order_free(&cta->warp[w].order);
    emu_order_free(&cta->warp[w].fenced);
  }
  for (u32 i = 0; i < cta->mbars; ++i) {
    emu_order_free(&cta->mbar[i].open);
    emu_order_free(&cta->mbar[i].done);
  }
  for (u32 g = 0; g < 8; ++g) emu_mma_free(cta->group[g]);
  emu_order_free(&cta->open);
  emu_order_free(&cta->done);
  cta->slot->cta = NULL;
  free(cta->thread);
  free(cta->warp);
  free(cta);
  if (--cluster->count == 0) {
    emu_order_free(&cluster->open);
    emu_order_free(&cluster->done);
    free(cluster);
  }
}

static void run_over(emu_run_state *run)
{
  emu_machine *m = run->m;
  emu_run_state **link = &m->runs;
  while (*link != run) link = &(*link)->next;
  *link = run->next;
  if (run->clock) emu_vector_join(&run->clock->all, &run->finish);
  emu_complete(m, run->clock, run->done, run->arg);
  emu_run_free(run);
}

static void check_over(emu_run_state *run)
{
  if (run->ended == run->grid) run_over(run);
}

static void end_block(emu_cta *cta)
{
  emu_run_state *run = cta->run;
  u32 first = cta->slot->group * EMU_GROUP;
  for (u32 w = 0; w < cta->warps; ++w) emu_vector_join(&run->finish, &cta->warp[w].order.all);
  for (u32 i = 0; i < EMU_GROUP; ++i) {
    if (cta->slot->now[i]) emu_vector_raise(&run->finish, first + i, cta->slot->now[i]);
  }
  ++run->ended;
  cta->m->dispatch = 1;
  emu_cta_free(cta);
}

void emu_cta_quiet(emu_cta *cta)
{
  emu_cluster *cluster = cta->cluster;
  emu_run_state *run = cta->run;
  u32 count = cluster->count;
  emu_cta *all[8];
  if (cluster->left > 0) return;
  for (u32 i = 0; i < count; ++i) {
    all[i] = cluster->cta[i];
    if (all[i]->loads > 0 || all[i]->reads > 0) return;
  }
  for (u32 i = 0; i < count; ++i) end_block(all[i]);
  check_over(run);
}

/* ---- Threads --------------------------------------------------------------------------------- */
static void thread_left(emu_thread *self)
{
  emu_cta *cta = self->cta;
  if (cta->delayed) emu_flush(cta);
  emu_bulk_leave(self);
  emu_mma_leave(self);
  self->state = EMU_DEAD;
  --self->warp->live;
  --cta->live;
  --cta->cluster->live;
  emu_lane_left(self->warp);
  emu_block_left(cta);
  if (cta->live > 0) return;
  if (cta->loads > 0) {
    emu_hazard_here(
        EMU_MISUSE, 0,
        "the block ended while %u asynchronous writes were on their way into its shared memory",
        cta->loads);
  }
  --cta->cluster->left;
}

void emu_thread_main(void *arg)
{
  emu_thread *self = arg;
  self->cta->run->entry(self->cta->run->params);
  thread_left(self);
}
