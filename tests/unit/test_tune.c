/* The parts of tune that need no device: the candidates and how they travel, the race, what is said
 * of the model. */
#include "comm_fixture.h"

#include <math.h>

#include "measure.h"
#include "tune.h"

static const tml_machine h200 = {.gpu = "NVIDIA H200", .sms = 132, .cc = 90, .link = "nvlink"};

static candidates *choose(const char *text, int top)
{
  candidates *list = malloc(sizeof *list);
  tml_problem p = {.size = sizeof p};
  tml_gen *gen;
  assert_non_null(list);
  assert_int_equal(tml_problem_parse(&p, text), TML_OK);
  assert_int_equal(tml_gen_open(&gen, NULL, NULL), TML_OK);
  assert_int_equal(agree_choose(gen, "sm_90a", &p, &h200, top, NULL, list), TML_OK);
  tml_gen_close(gen);
  return list;
}

static int generated(const candidates *list)
{
  int count = 0;
  for (int i = 0; i < list->count; i++) count += list->at[i].position > 0;
  return count;
}

static void candidates_carry_the_models_order(void **state)
{
  candidates *few = choose("gemm_rs:bf16:nt:w2:4096x8192x4096", 8);
  candidates *all = choose("gemm_rs:bf16:nt:w2:4096x8192x4096", AGREE_MAX);
  (void)state;
  assert_int_equal(generated(few), 8);
  assert_true(generated(all) > 8 && all->count < AGREE_MAX);
  assert_int_equal(few->count - generated(few), all->count - generated(all)); /* the libraries */
  for (int i = 0, position = 0; i < all->count; i++) {
    if (all->at[i].position) assert_int_equal(all->at[i].position, ++position);
    if (i) assert_true(all->at[i].model_us >= all->at[i - 1].model_us);
  }
  char second[TML_NAME_BYTES];
  memcpy(second, all->at[1].name, sizeof second);
  int count = all->count;
  agree_ban(all, second);
  assert_int_equal(all->count, count - 1);
  for (int i = 0; i < all->count; i++) assert_string_not_equal(all->at[i].name, second);
  free(few);
  free(all);
}

/* ---- Agreement ---- */

static void share_list(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  candidates *list = calloc(1, sizeof *list);
  tml_comm comm = {.ctx = ctx};
  rig r = {.rank = rank, .comm = &comm};
  int count = *(const int *)user;
  FAKE_CHECK(list && tml_group_create(&comm.group, ctx, nccl) == TML_OK);
  list->count = rank == 0 ? count : 7;
  list->skip = rank == 0;
  for (int i = 0; i < list->count; i++) {
    list->at[i].position = rank == 0 ? i : -1;
    snprintf(list->at[i].name, TML_NAME_BYTES, "%d of rank %d", i, rank);
  }
  FAKE_CHECK(agree_share(&r, TML_OK, list) == TML_OK);
  FAKE_CHECK(list->count == count && list->skip);
  for (int i = 0; i < list->count; i++) {
    char name[TML_NAME_BYTES];
    snprintf(name, sizeof name, "%d of rank 0", i);
    FAKE_CHECK(strcmp(list->at[i].name, name) == 0 && list->at[i].position == i);
  }
  /* Rank 0's failure is everyone's; another's does not matter. */
  FAKE_CHECK(agree_share(&r, rank == 1 ? TML_MEMORY : TML_OK, list) == TML_OK);
  FAKE_CHECK(agree_share(&r, rank == 0 ? TML_MEMORY : TML_OK, list) == TML_MEMORY);
  tml_group_destroy(comm.group, 1);
  free(list);
}

static void lists_of_any_length_travel(void **state)
{
  static const int counts[] = {0, 1, 28, 29, AGREE_MAX};
  (void)state;
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    int count = counts[i];
    fixture_run_ranks(fake_open(NULL), 3, 0, share_list, &count);
    fixture_expect_clean();
  }
}

/* ---- The race ---- */

static void who_is_behind_leaves(void **state)
{
  column c[4] = {{.best_ms = 1.0}, {.best_ms = 1.2}, {.best_ms = 1.6}, {.best_ms = 0.5}};
  (void)state;
  c[3].dropped = 1; /* failed: nobody is measured against it */
  measure_drop(c, 4, 1.5, 1);
  assert_true(!c[0].dropped && !c[1].dropped && c[2].dropped);
  measure_drop(c, 4, 1.5, 2); /* 25 % */
  assert_true(!c[1].dropped);
  measure_drop(c, 4, 1.5, 3); /* 12.5 % */
  assert_true(!c[0].dropped && c[1].dropped);
  c[1].dropped = 0;
  c[1].best_ms = 1.03; /* within the noise: stays to the end */
  measure_drop(c, 4, 1.5, 100);
  assert_true(!c[0].dropped && !c[1].dropped);
  c[1].lane = 1; /* alone in its lane */
  c[1].best_ms = 9;
  measure_drop(c, 4, 1.5, 1);
  assert_true(!c[0].dropped && !c[1].dropped);
}

/* ---- The model ---- */

static void the_models_first_are_judged(void **state)
{
  candidate list[] = {{.position = 1}, {.position = 0}, {.position = 8}, {.position = 9}};
  const double inside[] = {12, 5, 10, 11}, outside[] = {12, 5, 15, 10};
  const double none[] = {INFINITY, 5, INFINITY, INFINITY}, last[] = {INFINITY, 5, INFINITY, 3};
  (void)state;
  tune_model m = tune_judge(list, inside, 4);
  assert_int_equal(m.position, 8);
  assert_true(fabs(m.loss - 1) < 1e-12);
  m = tune_judge(list, outside, 4);
  assert_int_equal(m.position, 9);
  assert_true(fabs(m.loss - 1.2) < 1e-12);
  m = tune_judge(list, none, 4); /* a library alone */
  assert_int_equal(m.position, 0);
  assert_true(isnan(m.loss));
  m = tune_judge(list, last, 4);
  assert_int_equal(m.position, 9);
  assert_true(isinf(m.loss));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(candidates_carry_the_models_order),
      cmocka_unit_test(lists_of_any_length_travel),
      cmocka_unit_test(who_is_behind_leaves),
      cmocka_unit_test(the_models_first_are_judged),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
