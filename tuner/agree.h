/* Agreement: rank 0's candidates are everyone's. */
#ifndef TML_AGREE_H
#define TML_AGREE_H

#include "rig.h"

#define AGREE_MAX 2048 /* candidates of one problem */

typedef struct candidate {
  char name[TML_NAME_BYTES];
  double model_us;
  int64_t position; /* by the model, among the generated: 1, 2, ...; 0: a library */
} candidate;

typedef struct candidates {
  int32_t count, skip; /* skip: rank 0 says that there is nothing to do */
  candidate at[AGREE_MAX];
} candidates;

/* Local: the model's best `top` and every library variant that serves the problem, cheapest first.
 * loadable: NULL, or a context: what it would have to compile does not count. */
tml_status agree_choose(tml_gen *gen, const char *arch, const tml_problem *problem,
                        const tml_machine *machine, int top, tml_ctx *loadable, candidates *out);
void agree_ban(candidates *list, const char *name);
/* Collective: rank 0's list, and rank 0's status, go to all. */
tml_status agree_share(rig *r, tml_status mine, candidates *list);

#endif
