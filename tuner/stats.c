#include "stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_value(const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double stats_median(const double *values, size_t count)
{
  double *copy = count ? malloc(count * sizeof *copy) : NULL;
  if (!copy) return NAN;
  memcpy(copy, values, count * sizeof *copy);
  qsort(copy, count, sizeof *copy, by_value);
  double middle = copy[count / 2];
  free(copy);
  return middle;
}

double stats_mean(const double *values, size_t count)
{
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += values[i];
  return count ? sum / (double)count : NAN;
}

double stats_geomean(const double *values, size_t count)
{
  double sum = 0;
  size_t used = 0;
  for (size_t i = 0; i < count; i++) {
    if (!isfinite(values[i]) || values[i] <= 0) continue;
    sum += log(values[i]);
    used++;
  }
  return used ? exp(sum / (double)used) : NAN;
}
