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
  p->began = seconds_now();
  p->shown = -1e9;
}

void progress_step(progress *p, int done, int total, const char *format, ...)
{
  enum { WIDTH = 24 };
  char text[160], bar[WIDTH + 1];
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
  if (p->tty)
    fprintf(stderr, "\r[%s] %d/%d %.100s\033[K", bar, done, total, text);
  else
    fprintf(stderr, "%d/%d %s\n", done, total, text);
  fflush(stderr);
}

void progress_clear(progress *p)
{
  if (p->tty && !p->silent) fputs("\r\033[K", stderr);
}

double progress_seconds(const progress *p) { return seconds_now() - p->began; }
