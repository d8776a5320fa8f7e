/* Where results go: the standard output or a file. */
#ifndef TML_OUTPUT_H
#define TML_OUTPUT_H

/* First thing in the program. A standard stream that is closed is replaced by one that refuses writes: else
 * the next file that is opened would take its number, and messages would land in it. */
void output_begin(void);
/* Last thing in a process that ends with `code`: what is still to be printed goes out. The code, or
 * CLI_FAILED after a message if it was OK and the standard output did not take everything. */
int output_end(int code);

#endif
