/* Name -> kernel: loaded already, else from the bank, else compiled. */
#include "kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rtc.h"
#include "status.h"

static tml_kernel *find(tml_ctx *ctx, const char *name)
{
  tml_kernel *kernel = ctx->kernels;
  while (kernel && strcmp(kernel->variant.name, name) != 0) kernel = kernel->next;
  return kernel;
}

/* The variant and the hash under which the bank knows it. */
static tml_status identify(tml_ctx *ctx, const char *name, tml_kernel *kernel)
{
  char *text = NULL;
  size_t bytes;
  TRY(tml_gen_variant(ctx->gen, name, &kernel->variant));
  if (kernel->variant.kind == TML_KIND_LIBRARY) {
    return tml_fail(TML_ARGUMENT, "%s is a library call: it has no kernel to load", name);
  }
  if (strcmp(kernel->variant.arch, ctx->arch) != 0) {
    return tml_fail(TML_UNSUPPORTED, "%s is for %s, this device is %s", name, kernel->variant.arch,
                    ctx->arch);
  }
  TRY(tml_gen_expand(ctx->gen, name, 0, &text, &bytes));
  tml_source_hash(text, bytes, tml_rtc_options(ctx->arch), kernel->hash);
  free(text);
  return TML_OK;
}

/* ---- From the bank --------------------------------------------------------------------------- */

/* What tml_bank_get said of this very text: the compiler refused it. */
static int is_refused(const tml_kernel *kernel, tml_status status, const tml_bank_row *row)
{
  return status == TML_MISS && row->refused[0] && strcmp(row->hash, kernel->hash) == 0;
}

/* MISS: try elsewhere. COMPILE: the compiler's refusal is on record, trying again is of no use. */
static tml_status from_bank(tml_ctx *ctx, tml_kernel *kernel)
{
  tml_bank_row row;
  if (!ctx->bank) return tml_fail(TML_MISS, "%s: no bank is configured", kernel->variant.name);
  tml_status status = tml_bank_get(ctx->bank, kernel->variant.name, kernel->hash, &row);
  int refused = is_refused(kernel, status, &row);
  if (status == TML_OK) {
    status = kernel_load(ctx, kernel, row.cubin);
    /* Made for another driver or device, or by another compiler: compiling may still work. */
    if (status == TML_DRIVER || status == TML_UNSUPPORTED) {
      tml_log(ctx, TML_LOG_WARN, "the bank's code is not used: %s", tml_last_error());
      status = TML_MISS;
    }
  }
  tml_bank_row_free(&row);
  atomic_fetch_add(status == TML_OK ? &ctx->counters.bank_hits : &ctx->counters.bank_misses, 1);
  return refused ? TML_COMPILE : status;
}

/* ---- By the compiler ------------------------------------------------------------------------- */

/* One warning, then memory only. */
static void keep_failed(tml_ctx *ctx)
{
  tml_log(ctx, TML_LOG_WARN, "compiled kernels stay in memory, the bank cannot be written: %s",
          tml_last_error());
  ctx->writer_failed = 1;
}

/* How long the lock of the bank is waited for: a plan is being made, and peers wait for it. */
#define KEEP_WAIT_MS 500

static tml_status write_row(tml_ctx *ctx, const tml_bank_row *row)
{
  if (!ctx->writer) {
    TRY(tml_bank_write_open(&ctx->writer, ctx->bank_path, ctx->api->isa, KEEP_WAIT_MS));
    const char *note = tml_bank_write_note(ctx->writer);
    if (*note) tml_log(ctx, TML_LOG_WARN, "bank %s: %s", ctx->config.bank, note);
  }
  TRY(tml_bank_write_row(ctx->writer, row));
  return tml_bank_publish(ctx->writer);
}

static void keep(tml_ctx *ctx, const tml_kernel *kernel, const tml_build *build)
{
  if (!ctx->bank_path || ctx->writer_failed) return;
  tml_bank_row row = {.registers = build->registers,
                      .smem_static = build->smem_static,
                      .local_bytes = build->local_bytes,
                      .spill_bytes = build->spill_bytes,
                      .compile_ms = build->compile_ms};
  snprintf(row.name, sizeof row.name, "%s", kernel->variant.name);
  snprintf(row.hash, sizeof row.hash, "%s", kernel->hash);
  snprintf(row.arch, sizeof row.arch, "%s", ctx->arch);
  snprintf(row.compiler, sizeof row.compiler, "%s", build->compiler);
  snprintf(row.options, sizeof row.options, "%s", tml_rtc_options(ctx->arch));
  snprintf(row.refused, sizeof row.refused, "%s", build->refused);
  if (!build->refused[0]) {
    row.cubin = build->cubin;
    row.cubin_bytes = build->cubin_bytes;
  }
  if (write_row(ctx, &row) != TML_OK) keep_failed(ctx);
}

/* A refusal costs a whole compilation: it is remembered, text and all, as long as the ctx lives. */
struct kernel_refusal {
  char hash[TML_HASH_BYTES], text[256];
  struct kernel_refusal *next;
};

static void remember_refusal(tml_ctx *ctx, const tml_kernel *kernel)
{
  struct kernel_refusal *refusal = calloc(1, sizeof *refusal);
  if (!refusal) return; /* then it is compiled again */
  strcpy(refusal->hash, kernel->hash);
  snprintf(refusal->text, sizeof refusal->text, "%s", tml_last_error());
  refusal->next = ctx->refusals;
  ctx->refusals = refusal;
}

static const struct kernel_refusal *find_refusal(const tml_ctx *ctx, const char *hash)
{
  const struct kernel_refusal *refusal = ctx->refusals;
  while (refusal && strcmp(refusal->hash, hash) != 0) refusal = refusal->next;
  return refusal;
}

void kernel_forget_refusals(tml_ctx *ctx)
{
  while (ctx->refusals) {
    struct kernel_refusal *refusal = ctx->refusals;
    ctx->refusals = refusal->next;
    free(refusal);
  }
}

/* Compiled from the text with #line, so that messages name the template's lines; they change
 * nothing in the code. */
static tml_status from_jit(tml_ctx *ctx, tml_kernel *kernel)
{
  char *text = NULL;
  size_t bytes;
  tml_build build;
  const char *name = kernel->variant.name;
  TRY(tml_gen_expand(ctx->gen, name, 1, &text, &bytes));
  tml_status status = tml_rtc_compile(ctx->api, name, text, ctx->arch, &build);
  free(text);
  if (status == TML_MISS) return status; /* no compiler here */
  atomic_fetch_add(&ctx->counters.compiles, 1);
  if (status == TML_OK) {
    tml_build_require(&build, kernel->variant.registers);
    tml_log(ctx, TML_LOG_INFO, "compiled %s in %.0f ms: %d registers, %d spill bytes", name,
            build.compile_ms, build.registers, build.spill_bytes);
    keep(ctx, kernel, &build);
    if (build.refused[0]) status = tml_fail(TML_COMPILE, "%s: refused: %s", name, build.refused);
  }
  if (status == TML_COMPILE) remember_refusal(ctx, kernel);
  if (status != TML_OK)
    atomic_fetch_add(&ctx->counters.compile_errors, 1);
  else
    status = kernel_load(ctx, kernel, build.cubin);
  tml_build_free(&build);
  return status;
}

/* ---- Both ------------------------------------------------------------------------------------ */

static tml_status obtain(tml_ctx *ctx, tml_kernel *kernel, unsigned from)
{
  tml_status status = tml_fail(TML_MISS, "%s is not loaded", kernel->variant.name);
  if (from & TML_FROM_BANK) status = from_bank(ctx, kernel);
  if (status != TML_MISS || !(from & TML_FROM_JIT)) return status;
  if (ctx->config.no_jit) return tml_wrap(TML_MISS, "compiling is switched off, and");
  const struct kernel_refusal *refusal = find_refusal(ctx, kernel->hash);
  return refusal ? tml_fail(TML_COMPILE, "%s", refusal->text) : from_jit(ctx, kernel);
}

static tml_status make(tml_ctx *ctx, const char *name, unsigned from, tml_kernel **out)
{
  CUcontext previous;
  tml_kernel *kernel = calloc(1, sizeof *kernel);
  if (!kernel) return tml_fail(TML_MEMORY, "out of memory for a kernel");
  tml_status status = identify(ctx, name, kernel);
  if (status == TML_OK) status = tml_ctx_enter(ctx, &previous);
  if (status == TML_OK) {
    status = obtain(ctx, kernel, from);
    tml_ctx_leave(ctx, previous);
  }
  if (status != TML_OK) {
    free(kernel);
    return status;
  }
  kernel->next = ctx->kernels;
  ctx->kernels = *out = kernel;
  return TML_OK;
}

tml_status tml_ctx_kernel(tml_ctx *ctx, const char *name, unsigned from, tml_kernel **out)
{
  tml_status status = TML_OK;
  pthread_mutex_lock(&ctx->lock);
  *out = find(ctx, name);
  if (!*out) {
    status =
        atomic_load(&ctx->sealed)
            ? tml_fail(TML_SEALED,
                       "%s is not loaded, and the ctx is sealed: plan it before tml_seal", name)
            : make(ctx, name, from, out);
  }
  pthread_mutex_unlock(&ctx->lock);
  return status;
}

/* A row of the bank, or a refusal in the bank or of this ctx. */
static tml_standing on_record(tml_ctx *ctx, const char *name)
{
  tml_kernel kernel = {.hash = ""};
  tml_bank_row row;
  tml_standing standing = TML_STANDS_NOWHERE;
  if (!ctx->bank && !ctx->refusals) return TML_STANDS_NOWHERE;
  if (identify(ctx, name, &kernel) != TML_OK) return TML_STANDS_NOWHERE;
  if (find_refusal(ctx, kernel.hash)) return TML_STANDS_REFUSED;
  if (!ctx->bank) return TML_STANDS_NOWHERE;
  tml_status status = tml_bank_get(ctx->bank, name, kernel.hash, &row);
  if (status == TML_OK) standing = TML_STANDS_BANKED;
  if (is_refused(&kernel, status, &row)) standing = TML_STANDS_REFUSED;
  tml_bank_row_free(&row);
  return standing;
}

tml_standing tml_ctx_standing(tml_ctx *ctx, const char *name)
{
  pthread_mutex_lock(&ctx->lock);
  tml_standing standing = atomic_load(&ctx->sealed) ? TML_STANDS_NOWHERE : on_record(ctx, name);
  if (standing == TML_STANDS_NOWHERE && find(ctx, name)) standing = TML_STANDS_LOADED;
  pthread_mutex_unlock(&ctx->lock);
  return standing;
}
