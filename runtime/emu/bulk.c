/* TMA stores and their groups: two late events each, the source read and the destination
 * written. */
#include "prims.h"
#include "tensor.h"

#include <stdlib.h>
#include <string.h>

#define GROUPS 64u

struct emu_bulk {
  u32 user;      /* index of its two agents in the block */
  u32 open;      /* stores of the group that is not committed */
  u32 committed; /* groups */
  u32 base_read, base_write;
  u32 reads[GROUPS], writes[GROUPS]; /* stores of a group that still read / write; ring */
  emu_thread *waiting;
};

typedef struct {
  emu_object object;
  emu_thread *thread;
  emu_cta *cta; /* stays until the destination is written */
  u32 group;
  emu_tensor tensor;
  i32 at[5];
  u32 offset;
  unsigned char *data;
} emu_tma_store;

static void destroy(void *object) { free(((emu_tma_store *)object)->data); }

static void write_destination(void *arg)
{
  emu_tma_store *store = arg;
  emu_cta *cta = store->cta;
  emu_bulk *bulk = store->thread->bulk;
  const emu_tensor *t = &store->tensor;
  u32 lines = emu_box_lines(t), pitch = emu_box_pitch(t);
  for (u32 i = 0; i < lines; ++i) {
    emu_line line = emu_box_line(t, store->at, i);
    emu_memory *memory;
    size_t offset;
    unsigned char *to =
        line.bytes ? emu_resolve(cta->m, cta->device, line.at, line.bytes, &memory, &offset) : NULL;
    if (to) memcpy(to, store->data + i * pitch + line.skip, line.bytes);
  }
  --bulk->writes[store->group % GROUPS];
  emu_wake(cta->m, &bulk->waiting);
  emu_object_free(store);
  --cta->reads;
  if (cta->live == 0) emu_cta_quiet(cta);
}

static void read_source(void *arg)
{
  emu_tma_store *store = arg;
  const emu_tensor *t = &store->tensor;
  emu_cta *cta = store->cta;
  emu_bulk *bulk = store->thread->bulk;
  u32 bytes = emu_box_lines(t) * emu_box_pitch(t);
  store->data = emu_need(malloc(bytes));
  for (u32 x = 0; x < bytes; x += 16) {
    u32 at = emu_swizzle(EMU_SMEM_BASE + store->offset + x, t->swizzle) - EMU_SMEM_BASE;
    memcpy(store->data + x, cta->slot->smem + at, 16);
  }
  --bulk->reads[store->group % GROUPS];
  emu_wake(cta->m, &bulk->waiting);
  emu_at(cta->m, emu_late(cta->m), write_destination, store);
}

/* ---- Issue ----------------------------------------------------------------------------------- */
static u32 agent_of(const emu_thread *self, u32 kind)
{
  return self->cta->slot->group * EMU_GROUP + kind + self->bulk->user;
}

static emu_bulk *bulk_of(emu_thread *self)
{
  emu_cta *cta = self->cta;
  emu_bulk *bulk = self->bulk;
  if (bulk) return bulk;
  bulk = self->bulk = emu_need(calloc(1, sizeof *bulk));
  bulk->user = cta->bulk_users < EMU_BULK_USERS - 1 ? cta->bulk_users++ : EMU_BULK_USERS - 1;
  bulk->base_read = cta->slot->now[EMU_AGENT_BULK_READ + bulk->user];
  bulk->base_write = cta->slot->now[EMU_AGENT_BULK_WRITE + bulk->user];
  return bulk;
}

/* Marks the source as being read and the destination as written, by the group to come. */
static void check(emu_thread *self, const emu_tma_store *store)
{
  emu_bulk *bulk = self->bulk;
  const emu_tensor *t = &store->tensor;
  emu_access from = emu_generic(self, 0), to;
  u32 lines = emu_box_lines(t), pitch = emu_box_pitch(t);
  from.proxy = &self->warp->order.smem;
  from.agent = agent_of(self, EMU_AGENT_BULK_READ);
  from.clock = bulk->base_read + store->group + 1;
  to = from;
  to.global = 1;
  to.proxy = &self->warp->order.global;
  to.agent = agent_of(self, EMU_AGENT_BULK_WRITE);
  to.clock = bulk->base_write + store->group + 1;
  to.issuer = (u16)self->warp->agent;
  to.issued = self->warp->clock;
  emu_smem_read(self->cta, store->offset, lines * pitch, &from);
  for (u32 i = 0; i < lines; ++i) {
    emu_line line = emu_box_line(t, store->at, i);
    emu_memory *memory;
    size_t offset;
    if (line.bytes == 0) continue;
    if (!emu_resolve(self->cta->m, self->cta->device, line.at, line.bytes, &memory, &offset)) {
      emu_hazard_here(EMU_OUT_OF_BOUNDS, line.at,
                      "the tensor map reaches %u bytes where this device has no memory",
                      line.bytes);
      return;
    }
    emu_memory_write(memory, offset, line.bytes, line.at, &to);
  }
}

void emu_tma_store_issue(emu_site *site, const void *map, u32 src, u32 rank, const i32 *at)
{
  emu_thread *self = emu_enter(site);
  emu_machine *m = self->cta->m;
  emu_bulk *bulk = bulk_of(self);
  emu_tensor tensor;
  u32 offset = src - EMU_SMEM_BASE;
  if (!emu_tma_map(map, rank, &tensor)) return;
  u32 bytes = emu_box_lines(&tensor) * emu_box_pitch(&tensor);
  if (offset > self->cta->smem_bytes || bytes > self->cta->smem_bytes - offset || src % 128) {
    emu_hazard_here(EMU_OUT_OF_BOUNDS, src,
                    "the box leaves shared memory, or is not 128-byte aligned");
    return;
  }
  emu_tma_store *store = emu_object_new(m, sizeof *store, destroy);
  store->thread = self;
  store->cta = self->cta;
  store->group = bulk->committed;
  store->tensor = tensor;
  store->offset = offset;
  memcpy(store->at, at, rank * sizeof(i32));
  if (!m->config.no_hazards) check(self, store);
  ++bulk->open;
  ++bulk->reads[store->group % GROUPS];
  ++bulk->writes[store->group % GROUPS];
  ++self->cta->reads;
  emu_at(m, emu_late(m), read_source, store);
}

void emu_tma_store_commit(emu_site *site)
{
  emu_thread *self = emu_enter(site);
  emu_bulk *bulk = bulk_of(self);
  u32 *now = self->cta->slot->now;
  ++bulk->committed;
  bulk->open = 0;
  if (now[EMU_AGENT_BULK_READ + bulk->user] < bulk->base_read + bulk->committed) {
    now[EMU_AGENT_BULK_READ + bulk->user] = bulk->base_read + bulk->committed;
  }
  if (now[EMU_AGENT_BULK_WRITE + bulk->user] < bulk->base_write + bulk->committed) {
    now[EMU_AGENT_BULK_WRITE + bulk->user] = bulk->base_write + bulk->committed;
  }
  /* the ring holds so many groups; the next one's place must be free */
  while (bulk->writes[bulk->committed % GROUPS] > 0)
    emu_wait(&bulk->waiting, "a place for a bulk group", 0, 0);
}

/* ---- Waiting --------------------------------------------------------------------------------- */
static int over(const u32 *left, u32 end)
{
  for (u32 g = end > GROUPS ? end - GROUPS : 0; g < end; ++g) {
    if (left[g % GROUPS] > 0) return 0;
  }
  return 1;
}

/* Groups that must be over, given how many may be pending. */
static u32 wait_groups(emu_thread *self, u32 pending, int writes)
{
  emu_bulk *bulk = bulk_of(self);
  u32 end = bulk->committed > pending ? bulk->committed - pending : 0;
  const u32 *left = writes ? bulk->writes : bulk->reads;
  while (!over(left, end)) {
    emu_wait(&bulk->waiting, writes ? "tma_store_wait" : "tma_store_wait_read", end,
             bulk->committed);
  }
  emu_vector_raise(&self->warp->order.all, agent_of(self, EMU_AGENT_BULK_READ),
                   bulk->base_read + end);
  return end;
}

void emu_tma_store_wait_read(emu_site *site, u32 pending)
{
  wait_groups(emu_enter(site), pending, 0);
}

void emu_tma_store_wait(emu_site *site, u32 pending)
{
  emu_thread *self = emu_enter(site);
  u32 end = wait_groups(self, pending, 1);
  emu_vector_raise(&self->warp->order.all, agent_of(self, EMU_AGENT_BULK_WRITE),
                   self->bulk->base_write + end);
}

void emu_bulk_leave(emu_thread *self)
{
  emu_bulk *bulk = self->bulk;
  if (!bulk) return;
  if (bulk->open > 0)
    emu_hazard_here(EMU_MISUSE, 0, "the thread ended with %u bulk stores that it did not commit",
                    bulk->open);
  if (!over(bulk->reads, bulk->committed)) {
    emu_hazard_here(
        EMU_MISUSE, 0,
        "the thread ended while its bulk stores still read shared memory (tma_store_wait_read)");
  }
}

void emu_bulk_free(emu_bulk *bulk) { free(bulk); }
