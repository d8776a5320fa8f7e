#include "device.h"

#include <string.h>

#include "../runtime/emu/emu.h"
#include "cli.h"
#include "progress.h"
#include "stop.h"

#define MOST_NOTES 5

static int emulated;
static double chosen_s;

int device_choose(const char *command, const char *name, int world, int seed)
{
  if (!name || strcmp(name, "gpu") == 0) return CLI_OK;
  if (strcmp(name, "emu") != 0) return cli_usage(command, "--device %s: choose gpu or emu", name);
  tml_emu_config config = {.devices = world ? world : 4, .seed = (uint64_t)(seed > 0 ? seed : 1)};
  tml_status status = tml_emu_open(&config);
  if (status != TML_OK) return cli_fail_status((int)status, command);
  emulated = 1;
  stop_catch(); /* its compiler's folders must not stay */
  chosen_s = seconds_now();
  return CLI_OK;
}

int device_emulated(void) { return emulated; }

const tml_api *device_api(void) { return emulated ? tml_emu_api() : tml_api_open(); }

size_t device_reports(void)
{
  emu_machine *machine = emulated ? tml_emu_machine() : NULL;
  size_t count = machine ? emu_report_count(machine) : 0;
  for (size_t i = 0; i < count && i < MOST_NOTES; i++)
    cli_note("%s", emu_report_at(machine, i)->text);
  if (count > MOST_NOTES) cli_note("and %zu more reports", count - MOST_NOTES);
  if (count) emu_report_clear(machine);
  return count;
}

const char *device_speed(char *text, size_t bytes)
{
  double seconds = seconds_now() - chosen_s;
  double count = (double)emu_count(tml_emu_machine()).primitives * 1e-6;
  snprintf(text, bytes, "%.1f million primitives in %.1f s, %.2f million a second", count, seconds,
           count / seconds);
  return text;
}
