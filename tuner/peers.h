/* What others need for the same problems, timed elsewhere: a JSON list of rows
 * {"problem": TEXT, "regime": "burst" or "sustained" (may be absent), NAME: microseconds, ...}. The
 * column "gemm" is the GEMM alone, which is a peer of plain GEMMs only. */
#ifndef TML_PEERS_H
#define TML_PEERS_H

#include "problems.h"

typedef struct bench_peer {
  tml_problem problem;
  char regime[16], name[32];
  double us;
} bench_peer;

typedef struct bench_peers {
  bench_peer *at; /* every column of every row */
  size_t count, capacity;
} bench_peers;

/* regime: of rows that name none; NULL refuses them. NULL, or what is wrong with the text. */
const char *peers_parse(bench_peers *list, const char *text, const char *regime);
/* CLI_OK, or CLI_FAILED after a message. */
int peers_read(bench_peers *list, const char *path, const char *regime);
/* The fastest of this problem and regime, or NULL. */
const bench_peer *peers_best(const bench_peers *list, const tml_problem *problem,
                             const char *regime);
void peers_free(bench_peers *list);

#endif
