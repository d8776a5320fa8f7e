/* Benchmark of one problem; the command around it is in bench.c, means in bench_means.c, files and
 * headings in report.c. */
#ifndef TML_BENCH_H
#define TML_BENCH_H

#include "measure.h"
#include "peers.h"
#include "problems.h"
#include "table.h"

typedef struct bench_row {
  tml_problem problem;
  const char *regime;
  char variant[TML_NAME_BYTES], own[TML_NAME_BYTES]; /* own: the generated GEMM of "own + nccl" */
  int missed; /* 1: the pick is a library's, so no generated kernel was faster */
  /* Microseconds; NAN where a column does not apply, INFINITY where it failed. lt: cuBLASLt alone;
   * unfused: cuBLASLt with NCCL; own_us: the own GEMM, with NCCL for collectives. */
  double us, lt_us, unfused_us, own_us, bound_us, mhz;
  double host_us;         /* of one launch on the host, median */
  const bench_peer *peer; /* the fastest one known; NULL: none */
} bench_row;

/* GB/s that a rank sends while all do; NAN: not measured. */
typedef struct bench_link_rates {
  double copies, stores; /* by the copy engines; by TMA stores of all SMs */
} bench_link_rates;

typedef struct bench_facts {
  tml_machine machine;
  int world, driver, nccl;
  size_t lt;
  bench_link_rates link;
} bench_facts;

/* Collective. Rows for both regimes are measured over the same graphs; count is 1 or 2. symmetric: C of
 * gemm_ar is symmetric memory. */
tml_status bench_problem(rig *r, const tml_problem *problem, const regime *regimes, int count,
                         int symmetric, const bench_link_rates *link, bench_row *rows);
/* Collective. */
tml_status bench_link(rig *r, bench_link_rates *out);
/* No schedule is faster than the GEMM alone, nor than its bytes over the link by the engine that the
 * variant uses; a library's row is held against the faster engine. Microseconds. */
double bench_bound(const tml_problem *p, double lt_us, const bench_link_rates *link,
                   const tml_variant *v);

/* Ratios are above 1 where Tidemill is faster. NAN where they do not apply. */
double bench_ratio(const bench_row *row);     /* what a user has without us / the pick */
double bench_own_ratio(const bench_row *row); /* cuBLASLt / our own GEMM in the same place */
double bench_over_bound(const bench_row *row);
/* FLUX's overlap efficiency in percent: 100 hides all communication behind the GEMM, 0 none. */
double bench_efficiency(const bench_row *row);
double bench_peer_ratio(const bench_row *row);

/* Of the rows of an op and regime (`which`) with m in [from, below). */
typedef struct bench_means {
  int rows, missed, slower;            /* slower: than a peer */
  double ratio, over_bound, own, peer; /* geometric */
  double efficiency, best_efficiency;  /* arithmetic */
  double own_least;
  const bench_row *worst; /* farthest from its bound; of plain GEMMs the one with own_least */
} bench_means;
bench_means bench_means_of(const bench_row *rows, size_t count, tml_op op, const char *which,
                           int64_t from, int64_t below);
/* One row for each op, regime and group of m: below 2048, from 2048 on, all. */
table *bench_means_table(const bench_row *rows, size_t count);

#define BENCH_COLUMNS 20
/* peers: 1 shows the columns of peers; otherwise they are in the JSON alone. */
void bench_columns(int peers, table_column out[BENCH_COLUMNS]);
void bench_add_row(table *t, const bench_row *row);
/* FILE.json and, with `markdown`, the table beside it. 0 or 1 after a message. */
int bench_write(const char *json, const char *markdown, const table *t, const table *means,
                const bench_facts *facts, const char *which, const char *commit);
void bench_print_facts(const bench_facts *facts, FILE *to);

#endif
