/* Columns, headings and files of a benchmark. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../runtime/problem.h"
#include "bench.h"
#include "commit.h"
#include "ranks.h"

static const table_column columns[BENCH_COLUMNS] = {
    {"problem", "problem", 's', 0, 42},
    {"regime", "regime", 's', 0, 6},
    {"us", "us", 'f', 1, 8},
    {"TFLOP/s", "tflops", 'f', 0, 7},
    {"cublaslt", "cublaslt_us", 'f', 1, 8},
    {"lt+nccl", "unfused_us", 'f', 1, 8},
    {"own+nccl", "own_unfused_us", 'f', 1, 8},
    {"ratio", "ratio", 'f', 3, 6},
    {"lt/own", "own_ratio", 'f', 3, 6},
    {"E %", "efficiency", 'f', 0, 5},
    {"bound", "bound_us", 'f', 1, 8},
    {"us/bound", "over_bound", 'f', 3, 8},
    {"MHz", "sm_mhz", 'd', 0, 5},
    {"host", "host_us", 'f', 1, 5},
    {"peer us", "peer_us", 'f', 1, 8},
    {"peer/us", "peer_ratio", 'f', 3, 7},
    {"peer", "peer", 's', 0, 8},
    {"missed", "missed", 's', 0, 6},
    {"variant", "variant", 's', 0, 0},
    {NULL, "own_gemm", 's', 0, 0},
};

void bench_columns(int peers, table_column out[BENCH_COLUMNS])
{
  memcpy(out, columns, sizeof columns);
  for (int i = 0; i < BENCH_COLUMNS && !peers; i++)
    if (strncmp(out[i].key, "peer", 4) == 0) out[i].title = NULL;
}

void bench_add_row(table *t, const bench_row *r)
{
  char text[PROBLEM_TEXT_BYTES];
  const tml_problem *p = &r->problem;
  double flops = 2.0 * (double)p->m * (double)p->n * (double)p->k;
  table_text(t, tml_problem_print(p, text, sizeof text));
  table_text(t, r->regime);
  table_real(t, r->us);
  table_real(t, flops / r->us * 1e-6);
  table_real(t, r->lt_us);
  table_real(t, r->unfused_us);
  table_real(t, r->own_us);
  table_real(t, bench_ratio(r));
  table_real(t, bench_own_ratio(r));
  table_real(t, bench_efficiency(r));
  table_real(t, r->bound_us);
  table_real(t, bench_over_bound(r));
  table_real(t, r->mhz);
  table_real(t, r->host_us);
  table_real(t, r->peer ? r->peer->us : NAN);
  table_real(t, bench_peer_ratio(r));
  table_text(t, r->peer ? r->peer->name : NULL);
  table_flag(t, r->missed);
  table_text(t, r->variant);
  table_text(t, r->own);
  table_end_row(t);
}

static void version_text(size_t version, size_t step, char *out, size_t bytes)
{
  snprintf(out, bytes, "%zu.%zu.%zu", version / step, version / 100 % 100, version % 100);
}

void bench_print_facts(const bench_facts *f, FILE *to)
{
  char nccl[48], lt[48];
  version_text((size_t)f->nccl, 10000, nccl, sizeof nccl);
  version_text(f->lt, 10000, lt, sizeof lt);
  fprintf(to, "%s, %d SMs, %s, world %d, driver CUDA %d.%d, cuBLASLt %s", f->machine.gpu,
          f->machine.sms, f->machine.link, f->world, f->driver / 1000, f->driver % 1000 / 10, lt);
  if (f->world > 1)
    fprintf(to, ", NCCL %s, copy engine %.0f GB/s, TMA stores %.0f GB/s", nccl, f->link.copies,
            f->link.stores);
  fputc('\n', to);
}

static void today(char *out, size_t bytes)
{
  time_t now = time(NULL);
  struct tm parts;
  gmtime_r(&now, &parts);
  strftime(out, bytes, "%Y-%m-%d", &parts);
}

static cJSON *json_head(const bench_facts *f, const char *which, const char *commit,
                        const char *date)
{
  char text[48];
  cJSON *head = cJSON_CreateObject();
  cJSON_AddStringToObject(head, "gpu", f->machine.gpu);
  cJSON_AddNumberToObject(head, "sms", f->machine.sms);
  cJSON_AddNumberToObject(head, "cc", f->machine.cc);
  cJSON_AddStringToObject(head, "link", f->machine.link);
  cJSON_AddNumberToObject(head, "copy_engine_gbs", f->link.copies); /* NAN becomes null */
  cJSON_AddNumberToObject(head, "store_gbs", f->link.stores);
  cJSON_AddNumberToObject(head, "world", f->world);
  cJSON_AddNumberToObject(head, "driver", f->driver);
  version_text((size_t)f->nccl, 10000, text, sizeof text);
  cJSON_AddStringToObject(head, "nccl", f->world > 1 ? text : "-");
  version_text(f->lt, 10000, text, sizeof text);
  cJSON_AddStringToObject(head, "cublaslt", text);
  cJSON_AddStringToObject(head, "tidemill", TML_VERSION);
  cJSON_AddStringToObject(head, "date", date);
  cJSON_AddStringToObject(head, "commit", commit);
  cJSON_AddStringToObject(head, "command", ranks_command_text());
  cJSON_AddStringToObject(head, "regime", which);
  return head;
}

static const char legend[] =
    "Microseconds. us: the variant that a plan picks; cublaslt: the GEMM alone; lt+nccl, own+nccl: "
    "cuBLASLt or\nour own GEMM with NCCL in sequence (of a plain GEMM, our own kernel alone). "
    "Ratios "
    "above 1 say that Tidemill is\nfaster. ratio: what there is without it (lt+nccl, or cublaslt "
    "for "
    "a plain GEMM) / us; lt/own: cuBLASLt / our own\nGEMM in the same place; E: 1 - (us - "
    "cublaslt) "
    "/ (lt+nccl - cublaslt); bound: the larger of cublaslt and the\nbytes over the link at the "
    "measured rate of the engine that the variant uses; missed: a library was faster.\n\n";

static const char means_legend[] =
    "\nOver the rows, geometric: ratio, us/bound, lt/own, peer/us. least: of lt/own. slower: rows "
    "slower than the best peer.\nworst row: the highest us/bound; of plain GEMMs the lowest "
    "lt/own.\n\n";

static int write_markdown(const char *path, const table *t, const table *means,
                          const bench_facts *facts, const char *commit, const char *date)
{
  FILE *to = fopen(path, "w");
  if (!to) return cli_fail("cannot write %s: %s", path, strerror(errno));
  bench_print_facts(facts, to);
  fprintf(to, "\n%s, commit %s, tidemill %s: `%s`\n\n", date, commit, TML_VERSION,
          ranks_command_text());
  fputs(legend, to);
  table_markdown(t, to);
  fputs(means_legend, to);
  table_markdown(means, to);
  int bad = ferror(to);
  if (fclose(to) != 0 || bad) return cli_fail("cannot write %s: %s", path, strerror(errno));
  return CLI_OK;
}

int bench_write(const char *json, const char *markdown, const table *t, const table *means,
                const bench_facts *facts, const char *which, const char *commit)
{
  char date[32];
  int code = CLI_OK;
  if (!commit) commit = commit_text();
  today(date, sizeof date);
  if (json) {
    cJSON *head = json_head(facts, which, commit, date);
    cJSON_AddItemToObject(head, "means", table_to_json(means));
    code = table_write_json(t, json, head, "rows");
  }
  if (markdown && !code) code = write_markdown(markdown, t, means, facts, commit, date);
  return code;
}
