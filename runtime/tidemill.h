/* Tidemill: tensor-parallel GEMMs whose communication runs inside the GEMM.
 *
 * This header is the manual. Units: m, n, k and leading dimensions in elements, sizes in bytes,
 * times in microseconds unless a name says otherwise. Every function returns a status; the detail,
 * a sentence that says what to do, is tml_last_error() of the calling thread. Nothing is printed,
 * nothing aborts. Structs that the caller fills open with `size`: set it to sizeof. A library whose
 * struct has grown refuses the older size by name, instead of reading past it (tml_config alone is
 * taken at its size). Zero is the default of every other field.
 *
 * Order of calls: ctx -> comm -> plans -> reserve -> launch... -> seal -> launch in graphs.
 *
 * Threads: a ctx may be used from any thread (calls that load or compile are serialised inside).
 * A comm and its plans belong to one thread at a time, and to one stream order: every rank launches
 * the plans of a comm in the same order, and two launches of one comm never run concurrently. Two
 * comms over the same GPUs must not run at the same time in different orders on different ranks: a
 * kernel holds all SMs while it waits for its peers. Kernels of the caller between two calls that use
 * programmatic dependent launch must wait for their predecessors (griddepcontrol.wait).
 *
 * Libraries: a plan may pick `nccl` (unfused) or `cublaslt` where they are faster. Those calls follow
 * the libraries' rules, not ours: NCCL's kernels are bounded only by destroying the comm and compare no
 * headers; a new m may cost cuBLASLt host work at its first launch. `strict` forbids both. */
#ifndef TIDEMILL_H
#define TIDEMILL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TML_VERSION "0.1.0"
#define TML_MAX_WORLD 8

#if defined(__GNUC__)
#define TML_API __attribute__((visibility("default")))
#else
#define TML_API
#endif

/* The CUDA and NCCL handles, declared as in cuda.h and nccl.h, so that neither is needed here. */
typedef struct CUstream_st *CUstream;
typedef struct ncclComm *ncclComm_t;

/* ---- Status ---------------------------------------------------------------------------------- */

#define TML_STATUS_MAP(X)                                              \
  X(OK, 0, "ok")                                                       \
  X(ARGUMENT, 1, "invalid argument")                                   \
  X(UNSUPPORTED, 2, "no legal variant")                                \
  X(MISS, 3, "not in the bank")                                        \
  X(TEMPLATE, 4, "template or space error")                            \
  X(COMPILE, 5, "NVRTC failed or its result was refused")              \
  X(DRIVER, 6, "CUDA, NCCL or cuBLASLt call failed")                   \
  X(DISAGREE, 7, "ranks disagree")                                     \
  X(TIMEOUT, 8, "peer late or gone")                                   \
  X(SEALED, 9, "needs work that is refused after sealing")             \
  X(MEMORY, 10, "out of memory")                                       \
  X(FAULT, 11, "the comm has a device fault; destroy and recreate it") \
  X(IO, 12, "file or socket error")                                    \
  X(NO_DEVICE, 13, "no usable GPU or driver")                          \
  X(INTERNAL, 14, "internal error")

#define TML_X(id, n, text) TML_##id = n,
typedef enum tml_status { TML_STATUS_MAP(TML_X) TML_STATUS_FORCE32 = 0x7fffffff } tml_status;
#undef TML_X

/* TML_VERSION of the library that runs; the caller's own is that of the header it was built with. */
TML_API const char *tml_version(void);
/* The fixed text of a status; never NULL. */
TML_API const char *tml_status_text(tml_status status);
/* The newest detail of this thread; "" if none. Valid until the thread's next call. */
TML_API const char *tml_last_error(void);

/* ---- Words ----------------------------------------------------------------------------------- */

#define TML_OP_MAP(X)      \
  X(GEMM, 0, "gemm")       \
  X(AG_GEMM, 1, "ag_gemm") \
  X(GEMM_RS, 2, "gemm_rs") \
  X(GEMM_AR, 3, "gemm_ar")
#define TML_DTYPE_MAP(X) \
  X(BF16, 0, "bf16")     \
  X(FP16, 1, "fp16")
#define TML_LAYOUT_MAP(X) X(NT, 0, "nt")

#define TML_X(id, n, text) TML_##id = n,
typedef enum tml_op { TML_OP_MAP(TML_X) } tml_op;
typedef enum tml_dtype { TML_DTYPE_MAP(TML_X) } tml_dtype;
typedef enum tml_layout { TML_LAYOUT_MAP(TML_X) } tml_layout;
#undef TML_X

/* A problem, as seen by one rank: C[m,n] = A[m,k] * B[n,k]^T (+ bias[n]), all row-major.
 *
 *   op       A given by the rank       B       C of the rank           m, n, k
 *   gemm     [m, k]                    [n, k]  [m, n]
 *   ag_gemm  [rows, k], its shard      [n, k]  [m, n]                  m = gathered rows, n = its columns
 *   gemm_rs  [m, k]                    [n, k]  [rows, n], its shard    m = all rows, k = its part
 *   gemm_ar  [m, k]                    [n, k]  [m, n]                  m = all rows, k = its part
 *
 * Shards: S = ceil(m / world) rows each; rank r owns rows [r*S, min((r+1)*S, m)): the last may be
 * short or empty. n and k must be multiples of 8; m is free, 0 included. The bias is added once, in
 * fp32, after the sum. In a plan's problem m is the largest m that will be launched. */
typedef struct tml_problem {
  size_t size;
  tml_op op;
  tml_dtype dtype;
  tml_layout layout;
  int world;
  int bias; /* 1: launches carry a bias */
  int64_t m, n, k;
} tml_problem;

/* Parses "ag_gemm:bf16:nt:w8:8192x6144x12288", with ":bias" after it for a bias. ARGUMENT names the
 * part that is wrong. */
TML_API tml_status tml_problem_parse(tml_problem *out, const char *text);
/* Prints that form into buf (at least 96 bytes); returns buf. */
TML_API char *tml_problem_print(const tml_problem *problem, char *buf, size_t bytes);

/* ---- Context: one device, one bank ------------------------------------------------------------ */

typedef struct tml_ctx tml_ctx;
typedef struct tml_comm tml_comm;
typedef struct tml_plan tml_plan;

typedef enum tml_log_level { TML_LOG_ERROR = 1, TML_LOG_WARN = 2, TML_LOG_INFO = 3 } tml_log_level;
typedef void (*tml_log_fn)(void *user, tml_log_level level, const char *line);

/* A field that is zero takes its value from the environment variable named beside it, if set. */
typedef struct tml_config {
  size_t size;
  int device;             /* CUDA device ordinal */
  const char *bank;       /* TIDEMILL_BANK: path of the bank; NULL: none, compile at load time */
  const char *source_dir; /* TIDEMILL_SOURCE: folder with gen/ and templates/, read instead of the
                               embedded copies, so that an edit shows at the next run */
  const char *force;      /* TIDEMILL_FORCE: variant name that every plan must use */
  int no_jit;             /* TIDEMILL_NO_JIT=1: never compile */
  int strict;             /* TIDEMILL_STRICT=1: never pick `nccl` or `cublaslt` */
  int bank_writable;      /* TIDEMILL_BANK_WRITABLE=1: keep what was compiled at load time */
  double timeout_us;      /* TIDEMILL_TIMEOUT_US: bound of every wait, device and set-up;
                               default 10 s, clamped to 0.1 .. 600 s */
  tml_log_fn log; /* called with one line a time, from inside of the library: it must not call
                             back into it; NULL: silent */
  void *log_user;
} tml_config;

/* OK, ARGUMENT, NO_DEVICE (no driver, no such GPU), UNSUPPORTED (a GPU of another architecture), MISS
 * (the bank is refused: the text says why), TEMPLATE, DRIVER, MEMORY. The device's primary context is retained, not made current. */
TML_API tml_status tml_ctx_create(tml_ctx **out, const tml_config *config);
TML_API void tml_ctx_destroy(tml_ctx *ctx); /* after its comms; NULL is fine */
/* From here on: nothing is compiled, loaded or allocated; what would need it returns SEALED. */
TML_API tml_status tml_seal(tml_ctx *ctx);

#define TML_COUNTER_MAP(X) \
  X(compiles)              \
  X(compile_errors)        \
  X(loads)                 \
  X(bank_hits)             \
  X(bank_misses)           \
  X(launches)              \
  X(fallbacks)             \
  X(faults)

#define TML_X(name) uint64_t name;
typedef struct tml_counters {
  size_t size;
  TML_COUNTER_MAP(TML_X)
} tml_counters;
#undef TML_X
TML_API tml_status tml_ctx_counters(const tml_ctx *ctx, tml_counters *out);

/* ---- Comm: one rank's membership in a group --------------------------------------------------- */

/* Collective. `nccl` is the caller's communicator, borrowed; NULL gives a world of one. Set-up runs
 * on a child of it; every step has the config's time-out. OK, ARGUMENT, DRIVER, DISAGREE (other
 * version or device kind on some rank), TIMEOUT (names the ranks that were waited for), MEMORY,
 * UNSUPPORTED (no symmetric memory between two of the devices), IO (a socket between the ranks), SEALED. */
TML_API tml_status tml_comm_create(tml_comm **out, tml_ctx *ctx, ncclComm_t nccl);
/* Collective while healthy; after a fault local: waits for no peer, only for this GPU's own bounded kernels.
 * Synchronise the streams that carry calls of the comm first: a peer unmaps its memory when all ranks are
 * here. Graphs that hold calls of the comm go first. NULL is fine. */
TML_API void tml_comm_destroy(tml_comm *comm);
TML_API int tml_comm_rank(const tml_comm *comm);
TML_API int tml_comm_world(const tml_comm *comm);

/* What a plan needs: `local` bytes on this device, the others per rank in symmetric memory. */
typedef struct tml_bytes {
  size_t size;
  size_t local;   /* temporaries of unfused variants */
  size_t staging; /* partial tiles; two copies are kept, by the parity of the call */
  size_t slots;   /* shards moved by copy engines; two copies are kept */
  size_t signals; /* signal words; two copies are kept */
} tml_bytes;
/* *into = the larger of both, field by field: what several plans need together. */
TML_API void tml_bytes_max(tml_bytes *into, const tml_bytes *other);

/* Collective: grows the comm's memory to at least `bytes`. Addresses in use never move. */
TML_API tml_status tml_comm_reserve(tml_comm *comm, const tml_bytes *bytes);
/* Collective: `bytes` of symmetric memory for the caller, freed with the comm. */
TML_API tml_status tml_alloc(tml_comm *comm, size_t bytes, void **ptr);

/* ---- Faults: what the device reports ----------------------------------------------------------- */

#define TML_FAULT_MAP(X)                                                                      \
  X(NONE, 0, "no fault")                                                                      \
  X(HEADER_TIMEOUT, 1, "the peer never started the call")                                     \
  X(SHARD_TIMEOUT, 2, "the peer's shard of A did not arrive")                                 \
  X(PARTIAL_TIMEOUT, 3, "the peer's partial tile did not arrive")                             \
  X(RESULT_TIMEOUT, 4, "the peer's finished tile did not arrive")                             \
  X(SLOT_TIMEOUT, 5, "the peer did not release a copy slot")                                  \
  X(MISMATCH, 6,                                                                              \
    "the peer launched something else (op, m, n, k, variant or order of calls), or a launch " \
    "failed on one of the two")                                                               \
  X(PEER_ABORT, 7, "the peer raised an abort")

#define TML_X(id, n, text) TML_FAULT_##id = n,
typedef enum tml_fault_code { TML_FAULT_MAP(TML_X) } tml_fault_code;
#undef TML_X

typedef struct tml_fault {
  size_t size;
  tml_fault_code code;
  int rank;          /* who waited */
  int peer;          /* for whom */
  int64_t tile;      /* which tile or shard of the peer; -1 if none */
  uint64_t expected; /* epoch, or fingerprint for MISMATCH */
  uint64_t found;
  double waited_us;
} tml_fault;

/* Never blocks. OK: no fault. FAULT: *out says who waited for whom; sticky. May be called from any
 * thread while kernels run. */
TML_API tml_status tml_poll(tml_comm *comm, tml_fault *out);
TML_API const char *tml_fault_text(tml_fault_code code);

/* ---- Plan: a problem, resolved, loaded, ready ---------------------------------------------------- */

/* Collective. Resolves the picks for every m up to problem->m, loads their kernels, and takes no
 * device memory but the code. ARGUMENT, UNSUPPORTED (the text holds the reason of the space), MISS
 * (nothing loadable and no JIT), COMPILE, TEMPLATE, SEALED, DISAGREE, TIMEOUT, DRIVER, MEMORY, FAULT
 * (the comm has one), INTERNAL. */
TML_API tml_status tml_plan_create(tml_plan **out, tml_comm *comm, const tml_problem *problem);
TML_API void tml_plan_destroy(tml_plan *plan); /* local; NULL is fine */
TML_API tml_status tml_plan_workspace(const tml_plan *plan, tml_bytes *out);
/* The name of the variant that serves this m; valid as long as the plan. NULL if m is out of range. */
TML_API const char *tml_plan_variant(const tml_plan *plan, int64_t m);

typedef struct tml_args {
  size_t size;
  int64_t m;         /* 0 .. the plan's m; equal on all ranks */
  const void *a, *b; /* 16-byte aligned device pointers */
  const void *bias;  /* [n] in the problem's dtype if the problem has a bias, else NULL */
  void *c;
  int64_t lda, ldb, ldc; /* in elements, multiples of 8; 0: packed (k, k, n). Where `nccl` serves a
                            gemm_ar, C must be packed; `strict` rules that out */
  /* ag_gemm: NULL, or [m, k], packed, 16-byte aligned, overlapping no other buffer: gets the
   * gathered A. Each rank decides for itself; lda must be k. */
  void *gathered;
  /* gemm_ar: 1: C is memory of tml_alloc on this comm, at the same offset and with the same ldc on
   * all ranks: `twoshot` then saves a copy. */
  int c_symmetric;
  /* ag_gemm: 1: A is memory of tml_alloc on this comm, at the same offset on all ranks, also of one without
   * rows, with room for a whole shard: `ce` then pulls the peers' shards instead of pushing its own. */
  int a_symmetric;
} tml_args;

/* Enqueues the call; collective in stream order. Capturable in a CUDA graph (all ranks capture the
 * same calls and replay equally often). Allocates, compiles, loads, locks and synchronises nothing.
 * The device's primary context must be current. The buffers belong to the caller again when the
 * call completes on its stream. After a fault C is undefined: calls run out without waiting. So
 * is the gathered A, also of the call before the one that finds the fault. A launch that fails enqueues
 * nothing that counts: where it fails on all ranks alike they may go on, where it fails on some the
 * next calls of the comm end in MISMATCH instead of taking each other's data. (`nccl` cannot tell, nor
 * can replays of graphs that were captured before: make the comm anew.)
 * OK, ARGUMENT (also: m above the plan's, reserve missing), FAULT, DRIVER; with `nccl` also TIMEOUT. */
TML_API tml_status tml_launch(tml_plan *plan, const tml_args *args, CUstream stream);

#ifdef __cplusplus
}
#endif
#endif
