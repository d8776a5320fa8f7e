/* The streams of a rank: what the host enqueued, the gate kernel, the copies, the join. */
#include <string.h>

#include "model.h"

static int copies_done(const view *v) { return v->me->copy_call > v->me->call; }

/* Steps over calls that copy nothing: other patterns, a shard without rows. */
static void copies_settle(view *v)
{
  const script *calls = &v->run->script[v->r];
  rank *me = v->me;
  while (me->copy_call < calls->count &&
         (calls->at[me->copy_call].op != COPIES || v->r >= calls->at[me->copy_call].rows))
    ++me->copy_call;
}

/* The caller may fill its input for this call as soon as the one before has completed. */
void call_begin(view *v)
{
  rank *me = v->me;
  me->input = (u8)(me->call + 1);
  copies_settle(v);
  if (me->call == v->run->script[v->r].count) {
    me->at = AT_END;
  } else if (call_now(v)->op == COPIES) {
    me->at = me->abort ? AT_GATE_FAILED : AT_GATE;
    if (me->abort) me->gate_failed = me->reported = 1;
    if (me->abort && v->run->mutant != MUTANT_GATE_KEEPS_ABORT) me->raising = peers_of(v);
    if (!me->abort && me->left && v->run->mutant != MUTANT_GATE_KEEPS_DONE)
      send_done(v, me->epoch); /* before it waits */
  } else {
    kernel_begin(v);
  }
}

void call_end(view *v)
{
  ++v->me->call;
  call_begin(v);
}

/* The copies have completed too. */
static void call_joined(view *v)
{
  if (call_now(v)->keep)
    v->me->at = AT_GATHERED;
  else
    call_end(v);
}

/* The main kernel has completed: the user's stream waits for the copies. */
void kernel_end(view *v)
{
  rank *me = v->me;
  me->at = AT_JOIN;
  memset(me->block, 0, sizeof me->block);
  memset(me->block_epoch, 0, sizeof me->block_epoch);
  me->posted = me->posted_half = me->compared = me->sent = me->seen = me->dead = me->bad = 0;
  if (copies_done(v) || call_now(v)->op != COPIES || v->run->mutant == MUTANT_COPIES_NOT_JOINED)
    call_joined(v);
}

/* The gathered A is copied out of the slot, or of staging. After an abort it may be anything: copies that nobody could call
   back, and the abort word came before them. */
static int gathers(const view *v) { return v->me->at == AT_GATHERED; }
static void gather(view *v)
{
  const call *c = call_now(v);
  for (int p = 0; p < c->rows && !v->me->abort; ++p) {
    u8 at = (u8)place(v, c, p);
    u8 tag = c->op == COPIES ? v->me->slot[c->slot][at] : v->me->partial[v->me->epoch & 1][at];
    if (p != v->r && tag != v->me->epoch)
      fail_run(v, OVERWRITTEN,
               "rank %d copies the shard of rank %d for epoch %d and finds epoch %d", v->r, p,
               v->me->epoch, tag & (u8)~UNDER_WAY);
  }
  call_end(v);
}

/* ---- Gate ---------------------------------------------------------------------------------------- */

u8 gate_missing(const view *v)
{
  u8 missing = 0;
  if (v->me->at != AT_GATE) return 0;
  for (int p = 0; p < v->run->world; ++p) {
    if (p == v->r || v->run->mutant == MUTANT_OPEN_GATE) continue;
    if (!reached(v, v->me->done[p], v->me->slot_last[call_now(v)->slot])) missing |= (u8)(1 << p);
    if (v->run->mutant == MUTANT_GATE_ASKS_ONE_PEER) break;
  }
  return missing;
}

static void gate_close(view *v, int alive)
{
  rank *me = v->me;
  u8 slot = call_now(v)->slot, epoch = (u8)(me->epoch + 1);
  me->slot_last[slot] = epoch;
  me->outbox[slot] = alive || v->run->mutant == MUTANT_OUTBOX_BEFORE_WAIT ? epoch : 0;
  me->gate_failed = !alive;
  kernel_begin(v);
}

static int gate_passes(const view *v) { return v->me->at == AT_GATE && gate_missing(v) == 0; }
static void gate_pass(view *v) { gate_close(v, 1); }

/* The abort came while it waited, or before it looked. Copies cannot be called back: they will overwrite
   the slot at peers that may still read it, so the peers must know of the abort before. */
static int gate_aborts(const view *v)
{
  if (v->run->mutant == MUTANT_DEAF_WAIT) return 0;
  return v->me->at == AT_GATE && v->me->abort != 0;
}
static void gate_abort(view *v)
{
  v->me->at = AT_GATE_FAILED;
  v->me->gate_failed = v->me->reported = 1;
  if (v->run->mutant != MUTANT_GATE_KEEPS_ABORT) v->me->raising = peers_of(v);
}

static int gate_ends(const view *v) { return v->me->at == AT_GATE_FAILED && v->me->raising == 0; }
static void gate_end(view *v) { gate_close(v, 0); }

/* ---- Copies -------------------------------------------------------------------------------------- */

/* Rank s serves s - 1 first. */
static int copy_target(const view *v, int i)
{
  return (v->r + v->run->world - 1 - i) % v->run->world;
}
static int copy_unit(const view *v) { return v->run->scenario->coarse ? v->run->world - 1 : 1; }
static int copy_whom(const view *v)
{
  return v->run->scenario->coarse ? -1 : copy_target(v, v->me->copy_step / 2);
}

static int copy_open(const view *v)
{
  const rank *me = v->me;
  if (me->copy_call >= v->run->script[v->r].count) return 0;
  return me->copy_call < me->call ||
         (me->copy_call == me->call && (me->at == AT_KERNEL || me->at == AT_JOIN));
}

static void copy_signal(view *v, const call *c, int to)
{
  u8 *word = &rank_at(v, to)->shard[c->slot][v->r];
  if (v->me->gate_failed && v->me->outbox[c->slot] != 0)
    fail_run(v, UNPOISONED, "rank %d tells rank %d that its shard is good (%d) after a fault", v->r,
             to, v->me->outbox[c->slot]);
  put_word(v, to, word, v->me->outbox[c->slot], "shard signal");
}

static void copy_input(view *v)
{
  if (v->me->input != v->me->copy_call + 1)
    fail_run(v, INPUT,
             "a copy of call %d still reads the input of rank %d, which the caller has filled "
             "again for call %d",
             v->me->copy_call + 1, v->r, v->me->input);
}

static int copy_issues(const view *v) { return copy_open(v) && v->me->copy_step % 2 == 0; }
static void copy_issue(view *v)
{
  const call *c = &v->run->script[v->r].at[v->me->copy_call];
  int from = v->me->copy_step / 2 * copy_unit(v);
  copy_input(v);
  for (int i = from; i < from + copy_unit(v); ++i) {
    int to = copy_target(v, i);
    put_buffer(v, to, &rank_at(v, to)->slot[c->slot][place(v, c, v->r)],
               (u8)(UNDER_WAY | (v->me->copy_call + 1)));
    if (v->run->mutant == MUTANT_COPY_SIGNAL_FIRST) copy_signal(v, c, to);
  }
  ++v->me->copy_step;
}

static int copy_lands(const view *v) { return copy_open(v) && v->me->copy_step % 2 == 1; }
static void copy_land(view *v)
{
  rank *me = v->me;
  const call *c = &v->run->script[v->r].at[me->copy_call];
  int from = me->copy_step / 2 * copy_unit(v);
  copy_input(v);
  for (int i = from; i < from + copy_unit(v); ++i) {
    int to = copy_target(v, i);
    put_buffer(v, to, &rank_at(v, to)->slot[c->slot][place(v, c, v->r)], (u8)(me->copy_call + 1));
    if (v->run->mutant != MUTANT_COPY_SIGNAL_FIRST) copy_signal(v, c, to);
  }
  if (++me->copy_step == 2 * ((v->run->world - 1) / copy_unit(v))) {
    me->copy_step = 0;
    ++me->copy_call;
    copies_settle(v);
    if (me->at == AT_JOIN && copies_done(v)) call_joined(v);
  }
}

rule_list stream_rules(void)
{
  static const rule rules[] = {
      {"stream", "copies the gathered A", 0, 0, 0, gathers, gather, NULL},
      {"gate", "every peer is done with the slot: outbox = epoch", 0, 0, 0, gate_passes, gate_pass,
       NULL},
      {"gate", "sees the abort word and raises it at the peers", 0, 0, 0, gate_aborts, gate_abort,
       NULL},
      {"gate", "ends after a fault: outbox = poison", 0, 0, 0, gate_ends, gate_end, NULL},
      {"copy engine", "the shard is on its way", 0, 1, 0, copy_issues, copy_issue, copy_whom},
      {"copy engine", "the shard has landed, then its signal", 0, 1, 0, copy_lands, copy_land,
       copy_whom},
  };
  return (rule_list){rules, sizeof rules / sizeof *rules};
}
