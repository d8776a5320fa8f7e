/* Which variant serves which bucket: rank 0's decision, from names alone. Order: the forced
 * variant; the pick of the nearest larger bucket; the model's best in the bank; the model's best by
 * the compiler; the library. What other plans have loaded counts only where nothing can be compiled,
 * so that a plan's variants, and with them its bits, do not depend on the plans before it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plan_parts.h"
#include "status.h"

/* What is known of a variant, asked once per plan: looking into the bank is not free. */
typedef struct candidate {
  char name[TML_NAME_BYTES];
  int generated; /* a kernel of this device's arch, not a library */
  tml_standing standing;
  const char *failed; /* why it failed on some rank in an earlier round of this plan, or NULL */
} candidate;

typedef struct resolver {
  const tml_plan *plan;
  tml_ctx *ctx;
  tml_list *list;
  int can_compile, can_library;
  tml_standing ready; /* the least standing that is taken without compiling */
  size_t pick_count, ranked_count, known_count;
  tml_pick picks[TML_BUCKETS];
  tml_ranked ranked[TML_RANKED_MAX];
  candidate known[TML_RANKED_MAX];
} resolver;

/* ---- What may be used ---- */

static const candidate *look_up(resolver *r, const char *name)
{
  tml_variant variant;
  for (size_t i = 0; i < r->known_count; i++)
    if (strcmp(r->known[i].name, name) == 0) return &r->known[i];
  if (r->known_count == TML_RANKED_MAX) return NULL;
  pthread_mutex_lock(&r->ctx->lock);
  tml_status status = tml_gen_variant(r->ctx->gen, name, &variant);
  pthread_mutex_unlock(&r->ctx->lock);
  if (status != TML_OK) return NULL;
  candidate *entry = &r->known[r->known_count++];
  snprintf(entry->name, sizeof entry->name, "%s", name);
  entry->generated = variant.kind == TML_KIND_FUSED && strcmp(variant.arch, r->ctx->arch) == 0;
  if (entry->generated) entry->standing = tml_ctx_standing(r->ctx, name);
  for (const tml_choice *choice = r->plan->choices; choice; choice = choice->next)
    if (choice->status != TML_OK && strcmp(choice->variant.name, name) == 0)
      entry->failed = choice->reason;
  return entry;
}

static int library_there(const tml_plan *plan)
{
  const tml_api *api = plan->api;
  return plan->problem.op == TML_GEMM ? api->has_lt : api->has_nccl;
}

static tml_status serves(const resolver *r, const char *name, const tml_problem *problem)
{
  pthread_mutex_lock(&r->ctx->lock);
  tml_status status = tml_gen_serves(r->ctx->gen, name, problem, NULL, 0);
  pthread_mutex_unlock(&r->ctx->lock);
  return status;
}

/* ---- Sources ---- */

static void set_entry(tml_list *list, int i, const char *name, tml_chosen chosen)
{
  list->entry[i].chosen = chosen;
  snprintf(list->entry[i].name, sizeof list->entry[i].name, "%s", name);
}

/* The reason why a pick is not taken, or NULL. After sealing a kernel that is not loaded is named
 * nevertheless: the plan then fails with SEALED instead of taking something slower in silence. */
static const char *pick_refusal(resolver *r, const tml_pick *pick, const tml_problem *problem)
{
  if (serves(r, pick->variant, problem) != TML_OK) return tml_last_error();
  const candidate *known = look_up(r, pick->variant);
  if (!known) return "it cannot be looked up";
  if (!known->generated)
    return r->can_library ? NULL : "libraries are ruled out (strict) or missing";
  if (known->failed) return known->failed;
  if (known->standing == TML_STANDS_REFUSED) return "the compiler refused it";
  if (known->standing >= r->ready || r->can_compile || atomic_load(&r->ctx->sealed)) return NULL;
  return "its code is not in the bank, and compiling is switched off or NVRTC is missing";
}

static int take_pick(resolver *r, int i, const tml_problem *problem)
{
  for (size_t p = 0; p < r->pick_count; p++) {
    const tml_pick *pick = &r->picks[p];
    if (pick->bucket < r->plan->entries[i].bucket) continue;
    const char *refusal = pick_refusal(r, pick, problem);
    if (refusal) {
      tml_log(r->ctx, TML_LOG_WARN, "pick %s for m <= %lld is not used: %s", pick->variant,
              (long long)pick->bucket, refusal);
      return 0;
    }
    set_entry(r->list, i, pick->variant, TML_CHOSEN_PICK);
    return 1;
  }
  return 0;
}

/* The cheapest by the model of at least this standing. */
static int take_ranked(resolver *r, int i, tml_standing least)
{
  for (size_t c = 0; c < r->ranked_count; c++) {
    const candidate *known = look_up(r, r->ranked[c].name);
    if (!known || !known->generated || known->failed || known->standing == TML_STANDS_REFUSED ||
        known->standing < least)
      continue;
    set_entry(r->list, i, known->name, TML_CHOSEN_MODEL);
    return 1;
  }
  return 0;
}

static tml_status rank(resolver *r, const tml_problem *problem)
{
  size_t count = 0;
  pthread_mutex_lock(&r->ctx->lock);
  tml_status status = tml_gen_rank(r->ctx->gen, r->ctx->arch, problem, &r->ctx->machine, r->ranked,
                                   TML_RANKED_MAX, &count);
  pthread_mutex_unlock(&r->ctx->lock);
  r->ranked_count = status == TML_OK ? (count < TML_RANKED_MAX ? count : TML_RANKED_MAX) : 0;
  return status;
}

static tml_status nothing_serves(const resolver *r, int64_t bucket)
{
  for (const tml_choice *choice = r->plan->choices; choice; choice = choice->next)
    if (choice->status != TML_OK)
      return tml_fail(choice->status, "no kernel for m <= %lld is left after %s", (long long)bucket,
                      choice->reason);
  return tml_fail(TML_MISS, "no kernel for m <= %lld is in the bank, and %s; build or tune a bank",
                  (long long)bucket,
                  r->ctx->config.no_jit ? "compiling is switched off"
                  : r->can_compile      ? "the compiler refused all that serve it"
                                        : "NVRTC was not found");
}

static tml_status resolve_bucket(resolver *r, int i)
{
  tml_problem problem = r->plan->problem;
  problem.m = tml_entry_m(r->plan, &r->plan->entries[i]);
  if (take_pick(r, i, &problem)) return TML_OK;
  tml_status status = rank(r, &problem);
  if (status != TML_OK && status != TML_UNSUPPORTED) return status;
  int something_ready = r->ready == TML_STANDS_LOADED || r->ctx->bank;
  if (something_ready && take_ranked(r, i, r->ready)) return TML_OK;
  if (r->can_compile && take_ranked(r, i, TML_STANDS_NOWHERE)) return TML_OK;
  if (r->list->fallback[0]) {
    set_entry(r->list, i, r->list->fallback, TML_CHOSEN_FALLBACK);
    return TML_OK;
  }
  return status != TML_OK ? status : nothing_serves(r, r->plan->entries[i].bucket);
}

/* ---- All buckets ---- */

static int keep_library(void *user, const tml_variant *variant, const char *reason)
{
  tml_list *list = user;
  if (reason || variant->kind != TML_KIND_LIBRARY) return 0;
  snprintf(list->fallback, sizeof list->fallback, "%s", variant->name);
  return 1;
}

static tml_status find_fallback(resolver *r)
{
  static const char *const ops[] = {
#define TML_X(id, n, text) [TML_##id] = text,
      TML_OP_MAP(TML_X)};
  static const char *const dtypes[] = {TML_DTYPE_MAP(TML_X)};
#undef TML_X
  const tml_problem *p = &r->plan->problem;
  const tml_filter filter = {
      .op = ops[p->op], .arch = r->ctx->arch, .dtype = dtypes[p->dtype], .world = p->world};
  if (!r->can_library) return TML_OK;
  pthread_mutex_lock(&r->ctx->lock);
  tml_status status = tml_gen_each(r->ctx->gen, &filter, keep_library, r->list);
  pthread_mutex_unlock(&r->ctx->lock);
  return status;
}

static tml_status find_picks(resolver *r)
{
  char key[TML_NAME_BYTES];
  int other_driver = 0;
  if (!r->ctx->bank) return TML_OK;
  tml_pick_key(&r->plan->problem, key, sizeof key);
  pthread_mutex_lock(&r->ctx->lock);
  tml_status status = tml_bank_picks(r->ctx->bank, key, &r->ctx->machine, r->picks, TML_BUCKETS,
                                     &r->pick_count, &other_driver);
  pthread_mutex_unlock(&r->ctx->lock);
  if (status != TML_OK) { /* a damaged bank is a miss with a reason */
    r->pick_count = 0;
    tml_log(r->ctx, TML_LOG_WARN, "picks of %s are not used: %s", key, tml_last_error());
  }
  if (r->pick_count > TML_BUCKETS) r->pick_count = TML_BUCKETS;
  if (r->pick_count > 0 && other_driver)
    tml_log(r->ctx, TML_LOG_WARN,
            "picks of %s were measured with another driver; tune again when convenient", key);
  return TML_OK;
}

static tml_status resolve_forced(resolver *r, const char *force)
{
  tml_variant variant;
  pthread_mutex_lock(&r->ctx->lock);
  tml_status status = tml_gen_variant(r->ctx->gen, force, &variant);
  pthread_mutex_unlock(&r->ctx->lock);
  if (status != TML_OK) return tml_wrap(status, "the forced variant");
  TRY(serves(r, force, &r->plan->problem));
  for (int i = 0; i < r->list->count; i++) set_entry(r->list, i, force, TML_CHOSEN_FORCED);
  return TML_OK;
}

static void log_fallbacks(const resolver *r)
{
  int count = 0;
  for (int i = 0; i < r->list->count; i++) count += r->list->entry[i].chosen == TML_CHOSEN_FALLBACK;
  if (count == 0) return;
  tml_log(r->ctx, TML_LOG_WARN, "%s: %d of %d sizes use %s: no kernel is in the bank, and %s",
          r->list->problem, count, r->list->count, r->list->fallback,
          r->ctx->config.no_jit ? "compiling is switched off"
                                : "NVRTC is missing or has nothing to compile");
}

static tml_status resolve(resolver *r, const char *force)
{
  if (force) return resolve_forced(r, force);
  TRY(find_fallback(r));
  TRY(find_picks(r));
  for (int i = 0; i < r->list->count; i++) TRY(resolve_bucket(r, i));
  log_fallbacks(r);
  return TML_OK;
}

void tml_plan_resolve(const tml_plan *plan, const char *force, tml_list *list)
{
  tml_ctx *ctx = plan->comm->ctx;
  resolver *r = calloc(1, sizeof *r);
  tml_status status = r ? TML_OK : tml_fail(TML_MEMORY, "no memory to resolve a plan");
  if (r) {
    r->plan = plan;
    r->ctx = ctx;
    r->list = list;
    r->can_compile = !ctx->config.no_jit && ctx->api->has_nvrtc;
    r->ready = r->can_compile && !atomic_load(&ctx->sealed) ? TML_STANDS_BANKED : TML_STANDS_LOADED;
    r->can_library = !ctx->config.strict && library_there(plan);
    status = resolve(r, force);
  }
  free(r);
  list->status = (int32_t)status;
  if (status != TML_OK) snprintf(list->text, sizeof list->text, "%s", tml_last_error());
}
