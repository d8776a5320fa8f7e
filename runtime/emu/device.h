/* The emulated machine: W devices that execute generated kernels, and everything asynchronous.
 *
 * The driver table of the emulator (memory, streams, graphs, collectives, compiling) is written on
 * top of this page; it decides *when an operation may start* (stream order, graphs). This half
 * decides how it runs: every CUDA thread is a fibre under one seeded scheduler, asynchronous work
 * lands late, and whatever the memory model does not order is reported.
 *
 * Nothing here locks: all calls for one machine come from one thread at a time (the baton), but not
 * always from the same one. Fibres run inside emu_run alone. Functions that can fail return NULL or
 * a sentence (static or held by the machine until the next call); NULL where a sentence is returned
 * means success. */
#ifndef EMU_DEVICE_H
#define EMU_DEVICE_H

#include <stddef.h>
#include <stdint.h>

typedef struct emu_machine emu_machine;
typedef struct emu_memory emu_memory; /* a piece of physical memory with an owner */
typedef struct emu_clock
    emu_clock; /* what happened before: the order of a stream, event or host thread */

#define EMU_MAX_DEVICES 8
#define EMU_HOST (-1) /* owner of host memory; "device" of a copy that the host asked for */

/* ---- The machine ----------------------------------------------------------------------------- */

typedef struct {
  int devices;      /* 1..8 */
  int resident;     /* blocks that a device holds at a time ("SMs"), 1..32; 0: 4 */
  uint64_t seed;    /* same seed and same calls: same run */
  int switch_every; /* mean number of primitives between unforced switches; 0: 16; 1: at each */
  uint64_t late_ns; /* an asynchronous step takes up to this long, some 10 times it; 0: 2000 */
  int no_hazards;   /* 1: execute only, no shadow memory (for speed measurements) */
} emu_config;

emu_machine *emu_machine_create(const emu_config *config); /* NULL: out of memory or bad config */
void emu_machine_destroy(emu_machine *m);                  /* also with work under way */

uint64_t emu_now_ns(const emu_machine *m); /* virtual time; starts at 1 s */

/* Faults on request: no thread of this device runs any more, at once or after so many of its
 * scheduler steps; its kernels never complete. What is in flight still lands. */
void emu_halt(emu_machine *m, int device, uint64_t after_steps);

/* ---- Memory ---------------------------------------------------------------------------------- */
/* Physical memory has bytes, an owner and shadow state; addresses are ranges mapped onto it. One
 * memory may be mapped several times (a peer's import); hazards follow the memory, not the
 * address. */

/* Fresh memory is uninitialised: reading it before it is written is reported. */
emu_memory *emu_memory_create(emu_machine *m, int owner, size_t bytes);
/* Bytes that the host owns and may touch directly; counted as initialised. They must outlive it. */
emu_memory *emu_memory_wrap(emu_machine *m, void *bytes, size_t size);
/* Reference counted: mappings hold it too. What is in flight to unmapped memory is dropped. */
void emu_memory_release(emu_memory *memory);
void emu_memory_retain(emu_memory *memory);

/* A free range of addresses, never reused by a later call while reserved; align: a power of two. */
uint64_t emu_reserve(emu_machine *m, size_t bytes, size_t align);
void emu_unreserve(emu_machine *m, uint64_t at, size_t bytes);
/* Maps [at, at + bytes) onto memory + offset. `devices`: bit d set: kernels and bulk copies of
 * device d may use it. Ranges must not overlap another mapping. For wrapped memory `at` is normally
 * its host address. */
const char *emu_map(emu_machine *m, uint64_t at, size_t bytes, emu_memory *memory, size_t offset,
                    uint32_t devices);
const char *emu_set_access(emu_machine *m, uint64_t at, size_t bytes,
                           uint32_t devices); /* bits that are added */
const char *emu_unmap(emu_machine *m, uint64_t at, size_t bytes);

/* Host pointer for [at, at + bytes), or NULL where that is not inside one mapping. No hazard
 * checks. */
void *emu_pointer(const emu_machine *m, uint64_t at, size_t bytes);

/* ---- Order ----------------------------------------------------------------------------------- */
/* A clock knows a set of finished work. A stream has one: its operations start with what it knows
 * and add themselves to it when they complete. An event takes what its stream knew (join into a
 * fresh clock), a waiting stream joins the event's. A host thread has one as well:
 * cuStreamSynchronize joins the stream's into it, a launch joins it into the stream's. Destroying
 * and creating clocks is cheap enough for every event. */
emu_clock *emu_clock_create(emu_machine *m);
void emu_clock_destroy(emu_clock *clock);
void emu_clock_join(emu_clock *into, const emu_clock *from);
void emu_clock_copy(emu_clock *into, const emu_clock *from);

/* ---- Operations ------------------------------------------------------------------------------ */
/* All are asynchronous: submitted when they may start, complete inside a later emu_run, which calls
 * done(arg) (it may submit further operations; it must not call emu_run). `clock` may be NULL (no
 * order: only for set-up) and must live until then. One clock has at most one operation under way
 * at a time (stream order). */

typedef void (*emu_kernel_entry)(void **params); /* see templates/prim/emu_table.cu.in */

typedef struct {
  int device;
  const char *name; /* of the kernel, for reports; copied */
  emu_kernel_entry entry;
  void *const *params;   /* one pointer per parameter; the values are copied at submission */
  const uint32_t *sizes; /* bytes of each parameter */
  int count;
  uint32_t grid, block; /* one dimension; threads: 1..1024 */
  uint32_t cluster;     /* blocks of a cluster, 1..8 */
  uint32_t smem;        /* dynamic shared memory, bytes, at most 232448 */
  int cooperative;      /* all blocks must fit at once */
} emu_launch;

/* NULL, or why the launch is refused (too large for the device when cooperative, bad shape). */
const char *emu_submit_launch(emu_machine *m, const emu_launch *launch, emu_clock *clock,
                              void (*done)(void *), void *arg);

/* A copy engine's copy. It lands after a random delay, the bytes in order of neither address nor
 * time; an aligned word of 8 bytes is copied whole. Copies of at most 64 bytes carry release
 * semantics for words that are polled (what the stream did before is visible to who acquires the
 * word). delay_ns: added (faults on request). dst, src: mapped addresses. `what` names it in
 * reports. */
const char *emu_submit_copy(emu_machine *m, uint64_t dst, uint64_t src, size_t bytes,
                            uint64_t delay_ns, const char *what, emu_clock *clock,
                            void (*done)(void *), void *arg);
/* 2-D: rows of `width` bytes. */
const char *emu_submit_copy_2d(emu_machine *m, uint64_t dst, size_t dst_pitch, uint64_t src,
                               size_t src_pitch, size_t width, size_t rows, uint64_t delay_ns,
                               const char *what, emu_clock *clock, void (*done)(void *), void *arg);

/* Anything else that touches memory (memset, the collectives of NCCL, a library's GEMM, a host
 * function): `run` is called once when it lands, with host pointers free to use (emu_pointer); the
 * ranges are checked for hazards like a copy's. `start` of reads is when the operation is
 * submitted. */
typedef struct {
  uint64_t at;
  size_t bytes;
  int write; /* 0: read, 1: written */
} emu_range;
const char *emu_submit_work(emu_machine *m, const emu_range *ranges, int count, uint64_t delay_ns,
                            const char *what, void (*run)(void *), void *run_arg, emu_clock *clock,
                            void (*done)(void *), void *arg);

/* Synchronous accesses of the host (cuMemcpy while nothing else is ordered): checks and shadow as
 * above. */
const char *emu_host_write(emu_machine *m, uint64_t dst, const void *src, size_t bytes,
                           emu_clock *host);
const char *emu_host_read(emu_machine *m, void *dst, uint64_t src, size_t bytes, emu_clock *host);

/* The table that a kernel module gets through its `primitives`. */
const void *emu_primitives_of_abi(unsigned abi); /* NULL: another ABI */

/* ---- Running --------------------------------------------------------------------------------- */

typedef enum {
  EMU_IDLE,    /* no operation is under way */
  EMU_DONE,    /* at least one operation completed (its done() was called) */
  EMU_MORE,    /* the budget is used up */
  EMU_POLLING, /* what is left polls words that nothing under way will write: another host
                  thread must act, or time must pass (emu_pass_time) */
  EMU_STUCK,   /* what is left waits for ever (barriers): emu_waiting says for what */
} emu_state;

/* Runs until one of the above; `switches`: at most so many steps of the scheduler (0: no bound). */
emu_state emu_run(emu_machine *m, uint64_t switches);
/* When all host threads wait and emu_run says EMU_POLLING: lets the pollers look at the clock once
 * more. The step grows with each call in a row up to 1 ms, so a time-out of seconds takes thousands
 * of calls, not billions. */
void emu_pass_time(emu_machine *m);
/* Who waits for what, one line each; length as snprintf. */
size_t emu_waiting(emu_machine *m, char *text, size_t size);

/* ---- Reports --------------------------------------------------------------------------------- */

typedef enum {
  EMU_UNORDERED_READ, /* shared memory read before the phase of its barrier */
  EMU_OVERWRITTEN,    /* memory overwritten while a reader may still need it */
  EMU_NO_PROXY_FENCE, /* generic and async proxy without the fence between them */
  EMU_EARLY_SIGNAL,   /* signal released before the bulk group of its data was complete */
  EMU_NO_ACQUIRE,     /* another agent's global data without a release/acquire chain */
  EMU_UNINITIALISED,
  EMU_OUT_OF_BOUNDS,
  EMU_ACCUMULATOR, /* touched between issue and wait, or wgmma misuse */
  EMU_BARRIER,     /* mbarrier misuse */
  EMU_MISUSE,      /* of another primitive: alignment, convergence, leaving too early */
  EMU_HAZARDS      /* number of kinds */
} emu_hazard;

typedef struct {
  emu_hazard kind;
  int device;
  uint32_t block, thread; /* UINT32_MAX: not a thread */
  uint64_t address;       /* shared: offset in the block's window; global: virtual address */
  const char *kernel;     /* or the copy's name */
  const char *file;       /* template, or "" */
  int line;
  uint64_t times;   /* how often the same finding (kind, kernel, place) came up */
  const char *text; /* one sentence that holds all of it */
} emu_report;

const char *emu_hazard_name(emu_hazard kind);
size_t emu_report_count(const emu_machine *m);
const emu_report *emu_report_at(const emu_machine *m, size_t index);
void emu_report_clear(emu_machine *m);

typedef struct {
  uint64_t primitives, switches, events, launches;
} emu_counts;
emu_counts emu_count(const emu_machine *m);

/* ---- Tensor maps ----------------------------------------------------------------------------- */

typedef struct {
  uint64_t at;        /* global address, 16-byte aligned */
  int rank;           /* 1..5 */
  int element;        /* bytes: 2 or 4 */
  uint64_t dim[5];    /* elements, innermost first */
  uint64_t stride[5]; /* bytes between elements of dimension i; stride[0] = element */
  uint32_t box[5];
  int swizzle; /* 0: none, 1: 32, 2: 64, 3: 128 bytes (CUtensorMapSwizzle) */
} emu_tensor;
/* Fills the 128 bytes of a CUtensorMap in the emulator's own format. NULL, or the rule that is
 * broken. */
const char *emu_tensor_encode(void *map, const emu_tensor *tensor);

#endif
