#include "agree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/status.h"

_Static_assert(sizeof(candidates) <= TML_GROUP_BYTES, "one group operation carries the list");

#define MAX_RANKED 2048

static tml_status split(tml_gen *gen, const tml_ranked *ranked, size_t count, int top,
                        candidates *out)
{
  int generated = 0;
  out->count = 0;
  for (size_t i = 0; i < count && out->count < AGREE_MAX; i++) {
    tml_variant v;
    TRY(tml_gen_variant(gen, ranked[i].name, &v));
    if (v.kind == TML_KIND_AUX || (v.kind == TML_KIND_FUSED && generated >= top)) continue;
    generated += v.kind == TML_KIND_FUSED;
    memcpy(out->names[out->count++], ranked[i].name, TML_NAME_BYTES);
  }
  return TML_OK;
}

tml_status agree_choose(tml_gen *gen, const char *arch, const tml_problem *problem,
                        const tml_machine *machine, int top, candidates *out)
{
  size_t count = 0;
  tml_ranked *ranked = malloc(MAX_RANKED * sizeof *ranked);
  memset(out, 0, sizeof *out);
  if (!ranked) return tml_fail(TML_MEMORY, "out of memory");
  tml_status status = tml_gen_rank(gen, arch, problem, machine, ranked, MAX_RANKED, &count);
  if (count > MAX_RANKED) count = MAX_RANKED;
  if (status == TML_OK) status = split(gen, ranked, count, top, out);
  free(ranked);
  return status;
}

void agree_ban(candidates *list, const char *name)
{
  int kept = 0;
  for (int i = 0; i < list->count; i++)
    if (strcmp(list->names[i], name) != 0)
      memmove(list->names[kept++], list->names[i], TML_NAME_BYTES);
  list->count = kept;
}

tml_status agree_share(rig *r, tml_status mine, candidates *list)
{
  TRY(tml_group_vote(r->comm->group, r->rank == 0 ? mine : TML_OK, "choosing candidates"));
  return tml_group_broadcast(r->comm->group, list, sizeof *list, 0);
}
