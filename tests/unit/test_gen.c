/* The Lua bridge, over the small gen/ in source/; then over the real, embedded one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "gen.h"
#include "problem.h"

#define SOURCE TML_ROOT "/tests/unit/source"

static char folder[] = "/tmp/tml_gen_XXXXXX";

static void put(const char *path, const char *text)
{
  char full[256];
  snprintf(full, sizeof full, "%s/%s", folder, path);
  FILE *file = fopen(full, "w");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
}

static int make_folder(void **state)
{
  char path[64];
  (void)state;
  if (!mkdtemp(folder)) return -1;
  snprintf(path, sizeof path, "%s/gen", folder);
  return mkdir(path, 0700);
}

static int remove_folder(void **state)
{
  char command[64];
  (void)state;
  snprintf(command, sizeof command, "rm -r %s", folder);
  return system(command);
}

static tml_gen *open_gen(const char *isa)
{
  tml_gen *gen;
  if (tml_gen_open(&gen, SOURCE, isa) != TML_OK) fail_msg("%s", tml_last_error());
  return gen;
}

static void variants(void **state)
{
  (void)state;
  tml_gen *gen = open_gen(NULL);
  tml_variant v;
  assert_int_equal(tml_gen_variant(gen, "one.1", &v), TML_OK);
  assert_string_equal(v.name, "one.1");
  assert_int_equal(v.kind, TML_KIND_FUSED);
  assert_int_equal(v.op, TML_AG_GEMM);
  assert_int_equal(v.dtype, TML_FP16);
  assert_int_equal(v.pattern, TML_PATTERN_CE);
  assert_int_equal(v.smem, 200000);
  assert_int_equal(v.cooperative, 1);
  assert_int_equal(v.param_count, 3);
  assert_int_equal(v.params[1], TML_PARAM_bias);
  assert_int_equal(v.requires_count, 1);
  assert_string_equal(v.requires[0], "gate");
  assert_int_equal(tml_gen_variant(gen, "nobody", &v), TML_ARGUMENT);
  assert_string_equal(tml_last_error(), "no such name");
  assert_int_equal(tml_gen_variant(gen, "illegal", &v), TML_UNSUPPORTED);
  assert_string_equal(tml_last_error(), "too big");
  assert_int_equal(tml_gen_aux(gen, "gate", "sm_90a", TML_BF16, 2, &v), TML_OK);
  assert_string_equal(v.name, "gatesm_90abf162");
  assert_int_equal(v.kind, TML_KIND_AUX);
  assert_int_equal(tml_gen_aux(gen, "x", "sm_90a", TML_BF16, 2, &v), TML_UNSUPPORTED);
  tml_gen_close(gen);
}

static void errors_name_the_place(void **state)
{
  (void)state;
  static const struct {
    const char *name, *text;
  } rows[] = {
      {"raise", "gen/init.lua:20: boom"},
      {"table", "gen/ raised a table"},
      {"param", "kernel parameter 'nobody' is unknown"},
      {"twice", "kernel parameter 'm' is listed twice"},
      {"float", "'smem' must be an integer"},
  };
  tml_gen *gen = open_gen(NULL);
  for (int round = 0; round < 50; round++) { /* the stack stays level */
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
      tml_variant v;
      assert_int_equal(tml_gen_variant(gen, rows[i].name, &v), TML_TEMPLATE);
      if (!strstr(tml_last_error(), rows[i].text))
        fail_msg("%s: %s", rows[i].name, tml_last_error());
    }
  }
  tml_gen_close(gen);
}

static char *expand(tml_gen *gen, const char *name, int lines)
{
  static char copy[4096];
  char *text;
  size_t bytes;
  if (tml_gen_expand(gen, name, lines, &text, &bytes) != TML_OK) {
    assert_null(text);
    return NULL;
  }
  assert_int_equal(bytes, strlen(text));
  snprintf(copy, sizeof copy, "%s", text);
  free(text);
  return copy;
}

static void sandbox(void **state)
{
  (void)state;
  tml_gen *gen = open_gen("emu");
  assert_string_equal(expand(gen, "one.1", 1), "text\ntrueemudeep");
  assert_string_equal(expand(gen, "globals", 0), "|nilnil");
  assert_string_equal(expand(gen, "bytecode", 0), "nil");
  assert_string_equal(expand(gen, "load", 0), "env");
  assert_non_null(strstr(expand(gen, "chunk", 0), "kernel/x.cu.in:1:"));
  assert_null(expand(gen, "outside", 0));
  assert_non_null(strstr(tml_last_error(), "outside: "));
  assert_non_null(strstr(tml_last_error(), "is not a file of gen/ or templates/"));
  assert_null(expand(gen, "absent", 0));
  assert_non_null(strstr(tml_last_error(), "No such file"));
  assert_string_equal(expand(gen, "late", 0), "falsegen/late.lua:2: late trouble");
  tml_gen_close(gen);
}

typedef struct walk {
  int calls, stop_after;
  char names[256];
  const char *reason;
  tml_gen *gen;
} walk;

static int seen(void *user, const tml_variant *v, const char *reason)
{
  walk *w = user;
  strcat(w->names, v->name);
  strcat(w->names, " ");
  if (reason) w->reason = strcmp(reason, "smem") == 0 ? "smem" : "other";
  if (w->gen)
    assert_string_equal(expand(w->gen, "one.1", 0), "text\nfalsenildeep"); /* calls nest */
  return ++w->calls == w->stop_after;
}

static void each(void **state)
{
  (void)state;
  tml_gen *gen = open_gen(NULL);
  walk w = {.gen = gen};
  assert_int_equal(tml_gen_each(gen, NULL, seen, &w), TML_OK);
  assert_string_equal(w.names, "one.1 one.2 one.3 ");
  w = (walk){.stop_after = 2};
  assert_int_equal(tml_gen_each(gen, &(tml_filter){.op = ""}, seen, &w), TML_OK);
  assert_int_equal(w.calls, 2);
  w = (walk){.calls = 0};
  assert_int_equal(
      tml_gen_each(gen, &(tml_filter){.glob = "*.?", .world = 2, .refused = 1}, seen, &w), TML_OK);
  assert_int_equal(w.calls, 3);
  w = (walk){.calls = 0};
  assert_int_equal(
      tml_gen_each(gen, &(tml_filter){.glob = "*a*", .world = 2, .refused = 1}, seen, &w), TML_OK);
  assert_string_equal(w.names, "bad ");
  assert_string_equal(w.reason, "smem");
  w = (walk){.calls = 0};
  assert_int_equal(tml_gen_each(gen, &(tml_filter){.glob = "o?e*2"}, seen, &w), TML_OK);
  assert_string_equal(w.names, "one.2 ");
  assert_int_equal(tml_gen_each(gen, &(tml_filter){.op = "conv"}, seen, &w), TML_ARGUMENT);
  assert_string_equal(tml_last_error(), "unknown op 'conv'; known: gemm");
  tml_gen_close(gen);
}

static void questions(void **state)
{
  (void)state;
  tml_gen *gen = open_gen(NULL);
  tml_pad pad;
  assert_int_equal(tml_gen_pad(gen, &pad), TML_OK);
  assert_int_equal(pad.words, 256);
  char arch[16], reason[64] = "x";
  assert_int_equal(tml_gen_arch(gen, 90, arch, sizeof arch), TML_OK);
  assert_string_equal(arch, "sm_90a");
  assert_int_equal(tml_gen_arch(gen, 75, arch, sizeof arch), TML_UNSUPPORTED);
  assert_string_equal(tml_last_error(), "known: sm_90a");
  tml_problem p = {.world = 1, .m = 1, .n = 16, .k = 8, .bias = 1};
  assert_int_equal(tml_gen_serves(gen, "one.1", &p, reason, sizeof reason), TML_OK);
  assert_string_equal(reason, "");
  tml_ranked ranked[1];
  size_t count;
  assert_int_equal(tml_gen_rank(gen, "sm_90a", &p, &(tml_machine){.sms = 7}, ranked, 1, &count),
                   TML_OK);
  assert_int_equal(count, 2);
  assert_string_equal(ranked[0].name, "atrue7");
  assert_true(ranked[0].us == 1.5);
  p.n = 8, p.m = 0;
  assert_int_equal(tml_gen_serves(gen, "one.1", &p, reason, sizeof reason), TML_UNSUPPORTED);
  assert_string_equal(reason, "n % 16");
  assert_int_equal(tml_gen_rank(gen, "sm_90a", &p, NULL, ranked, 1, &count), TML_UNSUPPORTED);
  assert_int_equal(count, 0);
  tml_gen_close(gen);
}

static void broken_sources(void **state)
{
  (void)state;
  static const struct {
    const char *text, *error;
  } rows[] = {
      {"local x = = 1\n", "gen/init.lua:1:"},
      {"\n\nerror \"stop\"\n", "gen/init.lua:3: stop"},
      {"return 1\n", "gen/init.lua must return a table"},
      {"return {}\n", "gen/init.lua has no 'set_isa'"},
      {"return require \"init\"\n", "module 'init' requires itself"},
      {"return require \"none\"\n", "gen/none.lua in "},
      {"\033Lua", "attempt to load"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    tml_gen *gen;
    put("gen/init.lua", rows[i].text);
    assert_int_equal(tml_gen_open(&gen, folder, NULL), TML_TEMPLATE);
    assert_null(gen);
    if (!strstr(tml_last_error(), rows[i].error)) fail_msg("row %zu: %s", i, tml_last_error());
  }
  tml_gen *gen;
  assert_int_equal(tml_gen_open(&gen, "/nowhere", NULL), TML_TEMPLATE);
  tml_gen_close(NULL);
}

/* ---- The embedded generator ------------------------------------------------------------------ */

typedef struct texts {
  tml_gen *gen;
  int count;
} texts;

static int expand_each(void *user, const tml_variant *v, const char *reason)
{
  texts *t = user;
  char *text;
  size_t bytes;
  assert_null(reason);
  if (v->kind == TML_KIND_LIBRARY) return 0;
  if (tml_gen_expand(t->gen, v->name, 0, &text, &bytes) != TML_OK) fail_msg("%s", tml_last_error());
  if (!strstr(text, v->symbol)) fail_msg("%s: its text lacks %s", v->name, v->symbol);
  free(text);
  return ++t->count == 40; /* a sample: all of them belong to the compile tests */
}

static void embedded(void **state)
{
  (void)state;
  texts t = {.count = 0};
  tml_pad pad;
  if (tml_gen_open(&t.gen, NULL, NULL) != TML_OK) fail_msg("%s", tml_last_error());
  assert_int_equal(tml_gen_pad(t.gen, &pad), TML_OK);
  assert_true(pad.words > 0);
  assert_int_equal(tml_gen_each(t.gen, NULL, expand_each, &t), TML_OK);
  assert_true(t.count > 0);
  tml_gen_close(t.gen);
}

/* Blocks that wait for their peers' blocks must all be resident; the rest starts early and waits
 * itself. A launch asks for one of the two, never both. */
static int check_attributes(void *user, const tml_variant *v, const char *reason)
{
  int *seen = user, sends = v->pattern == TML_PATTERN_PUSH || v->pattern == TML_PATTERN_RING ||
                            v->pattern == TML_PATTERN_TWOSHOT;
  assert_null(reason);
  if (v->kind == TML_KIND_LIBRARY) return 0;
  if (v->kind == TML_KIND_AUX) sends = 0;
  int gate = v->kind == TML_KIND_AUX && strstr(v->name, "__gate") != NULL;
  if (v->cooperative != sends) fail_msg("%s: cooperative is %d", v->name, v->cooperative);
  if (v->overlap != (gate || v->kind == TML_KIND_FUSED))
    fail_msg("%s: overlap is %d", v->name, v->overlap);
  if (v->kind == TML_KIND_FUSED && v->box_n != (v->tile_n % 64 ? 32 : 64))
    fail_msg("%s: box_n is %d", v->name, v->box_n);
  int ce = v->pattern == TML_PATTERN_CE, sm = v->pattern == TML_PATTERN_SM;
  if (v->kind == TML_KIND_FUSED && !ce && v->chunks_k * v->chunks_m != 1)
    fail_msg("%s: only copies come in chunks", v->name);
  if ((v->movers > 0) != sm || v->movers % (sm ? v->cluster_m * v->cluster_n * v->split : 1) != 0)
    fail_msg("%s: %d movers", v->name, v->movers);
  if (sm && (v->move_k % 64 != 0 || v->move_k * v->tile_m > 64 * (v->tile_m + v->tile_n)))
    fail_msg("%s: a chunk of %d columns", v->name, v->move_k);
  *seen |= v->kind == TML_KIND_FUSED ? 1 << v->pattern : 0;
  return 0;
}

static void attributes(void **state)
{
  tml_gen *gen;
  int seen = 0;
  (void)state;
  assert_int_equal(tml_gen_open(&gen, NULL, NULL), TML_OK);
  for (int world = 1; world <= 2; world++)
    assert_int_equal(tml_gen_each(gen, &(tml_filter){.world = world}, check_attributes, &seen),
                     TML_OK);
  assert_int_equal(seen, 1 << TML_PATTERN_NONE | 1 << TML_PATTERN_CE | 1 << TML_PATTERN_SM |
                             1 << TML_PATTERN_PUSH | 1 << TML_PATTERN_RING |
                             1 << TML_PATTERN_TWOSHOT);
  tml_gen_close(gen);
}

static tml_pattern best_of(tml_gen *gen, const char *text, const char *link)
{
  static tml_ranked ranked[TML_RANKED_MAX];
  size_t count = 0;
  tml_problem problem;
  tml_variant variant;
  tml_machine machine = {.sms = 132};
  snprintf(machine.link, sizeof machine.link, "%s", link);
  assert_int_equal(tml_problem_parse(&problem, text), TML_OK);
  assert_int_equal(tml_gen_rank(gen, "sm_90a", &problem, &machine, ranked, TML_RANKED_MAX, &count),
                   TML_OK);
  assert_true(count > 0 && count <= TML_RANKED_MAX);
  assert_int_equal(tml_gen_variant(gen, ranked[0].name, &variant), TML_OK);
  return variant.pattern;
}

/* The ring pays for its hops, and is worth it where all to all is slow. */
static void links(void **state)
{
  tml_gen *gen;
  (void)state;
  assert_int_equal(tml_gen_open(&gen, NULL, NULL), TML_OK);
  for (int m = 512; m <= 8192; m *= 4)
    for (int world = 2; world <= 8; world *= 2) {
      char text[96];
      snprintf(text, sizeof text, "gemm_rs:bf16:nt:w%d:%dx4096x2048", world, m);
      assert_int_equal(best_of(gen, text, "nvlink"), TML_PATTERN_PUSH);
      assert_int_equal(best_of(gen, text, "pcie"),
                       world == 2 ? TML_PATTERN_PUSH : TML_PATTERN_RING);
    }
  tml_gen_close(gen);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(variants),  cmocka_unit_test(errors_name_the_place),
      cmocka_unit_test(sandbox),   cmocka_unit_test(each),
      cmocka_unit_test(questions), cmocka_unit_test(broken_sources),
      cmocka_unit_test(embedded),  cmocka_unit_test(attributes),
      cmocka_unit_test(links),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
