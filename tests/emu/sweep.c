/* The k-th driver call fails, for every k of one whole life: context, comm, plan, launches, destruction.
 * However it ends, it ends: with a status on the rank where the call failed, with nothing left alive, and
 * (under the leak checker) nothing left allocated.
 *
 *   emu_sweep [first k [last k]] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bed.h"

typedef struct failing {
  long k;
  CUresult error;
} failing;

static void fail_call(void *user)
{
  const failing *f = user;
  tml_emu_fail(0, f->k, f->error);
}

/* 1: well; 0: not; -1: there is no such call. */
static int one(const char *problem, long k)
{
  static bed_result r;
  failing f = {k, k % 2 ? CUDA_ERROR_UNKNOWN : CUDA_ERROR_OUT_OF_MEMORY};
  bed_case c = bed_of(problem, "*__128x128x64.c1x1.s?.coop.*", 2, 1);
  c.timeout_us = 1e5;
  c.machine.host_s = 2;
  c.machine.no_hazards = 1;
  c.spoil = fail_call;
  c.spoil_user = &f;
  bed_run(&c, &r);
  if (!*tml_emu_failed()) return -1;
  int failed = 0;
  for (int i = 0; i < c.world; i++) failed += r.status[i] != TML_OK;
  /* Failed releases, and failures of what only makes things faster, may go unnoticed: then the result is right. */
  if (!failed && (r.wrong || r.unwritten)) {
    printf("%s: call %ld, %s, fails: no status, and a wrong result\n", problem, k,
           tml_emu_failed());
    return 0;
  }
  if (r.status[0] != TML_OK && !*r.text[0]) {
    printf("%s: call %ld, %s, fails: a status without a sentence\n", problem, k, tml_emu_failed());
    return 0;
  }
  if (r.alive) {
    printf("%s: call %ld, %s, fails: %d objects stay alive\n", problem, k, tml_emu_failed(),
           r.alive);
    return 0;
  }
  return 1;
}

int main(int argc, char **argv)
{
  static const char *const problems[] = {"gemm:bf16:nt:w1:9x72x72:bias",
                                         "ag_gemm:bf16:nt:w2:9x72x72"};
  long first = argc > 1 ? atol(argv[1]) : 1, last = argc > 2 ? atol(argv[2]) : 1000000;
  int bad = 0;
  for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
    long k = first;
    for (int result = 1; k <= last && result >= 0; k++) {
      result = one(problems[i], k);
      bad += result == 0;
      if (result < 0) break;
    }
    printf("%-32s %ld calls, each failed once\n", problems[i], k - first);
    fflush(stdout);
  }
  tml_emu_close();
  printf("%d failures\n", bad);
  return bad != 0;
}
