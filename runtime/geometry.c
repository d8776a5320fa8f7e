#include "geometry.h"

static size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

/* One rank's packed part: W shards of `columns`, in bytes. */
static size_t packed_bytes(int world, int64_t m, int64_t columns)
{
  return (size_t)world * (size_t)tml_shard_rows(m, world) * (size_t)columns * TML_ELEMENT_BYTES;
}

int tml_cluster_blocks(const tml_variant *v)
{
  int blocks = v->cluster_m * v->cluster_n * v->split;
  return blocks > 0 ? blocks : 1;
}

int64_t tml_grid(const tml_variant *v, int max_clusters, const tml_problem *problem, int64_t m)
{
  int64_t columns = tml_div_up(problem->n, (int64_t)v->tile_n * v->cluster_n), tiles = 0;
  for (int s = 0; s < v->world; s++)
    tiles += tml_div_up(tml_rows_of(m, v->world, s), (int64_t)v->tile_m * v->cluster_m) * columns;
  int64_t most = max_clusters - v->movers / tml_cluster_blocks(v);
  if (tiles > most) tiles = most;
  return v->movers + (tiles < 1 ? 1 : tiles) * tml_cluster_blocks(v);
}

int64_t tml_signal_stride(const tml_variant *v, int64_t m, int64_t n, int64_t k)
{
  int64_t rows = tml_shard_rows(m, v->world);
  if (v->movers > 0) return tml_div_up(rows, v->tile_m) * tml_div_up(k, v->move_k);
  return tml_div_up(rows, (int64_t)v->tile_m * v->cluster_m) * v->cluster_m *
         tml_div_up(n, (int64_t)v->tile_n * v->cluster_n) * v->cluster_n;
}

/* Part c of `count` parts of `total` units, of which `each` go into a part. */
static int64_t part(int64_t total, int64_t unit, int count, int c, int64_t *first)
{
  int64_t each = tml_div_up(tml_div_up(total, unit), count) * unit, left = total - c * each;
  *first = c * each;
  return left < 0 ? 0 : left < each ? left : each;
}

tml_chunk tml_chunk_of(const tml_variant *v, int64_t m, int64_t k, int r, int c)
{
  tml_chunk chunk = {0};
  int along_m = v->chunks_m > 1;
  int64_t have = tml_rows_of(m, v->world, r);
  chunk.columns = part(k, v->tile_k, v->chunks_k, along_m ? 0 : c, &chunk.column);
  chunk.rows =
      part(tml_shard_rows(m, v->world), v->tile_m, v->chunks_m, along_m ? c : 0, &chunk.row);
  if (chunk.rows > have - chunk.row) chunk.rows = have > chunk.row ? have - chunk.row : 0;
  return chunk;
}

size_t tml_finished_at(int world, int64_t m, int64_t n)
{
  return round_up(packed_bytes(world, m, n), TML_STAGING_ALIGN);
}

void tml_fused_bytes(const tml_variant *v, int64_t m, int64_t n, int64_t k, tml_bytes *out)
{
  if (m < 1) m = 1; /* an empty call still needs a segment for its maps */
  size_t words = (size_t)v->world * (size_t)tml_signal_stride(v, m, n, k);
  *out = (tml_bytes){.size = sizeof *out};
  switch (v->pattern) {
  case TML_PATTERN_CE: out->slots = packed_bytes(v->world, m, k); break;
  case TML_PATTERN_SM:
    out->staging = packed_bytes(v->world, m, k);
    out->signals = 8 * words;
    break;
  case TML_PATTERN_PUSH:
  case TML_PATTERN_RING:
    out->staging = packed_bytes(v->world, m, n);
    out->signals = 8 * words;
    break;
  case TML_PATTERN_TWOSHOT:
    out->staging = tml_finished_at(v->world, m, n) + packed_bytes(v->world, m, n);
    out->signals = 8 * 2 * words;
    break;
  default: break;
  }
}

size_t tml_unfused_bytes(const tml_problem *problem, int64_t m)
{
  if (problem->op == TML_AG_GEMM) return packed_bytes(problem->world, m, problem->k);
  if (problem->op == TML_GEMM_RS) return packed_bytes(problem->world, m, problem->n);
  return 0;
}
