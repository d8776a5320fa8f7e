/* A soak: many calls of many plans back to back on one comm, with row counts, inputs and delays drawn from a
 * seed that all ranks share.
 *
 * First every distinct call (plan, inputs, row count) runs alone and is compared with the fp32 reference; the
 * hash of its output and of the guard behind it is kept. Then the context is sealed and the drawn calls run in
 * batches: every call of a batch has its own output, all are poisoned at once before the first, and nothing
 * stands between two calls but the drawn delays. At the end of a batch all outputs go to the host, and every
 * one must have the bits of its lone run. A wrong one is kept and compared with another lone run. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../runtime/problem.h"
#include "../runtime/status.h"
#include "check.h"
#include "device.h"
#include "progress.h"
#include "stress_mix.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Multiply-adds that the reference may spend on a lone output of a rank; beyond it rows are sampled. */
#define REFERENCE_WORK 2e10
#define MOST_BATCH 50
#define MOST_ARENA ((size_t)512 << 20) /* bytes of a batch's outputs, unless one alone is larger */
/* Bytes that a process may take after the warm-up. Not judged on the emulator, whose process holds the devices
 * as well. */
#define MOST_GROWTH (8 << 20)

#define CALL_TEXT_BYTES (TML_NAME_BYTES + PROBLEM_TEXT_BYTES + 32)

/* What one rank found; all ranks see all of them. */
typedef struct verdict {
  int64_t wrong, first; /* calls with other bits; the first of them, INT64_MAX: none */
  double relative, device_growth, host_growth;
  char why[400]; /* of the lone runs, or of the first wrong call */
} verdict;

_Static_assert(sizeof(verdict) <= TML_GROUP_BYTES, "one group operation carries it");

typedef struct stress {
  rig *r;
  mix mix;
  int calls, batch;
  CUdeviceptr arena; /* the outputs of a batch */
  size_t arena_bytes;
  char *host;                      /* the same on the host */
  size_t device_bytes, host_bytes; /* in use after the warm-up */
  verdict own;
  char *kept; /* this rank's first wrong output and its guard */
  progress bar;
  check_stress_result *out;
} stress;

static tml_status vote(const stress *t, tml_status mine, const char *what)
{
  return tml_group_vote(t->r->comm->group, mine, what);
}

static const char *describe(const mix_call *c, char *text, size_t bytes)
{
  char problem[PROBLEM_TEXT_BYTES];
  tml_problem p = c->plan->source->problem;
  const char *variant = tml_plan_variant(c->plan->plan, mix_m(c));
  p.m = mix_m(c);
  snprintf(text, bytes, "%s by %s, inputs %d", tml_problem_print(&p, problem, sizeof problem),
           variant, c->set);
  return text;
}

/* ---- Memory ------------------------------------------------------------------------------------- */

static tml_status memory_now(const stress *t, size_t *device, size_t *host)
{
  size_t left, total;
  unsigned long pages = 0;
  TRY(CU(t->r->api, cuMemGetInfo, (&left, &total)));
  FILE *file = fopen("/proc/self/statm", "r");
  int read = file ? fscanf(file, "%*u %lu", &pages) : 0;
  if (file) fclose(file);
  if (read != 1) return tml_fail(TML_IO, "cannot read /proc/self/statm");
  *device = total - left;
  *host = pages * (size_t)sysconf(_SC_PAGESIZE);
  return TML_OK;
}

static tml_status measure_growth(stress *t)
{
  size_t device, host;
  TRY(memory_now(t, &device, &host));
  t->own.device_growth = (double)device - (double)t->device_bytes;
  t->own.host_growth = (double)host - (double)t->host_bytes;
  return TML_OK;
}

/* ---- Alone -------------------------------------------------------------------------------------- */

static tml_status launch(const stress *t, const mix_call *c, CUdeviceptr output)
{
  data d = mix_data(c);
  d.c = output;
  tml_args args = data_args(&d, 0);
  return tml_launch(c->plan->plan, &args, t->r->stream);
}

static uint64_t hash_of(const mix_call *c, const void *output)
{
  data d = mix_data(c);
  return XXH3_64bits(output, data_output_bytes(&d) + DATA_GUARD);
}

/* One call into the arena's first output, from there to the host. */
static tml_status run_alone(const stress *t, const mix_call *c)
{
  rig *r = t->r;
  TRY(CU(r->api, cuMemsetD8Async, (t->arena, 0xff, mix_room(c), r->stream)));
  TRY(launch(t, c, t->arena));
  TRY(CU(r->api, cuMemcpyDtoHAsync, (t->host, t->arena, mix_room(c), r->stream)));
  return rig_wait(r, 30);
}

static void judge_alone(stress *t, const mix_call *c, const data_error *error)
{
  char what[CALL_TEXT_BYTES], text[80];
  const char *variant = tml_plan_variant(c->plan->plan, mix_m(c));
  double limit = data_limit(&c->plan->source->problem, rig_pattern(t->r, variant ? variant : ""));
  if (error->relative > t->own.relative) t->own.relative = error->relative;
  if (*t->own.why) return;
  if (error->unwritten)
    snprintf(text, sizeof text, "%lld elements never written", (long long)error->unwritten);
  else if (!(error->relative < limit))
    snprintf(text, sizeof text, "relative error %.2e, limit %.1e", error->relative, limit);
  else if (error->overrun)
    snprintf(text, sizeof text, "wrote behind the end of the output");
  else
    return;
  snprintf(t->own.why, sizeof t->own.why, "alone, %s: %s", describe(c, what, sizeof what), text);
}

static tml_status check_alone(stress *t, const mix_call *c)
{
  data d = mix_data(c);
  data_error error;
  d.c = t->arena;
  TRY(run_alone(t, c));
  c->plan->alone[c->set][c->size] = hash_of(c, t->host);
  TRY(data_compare(t->r, &d, REFERENCE_WORK, &error));
  judge_alone(t, c, &error);
  return TML_OK;
}

/* Of every call that will be drawn. */
static tml_status all_alone(stress *t)
{
  for (size_t i = 0; i < t->mix.count; i++) {
    mix_plan *p = &t->mix.plans[i];
    if (t->bar.tty)
      progress_step(&t->bar, (int)i, (int)t->mix.count, "alone, against the reference");
    for (int set = 0; set < MIX_SETS; set++) {
      for (int size = 0; size < p->source->sizes; size++) {
        mix_call c = {.plan = p, .set = set, .size = size, .late = -1};
        if (!p->drawn[set][size]) continue;
        t->out->distinct++;
        TRY(check_alone(t, &c));
      }
    }
  }
  return TML_OK;
}

/* gemm_ar: every rank holds the same bits. */
static tml_status compare_ranks(stress *t)
{
  uint64_t all[TML_MAX_WORLD][MIX_SETS][MIX_SIZES];
  char what[CALL_TEXT_BYTES];
  for (size_t i = 0; i < t->mix.count; i++) {
    mix_plan *p = &t->mix.plans[i];
    if (p->source->problem.op != TML_GEMM_AR) continue;
    TRY(tml_group_all_gather(t->r->comm->group, p->alone, all, sizeof p->alone));
    for (int j = 0; j < t->r->world * MIX_SETS * MIX_SIZES && !*t->own.why; j++) {
      mix_call c = {.plan = p, .set = j / MIX_SIZES % MIX_SETS, .size = j % MIX_SIZES};
      if (all[j / MIX_SIZES / MIX_SETS][c.set][c.size] == all[0][c.set][c.size]) continue;
      snprintf(t->own.why, sizeof t->own.why, "alone, %s: bits differ between ranks",
               describe(&c, what, sizeof what));
    }
  }
  return TML_OK;
}

/* ---- The sequence ------------------------------------------------------------------------------- */

typedef struct batch {
  int first, count;
  mix_call calls[MOST_BATCH];
  size_t at[MOST_BATCH], bytes; /* of the outputs in the arena */
} batch;

static batch next_batch(const stress *t, int first)
{
  batch b = {.first = first};
  while (b.count < t->batch && first + b.count < t->calls) {
    mix_call c = mix_draw(&t->mix, t->r, (uint64_t)(first + b.count));
    if (b.bytes + mix_room(&c) > t->arena_bytes) break;
    b.at[b.count] = b.bytes;
    b.calls[b.count++] = c;
    b.bytes += mix_room(&c);
  }
  return b;
}

static tml_status delay(const stress *t, const mix_call *c)
{
  if (c->late != t->r->rank) return TML_OK;
  if (c->host_us) usleep((useconds_t)c->host_us);
  for (int i = 0; i < c->pauses; i++) TRY(rig_pause(t->r));
  return TML_OK;
}

static tml_status enqueue(const stress *t, const batch *b)
{
  rig *r = t->r;
  TRY(CU(r->api, cuMemsetD8Async, (t->arena, 0xff, b->bytes, r->stream)));
  for (int i = 0; i < b->count; i++) {
    TRY(delay(t, &b->calls[i]));
    TRY(launch(t, &b->calls[i], t->arena + b->at[i]));
  }
  return CU(r->api, cuMemcpyDtoHAsync, (t->host, t->arena, b->bytes, r->stream));
}

static void judge_batch(stress *t, const batch *b)
{
  for (int i = 0; i < b->count; i++) {
    const mix_call *c = &b->calls[i];
    const char *output = t->host + b->at[i];
    if (hash_of(c, output) == c->plan->alone[c->set][c->size]) continue;
    if (t->own.wrong++) continue;
    t->own.first = b->first + i;
    memcpy(t->kept, output, mix_room(c));
  }
}

static tml_status run_batch(stress *t, const batch *b)
{
  tml_status status = enqueue(t, b);
  if (status == TML_OK) status = rig_wait(t->r, 60);
  if (status != TML_OK)
    return tml_wrap(status, "calls %d to %d of seed %llu", b->first, b->first + b->count - 1,
                    (unsigned long long)t->mix.seed);
  judge_batch(t, b);
  return TML_OK;
}

static tml_status run_sequence(stress *t)
{
  int warm = 0;
  batch b;
  for (int done = 0; done < t->calls; done += b.count) {
    b = next_batch(t, done);
    if (t->bar.tty) progress_step(&t->bar, done, t->calls, "calls");
    TRY(run_batch(t, &b));
    if (warm || done + b.count < t->calls / 10) continue;
    warm = 1;
    TRY(memory_now(t, &t->device_bytes, &t->host_bytes));
  }
  return measure_growth(t);
}

/* ---- What was wrong ----------------------------------------------------------------------------- */

/* The rank's first wrong output beside a new lone run, which the host has. */
static void compare_kept(stress *t, const mix_call *c)
{
  data d = mix_data(c);
  const uint16_t *got = (const uint16_t *)(const void *)t->kept;
  const uint16_t *want = (const uint16_t *)(const void *)t->host;
  int64_t elements = d.c_rows * d.problem.n, n = d.problem.n, differ = 0, unwritten = 0, first = 0;
  for (int64_t i = 0; i < elements; i++) {
    if (got[i] == want[i]) continue;
    if (differ++ == 0) first = i;
    unwritten += got[i] == 0xffff;
  }
  if (differ)
    snprintf(t->own.why, sizeof t->own.why,
             "%lld of %lld elements differ from the lone run, the first in row %lld, column %lld; "
             "%lld never written",
             (long long)differ, (long long)elements, (long long)(first / n), (long long)(first % n),
             (long long)unwritten);
  else if (hash_of(c, t->host) != c->plan->alone[c->set][c->size])
    snprintf(t->own.why, sizeof t->own.why, "the same bits alone, but not in the first lone run");
  else
    snprintf(t->own.why, sizeof t->own.why, "wrote behind the end of the output");
}

/* Everyone's verdicts; the number of the first wrong call of any rank, or INT64_MAX. */
static tml_status gather(const stress *t, verdict *all, int64_t *first)
{
  TRY(tml_group_all_gather(t->r->comm->group, &t->own, all, sizeof t->own));
  *first = INT64_MAX;
  for (int s = 0; s < t->r->world; s++)
    if (all[s].first < *first) *first = all[s].first;
  return TML_OK;
}

static tml_status explain_wrong(stress *t, int64_t first)
{
  mix_call c = mix_draw(&t->mix, t->r, (uint64_t)first);
  TRY(vote(t, run_alone(t, &c), "repeating the wrong call alone"));
  if (t->own.first == first) compare_kept(t, &c);
  return TML_OK;
}

static void tell_wrong(const stress *t, const verdict *all, int64_t first)
{
  mix_call c = mix_draw(&t->mix, t->r, (uint64_t)first);
  char what[CALL_TEXT_BYTES];
  int s = 0;
  while (all[s].first != first) s++;
  snprintf(t->out->why, sizeof t->out->why, "call %lld of seed %llu, %s, rank %d: %s (%lld wrong)",
           (long long)first, (unsigned long long)t->mix.seed, describe(&c, what, sizeof what), s,
           all[s].why, (long long)all[s].wrong);
}

static void tell_growth(const stress *t)
{
  check_stress_result *o = t->out;
  if (o->device_growth > 0)
    snprintf(o->why, sizeof o->why,
             "device memory grew by %.0f bytes (other processes on the GPU count too)",
             o->device_growth);
  else if (o->host_growth > MOST_GROWTH && !device_emulated())
    snprintf(o->why, sizeof o->why, "a process grew by %.0f bytes, allowed are %d", o->host_growth,
             MOST_GROWTH);
}

static void sum_up(const stress *t, const verdict *all)
{
  check_stress_result *o = t->out;
  for (int s = 0; s < t->r->world; s++) {
    o->relative = fmax(o->relative, all[s].relative);
    o->device_growth = fmax(o->device_growth, all[s].device_growth);
    o->host_growth = fmax(o->host_growth, all[s].host_growth);
    if (*all[s].why && !*o->why) snprintf(o->why, sizeof o->why, "rank %d, %s", s, all[s].why);
  }
}

/* ---- All of it ---------------------------------------------------------------------------------- */

static tml_status make_arena(stress *t)
{
  size_t wanted = t->mix.largest * (size_t)t->batch;
  t->arena_bytes = wanted < MOST_ARENA           ? wanted
                   : t->mix.largest > MOST_ARENA ? t->mix.largest
                                                 : MOST_ARENA;
  void *host;
  TRY(CU(t->r->api, cuMemAlloc, (&t->arena, t->arena_bytes)));
  TRY(rig_host(t->r, t->arena_bytes, &host));
  t->host = host;
  t->kept = malloc(t->mix.largest);
  return t->kept ? TML_OK : tml_fail(TML_MEMORY, "no memory for an output");
}

/* The lone runs: *passed says whether there is something to compare with. */
static tml_status learn(stress *t, verdict *all)
{
  int64_t none;
  TRY(vote(t, make_arena(t), "memory for outputs"));
  TRY(vote(t, all_alone(t), "calls alone"));
  TRY(compare_ranks(t));
  TRY(gather(t, all, &none));
  sum_up(t, all);
  return TML_OK;
}

static tml_status soak(stress *t, verdict *all)
{
  int64_t first;
  TRY(vote(t, tml_seal(t->r->ctx), "sealing"));
  double began = seconds_now();
  TRY(vote(t, run_sequence(t), "the sequence"));
  t->out->seconds = seconds_now() - began;
  TRY(gather(t, all, &first));
  if (first != INT64_MAX) {
    TRY(explain_wrong(t, first));
    TRY(gather(t, all, &first));
    tell_wrong(t, all, first);
  }
  sum_up(t, all);
  if (!*t->out->why) tell_growth(t);
  return TML_OK;
}

static void count_delayed(const stress *t)
{
  for (int i = 0; i < t->calls; i++)
    t->out->delayed += mix_draw(&t->mix, t->r, (uint64_t)i).late >= 0;
}

tml_status check_stress(rig *r, const check_options *o, check_stress_result *out)
{
  uint64_t seed = (uint64_t)(o->rig.seed ? o->rig.seed : 1);
  stress t = {.r = r, .calls = o->stress, .out = out, .own.first = INT64_MAX};
  verdict all[TML_MAX_WORLD];
  /* At least four batches, so that most of the calls come after the warm-up. */
  t.batch = t.calls / 4 < 1 ? 1 : t.calls / 4 > MOST_BATCH ? MOST_BATCH : t.calls / 4;
  *out = (check_stress_result){.calls = t.calls, .seed = seed};
  progress_begin(&t.bar, r->rank != 0);
  tml_status status = mix_create(r, &o->stressed, o->glob, o->stress_cover, t.calls, seed, &t.mix);
  out->plans = (int)t.mix.count;
  TRY_GOTO(status, done);
  if (t.mix.count == 0) {
    snprintf(out->why, sizeof out->why, "no variant matches \"%s\"", o->glob);
    goto done;
  }
  count_delayed(&t);
  TRY_GOTO(learn(&t, all), done);
  if (!*out->why) TRY_GOTO(soak(&t, all), done);
  out->device_bytes = (double)t.device_bytes;
  out->host_bytes = (double)t.host_bytes;
done:
  progress_clear(&t.bar);
  if (t.arena) r->api->cuda.p_cuMemFree(t.arena);
  free(t.kept);
  mix_free(r, &t.mix);
  return status;
}
