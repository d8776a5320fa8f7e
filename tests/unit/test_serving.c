/* The life of a serving process over the fakes: what a launch may do, sealed, eager and captured, in
 * worlds of 1 to 8, fused and unfused. */
#include "serving.h"

#include <stdio.h>

/* Calls that a launch must never make. */
static const char *const forbidden[] = {"cuMemAlloc",         "cuMemFree",
                                        "cuMemHostAlloc",     "cuMemCreate",
                                        "cuMemMap",           "cuLibraryLoadData",
                                        "cuLibraryGetKernel", "cuCtxSynchronize",
                                        "cuEventCreate",      "cuMemcpyHtoD",
                                        "cuMemcpyDtoH",       "cuStreamSynchronize",
                                        "cuEventSynchronize", "cuStreamCreateWithPriority",
                                        "cublasLtCreate",     "cublasLtMatmulAlgoGetHeuristic",
                                        "ncclCommSplit"};

static long forbidden_calls(void)
{
  long calls = 0;
  for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++)
    calls += fake_calls_of(forbidden[i]);
  return calls;
}

typedef struct life_run {
  const char *problem, *pattern;
  pthread_barrier_t *barrier;
} life_run;

/* One eager call and a captured one per m, replayed twice; m 0, 1, odd, full. */
static void launch_all(const serving *s)
{
  const tml_api *api = fake_table();
  const int64_t rows[] = {0, 1, 17, s->problem.m};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    tml_args args = serving_args(s, rows[i]);
    CUgraph graph;
    CUgraphExec exec;
    FAKE_CHECK_OK(tml_launch(s->plan, &args, s->stream));
    FAKE_CHECK(api->cuda.p_cuStreamBeginCapture(s->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) ==
               0);
    FAKE_CHECK_OK(tml_launch(s->plan, &args, s->stream));
    FAKE_CHECK_OK(tml_launch(s->plan, &args, s->stream));
    if (!FAKE_CHECK(api->cuda.p_cuStreamEndCapture(s->stream, &graph) == 0)) return;
    FAKE_CHECK(api->cuda.p_cuGraphInstantiate(&exec, graph, 0) == 0);
    FAKE_CHECK(api->cuda.p_cuGraphLaunch(exec, s->stream) == 0);
    FAKE_CHECK(api->cuda.p_cuGraphLaunch(exec, s->stream) == 0);
    FAKE_CHECK(api->cuda.p_cuGraphExecDestroy(exec) == 0);
    FAKE_CHECK(api->cuda.p_cuGraphDestroy(graph) == 0);
  }
  tml_args args = serving_args(s, s->problem.m + 1);
  FAKE_CHECK(tml_launch(s->plan, &args, s->stream) == TML_ARGUMENT);
}

static void life_rank(void *user, int rank, ncclComm_t *nccl)
{
  life_run *run = user;
  serving s;
  tml_counters before = {.size = sizeof before}, after = {.size = sizeof after};
  int open = serving_open(&s, rank, *nccl, run->problem, run->pattern);
  if (open) FAKE_CHECK_OK(tml_seal(s.ctx));
  pthread_barrier_wait(run->barrier);
  long calls = forbidden_calls();
  if (open) FAKE_CHECK_OK(tml_ctx_counters(s.ctx, &before));
  if (open) launch_all(&s);
  if (open) FAKE_CHECK_OK(tml_ctx_counters(s.ctx, &after));
  pthread_barrier_wait(run->barrier);
  FAKE_CHECK(forbidden_calls() == calls);
  FAKE_CHECK(after.compiles == before.compiles && after.loads == before.loads);
  tml_fault fault = {.size = sizeof fault};
  if (open) FAKE_CHECK_OK(tml_poll(s.comm, &fault));
  pthread_barrier_wait(run->barrier);
  serving_close(&s);
}

static void live(int world, const char *problem, const char *pattern)
{
  pthread_barrier_t barrier;
  life_run run = {problem, pattern, &barrier};
  fake_open(NULL);
  pthread_barrier_init(&barrier, NULL, (unsigned)world);
  fake_run_ranks(world, life_rank, &run);
  pthread_barrier_destroy(&barrier);
  int failures = fake_check_failures();
  if (failures) fprintf(stderr, "in %s %s\n", problem, pattern);
  assert_int_equal(failures, 0);
  assert_int_equal(fake_check_clean(), 0);
}

static void fused_patterns(void **state)
{
  (void)state;
  live(1, "gemm:bf16:nt:w1:300x264x136", "none");
  for (int world = 2; world <= 8; world += 3) {
    char problem[96];
    const char *const op[] = {"ag_gemm", "ag_gemm", "gemm_rs", "gemm_rs", "gemm_ar"};
    const char *const pattern[] = {"ce", "sm", "push", "ring", "twoshot"};
    for (int i = 0; i < 5; i++) {
      snprintf(problem, sizeof problem, "%s:fp16:nt:w%d:301x264x136", op[i], world);
      live(world, problem, pattern[i]);
    }
  }
}

static void unfused_patterns(void **state)
{
  (void)state;
  live(2, "ag_gemm:bf16:nt:w2:33x24x16", "nccl");
  live(3, "gemm_rs:bf16:nt:w3:34x24x16:bias", "nccl");
  live(2, "gemm_ar:fp16:nt:w2:33x24x16", "nccl");
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(fused_patterns),
                                     cmocka_unit_test(unfused_patterns)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
