/* SQLite as the bank uses it: hardened handles, the schema, rows with their checksums. */
#ifndef TML_BANK_DB_H
#define TML_BANK_DB_H

#include <sqlite3.h>

#include "bank.h"
#include "bank_check.h"
#include "status.h"

#define BANK_SCHEMA 1

/* The fields of a row, once: columns, binding, reading and checksum come from here. X(column,
 * member); a variant has its cubin besides. (The formatter's layout of such lists is not stable.) */
/* clang-format off */
#define BANK_VARIANT_MAP(TEXT, INT, REAL) \
  TEXT(name, name) TEXT(hash, hash) TEXT(arch, arch) TEXT(compiler, compiler) \
  TEXT(options, options) TEXT(refused, refused) INT(registers, registers) \
  INT(smem_static, smem_static) INT(local_bytes, local_bytes) INT(spill_bytes, spill_bytes) \
  REAL(compile_ms, compile_ms)
#define BANK_PICK_MAP(TEXT, INT, REAL) \
  TEXT(problem, key) INT(bucket, bucket) TEXT(gpu, machine.gpu) INT(sms, machine.sms) \
  INT(cc, machine.cc) INT(driver, machine.driver) TEXT(link, machine.link) \
  TEXT(variant, variant) TEXT(runner_up, runner_up) REAL(us, us) \
  REAL(runner_up_us, runner_up_us) REAL(lt_us, lt_us) INT(at, when)
/* clang-format on */

#define BANK_COLUMN(column, member) #column ", "
#define BANK_VARIANT_COLUMNS \
  BANK_VARIANT_MAP(BANK_COLUMN, BANK_COLUMN, BANK_COLUMN) "cubin, checksum"
#define BANK_PICK_COLUMNS BANK_PICK_MAP(BANK_COLUMN, BANK_COLUMN, BANK_COLUMN) "checksum"

/* What a file is for: a bank, or NAME.part, which has marks besides. */
typedef enum bank_shape { BANK_WHOLE, BANK_PART } bank_shape;

/* Read-only, immutable, hardened. `path` has been checked. */
tml_status bank_db_open_read(sqlite3 **out, const char *path);
/* For writing; created if absent, its tables too, for kernels of this isa ("": a GPU's own). MISS if it
 * holds something else, or is corrupt. */
tml_status bank_db_open_write(sqlite3 **out, const char *path, bank_shape shape, const char *isa);
/* Whom its kernels are for: "" or the isa that it was created with. */
tml_status bank_db_isa(sqlite3 *db, char out[BANK_ISA_BYTES]);
void bank_db_close(sqlite3 *db);

/* The status of an SQLite failure, and its text after `what`: MISS (damaged), MEMORY, else IO. */
tml_status bank_db_failed(sqlite3 *db, int code, const char *what);
tml_status bank_db_exec(sqlite3 *db, const char *sql);
tml_status bank_db_prepare(sqlite3 *db, sqlite3_stmt **out, const char *sql);
/* The first text or number of a one-row query as text; "" if there is no row. */
tml_status bank_db_value(sqlite3 *db, const char *sql, char *out, size_t bytes);

/* Reads and verifies the row under the statement (columns as in BANK_..._COLUMNS). NULL, or what is
 * wrong with it. With `cubin`, a variant's code is kept (malloc). */
const char *bank_read_variant(sqlite3_stmt *statement, tml_bank_row *out, int cubin);
extern const char bank_out_of_memory[]; /* the one answer that is no damage; compare the address */
const char *bank_read_pick(sqlite3_stmt *statement, tml_pick *out);
/* Inserts with a fresh checksum; `verb` is "INSERT OR REPLACE" or "INSERT OR IGNORE". */
tml_status bank_insert_variant(sqlite3 *db, const char *verb, const tml_bank_row *row);
tml_status bank_insert_pick(sqlite3 *db, const char *verb, const tml_pick *pick);

#endif
