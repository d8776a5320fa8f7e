/* Copies and memsets of the emulator's table. */
#include "driver.h"

/* 1 if the machine knows all of the range: device memory, or memory of cuMemHostAlloc. */
static int known(uint64_t at, size_t bytes) { return emu_pointer(drv.emu, at, bytes) != NULL; }

static CUresult enqueue_rows(const char *name, const CUDA_MEMCPY2D *copy, CUstream handle)
{
  drv_stream *stream = drv_stream_of(handle);
  size_t width = copy->WidthInBytes, rows = copy->Height, some = width && rows;
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (some && (!known(copy->dstDevice, (rows - 1) * copy->dstPitch + width) ||
               !known(copy->srcDevice, (rows - 1) * copy->srcPitch + width)))
    return drv_refuse(CUDA_ERROR_INVALID_VALUE, name, "an address outside of what is mapped");
  drv_work *work = drv_work_new(some ? WORK_COPY : WORK_NONE);
  if (work) {
    work->dst = copy->dstDevice;
    work->src = copy->srcDevice;
    work->bytes = width;
    work->rows = rows;
    work->dst_pitch = copy->dstPitch;
    work->src_pitch = copy->srcPitch;
  }
  return drv_enqueue(stream, work, NULL);
}

static CUresult enqueue_copy(const char *name, uint64_t dst, uint64_t src, size_t bytes,
                             CUstream handle)
{
  const CUDA_MEMCPY2D copy = {.srcDevice = src,
                              .srcPitch = bytes,
                              .dstDevice = dst,
                              .dstPitch = bytes,
                              .WidthInBytes = bytes,
                              .Height = 1};
  return enqueue_rows(name, &copy, handle);
}

/* Between device addresses, by their unified type, from their first byte on. */
static CUresult drv_cuMemcpy2DAsync(const CUDA_MEMCPY2D *copy, CUstream stream)
{
  BEGIN(NEED_CONTEXT);
  if (copy->srcMemoryType != CU_MEMORYTYPE_UNIFIED || copy->dstMemoryType != CU_MEMORYTYPE_UNIFIED)
    REFUSE(CUDA_ERROR_INVALID_VALUE, "a memory type other than unified");
  if (copy->srcXInBytes || copy->srcY || copy->dstXInBytes || copy->dstY)
    REFUSE(CUDA_ERROR_INVALID_VALUE, "an offset");
  if (copy->srcPitch < copy->WidthInBytes || copy->dstPitch < copy->WidthInBytes)
    REFUSE(CUDA_ERROR_INVALID_VALUE, "a pitch below the width");
  END(enqueue_rows("cuMemcpy2DAsync", copy, stream));
}

static CUresult drv_cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream)
{
  BEGIN(NEED_CONTEXT);
  END(enqueue_copy("cuMemcpyAsync", dst, src, bytes, stream));
}

static CUresult drv_cuMemcpyDtoDAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes,
                                      CUstream stream)
{
  BEGIN(NEED_CONTEXT);
  END(enqueue_copy("cuMemcpyDtoDAsync", dst, src, bytes, stream));
}

/* Pageable memory is read before the call returns. */
static CUresult copy_in(CUdeviceptr dst, const void *src, size_t bytes, drv_stream *stream)
{
  if (!known(dst, bytes)) return CUDA_ERROR_INVALID_VALUE;
  if (stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  drv_work *work = drv_work_new(WORK_IN);
  if (!work) return CUDA_ERROR_OUT_OF_MEMORY;
  work->host = malloc(bytes);
  if (!work->host) {
    drv_work_drop(work);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  memcpy(work->host, src, bytes);
  work->dst = dst;
  work->bytes = bytes;
  return drv_enqueue(stream, work, NULL);
}

static CUresult finish(drv_op *op)
{
  CUresult result = drv_wait_op(op, drv.config.host_s);
  drv_op_drop(op);
  return result == CUDA_ERROR_NOT_READY ? CUDA_ERROR_LAUNCH_TIMEOUT : result;
}

/* Pageable memory is written before the call returns. */
static CUresult copy_out(void *dst, CUdeviceptr src, size_t bytes, drv_stream *stream)
{
  drv_op *op = NULL;
  if (!known(src, bytes)) return CUDA_ERROR_INVALID_VALUE;
  if (stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  drv_work *work = drv_work_new(WORK_OUT);
  if (!work) return CUDA_ERROR_OUT_OF_MEMORY;
  work->host = dst;
  work->src = src;
  work->bytes = bytes;
  CUresult result = drv_enqueue(stream, work, &op);
  return op ? finish(op) : result;
}

static CUresult drv_cuMemcpyHtoDAsync(CUdeviceptr dst, const void *src, size_t bytes,
                                      CUstream handle)
{
  BEGIN(NEED_CONTEXT);
  drv_stream *stream = drv_stream_of(handle);
  if (!stream) END(CUDA_ERROR_INVALID_HANDLE);
  if (bytes == 0 || known((uint64_t)(uintptr_t)src, bytes))
    END(enqueue_copy("cuMemcpyHtoDAsync", dst, (uint64_t)(uintptr_t)src, bytes, handle));
  END(copy_in(dst, src, bytes, stream));
}

static CUresult drv_cuMemcpyDtoHAsync(void *dst, CUdeviceptr src, size_t bytes, CUstream handle)
{
  BEGIN(NEED_CONTEXT);
  drv_stream *stream = drv_stream_of(handle);
  if (!stream) END(CUDA_ERROR_INVALID_HANDLE);
  if (bytes == 0 || known((uint64_t)(uintptr_t)dst, bytes))
    END(enqueue_copy("cuMemcpyDtoHAsync", (uint64_t)(uintptr_t)dst, src, bytes, handle));
  END(copy_out(dst, src, bytes, stream));
}

static CUresult enqueue_set(CUdeviceptr dst, unsigned char value, size_t bytes, CUstream handle,
                            drv_op **op)
{
  drv_stream *stream = drv_stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (bytes && !known(dst, bytes)) return CUDA_ERROR_INVALID_VALUE;
  drv_work *work = drv_work_new(bytes ? WORK_SET : WORK_NONE);
  if (work) {
    work->dst = dst;
    work->value = value;
    work->bytes = bytes;
  }
  return drv_enqueue(stream, work, op);
}

static CUresult drv_cuMemsetD8Async(CUdeviceptr dst, unsigned char value, size_t bytes,
                                    CUstream stream)
{
  BEGIN(NEED_CONTEXT);
  END(enqueue_set(dst, value, bytes, stream, NULL));
}

/* ---- Without a stream: in the default one, and done on return ------------------------------------- */

static CUresult drv_cuMemcpyHtoD(CUdeviceptr dst, const void *src, size_t bytes)
{
  BEGIN(NEED_CONTEXT | NOT_CAPTURING);
  drv_stream *stream = drv_stream_of(NULL);
  if (bytes == 0) END(CUDA_SUCCESS);
  CUresult result = copy_in(dst, src, bytes, stream);
  if (result != CUDA_SUCCESS) END(result);
  stream->tail->refs++;
  END(finish(stream->tail));
}

static CUresult drv_cuMemcpyDtoH(void *dst, CUdeviceptr src, size_t bytes)
{
  BEGIN(NEED_CONTEXT | NOT_CAPTURING);
  END(bytes ? copy_out(dst, src, bytes, drv_stream_of(NULL)) : CUDA_SUCCESS);
}

static CUresult drv_cuMemsetD8(CUdeviceptr dst, unsigned char value, size_t bytes)
{
  BEGIN(NEED_CONTEXT | NOT_CAPTURING);
  drv_op *op = NULL;
  CUresult result = enqueue_set(dst, value, bytes, NULL, &op);
  END(op ? finish(op) : result);
}

void drv_fill_copy(tml_cuda *cuda)
{
#define FILL(f) cuda->p_##f = drv_##f
  FILL(cuMemcpyAsync);
  FILL(cuMemcpyDtoDAsync);
  FILL(cuMemcpy2DAsync);
  FILL(cuMemcpyHtoDAsync);
  FILL(cuMemcpyDtoHAsync);
  FILL(cuMemsetD8Async);
  FILL(cuMemcpyHtoD);
  FILL(cuMemcpyDtoH);
  FILL(cuMemsetD8);
#undef FILL
}
