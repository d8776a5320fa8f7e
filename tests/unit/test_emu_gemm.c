/* The generated gemm kernel on the emulated device, single device, against a plain loop with the
 * same accumulation: bitwise, under several seeds, m and n multiples of nothing. */
#include "emu_fixture.h"

#include "gen.h"

#include <dlfcn.h>
#include <unistd.h>

#define SEEDS 3

typedef struct {
  char folder[64];
  void *handle;
  const emu_module *module;
} built;

static void path_of(const built *b, const char *name, char *out, size_t size)
{
  snprintf(out, size, "%s/%s", b->folder, name);
}

/* Expands over the emulator's primitives, compiles with the host's C compiler, binds the table. */
static built build(tml_gen *gen, const char *name)
{
  built b = {.folder = "/tmp/tml-emu-XXXXXX"};
  char source[96], object[96], command[320], *text;
  size_t bytes;
  assert_int_equal(tml_gen_expand(gen, name, 1, &text, &bytes), TML_OK);
  assert_non_null(mkdtemp(b.folder));
  path_of(&b, "kernel.c", source, sizeof source);
  path_of(&b, "kernel.so", object, sizeof object);
  FILE *file = fopen(source, "w");
  assert_non_null(file);
  assert_int_equal(fwrite(text, 1, bytes, file), bytes);
  fclose(file);
  free(text);
  snprintf(command, sizeof command, "cc -std=gnu11 -O1 -Wall -Werror -fPIC -shared -o %s %s",
           object, source);
  assert_int_equal(system(command), 0);
  b.handle = dlopen(object, RTLD_NOW | RTLD_LOCAL);
  assert_non_null(b.handle);
  b.module = dlsym(b.handle, "tml_emu_module");
  assert_non_null(b.module);
  *b.module->primitives = emu_primitives_of_abi(b.module->abi);
  assert_non_null(*b.module->primitives);
  unlink(source);
  unlink(object);
  rmdir(b.folder);
  return b;
}

static float value(u16 bits)
{
  union {
    u32 u;
    float f;
  } x = {(u32)bits << 16};
  return x.f;
}

static u16 rounded(float f)
{
  union {
    float f;
    u32 u;
  } x = {f};
  return (u16)((x.u + 0x7fff + (x.u >> 16 & 1)) >> 16);
}

static u16 *inputs(size_t count, u32 seed)
{
  u16 *data = malloc(2 * count);
  assert_non_null(data);
  for (size_t i = 0; i < count; ++i) {
    seed = seed * 1664525 + 1013904223;
    data[i] = rounded((float)(int)(seed >> 20) / 1024.0f - 2.0f);
  }
  return data;
}

static tensor_map map_of(u64 at, i32 columns, i32 rows, u32 box)
{
  return rig_map(at, (u64)columns, (u64)rows, box);
}

static void run_case(const built *b, const tml_variant *v, u64 seed, i32 m, i32 n, i32 k)
{
  rig r = rig_make(1, seed);
  u16 *a = inputs((size_t)m * (size_t)k, 1), *w = inputs((size_t)n * (size_t)k, 2);
  u64 at_a = rig_filled(&r, 0, a, 2 * (size_t)m * (size_t)k);
  u64 at_b = rig_filled(&r, 0, w, 2 * (size_t)n * (size_t)k);
  u64 at_c = rig_memory(&r, 0, 2 * (size_t)m * (size_t)n), bias = 0;
  tensor_map map_a = map_of(at_a, k, m, (u32)v->box_a), map_b = map_of(at_b, k, n, (u32)v->box_b),
             map_c = map_of(at_c, n, m, (u32)v->box_c);
  void *params[] = {&map_a, &map_b, &map_c, &bias, &m, &n, &k};
  emu_launch launch = {0,
                       v->symbol,
                       b->module->entry,
                       params,
                       b->module->sizes,
                       (int)b->module->count,
                       3,
                       b->module->threads,
                       b->module->cluster,
                       (u32)v->smem,
                       0};
  if (launch.grid % launch.cluster) ++launch.grid;
  assert_null(emu_submit_launch(r.m, &launch, r.stream[0], NULL, NULL));
  assert_int_equal(rig_run(&r), EMU_IDLE);
  const u16 *c = emu_pointer(r.m, at_c, 2);
  for (i32 y = 0; y < m; ++y) {
    for (i32 x = 0; x < n; ++x) {
      float sum = 0;
      for (i32 i = 0; i < k; ++i) sum += value(a[y * k + i]) * value(w[x * k + i]);
      assert_int_equal(c[y * n + x], rounded(sum));
    }
  }
  rig_expect_clean(&r);
  free(a);
  free(w);
  rig_free(&r);
}

static int first_name(void *user, const tml_variant *variant, const char *reason)
{
  (void)reason;
  snprintf(user, TML_NAME_BYTES, "%s", variant->name);
  return 1;
}

static void gemm_is_exact(void **state)
{
  static const i32 shapes[][3] = {{200, 136, 64}, {131, 264, 128}, {7, 24, 192}, {129, 128, 136}};
  tml_filter filter = {.op = "gemm", .arch = "sm_90a", .dtype = "bf16"};
  tml_gen *gen;
  tml_variant v;
  char name[TML_NAME_BYTES] = "";
  (void)state;
  assert_int_equal(tml_gen_open(&gen, NULL, "emu"), TML_OK);
  for (int cluster = 1; cluster <= 2; ++cluster) {
    filter.glob = cluster == 1 ? "*128x128x64.c1x1*coop*" : "*128x128x64.c2x1*coop*";
    name[0] = 0;
    assert_int_equal(tml_gen_each(gen, &filter, first_name, name), TML_OK);
    assert_true(name[0] != 0);
    assert_int_equal(tml_gen_variant(gen, name, &v), TML_OK);
    built b = build(gen, name);
    for (u64 seed = 1; seed <= SEEDS; ++seed) {
      for (size_t i = 0; i < sizeof shapes / sizeof *shapes; ++i) {
        run_case(&b, &v, seed, shapes[i][0], shapes[i][1], shapes[i][2]);
      }
    }
    dlclose(b.handle);
  }
  tml_gen_close(gen);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(gemm_is_exact)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
