/* What a column of a measurement runs: a plan, or the unfused sequence of a GEMM plan and NCCL. */
#ifndef TML_CALLS_H
#define TML_CALLS_H

#include "data.h"

typedef enum calls_kind {
  CALLS_PLAN,   /* the problem's own plan */
  CALLS_ALONE,  /* only the GEMM that the problem contains, inputs already gathered */
  CALLS_UNFUSED /* NCCL before or after the GEMM, as users do it; no bias of a reduction */
} calls_kind;

typedef struct calls {
  rig *r;
  const data *d;
  calls_kind kind;
  tml_plan *plan; /* of the problem, or of its GEMM */
} calls;

/* Enqueues call i (B copies rotate). `user` is a calls. */
tml_status calls_run(void *user, int i);

#endif
