#include "rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../runtime/config.h"
#include "../runtime/problem.h"
#include "../runtime/status.h"
#include "data.h"
#include "device.h"
#include "progress.h"

/* As the library takes it: from the environment, else the default. */
static tml_status take_timeout(double *seconds)
{
  tml_config config;
  tml_status status = config_fill(&config, NULL);
  *seconds = config.timeout_us * 1e-6;
  config_free(&config);
  return status;
}

int rig_check_options(const char *command, rig_options *options)
{
  if (options->world > TML_MAX_WORLD)
    return cli_usage(command, "--world %d: worlds run from 1 to %d", options->world, TML_MAX_WORLD);
  if (options->timeout_s == 0 && take_timeout(&options->timeout_s) != TML_OK)
    return cli_usage(command, "%s", tml_last_error());
  if (!(options->timeout_s >= 0.1 && options->timeout_s <= 600))
    return cli_usage(command, "--timeout %g: choose 0.1 to 600 seconds", options->timeout_s);
  options->bank = cli_or_env(options->bank, "TIDEMILL_BANK");
  options->source = cli_or_env(options->source, "TIDEMILL_SOURCE");
  return device_choose(command, options->device, options->world, options->seed);
}

static void log_line(void *user, tml_log_level level, const char *line)
{
  const rig *r = user;
  if (level == TML_LOG_ERROR || (level == TML_LOG_WARN && r->rank == 0)) cli_note("%s", line);
}

static tml_status open_context(rig *r, const rig_options *options)
{
  tml_config config = {.size = sizeof config, .device = r->device, .bank = options->bank};
  config.source_dir = options->source;
  config.force = options->force;
  config.no_jit = options->no_jit;
  config.bank_writable = options->bank_writable && r->rank == 0;
  config.timeout_us = options->timeout_s * 1e6;
  config.log = log_line;
  config.log_user = r;
  return tml_ctx_create_over(&r->ctx, &config, r->api);
}

static tml_status open_device(rig *r)
{
  TRY(tml_gen_open(&r->gen, r->ctx->config.source_dir, r->api->isa));
  TRY(CU(r->api, cuDevicePrimaryCtxRetain, (&r->primary, r->device)));
  TRY(tml_ctx_enter(r->ctx, &r->previous));
  TRY(CU(r->api, cuStreamCreateWithPriority, (&r->stream, CU_STREAM_NON_BLOCKING, 0)));
  TRY(CU(r->api, cuEventCreate, (&r->start, CU_EVENT_DEFAULT)));
  TRY(CU(r->api, cuEventCreate, (&r->stop, CU_EVENT_DEFAULT)));
  return CU(r->api, cuMemAlloc, (&r->scratch, RIG_SCRATCH));
}

static tml_status join_nccl(rig *r, const unsigned char *blob)
{
  tml_nccl_config config = {
      .size = sizeof config, .magic = TML_NCCL_CONFIG_MAGIC, .version = 21900};
  tml_nccl_id id;
  /* All ranks are known to be here, and NCCL's own start takes seconds: not below half a minute. */
  double limit = fmax(r->timeout_s, 30), deadline = seconds_now() + limit;
  int state = TML_NCCL_IN_PROGRESS;
  config.cga_cluster_size = config.min_ctas = config.max_ctas = TML_NCCL_CONFIG_UNDEF;
  config.split_share = TML_NCCL_CONFIG_UNDEF;
  memcpy(&id, blob, sizeof id);
  TRY(NC(r->api, CommInitRankConfig, (&r->nccl, r->world, id, r->rank, &config)));
  while (state == TML_NCCL_IN_PROGRESS) {
    TRY(NC(r->api, CommGetAsyncError, (r->nccl, &state)));
    if (seconds_now() > deadline) {
      r->api->nccl.CommAbort(r->nccl);
      r->nccl = NULL;
      return tml_fail(TML_TIMEOUT,
                      "NCCL was not ready within %.1f s though all ranks are present; "
                      "raise --timeout, or set NCCL_DEBUG=INFO to see what it waits for",
                      limit);
    }
    usleep(200);
  }
  return NC(r->api, CommGetAsyncError, (r->nccl, &state)) == TML_OK
             ? tml_nccl_check(r->api, state, "ncclCommInitRankConfig")
             : TML_DRIVER;
}

/* A bank may have been built for one type: what neither it nor the compiler gives stays NULL. */
static tml_status load_kernel(rig *r, const char *kernel, tml_dtype dtype, tml_kernel **out)
{
  tml_variant v;
  TRY(tml_gen_aux(r->gen, kernel, r->ctx->arch, dtype, 1, &v));
  tml_status status = tml_ctx_kernel(r->ctx, v.name, TML_FROM_BANK | TML_FROM_JIT, out);
  if (status != TML_MISS) return status;
  *out = NULL;
  tml_clear_error();
  return TML_OK;
}

static tml_status load_kernels(rig *r)
{
  for (int dtype = TML_BF16; dtype <= TML_FP16; dtype++) {
    TRY(load_kernel(r, "fill", (tml_dtype)dtype, &r->fill[dtype]));
    TRY(load_kernel(r, "reference", (tml_dtype)dtype, &r->reference[dtype]));
  }
  return TML_OK;
}

tml_status rig_need(const tml_kernel *kernel, tml_dtype dtype)
{
  const char *text = tml_dtype_text(dtype);
  if (kernel) return TML_OK;
  return tml_fail(
      TML_MISS,
      "the bank has no kernels that make %s inputs and references, and here they cannot "
      "be compiled: build it with --dtype %s",
      text, text);
}

tml_status rig_first_fused(rig *r, const tml_problem *problem, char out[TML_NAME_BYTES])
{
  tml_ranked *ranked = malloc(TML_RANKED_MAX * sizeof *ranked);
  size_t count = 0;
  char text[PROBLEM_TEXT_BYTES];
  if (!ranked) return tml_fail(TML_MEMORY, "out of memory");
  tml_status status =
      tml_gen_rank(r->gen, r->ctx->arch, problem, &r->ctx->machine, ranked, TML_RANKED_MAX, &count);
  *out = 0;
  for (size_t i = 0; status == TML_OK && i < count && i < TML_RANKED_MAX; i++) {
    tml_variant v;
    if (tml_gen_variant(r->gen, ranked[i].name, &v) != TML_OK || v.kind != TML_KIND_FUSED) continue;
    int loadable = tml_ctx_loadable(r->ctx, v.name);
    if (loadable || !*out) memcpy(out, v.name, TML_NAME_BYTES);
    if (loadable) break;
  }
  free(ranked);
  if (status != TML_OK) return status;
  tml_clear_error(); /* of what could not be loaded */
  if (*out) return TML_OK;
  return tml_fail(TML_UNSUPPORTED, "no generated kernel serves %s on %s",
                  tml_problem_print(problem, text, sizeof text), r->ctx->arch);
}

tml_status rig_reserve(rig *r, const tml_plan *plan)
{
  tml_bytes bytes = {.size = sizeof bytes};
  TRY(tml_plan_workspace(plan, &bytes));
  return tml_comm_reserve(r->comm, &bytes);
}

tml_pattern rig_pattern(rig *r, const char *variant)
{
  tml_variant v;
  return tml_gen_variant(r->gen, variant, &v) == TML_OK ? v.pattern : TML_PATTERN_NONE;
}

/* Memory of tml_alloc goes with the comm alone, so one block serves all. */
tml_status rig_symmetric(rig *r, size_t bytes, CUdeviceptr *out)
{
  void *at = NULL;
  if (bytes > r->symmetric_bytes) {
    TRY(tml_alloc(r->comm, bytes, &at));
    r->symmetric = (CUdeviceptr)(uintptr_t)at;
    r->symmetric_bytes = bytes;
  }
  *out = r->symmetric;
  return TML_OK;
}

/* Everything that a comm takes with it. */
static void close_comm(rig *r)
{
  tml_plan_destroy(r->barrier);
  r->barrier = NULL;
  tml_comm_destroy(r->comm);
  r->comm = NULL;
  r->symmetric = 0;
  r->symmetric_bytes = 0;
}

/* The smallest fused plan there is: its launches with m = 0 exchange headers and nothing else. */
static tml_status make_barrier(rig *r)
{
  char name[TML_NAME_BYTES];
  tml_problem p = {
      .size = sizeof p, .op = TML_GEMM_RS, .world = r->world, .m = 256, .n = 256, .k = 256};
  if (r->world == 1) return TML_OK;
  TRY(rig_first_fused(r, &p, name));
  TRY(tml_plan_create_forced(&r->barrier, r->comm, &p, name));
  return rig_reserve(r, r->barrier);
}

tml_status rig_barrier(rig *r)
{
  if (!r->barrier) return TML_OK;
  const void *any = (const void *)(uintptr_t)r->scratch;
  tml_args args = {.size = sizeof args, .a = any, .b = any, .c = (void *)(uintptr_t)r->scratch};
  return tml_launch(r->barrier, &args, r->stream);
}

tml_status rig_pause(rig *r)
{
  tml_values values;
  TRY(rig_need(r->fill[TML_BF16], TML_BF16));
  memset(&values, 0, sizeof values);
  values.dst = r->scratch;
  values.count = r->delay_count;
  return tml_launch_aux(r->ctx, r->fill[TML_BF16], &values, 1, r->stream);
}

tml_status rig_delay(rig *r)
{
  if (device_emulated()) return TML_OK; /* its devices stand still while the host enqueues */
  return rig_pause(r);
}

/* One block fills elements at a steady pace: scale a timed sample to 0.2 ms. */
static tml_status calibrate_delay(rig *r)
{
  float ms = 0;
  r->delay_count = device_emulated() ? 1 << 14 : 1 << 16;
  if (device_emulated()) return TML_OK;
  for (int i = 0; i < 3; i++) {
    TRY(CU(r->api, cuEventRecord, (r->start, r->stream)));
    TRY(rig_delay(r));
    TRY(CU(r->api, cuEventRecord, (r->stop, r->stream)));
    TRY(rig_wait(r, 10));
    TRY(CU(r->api, cuEventElapsedTime, (&ms, r->start, r->stop)));
  }
  double scale = ms > 1e-3f ? 0.2 / ms : 1;
  double count = (double)r->delay_count * scale;
  r->delay_count = (uint64_t)fmin(fmax(count, 1024), RIG_SCRATCH / 2);
  return TML_OK;
}

static tml_status open_comm(rig *r)
{
  TRY(tml_comm_create(&r->comm, r->ctx, r->nccl));
  /* Loading may compile: a vote, so that nobody waits for a rank that failed. */
  TRY(tml_group_vote(r->comm->group, load_kernels(r), "loading the kernels that make inputs"));
  return make_barrier(r);
}

tml_status rig_reload(rig *r, const rig_options *options)
{
  close_comm(r);
  tml_ctx_destroy(r->ctx);
  r->ctx = NULL;
  TRY(open_context(r, options));
  return open_comm(r);
}

tml_status rig_open(rig *r, const ranks_env *env, const rig_options *options)
{
  unsigned char blob[RDV_BLOB_BYTES] = {0};
  memset(r, 0, sizeof *r);
  r->api = device_api();
  r->rank = env->meet.rank;
  r->world = env->meet.world;
  r->timeout_s = options->timeout_s;
  if (r->world > 1 && !r->api->has_nccl)
    return tml_fail(TML_DRIVER, "a world of %d needs NCCL: %s", r->world, r->api->why_nccl);
  if (r->world > 1 && r->rank == 0) TRY(NC(r->api, GetUniqueId, ((tml_nccl_id *)(void *)blob)));
  TRY(rdv_meet(&env->meet, blob));
  r->device = env->device;
  TRY(open_context(r, options));
  TRY(open_device(r));
  if (r->world > 1) TRY(join_nccl(r, blob));
  TRY(open_comm(r));
  return tml_group_vote(r->comm->group, calibrate_delay(r), "timing the delay kernel");
}

tml_status rig_rebuild(rig *r)
{
  close_comm(r);
  TRY(tml_comm_create(&r->comm, r->ctx, r->nccl));
  return make_barrier(r);
}

void rig_close(rig *r, int healthy)
{
  if (!healthy) return; /* the process ends; waiting for a peer that is gone helps nobody */
  tml_plan_destroy(r->barrier);
  tml_comm_destroy(r->comm);
  if (r->ctx && r->stream) {
    if (r->host.at) r->api->cuda.p_cuMemFreeHost(r->host.at);
    if (r->scratch) r->api->cuda.p_cuMemFree(r->scratch);
    if (r->start) r->api->cuda.p_cuEventDestroy(r->start);
    if (r->stop) r->api->cuda.p_cuEventDestroy(r->stop);
    r->api->cuda.p_cuStreamDestroy(r->stream);
  }
  if (r->nccl) r->api->nccl.CommDestroy(r->nccl);
  tml_gen_close(r->gen);
  tml_ctx_destroy(r->ctx);
  if (r->primary) r->api->cuda.p_cuDevicePrimaryCtxRelease(r->device);
  memset(r, 0, sizeof *r);
}

int rig_fail(const ranks_env *env, tml_status status, const char *command)
{
  char head[64];
  if (env->meet.world == 1) return cli_fail_status((int)status, command);
  snprintf(head, sizeof head, "%s, rank %d", command, env->meet.rank);
  return cli_fail_status((int)status, head);
}

tml_status rig_poll(rig *r)
{
  tml_fault f = {.size = sizeof f};
  if (tml_poll(r->comm, &f) == TML_OK) return TML_OK;
  if (f.code == TML_FAULT_MISMATCH)
    return tml_fail(TML_FAULT,
                    "rank %d found that rank %d differs: %s (fingerprint %016llx here, %016llx "
                    "there)",
                    f.rank, f.peer, tml_fault_text(f.code), (unsigned long long)f.expected,
                    (unsigned long long)f.found);
  if (f.code == TML_FAULT_PEER_ABORT)
    return tml_fail(TML_FAULT, "rank %d was stopped by rank %d: %s", f.rank, f.peer,
                    tml_fault_text(f.code));
  return tml_fail(TML_FAULT,
                  "rank %d waited %.1f s for rank %d: %s (epoch %llu expected, %llu found; tile "
                  "%lld)",
                  f.rank, f.waited_us * 1e-6, f.peer, tml_fault_text(f.code),
                  (unsigned long long)f.expected, (unsigned long long)f.found, (long long)f.tile);
}

tml_status rig_wait(rig *r, double work_s)
{
  double began = seconds_now();
  for (int polls = 0;; polls++) {
    CUresult state = r->api->cuda.p_cuStreamQuery(r->stream);
    if (state == CUDA_SUCCESS) return rig_poll(r);
    if (state != CUDA_ERROR_NOT_READY) return tml_cuda_check(r->api, state, "cuStreamQuery");
    if (seconds_now() - began > r->timeout_s + work_s) {
      TRY(rig_poll(r));
      return tml_fail(TML_TIMEOUT,
                      "rank %d: the GPU did not finish within %.1f s; a peer is gone or an "
                      "NCCL call hangs",
                      r->rank, r->timeout_s + work_s);
    }
    if (polls > 100) usleep(50);
  }
}

tml_status rig_host(rig *r, size_t bytes, void **out)
{
  if (r->host.bytes < bytes) {
    if (r->host.at) TRY(CU(r->api, cuMemFreeHost, (r->host.at)));
    r->host.at = NULL;
    r->host.bytes = 0;
    TRY(CU(r->api, cuMemHostAlloc, (&r->host.at, bytes, 0)));
    r->host.bytes = bytes;
  }
  *out = r->host.at;
  return TML_OK;
}
