/* What a soak calls: plans over shared inputs, row counts for each, and the drawing of calls. */
#ifndef TML_STRESS_MIX_H
#define TML_STRESS_MIX_H

#include "data.h"

/* Inputs of a problem: what an earlier call left in a buffer differs from the right thing also where plan and
 * row count are the same. */
#define MIX_SETS 2
#define MIX_SIZES 24 /* row counts of a problem, at most */

/* A problem with its inputs, for every m up to its own. */
typedef struct mix_source {
  tml_problem problem;
  data sets[MIX_SETS];
  int64_t m[MIX_SIZES];
  int sizes;
} mix_source;

typedef struct mix_plan {
  const mix_source *source;
  tml_plan *plan;
  unsigned char drawn[MIX_SETS][MIX_SIZES]; /* 1: some call of the sequence is this one */
  uint64_t alone[MIX_SETS][MIX_SIZES];      /* hash of output and guard after a lone run */
} mix_plan;

typedef struct mix {
  uint64_t seed;
  mix_source *sources;
  mix_plan *plans;
  size_t source_count, count;
  size_t largest; /* bytes of the largest output and its guard */
} mix;

typedef struct mix_call {
  mix_plan *plan;
  int set, size;       /* indices */
  int late;            /* the rank that is delayed before the call; -1: none */
  int pauses, host_us; /* by so many pauses on its stream, or by so long on its host */
} mix_call;

/* Collective: plans for the problems, by every variant that matches `glob`; without one by the plan's own
 * choice or, with `covering`, by a fused variant that brings parts of the space that the ones before it lack.
 * `calls`: length of the sequence; few calls draw from few row counts. No plan at all is OK
 * with `count` 0. mix_free also after a failure. */
tml_status mix_create(rig *r, const problems *list, const char *glob, int covering, int calls,
                      uint64_t seed, mix *out);
void mix_free(rig *r, mix *m);
/* Call number `index`: a function of the seed and of it, equal on all ranks. */
mix_call mix_draw(const mix *m, const rig *r, uint64_t index);
int64_t mix_m(const mix_call *c);
/* The data of a call, with its row count; the caller puts its own output in. */
data mix_data(const mix_call *c);
/* Bytes that an output of it takes with its guard, equal on all ranks. */
size_t mix_room(const mix_call *c);

#endif
