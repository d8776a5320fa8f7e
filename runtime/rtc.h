/* NVRTC: text -> cubin, with the compiler's verdict parsed from its log. Thread-safe. */
#ifndef TML_RTC_H
#define TML_RTC_H

#include "api.h"

typedef struct tml_build {
  unsigned char *cubin; /* malloc */
  size_t cubin_bytes;
  char *log;         /* malloc; never NULL on OK or COMPILE */
  char compiler[32]; /* "nvrtc 13.0" */
  int registers, smem_static, local_bytes, spill_bytes, barriers;
  double compile_ms;
  char refused[160]; /* "" or why the result must not be used: spills, C7510-C7519, C7602, ... */
} tml_build;

/* The compile options of an arch, as one line; part of a variant's identity. */
const char *tml_rtc_options(const char *arch);
/* OK (look at `refused`), COMPILE (the text holds the first error; the log the rest), MISS (no NVRTC:
 * says what to install), MEMORY. `name` is the program's name in messages. */
tml_status tml_rtc_compile(const tml_api *api, const char *name, const char *text, const char *arch,
                           tml_build *out);
/* Sets `refused` where a thread has fewer registers than the kernel takes for granted. */
void tml_build_require(tml_build *build, int registers);
void tml_build_free(tml_build *build);

#endif
