/* What `check` prints and writes. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../runtime/status.h"
#include "check.h"
#include "output.h"

#define CREATE(columns) table_create(columns, (int)(sizeof columns / sizeof *columns))

static const table_column row_columns[] = {
    {"problem", "problem", 's', 0, 44},
    {"variant", "variant", 's', 0, 0},
    {"rel. error", "relative", 'e', 2, 10},
    {"result", "result", 's', 0, 0},
    {NULL, "passed", 's', 0, 0},
    {NULL, "hash", 's', 0, 0}, /* XXH3-64 of each rank's output, in rank order */
};

enum { VARIANT_COLUMN = 1 };

void check_found_create(check_found *f, int name_width)
{
  *f = (check_found){.rows = CREATE(row_columns)};
  table_widen(f->rows, VARIANT_COLUMN, name_width);
  f->copies = table_create(check_copies_columns, CHECK_COPIES_COLUMNS);
}

void check_found_free(check_found *f)
{
  table_free(f->rows);
  table_free(f->copies);
}

void check_add_row(check_found *f, const rig *r, const tml_problem *p, const check_result *c)
{
  char text[PROBLEM_TEXT_BYTES], hashes[17 * TML_MAX_WORLD + 1];
  c->passed ? f->passed++ : f->failed++;
  if (r->rank != 0) return;
  table_text(f->rows, tml_problem_print(p, text, sizeof text));
  table_text(f->rows, *c->variant ? c->variant : NULL);
  table_real(f->rows, p->m == 0 ? NAN : c->relative);
  table_text(f->rows, c->passed ? "ok" : c->why);
  table_flag(f->rows, c->passed);
  for (int i = 0; i < r->world; i++)
    snprintf(hashes + 17 * i, 18, "%016llx ", (unsigned long long)c->hash[i]);
  hashes[17 * r->world - 1] = 0;
  table_text(f->rows, hashes);
  table_end_row(f->rows);
}

/* ---- In words ----------------------------------------------------------------------------------- */

static int graphs_wrong(const check_graphs_result *g) { return g->of[0].wrong + g->of[1].wrong; }

static void print_graphs(const check_graphs_result *g, FILE *to)
{
  fprintf(to,
          "%d replays each of a graph of %d and one of %d mixed calls: %d outputs differ from "
          "eager\n",
          g->replays, g->of[0].calls, g->of[1].calls, graphs_wrong(g));
}

static void print_stress(const check_stress_result *s, FILE *to)
{
  fprintf(to, "stress: %d calls of %d plans, %d of them distinct, %d delayed, seed %llu, %.0f s; ",
          s->calls, s->plans, s->distinct, s->delayed, (unsigned long long)s->seed, s->seconds);
  fprintf(
      to,
      "worst relative error %.2e; device memory %.1f MB + %.0f bytes, host %.1f MB + %.1f MB: %s\n",
      s->relative, s->device_bytes * 1e-6, s->device_growth, s->host_bytes * 1e-6,
      s->host_growth * 1e-6, *s->why ? "WRONG" : "all bits as alone");
}

static void print(const check_options *o, const check_found *f, double seconds)
{
  if (f->graphs.replays) print_graphs(&f->graphs, o->text);
  if (table_rows(f->copies)) {
    fprintf(o->text, "copies and signals passed a grid that waits for them on every SM:\n");
    table_print(f->copies, o->text);
  }
  if (f->stress.calls) print_stress(&f->stress, o->text);
  if (f->passed + f->failed)
    fprintf(o->text, "%d passed, %d failed in %.0f s\n", f->passed, f->failed, seconds);
}

/* ---- As JSON ------------------------------------------------------------------------------------ */

static cJSON *graphs_json(const check_graphs_result *g)
{
  static const table_column columns[] = {
      {NULL, "calls", 'd', 0, 0},
      {NULL, "replays", 'd', 0, 0},
      {NULL, "outputs", 'd', 0, 0},
      {NULL, "wrong", 'd', 0, 0},
  };
  table *t = CREATE(columns);
  for (int i = 0; i < 2; i++) {
    table_real(t, g->of[i].calls);
    table_real(t, g->replays);
    table_real(t, g->of[i].outputs);
    table_real(t, g->of[i].wrong);
    table_end_row(t);
  }
  cJSON *rows = table_to_json(t);
  table_free(t);
  return rows;
}

static cJSON *stress_json(const check_stress_result *s)
{
  cJSON *object = cJSON_CreateObject();
  cJSON_AddNumberToObject(object, "calls", s->calls);
  cJSON_AddNumberToObject(object, "plans", s->plans);
  cJSON_AddNumberToObject(object, "distinct", s->distinct);
  cJSON_AddNumberToObject(object, "delayed", s->delayed);
  cJSON_AddNumberToObject(object, "seed", (double)s->seed);
  cJSON_AddNumberToObject(object, "seconds", s->seconds);
  cJSON_AddNumberToObject(object, "relative", s->relative); /* INFINITY becomes null */
  cJSON_AddNumberToObject(object, "device_bytes", s->device_bytes);
  cJSON_AddNumberToObject(object, "device_growth", s->device_growth);
  cJSON_AddNumberToObject(object, "host_bytes", s->host_bytes);
  cJSON_AddNumberToObject(object, "host_growth", s->host_growth);
  cJSON_AddBoolToObject(object, "passed", !*s->why);
  cJSON_AddStringToObject(object, "why", s->why);
  return object;
}

/* The rows alone, or an object of whatever else there is and the rows. */
static cJSON *to_json(const check_options *o, const check_found *f)
{
  cJSON *rows = table_to_json(f->rows);
  if (!f->graphs.replays && !o->copies && !f->stress.calls && !o->cover_all) return rows;
  cJSON *all = cJSON_CreateObject();
  if (f->graphs.replays) cJSON_AddItemToObject(all, "graphs", graphs_json(&f->graphs));
  if (o->copies) cJSON_AddItemToObject(all, "copies", table_to_json(f->copies));
  if (f->stress.calls) cJSON_AddItemToObject(all, "stress", stress_json(&f->stress));
  cJSON_AddItemToObject(all, "rows", rows);
  return all;
}

/* On the emulator the last seed's counts, and it is written when all are done. */
static int write_json(const check_options *o, const check_found *f)
{
  cJSON *root = to_json(o, f);
  if (!o->report) return output_json(o->json, root);
  cJSON_Delete(*o->report);
  *o->report = root;
  return CLI_OK;
}

/* ---- The verdict -------------------------------------------------------------------------------- */

int check_verdict(const check_found *f)
{
  return f->failed || graphs_wrong(&f->graphs) || *f->stress.why ? CLI_FAILED : CLI_OK;
}

int check_report(const check_options *o, const check_found *f, double seconds)
{
  int rows = f->passed + f->failed, wrong = graphs_wrong(&f->graphs);
  print(o, f, seconds);
  int code = o->json ? write_json(o, f) : CLI_OK;
  if (f->failed) code = cli_fail("%d of %d checks failed", f->failed, rows);
  if (wrong) code = cli_fail("%d outputs of graphs differ from those of eager calls", wrong);
  if (*f->stress.why) code = cli_fail("stress: %s", f->stress.why);
  if (!f->graphs.replays && !o->copies && !f->stress.calls && rows == 0)
    code = cli_fail("nothing was checked: no variant matches \"%s\"", o->glob ? o->glob : "");
  return code;
}
