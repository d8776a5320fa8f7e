#include "host.h"

#include <stdlib.h>
#include <string.h>

/* Elements are multiples of 1/64 in -1 .. 1, and these over a power of two: exact in both types, but
 * their sums are not exact in fp32, so that the order of additions shows. */
static uint16_t exact(tml_dtype dtype, int sixtyfourths, int halvings)
{
  float value = (float)sixtyfourths / (float)(64 << halvings);
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (dtype == TML_BF16) return (uint16_t)(bits >> 16);
  if (sixtyfourths == 0) return 0;
  return (uint16_t)((bits >> 16 & 0x8000) | (((bits >> 23 & 255) - 112) << 10) |
                    (bits >> 13 & 1023));
}

float host_float(tml_dtype dtype, uint16_t bits)
{
  uint32_t wide = (uint32_t)bits << 16;
  float value;
  if (dtype == TML_FP16) {
    uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023,
             sign = (uint32_t)(bits & 0x8000) << 16;
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * (float)fraction * 0x1p-24f;
    wide = exponent == 31 ? sign | 0x7f800000 | fraction << 13
                          : sign | (exponent + 112) << 23 | fraction << 13;
  }
  memcpy(&value, &wide, sizeof value);
  return value;
}

uint16_t *host_make(tml_dtype dtype, uint64_t seed, int64_t count)
{
  uint16_t *at = malloc((size_t)count * 2 + 2);
  uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;
  for (int64_t i = 0; at && i < count; i++) {
    x = x * 6364136223846793005ull + 1442695040888963407ull;
    at[i] = exact(dtype, (int)((x >> 40) % 129) - 64, (int)((x >> 56) % 9));
  }
  return at;
}

void host_multiply(const tml_problem *p, const uint16_t *a, int64_t rows, const uint16_t *b,
                   double *sum)
{
  float *wide = malloc((size_t)((p->n + 1) * p->k) * sizeof *wide);
  if (!wide) return;
  for (int64_t i = 0; i < p->n * p->k; i++) wide[i] = host_float(p->dtype, b[i]);
  float *line = wide + p->n * p->k;
  for (int64_t row = 0; row < rows; row++) {
    for (int64_t i = 0; i < p->k; i++) line[i] = host_float(p->dtype, a[row * p->k + i]);
    for (int64_t x = 0; x < p->n; x++) {
      const float *other = wide + x * p->k;
      float dot = 0;
      for (int64_t i = 0; i < p->k; i++) dot += line[i] * other[i];
      sum[row * p->n + x] += dot;
    }
  }
  free(wide);
}
