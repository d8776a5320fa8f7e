#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/api.h"
#include "../runtime/bank.h"
#include "../runtime/rtc.h"
#include "../runtime/status.h"
#include "cli.h"
#include "commands.h"
#include "output.h"
#include "table.h"

typedef struct show_options {
  const char *bank, *source, *cubin, *json;
  int text, row, lines;
} show_options;

static const table_column columns[] = {{"field", "field", 's', 0, 0},
                                       {"value", "value", 's', 0, 0}};

static void pair(table *t, const char *field, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void pair(table *t, const char *field, const char *format, ...)
{
  char value[256];
  va_list list;
  va_start(list, format);
  vsnprintf(value, sizeof value, format, list);
  va_end(list);
  table_text(t, field);
  table_text(t, value);
  table_end_row(t);
}

static void number(table *t, const char *field, double value)
{
  table_text(t, field);
  table_real(t, value);
  table_end_row(t);
}

/* From the bank, or compiled now. */
static tml_status get_row(const show_options *o, tml_gen *gen, const tml_variant *v,
                          tml_bank_row *row)
{
  const char *options = tml_rtc_options(v->arch);
  char *text = NULL;
  size_t bytes = 0;
  memset(row, 0, sizeof *row);
  TRY(tml_gen_expand(gen, v->name, 0, &text, &bytes)); /* identity: the text without #line marks */
  tml_source_hash(text, bytes, options, row->hash);
  free(text);
  if (o->bank) {
    tml_bank *bank = NULL;
    char hash[TML_HASH_BYTES];
    memcpy(hash, row->hash, sizeof hash);
    TRY(tml_bank_open(&bank, o->bank));
    tml_status status = tml_bank_get(bank, v->name, hash, row);
    tml_bank_close(bank);
    return status;
  }
  tml_build build;
  memset(&build, 0, sizeof build);
  TRY(tml_gen_expand(gen, v->name, 1, &text, &bytes));
  tml_status status = tml_rtc_compile(tml_api_open(), v->name, text, v->arch, &build);
  free(text);
  TRY(status);
  snprintf(row->name, sizeof row->name, "%s", v->name);
  snprintf(row->arch, sizeof row->arch, "%s", v->arch);
  snprintf(row->compiler, sizeof row->compiler, "%s", build.compiler);
  snprintf(row->options, sizeof row->options, "%s", options);
  memcpy(row->refused, build.refused, sizeof row->refused);
  row->registers = build.registers;
  row->smem_static = build.smem_static;
  row->local_bytes = build.local_bytes;
  row->spill_bytes = build.spill_bytes;
  row->compile_ms = build.compile_ms;
  row->cubin = build.cubin;
  row->cubin_bytes = build.cubin_bytes;
  build.cubin = NULL; /* now the row's */
  tml_build_free(&build);
  return TML_OK;
}

static int print_row(const show_options *o, const tml_bank_row *row)
{
  table *t = table_create(columns, 2);
  pair(t, "name", "%s", row->name);
  pair(t, "arch", "%s", row->arch);
  pair(t, "hash", "%s", row->hash);
  pair(t, "options", "%s", row->options);
  pair(t, "compiler", "%s", row->compiler);
  number(t, "registers", row->registers);
  number(t, "static shared bytes", row->smem_static);
  number(t, "local bytes", row->local_bytes);
  number(t, "spill bytes", row->spill_bytes);
  number(t, "compile ms", round(row->compile_ms));
  number(t, "cubin bytes", (double)row->cubin_bytes);
  pair(t, "refused", "%s", *row->refused ? row->refused : "no");
  table_print(t, output_beside(o->json));
  int code = o->json ? table_write_json(t, o->json, NULL, NULL) : CLI_OK;
  table_free(t);
  return code;
}

static int write_cubin(const show_options *o, const tml_bank_row *row)
{
  if (!row->cubin) return cli_fail("%s has no cubin: %s", row->name, row->refused);
  FILE *to = fopen(o->cubin, "wb");
  if (!to) return cli_fail("cannot write %s: %s", o->cubin, strerror(errno));
  int bad = fwrite(row->cubin, 1, row->cubin_bytes, to) != row->cubin_bytes;
  if (fclose(to) != 0 || bad) return cli_fail("cannot write %s: %s", o->cubin, strerror(errno));
  fprintf(output_beside(o->json), "%s: %zu bytes\n", o->cubin, row->cubin_bytes);
  return CLI_OK;
}

static int show(const show_options *o, tml_gen *gen, const char *name)
{
  tml_variant v;
  tml_bank_row row;
  char *text = NULL;
  size_t bytes = 0;
  int code = CLI_OK;
  tml_status status = tml_gen_variant(gen, name, &v);
  if (status == TML_OK && v.kind == TML_KIND_LIBRARY)
    return cli_fail("%s calls a library; it has no text of its own", name);
  if (status == TML_OK && (o->row || o->cubin)) {
    status = get_row(o, gen, &v, &row);
    if (status == TML_OK && o->row) code = print_row(o, &row);
    if (status == TML_OK && !code && o->cubin) code = write_cubin(o, &row);
    if (status == TML_OK) tml_bank_row_free(&row);
  } else if (status == TML_OK) {
    status = tml_gen_expand(gen, name, o->lines, &text, &bytes);
    if (status == TML_OK) fwrite(text, 1, bytes, stdout);
  }
  free(text);
  if (status == TML_ARGUMENT) return cli_usage("show", "%s", tml_last_error());
  return status == TML_OK ? code : cli_fail_status(status, "show");
}

int cmd_show(int argc, char **argv)
{
  show_options o = {0};
  const cli_option options[] = {
      {"--text", NULL, CLI_FLAG, &o.text, NULL, "the CUDA text (the default)"},
      {"--lines", NULL, CLI_FLAG, &o.lines, NULL, "the text with #line marks, as it is compiled"},
      {"--row", NULL, CLI_FLAG, &o.row, NULL,
       "what the compiler said: registers, spills, time, hash"},
      {"--cubin", NULL, CLI_FILE, &o.cubin, "FILE", "write the machine code (for cuobjdump -sass)"},
      {"--bank", "-b", CLI_TEXT, &o.bank, "FILE",
       "take row and cubin from this bank; default: compile now"},
      {"--json", NULL, CLI_FILE, &o.json, "FILE",
       "with --row: write it as JSON; - is the standard output"},
      {"--source", NULL, CLI_TEXT, &o.source, "DIR",
       "read gen/ and templates/ from this folder instead of the built-in copies"},
  };
  const cli_command command = {
      "show",
      "NAME",
      "Prints the exact CUDA text of a variant, or what became of it.",
      options,
      sizeof options / sizeof *options,
      "  tidemill show gemm.sm90a.bf16.nt.w1__128x256x64.c2x1.s4.coop.r2\n"};
  cli_list operands;
  tml_gen *gen = NULL;
  int code = cli_parse(&command, argc, argv, &operands);
  if (code) return code == CLI_HELP ? CLI_OK : code;
  o.source = cli_or_env(o.source, "TIDEMILL_SOURCE");
  if (operands.count != 1)
    code = cli_usage("show", "name one variant; `tidemill list` shows the names");
  else if (o.text && (o.row || o.cubin))
    code = cli_usage("show", "--text goes alone");
  else if (o.json && !o.row)
    code = cli_usage("show", "--json goes with --row");
  else if (tml_gen_open(&gen, o.source, tml_api_open()->isa) != TML_OK)
    code = cli_fail_status(TML_TEMPLATE, "show");
  else
    code = show(&o, gen, operands.at[0]);
  tml_gen_close(gen);
  free(operands.at);
  return code;
}
