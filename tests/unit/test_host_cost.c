/* What tml_launch costs the host: median over a table whose calls do nothing, at most 5 microseconds. */
#include "serving.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CALLS 20001

#if defined(__SANITIZE_ADDRESS__)
#define LIMIT_US 200.0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LIMIT_US 200.0
#endif
#endif
#ifndef LIMIT_US
#define LIMIT_US 5.0
#endif

typedef struct cost_run {
  const char *problem, *pattern;
  pthread_barrier_t *barrier;
  double *few, *many; /* of rank 0 */
} cost_run;

static double now_us(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e6 * (double)now.tv_sec + 1e-3 * (double)now.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* `sizes` different m in turn: a few, as in a serving loop, or more than anything can remember. 16 layers share
 * the plan. */
static double median_us(const serving *s, int sizes)
{
  static double us[CALLS];
  tml_args args = serving_args(s, s->problem.m);
  for (int i = 0; i < CALLS; i++) {
    args.m = s->problem.m - i % sizes;
    args.b = (const char *)s->b + 4096 * (i % 16);
    double start = now_us();
    tml_status status = tml_launch(s->plan, &args, s->stream);
    us[i] = now_us() - start;
    if (status != TML_OK) {
      FAKE_CHECK_OK(status);
      return 1e9;
    }
  }
  qsort(us, CALLS, sizeof *us, by_size);
  return us[CALLS / 2];
}

static void cost_rank(void *user, int rank, ncclComm_t *nccl)
{
  cost_run *run = user;
  serving s;
  int open = serving_open(&s, rank, *nccl, run->problem, run->pattern);
  if (open) {
    tml_args args = serving_args(&s, s.problem.m);
    FAKE_CHECK_OK(tml_launch(s.plan, &args, s.stream));
  }
  pthread_barrier_wait(run->barrier);
  if (rank == 0) {
    fake_null(1);
    *run->few = open ? median_us(&s, 3) : 1e9;
    *run->many = open ? median_us(&s, 4001) : 1e9;
    fake_null(0);
  }
  pthread_barrier_wait(run->barrier);
  serving_close(&s);
}

static void measure(int world, const char *problem, const char *pattern)
{
  pthread_barrier_t barrier;
  double few = 1e9, many = 1e9;
  cost_run run = {problem, pattern, &barrier, &few, &many};
  fake_open(NULL);
  pthread_barrier_init(&barrier, NULL, (unsigned)world);
  fake_run_ranks(world, cost_rank, &run);
  pthread_barrier_destroy(&barrier);
  printf("%-36s %-8s median %.2f us, %.2f us with ever new m\n", problem, pattern, few, many);
  assert_int_equal(fake_check_failures(), 0);
  assert_int_equal(fake_check_clean(), 0);
  assert_true(few <= LIMIT_US && many <= LIMIT_US);
}

static void launches_are_cheap(void **state)
{
  (void)state;
  measure(1, "gemm:bf16:nt:w1:4096x4096x4096", "none");
  measure(2, "ag_gemm:bf16:nt:w2:4096x4096x4096", "ce");
  measure(2, "gemm_rs:bf16:nt:w2:4096x4096x4096", "push");
  measure(2, "gemm_ar:bf16:nt:w2:4096x4096x4096", "twoshot");
  measure(8, "ag_gemm:bf16:nt:w8:4096x4096x4096", "ce");
  measure(8, "ag_gemm:bf16:nt:w8:4096x4096x4096", "sm");
  measure(8, "gemm_ar:bf16:nt:w8:4096x4096x4096", "twoshot");
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(launches_are_cheap)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
