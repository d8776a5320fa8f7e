#include "clock.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define NVML_CLOCK_SM 1

typedef struct nvml {
  int (*init)(void);
  int (*by_uuid)(const char *, void **);
  int (*clock)(void *, int, unsigned *);
  void *device;
  int state; /* 0: not tried; 1: usable; -1: not */
} nvml;

static int find(void *library, const char *name, void *to)
{
  void *symbol = dlsym(library, name);
  memcpy(to, &symbol, sizeof symbol);
  return symbol != NULL;
}

/* NVML counts GPUs its own way, so the device is found by its UUID. */
static void open_device(nvml *n, const rig *r)
{
  CUuuid id;
  char text[48] = "GPU-";
  size_t at = 4;
  void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  n->state = -1;
  if (!library || !find(library, "nvmlInit_v2", &n->init) ||
      !find(library, "nvmlDeviceGetHandleByUUID", &n->by_uuid) ||
      !find(library, "nvmlDeviceGetClockInfo", &n->clock))
    return;
  if (r->api->cuda.p_cuDeviceGetUuid(&id, r->device) != CUDA_SUCCESS || n->init() != 0) return;
  for (int i = 0; i < 16; i++)
    at += (size_t)snprintf(text + at, sizeof text - at, "%s%02x",
                           i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                           (unsigned)(unsigned char)id.bytes[i]);
  if (n->by_uuid(text, &n->device) == 0) n->state = 1;
}

double clock_sm_mhz(const rig *r)
{
  static nvml n;
  unsigned mhz = 0;
  if (n.state == 0) open_device(&n, r);
  return n.state == 1 && n.clock(n.device, NVML_CLOCK_SM, &mhz) == 0 ? (double)mhz : NAN;
}
