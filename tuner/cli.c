#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/tidemill.h"
#include "output.h"

int cli_character(const char *c)
{
  const unsigned char *byte = (const unsigned char *)c;
  int bytes = *byte < 0x80 ? 1 : *byte >= 0xf0 ? 4 : *byte >= 0xe0 ? 3 : *byte >= 0xc2 ? 2 : 0;
  if (*byte < 0x20 || *byte == 0x7f || *byte > 0xf4) return 0;
  if (*byte == 0xc2 && byte[1] < 0xa0) return 0; /* control characters beyond ASCII */
  for (int i = 1; i < bytes; i++)
    if (byte[i] >> 6 != 2) return 0;
  return bytes;
}

/* Names come from outside: what would steer a terminal is shown, not sent. */
static void print_escaped(FILE *to, const char *text, size_t bytes)
{
  for (const char *c = text; c < text + bytes;) {
    int length = cli_character(c);
    if (length)
      fwrite(c, 1, (size_t)length, to);
    else
      fprintf(to, "\\x%02x", (unsigned)(unsigned char)*c);
    c += length ? length : 1;
  }
}

/* A word that nobody can read is cut, but a path is whole. */
static void print_word(FILE *to, const char *word, size_t bytes)
{
  enum { HEAD = 60, TAIL = 17 };
  if (bytes <= 100 || memchr(word, '/', bytes)) {
    print_escaped(to, word, bytes);
    return;
  }
  print_escaped(to, word, HEAD);
  fputs("...", to);
  print_escaped(to, word + bytes - TAIL, TAIL);
}

static void say(const char *head, const char *format, va_list list)
{
  char line[4000];
  vsnprintf(line, sizeof line, format, list);
  for (char *c = line; *c; c++)
    if (*c == '\n') *c = ' '; /* one error, one line */
  fflush(stdout);
  flockfile(stderr); /* ranks may be threads */
  fprintf(stderr, "%s: ", head);
  for (const char *at = line; *at;) {
    size_t word = strcspn(at, " ");
    print_word(stderr, at, word);
    at += word;
    if (*at) fputc(*at++, stderr);
  }
  fputc('\n', stderr);
  funlockfile(stderr);
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
  char text[3900];
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

/* A help text; its line breaks are the compiler's, not the reader's. */
static void print_paragraph(const char *text, int column)
{
  int at = column;
  while (*text) {
    size_t word = strcspn(text, " \n");
    if (at > column && at + 1 + (int)word > 96) {
      printf("\n%*s", column, "");
      at = column;
    }
    at += printf("%s%.*s", at > column ? " " : "", (int)word, text);
    text += word;
    while (*text == ' ' || *text == '\n') text++;
  }
  putchar('\n');
}

static void print_help(const cli_command *command)
{
  printf("usage: tidemill %s%s%s%s\n\n", command->name, command->option_count ? " [options]" : "",
         *command->operands ? " " : "", command->operands);
  print_paragraph(command->about, 0);
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
    return cli_usage(command->name, "%s wants a whole number%s, not \"%.80s\"", o->name,
                     count ? " from 1 on" : "", value);
  *(int *)o->to = (int)number;
  return CLI_OK;
}

static int store_real(const cli_command *command, const cli_option *o, const char *value)
{
  char *end;
  double number = strtod(value, &end);
  if (end == value || *end || !(number > 0 && isfinite(number)))
    return cli_usage(command->name, "%s wants a number above 0, not \"%.80s\"", o->name, value);
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
  if (!o)
    return cli_usage(command->name, "unknown option %.*s", length < 80 ? (int)length : 80, word);
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
    return cli_usage(command->name, "\"%.80s\" is one word too many", operands->at[0]);
  return check_files(command);
}
