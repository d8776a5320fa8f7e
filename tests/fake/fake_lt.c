/* cuBLASLt of the fake: descriptors, one heuristic, and a matmul that computes (slowly). */
#include <math.h>
#include <stdint.h>

#include "machine.h"

typedef struct fake_desc {
  fake_object object;
  int ta, tb;
} fake_desc;

typedef struct fake_layout {
  fake_object object;
  int type;
  uint64_t rows, cols;
  int64_t ld;
} fake_layout;

/* ---- 16-bit numbers ---- */

static float half_to_float(uint16_t half)
{
  int exponent = half >> 10 & 31, fraction = half & 1023;
  float value = exponent == 31  ? (fraction ? NAN : INFINITY)
                : exponent == 0 ? ldexpf((float)fraction, -24)
                                : ldexpf((float)(fraction + 1024), exponent - 25);
  return half & 0x8000 ? -value : value;
}

static uint16_t float_to_half(float value)
{
  uint16_t sign = signbit(value) ? 0x8000 : 0;
  float size = fabsf(value);
  if (isnan(value)) return 0x7e00;
  if (size >= 65520.0f) return sign | 0x7c00;
  if (size < 6.103515625e-5f) return sign | (uint16_t)rintf(ldexpf(size, 24));
  int exponent;
  float fraction = frexpf(size, &exponent); /* 0.5 .. 1 */
  /* Rounding up to 2048 carries into the exponent, which is what the sum gives. */
  return (uint16_t)(sign + (exponent + 13) * 1024 + (int)rintf(ldexpf(fraction, 11)));
}

float fake_load16(const void *at, size_t i, int bf16)
{
  uint16_t word;
  memcpy(&word, (const char *)at + 2 * i, 2);
  if (!bf16) return half_to_float(word);
  uint32_t bits = (uint32_t)word << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

void fake_store16(void *at, size_t i, int bf16, float value)
{
  uint16_t word;
  if (bf16) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    word = isnan(value) ? 0x7fc0 : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  } else {
    word = float_to_half(value);
  }
  memcpy((char *)at + 2 * i, &word, 2);
}

/* Column-major: D[m,n] = alpha * op(A)[m,k] * op(B)[k,n] + beta * D. */
void fake_matmul_run(const fake_matmul *mm)
{
  int bf16 = mm->type == CUDA_R_16BF;
  for (int j = 0; j < mm->n; j++)
    for (int i = 0; i < mm->m; i++) {
      float sum = 0;
      for (int l = 0; l < mm->k; l++) {
        size_t a = mm->ta ? (size_t)(l + i * mm->lda) : (size_t)(i + l * mm->lda);
        size_t b = mm->tb ? (size_t)(j + l * mm->ldb) : (size_t)(l + j * mm->ldb);
        sum += fake_load16(mm->a, a, bf16) * fake_load16(mm->b, b, bf16);
      }
      size_t c = (size_t)(i + j * mm->ldc);
      sum *= mm->alpha;
      if (mm->beta != 0.0f)
        sum += mm->beta * (mm->out_fp32 ? ((float *)mm->c)[c] : fake_load16(mm->c, c, bf16));
      if (mm->out_fp32)
        ((float *)mm->c)[c] = sum;
      else
        fake_store16(mm->c, c, bf16, sum);
    }
}

/* ---- The table ---- */

#define LT_BEGIN()                    \
  if (fake_begin_other(__func__ + 5)) \
  return (cublasStatus_t)fake_end_other(CUBLAS_STATUS_INTERNAL_ERROR)
#define LT_END(status) return (cublasStatus_t)fake_end_other((int)(status))

static size_t fake_cublasLtGetVersion(void) { return 130000; }

static cublasStatus_t fake_cublasLtCreate(cublasLtHandle_t *out)
{
  LT_BEGIN();
  if (fake_current_device() < 0) LT_END(CUBLAS_STATUS_NOT_INITIALIZED);
  *out = fake_object_new(OBJ_LT, fake_current_device(), sizeof(fake_object));
  LT_END(CUBLAS_STATUS_SUCCESS);
}

static cublasStatus_t release(fake_object_kind kind, const void *handle, const char *name)
{
  int fail = fake_begin_other(name);
  void *object = fake_object_find(kind, handle);
  if (object) fake_object_kill(object);
  cublasStatus_t status = object ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
  return (cublasStatus_t)fake_end_other((int)(fail ? CUBLAS_STATUS_INTERNAL_ERROR : status));
}

static cublasStatus_t fake_cublasLtDestroy(cublasLtHandle_t handle)
{
  return release(OBJ_LT, handle, __func__ + 5);
}

static cublasStatus_t fake_cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out,
                                                    cublasComputeType_t compute,
                                                    cudaDataType_t scale)
{
  LT_BEGIN();
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) LT_END(CUBLAS_STATUS_NOT_SUPPORTED);
  *out = fake_object_new(OBJ_LT_DESC, -1, sizeof(fake_desc));
  LT_END(CUBLAS_STATUS_SUCCESS);
}

static cublasStatus_t fake_cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
  return release(OBJ_LT_DESC, desc, __func__ + 5);
}

static cublasStatus_t fake_cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle,
                                                          cublasLtMatmulDescAttributes_t which,
                                                          const void *value, size_t bytes)
{
  LT_BEGIN();
  fake_desc *desc = fake_object_find(OBJ_LT_DESC, handle);
  if (!desc || bytes < 4) LT_END(CUBLAS_STATUS_INVALID_VALUE);
  int number;
  memcpy(&number, value, sizeof number);
  if (which == CUBLASLT_MATMUL_DESC_TRANSA) desc->ta = number != CUBLAS_OP_N;
  if (which == CUBLASLT_MATMUL_DESC_TRANSB) desc->tb = number != CUBLAS_OP_N;
  LT_END(CUBLAS_STATUS_SUCCESS);
}

static cublasStatus_t fake_cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out,
                                                      cudaDataType type, uint64_t rows,
                                                      uint64_t cols, int64_t ld)
{
  LT_BEGIN();
  if (ld < (int64_t)rows) LT_END(CUBLAS_STATUS_INVALID_VALUE);
  fake_layout *layout = fake_object_new(OBJ_LT_LAYOUT, -1, sizeof *layout);
  layout->type = (int)type;
  layout->rows = rows;
  layout->cols = cols;
  layout->ld = ld;
  *out = (cublasLtMatrixLayout_t)(void *)layout;
  LT_END(CUBLAS_STATUS_SUCCESS);
}

static cublasStatus_t fake_cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
  return release(OBJ_LT_LAYOUT, layout, __func__ + 5);
}

static cublasStatus_t fake_cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
  LT_BEGIN();
  *out = fake_object_new(OBJ_LT_PREF, -1, sizeof(fake_object));
  LT_END(CUBLAS_STATUS_SUCCESS);
}

static cublasStatus_t fake_cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
  return release(OBJ_LT_PREF, preference, __func__ + 5);
}

static cublasStatus_t
fake_cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                          cublasLtMatmulPreferenceAttributes_t which,
                                          const void *value, size_t bytes)
{
  LT_BEGIN();
  (void)which, (void)value, (void)bytes;
  LT_END(fake_object_find(OBJ_LT_PREF, preference) ? CUBLAS_STATUS_SUCCESS
                                                   : CUBLAS_STATUS_INVALID_VALUE);
}

/* The matmul of these handles; 0 if they do not fit together. */
static int describe(fake_matmul *out, const void *desc_handle, const void *a_handle,
                    const void *b_handle, const void *c_handle)
{
  const fake_desc *desc = fake_object_find(OBJ_LT_DESC, desc_handle);
  const fake_layout *a = fake_object_find(OBJ_LT_LAYOUT, a_handle);
  const fake_layout *b = fake_object_find(OBJ_LT_LAYOUT, b_handle);
  const fake_layout *c = fake_object_find(OBJ_LT_LAYOUT, c_handle);
  if (!desc || !a || !b || !c || a->type != b->type) return 0;
  uint64_t m = desc->ta ? a->cols : a->rows, k = desc->ta ? a->rows : a->cols;
  uint64_t n = desc->tb ? b->rows : b->cols;
  if (c->rows != m || c->cols != n || k != (desc->tb ? b->cols : b->rows)) return 0;
  *out = (fake_matmul){.m = (int)m,
                       .n = (int)n,
                       .k = (int)k,
                       .ta = desc->ta,
                       .tb = desc->tb,
                       .lda = a->ld,
                       .ldb = b->ld,
                       .ldc = c->ld,
                       .type = a->type,
                       .out_fp32 = c->type == CUDA_R_32F};
  return 1;
}

static cublasStatus_t
fake_cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                    cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                    cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                    cublasLtMatmulPreference_t preference, int wanted,
                                    cublasLtMatmulHeuristicResult_t *out, int *found)
{
  LT_BEGIN();
  (void)d, (void)preference;
  fake_matmul matmul;
  *found = 0;
  if (wanted < 1 || !fake_object_find(OBJ_LT, handle) || !describe(&matmul, desc, a, b, c))
    LT_END(CUBLAS_STATUS_INVALID_VALUE);
  memset(out, 0, sizeof *out);
  out->workspaceSize = 1 << 20;
  *found = 1;
  LT_END(CUBLAS_STATUS_SUCCESS);
}

static cublasStatus_t fake_cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                          const void *alpha, const void *a,
                                          cublasLtMatrixLayout_t a_layout, const void *b,
                                          cublasLtMatrixLayout_t b_layout, const void *beta,
                                          const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                                          cublasLtMatrixLayout_t d_layout,
                                          const cublasLtMatmulAlgo_t *algo, void *workspace,
                                          size_t workspace_bytes, cudaStream_t stream_handle)
{
  LT_BEGIN();
  (void)c, (void)c_layout, (void)algo, (void)workspace, (void)workspace_bytes;
  fake_matmul matmul;
  fake_stream *stream = fake_stream_of((CUstream)stream_handle);
  if (!stream || !fake_object_find(OBJ_LT, handle) ||
      !describe(&matmul, desc, a_layout, b_layout, d_layout))
    LT_END(CUBLAS_STATUS_INVALID_VALUE);
  matmul.alpha = *(const float *)alpha;
  matmul.beta = *(const float *)beta;
  matmul.a = a;
  matmul.b = b;
  matmul.c = d;
  fake_work *work = fake_work_new(FAKE_MATMUL);
  work->matmul = matmul;
  work->op.m = matmul.m;
  work->op.n = matmul.n;
  work->op.k = matmul.k;
  work->op.dst = (CUdeviceptr)d;
  work->op.src = (CUdeviceptr)a;
  LT_END(fake_enqueue(stream, work) == CUDA_SUCCESS ? CUBLAS_STATUS_SUCCESS
                                                    : CUBLAS_STATUS_EXECUTION_FAILED);
}

void fake_fill_lt(tml_lt *lt)
{
#define FILL(f) lt->p_##f = fake_##f;
  TML_LT_MAP(FILL)
#undef FILL
}
