/* Group operations of set-up, agreement and votes: small, synchronous, bounded. Never on the
 * launch path.
 *
 * Over a child of the caller's communicator (ncclCommSplit, non-blocking), polled against a
 * deadline and aborted when it passes; after that every call returns TIMEOUT at once. A group of
 * one needs nothing and always succeeds.
 *
 * Invariant of every user: the same calls on every rank, whatever each one meets. Ranks that are at
 * different calls get DISAGREE, and the group is dead. */
#ifndef TML_GROUP_H
#define TML_GROUP_H

#include "ctx.h"

typedef struct tml_group tml_group;

#define TML_GROUP_BYTES 4096 /* most bytes per rank of one operation */

tml_status tml_group_create(tml_group **out, tml_ctx *ctx, ncclComm_t nccl);
void tml_group_destroy(tml_group *group, int healthy);
int tml_group_rank(const tml_group *group);
int tml_group_world(const tml_group *group);
/* The child communicator, for the unfused variants; NULL in a world of one and once the group is
 * dead. */
ncclComm_t tml_group_nccl(tml_group *group);
/* in: `bytes` of this rank; out: world * bytes. DRIVER, DISAGREE, TIMEOUT. */
tml_status tml_group_all_gather(tml_group *group, const void *in, void *out, size_t bytes);
tml_status tml_group_broadcast(tml_group *group, void *data, size_t bytes, int root);
/* Everyone's worst: OK only if all gave OK; else every rank gets the status of the lowest failing
 * rank and a text that names it (its own text is kept where it failed itself). `what` is the same
 * on every rank. */
tml_status tml_group_vote(tml_group *group, tml_status mine, const char *what);
tml_status tml_group_max(tml_group *group, double *values, size_t count);
tml_status tml_group_barrier(tml_group *group);
/* 1 after a time-out or error: every operation returns TIMEOUT at once. */
int tml_group_dead(const tml_group *group);

/* Waits on the host for all work of a stream, at most the config's time-out. The ctx's context is
 * current. DRIVER, TIMEOUT. */
tml_status tml_stream_wait(tml_ctx *ctx, CUstream stream, const char *what);

#endif
