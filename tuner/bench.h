/* Benchmark of one problem; the command around it is in bench.c, files and headings in report.c. */
#ifndef TML_BENCH_H
#define TML_BENCH_H

#include "measure.h"
#include "problems.h"
#include "table.h"

typedef struct bench_row {
  tml_problem problem;
  const char *regime;
  char variant[TML_NAME_BYTES], own[TML_NAME_BYTES]; /* own: the generated GEMM of "own + nccl" */
  /* Microseconds; NAN where a column does not apply, INFINITY where it failed. lt: cuBLASLt alone;
   * unfused: cuBLASLt with NCCL; own_us: the own GEMM, with NCCL for collectives. */
  double us, lt_us, unfused_us, own_us, bound_us, mhz;
  double host_us; /* of one launch on the host, median */
} bench_row;

typedef struct bench_facts {
  tml_machine machine;
  int world, driver, nccl;
  size_t lt;
  double link_gbs; /* copy engine, one direction while all send; NAN in a world of one */
} bench_facts;

/* Collective. Rows for both regimes are measured over the same graphs; count is 1 or 2. symmetric: C of
 * gemm_ar is symmetric memory. */
tml_status bench_problem(rig *r, const tml_problem *problem, const regime *regimes, int count,
                         int symmetric, double link_gbs, bench_row *rows);
tml_status bench_link(rig *r, double *gbs);

extern const table_column bench_columns[];
extern const int bench_column_count;
void bench_add_row(table *t, const bench_row *row);
/* One line per op and regime with the geometric means. */
void bench_print_means(const bench_row *rows, size_t count, FILE *to);
/* FILE.json and, with `markdown`, the table beside it. 0 or 1 after a message. */
int bench_write(const char *json, const char *markdown, const table *t, const bench_row *rows,
                size_t count, const bench_facts *facts, const char *which, const char *commit);
void bench_print_facts(const bench_facts *facts, FILE *to);

#endif
