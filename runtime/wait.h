/* Bounded waiting on the host: a deadline on the monotonic clock, and short sleeps between polls.
 */
#ifndef TML_WAIT_H
#define TML_WAIT_H

#include <stdint.h>
#include <time.h>

static inline uint64_t tml_now_ns(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The moment `us` microseconds from now. */
static inline uint64_t tml_deadline(double us) { return tml_now_ns() + (uint64_t)(us * 1e3); }

/* Milliseconds left, rounded up, for poll(); 0 once it has passed. */
static inline int tml_deadline_ms(uint64_t deadline)
{
  uint64_t now = tml_now_ns();
  return now >= deadline ? 0 : (int)((deadline - now + 999999) / 1000000);
}

/* Sleeps between two polls: 10 us at first, doubling to 1 ms. *pause_us starts at 0. */
static inline void tml_pause(unsigned *pause_us)
{
  *pause_us = *pause_us == 0 ? 10 : *pause_us >= 500 ? 1000 : *pause_us * 2;
  struct timespec pause = {0, (long)*pause_us * 1000};
  nanosleep(&pause, NULL);
}

#endif
