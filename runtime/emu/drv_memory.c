/* Memory of the emulator's table. Device addresses are not host addresses: what the host reads through one
 * by mistake ends in a fault, not in a value. */
#include "driver.h"

#define GRANULARITY ((size_t)64 << 10)
#define ALIGNMENT 512

void drv_memory_release(drv_memory *memory)
{
  switch (memory->object.kind) {
  case DRV_ALLOC:
    emu_unmap(drv.emu, memory->at, memory->bytes);
    emu_unreserve(drv.emu, memory->at, memory->bytes);
    emu_memory_release(memory->memory);
    break;
  case DRV_HOST:
    emu_unmap(drv.emu, memory->at, memory->bytes);
    emu_memory_release(memory->memory);
    free(memory->host);
    break;
  case DRV_HANDLE: emu_memory_release(memory->memory); break;
  case DRV_RANGE: emu_unreserve(drv.emu, memory->at, memory->bytes); break;
  case DRV_MAPPING: emu_unmap(drv.emu, memory->at, memory->bytes); break;
  default: break;
  }
}

drv_memory *drv_memory_at(drv_kind kind, uint64_t at)
{
  for (drv_object *object = drv.alive; object; object = object->next)
    if (object->kind == kind && ((drv_memory *)object)->at == at) return (drv_memory *)object;
  return NULL;
}

static int fits(int device, size_t bytes)
{
  return drv.config.memory - drv.device[device].used >= bytes;
}

static CUresult new_alloc(int device, size_t bytes, CUdeviceptr *out)
{
  drv_memory *alloc = drv_object_new(DRV_ALLOC, device, sizeof *alloc);
  if (!alloc) return CUDA_ERROR_OUT_OF_MEMORY;
  alloc->bytes = bytes;
  alloc->memory = emu_memory_create(drv.emu, device, bytes);
  alloc->at = alloc->memory ? emu_reserve(drv.emu, bytes, ALIGNMENT) : 0;
  /* Its neighbours are not mapped beside it: what runs over the end is out of bounds. */
  const char *why =
      alloc->at ? emu_map(drv.emu, alloc->at, bytes, alloc->memory, 0, 1u << device) : "no memory";
  if (why) {
    if (alloc->at) emu_unreserve(drv.emu, alloc->at, bytes);
    if (alloc->memory) emu_memory_release(alloc->memory);
    drv_object_kill(alloc);
    return drv_refuse(CUDA_ERROR_OUT_OF_MEMORY, "cuMemAlloc", why);
  }
  drv.device[device].used += bytes;
  *out = alloc->at;
  return CUDA_SUCCESS;
}

static CUresult drv_cuMemAlloc(CUdeviceptr *out, size_t bytes)
{
  BEGIN(NEED_CONTEXT | NOT_CAPTURING);
  int device = drv_current();
  if (bytes == 0) END(CUDA_ERROR_INVALID_VALUE);
  if (!fits(device, bytes)) END(CUDA_ERROR_OUT_OF_MEMORY);
  END(new_alloc(device, bytes, out));
}

/* Frees, like a device, only once nothing of it is under way. */
static CUresult drop(drv_kind kind, uint64_t at)
{
  drv_memory *memory = drv_memory_at(kind, at);
  if (!at) return CUDA_SUCCESS;
  if (!memory) return CUDA_ERROR_INVALID_VALUE;
  CUresult drained = drv_drain(memory->object.device);
  if (kind == DRV_ALLOC) drv.device[memory->object.device].used -= memory->bytes;
  drv_memory_release(memory);
  drv_object_kill(memory);
  return drained;
}

static CUresult drv_cuMemFree(CUdeviceptr at)
{
  BEGIN_RELEASE(NEED_CONTEXT | NOT_CAPTURING);
  END_RELEASE(drop(DRV_ALLOC, at));
}

static CUresult drv_cuMemHostAlloc(void **out, size_t bytes, unsigned flags)
{
  BEGIN(NEED_CONTEXT | NOT_CAPTURING);
  const unsigned known = CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_PORTABLE;
  void *host = NULL;
  if (flags & ~known) REFUSE(CUDA_ERROR_INVALID_VALUE, "flags");
  if (bytes == 0) END(CUDA_ERROR_INVALID_VALUE);
  drv_memory *memory = drv_object_new(DRV_HOST, drv_current(), sizeof *memory);
  if (!memory || posix_memalign(&host, 4096, bytes) != 0) {
    if (memory) drv_object_kill(memory);
    END(CUDA_ERROR_OUT_OF_MEMORY);
  }
  memset(host, 0, bytes);
  memory->host = host;
  memory->at = (uint64_t)(uintptr_t)host;
  memory->bytes = bytes;
  memory->memory = emu_memory_wrap(drv.emu, host, bytes);
  const char *why = "no memory";
  if (memory->memory)
    why = emu_map(drv.emu, memory->at, bytes, memory->memory, 0, (1u << EMU_MAX_DEVICES) - 1);
  if (!why) {
    *out = host;
    END(CUDA_SUCCESS);
  }
  if (memory->memory) emu_memory_release(memory->memory);
  drv_object_kill(memory);
  free(host);
  REFUSE(CUDA_ERROR_OUT_OF_MEMORY, why);
}

static CUresult drv_cuMemFreeHost(void *at)
{
  BEGIN_RELEASE(NEED_CONTEXT | NOT_CAPTURING);
  END_RELEASE(drop(DRV_HOST, (uint64_t)(uintptr_t)at));
}

static CUresult drv_cuMemHostGetDevicePointer(CUdeviceptr *out, void *at, unsigned flags)
{
  BEGIN(NEED_CONTEXT);
  if (flags || !drv_memory_at(DRV_HOST, (uint64_t)(uintptr_t)at)) END(CUDA_ERROR_INVALID_VALUE);
  *out = (CUdeviceptr)(uintptr_t)at;
  END(CUDA_SUCCESS);
}

static CUresult drv_cuMemGetInfo(size_t *left, size_t *total)
{
  BEGIN(NEED_CONTEXT);
  *total = drv.config.memory;
  *left = *total - drv.device[drv_current()].used;
  END(CUDA_SUCCESS);
}

/* ---- Virtual memory ----------------------------------------------------------------------------- */

static int valid_prop(const CUmemAllocationProp *prop)
{
  return prop->type == CU_MEM_ALLOCATION_TYPE_PINNED &&
         prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE && prop->location.id >= 0 &&
         prop->location.id < drv.config.devices;
}

static CUresult drv_cuMemGetAllocationGranularity(size_t *out, const CUmemAllocationProp *prop,
                                                  CUmemAllocationGranularity_flags option)
{
  BEGIN(NEED_NOTHING);
  (void)option;
  if (!valid_prop(prop)) REFUSE(CUDA_ERROR_INVALID_VALUE, "memory of a device alone");
  *out = GRANULARITY;
  END(CUDA_SUCCESS);
}

static drv_memory *handle_of(CUmemGenericAllocationHandle handle)
{
  return drv_object_find(DRV_HANDLE, (void *)(uintptr_t)handle);
}

static CUresult drv_cuMemCreate(CUmemGenericAllocationHandle *out, size_t bytes,
                                const CUmemAllocationProp *prop, unsigned long long flags)
{
  BEGIN(NOT_CAPTURING);
  if (flags || !valid_prop(prop) || bytes == 0 || bytes % GRANULARITY)
    END(CUDA_ERROR_INVALID_VALUE);
  int device = prop->location.id;
  if (!fits(device, bytes)) END(CUDA_ERROR_OUT_OF_MEMORY);
  drv_memory *handle = drv_object_new(DRV_HANDLE, device, sizeof *handle);
  if (!handle) END(CUDA_ERROR_OUT_OF_MEMORY);
  handle->bytes = bytes;
  handle->memory = emu_memory_create(drv.emu, device, bytes);
  if (!handle->memory) {
    drv_object_kill(handle);
    END(CUDA_ERROR_OUT_OF_MEMORY);
  }
  drv.device[device].used += bytes;
  *out = (CUmemGenericAllocationHandle)(uintptr_t)handle;
  END(CUDA_SUCCESS);
}

static CUresult drv_cuMemRelease(CUmemGenericAllocationHandle value)
{
  BEGIN_RELEASE(NOT_CAPTURING);
  drv_memory *handle = handle_of(value);
  if (!handle) END_RELEASE(CUDA_ERROR_INVALID_VALUE);
  drv.device[handle->object.device].used -= handle->bytes;
  drv_memory_release(handle);
  drv_object_kill(handle);
  END_RELEASE(CUDA_SUCCESS);
}

static CUresult drv_cuMemExportToShareableHandle(void *out, CUmemGenericAllocationHandle handle,
                                                 CUmemAllocationHandleType type,
                                                 unsigned long long flags)
{
  BEGIN(NOT_CAPTURING);
  (void)out, (void)handle, (void)type, (void)flags;
  REFUSE(CUDA_ERROR_NOT_SUPPORTED, "emulated ranks are threads of one process");
}

static CUresult drv_cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *out, void *os,
                                                   CUmemAllocationHandleType type)
{
  BEGIN(NOT_CAPTURING);
  (void)out, (void)os, (void)type;
  REFUSE(CUDA_ERROR_NOT_SUPPORTED, "emulated ranks are threads of one process");
}

static CUresult drv_cuMemAddressReserve(CUdeviceptr *out, size_t bytes, size_t alignment,
                                        CUdeviceptr wanted, unsigned long long flags)
{
  BEGIN(NOT_CAPTURING);
  if (flags || wanted || bytes == 0 || bytes % GRANULARITY || (alignment & (alignment - 1)))
    END(CUDA_ERROR_INVALID_VALUE);
  drv_memory *range = drv_object_new(DRV_RANGE, drv_current(), sizeof *range);
  if (!range) END(CUDA_ERROR_OUT_OF_MEMORY);
  range->bytes = bytes;
  range->at = emu_reserve(drv.emu, bytes, alignment > GRANULARITY ? alignment : GRANULARITY);
  if (!range->at) {
    drv_object_kill(range);
    END(CUDA_ERROR_OUT_OF_MEMORY);
  }
  *out = range->at;
  END(CUDA_SUCCESS);
}

/* What of this kind overlaps [at, at + bytes). */
static drv_memory *overlapping(drv_kind kind, uint64_t at, size_t bytes)
{
  for (drv_object *object = drv.alive; object; object = object->next) {
    drv_memory *memory = (drv_memory *)object;
    if (object->kind == kind && memory->at < at + bytes && at < memory->at + memory->bytes)
      return memory;
  }
  return NULL;
}

static CUresult drv_cuMemAddressFree(CUdeviceptr at, size_t bytes)
{
  BEGIN_RELEASE(NOT_CAPTURING);
  drv_memory *range = drv_memory_at(DRV_RANGE, at);
  if (!range || range->bytes != bytes || overlapping(DRV_MAPPING, at, bytes))
    END_RELEASE(CUDA_ERROR_INVALID_VALUE);
  drv_memory_release(range);
  drv_object_kill(range);
  END_RELEASE(CUDA_SUCCESS);
}

static CUresult drv_cuMemMap(CUdeviceptr at, size_t bytes, size_t offset,
                             CUmemGenericAllocationHandle handle, unsigned long long flags)
{
  BEGIN(NOT_CAPTURING);
  const drv_memory *source = handle_of(handle), *range = overlapping(DRV_RANGE, at, bytes);
  if (!source || !range || at < range->at || at + bytes > range->at + range->bytes || flags ||
      offset || bytes != source->bytes)
    END(CUDA_ERROR_INVALID_VALUE);
  drv_memory *mapping = drv_object_new(DRV_MAPPING, source->object.device, sizeof *mapping);
  if (!mapping) END(CUDA_ERROR_OUT_OF_MEMORY);
  mapping->at = at;
  mapping->bytes = bytes;
  /* No access until cuMemSetAccess, as on a device. */
  const char *why = emu_map(drv.emu, at, bytes, source->memory, 0, 0);
  if (why) drv_object_kill(mapping);
  END_BY(CUDA_ERROR_INVALID_VALUE, why);
}

static CUresult drv_cuMemUnmap(CUdeviceptr at, size_t bytes)
{
  BEGIN_RELEASE(NOT_CAPTURING);
  drv_memory *mapping = drv_memory_at(DRV_MAPPING, at);
  if (!mapping || mapping->bytes != bytes) END_RELEASE(CUDA_ERROR_INVALID_VALUE);
  drv_memory_release(mapping);
  drv_object_kill(mapping);
  END_RELEASE(CUDA_SUCCESS);
}

static CUresult drv_cuMemSetAccess(CUdeviceptr at, size_t bytes, const CUmemAccessDesc *access,
                                   size_t count)
{
  BEGIN(NOT_CAPTURING);
  uint32_t devices = 0;
  for (size_t i = 0; i < count; i++) {
    if (access[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE || access[i].location.id < 0 ||
        access[i].location.id >= drv.config.devices)
      REFUSE(CUDA_ERROR_INVALID_VALUE, "devices read and write, nothing else");
    devices |= 1u << access[i].location.id;
  }
  END_BY(CUDA_ERROR_INVALID_VALUE, emu_set_access(drv.emu, at, bytes, devices));
}

void drv_fill_memory(tml_cuda *cuda)
{
#define FILL(f) cuda->p_##f = drv_##f
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
