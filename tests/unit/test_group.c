/* Group operations: results, votes, time-outs, failures of every call. */
#include <unistd.h>

#include "comm_fixture.h"

static void run_operations(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  int world = *(int *)user, all[TML_MAX_WORLD], from_last = rank * 11;
  double most[2] = {rank, -rank};
  tml_group *group = NULL;
  FAKE_CHECK_OK(tml_group_create(&group, ctx, nccl));
  if (!group) return;
  FAKE_CHECK(tml_group_rank(group) == rank && tml_group_world(group) == world);
  FAKE_CHECK((tml_group_nccl(group) != NULL) == (world > 1));
  for (int i = 0; i < 3; ++i) {
    int mine = 100 * i + rank;
    FAKE_CHECK_OK(tml_group_all_gather(group, &mine, all, sizeof mine));
    for (int r = 0; r < world; ++r) FAKE_CHECK(all[r] == 100 * i + r);
  }
  FAKE_CHECK_OK(tml_group_broadcast(group, &from_last, sizeof from_last, world - 1));
  FAKE_CHECK(from_last == (world - 1) * 11);
  FAKE_CHECK_OK(tml_group_max(group, most, 2));
  FAKE_CHECK(most[0] == world - 1 && most[1] == 0);
  FAKE_CHECK_OK(tml_group_vote(group, TML_OK, "all is well"));
  FAKE_CHECK_OK(tml_group_barrier(group));
  FAKE_CHECK(tml_group_broadcast(group, &from_last, sizeof from_last, world) == TML_ARGUMENT);
  FAKE_CHECK(tml_group_max(group, most, TML_GROUP_BYTES) == TML_ARGUMENT);
  FAKE_CHECK(!tml_group_dead(group));
  tml_group_destroy(group, 1);
}

static void test_operations(void **state)
{
  (void)state;
  for (int world = 1; world <= TML_MAX_WORLD; ++world) {
    fixture_run_ranks(fake_open(NULL), world, 0, run_operations, &world);
    fixture_expect_clean();
  }
}

static void test_world_of_one_needs_nothing(void **state)
{
  (void)state;
  int world = 1;
  tml_ctx ctx;
  fixture_ctx_open(&ctx, fake_open(&(fake_config){.no_nccl = 1}), 0);
  long before = fake_calls();
  run_operations(&world, &ctx, 0, NULL);
  assert_int_equal(fake_calls(), before);
  fixture_ctx_close(&ctx);
  fixture_expect_clean();
}

static void run_vote(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_group *group = NULL;
  (void)user;
  FAKE_CHECK_OK(tml_group_create(&group, ctx, nccl));
  if (!group) return;
  tml_status mine = rank == 1   ? tml_fail(TML_MEMORY, "no room at rank one")
                    : rank == 2 ? tml_fail(TML_COMPILE, "ptxas of rank two")
                                : TML_OK;
  FAKE_CHECK(tml_group_vote(group, mine, "loading") == TML_MEMORY);
  FAKE_CHECK(fixture_says(rank == 2 ? "ptxas of rank two" : "no room at rank one"));
  if (rank == 0) FAKE_CHECK(fixture_says("loading: rank 1"));
  FAKE_CHECK_OK(tml_group_vote(group, TML_OK, "loading again"));
  tml_group_destroy(group, 1);
}

static void test_vote(void **state)
{
  (void)state;
  fixture_run_ranks(fake_open(NULL), 4, 0, run_vote, NULL);
  fixture_expect_clean();
}

/* Rank 2 takes no part in the second operation. */
static void run_late(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_group *group = NULL;
  (void)user;
  FAKE_CHECK_OK(tml_group_create(&group, ctx, nccl));
  if (!group) return;
  FAKE_CHECK_OK(tml_group_barrier(group));
  if (rank != 2) {
    uint64_t start = tml_now_ns();
    FAKE_CHECK(tml_group_vote(group, TML_OK, "opening the gate") == TML_TIMEOUT);
    FAKE_CHECK(fixture_says("opening the gate") && fixture_says("2"));
    double waited = fixture_seconds_since(start);
    FAKE_CHECK(waited > 0.25 && waited < 3);
    start = tml_now_ns();
    FAKE_CHECK(tml_group_barrier(group) == TML_TIMEOUT && fixture_says("recreate"));
    FAKE_CHECK(tml_group_vote(group, tml_fail(TML_IO, "mine"), "x") == TML_IO &&
               fixture_says("mine"));
    FAKE_CHECK(fixture_seconds_since(start) < 0.1);
    FAKE_CHECK(tml_group_dead(group) && tml_group_nccl(group) == NULL);
  }
  tml_group_destroy(group, 0);
}

static void test_late_rank(void **state)
{
  (void)state;
  fixture_run_ranks(fake_open(NULL), 3, 3e5, run_late, NULL);
  fixture_expect_clean();
}

/* Rank 1 never creates its group, and the parent communicator blocks: the split is left behind. */
static void run_missing(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_group *group = NULL;
  (void)user;
  if (rank == 1) return;
  uint64_t start = tml_now_ns();
  FAKE_CHECK(tml_group_create(&group, ctx, nccl) == TML_TIMEOUT);
  FAKE_CHECK(fixture_says("for rank 1"));
  FAKE_CHECK(fixture_seconds_since(start) < 0.8);
  struct timespec until_nccl_gives_up = {1, 500000000};
  nanosleep(&until_nccl_gives_up, NULL);
}

static void test_missing_rank(void **state)
{
  (void)state;
  fixture_run_ranks(fake_open(&(fake_config){.nccl_wait_ms = 1000}), 2, 2e5, run_missing, NULL);
  fixture_expect_clean();
}

/* Ranks at different calls find out instead of reading each other's bytes. */
static void run_out_of_step(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_group *group = NULL;
  double bytes[3] = {0}, all[6];
  (void)user;
  FAKE_CHECK_OK(tml_group_create(&group, ctx, nccl));
  if (!group) return;
  tml_status status = rank == 0 ? tml_group_vote(group, TML_OK, "planning the first")
                                : tml_group_all_gather(group, bytes, all, sizeof bytes);
  FAKE_CHECK(status == TML_DISAGREE);
  FAKE_CHECK(fixture_says("planning the first") && fixture_says("rank 1 at 1 (exchange"));
  FAKE_CHECK(tml_group_dead(group));
  tml_group_destroy(group, 0);
}

static void test_out_of_step(void **state)
{
  (void)state;
  fixture_run_ranks(fake_open(NULL), 2, 0, run_out_of_step, NULL);
  fixture_expect_clean();
}

static void run_without_nccl(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_group *group = NULL;
  (void)user, (void)rank;
  tml_api bare = *ctx->api;
  bare.has_nccl = 0;
  snprintf(bare.why_nccl, sizeof bare.why_nccl, "install libnccl2");
  ctx->api = &bare;
  FAKE_CHECK(tml_group_create(&group, ctx, nccl) == TML_DRIVER);
  FAKE_CHECK(fixture_says("install libnccl2"));
  ctx->api = fake_table();
}

static void test_no_nccl(void **state)
{
  (void)state;
  fixture_run_ranks(fake_open(NULL), 2, 0, run_without_nccl, NULL);
  fixture_expect_clean();
}

/* A rank that cannot set itself up is known at once to the others. */
static void run_no_buffers(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_group *group = NULL;
  (void)user;
  uint64_t start = tml_now_ns();
  /* Past the calls that ask for the place and enter the context: the first of the buffers. */
  if (rank == 1) fake_fail_thread_call(6, CUDA_ERROR_OUT_OF_MEMORY);
  tml_status status = tml_group_create(&group, ctx, nccl);
  fake_fail_thread_call(0, CUDA_SUCCESS);
  FAKE_CHECK(status == (rank == 1 ? TML_MEMORY : TML_DRIVER));
  if (rank != 1) FAKE_CHECK(fixture_says("only 2 of 3"));
  FAKE_CHECK(fixture_seconds_since(start) < 2);
}

static void test_rank_without_buffers(void **state)
{
  (void)state;
  fixture_run_ranks(fake_open(NULL), 3, 0, run_no_buffers, NULL);
  fixture_expect_clean();
}

typedef struct kth {
  long call; /* that fails at rank 1 */
  int happened;
} kth;

static void run_kth(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  kth *k = user;
  tml_group *group = NULL;
  int all[2];
  if (rank == 1) fake_fail_thread_call(k->call, CUDA_ERROR_UNKNOWN);
  long before = fake_thread_calls();
  tml_status status = tml_group_create(&group, ctx, nccl);
  if (status == TML_OK) status = tml_group_all_gather(group, &rank, all, sizeof rank);
  if (status == TML_OK) status = tml_group_vote(group, TML_OK, "vote");
  tml_group_destroy(group, status == TML_OK);
  if (rank == 1) {
    k->happened = fake_thread_calls() - before >= k->call;
    fake_fail_thread_call(0, CUDA_SUCCESS);
  }
}

static void test_kth_call_fails(void **state)
{
  (void)state;
  kth k = {.call = 0, .happened = 1};
  while (k.happened) {
    ++k.call;
    fixture_run_ranks(fake_open(&(fake_config){.nccl_wait_ms = 60}), 2, 1.5e5, run_kth, &k);
    fixture_expect_clean();
  }
  assert_true(k.call > 20);
}

/* ---- A split that NCCL finishes after we have given it up ---- */

static ncclComm_t *split_child[2];

static int silent_split(ncclComm_t parent, int color, int key, ncclComm_t *out,
                        tml_nccl_config *config)
{
  (void)parent, (void)color, (void)config;
  split_child[key] = out;
  return TML_NCCL_SUCCESS; /* said before the child is there */
}

static int well(ncclComm_t comm, int *state)
{
  (void)comm;
  *state = TML_NCCL_SUCCESS;
  return TML_NCCL_SUCCESS;
}

static int lost(ncclComm_t comm, int *state)
{
  (void)comm, (void)state;
  return 1;
}

static void run_silent_split(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_group *group = NULL;
  FAKE_CHECK(tml_group_create(&group, ctx, nccl) == *(tml_status *)user && group == NULL);
  usleep(100000);
  *split_child[rank] = nccl; /* still NCCL's to write: the sanitizers would tell */
}

static void check_silent_split(int (*ask)(ncclComm_t, int *), tml_status expected)
{
  const tml_api *api = fake_open(NULL);
  fake_table()->nccl.CommSplit = silent_split;
  fake_table()->nccl.CommGetAsyncError = ask;
  fixture_run_ranks(api, 2, 1e5, run_silent_split, &expected);
  assert_int_equal(fake_check_failures(), 0);
}

static void test_late_split(void **state)
{
  (void)state;
  check_silent_split(well, TML_TIMEOUT);
  check_silent_split(lost, TML_DRIVER);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_operations),     cmocka_unit_test(test_world_of_one_needs_nothing),
      cmocka_unit_test(test_vote),           cmocka_unit_test(test_late_rank),
      cmocka_unit_test(test_missing_rank),   cmocka_unit_test(test_out_of_step),
      cmocka_unit_test(test_no_nccl),        cmocka_unit_test(test_rank_without_buffers),
      cmocka_unit_test(test_kth_call_fails), cmocka_unit_test(test_late_split),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
