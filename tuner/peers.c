#include "peers.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bench_peer *add(bench_peers *list)
{
  if (list->count == list->capacity) {
    size_t capacity = list->capacity ? 2 * list->capacity : 64;
    bench_peer *at = realloc(list->at, capacity * sizeof *at);
    if (!at) return NULL;
    list->at = at;
    list->capacity = capacity;
  }
  return &list->at[list->count++];
}

static int is_peer(const cJSON *column, const tml_problem *problem)
{
  return cJSON_IsNumber(column) && column->valuedouble > 0 &&
         (problem->op == TML_GEMM || strcmp(column->string, "gemm") != 0);
}

static const char *read_row(bench_peers *list, const cJSON *row, const char *fallback)
{
  tml_problem problem = {.size = sizeof problem};
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "problem"));
  const char *regime = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "regime"));
  if (!text) return "a row has no \"problem\"";
  if (tml_problem_parse(&problem, text) != TML_OK) return tml_last_error();
  if (problem.op == TML_GEMM) problem.world = 1;
  if (!regime) regime = fallback;
  if (!regime) return "a row names no \"regime\": time one regime at a time";
  for (const cJSON *column = row->child; column; column = column->next) {
    if (!is_peer(column, &problem)) continue;
    bench_peer *peer = add(list);
    if (!peer) return "out of memory";
    *peer = (bench_peer){.problem = problem, .us = column->valuedouble};
    snprintf(peer->regime, sizeof peer->regime, "%s", regime);
    snprintf(peer->name, sizeof peer->name, "%s", column->string);
  }
  return NULL;
}

const char *peers_parse(bench_peers *list, const char *text, const char *regime)
{
  cJSON *root = cJSON_Parse(text);
  const char *why = cJSON_IsArray(root) ? NULL : "it is not a JSON list of rows";
  for (const cJSON *row = why ? NULL : root->child; row && !why; row = row->next)
    why = read_row(list, row, regime);
  cJSON_Delete(root);
  return why;
}

static char *whole_file(FILE *file)
{
  size_t bytes = 0, room = 1 << 16;
  char *text = malloc(room);
  while (text && (bytes += fread(text + bytes, 1, room - bytes - 1, file)) == room - 1) {
    char *more = realloc(text, room *= 2);
    if (!more) free(text);
    text = more;
  }
  if (text) text[bytes] = 0;
  return text;
}

int peers_read(bench_peers *list, const char *path, const char *regime)
{
  FILE *file = fopen(path, "r");
  if (!file) return cli_fail("cannot read %s: %s", path, strerror(errno));
  char *text = whole_file(file);
  int bad = ferror(file);
  fclose(file);
  if (bad || !text) {
    free(text);
    return cli_fail("cannot read %s: %s", path, strerror(errno));
  }
  const char *why = peers_parse(list, text, regime);
  free(text);
  return why ? cli_fail("%s: %s", path, why) : CLI_OK;
}

const bench_peer *peers_best(const bench_peers *list, const tml_problem *problem,
                             const char *regime)
{
  const bench_peer *best = NULL;
  for (size_t i = 0; i < list->count; i++) {
    const bench_peer *peer = &list->at[i];
    if (problems_same(&peer->problem, problem) && strcmp(peer->regime, regime) == 0 &&
        (!best || peer->us < best->us))
      best = peer;
  }
  return best;
}

void peers_free(bench_peers *list)
{
  free(list->at);
  *list = (bench_peers){0};
}
