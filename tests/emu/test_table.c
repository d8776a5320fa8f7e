/* The emulator's driver table: order, memory, graphs, collectives, faults on request, and that the same
 * seed gives the same run. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bed.h"

static const tml_api *api;

static CUcontext begin(uint64_t seed)
{
  CUcontext context = NULL;
  tml_emu_config config = {.seed = seed, .devices = 2};
  assert_int_equal(tml_emu_open(&config), TML_OK);
  api = tml_emu_api();
  assert_int_equal(api->cuda.p_cuDevicePrimaryCtxRetain(&context, 0), CUDA_SUCCESS);
  assert_int_equal(api->cuda.p_cuCtxSetCurrent(context), CUDA_SUCCESS);
  return context;
}

static void end(void)
{
  assert_int_equal(api->cuda.p_cuCtxSetCurrent(NULL), CUDA_SUCCESS);
  assert_int_equal(api->cuda.p_cuDevicePrimaryCtxRelease(0), CUDA_SUCCESS);
  assert_int_equal(emu_report_count(tml_emu_machine()), 0);
  assert_int_equal(tml_emu_alive(stderr), 0);
  tml_emu_close();
}

#define OK(call) assert_int_equal(api->cuda.p_##call, CUDA_SUCCESS)

static void streams_keep_their_order(void **state)
{
  (void)state;
  for (uint64_t seed = 1; seed <= 5; seed++) {
    CUdeviceptr a, b;
    CUstream stream, other;
    CUevent event;
    unsigned char host[4096];
    begin(seed);
    OK(cuMemAlloc(&a, 4096));
    OK(cuMemAlloc(&b, 4096));
    OK(cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0));
    OK(cuStreamCreateWithPriority(&other, CU_STREAM_NON_BLOCKING, 0));
    OK(cuEventCreate(&event, CU_EVENT_DEFAULT));
    OK(cuMemsetD8Async(a, 7, 4096, stream));
    OK(cuMemcpyDtoDAsync(b, a, 4096, stream));
    OK(cuEventRecord(event, stream));
    OK(cuStreamWaitEvent(other, event, 0));
    OK(cuMemsetD8Async(a, 9, 4096, other));
    OK(cuMemcpyDtoHAsync(host, b, 4096, other));
    for (int i = 0; i < 4096; i++) assert_int_equal(host[i], 7);
    OK(cuMemcpyDtoH(host, a, 4096));
    for (int i = 0; i < 4096; i++) assert_int_equal(host[i], 9);
    OK(cuEventDestroy(event));
    OK(cuStreamDestroy(stream));
    OK(cuStreamDestroy(other));
    OK(cuMemFree(a));
    OK(cuMemFree(b));
    end();
  }
}

/* Every second column of 4, to a packed block; its neighbours stay. */
static void rows_keep_their_pitch(void **state)
{
  (void)state;
  for (uint64_t seed = 1; seed <= 5; seed++) {
    CUdeviceptr a, b;
    CUstream stream;
    unsigned char host[4096];
    begin(seed);
    for (int i = 0; i < 4096; i++) host[i] = (unsigned char)(i / 64);
    OK(cuMemAlloc(&a, 4096));
    OK(cuMemAlloc(&b, 4096));
    OK(cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0));
    OK(cuMemcpyHtoD(a, host, 4096));
    OK(cuMemsetD8Async(b, 200, 4096, stream));
    const CUDA_MEMCPY2D copy = {.srcMemoryType = CU_MEMORYTYPE_UNIFIED,
                                .srcDevice = a + 64,
                                .srcPitch = 256,
                                .dstMemoryType = CU_MEMORYTYPE_UNIFIED,
                                .dstDevice = b,
                                .dstPitch = 64,
                                .WidthInBytes = 64,
                                .Height = 16};
    OK(cuMemcpy2DAsync(&copy, stream));
    OK(cuMemcpyDtoHAsync(host, b, 4096, stream));
    for (int i = 0; i < 4096; i++) assert_int_equal(host[i], i < 1024 ? i / 64 * 4 + 1 : 200);
    OK(cuStreamDestroy(stream));
    OK(cuMemFree(a));
    OK(cuMemFree(b));
    end();
  }
}

static void events_tell_virtual_time(void **state)
{
  CUdeviceptr a;
  CUstream stream;
  CUevent start, stop;
  float ms = 0;
  (void)state;
  begin(1);
  tml_emu_delay(0, 1, 5000000);
  OK(cuMemAlloc(&a, 64));
  OK(cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0));
  OK(cuEventCreate(&start, CU_EVENT_DEFAULT));
  OK(cuEventCreate(&stop, CU_EVENT_DEFAULT));
  OK(cuEventRecord(start, stream));
  OK(cuMemsetD8Async(a, 1, 64, stream));
  OK(cuEventRecord(stop, stream));
  OK(cuEventSynchronize(stop));
  OK(cuEventElapsedTime(&ms, start, stop));
  assert_true(ms >= 5 && ms < 6);
  OK(cuEventDestroy(start));
  OK(cuEventDestroy(stop));
  OK(cuStreamDestroy(stream));
  OK(cuMemFree(a));
  end();
}

static void graphs_fork_and_join(void **state)
{
  CUdeviceptr a, b;
  CUstream stream, other;
  CUevent fork, join;
  CUgraph graph;
  CUgraphExec exec;
  unsigned char host[64];
  (void)state;
  begin(3);
  OK(cuMemAlloc(&a, 64));
  OK(cuMemAlloc(&b, 64));
  OK(cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0));
  OK(cuStreamCreateWithPriority(&other, CU_STREAM_NON_BLOCKING, 0));
  OK(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
  OK(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
  OK(cuMemsetD8(a, 1, 64));
  OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
  OK(cuMemsetD8Async(a, 2, 64, stream));
  OK(cuEventRecord(fork, stream));
  OK(cuStreamWaitEvent(other, fork, 0));
  OK(cuMemcpyDtoDAsync(b, a, 64, other));
  /* Not joined yet: a capture that ends here is refused. */
  OK(cuEventRecord(join, other));
  OK(cuStreamWaitEvent(stream, join, 0));
  OK(cuMemsetD8Async(a, 3, 64, stream));
  OK(cuStreamEndCapture(stream, &graph));
  OK(cuGraphInstantiate(&exec, graph, 0));
  OK(cuGraphDestroy(graph));
  OK(cuMemcpyDtoH(host, a, 64));
  assert_int_equal(host[0], 1); /* nothing ran while it was captured */
  for (int i = 0; i < 3; i++) {
    OK(cuMemsetD8Async(b, 0, 64, stream));
    OK(cuGraphLaunch(exec, stream));
    OK(cuStreamSynchronize(stream));
    OK(cuMemcpyDtoH(host, b, 64));
    assert_int_equal(host[63], 2);
    OK(cuMemcpyDtoH(host, a, 64));
    assert_int_equal(host[63], 3);
  }
  assert_int_equal(api->cuda.p_cuStreamWaitEvent(other, join, 0), CUDA_ERROR_CAPTURED_EVENT);
  OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
  OK(cuEventRecord(fork, stream));
  OK(cuStreamWaitEvent(other, fork, 0));
  OK(cuMemsetD8Async(b, 0, 64, other));
  assert_int_equal(api->cuda.p_cuStreamEndCapture(stream, &graph),
                   CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
  OK(cuGraphExecDestroy(exec));
  OK(cuEventDestroy(fork));
  OK(cuEventDestroy(join));
  OK(cuStreamDestroy(stream));
  OK(cuStreamDestroy(other));
  OK(cuMemFree(a));
  OK(cuMemFree(b));
  end();
}

/* What the subset does not have fails and is named. */
static void outside_of_the_subset(void **state)
{
  int value;
  (void)state;
  begin(1);
  assert_int_not_equal(
      api->cuda.p_cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 0),
      CUDA_SUCCESS);
  assert_non_null(strstr(tml_emu_refused(), "cuDeviceGetAttribute"));
  int fd;
  assert_int_equal(
      api->cuda.p_cuMemExportToShareableHandle(&fd, 0, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
      CUDA_ERROR_NOT_SUPPORTED);
  assert_non_null(strstr(tml_emu_refused(), "cuMemExportToShareableHandle"));
  assert_int_equal(api->has_lt, 0);
  end();
}

static void no_compiler(void **state)
{
  static bed_result r;
  (void)state;
  bed_case c = bed_of("gemm:bf16:nt:w1:9x72x72", NULL, 1, 1);
  tml_emu_close();
  c.machine.cc = "no-such-compiler";
  bed_run(&c, &r);
  assert_int_equal(r.status[0], TML_COMPILE);
  assert_non_null(strstr(r.text[0], "C compiler"));
  assert_non_null(strstr(r.text[0], "TIDEMILL_CC"));
  assert_int_equal(r.alive, 0);
}

static void good(const bed_case *c)
{
  static bed_result r;
  char why[2 * BED_TEXT];
  bed_run(c, &r);
  if (!bed_good(c, &r, why, sizeof why)) fail_msg("%s", why);
}

static void same_seed_same_run(void **state)
{
  static bed_result r[3];
  (void)state;
  for (int i = 0; i < 3; i++) {
    bed_case c =
        bed_of("gemm_ar:bf16:nt:w3:40x72x72", "*__128x128x64.c1x1.s?.coop.*", 2, i < 2 ? 11 : 12);
    bed_run(&c, &r[i]);
  }
  assert_int_equal(r[0].counts.primitives, r[1].counts.primitives);
  assert_int_equal(r[0].counts.switches, r[1].counts.switches);
  assert_int_equal(r[0].counts.events, r[1].counts.events);
  assert_int_equal(r[0].now_ns, r[1].now_ns);
  assert_int_equal(r[0].hash, r[1].hash);
  assert_int_not_equal(r[0].now_ns, r[2].now_ns);
  assert_int_equal(r[0].hash, r[2].hash); /* results do not depend on the schedule */
}

/* Mixed ops on one comm, replayed by graphs of an odd and an even number of calls. */
static void mixed_graphs(void **state)
{
  (void)state;
  for (int calls = 1; calls <= 2; calls++) {
    bed_case c = bed_of("ag_gemm:bf16:nt:w2:41x72x72", NULL, calls, (uint64_t)calls);
    bed_add(&c, "gemm_rs:fp16:nt:w2:23x72x72:bias", NULL);
    bed_add(&c, "gemm_ar:bf16:nt:w2:9x136x72", NULL);
    c.replays = 3;
    good(&c);
  }
}

/* A as it was gathered: ragged and empty shards, no shards at all, one copy slot all the time and both in turn. */
static void gathered(void **state)
{
  static const char *const problems[] = {"ag_gemm:bf16:nt:w2:41x72x72",
                                         "ag_gemm:fp16:nt:w4:9x72x72", "ag_gemm:bf16:nt:w3:2x72x72",
                                         "ag_gemm:bf16:nt:w3:0x72x72"};
  (void)state;
  for (int i = 0; i < 4; i++)
    for (int calls = 1; calls <= 2; calls++) {
      bed_case c = bed_of(problems[i], NULL, calls, (uint64_t)(2 * i + calls));
      c.gathered = 1;
      good(&c);
      c.replays = 3;
      good(&c);
    }
  for (int i = 0; i < 3; i++) {
    bed_case c = bed_of(problems[i], "*nccl", 2, 4);
    c.gathered = 1;
    good(&c);
  }
}

static void peers_are_late(void *user)
{
  (void)user;
  tml_emu_delay(1, 0, 200000);
  tml_emu_delay(0, 1, 100000);
}

/* C in symmetric memory: the owners' tiles arrive in it. With late peers, replays, and shards without rows. */
static void symmetric(void **state)
{
  static const char *const problems[] = {
      "gemm_ar:bf16:nt:w2:41x136x72:bias", "gemm_ar:fp16:nt:w3:137x72x72",
      "gemm_ar:bf16:nt:w4:9x72x72", "gemm_ar:bf16:nt:w8:5x72x72", "gemm_ar:bf16:nt:w2:0x72x72"};
  static const char *const variants[] = {"*__128x128x64.c1x1.s?.coop.*", "*pingpong*"};
  (void)state;
  for (int i = 0; i < 5; i++)
    for (uint64_t seed = 1; seed <= 5; seed++) {
      bed_case c = bed_of(problems[i], variants[seed % 2], seed % 2 ? 3 : 1, seed);
      c.symmetric = 1;
      c.replays = seed % 3 == 0 ? 3 : 0;
      if (seed % 2) c.spoil = peers_are_late;
      good(&c);
    }
}

/* One k-tile: nothing in the main loop holds back a warp that passes the turn on before its sisters have seen
 * it. Several tiles for every block. */
static void short_turns(void **state)
{
  static const char *const cases[][2] = {
      {"gemm:bf16:nt:w1:700x648x24", "*__128x128x64.c1x1.s5.pingpong.r4"},
      {"gemm_rs:bf16:nt:w3:130x648x24", "*__128x128x64.c2x1.*.pingpong.r4.push"},
      {"ag_gemm:bf16:nt:w3:130x648x24", "*__128x128x64.c1x1.s5.pingpong.r4.kc2.ce"}};
  (void)state;
  for (int i = 0; i < 3; i++)
    for (uint64_t seed = 1; seed <= 3; seed++) {
      bed_case c = bed_of(cases[i][0], cases[i][1], 1, seed);
      good(&c);
    }
}

/* Copy engines pull: ragged and empty shards, chunks, late peers, the gathered A, one slot twice in a row. */
static void pulling(void **state)
{
  static const char *const problems[] = {
      "ag_gemm:bf16:nt:w2:41x136x72:bias", "ag_gemm:fp16:nt:w3:137x72x264",
      "ag_gemm:bf16:nt:w4:9x72x72", "ag_gemm:bf16:nt:w8:5x72x72", "ag_gemm:bf16:nt:w2:0x72x72"};
  static const char *const variants[] = {"*__128x128x64.c1x1.s?.coop.*kc2.ce", "*pingpong*.ce"};
  (void)state;
  for (int i = 0; i < 5; i++)
    for (uint64_t seed = 1; seed <= 5; seed++) {
      bed_case c = bed_of(problems[i], variants[seed % 2], seed % 2 ? 3 : 1, seed);
      c.symmetric = 1;
      c.gathered = seed % 2;
      c.replays = seed % 3 == 0 ? 3 : 0;
      if (seed % 2) c.spoil = peers_are_late;
      good(&c);
    }
}

/* Round the ring: ragged and empty shards, bias, both types, late peers, parities by turns. */
static void rings(void **state)
{
  static const char *const problems[] = {
      "gemm_rs:bf16:nt:w2:41x136x72:bias", "gemm_rs:fp16:nt:w3:137x72x72:bias",
      "gemm_rs:bf16:nt:w4:9x72x72", "gemm_rs:fp16:nt:w8:5x72x72", "gemm_rs:bf16:nt:w3:0x72x72"};
  static const char *const variants[] = {"*.pingpong.*.ring", "*__128x128x64.c2x1.*g280.ring"};
  (void)state;
  for (int i = 0; i < 5; i++)
    for (uint64_t seed = 1; seed <= 5; seed++) {
      bed_case c = bed_of(problems[i], variants[seed % 2], seed % 2 ? 3 : 1, seed);
      if (seed % 2) c.spoil = peers_are_late;
      good(&c);
    }
}

/* Movers and shards side by side: empty and ragged shards, more of them than a raster group has rows, late
 * peers. */
static void gathered_tiles(void **state)
{
  static const char *const cases[][2] = {
      {"ag_gemm:bf16:nt:w4:3x72x200", "*__128x128x64.c1x1.s6.coop.*r2.x8.sm"},
      {"ag_gemm:bf16:nt:w2:300x264x1096:bias", "*__128x128x64.c1x1.s6.coop.*r2.x4.sm"},
      {"ag_gemm:fp16:nt:w3:300x264x328", "*__128x128x64.c2x1.s6.coop.*.side.x8.sm"},
      {"ag_gemm:bf16:nt:w8:1100x72x72", "*__128x128x64.c1x1.s6.coop.*.side.x4.sm"},
      {"ag_gemm:bf16:nt:w4:37x264x264:bias", "*__128x128x64.c1x2.s6.coop.*.side.x8.sm"}};
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    for (uint64_t seed = 1; seed <= 3; seed++) {
      bed_case c = bed_of(cases[i][0], cases[i][1], seed % 2 ? 12 : 5, seed);
      if (seed == 3) c.spoil = peers_are_late;
      good(&c);
    }
}

/* The bits of a result do not depend on how many SMs there are. */
static void any_grid(void **state)
{
  static const char *const cases[][2] = {
      {"gemm:fp16:nt:w1:300x264x520", "*__128x128x64.c1x1.s6.coop.r2"},
      {"ag_gemm:fp16:nt:w2:600x264x520", "*__128x128x64.c1x1.s6.coop.r2.ce"},
      {"gemm_rs:fp16:nt:w2:600x264x520", "*__128x128x64.c1x1.s6.coop.r2.push"},
      {"gemm_ar:fp16:nt:w2:600x264x520", "*__128x128x64.c1x1.s6.coop.r2.twoshot"}};
  static const int sms[] = {1, 3, 12};
  static bed_result r;
  char why[2 * BED_TEXT];
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint64_t hash = 0;
    for (int s = 0; s < 3; s++) {
      bed_case c = bed_of(cases[i][0], cases[i][1], 1, 1);
      c.machine.sms = sms[s];
      bed_run(&c, &r);
      if (!bed_good(&c, &r, why, sizeof why)) fail_msg("%s: %s", cases[i][1], why);
      if (s > 0) assert_int_equal(r.hash, hash);
      hash = r.hash;
    }
  }
}

/* Parts of k summed by clusters: many tiles of one cluster, parts without k-tiles, any schedule, and
 * the same bits under all of them. */
static void split_tiles(void **state)
{
  static const char *const cases[][2] = {
      {"gemm:bf16:nt:w1:137x328x264:bias", "*__128x160x64.c1x1.k4.*"},
      {"gemm:fp16:nt:w1:70x264x136", "*__128x128x64.c1x1.k4.*"},
      {"gemm:bf16:nt:w1:300x264x72", "*__128x128x64.c2x1.k2.*"},
      {"gemm:bf16:nt:w1:9x520x8:bias", "*__128x192x64.c1x2.k2.*r2"},
      {"gemm:bf16:nt:w1:300x136x200", "*__256x128x64.c1x1.k2.*"},
      {"ag_gemm:bf16:nt:w3:41x264x136", "*__128x128x64.c1x1.k4.*"},
      {"ag_gemm:fp16:nt:w2:300x264x72:bias", "*__128x160x64.c1x1.k2.*"}};
  static bed_result r;
  char why[2 * BED_TEXT];
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint64_t hash = 0;
    for (uint64_t seed = 1; seed <= 3; seed++) {
      bed_case c = bed_of(cases[i][0], cases[i][1], 1, seed);
      bed_run(&c, &r);
      if (!bed_good(&c, &r, why, sizeof why)) fail_msg("%s: %s", cases[i][1], why);
      if (seed > 1) assert_int_equal(r.hash, hash);
      hash = r.hash;
    }
  }
}

/* A grid of the copy pattern that is larger than what is resident. */
static void few_are_resident(void **state)
{
  (void)state;
  bed_case c = bed_of("ag_gemm:bf16:nt:w2:300x264x72", "*__128x128x64.c1x1.s?.coop.*", 1, 5);
  c.machine.sms = 8;
  c.machine.resident = 1;
  good(&c);
}

static void late_peers(void **state)
{
  static const char *const problems[] = {
      "ag_gemm:bf16:nt:w3:41x72x72", "gemm_rs:bf16:nt:w3:41x72x72", "gemm_ar:bf16:nt:w3:41x72x72",
      "gemm_ar:bf16:nt:w3:2x72x72"};
  (void)state;
  for (int i = 0; i < 4; i++) {
    bed_case c = bed_of(problems[i], NULL, 3, 4);
    c.spoil = peers_are_late;
    good(&c);
  }
}

static tml_emu_point stop_point;

static void stop_rank(void *user)
{
  (void)user;
  tml_emu_stop(1, stop_point, 2, 3000);
}

/* Rank 1 stops; every other rank gets a fault or a time-out within the bound, and it names a rank. */
static void stopped_rank(void **state)
{
  static bed_result r;
  (void)state;
  for (stop_point = TML_EMU_BEFORE; stop_point <= TML_EMU_AFTER; stop_point++) {
    bed_case c = bed_of("gemm_ar:bf16:nt:w3:41x72x72", NULL, 4, 2);
    c.timeout_us = 2e5;
    c.spoil = stop_rank;
    c.keep_open = 1;
    c.machine.host_s = 3;
    bed_run(&c, &r);
    assert_int_not_equal(r.status[1], TML_OK);
    for (int i = 0; i < 3; i += 2) {
      if (r.status[i] != TML_FAULT && r.status[i] != TML_TIMEOUT)
        fail_msg("point %d, rank %d: %s, %s", (int)stop_point, i, tml_status_text(r.status[i]),
                 r.text[i]);
    }
    assert_true(r.fault[0].code != TML_FAULT_NONE || r.fault[2].code != TML_FAULT_NONE);
  }
}

static void unfused(void **state)
{
  static const char *const problems[] = {
      "ag_gemm:bf16:nt:w3:41x72x72", "gemm_rs:fp16:nt:w4:41x72x72:bias",
      "gemm_ar:bf16:nt:w8:24x72x72", "gemm_rs:bf16:nt:w2:48x72x72"};
  (void)state;
  for (int i = 0; i < 4; i++) {
    bed_case c = bed_of(problems[i], "*nccl", 2, 4);
    good(&c);
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(streams_keep_their_order),
      cmocka_unit_test(rows_keep_their_pitch),
      cmocka_unit_test(events_tell_virtual_time),
      cmocka_unit_test(graphs_fork_and_join),
      cmocka_unit_test(outside_of_the_subset),
      cmocka_unit_test(no_compiler),
      cmocka_unit_test(same_seed_same_run),
      cmocka_unit_test(mixed_graphs),
      cmocka_unit_test(gathered),
      cmocka_unit_test(symmetric),
      cmocka_unit_test(short_turns),
      cmocka_unit_test(pulling),
      cmocka_unit_test(rings),
      cmocka_unit_test(gathered_tiles),
      cmocka_unit_test(any_grid),
      cmocka_unit_test(split_tiles),
      cmocka_unit_test(few_are_resident),
      cmocka_unit_test(late_peers),
      cmocka_unit_test(stopped_rank),
      cmocka_unit_test(unfused),
  };
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  tml_emu_close();
  return failed;
}
