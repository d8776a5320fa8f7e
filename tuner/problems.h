/* Lists of problems: from the command line, from a file, or the built-in suite. */
#ifndef TML_PROBLEMS_H
#define TML_PROBLEMS_H

#include "../runtime/tidemill.h"
#include "cli.h"

#define PROBLEM_TEXT_BYTES 96

typedef struct problems {
  tml_problem *at;
  size_t count, capacity;
} problems;

void problems_add(problems *list, const tml_problem *problem);
/* Operands first, then the file's lines (# starts a comment). CLI_OK; CLI_USAGE (a problem on the
 * command line is wrong) or CLI_FAILED (file) after a message. */
int problems_read(problems *list, const char *command, const cli_list *operands, const char *file);
/* Keeps what a world of this size can run: its own collectives and every plain GEMM. Returns how
 * many were dropped. */
size_t problems_keep_world(problems *list, int world);
/* The same; says how many, and fails if nothing is left. CLI_OK, or CLI_FAILED after a message. */
int problems_fit(problems *list, int world);
/* Sorts plain GEMMs to the front, stable; with `add`, also adds the GEMM that each collective
 * contains, once. */
void problems_gemm_first(problems *list, int add);
/* The built-in suite of `check`: every op of this world x both dtypes x rows from 0 to 4096. */
void problems_suite(problems *list, int world);
/* A suite for the emulator: every op of this world and both types, at shapes of few tiles. */
void problems_suite_small(problems *list, int world);
/* What a soak mixes: of every op of this world problems of both types, with and without bias; `small`: of
 * few tiles, for the emulator. */
void problems_stress(problems *list, int world, int small);
/* The GEMM that one rank runs for this problem. */
tml_problem problems_gemm_of(const tml_problem *problem);
int problems_same(const tml_problem *a, const tml_problem *b);
void problems_free(problems *list);

#endif
