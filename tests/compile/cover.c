/* The axes of a variant are the parts of its printed name (each part is one axis' value), so that
 * an axis that is added to the space is covered without a change here. */
#include "cover.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PARTS 16

typedef struct pair_set { /* open addressing over 64-bit hashes of (value, value) */
  uint64_t *slot;
  size_t room, count;
} pair_set;

static void *grown(void *old, size_t bytes)
{
  void *now = realloc(old, bytes);
  if (!now) abort();
  return now;
}

void cover_add(cover_set *cover, const tml_variant *variant)
{
  if (cover->count == cover->room) {
    cover->room = cover->room ? 2 * cover->room : 256;
    cover->at = grown(cover->at, (size_t)cover->room * sizeof *cover->at);
  }
  cover_variant *entry = &cover->at[cover->count++];
  memset(entry, 0, sizeof *entry);
  memcpy(entry->name, variant->name, sizeof entry->name);
  memcpy(entry->arch, variant->arch, sizeof entry->arch);
}

static uint64_t hash(uint64_t seed, const char *text, size_t bytes)
{
  for (size_t i = 0; i < bytes; i++) seed = (seed ^ (unsigned char)text[i]) * 1099511628211u;
  return seed;
}

/* Hash of each part. No two axes print the same text, so its position says nothing: parts that are
 * left out of some names would only move it. */
static int parts_of(const char *name, uint64_t *out)
{
  int count = 0;
  while (*name && count < PARTS) {
    size_t bytes = strcspn(name, "._");
    out[count] = hash(14695981039346656037u, name, bytes);
    count++;
    name += bytes;
    name += strspn(name, "._");
  }
  return count;
}

static int set_has(const pair_set *set, uint64_t key)
{
  for (size_t i = key & (set->room - 1); set->slot[i]; i = (i + 1) & (set->room - 1))
    if (set->slot[i] == key) return 1;
  return 0;
}

static void set_add(pair_set *set, uint64_t key)
{
  size_t i = key & (set->room - 1);
  while (set->slot[i]) i = (i + 1) & (set->room - 1);
  set->slot[i] = key;
  set->count++;
}

/* Counts the pairs of this variant that the set lacks; adds them if asked. */
static int new_pairs(pair_set *set, const char *name, int add)
{
  uint64_t part[PARTS];
  int count = parts_of(name, part), fresh = 0;
  for (int i = 0; i < count; i++)
    for (int j = i + 1; j < count; j++) {
      uint64_t key = (part[i] * 31 + part[j]) | 1;
      if (set_has(set, key)) continue;
      fresh++;
      if (add) set_add(set, key);
    }
  return fresh;
}

static pair_set set_new(int variants)
{
  pair_set set = {NULL, 1024, 0};
  while (set.room < (size_t)variants * PARTS * PARTS) set.room *= 2;
  set.slot = calloc(set.room, sizeof *set.slot);
  if (!set.slot) abort();
  return set;
}

void cover_choose(cover_set *cover)
{
  pair_set all = set_new(cover->count), held = set_new(cover->count);
  for (int i = 0; i < cover->count; i++) new_pairs(&all, cover->at[i].name, 1);
  cover->pairs = (long)all.count;
  while (held.count < all.count) {
    int best = -1, most = 0;
    for (int i = 0; i < cover->count; i++) {
      int fresh = cover->at[i].chosen ? 0 : new_pairs(&held, cover->at[i].name, 0);
      if (fresh > most) {
        most = fresh;
        best = i;
      }
    }
    cover->at[best].chosen = 1;
    cover->chosen++;
    new_pairs(&held, cover->at[best].name, 1);
  }
  free(all.slot);
  free(held.slot);
}

void cover_choose_all(cover_set *cover)
{
  for (int i = 0; i < cover->count; i++) cover->at[i].chosen = 1;
  cover->chosen = cover->count;
}

void cover_free(cover_set *cover)
{
  free(cover->at);
  memset(cover, 0, sizeof *cover);
}
