/* Inside of the emulator's driver table: one machine behind one lock. */
#ifndef TML_EMU_DRIVER_H
#define TML_EMU_DRIVER_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emu.h"

/* ---- Objects: everything that must be destroyed ------------------------------------------------- */

/* X(kind, what tml_emu_alive calls it) */
#define DRV_OBJECT_MAP(X)         \
  X(ALLOC, "device memory")       \
  X(HOST, "host memory")          \
  X(HANDLE, "memory handle")      \
  X(RANGE, "address reservation") \
  X(MAPPING, "mapping")           \
  X(STREAM, "stream")             \
  X(EVENT, "event")               \
  X(GRAPH, "graph")               \
  X(EXEC, "graph exec")           \
  X(LIBRARY, "library")           \
  X(PROGRAM, "NVRTC program")     \
  X(COMM, "NCCL communicator")
#define DRV_X(kind, text) DRV_##kind,
typedef enum { DRV_OBJECT_MAP(DRV_X) DRV_KINDS } drv_kind;
#undef DRV_X

typedef struct drv_object {
  struct drv_object *next;
  drv_kind kind;
  int device;
} drv_object;

typedef struct drv_memory { /* ALLOC, HOST, HANDLE, RANGE, MAPPING */
  drv_object object;
  uint64_t at;
  size_t bytes;
  emu_memory *memory;
  void *host;
} drv_memory;

/* ---- Host threads ------------------------------------------------------------------------------- */

typedef int (*drv_ready_fn)(void *arg);

typedef struct drv_thread {
  struct drv_thread *next;
  unsigned long machine; /* that `clock` belongs to */
  int device;            /* of the current context; -1: none */
  int pushed[16], depth;
  int enlisted; /* a rank: has a part also while no context is current */
  int waiting;  /* inside a call, for `ready` */
  int satisfied;
  drv_ready_fn ready;
  void *arg;
  emu_clock *clock; /* what this thread knows to have happened */
  int group_depth;
  int captures;
} drv_thread;

/* ---- Work: operations in streams and graphs ------------------------------------------------------ */

typedef enum {
  WORK_NONE,
  WORK_RECORD,
  WORK_LAUNCH,
  WORK_COPY,
  WORK_SET,
  WORK_IN,
  WORK_OUT,
  WORK_NCCL
} work_kind;

typedef struct drv_library {
  drv_object object;
  int refs;           /* of the handle and of work */
  const void *module; /* emu_module */
  struct drv_kernel {
    struct drv_library *library;
    int smem;
  } kernel;
} drv_library;
typedef struct drv_kernel drv_kernel;

typedef struct drv_share { /* what one rank brings to a collective */
  const char *call;
  uint64_t src, dst;
  size_t count;
  int type, root;
} drv_share;

/* What is to be done: shared by a graph's node and the operations that its launches make. */
typedef struct drv_work {
  int refs;
  work_kind kind;
  uint64_t dst, src;
  size_t bytes;                      /* COPY: of a row */
  size_t rows, dst_pitch, src_pitch; /* COPY */
  unsigned char value;
  void *host; /* IN: a copy of the caller's bytes; OUT: where they go */
  drv_library *library;
  emu_launch launch;
  void *params;
  struct drv_comm *comm; /* NCCL; NULL once aborted */
  drv_share share;
} drv_work;

typedef enum { OP_WAITING, OP_RUNNING, OP_DONE } op_state;

typedef struct drv_op {
  struct drv_op *next; /* in its device's list, in order of enqueueing */
  int refs, device;
  op_state state;
  int blockers; /* operations before it that are not done */
  struct drv_op **after;
  int after_count;
  drv_work *work;
  struct drv_coll *coll;
  int rank; /* in the collective */
  emu_clock *clock;
  uint64_t done_ns;
} drv_op;

typedef struct drv_node {
  drv_work *work;
  int device;
  int *before; /* nodes */
  int before_count;
} drv_node;

typedef struct drv_graph { /* GRAPH, EXEC */
  drv_object object;
  drv_node *nodes;
  int count;
  struct drv_stream *origin; /* while it is being captured */
} drv_graph;

typedef struct drv_stream {
  drv_object object;
  drv_op *tail;
  drv_op *data; /* newest copy of more than a word, for a mistake */
  drv_graph *capture;
  int at; /* node that the next captured one comes after; -1: none */
} drv_stream;

typedef struct drv_event {
  drv_object object;
  int timed;
  drv_op *op;         /* newest record */
  drv_graph *capture; /* recorded in this capture, at node `at` */
  int at;
} drv_event;

/* ---- Collectives ----------------------------------------------------------------------------------- */

typedef struct drv_coll {
  struct drv_coll *next;
  struct drv_world *world;
  long number;
  int size, here, refs;
  drv_share share[EMU_MAX_DEVICES];
  drv_op *op[EMU_MAX_DEVICES]; /* at the head of their streams */
  emu_clock *clock;
} drv_coll;

/* ---- The machine ------------------------------------------------------------------------------------ */

typedef struct drv_device {
  char context; /* its address is the CUcontext */
  int retained;
  size_t used;
  drv_stream stream;      /* the default stream */
  drv_op *ops, *ops_tail; /* that are not done */
  CUresult error;         /* sticky */
  int stopped;
  long fail_at;
  CUresult fail_error;
  long stop_at;
  tml_emu_point stop_point;
  uint64_t stop_primitives;
  uint64_t delay[2];
} drv_device;

typedef struct drv_machine {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  unsigned long number; /* of the machine, counted by tml_emu_open */
  emu_machine *emu;
  tml_emu_config config;
  tml_api api;
  drv_device device[EMU_MAX_DEVICES];
  drv_device nowhere; /* faults of calls without a device */
  drv_object *alive;
  drv_thread *threads;
  drv_coll *colls;
  struct drv_world *worlds;
  long calls; /* of anybody: a waiting thread sees that others are about */
  int captures;
  char failed[64], refused[200], stuck[4000];
  tml_emu_mistake mistake;
  tml_emu_edit_fn edit;
  void *edit_user;
} drv_machine;

extern drv_machine drv;

/* ---- Calls -------------------------------------------------------------------------------------- */

enum { NEED_NOTHING = 0, NEED_CONTEXT = 1, NOT_CAPTURING = 2 };

/* Locks, counts, checks. Anything but CUDA_SUCCESS is what the call must return. */
CUresult drv_begin(const char *function, unsigned needs);
CUresult drv_end(CUresult result);
/* The same for the other libraries: 1 if the call must fail. */
int drv_begin_other(const char *function);
int drv_end_other(int result);
/* A value or option that the emulator does not have: kept with the call's name. Gives `result`. */
CUresult drv_refuse(CUresult result, const char *function, const char *why);

/* A call that creates or does: an injected failure has no effect. The name follows "drv_". */
#define BEGIN(needs)                                    \
  do {                                                  \
    CUresult begin_ = drv_begin(__func__ + 4, (needs)); \
    if (begin_ != CUDA_SUCCESS) return drv_end(begin_); \
  } while (0)
#define END(result) return drv_end(result)
/* A call that releases: a failure is reported, what it releases is gone nevertheless. */
#define BEGIN_RELEASE(needs) CUresult injected = drv_begin(__func__ + 4, (needs))
#define END_RELEASE(result)                                         \
  do {                                                              \
    CUresult release_ = (result);                                   \
    return drv_end(injected != CUDA_SUCCESS ? injected : release_); \
  } while (0)
#define REFUSE(result, why) END(drv_refuse((result), __func__ + 4, (why)))
/* `why` from the executing half; NULL is success. */
#define END_BY(result, why_text)                                         \
  do {                                                                   \
    const char *why_ = (why_text);                                       \
    END(why_ ? drv_refuse((result), __func__ + 4, why_) : CUDA_SUCCESS); \
  } while (0)

drv_thread *drv_self(void);
int drv_current(void); /* device of the calling thread; -1: none */

/* ---- Objects ------------------------------------------------------------------------------------ */

/* NULL: out of memory. */
void *drv_object_new(drv_kind kind, int device, size_t size);
void *drv_object_find(drv_kind kind, const void *pointer);
/* Takes it out of the list and frees it. */
void drv_object_kill(void *object);
drv_memory *drv_memory_at(drv_kind kind, uint64_t at);
void drv_memory_release(drv_memory *memory);

/* ---- Waiting ------------------------------------------------------------------------------------ */

/* Waits, with the lock held, until ready(arg), while devices move. 1: it is. 0: not, and it will not be
 * before another host thread does something (after `patience_s` of real time). */
int drv_wait(drv_ready_fn ready, void *arg, double patience_s);
void drv_threads_reset(void);

/* ---- Work --------------------------------------------------------------------------------------- */

drv_work *drv_work_new(work_kind kind);
void drv_work_drop(drv_work *work);
/* The stream of a handle, for the current device; NULL: it is none. */
drv_stream *drv_stream_of(CUstream handle);
/* Into the stream, or the graph that it records; takes the work. *out, if not NULL, is the operation, which
 * the caller drops (NULL under capture). */
CUresult drv_enqueue(drv_stream *stream, drv_work *work, drv_op **out);
/* An operation after `before` (NULLs are skipped); takes the work. */
drv_op *drv_op_new(int device, drv_work *work, drv_op *const *before, int count);
void drv_op_drop(drv_op *op);
void drv_op_done(void *op);
/* Starts everything that may start. 1: something completed at once. */
int drv_pump(void);
/* Until nothing of the device is left; stopped and failed devices count as idle. */
CUresult drv_drain(int device);
CUresult drv_wait_op(drv_op *op, double patience_s);
void drv_graph_clear(drv_graph *graph);
void drv_device_error(int device, CUresult error);
void drv_stop(int device);

/* ---- Parts -------------------------------------------------------------------------------------- */

void drv_fill_device(tml_cuda *cuda);
void drv_fill_memory(tml_cuda *cuda);
void drv_fill_copy(tml_cuda *cuda);
void drv_fill_stream(tml_cuda *cuda);
void drv_fill_graph(tml_cuda *cuda);
void drv_fill_launch(tml_cuda *cuda);
void drv_fill_nccl(tml_nccl *nccl);
void drv_fill_nvrtc(tml_nvrtc *nvrtc);
void drv_program_free(drv_object *object);
void drv_compile_forget(void);
void drv_library_drop(drv_library *library);
void drv_library_forget(void);

/* Collectives. */
void drv_coll_enter(drv_op *op);
void drv_coll_here(drv_op *op);
void drv_coll_drop(drv_coll *coll);
void drv_nccl_reset(void);
typedef struct drv_data {
  int ranks, type;
  unsigned char *src[EMU_MAX_DEVICES], *dst[EMU_MAX_DEVICES];
} drv_data;
void drv_gather(const drv_data *data, size_t bytes);
void drv_broadcast(const drv_data *data, int root, size_t bytes);
/* The sum of elements [from, from + count) into the destination of rank `to`. */
void drv_reduce(const drv_data *data, int to, size_t from, size_t count);
void drv_reduce_all(const drv_data *data, size_t count);

#endif
