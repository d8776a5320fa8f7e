/* Reading a bank. Whatever is wrong with the file or a row is a MISS that says so. */
#include "bank.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bank_check.h"
#include "bank_db.h"

struct tml_bank {
  sqlite3 *db;
  sqlite3_stmt *get;
  char path[BANK_PATH_BYTES], isa[BANK_ISA_BYTES];
};

/* Checks until no writer publishes in between; nobody publishes that often. What SQLite then opens
 * is that file or a newer one of a writer that the folder's owner trusts. */
static tml_status check_settled(const char *resolved)
{
  tml_status status = TML_OK;
  int exchanged = 1;
  for (int i = 0; i < 100 && exchanged; i++) {
    struct stat info;
    int absent;
    TRY(bank_check_file(resolved, &info, &absent));
    status = bank_check_header(resolved, &info, &exchanged);
  }
  return status;
}

tml_status tml_bank_open(tml_bank **out, const char *path)
{
  tml_status status = TML_OK;
  char resolved[BANK_PATH_BYTES];
  *out = NULL;
  TRY(bank_check_folder(path, resolved));
  TRY(check_settled(resolved));
  tml_bank *bank = calloc(1, sizeof *bank);
  if (!bank) return tml_fail(TML_MEMORY, "out of memory for a bank");
  memcpy(bank->path, resolved, sizeof bank->path);
  TRY_GOTO(bank_db_open_read(&bank->db, resolved), fail);
  TRY_GOTO(bank_db_isa(bank->db, bank->isa), fail);
  TRY_GOTO(bank_db_prepare(bank->db, &bank->get,
                           "SELECT " BANK_VARIANT_COLUMNS " FROM variant WHERE name = ?"),
           fail);
  *out = bank;
  return TML_OK;
fail:
  tml_bank_close(bank);
  return status == TML_MEMORY ? status : TML_MISS;
}

void tml_bank_close(tml_bank *bank)
{
  if (!bank) return;
  sqlite3_finalize(bank->get);
  bank_db_close(bank->db);
  free(bank);
}

tml_status tml_bank_serves(const tml_bank *bank, const char *isa)
{
  return bank_check_isa(bank->path, bank->isa, isa);
}

/* Why the row that was read does not serve this hash, as a MISS; OK if it does. */
static tml_status judge(const tml_bank_row *row, const char *bad, const char *name,
                        const char *hash)
{
  if (bad) return tml_fail(TML_MISS, "%s: its row in the bank is bad: %s", name, bad);
  if (strcmp(row->name, name) != 0)
    return tml_fail(TML_MISS, "%s: the bank gave another row", name);
  if (strcmp(row->hash, hash) != 0) {
    return tml_fail(TML_MISS,
                    "%s: the bank holds another source or other options of it: rebuild the bank",
                    name);
  }
  if (row->refused[0])
    return tml_fail(TML_MISS, "%s was refused when it was built: %s", name, row->refused);
  if (!row->cubin) return tml_fail(TML_MISS, "%s: its row in the bank has no code", name);
  return TML_OK;
}

tml_status tml_bank_get(tml_bank *bank, const char *name, const char *hash, tml_bank_row *out)
{
  tml_status status;
  memset(out, 0, sizeof *out);
  sqlite3_bind_text(bank->get, 1, name, -1, SQLITE_STATIC);
  int code = sqlite3_step(bank->get);
  if (code == SQLITE_ROW) {
    status = judge(out, bank_read_variant(bank->get, out, 1), name, hash);
  } else if (code == SQLITE_DONE) {
    status = tml_fail(TML_MISS, "%s is not in the bank", name);
  } else {
    bank_db_failed(bank->db, code, name);
    status = TML_MISS;
  }
  sqlite3_reset(bank->get);
  sqlite3_clear_bindings(bank->get);
  if (status != TML_OK) {
    free(out->cubin);
    out->cubin = NULL;
  }
  return status;
}

void tml_bank_row_free(tml_bank_row *row)
{
  if (!row) return;
  free(row->cubin);
  memset(row, 0, sizeof *row);
}

/* Ends a walk: MISS if it ended before the last row. */
static tml_status end_walk(tml_bank *bank, sqlite3_stmt *statement, int code)
{
  tml_status status = TML_OK;
  if (code != SQLITE_DONE && code != SQLITE_ROW) {
    bank_db_failed(bank->db, code, "the bank is damaged");
    status = TML_MISS;
  }
  sqlite3_finalize(statement);
  return status;
}

tml_status tml_bank_each(tml_bank *bank, tml_bank_row_fn fn, void *user)
{
  sqlite3_stmt *statement = NULL;
  int code;
  TRY(bank_db_prepare(bank->db, &statement,
                      "SELECT " BANK_VARIANT_COLUMNS " FROM variant ORDER BY name"));
  while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
    tml_bank_row row;
    const char *bad = bank_read_variant(statement, &row, 0);
    if (fn(user, &row, bad)) break;
  }
  return end_walk(bank, statement, code);
}

tml_status tml_bank_each_pick(tml_bank *bank, tml_pick_fn fn, void *user)
{
  sqlite3_stmt *statement = NULL;
  int code;
  TRY(bank_db_prepare(bank->db, &statement,
                      "SELECT " BANK_PICK_COLUMNS " FROM pick "
                      "ORDER BY problem, bucket, gpu, sms, cc, driver, link"));
  while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
    tml_pick pick;
    const char *bad = bank_read_pick(statement, &pick);
    if (fn(user, &pick, bad)) break;
  }
  return end_walk(bank, statement, code);
}

/* "none" is what a process sees that was shown one GPU: it says nothing about the link. */
static int links_agree(const char *a, const char *b)
{
  return strcmp(a, b) == 0 || strcmp(a, "none") == 0 || strcmp(b, "none") == 0 || !*a || !*b;
}

tml_status tml_bank_picks(tml_bank *bank, const char *key, const tml_machine *machine,
                          tml_pick *out, size_t capacity, size_t *count, int *other_driver)
{
  sqlite3_stmt *statement = NULL;
  int64_t last = -1;
  int code;
  *count = 0;
  *other_driver = 0;
  TRY(bank_db_prepare(bank->db, &statement,
                      "SELECT " BANK_PICK_COLUMNS " FROM pick WHERE problem = ?1 "
                      "AND gpu = ?2 AND sms = ?3 AND cc = ?4 "
                      "ORDER BY bucket, driver <> ?5, link <> ?6, at DESC"));
  sqlite3_bind_text(statement, 1, key, -1, SQLITE_STATIC);
  sqlite3_bind_text(statement, 2, machine->gpu, -1, SQLITE_STATIC);
  sqlite3_bind_int(statement, 3, machine->sms);
  sqlite3_bind_int(statement, 4, machine->cc);
  sqlite3_bind_int(statement, 5, machine->driver);
  sqlite3_bind_text(statement, 6, machine->link, -1, SQLITE_STATIC);
  while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
    tml_pick pick;
    if (bank_read_pick(statement, &pick) || strcmp(pick.key, key) != 0)
      continue; /* damaged: as if absent */
    if (pick.bucket == last || !links_agree(pick.machine.link, machine->link)) continue;
    last = pick.bucket;
    if (pick.machine.driver != machine->driver) *other_driver = 1;
    if (*count < capacity) out[*count] = pick;
    ++*count;
  }
  return end_walk(bank, statement, code);
}

/* ---- Integrity ------------------------------------------------------------------------------- */

typedef struct verify_state {
  char text[256];
} verify_state;

static int verify_row(void *user, const tml_bank_row *row, const char *bad)
{
  verify_state *state = user;
  if (bad) snprintf(state->text, sizeof state->text, "variant '%s': %s", row->name, bad);
  return bad != NULL;
}

static int verify_pick(void *user, const tml_pick *pick, const char *bad)
{
  verify_state *state = user;
  if (bad) snprintf(state->text, sizeof state->text, "pick '%s': %s", pick->key, bad);
  return bad != NULL;
}

tml_status tml_bank_verify(tml_bank *bank)
{
  verify_state state = {""};
  char text[200];
  TRY(bank_db_value(bank->db, "PRAGMA quick_check(1)", text, sizeof text));
  if (strcmp(text, "ok") != 0) return tml_fail(TML_MISS, "the bank is damaged: %s", text);
  TRY(tml_bank_each(bank, verify_row, &state));
  if (!state.text[0]) TRY(tml_bank_each_pick(bank, verify_pick, &state));
  return state.text[0] ? tml_fail(TML_MISS, "%s", state.text) : TML_OK;
}
