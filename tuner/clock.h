/* The SM clock, by NVML where it is there. */
#ifndef TML_CLOCK_H
#define TML_CLOCK_H

#include "rig.h"

/* MHz now, of the rig's GPU; NAN if NVML is absent. */
double clock_sm_mhz(const rig *r);

#endif
