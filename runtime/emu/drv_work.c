/* Operations: when each may start, and what starting it means. Streams, events and graphs all come down to
 * operations that wait for others; the executing half decides when what has started lands. */
#include "driver.h"

/* ---- What is to be done ------------------------------------------------------------------------- */

drv_work *drv_work_new(work_kind kind)
{
  drv_work *work = calloc(1, sizeof *work);
  if (!work) return NULL;
  work->refs = 1;
  work->kind = kind;
  return work;
}

void drv_work_drop(drv_work *work)
{
  if (!work || --work->refs > 0) return;
  if (work->kind == WORK_IN) free(work->host);
  if (work->library) drv_library_drop(work->library);
  free(work->params);
  free(work);
}

/* ---- Operations --------------------------------------------------------------------------------- */

void drv_op_drop(drv_op *op)
{
  if (!op || --op->refs > 0) return;
  if (op->clock) emu_clock_destroy(op->clock);
  drv_work_drop(op->work);
  if (op->coll) drv_coll_drop(op->coll);
  free(op->after);
  free(op);
}

/* `op` comes after `before`. */
static int link_ops(drv_op *before, drv_op *op)
{
  if (!before) return 1;
  if (before->state == OP_DONE) {
    emu_clock_join(op->clock, before->clock);
    return 1;
  }
  drv_op **after = realloc(before->after, (size_t)(before->after_count + 1) * sizeof *after);
  if (!after) return 0;
  before->after = after;
  after[before->after_count++] = op;
  op->blockers++;
  return 1;
}

static void append(drv_op *op)
{
  drv_device *device = &drv.device[op->device];
  if (device->ops_tail && device->ops)
    device->ops_tail->next = op;
  else
    device->ops = op;
  device->ops_tail = op;
}

drv_op *drv_op_new(int device, drv_work *work, drv_op *const *before, int count)
{
  drv_op *op = calloc(1, sizeof *op);
  if (!op) {
    drv_work_drop(work);
    return NULL;
  }
  op->work = work;
  op->device = device;
  op->refs = 2; /* the caller's, and the device's list */
  op->clock = emu_clock_create(drv.emu);
  int linked = op->clock != NULL;
  for (int i = 0; i < count && linked; i++) linked = link_ops(before[i], op);
  const emu_clock *host = drv_self()->clock;
  if (linked && host) emu_clock_join(op->clock, host);
  if (linked) {
    append(op);
    return op;
  }
  /* Taken back: nobody may wait for it. */
  for (int i = 0; i < count; i++)
    if (before[i] && before[i]->after_count && before[i]->after[before[i]->after_count - 1] == op)
      before[i]->after_count--;
  op->refs = 1;
  drv_op_drop(op);
  return NULL;
}

static void unlist(drv_op *op)
{
  drv_device *device = &drv.device[op->device];
  drv_op *previous = NULL;
  for (drv_op *at = device->ops; at; previous = at, at = at->next) {
    if (at != op) continue;
    if (previous)
      previous->next = op->next;
    else
      device->ops = op->next;
    if (device->ops_tail == op) device->ops_tail = previous;
    op->next = NULL;
    return;
  }
}

void drv_op_done(void *pointer)
{
  drv_op *op = pointer;
  if (op->state == OP_DONE) return;
  op->state = OP_DONE;
  op->done_ns = emu_now_ns(drv.emu);
  for (int i = 0; i < op->after_count; i++) {
    emu_clock_join(op->after[i]->clock, op->clock);
    op->after[i]->blockers--;
  }
  free(op->after);
  op->after = NULL;
  op->after_count = 0;
  unlist(op);
  drv_op_drop(op);
}

/* ---- Starting ----------------------------------------------------------------------------------- */

void drv_device_error(int device, CUresult error)
{
  if (drv.device[device].error == CUDA_SUCCESS) drv.device[device].error = error;
  pthread_cond_broadcast(&drv.changed);
}

void drv_stop(int device)
{
  emu_halt(drv.emu, device, 0);
  drv.device[device].stopped = 1;
  pthread_cond_broadcast(&drv.changed);
}

static void launch_done(void *pointer)
{
  drv_op *op = pointer;
  drv_device *device = &drv.device[op->device];
  int device_index = op->device;
  if (device->stop_at == -1) { /* this was the launch to stop after */
    device->stop_at = 0;
    drv_op_done(op);
    drv_stop(device_index);
    return;
  }
  drv_op_done(op);
}

static const char *submit_launch(drv_op *op)
{
  return emu_submit_launch(drv.emu, &op->work->launch, op->clock, launch_done, op);
}

static void delayed_launch(void *pointer)
{
  drv_op *op = pointer;
  const char *why = submit_launch(op);
  if (why) {
    drv_refuse(CUDA_ERROR_LAUNCH_FAILED, "cuLaunchKernelEx", why);
    drv_device_error(op->device, CUDA_ERROR_LAUNCH_FAILED);
  }
}

static void nothing(void *arg) { (void)arg; }

/* 1: the rank stops instead of launching. */
static int stops_before(drv_op *op)
{
  drv_device *device = &drv.device[op->device];
  if (device->stop_at <= 0 || --device->stop_at > 0) return 0;
  if (device->stop_point == TML_EMU_BEFORE) {
    drv_stop(op->device);
    return 1;
  }
  if (device->stop_point == TML_EMU_INSIDE) {
    emu_halt(drv.emu, op->device, device->stop_primitives);
    device->stopped = 1;
    pthread_cond_broadcast(&drv.changed);
    return 0;
  }
  device->stop_at = -1; /* after */
  return 0;
}

static const char *start_launch(drv_op *op)
{
  uint64_t delay = drv.device[op->device].delay[0];
  if (stops_before(op)) return NULL;
  if (delay == 0) return submit_launch(op);
  return emu_submit_work(drv.emu, NULL, 0, delay, op->work->launch.name, nothing, op, op->clock,
                         delayed_launch, op);
}

static void run_set(void *pointer)
{
  const drv_work *work = pointer;
  void *at = emu_pointer(drv.emu, work->dst, work->bytes);
  if (at) memset(at, work->value, work->bytes);
}

/* Pageable host memory, which the machine does not know. */
static void run_in(void *pointer)
{
  const drv_work *work = pointer;
  void *at = emu_pointer(drv.emu, work->dst, work->bytes);
  if (at) memcpy(at, work->host, work->bytes);
}

static void run_out(void *pointer)
{
  const drv_work *work = pointer;
  const void *at = emu_pointer(drv.emu, work->src, work->bytes);
  if (at) memcpy(work->host, at, work->bytes);
}

static const char *submit_ranges(drv_op *op, const char *what, void (*run)(void *))
{
  const drv_work *work = op->work;
  int write = work->kind != WORK_OUT;
  emu_range range = {.at = write ? work->dst : work->src, .bytes = work->bytes, .write = write};
  return emu_submit_work(drv.emu, &range, 1, drv.device[op->device].delay[1], what, run, op->work,
                         op->clock, drv_op_done, op);
}

/* NULL, or why it cannot be. */
static const char *start(drv_op *op)
{
  const drv_work *work = op->work;
  op->state = OP_RUNNING;
  switch (work->kind) {
  case WORK_LAUNCH: return start_launch(op);
  case WORK_COPY:
    return emu_submit_copy_2d(drv.emu, work->dst, work->dst_pitch, work->src, work->src_pitch,
                              work->bytes, work->rows, drv.device[op->device].delay[1],
                              "cuMemcpyAsync", op->clock, drv_op_done, op);
  case WORK_SET: return submit_ranges(op, "cuMemsetD8Async", run_set);
  case WORK_IN: return submit_ranges(op, "cuMemcpyHtoDAsync", run_in);
  case WORK_OUT: return submit_ranges(op, "cuMemcpyDtoHAsync", run_out);
  case WORK_NCCL: drv_coll_here(op); return NULL;
  case WORK_NONE:
  case WORK_RECORD: break;
  }
  drv_op_done(op);
  return NULL;
}

static int startable(const drv_device *device, const drv_op *op)
{
  return op->state == OP_WAITING && op->blockers == 0 && !device->stopped &&
         device->error == CUDA_SUCCESS;
}

int drv_pump(void)
{
  int done = 0, moved = 1;
  while (moved) {
    moved = 0;
    for (int d = 0; d < drv.config.devices; d++) {
      drv_device *device = &drv.device[d];
      for (drv_op *op = device->ops, *next; op; op = next) {
        next = op->next;
        if (!startable(device, op)) continue;
        work_kind kind = op->work->kind;
        const char *why = start(op);
        if (why) {
          drv_refuse(CUDA_ERROR_ILLEGAL_ADDRESS, "a stream's operation", why);
          drv_device_error(d, CUDA_ERROR_ILLEGAL_ADDRESS);
          done = 1;
        }
        if (kind == WORK_NONE || kind == WORK_RECORD || kind == WORK_NCCL) moved = done = 1;
      }
    }
  }
  return done;
}

/* ---- Waiting for it ----------------------------------------------------------------------------- */

static int dead(int device)
{
  return drv.device[device].stopped || drv.device[device].error != CUDA_SUCCESS;
}

static int op_over(void *pointer)
{
  const drv_op *op = pointer;
  return op->state == OP_DONE || dead(op->device);
}

CUresult drv_wait_op(drv_op *op, double patience_s)
{
  int device = op->device;
  if (!drv_wait(op_over, op, patience_s)) return CUDA_ERROR_NOT_READY;
  if (op->state == OP_DONE) {
    if (drv_self()->clock) emu_clock_join(drv_self()->clock, op->clock);
    return CUDA_SUCCESS;
  }
  return drv.device[device].stopped ? CUDA_ERROR_DEVICE_UNAVAILABLE : drv.device[device].error;
}

static int device_idle(void *pointer)
{
  const drv_device *device = pointer;
  return !device->ops || device->stopped || device->error != CUDA_SUCCESS;
}

CUresult drv_drain(int device)
{
  if (!drv_wait(device_idle, &drv.device[device], 1.0)) return CUDA_ERROR_LAUNCH_TIMEOUT;
  return drv.device[device].error;
}
