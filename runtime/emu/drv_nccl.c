/* NCCL between the threads of one process: worlds, splits, and the calls that enter streams. */
#include "nccl.h"

enum {
  NC_OK = 0,
  NC_UNHANDLED = 1,
  NC_SYSTEM = 2,
  NC_INTERNAL = 3,
  NC_ARGUMENT = 4,
  NC_PROGRESS = 7
};

static long ids;
static long world_calls[EMU_MAX_DEVICES];

static drv_comm *comm_of(ncclComm_t handle) { return drv_object_find(DRV_COMM, handle); }

static drv_world *world_new(long id, int size)
{
  drv_world *world = calloc(1, sizeof *world);
  if (!world) return NULL;
  world->id = id;
  world->size = size;
  world->next = drv.worlds;
  drv.worlds = world;
  return world;
}

static drv_comm *comm_new(drv_world *world, int rank, int blocking)
{
  drv_comm *comm = drv_object_new(DRV_COMM, drv_current(), sizeof *comm);
  if (!comm) return NULL;
  comm->world = world;
  comm->rank = rank;
  comm->blocking = blocking;
  world->joined++;
  pthread_cond_broadcast(&drv.changed);
  return comm;
}

void drv_nccl_reset(void)
{
  while (drv.worlds) {
    drv_world *world = drv.worlds;
    drv.worlds = world->next;
    while (world->splits) {
      drv_split *split = world->splits;
      world->splits = split->next;
      free(split);
    }
    free(world);
  }
  memset(world_calls, 0, sizeof world_calls);
}

/* ---- Set-up ------------------------------------------------------------------------------------- */

static int all_joined(void *world)
{
  return ((drv_world *)world)->joined >= ((drv_world *)world)->size;
}

static int join(ncclComm_t *out, int size, long id, int rank, int blocking)
{
  drv_world *world = drv.worlds;
  while (world && world->id != id) world = world->next;
  if (!world) world = world_new(id, size);
  if (!world) return NC_SYSTEM;
  if (world->size != size || rank < 0 || rank >= size) return NC_ARGUMENT;
  drv_comm *comm = comm_new(world, rank, blocking);
  if (!comm) return NC_SYSTEM;
  *out = (ncclComm_t)(void *)comm;
  if (!blocking) return NC_PROGRESS;
  if (drv_wait(all_joined, world, drv.config.host_s)) return NC_OK;
  drv_object_kill(comm);
  *out = NULL;
  return NC_SYSTEM;
}

static int is_blocking(const tml_nccl_config *config, int otherwise)
{
  return config && config->blocking != TML_NCCL_CONFIG_UNDEF ? config->blocking : otherwise;
}

static int drv_GetVersion(int *version)
{
  if (drv_begin_other("ncclGetVersion")) return drv_end_other(NC_UNHANDLED);
  *version = 22703;
  return drv_end_other(NC_OK);
}

static const char *drv_GetErrorString(int result)
{
  switch (result) {
  case NC_OK: return "no error";
  case NC_PROGRESS: return "in progress";
  case NC_SYSTEM: return "the other ranks did not come";
  case NC_ARGUMENT: return *drv.refused ? drv.refused : "invalid argument";
  default: return "emulated NCCL error";
  }
}

static int drv_GetUniqueId(tml_nccl_id *id)
{
  if (drv_begin_other("ncclGetUniqueId")) return drv_end_other(NC_UNHANDLED);
  memset(id, 0, sizeof *id);
  snprintf(id->internal, sizeof id->internal, "%ld", ++ids);
  return drv_end_other(NC_OK);
}

static int drv_CommInitRankConfig(ncclComm_t *out, int size, tml_nccl_id id, int rank,
                                  tml_nccl_config *config)
{
  if (drv_begin_other("ncclCommInitRankConfig")) return drv_end_other(NC_UNHANDLED);
  if (size < 1 || size > EMU_MAX_DEVICES || (config && config->magic != TML_NCCL_CONFIG_MAGIC)) {
    drv_refuse(CUDA_ERROR_INVALID_VALUE, "ncclCommInitRankConfig",
               "worlds of 1 to 8, and a valid config");
    return drv_end_other(NC_ARGUMENT);
  }
  id.internal[sizeof id.internal - 1] = 0;
  return drv_end_other(join(out, size, atol(id.internal), rank, is_blocking(config, 1)));
}

ncclComm_t tml_emu_world(int world, int rank)
{
  ncclComm_t comm = NULL;
  if (world < 1 || world > EMU_MAX_DEVICES || rank < 0 || rank >= world) return NULL;
  pthread_mutex_lock(&drv.lock);
  long id = -(16 * ++world_calls[rank] + world);
  if (join(&comm, world, id, rank, 1) != NC_OK) comm = NULL;
  pthread_mutex_unlock(&drv.lock);
  return comm;
}

/* ---- Split -------------------------------------------------------------------------------------- */

static drv_split *split_of(drv_world *world, int number)
{
  drv_split *split = world->splits;
  while (split && split->number != number) split = split->next;
  if (split) return split;
  split = calloc(1, sizeof *split);
  if (!split) return NULL;
  split->number = number;
  split->next = world->splits;
  world->splits = split;
  return split;
}

/* When the last rank has come: ranks of one colour, ordered by key. */
static void make_children(const drv_world *world, drv_split *split)
{
  for (int r = 0; r < world->size; r++) {
    int before = 0, size = 0, first = r;
    for (int q = 0; q < world->size; q++) {
      if (split->color[q] != split->color[r]) continue;
      size++;
      if (q < first) first = q;
      before += split->key[q] < split->key[r] || (split->key[q] == split->key[r] && q < r);
    }
    split->rank[r] = before;
    if (split->color[r] < 0) continue;
    split->child[r] = first == r ? world_new(++ids, size) : split->child[first];
  }
}

/* Hands the child out if all ranks have come. While one thread waits for that another may destroy or abort
 * the communicator: who waits holds its handle, not its memory. */
static int finish_split(void *handle)
{
  drv_comm *comm = drv_object_find(DRV_COMM, handle);
  drv_split *split = comm ? comm->splitting : NULL;
  if (!split) return 1;
  if (split->arrived < comm->world->size) return 0;
  drv_world *child = split->child[comm->rank];
  comm->splitting = NULL;
  *comm->split_out = NULL;
  if (child)
    *comm->split_out =
        (ncclComm_t)(void *)comm_new(child, split->rank[comm->rank], comm->split_blocking);
  return 1;
}

static int begin_split(drv_comm *comm, int color, int key, ncclComm_t *out,
                       const tml_nccl_config *config)
{
  if (comm->splitting) return NC_ARGUMENT;
  drv_split *split = split_of(comm->world, comm->splits++);
  if (!split) return NC_SYSTEM;
  split->color[comm->rank] = color;
  split->key[comm->rank] = key;
  comm->splitting = split;
  comm->split_out = out;
  comm->split_blocking = is_blocking(config, comm->blocking);
  *out = NULL;
  if (++split->arrived == comm->world->size) make_children(comm->world, split);
  pthread_cond_broadcast(&drv.changed);
  if (!comm->blocking) return NC_PROGRESS;
  int came = drv_wait(finish_split, comm, drv.config.host_s);
  return came && drv_object_find(DRV_COMM, comm) ? NC_OK : NC_SYSTEM;
}

static int drv_CommSplit(ncclComm_t parent, int color, int key, ncclComm_t *out,
                         tml_nccl_config *config)
{
  if (drv_begin_other("ncclCommSplit")) return drv_end_other(NC_UNHANDLED);
  drv_comm *comm = comm_of(parent);
  return drv_end_other(comm ? begin_split(comm, color, key, out, config) : NC_ARGUMENT);
}

static int settled(void *handle)
{
  const drv_comm *comm = drv_object_find(DRV_COMM, handle);
  return !comm || (all_joined(comm->world) && finish_split(handle));
}

/* Who asks waits a little: the answer depends on the other ranks, not on how often one asks. */
static int drv_CommGetAsyncError(ncclComm_t handle, int *state)
{
  if (drv_begin_other("ncclCommGetAsyncError")) return drv_end_other(NC_UNHANDLED);
  drv_comm *comm = comm_of(handle);
  if (!comm) return drv_end_other(NC_ARGUMENT);
  *state = drv_wait(settled, comm, 0.05) ? NC_OK : NC_PROGRESS;
  return drv_end_other(NC_OK);
}

static int drv_CommCount(ncclComm_t handle, int *count)
{
  if (drv_begin_other("ncclCommCount")) return drv_end_other(NC_UNHANDLED);
  const drv_comm *comm = comm_of(handle);
  if (comm) *count = comm->world->size;
  return drv_end_other(comm ? NC_OK : NC_ARGUMENT);
}

static int drv_CommUserRank(ncclComm_t handle, int *rank)
{
  if (drv_begin_other("ncclCommUserRank")) return drv_end_other(NC_UNHANDLED);
  const drv_comm *comm = comm_of(handle);
  if (comm) *rank = comm->rank;
  return drv_end_other(comm ? NC_OK : NC_ARGUMENT);
}

/* ---- Leaving ------------------------------------------------------------------------------------ */

static int leave(ncclComm_t handle)
{
  drv_comm *comm = comm_of(handle);
  if (!comm) return NC_ARGUMENT;
  if (comm->object.device >= 0) drv_coll_abandon(comm);
  drv_object_kill(comm);
  pthread_cond_broadcast(&drv.changed);
  return NC_OK;
}

static int drv_CommDestroy(ncclComm_t handle)
{
  int fail = drv_begin_other("ncclCommDestroy");
  drv_comm *comm = comm_of(handle);
  if (comm && comm->object.device >= 0) drv_wait(drv_coll_quiet, comm, 0.5);
  int result = leave(handle);
  return drv_end_other(fail ? NC_UNHANDLED : result);
}

static int drv_CommAbort(ncclComm_t handle)
{
  int fail = drv_begin_other("ncclCommAbort");
  int result = leave(handle);
  return drv_end_other(fail ? NC_UNHANDLED : result);
}

/* ---- Calls that enqueue ------------------------------------------------------------------------- */

static int drv_GroupStart(void)
{
  if (drv_begin_other("ncclGroupStart")) return drv_end_other(NC_UNHANDLED);
  drv_self()->group_depth++;
  return drv_end_other(NC_OK);
}

static int drv_GroupEnd(void)
{
  int fail = drv_begin_other("ncclGroupEnd");
  drv_thread *self = drv_self();
  if (self->group_depth == 0) return drv_end_other(NC_ARGUMENT);
  self->group_depth--;
  return drv_end_other(fail ? NC_UNHANDLED : NC_OK);
}

static int enqueue(ncclComm_t handle, CUstream stream_handle, int op, drv_share share)
{
  drv_comm *comm = comm_of(handle);
  drv_stream *stream = drv_stream_of(stream_handle);
  if (!comm || !stream || !all_joined(comm->world)) return NC_ARGUMENT;
  if (share.type != TML_NCCL_UINT8 && share.type != TML_NCCL_FLOAT16 &&
      share.type != TML_NCCL_BFLOAT16) {
    drv_refuse(CUDA_ERROR_INVALID_VALUE, share.call, "a type outside of the subset");
    return NC_ARGUMENT;
  }
  if (op != TML_NCCL_SUM || share.root < 0 || share.root >= comm->world->size) {
    drv_refuse(CUDA_ERROR_INVALID_VALUE, share.call, "an operation or root outside of the subset");
    return NC_ARGUMENT;
  }
  drv_work *work = drv_work_new(WORK_NCCL);
  if (!work) return NC_SYSTEM;
  work->comm = comm;
  work->share = share;
  return drv_enqueue(stream, work, NULL) == CUDA_SUCCESS ? NC_OK : NC_INTERNAL;
}

#define COLLECTIVE(op, ...)                                                            \
  do {                                                                                 \
    drv_share share = {__VA_ARGS__, .src = (uint64_t)(uintptr_t)src,                   \
                       .dst = (uint64_t)(uintptr_t)dst, .count = count, .type = type}; \
    if (drv_begin_other(share.call)) return drv_end_other(NC_UNHANDLED);               \
    return drv_end_other(enqueue(comm, stream, (op), share));                          \
  } while (0)

static int drv_AllGather(const void *src, void *dst, size_t count, int type, ncclComm_t comm,
                         CUstream stream)
{
  COLLECTIVE(TML_NCCL_SUM, .call = "ncclAllGather");
}

static int drv_ReduceScatter(const void *src, void *dst, size_t count, int type, int op,
                             ncclComm_t comm, CUstream stream)
{
  COLLECTIVE(op, .call = "ncclReduceScatter");
}

static int drv_AllReduce(const void *src, void *dst, size_t count, int type, int op,
                         ncclComm_t comm, CUstream stream)
{
  COLLECTIVE(op, .call = "ncclAllReduce");
}

static int drv_Broadcast(const void *src, void *dst, size_t count, int type, int root,
                         ncclComm_t comm, CUstream stream)
{
  COLLECTIVE(TML_NCCL_SUM, .call = "ncclBroadcast", .root = root);
}

static int drv_Reduce(const void *src, void *dst, size_t count, int type, int op, int root,
                      ncclComm_t comm, CUstream stream)
{
  COLLECTIVE(op, .call = "ncclReduce", .root = root);
}

void drv_fill_nccl(tml_nccl *nccl)
{
#define FILL(f, type) nccl->f = drv_##f;
  TML_NCCL_MAP(FILL)
#undef FILL
}
