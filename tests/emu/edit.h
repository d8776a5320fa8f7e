/* Text edits of generated sources. */
#ifndef TML_TEST_EMU_EDIT_H
#define TML_TEST_EMU_EDIT_H

/* In `from`, # stands for a number, which # in `to` repeats. Replaces every place, malloc'ed; *count: how many. */
char *edit_text(const char *text, const char *from, const char *to, int *count);

#endif
