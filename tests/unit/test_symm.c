/* Symmetric blocks: ranks as threads, ranks as real processes, refusals, and descriptor passing. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm_fixture.h"
#include "share.h"

static void fill(CUdeviceptr at, int value, size_t bytes) { memset((void *)at, value, bytes); }
static int holds(CUdeviceptr at, int value, size_t bytes)
{
  const unsigned char *byte = (const unsigned char *)at;
  for (size_t i = 0; i < bytes; ++i)
    if (byte[i] != value) return 0;
  return 1;
}

/* Zeroed, and what a rank writes at home is what all others see through their mapping. */
static void check_block(tml_comm *comm, size_t bytes)
{
  tml_block *block = NULL;
  FAKE_CHECK_OK(tml_block_create(comm, bytes, &block));
  if (!block) return;
  FAKE_CHECK(block->bytes >= bytes);
  for (int r = 0; r < comm->world; ++r) FAKE_CHECK(holds(block->at[r], 0, block->bytes));
  FAKE_CHECK_OK(tml_group_barrier(comm->group));
  fill(block->at[comm->rank], comm->rank + 1, bytes);
  FAKE_CHECK_OK(tml_group_barrier(comm->group));
  for (int r = 0; r < comm->world; ++r) FAKE_CHECK(holds(block->at[r], r + 1, bytes));
  FAKE_CHECK_OK(tml_group_barrier(comm->group));
  tml_block_free(comm, block);
}

static void run_block(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_comm *comm = NULL;
  (void)user, (void)rank;
  FAKE_CHECK_OK(tml_comm_create(&comm, ctx, nccl));
  if (!comm) return;
  check_block(comm, 1000);
  check_block(comm, ((size_t)2 << 20) + 1);
  tml_comm_destroy(comm);
}

static void test_threads(void **state)
{
  (void)state;
  for (int world = 1; world <= TML_MAX_WORLD; ++world) {
    fixture_run_ranks(fake_open(NULL), world, 0, run_block, NULL);
    assert_int_equal(fake_calls_of("cuMemExportToShareableHandle"), 0);
    fixture_expect_clean();
  }
}

typedef struct refusal {
  tml_status expect;
  const char *says;
} refusal;

/* What any rank meets, all ranks return; and the comm stays usable for what does work. */
static void run_refused(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  const refusal *refused = user;
  tml_comm *comm = NULL;
  tml_block *block = NULL;
  tml_status status = tml_comm_create(&comm, ctx, nccl);
  if (status == TML_OK) {
    status = tml_block_create(comm, ((size_t)3 << 20) + (size_t)rank * ((size_t)8 << 20), &block);
    FAKE_CHECK(block == NULL);
  }
  FAKE_CHECK(status == refused->expect);
  FAKE_CHECK(fixture_says(refused->says));
  tml_comm_destroy(comm);
}

static CUresult no_peer(int *can, CUdevice device, CUdevice peer)
{
  (void)device, (void)peer;
  *can = 0;
  return CUDA_SUCCESS;
}

static void test_refusals(void **state)
{
  (void)state;
  refusal sizes = {TML_DISAGREE, "bytes of symmetric memory"};
  fixture_run_ranks(fake_open(NULL), 3, 0, run_refused, &sizes);
  fixture_expect_clean();
  refusal vmm = {TML_UNSUPPORTED, "virtual memory management"};
  fixture_run_ranks(fake_open(&(fake_config){.no_vmm = 1}), 2, 0, run_refused, &vmm);
  fixture_expect_clean();
  refusal peer = {TML_UNSUPPORTED, "cannot access GPU"};
  const tml_api *api = fake_open(NULL);
  fake_table()->cuda.p_cuDeviceCanAccessPeer = no_peer;
  fixture_run_ranks(api, 2, 0, run_refused, &peer);
  fixture_expect_clean();
  /* Room for the pad and for rank 0's block, not for rank 1's. */
  refusal room = {TML_MEMORY, ""};
  fixture_run_ranks(fake_open(&(fake_config){.memory = (size_t)10 << 20}), 2, 0, run_refused,
                    &room);
  fixture_expect_clean();
}

/* ---- Two real processes: NCCL over a socket pair, everything else as in production ---------- */

static int pair_socket, pair_rank;

static int pair_count(ncclComm_t comm, int *count) { return (void)comm, *count = 2, 0; }
static int pair_user_rank(ncclComm_t comm, int *rank) { return (void)comm, *rank = pair_rank, 0; }
static int pair_end(ncclComm_t comm) { return (void)comm, 0; }
/* An abort is seen by the peer, which would otherwise wait for bytes. */
static int pair_abort(ncclComm_t comm)
{
  (void)comm;
  return shutdown(pair_socket, SHUT_RDWR);
}
static int pair_state(ncclComm_t comm, int *state) { return (void)comm, *state = 0; }
static int pair_split(ncclComm_t parent, int color, int key, ncclComm_t *out,
                      tml_nccl_config *config)
{
  (void)color, (void)key, (void)config;
  *out = parent;
  return 0;
}

/* Memory of the fake is memory of the host, and its copies run at once. */
static int pair_gather(const void *src, void *dst, size_t count, int type, ncclComm_t comm,
                       CUstream stream)
{
  (void)type, (void)comm, (void)stream;
  char *out = dst;
  memcpy(out + (size_t)pair_rank * count, src, count);
  if (send(pair_socket, src, count, MSG_NOSIGNAL) != (ssize_t)count) return 1;
  return recv(pair_socket, out + (size_t)(1 - pair_rank) * count, count, MSG_WAITALL) !=
         (ssize_t)count;
}

/* One rank in a process of its own. Exits with 0 if all went well. */
static void pair_child(int rank, int socket_fd, fixture_rank_fn fn)
{
  tml_ctx ctx;
  const tml_api *api = fake_open(NULL);
  tml_nccl *nccl = &fake_table()->nccl;
  pair_rank = rank;
  pair_socket = socket_fd;
  nccl->CommCount = pair_count;
  nccl->CommUserRank = pair_user_rank;
  nccl->CommDestroy = pair_end;
  nccl->CommAbort = pair_abort;
  nccl->CommGetAsyncError = pair_state;
  nccl->CommSplit = pair_split;
  nccl->AllGather = pair_gather;
  fixture_ctx_open(&ctx, api, rank);
  ctx.config.timeout_us = 1e6;
  api->cuda.p_cuCtxSetCurrent(ctx.primary);
  fn(NULL, &ctx, rank, (ncclComm_t)(void *)&pair_rank);
  fixture_ctx_close(&ctx);
  _exit(fake_check_failures() + fake_check_clean());
}

static void run_pair(fixture_rank_fn fn, int expect[2])
{
  int ends[2], exits[2];
  pid_t child[2];
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  for (int r = 0; r < 2; ++r) {
    child[r] = fork();
    assert_true(child[r] >= 0);
    if (child[r] == 0) {
      close(ends[1 - r]);
      pair_child(r, ends[r], fn);
    }
  }
  close(ends[0]);
  close(ends[1]);
  for (int r = 0; r < 2; ++r) {
    assert_int_equal(waitpid(child[r], &exits[r], 0), child[r]);
    assert_true(WIFEXITED(exits[r]));
    assert_int_equal(WEXITSTATUS(exits[r]), expect[r]);
  }
}

static void run_block_over_sockets(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  run_block(user, ctx, rank, nccl);
  FAKE_CHECK(fake_calls_of("cuMemExportToShareableHandle") == 3); /* pad and two blocks */
  FAKE_CHECK(fake_calls_of("cuMemImportFromShareableHandle") == 3);
}

static void test_processes(void **state)
{
  (void)state;
  run_pair(run_block_over_sockets, (int[2]){0, 0});
}

/* The import fails at rank 1: both give up, nothing is left. */
static void run_failing_import(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_comm *comm = NULL;
  (void)user;
  if (rank == 1) fake_fail_function("cuMemImportFromShareableHandle", CUDA_ERROR_INVALID_VALUE);
  FAKE_CHECK(tml_comm_create(&comm, ctx, nccl) == TML_DRIVER && comm == NULL);
  FAKE_CHECK(fixture_says("cuMemImportFromShareableHandle"));
  if (rank == 0) FAKE_CHECK(fixture_says("rank 1"));
}

static void test_processes_import_fails(void **state)
{
  (void)state;
  run_pair(run_failing_import, (int[2]){0, 0});
}

/* Rank 1 dies in the middle: rank 0 gets a status. */
static void run_dying(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_comm *comm = NULL;
  (void)user;
  FAKE_CHECK_OK(tml_comm_create(&comm, ctx, nccl));
  if (!comm) return;
  if (rank == 1) _exit(9);
  tml_block *block = NULL;
  FAKE_CHECK(tml_block_create(comm, 4096, &block) == TML_DRIVER && block == NULL);
  FAKE_CHECK(tml_group_barrier(comm->group) == TML_TIMEOUT);
  FAKE_CHECK(holds(comm->pad->at[1], 0, 64)); /* an imported mapping outlives its owner */
  tml_comm_destroy(comm);
}

static void test_process_dies(void **state)
{
  (void)state;
  run_pair(run_dying, (int[2]){0, 9});
}

/* Every call of rank 1 fails once, on the path with descriptors: a status on both, nothing left. */
static struct {
  long call;
  int happened;
} * pair_kth; /* shared by the processes */

static void run_kth_over_sockets(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl)
{
  tml_comm *comm = NULL;
  tml_bytes bytes = {sizeof bytes, 4096, 4096, 4096, 4096};
  (void)user;
  fake_fail_call(rank == 1 ? pair_kth->call : 0, CUDA_ERROR_UNKNOWN);
  tml_status status = tml_comm_create(&comm, ctx, nccl);
  if (status == TML_OK) status = tml_comm_reserve(comm, &bytes);
  if (status != TML_OK) FAKE_CHECK(tml_last_error()[0] != '\0');
  tml_comm_destroy(comm);
  if (rank == 1) pair_kth->happened = fake_failed()[0] != '\0';
  fake_fail_call(0, CUDA_SUCCESS);
}

static void test_processes_every_call_fails(void **state)
{
  (void)state;
  pair_kth =
      mmap(NULL, sizeof *pair_kth, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  assert_true(pair_kth != MAP_FAILED);
  do {
    ++pair_kth->call;
    run_pair(run_kth_over_sockets, (int[2]){0, 0});
  } while (pair_kth->happened);
  assert_true(pair_kth->call > 60);
  munmap(pair_kth, sizeof *pair_kth);
}

/* ---- Descriptors ---------------------------------------------------------------------------- */

static int memory_file(char mark)
{
  int fd = memfd_create("share", MFD_CLOEXEC);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, &mark, 1), 1);
  return fd;
}

static int mark_of(int fd)
{
  char mark = 0;
  return pread(fd, &mark, 1, 0) == 1 ? mark : -1;
}

static void test_share(void **state)
{
  tml_share_id ids[3];
  int listener, fds[TML_MAX_WORLD], sent[3];
  (void)state;
  for (int r = 0; r < 3; ++r) {
    assert_int_equal(tml_share_nonce(ids[r].nonce), TML_OK);
    ids[r].rank = r;
    sent[r] = memory_file((char)('a' + r));
  }
  tml_share_id stranger = ids[1];
  stranger.nonce[3] ^= 1;
  uint64_t deadline = tml_deadline(2e6);
  assert_int_equal(tml_share_send(&ids[1], &ids[0], sent[1], deadline),
                   TML_IO); /* nobody listens */
  assert_int_equal(tml_share_listen(&ids[0], &listener), TML_OK);
  int second;
  assert_int_equal(tml_share_listen(&ids[0], &second), TML_IO); /* the name is taken */
  assert_int_equal(tml_share_send(&stranger, &ids[0], sent[2], deadline), TML_OK);
  assert_int_equal(tml_share_send(&ids[2], &ids[0], sent[2], deadline), TML_OK);
  assert_int_equal(tml_share_send(&ids[1], &ids[0], sent[1], deadline), TML_OK);
  assert_int_equal(tml_share_receive(listener, &ids[0], ids, 6, fds, deadline), TML_OK);
  assert_int_equal(fds[0], -1);
  assert_int_equal(mark_of(fds[1]), 'b');
  assert_int_equal(mark_of(fds[2]), 'c');
  assert_true(fcntl(fds[1], F_GETFD) & FD_CLOEXEC);
  close(fds[1]);
  close(fds[2]);
  assert_int_equal(tml_share_send(&ids[1], &ids[0], sent[1], deadline), TML_OK);
  uint64_t start = tml_now_ns();
  assert_int_equal(tml_share_receive(listener, &ids[0], ids, 6, fds, tml_deadline(2e5)),
                   TML_TIMEOUT);
  assert_true(fixture_says("rank 2") && fixture_seconds_since(start) < 1);
  assert_int_equal(mark_of(fds[1]), 'b');
  close(fds[1]);
  close(listener);
  for (int r = 0; r < 3; ++r) close(sent[r]);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_threads),      cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_processes),    cmocka_unit_test(test_processes_import_fails),
      cmocka_unit_test(test_process_dies), cmocka_unit_test(test_processes_every_call_fails),
      cmocka_unit_test(test_share),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
