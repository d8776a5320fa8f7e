/* What follows from a variant and a size: shards, tiles, grids, bytes, offsets. Pure arithmetic;
 * rows and columns in elements of 2 bytes. Equal on all ranks by construction. */
#ifndef TML_GEOMETRY_H
#define TML_GEOMETRY_H

#include "ctx.h"

#define TML_ELEMENT_BYTES 2
#define TML_STAGING_ALIGN 1024

static inline int64_t tml_div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Rows of every shard but the last ones. */
static inline int64_t tml_shard_rows(int64_t m, int world) { return tml_div_up(m, world); }

/* Rows that rank r owns: short or none for the last ranks. */
static inline int64_t tml_rows_of(int64_t m, int world, int r)
{
  int64_t shard = tml_shard_rows(m, world);
  int64_t left = m - r * shard;
  return left < 0 ? 0 : left < shard ? left : shard;
}

/* Blocks of a cluster. */
int tml_cluster_blocks(const tml_variant *variant);
/* Blocks of the grid: movers first, then clusters that compute: one per cluster tile of all shards, at
 * least 1, at most what a device that holds `max_clusters` has room for beside the movers. */
int64_t tml_grid(const tml_variant *variant, int max_clusters, const tml_problem *problem,
                 int64_t m);
/* Signal words of one source rank in one parity: cluster-padded tiles of a shard, or (`sm`) its
 * chunks. */
int64_t tml_signal_stride(const tml_variant *variant, int64_t m, int64_t n, int64_t k);
/* Chunk c of rank r's shard as `ce` copies it: a block of A in elements, from the shard's first. */
typedef struct tml_chunk {
  int64_t row, rows, column, columns; /* without rows or columns there is nothing to copy */
} tml_chunk;
tml_chunk tml_chunk_of(const tml_variant *variant, int64_t m, int64_t k, int r, int c);
/* Where the finished rows begin in a staging half of `twoshot`, in bytes. */
size_t tml_finished_at(int world, int64_t m, int64_t n);
/* What a fused launch of this m needs in symmetric memory (`local` stays 0). */
void tml_fused_bytes(const tml_variant *variant, int64_t m, int64_t n, int64_t k, tml_bytes *out);
/* What an unfused collective keeps in `local` beside its GEMM, in bytes. */
size_t tml_unfused_bytes(const tml_problem *problem, int64_t m);

#endif
