/* A rank's membership: symmetric memory, control pad, staging segments, fault record, copy streams.
 *
 * Symmetric memory: cuMemCreate (POSIX file descriptor), exported, passed over an abstract Unix
 * socket to the other processes, mapped directly where ranks share a process. An imported mapping
 * outlives its owner. Every block is zeroed before its address is exchanged, and a group barrier
 * after mapping comes before the first launch.
 *
 * Control pad: one block per rank, layout from gen/layout.lua. A segment is one block per rank:
 *   [signals: 2 parities][staging: 2 parities][slots: 2]
 * The signal area of a segment holds nothing but epochs for ever, so a stale word is always older
 * than the epoch that is waited for, whatever plan wrote it. Growing adds a segment; a plan uses
 * the newest one at its first launch after a reserve. */
#ifndef TML_COMM_H
#define TML_COMM_H

#include "ctx.h"
#include "group.h"

/* One symmetric block: at[r] is rank r's copy as mapped here; at[rank] is local. */
typedef struct tml_block {
  size_t bytes;
  CUdeviceptr at[TML_MAX_WORLD];
  CUmemGenericAllocationHandle handle[TML_MAX_WORLD];
  struct tml_block *next;
} tml_block;

typedef struct tml_segment {
  tml_block *block;
  tml_bytes bytes; /* of one parity or slot, each a multiple of 1024 (signals: of 128) */
  size_t staging_at, slots_at; /* offsets in the block; signals are at 0 */
  struct tml_segment *next;    /* older */
} tml_segment;

/* Temporaries of this device alone. */
typedef struct tml_local {
  CUdeviceptr at;
  size_t bytes;
  struct tml_local *next; /* older: captured graphs may still use it */
} tml_local;

/* Host-mapped, written once by a kernel: word 0 is the code and is written last. */
typedef struct tml_record {
  volatile uint64_t code, rank, peer, tile, expected, found, waited_ns, aborted;
} tml_record;

struct tml_comm {
  tml_ctx *ctx;
  tml_group *group;
  int rank, world;
  tml_block *pad;
  tml_block *blocks;    /* of tml_alloc */
  tml_segment *segment; /* newest; NULL until a reserve */
  CUdeviceptr local;    /* temporaries of unfused variants */
  size_t local_bytes;
  tml_local *locals; /* newest first; the first is `local` */
  tml_record *record;
  CUdeviceptr record_at; /* as the device sees it */
  uint64_t timeout_ns;
  CUstream copies; /* high priority, non-blocking: copy engines */
  CUevent fork, join;
  int slot;                      /* of the next `ce` call */
  int64_t failures;              /* launches on the peers that failed on this rank */
  cublasLtHandle_t lt;           /* NULL until first needed, never created after sealing */
  struct tml_lt_cache *lt_cache; /* of lt.c, which frees both */
  struct tml_plan *plans;        /* alive; comm_free calls tml_plans_orphan (plan.h) */
  atomic_int fault_seen;         /* the fault is already counted in the ctx */
};

/* The newest segment covers this? */
int tml_comm_has(const tml_comm *comm, const tml_bytes *bytes);
/* The block of tml_alloc that holds this address of this rank; NULL: none does. */
const tml_block *tml_comm_block(const tml_comm *comm, CUdeviceptr at);
/* The comm has a device fault? Fills *out (may be NULL) as tml_poll does, without text or count. */
int tml_comm_fault(const tml_comm *comm, tml_fault *out);
/* Collective, with the ctx's context current: a zeroed block of at least `bytes` on every rank; on
 * failure every rank gets the same status. UNSUPPORTED (no VMM, no way between two devices, another
 * host), MEMORY, DISAGREE, IO, DRIVER, TIMEOUT. */
tml_status tml_block_create(tml_comm *comm, size_t bytes, tml_block **out);
/* Local; peers keep what they mapped. NULL is fine. */
void tml_block_free(tml_comm *comm, tml_block *block);

#endif
