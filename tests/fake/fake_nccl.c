/* NCCL between the threads of one process. Collectives are work in streams and move bytes when
 * every rank's share is at the head of its stream. Non-blocking communicators answer IN_PROGRESS
 * first, as the real ones do, and refuse to be used before they have been polled. */
#include <stdint.h>

#include "machine.h"

enum { NC_OK = 0, NC_SYSTEM = 2, NC_INTERNAL = 3, NC_ARGUMENT = 4, NC_PROGRESS = 7 };

typedef struct fake_split { /* one CommSplit of a world */
  int arrived, color[FAKE_DEVICES], key[FAKE_DEVICES];
  struct fake_world *child[FAKE_DEVICES]; /* by parent rank */
  int rank[FAKE_DEVICES];
} fake_split;

#define MAX_SPLITS 64

typedef struct fake_world {
  struct fake_world *next;
  long id;
  int size, joined;
  fake_split split[MAX_SPLITS];
} fake_world;

typedef struct fake_comm {
  fake_object object;
  fake_world *world;
  int rank, blocking;
  long seq;      /* of the next collective */
  int polls;     /* IN_PROGRESS answers still to give */
  int splits;    /* made or begun */
  int splitting; /* one is begun and not yet handed out */
  ncclComm_t *split_out;
  int split_blocking;
} fake_comm;

static long ids;
static _Thread_local int group_depth, group_progress;

static fake_comm *comm_of(ncclComm_t handle) { return fake_object_find(OBJ_COMM, handle); }

static fake_world *world_new(long id, int size)
{
  fake_world *world = calloc(1, sizeof *world);
  if (!world) abort();
  world->id = id;
  world->size = size;
  world->next = fake_m.worlds;
  fake_m.worlds = world;
  return world;
}

static fake_comm *comm_new(fake_world *world, int rank, int blocking)
{
  fake_comm *comm = fake_object_new(OBJ_COMM, fake_current_device(), sizeof *comm);
  comm->world = world;
  comm->rank = rank;
  comm->blocking = blocking;
  world->joined++;
  pthread_cond_broadcast(&fake_m.changed);
  return comm;
}

void fake_nccl_reset(void)
{
  while (fake_m.worlds) {
    fake_world *world = fake_m.worlds;
    fake_m.worlds = world->next;
    free(world);
  }
  while (fake_m.colls) {
    fake_coll *coll = fake_m.colls;
    fake_m.colls = coll->next;
    free(coll);
  }
}

/* ---- Set-up ---- */

static int get_id(tml_nccl_id *id)
{
  memset(id, 0, sizeof *id);
  snprintf(id->internal, sizeof id->internal, "%ld", ++ids);
  return NC_OK;
}

static int wait_joined(const fake_world *world, int extra_seconds)
{
  struct timespec deadline;
  fake_deadline(&deadline);
  deadline.tv_sec += extra_seconds;
  while (world->joined < world->size)
    if (!fake_wait_change(&deadline)) return NC_SYSTEM;
  return NC_OK;
}

static int join(ncclComm_t *out, int size, const tml_nccl_id *id, int rank, int blocking)
{
  long number = atol(id->internal);
  fake_world *world = fake_m.worlds;
  while (world && world->id != number) world = world->next;
  if (!world) world = world_new(number, size);
  if (world->size != size || rank < 0 || rank >= size) return NC_ARGUMENT;
  fake_comm *comm = comm_new(world, rank, blocking);
  *out = (ncclComm_t)(void *)comm;
  return blocking ? NC_OK : NC_PROGRESS;
}

static int is_blocking(const tml_nccl_config *config, int otherwise)
{
  return config && config->blocking != TML_NCCL_CONFIG_UNDEF ? config->blocking : otherwise;
}

static int f_GetVersion(int *version)
{
  if (fake_begin_other("ncclGetVersion")) return fake_end_other(1);
  *version = 22703;
  return fake_end_other(NC_OK);
}

static const char *f_GetErrorString(int result)
{
  return result == NC_OK ? "no error" : result == NC_PROGRESS ? "in progress" : "fake NCCL error";
}

static int f_GetUniqueId(tml_nccl_id *id)
{
  if (fake_begin_other("ncclGetUniqueId")) return fake_end_other(1);
  return fake_end_other(get_id(id));
}

static int f_CommInitRankConfig(ncclComm_t *out, int size, tml_nccl_id id, int rank,
                                tml_nccl_config *config)
{
  const char *name = "ncclCommInitRankConfig";
  if (fake_begin_other(name)) return fake_end_other(1);
  if (config && (config->magic != TML_NCCL_CONFIG_MAGIC || config->size > 4096))
    return fake_end_other(NC_ARGUMENT);
  int result = join(out, size, &id, rank, is_blocking(config, 1));
  if (result == NC_OK) result = wait_joined(comm_of(*out)->world, 0);
  return fake_end_other(result);
}

int fake_nccl_world(int world, int rank, const tml_nccl_id *id, ncclComm_t *out)
{
  pthread_mutex_lock(&fake_m.lock);
  int result = join(out, world, id, rank, 1);
  /* The test's own rank threads always come: only a slow machine makes them late. */
  if (result == NC_OK) result = wait_joined(comm_of(*out)->world, 30);
  pthread_mutex_unlock(&fake_m.lock);
  return result;
}

/* ---- Split ---- */

/* Makes the child worlds when the last rank has come: ranks of one colour, ordered by key. */
static void make_children(fake_world *world, fake_split *split)
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

/* Hands the child out if all ranks have come. */
static int finish_split(fake_comm *comm)
{
  fake_split *split = &comm->world->split[comm->splits - 1];
  if (split->arrived < comm->world->size) return 0;
  fake_world *child = split->child[comm->rank];
  comm->splitting = 0;
  *comm->split_out = NULL;
  if (child)
    *comm->split_out =
        (ncclComm_t)(void *)comm_new(child, split->rank[comm->rank], comm->split_blocking);
  return 1;
}

static int begin_split(fake_comm *comm, int color, int key, ncclComm_t *out,
                       const tml_nccl_config *config)
{
  struct timespec deadline;
  if (comm->splits == MAX_SPLITS || comm->splitting || comm->polls) return NC_ARGUMENT;
  fake_split *split = &comm->world->split[comm->splits++];
  split->color[comm->rank] = color;
  split->key[comm->rank] = key;
  comm->splitting = 1;
  comm->split_out = out;
  comm->split_blocking = is_blocking(config, comm->blocking);
  *out = NULL;
  if (++split->arrived == comm->world->size) make_children(comm->world, split);
  pthread_cond_broadcast(&fake_m.changed);
  if (!comm->blocking) return NC_PROGRESS;
  fake_deadline(&deadline);
  while (!finish_split(comm))
    if (!fake_wait_change(&deadline)) return NC_SYSTEM;
  return NC_OK;
}

static int f_CommSplit(ncclComm_t parent, int color, int key, ncclComm_t *out,
                       tml_nccl_config *config)
{
  if (fake_begin_other("ncclCommSplit")) return fake_end_other(1);
  fake_comm *comm = comm_of(parent);
  return fake_end_other(comm ? begin_split(comm, color, key, out, config) : NC_ARGUMENT);
}

static int async_state(fake_comm *comm)
{
  if (comm->world->joined < comm->world->size) return NC_PROGRESS;
  if (comm->splitting && !finish_split(comm)) return NC_PROGRESS;
  if (comm->polls > 0) {
    comm->polls--;
    return NC_PROGRESS;
  }
  return NC_OK;
}

static int f_CommGetAsyncError(ncclComm_t handle, int *state)
{
  const char *name = "ncclCommGetAsyncError";
  if (fake_begin_other(name)) return fake_end_other(1);
  fake_comm *comm = comm_of(handle);
  if (comm) *state = async_state(comm);
  return fake_end_other(comm ? NC_OK : NC_ARGUMENT);
}

static int f_CommCount(ncclComm_t handle, int *count)
{
  if (fake_begin_other("ncclCommCount")) return fake_end_other(1);
  const fake_comm *comm = comm_of(handle);
  if (comm) *count = comm->world->size;
  return fake_end_other(comm ? NC_OK : NC_ARGUMENT);
}

static int f_CommUserRank(ncclComm_t handle, int *rank)
{
  if (fake_begin_other("ncclCommUserRank")) return fake_end_other(1);
  const fake_comm *comm = comm_of(handle);
  if (comm) *rank = comm->rank;
  return fake_end_other(comm ? NC_OK : NC_ARGUMENT);
}

/* Collectives of this rank that have not run are dropped, as after ncclCommAbort. */
static int leave(ncclComm_t handle)
{
  fake_comm *comm = comm_of(handle);
  if (!comm) return NC_ARGUMENT;
  for (int i = 0; i < FAKE_STREAMS; i++)
    for (fake_work *work = fake_m.streams[i] ? fake_m.streams[i]->head : NULL; work;
         work = work->next)
      if (work->comm == comm) {
        work->coll->share[comm->rank].here = 0; /* its buffers may go */
        work->comm = NULL;
      }
  fake_object_kill(comm);
  fake_pump();
  return NC_OK;
}

void fake_nccl_leave(ncclComm_t comm)
{
  pthread_mutex_lock(&fake_m.lock);
  leave(comm);
  pthread_mutex_unlock(&fake_m.lock);
}

static int f_CommDestroy(ncclComm_t comm)
{
  int fail = fake_begin_other("ncclCommDestroy");
  int result = leave(comm);
  return fake_end_other(fail ? 1 : result);
}

static int f_CommAbort(ncclComm_t comm)
{
  int fail = fake_begin_other("ncclCommAbort");
  int result = leave(comm);
  return fake_end_other(fail ? 1 : result);
}

static int f_GroupStart(void)
{
  if (fake_begin_other("ncclGroupStart")) return fake_end_other(1);
  group_depth++;
  return fake_end_other(NC_OK);
}

static int f_GroupEnd(void)
{
  int fail = fake_begin_other("ncclGroupEnd");
  if (group_depth == 0) return fake_end_other(NC_ARGUMENT);
  int progress = --group_depth == 0 && group_progress;
  if (progress) group_progress = 0;
  return fake_end_other(fail ? 1 : progress ? NC_PROGRESS : NC_OK);
}

/* ---- Collectives ---- */

static int enqueue(const char *call, ncclComm_t handle, CUstream stream_handle, fake_share share)
{
  fake_comm *comm = comm_of(handle);
  fake_stream *stream = fake_stream_of(stream_handle);
  if (!comm || !stream || comm->world->joined < comm->world->size) return NC_ARGUMENT;
  if (comm->polls > 0 && !(group_depth > 0 && group_progress)) return NC_ARGUMENT;
  if (share.type != TML_NCCL_UINT8 && share.type != TML_NCCL_FLOAT16 &&
      share.type != TML_NCCL_BFLOAT16)
    return NC_ARGUMENT;
  fake_work *work = fake_work_new(FAKE_NCCL);
  work->comm = comm;
  work->share = share;
  work->share.call = call + 4; /* without "nccl" */
  work->op.object = comm;
  work->op.dst = (CUdeviceptr)share.dst;
  work->op.src = (CUdeviceptr)share.src;
  work->op.bytes = share.count * (share.type == TML_NCCL_UINT8 ? 1 : 2);
  snprintf(work->op.call, sizeof work->op.call, "%s", work->share.call);
  if (!comm->blocking) {
    comm->polls = 1;
    group_progress = group_depth > 0;
  }
  if (fake_enqueue(stream, work) != CUDA_SUCCESS) return NC_INTERNAL;
  return comm->blocking || group_depth > 0 ? NC_OK : NC_PROGRESS;
}

#define COLLECTIVE(call, ...)                                                      \
  do {                                                                             \
    if (fake_begin_other(call)) return fake_end_other(1);                          \
    return fake_end_other(enqueue(call, comm, stream, (fake_share){__VA_ARGS__})); \
  } while (0)

static int f_AllGather(const void *src, void *dst, size_t count, int type, ncclComm_t comm,
                       CUstream stream)
{
  COLLECTIVE("ncclAllGather", .src = src, .dst = dst, .count = count, .type = type);
}

static int f_ReduceScatter(const void *src, void *dst, size_t count, int type, int op,
                           ncclComm_t comm, CUstream stream)
{
  (void)op;
  COLLECTIVE("ncclReduceScatter", .src = src, .dst = dst, .count = count, .type = type);
}

static int f_AllReduce(const void *src, void *dst, size_t count, int type, int op, ncclComm_t comm,
                       CUstream stream)
{
  (void)op;
  COLLECTIVE("ncclAllReduce", .src = src, .dst = dst, .count = count, .type = type);
}

static int f_Broadcast(const void *src, void *dst, size_t count, int type, int root,
                       ncclComm_t comm, CUstream stream)
{
  COLLECTIVE("ncclBroadcast", .src = src, .dst = dst, .count = count, .type = type, .root = root);
}

static int f_Reduce(const void *src, void *dst, size_t count, int type, int op, int root,
                    ncclComm_t comm, CUstream stream)
{
  (void)op;
  COLLECTIVE("ncclReduce", .src = src, .dst = dst, .count = count, .type = type, .root = root);
}

void fake_coll_enter(fake_work *work)
{
  fake_comm *comm = work->comm;
  fake_coll *coll = fake_m.colls;
  while (coll && !(coll->world == comm->world && coll->seq == comm->seq)) coll = coll->next;
  if (!coll) {
    coll = calloc(1, sizeof *coll);
    if (!coll) abort();
    coll->world = comm->world;
    coll->size = comm->world->size;
    coll->seq = comm->seq;
    coll->next = fake_m.colls;
    fake_m.colls = coll;
  }
  comm->seq++;
  coll->share[comm->rank] = work->share;
  work->coll = coll;
  work->rank = comm->rank;
}

void fake_fill_nccl(tml_nccl *nccl)
{
#define FILL(f, type) nccl->f = f_##f;
  TML_NCCL_MAP(FILL)
#undef FILL
}
