/* The launch path: checks at the door, then what the pattern enqueues. Nothing here allocates,
 * loads, compiles, locks or synchronises (library variants are the libraries' business). */
#include <stdio.h>
#include <string.h>

#include "lt.h"
#include "maps.h"
#include "status.h"

/* ---- The door ---- */

static tml_status check_pointer(const char *name, const void *at, int needed)
{
  if (needed && !at) return tml_fail(TML_ARGUMENT, "tml_launch: %s is NULL", name);
  if ((uintptr_t)at % 16 != 0)
    return tml_fail(TML_ARGUMENT, "tml_launch: %s = %p is not aligned to 16 bytes", name, at);
  return TML_OK;
}

static tml_status check_ld(const char *name, int64_t *ld, int64_t columns)
{
  if (*ld == 0) *ld = columns;
  if (*ld < columns)
    return tml_fail(TML_ARGUMENT, "tml_launch: %s = %lld is less than the row's %lld elements",
                    name, (long long)*ld, (long long)columns);
  if (*ld % 8 != 0 || *ld >= (int64_t)1 << 38)
    return tml_fail(TML_ARGUMENT, "tml_launch: %s = %lld must be a multiple of 8 below 2^38", name,
                    (long long)*ld);
  return TML_OK;
}

/* A rank that owns no rows may pass no buffer for them. */
static tml_status check_buffers(const tml_plan *plan, const tml_args *args)
{
  const tml_problem *p = &plan->problem;
  int64_t own = p->op == TML_GEMM ? args->m : tml_rows_of(args->m, p->world, plan->comm->rank);
  TRY(check_pointer("a", args->a, (p->op == TML_AG_GEMM ? own : args->m) > 0));
  TRY(check_pointer("b", args->b, 1));
  TRY(check_pointer("c", args->c, (p->op == TML_GEMM_RS ? own : args->m) > 0));
  TRY(check_pointer("bias", args->bias, p->bias));
  if (args->bias && !p->bias)
    return tml_fail(TML_ARGUMENT,
                    "tml_launch: a bias was given, but the plan's problem has none; put ':bias' "
                    "(bias = 1) into the problem");
  return TML_OK;
}

static tml_status check_gathered(const tml_plan *plan, const tml_args *args)
{
  if (!args->gathered) return TML_OK;
  if (plan->asked != TML_AG_GEMM)
    return tml_fail(TML_ARGUMENT,
                    "tml_launch: gathered was given, but only ag_gemm gathers A; leave it NULL");
  if (args->lda != plan->problem.k)
    return tml_fail(TML_ARGUMENT,
                    "tml_launch: lda = %lld, but shards are gathered whole: A must be packed "
                    "(lda = k = %lld)",
                    (long long)args->lda, (long long)plan->problem.k);
  return check_pointer("gathered", args->gathered, 0);
}

/* `rows` of a symmetric matrix, "a" or "c", must lie in one block of tml_alloc, where every rank has as
 * much room. */
static tml_status check_block(const tml_plan *plan, const char *name, const void *from,
                              int64_t rows, int64_t ld, int64_t columns)
{
  const tml_block *block = tml_comm_block(plan->comm, (uintptr_t)from);
  if (!block)
    return tml_fail(TML_ARGUMENT,
                    "tml_launch: %s_symmetric was given, but %s = %p is not memory of tml_alloc on "
                    "this comm",
                    name, name, from);
  size_t at = (uintptr_t)from - block->at[plan->comm->rank];
  int64_t room =
      (int64_t)((block->bytes - at) / TML_ELEMENT_BYTES); /* no product: it may overflow */
  if (columns > room || rows - 1 > (room - columns) / ld)
    return tml_fail(TML_ARGUMENT,
                    "tml_launch: %s_symmetric was given, but %lld rows of %s at that offset end "
                    "behind their memory of tml_alloc (%zu bytes); allocate more on every rank",
                    name, (long long)rows, name, block->bytes);
  return TML_OK;
}

static tml_status check_symmetric(const tml_plan *plan, const tml_args *args)
{
  const tml_problem *p = &plan->problem;
  if (args->c_symmetric && plan->asked != TML_GEMM_AR)
    return tml_fail(
        TML_ARGUMENT,
        "tml_launch: c_symmetric was given, but only gemm_ar stores into the C of other "
        "ranks; leave it 0");
  if (args->a_symmetric && plan->asked != TML_AG_GEMM)
    return tml_fail(TML_ARGUMENT, "tml_launch: a_symmetric was given, but only ag_gemm reads the A "
                                  "of other ranks; leave it 0");
  if (args->m == 0) return TML_OK;
  if (args->c_symmetric) TRY(check_block(plan, "c", args->c, args->m, args->ldc, p->n));
  if (args->a_symmetric)
    TRY(check_block(plan, "a", args->a, tml_shard_rows(args->m, p->world), args->lda, p->k));
  return TML_OK;
}

static tml_status check_args(const tml_plan *plan, tml_args *args)
{
  const tml_problem *p = &plan->problem;
  if (args->m < 0 || args->m > p->m)
    return tml_fail(TML_ARGUMENT,
                    "tml_launch: m = %lld must lie in 0 .. %lld, the plan's m; make the plan for a "
                    "larger m",
                    (long long)args->m, (long long)p->m);
  TRY(check_ld("lda", &args->lda, p->k));
  TRY(check_ld("ldb", &args->ldb, p->k));
  TRY(check_ld("ldc", &args->ldc, p->n));
  TRY(check_gathered(plan, args));
  TRY(check_buffers(plan, args));
  return check_symmetric(plan, args);
}

static tml_status missing_reserve(const tml_plan *plan)
{
  const tml_comm *comm = plan->comm;
  const tml_segment *s = comm->segment;
  const tml_bytes *need = &plan->bytes;
  return tml_fail(
      TML_ARGUMENT,
      "tml_launch: the plan needs %zu local, %zu staging, %zu slot and %zu signal bytes, "
      "reserved are %zu, %zu, %zu and %zu; call tml_comm_reserve with tml_plan_workspace's bytes "
      "on "
      "every rank",
      need->local, need->staging, need->slots, need->signals, comm->local_bytes,
      s ? s->bytes.staging : 0, s ? s->bytes.slots : 0, s ? s->bytes.signals : 0);
}

/* The same segment on all ranks: it covers the whole plan, not only this m. */
static tml_status check_reserve(tml_plan *plan)
{
  const tml_comm *comm = plan->comm;
  if (plan->checked && plan->checked_segment == comm->segment &&
      plan->checked_local == comm->local_bytes)
    return TML_OK;
  if (!tml_comm_has(comm, &plan->bytes)) return missing_reserve(plan);
  plan->checked = 1;
  plan->checked_segment = comm->segment;
  plan->checked_local = comm->local_bytes;
  return TML_OK;
}

static tml_status launch(tml_plan *plan, const tml_args *args, CUstream stream)
{
  if (args->size < sizeof *args)
    return tml_fail(TML_ARGUMENT,
                    "tml_launch: set args.size to sizeof(tml_args), %zu here, not %zu; a caller "
                    "built for an older tidemill.h must be built again",
                    sizeof *args, args->size);
  tml_args whole = *args;
  TRY(check_args(plan, &whole));
  TRY(check_reserve(plan));
  return tml_plan_run(plan, &whole, stream);
}

tml_status tml_launch(tml_plan *plan, const tml_args *args, CUstream stream)
{
  if (!plan || !args)
    return tml_fail(TML_ARGUMENT, "tml_launch: %s is NULL", plan ? "args" : "plan");
  if (!plan->comm)
    return tml_fail(TML_ARGUMENT,
                    "tml_launch: the plan's comm was destroyed; destroy the plan and make it anew");
  const tml_record *record = plan->comm->record;
  if (record->code != 0 || record->aborted != 0) return tml_poll(plan->comm, NULL);
  tml_status status = launch(plan, args, stream);
  if (status == TML_OK)
    atomic_fetch_add_explicit(&plan->comm->ctx->counters.launches, 1, memory_order_relaxed);
  else if (plan->problem.op != TML_GEMM) /* which meets no peer */
    plan->comm->failures++;              /* later calls say so in their fingerprints */
  return status;
}

/* ---- Kernels ---- */

static unsigned launch_attributes(const tml_variant *variant, int overlap,
                                  CUlaunchAttribute attributes[2])
{
  unsigned count = 0;
  if (variant->cooperative)
    attributes[count++] =
        (CUlaunchAttribute){.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE, .value.cooperative = 1};
  if (overlap)
    attributes[count++] =
        (CUlaunchAttribute){.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                            .value.programmaticStreamSerializationAllowed = 1};
  return count;
}

/* What to do about a launch that the driver refused. */
static tml_status launch_failed(tml_status status, CUresult result, const tml_variant *variant)
{
  const char *advice = "an earlier error of this context may show here first";
  char text[256];
  snprintf(text, sizeof text, "%s", tml_last_error());
  if (result == CUDA_ERROR_INVALID_CONTEXT || result == CUDA_ERROR_CONTEXT_IS_DESTROYED)
    advice = "make the primary context of the ctx's device current in this thread";
  else if (result == CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE)
    advice = "another process or a limit (MPS, green context) holds SMs: it needs the whole GPU";
  else if (result >= CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED &&
           result <= CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD)
    advice = "end this capture and begin a new one";
  return tml_fail(status, "tml_launch of %s: %s; %s", variant->name, text, advice);
}

/* A driver may refuse a launch that is cooperative and overlaps the stream's previous kernel at once.
 * Only the first is needed for a right result, so such a driver is not asked for the second again. */
static tml_status enqueue(tml_ctx *ctx, const tml_kernel *kernel, unsigned grid,
                          void *const *params, CUstream stream)
{
  const tml_variant *variant = &kernel->variant;
  const int both = variant->cooperative && variant->overlap;
  int overlap = variant->overlap && !(both && atomic_load(&ctx->overlap_refused));
  CUlaunchAttribute attributes[2];
  CUlaunchConfig config = {.gridDimX = grid,
                           .gridDimY = 1,
                           .gridDimZ = 1,
                           .blockDimX = (unsigned)variant->threads,
                           .blockDimY = 1,
                           .blockDimZ = 1,
                           .sharedMemBytes = (unsigned)variant->smem,
                           .hStream = stream,
                           .attrs = attributes,
                           .numAttrs = launch_attributes(variant, overlap, attributes)};
  void **values = (void **)(uintptr_t)params;
  CUresult result = ctx->api->cuda.p_cuLaunchKernelEx(&config, kernel->function, values, NULL);
  if (both && overlap &&
      (result == CUDA_ERROR_NOT_SUPPORTED || result == CUDA_ERROR_INVALID_VALUE)) {
    int named = result == CUDA_ERROR_NOT_SUPPORTED; /* under capture the second fails as well */
    config.numAttrs = launch_attributes(variant, 0, attributes);
    result = ctx->api->cuda.p_cuLaunchKernelEx(&config, kernel->function, values, NULL);
    if ((result == CUDA_SUCCESS || named) && !atomic_exchange(&ctx->overlap_refused, 1))
      tml_log(ctx, TML_LOG_WARN,
              "this driver refuses cooperative launches that overlap the kernel before them: calls "
              "of gemm_rs and gemm_ar begin a little later");
  }
  tml_status status = tml_cuda_check(ctx->api, result, "cuLaunchKernelEx");
  return status == TML_OK ? TML_OK : launch_failed(status, result, variant);
}

tml_status tml_launch_aux(tml_ctx *ctx, const tml_kernel *kernel, const tml_values *values,
                          unsigned grid, CUstream stream)
{
  void *params[TML_PARAM_COUNT];
  if (!ctx || !kernel || !values || grid == 0)
    return tml_fail(TML_ARGUMENT, "tml_launch_aux: ctx, kernel or values is NULL, or grid is 0");
  const tml_variant *variant = &kernel->variant;
  for (int i = 0; i < variant->param_count; i++)
    params[i] = (void *)((uintptr_t)values + (size_t)kernel->param_offset[i]);
  return enqueue(ctx, kernel, grid, params, stream);
}

tml_status tml_bias_run(tml_plan *plan, const tml_args *args, int64_t rows, CUstream stream)
{
  tml_ctx *ctx = plan->comm->ctx;
  const int64_t most = 32 * (int64_t)(ctx->machine.sms > 0 ? ctx->machine.sms : 1);
  tml_values values;
  if (!plan->problem.bias || rows == 0) return TML_OK;
  values.dst = (uintptr_t)args->c;
  values.bias = (uintptr_t)args->bias;
  values.m = (int32_t)rows;
  values.n = (int32_t)plan->problem.n;
  values.ld = args->ldc;
  return tml_launch_aux(ctx, plan->bias, &values, (unsigned)(rows < most ? rows : most), stream);
}

/* ---- Copy engines ---- */

tml_status tml_copy_rows(const tml_api *api, CUdeviceptr to, int64_t ld_to, CUdeviceptr from,
                         int64_t ld_from, int64_t rows, int64_t columns, CUstream stream)
{
  size_t width = (size_t)columns * TML_ELEMENT_BYTES;
  if (ld_to == columns && ld_from == columns)
    return CU(api, cuMemcpyDtoDAsync, (to, from, (size_t)rows * width, stream));
  const CUDA_MEMCPY2D copy = {.srcMemoryType = CU_MEMORYTYPE_UNIFIED,
                              .srcDevice = from,
                              .srcPitch = (size_t)ld_from * TML_ELEMENT_BYTES,
                              .dstMemoryType = CU_MEMORYTYPE_UNIFIED,
                              .dstDevice = to,
                              .dstPitch = (size_t)ld_to * TML_ELEMENT_BYTES,
                              .WidthInBytes = width,
                              .Height = (size_t)rows};
  return CU(api, cuMemcpy2DAsync, (&copy, stream));
}

/* One warp: waits until the peers are done with this slot, then writes the word that the copies
 * carry. */
static tml_status ce_gate(const tml_plan *plan, const tml_call *call, CUstream stream)
{
  const tml_kernel *gate = call->key.choice->helper;
  const tml_scalars *s = &call->scalars;
  tml_values values;
  values.rank = s->rank;
  values.slot = s->slot;
  values.pull = s->pull;
  values.timeout_ns = s->timeout_ns;
  values.record = s->record;
  values.pad = s->pad;
  return tml_launch_aux(plan->comm->ctx, gate, &values, 1, stream);
}

/* A block of the shard at `from` to its place in the packed one at `to`. */
static tml_status ce_copy(const tml_plan *plan, CUdeviceptr to, CUdeviceptr from, int64_t lda,
                          const tml_chunk *chunk)
{
  int64_t k = plan->problem.k;
  return tml_copy_rows(plan->api,
                       to + TML_ELEMENT_BYTES * (CUdeviceptr)(chunk->row * k + chunk->column), k,
                       from + TML_ELEMENT_BYTES * (CUdeviceptr)(chunk->row * lda + chunk->column),
                       lda, chunk->rows, chunk->columns, plan->comm->copies);
}

/* A signal: the epoch, as this rank's gate has written it. */
static tml_status ce_signal(const tml_plan *plan, const tml_call_key *key, CUdeviceptr word)
{
  const tml_comm *comm = plan->comm;
  CUdeviceptr outbox =
      comm->pad->at[comm->rank] + 8 * (size_t)(comm->ctx->pad.outbox + (int)key->slot);
  return CU(plan->api, cuMemcpyDtoDAsync, (word, outbox, 8, comm->copies));
}

/* Rank `from`'s shard, which lies at `a`, to rank `to`: its chunks, each followed by its signal. */
static tml_status ce_shard(const tml_plan *plan, const tml_call *call, int from, CUdeviceptr a,
                           int to)
{
  const tml_comm *comm = plan->comm;
  const tml_call_key *key = &call->key;
  const tml_variant *variant = &key->choice->variant;
  size_t line = (size_t)plan->problem.k * TML_ELEMENT_BYTES;
  CUdeviceptr place =
      tml_slot_at(key, to) + (size_t)from * (size_t)tml_shard_rows(key->m, comm->world) * line;
  CUdeviceptr signal =
      comm->pad->at[to] + 8 * (size_t)(comm->ctx->pad.shard + 4 * ((int)key->slot * 8 + from));
  for (int c = 0; c < variant->chunks_k * variant->chunks_m; c++) {
    tml_chunk chunk = tml_chunk_of(variant, key->m, plan->problem.k, from, c);
    if (chunk.rows == 0 || chunk.columns == 0) break;
    TRY(ce_copy(plan, place, a, key->lda, &chunk));
    TRY(ce_signal(plan, key, signal + 8 * (size_t)c));
  }
  return TML_OK;
}

/* The peers' shards, the next rank's first, which is needed first; each peer learns when its A was read. */
static tml_status ce_pull(const tml_plan *plan, const tml_call *call)
{
  const tml_comm *comm = plan->comm;
  const tml_block *block = tml_comm_block(comm, call->key.a);
  CUdeviceptr offset = call->key.a - block->at[comm->rank];
  for (int i = 1; i < comm->world; i++) {
    int peer = (comm->rank + i) % comm->world;
    TRY(ce_shard(plan, call, peer, block->at[peer] + offset, comm->rank));
    TRY(ce_signal(plan, &call->key,
                  comm->pad->at[peer] + 8 * (size_t)(comm->ctx->pad.pulled + comm->rank)));
  }
  return TML_OK;
}

/* Rank r serves r - 1 first. */
static tml_status ce_copies(const tml_plan *plan, const tml_call *call)
{
  int rank = plan->comm->rank, world = plan->comm->world;
  if (call->key.pull) return ce_pull(plan, call);
  for (int i = 1; i < world; i++)
    TRY(ce_shard(plan, call, rank, (CUdeviceptr)call->key.a, (rank - i + world) % world));
  return TML_OK;
}

/* The copies run beside the GEMM, between the gate and the end of the call. Once the copy stream is
 * forked it is joined again whatever fails: the caller's buffers and a capture depend on it, and so does
 * the next call: the GEMM does not wait for the gate, so only the join says that the gate has ended. */
static tml_status ce_run(const tml_plan *plan, const tml_call *call, CUstream stream)
{
  const tml_comm *comm = plan->comm;
  const tml_api *api = plan->api;
  TRY(ce_gate(plan, call, stream));
  TRY(CU(api, cuEventRecord, (comm->fork, stream)));
  TRY(CU(api, cuStreamWaitEvent, (comm->copies, comm->fork, 0)));
  tml_status status = ce_copies(plan, call);
  tml_status joined = CU(api, cuEventRecord, (comm->join, comm->copies));
  if (status == TML_OK) status = joined;
  if (status == TML_OK)
    status = enqueue(comm->ctx, call->key.choice->kernel, call->grid, call->params, stream);
  if (joined == TML_OK) {
    joined = CU(api, cuStreamWaitEvent, (stream, comm->join, 0));
    if (status == TML_OK) status = joined;
  }
  return status;
}

/* ---- By pattern ---- */

static tml_status fused_run(tml_plan *plan, const tml_choice *choice, const tml_args *args,
                            CUstream stream)
{
  tml_comm *comm = plan->comm;
  int ce = choice->variant.pattern == TML_PATTERN_CE;
  int twoshot = choice->variant.pattern == TML_PATTERN_TWOSHOT;
  const tml_call_key key = {.m = args->m,
                            .lda = args->lda,
                            .ldb = args->ldb,
                            .ldc = args->ldc,
                            .slot = ce ? comm->slot : 0,
                            .keep = ce && args->gathered,
                            .pull = ce && args->a_symmetric && args->m > 0,
                            .direct = twoshot && args->c_symmetric && args->m > 0,
                            .failures = plan->problem.op == TML_GEMM ? 0 : comm->failures,
                            .a = (uintptr_t)args->a,
                            .b = (uintptr_t)args->b,
                            .c = (uintptr_t)args->c,
                            .bias = (uintptr_t)args->bias,
                            .choice = choice,
                            .segment = choice->variant.world > 1 ? comm->segment : NULL};
  const tml_call *call;
  TRY(tml_calls_get(plan, &key, &call));
  if (ce) {
    comm->slot ^= 1;
    TRY(ce_run(plan, call, stream));
  } else {
    TRY(enqueue(comm->ctx, choice->kernel, call->grid, call->params, stream));
  }
  return tml_gathered_run(plan, args, &key, stream);
}

static tml_status lt_run(tml_plan *plan, const tml_args *args, CUstream stream)
{
  const tml_problem *p = &plan->problem;
  const tml_lt_args gemm = {p->dtype,           args->m,           p->n,      p->k,
                            args->lda,          args->ldb,         args->ldc, (uintptr_t)args->a,
                            (uintptr_t)args->b, (uintptr_t)args->c};
  TRY(tml_lt_launch(plan->comm, &gemm, stream));
  TRY(tml_gathered_run(plan, args, NULL, stream));
  return tml_bias_run(plan, args, args->m, stream);
}

const tml_entry *tml_plan_entry(const tml_plan *plan, int64_t m)
{
  int low = 0, high = plan->count - 1;
  while (low < high) {
    int middle = (low + high) / 2;
    if (plan->entries[middle].bucket < m)
      low = middle + 1;
    else
      high = middle;
  }
  return &plan->entries[low];
}

tml_status tml_plan_run(tml_plan *plan, const tml_args *args, CUstream stream)
{
  const tml_choice *choice = tml_plan_entry(plan, args->m)->choice;
  /* Only a call on the comm has something to do without rows: its headers. */
  if (args->m == 0 && (plan->problem.op == TML_GEMM || !choice->kernel)) return TML_OK;
  if (choice->kernel) return fused_run(plan, choice, args, stream);
  if (choice->variant.pattern == TML_PATTERN_NCCL) return tml_unfused_run(plan, args, stream);
  return lt_run(plan, args, stream);
}
