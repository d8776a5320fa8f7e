/* One process per GPU: started and reaped here, or found in a launcher's environment. */
#ifndef TML_RANKS_H
#define TML_RANKS_H

#include "../runtime/gen.h"
#include "rendezvous.h"

/* What a rank process knows of its place. */
typedef struct ranks_env {
  rdv meet;
  int device;
  char address[128];
} ranks_env;

typedef struct ranks_options {
  int world; /* 0: one per GPU */
  double timeout_s;
  int absent; /* rank that is never started, for tests; -1: none */
  int doomed; /* rank whose death is no failure, for tests; -1: none */
} ranks_options;

/* What the machine has, asked by a process of its own: the asking process stays free to fork. */
typedef struct ranks_machine {
  int devices;
  tml_machine machine; /* of device 0; link unknown */
  char why[256];       /* why there is no device */
} ranks_machine;

typedef int (*ranks_main)(const ranks_env *env, void *user);

void ranks_probe(ranks_machine *out);
/* Runs fn in a process of its own and gives its exit code (CLI_FAILED if it died). What starts ranks
 * afterwards must not have used CUDA, and compiling does: NVRTC initialises the driver. With the
 * emulator, whose ranks are threads, fn runs here. */
int ranks_apart(int (*fn)(void *user), void *user);
/* 1: a launcher (torchrun, mpirun) gave rank and world: *out is filled. 0: none. -1 after a
 * message. */
int ranks_launched(ranks_env *out, double timeout_s);
/* Forks `world` processes, runs `main` in each, reaps them. If one dies the others get the time-out
 * and a grace to end by themselves, then they are killed. Exit code: 0 only if all gave 0. */
int ranks_start(const ranks_options *options, int world, ranks_main main, void *user);
/* Checks the world against the GPUs, then ranks_start or, under a launcher, `main` itself. */
int ranks_run(const ranks_options *options, const ranks_machine *machine, ranks_main main,
              void *user);
/* The world that a run will have: of the launcher, of --world, or the number of GPUs. */
int ranks_world(const ranks_options *options, const ranks_machine *machine);
/* Call once at the start of the program; ranks compare their command lines by it. */
void ranks_command_line(int argc, char **argv);
const char *ranks_command_text(void);

#endif
