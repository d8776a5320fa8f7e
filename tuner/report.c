/* Headings, means and files of a benchmark. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../runtime/problem.h"
#include "bench.h"
#include "ranks.h"
#include "stats.h"

const table_column bench_columns[] = {
    {"problem", "problem", 's', 0, 42},
    {"regime", "regime", 's', 0, 6},
    {"us", "us", 'f', 1, 8},
    {"TFLOP/s", "tflops", 'f', 0, 7},
    {"cublaslt", "cublaslt_us", 'f', 1, 8},
    {"lt+nccl", "unfused_us", 'f', 1, 8},
    {"own+nccl", "own_unfused_us", 'f', 1, 8},
    {"lt/us", "cublaslt_ratio", 'f', 3, 6},
    {"lt+nccl/us", "ratio", 'f', 3, 6},
    {"own+nccl/us", "own_ratio", 'f', 3, 6},
    {"bound", "bound_us", 'f', 1, 8},
    {"E %", "efficiency", 'f', 0, 5},
    {"MHz", "sm_mhz", 'd', 0, 5},
    {"host", "host_us", 'f', 1, 5},
    {"variant", "variant", 's', 0, 0},
    {NULL, "own_gemm", 's', 0, 0},
};
const int bench_column_count = (int)(sizeof bench_columns / sizeof *bench_columns);

/* FLUX's overlap efficiency: 100 % hides all communication behind the GEMM, 0 % none. */
static double efficiency(const bench_row *r)
{
  double exposed = r->unfused_us - r->lt_us;
  return exposed > 0 ? 100 * (1 - (r->us - r->lt_us) / exposed) : NAN;
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
  table_real(t, r->lt_us / r->us);
  table_real(t, r->unfused_us / r->us);
  table_real(t, r->own_us / r->us);
  table_real(t, r->bound_us);
  table_real(t, efficiency(r));
  table_real(t, r->mhz);
  table_real(t, r->host_us);
  table_text(t, r->variant);
  table_text(t, r->own);
  table_end_row(t);
}

typedef struct means {
  double lt, unfused, own; /* geometric means of column / us; NAN if empty */
  size_t rows;
} means;

static means means_of(const bench_row *rows, size_t count, int op, const char *which)
{
  means m = {NAN, NAN, NAN, 0};
  double *all = malloc(3 * (count + 1) * sizeof *all);
  if (!all) return m;
  for (size_t i = 0; i < count; i++) {
    const bench_row *r = &rows[i];
    if ((int)r->problem.op != op || strcmp(r->regime, which) != 0) continue;
    all[m.rows] = r->lt_us / r->us;
    all[count + m.rows] = r->unfused_us / r->us;
    all[2 * count + m.rows++] = r->own_us / r->us;
  }
  m.lt = stats_geomean(all, m.rows);
  m.unfused = stats_geomean(all + count, m.rows);
  m.own = stats_geomean(all + 2 * count, m.rows);
  free(all);
  return m;
}

void bench_print_means(const bench_row *rows, size_t count, FILE *to)
{
  static const char *const regimes[] = {"burst", "sustained"};
  for (int op = TML_GEMM; op <= TML_GEMM_AR; op++) {
    for (size_t i = 0; i < sizeof regimes / sizeof *regimes; i++) {
      means m = means_of(rows, count, op, regimes[i]);
      if (m.rows == 0) continue;
      fprintf(to, "geometric mean, %s, %s, %zu problems: cublaslt/us %.3f", tml_op_text((tml_op)op),
              regimes[i], m.rows, m.lt);
      if (op == TML_GEMM)
        fprintf(to, ", own gemm/us %.3f\n", m.own);
      else
        fprintf(to, ", cublaslt+nccl/us %.3f, own gemm+nccl/us %.3f\n", m.unfused, m.own);
    }
  }
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
  if (f->world > 1) fprintf(to, ", NCCL %s, copy engine %.0f GB/s", nccl, f->link_gbs);
  fputc('\n', to);
}

static void today(char *out, size_t bytes)
{
  time_t now = time(NULL);
  struct tm parts;
  gmtime_r(&now, &parts);
  strftime(out, bytes, "%Y-%m-%d", &parts);
}

/* The commit of the working folder, where there is git and a repository. */
static void find_commit(const char *given, char *out, size_t bytes)
{
  snprintf(out, bytes, "%s", given ? given : "unknown");
  if (given) return;
  FILE *git = popen("git rev-parse --short HEAD 2>/dev/null", "r");
  char line[64];
  if (!git) return;
  if (fgets(line, sizeof line, git)) {
    line[strcspn(line, "\n")] = 0;
    if (*line) snprintf(out, bytes, "%s", line);
  }
  pclose(git);
}

static void add_means(cJSON *head, const bench_row *rows, size_t count)
{
  static const char *const regimes[] = {"burst", "sustained"};
  cJSON *list = cJSON_AddArrayToObject(head, "geometric_means");
  for (int op = TML_GEMM; op <= TML_GEMM_AR; op++) {
    for (size_t i = 0; i < 2; i++) {
      means m = means_of(rows, count, op, regimes[i]);
      if (m.rows == 0) continue;
      cJSON *object = cJSON_CreateObject();
      cJSON_AddStringToObject(object, "op", tml_op_text((tml_op)op));
      cJSON_AddStringToObject(object, "regime", regimes[i]);
      cJSON_AddNumberToObject(object, "problems", (double)m.rows);
      cJSON_AddNumberToObject(object, "cublaslt_ratio", m.lt); /* NAN becomes null */
      cJSON_AddNumberToObject(object, "ratio", m.unfused);
      cJSON_AddNumberToObject(object, "own_ratio", m.own);
      cJSON_AddItemToArray(list, object);
    }
  }
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
  cJSON_AddNumberToObject(head, "link_gbs", f->link_gbs);
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

static int write_markdown(const char *path, const table *t, const bench_row *rows, size_t count,
                          const bench_facts *facts, const char *commit, const char *date)
{
  FILE *to = fopen(path, "w");
  if (!to) return cli_fail("cannot write %s: %s", path, strerror(errno));
  bench_print_facts(facts, to);
  fprintf(to, "\n%s, commit %s, tidemill %s: `%s`\n\n", date, commit, TML_VERSION,
          ranks_command_text());
  fprintf(to, "Microseconds. us: the variant that a plan picks; cublaslt: the GEMM alone; lt+nccl, "
              "own+nccl: "
              "cuBLASLt or\nour own GEMM with NCCL in sequence; bound: the larger of cublaslt and "
              "the bytes "
              "over the link;\nE: overlap efficiency against lt+nccl. Ratios above 1: the pick is "
              "faster.\n\n");
  table_markdown(t, to);
  fputc('\n', to);
  bench_print_means(rows, count, to);
  int bad = ferror(to);
  if (fclose(to) != 0 || bad) return cli_fail("cannot write %s: %s", path, strerror(errno));
  return CLI_OK;
}

int bench_write(const char *json, const char *markdown, const table *t, const bench_row *rows,
                size_t count, const bench_facts *facts, const char *which, const char *commit)
{
  char found[64], date[32];
  int code = CLI_OK;
  find_commit(commit, found, sizeof found);
  today(date, sizeof date);
  if (json) {
    cJSON *head = json_head(facts, which, found, date);
    add_means(head, rows, count);
    code = table_write_json(t, json, head, "rows");
  }
  if (markdown && !code) code = write_markdown(markdown, t, rows, count, facts, found, date);
  return code;
}
