/* Inside of the fakes: one process-wide machine behind one lock. Nothing here is for tests. */
#ifndef TML_FAKE_MACHINE_H
#define TML_FAKE_MACHINE_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fake.h"

/* Everything that must be destroyed. The dead stay in a list until the next fake_open, so that a
 * stale handle is found out and never dereferenced into freed memory. X(kind, what fake_check_clean
 * calls it) */
#define FAKE_OBJECT_MAP(X)                 \
  X(ALLOC, "device memory")                \
  X(HOST, "host memory")                   \
  X(HANDLE, "memory handle")               \
  X(RANGE, "address reservation")          \
  X(MAPPING, "mapping")                    \
  X(STREAM, "stream")                      \
  X(EVENT, "event")                        \
  X(GRAPH, "graph")                        \
  X(EXEC, "graph exec")                    \
  X(LIBRARY, "library")                    \
  X(PROGRAM, "NVRTC program")              \
  X(COMM, "NCCL communicator")             \
  X(LT, "cuBLASLt handle")                 \
  X(LT_DESC, "cuBLASLt matmul descriptor") \
  X(LT_LAYOUT, "cuBLASLt layout")          \
  X(LT_PREF, "cuBLASLt preference")
#define FAKE_X(kind, text) OBJ_##kind,
typedef enum { FAKE_OBJECT_MAP(FAKE_X) OBJ_KINDS } fake_object_kind;
#undef FAKE_X

typedef struct fake_object {
  struct fake_object *next;
  fake_object_kind kind;
  int device;
  size_t bytes;
} fake_object;

/* ---- Collectives ---- */

typedef struct fake_share { /* what one rank brings to a collective */
  const char *call;
  const void *src;
  void *dst;
  size_t count;
  int type, root, here; /* here: at the head of its stream */
} fake_share;

typedef struct fake_coll {
  struct fake_coll *next;
  struct fake_world *world;
  long seq;
  int size, done;
  fake_share share[FAKE_DEVICES];
} fake_coll;

/* ---- Work in streams and graphs ---- */

typedef struct fake_matmul {
  int m, n, k, ta, tb;
  long lda, ldb, ldc;
  int type, out_fp32;
  float alpha, beta;
  const void *a, *b;
  void *c;
} fake_matmul;

typedef struct fake_work {
  struct fake_work *next;
  fake_op op;
  unsigned char value;      /* MEMSET */
  struct fake_event *event; /* RECORD, WAIT */
  unsigned long generation;
  struct fake_comm *comm; /* NCCL: NULL once aborted; the collective is found when the work enters a
                             stream, so that every replay is a new one */
  int rank;
  fake_share share;
  fake_coll *coll;
  fake_matmul matmul;
} fake_work;

typedef struct fake_graph {
  fake_object object;
  fake_work *head, *tail;
  int ops;
  /* while it is being captured */
  struct fake_stream *origin;
  CUstreamCaptureMode mode;
  unsigned clock[FAKE_STREAMS][FAKE_STREAMS];
  unsigned char joined[FAKE_STREAMS];
} fake_graph;

typedef struct fake_stream {
  fake_object object;
  int index, priority;
  fake_work *head, *tail;
  unsigned clock[FAKE_STREAMS];
  fake_graph *capture;
} fake_stream;

typedef struct fake_event {
  fake_object object;
  unsigned long recorded, done;
  unsigned clock[FAKE_STREAMS];
  fake_graph *capture; /* recorded in this capture */
  double ms;
  int timed;
} fake_event;

typedef struct fake_learnt {
  struct fake_learnt *next;
  char symbol[TML_NAME_BYTES];
  size_t size[FAKE_PARAMS];
  int count;
} fake_learnt;

typedef struct fake_device {
  char context; /* its address is the CUcontext */
  int retained;
  size_t used;
  fake_stream stream; /* the default stream */
} fake_device;

typedef struct fake_machine {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  fake_config config;
  tml_api api;
  fake_device device[FAKE_DEVICES];
  fake_object *live, *dead;
  fake_stream *streams[FAKE_STREAMS];
  fake_work *log_head, *log_tail;
  int log_count;
  fake_learnt *learnt;
  fake_coll *colls;
  struct fake_world *worlds;
  int captures; /* in global mode */
  long calls, fail_at;
  CUresult fail_error;
  char fail_function[64], failed[64];
  CUresult fail_function_error;
  int failures;
  double now_ms;
} fake_machine;

extern fake_machine fake_m;

/* ---- Calls ---- */

enum { NEED_NOTHING = 0, NEED_CONTEXT = 1, NOT_CAPTURING = 2 };

/* Locks, counts, checks. Anything but CUDA_SUCCESS is what the call must return. */
CUresult fake_begin(const char *function, unsigned needs);
CUresult fake_end(CUresult result);
/* The same for the other libraries: 1 if the call must fail. */
int fake_begin_other(const char *function);
int fake_end_other(int result);

/* A call that creates or does: an injected failure has no effect. */
#define BEGIN(needs)                                     \
  do {                                                   \
    CUresult begin_ = fake_begin(__func__ + 5, (needs)); \
    if (begin_ != CUDA_SUCCESS) return fake_end(begin_); \
  } while (0)
#define END(result) return fake_end((result))
/* A call that releases: a failure is reported, what it releases is gone nevertheless. */
#define BEGIN_RELEASE(needs) CUresult injected = fake_begin(__func__ + 5, (needs))
#define END_RELEASE(result)                                          \
  do {                                                               \
    CUresult release_ = (result);                                    \
    return fake_end(injected != CUDA_SUCCESS ? injected : release_); \
  } while (0)

/* Device of the thread's current context; -1: none. */
int fake_current_device(void);
void fake_set_current_device(int device);
void fake_reset_thread_calls(void);
int fake_thread_capturing(int change);

/* ---- Objects ---- */

void *fake_object_new(fake_object_kind kind, int device, size_t size);
/* NULL unless it is a living object of this kind. */
void *fake_object_find(fake_object_kind kind, const void *pointer);
void fake_object_kill(void *object);

/* ---- Streams ---- */

/* The stream of a handle for the current device; NULL: not a stream of it. */
fake_stream *fake_stream_of(CUstream stream);
/* A zeroed piece of work; enters the stream, or its capture. */
fake_work *fake_work_new(fake_kind kind);
CUresult fake_enqueue(fake_stream *stream, fake_work *work);
void fake_work_free(fake_work *work);
void fake_work_clear(fake_work **head, fake_work **tail);
/* Runs everything that can run. Under the lock. */
void fake_pump(void);
/* Waits until the stream is empty. Under the lock. */
CUresult fake_drain(fake_stream *stream);
CUresult fake_drain_device(int device);
void fake_streams_reset(void);
/* Waits for a change, at most until `deadline` (from fake_deadline); 0: it has passed. */
void fake_deadline(struct timespec *out);
int fake_wait_change(const struct timespec *deadline);

/* ---- Parts of the table ---- */

void fake_fill_device(tml_cuda *cuda);
void fake_fill_memory(tml_cuda *cuda);
void fake_fill_stream(tml_cuda *cuda);
void fake_fill_graph(tml_cuda *cuda);
void fake_fill_launch(tml_cuda *cuda);
void fake_fill_nccl(tml_nccl *nccl);
void fake_fill_lt(tml_lt *lt);
void fake_fill_nvrtc(tml_nvrtc *nvrtc);

void fake_memory_release(fake_object *object);
void fake_library_release(fake_object *object);

/* NCCL: 1 if the collective has run (it runs when all shares are there). */
int fake_coll_step(fake_work *work);
void fake_coll_enter(fake_work *work);
void fake_nccl_reset(void);
int fake_nccl_world(int world, int rank, const tml_nccl_id *id, ncclComm_t *out);
void fake_nccl_leave(ncclComm_t comm);

void fake_matmul_run(const fake_matmul *matmul);
float fake_load16(const void *at, size_t i, int bf16);
void fake_store16(void *at, size_t i, int bf16, float value);

#endif
