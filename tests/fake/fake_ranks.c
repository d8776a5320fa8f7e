/* Ranks as threads, and the null table. */
#include "machine.h"

typedef struct rank_thread {
  pthread_t thread;
  int world, rank;
  tml_nccl_id id;
  fake_rank_fn fn;
  void *user;
} rank_thread;

static void retain(int device, int change)
{
  pthread_mutex_lock(&fake_m.lock);
  fake_m.device[device].retained += change;
  pthread_mutex_unlock(&fake_m.lock);
}

static void *run_rank(void *user)
{
  rank_thread *self = user;
  ncclComm_t nccl = NULL;
  retain(self->rank, 1);
  fake_set_current_device(self->rank);
  int joined = fake_nccl_world(self->world, self->rank, &self->id, &nccl);
  if (FAKE_CHECK(joined == 0)) {
    fake_reset_thread_calls();
    self->fn(self->user, self->rank, &nccl);
    fake_fail_thread_call(0, CUDA_SUCCESS);
  }
  if (nccl) fake_nccl_leave(nccl);
  retain(self->rank, -1);
  return NULL;
}

void fake_run_ranks(int world, fake_rank_fn fn, void *user)
{
  static long worlds;
  rank_thread ranks[FAKE_DEVICES];
  tml_nccl_id id = {{0}};
  snprintf(id.internal, sizeof id.internal, "-%ld", ++worlds);
  for (int r = 0; r < world; r++) {
    ranks[r] = (rank_thread){.world = world, .rank = r, .id = id, .fn = fn, .user = user};
    if (pthread_create(&ranks[r].thread, NULL, run_rank, &ranks[r]) != 0) abort();
  }
  for (int r = 0; r < world; r++) pthread_join(ranks[r].thread, NULL);
}

/* ---- Null table ---- */

static CUcontext null_context;

static CUresult null_launch(const CUlaunchConfig *config, CUfunction f, void **params, void **extra)
{
  (void)config, (void)f, (void)params, (void)extra;
  return CUDA_SUCCESS;
}

static CUresult null_copy(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream)
{
  (void)dst, (void)src, (void)bytes, (void)stream;
  return CUDA_SUCCESS;
}

static CUresult null_copy_2d(const CUDA_MEMCPY2D *copy, CUstream stream)
{
  (void)copy, (void)stream;
  return CUDA_SUCCESS;
}

static CUresult null_record(CUevent event, CUstream stream)
{
  (void)event, (void)stream;
  return CUDA_SUCCESS;
}

static CUresult null_wait(CUstream stream, CUevent event, unsigned flags)
{
  (void)stream, (void)event, (void)flags;
  return CUDA_SUCCESS;
}

static CUresult null_capturing(CUstream stream, CUstreamCaptureStatus *status)
{
  (void)stream;
  *status = CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}

static CUresult null_current(CUcontext *context)
{
  *context = null_context;
  return CUDA_SUCCESS;
}

static CUresult null_set(CUcontext context)
{
  (void)context;
  return CUDA_SUCCESS;
}

static CUresult null_encode(CUtensorMap *out, CUtensorMapDataType type, cuuint32_t rank,
                            void *address, const cuuint64_t *dim, const cuuint64_t *stride,
                            const cuuint32_t *box, const cuuint32_t *element_stride,
                            CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                            CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill)
{
  (void)out, (void)type, (void)rank, (void)address, (void)dim, (void)stride, (void)box;
  (void)element_stride, (void)interleave, (void)swizzle, (void)promotion, (void)fill;
  return CUDA_SUCCESS;
}

static int null_group(void) { return 0; }

static int null_gather(const void *src, void *dst, size_t count, int type, ncclComm_t comm,
                       CUstream stream)
{
  (void)src, (void)dst, (void)count, (void)type, (void)comm, (void)stream;
  return 0;
}

/* ReduceScatter, AllReduce and Broadcast share a type. */
static int null_reduce(const void *src, void *dst, size_t count, int type, int op, ncclComm_t comm,
                       CUstream stream)
{
  (void)src, (void)dst, (void)count, (void)type, (void)op, (void)comm, (void)stream;
  return 0;
}

static int null_async(ncclComm_t comm, int *state)
{
  (void)comm;
  *state = 0;
  return 0;
}

static cublasStatus_t null_matmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                  const void *alpha, const void *a, cublasLtMatrixLayout_t al,
                                  const void *b, cublasLtMatrixLayout_t bl, const void *beta,
                                  const void *c, cublasLtMatrixLayout_t cl, void *d,
                                  cublasLtMatrixLayout_t dl, const cublasLtMatmulAlgo_t *algo,
                                  void *workspace, size_t bytes, cudaStream_t stream)
{
  (void)handle, (void)desc, (void)alpha, (void)a, (void)al, (void)b, (void)bl, (void)beta;
  (void)c, (void)cl, (void)d, (void)dl, (void)algo, (void)workspace, (void)bytes, (void)stream;
  return CUBLAS_STATUS_SUCCESS;
}

void fake_null(int on)
{
  static tml_api saved;
  if (!on) {
    fake_m.api = saved;
    return;
  }
  saved = fake_m.api;
  tml_cuda *cuda = &fake_m.api.cuda;
  tml_nccl *nccl = &fake_m.api.nccl;
  int device = fake_current_device();
  null_context = device < 0 ? NULL : (CUcontext)(void *)&fake_m.device[device].context;
  cuda->p_cuLaunchKernelEx = null_launch;
  cuda->p_cuMemcpyAsync = cuda->p_cuMemcpyDtoDAsync = null_copy;
  cuda->p_cuMemcpy2DAsync = null_copy_2d;
  cuda->p_cuEventRecord = null_record;
  cuda->p_cuStreamWaitEvent = null_wait;
  cuda->p_cuStreamIsCapturing = null_capturing;
  cuda->p_cuCtxGetCurrent = null_current;
  cuda->p_cuCtxSetCurrent = null_set;
  cuda->p_cuTensorMapEncodeTiled = null_encode;
  nccl->GroupStart = nccl->GroupEnd = null_group;
  nccl->AllGather = null_gather;
  nccl->ReduceScatter = nccl->AllReduce = nccl->Broadcast = null_reduce;
  nccl->CommGetAsyncError = null_async;
  fake_m.api.lt.p_cublasLtMatmul = null_matmul;
}
