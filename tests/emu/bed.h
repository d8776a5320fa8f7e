/* Runs sequences of calls over the emulator, ranks as threads, and judges them: statuses, faults, hazard
 * reports, and every element against a reference computed on the host. */
#ifndef TML_TEST_EMU_BED_H
#define TML_TEST_EMU_BED_H

#include "emu.h"
#include "plan.h"

#define BED_STEPS 4
#define BED_CALLS 4
#define BED_TEXT 700

typedef struct bed_step {
  tml_problem problem;
  char variant
      [TML_NAME_BYTES]; /* "": the first fused one by the model; with *: the first that matches */
} bed_step;

typedef struct bed_case {
  int world, count; /* steps of a call */
  bed_step step[BED_STEPS];
  int calls; /* the steps, so often in a row without waiting, each with inputs of its own: 1 .. 4 */
  int replays; /* > 0: captured, and replayed so often */
  int symmetric; /* calls of gemm_ar have their C, of ag_gemm their A in symmetric memory and say so */
  int gathered;      /* calls of ag_gemm give the gathered A too, and it is judged */
  double timeout_us; /* 0: 2 s */
  tml_emu_config machine;
  tml_emu_mistake mistake;
  tml_emu_edit_fn edit;
  void *edit_user;
  void (*spoil)(
      void *user); /* after the machine is open, before the ranks start: faults on request */
  void *spoil_user;
  int keep_open; /* do not look for what is still alive: ranks were stopped */
} bed_case;

typedef struct bed_result {
  tml_status status[TML_MAX_WORLD];
  char text[TML_MAX_WORLD][BED_TEXT]; /* of a status, or of a fault */
  tml_fault fault[TML_MAX_WORLD];
  double relative;       /* worst of all outputs; HUGE_VAL: not a number */
  long unwritten, wrong; /* elements that are poison; that are far off */
  long ungathered;       /* elements of a gathered A that are not the ranks' inputs */
  size_t reports;
  char report[BED_TEXT]; /* the first */
  unsigned hazards;      /* bits: kinds of emu_hazard */
  int alive;             /* objects that nobody destroyed */
  emu_counts counts;
  uint64_t now_ns;
  uint64_t hash; /* of all outputs */
  char stuck[BED_TEXT], refused[BED_TEXT];
} bed_result;

void bed_run(const bed_case *c, bed_result *out);
/* 1 if everything is as it must be; else one sentence in `why`. */
int bed_good(const bed_case *c, const bed_result *r, char *why, size_t bytes);
/* A case of one problem, as the command line writes it; aborts the test if the text is wrong. */
bed_case bed_of(const char *problem, const char *variant, int calls, uint64_t seed);
void bed_add(bed_case *c, const char *problem, const char *variant);

#endif
