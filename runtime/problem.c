/* The problem syntax: "ag_gemm:bf16:nt:w8:8192x6144x12288[:bias]". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "problem.h"
#include "status.h"

#define TML_X(id, n, text) text,
static const char *const op_texts[] = {TML_OP_MAP(TML_X)};
static const char *const dtype_texts[] = {TML_DTYPE_MAP(TML_X)};
static const char *const layout_texts[] = {TML_LAYOUT_MAP(TML_X)};
#undef TML_X
#define LONGEST 96
#define COUNT(list) (int)(sizeof(list) / sizeof(list)[0])

const char *tml_op_text(tml_op op)
{
  return (int)op >= 0 && (int)op < COUNT(op_texts) ? op_texts[op] : "?";
}

const char *tml_dtype_text(tml_dtype dtype)
{
  return (int)dtype >= 0 && (int)dtype < COUNT(dtype_texts) ? dtype_texts[dtype] : "?";
}

const char *tml_layout_text(tml_layout layout)
{
  return (int)layout >= 0 && (int)layout < COUNT(layout_texts) ? layout_texts[layout] : "?";
}

static int find_word(const char *const *list, int count, const char *word)
{
  for (int i = 0; i < count; i++) {
    if (strcmp(list[i], word) == 0) return i;
  }
  return -1;
}

int tml_op_find(const char *text) { return find_word(op_texts, COUNT(op_texts), text); }
int tml_dtype_find(const char *text) { return find_word(dtype_texts, COUNT(dtype_texts), text); }
int tml_layout_find(const char *text) { return find_word(layout_texts, COUNT(layout_texts), text); }

/* Cuts the text up to `mark` off *rest into `word`; *rest is NULL after the last part. */
static int next_part(const char **rest, char mark, char *word, size_t bytes)
{
  if (!*rest) return 0;
  const char *end = strchr(*rest, mark);
  size_t length = end ? (size_t)(end - *rest) : strlen(*rest);
  if (length >= bytes) length = bytes - 1; /* no valid part is that long: it fails by its text */
  memcpy(word, *rest, length);
  word[length] = 0;
  *rest = end ? end + 1 : NULL;
  return 1;
}

/* Digits only: no sign, no blank. -1 if it is not a number, -2 if it is too large. */
static int64_t parse_size(const char *text)
{
  int64_t value = 0;
  if (!*text) return -1;
  for (; *text; text++) {
    if (*text < '0' || *text > '9') return -1;
    if (__builtin_mul_overflow(value, 10, &value) ||
        __builtin_add_overflow(value, *text - '0', &value)) {
      return -2;
    }
  }
  return value;
}

static tml_status parse_extent(int64_t *out, const char **rest, const char *name, const char *all)
{
  char word[32];
  if (!next_part(rest, 'x', word, sizeof word)) {
    return tml_fail(TML_ARGUMENT,
                    "problem '%s': the sizes are m x n x k, such as 8192x6144x12288; "
                    "%s is missing",
                    all, name);
  }
  *out = parse_size(word);
  if (*out == -2)
    return tml_fail(TML_ARGUMENT, "problem '%s': %s = %s is too large", all, name, word);
  if (*out < 0)
    return tml_fail(TML_ARGUMENT, "problem '%s': %s = '%s' is not a number", all, name, word);
  return TML_OK;
}

static tml_status parse_sizes(tml_problem *out, const char *sizes, const char *all)
{
  const char *rest = sizes;
  TRY(parse_extent(&out->m, &rest, "m", all));
  TRY(parse_extent(&out->n, &rest, "n", all));
  TRY(parse_extent(&out->k, &rest, "k", all));
  if (rest) return tml_fail(TML_ARGUMENT, "problem '%s': more than three sizes", all);
  return TML_OK;
}

/* The next part as a word of `list`. */
static tml_status parse_word(int *out, const char **rest, const char *const *list, int count,
                             const char *what, const char *all)
{
  char word[64], known[64] = "";
  int present = next_part(rest, ':', word, sizeof word);
  *out = present ? find_word(list, count, word) : -1;
  if (*out >= 0) return TML_OK;
  for (int i = 0; i < count; i++) {
    size_t used = strlen(known);
    snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", list[i]);
  }
  if (!present)
    return tml_fail(TML_ARGUMENT, "problem '%s': the %s is missing (%s)", all, what, known);
  return tml_fail(TML_ARGUMENT, "problem '%s': unknown %s '%s'; known: %s", all, what, word, known);
}

static tml_status parse_world(int *out, const char **rest, const char *all)
{
  char word[32];
  if (!next_part(rest, ':', word, sizeof word)) {
    return tml_fail(TML_ARGUMENT, "problem '%s': the world is missing (w1 .. w%d)", all,
                    TML_MAX_WORLD);
  }
  int64_t world = word[0] == 'w' ? parse_size(word + 1) : -1;
  if (world < 1 || world > TML_MAX_WORLD) {
    return tml_fail(TML_ARGUMENT, "problem '%s': '%s' is not a world of w1 .. w%d", all, word,
                    TML_MAX_WORLD);
  }
  *out = (int)world;
  return TML_OK;
}

/* Sizes in bytes must fit 63 bits, with room for a factor of the world. */
static tml_status check_product(const char *names, int64_t a, int64_t b)
{
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product) || product > INT64_MAX / (4 * TML_MAX_WORLD)) {
    return tml_fail(TML_ARGUMENT, "%s is too large", names);
  }
  return TML_OK;
}

tml_status tml_problem_check(const tml_problem *p)
{
  if ((int)p->op < 0 || p->op >= COUNT(op_texts))
    return tml_fail(TML_ARGUMENT, "unknown op %d", (int)p->op);
  if ((int)p->dtype < 0 || p->dtype >= COUNT(dtype_texts)) {
    return tml_fail(TML_ARGUMENT, "unknown dtype %d", (int)p->dtype);
  }
  if ((int)p->layout < 0 || p->layout >= COUNT(layout_texts)) {
    return tml_fail(TML_ARGUMENT, "unknown layout %d", (int)p->layout);
  }
  if (p->world < 1 || p->world > TML_MAX_WORLD) {
    return tml_fail(TML_ARGUMENT, "world = %d must lie in 1 .. %d", p->world, TML_MAX_WORLD);
  }
  if (p->bias != 0 && p->bias != 1)
    return tml_fail(TML_ARGUMENT, "bias = %d must be 0 or 1", p->bias);
  /* Kernels take m, n and k as 32-bit numbers; shards are rounded up and loops over
   * rows step by thousands, so leave room for that. */
  const int64_t most = INT32_MAX - 16384;
  if (p->m < 0 || p->m > most) {
    return tml_fail(TML_ARGUMENT, "m = %lld must lie in 0 .. %lld", (long long)p->m,
                    (long long)most);
  }
  const struct {
    const char *name;
    int64_t value;
  } sides[] = {{"n", p->n}, {"k", p->k}};
  for (int i = 0; i < 2; i++) {
    if (sides[i].value <= 0 || sides[i].value > most || sides[i].value % 8) {
      return tml_fail(TML_ARGUMENT, "%s = %lld must be a positive multiple of 8, at most %lld",
                      sides[i].name, (long long)sides[i].value, (long long)most);
    }
  }
  TRY(check_product("m x n", p->m, p->n));
  TRY(check_product("m x k", p->m, p->k));
  return check_product("n x k", p->n, p->k);
}

tml_status tml_problem_parse(tml_problem *out, const char *text)
{
  if (!out || !text) return tml_fail(TML_ARGUMENT, "tml_problem_parse needs a problem and a text");
  memset(out, 0, sizeof *out);
  if (strlen(text) >= LONGEST)
    return tml_fail(TML_ARGUMENT, "problem '%.80s...' is longer than any that makes sense", text);
  tml_problem p = {.size = sizeof p};
  const char *rest = text;
  char word[LONGEST];
  int op, dtype, layout;
  TRY(parse_word(&op, &rest, op_texts, COUNT(op_texts), "op", text));
  TRY(parse_word(&dtype, &rest, dtype_texts, COUNT(dtype_texts), "dtype", text));
  TRY(parse_word(&layout, &rest, layout_texts, COUNT(layout_texts), "layout", text));
  p.op = (tml_op)op, p.dtype = (tml_dtype)dtype, p.layout = (tml_layout)layout;
  TRY(parse_world(&p.world, &rest, text));
  if (!next_part(&rest, ':', word, sizeof word)) {
    return tml_fail(TML_ARGUMENT, "problem '%s': the sizes are missing (8192x6144x12288)", text);
  }
  TRY(parse_sizes(&p, word, text));
  if (next_part(&rest, ':', word, sizeof word)) {
    if (strcmp(word, "bias") != 0) {
      return tml_fail(TML_ARGUMENT, "problem '%s': '%s' after the sizes; only 'bias' may follow",
                      text, word);
    }
    p.bias = 1;
  }
  if (rest) return tml_fail(TML_ARGUMENT, "problem '%s': '%s' after the end", text, rest);
  tml_status status = tml_problem_check(&p);
  if (status != TML_OK) return tml_wrap(status, "problem '%s'", text);
  *out = p;
  return TML_OK;
}

char *tml_problem_print(const tml_problem *p, char *buf, size_t bytes)
{
  snprintf(buf, bytes, "%s:%s:%s:w%d:%lldx%lldx%lld%s", tml_op_text(p->op),
           tml_dtype_text(p->dtype), tml_layout_text(p->layout), p->world, (long long)p->m,
           (long long)p->n, (long long)p->k, p->bias ? ":bias" : "");
  return buf;
}
