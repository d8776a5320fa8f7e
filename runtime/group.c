#include "group.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "status.h"
#include "wait.h"

#define GROUP_NO_COLOR (-1) /* NCCL_SPLIT_NOCOLOR */
#define GROUP_TEXT_BYTES 252

/* In front of every rank's bytes. Every operation moves whole slots, so that ranks which are at
 * different calls find out instead of hanging or reading each other's bytes. */
typedef struct group_header {
  uint64_t call;
  uint32_t bytes;
  char what[52];
} group_header;

typedef struct group_slot {
  group_header header;
  unsigned char data[TML_GROUP_BYTES];
} group_slot;

struct tml_group {
  tml_ctx *ctx;
  ncclComm_t child; /* NULL in a world of one and after an abort */
  int rank, world;
  int dead; /* an operation failed half way: nobody knows who is at which call */
  uint64_t calls;
  group_slot *host;   /* pinned: [0] of this rank, [1 + r] of rank r */
  CUdeviceptr device; /* the same layout */
  CUstream stream;
};

/* ---- The split, on a thread of its own: under a blocking parent it blocks at NCCL's will ---- */

enum { SPLIT_RUNNING, SPLIT_DONE, SPLIT_ABANDONED };

typedef struct group_split {
  const tml_api *api;
  CUcontext context;
  ncclComm_t parent, child;
  int color, key;
  int result;       /* NCCL's; valid once done */
  int unknown;      /* NCCL did not even say how the split stands */
  atomic_int state; /* whoever moves it away from RUNNING second owns the memory */
  struct group_split *next;
} group_split;

/* Splits that NCCL may still write to although nobody waits for them: kept for ever. */
static _Atomic(group_split *) split_lost;

static void split_lose(group_split *split)
{
  split->next = atomic_load(&split_lost);
  while (!atomic_compare_exchange_weak(&split_lost, &split->next, split)) {
  }
}

/* NCCL may write to it still? */
static int split_pending(group_split *split)
{
  if (split->result == TML_NCCL_IN_PROGRESS) return 1;
  return split->result == TML_NCCL_SUCCESS && split->color != GROUP_NO_COLOR &&
         !__atomic_load_n(&split->child, __ATOMIC_ACQUIRE);
}

static void split_end(group_split *split)
{
  if (split->unknown || split_pending(split))
    split_lose(split);
  else
    free(split);
}

static void *split_main(void *user)
{
  group_split *split = user;
  const tml_nccl *nccl = &split->api->nccl;
  tml_nccl_config config = {.size = sizeof config,
                            .magic = TML_NCCL_CONFIG_MAGIC,
                            .version = 21900,
                            .blocking = 0,
                            .cga_cluster_size = TML_NCCL_CONFIG_UNDEF,
                            .min_ctas = TML_NCCL_CONFIG_UNDEF,
                            .max_ctas = TML_NCCL_CONFIG_UNDEF,
                            .net_name = NULL,
                            .split_share = TML_NCCL_CONFIG_UNDEF};
  split->api->cuda.p_cuCtxSetCurrent(split->context);
  split->result = nccl->CommSplit(split->parent, split->color, split->key, &split->child, &config);
  /* A non-blocking parent fills in the child from a thread of its own, and may say success before. */
  unsigned pause = 0;
  while (split_pending(split) && atomic_load(&split->state) == SPLIT_RUNNING) {
    tml_pause(&pause);
    int state = TML_NCCL_SUCCESS;
    int asked = nccl->CommGetAsyncError(split->parent, &state);
    split->unknown = asked != TML_NCCL_SUCCESS;
    split->result = split->unknown ? asked : state;
  }
  int running = SPLIT_RUNNING;
  if (atomic_compare_exchange_strong(&split->state, &running, SPLIT_DONE)) return NULL;
  if (!split_pending(split) && split->child) nccl->CommAbort(split->child);
  split_end(split);
  return NULL;
}

/* Writes "1, 2 and 3": all ranks but this one. */
static const char *group_others(int rank, int world, char *text, size_t bytes)
{
  int left = world - 1;
  size_t used = 0;
  text[0] = '\0';
  for (int r = 0; r < world && used < bytes; ++r) {
    if (r == rank) continue;
    --left;
    int n = snprintf(text + used, bytes - used, "%d%s", r, left > 1 ? ", " : left ? " and " : "");
    if (n > 0) used += (size_t)n;
  }
  return text;
}

static tml_status group_late(const tml_ctx *ctx, int rank, int world, const char *what)
{
  char others[64];
  return tml_fail(
      TML_TIMEOUT,
      "%s: rank %d waited %.1f s for rank%s %s; see that every rank of the group runs and "
      "makes the same calls, or raise timeout_us",
      what, rank, ctx->config.timeout_us * 1e-6, world > 2 ? "s" : "",
      group_others(rank, world, others, sizeof others));
}

/* Waits for the thread until the deadline; past it the thread cleans up after itself. */
static tml_status split_wait(group_split *split, pthread_t thread, uint64_t deadline, int *result,
                             ncclComm_t *child)
{
  unsigned pause = 0;
  while (atomic_load(&split->state) == SPLIT_RUNNING && tml_now_ns() < deadline) tml_pause(&pause);
  int running = SPLIT_RUNNING;
  if (atomic_compare_exchange_strong(&split->state, &running, SPLIT_ABANDONED)) {
    pthread_detach(thread);
    return TML_TIMEOUT;
  }
  pthread_join(thread, NULL);
  *result = split->result;
  *child = split->child;
  split_end(split);
  return TML_OK;
}

/* The child communicator, not yet polled; *child stays NULL for a rank that does not join. */
static tml_status group_split_run(tml_ctx *ctx, ncclComm_t parent, int rank, int world, int join,
                                  uint64_t deadline, ncclComm_t *child)
{
  int result = TML_NCCL_SUCCESS;
  pthread_t thread;
  group_split *split = calloc(1, sizeof *split);
  if (!split) return tml_fail(TML_MEMORY, "no memory to split the communicator");
  split->api = ctx->api;
  split->context = ctx->primary;
  split->parent = parent;
  split->color = join ? 0 : GROUP_NO_COLOR;
  split->key = rank;
  if (pthread_create(&thread, NULL, split_main, split) != 0) {
    free(split);
    return tml_fail(TML_MEMORY, "cannot start a thread to split the communicator");
  }
  if (split_wait(split, thread, deadline, &result, child) != TML_OK)
    return group_late(ctx, rank, world, "ncclCommSplit");
  return tml_nccl_check(ctx->api, result, "ncclCommSplit");
}

/* ---- Waiting -------------------------------------------------------------------------------- */

/* After this the ranks are out of step: no operation may be tried again. */
static tml_status group_abandon(tml_group *group, tml_status status)
{
  group->dead = 1;
  if (group->child) group->ctx->api->nccl.CommAbort(group->child);
  group->child = NULL;
  return status;
}

/* Waits until NCCL has done on the host what it was asked for. */
static tml_status group_settle(tml_group *group, uint64_t deadline, const char *what)
{
  const tml_api *api = group->ctx->api;
  unsigned pause = 0;
  for (;;) {
    int state = TML_NCCL_SUCCESS;
    TRY(NC(api, CommGetAsyncError, (group->child, &state)));
    if (state != TML_NCCL_IN_PROGRESS) return tml_nccl_check(api, state, what);
    if (tml_now_ns() >= deadline) return group_late(group->ctx, group->rank, group->world, what);
    tml_pause(&pause);
  }
}

/* Waits for the group's own stream, with an eye on NCCL: a peer's death may show there first. */
static tml_status group_finish(tml_group *group, uint64_t deadline, const char *what)
{
  const tml_api *api = group->ctx->api;
  unsigned pause = 0;
  for (;;) {
    CUresult result = api->cuda.p_cuStreamQuery(group->stream);
    if (result != CUDA_ERROR_NOT_READY) return tml_cuda_check(api, result, what);
    int state = TML_NCCL_SUCCESS;
    TRY(NC(api, CommGetAsyncError, (group->child, &state)));
    TRY(tml_nccl_check(api, state, what));
    if (tml_now_ns() >= deadline) return group_late(group->ctx, group->rank, group->world, what);
    tml_pause(&pause);
  }
}

tml_status tml_stream_wait(tml_ctx *ctx, CUstream stream, const char *what)
{
  uint64_t deadline = tml_deadline(ctx->config.timeout_us);
  unsigned pause = 0;
  for (;;) {
    CUresult result = ctx->api->cuda.p_cuStreamQuery(stream);
    if (result != CUDA_ERROR_NOT_READY) return tml_cuda_check(ctx->api, result, what);
    if (tml_now_ns() >= deadline)
      return tml_fail(TML_TIMEOUT, "%s: the device did not finish within %.1f s; raise timeout_us",
                      what, ctx->config.timeout_us * 1e-6);
    tml_pause(&pause);
  }
}

/* ---- Create and destroy --------------------------------------------------------------------- */

static tml_status group_place(tml_ctx *ctx, ncclComm_t nccl, int *rank, int *world)
{
  const tml_api *api = ctx->api;
  if (!api->has_nccl)
    return tml_fail(TML_DRIVER, "a communicator was given but NCCL was not found: %s",
                    api->why_nccl);
  TRY(NC(api, CommCount, (nccl, world)));
  TRY(NC(api, CommUserRank, (nccl, rank)));
  if (*world < 1 || *world > TML_MAX_WORLD)
    return tml_fail(TML_ARGUMENT, "the communicator has %d ranks; split it into groups of 1 to %d",
                    *world, TML_MAX_WORLD);
  return TML_OK;
}

static tml_status group_buffers(tml_group *group)
{
  const tml_api *api = group->ctx->api;
  size_t bytes = (size_t)(1 + group->world) * sizeof(group_slot);
  TRY(CU(api, cuMemHostAlloc, ((void **)&group->host, bytes, 0)));
  TRY(CU(api, cuMemAlloc, (&group->device, bytes)));
  return CU(api, cuStreamCreateWithPriority, (&group->stream, CU_STREAM_NON_BLOCKING, 0));
}

/* Collective. A rank that failed so far (`mine`) takes part without joining: the others then see a
 * smaller child at once instead of waiting for the time-out. */
static tml_status group_join(tml_group *group, ncclComm_t nccl, tml_status mine)
{
  tml_ctx *ctx = group->ctx;
  uint64_t deadline = tml_deadline(ctx->config.timeout_us);
  char text[512];
  snprintf(text, sizeof text, "%s", mine == TML_OK ? "" : tml_last_error());
  int count = 0;
  tml_status status = group_split_run(ctx, nccl, group->rank, group->world, mine == TML_OK,
                                      deadline, &group->child);
  if (mine != TML_OK) return tml_fail(mine, "%s", text);
  TRY(status);
  if (!group->child) return tml_fail(TML_DRIVER, "ncclCommSplit gave no communicator");
  TRY(group_settle(group, deadline, "ncclCommSplit"));
  TRY(NC(ctx->api, CommCount, (group->child, &count)));
  if (count != group->world)
    return tml_fail(TML_DRIVER,
                    "only %d of %d ranks could set up their group; the others' errors say why",
                    count, group->world);
  return TML_OK;
}

static tml_status group_open(tml_group *group, ncclComm_t nccl)
{
  CUcontext previous;
  TRY(tml_ctx_enter(group->ctx, &previous));
  tml_status status = group_join(group, nccl, group_buffers(group));
  if (status != TML_OK) group_abandon(group, status);
  tml_ctx_leave(group->ctx, previous);
  return status;
}

tml_status tml_group_create(tml_group **out, tml_ctx *ctx, ncclComm_t nccl)
{
  int rank = 0, world = 1;
  *out = NULL;
  if (nccl) TRY(group_place(ctx, nccl, &rank, &world));
  tml_group *group = calloc(1, sizeof *group);
  if (!group) return tml_fail(TML_MEMORY, "no memory for a group");
  group->ctx = ctx;
  group->rank = rank;
  group->world = world;
  tml_status status = world > 1 ? group_open(group, nccl) : TML_OK;
  if (status != TML_OK) {
    tml_group_destroy(group, 0);
    return status;
  }
  *out = group;
  return TML_OK;
}

void tml_group_destroy(tml_group *group, int healthy)
{
  if (!group) return;
  const tml_api *api = group->ctx->api;
  CUcontext previous;
  int entered = group->world > 1 && tml_ctx_enter(group->ctx, &previous) == TML_OK;
  if (group->child && healthy)
    api->nccl.CommDestroy(group->child);
  else if (group->child)
    api->nccl.CommAbort(group->child);
  if (group->stream) api->cuda.p_cuStreamDestroy(group->stream);
  if (group->device) api->cuda.p_cuMemFree(group->device);
  if (group->host) api->cuda.p_cuMemFreeHost(group->host);
  if (entered) tml_ctx_leave(group->ctx, previous);
  free(group);
}

int tml_group_rank(const tml_group *group) { return group->rank; }
int tml_group_world(const tml_group *group) { return group->world; }
int tml_group_dead(const tml_group *group) { return group->dead; }
ncclComm_t tml_group_nccl(tml_group *group) { return group->child; }

/* ---- Operations ----------------------------------------------------------------------------- */

/* All ranks see the same slots, so all find the same. */
static tml_status group_check_step(const tml_group *group)
{
  const group_slot *first = &group->host[1];
  for (int r = 1; r < group->world; ++r) {
    const group_slot *slot = &group->host[1 + r];
    if (memcmp(&first->header, &slot->header, sizeof first->header) == 0) continue;
    return tml_fail(
        TML_DISAGREE,
        "rank 0 is at group call %llu (%.51s, %u bytes), rank %d at %llu (%.51s, %u bytes); every "
        "rank must make the same calls in the same order",
        (unsigned long long)first->header.call, first->header.what, first->header.bytes, r,
        (unsigned long long)slot->header.call, slot->header.what, slot->header.bytes);
  }
  return TML_OK;
}

static tml_status group_gather(tml_group *group, const void *in, void *out, size_t bytes,
                               const char *what)
{
  const tml_api *api = group->ctx->api;
  uint64_t deadline = tml_deadline(group->ctx->config.timeout_us);
  CUdeviceptr gathered = group->device + sizeof(group_slot);
  group_slot *mine = &group->host[0], *all = &group->host[1];
  memset(&mine->header, 0, sizeof mine->header);
  mine->header.call = ++group->calls;
  mine->header.bytes = (uint32_t)bytes;
  snprintf(mine->header.what, sizeof mine->header.what, "%s", what);
  memcpy(mine->data, in, bytes);
  TRY(CU(api, cuMemcpyHtoDAsync,
         (group->device, mine, sizeof mine->header + bytes, group->stream)));
  TRY(NC(api, AllGather,
         ((const void *)(uintptr_t)group->device, (void *)(uintptr_t)gathered, sizeof(group_slot),
          TML_NCCL_UINT8, group->child, group->stream)));
  TRY(group_settle(group, deadline, what));
  TRY(CU(api, cuMemcpyDtoHAsync,
         (all, gathered, sizeof *all * (size_t)group->world, group->stream)));
  TRY(group_finish(group, deadline, what));
  TRY(group_check_step(group));
  for (int r = 0; r < group->world; ++r)
    memcpy((char *)out + (size_t)r * bytes, all[r].data, bytes);
  return TML_OK;
}

/* `what` names the operation in texts, and is the same on every rank. */
static tml_status group_run(tml_group *group, const void *in, void *out, size_t bytes,
                            const char *what)
{
  if (bytes == 0 || bytes > TML_GROUP_BYTES)
    return tml_fail(TML_ARGUMENT, "a group operation moves 1 to %d bytes per rank, not %zu",
                    TML_GROUP_BYTES, bytes);
  if (group->world == 1) {
    memmove(out, in, bytes);
    return TML_OK;
  }
  if (group->dead)
    return tml_fail(TML_TIMEOUT,
                    "%s: the group was given up after an earlier time-out or error; destroy and "
                    "recreate the comm on every rank",
                    what);
  CUcontext previous;
  tml_status status = tml_ctx_enter(group->ctx, &previous);
  if (status != TML_OK) return group_abandon(group, status);
  status = group_gather(group, in, out, bytes, what);
  if (status != TML_OK) group_abandon(group, status);
  tml_ctx_leave(group->ctx, previous);
  return status;
}

tml_status tml_group_all_gather(tml_group *group, const void *in, void *out, size_t bytes)
{
  return group_run(group, in, out, bytes, "exchange between the ranks");
}

tml_status tml_group_broadcast(tml_group *group, void *data, size_t bytes, int root)
{
  unsigned char all[TML_MAX_WORLD * TML_GROUP_BYTES];
  if (root < 0 || root >= group->world)
    return tml_fail(TML_ARGUMENT, "broadcast from rank %d in a group of %d", root, group->world);
  TRY(group_run(group, data, all, bytes, "broadcast between the ranks"));
  memcpy(data, all + (size_t)root * bytes, bytes);
  return TML_OK;
}

typedef struct group_ballot {
  int32_t status;
  char text[GROUP_TEXT_BYTES];
} group_ballot;

tml_status tml_group_vote(tml_group *group, tml_status mine, const char *what)
{
  group_ballot ballot = {.status = mine}, all[TML_MAX_WORLD];
  char own[512];
  snprintf(own, sizeof own, "%s", mine == TML_OK ? "" : tml_last_error());
  snprintf(ballot.text, sizeof ballot.text, "%.*s", GROUP_TEXT_BYTES - 1, own);
  tml_status status = group_run(group, &ballot, all, sizeof ballot, what);
  if (status != TML_OK) return mine == TML_OK ? status : tml_fail(mine, "%s", own);
  for (int r = 0; r < group->world; ++r) {
    if (all[r].status == TML_OK) continue;
    status = (tml_status)all[r].status;
    all[r].text[GROUP_TEXT_BYTES - 1] = '\0';
    return mine == TML_OK ? tml_fail(status, "%s: rank %d failed: %s", what, r, all[r].text)
                          : tml_fail(status, "%s", own);
  }
  return TML_OK;
}

tml_status tml_group_max(tml_group *group, double *values, size_t count)
{
  double all[TML_MAX_WORLD * TML_GROUP_BYTES / sizeof(double)];
  TRY(group_run(group, values, all, count * sizeof *values, "agreement between the ranks"));
  for (size_t i = 0; i < count; ++i)
    for (int r = 0; r < group->world; ++r)
      if (all[(size_t)r * count + i] > values[i]) values[i] = all[(size_t)r * count + i];
  return TML_OK;
}

tml_status tml_group_barrier(tml_group *group)
{
  unsigned char mine = 0, all[TML_MAX_WORLD];
  return group_run(group, &mine, all, sizeof mine, "barrier between the ranks");
}
