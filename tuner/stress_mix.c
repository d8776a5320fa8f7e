#include "stress_mix.h"

#include <stdlib.h>
#include <string.h>

#include "../runtime/status.h"
#include "cover.h"
#include "space.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define ROOM_ALIGN 256
#define EDGES 4 /* the first row counts of a problem, as often drawn as all others */

/* ---- Drawing ------------------------------------------------------------------------------------ */

enum {
  DRAW_PLAN,
  DRAW_SET,
  DRAW_SIZE,
  DRAW_EDGE,
  DRAW_AGAIN,
  DRAW_LATE,
  DRAW_RANK,
  DRAW_HOW,
  DRAW_LONG,
  DRAW_M
};

/* 0 .. below - 1 */
static uint64_t draw(uint64_t seed, uint64_t index, uint64_t what, uint64_t below)
{
  const uint64_t key[] = {index, what};
  return XXH3_64bits_withSeed(key, sizeof key, seed) % below;
}

mix_call mix_draw(const mix *m, const rig *r, uint64_t index)
{
  uint64_t first = index;
  /* Two of three calls repeat the one before them, with inputs of their own: in a row of calls in which a rank needs
   * nothing of a late one it runs as far ahead as the protocol lets it. */
  while (first > 0 && draw(m->seed, first, DRAW_AGAIN, 3) > 0) first--;
  mix_call c = {.plan = &m->plans[draw(m->seed, first, DRAW_PLAN, m->count)], .late = -1};
  c.set = (int)draw(m->seed, index, DRAW_SET, MIX_SETS);
  int sizes = c.plan->source->sizes;
  if (sizes > EDGES && draw(m->seed, first, DRAW_EDGE, 2)) sizes = EDGES;
  c.size = (int)draw(m->seed, first, DRAW_SIZE, (uint64_t)sizes);
  if (draw(m->seed, index, DRAW_LATE, 4) > 0) return c;
  c.late = (int)draw(m->seed, index, DRAW_RANK, (uint64_t)r->world);
  uint64_t length = draw(m->seed, index, DRAW_LONG, 8);
  if (draw(m->seed, index, DRAW_HOW, 3) == 0)
    c.host_us = 20 << length; /* to 2.5 ms */
  else
    c.pauses = 1 + (int)length; /* to 1.6 ms */
  return c;
}

int64_t mix_m(const mix_call *c) { return c->plan->source->m[c->size]; }

data mix_data(const mix_call *c)
{
  data d = c->plan->source->sets[c->set];
  data_set_rows(&d, mix_m(c));
  return d;
}

size_t mix_room(const mix_call *c)
{
  data d = mix_data(c);
  int64_t rows = d.problem.op == TML_GEMM_RS ? d.shard : d.problem.m;
  size_t bytes = (size_t)(rows * d.problem.n * 2) + DATA_GUARD;
  return (bytes + ROOM_ALIGN - 1) / ROOM_ALIGN * ROOM_ALIGN;
}

/* ---- Row counts --------------------------------------------------------------------------------- */

static void add_size(mix_source *s, int64_t m, int most)
{
  if (m < 0 || m > s->problem.m || s->sizes >= most) return;
  for (int i = 0; i < s->sizes; i++)
    if (s->m[i] == m) return;
  s->m[s->sizes++] = m;
}

/* The edges: all rows, none, fewer than ranks, an odd number. Then any, the small ones as often as the large. */
static void draw_sizes(mix_source *s, size_t number, int most, uint64_t seed)
{
  int64_t m = s->problem.m, world = s->problem.world;
  const int64_t fixed[] = {m, 0, world - 1, (m - 1) | 1, 1, world + 1};
  for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) add_size(s, fixed[i], most);
  for (int i = 0; i < 8 * most; i++) {
    uint64_t below = (uint64_t)m >> i % 8;
    add_size(s, 1 + (int64_t)draw(seed, (uint64_t)i, DRAW_M + number, below ? below : 1), most);
  }
}

/* ---- Plans -------------------------------------------------------------------------------------- */

static tml_status add_plan(rig *r, mix *m, const mix_source *s, const char *variant)
{
  mix_plan *grown = realloc(m->plans, (m->count + 1) * sizeof *grown);
  if (!grown) return tml_fail(TML_MEMORY, "out of memory for plans");
  m->plans = grown;
  mix_plan *p = &grown[m->count++];
  *p = (mix_plan){.source = s};
  return variant ? tml_plan_create_forced(&p->plan, r->comm, &s->problem, variant)
                 : tml_plan_create(&p->plan, r->comm, &s->problem);
}

static tml_status add_matching(rig *r, mix *m, const mix_source *s, const char *glob)
{
  space points = {0};
  TRY(space_of_problem(r->gen, &s->problem, r->ctx->arch, glob, 0, &points));
  tml_status status = TML_OK;
  for (size_t i = 0; i < points.count && status == TML_OK; i++)
    status = add_plan(r, m, s, points.at[i].variant.name);
  space_free(&points);
  return status;
}

static tml_status add_plans(rig *r, mix *m, const char *glob, cover *parts)
{
  for (size_t i = 0; i < m->source_count; i++) {
    const mix_source *s = &m->sources[i];
    const char *variant = NULL;
    if (parts) {
      TRY(cover_choose(parts, r->gen, r->ctx->arch, &s->problem, (size_t)m->seed + i, &variant));
      cover_ran(parts, &s->problem, variant);
    }
    TRY(glob ? add_matching(r, m, s, glob) : add_plan(r, m, s, variant));
  }
  return TML_OK;
}

/* As a serving process does: one reserve for all. */
static tml_status reserve(rig *r, const mix *m)
{
  tml_bytes all = {.size = sizeof all}, one = {.size = sizeof one};
  for (size_t i = 0; i < m->count; i++) {
    TRY(tml_plan_workspace(m->plans[i].plan, &one));
    tml_bytes_max(&all, &one);
  }
  return tml_comm_reserve(r->comm, &all);
}

/* ---- Inputs ------------------------------------------------------------------------------------- */

static tml_status make_inputs(rig *r, mix_source *s)
{
  tml_problem room = s->problem;
  /* A last shard is longest where the rows before it are full. */
  room.m = (room.m + room.world - 1) / room.world * room.world;
  for (int i = 0; i < MIX_SETS; i++) {
    TRY(data_create(r, &room, 1, 0, &s->sets[i]));
    TRY(data_fill(r, &s->sets[i], (uint64_t)i + 1));
  }
  return TML_OK;
}

static tml_status make_sources(rig *r, mix *m)
{
  for (size_t i = 0; i < m->source_count; i++) TRY(make_inputs(r, &m->sources[i]));
  return rig_wait(r, 30);
}

static void mark_drawn(const rig *r, mix *m, int calls)
{
  for (int i = 0; i < calls; i++) {
    mix_call c = mix_draw(m, r, (uint64_t)i);
    c.plan->drawn[c.set][c.size] = 1;
    if (mix_room(&c) > m->largest) m->largest = mix_room(&c);
  }
}

tml_status mix_create(rig *r, const problems *list, const char *glob, int covering, int calls,
                      uint64_t seed, mix *out)
{
  /* Each distinct call should come back a few times. */
  int per = calls / (4 * MIX_SETS * (int)list->count);
  int most = per < 4 ? 4 : per > MIX_SIZES ? MIX_SIZES : per;
  cover *parts = covering && !glob ? cover_create() : NULL;
  *out = (mix){.seed = seed, .sources = calloc(list->count, sizeof(mix_source))};
  tml_status status = out->sources && (parts || !covering || glob)
                          ? TML_OK
                          : tml_fail(TML_MEMORY, "out of memory for plans");
  for (size_t i = 0; i < list->count && status == TML_OK; i++) {
    mix_source *s = &out->sources[out->source_count++];
    s->problem = list->at[i];
    if (s->problem.m == 0) s->problem.m = 64; /* a plan for nothing is none */
    draw_sizes(s, i, most, seed);
  }
  tml_group *group = r->comm->group;
  status = tml_group_vote(group, status, "choosing what to call");
  if (status == TML_OK) status = tml_group_vote(group, add_plans(r, out, glob, parts), "plans");
  cover_free(parts);
  TRY(status);
  if (out->count == 0) return TML_OK;
  TRY(tml_group_vote(group, reserve(r, out), "reserving memory"));
  TRY(tml_group_vote(group, make_sources(r, out), "memory for inputs"));
  mark_drawn(r, out, calls);
  return TML_OK;
}

void mix_free(rig *r, mix *m)
{
  for (size_t i = 0; i < m->count; i++) tml_plan_destroy(m->plans[i].plan);
  for (size_t i = 0; i < m->source_count; i++)
    for (int set = 0; set < MIX_SETS; set++) data_free(r, &m->sources[i].sets[set]);
  free(m->plans);
  free(m->sources);
  *m = (mix){0};
}
