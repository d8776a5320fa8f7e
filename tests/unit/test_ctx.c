/* The context over the fake driver: facts, knobs, and every way in which a kernel comes or
 * fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "bank_fixture.h"
#include "ctx.h"
#include "fake.h"

#define BOTH (TML_FROM_BANK | TML_FROM_JIT)

static char single[TML_NAME_BYTES], clustered[TML_NAME_BYTES]; /* two legal names */
static char last_warning[512];
static int warnings;

static void on_log(void *user, tml_log_level level, const char *line)
{
  (void)user;
  if (level > TML_LOG_WARN) return;
  warnings++;
  snprintf(last_warning, sizeof last_warning, "%s", line);
}

static int pick_names(void *user, const tml_variant *v, const char *reason)
{
  (void)user, (void)reason;
  if (v->kind != TML_KIND_FUSED) return 0;
  char *to = v->cluster_m * v->cluster_n > 1 ? clustered : single;
  if (!*to) strcpy(to, v->name);
  return *single && *clustered;
}

static int setup(void **state)
{
  tml_gen *gen;
  if (make_folder(state) != 0 || tml_gen_open(&gen, NULL, NULL) != TML_OK) return -1;
  tml_status status =
      tml_gen_each(gen, &(tml_filter){.op = "gemm", .arch = "sm_90a"}, pick_names, NULL);
  tml_gen_close(gen);
  return status == TML_OK && *single && *clustered ? 0 : -1;
}

static int before(void **state)
{
  static const char *const names[] = {
      "TIDEMILL_BANK",   "TIDEMILL_SOURCE",        "TIDEMILL_FORCE",     "TIDEMILL_NO_JIT",
      "TIDEMILL_STRICT", "TIDEMILL_BANK_WRITABLE", "TIDEMILL_TIMEOUT_US"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
  warnings = 0;
  fake_open(NULL);
  return clean(state);
}

static tml_config base_config(void)
{
  return (tml_config){.size = sizeof(tml_config), .log = on_log};
}

static tml_ctx *create(const tml_config *config)
{
  tml_ctx *ctx;
  if (tml_ctx_create_over(&ctx, config, fake_table()) != TML_OK) fail_msg("%s", tml_last_error());
  return ctx;
}

static tml_counters count(const tml_ctx *ctx)
{
  tml_counters counters = {.size = sizeof counters};
  assert_int_equal(tml_ctx_counters(ctx, &counters), TML_OK);
  return counters;
}

static void facts(void **state)
{
  (void)state;
  tml_config config = base_config();
  config.device = 3;
  tml_ctx *ctx = create(&config);
  assert_string_equal(ctx->machine.gpu, "Fake H200");
  assert_int_equal(ctx->machine.sms, 132);
  assert_int_equal(ctx->machine.cc, 90);
  assert_int_equal(ctx->machine.driver, 13000);
  assert_true(strcmp(ctx->machine.link, "pcie") == 0 || strcmp(ctx->machine.link, "nvlink") == 0);
  assert_string_equal(ctx->arch, "sm_90a");
  assert_true(ctx->pad.words > 0);
  assert_null(ctx->bank);
  tml_ctx_destroy(ctx);
  tml_ctx_destroy(NULL);
  assert_int_equal(fake_check_clean(), 0);
  fake_open(&(fake_config){.devices = 1});
  ctx = create(NULL);
  assert_string_equal(ctx->machine.link, "none");
  tml_ctx_destroy(ctx);
}

static void knobs(void **state)
{
  (void)state;
  setenv("TIDEMILL_FORCE", "some.variant", 1);
  setenv("TIDEMILL_NO_JIT", "1", 1);
  setenv("TIDEMILL_STRICT", "0", 1);
  setenv("TIDEMILL_TIMEOUT_US", "5e6", 1);
  setenv("TIDEMILL_BANK", "", 1); /* empty is unset */
  tml_ctx *ctx = create(NULL);
  assert_string_equal(ctx->config.force, "some.variant");
  assert_int_equal(ctx->config.no_jit, 1);
  assert_int_equal(ctx->config.strict, 0);
  assert_true(ctx->config.timeout_us == 5e6);
  tml_ctx_destroy(ctx);
  tml_config config = base_config();
  config.force = "given"; /* what is given wins */
  config.timeout_us = 1;
  ctx = create(&config);
  assert_string_equal(ctx->config.force, "given");
  assert_true(ctx->config.timeout_us == 1e5);
  tml_ctx_destroy(ctx);
  static const char *const bad[][2] = {{"TIDEMILL_NO_JIT", "yes"},
                                       {"TIDEMILL_TIMEOUT_US", "10s"},
                                       {"TIDEMILL_TIMEOUT_US", "nan"},
                                       {"TIDEMILL_TIMEOUT_US", "-1"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    before(NULL);
    setenv(bad[i][0], bad[i][1], 1);
    assert_int_equal(tml_ctx_create_over(&ctx, NULL, fake_table()), TML_ARGUMENT);
    assert_null(ctx);
  }
  before(NULL);
  config.size = 4;
  assert_int_equal(tml_ctx_create_over(&ctx, &config, fake_table()), TML_ARGUMENT);
  assert_int_equal(fake_check_clean(), 0);
}

static void no_device(void **state)
{
  (void)state;
  static const struct {
    fake_config machine;
    int device;
    tml_status status;
    const char *text;
  } rows[] = {
      {{.no_cuda = 1}, 0, TML_NO_DEVICE, ""},       {{.devices = -1}, 0, TML_NO_DEVICE, "no"},
      {{.devices = 2}, 2, TML_NO_DEVICE, "0 .. 1"}, {{.devices = 2}, -1, TML_ARGUMENT, "device -1"},
      {{.cc = 75}, 0, TML_UNSUPPORTED, "sm_90a"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    tml_config config = base_config();
    tml_ctx *ctx;
    config.device = rows[i].device;
    fake_open(&rows[i].machine);
    assert_int_equal(tml_ctx_create_over(&ctx, &config, fake_table()), rows[i].status);
    assert_null(ctx);
    if (!strstr(tml_last_error(), rows[i].text)) fail_msg("row %zu: %s", i, tml_last_error());
    assert_int_equal(fake_check_clean(), 0);
  }
}

static void compiled_kernels(void **state)
{
  (void)state;
  tml_ctx *ctx = create(NULL);
  tml_kernel *kernel, *again;
  CUcontext current = (CUcontext)1;
  assert_int_equal(tml_ctx_loadable(ctx, single), 0);
  assert_int_equal(tml_ctx_kernel(ctx, single, BOTH, &kernel), TML_OK);
  assert_string_equal(kernel->variant.name, single);
  assert_int_equal(strlen(kernel->hash), 32);
  assert_int_equal(kernel->max_clusters, 132);
  assert_int_equal(kernel->registers, 168);
  assert_int_equal(tml_ctx_kernel(ctx, single, TML_FROM_BANK, &again), TML_OK);
  assert_ptr_equal(kernel, again);
  assert_int_equal(tml_ctx_kernel(ctx, clustered, BOTH, &kernel), TML_OK);
  assert_int_equal(kernel->max_clusters,
                   132 / (kernel->variant.cluster_m * kernel->variant.cluster_n));
  assert_int_equal(count(ctx).compiles, 2);
  assert_int_equal(count(ctx).loads, 2);
  assert_int_equal(tml_ctx_loadable(ctx, single), 1);
  assert_int_equal(fake_table()->cuda.p_cuCtxGetCurrent(&current), CUDA_SUCCESS);
  assert_null(current); /* the caller's context, none, is back */
  tml_ctx_destroy(ctx);
  assert_int_equal(fake_check_clean(), 0);
}

/* The warpgroups trade registers: too few at entry, and they would wait for ever. */
static void few_registers(void **state)
{
  (void)state;
  tml_kernel *kernel;
  fake_open(&(fake_config){.registers = 160});
  tml_config config = base_config();
  tml_ctx *ctx = create(&config);
  assert_int_equal(tml_ctx_kernel(ctx, single, BOTH, &kernel), TML_UNSUPPORTED);
  assert_non_null(strstr(tml_last_error(), "160 registers a thread and needs 168"));
  tml_ctx_destroy(ctx);
  assert_int_equal(fake_check_clean(), 0);
}

static void refusals(void **state)
{
  (void)state;
  tml_kernel *kernel;
  tml_config config = base_config();
  tml_ctx *ctx = create(&config);
  assert_int_equal(tml_ctx_kernel(ctx, "nobody", BOTH, &kernel), TML_ARGUMENT);
  assert_null(kernel);
  assert_int_equal(tml_ctx_kernel(ctx, single, TML_FROM_BANK, &kernel), TML_MISS);
  assert_int_equal(tml_seal(ctx), TML_OK);
  assert_int_equal(tml_ctx_kernel(ctx, single, BOTH, &kernel), TML_SEALED);
  assert_int_equal(count(ctx).compiles, 0);
  tml_ctx_destroy(ctx);

  config.no_jit = 1;
  ctx = create(&config);
  assert_int_equal(tml_ctx_kernel(ctx, single, BOTH, &kernel), TML_MISS);
  assert_non_null(strstr(tml_last_error(), "compiling is switched off"));
  tml_ctx_destroy(ctx);

  fake_open(&(fake_config){.nvrtc = FAKE_NVRTC_NONE});
  config.no_jit = 0;
  ctx = create(&config);
  assert_int_equal(tml_ctx_kernel(ctx, single, BOTH, &kernel), TML_MISS);
  assert_non_null(strstr(tml_last_error(), "cannot compile"));
  tml_ctx_destroy(ctx);
  assert_int_equal(fake_check_clean(), 0);
}

static void kept_kernels(void **state)
{
  (void)state;
  tml_kernel *kernel;
  tml_config config = base_config();
  config.bank = bank_path;
  config.bank_writable = 1; /* the bank need not exist */
  tml_ctx *ctx = create(&config);
  assert_int_equal(tml_ctx_kernel(ctx, single, BOTH, &kernel), TML_OK);
  assert_int_equal(warnings, 0);
  tml_ctx_destroy(ctx);

  config.bank_writable = 0;
  config.no_jit = 1;
  ctx = create(&config);
  assert_int_equal(tml_ctx_loadable(ctx, single), 1);
  assert_int_equal(tml_ctx_loadable(ctx, clustered), 0);
  assert_int_equal(tml_ctx_kernel(ctx, single, BOTH, &kernel), TML_OK);
  assert_int_equal(tml_ctx_kernel(ctx, clustered, BOTH, &kernel), TML_MISS);
  assert_non_null(strstr(tml_last_error(), "is not in the bank"));
  assert_int_equal(count(ctx).bank_hits, 1);
  assert_int_equal(count(ctx).bank_misses, 1);
  assert_int_equal(count(ctx).compiles, 0);
  tml_ctx_destroy(ctx);
  assert_int_equal(fake_check_clean(), 0);
}

static void unusable_banks(void **state)
{
  (void)state;
  tml_kernel *kernel;
  tml_ctx *ctx;
  tml_config config = base_config();
  config.bank = bank_path;
  assert_int_equal(tml_ctx_create_over(&ctx, &config, fake_table()), TML_MISS); /* absent */
  assert_int_equal(write_rows(0, 1), TML_OK);
  assert_int_equal(chmod(bank_path, 0666), 0);
  assert_int_equal(tml_ctx_create_over(&ctx, &config, fake_table()), TML_MISS);
  assert_non_null(strstr(tml_last_error(), "chmod go-w"));
  assert_null(ctx);
  assert_int_equal(chmod(bank_path, 0600), 0);
  /* writable by wish, not in fact: one warning, memory only */
  char lock[96];
  snprintf(lock, sizeof lock, "%s.lock", bank_path);
  assert_int_equal(unlink(lock), 0);
  assert_int_equal(mkdir(lock, 0700), 0);
  config.bank_writable = 1;
  ctx = create(&config);
  assert_int_equal(tml_ctx_kernel(ctx, single, BOTH, &kernel), TML_OK);
  assert_int_equal(tml_ctx_kernel(ctx, clustered, BOTH, &kernel), TML_OK);
  assert_int_equal(warnings, 1);
  assert_non_null(strstr(last_warning, "stay in memory"));
  tml_ctx_destroy(ctx);
  assert_int_equal(fake_check_clean(), 0);
}

/* Another process holds the lock: one short wait, one warning, memory only. */
static void held_bank(void **state)
{
  (void)state;
  tml_kernel *kernel;
  tml_config config = base_config();
  char lock[96];
  config.bank = bank_path;
  config.bank_writable = 1;
  snprintf(lock, sizeof lock, "%s.lock", bank_path);
  int fd = open(lock, O_RDWR | O_CREAT, 0600);
  assert_int_equal(flock(fd, LOCK_EX), 0);
  tml_ctx *ctx = create(&config);
  time_t start = time(NULL);
  assert_int_equal(tml_ctx_kernel(ctx, single, BOTH, &kernel), TML_OK);
  assert_int_equal(tml_ctx_kernel(ctx, clustered, BOTH, &kernel), TML_OK);
  tml_ctx_destroy(ctx);
  assert_true(time(NULL) - start < 10);
  assert_int_equal(warnings, 1);
  assert_non_null(strstr(last_warning, "is it stopped?"));
  close(fd);
}

/* A relative path means the folder that was current when the ctx was made. */
static void moved_process(void **state)
{
  (void)state;
  tml_kernel *kernel;
  tml_config config = base_config();
  char folder[96], here[4096];
  assert_non_null(getcwd(here, sizeof here));
  snprintf(folder, sizeof folder, "%s", bank_path);
  *strrchr(folder, '/') = '\0';
  assert_int_equal(chdir(folder), 0);
  config.bank = strrchr(bank_path, '/') + 1;
  config.bank_writable = 1;
  tml_ctx *ctx = create(&config);
  assert_int_equal(chdir(here), 0);
  assert_int_equal(tml_ctx_kernel(ctx, single, BOTH, &kernel), TML_OK);
  tml_ctx_destroy(ctx);
  assert_int_equal(access(bank_path, F_OK), 0);
  assert_int_not_equal(access(config.bank, F_OK), 0);
  assert_int_equal(warnings, 0);
}

/* A refusal on record is not compiled again; code that the driver refuses is. */
static void bad_rows(void **state)
{
  (void)state;
  tml_kernel *kernel;
  tml_config config = base_config();
  tml_ctx *ctx = create(&config);
  tml_bank_row refused = {.refused = "registers spill: 8 bytes"}, foreign = {.cubin_bytes = 64};
  assert_int_equal(tml_ctx_kernel(ctx, single, BOTH, &kernel), TML_OK);
  strcpy(refused.name, single);
  strcpy(refused.hash, kernel->hash);
  assert_int_equal(tml_ctx_kernel(ctx, clustered, BOTH, &kernel), TML_OK);
  strcpy(foreign.name, clustered);
  strcpy(foreign.hash, kernel->hash);
  foreign.cubin = (unsigned char[64]){"foreign"};
  tml_ctx_destroy(ctx);
  tml_bank_writer *writer;
  assert_int_equal(tml_bank_write_open(&writer, bank_path, NULL, TML_BANK_WAIT_MS), TML_OK);
  assert_int_equal(tml_bank_write_row(writer, &refused), TML_OK);
  assert_int_equal(tml_bank_write_row(writer, &foreign), TML_OK);
  assert_int_equal(tml_bank_publish(writer), TML_OK);
  tml_bank_write_close(writer);

  config.bank = bank_path;
  ctx = create(&config);
  assert_int_equal(tml_ctx_kernel(ctx, single, BOTH, &kernel), TML_COMPILE);
  assert_non_null(strstr(tml_last_error(), "registers spill: 8 bytes"));
  assert_int_equal(count(ctx).compiles, 0);
  assert_int_equal(tml_ctx_kernel(ctx, clustered, BOTH, &kernel), TML_OK);
  assert_int_equal(count(ctx).compiles, 1);
  assert_int_equal(warnings, 1);
  assert_int_equal(count(ctx).bank_misses, 2);
  tml_ctx_destroy(ctx);
  assert_int_equal(fake_check_clean(), 0);
}

static int compilations;

static nvrtcResult refuse_to_compile(nvrtcProgram program, int count, const char *const *options)
{
  (void)program, (void)count, (void)options;
  compilations++;
  return NVRTC_ERROR_COMPILATION;
}

static void refused_once(void **state)
{
  (void)state;
  tml_kernel *kernel;
  fake_table()->nvrtc.p_nvrtcCompileProgram = refuse_to_compile;
  tml_ctx *ctx = create(NULL);
  compilations = 0;
  for (int i = 0; i < 3; i++) {
    assert_int_equal(tml_ctx_kernel(ctx, single, BOTH, &kernel), TML_COMPILE);
    assert_non_null(strstr(tml_last_error(), single));
    assert_null(kernel);
  }
  assert_int_equal(compilations, 1);
  assert_int_equal(count(ctx).compile_errors, 1);
  tml_ctx_destroy(ctx);
  assert_int_equal(fake_check_clean(), 0);
}

/* Every driver call fails in turn: a status and a text, and nothing stays behind. */
static void failing_calls(void **state)
{
  (void)state;
  long k = 1;
  for (int done = 0; !done && k < 100; k++) {
    tml_ctx *ctx;
    tml_kernel *kernel = NULL;
    fake_open(NULL);
    fake_fail_call(k, CUDA_ERROR_UNKNOWN);
    tml_status status = tml_ctx_create_over(&ctx, NULL, fake_table());
    if (status == TML_OK) status = tml_ctx_kernel(ctx, clustered, BOTH, &kernel);
    done = status == TML_OK && !fake_failed()[0];
    if (status != TML_OK) {
      assert_null(kernel);
      if (!strstr(tml_last_error(), fake_failed()))
        fail_msg("%s: %s", fake_failed(), tml_last_error());
    }
    tml_ctx_destroy(ctx);
    fake_fail_call(0, CUDA_SUCCESS);
    if (fake_check_clean()) fail_msg("call %ld (%s) leaks", k, fake_failed());
  }
  assert_true(k > 15);
}

/* The fake driver takes NVRTC's real code: text, compiler and load agree on the symbol. */
static void real_compiler(void **state)
{
  (void)state;
  tml_kernel *kernel;
  if (!tml_api_open()->has_nvrtc) skip();
  fake_open(&(fake_config){.nvrtc = FAKE_NVRTC_REAL});
  tml_ctx *ctx = create(NULL);
  if (tml_ctx_kernel(ctx, single, BOTH, &kernel) != TML_OK) fail_msg("%s", tml_last_error());
  tml_ctx_destroy(ctx);
  assert_int_equal(fake_check_clean(), 0);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(facts, before),
      cmocka_unit_test_setup(knobs, before),
      cmocka_unit_test_setup(no_device, before),
      cmocka_unit_test_setup(compiled_kernels, before),
      cmocka_unit_test_setup(few_registers, before),
      cmocka_unit_test_setup(refusals, before),
      cmocka_unit_test_setup(kept_kernels, before),
      cmocka_unit_test_setup(unusable_banks, before),
      cmocka_unit_test_setup(held_bank, before),
      cmocka_unit_test_setup(moved_process, before),
      cmocka_unit_test_setup(bad_rows, before),
      cmocka_unit_test_setup(refused_once, before),
      cmocka_unit_test_setup(failing_calls, before),
      cmocka_unit_test_setup(real_compiler, before),
  };
  return cmocka_run_group_tests(tests, setup, remove_folder);
}
