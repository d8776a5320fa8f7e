/* Streams and events. */
#include "driver.h"

/* ---- Entering a stream -------------------------------------------------------------------------- */

drv_stream *drv_stream_of(CUstream handle)
{
  int device = drv_current();
  if (!handle) return device < 0 ? NULL : &drv.device[device].stream;
  drv_stream *stream = drv_object_find(DRV_STREAM, handle);
  return stream && stream->object.device == device ? stream : NULL;
}

static CUresult capture(drv_stream *stream, drv_work *work, const int *before, int count)
{
  drv_graph *graph = stream->capture;
  drv_node *nodes = realloc(graph->nodes, (size_t)(graph->count + 1) * sizeof *nodes);
  int *copy = calloc((size_t)count + 1, sizeof *copy);
  if (nodes) graph->nodes = nodes;
  if (!nodes || !copy) {
    free(copy);
    drv_work_drop(work);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  drv_node *node = &nodes[graph->count];
  *node = (drv_node){.work = work, .device = stream->object.device, .before = copy};
  for (int i = 0; i < count; i++)
    if (before[i] >= 0) copy[node->before_count++] = before[i];
  stream->at = graph->count++;
  return CUDA_SUCCESS;
}

/* In its stream, and after `other` as well. */
static CUresult enqueue(drv_stream *stream, drv_work *work, drv_op *other, drv_op **out)
{
  drv_op *before[] = {stream->tail, other};
  if (drv.mistake == TML_EMU_SIGNAL_FIRST && work->kind == WORK_COPY && work->bytes == 8 &&
      stream->data)
    before[0] = NULL;
  drv_op *op = drv_op_new(stream->object.device, work, before, 2);
  if (!op) return CUDA_ERROR_OUT_OF_MEMORY;
  if (work->kind == WORK_COPY && work->bytes != 8) {
    drv_op_drop(stream->data);
    stream->data = op;
    op->refs++;
  }
  if (work->kind == WORK_NCCL) drv_coll_enter(op);
  drv_op_drop(stream->tail);
  stream->tail = op;
  if (out) {
    op->refs++;
    *out = op;
  }
  return CUDA_SUCCESS;
}

CUresult drv_enqueue(drv_stream *stream, drv_work *work, drv_op **out)
{
  if (out) *out = NULL;
  if (!work) return CUDA_ERROR_OUT_OF_MEMORY;
  if (stream->capture) return capture(stream, work, &stream->at, 1);
  return enqueue(stream, work, NULL, out);
}

/* ---- Streams ------------------------------------------------------------------------------------ */

static CUresult drv_cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority)
{
  BEGIN(NEED_CONTEXT);
  (void)priority;
  if (flags > CU_STREAM_NON_BLOCKING) REFUSE(CUDA_ERROR_INVALID_VALUE, "flags");
  drv_stream *stream = drv_object_new(DRV_STREAM, drv_current(), sizeof *stream);
  if (!stream) END(CUDA_ERROR_OUT_OF_MEMORY);
  *out = (CUstream)(void *)stream;
  END(CUDA_SUCCESS);
}

static CUresult drv_cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
  BEGIN(NEED_CONTEXT);
  *least = 0;
  *greatest = -5;
  END(CUDA_SUCCESS);
}

/* What it still holds goes on, as on a device. */
static CUresult drv_cuStreamDestroy(CUstream handle)
{
  BEGIN_RELEASE(NEED_NOTHING);
  drv_stream *stream = drv_object_find(DRV_STREAM, handle);
  if (!stream) END_RELEASE(CUDA_ERROR_INVALID_HANDLE);
  drv_op_drop(stream->tail);
  drv_op_drop(stream->data);
  drv_object_kill(stream);
  END_RELEASE(CUDA_SUCCESS);
}

static CUresult wait_stream(CUstream handle, double patience_s)
{
  drv_stream *stream = drv_stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  drv_op *op = stream->tail;
  if (!op) return CUDA_SUCCESS;
  op->refs++;
  CUresult result = drv_wait_op(op, patience_s);
  drv_op_drop(op);
  return result;
}

static CUresult drv_cuStreamSynchronize(CUstream stream)
{
  BEGIN(NEED_CONTEXT);
  CUresult result = wait_stream(stream, drv.config.host_s);
  END(result == CUDA_ERROR_NOT_READY ? CUDA_ERROR_LAUNCH_TIMEOUT : result);
}

/* Who asks waits: the virtual clock runs only while all host threads do. */
static CUresult drv_cuStreamQuery(CUstream stream)
{
  BEGIN(NEED_CONTEXT);
  END(wait_stream(stream, 0));
}

static CUresult drv_cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status)
{
  BEGIN(NEED_CONTEXT);
  const drv_stream *stream = drv_stream_of(handle);
  if (!stream) END(CUDA_ERROR_INVALID_HANDLE);
  *status = stream->capture ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
  END(CUDA_SUCCESS);
}

static CUresult drv_cuCtxSynchronize(void)
{
  BEGIN(NEED_CONTEXT | NOT_CAPTURING);
  END(drv_drain(drv_current()));
}

/* ---- Events ------------------------------------------------------------------------------------- */

static drv_event *event_of(CUevent handle) { return drv_object_find(DRV_EVENT, handle); }

static CUresult drv_cuEventCreate(CUevent *out, unsigned flags)
{
  BEGIN(NEED_CONTEXT);
  if (flags & ~(unsigned)(CU_EVENT_DISABLE_TIMING | CU_EVENT_BLOCKING_SYNC))
    REFUSE(CUDA_ERROR_INVALID_VALUE, "flags");
  drv_event *event = drv_object_new(DRV_EVENT, drv_current(), sizeof *event);
  if (!event) END(CUDA_ERROR_OUT_OF_MEMORY);
  event->timed = !(flags & CU_EVENT_DISABLE_TIMING);
  *out = (CUevent)(void *)event;
  END(CUDA_SUCCESS);
}

static CUresult drv_cuEventDestroy(CUevent handle)
{
  BEGIN_RELEASE(NEED_NOTHING);
  drv_event *event = event_of(handle);
  if (!event) END_RELEASE(CUDA_ERROR_INVALID_HANDLE);
  drv_op_drop(event->op);
  drv_object_kill(event);
  END_RELEASE(CUDA_SUCCESS);
}

static CUresult drv_cuEventRecord(CUevent event_handle, CUstream stream_handle)
{
  BEGIN(NEED_CONTEXT);
  drv_event *event = event_of(event_handle);
  drv_stream *stream = drv_stream_of(stream_handle);
  drv_op *op = NULL;
  if (!event || !stream || event->object.device != stream->object.device)
    END(CUDA_ERROR_INVALID_HANDLE);
  CUresult result = drv_enqueue(stream, drv_work_new(WORK_RECORD), &op);
  if (result != CUDA_SUCCESS) END(result);
  event->capture = stream->capture;
  event->at = stream->at;
  if (!stream->capture) {
    drv_op_drop(event->op);
    event->op = op;
  }
  END(CUDA_SUCCESS);
}

/* A wait never crosses the border of a capture, except that a free stream joins it. */
static CUresult wait_captured(drv_stream *stream, const drv_event *event)
{
  drv_graph *graph = event->capture;
  if (!graph || (stream->capture && stream->capture != graph))
    return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  if (graph->origin->capture != graph) return CUDA_ERROR_CAPTURED_EVENT;
  if (!stream->capture) {
    stream->capture = graph;
    stream->at = -1;
  }
  int before[] = {stream->at,
                  drv.mistake == TML_EMU_NO_WAIT_EVENT && stream->at >= 0 ? -1 : event->at};
  drv_work *work = drv_work_new(WORK_NONE);
  return work ? capture(stream, work, before, 2) : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult drv_cuStreamWaitEvent(CUstream stream_handle, CUevent event_handle, unsigned flags)
{
  BEGIN(NEED_CONTEXT);
  drv_event *event = event_of(event_handle);
  drv_stream *stream = drv_stream_of(stream_handle);
  if (!event || !stream) END(CUDA_ERROR_INVALID_HANDLE);
  if (flags) REFUSE(CUDA_ERROR_INVALID_VALUE, "flags");
  if (event->capture || stream->capture) END(wait_captured(stream, event));
  if (!event->op || drv.mistake == TML_EMU_NO_WAIT_EVENT) END(CUDA_SUCCESS);
  drv_work *work = drv_work_new(WORK_NONE);
  END(work ? enqueue(stream, work, event->op, NULL) : CUDA_ERROR_OUT_OF_MEMORY);
}

static CUresult wait_event(CUevent handle, double patience_s)
{
  drv_event *event = event_of(handle);
  if (!event) return CUDA_ERROR_INVALID_HANDLE;
  if (event->capture) return CUDA_ERROR_CAPTURED_EVENT;
  drv_op *op = event->op;
  if (!op) return CUDA_SUCCESS;
  op->refs++;
  CUresult result = drv_wait_op(op, patience_s);
  drv_op_drop(op);
  return result;
}

static CUresult drv_cuEventQuery(CUevent event)
{
  BEGIN(NEED_NOTHING);
  END(wait_event(event, 0));
}

static CUresult drv_cuEventSynchronize(CUevent event)
{
  BEGIN(NEED_NOTHING);
  CUresult result = wait_event(event, drv.config.host_s);
  END(result == CUDA_ERROR_NOT_READY ? CUDA_ERROR_LAUNCH_TIMEOUT : result);
}

static CUresult drv_cuEventElapsedTime(float *ms, CUevent start_handle, CUevent end_handle)
{
  BEGIN(NEED_NOTHING);
  const drv_event *start = event_of(start_handle), *end = event_of(end_handle);
  if (!start || !end || !start->op || !end->op || !start->timed || !end->timed)
    END(CUDA_ERROR_INVALID_HANDLE);
  if (start->op->state != OP_DONE || end->op->state != OP_DONE) END(CUDA_ERROR_NOT_READY);
  *ms = (float)((double)(int64_t)(end->op->done_ns - start->op->done_ns) * 1e-6);
  END(CUDA_SUCCESS);
}

void drv_fill_stream(tml_cuda *cuda)
{
#define FILL(f) cuda->p_##f = drv_##f
  FILL(cuStreamCreateWithPriority);
  FILL(cuCtxGetStreamPriorityRange);
  FILL(cuStreamDestroy);
  FILL(cuStreamSynchronize);
  FILL(cuStreamQuery);
  FILL(cuStreamWaitEvent);
  FILL(cuStreamIsCapturing);
  FILL(cuCtxSynchronize);
  FILL(cuEventCreate);
  FILL(cuEventDestroy);
  FILL(cuEventRecord);
  FILL(cuEventQuery);
  FILL(cuEventSynchronize);
  FILL(cuEventElapsedTime);
#undef FILL
}
