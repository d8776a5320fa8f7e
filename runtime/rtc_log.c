/* What ptxas says with -v, one line each:
 *     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
 *   ptxas info    : Used 168 registers, used 9 barriers, 1024 bytes smem, 16 bytes lmem
 *   ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async ... are serialized */
#include "rtc_log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The number before `unit` in the line ("0 bytes spill stores" -> 0); -1 if the unit is not
 * there. */
static int number_before(const char *line, const char *unit)
{
  const char *at = strstr(line, unit);
  if (!at) return -1;
  while (at > line && at[-1] == ' ') at--;
  const char *end = at;
  while (at > line && at[-1] >= '0' && at[-1] <= '9') at--;
  return at == end ? -1 : atoi(at);
}

static void keep_larger(int *value, int other)
{
  if (other > *value) *value = other;
}

static void read_figures(const char *line, tml_build *out)
{
  int stores = number_before(line, "bytes spill stores");
  int loads = number_before(line, "bytes spill loads");
  if (stores >= 0 || loads >= 0) {
    keep_larger(&out->spill_bytes, (stores > 0 ? stores : 0) + (loads > 0 ? loads : 0));
    keep_larger(&out->local_bytes, number_before(line, "bytes stack frame"));
    return;
  }
  if (!strstr(line, "Used ")) return;
  keep_larger(&out->registers, number_before(line, "registers"));
  keep_larger(&out->barriers, number_before(line, "barriers"));
  keep_larger(&out->smem_static, number_before(line, "bytes smem"));
  keep_larger(&out->local_bytes, number_before(line, "bytes lmem"));
}

/* The verdicts that make a kernel slow or wrong. "Potential Performance Loss": C7508, setmaxnreg is
 * ignored; C7510-C7519, wgmma is serialised. C7602: setmaxnreg again, in its other wording. An
 * injected warpgroup.arrive means that a fence of ours is missing. */
static int is_verdict(const char *line)
{
  static const char *const marks[] = {"Potential Performance Loss", "(C751", "C7602",
                                      "warpgroup.arrive is injected"};
  for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
    if (strstr(line, marks[i])) return 1;
  }
  return 0;
}

static void copy_line(const char *line, char *out, size_t bytes)
{
  while (*line == ' ' || *line == '\t') line++;
  snprintf(out, bytes, "%s", line);
}

typedef int (*line_fn)(const char *line, void *user);

/* Calls fn with each line (cut to 1023 bytes) until it returns 1. */
static int each_line(const char *log, line_fn fn, void *user)
{
  char line[1024];
  while (*log) {
    size_t length = strcspn(log, "\r\n");
    size_t kept = length < sizeof line - 1 ? length : sizeof line - 1;
    memcpy(line, log, kept);
    line[kept] = 0;
    if (fn(line, user)) return 1;
    log += length;
    log += strspn(log, "\r\n");
  }
  return 0;
}

static int parse_line(const char *line, void *user)
{
  tml_build *out = user;
  read_figures(line, out);
  if (!out->refused[0] && is_verdict(line)) copy_line(line, out->refused, sizeof out->refused);
  return 0;
}

void rtc_parse_log(const char *log, tml_build *out)
{
  each_line(log, parse_line, out);
  if (out->refused[0]) return;
  if (out->spill_bytes) {
    snprintf(out->refused, sizeof out->refused, "registers spill: %d bytes (at %d registers)",
             out->spill_bytes, out->registers);
  } else if (out->local_bytes) {
    snprintf(out->refused, sizeof out->refused, "%d bytes of local memory (at %d registers)",
             out->local_bytes, out->registers);
  }
}

typedef struct found_line {
  char *out;
  size_t bytes;
} found_line;

static int error_line(const char *line, void *user)
{
  found_line *found = user;
  if (!strstr(line, "error")) return 0;
  copy_line(line, found->out, found->bytes);
  return 1;
}

int rtc_first_error(const char *log, char *line, size_t bytes)
{
  found_line found = {line, bytes};
  return each_line(log, error_line, &found);
}
