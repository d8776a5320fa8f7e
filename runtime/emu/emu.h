/* The emulator's driver table: CUDA driver, NVRTC and NCCL of a machine that executes generated kernels
 * on the CPU, with up to eight devices in one process.
 *
 * Above device.h, which runs kernels and asynchronous work: here are memory, streams, events, graphs,
 * libraries, launches, collectives and the compiler. The runtime, the tuner and the program run over it
 * unchanged. cuBLASLt is absent. What the table does not hold does not exist: an option or a value outside
 * of what the runtime uses fails, and tml_emu_refused says which.
 *
 * Ranks are host threads. Every call takes one lock, and devices move only while every host thread that
 * has a part in the machine waits inside a call: so the order in which the threads reach their calls does
 * not matter, and the same seed gives the same run. Events and device time-outs read the virtual clock.
 *
 * One machine per process. */
#ifndef TML_EMU_H
#define TML_EMU_H

#include "api.h"
#include "device.h"

/* Zero fields take the default beside them. */
typedef struct tml_emu_config {
  int devices;      /* 8 */
  int sms;          /* 4: multiprocessors, each holds one block at a time */
  int resident;     /* blocks that are really resident, at most `sms`: sms */
  uint64_t seed;    /* 1 */
  int switch_every; /* as in emu_config */
  uint64_t late_ns; /* as in emu_config */
  int no_hazards;   /* 1: execute only */
  size_t memory;    /* bytes of each device: 1 GiB */
  double host_s;    /* how long a thread that waits gives others that stay away: 20 */
  const char *cc;   /* the C compiler: $TIDEMILL_CC, else "cc" */
} tml_emu_config;

/* A fresh machine; NULL: defaults. No thread may be inside a call, and nothing made before is used again. MEMORY, ARGUMENT. */
tml_status tml_emu_open(const tml_emu_config *config);
/* Frees the machine. */
void tml_emu_close(void);
/* Its compiler, as the rows of a bank name it; no NVRTC has this version. */
#define TML_EMU_COMPILER "nvrtc 0.1"
/* The table, with isa "emu"; opens a machine with the defaults if there is none. Never NULL. */
const tml_api *tml_emu_api(void);
/* The executing half, for its reports and counts; NULL if no machine is open. Only while no call is under way. */
emu_machine *tml_emu_machine(void);

/* Runs fn on `world` threads, rank r with device r as its own, and waits for them. While they run, devices
 * move only when all that are left wait. Gives how many of them returned something but 0; -1: no threads. */
typedef int (*tml_emu_rank_fn)(void *user, int rank);
int tml_emu_run_ranks(int world, tml_emu_rank_fn fn, void *user);
/* A blocking communicator of the calling rank in a world of that size, without an exchange of ids; the
 * n-th call of each rank makes the n-th world. NULL if the ranks do not all come. */
ncclComm_t tml_emu_world(int world, int rank);

/* For a process that ends in the middle of anything: removes the folders of compilations under way. */
void tml_emu_tidy(void);

/* ---- Findings ----------------------------------------------------------------------------------- */

/* What is still alive: one line each to `out` (may be NULL); how many. */
int tml_emu_alive(FILE *out);
/* The last call outside the subset, or that broke a rule: its name and why. "" if none. */
const char *tml_emu_refused(void);
/* Why a device stopped: a deadlock, with who waits for what. "" if none has. */
const char *tml_emu_stuck(void);

/* ---- Faults on request -------------------------------------------------------------------------- */

/* The k-th call from now for this device (-1: without one) fails (1: the next; 0: none): CUDA with `error`, NCCL with
 * ncclUnhandledCudaError, NVRTC with an internal error. A failing release still releases. */
void tml_emu_fail(int device, long k, CUresult error);
/* The name of the call that failed last by request; "" if none has. */
const char *tml_emu_failed(void);

typedef enum { TML_EMU_BEFORE, TML_EMU_INSIDE, TML_EMU_AFTER } tml_emu_point;
/* The rank of this device stops at its n-th launch from now (1: the next): nothing of it moves any more,
 * and its calls fail. `primitives`: how far inside. */
void tml_emu_stop(int device, tml_emu_point point, long launch, uint64_t primitives);
/* Launches (what 0) or copies (what 1) of the device begin or land so much later. */
void tml_emu_delay(int device, int what, uint64_t ns);

/* Mistakes of a driver or of the runtime above it, to show that they are found. */
typedef enum {
  TML_EMU_SOUND,
  TML_EMU_SIGNAL_FIRST, /* copies of 8 bytes do not wait for the copies before them in their stream */
  TML_EMU_NO_WAIT_EVENT, /* cuStreamWaitEvent orders nothing */
  TML_EMU_STALE_MAP      /* tensor maps have 8 rows too many */
} tml_emu_mistake;
void tml_emu_mistake_set(tml_emu_mistake mistake);

/* Replaces the text of programs before they are compiled: gives a malloc'ed text, or NULL for no change.
 * Mutants of generated kernels. NULL: none. */
typedef char *(*tml_emu_edit_fn)(void *user, const char *name, const char *text);
void tml_emu_edit(tml_emu_edit_fn fn, void *user);

#endif
