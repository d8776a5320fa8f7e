/* Writing a bank: several writers, killed writers, folders that cannot be written. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "bank_fixture.h"

static tml_bank_writer *open_writer(void)
{
  tml_bank_writer *writer;
  if (tml_bank_write_open(&writer, bank_path, NULL, TML_BANK_WAIT_MS) != TML_OK)
    fail_msg("%s", tml_last_error());
  return writer;
}

static void put_row(tml_bank_writer *writer, int i)
{
  tml_bank_row row = row_of(i);
  if (tml_bank_write_row(writer, &row) != TML_OK) fail_msg("%s", tml_last_error());
  tml_bank_row_free(&row);
}

static int has(tml_bank_writer *writer, int i, const char *compiler)
{
  tml_bank_row row = row_of(i);
  int found = tml_bank_write_has(writer, row.name, row.hash, compiler);
  tml_bank_row_free(&row);
  return found;
}

/* Rows [0, count) of the published bank that are there, refused ones included. */
static int published(int count)
{
  tml_bank *bank;
  int found = 0;
  if (tml_bank_open(&bank, bank_path) != TML_OK) fail_msg("%s", tml_last_error());
  assert_int_equal(tml_bank_verify(bank), TML_OK);
  for (int i = 0; i < count; i++) {
    tml_bank_row want = row_of(i), got;
    tml_bank_get(bank, want.name, want.hash, &got);
    found += strcmp(got.name, want.name) == 0 && strcmp(got.refused, want.refused) == 0;
    tml_bank_row_free(&got);
    tml_bank_row_free(&want);
  }
  tml_bank_close(bank);
  return found;
}

static int exists(const char *suffix)
{
  char path[96];
  struct stat info;
  snprintf(path, sizeof path, "%s%s", bank_path, suffix);
  return lstat(path, &info) == 0;
}

static void knows_what_it_has(void **state)
{
  (void)state;
  tml_bank_writer *writer = open_writer();
  assert_int_equal(has(writer, 0, NULL), 0);
  put_row(writer, 0);
  put_row(writer, 4);                       /* refused counts */
  for (int round = 0; round < 2; round++) { /* in the part, then in the bank */
    assert_int_equal(has(writer, 0, "nvrtc 13.0"), 1);
    assert_int_equal(has(writer, 0, "nvrtc 12.9"), 0);
    assert_int_equal(has(writer, 4, NULL), 1);
    assert_int_equal(has(writer, 1, NULL), 0);
    assert_int_equal(tml_bank_write_has(writer, row_of(4).name, "00", NULL), 0);
    assert_int_equal(tml_bank_publish(writer), TML_OK);
    assert_int_equal(exists(".part"), round); /* gone with the publish; `has` opens a new one */
  }
  tml_bank_write_close(writer);
  assert_int_equal(exists(".part"), 0);
  assert_int_equal(exists(".new"), 0);
}

static void newer_rows_win(void **state)
{
  (void)state;
  struct stat info;
  assert_int_equal(write_rows(0, 3), TML_OK);
  assert_int_equal(chmod(bank_path, 0600), 0);
  tml_bank_writer *writer = open_writer();
  tml_bank_row row = row_of(1);
  strcpy(row.compiler, "nvrtc 13.1");
  assert_int_equal(tml_bank_write_row(writer, &row), TML_OK);
  assert_int_equal(has(writer, 1, "nvrtc 13.0"), 0); /* the part decides */
  assert_int_equal(tml_bank_publish(writer), TML_OK);
  assert_int_equal(has(writer, 1, "nvrtc 13.1"), 1);
  tml_bank_write_close(writer);
  tml_bank_row_free(&row);
  assert_int_equal(published(3), 3);
  assert_int_equal(stat(bank_path, &info), 0);
  assert_int_equal(info.st_mode & 0777, 0600); /* a private bank stays private */
}

static void refuses_nonsense(void **state)
{
  (void)state;
  tml_bank_writer *writer = open_writer();
  tml_bank_row row = row_of(0);
  unsigned char *cubin = row.cubin;
  row.cubin = NULL;
  assert_int_equal(tml_bank_write_row(writer, &row), TML_ARGUMENT);
  row.cubin = cubin;
  strcpy(row.refused, "x");
  assert_int_equal(tml_bank_write_row(writer, &row), TML_ARGUMENT);
  row.refused[0] = 0;
  row.compile_ms = 0.0 / 0.0;
  assert_int_equal(tml_bank_write_row(writer, &row), TML_ARGUMENT);
  row.name[0] = 0;
  assert_int_equal(tml_bank_write_row(writer, &row), TML_ARGUMENT);
  tml_bank_row_free(&row);
  tml_pick pick = pick_of(1, 13000, "nvlink", 1);
  pick.us = 1.0 / 0.0;
  assert_int_equal(tml_bank_write_pick(writer, &pick), TML_ARGUMENT);
  tml_bank_write_close(writer);
}

static void marks(void **state)
{
  (void)state;
  char text[32];
  tml_bank_writer *writer = open_writer();
  assert_int_equal(tml_bank_read_mark(writer, "trying", text, sizeof text), TML_OK);
  assert_string_equal(text, "");
  assert_int_equal(tml_bank_write_mark(writer, "trying", "gemm.x"), TML_OK);
  put_row(writer, 0);
  assert_int_equal(tml_bank_publish(writer), TML_OK); /* a mark survives */
  tml_bank_write_close(writer);
  writer = open_writer();
  assert_int_equal(tml_bank_read_mark(writer, "trying", text, sizeof text), TML_OK);
  assert_string_equal(text, "gemm.x");
  assert_int_equal(tml_bank_write_mark(writer, "trying", ""), TML_OK);
  assert_int_equal(tml_bank_read_mark(writer, "trying", text, sizeof text), TML_OK);
  assert_string_equal(text, "");
  tml_bank_write_close(writer);
  assert_int_equal(exists(".part"), 0);
}

/* ---- Several processes ----------------------------------------------------------------------- */

/* One of `step` writers: rows first, first + step, ...; a publish now and then. Returns in the
 * child. */
static pid_t spawn(int first, int step, int count, int publish_every)
{
  pid_t pid = fork();
  if (pid != 0) return pid;
  tml_bank_writer *writer;
  if (tml_bank_write_open(&writer, bank_path, NULL, TML_BANK_WAIT_MS) != TML_OK) _exit(2);
  for (int i = first, wrote = 1; i < count; i += step, wrote++) {
    tml_bank_row row = row_of(i);
    if (tml_bank_write_row(writer, &row) != TML_OK) _exit(3);
    tml_bank_row_free(&row);
    if (publish_every && wrote % publish_every == 0 && tml_bank_publish(writer) != TML_OK) _exit(4);
  }
  if (publish_every && tml_bank_publish(writer) != TML_OK) _exit(5);
  tml_bank_write_close(writer);
  _exit(0);
}

static void writers_at_once(void **state)
{
  (void)state;
  enum { WRITERS = 3, COUNT = 60 };
  pid_t pids[WRITERS];
  for (int i = 0; i < WRITERS; i++) pids[i] = spawn(i, WRITERS, COUNT, 3 + i);
  for (int i = 0; i < WRITERS; i++) {
    int status;
    assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail_msg("writer %d: status %x", i, status);
  }
  assert_int_equal(published(COUNT), COUNT);
  assert_int_equal(exists(".part"), 0);
}

static void two_writers_in_one_process(void **state)
{
  (void)state;
  tml_bank_writer *a = open_writer(), *b = open_writer();
  for (int i = 0; i < 20; i += 2) {
    put_row(a, i);
    put_row(b, i + 1);
    if (i % 6 == 0) assert_int_equal(tml_bank_publish(i % 4 ? a : b), TML_OK);
  }
  assert_int_equal(has(a, 19, NULL), 1); /* b's row, not published yet */
  assert_int_equal(tml_bank_publish(a), TML_OK);
  tml_bank_write_close(a);
  tml_bank_write_close(b);
  assert_int_equal(published(20), 20);
}

static void readers_see_whole_banks(void **state)
{
  (void)state;
  enum { COUNT = 40 };
  assert_int_equal(write_rows(0, 1), TML_OK);
  pid_t pid = spawn(1, 1, COUNT, 1); /* publishes after every row */
  int last = 1, status = 0, opens = 0;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    int now = published(COUNT);
    assert_true(now >= last);
    last = now;
    opens++;
  }
  assert_int_equal(status, 0);
  assert_true(opens > 3);
  assert_int_equal(published(COUNT), COUNT);
}

/* A build killed at any moment is continued: what was written before stays, and the bank is
 * whole. */
static void killed_builds(void **state)
{
  (void)state;
  enum { COUNT = 100, KILLS = 12 };
  for (int i = 0; i < KILLS; i++) {
    const struct timespec pause = {.tv_nsec = (long)(3 + 7 * i) * 1000000};
    pid_t pid = spawn(0, 1, COUNT, 4);
    nanosleep(&pause, NULL);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    if (exists("")) assert_true(published(COUNT) > 0);
  }
  tml_bank_writer *writer = open_writer();
  assert_string_equal(tml_bank_write_note(writer), ""); /* a kill is no corruption */
  int kept = 0;
  for (int i = 0; i < COUNT; i++) {
    int there = has(writer, i, NULL);
    kept += there;
    if (!there) put_row(writer, i);
  }
  assert_true(kept > 0);
  assert_int_equal(tml_bank_publish(writer), TML_OK);
  tml_bank_write_close(writer);
  assert_int_equal(published(COUNT), COUNT);
}

/* ---- What cannot be used --------------------------------------------------------------------- */

static void damaged_parts_are_set_aside(void **state)
{
  (void)state;
  char part[96], garbage[8192];
  memset(garbage, 'g', sizeof garbage);
  snprintf(part, sizeof part, "%s.part", bank_path);
  assert_int_equal(write_whole(part, garbage, sizeof garbage), 0);
  tml_bank_writer *writer = open_writer();
  assert_non_null(strstr(tml_bank_write_note(writer), "set aside as t.bank.part.aside.1"));
  assert_int_equal(exists(".part.aside.1"), 1);
  put_row(writer, 0);
  assert_int_equal(tml_bank_publish(writer), TML_OK);
  tml_bank_write_close(writer);
  assert_int_equal(published(1), 1);
  /* another Tidemill's part */
  writer = open_writer();
  put_row(writer, 1);
  tml_bank_write_close(writer);
  char command[160];
  snprintf(command, sizeof command,
           "sqlite3 %s \"UPDATE meta SET value='0.0.9' WHERE key='tidemill'\"", part);
  if (system(command) != 0) skip();
  writer = open_writer();
  assert_non_null(strstr(tml_bank_write_note(writer), "begun by Tidemill '0.0.9'"));
  assert_int_equal(exists(".part.aside.2"), 1);
  tml_bank_write_close(writer);
}

static void damaged_rows_are_left_out(void **state)
{
  (void)state;
  char command[160];
  assert_int_equal(write_rows(0, 3), TML_OK);
  snprintf(command, sizeof command,
           "sqlite3 %s \"UPDATE variant SET registers=1 WHERE name LIKE '%%1'\"", bank_path);
  if (system(command) != 0) skip();
  tml_bank_writer *writer = open_writer();
  assert_int_equal(has(writer, 1, NULL), 0);
  put_row(writer, 3);
  assert_int_equal(tml_bank_publish(writer), TML_OK);
  assert_non_null(strstr(tml_bank_write_note(writer), "1 damaged rows"));
  tml_bank_write_close(writer);
  assert_int_equal(published(4), 3);
}

static void unusable_banks_are_kept(void **state)
{
  (void)state;
  char text[4096] = "not a bank";
  tml_bank_writer *writer;
  assert_int_equal(write_whole(bank_path, text, sizeof text), 0);
  assert_int_equal(tml_bank_write_open(&writer, bank_path, NULL, TML_BANK_WAIT_MS), TML_MISS);
  assert_null(writer);
  size_t bytes;
  char *kept = read_whole(bank_path, &bytes);
  assert_int_equal(bytes, sizeof text);
  assert_memory_equal(kept, text, bytes);
  free(kept);
}

static tml_status open_for(const char *isa)
{
  tml_bank_writer *writer;
  tml_status status = tml_bank_write_open(&writer, bank_path, isa, TML_BANK_WAIT_MS);
  tml_bank_write_close(writer);
  return status;
}

/* Names are the same for a GPU and the emulator, the code is not: one would replace the other's. */
static void a_bank_is_for_gpus_or_the_emulator(void **state)
{
  (void)state;
  tml_bank *bank;
  tml_bank_writer *writer = open_writer();
  put_row(writer, 0);
  tml_bank_write_close(writer); /* not published: in the part alone */
  assert_int_equal(open_for("emu"), TML_MISS);
  assert_non_null(strstr(tml_last_error(), "holds kernels for GPUs"));
  assert_int_equal(write_rows(1, 2), TML_OK);
  assert_int_equal(open_for("emu"), TML_MISS);
  assert_non_null(strstr(tml_last_error(), "holds kernels for GPUs"));
  assert_int_equal(published(2), 2);
  assert_int_equal(tml_bank_open(&bank, bank_path), TML_OK);
  assert_int_equal(tml_bank_serves(bank, NULL), TML_OK);
  assert_int_equal(tml_bank_serves(bank, "emu"), TML_MISS);
  tml_bank_close(bank);

  assert_int_equal(unlink(bank_path), 0);
  assert_int_equal(tml_bank_write_open(&writer, bank_path, "emu", TML_BANK_WAIT_MS), TML_OK);
  put_row(writer, 0);
  assert_int_equal(tml_bank_publish(writer), TML_OK);
  tml_bank_write_close(writer);
  assert_int_equal(open_for("emu"), TML_OK);
  assert_int_equal(open_for(NULL), TML_MISS);
  assert_non_null(strstr(tml_last_error(), "holds kernels for the emulator"));
  assert_int_equal(tml_bank_open(&bank, bank_path), TML_OK);
  assert_int_equal(tml_bank_serves(bank, "emu"), TML_OK);
  assert_int_equal(tml_bank_serves(bank, NULL), TML_MISS);
  tml_bank_close(bank);
}

/* As an ordinary user: root may write everywhere. */
static void read_only_folders(void **state)
{
  (void)state;
  assert_int_equal(chmod(bank_folder, 0555), 0);
  pid_t pid = fork();
  if (pid == 0) {
    tml_bank_writer *writer;
    if (geteuid() == 0 && setuid(65534) != 0) _exit(7);
    tml_status status = tml_bank_write_open(&writer, bank_path, NULL, TML_BANK_WAIT_MS);
    _exit(status == TML_IO && !writer && strstr(tml_last_error(), "cannot write beside the bank")
              ? 0
              : 1);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(chmod(bank_folder, 0700), 0);
  assert_int_equal(status, 0);
  assert_int_equal(chmod(bank_folder, 0777), 0); /* others could exchange the bank */
  tml_bank_writer *writer;
  assert_int_equal(tml_bank_write_open(&writer, bank_path, NULL, TML_BANK_WAIT_MS), TML_MISS);
  tml_bank_write_close(NULL);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(knows_what_it_has, clean),
      cmocka_unit_test_setup(newer_rows_win, clean),
      cmocka_unit_test_setup(refuses_nonsense, clean),
      cmocka_unit_test_setup(marks, clean),
      cmocka_unit_test_setup(writers_at_once, clean),
      cmocka_unit_test_setup(two_writers_in_one_process, clean),
      cmocka_unit_test_setup(readers_see_whole_banks, clean),
      cmocka_unit_test_setup(killed_builds, clean),
      cmocka_unit_test_setup(damaged_parts_are_set_aside, clean),
      cmocka_unit_test_setup(damaged_rows_are_left_out, clean),
      cmocka_unit_test_setup(unusable_banks_are_kept, clean),
      cmocka_unit_test_setup(a_bank_is_for_gpus_or_the_emulator, clean),
      cmocka_unit_test_setup(read_only_folders, clean),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
