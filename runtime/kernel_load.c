/* Cubin -> function that can be launched at once: nothing is left to the driver's lazy loading,
 * which would wait for the device in the middle of a call. */
#include <stddef.h>
#include <stdlib.h>

#include "geometry.h"
#include "kernel.h"
#include "maps.h"
#include "plan.h"
#include "status.h"

/* Where the value of each parameter lies in tml_values, and its size there. */
#define TML_X(name, type) {#name, offsetof(tml_values, name), sizeof(type)},
static const struct {
  const char *name;
  size_t offset, bytes;
} fields[] = {TML_PARAM_MAP(TML_X)};
#undef TML_X

/* The kernel's own idea of its parameters against the declared list, tables of maps at the length that
 * the launcher fills. */
static tml_status check_params(tml_ctx *ctx, const tml_kernel *kernel)
{
  const tml_variant *v = &kernel->variant;
  size_t offset, bytes;
  int maps[TML_MAP_TABLES];
  tml_map_counts(v, maps);
  if (!ctx->api->cuda.p_cuKernelGetParamInfo) return TML_OK;
  for (int i = 0; i < v->param_count; i++) {
    tml_param param = v->params[i];
    size_t most = fields[param].bytes;
    TRY(CU(ctx->api, cuKernelGetParamInfo, (kernel->kernel, (size_t)i, &offset, &bytes)));
    if ((int)param < TML_MAP_TABLES) most = (size_t)maps[param] * sizeof(CUtensorMap);
    if (bytes != most) {
      return tml_fail(TML_INTERNAL,
                      "%s: parameter %d, %s, has %zu bytes in the kernel and %zu here", v->name, i,
                      fields[param].name, bytes, most);
    }
  }
  if (ctx->api->cuda.p_cuKernelGetParamInfo(kernel->kernel, (size_t)v->param_count, &offset,
                                            &bytes) == CUDA_SUCCESS) {
    return tml_fail(TML_INTERNAL, "%s: the kernel takes more than its %d declared parameters",
                    v->name, v->param_count);
  }
  return TML_OK;
}

/* How many clusters (or blocks, for a cluster of one) the whole device holds at once. */
static tml_status occupancy(tml_ctx *ctx, tml_kernel *kernel)
{
  const tml_variant *v = &kernel->variant;
  unsigned cluster = (unsigned)tml_cluster_blocks(v);
  int count = 0;
  if (cluster > 1) {
    CUlaunchAttribute size = {.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION};
    size.value.clusterDim.x = cluster; /* as the kernel's own __cluster_dims__ */
    size.value.clusterDim.y = size.value.clusterDim.z = 1;
    CUlaunchConfig config = {.gridDimX = cluster * (unsigned)ctx->machine.sms,
                             .gridDimY = 1,
                             .gridDimZ = 1,
                             .blockDimX = (unsigned)v->threads,
                             .blockDimY = 1,
                             .blockDimZ = 1,
                             .sharedMemBytes = (unsigned)v->smem,
                             .attrs = &size,
                             .numAttrs = 1};
    TRY(CU(ctx->api, cuOccupancyMaxActiveClusters, (&count, kernel->function, &config)));
  } else {
    TRY(CU(ctx->api, cuOccupancyMaxActiveBlocksPerMultiprocessor,
           (&count, kernel->function, v->threads, (size_t)v->smem)));
    count *= ctx->machine.sms;
  }
  if (count < 1) {
    return tml_fail(TML_UNSUPPORTED,
                    "%s does not fit this device: no cluster of %u blocks with %d "
                    "threads and %d bytes of shared memory can run",
                    v->name, cluster, v->threads, v->smem);
  }
  kernel->max_clusters = count;
  return TML_OK;
}

static tml_status prepare(tml_ctx *ctx, tml_kernel *kernel)
{
  const tml_api *api = ctx->api;
  const tml_variant *v = &kernel->variant;
  TRY(CU(api, cuLibraryGetKernel, (&kernel->kernel, kernel->library, v->symbol)));
  TRY(check_params(ctx, kernel));
  for (int i = 0; i < v->param_count; i++)
    kernel->param_offset[i] = (int)fields[v->params[i]].offset;
  TRY(CU(api, cuKernelSetAttribute,
         (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, v->smem, kernel->kernel, ctx->device)));
  TRY(CU(api, cuKernelGetFunction, (&kernel->function, kernel->kernel)));
  if (api->cuda.p_cuFuncLoad) TRY(CU(api, cuFuncLoad, (kernel->function)));
  TRY(CU(api, cuKernelGetAttribute,
         (&kernel->registers, CU_FUNC_ATTRIBUTE_NUM_REGS, kernel->kernel, ctx->device)));
  if (kernel->registers < v->registers)
    return tml_fail(TML_UNSUPPORTED,
                    "%s has %d registers a thread and needs %d; build the bank with another "
                    "NVRTC",
                    v->name, kernel->registers, v->registers);
  return occupancy(ctx, kernel);
}

tml_status kernel_load(tml_ctx *ctx, tml_kernel *kernel, const void *cubin)
{
  TRY(CU(ctx->api, cuLibraryLoadData, (&kernel->library, cubin, NULL, NULL, 0, NULL, NULL, 0)));
  tml_status status = prepare(ctx, kernel);
  if (status != TML_OK) {
    ctx->api->cuda.p_cuLibraryUnload(kernel->library);
    kernel->library = NULL;
    return tml_wrap(status, "loading %s", kernel->variant.name);
  }
  atomic_fetch_add(&ctx->counters.loads, 1);
  return TML_OK;
}

void kernel_free_all(tml_ctx *ctx)
{
  CUcontext previous;
  int entered = ctx->kernels && tml_ctx_enter(ctx, &previous) == TML_OK;
  while (ctx->kernels) {
    tml_kernel *kernel = ctx->kernels;
    ctx->kernels = kernel->next;
    ctx->api->cuda.p_cuLibraryUnload(kernel->library);
    free(kernel);
  }
  if (entered) tml_ctx_leave(ctx, previous);
}
