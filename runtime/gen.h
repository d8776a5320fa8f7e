/* The generator, seen from C: one Lua state that holds gen/ and templates/ (embedded, or read from a
 * source folder). Pure: the same call gives the same bytes. One thread at a time.
 *
 * Everything that C knows about a variant comes from here; C never builds or parses a name. */
#ifndef TML_GEN_H
#define TML_GEN_H

#include "tidemill.h"

typedef struct tml_gen tml_gen;

#define TML_NAME_BYTES 128

/* Communication patterns (the knob `comm`); Lua uses the texts. */
#define TML_PATTERN_MAP(X) \
  X(NONE, "none")          \
  X(CE, "ce")              \
  X(SM, "sm")              \
  X(PUSH, "push")          \
  X(RING, "ring")          \
  X(TWOSHOT, "twoshot")    \
  X(NCCL, "nccl")          \
  X(LT, "cublaslt")
/* Roles of a generated kernel; Lua uses the texts. AUX kernels serve the others and the tests. */
#define TML_KIND_MAP(X) \
  X(FUSED, "fused")     \
  X(LIBRARY, "library") \
  X(AUX, "aux")

/* Kernel parameters: declared in gen/params.lua, supplied by the launcher (struct tml_values in
 * plan.h has one field per name). X(name, C type). */
#define TML_PARAM_MAP(X)                                                                          \
  X(map_a, tml_map_table)  /* ag_gemm: [s] shard s of A; else [0] */                              \
  X(map_b, tml_map_table)  /* [0] */                                                              \
  X(map_c, tml_map_table)  /* ag_gemm, gemm_ar: [s] rows of shard s of C; else [0] */             \
  X(map_in, tml_map_table) /* own staging: [0] partials; gemm_ar: [1 + s], ring: [s] shard s */   \
  X(map_out,                                                                                      \
    tml_map_table) /* [d] staging of rank d: partials of owner d, or `sm`: this shard;   \
                               ring: of the next rank, shard d */        \
  X(map_fin, tml_map_table) /* [d] staging or C of rank d, where this rank's finished rows go */  \
  X(bias, uint64_t)                                                                               \
  X(m, int32_t)                                                                                   \
  X(n, int32_t)                                                                                   \
  X(k, int32_t)                                                                                   \
  X(rank, int32_t)                                                                                \
  X(shard, int32_t)                                                                               \
  X(slot, int32_t)          /* which of the two copy slots this call uses */                      \
  X(keep, int32_t)          /* 1: the slot is still read when the kernel has ended */             \
  X(pull, int32_t)          /* 1: copies bring the peers' shards here, not this rank's to them */ \
  X(direct, int32_t)        /* 1: map_fin leads into the peers' C, not into their staging */      \
  X(signal_stride, int32_t) /* signal words per source rank in one parity of the signal area */   \
  X(fingerprint, uint64_t)                                                                        \
  X(timeout_ns, uint64_t)                                                                         \
  X(record, uint64_t)        /* device address of the host-mapped fault record */                 \
  X(pad, tml_addr_table)     /* [r] control pad of rank r, as mapped here */                      \
  X(signals, tml_addr_table) /* [r] signal area of rank r, as mapped here */                      \
  X(src, uint64_t)                                                                                \
  X(dst, uint64_t)                                                                                \
  X(aux, uint64_t)                                                                                \
  X(seed, uint64_t)                                                                               \
  X(count, uint64_t)                                                                              \
  X(ld, int64_t)                                                                                  \
  X(ld2, int64_t)                                                                                 \
  X(row0, int32_t)                                                                                \
  X(row_step, int32_t)                                                                            \
  X(flags, int32_t)

#define TML_X(id, text) TML_PATTERN_##id,
typedef enum tml_pattern { TML_PATTERN_MAP(TML_X) TML_PATTERN_COUNT } tml_pattern;
#undef TML_X
#define TML_X(id, text) TML_KIND_##id,
typedef enum tml_kind { TML_KIND_MAP(TML_X) TML_KIND_COUNT } tml_kind;
#undef TML_X
#define TML_X(name, type) TML_PARAM_##name,
typedef enum tml_param { TML_PARAM_MAP(TML_X) TML_PARAM_COUNT } tml_param;
#undef TML_X

typedef struct tml_addr_table {
  uint64_t at[TML_MAX_WORLD];
} tml_addr_table;

/* What the launcher must know of a variant. */
typedef struct tml_variant {
  char name[TML_NAME_BYTES];   /* key__knobs */
  char symbol[TML_NAME_BYTES]; /* of the kernel; "" for LIBRARY */
  char arch[16];               /* "sm_90a" */
  tml_kind kind;
  tml_op op; /* not for AUX */
  tml_dtype dtype;
  tml_layout layout;
  int world;
  tml_pattern pattern;
  int tile_m, tile_n, tile_k;      /* of one CTA */
  int cluster_m, cluster_n, split; /* blocks of a cluster: the product; split: parts of k */
  int stages;
  int box_a, box_b, box_c; /* rows of the TMA boxes of A, B and outputs; A, B: tile_k columns */
  int box_n;               /* columns of the output box: 64 or 32 */
  int chunks_k, chunks_m;  /* `ce`: parts in which a shard is copied, along k or along m */
  int movers;              /* `sm`: blocks, the first of the grid, that carry the shard */
  int move_k;              /* `sm`: columns of a chunk of the shard; its rows are tile_m */
  int threads;
  int registers;   /* a thread: launched with fewer, the warpgroups would wait for ever for more */
  int smem;        /* dynamic bytes */
  int cooperative; /* launch with the cooperative attribute */
  int overlap;     /* may start before the stream's previous kernel ends: it, or the gate
                      before it, waits for what ran before */
  int param_count;
  tml_param params[TML_PARAM_COUNT]; /* in signature order */
  int requires_count;
  char requires[2][TML_NAME_BYTES]; /* AUX variants that a launch of this one needs */
} tml_variant;

/* Word offsets (8 bytes each) in the control pad; declared in gen/layout.lua. */
#define TML_PAD_MAP(X) \
  X(epoch)             \
  X(ticket)            \
  X(claim)             \
  X(abort)             \
  X(slot_last)         \
  X(outbox)            \
  X(header)            \
  X(done)              \
  X(shard)             \
  X(ready)             \
  X(pulled)            \
  X(words)
#define TML_X(name) int name;
typedef struct tml_pad {
  TML_PAD_MAP(TML_X)
} tml_pad;
#undef TML_X

/* What the cost model knows of a machine. Zero fields take the arch's own figures. */
typedef struct tml_machine {
  char gpu[64];
  int sms, cc, driver; /* cc: 90; driver: CUDA_VERSION form of the driver, 13000 */
  char link[16];       /* "nvlink", "pcie", "none" */
} tml_machine;

enum { TML_RANKED_MAX = 2048 }; /* more than any problem has legal variants */

typedef struct tml_ranked {
  char name[TML_NAME_BYTES];
  double us;
} tml_ranked;

/* OK; TEMPLATE with file:line if a module does not load; MEMORY. `isa` as in tml_api. */
tml_status tml_gen_open(tml_gen **out, const char *source_dir, const char *isa);
void tml_gen_close(tml_gen *gen);

tml_status tml_gen_pad(tml_gen *gen, tml_pad *out);

/* Calls fn for every declared point that matches, in declared order; `reason` is NULL for a legal
 * one. fn returns 0 to go on. Empty filter strings match everything; `glob` is matched against the
 * name (only * and ?). ARGUMENT for an unknown arch, op or dtype, with the known ones. */
typedef struct tml_filter {
  const char *op, *arch, *dtype, *glob;
  int world;   /* 0: all */
  int refused; /* 1: also illegal points */
} tml_filter;
typedef int (*tml_variant_fn)(void *user, const tml_variant *variant, const char *reason);
tml_status tml_gen_each(tml_gen *gen, const tml_filter *filter, tml_variant_fn fn, void *user);
/* 1 if the whole text matches; only * and ? stand for others. */
int tml_gen_glob(const char *glob, const char *text);

/* ARGUMENT if the name is not in the space, UNSUPPORTED with the reason if it is illegal. */
tml_status tml_gen_variant(tml_gen *gen, const char *name, tml_variant *out);

/* The AUX variant of this kernel ("gate", "bias", "fill", "reference"), arch, dtype and world. */
tml_status tml_gen_aux(tml_gen *gen, const char *kernel, const char *arch, tml_dtype dtype,
                       int world, tml_variant *out);

/* The flattened source, allocated with malloc; *bytes without the final NUL. `lines`: with #line. */
tml_status tml_gen_expand(tml_gen *gen, const char *name, int lines, char **text, size_t *bytes);

/* Legal variants for this problem (its m taken as given), cheapest first by the model. Writes at most
 * `capacity`; *count is how many there are. UNSUPPORTED, with the space's reasons, if none. */
tml_status tml_gen_rank(tml_gen *gen, const char *arch, const tml_problem *problem,
                        const tml_machine *machine, tml_ranked *out, size_t capacity,
                        size_t *count);
/* OK, with "" in `reason`; UNSUPPORTED, with why the variant cannot serve the problem (n or k not a
 * multiple, ...) in `reason` and in the text. `reason` may be NULL. */
tml_status tml_gen_serves(tml_gen *gen, const char *name, const tml_problem *problem, char *reason,
                          size_t bytes);
/* The arch that serves a compute capability (90 -> "sm_90a"). UNSUPPORTED names those that exist. */
tml_status tml_gen_arch(tml_gen *gen, int cc, char *out, size_t bytes);

#endif
