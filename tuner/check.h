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
  const char *outputs; /* folder for the outputs, or NULL */
  FILE *text;          /* for tables and notes */
  cJSON **report;      /* rank 0 leaves its JSON here for who writes it; NULL: it writes itself */
  int reps, suite, graphs, copies, victim, seeds, host_inputs;
  int rotate; /* instead of the pick: one of the fused variants, another one each time; counts up */
  int cover_all;                /* fail unless all parts of the space have run */
  cover *covers[TML_MAX_WORLD]; /* with `rotate`: each rank's own, all equal */
  int stress;                   /* calls of the soak; 0: none */
  problems stressed;            /* what it mixes */
  int stress_cover; /* they are the built-in ones: fused variants in turn, not the picks */
} check_options;

typedef struct check_result {
  char variant[TML_NAME_BYTES];
  double relative;                                             /* worst rank */
  double unwritten;                                            /* elements, worst rank */
  int overrun, ungathered, loose, unequal_reps, unequal_ranks; /* any rank */
  uint64_t hash[TML_MAX_WORLD]; /* of each rank's output; 0: it has none */
  int passed;
  char why[200]; /* what is wrong, "" if nothing */
} check_result;

/* One problem by one variant (NULL: the plan's choice). A result that is wrong is OK with
 * `passed` 0; FAULT and TIMEOUT are statuses. `save`: file for this rank's output, or NULL. */
tml_status check_one(rig *r, const tml_problem *problem, const char *variant, int reps,
                     const char *save, check_result *out);
/* A call with leading dimensions beyond the rows: *differs is set unless its output has this hash and its
 * gaps are untouched. The output of `d` is poison afterwards. */
struct data;
tml_status check_loose(rig *r, tml_plan *plan, struct data *d, uint64_t hash, int *differs);

/* Outputs of replays, all compared with eager calls; worst rank. */
typedef struct check_graphs_result {
  int replays; /* of each graph; 0: there was no check */
  struct {
    int calls, outputs, wrong;
  } of[2];
} check_graphs_result;

/* Two long graphs of mixed ops, with an odd and an even number of calls, against eager; three replays in two
 * rounds. */
tml_status check_graphs(rig *r, int rounds, check_graphs_result *out);

typedef struct check_stress_result {
  int calls, plans, distinct, delayed; /* distinct: calls that differ in plan, inputs or m */
  uint64_t seed;
  double seconds;                    /* of the sequence alone */
  double relative;                   /* worst rank and distinct call */
  double device_bytes, host_bytes;   /* in use on this rank after the warm-up, and ... */
  double device_growth, host_growth; /* ... since then, worst rank */
  char why[700];                     /* what is wrong, "" if nothing */
} check_stress_result;

/* A soak of o->stress calls. Seals the context: nothing that loads or allocates may follow. What is wrong is
 * OK with `why`, equal on all ranks; FAULT and TIMEOUT are statuses. */
tml_status check_stress(rig *r, const check_options *o, check_stress_result *out);
/* Copies and their signals pass a grid that waits for them on every SM: a row for each case. */
#define CHECK_COPIES_COLUMNS 6
extern const table_column check_copies_columns[CHECK_COPIES_COLUMNS];
tml_status check_copies(rig *r, table *cases);
/* Fault injection: what the options' `inject` says, done by the victim. Returns the exit code: 0 if this rank saw
 * what it must. */
int check_inject(rig *r, const check_options *o);
/* The same where the victim is never started, so that the rig did not open, with `status`. */
int check_inject_absent(const ranks_env *env, const check_options *o, tml_status status);
int check_inject_kills(const char *what); /* does the victim end its process? */
int check_inject_known(const char *what);

/* All that one run of the ranks found. */
typedef struct check_found {
  table *rows, *copies; /* rows: of problems */
  int passed, failed;   /* rows */
  check_graphs_result graphs;
  check_stress_result stress;
} check_found;

void check_found_create(check_found *f, int name_width); /* of variants that may run */
void check_found_free(check_found *f);
/* The table is rank 0's. */
void check_add_row(check_found *f, const rig *r, const tml_problem *p, const check_result *c);
/* Rank 0: prints what there is beside the rows, writes the JSON. The exit code, after a message if it is not OK. */
int check_report(const check_options *o, const check_found *f, double seconds);
int check_verdict(const check_found *f); /* another rank: the exit code alone */

#endif
