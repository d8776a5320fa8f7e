#include "mma.h"

#include "tensor.h"

#include <string.h>

#define DEPTH 16u
#define COLUMNS_MAX 256u

static float as_float(u32 bits)
{
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

static u32 as_bits(float x)
{
  u32 bits;
  memcpy(&bits, &x, 4);
  return bits;
}

float emu_from_half(u32 half)
{
  u32 sign = (half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 0x3ff;
  if (exponent == 31) return as_float(sign | 0x7f800000 | fraction << 13);
  if (exponent == 0) { /* zero and subnormals: fraction * 2^-24 */
    float x = (float)fraction * (1.0f / 16777216.0f);
    return as_float(as_bits(x) | sign);
  }
  return as_float(sign | (exponent + 112) << 23 | fraction << 13);
}

u32 emu_to_half(float x)
{
  u32 bits = as_bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; /* rounds to 65536 or more */
  if (magnitude <
      0x38800000) { /* below 2^-14: adding 0.5 leaves the fraction, rounded to nearest even */
    return sign | (as_bits(as_float(magnitude) + 0.5f) - 0x3f000000);
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

/* ---- Operands -------------------------------------------------------------------------------- */
typedef struct {
  u32 start, stride; /* address of row 0; bytes between groups of 8 rows */
  int swizzle;       /* as a tensor map's; 0: none */
} operand;

/* bits 0-13 address / 16, 32-45 stride / 16, 62-63 swizzle: 1 128, 2 64, 3 32 bytes */
static operand decode(u64 descriptor)
{
  u32 layout = (u32)(descriptor >> 62);
  operand o = {(u32)(descriptor & 0x3fff) << 4, (u32)(descriptor >> 32 & 0x3fff) << 4,
               layout == 0 ? 0 : 4 - (int)layout};
  return o;
}

/* Offset in shared memory of a row's 16-byte half. */
static u32 half_row(const operand *o, u32 row, u32 half)
{
  u32 linear = o->start + row / 8 * o->stride + row % 8 * (16u << o->swizzle) + 16 * half;
  return emu_swizzle(linear, o->swizzle) - EMU_SMEM_BASE;
}

static void read_row(const emu_cta *cta, const operand *o, u32 row, u32 fp16, float *out)
{
  u16 raw[DEPTH];
  for (u32 half = 0; half < 2; ++half) {
    u32 at = half_row(o, row, half);
    if (at > EMU_SMEM_MAX - 16) at = 0;
    memcpy(raw + 8 * half, cta->slot->smem + at, 16);
  }
  for (u32 k = 0; k < DEPTH; ++k)
    out[k] = fp16 ? emu_from_half(raw[k]) : as_float((u32)raw[k] << 16);
}

void emu_mma_operands(emu_thread *self, const emu_mma *op, emu_access *access)
{
  const u64 descriptor[2] = {op->a, op->b};
  const u32 rows[2] = {64, op->columns};
  if (op->columns % 8 || op->columns == 0 || op->columns > COLUMNS_MAX) {
    emu_hazard_here(EMU_MISUSE, 0, "wgmma of %u columns", op->columns);
  }
  for (int i = 0; i < 2; ++i) {
    operand o = decode(descriptor[i]);
    if (o.swizzle == 0) {
      emu_hazard_here(EMU_MISUSE, o.start,
                      "a matrix descriptor without swizzle, which the emulator does not have");
      return;
    }
    for (u32 row = 0; row < rows[i]; ++row) {
      for (u32 half = 0; half < 2; ++half) {
        u32 at = half_row(&o, row, half);
        if (at > self->cta->smem_bytes || self->cta->smem_bytes - at < 16) {
          emu_hazard_here(EMU_OUT_OF_BOUNDS, o.start,
                          "a matrix descriptor reaches outside shared memory");
          return;
        }
        emu_smem_read(self->cta, at, 16, access);
      }
    }
  }
}

/* ---- Arithmetic ------------------------------------------------------------------------------ */
/* One row of D: row[x] += a[k] * b[k][x], k in order. Separate from the rest so that compilers
 * vectorise it; a fused multiply-add gives the same since products are exact. */
static void add_products(float *restrict row, const float *restrict a,
                         const float (*restrict b)[COLUMNS_MAX], u32 columns)
{
  for (u32 x = 0; x < columns; x += 8) {
    float part[8];
    memcpy(part, row + x, sizeof part);
    for (u32 k = 0; k < DEPTH; ++k) {
      for (u32 i = 0; i < 8; ++i) part[i] += a[k] * b[k][x + i];
    }
    memcpy(row + x, part, sizeof part);
  }
}

void emu_mma_compute(emu_cta *cta, const emu_mma *op, float *sum)
{
  float a[DEPTH], b[DEPTH][COLUMNS_MAX], row[DEPTH];
  operand left = decode(op->a), right = decode(op->b);
  u32 columns = op->columns <= COLUMNS_MAX ? op->columns / 8 * 8 : COLUMNS_MAX;
  for (u32 x = 0; x < columns; ++x) {
    read_row(cta, &right, x, op->fp16, row);
    for (u32 k = 0; k < DEPTH; ++k) b[k][x] = row[k];
  }
  if (!op->accumulate) memset(sum, 0, 64 * (size_t)columns * sizeof(float));
  for (u32 y = 0; y < 64; ++y) {
    read_row(cta, &left, y, op->fp16, a);
    add_products(sum + y * columns, a, (const float(*)[COLUMNS_MAX])b, columns);
  }
}
