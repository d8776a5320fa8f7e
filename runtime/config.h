/* A config as the ctx keeps it: defaults and environment filled in, strings owned. */
#ifndef TML_CONFIG_H
#define TML_CONFIG_H

#include "tidemill.h"

/* ARGUMENT names the field or variable that is wrong; MEMORY. */
tml_status config_fill(tml_config *out, const tml_config *given);
void config_free(tml_config *config);

#endif
