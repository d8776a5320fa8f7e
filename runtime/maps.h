/* Tensor maps and the calls that were made with them.
 *
 * A call is everything of a kernel launch that depends on its arguments alone: maps, scalar
 * parameters, fingerprint, grid. The cache is made at plan creation, has a fixed size, and is
 * overwritten round robin, so that a launch allocates nothing and a repeated one encodes
 * nothing. */
#ifndef TML_MAPS_H
#define TML_MAPS_H

#include "plan_parts.h"

#define TML_CALLS 128 /* of a plan: layers that share it, times sizes of m, times 2 for `ce` */

/* 8-byte fields only: compared and hashed as bytes. The segment and `pad` stand for all
 * addresses of symmetric memory. */
typedef struct tml_call_key {
  int64_t m, lda, ldb, ldc, slot, keep, pull, direct;
  int64_t failures; /* of the comm before this call */
  uint64_t a, b, c, bias;
  const tml_choice *choice;
  const tml_segment *segment;
} tml_call_key;

/* Parameters of fused kernels that are not maps; names and types as in gen.h. */
typedef struct tml_scalars {
  uint64_t bias, fingerprint, timeout_ns, record;
  int32_t m, n, k, rank, shard, slot, keep, pull, direct, signal_stride;
  tml_addr_table pad, signals;
} tml_scalars;

/* Where the shards lie that this call's copies bring to rank r: packed, at their places in A. */
static inline CUdeviceptr tml_slot_at(const tml_call_key *key, int r)
{
  const tml_segment *segment = key->segment;
  return segment->block->at[r] + segment->slots_at + (size_t)key->slot * segment->bytes.slots;
}

typedef struct tml_call {
  tml_call_key key;
  tml_scalars scalars;
  unsigned grid;                 /* blocks */
  void *params[TML_PARAM_COUNT]; /* in signature order */
  CUtensorMap *maps;             /* all tables of the variant, one after the other */
} tml_call;

typedef struct tml_call_cache tml_call_cache;

/* How many maps each table of the variant holds: indexed by TML_PARAM_map_a ..
 * TML_PARAM_map_fin; 0 for tables that it does not take. Returns the sum. */
#define TML_MAP_TABLES (TML_PARAM_map_fin + 1)
int tml_map_counts(const tml_variant *variant, int counts[TML_MAP_TABLES]);
/* Encodes all maps of a call: tables in the order of gen.h. */
tml_status tml_maps_encode(const tml_plan *plan, const tml_call_key *key, CUtensorMap *maps);

/* INTERNAL if a variant of the plan wants a parameter that fused launches do not supply. */
tml_status tml_calls_create(tml_call_cache **out, const tml_plan *plan);
void tml_calls_free(tml_call_cache *cache);
/* The call of this key, made if it is not there. Valid until the next call of this. */
tml_status tml_calls_get(tml_plan *plan, const tml_call_key *key, const tml_call **out);

#endif
