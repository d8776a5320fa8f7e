#include "lt.h"

#include <stdlib.h>
#include <string.h>

#include "status.h"

/* What a shape depends on; 8-byte fields only, compared as bytes. */
typedef struct lt_key {
  int64_t dtype, m, n, k, lda, ldb, ldc;
  int64_t align_a, align_b, align_c; /* bytes, at most LT_ALIGN: the heuristic may count on it */
} lt_key;

#define LT_ALIGN 256

typedef struct lt_shape {
  cublasLtMatmulDesc_t desc;
  cublasLtMatrixLayout_t a, b, c;
  cublasLtMatmulAlgo_t algo;
} lt_shape;

typedef struct tml_lt_cache {
  int used, next; /* round robin once full */
  lt_key key[TML_LT_SHAPES];
  lt_shape shape[TML_LT_SHAPES];
} tml_lt_cache;

static void shape_free(const tml_api *api, lt_shape *shape)
{
  if (shape->c) api->lt.p_cublasLtMatrixLayoutDestroy(shape->c);
  if (shape->b) api->lt.p_cublasLtMatrixLayoutDestroy(shape->b);
  if (shape->a) api->lt.p_cublasLtMatrixLayoutDestroy(shape->a);
  if (shape->desc) api->lt.p_cublasLtMatmulDescDestroy(shape->desc);
  memset(shape, 0, sizeof *shape);
}

/* cuBLASLt's operands A, B, C are B, A, C of the caller. */
static tml_status shape_prefer(const tml_api *api, cublasLtMatmulPreference_t preference,
                               const lt_key *key)
{
  size_t workspace = TML_LT_WORKSPACE;
  const struct {
    cublasLtMatmulPreferenceAttributes_t which;
    uint32_t bytes;
  } aligned[] = {{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)key->align_b},
                 {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)key->align_a},
                 {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)key->align_c},
                 {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)key->align_c}};
  TRY(LT(api, cublasLtMatmulPreferenceSetAttribute,
         (preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace)));
  for (int i = 0; i < 4; i++)
    TRY(LT(api, cublasLtMatmulPreferenceSetAttribute,
           (preference, aligned[i].which, &aligned[i].bytes, sizeof aligned[i].bytes)));
  return TML_OK;
}

static tml_status shape_heuristic(tml_comm *comm, const lt_key *key, lt_shape *shape)
{
  const tml_api *api = comm->ctx->api;
  cublasLtMatmulPreference_t preference = NULL;
  cublasLtMatmulHeuristicResult_t found;
  int count = 0;
  TRY(LT(api, cublasLtMatmulPreferenceCreate, (&preference)));
  tml_status status = shape_prefer(api, preference, key);
  if (status == TML_OK)
    status = LT(api, cublasLtMatmulAlgoGetHeuristic,
                (comm->lt, shape->desc, shape->b, shape->a, shape->c, shape->c, preference, 1,
                 &found, &count));
  api->lt.p_cublasLtMatmulPreferenceDestroy(preference);
  if (status != TML_OK) return status;
  if (count < 1) return tml_fail(TML_UNSUPPORTED, "cuBLASLt has no algorithm for this GEMM");
  shape->algo = found.algo;
  return TML_OK;
}

/* Row-major C = A B^T is column-major C^T = (B^T)^T A^T: the first operand is B, transposed. */
static tml_status shape_make(tml_comm *comm, const lt_key *key, lt_shape *shape)
{
  const tml_api *api = comm->ctx->api;
  cudaDataType type = key->dtype == TML_BF16 ? CUDA_R_16BF : CUDA_R_16F;
  cublasOperation_t first = CUBLAS_OP_T;
  uint64_t m = (uint64_t)key->m, n = (uint64_t)key->n, k = (uint64_t)key->k;
  TRY(LT(api, cublasLtMatmulDescCreate, (&shape->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F)));
  TRY(LT(api, cublasLtMatmulDescSetAttribute,
         (shape->desc, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first)));
  TRY(LT(api, cublasLtMatrixLayoutCreate, (&shape->b, type, k, n, key->ldb)));
  TRY(LT(api, cublasLtMatrixLayoutCreate, (&shape->a, type, k, m, key->lda)));
  TRY(LT(api, cublasLtMatrixLayoutCreate, (&shape->c, type, n, m, key->ldc)));
  return shape_heuristic(comm, key, shape);
}

static const lt_shape *shape_find(const tml_lt_cache *cache, const lt_key *key)
{
  for (int i = 0; i < cache->used; i++)
    if (memcmp(&cache->key[i], key, sizeof *key) == 0) return &cache->shape[i];
  return NULL;
}

static tml_status shape_get(tml_comm *comm, const lt_key *key, const lt_shape **out)
{
  tml_lt_cache *cache = comm->lt_cache;
  *out = shape_find(cache, key);
  if (*out) return TML_OK;
  lt_shape made = {0};
  tml_status status = shape_make(comm, key, &made);
  if (status != TML_OK) {
    shape_free(comm->ctx->api, &made);
    return tml_wrap(status, "cuBLASLt GEMM of %lldx%lldx%lld", (long long)key->m, (long long)key->n,
                    (long long)key->k);
  }
  int i = cache->next;
  cache->next = (i + 1) % TML_LT_SHAPES;
  if (cache->used < TML_LT_SHAPES) cache->used++;
  shape_free(comm->ctx->api, &cache->shape[i]);
  cache->key[i] = *key;
  cache->shape[i] = made;
  *out = &cache->shape[i];
  return TML_OK;
}

/* The handle takes device memory: never after sealing. */
static tml_status lt_open(tml_comm *comm)
{
  const tml_api *api = comm->ctx->api;
  if (comm->lt) return TML_OK;
  if (!api->has_lt) return tml_fail(TML_MISS, "cuBLASLt was not found: %s", api->why_lt);
  if (atomic_load(&comm->ctx->sealed))
    return tml_fail(TML_SEALED, "cuBLASLt would take memory; plan it before tml_seal");
  if (!comm->lt_cache) comm->lt_cache = calloc(1, sizeof *comm->lt_cache);
  if (!comm->lt_cache) return tml_fail(TML_MEMORY, "no memory for cuBLASLt's shapes");
  return LT(api, cublasLtCreate, (&comm->lt));
}

tml_status tml_lt_prepare(tml_comm *comm, tml_dtype dtype, int64_t m, int64_t n, int64_t k)
{
  lt_key key = {dtype, m, n, k, k, k, n, LT_ALIGN, LT_ALIGN, LT_ALIGN};
  const lt_shape *shape;
  TRY(lt_open(comm));
  if (m <= 0 || shape_find(comm->lt_cache, &key)) return TML_OK;
  if (atomic_load(&comm->ctx->sealed))
    return tml_fail(TML_SEALED, "cuBLASLt's heuristic for m = %lld must be asked before tml_seal",
                    (long long)m);
  return shape_get(comm, &key, &shape);
}

/* The largest power of two, up to LT_ALIGN, that divides an address. */
static int64_t alignment(CUdeviceptr at)
{
  uint64_t bits = (uint64_t)at | LT_ALIGN;
  return (int64_t)(bits & -bits);
}

tml_status tml_lt_launch(tml_comm *comm, const tml_lt_args *args, CUstream stream)
{
  static const float one = 1.0f, zero = 0.0f;
  lt_key key = {args->dtype,        args->m,           args->n,   args->k,
                args->lda,          args->ldb,         args->ldc, alignment(args->a),
                alignment(args->b), alignment(args->c)};
  const lt_shape *shape;
  TRY(shape_get(comm, &key, &shape));
  void *c = (void *)(uintptr_t)args->c;
  return LT(comm->ctx->api, cublasLtMatmul,
            (comm->lt, shape->desc, &one, (const void *)(uintptr_t)args->b, shape->b,
             (const void *)(uintptr_t)args->a, shape->a, &zero, c, shape->c, c, shape->c,
             &shape->algo, (void *)(uintptr_t)comm->local, TML_LT_WORKSPACE, (cudaStream_t)stream));
}

tml_status tml_lt_gemm(tml_comm *comm, tml_dtype dtype, int64_t m, int64_t n, int64_t k,
                       const void *a, const void *b, void *c, CUstream stream)
{
  tml_lt_args args = {dtype,
                      m,
                      n,
                      k,
                      k,
                      k,
                      n,
                      (CUdeviceptr)(uintptr_t)a,
                      (CUdeviceptr)(uintptr_t)b,
                      (CUdeviceptr)(uintptr_t)c};
  if (!comm->lt) return tml_fail(TML_ARGUMENT, "call tml_lt_prepare before tml_lt_gemm");
  if (comm->local_bytes < TML_LT_WORKSPACE)
    return tml_fail(TML_ARGUMENT,
                    "cuBLASLt needs %zu bytes of local memory, %zu are reserved; call "
                    "tml_comm_reserve first",
                    TML_LT_WORKSPACE, comm->local_bytes);
  return m == 0 ? TML_OK : tml_lt_launch(comm, &args, stream);
}

void tml_lt_free(tml_comm *comm)
{
  const tml_api *api = comm->ctx->api;
  tml_lt_cache *cache = comm->lt_cache;
  for (int i = 0; cache && i < cache->used; i++) shape_free(api, &cache->shape[i]);
  if (comm->lt) api->lt.p_cublasLtDestroy(comm->lt);
  free(cache);
  comm->lt = NULL;
  comm->lt_cache = NULL;
}
