/* The context: one device, its generator and its bank. */
#include "ctx.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bank_check.h"
#include "config.h"
#include "kernel.h"
#include "machine.h"
#include "status.h"

#define LINE_BYTES 2048

void tml_log(tml_ctx *ctx, tml_log_level level, const char *format, ...)
{
  char line[LINE_BYTES];
  va_list args;
  if (!ctx->config.log) return;
  va_start(args, format);
  vsnprintf(line, sizeof line, format, args);
  va_end(args);
  ctx->config.log(ctx->config.log_user, level, line);
}

/* A writable bank may be absent: the first kernel that is kept creates it. */
static tml_status open_bank(tml_ctx *ctx)
{
  if (!ctx->config.bank) return TML_OK;
  if (ctx->config.bank_writable) {
    char resolved[BANK_PATH_BYTES];
    struct stat info;
    int absent = 0;
    TRY(bank_check_folder(ctx->config.bank, resolved));
    ctx->bank_path = strdup(resolved);
    if (!ctx->bank_path) return tml_fail(TML_MEMORY, "out of memory for the bank's path");
    if (bank_check_file(resolved, &info, &absent) != TML_OK && absent) return TML_OK;
  }
  TRY(tml_bank_open(&ctx->bank, ctx->config.bank));
  return tml_bank_serves(ctx->bank, ctx->api->isa);
}

/* Everything that needs no undoing but by tml_ctx_destroy, in the order of its needs. */
static tml_status ctx_open(tml_ctx *ctx, const tml_config *config)
{
  TRY(config_fill(&ctx->config, config));
  TRY(machine_read(ctx->api, ctx->config.device, &ctx->device, &ctx->machine));
  TRY(tml_gen_open(&ctx->gen, ctx->config.source_dir, ctx->api->isa));
  TRY(tml_gen_arch(ctx->gen, ctx->machine.cc, ctx->arch, sizeof ctx->arch));
  TRY(tml_gen_pad(ctx->gen, &ctx->pad));
  TRY(open_bank(ctx));
  return CU(ctx->api, cuDevicePrimaryCtxRetain, (&ctx->primary, ctx->device));
}

tml_status tml_ctx_create_over(tml_ctx **out, const tml_config *config, const tml_api *api)
{
  if (!out) return tml_fail(TML_ARGUMENT, "tml_ctx_create: out is NULL");
  *out = NULL;
  tml_ctx *ctx = calloc(1, sizeof *ctx);
  if (!ctx) return tml_fail(TML_MEMORY, "out of memory for a ctx");
  if (pthread_mutex_init(&ctx->lock, NULL) != 0) {
    free(ctx);
    return tml_fail(TML_MEMORY, "no mutex for a ctx");
  }
  ctx->api = api;
  tml_status status = ctx_open(ctx, config);
  if (status != TML_OK) {
    tml_ctx_destroy(ctx);
    return status;
  }
  tml_log(ctx, TML_LOG_INFO,
          "Tidemill %s on device %d: %s, %d SMs, %s, link %s, driver %d, bank %s", TML_VERSION,
          ctx->config.device, ctx->machine.gpu, ctx->machine.sms, ctx->arch, ctx->machine.link,
          ctx->machine.driver, ctx->bank ? ctx->config.bank : "none");
  *out = ctx;
  return TML_OK;
}

tml_status tml_ctx_create(tml_ctx **out, const tml_config *config)
{
  return tml_ctx_create_over(out, config, tml_api_open());
}

void tml_ctx_destroy(tml_ctx *ctx)
{
  if (!ctx) return;
  kernel_free_all(ctx);
  kernel_forget_refusals(ctx);
  if (ctx->primary) ctx->api->cuda.p_cuDevicePrimaryCtxRelease(ctx->device);
  tml_bank_write_close(ctx->writer);
  tml_bank_close(ctx->bank);
  free(ctx->bank_path);
  tml_gen_close(ctx->gen);
  config_free(&ctx->config);
  pthread_mutex_destroy(&ctx->lock);
  free(ctx);
}

tml_status tml_seal(tml_ctx *ctx)
{
  if (!ctx) return tml_fail(TML_ARGUMENT, "tml_seal: ctx is NULL");
  /* Under the lock, so that no load that began before is still going on afterwards. */
  pthread_mutex_lock(&ctx->lock);
  atomic_store(&ctx->sealed, 1);
  pthread_mutex_unlock(&ctx->lock);
  return TML_OK;
}

tml_status tml_ctx_counters(const tml_ctx *ctx, tml_counters *out)
{
  if (!ctx || !out || out->size < sizeof out->size) {
    return tml_fail(TML_ARGUMENT, "tml_ctx_counters needs a ctx, and counters with their size set");
  }
  tml_counters all = {.size = out->size};
#define TML_X(name) all.name = atomic_load(&ctx->counters.name);
  TML_COUNTER_MAP(TML_X)
#undef TML_X
  memcpy(out, &all, out->size < sizeof all ? out->size : sizeof all);
  return TML_OK;
}

tml_status tml_ctx_enter(tml_ctx *ctx, CUcontext *previous)
{
  *previous = NULL;
  TRY(CU(ctx->api, cuCtxGetCurrent, (previous)));
  if (*previous == ctx->primary) return TML_OK;
  return CU(ctx->api, cuCtxSetCurrent, (ctx->primary));
}

void tml_ctx_leave(tml_ctx *ctx, CUcontext previous)
{
  if (previous != ctx->primary) ctx->api->cuda.p_cuCtxSetCurrent(previous);
}
