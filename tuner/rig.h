/* The rig: everything one rank process needs around the library: context, communicator, comm, a
 * stream, the kernels that make inputs and references, and a device-side barrier. */
#ifndef TML_RIG_H
#define TML_RIG_H

#include "../runtime/plan.h"
#include "cli.h"
#include "problems.h"
#include "ranks.h"

/* Options that every command with ranks has. */
typedef struct rig_options {
  const char *bank, *source, *force, *device;
  int world, no_jit, bank_writable, seed;
  double timeout_s;
} rig_options;

/* clang-format off */
#define RIG_OPTIONS(o)                                                                             \
  {"--bank", "-b", CLI_TEXT, &(o).bank, "FILE", "the bank; default: $TIDEMILL_BANK"},              \
  {"--world", "-w", CLI_COUNT, &(o).world, "N",                                                      \
   "ranks, one process per GPU; default: all GPUs"},                                               \
  {"--timeout", NULL, CLI_REAL, &(o).timeout_s, "SECONDS",                                         \
   "bound of every wait for another rank (0.1 to 600); default: $TIDEMILL_TIMEOUT_US, or 10"},                               \
  {"--source", NULL, CLI_TEXT, &(o).source, "DIR",                                                 \
   "read gen/ and templates/ from this folder instead of the built-in copies"},                    \
  {"--device", NULL, CLI_TEXT, &(o).device, "KIND",                                                \
   "gpu, or emu: kernels run on the CPU, ranks are threads; default gpu"},                         \
  {"--seed", NULL, CLI_COUNT, &(o).seed, "N", "of the emulator's schedule and of check --stress; default 1"}
/* clang-format on */

typedef struct rig {
  const tml_api *api;
  tml_ctx *ctx;
  tml_gen *gen; /* the rig's own: used without the context's lock */
  ncclComm_t nccl;
  tml_comm *comm;
  int rank, world;
  double timeout_s;
  int host_inputs; /* 1: the host makes the inputs, bit by bit those of the emulator */
  CUdevice device;
  CUcontext previous, primary; /* primary: retained here too, so that NCCL outlives a reload */
  CUstream stream;
  CUevent start, stop;
  tml_kernel *fill[2], *reference[2]; /* by dtype; NULL: rig_need */
  tml_plan *barrier;     /* a fused plan, launched with m = 0; NULL: none in this world */
  CUdeviceptr scratch;   /* RIG_SCRATCH bytes: arguments of the barrier, the delay's target */
  CUdeviceptr symmetric; /* of tml_alloc, as much as was asked for so far */
  size_t symmetric_bytes;
  uint64_t delay_count; /* elements that one block fills in a pause */
  struct {
    void *at;
    size_t bytes;
  } host; /* pinned */
} rig;

#define RIG_SCRATCH (16u << 20)

/* World and time-out make sense? CLI_OK or CLI_USAGE after a message. */
int rig_check_options(const char *command, rig_options *options);
/* Collective: rendezvous, NCCL, context, comm. The text says what failed. */
tml_status rig_open(rig *r, const ranks_env *env, const rig_options *options);
void rig_close(rig *r, int healthy);
/* One line: command, rank, the sentence. Returns CLI_FAILED. */
int rig_fail(const ranks_env *env, tml_status status, const char *command);
/* Collective: destroys the comm (plans on it must be gone) and makes a new one; the barrier too. */
tml_status rig_rebuild(rig *r);
/* Collective: a new context and comm over the same communicator, so that the bank is read again. */
tml_status rig_reload(rig *r, const rig_options *options);
/* The pattern of a variant that was named by the space. */
tml_pattern rig_pattern(rig *r, const char *variant);
/* Collective: at least `bytes` of symmetric memory, the same until more is asked for. */
tml_status rig_symmetric(rig *r, size_t bytes, CUdeviceptr *out);
/* Waits until the stream is idle, at most the time-out plus the seconds of work; then looks for a
 * fault. FAULT has a sentence that names who waited for whom. */
tml_status rig_wait(rig *r, double work_s);
tml_status rig_poll(rig *r);
/* Enqueues a device-side barrier (headers are exchanged, nothing else). */
tml_status rig_barrier(rig *r);
/* Enqueues a pause of about 0.2 ms with one busy SM (on the emulator: of some ten thousand primitives). */
tml_status rig_pause(rig *r);
/* The same, so that the host can enqueue what follows; nothing where it need not hurry. */
tml_status rig_delay(rig *r);
/* Pinned host memory of at least `bytes`, kept until the rig closes. */
tml_status rig_host(rig *r, size_t bytes, void **out);
/* Collective: workspace of the plan. */
tml_status rig_reserve(rig *r, const tml_plan *plan);
/* MISS with a sentence if a kernel of `fill` or `reference` is not there. */
tml_status rig_need(const tml_kernel *kernel, tml_dtype dtype);
/* The first fused variant, by the model, that serves the problem (pattern other than nccl): of those in
 * the bank, or of all if none is. The same on every rank with the same bank. */
tml_status rig_first_fused(rig *r, const tml_problem *problem, char out[TML_NAME_BYTES]);

#endif
