/* One problem: poisoned output, comparison with the reference, equal bits over repetitions and
 * ranks. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../runtime/status.h"
#include "check.h"
#include "data.h"

/* Multiply-adds that the reference kernel may spend on one rank's output. */
#define REFERENCE_WORK 1.5e11

typedef struct attempt {
  rig *r;
  tml_plan *plan;
  data d;
  check_result *out;
  uint64_t hash;
  CUdeviceptr gathered;  /* ag_gemm: room for the gathered A, compared with d.full */
  CUdeviceptr symmetric; /* gemm_ar: room for C; ag_gemm: a copy of A */
} attempt;

static tml_status vote(attempt *t, tml_status mine, const char *what)
{
  return tml_group_vote(t->r->comm->group, mine, what);
}

static size_t gathered_bytes(const attempt *t)
{
  return (size_t)(t->d.problem.m * t->d.problem.k * 2);
}

static tml_status take_gathered(attempt *t)
{
  if (t->d.problem.op != TML_AG_GEMM) return TML_OK;
  return CU(t->r->api, cuMemAlloc, (&t->gathered, gathered_bytes(t) + DATA_GUARD));
}

/* The gathered A and the guard behind it, bit by bit. */
static tml_status compare_gathered(attempt *t)
{
  size_t bytes = gathered_bytes(t);
  uint64_t got, want;
  TRY(CU(t->r->api, cuMemsetD8Async, (t->d.full + bytes, 0xff, DATA_GUARD, t->r->stream)));
  TRY(data_hash_bytes(t->r, t->d.full, bytes + DATA_GUARD, &want));
  TRY(data_hash_bytes(t->r, t->gathered, bytes + DATA_GUARD, &got));
  t->out->ungathered |= got != want;
  return TML_OK;
}

static size_t shard_bytes(const attempt *t) { return (size_t)(t->d.shard * t->d.problem.k * 2); }

static tml_status take_symmetric(attempt *t)
{
  if (t->d.problem.op == TML_GEMM_AR)
    return rig_symmetric(t->r, data_output_bytes(&t->d) + DATA_GUARD, &t->symmetric);
  if (t->d.problem.op != TML_AG_GEMM || t->d.world == 1) return TML_OK;
  return rig_symmetric(t->r, shard_bytes(t) + DATA_GUARD, &t->symmetric);
}

/* A where the peers can read it. It is spoilt behind the call, which must not need it any more. */
static tml_status launch_pulling(attempt *t, tml_args *args)
{
  size_t rows = (size_t)(t->d.rows * t->d.problem.k * 2);
  if (rows) TRY(CU(t->r->api, cuMemcpyDtoDAsync, (t->symmetric, t->d.a, rows, t->r->stream)));
  args->a = (const void *)(uintptr_t)t->symmetric;
  args->a_symmetric = 1;
  TRY(tml_launch(t->plan, args, t->r->stream));
  return CU(t->r->api, cuMemsetD8Async, (t->symmetric, 0xff, shard_bytes(t), t->r->stream));
}

/* Every second call of an ag_gemm asks for the gathered A, the others have their A in symmetric memory; so has
 * every second one of a gemm_ar its C. */
static tml_status launch_poisoned(attempt *t, int call)
{
  int sums = t->d.problem.op == TML_GEMM_AR;
  t->d.symmetric = sums && call % 2 ? t->symmetric : 0;
  tml_args args = data_args(&t->d, 0);
  int gathers = t->gathered && call % 2 == 0;
  TRY(data_poison(t->r, &t->d));
  if (gathers) {
    args.gathered = (void *)(uintptr_t)t->gathered;
    TRY(CU(t->r->api, cuMemsetD8Async,
           (t->gathered, 0xff, gathered_bytes(t) + DATA_GUARD, t->r->stream)));
  }
  if (!sums && t->symmetric && call % 2) return launch_pulling(t, &args);
  TRY(tml_launch(t->plan, &args, t->r->stream));
  return gathers ? compare_gathered(t) : TML_OK;
}

static tml_status first_result(attempt *t, data_error *error)
{
  TRY(data_fill(t->r, &t->d, 1));
  TRY(launch_poisoned(t, 0));
  TRY(rig_wait(t->r, 30));
  if (t->d.problem.m == 0) { /* writes nothing: the poison must be whole */
    data_error none;
    TRY(data_compare(t->r, &t->d, REFERENCE_WORK, &none));
    error->overrun = none.overrun;
    return TML_OK;
  }
  TRY(data_compare(t->r, &t->d, REFERENCE_WORK, error));
  return data_hash(t->r, &t->d, &t->hash);
}

/* Libraries choose another algorithm for other leading dimensions, and with it other bits. */
static int has_loose(const attempt *t)
{
  tml_pattern pattern = rig_pattern(t->r, t->out->variant);
  return t->d.problem.m > 0 && pattern != TML_PATTERN_LT && pattern != TML_PATTERN_NCCL;
}

/* Launches of the same inputs. That of rows with gaps is one more, enough where every call is alike. */
static int repetitions(const attempt *t, int reps)
{
  tml_op op = t->d.problem.op;
  int count = op == TML_GEMM_RS || op == TML_GEMM_AR ? reps : 2;
  return (op == TML_GEMM || op == TML_GEMM_RS) && has_loose(t) ? count - 1 : count;
}

static tml_status repeat(attempt *t, int reps)
{
  for (int i = 1; i < reps; i++) {
    uint64_t hash;
    TRY(launch_poisoned(t, i));
    TRY(data_hash(t->r, &t->d, &hash));
    t->out->unequal_reps |= hash != t->hash;
  }
  return TML_OK;
}

/* gemm_ar: every rank holds the same bits. */
static tml_status compare_ranks(attempt *t)
{
  uint64_t *all = t->out->hash;
  TRY(tml_group_all_gather(t->r->comm->group, &t->hash, all, sizeof t->hash));
  if (t->d.problem.op != TML_GEMM_AR) return TML_OK;
  for (int s = 1; s < t->r->world; s++) t->out->unequal_ranks |= all[s] != all[0];
  return TML_OK;
}

static tml_status run(attempt *t, int reps)
{
  data_error error = {0};
  double worst[5];
  TRY(vote(t, first_result(t, &error), "the first launch"));
  TRY(vote(t, repeat(t, repetitions(t, reps)), "repeated launches"));
  TRY(compare_ranks(t));
  worst[0] = isnan(error.relative) ? INFINITY : error.relative; /* a maximum must not lose a NAN */
  worst[1] = (double)error.unwritten;
  worst[2] = error.overrun;
  worst[3] = t->out->unequal_reps;
  worst[4] = t->out->ungathered;
  TRY(tml_group_max(t->r->comm->group, worst, 5));
  t->out->relative = worst[0];
  t->out->unwritten = worst[1];
  t->out->overrun = worst[2] > 0;
  t->out->unequal_reps = worst[3] > 0;
  t->out->ungathered = worst[4] > 0;
  return TML_OK;
}

static tml_status run_loose(attempt *t)
{
  double differs = 0;
  int mine = 0;
  if (!has_loose(t)) return TML_OK;
  TRY(vote(t, check_loose(t->r, t->plan, &t->d, t->hash, &mine), "a launch of rows with gaps"));
  differs = mine;
  TRY(tml_group_max(t->r->comm->group, &differs, 1));
  t->out->loose = differs > 0;
  return TML_OK;
}

static void judge(const tml_problem *p, tml_pattern pattern, check_result *out)
{
  double limit = data_limit(p, pattern);
  if (out->unwritten > 0)
    snprintf(out->why, sizeof out->why, "%.0f elements never written", out->unwritten);
  else if (!(out->relative < limit))
    snprintf(out->why, sizeof out->why, "relative error %.2e, limit %.1e", out->relative, limit);
  else if (out->overrun)
    snprintf(out->why, sizeof out->why, "wrote behind the end of the output");
  else if (out->ungathered)
    snprintf(out->why, sizeof out->why, "the gathered A is not the ranks' inputs");
  else if (out->loose)
    snprintf(out->why, sizeof out->why, "rows with gaps give other bits, or the gaps were written");
  else if (out->unequal_reps)
    snprintf(out->why, sizeof out->why, "bits differ between repetitions");
  else if (out->unequal_ranks)
    snprintf(out->why, sizeof out->why, "bits differ between ranks");
  out->passed = !*out->why;
}

tml_status check_one(rig *r, const tml_problem *problem, const char *variant, int reps,
                     const char *save, check_result *out)
{
  attempt t = {.r = r, .out = out};
  tml_problem largest = *problem;
  memset(out, 0, sizeof *out);
  if (largest.m == 0) largest.m = 64; /* a plan for nothing is none; its launch may have m = 0 */
  tml_status status = variant ? tml_plan_create_forced(&t.plan, r->comm, &largest, variant)
                              : tml_plan_create(&t.plan, r->comm, &largest);
  TRY_GOTO(vote(&t, status, "making the plan"), done);
  const char *name = tml_plan_variant(t.plan, problem->m);
  snprintf(out->variant, sizeof out->variant, "%s", name ? name : "-");
  TRY_GOTO(vote(&t, rig_reserve(r, t.plan), "reserving memory"), done);
  TRY_GOTO(
      vote(&t, data_create(r, problem, 1, problem->op == TML_AG_GEMM, &t.d), "memory for inputs"),
      done);
  TRY_GOTO(vote(&t, take_gathered(&t), "memory for the gathered A"), done);
  TRY_GOTO(take_symmetric(&t), done);
  TRY_GOTO(run(&t, reps), done);
  if (save) TRY_GOTO(vote(&t, data_save(r, &t.d, save), "writing the output"), done);
  TRY_GOTO(run_loose(&t), done);
  judge(problem, rig_pattern(r, out->variant), out);
done:
  if (t.gathered) r->api->cuda.p_cuMemFree(t.gathered);
  data_free(r, &t.d);
  tml_plan_destroy(t.plan);
  return status;
}
