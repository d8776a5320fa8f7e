/* Words of global memory that carry order, and stores that become visible late.
 *
 * A relaxed or release store waits in its block's buffer for a random time; a release, an
 * atomic, a barrier or the end of the thread makes everything before it visible first. The thread
 * itself sees its own newest store at once. Stores to one address stay in order, others do not. */
#include "prims.h"
#include "state.h"

#include <stdlib.h>
#include <string.h>

struct emu_word {
  emu_word *next;
  size_t offset;
  int carries;
  emu_order order;
};

static emu_word **bucket(const emu_memory *memory, size_t offset)
{
  return &memory->word[(offset / 8 * 2654435761u) % memory->buckets];
}

static emu_word *find(const emu_memory *memory, size_t offset)
{
  emu_word *word;
  if (memory->buckets == 0) return NULL;
  for (word = *bucket(memory, offset); word && word->offset != offset;) word = word->next;
  return word;
}

const emu_order *emu_word_order(const emu_memory *memory, size_t offset)
{
  const emu_word *word = find(memory, offset);
  return word && word->carries ? &word->order : NULL;
}

void emu_word_store(emu_memory *memory, size_t offset, const emu_order *order)
{
  emu_word *word = find(memory, offset);
  if (!order) {
    if (word) word->carries = 0;
    return;
  }
  if (!word) {
    if (memory->buckets == 0) {
      memory->buckets = 256;
      memory->word = emu_need(calloc(memory->buckets, sizeof *memory->word));
    }
    word = emu_need(calloc(1, sizeof *word));
    emu_order_init(&word->order, memory->m->groups);
    word->offset = offset;
    word->next = *bucket(memory, offset);
    *bucket(memory, offset) = word;
  }
  word->carries = 1;
  emu_order_copy(&word->order, order);
}

void emu_words_free(emu_memory *memory)
{
  for (u32 i = 0; i < memory->buckets; ++i) {
    while (memory->word[i]) {
      emu_word *word = memory->word[i];
      memory->word[i] = word->next;
      emu_order_free(&word->order);
      free(word);
    }
  }
  free(memory->word);
  memory->word = NULL;
  memory->buckets = 0;
}

/* ---- Delayed stores -------------------------------------------------------------------------- */
struct emu_delayed {
  emu_object object;
  emu_delayed *next;
  emu_thread *thread;
  emu_cta *cta;
  emu_memory *memory;
  size_t offset;
  u64 value;
  emu_order order;
  int carries, landed;
};

static void destroy(void *object)
{
  emu_delayed *store = object;
  emu_order_free(&store->order);
  emu_memory_release(store->memory);
}

/* Makes a store visible, older ones to its address first; takes them off the block's list. */
static void land(emu_delayed *store)
{
  emu_delayed **link = &store->cta->delayed;
  while (*link != store) link = &(*link)->next;
  *link = store->next;
  for (emu_delayed *older = store->next; older; older = older->next) {
    if (older->memory == store->memory && older->offset == store->offset) {
      land(older);
      break;
    }
  }
  store->landed = 1;
  memcpy(store->memory->bytes + store->offset, &store->value, 8);
  emu_word_store(store->memory, store->offset, store->carries ? &store->order : NULL);
  emu_memory_define(store->memory, store->offset, 8);
  emu_unpark(store->memory->m, store->memory->bytes + store->offset);
}

static void due(void *arg)
{
  emu_delayed *store = arg;
  if (!store->landed) land(store);
  emu_object_free(store);
}

void emu_flush(emu_cta *cta)
{
  while (cta->delayed) {
    emu_delayed *oldest = cta->delayed;
    while (oldest->next) oldest = oldest->next;
    land(oldest);
  }
}

static void delay(emu_thread *thread, emu_memory *memory, size_t offset, u64 value,
                  const emu_order *order)
{
  emu_machine *m = thread->cta->m;
  emu_delayed *store = emu_object_new(m, sizeof *store, destroy);
  store->thread = thread;
  store->cta = thread->cta;
  store->memory = memory;
  emu_memory_retain(memory);
  store->offset = offset;
  store->value = value;
  emu_order_init(&store->order, m->groups);
  if (order) {
    emu_order_copy(&store->order, order);
    store->carries = 1;
  }
  store->next = thread->cta->delayed;
  thread->cta->delayed = store;
  emu_at(m, emu_late(m), due, store);
}

/* ---- Primitives ------------------------------------------------------------------------------ */
/* The word's place, or NULL after a report. */
static unsigned char *word_at(emu_thread *self, u64 at, emu_memory **memory, size_t *offset)
{
  unsigned char *p =
      at % 8 ? NULL : emu_resolve(self->cta->m, self->cta->device, at, 8, memory, offset);
  if (!p)
    emu_hazard_here(EMU_OUT_OF_BOUNDS, at,
                    "this device has no memory at this address, or it is not a multiple of 8");
  return p;
}

static u64 current(const emu_thread *self, const emu_memory *memory, size_t offset)
{
  const emu_delayed *store;
  u64 value;
  for (store = self->cta->delayed; store; store = store->next) {
    if (store->thread == self && store->memory == memory && store->offset == offset)
      return store->value;
  }
  memcpy(&value, memory->bytes + offset, 8);
  return value;
}

static u64 load(emu_site *site, u64 at, int acquire)
{
  emu_thread *self = emu_enter(site);
  emu_memory *memory;
  size_t offset;
  u64 value;
  const emu_order *order;
  unsigned char *p = word_at(self, at, &memory, &offset);
  if (!p) return 0;
  if (!self->cta->m->config.no_hazards) {
    emu_access access = emu_generic(self, 1);
    access.order = NULL; /* an access to a word does not race */
    access.clock = 0;
    emu_memory_read(memory, offset, 8, at, &access);
  }
  value = current(self, memory, offset);
  order = emu_word_order(memory, offset);
  if (acquire && order) emu_acquire(self->warp, order);
  self->polls = self->poll_at == at && self->poll_value == value ? self->polls + 1 : 0;
  self->poll_at = at;
  self->poll_key = p;
  self->poll_value = value;
  return value;
}

u64 emu_load_relaxed(emu_site *site, u64 at) { return load(site, at, 0); }
u64 emu_load_acquire(emu_site *site, u64 at) { return load(site, at, 1); }

void emu_store_relaxed(emu_site *site, u64 at, u64 x)
{
  emu_thread *self = emu_enter(site);
  emu_memory *memory;
  size_t offset;
  if (!word_at(self, at, &memory, &offset)) return;
  delay(self, memory, offset, x, NULL);
}

void emu_store_release(emu_site *site, u64 at, u64 x)
{
  emu_thread *self = emu_enter(site);
  emu_memory *memory;
  size_t offset;
  if (!word_at(self, at, &memory, &offset)) return;
  emu_flush(self->cta);
  delay(self, memory, offset, x, &self->warp->order);
  emu_tick(self->warp);
}

static u64 atomic(emu_site *site, u64 at, u64 x, int add)
{
  emu_thread *self = emu_enter(site);
  emu_memory *memory;
  size_t offset;
  u64 old, value;
  const emu_order *before;
  unsigned char *p = word_at(self, at, &memory, &offset);
  if (!p) return 0;
  emu_flush(self->cta);
  before = emu_word_order(memory, offset);
  if (before) emu_acquire(self->warp, before);
  memcpy(&old, p, 8);
  value = add ? old + x : x;
  memcpy(p, &value, 8);
  emu_word_store(memory, offset, &self->warp->order);
  emu_memory_define(memory, offset, 8);
  emu_tick(self->warp);
  emu_unpark(self->cta->m, p);
  return old;
}

u64 emu_add(emu_site *site, u64 at, u64 x) { return atomic(site, at, x, 1); }
u64 emu_swap(emu_site *site, u64 at, u64 x) { return atomic(site, at, x, 0); }

u64 emu_load(emu_site *site, u64 at, u32 bytes)
{
  emu_thread *self = emu_enter(site);
  emu_memory *memory;
  size_t offset;
  u64 value = 0;
  unsigned char *p =
      at % bytes ? NULL : emu_resolve(self->cta->m, self->cta->device, at, bytes, &memory, &offset);
  if (!p) {
    emu_hazard_here(EMU_OUT_OF_BOUNDS, at,
                    "reads %u bytes where this device has no memory, or misaligned", bytes);
    return 0;
  }
  emu_access access = emu_generic(self, 1);
  emu_memory_read(memory, offset, bytes, at, &access);
  memcpy(&value, p, bytes);
  return value;
}

void emu_store(emu_site *site, u64 at, u64 x, u32 bytes)
{
  emu_thread *self = emu_enter(site);
  emu_memory *memory;
  size_t offset;
  unsigned char *p =
      at % bytes ? NULL : emu_resolve(self->cta->m, self->cta->device, at, bytes, &memory, &offset);
  if (!p) {
    emu_hazard_here(EMU_OUT_OF_BOUNDS, at,
                    "writes %u bytes where this device has no memory, or misaligned", bytes);
    return;
  }
  emu_access access = emu_generic(self, 1);
  emu_memory_write(memory, offset, bytes, at, &access);
  memcpy(p, &x, bytes);
}
