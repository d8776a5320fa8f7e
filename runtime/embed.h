/* The embedded copies of gen/ and templates/; the array is written at build time by embed.cmake. */
#ifndef TML_EMBED_H
#define TML_EMBED_H

#include <stddef.h>

typedef struct tml_embedded {
  const char *path; /* "gen/tmpl.lua"; NULL in the last row */
  const unsigned char *bytes;
  size_t size; /* without the NUL that follows */
} tml_embedded;

extern const tml_embedded tml_embedded_files[];

#endif
