/* NCCL collectives of the fake: how the bytes move once all shares are there. */
#include "machine.h"

static float sum_at(const fake_coll *coll, size_t i, int bf16)
{
  float sum = 0;
  for (int r = 0; r < coll->size; r++) sum += fake_load16(coll->share[r].src, i, bf16);
  return sum;
}

/* Sums [from, from + count) into the destination of rank `to` at 0; bytes are summed modulo 256. In
 * two steps, as the destination may be a source. */
static void reduce_into(const fake_coll *coll, int to, size_t from, size_t count)
{
  int type = coll->share[to].type, bf16 = type == TML_NCCL_BFLOAT16;
  size_t size = type == TML_NCCL_UINT8 ? 1 : 2;
  unsigned char *sum = malloc(count * size + 1);
  if (!sum) abort();
  for (size_t i = 0; i < count; i++) {
    if (size == 2) {
      fake_store16(sum, i, bf16, sum_at(coll, from + i, bf16));
      continue;
    }
    sum[i] = 0;
    for (int r = 0; r < coll->size; r++)
      sum[i] = (unsigned char)(sum[i] + ((const unsigned char *)coll->share[r].src)[from + i]);
  }
  memcpy(coll->share[to].dst, sum, count * size);
  free(sum);
}

static void run_collective(const fake_coll *coll)
{
  const fake_share *first = &coll->share[0];
  size_t bytes = first->count * (first->type == TML_NCCL_UINT8 ? 1 : 2);
  int size = coll->size;
  if (strcmp(first->call, "AllGather") == 0) {
    for (int r = 0; r < size; r++)
      for (int s = 0; s < size; s++)
        memmove((char *)coll->share[r].dst + (size_t)s * bytes, coll->share[s].src, bytes);
  } else if (strcmp(first->call, "Broadcast") == 0) {
    for (int r = 0; r < size; r++) memmove(coll->share[r].dst, coll->share[first->root].src, bytes);
  } else if (strcmp(first->call, "Reduce") == 0) {
    reduce_into(coll, first->root, 0, first->count);
  } else if (strcmp(first->call, "ReduceScatter") == 0) {
    for (int r = 0; r < size; r++) reduce_into(coll, r, (size_t)r * first->count, first->count);
  } else { /* all ranks write only after all were read: the sum goes to rank 0 and from there */
    reduce_into(coll, 0, 0, first->count);
    for (int r = 1; r < size; r++) memcpy(coll->share[r].dst, first->dst, bytes);
  }
}

/* In real NCCL a mismatch hangs or corrupts; here the test fails and nothing moves. */
static int same(const fake_coll *coll)
{
  const fake_share *a = &coll->share[0];
  for (int r = 1; r < coll->size; r++) {
    const fake_share *b = &coll->share[r];
    if (strcmp(a->call, b->call) == 0 && a->count == b->count && a->type == b->type &&
        a->root == b->root)
      continue;
    fprintf(stderr, "fake: collective %ld differs: rank 0 %s %zu root %d, rank %d %s %zu root %d\n",
            coll->seq, a->call, a->count, a->root, r, b->call, b->count, b->root);
    fake_m.failures++;
    return 0;
  }
  return 1;
}

int fake_coll_step(fake_work *work)
{
  fake_coll *coll = work->coll;
  if (!work->comm || coll->done) return 1; /* aborted, or run by another rank */
  coll->share[work->rank].here = 1;
  for (int r = 0; r < coll->size; r++)
    if (!coll->share[r].here) return 0;
  if (same(coll)) run_collective(coll);
  coll->done = 1;
  return 1;
}
