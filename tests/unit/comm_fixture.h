/* What the tests of group, symm and comm share: a context without generator or bank over the fakes,
 * and ranks as threads. */
#ifndef TML_TEST_COMM_FIXTURE_H
#define TML_TEST_COMM_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm.h"
#include "fake.h"
#include "status.h"
#include "wait.h"

#define FIXTURE_TIMEOUT_US 5e6

static inline void fixture_ctx_open(tml_ctx *ctx, const tml_api *api, int device)
{
  memset(ctx, 0, sizeof *ctx);
  ctx->api = api;
  ctx->config.size = sizeof ctx->config;
  ctx->config.device = device;
  ctx->config.timeout_us = FIXTURE_TIMEOUT_US;
  ctx->device = device;
  ctx->machine = (tml_machine){.gpu = "Fake H200", .sms = 132, .cc = 90, .driver = 13000};
  ctx->pad = (tml_pad){.ticket = 16, .header = 64, .words = 256};
  api->cuda.p_cuDevicePrimaryCtxRetain(&ctx->primary, device);
  pthread_mutex_init(&ctx->lock, NULL);
}

static inline void fixture_ctx_close(tml_ctx *ctx)
{
  pthread_mutex_destroy(&ctx->lock);
  ctx->api->cuda.p_cuDevicePrimaryCtxRelease(ctx->device);
}

typedef void (*fixture_rank_fn)(void *user, tml_ctx *ctx, int rank, ncclComm_t nccl);

typedef struct fixture_run {
  const tml_api *api;
  double timeout_us;
  fixture_rank_fn fn;
  void *user;
} fixture_run;

static inline void fixture_rank(void *user, int rank, ncclComm_t *nccl)
{
  const fixture_run *run = user;
  tml_ctx ctx;
  fixture_ctx_open(&ctx, run->api, rank);
  if (run->timeout_us > 0) ctx.config.timeout_us = run->timeout_us;
  run->fn(run->user, &ctx, rank, *nccl);
  fixture_ctx_close(&ctx);
}

/* `world` threads, each with a context of its own device and a communicator. timeout_us 0: the
 * default. */
static inline void fixture_run_ranks(const tml_api *api, int world, double timeout_us,
                                     fixture_rank_fn fn, void *user)
{
  fixture_run run = {api, timeout_us, fn, user};
  fake_run_ranks(world, fixture_rank, &run);
}

static inline void fixture_expect_clean(void)
{
  assert_int_equal(fake_check_failures(), 0);
  assert_int_equal(fake_check_clean(), 0);
}

static inline double fixture_seconds_since(uint64_t start)
{
  return (double)(tml_now_ns() - start) * 1e-9;
}

/* Whether the newest detail of this thread holds `part`. */
static inline int fixture_says(const char *part)
{
  if (strstr(tml_last_error(), part)) return 1;
  fprintf(stderr, "expected \"%s\" in: %s\n", part, tml_last_error());
  return 0;
}

#endif
