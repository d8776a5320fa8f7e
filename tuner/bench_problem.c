#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../runtime/status.h"
#include "bench.h"
#include "calls.h"
#include "clock.h"
#include "space.h"
#include "stats.h"

enum { PICK, LT, UNFUSED, OWN, COLUMNS };

typedef struct run {
  rig *r;
  data d;
  tml_plan *pick, *lt, *own; /* lt, own: plans of the GEMM inside */
  char own_name[TML_NAME_BYTES];
  calls calls[COLUMNS];
  column columns[COLUMNS];
} run;

static tml_status vote(run *b, tml_status mine, const char *what)
{
  return tml_group_vote(b->r->comm->group, mine, what);
}

static tml_status find_lt(rig *r, const tml_problem *gemm, char out[TML_NAME_BYTES])
{
  space points = {0};
  tml_status status = space_of_problem(r->gen, gemm, r->ctx->arch, NULL, 0, &points);
  if (status != TML_OK) return status;
  status = tml_fail(TML_UNSUPPORTED, "the space has no cublaslt variant of the GEMM");
  for (size_t i = 0; i < points.count; i++) {
    if (points.at[i].variant.pattern != TML_PATTERN_LT) continue;
    memcpy(out, points.at[i].variant.name, TML_NAME_BYTES);
    status = TML_OK;
  }
  space_free(&points);
  if (status == TML_OK) tml_clear_error();
  return status;
}

static int generated(rig *r, const char *name)
{
  tml_variant v;
  return *name && tml_gen_variant(r->gen, name, &v) == TML_OK && v.kind == TML_KIND_FUSED;
}

/* The best own GEMM that is known: of the pick or its runner-up, else the model's first. */
static tml_status find_own(rig *r, const tml_problem *gemm, char out[TML_NAME_BYTES])
{
  enum { MOST = 64 };
  tml_pick *picks = r->ctx->bank ? malloc(MOST * sizeof *picks) : NULL;
  char key[TML_NAME_BYTES];
  size_t count = 0;
  int other_driver = 0;
  const char *found = NULL;
  tml_pick_key(gemm, key, sizeof key);
  if (picks && tml_bank_picks(r->ctx->bank, key, &r->ctx->machine, picks, MOST, &count,
                              &other_driver) == TML_OK) {
    size_t i = 0;
    while (i < count && i < MOST && picks[i].bucket < gemm->m) i++;
    if (i < count && i < MOST)
      found = generated(r, picks[i].variant)     ? picks[i].variant
              : generated(r, picks[i].runner_up) ? picks[i].runner_up
                                                 : NULL;
  }
  if (found) memcpy(out, found, TML_NAME_BYTES);
  free(picks);
  tml_clear_error();
  return found ? TML_OK : rig_first_fused(r, gemm, out);
}

static tml_status make_plan(run *b, tml_plan **plan, const tml_problem *p, const char *variant)
{
  tml_status status = variant ? tml_plan_create_forced(plan, b->r->comm, p, variant)
                              : tml_plan_create(plan, b->r->comm, p);
  TRY(vote(b, status, "making a plan"));
  return vote(b, rig_reserve(b->r, *plan), "reserving memory");
}

static tml_status make_plans(run *b, const tml_problem *p)
{
  tml_problem gemm = problems_gemm_of(p);
  char lt[TML_NAME_BYTES];
  TRY(make_plan(b, &b->pick, p, NULL));
  if (b->r->api->has_lt) {
    TRY(vote(b, find_lt(b->r, &gemm, lt), "finding cublaslt"));
    TRY(make_plan(b, &b->lt, &gemm, lt));
  }
  TRY(vote(b, find_own(b->r, &gemm, b->own_name), "finding the own GEMM"));
  return make_plan(b, &b->own, &gemm, b->own_name);
}

static void set_column(run *b, int i, calls_kind kind, tml_plan *plan)
{
  b->calls[i] = (calls){.r = b->r, .d = &b->d, .kind = kind, .plan = plan};
  b->columns[i] = (column){.run = calls_run, .user = &b->calls[i], .us = INFINITY};
}

/* A plain GEMM has no unfused column: cuBLASLt is what a user has. Without cuBLASLt, as on the
 * emulator, its columns stay empty. */
static tml_status capture_all(run *b, const tml_problem *p)
{
  set_column(b, PICK, CALLS_PLAN, b->pick);
  set_column(b, LT, CALLS_ALONE, b->lt);
  set_column(b, UNFUSED, CALLS_UNFUSED, b->lt);
  set_column(b, OWN, CALLS_UNFUSED, b->own);
  b->columns[LT].dropped = !b->lt;
  b->columns[UNFUSED].dropped = !b->lt || p->op == TML_GEMM;
  for (int i = 0; i < COLUMNS; i++) {
    column *c = &b->columns[i];
    if (c->dropped) continue;
    TRY(measure_capture(b->r, c));
    if (c->dropped && b->r->rank == 0) cli_note("not measured: %s", c->why);
  }
  return TML_OK;
}

/* The clock under this load: replays the pick for a while and looks in the middle. */
static tml_status see_clock(run *b, const regime *how, double *mhz)
{
  const column *c = &b->columns[PICK];
  double ms = how->sustained_ms > 0 ? how->sustained_ms : 10;
  int count = (int)fmin(4096, fmax(1, ms / fmax(0.05, c->cost_ms)));
  *mhz = NAN;
  if (!c->graph || !isfinite(c->us)) return TML_OK;
  for (int i = 0; i < count; i++) TRY(CU(b->r->api, cuGraphLaunch, (c->graph, b->r->stream)));
  usleep((useconds_t)(ms * 500));
  *mhz = clock_sm_mhz(b->r);
  return rig_wait(b->r, 10);
}

/* What one launch costs the host: eager calls, each timed by itself, median. */
static tml_status see_host(run *b, double *us)
{
  enum { LAUNCHES = 31 };
  double each[LAUNCHES];
  for (int i = 0; i < LAUNCHES; i++) {
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    TRY(calls_run(&b->calls[PICK], i));
    clock_gettime(CLOCK_MONOTONIC, &to);
    each[i] = (double)(to.tv_sec - from.tv_sec) * 1e6 + (double)(to.tv_nsec - from.tv_nsec) * 1e-3;
  }
  *us = stats_median(each, LAUNCHES);
  return rig_wait(b->r, 10);
}

static tml_status measure_regimes(run *b, const tml_problem *p, const regime *regimes, int count,
                                  const bench_link_rates *link, bench_row *rows)
{
  const char *name = tml_plan_variant(b->pick, p->m);
  tml_variant picked;
  TRY(vote(b, tml_gen_variant(b->r->gen, name, &picked), "looking at the pick"));
  for (int i = 0; i < count; i++) {
    bench_row *row = &rows[i];
    TRY(measure_run(b->r, b->columns, COLUMNS, regimes[i]));
    *row =
        (bench_row){.problem = *p, .regime = regimes[i].sustained_ms > 0 ? "sustained" : "burst"};
    memcpy(row->variant, picked.name, TML_NAME_BYTES);
    row->missed = picked.kind == TML_KIND_LIBRARY;
    memcpy(row->own, b->own_name, TML_NAME_BYTES);
    row->us = b->columns[PICK].us;
    row->lt_us = b->lt ? b->columns[LT].us : NAN;
    row->unfused_us = b->lt && p->op != TML_GEMM ? b->columns[UNFUSED].us : NAN;
    row->own_us = b->columns[OWN].us;
    row->bound_us = bench_bound(p, row->lt_us, link, &picked);
    TRY(vote(b, see_clock(b, &regimes[i], &row->mhz), "replays for the clock"));
    TRY(vote(b, see_host(b, &row->host_us), "launches for the host's cost"));
  }
  return TML_OK;
}

tml_status bench_problem(rig *r, const tml_problem *problem, const regime *regimes, int count,
                         int symmetric, const bench_link_rates *link, bench_row *rows)
{
  run *b = calloc(1, sizeof *b);
  tml_status status = TML_OK;
  if (!b) return tml_fail(TML_MEMORY, "out of memory");
  b->r = r;
  TRY_GOTO(make_plans(b, problem), done);
  TRY_GOTO(vote(b, data_create(r, problem, data_copies(problem), problem->op != TML_GEMM, &b->d),
                "memory for inputs"),
           done);
  if (symmetric && problem->op == TML_GEMM_AR)
    TRY_GOTO(rig_symmetric(r, data_output_bytes(&b->d), &b->d.symmetric), done);
  TRY_GOTO(vote(b, data_fill(r, &b->d, 1), "making inputs"), done);
  TRY_GOTO(capture_all(b, problem), done);
  status = measure_regimes(b, problem, regimes, count, link, rows);
done:
  measure_free(r, b->columns, COLUMNS);
  tml_plan_destroy(b->pick);
  tml_plan_destroy(b->lt);
  tml_plan_destroy(b->own);
  data_free(r, &b->d);
  free(b);
  return status;
}
