/* Status texts and the thread's last error. */
#include "status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ERROR_BYTES 2048

static _Thread_local char last_error[ERROR_BYTES];

const char *tml_version(void) { return TML_VERSION; }

/* Formats first, so that an argument may be the old detail itself. */
static tml_status set_error(tml_status status, const char *format, va_list args, const char *tail)
{
  char text[ERROR_BYTES];
  int length = vsnprintf(text, sizeof text, format, args);
  if (length < 0) text[length = 0] = 0;
  if ((size_t)length < sizeof text - 1 && tail) {
    snprintf(text + length, sizeof text - (size_t)length, ": %s", tail);
  }
  memcpy(last_error, text, sizeof text);
  return status;
}

tml_status tml_fail(tml_status status, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  set_error(status, format, args, NULL);
  va_end(args);
  return status;
}

tml_status tml_wrap(tml_status status, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  set_error(status, format, args, last_error[0] ? last_error : tml_status_text(status));
  va_end(args);
  return status;
}

void tml_clear_error(void) { last_error[0] = 0; }

const char *tml_last_error(void) { return last_error; }

const char *tml_status_text(tml_status status)
{
  switch (status) {
#define TML_X(id, n, text) \
  case TML_##id: return text;
    TML_STATUS_MAP(TML_X)
#undef TML_X
  case TML_STATUS_FORCE32: break;
  }
  return "unknown status";
}
