/* Graphs of mixed ops on one comm, replayed with changing inputs, against eager calls bit by
 * bit. */
#include <stdio.h>
#include <string.h>

#include "../runtime/status.h"
#include "check.h"
#include "data.h"

#define MAX_CALLS 6

/* A sequence of calls, each with its own data; odd and even counts use the copy slots and parities
 * differently from replay to replay. */
typedef struct sequence {
  int count;
  tml_plan *plans[MAX_CALLS];
  data d[MAX_CALLS];
  CUgraphExec graph;
  uint64_t eager[MAX_CALLS];
} sequence;

static const tml_op odd_ops[] = {TML_AG_GEMM, TML_GEMM_RS, TML_AG_GEMM, TML_GEMM_AR, TML_AG_GEMM};
static const tml_op even_ops[] = {TML_GEMM_AR, TML_AG_GEMM, TML_GEMM,
                                  TML_GEMM_RS, TML_AG_GEMM, TML_GEMM_RS};

static tml_status add_call(rig *r, sequence *s, tml_op op)
{
  char name[TML_NAME_BYTES];
  int at = s->count;
  tml_problem p = {.size = sizeof p, .op = r->world == 1 ? TML_GEMM : op};
  p.dtype = at % 2 ? TML_FP16 : TML_BF16;
  p.world = p.op == TML_GEMM ? 1 : r->world;
  p.m = 777 + 128 * at;
  p.n = 520 + 64 * at;
  p.k = 512 + 8 * at;
  p.bias = at % 2;
  TRY(rig_first_fused(r, &p, name)); /* pure: the same on every rank */
  s->count++;
  tml_status status = tml_plan_create_forced(&s->plans[at], r->comm, &p, name);
  TRY(tml_group_vote(r->comm->group, status, "making a plan"));
  TRY(rig_reserve(r, s->plans[at]));
  return tml_group_vote(r->comm->group, data_create(r, &p, 1, 0, &s->d[at]), "memory for inputs");
}

static tml_status enqueue(rig *r, sequence *s)
{
  for (int i = 0; i < s->count; i++) {
    tml_args args = data_args(&s->d[i], 0);
    TRY(tml_launch(s->plans[i], &args, r->stream));
  }
  return TML_OK;
}

static tml_status poison(rig *r, sequence *s)
{
  for (int i = 0; i < s->count; i++) TRY(data_poison(r, &s->d[i]));
  return TML_OK;
}

static tml_status capture(rig *r, sequence *s)
{
  CUgraph graph = NULL;
  TRY(CU(r->api, cuStreamBeginCapture, (r->stream, CU_STREAM_CAPTURE_MODE_RELAXED)));
  tml_status status = enqueue(r, s);
  if (status == TML_OK)
    status = CU(r->api, cuStreamEndCapture, (r->stream, &graph));
  else
    r->api->cuda.p_cuStreamEndCapture(r->stream, &graph);
  if (status == TML_OK) status = CU(r->api, cuGraphInstantiate, (&s->graph, graph, 0));
  if (graph) r->api->cuda.p_cuGraphDestroy(graph);
  return status;
}

/* New inputs, eager results, poison, replay, compare. *wrong counts outputs that differ. */
static tml_status one_round(rig *r, sequence *s, int round, int *wrong)
{
  for (int i = 0; i < s->count; i++) TRY(data_fill(r, &s->d[i], (uint64_t)round + 1));
  TRY(poison(r, s));
  TRY(enqueue(r, s));
  for (int i = 0; i < s->count; i++) TRY(data_hash(r, &s->d[i], &s->eager[i]));
  TRY(poison(r, s));
  TRY(CU(r->api, cuGraphLaunch, (s->graph, r->stream)));
  for (int i = 0; i < s->count; i++) {
    uint64_t replayed;
    TRY(data_hash(r, &s->d[i], &replayed));
    *wrong += replayed != s->eager[i];
  }
  return TML_OK;
}

static tml_status all_rounds(rig *r, sequence *odd, sequence *even, int replays, int *wrong)
{
  for (int i = 0; i < replays; i++) {
    TRY(one_round(r, odd, i, wrong));
    TRY(one_round(r, even, i, wrong));
  }
  return TML_OK;
}

static tml_status prepare(rig *r, sequence *s, const tml_op *ops, size_t count)
{
  for (size_t i = 0; i < count; i++) TRY(add_call(r, s, ops[i]));
  return tml_group_vote(r->comm->group, capture(r, s), "capture in a graph");
}

static void release(rig *r, sequence *s)
{
  if (s->graph) r->api->cuda.p_cuGraphExecDestroy(s->graph);
  for (int i = 0; i < s->count; i++) {
    data_free(r, &s->d[i]);
    tml_plan_destroy(s->plans[i]);
  }
}

tml_status check_graphs(rig *r, int replays, char *summary, size_t bytes)
{
  sequence odd, even;
  int wrong = 0;
  double worst;
  tml_status status = TML_OK;
  memset(&odd, 0, sizeof odd);
  memset(&even, 0, sizeof even);
  TRY_GOTO(prepare(r, &odd, odd_ops, sizeof odd_ops / sizeof *odd_ops), done);
  TRY_GOTO(prepare(r, &even, even_ops, sizeof even_ops / sizeof *even_ops), done);
  status = all_rounds(r, &odd, &even, replays, &wrong);
  TRY_GOTO(tml_group_vote(r->comm->group, status, "replays"), done);
  worst = wrong;
  TRY_GOTO(tml_group_max(r->comm->group, &worst, 1), done);
  snprintf(summary, bytes,
           "%d replays each of a graph of %d and one of %d calls: %.0f outputs differ from eager",
           replays, odd.count, even.count, worst);
  if (worst > 0) status = tml_fail(TML_INTERNAL, "%s", summary);
done:
  release(r, &odd);
  release(r, &even);
  return status;
}
