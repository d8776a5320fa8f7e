/* The config's fields: given, else from the environment, else the default. */
#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "knobs.h"
#include "status.h"

#define DEFAULT_TIMEOUT_US 1e7
#define LEAST_TIMEOUT_US 1e5
#define MOST_TIMEOUT_US 6e8

/* An empty variable counts as unset. */
static const char *variable(const char *name)
{
  const char *value = getenv(name);
  return value && *value ? value : NULL;
}

static tml_status fill_text(const char **field, const char *name)
{
  const char *value = *field && **field ? *field : variable(name);
  *field = value ? strdup(value) : NULL;
  return value && !*field ? tml_fail(TML_MEMORY, "out of memory for the config") : TML_OK;
}

static tml_status fill_flag(int *field, const char *name)
{
  const char *value = variable(name);
  if (*field || !value) return TML_OK;
  if (strcmp(value, "0") != 0 && strcmp(value, "1") != 0) {
    return tml_fail(TML_ARGUMENT, "%s must be 0 or 1, not '%s'", name, value);
  }
  *field = value[0] == '1';
  return TML_OK;
}

static tml_status fill_real(double *field, const char *name)
{
  const char *value = variable(name);
  char *end = NULL;
  if (*field != 0 || !value) return TML_OK;
  *field = strtod(value, &end);
  if (*end || !isfinite(*field))
    return tml_fail(TML_ARGUMENT, "%s must be a number, not '%s'", name, value);
  return TML_OK;
}

static tml_status check_timeout(double us)
{
  if (isfinite(us) && us >= 0) return TML_OK;
  return tml_fail(TML_ARGUMENT,
                  "timeout_us (TIDEMILL_TIMEOUT_US) must be a positive number, not %g", us);
}

tml_status config_judge(const char *name)
{
  int flag = 0;
  double real = 0;
#define TEXT(field, knob, shown, help)
#define FLAG(field, knob, shown, help) \
  if (strcmp(name, knob) == 0) return fill_flag(&flag, knob);
#define REAL(field, knob, shown, help) \
  if (strcmp(name, knob) == 0) TRY(fill_real(&real, knob));
  TML_KNOB_MAP(TEXT, FLAG, REAL)
#undef TEXT
#undef FLAG
#undef REAL
  return check_timeout(real);
}

/* Each owned string must be ours or NULL before anything can fail: config_free frees them all. */
static tml_status fill_texts(tml_config *out)
{
  tml_status status = TML_OK;
#define TEXT(field, name, shown, help)     \
  if (status == TML_OK)                    \
    status = fill_text(&out->field, name); \
  else                                     \
    out->field = NULL;
#define OTHER(field, name, shown, help)
  TML_KNOB_MAP(TEXT, OTHER, OTHER)
#undef TEXT
#undef OTHER
  return status;
}

tml_status config_fill(tml_config *out, const tml_config *given)
{
  memset(out, 0, sizeof *out);
  if (given) {
    if (given->size < offsetof(tml_config, bank)) {
      return tml_fail(TML_ARGUMENT, "config.size is %zu: set it to sizeof(tml_config)",
                      given->size);
    }
    memcpy(out, given, given->size < sizeof *out ? given->size : sizeof *out);
  }
  out->size = sizeof *out;
  TRY(fill_texts(out));
#define TEXT(field, name, shown, help)
#define FLAG(field, name, shown, help) TRY(fill_flag(&out->field, name));
#define REAL(field, name, shown, help) TRY(fill_real(&out->field, name));
  TML_KNOB_MAP(TEXT, FLAG, REAL)
#undef TEXT
#undef FLAG
#undef REAL
  TRY(check_timeout(out->timeout_us));
  if (out->timeout_us == 0) out->timeout_us = DEFAULT_TIMEOUT_US;
  out->timeout_us = fmin(fmax(out->timeout_us, LEAST_TIMEOUT_US), MOST_TIMEOUT_US);
  return TML_OK;
}

void config_free(tml_config *config)
{
#define TEXT(field, name, shown, help) \
  free((void *)config->field);         \
  config->field = NULL;
#define OTHER(field, name, shown, help)
  TML_KNOB_MAP(TEXT, OTHER, OTHER)
#undef TEXT
#undef OTHER
}
