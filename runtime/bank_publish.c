/* Publishing: NAME.part and the bank, merged into a fresh file that then takes the bank's name.
 *
 * At no moment does the bank's name stand for less than a whole, synced, verified file; a kill
 * leaves at worst NAME.new, which the next publish overwrites, and a part whose rows are merged
 * again. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bank_part.h"

typedef struct merge {
  sqlite3 *to;
  tml_bank_writer *writer;
  int damaged; /* rows that were left out */
} merge;

/* Rows of `from` that `to` lacks. A damaged row serves nobody: it is left out, and counted. */
static tml_status merge_variants(merge *m, sqlite3 *from)
{
  sqlite3_stmt *statement = NULL;
  tml_status status = TML_OK;
  int code = SQLITE_DONE;
  TRY(bank_db_prepare(from, &statement,
                      "SELECT " BANK_VARIANT_COLUMNS " FROM variant ORDER BY name"));
  while (status == TML_OK && (code = sqlite3_step(statement)) == SQLITE_ROW) {
    tml_bank_row row;
    const char *bad = bank_read_variant(statement, &row, 1);
    if (bad == bank_out_of_memory)
      status = tml_fail(TML_MEMORY, "out of memory for a cubin");
    else if (bad)
      m->damaged++;
    else
      status = bank_insert_variant(m->to, "INSERT OR IGNORE", &row);
    tml_bank_row_free(&row);
  }
  if (status == TML_OK && code != SQLITE_DONE)
    status = bank_db_failed(from, code, "reading variants");
  sqlite3_finalize(statement);
  return status;
}

static tml_status merge_picks(merge *m, sqlite3 *from)
{
  sqlite3_stmt *statement = NULL;
  tml_status status = TML_OK;
  int code = SQLITE_DONE;
  TRY(bank_db_prepare(from, &statement, "SELECT " BANK_PICK_COLUMNS " FROM pick"));
  while (status == TML_OK && (code = sqlite3_step(statement)) == SQLITE_ROW) {
    tml_pick pick;
    if (bank_read_pick(statement, &pick))
      m->damaged++;
    else
      status = bank_insert_pick(m->to, "INSERT OR IGNORE", &pick);
  }
  if (status == TML_OK && code != SQLITE_DONE) status = bank_db_failed(from, code, "reading picks");
  sqlite3_finalize(statement);
  return status;
}

/* The part first: its rows are newer, and INSERT OR IGNORE keeps the first. VACUUM then lays the
 * rows out in the order of their keys, so that equal content gives equal files. */
static tml_status write_fresh(merge *m)
{
  sqlite3 *bank = NULL;
  TRY(bank_db_open_write(&m->to, m->writer->fresh, BANK_WHOLE, m->writer->isa));
  TRY(bank_db_exec(m->to, "PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF; BEGIN"));
  TRY(merge_variants(m, m->writer->db));
  TRY(merge_picks(m, m->writer->db));
  if (m->writer->bank) {
    TRY(bank_db_open_read(&bank, m->writer->path));
    tml_status status = merge_variants(m, bank);
    if (status == TML_OK) status = merge_picks(m, bank);
    bank_db_close(bank);
    TRY(status);
  }
  TRY(bank_db_exec(m->to, "COMMIT; PRAGMA journal_mode=DELETE"));
  return bank_db_exec(m->to, "VACUUM");
}

/* What was just written, read back from the file as a reader would. */
static tml_status verify_fresh(const char *path)
{
  tml_bank *bank = NULL;
  tml_status status = tml_bank_open(&bank, path);
  if (status == TML_OK) status = tml_bank_verify(bank);
  tml_bank_close(bank);
  return status == TML_OK ? TML_OK : tml_wrap(TML_IO, "the written bank does not read back");
}

static tml_status sync_path(const char *path, int flags)
{
  int fd = open(path, flags | O_CLOEXEC);
  int failed = fd < 0 || fsync(fd) != 0;
  int error = errno;
  if (fd >= 0) close(fd);
  return failed ? tml_fail(TML_IO, "cannot sync %s: %s", path, strerror(error)) : TML_OK;
}

static tml_status sync_folder(const char *path)
{
  char folder[BANK_PATH_BYTES];
  size_t length = (size_t)(strrchr(path, '/') - path);
  memcpy(folder, path, length);
  folder[length] = 0;
  return sync_path(length ? folder : "/", O_RDONLY | O_DIRECTORY);
}

static tml_status replace_bank(tml_bank_writer *writer)
{
  /* A bank that others cannot read stays so. */
  if (writer->bank && chmod(writer->fresh, writer->bank_info.st_mode & 0755) != 0) {
    return tml_fail(TML_IO, "chmod %s: %s", writer->fresh, strerror(errno));
  }
  TRY(sync_path(writer->fresh, O_RDONLY));
  TRY(verify_fresh(writer->fresh));
  if (rename(writer->fresh, writer->path) != 0) {
    return tml_fail(TML_IO, "cannot rename %s: %s", writer->fresh, strerror(errno));
  }
  return sync_folder(writer->path);
}

static tml_status part_is_empty(tml_bank_writer *writer, int *empty)
{
  char rows[16];
  TRY(bank_db_value(writer->db,
                    "SELECT (SELECT count(*) FROM variant) + (SELECT count(*) FROM pick)", rows,
                    sizeof rows));
  *empty = strcmp(rows, "0") == 0;
  return TML_OK;
}

static tml_status publish_locked(tml_bank_writer *writer)
{
  merge m = {.writer = writer};
  int empty;
  TRY(part_bank(writer));
  TRY(part_ready(writer));
  TRY(part_is_empty(writer, &empty));
  if (empty && writer->bank) return TML_OK;
  unlink(writer->fresh); /* of a publish that was killed; only we can be writing one */
  tml_status status = write_fresh(&m);
  bank_db_close(m.to);
  if (status == TML_OK) status = replace_bank(writer);
  if (status != TML_OK) {
    unlink(writer->fresh);
    return status;
  }
  if (m.damaged) part_note(writer, "%d damaged rows were left out", m.damaged);
  return part_clear(writer);
}

tml_status tml_bank_publish(tml_bank_writer *writer)
{
  TRY(part_lock(writer));
  tml_status status = publish_locked(writer);
  part_unlock(writer);
  return status == TML_OK ? TML_OK : tml_wrap(status, "publishing %s", writer->path);
}
