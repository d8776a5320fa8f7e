/* Pairwise cover: few variants that hold every value, and every pair of values, of the axes. */
#ifndef TML_COVER_H
#define TML_COVER_H

#include "gen.h"

typedef struct cover_variant {
  char name[TML_NAME_BYTES];
  char arch[16];
  int chosen;
} cover_variant;

typedef struct cover_set {
  cover_variant *at;
  int count, room;
  int chosen;
  long pairs; /* distinct ones among all variants */
} cover_set;

/* Adds a legal variant. */
void cover_add(cover_set *cover, const tml_variant *variant);
/* Marks variants, greedily, until every pair that any variant has is held by a marked one. */
void cover_choose(cover_set *cover);
void cover_choose_all(cover_set *cover);
void cover_free(cover_set *cover);

#endif
