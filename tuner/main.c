#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "../runtime/tidemill.h"
#include "cli.h"
#include "commands.h"
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

static int run(int argc, char **argv)
{
  static const struct {
    const char *name;
    int (*run)(int, char **);
  } commands[] = {
#define X(name, about) {#name, cmd_##name},
    COMMAND_MAP(X)
#undef X
  };
  if (argc < 2) {
    help(stderr);
    return CLI_USAGE;
  }
  if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
      strcmp(argv[1], "help") == 0) {
    help(stdout);
    return CLI_OK;
  }
  if (strcmp(argv[1], "--version") == 0) {
    printf("tidemill %s\n", TML_VERSION);
    return CLI_OK;
  }
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
  cli_fail("there is no command \"%.80s\" (see: tidemill --help)", argv[1]);
  return CLI_USAGE;
}

int main(int argc, char **argv)
{
  output_begin();
  signal(SIGPIPE,
         SIG_IGN); /* a reader that leaves is a write error, told at the end as any other */
  ranks_command_line(argc, argv);
  return output_end(run(argc, argv));
}
