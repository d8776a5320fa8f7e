/* NAME.lock and NAME.part. */
#include "bank_part.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define LOCK_PAUSE_MS 10

void part_note(tml_bank_writer *writer, const char *format, ...)
{
  size_t used = strlen(writer->note);
  va_list args;
  va_start(args, format);
  if (used && used + 2 < sizeof writer->note) {
    memcpy(writer->note + used, "; ", 3);
    used += 2;
  }
  vsnprintf(writer->note + used, sizeof writer->note - used, format, args);
  va_end(args);
}

/* One attempt. File systems without flock have POSIX locks; those of an open file description
 * behave alike. 0, or the errno. */
static int try_lock(int fd)
{
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return 0;
  if (errno != EOPNOTSUPP && errno != ENOLCK && errno != ENOSYS) return errno;
  struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  if (fcntl(fd, F_OFD_SETLK, &whole) == 0) return 0;
  return errno == EACCES ? EAGAIN : errno;
}

tml_status part_lock(tml_bank_writer *writer)
{
  const struct timespec pause = {.tv_nsec = LOCK_PAUSE_MS * 1000000};
  for (int waited = 0; waited <= writer->wait_ms; waited += LOCK_PAUSE_MS) {
    int error = try_lock(writer->lock_fd);
    if (error == 0) return TML_OK;
    if (error != EWOULDBLOCK && error != EAGAIN && error != EINTR) {
      return tml_fail(TML_IO, "cannot lock %s: %s", writer->lock, strerror(error));
    }
    nanosleep(&pause, NULL);
  }
  return tml_fail(TML_IO, "another process has held %s for %.1f s; is it stopped?", writer->lock,
                  writer->wait_ms * 1e-3);
}

void part_unlock(tml_bank_writer *writer)
{
  struct flock whole = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
  if (flock(writer->lock_fd, LOCK_UN) != 0) fcntl(writer->lock_fd, F_OFD_SETLK, &whole);
}

static int same_file(const struct stat *a, const struct stat *b)
{
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

void part_close(tml_bank_writer *writer)
{
  bank_db_close(writer->db);
  writer->db = NULL;
}

/* Renames the part, and a journal beside it, to the first free NAME.part.aside.N. */
static tml_status set_aside(tml_bank_writer *writer)
{
  char aside[sizeof writer->part + 24], journal[sizeof writer->part + 16], kept[sizeof aside + 16];
  for (int i = 1; i < 1000; i++) {
    struct stat info;
    snprintf(aside, sizeof aside, "%s.aside.%d", writer->part, i);
    if (lstat(aside, &info) == 0) continue;
    if (rename(writer->part, aside) != 0) {
      return tml_fail(TML_IO, "cannot set %s aside: %s", writer->part, strerror(errno));
    }
    snprintf(journal, sizeof journal, "%s-journal", writer->part);
    snprintf(kept, sizeof kept, "%s-journal", aside);
    rename(journal, kept); /* most often there is none */
    part_note(writer, "set aside as %s: %s", strrchr(aside, '/') + 1, tml_last_error());
    return TML_OK;
  }
  return tml_fail(TML_IO, "a thousand files %s.aside.N: remove them", writer->part);
}

static tml_status check_part_isa(tml_bank_writer *writer)
{
  char isa[BANK_ISA_BYTES];
  TRY(bank_db_isa(writer->db, isa));
  return bank_check_isa(writer->part, isa, writer->isa);
}

tml_status part_ready(tml_bank_writer *writer)
{
  struct stat info;
  int absent;
  if (writer->db) {
    if (lstat(writer->part, &info) == 0 && same_file(&info, &writer->db_info)) return TML_OK;
    part_close(writer);
  }
  tml_status status = bank_check_file(writer->part, &info, &absent);
  if (status != TML_OK && !absent) return tml_wrap(TML_IO, "NAME.part must not be used");
  status = bank_db_open_write(&writer->db, writer->part, BANK_PART, writer->isa);
  if (status == TML_MISS && !absent) {
    TRY(set_aside(writer));
    status = bank_db_open_write(&writer->db, writer->part, BANK_PART, writer->isa);
  }
  if (status != TML_OK) return status == TML_MISS ? TML_IO : status;
  if (lstat(writer->part, &writer->db_info) != 0)
    status = tml_fail(TML_IO, "%s: %s", writer->part, strerror(errno));
  if (status == TML_OK) status = check_part_isa(writer);
  if (status != TML_OK) part_close(writer);
  return status;
}

tml_status part_bank(tml_bank_writer *writer)
{
  struct stat info;
  int absent = 0;
  tml_status status = bank_check_file(writer->path, &info, &absent);
  if (writer->bank && status == TML_OK && same_file(&info, &writer->bank_info)) return TML_OK;
  tml_bank_close(writer->bank);
  writer->bank = NULL;
  if (absent) return TML_OK;
  if (status == TML_OK) status = tml_bank_open(&writer->bank, writer->path);
  if (status == TML_OK) status = tml_bank_serves(writer->bank, writer->isa);
  writer->bank_info = info;
  if (status == TML_OK) return TML_OK;
  tml_bank_close(writer->bank);
  writer->bank = NULL;
  return status;
}

tml_status part_clear(tml_bank_writer *writer)
{
  char marks[16];
  TRY(bank_db_value(writer->db, "SELECT count(*) FROM mark", marks, sizeof marks));
  if (strcmp(marks, "0") != 0) {
    tml_status status =
        bank_db_exec(writer->db, "BEGIN IMMEDIATE; DELETE FROM variant; DELETE FROM pick; COMMIT");
    if (status != TML_OK) part_close(writer); /* and with it what has begun */
    return status;
  }
  part_close(writer);
  if (unlink(writer->part) == 0 || errno == ENOENT) return TML_OK;
  return tml_fail(TML_IO, "cannot remove %s: %s", writer->part, strerror(errno));
}
