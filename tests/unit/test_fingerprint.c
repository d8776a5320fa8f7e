/* Fingerprints: what must be equal on all ranks of a call, and what must not. */
#include "plan_fixture.h"

static rig_shape ce2, push2, twoshot2;

static int find_variants(void **state)
{
  (void)state;
  ce2 = rig_find("ag_gemm", 2, 128, 128, 1);
  push2 = rig_find("gemm_rs", 2, 128, 128, 1);
  twoshot2 = rig_find("gemm_ar", 2, 128, 128, 1);
  return fake_check_failures();
}

#define PRINTS 11
static uint64_t prints[2][PRINTS];

static uint64_t print_of(test_bed *rig, const char *problem, const char *name, int64_t m, int bias,
                         int k)
{
  tml_plan *plan = rig_plan(rig, problem, name);
  tml_variant variant = rig_variant(rig, name);
  tml_args args = rig_args(rig, m, bias);
  uint64_t print = 0;
  FAKE_CHECK_OK(tml_launch(plan, &args, NULL));
  const void *at =
      fake_param(rig_op(rig, FAKE_LAUNCH, variant.symbol, k), &variant, TML_PARAM_fingerprint);
  if (FAKE_CHECK(at != NULL)) memcpy(&print, at, sizeof print);
  tml_plan_destroy(plan);
  return print;
}

/* As above, with C in symmetric memory. */
static uint64_t print_at(test_bed *rig, tml_plan *plan, void *c, int64_t ldc, int k)
{
  tml_variant variant = rig_variant(rig, twoshot2.name);
  tml_args args = rig_args(rig, 9, 0);
  uint64_t print = 0;
  args.c = c;
  args.ldc = ldc;
  args.c_symmetric = 1;
  FAKE_CHECK_OK(tml_launch(plan, &args, NULL));
  const void *at =
      fake_param(rig_op(rig, FAKE_LAUNCH, variant.symbol, k), &variant, TML_PARAM_fingerprint);
  if (FAKE_CHECK(at != NULL)) memcpy(&print, at, sizeof print);
  return print;
}

/* The block, the offset in it and the leading dimension must be the same everywhere. */
static void prints_symmetric(test_bed *rig, uint64_t *mine)
{
  void *first, *second;
  tml_plan *plan = rig_plan(rig, "gemm_ar:bf16:nt:w2:9x72x40", twoshot2.name);
  FAKE_CHECK_OK(tml_alloc(rig->comm, 4096, &first));
  FAKE_CHECK_OK(tml_alloc(rig->comm, 4096, &second));
  mine[0] = print_at(rig, plan, first, 72, 0);
  mine[1] = print_at(rig, plan, second, 72, 1);
  mine[2] = print_at(rig, plan, (char *)first + 16, 72, 2);
  mine[3] = print_at(rig, plan, first, 80, 3);
  tml_plan_destroy(plan);
}

static void fail_launch(test_bed *rig, int ranks)
{
  tml_plan *plan = rig_plan(rig, "gemm_rs:bf16:nt:w2:100x72x40", push2.name);
  tml_args args = rig_args(rig, 100, 0);
  args.b = NULL;
  if (rig->rank < ranks) FAKE_CHECK(tml_launch(plan, &args, NULL) == TML_ARGUMENT);
  tml_plan_destroy(plan);
}

static void prints_rank(test_bed *rig)
{
  uint64_t *mine = prints[rig->rank];
  mine[0] = print_of(rig, "gemm_rs:bf16:nt:w2:100x72x40", push2.name, 100, 0, 0);
  mine[1] = print_of(rig, "gemm_rs:bf16:nt:w2:100x72x40", push2.name, 99, 0, 1);
  mine[2] = print_of(rig, "gemm_rs:bf16:nt:w2:100x80x40", push2.name, 100, 0, 2);
  mine[3] = print_of(rig, "gemm_rs:bf16:nt:w2:100x72x48", push2.name, 100, 0, 3);
  mine[4] = print_of(rig, "gemm_rs:bf16:nt:w2:100x72x40:bias", push2.name, 100, 1, 4);
  mine[5] = print_of(rig, "ag_gemm:bf16:nt:w2:100x72x40", ce2.name, 100, 0, 0);
  prints_symmetric(rig, mine + 6);
  fail_launch(rig, 2);
  mine[10] = print_of(rig, "gemm_rs:bf16:nt:w2:100x72x40", push2.name, 100, 0, 5);
}

static void fail_gemm(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "gemm:bf16:nt:w1:100x72x40", NULL);
  tml_args args = rig_args(rig, 101, 0);
  if (rig->rank == 0) FAKE_CHECK(tml_launch(plan, &args, NULL) == TML_ARGUMENT);
  tml_plan_destroy(plan);
}

/* A plain GEMM meets nobody: its failure puts no one out of step. */
static void local_rank(test_bed *rig)
{
  fail_gemm(rig);
  prints[rig->rank][0] = print_of(rig, "gemm_rs:bf16:nt:w2:100x72x40", push2.name, 100, 0, 0);
}

/* A rank whose launch failed is out of step with the other: its next call must not pass for this one. */
static void uneven_rank(test_bed *rig)
{
  fail_launch(rig, 1);
  prints[rig->rank][0] = print_of(rig, "gemm_rs:bf16:nt:w2:100x72x40", push2.name, 100, 0, 0);
}

static void test_fingerprint(void **state)
{
  (void)state;
  rig_run_ranks(2, NULL, NULL, prints_rank);
  for (int i = 0; i < PRINTS; i++) {
    assert_true(prints[0][i] == prints[1][i] && prints[0][i] != 0);
    for (int j = 0; j < i; j++) assert_true(prints[0][i] != prints[0][j]);
  }
  rig_run_ranks(2, NULL, NULL, uneven_rank);
  assert_true(prints[0][0] != prints[1][0]);
  rig_run_ranks(2, NULL, NULL, local_rank);
  assert_true(prints[0][0] == prints[1][0]);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_fingerprint)};
  return cmocka_run_group_tests(tests, find_variants, NULL);
}
