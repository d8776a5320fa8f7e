/* How the bytes of collectives move once every rank has come. Sums in fp32 and in rank order, rounded once. */
#include "driver.h"

void drv_gather(const drv_data *data, size_t bytes)
{
  for (int r = 0; r < data->ranks; r++)
    for (int s = 0; s < data->ranks; s++)
      memmove(data->dst[r] + (size_t)s * bytes, data->src[s], bytes);
}

void drv_broadcast(const drv_data *data, int root, size_t bytes)
{
  for (int r = 0; r < data->ranks; r++) memmove(data->dst[r], data->src[root], bytes);
}

static float float_of(uint32_t bits)
{
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static float from_half(uint16_t h)
{
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (uint32_t)(h >> 10) & 31,
           fraction = h & 1023u;
  if (exponent == 0) return float_of(sign | 0x3f800000) * ((float)fraction * 0x1p-24f);
  return float_of(exponent == 31 ? sign | 0x7f800000 | fraction << 13
                                 : sign | (exponent + 112) << 23 | fraction << 13);
}

/* Round to nearest even. */
static uint16_t to_half(float value)
{
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  if (size > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (size >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* rounds to 65536 or more */
  if (size < 0x38800000) { /* subnormal: the addition rounds to multiples of 2^-24 */
    uint32_t rounded;
    float sum = float_of(size) + 0.5f;
    memcpy(&rounded, &sum, sizeof rounded);
    return (uint16_t)(sign | (rounded - 0x3f000000));
  }
  return (uint16_t)(sign | (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13);
}

static uint16_t to_bfloat(float value)
{
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static uint16_t sum16(const drv_data *data, size_t i)
{
  float sum = 0;
  for (int r = 0; r < data->ranks; r++) {
    uint16_t bits;
    memcpy(&bits, data->src[r] + 2 * i, sizeof bits);
    sum += data->type == TML_NCCL_BFLOAT16 ? float_of((uint32_t)bits << 16) : from_half(bits);
  }
  return data->type == TML_NCCL_BFLOAT16 ? to_bfloat(sum) : to_half(sum);
}

static unsigned char sum8(const drv_data *data, size_t i)
{
  unsigned sum = 0;
  for (int r = 0; r < data->ranks; r++) sum += data->src[r][i];
  return (unsigned char)sum;
}

/* Element by element: a destination that is a source too is read before it is written. */
void drv_reduce(const drv_data *data, int to, size_t from, size_t count)
{
  for (size_t i = 0; i < count; i++) {
    if (data->type == TML_NCCL_UINT8) {
      data->dst[to][i] = sum8(data, from + i);
      continue;
    }
    uint16_t sum = sum16(data, from + i);
    memcpy(data->dst[to] + 2 * i, &sum, sizeof sum);
  }
}

void drv_reduce_all(const drv_data *data, size_t count)
{
  for (size_t i = 0; i < count; i++) {
    uint16_t sum = data->type == TML_NCCL_UINT8 ? sum8(data, i) : sum16(data, i);
    for (int r = 0; r < data->ranks; r++) {
      if (data->type == TML_NCCL_UINT8)
        data->dst[r][i] = (unsigned char)sum;
      else
        memcpy(data->dst[r] + 2 * i, &sum, sizeof sum);
    }
  }
}
