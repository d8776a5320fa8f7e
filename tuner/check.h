/* The parts of `check`. All are collective over the rig. */
#ifndef TML_CHECK_H
#define TML_CHECK_H

#include "cover.h"
#include "problems.h"
#include "rig.h"
#include "table.h"

typedef struct check_options {
  rig_options rig;
  problems list;
  const char *glob, *json, *inject;
  int reps, graphs, copies, victim, seeds, host_inputs;
  int rotate; /* instead of the pick: one of the fused variants, another one each time; counts up */
  int cover_all;                /* fail unless all parts of the space have run */
  cover *covers[TML_MAX_WORLD]; /* with `rotate`: each rank's own, all equal */
} check_options;

typedef struct check_result {
  char variant[TML_NAME_BYTES];
  double relative;                                      /* worst rank */
  double unwritten;                                     /* elements, worst rank */
  int overrun, ungathered, unequal_reps, unequal_ranks; /* any rank */
  uint64_t hash[TML_MAX_WORLD];                         /* of each rank's output; 0: it has none */
  int passed;
  char why[200]; /* what is wrong, "" if nothing */
} check_result;

/* One problem by one variant (NULL: the plan's choice). A result that is wrong is OK with
 * `passed` 0; FAULT and TIMEOUT are statuses. */
tml_status check_one(rig *r, const tml_problem *problem, const char *variant, int reps,
                     check_result *out);
/* 200 replays of two graphs of mixed ops, with an odd and an even number of calls, against
 * eager. */
tml_status check_graphs(rig *r, int replays, char *summary, size_t bytes);
/* Copies and their signals pass a grid that waits for them on every SM. */
tml_status check_copies(rig *r, char *summary, size_t bytes);
/* Fault injection: what the options' `inject` says, done by the victim. Returns the exit code. */
int check_inject(rig *r, const check_options *o);
int check_inject_known(const char *what);

#endif
