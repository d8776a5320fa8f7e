/* The machine: opening, calls, objects, faults on request. */
#include <errno.h>
#include <stdarg.h>

#include "../status.h"
#include "driver.h"

drv_machine drv = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* ---- Calls -------------------------------------------------------------------------------------- */

static drv_device *counted(int device) { return device < 0 ? &drv.nowhere : &drv.device[device]; }

static CUresult injected_error(const char *function)
{
  drv_device *device = counted(drv_current());
  drv.calls++;
  if (device->fail_at == 0 || --device->fail_at > 0) return CUDA_SUCCESS;
  snprintf(drv.failed, sizeof drv.failed, "%s", function);
  return device->fail_error;
}

/* A stopped rank and a broken context fail every call but those that look up or release. */
static CUresult lasting_error(unsigned needs)
{
  int device = drv_current();
  if (device < 0 || !(needs & NEED_CONTEXT)) return CUDA_SUCCESS;
  if (drv.device[device].stopped) return CUDA_ERROR_DEVICE_UNAVAILABLE;
  return drv.device[device].error;
}

CUresult drv_begin(const char *function, unsigned needs)
{
  pthread_mutex_lock(&drv.lock);
  CUresult error = injected_error(function);
  if (error == CUDA_SUCCESS) error = lasting_error(needs);
  if (error != CUDA_SUCCESS) return error;
  if ((needs & NEED_CONTEXT) && drv_current() < 0) return CUDA_ERROR_INVALID_CONTEXT;
  if ((needs & NOT_CAPTURING) && (drv.captures > 0 || drv_self()->captures > 0))
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return CUDA_SUCCESS;
}

CUresult drv_end(CUresult result)
{
  pthread_mutex_unlock(&drv.lock);
  return result;
}

int drv_begin_other(const char *function)
{
  pthread_mutex_lock(&drv.lock);
  if (injected_error(function) != CUDA_SUCCESS) return 1;
  int device = drv_current();
  return device >= 0 && drv.device[device].stopped;
}

int drv_end_other(int result) { return (int)drv_end((CUresult)result); }

CUresult drv_refuse(CUresult result, const char *function, const char *why)
{
  snprintf(drv.refused, sizeof drv.refused, "%s: %s", function, why);
  return result;
}

/* ---- Objects ------------------------------------------------------------------------------------ */

void *drv_object_new(drv_kind kind, int device, size_t size)
{
  drv_object *object = calloc(1, size);
  if (!object) return NULL;
  object->kind = kind;
  object->device = device;
  object->next = drv.alive;
  drv.alive = object;
  return object;
}

void *drv_object_find(drv_kind kind, const void *pointer)
{
  for (drv_object *object = drv.alive; object; object = object->next)
    if (object == pointer && object->kind == kind) return object;
  return NULL;
}

void drv_object_kill(void *pointer)
{
  for (drv_object **link = &drv.alive; *link; link = &(*link)->next) {
    if (*link != pointer) continue;
    *link = (*link)->next;
    free(pointer);
    return;
  }
}

static const char *kind_text(drv_kind kind)
{
  static const char *const texts[] = {
#define DRV_X(id, text) text,
      DRV_OBJECT_MAP(DRV_X)
#undef DRV_X
  };
  return texts[kind];
}

int tml_emu_alive(FILE *out)
{
  int count = 0;
  pthread_mutex_lock(&drv.lock);
  for (const drv_object *object = drv.alive; object; object = object->next, count++)
    if (out) fprintf(out, "emulator: %s of device %d\n", kind_text(object->kind), object->device);
  for (int d = 0; d < EMU_MAX_DEVICES; d++) {
    if (drv.device[d].retained == 0) continue;
    if (out)
      fprintf(out, "emulator: context of device %d, retained %d times\n", d,
              drv.device[d].retained);
    count++;
  }
  pthread_mutex_unlock(&drv.lock);
  return count;
}

static void free_object(drv_object *object)
{
  switch (object->kind) {
  case DRV_ALLOC:
  case DRV_HOST:
  case DRV_HANDLE:
  case DRV_RANGE:
  case DRV_MAPPING: drv_memory_release((drv_memory *)object); break;
  case DRV_STREAM: {
    drv_stream *stream = (drv_stream *)object;
    drv_op_drop(stream->tail);
    drv_op_drop(stream->data);
    break;
  }
  case DRV_EVENT: drv_op_drop(((drv_event *)object)->op); break;
  case DRV_GRAPH:
  case DRV_EXEC: drv_graph_clear((drv_graph *)object); break;
  case DRV_PROGRAM: drv_program_free(object); break;
  case DRV_LIBRARY:
  case DRV_COMM:
  case DRV_KINDS: break;
  }
}

/* ---- Opening ------------------------------------------------------------------------------------ */

static void set_defaults(tml_emu_config *config)
{
  const char *cc = getenv("TIDEMILL_CC");
  if (config->devices == 0) config->devices = EMU_MAX_DEVICES;
  if (config->sms == 0) config->sms = 4;
  if (config->resident == 0) config->resident = config->sms;
  if (config->seed == 0) config->seed = 1;
  if (config->memory == 0) config->memory = (size_t)1 << 30;
  if (config->host_s == 0) config->host_s = 20;
  if (!config->cc) config->cc = cc && *cc ? cc : "cc";
}

static void drop_ops(drv_device *device)
{
  while (device->ops) {
    drv_op *op = device->ops;
    device->ops = op->next;
    drv_op_drop(op);
  }
  drv_op_drop(device->stream.tail);
  drv_op_drop(device->stream.data);
}

/* With the lock held. Objects first: they refer to the executing half. */
static void close_machine(void)
{
  if (!drv.emu) return;
  for (int d = 0; d < EMU_MAX_DEVICES; d++) drop_ops(&drv.device[d]);
  /* Memory last: mappings keep what they map. */
  for (int pass = 0; pass < 3; pass++) {
    drv_object **link = &drv.alive;
    while (*link) {
      drv_object *object = *link;
      int when = object->kind == DRV_RANGE || object->kind == DRV_HANDLE ? 2
                 : object->kind <= DRV_MAPPING                           ? 1
                                                                         : 0;
      if (when != pass) {
        link = &object->next;
        continue;
      }
      *link = object->next;
      free_object(object);
      if (object->kind == DRV_LIBRARY)
        drv_library_drop((drv_library *)object);
      else
        free(object);
    }
  }
  drv_nccl_reset();
  drv_threads_reset();
  emu_machine_destroy(drv.emu);
  drv_library_forget();
  drv.emu = NULL;
}

void tml_emu_close(void)
{
  pthread_mutex_lock(&drv.lock);
  close_machine();
  drv_compile_forget();
  pthread_mutex_unlock(&drv.lock);
}

static void fill_table(tml_api *api)
{
  memset(api, 0, sizeof *api);
  drv_fill_device(&api->cuda);
  drv_fill_memory(&api->cuda);
  drv_fill_copy(&api->cuda);
  drv_fill_stream(&api->cuda);
  drv_fill_graph(&api->cuda);
  drv_fill_launch(&api->cuda);
  drv_fill_nccl(&api->nccl);
  drv_fill_nvrtc(&api->nvrtc);
  api->has_cuda = api->has_nvrtc = api->has_nccl = 1;
  snprintf(api->why_lt, sizeof api->why_lt, "the emulator has no cuBLASLt");
  api->isa = "emu";
}

static tml_status open_machine(const tml_emu_config *given)
{
  close_machine();
  drv.config = given ? *given : (tml_emu_config){0};
  set_defaults(&drv.config);
  const tml_emu_config *c = &drv.config;
  if (c->devices < 1 || c->devices > EMU_MAX_DEVICES || c->sms < 1 || c->resident < 1 ||
      c->resident > c->sms || c->sms > 32)
    return tml_fail(TML_ARGUMENT,
                    "the emulator has 1 to %d devices of 1 to 32 multiprocessors, of which 1 "
                    "or more are resident",
                    EMU_MAX_DEVICES);
  emu_config config = {.devices = c->devices,
                       .resident = c->resident,
                       .seed = c->seed,
                       .switch_every = c->switch_every,
                       .late_ns = c->late_ns,
                       .no_hazards = c->no_hazards};
  drv.emu = emu_machine_create(&config);
  if (!drv.emu) return tml_fail(TML_MEMORY, "no memory for an emulated machine");
  drv.number++;
  memset(drv.device, 0, sizeof drv.device);
  memset(&drv.nowhere, 0, sizeof drv.nowhere);
  drv.calls = drv.captures = 0;
  drv.failed[0] = drv.refused[0] = drv.stuck[0] = '\0';
  drv.mistake = TML_EMU_SOUND;
  for (int d = 0; d < EMU_MAX_DEVICES; d++) drv.device[d].stream.object.device = d;
  fill_table(&drv.api);
  return TML_OK;
}

tml_status tml_emu_open(const tml_emu_config *config)
{
  pthread_mutex_lock(&drv.lock);
  tml_status status = open_machine(config);
  pthread_mutex_unlock(&drv.lock);
  return status;
}

const tml_api *tml_emu_api(void)
{
  static const tml_api none = {.why_cuda = "no memory for an emulated machine", .isa = "emu"};
  pthread_mutex_lock(&drv.lock);
  tml_status status = drv.emu ? TML_OK : open_machine(NULL);
  pthread_mutex_unlock(&drv.lock);
  return status == TML_OK ? &drv.api : &none;
}

emu_machine *tml_emu_machine(void) { return drv.emu; }
const char *tml_emu_refused(void) { return drv.refused; }
const char *tml_emu_stuck(void) { return drv.stuck; }
const char *tml_emu_failed(void) { return drv.failed; }

/* ---- Faults on request -------------------------------------------------------------------------- */

static int is_device(int device) { return device >= 0 && device < EMU_MAX_DEVICES; }

void tml_emu_fail(int device, long k, CUresult error)
{
  if (device != -1 && !is_device(device)) return;
  pthread_mutex_lock(&drv.lock);
  counted(device)->fail_at = k;
  counted(device)->fail_error = error;
  drv.failed[0] = '\0';
  pthread_mutex_unlock(&drv.lock);
}

void tml_emu_stop(int device, tml_emu_point point, long launch, uint64_t primitives)
{
  if (!is_device(device)) return;
  pthread_mutex_lock(&drv.lock);
  drv.device[device].stop_at = launch;
  drv.device[device].stop_point = point;
  drv.device[device].stop_primitives = primitives;
  pthread_mutex_unlock(&drv.lock);
}

void tml_emu_delay(int device, int what, uint64_t ns)
{
  if (!is_device(device) || what < 0 || what > 1) return;
  pthread_mutex_lock(&drv.lock);
  drv.device[device].delay[what] = ns;
  pthread_mutex_unlock(&drv.lock);
}

void tml_emu_mistake_set(tml_emu_mistake mistake)
{
  pthread_mutex_lock(&drv.lock);
  drv.mistake = mistake;
  pthread_mutex_unlock(&drv.lock);
}

void tml_emu_edit(tml_emu_edit_fn fn, void *user)
{
  pthread_mutex_lock(&drv.lock);
  drv.edit = fn;
  drv.edit_user = user;
  pthread_mutex_unlock(&drv.lock);
}
