/* The key and the bucket under which a pick is stored. */
#include <stdio.h>

#include "bank.h"
#include "problem.h"

void tml_pick_key(const tml_problem *p, char *out, size_t bytes)
{
  snprintf(out, bytes, "%s:%s:%s:w%d:*x%lldx%lld%s", tml_op_text(p->op), tml_dtype_text(p->dtype),
           tml_layout_text(p->layout), p->world, (long long)p->n, (long long)p->k,
           p->bias ? ":bias" : "");
}

int64_t tml_pick_bucket(int64_t m)
{
  int64_t octave = 1;
  while (octave < m && octave <= INT64_MAX / 2) octave *= 2;
  if (octave < m) return INT64_MAX; /* beyond every power of two */
  /* octave / 2 < m <= octave: from 256 on, the half step below may already serve. */
  int64_t half = octave / 4 * 3;
  return octave > 256 && m <= half ? half : octave;
}
