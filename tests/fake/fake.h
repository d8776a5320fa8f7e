/* Recording fakes of the driver table: "Fake H200" devices whose memory is host memory.
 *
 * A device pointer of the fake IS a host pointer, equal in every thread of the process: tests read
 * and write it directly. Copies, memsets and NCCL collectives really move bytes, in stream order; a
 * cuBLASLt matmul really computes; kernels are recorded (name, grid, attributes, parameters) and do
 * nothing. Work runs at once, except that a stream whose head is
 * an NCCL collective waits until all ranks (threads) have enqueued theirs.
 *
 * Misuse that the real driver refuses is refused here too (no current context, unaligned tensor
 * maps, unjoined captures, allocation under capture, ...). What is created must be destroyed:
 * fake_check_clean() lists the rest.
 *
 * One process-wide machine: fake_open() resets it. */
#ifndef TML_FAKE_H
#define TML_FAKE_H

#include "api.h"
#include "gen.h"

#define FAKE_DEVICES 8
#define FAKE_STREAMS 64 /* most streams alive at once, over all devices */
#define FAKE_PARAMS 32

/* Where the table's NVRTC comes from. The fake one accepts every text in no time and gives a cubin
 * that cuLibraryLoadData of the fake accepts (any symbol whose name is in the text exists). */
typedef enum { FAKE_NVRTC_FAKE, FAKE_NVRTC_REAL, FAKE_NVRTC_NONE } fake_nvrtc;

/* Zero fields take the default beside them. */
typedef struct fake_config {
  int devices;      /* 8; -1: a driver without devices */
  const char *name; /* "Fake H200" */
  int sms;          /* 132 */
  int cc;           /* 90 */
  int driver;       /* 13000 */
  size_t memory;    /* bytes per device: 4 GiB; beyond it cuMemAlloc and cuMemCreate fail */
  fake_nvrtc nvrtc;
  int no_cuda, no_nccl, no_lt;
  int no_vmm;       /* the device says that it has no VMM or no POSIX handles */
  int registers;    /* per thread of every kernel: 168 */
  int nccl_wait_ms; /* how long a blocking NCCL call or a synchronise waits for others: 20000 */
} fake_config;

/* A fresh machine and its table (static storage, valid until the next call). config NULL: defaults.
 */
const tml_api *fake_open(const fake_config *config);
/* The table of the newest fake_open, writable: a test may replace single functions. */
tml_api *fake_table(void);
/* On: the functions that a launch uses do nothing, record nothing, and cost as little as a call can
 * (host cost tests). Off: as before. No other thread may be inside of the table meanwhile. */
void fake_null(int on);

/* What is still alive: prints one line each to stderr, returns how many. File descriptors of
 * exported memory that nobody closed count. */
int fake_check_clean(void);

/* ---- Faults and counts --------------------------------------------------------------------------
 */

/* Calls of the CUDA, NCCL and cuBLASLt tables since fake_open; by one function ("cuMemAlloc"). */
long fake_calls(void);
long fake_calls_of(const char *function);
/* The same of the calling thread (a rank) only. */
long fake_thread_calls(void);
/* The k-th call from now (1: the next) fails: CUDA calls with `error`, NCCL calls with 1
 * (ncclUnhandledCudaError), cuBLASLt with CUBLAS_STATUS_INTERNAL_ERROR. A failing release still
 * releases. k = 0 cancels. The first counts every thread's calls, the second the caller's. */
void fake_fail_call(long k, CUresult error);
void fake_fail_thread_call(long k, CUresult error);
/* Every later call of this function fails; NULL cancels. */
void fake_fail_function(const char *function, CUresult error);
/* Name of the call that failed last; "" if none has. */
const char *fake_failed(void);

/* ---- What was done
 * ------------------------------------------------------------------------------- */

typedef enum {
  FAKE_COPY,
  FAKE_MEMSET,
  FAKE_LAUNCH,
  FAKE_RECORD,
  FAKE_WAIT,
  FAKE_NCCL,
  FAKE_MATMUL,
  FAKE_GRAPH
} fake_kind;

typedef struct fake_launch {
  char name[TML_NAME_BYTES]; /* symbol */
  unsigned grid[3], block[3], cluster[3], smem;
  int cooperative, programmatic; /* attributes given with the launch */
  int params;                    /* 0 unless the symbol was learnt */
  size_t size[FAKE_PARAMS];
  void *param[FAKE_PARAMS]; /* copies */
} fake_launch;

typedef struct fake_op {
  fake_kind kind;
  int device,
      stream;   /* stream: small number, unique among the living; 0..7 are the default streams */
  int captured; /* recorded into a graph, not run */
  int replayed; /* run by a graph launch */
  CUdeviceptr dst, src;
  size_t bytes;                      /* copies: of a row */
  size_t rows, dst_pitch, src_pitch; /* copies; rows is 1 unless they are of two dimensions */
  void *object;                      /* event, graph exec or NCCL comm */
  fake_launch launch;                /* FAKE_LAUNCH */
  char call[32];                     /* FAKE_NCCL: "AllGather", ... */
  int m, n, k;                       /* FAKE_MATMUL, as cuBLASLt sees them (column-major) */
  unsigned clock[FAKE_STREAMS];      /* vector clock: for fake_before */
} fake_op;

/* Operations in the order in which they ran (eager and replayed), since fake_open. */
int fake_op_count(void);
const fake_op *fake_op_at(int i);
/* Operations that a graph holds, in the order of their recording. */
int fake_graph_op_count(CUgraph graph);
const fake_op *fake_graph_op_at(CUgraph graph, int i);
/* 1 if stream order and events alone guarantee that `a` completes before `b` starts. Both from the
 * same list, both eager or both of one graph. */
int fake_before(const fake_op *a, const fake_op *b);
/* The next operation of this kind at or after i, or -1; for launches, whose symbol holds `part`. */
int fake_find_op(int i, fake_kind kind, const char *part);

/* Teaches the parameter sizes of a kernel, so that launches keep copies of the parameters. */
void fake_learn(const char *symbol, const size_t *sizes, int count);
/* The same from a variant: sizes by the C types of TML_PARAM_MAP, map tables by op and world. */
void fake_learn_variant(const tml_variant *variant);
/* The copy of a learnt launch's parameter; NULL if the variant has none of that name. */
const void *fake_param(const fake_op *op, const tml_variant *variant, tml_param param);

/* ---- Tensor maps
 * ----------------------------------------------------------------------------------- */

/* What an encoded CUtensorMap of the fake holds. Sizes in elements, strides in bytes; stride[i]
 * belongs to dim[i + 1]. */
typedef struct fake_map {
  char magic[8]; /* "FAKEMAP" */
  uint64_t address, dim[5], stride[4];
  uint16_t box[5];
  uint8_t rank, type, interleave, swizzle, promotion, fill;
  uint8_t element_stride[5];
} fake_map;

/* 1 and *out if this is a map that the fake encoded. */
int fake_map_decode(const void *map, fake_map *out);

/* ---- NCCL between threads
 * --------------------------------------------------------------------------- */

/* The whole of what a test of W ranks needs: W threads, each with a (blocking) NCCL communicator of
 * the world and its own device current; returns when all have returned. The communicator is
 * destroyed afterwards unless fn aborted or destroyed it and set *nccl to NULL. Failures of cmocka
 * asserts inside threads do not work: use FAKE_CHECK and look at the result. */
typedef void (*fake_rank_fn)(void *user, int rank, ncclComm_t *nccl);
void fake_run_ranks(int world, fake_rank_fn fn, void *user);

/* Thread-safe assert of rank functions: prints file, line and text, and counts. */
#define FAKE_CHECK(ok) fake_check_at((ok) != 0, #ok, __FILE__, __LINE__)
#define FAKE_CHECK_OK(call)                                                              \
  do {                                                                                   \
    tml_status fs_ = (call);                                                             \
    if (!fake_check_at(fs_ == TML_OK, #call, __FILE__, __LINE__)) fake_print_error(fs_); \
  } while (0)
int fake_check_at(int ok, const char *text, const char *file, int line);
void fake_print_error(tml_status status);
/* How many failed since the last call of this. */
int fake_check_failures(void);

#endif
