/* Plans: what serves which bucket, what ranks agree on, what the door refuses. */
#include <unistd.h>

#include "plan_fixture.h"
#include "plan_parts.h"

typedef struct shown {
  int count;
  int64_t bucket[64];
  char variant[64][TML_NAME_BYTES], source[64][16];
} shown;

static void keep(void *user, int64_t bucket, const char *variant, const char *source)
{
  shown *all = user;
  all->bucket[all->count] = bucket;
  snprintf(all->variant[all->count], TML_NAME_BYTES, "%s", variant);
  snprintf(all->source[all->count++], 16, "%s", source);
}

static shown explain(const tml_plan *plan)
{
  shown all = {0};
  tml_plan_explain(plan, keep, &all);
  return all;
}

static uint64_t counter_fallbacks(test_bed *rig)
{
  tml_counters counters = {.size = sizeof counters};
  FAKE_CHECK_OK(tml_ctx_counters(rig->ctx, &counters));
  return counters.fallbacks;
}

/* ---- Resolution ---- */

static void model_rank(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "ag_gemm:bf16:nt:w2:300x256x128", NULL);
  shown all = explain(plan);
  static const int64_t buckets[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 384};
  FAKE_CHECK(all.count == 10);
  for (int i = 0; i < all.count; i++) {
    FAKE_CHECK(all.bucket[i] == buckets[i]);
    FAKE_CHECK(strcmp(all.source[i], "model") == 0);
    FAKE_CHECK(strstr(all.variant[i], ".sm") != NULL); /* small shards */
    FAKE_CHECK(
        strcmp(tml_plan_variant(plan, buckets[i] < 300 ? buckets[i] : 300), all.variant[i]) == 0);
  }
  FAKE_CHECK(strcmp(tml_plan_variant(plan, 0), all.variant[0]) == 0);
  FAKE_CHECK(tml_plan_variant(plan, 301) == NULL && tml_plan_variant(plan, -1) == NULL);
  FAKE_CHECK(counter_fallbacks(rig) == 0 && rig->warnings == 0);
  tml_plan_destroy(plan);
}

static void test_model(void **state)
{
  (void)state;
  rig_run_ranks(2, NULL, NULL, model_rank);
}

/* Rank 0 could compile, the others may not: all ranks end with the same library variant. AUX
 * kernels cannot be loaded there, so the problem without a bias. */
static void one_rank_fails(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "gemm_rs:bf16:nt:w3:256x64x64", NULL);
  shown all = explain(plan);
  for (int i = 0; i < all.count; i++)
    FAKE_CHECK(strcmp(all.source[i], "fallback") == 0 && strstr(all.variant[i], "__nccl") != NULL);
  FAKE_CHECK(strstr(rig->warning, "rank 1") != NULL);
  tml_plan_destroy(plan);
}

static void strict_rank(test_bed *rig)
{
  tml_plan *plan = NULL;
  tml_problem problem = rig_problem("gemm_rs:bf16:nt:w3:256x64x64");
  tml_status status = tml_plan_create(&plan, rig->comm, &problem);
  FAKE_CHECK(rig_says(status, TML_MISS, "compiling is switched off") && plan == NULL);
  if (rig->rank != 0) FAKE_CHECK(strstr(tml_last_error(), "rank 0") != NULL);
}

static void forced_library_rank(test_bed *rig)
{
  tml_plan *plan = NULL;
  tml_problem problem = rig_problem("gemm_rs:bf16:nt:w3:256x64x64");
  tml_status status = tml_plan_create(&plan, rig->comm, &problem);
  FAKE_CHECK(rig_says(status, TML_ARGUMENT, "strict forbids the forced variant") && plan == NULL);
}

static void test_fallback(void **state)
{
  (void)state;
  tml_config no_jit = {.no_jit = 1}, strict = {.no_jit = 1, .strict = 1};
  rig_run_ranks(3, NULL, &no_jit, one_rank_fails);
  rig_run_ranks(3, &strict, NULL, strict_rank);
  strict.force = "gemm_rs.sm90a.bf16.nt.w3__nccl";
  rig_run_ranks(3, &strict, NULL, forced_library_rank);
}

/* Without any kernel a bias cannot be added: the plan says so on every rank. */
static void no_bias_rank(test_bed *rig)
{
  tml_plan *plan = NULL;
  tml_problem problem = rig_problem("gemm_rs:bf16:nt:w2:256x64x64:bias");
  FAKE_CHECK(tml_plan_create(&plan, rig->comm, &problem) == TML_MISS && plan == NULL);
}

static void test_bias_kernel(void **state)
{
  (void)state;
  tml_config no_jit = {.no_jit = 1};
  rig_run_ranks(2, &no_jit, NULL, no_bias_rank);
}

static void forced_rank(test_bed *rig)
{
  rig_shape shape = rig_find("gemm_ar", 2, 128, 256, 1);
  const char *name = shape.name;
  tml_plan *plan = rig_plan(rig, "gemm_ar:bf16:nt:w2:100x64x64", name);
  shown all = explain(plan);
  for (int i = 0; i < all.count; i++)
    FAKE_CHECK(strcmp(all.source[i], "forced") == 0 && strcmp(all.variant[i], name) == 0);
  tml_plan_destroy(plan);
  tml_problem other = rig_problem("gemm_rs:bf16:nt:w2:100x64x64");
  FAKE_CHECK(
      rig_says(tml_plan_create_forced(&plan, rig->comm, &other, name), TML_UNSUPPORTED, "gemm_rs"));
  FAKE_CHECK(rig_says(tml_plan_create_forced(&plan, rig->comm, &other, "nonsense"), TML_ARGUMENT,
                      "nonsense"));
  FAKE_CHECK(plan == NULL);
}

static void test_forced(void **state)
{
  (void)state;
  rig_run_ranks(2, NULL, NULL, forced_rank);
}

/* A world of one: the fused ops are the gemm. */
static void alone_rank(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "gemm_ar:fp16:nt:w1:100x64x64", NULL);
  FAKE_CHECK(strncmp(tml_plan_variant(plan, 100), "gemm.sm90a.fp16", 15) == 0);
  tml_plan_destroy(plan);
}

static void alone_lt_rank(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "gemm:fp16:nt:w1:100x64x64", NULL);
  FAKE_CHECK(strstr(tml_plan_variant(plan, 100), "cublaslt") != NULL);
  tml_bytes bytes = {.size = sizeof bytes};
  FAKE_CHECK_OK(tml_plan_workspace(plan, &bytes));
  FAKE_CHECK(bytes.local == 32 << 20);
  tml_plan_destroy(plan);
}

static void test_world_of_one(void **state)
{
  (void)state;
  tml_config no_jit = {.no_jit = 1};
  rig_run_ranks(1, NULL, NULL, alone_rank);
  rig_run_ranks(1, &no_jit, NULL, alone_lt_rank);
}

/* ---- Picks ---- */

static char bank_path[256];

static rig_shape picked[2];

static void write_picks(int driver)
{
  tml_bank_writer *writer;
  tml_problem problem = rig_problem("gemm:bf16:nt:w1:1x64x64");
  assert_int_equal(tml_bank_write_open(&writer, bank_path, NULL, TML_BANK_WAIT_MS), TML_OK);
  for (int i = 0; i < 2; i++) {
    tml_pick pick = {.bucket = i ? 256 : 64,
                     .us = 10,
                     .when = 1,
                     .machine = {.gpu = "Fake H200", .sms = 132, .cc = 90, .driver = driver}};
    snprintf(pick.machine.link, sizeof pick.machine.link, "none");
    tml_pick_key(&problem, pick.key, sizeof pick.key);
    snprintf(pick.variant, sizeof pick.variant, "%s", picked[i].name);
    assert_int_equal(tml_bank_write_pick(writer, &pick), TML_OK);
  }
  assert_int_equal(tml_bank_publish(writer), TML_OK);
  tml_bank_write_close(writer);
}

static int expected_warnings;

/* 1 .. 64 by the first pick, 128 and 256 by the second (the nearest larger), 384 by the model. */
static void picks_rank(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "gemm:bf16:nt:w1:300x64x64", NULL);
  shown all = explain(plan);
  FAKE_CHECK(all.count == 10);
  for (int i = 0; i < all.count; i++) {
    FAKE_CHECK(strcmp(all.source[i], all.bucket[i] <= 256 ? "pick" : "model") == 0);
    if (all.bucket[i] <= 256)
      FAKE_CHECK(strcmp(all.variant[i], picked[all.bucket[i] > 64].name) == 0);
  }
  FAKE_CHECK(rig->warnings == expected_warnings);
  tml_plan_destroy(plan);
}

static void test_picks(void **state)
{
  (void)state;
  char folder[] = "/tmp/tml-plan-XXXXXX", part[300];
  assert_non_null(mkdtemp(folder));
  snprintf(bank_path, sizeof bank_path, "%s/test.bank", folder);
  tml_config config = {.bank = bank_path};
  const int drivers[] = {13000, 12040};
  picked[0] = rig_find("gemm", 1, 128, 192, 1);
  picked[1] = rig_find("gemm", 1, 256, 128, 1);
  for (int i = 0; i < 2; i++) {
    write_picks(drivers[i]);
    expected_warnings = i;
    rig_run_ranks(1, &config, NULL, picks_rank);
    unlink(bank_path);
  }
  for (int i = 0; i < 3; i++) {
    static const char *const suffixes[] = {".part", ".lock", ".part-journal"};
    snprintf(part, sizeof part, "%s%s", bank_path, suffixes[i]);
    unlink(part);
  }
  rmdir(folder);
}

/* ---- Agreement and the door ---- */

static void disagree_rank(test_bed *rig)
{
  tml_plan *plan;
  tml_problem problem = rig_problem("gemm_rs:bf16:nt:w2:256x64x64");
  problem.m += 8 * rig->rank;
  FAKE_CHECK(rig_says(tml_plan_create(&plan, rig->comm, &problem), TML_DISAGREE, "264x64x64"));
  FAKE_CHECK(strstr(tml_last_error(), "256x64x64") != NULL && plan == NULL);
}

static void one_bad_rank(test_bed *rig)
{
  tml_plan *plan;
  tml_problem problem = rig_problem("gemm_rs:bf16:nt:w2:256x64x64");
  if (rig->rank == 1) problem.n = 12;
  FAKE_CHECK(rig_says(tml_plan_create(&plan, rig->comm, &problem), TML_ARGUMENT, "multiple of 8"));
}

static void test_disagree(void **state)
{
  (void)state;
  rig_run_ranks(2, NULL, NULL, disagree_rank);
  rig_run_ranks(2, NULL, NULL, one_bad_rank);
}

static void door_rank(test_bed *rig)
{
  tml_plan *plan;
  tml_problem problem = rig_problem("gemm_rs:bf16:nt:w2:256x64x64");
  FAKE_CHECK(rig_says(tml_plan_create(&plan, rig->comm, NULL), TML_ARGUMENT, "problem is NULL"));
  FAKE_CHECK(rig_says(tml_plan_create(NULL, rig->comm, &problem), TML_ARGUMENT, "out is NULL"));
  FAKE_CHECK(rig_says(tml_plan_create(&plan, NULL, &problem), TML_ARGUMENT, "comm is NULL"));
  problem.world = 4;
  FAKE_CHECK(rig_says(tml_plan_create(&plan, rig->comm, &problem), TML_ARGUMENT, "world is 4"));
  problem.world = 2;
  problem.size = 8;
  FAKE_CHECK(rig_says(tml_plan_create(&plan, rig->comm, &problem), TML_ARGUMENT, "problem.size"));
}

static void test_door(void **state)
{
  (void)state;
  rig_run_ranks(2, NULL, NULL, door_rank);
}

static void sealed_rank(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "gemm_rs:bf16:nt:w2:64x64x64", NULL), *second;
  FAKE_CHECK_OK(tml_seal(rig->ctx));
  tml_problem same = rig_problem("gemm_rs:bf16:nt:w2:64x128x64"),
              other = rig_problem("ag_gemm:bf16:nt:w2:64x64x64");
  FAKE_CHECK(rig_says(tml_plan_create(&second, rig->comm, &other), TML_SEALED, "seal"));
  FAKE_CHECK_OK(
      tml_plan_create(&second, rig->comm, &same)); /* what is loaded serves other sizes too */
  tml_plan_destroy(second);
  tml_plan_destroy(plan);
}

static void test_sealed(void **state)
{
  (void)state;
  rig_run_ranks(2, NULL, NULL, sealed_rank);
}

/* ---- Bytes ---- */

static void bytes_rank(test_bed *rig)
{
  rig_shape ce = rig_find("ag_gemm", 3, 128, 128, 1), push = rig_find("gemm_rs", 3, 128, 128, 1),
            twoshot = rig_find("gemm_ar", 3, 128, 128, 1),
            sm = rig_find_like("ag_gemm", 3, 128, 128, 1, "*.sm");
  struct {
    const char *problem, *variant;
    tml_bytes bytes;
  } rows[] = {
      /* S = 34; 3 shards */
      {"ag_gemm:bf16:nt:w3:100x64x128", ce.name, {.slots = 3 * 34 * 128 * 2}},
      {"ag_gemm:bf16:nt:w3:1000x64x1032", /* 3 blocks of rows x 9 chunks along k */
       sm.name,
       {.staging = 3 * 334 * 1032 * 2, .signals = 8 * 3 * 3 * 9}},
      {"gemm_rs:bf16:nt:w3:100x264x128",
       push.name,
       {.staging = 3 * 34 * 264 * 2, .signals = 8 * 3 * 3}},
      {"gemm_ar:bf16:nt:w3:1000x264x128",
       twoshot.name,
       {.staging = (3 * 334 * 264 * 2 + 1023) / 1024 * 1024 + 3 * 334 * 264 * 2,
        .signals = 8 * 2 * 3 * 3 * 3}},
      {"ag_gemm:bf16:nt:w3:100x64x128",
       "ag_gemm.sm90a.bf16.nt.w3__nccl",
       {.local = 3 * 34 * 128 * 2}},
      {"gemm_rs:bf16:nt:w3:100x64x128",
       "gemm_rs.sm90a.bf16.nt.w3__nccl",
       {.local = 3 * 34 * 64 * 2}},
      {"gemm_ar:bf16:nt:w3:100x64x128", "gemm_ar.sm90a.bf16.nt.w3__nccl", {0}},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    tml_plan *plan = rig_plan(rig, rows[i].problem, rows[i].variant);
    tml_bytes bytes = {.size = sizeof bytes};
    FAKE_CHECK_OK(tml_plan_workspace(plan, &bytes));
    rows[i].bytes.size = sizeof bytes;
    FAKE_CHECK(memcmp(&bytes, &rows[i].bytes, sizeof bytes) == 0);
    tml_plan_destroy(plan);
  }
}

static void test_bytes(void **state)
{
  (void)state;
  rig_run_ranks(3, NULL, NULL, bytes_rank);
}

/* ---- Other plans ---- */

static void variants_of(test_bed *rig, const char *text, char names[2][TML_NAME_BYTES])
{
  tml_plan *plan = rig_plan(rig, text, NULL);
  snprintf(names[0], TML_NAME_BYTES, "%s", tml_plan_variant(plan, 1));
  snprintf(names[1], TML_NAME_BYTES, "%s", tml_plan_variant(plan, 4096));
  tml_plan_destroy(plan);
}

static char fresh[2][TML_NAME_BYTES];

static void fresh_rank(test_bed *rig) { variants_of(rig, "gemm:bf16:nt:w1:4096x4096x4096", fresh); }

/* What an earlier plan compiled is at hand, and no reason to take it. */
static void later_rank(test_bed *rig)
{
  char before[2][TML_NAME_BYTES], later[2][TML_NAME_BYTES];
  variants_of(rig, "gemm:bf16:nt:w1:4096x64x4096", before);
  FAKE_CHECK(strcmp(before[1], fresh[1]) != 0);
  variants_of(rig, "gemm:bf16:nt:w1:4096x4096x4096", later);
  for (int i = 0; i < 2; i++) FAKE_CHECK(strcmp(later[i], fresh[i]) == 0);
}

static void test_order_of_plans(void **state)
{
  (void)state;
  rig_run_ranks(1, NULL, NULL, fresh_rank);
  rig_run_ranks(1, NULL, NULL, later_rank);
}

/* ---- Refused by the compiler ---- */

static atomic_int compiles, bad_compiles;
static nvrtcResult (*compile_well)(nvrtcProgram, int, const char *const *);

static nvrtcResult compile_badly(nvrtcProgram program, int count, const char *const *options)
{
  if (atomic_fetch_add(&compiles, 1) < atomic_load(&bad_compiles)) return NVRTC_ERROR_COMPILATION;
  return compile_well(program, count, options);
}

static void break_compiler(void)
{
  compile_well = fake_table()->nvrtc.p_nvrtcCompileProgram;
  fake_table()->nvrtc.p_nvrtcCompileProgram = compile_badly;
}

static pthread_once_t broken;

/* The first variant on each rank, or on some, does not compile: the next best serves, on all ranks alike, and
 * the refused one is not tried again. */
static void next_best_rank(test_bed *rig)
{
  char names[2][TML_NAME_BYTES];
  pthread_once(&broken, break_compiler);
  tml_plan *plan = rig_plan(rig, "gemm_rs:bf16:nt:w2:64x4096x4096", NULL);
  shown all = explain(plan);
  for (int i = 0; i < all.count; i++) FAKE_CHECK(strcmp(all.source[i], "model") == 0);
  FAKE_CHECK(strstr(rig->warning, "take the next best") != NULL);
  snprintf(names[0], sizeof names[0], "%s", tml_plan_variant(plan, 64));
  tml_plan_destroy(plan);
  int before = atomic_load(&compiles);
  FAKE_CHECK_OK(tml_group_barrier(rig->comm->group));
  plan = rig_plan(rig, "gemm_rs:bf16:nt:w2:64x4096x4096", NULL);
  FAKE_CHECK(strcmp(tml_plan_variant(plan, 64), names[0]) == 0);
  FAKE_CHECK(atomic_load(&compiles) == before);
  tml_plan_destroy(plan);
}

static void test_next_best(void **state)
{
  (void)state;
  tml_config strict = {.strict = 1};
  for (int bad = 1; bad <= 2; bad++) {
    broken = (pthread_once_t)PTHREAD_ONCE_INIT;
    atomic_store(&compiles, 0);
    atomic_store(&bad_compiles, bad);
    rig_run_ranks(2, &strict, NULL, next_best_rank);
  }
}

/* Nothing compiles: three rounds, then the compiler's own word on every rank. */
static void no_compiler_rank(test_bed *rig)
{
  tml_plan *plan = NULL;
  tml_problem problem = rig_problem("gemm_rs:bf16:nt:w2:64x4096x4096");
  pthread_once(&broken, break_compiler);
  FAKE_CHECK(tml_plan_create(&plan, rig->comm, &problem) == TML_COMPILE && plan == NULL);
}

static void test_broken_compiler(void **state)
{
  (void)state;
  tml_config strict = {.strict = 1};
  broken = (pthread_once_t)PTHREAD_ONCE_INIT;
  atomic_store(&compiles, 0);
  atomic_store(&bad_compiles, 1 << 30);
  rig_run_ranks(2, &strict, NULL, no_compiler_rank);
  assert_true(atomic_load(&compiles) >= 2 && atomic_load(&compiles) < 64);
}

/* ---- Devices that hold unlike numbers of clusters ---- */

static CUresult (*same_clusters)(int *, CUfunction, const CUlaunchConfig *);
static _Thread_local int fewer;

static CUresult some_clusters(int *count, CUfunction function, const CUlaunchConfig *config)
{
  CUresult result = same_clusters(count, function, config);
  *count -= fewer;
  return result;
}

static void be_uneven(void)
{
  same_clusters = fake_table()->cuda.p_cuOccupancyMaxActiveClusters;
  fake_table()->cuda.p_cuOccupancyMaxActiveClusters = some_clusters;
}

static unsigned grids[2];

static void uneven_rank(test_bed *rig)
{
  const char *name = rig_find("gemm_rs", 2, 128, 128, 2).name;
  pthread_once(&broken, be_uneven);
  fewer = 3 * rig->rank;
  tml_plan *plan = rig_plan(rig, "gemm_rs:bf16:nt:w2:8192x4096x64", name);
  grids[rig->rank] = (unsigned)tml_grid(&plan->choices->variant, plan->choices->max_clusters,
                                        &plan->problem, 8192);
  tml_plan_destroy(plan);
}

static void test_uneven_devices(void **state)
{
  (void)state;
  broken = (pthread_once_t)PTHREAD_ONCE_INIT;
  rig_run_ranks(2, NULL, NULL, uneven_rank);
  assert_int_equal(grids[0], 132 - 2 * 3);
  assert_int_equal(grids[0], grids[1]);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_model),           cmocka_unit_test(test_fallback),
      cmocka_unit_test(test_bias_kernel),     cmocka_unit_test(test_forced),
      cmocka_unit_test(test_world_of_one),    cmocka_unit_test(test_picks),
      cmocka_unit_test(test_disagree),        cmocka_unit_test(test_door),
      cmocka_unit_test(test_sealed),          cmocka_unit_test(test_bytes),
      cmocka_unit_test(test_order_of_plans),  cmocka_unit_test(test_next_best),
      cmocka_unit_test(test_broken_compiler), cmocka_unit_test(test_uneven_devices),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
