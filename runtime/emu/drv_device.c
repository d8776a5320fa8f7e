/* Devices and contexts of the emulator's table. */
#include "driver.h"

static int is_device(CUdevice device) { return device >= 0 && device < drv.config.devices; }

static int device_of(CUcontext context)
{
  for (int i = 0; i < EMU_MAX_DEVICES; i++)
    if ((void *)context == (void *)&drv.device[i].context) return i;
  return -1;
}

static CUcontext context_of(int device)
{
  return device < 0 ? NULL : (CUcontext)(void *)&drv.device[device].context;
}

static CUresult drv_cuInit(unsigned flags)
{
  BEGIN(NEED_NOTHING);
  END(flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
}

static CUresult drv_cuDriverGetVersion(int *version)
{
  BEGIN(NEED_NOTHING);
  *version = CUDA_VERSION;
  END(CUDA_SUCCESS);
}

/* Not counted: error paths call it, and a failure of it changes nothing. */
static CUresult drv_cuGetErrorString(CUresult error, const char **text)
{
  switch (error) {
  case CUDA_SUCCESS: *text = "no error"; break;
  case CUDA_ERROR_OUT_OF_MEMORY: *text = "out of memory"; break;
  case CUDA_ERROR_NOT_READY: *text = "device not ready"; break;
  case CUDA_ERROR_DEVICE_UNAVAILABLE: *text = "the emulated device was stopped on request"; break;
  case CUDA_ERROR_LAUNCH_FAILED:
    *text = *drv.stuck ? drv.stuck : "the emulated launch failed";
    break;
  case CUDA_ERROR_LAUNCH_TIMEOUT:
    *text = "the emulated device waits for what no other rank does";
    break;
  default: *text = *drv.refused ? drv.refused : "emulated driver error"; break;
  }
  return CUDA_SUCCESS;
}

static CUresult drv_cuDeviceGetCount(int *count)
{
  BEGIN(NEED_NOTHING);
  *count = drv.config.devices;
  END(CUDA_SUCCESS);
}

static CUresult drv_cuDeviceGet(CUdevice *device, int ordinal)
{
  BEGIN(NEED_NOTHING);
  if (!is_device(ordinal)) END(CUDA_ERROR_INVALID_DEVICE);
  *device = ordinal;
  END(CUDA_SUCCESS);
}

static CUresult drv_cuDeviceGetName(char *name, int bytes, CUdevice device)
{
  BEGIN(NEED_NOTHING);
  if (!is_device(device)) END(CUDA_ERROR_INVALID_DEVICE);
  snprintf(name, (size_t)bytes, "Emulated sm_90a");
  END(CUDA_SUCCESS);
}

/* 1 and the value, or 0. */
static int attribute(CUdevice_attribute which, int *value)
{
  switch (which) {
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = drv.config.sms; return 1;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; return 1;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; return 1;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = 232448; return 1;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *value = 233472; return 1;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 49152; return 1;
  case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; return 1;
  case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: *value = 65536; return 1;
  case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; return 1;
  case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
  case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: *value = 1000000; return 1;
  case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *value = 1 << 20; return 1;
  case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
  case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
  case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
  case CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH:
  case CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED:
  case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
  case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY: *value = 1; return 1;
  default: return 0;
  }
}

static CUresult drv_cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device)
{
  BEGIN(NEED_NOTHING);
  if (!is_device(device)) END(CUDA_ERROR_INVALID_DEVICE);
  if (!attribute(which, value))
    REFUSE(CUDA_ERROR_INVALID_VALUE, "an attribute outside of the subset");
  END(CUDA_SUCCESS);
}

static CUresult drv_cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
  BEGIN(NEED_NOTHING);
  if (!is_device(device)) END(CUDA_ERROR_INVALID_DEVICE);
  memset(uuid, 0, sizeof *uuid);
  memcpy(uuid->bytes, "EMU", 3);
  uuid->bytes[15] = (char)(device + 1);
  END(CUDA_SUCCESS);
}

static CUresult drv_cuDeviceTotalMem(size_t *bytes, CUdevice device)
{
  BEGIN(NEED_NOTHING);
  if (!is_device(device)) END(CUDA_ERROR_INVALID_DEVICE);
  *bytes = drv.config.memory;
  END(CUDA_SUCCESS);
}

static CUresult drv_cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer)
{
  BEGIN(NEED_NOTHING);
  if (!is_device(device) || !is_device(peer)) END(CUDA_ERROR_INVALID_DEVICE);
  *can = device != peer;
  END(CUDA_SUCCESS);
}

static CUresult drv_cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute which,
                                            CUdevice device, CUdevice peer)
{
  BEGIN(NEED_NOTHING);
  if (!is_device(device) || !is_device(peer)) END(CUDA_ERROR_INVALID_DEVICE);
  if (which != CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED)
    REFUSE(CUDA_ERROR_INVALID_VALUE, "an attribute outside of the subset");
  *value = 1;
  END(CUDA_SUCCESS);
}

static CUresult drv_cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
  BEGIN(NEED_NOTHING);
  if (!is_device(device)) END(CUDA_ERROR_INVALID_DEVICE);
  drv.device[device].retained++;
  *context = context_of(device);
  END(CUDA_SUCCESS);
}

static CUresult drv_cuDevicePrimaryCtxRelease(CUdevice device)
{
  BEGIN_RELEASE(NEED_NOTHING);
  if (!is_device(device) || drv.device[device].retained == 0)
    END_RELEASE(CUDA_ERROR_INVALID_CONTEXT);
  drv.device[device].retained--;
  END_RELEASE(CUDA_SUCCESS);
}

static CUresult drv_cuCtxGetCurrent(CUcontext *context)
{
  BEGIN(NEED_NOTHING);
  *context = context_of(drv_current());
  END(CUDA_SUCCESS);
}

/* A primary context that nobody retains is dead. */
static int usable(CUcontext context)
{
  int device = device_of(context);
  return device >= 0 && drv.device[device].retained > 0;
}

/* A thread that leaves may be the one for whom the others' devices stood still. */
static void set_current(int device)
{
  drv_self()->device = device;
  if (device < 0) pthread_cond_broadcast(&drv.changed);
}

/* Giving a context up works always: what takes it away again must not leave the thread in it. */
static CUresult drv_cuCtxSetCurrent(CUcontext context)
{
  CUresult injected = drv_begin(__func__ + 4, NEED_NOTHING);
  if (!context) set_current(-1);
  if (injected != CUDA_SUCCESS) END(injected);
  if (context && !usable(context)) END(CUDA_ERROR_INVALID_CONTEXT);
  set_current(device_of(context));
  END(CUDA_SUCCESS);
}

static CUresult drv_cuCtxPushCurrent(CUcontext context)
{
  BEGIN(NEED_NOTHING);
  drv_thread *self = drv_self();
  if (!usable(context) || self->depth == 16) END(CUDA_ERROR_INVALID_CONTEXT);
  self->pushed[self->depth++] = self->device;
  set_current(device_of(context));
  END(CUDA_SUCCESS);
}

static CUresult drv_cuCtxPopCurrent(CUcontext *context)
{
  BEGIN_RELEASE(NEED_NOTHING);
  drv_thread *self = drv_self();
  if (self->depth == 0) END_RELEASE(CUDA_ERROR_INVALID_CONTEXT);
  if (context) *context = context_of(self->device);
  set_current(self->pushed[--self->depth]);
  END_RELEASE(CUDA_SUCCESS);
}

void drv_fill_device(tml_cuda *cuda)
{
#define FILL(f) cuda->p_##f = drv_##f
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
  FILL(cuDeviceGetP2PAttribute);
  FILL(cuDevicePrimaryCtxRetain);
  FILL(cuDevicePrimaryCtxRelease);
  FILL(cuCtxGetCurrent);
  FILL(cuCtxSetCurrent);
  FILL(cuCtxPushCurrent);
  FILL(cuCtxPopCurrent);
#undef FILL
}
