/* Words and buffers of all ranks: who writes what, and what a reader must find. */
#include <stdarg.h>
#include <stdio.h>

#include "model.h"

void fail_run(view *v, property p, const char *format, ...)
{
  va_list arguments;
  if (v->run->failed != HOLDS) return;
  v->run->failed = p;
  va_start(arguments, format);
  vsnprintf(v->run->detail, sizeof v->run->detail, format, arguments);
  va_end(arguments);
}

rank *rank_at(const view *v, int r) { return &v->s->rank[r]; }
const call *call_now(const view *v) { return &v->run->script[v->r].at[v->me->call]; }
int has_rows(const view *v, int r) { return r < call_now(v)->rows; }
u8 peers_of(const view *v) { return (u8)(((1 << v->run->world) - 1) & ~(1 << v->r)); }

/* Problems of other shapes lay their tiles and signal words out differently over the same bytes, so a
   place has another writer in another call. Here twoshot and short calls are shifted by one. */
int place(const view *v, const call *c, int from)
{
  return (from + (c->op == TWOSHOT || c->rows < v->run->world)) % v->run->world;
}

/* Of a tile of the call that this rank is in. */
int tile_place(const view *v, int from, int tile)
{
  return tile * v->run->world + place(v, call_now(v), from);
}

int reached(const view *v, u8 found, u8 expected)
{
  if (v->run->mutant == MUTANT_EQUAL_INSTEAD_OF_AT_LEAST) return found == expected;
  return found >= expected;
}

/* A store of a word at rank `at`. Words only grow; 0 is the poison of copies after a fault. */
void put_word(view *v, int at, u8 *word, u8 value, const char *name)
{
  if (rank_at(v, at)->stopped) return;
  if (value < *word && value != 0)
    fail_run(v, BACKWARDS, "%s of rank %d at rank %d goes from %d back to %d", name, v->r, at,
             *word, value);
  *word = value;
}

void put_buffer(view *v, int at, u8 *buffer, u8 tag)
{
  if (!rank_at(v, at)->stopped) *buffer = tag;
}

/* Where calls may end with a fault, wrong bytes count only once the call ends well. */
void read_buffer(view *v, u8 tag, u8 epoch, const char *name, int from)
{
  u8 of = tag & (u8)~UNDER_WAY;
  property p = of > epoch ? OVERWRITTEN : STALE;
  if (tag == epoch) return;
  if (v->run->faults) {
    v->me->bad = (u8)p;
    return;
  }
  fail_run(v, p, "rank %d in call %d reads the %s of rank %d for epoch %d and finds %sepoch %d%s",
           v->r, v->me->call + 1, name, from, epoch,
           tag & UNDER_WAY ? "bytes on their way for " : "", of, of == 0 ? " (nothing yet)" : "");
}
