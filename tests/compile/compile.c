/* Compiles the space with NVRTC: compile [--all] [--arch sm_90a] [--glob GLOB] [--max-ms 1000]
 *
 * Without --all: a set of variants of worlds 1, 2 and 8 that holds every value and every pair of
 * values of the axes. Fails on an error, on a refusal (spills, serialised wgmma), on local memory,
 * and on a variant that takes longer than --max-ms of one quiet core. Exit 77 without NVRTC. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cover.h"
#include "rtc.h"
#include "yardstick.h"

#define THREADS 2
#define ATTEMPTS 3 /* compiles of a variant that takes too long, before it fails */

typedef struct compile_run {
  pthread_mutex_t lock; /* guards the generator and everything below */
  const tml_api *api;
  tml_gen *gen;
  cover_set cover;
  const char *arch, *glob;
  int all, next, done, bad;
  double limit_ms, slowest_ms, total_ms;
  char slowest[TML_NAME_BYTES];
} compile_run;

static int add_legal(void *user, const tml_variant *variant, const char *reason)
{
  compile_run *run = user;

  if (!reason && variant->kind != TML_KIND_LIBRARY) cover_add(&run->cover, variant);
  return 0;
}

static const char *verdict(const compile_run *run, tml_status status, const tml_build *build,
                           double ms)
{
  if (status != TML_OK) return tml_last_error();
  if (build->refused[0]) return build->refused;
  if (build->local_bytes || build->spill_bytes) return "uses local memory";
  if (run->limit_ms > 0 && ms > run->limit_ms) return "takes too long to compile";
  return NULL;
}

static void report(compile_run *run, const char *name, tml_status status, const tml_build *build,
                   double ms)
{
  const char *why = verdict(run, status, build, ms);
  pthread_mutex_lock(&run->lock);
  run->done++;
  run->total_ms += ms;
  if (ms > run->slowest_ms) {
    run->slowest_ms = ms;
    snprintf(run->slowest, sizeof run->slowest, "%s", name);
  }
  printf("%4d/%d %-72s %3d regs %6.0f ms%s%s\n", run->done, run->cover.chosen, name,
         build->registers, ms, why ? "  FAILED: " : "", why ? why : "");
  fflush(stdout);
  run->bad += why != NULL;
  pthread_mutex_unlock(&run->lock);
}

/* Milliseconds of CPU for one compile. */
static double compile_text(const compile_run *run, const cover_variant *variant, const char *text,
                           tml_status *status, tml_build *build)
{
  double start = yardstick_cpu_ms();
  *status = tml_rtc_compile(run->api, variant->name, text, variant->arch, build);
  return yardstick_cpu_ms() - start;
}

/* Over the limit it is measured again, against what the machine is worth at that moment. */
static void compile_one(compile_run *run, const cover_variant *variant)
{
  char *text = NULL;
  size_t bytes = 0;
  double ms = 0;
  tml_build build = {0};
  pthread_mutex_lock(&run->lock);
  tml_status status = tml_gen_expand(run->gen, variant->name, 1, &text, &bytes);
  pthread_mutex_unlock(&run->lock);
  if (status == TML_OK) ms = compile_text(run, variant, text, &status, &build);
  for (int i = 1; i < ATTEMPTS && status == TML_OK && run->limit_ms > 0 && ms > run->limit_ms;
       i++) {
    double slowness = yardstick_slowness(run->api, variant->arch);
    tml_build_free(&build);
    ms = compile_text(run, variant, text, &status, &build) / (slowness > 1 ? slowness : 1);
  }
  report(run, variant->name, status, &build, ms);
  tml_build_free(&build);
  free(text);
}

static void *work(void *user)
{
  compile_run *run = user;
  for (;;) {
    pthread_mutex_lock(&run->lock);
    while (run->next < run->cover.count && !run->cover.at[run->next].chosen) run->next++;
    int i = run->next++;
    pthread_mutex_unlock(&run->lock);
    if (i >= run->cover.count) return NULL;
    compile_one(run, &run->cover.at[i]);
  }
}

static int usage(void)
{
  fprintf(stderr, "usage: compile [--all] [--arch ARCH] [--glob GLOB] [--max-ms MS]\n");
  return 2;
}

static int parse(compile_run *run, int argc, char **argv)
{
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--all") == 0) {
      run->all = 1;
      continue;
    }
    if (i + 1 == argc) return usage();
    if (strcmp(argv[i], "--arch") == 0)
      run->arch = argv[++i];
    else if (strcmp(argv[i], "--glob") == 0)
      run->glob = argv[++i];
    else if (strcmp(argv[i], "--max-ms") == 0)
      run->limit_ms = atof(argv[++i]);
    else
      return usage();
  }
  return 0;
}

int main(int argc, char **argv)
{
  compile_run run = {
      .lock = PTHREAD_MUTEX_INITIALIZER, .api = tml_api_open(), .arch = "", .glob = ""};
  pthread_t threads[THREADS];
  if (parse(&run, argc, argv)) return 2;
  if (!run.api->has_nvrtc) {
    printf("skipped: %s\n", run.api->why_nvrtc);
    return 77;
  }
  tml_filter filter = {.arch = run.arch, .glob = run.glob};
  tml_status status = tml_gen_open(&run.gen, NULL, NULL);
  if (status == TML_OK) status = tml_gen_each(run.gen, &filter, add_legal, &run);
  if (status != TML_OK) {
    printf("%s: %s\n", tml_status_text(status), tml_last_error());
    tml_gen_close(run.gen);
    return 1;
  }
  if (run.all)
    cover_choose_all(&run.cover);
  else
    cover_choose(&run.cover);
  for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, &run);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  printf(
      "%d of %d legal variants (%ld pairs of values), %d bad, mean %.0f ms, slowest %.0f ms: %s\n",
      run.cover.chosen, run.cover.count, run.cover.pairs, run.bad,
      run.done ? run.total_ms / run.done : 0.0, run.slowest_ms, run.slowest);
  int failed = run.bad || run.done == 0;
  cover_free(&run.cover);
  tml_gen_close(run.gen);
  return failed;
}
