/* What bench computes from its rows: the bound, ratios, means; and the times of peers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bench.h"

#define CLOSE(a, b) assert_true(fabs((a) - (b)) < 1e-6)

static tml_problem problem_of(const char *text)
{
  tml_problem p = {.size = sizeof p};
  assert_int_equal(tml_problem_parse(&p, text), TML_OK);
  return p;
}

static bench_row row_of(const char *text, double us, double lt, double unfused, double own,
                        double bound)
{
  bench_row row = {.problem = problem_of(text), .regime = "burst"};
  row.us = us;
  row.lt_us = lt;
  row.unfused_us = unfused;
  row.own_us = own;
  row.bound_us = bound;
  return row;
}

static void the_bound_knows_bytes_and_engine(void **state)
{
  static const struct {
    const char *problem;
    double bytes;
  } cases[] = {{"ag_gemm:bf16:nt:w2:1000x64x512", 500 * 512 * 2},
               {"ag_gemm:bf16:nt:w4:1001x64x512", 3 * 251 * 512 * 2}, /* shards round up */
               {"gemm_rs:fp16:nt:w2:1000x64x512", 500 * 64 * 2},
               {"gemm_ar:bf16:nt:w2:1000x64x512", 2 * 500 * 64 * 2}};
  const bench_link_rates link = {.copies = 400, .stores = 200}, half = {400, NAN};
  const tml_variant ce = {.kind = TML_KIND_FUSED, .pattern = TML_PATTERN_CE};
  const tml_variant push = {.kind = TML_KIND_FUSED, .pattern = TML_PATTERN_PUSH};
  const tml_variant nccl = {.kind = TML_KIND_LIBRARY, .pattern = TML_PATTERN_NCCL};
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    tml_problem p = problem_of(cases[i].problem);
    double us = cases[i].bytes * 1e-3; /* at 1 GB/s */
    CLOSE(bench_bound(&p, 0.001, &link, &ce), us / 400);
    CLOSE(bench_bound(&p, 0.001, &link, &push), us / 200);
    CLOSE(bench_bound(&p, 0.001, &link, &nccl), us / 400); /* the faster engine */
    CLOSE(bench_bound(&p, 0.001, &half, &push), us / 400); /* what is known */
    CLOSE(bench_bound(&p, 1e6, &link, &push), 1e6);        /* the GEMM alone */
    CLOSE(bench_bound(&p, NAN, &link, &ce), us / 400);
  }
  tml_problem gemm = problem_of("gemm:bf16:nt:w1:1000x64x512");
  CLOSE(bench_bound(&gemm, 7, &link, &nccl), 7);
}

static void ratios_above_one_are_ours(void **state)
{
  bench_row fused = row_of("gemm_rs:bf16:nt:w2:512x64x64", 110, 100, 150, 120, 100);
  bench_row gemm = row_of("gemm:bf16:nt:w1:512x64x64", 20, 20, NAN, 25, 20);
  bench_peer peer = {.us = 55};
  (void)state;
  CLOSE(bench_ratio(&fused), 150.0 / 110);
  CLOSE(bench_own_ratio(&fused), 150.0 / 120);
  CLOSE(bench_over_bound(&fused), 1.1);
  CLOSE(bench_efficiency(&fused), 80);
  CLOSE(bench_ratio(&gemm), 1);
  CLOSE(bench_own_ratio(&gemm), 0.8); /* our kernel is slower: below 1 */
  assert_true(isnan(bench_efficiency(&gemm)));
  assert_true(isnan(bench_peer_ratio(&fused)));
  fused.peer = &peer;
  CLOSE(bench_peer_ratio(&fused), 0.5);
  fused.unfused_us = 90; /* nothing was exposed: no efficiency */
  assert_true(isnan(bench_efficiency(&fused)));
  fused.unfused_us = INFINITY;
  assert_true(isnan(bench_efficiency(&fused)));
}

static void means_are_by_op_regime_and_m(void **state)
{
  bench_peer slow = {.us = 400}, fast = {.us = 90};
  bench_row rows[] = {
      row_of("gemm_rs:bf16:nt:w2:512x64x64", 200, 100, 150, 120, 100),
      row_of("gemm_rs:bf16:nt:w2:1024x64x64", 120, 100, 140, 150, 120),
      row_of("gemm_rs:bf16:nt:w2:2048x64x64", 110, 100, 150, 120, 100),
      row_of("gemm_rs:bf16:nt:w2:4096x64x64", INFINITY, 100, 150, 120, 100), /* failed */
      row_of("gemm_rs:bf16:nt:w2:4096x64x64", 150, 100, 150, 120, 100),
  };
  (void)state;
  rows[0].missed = 1;
  rows[0].peer = &slow;
  rows[1].peer = &fast;
  rows[4].regime = "sustained";
  bench_means low = bench_means_of(rows, 5, TML_GEMM_RS, "burst", 0, 2048);
  assert_int_equal(low.rows, 2);
  assert_int_equal(low.missed, 1);
  assert_int_equal(low.slower, 1);
  CLOSE(low.over_bound, sqrt(2.0 * 1.0));
  CLOSE(low.efficiency, (-100.0 + 50.0) / 2);
  CLOSE(low.best_efficiency, 50);
  CLOSE(low.peer, sqrt(2 * 0.75));
  CLOSE(low.ratio, sqrt(0.75 * 140 / 120));
  assert_ptr_equal(low.worst, &rows[0]);
  bench_means high = bench_means_of(rows, 5, TML_GEMM_RS, "burst", 2048, INT64_MAX);
  assert_int_equal(high.rows, 2);
  CLOSE(high.over_bound, 1.1); /* what failed has no place in a mean */
  assert_true(isnan(high.peer));
  assert_int_equal(bench_means_of(rows, 5, TML_GEMM_AR, "burst", 0, INT64_MAX).rows, 0);
  table *t = bench_means_table(rows, 5);
  assert_int_equal(table_rows(t), 5); /* burst: both groups and all; sustained: one, and all */
  table_free(t);
}

static void plain_gemms_are_ranked_by_our_own(void **state)
{
  bench_row rows[] = {row_of("gemm:bf16:nt:w1:512x64x64", 20, 20, NAN, 40, 20),
                      row_of("gemm:bf16:nt:w1:1024x64x64", 18, 20, NAN, 18, 20)};
  (void)state;
  bench_means m = bench_means_of(rows, 2, TML_GEMM, "burst", 0, INT64_MAX);
  CLOSE(m.own_least, 0.5);
  CLOSE(m.own, sqrt(0.5 * 20 / 18));
  assert_ptr_equal(m.worst, &rows[0]);
}

static void peers_are_matched(void **state)
{
  static const char text[] =
      "[{\"problem\": \"ag_gemm:bf16:nt:w2:512x64x64\", \"gemm\": 5, \"nccl\": 9.5, \"symm\": 8},"
      " {\"problem\": \"ag_gemm:bf16:nt:w2:512x64x64\", \"other\": 7.5, \"note\": \"text\"},"
      " {\"problem\": \"ag_gemm:bf16:nt:w2:512x64x64\", \"regime\": \"sustained\", \"symm\": 11},"
      " {\"problem\": \"ag_gemm:bf16:nt:w2:1024x64x64\", \"gemm\": 5},"
      " {\"problem\": \"gemm:bf16:nt:w2:512x64x64\", \"gemm\": 4}]";
  bench_peers peers = {0};
  tml_problem p = problem_of("ag_gemm:bf16:nt:w2:512x64x64");
  (void)state;
  assert_null(peers_parse(&peers, text, "burst"));
  const bench_peer *best = peers_best(&peers, &p, "burst");
  assert_non_null(best);
  CLOSE(best->us, 7.5);
  assert_string_equal(best->name, "other");
  CLOSE(peers_best(&peers, &p, "sustained")->us, 11);
  p.m = 1024; /* the GEMM alone does not do the same work */
  assert_null(peers_best(&peers, &p, "burst"));
  p = problem_of("gemm:bf16:nt:w1:512x64x64");
  CLOSE(peers_best(&peers, &p, "burst")->us, 4);
  peers_free(&peers);
}

static void peers_that_cannot_be_used_are_named(void **state)
{
  static const struct {
    const char *text, *regime, *why;
  } cases[] = {
      {"{}", "burst", "not a JSON list"},
      {"[", "burst", "not a JSON list"},
      {"[{\"symm\": 1}]", "burst", "no \"problem\""},
      {"[{\"problem\": \"gemm\"}]", "burst", "gemm"},
      {"[{\"problem\": \"gemm:bf16:nt:w1:8x8x8\", \"x\": 1}]", NULL, "one regime at a time"},
  };
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    bench_peers peers = {0};
    const char *why = peers_parse(&peers, cases[i].text, cases[i].regime);
    assert_non_null(why);
    if (!strstr(why, cases[i].why)) fail_msg("%s: %s", cases[i].text, why);
    peers_free(&peers);
  }
}

static void columns_of_peers_are_shown_when_there_are_some(void **state)
{
  table_column with[BENCH_COLUMNS], without[BENCH_COLUMNS];
  int hidden = 0;
  (void)state;
  bench_columns(1, with);
  bench_columns(0, without);
  for (int i = 0; i < BENCH_COLUMNS; i++) hidden += with[i].title && !without[i].title;
  assert_int_equal(hidden, 3);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_bound_knows_bytes_and_engine),
      cmocka_unit_test(ratios_above_one_are_ours),
      cmocka_unit_test(means_are_by_op_regime_and_m),
      cmocka_unit_test(plain_gemms_are_ranked_by_our_own),
      cmocka_unit_test(peers_are_matched),
      cmocka_unit_test(peers_that_cannot_be_used_are_named),
      cmocka_unit_test(columns_of_peers_are_shown_when_there_are_some),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
