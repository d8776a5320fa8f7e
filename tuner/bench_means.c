/* What is computed from measured rows: ratios, the bound, means. Pure. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/problem.h"
#include "bench.h"
#include "stats.h"

#define LARGE_M 2048 /* from here on an overlap has several waves of tiles to hide behind */

/* The engine that moves the variant's bytes; a library may use either. NAN loses in fmax. */
static double rate_of(const bench_link_rates *link, const tml_variant *v)
{
  double best = fmax(link->copies, link->stores);
  double own = v->pattern == TML_PATTERN_CE ? link->copies : link->stores;
  return v->kind != TML_KIND_LIBRARY && own > 0 ? own : best;
}

/* That this rank must send. */
static double bytes_of(const tml_problem *p)
{
  int64_t shard = (p->m + p->world - 1) / p->world;
  double width = p->op == TML_AG_GEMM ? (double)p->k : (double)p->n;
  double bytes = (p->world - 1) * (double)shard * width * 2;
  return p->op == TML_GEMM_AR ? 2 * bytes : bytes;
}

double bench_bound(const tml_problem *p, double lt_us, const bench_link_rates *link,
                   const tml_variant *v)
{
  return p->op == TML_GEMM ? lt_us : fmax(lt_us, bytes_of(p) / rate_of(link, v) * 1e-3);
}

double bench_ratio(const bench_row *r)
{
  return (r->problem.op == TML_GEMM ? r->lt_us : r->unfused_us) / r->us;
}

double bench_own_ratio(const bench_row *r)
{
  return (r->problem.op == TML_GEMM ? r->lt_us : r->unfused_us) / r->own_us;
}

double bench_over_bound(const bench_row *r) { return r->us / r->bound_us; }

double bench_efficiency(const bench_row *r)
{
  double exposed = r->unfused_us - r->lt_us;
  return exposed > 0 && isfinite(exposed) ? 100 * (1 - (r->us - r->lt_us) / exposed) : NAN;
}

double bench_peer_ratio(const bench_row *r) { return r->peer ? r->peer->us / r->us : NAN; }

/* ---- Means ---- */

/* How bad a row is; NAN: it cannot be told. */
static double badness(const bench_row *r)
{
  return r->problem.op == TML_GEMM ? 1 / bench_own_ratio(r) : bench_over_bound(r);
}

static void take_row(bench_means *m, const bench_row *r)
{
  double e = bench_efficiency(r), own = bench_own_ratio(r);
  m->missed += r->missed;
  m->slower += bench_peer_ratio(r) < 1;
  m->best_efficiency = fmax(m->best_efficiency, e); /* NAN loses */
  if (own > 0) m->own_least = fmin(m->own_least, own);
  if (isfinite(badness(r)) && (!m->worst || badness(r) > badness(m->worst))) m->worst = r;
}

static int belongs(const bench_row *r, tml_op op, const char *which, int64_t from, int64_t below)
{
  return r->problem.op == op && strcmp(r->regime, which) == 0 && r->problem.m >= from &&
         r->problem.m < below;
}

bench_means bench_means_of(const bench_row *rows, size_t count, tml_op op, const char *which,
                           int64_t from, int64_t below)
{
  bench_means m = {.efficiency = NAN, .best_efficiency = NAN, .own_least = NAN};
  double *all = malloc(5 * (count + 1) * sizeof *all);
  size_t n = 0, hidden = 0;
  if (!all) return m;
  for (size_t i = 0; i < count; i++) {
    if (!belongs(&rows[i], op, which, from, below)) continue;
    take_row(&m, &rows[i]);
    all[n] = bench_ratio(&rows[i]);
    all[count + n] = bench_over_bound(&rows[i]);
    all[2 * count + n] = bench_own_ratio(&rows[i]);
    all[3 * count + n++] = bench_peer_ratio(&rows[i]);
    double e = bench_efficiency(&rows[i]);
    if (isfinite(e)) all[4 * count + hidden++] = e;
  }
  m.rows = (int)n;
  m.ratio = stats_geomean(all, n);
  m.over_bound = stats_geomean(all + count, n);
  m.own = stats_geomean(all + 2 * count, n);
  m.peer = stats_geomean(all + 3 * count, n);
  m.efficiency = stats_mean(all + 4 * count, hidden);
  free(all);
  return m;
}

static const table_column columns[] = {
    {"op", "op", 's', 0, 0},
    {"regime", "regime", 's', 0, 0},
    {"m", "m", 's', 0, 0},
    {"rows", "rows", 'd', 0, 0},
    {"missed", "missed", 'd', 0, 0},
    {"ratio", "ratio", 'f', 3, 0},
    {"us/bound", "over_bound", 'f', 3, 0},
    {"mean E %", "efficiency", 'f', 1, 0},
    {"best E %", "best_efficiency", 'f', 1, 0},
    {"lt/own", "own_ratio", 'f', 3, 0},
    {"least", "own_ratio_least", 'f', 3, 0},
    {"peer/us", "peer_ratio", 'f', 3, 0},
    {"slower", "slower_than_peer", 'd', 0, 0},
    {"worst row", "worst", 's', 0, 0},
};

static void add_means(table *t, const char *op, const char *which, const char *group,
                      const bench_means *m)
{
  char worst[PROBLEM_TEXT_BYTES];
  table_text(t, op);
  table_text(t, which);
  table_text(t, group);
  table_real(t, m->rows);
  table_real(t, m->missed);
  table_real(t, m->ratio);
  table_real(t, m->over_bound);
  table_real(t, m->efficiency);
  table_real(t, m->best_efficiency);
  table_real(t, m->own);
  table_real(t, m->own_least);
  table_real(t, m->peer);
  table_real(t, m->peer > 0 ? m->slower : NAN);
  table_text(t, m->worst ? tml_problem_print(&m->worst->problem, worst, sizeof worst) : NULL);
  table_end_row(t);
}

table *bench_means_table(const bench_row *rows, size_t count)
{
  static const char *const regimes[] = {"burst", "sustained"};
  static const struct {
    const char *text;
    int64_t from, below;
  } groups[] = {{"< 2048", 0, LARGE_M}, {">= 2048", LARGE_M, INT64_MAX}, {"all", 0, INT64_MAX}};
  table *t = table_create(columns, (int)(sizeof columns / sizeof *columns));
  for (int op = TML_GEMM; op <= TML_GEMM_AR; op++)
    for (size_t r = 0; r < 2; r++)
      for (size_t g = 0; g < 3; g++) {
        bench_means m =
            bench_means_of(rows, count, (tml_op)op, regimes[r], groups[g].from, groups[g].below);
        if (m.rows) add_means(t, tml_op_text((tml_op)op), regimes[r], groups[g].text, &m);
      }
  return t;
}
