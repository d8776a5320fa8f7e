/* Options, problem lists, the suite, tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli.h"
#include "problems.h"
#include "rig.h"
#include "space.h"
#include "table.h"

typedef struct values {
  int flag, number, count;
  double real;
  const char *text;
  cli_list list;
} values;

static int parse(values *v, cli_list *operands, char **words)
{
  const cli_option options[] = {
      {"--flag", "-f", CLI_FLAG, &v->flag, NULL, "a flag"},
      {"--number", "-n", CLI_INT, &v->number, "N", "a number"},
      {"--count", NULL, CLI_COUNT, &v->count, "N", "a count"},
      {"--real", NULL, CLI_REAL, &v->real, "X", "a real"},
      {"--text", NULL, CLI_TEXT, &v->text, "T", "a text"},
      {"--list", "-l", CLI_LIST, &v->list, "L", "several"},
  };
  const cli_command command = {
      "try", "WORD...", "Tries.", options, sizeof options / sizeof *options, NULL};
  int count = 0;
  while (words[count]) count++;
  memset(v, 0, sizeof *v);
  return cli_parse(&command, count, words, operands);
}

static void options_of_every_kind(void **state)
{
  char *words[] = {"try",      "a",      "-f", "--number=12", "--real", "2.5",    "-l", "x",
                   "--list=y", "--text", "-",  "-",           "--",     "--flag", NULL};
  values v;
  cli_list operands;
  (void)state;
  assert_int_equal(parse(&v, &operands, words), CLI_OK);
  assert_int_equal(v.flag, 1);
  assert_int_equal(v.number, 12);
  assert_true(v.real > 2.49 && v.real < 2.51);
  assert_string_equal(v.text, "-");
  assert_int_equal(v.list.count, 2);
  assert_string_equal(v.list.at[1], "y");
  assert_int_equal(operands.count, 3);
  assert_string_equal(operands.at[2], "--flag"); /* behind -- nothing is an option */
  free(v.list.at);
  free(operands.at);
}

static void wrong_usage_is_2(void **state)
{
  char *wrong[][4] = {{"try", "--nothing", NULL},      {"try", "--number", NULL},
                      {"try", "--number", "1x", NULL}, {"try", "--number=", NULL},
                      {"try", "--flag=1", NULL},       {"try", "--number", "99999999999", NULL},
                      {"try", "--real", "nan", NULL},  {"try", "--fla", NULL},
                      {"try", "--count", "0", NULL},   {"try", "--count", "-1", NULL},
                      {"try", "--real", "0", NULL},    {"try", "--real", "-0.5", NULL},
                      {"try", "--real", "inf", NULL}};
  (void)state;
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    values v;
    cli_list operands;
    assert_int_equal(parse(&v, &operands, wrong[i]), CLI_USAGE);
    free(operands.at);
  }
}

static void problem_files(void **state)
{
  char path[] = "/tmp/tidemill_test_cli_XXXXXX";
  const char *text =
      "# head\n\n  gemm:bf16:nt:w1:8x16x24  # tail\r\nag_gemm:fp16:nt:w2:777x64x128:bias\n";
  problems list = {0};
  cli_list none = {0};
  (void)state;
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, text, strlen(text)), (int)strlen(text));
  assert_int_equal(problems_read(&list, "try", &none, path), CLI_OK);
  assert_int_equal(list.count, 2);
  assert_int_equal(list.at[1].m, 777);
  assert_int_equal(list.at[1].bias, 1);
  assert_int_equal(problems_keep_world(&list, 4), 1);
  assert_int_equal(list.at[0].op, TML_GEMM);
  problems_free(&list);
  assert_int_equal(write(fd, "nonsense\n", 9), 9);
  assert_int_equal(problems_read(&list, "try", &none, path), CLI_FAILED);
  problems_free(&list);
  close(fd);
  unlink(path);
  assert_int_equal(problems_read(&list, "try", &none, path), CLI_FAILED);
}

static int read_text(problems *list, const char *text)
{
  char path[] = "/tmp/tidemill_test_cli_XXXXXX";
  cli_list none = {0};
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, text, strlen(text)), (int)strlen(text));
  int code = problems_read(list, "try", &none, path);
  close(fd);
  unlink(path);
  return code;
}

/* A long comment is no second problem; a file without a problem is a mistake. */
static void lines_of_any_length(void **state)
{
  char text[2000];
  problems list = {0};
  (void)state;
  snprintf(text, sizeof text, "gemm:bf16:nt:w1:8x16x24 # %0700d x\ngemm:bf16:nt:w1:8x16x8%900s\n",
           7, "");
  assert_int_equal(read_text(&list, text), CLI_OK);
  assert_int_equal(list.count, 2);
  assert_int_equal(read_text(&list, ""), CLI_FAILED);
  assert_int_equal(read_text(&list, "# nothing\n\n"), CLI_FAILED);
  problems_free(&list);
}

static void a_wrong_operand_is_2(void **state)
{
  const char *words[] = {"gemm:bf16:nt:w1:8x16x23"};
  cli_list operands = {words, 1};
  problems list = {0};
  (void)state;
  assert_int_equal(problems_read(&list, "try", &operands, NULL), CLI_USAGE);
  problems_free(&list);
}

static void gemms_first_and_once(void **state)
{
  const char *words[] = {"gemm_ar:bf16:nt:w2:64x64x64:bias", "ag_gemm:bf16:nt:w2:64x64x64",
                         "gemm:bf16:nt:w1:64x64x64", "ag_gemm:bf16:nt:w2:64x64x64"};
  cli_list operands = {words, 4};
  problems list = {0};
  (void)state;
  assert_int_equal(problems_read(&list, "try", &operands, NULL), CLI_OK);
  problems_gemm_first(&list, 1);
  assert_int_equal(list.count, 3);
  assert_int_equal(list.at[0].op, TML_GEMM);
  assert_int_equal(list.at[0].bias, 0);
  assert_int_equal(list.at[1].op, TML_GEMM_AR);
  problems_free(&list);
}

/* What the suite promises: enough problems, every m with every op, both types, bias or not, n and k
 * down to 8, and nothing twice. */
static void suite_covers(void **state)
{
  static const int64_t rows[] = {0, 1, 3, 17, 64, 127, 129, 777, 2048, 4096};
  (void)state;
  for (int world = 1; world <= TML_MAX_WORLD; world++) {
    problems list = {0};
    problems_suite(&list, world);
    int ops = world == 1 ? 1 : 4, bias = 0, n8 = 0, k8 = 0, found = 0;
    assert_true(list.count >= 60);
    for (size_t i = 0; i < list.count; i++) {
      const tml_problem *p = &list.at[i];
      assert_true(p->n % 8 == 0 && p->k % 8 == 0 && p->n >= 8 && p->k >= 8);
      bias += p->bias;
      n8 += p->n == 8;
      k8 += p->k == 8;
      for (size_t j = 0; j < i; j++) assert_false(problems_same(p, &list.at[j]));
    }
    for (int op = 0; op < ops; op++)
      for (int dtype = 0; dtype < 2; dtype++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
          for (size_t i = 0; i < list.count; i++)
            if ((int)list.at[i].op == op && (int)list.at[i].dtype == dtype &&
                list.at[i].m == rows[r]) {
              found++;
              break;
            }
    assert_int_equal(found, ops * 2 * 10);
    assert_true(bias > 10 && (size_t)bias < list.count - 10 && n8 > 0 && k8 > 0);
    problems_free(&list);
  }
}

static void tables(void **state)
{
  static const table_column columns[] = {
      {"name", "name", 's', 0, 0}, {"us", "us", 'f', 1, 0}, {NULL, "hidden", 'd', 0, 0}};
  char buffer[512] = "";
  table *t = table_create(columns, 3);
  (void)state;
  table_text(t, "long name");
  table_real(t, 12.34);
  table_real(t, 7);
  table_end_row(t);
  table_text(t, NULL);
  table_real(t, 0.0 / 0.0);
  table_end_row(t);
  FILE *to = fmemopen(buffer, sizeof buffer, "w");
  table_print(t, to);
  fclose(to);
  assert_string_equal(buffer, "name         us\nlong name  12.3\n-             -\n");
  cJSON *rows = table_to_json(t);
  char *json = cJSON_PrintUnformatted(rows);
  assert_string_equal(json, "[{\"name\":\"long name\",\"us\":12.3,\"hidden\":7},"
                            "{\"name\":null,\"us\":null,\"hidden\":null}]");
  free(json);
  cJSON_Delete(rows);
  table_free(t);
}

static void numbers_and_flags_in_json(void **state)
{
  static const table_column columns[] = {
      {"error", "error", 'e', 2, 0}, {"rate", "rate", 'f', 0, 0}, {"any", "any", 's', 0, 0}};
  char buffer[512] = "";
  table *t = table_create(columns, 3);
  (void)state;
  table_real(t, 0.00164);
  table_real(t, 0.000123);
  table_flag(t, 1);
  table_end_row(t);
  table_real(t, 1.0 / 0.0);
  table_real(t, 712.4);
  table_real(t, 168);
  table_end_row(t);
  FILE *to = fmemopen(buffer, sizeof buffer, "w");
  table_print(t, to);
  fclose(to);
  assert_string_equal(buffer, "   error  rate  any\n1.64e-03     0  yes\n       -   712  168\n");
  cJSON *rows = table_to_json(t);
  char *json = cJSON_PrintUnformatted(rows);
  assert_string_equal(json, "[{\"error\":1.64e-03,\"rate\":0.000123,\"any\":true},"
                            "{\"error\":null,\"rate\":712,\"any\":168}]");
  free(json);
  cJSON_Delete(rows);
  table_free(t);
}

static void globs(void **state)
{
  (void)state;
  assert_true(tml_gen_glob("*", ""));
  assert_true(tml_gen_glob("a*c?", "abbccd"));
  assert_false(tml_gen_glob("a*c?", "abc"));
  assert_true(tml_gen_glob("*a*a*b", "xxaaayaab"));
  assert_false(tml_gen_glob("", "x"));
}

/* The option, else the library's knob, else its default. */
static void timeouts(void **state)
{
  (void)state;
  rig_options o = {0};
  assert_int_equal(rig_check_options("check", &o), CLI_OK);
  assert_true(o.timeout_s == 10);
  setenv("TIDEMILL_TIMEOUT_US", "2e6", 1);
  o = (rig_options){0};
  assert_int_equal(rig_check_options("check", &o), CLI_OK);
  assert_true(o.timeout_s == 2);
  o = (rig_options){.timeout_s = 3};
  assert_int_equal(rig_check_options("check", &o), CLI_OK);
  assert_true(o.timeout_s == 3);
  setenv("TIDEMILL_TIMEOUT_US", "abc", 1);
  o = (rig_options){0};
  assert_int_equal(rig_check_options("check", &o), CLI_USAGE);
  unsetenv("TIDEMILL_TIMEOUT_US");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(options_of_every_kind),
      cmocka_unit_test(wrong_usage_is_2),
      cmocka_unit_test(problem_files),
      cmocka_unit_test(lines_of_any_length),
      cmocka_unit_test(a_wrong_operand_is_2),
      cmocka_unit_test(gemms_first_and_once),
      cmocka_unit_test(suite_covers),
      cmocka_unit_test(tables),
      cmocka_unit_test(numbers_and_flags_in_json),
      cmocka_unit_test(globs),
      cmocka_unit_test(timeouts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
