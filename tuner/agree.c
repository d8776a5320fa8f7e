#include "agree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/status.h"

#define CHUNK ((int)(TML_GROUP_BYTES / sizeof(candidate))) /* that travel in one group operation */

static tml_status split(tml_gen *gen, const tml_ranked *ranked, size_t count, int top,
                        tml_ctx *loadable, candidates *out)
{
  int64_t position = 0, taken = 0;
  for (size_t i = 0; i < count && out->count < AGREE_MAX; i++) {
    tml_variant v;
    TRY(tml_gen_variant(gen, ranked[i].name, &v));
    int generated = v.kind == TML_KIND_FUSED;
    position += generated;
    if (v.kind == TML_KIND_AUX || (generated && taken >= top)) continue;
    if (generated && loadable && !tml_ctx_loadable(loadable, v.name)) continue;
    taken += generated;
    candidate *c = &out->at[out->count++];
    memcpy(c->name, v.name, TML_NAME_BYTES);
    c->model_us = ranked[i].us;
    c->position = generated ? position : 0;
  }
  tml_clear_error(); /* of what could not be loaded */
  return TML_OK;
}

tml_status agree_choose(tml_gen *gen, const char *arch, const tml_problem *problem,
                        const tml_machine *machine, int top, tml_ctx *loadable, candidates *out)
{
  size_t count = 0;
  tml_ranked *ranked = malloc(TML_RANKED_MAX * sizeof *ranked);
  memset(out, 0, sizeof *out);
  if (!ranked) return tml_fail(TML_MEMORY, "out of memory");
  tml_status status = tml_gen_rank(gen, arch, problem, machine, ranked, TML_RANKED_MAX, &count);
  if (count > TML_RANKED_MAX) count = TML_RANKED_MAX;
  if (status == TML_OK) status = split(gen, ranked, count, top, loadable, out);
  free(ranked);
  return status;
}

void agree_ban(candidates *list, const char *name)
{
  int kept = 0;
  for (int i = 0; i < list->count; i++)
    if (strcmp(list->at[i].name, name) != 0) list->at[kept++] = list->at[i];
  list->count = kept;
}

tml_status agree_share(rig *r, tml_status mine, candidates *list)
{
  tml_group *group = r->comm->group;
  int32_t head[2] = {list->count, list->skip};
  TRY(tml_group_vote(group, r->rank == 0 ? mine : TML_OK, "choosing candidates"));
  TRY(tml_group_broadcast(group, head, sizeof head, 0));
  list->count = head[0];
  list->skip = head[1];
  for (int at = 0; at < list->count; at += CHUNK) {
    int some = list->count - at < CHUNK ? list->count - at : CHUNK;
    TRY(tml_group_broadcast(group, &list->at[at], (size_t)some * sizeof(candidate), 0));
  }
  return TML_OK;
}
