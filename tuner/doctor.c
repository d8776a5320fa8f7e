#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/api.h"
#include "../runtime/bank.h"
#include "../runtime/config.h"
#include "../runtime/emu/emu.h"
#include "../runtime/knobs.h"
#include "../runtime/status.h"
#include "cli.h"
#include "commands.h"
#include "device.h"
#include "output.h"
#include "table.h"

typedef struct doctor_options {
  const char *bank, *json, *device;
} doctor_options;

static const table_column columns[] = {
    {"what", "what", 's', 0, 0}, {"state", "state", 's', 0, 0}, {"detail", "detail", 's', 0, 0}};

static void line(table *t, const char *what, const char *state, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static void line(table *t, const char *what, const char *state, const char *format, ...)
{
  char detail[400];
  va_list list;
  va_start(list, format);
  vsnprintf(detail, sizeof detail, format, list);
  va_end(list);
  table_text(t, what);
  table_text(t, state);
  table_text(t, detail);
  table_end_row(t);
}

static void see_peers(table *t, const tml_api *api, int devices)
{
  for (int a = 0; a < devices; a++) {
    char reached[64] = "";
    size_t at = 0;
    for (int b = 0; b < devices && b < 16; b++) {
      int can = 0;
      if (a == b || CU(api, cuDeviceCanAccessPeer, (&can, a, b)) != TML_OK || !can) continue;
      at += (size_t)snprintf(reached + at, sizeof reached - at, " %d", b);
    }
    char what[32];
    snprintf(what, sizeof what, "peers of GPU %d", a);
    if (devices > 1)
      line(t, what, *reached ? "ok" : "none", "reaches%s", *reached ? reached : " no other GPU");
  }
}

static tml_status see_gpu(table *t, const tml_api *api, int i)
{
  CUdevice device;
  char name[96], what[32];
  int major, minor, sms;
  size_t bytes;
  TRY(CU(api, cuDeviceGet, (&device, i)));
  TRY(CU(api, cuDeviceGetName, (name, sizeof name, device)));
  TRY(CU(api, cuDeviceGetAttribute,
         (&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)));
  TRY(CU(api, cuDeviceGetAttribute,
         (&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)));
  TRY(CU(api, cuDeviceGetAttribute, (&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device)));
  TRY(CU(api, cuDeviceTotalMem, (&bytes, device)));
  snprintf(what, sizeof what, "GPU %d", i);
  line(t, what, "ok", "%s, compute capability %d.%d, %d SMs, %.0f GiB", name, major, minor, sms,
       (double)bytes / (1 << 30));
  return TML_OK;
}

static void see_driver(table *t, const tml_api *api)
{
  int version = 0, devices = 0;
  if (!api->has_cuda) {
    line(t, "driver", "missing", "%s", api->why_cuda);
    return;
  }
  tml_status status = CU(api, cuDriverGetVersion, (&version));
  if (status == TML_OK) line(t, "driver", "ok", "CUDA %d.%d", version / 1000, version % 1000 / 10);
  if (status == TML_OK) status = CU(api, cuInit, (0));
  if (status == TML_OK) status = CU(api, cuDeviceGetCount, (&devices));
  for (int i = 0; i < devices && status == TML_OK; i++) status = see_gpu(t, api, i);
  if (status != TML_OK)
    line(t, "GPUs", "failed", "%s", tml_last_error());
  else if (devices == 0)
    line(t, "GPUs", "none", "the driver sees no GPU; look at CUDA_VISIBLE_DEVICES");
  see_peers(t, api, status == TML_OK ? devices : 0);
}

static void see_libraries(table *t, const tml_api *api)
{
  int major = 0, minor = 0, version = 0;
  if (!api->has_nvrtc)
    line(t, "NVRTC", "missing", "%s", api->why_nvrtc);
  else if (NV(api, nvrtcVersion, (&major, &minor)) == TML_OK)
    line(t, "NVRTC", "ok", "%d.%d", major, minor);
  if (!api->has_nccl)
    line(t, "NCCL", "missing", "%s", api->why_nccl);
  else if (NC(api, GetVersion, (&version)) == TML_OK)
    line(t, "NCCL", "ok", "%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
  if (!api->has_lt) {
    line(t, "cuBLASLt", "missing", "%s", api->why_lt);
    return;
  }
  size_t lt = api->lt.p_cublasLtGetVersion();
  line(t, "cuBLASLt", "ok", "%zu.%zu.%zu", lt / 10000, lt / 100 % 100, lt % 100);
}

typedef struct tally {
  int emulated; /* the bank is the emulator's */
  int rows, refused, bad, picks;
  int foreign; /* rows of the other kind, from before banks said whose they are */
  char first_bad[200];
} tally;

static int tally_row(void *user, const tml_bank_row *row, const char *bad)
{
  tally *n = user;
  n->rows++;
  n->refused += *row->refused != 0;
  n->foreign += (strcmp(row->compiler, TML_EMU_COMPILER) == 0) != n->emulated;
  if (bad && n->bad++ == 0) snprintf(n->first_bad, sizeof n->first_bad, "%s: %s", row->name, bad);
  return 0;
}

static int tally_pick(void *user, const tml_pick *pick, const char *bad)
{
  tally *n = user;
  n->picks++;
  if (bad && n->bad++ == 0)
    snprintf(n->first_bad, sizeof n->first_bad, "pick of %s: %s", pick->key, bad);
  return 0;
}

static tml_status count_all(tml_bank *bank, tally *n)
{
  n->emulated = tml_bank_serves(bank, "emu") == TML_OK;
  TRY(tml_bank_each(bank, tally_row, n));
  TRY(tml_bank_each_pick(bank, tally_pick, n));
  return n->bad ? TML_OK : tml_bank_verify(bank);
}

/* What is in a bank, as one line; 1 if it can be used here. */
static int judge_bank(table *t, const char *path, tml_bank *bank)
{
  tally n = {0};
  if (count_all(bank, &n) != TML_OK)
    line(t, "bank", "damaged", "%s; delete it and build it again", tml_last_error());
  else if (n.bad)
    line(t, "bank", "damaged", "%d entries cannot be used; the first: %s; build or tune them again",
         n.bad, n.first_bad);
  else if (tml_bank_serves(bank, device_api()->isa) != TML_OK)
    line(t, "bank", "other", "%s; it has %d variants, %d picks", tml_last_error(), n.rows, n.picks);
  else if (n.foreign)
    line(t, "bank", "mixed", "%d of %d variants hold code of the %s: build them again", n.foreign,
         n.rows, n.emulated ? "GPU's compiler" : "emulator");
  else {
    line(t, "bank", "ok", "%s: %d variants (%d refused by the compiler), %d picks", path, n.rows,
         n.refused, n.picks);
    return 1;
  }
  return 0;
}

static int see_bank(table *t, const char *path)
{
  tml_bank *bank = NULL;
  if (tml_bank_open(&bank, path) != TML_OK) {
    line(t, "bank", "refused", "%s", tml_last_error());
    return CLI_FAILED;
  }
  int usable = judge_bank(t, path, bank);
  tml_bank_close(bank);
  return usable ? CLI_OK : CLI_FAILED;
}

/* Texts mean what their users make of them: the generator its source, and the forced name. */
static tml_status judge_text(const char *name, const char *value)
{
  tml_gen *gen = NULL;
  tml_variant variant;
  int source = strcmp(name, "TIDEMILL_SOURCE") == 0;
  if (!source && strcmp(name, "TIDEMILL_FORCE") != 0) return TML_OK;
  const char *folder = cli_or_env(NULL, "TIDEMILL_SOURCE");
  tml_status status = tml_gen_open(&gen, folder, device_api()->isa);
  if (status != TML_OK && !source) return TML_OK; /* told in the line of the source */
  if (status == TML_OK && !source) status = tml_gen_variant(gen, value, &variant);
  tml_gen_close(gen);
  return status;
}

/* 1 if its value cannot be used. */
static int see_knob(table *t, const char *name, const char *fallback, const char *help)
{
  const char *value = cli_or_env(NULL, name);
  tml_status status = value ? config_judge(name) : TML_OK;
  if (value && status == TML_OK) status = judge_text(name, value);
  if (status != TML_OK)
    line(t, name, "wrong", "%s", tml_last_error());
  else
    line(t, name, value ? "set" : "default", "%s (%s)", value ? value : fallback, help);
  return status != TML_OK;
}

static int see_knobs(table *t)
{
  int wrong = 0;
#define X(field, name, fallback, help) wrong += see_knob(t, name, fallback, help);
  TML_KNOB_MAP(X, X, X)
#undef X
  return wrong ? CLI_FAILED : CLI_OK;
}

int cmd_doctor(int argc, char **argv)
{
  doctor_options o = {0};
  const cli_option options[] = {
      {"--bank", "-b", CLI_TEXT, &o.bank, "FILE", "also verify this bank; default: $TIDEMILL_BANK"},
      {"--json", NULL, CLI_FILE, &o.json, "FILE",
       "write the table as JSON; - is the standard output"},
      {"--device", NULL, CLI_TEXT, &o.device, "KIND", "gpu, or emu: the emulator; default gpu"},
  };
  const cli_command command = {"doctor",
                               "",
                               "Shows what there is and what is missing: driver, GPUs and who "
                               "reaches whom, NVRTC, NCCL, cuBLASLt,\n"
                               "the knobs and their values; and whether a bank can be used. Works "
                               "without a GPU. Exit code 1 only\n"
                               "if a knob has a value, or a bank was given, that cannot be used.",
                               options,
                               sizeof options / sizeof *options,
                               NULL};
  cli_list operands;
  int code = cli_parse(&command, argc, argv, &operands);
  if (code) return code == CLI_HELP ? CLI_OK : code;
  o.bank = cli_or_env(o.bank, "TIDEMILL_BANK");
  code = device_choose("doctor", o.device, 0, 0);
  if (code) return code;
  const tml_api *api = device_api();
  table *t = table_create(columns, (int)(sizeof columns / sizeof *columns));
  line(t, "tidemill", "ok", "%s", TML_VERSION);
  see_driver(t, api);
  see_libraries(t, api);
  code = see_knobs(t);
  if (o.bank && *o.bank && see_bank(t, o.bank)) code = CLI_FAILED;
  table_print(t, output_beside(o.json));
  if (o.json && table_write_json(t, o.json, NULL, NULL)) code = CLI_FAILED;
  table_free(t);
  return code;
}
