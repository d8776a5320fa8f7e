/* TMA loads: checked and marked when issued, landing late, each destination of a multicast by
 * itself. */
#include "prims.h"
#include "tensor.h"

#include <string.h>

typedef struct {
  emu_object object;
  emu_cta *cta; /* destination */
  emu_mbar *bar;
  emu_thread *issuer;
  emu_site *site;
  emu_tensor tensor;
  i32 at[5];
  u32 offset; /* in the destination's shared memory */
  u32 phase;  /* of bar when issued */
  u32 landed; /* lines */
} emu_tma_load;

static void nothing(void *object) { (void)object; }

/* The swizzle works on addresses of the window. */
static unsigned char *smem_chunk(emu_cta *cta, u32 offset, int swizzle)
{
  return cta->slot->smem + (emu_swizzle(EMU_SMEM_BASE + offset, swizzle) - EMU_SMEM_BASE);
}

static void land_line(const emu_tma_load *load, u32 number)
{
  const emu_tensor *t = &load->tensor;
  emu_cta *cta = load->cta;
  emu_line line = emu_box_line(t, load->at, number);
  u32 pitch = emu_box_pitch(t);
  unsigned char bytes[1024] = {0};
  emu_memory *memory;
  size_t offset;
  if (line.bytes > 0) {
    const unsigned char *from =
        emu_resolve(cta->m, load->issuer->cta->device, line.at, line.bytes, &memory, &offset);
    if (from) memcpy(bytes + line.skip, from, line.bytes);
  }
  for (u32 x = 0; x < pitch; x += 16) {
    memcpy(smem_chunk(cta, load->offset + number * pitch + x, t->swizzle), bytes + x, 16);
  }
}

/* Lands in one piece or two, each counted by the barrier when it is there. */
static void land(void *arg)
{
  emu_tma_load *load = arg;
  emu_cta *cta = load->cta;
  emu_machine *m = cta->m;
  u32 lines = emu_box_lines(&load->tensor), pitch = emu_box_pitch(&load->tensor),
      first = load->landed;
  u32 end = first == 0 && lines > 1 && emu_below(m, 2) ? lines / 2 : lines;
  for (u32 i = first; i < end; ++i) land_line(load, i);
  load->landed = end;
  if (end < lines)
    emu_at(m, emu_late(m), land, load);
  else
    --load->bar->loads;
  emu_mbar_landed(cta, load->bar, (end - first) * pitch, load->phase, load->site, load->issuer);
  if (end < lines) return;
  --cta->loads;
  emu_object_free(load);
  if (cta->live == 0) emu_cta_quiet(cta);
}

/* Marks the source as read and the destination as written, by the barrier's phase to come. */
static void check(emu_thread *self, const emu_tma_load *load)
{
  const emu_tensor *t = &load->tensor;
  emu_cta *cta = load->cta;
  emu_access from = emu_generic(self, 1), to;
  u32 lines = emu_box_lines(t), pitch = emu_box_pitch(t);
  from.agent = load->bar->agent;
  from.clock = load->bar->base + load->phase + 1;
  from.proxy = &self->warp->order.global;
  to = from;
  to.global = 0;
  to.proxy = &self->warp->order.smem;
  to.issuer = (u16)self->warp->agent;
  to.issued = self->warp->clock;
  for (u32 i = 0; i < lines; ++i) {
    emu_line line = emu_box_line(t, load->at, i);
    emu_memory *memory;
    size_t offset;
    if (line.bytes > 0) {
      if (!emu_resolve(cta->m, self->cta->device, line.at, line.bytes, &memory, &offset)) {
        emu_hazard_here(EMU_OUT_OF_BOUNDS, line.at,
                        "the tensor map reaches %u bytes where this device has no memory",
                        line.bytes);
        return;
      }
      emu_memory_read(memory, offset, line.bytes, line.at, &from);
    }
  }
  emu_smem_write(cta, load->offset, lines * pitch, &to);
}

static const char *refuse(const emu_cta *cta, const emu_tensor *t, u32 offset)
{
  u32 bytes = emu_box_lines(t) * emu_box_pitch(t);
  if (offset > cta->smem_bytes || bytes > cta->smem_bytes - offset)
    return "the box leaves shared memory";
  if ((EMU_SMEM_BASE + offset) % (t->swizzle ? 128u : 16u))
    return "the shared address is misaligned";
  return NULL;
}

int emu_tma_map(const void *map, u32 rank, emu_tensor *tensor)
{
  if (!map || !emu_tensor_decode(map, tensor)) {
    emu_hazard_here(EMU_MISUSE, (u64)(size_t)map, "this is no tensor map");
    return 0;
  }
  if (tensor->rank != (int)rank) {
    emu_hazard_here(EMU_MISUSE, tensor->at, "a tensor map of rank %d where the instruction has %u",
                    tensor->rank, rank);
    return 0;
  }
  return 1;
}

static void issue(emu_thread *self, emu_cta *cta, u32 offset, u32 bar, const emu_tensor *t,
                  u32 rank, const i32 *at)
{
  emu_machine *m = self->cta->m;
  u32 bar_offset;
  emu_mbar *found;
  const char *reason = refuse(cta, t, offset);
  emu_cta_of(self->cta, bar, &bar_offset);
  found = bar_offset < cta->smem_bytes && bar_offset % 8 == 0 && cta->slot->mbar_at[bar_offset / 8]
              ? &cta->mbar[cta->slot->mbar_at[bar_offset / 8] - 1]
              : NULL;
  if (!found) {
    emu_hazard_here(EMU_BARRIER, bar, "block %u has no mbarrier at this address", cta->block);
    return;
  }
  if (reason) {
    emu_hazard_here(EMU_OUT_OF_BOUNDS, EMU_SMEM_BASE + offset, "%s", reason);
    return;
  }
  if (cta->live == 0)
    emu_hazard_here(EMU_MISUSE, bar, "block %u of the cluster has ended", cta->block);
  emu_tma_load *load = emu_object_new(m, sizeof *load, nothing);
  load->cta = cta;
  load->bar = found;
  load->issuer = self;
  load->site = self->site;
  load->tensor = *t;
  load->offset = offset;
  load->phase = found->phase;
  memcpy(load->at, at, rank * sizeof(i32));
  if (!m->config.no_hazards) {
    emu_access init = emu_generic(self, 0);
    init.proxy = &self->warp->order.smem;
    init.clock = 0;
    emu_smem_read(cta, bar_offset, 8, &init);
    check(self, load);
  }
  ++found->loads;
  ++cta->loads;
  emu_at(m, emu_late(m), land, load);
}

void emu_tma_issue(emu_site *site, u32 dst, const void *map, u32 bar, u32 rank, const i32 *at,
                   u32 mask)
{
  emu_thread *self = emu_enter(site);
  emu_cluster *cluster = self->cta->cluster;
  emu_tensor tensor;
  u32 offset;
  if (!emu_tma_map(map, rank, &tensor)) return;
  emu_cta_of(self->cta, dst, &offset);
  if (mask == 0) {
    issue(self, self->cta, offset, bar, &tensor, rank, at);
    return;
  }
  if (mask >> cluster->count) {
    emu_hazard_here(EMU_MISUSE, dst, "the multicast mask %#x names blocks that the cluster has not",
                    mask);
    mask &= (1u << cluster->count) - 1;
  }
  for (u32 i = 0; i < cluster->count; ++i) {
    if (mask >> i & 1) issue(self, cluster->cta[i], offset, bar, &tensor, rank, at);
  }
}
