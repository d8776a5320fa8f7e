/* Inputs and reference made by the host, for the emulator: its kernels take a hundred times longer for
 * what the host does at once, and the kernels under test are others. Sums in fp32, as on the device. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/status.h"
#include "data.h"

static uint64_t mix(uint64_t x)
{
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

/* Nearest even; for values of ordinary size. */
static uint16_t rounded(tml_dtype dtype, float value)
{
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (dtype == TML_BF16) return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  if (size < 0x38800000) return (uint16_t)(sign | (uint32_t)lrintf(fabsf(value) * 0x1p24f));
  return (uint16_t)(sign | (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13);
}

/* As the fill kernel: standard normal, a function of seed and index. */
static void make(uint16_t *to, tml_dtype dtype, uint64_t count, uint64_t seed)
{
  for (uint64_t pair = 0; 2 * pair < count; pair++) {
    uint64_t bits = mix(mix(seed) ^ pair);
    float u = ((float)(bits >> 40) + 1.0f) * (1.0f / 16777217.0f);
    float angle = (float)(bits & 0xffffff) * (6.28318530718f / 16777216.0f);
    float radius = sqrtf(-2.0f * logf(u));
    to[2 * pair] = rounded(dtype, radius * cosf(angle));
    if (2 * pair + 1 < count) to[2 * pair + 1] = rounded(dtype, radius * sinf(angle));
  }
}

tml_status data_host_fill(rig *r, tml_dtype dtype, CUdeviceptr to, uint64_t count, uint64_t seed)
{
  uint16_t *host = malloc(count * 2 + 2);
  if (!host) return tml_fail(TML_MEMORY, "out of memory for inputs");
  make(host, dtype, count, seed);
  tml_status status = CU(r->api, cuMemcpyHtoDAsync, (to, host, count * 2, r->stream));
  free(host); /* pageable: read by the call */
  return status;
}

static float *widened(const uint16_t *from, tml_dtype dtype, int64_t count)
{
  float *to = malloc((size_t)count * sizeof *to + 4);
  for (int64_t i = 0; to && i < count; i++) to[i] = data_to_float(dtype, from[i]);
  return to;
}

static tml_status fetch(rig *r, CUdeviceptr from, tml_dtype dtype, int64_t count, float **out)
{
  uint16_t *host = malloc((size_t)count * 2 + 2);
  tml_status status =
      host ? CU(r->api, cuMemcpyDtoHAsync, (host, from, (size_t)count * 2, r->stream)) : TML_MEMORY;
  *out = status == TML_OK ? widened(host, dtype, count) : NULL;
  free(host);
  if (status != TML_OK) return status;
  return *out ? TML_OK : tml_fail(TML_MEMORY, "out of memory for the reference");
}

static void multiply(const tml_values *v, const float *a, const float *b, float *sum)
{
  for (int64_t i = 0; i < v->m; i++) {
    const float *row = a + (v->row0 + i * v->row_step) * v->ld;
    for (int64_t x = 0; x < v->n; x++) {
      const float *column = b + x * v->ld2;
      float dot = v->flags & 1 ? sum[i * v->n + x] : 0.0f;
      for (int64_t k = 0; k < v->k; k++) dot += row[k] * column[k];
      sum[i * v->n + x] = dot;
    }
  }
}

/* The reference kernel's parameters, and its work. */
tml_status data_host_reference(rig *r, tml_dtype dtype, const tml_values *v)
{
  float *a = NULL, *b = NULL;
  size_t bytes = (size_t)v->m * (size_t)v->n * sizeof(float);
  float *sum = malloc(bytes + 4);
  int64_t rows = v->m ? v->row0 + (int64_t)(v->m - 1) * v->row_step + 1 : 0;
  tml_status status = sum ? TML_OK : tml_fail(TML_MEMORY, "out of memory for the reference");
  if (status == TML_OK) status = fetch(r, v->src, dtype, rows * v->ld, &a);
  if (status == TML_OK) status = fetch(r, v->aux, dtype, (int64_t)v->n * v->ld2, &b);
  if (status == TML_OK && (v->flags & 1))
    status = CU(r->api, cuMemcpyDtoHAsync, (sum, v->dst, bytes, r->stream));
  if (status == TML_OK) multiply(v, a, b, sum);
  if (status == TML_OK) status = CU(r->api, cuMemcpyHtoDAsync, (v->dst, sum, bytes, r->stream));
  free(a);
  free(b);
  free(sum);
  return status;
}
