/* Rows: fields <-> columns, and the checksum over all of them. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "bank_db.h"

/* The checksum is XXH3-128 over every field with its length (numbers: 8 bytes, little-endian), the
 * cubin by its own XXH3-128. It finds damage; against an attacker stand owner and mode. */
typedef struct packed {
  unsigned char bytes[2048];
  size_t used;
} packed;

static void pack_bytes(packed *to, const void *bytes, size_t count)
{
  /* All fields together are far smaller than the buffer: their sizes are fixed in bank.h. */
  memcpy(to->bytes + to->used, bytes, count);
  to->used += count;
}

static void pack_int(packed *to, int64_t value)
{
  unsigned char bytes[8];
  for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)value >> (8 * i));
  pack_bytes(to, bytes, sizeof bytes);
}

static void pack_text(packed *to, const char *text)
{
  size_t length = strlen(text);
  pack_int(to, (int64_t)length);
  pack_bytes(to, text, length);
}

static void pack_real(packed *to, double value)
{
  int64_t bits;
  memcpy(&bits, &value, sizeof bits);
  pack_int(to, bits);
}

static void hex_of(XXH128_hash_t hash, char out[TML_HASH_BYTES])
{
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  for (int i = 0; i < 16; i++) sprintf(out + 2 * i, "%02x", canonical.digest[i]);
}

#define PACK_TEXT(column, member) pack_text(&all, row->member);
#define PACK_INT(column, member) pack_int(&all, row->member);
#define PACK_REAL(column, member) pack_real(&all, row->member);

static void variant_checksum(const tml_bank_row *row, const void *cubin, size_t bytes,
                             char out[TML_HASH_BYTES])
{
  packed all = {.used = 0};
  char code[TML_HASH_BYTES];
  BANK_VARIANT_MAP(PACK_TEXT, PACK_INT, PACK_REAL)
  hex_of(XXH3_128bits(bytes ? cubin : "", bytes), code);
  pack_int(&all, (int64_t)bytes);
  pack_text(&all, code);
  hex_of(XXH3_128bits(all.bytes, all.used), out);
}

static void pick_checksum(const tml_pick *row, char out[TML_HASH_BYTES])
{
  packed all = {.used = 0};
  BANK_PICK_MAP(PACK_TEXT, PACK_INT, PACK_REAL)
  hex_of(XXH3_128bits(all.bytes, all.used), out);
}

void tml_source_hash(const char *text, size_t bytes, const char *options, char out[TML_HASH_BYTES])
{
  /* The options' own hash is the seed, so that no text can imitate them. */
  XXH64_hash_t seed = XXH3_64bits(options, strlen(options));
  hex_of(XXH3_128bits_withSeed(text, bytes, seed), out);
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* Each returns 0 for a value that no writer of ours stored. */
static int read_text(sqlite3_stmt *statement, int column, char *out, size_t bytes)
{
  if (sqlite3_column_type(statement, column) != SQLITE_TEXT) return 0;
  const char *text = (const char *)sqlite3_column_text(statement, column);
  size_t length = (size_t)sqlite3_column_bytes(statement, column);
  if (!text || length >= bytes || memchr(text, 0, length)) return 0;
  memcpy(out, text, length);
  out[length] = 0;
  return 1;
}

static int read_int(sqlite3_stmt *statement, int column, int64_t *out)
{
  if (sqlite3_column_type(statement, column) != SQLITE_INTEGER) return 0;
  *out = sqlite3_column_int64(statement, column);
  return 1;
}

static int read_real(sqlite3_stmt *statement, int column, double *out)
{
  if (sqlite3_column_type(statement, column) != SQLITE_FLOAT) return 0;
  *out = sqlite3_column_double(statement, column);
  return 1;
}

/* `sizeof member` decides the width; a value that does not survive it is refused. */
#define READ_TEXT(column, member) \
  ok = ok && read_text(statement, at++, out->member, sizeof out->member);
#define READ_INT(column, member)                                                          \
  ok = ok && read_int(statement, at++, &number) &&                                        \
       (sizeof out->member == sizeof number || (number >= INT_MIN && number <= INT_MAX)); \
  if (ok) out->member = (__typeof__(out->member))number;
#define READ_REAL(column, member) ok = ok && read_real(statement, at++, &out->member);

const char bank_out_of_memory[] = "out of memory";
static const char wrong_field[] = "a field is damaged", wrong_sum[] = "the checksum does not match";

const char *bank_read_variant(sqlite3_stmt *statement, tml_bank_row *out, int cubin)
{
  int at = 0, ok = 1;
  int64_t number = 0;
  char stored[TML_HASH_BYTES], sum[TML_HASH_BYTES];
  memset(out, 0, sizeof *out);
  BANK_VARIANT_MAP(READ_TEXT, READ_INT, READ_REAL)
  if (!ok || sqlite3_column_type(statement, at) != SQLITE_BLOB) return wrong_field;
  const void *code = sqlite3_column_blob(statement, at);
  size_t bytes = (size_t)sqlite3_column_bytes(statement, at);
  if ((bytes && !code) || !read_text(statement, at + 1, stored, sizeof stored)) return wrong_field;
  variant_checksum(out, code, bytes, sum);
  if (strcmp(sum, stored) != 0) return wrong_sum;
  out->cubin_bytes = bytes;
  if (!cubin || !bytes) return NULL;
  out->cubin = malloc(bytes);
  if (!out->cubin) return bank_out_of_memory;
  memcpy(out->cubin, code, bytes);
  return NULL;
}

const char *bank_read_pick(sqlite3_stmt *statement, tml_pick *out)
{
  int at = 0, ok = 1;
  int64_t number = 0;
  char stored[TML_HASH_BYTES], sum[TML_HASH_BYTES];
  memset(out, 0, sizeof *out);
  BANK_PICK_MAP(READ_TEXT, READ_INT, READ_REAL)
  if (!ok || !read_text(statement, at, stored, sizeof stored)) return wrong_field;
  pick_checksum(out, sum);
  return strcmp(sum, stored) == 0 ? NULL : wrong_sum;
}

/* ---- Writing --------------------------------------------------------------------------------- */

#define BIND_TEXT(column, member) \
  sqlite3_bind_text(statement, at++, row->member, -1, SQLITE_STATIC);
#define BIND_INT(column, member) sqlite3_bind_int64(statement, at++, row->member);
#define BIND_REAL(column, member)           \
  finite = finite && isfinite(row->member); \
  sqlite3_bind_double(statement, at++, row->member);
#define MARK(column, member) "?, "

static tml_status finish(sqlite3 *db, sqlite3_stmt *statement, int finite, const char *what)
{
  tml_status status = TML_OK;
  if (!finite) status = tml_fail(TML_ARGUMENT, "%s: a time is not a finite number", what);
  int code = finite ? sqlite3_step(statement) : SQLITE_DONE;
  if (code != SQLITE_DONE) status = bank_db_failed(db, code, what);
  sqlite3_finalize(statement);
  return status;
}

tml_status bank_insert_variant(sqlite3 *db, const char *verb, const tml_bank_row *row)
{
  sqlite3_stmt *statement = NULL;
  char sql[768], sum[TML_HASH_BYTES];
  int at = 1, finite = 1;
  snprintf(sql, sizeof sql,
           "%s INTO variant(" BANK_VARIANT_COLUMNS
           ") VALUES(" BANK_VARIANT_MAP(MARK, MARK, MARK) "?, ?)",
           verb);
  TRY(bank_db_prepare(db, &statement, sql));
  BANK_VARIANT_MAP(BIND_TEXT, BIND_INT, BIND_REAL)
  variant_checksum(row, row->cubin, row->cubin_bytes, sum);
  if (row->cubin_bytes) {
    sqlite3_bind_blob64(statement, at++, row->cubin, row->cubin_bytes, SQLITE_STATIC);
  } else {
    sqlite3_bind_zeroblob(statement, at++, 0);
  }
  sqlite3_bind_text(statement, at, sum, -1, SQLITE_STATIC);
  return finish(db, statement, finite, row->name);
}

tml_status bank_insert_pick(sqlite3 *db, const char *verb, const tml_pick *row)
{
  sqlite3_stmt *statement = NULL;
  char sql[768], sum[TML_HASH_BYTES];
  int at = 1, finite = 1;
  snprintf(sql, sizeof sql,
           "%s INTO pick(" BANK_PICK_COLUMNS ") VALUES(" BANK_PICK_MAP(MARK, MARK, MARK) "?)",
           verb);
  TRY(bank_db_prepare(db, &statement, sql));
  BANK_PICK_MAP(BIND_TEXT, BIND_INT, BIND_REAL)
  pick_checksum(row, sum);
  sqlite3_bind_text(statement, at, sum, -1, SQLITE_STATIC);
  return finish(db, statement, finite, row->key);
}
