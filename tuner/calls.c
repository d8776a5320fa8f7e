#include "calls.h"

#include <unistd.h>

#include "../runtime/status.h"
#include "progress.h"

static int nccl_type(tml_dtype dtype)
{
  return dtype == TML_BF16 ? TML_NCCL_BFLOAT16 : TML_NCCL_FLOAT16;
}

/* A non-blocking communicator enqueues from a thread of its own: wait until it has. */
static tml_status settle(rig *r, ncclComm_t nccl)
{
  double deadline = seconds_now() + r->timeout_s;
  int state = TML_NCCL_IN_PROGRESS;
  for (;;) {
    TRY(NC(r->api, CommGetAsyncError, (nccl, &state)));
    if (state != TML_NCCL_IN_PROGRESS)
      return tml_nccl_check(r->api, state, "ncclCommGetAsyncError");
    if (seconds_now() > deadline)
      return tml_fail(TML_TIMEOUT, "NCCL did not enqueue a collective within %.1f s", r->timeout_s);
    usleep(10);
  }
}

/* Shards of unequal size: one broadcast (ag) or reduction (rs) per shard, in one group. */
static tml_status grouped(const calls *c, ncclComm_t nccl, int gather)
{
  rig *r = c->r;
  const data *d = c->d;
  int64_t width = gather ? d->problem.k : d->problem.n;
  int type = nccl_type(d->problem.dtype);
  TRY(NC(r->api, GroupStart, ()));
  tml_status status = TML_OK;
  for (int s = 0; s < d->world && status == TML_OK; s++) {
    size_t count = (size_t)(data_rows_of(d, s) * width);
    void *full = (void *)(uintptr_t)(d->full + (uint64_t)(s * d->shard * width * 2));
    if (count == 0) continue;
    if (gather)
      status = NC(r->api, Broadcast,
                  ((const void *)(uintptr_t)d->a, full, count, type, s, nccl, r->stream));
    else
      status = NC(r->api, Reduce,
                  (full, (void *)(uintptr_t)d->c, count, type, TML_NCCL_SUM, s, nccl, r->stream));
  }
  tml_status end = NC(r->api, GroupEnd, ());
  return status != TML_OK ? status : end;
}

static tml_status collective(const calls *c)
{
  rig *r = c->r;
  const data *d = c->d;
  const tml_problem *p = &d->problem;
  ncclComm_t nccl = tml_group_nccl(r->comm->group);
  void *full = (void *)(uintptr_t)d->full, *out = (void *)(uintptr_t)data_output(d);
  int type = nccl_type(p->dtype), equal = p->m % d->world == 0;
  if (p->op == TML_GEMM_AR)
    TRY(NC(r->api, AllReduce,
           (out, out, (size_t)(p->m * p->n), type, TML_NCCL_SUM, nccl, r->stream)));
  else if (!equal)
    TRY(grouped(c, nccl, p->op == TML_AG_GEMM));
  else if (p->op == TML_AG_GEMM)
    TRY(NC(r->api, AllGather,
           ((const void *)(uintptr_t)d->a, full, (size_t)(d->rows * p->k), type, nccl, r->stream)));
  else
    TRY(NC(r->api, ReduceScatter,
           (full, out, (size_t)(d->rows * p->n), type, TML_NCCL_SUM, nccl, r->stream)));
  return settle(r, nccl);
}

static tml_status gemm_alone(const calls *c, int i)
{
  const data *d = c->d;
  tml_args args = data_args(d, i);
  args.c_symmetric = args.a_symmetric = 0;
  if (d->problem.op == TML_GEMM_RS || d->problem.op == TML_GEMM_AR) args.bias = NULL;
  if (d->problem.op == TML_AG_GEMM) args.a = (const void *)(uintptr_t)d->full;
  if (d->problem.op == TML_GEMM_RS) args.c = (void *)(uintptr_t)d->full;
  return tml_launch(c->plan, &args, c->r->stream);
}

tml_status calls_run(void *user, int i)
{
  const calls *c = user;
  if (c->kind == CALLS_PLAN) {
    tml_args args = data_args(c->d, i);
    return tml_launch(c->plan, &args, c->r->stream);
  }
  if (c->kind == CALLS_ALONE || c->d->problem.op == TML_GEMM) return gemm_alone(c, i);
  if (c->d->problem.op == TML_AG_GEMM) {
    TRY(collective(c));
    return gemm_alone(c, i);
  }
  TRY(gemm_alone(c, i));
  return collective(c);
}
