/* Pattern `nccl`: NCCL and one rank's GEMM in sequence, through the comm's temporaries. Always
 * legal: shards of unequal size go by grouped broadcasts or reduces. NCCL's enqueueing may wait
 * on the host (bounded here); strict configurations do not use it. */
#include "lt.h"
#include "plan_parts.h"
#include "status.h"
#include "wait.h"

/* What one call moves. */
typedef struct unfused {
  tml_plan *plan;
  const tml_args *args;
  CUstream stream;
  ncclComm_t nccl;
  int type, world, rank, even; /* even: all shards have the same size */
  int64_t shard;               /* rows */
  unsigned char *local;        /* device address of the temporary matrix, or of the caller's */
  unsigned char *own; /* this rank's packed shard of what moves: the caller's, or in `local` */
} unfused;

static int64_t rows_of(const unfused *u, int s) { return tml_rows_of(u->args->m, u->world, s); }

static unsigned char *shard_at(const unfused *u, int s, size_t columns)
{
  return u->local + (size_t)s * (size_t)u->shard * columns * TML_ELEMENT_BYTES;
}

/* The communicator is non-blocking: what it was asked for is enqueued once it is no longer in
 * progress. */
static tml_status settle(const unfused *u)
{
  const tml_comm *comm = u->plan->comm;
  const tml_api *api = u->plan->api;
  uint64_t deadline = 0;
  unsigned pause = 0;
  for (;;) {
    int state = TML_NCCL_SUCCESS;
    TRY(NC(api, CommGetAsyncError, (u->nccl, &state)));
    if (state != TML_NCCL_IN_PROGRESS) return tml_nccl_check(api, state, "NCCL's enqueueing");
    if (deadline == 0) deadline = tml_now_ns() + comm->timeout_ns;
    if (tml_now_ns() >= deadline)
      return tml_fail(
          TML_TIMEOUT,
          "NCCL was still busy after %.1f s; see that every rank launches the same calls",
          (double)comm->timeout_ns * 1e-9);
    tml_pause(&pause);
  }
}

/* Ends a group also after a failure inside, so that NCCL is not left in it. */
static tml_status end_group(const unfused *u, tml_status status)
{
  tml_status ended = NC(u->plan->api, GroupEnd, ());
  return status != TML_OK ? status : ended;
}

static tml_status broadcasts(const unfused *u, size_t columns)
{
  const tml_api *api = u->plan->api;
  tml_status status = TML_OK;
  TRY(NC(api, GroupStart, ()));
  for (int s = 0; s < u->world && status == TML_OK; s++) {
    unsigned char *part = shard_at(u, s, columns);
    if (rows_of(u, s) > 0)
      status = NC(api, Broadcast,
                  (s == u->rank ? u->own : part, part, (size_t)rows_of(u, s) * columns, u->type, s,
                   u->nccl, u->stream));
  }
  return end_group(u, status);
}

static tml_status reduces(const unfused *u, size_t columns)
{
  const tml_api *api = u->plan->api;
  tml_status status = TML_OK;
  TRY(NC(api, GroupStart, ()));
  for (int s = 0; s < u->world && status == TML_OK; s++) {
    unsigned char *part = shard_at(u, s, columns);
    if (rows_of(u, s) > 0)
      status = NC(api, Reduce,
                  (part, s == u->rank ? u->own : part, (size_t)rows_of(u, s) * columns, u->type,
                   TML_NCCL_SUM, s, u->nccl, u->stream));
  }
  return end_group(u, status);
}

/* One rank's GEMM, with a and c in place of the caller's. */
static tml_status gemm(const unfused *u, const void *a, int64_t lda, void *c, int64_t ldc)
{
  tml_args args = *u->args;
  args.a = a;
  args.lda = lda;
  args.c = c;
  args.ldc = ldc;
  args.gathered = NULL;
  if (!u->plan->gemm->problem.bias) args.bias = NULL;
  return tml_plan_run(u->plan->gemm, &args, u->stream);
}

/* The sum over ranks is nothing but the GEMM: its epilogue adds the bias. A shard with gaps between its
 * rows is packed where the gathered A wants it. */
static tml_status run_ag(unfused *u)
{
  const tml_api *api = u->plan->api;
  const tml_args *args = u->args;
  size_t k = (size_t)u->plan->problem.k;
  u->own = (unsigned char *)(uintptr_t)args->a;
  if (args->lda != (int64_t)k && rows_of(u, u->rank) > 0) {
    u->own = shard_at(u, u->rank, k);
    TRY(tml_copy_rows(api, (uintptr_t)u->own, (int64_t)k, (uintptr_t)args->a, args->lda,
                      rows_of(u, u->rank), (int64_t)k, u->stream));
  }
  if (u->even)
    TRY(NC(api, AllGather, (u->own, u->local, (size_t)u->shard * k, u->type, u->nccl, u->stream)));
  else
    TRY(broadcasts(u, k));
  TRY(settle(u));
  return gemm(u, u->local, (int64_t)k, u->args->c, u->args->ldc);
}

static tml_status run_rs(unfused *u)
{
  const tml_api *api = u->plan->api;
  const tml_args *args = u->args;
  size_t n = (size_t)u->plan->problem.n;
  int packed = args->ldc == (int64_t)n;
  u->own = packed ? (unsigned char *)args->c : shard_at(u, u->rank, n);
  TRY(gemm(u, u->args->a, u->args->lda, u->local, (int64_t)n));
  if (u->even)
    TRY(NC(api, ReduceScatter,
           (u->local, u->own, (size_t)u->shard * n, u->type, TML_NCCL_SUM, u->nccl, u->stream)));
  else
    TRY(reduces(u, n));
  TRY(settle(u));
  if (!packed && rows_of(u, u->rank) > 0)
    TRY(tml_copy_rows(api, (uintptr_t)args->c, args->ldc, (uintptr_t)u->own, (int64_t)n,
                      rows_of(u, u->rank), (int64_t)n, u->stream));
  return tml_bias_run(u->plan, u->args, rows_of(u, u->rank), u->stream);
}

static tml_status run_ar(const unfused *u)
{
  const tml_api *api = u->plan->api;
  int64_t n = u->plan->problem.n;
  size_t count = (size_t)u->args->m * (size_t)n;
  if (u->args->ldc != n)
    return tml_fail(TML_ARGUMENT,
                    "tml_launch: ldc = %lld, but NCCL adds up the whole of C: it must be packed "
                    "(ldc = n = %lld)",
                    (long long)u->args->ldc, (long long)n);
  TRY(gemm(u, u->args->a, u->args->lda, u->args->c, u->args->ldc));
  TRY(NC(api, AllReduce,
         (u->args->c, u->args->c, count, u->type, TML_NCCL_SUM, u->nccl, u->stream)));
  TRY(settle(u));
  return tml_bias_run(u->plan, u->args, u->args->m, u->stream);
}

tml_status tml_unfused_run(tml_plan *plan, const tml_args *args, CUstream stream)
{
  const tml_problem *p = &plan->problem;
  const tml_comm *comm = plan->comm;
  unfused u = {.plan = plan,
               .args = args,
               .stream = stream,
               .nccl = tml_group_nccl(comm->group),
               .type = p->dtype == TML_BF16 ? TML_NCCL_BFLOAT16 : TML_NCCL_FLOAT16,
               .world = p->world,
               .rank = comm->rank,
               .even = args->m % p->world == 0,
               .shard = tml_shard_rows(args->m, p->world)};
  if (!u.nccl)
    return tml_fail(TML_TIMEOUT,
                    "the group was given up after an earlier time-out or error; destroy "
                    "and recreate the comm on every rank");
  /* The GEMM's own temporaries come first. */
  u.local = (unsigned char *)(uintptr_t)(comm->local + plan->gemm->bytes.local);
  if (args->gathered) u.local = args->gathered;
  if (p->op == TML_AG_GEMM) return run_ag(&u);
  return p->op == TML_GEMM_RS ? run_rs(&u) : run_ar(&u);
}
