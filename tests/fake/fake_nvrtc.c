/* A compiler that accepts everything. Its cubin is the text itself behind a line with the length.
 */
#include "machine.h"

typedef struct fake_program {
  fake_object object;
  char *cubin;
  size_t bytes;
} fake_program;

static const char compiled_log[] =
    "ptxas info    : Compiling entry function\n"
    "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    "ptxas info    : Used 168 registers, used 9 barriers\n";

static nvrtcResult fake_nvrtcVersion(int *major, int *minor)
{
  *major = 13;
  *minor = 0;
  return NVRTC_SUCCESS;
}

static const char *fake_nvrtcGetErrorString(nvrtcResult result)
{
  return result == NVRTC_SUCCESS ? "NVRTC_SUCCESS" : "fake NVRTC error";
}

static nvrtcResult fake_nvrtcCreateProgram(nvrtcProgram *out, const char *text, const char *name,
                                           int count, const char *const *headers,
                                           const char *const *names)
{
  (void)name, (void)count, (void)headers, (void)names;
  size_t bytes = strlen(text) + 32;
  pthread_mutex_lock(&fake_m.lock);
  fake_program *program = fake_object_new(OBJ_PROGRAM, -1, sizeof *program);
  program->cubin = calloc(1, bytes);
  if (!program->cubin) abort();
  snprintf(program->cubin, bytes, "FAKECUBIN%zu\n%s", bytes, text);
  program->bytes = bytes;
  *out = (nvrtcProgram)(void *)program;
  pthread_mutex_unlock(&fake_m.lock);
  return NVRTC_SUCCESS;
}

static nvrtcResult fake_nvrtcDestroyProgram(nvrtcProgram *handle)
{
  pthread_mutex_lock(&fake_m.lock);
  fake_program *program = fake_object_find(OBJ_PROGRAM, *handle);
  if (program) {
    free(program->cubin);
    fake_object_kill(program);
  }
  *handle = NULL;
  pthread_mutex_unlock(&fake_m.lock);
  return program ? NVRTC_SUCCESS : NVRTC_ERROR_INVALID_PROGRAM;
}

static nvrtcResult fake_nvrtcCompileProgram(nvrtcProgram program, int count,
                                            const char *const *options)
{
  (void)count, (void)options;
  return program ? NVRTC_SUCCESS : NVRTC_ERROR_INVALID_PROGRAM;
}

static nvrtcResult fake_nvrtcGetCUBINSize(nvrtcProgram program, size_t *bytes)
{
  *bytes = ((const fake_program *)(const void *)program)->bytes;
  return NVRTC_SUCCESS;
}

static nvrtcResult fake_nvrtcGetCUBIN(nvrtcProgram handle, char *cubin)
{
  const fake_program *program = (const fake_program *)(const void *)handle;
  memcpy(cubin, program->cubin, program->bytes);
  return NVRTC_SUCCESS;
}

static nvrtcResult fake_nvrtcGetProgramLogSize(nvrtcProgram program, size_t *bytes)
{
  (void)program;
  *bytes = sizeof compiled_log;
  return NVRTC_SUCCESS;
}

static nvrtcResult fake_nvrtcGetProgramLog(nvrtcProgram program, char *log)
{
  (void)program;
  memcpy(log, compiled_log, sizeof compiled_log);
  return NVRTC_SUCCESS;
}

void fake_fill_nvrtc(tml_nvrtc *nvrtc)
{
#define FILL(f) nvrtc->p_##f = fake_##f;
  TML_NVRTC_MAP(FILL)
#undef FILL
}
