#include "table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "output.h"

typedef enum cell_type { TEXT, NUMBER, FLAG } cell_type;

typedef struct cell {
  char *text; /* as it is printed; NULL: nothing */
  double value;
  cell_type type;
} cell;

struct table {
  const table_column *columns;
  int count, rows, at; /* at: cells of the unfinished row */
  size_t capacity;
  cell *cells;
  int streamed; /* rows already printed */
  int *least;   /* widths */
};

static void *need(void *memory)
{
  if (!memory) {
    cli_fail("out of memory");
    exit(CLI_FAILED);
  }
  return memory;
}

table *table_create(const table_column *columns, int count)
{
  table *t = need(calloc(1, sizeof *t));
  t->columns = columns;
  t->count = count;
  t->least = need(calloc((size_t)count, sizeof *t->least));
  for (int i = 0; i < count; i++) t->least[i] = columns[i].width;
  return t;
}

void table_free(table *t)
{
  if (!t) return;
  for (int i = 0; i < t->rows * t->count + t->at; i++) free(t->cells[i].text);
  free(t->cells);
  free(t->least);
  free(t);
}

static cell *next_cell(table *t)
{
  size_t used = (size_t)(t->rows * t->count + t->at);
  if (used == t->capacity) {
    t->capacity = t->capacity ? 2 * t->capacity : 64;
    t->cells = need(realloc(t->cells, t->capacity * sizeof *t->cells));
  }
  t->at++;
  t->cells[used] = (cell){NULL, NAN, TEXT};
  return &t->cells[used];
}

void table_text(table *t, const char *text)
{
  cell *c = next_cell(t);
  if (text) c->text = need(strdup(text));
}

void table_real(table *t, double value)
{
  const table_column *column = &t->columns[t->at];
  cell *c = next_cell(t);
  char text[64];
  c->value = value;
  c->type = NUMBER;
  if (!isfinite(value)) return;
  if (column->kind == 's')
    snprintf(text, sizeof text, "%.15g", value);
  else if (column->kind == 'e')
    snprintf(text, sizeof text, "%.*e", column->digits, value);
  else
    snprintf(text, sizeof text, "%.*f", column->kind == 'd' ? 0 : column->digits, value);
  c->text = need(strdup(text));
}

void table_flag(table *t, int value)
{
  table_text(t, value ? "yes" : "no");
  cell *c = &t->cells[t->rows * t->count + t->at - 1];
  c->value = value;
  c->type = FLAG;
}

void table_end_row(table *t)
{
  while (t->at < t->count) next_cell(t);
  t->at = 0;
  t->rows++;
}

int table_rows(const table *t) { return t->rows; }

void table_widen(table *t, int column, int width)
{
  if (width > t->least[column]) t->least[column] = width;
}

static const char *shown(const table *t, int row, int column)
{
  const char *text = t->cells[row * t->count + column].text;
  return text ? text : "-";
}

static int width_of(const table *t, int column)
{
  int width = (int)strlen(t->columns[column].title);
  if (t->least[column] > width) width = t->least[column];
  for (int row = 0; row < t->rows; row++) {
    int length = (int)strlen(shown(t, row, column));
    if (length > width) width = length;
  }
  return width;
}

/* row -1: the header. The last column is not padded. */
static void print_row(const table *t, int row, const int *widths, FILE *to)
{
  int last = t->count - 1;
  while (last > 0 && !t->columns[last].title) last--;
  for (int i = 0; i <= last; i++) {
    const table_column *column = &t->columns[i];
    if (!column->title) continue;
    const char *text = row < 0 ? column->title : shown(t, row, i);
    if (column->kind != 's')
      fprintf(to, "%*s", widths[i], text);
    else
      fprintf(to, "%-*s", i == last ? 0 : widths[i], text);
    fputs(i == last ? "\n" : "  ", to);
  }
}

static int *widths_of(const table *t)
{
  int *widths = need(calloc((size_t)t->count, sizeof *widths));
  for (int i = 0; i < t->count; i++)
    if (t->columns[i].title) widths[i] = width_of(t, i);
  return widths;
}

void table_print(const table *t, FILE *to)
{
  int *widths = widths_of(t);
  for (int row = -1; row < t->rows; row++) print_row(t, row, widths, to);
  free(widths);
}

void table_stream_row(table *t, FILE *to)
{
  int *widths = widths_of(t);
  if (!t->streamed) print_row(t, -1, widths, to);
  for (; t->streamed < t->rows; t->streamed++) print_row(t, t->streamed, widths, to);
  fflush(to);
  free(widths);
}

void table_markdown(const table *t, FILE *to)
{
  for (int i = 0; i < t->count; i++)
    if (t->columns[i].title) fprintf(to, "| %s ", t->columns[i].title);
  fputs("|\n", to);
  for (int i = 0; i < t->count; i++)
    if (t->columns[i].title) fputs(t->columns[i].kind == 's' ? "|---" : "|--:", to);
  fputs("|\n", to);
  for (int row = 0; row < t->rows; row++) {
    for (int i = 0; i < t->count; i++)
      if (t->columns[i].title) fprintf(to, "| %s ", shown(t, row, i));
    fputs("|\n", to);
  }
}

/* The figure as printed, without noise digits; but three that count, where a column of large numbers has a
 * small one. */
static cJSON *number_json(const cell *c, const table_column *column)
{
  char text[64];
  if (column->kind != 'f' || fabs(c->value) >= pow(10, 2 - column->digits))
    return cJSON_CreateRaw(c->text);
  snprintf(text, sizeof text, "%.3g", c->value);
  return cJSON_CreateRaw(text);
}

static cJSON *cell_json(const table *t, int row, int column)
{
  const cell *c = &t->cells[row * t->count + column];
  if (!c->text) return cJSON_CreateNull();
  if (c->type == NUMBER) return number_json(c, &t->columns[column]);
  return c->type == FLAG ? cJSON_CreateBool(c->value != 0) : cJSON_CreateString(c->text);
}

cJSON *table_to_json(const table *t)
{
  cJSON *rows = need(cJSON_CreateArray());
  for (int row = 0; row < t->rows; row++) {
    cJSON *object = need(cJSON_CreateObject());
    for (int i = 0; i < t->count; i++)
      cJSON_AddItemToObject(object, t->columns[i].key, cell_json(t, row, i));
    cJSON_AddItemToArray(rows, object);
  }
  return rows;
}

int table_write_json(const table *t, const char *path, cJSON *head, const char *name)
{
  cJSON *rows = table_to_json(t);
  if (!head) return output_json(path, rows);
  cJSON_AddItemToObject(head, name, rows);
  return output_json(path, head);
}
