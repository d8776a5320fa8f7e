#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm.h"
#include "share.h"
#include "status.h"
#include "wait.h"

/* What a rank tells the others of itself and its allocation. */
typedef struct symm_card {
  tml_share_id share; /* name of its socket for this block */
  unsigned char
      process[TML_NONCE_BYTES]; /* drawn once; a fork inherits it, hence the pid beside it */
  int64_t pid;
  char boot[40];  /* of the running kernel: tells hosts apart */
  uint64_t netns; /* abstract sockets end at the network namespace */
  CUuuid uuid;
  int32_t device; /* ordinal, meaningful within its process */
  uint64_t handle, bytes;
} symm_card;

typedef struct symm_trade {
  tml_comm *comm;
  tml_block *block;
  symm_card cards[TML_MAX_WORLD];
  unsigned foreign; /* bits: ranks of other processes */
  int listener, exported, fds[TML_MAX_WORLD];
} symm_trade;

/* ---- Who we are ----------------------------------------------------------------------------- */

static pthread_once_t symm_once = PTHREAD_ONCE_INIT;
static unsigned char symm_process[TML_NONCE_BYTES];
static tml_status symm_process_status;

static void symm_draw(void) { symm_process_status = tml_share_nonce(symm_process); }

static void symm_boot_id(char *out, size_t bytes)
{
  memset(out, 0, bytes);
  int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  ssize_t got = fd < 0 ? -1 : read(fd, out, bytes - 1);
  if (fd >= 0) close(fd);
  if (got <= 0) gethostname(out, bytes - 1);
}

static tml_status symm_card_fill(const symm_trade *trade, symm_card *card)
{
  const tml_comm *comm = trade->comm;
  struct stat netns;
  pthread_once(&symm_once, symm_draw);
  if (symm_process_status != TML_OK) return tml_fail(TML_IO, "the system gives no random bytes");
  memcpy(card->process, symm_process, sizeof card->process);
  TRY(tml_share_nonce(card->share.nonce));
  card->share.rank = comm->rank;
  card->pid = getpid();
  symm_boot_id(card->boot, sizeof card->boot);
  card->netns = stat("/proc/self/ns/net", &netns) == 0 ? (uint64_t)netns.st_ino : 0;
  card->device = comm->ctx->config.device;
  card->handle = (uint64_t)trade->block->handle[comm->rank];
  card->bytes = trade->block->bytes;
  return CU(comm->ctx->api, cuDeviceGetUuid, (&card->uuid, comm->ctx->device));
}

static int symm_same_process(const symm_card *a, const symm_card *b)
{
  return a->pid == b->pid && memcmp(a->process, b->process, sizeof a->process) == 0 &&
         memcmp(a->boot, b->boot, sizeof a->boot) == 0;
}

/* ---- Can we reach them ---------------------------------------------------------------------- */

/* The ordinal, in this process, of a peer's device; -1 if it is not visible here. */
static tml_status symm_find_device(const tml_api *api, const symm_card *card, int same_process,
                                   int *ordinal)
{
  int count = 0;
  *ordinal = same_process ? card->device : -1;
  if (same_process) return TML_OK;
  TRY(CU(api, cuDeviceGetCount, (&count)));
  for (int i = 0; i < count; ++i) {
    CUdevice device;
    CUuuid uuid;
    TRY(CU(api, cuDeviceGet, (&device, i)));
    TRY(CU(api, cuDeviceGetUuid, (&uuid, device)));
    if (memcmp(&uuid, &card->uuid, sizeof uuid) == 0) *ordinal = i;
  }
  return TML_OK;
}

static tml_status symm_check_peer(symm_trade *trade, int peer)
{
  const tml_api *api = trade->comm->ctx->api;
  const symm_card *mine = &trade->cards[trade->comm->rank], *card = &trade->cards[peer];
  int same = symm_same_process(mine, card), ordinal = -1, reachable = 1;
  CUdevice device;
  if (card->bytes != mine->bytes)
    return tml_fail(
        TML_DISAGREE, "rank %d takes %llu bytes of symmetric memory, rank %d takes %llu", peer,
        (unsigned long long)card->bytes, trade->comm->rank, (unsigned long long)mine->bytes);
  if (memcmp(card->boot, mine->boot, sizeof card->boot) != 0)
    return tml_fail(TML_UNSUPPORTED,
                    "ranks %d and %d are on different hosts; a comm spans one host",
                    trade->comm->rank, peer);
  if (card->netns != mine->netns)
    return tml_fail(TML_UNSUPPORTED,
                    "ranks %d and %d are in different network namespaces; run them in one "
                    "container, or with the host's network",
                    trade->comm->rank, peer);
  TRY(symm_find_device(api, card, same, &ordinal));
  if (ordinal >= 0 && ordinal != trade->comm->ctx->config.device) {
    TRY(CU(api, cuDeviceGet, (&device, ordinal)));
    TRY(CU(api, cuDeviceCanAccessPeer, (&reachable, trade->comm->ctx->device, device)));
  }
  if (!reachable)
    return tml_fail(TML_UNSUPPORTED,
                    "GPU %d of rank %d cannot access GPU %d of rank %d; choose GPUs joined "
                    "by NVLink or by PCIe peer access (nvidia-smi topo -p2p r)",
                    trade->comm->ctx->config.device, trade->comm->rank, ordinal, peer);
  if (!same) trade->foreign |= 1u << peer;
  return TML_OK;
}

/* ---- The allocation ------------------------------------------------------------------------- */

static CUmemAllocationProp symm_prop(const tml_comm *comm)
{
  CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                              .requestedHandleTypes = comm->world > 1
                                                          ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
                                                          : CU_MEM_HANDLE_TYPE_NONE,
                              .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
  prop.location.id = comm->ctx->device;
  return prop;
}

static tml_status symm_check_device(const tml_comm *comm)
{
  const tml_api *api = comm->ctx->api;
  int vmm = 0, posix = 1;
  TRY(CU(api, cuDeviceGetAttribute,
         (&vmm, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, comm->ctx->device)));
  if (comm->world > 1)
    TRY(CU(api, cuDeviceGetAttribute,
           (&posix, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
            comm->ctx->device)));
  if (vmm && posix) return TML_OK;
  return tml_fail(TML_UNSUPPORTED,
                  "GPU %d has no virtual memory management with POSIX file descriptors; "
                  "update the driver, or run outside of WSL or vGPU",
                  comm->ctx->config.device);
}

/* Maps a handle at a new address for this device: block->at[r]. */
static tml_status symm_map(tml_comm *comm, tml_block *block, int r,
                           CUmemGenericAllocationHandle handle)
{
  const tml_api *api = comm->ctx->api;
  CUdeviceptr at = 0;
  CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE},
                            .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  access.location.id = comm->ctx->device;
  TRY(CU(api, cuMemAddressReserve, (&at, block->bytes, 0, 0, 0)));
  tml_status status = CU(api, cuMemMap, (at, block->bytes, 0, handle, 0));
  if (status == TML_OK) {
    status = CU(api, cuMemSetAccess, (at, block->bytes, &access, 1));
    if (status != TML_OK) api->cuda.p_cuMemUnmap(at, block->bytes);
  }
  if (status != TML_OK) {
    api->cuda.p_cuMemAddressFree(at, block->bytes);
    return tml_wrap(status, "mapping the memory of rank %d at rank %d", r, comm->rank);
  }
  block->at[r] = at;
  return TML_OK;
}

/* Own memory: allocated, mapped, zeroed. */
static tml_status symm_take(tml_comm *comm, tml_block *block, size_t bytes)
{
  const tml_api *api = comm->ctx->api;
  CUmemAllocationProp prop = symm_prop(comm);
  size_t grain = 0;
  TRY(symm_check_device(comm));
  TRY(CU(api, cuMemGetAllocationGranularity,
         (&grain, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)));
  if (grain == 0 || bytes > SIZE_MAX - grain)
    return tml_fail(TML_ARGUMENT, "cannot take %zu bytes of symmetric memory", bytes);
  block->bytes = (bytes + grain - 1) / grain * grain;
  TRY(CU(api, cuMemCreate, (&block->handle[comm->rank], block->bytes, &prop, 0)));
  TRY(symm_map(comm, block, comm->rank, block->handle[comm->rank]));
  TRY(CU(api, cuMemsetD8Async, (block->at[comm->rank], 0, block->bytes, comm->copies)));
  return tml_stream_wait(comm->ctx, comm->copies, "zeroing symmetric memory");
}

/* ---- The trade ------------------------------------------------------------------------------ */

/* After the cards are in: judge the peers; make ready to trade if one is in another process. */
static tml_status trade_open(symm_trade *trade)
{
  tml_comm *comm = trade->comm;
  for (int r = 0; r < comm->world; ++r)
    if (r != comm->rank) TRY(symm_check_peer(trade, r));
  if (!trade->foreign) return TML_OK;
  TRY(CU(comm->ctx->api, cuMemExportToShareableHandle,
         (&trade->exported, trade->block->handle[comm->rank],
          CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0)));
  return tml_share_listen(&trade->cards[comm->rank].share, &trade->listener);
}

/* Descriptors to and from all other processes. */
static tml_status trade_descriptors(symm_trade *trade)
{
  tml_comm *comm = trade->comm;
  const tml_share_id *me = &trade->cards[comm->rank].share;
  tml_share_id peers[TML_MAX_WORLD] = {0};
  uint64_t deadline = tml_deadline(comm->ctx->config.timeout_us);
  if (!trade->foreign) return TML_OK;
  for (int r = 0; r < comm->world; ++r) {
    peers[r] = trade->cards[r].share;
    if (trade->foreign >> r & 1) TRY(tml_share_send(me, &peers[r], trade->exported, deadline));
  }
  return tml_share_receive(trade->listener, me, peers, trade->foreign, trade->fds, deadline);
}

static tml_status trade_map(symm_trade *trade)
{
  tml_comm *comm = trade->comm;
  tml_block *block = trade->block;
  TRY(trade_descriptors(trade));
  for (int r = 0; r < comm->world; ++r) {
    CUmemGenericAllocationHandle handle = (CUmemGenericAllocationHandle)trade->cards[r].handle;
    if (r == comm->rank) continue;
    if (trade->foreign >> r & 1) {
      TRY(CU(
          comm->ctx->api, cuMemImportFromShareableHandle,
          (&handle, (void *)(uintptr_t)trade->fds[r], CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)));
      block->handle[r] = handle; /* ours to release; a handle of this process stays its owner's */
    }
    TRY(symm_map(comm, block, r, handle));
  }
  return TML_OK;
}

static void trade_close(symm_trade *trade)
{
  if (trade->listener >= 0) close(trade->listener);
  if (trade->exported >= 0) close(trade->exported);
  for (int r = 0; r < TML_MAX_WORLD; ++r)
    if (trade->fds[r] >= 0) close(trade->fds[r]);
}

/* Three votes and one exchange, whatever a rank meets. The second vote says that all listen; the
 * last one that all have mapped: it is the barrier before the first use, and before an owner may
 * release. */
static tml_status trade_run(symm_trade *trade, size_t bytes)
{
  tml_group *group = trade->comm->group;
  symm_card mine;
  memset(&mine, 0, sizeof mine);
  tml_status status = trade->block ? symm_take(trade->comm, trade->block, bytes)
                                   : tml_fail(TML_MEMORY, "no memory for a block");
  if (status == TML_OK && trade->comm->world > 1) status = symm_card_fill(trade, &mine);
  TRY(tml_group_vote(group, status, "taking symmetric memory"));
  if (trade->comm->world == 1) return TML_OK;
  TRY(tml_group_all_gather(group, &mine, trade->cards, sizeof mine));
  TRY(tml_group_vote(group, trade_open(trade), "exporting symmetric memory"));
  return tml_group_vote(group, trade_map(trade), "mapping symmetric memory");
}

tml_status tml_block_create(tml_comm *comm, size_t bytes, tml_block **out)
{
  symm_trade trade = {
      .comm = comm, .block = calloc(1, sizeof(tml_block)), .listener = -1, .exported = -1};
  for (int r = 0; r < TML_MAX_WORLD; ++r) trade.fds[r] = -1;
  tml_status status = trade_run(&trade, bytes);
  trade_close(&trade);
  *out = NULL;
  if (status == TML_OK)
    *out = trade.block;
  else
    tml_block_free(comm, trade.block);
  return status;
}

void tml_block_free(tml_comm *comm, tml_block *block)
{
  if (!block) return;
  const tml_cuda *cuda = &comm->ctx->api->cuda;
  for (int r = 0; r < comm->world; ++r) {
    if (block->at[r]) {
      cuda->p_cuMemUnmap(block->at[r], block->bytes);
      cuda->p_cuMemAddressFree(block->at[r], block->bytes);
    }
    if (block->handle[r]) cuda->p_cuMemRelease(block->handle[r]);
  }
  free(block);
}
