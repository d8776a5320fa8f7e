/* Inside the writers: the lock beside the bank, and NAME.part behind it.
 *
 * All writers of a bank share one NAME.part. It holds what has not been published yet, so it is
 * always newer than the bank. Every access happens under an exclusive lock on NAME.lock; nobody
 * keeps it longer than one transaction or one publish. A writer's handle on the part may be stale
 * (another one has published and removed it): part_ready looks before each use. */
#ifndef TML_BANK_PART_H
#define TML_BANK_PART_H

#include <sys/stat.h>

#include "bank_check.h"
#include "bank_db.h"

struct tml_bank_writer {
  char path[BANK_PATH_BYTES]; /* resolved */
  char part[BANK_PATH_BYTES + 16], fresh[BANK_PATH_BYTES + 16], lock[BANK_PATH_BYTES + 16];
  char isa[BANK_ISA_BYTES]; /* "": a GPU's own */
  int lock_fd, wait_ms;
  sqlite3 *db;         /* of the part; NULL until needed */
  struct stat db_info; /* of the file behind db */
  tml_bank *bank;      /* the published bank; NULL: none */
  struct stat bank_info;
  char note[512];
};

/* Bounded: IO after wait_ms. */
tml_status part_lock(tml_bank_writer *writer);
void part_unlock(tml_bank_writer *writer);
/* Under the lock: writer->db is the file that NAME.part names now, created if absent. A part that
 * is corrupt, or of another schema or version, is renamed to NAME.part.aside.N and noted. MISS if it is
 * for another isa: it holds somebody's work. */
tml_status part_ready(tml_bank_writer *writer);
/* Under the lock: writer->bank is the file that NAME names now, NULL if there is none. MISS if it is for
 * another isa. */
tml_status part_bank(tml_bank_writer *writer);
/* Under the lock: forgets all rows; the file goes unless it holds marks. */
tml_status part_clear(tml_bank_writer *writer);
void part_close(tml_bank_writer *writer);
/* Adds a sentence to the note; what does not fit is cut. */
void part_note(tml_bank_writer *writer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
