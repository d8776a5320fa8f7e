/* Inside of the emulator's NCCL: worlds of ranks and their communicators. */
#ifndef TML_EMU_NCCL_H
#define TML_EMU_NCCL_H

#include "driver.h"

typedef struct drv_split { /* one CommSplit of a world */
  struct drv_split *next;
  int number, arrived, color[EMU_MAX_DEVICES], key[EMU_MAX_DEVICES];
  struct drv_world *child[EMU_MAX_DEVICES]; /* by the parent's rank */
  int rank[EMU_MAX_DEVICES];
} drv_split;

typedef struct drv_world {
  struct drv_world *next;
  long id;
  int size, joined;
  drv_split *splits;
} drv_world;

typedef struct drv_comm {
  drv_object object;
  drv_world *world;
  int rank, blocking;
  long number;          /* of the next collective */
  int splits;           /* begun */
  drv_split *splitting; /* begun and not yet handed out */
  ncclComm_t *split_out;
  int split_blocking;
} drv_comm;

/* Collectives of this rank that have not begun everywhere are dropped, as after ncclCommAbort. */
void drv_coll_abandon(const drv_comm *comm);
/* 1: the rank of this communicator (which may be gone) has nothing in flight on it. */
int drv_coll_quiet(void *handle);

#endif
