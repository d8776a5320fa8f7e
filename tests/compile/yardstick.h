/* How slow this machine is at the moment, for limits on compile time. CPU time leaves out what
 * other work takes of a core, but not what it takes of the caches, the clock and the sibling
 * thread: the same compile was seen to need twice its usual CPU time on a shared machine. */
#ifndef TML_YARDSTICK_H
#define TML_YARDSTICK_H

#include "rtc.h"

/* CPU time of this thread, milliseconds. */
double yardstick_cpu_ms(void);

/* The CPU time that NVRTC needs now for a fixed text, over the time it needs on the quiet machine
 * that the limits are stated for; 1 where that text does not compile. */
double yardstick_slowness(const tml_api *api, const char *arch);

#endif
