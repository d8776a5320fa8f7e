/* NVRTC for real (no GPU needed), and its log. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "rtc.h"
#include "rtc_log.h"

static const char plain[] = "extern \"C\" __global__ void k(float *a) { a[threadIdx.x] *= 2.f; }\n";

static const char spilling[] =
    "extern \"C\" __global__ void __launch_bounds__(1024) k(float *a, int n)\n"
    "{\n"
    "  float x[200];\n"
    "  for (int i = 0; i < 200; i++) x[i] = a[i * n];\n"
    "  for (int j = 0; j < n; j++)\n"
    "    for (int i = 0; i < 200; i++) x[i] = x[i] * x[(i + 7) % 200] + a[j];\n"
    "  for (int i = 0; i < 200; i++) a[i] = x[i];\n"
    "}\n";

static const char broken[] = "#line 7 \"kernel/x.cu.in\"\n"
                             "extern \"C\" __global__ void k(float *a) { undefined_name(a); }\n";

/* setmaxnreg without a known register count: C7508. */
static const char setmaxnreg[] =
    "extern \"C\" __global__ void k(int *a)\n"
    "{ asm volatile(\"setmaxnreg.dec.sync.aligned.u32 40;\"); a[0] = 1; }\n";

static const tml_api *real(void)
{
  const tml_api *api = tml_api_open();
  if (!api->has_nvrtc) {
    print_message("skipped: %s\n", api->why_nvrtc);
    skip();
  }
  return api;
}

static void compiles(void **state)
{
  (void)state;
  const tml_api *api = real();
  tml_build build, again;
  assert_int_equal(tml_rtc_compile(api, "plain", plain, "sm_90a", &build), TML_OK);
  assert_string_equal(build.refused, "");
  tml_build_require(&build, build.registers);
  assert_string_equal(build.refused, "");
  assert_true(build.registers > 0 && build.spill_bytes == 0 && build.local_bytes == 0);
  assert_memory_equal(build.cubin, "\177ELF", 4);
  assert_non_null(strstr(build.compiler, "nvrtc "));
  assert_true(build.compile_ms > 0);
  assert_int_equal(tml_rtc_compile(api, "other name", plain, "sm_90a", &again), TML_OK);
  assert_int_equal(build.cubin_bytes, again.cubin_bytes); /* the same text gives the same code */
  assert_memory_equal(build.cubin, again.cubin, build.cubin_bytes);
  tml_build_free(&again);
  tml_build_require(&build, 250);
  assert_non_null(strstr(build.refused, "250 are needed"));
  tml_build_free(&build);
  tml_build_free(&build);
}

static void refuses(void **state)
{
  (void)state;
  const tml_api *api = real();
  tml_build build;
  assert_int_equal(tml_rtc_compile(api, "spilling", spilling, "sm_90a", &build), TML_OK);
  assert_true(build.spill_bytes > 0 && build.local_bytes > 0);
  assert_non_null(strstr(build.refused, "spill"));
  tml_build_free(&build);
  assert_int_equal(tml_rtc_compile(api, "setmaxnreg", setmaxnreg, "sm_90a", &build), TML_OK);
  assert_non_null(strstr(build.refused, "setmaxnreg"));
  tml_build_free(&build);
}

static void fails_with_the_line(void **state)
{
  (void)state;
  const tml_api *api = real();
  tml_build build;
  assert_int_equal(tml_rtc_compile(api, "broken", broken, "sm_90a", &build), TML_COMPILE);
  assert_non_null(strstr(tml_last_error(), "broken: kernel/x.cu.in(7): error"));
  assert_non_null(strstr(tml_last_error(), "undefined_name"));
  assert_non_null(build.log);
  assert_null(build.cubin);
  tml_build_free(&build);
  assert_int_equal(tml_rtc_compile(api, "p", plain, "sm_1", &build), TML_COMPILE);
  assert_non_null(strstr(tml_last_error(), "p"));
  tml_build_free(&build);
}

static void without_nvrtc(void **state)
{
  (void)state;
  static tml_api none = {.why_nvrtc = "libnvrtc.so.13 was not found; install it"};
  tml_build build;
  assert_int_equal(tml_rtc_compile(&none, "p", plain, "sm_90a", &build), TML_MISS);
  assert_string_equal(tml_last_error(),
                      "cannot compile p: libnvrtc.so.13 was not found; install it");
  tml_build_free(&build);
}

static void options_name_the_arch(void **state)
{
  (void)state;
  assert_non_null(strstr(tml_rtc_options("sm_90a"), "-arch=sm_90a "));
  assert_null(strchr(tml_rtc_options("sm_90a"), '\n'));
}

static void log_verdicts(void **state)
{
  (void)state;
  static const struct {
    const char *log, *refused;
  } rows[] = {
      {"", ""},
      {"ptxas info    : Used 168 registers, used 9 barriers, 1024 bytes smem, 400 bytes cmem[0]",
       ""},
      {"ptxas info    : Used 32 registers, used 0 barriers, 16 bytes lmem",
       "16 bytes of local memory"},
      {"ptxas         .     8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads",
       "8 bytes of"},
      {"ptxas         .     8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads",
       "16 bytes (at"},
      {"x\r\nptxas info : (C7510) Potential Performance Loss: wgmma.mma_async instructions are "
       "serialized due to y in function 'k'\n",
       "ptxas info : (C7510)"},
      {"ptxas info : (C7519) something\n", "(C7519)"},
      {"ptxas info : (C7602) setmaxnreg\n", "(C7602)"},
      {"ptxas info : warpgroup.arrive is injected in around line 3\n",
       "warpgroup.arrive is injected"},
      {"file C75.cu and (C7400) harmless\n", ""},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    tml_build build = {.log = NULL};
    rtc_parse_log(rows[i].log, &build);
    if (rows[i].refused[0] ? !strstr(build.refused, rows[i].refused) : build.refused[0]) {
      fail_msg("row %zu: \"%s\"", i, build.refused);
    }
  }
  tml_build build = {.log = NULL};
  rtc_parse_log(rows[1].log, &build);
  assert_int_equal(build.registers, 168);
  assert_int_equal(build.barriers, 9);
  assert_int_equal(build.smem_static, 1024);
  assert_int_equal(build.local_bytes, 0);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(compiles),
      cmocka_unit_test(refuses),
      cmocka_unit_test(fails_with_the_line),
      cmocka_unit_test(without_nvrtc),
      cmocka_unit_test(options_name_the_arch),
      cmocka_unit_test(log_verdicts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
