/* The rendezvous and the reaping of ranks, with real processes. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli.h"
#include "progress.h"
#include "ranks.h"
#include "rendezvous.h"

enum { GOOD = 0, WRONG = 40, LATE = 41, NO_NAME = 42, DISAGREED = 43 };

static int meet(const ranks_env *env, const char *wanted)
{
  unsigned char blob[RDV_BLOB_BYTES] = {0};
  if (env->meet.rank == 0) memset(blob, 0x5a, sizeof blob);
  tml_status status = rdv_meet(&env->meet, blob);
  if (wanted && !strstr(tml_last_error(), wanted)) {
    fprintf(stderr, "rank %d: \"%s\" lacks \"%s\"\n", env->meet.rank, tml_last_error(), wanted);
    return NO_NAME;
  }
  if (status == TML_TIMEOUT) return LATE;
  if (status == TML_DISAGREE) return DISAGREED;
  if (status != TML_OK) return WRONG;
  return blob[0] == 0x5a && blob[RDV_BLOB_BYTES - 1] == 0x5a ? GOOD : WRONG;
}

static int plain(const ranks_env *env, void *user)
{
  (void)user;
  return meet(env, NULL);
}

/* The others must name the missing rank; then that is what was wanted. */
static int names_missing(const ranks_env *env, void *user)
{
  return meet(env, user) == LATE ? GOOD : WRONG;
}

static int late_start(const ranks_env *env, void *user)
{
  (void)user;
  usleep(env->meet.rank == 0 ? 300000 : 0);
  return meet(env, NULL);
}

static ranks_options options(double timeout_s)
{
  return (ranks_options){.timeout_s = timeout_s, .absent = -1, .doomed = -1};
}

static void all_meet(void **state)
{
  (void)state;
  for (int world = 1; world <= TML_MAX_WORLD; world += world == 1 ? 1 : 3) {
    ranks_options o = options(10);
    assert_int_equal(ranks_start(&o, world, plain, NULL), 0);
  }
}

static void a_late_root_is_waited_for(void **state)
{
  ranks_options o = options(10);
  (void)state;
  assert_int_equal(ranks_start(&o, 3, late_start, NULL), 0);
}

static void a_missing_rank_is_named(void **state)
{
  ranks_options o = options(0.7);
  double began = seconds_now();
  (void)state;
  o.absent = 2;
  assert_int_equal(ranks_start(&o, 4, names_missing, "rank 2 of 4"), 0);
  assert_true(seconds_now() - began < 3);
}

static void a_missing_root_is_named(void **state)
{
  ranks_options o = options(0.7);
  double began = seconds_now();
  (void)state;
  o.absent = 0;
  assert_int_equal(ranks_start(&o, 3, names_missing, "rank 0"), 0);
  assert_true(seconds_now() - began < 4);
}

static int dies(const ranks_env *env, void *user)
{
  (void)user;
  if (env->meet.rank == 1) raise(SIGKILL);
  return GOOD;
}

static void only_the_doomed_may_die(void **state)
{
  ranks_options o = options(1);
  (void)state;
  assert_int_equal(ranks_start(&o, 3, dies, NULL), CLI_FAILED);
  o.doomed = 2;
  assert_int_equal(ranks_start(&o, 3, dies, NULL), CLI_FAILED);
  o.doomed = 1;
  assert_int_equal(ranks_start(&o, 3, dies, NULL), CLI_OK);
}

/* Another command line on one rank: everybody hears whose. */
static int other_command(const ranks_env *env, void *user)
{
  ranks_env mine = *env;
  (void)user;
  mine.meet.address = mine.address;
  if (mine.meet.rank == 1) mine.meet.command ^= 1;
  return meet(&mine, "rank 1 was started with another command line") == DISAGREED ? GOOD : WRONG;
}

static void another_command_line_is_refused(void **state)
{
  ranks_options o = options(3);
  (void)state;
  assert_int_equal(ranks_start(&o, 2, other_command, NULL), 0);
}

/* A stranger without the token takes nobody's place. */
static int with_stranger(const ranks_env *env, void *user)
{
  ranks_env mine = *env;
  (void)user;
  mine.meet.address = mine.address;
  if (mine.meet.rank == 1) {
    rdv stranger = mine.meet;
    unsigned char blob[RDV_BLOB_BYTES];
    stranger.token ^= 1;
    stranger.timeout_s = 0.3;
    if (rdv_meet(&stranger, blob) == TML_OK) return WRONG;
  }
  return meet(&mine, NULL);
}

static void a_stranger_is_dropped(void **state)
{
  ranks_options o = options(5);
  (void)state;
  assert_int_equal(ranks_start(&o, 2, with_stranger, NULL), 0);
}

static int dies_or_hangs(const ranks_env *env, void *user)
{
  (void)user;
  if (env->meet.rank == 1) kill(getpid(), SIGKILL);
  if (env->meet.rank == 2) sleep(60);
  return GOOD;
}

/* One rank is killed, another hangs: it is killed after time-out and grace, and the code is 1. */
static void stragglers_are_killed(void **state)
{
  ranks_options o = options(0.2);
  double began = seconds_now();
  (void)state;
  assert_int_equal(ranks_start(&o, 3, dies_or_hangs, NULL), 1);
  assert_true(seconds_now() - began < 10);
}

static int write_pid_and_sleep(const ranks_env *env, void *user)
{
  pid_t pid = getpid();
  (void)env;
  if (write(*(int *)user, &pid, sizeof pid) != (ssize_t)sizeof pid) return WRONG;
  sleep(60);
  return GOOD;
}

/* The parent is killed: no rank lives on. */
static void no_orphans(void **state)
{
  int ends[2];
  pid_t ranks[2];
  (void)state;
  assert_int_equal(pipe(ends), 0);
  pid_t parent = fork();
  if (parent == 0) {
    ranks_options o = options(10);
    _exit(ranks_start(&o, 2, write_pid_and_sleep, &ends[1]));
  }
  for (int i = 0; i < 2; i++)
    assert_int_equal(read(ends[0], &ranks[i], sizeof ranks[i]), (int)sizeof ranks[i]);
  kill(parent, SIGKILL);
  waitpid(parent, NULL, 0);
  close(ends[1]);
  /* Both ranks held the other end; it closes when they are gone. */
  char byte;
  double began = seconds_now();
  assert_int_equal(read(ends[0], &byte, 1), 0);
  assert_true(seconds_now() - began < 5);
  close(ends[0]);
}

static void launchers(void **state)
{
  ranks_env env;
  (void)state;
  unsetenv("RANK");
  assert_int_equal(ranks_launched(&env, 1), 0);
  setenv("RANK", "3", 1);
  setenv("WORLD_SIZE", "4", 1);
  setenv("LOCAL_RANK", "1", 1);
  setenv("MASTER_PORT", "29500", 1);
  assert_int_equal(ranks_launched(&env, 1), 1);
  assert_int_equal(env.meet.rank, 3);
  assert_int_equal(env.meet.world, 4);
  assert_int_equal(env.device, 1);
  assert_int_equal(env.meet.port, 29501);
  setenv("RANK", "4", 1);
  assert_int_equal(ranks_launched(&env, 1), -1);
  setenv("RANK", "x", 1);
  assert_int_equal(ranks_launched(&env, 1), -1);
  unsetenv("RANK");
  unsetenv("WORLD_SIZE");
  unsetenv("LOCAL_RANK");
  unsetenv("MASTER_PORT");
}

static int tell_pid(void *user)
{
  pid_t me = getpid();
  return write(*(int *)user, &me, sizeof me) == (ssize_t)sizeof me ? 7 : 1;
}

static int die(void *user)
{
  (void)user;
  return raise(SIGKILL);
}

/* What is prepared before ranks start leaves no CUDA behind in the process that forks them. */
static void a_process_apart(void **state)
{
  int ends[2];
  pid_t there = 0;
  (void)state;
  assert_int_equal(pipe(ends), 0);
  assert_int_equal(ranks_apart(tell_pid, &ends[1]), 7);
  assert_int_equal(read(ends[0], &there, sizeof there), (int)sizeof there);
  assert_true(there != getpid());
  assert_int_equal(ranks_apart(die, NULL), CLI_FAILED);
  close(ends[0]);
  close(ends[1]);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(all_meet),
      cmocka_unit_test(a_late_root_is_waited_for),
      cmocka_unit_test(a_missing_rank_is_named),
      cmocka_unit_test(a_missing_root_is_named),
      cmocka_unit_test(only_the_doomed_may_die),
      cmocka_unit_test(another_command_line_is_refused),
      cmocka_unit_test(a_stranger_is_dropped),
      cmocka_unit_test(stragglers_are_killed),
      cmocka_unit_test(no_orphans),
      cmocka_unit_test(launchers),
      cmocka_unit_test(a_process_apart),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
