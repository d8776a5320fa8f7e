/* Shared memory: plain accesses, 8x8 matrices, windows of a cluster. */
#include "prims.h"
#include "state.h"

#include <string.h>

#define WINDOW_SHIFT 24 /* cluster addresses carry 1 + the block's rank above this bit */

emu_cta *emu_cta_of(emu_cta *cta, u32 at, u32 *offset)
{
  u32 rank = at >> WINDOW_SHIFT;
  *offset = (at & ((1u << WINDOW_SHIFT) - 1)) - EMU_SMEM_BASE;
  if (rank == 0) return cta;
  if (rank > cta->cluster->count) return NULL;
  return cta->cluster->cta[rank - 1];
}

/* The bytes, after checks; NULL after a report. */
static unsigned char *place(emu_thread *self, u32 at, u32 bytes, emu_cta **owner, u32 *offset)
{
  emu_cta *cta = emu_cta_of(self->cta, at, offset);
  if (!cta || *offset > cta->smem_bytes || bytes > cta->smem_bytes - *offset) {
    emu_hazard_here(EMU_OUT_OF_BOUNDS, at, "%u bytes outside the block's %u bytes of shared memory",
                    bytes, self->cta->smem_bytes);
    return NULL;
  }
  if (*offset % bytes) {
    emu_hazard_here(EMU_MISUSE, at, "the address is not a multiple of %u", bytes);
    return NULL;
  }
  if (cta->live == 0)
    emu_hazard_here(EMU_MISUSE, at, "the block that owns this shared memory has ended");
  if (cta->slot->mbar_at[*offset / 8])
    emu_hazard_here(EMU_BARRIER, at, "a plain access to an mbarrier");
  *owner = cta;
  return cta->slot->smem + *offset;
}

static void wrote(emu_thread *thread)
{
  const emu_warp *warp = thread->warp;
  if (thread->unfenced <= warp->synced) thread->unfenced = warp->clock;
}

/* `bytes` may carry EMU_RELAXED: the access does not race, and orders nothing. */
static emu_access scalar(emu_thread *self, u32 bytes)
{
  emu_access access = emu_generic(self, 0);
  if (bytes & EMU_RELAXED) {
    access.order = NULL;
    access.clock = 0;
  }
  return access;
}

u64 emu_smem_load(emu_site *site, u32 at, u32 bytes)
{
  emu_thread *self = emu_enter(site);
  emu_access access = scalar(self, bytes);
  bytes &= ~EMU_RELAXED;
  emu_cta *cta;
  u32 offset;
  u64 value = 0;
  const unsigned char *p = place(self, at, bytes, &cta, &offset);
  if (!p) return 0;
  emu_smem_read(cta, offset, bytes, &access);
  memcpy(&value, p, bytes);
  return value;
}

void emu_smem_store(emu_site *site, u32 at, u64 x, u32 bytes)
{
  emu_thread *self = emu_enter(site);
  emu_access access = scalar(self, bytes);
  bytes &= ~EMU_RELAXED;
  emu_cta *cta;
  u32 offset;
  unsigned char *p = place(self, at, bytes, &cta, &offset);
  if (!p) return;
  emu_smem_write(cta, offset, bytes, &access);
  wrote(self);
  memcpy(p, &x, bytes);
}

void emu_smem_load_x4(emu_site *site, u32 at, float *x)
{
  emu_thread *self = emu_enter(site);
  emu_access access = emu_generic(self, 0);
  emu_cta *cta;
  u32 offset;
  const unsigned char *p = place(self, at, 16, &cta, &offset);
  memset(x, 0, 16);
  if (!p) return;
  emu_smem_read(cta, offset, 16, &access);
  memcpy(x, p, 16);
}

u32 emu_smem_of_block(emu_site *site, u32 at, u32 block)
{
  emu_thread *self = emu_enter(site);
  if (block >= self->cta->cluster->count) {
    emu_hazard_here(EMU_OUT_OF_BOUNDS, at, "block %u of a cluster of %u", block,
                    self->cta->cluster->count);
    return at;
  }
  return at | (block + 1) << WINDOW_SHIFT;
}

/* ---- Matrices: one row of 16 bytes per lane's address ---------------------------------------- */
static void store_rows(emu_thread *self)
{
  u32(*lane)[5] = self->warp->argument;
  emu_access access = emu_generic(self, 0);
  for (u32 i = 0; i < 32; ++i) { /* matrix i / 8, row i % 8 */
    emu_cta *cta;
    u32 offset, row[4];
    unsigned char *p = place(self, lane[i][0], 16, &cta, &offset);
    if (!p) continue;
    for (u32 pair = 0; pair < 4; ++pair) row[pair] = lane[i % 8 * 4 + pair][1 + i / 8];
    emu_smem_write(cta, offset, 16, &access);
    memcpy(p, row, 16);
    wrote(&self->cta->thread[self->index / 32 * 32 + i]);
  }
}

static void load_rows(emu_thread *self)
{
  u32(*lane)[5] = self->warp->argument;
  u32 at[32];
  emu_access access = emu_generic(self, 0);
  for (u32 i = 0; i < 32; ++i) at[i] = lane[i][0];
  for (u32 i = 0; i < 32; ++i) {
    emu_cta *cta;
    u32 offset, row[4] = {0, 0, 0, 0};
    const unsigned char *p = place(self, at[i], 16, &cta, &offset);
    if (p) {
      emu_smem_read(cta, offset, 16, &access);
      memcpy(row, p, 16);
    }
    for (u32 pair = 0; pair < 4; ++pair) lane[i % 8 * 4 + pair][1 + i / 8] = row[pair];
  }
}

static int whole_warp(emu_thread *self)
{
  if (self->warp->live == 32) return 1;
  emu_hazard_here(EMU_MISUSE, 0, "only %u lanes of the warp are left", self->warp->live);
  return 0;
}

void emu_store_matrix(emu_site *site, u32 at, u32 r0, u32 r1, u32 r2, u32 r3)
{
  emu_thread *self = emu_enter(site);
  u32 *mine = self->warp->argument[self->index % 32];
  mine[0] = at;
  mine[1] = r0;
  mine[2] = r1;
  mine[3] = r2;
  mine[4] = r3;
  if (!emu_gather(self, "smem_store_matrix_x4")) return;
  if (whole_warp(self)) store_rows(self);
  emu_scatter(self);
}

void emu_load_matrix(emu_site *site, u32 at, u32 *r)
{
  emu_thread *self = emu_enter(site);
  u32 *mine = self->warp->argument[self->index % 32];
  mine[0] = at;
  if (emu_gather(self, "smem_load_matrix_x4")) {
    if (whole_warp(self)) load_rows(self);
    emu_scatter(self);
  }
  memcpy(r, mine + 1, 16);
}
