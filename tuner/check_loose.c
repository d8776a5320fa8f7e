/* One more call of a problem, with gaps between the rows of A, B and C: the same bits as without, and the
 * gaps of C untouched. The gaps of A and B hold NaN, which shows in C if anything reads them. */
#include <string.h>

#include "../runtime/plan_parts.h"
#include "../runtime/status.h"
#include "check.h"
#include "data.h"

typedef struct matrix {
  CUdeviceptr at, packed;
  int64_t rows, columns, ld;
} matrix;

static size_t bytes_of(const matrix *m) { return (size_t)(m->rows * m->ld * 2) + DATA_GUARD; }

static tml_status spread(rig *r, matrix *m)
{
  return tml_copy_rows(r->api, m->at, m->ld, m->packed, m->columns, m->rows, m->columns, r->stream);
}

/* Room for the rows and their gaps, all of it NaN. */
static tml_status take(rig *r, matrix *m, CUdeviceptr packed, int64_t rows, int64_t columns,
                       int64_t gap)
{
  *m = (matrix){.packed = packed, .rows = rows, .columns = columns, .ld = columns + gap};
  TRY(CU(r->api, cuMemAlloc, (&m->at, bytes_of(m))));
  return CU(r->api, cuMemsetD8Async, (m->at, 0xff, bytes_of(m), r->stream));
}

static tml_status take_all(rig *r, const data *d, matrix m[3])
{
  const tml_problem *p = &d->problem;
  TRY(take(r, &m[0], d->a, p->op == TML_AG_GEMM ? d->rows : p->m, p->k, 8));
  TRY(take(r, &m[1], d->b[0], p->n, p->k, 24));
  TRY(take(r, &m[2], d->c, d->c_rows, p->n, 16));
  if (m[0].rows) TRY(spread(r, &m[0]));
  return spread(r, &m[1]);
}

/* *intact: with its rows poisoned again there is nothing but poison in C. */
static tml_status look_at_gaps(rig *r, data *d, matrix *c, int *intact)
{
  uint64_t got, want;
  TRY(data_poison(r, d));
  TRY(spread(r, c));
  TRY(data_hash_bytes(r, c->at, bytes_of(c), &got));
  TRY(CU(r->api, cuMemsetD8Async, (c->at, 0xff, bytes_of(c), r->stream)));
  TRY(data_hash_bytes(r, c->at, bytes_of(c), &want));
  *intact = got == want;
  return TML_OK;
}

static tml_status run(rig *r, tml_plan *plan, data *d, matrix m[3], uint64_t hash, int *differs)
{
  tml_args args = data_args(d, 0);
  uint64_t got = hash;
  int intact = 1;
  args.a = (const void *)(uintptr_t)m[0].at, args.lda = m[0].ld;
  args.b = (const void *)(uintptr_t)m[1].at, args.ldb = m[1].ld;
  args.c = (void *)(uintptr_t)m[2].at, args.ldc = m[2].ld;
  TRY(tml_launch(plan, &args, r->stream));
  if (m[2].rows == 0) return rig_wait(r, 30);
  TRY(tml_copy_rows(r->api, d->c, m[2].columns, m[2].at, m[2].ld, m[2].rows, m[2].columns,
                    r->stream));
  TRY(data_hash(r, d, &got));
  TRY(look_at_gaps(r, d, &m[2], &intact));
  *differs = got != hash || !intact;
  return TML_OK;
}

tml_status check_loose(rig *r, tml_plan *plan, data *d, uint64_t hash, int *differs)
{
  matrix m[3] = {{0}};
  d->symmetric = 0;
  tml_status status =
      tml_group_vote(r->comm->group, take_all(r, d, m), "memory for rows with gaps");
  if (status == TML_OK) status = run(r, plan, d, m, hash, differs);
  if (status == TML_MEMORY) status = TML_OK; /* the problem as such has passed */
  for (int i = 0; i < 3; i++)
    if (m[i].at) r->api->cuda.p_cuMemFree(m[i].at);
  return status;
}
