#include "tensor.h"

#include <string.h>

#define MAGIC 0x746d6d70u

/* words: 0 magic, rank, element, swizzle; 1 address; 2-6 dims; 7-11 strides; 12-13 box */
const char *emu_tensor_encode(void *map, const emu_tensor *t)
{
  u64 word[16] = {0};
  if (t->at % 16) return "the global address is not a multiple of 16";
  if (t->rank < 1 || t->rank > 5) return "the rank is not 1 to 5";
  if (t->element != 2 && t->element != 4) return "the element is not 2 or 4 bytes";
  if (t->swizzle < 0 || t->swizzle > 3) return "unknown swizzle";
  if (t->box[0] * (u32)t->element % 16) return "the box's inner bytes are not a multiple of 16";
  if (t->swizzle && t->box[0] * (u32)t->element > 16u << t->swizzle) {
    return "the box's inner bytes are more than the swizzle spans";
  }
  for (int i = 0; i < t->rank; ++i) {
    if (t->dim[i] == 0 || t->dim[i] > (u64)1 << 32) return "a dimension is 0 or above 2^32";
    if (t->box[i] == 0 || t->box[i] > 256) return "a box is not 1 to 256 elements";
    if (i > 0 && (t->stride[i] % 16 || t->stride[i] >> 40)) {
      return "a stride is not a multiple of 16, or not below 2^40";
    }
    word[2 + i] = t->dim[i];
    word[7 + i] = t->stride[i];
    word[12 + i / 4] |= (u64)t->box[i] << 16 * (i % 4);
  }
  word[0] = MAGIC | (u64)t->rank << 32 | (u64)t->element << 40 | (u64)t->swizzle << 48;
  word[1] = t->at;
  memcpy(map, word, sizeof word);
  return NULL;
}

int emu_tensor_decode(const void *map, emu_tensor *t)
{
  u64 word[16];
  memcpy(word, map, sizeof word);
  if ((u32)word[0] != MAGIC) return 0;
  t->rank = (int)(word[0] >> 32 & 0xff);
  t->element = (int)(word[0] >> 40 & 0xff);
  t->swizzle = (int)(word[0] >> 48 & 0xff);
  t->at = word[1];
  for (int i = 0; i < 5; ++i) {
    t->dim[i] = i < t->rank ? word[2 + i] : 1;
    t->stride[i] = word[7 + i];
    t->box[i] = i < t->rank ? (u32)(word[12 + i / 4] >> 16 * (i % 4) & 0xffff) : 1;
  }
  t->stride[0] = (u64)t->element;
  return 1;
}

u32 emu_box_lines(const emu_tensor *t) { return t->box[1] * t->box[2] * t->box[3] * t->box[4]; }
u32 emu_box_pitch(const emu_tensor *t) { return t->box[0] * (u32)t->element; }

emu_line emu_box_line(const emu_tensor *t, const i32 *at, u32 line)
{
  emu_line result = {line, 0, 0, t->at};
  u32 rest = line;
  i64 low = at[0], high = low + t->box[0], size = (i64)t->dim[0];
  for (int d = 1; d < t->rank; ++d) {
    i64 x = at[d] + (i64)(rest % t->box[d]);
    rest /= t->box[d];
    if (x < 0 || x >= (i64)t->dim[d]) return result;
    result.at += (u64)x * t->stride[d];
  }
  if (low < 0) low = 0;
  if (high > size) high = size;
  if (low >= high) return result;
  result.skip = (u32)(low - at[0]) * (u32)t->element;
  result.bytes = (u32)(high - low) * (u32)t->element;
  result.at += (u64)low * (u32)t->element;
  return result;
}
