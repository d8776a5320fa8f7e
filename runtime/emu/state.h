/* The emulated machine inside: what the parts of the device half share. */
#ifndef EMU_STATE_H
#define EMU_STATE_H

#include "../../templates/prim/emu_table.cu.in"
#include "device.h"
#include "fibre.h"
#include "order.h"

#include <stdarg.h>

#define EMU_SMEM_BASE 1024u /* window address of a block's first shared byte */
#define EMU_SMEM_MAX 232448u
#define EMU_WARPS 32u
#define EMU_BULK_USERS 8u
#define EMU_MBARS 72u
#define EMU_CELL 16u /* bytes that one shadow cell stands for */

/* Agents of a block, in its group. */
enum {
  EMU_AGENT_WARP = 0,
  EMU_AGENT_ASYNC = 32, /* from here on: asynchronous ones */
  EMU_AGENT_TENSOR = 32,
  EMU_AGENT_BULK_READ = 40,
  EMU_AGENT_BULK_WRITE = 48,
  EMU_AGENT_MBAR = 56
};

/* Head of what lives until an event frees it, or the machine's end. */
typedef struct emu_object {
  struct emu_object *next, *previous;
  void (*destroy)(void *);
} emu_object;

typedef struct emu_thread emu_thread;
typedef struct emu_cta emu_cta;
typedef struct emu_run emu_run_state; /* a kernel under way */
typedef struct emu_bulk emu_bulk;
typedef struct emu_delayed emu_delayed; /* a store that is not visible yet */
typedef struct emu_word emu_word;

/* 16 bytes of memory: who wrote last, who has read since. */
typedef struct {
  u32 wrote;   /* clock of the writer; 0: nobody */
  u16 writer;  /* agent */
  u16 bytes;   /* of the last write, one bit each */
  u16 site;    /* of the last write */
  u16 defined; /* bytes that were ever written */
  u32 issued;  /* asynchronous writer: the issuing warp's clock then */
  u16 issuer;  /* ... and its agent */
  struct {
    u32 clock;
    u16 agent, site, bytes;
  } reader[2];
} emu_cell;

typedef struct {
  u32 at, agent;
  u32 base;              /* clock of the agent when the barrier was made */
  u32 expected, pending; /* arrivals */
  u32 phase;             /* completed so far */
  i64 tx;                /* bytes still to come in this phase; below 0: early ones */
  u32 loads;             /* under way that complete here */
  int far, done_far;     /* another block wrote or released: in the open phase, the completed one */
  emu_order open, done;  /* of the arrivals so far; of the completed phases */
  emu_thread *waiting;
} emu_mbar;

/* ---- wgmma ----------------------------------------------------------------------------------- */
typedef struct {
  u64 a, b;
  u32 columns, fp16, accumulate;
  u32 threads;     /* that have issued it */
  u32 accumulator; /* index; UINT32_MAX: nobody yet */
  u32 group;
  emu_site *site;
} emu_mma;

typedef struct {
  u32 users; /* threads that have it in flight; 0: free */
  u32 columns;
  float *d[128]; /* the threads' registers; NULL: not in flight */
  u32 last[128]; /* group of each thread's newest use */
  float *sum;    /* [64][columns] */
} emu_accumulator;

#define EMU_MMAS 128u
typedef struct {
  emu_mma ring[EMU_MMAS];
  u32 head, tail;          /* performed, issued by at least one thread */
  u32 group_end[EMU_MMAS]; /* op index behind each group (ring) */
  u32 group_threads[EMU_MMAS];
  u32 groups, performed; /* committed by all threads, performed */
  u32 agent, base;
  u64 due; /* of the newest group */
  emu_accumulator acc[8];
  emu_thread *waiting;
} emu_warpgroup;

/* ---- Warps, threads, blocks ------------------------------------------------------------------ */
typedef struct {
  emu_cta *cta;
  u32 agent, clock, live;
  u32 synced; /* clock of the newest barrier of its lanes */
  emu_order order;
  emu_order fenced; /* at its newest mbar_init_fence (cluster_meet passes it on) */
  int has_fenced;
  const char *collective; /* name of the one that gathers lanes */
  u32 arrived;
  emu_thread *waiting;
  u32 argument[32][5];
  u32 result;
} emu_warp;

enum { EMU_NEW, EMU_READY, EMU_RUNNING, EMU_BLOCKED, EMU_SLEEPING, EMU_PARKED, EMU_DEAD };

struct emu_thread {
  emu_cta *cta;
  emu_warp *warp;
  u32 index;
  int state;
  emu_fibre *fibre;
  emu_site *site;     /* of the primitive that it is in, or did last */
  emu_thread *next;   /* in the list that it waits in */
  const char *waits;  /* for what; NULL: it does not */
  u64 wait_a, wait_b; /* what emu_waiting prints */
  u64 poll_at, poll_value;
  const void *poll_key; /* the word itself, whatever the address */
  u32 polls;            /* of the same value in a row */
  emu_bulk *bulk;
  u32 mmas, groups; /* wgmma operations issued, groups committed */
  u32 unfenced;     /* clock of its first write to shared memory since its proxy fence; 0: none */
  int fenced;       /* wgmma_fence since its accumulators were last its own */
};

typedef struct {
  emu_cta *cta[8];
  u32 count, left;   /* blocks; those that have not ended */
  u32 live, arrived; /* threads */
  emu_thread *waiting;
  emu_order open, done;
} emu_cluster;

/* A place for a resident block; keeps what is dear to make. */
typedef struct {
  emu_cta *cta;       /* NULL: free */
  u32 group;          /* of agents */
  u32 now[EMU_GROUP]; /* clocks of its agents, never back */
  unsigned char *smem;
  emu_cell *cells;
  u16 *mbar_at;       /* per 8 bytes: index + 1 of the mbarrier there */
  emu_thread **ready; /* its block's threads that can run */
  u32 ready_count, ready_room;
  u32 active_at; /* index in the machine's list of places with ready threads */
} emu_slot;

struct emu_cta {
  emu_machine *m;
  emu_run_state *run;
  emu_slot *slot;
  emu_cluster *cluster;
  int device;
  u32 block, rank; /* in the grid, in the cluster */
  u32 smem_bytes;
  u32 threads, live;
  emu_thread *thread;
  u32 warps;
  emu_warp *warp;
  u32 arrived; /* at block_sync */
  emu_thread *waiting;
  emu_order open, done;
  emu_mbar mbar[EMU_MBARS];
  u32 mbars, bulk_users;
  emu_warpgroup *group[8];
  emu_delayed *delayed; /* stores not visible yet, newest first */
  u32 loads, reads;     /* asynchronous work on its shared memory: into it, from it */
};

struct emu_run {
  emu_run_state *next;
  emu_machine *m;
  int device;
  char *name;
  emu_kernel_entry entry;
  void **params;
  u32 grid, block, cluster, smem;
  u32 started, ended; /* blocks */
  emu_order start;    /* what its threads know from the beginning */
  emu_vector finish;  /* what is known when it is over */
  emu_clock *clock;
  void (*done)(void *);
  void *arg;
};

struct emu_clock {
  emu_machine *m;
  u32 agent, now;
  emu_vector all;
};

/* ---- Machine --------------------------------------------------------------------------------- */
typedef struct {
  u64 time, number;
  void (*run)(void *);
  void *arg;
} emu_event;

typedef struct {
  uint64_t at; /* start of the mapping */
  size_t bytes;
  emu_memory *memory;
  size_t offset; /* of the mapping in its memory */
  uint32_t devices;
} emu_mapping;

struct emu_machine {
  emu_config config;
  u64 random[2];
  u64 now;
  u32 groups, block_groups;
  emu_fibres *fibres;
  emu_slot *slot; /* devices * resident */
  /* scheduler */
  emu_slot **active; /* places with ready threads */
  u32 active_count;
  emu_slot *burst_slot; /* the place that runs for a while, */
  u32 burst;            /* ... so many steps: its stacks stay in the cache */
  emu_thread *self;     /* the running one */
  u32 until_switch;
  emu_event *event;
  u32 event_count, event_room;
  u64 event_number;
  emu_thread *parked;
  u32 parked_count, idle_steps;
  int dispatch;                    /* blocks may be able to start */
  u32 completed;                   /* operations, in this emu_run */
  u32 under_way;                   /* operations */
  emu_run_state *runs;             /* in order of submission */
  u64 halt_after[EMU_MAX_DEVICES]; /* steps left; UINT64_MAX: never */
  emu_counts counts;
  /* memory */
  emu_mapping *mapping;
  u32 mapping_count, mapping_room, mapping_last;
  u64 next_address;
  emu_memory *memories;
  emu_object objects;                    /* list head */
  u32 stream_agents[EMU_GROUP / 32 * 2]; /* taken, a bit each */
  u32 stream_now[EMU_GROUP * 2];
  /* reports */
  emu_report *report;
  size_t report_count, report_room;
};

/* ---- sched.c --------------------------------------------------------------------------------- */
u64 emu_below(emu_machine *m, u64 below);
u64 emu_late(emu_machine *m); /* a random delay of an asynchronous step, ns */
/* A zeroed object of `bytes` that begins with an emu_object; emu_object_free calls destroy and
 * frees it. */
void *emu_object_new(emu_machine *m, size_t bytes, void (*destroy)(void *));
void emu_object_free(void *object);
void emu_at(emu_machine *m, u64 delay, void (*run)(void *), void *arg);
void emu_ready(emu_machine *m, emu_thread *thread);
/* In a fibre: waits in *list until emu_wake. `what` is for emu_waiting. */
void emu_wait(emu_thread **list, const char *what, u64 a, u64 b);
void emu_wake(emu_machine *m, emu_thread **list);
void emu_sleep(u64 ns);
void emu_park(void);
void emu_unpark(emu_machine *m, const void *word); /* its pollers; NULL: all */
/* The running thread, at the start of each primitive: counts, and may switch. */
emu_thread *emu_enter(emu_site *site);
emu_thread *emu_self(void);
void emu_complete(emu_machine *m, emu_clock *clock, void (*done)(void *), void *arg);

/* ---- report.c -------------------------------------------------------------------------------- */
u16 emu_site_id(emu_site *site);
void emu_hazard_at(emu_machine *m, emu_hazard kind, const emu_cta *cta, const emu_thread *thread,
                   emu_site *site, u64 address, const char *format, ...)
    __attribute__((format(printf, 7, 8)));
/* Of the running thread's primitive. */
void emu_hazard_here(emu_hazard kind, u64 address, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void emu_hazard_op(emu_machine *m, emu_hazard kind, const char *name, u64 address,
                   const char *format, ...) __attribute__((format(printf, 5, 6)));
const char *emu_agent_name(const emu_machine *m, u32 agent, char *text, size_t size);
const char *emu_site_text(u16 id, char *text, size_t size);

/* ---- shadow.c -------------------------------------------------------------------------------- */
/* Who accesses: knowledge, identity and place. */
typedef struct {
  emu_machine *m;
  const emu_order *order;  /* NULL: knows everything (no checks of order) */
  const emu_vector *proxy; /* async accesses: what its proxy knows of generic ones; NULL: generic */
  u32 agent, clock;
  u16 site;
  const emu_cta *cta; /* of the report */
  const emu_thread *thread;
  emu_site *where;
  const char *name; /* of an operation of the driver's, else NULL */
  int global;
  u32 issued; /* asynchronous writers: see emu_cell */
  u16 issuer;
} emu_access;
void emu_cell_read(emu_cell *cell, u16 bytes, u64 address, const emu_access *access);
void emu_cell_write(emu_cell *cell, u16 bytes, u64 address, const emu_access *access);
void emu_smem_read(emu_cta *cta, u32 offset, u32 bytes, emu_access *access);
void emu_smem_write(emu_cta *cta, u32 offset, u32 bytes, emu_access *access);
void emu_memory_read(emu_memory *memory, size_t offset, size_t bytes, u64 address,
                     emu_access *access);
void emu_memory_write(emu_memory *memory, size_t offset, size_t bytes, u64 address,
                      emu_access *access);
void emu_memory_define(emu_memory *memory, size_t offset, size_t bytes);
/* Filled for the running thread as a generic accessor. */
emu_access emu_generic(emu_thread *thread, int global);

/* ---- space.c --------------------------------------------------------------------------------- */
struct emu_memory {
  emu_machine *m;
  emu_memory *next, *previous;
  unsigned char *bytes;
  size_t size;
  int owner, refs, wrapped;
  emu_cell **page; /* shadow of 4 KiB each, made at the first write; NULL where wrapped */
  emu_word **word; /* hash of the words that carry order */
  u32 words, buckets;
};
/* NULL: not mapped for the device (EMU_HOST: any). */
unsigned char *emu_resolve(emu_machine *m, int device, u64 at, size_t bytes, emu_memory **memory,
                           size_t *offset);

/* ---- word.c: memory words that carry order --------------------------------------------------- */
/* What an acquirer of the word at this offset learns; NULL: nothing. */
const emu_order *emu_word_order(const emu_memory *memory, size_t offset);
/* The word was stored: with this order (NULL: none). */
void emu_word_store(emu_memory *memory, size_t offset, const emu_order *order);
void emu_words_free(emu_memory *memory);
/* All delayed stores of the block become visible. */
void emu_flush(emu_cta *cta);

/* ---- order of threads ------------------------------------------------------------------------ */
/* Adds what the warp knows to *into; later work of the warp is not covered. */
void emu_release(emu_warp *warp, emu_order *into);
void emu_acquire(emu_warp *warp, const emu_order *from);
void emu_tick(emu_warp *warp);
/* All lanes of the warp have met with memory order: each knows the others' writes. */
void emu_lanes_met(emu_warp *warp);

/* ---- launch.c, sync.c, mbar.c, bulk.c, mma.c ------------------------------------------------- */
void emu_dispatch(emu_machine *m);
u32 emu_clock_next(emu_clock *clock); /* the number of the clock's next operation */
void emu_cta_quiet(emu_cta *cta);     /* its asynchronous work has changed: may it go? */
/* All live lanes of the warp meet. 1: this one came last; it acts for all and calls emu_scatter. 0:
 * done. */
int emu_gather(emu_thread *self, const char *name);
void emu_scatter(emu_thread *self);
void emu_lane_left(emu_warp *warp);
void emu_thread_main(void *arg);
void emu_cta_free(emu_cta *cta);
void emu_run_free(emu_run_state *run);
void emu_lane_left(emu_warp *warp);
void emu_block_left(emu_cta *cta);
emu_cta *emu_cta_of(emu_cta *cta, u32 at, u32 *offset);
emu_mbar *emu_mbar_find(emu_cta *cta, u32 at);
void emu_mbar_landed(emu_cta *cta, emu_mbar *bar, u32 bytes, u32 phase, emu_site *site,
                     emu_thread *issuer);
void emu_bulk_leave(emu_thread *thread);
void emu_bulk_free(emu_bulk *bulk);
void emu_mma_leave(emu_thread *thread);
void emu_mma_free(emu_warpgroup *group);

#endif
