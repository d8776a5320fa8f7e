/* The emulated device: what each primitive does, when nothing is wrong. */
#include "emu_fixture.h"

#define SEEDS 5
#define FULL (smem_base() + 60000u / 8 * 8)
#define EACH_SEED for (u64 seed = 1; seed <= SEEDS; ++seed)

static u16 pattern(u32 row, u32 column) { return (u16)(row * 256 + column + 1); }

/* ---- Threads --------------------------------------------------------------------------------- */
static void meet_kernel(void **params)
{
  const args *a = KERNEL_ARGS(params);
  u32 t = thread_id(), at = smem_base() + 4 * t;
  u32 first = warp_uniform(t);
  smem_store_u32(at, t * 3);
  block_sync();
  global_store_u32(a->at[0] + 4 * (block_id() * 96 + t),
                   smem_load_u32(smem_base() + 4 * (95 - t)) + first);
  global_store_u32(a->at[1] + 4 * (block_id() * 96 + t), (u32)warp_all(t < 40));
}

static void threads_meet(void **state)
{
  (void)state;
  EACH_SEED
  {
    rig r = rig_make(1, seed);
    args a = {.at = {rig_memory(&r, 0, 3840), rig_memory(&r, 0, 3840)}};
    u32 out[960], all[960];
    rig_submit(&r, 0, meet_kernel, &a, 10, 96, 1);
    assert_int_equal(rig_run(&r), EMU_IDLE);
    rig_expect_clean(&r);
    emu_host_read(r.m, out, a.at[0], sizeof out, r.stream[0]);
    emu_host_read(r.m, all, a.at[1], sizeof all, r.stream[0]);
    for (u32 i = 0; i < 960; ++i) {
      u32 t = i % 96;
      assert_int_equal(out[i], (95 - t) * 3 + t / 32 * 32);
      assert_int_equal(all[i], t / 32 == 0);
    }
    rig_free(&r);
  }
}

/* ---- TMA loads: swizzle, zero fill ----------------------------------------------------------- */
static void load_kernel(void **params)
{
  const args *a = KERNEL_ARGS(params);
  u32 i;
  if (thread_id() != 0) return;
  mbar_init(FULL, 1);
  mbar_init_fence();
  tma_load_2d(smem_base(), &a->map[0], FULL, -8, 4); /* before the bytes are announced */
  mbar_arrive_expect(FULL, 64 * 8 * 2);
  mbar_wait(FULL, 0);
  for (i = 0; i < 256; ++i) global_store_u32(a->at[1] + 4 * i, smem_load_u32(smem_base() + 4 * i));
}

static void load_swizzles_and_fills(void **state)
{
  u16 data[10][64];
  (void)state;
  for (u32 y = 0; y < 10; ++y) {
    for (u32 x = 0; x < 64; ++x) data[y][x] = pattern(y, x);
  }
  EACH_SEED
  {
    rig r = rig_make(1, seed);
    args a = {.at = {rig_filled(&r, 0, data, sizeof data), rig_memory(&r, 0, 1024)}};
    u16 out[512];
    a.map[0] = rig_map(a.at[0], 64, 10, 8);
    rig_submit(&r, 0, load_kernel, &a, 1, 32, 1);
    assert_int_equal(rig_run(&r), EMU_IDLE);
    rig_expect_clean(&r);
    emu_host_read(r.m, out, a.at[1], sizeof out, r.stream[0]);
    for (u32 y = 0; y < 8; ++y) { /* rows 4 to 11, columns -8 to 55 */
      for (u32 x = 0; x < 64; ++x) {
        u32 chunk = (x / 8) ^ (y & 7);
        u16 expected = x >= 8 && y < 6 ? pattern(y + 4, x - 8) : 0;
        assert_int_equal(out[y * 64 + chunk * 8 + x % 8], expected);
      }
    }
    rig_free(&r);
  }
}

/* ---- A tile through shared memory: matrices, fences, stores, clipping ------------------------ */
static void store_kernel(void **params)
{
  const args *a = KERNEL_ARGS(params);
  u32 lane = thread_id(), row = lane & 15, k, r[4], i;
  for (k = 0; k < 4; ++k) { /* 16 rows, 64 columns: 16 columns at a time */
    u32 chunk = k * 2 + (lane >> 4);
    u32 at = smem_base() + row * 128 + ((chunk ^ (row & 7)) << 4);
    u32 x = k * 16 + lane % 4 * 2, y = lane / 4;
    u32 part[4][2] = {{y, x}, {y + 8, x}, {y, x + 8}, {y + 8, x + 8}};
    for (i = 0; i < 4; ++i) {
      r[i] = (u32)pattern(part[i][0], part[i][1]) | (u32)pattern(part[i][0], part[i][1] + 1) << 16;
    }
    smem_store_matrix_x4(at, r[0], r[1], r[2], r[3]);
    warp_sync();
    smem_load_matrix_x4(at, r);
    if (r[3] !=
        ((u32)pattern(part[3][0], part[3][1]) | (u32)pattern(part[3][0], part[3][1] + 1) << 16)) {
      global_store_u32(a->at[3], 1);
    }
  }
  fence_async_smem();
  warp_sync();
  if (lane != 0) return;
  tma_store_2d(&a->map[0], smem_base(), 8, 2);
  tma_store_commit();
  tma_store_wait_read(0);
  tma_store_wait(0);
}

static void store_clips(void **state)
{
  u16 out[12][40];
  u32 wrong = 0;
  (void)state;
  EACH_SEED
  {
    rig r = rig_make(1, seed);
    args a = {.at = {rig_memory(&r, 0, 12 * 40 * 2), 0, 0, rig_filled(&r, 0, &wrong, 4)}};
    a.map[0] = rig_map(a.at[0], 40, 12, 16);
    rig_submit(&r, 0, store_kernel, &a, 1, 32, 1);
    assert_int_equal(rig_run(&r), EMU_IDLE);
    rig_expect_clean(&r);
    memcpy(out, emu_pointer(r.m, a.at[0], sizeof out), sizeof out);
    memcpy(&wrong, emu_pointer(r.m, a.at[3], 4), 4);
    assert_int_equal(wrong, 0);
    for (u32 y = 0; y < 12; ++y) {
      for (u32 x = 0; x < 40; ++x) {
        assert_int_equal(out[y][x], y >= 2 && x >= 8 ? pattern(y - 2, x - 8) : 0xffff);
      }
    }
    rig_free(&r);
  }
}

/* ---- Clusters: multicast, remote arrival, remote words --------------------------------------- */
static void cluster_kernel(void **params)
{
  const args *a = KERNEL_ARGS(params);
  u32 rank = cluster_rank(), empty = FULL + 8, stored = FULL + 16, i;
  if (thread_id() == 0) {
    mbar_init(FULL, 1);
    mbar_init(empty, 2);
    mbar_init(stored, 1);
    mbar_init_fence();
  }
  cluster_meet();
  if (thread_id() == 0) {
    mbar_arrive_expect(FULL, 2048);
    tma_load_2d_multicast(smem_base() + rank * 1024, &a->map[0], FULL, 0, (i32)rank * 8, 3);
    mbar_wait(FULL, 0);
    for (i = 0; i < 512; ++i) {
      global_store_u32(a->at[1] + 4 * (rank * 512 + i), smem_load_u32(smem_base() + 4 * i));
    }
    for (i = 0; i < 2; ++i) mbar_arrive_cluster(smem_of_block(empty, i));
    mbar_wait(empty, 0);
    smem_store_cluster_u64(smem_of_block(smem_base() + 4096, rank ^ 1), 40 + rank);
    mbar_arrive_cluster_release(smem_of_block(stored, rank ^ 1));
    mbar_wait_cluster(stored, 0);
    global_store_u64(a->at[2] + 8 * rank, smem_load_u64(smem_base() + 4096));
  }
  cluster_meet();
}

static void clusters_share(void **state)
{
  u16 data[16][64], out[2][16][64];
  u64 words[2];
  (void)state;
  for (u32 y = 0; y < 16; ++y) {
    for (u32 x = 0; x < 64; ++x) data[y][x] = pattern(y, x);
  }
  EACH_SEED
  {
    rig r = rig_make(1, seed);
    args a = {.at = {rig_filled(&r, 0, data, sizeof data), rig_memory(&r, 0, sizeof out),
                     rig_memory(&r, 0, 16)}};
    a.map[0] = rig_map(a.at[0], 64, 16, 8);
    rig_submit(&r, 0, cluster_kernel, &a, 2, 64, 2);
    assert_int_equal(rig_run(&r), EMU_IDLE);
    rig_expect_clean(&r);
    emu_host_read(r.m, out, a.at[1], sizeof out, r.stream[0]);
    emu_host_read(r.m, words, a.at[2], sizeof words, r.stream[0]);
    assert_int_equal(words[0], 41);
    assert_int_equal(words[1], 40);
    for (u32 b = 0; b < 2; ++b) {
      for (u32 i = 0; i < 1024; ++i) {
        u32 y = i / 64, x = i % 64;
        assert_int_equal(out[b][y][((x / 8) ^ (y & 7)) * 8 + x % 8], data[y][x]);
      }
    }
    rig_free(&r);
  }
}

/* ---- Ranks: data, signal, poll --------------------------------------------------------------- */
static void talk_kernel(void **params)
{
  const args *a = KERNEL_ARGS(params);
  if (thread_id() != 0) return;
  if (a->device == 0) {
    u64 i;
    for (i = 0; i < 16; ++i) global_store_u64(a->at[1] + 8 * i, 100 + i);
    pause_ns(5000);
    global_store_release_sys(a->at[0], 7);
    return;
  }
  while (global_load_relaxed_sys(a->at[0]) < 7) pause_ns(20);
  global_load_acquire_sys(a->at[0]);
  global_store_u64(a->at[2], global_load_u64(a->at[1] + 8 * 15));
  global_add_gpu(a->at[3], 5);
  global_store_u64(a->at[2] + 8, global_swap_gpu(a->at[3], 9));
}

static void ranks_talk(void **state)
{
  u64 zero = 0, out[2];
  (void)state;
  EACH_SEED
  {
    rig r = rig_make(2, seed);
    args a = {.at = {rig_filled(&r, 1, &zero, 8), rig_memory(&r, 1, 128), rig_memory(&r, 1, 16),
                     rig_filled(&r, 1, &zero, 8)}};
    rig_submit(&r, 1, talk_kernel, &a, 1, 32, 1);
    assert_int_equal(emu_run(r.m, 0), EMU_POLLING);
    rig_submit(&r, 0, talk_kernel, &a, 1, 32, 1);
    assert_int_equal(rig_run(&r), EMU_IDLE);
    rig_expect_clean(&r);
    emu_host_read(r.m, out, a.at[2], sizeof out, r.stream[1]);
    assert_int_equal(out[0], 115);
    assert_int_equal(out[1], 5);
    rig_free(&r);
  }
}

/* ---- Copies and work of the driver ----------------------------------------------------------- */
static void count(void *arg) { ++*(int *)arg; }

static void copies_land(void **state)
{
  unsigned char data[5000], out[5000];
  (void)state;
  for (size_t i = 0; i < sizeof data; ++i) data[i] = (unsigned char)(i * 7);
  EACH_SEED
  {
    rig r = rig_make(2, seed);
    u64 from = rig_filled(&r, 0, data, sizeof data), to = rig_memory(&r, 1, sizeof data);
    int done = 0, ran = 0;
    emu_range range = {to, 5000, 1};
    assert_null(emu_submit_copy(r.m, to, from, 5000, 0, "copy", r.stream[0], count, &done));
    assert_int_equal(emu_run(r.m, 0), EMU_DONE);
    assert_int_equal(done, 1);
    assert_null(
        emu_submit_work(r.m, &range, 1, 10, "work", count, &ran, r.stream[0], count, &done));
    assert_int_equal(rig_run(&r), EMU_IDLE);
    assert_int_equal(ran, 1);
    assert_int_equal(done, 2);
    assert_null(emu_host_read(r.m, out, to, 5000, r.stream[0]));
    assert_memory_equal(out, data, 5000);
    rig_expect_clean(&r);
    assert_non_null(
        emu_submit_copy(r.m, to + 4096, from, 5000, 0, "copy", r.stream[0], NULL, NULL));
    rig_free(&r);
  }
}

/* ---- wgmma ----------------------------------------------------------------------------------- */
static void mma_kernel(void **params)
{
  const args *a = KERNEL_ARGS(params);
  u32 t = thread_id(), i, kk;
  float acc[32], late[32];
  u64 left = ((u64)1 << 62) | ((u64)64 << 32) | (smem_base() >> 4), right = left + 8192 / 16;
  if (t == 0) {
    mbar_init(FULL, 1);
    mbar_init_fence();
  }
  block_sync();
  if (t == 0) {
    mbar_arrive_expect(FULL, 16384);
    tma_load_2d(smem_base(), &a->map[0], FULL, 0, 0);
    tma_load_2d(smem_base() + 8192, &a->map[1], FULL, 0, 0);
  }
  mbar_wait(FULL, 0);
  wgmma_fence();
  for (kk = 0; kk < 4; ++kk) {
    tml_emu->wgmma(EMU_SITE, acc, left + 2 * kk, right + 2 * kk, 64, (u32)a->mode, kk > 0);
    if (kk == 1) wgmma_commit();
  }
  wgmma_commit();
  wgmma_wait(1);
  wgmma_wait(0);
  for (i = 0; i < 32; ++i) late[i] = acc[i];
  for (i = 0; i < 32; ++i) {
    u32 row = t / 32 * 16 + t % 32 / 4 + 8 * (i / 2 % 2),
        column = 8 * (i / 4) + 2 * (t % 4) + i % 2;
    global_store_f32(a->at[2] + 4 * (row * 64 + column), late[i]);
  }
}

static float element(u16 x, int fp16)
{
  union {
    u32 u;
    float f;
  } bits = {(u32)x << 16};
  return fp16 ? tml_emu->from_half(x) : bits.f;
}

static void wgmma_is_exact(void **state)
{
  static u16 left[64][64], right[64][64];
  static float out[64][64];
  (void)state;
  for (int fp16 = 0; fp16 < 2; ++fp16) {
    for (u32 i = 0; i < 64 * 64; ++i) { /* values near 1 with many bits */
      left[i / 64][i % 64] = (u16)((fp16 ? 0x3800 : 0x3f00) + i * 37 % 1000);
      right[i / 64][i % 64] = (u16)((fp16 ? 0xb800 : 0xbf00) + i * 91 % 127);
    }
    EACH_SEED
    {
      rig r = rig_make(1, seed);
      args a = {.at = {rig_filled(&r, 0, left, sizeof left), rig_filled(&r, 0, right, sizeof right),
                       rig_memory(&r, 0, sizeof out)},
                .mode = fp16};
      a.map[0] = rig_map(a.at[0], 64, 64, 64);
      a.map[1] = rig_map(a.at[1], 64, 64, 64);
      rig_submit(&r, 0, mma_kernel, &a, 1, 128, 1);
      assert_int_equal(rig_run(&r), EMU_IDLE);
      rig_expect_clean(&r);
      emu_host_read(r.m, out, a.at[2], sizeof out, r.stream[0]);
      for (u32 y = 0; y < 64; ++y) {
        for (u32 x = 0; x < 64; ++x) {
          float sum = 0;
          for (u32 k = 0; k < 64; ++k)
            sum += element(left[y][k], fp16) * element(right[x][k], fp16);
          assert_memory_equal(&sum, &out[y][x], 4);
        }
      }
      rig_free(&r);
    }
  }
}

static void halves_convert(void **state)
{
  (void)state;
  tml_emu = emu_primitives_of_abi(EMU_ABI);
  for (u32 h = 0; h < 65536; ++h) {
    if ((h & 0x7fff) > 0x7c00) continue;
    assert_int_equal(tml_emu->to_half(tml_emu->from_half(h)), h);
  }
  assert_int_equal(tml_emu->to_half(65519.0f), 0x7bff);
  assert_int_equal(tml_emu->to_half(65520.0f), 0x7c00);
  assert_int_equal(tml_emu->to_half(1.0f + 1.0f / 2048), 0x3c00); /* ties to even */
  assert_int_equal(tml_emu->to_half(1.0f + 3.0f / 2048), 0x3c02);
  assert_int_equal(tml_emu->to_half(1.0f / 33554432), 0); /* half of the smallest: to even */
  assert_null(emu_primitives_of_abi(EMU_ABI + 1));
}

/* ---- The run is a function of the seed ------------------------------------------------------- */
static u64 trace(u64 seed)
{
  rig r = rig_make(1, seed);
  args a = {.at = {rig_memory(&r, 0, 3840), rig_memory(&r, 0, 3840)}};
  rig_submit(&r, 0, meet_kernel, &a, 10, 96, 1);
  rig_run(&r);
  u64 result = emu_count(r.m).switches * 1000003 + emu_now_ns(r.m);
  rig_free(&r);
  return result;
}

static void seeds_repeat(void **state)
{
  (void)state;
  assert_true(trace(3) == trace(3));
  assert_false(trace(3) == trace(4));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(threads_meet),   cmocka_unit_test(load_swizzles_and_fills),
      cmocka_unit_test(store_clips),    cmocka_unit_test(clusters_share),
      cmocka_unit_test(ranks_talk),     cmocka_unit_test(copies_land),
      cmocka_unit_test(wgmma_is_exact), cmocka_unit_test(halves_convert),
      cmocka_unit_test(seeds_repeat),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
