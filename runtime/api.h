/* The driver table: everything the runtime calls outside libc, Lua and SQLite.
 *
 * Filled by dlopen (tml_api_open), by the recording fakes of the tests, or by the emulator. No other
 * file of the runtime may name a CUDA, NVRTC, NCCL or cuBLASLt function. A missing library leaves
 * its `has` flag 0 and its `why` text set; missing single symbols of a present library count as a
 * missing library, except those listed as optional. */
#ifndef TML_API_TABLE_H
#define TML_API_TABLE_H

#include <cublasLt.h>
#include <cuda.h>
#include <nvrtc.h>

#include "tidemill.h"

/* nccl.h is not needed to build: the few declarations that are used (NCCL 2.19 to 2.28 agree). */
typedef enum { TML_NCCL_SUCCESS = 0, TML_NCCL_IN_PROGRESS = 7 } tml_nccl_result;
typedef enum { TML_NCCL_UINT8 = 1, TML_NCCL_FLOAT16 = 6, TML_NCCL_BFLOAT16 = 9 } tml_nccl_dtype;
typedef enum { TML_NCCL_SUM = 0 } tml_nccl_op;
#define TML_NCCL_UNIQUE_ID_BYTES 128
typedef struct {
  char internal[TML_NCCL_UNIQUE_ID_BYTES];
} tml_nccl_id;
/* ncclConfig_t as of 2.19; NCCL fills what a newer version has beyond `size`. */
typedef struct {
  size_t size;
  unsigned magic, version;
  int blocking, cga_cluster_size, min_ctas, max_ctas;
  const char *net_name;
  int split_share;
} tml_nccl_config;
#define TML_NCCL_CONFIG_UNDEF ((int)0x80000000)
#define TML_NCCL_CONFIG_MAGIC 0xcafebeefu

/* X(function): the table holds a pointer of cuda.h's own type under the name that cuda.h maps it to. */
#define TML_CUDA_MAP(X)                                                                \
  X(cuInit)                                                                            \
  X(cuDriverGetVersion)                                                                \
  X(cuGetErrorString)                                                                  \
  X(cuDeviceGetCount)                                                                  \
  X(cuDeviceGet)                                                                       \
  X(cuDeviceGetName)                                                                   \
  X(cuDeviceGetAttribute)                                                              \
  X(cuDeviceGetUuid)                                                                   \
  X(cuDeviceTotalMem)                                                                  \
  X(cuDeviceCanAccessPeer)                                                             \
  X(cuDevicePrimaryCtxRetain)                                                          \
  X(cuDevicePrimaryCtxRelease)                                                         \
  X(cuCtxGetCurrent)                                                                   \
  X(cuCtxSetCurrent)                                                                   \
  X(cuCtxPushCurrent)                                                                  \
  X(cuCtxPopCurrent)                                                                   \
  X(cuCtxSynchronize)                                                                  \
  X(cuMemAlloc)                                                                        \
  X(cuMemFree)                                                                         \
  X(cuMemHostAlloc)                                                                    \
  X(cuMemFreeHost)                                                                     \
  X(cuMemHostGetDevicePointer)                                                         \
  X(cuMemcpyAsync)                                                                     \
  X(cuMemcpyHtoDAsync)                                                                 \
  X(cuMemcpyDtoHAsync)                                                                 \
  X(cuMemcpyDtoDAsync)                                                                 \
  X(cuMemcpy2DAsync)                                                                   \
  X(cuMemcpyHtoD)                                                                      \
  X(cuMemcpyDtoH)                                                                      \
  X(cuMemsetD8Async)                                                                   \
  X(cuMemsetD8)                                                                        \
  X(cuMemGetInfo)                                                                      \
  X(cuMemGetAllocationGranularity)                                                     \
  X(cuMemCreate)                                                                       \
  X(cuMemRelease)                                                                      \
  X(cuMemAddressReserve)                                                               \
  X(cuMemAddressFree)                                                                  \
  X(cuMemMap)                                                                          \
  X(cuMemUnmap)                                                                        \
  X(cuMemSetAccess)                                                                    \
  X(cuMemExportToShareableHandle)                                                      \
  X(cuMemImportFromShareableHandle)                                                    \
  X(cuStreamCreateWithPriority)                                                        \
  X(cuCtxGetStreamPriorityRange)                                                       \
  X(cuStreamDestroy)                                                                   \
  X(cuStreamSynchronize)                                                               \
  X(cuStreamQuery)                                                                     \
  X(cuStreamWaitEvent)                                                                 \
  X(cuStreamIsCapturing)                                                               \
  X(cuStreamBeginCapture)                                                              \
  X(cuStreamEndCapture)                                                                \
  X(cuEventCreate)                                                                     \
  X(cuEventDestroy)                                                                    \
  X(cuEventRecord)                                                                     \
  X(cuEventQuery)                                                                      \
  X(cuEventSynchronize)                                                                \
  X(cuEventElapsedTime)                                                                \
  X(cuGraphInstantiate)                                                                \
  X(cuGraphLaunch)                                                                     \
  X(cuGraphUpload)                                                                     \
  X(cuGraphDestroy)                                                                    \
  X(cuGraphExecDestroy)                                                                \
  X(cuLibraryLoadData)                                                                 \
  X(cuLibraryUnload)                                                                   \
  X(cuLibraryGetKernel)                                                                \
  X(cuKernelSetAttribute)                                                              \
  X(cuKernelGetAttribute)                                                              \
  X(cuKernelGetFunction)                                                               \
  X(cuFuncSetAttribute)                                                                \
  X(cuFuncLoad)                                                                        \
  X(cuLaunchKernelEx)                                                                  \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessor)                                       \
  X(cuOccupancyMaxActiveClusters)                                                      \
  X(cuTensorMapEncodeTiled)                                                            \
  /* Optional: NULL where the driver (or a fake) lacks them; also cuFuncLoad above. */ \
  X(cuDeviceGetP2PAttribute)                                                           \
  X(cuKernelGetParamInfo)

#define TML_NVRTC_MAP(X)    \
  X(nvrtcVersion)           \
  X(nvrtcGetErrorString)    \
  X(nvrtcCreateProgram)     \
  X(nvrtcDestroyProgram)    \
  X(nvrtcCompileProgram)    \
  X(nvrtcGetCUBINSize)      \
  X(nvrtcGetCUBIN)          \
  X(nvrtcGetProgramLogSize) \
  X(nvrtcGetProgramLog)

#define TML_LT_MAP(X)                     \
  X(cublasLtCreate)                       \
  X(cublasLtDestroy)                      \
  X(cublasLtGetVersion)                   \
  X(cublasLtMatmul)                       \
  X(cublasLtMatmulDescCreate)             \
  X(cublasLtMatmulDescDestroy)            \
  X(cublasLtMatmulDescSetAttribute)       \
  X(cublasLtMatrixLayoutCreate)           \
  X(cublasLtMatrixLayoutDestroy)          \
  X(cublasLtMatmulPreferenceCreate)       \
  X(cublasLtMatmulPreferenceDestroy)      \
  X(cublasLtMatmulPreferenceSetAttribute) \
  X(cublasLtMatmulAlgoGetHeuristic)

/* X(field, type): NCCL by name, "nccl" in front of the field with a capital. */
#define TML_NCCL_MAP(X)                                                                   \
  X(GetVersion, int (*)(int *))                                                           \
  X(GetErrorString, const char *(*)(int))                                                 \
  X(GetUniqueId, int (*)(tml_nccl_id *))                                                  \
  X(CommInitRankConfig, int (*)(ncclComm_t *, int, tml_nccl_id, int, tml_nccl_config *))  \
  X(CommSplit, int (*)(ncclComm_t, int, int, ncclComm_t *, tml_nccl_config *))            \
  X(CommGetAsyncError, int (*)(ncclComm_t, int *))                                        \
  X(CommCount, int (*)(ncclComm_t, int *))                                                \
  X(CommUserRank, int (*)(ncclComm_t, int *))                                             \
  X(CommDestroy, int (*)(ncclComm_t))                                                     \
  X(CommAbort, int (*)(ncclComm_t))                                                       \
  X(GroupStart, int (*)(void))                                                            \
  X(GroupEnd, int (*)(void))                                                              \
  X(AllGather, int (*)(const void *, void *, size_t, int, ncclComm_t, CUstream))          \
  X(ReduceScatter, int (*)(const void *, void *, size_t, int, int, ncclComm_t, CUstream)) \
  X(AllReduce, int (*)(const void *, void *, size_t, int, int, ncclComm_t, CUstream))     \
  X(Broadcast, int (*)(const void *, void *, size_t, int, int, ncclComm_t, CUstream))     \
  X(Reduce, int (*)(const void *, void *, size_t, int, int, int, ncclComm_t, CUstream))

#define TML_X(f) __typeof__(f) *p_##f;
typedef struct tml_cuda {
  TML_CUDA_MAP(TML_X)
} tml_cuda;
typedef struct tml_nvrtc {
  TML_NVRTC_MAP(TML_X)
} tml_nvrtc;
typedef struct tml_lt {
  TML_LT_MAP(TML_X)
} tml_lt;
#undef TML_X
#define TML_X(f, type) __typeof__((type)0) f;
typedef struct tml_nccl {
  TML_NCCL_MAP(TML_X)
} tml_nccl;
#undef TML_X

typedef struct tml_api {
  tml_cuda cuda;
  tml_nvrtc nvrtc;
  tml_nccl nccl;
  tml_lt lt;
  int has_cuda, has_nvrtc, has_nccl, has_lt;
  char why_cuda[160], why_nvrtc[160], why_nccl[160],
      why_lt[160]; /* what is missing and what to install */
  const char *isa; /* primitive set to expand over; NULL: the arch's own ("emu" for the emulator) */
} tml_api;

/* The process's table, opened once, thread-safe; never NULL. A library that the process has already
 * loaded is taken (RTLD_NOLOAD first), never a second one. */
const tml_api *tml_api_open(void);

/* Call a table function and turn a failure into DRIVER with the function's name and the error's text.
 * CU(api, cuMemAlloc, (&ptr, bytes)) ; the argument list keeps its parentheses. */
#define CU(api, f, args) tml_cuda_check((api), (api)->cuda.p_##f args, #f)
#define NV(api, f, args) tml_nvrtc_check((api), (api)->nvrtc.p_##f args, #f)
#define NC(api, f, args) tml_nccl_check((api), (api)->nccl.f args, "nccl" #f)
#define LT(api, f, args) tml_lt_check((api)->lt.p_##f args, #f)
tml_status tml_cuda_check(const tml_api *api, CUresult result,
                          const char *call); /* OUT_OF_MEMORY gives MEMORY */
tml_status tml_nvrtc_check(const tml_api *api, nvrtcResult result, const char *call);
tml_status tml_nccl_check(const tml_api *api, int result,
                          const char *call); /* IN_PROGRESS counts as OK */
tml_status tml_lt_check(cublasStatus_t result, const char *call);

#endif
