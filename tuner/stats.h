/* Order statistics and means of timings. */
#ifndef TML_STATS_H
#define TML_STATS_H

#include <stddef.h>

/* The upper median (element count/2 in sorted order), as the peers were timed; NAN of nothing. */
double stats_median(const double *values, size_t count);
/* Arithmetic mean; NAN of nothing. */
double stats_mean(const double *values, size_t count);
/* Geometric mean of the positive finite values; NAN if there is none. */
double stats_geomean(const double *values, size_t count);

#endif
