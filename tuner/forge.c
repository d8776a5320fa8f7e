#include "forge.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../runtime/rtc.h"
#include "../runtime/status.h"
#include "cli.h"
#include "device.h"
#include "progress.h"
#include "stop.h"

typedef struct forge {
  const forge_list *list;
  const char *source_dir;
  const tml_api *api;
  char compiler[32];
  pthread_mutex_t lock; /* guards everything below */
  tml_bank_writer *writer;
  size_t next;
  int done;
  tml_status status; /* of the bank: ends the work */
  char text[1024];
  progress bar;
  forge_result *out;
} forge;

void forge_add(forge_list *list, const tml_variant *variant)
{
  if (variant->kind == TML_KIND_LIBRARY) return;
  for (size_t i = 0; i < list->count; i++)
    if (strcmp(list->names[i], variant->name) == 0) return;
  if (list->count == list->capacity) {
    list->capacity = list->capacity ? 2 * list->capacity : 128;
    list->names = realloc(list->names, list->capacity * sizeof *list->names);
    list->archs = realloc(list->archs, list->capacity * sizeof *list->archs);
    list->ms = realloc(list->ms, list->capacity * sizeof *list->ms);
    if (!list->names || !list->archs || !list->ms) {
      cli_fail("out of memory");
      exit(CLI_FAILED);
    }
  }
  memcpy(list->names[list->count], variant->name, TML_NAME_BYTES);
  memcpy(list->archs[list->count], variant->arch, sizeof variant->arch);
  list->ms[list->count] = 0;
  list->count++;
}

static tml_status add_aux(forge_list *list, tml_gen *gen, const char *kernel, const char *arch,
                          tml_dtype dtype, int world)
{
  tml_variant v;
  TRY(tml_gen_aux(gen, kernel, arch, dtype, world, &v));
  forge_add(list, &v);
  return TML_OK;
}

tml_status forge_add_aux(forge_list *list, tml_gen *gen, const char *arch, unsigned dtypes,
                         int world)
{
  static const char *const typed[] = {"fill", "reference", "bias"};
  static const char *const untyped[] = {"gate", "hold", "stores"};
  for (int dtype = TML_BF16; dtype <= TML_FP16; dtype++)
    for (size_t i = 0; i < sizeof typed / sizeof *typed; i++)
      if (dtypes & FORGE_DTYPE(dtype)) TRY(add_aux(list, gen, typed[i], arch, (tml_dtype)dtype, 1));
  /* Ranks pause with it, whatever they compute. */
  TRY(add_aux(list, gen, "fill", arch, TML_BF16, 1));
  for (size_t i = 0; i < sizeof untyped / sizeof *untyped && world > 1; i++)
    TRY(add_aux(list, gen, untyped[i], arch, TML_BF16, world));
  return TML_OK;
}

void forge_list_free(forge_list *list)
{
  free(list->names);
  free(list->archs);
  free(list->ms);
  *list = (forge_list){0};
}

/* Under the lock. */
static void count_failure(forge *f, const char *name)
{
  if (f->out->failed++ == 0)
    snprintf(f->out->first_error, sizeof f->out->first_error, "%s: %s", name, tml_last_error());
}

static void keep_row(forge *f, const tml_bank_row *row)
{
  stop_yield();
  tml_status status = tml_bank_write_row(f->writer, row);
  if (status != TML_OK && f->status == TML_OK) {
    f->status = status;
    snprintf(f->text, sizeof f->text, "%s", tml_last_error());
    return;
  }
  if (*row->refused) {
    f->out->refused++;
    progress_clear(&f->bar);
    cli_note("refused %s: %s", row->name, row->refused);
  } else {
    f->out->compiled++;
  }
  if (row->compile_ms > f->out->slowest_ms) {
    f->out->slowest_ms = row->compile_ms;
    memcpy(f->out->slowest, row->name, TML_NAME_BYTES);
  }
}

static tml_status compile_one(forge *f, tml_gen *gen, size_t at)
{
  const char *name = f->list->names[at], *arch = f->list->archs[at];
  const char *options = tml_rtc_options(arch);
  tml_bank_row row;
  tml_build build;
  tml_variant variant;
  char *text = NULL;
  size_t bytes = 0;
  memset(&row, 0, sizeof row);
  memset(&build, 0, sizeof build);
  /* Identity is the plain text; what is compiled also has #line marks, which change no code. */
  TRY(tml_gen_variant(gen, name, &variant));
  TRY(tml_gen_expand(gen, name, 0, &text, &bytes));
  tml_source_hash(text, bytes, options, row.hash);
  free(text);
  text = NULL;
  pthread_mutex_lock(&f->lock);
  int there = tml_bank_write_has(f->writer, name, row.hash, f->compiler);
  if (there) f->out->reused++;
  if (there) f->bar.free++;
  pthread_mutex_unlock(&f->lock);
  tml_status status = there ? TML_OK : tml_gen_expand(gen, name, 1, &text, &bytes);
  if (status == TML_OK && !there) status = tml_rtc_compile(f->api, name, text, arch, &build);
  free(text);
  if (status == TML_OK && !there) {
    tml_build_require(&build, variant.registers);
    snprintf(row.name, sizeof row.name, "%s", name);
    snprintf(row.arch, sizeof row.arch, "%s", arch);
    snprintf(row.compiler, sizeof row.compiler, "%s", build.compiler);
    snprintf(row.options, sizeof row.options, "%s", options);
    memcpy(row.refused, build.refused, sizeof row.refused);
    row.registers = build.registers;
    row.smem_static = build.smem_static;
    row.local_bytes = build.local_bytes;
    row.spill_bytes = build.spill_bytes;
    row.compile_ms = f->list->ms[at] = build.compile_ms;
    if (!*row.refused) {
      row.cubin = build.cubin;
      row.cubin_bytes = build.cubin_bytes;
    }
    pthread_mutex_lock(&f->lock);
    keep_row(f, &row);
    pthread_mutex_unlock(&f->lock);
  }
  if (!there) tml_build_free(&build);
  return status;
}

/* The next index to work on, or count. */
static size_t take_next(forge *f)
{
  pthread_mutex_lock(&f->lock);
  size_t at = f->status == TML_OK ? f->next : f->list->count;
  if (at < f->list->count) f->next++;
  pthread_mutex_unlock(&f->lock);
  return at;
}

static void *worker(void *user)
{
  forge *f = user;
  tml_gen *gen = NULL;
  tml_status opened = tml_gen_open(&gen, f->source_dir, f->api->isa);
  for (size_t at; (at = take_next(f)) < f->list->count;) {
    tml_status status = opened == TML_OK ? compile_one(f, gen, at) : opened;
    pthread_mutex_lock(&f->lock);
    if (status != TML_OK) count_failure(f, f->list->names[at]);
    stop_progress(++f->done, (int)f->list->count, "variants");
    progress_step(&f->bar, f->done, (int)f->list->count, "%s", f->list->names[at]);
    pthread_mutex_unlock(&f->lock);
  }
  tml_gen_close(gen);
  return NULL;
}

static void run_threads(forge *f, int threads)
{
  pthread_t ids[256];
  int started = 0;
  if (threads > 256) threads = 256;
  if ((size_t)threads > f->list->count) threads = (int)f->list->count;
  while (started < threads - 1 && pthread_create(&ids[started], NULL, worker, f) == 0) started++;
  worker(f); /* this thread works too, so none at all is no failure */
  for (int i = 0; i < started; i++) pthread_join(ids[i], NULL);
}

static tml_status name_compiler(forge *f)
{
  int major = 0, minor = 0;
  if (!f->api->has_nvrtc) return tml_fail(TML_MISS, "cannot compile: %s", f->api->why_nvrtc);
  TRY(NV(f->api, nvrtcVersion, (&major, &minor)));
  snprintf(f->compiler, sizeof f->compiler, "nvrtc %d.%d", major, minor);
  return TML_OK;
}

tml_status forge_run(const forge_list *list, const char *path, const char *source_dir, int threads,
                     int silent, forge_result *out)
{
  forge f = {.list = list, .source_dir = source_dir, .api = device_api(), .out = out};
  memset(out, 0, sizeof *out);
  out->total = (int)list->count;
  TRY(name_compiler(&f));
  TRY(tml_bank_write_open(&f.writer, path, f.api->isa, TML_BANK_WAIT_MS));
  pthread_mutex_init(&f.lock, NULL);
  progress_begin(&f.bar, silent);
  if (threads < 1) threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
  run_threads(&f, threads < 1 ? 1 : threads);
  progress_clear(&f.bar);
  tml_status status = f.status;
  if (status != TML_OK) tml_fail(status, "%s", f.text);
  if (status == TML_OK) status = tml_bank_publish(f.writer);
  tml_bank_write_close(f.writer);
  pthread_mutex_destroy(&f.lock);
  out->seconds = progress_seconds(&f.bar);
  return status;
}
