/* Physical memory and the address space. */
#include "state.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_ADDRESS 0x100000000000u /* far from what the host's allocator gives */
#define PAGE 4096u

static void enlist(emu_machine *m, emu_memory *memory)
{
  memory->m = m;
  memory->refs = 1;
  memory->next = m->memories;
  if (m->memories) m->memories->previous = memory;
  m->memories = memory;
}

emu_memory *emu_memory_create(emu_machine *m, int owner, size_t bytes)
{
  emu_memory *memory = emu_need(calloc(1, sizeof *memory));
  memory->owner = owner;
  memory->size = bytes;
  memory->bytes = malloc(bytes ? bytes : 1);
  if (!memory->bytes) {
    free(memory);
    return NULL;
  }
  memset(memory->bytes, 0xff, bytes); /* NaN in every element type */
  memory->page = emu_need(calloc(bytes / PAGE + 1, sizeof(emu_cell *)));
  enlist(m, memory);
  return memory;
}

emu_memory *emu_memory_wrap(emu_machine *m, void *bytes, size_t size)
{
  emu_memory *memory = emu_need(calloc(1, sizeof *memory));
  memory->owner = EMU_HOST;
  memory->size = size;
  memory->bytes = bytes;
  memory->wrapped = 1;
  enlist(m, memory);
  return memory;
}

void emu_memory_retain(emu_memory *memory) { ++memory->refs; }

void emu_memory_release(emu_memory *memory)
{
  if (!memory || --memory->refs > 0) return;
  if (memory->previous)
    memory->previous->next = memory->next;
  else
    memory->m->memories = memory->next;
  if (memory->next) memory->next->previous = memory->previous;
  if (memory->page) {
    for (size_t i = 0; i <= memory->size / PAGE; ++i) free(memory->page[i]);
    free(memory->page);
  }
  emu_words_free(memory);
  if (!memory->wrapped) free(memory->bytes);
  free(memory);
}

uint64_t emu_reserve(emu_machine *m, size_t bytes, size_t align)
{
  u64 at;
  if (m->next_address == 0) m->next_address = FIRST_ADDRESS;
  if (align < PAGE) align = PAGE;
  at = (m->next_address + align - 1) / align * align;
  /* a hole behind each range: an overrun meets nobody */
  m->next_address = at + (bytes + PAGE - 1) / PAGE * PAGE + PAGE;
  return at;
}

void emu_unreserve(emu_machine *m, uint64_t at, size_t bytes)
{
  (void)m; /* addresses are not used again: a stale one must not find newer memory */
  (void)at;
  (void)bytes;
}

/* Index of the first mapping that ends behind `at`. */
static u32 lower(const emu_machine *m, u64 at)
{
  u32 low = 0, high = m->mapping_count;
  while (low < high) {
    u32 middle = (low + high) / 2;
    if (m->mapping[middle].at + m->mapping[middle].bytes <= at)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

const char *emu_map(emu_machine *m, uint64_t at, size_t bytes, emu_memory *memory, size_t offset,
                    uint32_t devices)
{
  u32 i = lower(m, at);
  emu_mapping mapping = {at, bytes, memory, offset, devices};
  if (bytes == 0 || offset > memory->size || bytes > memory->size - offset) {
    return "the range is not inside the memory";
  }
  if (i < m->mapping_count && m->mapping[i].at < at + bytes) return "the range is mapped already";
  if (m->mapping_count == m->mapping_room) {
    m->mapping_room = m->mapping_room ? 2 * m->mapping_room : 64;
    m->mapping = emu_need(realloc(m->mapping, m->mapping_room * sizeof(emu_mapping)));
  }
  memmove(m->mapping + i + 1, m->mapping + i, (m->mapping_count - i) * sizeof(emu_mapping));
  m->mapping[i] = mapping;
  ++m->mapping_count;
  ++memory->refs;
  return NULL;
}

static emu_mapping *exact(emu_machine *m, u64 at, size_t bytes)
{
  u32 i = lower(m, at);
  if (i == m->mapping_count || m->mapping[i].at != at || m->mapping[i].bytes != bytes) return NULL;
  return &m->mapping[i];
}

const char *emu_set_access(emu_machine *m, uint64_t at, size_t bytes, uint32_t devices)
{
  emu_mapping *mapping = exact(m, at, bytes);
  if (!mapping) return "no mapping has exactly this range";
  mapping->devices |= devices;
  return NULL;
}

const char *emu_unmap(emu_machine *m, uint64_t at, size_t bytes)
{
  emu_mapping *mapping = exact(m, at, bytes);
  emu_memory *memory;
  if (!mapping) return "no mapping has exactly this range";
  memory = mapping->memory;
  --m->mapping_count;
  memmove(mapping, mapping + 1,
          (size_t)(m->mapping + m->mapping_count - mapping) * sizeof *mapping);
  emu_memory_release(memory);
  return NULL;
}

static unsigned char *inside(const emu_mapping *mapping, u64 at, size_t bytes)
{
  if (bytes > mapping->bytes || at - mapping->at > mapping->bytes - bytes) return NULL;
  return mapping->memory->bytes + mapping->offset + (at - mapping->at);
}

unsigned char *emu_resolve(emu_machine *m, int device, u64 at, size_t bytes, emu_memory **memory,
                           size_t *offset)
{
  u32 i = m->mapping_last;
  const emu_mapping *mapping;
  if (i >= m->mapping_count || at - m->mapping[i].at >= m->mapping[i].bytes) {
    i = lower(m, at);
    if (i == m->mapping_count || m->mapping[i].at > at) return NULL;
    m->mapping_last = i;
  }
  mapping = &m->mapping[i];
  if (device != EMU_HOST && (mapping->devices >> device & 1) == 0) return NULL;
  *memory = mapping->memory;
  *offset = mapping->offset + (size_t)(at - mapping->at);
  return inside(mapping, at, bytes);
}

void *emu_pointer(const emu_machine *m, uint64_t at, size_t bytes)
{
  u32 i = lower(m, at);
  if (i == m->mapping_count || m->mapping[i].at > at) return NULL;
  return inside(&m->mapping[i], at, bytes);
}
