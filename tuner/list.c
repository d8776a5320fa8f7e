#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/api.h"
#include "../runtime/bank.h"
#include "../runtime/status.h"
#include "cli.h"
#include "commands.h"
#include "output.h"
#include "space.h"
#include "table.h"

typedef struct lister {
  const char *glob;           /* NULL: all */
  const tml_problem *problem; /* NULL: none; else only what serves it */
  table *rows;
} lister;

#define SPACE_COLUMNS 5
static const table_column space_columns[SPACE_COLUMNS] = {
    {"variant", "variant", 's', 0, 0},        {"kind", "kind", 's', 0, 0},
    {"threads", "threads", 'd', 0, 0},        {"smem", "smem_bytes", 'd', 0, 0},
    {"refused because", "reason", 's', 0, 0},
};
static const table_column bank_columns[] = {
    {"variant", "variant", 's', 0, 0},    {"regs", "registers", 'd', 0, 0},
    {"spills", "spill_bytes", 'd', 0, 0}, {"cubin", "cubin_bytes", 'd', 0, 0},
    {"ms", "compile_ms", 'd', 0, 0},      {"compiler", "compiler", 's', 0, 0},
    {"state", "state", 's', 0, 0},
};
static const table_column pick_columns[] = {
    {"problem", "problem", 's', 0, 0},     {"m to", "bucket", 'd', 0, 0},
    {"pick", "variant", 's', 0, 0},        {"us", "us", 'f', 1, 0},
    {"runner-up", "runner_up", 's', 0, 0}, {"us", "runner_up_us", 'f', 1, 0},
    {"cublaslt us", "lt_us", 'f', 1, 0},   {"machine", "machine", 's', 0, 0},
};

static const char *kind_text(tml_kind kind)
{
  static const char *const texts[] = {
#define X(id, text) text,
    TML_KIND_MAP(X)
#undef X
  };
  return (int)kind < TML_KIND_COUNT ? texts[kind] : "?";
}

static double or_nan(double value) { return value > 0 ? value : NAN; }

static void add_point(lister *l, const space_point *p)
{
  const tml_variant *v = &p->variant;
  table_text(l->rows, v->name);
  table_text(l->rows, kind_text(v->kind));
  table_real(l->rows, or_nan(v->threads));
  table_real(l->rows, or_nan(v->smem));
  table_text(l->rows, *p->reason ? p->reason : NULL);
  table_end_row(l->rows);
}

static int add_row(void *user, const tml_bank_row *row, const char *bad)
{
  lister *l = user;
  if (l->glob && !tml_gen_glob(l->glob, row->name)) return 0;
  table_text(l->rows, row->name);
  table_real(l->rows, *row->refused ? NAN : row->registers);
  table_real(l->rows, row->spill_bytes);
  table_real(l->rows, or_nan((double)row->cubin_bytes));
  table_real(l->rows, row->compile_ms);
  table_text(l->rows, row->compiler);
  table_text(l->rows, bad ? bad : *row->refused ? row->refused : "ok");
  table_end_row(l->rows);
  return 0;
}

static int add_pick(void *user, const tml_pick *pick, const char *bad)
{
  lister *l = user;
  if (l->glob && !tml_gen_glob(l->glob, pick->variant)) return 0;
  table_text(l->rows, pick->key);
  table_real(l->rows, (double)pick->bucket);
  table_text(l->rows, bad ? bad : pick->variant);
  table_real(l->rows, or_nan(pick->us));
  table_text(l->rows, *pick->runner_up ? pick->runner_up : NULL);
  table_real(l->rows, or_nan(pick->runner_up_us));
  table_real(l->rows, or_nan(pick->lt_us));
  table_text(l->rows, pick->machine.gpu);
  table_end_row(l->rows);
  return 0;
}

typedef struct list_options {
  const char *bank, *source, *json, *arch;
  int refused, picks;
} list_options;

static tml_status list_bank(lister *l, const list_options *o)
{
  tml_bank *bank = NULL;
  TRY(tml_bank_open(&bank, o->bank));
  tml_status status =
      o->picks ? tml_bank_each_pick(bank, add_pick, l) : tml_bank_each(bank, add_row, l);
  tml_bank_close(bank);
  return status;
}

static tml_status list_space(lister *l, const list_options *o)
{
  tml_filter filter = {.arch = o->arch, .glob = l->glob, .refused = o->refused};
  tml_gen *gen = NULL;
  space points = {0};
  TRY(tml_gen_open(&gen, o->source, tml_api_open()->isa));
  tml_status status = l->problem
                          ? space_of_problem(gen, l->problem, o->arch, NULL, o->refused, &points)
                          : space_collect(gen, &filter, &points);
  for (size_t i = 0; i < points.count; i++) add_point(l, &points.at[i]);
  space_free(&points);
  tml_gen_close(gen);
  return status;
}

static int print(const list_options *o, const char *what, const table *rows)
{
  FILE *to = output_beside(o->json);
  if (table_rows(rows))
    table_print(rows, to);
  else if (o->picks && !what)
    fputs("no picks\n", to); /* a bank may have none; that something is called so is a mistake */
  else
    return cli_fail("nothing matches \"%.80s\"; `tidemill list` without it shows all",
                    what ? what : "");
  return CLI_OK;
}

static int run(const list_options *o, const char *what)
{
  tml_problem problem = {.size = sizeof problem};
  lister l = {0};
  if (what && strchr(what, ':')) {
    if (tml_problem_parse(&problem, what) != TML_OK)
      return cli_usage("list", "%s", tml_last_error());
    if (o->bank)
      return cli_usage("list", "--bank lists by GLOB; for a problem see: tidemill explain");
    l.problem = &problem;
  } else {
    l.glob = what;
  }
  if (o->picks && !o->bank) return cli_usage("list", "--picks needs --bank FILE");
  if (o->bank && (o->arch || o->refused))
    return cli_usage("list", "%s is for the space; a bank is listed whole, or by GLOB",
                     o->arch ? "--arch" : "--refused");
#define COLUMNS(c) c, (int)(sizeof c / sizeof *c)
  table_column points[SPACE_COLUMNS];
  memcpy(points, space_columns, sizeof points);
  if (!o->refused) points[SPACE_COLUMNS - 1].title = NULL; /* the reasons: there are none */
  l.rows = o->picks  ? table_create(COLUMNS(pick_columns))
           : o->bank ? table_create(COLUMNS(bank_columns))
                     : table_create(COLUMNS(points));
#undef COLUMNS
  tml_status status = o->bank ? list_bank(&l, o) : list_space(&l, o);
  int code = status == TML_OK         ? CLI_OK
             : status == TML_ARGUMENT ? cli_usage("list", "%s", tml_last_error())
                                      : cli_fail_status(status, "list");
  if (!code) code = print(o, what, l.rows);
  if (!code && o->json) code = table_write_json(l.rows, o->json, NULL, NULL);
  table_free(l.rows);
  return code;
}

int cmd_list(int argc, char **argv)
{
  list_options o = {0};
  const cli_option options[] = {
      {"--bank", "-b", CLI_TEXT, &o.bank, "FILE",
       "list the rows of this bank instead of the space"},
      {"--picks", NULL, CLI_FLAG, &o.picks, NULL,
       "with --bank: list its picks, of variants that match GLOB"},
      {"--arch", NULL, CLI_TEXT, &o.arch, "ARCH", "of the space, only this architecture"},
      {"--refused", NULL, CLI_FLAG, &o.refused, NULL,
       "also illegal points of the space, with the reason"},
      {"--json", NULL, CLI_FILE, &o.json, "FILE",
       "write the table as JSON; - is the standard output"},
      {"--source", NULL, CLI_TEXT, &o.source, "DIR",
       "read gen/ and templates/ from this folder instead of the built-in copies"},
  };
  const cli_command command = {"list",
                               "[GLOB | PROBLEM]",
                               "Lists variants by name: of the declared space, all that match GLOB "
                               "(* and ?) or all that serve\n"
                               "PROBLEM; or of a bank, with what the compiler said of each.",
                               options,
                               sizeof options / sizeof *options,
                               "  tidemill list 'ag_gemm.sm90a.bf16.*__*.s4.*'\n"
                               "  tidemill list gemm_rs:bf16:nt:w2:4096x8192x3584\n"
                               "  tidemill list --bank h200.bank --picks\n"};
  cli_list operands;
  int code = cli_parse(&command, argc, argv, &operands);
  if (code) return code == CLI_HELP ? CLI_OK : code;
  o.source = cli_or_env(o.source, "TIDEMILL_SOURCE");
  if (operands.count > 1)
    code = cli_usage("list", "one GLOB or PROBLEM at a time (quote the GLOB)");
  else
    code = run(&o, operands.count ? operands.at[0] : NULL);
  free(operands.at);
  return code;
}
