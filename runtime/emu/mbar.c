/* mbarriers: arrivals, bytes, phases. A phase completes when all arrivals have come and the bytes
 * that were announced and those that have landed are equal. */
#include "prims.h"
#include "state.h"

#define TX_MAX ((1 << 20) - 1)

emu_mbar *emu_mbar_find(emu_cta *cta, u32 at)
{
  u32 offset, index;
  cta = emu_cta_of(cta, at, &offset);
  if (!cta || offset % 8 || offset >= cta->smem_bytes) return NULL;
  index = cta->slot->mbar_at[offset / 8];
  return index ? &cta->mbar[index - 1] : NULL;
}

/* The barrier for a primitive of the running thread; checks that its making is known. */
static emu_mbar *find(emu_thread *self, u32 bar, emu_cta **owner)
{
  u32 offset;
  emu_mbar *found = emu_mbar_find(self->cta, bar);
  if (!found) {
    emu_hazard_here(EMU_BARRIER, bar, "there is no mbarrier at this address (mbar_init)");
    return NULL;
  }
  *owner = emu_cta_of(self->cta, bar, &offset);
  if ((*owner)->live == 0)
    emu_hazard_here(EMU_MISUSE, bar, "the block that owns this mbarrier has ended");
  if (!self->cta->m->config.no_hazards) {
    emu_access access = emu_generic(self, 0);
    access.clock = 0;
    emu_smem_read(*owner, offset, 8, &access);
  }
  return found;
}

void emu_mbar_init(emu_site *site, u32 bar, u32 arrivals)
{
  emu_thread *self = emu_enter(site);
  emu_cta *cta = self->cta;
  u32 offset = bar - EMU_SMEM_BASE;
  emu_mbar *made;
  if (offset % 8 || offset >= cta->smem_bytes || cta->smem_bytes - offset < 8) {
    emu_hazard_here(EMU_OUT_OF_BOUNDS, bar, "an mbarrier outside shared memory, or misaligned");
    return;
  }
  if (arrivals == 0 || arrivals > TX_MAX)
    emu_hazard_here(EMU_BARRIER, bar, "%u arrivals", arrivals);
  if (cta->slot->mbar_at[offset / 8]) {
    emu_hazard_here(EMU_BARRIER, bar, "there is an mbarrier at this address already");
    return;
  }
  if (cta->mbars == EMU_MBARS) {
    emu_hazard_here(EMU_MISUSE, bar, "the emulator holds %u mbarriers of a block", EMU_MBARS);
    return;
  }
  emu_access access = emu_generic(self, 0);
  emu_smem_write(cta, offset, 8, &access);
  made = &cta->mbar[cta->mbars++];
  cta->slot->mbar_at[offset / 8] = (u16)cta->mbars;
  made->at = bar;
  made->agent = cta->slot->group * EMU_GROUP + EMU_AGENT_MBAR + cta->mbars - 1;
  made->base = ++cta->slot->now[made->agent % EMU_GROUP]; /* above every phase of an earlier one */
  made->expected = made->pending = arrivals;
  emu_order_init(&made->open, cta->m->groups);
  emu_order_init(&made->done, cta->m->groups);
}

void emu_mbar_init_fence(emu_site *site)
{
  emu_warp *warp = emu_enter(site)->warp;
  emu_vector_copy(&warp->order.smem, &warp->order.all);
  warp->has_fenced = 1;
  emu_order_copy(&warp->fenced, &warp->order);
  emu_tick(warp);
}

static void complete_phase(emu_cta *cta, emu_mbar *bar)
{
  if (bar->pending != 0 || bar->tx != 0) return;
  ++bar->phase;
  cta->slot->now[bar->agent % EMU_GROUP] = bar->base + bar->phase;
  bar->pending = bar->expected;
  emu_order_copy(&bar->done, &bar->open);
  bar->done_far = bar->far;
  bar->far = 0;
  emu_wake(cta->m, &bar->waiting);
}

void emu_mbar_add(emu_site *site, u32 at, u32 count, u32 bytes)
{
  emu_thread *self = emu_enter(site);
  emu_cta *cta;
  emu_mbar *bar = find(self, at, &cta);
  if (!bar) return;
  if (self->cta->delayed) emu_flush(self->cta);
  emu_release(self->warp, &bar->open);
  bar->tx += bytes;
  if (bar->tx > TX_MAX)
    emu_hazard_here(EMU_BARRIER, at, "more than %d bytes are announced", TX_MAX);
  if (count > bar->pending) {
    emu_hazard_here(EMU_BARRIER, at, "%u arrivals where the phase has %u left of %u", count,
                    bar->pending, bar->expected);
    count = bar->pending;
  }
  bar->pending -= count;
  complete_phase(cta, bar);
}

void emu_mbar_arrive_cluster(emu_site *site, u32 at)
{
  emu_thread *self = emu_enter(site);
  emu_cta *cta;
  emu_mbar *bar = find(self, at, &cta);
  if (!bar) return;
  /* without a release at cluster scope: what the tensor cores and TMA have done, no plain
   * accesses */
  emu_vector_join_async(&bar->open.all, &self->warp->order.all, self->cta->m->block_groups);
  if (cta == self->cta) emu_release(self->warp, &bar->open);
  if (bar->pending == 0) {
    emu_hazard_here(EMU_BARRIER, at, "an arrival where the phase has none left of %u",
                    bar->expected);
    return;
  }
  --bar->pending;
  complete_phase(cta, bar);
}

void emu_mbar_arrive_cluster_release(emu_site *site, u32 at)
{
  emu_mbar *bar = emu_mbar_find(emu_self()->cta, at);
  if (bar) bar->far = 1;
  emu_mbar_add(site, at, 1, 0);
}

static void await(emu_thread *self, u32 at, u32 parity, int cluster)
{
  emu_cta *cta;
  emu_mbar *bar = find(self, at, &cta);
  if (!bar) return;
  if (cta != self->cta) emu_hazard_here(EMU_BARRIER, at, "a wait at another block's mbarrier");
  if (parity > 1) emu_hazard_here(EMU_BARRIER, at, "the parity %u", parity);
  while ((bar->phase & 1) == (parity & 1)) emu_wait(&bar->waiting, "mbar_wait", at, parity);
  if (bar->phase == 0) return;
  if (bar->done_far && !cluster)
    emu_hazard_here(EMU_BARRIER, at,
                    "mbar_wait for what another block has written or released: mbar_wait_cluster");
  if (emu_vector_get(&self->warp->order.all, bar->agent) >= bar->base + bar->phase) return;
  emu_acquire(self->warp, &bar->done);
  emu_vector_raise(&self->warp->order.all, bar->agent, bar->base + bar->phase);
}

void emu_mbar_wait(emu_site *site, u32 at, u32 parity) { await(emu_enter(site), at, parity, 0); }

void emu_mbar_wait_cluster(emu_site *site, u32 at, u32 parity)
{
  await(emu_enter(site), at, parity, 1);
}

void emu_mbar_landed(emu_cta *cta, emu_mbar *bar, u32 bytes, u32 phase, emu_site *site,
                     emu_thread *issuer)
{
  if (bar->phase != phase) {
    emu_hazard_at(
        cta->m, EMU_BARRIER, issuer->cta, issuer, site, bar->at,
        "%u bytes landed after the phase that they belong to was complete: too few were announced",
        bytes);
  }
  bar->tx -= bytes;
  if (bar->tx < -TX_MAX) {
    emu_hazard_at(cta->m, EMU_BARRIER, issuer->cta, issuer, site, bar->at,
                  "more than %d bytes landed that nobody announced", TX_MAX);
  }
  complete_phase(cta, bar);
}

/* Covers what this lane knows: not what other lanes wrote since the warp last met, until they fence
 * too. */
void emu_fence_async_smem(emu_site *site)
{
  emu_thread *self = emu_enter(site);
  emu_warp *warp = self->warp;
  emu_cta *cta = self->cta;
  u32 first = self->index / 32 * 32, covered = warp->clock;
  u32 before = emu_vector_get(&warp->order.smem, warp->agent);
  self->unfenced = 0;
  for (u32 t = first; t < first + 32 && t < cta->threads; ++t) {
    u32 since = cta->thread[t].unfenced;
    if (since > warp->synced && since <= covered) covered = since - 1;
  }
  emu_vector_copy(&warp->order.smem, &warp->order.all);
  emu_vector_set(&warp->order.smem, warp->agent, covered > before ? covered : before);
  emu_tick(warp);
}

void emu_fence_async_global(emu_site *site)
{
  emu_warp *warp = emu_enter(site)->warp;
  emu_vector_copy(&warp->order.global, &warp->order.all);
  emu_tick(warp);
}
