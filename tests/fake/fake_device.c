/* Devices and contexts of the fake driver. */
#include "machine.h"

static int is_device(CUdevice device) { return device >= 0 && device < fake_m.config.devices; }

static int device_of(CUcontext context)
{
  for (int i = 0; i < FAKE_DEVICES; i++)
    if ((void *)context == (void *)&fake_m.device[i].context) return i;
  return -1;
}

static CUcontext context_of(int device)
{
  return device < 0 ? NULL : (CUcontext)(void *)&fake_m.device[device].context;
}

static CUresult fake_cuInit(unsigned flags)
{
  BEGIN(NEED_NOTHING);
  if (flags) END(CUDA_ERROR_INVALID_VALUE);
  END(fake_m.config.devices ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE);
}

static CUresult fake_cuDriverGetVersion(int *version)
{
  BEGIN(NEED_NOTHING);
  *version = fake_m.config.driver;
  END(CUDA_SUCCESS);
}

static CUresult fake_cuGetErrorString(CUresult error, const char **text)
{
  /* Not counted: error paths call it, and a failure of it changes nothing. */
  *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "fake driver error";
  return CUDA_SUCCESS;
}

static CUresult fake_cuDeviceGetCount(int *count)
{
  BEGIN(NEED_NOTHING);
  *count = fake_m.config.devices;
  END(CUDA_SUCCESS);
}

static CUresult fake_cuDeviceGet(CUdevice *device, int ordinal)
{
  BEGIN(NEED_NOTHING);
  if (!is_device(ordinal)) END(CUDA_ERROR_INVALID_DEVICE);
  *device = ordinal;
  END(CUDA_SUCCESS);
}

static CUresult fake_cuDeviceGetName(char *name, int bytes, CUdevice device)
{
  BEGIN(NEED_NOTHING);
  if (!is_device(device)) END(CUDA_ERROR_INVALID_DEVICE);
  snprintf(name, (size_t)bytes, "%s", fake_m.config.name);
  END(CUDA_SUCCESS);
}

static int attribute(CUdevice_attribute attribute, CUdevice device)
{
  switch (attribute) {
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return fake_m.config.sms;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return fake_m.config.cc / 10;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return fake_m.config.cc % 10;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return 232448;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return 233472;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: return 49152;
  case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return 1024;
  case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: return 65536;
  case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return 32;
  case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: return 1980000;
  case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: return 3201000;
  case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: return 60 << 20;
  case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: return 16 + device;
  case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
  case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
    return !fake_m.config.no_vmm;
  case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
  case CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH:
  case CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED:
  case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
  case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY: return 1;
  default: return 0;
  }
}

static CUresult fake_cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device)
{
  BEGIN(NEED_NOTHING);
  if (!is_device(device)) END(CUDA_ERROR_INVALID_DEVICE);
  *value = attribute(which, device);
  END(CUDA_SUCCESS);
}

static CUresult fake_cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
  BEGIN(NEED_NOTHING);
  if (!is_device(device)) END(CUDA_ERROR_INVALID_DEVICE);
  memset(uuid, 0, sizeof *uuid);
  uuid->bytes[0] = 'F';
  uuid->bytes[15] = (char)(device + 1);
  END(CUDA_SUCCESS);
}

static CUresult fake_cuDeviceTotalMem(size_t *bytes, CUdevice device)
{
  BEGIN(NEED_NOTHING);
  if (!is_device(device)) END(CUDA_ERROR_INVALID_DEVICE);
  *bytes = fake_m.config.memory;
  END(CUDA_SUCCESS);
}

static CUresult fake_cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer)
{
  BEGIN(NEED_NOTHING);
  if (!is_device(device) || !is_device(peer)) END(CUDA_ERROR_INVALID_DEVICE);
  *can = device != peer;
  END(CUDA_SUCCESS);
}

static CUresult fake_cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
  BEGIN(NEED_NOTHING);
  if (!is_device(device)) END(CUDA_ERROR_INVALID_DEVICE);
  fake_m.device[device].retained++;
  *context = context_of(device);
  END(CUDA_SUCCESS);
}

static CUresult fake_cuDevicePrimaryCtxRelease(CUdevice device)
{
  BEGIN_RELEASE(NEED_NOTHING);
  if (!is_device(device) || fake_m.device[device].retained == 0)
    END_RELEASE(CUDA_ERROR_INVALID_CONTEXT);
  fake_m.device[device].retained--;
  END_RELEASE(CUDA_SUCCESS);
}

static CUresult fake_cuCtxGetCurrent(CUcontext *context)
{
  BEGIN(NEED_NOTHING);
  *context = context_of(fake_current_device());
  END(CUDA_SUCCESS);
}

/* A primary context that nobody retains is dead. */
static int usable(CUcontext context)
{
  int device = device_of(context);
  return device >= 0 && fake_m.device[device].retained > 0;
}

static CUresult fake_cuCtxSetCurrent(CUcontext context)
{
  BEGIN(NEED_NOTHING);
  if (context && !usable(context)) END(CUDA_ERROR_INVALID_CONTEXT);
  fake_set_current_device(device_of(context));
  END(CUDA_SUCCESS);
}

static _Thread_local int pushed[16], depth;

static CUresult fake_cuCtxPushCurrent(CUcontext context)
{
  BEGIN(NEED_NOTHING);
  if (!usable(context) || depth == 16) END(CUDA_ERROR_INVALID_CONTEXT);
  pushed[depth++] = fake_current_device();
  fake_set_current_device(device_of(context));
  END(CUDA_SUCCESS);
}

static CUresult fake_cuCtxPopCurrent(CUcontext *context)
{
  BEGIN_RELEASE(NEED_NOTHING);
  if (depth == 0) END_RELEASE(CUDA_ERROR_INVALID_CONTEXT);
  if (context) *context = context_of(fake_current_device());
  fake_set_current_device(pushed[--depth]);
  END_RELEASE(CUDA_SUCCESS);
}

static CUresult fake_cuCtxSynchronize(void)
{
  BEGIN(NEED_CONTEXT | NOT_CAPTURING);
  END(fake_drain_device(fake_current_device()));
}

void fake_fill_device(tml_cuda *cuda)
{
#define FILL(f) cuda->p_##f = fake_##f
  FILL(cuInit);
  FILL(cuDriverGetVersion);
  FILL(cuGetErrorString);
  FILL(cuDeviceGetCount);
  FILL(cuDeviceGet);
  FILL(cuDeviceGetName);
  FILL(cuDeviceGetAttribute);
  FILL(cuDeviceGetUuid);
  FILL(cuDeviceTotalMem);
  FILL(cuDeviceCanAccessPeer);
  FILL(cuDevicePrimaryCtxRetain);
  FILL(cuDevicePrimaryCtxRelease);
  FILL(cuCtxGetCurrent);
  FILL(cuCtxSetCurrent);
  FILL(cuCtxPushCurrent);
  FILL(cuCtxPopCurrent);
  FILL(cuCtxSynchronize);
#undef FILL
}
