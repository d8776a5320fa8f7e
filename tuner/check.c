#include "check.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../runtime/status.h"
#include "commands.h"
#include "device.h"
#include "output.h"
#include "progress.h"
#include "space.h"

typedef struct tally {
  check_found found;
  progress bar;
} tally;

static void add_row(tally *n, const check_options *o, const rig *r, const tml_problem *p,
                    const check_result *c)
{
  check_add_row(&n->found, r, p, c);
  if (r->rank != 0) return;
  progress_clear(&n->bar);
  table_stream_row(n->found.rows, o->text);
}

static tml_status run_variant(tally *n, rig *r, const check_options *o, const tml_problem *p,
                              const char *variant)
{
  check_result result;
  char text[PROBLEM_TEXT_BYTES], save[4096] = "";
  if (o->outputs)
    snprintf(save, sizeof save, "%s/row%d.rank%d", o->outputs, n->found.passed + n->found.failed,
             r->rank);
  tml_status status = check_one(r, p, variant, o->reps, *save ? save : NULL, &result);
  if (status == TML_OK) {
    add_row(n, o, r, p, &result);
    return TML_OK;
  }
  if (status != TML_FAULT && status != TML_TIMEOUT && status != TML_DRIVER) {
    /* All ranks agreed on it, and the comm is whole: one row fails, the rest goes on. */
    if (variant && !*result.variant) snprintf(result.variant, sizeof result.variant, "%s", variant);
    snprintf(result.why, sizeof result.why, "%.190s", tml_last_error());
    result.relative = NAN;
    result.passed = 0;
    add_row(n, o, r, p, &result);
    return TML_OK;
  }
  return tml_wrap(status, "%s%s%s", tml_problem_print(p, text, sizeof text), variant ? " by " : "",
                  variant ? variant : "");
}

/* One of the fused variants; all ranks find the same, and over problems and seeds all get their turn. */
static tml_status run_rotated(tally *n, rig *r, const check_options *o, const tml_problem *p,
                              size_t turn)
{
  cover *c = o->covers[r->rank];
  const char *variant;
  tml_problem real = *p;
  if (real.m == 0) real.m = 64;
  TRY(cover_choose(c, r->gen, r->ctx->arch, &real, turn, &variant));
  TRY(run_variant(n, r, o, p, variant));
  if (p->m > 0) cover_ran(c, p, variant);
  return TML_OK;
}

static tml_status run_problem(tally *n, rig *r, const check_options *o, const tml_problem *p)
{
  space points = {0};
  tml_status status = TML_OK;
  if (!o->glob) return run_variant(n, r, o, p, NULL);
  TRY(space_of_problem(r->gen, p, r->ctx->arch, o->glob, 0, &points));
  for (size_t i = 0; i < points.count && status == TML_OK; i++)
    status = run_variant(n, r, o, p, points.at[i].variant.name);
  space_free(&points);
  return status;
}

static tml_status check_problems(tally *n, rig *r, const check_options *o)
{
  for (size_t i = 0; i < o->list.count; i++) {
    char text[PROBLEM_TEXT_BYTES];
    tml_problem_print(&o->list.at[i], text, sizeof text);
    if (n->bar.tty) progress_step(&n->bar, (int)i, (int)o->list.count, "%s", text);
    TRY(o->rotate ? run_rotated(n, r, o, &o->list.at[i], (size_t)o->rotate + i)
                  : run_problem(n, r, o, &o->list.at[i]));
  }
  return TML_OK;
}

static int rank_main(const ranks_env *env, void *user)
{
  const check_options *o = user;
  rig r;
  tally n = {0};
  check_found *f = &n.found;
  tml_status status = rig_open(&r, env, &o->rig);
  if (o->inject && strcmp(o->inject, "absent") == 0) return check_inject_absent(env, o, status);
  if (status != TML_OK) return rig_fail(env, status, "check");
  r.host_inputs = o->host_inputs;
  if (o->inject) return check_inject(&r, o);
  check_found_create(
      f,
      r.rank == 0 ? space_name_width(r.gen, r.ctx->arch, o->list.at, o->list.count, o->glob) : 0);
  progress_begin(&n.bar, r.rank != 0);
  status = check_problems(&n, &r, o);
  if (status == TML_OK && o->graphs)
    status = check_graphs(&r, device_emulated() ? 2 : 134, &f->graphs);
  if (status == TML_OK && o->copies) status = check_copies(&r, f->copies);
  if (status == TML_OK && o->stress) status = check_stress(&r, o, &f->stress); /* last: it seals */
  progress_clear(&n.bar);
  int code = status != TML_OK ? rig_fail(env, status, "check")
             : r.rank == 0    ? check_report(o, f, progress_seconds(&n.bar))
                              : check_verdict(f);
  check_found_free(f);
  rig_close(&r, status == TML_OK);
  return code;
}

/* What a soak mixes: the problems that were given, or its own. */
static void choose_stressed(check_options *o, int world)
{
  for (size_t i = 0; i < o->list.count; i++) problems_add(&o->stressed, &o->list.at[i]);
  problems_keep_world(&o->stressed, world);
  o->stress_cover = o->list.count == 0;
  if (o->stress_cover) problems_stress(&o->stressed, world, device_emulated());
}

/* What to check, once the world is known. */
static int choose_problems(check_options *o, int world)
{
  if (o->stress) choose_stressed(o, world);
  if (o->suite && device_emulated())
    problems_suite_small(&o->list, world);
  else if (o->suite)
    problems_suite(&o->list, world);
  o->rotate = o->suite && device_emulated() ? 7 * world : 0;
  if (o->inject && o->list.count == 0) {
    tml_problem p = {
        .size = sizeof p, .op = TML_GEMM_AR, .world = world, .m = 512, .n = 1024, .k = 512};
    problems_add(&o->list, &p);
  }
  int code = o->list.count > 0 ? problems_fit(&o->list, world) : CLI_OK;
  if (code) return code;
  if (o->copies && world < 2) return cli_usage("check", "--copies needs a world of 2 or more");
  if (o->inject && (world < 2 || o->list.at[0].op == TML_GEMM))
    return cli_usage("check",
                     "--inject needs a world of 2 or more and a problem that communicates");
  if (o->inject && (o->victim < 0 || o->victim >= world))
    return cli_usage("check", "--victim %d: ranks run from 0 to %d", o->victim, world - 1);
  return CLI_OK;
}

/* One seed of the emulator. */
static int run_seed(check_options *o, const ranks_options *how, const ranks_machine *machine,
                    int seed)
{
  char speed[100];
  o->rig.seed = seed;
  int code = ranks_run(how, machine, rank_main, o);
  if (o->rotate) o->rotate += (int)o->list.count + 1;
  if (o->inject) return code; /* after an abort no rank waits for data: hazards are none */
  size_t reports = device_reports();
  if (reports) return cli_fail("seed %d: the emulator reports %zu hazards", seed, reports);
  if (code) return cli_fail("seed %d failed", seed);
  fprintf(o->text, "seed %d: no hazard, %s\n", seed, device_speed(speed, sizeof speed));
  fflush(o->text);
  return CLI_OK;
}

static int each_seed(check_options *o, const ranks_options *how, const ranks_machine *machine)
{
  int first = o->rig.seed ? o->rig.seed : 1;
  for (int i = 0; i < o->seeds; i++) {
    int code = i == 0 ? CLI_OK : device_choose("check", o->rig.device, o->rig.world, first + i);
    if (!code) code = run_seed(o, how, machine, first + i);
    if (code) return code;
  }
  return CLI_OK;
}

static int report_cover(const check_options *o)
{
  cJSON *rows, *report = *o->report;
  int missing = cover_report(o->covers[0], o->text, &rows);
  if (report)
    cJSON_AddItemToObject(report, "cover", rows);
  else
    cJSON_Delete(rows);
  return missing ? cli_fail("%d parts of the space have not run: raise --seeds", missing) : CLI_OK;
}

/* On the emulator so often as there are seeds, each with a machine of its own. */
static int run_seeds(check_options *o, const ranks_options *how, const ranks_machine *machine)
{
  cJSON *last = NULL;
  o->report = &last;
  int code = each_seed(o, how, machine);
  if (!code && o->cover_all) code = report_cover(o);
  if (last && output_json(o->json, last)) code = CLI_FAILED;
  return code;
}

static int make_covers(check_options *o)
{
  for (int r = 0; r < TML_MAX_WORLD && o->rotate; r++) {
    o->covers[r] = cover_create();
    if (!o->covers[r]) return cli_fail("out of memory");
  }
  return CLI_OK;
}

static int is_folder(const char *path)
{
  struct stat at;
  return stat(path, &at) == 0 && S_ISDIR(at.st_mode);
}

/* Makes the folder of --outputs where there is none. */
static int open_folder(const char *path)
{
  if (!path) return CLI_OK;
  if (!*path) return cli_usage("check", "--outputs wants the name of a folder, not \"\"");
  if (mkdir(path, 0777) != 0 && errno != EEXIST)
    return cli_fail("cannot make the folder %s: %s", path, strerror(errno));
  if (access(path, W_OK | X_OK) != 0 || !is_folder(path))
    return cli_fail("--outputs %s: choose a folder that can be written", path);
  return CLI_OK;
}

static int run(check_options *o)
{
  ranks_machine machine;
  ranks_probe(&machine);
  ranks_options how = {.world = o->rig.world, .timeout_s = o->rig.timeout_s};
  how.absent = how.doomed = -1;
  int world = ranks_world(&how, &machine);
  if (world == 0) return cli_fail("no GPU to run on: %s", machine.why);
  if (o->victim == CLI_NONE) o->victim = world - 1;
  if (!o->seeds) o->seeds = 1;
  if (!o->reps) o->reps = device_emulated() ? 2 : 50;
  o->text = output_beside(o->json);
  int code = choose_problems(o, world);
  if (!code) code = make_covers(o);
  if (code) return code;
  if (o->inject && strcmp(o->inject, "absent") == 0) how.absent = o->victim;
  if (check_inject_kills(o->inject)) how.doomed = o->victim;
  return device_emulated() ? run_seeds(o, &how, &machine) : ranks_run(&how, &machine, rank_main, o);
}

static int check_injection(const check_options *o)
{
  if (!check_inject_known(o->inject))
    return cli_usage("check", "--inject %s is not a fault that can be injected", o->inject);
  if (check_inject_kills(o->inject) && device_emulated())
    return cli_usage("check",
                     "--inject %s kills a process, and the emulator's ranks are threads of "
                     "one: choose absent or mismatch:m, n or op",
                     o->inject);
  if (o->suite || o->graphs || o->copies || o->stress || o->glob || o->json || o->outputs)
    return cli_usage("check", "--inject goes alone: with --victim and one problem at most");
  if (o->list.count > 1)
    return cli_usage("check", "--inject takes one problem, not %zu", o->list.count);
  return CLI_OK;
}

/* Do the options make sense together? */
static int check_together(const check_options *o)
{
  if (o->inject) return check_injection(o);
  if (o->victim != CLI_NONE) return cli_usage("check", "--victim goes with --inject FAULT");
  if (o->seeds && !device_emulated()) return cli_usage("check", "--seeds is for --device emu");
  if (o->cover_all && !(o->suite && device_emulated()))
    return cli_usage("check", "--cover goes with --suite and --device emu");
  if (!o->suite && !o->graphs && !o->copies && !o->stress && o->list.count == 0)
    return cli_usage("check", "say what to check: problems, --problems FILE, --suite, "
                              "--graphs, --copies or --stress N");
  return CLI_OK;
}

int cmd_check(int argc, char **argv)
{
  check_options o = {.victim = CLI_NONE};
  const char *file = NULL;
  const cli_option options[] = {
      {"--problems", "-p", CLI_TEXT, &file, "FILE", "one problem a line, # starts a comment"},
      {"--suite", NULL, CLI_FLAG, &o.suite, NULL,
       "the built-in suite (on the emulator small, with fused variants in turn): all ops of this "
       "world, both types, m from 0 to 4096, n and k down to "
       "8"},
      {"--variants", NULL, CLI_TEXT, &o.glob, "GLOB",
       "check every variant that matches and serves the problem, not only the pick"},
      {"--reps", NULL, CLI_COUNT, &o.reps, "N",
       "repetitions that must give equal bits; default 50, on the emulator 2"},
      {"--seeds", NULL, CLI_COUNT, &o.seeds, "N",
       "with --device emu: schedules to try, from --seed on; default 1"},
      {"--cover", NULL, CLI_FLAG, &o.cover_all, NULL,
       "with --suite on the emulator: show how often each part of the space has run, and fail "
       "unless every tile, cluster, depth, schedule, ring, "
       "pace, chunk, number of movers and pattern has run, with each op and type"},
      {"--graphs", NULL, CLI_FLAG, &o.graphs, NULL,
       "graphs of 41 and 40 calls of mixed ops, replayed 201 times (on the emulator 3) with "
       "changing inputs, against eager calls bit by bit"},
      {"--host-inputs", NULL, CLI_FLAG, &o.host_inputs, NULL,
       "inputs are made by the host, as for the emulator: then hashes of both can be compared"},
      {"--outputs", NULL, CLI_TEXT, &o.outputs, "DIR",
       "write each output, packed 16-bit rows, to DIR/rowI.rankR (row I of the table, from 0); the "
       "folder is made if there is none"},
      {"--json", NULL, CLI_FILE, &o.json, "FILE",
       "write the table as JSON, with a hash of each rank's output (of the last seed); - is the "
       "standard output"},
      {"--copies", NULL, CLI_FLAG, &o.copies, NULL,
       "copies between GPUs and their signals make progress beside a grid that waits for them on "
       "every SM"},
      {"--stress", NULL, CLI_COUNT, &o.stress, "N",
       "a soak: N calls back to back on one comm, of the given problems (or of a built-in set of "
       "all ops), "
       "with random m and inputs and random delays of ranks, drawn from --seed; each output must "
       "have the "
       "bits of the same call alone, which is compared with the reference first (picks of nccl "
       "too, "
       "though NCCL promises no bits: see TIDEMILL_STRICT); memory must not grow"},
      {"--inject", NULL, CLI_TEXT, &o.inject, "FAULT",
       "one rank misbehaves; exit code 0 if all others name it, 1 if not: die:before-first, "
       "die:between, die:inside "
       "(SIGKILL, not on the emulator), absent (never started), mismatch:m, mismatch:n, "
       "mismatch:op"},
      {"--victim", NULL, CLI_INT, &o.victim, "RANK",
       "the rank that --inject spoils; default: the last"},
      {"--no-jit", NULL, CLI_FLAG, &o.rig.no_jit, NULL,
       "compile nothing: all must come from the bank"},
      RIG_OPTIONS(o.rig),
  };
  const cli_command command = {
      "check",
      "[PROBLEM...]",
      "Compares results with the fp32 reference kernel: outputs are poisoned with NaN first, the "
      "error is\n"
      "the relative Frobenius norm on the host in double (limits: bf16 4e-3, fp16 6e-4; by `ring` "
      "more for more than 3 ranks), every element\n"
      "must be written, gemm_rs and gemm_ar must repeat bit by bit, gemm_ar be equal on all ranks, "
      "and\n"
      "ag_gemm's gathered A be the ranks' inputs.",
      options,
      sizeof options / sizeof *options,
      "  tidemill check --bank h200.bank --world 2 --suite --graphs\n"
      "  tidemill check --bank h200.bank --world 2 --stress 10000 --seed 7\n"
      "  tidemill check --world 2 --variants '*' gemm_rs:bf16:nt:w2:777x1024x512:bias\n"
      "  tidemill check --world 2 --inject die:inside --timeout 3\n"};
  cli_list operands;
  int code = cli_parse(&command, argc, argv, &operands);
  if (code) return code == CLI_HELP ? CLI_OK : code;
  code = rig_check_options("check", &o.rig);
  if (!code) code = problems_read(&o.list, "check", &operands, file);
  if (!code) code = check_together(&o);
  if (!code) code = open_folder(o.outputs);
  if (!code) code = run(&o);
  for (int r = 0; r < TML_MAX_WORLD; r++) cover_free(o.covers[r]);
  problems_free(&o.list);
  problems_free(&o.stressed);
  free(operands.at);
  return code;
}
