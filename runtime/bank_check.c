/* A bank holds machine code: who can write it, or replace it, can run code in this process. So the
 * file and every folder above it must belong to root or to this user, and be writable by nobody
 * else (a sticky folder of root's, such as /tmp, passes). After that nobody else can exchange
 * anything between the check and the open. */
#include "bank_check.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "status.h"

static int owner_ok(const struct stat *info)
{
  return info->st_uid == 0 || info->st_uid == geteuid();
}

/* One folder, or one link on the way to it. */
static tml_status check_step(const char *step)
{
  struct stat info;
  if (lstat(step, &info) != 0) return tml_fail(TML_MISS, "%s: %s", step, strerror(errno));
  if (!owner_ok(&info)) {
    return tml_fail(TML_MISS,
                    "%s belongs to user %u; a bank must lie in folders of root or of user %u", step,
                    (unsigned)info.st_uid, (unsigned)geteuid());
  }
  if (S_ISLNK(info.st_mode)) return TML_OK; /* where it leads is checked with the resolved path */
  if (!S_ISDIR(info.st_mode)) return tml_fail(TML_MISS, "%s is not a folder", step);
  int sticky_root = (info.st_mode & S_ISVTX) && info.st_uid == 0;
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) && !sticky_root) {
    return tml_fail(TML_MISS, "others can write the folder %s (mode %04o): chmod go-w it", step,
                    (unsigned)(info.st_mode & 07777));
  }
  return TML_OK;
}

/* Every prefix of an absolute path, "/" first, the whole path last. */
static tml_status check_steps(const char *path)
{
  char step[BANK_PATH_BYTES];
  size_t length = strlen(path);
  if (length >= sizeof step) return tml_fail(TML_MISS, "the path is too long: %s", path);
  TRY(check_step("/"));
  for (size_t i = 1; i <= length; i++) {
    if ((path[i] != '/' && path[i] != 0) || path[i - 1] == '/') continue;
    memcpy(step, path, i);
    step[i] = 0;
    TRY(check_step(step));
  }
  return TML_OK;
}

/* Splits into an absolute folder and the last name. */
static tml_status split(const char *path, char folder[BANK_PATH_BYTES], const char **name)
{
  char here[PATH_MAX] = "";
  if (!path || !*path) return tml_fail(TML_ARGUMENT, "the bank's path is empty");
  if (path[0] != '/' && !getcwd(here, sizeof here)) {
    return tml_fail(TML_IO, "getcwd: %s", strerror(errno));
  }
  const char *slash = strrchr(path, '/');
  *name = slash ? slash + 1 : path;
  int used = snprintf(folder, BANK_PATH_BYTES, "%s%s%.*s", here, here[0] ? "/" : "",
                      (int)(*name - path), path);
  if (used >= BANK_PATH_BYTES) return tml_fail(TML_MISS, "the path is too long: %s", path);
  if (!**name || strcmp(*name, ".") == 0 || strcmp(*name, "..") == 0) {
    return tml_fail(TML_MISS, "%s is a folder, not a bank", path);
  }
  return TML_OK;
}

tml_status bank_check_folder(const char *path, char resolved[BANK_PATH_BYTES])
{
  char folder[BANK_PATH_BYTES], real[PATH_MAX];
  const char *name = "";
  TRY(split(path, folder, &name));
  TRY(check_steps(folder));
  if (!realpath(folder, real)) return tml_fail(TML_MISS, "%s: %s", folder, strerror(errno));
  TRY(check_steps(real));
  const char *between = strcmp(real, "/") == 0 ? "" : "/";
  if (snprintf(resolved, BANK_PATH_BYTES, "%s%s%s", real, between, name) >= BANK_PATH_BYTES) {
    return tml_fail(TML_MISS, "the path is too long: %s", path);
  }
  return TML_OK;
}

static tml_status tell_absent(const char *path)
{
  char part[BANK_PATH_BYTES + 16];
  struct stat info;
  snprintf(part, sizeof part, "%s.part", path);
  if (lstat(part, &info) == 0) {
    return tml_fail(TML_MISS,
                    "%s: no such bank yet, but %s, of a build or tune that was stopped: run the "
                    "same command again to go on",
                    path, part);
  }
  return tml_fail(TML_MISS, "%s: no such bank; make one with `tidemill build -o FILE`", path);
}

tml_status bank_check_file(const char *path, struct stat *info, int *absent)
{
  *absent = 0;
  if (lstat(path, info) != 0) {
    *absent = errno == ENOENT;
    return *absent ? tell_absent(path) : tml_fail(TML_MISS, "%s: %s", path, strerror(errno));
  }
  if (S_ISLNK(info->st_mode))
    return tml_fail(TML_MISS, "%s is a symbolic link; name the file itself", path);
  if (!S_ISREG(info->st_mode)) return tml_fail(TML_MISS, "%s is not a regular file", path);
  if (!owner_ok(info)) {
    return tml_fail(TML_MISS,
                    "%s belongs to user %u, not to root or user %u: chown it, or build your own",
                    path, (unsigned)info->st_uid, (unsigned)geteuid());
  }
  if (info->st_mode & (S_IWGRP | S_IWOTH)) {
    return tml_fail(TML_MISS,
                    "others can write %s (mode %04o), and it holds machine code: chmod go-w it",
                    path, (unsigned)(info->st_mode & 07777));
  }
  return TML_OK;
}

static uint32_t big_endian(const unsigned char *at, int bytes)
{
  uint32_t value = 0;
  for (int i = 0; i < bytes; i++) value = value << 8 | at[i];
  return value;
}

/* Fields of SQLite's file header: page size at 16, journal versions at 18, change counter at 24,
 * pages at 28 (valid if the counter is equal to the word at 92). */
static tml_status check_bytes(const char *path, const unsigned char *head, off_t size)
{
  if (head[18] != 1 || head[19] != 1) {
    return tml_fail(
        TML_MISS, "%s was left in another journal mode (WAL?): it may lack rows; rebuild it", path);
  }
  uint64_t page = big_endian(head + 16, 2);
  uint64_t expected = (page == 1 ? 65536 : page) * big_endian(head + 28, 4);
  if (big_endian(head + 24, 4) == big_endian(head + 92, 4) && expected != (uint64_t)size) {
    return tml_fail(TML_MISS, "%s is truncated, %lld bytes of %llu: delete it and build it again",
                    path, (long long)size, (unsigned long long)expected);
  }
  return TML_OK;
}

tml_status bank_check_header(const char *path, const struct stat *info, int *exchanged)
{
  static const char magic[16] = "SQLite format 3";
  unsigned char head[100];
  struct stat now;
  int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  *exchanged = 0;
  if (fd < 0) return tml_fail(TML_MISS, "%s: %s", path, strerror(errno));
  tml_status status = TML_OK;
  ssize_t got = 0;
  if (fstat(fd, &now) != 0 || now.st_dev != info->st_dev || now.st_ino != info->st_ino) {
    *exchanged = 1;
    status = tml_fail(TML_MISS, "%s was exchanged while it was being opened; try again", path);
  } else if ((got = pread(fd, head, sizeof head, 0)) < 0) {
    status = tml_fail(TML_MISS, "%s: %s", path, strerror(errno));
  } else if (memcmp(head, magic, (size_t)got < sizeof magic ? (size_t)got : sizeof magic) != 0) {
    status = tml_fail(TML_MISS, "%s is not a Tidemill bank: name another file", path);
  } else if (got < (ssize_t)sizeof head) {
    status = tml_fail(TML_MISS, "%s is truncated, %lld bytes: delete it and build it again", path,
                      (long long)now.st_size);
  } else {
    status = check_bytes(path, head, now.st_size);
  }
  close(fd);
  return status;
}

static const char *isa_text(const char *isa)
{
  return !*isa ? "GPUs" : strcmp(isa, "emu") == 0 ? "the emulator" : isa;
}

tml_status bank_check_isa(const char *path, const char *holds, const char *isa)
{
  if (!isa) isa = "";
  if (strcmp(holds, isa) == 0) return TML_OK;
  return tml_fail(TML_MISS, "%s holds kernels for %s: name another bank for %s", path,
                  isa_text(holds), isa_text(isa));
}
