/* The fakes themselves: what other tests rely on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake.h"

static const tml_api *api;
static CUcontext context;

#define RUN(f, ...) assert_int_equal(api->cuda.p_##f(__VA_ARGS__), CUDA_SUCCESS)

static int open_machine(void **state)
{
  (void)state;
  api = fake_open(NULL);
  RUN(cuInit, 0);
  RUN(cuDevicePrimaryCtxRetain, &context, 0);
  RUN(cuCtxSetCurrent, context);
  return 0;
}

static int close_machine(void **state)
{
  (void)state;
  RUN(cuCtxSetCurrent, NULL);
  RUN(cuDevicePrimaryCtxRelease, 0);
  return fake_check_clean();
}

static void copies_move_bytes_and_leaks_show(void **state)
{
  (void)state;
  CUdeviceptr a, b;
  char text[8] = "tide";
  RUN(cuMemAlloc, &a, 8);
  RUN(cuMemAlloc, &b, 8);
  RUN(cuMemcpyHtoD, a, text, 8);
  RUN(cuMemcpyDtoDAsync, b, a, 8, NULL);
  memset(text, 0, sizeof text);
  RUN(cuMemcpyDtoH, text, b, 8);
  assert_string_equal(text, "tide");
  const CUDA_MEMCPY2D column = {.srcMemoryType = CU_MEMORYTYPE_UNIFIED,
                                .srcDevice = a,
                                .srcPitch = 2,
                                .dstMemoryType = CU_MEMORYTYPE_UNIFIED,
                                .dstDevice = b,
                                .dstPitch = 1,
                                .WidthInBytes = 1,
                                .Height = 2};
  RUN(cuMemcpy2DAsync, &column, NULL); /* "t" and "d" */
  RUN(cuMemcpyDtoH, text, b, 8);
  assert_string_equal(text, "tdde");
  RUN(cuMemFree, a);
  assert_int_equal(fake_check_clean(), 2); /* b and the context */
  RUN(cuMemFree, b);
  assert_int_equal(api->cuda.p_cuMemFree(b), CUDA_ERROR_INVALID_VALUE);
}

static void exported_memory_is_shared(void **state)
{
  (void)state;
  CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                              .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                              .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
  CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  CUmemGenericAllocationHandle own, imported;
  CUdeviceptr at[2];
  size_t bytes = (size_t)2 << 20;
  int fd = -1;
  RUN(cuMemCreate, &own, bytes, &prop, 0);
  RUN(cuMemExportToShareableHandle, &fd, own, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
  RUN(cuMemImportFromShareableHandle, &imported, (void *)(intptr_t)fd,
      CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  assert_true(fake_check_clean() >= 3);
  close(fd);
  for (int i = 0; i < 2; i++) {
    RUN(cuMemAddressReserve, &at[i], bytes, 0, 0, 0);
    RUN(cuMemMap, at[i], bytes, 0, i ? imported : own, 0);
    RUN(cuMemSetAccess, at[i], bytes, &access, 1);
  }
  RUN(cuMemRelease, own);
  RUN(cuMemRelease, imported);
  *(int *)at[0] = 42;
  assert_int_equal(*(int *)at[1], 42);
  for (int i = 0; i < 2; i++) {
    assert_int_equal(api->cuda.p_cuMemAddressFree(at[i], bytes), CUDA_ERROR_INVALID_VALUE);
    RUN(cuMemUnmap, at[i], bytes);
    RUN(cuMemAddressFree, at[i], bytes);
  }
}

static void a_graph_replays_forked_copies(void **state)
{
  (void)state;
  CUstream main_stream, side;
  CUevent fork, join;
  CUgraph graph;
  CUgraphExec exec;
  int from = 1, to = 0;
  RUN(cuStreamCreateWithPriority, &main_stream, 1, 0);
  RUN(cuStreamCreateWithPriority, &side, 1, -5);
  RUN(cuEventCreate, &fork, CU_EVENT_DISABLE_TIMING);
  RUN(cuEventCreate, &join, CU_EVENT_DISABLE_TIMING);

  RUN(cuStreamBeginCapture, main_stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
  CUdeviceptr refused;
  assert_int_equal(api->cuda.p_cuMemAlloc(&refused, 8), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  RUN(cuMemsetD8Async, (CUdeviceptr)&to, 0, 4, main_stream);
  RUN(cuEventRecord, fork, main_stream);
  RUN(cuStreamWaitEvent, side, fork, 0);
  RUN(cuMemcpyAsync, (CUdeviceptr)&to, (CUdeviceptr)&from, 4, side);
  RUN(cuEventRecord, join, side);
  RUN(cuStreamWaitEvent, main_stream, join, 0);
  RUN(cuStreamEndCapture, main_stream, &graph);
  assert_int_equal(to, 0);
  assert_int_equal(fake_graph_op_count(graph), 6);
  assert_true(fake_before(fake_graph_op_at(graph, 0), fake_graph_op_at(graph, 3)));
  assert_false(fake_before(fake_graph_op_at(graph, 3), fake_graph_op_at(graph, 0)));

  RUN(cuGraphInstantiate, &exec, graph, 0);
  for (int value = 7; value < 9; value++) {
    from = value;
    RUN(cuGraphLaunch, exec, main_stream);
    RUN(cuStreamSynchronize, main_stream);
    assert_int_equal(to, value);
  }
  RUN(cuStreamBeginCapture, main_stream, CU_STREAM_CAPTURE_MODE_RELAXED);
  RUN(cuEventRecord, fork, main_stream);
  RUN(cuStreamWaitEvent, side, fork, 0);
  RUN(cuMemcpyAsync, (CUdeviceptr)&to, (CUdeviceptr)&from, 4, side);
  CUgraph unjoined;
  assert_int_equal(api->cuda.p_cuStreamEndCapture(main_stream, &unjoined),
                   CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
  RUN(cuGraphExecDestroy, exec);
  RUN(cuGraphDestroy, graph);
  RUN(cuEventDestroy, fork);
  RUN(cuEventDestroy, join);
  RUN(cuStreamDestroy, side);
  RUN(cuStreamDestroy, main_stream);
}

static void the_kth_call_fails(void **state)
{
  (void)state;
  CUdeviceptr at = 0;
  fake_fail_call(2, CUDA_ERROR_OUT_OF_MEMORY);
  RUN(cuMemAlloc, &at, 8);
  assert_int_equal(api->cuda.p_cuMemFree(at), CUDA_ERROR_OUT_OF_MEMORY); /* freed nevertheless */
  assert_string_equal(fake_failed(), "cuMemFree");
  fake_fail_function("cuMemAlloc", CUDA_ERROR_UNKNOWN);
  assert_int_equal(api->cuda.p_cuMemAlloc(&at, 8), CUDA_ERROR_UNKNOWN);
  fake_fail_function(NULL, CUDA_SUCCESS);
  assert_int_equal(fake_calls_of("cuMemAlloc"), 2);
}

static void launches_are_recorded(void **state)
{
  (void)state;
  nvrtcProgram program;
  char cubin[256];
  CUlibrary library;
  CUkernel kernel;
  CUfunction function;
  const char *text = "extern \"C\" __global__ void grind(int m, long k) {}";
  const size_t sizes[] = {4, 8};
  int m = 3;
  long k = 5;
  void *params[] = {&m, &k};
  assert_int_equal(api->nvrtc.p_nvrtcCreateProgram(&program, text, "t", 0, NULL, NULL), 0);
  assert_int_equal(api->nvrtc.p_nvrtcGetCUBIN(program, cubin), 0);
  assert_int_equal(api->nvrtc.p_nvrtcDestroyProgram(&program), 0);
  RUN(cuLibraryLoadData, &library, cubin, NULL, NULL, 0, NULL, NULL, 0);
  assert_int_equal(api->cuda.p_cuLibraryGetKernel(&kernel, library, "mill"), CUDA_ERROR_NOT_FOUND);
  RUN(cuLibraryGetKernel, &kernel, library, "grind");
  RUN(cuKernelGetFunction, &function, kernel);
  fake_learn("grind", sizes, 2);
  CUlaunchConfig config = {.gridDimX = 4,
                           .gridDimY = 1,
                           .gridDimZ = 1,
                           .blockDimX = 384,
                           .blockDimY = 1,
                           .blockDimZ = 1,
                           .sharedMemBytes = 200000};
  assert_int_equal(api->cuda.p_cuLaunchKernelEx(&config, function, params, NULL),
                   CUDA_ERROR_INVALID_VALUE); /* the attribute is missing */
  RUN(cuFuncSetAttribute, function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 200000);
  RUN(cuLaunchKernelEx, &config, function, params, NULL);
  const fake_op *op = fake_op_at(fake_find_op(0, FAKE_LAUNCH, "grind"));
  assert_non_null(op);
  assert_int_equal(op->launch.grid[0], 4);
  assert_int_equal(*(long *)op->launch.param[1], 5);
  RUN(cuLibraryUnload, library);
}

static void tensor_maps_can_be_read(void **state)
{
  (void)state;
  CUtensorMap map;
  fake_map read;
  cuuint64_t dim[2] = {64, 100}, stride[1] = {128};
  cuuint32_t box[2] = {64, 128}, one[2] = {1, 1};
  static _Alignas(16) char memory[128 * 100];
#define ENCODE(at)                                                            \
  api->cuda.p_cuTensorMapEncodeTiled(                                         \
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (at), dim, stride, box, one, \
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,              \
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
  assert_int_equal(ENCODE(memory), CUDA_SUCCESS);
  assert_int_equal(ENCODE(memory + 2), CUDA_ERROR_INVALID_VALUE);
  assert_true(fake_map_decode(&map, &read));
  assert_true(read.address == (uint64_t)memory && read.dim[1] == 100 && read.box[1] == 128);
}

/* ---- Ranks ---- */

static void reduce(void *user, int rank, ncclComm_t *nccl)
{
  int world = *(int *)user, state = 7;
  CUstream stream;
  ncclComm_t child = NULL;
  tml_nccl_config config = {.size = sizeof config, .magic = TML_NCCL_CONFIG_MAGIC, .blocking = 0};
  FAKE_CHECK(api->nccl.CommSplit(*nccl, 0, rank, &child, &config) == 0 && child);
  while (state == 7) FAKE_CHECK(api->nccl.CommGetAsyncError(child, &state) == 0);
  FAKE_CHECK(api->cuda.p_cuStreamCreateWithPriority(&stream, 1, 0) == 0);

  /* 1 + 2 + ... in bf16 (0x3f80 is 1) and gathered bytes */
  uint16_t bf16[2] = {0x3f80, (uint16_t)(rank ? 0 : 0x4000)}, sum[2] = {0, 0};
  FAKE_CHECK(api->nccl.AllReduce(bf16, sum, 2, TML_NCCL_BFLOAT16, 0, child, stream) == 7);
  FAKE_CHECK(api->nccl.AllReduce(bf16, sum, 2, TML_NCCL_BFLOAT16, 0, child, stream) == 4);
  for (state = 7; state == 7;) api->nccl.CommGetAsyncError(child, &state);
  char mine = (char)('a' + rank), all[8] = {0};
  FAKE_CHECK(api->nccl.AllGather(&mine, all, 1, TML_NCCL_UINT8, child, stream) == 7);
  FAKE_CHECK(api->cuda.p_cuStreamSynchronize(stream) == 0);
  FAKE_CHECK(sum[0] == (world == 2 ? 0x4000 : 0x4080) && sum[1] == 0x4000);
  FAKE_CHECK(memcmp(all, "abcd", (size_t)world) == 0);
  FAKE_CHECK(api->nccl.CommDestroy(child) == 0);
  FAKE_CHECK(api->cuda.p_cuStreamDestroy(stream) == 0);
}

static void collectives_move_bytes_between_threads(void **state)
{
  (void)state;
  for (int world = 2; world <= 4; world += 2) fake_run_ranks(world, reduce, &world);
  assert_int_equal(fake_check_failures(), 0);
}

static void missing(void *user, int rank, ncclComm_t *nccl)
{
  (void)user;
  CUstream stream;
  char mine = 1, all[2];
  if (rank == 1) return;
  FAKE_CHECK(api->cuda.p_cuStreamCreateWithPriority(&stream, 1, 0) == 0);
  FAKE_CHECK(api->nccl.AllGather(&mine, all, 1, TML_NCCL_UINT8, *nccl, stream) == 0);
  FAKE_CHECK(api->cuda.p_cuStreamQuery(stream) == CUDA_ERROR_NOT_READY);
  FAKE_CHECK(api->nccl.CommAbort(*nccl) == 0);
  *nccl = NULL;
  FAKE_CHECK(api->cuda.p_cuStreamQuery(stream) == CUDA_SUCCESS);
  FAKE_CHECK(api->cuda.p_cuStreamDestroy(stream) == 0);
}

static void a_missing_rank_leaves_the_stream_busy(void **state)
{
  (void)state;
  fake_run_ranks(2, missing, NULL);
  assert_int_equal(fake_check_failures(), 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, open_machine, close_machine)
  const struct CMUnitTest tests[] = {TEST(copies_move_bytes_and_leaks_show),
                                     TEST(exported_memory_is_shared),
                                     TEST(a_graph_replays_forked_copies),
                                     TEST(the_kth_call_fails),
                                     TEST(launches_are_recorded),
                                     TEST(tensor_maps_can_be_read),
                                     TEST(collectives_move_bytes_between_threads),
                                     TEST(a_missing_rank_leaves_the_stream_busy)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
