/* Errors inside the library: a status travels up, the sentence lies in a thread-local buffer. */
#ifndef TML_STATUS_H
#define TML_STATUS_H

#include "tidemill.h"

#define TRY(call)                \
  do {                           \
    tml_status s_ = (call);      \
    if (s_ != TML_OK) return s_; \
  } while (0)
#define TRY_GOTO(call, label)         \
  do {                                \
    status = (call);                  \
    if (status != TML_OK) goto label; \
  } while (0)

/* Replaces the thread's detail and returns `status`. */
tml_status tml_fail(tml_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Puts "context: " before the thread's detail and returns `status`. */
tml_status tml_wrap(tml_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void tml_clear_error(void);

#endif
