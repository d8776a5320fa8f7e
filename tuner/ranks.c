#include "ranks.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../runtime/api.h"
#include "../runtime/emu/emu.h"
#include "../runtime/machine.h"
#include "cli.h"
#include "device.h"
#include "output.h"
#include "progress.h"
#include "stop.h"

#define GRACE_S 5.0 /* beyond the time-out, before stragglers are killed */

static char *command_text; /* kept as long as the process lives */
static uint64_t command_hash;

static uint64_t hash_text(uint64_t hash, const char *text) /* FNV-1a, with the final NUL */
{
  do hash = (hash ^ (unsigned char)*text) * 0x100000001b3ull;
  while (*text++);
  return hash;
}

/* What a results file shows of an argument: a path without its folders, which mean nothing elsewhere. */
static const char *shown(const char *argument)
{
  const char *slash = strrchr(argument, '/');
  return slash && slash[1] ? slash + 1 : argument;
}

void ranks_command_line(int argc, char **argv)
{
  size_t bytes = sizeof "tidemill", at = 0;
  for (int i = 1; i < argc; i++) bytes += 1 + strlen(argv[i]);
  command_hash = 0xcbf29ce484222325ull;
  command_text = malloc(bytes);
  for (int i = 0; i < argc; i++) {
    if (i) command_hash = hash_text(command_hash, argv[i]);
    if (command_text)
      at += (size_t)snprintf(command_text + at, bytes - at, "%s%s", i ? " " : "",
                             i ? shown(argv[i]) : "tidemill");
  }
}

const char *ranks_command_text(void) { return command_text ? command_text : "tidemill"; }

static void probe_device(ranks_machine *out)
{
  const tml_api *api = device_api();
  CUdevice device;
  tml_status status;
  if (!api->has_cuda) {
    snprintf(out->why, sizeof out->why, "%.250s", api->why_cuda);
    return;
  }
  status = CU(api, cuInit, (0));
  if (status == TML_OK) status = CU(api, cuDeviceGetCount, (&out->devices));
  if (status == TML_OK && out->devices == 0)
    snprintf(out->why, sizeof out->why, "the driver sees no GPU");
  if (status == TML_OK && out->devices > 0) status = machine_read(api, 0, &device, &out->machine);
  if (status != TML_OK) {
    out->devices = 0;
    snprintf(out->why, sizeof out->why, "%.250s", tml_last_error());
  }
}

void ranks_probe(ranks_machine *out)
{
  int ends[2];
  memset(out, 0, sizeof *out);
  if (device_emulated()) {
    probe_device(out);
    return;
  }
  snprintf(out->why, sizeof out->why, "the process that looked for GPUs died");
  fflush(NULL);
  if (pipe(ends) != 0) return;
  pid_t child = fork();
  if (child == 0) {
    ranks_machine found = {0};
    probe_device(&found);
    _exit(write(ends[1], &found, sizeof found) == (ssize_t)sizeof found ? 0 : 1);
  }
  close(ends[1]);
  ranks_machine found;
  if (child > 0 && read(ends[0], &found, sizeof found) == (ssize_t)sizeof found) *out = found;
  close(ends[0]);
  if (child > 0) waitpid(child, NULL, 0);
}

int ranks_apart(int (*fn)(void *user), void *user)
{
  int status;
  pid_t parent = getpid(), child;
  if (device_emulated()) return fn(user);
  fflush(NULL);
  child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(CLI_FAILED);
    _exit(output_end(fn(user)));
  }
  if (child < 0) return cli_fail("cannot start a process: %s", strerror(errno));
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return cli_fail("lost the process that prepares: %s", strerror(errno));
  stop_yield();
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  return cli_fail("the process that prepares was killed by signal %d (%s)", WTERMSIG(status),
                  strsignal(WTERMSIG(status)));
}

static int number_of(const char *name, int *out)
{
  const char *text = getenv(name);
  char *end;
  if (!text) return 0;
  long value = strtol(text, &end, 10);
  if (end == text || *end || value < 0 || value > 65535) {
    cli_fail("the environment variable %s is \"%s\", not a number that makes sense", name, text);
    return -1;
  }
  *out = (int)value;
  return 1;
}

/* rank, world and local rank by the first launcher that set all three. */
static int launcher_numbers(int *rank, int *world, int *local)
{
  static const char *const names[][3] = {
      {"RANK", "WORLD_SIZE", "LOCAL_RANK"},
      {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
      {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"},
  };
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    if (!getenv(names[i][0]) || !getenv(names[i][1])) continue;
    *local = -1;
    if (number_of(names[i][0], rank) < 0 || number_of(names[i][1], world) < 0 ||
        number_of(names[i][2], local) < 0)
      return -1;
    if (*local < 0) *local = *rank;
    return 1;
  }
  return 0;
}

int ranks_launched(ranks_env *out, double timeout_s)
{
  static const char *const jobs[] = {"TORCHELASTIC_RUN_ID", "PMIX_NAMESPACE", "MASTER_PORT"};
  int rank, world, local, port = 0;
  int found = launcher_numbers(&rank, &world, &local);
  if (found <= 0) return found;
  if (world < 1 || world > TML_MAX_WORLD || rank >= world) {
    cli_fail("the launcher says rank %d of %d; ranks run from 0 and worlds from 1 to %d", rank,
             world, TML_MAX_WORLD);
    return -1;
  }
  memset(out, 0, sizeof *out);
  const char *address = getenv("MASTER_ADDR");
  snprintf(out->address, sizeof out->address, "%s", address ? address : "127.0.0.1");
  uint64_t token = hash_text(0xcbf29ce484222325ull, out->address);
  for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++)
    if (getenv(jobs[i])) token = hash_text(token, getenv(jobs[i]));
  if (number_of("MASTER_PORT", &port) < 0) return -1;
  /* torchrun's own store listens on MASTER_PORT itself; without one, jobs are told apart by
   * name. */
  port = port ? port + 1 : 20000 + (int)(token % 12000);
  if (number_of("TIDEMILL_PORT", &port) < 0) return -1;
  out->meet = (rdv){.rank = rank,
                    .world = world,
                    .port = port,
                    .listener = -1,
                    .token = token,
                    .command = command_hash,
                    .timeout_s = timeout_s};
  out->device = local;
  return 1;
}

static void child_main(ranks_env *env, pid_t parent, ranks_main main, void *user)
{
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* no orphan, whatever kills the parent */
  if (getppid() != parent) _exit(CLI_FAILED);
  env->meet.address = env->address;
  /* No exit handlers: after a fault, libraries' own clean-up may wait for a dead peer. */
  _exit(output_end(main(env, user)));
}

static void tell_death(int rank, int wait_status)
{
  if (WIFSIGNALED(wait_status)) {
    int number = WTERMSIG(wait_status);
    cli_note("rank %d was killed by signal %d (%s)", rank, number, strsignal(number));
  } else {
    cli_note("rank %d ended with exit code %d", rank, WEXITSTATUS(wait_status));
  }
}

/* Waits for all; names the first that failed. */
static int reap(pid_t *pids, int world, int doomed, double timeout_s)
{
  int living = 0, code = CLI_OK, dead = 0;
  double deadline = 0;
  for (int r = 0; r < world; r++) living += pids[r] > 0;
  while (living) {
    int status;
    pid_t pid = waitpid(-1, &status, dead ? WNOHANG : 0);
    stop_yield();
    if (pid < 0 && errno != EINTR) break;
    if (pid <= 0) {
      if (pid == 0 && seconds_now() > deadline) {
        for (int r = 0; r < world; r++) {
          if (pids[r] <= 0) continue;
          cli_note("rank %d did not end within %.0f s of the first failure and is killed", r,
                   timeout_s + GRACE_S);
          kill(pids[r], SIGKILL);
        }
        deadline = seconds_now() + 60;
      }
      usleep(20000);
      continue;
    }
    for (int r = 0; r < world; r++) {
      if (pids[r] != pid) continue;
      pids[r] = 0;
      living--;
      if (status == 0) continue;
      tell_death(r, status);
      if (!dead++) deadline = seconds_now() + timeout_s + GRACE_S;
      if (r != doomed) code = CLI_FAILED;
    }
  }
  return code;
}

static uint64_t random_token(void)
{
  uint64_t token = 0;
  if (getrandom(&token, sizeof token, 0) != (ssize_t)sizeof token)
    token = (uint64_t)getpid() << 32 ^ (uint64_t)(seconds_now() * 1e9);
  return token;
}

int ranks_start(const ranks_options *options, int world, ranks_main main, void *user)
{
  ranks_env env = {.address = "127.0.0.1"};
  pid_t pids[TML_MAX_WORLD] = {0}, parent = getpid();
  env.meet = (rdv){.world = world,
                   .token = random_token(),
                   .command = command_hash,
                   .timeout_s = options->timeout_s};
  int listener = rdv_listen_any(&env.meet.port);
  if (listener < 0) return cli_fail_status(TML_IO, "cannot start ranks");
  fflush(NULL);
  for (int r = 0; r < world; r++) {
    if (r == options->absent) continue;
    env.meet.rank = env.device = r;
    env.meet.listener = r == 0 ? listener : -1;
    pids[r] = fork();
    if (pids[r] == 0) {
      if (r != 0) close(listener);
      child_main(&env, parent, main, user);
    }
    if (pids[r] > 0) continue;
    int code = cli_fail("cannot start rank %d: %s", r, strerror(errno));
    for (int i = 0; i < r; i++)
      if (pids[i] > 0) kill(pids[i], SIGKILL);
    pids[r] = 0;
    close(listener);
    reap(pids, world, -1, 0);
    return code;
  }
  close(listener);
  return reap(pids, world, options->doomed, options->timeout_s);
}

typedef struct ranks_threads {
  ranks_env env[TML_MAX_WORLD];
  int absent;
  ranks_main main;
  void *user;
} ranks_threads;

static int thread_main(void *user, int rank)
{
  ranks_threads *all = user;
  return rank == all->absent ? CLI_OK : all->main(&all->env[rank], all->user);
}

/* Emulated ranks are threads: they share one machine. */
static int start_threads(const ranks_options *options, int world, ranks_main main, void *user)
{
  ranks_threads all = {.absent = options->absent, .main = main, .user = user};
  int port, listener = rdv_listen_any(&port);
  uint64_t token = random_token();
  if (listener < 0) return cli_fail_status(TML_IO, "cannot start ranks");
  for (int r = 0; r < world; r++) {
    ranks_env *env = &all.env[r];
    *env = (ranks_env){.address = "127.0.0.1", .device = r};
    env->meet = (rdv){.rank = r,
                      .world = world,
                      .port = port,
                      .listener = r == 0 ? listener : -1,
                      .token = token,
                      .command = command_hash,
                      .timeout_s = options->timeout_s};
    env->meet.address = env->address;
  }
  int failed = tml_emu_run_ranks(world, thread_main, &all);
  if (options->absent == 0) close(listener);
  return failed ? CLI_FAILED : CLI_OK;
}

int ranks_world(const ranks_options *options, const ranks_machine *machine)
{
  int rank, world = 0, local;
  if (launcher_numbers(&rank, &world, &local) > 0) return world;
  if (options->world) return options->world;
  return machine->devices > TML_MAX_WORLD ? TML_MAX_WORLD : machine->devices;
}

int ranks_run(const ranks_options *options, const ranks_machine *machine, ranks_main main,
              void *user)
{
  ranks_env env;
  int world = ranks_world(options, machine), launched = ranks_launched(&env, options->timeout_s);
  if (launched < 0) return CLI_FAILED;
  if (machine->devices == 0) return cli_fail("no GPU to run on: %s", machine->why);
  if (launched) {
    if (env.device >= machine->devices)
      return cli_fail(
          "rank %d wants GPU %d, but this machine shows %d GPU%s; start fewer ranks per "
          "machine",
          env.meet.rank, env.device, machine->devices, machine->devices == 1 ? "" : "s");
    env.meet.address = env.address;
    return main(&env, user);
  }
  if (world > machine->devices)
    return cli_fail(
        "a world of %d needs %d GPUs, but this machine shows %d; use --world %d or fewer, or "
        "look at CUDA_VISIBLE_DEVICES",
        world, world, machine->devices, machine->devices);
  if (device_emulated()) return start_threads(options, world, main, user);
  return ranks_start(options, world, main, user);
}
