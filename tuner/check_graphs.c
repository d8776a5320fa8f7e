/* Graphs of mixed ops on one comm, replayed with changing inputs, against eager calls bit by
 * bit. */
#include <string.h>

#include "../runtime/status.h"
#include "check.h"
#include "data.h"
#include "device.h"

/* Calls of a graph, and which of the series of calls is its first. So that copy slots and parities differ from
 * replay to replay one has an odd number of calls on the comm (37, of which 19 move shards), one an even
 * number (36, of which 18). */
#define ODD_CALLS 41
#define ODD_FIRST 0
#define EVEN_CALLS 40
#define EVEN_FIRST 1
#define OPS 4
#define DTYPES 2

/* Calls of the same plans, each with its own data. */
typedef struct sequence {
  int count;
  tml_plan *plans[ODD_CALLS];
  data d[ODD_CALLS];
  CUgraphExec graph;
  uint64_t eager[ODD_CALLS];
  double wrong; /* outputs of replays that differ */
} sequence;

typedef struct graphs {
  rig *r;
  tml_plan *plans[OPS][DTYPES];
  tml_problem problems[OPS][DTYPES];
  sequence odd, even;
} graphs;

/* ---- Plans -------------------------------------------------------------------------------------- */

static tml_problem problem_of(const rig *r, tml_op op, tml_dtype dtype)
{
  int small = device_emulated(), i = 2 * (int)op + (int)dtype;
  tml_problem p = {.size = sizeof p, .op = op, .dtype = dtype};
  p.world = op == TML_GEMM ? 1 : r->world;
  p.m = small ? 9 * r->world + 2 : 777 + 128 * i;
  p.n = small ? 72 : 520 + 64 * i;
  p.k = small ? 72 : 512 + 8 * i;
  p.bias = dtype == TML_FP16;
  return p;
}

static tml_status make_plan(graphs *g, tml_op op, tml_dtype dtype)
{
  rig *r = g->r;
  char name[TML_NAME_BYTES];
  tml_problem p = problem_of(r, op, dtype);
  g->problems[op][dtype] = p;
  TRY(rig_first_fused(r, &p, name)); /* pure: the same on every rank */
  tml_status status = tml_plan_create_forced(&g->plans[op][dtype], r->comm, &p, name);
  TRY(tml_group_vote(r->comm->group, status, "making a plan"));
  return rig_reserve(r, g->plans[op][dtype]);
}

static tml_status make_plans(graphs *g)
{
  for (int i = 0; i < (g->r->world == 1 ? 1 : OPS) * DTYPES; i++)
    TRY(make_plan(g, (tml_op)(i / DTYPES), (tml_dtype)(i % DTYPES)));
  return TML_OK;
}

/* ---- Sequences ---------------------------------------------------------------------------------- */

/* The series: lists of lengths without a common factor, so that each op meets each type and row count. */
static tml_problem problem_at(const graphs *g, int at)
{
  static const tml_op ops[] = {TML_AG_GEMM, TML_GEMM_RS, TML_AG_GEMM, TML_GEMM_AR,
                               TML_AG_GEMM, TML_GEMM_AR, TML_AG_GEMM, TML_GEMM,
                               TML_GEMM_RS, TML_AG_GEMM, TML_GEMM_RS};
  tml_op op = g->r->world == 1 ? TML_GEMM : ops[at % (int)(sizeof ops / sizeof *ops)];
  tml_problem p = g->problems[op][at % DTYPES];
  const int64_t rows[] = {p.m, p.m / 2, p.m - 3, g->r->world - 1, p.m, 0, p.m / 3};
  p.m = rows[at % (int)(sizeof rows / sizeof *rows)];
  return p;
}

static tml_status add_calls(graphs *g, sequence *s, int count, int from)
{
  for (; s->count < count; s->count++) {
    tml_problem p = problem_at(g, from + s->count);
    s->plans[s->count] = g->plans[p.op][p.dtype];
    TRY(data_create(g->r, &p, 1, 0, &s->d[s->count]));
  }
  return TML_OK;
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

static tml_status prepare(graphs *g, sequence *s, int count, int from)
{
  tml_group *group = g->r->comm->group;
  TRY(tml_group_vote(group, add_calls(g, s, count, from), "memory for inputs"));
  return tml_group_vote(group, capture(g->r, s), "capture in a graph");
}

/* ---- Rounds ------------------------------------------------------------------------------------- */

/* New inputs, eager results, poison, replay, in every other round twice in a row, compare. */
static tml_status one_round(graphs *g, sequence *s, int round)
{
  rig *r = g->r;
  for (int i = 0; i < s->count; i++) TRY(data_fill(r, &s->d[i], (uint64_t)round + 1));
  TRY(poison(r, s));
  TRY(enqueue(r, s));
  for (int i = 0; i < s->count; i++) TRY(data_hash(r, &s->d[i], &s->eager[i]));
  TRY(poison(r, s));
  for (int i = 0; i <= round % 2; i++) TRY(CU(r->api, cuGraphLaunch, (s->graph, r->stream)));
  for (int i = 0; i < s->count; i++) {
    uint64_t replayed;
    TRY(data_hash(r, &s->d[i], &replayed));
    s->wrong += replayed != s->eager[i];
  }
  return TML_OK;
}

static tml_status all_rounds(graphs *g, int rounds)
{
  for (int i = 0; i < rounds; i++) {
    TRY(one_round(g, &g->odd, i));
    TRY(one_round(g, &g->even, i));
  }
  return TML_OK;
}

static void release(rig *r, sequence *s)
{
  if (s->graph) r->api->cuda.p_cuGraphExecDestroy(s->graph);
  for (int i = 0; i < ODD_CALLS; i++) data_free(r, &s->d[i]);
}

static tml_status sum_up(graphs *g, int rounds, check_graphs_result *out)
{
  sequence *const both[] = {&g->odd, &g->even};
  for (int i = 0; i < 2; i++) {
    sequence *s = both[i];
    TRY(tml_group_max(g->r->comm->group, &s->wrong, 1));
    out->of[i].calls = s->count;
    out->of[i].outputs = s->count * rounds;
    out->of[i].wrong = (int)s->wrong;
  }
  out->replays = rounds + rounds / 2;
  return TML_OK;
}

tml_status check_graphs(rig *r, int rounds, check_graphs_result *out)
{
  graphs g;
  tml_status status;
  memset(&g, 0, sizeof g);
  g.r = r;
  TRY_GOTO(make_plans(&g), done);
  TRY_GOTO(prepare(&g, &g.odd, ODD_CALLS, ODD_FIRST), done);
  TRY_GOTO(prepare(&g, &g.even, EVEN_CALLS, EVEN_FIRST), done);
  status = all_rounds(&g, rounds);
  TRY_GOTO(tml_group_vote(r->comm->group, status, "replays"), done);
  status = sum_up(&g, rounds, out);
done:
  release(r, &g.odd);
  release(r, &g.even);
  for (int i = 0; i < OPS * DTYPES; i++) tml_plan_destroy(g.plans[i / DTYPES][i % DTYPES]);
  return status;
}
