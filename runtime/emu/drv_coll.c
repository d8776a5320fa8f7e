/* Collectives as operations of streams: one begins when it is the next of every rank's stream. */
#include "nccl.h"

/* ---- Entering --------------------------------------------------------------------------------- */

void drv_coll_drop(drv_coll *coll)
{
  if (--coll->refs > 0) return;
  for (drv_coll **link = &drv.colls; *link; link = &(*link)->next) {
    if (*link != coll) continue;
    *link = coll->next;
    break;
  }
  if (coll->clock) emu_clock_destroy(coll->clock);
  free(coll);
}

static drv_coll *coll_of(drv_world *world, long number)
{
  drv_coll *coll = drv.colls;
  while (coll && !(coll->world == world && coll->number == number)) coll = coll->next;
  if (coll) return coll;
  coll = calloc(1, sizeof *coll);
  if (!coll) return NULL;
  coll->world = world;
  coll->number = number;
  coll->size = world->size;
  coll->clock = emu_clock_create(drv.emu);
  coll->next = drv.colls;
  drv.colls = coll;
  return coll;
}

void drv_coll_enter(drv_op *op)
{
  drv_comm *comm = op->work->comm;
  if (!comm) return; /* of a graph that outlived its communicator */
  drv_coll *coll = coll_of(comm->world, comm->number++);
  if (!coll) return;
  coll->refs++;
  coll->share[comm->rank] = op->work->share;
  op->coll = coll;
  op->rank = comm->rank;
}

static void *pointer_of(uint64_t at, size_t bytes)
{
  static unsigned char nothing[16];
  return bytes ? emu_pointer(drv.emu, at, bytes) : nothing;
}

static size_t type_bytes(int type) { return type == TML_NCCL_UINT8 ? 1 : 2; }

/* Elements that a rank reads and writes. */
static size_t read_count(const drv_coll *coll, int rank)
{
  const drv_share *share = &coll->share[rank];
  if (strcmp(share->call, "ncclReduceScatter") == 0) return share->count * (size_t)coll->size;
  if (strcmp(share->call, "ncclBroadcast") == 0 && rank != share->root) return 0;
  return share->count;
}

static size_t write_count(const drv_coll *coll, int rank)
{
  const drv_share *share = &coll->share[rank];
  if (strcmp(share->call, "ncclAllGather") == 0) return share->count * (size_t)coll->size;
  if (strcmp(share->call, "ncclReduce") == 0 && rank != share->root) return 0;
  return share->count;
}

/* ---- Running ------------------------------------------------------------------------------------ */

static void coll_run(void *pointer)
{
  drv_coll *coll = pointer;
  const drv_share *first = &coll->share[0];
  size_t size = type_bytes(first->type), bytes = first->count * size;
  drv_data data = {.ranks = coll->size, .type = first->type};
  for (int r = 0; r < coll->size; r++) {
    data.src[r] = pointer_of(coll->share[r].src, read_count(coll, r) * size);
    data.dst[r] = pointer_of(coll->share[r].dst, write_count(coll, r) * size);
    if (!data.src[r] || !data.dst[r]) return; /* was unmapped meanwhile: reported */
  }
  if (strcmp(first->call, "ncclAllGather") == 0)
    drv_gather(&data, bytes);
  else if (strcmp(first->call, "ncclBroadcast") == 0)
    drv_broadcast(&data, first->root, bytes);
  else if (strcmp(first->call, "ncclReduce") == 0)
    drv_reduce(&data, first->root, 0, first->count);
  else if (strcmp(first->call, "ncclReduceScatter") == 0)
    for (int r = 0; r < coll->size; r++)
      drv_reduce(&data, r, (size_t)r * first->count, first->count);
  else
    drv_reduce_all(&data, first->count);
}

static void coll_done(void *pointer)
{
  drv_coll *coll = pointer;
  coll->refs++;
  for (int r = 0; r < coll->size; r++) {
    drv_op *op = coll->op[r];
    coll->op[r] = NULL;
    emu_clock_copy(op->clock, coll->clock);
    drv_op_done(op);
  }
  drv_coll_drop(coll);
}

/* A mismatch hangs or corrupts in real NCCL; here it breaks the devices and says so. */
static int same(const drv_coll *coll)
{
  const drv_share *a = &coll->share[0];
  for (int r = 1; r < coll->size; r++) {
    const drv_share *b = &coll->share[r];
    if (strcmp(a->call, b->call) != 0 || a->count != b->count || a->type != b->type ||
        a->root != b->root)
      return 0;
  }
  return 1;
}

/* Does it count as a read of the source? Not in place: the operation would be in its own way. And bytes are
 * moved without a look at them: the slots of the runtime's group are only filled in part. */
static int reads(const drv_share *share, size_t in, size_t out)
{
  int in_place = share->src < share->dst + out && share->dst < share->src + in;
  return !in_place && share->type != TML_NCCL_UINT8;
}

static const char *coll_submit(drv_coll *coll)
{
  emu_range ranges[2 * EMU_MAX_DEVICES];
  int count = 0;
  uint64_t delay = 0;
  if (!same(coll)) return "the ranks are at different collectives";
  for (int r = 0; r < coll->size; r++) {
    size_t size = type_bytes(coll->share[r].type);
    size_t in = read_count(coll, r) * size, out = write_count(coll, r) * size;
    if (in && reads(&coll->share[r], in, out))
      ranges[count++] = (emu_range){coll->share[r].src, in, 0};
    if (out) ranges[count++] = (emu_range){coll->share[r].dst, out, 1};
    emu_clock_join(coll->clock, coll->op[r]->clock);
    uint64_t late = drv.device[coll->op[r]->device].delay[1];
    delay = late > delay ? late : delay;
  }
  return emu_submit_work(drv.emu, ranges, count, delay, coll->share[0].call, coll_run, coll,
                         coll->clock, coll_done, coll);
}

void drv_coll_here(drv_op *op)
{
  drv_coll *coll = op->coll;
  if (!op->work->comm || !coll) {
    drv_op_done(op); /* aborted */
    return;
  }
  coll->op[op->rank] = op;
  if (++coll->here < coll->size) return;
  const char *why = coll_submit(coll);
  if (!why) return;
  drv_refuse(CUDA_ERROR_LAUNCH_FAILED, coll->share[0].call, why);
  for (int r = 0; r < coll->size; r++)
    drv_device_error(coll->op[r]->device, CUDA_ERROR_LAUNCH_FAILED);
}

/* ---- Leaving ------------------------------------------------------------------------------------ */

static int of_comm(const drv_op *op, const drv_comm *comm)
{
  return op->work->kind == WORK_NCCL && op->work->comm == comm;
}

void drv_coll_abandon(const drv_comm *comm)
{
  for (drv_op *op = drv.device[comm->object.device].ops, *next; op; op = next) {
    next = op->next;
    if (!of_comm(op, comm)) continue;
    op->work->comm = NULL;
    if (op->state != OP_RUNNING || !op->coll || op->coll->here == op->coll->size) continue;
    op->coll->op[op->rank] = NULL;
    op->coll->here--;
    drv_op_done(op);
  }
}

int drv_coll_quiet(void *handle)
{
  const drv_comm *comm = drv_object_find(DRV_COMM, handle);
  if (!comm) return 1;
  const drv_device *device = &drv.device[comm->object.device];
  for (const drv_op *op = device->ops; op && !device->stopped; op = op->next)
    if (of_comm(op, comm)) return 0;
  return 1;
}
