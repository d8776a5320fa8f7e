/* Inputs and products on the host. */
#ifndef TML_TEST_EMU_HOST_H
#define TML_TEST_EMU_HOST_H

#include "tidemill.h"

float host_float(tml_dtype dtype, uint16_t bits);
/* `count` elements in -1 .. 1, a function of the seed; the caller frees. NULL: out of memory. */
uint16_t *host_make(tml_dtype dtype, uint64_t seed, int64_t count);
/* sum[rows, n] += A[rows, k] B[n, k]^T */
void host_multiply(const tml_problem *p, const uint16_t *a, int64_t rows, const uint16_t *b,
                   double *sum);

#endif
