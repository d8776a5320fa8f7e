/* The gathered A as an output of ag_gemm: copies behind the kernel, on the call's stream. All shards have
 * arrived when the kernel has ended: every shard with rows has tiles of its own, and their producer has
 * waited for it.
 *
 * No peer fills the slot again while the copies read it. Slots alternate by the host's calls, so a replayed
 * graph may use one slot twice in a row, and the kernel of such a call does not say that this rank is done
 * with it (`keep`). It leaves that to the gate of the rank's next call by copy engines, which in stream order
 * comes behind the copies. Its programmatic launch changes nothing: behind anything but a kernel a launch is a full
 * dependency, and behind a kernel that follows the copies the gate waits for that kernel to end
 * (grid_wait_previous), which itself began behind them. Ranks whose gates wait for each other go on, since
 * each tells before it waits. */
#include "maps.h"
#include "status.h"

CUdeviceptr tml_gathered_at(const tml_plan *plan, const tml_call_key *key)
{
  switch (key->choice->variant.pattern) {
  case TML_PATTERN_CE: return tml_slot_at(key, plan->comm->rank);
  default: return 0;
  }
}

/* Rows first .. last - 1, which lie at `from`. */
static tml_status copy_rows(const tml_plan *plan, const tml_args *args, CUdeviceptr from,
                            int64_t first, int64_t last, CUstream stream)
{
  size_t line = (size_t)plan->problem.k * TML_ELEMENT_BYTES;
  CUdeviceptr to = (CUdeviceptr)(uintptr_t)args->gathered + (size_t)first * line;
  if (first >= last) return TML_OK;
  return CU(plan->api, cuMemcpyDtoDAsync, (to, from, (size_t)(last - first) * line, stream));
}

tml_status tml_gathered_run(const tml_plan *plan, const tml_args *args, CUdeviceptr shards,
                            CUstream stream)
{
  const tml_problem *p = &plan->problem;
  size_t line = (size_t)p->k * TML_ELEMENT_BYTES;
  int rank = p->world > 1 ? plan->comm->rank : 0;
  int64_t first = rank * tml_shard_rows(args->m, p->world);
  int64_t last = first + tml_rows_of(args->m, p->world, rank);
  if (!args->gathered) return TML_OK;
  if (first > args->m) first = last = args->m; /* an empty shard */
  TRY(copy_rows(plan, args, (CUdeviceptr)(uintptr_t)args->a, first, last, stream));
  TRY(copy_rows(plan, args, shards, 0, first, stream));
  return copy_rows(plan, args, shards + (size_t)last * line, last, args->m, stream);
}
