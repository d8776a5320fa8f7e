#include "bed.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "geometry.h"
#include "host.h"
#include "status.h"

/* One output, and what it was made of. */
typedef struct item {
  const bed_step *step;
  int call;
  uint16_t *c[TML_MAX_WORLD], *gathered[TML_MAX_WORLD]; /* as the ranks found them at the end */
} item;

typedef struct bed {
  const bed_case *c;
  bed_result *out;
  const tml_api *api;
  int items;
  item item[BED_CALLS * BED_STEPS];
} bed;

/* ---- A rank ------------------------------------------------------------------------------------- */

typedef struct rank {
  bed *bed;
  int rank;
  tml_ctx *ctx;
  ncclComm_t nccl;
  tml_comm *comm;
  CUcontext context;
  CUstream stream;
  tml_plan *plan[BED_STEPS];
  CUdeviceptr a[BED_CALLS * BED_STEPS], b[BED_CALLS * BED_STEPS], bias[BED_CALLS * BED_STEPS],
      out[BED_CALLS * BED_STEPS], gathered[BED_CALLS * BED_STEPS], shared[BED_CALLS * BED_STEPS];
} rank;

static int64_t a_rows(const tml_problem *p, int r)
{
  return p->op == TML_AG_GEMM ? tml_rows_of(p->m, p->world, r) : p->m;
}

static int64_t c_rows(const tml_problem *p, int r)
{
  return p->op == TML_GEMM_RS ? tml_rows_of(p->m, p->world, r) : p->m;
}

static uint64_t seed_of(const item *it, int what, int r)
{
  return (uint64_t)(it->call * 64 + what * 8 + r + 1);
}

/* Elements of a made input, at the device. One more line than needed: an empty shard has an address too. */
static tml_status upload(rank *k, CUdeviceptr *to, tml_dtype dtype, uint64_t seed, int64_t count)
{
  uint16_t *host = host_make(dtype, seed, count);
  if (!host) return TML_MEMORY;
  tml_status status = CU(k->bed->api, cuMemAlloc, (to, (size_t)count * 2 + 16));
  if (status == TML_OK && count)
    status = CU(k->bed->api, cuMemcpyHtoD, (*to, host, (size_t)count * 2));
  free(host);
  return status;
}

/* Poisoned, with a guard behind it. */
static tml_status take_output(rank *k, CUdeviceptr *to, size_t bytes)
{
  TRY(CU(k->bed->api, cuMemAlloc, (to, bytes + 16)));
  return CU(k->bed->api, cuMemsetD8, (*to, 0xff, bytes + 16));
}

static int gathers(const bed *b, const item *it)
{
  return b->c->gathered && it->step->problem.op == TML_AG_GEMM;
}

static size_t gathered_bytes(const tml_problem *p) { return (size_t)(p->m * p->k) * 2; }

/* C at an offset in memory of the comm, which takes it back when it is destroyed. */
static tml_status take_symmetric(rank *k, CUdeviceptr *to, size_t bytes)
{
  void *at;
  TRY(tml_alloc(k->comm, bytes + 64, &at));
  *to = (CUdeviceptr)(uintptr_t)at + 48;
  return CU(k->bed->api, cuMemsetD8, (*to, 0xff, bytes + 16));
}

static int symmetric(const bed *b, const item *it)
{
  return b->c->symmetric && it->step->problem.op == TML_GEMM_AR;
}

/* A of ag_gemm is copied to where its peers can read it, and spoilt behind the call. */
static int pulls(const bed *b, const item *it)
{
  return b->c->symmetric && it->step->problem.op == TML_AG_GEMM;
}

static size_t shard_bytes(const tml_problem *p)
{
  return (size_t)((p->m + p->world - 1) / p->world * p->k) * 2;
}

static tml_status share_a(const rank *k, int i, tml_args *args)
{
  const tml_problem *p = &k->bed->item[i].step->problem;
  size_t bytes = (size_t)(a_rows(p, k->rank) * p->k) * 2;
  args->a = (const void *)(uintptr_t)k->shared[i];
  args->a_symmetric = 1;
  if (bytes == 0) return TML_OK;
  return CU(k->bed->api, cuMemcpyDtoDAsync, (k->shared[i], k->a[i], bytes, k->stream));
}

static tml_status spoil_a(const rank *k, int i)
{
  size_t bytes = shard_bytes(&k->bed->item[i].step->problem);
  if (bytes == 0) return TML_OK;
  return CU(k->bed->api, cuMemsetD8Async, (k->shared[i], 0xff, bytes, k->stream));
}

static tml_status make_item(rank *k, int i)
{
  const item *it = &k->bed->item[i];
  const tml_problem *p = &it->step->problem;
  int bias_rank = p->op == TML_GEMM_RS || p->op == TML_GEMM_AR ? 0 : k->rank;
  size_t bytes = (size_t)(c_rows(p, k->rank) * p->n) * 2;
  TRY(upload(k, &k->a[i], p->dtype, seed_of(it, 0, k->rank), a_rows(p, k->rank) * p->k));
  TRY(upload(k, &k->b[i], p->dtype, seed_of(it, 1, k->rank), p->n * p->k));
  if (p->bias) TRY(upload(k, &k->bias[i], p->dtype, seed_of(it, 2, bias_rank), p->n));
  if (gathers(k->bed, it)) TRY(take_output(k, &k->gathered[i], gathered_bytes(p)));
  if (pulls(k->bed, it)) TRY(take_symmetric(k, &k->shared[i], shard_bytes(p)));
  return symmetric(k->bed, it) ? take_symmetric(k, &k->out[i], bytes)
                               : take_output(k, &k->out[i], bytes);
}

static tml_status open_rank(rank *k)
{
  const bed_case *c = k->bed->c;
  tml_config config = {.size = sizeof config, .device = k->rank};
  config.timeout_us = c->timeout_us > 0 ? c->timeout_us : 2e6;
  TRY(tml_ctx_create_over(&k->ctx, &config, k->bed->api));
  TRY(tml_ctx_enter(k->ctx, &k->context));
  TRY(CU(k->bed->api, cuStreamCreateWithPriority, (&k->stream, CU_STREAM_NON_BLOCKING, 0)));
  if (c->world > 1) {
    k->nccl = tml_emu_world(c->world, k->rank);
    if (!k->nccl) return tml_fail(TML_DRIVER, "the ranks did not meet");
  }
  return tml_comm_create(&k->comm, k->ctx, k->nccl);
}

static tml_status first_fused(rank *k, const tml_problem *p, char *name)
{
  tml_ranked ranked[TML_RANKED_MAX];
  size_t count = 0;
  TRY(tml_gen_rank(k->ctx->gen, k->ctx->arch, p, &k->ctx->machine, ranked, TML_RANKED_MAX, &count));
  for (size_t i = 0; i < count && i < TML_RANKED_MAX; i++) {
    tml_variant v;
    TRY(tml_gen_variant(k->ctx->gen, ranked[i].name, &v));
    if (v.kind != TML_KIND_FUSED) continue;
    strcpy(name, v.name);
    return TML_OK;
  }
  return tml_fail(TML_UNSUPPORTED, "no fused variant");
}

/* The first of the space that matches. */
static int take_name(void *user, const tml_variant *variant, const char *reason)
{
  (void)reason;
  if (variant->kind == TML_KIND_AUX) return 0;
  strcpy(user, variant->name);
  return 1;
}

static tml_status first_match(rank *k, const tml_problem *p, const char *glob, char *name)
{
  static const char *const ops[] = {"gemm", "ag_gemm", "gemm_rs", "gemm_ar"};
  tml_filter filter = {.op = ops[p->op],
                       .arch = k->ctx->arch,
                       .dtype = p->dtype == TML_BF16 ? "bf16" : "fp16",
                       .glob = glob,
                       .world = p->world};
  *name = 0;
  TRY(tml_gen_each(k->ctx->gen, &filter, take_name, name));
  return *name ? TML_OK : tml_fail(TML_UNSUPPORTED, "no variant matches %s", glob);
}

static tml_status make_plans(rank *k)
{
  for (int s = 0; s < k->bed->c->count; s++) {
    const bed_step *step = &k->bed->c->step[s];
    tml_problem p = step->problem;
    tml_bytes bytes = {.size = sizeof bytes};
    char name[TML_NAME_BYTES];
    strcpy(name, step->variant);
    if (p.m == 0) p.m = 64;
    if (!*name) TRY(first_fused(k, &p, name));
    if (strchr(name, '*')) TRY(first_match(k, &p, step->variant, name));
    TRY(tml_plan_create_forced(&k->plan[s], k->comm, &p, name));
    TRY(tml_plan_workspace(k->plan[s], &bytes));
    TRY(tml_comm_reserve(k->comm, &bytes));
  }
  return TML_OK;
}

static tml_status launch_all(rank *k)
{
  for (int i = 0; i < k->bed->items; i++) {
    const item *it = &k->bed->item[i];
    tml_args args = {.size = sizeof args, .m = it->step->problem.m};
    args.a = (const void *)(uintptr_t)k->a[i];
    args.b = (const void *)(uintptr_t)k->b[i];
    args.bias = (const void *)(uintptr_t)k->bias[i];
    args.c = (void *)(uintptr_t)k->out[i];
    args.gathered = (void *)(uintptr_t)k->gathered[i];
    args.c_symmetric = symmetric(k->bed, it);
    if (pulls(k->bed, it)) TRY(share_a(k, i, &args));
    TRY(tml_launch(k->plan[it->step - k->bed->c->step], &args, k->stream));
    if (pulls(k->bed, it)) TRY(spoil_a(k, i));
  }
  return TML_OK;
}

static tml_status replay_all(rank *k)
{
  const tml_api *api = k->bed->api;
  CUgraph graph = NULL;
  CUgraphExec exec = NULL;
  TRY(CU(api, cuStreamBeginCapture, (k->stream, CU_STREAM_CAPTURE_MODE_RELAXED)));
  tml_status status = launch_all(k), ended = CU(api, cuStreamEndCapture, (k->stream, &graph));
  if (status == TML_OK) status = ended;
  if (status == TML_OK) status = CU(api, cuGraphInstantiate, (&exec, graph, 0));
  for (int i = 0; i < k->bed->c->replays && status == TML_OK; i++)
    status = CU(api, cuGraphLaunch, (exec, k->stream));
  if (status == TML_OK) status = tml_stream_wait(k->ctx, k->stream, "the replays");
  if (exec) api->cuda.p_cuGraphExecDestroy(exec);
  if (graph) api->cuda.p_cuGraphDestroy(graph);
  return status;
}

static tml_status download(rank *k, uint16_t **to, CUdeviceptr from, size_t bytes)
{
  *to = malloc(bytes + 16);
  if (!*to) return TML_MEMORY;
  return CU(k->bed->api, cuMemcpyDtoH, (*to, from, bytes));
}

static tml_status read_back(rank *k)
{
  for (int i = 0; i < k->bed->items; i++) {
    item *it = &k->bed->item[i];
    const tml_problem *p = &it->step->problem;
    TRY(download(k, &it->c[k->rank], k->out[i], (size_t)(c_rows(p, k->rank) * p->n) * 2));
    if (gathers(k->bed, it)) /* with the guard behind it */
      TRY(download(k, &it->gathered[k->rank], k->gathered[i], gathered_bytes(p) + 16));
  }
  return TML_OK;
}

static tml_status run_rank(rank *k)
{
  TRY(open_rank(k));
  TRY(make_plans(k));
  for (int i = 0; i < k->bed->items; i++) TRY(make_item(k, i));
  if (k->bed->c->replays) {
    TRY(replay_all(k));
  } else {
    TRY(launch_all(k));
    TRY(tml_stream_wait(k->ctx, k->stream, "the calls"));
  }
  TRY(tml_poll(k->comm, &k->bed->out->fault[k->rank]));
  return read_back(k);
}

static void close_rank(rank *k)
{
  const tml_cuda *cuda = &k->bed->api->cuda;
  for (int s = 0; s < BED_STEPS; s++) tml_plan_destroy(k->plan[s]);
  for (int i = 0; i < BED_CALLS * BED_STEPS; i++) {
    CUdeviceptr all[] = {k->a[i], k->b[i], k->bias[i], k->out[i], k->gathered[i]};
    if (i < k->bed->items && symmetric(k->bed, &k->bed->item[i])) all[3] = 0;
    for (int j = 0; j < 5; j++)
      if (all[j]) cuda->p_cuMemFree(all[j]);
  }
  if (k->stream) cuda->p_cuStreamDestroy(k->stream);
  tml_comm_destroy(k->comm);
  if (k->nccl) k->bed->api->nccl.CommDestroy(k->nccl);
  if (k->ctx) tml_ctx_leave(k->ctx, k->context);
  tml_ctx_destroy(k->ctx);
}

static int rank_main(void *user, int number)
{
  rank k = {.bed = user, .rank = number};
  bed_result *out = k.bed->out;
  out->fault[number].size = sizeof out->fault[number];
  out->status[number] = run_rank(&k);
  if (out->status[number] != TML_OK)
    snprintf(out->text[number], BED_TEXT, "%.*s", BED_TEXT - 1, tml_last_error());
  close_rank(&k);
  return out->status[number] != TML_OK;
}

/* ---- The judge ---------------------------------------------------------------------------------- */

/* sum (fp32 in double steps) of this rank's rows; the caller frees. */
static double *reference(const item *it, int r)
{
  const tml_problem *p = &it->step->problem;
  int world = p->op == TML_GEMM ? 1 : p->world;
  int64_t shard = tml_shard_rows(p->m, world), rows = c_rows(p, r);
  double *sum = calloc((size_t)(rows * p->n) + 1, sizeof *sum);
  for (int s = 0; sum && s < world; s++) {
    int gathers = p->op == TML_AG_GEMM, reduces = p->op == TML_GEMM_RS || p->op == TML_GEMM_AR;
    int64_t first = p->op == TML_GEMM_RS ? r * shard : 0, at = gathers ? s * shard : 0;
    int64_t count = gathers ? tml_rows_of(p->m, world, s) : rows;
    int from = gathers || reduces ? s : r;
    uint16_t *a = host_make(p->dtype, seed_of(it, 0, from), a_rows(p, from) * p->k);
    uint16_t *b = host_make(p->dtype, seed_of(it, 1, reduces ? s : r), p->n * p->k);
    if (a && b && count > 0) host_multiply(p, a + first * p->k, count, b, sum + at * p->n);
    free(a);
    free(b);
  }
  if (sum && p->bias) {
    int bias_rank = p->op == TML_GEMM_RS || p->op == TML_GEMM_AR ? 0 : r;
    uint16_t *bias = host_make(p->dtype, seed_of(it, 2, bias_rank), p->n);
    for (int64_t i = 0; bias && i < rows * p->n; i++)
      sum[i] += host_float(p->dtype, bias[i % p->n]);
    free(bias);
  }
  return sum;
}

static void judge_item(const item *it, int r, bed_result *out)
{
  const tml_problem *p = &it->step->problem;
  int64_t count = c_rows(p, r) * p->n;
  double *want = reference(it, r), wrong = 0, right = 0;
  for (int64_t i = 0; want && i < count; i++) {
    uint16_t bits = it->c[r][i];
    double e = host_float(p->dtype, bits) - want[i];
    out->hash = (out->hash ^ bits) * 0x100000001b3ull;
    out->unwritten += bits == 0xffff;
    /* a partial that is counted twice or not at all, or a row of elsewhere */
    out->wrong += !(fabs(e) <= 0.05 + 0.05 * fabs(want[i]));
    wrong += e * e;
    right += want[i] * want[i];
  }
  double relative = right > 0 ? sqrt(wrong / right) : 0;
  if (!want || isnan(relative)) relative = HUGE_VAL;
  if (relative > out->relative) out->relative = relative;
  free(want);
}

/* The gathered A: bit by bit the ranks' inputs, and the guard. */
static void judge_gathered(const item *it, int r, bed_result *out)
{
  const tml_problem *p = &it->step->problem;
  const uint16_t *got = it->gathered[r];
  for (int s = 0; s < p->world; s++) {
    int64_t count = a_rows(p, s) * p->k;
    uint16_t *want = host_make(p->dtype, seed_of(it, 0, s), count);
    for (int64_t i = 0; want && i < count; i++) out->ungathered += got[i] != want[i];
    free(want);
    got += count;
  }
  for (int i = 0; i < 8; i++) out->ungathered += got[i] != 0xffff;
}

static void judge(bed *b)
{
  for (int i = 0; i < b->items; i++)
    for (int r = 0; r < b->c->world; r++) {
      if (b->item[i].c[r]) judge_item(&b->item[i], r, b->out);
      if (b->item[i].gathered[r]) judge_gathered(&b->item[i], r, b->out);
    }
}

static void collect_reports(bed_result *out)
{
  const emu_machine *m = tml_emu_machine();
  out->reports = emu_report_count(m);
  for (size_t i = 0; i < out->reports; i++) out->hazards |= 1u << emu_report_at(m, i)->kind;
  if (out->reports) snprintf(out->report, BED_TEXT, "%s", emu_report_at(m, 0)->text);
  out->counts = emu_count(m);
  out->now_ns = emu_now_ns(m);
  snprintf(out->stuck, BED_TEXT, "%.*s", BED_TEXT - 1, tml_emu_stuck());
  snprintf(out->refused, BED_TEXT, "%.*s", BED_TEXT - 1, tml_emu_refused());
}

void bed_run(const bed_case *c, bed_result *out)
{
  bed b = {.c = c, .out = out};
  tml_emu_config machine = c->machine;
  memset(out, 0, sizeof *out);
  machine.devices = c->world;
  if (tml_emu_open(&machine) != TML_OK) {
    out->status[0] = TML_MEMORY;
    snprintf(out->text[0], BED_TEXT, "%.*s", BED_TEXT - 1, tml_last_error());
    return;
  }
  tml_emu_mistake_set(c->mistake);
  tml_emu_edit(c->edit, c->edit_user);
  if (c->spoil) c->spoil(c->spoil_user);
  b.api = tml_emu_api();
  for (int call = 0; call < c->calls; call++)
    for (int s = 0; s < c->count; s++)
      b.item[b.items++] = (item){.step = &c->step[s], .call = call};
  tml_emu_run_ranks(c->world, rank_main, &b);
  tml_emu_edit(NULL, NULL);
  collect_reports(out);
  if (!c->keep_open) out->alive = tml_emu_alive(stderr);
  judge(&b);
  for (int i = 0; i < b.items; i++)
    for (int r = 0; r < c->world; r++) {
      free(b.item[i].c[r]);
      free(b.item[i].gathered[r]);
    }
}

static double limit(const bed_case *c)
{
  double most = 0;
  for (int s = 0; s < c->count; s++)
    most = fmax(most, c->step[s].problem.dtype == TML_BF16 ? 4e-3 : 6e-4);
  return most;
}

int bed_good(const bed_case *c, const bed_result *r, char *why, size_t bytes)
{
  *why = 0;
  for (int i = 0; i < c->world && !*why; i++)
    if (r->status[i] != TML_OK)
      snprintf(why, bytes, "rank %d: %s: %s %s", i, tml_status_text(r->status[i]), r->text[i],
               r->report);
  if (!*why && r->reports) snprintf(why, bytes, "%zu reports: %s", r->reports, r->report);
  if (!*why && r->unwritten) snprintf(why, bytes, "%ld elements never written", r->unwritten);
  if (!*why && !(r->relative < limit(c)))
    snprintf(why, bytes, "relative error %.2e, %ld wrong", r->relative, r->wrong);
  if (!*why && r->ungathered)
    snprintf(why, bytes, "%ld elements of the gathered A are wrong", r->ungathered);
  if (!*why && r->alive) snprintf(why, bytes, "%d objects are still alive", r->alive);
  return !*why;
}

void bed_add(bed_case *c, const char *problem, const char *variant)
{
  bed_step *step = &c->step[c->count++];
  step->problem.size = sizeof step->problem;
  if (tml_problem_parse(&step->problem, problem) != TML_OK) {
    fprintf(stderr, "%s\n", tml_last_error());
    exit(1);
  }
  snprintf(step->variant, sizeof step->variant, "%s", variant ? variant : "");
  if (step->problem.world > c->world) c->world = step->problem.world;
}

bed_case bed_of(const char *problem, const char *variant, int calls, uint64_t seed)
{
  bed_case c = {.world = 1, .calls = calls, .machine = {.seed = seed}};
  bed_add(&c, problem, variant);
  return c;
}
