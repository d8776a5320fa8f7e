/* May this file be trusted? Owner, mode, links and ancestors, checked before any byte is read. */
#ifndef TML_BANK_CHECK_H
#define TML_BANK_CHECK_H

#include <sys/stat.h>

#include "tidemill.h"

#define BANK_PATH_BYTES 4096
#define BANK_ISA_BYTES 16

/* Checks every folder on the way to `path` and resolves it: *resolved is the real folder and the
 * last name, so that what is opened later is what was checked. MISS with the reason. */
tml_status bank_check_folder(const char *path, char resolved[BANK_PATH_BYTES]);
/* A regular file, no link, owned by root or this user, writable by nobody else. *absent is set if
 * there is no such file (then MISS too). `path` as resolved by bank_check_folder. */
tml_status bank_check_file(const char *path, struct stat *info, int *absent);
/* Opens, compares with `info`, and looks at the first 100 bytes: SQLite, whole, not in WAL mode.
 * *exchanged: a writer published between the check and this; check again. */
tml_status bank_check_header(const char *path, const struct stat *info, int *exchanged);
/* `holds`: the primitive set of the file's kernels, "" for a GPU's own; `isa` as in tml_api. */
tml_status bank_check_isa(const char *path, const char *holds, const char *isa);

#endif
