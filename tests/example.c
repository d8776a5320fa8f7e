/* A serving process: plan at warm-up, capture once, replay. One GPU; for W ranks see the comments. */
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>

#include "tidemill.h"

#define TML(call)                                                         \
  do {                                                                    \
    tml_status s_ = (call);                                               \
    if (s_ != TML_OK) {                                                   \
      fprintf(stderr, "%s: %s\n", tml_status_text(s_), tml_last_error()); \
      exit(1);                                                            \
    }                                                                     \
  } while (0)
#define CUDA(call)                           \
  do {                                       \
    if ((call) != CUDA_SUCCESS) {            \
      fprintf(stderr, "%s failed\n", #call); \
      exit(1);                               \
    }                                        \
  } while (0)

int main(void)
{
  CUcontext context;
  CUstream stream;
  CUDA(cuInit(0));
  CUDA(cuDevicePrimaryCtxRetain(&context, 0));
  CUDA(cuCtxSetCurrent(context));
  CUDA(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));

  /* Warm-up. Everything that compiles, loads or allocates happens here. */
  tml_config config = {.size = sizeof config, .device = 0, .bank = "h200.bank"};
  tml_problem problem;
  tml_bytes bytes = {.size = sizeof bytes};
  tml_ctx *ctx;
  tml_comm *comm;
  tml_plan *plan;
  TML(tml_ctx_create(&ctx, &config));
  TML(tml_comm_create(&comm, ctx, NULL)); /* W ranks: your ncclComm_t instead of NULL */
  TML(tml_problem_parse(&problem, "gemm:bf16:nt:w1:4096x4096x8192"));
  TML(tml_plan_create(&plan, comm, &problem)); /* for every m up to 4096 */
  TML(tml_plan_workspace(plan, &bytes));
  TML(tml_comm_reserve(comm, &bytes)); /* several plans: tml_bytes_max first */

  CUdeviceptr a, b, c;
  CUDA(cuMemAlloc(&a, (size_t)problem.m * problem.k * 2));
  CUDA(cuMemAlloc(&b, (size_t)problem.n * problem.k * 2));
  CUDA(cuMemAlloc(&c, (size_t)problem.m * problem.n * 2));
  TML(tml_seal(ctx)); /* from here on nothing may compile, load or allocate */

  /* Capture a call with 100 rows; replay it as often as needed. */
  CUgraph graph;
  CUgraphExec exec;
  tml_args args = {.size = sizeof args, .m = 100, .a = (void *)a, .b = (void *)b, .c = (void *)c};
  CUDA(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  TML(tml_launch(plan, &args, stream));
  CUDA(cuStreamEndCapture(stream, &graph));
  CUDA(cuGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 10; i++) CUDA(cuGraphLaunch(exec, stream));
  CUDA(cuStreamSynchronize(stream));

  tml_fault fault = {.size = sizeof fault}; /* cheap, never blocks: ask after every step */
  if (tml_poll(comm, &fault) != TML_OK)
    fprintf(stderr, "rank %d waited for rank %d: %s\n", fault.rank, fault.peer,
            tml_fault_text(fault.code));
  printf("served by %s\n", tml_plan_variant(plan, args.m));

  cuGraphExecDestroy(exec);
  cuGraphDestroy(graph);
  tml_plan_destroy(plan);
  tml_comm_destroy(comm);
  tml_ctx_destroy(ctx);
  cuMemFree(a), cuMemFree(b), cuMemFree(c);
  cuStreamDestroy(stream);
  cuDevicePrimaryCtxRelease(0);
  return fault.code != TML_FAULT_NONE;
}
