/* The scheduler: ready threads in random order, events of asynchronous work by virtual time. */
#include "state.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define LONG_WAIT_NS 10000u /* pollers look at the clock before time jumps further than this */
#define STEP_MAX_NS 1000000u
#define BURST 1024u /* most steps of one block in a row */

/* One machine runs at a time; fibres find it here (a fibre may wake on another host thread than the
 * one it slept on, so no thread-local variable may hold it). */
static pthread_mutex_t running = PTHREAD_MUTEX_INITIALIZER;
static emu_machine *machine;

emu_thread *emu_self(void) { return machine->self; }

u64 emu_below(emu_machine *m, u64 below)
{
  /* xorshift128+ */
  u64 a = m->random[0], b = m->random[1];
  m->random[0] = b;
  a ^= a << 23;
  m->random[1] = a ^ b ^ (a >> 17) ^ (b >> 26);
  return below ? (m->random[1] + b) % below : 0;
}

u64 emu_late(emu_machine *m)
{
  u64 late = m->config.late_ns;
  switch (emu_below(m, 8)) {
  case 0: return emu_below(m, 50);
  case 1: return emu_below(m, late * 10 + 1);
  case 2: return emu_below(m, late / 4 + 1);
  default: return emu_below(m, late + 1);
  }
}

/* ---- Events: a binary heap ------------------------------------------------------------------- */
static int before(const emu_event *a, const emu_event *b)
{
  return a->time != b->time ? a->time < b->time : a->number < b->number;
}

void emu_at(emu_machine *m, u64 delay, void (*run)(void *), void *arg)
{
  emu_event event = {m->now + delay, m->event_number++, run, arg};
  u32 i;
  if (m->event_count == m->event_room) {
    m->event_room = m->event_room ? 2 * m->event_room : 256;
    m->event = emu_need(realloc(m->event, m->event_room * sizeof *m->event));
  }
  for (i = m->event_count++; i > 0 && before(&event, &m->event[(i - 1) / 2]); i = (i - 1) / 2) {
    m->event[i] = m->event[(i - 1) / 2];
  }
  m->event[i] = event;
}

static emu_event take_event(emu_machine *m)
{
  emu_event first = m->event[0], last = m->event[--m->event_count];
  u32 i = 0, child;
  while ((child = 2 * i + 1) < m->event_count) {
    if (child + 1 < m->event_count && before(&m->event[child + 1], &m->event[child])) ++child;
    if (!before(&m->event[child], &last)) break;
    m->event[i] = m->event[child];
    i = child;
  }
  m->event[i] = last;
  return first;
}

/* ---- Threads --------------------------------------------------------------------------------- */
void emu_ready(emu_machine *m, emu_thread *thread)
{
  emu_slot *slot = thread->cta->slot;
  if (slot->ready_count == slot->ready_room) {
    slot->ready_room = slot->ready_room ? 2 * slot->ready_room : 512;
    slot->ready = emu_need(realloc(slot->ready, slot->ready_room * sizeof(emu_thread *)));
  }
  if (thread->state != EMU_NEW) thread->state = EMU_READY;
  thread->waits = NULL;
  if (slot->ready_count == 0) {
    slot->active_at = m->active_count;
    m->active[m->active_count++] = slot;
  }
  slot->ready[slot->ready_count++] = thread;
}

/* A random thread of a random block; the block is kept for a random while. */
static emu_thread *pick(emu_machine *m)
{
  emu_slot *slot = m->burst_slot;
  emu_thread *thread;
  u32 i;
  if (m->burst == 0 || !slot || slot->ready_count == 0) {
    slot = m->burst_slot = m->active[emu_below(m, m->active_count)];
    m->burst = 1 + (u32)emu_below(m, BURST);
  }
  --m->burst;
  i = (u32)emu_below(m, slot->ready_count);
  thread = slot->ready[i];
  slot->ready[i] = slot->ready[--slot->ready_count];
  if (slot->ready_count == 0) { /* the last place of the list takes this one's */
    emu_slot *last = m->active[--m->active_count];
    m->active[slot->active_at] = last;
    last->active_at = slot->active_at;
  }
  return thread;
}

static void yield(emu_thread *thread, int state)
{
  thread->state = state;
  emu_fibre_yield(thread->fibre);
}

void emu_wait(emu_thread **list, const char *what, u64 a, u64 b)
{
  emu_thread *self = machine->self;
  self->waits = what;
  self->wait_a = a;
  self->wait_b = b;
  self->next = *list;
  *list = self;
  yield(self, EMU_BLOCKED);
}

void emu_wake(emu_machine *m, emu_thread **list)
{
  emu_thread *thread = *list;
  *list = NULL;
  while (thread) {
    emu_thread *next = thread->next;
    emu_ready(m, thread);
    thread = next;
  }
}

static void wake_sleeper(void *arg)
{
  emu_thread *thread = arg;
  emu_ready(thread->cta->m, thread);
}

void emu_sleep(u64 ns)
{
  emu_thread *self = machine->self;
  self->waits = "a pause";
  emu_at(machine, ns, wake_sleeper, self);
  yield(self, EMU_SLEEPING);
}

void emu_park(void)
{
  emu_thread *self = machine->self;
  ++machine->parked_count;
  self->waits = "a word of memory";
  self->wait_a = self->poll_at;
  self->wait_b = self->poll_value;
  self->next = machine->parked;
  machine->parked = self;
  yield(self, EMU_PARKED);
}

void emu_unpark(emu_machine *m, const void *word)
{
  emu_thread **link = &m->parked;
  while (*link) {
    emu_thread *thread = *link;
    if (word && thread->poll_key != word) {
      link = &thread->next;
      continue;
    }
    *link = thread->next;
    --m->parked_count;
    emu_ready(m, thread);
  }
}

emu_thread *emu_enter(emu_site *site)
{
  emu_machine *m = machine;
  emu_thread *self = m->self;
  self->site = site;
  ++m->counts.primitives;
  if (m->until_switch-- == 0) {
    m->until_switch = (u32)emu_below(m, 2 * (u64)m->config.switch_every - 1);
    emu_ready(m, self);
    emu_fibre_yield(self->fibre);
  }
  return self;
}

static void run_thread(emu_machine *m)
{
  emu_thread *thread = pick(m);
  u64 *left = &m->halt_after[thread->cta->device];
  if (*left != UINT64_MAX) {
    if (*left == 0) { /* a halted device: the thread is forgotten where it stands */
      thread->waits = "nothing: its device was halted";
      return;
    }
    --*left;
  }
  if (!thread->fibre) {
    thread->fibre = emu_need(emu_fibre_take(m->fibres, emu_thread_main, thread));
  }
  thread->state = EMU_RUNNING;
  m->self = thread;
  ++m->counts.switches;
  m->now += 2;
  if (emu_fibre_resume(thread->fibre)) {
    m->self = NULL;
    return;
  }
  m->self = NULL;
  thread->fibre = NULL;
  if (thread->cta->live == 0) emu_cta_quiet(thread->cta); /* it may go, with the thread in it */
}

void emu_complete(emu_machine *m, emu_clock *clock, void (*done)(void *), void *arg)
{
  (void)clock;
  ++m->completed;
  --m->under_way;
  if (done) done(arg);
}

static u64 idle_step(const emu_machine *m)
{
  u32 doublings = m->idle_steps / 256;
  u64 step = doublings > 15 ? STEP_MAX_NS : (u64)20 << doublings;
  return step < STEP_MAX_NS ? step : STEP_MAX_NS;
}

/* Nothing is ready: to the next event, or in small steps while pollers would see the clock. */
static void skip_time(emu_machine *m)
{
  u64 next = m->event[0].time;
  if (next <= m->now) return;
  if (m->parked_count == 0 || next - m->now <= LONG_WAIT_NS) {
    m->now = next;
    return;
  }
  u64 step = idle_step(m);
  ++m->idle_steps;
  m->now = next - m->now < step ? next : m->now + step;
  emu_unpark(m, NULL);
}

static emu_state step(emu_machine *m)
{
  while (m->event_count > 0 && m->event[0].time <= m->now) {
    emu_event event = take_event(m);
    ++m->counts.events;
    m->idle_steps = 0;
    event.run(event.arg);
  }
  if (m->active_count > 0) {
    run_thread(m);
  } else if (m->event_count > 0) {
    skip_time(m);
  } else if (m->under_way == 0) {
    return EMU_IDLE;
  } else {
    return m->parked_count > 0 ? EMU_POLLING : EMU_STUCK;
  }
  return EMU_MORE;
}

emu_state emu_run(emu_machine *m, uint64_t switches)
{
  emu_state state = EMU_MORE;
  pthread_mutex_lock(&running);
  machine = m;
  m->completed = 0;
  for (u64 i = 0; state == EMU_MORE && (switches == 0 || i < switches); ++i) {
    if (m->dispatch) emu_dispatch(m);
    state = step(m);
    if (m->completed > 0) state = EMU_DONE;
  }
  pthread_mutex_unlock(&running);
  return state;
}

void emu_pass_time(emu_machine *m)
{
  m->now += idle_step(m);
  ++m->idle_steps;
  emu_unpark(m, NULL);
}

uint64_t emu_now_ns(const emu_machine *m) { return m->now; }

void emu_halt(emu_machine *m, int device, uint64_t after_steps)
{
  m->halt_after[device] = after_steps;
}
