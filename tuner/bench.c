#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/status.h"
#include "commands.h"
#include "device.h"
#include "output.h"
#include "progress.h"

#define WRITE_EVERY_S 5 /* seconds between files of an unfinished run */

typedef struct bench_options {
  rig_options rig;
  problems list;
  bench_peers peers;
  const char *regime, *json, *out, *commit;
  FILE *text; /* for tables and notes */
  int rounds, symmetric;
  double sustained_ms;
  regime regimes[2];
  int regime_count;
} bench_options;

typedef struct bencher {
  rig r;
  const bench_options *o;
  bench_facts facts;
  table_column columns[BENCH_COLUMNS];
  table *rows;
  bench_row *all;
  size_t count;
  progress bar;
  double written_s; /* when the files were written last */
} bencher;

static tml_status see_facts(bencher *b)
{
  const tml_api *api = b->r.api;
  b->facts.machine = b->r.ctx->machine;
  b->facts.world = b->r.world;
  b->facts.lt = api->has_lt ? api->lt.p_cublasLtGetVersion() : 0;
  TRY(CU(api, cuDriverGetVersion, (&b->facts.driver)));
  if (api->has_nccl) TRY(NC(api, GetVersion, (&b->facts.nccl)));
  return bench_link(&b->r, &b->facts.link);
}

/* The files of the rows so far; the standard output waits for all rows. */
static int write_files(const bencher *b, const table *means, int all)
{
  const bench_options *o = b->o;
  char json[512], markdown[512];
  int code = CLI_OK;
  if (o->json && (all || !output_standard(o->json)))
    code = bench_write(o->json, NULL, b->rows, means, &b->facts, o->regime, o->commit);
  if (!o->out || code) return code;
  snprintf(json, sizeof json, "%s.json", o->out);
  snprintf(markdown, sizeof markdown, "%s.md", o->out);
  return bench_write(json, markdown, b->rows, means, &b->facts, o->regime, o->commit);
}

/* Now and then: a run that is stopped keeps what it measured. */
static void write_early(bencher *b)
{
  double now = progress_seconds(&b->bar);
  if (now < b->written_s + WRITE_EVERY_S) return;
  b->written_s = now;
  table *means = bench_means_table(b->all, b->count);
  write_files(b, means, 0);
  table_free(means);
}

static void keep_rows(bencher *b, bench_row *rows, int count)
{
  for (int i = 0; i < count; i++) {
    rows[i].peer = peers_best(&b->o->peers, &rows[i].problem, rows[i].regime);
    b->all[b->count++] = rows[i];
    bench_add_row(b->rows, &rows[i]);
  }
  if (b->r.rank != 0) return;
  progress_clear(&b->bar);
  table_stream_row(b->rows, b->o->text);
  write_early(b);
}

static tml_status bench_all(bencher *b)
{
  const problems *list = &b->o->list;
  TRY(see_facts(b));
  if (b->r.rank == 0) bench_print_facts(&b->facts, b->o->text);
  for (size_t i = 0; i < list->count; i++) {
    bench_row rows[2];
    char text[PROBLEM_TEXT_BYTES];
    tml_problem_print(&list->at[i], text, sizeof text);
    if (b->bar.tty) progress_step(&b->bar, (int)i, (int)list->count, "%s", text);
    tml_status status = bench_problem(&b->r, &list->at[i], b->o->regimes, b->o->regime_count,
                                      b->o->symmetric, &b->facts.link, rows);
    if (status == TML_UNSUPPORTED || status == TML_MEMORY || status == TML_MISS) {
      if (b->r.rank == 0) cli_fail_status(status, text); /* agreed on: the next problem may do */
      continue;
    }
    if (status != TML_OK) return tml_wrap(status, "%s", text);
    keep_rows(b, rows, b->o->regime_count);
  }
  return TML_OK;
}

static int finish(bencher *b)
{
  const bench_options *o = b->o;
  if (b->r.rank != 0) return CLI_OK;
  progress_clear(&b->bar);
  table *means = bench_means_table(b->all, b->count);
  fputc('\n', o->text);
  table_print(means, o->text);
  int code = write_files(b, means, 1);
  if (!code && o->out) fprintf(o->text, "wrote %s.json and %s.md\n", o->out, o->out);
  table_free(means);
  size_t wanted = o->list.count * (size_t)o->regime_count;
  if (b->count < wanted)
    return cli_fail("%zu of %zu rows were not measured", wanted - b->count, wanted);
  return code;
}

static int rank_main(const ranks_env *env, void *user)
{
  bencher b = {.o = user};
  tml_status status = rig_open(&b.r, env, &b.o->rig);
  if (status != TML_OK) return rig_fail(env, status, "bench");
  bench_columns(b.o->peers.count > 0, b.columns);
  b.rows = table_create(b.columns, BENCH_COLUMNS);
  b.all = calloc(2 * b.o->list.count, sizeof *b.all);
  progress_begin(&b.bar, b.r.rank != 0);
  status = b.all ? bench_all(&b) : tml_fail(TML_MEMORY, "out of memory");
  progress_clear(&b.bar);
  int code = status == TML_OK ? finish(&b) : rig_fail(env, status, "bench");
  table_free(b.rows);
  free(b.all);
  rig_close(&b.r, status == TML_OK);
  return code;
}

static int choose_regimes(bench_options *o)
{
  int burst = strcmp(o->regime, "burst") == 0, sustained = strcmp(o->regime, "sustained") == 0;
  int both = strcmp(o->regime, "both") == 0;
  if (!burst && !sustained && !both)
    return cli_usage("bench", "--regime %s: choose burst, sustained or both", o->regime);
  if (o->rounds > MEASURE_MAX_ROUNDS)
    return cli_usage("bench", "--rounds %d: choose 1 to %d", o->rounds, MEASURE_MAX_ROUNDS);
  if (o->sustained_ms < 1 || o->sustained_ms > MEASURE_MAX_MS)
    return cli_usage("bench", "--sustained-ms %g: choose 1 to %d", o->sustained_ms, MEASURE_MAX_MS);
  if (burst || both) {
    regime how = MEASURE_BURST;
    how.rounds = o->rounds;
    o->regimes[o->regime_count++] = how;
  }
  if (sustained || both) {
    regime how = MEASURE_SUSTAINED; /* its rounds are few: each is 2 windows long */
    how.sustained_ms = o->sustained_ms;
    o->regimes[o->regime_count++] = how;
  }
  return CLI_OK;
}

/* Both files of --out, before anything is measured. */
static int check_out(const char *name)
{
  char path[512];
  if (!name) return CLI_OK;
  if (!*name) return cli_usage("bench", "--out wants the name of files, not \"\"");
  if (snprintf(path, sizeof path, "%s.json", name) >= (int)sizeof path)
    return cli_usage("bench", "--out: choose a name below %zu bytes", sizeof path - 5);
  int code = output_check(path);
  snprintf(path, sizeof path, "%s.md", name);
  return code ? code : output_check(path);
}

static int run(bench_options *o)
{
  ranks_options how = {.world = o->rig.world, .timeout_s = o->rig.timeout_s};
  how.absent = how.doomed = -1;
  ranks_machine machine;
  ranks_probe(&machine);
  int world = ranks_world(&how, &machine);
  if (machine.devices == 0) return cli_fail("no GPU to run on: %s", machine.why);
  int code = problems_fit(&o->list, world);
  if (code) return code;
  code = ranks_run(&how, &machine, rank_main, o);
  size_t reports = device_reports();
  return reports ? cli_fail("the emulator reports %zu hazards", reports) : code;
}

int cmd_bench(int argc, char **argv)
{
  bench_options o = {.regime = "burst", .rounds = 7, .sustained_ms = 100};
  const char *file = NULL, *peers = NULL;
  const cli_option options[] = {
      {"--problems", "-p", CLI_TEXT, &file, "FILE", "one problem a line, # starts a comment"},
      {"--regime", NULL, CLI_TEXT, &o.regime, "NAME",
       "burst (idle gaps, high clock; the default), sustained (the power limit sets the clock) or "
       "both"},
      {"--rounds", NULL, CLI_COUNT, &o.rounds, "N", "timed rounds of a burst; default 7"},
      {"--sustained-ms", NULL, CLI_REAL, &o.sustained_ms, "MS",
       "load before and inside a sustained window; default 100"},
      {"--peers", NULL, CLI_TEXT, &peers, "FILE",
       "compare with times of others: a JSON list of {\"problem\": TEXT, NAME: microseconds, ...}; "
       "\"gemm\" is the GEMM alone; \"regime\" may be absent if one is timed"},
      {"--json", NULL, CLI_FILE, &o.json, "FILE",
       "write machine, means and rows as JSON; - is the standard output"},
      {"--out", "-o", CLI_TEXT, &o.out, "NAME", "write NAME.json and NAME.md"},
      {"--commit", NULL, CLI_TEXT, &o.commit, "TEXT",
       "the commit to name; default: what this program was built from"},
      {"--force", NULL, CLI_TEXT, &o.rig.force, "NAME", "time this variant instead of the pick"},
      {"--symmetric", NULL, CLI_FLAG, &o.symmetric, NULL,
       "C of gemm_ar is symmetric memory, and the calls say so"},
      {"--no-jit", NULL, CLI_FLAG, &o.rig.no_jit, NULL,
       "compile nothing: all must come from the bank"},
      RIG_OPTIONS(o.rig),
  };
  const cli_command command = {
      "bench",
      "[PROBLEM...]",
      "Times what a plan runs beside cuBLASLt alone (first heuristic, 32 MiB workspace) and "
      "beside\n"
      "cuBLASLt and our own GEMM with NCCL in sequence. Each column is a CUDA graph of 10 calls "
      "over\n"
      "weights rotated past the L2, random normal data, a device-side barrier right before the "
      "start\n"
      "event, columns interleaved in rotating order; median of the rounds, slowest rank.",
      options,
      sizeof options / sizeof *options,
      "  tidemill bench --bank h200.bank --world 2 --problems problems.txt --regime both -o "
      "results/h200x2\n"};
  cli_list operands;
  int code = cli_parse(&command, argc, argv, &operands);
  if (code) return code == CLI_HELP ? CLI_OK : code;
  code = rig_check_options("bench", &o.rig);
  o.text = output_beside(o.json);
  if (!code) code = choose_regimes(&o);
  if (!code) code = check_out(o.out);
  if (!code) code = problems_read(&o.list, "bench", &operands, file);
  if (!code && o.list.count == 0)
    code = cli_usage("bench", "say what to time: problems or --problems FILE");
  if (!code && peers) code = peers_read(&o.peers, peers, o.regime_count == 1 ? o.regime : NULL);
  if (!code) code = run(&o);
  problems_free(&o.list);
  peers_free(&o.peers);
  free(operands.at);
  return code;
}
