/* Facts of the device that picks and the cost model depend on. */
#ifndef TML_MACHINE_H
#define TML_MACHINE_H

#include "api.h"
#include "gen.h"

/* cuInit and the device's facts. NO_DEVICE (no driver, no such GPU), ARGUMENT (ordinal), DRIVER. */
tml_status machine_read(const tml_api *api, int ordinal, CUdevice *device, tml_machine *out);

#endif
