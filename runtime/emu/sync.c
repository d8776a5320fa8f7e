/* Threads that meet: warps, blocks, clusters; and what they learn from each other. */
#include "prims.h"
#include "state.h"

#include <string.h>

void emu_tick(emu_warp *warp)
{
  warp->clock = ++warp->cta->slot->now[warp->agent % EMU_GROUP];
  emu_vector_set(&warp->order.all, warp->agent, warp->clock);
}

void emu_release(emu_warp *warp, emu_order *into)
{
  emu_order_join(into, &warp->order);
  emu_tick(warp);
}

void emu_acquire(emu_warp *warp, const emu_order *from) { emu_order_join(&warp->order, from); }

void emu_lanes_met(emu_warp *warp)
{
  warp->synced = warp->clock;
  emu_tick(warp);
}

/* ---- Warps ----------------------------------------------------------------------------------- */
int emu_gather(emu_thread *self, const char *name)
{
  emu_warp *warp = self->warp;
  if (warp->arrived > 0 && warp->collective != name) {
    emu_hazard_here(EMU_MISUSE, 0,
                    "lanes of one warp meet at different primitives: %s, others at %s", name,
                    warp->collective);
  }
  warp->collective = name;
  if (++warp->arrived == warp->live) return 1;
  emu_wait(&warp->waiting, name, 0, 0);
  return 0;
}

void emu_scatter(emu_thread *self)
{
  self->warp->arrived = 0;
  emu_wake(self->cta->m, &self->warp->waiting);
}

void emu_lane_left(emu_warp *warp)
{
  if (warp->arrived == 0 || warp->arrived < warp->live) return;
  if (strcmp(warp->collective, "warp_sync") != 0) {
    emu_hazard_here(EMU_MISUSE, 0, "a lane ended while the others of its warp meet at %s",
                    warp->collective);
  }
  warp->arrived = 0;
  emu_wake(warp->cta->m, &warp->waiting);
}

void emu_warp_sync(emu_site *site)
{
  emu_thread *self = emu_enter(site);
  if (!emu_gather(self, "warp_sync")) return;
  emu_lanes_met(self->warp);
  emu_scatter(self);
}

u32 emu_warp_uniform(emu_site *site, u32 x)
{
  emu_thread *self = emu_enter(site);
  emu_warp *warp = self->warp;
  warp->argument[self->index % 32][0] = x;
  if (emu_gather(self, "warp_uniform")) {
    warp->result = warp->argument[0][0];
    emu_scatter(self);
  }
  return warp->result;
}

/* Of the lanes that have not ended: who votes, and who voted for it. */
static u32 votes(const emu_thread *self, u32 *voters)
{
  u32 first = self->index / 32 * 32, ayes = 0;
  *voters = 0;
  for (u32 lane = 0; lane < 32 && first + lane < self->cta->threads; ++lane) {
    if (self->cta->thread[first + lane].state == EMU_DEAD) continue;
    *voters |= 1u << lane;
    if (self->warp->argument[lane][0] != 0) ayes |= 1u << lane;
  }
  return ayes;
}

i32 emu_warp_all(emu_site *site, i32 x)
{
  emu_thread *self = emu_enter(site);
  emu_warp *warp = self->warp;
  u32 voters;
  warp->argument[self->index % 32][0] = x != 0;
  if (emu_gather(self, "warp_all")) {
    warp->result = votes(self, &voters) == voters;
    emu_scatter(self);
  }
  return (i32)warp->result;
}

u32 emu_warp_ballot(emu_site *site, i32 x)
{
  emu_thread *self = emu_enter(site);
  emu_warp *warp = self->warp;
  u32 voters;
  warp->argument[self->index % 32][0] = x != 0;
  if (emu_gather(self, "warp_ballot")) {
    warp->result = votes(self, &voters);
    emu_scatter(self);
  }
  return warp->result;
}

/* ---- Blocks and clusters --------------------------------------------------------------------- */
static void block_met(emu_cta *cta)
{
  cta->arrived = 0;
  emu_order_copy(&cta->done, &cta->open);
  for (u32 w = 0; w < cta->warps; ++w) {
    emu_acquire(&cta->warp[w], &cta->done);
    emu_lanes_met(&cta->warp[w]);
  }
  emu_wake(cta->m, &cta->waiting);
}

void emu_block_sync(emu_site *site)
{
  emu_thread *self = emu_enter(site);
  emu_cta *cta = self->cta;
  if (cta->delayed) emu_flush(cta);
  emu_release(self->warp, &cta->open);
  if (++cta->arrived == cta->live)
    block_met(cta);
  else
    emu_wait(&cta->waiting, "block_sync", 0, 0);
}

static void cluster_met(emu_cluster *cluster)
{
  emu_machine *m = NULL;
  cluster->arrived = 0;
  emu_order_copy(&cluster->done, &cluster->open);
  for (u32 i = 0; i < cluster->count; ++i) {
    emu_cta *cta = cluster->cta[i];
    m = cta->m;
    for (u32 w = 0; w < cta->warps; ++w) {
      emu_acquire(&cta->warp[w], &cluster->done);
      emu_lanes_met(&cta->warp[w]);
    }
  }
  emu_wake(m, &cluster->waiting);
}

void emu_cluster_meet(emu_site *site)
{
  emu_thread *self = emu_enter(site);
  emu_cluster *cluster = self->cta->cluster;
  if (self->warp->has_fenced) emu_order_join(&cluster->open, &self->warp->fenced);
  if (++cluster->arrived == cluster->live)
    cluster_met(cluster);
  else
    emu_wait(&cluster->waiting, "cluster_meet", 0, 0);
}

/* A thread has ended: those that wait for all may have been waiting for it alone. */
void emu_block_left(emu_cta *cta)
{
  emu_cluster *cluster = cta->cluster;
  if (cta->arrived > 0 && cta->arrived == cta->live) block_met(cta);
  if (cluster->arrived > 0 && cluster->arrived == cluster->live) cluster_met(cluster);
}
