/* Host threads, and waiting: the one place where devices move.
 *
 * A thread has a part in the machine while a context is current in it, or while it is a rank of
 * tml_emu_run_ranks. Devices move only when every such thread waits inside a call; then one of them runs
 * the machine, step by step, until some thread has what it waits for. So what a device does depends on
 * what every thread has enqueued, never on which of them was faster. */
#include <time.h>

#include "driver.h"

#define SLICE 200000 /* switches between two looks at the time */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;

static void forget(void *pointer)
{
  drv_thread *self = pointer;
  pthread_mutex_lock(&drv.lock);
  for (drv_thread **link = &drv.threads; *link; link = &(*link)->next) {
    if (*link != self) continue;
    *link = self->next;
    break;
  }
  if (self->clock && self->machine == drv.number && drv.emu) emu_clock_destroy(self->clock);
  pthread_cond_broadcast(&drv.changed);
  pthread_mutex_unlock(&drv.lock);
  free(self);
}

static void make_key(void) { pthread_key_create(&key, forget); }

/* With the lock held. A thread that cannot be remembered shares a spare one: it has no part of its own. */
drv_thread *drv_self(void)
{
  static drv_thread spare = {.device = -1};
  pthread_once(&once, make_key);
  drv_thread *self = pthread_getspecific(key);
  if (!self) {
    self = calloc(1, sizeof *self);
    if (!self || pthread_setspecific(key, self) != 0) {
      free(self);
      return &spare;
    }
    self->device = -1;
    self->next = drv.threads;
    drv.threads = self;
  }
  if (self->machine != drv.number) {
    self->machine = drv.number;
    self->device = -1;
    self->depth = self->group_depth = self->captures = 0;
    self->clock = drv.emu ? emu_clock_create(drv.emu) : NULL;
  }
  return self;
}

int drv_current(void) { return drv_self()->device; }

void drv_threads_reset(void)
{
  for (drv_thread *thread = drv.threads; thread; thread = thread->next) {
    if (thread->machine != drv.number) continue;
    if (thread->clock) emu_clock_destroy(thread->clock);
    thread->clock = NULL;
    thread->machine = 0;
  }
}

/* ---- Running the machine ------------------------------------------------------------------------ */

static int takes_part(const drv_thread *thread)
{
  return thread->machine == drv.number && (thread->enlisted || thread->device >= 0);
}

static int waits(const drv_thread *thread) { return thread->waiting && !thread->satisfied; }

/* A rank that has sent another thread of its device into a call, and waits for that on its own. */
static int has_deputy(const drv_thread *rank)
{
  for (const drv_thread *thread = drv.threads; thread; thread = thread->next)
    if (thread != rank && !thread->enlisted && takes_part(thread) &&
        thread->device == rank->device && waits(thread))
      return 1;
  return 0;
}

static int everybody_waits(void)
{
  for (const drv_thread *thread = drv.threads; thread; thread = thread->next)
    if (takes_part(thread) && !waits(thread) && !has_deputy(thread)) return 0;
  return 1;
}

/* Tells threads that have what they wait for. 1: there is one. */
static int satisfy(void)
{
  int some = 0;
  for (drv_thread *thread = drv.threads; thread; thread = thread->next) {
    if (!thread->waiting || !thread->ready) continue;
    if (!thread->satisfied) thread->satisfied = thread->ready(thread->arg);
    some |= thread->satisfied;
  }
  if (some) pthread_cond_broadcast(&drv.changed);
  return some;
}

/* Waits for ever: every device with work under way is broken from here on. */
static void stuck(void)
{
  emu_waiting(drv.emu, drv.stuck, sizeof drv.stuck);
  for (int d = 0; d < drv.config.devices; d++)
    if (drv.device[d].ops) drv_device_error(d, CUDA_ERROR_LAUNCH_FAILED);
}

/* One step of the machine. 1: go on. 0: nothing will move before a host thread acts. */
static int step(void)
{
  if (drv_pump()) return 1;
  switch (emu_run(drv.emu, SLICE)) {
  case EMU_DONE:
  case EMU_MORE: return 1;
  case EMU_POLLING: emu_pass_time(drv.emu); return 1;
  case EMU_STUCK: stuck(); return 1;
  case EMU_IDLE: break;
  }
  return 0;
}

static double now_s(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Gives the lock away until something changes, at most so long. */
static void rest(double seconds)
{
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  long ns = until.tv_nsec + (long)(seconds * 1e9);
  until.tv_sec += ns / 1000000000;
  until.tv_nsec = ns % 1000000000;
  pthread_cond_timedwait(&drv.changed, &drv.lock, &until);
}

/* Until nothing can move or somebody has what he waits for. 0: nothing can move. */
static int run_machine(void)
{
  while (!satisfy())
    if (!step()) return satisfy();
  return 1;
}

int drv_wait(drv_ready_fn ready, void *arg, double patience_s)
{
  drv_thread *self = drv_self();
  double began = now_s(), quiet = began;
  long calls = drv.calls;
  if (ready(arg)) return 1;
  self->ready = ready;
  self->arg = arg;
  self->satisfied = 0;
  self->waiting = 1;
  while (!self->satisfied) {
    int all = everybody_waits();
    if (drv.calls != calls) quiet = now_s();
    calls = drv.calls;
    /* A thread that stays away for long waits for something of its own: go on without it. */
    int away = !all && now_s() - quiet > drv.config.host_s;
    int moved = all || away ? run_machine() : 0;
    if (self->satisfied) break;
    if ((all || away) && !moved && now_s() - began >= patience_s) break;
    rest(all && !moved ? 0.002 : 0.05);
    if (!self->satisfied) self->satisfied = ready(arg);
  }
  int satisfied = self->satisfied;
  self->waiting = self->satisfied = 0;
  self->ready = NULL;
  return satisfied;
}

/* ---- Ranks -------------------------------------------------------------------------------------- */

static int never(void *arg) { return (void)arg, 0; }

static void park(int parked)
{
  drv_thread *self = drv_self();
  self->ready = parked ? never : NULL;
  self->waiting = parked;
  self->satisfied = 0;
  pthread_cond_broadcast(&drv.changed);
}

typedef struct rank_thread {
  pthread_t thread;
  int rank, world, result;
  int *arrived;
  tml_emu_rank_fn fn;
  void *user;
} rank_thread;

static int all_arrived(void *arg)
{
  const rank_thread *rank = arg;
  return *rank->arrived == rank->world;
}

static void *run_rank(void *pointer)
{
  rank_thread *rank = pointer;
  pthread_mutex_lock(&drv.lock);
  drv_self()->enlisted = 1;
  ++*rank->arrived;
  pthread_cond_broadcast(&drv.changed);
  drv_wait(all_arrived, rank,
           drv.config.host_s); /* nothing moves while some rank is not there yet */
  pthread_mutex_unlock(&drv.lock);
  rank->result = rank->fn(rank->user, rank->rank);
  pthread_mutex_lock(&drv.lock);
  drv_self()->enlisted = 0;
  drv_self()->device = -1;
  pthread_cond_broadcast(&drv.changed);
  pthread_mutex_unlock(&drv.lock);
  return NULL;
}

int tml_emu_run_ranks(int world, tml_emu_rank_fn fn, void *user)
{
  rank_thread ranks[EMU_MAX_DEVICES];
  int started = 0, failed = 0, arrived = 0;
  if (world < 1 || world > EMU_MAX_DEVICES) return -1;
  tml_emu_api();
  pthread_mutex_lock(&drv.lock);
  park(1);
  pthread_mutex_unlock(&drv.lock);
  for (; started < world; started++) {
    ranks[started] =
        (rank_thread){.rank = started, .world = world, .arrived = &arrived, .fn = fn, .user = user};
    if (pthread_create(&ranks[started].thread, NULL, run_rank, &ranks[started]) != 0) break;
  }
  for (int r = 0; r < started; r++) {
    pthread_join(ranks[r].thread, NULL);
    failed += ranks[r].result != 0;
  }
  pthread_mutex_lock(&drv.lock);
  park(0);
  pthread_mutex_unlock(&drv.lock);
  return started < world ? -1 : failed;
}
