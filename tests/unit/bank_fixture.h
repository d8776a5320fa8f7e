/* What the bank tests share: a private folder, rows that can be told apart, whole files. */
#ifndef TML_BANK_FIXTURE_H
#define TML_BANK_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bank.h"
#include "status.h"

static char bank_folder[] = "/tmp/tml_bank_XXXXXX";
static char bank_path[64];

static inline int make_folder(void **state)
{
  (void)state;
  if (!mkdtemp(bank_folder)) return -1;
  snprintf(bank_path, sizeof bank_path, "%s/t.bank", bank_folder);
  return 0;
}

static inline int run(const char *format)
{
  char command[160];
  snprintf(command, sizeof command, format, bank_folder);
  return system(command);
}

static inline int remove_folder(void **state)
{
  (void)state;
  return run("chmod -R u+rwx %1$s && rm -r %1$s");
}

/* An empty folder before each test. */
static inline int clean(void **state)
{
  (void)state;
  return run("chmod 700 %1$s && find %1$s -mindepth 1 -delete");
}

/* Row number i: 300 to 7 000 bytes of code; every fifth was refused. */
static inline tml_bank_row row_of(int i)
{
  tml_bank_row row = {.registers = 100 + i, .smem_static = i, .compile_ms = 1.5 * i};
  snprintf(row.name, sizeof row.name, "gemm.sm90a.bf16.nt.w1__%04d", i);
  snprintf(row.hash, sizeof row.hash, "%032x", (unsigned)i * 2654435761u);
  strcpy(row.arch, "sm_90a");
  strcpy(row.compiler, "nvrtc 13.0");
  strcpy(row.options, "-arch=sm_90a -std=c++17");
  if (i % 5 == 4) {
    snprintf(row.refused, sizeof row.refused, "registers spill: %d bytes", i);
    return row;
  }
  row.cubin_bytes = 300 + 67 * (size_t)(i % 100);
  row.cubin = malloc(row.cubin_bytes);
  for (size_t at = 0; at < row.cubin_bytes; at++)
    row.cubin[at] = (unsigned char)(at * 7 + (size_t)i);
  return row;
}

static inline tml_pick pick_of(int64_t bucket, int driver, const char *link, int64_t when)
{
  tml_pick pick = {.bucket = bucket, .us = 10.5, .runner_up_us = 11, .lt_us = 12, .when = when};
  strcpy(pick.key, "gemm:bf16:nt:w1:*x1280x8192");
  strcpy(pick.variant, "gemm.sm90a.bf16.nt.w1__0001");
  strcpy(pick.runner_up, "gemm.sm90a.bf16.nt.w1__0002");
  pick.machine = (tml_machine){.gpu = "NVIDIA H200", .sms = 132, .cc = 90, .driver = driver};
  strcpy(pick.machine.link, link);
  return pick;
}

/* Writes rows [from, to) and publishes. */
static inline tml_status write_rows(int from, int to)
{
  tml_bank_writer *writer;
  tml_status status;
  TRY(tml_bank_write_open(&writer, bank_path, NULL, TML_BANK_WAIT_MS));
  for (int i = from; i < to; i++) {
    tml_bank_row row = row_of(i);
    TRY_GOTO(tml_bank_write_row(writer, &row), done);
    tml_bank_row_free(&row);
  }
  status = tml_bank_publish(writer);
done:
  tml_bank_write_close(writer);
  return status;
}

static inline char *read_whole(const char *path, size_t *bytes)
{
  struct stat info;
  FILE *file = fopen(path, "rb");
  if (!file || fstat(fileno(file), &info) != 0) return NULL;
  char *text = malloc((size_t)info.st_size + 1);
  *bytes = fread(text, 1, (size_t)info.st_size, file);
  fclose(file);
  return text;
}

static inline int write_whole(const char *path, const char *text, size_t bytes)
{
  FILE *file = fopen(path, "wb");
  if (!file) return -1;
  size_t wrote = fwrite(text, 1, bytes, file);
  return fclose(file) == 0 && wrote == bytes ? 0 : -1;
}

#endif
