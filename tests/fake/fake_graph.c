/* Capture, graphs and copies of the fake driver. */
#include "machine.h"

static CUresult fake_cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode)
{
  BEGIN(NEED_CONTEXT);
  fake_stream *stream = fake_stream_of(handle);
  if (!stream) END(CUDA_ERROR_INVALID_HANDLE);
  if (!handle || stream->capture) END(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  fake_graph *graph = fake_object_new(OBJ_GRAPH, stream->object.device, sizeof *graph);
  graph->origin = stream;
  graph->mode = mode;
  graph->joined[stream->index] = 1;
  stream->capture = graph;
  fake_m.captures += mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
  fake_thread_capturing(mode == CU_STREAM_CAPTURE_MODE_RELAXED ? 0 : 1);
  END(CUDA_SUCCESS);
}

/* Every stream that joined must have been waited for by the origin up to its last operation. */
static int all_joined(const fake_graph *graph)
{
  int origin = graph->origin->index;
  for (int i = 0; i < FAKE_STREAMS; i++)
    if (graph->joined[i] && graph->clock[origin][i] < graph->clock[i][i]) return 0;
  return 1;
}

static CUresult fake_cuStreamEndCapture(CUstream handle, CUgraph *out)
{
  BEGIN(NEED_CONTEXT);
  fake_stream *stream = fake_stream_of(handle);
  fake_graph *graph = stream ? stream->capture : NULL;
  *out = NULL;
  if (!graph || graph->origin != stream) END(CUDA_ERROR_ILLEGAL_STATE);
  int joined = all_joined(graph);
  for (int i = 0; i < FAKE_STREAMS; i++)
    if (fake_m.streams[i] && fake_m.streams[i]->capture == graph) fake_m.streams[i]->capture = NULL;
  /* The events of this capture stay captured until they are recorded again, as on the device. */
  fake_m.captures -= graph->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
  fake_thread_capturing(graph->mode == CU_STREAM_CAPTURE_MODE_RELAXED ? 0 : -1);
  if (!joined) {
    fake_object_kill(graph);
    END(CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
  }
  *out = (CUgraph)(void *)graph;
  END(CUDA_SUCCESS);
}

static fake_work *copy_of(const fake_work *work)
{
  fake_work *copy = fake_work_new(work->op.kind);
  *copy = *work;
  copy->next = NULL;
  for (int i = 0; i < work->op.launch.params; i++) {
    copy->op.launch.param[i] = malloc(work->op.launch.size[i]);
    if (!copy->op.launch.param[i]) abort();
    memcpy(copy->op.launch.param[i], work->op.launch.param[i], work->op.launch.size[i]);
  }
  return copy;
}

static CUresult fake_cuGraphInstantiate(CUgraphExec *out, CUgraph handle, unsigned long long flags)
{
  BEGIN(NEED_CONTEXT);
  fake_graph *graph = fake_object_find(OBJ_GRAPH, handle);
  if (!graph || flags) END(CUDA_ERROR_INVALID_VALUE);
  fake_graph *exec = fake_object_new(OBJ_EXEC, graph->object.device, sizeof *exec);
  for (const fake_work *work = graph->head; work; work = work->next) {
    fake_work *copy = copy_of(work);
    if (exec->tail)
      exec->tail->next = copy;
    else
      exec->head = copy;
    exec->tail = copy;
  }
  exec->ops = graph->ops;
  *out = (CUgraphExec)(void *)exec;
  END(CUDA_SUCCESS);
}

/* The recorded order is one of the legal ones: it is replayed in the launch's stream. Events of the
 * capture are only dependencies: they are neither recorded nor waited for. */
static CUresult fake_cuGraphLaunch(CUgraphExec handle, CUstream stream_handle)
{
  BEGIN(NEED_CONTEXT);
  fake_graph *exec = fake_object_find(OBJ_EXEC, handle);
  fake_stream *stream = fake_stream_of(stream_handle);
  if (!exec || !stream) END(CUDA_ERROR_INVALID_HANDLE);
  if (stream->capture) END(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  fake_work *launch = fake_work_new(FAKE_GRAPH);
  launch->op.object = exec;
  fake_enqueue(stream, launch);
  for (const fake_work *work = exec->head; work; work = work->next) {
    if (work->op.kind == FAKE_RECORD || work->op.kind == FAKE_WAIT) continue;
    fake_work *copy = copy_of(work);
    copy->op.captured = 0;
    copy->op.replayed = 1;
    fake_enqueue(stream, copy);
  }
  END(CUDA_SUCCESS);
}

static CUresult fake_cuGraphUpload(CUgraphExec handle, CUstream stream)
{
  BEGIN(NEED_CONTEXT);
  if (!fake_object_find(OBJ_EXEC, handle) || !fake_stream_of(stream))
    END(CUDA_ERROR_INVALID_HANDLE);
  END(CUDA_SUCCESS);
}

static CUresult fake_cuGraphDestroy(CUgraph handle)
{
  BEGIN_RELEASE(NEED_NOTHING);
  fake_graph *graph = fake_object_find(OBJ_GRAPH, handle);
  if (!graph) END_RELEASE(CUDA_ERROR_INVALID_VALUE);
  fake_object_kill(graph);
  END_RELEASE(CUDA_SUCCESS);
}

static CUresult fake_cuGraphExecDestroy(CUgraphExec handle)
{
  BEGIN_RELEASE(NEED_NOTHING);
  fake_graph *exec = fake_object_find(OBJ_EXEC, handle);
  if (!exec) END_RELEASE(CUDA_ERROR_INVALID_VALUE);
  fake_object_kill(exec);
  END_RELEASE(CUDA_SUCCESS);
}

/* ---- Copies ---- */

static CUresult enqueue_copy(fake_kind kind, CUdeviceptr dst, CUdeviceptr src, unsigned char value,
                             size_t bytes, CUstream handle)
{
  fake_stream *stream = fake_stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (bytes && (!dst || (kind == FAKE_COPY && !src))) return CUDA_ERROR_INVALID_VALUE;
  fake_work *work = fake_work_new(kind);
  work->op.dst = dst;
  work->op.src = src;
  work->op.bytes = bytes;
  work->op.rows = 1;
  work->value = value;
  return fake_enqueue(stream, work);
}

static CUresult fake_cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream)
{
  BEGIN(NEED_CONTEXT);
  END(enqueue_copy(FAKE_COPY, dst, src, 0, bytes, stream));
}

static CUresult fake_cuMemcpyDtoDAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes,
                                       CUstream stream)
{
  BEGIN(NEED_CONTEXT);
  END(enqueue_copy(FAKE_COPY, dst, src, 0, bytes, stream));
}

static CUresult fake_cuMemcpy2DAsync(const CUDA_MEMCPY2D *copy, CUstream handle)
{
  BEGIN(NEED_CONTEXT);
  fake_stream *stream = fake_stream_of(handle);
  if (!stream) END(CUDA_ERROR_INVALID_HANDLE);
  if (copy->srcMemoryType != CU_MEMORYTYPE_UNIFIED ||
      copy->dstMemoryType != CU_MEMORYTYPE_UNIFIED || copy->srcXInBytes || copy->srcY ||
      copy->dstXInBytes || copy->dstY || !copy->srcDevice || !copy->dstDevice ||
      copy->srcPitch < copy->WidthInBytes || copy->dstPitch < copy->WidthInBytes)
    END(CUDA_ERROR_INVALID_VALUE);
  fake_work *work = fake_work_new(FAKE_COPY);
  work->op.dst = copy->dstDevice;
  work->op.src = copy->srcDevice;
  work->op.bytes = copy->WidthInBytes;
  work->op.rows = copy->Height;
  work->op.dst_pitch = copy->dstPitch;
  work->op.src_pitch = copy->srcPitch;
  END(fake_enqueue(stream, work));
}

static CUresult fake_cuMemcpyHtoDAsync(CUdeviceptr dst, const void *src, size_t bytes,
                                       CUstream stream)
{
  BEGIN(NEED_CONTEXT);
  END(enqueue_copy(FAKE_COPY, dst, (CUdeviceptr)src, 0, bytes, stream));
}

static CUresult fake_cuMemcpyDtoHAsync(void *dst, CUdeviceptr src, size_t bytes, CUstream stream)
{
  BEGIN(NEED_CONTEXT);
  END(enqueue_copy(FAKE_COPY, (CUdeviceptr)dst, src, 0, bytes, stream));
}

static CUresult fake_cuMemsetD8Async(CUdeviceptr dst, unsigned char value, size_t bytes,
                                     CUstream stream)
{
  BEGIN(NEED_CONTEXT);
  END(enqueue_copy(FAKE_MEMSET, dst, 0, value, bytes, stream));
}

static CUresult copy_now(fake_kind kind, CUdeviceptr dst, CUdeviceptr src, unsigned char value,
                         size_t bytes)
{
  CUresult result = enqueue_copy(kind, dst, src, value, bytes, NULL);
  return result == CUDA_SUCCESS ? fake_drain(fake_stream_of(NULL)) : result;
}

static CUresult fake_cuMemcpyHtoD(CUdeviceptr dst, const void *src, size_t bytes)
{
  BEGIN(NEED_CONTEXT | NOT_CAPTURING);
  END(copy_now(FAKE_COPY, dst, (CUdeviceptr)src, 0, bytes));
}

static CUresult fake_cuMemcpyDtoH(void *dst, CUdeviceptr src, size_t bytes)
{
  BEGIN(NEED_CONTEXT | NOT_CAPTURING);
  END(copy_now(FAKE_COPY, (CUdeviceptr)dst, src, 0, bytes));
}

static CUresult fake_cuMemsetD8(CUdeviceptr dst, unsigned char value, size_t bytes)
{
  BEGIN(NEED_CONTEXT | NOT_CAPTURING);
  END(copy_now(FAKE_MEMSET, dst, 0, value, bytes));
}

void fake_fill_graph(tml_cuda *cuda)
{
#define FILL(f) cuda->p_##f = fake_##f
  FILL(cuStreamBeginCapture);
  FILL(cuStreamEndCapture);
  FILL(cuGraphInstantiate);
  FILL(cuGraphLaunch);
  FILL(cuGraphUpload);
  FILL(cuGraphDestroy);
  FILL(cuGraphExecDestroy);
  FILL(cuMemcpyAsync);
  FILL(cuMemcpyDtoDAsync);
  FILL(cuMemcpy2DAsync);
  FILL(cuMemcpyHtoDAsync);
  FILL(cuMemcpyDtoHAsync);
  FILL(cuMemsetD8Async);
  FILL(cuMemcpyHtoD);
  FILL(cuMemcpyDtoH);
  FILL(cuMemsetD8);
#undef FILL
}
