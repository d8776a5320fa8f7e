#include "data.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../runtime/status.h"
#include "device.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t data_seed(uint64_t what, uint64_t rank, uint64_t copy, uint64_t generation)
{
  uint64_t x = what + 16 * rank + 1024 * copy + (generation << 20) + 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull; /* splitmix64 */
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

int data_copies(const tml_problem *p)
{
  double wanted = 4.0 * (64 << 20) / ((double)p->n * (double)p->k * 2);
  int copies = (int)wanted + (wanted > (int)wanted);
  return wanted > DATA_MAX_COPIES ? DATA_MAX_COPIES : copies < 2 ? 2 : copies;
}

/* Hop k of a ring rounds the sum of k products, so that W ranks together are off by sqrt((W + 1) / 2) roundings
 * of the result. Patterns that round each partial by itself come to sqrt(2) at most, and the limits of the
 * types are made for these. Over few elements the mean scatters. */
double data_limit(const tml_problem *p, tml_pattern pattern)
{
  double elements = fmax(1, (double)p->m * (double)p->n / p->world);
  double limit = (p->dtype == TML_BF16 ? 4e-3 : 6e-4) * (1 + 1 / sqrt(elements));
  return pattern == TML_PATTERN_RING ? limit * fmax(1, sqrt((p->world + 1) / 4.0)) : limit;
}

int64_t data_rows_of(const data *d, int rank)
{
  int64_t left = d->problem.m - rank * d->shard;
  return left < 0 ? 0 : left > d->shard ? d->shard : left;
}

/* The bias of a reduction is one vector for all ranks; of a rank's own columns it is its own. */
int data_bias_rank(const data *d)
{
  return d->problem.op == TML_GEMM_RS || d->problem.op == TML_GEMM_AR ? 0 : d->seed_rank;
}

tml_status data_fill_blocks(rig *r, tml_dtype dtype, CUdeviceptr to, uint64_t count, uint64_t seed,
                            unsigned blocks)
{
  tml_values values;
  if (count == 0) return TML_OK;
  if (device_emulated() || r->host_inputs) return data_host_fill(r, dtype, to, count, seed);
  TRY(rig_need(r->fill[dtype], dtype));
  memset(&values, 0, sizeof values);
  values.dst = to;
  values.count = count;
  values.seed = seed;
  uint64_t useful = (count + 1023) / 1024;
  if (!blocks) blocks = useful > 4096 ? 4096 : (unsigned)useful;
  return tml_launch_aux(r->ctx, r->fill[dtype], &values, blocks, r->stream);
}

tml_status data_fill_gathered(rig *r, const data *d, CUdeviceptr to)
{
  for (int s = 0; s < d->world; s++) {
    CUdeviceptr at = to + (uint64_t)(s * d->shard * d->problem.k * 2);
    TRY(data_fill_blocks(r, d->problem.dtype, at, (uint64_t)(data_rows_of(d, s) * d->problem.k),
                         data_seed(DATA_SEED_A, (uint64_t)s, 0, d->generation), 0));
  }
  return TML_OK;
}

static tml_status take(rig *r, CUdeviceptr *out, int64_t bytes)
{
  /* Never zero bytes: an empty operand still needs a valid address. */
  return CU(r->api, cuMemAlloc, (out, (size_t)bytes + DATA_GUARD));
}

void data_set_rows(data *d, int64_t m)
{
  d->problem.m = m;
  d->shard = (m + d->world - 1) / d->world;
  d->rows = data_rows_of(d, d->rank);
  d->c_rows = d->problem.op == TML_GEMM_RS ? d->rows : m;
}

size_t data_output_bytes(const data *d) { return (size_t)(d->c_rows * d->problem.n * 2); }

tml_status data_create(rig *r, const tml_problem *problem, int copies, int with_full, data *out)
{
  data d = {.problem = *problem, .world = problem->op == TML_GEMM ? 1 : problem->world};
  tml_status status = TML_OK;
  d.seed_rank = r->rank;
  d.rank = d.world == 1 ? 0 : r->rank;
  d.copies = copies;
  data_set_rows(&d, problem->m);
  int64_t a_rows = problem->op == TML_AG_GEMM ? d.rows : problem->m;
  int64_t full = d.shard * d.world * (problem->op == TML_AG_GEMM ? problem->k : problem->n) * 2;
  TRY_GOTO(take(r, &d.a, a_rows * problem->k * 2), done);
  for (int i = 0; i < copies; i++) TRY_GOTO(take(r, &d.b[i], problem->n * problem->k * 2), done);
  if (problem->bias) TRY_GOTO(take(r, &d.bias, problem->n * 2), done);
  TRY_GOTO(take(r, &d.c, (int64_t)data_output_bytes(&d)), done);
  if (with_full) TRY_GOTO(take(r, &d.full, full), done);
done:
  if (status != TML_OK) data_free(r, &d);
  *out = d;
  return status;
}

void data_free(rig *r, data *d)
{
  CUdeviceptr all[] = {d->a, d->bias, d->c, d->full};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (all[i]) r->api->cuda.p_cuMemFree(all[i]);
  for (int i = 0; i < DATA_MAX_COPIES; i++)
    if (d->b[i]) r->api->cuda.p_cuMemFree(d->b[i]);
  memset(d, 0, sizeof *d);
}

tml_status data_fill(rig *r, data *d, uint64_t generation)
{
  const tml_problem *p = &d->problem;
  uint64_t me = (uint64_t)d->seed_rank;
  int64_t a_rows = p->op == TML_AG_GEMM ? d->rows : p->m;
  d->generation = generation;
  TRY(data_fill_blocks(r, p->dtype, d->a, (uint64_t)(a_rows * p->k),
                       data_seed(DATA_SEED_A, me, 0, generation), 0));
  for (int i = 0; i < d->copies; i++)
    TRY(data_fill_blocks(r, p->dtype, d->b[i], (uint64_t)(p->n * p->k),
                         data_seed(DATA_SEED_B, me, (uint64_t)i, generation), 0));
  if (d->bias)
    TRY(data_fill_blocks(r, p->dtype, d->bias, (uint64_t)p->n,
                         data_seed(DATA_SEED_BIAS, (uint64_t)data_bias_rank(d), 0, generation), 0));
  return d->full && p->op == TML_AG_GEMM ? data_fill_gathered(r, d, d->full) : TML_OK;
}

tml_status data_poison(rig *r, data *d)
{
  return CU(r->api, cuMemsetD8Async,
            (data_output(d), 0xff, data_output_bytes(d) + DATA_GUARD, r->stream));
}

tml_args data_args(const data *d, int call)
{
  tml_args args = {.size = sizeof args, .m = d->problem.m};
  args.a = (const void *)(uintptr_t)d->a;
  args.b = (const void *)(uintptr_t)d->b[call % d->copies];
  args.bias = (const void *)(uintptr_t)d->bias;
  args.c = (void *)(uintptr_t)data_output(d);
  args.c_symmetric = d->symmetric != 0;
  return args;
}

/* Bytes of the device on the host, when all work before has ended; *host: NULL if there are none. */
static tml_status take_bytes(rig *r, CUdeviceptr at, size_t bytes, void **host)
{
  *host = NULL;
  if (bytes == 0) return rig_wait(r, 30);
  TRY(rig_host(r, bytes, host));
  TRY(CU(r->api, cuMemcpyDtoHAsync, (*host, at, bytes, r->stream)));
  return rig_wait(r, 30);
}

tml_status data_hash_bytes(rig *r, CUdeviceptr at, size_t bytes, uint64_t *out)
{
  void *host;
  *out = 0;
  TRY(take_bytes(r, at, bytes, &host));
  if (host) *out = XXH3_64bits(host, bytes);
  return TML_OK;
}

tml_status data_hash(rig *r, const data *d, uint64_t *out)
{
  return data_hash_bytes(r, data_output(d), data_output_bytes(d), out);
}

tml_status data_save(rig *r, const data *d, const char *path)
{
  size_t bytes = data_output_bytes(d), written = 0;
  void *host;
  TRY(take_bytes(r, data_output(d), bytes, &host));
  FILE *file = fopen(path, "wb");
  if (file && host) written = fwrite(host, 1, bytes, file);
  int bad = !file || written != bytes;
  if (file) bad |= fclose(file) != 0;
  return bad ? tml_fail(TML_IO, "cannot write %s: %s", path, strerror(errno)) : TML_OK;
}
