#include "edit.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Length of the match of `from` at `text`, 0 if there is none; the number at the (last) #. */
static size_t match(const char *text, const char *from, char number[24])
{
  const char *at = text;
  for (; *from; from++) {
    if (*from != '#') {
      if (*at++ != *from) return 0;
      continue;
    }
    size_t digits = strspn(at, "0123456789");
    if (digits == 0 || digits > 20) return 0;
    memcpy(number, at, digits);
    number[digits] = 0;
    at += digits;
  }
  return (size_t)(at - text);
}

char *edit_text(const char *text, const char *from, const char *to, int *count)
{
  char *out = NULL, number[24] = "";
  size_t bytes = 0;
  FILE *stream = open_memstream(&out, &bytes);
  *count = 0;
  if (!stream) return NULL;
  while (*text) {
    size_t length = match(text, from, number);
    if (length == 0) {
      fputc(*text++, stream);
      continue;
    }
    for (const char *c = to; *c; c++) *c == '#' ? fputs(number, stream) : fputc(*c, stream);
    text += length;
    ++*count;
  }
  fclose(stream);
  return out;
}
