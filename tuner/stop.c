#include "stop.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../runtime/bank.h"
#include "../runtime/emu/emu.h"
#include "cli.h"

#define WAIT_MS 5000 /* for a writer that is in the middle of a row */
#define ECHO_MS \
  300 /* `timeout` and others send a signal to the process and to its group: one wish */

/* Shared with the processes that are forked. */
static struct shared {
  atomic_int asked, done, total;
  char what[32];
  char mark[256]; /* the key of the mark that stands in the bank, "" if none does */
} * shared;
static const char *bank_path, *bank_isa;
static sigset_t caught;

void stop_yield(void)
{
  while (shared && atomic_load(&shared->asked)) pause();
}

void stop_keeps(const char *bank, const char *isa)
{
  bank_path = bank;
  bank_isa = isa;
}

void stop_progress(int done, int total, const char *what)
{
  if (!shared) return;
  atomic_store(&shared->done, done);
  atomic_store(&shared->total, total);
  snprintf(shared->what, sizeof shared->what, "%s", what);
}

void stop_marks(const char *key)
{
  if (shared) snprintf(shared->mark, sizeof shared->mark, "%s", key);
}

/* Who was interrupted is not to blame: its mark goes, those of others stay. */
static tml_status publish(void)
{
  tml_bank_writer *writer;
  tml_status status = tml_bank_write_open(&writer, bank_path, bank_isa, WAIT_MS);
  if (status == TML_OK && shared->mark[0]) status = tml_bank_write_mark(writer, shared->mark, "");
  if (status == TML_OK) status = tml_bank_publish(writer);
  tml_bank_write_close(writer);
  return status;
}

static void keep(void)
{
  int done = atomic_load(&shared->done), total = atomic_load(&shared->total);
  if (!bank_path) return;
  if (publish() != TML_OK) cli_fail_status(TML_IO, "not published");
  cli_note("stopped at %d/%d %s; run the same command again to go on", done, total, shared->what);
}

static void *wait_for_signal(void *unused)
{
  const struct timespec echo = {.tv_nsec = ECHO_MS * 1000000};
  int number = 0;
  (void)unused;
  if (sigwait(&caught, &number) != 0) return NULL;
  atomic_store(&shared->asked, 1);
  while (sigtimedwait(&caught, NULL, &echo) > 0) {
  }
  pthread_sigmask(SIG_UNBLOCK, &caught, NULL);
  if (isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
  tml_emu_tidy();
  keep();
  _exit(128 + number);
}

static void add_unless_ignored(int number)
{
  struct sigaction now;
  if (sigaction(number, NULL, &now) == 0 && now.sa_handler != SIG_IGN) sigaddset(&caught, number);
}

void stop_catch(void)
{
  pthread_t thread;
  if (shared) return;
  void *at = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return; /* then signals end the program as they do others */
  shared = at;
  sigemptyset(&caught);
  add_unless_ignored(SIGINT);
  add_unless_ignored(SIGTERM);
  pthread_sigmask(SIG_BLOCK, &caught, NULL);
  if (pthread_create(&thread, NULL, wait_for_signal, NULL) == 0)
    pthread_detach(thread);
  else
    pthread_sigmask(SIG_UNBLOCK, &caught, NULL);
}
