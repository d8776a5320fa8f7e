/* The problem syntax: round trips, and the message for every wrong part. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "bank.h"
#include "problem.h"

static void round_trips(void **state)
{
  (void)state;
  static const char *const texts[] = {
      "gemm:bf16:nt:w1:0x8x8",
      "ag_gemm:bf16:nt:w8:8192x6144x12288",
      "gemm_rs:fp16:nt:w3:1x1280x8192:bias",
      "gemm_ar:fp16:nt:w2:4097x28672x4096",
  };
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    tml_problem p;
    char buf[96];
    assert_int_equal(tml_problem_parse(&p, texts[i]), TML_OK);
    assert_int_equal(p.size, sizeof p);
    assert_string_equal(tml_problem_print(&p, buf, sizeof buf), texts[i]);
  }
}

static void wrong_parts_are_named(void **state)
{
  (void)state;
  static const struct {
    const char *text, *part;
  } rows[] = {
      {"", "op ''"},
      {"conv:bf16:nt:w1:8x8x8", "unknown op 'conv'; known: gemm, ag_gemm, gemm_rs, gemm_ar"},
      {"gemm", "dtype is missing"},
      {"gemm:fp8:nt:w1:8x8x8", "unknown dtype 'fp8'; known: bf16, fp16"},
      {"gemm:bf16:tt:w1:8x8x8", "unknown layout 'tt'"},
      {"gemm:bf16:nt", "world is missing"},
      {"gemm:bf16:nt:8:8x8x8", "'8' is not a world"},
      {"gemm:bf16:nt:w0:8x8x8", "'w0' is not a world"},
      {"gemm:bf16:nt:w9:8x8x8", "'w9' is not a world"},
      {"gemm:bf16:nt:w-1:8x8x8", "'w-1' is not a world"},
      {"gemm:bf16:nt:w1", "sizes are missing"},
      {"gemm:bf16:nt:w1:8x8", "k is missing"},
      {"gemm:bf16:nt:w1:8x8x", "k = '' is not a number"},
      {"gemm:bf16:nt:w1:8x8x8x8", "more than three sizes"},
      {"gemm:bf16:nt:w1:ax8x8", "m = 'a' is not a number"},
      {"gemm:bf16:nt:w1: 8x8x8", "m = ' 8' is not a number"},
      {"gemm:bf16:nt:w1:-8x8x8", "m = '-8' is not a number"},
      {"gemm:bf16:nt:w1:8x0x8", "n = 0 must be a positive multiple of 8"},
      {"gemm:bf16:nt:w1:8x12x8", "n = 12 must be"},
      {"gemm:bf16:nt:w1:8x8x7", "k = 7 must be"},
      {"gemm:bf16:nt:w1:8x8x99999999999999999999", "k = 99999999999999999999 is too large"},
      {"gemm:bf16:nt:w1:9223372036854775807x8x8", "m = 9223372036854775807 must lie in"},
      {"gemm:bf16:nt:w1:2000000000x2000000000x8", "m x n is too large"},
      {"gemm:bf16:nt:w1:8x8x8:relu", "only 'bias' may follow"},
      {"gemm:bf16:nt:w1:8x8x8:bias:x", "'x' after the end"},
      {"gemm:bf16:nt:w1:8x8x8:bias:a-text-of-which-nobody-wants-to-see-the-end-because-there-is-no-"
       "end-no-"
       "end",
       "...' is longer"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    tml_problem p;
    assert_int_equal(tml_problem_parse(&p, rows[i].text), TML_ARGUMENT);
    if (!strstr(tml_last_error(), rows[i].part)) {
      fail_msg("'%s': \"%s\" lacks \"%s\"", rows[i].text, tml_last_error(), rows[i].part);
    }
    assert_int_equal(p.world, 0); /* nothing half-filled */
  }
  assert_int_equal(tml_problem_parse(NULL, "x"), TML_ARGUMENT);
}

static void check_catches_fields(void **state)
{
  (void)state;
  const tml_problem good = {.world = 2, .m = 1, .n = 8, .k = 8};
  assert_int_equal(tml_problem_check(&good), TML_OK);
  tml_problem bad[] = {good, good, good, good, good, good, good, good};
  bad[0].op = (tml_op)4, bad[1].dtype = (tml_dtype)2, bad[2].layout = (tml_layout)1;
  bad[3].world = 9, bad[4].bias = 2, bad[5].m = -1, bad[6].n = -8, bad[7].k = 0;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_int_equal(tml_problem_check(&bad[i]), TML_ARGUMENT);
  }
}

static void keys_and_buckets(void **state)
{
  (void)state;
  tml_problem p;
  char key[TML_NAME_BYTES];
  assert_int_equal(tml_problem_parse(&p, "ag_gemm:bf16:nt:w2:77x1280x8192"), TML_OK);
  tml_pick_key(&p, key, sizeof key);
  assert_string_equal(key, "ag_gemm:bf16:nt:w2:*x1280x8192");
  p.bias = 1;
  tml_pick_key(&p, key, sizeof key);
  assert_string_equal(key, "ag_gemm:bf16:nt:w2:*x1280x8192:bias");

  static const int64_t rows[][2] = {{0, 1},     {1, 1},      {2, 2},       {3, 4},       {5, 8},
                                    {129, 256}, {256, 256},  {257, 384},   {384, 384},   {385, 512},
                                    {513, 768}, {769, 1024}, {8192, 8192}, {8193, 12288}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    assert_int_equal(tml_pick_bucket(rows[i][0]), rows[i][1]);
  }
  int64_t last = 0;
  for (int64_t m = 0; m < 5000; m++) { /* a bucket serves what it is named for, and grows with m */
    int64_t bucket = tml_pick_bucket(m);
    assert_true(bucket >= m && bucket >= last && tml_pick_bucket(bucket) == bucket);
    last = bucket;
  }
  assert_true(tml_pick_bucket(INT64_MAX) == INT64_MAX);
  assert_true(tml_pick_bucket((int64_t)1 << 62) == (int64_t)1 << 62);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(round_trips),
      cmocka_unit_test(wrong_parts_are_named),
      cmocka_unit_test(check_catches_fields),
      cmocka_unit_test(keys_and_buckets),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
