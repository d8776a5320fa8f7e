#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/api.h"
#include "../runtime/bank.h"
#include "../runtime/problem.h"
#include "../runtime/status.h"
#include "cli.h"
#include "commands.h"
#include "output.h"
#include "problems.h"
#include "ranks.h"
#include "space.h"
#include "table.h"

typedef struct explain_options {
  const char *bank, *source, *json, *arch;
  int top;
} explain_options;

static const table_column rank_columns[] = {
    {"rank", "rank", 'd', 0, 0},
    {"variant", "variant", 's', 0, 0},
    {"model us", "model_us", 'f', 1, 0},
    {"TFLOP/s", "model_tflops", 'f', 0, 0},
};
static const table_column reason_columns[] = {{"points", "points", 'd', 0, 0},
                                              {"refused because", "reason", 's', 0, 0}};
static const table_column pick_columns[] = {
    {"m to", "bucket", 'd', 0, 0},
    {"pick", "variant", 's', 0, 0},
    {"us", "us", 'f', 1, 0},
    {"runner-up", "runner_up", 's', 0, 0},
    {"us", "runner_up_us", 'f', 1, 0},
    {"cublaslt us", "lt_us", 'f', 1, 0},
    {"serves this m", "serves", 's', 0, 0},
    {"machine", "machine", 's', 0, 0},
};
static const table_column field_columns[] = {{"field", "field", 's', 0, 0},
                                             {"value", "value", 's', 0, 0}};
#define TABLE(columns) table_create(columns, (int)(sizeof columns / sizeof *columns))

static int take_arch(void *arch, const tml_variant *variant, const char *reason)
{
  (void)reason;
  memcpy(arch, variant->arch, 16);
  return 1;
}

/* The arch to explain for: asked for, of the GPU here, or the first the space knows. */
static tml_status choose_arch(const explain_options *o, tml_gen *gen, char arch[16],
                              tml_machine *machine)
{
  ranks_machine here;
  memset(machine, 0, sizeof *machine);
  if (o->arch) {
    snprintf(arch, 16, "%s", o->arch);
    return TML_OK;
  }
  ranks_probe(&here);
  if (here.devices > 0) {
    *machine = here.machine;
    return tml_gen_arch(gen, machine->cc, arch, 16);
  }
  *arch = 0;
  TRY(tml_gen_each(gen, NULL, take_arch, arch));
  return *arch ? TML_OK : tml_fail(TML_UNSUPPORTED, "the space is empty");
}

/* Each reason once, in the order of the points, with their number. */
static tml_status add_reasons(table *t, const space *points, int *legal)
{
  size_t reasons = 0;
  struct {
    const char *text;
    int points;
  } *found = malloc((points->count + 1) * sizeof *found);
  if (!found) return tml_fail(TML_MEMORY, "out of memory");
  *legal = 0;
  for (size_t i = 0; i < points->count; i++) {
    const char *text = points->at[i].reason;
    size_t at = 0;
    if (!*text) {
      ++*legal;
      continue;
    }
    while (at < reasons && strcmp(found[at].text, text) != 0) at++;
    if (at == reasons) {
      found[reasons].text = text;
      found[reasons++].points = 0;
    }
    found[at].points++;
  }
  for (size_t i = 0; i < reasons; i++) {
    table_real(t, found[i].points);
    table_text(t, found[i].text);
    table_end_row(t);
  }
  free(found);
  return TML_OK;
}

static tml_status add_ranking(table *t, tml_gen *gen, const char *arch, const tml_problem *p,
                              const tml_machine *machine, int top, size_t *count)
{
  tml_ranked *ranked = malloc(TML_RANKED_MAX * sizeof *ranked);
  if (!ranked) return tml_fail(TML_MEMORY, "out of memory");
  tml_status status = tml_gen_rank(gen, arch, p, machine, ranked, TML_RANKED_MAX, count);
  if (status == TML_OK) {
    for (size_t i = 0; i < *count && i < TML_RANKED_MAX && (int)i < top; i++) {
      table_real(t, (double)i + 1);
      table_text(t, ranked[i].name);
      table_real(t, ranked[i].us);
      table_real(t, 2.0 * (double)p->m * (double)p->n * (double)p->k / ranked[i].us * 1e-6);
      table_end_row(t);
    }
  }
  free(ranked);
  return status;
}

typedef struct picks {
  table *rows;
  const tml_machine *here; /* sms 0: no GPU here, so any GPU's picks count */
  int emulated;            /* the bank is the emulator's: none counts */
  char key[TML_NAME_BYTES];
  int64_t m, serving; /* serving: the smallest bucket >= m */
  int pass;
} picks;

/* The machine as tml_bank_picks takes it, but for the link. */
static int counts(const picks *p, const tml_pick *pick)
{
  const tml_machine *here = p->here, *there = &pick->machine;
  if (p->emulated || here->sms == 0) return !p->emulated;
  return strcmp(there->gpu, here->gpu) == 0 && there->sms == here->sms && there->cc == here->cc;
}

static int see_pick(void *user, const tml_pick *pick, const char *bad)
{
  picks *p = user;
  if (bad || strcmp(pick->key, p->key) != 0) return 0;
  if (p->pass == 0) {
    if (counts(p, pick) && pick->bucket >= p->m && (p->serving < 0 || pick->bucket < p->serving))
      p->serving = pick->bucket;
    return 0;
  }
  table_real(p->rows, (double)pick->bucket);
  table_text(p->rows, pick->variant);
  table_real(p->rows, pick->us);
  table_text(p->rows, *pick->runner_up ? pick->runner_up : NULL);
  table_real(p->rows, pick->runner_up_us > 0 ? pick->runner_up_us : NAN);
  table_real(p->rows, pick->lt_us > 0 ? pick->lt_us : NAN);
  table_flag(p->rows, counts(p, pick) && pick->bucket == p->serving);
  table_text(p->rows, pick->machine.gpu);
  table_end_row(p->rows);
  return 0;
}

static tml_status add_picks(table *t, const char *path, const tml_problem *problem,
                            const tml_machine *here)
{
  picks p = {.rows = t, .here = here, .m = problem->m, .serving = -1};
  tml_bank *bank = NULL;
  tml_status status = TML_OK;
  if (!path) return TML_OK;
  tml_pick_key(problem, p.key, sizeof p.key);
  TRY(tml_bank_open(&bank, path));
  p.emulated = tml_bank_serves(bank, NULL) != TML_OK;
  for (p.pass = 0; p.pass < 2 && status == TML_OK; p.pass++)
    status = tml_bank_each_pick(bank, see_pick, &p);
  tml_bank_close(bank);
  return status;
}

static void print_problem(const char *text, const char *arch, const explain_options *o, int points,
                          int legal, const table *reasons, const table *ranking,
                          const table *chosen)
{
  FILE *to = output_beside(o->json);
  fprintf(to, "%s on %s\n\ncandidates: %d points of the space, %d legal, %d refused\n", text, arch,
          points, legal, points - legal);
  if (table_rows(reasons)) table_print(reasons, to);
  fprintf(to, "\nby the model, cheapest first:\n");
  table_print(ranking, to);
  if (!o->bank) {
    fprintf(to,
            "\npicks: no bank given (--bank FILE); a plan would take the first of the model that "
            "loads\n");
  } else if (!table_rows(chosen)) {
    fprintf(to,
            "\npicks in %s: none; a plan takes the first of the model that loads (`tidemill tune` "
            "measures)\n",
            o->bank);
  } else {
    fprintf(to, "\npicks in %s:\n", o->bank);
    table_print(chosen, to);
  }
}

static int write_json(const char *path, const char *text, const char *arch, const table *reasons,
                      const table *ranking, const table *chosen)
{
  cJSON *head = cJSON_CreateObject();
  cJSON_AddStringToObject(head, "problem", text);
  cJSON_AddStringToObject(head, "arch", arch);
  cJSON_AddItemToObject(head, "refused", table_to_json(reasons));
  cJSON_AddItemToObject(head, "picks", table_to_json(chosen));
  return table_write_json(ranking, path, head, "ranking");
}

static int explain_problem(const explain_options *o, tml_gen *gen, const tml_problem *problem)
{
  char arch[16] = "", text[PROBLEM_TEXT_BYTES];
  tml_machine machine;
  space points = {0};
  size_t ranked = 0;
  int legal = 0, code = CLI_OK;
  table *reasons = TABLE(reason_columns), *ranking = TABLE(rank_columns),
        *chosen = TABLE(pick_columns);
  tml_status status = choose_arch(o, gen, arch, &machine);
  if (status == TML_OK) status = space_of_problem(gen, problem, arch, NULL, 1, &points);
  if (status == TML_OK) status = add_reasons(reasons, &points, &legal);
  if (status == TML_OK)
    status = add_ranking(ranking, gen, arch, problem, &machine, o->top, &ranked);
  if (status == TML_OK) status = add_picks(chosen, o->bank, problem, &machine);
  tml_problem_print(problem, text, sizeof text);
  if (status == TML_OK) {
    print_problem(text, arch, o, (int)points.count, legal, reasons, ranking, chosen);
    if (o->json) code = write_json(o->json, text, arch, reasons, ranking, chosen);
  } else {
    code = status == TML_ARGUMENT ? cli_usage("explain", "%s", tml_last_error())
                                  : cli_fail_status(status, "explain");
  }
  space_free(&points);
  table_free(reasons);
  table_free(ranking);
  table_free(chosen);
  return code;
}

static void field(table *t, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void field(table *t, const char *name, const char *format, ...)
{
  char value[256];
  va_list list;
  va_start(list, format);
  vsnprintf(value, sizeof value, format, list);
  va_end(list);
  table_text(t, name);
  table_text(t, value);
  table_end_row(t);
}

static void field_number(table *t, const char *name, int value)
{
  table_text(t, name);
  table_real(t, value);
  table_end_row(t);
}

static void field_flag(table *t, const char *name, int value)
{
  table_text(t, name);
  table_flag(t, value);
  table_end_row(t);
}

static void add_fields(table *t, const tml_variant *v)
{
  static const char *const patterns[] = {
#define X(id, text) text,
    TML_PATTERN_MAP(X)
#undef X
  };
  static const char *const params[] = {
#define X(name, type) #name,
    TML_PARAM_MAP(X)
#undef X
  };
  char list[256] = "";
  size_t at = 0;
  field(t, "name", "%s", v->name);
  field(t, "arch", "%s", v->arch);
  field(t, "op, dtype, layout", "%s, %s, %s", tml_op_text(v->op), tml_dtype_text(v->dtype),
        tml_layout_text(v->layout));
  field_number(t, "world", v->world);
  field(t, "pattern", "%s", patterns[v->pattern]);
  if (v->kind == TML_KIND_LIBRARY) {
    field(t, "kernel", "none: calls the library");
    return;
  }
  field(t, "symbol", "%s", v->symbol);
  field(t, "tile m x n x k", "%d x %d x %d", v->tile_m, v->tile_n, v->tile_k);
  field(t, "cluster m x n", "%d x %d", v->cluster_m, v->cluster_n);
  field_number(t, "parts of k", v->split);
  field_number(t, "stages", v->stages);
  field(t, "TMA box rows a, b, c", "%d, %d, %d", v->box_a, v->box_b, v->box_c);
  field_number(t, "TMA box columns c", v->box_n);
  field_number(t, "threads", v->threads);
  field_number(t, "dynamic shared bytes", v->smem);
  field_flag(t, "cooperative launch", v->cooperative);
  field_flag(t, "programmatic launch", v->overlap);
  for (int i = 0; i < v->param_count && at < sizeof list; i++)
    at +=
        (size_t)snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", params[v->params[i]]);
  field(t, "parameters", "%s", list);
  for (int i = 0; i < v->requires_count; i++) field(t, "needs also", "%s", v->requires[i]);
}

static int explain_name(const explain_options *o, tml_gen *gen, const char *name)
{
  tml_variant v;
  tml_status status = tml_gen_variant(gen, name, &v);
  if (status == TML_ARGUMENT) return cli_usage("explain", "%s", tml_last_error());
  if (status != TML_OK) return cli_fail_status(status, name);
  table *t = TABLE(field_columns);
  add_fields(t, &v);
  table_print(t, output_beside(o->json));
  int code = o->json ? table_write_json(t, o->json, NULL, NULL) : CLI_OK;
  table_free(t);
  return code;
}

int cmd_explain(int argc, char **argv)
{
  explain_options o = {.top = 5};
  const cli_option options[] = {
      {"--bank", "-b", CLI_TEXT, &o.bank, "FILE",
       "the bank whose picks count; default: $TIDEMILL_BANK"},
      {"--arch", NULL, CLI_TEXT, &o.arch, "ARCH",
       "default: of the GPU here, else the first of the space"},
      {"--top", NULL, CLI_COUNT, &o.top, "N", "how many of the model's ranking; default 5"},
      {"--json", NULL, CLI_FILE, &o.json, "FILE", "write it as JSON; - is the standard output"},
      {"--source", NULL, CLI_TEXT, &o.source, "DIR",
       "read gen/ and templates/ from this folder instead of the built-in copies"},
  };
  const cli_command command = {
      "explain",
      "PROBLEM | NAME",
      "For a problem: how many points of the space can serve it, why the others cannot, how the "
      "model\n"
      "ranks them, and which pick the bank holds, with the runner-up. For a variant: its fields.",
      options,
      sizeof options / sizeof *options,
      "  tidemill explain --bank h200.bank ag_gemm:bf16:nt:w2:4096x7168x8192\n"};
  cli_list operands;
  tml_gen *gen = NULL;
  tml_problem problem = {.size = sizeof problem};
  int code = cli_parse(&command, argc, argv, &operands);
  if (code) return code == CLI_HELP ? CLI_OK : code;
  o.source = cli_or_env(o.source, "TIDEMILL_SOURCE");
  o.bank = cli_or_env(o.bank, "TIDEMILL_BANK");
  if (operands.count != 1)
    code = cli_usage("explain", "give one problem or one variant name");
  else if (strchr(operands.at[0], ':') && tml_problem_parse(&problem, operands.at[0]) != TML_OK)
    code = cli_usage("explain", "%s", tml_last_error());
  else if (tml_gen_open(&gen, o.source, tml_api_open()->isa) != TML_OK)
    code = cli_fail_status(TML_TEMPLATE, "explain");
  else
    code = strchr(operands.at[0], ':') ? explain_problem(&o, gen, &problem)
                                       : explain_name(&o, gen, operands.at[0]);
  tml_gen_close(gen);
  free(operands.at);
  return code;
}
