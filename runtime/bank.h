/* The bank: one SQLite file of compiled variants and picks.
 *
 * A variant's identity is its name and its source hash (XXH3-128, hex, of the flattened text and the
 * compile options). Every row carries its own checksum over all its fields. Whatever is wrong with a
 * file or a row is a MISS with a reason; nothing here deletes or repairs.
 *
 * Readers open the file immutable and read-only, after checking owner and mode. Writers take a file
 * lock beside the bank, write NAME.part in short transactions and publish it by rename, after merging
 * what the bank gained meanwhile. */
#ifndef TML_BANK_H
#define TML_BANK_H

#include "gen.h"

typedef struct tml_bank tml_bank;
typedef struct tml_bank_writer tml_bank_writer;

#define TML_HASH_BYTES 33 /* 32 hex digits and NUL */

typedef struct tml_bank_row {
  char name[TML_NAME_BYTES], hash[TML_HASH_BYTES], arch[16], compiler[32], options[160];
  char refused[160]; /* not empty: compiled and refused; there is no cubin */
  int registers, smem_static, local_bytes, spill_bytes;
  double compile_ms;
  unsigned char *cubin; /* malloc by readers; NULL if not asked for or refused */
  size_t cubin_bytes;
} tml_bank_row;

typedef struct tml_pick {
  char key[TML_NAME_BYTES]; /* the problem without m: "ag_gemm:bf16:nt:w2:*x1280x8192" */
  int64_t bucket;           /* largest m that it serves */
  tml_machine machine;
  char variant[TML_NAME_BYTES], runner_up[TML_NAME_BYTES];
  double us, runner_up_us, lt_us;
  int64_t when; /* Unix seconds */
} tml_pick;

void tml_source_hash(const char *text, size_t bytes, const char *options, char out[TML_HASH_BYTES]);
/* key as in tml_pick */
void tml_pick_key(const tml_problem *problem, char *out, size_t bytes);
/* The bucket that serves m: 1, 2, 4, ... up to 256, then steps of half an octave (384, 512, 768, ...). */
int64_t tml_pick_bucket(int64_t m);

/* Opens for reading. MISS with the reason: missing, not a regular file, writable by others, owned by
 * somebody else, not SQLite, truncated, another schema. */
tml_status tml_bank_open(tml_bank **out, const char *path);
void tml_bank_close(tml_bank *bank);
/* MISS if its kernels are not for this primitive set (isa as in tml_api): a variant has the same name for a
 * GPU and for the emulator, so a bank holds kernels for one of them. */
tml_status tml_bank_serves(const tml_bank *bank, const char *isa);
/* MISS with the reason (absent, other hash, checksum, refused by the compiler). */
tml_status tml_bank_get(tml_bank *bank, const char *name, const char *hash, tml_bank_row *out);
void tml_bank_row_free(tml_bank_row *row);
/* All rows by name, without cubins but verified; `bad` is NULL or what is wrong with the row. */
typedef int (*tml_bank_row_fn)(void *user, const tml_bank_row *row, const char *bad);
tml_status tml_bank_each(tml_bank *bank, tml_bank_row_fn fn, void *user);
/* The picks of a key for this machine: same GPU, SM count and cc, and no other known link ("none" is
 * what a process sees that was shown one GPU, so it matches any). One per bucket, this driver's first,
 * then the newest; *other_driver set if one came from another driver. Sorted by bucket. */
tml_status tml_bank_picks(tml_bank *bank, const char *key, const tml_machine *machine,
                          tml_pick *out, size_t capacity, size_t *count, int *other_driver);
typedef int (*tml_pick_fn)(void *user, const tml_pick *pick, const char *bad);
tml_status tml_bank_each_pick(tml_bank *bank, tml_pick_fn fn, void *user);
/* Integrity of the whole file, for `doctor`; the reason in the text. */
tml_status tml_bank_verify(tml_bank *bank);

/* Writers. Any number of processes may write one bank at once; each call waits up to `wait_ms` for the
 * others. isa: whom the kernels are for, as in tml_api. IO: the folder is not writable, disk full, the
 * lock is not let go of, ...; MISS: the bank exists but must not be used (reason). */
#define TML_BANK_WAIT_MS 60000 /* for programs; at most a transaction or a publish holds the lock */
tml_status tml_bank_write_open(tml_bank_writer **out, const char *path, const char *isa,
                               int wait_ms);
/* "" or what the user should know: a NAME.part that was set aside, rows that were dropped as damaged. */
const char *tml_bank_write_note(const tml_bank_writer *writer);
/* 1 if the bank or NAME.part holds this variant with this hash (and compiler), refused or not. */
int tml_bank_write_has(tml_bank_writer *writer, const char *name, const char *hash,
                       const char *compiler);
tml_status tml_bank_write_row(tml_bank_writer *writer, const tml_bank_row *row);
tml_status tml_bank_write_pick(tml_bank_writer *writer, const tml_pick *pick);
/* A mark in NAME.part: what is being tried just now ("" clears it); tells a restarted tune what killed
 * the last one. */
tml_status tml_bank_write_mark(tml_bank_writer *writer, const char *key, const char *text);
tml_status tml_bank_read_mark(tml_bank_writer *writer, const char *key, char *out, size_t bytes);
/* Merges, syncs, renames. The writer stays open. */
tml_status tml_bank_publish(tml_bank_writer *writer);
void tml_bank_write_close(tml_bank_writer *writer);

#endif
