/* Plans: a problem, resolved, agreed between the ranks, loaded. */
#include "plan.h"

#include <stdlib.h>
#include <string.h>

#include "lt.h"
#include "maps.h"
#include "problem.h"
#include "status.h"

/* ---- The door ---- */

static tml_status check_problem(const tml_comm *comm, const tml_problem *given, tml_problem *own)
{
  if (!given) return tml_fail(TML_ARGUMENT, "tml_plan_create: problem is NULL");
  if (given->size < sizeof *given)
    return tml_fail(TML_ARGUMENT, "tml_plan_create: set problem.size to sizeof(tml_problem)");
  *own = *given;
  own->size = sizeof *own;
  tml_status status = tml_problem_check(own);
  if (status != TML_OK) return tml_wrap(status, "tml_plan_create");
  if (own->op == TML_GEMM && own->world != 1)
    return tml_fail(TML_ARGUMENT,
                    "tml_plan_create: a gemm belongs to one rank: its world is 1, not %d",
                    own->world);
  if (own->op != TML_GEMM && own->world != comm->world)
    return tml_fail(TML_ARGUMENT, "tml_plan_create: the problem's world is %d, the comm's is %d",
                    own->world, comm->world);
  if (own->world == 1) own->op = TML_GEMM; /* nothing to gather or to reduce */
  return TML_OK;
}

static tml_status make_buckets(tml_plan *plan)
{
  for (int64_t bucket = 0; plan->count == 0 || bucket < plan->problem.m; plan->count++) {
    if (plan->count == TML_BUCKETS)
      return tml_fail(TML_INTERNAL, "more than %d buckets", TML_BUCKETS);
    bucket = tml_pick_bucket(bucket + 1);
    plan->entries[plan->count].bucket = bucket;
  }
  return TML_OK;
}

/* ---- Local work after the agreement ---- */

static int uses(const tml_plan *plan, tml_pattern pattern)
{
  for (int i = 0; i < plan->count; i++)
    if (plan->entries[i].choice->variant.pattern == pattern) return 1;
  return 0;
}

/* The bias of unfused variants comes after their sum; for ag_gemm that sum is the GEMM, which
 * adds it. */
static int needs_bias(const tml_plan *plan)
{
  int after_nccl = plan->problem.op != TML_AG_GEMM && uses(plan, TML_PATTERN_NCCL);
  return plan->problem.bias && (uses(plan, TML_PATTERN_LT) || after_nccl);
}

static tml_status load_bias(tml_plan *plan)
{
  tml_ctx *ctx = plan->comm->ctx;
  tml_variant variant;
  tml_kernel *kernel;
  pthread_mutex_lock(&ctx->lock);
  tml_status status = tml_gen_aux(ctx->gen, "bias", ctx->arch, plan->problem.dtype, 1, &variant);
  pthread_mutex_unlock(&ctx->lock);
  TRY(status);
  TRY(tml_ctx_kernel(ctx, variant.name, TML_FROM_BANK | TML_FROM_JIT, &kernel));
  plan->bias = kernel;
  return TML_OK;
}

/* Larger m never needs less, so the largest m of an entry stands for all of its sizes. */
static void count_bytes(tml_plan *plan)
{
  const tml_problem *p = &plan->problem;
  plan->bytes.size = sizeof plan->bytes;
  for (int i = 0; i < plan->count; i++) {
    const tml_variant *variant = &plan->entries[i].choice->variant;
    int64_t m = tml_entry_m(plan, &plan->entries[i]);
    tml_bytes bytes = {.size = sizeof bytes};
    if (variant->kind == TML_KIND_FUSED)
      tml_fused_bytes(variant, m, p->n, p->k, &bytes);
    else if (variant->pattern == TML_PATTERN_LT)
      bytes.local = TML_LT_WORKSPACE;
    else
      bytes.local = plan->gemm->bytes.local + tml_unfused_bytes(p, m);
    tml_bytes_max(&plan->bytes, &bytes);
  }
}

static tml_status finish(tml_plan *plan)
{
  if (uses(plan, TML_PATTERN_NCCL) && !plan->gemm)
    return tml_fail(TML_MEMORY, "no memory for the GEMM of an unfused plan");
  if (needs_bias(plan)) TRY(load_bias(plan));
  TRY(tml_calls_create(&plan->calls, plan));
  count_bytes(plan);
  return TML_OK;
}

/* ---- Create: collective; every branch with group operations depends on agreed data alone ---- */

static void clear(tml_plan *plan)
{
  if (!plan) return;
  tml_calls_free(plan->calls);
  while (plan->choices) {
    tml_choice *choice = plan->choices;
    plan->choices = choice->next;
    free(choice);
  }
  clear(plan->gemm);
  free(plan->gemm);
}

static tml_plan *keep(const tml_plan *plan)
{
  tml_plan *kept = malloc(sizeof *kept);
  if (kept) *kept = *plan;
  return kept;
}

static tml_status build(tml_plan *plan, const char *force, tml_status door);

/* One rank's part of the unfused entries, a plan of its own: the force is not meant for it. */
static tml_status build_gemm(tml_plan *plan)
{
  tml_plan gemm = {.comm = plan->comm, .api = plan->api, .problem = plan->problem};
  gemm.problem.op = TML_GEMM;
  gemm.problem.world = 1;
  gemm.problem.bias = plan->problem.bias && plan->problem.op == TML_AG_GEMM;
  tml_status status = build(&gemm, NULL, TML_OK);
  if (status == TML_OK) plan->gemm = keep(&gemm); /* finish() reports a failure */
  if (!plan->gemm) clear(&gemm);
  return status == TML_OK ? TML_OK : tml_wrap(status, "one rank's GEMM of the unfused variant");
}

static tml_status build(tml_plan *plan, const char *force, tml_status door)
{
  if (door == TML_OK) door = make_buckets(plan);
  TRY(tml_plan_agree(plan, force, door));
  if (uses(plan, TML_PATTERN_NCCL)) TRY(build_gemm(plan));
  return tml_group_vote(plan->comm->group, finish(plan), "tml_plan_create");
}

/* The user's two wishes against each other. On this rank alone it must not end before the others' group
 * operations, so the refusal travels as what the door said. */
static tml_status check_wishes(tml_ctx *ctx)
{
  tml_variant variant;
  if (!ctx->config.strict || !ctx->config.force) return TML_OK;
  pthread_mutex_lock(&ctx->lock);
  tml_status status = tml_gen_variant(ctx->gen, ctx->config.force, &variant);
  pthread_mutex_unlock(&ctx->lock);
  if (status != TML_OK || variant.kind != TML_KIND_LIBRARY) return TML_OK; /* told later */
  return tml_fail(TML_ARGUMENT, "strict forbids the forced variant %s; drop one of the two",
                  ctx->config.force);
}

static tml_status create(tml_plan **out, tml_comm *comm, const tml_problem *problem,
                         const char *force, int wished)
{
  tml_plan plan = {.comm = comm, .api = comm->ctx->api};
  tml_status door = check_problem(comm, problem, &plan.problem);
  if (door == TML_OK && wished) door = check_wishes(comm->ctx);
  if (door == TML_OK) plan.asked = problem->op;
  tml_status status = build(&plan, force && force[0] ? force : NULL, door);
  tml_plan *kept = status == TML_OK ? keep(&plan) : NULL;
  if (!kept) {
    clear(&plan);
    return status != TML_OK ? status : tml_fail(TML_MEMORY, "no memory for a plan");
  }
  kept->next = comm->plans;
  comm->plans = kept;
  *out = kept;
  return TML_OK;
}

static tml_status create_plan(tml_plan **out, tml_comm *comm, const tml_problem *problem,
                              const char *variant, int wished)
{
  CUcontext previous;
  if (!out) return tml_fail(TML_ARGUMENT, "tml_plan_create: out is NULL");
  *out = NULL;
  if (!comm)
    return tml_fail(TML_ARGUMENT, "tml_plan_create: comm is NULL; make one with tml_comm_create");
  if (tml_comm_fault(comm, NULL)) return tml_poll(comm, NULL);
  TRY(tml_ctx_enter(comm->ctx, &previous));
  tml_status status = create(out, comm, problem, variant, wished);
  tml_ctx_leave(comm->ctx, previous);
  return status;
}

tml_status tml_plan_create(tml_plan **out, tml_comm *comm, const tml_problem *problem)
{
  return create_plan(out, comm, problem, comm ? comm->ctx->config.force : NULL, 1);
}

tml_status tml_plan_create_forced(tml_plan **out, tml_comm *comm, const tml_problem *problem,
                                  const char *variant)
{
  return create_plan(out, comm, problem, variant, 0);
}

void tml_plans_orphan(tml_comm *comm)
{
  for (tml_plan *plan = comm->plans; plan; plan = plan->next) {
    plan->comm = NULL;
    if (plan->gemm) plan->gemm->comm = NULL;
  }
  comm->plans = NULL;
}

void tml_plan_destroy(tml_plan *plan)
{
  if (!plan) return;
  for (tml_plan **at = plan->comm ? &plan->comm->plans : NULL; at && *at; at = &(*at)->next) {
    if (*at != plan) continue;
    *at = plan->next;
    break;
  }
  clear(plan);
  free(plan);
}

/* ---- Questions ---- */

tml_status tml_plan_workspace(const tml_plan *plan, tml_bytes *out)
{
  if (!plan || !out)
    return tml_fail(TML_ARGUMENT, "tml_plan_workspace: %s is NULL", plan ? "out" : "plan");
  if (out->size < sizeof *out)
    return tml_fail(TML_ARGUMENT, "tml_plan_workspace: set out.size to sizeof(tml_bytes)");
  size_t size = out->size;
  *out = plan->bytes;
  out->size = size;
  return TML_OK;
}

const char *tml_plan_variant(const tml_plan *plan, int64_t m)
{
  if (!plan || m < 0 || m > plan->problem.m) return NULL;
  return tml_plan_entry(plan, m)->choice->variant.name;
}

void tml_plan_explain(const tml_plan *plan, tml_explain_fn fn, void *user)
{
#define TML_X(id, text) text,
  static const char *const texts[] = {TML_CHOSEN_MAP(TML_X)};
#undef TML_X
  for (int i = 0; plan && fn && i < plan->count; i++)
    fn(user, plan->entries[i].bucket, plan->entries[i].choice->variant.name,
       texts[plan->entries[i].chosen]);
}
