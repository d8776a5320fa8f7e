/* Progress of long work: one updating line on a terminal, plain lines a few seconds apart
 * elsewhere. */
#ifndef TML_PROGRESS_H
#define TML_PROGRESS_H

typedef struct progress {
  int tty, silent;
  int free;            /* of what is done: steps that took no time */
  double began, shown; /* seconds; shown: when the last line was printed */
} progress;

void progress_begin(progress *p, int silent);
/* A bar for done of total and the time that is left, then the text. */
void progress_step(progress *p, int done, int total, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Removes the updating line, so that other output starts on a clean one. */
void progress_clear(progress *p);
double progress_seconds(const progress *p);
double seconds_now(void); /* monotonic */

#endif
