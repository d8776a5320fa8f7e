/* Capture and graphs: nodes with their predecessors, replayed as operations with the same order. */
#include "driver.h"

void drv_graph_clear(drv_graph *graph)
{
  for (int i = 0; i < graph->count; i++) {
    drv_work_drop(graph->nodes[i].work);
    free(graph->nodes[i].before);
  }
  free(graph->nodes);
  graph->nodes = NULL;
  graph->count = 0;
}

static CUresult drv_cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode)
{
  BEGIN(NEED_CONTEXT);
  drv_stream *stream = drv_stream_of(handle);
  if (!stream) END(CUDA_ERROR_INVALID_HANDLE);
  if (!handle || stream->capture) END(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  drv_graph *graph = drv_object_new(DRV_GRAPH, stream->object.device, sizeof *graph);
  if (!graph) END(CUDA_ERROR_OUT_OF_MEMORY);
  graph->origin = stream;
  stream->capture = graph;
  stream->at = -1;
  /* Modes matter for what other threads may call; the strict ones forbid it to this thread alone here. */
  drv_self()->captures += mode != CU_STREAM_CAPTURE_MODE_RELAXED;
  END(CUDA_SUCCESS);
}

/* Marks a node and all before it. Nodes come after their predecessors, so one pass is enough. */
static void mark_before(const drv_graph *graph, int from, char *marked)
{
  if (from >= 0) marked[from] = 1;
  for (int i = from; i >= 0; i--)
    for (int b = 0; marked[i] && b < graph->nodes[i].before_count; b++)
      marked[graph->nodes[i].before[b]] = 1;
}

/* Events of a capture that has ended stay captured until they are recorded again, as on a device. */
static void end_events(const drv_graph *graph)
{
  static drv_stream nobody;
  static drv_graph ended = {.origin = &nobody};
  for (drv_object *object = drv.alive; object; object = object->next) {
    drv_event *event = (drv_event *)object;
    if (object->kind == DRV_EVENT && event->capture == graph) event->capture = &ended;
  }
}

/* 1 if every stream that joined has been waited for by the origin; all leave the capture. */
static int leave_capture(drv_graph *graph, char *marked)
{
  int joined = 1;
  mark_before(graph, graph->origin->at, marked);
  for (drv_object *object = drv.alive; object; object = object->next) {
    drv_stream *stream = (drv_stream *)object;
    if (object->kind != DRV_STREAM || stream->capture != graph) continue;
    if (stream->at >= 0 && !marked[stream->at]) joined = 0;
    stream->capture = NULL;
  }
  end_events(graph);
  return joined;
}

static CUresult drv_cuStreamEndCapture(CUstream handle, CUgraph *out)
{
  BEGIN_RELEASE(NEED_CONTEXT);
  drv_stream *stream = drv_stream_of(handle);
  drv_graph *graph = stream ? stream->capture : NULL;
  *out = NULL;
  if (!graph || graph->origin != stream) END_RELEASE(CUDA_ERROR_ILLEGAL_STATE);
  char *marked = calloc((size_t)graph->count + 1, 1);
  int joined = marked && leave_capture(graph, marked);
  free(marked);
  if (drv_self()->captures > 0) drv_self()->captures--;
  if (joined && injected == CUDA_SUCCESS) {
    *out = (CUgraph)(void *)graph;
    END_RELEASE(CUDA_SUCCESS);
  }
  drv_graph_clear(graph);
  drv_object_kill(graph);
  END_RELEASE(CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
}

static int copy_nodes(drv_graph *to, const drv_graph *from)
{
  to->nodes = calloc((size_t)from->count + 1, sizeof *to->nodes);
  if (!to->nodes) return 0;
  for (int i = 0; i < from->count; i++) {
    const drv_node *node = &from->nodes[i];
    size_t bytes = (size_t)node->before_count * sizeof *node->before;
    to->nodes[i] = *node;
    to->nodes[i].before = malloc(bytes + 1);
    if (!to->nodes[i].before) return 0;
    memcpy(to->nodes[i].before, node->before, bytes);
    node->work->refs++;
    to->count++;
  }
  return 1;
}

static CUresult drv_cuGraphInstantiate(CUgraphExec *out, CUgraph handle, unsigned long long flags)
{
  BEGIN(NEED_CONTEXT);
  const drv_graph *graph = drv_object_find(DRV_GRAPH, handle);
  if (!graph) END(CUDA_ERROR_INVALID_VALUE);
  if (flags) REFUSE(CUDA_ERROR_INVALID_VALUE, "flags");
  drv_graph *exec = drv_object_new(DRV_EXEC, graph->object.device, sizeof *exec);
  if (!exec || !copy_nodes(exec, graph)) {
    if (exec) drv_graph_clear(exec);
    if (exec) drv_object_kill(exec);
    END(CUDA_ERROR_OUT_OF_MEMORY);
  }
  *out = (CUgraphExec)(void *)exec;
  END(CUDA_SUCCESS);
}

/* Node i as an operation: after its predecessors, or after what the stream held. */
static drv_op *start_node(const drv_graph *exec, int i, drv_op **ops, drv_op *root, drv_op **before)
{
  const drv_node *node = &exec->nodes[i];
  int count = 0;
  for (int b = 0; b < node->before_count; b++) before[count++] = ops[node->before[b]];
  if (count == 0) before[count++] = root;
  node->work->refs++;
  drv_op *op = drv_op_new(node->device, node->work, before, count);
  if (op && node->work->kind == WORK_NCCL) drv_coll_enter(op);
  return op;
}

static CUresult replay(const drv_graph *exec, drv_stream *stream, drv_op **ops, drv_op **before)
{
  int made = 0;
  for (; made < exec->count; made++) {
    ops[made] = start_node(exec, made, ops, stream->tail, before);
    if (!ops[made]) break;
  }
  /* The end of the graph: what comes next in the stream waits for all of it. */
  drv_op *last = NULL;
  drv_work *work = made == exec->count ? drv_work_new(WORK_NONE) : NULL;
  if (work) last = drv_op_new(stream->object.device, work, ops, made);
  for (int i = 0; i < made; i++) drv_op_drop(ops[i]);
  if (!last) return CUDA_ERROR_OUT_OF_MEMORY;
  drv_op_drop(stream->tail);
  stream->tail = last;
  return CUDA_SUCCESS;
}

static CUresult drv_cuGraphLaunch(CUgraphExec handle, CUstream stream_handle)
{
  BEGIN(NEED_CONTEXT);
  const drv_graph *exec = drv_object_find(DRV_EXEC, handle);
  drv_stream *stream = drv_stream_of(stream_handle);
  if (!exec || !stream) END(CUDA_ERROR_INVALID_HANDLE);
  if (stream->capture) REFUSE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "graphs inside graphs");
  if (exec->count == 0) END(CUDA_SUCCESS);
  drv_op **ops = calloc(2 * (size_t)exec->count + 1, sizeof(drv_op *));
  if (!ops) END(CUDA_ERROR_OUT_OF_MEMORY);
  CUresult result = replay(exec, stream, ops, ops + exec->count);
  free(ops);
  END(result);
}

static CUresult drv_cuGraphUpload(CUgraphExec handle, CUstream stream)
{
  BEGIN(NEED_CONTEXT);
  END(drv_object_find(DRV_EXEC, handle) && drv_stream_of(stream) ? CUDA_SUCCESS
                                                                 : CUDA_ERROR_INVALID_HANDLE);
}

static CUresult destroy(drv_kind kind, const void *handle)
{
  drv_graph *graph = drv_object_find(kind, handle);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  drv_graph_clear(graph);
  drv_object_kill(graph);
  return CUDA_SUCCESS;
}

static CUresult drv_cuGraphDestroy(CUgraph handle)
{
  BEGIN_RELEASE(NEED_NOTHING);
  END_RELEASE(destroy(DRV_GRAPH, handle));
}

static CUresult drv_cuGraphExecDestroy(CUgraphExec handle)
{
  BEGIN_RELEASE(NEED_NOTHING);
  END_RELEASE(destroy(DRV_EXEC, handle));
}

void drv_fill_graph(tml_cuda *cuda)
{
#define FILL(f) cuda->p_##f = drv_##f
  FILL(cuStreamBeginCapture);
  FILL(cuStreamEndCapture);
  FILL(cuGraphInstantiate);
  FILL(cuGraphLaunch);
  FILL(cuGraphUpload);
  FILL(cuGraphDestroy);
  FILL(cuGraphExecDestroy);
#undef FILL
}
