#include "measure.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "../runtime/status.h"
#include "device.h"
#include "stats.h"

#define WARM_CALLS 3
#define LEAST_MARGIN 0.04 /* two repetitions of one variant differ by 1 to 3 % */

static tml_status record_graph(rig *r, column *c, CUgraph *graph)
{
  TRY(CU(r->api, cuStreamBeginCapture, (r->stream, CU_STREAM_CAPTURE_MODE_RELAXED)));
  tml_status status = TML_OK;
  for (int i = 0; i < MEASURE_CALLS && status == TML_OK; i++) status = c->run(c->user, i);
  if (status == TML_OK) return CU(r->api, cuStreamEndCapture, (r->stream, graph));
  r->api->cuda.p_cuStreamEndCapture(r->stream, graph); /* the first failure is the one to report */
  return status;
}

static tml_status capture(rig *r, column *c)
{
  CUgraph graph = NULL;
  tml_status status = record_graph(r, c, &graph);
  if (status == TML_OK) status = CU(r->api, cuGraphInstantiate, (&c->graph, graph, 0));
  if (status == TML_OK) status = CU(r->api, cuGraphUpload, (c->graph, r->stream));
  if (graph) r->api->cuda.p_cuGraphDestroy(graph);
  if (status == TML_OK) status = rig_wait(r, 5);
  return status;
}

static tml_status warm(rig *r, column *c)
{
  for (int i = 0; i < WARM_CALLS; i++) TRY(c->run(c->user, i));
  return rig_wait(r, 30);
}

static int fatal(tml_status status) { return status == TML_FAULT || status == TML_TIMEOUT; }

/* Everyone's verdict on this step; a failure drops the column on all ranks. */
static tml_status judge(rig *r, column *c, tml_status mine, const char *what)
{
  tml_status status = tml_group_vote(r->comm->group, mine, what);
  if (status == TML_OK) return TML_OK;
  c->dropped = 1;
  c->us = INFINITY;
  snprintf(c->why, sizeof c->why, "%.150s", tml_last_error());
  return status;
}

tml_status measure_capture(rig *r, column *c)
{
  c->us = INFINITY;
  tml_status status = judge(r, c, warm(r, c), "first launches");
  if (status == TML_OK) status = judge(r, c, capture(r, c), "capture in a graph");
  return fatal(status) ? status : TML_OK;
}

/* Replays per window of a column. Equal on all ranks: cost is the slowest rank's. */
static int replays(const column *c, regime how, int round)
{
  double wanted = how.sustained_ms / fmax(0.05, c->cost_ms);
  return how.sustained_ms > 0 && round > 0 && wanted > 1 ? (int)lround(wanted) : 1;
}

static tml_status window(rig *r, const column *c, regime how, int round, int count, float *ms)
{
  if (how.sustained_ms > 0 && round > 0)
    for (int i = 0; i < count; i++) TRY(CU(r->api, cuGraphLaunch, (c->graph, r->stream)));
  else
    TRY(rig_delay(r));
  TRY(rig_barrier(r));
  TRY(CU(r->api, cuEventRecord, (r->start, r->stream)));
  for (int i = 0; i < count; i++) TRY(CU(r->api, cuGraphLaunch, (c->graph, r->stream)));
  TRY(CU(r->api, cuEventRecord, (r->stop, r->stream)));
  TRY(rig_wait(r, 10 + how.sustained_ms * 4e-3));
  return CU(r->api, cuEventElapsedTime, (ms, r->start, r->stop));
}

static tml_status measure_once(rig *r, column *c, regime how, int round, double *last_ms)
{
  int count = replays(c, how, round);
  float ms = 0;
  if (how.sustained_ms <= 0 && !device_emulated())
    usleep((useconds_t)(1e6 * fmin(0.06, fmax(1e-3, 1e-3 * how.idle * *last_ms))));
  TRY(tml_group_barrier(r->comm->group));
  tml_status status = window(r, c, how, round, count, &ms);
  TRY(tml_group_vote(r->comm->group, status, "a timed replay"));
  double slowest = (double)ms / count;
  if (round > 0 && c->count < MEASURE_MAX_ROUNDS)
    c->samples[c->count++] = (double)ms / count / MEASURE_CALLS * 1e3;
  TRY(tml_group_max(r->comm->group, &slowest, 1));
  c->cost_ms = *last_ms = slowest;
  if (round > 0) c->best_ms = fmin(c->best_ms, slowest);
  return TML_OK;
}

static double lane_best(const column *columns, int count, int lane)
{
  double best = INFINITY;
  for (int i = 0; i < count; i++)
    if (!columns[i].dropped && columns[i].lane == lane) best = fmin(best, columns[i].best_ms);
  return best;
}

/* By the best replay of each, which is equal on all ranks: noise only ever adds. The best of a lane
 * stays, so a column's verdict does not depend on who was looked at before it. */
void measure_drop(column *columns, int count, double race, int round)
{
  double margin = fmax(LEAST_MARGIN, ldexp(race - 1, 1 - round));
  for (int i = 0; i < count; i++) {
    column *c = &columns[i];
    if (!c->dropped && c->best_ms > (1 + margin) * lane_best(columns, count, c->lane))
      c->dropped = 1;
  }
}

tml_status measure_run(rig *r, column *columns, int count, regime how)
{
  double last_ms = 1;
  for (int i = 0; i < count; i++) {
    columns[i].count = 0;
    columns[i].best_ms = INFINITY;
  }
  for (int round = 0; round <= how.rounds; round++) { /* round 0 warms up and sizes the windows */
    for (int i = 0; i < count; i++) {
      column *c = &columns[(i + round) % count];
      if (!c->dropped) TRY(measure_once(r, c, how, round, &last_ms));
    }
    if (how.race > 0 && round > 0) measure_drop(columns, count, how.race, round);
  }
  for (int i = 0; i < count; i++) {
    if (columns[i].count == 0) continue; /* failed: stays INFINITY */
    columns[i].us = stats_median(columns[i].samples, (size_t)columns[i].count);
    TRY(tml_group_max(r->comm->group, &columns[i].us, 1));
  }
  return TML_OK;
}

void measure_free(rig *r, column *columns, int count)
{
  for (int i = 0; i < count; i++) {
    if (columns[i].graph) r->api->cuda.p_cuGraphExecDestroy(columns[i].graph);
    columns[i].graph = NULL;
  }
}
