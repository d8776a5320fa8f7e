/* Opening SQLite hardened, and the schema. */
#include "bank_db.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The schema is compared as text: a file with one more view, trigger or column is not a bank. */
#define COLUMN_TEXT(column, member) #column " TEXT NOT NULL, "
#define COLUMN_INT(column, member) #column " INTEGER NOT NULL, "
#define COLUMN_REAL(column, member) #column " REAL NOT NULL, "
static const struct {
  const char *name, *sql;
} tables[] = {
    {"meta", "CREATE TABLE meta(key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"},
    {"pick",
     "CREATE TABLE pick(" BANK_PICK_MAP(COLUMN_TEXT, COLUMN_INT,
                                        COLUMN_REAL) "checksum TEXT NOT NULL, PRIMARY KEY(problem, "
                                                     "bucket, gpu, sms, cc, driver, link)) "
                                                     "WITHOUT ROWID"},
    {"variant", "CREATE TABLE variant(" BANK_VARIANT_MAP(
                    COLUMN_TEXT, COLUMN_INT, COLUMN_REAL) "cubin BLOB NOT NULL, checksum TEXT NOT "
                                                          "NULL, PRIMARY KEY(name)) WITHOUT ROWID"},
    {"mark", "CREATE TABLE mark(key TEXT NOT NULL PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID"},
};
static size_t table_count(bank_shape shape)
{
  return shape == BANK_PART ? 4 : 3;
} /* mark is last */

tml_status bank_db_failed(sqlite3 *db, int code, const char *what)
{
  tml_status status = TML_IO;
  int primary = code & 0xff;
  if (primary == SQLITE_NOMEM) status = TML_MEMORY;
  if (primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB || primary == SQLITE_TOOBIG ||
      primary == SQLITE_ERROR) {
    status = TML_MISS;
  }
  return tml_fail(status, "%s: %s", what, db ? sqlite3_errmsg(db) : sqlite3_errstr(code));
}

tml_status bank_db_exec(sqlite3 *db, const char *sql)
{
  int code = sqlite3_exec(db, sql, NULL, NULL, NULL);
  return code == SQLITE_OK ? TML_OK : bank_db_failed(db, code, "SQLite");
}

tml_status bank_db_prepare(sqlite3 *db, sqlite3_stmt **out, const char *sql)
{
  int code = sqlite3_prepare_v2(db, sql, -1, out, NULL);
  return code == SQLITE_OK ? TML_OK : bank_db_failed(db, code, "SQLite");
}

tml_status bank_db_value(sqlite3 *db, const char *sql, char *out, size_t bytes)
{
  sqlite3_stmt *statement = NULL;
  out[0] = 0;
  TRY(bank_db_prepare(db, &statement, sql));
  int code = sqlite3_step(statement);
  if (code == SQLITE_ROW) {
    const char *text = (const char *)sqlite3_column_text(statement, 0);
    snprintf(out, bytes, "%s", text ? text : "");
  }
  tml_status status =
      code == SQLITE_ROW || code == SQLITE_DONE ? TML_OK : bank_db_failed(db, code, "SQLite");
  sqlite3_finalize(statement);
  return status;
}

/* Nothing in the file may run code, be mapped, or be read past its cell. */
static tml_status harden(sqlite3 *db)
{
  const int off[] = {SQLITE_DBCONFIG_ENABLE_TRIGGER, SQLITE_DBCONFIG_ENABLE_VIEW,
                     SQLITE_DBCONFIG_TRUSTED_SCHEMA, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION,
                     SQLITE_DBCONFIG_WRITABLE_SCHEMA};
  sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
  for (size_t i = 0; i < sizeof off / sizeof *off; i++) sqlite3_db_config(db, off[i], 0, NULL);
  sqlite3_limit(db, SQLITE_LIMIT_LENGTH, 64 << 20); /* the largest cubin is far below */
  return bank_db_exec(db,
                      "PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY");
}

static const char *table_sql(const char *name, bank_shape shape)
{
  for (size_t i = 0; i < table_count(shape); i++) {
    if (strcmp(tables[i].name, name) == 0) return tables[i].sql;
  }
  return NULL;
}

/* *count: tables found. MISS if any object is not one of ours. */
static tml_status check_objects(sqlite3 *db, bank_shape shape, size_t *count)
{
  sqlite3_stmt *statement = NULL;
  tml_status status = TML_OK;
  int code;
  *count = 0;
  TRY(bank_db_prepare(db, &statement, "SELECT name, sql FROM sqlite_schema"));
  while (status == TML_OK && (code = sqlite3_step(statement)) == SQLITE_ROW) {
    const char *name = (const char *)sqlite3_column_text(statement, 0);
    const char *sql = (const char *)sqlite3_column_text(statement, 1);
    const char *ours = table_sql(name ? name : "", shape);
    if (!ours || !sql || strcmp(sql, ours) != 0) {
      status = tml_fail(TML_MISS, "its table '%s' is not that of schema %d: rebuild it",
                        name ? name : "?", BANK_SCHEMA);
    }
    ++*count;
  }
  if (status == TML_OK && code != SQLITE_DONE)
    status = bank_db_failed(db, code, "reading its schema");
  sqlite3_finalize(statement);
  return status;
}

/* The version first: its message says more than a difference of tables. */
static tml_status check_schema(sqlite3 *db, bank_shape shape)
{
  char version[32];
  size_t count;
  TRY(bank_db_value(db, "SELECT name FROM sqlite_schema WHERE name = 'meta'", version,
                    sizeof version));
  if (*version)
    TRY(bank_db_value(db, "SELECT value FROM meta WHERE key = 'schema'", version, sizeof version));
  if (!*version) return tml_fail(TML_MISS, "it is not a Tidemill bank: name another file");
  if (atoi(version) != BANK_SCHEMA) {
    return tml_fail(TML_MISS, "it has schema '%s', this library (%s) reads %d: rebuild it", version,
                    TML_VERSION, BANK_SCHEMA);
  }
  TRY(check_objects(db, shape, &count));
  if (count != table_count(shape))
    return tml_fail(TML_MISS, "it lacks tables of schema %d: rebuild it", BANK_SCHEMA);
  return TML_OK;
}

/* "file:" URI of a path, with what has a meaning in a URI escaped. */
static char *uri_of(const char *path)
{
  static const char hex[] = "0123456789abcdef", tail[] = "?mode=ro&immutable=1";
  char *uri = malloc(5 + 3 * strlen(path) + sizeof tail), *at = uri;
  if (!uri) return NULL;
  at += sprintf(at, "file:");
  for (; *path; path++) {
    unsigned char c = (unsigned char)*path;
    if (c == '%' || c == '?' || c == '#' || c < 0x21 || c > 0x7e) {
      *at++ = '%', *at++ = hex[c >> 4], *at++ = hex[c & 15];
    } else {
      *at++ = (char)c;
    }
  }
  memcpy(at, tail, sizeof tail);
  return uri;
}

tml_status bank_db_open_read(sqlite3 **out, const char *path)
{
  sqlite3 *db = NULL;
  tml_status status = TML_OK;
  *out = NULL;
  char *uri = uri_of(path);
  if (!uri) return tml_fail(TML_MEMORY, "out of memory for a path");
  int code = sqlite3_open_v2(
      uri, &db,
      SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_EXRESCODE, NULL);
  free(uri);
  if (code != SQLITE_OK) {
    status = bank_db_failed(db, code, "SQLite");
    goto fail;
  }
  sqlite3_limit(db, SQLITE_LIMIT_ATTACHED, 0); /* writers need one, for VACUUM */
  TRY_GOTO(harden(db), fail);
  TRY_GOTO(check_schema(db, BANK_WHOLE), fail);
  *out = db;
  return TML_OK;
fail:
  bank_db_close(db);
  return status == TML_MEMORY ? status : tml_wrap(TML_MISS, "%s", path);
}

tml_status bank_db_isa(sqlite3 *db, char out[BANK_ISA_BYTES])
{
  return bank_db_value(db, "SELECT value FROM meta WHERE key = 'isa'", out, BANK_ISA_BYTES);
}

static tml_status create_tables(sqlite3 *db, bank_shape shape, const char *isa)
{
  TRY(bank_db_exec(db, "BEGIN IMMEDIATE"));
  for (size_t i = 0; i < table_count(shape); i++) TRY(bank_db_exec(db, tables[i].sql));
  char sql[160];
  snprintf(sql, sizeof sql,
           "INSERT INTO meta VALUES('schema', '%d'), ('tidemill', '%s'), ('isa', '%s')",
           BANK_SCHEMA, TML_VERSION, isa);
  TRY(bank_db_exec(db, sql));
  return bank_db_exec(db, "COMMIT");
}

/* An existing NAME.part: ours, of this version, whole. */
static tml_status check_part(sqlite3 *db)
{
  char text[160];
  TRY(check_schema(db, BANK_PART));
  TRY(bank_db_value(db, "SELECT value FROM meta WHERE key = 'tidemill'", text, sizeof text));
  if (strcmp(text, TML_VERSION) != 0) {
    return tml_fail(TML_MISS, "it was begun by Tidemill '%s', this is %s", text, TML_VERSION);
  }
  TRY(bank_db_value(db, "PRAGMA quick_check(1)", text, sizeof text));
  return strcmp(text, "ok") == 0 ? TML_OK : tml_fail(TML_MISS, "it is corrupt: %s", text);
}

tml_status bank_db_open_write(sqlite3 **out, const char *path, bank_shape shape, const char *isa)
{
  sqlite3 *db = NULL;
  tml_status status = TML_OK;
  char objects[16];
  *out = NULL;
  int code = sqlite3_open_v2(path, &db,
                             SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOFOLLOW |
                                 SQLITE_OPEN_EXRESCODE,
                             NULL);
  if (code != SQLITE_OK) {
    status = bank_db_failed(db, code, "SQLite");
    goto fail;
  }
  sqlite3_busy_timeout(db, 10000);
  TRY_GOTO(harden(db), fail);
  TRY_GOTO(bank_db_value(db, "SELECT count(*) FROM sqlite_schema", objects, sizeof objects), fail);
  if (atoi(objects) == 0)
    TRY_GOTO(create_tables(db, shape, isa), fail);
  else
    TRY_GOTO(check_part(db), fail);
  TRY_GOTO(bank_db_exec(db, "PRAGMA journal_mode=DELETE; PRAGMA synchronous=NORMAL"), fail);
  *out = db;
  return TML_OK;
fail:
  bank_db_close(db);
  return tml_wrap(status, "%s", path);
}

void bank_db_close(sqlite3 *db) { sqlite3_close_v2(db); }
