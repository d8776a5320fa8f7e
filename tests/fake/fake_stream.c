/* Streams and events of the fake driver, and the queue engine: what a stream holds runs in its
 * order; all runs at once unless a collective or an event at the head must wait. */

#include "machine.h"

#define LAUNCH_MS 0.01 /* what a launch or matmul advances the clock by */

/* ---- Work ---- */

fake_work *fake_work_new(fake_kind kind)
{
  fake_work *work = calloc(1, sizeof *work);
  if (!work) abort();
  work->op.kind = kind;
  return work;
}

void fake_work_free(fake_work *work)
{
  for (int i = 0; i < work->op.launch.params; i++) free(work->op.launch.param[i]);
  free(work);
}

void fake_work_clear(fake_work **head, fake_work **tail)
{
  while (*head) {
    fake_work *work = *head;
    *head = work->next;
    fake_work_free(work);
  }
  *tail = NULL;
}

static void append(fake_work **head, fake_work **tail, fake_work *work)
{
  work->next = NULL;
  if (*tail)
    (*tail)->next = work;
  else
    *head = work;
  *tail = work;
}

static void clock_max(unsigned *into, const unsigned *other)
{
  for (int i = 0; i < FAKE_STREAMS; i++)
    if (other[i] > into[i]) into[i] = other[i];
}

/* ---- Capture ---- */

static void join_capture(fake_stream *stream, fake_graph *graph)
{
  stream->capture = graph;
  graph->joined[stream->index] = 1;
  memset(graph->clock[stream->index], 0, sizeof graph->clock[0]);
}

/* A wait never crosses the border of a capture, except that a free stream joins it. */
static CUresult wait_allowed(fake_stream *stream, const fake_event *event)
{
  fake_graph *graph = event->capture;
  if (graph && graph->origin->capture != graph) return CUDA_ERROR_CAPTURED_EVENT;
  if (stream->capture && !graph && event->recorded) return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  if (stream->capture && graph && stream->capture != graph) return CUDA_ERROR_STREAM_CAPTURE_MERGE;
  if (graph && !stream->capture) join_capture(stream, graph);
  return CUDA_SUCCESS;
}

static CUresult capture_work(fake_stream *stream, fake_work *work)
{
  fake_graph *graph = stream->capture;
  unsigned *clock = graph->clock[stream->index];
  if (work->op.kind == FAKE_WAIT) clock_max(clock, work->event->clock);
  clock[stream->index]++;
  memcpy(work->op.clock, clock, sizeof work->op.clock);
  if (work->op.kind == FAKE_RECORD) {
    memcpy(work->event->clock, clock, sizeof work->event->clock);
    work->event->capture = graph;
  }
  work->op.captured = 1;
  append(&graph->head, &graph->tail, work);
  graph->ops++;
  return CUDA_SUCCESS;
}

/* ---- Entering a stream ---- */

CUresult fake_enqueue(fake_stream *stream, fake_work *work)
{
  work->op.device = stream->object.device;
  work->op.stream = stream->index;
  if (work->op.kind == FAKE_WAIT) {
    CUresult result = wait_allowed(stream, work->event);
    if (result != CUDA_SUCCESS) {
      fake_work_free(work);
      return result;
    }
  }
  if (stream->capture) return capture_work(stream, work);

  fake_event *event = work->event;
  if (work->op.kind == FAKE_WAIT) {
    work->generation = event->recorded;
    clock_max(stream->clock, event->clock);
  }
  stream->clock[stream->index]++;
  if (work->op.kind == FAKE_RECORD) {
    work->generation = ++event->recorded;
    memcpy(event->clock, stream->clock, sizeof event->clock);
    event->capture = NULL;
  }
  if (!work->op.replayed) memcpy(work->op.clock, stream->clock, sizeof work->op.clock);
  if (work->op.kind == FAKE_NCCL) fake_coll_enter(work);
  append(&stream->head, &stream->tail, work);
  fake_pump();
  return CUDA_SUCCESS;
}

/* ---- Running ---- */

static void run(fake_work *work)
{
  fake_op *op = &work->op;
  switch (op->kind) {
  case FAKE_COPY:
    for (size_t r = 0; r < op->rows; r++)
      memmove((void *)(op->dst + r * op->dst_pitch), (const void *)(op->src + r * op->src_pitch),
              op->bytes);
    fake_m.now_ms += 0.001;
    break;
  case FAKE_MEMSET: memset((void *)op->dst, work->value, op->bytes); break;
  case FAKE_RECORD:
    work->event->done = work->generation;
    work->event->ms = fake_m.now_ms;
    break;
  case FAKE_LAUNCH: fake_m.now_ms += LAUNCH_MS; break;
  case FAKE_MATMUL:
    fake_m.now_ms += LAUNCH_MS;
    fake_matmul_run(&work->matmul);
    break;
  default: break;
  }
}

static int ready(fake_work *work)
{
  if (work->op.kind == FAKE_WAIT) return work->op.replayed || work->event->done >= work->generation;
  if (work->op.kind == FAKE_NCCL) return fake_coll_step(work);
  return 1;
}

void fake_pump(void)
{
  int moved = 1;
  while (moved) {
    moved = 0;
    for (int i = 0; i < FAKE_STREAMS; i++) {
      fake_stream *stream = fake_m.streams[i];
      while (stream && stream->head && ready(stream->head)) {
        fake_work *work = stream->head;
        stream->head = work->next;
        if (!stream->head) stream->tail = NULL;
        run(work);
        append(&fake_m.log_head, &fake_m.log_tail, work);
        fake_m.log_count++;
        moved = 1;
      }
    }
    if (moved) pthread_cond_broadcast(&fake_m.changed);
  }
}

void fake_deadline(struct timespec *out)
{
  clock_gettime(CLOCK_REALTIME, out);
  out->tv_sec += fake_m.config.nccl_wait_ms / 1000;
  out->tv_nsec += fake_m.config.nccl_wait_ms % 1000 * 1000000L;
  if (out->tv_nsec >= 1000000000L) {
    out->tv_nsec -= 1000000000L;
    out->tv_sec++;
  }
}

int fake_wait_change(const struct timespec *deadline)
{
  return pthread_cond_timedwait(&fake_m.changed, &fake_m.lock, deadline) == 0;
}

CUresult fake_drain(fake_stream *stream)
{
  struct timespec deadline;
  if (!stream->head) return CUDA_SUCCESS;
  fake_deadline(&deadline);
  while (stream->head) {
    if (fake_wait_change(&deadline)) continue;
    fprintf(stderr, "fake: stream %d waited too long for other ranks\n", stream->index);
    return CUDA_ERROR_LAUNCH_TIMEOUT;
  }
  return CUDA_SUCCESS;
}

CUresult fake_drain_device(int device)
{
  CUresult result = CUDA_SUCCESS;
  for (int i = 0; i < FAKE_STREAMS && result == CUDA_SUCCESS; i++)
    if (fake_m.streams[i] && fake_m.streams[i]->object.device == device)
      result = fake_drain(fake_m.streams[i]);
  return result;
}

void fake_streams_reset(void)
{
  for (int i = 0; i < FAKE_STREAMS; i++) {
    if (fake_m.streams[i]) fake_work_clear(&fake_m.streams[i]->head, &fake_m.streams[i]->tail);
    fake_m.streams[i] = NULL;
  }
  for (int dead = 0; dead < 2; dead++)
    for (fake_object *object = dead ? fake_m.dead : fake_m.live; object; object = object->next)
      if (object->kind == OBJ_GRAPH || object->kind == OBJ_EXEC)
        fake_work_clear(&((fake_graph *)object)->head, &((fake_graph *)object)->tail);
  fake_work_clear(&fake_m.log_head, &fake_m.log_tail);
  fake_m.log_count = 0;
}

/* ---- The table ---- */

fake_stream *fake_stream_of(CUstream handle)
{
  int device = fake_current_device();
  if (!handle) return device < 0 ? NULL : &fake_m.device[device].stream;
  fake_stream *stream = fake_object_find(OBJ_STREAM, handle);
  return stream && stream->object.device == device ? stream : NULL;
}

static fake_event *event_of(CUevent handle) { return fake_object_find(OBJ_EVENT, handle); }

static CUresult fake_cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority)
{
  BEGIN(NEED_CONTEXT);
  int index = FAKE_DEVICES;
  while (index < FAKE_STREAMS && fake_m.streams[index]) index++;
  if (flags > 1 || index == FAKE_STREAMS) END(CUDA_ERROR_INVALID_VALUE);
  fake_stream *stream = fake_object_new(OBJ_STREAM, fake_current_device(), sizeof *stream);
  stream->index = index;
  stream->priority = priority;
  fake_m.streams[index] = stream;
  *out = (CUstream)(void *)stream;
  END(CUDA_SUCCESS);
}

static CUresult fake_cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
  BEGIN(NEED_CONTEXT);
  *least = 0;
  *greatest = -5;
  END(CUDA_SUCCESS);
}

static CUresult fake_cuStreamDestroy(CUstream handle)
{
  BEGIN_RELEASE(NEED_NOTHING);
  fake_stream *stream = fake_object_find(OBJ_STREAM, handle);
  if (!stream) END_RELEASE(CUDA_ERROR_INVALID_HANDLE);
  fake_work_clear(&stream->head, &stream->tail);
  fake_m.streams[stream->index] = NULL;
  fake_object_kill(stream);
  END_RELEASE(CUDA_SUCCESS);
}

static CUresult fake_cuStreamSynchronize(CUstream handle)
{
  BEGIN(NEED_CONTEXT);
  fake_stream *stream = fake_stream_of(handle);
  if (!stream) END(CUDA_ERROR_INVALID_HANDLE);
  if (stream->capture) END(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  END(fake_drain(stream));
}

static CUresult fake_cuStreamQuery(CUstream handle)
{
  BEGIN(NEED_CONTEXT);
  fake_stream *stream = fake_stream_of(handle);
  if (!stream) END(CUDA_ERROR_INVALID_HANDLE);
  if (stream->capture) END(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  END(stream->head ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS);
}

static CUresult fake_cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status)
{
  BEGIN(NEED_CONTEXT);
  fake_stream *stream = fake_stream_of(handle);
  if (!stream) END(CUDA_ERROR_INVALID_HANDLE);
  *status = stream->capture ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
  END(CUDA_SUCCESS);
}

static CUresult fake_cuEventCreate(CUevent *out, unsigned flags)
{
  BEGIN(NEED_CONTEXT);
  fake_event *event = fake_object_new(OBJ_EVENT, fake_current_device(), sizeof *event);
  event->timed = !(flags & CU_EVENT_DISABLE_TIMING);
  *out = (CUevent)(void *)event;
  END(CUDA_SUCCESS);
}

static CUresult fake_cuEventDestroy(CUevent handle)
{
  BEGIN_RELEASE(NEED_NOTHING);
  fake_event *event = event_of(handle);
  if (!event) END_RELEASE(CUDA_ERROR_INVALID_HANDLE);
  fake_object_kill(event);
  END_RELEASE(CUDA_SUCCESS);
}

static CUresult event_work(fake_kind kind, CUevent event_handle, CUstream stream_handle)
{
  fake_event *event = event_of(event_handle);
  fake_stream *stream = fake_stream_of(stream_handle);
  if (!event || !stream) return CUDA_ERROR_INVALID_HANDLE;
  if (kind == FAKE_RECORD && event->object.device != stream->object.device)
    return CUDA_ERROR_INVALID_HANDLE;
  fake_work *work = fake_work_new(kind);
  work->event = event;
  work->op.object = event;
  return fake_enqueue(stream, work);
}

static CUresult fake_cuEventRecord(CUevent event, CUstream stream)
{
  BEGIN(NEED_CONTEXT);
  END(event_work(FAKE_RECORD, event, stream));
}

static CUresult fake_cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags)
{
  BEGIN(NEED_CONTEXT);
  if (flags) END(CUDA_ERROR_INVALID_VALUE);
  END(event_work(FAKE_WAIT, event, stream));
}

static CUresult fake_cuEventQuery(CUevent handle)
{
  BEGIN(NEED_NOTHING);
  fake_event *event = event_of(handle);
  if (!event) END(CUDA_ERROR_INVALID_HANDLE);
  if (event->capture) END(CUDA_ERROR_CAPTURED_EVENT);
  END(event->done >= event->recorded ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY);
}

static CUresult fake_cuEventSynchronize(CUevent handle)
{
  BEGIN(NEED_NOTHING);
  struct timespec deadline;
  fake_event *event = event_of(handle);
  if (!event) END(CUDA_ERROR_INVALID_HANDLE);
  if (event->capture) END(CUDA_ERROR_CAPTURED_EVENT);
  fake_deadline(&deadline);
  while (event->done < event->recorded)
    if (!fake_wait_change(&deadline)) END(CUDA_ERROR_LAUNCH_TIMEOUT);
  END(CUDA_SUCCESS);
}

static CUresult fake_cuEventElapsedTime(float *ms, CUevent start_handle, CUevent end_handle)
{
  BEGIN(NEED_NOTHING);
  const fake_event *start = event_of(start_handle), *end = event_of(end_handle);
  if (!start || !end || !start->recorded || !end->recorded || !start->timed || !end->timed)
    END(CUDA_ERROR_INVALID_HANDLE);
  if (start->done < start->recorded || end->done < end->recorded) END(CUDA_ERROR_NOT_READY);
  *ms = (float)(end->ms - start->ms);
  END(CUDA_SUCCESS);
}

void fake_fill_stream(tml_cuda *cuda)
{
#define FILL(f) cuda->p_##f = fake_##f
  FILL(cuStreamCreateWithPriority);
  FILL(cuCtxGetStreamPriorityRange);
  FILL(cuStreamDestroy);
  FILL(cuStreamSynchronize);
  FILL(cuStreamQuery);
  FILL(cuStreamWaitEvent);
  FILL(cuStreamIsCapturing);
  FILL(cuEventCreate);
  FILL(cuEventDestroy);
  FILL(cuEventRecord);
  FILL(cuEventQuery);
  FILL(cuEventSynchronize);
  FILL(cuEventElapsedTime);
#undef FILL
}
