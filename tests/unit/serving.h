/* Ranks that serve over the fakes, through the public interface only (and a forced variant). */
#ifndef TML_TEST_SERVING_H
#define TML_TEST_SERVING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "ctx.h"
#include "fake.h"
#include "plan.h"

typedef struct serving {
  tml_ctx *ctx;
  tml_comm *comm;
  tml_plan *plan;
  CUstream stream;
  CUdeviceptr a, b, c, bias;
  tml_problem problem;
} serving;

/* Everything up to (not including) tml_seal. 1 if all went well. */
static inline int serving_open(serving *s, int rank, ncclComm_t nccl, const char *problem,
                               const char *pattern)
{
  const tml_api *api = fake_table();
  tml_config config = {.size = sizeof config, .device = rank, .timeout_us = 5e6};
  tml_bytes bytes = {.size = sizeof bytes};
  tml_ranked ranked[TML_RANKED_MAX];
  size_t count = 0, pick = 0;
  memset(s, 0, sizeof *s);
  FAKE_CHECK_OK(tml_ctx_create_over(&s->ctx, &config, api));
  FAKE_CHECK_OK(tml_comm_create(&s->comm, s->ctx, nccl));
  FAKE_CHECK_OK(tml_problem_parse(&s->problem, problem));
  if (!s->comm) return 0;
  FAKE_CHECK_OK(tml_gen_rank(s->ctx->gen, s->ctx->arch, &s->problem, &s->ctx->machine, ranked,
                             TML_RANKED_MAX, &count));
  if (!FAKE_CHECK(count <= TML_RANKED_MAX)) return 0;
  while (pick < count) { /* the cheapest of this pattern, by the model */
    tml_variant variant;
    if (tml_gen_variant(s->ctx->gen, ranked[pick].name, &variant) == TML_OK &&
        strcmp(pattern, (const char *const[]){
#define TML_X(id, text) text,
                            TML_PATTERN_MAP(TML_X)
#undef TML_X
                        }[variant.pattern]) == 0)
      break;
    pick++;
  }
  if (!FAKE_CHECK(pick < count)) return 0;
  FAKE_CHECK_OK(tml_plan_create_forced(&s->plan, s->comm, &s->problem, ranked[pick].name));
  if (!s->plan) return 0;
  FAKE_CHECK_OK(tml_plan_workspace(s->plan, &bytes));
  FAKE_CHECK_OK(tml_comm_reserve(s->comm, &bytes));
  size_t m = (size_t)s->problem.m + 1, n = (size_t)s->problem.n, k = (size_t)s->problem.k;
  return FAKE_CHECK(api->cuda.p_cuStreamCreateWithPriority(&s->stream, 1, 0) == 0) &&
         FAKE_CHECK(api->cuda.p_cuMemAlloc(&s->a, m * k * 2) == 0) &&
         FAKE_CHECK(api->cuda.p_cuMemAlloc(&s->b, n * k * 2) == 0) &&
         FAKE_CHECK(api->cuda.p_cuMemAlloc(&s->c, m * n * 2) == 0) &&
         FAKE_CHECK(api->cuda.p_cuMemAlloc(&s->bias, n * 2) == 0);
}

static inline tml_args serving_args(const serving *s, int64_t m)
{
  return (tml_args){.size = sizeof(tml_args),
                    .m = m,
                    .a = (const void *)s->a,
                    .b = (const void *)s->b,
                    .c = (void *)s->c,
                    .bias = s->problem.bias ? (const void *)s->bias : NULL};
}

static inline void serving_close(serving *s)
{
  const tml_api *api = fake_table();
  tml_plan_destroy(s->plan);
  tml_comm_destroy(s->comm);
  tml_ctx_destroy(s->ctx);
  if (s->a) api->cuda.p_cuMemFree(s->a);
  if (s->b) api->cuda.p_cuMemFree(s->b);
  if (s->c) api->cuda.p_cuMemFree(s->c);
  if (s->bias) api->cuda.p_cuMemFree(s->bias);
  if (s->stream) api->cuda.p_cuStreamDestroy(s->stream);
}

#endif
