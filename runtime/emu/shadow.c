/* Shadow memory: for each 16 bytes, the last writer and two readers since, by agent and clock.
 *
 * An access is in order if its author knows (vector clock) the writer's clock, and a write also the
 * readers'. An asynchronous write marks its cells when it is issued, so a reader that does not wait
 * is found in every schedule, also when the bytes happen to have landed. Given up: a third reader
 * that is not ordered with the other two pushes one of them out; lanes of one warp are one
 * agent. */
#include "state.h"

#include <stdlib.h>
#include <string.h>

static int is_async(u32 agent, const emu_machine *m)
{
  return agent >= m->block_groups * EMU_GROUP || agent % EMU_GROUP >= EMU_AGENT_ASYNC;
}

static int is_bulk_write(u32 agent, const emu_machine *m)
{
  u32 local = agent % EMU_GROUP;
  return agent < m->block_groups * EMU_GROUP && local >= EMU_AGENT_BULK_WRITE &&
         local < EMU_AGENT_MBAR;
}

static void found(const emu_access *a, emu_hazard kind, u64 address, const char *what, u32 other,
                  u16 other_site)
{
  char name[128], place[128];
  emu_agent_name(a->m, other, name, sizeof name);
  emu_site_text(other_site, place, sizeof place);
  if (a->name) {
    emu_hazard_op(a->m, kind, a->name, address, "%s by %s at %s", what, name, place);
  } else {
    emu_hazard_at(a->m, kind, a->cta, a->thread, a->where, address, "%s by %s at %s", what, name,
                  place);
  }
}

static void missing_chain(const emu_cell *cell, u64 address, const emu_access *a)
{
  if (!a->global) {
    found(a, EMU_UNORDERED_READ, address,
          is_async(cell->writer, a->m) ? "read before the barrier phase that completes the write"
                                       : "read without an order after the write",
          cell->writer, cell->site);
  } else if (is_bulk_write(cell->writer, a->m) && a->order &&
             emu_vector_get(&a->order->all, cell->issuer) >= cell->issued) {
    found(a, EMU_EARLY_SIGNAL, address,
          "read after a signal that was released before the bulk group of the data was complete; "
          "written",
          cell->writer, cell->site);
  } else {
    found(a, EMU_NO_ACQUIRE, address, "read without a release/acquire chain from the write",
          cell->writer, cell->site);
  }
}

void emu_cell_read(emu_cell *cell, u16 bytes, u64 address, const emu_access *a)
{
  if ((cell->defined & bytes) != bytes) {
    if (a->name) {
      emu_hazard_op(a->m, EMU_UNINITIALISED, a->name, address,
                    "reads memory that was never written");
    } else {
      emu_hazard_at(a->m, EMU_UNINITIALISED, a->cta, a->thread, a->where, address,
                    "reads memory that was never written");
    }
    cell->defined |= bytes;
  } else if (cell->wrote && (cell->bytes & bytes) && a->order) {
    if (emu_vector_get(&a->order->all, cell->writer) < cell->wrote) {
      missing_chain(cell, address, a);
    } else if (a->proxy && (a->global || !is_async(cell->writer, a->m)) &&
               emu_vector_get(a->proxy, cell->writer) < cell->wrote) {
      found(a, EMU_NO_PROXY_FENCE, address,
            "async-proxy read without a proxy fence after the write", cell->writer, cell->site);
    }
  }
  if (!a->clock) return;
  u32 slot = 0;
  for (; slot < 2; ++slot) {
    u32 known = cell->reader[slot].clock;
    if (known == 0) break;
    if ((cell->reader[slot].bytes & ~bytes) != 0)
      continue; /* of bytes that this read does not stand for */
    if (cell->reader[slot].agent == a->agent) break;
    if (a->order && emu_vector_get(&a->order->all, cell->reader[slot].agent) >= known) break;
  }
  if (slot == 2) slot = a->clock & 1;
  cell->reader[slot].clock = a->clock;
  cell->reader[slot].agent = (u16)a->agent;
  cell->reader[slot].site = a->site;
  cell->reader[slot].bytes = bytes;
}

void emu_cell_write(emu_cell *cell, u16 bytes, u64 address, const emu_access *a)
{
  if (a->order) {
    for (int i = 0; i < 2; ++i) {
      u32 agent = cell->reader[i].agent;
      if (cell->reader[i].clock == 0 || !(cell->reader[i].bytes & bytes)) continue;
      if (agent == a->agent && !is_async(agent, a->m)) continue;
      if (emu_vector_get(&a->order->all, agent) < cell->reader[i].clock) {
        found(a, EMU_OVERWRITTEN, address,
              is_async(agent, a->m) ? "overwritten while an asynchronous read may need it, issued"
                                    : "overwritten without an order after the read",
              agent, cell->reader[i].site);
      } else if (a->proxy && !a->global && !is_async(agent, a->m) &&
                 emu_vector_get(a->proxy, agent) < cell->reader[i].clock) {
        found(a, EMU_NO_PROXY_FENCE, address,
              "async-proxy write without a proxy fence after the read", agent,
              cell->reader[i].site);
      }
    }
    if (cell->wrote && (cell->bytes & bytes) && cell->writer != a->agent &&
        emu_vector_get(&a->order->all, cell->writer) < cell->wrote) {
      found(a, EMU_OVERWRITTEN, address, "overwritten without an order after the write",
            cell->writer, cell->site);
    }
  }
  cell->wrote = a->clock;
  cell->writer = (u16)a->agent;
  cell->bytes = bytes;
  cell->site = a->site;
  cell->defined |= bytes;
  cell->issued = a->issued;
  cell->issuer = a->issuer;
  for (int i = 0; i < 2; ++i) {
    if (!(cell->reader[i].bytes & ~bytes)) cell->reader[i].clock = 0;
  }
}

/* ---- Ranges ---------------------------------------------------------------------------------- */
/* The bytes of a cell that [at, end) covers. */
static u16 mask_of(size_t cell, size_t at, size_t end)
{
  size_t low = cell > at ? cell : at, high = cell + EMU_CELL < end ? cell + EMU_CELL : end;
  return (u16)(((1u << (high - low)) - 1) << (low - cell));
}

static void smem_range(emu_cta *cta, u32 offset, u32 bytes, emu_access *access, int write)
{
  if (cta->m->config.no_hazards) return;
  for (u32 at = offset / EMU_CELL * EMU_CELL; at < offset + bytes; at += EMU_CELL) {
    emu_cell *cell = &cta->slot->cells[at / EMU_CELL];
    u16 mask = mask_of(at, offset, offset + bytes);
    if (write)
      emu_cell_write(cell, mask, EMU_SMEM_BASE + at, access);
    else
      emu_cell_read(cell, mask, EMU_SMEM_BASE + at, access);
  }
}

void emu_smem_read(emu_cta *cta, u32 offset, u32 bytes, emu_access *access)
{
  smem_range(cta, offset, bytes, access, 0);
}

void emu_smem_write(emu_cta *cta, u32 offset, u32 bytes, emu_access *access)
{
  smem_range(cta, offset, bytes, access, 1);
}

static emu_cell *cell_of(emu_memory *memory, size_t offset)
{
  emu_cell **page = &memory->page[offset / 4096];
  if (!*page) *page = emu_need(calloc(4096 / EMU_CELL, sizeof(emu_cell)));
  return *page + offset % 4096 / EMU_CELL;
}

static void memory_range(emu_memory *memory, size_t offset, size_t bytes, u64 address,
                         emu_access *access, int write)
{
  if (memory->wrapped || memory->m->config.no_hazards) return;
  for (size_t at = offset / EMU_CELL * EMU_CELL; at < offset + bytes; at += EMU_CELL) {
    emu_cell *cell = cell_of(memory, at);
    u16 mask = mask_of(at, offset, offset + bytes);
    if (write)
      emu_cell_write(cell, mask, address + (at - offset), access);
    else
      emu_cell_read(cell, mask, address + (at - offset), access);
  }
}

void emu_memory_read(emu_memory *memory, size_t offset, size_t bytes, u64 address,
                     emu_access *access)
{
  memory_range(memory, offset, bytes, address, access, 0);
}

void emu_memory_write(emu_memory *memory, size_t offset, size_t bytes, u64 address,
                      emu_access *access)
{
  memory_range(memory, offset, bytes, address, access, 1);
}

void emu_memory_define(emu_memory *memory, size_t offset, size_t bytes)
{
  if (memory->wrapped || memory->m->config.no_hazards) return;
  for (size_t at = offset / EMU_CELL * EMU_CELL; at < offset + bytes; at += EMU_CELL) {
    cell_of(memory, at)->defined |= mask_of(at, offset, offset + bytes);
  }
}

emu_access emu_generic(emu_thread *thread, int global)
{
  emu_warp *warp = thread->warp;
  emu_access access = {.m = thread->cta->m,
                       .order = &warp->order,
                       .agent = warp->agent,
                       .clock = warp->clock,
                       .site = emu_site_id(thread->site),
                       .cta = thread->cta,
                       .thread = thread,
                       .where = thread->site,
                       .global = global};
  return access;
}
