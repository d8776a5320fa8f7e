/* Fault injection, for tests of what survivors see. One rank, the victim, dies or launches
 * something else; every other rank must report a fault that names it, within the time-out: then the exit code is 0. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../runtime/status.h"
#include "check.h"
#include "data.h"
#include "progress.h"

#define MAX_CALLS 200

/* `absent` is done by not starting the victim at all. */
static const char *const known[] = {"die:before-first", "die:between", "die:inside", "mismatch:m",
                                    "mismatch:n",       "mismatch:op", "absent"};

int check_inject_known(const char *what)
{
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(known[i], what) == 0) return 1;
  return 0;
}

typedef struct injection {
  rig *r;
  const char *what;
  int victim; /* this rank is it */
  tml_plan *plan, *other;
  data d, other_d;
} injection;

static tml_status make(injection *x, const tml_problem *p, tml_plan **plan, data *d)
{
  char name[TML_NAME_BYTES];
  rig *r = x->r;
  TRY(rig_first_fused(r, p, name));
  TRY(tml_group_vote(r->comm->group, tml_plan_create_forced(plan, r->comm, p, name),
                     "making a plan"));
  TRY(rig_reserve(r, *plan));
  TRY(data_create(r, p, 1, 0, d));
  TRY(data_fill(r, d, 1));
  return rig_wait(r, 10);
}

static tml_status call(injection *x, int wrong)
{
  int other = wrong && strcmp(x->what, "mismatch:m") != 0;
  tml_args args = data_args(other ? &x->other_d : &x->d, 0);
  if (wrong && !other) args.m -= 1;
  return tml_launch(other ? x->other : x->plan, &args, x->r->stream);
}

static void die(void)
{
  fflush(NULL);
  kill(getpid(), SIGKILL);
}

/* The victim's part; returns only where the victim lives on. */
static tml_status victim_part(injection *x)
{
  if (strcmp(x->what, "die:before-first") == 0) die();
  if (strcmp(x->what, "die:inside") == 0) {
    /* The others launch half a second later, so this kernel is running, and waiting, when it
     * dies. */
    tml_status status = call(x, 0);
    if (status != TML_OK) return status;
    usleep(200000);
    die();
  }
  if (strcmp(x->what, "die:between") == 0) {
    for (int i = 0; i < 3; i++) {
      TRY(call(x, 0));
      TRY(rig_wait(x->r, 5));
    }
    die();
  }
  TRY(call(x, 1));
  return rig_wait(x->r, 5);
}

static tml_status survivor_part(injection *x)
{
  if (strcmp(x->what, "die:inside") == 0) usleep(500000);
  for (int i = 0; i < MAX_CALLS; i++) {
    TRY(call(x, 0));
    TRY(rig_wait(x->r, 5));
  }
  return tml_fail(TML_INTERNAL, "%d calls ended well though rank %s was spoiled", MAX_CALLS,
                  x->what);
}

static tml_status prepare(injection *x, const tml_problem *problem)
{
  tml_problem other = *problem;
  if (strcmp(x->what, "mismatch:op") == 0)
    other.op = problem->op == TML_GEMM_RS ? TML_GEMM_AR : TML_GEMM_RS;
  else
    other.n += 64;
  TRY(make(x, problem, &x->plan, &x->d));
  TRY(make(x, &other, &x->other, &x->other_d));
  return tml_group_barrier(x->r->comm->group);
}

static int starts_with(const char *text, const char *head)
{
  return strncmp(text, head, strlen(head)) == 0;
}

int check_inject_kills(const char *what) { return what && starts_with(what, "die:"); }

/* Does the fault of this survivor lead to the victim? Who was stopped by another survivor's abort knows only
 * that one, which is judged itself. */
static int names_victim(const rig *r, const check_options *o)
{
  tml_fault f = {.size = sizeof f};
  if (tml_poll(r->comm, &f) != TML_FAULT) return 0;
  if (f.code == TML_FAULT_PEER_ABORT) return 1;
  int differs = starts_with(o->inject, "mismatch:");
  return (f.rank == o->victim || f.peer == o->victim) && (f.code == TML_FAULT_MISMATCH) == differs;
}

int check_inject_absent(const ranks_env *env, const check_options *o, tml_status status)
{
  char name[32], head[64];
  snprintf(name, sizeof name, "rank %d ", o->victim);
  snprintf(head, sizeof head, "rank %d, absent", env->meet.rank);
  if (status != TML_TIMEOUT || !starts_with(tml_last_error(), name))
    return cli_fail_status(status, head);
  fprintf(o->text, "%s: %s\n", head, tml_last_error());
  return CLI_OK;
}

int check_inject(rig *r, const check_options *o)
{
  injection x = {.r = r, .what = o->inject, .victim = r->rank == o->victim};
  char what[64], seen[600];
  double began;
  tml_status status = prepare(&x, &o->list.at[0]);
  snprintf(what, sizeof what, "rank %d, %s", r->rank, o->inject);
  if (status != TML_OK) return cli_fail_status(status, what);
  began = seconds_now();
  status = x.victim ? victim_part(&x) : survivor_part(&x);
  if (x.victim) return CLI_OK;                         /* what it saw of itself proves nothing */
  snprintf(seen, sizeof seen, "%s", tml_last_error()); /* asking for the fault writes another */
  if (status != TML_FAULT || !names_victim(r, o)) return cli_fail("%s: %s", what, seen);
  fprintf(o->text, "%s: %s; known after %.1f s\n", what, seen, seconds_now() - began);
  return CLI_OK;
}
