/* The command line: one table of options per command gives the parser and its --help. */
#ifndef TML_CLI_H
#define TML_CLI_H

#include <limits.h>
#include <stddef.h>

#define CLI_OK 0
#define CLI_FAILED 1 /* exit code of a failure */
#define CLI_USAGE 2  /* exit code of a usage error */
#define CLI_HELP (-1)
#define CLI_NONE INT_MIN /* no option gives it: an INT that was not given, where 0 is a value */

/* COUNT is from 1 on and REAL above 0 and finite, so that 0 may stand for "not given". FILE: to be written;
 * cli_parse fails where it could not be, before any work is done. */
typedef enum cli_kind {
  CLI_FLAG,
  CLI_INT,
  CLI_COUNT,
  CLI_REAL,
  CLI_TEXT,
  CLI_FILE,
  CLI_LIST
} cli_kind;

/* Values of an option that may be given several times. */
typedef struct cli_list {
  const char **at;
  size_t count;
} cli_list;

typedef struct cli_option {
  const char *name;  /* "--bank" */
  const char *brief; /* "-b" or NULL */
  cli_kind kind;
  void *to; /* int (FLAG, INT, COUNT), double, const char * (TEXT, FILE), cli_list */
  const char *value, *help;
} cli_option;

typedef struct cli_command {
  const char *name, *operands, *about; /* about: what it does */
  const cli_option *options;
  size_t option_count;
  const char *examples; /* NULL or lines */
} cli_command;

/* Reads options anywhere on the line; everything else lands in *operands (entries of argv; free
 * operands->at). CLI_OK; CLI_HELP after printing the help; CLI_USAGE or CLI_FAILED (an output) after one line of error. */
int cli_parse(const cli_command *command, int argc, char **argv, cli_list *operands);
/* What stands for an option that was not given: a variable of the environment, unless it is empty; NULL. */
const char *cli_or_env(const char *given, const char *name);
int cli_usage(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Bytes of the UTF-8 character at `at`, if it is one that a terminal shows; else 0. */
int cli_character(const char *at);
/* One line on stderr; returns CLI_FAILED. */
int cli_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* As cli_fail with the library's status and sentence after `what`. */
int cli_fail_status(int status, const char *what);
void cli_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
void cli_list_add(cli_list *list, const char *text);

#endif
