/* Points of the declared space, collected, so that the generator can be asked about each of
 * them. */
#ifndef TML_SPACE_H
#define TML_SPACE_H

#include "../runtime/gen.h"

typedef struct space_point {
  tml_variant variant;
  char reason[160]; /* "" if legal, and if it serves the problem where one was given */
} space_point;

typedef struct space {
  space_point *at;
  size_t count, capacity;
} space;

tml_status space_collect(tml_gen *gen, const tml_filter *filter, space *out);
/* The points of a problem's op, dtype and world, with the reason of each that cannot serve it; only
 * those that can unless `refused`. arch and glob may be NULL. */
tml_status space_of_problem(tml_gen *gen, const tml_problem *problem, const char *arch,
                            const char *glob, int refused, space *out);
void space_free(space *s);
/* Of the longest name that can serve one of these problems: how wide a column must be before its rows are
 * known. glob may be NULL. */
int space_name_width(tml_gen *gen, const char *arch, const tml_problem *list, size_t count,
                     const char *glob);

#endif
