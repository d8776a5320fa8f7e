/* NVRTC of the emulator's table: "compiling" runs the host's C compiler on the expanded text; the shared
 * object is the cubin. What was compiled once in this process is not compiled again. */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "driver.h"

#define LOG_MOST 65536

extern char **environ;

typedef struct drv_program {
  drv_object object;
  char *text, *name, *log;
  unsigned char *code;
  size_t code_bytes;
} drv_program;

typedef struct drv_compiled {
  struct drv_compiled *next;
  XXH128_hash_t hash;  /* of the text */
  unsigned char *code; /* NULL: under way */
  size_t bytes;
} drv_compiled;

static drv_compiled *compiled; /* under the machine's lock */

void drv_compile_forget(void)
{
  while (compiled) {
    drv_compiled *entry = compiled;
    compiled = entry->next;
    free(entry->code);
    free(entry);
  }
}

void drv_program_free(drv_object *object)
{
  drv_program *program = (drv_program *)object;
  free(program->text);
  free(program->name);
  free(program->log);
  free(program->code);
}

/* ---- The compiler ------------------------------------------------------------------------------- */

/* Everything of one compilation, as long as it is under way: a private folder with the text, the messages
 * and the object. */
typedef struct job {
  struct job *next;
  const char *cc;
  char folder[512], source[544], object[544], log[544];
} job;

static job *jobs;
static pthread_mutex_t jobs_lock = PTHREAD_MUTEX_INITIALIZER;

static unsigned char *read_file(const char *path, size_t most, size_t *bytes)
{
  struct stat info;
  unsigned char *data = NULL;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  *bytes = 0;
  if (fd < 0) return NULL;
  if (fstat(fd, &info) == 0) {
    size_t size = (size_t)info.st_size < most ? (size_t)info.st_size : most;
    data = malloc(size + 1);
    while (data && *bytes < size) {
      ssize_t got = read(fd, data + *bytes, size - *bytes);
      if (got <= 0) break;
      *bytes += (size_t)got;
    }
    if (data) data[*bytes] = 0;
  }
  close(fd);
  return data;
}

static int write_file(const char *path, const char *text)
{
  FILE *file = fopen(path, "w");
  if (!file) return 0;
  int written = fputs(text, file) >= 0;
  return fclose(file) == 0 && written;
}

static int make_folder(job *j)
{
  const char *tmp = getenv("TMPDIR");
  snprintf(j->folder, sizeof j->folder, "%.400s/tidemill-XXXXXX", tmp && *tmp ? tmp : "/tmp");
  if (!mkdtemp(j->folder)) return 0; /* only this user can enter it */
  snprintf(j->source, sizeof j->source, "%s/kernel.c", j->folder);
  snprintf(j->object, sizeof j->object, "%s/kernel.so", j->folder);
  snprintf(j->log, sizeof j->log, "%s/log", j->folder);
  j->next = jobs;
  jobs = j;
  return 1;
}

static int open_job(job *j, const char *text)
{
  pthread_mutex_lock(&jobs_lock);
  int made = make_folder(j);
  pthread_mutex_unlock(&jobs_lock);
  return made && write_file(j->source, text);
}

static void remove_folder(const job *j)
{
  unlink(j->source);
  unlink(j->object);
  unlink(j->log);
  rmdir(j->folder);
}

static void close_job(job *j)
{
  job **link = &jobs;
  pthread_mutex_lock(&jobs_lock);
  while (*link && *link != j) link = &(*link)->next;
  if (*link) {
    *link = j->next;
    remove_folder(j);
  }
  pthread_mutex_unlock(&jobs_lock);
}

/* The lock stays taken: nobody begins or ends a compilation any more. */
void tml_emu_tidy(void)
{
  pthread_mutex_lock(&jobs_lock);
  for (const job *j = jobs; j; j = j->next) remove_folder(j);
}

/* 0, or an error number; *status as waitpid gives it. */
static int run_compiler(const job *j, int *status)
{
  posix_spawn_file_actions_t actions;
  pid_t child;
  const char *arguments[] = {j->cc,
                             "-std=gnu11",
                             "-O1",
                             "-shared",
                             "-fPIC",
                             "-fvisibility=hidden",
                             "-fno-strict-aliasing",
                             "-w",
                             "-o",
                             j->object,
                             j->source,
                             NULL};
  int error = posix_spawn_file_actions_init(&actions);
  if (error) return error;
  posix_spawn_file_actions_addopen(&actions, 1, j->log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  error = posix_spawnp(&child, j->cc, &actions, NULL, (char *const *)(void *)arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error) return error;
  while (waitpid(child, status, 0) < 0)
    if (errno != EINTR) return errno;
  return 0;
}

static char *message(const char *format, const char *a, const char *b)
{
  char text[512];
  snprintf(text, sizeof text, format, a, b);
  return strdup(text);
}

/* The object's bytes, or NULL and a log. Without the lock: it takes a second. */
static unsigned char *compile(const char *cc, const char *text, size_t *bytes, char **log)
{
  job j = {.cc = cc};
  size_t log_bytes;
  int status = 0;
  unsigned char *code = NULL;
  *log = NULL;
  if (!open_job(&j, text)) {
    *log =
        message("error: no private folder for the compiler: %s%s; set TMPDIR", strerror(errno), "");
    close_job(&j);
    return NULL;
  }
  int error = run_compiler(&j, &status);
  if (error == 0) *log = (char *)read_file(j.log, LOG_MOST, &log_bytes);
  if (error == 0 && status == 0) code = read_file(j.object, (size_t)1 << 30, bytes);
  if (error || (WIFEXITED(status) && WEXITSTATUS(status) == 127 && (!*log || !**log))) {
    free(*log);
    *log = message(
        "error: the emulator needs a C compiler and cannot run \"%s\" (%s): install gcc or clang, "
        "or set TIDEMILL_CC",
        cc, strerror(error ? error : ENOENT));
  }
  close_job(&j);
  return code;
}

/* ---- The table ---------------------------------------------------------------------------------- */

static nvrtcResult end(nvrtcResult result) { return (nvrtcResult)drv_end_other((int)result); }

static nvrtcResult drv_nvrtcVersion(int *major, int *minor)
{
  if (drv_begin_other("nvrtcVersion")) return end(NVRTC_ERROR_INTERNAL_ERROR);
  *major = 0; /* as TML_EMU_COMPILER */
  *minor = 1;
  return end(NVRTC_SUCCESS);
}

static const char *drv_nvrtcGetErrorString(nvrtcResult result)
{
  return result == NVRTC_SUCCESS               ? "no error"
         : result == NVRTC_ERROR_OUT_OF_MEMORY ? "out of memory"
         : result == NVRTC_ERROR_COMPILATION   ? "the C compiler refused the text"
                                               : "emulated NVRTC error";
}

static drv_program *program_of(nvrtcProgram handle) { return drv_object_find(DRV_PROGRAM, handle); }

static nvrtcResult drv_nvrtcCreateProgram(nvrtcProgram *out, const char *text, const char *name,
                                          int count, const char *const *headers,
                                          const char *const *names)
{
  if (drv_begin_other("nvrtcCreateProgram")) return end(NVRTC_ERROR_INTERNAL_ERROR);
  (void)headers, (void)names;
  if (count) {
    drv_refuse(CUDA_ERROR_INVALID_VALUE, "nvrtcCreateProgram", "headers");
    return end(NVRTC_ERROR_INVALID_INPUT);
  }
  drv_program *program = drv_object_new(DRV_PROGRAM, drv_current(), sizeof *program);
  if (!program) return end(NVRTC_ERROR_OUT_OF_MEMORY);
  program->text = drv.edit ? drv.edit(drv.edit_user, name ? name : "", text) : NULL;
  if (!program->text) program->text = strdup(text);
  program->name = strdup(name ? name : "");
  if (!program->text || !program->name) {
    drv_program_free(&program->object);
    drv_object_kill(program);
    return end(NVRTC_ERROR_OUT_OF_MEMORY);
  }
  *out = (nvrtcProgram)(void *)program;
  return end(NVRTC_SUCCESS);
}

static nvrtcResult drv_nvrtcDestroyProgram(nvrtcProgram *handle)
{
  int fail = drv_begin_other("nvrtcDestroyProgram");
  drv_program *program = program_of(*handle);
  if (!program) return end(NVRTC_ERROR_INVALID_PROGRAM);
  drv_program_free(&program->object);
  drv_object_kill(program);
  *handle = NULL;
  return end(fail ? NVRTC_ERROR_INTERNAL_ERROR : NVRTC_SUCCESS);
}

static drv_compiled *find_compiled(XXH128_hash_t hash)
{
  drv_compiled *entry = compiled;
  while (entry && !XXH128_isEqual(entry->hash, hash)) entry = entry->next;
  return entry;
}

static drv_compiled *begin_compiled(XXH128_hash_t hash)
{
  drv_compiled *entry = calloc(1, sizeof *entry);
  if (!entry) return NULL;
  *entry = (drv_compiled){.next = compiled, .hash = hash};
  compiled = entry;
  return entry;
}

static void drop_compiled(drv_compiled *entry)
{
  for (drv_compiled **link = &compiled; *link; link = &(*link)->next) {
    if (*link != entry) continue;
    *link = entry->next;
    free(entry);
    return;
  }
}

static int take_compiled(drv_program *program, const drv_compiled *entry)
{
  program->code = malloc(entry->bytes);
  program->code_bytes = program->code ? entry->bytes : 0;
  if (program->code) memcpy(program->code, entry->code, entry->bytes);
  return program->code != NULL;
}

/* With the lock held; gives it away while the compiler runs. The program belongs to one thread. Ranks
 * that want the same text at the same time wait for the first of them. */
static void compile_program(drv_program *program)
{
  XXH128_hash_t hash = XXH3_128bits(program->text, strlen(program->text));
  drv_compiled *entry = find_compiled(hash);
  while (entry && !entry->code) {
    pthread_cond_wait(&drv.changed, &drv.lock);
    entry = find_compiled(hash);
  }
  if (entry) {
    take_compiled(program, entry);
    return;
  }
  const char *cc = drv.config.cc;
  entry = begin_compiled(hash);
  pthread_mutex_unlock(&drv.lock);
  size_t bytes = 0;
  unsigned char *code = compile(cc, program->text, &bytes, &program->log);
  pthread_mutex_lock(&drv.lock);
  if (code && entry) {
    entry->code = code;
    entry->bytes = bytes;
    take_compiled(program, entry);
  } else {
    program->code = code;
    program->code_bytes = bytes;
    if (entry) drop_compiled(entry);
  }
  pthread_cond_broadcast(&drv.changed);
}

static nvrtcResult drv_nvrtcCompileProgram(nvrtcProgram handle, int count,
                                           const char *const *options)
{
  if (drv_begin_other("nvrtcCompileProgram")) return end(NVRTC_ERROR_INTERNAL_ERROR);
  (void)count, (void)options; /* they are for another machine */
  drv_program *program = program_of(handle);
  if (!program) return end(NVRTC_ERROR_INVALID_PROGRAM);
  free(program->log);
  free(program->code);
  program->log = NULL;
  program->code = NULL;
  compile_program(program);
  return end(program->code ? NVRTC_SUCCESS : NVRTC_ERROR_COMPILATION);
}

static nvrtcResult drv_nvrtcGetCUBINSize(nvrtcProgram handle, size_t *bytes)
{
  if (drv_begin_other("nvrtcGetCUBINSize")) return end(NVRTC_ERROR_INTERNAL_ERROR);
  const drv_program *program = program_of(handle);
  if (!program) return end(NVRTC_ERROR_INVALID_PROGRAM);
  *bytes = program->code_bytes;
  return end(NVRTC_SUCCESS);
}

static nvrtcResult drv_nvrtcGetCUBIN(nvrtcProgram handle, char *cubin)
{
  if (drv_begin_other("nvrtcGetCUBIN")) return end(NVRTC_ERROR_INTERNAL_ERROR);
  const drv_program *program = program_of(handle);
  if (!program || !program->code) return end(NVRTC_ERROR_INVALID_PROGRAM);
  memcpy(cubin, program->code, program->code_bytes);
  return end(NVRTC_SUCCESS);
}

static nvrtcResult drv_nvrtcGetProgramLogSize(nvrtcProgram handle, size_t *bytes)
{
  if (drv_begin_other("nvrtcGetProgramLogSize")) return end(NVRTC_ERROR_INTERNAL_ERROR);
  const drv_program *program = program_of(handle);
  if (!program) return end(NVRTC_ERROR_INVALID_PROGRAM);
  *bytes = (program->log ? strlen(program->log) : 0) + 1;
  return end(NVRTC_SUCCESS);
}

static nvrtcResult drv_nvrtcGetProgramLog(nvrtcProgram handle, char *log)
{
  if (drv_begin_other("nvrtcGetProgramLog")) return end(NVRTC_ERROR_INTERNAL_ERROR);
  const drv_program *program = program_of(handle);
  if (!program) return end(NVRTC_ERROR_INVALID_PROGRAM);
  strcpy(log, program->log ? program->log : "");
  return end(NVRTC_SUCCESS);
}

void drv_fill_nvrtc(tml_nvrtc *nvrtc)
{
#define FILL(f) nvrtc->p_##f = drv_##f;
  TML_NVRTC_MAP(FILL)
#undef FILL
}
