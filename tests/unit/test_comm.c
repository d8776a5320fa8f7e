/* Comms: creation, agreement, growth, sealing, faults, and the failure of every call. */
#include "comm_fixture.h"

static tml_bytes bytes_of(size_t local, size_t staging, size_t slots, size_t signals)
{
  return (tml_bytes){sizeof(tml_bytes), local, staging, slots, signals};
}

/* ---- Life ----------------------------------------------------------------------------------- */

static void run_life(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_comm *comm = NULL;
  FAKE_CHECK_OK(tml_comm_create(&comm, ctx, nccl));
  if (!comm) return;
  FAKE_CHECK(tml_comm_rank(comm) == rank && tml_comm_world(comm) == *(int *)user);
  FAKE_CHECK(comm->timeout_ns == (uint64_t)(FIXTURE_TIMEOUT_US * 1e3));
  const uint64_t *record = (const uint64_t *)comm->record_at,
                 *pad = (const uint64_t *)comm->pad->at[rank];
  for (size_t i = 0; i < sizeof *comm->record / 8; ++i) FAKE_CHECK(record[i] == 0);
  for (int i = 0; i < ctx->pad.words; ++i) FAKE_CHECK(pad[i] == 0);
  FAKE_CHECK(tml_comm_has(comm, &(tml_bytes){.size = sizeof(tml_bytes)}));
  tml_comm_destroy(comm);
}

static void test_life(void **state)
{
  (void)state;
  for (int world = 1; world <= TML_MAX_WORLD; ++world) {
    fixture_run_ranks(fake_open(NULL), world, 0, run_life, &world);
    fixture_expect_clean();
  }
  int one = 1;
  tml_ctx ctx;
  fixture_ctx_open(&ctx, fake_open(&(fake_config){.no_nccl = 1}), 0);
  run_life(&one, &ctx, 0, NULL);
  fixture_ctx_close(&ctx);
  fixture_expect_clean();
}

static void test_arguments(void **state)
{
  (void)state;
  tml_ctx ctx;
  tml_comm *comm = (tml_comm *)&ctx;
  void *ptr;
  fixture_ctx_open(&ctx, fake_open(NULL), 0);
  assert_int_equal(tml_comm_create(NULL, &ctx, NULL), TML_ARGUMENT);
  assert_int_equal(tml_comm_create(&comm, NULL, NULL), TML_ARGUMENT);
  assert_null(comm);
  assert_int_equal(tml_comm_create(&comm, &ctx, NULL), TML_OK);
  tml_bytes unsized = {.local = 1}, huge = bytes_of(SIZE_MAX, 0, 0, 0);
  assert_int_equal(tml_comm_reserve(NULL, &huge), TML_ARGUMENT);
  assert_int_equal(tml_comm_reserve(comm, NULL), TML_ARGUMENT);
  assert_int_equal(tml_comm_reserve(comm, &unsized), TML_ARGUMENT);
  assert_int_equal(tml_comm_reserve(comm, &huge), TML_ARGUMENT);
  assert_int_equal(tml_alloc(NULL, 1, &ptr), TML_ARGUMENT);
  assert_int_equal(tml_alloc(comm, 0, &ptr), TML_ARGUMENT);
  assert_int_equal(tml_alloc(comm, 1, NULL), TML_ARGUMENT);
  tml_comm_destroy(comm);
  tml_comm_destroy(NULL);
  ctx.sealed = 1;
  assert_int_equal(tml_comm_create(&comm, &ctx, NULL), TML_SEALED);
  fixture_ctx_close(&ctx);
  fixture_expect_clean();
}

typedef struct difference {
  int sms, words;
  const char *gpu, *says;
} difference;

static void run_different(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  const difference *d = user;
  tml_comm *comm = NULL;
  if (rank == 2) {
    if (d->gpu) snprintf(ctx->machine.gpu, sizeof ctx->machine.gpu, "%s", d->gpu);
    ctx->machine.sms += d->sms;
    ctx->pad.words += d->words;
  }
  FAKE_CHECK(tml_comm_create(&comm, ctx, nccl) == TML_DISAGREE && comm == NULL);
  FAKE_CHECK(fixture_says("rank 2") && fixture_says(d->says));
}

static void test_disagreement(void **state)
{
  (void)state;
  difference all[] = {
      {0, 0, "Fake B200", "Fake B200"}, {-4, 0, NULL, "SMs"}, {0, 8, NULL, "pad layout"}};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    fixture_run_ranks(fake_open(NULL), 3, 0, run_different, &all[i]);
    fixture_expect_clean();
  }
}

/* ---- Memory --------------------------------------------------------------------------------- */

static void check_segment(const tml_comm *comm, const tml_segment *segment)
{
  const tml_bytes *bytes = &segment->bytes;
  FAKE_CHECK(bytes->signals % 128 == 0 && bytes->staging % 1024 == 0 && bytes->slots % 1024 == 0);
  FAKE_CHECK(segment->staging_at % 1024 == 0 && segment->staging_at >= 2 * bytes->signals);
  FAKE_CHECK(segment->slots_at == segment->staging_at + 2 * bytes->staging);
  FAKE_CHECK(segment->block->bytes >= segment->slots_at + 2 * bytes->slots);
  for (int r = 0; r < comm->world; ++r) {
    const char *byte = (const char *)segment->block->at[r];
    for (size_t i = 0; i < segment->block->bytes; i += 4096) FAKE_CHECK(byte[i] == 0);
  }
}

static void run_reserve(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_comm *comm = NULL;
  void *mine = NULL;
  (void)user;
  FAKE_CHECK_OK(tml_comm_create(&comm, ctx, nccl));
  if (!comm) return;
  /* The most demanding rank decides. */
  tml_bytes first = bytes_of(100 + (size_t)rank, 5000, 0, 72), all = bytes_of(102, 5000, 0, 72);
  FAKE_CHECK(!tml_comm_has(comm, &first));
  FAKE_CHECK_OK(tml_comm_reserve(comm, &first));
  FAKE_CHECK(tml_comm_has(comm, &all) && comm->local != 0);
  tml_segment *old = comm->segment;
  check_segment(comm, old);
  CUdeviceptr local = comm->local, at = old->block->at[rank];
  /* Nothing new: nothing is taken. */
  long before = fake_calls_of("cuMemCreate") + fake_calls_of("cuMemAlloc");
  FAKE_CHECK_OK(tml_group_barrier(comm->group));
  FAKE_CHECK_OK(tml_comm_reserve(comm, &first));
  FAKE_CHECK(comm->segment == old && comm->local == local);
  FAKE_CHECK_OK(tml_group_barrier(comm->group));
  FAKE_CHECK(before == fake_calls_of("cuMemCreate") + fake_calls_of("cuMemAlloc"));
  /* Slots alone: the new segment still covers the rest, and the old one stays where it is. */
  tml_bytes more = bytes_of(4096, 0, 3000, 0);
  FAKE_CHECK_OK(tml_comm_reserve(comm, &more));
  FAKE_CHECK(tml_comm_has(comm, &first) && tml_comm_has(comm, &more));
  FAKE_CHECK(comm->segment != old && comm->segment->next == old && old->block->at[rank] == at);
  FAKE_CHECK(comm->locals->next && comm->locals->next->at == local);
  check_segment(comm, comm->segment);
  FAKE_CHECK_OK(tml_alloc(comm, 12345, &mine));
  FAKE_CHECK(mine && (CUdeviceptr)mine == comm->blocks->at[rank] && comm->blocks->bytes >= 12345);
  /* Sealed: what is there is fine, more is not. */
  atomic_store(&ctx->sealed, 1);
  FAKE_CHECK_OK(tml_comm_reserve(comm, &more));
  more.staging = 1 << 20;
  FAKE_CHECK(tml_comm_reserve(comm, &more) == TML_SEALED);
  FAKE_CHECK(tml_alloc(comm, 1, &mine) == TML_SEALED && mine == NULL);
  tml_comm_destroy(comm);
}

static void test_reserve(void **state)
{
  (void)state;
  fixture_run_ranks(fake_open(NULL), 3, 0, run_reserve, NULL);
  fixture_expect_clean();
}

/* One rank is out of memory, wrong or sealed: all refuse, and nothing of the growth stays. */
static void run_uneven(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_comm *comm = NULL;
  tml_bytes bytes = bytes_of(64, 64, 64, 64), unsized = {.local = 64};
  (void)user;
  FAKE_CHECK_OK(tml_comm_create(&comm, ctx, nccl));
  if (!comm) return;
  FAKE_CHECK(tml_comm_reserve(comm, rank == 1 ? &unsized : &bytes) == TML_ARGUMENT);
  atomic_store(&ctx->sealed, rank == 1);
  FAKE_CHECK(tml_comm_reserve(comm, &bytes) == TML_SEALED);
  atomic_store(&ctx->sealed, 0);
  bytes.local = (size_t)1 << 40;
  FAKE_CHECK(tml_comm_reserve(comm, &bytes) == TML_MEMORY);
  bytes.local = 64;
  bytes.staging = (size_t)1 << 40;
  FAKE_CHECK(tml_comm_reserve(comm, &bytes) == TML_MEMORY);
  FAKE_CHECK(comm->segment == NULL && comm->local == 0 && comm->locals == NULL);
  bytes.staging = 64;
  FAKE_CHECK_OK(tml_comm_reserve(comm, &bytes));
  tml_comm_destroy(comm);
}

static void test_uneven_reserve(void **state)
{
  (void)state;
  fixture_run_ranks(fake_open(NULL), 2, 0, run_uneven, NULL);
  fixture_expect_clean();
}

static void test_world_of_one_needs_only_local(void **state)
{
  tml_ctx ctx;
  tml_comm *comm;
  tml_bytes bytes = bytes_of(100, 5000, 5000, 5000);
  (void)state;
  fixture_ctx_open(&ctx, fake_open(NULL), 0);
  assert_int_equal(tml_comm_create(&comm, &ctx, NULL), TML_OK);
  assert_int_equal(tml_comm_reserve(comm, &bytes), TML_OK);
  assert_true(tml_comm_has(comm, &bytes));
  assert_null(comm->segment);
  assert_true(comm->local_bytes == 100);
  tml_comm_destroy(comm);
  fixture_ctx_close(&ctx);
  fixture_expect_clean();
}

static void test_bytes_max(void **state)
{
  tml_bytes into = bytes_of(1, 20, 3, 40), other = bytes_of(10, 2, 30, 4);
  (void)state;
  tml_bytes_max(&into, &other);
  assert_true(into.local == 10 && into.staging == 20 && into.slots == 30 && into.signals == 40);
}

/* ---- Faults --------------------------------------------------------------------------------- */

static void test_poll(void **state)
{
  tml_ctx ctx;
  tml_comm *comm;
  tml_fault fault = {.size = sizeof fault}, unsized = {.size = 0};
  (void)state;
  fixture_ctx_open(&ctx, fake_open(NULL), 0);
  assert_int_equal(tml_comm_create(&comm, &ctx, NULL), TML_OK);
  assert_int_equal(tml_poll(NULL, &fault), TML_ARGUMENT);
  assert_int_equal(tml_poll(comm, &unsized), TML_ARGUMENT);
  assert_int_equal(tml_poll(comm, &fault), TML_OK);
  assert_int_equal(fault.code, TML_FAULT_NONE);
  assert_int_equal(tml_poll(comm, NULL), TML_OK);
  comm->record->aborted = 4;
  assert_int_equal(tml_poll(comm, &fault), TML_FAULT);
  assert_true(fault.code == TML_FAULT_PEER_ABORT && fault.peer == 3 && fault.rank == 0 &&
              fault.tile == -1);
  assert_true(fixture_says("rank 3 raised an abort"));
  comm->record->rank = 0;
  comm->record->peer = 1;
  comm->record->tile = 17;
  comm->record->expected = 9;
  comm->record->found = 8;
  comm->record->waited_ns = 2500000;
  comm->record->code = TML_FAULT_PARTIAL_TIMEOUT;
  for (int i = 0; i < 2; ++i) assert_int_equal(tml_poll(comm, &fault), TML_FAULT);
  assert_true(fault.size == sizeof fault && fault.code == TML_FAULT_PARTIAL_TIMEOUT &&
              fault.peer == 1 && fault.tile == 17 && fault.expected == 9 && fault.found == 8 &&
              fault.waited_us == 2500);
  assert_true(fixture_says("rank 0 waited 2.5 ms for rank 1") && fixture_says("tile 17"));
  comm->record->code = TML_FAULT_MISMATCH;
  assert_int_equal(tml_poll(comm, NULL), TML_FAULT);
  assert_true(fixture_says("launched something else"));
  comm->record->code = 99;
  assert_int_equal(tml_poll(comm, &fault), TML_FAULT);
  assert_true(fixture_says("does not know"));
  assert_int_equal(ctx.counters.faults, 1);
  tml_bytes bytes = bytes_of(1, 0, 0, 0);
  void *ptr;
  assert_int_equal(tml_comm_reserve(comm, &bytes), TML_FAULT);
  assert_int_equal(tml_alloc(comm, 1, &ptr), TML_FAULT);
  tml_comm_destroy(comm);
  fixture_ctx_close(&ctx);
  fixture_expect_clean();
}

static void test_fault_texts(void **state)
{
  (void)state;
#define TML_X(id, n, text) assert_string_equal(tml_fault_text(TML_FAULT_##id), text);
  TML_FAULT_MAP(TML_X)
#undef TML_X
  assert_non_null(tml_fault_text((tml_fault_code)99));
}

/* After a fault nobody waits for anybody: rank 1 stays away for longer than rank 0 takes. */
static void run_fault_destroy(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_comm *comm = NULL;
  (void)user;
  FAKE_CHECK_OK(tml_comm_create(&comm, ctx, nccl));
  if (!comm) return;
  comm->record->aborted = 1;
  struct timespec away = {rank, 0};
  nanosleep(&away, NULL);
  uint64_t start = tml_now_ns();
  tml_comm_destroy(comm);
  FAKE_CHECK(fixture_seconds_since(start) < 0.5);
}

static void test_destroy_after_fault(void **state)
{
  (void)state;
  fixture_run_ranks(fake_open(NULL), 2, 0, run_fault_destroy, NULL);
  fixture_expect_clean();
}

/* A healthy destroy waits for the others, but not for ever. */
static void run_lone_destroy(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_comm *comm = NULL;
  (void)user;
  FAKE_CHECK_OK(tml_comm_create(&comm, ctx, nccl));
  if (!comm) return;
  struct timespec away = {rank, 0};
  nanosleep(&away, NULL);
  uint64_t start = tml_now_ns();
  tml_comm_destroy(comm);
  double took = fixture_seconds_since(start);
  FAKE_CHECK(took > 0.15 && took < 0.9);
}

static void test_destroy_is_bounded(void **state)
{
  (void)state;
  fixture_run_ranks(fake_open(NULL), 2, 2e5, run_lone_destroy, NULL);
  fixture_expect_clean();
}

/* ---- Every call fails once ------------------------------------------------------------------ */

typedef struct kth {
  long call;
  int world, happened, whole; /* whole: the victim's life went well */
} kth;

static void run_kth(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  kth *k = user;
  tml_comm *comm = NULL;
  void *ptr = NULL;
  tml_bytes bytes = bytes_of(4096, 4096, 4096, 4096);
  int victim = k->world - 1;
  long before = fake_thread_calls();
  if (rank == victim) fake_fail_thread_call(k->call, CUDA_ERROR_UNKNOWN);
  tml_status status = tml_comm_create(&comm, ctx, nccl);
  FAKE_CHECK((status == TML_OK) == (comm != NULL));
  if (status == TML_OK) status = tml_comm_reserve(comm, &bytes);
  if (status == TML_OK) FAKE_CHECK(tml_comm_has(comm, &bytes));
  if (status == TML_OK) status = tml_alloc(comm, 100, &ptr);
  if (status != TML_OK) FAKE_CHECK(tml_last_error()[0] != '\0');
  tml_comm_destroy(comm);
  if (rank == victim) {
    k->happened = fake_thread_calls() - before >= k->call;
    k->whole = status == TML_OK;
    fake_fail_thread_call(0, CUDA_SUCCESS);
  }
}

static void fail_every_call(int world, long least)
{
  kth k = {.call = 1, .world = world};
  int late = 0; /* lives that a busy machine made time out before the call */
  for (;;) {
    fixture_run_ranks(fake_open(&(fake_config){.nccl_wait_ms = 60}), world, 1.5e5, run_kth, &k);
    fixture_expect_clean();
    if (!k.happened && k.whole) break;
    if (k.happened)
      ++k.call;
    else
      assert_true(++late < 50);
  }
  assert_true(k.call > least);
}

static void test_every_call_fails_alone(void **state)
{
  (void)state;
  fail_every_call(1, 40);
}

static void test_every_call_fails_at_one_rank(void **state)
{
  (void)state;
  fail_every_call(2, 150);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_life),

      cmocka_unit_test(test_arguments),
      cmocka_unit_test(test_disagreement),
      cmocka_unit_test(test_reserve),
      cmocka_unit_test(test_uneven_reserve),
      cmocka_unit_test(test_world_of_one_needs_only_local),
      cmocka_unit_test(test_bytes_max),
      cmocka_unit_test(test_poll),
      cmocka_unit_test(test_fault_texts),
      cmocka_unit_test(test_destroy_after_fault),
      cmocka_unit_test(test_destroy_is_bounded),
      cmocka_unit_test(test_every_call_fails_alone),
      cmocka_unit_test(test_every_call_fails_at_one_rank),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
