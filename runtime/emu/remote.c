/* Asynchronous stores into the shared memory of another block of the cluster: marked when issued, landing
 * late and in any order, each counted by the barrier beside it. */
#include "prims.h"
#include "state.h"

#include <string.h>

#define BYTES 16u

typedef struct {
  emu_object object;
  emu_cta *cta; /* destination */
  emu_mbar *bar;
  emu_thread *issuer;
  emu_site *site;
  u32 offset; /* in the destination's shared memory */
  u32 phase;  /* of bar when issued */
  float x[4];
} emu_remote_store;

static void nothing(void *object) { (void)object; }

static void land(void *arg)
{
  emu_remote_store *store = arg;
  emu_cta *cta = store->cta;
  memcpy(cta->slot->smem + store->offset, store->x, BYTES);
  store->bar->far = 1;
  --store->bar->loads;
  emu_mbar_landed(cta, store->bar, BYTES, store->phase, store->site, store->issuer);
  --cta->loads;
  emu_object_free(store);
  if (cta->live == 0) emu_cta_quiet(cta);
}

/* Marks the destination as written by the barrier's phase to come. */
static void check(emu_thread *self, const emu_remote_store *store)
{
  emu_access to = emu_generic(self, 0);
  to.agent = store->bar->agent;
  to.clock = store->bar->base + store->phase + 1;
  to.issuer = (u16)self->warp->agent;
  to.issued = self->warp->clock;
  emu_smem_write(store->cta, store->offset, BYTES, &to);
}

static int poisoned(const float *x)
{
  const u32 poison = EMU_POISON;
  for (int i = 0; i < 4; ++i) {
    if (memcmp(&x[i], &poison, 4) == 0) return 1;
  }
  return 0;
}

void emu_smem_store_async(emu_site *site, u32 at, const float *x, u32 bar)
{
  emu_thread *self = emu_enter(site);
  emu_machine *m = self->cta->m;
  u32 offset, bar_offset;
  emu_cta *cta = emu_cta_of(self->cta, at, &offset);
  emu_mbar *found = emu_mbar_find(self->cta, bar);
  if (!cta || offset > cta->smem_bytes || BYTES > cta->smem_bytes - offset) {
    emu_hazard_here(EMU_OUT_OF_BOUNDS, at, "%u bytes outside the block's shared memory", BYTES);
    return;
  }
  if (offset % BYTES) {
    emu_hazard_here(EMU_MISUSE, at, "the address is not a multiple of %u", BYTES);
    return;
  }
  if (!found || emu_cta_of(self->cta, bar, &bar_offset) != cta) {
    emu_hazard_here(EMU_BARRIER, bar, "block %u has no mbarrier at this address", cta->block);
    return;
  }
  if (cta->live == 0)
    emu_hazard_here(EMU_MISUSE, at, "block %u of the cluster has ended", cta->block);
  if (poisoned(x)) emu_poisoned(site);
  emu_remote_store *store = emu_object_new(m, sizeof *store, nothing);
  store->cta = cta;
  store->bar = found;
  store->issuer = self;
  store->site = self->site;
  store->offset = offset;
  store->phase = found->phase;
  memcpy(store->x, x, BYTES);
  if (!m->config.no_hazards) {
    emu_access made = emu_generic(self, 0);
    made.clock = 0;
    emu_smem_read(cta, bar_offset, 8, &made);
    check(self, store);
  }
  ++found->loads;
  ++cta->loads;
  emu_at(m, emu_late(m), land, store);
}
