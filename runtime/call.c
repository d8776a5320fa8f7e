/* The cache of calls: parameters, fingerprint and grid of a launch, by its arguments. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "maps.h"
#include "status.h"

struct tml_call_cache {
  uint64_t hash[TML_CALLS]; /* 0: free */
  tml_call call[TML_CALLS];
  CUtensorMap *maps; /* TML_CALLS times `maps_each` */
  int maps_each;
  int next; /* round robin */
  int last; /* layers repeat in one order: the next call often follows the last */
};

/* ---- Create ---- */

#define CALL_SCALARS(X) \
  X(bias)               \
  X(m)                  \
  X(n)                  \
  X(k)                  \
  X(rank)               \
  X(shard)              \
  X(slot)               \
  X(keep)               \
  X(pull)               \
  X(direct)             \
  X(signal_stride)      \
  X(fingerprint)        \
  X(timeout_ns)         \
  X(record)             \
  X(pad)                \
  X(signals)

/* Where a parameter lies in the scalars; NULL for one that fused launches do not supply. */
static void *scalar_at(tml_scalars *scalars, tml_param param)
{
#define TML_X(name) [TML_PARAM_##name] = 1 + offsetof(tml_scalars, name),
  static const size_t after[TML_PARAM_COUNT] = {CALL_SCALARS(TML_X)}; /* 0: absent */
#undef TML_X
  return after[param] ? (char *)scalars + after[param] - 1 : NULL;
}

static tml_status check_params(const tml_variant *variant)
{
  tml_scalars scalars;
  for (int i = 0; i < variant->param_count; i++)
    if (variant->params[i] >= TML_MAP_TABLES && !scalar_at(&scalars, variant->params[i]))
      return tml_fail(TML_INTERNAL,
                      "%s: parameter %d of the kernel is not one that a launch supplies",
                      variant->name, i);
  return TML_OK;
}

tml_status tml_calls_create(tml_call_cache **out, const tml_plan *plan)
{
  int most = 0, counts[TML_MAP_TABLES];
  *out = NULL;
  for (const tml_choice *choice = plan->choices; choice; choice = choice->next) {
    if (!choice->kernel) continue;
    TRY(check_params(&choice->variant));
    int maps = tml_map_counts(&choice->variant, counts);
    if (maps > most) most = maps;
  }
  if (most == 0) return TML_OK; /* libraries only */
  tml_call_cache *cache = calloc(1, sizeof *cache);
  if (cache) cache->maps = aligned_alloc(64, (size_t)most * TML_CALLS * sizeof *cache->maps);
  if (!cache || !cache->maps) {
    free(cache);
    return tml_fail(TML_MEMORY, "no memory for the calls of a plan");
  }
  cache->maps_each = most;
  for (int i = 0; i < TML_CALLS; i++) cache->call[i].maps = cache->maps + (size_t)i * (size_t)most;
  *out = cache;
  return TML_OK;
}

void tml_calls_free(tml_call_cache *cache)
{
  if (cache) free(cache->maps);
  free(cache);
}

/* ---- Make ---- */

/* What must be equal on all ranks of a call; 8-byte fields only, hashed as bytes. `failures`: a rank whose
 * launch failed is one call behind its peers, and its next call could pass for the one that they wait
 * in. */
typedef struct call_print {
  int64_t op, dtype, bias, world, m, n, k, grid, slot, failures;
  int64_t block, offset, ld; /* of a symmetric A or C: which block of how many, from 1; else 0 */
  char variant[TML_HASH_BYTES + 7];
} call_print;

_Static_assert(sizeof(call_print) == 13 * 8 + 40, "no padding: it is hashed as bytes");

/* Blocks are made together by all ranks: the older ones of the list count the same everywhere. */
static void print_symmetric(const tml_plan *plan, uint64_t at, int64_t ld, call_print *print)
{
  const tml_block *block = tml_comm_block(plan->comm, at);
  print->offset = (int64_t)(at - block->at[plan->comm->rank]);
  print->ld = ld;
  for (; block; block = block->next) print->block++;
}

static uint64_t fingerprint(const tml_plan *plan, const tml_call *call)
{
  const tml_problem *p = &plan->problem;
  call_print print = {.op = p->op,
                      .dtype = p->dtype,
                      .bias = p->bias,
                      .world = p->world,
                      .m = call->key.m,
                      .n = p->n,
                      .k = p->k,
                      .grid = call->grid,
                      .slot = call->key.slot,
                      .failures = call->key.failures};
  if (call->key.direct) print_symmetric(plan, call->key.c, call->key.ldc, &print);
  if (call->key.pull) print_symmetric(plan, call->key.a, call->key.lda, &print);
  memcpy(print.variant, call->key.choice->kernel->hash, TML_HASH_BYTES);
  uint64_t hash = XXH3_64bits(&print, sizeof print);
  return hash ? hash : 1;
}

static void fill_scalars(const tml_plan *plan, tml_call *call)
{
  const tml_comm *comm = plan->comm;
  const tml_call_key *key = &call->key;
  const tml_variant *variant = &key->choice->variant;
  tml_scalars *s = &call->scalars;
  *s = (tml_scalars){.bias = key->bias,
                     .timeout_ns = comm->timeout_ns,
                     .record = comm->record_at,
                     .m = (int32_t)key->m,
                     .n = (int32_t)plan->problem.n,
                     .k = (int32_t)plan->problem.k,
                     .rank = comm->rank,
                     .shard = (int32_t)tml_shard_rows(key->m, variant->world),
                     .slot = (int32_t)key->slot,
                     .keep = (int32_t)key->keep,
                     .pull = (int32_t)key->pull,
                     .direct = (int32_t)key->direct,
                     .signal_stride = (int32_t)tml_signal_stride(variant, key->m, plan->problem.n,
                                                                 plan->problem.k),
                     .fingerprint = fingerprint(plan, call)};
  for (int r = 0; r < variant->world && variant->world > 1; r++) {
    s->pad.at[r] = comm->pad->at[r];
    s->signals.at[r] = key->segment->block->at[r];
  }
}

static void fill_params(tml_call *call)
{
  const tml_variant *variant = &call->key.choice->variant;
  int counts[TML_MAP_TABLES], first[TML_MAP_TABLES], sum = 0;
  tml_map_counts(variant, counts);
  for (int t = 0; t < TML_MAP_TABLES; t++) {
    first[t] = sum;
    sum += counts[t];
  }
  for (int i = 0; i < variant->param_count; i++) {
    tml_param param = variant->params[i];
    call->params[i] = param < TML_MAP_TABLES ? (void *)(call->maps + first[param])
                                             : scalar_at(&call->scalars, param);
  }
}

static tml_status make(const tml_plan *plan, const tml_call_key *key, tml_call *call)
{
  const tml_choice *choice = key->choice;
  call->key = *key;
  call->grid = (unsigned)tml_grid(&choice->variant, choice->max_clusters, &plan->problem, key->m);
  fill_scalars(plan, call);
  fill_params(call);
  return tml_maps_encode(plan, key, call->maps);
}

/* ---- Find ---- */

static int holds(const tml_call_cache *cache, int i, uint64_t hash, const tml_call_key *key)
{
  return cache->hash[i] == hash && memcmp(&cache->call[i].key, key, sizeof *key) == 0;
}

static int find(const tml_call_cache *cache, uint64_t hash, const tml_call_key *key)
{
  int after = (cache->last + 1) % TML_CALLS;
  if (holds(cache, after, hash, key)) return after;
  for (int i = 0; i < TML_CALLS; i++)
    if (holds(cache, i, hash, key)) return i;
  return -1;
}

tml_status tml_calls_get(tml_plan *plan, const tml_call_key *key, const tml_call **out)
{
  tml_call_cache *cache = plan->calls;
  uint64_t hash = XXH3_64bits(key, sizeof *key) | 1;
  int i = find(cache, hash, key);
  if (i < 0) {
    i = cache->next;
    cache->hash[i] = 0; /* half made until it is whole */
    TRY(make(plan, key, &cache->call[i]));
    cache->hash[i] = hash;
    cache->next = (i + 1) % TML_CALLS;
  }
  cache->last = i;
  *out = &cache->call[i];
  return TML_OK;
}
