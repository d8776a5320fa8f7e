/* A table: printed aligned, as Markdown, or as JSON, from the same cells. */
#ifndef TML_TABLE_H
#define TML_TABLE_H

#include <stdio.h>

#include <cjson/cJSON.h>

typedef struct table table;

/* kind: 's' text or whatever a row has (left), 'd' whole number, 'f' real with `digits` decimals, 'e' the same
 * with an exponent (right). A NULL title is a column for JSON only. */
typedef struct table_column {
  const char *title, *key;
  char kind;
  int digits, width; /* width: the least, known before the rows are */
} table_column;

table *table_create(const table_column *columns, int count);
void table_free(table *t);
/* Cells of the current row, in column order. NULL and NAN print "-" and are null in JSON. */
void table_text(table *t, const char *text);
void table_real(table *t, double value);
void table_flag(table *t, int value); /* prints yes or no; kind 's' */
void table_end_row(table *t);
int table_rows(const table *t);
/* The column is at least so wide. */
void table_widen(table *t, int column, int width);
void table_print(const table *t, FILE *to);
/* Header first, then each row as it is added; rows printed before the widest is known keep the
 * declared widths. */
void table_stream_row(table *t, FILE *to);
void table_markdown(const table *t, FILE *to);
cJSON *table_to_json(const table *t);
/* Writes {head..., name: rows} or, with head NULL, rows alone. Takes head over. 0 or CLI_FAILED
 * after a message. */
int table_write_json(const table *t, const char *path, cJSON *head, const char *name);

#endif
