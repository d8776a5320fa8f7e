/* Memory of the fake driver: allocations, host memory, and virtual memory over memfd. */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine.h"

#define GRANULARITY ((size_t)2 << 20)

typedef struct fake_memory { /* ALLOC, HOST, RANGE, MAPPING */
  fake_object object;
  void *at;
} fake_memory;

typedef struct fake_handle {
  fake_object object;
  int fd;
} fake_handle;

void fake_memory_release(fake_object *object)
{
  fake_memory *memory = (fake_memory *)object;
  switch (object->kind) {
  case OBJ_ALLOC:
  case OBJ_HOST: free(memory->at); break;
  case OBJ_HANDLE: {
    fake_handle *handle = (fake_handle *)object;
    if (handle->fd >= 0) close(handle->fd);
    handle->fd = -1;
    break;
  }
  case OBJ_RANGE:
    if (memory->at) munmap(memory->at, object->bytes);
    break;
  default: break;
  }
  if (object->kind != OBJ_HANDLE) memory->at = NULL;
}

static fake_memory *memory_at(fake_object_kind kind, const void *at)
{
  for (fake_object *object = fake_m.live; object; object = object->next)
    if (object->kind == kind && ((fake_memory *)object)->at == at) return (fake_memory *)object;
  return NULL;
}

static int take(int device, size_t bytes)
{
  if (fake_m.config.memory - fake_m.device[device].used < bytes) return 0;
  fake_m.device[device].used += bytes;
  return 1;
}

static CUresult new_memory(fake_object_kind kind, size_t bytes, void **out)
{
  int device = fake_current_device();
  void *at = NULL;
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (kind == OBJ_ALLOC && !take(device, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  if (posix_memalign(&at, 512, bytes) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
  memset(at, 0xA5, bytes); /* what was never written must show */
  fake_memory *memory = fake_object_new(kind, device, sizeof *memory);
  memory->at = at;
  memory->object.bytes = bytes;
  *out = at;
  return CUDA_SUCCESS;
}

static CUresult drop_memory(fake_object_kind kind, const void *at)
{
  fake_memory *memory = memory_at(kind, at);
  if (!at) return CUDA_SUCCESS;
  if (!memory) return CUDA_ERROR_INVALID_VALUE;
  CUresult drained = fake_drain_device(memory->object.device);
  if (kind == OBJ_ALLOC) fake_m.device[memory->object.device].used -= memory->object.bytes;
  fake_memory_release(&memory->object);
  fake_object_kill(memory);
  return drained;
}

static CUresult fake_cuMemAlloc(CUdeviceptr *out, size_t bytes)
{
  void *at = NULL;
  BEGIN(NEED_CONTEXT | NOT_CAPTURING);
  CUresult result = new_memory(OBJ_ALLOC, bytes, &at);
  if (result == CUDA_SUCCESS) *out = (CUdeviceptr)at;
  END(result);
}

static CUresult fake_cuMemFree(CUdeviceptr at)
{
  BEGIN_RELEASE(NEED_CONTEXT | NOT_CAPTURING);
  END_RELEASE(drop_memory(OBJ_ALLOC, (void *)at));
}

static CUresult fake_cuMemHostAlloc(void **out, size_t bytes, unsigned flags)
{
  BEGIN(NEED_CONTEXT | NOT_CAPTURING);
  (void)flags;
  END(new_memory(OBJ_HOST, bytes, out));
}

static CUresult fake_cuMemFreeHost(void *at)
{
  BEGIN_RELEASE(NEED_CONTEXT | NOT_CAPTURING);
  END_RELEASE(drop_memory(OBJ_HOST, at));
}

static CUresult fake_cuMemHostGetDevicePointer(CUdeviceptr *out, void *at, unsigned flags)
{
  BEGIN(NEED_CONTEXT);
  if (flags || !memory_at(OBJ_HOST, at)) END(CUDA_ERROR_INVALID_VALUE);
  *out = (CUdeviceptr)at;
  END(CUDA_SUCCESS);
}

static CUresult fake_cuMemGetInfo(size_t *left, size_t *total)
{
  BEGIN(NEED_CONTEXT);
  *total = fake_m.config.memory;
  *left = *total - fake_m.device[fake_current_device()].used;
  END(CUDA_SUCCESS);
}

/* ---- Virtual memory ---- */

static int valid_prop(const CUmemAllocationProp *prop)
{
  return prop->type == CU_MEM_ALLOCATION_TYPE_PINNED &&
         prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE && prop->location.id >= 0 &&
         prop->location.id < fake_m.config.devices;
}

static CUresult fake_cuMemGetAllocationGranularity(size_t *out, const CUmemAllocationProp *prop,
                                                   CUmemAllocationGranularity_flags option)
{
  BEGIN(NEED_NOTHING);
  (void)option;
  if (!valid_prop(prop)) END(CUDA_ERROR_INVALID_VALUE);
  *out = GRANULARITY;
  END(CUDA_SUCCESS);
}

static fake_handle *handle_of(CUmemGenericAllocationHandle handle)
{
  return fake_object_find(OBJ_HANDLE, (void *)(uintptr_t)handle);
}

static fake_handle *new_handle(int device, size_t bytes, int fd)
{
  fake_handle *handle = fake_object_new(OBJ_HANDLE, device, sizeof *handle);
  handle->fd = fd;
  handle->object.bytes = bytes;
  return handle;
}

static CUresult fake_cuMemCreate(CUmemGenericAllocationHandle *out, size_t bytes,
                                 const CUmemAllocationProp *prop, unsigned long long flags)
{
  BEGIN(NOT_CAPTURING);
  if (flags || !valid_prop(prop) || bytes == 0 || bytes % GRANULARITY)
    END(CUDA_ERROR_INVALID_VALUE);
  if (fake_m.config.no_vmm) END(CUDA_ERROR_NOT_SUPPORTED);
  if (!take(prop->location.id, bytes)) END(CUDA_ERROR_OUT_OF_MEMORY);
  int fd = memfd_create("fake-gpu", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) END(CUDA_ERROR_OUT_OF_MEMORY);
  /* New memory is not zero; one byte a page says so, without touching every page of a large block.
   */
  for (size_t at = 0; at < bytes; at += 65536)
    if (pwrite(fd, "\xA5\xA5\xA5\xA5\xA5\xA5\xA5\xA5", 8, (off_t)at) != 8)
      END(CUDA_ERROR_OUT_OF_MEMORY);
  *out = (CUmemGenericAllocationHandle)(uintptr_t)new_handle(prop->location.id, bytes, fd);
  END(CUDA_SUCCESS);
}

/* A mapping keeps the memory; the handle may go before it. */
static CUresult fake_cuMemRelease(CUmemGenericAllocationHandle out)
{
  BEGIN_RELEASE(NOT_CAPTURING);
  fake_handle *handle = handle_of(out);
  if (!handle) END_RELEASE(CUDA_ERROR_INVALID_VALUE);
  fake_m.device[handle->object.device].used -= handle->object.bytes;
  fake_memory_release(&handle->object);
  fake_object_kill(handle);
  END_RELEASE(CUDA_SUCCESS);
}

static CUresult fake_cuMemExportToShareableHandle(void *out, CUmemGenericAllocationHandle handle,
                                                  CUmemAllocationHandleType type,
                                                  unsigned long long flags)
{
  BEGIN(NOT_CAPTURING);
  fake_handle *source = handle_of(handle);
  if (!source || flags || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
    END(CUDA_ERROR_INVALID_VALUE);
  int fd = fcntl(source->fd, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) END(CUDA_ERROR_OUT_OF_MEMORY);
  memcpy(out, &fd, sizeof fd);
  END(CUDA_SUCCESS);
}

static CUresult fake_cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *out, void *os,
                                                    CUmemAllocationHandleType type)
{
  BEGIN(NEED_CONTEXT | NOT_CAPTURING);
  int fd = fcntl((int)(intptr_t)os, F_DUPFD_CLOEXEC, 0);
  if (fd < 0 || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) END(CUDA_ERROR_INVALID_VALUE);
  off_t bytes = lseek(fd, 0, SEEK_END);
  /* Counted at the importer while it holds the handle: the test sees an imbalance either way. */
  int device = fake_current_device();
  fake_m.device[device].used += (size_t)bytes;
  *out = (CUmemGenericAllocationHandle)(uintptr_t)new_handle(device, (size_t)bytes, fd);
  END(CUDA_SUCCESS);
}

static CUresult fake_cuMemAddressReserve(CUdeviceptr *out, size_t bytes, size_t alignment,
                                         CUdeviceptr wanted, unsigned long long flags)
{
  BEGIN(NOT_CAPTURING);
  if (flags || wanted || bytes == 0 || bytes % GRANULARITY || (alignment & (alignment - 1)))
    END(CUDA_ERROR_INVALID_VALUE);
  void *at = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) END(CUDA_ERROR_OUT_OF_MEMORY);
  fake_memory *range = fake_object_new(OBJ_RANGE, fake_current_device(), sizeof *range);
  range->at = at;
  range->object.bytes = bytes;
  *out = (CUdeviceptr)at;
  END(CUDA_SUCCESS);
}

static int mapped_inside(const char *at, size_t bytes)
{
  for (fake_object *object = fake_m.live; object; object = object->next) {
    if (object->kind != OBJ_MAPPING) continue;
    const char *mapping = ((fake_memory *)object)->at;
    if (mapping < at + bytes && at < mapping + object->bytes) return 1;
  }
  return 0;
}

static CUresult fake_cuMemAddressFree(CUdeviceptr at, size_t bytes)
{
  BEGIN_RELEASE(NOT_CAPTURING);
  fake_memory *range = memory_at(OBJ_RANGE, (void *)at);
  if (!range || range->object.bytes != bytes || mapped_inside((char *)at, bytes))
    END_RELEASE(CUDA_ERROR_INVALID_VALUE);
  fake_memory_release(&range->object);
  fake_object_kill(range);
  END_RELEASE(CUDA_SUCCESS);
}

static int inside_range(const char *at, size_t bytes)
{
  for (fake_object *object = fake_m.live; object; object = object->next) {
    if (object->kind != OBJ_RANGE) continue;
    const char *range = ((fake_memory *)object)->at;
    if (at >= range && at + bytes <= range + object->bytes) return 1;
  }
  return 0;
}

static CUresult fake_cuMemMap(CUdeviceptr at, size_t bytes, size_t offset,
                              CUmemGenericAllocationHandle handle, unsigned long long flags)
{
  BEGIN(NOT_CAPTURING);
  fake_handle *source = handle_of(handle);
  if (!source || flags || offset || bytes != source->object.bytes || at % 4096 ||
      !inside_range((char *)at, bytes) || mapped_inside((char *)at, bytes))
    END(CUDA_ERROR_INVALID_VALUE);
  /* No access until cuMemSetAccess, as on the device. */
  if (mmap((void *)at, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, source->fd, 0) == MAP_FAILED)
    END(CUDA_ERROR_OUT_OF_MEMORY);
  fake_memory *mapping = fake_object_new(OBJ_MAPPING, source->object.device, sizeof *mapping);
  mapping->at = (void *)at;
  mapping->object.bytes = bytes;
  END(CUDA_SUCCESS);
}

static CUresult fake_cuMemUnmap(CUdeviceptr at, size_t bytes)
{
  BEGIN_RELEASE(NOT_CAPTURING);
  fake_memory *mapping = memory_at(OBJ_MAPPING, (void *)at);
  if (!mapping || mapping->object.bytes != bytes) END_RELEASE(CUDA_ERROR_INVALID_VALUE);
  void *over = mmap((void *)at, bytes, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  fake_object_kill(mapping);
  END_RELEASE(over == MAP_FAILED ? CUDA_ERROR_UNKNOWN : CUDA_SUCCESS);
}

static CUresult fake_cuMemSetAccess(CUdeviceptr at, size_t bytes, const CUmemAccessDesc *desc,
                                    size_t count)
{
  BEGIN(NOT_CAPTURING);
  if (count == 0 || desc->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE ||
      !mapped_inside((char *)at, bytes))
    END(CUDA_ERROR_INVALID_VALUE);
  END(mprotect((void *)at, bytes, PROT_READ | PROT_WRITE) == 0 ? CUDA_SUCCESS
                                                               : CUDA_ERROR_INVALID_VALUE);
}

void fake_fill_memory(tml_cuda *cuda)
{
#define FILL(f) cuda->p_##f = fake_##f
  FILL(cuMemAlloc);
  FILL(cuMemFree);
  FILL(cuMemHostAlloc);
  FILL(cuMemFreeHost);
  FILL(cuMemHostGetDevicePointer);
  FILL(cuMemGetInfo);
  FILL(cuMemGetAllocationGranularity);
  FILL(cuMemCreate);
  FILL(cuMemRelease);
  FILL(cuMemExportToShareableHandle);
  FILL(cuMemImportFromShareableHandle);
  FILL(cuMemAddressReserve);
  FILL(cuMemAddressFree);
  FILL(cuMemMap);
  FILL(cuMemUnmap);
  FILL(cuMemSetAccess);
#undef FILL
}
