/* What the links carry: one direction of every rank while all send, by the copy engines and by the
 * SMs' TMA stores. The best of a few attempts, the slowest rank. */
#include <math.h>
#include <string.h>

#include "../runtime/status.h"
#include "bench.h"
#include "device.h"

enum { ATTEMPTS = 5, LINE_BYTES = 128, BOX_LINES = 128, BOX_BYTES = LINE_BYTES * BOX_LINES };

/* The block of a rank: `bytes` that peers write, then `bytes` to send. */
typedef struct traffic {
  rig *r;
  tml_block *block;
  size_t bytes; /* that a rank sends */
  tml_kernel *kernel;
  tml_values values;
} traffic;

static tml_status send_copies(traffic *t)
{
  const rig *r = t->r;
  int next = (r->rank + 1) % r->world;
  return CU(r->api, cuMemcpyDtoDAsync,
            (t->block->at[next], t->block->at[r->rank] + t->bytes, t->bytes, r->stream));
}

static tml_status send_stores(traffic *t)
{
  const rig *r = t->r;
  return tml_launch_aux(r->ctx, t->kernel, &t->values, (unsigned)r->ctx->machine.sms, r->stream);
}

static tml_status time_once(traffic *t, tml_status (*send)(traffic *), float *ms)
{
  rig *r = t->r;
  TRY(tml_group_barrier(r->comm->group));
  TRY(rig_delay(r));
  TRY(rig_barrier(r));
  TRY(CU(r->api, cuEventRecord, (r->start, r->stream)));
  TRY(send(t));
  TRY(CU(r->api, cuEventRecord, (r->stop, r->stream)));
  TRY(rig_wait(r, 10));
  return CU(r->api, cuEventElapsedTime, (ms, r->start, r->stop));
}

static tml_status time_best(traffic *t, tml_status (*send)(traffic *), float *best)
{
  *best = INFINITY;
  for (int i = 0; i < ATTEMPTS; i++) {
    float ms = 0;
    TRY(time_once(t, send, &ms));
    if (ms < *best) *best = ms;
  }
  return TML_OK;
}

static tml_status rate_of(traffic *t, tml_status (*send)(traffic *), double *gbs)
{
  tml_group *group = t->r->comm->group;
  float best;
  TRY(tml_group_vote(group, time_best(t, send, &best), "timing the links"));
  double ms = best;
  TRY(tml_group_max(group, &ms, 1));
  *gbs = ms > 0 ? (double)t->bytes / ms * 1e-6 : NAN; /* the emulator's time may stand still */
  return TML_OK;
}

/* Every peer gets an equal part from every other rank, each at a place of its own. */
static tml_status encode_maps(traffic *t)
{
  const rig *r = t->r;
  size_t part = t->bytes / (size_t)(r->world - 1);
  const cuuint64_t dim[2] = {LINE_BYTES / 2, part / LINE_BYTES}, stride[1] = {LINE_BYTES};
  const cuuint32_t box[2] = {LINE_BYTES / 2, BOX_LINES}, ones[2] = {1, 1};
  for (int d = 0; d < r->world; d++) {
    size_t place = (size_t)((r->rank - d - 1 + r->world) % r->world);
    if (d == r->rank) continue;
    TRY(CU(r->api, cuTensorMapEncodeTiled,
           (&t->values.map_out.at[d], CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
            (void *)(uintptr_t)(t->block->at[d] + place * part), dim, stride, box, ones,
            CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
            CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)));
  }
  t->values.rank = r->rank;
  t->values.count = t->bytes / BOX_BYTES;
  return TML_OK;
}

static tml_status load_stores(traffic *t)
{
  tml_variant v;
  TRY(tml_gen_aux(t->r->gen, "stores", t->r->ctx->arch, TML_BF16, t->r->world, &v));
  return tml_ctx_kernel(t->r->ctx, v.name, TML_FROM_BANK | TML_FROM_JIT, &t->kernel);
}

static tml_status prepare(traffic *t)
{
  const rig *r = t->r;
  TRY(CU(r->api, cuMemsetD8Async, (t->block->at[r->rank], 0, 2 * t->bytes, r->stream)));
  TRY(encode_maps(t));
  return rig_wait(t->r, 10);
}

/* A bank without the kernel leaves one rate unknown, which is agreed on. */
static tml_status measure(traffic *t, bench_link_rates *out)
{
  tml_group *group = t->r->comm->group;
  TRY(tml_group_vote(group, prepare(t), "preparing to time the links"));
  TRY(rate_of(t, send_copies, &out->copies));
  tml_status status = tml_group_vote(group, load_stores(t), "loading the kernel of stores");
  if (status == TML_MISS) {
    if (t->r->rank == 0) cli_note("the rate of stores is not measured: %s", tml_last_error());
    return TML_OK;
  }
  return status == TML_OK ? rate_of(t, send_stores, &out->stores) : status;
}

tml_status bench_link(rig *r, bench_link_rates *out)
{
  traffic t = {.r = r};
  *out = (bench_link_rates){NAN, NAN};
  if (r->world == 1) return TML_OK;
  /* Whole boxes for each peer, in any world; the emulator's time is not worth many. */
  size_t unit = (size_t)BOX_BYTES * (size_t)(r->world - 1);
  t.bytes = (device_emulated() ? 4 : ((size_t)128 << 20) / unit) * unit;
  TRY(tml_block_create(r->comm, 2 * t.bytes, &t.block));
  tml_status status = measure(&t, out);
  tml_block_free(r->comm, t.block);
  return status;
}
