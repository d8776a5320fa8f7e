#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/problem.h"
#include "../runtime/status.h"
#include "cli.h"
#include "commands.h"
#include "device.h"
#include "forge.h"
#include "stop.h"

typedef struct build_options {
  const char *arch, *out, *source, *glob;
  cli_list worlds, ops, dtypes;
  int threads;
} build_options;

static int add_variant(void *user, const tml_variant *variant, const char *reason)
{
  if (!reason) forge_add(user, variant);
  return 0;
}

static tml_status add_filtered(forge_list *list, tml_gen *gen, const build_options *o, int world)
{
  static const char *any[] = {NULL};
  const cli_list all = {any, 1};
  const cli_list *ops = o->ops.count ? &o->ops : &all,
                 *dtypes = o->dtypes.count ? &o->dtypes : &all;
  for (size_t i = 0; i < ops->count; i++) {
    for (size_t j = 0; j < dtypes->count; j++) {
      tml_filter filter = {
          .op = ops->at[i], .arch = o->arch, .dtype = dtypes->at[j], .glob = o->glob};
      filter.world = world;
      TRY(tml_gen_each(gen, &filter, add_variant, list));
    }
  }
  return TML_OK;
}

static unsigned dtypes_of(const build_options *o)
{
  unsigned dtypes = 0;
  for (size_t i = 0; i < o->dtypes.count; i++)
    for (int dtype = TML_BF16; dtype <= TML_FP16; dtype++)
      if (strcmp(o->dtypes.at[i], tml_dtype_text((tml_dtype)dtype)) == 0)
        dtypes |= FORGE_DTYPE(dtype);
  return o->dtypes.count ? dtypes : FORGE_ALL_DTYPES;
}

/* The plain GEMMs of a world of one come with every bank: each world's unfused variants run
 * them. */
static tml_status choose(forge_list *list, tml_gen *gen, const build_options *o)
{
  TRY(add_filtered(list, gen, o, 1));
  size_t wanted = 0;
  for (size_t i = 0; i < o->worlds.count; i++) {
    int world = atoi(o->worlds.at[i]);
    if (world > 1) TRY(add_filtered(list, gen, o, world));
  }
  wanted = list->count;
  TRY(forge_add_aux(list, gen, o->arch, dtypes_of(o), 1));
  for (size_t i = 0; i < o->worlds.count; i++) {
    int world = atoi(o->worlds.at[i]);
    TRY(forge_add_aux(list, gen, o->arch, dtypes_of(o), world));
  }
  if (wanted == 0)
    return tml_fail(TML_ARGUMENT, "no variant matches; `tidemill list` shows what there is");
  return TML_OK;
}

static int check_worlds(const cli_list *worlds)
{
  for (size_t i = 0; i < worlds->count; i++) {
    char *end;
    long world = strtol(worlds->at[i], &end, 10);
    if (end == worlds->at[i] || *end || world < 1 || world > TML_MAX_WORLD)
      return cli_usage("build", "--world %s: worlds run from 1 to %d", worlds->at[i],
                       TML_MAX_WORLD);
  }
  return CLI_OK;
}

/* Only worlds above one communicate. */
static int check_ops(const build_options *o)
{
  for (size_t i = 0; i < o->worlds.count; i++)
    if (atoi(o->worlds.at[i]) > 1) return CLI_OK;
  for (size_t i = 0; i < o->ops.count; i++)
    for (int op = TML_AG_GEMM; op <= TML_GEMM_AR; op++)
      if (strcmp(o->ops.at[i], tml_op_text((tml_op)op)) == 0)
        return cli_usage("build", "a world of 1 has no %s: give --world 2 or more", o->ops.at[i]);
  return CLI_OK;
}

static int check_options(build_options *o)
{
  o->source = cli_or_env(o->source, "TIDEMILL_SOURCE");
  if (!o->arch) return cli_usage("build", "say for which GPU: --arch sm_90a");
  if (!o->out) return cli_usage("build", "say where to write the bank: -o FILE");
  if (o->threads > 256) return cli_usage("build", "--jobs runs from 1 to 256");
  int code = check_worlds(&o->worlds);
  return code ? code : check_ops(o);
}

static int report(const forge_result *r, const char *path)
{
  printf("%s: %d variants: %d compiled, %d reused, %d refused, %d failed in %.1f s", path, r->total,
         r->compiled, r->reused, r->refused, r->failed, r->seconds);
  if (r->slowest_ms > 0) printf("; slowest %.0f ms: %s", r->slowest_ms, r->slowest);
  putchar('\n');
  return r->failed ? cli_fail("%d of %d variants did not compile; the first: %s", r->failed,
                              r->total, r->first_error)
                   : CLI_OK;
}

static int run(const build_options *o)
{
  tml_gen *gen = NULL;
  forge_list list = {0};
  forge_result result;
  int code = CLI_OK;
  stop_catch();
  stop_keeps(o->out, device_api()->isa);
  tml_status status = tml_gen_open(&gen, o->source, device_api()->isa);
  if (status == TML_OK) status = choose(&list, gen, o);
  tml_gen_close(gen);
  if (status == TML_ARGUMENT) code = cli_usage("build", "%s", tml_last_error());
  if (status == TML_OK) status = forge_run(&list, o->out, o->source, o->threads, 0, &result);
  if (status == TML_OK)
    code = report(&result, o->out);
  else if (!code)
    code = cli_fail_status(status, "build");
  forge_list_free(&list);
  return code;
}

int cmd_build(int argc, char **argv)
{
  build_options o = {0};
  const cli_option options[] = {
      {"--out", "-o", CLI_TEXT, &o.out, "FILE", "the bank to write; made or continued"},
      {"--arch", NULL, CLI_TEXT, &o.arch, "ARCH", "the GPU architecture, for example sm_90a"},
      {"--world", "-w", CLI_LIST, &o.worlds, "N",
       "a world size to build for; may be repeated; default 1. Plain GEMMs are always built"},
      {"--op", NULL, CLI_LIST, &o.ops, "OP", "only this op; may be repeated"},
      {"--dtype", NULL, CLI_LIST, &o.dtypes, "DTYPE", "only this type; may be repeated"},
      {"--variants", NULL, CLI_TEXT, &o.glob, "GLOB", "only variants whose name matches"},
      {"--jobs", "-j", CLI_COUNT, &o.threads, "N",
       "compile N variants at once; default: all cores"},
      {"--source", NULL, CLI_TEXT, &o.source, "DIR",
       "read gen/ and templates/ from this folder instead of the built-in copies"},
  };
  const cli_command command = {
      "build",
      "",
      "Compiles the variants of the declared space with NVRTC and stores them in a bank. Needs no "
      "GPU.\n"
      "A build that was stopped, even by kill -9, goes on where it was; what the bank already "
      "holds\n"
      "from the same source and compiler is kept. Variants that the compiler spoils (spills,\n"
      "serialised wgmma) are recorded as refused, with the reason.",
      options,
      sizeof options / sizeof *options,
      "  tidemill build --arch sm_90a --world 2 --world 8 -o h200.bank\n"
      "  tidemill build --arch sm_90a --variants '*__128x256x64.*' -o few.bank\n"};
  cli_list operands;
  int code = cli_parse(&command, argc, argv, &operands);
  if (!code) code = check_options(&o);
  if (!code) code = run(&o);
  free(o.worlds.at);
  free(o.ops.at);
  free(o.dtypes.at);
  return code == CLI_HELP ? CLI_OK : code;
}
