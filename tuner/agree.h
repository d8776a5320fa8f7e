/* Agreement: rank 0's candidates are everyone's. */
#ifndef TML_AGREE_H
#define TML_AGREE_H

#include "rig.h"

#define AGREE_MAX 28 /* candidates of one problem: they travel in one group operation */

typedef struct candidates {
  int32_t count, skip; /* skip: rank 0 says that there is nothing to do */
  char names[AGREE_MAX][TML_NAME_BYTES];
} candidates;

/* Local and pure: the model's best `top` and every library variant that serves the problem, without
 * `banned` (NULL or a name). */
tml_status agree_choose(tml_gen *gen, const char *arch, const tml_problem *problem,
                        const tml_machine *machine, int top, candidates *out);
void agree_ban(candidates *list, const char *name);
/* Collective: rank 0's list, and rank 0's status, go to all. */
tml_status agree_share(rig *r, tml_status mine, candidates *list);

#endif
