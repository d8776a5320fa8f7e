/* A config as the ctx keeps it: defaults and environment filled in, strings owned. */
#ifndef TML_CONFIG_H
#define TML_CONFIG_H

#include "tidemill.h"

/* ARGUMENT names the field or variable that is wrong; MEMORY. */
tml_status config_fill(tml_config *out, const tml_config *given);
/* Can this variable's value be read, where the config leaves it to the environment? ARGUMENT if not. Texts
 * are judged by who uses them. */
tml_status config_judge(const char *name);
void config_free(tml_config *config);

#endif
