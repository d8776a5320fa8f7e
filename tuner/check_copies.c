/* The assumption under the pattern `ce`: copies between GPUs, of whole rows or of some columns of
 * them, and the 8-byte copies that signal them, make progress while a grid that waits for them holds every SM, in whatever order they were
 * enqueued, eager or replayed from a graph. Were it wrong, the grid would wait for its time-out. */
#include <stdio.h>
#include <string.h>

#include "../runtime/status.h"
#include "check.h"

typedef struct copies {
  rig *r;
  tml_kernel *hold;
  tml_block *block; /* [from this rank][one part per source] */
  size_t bytes;
  int hold_first;
  int halves; /* the left half of each row and then the right one, instead of all in one piece */
  uint64_t value; /* what the signal words must reach */
} copies;

const table_column check_copies_columns[CHECK_COPIES_COLUMNS] = {
    {"bytes", "bytes", 'd', 0, 0},   {"half rows", "half_rows", 's', 0, 0},
    {"graph", "graph", 's', 0, 0},   {"grid first", "grid_first", 's', 0, 0},
    {"blocks", "blocks", 'd', 0, 0}, {"times", "times", 'd', 0, 0},
};

static const size_t sizes[] = {8, 64 << 10, 1 << 20, 16 << 20};
enum { REPEATS = 20, SIZES = sizeof sizes / sizeof *sizes, ROW = 4096 };

static CUdeviceptr pad_word(const rig *r, int rank, int word)
{
  return r->comm->pad->at[rank] + (size_t)word * sizeof(uint64_t);
}

static tml_status enqueue_hold(const copies *c)
{
  const rig *r = c->r;
  tml_values values;
  memset(&values, 0, sizeof values);
  values.rank = r->rank;
  values.timeout_ns = r->comm->timeout_ns;
  values.record = r->comm->record_at;
  values.count = c->value;
  for (int i = 0; i < r->world; i++) values.pad.at[i] = r->comm->pad->at[i];
  return tml_launch_aux(r->ctx, c->hold, &values, (unsigned)c->hold->max_clusters, r->stream);
}

static tml_status enqueue_part(const copies *c, CUdeviceptr there, CUdeviceptr mine)
{
  const rig *r = c->r;
  CUDA_MEMCPY2D half = {.srcMemoryType = CU_MEMORYTYPE_UNIFIED,
                        .srcPitch = ROW,
                        .dstMemoryType = CU_MEMORYTYPE_UNIFIED,
                        .dstPitch = ROW,
                        .WidthInBytes = ROW / 2,
                        .Height = c->bytes / ROW};
  if (!c->halves) return CU(r->api, cuMemcpyDtoDAsync, (there, mine, c->bytes, r->comm->copies));
  for (size_t at = 0; at < ROW; at += ROW / 2) {
    half.srcDevice = mine + at;
    half.dstDevice = there + at;
    TRY(CU(r->api, cuMemcpy2DAsync, (&half, r->comm->copies)));
  }
  return TML_OK;
}

/* This rank's part and then its signal, to every peer. */
static tml_status enqueue_copies(const copies *c)
{
  const rig *r = c->r;
  const tml_pad *pad = &r->ctx->pad;
  CUstream stream = r->comm->copies;
  CUdeviceptr mine = c->block->at[r->rank] + (size_t)r->rank * c->bytes;
  for (int i = 1; i < r->world; i++) {
    int to = (r->rank - i + r->world) % r->world;
    CUdeviceptr there = c->block->at[to] + (size_t)r->rank * c->bytes;
    TRY(enqueue_part(c, there, mine));
    TRY(CU(r->api, cuMemcpyDtoDAsync,
           (pad_word(r, to, pad->shard + 4 * r->rank), pad_word(r, r->rank, pad->outbox),
            sizeof(uint64_t), stream)));
  }
  return TML_OK;
}

/* Fork {copies}, the waiting grid, join. */
static tml_status enqueue(const copies *c)
{
  const rig *r = c->r;
  TRY(CU(r->api, cuEventRecord, (r->comm->fork, r->stream)));
  TRY(CU(r->api, cuStreamWaitEvent, (r->comm->copies, r->comm->fork, 0)));
  if (c->hold_first) TRY(enqueue_hold(c));
  TRY(enqueue_copies(c));
  if (!c->hold_first) TRY(enqueue_hold(c));
  TRY(CU(r->api, cuEventRecord, (r->comm->join, r->comm->copies)));
  return CU(r->api, cuStreamWaitEvent, (r->stream, r->comm->join, 0));
}

/* Signal words back to 0 on every rank, so that each repetition waits anew. */
static tml_status reset(const copies *c)
{
  const rig *r = c->r;
  const uint64_t zero[4 * TML_MAX_WORLD] = {0};
  TRY(CU(r->api, cuMemcpyHtoD, (pad_word(r, r->rank, r->ctx->pad.shard), zero, sizeof zero)));
  TRY(CU(r->api, cuMemcpyHtoD,
         (pad_word(r, r->rank, r->ctx->pad.outbox), &c->value, sizeof c->value)));
  return tml_group_barrier(r->comm->group);
}

static tml_status capture(const copies *c, CUgraphExec *exec)
{
  const rig *r = c->r;
  CUgraph graph = NULL;
  TRY(CU(r->api, cuStreamBeginCapture, (r->stream, CU_STREAM_CAPTURE_MODE_RELAXED)));
  tml_status status = enqueue(c);
  tml_status ended = CU(r->api, cuStreamEndCapture, (r->stream, &graph));
  if (status == TML_OK) status = ended;
  if (status == TML_OK) status = CU(r->api, cuGraphInstantiate, (exec, graph, 0));
  if (graph) r->api->cuda.p_cuGraphDestroy(graph);
  return status;
}

static tml_status repeat(copies *c, CUgraphExec exec)
{
  for (int i = 0; i < REPEATS; i++) {
    TRY(reset(c));
    TRY(exec ? CU(c->r->api, cuGraphLaunch, (exec, c->r->stream)) : enqueue(c));
    TRY(rig_wait(c->r, 10));
  }
  return TML_OK;
}

static tml_status one_case(copies *c, int graphed)
{
  CUgraphExec exec = NULL;
  tml_group *group = c->r->comm->group;
  tml_status status = graphed ? capture(c, &exec) : TML_OK;
  status = tml_group_vote(group, status, "capture");
  if (status == TML_OK) status = tml_group_vote(group, repeat(c, exec), "waiting for copies");
  if (exec) c->r->api->cuda.p_cuGraphExecDestroy(exec);
  return tml_wrap(status, "%zu bytes%s, %s, %s enqueued first", c->bytes,
                  c->halves ? " in half rows" : "", graphed ? "graph" : "eager",
                  c->hold_first ? "the waiting grid" : "the copies");
}

static tml_status prepare(copies *c)
{
  tml_variant v;
  TRY(tml_gen_aux(c->r->gen, "hold", c->r->ctx->arch, TML_BF16, c->r->world, &v));
  return tml_ctx_kernel(c->r->ctx, v.name, TML_FROM_BANK | TML_FROM_JIT, &c->hold);
}

static void add_case(table *cases, const copies *c, int graphed)
{
  table_real(cases, (double)c->bytes);
  table_flag(cases, c->halves);
  table_flag(cases, graphed);
  table_flag(cases, c->hold_first);
  table_real(cases, c->hold->max_clusters);
  table_real(cases, REPEATS);
  table_end_row(cases);
}

tml_status check_copies(rig *r, table *cases)
{
  copies c = {.r = r, .value = 1};
  TRY(tml_group_vote(r->comm->group, prepare(&c), "loading the waiting kernel"));
  TRY(tml_block_create(r->comm, sizes[SIZES - 1] * (size_t)r->world, &c.block));
  tml_status status = TML_OK;
  for (int i = 0; i < SIZES * 8 && status == TML_OK; i++) {
    c.bytes = sizes[i / 8];
    c.hold_first = i & 1;
    c.halves = i >> 2 & 1;
    if (c.halves && c.bytes < ROW) continue;
    status = one_case(&c, i >> 1 & 1);
    if (status == TML_OK) add_case(cases, &c, i >> 1 & 1);
  }
  tml_block_free(r->comm, c.block);
  return status;
}
