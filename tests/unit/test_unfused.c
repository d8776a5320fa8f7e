/* Unfused variants over fakes that compute: NCCL and cuBLASLt move and multiply real numbers. */
#include "plan_fixture.h"

static float load(CUdeviceptr at, int64_t i)
{
  uint32_t bits = (uint32_t)((const uint16_t *)at)[i] << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static void store(CUdeviceptr at, int64_t i, float value)
{
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  ((uint16_t *)at)[i] = (uint16_t)(bits >> 16);
}

/* Small integers: every sum is exact. A(i, l) of rank r, B(j, l) of rank r. */
static float a_of(int r, int64_t i, int64_t l) { return (float)((i * 5 + l * 3 + r) % 5 - 2); }
static float b_of(int r, int64_t j, int64_t l) { return (float)((j * 7 + l * 2 + r) % 3 - 1); }

#define N 24
#define K 16

static float expected(const test_bed *rig, tml_op op, int64_t i, int64_t j)
{
  float sum = 0;
  int first = op == TML_AG_GEMM ? rig->rank : 0,
      last = op == TML_AG_GEMM ? rig->rank : rig->world - 1;
  for (int r = first; r <= last; r++)
    for (int64_t l = 0; l < K; l++) sum += a_of(op == TML_AG_GEMM ? 0 : r, i, l) * b_of(r, j, l);
  return sum;
}

/* `gap`: elements between the rows of A and C. */
static void check_unfused(test_bed *rig, tml_op op, tml_plan *plan, int64_t m, int gap,
                          CUstream stream)
{
  const int64_t lda = K + gap, ldc = N + gap;
  int64_t shard = (m + rig->world - 1) / rig->world, first = rig->rank * shard;
  int64_t own = m - first < 0 ? 0 : m - first < shard ? m - first : shard;
  int64_t a_first = op == TML_AG_GEMM ? first : 0, a_rows = op == TML_AG_GEMM ? own : m;
  int64_t c_first = op == TML_GEMM_RS ? first : 0, c_rows = op == TML_GEMM_RS ? own : m;
  for (int64_t i = 0; i < a_rows * lda; i++) store(rig->buffer[0], i, 55);
  for (int64_t i = 0; i < a_rows * K; i++)
    store(rig->buffer[0], i / K * lda + i % K,
          a_of(op == TML_AG_GEMM ? 0 : rig->rank, a_first + i / K, i % K));
  for (int64_t i = 0; i < N * K; i++) store(rig->buffer[1], i, b_of(rig->rank, i / K, i % K));
  for (int64_t i = 0; i < c_rows * ldc; i++) store(rig->buffer[2], i, 96);
  for (int64_t i = 0; i < (m + 1) * K; i++) store(rig->buffer[3], i, 96);
  tml_args args = rig_args(rig, m, 0);
  args.lda = lda, args.ldc = ldc;
  if (op == TML_AG_GEMM && gap == 0) args.gathered = (void *)rig->buffer[3];
  FAKE_CHECK_OK(tml_launch(plan, &args, stream));
  FAKE_CHECK(fake_table()->cuda.p_cuStreamSynchronize(stream) == CUDA_SUCCESS);
  int wrong = 0;
  for (int64_t i = 0; i < (m + 1) * K; i++) /* NCCL's own target, and nothing behind it */
    wrong += load(rig->buffer[3], i) != (args.gathered && i < m * K ? a_of(0, i / K, i % K) : 96);
  for (int64_t i = 0; i < c_rows * ldc; i++) /* and nothing between the rows */
    wrong += load(rig->buffer[2], i) !=
             (i % ldc < N ? expected(rig, op, c_first + i / ldc, i % ldc) : 96);
  FAKE_CHECK(wrong == 0);
}

static void unfused_rank(test_bed *rig)
{
  const char *texts[] = {"ag_gemm:bf16:nt:w3:50x24x16", "gemm_rs:bf16:nt:w3:50x24x16",
                         "gemm_ar:bf16:nt:w3:50x24x16"};
  const tml_op ops[] = {TML_AG_GEMM, TML_GEMM_RS, TML_GEMM_AR};
  CUstream stream = new_stream();
  for (int i = 0; i < 3; i++) {
    tml_plan *plan = rig_plan(rig, texts[i], NULL);
    FAKE_CHECK(strstr(tml_plan_variant(plan, 50), "__nccl") != NULL);
    const int64_t sizes[] = {0, 1, 4, 7, 48, 50}; /* empty and ragged shards, equal ones */
    for (int s = 0; s < 6; s++) check_unfused(rig, ops[i], plan, sizes[s], 0, stream);
    for (int s = 0; s < 6 && ops[i] != TML_GEMM_AR; s++)
      check_unfused(rig, ops[i], plan, sizes[s], 8, stream);
    tml_args loose = rig_args(rig, 7, 0);
    loose.ldc = 32;
    if (ops[i] == TML_GEMM_AR)
      FAKE_CHECK(rig_says(tml_launch(plan, &loose, stream), TML_ARGUMENT, "packed"));
    tml_plan_destroy(plan);
  }
  close_stream(stream);
}

/* The bias comes after the sum, on this rank's rows; an all-gather's GEMM adds it itself. */
static void bias_rank(test_bed *rig)
{
  const char *texts[] = {"gemm_rs:bf16:nt:w2:50x24x16:bias", "gemm_ar:bf16:nt:w2:50x24x16:bias",
                         "ag_gemm:bf16:nt:w2:50x24x16:bias"};
  const char *names[] = {"gemm_rs.sm90a.bf16.nt.w2__nccl", "gemm_ar.sm90a.bf16.nt.w2__nccl",
                         "ag_gemm.sm90a.bf16.nt.w2__nccl"};
  tml_variant bias;
  CUstream stream = new_stream();
  FAKE_CHECK_OK(tml_gen_aux(rig->ctx->gen, "bias", "sm_90a", TML_BF16, 1, &bias));
  fake_learn_variant(&bias);
  for (int i = 0; i < 3; i++) {
    tml_plan *plan = rig_plan(rig, texts[i], names[i]);
    tml_args args = rig_args(rig, 7, 1);
    FAKE_CHECK_OK(tml_launch(plan, &args, stream));
    FAKE_CHECK(fake_table()->cuda.p_cuStreamSynchronize(stream) == CUDA_SUCCESS);
    const fake_op *op = rig_op(rig, FAKE_LAUNCH, bias.symbol, i);
    FAKE_CHECK((op != NULL) == (i < 2));
    if (op) {
      FAKE_CHECK(*(const int32_t *)fake_param(op, &bias, TML_PARAM_m) == (i == 1      ? 7
                                                                          : rig->rank ? 3
                                                                                      : 4));
      FAKE_CHECK(*(const uint64_t *)fake_param(op, &bias, TML_PARAM_dst) == rig->buffer[2]);
      FAKE_CHECK(*(const int64_t *)fake_param(op, &bias, TML_PARAM_ld) == 24);
    }
    tml_plan_destroy(plan);
  }
  close_stream(stream);
}

static void test_unfused(void **state)
{
  (void)state;
  tml_config no_jit = {.no_jit = 1}; /* nothing loadable: cuBLASLt is the GEMM */
  rig_run_ranks(3, &no_jit, NULL, unfused_rank);
  rig_run_ranks(2, NULL, NULL, bias_rank);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_unfused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
