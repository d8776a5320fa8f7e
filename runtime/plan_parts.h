/* Inside of a plan: shared by the files that resolve, agree and launch. */
#ifndef TML_PLAN_PARTS_H
#define TML_PLAN_PARTS_H

#include "geometry.h"
#include "plan.h"

#define TML_BUCKETS 64 /* most buckets of a plan: tml_pick_bucket makes 55 up to 2^31 */

/* Where the choice of a bucket came from. X(id, what explain says). */
#define TML_CHOSEN_MAP(X) \
  X(PICK, "pick")         \
  X(MODEL, "model")       \
  X(FORCED, "forced")     \
  X(FALLBACK, "fallback")
#define TML_X(id, text) TML_CHOSEN_##id,
typedef enum tml_chosen { TML_CHOSEN_MAP(TML_X) TML_CHOSEN_COUNT } tml_chosen;
#undef TML_X

/* A variant that the plan uses, loaded once however many buckets it serves. */
typedef struct tml_choice {
  tml_variant variant;
  const tml_kernel *kernel; /* NULL for a library */
  const tml_kernel *helper; /* `ce`: the gate, before the copies; `sm`: collects the gathered A */
  int max_clusters;         /* that every rank's device holds at once */
  tml_status status;        /* why it could not be loaded here or elsewhere, with `reason` */
  char reason[240];
  struct tml_choice *next;
} tml_choice;

/* Serves m from above the previous entry's bucket up to `bucket`. */
typedef struct tml_entry {
  int64_t bucket;
  const tml_choice *choice;
  tml_chosen chosen;
} tml_entry;

/* What rank 0 decides and everyone gets: fixed size, sent in chunks of TML_GROUP_BYTES. */
typedef struct tml_list {
  int32_t status; /* of the resolution; `text` is its sentence */
  int32_t count;
  char text[256];
  char problem[96];
  char fallback[TML_NAME_BYTES]; /* library variant; "" if none may be used */
  struct {
    int32_t chosen;
    char name[TML_NAME_BYTES];
  } entry[TML_BUCKETS];
} tml_list;

struct tml_call_cache;

struct tml_plan {
  tml_comm *comm; /* NULL once the comm was destroyed */
  const tml_api *api;
  tml_problem problem; /* a world of one: op is GEMM */
  tml_op asked;        /* the op that the caller named: what its calls may ask for */
  int count;
  tml_entry entries[TML_BUCKETS];
  tml_choice *choices;
  const tml_kernel *bias; /* AUX; NULL unless a library variant serves a problem with a bias */
  struct tml_plan *gemm;  /* one rank's GEMM of the unfused entries; NULL if none */
  tml_bytes bytes;
  int checked; /* a reserve was found to be enough: this segment ... */
  const tml_segment *checked_segment;
  size_t checked_local; /* ... and these local bytes */
  struct tml_call_cache *calls;
  struct tml_plan *next; /* of the same comm */
};

/* The largest m that an entry serves. */
static inline int64_t tml_entry_m(const tml_plan *plan, const tml_entry *entry)
{
  return entry->bucket < plan->problem.m ? entry->bucket : plan->problem.m;
}

/* The entry that serves m (0 .. the plan's m). */
const tml_entry *tml_plan_entry(const tml_plan *plan, int64_t m);

/* Rank 0's decision for each bucket; loads and compiles nothing, and leaves out the plan's choices that
 * failed. `force`: NULL or the one variant. */
void tml_plan_resolve(const tml_plan *plan, const char *force, tml_list *out);
/* Collective: everyone takes rank 0's list, loads it, and drops together what failed on any
 * rank; what failed to compile is replaced by the next best, a few times, before the library. `door`: what the checks said on this rank; a failure is reported to all. The plan's
 * entries are set on OK. The same status on every rank. */
tml_status tml_plan_agree(tml_plan *plan, const char *force, tml_status door);

/* A launch with checked, completed arguments (leading dimensions set, m in range, reserve
 * enough). */
tml_status tml_plan_run(tml_plan *plan, const tml_args *args, CUstream stream);
/* Pattern `nccl`. m > 0. */
tml_status tml_unfused_run(tml_plan *plan, const tml_args *args, CUstream stream);
/* The caller's copy of the gathered A, if it wants one. Behind the kernel of the call; `key`: NULL in a
 * world of one. */
struct tml_call_key;
tml_status tml_gathered_run(const tml_plan *plan, const tml_args *args,
                            const struct tml_call_key *key, CUstream stream);
/* Copies a block of rows between two row-major matrices, in one piece if it can. In elements. */
tml_status tml_copy_rows(const tml_api *api, CUdeviceptr to, int64_t ld_to, CUdeviceptr from,
                         int64_t ld_from, int64_t rows, int64_t columns, CUstream stream);
/* C[rows, n] += bias. */
tml_status tml_bias_run(tml_plan *plan, const tml_args *args, int64_t rows, CUstream stream);

#endif
