#include "progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

double seconds_now(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void progress_begin(progress *p, int silent)
{
  p->tty = isatty(STDERR_FILENO);
  p->silent = silent;
  p->free = 0;
  p->began = seconds_now();
  p->shown = -1e9;
}

/* At the pace so far; nothing before that is known. */
static const char *time_left(const progress *p, int done, int total, char text[32])
{
  int paid = done - p->free;
  double left = paid > 0 ? progress_seconds(p) / paid * (total - done) : 0;
  *text = 0;
  if (left >= 120)
    snprintf(text, 32, ", %.0f min left", left / 60);
  else if (left >= 1)
    snprintf(text, 32, ", %.0f s left", left);
  return text;
}

void progress_step(progress *p, int done, int total, const char *format, ...)
{
  enum { WIDTH = 24 };
  char text[160], left[32], bar[WIDTH + 1];
  double now = seconds_now();
  double pause = p->tty ? 0.05 : 5;
  va_list list;
  if (p->silent || (now - p->shown < pause && done != total)) return;
  p->shown = now;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  int filled = total > 0 ? (int)((double)done / total * WIDTH) : 0;
  for (int i = 0; i < WIDTH; i++) bar[i] = i < filled ? '#' : '.';
  bar[WIDTH] = 0;
  time_left(p, done, total, left);
  if (p->tty)
    fprintf(stderr, "\r[%s] %d/%d%s %.100s\033[K", bar, done, total, left, text);
  else
    fprintf(stderr, "%d/%d%s %s\n", done, total, left, text);
  fflush(stderr);
}

void progress_clear(progress *p)
{
  if (p->tty && !p->silent) fputs("\r\033[K", stderr);
}

double progress_seconds(const progress *p) { return seconds_now() - p->began; }
