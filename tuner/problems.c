#include "problems.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void problems_add(problems *list, const tml_problem *problem)
{
  if (list->count == list->capacity) {
    size_t capacity = list->capacity ? 2 * list->capacity : 32;
    tml_problem *at = realloc(list->at, capacity * sizeof *at);
    if (!at) {
      cli_fail("out of memory");
      exit(CLI_FAILED);
    }
    list->at = at;
    list->capacity = capacity;
  }
  list->at[list->count++] = *problem;
}

void problems_free(problems *list)
{
  free(list->at);
  *list = (problems){0};
}

/* The line without its comment and outer blanks. */
static char *trim(char *line)
{
  line[strcspn(line, "#\r\n")] = 0;
  while (*line == ' ' || *line == '\t') line++;
  size_t length = strlen(line);
  while (length && (line[length - 1] == ' ' || line[length - 1] == '\t')) line[--length] = 0;
  return line;
}

static int read_file(problems *list, const char *path)
{
  char *line = NULL;
  size_t bytes = 0, before = list->count;
  int number = 0, code = CLI_OK;
  FILE *file = fopen(path, "r");
  if (!file) return cli_fail("cannot read %s: %s", path, strerror(errno));
  while (code == CLI_OK && getline(&line, &bytes, file) >= 0) {
    tml_problem problem = {.size = sizeof problem};
    char *text = trim(line);
    number++;
    if (!*text) continue;
    if (tml_problem_parse(&problem, text) != TML_OK)
      code = cli_fail("%s:%d: %s", path, number, tml_last_error());
    else
      problems_add(list, &problem);
  }
  if (code == CLI_OK && ferror(file)) code = cli_fail("cannot read %s: %s", path, strerror(errno));
  if (code == CLI_OK && list->count == before)
    code =
        cli_fail("%s holds no problem: write one a line, as gemm:bf16:nt:w1:4096x4096x4096", path);
  free(line);
  fclose(file);
  return code;
}

int problems_read(problems *list, const char *command, const cli_list *operands, const char *file)
{
  for (size_t i = 0; i < operands->count; i++) {
    tml_problem problem = {.size = sizeof problem};
    if (tml_problem_parse(&problem, operands->at[i]) != TML_OK)
      return cli_usage(command, "%s", tml_last_error());
    problems_add(list, &problem);
  }
  return file ? read_file(list, file) : CLI_OK;
}

size_t problems_keep_world(problems *list, int world)
{
  size_t kept = 0, all = list->count;
  for (size_t i = 0; i < all; i++) {
    tml_problem *p = &list->at[i];
    if (p->op == TML_GEMM) p->world = 1;
    if (p->op == TML_GEMM || p->world == world) list->at[kept++] = *p;
  }
  list->count = kept;
  return all - kept;
}

int problems_fit(problems *list, int world)
{
  size_t dropped = problems_keep_world(list, world);
  if (list->count == 0)
    return cli_fail("no problem of the list fits a world of %d (--world sets it)", world);
  if (dropped)
    cli_note("%zu problem%s of other worlds %s left out", dropped, dropped == 1 ? "" : "s",
             dropped == 1 ? "is" : "are");
  return CLI_OK;
}

tml_problem problems_gemm_of(const tml_problem *problem)
{
  tml_problem gemm = *problem;
  gemm.op = TML_GEMM;
  gemm.world = 1;
  /* A reduction's bias comes after the sum; columns of a gathered GEMM get theirs in the GEMM. */
  if (problem->op == TML_GEMM_RS || problem->op == TML_GEMM_AR) gemm.bias = 0;
  return gemm;
}

int problems_same(const tml_problem *a, const tml_problem *b)
{
  return a->op == b->op && a->dtype == b->dtype && a->layout == b->layout && a->world == b->world &&
         a->bias == b->bias && a->m == b->m && a->n == b->n && a->k == b->k;
}

static void add_once(problems *list, const tml_problem *problem)
{
  for (size_t i = 0; i < list->count; i++)
    if (problems_same(&list->at[i], problem)) return;
  problems_add(list, problem);
}

void problems_gemm_first(problems *list, int add)
{
  problems sorted = {0};
  for (size_t i = 0; i < list->count; i++) {
    tml_problem gemm = problems_gemm_of(&list->at[i]);
    if (list->at[i].op == TML_GEMM || add) add_once(&sorted, &gemm);
  }
  for (size_t i = 0; i < list->count; i++)
    if (list->at[i].op != TML_GEMM) add_once(&sorted, &list->at[i]);
  problems_free(list);
  *list = sorted;
}

/* n and k walk through their lists with steps prime to the lists' lengths, so that all sizes meet
 * all row counts over ops and dtypes; the smallest sizes, 8, are among them. */
void problems_suite(problems *list, int world)
{
  static const int64_t rows[] = {0, 1, 3, 17, 64, 127, 129, 777, 2048, 4096};
  static const int64_t columns[] = {8, 64, 136, 256, 520, 1024, 2056};
  static const int64_t depths[] = {8, 24, 64, 72, 136, 512, 1032, 2048, 4096};
  enum { ROWS = sizeof rows / sizeof *rows, COLUMNS = sizeof columns / sizeof *columns };
  enum { DEPTHS = sizeof depths / sizeof *depths };
  size_t at = 0;
  for (int op = TML_GEMM; op <= TML_GEMM_AR; op++) {
    if (op != TML_GEMM && world == 1) continue;
    for (int dtype = TML_BF16; dtype <= TML_FP16; dtype++) {
      for (size_t r = 0; r < ROWS; r++, at++) {
        /* In a world of one the GEMM alone must fill the suite: more sizes for each row count. */
        for (size_t more = 0; more < (world == 1 ? 4u : 1u); more++) {
          size_t step = at + 7 * more;
          tml_problem p = {.size = sizeof p, .op = (tml_op)op, .dtype = (tml_dtype)dtype};
          p.layout = TML_NT;
          p.world = op == TML_GEMM ? 1 : world;
          p.m = rows[r];
          p.n = columns[(step * 3 + r) % COLUMNS];
          p.k = depths[(step * 4 + 2 * r) % DEPTHS];
          p.bias = (int)((step + r / 2) % 2);
          problems_add(list, &p);
        }
      }
    }
  }
}

void problems_suite_small(problems *list, int world)
{
  /* Nothing, fewer rows than ranks, a short last shard; where that is cheap, a second row of tiles. */
  const int64_t rows[] = {0, 5, 9 * world - 2, world <= 2 ? 130 * world + 7 : 3};
  for (int op = TML_GEMM; op <= TML_GEMM_AR; op++) {
    if ((op == TML_GEMM) != (world == 1)) continue;
    for (int dtype = TML_BF16; dtype <= TML_FP16; dtype++) {
      for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        tml_problem p = {.size = sizeof p, .op = (tml_op)op, .dtype = (tml_dtype)dtype};
        p.layout = TML_NT;
        p.world = world;
        p.m = rows[r];
        p.n = world > 4 || r == 3 ? 72 : 136;
        p.k = r % 2 ? 72 : 136;
        p.bias = (int)(r + (size_t)dtype) % 2;
        problems_add(list, &p);
      }
    }
  }
}

void problems_stress(problems *list, int world, int small)
{
  for (int op = TML_GEMM; op <= TML_GEMM_AR; op++) {
    if (op != TML_GEMM && world == 1) continue;
    /* Beside collectives a plain GEMM is there to stand between two of them. */
    int count = op == TML_GEMM && world > 1 ? 1 : small ? 2 : 4;
    for (int i = 0; i < count; i++) {
      tml_problem p = {.size = sizeof p, .op = (tml_op)op, .dtype = (tml_dtype)(i % 2)};
      p.layout = TML_NT;
      p.world = op == TML_GEMM ? 1 : world;
      p.m = small ? 9 * world + 4 - i : 2048 - 3 * i;
      p.n = small ? 72 + 64 * i : 1032 + 264 * i;
      p.k = small ? 136 - 64 * i : 520 + 256 * i;
      p.bias = (i + i / 2) % 2;
      problems_add(list, &p);
    }
  }
}
