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
 * each tells before it waits. By movers the shards lie in a half of staging: a peer fills it again two calls
 * later, which it starts only when it has seen the header of the call between, and that comes behind these
 * copies in stream order. */
#include <string.h>

#include "maps.h"
#include "status.h"

static tml_status copy_rows(const tml_plan *plan, const tml_args *args, CUdeviceptr from,
                            int64_t first, int64_t last, CUstream stream)
{
  size_t line = (size_t)plan->problem.k * TML_ELEMENT_BYTES;
  CUdeviceptr to = (CUdeviceptr)(uintptr_t)args->gathered + (size_t)first * line;
  return CU(plan->api, cuMemcpyDtoDAsync, (to, from, (size_t)(last - first) * line, stream));
}

/* `sm`: out of the half of staging that the device has chosen. */
static tml_status collect_rows(const tml_plan *plan, const tml_args *args, const tml_call_key *key,
                               int64_t first, int64_t last, CUstream stream)
{
  const tml_comm *comm = plan->comm;
  const tml_segment *segment = key->segment;
  size_t line = (size_t)plan->problem.k * TML_ELEMENT_BYTES, at = (size_t)first * line;
  const int64_t most = 4 * (int64_t)(comm->ctx->machine.sms > 0 ? comm->ctx->machine.sms : 1);
  tml_values values;
  memset(&values, 0, sizeof values);
  values.dst = (uintptr_t)args->gathered + at;
  values.src = segment->block->at[comm->rank] + segment->staging_at + at;
  values.aux = segment->bytes.staging;
  values.count = (size_t)(last - first) * line / 4;
  values.rank = comm->rank;
  for (int r = 0; r < comm->world; r++) values.pad.at[r] = comm->pad->at[r];
  return tml_launch_aux(comm->ctx, key->choice->helper, &values,
                        (unsigned)(last - first < most ? last - first : most), stream);
}

/* Rows first .. last - 1 that peers own. */
static tml_status peers_rows(const tml_plan *plan, const tml_args *args, const tml_call_key *key,
                             int64_t first, int64_t last, CUstream stream)
{
  size_t line = (size_t)plan->problem.k * TML_ELEMENT_BYTES;
  if (first >= last) return TML_OK;
  if (key->choice->variant.pattern == TML_PATTERN_SM)
    return collect_rows(plan, args, key, first, last, stream);
  return copy_rows(plan, args, tml_slot_at(key, plan->comm->rank) + (size_t)first * line, first,
                   last, stream);
}

tml_status tml_gathered_run(const tml_plan *plan, const tml_args *args, const tml_call_key *key,
                            CUstream stream)
{
  const tml_problem *p = &plan->problem;
  int rank = p->world > 1 ? plan->comm->rank : 0;
  int64_t first = rank * tml_shard_rows(args->m, p->world);
  int64_t last = first + tml_rows_of(args->m, p->world, rank);
  if (!args->gathered) return TML_OK;
  if (first > args->m) first = last = args->m; /* an empty shard */
  if (first < last)
    TRY(copy_rows(plan, args, (CUdeviceptr)(uintptr_t)args->a, first, last, stream));
  TRY(peers_rows(plan, args, key, 0, first, stream));
  return peers_rows(plan, args, key, last, args->m, stream);
}
