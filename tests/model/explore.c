/* Breadth-first exploration of one scenario under one mutant.
 *
 * A visited state is remembered as 64 hash bits (that any two of 10^7 states share them has a
 * probability below 10^-5) and the step that led there; a trace is replayed from the start. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model.h"

#define STATES_MAX 12000000u
#define NO_STEP 0xff

typedef struct node { /* of the tree of first visits */
  uint32_t parent;
  uint8_t rank, rule, peer, forced;
} node;

typedef struct level { /* states of one depth, `bytes` each, behind their node's number */
  unsigned char *at;
  size_t count, room;
} level;

typedef struct search {
  run *run;
  size_t bytes; /* of a state as stored: only the ranks of this world */
  uint64_t *seen;
  size_t seen_room; /* a power of two */
  node *nodes;
  size_t node_count, node_room;
  level now, next;
  node bad; /* the step that broke a property; rank NO_STEP: a state where nothing moves did */
} search;

static const rule *rule_at(int i)
{
  const rule_list lists[] = {stream_rules(), kernel_rules(), fault_rules()};
  for (size_t l = 0; l < 3; ++l) {
    if (i < lists[l].count) return &lists[l].at[i];
    i -= lists[l].count;
  }
  return NULL;
}

static void *grow(void *at, size_t bytes)
{
  void *out = realloc(at, bytes);
  if (out) return out;
  fprintf(stderr, "model: out of memory (%zu bytes)\n", bytes);
  exit(2);
}

/* ---- Visited states ------------------------------------------------------------------------------ */

static uint64_t hash_of(const void *data, size_t bytes)
{
  const unsigned char *at = data;
  uint64_t h = 0x9e3779b97f4a7c15u ^ bytes, word;
  for (size_t i = 0; i < bytes; i += 8) {
    memcpy(&word, at + i, 8);
    h = (h ^ word) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
  }
  h *= 0xc4ceb9fe1a85ec53u;
  h ^= h >> 29;
  return h ? h : 1;
}

static int seen_put(uint64_t *table, size_t room, uint64_t h)
{
  size_t i = (size_t)h & (room - 1);
  for (; table[i]; i = (i + 1) & (room - 1))
    if (table[i] == h) return 0;
  table[i] = h;
  return 1;
}

static void seen_grow(search *x)
{
  size_t room = x->seen_room ? 2 * x->seen_room : 1 << 12;
  uint64_t *table = grow(NULL, room * sizeof *table);
  memset(table, 0, room * sizeof *table);
  for (size_t i = 0; i < x->seen_room; ++i)
    if (x->seen[i]) seen_put(table, room, x->seen[i]);
  free(x->seen);
  x->seen = table;
  x->seen_room = room;
}

/* A state reached by `by`: kept for the next level, unless it was met before. */
static void meet(search *x, const state *s, node by)
{
  level *to = &x->next;
  uint32_t number = (uint32_t)x->node_count;
  if (2 * x->node_count >= x->seen_room) seen_grow(x);
  if (!seen_put(x->seen, x->seen_room, hash_of(s, x->bytes))) return;
  if (x->node_count == x->node_room) {
    x->node_room = x->node_room ? 2 * x->node_room : 1 << 12;
    x->nodes = grow(x->nodes, x->node_room * sizeof *x->nodes);
  }
  x->nodes[x->node_count++] = by;
  if (to->count == to->room) {
    to->room = to->room ? 2 * to->room : 1 << 10;
    to->at = grow(to->at, to->room * (x->bytes + sizeof number));
  }
  unsigned char *slot = to->at + to->count++ * (x->bytes + sizeof number);
  memcpy(slot, &number, sizeof number);
  memcpy(slot + sizeof number, s, x->bytes);
}

/* ---- Steps --------------------------------------------------------------------------------------- */

/* Every step from `s`; `forced`: nothing else moves, so waits expire. Returns how many there are. */
static int expand(search *x, const state *s, uint32_t from, int forced)
{
  int count = 0;
  const rule *tried;
  for (int i = 0; (tried = rule_at(i)) != NULL; ++i) {
    if (forced && !tried->expires) continue;
    for (int r = 0; r < x->run->world; ++r) {
      if (s->rank[r].stopped) continue;
      for (int p = 0; p < (tried->per_peer ? x->run->world : 1); ++p) {
        state copy;
        view v = {x->run, (state *)s, (rank *)&s->rank[r], r, p, forced};
        if ((tried->per_peer && p == r) || !tried->can(&v)) continue;
        copy = *s;
        v.s = &copy;
        v.me = &copy.rank[r];
        tried->act(&v);
        ++count;
        ++x->run->steps;
        node by = {from, (uint8_t)r, (uint8_t)i, (uint8_t)p, (uint8_t)forced};
        if (x->run->failed != HOLDS) {
          x->bad = by;
          return count;
        }
        meet(x, &copy, by);
      }
    }
  }
  return count;
}

/* Nothing moves any more: everybody must be at the end, and whoever saw a call fail has said so. */
static void judge_end(search *x, const state *s)
{
  state copy = *s;
  for (int r = 0; r < x->run->world; ++r) {
    const rank *me = &copy.rank[r];
    view v = {x->run, &copy, &copy.rank[r], r, 0, 0};
    if (me->stopped) continue;
    if (me->at != AT_END)
      fail_run(&v, DEADLOCK, "nothing moves; rank %d is still in call %d", r, me->call + 1);
    else if (me->well < x->run->script[r].count && !me->reported)
      fail_run(&v, SILENT, "rank %d ended %d of %d calls well and reports nothing", r, me->well,
               x->run->script[r].count);
  }
}

/* ---- Traces -------------------------------------------------------------------------------------- */

static void print_peers(const char *what, u8 peers)
{
  if (!peers) return;
  printf("; %s", what);
  for (int p = 0; p < WORLD_MAX; ++p)
    if (peers >> p & 1) printf(" %d", p);
}

static void print_ranks(search *x, state *s)
{
  static const char *const where[] = {"gate", "failed gate", "kernel", "join", "end"};
  for (int r = 0; r < x->run->world; ++r) {
    rank *me = &s->rank[r];
    view v = {x->run, s, me, r, 0, 0};
    printf("        rank %d: ", r);
    if (me->stopped) {
      printf("stopped\n");
      continue;
    }
    printf("call %d, %s, last finished epoch %d, abort word %d", me->call + 1, where[me->at],
           me->epoch, me->abort);
    if (me->at != AT_END) {
      print_peers("gate waits for done of", gate_missing(&v));
      print_peers("herald waits for headers of", headers_missing(&v));
      print_peers("reader waits for signals of", tiles_missing(&v));
    }
    printf("\n");
  }
}

static void print_step(search *x, const state *s, const view *v, const rule *done, int number)
{
  static const char *const names[] = {"", "copies", "push", "twoshot", "ring", "movers"};
  const rank *me = &s->rank[v->r];
  char which[32] = "end";
  int whom = done->whom ? done->whom(v) : done->per_peer ? v->peer : -1;
  int at = done->copies ? me->copy_call : me->call;
  if (at < x->run->script[v->r].count) {
    const call *c = &x->run->script[v->r].at[at];
    snprintf(which, sizeof which, "call %d %s%s", at + 1, names[c->op],
             c->tiles > 1 ? " in rounds" : "");
    if (c->op == COPIES) snprintf(which, sizeof which, "call %d slot %d", at + 1, c->slot);
  }
  printf("  %3d   rank %d  %-14s  %s: %s", number, v->r, which, done->role, done->does);
  if (whom >= 0) printf(" -> rank %d", whom);
  printf("\n");
}

static void start(run *of, state *s)
{
  memset(s, 0, sizeof *s);
  for (int r = 0; r < of->world; ++r) {
    view v = {of, s, &s->rank[r], r, 0, 0};
    call_begin(&v);
  }
}

static void print_trace(search *x, uint32_t last)
{
  node *path = NULL;
  size_t length = 0, room = 0;
  run quiet = *x->run; /* replaying must not fail again */
  state s;
  for (uint32_t n = last; n != 0; n = x->nodes[n].parent) {
    if (length == room) path = grow(path, (room = room ? 2 * room : 64) * sizeof *path);
    path[length++] = x->nodes[n];
  }
  start(&quiet, &s);
  printf("  %s, calls \"%s\"%s%s, %s\n", quiet.scenario->name, quiet.scenario->calls,
         quiet.scenario->other ? ", last rank " : "",
         quiet.scenario->other ? quiet.scenario->other : "", property_text(quiet.failed));
  for (size_t i = 0; i <= length; ++i) {
    node by = i < length ? path[length - 1 - i] : x->bad;
    if (by.rank == NO_STEP) break;
    view v = {&quiet, &s, &s.rank[by.rank], by.rank, by.peer, by.forced};
    const rule *done = rule_at(by.rule);
    print_step(x, &s, &v, done, (int)i + 1);
    done->act(&v);
  }
  printf("        %s: %s\n", property_text(x->run->failed), x->run->detail);
  print_ranks(x, &s);
  free(path);
}

/* ---- Search -------------------------------------------------------------------------------------- */

/* One level; the number of the node whose state or step broke a property. */
static uint32_t search_level(search *x)
{
  for (size_t i = 0; i < x->now.count && x->run->failed == HOLDS; ++i) {
    const unsigned char *slot = x->now.at + i * (x->bytes + sizeof(uint32_t));
    uint32_t number;
    state s = {0};
    memcpy(&number, slot, sizeof number);
    memcpy(&s, slot + sizeof number, x->bytes);
    if (expand(x, &s, number, 0) == 0 && (!x->run->expire || expand(x, &s, number, 1) == 0))
      judge_end(x, &s);
    if (x->node_count > STATES_MAX && x->run->failed == HOLDS) x->run->failed = TOO_LARGE;
    if (x->run->failed != HOLDS) return number;
  }
  return 0;
}

static double seconds_now(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int run_open(run *r, const scenario *s, mutant m)
{
  memset(r, 0, sizeof *r);
  r->scenario = s;
  r->mutant = m;
  r->world = s->world;
  r->expire = s->stops || s->late;
  r->faults = r->expire || s->other;
  for (int i = 0; i < s->world; ++i) {
    const char *text = s->other && i == s->world - 1 ? s->other : s->calls;
    if (!script_read(&r->script[i], text, s->world, m)) return 0;
  }
  return 1;
}

int explore(run *r, const scenario *s, mutant m, int trace)
{
  search x = {.run = r};
  state first;
  uint32_t last = 0;
  double began = seconds_now();
  if (!run_open(r, s, m)) {
    fprintf(stderr, "model: \"%s\" has a script that cannot be read\n", s->name);
    exit(2);
  }
  /* Ranks beyond the world are all zero; the counters stand in front of them. */
  x.bytes = offsetof(state, rank) + (size_t)s->world * sizeof(rank);
  x.bad.rank = NO_STEP;
  start(r, &first);
  meet(&x, &first, (node){0, 0, 0, 0, 0});
  while (x.next.count != 0 && r->failed == HOLDS) {
    level swap = x.now;
    x.now = x.next;
    x.next = swap;
    x.next.count = 0;
    last = search_level(&x);
    ++r->depth;
  }
  if (x.bad.rank == NO_STEP) --r->depth; /* the first level took no step */
  r->states = x.node_count;
  r->seconds = seconds_now() - began;
  if (trace && r->failed != HOLDS && r->failed != TOO_LARGE) print_trace(&x, last);
  free(x.seen);
  free(x.nodes);
  free(x.now.at);
  free(x.next.at);
  return r->failed == HOLDS;
}
