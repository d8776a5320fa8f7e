/* cuBLASLt: C[m,n] = A[m,k] B[n,k]^T of one rank, fp32 accumulation, the first heuristic.
 *
 * Descriptors and heuristic belong to one exact shape and one set of leading dimensions; a comm
 * keeps the newest TML_LT_SHAPES of them. A shape that was not prepared is made at its first
 * launch: host memory inside cuBLASLt only, no device memory and no synchronisation (library
 * variants are exempt from "a launch allocates nothing"). The workspace is the first
 * TML_LT_WORKSPACE bytes of the comm's local memory. */
#ifndef TML_LT_H
#define TML_LT_H

#include "comm.h"

#define TML_LT_WORKSPACE ((size_t)32 << 20)
#define TML_LT_SHAPES 256

typedef struct tml_lt_args {
  tml_dtype dtype;
  int64_t m, n, k, lda, ldb, ldc;
  CUdeviceptr a, b, c;
} tml_lt_args;

/* Makes the comm's handle and the packed shape, with the ctx's context current. Local. MISS (no
 * cuBLASLt), SEALED (the handle or the shape would have to be made), DRIVER, MEMORY. */
tml_status tml_lt_prepare(tml_comm *comm, tml_dtype dtype, int64_t m, int64_t n, int64_t k);
/* Enqueues the prepared GEMM over packed matrices. ARGUMENT: not prepared, or less than
 * TML_LT_WORKSPACE bytes of local memory reserved. */
tml_status tml_lt_gemm(tml_comm *comm, tml_dtype dtype, int64_t m, int64_t n, int64_t k,
                       const void *a, const void *b, void *c, CUstream stream);
/* The same over any leading dimensions; the handle must exist. m > 0. */
tml_status tml_lt_launch(tml_comm *comm, const tml_lt_args *args, CUstream stream);
/* Frees handle and shapes of a comm that goes away. */
void tml_lt_free(tml_comm *comm);

#endif
