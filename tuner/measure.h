/* Timing: every column is a CUDA graph of 10 calls over
 * rotated weights; a device-side barrier stands right before the start event; columns are
 * replayed in turn, in rotating order; median of the rounds, slowest rank. "burst" idles before
 * each replay, so the clock stays high; "sustained" keeps the GPU loaded before and inside the
 * window. */
#ifndef TML_MEASURE_H
#define TML_MEASURE_H

#include "rig.h"

#define MEASURE_CALLS 10
#define MEASURE_MAX_ROUNDS 101
#define MEASURE_MAX_MS 10000 /* of one sustained window */

typedef struct column {
  tml_status (*run)(void *user, int i);
  void *user;
  CUgraphExec graph;
  int lane;       /* columns race against those of their own lane */
  int dropped;    /* 1: not measured further (failed, or lost the race) */
  double us;      /* of one call, slowest rank; INFINITY if it failed */
  double cost_ms; /* of the newest replay, slowest rank */
  double best_ms; /* of the best replay, slowest rank */
  double samples[MEASURE_MAX_ROUNDS];
  int count;
  char why[160]; /* why it failed */
} column;

typedef struct regime {
  double sustained_ms; /* 0: burst */
  int rounds;
  double
      race; /* a column that is slower than this times the best after the first timed round leaves;
                  the margin halves with each further round. 0: all stay */
  double idle; /* pause before each replay of a burst, in replays; 1 to 60 ms */
} regime;

/* As the peers were timed: a pause of 2.5 replays keeps the average power far below its limit. */
#define MEASURE_BURST \
  (regime) { 0, 7, 0, 2.5 }
#define MEASURE_SUSTAINED \
  (regime) { 100, 2, 0, 0 }

/* Collective. Warms up (3 calls) and captures a column; a failure anywhere drops it everywhere and
 * is OK here. FAULT or TIMEOUT: the comm must be rebuilt. */
tml_status measure_capture(rig *r, column *c);
/* Collective. Measures all columns that are not dropped; may be called again in another regime. A
 * column that has lost keeps the time it had. */
tml_status measure_run(rig *r, column *columns, int count, regime how);
/* After timed round `round` (1, 2, ...) of a race: drops who is too far behind. Pure. */
void measure_drop(column *columns, int count, double race, int round);
void measure_free(rig *r, column *columns, int count);

#endif
