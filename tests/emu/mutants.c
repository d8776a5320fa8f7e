/* The emulator can fail: kernels and drivers with one mistake each. Every mutant must be caught by a report
 * of the emulator, by a fault of the protocol or by a wrong result, within a few seeds; the same case
 * without the mistake must pass with all of them. An edit that finds nothing to change fails the suite.
 *
 *   emu_mutants [part of a name] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bed.h"
#include "edit.h"

#define MOST_SEEDS 12
#define EDITS 2

typedef struct shape {
  const char *problem, *variant;
  int calls, replays;
  int slow; /* rank whose launches begin late, or -1 */
  int sms;  /* 0: the default; 1: one block does all tiles */
  int gathered, symmetric;
} shape;

/* Deep enough in k that the ring of stages wraps, not a multiple of anything in m and n. */
static const shape RS = {
    "gemm_rs:bf16:nt:w2:137x136x520", "*__128x128x64.c1x1.s?.coop.*", 2, 0, -1, 0, 0, 0};
static const shape RS_LATE = {
    "gemm_rs:bf16:nt:w2:137x136x72", "*__128x128x64.c1x1.s?.coop.*", 4, 0, 1, 0, 0, 0};
static const shape RS_EMPTY = {
    "gemm_rs:bf16:nt:w3:2x136x72", "*__128x128x64.c1x1.s?.coop.*", 4, 0, 0, 0, 0, 0};
static const shape RS_LONG = {
    "gemm_rs:bf16:nt:w2:137x264x72", "*__128x128x64.c1x1.s?.coop.*", 1, 0, -1, 1, 0, 0};
static const shape RING = {
    "gemm_rs:bf16:nt:w3:137x136x136", "*__128x128x64.c1x1.s?.coop.*.ring", 2, 0, -1, 0, 0, 0};
static const shape AR = {
    "gemm_ar:bf16:nt:w3:137x136x136", "*__128x128x64.c1x1.s?.coop.*", 2, 0, -1, 0, 0, 0};
static const shape AR_SYMMETRIC = {
    "gemm_ar:bf16:nt:w3:137x136x136", "*__128x128x64.c1x1.s?.coop.*", 2, 0, -1, 0, 0, 1};
static const shape AG = {
    "ag_gemm:bf16:nt:w2:137x136x136", "*__128x128x64.c1x1.s?.coop.*", 2, 0, -1, 0, 0, 0};
static const shape AG_GRAPH = {
    "ag_gemm:bf16:nt:w2:137x136x520", "*__128x128x64.c1x1.s?.coop.*kc2.ce", 1, 6, -1, 0, 0, 0};

/* One call, replayed: the same slot every time. */
static const shape AG_GATHERED = {
    "ag_gemm:bf16:nt:w3:37x136x520", "*__128x128x64.c1x1.s?.coop.*", 1, 6, 0, 0, 1, 0};

/* A late rank, whose A is read late and written late. */
static const shape AG_PULLING = {
    "ag_gemm:bf16:nt:w2:137x136x136", "*__128x128x64.c1x1.s?.coop.*", 2, 0, 1, 0, 0, 1};

/* Chunks along k. Movers beside the blocks that wait for them: three chunks; a late peer; and movers
 * with more than one chunk. */
static const shape AG_CHUNKS = {
    "ag_gemm:bf16:nt:w2:137x136x264", "*__128x128x64.c1x1.s?.coop.*kc2.ce", 2, 0, -1, 0, 0, 0};
static const shape AG_MOVERS = {
    "ag_gemm:bf16:nt:w2:137x136x1096", "*__128x128x64.c1x1.s?.coop.*x8.sm", 2, 0, -1, 12, 0, 0};
static const shape AG_MOVERS_LATE = {
    "ag_gemm:bf16:nt:w2:137x136x1096", "*__128x128x64.c1x1.s?.coop.*x8.sm", 3, 0, 1, 12, 0, 0};
static const shape AG_MOVERS_LONG = {
    "ag_gemm:bf16:nt:w2:9x8x9224", "*__128x128x64.c1x1.s?.coop.*x8.sm", 1, 0, -1, 12, 0, 0};

/* Four parts of k, one of them empty; one cluster does several tiles. */
static const shape SPLIT = {
    "gemm:bf16:nt:w1:137x264x136", "*__128x128x64.c1x1.k4.*", 1, 0, -1, 0, 0, 0};

/* Two blocks share loads and give stages back to each other. */
static const shape MATES = {
    "gemm:bf16:nt:w1:129x136x520", "*__128x128x64.c2x1.s6.coop.*", 1, 0, -1, 0, 0, 0};

typedef struct mutant {
  const char *name;
  const shape *shape;
  const char *where; /* part of the kernel's name */
  struct {
    const char *from, *to;
  } edit[EDITS];
  tml_emu_mistake mistake;
} mutant;

static const mutant mutants[] = {
    {"output buffer handed over without the proxy fence",
     &RS,
     "gemm_rs",
     {{"  fence_async_smem();\n  warp_sync();", "  warp_sync();"}},
     0},
    {"global proxy fence of the wait dropped",
     &RS,
     "gemm_rs",
     {{"  fence_async_global();\n", ""}},
     0},
    {"producer does not wait for a free stage",
     &RS,
     "gemm_rs",
     {{"      mbar_wait(j->smem + # + 8 * stage, parity);\n      load_stage", "      load_stage"}},
     0},
    {"signal before the wait for the bulk stores",
     &RS,
     "gemm_rs",
     {{"      tma_store_wait(0);\n      if (", "      if ("}},
     0},
    {"consumer waits for the wrong phase",
     &RS,
     "gemm_rs",
     {{"mbar_wait(j->smem + # + 8 * stage, parity);\n    wgmma_fence",
       "mbar_wait(j->smem + # + 8 * stage, parity ^ 1);\n    wgmma_fence"}},
     0},
    {"wrong swizzle of the output buffer",
     &AG,
     "ag_gemm",
     {{"(chunk ^ (row & 7)) << 4", "(chunk ^ (row & 3)) << 4"}},
     0},
    {"staging without its parity",
     &RS_LATE,
     "gemm_rs",
     {{"j->rank, (i32)(j->epoch & 1));", "j->rank, 0);"},
      {"(part >= j->rank), (i32)(j->epoch & 1));", "(part >= j->rank), 0);"}},
     0},
    {"relaxed poll without the acquire",
     &RS,
     "gemm_rs",
     {{"  global_load_acquire_sys(at);\n  fence_async_global();\n", "  fence_async_global();\n"}},
     0},
    {"own tile before the peers' signals",
     &RS,
     "gemm_rs",
     {{"{ return wait_partials(j, t); }", "{ return 1; }"}},
     0},
    {"own tiles a round before the sends that they wait for",
     &RS_LONG,
     "gemm_rs",
     {{"return (void)chunks, step == #;", "return (void)chunks, step == # ? -1 : 0;"}},
     0},
    {"partial passed on round the ring before it has arrived",
     &RING,
     "gemm_rs",
     {{"return tile_adds(t); }", "return t->kind == TILE_OWN; }"}},
     0},
    {"finished tile read before its signal",
     &AR,
     "gemm_ar",
     {{"wait_partials(j, t) : wait_result(j, t);", "wait_partials(j, t) : 1;"}},
     0},
    {"end without waiting for the tiles that others store into C",
     &AR_SYMMETRIC,
     "gemm_ar",
     {{"wait_partials(j, t) : wait_result(j, t);", "wait_partials(j, t) : 1;"}},
     0},
    {"expect_tx with too few bytes",
     &AG,
     "ag_gemm",
     {{"mbar_arrive_expect(full, #);", "mbar_arrive_expect(full, # / 2);"}},
     0},
    {"tail tile forgotten", &AG, "ag_gemm", {{"* div_up(j->n, #);", "* (j->n / #);"}}, 0},
    {"rank without rows does not wait for headers",
     &RS_EMPTY,
     "gemm_rs",
     {{"  if (!wait_for(j, here, j->epoch, FAULT_HEADER_TIMEOUT, peer, -1)) return;",
       "  if (shard_rows(j, j->rank) == 0) return;\n"
       "  if (!wait_for(j, here, j->epoch, FAULT_HEADER_TIMEOUT, peer, -1)) return;"}},
     0},
    {"done signal before the last read",
     &AG_GRAPH,
     "ag_gemm",
     {{"    regs_decrease(#);\n", "    regs_decrease(#);\n    if (thread == 0 && block_id() == 0) "
                                  "call_finished(&j, call_epoch(&j));\n"}},
     0},
    {"copy slot reused without the gate",
     &AG_GRAPH,
     "__gate",
     {{"alive = wait_for(&j, own + 8 * (u64)(# + lane), last, FAULT_SLOT_TIMEOUT, lane, slot);",
       "(void)last;"}},
     0},
    {"accumulators read before the wait",
     &AG,
     "ag_gemm",
     {{"  wgmma_wait(0);\n  release_stage", "  release_stage"}},
     0},
    {"stage given back while the tensor cores read it",
     &RS,
     "gemm_rs",
     {{"    wgmma_wait(1);\n    if (i > 0) release_stage(j, previous, thread);",
       "    if (i > 0) release_stage(j, previous, thread);"}},
     0},
    {"output buffer given back while the store reads it",
     &RS_LONG,
     "gemm_rs",
     {{"            tma_store_wait_read(1);\n", ""}},
     0},
    {"signal stored relaxed",
     &RS,
     "gemm_rs",
     {{"global_store_release_sys(signal_word(j, t->shard,",
       "global_store_relaxed_sys(signal_word(j, t->shard,"}},
     0},
    {"barriers initialised without their fence",
     &AG,
     "ag_gemm",
     {{"  mbar_init_fence();\n", ""}},
     0},
    {"descriptor that does not advance along k",
     &AG,
     "ag_gemm",
     {{"wgmma_step_k(b, 1)", "wgmma_step_k(b, 0)"}},
     0},
    {"shard read before its signal",
     &AG,
     "ag_gemm",
     {{"      if (i == ready) ready = gate(j, &t, i, &arrived);\n", ""}},
     0},
    {"second chunk of a copied shard read before its signal",
     &AG_CHUNKS,
     "ag_gemm",
     {{"  ready = (chunk + 1) * width;\n", ""}},
     0},
    {"moved chunk read before its signal",
     &AG_MOVERS,
     "ag_gemm",
     {{"  return *aborted != 0 ? chunks * #", "  return 1 ? chunks * #"}},
     0},
    {"next moved chunk taken as come unseen",
     &AG_MOVERS_LATE,
     "ag_gemm",
     {{"    there = global_load_acquire_sys(word) >= j->epoch;\n",
       "    there = lane == 1 || global_load_acquire_sys(word) >= j->epoch;\n"}},
     0},
    {"chunk of a mover signalled before its stores are complete",
     &AG_MOVERS,
     "ag_gemm",
     {{"    tma_store_wait(0);\n    global_store_release_sys(signal_word",
       "    tma_store_wait_read(0);\n    global_store_release_sys(signal_word"}},
     0},
    {"mover loads a stage that its stores read",
     &AG_MOVERS_LONG,
     "ag_gemm",
     {{"    tma_store_wait(0);\n    global_store_release_sys(signal_word",
       "    global_store_release_sys(signal_word"}},
     0},
    {"moved shards without their parity",
     &AG_MOVERS_LATE,
     "ag_gemm",
     {{"j->rank, (i32)(j->epoch & 1));", "j->rank, 0);"},
      {"? 0 : (i32)(j->epoch & 1);", "? 0 : 0;"}},
     0},
    {"gate forgets which call filled the slot",
     &AG_GRAPH,
     "__gate",
     {{"global_store_relaxed_sys(own + 8 * (u64)(# + slot), epoch);", ""}},
     0},
    {"slot given back before the gathered A is copied out of it",
     &AG_GATHERED,
     "ag_gemm",
     {{"  if (j->keep) {", "  if (0) {"}},
     0},
    {"gate does not give back what the gathered A was copied from",
     &AG_GATHERED,
     "__gate",
     {{"if (left != 0 && aborted == 0 &&", "if (0 && aborted == 0 &&"}},
     0},
    {"A given back before the peers have pulled it",
     &AG_PULLING,
     "ag_gemm",
     {{" && j->pull; ++r)", " && 0; ++r)"}},
     0},
    {"a peer's A pulled before it is ready",
     &AG_PULLING,
     "__gate",
     {{"if (alive && pull) {", "if (0) {"}},
     0},
    {"sums of a split tile read before they came",
     &SPLIT,
     "gemm",
     {{"  mbar_wait_cluster(bar, turn & 1);\n", ""}},
     0},
    {"sums of the next tile sent without credit",
     &SPLIT,
     "gemm",
     {{"  if (turn > 0) mbar_wait_cluster(credit(j, group), (turn & 1) ^ 1);\n", ""}},
     0},
    {"credit without a release",
     &SPLIT,
     "gemm",
     {{"mbar_arrive_cluster_release(", "mbar_arrive_cluster("}},
     0},
    {"block leaves while its mate still gives stages back",
     &MATES,
     "gemm",
     {{"  for (left = 0; left <", "  for (left = 99; left <"}},
     0},
    {"empty part of k sends what is in its registers",
     &SPLIT,
     "gemm",
     {{"    if (k_tiles == 0) for (e = 0; e < #; ++e) acc[e] = 0.0f;\n", ""}},
     0},
    {"driver: signal copied before the shard", &AG, "", {{NULL, NULL}}, TML_EMU_SIGNAL_FIRST},
    {"driver: events order nothing", &AG, "", {{NULL, NULL}}, TML_EMU_NO_WAIT_EVENT},
    {"driver: tensor maps with 8 rows too many", &AG, "", {{NULL, NULL}}, TML_EMU_STALE_MAP},
};

#define MUTANTS (sizeof mutants / sizeof *mutants)

/* ---- Running one -------------------------------------------------------------------------------- */

typedef struct attempt {
  const mutant *m;
  int applied;
} attempt;

static char *apply(void *user, const char *name, const char *text)
{
  attempt *a = user;
  char *now = NULL;
  if (!a->m->edit[0].from || !strstr(name, a->m->where)) return NULL;
  for (int i = 0; i < EDITS && a->m->edit[i].from; i++) {
    int count = 0;
    char *next = edit_text(now ? now : text, a->m->edit[i].from, a->m->edit[i].to, &count);
    free(now);
    now = next;
    if (count == 0) {
      a->applied = -1;
      free(now);
      return NULL;
    }
  }
  if (a->applied == 0) a->applied = 1;
  return now;
}

static void slow_down(void *user)
{
  const shape *s = user;
  if (s->slow >= 0) tml_emu_delay(s->slow, 0, 300000);
}

static bed_case case_of(const shape *s, uint64_t seed)
{
  bed_case c = bed_of(s->problem, s->variant, s->calls, seed);
  c.replays = s->replays;
  c.gathered = s->gathered;
  c.symmetric = s->symmetric;
  c.machine.sms = s->sms;
  c.spoil = slow_down;
  c.spoil_user = (void *)(uintptr_t)s;
  c.timeout_us = 3e5;
  c.machine.host_s = 5;
  return c;
}

static const char *hazards_of(unsigned bits, char *text, size_t bytes)
{
  *text = 0;
  for (int kind = 0; kind < EMU_HAZARDS; kind++) {
    if (!(bits >> kind & 1)) continue;
    size_t at = strlen(text);
    snprintf(text + at, bytes - at, "%s%s", at ? ", " : "", emu_hazard_name((emu_hazard)kind));
  }
  return text;
}

/* How it shows; "" if it does not. */
static const char *how(const bed_case *c, const bed_result *r, char *text, size_t bytes)
{
  char why[2 * BED_TEXT];
  if (r->hazards) {
    char kinds[200];
    snprintf(text, bytes, "report: %s", hazards_of(r->hazards, kinds, sizeof kinds));
    return text;
  }
  *text = 0;
  if (*r->stuck)
    return snprintf(text, bytes, "deadlock: %.*s", (int)strcspn(r->stuck, "\n"), r->stuck), text;
  for (int i = 0; i < c->world; i++)
    if (r->fault[i].code)
      return snprintf(text, bytes, "fault: %s", tml_fault_text(r->fault[i].code)), text;
  if (!bed_good(c, r, why, sizeof why)) snprintf(text, bytes, "result: %.150s", why);
  return text;
}

/* The case without a mistake; once for each seed. */
static int sound(const shape *s, uint64_t seed)
{
  static struct {
    const shape *s;
    uint64_t seed;
  } known[200];
  static size_t count;
  static bed_result r;
  char why[2 * BED_TEXT];
  for (size_t i = 0; i < count; i++)
    if (known[i].s == s && known[i].seed == seed) return 1;
  bed_case c = case_of(s, seed);
  bed_run(&c, &r);
  if (!bed_good(&c, &r, why, sizeof why)) {
    printf("without a mistake %s fails with seed %d: %s\n", s->problem, (int)seed, why);
    return 0;
  }
  if (count < 200) {
    known[count].s = s;
    known[count++].seed = seed;
  }
  return 1;
}

/* 1: caught. */
static int try_mutant(const mutant *m)
{
  static bed_result r;
  char text[400] = "";
  for (uint64_t seed = 1; seed <= MOST_SEEDS; seed++) {
    attempt a = {.m = m};
    if (!sound(m->shape, seed)) return 0;
    bed_case c = case_of(m->shape, seed);
    c.edit = apply;
    c.edit_user = &a;
    c.mistake = m->mistake;
    c.keep_open = 1;
    bed_run(&c, &r);
    if (m->edit[0].from && a.applied != 1) {
      printf("%-52s EDIT DOES NOT APPLY\n", m->name);
      return 0;
    }
    if (!*how(&c, &r, text, sizeof text)) continue;
    printf("%-52s seed %2d  %s\n", m->name, (int)seed, text);
    fflush(stdout);
    return 1;
  }
  printf("%-52s NOT CAUGHT by %d seeds\n", m->name, MOST_SEEDS);
  return 0;
}

int main(int argc, char **argv)
{
  int caught = 0, tried = 0;
  for (size_t i = 0; i < MUTANTS; i++) {
    if (argc > 1 && !strstr(mutants[i].name, argv[1])) continue;
    tried++;
    caught += try_mutant(&mutants[i]);
  }
  tml_emu_close();
  printf("%d of %d mutants caught\n", caught, tried);
  return caught == tried ? 0 : 1;
}
