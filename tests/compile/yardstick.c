/* The time of one fixed compile. */
#include "yardstick.h"

#include <time.h>

/* What the text takes on a quiet core. */
#define QUIET_MS 500.0

/* Like a variant it is mostly unrolled straight-line code in many registers, and as large, so that
 * a crowded cache slows both alike. It never changes, so it stays the same measure whatever becomes
 * of the templates. */
static const char text[] =
    "extern \"C\" __global__ void yardstick(float *out, const float *in)\n"
    "{\n"
    "  float sum[64];\n"
    "#pragma unroll\n"
    "  for (int i = 0; i < 64; i++) sum[i] = in[i * blockDim.x + threadIdx.x];\n"
    "#pragma unroll\n"
    "  for (int k = 0; k < 60; k++)\n"
    "#pragma unroll\n"
    "    for (int i = 0; i < 64; i++) sum[i] = sum[i] * sum[(i + k + 1) % 64] + in[k];\n"
    "#pragma unroll\n"
    "  for (int i = 0; i < 64; i++) out[i * blockDim.x + threadIdx.x] = sum[i];\n"
    "}\n";

double yardstick_cpu_ms(void)
{
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

double yardstick_slowness(const tml_api *api, const char *arch)
{
  tml_build build = {0};
  double start = yardstick_cpu_ms();
  tml_status status = tml_rtc_compile(api, "yardstick", text, arch, &build);
  double ms = yardstick_cpu_ms() - start;
  tml_build_free(&build);
  return status == TML_OK ? ms / QUIET_MS : 1.0;
}
