/* The words of a problem, and its check at the library's door. */
#ifndef TML_PROBLEM_H
#define TML_PROBLEM_H

#include "tidemill.h"

/* The texts of the enums; "?" for a value outside. The find functions give -1 for an unknown
 * word. */
const char *tml_op_text(tml_op op);
const char *tml_dtype_text(tml_dtype dtype);
const char *tml_layout_text(tml_layout layout);
int tml_op_find(const char *text);
int tml_dtype_find(const char *text);
int tml_layout_find(const char *text);

/* ARGUMENT with the field that is out of range. Does not look at `size`. */
tml_status tml_problem_check(const tml_problem *problem);

#endif
