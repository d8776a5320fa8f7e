/* Compiles a flattened source with NVRTC. */
#include "rtc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "rtc_log.h"
#include "status.h"

/* ptxas options come apart: NVRTC refuses the comma form. The text of a variant marks its device
 * functions itself, so that it is valid C as well; nothing else is needed. */
#define OPTIONS_MAP(X)    \
  X("-std=c++17")         \
  X("--ptxas-options=-v") \
  X("--ptxas-options=--warn-on-spills")

const char *tml_rtc_options(const char *arch)
{
  static _Thread_local char line[128];
#define TML_X(option) " " option
  snprintf(line, sizeof line, "-arch=%s%s", arch, OPTIONS_MAP(TML_X));
#undef TML_X
  return line;
}

static double now_ms(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

static tml_status read_log(const tml_api *api, nvrtcProgram program, char **log)
{
  size_t bytes = 0;
  TRY(NV(api, nvrtcGetProgramLogSize, (program, &bytes)));
  *log = calloc(1, bytes + 1);
  if (!*log) return tml_fail(TML_MEMORY, "out of memory for the compiler's log");
  return bytes ? NV(api, nvrtcGetProgramLog, (program, *log)) : TML_OK;
}

static tml_status read_cubin(const tml_api *api, nvrtcProgram program, tml_build *out)
{
  size_t bytes = 0;
  TRY(NV(api, nvrtcGetCUBINSize, (program, &bytes)));
  if (!bytes) return tml_fail(TML_COMPILE, "NVRTC gave no cubin");
  out->cubin = malloc(bytes);
  if (!out->cubin) return tml_fail(TML_MEMORY, "out of memory for a cubin of %zu bytes", bytes);
  out->cubin_bytes = bytes;
  return NV(api, nvrtcGetCUBIN, (program, (char *)out->cubin));
}

/* COMPILE with the first error of the log, or with NVRTC's own word where the log is empty. */
static tml_status compile_failed(const tml_api *api, nvrtcResult result, const char *name,
                                 const char *log)
{
  char line[512];
  tml_status status = tml_nvrtc_check(api, result, "nvrtcCompileProgram");
  if (rtc_first_error(log, line, sizeof line)) {
    tml_fail(status, "%s", line);
    /* NVRTC names the program itself, unless #line named a template. */
    return strncmp(line, name, strlen(name)) == 0 ? status : tml_wrap(status, "%s", name);
  }
  return tml_wrap(status, "%s", name);
}

tml_status tml_rtc_compile(const tml_api *api, const char *name, const char *text, const char *arch,
                           tml_build *out)
{
  tml_status status = TML_OK;
  nvrtcProgram program = NULL;
  char arch_option[48];
  int major = 0, minor = 0;
#define TML_X(option) option,
  const char *options[] = {OPTIONS_MAP(TML_X) arch_option};
#undef TML_X
  memset(out, 0, sizeof *out);
  if (!api->has_nvrtc) return tml_fail(TML_MISS, "cannot compile %s: %s", name, api->why_nvrtc);
  snprintf(arch_option, sizeof arch_option, "-arch=%s", arch);
  TRY(NV(api, nvrtcVersion, (&major, &minor)));
  snprintf(out->compiler, sizeof out->compiler, "nvrtc %d.%d", major, minor);
  TRY(NV(api, nvrtcCreateProgram, (&program, text, name, 0, NULL, NULL)));

  double start = now_ms();
  nvrtcResult result =
      api->nvrtc.p_nvrtcCompileProgram(program, sizeof options / sizeof *options, options);
  out->compile_ms = now_ms() - start;
  TRY_GOTO(read_log(api, program, &out->log), fail);
  if (result != NVRTC_SUCCESS) {
    status = compile_failed(api, result, name, out->log);
    goto fail;
  }
  TRY_GOTO(read_cubin(api, program, out), fail);
  rtc_parse_log(out->log, out);
fail:
  api->nvrtc.p_nvrtcDestroyProgram(&program);
  if (status != TML_OK) {
    free(out->cubin);
    out->cubin = NULL;
    out->cubin_bytes = 0;
    if (status != TML_COMPILE)
      tml_build_free(out);
    else if (!out->log)
      out->log = calloc(1, 1);
  }
  return status;
}

void tml_build_require(tml_build *build, int registers)
{
  if (build->refused[0] || build->registers == 0 || build->registers >= registers) return;
  snprintf(build->refused, sizeof build->refused, "%d registers a thread, %d are needed",
           build->registers, registers);
}

void tml_build_free(tml_build *build)
{
  if (!build) return;
  free(build->cubin);
  free(build->log);
  memset(build, 0, sizeof *build);
}
