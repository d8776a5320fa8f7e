#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/tidemill.h"
#include "output.h"

static void say(const char *head, const char *format, va_list list)
{
  char line[1200];
  vsnprintf(line, sizeof line, format, list);
  for (char *c = line; *c; c++)
    if (*c == '\n') *c = ' '; /* one error, one line */
  fflush(stdout);
  fprintf(stderr, "%s: %s\n", head, line);
}

const char *cli_or_env(const char *given, const char *name)
{
  const char *value = given ? given : getenv(name);
  return value && *value ? value : NULL;
}

int cli_fail(const char *format, ...)
{
  va_list list;
  va_start(list, format);
  say("tidemill", format, list);
  va_end(list);
  return CLI_FAILED;
}

int cli_fail_status(int status, const char *what)
{
  const char *detail = tml_last_error();
  if (!*detail) detail = tml_status_text((tml_status)status);
  return what && *what ? cli_fail("%s: %s", what, detail) : cli_fail("%s", detail);
}

void cli_note(const char *format, ...)
{
  va_list list;
  va_start(list, format);
  say("tidemill", format, list);
  va_end(list);
}

int cli_usage(const char *command, const char *format, ...)
{
  char text[1000];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  cli_fail("%s%s%s (see: tidemill %s --help)", command, *command ? ": " : "", text, command);
  return CLI_USAGE;
}

void cli_list_add(cli_list *list, const char *text)
{
  const char **at = realloc(list->at, (list->count + 1) * sizeof *at);
  if (!at) {
    cli_fail("out of memory");
    exit(CLI_FAILED);
  }
  list->at = at;
  list->at[list->count++] = text;
}

static void print_paragraph(const char *text, int column)
{
  int at = column;
  while (*text) {
    size_t word = strcspn(text, " ");
    if (at > column && at + 1 + (int)word > 96) {
      printf("\n%*s", column, "");
      at = column;
    }
    at += printf("%s%.*s", at > column ? " " : "", (int)word, text);
    text += word;
    while (*text == ' ') text++;
  }
  putchar('\n');
}

static void print_help(const cli_command *command)
{
  printf("usage: tidemill %s%s%s%s\n\n%s\n", command->name,
         command->option_count ? " [options]" : "", *command->operands ? " " : "",
         command->operands, command->about);
  if (command->option_count) printf("\noptions:\n");
  for (size_t i = 0; i < command->option_count; i++) {
    const cli_option *o = &command->options[i];
    char left[64];
    snprintf(left, sizeof left, "  %s%s%s%s%s", o->brief ? o->brief : "", o->brief ? ", " : "",
             o->name, o->kind == CLI_FLAG ? "" : " ", o->kind == CLI_FLAG ? "" : o->value);
    printf("%-28s  ", left);
    print_paragraph(o->help, 30);
  }
  if (command->examples) printf("\nexamples:\n%s", command->examples);
}

static const cli_option *find_option(const cli_command *command, const char *name, size_t length)
{
  for (size_t i = 0; i < command->option_count; i++) {
    const cli_option *o = &command->options[i];
    if (strlen(o->name) == length && strncmp(o->name, name, length) == 0) return o;
    if (o->brief && strlen(o->brief) == length && strncmp(o->brief, name, length) == 0) return o;
  }
  return NULL;
}

static int store_number(const cli_command *command, const cli_option *o, const char *value)
{
  int count = o->kind == CLI_COUNT;
  char *end;
  errno = 0;
  long number = strtol(value, &end, 10);
  if (errno || end == value || *end || number < (count ? 1 : -2147483647L) || number > 2147483647L)
    return cli_usage(command->name, "%s wants a whole number%s, not \"%s\"", o->name,
                     count ? " from 1 on" : "", value);
  *(int *)o->to = (int)number;
  return CLI_OK;
}

static int store_real(const cli_command *command, const cli_option *o, const char *value)
{
  char *end;
  double number = strtod(value, &end);
  if (end == value || *end || !(number > 0 && isfinite(number)))
    return cli_usage(command->name, "%s wants a number above 0, not \"%s\"", o->name, value);
  *(double *)o->to = number;
  return CLI_OK;
}

static int store(const cli_command *command, const cli_option *o, const char *value)
{
  switch (o->kind) {
  case CLI_INT:
  case CLI_COUNT: return store_number(command, o, value);
  case CLI_REAL: return store_real(command, o, value);
  case CLI_FILE:
    if (!*value) return cli_usage(command->name, "%s wants the name of a file, not \"\"", o->name);
    *(const char **)o->to = value;
    return CLI_OK;
  case CLI_TEXT: *(const char **)o->to = value; return CLI_OK;
  case CLI_LIST: cli_list_add(o->to, value); return CLI_OK;
  case CLI_FLAG: break;
  }
  *(int *)o->to = 1;
  return CLI_OK;
}

/* Handles the option at argv[*i]; takes its value from the next word where it needs one. */
static int one_option(const cli_command *command, int argc, char **argv, int *i)
{
  const char *word = argv[*i], *equals = strchr(word, '=');
  size_t length = equals ? (size_t)(equals - word) : strlen(word);
  const cli_option *o = find_option(command, word, length);
  if (!o) return cli_usage(command->name, "unknown option %.*s", (int)length, word);
  if (o->kind == CLI_FLAG) {
    if (equals) return cli_usage(command->name, "%s takes no value", o->name);
    return store(command, o, "");
  }
  if (equals) return store(command, o, equals + 1);
  if (*i + 1 >= argc) return cli_usage(command->name, "%s needs a value: %s", o->name, o->value);
  return store(command, o, argv[++*i]);
}

static int check_files(const cli_command *command)
{
  int code = CLI_OK;
  for (size_t i = 0; i < command->option_count && !code; i++)
    if (command->options[i].kind == CLI_FILE)
      code = output_check(*(const char *const *)command->options[i].to);
  return code;
}

int cli_parse(const cli_command *command, int argc, char **argv, cli_list *operands)
{
  int only_operands = 0;
  *operands = (cli_list){0};
  for (int i = 1; i < argc; i++) {
    const char *word = argv[i];
    if (!only_operands && strcmp(word, "--") == 0) {
      only_operands = 1;
    } else if (!only_operands && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)) {
      print_help(command);
      return CLI_HELP;
    } else if (!only_operands && word[0] == '-' && word[1]) {
      int code = one_option(command, argc, argv, &i);
      if (code) return code;
    } else {
      cli_list_add(operands, word);
    }
  }
  if (!*command->operands && operands->count)
    return cli_usage(command->name, "\"%s\" is one word too many", operands->at[0]);
  return check_files(command);
}
