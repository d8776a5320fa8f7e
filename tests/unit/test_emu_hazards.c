/* The emulated device reports what the memory model does not order: one small kernel for each
 * hazard, found under every seed; the same kernel in order is found clean. */
#include "emu_fixture.h"

#define SEEDS 5
#define FULL (smem_base() + 60000u)
#define OTHER (smem_base() + 60008u)

/* What a kernel leaves out; 0: nothing. */
enum {
  IN_ORDER,
  NO_WAIT,
  WRONG_PHASE,
  NO_FENCE,
  NO_READ_WAIT,
  NO_STORE_WAIT,
  NO_ACQUIRE,
  NO_GLOBAL_FENCE,
  FEW_BYTES,
  NO_MMA_WAIT,
  MMA_WRITE,
  NO_CREDIT,
  RELAXED_CREDIT,
  BLOCK_WAIT
};

static emu_report first_of(const rig *r, emu_hazard kind)
{
  for (size_t i = 0; i < emu_report_count(r->m); ++i) {
    if (emu_report_at(r->m, i)->kind == kind) return *emu_report_at(r->m, i);
  }
  fail_msg("not reported: %s", emu_hazard_name(kind));
  return (emu_report){0};
}

/* Runs a kernel under each seed: clean when nothing is left out, else reported as `kind`
 * (EMU_HAZARDS: as one kind or another, or stuck: who reads before the load is even issued reads
 * what was never written). */
static void each_seed(emu_kernel_entry entry, i32 mode, emu_hazard kind, u32 block)
{
  static u16 data[64][64];
  for (u64 seed = 1; seed <= SEEDS; ++seed) {
    rig r = rig_make(1, seed);
    args a = {.at = {rig_filled(&r, 0, data, sizeof data), rig_memory(&r, 0, sizeof data)},
              .mode = mode};
    a.map[0] = rig_map(a.at[0], 64, 64, 8);
    a.map[1] = rig_map(a.at[1], 64, 64, 8);
    a.map[2] = rig_map(a.at[0], 64, 64, 64);
    rig_submit(&r, 0, entry, &a, 1, block, 1);
    emu_state end = rig_run(&r);
    if (mode == IN_ORDER)
      rig_expect_clean(&r);
    else if (kind == EMU_HAZARDS)
      assert_true(emu_report_count(r.m) > 0 || end == EMU_STUCK);
    else if (!rig_reported(&r, kind))
      fail_msg("seed %d: not reported: %s", (int)seed, emu_hazard_name(kind));
    rig_free(&r);
  }
}

/* ---- Shared memory --------------------------------------------------------------------------- */
static void load_twice(void **params)
{
  const args *a = KERNEL_ARGS(params);
  if (thread_id() == 0) {
    mbar_init(FULL, 1);
    mbar_init(OTHER, 1);
    mbar_init_fence();
  }
  block_sync();
  if (thread_id() == 0) {
    mbar_arrive_expect(FULL, a->mode == FEW_BYTES ? 512 : 1024);
    tma_load_2d(smem_base(), &a->map[0], FULL, 0, 0);
  }
  if (thread_id() == 32) {
    if (a->mode == WRONG_PHASE)
      mbar_wait(FULL, 1);
    else if (a->mode != NO_WAIT)
      mbar_wait(FULL, 0);
    (void)smem_load_u32(smem_base() + 64);
    mbar_arrive(OTHER);
  }
  if (thread_id() == 0) {
    if (a->mode != NO_READ_WAIT) mbar_wait(OTHER, 0);
    if (a->mode != NO_FENCE) fence_async_smem();
    mbar_arrive_expect(FULL, 1024);
    tma_load_2d(smem_base(), &a->map[0], FULL, 0, 8);
    mbar_wait(FULL, 1);
  }
}

static void shared_memory_is_ordered(void **state)
{
  (void)state;
  each_seed(load_twice, IN_ORDER, EMU_HAZARDS, 64);
  each_seed(load_twice, NO_WAIT, EMU_HAZARDS, 64);
  each_seed(load_twice, WRONG_PHASE, EMU_HAZARDS, 64);
  each_seed(load_twice, NO_FENCE, EMU_NO_PROXY_FENCE, 64);
  each_seed(load_twice, FEW_BYTES, EMU_HAZARDS, 64);
}

static void store_tile(void **params)
{
  const args *a = KERNEL_ARGS(params);
  u32 i;
  if (thread_id() != 0) return;
  for (i = 0; i < 256; ++i) smem_store_u32(smem_base() + 4 * i, i);
  if (a->mode != NO_FENCE) fence_async_smem();
  tma_store_2d(&a->map[1], smem_base(), 0, 0);
  tma_store_commit();
  if (a->mode != NO_READ_WAIT) tma_store_wait_read(0);
  smem_store_u32(smem_base() + 100, 7);
  tma_store_wait(0);
}

static void bulk_stores_are_ordered(void **state)
{
  (void)state;
  each_seed(store_tile, IN_ORDER, EMU_HAZARDS, 32);
  each_seed(store_tile, NO_FENCE, EMU_NO_PROXY_FENCE, 32);
  each_seed(store_tile, NO_READ_WAIT, EMU_OVERWRITTEN, 32);
}

/* Lanes that write and fence each for itself; one stores for all. */
static void lanes_store(void **params)
{
  const args *a = KERNEL_ARGS(params);
  u32 i;
  for (i = 0; i < 8; ++i) smem_store_u32(smem_base() + 4 * (8 * thread_id() + i), i);
  fence_async_smem();
  if (a->mode != NO_WAIT) warp_sync();
  if (thread_id() != 0) return;
  tma_store_2d(&a->map[1], smem_base(), 0, 0);
  tma_store_commit();
  tma_store_wait(0);
}

static void lanes_meet_before_one_stores(void **state)
{
  size_t found = 0;
  (void)state;
  each_seed(lanes_store, IN_ORDER, EMU_HAZARDS, 32);
  for (u64 seed = 1; seed <= SEEDS; ++seed) { /* by luck, all others may have come first */
    rig r = rig_make(1, seed);
    args a = {.at = {0, rig_memory(&r, 0, 8192)}, .mode = NO_WAIT};
    a.map[1] = rig_map(a.at[1], 64, 64, 8);
    rig_submit(&r, 0, lanes_store, &a, 1, 32, 1);
    rig_run(&r);
    found += emu_report_count(r.m);
    rig_free(&r);
  }
  assert_true(found > 0);
}

/* ---- Global memory between devices ----------------------------------------------------------- */
static void push_kernel(void **params)
{
  const args *a = KERNEL_ARGS(params);
  u32 i;
  if (thread_id() != 0) return;
  if (a->device == 0) {
    for (i = 0; i < 256; ++i) smem_store_u32(smem_base() + 4 * i, i);
    fence_async_smem();
    tma_store_2d(&a->map[0], smem_base(), 0, 0);
    tma_store_commit();
    if (a->mode == NO_STORE_WAIT)
      tma_store_wait_read(0);
    else
      tma_store_wait(0);
    global_store_release_sys(a->at[0], 1);
    tma_store_wait(0);
    return;
  }
  mbar_init(FULL, 1);
  mbar_init_fence();
  while (global_load_relaxed_sys(a->at[0]) == 0) pause_ns(20);
  if (a->mode != NO_ACQUIRE) global_load_acquire_sys(a->at[0]);
  if (a->mode != NO_GLOBAL_FENCE) fence_async_global();
  mbar_arrive_expect(FULL, 1024);
  tma_load_2d(smem_base(), &a->map[0], FULL, 0, 0);
  mbar_wait(FULL, 0);
}

static void signals_follow_their_data(void **state)
{
  static const struct {
    i32 mode;
    emu_hazard kind;
  } cases[] = {{IN_ORDER, EMU_HAZARDS},
               {NO_STORE_WAIT, EMU_EARLY_SIGNAL},
               {NO_ACQUIRE, EMU_NO_ACQUIRE},
               {NO_GLOBAL_FENCE, EMU_NO_PROXY_FENCE}};
  u64 zero = 0;
  (void)state;
  for (size_t c = 0; c < sizeof cases / sizeof *cases; ++c) {
    for (u64 seed = 1; seed <= SEEDS; ++seed) {
      rig r = rig_make(2, seed);
      args a = {.at = {rig_filled(&r, 1, &zero, 8), rig_memory(&r, 1, 8192)},
                .mode = cases[c].mode};
      a.map[0] = rig_map(a.at[1], 64, 64, 8);
      rig_submit(&r, 0, push_kernel, &a, 1, 32, 1);
      rig_submit(&r, 1, push_kernel, &a, 1, 32, 1);
      assert_int_equal(rig_run(&r), EMU_IDLE);
      if (cases[c].mode == IN_ORDER)
        rig_expect_clean(&r);
      else
        first_of(&r, cases[c].kind);
      rig_free(&r);
    }
  }
}

/* A copy that its reader does not wait for. */
static void copies_are_ordered(void **state)
{
  unsigned char data[1024] = {0};
  (void)state;
  for (int joined = 0; joined < 2; ++joined) {
    rig r = rig_make(2, 1);
    u64 from = rig_filled(&r, 0, data, sizeof data), to = rig_memory(&r, 1, sizeof data),
        on = rig_memory(&r, 1, sizeof data);
    assert_null(emu_submit_copy(r.m, to, from, 1024, 0, "first", r.stream[0], NULL, NULL));
    rig_run(&r);
    if (joined) emu_clock_join(r.stream[1], r.stream[0]);
    assert_null(emu_submit_copy(r.m, on, to, 1024, 0, "second", r.stream[1], NULL, NULL));
    rig_run(&r);
    assert_int_equal(rig_reported(&r, EMU_NO_ACQUIRE), !joined);
    rig_free(&r);
  }
}

/* ---- Tensor cores ---------------------------------------------------------------------------- */
static void mma_kernel(void **params)
{
  const args *a = KERNEL_ARGS(params);
  float acc[32];
  u64 left = ((u64)1 << 62) | ((u64)64 << 32) | (smem_base() >> 4);
  if (thread_id() == 0) {
    mbar_init(FULL, 1);
    mbar_init_fence();
  }
  block_sync();
  if (thread_id() == 0) {
    mbar_arrive_expect(FULL, 8192);
    tma_load_2d(smem_base(), &a->map[2], FULL, 0, 0);
  }
  if (a->mode != NO_WAIT) mbar_wait(FULL, 0);
  if (a->mode != NO_FENCE) wgmma_fence();
  tml_emu->wgmma(EMU_SITE, acc, left, left, 64, 0, 0);
  wgmma_commit();
  if (a->mode == MMA_WRITE) acc[3] = 0;
  if (a->mode != NO_MMA_WAIT) wgmma_wait(0);
  if ((EMU_BITS(acc[5]) & 0x7fffffff) == EMU_POISON)
    tml_emu->poisoned(EMU_SITE); /* as pack2 does */
  wgmma_wait(0);
  mbar_wait(FULL, 0);
}

static void accumulators_are_guarded(void **state)
{
  (void)state;
  each_seed(mma_kernel, IN_ORDER, EMU_HAZARDS, 128);
  each_seed(mma_kernel, NO_MMA_WAIT, EMU_ACCUMULATOR, 128);
  each_seed(mma_kernel, MMA_WRITE, EMU_ACCUMULATOR, 128);
  each_seed(mma_kernel, NO_FENCE, EMU_ACCUMULATOR, 128);
  each_seed(mma_kernel, NO_WAIT, EMU_HAZARDS, 128);
}

/* ---- Bounds, definedness, misuse ------------------------------------------------------------- */
static void wild_kernel(void **params)
{
  const args *a = KERNEL_ARGS(params);
  if (thread_id() != 0) return;
  switch (a->mode) {
  case 0: global_store_u32(a->at[1] + 8192, 1); break;
  case 1: smem_store_u32(smem_base() + 65536, 1); break;
  case 2:
    tma_store_2d(&a->map[3], smem_base(), 0, 0);
    tma_store_commit();
    tma_store_wait(0);
    break;
  case 3: (void)smem_load_u32(smem_base() + 128); break;
  case 4: (void)global_load_u32(a->at[1]); break;
  case 5:
    mbar_init(FULL, 1);
    mbar_arrive(FULL);
    mbar_arrive_many(FULL, 2);
    break;
  case 6: mbar_arrive(FULL); break;
  case 7: global_store_u32(a->at[1] + 2, 1); break;
  case 8: tma_store_2d(&a->map[1], smem_base() + 16, 0, 0); break;
  default:
    mbar_init(FULL, 1);
    smem_store_u32(FULL, 0);
    break;
  }
}

static void wild_accesses_are_found(void **state)
{
  static const emu_hazard kinds[] = {
      EMU_OUT_OF_BOUNDS, EMU_OUT_OF_BOUNDS, EMU_OUT_OF_BOUNDS, EMU_UNINITIALISED, EMU_UNINITIALISED,
      EMU_BARRIER,       EMU_BARRIER,       EMU_OUT_OF_BOUNDS, EMU_OUT_OF_BOUNDS, EMU_BARRIER};
  (void)state;
  for (i32 mode = 0; mode < 10; ++mode) {
    rig r = rig_make(1, 1);
    args a = {.at = {0, rig_memory(&r, 0, 8192)}, .mode = mode};
    a.map[1] = rig_map(a.at[1], 64, 64, 8);
    a.map[3] = rig_map(a.at[1] + 8192 - 512, 64, 64, 8); /* reaches beyond its memory */
    rig_submit(&r, 0, wild_kernel, &a, 1, 32, 1);
    rig_run(&r);
    emu_report report = first_of(&r, kinds[mode]);
    assert_string_equal(report.kernel, "hand");
    assert_non_null(strstr(report.file, "test_emu_hazards.c"));
    assert_true(report.line > 0 && report.block == 0 && report.thread == 0);
    assert_non_null(strstr(report.text, "wild_kernel"));
    rig_free(&r);
  }
}

/* ---- Stores into another block --------------------------------------------------------------- */
/* Block 0 sends 512 bytes twice into the same place; block 1 reads, and gives credit between. */
static void remote_kernel(void **params)
{
  const args *a = KERNEL_ARGS(params);
  u32 rank = cluster_rank(), lane = thread_id(), to = smem_base() + 4096 + lane * 16, turn;
  float x[4] = {1, 2, 3, (float)lane};
  if (lane == 0) {
    mbar_init(FULL, 1);
    mbar_init(OTHER, 1);
    mbar_init_fence();
  }
  cluster_meet();
  for (turn = 0; turn < 2; ++turn) {
    if (rank == 0) {
      if (turn > 0 && a->mode != NO_CREDIT) mbar_wait_cluster(OTHER, 0);
      x[0] += 1;
      smem_store_async_x4(smem_of_block(to, 1), x, smem_of_block(FULL, 1));
    } else {
      if (lane == 0) mbar_arrive_expect(FULL, a->mode == FEW_BYTES ? 256 : 512);
      if (a->mode == BLOCK_WAIT)
        mbar_wait(FULL, turn);
      else if (a->mode != NO_WAIT)
        mbar_wait_cluster(FULL, turn);
      smem_load_x4(to, x);
      if (a->mode == IN_ORDER) {
        assert_true(x[0] == (float)(2 + turn) && x[3] == (float)lane);
      }
      warp_sync();
      if (lane == 0 && turn == 0) {
        if (a->mode == RELAXED_CREDIT)
          mbar_arrive_cluster(smem_of_block(OTHER, 0));
        else
          mbar_arrive_cluster_release(smem_of_block(OTHER, 0));
      }
    }
  }
  cluster_meet();
}

static void remote_stores_are_ordered(void **state)
{
  static const struct {
    i32 mode;
    emu_hazard kind;
  } rows[] = {{IN_ORDER, EMU_HAZARDS},   {NO_WAIT, EMU_HAZARDS},
              {NO_CREDIT, EMU_HAZARDS},  {RELAXED_CREDIT, EMU_OVERWRITTEN},
              {BLOCK_WAIT, EMU_BARRIER}, {FEW_BYTES, EMU_HAZARDS}};
  (void)state;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
    for (u64 seed = 1; seed <= SEEDS; ++seed) {
      rig r = rig_make(1, seed);
      args a = {.mode = rows[i].mode};
      rig_submit(&r, 0, remote_kernel, &a, 2, 32, 2);
      emu_state end = rig_run(&r);
      if (a.mode == IN_ORDER)
        rig_expect_clean(&r);
      else if (rows[i].kind == EMU_HAZARDS)
        assert_true(emu_report_count(r.m) > 0 || end == EMU_STUCK);
      else if (!rig_reported(&r, rows[i].kind))
        fail_msg("mode %d, seed %d: not reported", (int)a.mode, (int)seed);
      rig_free(&r);
    }
  }
}

/* ---- Deadlock -------------------------------------------------------------------------------- */
static void stuck_kernel(void **params)
{
  const args *a = KERNEL_ARGS(params);
  if (thread_id() == 0) {
    mbar_init(FULL, 2);
    mbar_arrive_expect(FULL, 64);
    if (a->mode == 0)
      mbar_wait(FULL, 0);
    else
      while (global_load_relaxed_sys(a->at[0]) != 5) pause_ns(20);
  }
  block_sync();
}

static void deadlocks_are_explained(void **state)
{
  char text[4096];
  u64 zero = 0;
  (void)state;
  for (i32 mode = 0; mode < 2; ++mode) {
    rig r = rig_make(1, 1);
    args a = {.at = {rig_filled(&r, 0, &zero, 8)}, .mode = mode};
    rig_submit(&r, 0, stuck_kernel, &a, 1, 64, 1);
    assert_int_equal(emu_run(r.m, 0), mode == 0 ? EMU_STUCK : EMU_POLLING);
    assert_true(emu_waiting(r.m, text, sizeof text) < sizeof text);
    assert_non_null(strstr(text, "block 0 warp 0 lane 0 at"));
    assert_non_null(strstr(
        text, mode == 0 ? "parity 0; it is in phase 0 with 1 of 2 arrivals and 64 bytes to come"
                        : "which holds 0"));
    assert_non_null(strstr(text, "block_sync, where 63 of 64 threads are"));
    rig_free(&r); /* with the kernel under way */
  }
}

/* Time passes for who polls in vain; a halted device does nothing. */
static void timeout_kernel(void **params)
{
  const args *a = KERNEL_ARGS(params);
  u64 start = clock_ns();
  if (thread_id() != 0) return;
  while (global_load_relaxed_sys(a->at[0]) == 0 && clock_ns() - start < 2000000000u) pause_ns(20);
  global_store_u32(a->at[1], 1);
}

static void time_passes(void **state)
{
  u64 zero = 0;
  (void)state;
  for (int halted = 0; halted < 2; ++halted) {
    rig r = rig_make(1, 1);
    args a = {.at = {rig_filled(&r, 0, &zero, 8), rig_memory(&r, 0, 4)}};
    rig_submit(&r, 0, timeout_kernel, &a, 1, 32, 1);
    if (halted) emu_halt(r.m, 0, 10);
    assert_int_equal(rig_run(&r), halted ? EMU_STUCK : EMU_IDLE);
    if (!halted) assert_true(emu_now_ns(r.m) >= 3000000000u);
    rig_free(&r);
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(shared_memory_is_ordered),     cmocka_unit_test(bulk_stores_are_ordered),
      cmocka_unit_test(lanes_meet_before_one_stores), cmocka_unit_test(signals_follow_their_data),
      cmocka_unit_test(copies_are_ordered),           cmocka_unit_test(accumulators_are_guarded),
      cmocka_unit_test(wild_accesses_are_found),      cmocka_unit_test(remote_stores_are_ordered),
      cmocka_unit_test(deadlocks_are_explained),      cmocka_unit_test(time_passes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
