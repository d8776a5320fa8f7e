/* Where results go: the standard output or a file. */
#ifndef TML_OUTPUT_H
#define TML_OUTPUT_H

#include <stdio.h>

#include <cjson/cJSON.h>

/* First thing in the program. A standard stream that is closed is replaced by one that refuses writes: else
 * the next file that is opened would take its number, and messages would land in it. */
void output_begin(void);
/* Last thing in a process that ends with `code`: what is still to be printed goes out. The code, or
 * CLI_FAILED after a message if it was OK and the standard output did not take everything. */
int output_end(int code);
/* Is it "-", the standard output? NULL is not. */
int output_standard(const char *path);
/* Where tables and notes go while JSON goes to `path` (or NULL): to the standard output, or nowhere where the
 * JSON has that for itself. */
FILE *output_beside(const char *path);
/* Could `path` (NULL: nothing) be written? It is not touched. CLI_OK, or CLI_FAILED after a message. */
int output_check(const char *path);
/* Takes `root` over. CLI_OK, or CLI_FAILED after a message. */
int output_json(const char *path, cJSON *root);

#endif
