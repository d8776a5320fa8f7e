#include "comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lt.h"
#include "plan.h"
#include "status.h"

#define COMM_SEGMENT_ALIGN 1024u
#define COMM_SIGNAL_ALIGN 128u
#define COMM_BYTES_MOST \
  ((size_t)1 << 44) /* of a field: sums stay far from overflow, doubles exact */

static size_t comm_round(size_t bytes, size_t align) { return (bytes + align - 1) / align * align; }
static size_t comm_larger(size_t a, size_t b) { return a > b ? a : b; }

/* ---- Agreement at creation ------------------------------------------------------------------ */

/* Padded to a size of its own, so that another version's exchange has the same length. */
typedef union comm_card {
  struct {
    char version[16], gpu[64];
    int32_t cc, sms;
    tml_pad pad;
  } is;
  unsigned char room[512];
} comm_card;

static tml_status comm_differ(int rank, const char *field, const char *theirs, const char *first)
{
  return tml_fail(TML_DISAGREE,
                  "rank %d has %s %s, rank 0 has %s; give all ranks the same library and the "
                  "same kind of GPU",
                  rank, field, theirs, first);
}

static tml_status comm_compare(const comm_card *card, const comm_card *first, int rank)
{
  char theirs[32], zero[32];
  if (strncmp(card->is.version, first->is.version, sizeof card->is.version) != 0)
    return comm_differ(rank, "Tidemill", card->is.version, first->is.version);
  if (strncmp(card->is.gpu, first->is.gpu, sizeof card->is.gpu) != 0)
    return comm_differ(rank, "GPU", card->is.gpu, first->is.gpu);
  if (card->is.cc != first->is.cc || card->is.sms != first->is.sms) {
    snprintf(theirs, sizeof theirs, "%d.%d and %d", card->is.cc / 10, card->is.cc % 10,
             (int)card->is.sms);
    snprintf(zero, sizeof zero, "%d.%d and %d", first->is.cc / 10, first->is.cc % 10,
             (int)first->is.sms);
    return comm_differ(rank, "compute capability and SMs", theirs, zero);
  }
  if (memcmp(&card->is.pad, &first->is.pad, sizeof card->is.pad) == 0) return TML_OK;
  snprintf(theirs, sizeof theirs, "of %d words", card->is.pad.words);
  snprintf(zero, sizeof zero, "one of %d words", first->is.pad.words);
  return comm_differ(rank, "another control pad layout,", theirs, zero);
}

/* Every rank sees the same cards, so all come to the same verdict. */
static tml_status comm_agree(tml_comm *comm)
{
  comm_card mine, all[TML_MAX_WORLD];
  memset(&mine, 0, sizeof mine);
  snprintf(mine.is.version, sizeof mine.is.version, "%s", TML_VERSION);
  snprintf(mine.is.gpu, sizeof mine.is.gpu, "%.63s", comm->ctx->machine.gpu);
  mine.is.cc = comm->ctx->machine.cc;
  mine.is.sms = comm->ctx->machine.sms;
  mine.is.pad = comm->ctx->pad;
  TRY(tml_group_all_gather(comm->group, &mine, all, sizeof mine));
  for (int r = 1; r < comm->world; ++r) {
    all[r].is.version[sizeof all[r].is.version - 1] = '\0';
    all[r].is.gpu[sizeof all[r].is.gpu - 1] = '\0';
    TRY(comm_compare(&all[r], &all[0], r));
  }
  return TML_OK;
}

/* ---- Create and destroy --------------------------------------------------------------------- */

static tml_status comm_open_local(tml_comm *comm)
{
  const tml_api *api = comm->ctx->api;
  int low = 0, high = 0;
  TRY(CU(api, cuCtxGetStreamPriorityRange, (&low, &high)));
  TRY(CU(api, cuStreamCreateWithPriority, (&comm->copies, CU_STREAM_NON_BLOCKING, high)));
  TRY(CU(api, cuEventCreate, (&comm->fork, CU_EVENT_DISABLE_TIMING)));
  TRY(CU(api, cuEventCreate, (&comm->join, CU_EVENT_DISABLE_TIMING)));
  TRY(CU(api, cuMemHostAlloc,
         ((void **)&comm->record, sizeof *comm->record,
          CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_PORTABLE)));
  memset((void *)comm->record, 0, sizeof *comm->record);
  return CU(api, cuMemHostGetDevicePointer, (&comm->record_at, (void *)comm->record, 0));
}

static void comm_free_memory(tml_comm *comm)
{
  while (comm->segment) {
    tml_segment *older = comm->segment->next;
    tml_block_free(comm, comm->segment->block);
    free(comm->segment);
    comm->segment = older;
  }
  while (comm->blocks) {
    tml_block *next = comm->blocks->next;
    tml_block_free(comm, comm->blocks);
    comm->blocks = next;
  }
  while (comm->locals) {
    tml_local *older = comm->locals->next;
    comm->ctx->api->cuda.p_cuMemFree(comm->locals->at);
    free(comm->locals);
    comm->locals = older;
  }
  tml_block_free(comm, comm->pad);
}

/* Takes what there is. The group goes first: an abort ends NCCL kernels that still use the memory,
 * and freeing memory waits for kernels. The ctx's context is current. */
static void comm_free(tml_comm *comm, int healthy)
{
  const tml_cuda *cuda = &comm->ctx->api->cuda;
  tml_plans_orphan(comm);
  tml_group_destroy(comm->group, healthy);
  tml_lt_free(comm);
  comm_free_memory(comm);
  if (comm->record) cuda->p_cuMemFreeHost((void *)comm->record);
  if (comm->join) cuda->p_cuEventDestroy(comm->join);
  if (comm->fork) cuda->p_cuEventDestroy(comm->fork);
  if (comm->copies) cuda->p_cuStreamDestroy(comm->copies);
  free(comm);
}

static tml_status comm_open(tml_comm *comm, ncclComm_t nccl)
{
  TRY(tml_group_create(&comm->group, comm->ctx, nccl));
  comm->rank = tml_group_rank(comm->group);
  comm->world = tml_group_world(comm->group);
  TRY(tml_group_vote(comm->group, comm_open_local(comm), "creating the comm"));
  TRY(comm_agree(comm));
  return tml_block_create(comm, (size_t)comm->ctx->pad.words * sizeof(uint64_t), &comm->pad);
}

tml_status tml_comm_create(tml_comm **out, tml_ctx *ctx, ncclComm_t nccl)
{
  CUcontext previous;
  if (!out) return tml_fail(TML_ARGUMENT, "tml_comm_create: out is NULL");
  *out = NULL;
  if (!ctx)
    return tml_fail(TML_ARGUMENT, "tml_comm_create: ctx is NULL; make one with tml_ctx_create");
  if (atomic_load(&ctx->sealed))
    return tml_fail(TML_SEALED, "a comm takes memory; create it before tml_seal");
  TRY(tml_ctx_enter(ctx, &previous));
  tml_comm *comm = calloc(1, sizeof *comm);
  tml_status status = comm ? TML_OK : tml_fail(TML_MEMORY, "no memory for a comm");
  if (comm) {
    comm->ctx = ctx;
    comm->timeout_ns = (uint64_t)(ctx->config.timeout_us * 1e3);
    status = comm_open(comm, nccl);
    if (status == TML_OK)
      *out = comm;
    else
      comm_free(comm, 0);
  }
  tml_ctx_leave(ctx, previous);
  return status;
}

void tml_comm_destroy(tml_comm *comm)
{
  if (!comm) return;
  tml_ctx *ctx = comm->ctx;
  CUcontext previous;
  int entered = tml_ctx_enter(ctx, &previous) == TML_OK;
  /* Peers' copies into this memory end before their barrier, their kernels by the caller's duty: it is
   * safe to unmap after it. */
  int healthy =
      entered && !tml_comm_fault(comm, NULL) && !tml_group_dead(comm->group) &&
      tml_group_vote(comm->group, tml_stream_wait(ctx, comm->copies, "destroying the comm"),
                     "destroying the comm") == TML_OK;
  comm_free(comm, healthy);
  if (entered) tml_ctx_leave(ctx, previous);
}

int tml_comm_rank(const tml_comm *comm) { return comm ? comm->rank : 0; }
int tml_comm_world(const tml_comm *comm) { return comm ? comm->world : 0; }

/* ---- Memory --------------------------------------------------------------------------------- */

void tml_bytes_max(tml_bytes *into, const tml_bytes *other)
{
  into->local = comm_larger(into->local, other->local);
  into->staging = comm_larger(into->staging, other->staging);
  into->slots = comm_larger(into->slots, other->slots);
  into->signals = comm_larger(into->signals, other->signals);
}

/* Symmetric memory means nothing in a world of one. */
static int comm_has_symmetric(const tml_comm *comm, const tml_bytes *bytes)
{
  static const tml_bytes none = {.size = sizeof none};
  const tml_bytes *have = comm->segment ? &comm->segment->bytes : &none;
  return comm->world == 1 || (bytes->staging <= have->staging && bytes->slots <= have->slots &&
                              bytes->signals <= have->signals);
}

int tml_comm_has(const tml_comm *comm, const tml_bytes *bytes)
{
  return bytes->local <= comm->local_bytes && comm_has_symmetric(comm, bytes);
}

const tml_block *tml_comm_block(const tml_comm *comm, CUdeviceptr at)
{
  const tml_block *block = comm->blocks;
  while (block && at - block->at[comm->rank] >= block->bytes) block = block->next;
  return block;
}

static tml_status comm_check_sealed(const tml_comm *comm, const char *what)
{
  if (!atomic_load(&comm->ctx->sealed)) return TML_OK;
  return tml_fail(TML_SEALED, "%s would take memory; call it before tml_seal", what);
}

static tml_status comm_check_healthy(const tml_comm *comm)
{
  tml_fault fault = {.size = sizeof fault};
  if (!tml_comm_fault(comm, &fault)) return TML_OK;
  return tml_fail(TML_FAULT, "the comm has a fault (%s); destroy and recreate it on every rank",
                  tml_fault_text(fault.code));
}

static tml_status comm_check_bytes(const tml_bytes *bytes)
{
  if (!bytes || bytes->size < sizeof *bytes)
    return tml_fail(TML_ARGUMENT,
                    "tml_comm_reserve: bytes is NULL or its size is not sizeof(tml_bytes)");
  if (bytes->local > COMM_BYTES_MOST || bytes->staging > COMM_BYTES_MOST ||
      bytes->slots > COMM_BYTES_MOST || bytes->signals > COMM_BYTES_MOST)
    return tml_fail(TML_ARGUMENT, "tml_comm_reserve: no more than 16 TiB of a kind");
  return TML_OK;
}

/* What the most demanding rank wants, field by field. */
static tml_status comm_agree_bytes(tml_comm *comm, tml_bytes *want)
{
  double most[] = {(double)want->local, (double)want->staging, (double)want->slots,
                   (double)want->signals};
  TRY(tml_group_max(comm->group, most, sizeof most / sizeof *most));
  want->local = (size_t)most[0];
  want->staging = (size_t)most[1];
  want->slots = (size_t)most[2];
  want->signals = (size_t)most[3];
  return TML_OK;
}

/* What a reserve adds, until all ranks have it. */
typedef struct comm_growth {
  tml_segment *segment;
  tml_local *local;
} comm_growth;

static tml_status growth_take_local(tml_comm *comm, const tml_bytes *want, comm_growth *growth)
{
  TRY(comm_check_sealed(comm, "tml_comm_reserve"));
  if (!comm_has_symmetric(comm, want)) {
    growth->segment = calloc(1, sizeof *growth->segment);
    if (!growth->segment) return tml_fail(TML_MEMORY, "no memory for a segment");
  }
  if (want->local <= comm->local_bytes) return TML_OK;
  growth->local = calloc(1, sizeof *growth->local);
  if (!growth->local) return tml_fail(TML_MEMORY, "no memory for temporaries");
  growth->local->bytes = want->local;
  return CU(comm->ctx->api, cuMemAlloc, (&growth->local->at, want->local));
}

/* The newest segment covers all that older ones do: a plan looks only at it. */
static tml_status growth_take_segment(tml_comm *comm, const tml_bytes *want, tml_segment *segment)
{
  tml_bytes *bytes = &segment->bytes;
  *bytes = *want;
  if (comm->segment) tml_bytes_max(bytes, &comm->segment->bytes);
  bytes->size = sizeof *bytes;
  bytes->local = 0;
  bytes->signals = comm_round(bytes->signals, COMM_SIGNAL_ALIGN);
  bytes->staging = comm_round(bytes->staging, COMM_SEGMENT_ALIGN);
  bytes->slots = comm_round(bytes->slots, COMM_SEGMENT_ALIGN);
  segment->staging_at = comm_round(2 * bytes->signals, COMM_SEGMENT_ALIGN);
  segment->slots_at = segment->staging_at + 2 * bytes->staging;
  return tml_block_create(comm, segment->slots_at + 2 * bytes->slots, &segment->block);
}

static void growth_drop(tml_comm *comm, comm_growth *growth)
{
  if (growth->local && growth->local->at) comm->ctx->api->cuda.p_cuMemFree(growth->local->at);
  free(growth->local);
  free(growth->segment);
}

static void growth_keep(tml_comm *comm, comm_growth *growth)
{
  if (growth->local) {
    growth->local->next = comm->locals;
    comm->locals = growth->local;
    comm->local = growth->local->at;
    comm->local_bytes = growth->local->bytes;
  }
  if (growth->segment) {
    growth->segment->next = comm->segment;
    comm->segment = growth->segment;
  }
}

/* `mine`: how this rank fared so far; it votes in any case. */
static tml_status comm_reserve(tml_comm *comm, const tml_bytes *bytes, tml_status mine)
{
  comm_growth growth = {0};
  if (mine == TML_OK) mine = comm_check_bytes(bytes);
  TRY(tml_group_vote(comm->group, mine, "tml_comm_reserve"));
  tml_bytes want = *bytes;
  TRY(comm_agree_bytes(comm, &want));
  if (tml_comm_has(comm, &want)) return TML_OK;
  tml_status status =
      tml_group_vote(comm->group, growth_take_local(comm, &want, &growth), "tml_comm_reserve");
  if (status == TML_OK && growth.segment) status = growth_take_segment(comm, &want, growth.segment);
  if (status == TML_OK)
    growth_keep(comm, &growth);
  else
    growth_drop(comm, &growth);
  return status;
}

tml_status tml_comm_reserve(tml_comm *comm, const tml_bytes *bytes)
{
  CUcontext previous;
  if (!comm) return tml_fail(TML_ARGUMENT, "tml_comm_reserve: comm is NULL");
  TRY(comm_check_healthy(comm));
  tml_status entered = tml_ctx_enter(comm->ctx, &previous);
  tml_status status = comm_reserve(comm, bytes, entered);
  if (entered == TML_OK) tml_ctx_leave(comm->ctx, previous);
  return status;
}

static tml_status comm_check_alloc(const tml_comm *comm, size_t bytes, void *const *ptr)
{
  if (!ptr || bytes == 0 || bytes > COMM_BYTES_MOST)
    return tml_fail(TML_ARGUMENT, "tml_alloc: ptr is NULL, or bytes is 0 or above 16 TiB");
  return comm_check_sealed(comm, "tml_alloc");
}

static tml_status comm_alloc(tml_comm *comm, size_t bytes, void **ptr, tml_status mine)
{
  tml_block *block = NULL;
  double most = (double)bytes;
  if (mine == TML_OK) mine = comm_check_alloc(comm, bytes, ptr);
  TRY(tml_group_vote(comm->group, mine, "tml_alloc"));
  TRY(tml_group_max(comm->group, &most, 1));
  TRY(tml_block_create(comm, (size_t)most, &block));
  block->next = comm->blocks;
  comm->blocks = block;
  *ptr = (void *)(uintptr_t)block->at[comm->rank];
  return TML_OK;
}

tml_status tml_alloc(tml_comm *comm, size_t bytes, void **ptr)
{
  CUcontext previous;
  if (ptr) *ptr = NULL;
  if (!comm) return tml_fail(TML_ARGUMENT, "tml_alloc: comm is NULL");
  TRY(comm_check_healthy(comm));
  tml_status entered = tml_ctx_enter(comm->ctx, &previous);
  tml_status status = comm_alloc(comm, bytes, ptr, entered);
  if (entered == TML_OK) tml_ctx_leave(comm->ctx, previous);
  return status;
}
