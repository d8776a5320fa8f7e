/* The context: table, generator, bank, loaded kernels, counters. */
#ifndef TML_CTX_H
#define TML_CTX_H

#include <pthread.h>
#include <stdatomic.h>

#include "api.h"
#include "bank.h"
#include "gen.h"

typedef struct tml_kernel {
  tml_variant variant;
  char hash[TML_HASH_BYTES];
  CUlibrary library;
  CUkernel kernel;
  CUfunction function;
  int registers;
  int max_clusters; /* clusters of this kernel that the device holds at once */
  int param_offset[TML_PARAM_COUNT];
  struct tml_kernel *next;
} tml_kernel;

struct tml_ctx {
  const tml_api *api;
  tml_config config; /* strings owned */
  CUdevice device;
  CUcontext primary;
  tml_machine machine;
  char arch[16];
  tml_pad pad;
  pthread_mutex_t lock; /* guards gen, bank, writer and kernels */
  tml_gen *gen;
  tml_bank *bank;          /* NULL: none */
  char *bank_path;         /* of a writable bank, resolved once: the folder may change later */
  tml_bank_writer *writer; /* opened at the first kernel to keep (bank_writable); else NULL */
  int writer_failed;       /* warned once, never tried again */
  tml_kernel *kernels;     /* everything loaded; freed with the ctx */
  struct kernel_refusal
      *refusals; /* what the compiler refused, so that no plan compiles it again */
  atomic_int sealed;
  atomic_int overlap_refused; /* by the driver, in cooperative launches */
  struct {
    _Atomic uint64_t
#define TML_X(name) name,
        TML_COUNTER_MAP(TML_X)
#undef TML_X
            unused;
  } counters;
};

/* As tml_ctx_create, over a given table (fakes, emulator). */
tml_status tml_ctx_create_over(tml_ctx **out, const tml_config *config, const tml_api *api);

/* Where the kernel of a variant may come from. */
typedef enum tml_source { TML_FROM_BANK = 1, TML_FROM_JIT = 2 } tml_source;
/* The loaded kernel of this name: from the ctx, else from the bank, else compiled (subject to no_jit
 * and `from`, a mask of tml_source). Everything is loaded eagerly: attributes set, function resolved.
 * Lives until the ctx is destroyed. SEALED, MISS, COMPILE, TEMPLATE, DRIVER, UNSUPPORTED. */
tml_status tml_ctx_kernel(tml_ctx *ctx, const char *name, unsigned from, tml_kernel **out);
/* What tml_ctx_kernel would have to do. */
typedef enum tml_standing {
  TML_STANDS_NOWHERE, /* to compile it; no kernel of this device, too */
  TML_STANDS_REFUSED, /* the compiler's refusal is known: nothing */
  TML_STANDS_LOADED,  /* nothing; it is not in the bank */
  TML_STANDS_BANKED   /* nothing, or to load it from the bank */
} tml_standing;
tml_standing tml_ctx_standing(tml_ctx *ctx, const char *name);
/* 1 if tml_ctx_kernel would succeed without compiling. */
static inline int tml_ctx_loadable(tml_ctx *ctx, const char *name)
{
  return tml_ctx_standing(ctx, name) >= TML_STANDS_LOADED;
}

/* Makes the ctx's primary context current; *previous is what to give to tml_ctx_leave. */
tml_status tml_ctx_enter(tml_ctx *ctx, CUcontext *previous);
void tml_ctx_leave(tml_ctx *ctx, CUcontext previous);

void tml_log(tml_ctx *ctx, tml_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
