/* Time-outs, the way of an abort to the peers, ranks that stop. */
#include <string.h>

#include "model.h"

/* The rank's own abort word is there at once, the peers' words one by one. */
void raise_fault(view *v)
{
  v->me->abort = (u8)(1 + v->r);
  v->me->reported = 1;
  v->s->raised = 1;
  if (v->run->mutant != MUTANT_ABORT_STAYS_HOME) v->me->raising = peers_of(v);
}

static int delivers(const view *v) { return v->me->raising >> v->peer & 1; }
static void deliver(view *v)
{
  rank *there = rank_at(v, v->peer);
  v->me->raising &= (u8) ~(1 << v->peer);
  if (!there->stopped) there->abort = v->me->abort;
}

/* ---- Time-outs ----------------------------------------------------------------------------------- */

/* Does a wait with these missing expire now? */
static int expires(const view *v, u8 missing)
{
  if (missing == 0 || !v->run->expire) return 0;
  return v->forced || v->s->late < v->run->scenario->late;
}

/* Once a fault is raised nobody sits out a time-out of its own, unless the word was lost on its way. */
static void expire(view *v)
{
  int lost = 0;
  for (int p = 0; p < v->run->world; ++p) lost |= rank_at(v, p)->stopped == 2;
  if (!v->forced)
    ++v->s->late;
  else if (v->s->raised && !lost)
    fail_run(v, UNHEARD, "rank %d sits out its own time-out in call %d after a fault was raised",
             v->r, v->me->call + 1);
  raise_fault(v);
}

static int gate_expires(const view *v)
{
  return v->run->mutant != MUTANT_ENDLESS_GATE && expires(v, gate_missing(v));
}
static void gate_expire(view *v)
{
  expire(v);
  v->me->at = AT_GATE_FAILED;
  v->me->gate_failed = 1;
}
static int compare_expires(const view *v) { return expires(v, headers_missing(v)); }
static void compare_expire(view *v)
{
  expire(v);
  v->me->compared = 1;
  v->me->bad = INCOMPLETE;
}
static int read_expires(const view *v) { return expires(v, tiles_missing(v)); }
static void read_expire(view *v)
{
  expire(v);
  v->me->dead = 1;
  v->me->bad = INCOMPLETE;
  v->me->seen = ALL_STEPS;
}

/* ---- A rank that stops ---------------------------------------------------------------------------- */

static int stops(const view *v)
{
  return v->s->stops < v->run->scenario->stops && v->me->at != AT_END;
}
/* Its memory stays mapped, but nobody reads it any more. */
static void stop(view *v)
{
  u8 how = v->me->raising ? 2 : 1;
  memset(v->me, 0, sizeof *v->me);
  v->me->stopped = how;
  ++v->s->stops;
}

rule_list fault_rules(void)
{
  static const rule rules[] = {
      {"abort word", "arrives", 1, 0, 0, delivers, deliver, NULL},
      {"gate", "TIME-OUT: a peer is not done with the slot", 0, 0, 1, gate_expires, gate_expire,
       NULL},
      {"herald", "TIME-OUT: a header is missing", 0, 0, 1, compare_expires, compare_expire, NULL},
      {"reader", "TIME-OUT: a signal is missing", 0, 0, 1, read_expires, read_expire, NULL},
      {"rank", "STOPS for ever", 0, 0, 0, stops, stop, NULL},
  };
  return (rule_list){rules, sizeof rules / sizeof *rules};
}
