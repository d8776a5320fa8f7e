/* The writer's calls: each takes the lock, makes one short transaction, and lets go. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bank_part.h"

/* Opens or creates NAME.lock. It stays for ever: removing a lock file lets two holders in. */
static tml_status open_lock(tml_bank_writer *writer)
{
  writer->lock_fd = open(writer->lock, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (writer->lock_fd >= 0) return TML_OK;
  return tml_fail(TML_IO, "cannot write beside the bank: %s: %s", writer->lock, strerror(errno));
}

/* Under the lock, to fail early: bank and part can be used. */
static tml_status look(tml_bank_writer *writer)
{
  TRY(part_bank(writer));
  return part_ready(writer);
}

tml_status tml_bank_write_open(tml_bank_writer **out, const char *path, const char *isa,
                               int wait_ms)
{
  tml_status status = TML_OK;
  *out = NULL;
  tml_bank_writer *writer = calloc(1, sizeof *writer);
  if (!writer) return tml_fail(TML_MEMORY, "out of memory for a bank writer");
  writer->lock_fd = -1;
  writer->wait_ms = wait_ms;
  snprintf(writer->isa, sizeof writer->isa, "%s", isa ? isa : "");
  TRY_GOTO(bank_check_folder(path, writer->path), fail);
  snprintf(writer->part, sizeof writer->part, "%s.part", writer->path);
  snprintf(writer->fresh, sizeof writer->fresh, "%s.new", writer->path);
  snprintf(writer->lock, sizeof writer->lock, "%s.lock", writer->path);
  TRY_GOTO(open_lock(writer), fail);
  TRY_GOTO(part_lock(writer), fail);
  status = look(writer);
  part_unlock(writer);
  if (status != TML_OK) goto fail;
  *out = writer;
  return TML_OK;
fail:
  tml_bank_write_close(writer);
  return status;
}

/* Removes an empty part; errors do not matter, an empty part harms nobody. */
static void drop_empty_part(tml_bank_writer *writer)
{
  char rows[16];
  if (!writer->db || part_lock(writer) != TML_OK) return;
  if (part_ready(writer) == TML_OK &&
      bank_db_value(writer->db,
                    "SELECT (SELECT count(*) FROM variant) + (SELECT count(*) FROM pick)", rows,
                    sizeof rows) == TML_OK &&
      strcmp(rows, "0") == 0) {
    part_clear(writer);
  }
  part_unlock(writer);
}

void tml_bank_write_close(tml_bank_writer *writer)
{
  if (!writer) return;
  drop_empty_part(writer);
  part_close(writer);
  tml_bank_close(writer->bank);
  if (writer->lock_fd >= 0) close(writer->lock_fd);
  free(writer);
}

const char *tml_bank_write_note(const tml_bank_writer *writer) { return writer->note; }

/* ---- Rows ------------------------------------------------------------------------------------ */

static int row_is(const tml_bank_row *row, const char *hash, const char *compiler)
{
  return strcmp(row->hash, hash) == 0 && (!compiler || strcmp(row->compiler, compiler) == 0);
}

/* 1 here, 0 another one, -1 absent or damaged. The part is newer than the bank, so it decides. */
static int part_has(tml_bank_writer *writer, const char *name, const char *hash,
                    const char *compiler)
{
  sqlite3_stmt *statement = NULL;
  tml_bank_row row;
  int has = -1;
  if (bank_db_prepare(writer->db, &statement,
                      "SELECT " BANK_VARIANT_COLUMNS " FROM variant WHERE name = ?") != TML_OK) {
    return -1;
  }
  sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
  if (sqlite3_step(statement) == SQLITE_ROW && !bank_read_variant(statement, &row, 0)) {
    has = row_is(&row, hash, compiler);
  }
  sqlite3_finalize(statement);
  return has;
}

/* A row that is there and refused is a MISS of tml_bank_get, but filled in. */
static int bank_has(tml_bank_writer *writer, const char *name, const char *hash,
                    const char *compiler)
{
  tml_bank_row row;
  if (!writer->bank) return 0;
  tml_status status = tml_bank_get(writer->bank, name, hash, &row);
  int has = (status == TML_OK || (strcmp(row.name, name) == 0 && row.refused[0])) &&
            row_is(&row, hash, compiler);
  tml_bank_row_free(&row);
  return has;
}

int tml_bank_write_has(tml_bank_writer *writer, const char *name, const char *hash,
                       const char *compiler)
{
  int has = 0;
  if (part_lock(writer) != TML_OK) return 0;
  if (look(writer) == TML_OK) {
    has = part_has(writer, name, hash, compiler);
    if (has < 0) has = bank_has(writer, name, hash, compiler);
  }
  part_unlock(writer);
  return has;
}

static tml_status check_row(const tml_bank_row *row)
{
  if (!row->name[0] || !row->hash[0])
    return tml_fail(TML_ARGUMENT, "a bank row needs a name and a hash");
  if (!row->refused[0] != !!row->cubin_bytes || !row->cubin != !row->cubin_bytes) {
    return tml_fail(TML_ARGUMENT, "%s: a row has either code or a reason for its refusal",
                    row->name);
  }
  return TML_OK;
}

tml_status tml_bank_write_row(tml_bank_writer *writer, const tml_bank_row *row)
{
  TRY(check_row(row));
  TRY(part_lock(writer));
  tml_status status = part_ready(writer);
  if (status == TML_OK) status = bank_insert_variant(writer->db, "INSERT OR REPLACE", row);
  part_unlock(writer);
  return status;
}

tml_status tml_bank_write_pick(tml_bank_writer *writer, const tml_pick *pick)
{
  if (!pick->key[0] || !pick->variant[0])
    return tml_fail(TML_ARGUMENT, "a pick needs a key and a variant");
  TRY(part_lock(writer));
  tml_status status = part_ready(writer);
  if (status == TML_OK) status = bank_insert_pick(writer->db, "INSERT OR REPLACE", pick);
  part_unlock(writer);
  return status;
}

/* ---- Marks ----------------------------------------------------------------------------------- */

static tml_status set_mark(sqlite3 *db, const char *key, const char *text)
{
  sqlite3_stmt *statement = NULL;
  TRY(bank_db_prepare(db, &statement,
                      *text ? "INSERT OR REPLACE INTO mark VALUES(?1, ?2)"
                            : "DELETE FROM mark WHERE key = ?1"));
  sqlite3_bind_text(statement, 1, key, -1, SQLITE_STATIC);
  if (*text) sqlite3_bind_text(statement, 2, text, -1, SQLITE_STATIC);
  int code = sqlite3_step(statement);
  tml_status status = code == SQLITE_DONE ? TML_OK : bank_db_failed(db, code, "writing a mark");
  sqlite3_finalize(statement);
  return status;
}

tml_status tml_bank_write_mark(tml_bank_writer *writer, const char *key, const char *text)
{
  TRY(part_lock(writer));
  tml_status status = part_ready(writer);
  if (status == TML_OK) status = set_mark(writer->db, key, text ? text : "");
  part_unlock(writer);
  return status;
}

static tml_status get_mark(sqlite3 *db, const char *key, char *out, size_t bytes)
{
  sqlite3_stmt *statement = NULL;
  TRY(bank_db_prepare(db, &statement, "SELECT text FROM mark WHERE key = ?1"));
  sqlite3_bind_text(statement, 1, key, -1, SQLITE_STATIC);
  int code = sqlite3_step(statement);
  if (code == SQLITE_ROW) {
    const char *text = (const char *)sqlite3_column_text(statement, 0);
    snprintf(out, bytes, "%s", text ? text : "");
  }
  tml_status status = code == SQLITE_ROW || code == SQLITE_DONE
                          ? TML_OK
                          : bank_db_failed(db, code, "reading a mark");
  sqlite3_finalize(statement);
  return status;
}

tml_status tml_bank_read_mark(tml_bank_writer *writer, const char *key, char *out, size_t bytes)
{
  out[0] = 0;
  TRY(part_lock(writer));
  tml_status status = part_ready(writer);
  if (status == TML_OK) status = get_mark(writer->db, key, out, bytes);
  part_unlock(writer);
  return status;
}
