/* Tuning of one problem; the command around it is in tune.c. */
#ifndef TML_TUNE_H
#define TML_TUNE_H

#include "agree.h"
#include "table.h"

#define TUNE_TOP 8 /* of the model, unless told otherwise */

typedef struct tune_options {
  rig_options rig;
  problems list;
  const char *json, *dump;
  FILE *text;          /* for the table and notes */
  int top, all, again; /* all: every legal variant, whatever top says */
  double sustained_ms;
  double *compiled_s; /* by problem: its part of what was compiled before the ranks started */
} tune_options;

/* How well the model did on the generated candidates; NAN and 0 if none gave a time. */
typedef struct tune_model {
  int64_t position; /* of the fastest one, by the model: 1, 2, ... */
  double loss;      /* time of the fastest among the model's first TUNE_TOP / of the fastest */
} tune_model;

typedef struct tune_result {
  char best[TML_NAME_BYTES], second[TML_NAME_BYTES];
  double us, second_us, lt_us;
  tune_model model;
  int tried, wrong, failed, skipped;
  double compile_s; /* spent by this rank on compiling candidates */
} tune_result;

/* Pure. us: INFINITY for what gave no time. */
tune_model tune_judge(const candidate *list, const double *us, int count);

/* Is there a pick of this bucket and machine already? bank: NULL has none. */
int tune_has_pick(tml_bank *bank, const tml_machine *machine, const tml_problem *problem);
/* Collective. Measures the candidates of a problem and, on rank 0, writes the pick into the writer's
 * part. writer: rank 0's, else NULL. A device fault bans the candidate that met it and starts the
 * problem over on a new comm. dump: NULL, or a table of tune_dump_columns that gets each candidate. */
tml_status tune_problem(rig *r, tml_bank_writer *writer, const tune_options *o,
                        const tml_problem *problem, table *dump, tune_result *out);
extern const table_column tune_dump_columns[];
extern const int tune_dump_column_count;

#endif
