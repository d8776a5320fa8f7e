/* The machine: opening, counting, failing, objects, devices and contexts. */
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <unistd.h>

#include "machine.h"

fake_machine fake_m = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static _Thread_local struct {
  int device_plus_1; /* of the current context; 0: none */
  int captures;
  long calls, fail_at;
  CUresult fail_error;
} self;

int fake_current_device(void) { return self.device_plus_1 - 1; }

void fake_set_current_device(int device) { self.device_plus_1 = device + 1; }

void fake_reset_thread_calls(void)
{
  self.calls = 0;
  self.fail_at = 0;
}

int fake_thread_capturing(int change) { return self.captures += change; }

/* ---- Calls ---- */

static CUresult injected_error(const char *function)
{
  CUresult error = CUDA_SUCCESS;
  fake_m.calls++;
  self.calls++;
  if (fake_m.fail_at > 0 && --fake_m.fail_at == 0) error = fake_m.fail_error;
  if (self.fail_at > 0 && --self.fail_at == 0) error = self.fail_error;
  if (strcmp(fake_m.fail_function, function) == 0) error = fake_m.fail_function_error;
  if (error != CUDA_SUCCESS) snprintf(fake_m.failed, sizeof fake_m.failed, "%s", function);
  return error;
}

/* Calls by function name: a small open table, filled as names appear. */
static struct {
  const char *name;
  long calls;
} counted[256];

static void count_call(const char *function)
{
  for (size_t i = 0; i < sizeof counted / sizeof counted[0]; i++) {
    if (!counted[i].name) counted[i].name = function;
    if (strcmp(counted[i].name, function) == 0) {
      counted[i].calls++;
      return;
    }
  }
}

long fake_calls_of(const char *function)
{
  long calls = 0;
  pthread_mutex_lock(&fake_m.lock);
  for (size_t i = 0; i < sizeof counted / sizeof counted[0] && counted[i].name; i++)
    if (strcmp(counted[i].name, function) == 0) calls = counted[i].calls;
  pthread_mutex_unlock(&fake_m.lock);
  return calls;
}

CUresult fake_begin(const char *function, unsigned needs)
{
  pthread_mutex_lock(&fake_m.lock);
  count_call(function);
  CUresult error = injected_error(function);
  if (error != CUDA_SUCCESS) return error;
  if ((needs & NEED_CONTEXT) && fake_current_device() < 0) return CUDA_ERROR_INVALID_CONTEXT;
  if ((needs & NOT_CAPTURING) && (fake_m.captures > 0 || self.captures > 0))
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return CUDA_SUCCESS;
}

CUresult fake_end(CUresult result)
{
  pthread_mutex_unlock(&fake_m.lock);
  return result;
}

int fake_begin_other(const char *function)
{
  pthread_mutex_lock(&fake_m.lock);
  count_call(function);
  return injected_error(function) != CUDA_SUCCESS;
}

int fake_end_other(int result) { return (int)fake_end((CUresult)result); }

void fake_fail_call(long k, CUresult error)
{
  pthread_mutex_lock(&fake_m.lock);
  fake_m.fail_at = k;
  fake_m.fail_error = error;
  fake_m.failed[0] = '\0';
  pthread_mutex_unlock(&fake_m.lock);
}

void fake_fail_thread_call(long k, CUresult error)
{
  self.fail_at = k;
  self.fail_error = error;
}

void fake_fail_function(const char *function, CUresult error)
{
  pthread_mutex_lock(&fake_m.lock);
  snprintf(fake_m.fail_function, sizeof fake_m.fail_function, "%s", function ? function : "");
  fake_m.fail_function_error = error;
  fake_m.failed[0] = '\0';
  pthread_mutex_unlock(&fake_m.lock);
}

const char *fake_failed(void) { return fake_m.failed; }

long fake_calls(void)
{
  pthread_mutex_lock(&fake_m.lock);
  long calls = fake_m.calls;
  pthread_mutex_unlock(&fake_m.lock);
  return calls;
}

long fake_thread_calls(void) { return self.calls; }

/* ---- Objects ---- */

void *fake_object_new(fake_object_kind kind, int device, size_t size)
{
  fake_object *object = calloc(1, size);
  if (!object) abort();
  object->kind = kind;
  object->device = device;
  object->next = fake_m.live;
  fake_m.live = object;
  return object;
}

void *fake_object_find(fake_object_kind kind, const void *pointer)
{
  for (fake_object *object = fake_m.live; object; object = object->next)
    if (object == pointer && object->kind == kind) return object;
  return NULL;
}

void fake_object_kill(void *pointer)
{
  for (fake_object **link = &fake_m.live; *link; link = &(*link)->next)
    if (*link == pointer) {
      *link = (*link)->next;
      ((fake_object *)pointer)->next = fake_m.dead;
      fake_m.dead = pointer;
      return;
    }
}

static const char *object_text(fake_object_kind kind)
{
  static const char *const text[] = {
#define FAKE_X(id, words) words,
      FAKE_OBJECT_MAP(FAKE_X)
#undef FAKE_X
  };
  return text[kind];
}

/* Descriptors of exported memory that are still open in this process, beyond those of the handles.
 */
static int open_exports(void)
{
  int count = 0;
  DIR *dir = opendir("/proc/self/fd");
  for (struct dirent *entry; dir && (entry = readdir(dir));) {
    char path[300], target[64];
    snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
    ssize_t bytes = readlink(path, target, sizeof target - 1);
    if (bytes <= 0) continue;
    target[bytes] = '\0';
    count += strncmp(target, "/memfd:fake-gpu", 15) == 0;
  }
  if (dir) closedir(dir);
  for (fake_object *object = fake_m.live; object; object = object->next)
    count -= object->kind == OBJ_HANDLE;
  return count;
}

int fake_check_clean(void)
{
  int count = 0;
  pthread_mutex_lock(&fake_m.lock);
  for (fake_object *object = fake_m.live; object; object = object->next, count++)
    fprintf(stderr, "fake: leaked %s of device %d (%zu bytes)\n", object_text(object->kind),
            object->device, object->bytes);
  for (int i = 0; i < FAKE_DEVICES; i++)
    if (fake_m.device[i].retained != 0) {
      fprintf(stderr, "fake: primary context %d retained %d times\n", i, fake_m.device[i].retained);
      count++;
    }
  int exports = open_exports();
  if (exports > 0) fprintf(stderr, "fake: %d exported descriptors left open\n", exports);
  count += exports > 0 ? exports : 0;
  pthread_mutex_unlock(&fake_m.lock);
  return count;
}

static void free_objects(fake_object **list)
{
  while (*list) {
    fake_object *object = *list;
    *list = object->next;
    if (object->kind == OBJ_LIBRARY) fake_library_release(object);
    if (object->kind <= OBJ_MAPPING) fake_memory_release(object);
    free(object);
  }
}

/* ---- Checks of rank threads ---- */

int fake_check_at(int ok, const char *text, const char *file, int line)
{
  if (ok) return 1;
  fprintf(stderr, "%s:%d: dev%d: check failed: %s\n", file, line, fake_current_device(), text);
  pthread_mutex_lock(&fake_m.lock);
  fake_m.failures++;
  pthread_mutex_unlock(&fake_m.lock);
  return 0;
}

void fake_print_error(tml_status status)
{
  fprintf(stderr, "  %s: %s\n", tml_status_text(status), tml_last_error());
}

int fake_check_failures(void)
{
  pthread_mutex_lock(&fake_m.lock);
  int failures = fake_m.failures;
  fake_m.failures = 0;
  pthread_mutex_unlock(&fake_m.lock);
  return failures;
}

/* ---- Opening ---- */

static void set_defaults(fake_config *config)
{
  if (config->devices == 0) config->devices = FAKE_DEVICES;
  if (config->devices < 0) config->devices = 0;
  if (!config->name) config->name = "Fake H200";
  if (config->sms == 0) config->sms = 132;
  if (config->cc == 0) config->cc = 90;
  if (config->driver == 0) config->driver = 13000;
  if (config->memory == 0) config->memory = (size_t)4 << 30;
  if (config->registers == 0) config->registers = 168;
  if (config->nccl_wait_ms == 0) config->nccl_wait_ms = 20000;
}

static void fill_nvrtc(tml_api *api, fake_nvrtc source)
{
  if (source == FAKE_NVRTC_FAKE) {
    fake_fill_nvrtc(&api->nvrtc);
    api->has_nvrtc = 1;
  } else if (source == FAKE_NVRTC_REAL) {
    const tml_api *real = tml_api_open();
    api->nvrtc = real->nvrtc;
    api->has_nvrtc = real->has_nvrtc;
    memcpy(api->why_nvrtc, real->why_nvrtc, sizeof api->why_nvrtc);
  } else {
    snprintf(api->why_nvrtc, sizeof api->why_nvrtc, "no NVRTC: install the CUDA toolkit");
  }
}

const tml_api *fake_open(const fake_config *config)
{
  pthread_mutex_lock(&fake_m.lock);
  fake_streams_reset();
  fake_nccl_reset();
  free_objects(&fake_m.live);
  free_objects(&fake_m.dead);
  memset(fake_m.device, 0, sizeof fake_m.device);
  memset(counted, 0, sizeof counted);
  fake_m.config = config ? *config : (fake_config){0};
  set_defaults(&fake_m.config);
  fake_m.captures = fake_m.failures = 0;
  fake_m.calls = fake_m.fail_at = 0;
  fake_m.fail_function[0] = fake_m.failed[0] = '\0';
  fake_m.now_ms = 0;
  for (int i = 0; i < FAKE_DEVICES; i++) {
    fake_stream *stream = &fake_m.device[i].stream;
    stream->object.device = stream->index = i;
    fake_m.streams[i] = stream;
  }
  memset(&self, 0, sizeof self);

  tml_api *api = &fake_m.api;
  memset(api, 0, sizeof *api);
  fake_fill_device(&api->cuda);
  fake_fill_memory(&api->cuda);
  fake_fill_stream(&api->cuda);
  fake_fill_graph(&api->cuda);
  fake_fill_launch(&api->cuda);
  fake_fill_nccl(&api->nccl);
  fake_fill_lt(&api->lt);
  api->has_cuda = !fake_m.config.no_cuda;
  api->has_nccl = !fake_m.config.no_nccl;
  api->has_lt = !fake_m.config.no_lt;
  if (!api->has_cuda)
    snprintf(api->why_cuda, sizeof api->why_cuda, "no driver: install the NVIDIA driver");
  if (!api->has_nccl) snprintf(api->why_nccl, sizeof api->why_nccl, "no NCCL: install libnccl2");
  if (!api->has_lt) snprintf(api->why_lt, sizeof api->why_lt, "no cuBLASLt: install libcublas");
  pthread_mutex_unlock(&fake_m.lock);
  fill_nvrtc(api, fake_m.config.nvrtc);
  return api;
}

tml_api *fake_table(void) { return &fake_m.api; }
