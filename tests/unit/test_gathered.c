/* The gathered A that a caller asks ag_gemm for: what is copied from where, behind the kernel, and refusals. */
#include "plan_fixture.h"

/* Behind the kernel, on its stream: the own shard, and the slot's rows before and behind it. */
static void check_gathered(test_bed *rig, const fake_op **op, int count, int64_t m, int slot,
                           CUdeviceptr to)
{
  const tml_segment *segment = rig->comm->segment;
  CUdeviceptr shards =
      segment->block->at[rig->rank] + segment->slots_at + (size_t)slot * segment->bytes.slots;
  int64_t shard = (m + 2) / 3, first = rig->rank * shard < m ? rig->rank * shard : m;
  int64_t last = first + shard < m ? first + shard : m;
  struct {
    CUdeviceptr from;
    int64_t first, rows;
  } part[3] = {{rig->buffer[0], first, last - first},
               {shards, 0, first},
               {shards + (CUdeviceptr)(last * 80), last, m - last}};
  int at = 0;
  for (int i = 0; i < 3; i++) {
    if (part[i].rows == 0) continue;
    if (!FAKE_CHECK(at < count)) return;
    FAKE_CHECK(op[at]->kind == FAKE_COPY && op[at]->src == part[i].from &&
               op[at]->dst == to + (CUdeviceptr)(part[i].first * 80) &&
               op[at]->bytes == (size_t)part[i].rows * 80);
    at++;
  }
  FAKE_CHECK(at == count);
}

static void gathered_rank(test_bed *rig)
{
  tml_variant variant = rig_variant(rig, rig_find("ag_gemm", 3, 128, 128, 1).name);
  tml_plan *plan = rig_plan(rig, "ag_gemm:bf16:nt:w3:1000x72x40", variant.name);
  CUstream stream = new_stream();
  const int64_t sizes[] = {7, 4, 0, 1000};
  for (int i = 0; i < 4; i++) {
    const fake_op *op[16];
    tml_args args = rig_args(rig, sizes[i], 0);
    args.gathered = (void *)rig->buffer[3];
    FAKE_CHECK_OK(tml_launch(plan, &args, stream));
    int before = sizes[i] - rig->rank * ((sizes[i] + 2) / 3) > 0 ? 10 : 6;
    int count = rig_after_gate(rig, i, op, 16);
    if (!FAKE_CHECK(count >= before)) break;
    const fake_op *kernel = op[before - 2];
    FAKE_CHECK(*(const int32_t *)fake_param(kernel, &variant, TML_PARAM_keep) == 1);
    for (int j = before; j < count; j++)
      FAKE_CHECK(op[j]->stream == kernel->stream && fake_before(kernel, op[j]));
    check_gathered(rig, op + before, count - before, sizes[i], i % 2, rig->buffer[3]);
  }
  tml_args args = rig_args(rig, 7, 0);
  args.gathered = (void *)(rig->buffer[3] + 8);
  FAKE_CHECK(rig_says(tml_launch(plan, &args, stream), TML_ARGUMENT, "gathered = "));
  args.gathered = (void *)rig->buffer[3];
  args.lda = 48;
  FAKE_CHECK(rig_says(tml_launch(plan, &args, stream), TML_ARGUMENT, "packed"));
  close_stream(stream);
  tml_plan_destroy(plan);
}

/* A world of one gathers nothing, and gives a copy all the same. */
static void gathered_alone(test_bed *rig)
{
  tml_plan *plan = rig_plan(rig, "ag_gemm:bf16:nt:w1:1000x72x40", NULL);
  tml_args args = rig_args(rig, 7, 0);
  args.gathered = (void *)rig->buffer[3];
  FAKE_CHECK_OK(tml_launch(plan, &args, NULL));
  const fake_op *copy = rig_op(rig, FAKE_COPY, NULL, 0);
  if (FAKE_CHECK(copy != NULL))
    FAKE_CHECK(copy->src == rig->buffer[0] && copy->dst == rig->buffer[3] && copy->bytes == 7 * 80);
  tml_plan_destroy(plan);
}

static void test_ranks(void **state)
{
  (void)state;
  rig_run_ranks(3, NULL, NULL, gathered_rank);
}

static void test_alone(void **state)
{
  (void)state;
  rig_run_ranks(1, NULL, NULL, gathered_alone);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_ranks), cmocka_unit_test(test_alone)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
