/* Coverage of the space by a suite: the parts of variants' names (tiles, clusters, stages, schedules, rings,
 * paces, patterns) that have run, for each op and type. */
#ifndef TML_COVER_H
#define TML_COVER_H

#include <stdio.h>

#include <cjson/cJSON.h>

#include "../runtime/gen.h"

typedef struct cover cover;

/* NULL: out of memory. */
cover *cover_create(void);
void cover_free(cover *c);
/* The generated variant to run next: of those that serve the problem one with the most parts that have not
 * run, then with those that have run least, then the first from number `turn` on. A function of the calls
 * before it: ranks that make the same calls find the same. UNSUPPORTED if none serves. */
tml_status cover_choose(cover *c, tml_gen *gen, const char *arch, const tml_problem *problem,
                        size_t turn, const char **variant);
/* The variant has run a problem with rows. */
void cover_ran(cover *c, const tml_problem *problem, const char *variant);
/* Prints the table: parts by op and type, how often each has run; *rows: the same as JSON. Gives
 * how many have not. */
int cover_report(const cover *c, FILE *to, cJSON **rows);

#endif
