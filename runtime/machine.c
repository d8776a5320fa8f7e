/* Device facts. */
#include "machine.h"

#include <stdio.h>
#include <string.h>

#include "status.h"

static tml_status open_device(const tml_api *api, int ordinal, CUdevice *device)
{
  int count = 0;
  if (!api->has_cuda) return tml_fail(TML_NO_DEVICE, "%s", api->why_cuda);
  if (CU(api, cuInit, (0)) != TML_OK || CU(api, cuDeviceGetCount, (&count)) != TML_OK) {
    return tml_wrap(TML_NO_DEVICE, "no usable GPU (nvidia-smi shows what the driver sees)");
  }
  if (count == 0) return tml_fail(TML_NO_DEVICE, "the driver shows no GPU (CUDA_VISIBLE_DEVICES?)");
  if (ordinal < 0 || ordinal >= count) {
    return tml_fail(ordinal < 0 ? TML_ARGUMENT : TML_NO_DEVICE,
                    "device %d: this machine has 0 .. %d", ordinal, count - 1);
  }
  return CU(api, cuDeviceGet, (device, ordinal));
}

/* How this device reaches another: native atomics over the link mean NVLink, peer access without
 * them PCIe. "none" with one device, or where no other can be reached. */
static tml_status read_link(const tml_api *api, int ordinal, CUdevice device, tml_machine *out)
{
  int count = 0;
  strcpy(out->link, "none");
  TRY(CU(api, cuDeviceGetCount, (&count)));
  for (int i = 0; i < count; i++) {
    CUdevice other;
    int peer = 0, atomics = 0;
    if (i == ordinal) continue;
    TRY(CU(api, cuDeviceGet, (&other, i)));
    TRY(CU(api, cuDeviceCanAccessPeer, (&peer, device, other)));
    if (!peer) continue;
    if (api->cuda.p_cuDeviceGetP2PAttribute) {
      TRY(CU(api, cuDeviceGetP2PAttribute,
             (&atomics, CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED, device, other)));
    }
    strcpy(out->link, atomics ? "nvlink" : "pcie");
    if (atomics) return TML_OK;
  }
  return TML_OK;
}

tml_status machine_read(const tml_api *api, int ordinal, CUdevice *device, tml_machine *out)
{
  int major = 0, minor = 0;
  memset(out, 0, sizeof *out);
  TRY(open_device(api, ordinal, device));
  TRY(CU(api, cuDeviceGetName, (out->gpu, sizeof out->gpu, *device)));
  out->gpu[sizeof out->gpu - 1] = 0;
  TRY(CU(api, cuDeviceGetAttribute,
         (&out->sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, *device)));
  TRY(CU(api, cuDeviceGetAttribute,
         (&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, *device)));
  TRY(CU(api, cuDeviceGetAttribute,
         (&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, *device)));
  out->cc = 10 * major + minor;
  TRY(CU(api, cuDriverGetVersion, (&out->driver)));
  return read_link(api, ordinal, *device, out);
}
