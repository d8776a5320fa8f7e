#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "../runtime/tidemill.h"
#include "cli.h"
#include "commands.h"
#include "commit.h"
#include "output.h"
#include "ranks.h"

static void help(FILE *to)
{
  fputs("usage: tidemill COMMAND [options] ...\n\n"
        "Tensor-parallel GEMMs whose communication runs inside the GEMM.\n\ncommands:\n",
        to);
#define X(name, about) fprintf(to, "  %-9s %s\n", #name, about);
  COMMAND_MAP(X)
#undef X
  fputs("\nA problem is OP:DTYPE:nt:wWORLD:MxNxK[:bias], for example "
        "ag_gemm:bf16:nt:w8:8192x6144x12288:\n"
        "OP gemm, ag_gemm, gemm_rs or gemm_ar; DTYPE bf16 or fp16; m, n, k of the GEMM that one "
        "rank runs.\n"
        "`tidemill COMMAND --help` says all about a command. Exit codes: 0 done, 1 failed, 2 wrong "
        "usage.\n",
        to);
}

static int run_command(const char *name, int argc, char **argv)
{
  static const struct {
    const char *name;
    int (*run)(int, char **);
  } commands[] = {
#define X(name, about) {#name, cmd_##name},
    COMMAND_MAP(X)
#undef X
  };
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    if (strcmp(name, commands[i].name) == 0) return commands[i].run(argc, argv);
  cli_fail("there is no command \"%.80s\" (see: tidemill --help)", name);
  return CLI_USAGE;
}

static int one_word_too_many(const char *word)
{
  cli_fail("\"%.80s\" is one word too many (see: tidemill --help)", word);
  return CLI_USAGE;
}

/* words: behind --help. A command's name there asks for the command's help. */
static int run_help(int count, char **words)
{
  static char option[] = "--help";
  if (count > 1) return one_word_too_many(words[1]);
  if (count == 1) return run_command(words[0], 2, (char *[]){words[0], option, NULL});
  help(stdout);
  return CLI_OK;
}

static int run(int argc, char **argv)
{
  if (argc < 2) {
    help(stderr);
    return CLI_USAGE;
  }
  if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)
    return run_help(argc - 2, argv + 2);
  if (strcmp(argv[1], "--version") != 0) return run_command(argv[1], argc - 1, argv + 1);
  if (argc > 2) return one_word_too_many(argv[2]);
  printf("tidemill %s, commit %s\n", TML_VERSION, commit_text());
  return CLI_OK;
}

int main(int argc, char **argv)
{
  output_begin();
  signal(SIGPIPE,
         SIG_IGN); /* a reader that leaves is a write error, told at the end as any other */
  ranks_command_line(argc, argv);
  return output_end(run(argc, argv));
}
