/* The comparison of an output with the fp32 reference kernel, summed on the host in double. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/status.h"
#include "data.h"
#include "device.h"

/* Which rows of the output are compared. */
typedef struct rows {
  int64_t count, step;
} rows;

static rows choose_rows(const data *d, double work)
{
  double row_work = (double)d->problem.n * (double)d->problem.k * d->world;
  double allowed = work / row_work;
  rows all = {d->c_rows, 1};
  if (allowed >= (double)d->c_rows || d->c_rows <= 16) return all;
  /* An odd step meets every position of a row within its tile. */
  int64_t least = allowed < 16 ? 16 : (int64_t)allowed;
  int64_t step = ((d->c_rows + least - 1) / least) | 1;
  return (rows){(d->c_rows + step - 1) / step, step};
}

typedef struct job {
  rig *r;
  const data *d;
  rows rows;
  CUdeviceptr a, b, sum; /* made again: inputs of a rank; fp32 result */
} job;

static tml_status add_product(const job *j, CUdeviceptr a, CUdeviceptr b, int64_t row0,
                              int accumulate)
{
  const tml_problem *p = &j->d->problem;
  tml_values v;
  uint64_t elements = (uint64_t)(j->rows.count * p->n), blocks = (elements + 255) / 256;
  memset(&v, 0, sizeof v);
  v.src = a;
  v.aux = b;
  v.dst = j->sum;
  v.m = (int32_t)j->rows.count;
  v.n = (int32_t)p->n;
  v.k = (int32_t)p->k;
  v.ld = v.ld2 = p->k;
  v.row0 = (int32_t)row0;
  v.row_step = (int32_t)j->rows.step;
  v.flags = accumulate;
  if (device_emulated()) return data_host_reference(j->r, p->dtype, &v);
  TRY(rig_need(j->r->reference[p->dtype], p->dtype));
  return tml_launch_aux(j->r->ctx, j->r->reference[p->dtype], &v,
                        blocks > 65535 ? 65535 : (unsigned)blocks, j->r->stream);
}

static tml_status take(const job *j, CUdeviceptr *out, int64_t elements, int64_t size)
{
  return CU(j->r->api, cuMemAlloc, (out, (size_t)(elements * size)));
}

/* Sum over all ranks' products, each rank's inputs made again from its seeds. */
static tml_status sum_over_ranks(job *j)
{
  const data *d = j->d;
  const tml_problem *p = &d->problem;
  int64_t row0 = p->op == TML_GEMM_RS ? d->rank * d->shard : 0;
  TRY(take(j, &j->a, p->m * p->k, 2));
  TRY(take(j, &j->b, p->n * p->k, 2));
  for (int s = 0; s < d->world; s++) {
    TRY(data_fill_blocks(j->r, p->dtype, j->a, (uint64_t)(p->m * p->k),
                         data_seed(DATA_SEED_A, (uint64_t)s, 0, d->generation), 0));
    TRY(data_fill_blocks(j->r, p->dtype, j->b, (uint64_t)(p->n * p->k),
                         data_seed(DATA_SEED_B, (uint64_t)s, 0, d->generation), 0));
    TRY(add_product(j, j->a, j->b, row0, s > 0));
  }
  return TML_OK;
}

static tml_status make_reference(job *j)
{
  const data *d = j->d;
  const tml_problem *p = &d->problem;
  TRY(take(j, &j->sum, j->rows.count * p->n, 4));
  switch (p->op) {
  case TML_GEMM: return add_product(j, d->a, d->b[0], 0, 0);
  case TML_AG_GEMM:
    TRY(take(j, &j->a, d->shard * d->world * p->k, 2));
    TRY(data_fill_gathered(j->r, d, j->a));
    return add_product(j, j->a, d->b[0], 0, 0);
  case TML_GEMM_RS:
  case TML_GEMM_AR: break;
  }
  return sum_over_ranks(j);
}

static float from_half(uint16_t h)
{
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023;
  uint32_t bits;
  float value;
  if (exponent == 0) { /* zero or subnormal: fraction * 2^-24 */
    value = (float)fraction * 0x1p-24f;
    return sign ? -value : value;
  }
  bits = exponent == 31 ? sign | 0x7f800000 | fraction << 13
                        : sign | (exponent + 112) << 23 | fraction << 13;
  memcpy(&value, &bits, sizeof value);
  return value;
}

float data_to_float(tml_dtype dtype, uint16_t bits)
{
  uint32_t wide = (uint32_t)bits << 16;
  float value;
  if (dtype == TML_FP16) return from_half(bits);
  memcpy(&value, &wide, sizeof value);
  return value;
}

/* Poisoned elements; in pieces, whose counters are as narrow as the elements, so that it costs no
 * more than reading them. */
static int64_t count_poisoned(const uint16_t *c, int64_t elements)
{
  enum { PIECE = 4096 };
  int64_t count = 0, i = 0;
  for (; elements - i >= PIECE; i += PIECE) {
    uint16_t some = 0;
    for (int x = 0; x < PIECE; x++) some = (uint16_t)(some + (c[i + x] == 0xffff));
    count += some;
  }
  for (; i < elements; i++) count += c[i] == 0xffff;
  return count;
}

static void count_poison(const data *d, const uint16_t *c, data_error *out)
{
  int64_t elements = d->c_rows * d->problem.n;
  out->unwritten = count_poisoned(c, elements);
  out->overrun = count_poisoned(c + elements, DATA_GUARD / 2) != DATA_GUARD / 2;
}

static void sum_errors(const data *d, const uint16_t *c, const data_reference *reference,
                       data_error *out)
{
  const tml_problem *p = &d->problem;
  double wrong = 0, right = 0;
  for (int64_t i = 0; i < reference->rows; i++) {
    const uint16_t *got = c + i * reference->step * p->n;
    const float *want = reference->sum + i * p->n;
    for (int64_t x = 0; x < p->n; x++) {
      double w = (double)want[x];
      double e = (double)data_to_float(p->dtype, got[x]) - w;
      wrong += e * e;
      right += w * w;
    }
  }
  out->relative = right > 0 ? sqrt(wrong / right) : wrong > 0 ? NAN : 0;
}

/* Columns of the sums get their bias, on the host. */
static tml_status add_bias(const job *j, float *sum)
{
  const tml_problem *p = &j->d->problem;
  void *at;
  if (!j->d->bias) return TML_OK;
  TRY(rig_host(j->r, (size_t)p->n * 2, &at));
  TRY(CU(j->r->api, cuMemcpyDtoHAsync, (at, j->d->bias, (size_t)p->n * 2, j->r->stream)));
  TRY(rig_wait(j->r, 120));
  const uint16_t *bias = at;
  for (int64_t i = 0; i < j->rows.count; i++)
    for (int64_t x = 0; x < p->n; x++) sum[i * p->n + x] += data_to_float(p->dtype, bias[x]);
  return TML_OK;
}

static tml_status fetch_reference(job *j, float *sum)
{
  if (j->rows.count == 0) return TML_OK;
  TRY(make_reference(j));
  TRY(CU(j->r->api, cuMemcpyDtoHAsync,
         (sum, j->sum, (size_t)(j->rows.count * j->d->problem.n * 4), j->r->stream)));
  TRY(rig_wait(j->r, 120));
  return add_bias(j, sum);
}

tml_status data_reference_make(rig *r, const data *d, double work, data_reference *out)
{
  job j = {.r = r, .d = d, .rows = choose_rows(d, work)};
  CUdeviceptr *all[] = {&j.a, &j.b, &j.sum};
  *out = (data_reference){.rows = j.rows.count, .step = j.rows.step};
  out->sum = malloc((size_t)(j.rows.count * d->problem.n * 4) + 4);
  tml_status status = out->sum ? fetch_reference(&j, out->sum)
                               : tml_fail(TML_MEMORY, "out of memory for the reference");
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (*all[i]) r->api->cuda.p_cuMemFree(*all[i]);
  if (status != TML_OK) data_reference_free(out);
  return status;
}

void data_reference_free(data_reference *reference)
{
  free(reference->sum);
  *reference = (data_reference){0};
}

tml_status data_compare_with(rig *r, const data *d, const data_reference *reference,
                             data_error *out)
{
  size_t bytes = data_output_bytes(d) + DATA_GUARD;
  void *c;
  *out = (data_error){0};
  TRY(rig_host(r, bytes, &c));
  TRY(CU(r->api, cuMemcpyDtoHAsync, (c, d->c, bytes, r->stream)));
  TRY(rig_wait(r, 120));
  count_poison(d, c, out);
  sum_errors(d, c, reference, out);
  return TML_OK;
}

tml_status data_compare(rig *r, const data *d, double work, data_error *out)
{
  data_reference reference;
  TRY(data_reference_make(r, d, work, &reference));
  tml_status status = data_compare_with(r, d, &reference, out);
  data_reference_free(&reference);
  return status;
}
