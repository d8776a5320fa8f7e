#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../runtime/status.h"
#include "calls.h"
#include "device.h"
#include "measure.h"
#include "progress.h"
#include "stop.h"
#include "tune.h"

/* Multiply-adds that the reference kernel may spend: enough for some rows of each tile. */
#define REFERENCE_WORK 4e9
#define RACE 1.5 /* losers slower than this times the best leave after one round */
#define IDLE 1.0 /* half of the time idle still keeps the clock of a burst high */

typedef struct entrant {
  tml_plan *plan;
  calls calls;
} entrant;

/* Everything of one attempt at a problem. */
typedef struct contest {
  rig *r;
  tml_bank_writer *writer; /* rank 0 */
  const tml_problem *problem;
  candidates list;
  data d;
  data_reference reference; /* of d: what every candidate must compute */
  entrant entrants[AGREE_MAX];
  column columns[AGREE_MAX];
  char mark_key[TML_NAME_BYTES + 32];
  int wrong, failed,
      running; /* running: the candidate that a fault would be blamed on; -1: unknown */
  double compile_s;
} contest;

static tml_status vote(contest *c, tml_status mine, const char *what)
{
  return tml_group_vote(c->r->comm->group, mine, what);
}

/* A library's refusal (cuBLASLt's, NCCL's) is one candidate's failure; a fault is the comm's. */
static int fatal(tml_status status) { return status == TML_FAULT || status == TML_TIMEOUT; }

/* Written before a candidate runs, so that a restarted tune knows what killed the last one. */
static tml_status mark(contest *c, const char *text)
{
  if (c->r->rank != 0) return TML_OK;
  stop_yield();
  if (*text) stop_marks(c->mark_key);
  TRY(tml_bank_write_mark(c->writer, c->mark_key, text));
  if (!*text) stop_marks("");
  return TML_OK;
}

static tml_status launch_and_compare(contest *c, int i)
{
  data_error error;
  TRY(data_poison(c->r, &c->d));
  TRY(calls_run(&c->entrants[i].calls, 0));
  TRY(rig_wait(c->r, 30));
  TRY(data_compare_with(c->r, &c->d, &c->reference, &error));
  double limit = data_limit(c->problem, rig_pattern(c->r, c->list.at[i].name));
  if (error.unwritten || error.overrun || !(error.relative < limit))
    return tml_fail(TML_INTERNAL, "wrong result: relative error %.2e, %lld elements unwritten%s",
                    error.relative, (long long)error.unwritten, error.overrun ? ", overrun" : "");
  return TML_OK;
}

static void discard(contest *c, int i, const char *name)
{
  c->columns[i].dropped = 1;
  c->columns[i].us = INFINITY;
  if (c->r->rank == 0) cli_note("%s cannot win: %s", name, tml_last_error());
}

/* The plan, and how long it compiled for it. */
static tml_status make_plan(contest *c, const char *name, tml_plan **plan)
{
  tml_ctx *ctx = c->r->ctx;
  uint64_t before = atomic_load(&ctx->counters.compiles);
  double began = seconds_now();
  tml_status status = tml_plan_create_forced(plan, c->r->comm, c->problem, name);
  if (atomic_load(&ctx->counters.compiles) != before) c->compile_s += seconds_now() - began;
  return status;
}

/* Plan, memory, correctness, graph: each step is voted on, so all ranks go on or stop together. */
static tml_status enter(contest *c, int i)
{
  const char *name = c->list.at[i].name;
  entrant *e = &c->entrants[i];
  tml_status status;
  c->running = i;
  c->columns[i] = (column){.run = calls_run, .user = &e->calls, .us = INFINITY};
  /* The fastest generated one gets its full time beside a faster library too. */
  c->columns[i].lane = c->list.at[i].position == 0;
  TRY_GOTO(vote(c, make_plan(c, name, &e->plan), "making the plan"), failed);
  TRY_GOTO(vote(c, rig_reserve(c->r, e->plan), "reserving memory"), failed);
  e->calls = (calls){.r = c->r, .d = &c->d, .kind = CALLS_PLAN, .plan = e->plan};
  TRY(vote(c, mark(c, name), "writing the mark"));
  status = vote(c, launch_and_compare(c, i), "comparing with the reference");
  c->wrong += status == TML_INTERNAL;
  /* Wrong here may be a fault there: then it is this candidate's, not the next one's. */
  if (status != TML_OK && !fatal(status)) {
    char why[200];
    snprintf(why, sizeof why, "%.199s", tml_last_error());
    TRY(vote(c, rig_poll(c->r), "looking for faults"));
    tml_fail(status, "%s", why);
  }
  if (status == TML_OK) status = measure_capture(c->r, &c->columns[i]);
  c->failed += c->columns[i].dropped;
  if (fatal(status)) return status; /* the mark stays until the fault is dealt with */
  TRY(vote(c, mark(c, ""), "clearing the mark"));
failed:
  if (status != TML_OK && !fatal(status)) {
    c->failed += status != TML_INTERNAL;
    discard(c, i, name);
    status = TML_OK;
  }
  return status;
}

static void leave(contest *c)
{
  measure_free(c->r, c->columns, c->list.count);
  for (int i = 0; i < c->list.count; i++) tml_plan_destroy(c->entrants[i].plan);
  data_reference_free(&c->reference);
  data_free(c->r, &c->d);
  memset(c->entrants, 0, sizeof c->entrants);
}

static tml_status compete(contest *c, const tune_options *o)
{
  regime how = o->sustained_ms > 0 ? MEASURE_SUSTAINED : MEASURE_BURST;
  if (o->sustained_ms > 0) how.sustained_ms = o->sustained_ms;
  if (device_emulated()) how.rounds = 1; /* its clock is virtual, and a replay takes a second */
  how.race = RACE;
  how.idle = IDLE;
  TRY(vote(c, data_create(c->r, c->problem, data_copies(c->problem), 0, &c->d),
           "memory for inputs"));
  TRY(vote(c, data_fill(c->r, &c->d, 1), "making inputs"));
  TRY(vote(c, data_reference_make(c->r, &c->d, REFERENCE_WORK, &c->reference),
           "computing the reference"));
  for (int i = 0; i < c->list.count; i++) TRY(enter(c, i));
  c->running = -1;
  return measure_run(c->r, c->columns, c->list.count, how);
}

static int is_lt(contest *c, const char *name)
{
  tml_variant v;
  return tml_gen_variant(c->r->gen, name, &v) == TML_OK && v.pattern == TML_PATTERN_LT;
}

/* The fastest of those that stayed in the race to its end, or that left it; -1: none. Not `but`. */
static int fastest(const contest *c, int left, int but)
{
  int best = -1;
  for (int i = 0; i < c->list.count; i++) {
    const column *one = &c->columns[i];
    if (i == but || (one->dropped && !left) || !isfinite(one->us)) continue;
    if (best < 0 || one->us < c->columns[best].us) best = i;
  }
  return best;
}

tune_model tune_judge(const candidate *list, const double *us, int count)
{
  tune_model m = {0, NAN};
  double best = INFINITY, first = INFINITY;
  for (int i = 0; i < count; i++) {
    if (list[i].position == 0 || !isfinite(us[i])) continue;
    if (us[i] < best) m.position = list[i].position;
    best = fmin(best, us[i]);
    if (list[i].position <= TUNE_TOP) first = fmin(first, us[i]);
  }
  if (m.position) m.loss = first / best;
  return m;
}

static tml_status judge_model(const contest *c, tune_model *out)
{
  double *us = malloc((size_t)(c->list.count + 1) * sizeof *us);
  if (!us) return tml_fail(TML_MEMORY, "out of memory");
  for (int i = 0; i < c->list.count; i++) us[i] = c->columns[i].us;
  *out = tune_judge(c->list.at, us, c->list.count);
  free(us);
  return TML_OK;
}

static tml_status rank_results(contest *c, tune_result *out)
{
  int best = fastest(c, 0, -1), second = fastest(c, 1, best);
  out->us = out->second_us = out->lt_us = INFINITY;
  for (int i = 0; i < c->list.count; i++)
    if (is_lt(c, c->list.at[i].name)) out->lt_us = c->columns[i].us;
  if (best >= 0) {
    memcpy(out->best, c->list.at[best].name, TML_NAME_BYTES);
    out->us = c->columns[best].us;
  }
  if (second >= 0) {
    memcpy(out->second, c->list.at[second].name, TML_NAME_BYTES);
    out->second_us = c->columns[second].us;
  }
  out->tried = c->list.count;
  out->wrong = c->wrong;
  out->failed = c->failed;
  return judge_model(c, &out->model);
}

const table_column tune_dump_columns[] = {
    {NULL, "problem", 's', 0, 0},  {NULL, "variant", 's', 0, 0}, {NULL, "us", 'f', 2, 0},
    {NULL, "model_us", 'f', 2, 0}, {NULL, "model", 'd', 0, 0},   {NULL, "rounds", 'd', 0, 0},
};
const int tune_dump_column_count = (int)(sizeof tune_dump_columns / sizeof *tune_dump_columns);

static void dump_all(const contest *c, table *t)
{
  char text[PROBLEM_TEXT_BYTES];
  tml_problem_print(c->problem, text, sizeof text);
  for (int i = 0; i < c->list.count; i++) {
    const candidate *one = &c->list.at[i];
    table_text(t, text);
    table_text(t, one->name);
    table_real(t, isfinite(c->columns[i].us) ? c->columns[i].us : NAN);
    table_real(t, one->model_us);
    table_real(t, one->position ? (double)one->position : NAN);
    table_real(t, c->columns[i].count);
    table_end_row(t);
  }
}

static double finite_or_zero(double value) { return isfinite(value) ? value : 0; }

static tml_status write_pick(contest *c, const tune_result *result)
{
  tml_pick pick;
  if (c->r->rank != 0) return TML_OK;
  memset(&pick, 0, sizeof pick);
  tml_pick_key(c->problem, pick.key, sizeof pick.key);
  pick.bucket = tml_pick_bucket(c->problem->m);
  pick.machine = c->r->ctx->machine;
  memcpy(pick.variant, result->best, TML_NAME_BYTES);
  memcpy(pick.runner_up, result->second, TML_NAME_BYTES);
  pick.us = result->us;
  pick.runner_up_us = finite_or_zero(result->second_us);
  pick.lt_us = finite_or_zero(result->lt_us);
  pick.when = (int64_t)time(NULL);
  stop_yield();
  return tml_bank_write_pick(c->writer, &pick);
}

int tune_has_pick(tml_bank *bank, const tml_machine *machine, const tml_problem *problem)
{
  enum { MOST = 64 };
  tml_pick *picks = bank ? malloc(MOST * sizeof *picks) : NULL;
  char key[TML_NAME_BYTES];
  size_t count = 0;
  int other_driver = 0, found = 0;
  if (!picks) return 0;
  tml_pick_key(problem, key, sizeof key);
  if (tml_bank_picks(bank, key, machine, picks, MOST, &count, &other_driver) == TML_OK &&
      !other_driver)
    for (size_t i = 0; i < count && i < MOST; i++)
      found |= picks[i].bucket == tml_pick_bucket(problem->m);
  tml_clear_error();
  free(picks);
  return found;
}

/* Strict: what no plan would pick does not compete. */
static tml_status drop_libraries(contest *c)
{
  for (int i = c->list.count - 1; i >= 0; i--) {
    tml_variant v;
    TRY(tml_gen_variant(c->r->gen, c->list.at[i].name, &v));
    if (v.kind != TML_KIND_FUSED) agree_ban(&c->list, v.name);
  }
  return TML_OK;
}

/* Rank 0's part of the choice: what is done already, the model's list, and what killed the last
 * run. */
static tml_status choose(contest *c, const tune_options *o)
{
  char killer[TML_NAME_BYTES] = "";
  tml_ctx *ctx = c->r->ctx;
  int bank_alone = o->rig.no_jit || !c->r->api->has_nvrtc;
  if (c->r->rank != 0) return TML_OK;
  TRY(agree_choose(c->r->gen, ctx->arch, c->problem, &ctx->machine, o->all ? AGREE_MAX : o->top,
                   bank_alone ? ctx : NULL, &c->list));
  if (ctx->config.strict) TRY(drop_libraries(c));
  c->list.skip = !o->again && tune_has_pick(ctx->bank, &ctx->machine, c->problem);
  if (tml_bank_read_mark(c->writer, c->mark_key, killer, sizeof killer) != TML_OK)
    tml_clear_error();
  if (!*killer) return TML_OK;
  cli_note("%s is left out: the last tune ended while it ran (--again tries it again)", killer);
  if (!o->again) agree_ban(&c->list, killer);
  return TML_OK;
}

/* One attempt. *blamed: the candidate that met a fault, or empty. */
static tml_status attempt(contest *c, const tune_options *o, char blamed[TML_NAME_BYTES],
                          table *dump, tune_result *out)
{
  tml_status status = compete(c, o);
  *blamed = 0;
  if (status == TML_FAULT && c->running >= 0)
    memcpy(blamed, c->list.at[c->running].name, TML_NAME_BYTES);
  if (status == TML_OK) status = vote(c, rank_results(c, out), "comparing the results");
  if (status == TML_OK && dump) dump_all(c, dump);
  leave(c);
  return status;
}

tml_status tune_problem(rig *r, tml_bank_writer *writer, const tune_options *o,
                        const tml_problem *problem, table *dump, tune_result *out)
{
  contest *c = calloc(1, sizeof *c);
  char key[TML_NAME_BYTES], blamed[TML_NAME_BYTES];
  tml_status status = TML_OK;
  memset(out, 0, sizeof *out);
  if (!c) return tml_fail(TML_MEMORY, "out of memory");
  c->r = r;
  c->writer = writer;
  c->problem = problem;
  tml_pick_key(problem, key, sizeof key);
  snprintf(c->mark_key, sizeof c->mark_key, "tune %s @%lld", key,
           (long long)tml_pick_bucket(problem->m));
  TRY_GOTO(agree_share(r, choose(c, o), &c->list), done);
  out->skipped = c->list.skip;
  if (c->list.skip) goto done;
  for (;;) {
    status = attempt(c, o, blamed, dump, out);
    if (status != TML_FAULT || !*blamed) break;
    if (r->rank == 0) cli_note("%s met a fault and is left out: %s", blamed, tml_last_error());
    TRY_GOTO(rig_rebuild(r), done);
    TRY_GOTO(vote(c, mark(c, ""), "clearing the mark"), done);
    agree_ban(&c->list, blamed);
  }
  if (status == TML_OK && !isfinite(out->us))
    status = tml_fail(TML_UNSUPPORTED, "none of %d candidates gave a right result", c->list.count);
  out->compile_s = c->compile_s;
  if (status == TML_OK) status = vote(c, write_pick(c, out), "writing the pick");
done:
  free(c);
  return status;
}
