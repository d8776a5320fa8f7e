/* Launches: what is enqueued in which order, fingerprints, refusals. */
#include "geometry.h"
#include "plan_fixture.h"

static rig_shape ce3, ce2, along_k, along_m, sm3, sm3_pair, push2, ring2, twoshot2, gemm;

static int find_variants(void **state)
{
  (void)state;
  ce3 = rig_find("ag_gemm", 3, 128, 128, 1);
  ce2 = rig_find("ag_gemm", 2, 128, 128, 1);
  along_k = rig_find_like("ag_gemm", 3, 128, 128, 1, "*.kc4.ce");
  along_m = rig_find_like("ag_gemm", 3, 128, 128, 1, "*.mc2.ce");
  sm3 = rig_find_like("ag_gemm", 3, 128, 128, 1, "*.x8.sm");
  sm3_pair = rig_find_like("ag_gemm", 3, 128, 128, 2, "*.x16.sm");
  push2 = rig_find("gemm_rs", 2, 128, 128, 1);
  ring2 = rig_find_like("gemm_rs", 2, 128, 128, 1, "*.ring");
  twoshot2 = rig_find("gemm_ar", 2, 128, 128, 1);
  gemm = rig_find("gemm", 1, 128, 256, 2);
  return fake_check_failures();
}

/* Blocks that wait for blocks must all be on the device at once. All kernels may start before the
 * stream's previous one has ended. */
static int is_cooperative(const fake_op *op)
{
  return op->launch.cooperative && op->launch.programmatic;
}

static int is_programmatic(const fake_op *op)
{
  return op->launch.programmatic && !op->launch.cooperative;
}

/* ---- Copy engines ---- */

static void check_copies(test_bed *rig, const fake_op **op, int64_t m, int slot, CUdeviceptr a)
{
  const tml_comm *comm = rig->comm;
  const tml_segment *segment = comm->segment;
  int64_t shard = (m + 2) / 3, rows = m - rig->rank * shard < shard ? m - rig->rank * shard : shard;
  for (int i = 1; i < 3 && rows > 0; i++) {
    int d = (rig->rank - i + 3) % 3;
    const fake_op *data = op[2 * (i - 1)], *signal = op[2 * (i - 1) + 1];
    FAKE_CHECK(data->kind == FAKE_COPY && data->src == a && data->bytes == (size_t)rows * 40 * 2);
    FAKE_CHECK(data->dst == segment->block->at[d] + segment->slots_at +
                                (size_t)slot * segment->bytes.slots +
                                (size_t)(rig->rank * shard) * 40 * 2);
    FAKE_CHECK(signal->kind == FAKE_COPY && signal->bytes == 8);
    FAKE_CHECK(signal->src == comm->pad->at[rig->rank] + 8 * (size_t)(rig->ctx->pad.outbox + slot));
    FAKE_CHECK(signal->dst ==
               comm->pad->at[d] + 8 * (size_t)(rig->ctx->pad.shard + 4 * (slot * 8 + rig->rank)));
    FAKE_CHECK(signal->stream == data->stream && fake_before(data, signal));
  }
}

/* gate, fork, copies, join, GEMM, wait: in this order; the copies beside the GEMM. */
static void check_ce(test_bed *rig, int k, int64_t m, int slot)
{
  const fake_op *op[16];
  int copies = m - rig->rank * ((m + 2) / 3) > 0 ? 4 : 0,
      count = rig_after_gate(rig, k, op, 6 + copies);
  FAKE_CHECK(count == 6 + copies);
  if (count != 6 + copies) return;
  const fake_op *gate = op[0], *join = op[3 + copies], *kernel = op[4 + copies],
                *wait = op[5 + copies];
  FAKE_CHECK(gate->kind == FAKE_LAUNCH && gate->launch.grid[0] == 1 && is_programmatic(gate));
  FAKE_CHECK(op[1]->kind == FAKE_RECORD && op[2]->kind == FAKE_WAIT &&
             op[1]->stream == gate->stream);
  FAKE_CHECK(op[2]->stream != gate->stream && join->stream == op[2]->stream);
  check_copies(rig, op + 3, m, slot, rig->buffer[0]);
  FAKE_CHECK(join->kind == FAKE_RECORD && wait->kind == FAKE_WAIT && wait->stream == gate->stream);
  FAKE_CHECK(kernel->kind == FAKE_LAUNCH && kernel->stream == gate->stream &&
             strstr(kernel->launch.name, "ag_gemm"));
  FAKE_CHECK(kernel->launch.smem > 49152 && kernel->launch.block[0] == 384 &&
             is_programmatic(kernel));
  for (int i = 3; i < 3 + copies; i++)
    FAKE_CHECK(fake_before(gate, op[i]) && !fake_before(op[i], kernel) && fake_before(op[i], wait));
}

/* Rows with gaps between them: packed on the way. */
static void check_loose(test_bed *rig, tml_plan *plan, int k, CUstream stream)
{
  tml_args loose = rig_args(rig, 1000, 0);
  const fake_op *op[16];
  loose.lda = 48;
  FAKE_CHECK_OK(tml_launch(plan, &loose, stream));
  if (!FAKE_CHECK(rig_after_gate(rig, k, op, 10) == 10)) return;
  const fake_op *data = op[3];
  FAKE_CHECK(data->kind == FAKE_COPY && data->src == rig->buffer[0] && data->bytes == 80);
  FAKE_CHECK(data->rows == (rig->rank == 2 ? 332 : 334));
  FAKE_CHECK(data->src_pitch == 96 && data->dst_pitch == 80);
}

static void ce_rank(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "ag_gemm:bf16:nt:w3:1000x72x40", ce3.name);
  CUstream stream = new_stream();
  const int64_t sizes[] = {7, 4, 0, 1000, 999}; /* ragged, an empty shard, nothing at all */
  const unsigned tiles[] = {3, 2, 1, 9, 9};
  for (int i = 0; i < 5; i++) {
    tml_args args = rig_args(rig, sizes[i], 0);
    if (sizes[i] == 0) args.a = args.c = NULL;
    FAKE_CHECK_OK(tml_launch(plan, &args, stream));
    check_ce(rig, i, sizes[i], i % 2);
    FAKE_CHECK(rig_op(rig, FAKE_LAUNCH, "ag_gemm", i)->launch.grid[0] == tiles[i]);
  }
  check_loose(rig, plan, 5, stream);
  close_stream(stream);
  tml_plan_destroy(plan);
}

/* Shards of 3, 3 and 1 rows out of the peers' A into this rank's slot, each followed by the signal here and
 * by the word that tells its owner. */
static void pull_rank(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "ag_gemm:bf16:nt:w3:1000x72x40", ce3.name);
  const tml_comm *comm = rig->comm;
  const tml_pad *pad = &rig->ctx->pad;
  const fake_op *op[16];
  void *block;
  tml_args args = rig_args(rig, 7, 0);
  args.a_symmetric = 1;
  FAKE_CHECK(rig_says(tml_launch(plan, &args, NULL), TML_ARGUMENT, "not memory of tml_alloc"));
  FAKE_CHECK_OK(tml_alloc(rig->comm, 3 * 80, &block));
  args.a = block;
  FAKE_CHECK_OK(tml_launch(plan, &args, NULL));
  int count = rig_after_gate(rig, 0, op, 16), at = 0;
  while (at < count && op[at]->kind != FAKE_COPY) at++;
  for (int i = 1; i < 3; i++) {
    int peer = (rig->rank + i) % 3;
    CUdeviceptr outbox = comm->pad->at[rig->rank] + 8 * (size_t)pad->outbox;
    CUdeviceptr slot = comm->segment->block->at[rig->rank] + comm->segment->slots_at;
    if (!FAKE_CHECK(at + 3 <= count)) break;
    FAKE_CHECK(op[at]->src == comm->blocks->at[peer] &&
               op[at]->dst == slot + (size_t)peer * 3 * 80 &&
               op[at]->bytes == (peer == 2 ? 80 : 3 * 80));
    FAKE_CHECK(op[at + 1]->src == outbox && op[at + 1]->bytes == 8 &&
               op[at + 1]->dst == comm->pad->at[rig->rank] + 8 * (size_t)(pad->shard + 4 * peer));
    FAKE_CHECK(op[at + 2]->src == outbox && op[at + 2]->bytes == 8 &&
               op[at + 2]->dst == comm->pad->at[peer] + 8 * (size_t)(pad->pulled + rig->rank));
    at += 3;
  }
  tml_plan_destroy(plan);
}

/* The same under capture; a replay runs it all again. */
static void capture_rank(test_bed *rig)
{
  const tml_cuda *cuda = &fake_table()->cuda;
  tml_plan *plan = rig_plan(rig, "ag_gemm:bf16:nt:w3:1000x72x40", ce3.name);
  CUstream stream = new_stream();
  CUgraph graph = NULL;
  CUgraphExec exec = NULL;
  tml_args args = rig_args(rig, 7, 0);
  FAKE_CHECK_OK(tml_seal(rig->ctx));
  FAKE_CHECK(cuda->p_cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) ==
             CUDA_SUCCESS);
  FAKE_CHECK_OK(tml_launch(plan, &args, stream));
  FAKE_CHECK(cuda->p_cuStreamEndCapture(stream, &graph) == CUDA_SUCCESS);
  FAKE_CHECK(rig_op(rig, FAKE_LAUNCH, "gate", 0) == NULL);
  FAKE_CHECK(fake_graph_op_count(graph) == 10);
  FAKE_CHECK(cuda->p_cuGraphInstantiate(&exec, graph, 0) == CUDA_SUCCESS);
  for (int i = 0; i < 3; i++) FAKE_CHECK(cuda->p_cuGraphLaunch(exec, stream) == CUDA_SUCCESS);
  FAKE_CHECK(rig_op(rig, FAKE_LAUNCH, "gate", 2) != NULL &&
             rig_op(rig, FAKE_LAUNCH, "gate", 3) == NULL);
  FAKE_CHECK(cuda->p_cuGraphExecDestroy(exec) == CUDA_SUCCESS &&
             cuda->p_cuGraphDestroy(graph) == CUDA_SUCCESS);
  close_stream(stream);
  tml_plan_destroy(plan);
}

/* A block of the shard: first row and column, and how many. */
typedef struct piece {
  int row, rows, column, columns;
} piece;

/* One call: the pieces in order to r - 1 and then to r - 2, each before its signal. m = 700: shards of
 * 234 rows, 232 the last. k = 200: 4 k-tiles. */
static void check_pieces(test_bed *rig, const char *name, const piece *pieces, int count)
{
  tml_plan *plan = rig_plan(rig, "ag_gemm:bf16:nt:w3:1000x72x200", name);
  CUstream stream = new_stream();
  tml_args args = rig_args(rig, 700, 0);
  const fake_op *op[32];
  FAKE_CHECK_OK(tml_launch(plan, &args, stream));
  const tml_segment *segment = rig->comm->segment;
  FAKE_CHECK(rig_after_gate(rig, 0, op, 32) == 6 + 4 * count);
  for (int i = 0; i < 2 * count; i++) {
    const piece *p = &pieces[i % count];
    int d = (rig->rank + 2 - i / count) % 3, rows = rig->rank == 2 ? 232 : 234;
    size_t at = (size_t)(p->row * 200 + p->column) * 2;
    const fake_op *data = op[3 + 2 * i], *signal = op[4 + 2 * i];
    if (rows > p->row + p->rows) rows = p->row + p->rows;
    rows -= p->row;
    FAKE_CHECK(data->kind == FAKE_COPY && data->src == rig->buffer[0] + at);
    FAKE_CHECK(data->dst == segment->block->at[d] + segment->slots_at +
                                (size_t)rig->comm->rank * 234 * 200 * 2 + at);
    if (p->columns == 200)
      FAKE_CHECK(data->rows == 1 && data->bytes == (size_t)rows * 200 * 2);
    else
      FAKE_CHECK(data->rows == (size_t)rows && data->bytes == (size_t)p->columns * 2 &&
                 data->src_pitch == 400 && data->dst_pitch == 400);
    FAKE_CHECK(signal->kind == FAKE_COPY && signal->bytes == 8 && fake_before(data, signal));
    FAKE_CHECK(signal->dst == rig->comm->pad->at[d] +
                                  8 * (size_t)(rig->ctx->pad.shard + 4 * rig->rank + i % count));
  }
  close_stream(stream);
  tml_plan_destroy(plan);
}

static void along_k_rank(test_bed *rig)
{
  static const piece pieces[] = {
      {0, 234, 0, 64}, {0, 234, 64, 64}, {0, 234, 128, 64}, {0, 234, 192, 8}};
  check_pieces(rig, along_k.name, pieces, 4);
}

static void along_m_rank(test_bed *rig)
{
  static const piece pieces[] = {{0, 128, 0, 200}, {128, 106, 0, 200}};
  check_pieces(rig, along_m.name, pieces, 2);
}

/* Fewer k-tiles or rows than chunks: the rest is neither copied nor signalled. */
static void few_rank(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "ag_gemm:bf16:nt:w3:1000x72x72", along_k.name);
  tml_plan *other = rig_plan(rig, "ag_gemm:bf16:nt:w3:1000x72x72", along_m.name);
  CUstream stream = new_stream();
  tml_args args = rig_args(rig, 4, 0); /* 2, 2 and no rows */
  const fake_op *op[32];
  FAKE_CHECK_OK(tml_launch(plan, &args, stream));
  FAKE_CHECK(rig_after_gate(rig, 0, op, 32) == (rig->rank == 2 ? 6 : 6 + 2 * 2 * 2));
  FAKE_CHECK_OK(tml_launch(other, &args, stream));
  FAKE_CHECK(rig_after_gate(rig, 1, op, 32) == (rig->rank == 2 ? 6 : 6 + 2 * 2));
  close_stream(stream);
  tml_plan_destroy(plan);
  tml_plan_destroy(other);
}

static void test_chunks(void **state)
{
  (void)state;
  rig_run_ranks(3, NULL, NULL, along_k_rank);
  rig_run_ranks(3, NULL, NULL, along_m_rank);
  rig_run_ranks(3, NULL, NULL, few_rank);
}

static void test_ce(void **state)
{
  (void)state;
  rig_run_ranks(3, NULL, NULL, ce_rank);
  rig_run_ranks(3, NULL, NULL, capture_rank);
  rig_run_ranks(3, NULL, NULL, pull_rank);
}

/* ---- One kernel ---- */

static void gemm_rank(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "gemm:bf16:nt:w1:8192x512x64", gemm.name);
  const int64_t sizes[] = {1, 257, 8192};
  const unsigned blocks[] = {2 * 2, 2 * 2 * 2, 64 * 2};
  for (int i = 0; i < 3; i++) {
    tml_args args = rig_args(rig, sizes[i], 0);
    FAKE_CHECK_OK(tml_launch(plan, &args, NULL));
    const fake_op *op = rig_op(rig, FAKE_LAUNCH, "gemm", i);
    FAKE_CHECK(op->launch.grid[0] == blocks[i] && is_programmatic(op));
  }
  tml_args none = {.size = sizeof none, .b = (void *)rig->buffer[1]};
  FAKE_CHECK_OK(tml_launch(plan, &none, NULL));
  FAKE_CHECK(rig_op(rig, FAKE_LAUNCH, "gemm", 3) == NULL);
  tml_counters counters = {.size = sizeof counters};
  FAKE_CHECK_OK(tml_ctx_counters(rig->ctx, &counters));
  FAKE_CHECK(counters.launches == 4);
  tml_plan_destroy(plan);
}

/* More tiles than the device holds clusters: a persistent grid. */
static void persistent_rank(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "gemm:bf16:nt:w1:8192x8192x64", gemm.name);
  tml_args args = rig_args(rig, 8192, 0);
  FAKE_CHECK_OK(tml_launch(plan, &args, NULL));
  FAKE_CHECK(rig_op(rig, FAKE_LAUNCH, "gemm", 0)->launch.grid[0] == 132);
  tml_plan_destroy(plan);
}

static int ops_of(const test_bed *rig)
{
  int count = 0;
  for (int i = 0; i < fake_op_count(); i++) count += fake_op_at(i)->device == rig->rank;
  return count;
}

/* Movers, then one block per tile, whole clusters; nothing but the kernel, and rows need not be
 * packed. */
static void check_movers(test_bed *rig, const char *name, const unsigned *blocks)
{
  const tml_variant variant = rig_variant(rig, name);
  tml_plan *plan = rig_plan(rig, "ag_gemm:bf16:nt:w3:9000x72x40", name);
  const int64_t sizes[] = {0, 1, 7, 1000, 9000};
  for (int i = 0; i < 5; i++) {
    tml_args args = rig_args(rig, sizes[i], 0);
    args.lda = 48;
    if (tml_rows_of(sizes[i], 3, rig->rank) == 0) args.a = NULL;
    int before = ops_of(rig);
    FAKE_CHECK_OK(tml_launch(plan, &args, NULL));
    const fake_op *op = rig_op(rig, FAKE_LAUNCH, variant.symbol, i);
    FAKE_CHECK(op->launch.grid[0] == blocks[i] && is_programmatic(op));
    FAKE_CHECK(ops_of(rig) == before + 1);
  }
  FAKE_CHECK(rig->comm->slot == 0);
  tml_plan_destroy(plan);
}

static void moving_rank(test_bed *rig)
{
  check_movers(rig, sm3.name, (const unsigned[]){8 + 1, 8 + 1, 8 + 3, 8 + 9, 8 + 72});
  check_movers(rig, sm3_pair.name, (const unsigned[]){16 + 2, 16 + 2, 16 + 6, 16 + 12, 16 + 72});
}

/* More tiles than the device holds clusters beside the movers. */
static void full_rank(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "ag_gemm:bf16:nt:w3:9000x2048x40", sm3_pair.name);
  tml_args args = rig_args(rig, 9000, 0);
  FAKE_CHECK_OK(tml_launch(plan, &args, NULL));
  FAKE_CHECK(rig_op(rig, FAKE_LAUNCH, "ag_gemm", 0)->launch.grid[0] == 132);
  tml_plan_destroy(plan);
}

static void check_sends(test_bed *rig, const char *op_name, const char *problem, const char *name)
{
  tml_plan *plan = rig_plan(rig, problem, name);
  const int64_t sizes[] = {0, 1, 1000};
  for (int i = 0; i < 3; i++) {
    tml_args args = rig_args(rig, sizes[i], 0);
    FAKE_CHECK_OK(tml_launch(plan, &args, NULL));
    const fake_op *op = rig_op(rig, FAKE_LAUNCH, op_name, i);
    FAKE_CHECK(op->launch.grid[0] == (i < 2 ? 1u : 8u) && is_cooperative(op));
  }
  FAKE_CHECK(rig->comm->slot == 0);
  tml_plan_destroy(plan);
}

static void ring_rank(test_bed *rig)
{
  check_sends(rig, "gemm_rs", "gemm_rs:bf16:nt:w2:1000x72x40", ring2.name);
}

static void sending_rank(test_bed *rig)
{
  check_sends(rig, "gemm_rs", "gemm_rs:bf16:nt:w2:1000x72x40", push2.name);
  check_sends(rig, "gemm_ar", "gemm_ar:bf16:nt:w2:1000x72x40", twoshot2.name);
}

/* A driver that refuses cooperative launches which overlap. */
static CUresult (*lenient)(const CUlaunchConfig *, CUfunction, void **, void **);
static atomic_int refused;

static CUresult strict(const CUlaunchConfig *config, CUfunction function, void **params,
                       void **extra)
{
  if (config->numAttrs == 2) {
    atomic_fetch_add(&refused, 1);
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  return lenient(config, function, params, extra);
}

static void be_strict(void)
{
  lenient = fake_table()->cuda.p_cuLaunchKernelEx;
  fake_table()->cuda.p_cuLaunchKernelEx = strict;
}

/* Every rank asks once, then launches without the overlap. */
static void strict_rank(test_bed *rig)
{
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, be_strict);
  tml_plan *plan = rig_plan(rig, "gemm_rs:bf16:nt:w2:1000x72x40", push2.name);
  for (int i = 0; i < 3; i++) {
    tml_args args = rig_args(rig, 1000, 0);
    FAKE_CHECK_OK(tml_launch(plan, &args, NULL));
    const fake_op *op = rig_op(rig, FAKE_LAUNCH, "gemm_rs", i);
    FAKE_CHECK(op->launch.cooperative && !op->launch.programmatic);
  }
  tml_plan_destroy(plan);
}

/* A launch that fails for another reason fails, and with that reason. */
static void failing_rank(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "gemm_rs:bf16:nt:w2:1000x72x40", push2.name);
  tml_args args = rig_args(rig, 1000, 0);
  fake_fail_function("cuLaunchKernelEx", CUDA_ERROR_INVALID_VALUE);
  FAKE_CHECK(tml_launch(plan, &args, NULL) == TML_DRIVER);
  FAKE_CHECK(strstr(tml_last_error(), "cuLaunchKernelEx") != NULL);
  fake_fail_function("cuLaunchKernelEx", CUDA_ERROR_INVALID_CONTEXT);
  FAKE_CHECK(rig_says(tml_launch(plan, &args, NULL), TML_DRIVER, "make the primary context"));
  FAKE_CHECK(atomic_load(&rig->ctx->overlap_refused) == 0);
  tml_plan_destroy(plan);
}

static void test_refused_overlap(void **state)
{
  (void)state;
  atomic_store(&refused, 0);
  rig_run_ranks(2, NULL, NULL, strict_rank);
  assert_int_equal(atomic_load(&refused), 2);
  rig_run_ranks(2, NULL, NULL, failing_rank);
  fake_fail_function(NULL, CUDA_SUCCESS);
}

static void test_kernel(void **state)
{
  (void)state;
  rig_run_ranks(1, NULL, NULL, gemm_rank);
  rig_run_ranks(1, NULL, NULL, persistent_rank);
  rig_run_ranks(3, NULL, NULL, moving_rank);
  rig_run_ranks(3, NULL, NULL, full_rank);
  rig_run_ranks(2, NULL, NULL, sending_rank);
  rig_run_ranks(2, NULL, NULL, ring_rank);
}

/* ---- No rows at all ---- */

static void empty_rank(test_bed *rig)
{
  static const char *const ops[] = {"ag_gemm", "gemm_rs", "gemm_ar"};
  CUstream stream = new_stream();
  for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
    char text[64];
    snprintf(text, sizeof text, "%s:bf16:nt:w2:0x64x64", ops[i]);
    tml_plan *plan = rig_plan(rig, text, rig_find(ops[i], 2, 128, 128, 1).name);
    if (!plan) continue;
    const tml_args args = rig_args(rig, 0, 0);
    FAKE_CHECK_OK(tml_launch(plan, &args, stream));
    tml_plan_destroy(plan);
  }
  close_stream(stream);
}

/* A plan whose largest m is 0 has no data to stage, and still exchanges headers. */
static void test_empty(void **state)
{
  (void)state;
  rig_run_ranks(2, NULL, NULL, empty_rank);
}

/* ---- Refusals ---- */

static void refuse_args(test_bed *rig, tml_plan *plan)
{
  const tml_args good = rig_args(rig, 100, 1);
  struct {
    tml_args args;
    const char *says;
  } rows[16];
  int count = 0;
#define REFUSED(change, text)  \
  do {                         \
    tml_args args = good;      \
    args.change;               \
    rows[count].args = args;   \
    rows[count++].says = text; \
  } while (0)
  REFUSED(size = 8, "args.size");
  REFUSED(m = 101, "0 .. 100");
  REFUSED(m = -1, "0 .. 100");
  REFUSED(a = NULL, "a is NULL");
  REFUSED(b = NULL, "b is NULL");
  REFUSED(c = NULL, "c is NULL");
  REFUSED(bias = NULL, "bias is NULL");
  REFUSED(a = (const char *)good.a + 8, "not aligned");
  REFUSED(bias = (const char *)good.bias + 2, "not aligned");
  REFUSED(lda = 32, "lda = 32 is less");
  REFUSED(ldb = 44, "ldb = 44 must be a multiple of 8");
  REFUSED(ldc = 64, "ldc = 64 is less");
#undef REFUSED
  for (int i = 0; i < count; i++)
    FAKE_CHECK(rig_says(tml_launch(plan, &rows[i].args, NULL), TML_ARGUMENT, rows[i].says));
  tml_args more = good;
  more.gathered = (void *)rig->buffer[3];
  FAKE_CHECK(rig_says(tml_launch(plan, &more, NULL), TML_ARGUMENT, "only ag_gemm gathers"));
  more.gathered = NULL;
  more.c_symmetric = 1;
  FAKE_CHECK(rig_says(tml_launch(plan, &more, NULL), TML_ARGUMENT, "only gemm_ar stores"));
  FAKE_CHECK(rig_says(tml_launch(NULL, &good, NULL), TML_ARGUMENT, "plan is NULL"));
  FAKE_CHECK(rig_says(tml_launch(plan, NULL, NULL), TML_ARGUMENT, "args is NULL"));
}

/* C that is not where c_symmetric says. */
static void refuse_symmetric(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "gemm_ar:bf16:nt:w2:100x72x40", twoshot2.name);
  tml_args args = rig_args(rig, 100, 0);
  void *block;
  args.c_symmetric = 1;
  FAKE_CHECK(rig_says(tml_launch(plan, &args, NULL), TML_ARGUMENT, "not memory of tml_alloc"));
  FAKE_CHECK_OK(tml_alloc(rig->comm, 100 * 72 * 2, &block));
  size_t bytes = rig->comm->blocks->bytes;
  args.c = (char *)block + bytes - 100 * 72 * 2;
  FAKE_CHECK_OK(tml_launch(plan, &args, NULL)); /* to the last byte */
  args.c = (char *)args.c + 16;
  FAKE_CHECK(rig_says(tml_launch(plan, &args, NULL), TML_ARGUMENT, "end behind"));
  args.m = 0;
  args.c = NULL;
  FAKE_CHECK_OK(tml_launch(plan, &args, NULL));
  tml_plan_destroy(plan);
}

/* A leading dimension whose product with the rows wraps to nothing. */
static void refuse_wrapping(test_bed *rig)
{
  tml_problem problem = rig_problem("gemm_ar:bf16:nt:w2:134217729x8x8");
  tml_plan *plan = NULL;
  void *block;
  FAKE_CHECK_OK(tml_plan_create_forced(&plan, rig->comm, &problem, twoshot2.name));
  FAKE_CHECK_OK(tml_alloc(rig->comm, 4096, &block));
  tml_args args = rig_args(rig, problem.m, 0);
  args.c = block;
  args.ldc = (int64_t)1 << 37;
  args.c_symmetric = 1;
  FAKE_CHECK(rig_says(tml_launch(plan, &args, NULL), TML_ARGUMENT, "end behind"));
  tml_plan_destroy(plan);
}

static void refuse_rank(test_bed *rig)
{
  tml_problem problem = rig_problem("gemm_rs:bf16:nt:w2:100x72x40:bias");
  tml_plan *plan = NULL;
  FAKE_CHECK_OK(tml_plan_create_forced(&plan, rig->comm, &problem, push2.name));
  tml_args args = rig_args(rig, 100, 1);
  FAKE_CHECK(rig_says(tml_launch(plan, &args, NULL), TML_ARGUMENT, "14400 staging"));
  tml_bytes bytes = {.size = sizeof bytes};
  FAKE_CHECK_OK(tml_plan_workspace(plan, &bytes));
  FAKE_CHECK_OK(tml_comm_reserve(rig->comm, &bytes));
  refuse_args(rig, plan);
  FAKE_CHECK(rig_op(rig, FAKE_LAUNCH, "gemm", 0) == NULL);
  FAKE_CHECK_OK(tml_launch(plan, &args, NULL));
  rig->comm->record->peer = 1;
  rig->comm->record->code = TML_FAULT_HEADER_TIMEOUT;
  FAKE_CHECK(rig_says(tml_launch(plan, &args, NULL), TML_FAULT, "rank"));
  rig->comm->record->code = 0;
  rig->comm->record->aborted = 2;
  FAKE_CHECK(rig_says(tml_launch(plan, &args, NULL), TML_FAULT, "abort"));
  rig->comm->record->aborted = 0;
  FAKE_CHECK(rig_op(rig, FAKE_LAUNCH, "gemm", 1) == NULL);
  tml_comm_destroy(rig->comm);
  rig->comm = NULL;
  FAKE_CHECK(rig_says(tml_launch(plan, &args, NULL), TML_ARGUMENT, "comm was destroyed"));
  FAKE_CHECK(tml_plan_variant(plan, 1) != NULL);
  tml_plan_destroy(plan);
}

static void test_refusals(void **state)
{
  (void)state;
  rig_run_ranks(2, NULL, NULL, refuse_rank);
  rig_run_ranks(2, NULL, NULL, refuse_symmetric);
  rig_run_ranks(2, NULL, NULL, refuse_wrapping);
}

/* A failure in the middle still joins the copy stream. */
static void broken_rank(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "ag_gemm:bf16:nt:w2:100x72x40", ce2.name);
  CUstream stream = new_stream();
  tml_args args = rig_args(rig, 100, 0);
  for (int i = 0; i < 2; i++)
    FAKE_CHECK_OK(tml_launch(plan, &args, stream)); /* both slots encoded */
  fake_fail_thread_call(5, CUDA_ERROR_UNKNOWN);     /* gate, record, wait, shard, signal */
  FAKE_CHECK(rig_says(tml_launch(plan, &args, stream), TML_DRIVER, "cuMemcpyDtoDAsync"));
  FAKE_CHECK(rig_op(rig, FAKE_LAUNCH, "ag_gemm", 1) != NULL &&
             rig_op(rig, FAKE_LAUNCH, "ag_gemm", 2) == NULL);
  const fake_op *op[6]; /* gate, record, wait, shard; join and its wait */
  FAKE_CHECK(rig_after_gate(rig, 2, op, 6) == 6 && op[3]->kind == FAKE_COPY);
  FAKE_CHECK(op[4]->kind == FAKE_RECORD && op[4]->stream == op[3]->stream);
  FAKE_CHECK(op[5]->kind == FAKE_WAIT && op[5]->stream == op[0]->stream);
  close_stream(stream);
  tml_plan_destroy(plan);
}

static void test_broken(void **state)
{
  (void)state;
  rig_run_ranks(2, NULL, NULL, broken_rank);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ce),
      cmocka_unit_test(test_kernel),
      cmocka_unit_test(test_refused_overlap),

      cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_broken),
      cmocka_unit_test(test_empty),
      cmocka_unit_test(test_chunks),
  };
  return cmocka_run_group_tests(tests, find_variants, NULL);
}
