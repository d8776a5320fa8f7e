/* Reading a bank: what it gives, and that nothing which is wrong with a file gives more than a
 * miss. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "bank_fixture.h"

#define ROWS 6

static tml_bank *open_bank(void)
{
  tml_bank *bank;
  if (tml_bank_open(&bank, bank_path) != TML_OK) fail_msg("%s", tml_last_error());
  return bank;
}

/* 1: row i is there, whole; 0: a miss; -1: something else came back. */
static int look_up(tml_bank *bank, int i)
{
  tml_bank_row want = row_of(i), got;
  tml_status status = tml_bank_get(bank, want.name, want.hash, &got);
  int result = 0;
  if (status == TML_OK) {
    int same = got.cubin_bytes == want.cubin_bytes && want.cubin &&
               memcmp(got.cubin, want.cubin, want.cubin_bytes) == 0 &&
               strcmp(got.name, want.name) == 0 && got.registers == want.registers;
    result = same ? 1 : -1;
  } else if (status != TML_MISS || !tml_last_error()[0] || got.cubin) {
    result = -1;
  }
  tml_bank_row_free(&got);
  tml_bank_row_free(&want);
  return result;
}

static void gives_back(void **state)
{
  (void)state;
  assert_int_equal(write_rows(0, ROWS), TML_OK);
  tml_bank *bank = open_bank();
  tml_bank_row row;
  for (int i = 0; i < ROWS; i++) assert_int_equal(look_up(bank, i), i % 5 != 4);
  tml_bank_row want = row_of(4); /* refused: the reason, no code */
  assert_int_equal(tml_bank_get(bank, want.name, want.hash, &row), TML_MISS);
  assert_string_equal(row.refused, want.refused);
  assert_null(row.cubin);
  assert_non_null(strstr(tml_last_error(), "registers spill: 4 bytes"));
  assert_int_equal(tml_bank_get(bank, "gemm.sm90a.bf16.nt.w1__0001", "00", &row), TML_MISS);
  assert_non_null(strstr(tml_last_error(), "another source"));
  assert_int_equal(tml_bank_get(bank, "nobody", "00", &row), TML_MISS);
  assert_non_null(strstr(tml_last_error(), "nobody is not in the bank"));
  assert_int_equal(tml_bank_get(bank, "x' OR '1'='1", "00", &row), TML_MISS);
  assert_int_equal(tml_bank_verify(bank), TML_OK);
  tml_bank_close(bank);
  tml_bank_close(NULL);
}

typedef struct walk {
  int calls, bad;
  char last[TML_NAME_BYTES];
} walk;

static int visit(void *user, const tml_bank_row *row, const char *bad)
{
  walk *w = user;
  assert_null(row->cubin);
  if (bad)
    w->bad++;
  else
    assert_true(strcmp(row->name, w->last) > 0);
  snprintf(w->last, sizeof w->last, "%s", row->name);
  return ++w->calls == 100;
}

static int visit_pick(void *user, const tml_pick *pick, const char *bad)
{
  (void)pick;
  if (bad) ((walk *)user)->bad++;
  return ++((walk *)user)->calls == 100;
}

static void walks_in_order(void **state)
{
  (void)state;
  walk w = {.calls = 0};
  assert_int_equal(write_rows(3, ROWS), TML_OK);
  assert_int_equal(write_rows(0, 3), TML_OK);
  tml_bank *bank = open_bank();
  assert_int_equal(tml_bank_each(bank, visit, &w), TML_OK);
  assert_int_equal(w.calls, ROWS);
  assert_int_equal(w.bad, 0);
  tml_bank_close(bank);
}

static void equal_content_gives_equal_files(void **state)
{
  (void)state;
  size_t bytes, others;
  assert_int_equal(write_rows(0, ROWS), TML_OK);
  char *whole = read_whole(bank_path, &bytes);
  assert_int_equal(clean(NULL), 0);
  assert_int_equal(write_rows(2, ROWS), TML_OK);
  assert_int_equal(write_rows(0, 2), TML_OK);
  char *other = read_whole(bank_path, &others);
  assert_int_equal(bytes, others);
  /* but for SQLite's change counters, at 24 .. 27 and 92 .. 99 of the header and 40 .. 43
   * (schema) */
  assert_memory_equal(whole + 100, other + 100, bytes - 100);
  free(whole);
  free(other);
}

static void picks_by_machine(void **state)
{
  (void)state;
  tml_bank_writer *writer;
  assert_int_equal(tml_bank_write_open(&writer, bank_path, NULL, TML_BANK_WAIT_MS), TML_OK);
  const tml_pick rows[] = {pick_of(256, 13000, "nvlink", 1), pick_of(256, 12080, "nvlink", 9),
                           pick_of(1, 12080, "nvlink", 1),   pick_of(1, 12060, "nvlink", 2),
                           pick_of(64, 13000, "pcie", 1),    pick_of(512, 13000, "none", 1)};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    assert_int_equal(tml_bank_write_pick(writer, &rows[i]), TML_OK);
  }
  assert_int_equal(tml_bank_publish(writer), TML_OK);
  tml_bank_write_close(writer);
  tml_bank *bank = open_bank();
  tml_pick got[2];
  tml_machine machine = rows[0].machine;
  size_t count;
  int other;
  assert_int_equal(tml_bank_picks(bank, rows[0].key, &machine, got, 2, &count, &other), TML_OK);
  assert_int_equal(count, 3); /* 1, 256, 512: the pcie one is of another machine */
  assert_int_equal(other, 1);
  assert_int_equal(got[0].bucket, 1);
  assert_int_equal(got[0].machine.driver, 12060); /* the newest of other drivers */
  assert_int_equal(got[1].bucket, 256);
  assert_int_equal(got[1].machine.driver, 13000); /* the own driver before a newer one */
  assert_true(got[1].us == 10.5);
  machine.sms = 114;
  assert_int_equal(tml_bank_picks(bank, rows[0].key, &machine, got, 2, &count, &other), TML_OK);
  assert_int_equal(count, 0);
  machine.sms = 132, machine.cc = 100;
  assert_int_equal(tml_bank_picks(bank, rows[0].key, &machine, got, 2, &count, &other), TML_OK);
  assert_int_equal(count, 0);
  walk w = {.calls = 0};
  assert_int_equal(tml_bank_each_pick(bank, visit_pick, &w), TML_OK);
  assert_int_equal(w.calls, 6);
  tml_bank_close(bank);
}

/* ---- Damage ---------------------------------------------------------------------------------- */

static char damaged_path[80];

/* Looks everything up in the file as it stands: 0, or -1 if anything wrong came back. */
static int survive(long *hits)
{
  tml_bank *bank;
  tml_status status = tml_bank_open(&bank, damaged_path);
  if (status != TML_OK) return status == TML_MISS && tml_last_error()[0] ? 0 : -1;
  int result = 0;
  for (int i = 0; i < ROWS; i++) {
    int found = look_up(bank, i);
    if (found < 0) result = -1;
    *hits += found > 0;
  }
  walk w = {.calls = 0};
  tml_bank_each_pick(bank, visit_pick, &w);
  tml_bank_verify(bank);
  tml_bank_close(bank);
  return result;
}

static char *damage_source(size_t *bytes)
{
  assert_int_equal(write_rows(0, ROWS), TML_OK);
  tml_bank_writer *writer;
  tml_pick pick = pick_of(1, 13000, "nvlink", 1);
  assert_int_equal(tml_bank_write_open(&writer, bank_path, NULL, TML_BANK_WAIT_MS), TML_OK);
  assert_int_equal(tml_bank_write_pick(writer, &pick), TML_OK);
  assert_int_equal(tml_bank_publish(writer), TML_OK);
  tml_bank_write_close(writer);
  snprintf(damaged_path, sizeof damaged_path, "%s.damaged", bank_path);
  return read_whole(bank_path, bytes);
}

static void flipped_bits(void **state)
{
  (void)state;
  size_t bytes;
  long hits = 0, cases = 0;
  char *whole = damage_source(&bytes);
  /* every byte of the header and the first page's start, then every 13th */
  for (size_t at = 0; at < bytes; at += at < 256 ? 1 : 13, cases++) {
    whole[at] ^= (char)(1 << at % 8);
    assert_int_equal(write_whole(damaged_path, whole, bytes), 0);
    if (survive(&hits) != 0) fail_msg("byte %zu: a wrong answer", at);
    whole[at] ^= (char)(1 << at % 8);
  }
  /* the five legal rows, mostly exact: damage costs what it touches */
  assert_true(hits > cases * 5 / 2 && hits < cases * 5);
  free(whole);
}

static void truncations(void **state)
{
  (void)state;
  size_t bytes;
  long hits = 0;
  char *whole = damage_source(&bytes);
  for (size_t kept = 0; kept < bytes; kept += 41) {
    assert_int_equal(write_whole(damaged_path, whole, kept), 0);
    if (survive(&hits) != 0) fail_msg("%zu bytes: a wrong answer", kept);
  }
  assert_int_equal(hits, 0); /* a short file is refused as a whole */
  free(whole);
}

/* ---- Files that must not be used ------------------------------------------------------------- */

static void refuse(const char *path, const char *reason)
{
  tml_bank *bank = (tml_bank *)1;
  assert_int_equal(tml_bank_open(&bank, path), TML_MISS);
  assert_null(bank);
  if (!strstr(tml_last_error(), reason))
    fail_msg("%s: \"%s\" lacks \"%s\"", path, tml_last_error(), reason);
}

static void permissions(void **state)
{
  (void)state;
  assert_int_equal(write_rows(0, 2), TML_OK);
  for (unsigned mode = 0400; mode <= 0777; mode++) {
    assert_int_equal(chmod(bank_path, mode), 0);
    if (!(mode & 0400) && geteuid() != 0) continue;
    if (mode & 022)
      refuse(bank_path, "chmod go-w");
    else
      tml_bank_close(open_bank());
  }
  assert_int_equal(chmod(bank_path, 0644), 0);
  const unsigned open_folders[] = {0720, 0702, 0777, 01777};
  for (size_t i = 0; i < sizeof open_folders / sizeof *open_folders; i++) {
    assert_int_equal(chmod(bank_folder, open_folders[i]), 0);
    /* sticky helps a folder of root's only */
    if ((open_folders[i] & 01000) && geteuid() == 0)
      tml_bank_close(open_bank());
    else
      refuse(bank_path, "others can write the folder");
  }
  assert_int_equal(chmod(bank_folder, 0755), 0);
  if (geteuid() == 0) {
    assert_int_equal(chown(bank_path, 4711, (gid_t)-1), 0);
    refuse(bank_path, "belongs to user 4711");
    assert_int_equal(chown(bank_path, 0, (gid_t)-1), 0);
    assert_int_equal(chown(bank_folder, 4711, (gid_t)-1), 0);
    refuse(bank_path, "belongs to user 4711");
    assert_int_equal(chown(bank_folder, 0, (gid_t)-1), 0);
  }
  tml_bank_close(open_bank());
}

static void kinds_of_files(void **state)
{
  (void)state;
  char path[96];
  assert_int_equal(write_rows(0, 2), TML_OK);
  snprintf(path, sizeof path, "%s/link", bank_folder);
  assert_int_equal(symlink(bank_path, path), 0);
  refuse(path, "symbolic link");
  snprintf(path, sizeof path, "%s/fifo", bank_folder);
  assert_int_equal(mkfifo(path, 0600), 0);
  refuse(path, "not a regular file");
  refuse(bank_folder, "not a regular file");
  snprintf(path, sizeof path, "%s/", bank_folder);
  refuse(path, "is a folder");
  snprintf(path, sizeof path, "%s/none", bank_folder);
  refuse(path, "no such bank");
  refuse("/nowhere/at/all.bank", "/nowhere");
  snprintf(path, sizeof path, "%s/text", bank_folder);
  char text[200] = "this is some text";
  assert_int_equal(write_whole(path, text, sizeof text), 0);
  refuse(path, "is not a Tidemill bank");
  assert_int_equal(write_whole(path, text, 0), 0);
  refuse(path, "truncated");
  refuse(path, "build it again");
  /* a folder link on the way is fine, and odd characters are too */
  snprintf(path, sizeof path, "%s/a%%b ?#ü", bank_folder);
  assert_int_equal(rename(bank_path, path), 0);
  tml_bank *bank;
  assert_int_equal(tml_bank_open(&bank, path), TML_OK);
  tml_bank_close(bank);
}

static void foreign_schemas(void **state)
{
  (void)state;
  static const struct {
    const char *sql, *reason;
  } rows[] = {
      {"UPDATE meta SET value = '2' WHERE key = 'schema'", "schema '2', this library"},
      {"CREATE TABLE more(a)", "'more'"},
      {"CREATE VIEW v AS SELECT * FROM variant", "'v'"},
      {"CREATE TRIGGER t AFTER INSERT ON meta BEGIN SELECT 1; END", "'t'"},
      {"ALTER TABLE variant ADD COLUMN more", "'variant'"},
      {"DROP TABLE pick", "lacks tables"},
      {"DROP TABLE meta", "not a Tidemill bank"},
      {"DELETE FROM meta WHERE key = 'schema'", "not a Tidemill bank"},
      {"PRAGMA journal_mode=WAL", "journal mode"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char command[256];
    assert_int_equal(clean(NULL), 0);
    assert_int_equal(write_rows(0, 2), TML_OK);
    snprintf(command, sizeof command, "sqlite3 %s \"%s\" >/dev/null", bank_path, rows[i].sql);
    if (system(command) != 0) skip(); /* no sqlite3 program */
    refuse(bank_path, rows[i].reason);
  }
}

static void source_hash(void **state)
{
  (void)state;
  char a[TML_HASH_BYTES], b[TML_HASH_BYTES];
  tml_source_hash("text", 4, "-o", a);
  tml_source_hash("text", 4, "-o", b);
  assert_string_equal(a, b);
  assert_int_equal(strlen(a), 32);
  tml_source_hash("text", 4, "-p", b);
  assert_string_not_equal(a, b);
  tml_source_hash("texu", 4, "-o", b);
  assert_string_not_equal(a, b);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(gives_back, clean),
      cmocka_unit_test_setup(walks_in_order, clean),
      cmocka_unit_test_setup(equal_content_gives_equal_files, clean),
      cmocka_unit_test_setup(picks_by_machine, clean),
      cmocka_unit_test_setup(flipped_bits, clean),
      cmocka_unit_test_setup(truncations, clean),
      cmocka_unit_test_setup(permissions, clean),
      cmocka_unit_test_setup(kinds_of_files, clean),
      cmocka_unit_test_setup(foreign_schemas, clean),
      cmocka_unit_test(source_hash),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
