/* Which machine the program works on: GPUs through the libraries that are found, or the emulator. Chosen
 * once, by the first thread, before anything else looks at it. */
#ifndef TML_DEVICE_H
#define TML_DEVICE_H

#include "../runtime/api.h"

/* `name`: NULL or "gpu"; "emu". The emulator's machine has `world` devices (0: 4) and the seed (0: 1).
 * CLI_OK, or CLI_USAGE or CLI_FAILED after a message. */
int device_choose(const char *command, const char *name, int world, int seed);
int device_emulated(void);
const tml_api *device_api(void);
/* What the emulator found wrong since the last call, one note each (at most a few); how many. 0 on GPUs.
 * Only while no rank runs a call. */
size_t device_reports(void);
/* What the emulator has executed since it was chosen, in words; returns `text`. */
const char *device_speed(char *text, size_t bytes);

#endif
