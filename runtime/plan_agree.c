/* The collective half of plan creation. The number of group operations depends on agreed data
 * alone: rounds of the list in chunks and one exchange of ballots. Whatever a rank meets goes into
 * its ballot. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lt.h"
#include "plan_parts.h"
#include "status.h"

/* Another compiler than the space was proven with may refuse a kernel, hardly ever three. */
#define MOST_ROUNDS 3

/* What a rank says of the list. */
typedef struct ballot {
  int32_t status;                /* not OK: no plan on any rank */
  int32_t load_status;           /* of the first bucket that failed */
  uint64_t failed;               /* one bit per bucket */
  int32_t clusters[TML_BUCKETS]; /* that this rank's device holds at once; 0: no kernel */
  char problem[96];
  char text[256]; /* of either status */
} ballot;

_Static_assert(sizeof(ballot) <= TML_GROUP_BYTES, "a ballot is one group operation");
_Static_assert(TML_BUCKETS <= 64, "one bit per bucket");

/* ---- Loading ---- */

static tml_status load_kernel(tml_ctx *ctx, const char *name, const tml_kernel **out)
{
  tml_kernel *kernel = NULL;
  TRY(tml_ctx_kernel(ctx, name, TML_FROM_BANK | TML_FROM_JIT, &kernel));
  *out = kernel;
  return TML_OK;
}

static tml_status load_library(const tml_plan *plan, const tml_variant *variant)
{
  const tml_api *api = plan->api;
  if (variant->pattern == TML_PATTERN_LT)
    return api->has_lt ? TML_OK : tml_fail(TML_MISS, "cuBLASLt was not found: %s", api->why_lt);
  return api->has_nccl ? TML_OK : tml_fail(TML_MISS, "NCCL was not found: %s", api->why_nccl);
}

static tml_status load_choice(const tml_plan *plan, const char *name, tml_choice *choice)
{
  tml_ctx *ctx = plan->comm->ctx;
  tml_variant *variant = &choice->variant;
  pthread_mutex_lock(&ctx->lock);
  tml_status status = tml_gen_variant(ctx->gen, name, variant);
  pthread_mutex_unlock(&ctx->lock);
  TRY(status);
  if (variant->kind == TML_KIND_LIBRARY) return load_library(plan, variant);
  TRY(load_kernel(ctx, name, &choice->kernel));
  for (int i = 0; i < variant->requires_count; i++)
    TRY(load_kernel(ctx, variant->requires[i], &choice -> helper));
  if ((variant->pattern == TML_PATTERN_CE || variant->pattern == TML_PATTERN_SM) && !choice->helper)
    return tml_fail(TML_TEMPLATE, "%s: a variant of this pattern must require its auxiliary kernel",
                    name);
  return TML_OK;
}

static tml_choice *find_choice(const tml_plan *plan, const char *name)
{
  tml_choice *choice = plan->choices;
  while (choice && strcmp(choice->variant.name, name) != 0) choice = choice->next;
  return choice;
}

/* Each name is tried once; a failure is remembered in the choice. NULL: no memory. */
static tml_choice *choice_of(tml_plan *plan, const char *name)
{
  tml_choice *choice = find_choice(plan, name);
  if (choice) return choice;
  choice = calloc(1, sizeof *choice);
  if (!choice) return NULL;
  choice->status = load_choice(plan, name, choice);
  if (choice->status != TML_OK)
    snprintf(choice->reason, sizeof choice->reason, "%s", tml_last_error());
  if (choice->status == TML_OK && choice->kernel)
    choice->max_clusters = choice->kernel->max_clusters;
  snprintf(choice->variant.name, sizeof choice->variant.name, "%s", name);
  choice->next = plan->choices;
  plan->choices = choice;
  return choice;
}

static tml_status load_entry(tml_plan *plan, tml_entry *entry, const char *name)
{
  const tml_problem *p = &plan->problem;
  const tml_choice *choice = choice_of(plan, name);
  if (!choice) return tml_fail(TML_MEMORY, "no memory for a plan");
  if (choice->status != TML_OK) return tml_fail(choice->status, "%s", choice->reason);
  if (choice->variant.pattern == TML_PATTERN_LT)
    TRY(tml_lt_prepare(plan->comm, p->dtype, tml_entry_m(plan, entry), p->n, p->k));
  entry->choice = choice;
  return TML_OK;
}

/* Loads the whole list. What must not end in a quiet fallback is a failure of the plan. */
static void load_list(tml_plan *plan, const tml_list *list, ballot *mine)
{
  for (int i = 0; i < plan->count; i++) {
    tml_status status = load_entry(plan, &plan->entries[i], list->entry[i].name);
    plan->entries[i].chosen = (tml_chosen)list->entry[i].chosen;
    if (status == TML_OK) {
      mine->clusters[i] = plan->entries[i].choice->max_clusters;
      continue;
    }
    int fatal = status == TML_SEALED || status == TML_MEMORY;
    mine->failed |= (uint64_t)1 << i;
    if (fatal || mine->load_status == TML_OK)
      snprintf(mine->text, sizeof mine->text, "%s", tml_last_error());
    if (mine->load_status == TML_OK) mine->load_status = (int32_t)status;
    if (fatal) {
      mine->status = (int32_t)status;
      return;
    }
  }
}

/* ---- Agreeing ---- */

static tml_status broadcast_list(tml_plan *plan, tml_list *list)
{
  unsigned char *at = (unsigned char *)list;
  for (size_t done = 0; done < sizeof *list; done += TML_GROUP_BYTES) {
    size_t left = sizeof *list - done;
    TRY(tml_group_broadcast(plan->comm->group, at + done,
                            left < TML_GROUP_BYTES ? left : TML_GROUP_BYTES, 0));
  }
  return TML_OK;
}

/* Another rank's text may be of another version: never trust its end. */
static void close_texts(ballot *all, int world)
{
  for (int r = 0; r < world; r++) {
    all[r].problem[sizeof all[r].problem - 1] = '\0';
    all[r].text[sizeof all[r].text - 1] = '\0';
  }
}

static tml_status report(const tml_plan *plan, int r, int status, const char *text)
{
  if (r == plan->comm->rank || plan->comm->world == 1)
    return tml_fail((tml_status)status, "%s", text);
  return tml_fail((tml_status)status, "rank %d: %s", r, text);
}

/* The same verdict on every rank. */
static tml_status judge(const tml_plan *plan, const tml_list *list, const ballot *all)
{
  int world = plan->comm->world;
  for (int r = 0; r < world; r++)
    if (all[r].status != TML_OK && all[r].problem[0] == '\0')
      return report(plan, r, all[r].status, all[r].text);
  for (int r = 1; r < world; r++)
    if (strcmp(all[r].problem, all[0].problem) != 0)
      return tml_fail(TML_DISAGREE,
                      "rank 0 plans %s, rank %d plans %s; plan the same problem on every rank",
                      all[0].problem, r, all[r].problem);
  if (list->status != TML_OK) return report(plan, 0, list->status, list->text);
  for (int r = 0; r < world; r++)
    if (all[r].status != TML_OK) return report(plan, r, all[r].status, all[r].text);
  return TML_OK;
}

static tml_status load_fallback(tml_plan *plan, const char *name, uint64_t failed)
{
  for (int i = 0; i < plan->count; i++) {
    if (!(failed >> i & 1)) continue;
    TRY(load_entry(plan, &plan->entries[i], name));
    plan->entries[i].chosen = TML_CHOSEN_FALLBACK;
  }
  return TML_OK;
}

/* The buckets that failed anywhere; *first: the first such rank. */
static uint64_t failed_buckets(const tml_plan *plan, const ballot *all, int *first)
{
  uint64_t failed = 0;
  *first = -1;
  for (int r = 0; r < plan->comm->world; r++) {
    failed |= all[r].failed;
    if (*first < 0 && all[r].failed) *first = r;
  }
  return failed;
}

/* What failed anywhere becomes the fallback everywhere. */
static tml_status take_fallback(tml_plan *plan, const tml_list *list, const ballot *all)
{
  int forced = list->entry[0].chosen == TML_CHOSEN_FORCED, first;
  uint64_t failed = failed_buckets(plan, all, &first);
  if (!failed) return TML_OK;
  if (forced || !list->fallback[0])
    return report(plan, first, all[first].load_status, all[first].text);
  tml_log(plan->comm->ctx, TML_LOG_WARN, "%s: %d of %d sizes use %s: rank %d: %s", all[0].problem,
          __builtin_popcountll(failed), plan->count, list->fallback, first, all[first].text);
  return tml_group_vote(plan->comm->group, load_fallback(plan, list->fallback, failed),
                        "loading the fallback");
}

/* 1 if something failed that says nothing of other variants: the next best deserves a round. */
static int try_next_best(tml_plan *plan, const tml_list *list, const ballot *all)
{
  int first;
  uint64_t failed = failed_buckets(plan, all, &first);
  if (!failed || list->entry[0].chosen == TML_CHOSEN_FORCED) return 0;
  for (int r = 0; r < plan->comm->world; r++)
    if (all[r].failed && all[r].load_status != TML_COMPILE && all[r].load_status != TML_UNSUPPORTED)
      return 0;
  for (int i = 0; i < plan->count; i++) {
    if (!(failed >> i & 1)) continue;
    tml_choice *choice = find_choice(plan, list->entry[i].name);
    if (!choice || choice->status != TML_OK) continue;
    choice->status = TML_COMPILE;
    snprintf(choice->reason, sizeof choice->reason, "rank %d: %.200s", first, all[first].text);
  }
  tml_log(plan->comm->ctx, TML_LOG_WARN, "%s: %d of %d sizes take the next best: rank %d: %s",
          all[0].problem, __builtin_popcountll(failed), plan->count, first, all[first].text);
  return 1;
}

/* The same grid on every rank, whatever each device has room for. */
static void agree_clusters(tml_plan *plan, const ballot *all)
{
  for (int i = 0; i < plan->count; i++) {
    tml_choice *choice = find_choice(plan, plan->entries[i].choice->variant.name);
    for (int r = 0; choice && r < plan->comm->world; r++)
      if (all[r].clusters[i] > 0 && all[r].clusters[i] < choice->max_clusters)
        choice->max_clusters = all[r].clusters[i];
  }
}

static void count_fallbacks(const tml_plan *plan)
{
  uint64_t count = 0;
  for (int i = 0; i < plan->count; i++) count += plan->entries[i].chosen == TML_CHOSEN_FALLBACK;
  atomic_fetch_add(&plan->comm->ctx->counters.fallbacks, count);
}

/* Fills this rank's ballot; loads only what is meant for this problem. */
static void vote(tml_plan *plan, const tml_list *list, tml_status door, const char *door_text,
                 ballot *mine)
{
  mine->status = (int32_t)door;
  snprintf(mine->text, sizeof mine->text, "%s", door_text);
  if (door != TML_OK) return;
  tml_problem_print(&plan->problem, mine->problem, sizeof mine->problem);
  if (list->status == TML_OK && list->count == plan->count &&
      strcmp(list->problem, mine->problem) == 0)
    load_list(plan, list, mine);
}

/* One round: rank 0's list, everyone's ballot, the verdict. */
static tml_status agree_once(tml_plan *plan, const char *force, tml_status door,
                             const char *door_text, tml_list *list, ballot *all)
{
  ballot mine = {0};
  memset(list, 0, sizeof *list);
  if (plan->comm->rank == 0 && door == TML_OK) {
    list->count = plan->count;
    tml_problem_print(&plan->problem, list->problem, sizeof list->problem);
    tml_plan_resolve(plan, force, list);
  }
  TRY(broadcast_list(plan, list));
  vote(plan, list, door, door_text, &mine);
  TRY(tml_group_all_gather(plan->comm->group, &mine, all, sizeof mine));
  close_texts(all, plan->comm->world);
  return judge(plan, list, all);
}

tml_status tml_plan_agree(tml_plan *plan, const char *force, tml_status door)
{
  ballot all[TML_MAX_WORLD];
  tml_list list;
  char door_text[sizeof all->text] = "";
  if (door != TML_OK) snprintf(door_text, sizeof door_text, "%s", tml_last_error());
  for (int round = 1; round <= MOST_ROUNDS; round++) {
    TRY(agree_once(plan, force, door, door_text, &list, all));
    if (round == MOST_ROUNDS || !try_next_best(plan, &list, all)) break;
  }
  TRY(take_fallback(plan, &list, all));
  agree_clusters(plan, all);
  count_fallbacks(plan);
  return TML_OK;
}
