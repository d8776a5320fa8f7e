/* Tuning of one problem; the command around it is in tune.c. */
#ifndef TML_TUNE_H
#define TML_TUNE_H

#include "agree.h"
#include "table.h"

typedef struct tune_options {
  rig_options rig;
  problems list;
  const char *json;
  int top, again;
  double sustained_ms;
} tune_options;

typedef struct tune_result {
  char best[TML_NAME_BYTES], second[TML_NAME_BYTES];
  double us, second_us, lt_us;
  int tried, wrong, failed, skipped;
} tune_result;

/* Collective. Measures the candidates of a problem and, on rank 0, writes the pick. writer: rank
 * 0's, else NULL. A device fault bans the candidate that met it and starts the problem over on a
 * new comm. */
tml_status tune_problem(rig *r, tml_bank_writer *writer, const tune_options *o,
                        const tml_problem *problem, tune_result *out);

#endif
