/* Medians and means of timings. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "stats.h"

#define CLOSE(a, b) assert_true(fabs((a) - (b)) < 1e-9)

static void median_of_odd_and_even(void **state)
{
  const double odd[] = {5, 1, 3}, even[] = {4, 1, 3, 2}, one[] = {7};
  (void)state;
  CLOSE(stats_median(odd, 3), 3);
  CLOSE(stats_median(even, 4), 3); /* the upper one, as the peers were timed */
  CLOSE(stats_median(one, 1), 7);
  assert_true(isnan(stats_median(one, 0)));
}

static void median_keeps_its_input(void **state)
{
  double values[] = {3, 2, 1};
  (void)state;
  stats_median(values, 3);
  CLOSE(values[0], 3);
  CLOSE(values[2], 1);
}

static void median_with_infinity(void **state)
{
  const double values[] = {INFINITY, 1, 2};
  (void)state;
  CLOSE(stats_median(values, 3), 2);
}

static void geomean_skips_what_has_no_logarithm(void **state)
{
  const double values[] = {2, NAN, 8, 0, -1, INFINITY}, none[] = {NAN, 0};
  (void)state;
  CLOSE(stats_geomean(values, 6), 4);
  assert_true(isnan(stats_geomean(none, 2)));
  assert_true(isnan(stats_geomean(values, 0)));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(median_of_odd_and_even),
      cmocka_unit_test(median_keeps_its_input),
      cmocka_unit_test(median_with_infinity),
      cmocka_unit_test(geomean_skips_what_has_no_logarithm),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
