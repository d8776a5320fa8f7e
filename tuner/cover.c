#include "cover.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/problem.h"
#include "../runtime/status.h"
#include "table.h"

#define PART_BYTES 24
#define MOST_PARTS 64 /* of the names of one op */
#define OPS 4
#define DTYPES 2

typedef struct part {
  char text[PART_BYTES];
  int runs;
} part;

/* One op and type. */
typedef struct group {
  char (*names)[TML_NAME_BYTES]; /* generated variants; NULL: not asked for yet */
  size_t count, capacity;
  part parts[MOST_PARTS];
  int part_count;
} group;

struct cover {
  group groups[OPS][DTYPES];
};

cover *cover_create(void) { return calloc(1, sizeof(cover)); }

void cover_free(cover *c)
{
  for (int i = 0; c && i < OPS * DTYPES; i++) free(c->groups[i / DTYPES][i % DTYPES].names);
  free(c);
}

/* ---- Parts of a name ---------------------------------------------------------------------------- */

/* The next part, between dots, after "__"; 0: no more. *at walks over the name. */
static int next_part(const char **at, char out[PART_BYTES])
{
  size_t length = strcspn(*at, ".");
  if (length == 0) return 0;
  snprintf(out, PART_BYTES, "%.*s", (int)length, *at);
  *at += length + ((*at)[length] == '.');
  return 1;
}

static const char *parts_of(const char *name)
{
  const char *knobs = strstr(name, "__");
  return knobs ? knobs + 2 : "";
}

static part *find_part(group *g, const char *text)
{
  for (int i = 0; i < g->part_count; i++)
    if (strcmp(g->parts[i].text, text) == 0) return &g->parts[i];
  return NULL;
}

static int by_text(const void *a, const void *b)
{
  return strcmp(((const part *)a)->text, ((const part *)b)->text);
}

static void add_parts(group *g, const char *name)
{
  char text[PART_BYTES];
  for (const char *at = parts_of(name); next_part(&at, text);)
    if (!find_part(g, text) && g->part_count < MOST_PARTS)
      memcpy(g->parts[g->part_count++].text, text, PART_BYTES);
}

/* ---- Choosing ----------------------------------------------------------------------------------- */

static int add_name(void *user, const tml_variant *variant, const char *reason)
{
  group *g = user;
  (void)reason;
  if (variant->kind != TML_KIND_FUSED) return 0;
  if (g->count == g->capacity) {
    size_t capacity = g->capacity ? 2 * g->capacity : 128;
    char(*names)[TML_NAME_BYTES] = realloc(g->names, capacity * sizeof *names);
    if (!names) return 1;
    g->names = names;
    g->capacity = capacity;
  }
  memcpy(g->names[g->count++], variant->name, TML_NAME_BYTES);
  add_parts(g, variant->name);
  return 0;
}

static tml_status fill_group(group *g, tml_gen *gen, const char *arch, const tml_problem *p)
{
  tml_filter filter = {.op = tml_op_text(p->op), .dtype = tml_dtype_text(p->dtype)};
  filter.arch = arch;
  filter.world = p->world;
  if (g->names) return TML_OK;
  TRY(tml_gen_each(gen, &filter, add_name, g));
  qsort(g->parts, (size_t)g->part_count, sizeof *g->parts, by_text);
  return TML_OK;
}

tml_status cover_choose(cover *c, tml_gen *gen, const char *arch, const tml_problem *problem,
                        size_t turn, const char **variant)
{
  group *g = &c->groups[problem->op][problem->dtype];
  int most = 0, least = 0;
  char text[PART_BYTES];
  TRY(fill_group(g, gen, arch, problem));
  *variant = NULL;
  for (size_t i = 0; i < g->count; i++) {
    const char *name = g->names[(turn + i) % g->count];
    int never = 0, runs = 0;
    for (const char *at = parts_of(name); next_part(&at, text);) {
      const part *p = find_part(g, text);
      never += p && p->runs == 0;
      runs += p ? p->runs : 0;
    }
    if (*variant && (never < most || (never == most && runs >= least))) continue;
    if (tml_gen_serves(gen, name, problem, NULL, 0) != TML_OK) continue;
    *variant = name;
    most = never;
    least = runs;
  }
  if (!*variant && g->count == 0)
    return tml_fail(TML_UNSUPPORTED, "no generated kernel on %s", arch);
  return *variant ? TML_OK : TML_UNSUPPORTED;
}

void cover_ran(cover *c, const tml_problem *problem, const char *variant)
{
  group *g = &c->groups[problem->op][problem->dtype];
  char text[PART_BYTES];
  for (const char *at = parts_of(variant); next_part(&at, text);) {
    part *p = find_part(g, text);
    if (p) p->runs++;
  }
}

/* ---- The table ---------------------------------------------------------------------------------- */

/* All parts of all groups, each once, in order. */
static int all_parts(const cover *c, part out[OPS * DTYPES * MOST_PARTS])
{
  int count = 0, kept = 0;
  for (int i = 0; i < OPS * DTYPES; i++) {
    const group *g = &c->groups[i / DTYPES][i % DTYPES];
    memcpy(out + count, g->parts, (size_t)g->part_count * sizeof *out);
    count += g->part_count;
  }
  qsort(out, (size_t)count, sizeof *out, by_text);
  for (int i = 0; i < count; i++)
    if (kept == 0 || strcmp(out[kept - 1].text, out[i].text) != 0) out[kept++] = out[i];
  return kept;
}

int cover_report(const cover *c, FILE *to, cJSON **rows)
{
  static part all[OPS * DTYPES * MOST_PARTS];
  char titles[OPS * DTYPES][32];
  table_column columns[1 + OPS * DTYPES] = {{"times run, m > 0", "part", 's', 0, 0}};
  const group *shown[OPS * DTYPES];
  int count = all_parts(c, all), groups = 0, missing = 0;
  for (int i = 0; i < OPS * DTYPES; i++) {
    const group *g = &c->groups[i / DTYPES][i % DTYPES];
    if (!g->names) continue;
    snprintf(titles[groups], sizeof titles[groups], "%s %s", tml_op_text((tml_op)(i / DTYPES)),
             tml_dtype_text((tml_dtype)(i % DTYPES)));
    columns[1 + groups] = (table_column){titles[groups], titles[groups], 'd', 0, 0};
    shown[groups++] = g;
  }
  table *t = table_create(columns, 1 + groups);
  for (int i = 0; i < count; i++) {
    table_text(t, all[i].text);
    for (int j = 0; j < groups; j++) {
      const part *p = find_part((group *)(uintptr_t)shown[j], all[i].text);
      table_real(t, p ? p->runs : NAN);
      missing += p && p->runs == 0;
    }
    table_end_row(t);
  }
  table_print(t, to);
  fflush(to);
  *rows = table_to_json(t);
  table_free(t);
  return missing;
}
