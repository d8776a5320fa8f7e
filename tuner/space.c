#include "space.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/problem.h"
#include "../runtime/status.h"

static int keep(void *user, const tml_variant *variant, const char *reason)
{
  space *s = user;
  if (s->count == s->capacity) {
    size_t capacity = s->capacity ? 2 * s->capacity : 256;
    space_point *at = realloc(s->at, capacity * sizeof *at);
    if (!at) return 1;
    s->at = at;
    s->capacity = capacity;
  }
  space_point *p = &s->at[s->count++];
  p->variant = *variant;
  snprintf(p->reason, sizeof p->reason, "%s", reason ? reason : "");
  return 0;
}

tml_status space_collect(tml_gen *gen, const tml_filter *filter, space *out)
{
  *out = (space){0};
  tml_status status = tml_gen_each(gen, filter, keep, out);
  if (status != TML_OK) space_free(out);
  return status;
}

tml_status space_of_problem(tml_gen *gen, const tml_problem *problem, const char *arch,
                            const char *glob, int refused, space *out)
{
  tml_filter filter = {.op = tml_op_text(problem->op), .dtype = tml_dtype_text(problem->dtype)};
  size_t kept = 0;
  filter.arch = arch;
  filter.glob = glob;
  filter.world = problem->world;
  filter.refused = refused;
  TRY(space_collect(gen, &filter, out));
  for (size_t i = 0; i < out->count; i++) {
    space_point *p = &out->at[i];
    if (!*p->reason &&
        tml_gen_serves(gen, p->variant.name, problem, p->reason, sizeof p->reason) != TML_OK) {
      if (!*p->reason) snprintf(p->reason, sizeof p->reason, "%.150s", tml_last_error());
      tml_clear_error();
      if (!refused) continue;
    }
    out->at[kept++] = *p;
  }
  out->count = kept;
  return TML_OK;
}

void space_free(space *s)
{
  free(s->at);
  *s = (space){0};
}

static int widest(void *user, const tml_variant *variant, const char *reason)
{
  int *width = user, length = (int)strlen(variant->name);
  (void)reason;
  if (length > *width) *width = length;
  return 0;
}

static int same_group(const tml_problem *a, const tml_problem *b)
{
  return a->op == b->op && a->dtype == b->dtype && a->world == b->world;
}

int space_name_width(tml_gen *gen, const char *arch, const tml_problem *list, size_t count,
                     const char *glob)
{
  int width = 0;
  for (size_t i = 0; i < count; i++) {
    const tml_problem *p = &list[i];
    size_t first = 0;
    while (!same_group(&list[first], p)) first++;
    if (first < i) continue;
    tml_filter filter = {.op = tml_op_text(p->op), .dtype = tml_dtype_text(p->dtype)};
    filter.arch = arch;
    filter.glob = glob;
    filter.world = p->world;
    if (tml_gen_each(gen, &filter, widest, &width) != TML_OK)
      tml_clear_error(); /* told by others */
  }
  return width;
}
