/* Golden texts: golden DIR            compares the expanded sources with DIR/NAME.cu
 *               golden DIR --write    rewrites them
 *
 * The list derives from the space, in its order: a variant stands in it if it is the first of its
 * op and pattern, of its type, of its schedule, of its cluster, of its split, of its kind of output
 * box, or the first of its pattern with a pace or with chunks; and every auxiliary kernel. Texts are
 * without #line. */
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gen.h"

#define MOST 256

typedef struct golden_list {
  int count, features;
  char name[MOST][TML_NAME_BYTES];
  char feature[8 * MOST][TML_NAME_BYTES + 32]; /* that some listed variant shows */
} golden_list;

/* 1 if no listed variant shows the feature yet. */
static int shows(golden_list *list, const char *format, ...)
{
  char feature[sizeof list->feature[0]];
  va_list args;
  va_start(args, format);
  vsnprintf(feature, sizeof feature, format, args);
  va_end(args);
  for (int i = 0; i < list->features; i++)
    if (strcmp(list->feature[i], feature) == 0) return 0;
  if (list->features == 8 * MOST) return 0;
  memcpy(list->feature[list->features++], feature, sizeof feature);
  return 1;
}

static int shows_any(golden_list *list, const tml_variant *v)
{
  const char *knobs = strstr(v->name, "__");
  if (v->kind == TML_KIND_AUX) /* they differ by their knobs alone */
    return shows(list, "aux %s %d %s", v->arch, v->dtype, knobs ? knobs : "");
  const char *schedule = strstr(v->name, ".pingpong") ? "pingpong" : "coop";
  int paced = strstr(v->name, ".g2") != NULL;
  int chunks = v->chunks_k > 1 ? 1 : v->chunks_m > 1 ? 2 : 0;
  /* Every feature is noted: no short circuit. */
  return shows(list, "pattern %s %d %d %d %d", v->arch, v->op, v->pattern, paced, chunks) |
         shows(list, "dtype %s %d", v->arch, v->dtype) |
         shows(list, "schedule %s %s", v->arch, schedule) |
         shows(list, "cluster %s %d %d", v->arch, v->cluster_m, v->cluster_n) |
         shows(list, "split %s %d", v->arch, v->split) |
         shows(list, "box %s %d", v->arch, v->box_n);
}

static int add_variant(void *user, const tml_variant *variant, const char *reason)
{
  golden_list *list = user;
  if (reason || variant->kind == TML_KIND_LIBRARY || !shows_any(list, variant)) return 0;
  if (list->count == MOST) return 1;
  snprintf(list->name[list->count++], TML_NAME_BYTES, "%s", variant->name);
  return 0;
}

static char *read_file(const char *path, size_t *bytes)
{
  FILE *file = fopen(path, "rb");
  char *text = NULL;
  *bytes = 0;
  if (!file) return NULL;
  if (fseek(file, 0, SEEK_END) == 0) {
    *bytes = (size_t)ftell(file);
    rewind(file);
    text = malloc(*bytes + 1);
    if (text && fread(text, 1, *bytes, file) != *bytes) *bytes = 0;
    if (text) text[*bytes] = '\0';
  }
  fclose(file);
  return text;
}

/* The line of the first difference. */
static int first_difference(const char *a, const char *b)
{
  int line = 1;
  for (; *a && *a == *b; a++, b++) line += *a == '\n';
  return line;
}

static int write_file(const char *path, const char *text, size_t bytes)
{
  FILE *file = fopen(path, "wb");
  if (!file) return 0;
  size_t written = fwrite(text, 1, bytes, file);
  return fclose(file) == 0 && written == bytes;
}

/* 1 if the file holds the text, or now does. */
static int one(const char *path, const char *text, size_t bytes, int rewrite)
{
  size_t had;
  char *golden = read_file(path, &had);
  int same = golden && had == bytes && memcmp(golden, text, bytes) == 0;
  if (!same && rewrite) {
    same = write_file(path, text, bytes);
    printf(same ? "wrote %s\n" : "cannot write %s\n", path);
  } else if (!same) {
    printf("%s: %s\n", path, golden ? "differs" : "is missing");
    if (golden) printf("  first at line %d\n", first_difference(golden, text));
  }
  free(golden);
  return same;
}

static int listed(const golden_list *list, const char *file)
{
  size_t length = strlen(file) - 3;
  for (int i = 0; i < list->count; i++)
    if (strlen(list->name[i]) == length && strncmp(list->name[i], file, length) == 0) return 1;
  return 0;
}

/* Golden files of variants that are no examples any more. */
static int stale(const golden_list *list, const char *dir, int rewrite)
{
  int bad = 0;
  DIR *folder = opendir(dir);
  for (struct dirent *entry; folder && (entry = readdir(folder));) {
    const char *dot = strrchr(entry->d_name, '.');
    char path[1024];
    if (!dot || strcmp(dot, ".cu") != 0 || listed(list, entry->d_name)) continue;
    snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
    int removed = rewrite && unlink(path) == 0;
    printf("%s: %s\n", path, removed ? "removed" : "stands for no declared variant");
    bad += !removed;
  }
  if (folder) closedir(folder);
  return bad;
}

int main(int argc, char **argv)
{
  static golden_list list;
  int rewrite = argc == 3 && strcmp(argv[2], "--write") == 0, bad = 0;
  tml_gen *gen = NULL;
  tml_filter filter = {0};
  if (argc < 2 || (argc == 3 && !rewrite)) {
    fprintf(stderr, "usage: golden DIR [--write]\n");
    return 2;
  }
  tml_status status = tml_gen_open(&gen, NULL, NULL);
  if (status == TML_OK) status = tml_gen_each(gen, &filter, add_variant, &list);
  for (int i = 0; i < list.count && status == TML_OK; i++) {
    char path[1024], *text = NULL;
    size_t bytes = 0;
    status = tml_gen_expand(gen, list.name[i], 0, &text, &bytes);
    snprintf(path, sizeof path, "%s/%s.cu", argv[1], list.name[i]);
    if (status == TML_OK) bad += !one(path, text, bytes, rewrite);
    free(text);
  }
  if (status != TML_OK) printf("%s: %s\n", tml_status_text(status), tml_last_error());
  if (status == TML_OK) bad += stale(&list, argv[1], rewrite);
  tml_gen_close(gen);
  printf("%d golden texts, %d bad\n", list.count, bad);
  if (bad && !rewrite)
    printf("If the change is meant: cmake --build build --target golden, then review the diff.\n");
  return status != TML_OK || bad || list.count == 0;
}
