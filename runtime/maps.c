#include "maps.h"

#include "status.h"

_Static_assert(TML_PARAM_map_a == 0 && TML_PARAM_map_fin == 5,
               "the map tables are the first parameters");

int tml_map_counts(const tml_variant *v, int counts[TML_MAP_TABLES])
{
  const int tables[TML_MAP_TABLES] = {
      [TML_PARAM_map_a] = v->op == TML_AG_GEMM ? v->world : 1,
      [TML_PARAM_map_b] = 1,
      [TML_PARAM_map_c] = v->op == TML_AG_GEMM || v->op == TML_GEMM_AR ? v->world : 1,
      [TML_PARAM_map_in] = v->op == TML_GEMM_AR             ? 1 + v->world
                           : v->pattern == TML_PATTERN_RING ? v->world
                                                            : 1,
      [TML_PARAM_map_out] = v->world,
      [TML_PARAM_map_fin] = v->world};
  int sum = 0;
  for (int t = 0; t < TML_MAP_TABLES; t++) counts[t] = 0;
  for (int i = 0; i < v->param_count; i++) {
    if (v->params[i] >= TML_MAP_TABLES) continue;
    counts[v->params[i]] = tables[v->params[i]];
    sum += tables[v->params[i]];
  }
  return sum;
}

/* What all maps of one call share. */
typedef struct map_scope {
  const tml_plan *plan;
  const tml_variant *variant;
  const tml_call_key *key;
  int world, rank;
  int64_t shard;
  CUtensorMap *next; /* where the next map goes */
} map_scope;

static int64_t rows_of(const map_scope *scope, int s)
{
  return tml_rows_of(scope->key->m, scope->world, s);
}

/* A TMA box, elements. Its row is one line of the swizzle: 64 elements 128 bytes, 32 elements
 * 64. */
typedef struct {
  int columns, rows;
} map_box;

static map_box output_box(const map_scope *scope)
{
  return (map_box){scope->variant->box_n, scope->variant->box_c};
}

static map_box operand_box(const map_scope *scope, int rows)
{
  return (map_box){scope->variant->tile_k, rows};
}

/* Dimensions innermost first; strides in bytes, stride[i] belongs to dim[i + 1]. A dimension of
 * 0 is encoded as 1: no tile uses the map then. */
static tml_status encode(map_scope *scope, CUdeviceptr at, unsigned rank, cuuint64_t *dim,
                         const cuuint64_t *stride, map_box tile)
{
  static const cuuint32_t ones[4] = {1, 1, 1, 1};
  const tml_api *api = scope->plan->api;
  const cuuint32_t box[4] = {(cuuint32_t)tile.columns, (cuuint32_t)tile.rows, 1, 1};
  CUtensorMapSwizzle swizzle =
      tile.columns == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B;
  CUtensorMapDataType type = scope->plan->problem.dtype == TML_BF16
                                 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  for (unsigned i = 0; i < rank; i++)
    if (dim[i] == 0) dim[i] = 1;
  return CU(api, cuTensorMapEncodeTiled,
            (scope->next++, type, rank, (void *)(uintptr_t)at, dim, stride, box, ones,
             CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
}

/* A row-major matrix. A rank without rows may have no buffer: any valid address stands for it. */
static tml_status encode_matrix(map_scope *scope, CUdeviceptr at, int64_t rows, int64_t columns,
                                int64_t ld, map_box box)
{
  cuuint64_t dim[2] = {(cuuint64_t)columns, (cuuint64_t)rows};
  const cuuint64_t stride[1] = {(cuuint64_t)ld * TML_ELEMENT_BYTES};
  return encode(scope, at ? at : (CUdeviceptr)scope->key->b, 2, dim, stride, box);
}

/* What staging holds: rows of A (`sm`), or partial and finished tiles. */
static int64_t staged_columns(const map_scope *scope)
{
  const tml_problem *p = &scope->plan->problem;
  return p->op == TML_AG_GEMM ? p->k : p->n;
}

/* Packed rows in both staging halves: {columns, rows, sources, parity}. */
static tml_status encode_staging(map_scope *scope, CUdeviceptr at, int64_t rows, int sources)
{
  int64_t shard = scope->shard > 0 ? scope->shard : 1, columns = staged_columns(scope);
  cuuint64_t line = (cuuint64_t)columns * TML_ELEMENT_BYTES;
  cuuint64_t dim[4] = {(cuuint64_t)columns, (cuuint64_t)rows, (cuuint64_t)sources, 2};
  const cuuint64_t stride[3] = {line, (cuuint64_t)shard * line, scope->key->segment->bytes.staging};
  return encode(scope, at, 4, dim, stride,
                scope->variant->op == TML_AG_GEMM ? operand_box(scope, scope->variant->box_a)
                                                  : output_box(scope));
}

static CUdeviceptr staging_of(const map_scope *scope, int r)
{
  return scope->key->segment->block->at[r] + scope->key->segment->staging_at;
}

/* This rank's shard with the dimensions of staging, one source and one half. */
static tml_status encode_own(map_scope *scope)
{
  const tml_call_key *key = scope->key;
  const cuuint64_t line = (cuuint64_t)key->lda * TML_ELEMENT_BYTES, stride[3] = {line, line, line};
  cuuint64_t dim[4] = {(cuuint64_t)scope->plan->problem.k, (cuuint64_t)rows_of(scope, scope->rank),
                       1, 1};
  return encode(scope, key->a ? (CUdeviceptr)key->a : (CUdeviceptr)key->b, 4, dim, stride,
                operand_box(scope, scope->variant->box_a));
}

/* `sm`: [s] shard s where it arrives, in both halves of this rank's staging. */
static tml_status encode_staged_a(map_scope *scope, int count)
{
  size_t shard = (size_t)scope->shard * (size_t)scope->plan->problem.k * TML_ELEMENT_BYTES;
  for (int s = 0; s < count; s++) {
    if (s == scope->rank)
      TRY(encode_own(scope));
    else
      TRY(encode_staging(scope, staging_of(scope, scope->rank) + (size_t)s * shard,
                         rows_of(scope, s), 1));
  }
  return TML_OK;
}

static tml_status encode_a(map_scope *scope, int count)
{
  const tml_problem *p = &scope->plan->problem;
  const tml_call_key *key = scope->key;
  map_box box = operand_box(scope, scope->variant->box_a);
  if (scope->variant->op != TML_AG_GEMM)
    return encode_matrix(scope, (CUdeviceptr)key->a, key->m, p->k, key->lda, box);
  if (scope->variant->pattern == TML_PATTERN_SM) return encode_staged_a(scope, count);
  CUdeviceptr slots = tml_slot_at(key, scope->rank);
  for (int s = 0; s < count; s++) {
    CUdeviceptr gathered =
        slots + (size_t)s * (size_t)scope->shard * (size_t)p->k * TML_ELEMENT_BYTES;
    int own = s == scope->rank;
    TRY(encode_matrix(scope, own ? (CUdeviceptr)key->a : gathered, rows_of(scope, s), p->k,
                      own ? key->lda : p->k, box));
  }
  return TML_OK;
}

static tml_status encode_b(map_scope *scope, int count)
{
  (void)count;
  const tml_problem *p = &scope->plan->problem;
  return encode_matrix(scope, (CUdeviceptr)scope->key->b, p->n, p->k, scope->key->ldb,
                       operand_box(scope, scope->variant->box_b));
}

static tml_status encode_c(map_scope *scope, int count)
{
  const tml_call_key *key = scope->key;
  int64_t n = scope->plan->problem.n;
  map_box box = output_box(scope);
  if (scope->variant->op == TML_GEMM)
    return encode_matrix(scope, (CUdeviceptr)key->c, key->m, n, key->ldc, box);
  if (scope->variant->op == TML_GEMM_RS)
    return encode_matrix(scope, (CUdeviceptr)key->c, rows_of(scope, scope->rank), n, key->ldc, box);
  for (int s = 0; s < count; s++) {
    int64_t rows = rows_of(scope, s);
    size_t first =
        rows > 0 ? (size_t)s * (size_t)scope->shard * (size_t)key->ldc * TML_ELEMENT_BYTES : 0;
    TRY(encode_matrix(scope, (CUdeviceptr)key->c + first, rows, n, key->ldc, box));
  }
  return TML_OK;
}

/* Partials on their way round the ring, at rank r: [s]: of shard s. */
static tml_status encode_ring(map_scope *scope, int r, int count)
{
  size_t part = (size_t)scope->shard * (size_t)scope->plan->problem.n * TML_ELEMENT_BYTES;
  for (int s = 0; s < count; s++)
    TRY(encode_staging(scope, staging_of(scope, r) + (size_t)s * part, rows_of(scope, s), 1));
  return TML_OK;
}

/* [0]: partials of this rank's rows from every source; [1 + s]: finished rows of owner s. */
static tml_status encode_in(map_scope *scope, int count)
{
  int64_t n = scope->plan->problem.n;
  if (scope->variant->pattern == TML_PATTERN_RING) return encode_ring(scope, scope->rank, count);
  CUdeviceptr own = staging_of(scope, scope->rank);
  CUdeviceptr finished = own + tml_finished_at(scope->world, scope->key->m, n);
  TRY(encode_staging(scope, own, rows_of(scope, scope->rank), scope->world));
  for (int s = 0; s < count - 1; s++) {
    size_t first = (size_t)s * (size_t)scope->shard * (size_t)n * TML_ELEMENT_BYTES;
    TRY(encode_staging(scope, finished + first, rows_of(scope, s), 1));
  }
  return TML_OK;
}

/* [d]: where partials of owner d go, or (`sm`) this rank's shard at rank d; this rank's own is
 * never used. */
static tml_status encode_out(map_scope *scope, int count)
{
  if (scope->variant->pattern == TML_PATTERN_RING)
    return encode_ring(scope, (scope->rank + 1) % scope->world, count);
  int own = scope->variant->op == TML_AG_GEMM;
  for (int d = 0; d < count; d++)
    TRY(encode_staging(scope, staging_of(scope, d), rows_of(scope, own ? scope->rank : d),
                       scope->world));
  return TML_OK;
}

/* This rank's rows in the C of every rank, as if they were one half of staging with one source. */
static tml_status encode_fin_direct(map_scope *scope, int count)
{
  const tml_call_key *key = scope->key;
  const tml_block *block = tml_comm_block(scope->plan->comm, key->c);
  int64_t rows = rows_of(scope, scope->rank);
  size_t line = (size_t)key->ldc * TML_ELEMENT_BYTES;
  size_t at = key->c - block->at[scope->rank];
  if (rows > 0) at += (size_t)scope->rank * (size_t)scope->shard * line;
  for (int d = 0; d < count; d++) {
    cuuint64_t dim[4] = {(cuuint64_t)scope->plan->problem.n, (cuuint64_t)rows, 1, 1};
    const cuuint64_t stride[3] = {line, line, line};
    TRY(encode(scope, block->at[d] + at, 4, dim, stride, output_box(scope)));
  }
  return TML_OK;
}

/* [d]: where this rank's finished rows go at rank d. */
static tml_status encode_fin(map_scope *scope, int count)
{
  int64_t n = scope->plan->problem.n;
  if (scope->key->direct) return encode_fin_direct(scope, count);
  size_t at = tml_finished_at(scope->world, scope->key->m, n) +
              (size_t)scope->rank * (size_t)scope->shard * (size_t)n * TML_ELEMENT_BYTES;
  for (int d = 0; d < count; d++)
    TRY(encode_staging(scope, staging_of(scope, d) + at, rows_of(scope, scope->rank), 1));
  return TML_OK;
}

tml_status tml_maps_encode(const tml_plan *plan, const tml_call_key *key, CUtensorMap *maps)
{
  typedef tml_status (*encode_fn)(map_scope *, int);
  static const encode_fn encoders[TML_MAP_TABLES] = {encode_a,  encode_b,   encode_c,
                                                     encode_in, encode_out, encode_fin};
  const tml_variant *variant = &key->choice->variant;
  map_scope scope = {plan,
                     variant,
                     key,
                     variant->world,
                     variant->world > 1 ? plan->comm->rank : 0,
                     tml_shard_rows(key->m, variant->world),
                     maps};
  int counts[TML_MAP_TABLES];
  tml_map_counts(variant, counts);
  for (int t = 0; t < TML_MAP_TABLES; t++)
    if (counts[t] > 0) TRY(encoders[t](&scope, counts[t]));
  return TML_OK;
}
