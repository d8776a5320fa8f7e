/* What the tests of plans, maps and launches share: ranks as threads over the fakes, each with a context
 * (embedded generator, fake NVRTC), a comm, and buffers. */
#ifndef TML_TEST_PLAN_FIXTURE_H
#define TML_TEST_PLAN_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm.h"
#include "fake.h"
#include "plan.h"
#include "status.h"

typedef struct test_bed {
  int rank, world;
  tml_ctx *ctx;
  tml_comm *comm;
  CUdeviceptr buffer[4]; /* a, b, c, bias */
  int warnings;
  char warning[512]; /* the last one */
} test_bed;

#define RIG_BUFFER ((size_t)1 << 20)

typedef void (*rig_fn)(test_bed *rig);

typedef struct rig_run {
  int world;
  const tml_config *config; /* NULL: defaults; with `odd`, of rank 0 alone */
  const tml_config *odd;    /* NULL, or what the other ranks take */
  rig_fn fn;
} rig_run;

static inline void rig_log(void *user, tml_log_level level, const char *line)
{
  test_bed *rig = user;
  if (level > TML_LOG_WARN) return;
  rig->warnings++;
  snprintf(rig->warning, sizeof rig->warning, "%s", line);
}

static inline void rig_open(test_bed *rig, const rig_run *run, int rank, ncclComm_t nccl)
{
  const tml_config *given = rank > 0 && run->odd ? run->odd : run->config;
  tml_config config = {0};
  if (given) config = *given;
  config.size = sizeof config;
  config.device = rank;
  config.timeout_us = 5e6;
  config.log = rig_log;
  config.log_user = rig;
  *rig = (test_bed){.rank = rank, .world = run->world};
  FAKE_CHECK_OK(tml_ctx_create_over(&rig->ctx, &config, fake_table()));
  FAKE_CHECK_OK(tml_comm_create(&rig->comm, rig->ctx, nccl));
  for (int i = 0; i < 4; i++)
    FAKE_CHECK(fake_table()->cuda.p_cuMemAlloc(&rig->buffer[i], RIG_BUFFER) == CUDA_SUCCESS);
}

static inline void rig_close(test_bed *rig)
{
  for (int i = 0; i < 4; i++) fake_table()->cuda.p_cuMemFree(rig->buffer[i]);
  tml_comm_destroy(rig->comm);
  tml_ctx_destroy(rig->ctx);
}

static inline void rig_rank(void *user, int rank, ncclComm_t *nccl)
{
  const rig_run *run = user;
  test_bed rig;
  rig_open(&rig, run, rank, run->world > 1 ? *nccl : NULL);
  if (rig.ctx && rig.comm) run->fn(&rig);
  rig_close(&rig);
}

/* Runs fn on every rank over a fresh machine; nothing may stay alive. */
static inline void rig_run_ranks(int world, const tml_config *config, const tml_config *odd,
                                 rig_fn fn)
{
  rig_run run = {world, config, odd, fn};
  fake_open(NULL);
  fake_run_ranks(world, rig_rank, &run);
  assert_int_equal(fake_check_failures(), 0);
  assert_int_equal(fake_check_clean(), 0);
}

static inline tml_problem rig_problem(const char *text)
{
  tml_problem problem;
  FAKE_CHECK_OK(tml_problem_parse(&problem, text));
  return problem;
}

/* Creates, reserves, and teaches the fake the kernel of the largest m. forced: NULL or a variant. */
static inline tml_plan *rig_plan(test_bed *rig, const char *text, const char *forced)
{
  tml_plan *plan = NULL;
  tml_variant variant;
  tml_bytes bytes = {.size = sizeof bytes};
  tml_problem problem = rig_problem(text);
  FAKE_CHECK_OK(forced ? tml_plan_create_forced(&plan, rig->comm, &problem, forced)
                       : tml_plan_create(&plan, rig->comm, &problem));
  if (!plan) return NULL;
  FAKE_CHECK_OK(tml_plan_workspace(plan, &bytes));
  FAKE_CHECK_OK(tml_comm_reserve(rig->comm, &bytes));
  FAKE_CHECK_OK(tml_gen_variant(rig->ctx->gen, tml_plan_variant(plan, problem.m), &variant));
  if (variant.kind == TML_KIND_FUSED) fake_learn_variant(&variant);
  return plan;
}

static inline tml_variant rig_variant(test_bed *rig, const char *name)
{
  tml_variant variant;
  FAKE_CHECK_OK(tml_gen_variant(rig->ctx->gen, name, &variant));
  return variant;
}

/* A tile and a cluster that a test counts with. Names have more knobs than these, and change with the
 * space: so tests look them up. */
typedef struct rig_shape {
  int tile_m, tile_n, cluster_m, cluster_n;
  char name[TML_NAME_BYTES]; /* found: the first fused variant of this shape */
} rig_shape;

static inline int rig_keep_shape(void *user, const tml_variant *variant, const char *reason)
{
  rig_shape *shape = user;
  if (reason || variant->kind != TML_KIND_FUSED || variant->tile_m != shape->tile_m ||
      variant->tile_n != shape->tile_n || variant->cluster_m != shape->cluster_m ||
      variant->cluster_n != shape->cluster_n || variant->split != 1)
    return 0;
  snprintf(shape->name, sizeof shape->name, "%s", variant->name);
  return 1;
}

/* `glob`: NULL, or what the name must match as well. */
static inline rig_shape rig_find_like(const char *op, int world, int tile_m, int tile_n,
                                      int cluster_m, const char *glob)
{
  rig_shape shape = {tile_m, tile_n, cluster_m, 1, ""};
  tml_filter filter = {.op = op, .dtype = "bf16", .world = world, .glob = glob};
  tml_gen *gen = NULL;
  FAKE_CHECK_OK(tml_gen_open(&gen, NULL, NULL));
  if (gen) FAKE_CHECK_OK(tml_gen_each(gen, &filter, rig_keep_shape, &shape));
  tml_gen_close(gen);
  FAKE_CHECK(shape.name[0] != 0);
  return shape;
}

static inline rig_shape rig_find(const char *op, int world, int tile_m, int tile_n, int cluster_m)
{
  return rig_find_like(op, world, tile_m, tile_n, cluster_m, NULL);
}

static inline tml_args rig_args(const test_bed *rig, int64_t m, int bias)
{
  return (tml_args){.size = sizeof(tml_args),
                    .m = m,
                    .a = (void *)rig->buffer[0],
                    .b = (void *)rig->buffer[1],
                    .c = (void *)rig->buffer[2],
                    .bias = bias ? (void *)rig->buffer[3] : NULL};
}

static inline int rig_says(tml_status status, tml_status expected, const char *part)
{
  if (status == expected && strstr(tml_last_error(), part)) return 1;
  fprintf(stderr, "expected %s with \"%s\": %s: %s\n", tml_status_text(expected), part,
          tml_status_text(status), tml_last_error());
  return 0;
}

/* This rank's k-th operation of a kind (0: the first); NULL: none. */
static inline const fake_op *rig_op(const test_bed *rig, fake_kind kind, const char *part, int k)
{
  for (int i = fake_find_op(0, kind, part); i >= 0; i = fake_find_op(i + 1, kind, part))
    if (fake_op_at(i)->device == rig->rank && k-- == 0) return fake_op_at(i);
  return NULL;
}

/* This device's operations from its k-th gate on. */
static inline int rig_after_gate(const test_bed *rig, int k, const fake_op **out, int most)
{
  const fake_op *gate = rig_op(rig, FAKE_LAUNCH, "gate", k);
  int count = 0, seen = 0;
  for (int i = 0; i < fake_op_count() && count < most; i++) {
    const fake_op *op = fake_op_at(i);
    seen = seen || op == gate;
    if (seen && op->device == rig->rank) out[count++] = op;
  }
  return count;
}

static inline CUstream new_stream(void)
{
  CUstream stream = NULL;
  FAKE_CHECK(fake_table()->cuda.p_cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0) ==
             CUDA_SUCCESS);
  return stream;
}

static inline void close_stream(CUstream stream)
{
  FAKE_CHECK(fake_table()->cuda.p_cuStreamSynchronize(stream) == CUDA_SUCCESS);
  FAKE_CHECK(fake_table()->cuda.p_cuStreamDestroy(stream) == CUDA_SUCCESS);
}

#endif
