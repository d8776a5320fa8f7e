#include "tune.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../runtime/status.h"
#include "commands.h"
#include "device.h"
#include "forge.h"
#include "measure.h"
#include "output.h"
#include "progress.h"
#include "space.h"
#include "stats.h"
#include "stop.h"

#define PUBLISH_S 20 /* picks wait at most so long beside the bank: publishing copies all of it */

static const table_column columns[] = {
    {"problem", "problem", 's', 0, 44},
    {"pick", "variant", 's', 0, 0},
    {"us", "us", 'f', 1, 8},
    {"TFLOP/s", "tflops", 'f', 0, 7},
    {"cublaslt", "cublaslt_us", 'f', 1, 8},
    {"2nd us", "runner_up_us", 'f', 1, 8},
    {"runner-up", "runner_up", 's', 0, 0},
    {"tried", "tried", 'd', 0, 0},
    {"wrong", "wrong", 'd', 0, 0},
    {"failed", "failed", 'd', 0, 0},
    {"model", "model_position", 'd', 0, 0},
    {"top 8", "model_loss", 'f', 3, 0},
    {"s", "seconds", 'f', 1, 5},
    {"compile", "compile_seconds", 'f', 1, 0},
};

enum { COLUMNS = sizeof columns / sizeof *columns };

typedef struct tuner {
  rig r;
  tml_bank_writer *writer;
  const tune_options *o;
  table *rows, *dump; /* dump: rank 0's, or NULL */
  progress bar;
  double published; /* when, rank 0 */
  int skipped;
  double *losses; /* of the model, one per row; NAN: not known */
  int first;      /* rows whose fastest is among the model's first TUNE_TOP */
} tuner;

static void add_row(tuner *t, const tml_problem *p, const tune_result *result, double seconds)
{
  char text[PROBLEM_TEXT_BYTES];
  double flops = 2.0 * (double)p->m * (double)p->n * (double)p->k;
  t->skipped += result->skipped;
  if (t->r.rank != 0 || result->skipped) return;
  double loss = t->o->all ? result->model.loss : NAN; /* of a part of the space it says nothing */
  double prepared = t->o->compiled_s[p - t->o->list.at];
  t->losses[table_rows(t->rows)] = loss;
  t->first += isfinite(loss) && result->model.position <= TUNE_TOP;
  table_text(t->rows, tml_problem_print(p, text, sizeof text));
  table_text(t->rows, result->best);
  table_real(t->rows, result->us);
  table_real(t->rows, flops / result->us * 1e-6);
  table_real(t->rows, result->lt_us);
  table_real(t->rows, result->second_us);
  table_text(t->rows, *result->second ? result->second : NULL);
  table_real(t->rows, result->tried);
  table_real(t->rows, result->wrong);
  table_real(t->rows, result->failed);
  table_real(t->rows, result->model.position ? (double)result->model.position : NAN);
  table_real(t->rows, loss);
  table_real(t->rows, prepared + seconds);
  table_real(t->rows, prepared + result->compile_s);
  table_end_row(t->rows);
  progress_clear(&t->bar);
  table_stream_row(t->rows, t->o->text);
}

/* Rank 0. */
static tml_status publish(tuner *t)
{
  if (t->r.rank != 0) return TML_OK;
  t->published = seconds_now();
  return tml_bank_publish(t->writer);
}

static tml_status publish_now_and_then(tuner *t)
{
  return seconds_now() - t->published > PUBLISH_S ? publish(t) : TML_OK;
}

/* Plain GEMMs come first; the context is made anew before the first collective, so that the unfused
 * candidates run the GEMM that was just picked. */
static tml_status tune_all(tuner *t)
{
  const problems *list = &t->o->list;
  int reloaded = 0;
  for (size_t i = 0; i < list->count; i++) {
    const tml_problem *p = &list->at[i];
    char text[PROBLEM_TEXT_BYTES];
    tune_result result;
    tml_problem_print(p, text, sizeof text);
    if (t->r.rank == 0) stop_progress((int)i, (int)list->count, "problems");
    if (p->op != TML_GEMM && i > 0 && !reloaded) {
      TRY(tml_group_vote(t->r.comm->group, publish(t), "publishing the picks"));
      TRY(rig_reload(&t->r, &t->o->rig));
      reloaded = 1;
    }
    progress_step(&t->bar, (int)i, (int)list->count, "%s", text);
    double began = seconds_now();
    tml_status status = tune_problem(&t->r, t->writer, t->o, p, t->dump, &result);
    if (status == TML_UNSUPPORTED ||
        status == TML_MEMORY) { /* agreed on: the next problem may do */
      if (t->r.rank == 0) cli_fail_status(status, text);
      continue;
    }
    if (status != TML_OK) return tml_wrap(status, "%s", text);
    add_row(t, p, &result, seconds_now() - began);
    if (t->r.rank == 0) stop_progress((int)i + 1, (int)list->count, "problems");
    TRY(tml_group_vote(t->r.comm->group, publish_now_and_then(t), "publishing the picks"));
  }
  return TML_OK;
}

/* Is a short tune enough? Over the problems that were measured in full. */
static void print_model(const tuner *t)
{
  int rows = table_rows(t->rows), known = 0;
  double worst = 1;
  for (int i = 0; i < rows; i++) {
    known += !isnan(t->losses[i]);
    worst = fmax(worst, t->losses[i]);
  }
  if (known == 0) return;
  fprintf(t->o->text,
          "the measured best is within the model's top %d for %d of %d problems (%.0f %%)\n"
          "the best of its top %d is slower than the best of all by %.1f %% in the geometric mean, "
          "%.1f %% at worst\n",
          TUNE_TOP, t->first, known, 100.0 * t->first / known, TUNE_TOP,
          100 * (stats_geomean(t->losses, (size_t)rows) - 1), 100 * (worst - 1));
}

static int write_dump(const tuner *t)
{
  const tml_machine *machine = &t->r.ctx->machine;
  cJSON *head = cJSON_CreateObject();
  cJSON_AddStringToObject(head, "gpu", machine->gpu);
  cJSON_AddNumberToObject(head, "sms", machine->sms);
  cJSON_AddStringToObject(head, "link", machine->link);
  cJSON_AddStringToObject(head, "regime", t->o->sustained_ms > 0 ? "sustained" : "burst");
  return table_write_json(t->dump, t->o->dump, head, "candidates");
}

static int finish(tuner *t)
{
  int code = CLI_OK, tuned = table_rows(t->rows), all = (int)t->o->list.count;
  if (t->r.rank != 0) return CLI_OK;
  fprintf(t->o->text,
          "%d problem%s tuned, %d had a pick (--again tunes them too), %d failed, in %.0f s; bank: "
          "%s\n",
          tuned, tuned == 1 ? "" : "s", t->skipped, all - tuned - t->skipped,
          progress_seconds(&t->bar), t->o->rig.bank);
  print_model(t);
  if (t->o->json) code = table_write_json(t->rows, t->o->json, NULL, NULL);
  if (t->dump && !code) code = write_dump(t);
  return all - tuned - t->skipped ? CLI_FAILED : code;
}

/* Rank 0 makes the bank if there is none, before anybody opens it. */
static tml_status open_writer(tuner *t, const ranks_env *env)
{
  if (env->meet.rank != 0) return TML_OK;
  TRY(tml_bank_write_open(&t->writer, t->o->rig.bank, device_api()->isa, TML_BANK_WAIT_MS));
  t->published = seconds_now();
  return tml_bank_publish(t->writer);
}

/* Rank 0: rows are printed one by one, and all shall stand below the titles. */
static void widen(tuner *t)
{
  const problems *list = &t->o->list;
  if (t->r.rank != 0) return;
  int width = space_name_width(t->r.gen, t->r.ctx->arch, list->at, list->count, NULL);
  for (int i = 0; i < COLUMNS; i++)
    if (strcmp(columns[i].key, "variant") == 0 || strcmp(columns[i].key, "runner_up") == 0)
      table_widen(t->rows, i, width);
}

static int rank_main(const ranks_env *env, void *user)
{
  tuner t = {.o = user};
  t.rows = table_create(columns, COLUMNS);
  t.losses = calloc(t.o->list.count, sizeof *t.losses);
  if (t.o->dump && env->meet.rank == 0)
    t.dump = table_create(tune_dump_columns, tune_dump_column_count);
  tml_status status = t.losses ? open_writer(&t, env) : tml_fail(TML_MEMORY, "out of memory");
  if (status == TML_OK) status = rig_open(&t.r, env, &t.o->rig);
  progress_begin(&t.bar, env->meet.rank != 0);
  if (status == TML_OK) widen(&t);
  if (status == TML_OK) status = tune_all(&t);
  progress_clear(&t.bar);
  if (status == TML_OK) status = publish(&t);
  int code = status == TML_OK ? finish(&t) : rig_fail(env, status, "tune");
  if (status != TML_OK && t.writer) publish(&t); /* what was found stays found */
  if (status == TML_OK) rig_close(&t.r, 1);
  tml_bank_write_close(t.writer);
  table_free(t.rows);
  table_free(t.dump);
  free(t.losses);
  return code;
}

static tml_status add_variants(forge_list *list, tml_gen *gen, const candidates *c)
{
  for (int j = 0; j < c->count; j++) {
    tml_variant v, needed;
    TRY(tml_gen_variant(gen, c->at[j].name, &v));
    forge_add(list, &v);
    for (int q = 0; q < v.requires_count; q++) {
      TRY(tml_gen_variant(gen, v.requires[q], &needed));
      forge_add(list, &needed);
    }
  }
  return TML_OK;
}

/* The bank whose picks need no candidates, or NULL. That it cannot be used is told by who writes it. */
static tml_bank *open_picks(const tune_options *o)
{
  tml_bank *bank = NULL;
  if (!o->again && tml_bank_open(&bank, o->rig.bank) != TML_OK) tml_clear_error();
  return bank;
}

/* starts[i]: where the additions of problem i begin. */
static tml_status add_candidates(forge_list *list, tml_gen *gen, const char *arch,
                                 const tune_options *o, const tml_machine *machine, size_t *starts)
{
  tml_bank *picks = open_picks(o);
  candidates *c = malloc(sizeof *c);
  tml_status status = c ? TML_OK : tml_fail(TML_MEMORY, "out of memory for candidates");
  for (size_t i = 0; i < o->list.count && status == TML_OK; i++) {
    starts[i] = list->count;
    if (tune_has_pick(picks, machine, &o->list.at[i])) continue;
    status = agree_choose(gen, arch, &o->list.at[i], machine, o->all ? AGREE_MAX : o->top, NULL, c);
    if (status == TML_OK)
      status = add_variants(list, gen, c);
    else if (status == TML_UNSUPPORTED)
      status = TML_OK; /* told when its turn comes */
  }
  free(c);
  tml_bank_close(picks);
  return status;
}

/* A problem's part of the seconds is what its variants took of all cores' time. */
static void share_seconds(const tune_options *o, const forge_list *list, const size_t *starts,
                          double seconds)
{
  double all = 0;
  for (size_t i = 0; i < list->count; i++) all += list->ms[i];
  for (size_t i = 0, at = 0; i < o->list.count && all > 0; i++) {
    size_t end = i + 1 < o->list.count ? starts[i + 1] : list->count;
    for (; at < end; at++) o->compiled_s[i] += seconds * list->ms[at] / all;
  }
}

typedef struct preparation {
  const tune_options *o;
  const ranks_machine *machine;
  int world;
} preparation;

static unsigned dtypes_of(const problems *list)
{
  unsigned dtypes = 0;
  for (size_t i = 0; i < list->count; i++) dtypes |= FORGE_DTYPE(list->at[i].dtype);
  return dtypes;
}

static tml_status list_all(const preparation *p, forge_list *list, size_t *starts)
{
  const tune_options *o = p->o;
  const tml_machine *machine = &p->machine->machine;
  tml_gen *gen = NULL;
  char arch[16];
  tml_status status = tml_gen_open(&gen, o->rig.source, device_api()->isa);
  if (status == TML_OK) status = tml_gen_arch(gen, machine->cc, arch, sizeof arch);
  if (status == TML_OK) status = forge_add_aux(list, gen, arch, dtypes_of(&o->list), p->world);
  if (status == TML_OK) status = add_candidates(list, gen, arch, o, machine, starts);
  tml_gen_close(gen);
  return status;
}

static tml_status compile_all(const tune_options *o, const forge_list *list, const size_t *starts)
{
  forge_result result;
  TRY(forge_run(list, o->rig.bank, o->rig.source, 0, 0, &result));
  if (result.failed) cli_note("left out: %s", result.first_error);
  if (result.compiled)
    cli_note("%d candidate%s compiled in %.1f s", result.compiled, result.compiled == 1 ? "" : "s",
             result.seconds);
  share_seconds(o, list, starts, result.seconds);
  return TML_OK;
}

/* Before any rank starts, and in a process of its own: every candidate that the bank lacks is
 * compiled, by all cores. Without NVRTC the ranks take what the bank has. */
static int prepare_bank(void *user)
{
  const preparation *p = user;
  forge_list list = {0};
  size_t *starts = calloc(p->o->list.count, sizeof *starts);
  tml_status status = starts ? list_all(p, &list, starts) : tml_fail(TML_MEMORY, "out of memory");
  if (status == TML_OK && !device_api()->has_nvrtc)
    cli_note("only candidates that the bank already has can run: %s", device_api()->why_nvrtc);
  else if (status == TML_OK)
    status = compile_all(p->o, &list, starts);
  forge_list_free(&list);
  free(starts);
  return status == TML_OK ? CLI_OK : cli_fail_status(status, "tune");
}

static int prepare_and_start(tune_options *o, const ranks_options *how,
                             const ranks_machine *machine, int world)
{
  ranks_env env;
  int launched = ranks_launched(&env, how->timeout_s);
  if (launched == 0 || env.meet.rank == 0) stop_keeps(o->rig.bank, device_api()->isa);
  if (launched == 0 && world <= machine->devices && !o->rig.no_jit) {
    int code = ranks_apart(prepare_bank, &(preparation){o, machine, world});
    if (code) return code;
  }
  int code = ranks_run(how, machine, rank_main, o);
  size_t reports = device_reports();
  return reports ? cli_fail("the emulator reports %zu hazards", reports) : code;
}

static int run(tune_options *o)
{
  ranks_options how = {.world = o->rig.world, .timeout_s = o->rig.timeout_s};
  how.absent = how.doomed = -1;
  ranks_machine machine;
  stop_catch();
  ranks_probe(&machine);
  int world = ranks_world(&how, &machine);
  if (machine.devices == 0) return cli_fail("no GPU to run on: %s", machine.why);
  int code = problems_fit(&o->list, world);
  if (code) return code;
  problems_gemm_first(&o->list, 1);
  /* Shared: the compiling process writes it, the ranks read it. */
  size_t bytes = o->list.count * sizeof *o->compiled_s;
  void *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return cli_fail("out of memory");
  o->compiled_s = shared;
  code = prepare_and_start(o, &how, &machine, world);
  munmap(shared, bytes);
  return code;
}

int cmd_tune(int argc, char **argv)
{
  tune_options o = {0};
  const char *file = NULL;
  const cli_option options[] = {
      {"--problems", "-p", CLI_TEXT, &file, "FILE", "one problem a line, # starts a comment"},
      {"--top", NULL, CLI_COUNT, &o.top, "N",
       "measure the model's best N; default 8. cublaslt and nccl always compete, unless "
       "TIDEMILL_STRICT=1"},
      {"--all", NULL, CLI_FLAG, &o.all, NULL,
       "measure every legal variant, and say at the end how good the model's first 8 are"},
      {"--dump", NULL, CLI_FILE, &o.dump, "FILE",
       "write the time of every candidate, beside the model's, as JSON; - is the standard output"},
      {"--no-jit", NULL, CLI_FLAG, &o.rig.no_jit, NULL,
       "compile nothing: candidates come from the bank"},
      {"--again", NULL, CLI_FLAG, &o.again, NULL,
       "also problems that have a pick for this machine"},
      {"--sustained", NULL, CLI_REAL, &o.sustained_ms, "MS",
       "tune under continuous load of MS milliseconds per window instead of in bursts"},
      {"--json", NULL, CLI_FILE, &o.json, "FILE",
       "write the table as JSON; - is the standard output"},
      RIG_OPTIONS(o.rig),
  };
  const cli_command command = {
      "tune",
      "[PROBLEM...]",
      "Measures candidates on the GPUs and stores the fastest of each problem in the bank, with "
      "the\n"
      "runner-up. Each candidate is first compared with the fp32 reference kernel; a wrong one "
      "cannot\n"
      "win. Times are the slowest rank's median, candidates interleaved; who is far behind leaves "
      "early.\n"
      "The plain GEMM inside each collective is tuned too. A tune that was stopped goes on where "
      "it "
      "was\n"
      "and leaves out what killed it.",
      options,
      sizeof options / sizeof *options,
      "  tidemill tune --bank h200.bank --world 2 --problems llama70b.txt\n"
      "  tidemill tune --bank h200.bank gemm:bf16:nt:w1:8192x8192x8192\n"
      "  torchrun --nproc_per_node 2 --no-python tidemill tune --bank h200.bank -p llama70b.txt\n"};
  cli_list operands;
  int code = cli_parse(&command, argc, argv, &operands);
  if (code) return code == CLI_HELP ? CLI_OK : code;
  code = rig_check_options("tune", &o.rig);
  if (!code && !o.rig.bank) code = cli_usage("tune", "say which bank gets the picks: --bank FILE");
  if (!code && o.all && o.top)
    code = cli_usage("tune", "--all measures every variant: leave out --top");
  if (!o.top) o.top = TUNE_TOP;
  if (!code && o.top > AGREE_MAX - 4)
    code = cli_usage("tune", "--top %d: choose 1 to %d", o.top, AGREE_MAX - 4);
  if (!code && output_standard(o.json) && output_standard(o.dump))
    code = cli_usage("tune", "--json and --dump cannot both be -, the standard output");
  o.text = output_beside(output_standard(o.dump) ? o.dump : o.json);
  if (!code && o.sustained_ms > MEASURE_MAX_MS)
    code = cli_usage("tune", "--sustained %g: choose up to %d", o.sustained_ms, MEASURE_MAX_MS);
  if (!code) code = problems_read(&o.list, "tune", &operands, file);
  if (!code && o.list.count == 0)
    code = cli_usage("tune", "say what to tune: problems or --problems FILE");
  if (!code) code = run(&o);
  problems_free(&o.list);
  free(operands.at);
  return code;
}
