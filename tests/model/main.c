/* The scenarios, and the run over all of them and all mutants.
 *
 *   model                 explores every scenario, then every mutant; exit 0 if all is as expected
 *   model --trace NAME    the counterexample of one mutant, step by step
 *   model --scenario NAME one scenario under the contract; a violation prints its trace */
#include <stdio.h>
#include <string.h>

#include "model.h"

static const scenario scenarios[] = {
    /* name, world, calls, calls of the last rank, stops, late, fine, one_block, coarse */
    {"w2 push", 2, "pppp", NULL, 0, 0, 1, 0, 0},
    {"w2 empty ranks", 2, "p1p1p1p0p1", NULL, 0, 0, 1, 0, 0},
    {"w2 twoshot", 2, "aaa1a", NULL, 0, 0, 1, 0, 0},
    {"w2 rounds", 2, "qqq1qq", NULL, 0, 0, 1, 0, 0},
    {"w2 twoshot rounds", 2, "bbb1b", NULL, 0, 0, 1, 0, 0},
    {"w2 mixed rounds", 2, "qbpq0ac1b1rq", NULL, 0, 0, 1, 0, 0},
    {"w2 movers", 2, "mmm1mm", NULL, 0, 0, 1, 0, 0},
    {"w2 movers, gathered", 2, "nmnn1pn", "mnnn1pm", 0, 0, 1, 0, 0},
    {"w2 few movers resident", 2, "mnm1n", NULL, 0, 0, 1, 1, 0},
    {"w2 even graph", 2, "(cc)2cc", NULL, 0, 0, 1, 0, 0},
    {"w2 odd graph", 2, "c(c)3c1", NULL, 0, 0, 1, 0, 0},
    {"w2 odd mixed graph", 2, "(ccpc)2", NULL, 0, 0, 1, 0, 0},
    {"w2 odd gathered", 2, "(g)5", NULL, 0, 0, 1, 0, 0},
    {"w2 gathered by one", 2, "(g)2(gpc)2", "(c)2(gpc)2", 0, 0, 1, 0, 0},
    {"w2 mixed gathered", 2, "gc1(gpcg1)2", NULL, 0, 0, 1, 0, 0},
    {"w2 late gathered", 2, "(g)3c", NULL, 0, 1, 1, 0, 0},
    {"w3 gathered", 3, "(g)3", NULL, 0, 0, 0, 0, 0},
    {"w2 mixed", 2, "cap1cc1p0c0ap", NULL, 0, 0, 1, 0, 0},
    {"w2 one block resident", 2, "ppcp1c", NULL, 0, 0, 1, 1, 0},
    {"w2 other op", 2, "ppp", "pcp", 0, 0, 1, 0, 0},
    {"w2 other m", 2, "pp1p", "pp0p", 0, 0, 1, 0, 0},
    {"w2 other slot", 2, "cccc", "(c)4", 0, 0, 1, 0, 0},
    {"w2 stop mixed", 2, "pca1", NULL, 1, 0, 1, 0, 0},
    {"w2 stop copies", 2, "(c)3", NULL, 1, 0, 1, 0, 0},
    {"w2 late mixed", 2, "pap", NULL, 0, 1, 1, 0, 0},
    {"w2 late rounds", 2, "qbq", NULL, 0, 1, 1, 0, 0},
    {"w2 late movers", 2, "nmn", NULL, 0, 1, 1, 0, 0},
    {"w2 stop rounds", 2, "qb1", NULL, 1, 0, 1, 0, 0},
    {"w2 other rounds", 2, "qpq", "qqq", 0, 0, 1, 0, 0},
    {"w2 late copies", 2, "(c)4", NULL, 0, 2, 1, 0, 0},
    {"w2 fewer calls", 2, "pcp", "pc", 0, 1, 1, 0, 0},
    {"w2 late headers", 2, "p0p0p0", NULL, 0, 1, 0, 0, 0},
    {"w3 push", 3, "ppp", NULL, 0, 0, 1, 0, 0},
    {"w3 empty ranks", 3, "p1p2p1p1", NULL, 0, 0, 1, 0, 0},
    {"w3 twoshot", 3, "aa2a", NULL, 0, 0, 0, 0, 0},
    {"w3 rounds", 3, "qq2q", NULL, 0, 0, 0, 0, 0},
    {"w3 twoshot rounds", 3, "bb2", NULL, 0, 0, 0, 0, 0},
    {"w3 mixed rounds", 3, "q1bpq2a", NULL, 0, 0, 0, 0, 0},
    {"w3 late rounds", 3, "qq", NULL, 0, 1, 0, 0, 1},
    {"w3 movers", 3, "nm2n", NULL, 0, 0, 0, 0, 0},
    {"w3 mixed movers", 3, "mcn1qpm", NULL, 0, 0, 0, 0, 0},
    {"w3 ring", 3, "rrr2r", NULL, 0, 0, 0, 0, 0},
    {"w3 mixed ring", 3, "r1pra2r", NULL, 0, 0, 0, 0, 0},
    {"w3 late ring", 3, "rr", NULL, 0, 1, 0, 0, 0},
    {"w3 stop ring", 3, "rr1", NULL, 1, 0, 0, 0, 0},
    {"w3 same slot", 3, "(c)4", NULL, 0, 0, 0, 0, 0},
    {"w3 odd mixed graph", 3, "(c2pcc)2", NULL, 0, 0, 0, 0, 0},
    {"w3 mixed", 3, "p2pa1cp0cp", NULL, 0, 0, 0, 0, 0},
    {"w3 other op", 3, "ppp", "pcp", 0, 0, 0, 0, 0},
    {"w3 late push", 3, "pp1p", NULL, 0, 1, 0, 0, 0},
    {"w3 late gate", 3, "(c)2", NULL, 0, 1, 0, 0, 0},
    {"w3 late mixed", 3, "(cp)2", NULL, 0, 1, 0, 0, 0},
    {"w3 stop late", 3, "(c)2", NULL, 1, 1, 0, 0, 0},
    {"w3 stop headers", 3, "p0c1p0", NULL, 1, 0, 1, 0, 0},
    {"w3 stop", 3, "pcp1", NULL, 1, 0, 0, 0, 0},
    {"w4 push", 4, "ppp1", NULL, 0, 0, 0, 0, 0},
    {"w4 twoshot", 4, "aa1", NULL, 0, 0, 0, 0, 1},
    {"w4 rounds", 4, "qq1", NULL, 0, 0, 0, 0, 1},
    {"w4 twoshot rounds", 4, "b3b", NULL, 0, 0, 0, 0, 1},
    {"w4 ring", 4, "rr1", NULL, 0, 0, 0, 0, 0},
    {"w4 copies", 4, "(c)2c1", NULL, 0, 0, 0, 0, 0},
    {"w4 mixed graph", 4, "(cp3)2a", NULL, 0, 0, 0, 0, 1},
    {"w4 stop", 4, "cp", NULL, 1, 0, 0, 0, 1},
};
enum { SCENARIOS = sizeof scenarios / sizeof *scenarios };

typedef struct mutant_row {
  const char *name, *text, *scenario;
  property fails;
} mutant_row;
#define X(id, text, scenario, fails) {#id, text, scenario, fails},
static const mutant_row mutants[] = {MUTANT_MAP(X)};
#undef X

const char *property_text(property p)
{
#define X(id, text) text,
  static const char *const texts[] = { PROPERTY_MAP(X) };
#undef X
  return texts[p];
}

static const scenario *scenario_of(const char *name)
{
  for (int i = 0; i < SCENARIOS; ++i)
    if (strcmp(scenarios[i].name, name) == 0) return &scenarios[i];
  return NULL;
}

static int run_scenario(const scenario *s)
{
  run r;
  char calls[40];
  int good = explore(&r, s, MUTANT_NONE, 1);
  snprintf(calls, sizeof calls, "%s%s%s", s->calls, s->other ? ", last " : "",
           s->other ? s->other : "");
  printf("%-22s %-16s %8llu states %9llu steps  depth %3d  ahead %d  %4.1f s  %s\n", s->name, calls,
         (unsigned long long)r.states, (unsigned long long)r.steps, r.depth, r.furthest, r.seconds,
         property_text(r.failed));
  fflush(stdout);
  return good;
}

static int run_mutant(mutant m, int trace)
{
  run r;
  const mutant_row *row = &mutants[m];
  const scenario *s = scenario_of(row->scenario);
  if (!s) {
    printf("%s: no scenario \"%s\"\n", row->name, row->scenario);
    return 0;
  }
  if (trace) printf("%s: %s\n", row->name, row->text);
  explore(&r, s, m, trace);
  printf("%-30s -> %-37s %3d steps  ahead %d  (%s)\n", row->name, property_text(r.failed), r.depth,
         r.furthest, s->name);
  if (r.failed != row->fails) printf("  EXPECTED: %s\n", property_text(row->fails));
  fflush(stdout);
  return r.failed == row->fails;
}

static int run_all(void)
{
  int broken = 0, escaped = 0;
  for (int i = 0; i < SCENARIOS; ++i) broken += !run_scenario(&scenarios[i]);
  printf("\n");
  for (int m = MUTANT_NONE + 1; m < MUTANTS; ++m) escaped += !run_mutant((mutant)m, 0);
  printf("\n%d of %d scenarios hold, %d of %d mutants are caught as expected\n", SCENARIOS - broken,
         SCENARIOS, MUTANTS - 1 - escaped, MUTANTS - 1);
  return broken + escaped != 0;
}

int main(int argc, char **argv)
{
  if (argc == 1) return run_all();
  if (argc == 3 && strcmp(argv[1], "--scenario") == 0 && scenario_of(argv[2]))
    return !run_scenario(scenario_of(argv[2]));
  for (int m = MUTANT_NONE + 1; argc == 3 && m < MUTANTS; ++m)
    if (strcmp(argv[1], "--trace") == 0 && strcmp(argv[2], mutants[m].name) == 0)
      return !run_mutant((mutant)m, 1);
  printf("usage: model [--trace MUTANT | --scenario NAME]\n");
  return 2;
}
