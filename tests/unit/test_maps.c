/* Tensor maps of every op, as the kernel gets them: addresses, dimensions, strides, boxes. */
#include "plan_fixture.h"

/* Elements. A row of a box is one line of the swizzle. */
typedef struct map_box {
  int columns, rows;
} map_box;

static CUtensorMapSwizzle swizzle_of(map_box box)
{
  return box.columns * 2 == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B;
}

/* dims and strides up to the first 0. */
static int map_is(const void *table, int index, CUdeviceptr at, const uint64_t *dim,
                  const uint64_t *stride, map_box box)
{
  fake_map map;
  int rank = dim[2] ? 4 : 2, same;
  if (!table || !fake_map_decode((const char *)table + 128 * index, &map)) return 0;
  same = map.address == at && map.rank == rank && map.box[0] == box.columns &&
         map.box[1] == box.rows && map.swizzle == (uint8_t)swizzle_of(box) &&
         map.promotion == CU_TENSOR_MAP_L2_PROMOTION_L2_256B &&
         map.type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 && map.interleave == 0 && map.fill == 0;
  for (int i = 0; i < rank; i++)
    same = same && map.dim[i] == dim[i] && (i == 0 || map.stride[i - 1] == stride[i - 1]);
  if (rank == 4) same = same && map.box[2] == 1 && map.box[3] == 1;
  if (!same)
    fprintf(stderr, "map %d: at +%lld, %llu x %llu x %llu x %llu\n", index,
            (long long)(map.address - at), (unsigned long long)map.dim[0],
            (unsigned long long)map.dim[1], (unsigned long long)map.dim[2],
            (unsigned long long)map.dim[3]);
  return same;
}

#define FLAT(table, index, at, columns, rows, ld, box)                                      \
  FAKE_CHECK(map_is(table, index, at, (uint64_t[4]){(uint64_t)(columns), (uint64_t)(rows)}, \
                    (uint64_t[3]){(uint64_t)(ld)*2}, box))
#define DEEP(table, index, at, columns, rows, sources, shard, half, box)                  \
  FAKE_CHECK(map_is(                                                                      \
      table, index, at, (uint64_t[4]){(uint64_t)(columns), (uint64_t)(rows), sources, 2}, \
      (uint64_t[3]){(uint64_t)(columns)*2, (uint64_t)(shard) * (uint64_t)(columns)*2, half}, box))

/* Launches once and gives this rank's operation. */
static const fake_op *launched(test_bed *rig, tml_plan *plan, const tml_args *args,
                               const tml_variant *variant)
{
  FAKE_CHECK_OK(tml_launch(plan, args, NULL));
  return rig_op(rig, FAKE_LAUNCH, variant->symbol, 0);
}

#define TABLE(name) fake_param(op, &variant, TML_PARAM_##name)
#define BOX_A ((map_box){64, variant.box_a})
#define BOX_B ((map_box){64, variant.box_b})
#define BOX_C ((map_box){variant.box_n, variant.box_c})

/* Every op with a tile whose output goes in boxes of 64 columns, and with one that takes 32. */
static int tile_columns;

static tml_variant find_variant_like(test_bed *rig, const char *op, int cluster_m, const char *glob)
{
  rig_shape shape = rig_find_like(op, rig->world, 128, tile_columns, cluster_m, glob);
  tml_variant variant = rig_variant(rig, shape.name);
  FAKE_CHECK(variant.tile_k == 64 && variant.box_a == 128 &&
             variant.box_b == tile_columns / cluster_m && variant.box_c == 64 &&
             variant.box_n == (tile_columns == 128 ? 64 : 32));
  return variant;
}

static tml_variant find_variant(test_bed *rig, const char *op, int cluster_m)
{
  return find_variant_like(rig, op, cluster_m, NULL);
}

/* Strided A, B and C; a cluster shares B, so its boxes are half a tile. */
static void gemm_rank(test_bed *rig)
{
  tml_variant variant = find_variant(rig, "gemm", 2);
  tml_plan *plan = rig_plan(rig, "gemm:bf16:nt:w1:300x72x40", variant.name);
  tml_args args = rig_args(rig, 77, 0);
  args.lda = 48, args.ldb = 56, args.ldc = 80;
  const fake_op *op = launched(rig, plan, &args, &variant);
  FLAT(TABLE(map_a), 0, rig->buffer[0], 40, 77, 48, BOX_A);
  FLAT(TABLE(map_b), 0, rig->buffer[1], 40, 72, 56, BOX_B);
  FLAT(TABLE(map_c), 0, rig->buffer[2], 72, 77, 80, BOX_C);
  tml_plan_destroy(plan);
}

/* m = 7 over 3 ranks: 3, 3 and 1 rows. */
static void ag_rank(test_bed *rig)
{
  tml_variant variant = find_variant(rig, "ag_gemm", 1);
  tml_plan *plan = rig_plan(rig, "ag_gemm:bf16:nt:w3:300x72x40", variant.name);
  tml_args args = rig_args(rig, 7, 0);
  args.ldc = 80;
  const tml_segment *segment = rig->comm->segment;
  for (int call = 0; call < 2; call++) { /* both slots */
    FAKE_CHECK_OK(tml_launch(plan, &args, NULL));
    const fake_op *op = rig_op(rig, FAKE_LAUNCH, variant.symbol, call);
    CUdeviceptr slot =
        segment->block->at[rig->rank] + segment->slots_at + (size_t)call * segment->bytes.slots;
    for (int s = 0; s < 3; s++) {
      int rows = s == 2 ? 1 : 3;
      FLAT(TABLE(map_a), s, s == rig->rank ? rig->buffer[0] : slot + (size_t)s * 3 * 40 * 2, 40,
           rows, 40, BOX_A);
      FLAT(TABLE(map_c), s, rig->buffer[2] + (size_t)s * 3 * 80 * 2, 72, rows, 80, BOX_C);
    }
    FLAT(TABLE(map_b), 0, rig->buffer[1], 40, 72, 40, BOX_B);
    FAKE_CHECK(*(const int32_t *)TABLE(slot) == call && *(const int32_t *)TABLE(shard) == 3);
  }
  tml_plan_destroy(plan);
}

/* Movers: m = 5 over 3 ranks: 2, 2 and 1 row; a strided A. Operands and sends have the boxes of A. */
static void sm_rank(test_bed *rig)
{
  tml_variant variant = find_variant_like(rig, "ag_gemm", 1, "*.sm");
  tml_plan *plan = rig_plan(rig, "ag_gemm:bf16:nt:w3:300x72x1032", variant.name);
  tml_args args = rig_args(rig, 5, 0);
  args.lda = 1040;
  const tml_segment *segment = rig->comm->segment;
  const fake_op *op = launched(rig, plan, &args, &variant);
  int rows = rig->rank == 2 ? 1 : 2;
  CUdeviceptr own = segment->block->at[rig->rank] + segment->staging_at;
  for (int s = 0; s < 3; s++) {
    if (s == rig->rank)
      FAKE_CHECK(map_is(TABLE(map_a), s, rig->buffer[0], (uint64_t[4]){1032, (uint64_t)rows, 1, 1},
                        (uint64_t[3]){2080, 2080, 2080}, BOX_A));
    else
      DEEP(TABLE(map_a), s, own + (size_t)s * 2 * 1032 * 2, 1032, s == 2 ? 1 : 2, 1, 2,
           segment->bytes.staging, BOX_A);
    DEEP(TABLE(map_out), s, segment->block->at[s] + segment->staging_at, 1032, rows, 3, 2,
         segment->bytes.staging, BOX_A);
    FLAT(TABLE(map_c), s, rig->buffer[2] + (size_t)s * 2 * 72 * 2, 72, s == 2 ? 1 : 2, 72, BOX_C);
  }
  int chunks = (1032 + variant.move_k - 1) / variant.move_k; /* of one block of rows */
  FAKE_CHECK(variant.move_k == 128 && *(const int32_t *)TABLE(signal_stride) == chunks);
  tml_plan_destroy(plan);
}

/* m = 4 over 3 ranks: 2, 2 and no rows; the last has no C. */
static void rs_rank(test_bed *rig)
{
  tml_variant variant = find_variant(rig, "gemm_rs", 1);
  tml_plan *plan = rig_plan(rig, "gemm_rs:bf16:nt:w3:300x72x40", variant.name);
  tml_args args = rig_args(rig, 4, 0);
  if (rig->rank == 2) args.c = NULL;
  const tml_segment *segment = rig->comm->segment;
  const fake_op *op = launched(rig, plan, &args, &variant);
  int rows = rig->rank == 2 ? 1 : 2; /* none is encoded as 1 */
  FLAT(TABLE(map_a), 0, rig->buffer[0], 40, 4, 40, BOX_A);
  FLAT(TABLE(map_c), 0, rig->rank == 2 ? rig->buffer[1] : rig->buffer[2], 72, rows, 72, BOX_C);
  DEEP(TABLE(map_in), 0, segment->block->at[rig->rank] + segment->staging_at, 72, rows, 3, 2,
       segment->bytes.staging, BOX_C);
  for (int d = 0; d < 3; d++)
    DEEP(TABLE(map_out), d, segment->block->at[d] + segment->staging_at, 72, d == 2 ? 1 : 2, 3, 2,
         segment->bytes.staging, BOX_C);
  const tml_addr_table *signals = TABLE(signals), *pad = TABLE(pad);
  for (int r = 0; r < 3; r++)
    FAKE_CHECK(signals->at[r] == segment->block->at[r] && pad->at[r] == rig->comm->pad->at[r]);
  FAKE_CHECK(*(const int32_t *)TABLE(signal_stride) == 1 &&
             *(const int32_t *)TABLE(rank) == rig->rank);
  FAKE_CHECK(*(const uint64_t *)TABLE(record) == rig->comm->record_at);
  tml_plan_destroy(plan);
}

/* As above by ring: a place for each shard, here and at the next rank. */
static void ring_rank(test_bed *rig)
{
  rig_shape shape = rig_find_like("gemm_rs", rig->world, 128, tile_columns, 1, "*.ring");
  tml_variant variant = rig_variant(rig, shape.name);
  tml_plan *plan = rig_plan(rig, "gemm_rs:bf16:nt:w3:300x72x40", variant.name);
  tml_args args = rig_args(rig, 4, 0);
  const tml_segment *segment = rig->comm->segment;
  const fake_op *op = launched(rig, plan, &args, &variant);
  FLAT(TABLE(map_c), 0, rig->buffer[2], 72, rig->rank == 2 ? 1 : 2, 72, BOX_C);
  for (int s = 0; s < 3; s++) {
    CUdeviceptr at = segment->staging_at + (size_t)s * 2 * 72 * 2;
    DEEP(TABLE(map_in), s, segment->block->at[rig->rank] + at, 72, s == 2 ? 1 : 2, 1, 2,
         segment->bytes.staging, BOX_C);
    DEEP(TABLE(map_out), s, segment->block->at[(rig->rank + 1) % 3] + at, 72, s == 2 ? 1 : 2, 1, 2,
         segment->bytes.staging, BOX_C);
  }
  tml_plan_destroy(plan);
}

static void ar_rank(test_bed *rig)
{
  tml_variant variant = find_variant(rig, "gemm_ar", 1);
  tml_plan *plan = rig_plan(rig, "gemm_ar:bf16:nt:w2:300x72x40:bias", variant.name);
  tml_args args = rig_args(rig, 5, 1); /* 3 and 2 rows */
  const tml_segment *segment = rig->comm->segment;
  const fake_op *op = launched(rig, plan, &args, &variant);
  size_t part = 3 * 72 * 2, finished = 1024; /* 2 partials of 432 bytes, up to the next 1024 */
  CUdeviceptr own = segment->block->at[rig->rank] + segment->staging_at;
  DEEP(TABLE(map_in), 0, own, 72, 3 - rig->rank, 2, 3, segment->bytes.staging, BOX_C);
  for (int s = 0; s < 2; s++) {
    CUdeviceptr there = segment->block->at[s] + segment->staging_at;
    DEEP(TABLE(map_in), 1 + s, own + finished + (size_t)s * part, 72, 3 - s, 1, 3,
         segment->bytes.staging, BOX_C);
    DEEP(TABLE(map_out), s, there, 72, 3 - s, 2, 3, segment->bytes.staging, BOX_C);
    DEEP(TABLE(map_fin), s, there + finished + (size_t)rig->rank * part, 72, 3 - rig->rank, 1, 3,
         segment->bytes.staging, BOX_C);
    FLAT(TABLE(map_c), s, rig->buffer[2] + (size_t)s * part, 72, 3 - s, 72, BOX_C);
  }
  FAKE_CHECK(*(const uint64_t *)TABLE(bias) == rig->buffer[3]);
  tml_plan_destroy(plan);
}

/* C in symmetric memory: finished rows go straight into it, one half and one source. */
static void direct_rank(test_bed *rig)
{
  tml_variant variant = find_variant(rig, "gemm_ar", 1);
  tml_plan *plan = rig_plan(rig, "gemm_ar:bf16:nt:w3:300x72x40", variant.name);
  tml_args args = rig_args(rig, 4, 0); /* 2, 2 and no rows */
  void *block;
  FAKE_CHECK_OK(tml_alloc(rig->comm, 4096, &block));
  FAKE_CHECK_OK(tml_alloc(rig->comm, 64, &args.c)); /* another one before it in the list */
  args.c = (char *)block + 256;
  args.ldc = 80;
  args.c_symmetric = 1;
  const tml_block *made = rig->comm->blocks->next;
  const fake_op *op = launched(rig, plan, &args, &variant);
  FAKE_CHECK(made->at[rig->rank] == (CUdeviceptr)block && *(const int32_t *)TABLE(direct) == 1);
  for (int d = 0; d < 3; d++)
    FAKE_CHECK(map_is(
        TABLE(map_fin), d, made->at[d] + 256 + (rig->rank < 2 ? (size_t)rig->rank * 2 * 160 : 0),
        (uint64_t[4]){72, rig->rank < 2 ? 2 : 1, 1, 1}, (uint64_t[3]){160, 160, 160}, BOX_C));
  tml_plan_destroy(plan);
}

/* Repeated calls encode nothing; more different calls than the cache holds stay right. */
static void cache_rank(test_bed *rig)
{
  tml_variant variant = find_variant(rig, "gemm", 1);
  tml_plan *plan = rig_plan(rig, "gemm:bf16:nt:w1:512x72x40", variant.name);
  for (int round = 0; round < 3; round++)
    for (int64_t m = 1; m <= 40; m++) {
      tml_args args = rig_args(rig, m, 0);
      FAKE_CHECK_OK(tml_launch(plan, &args, NULL));
    }
  FAKE_CHECK(fake_calls_of("cuTensorMapEncodeTiled") == 3 * 40);
  int launches = 3 * 40;
  for (int round = 0; round < 2; round++)
    for (int64_t m = 1; m <= 300; m++) {
      tml_args args = rig_args(rig, m, 0);
      FAKE_CHECK_OK(tml_launch(plan, &args, NULL));
      const fake_op *op = rig_op(rig, FAKE_LAUNCH, variant.symbol, launches++);
      FLAT(TABLE(map_c), 0, rig->buffer[2], 72, m, 72, BOX_C);
      FAKE_CHECK(*(const int32_t *)TABLE(m) == m);
    }
  tml_plan_destroy(plan);
}

static void both_boxes(int world, rig_fn fn)
{
  static const int columns[] = {128, 160};
  for (int i = 0; i < 2; i++) {
    tile_columns = columns[i];
    rig_run_ranks(world, NULL, NULL, fn);
  }
}

static void test_gemm(void **state) { (void)state, both_boxes(1, gemm_rank); }
static void test_ag(void **state) { (void)state, both_boxes(3, ag_rank); }
static void test_sm(void **state) { (void)state, both_boxes(3, sm_rank); }
static void test_rs(void **state) { (void)state, both_boxes(3, rs_rank); }
static void test_ring(void **state) { (void)state, both_boxes(3, ring_rank); }
static void test_ar(void **state) { (void)state, both_boxes(2, ar_rank); }
static void test_direct(void **state) { (void)state, both_boxes(3, direct_rank); }
static void test_cache(void **state) { (void)state, both_boxes(1, cache_rank); }

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_gemm),   cmocka_unit_test(test_ag),    cmocka_unit_test(test_sm),
      cmocka_unit_test(test_rs),     cmocka_unit_test(test_ring),  cmocka_unit_test(test_ar),
      cmocka_unit_test(test_direct), cmocka_unit_test(test_cache),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
