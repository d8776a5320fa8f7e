/* Who waits for what: neighbouring threads that wait for the same thing at the same place make one
 * line. */
#include "state.h"

#include <stdio.h>
#include <string.h>

typedef struct {
  char *text;
  size_t size, length;
} text_out;

static void put(text_out *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(text_out *out, const char *format, ...)
{
  va_list args;
  size_t room = out->length < out->size ? out->size - out->length : 0;
  va_start(args, format);
  int length = vsnprintf(room ? out->text + out->length : NULL, room, format, args);
  va_end(args);
  if (length > 0) out->length += (size_t)length;
}

static int alike(const emu_thread *a, const emu_thread *b)
{
  return a->waits && b->waits && strcmp(a->waits, b->waits) == 0 && a->site == b->site &&
         a->wait_a == b->wait_a && (strncmp(a->waits, "warp", 4) != 0 || a->warp == b->warp);
}

static void put_reason(text_out *out, const emu_thread *t)
{
  emu_cta *cta = t->cta;
  if (strcmp(t->waits, "mbar_wait") == 0) {
    const emu_mbar *bar = emu_mbar_find(cta, (u32)t->wait_a);
    put(out, "mbarrier %#llx, parity %llu", (unsigned long long)t->wait_a,
        (unsigned long long)t->wait_b);
    if (bar) {
      put(out,
          "; it is in phase %u with %u of %u arrivals and %lld bytes to come, %u loads under way",
          bar->phase, bar->pending, bar->expected, (long long)bar->tx, bar->loads);
    }
  } else if (strcmp(t->waits, "a word of memory") == 0) {
    put(out, "the word at %#llx, which holds %llu", (unsigned long long)t->wait_a,
        (unsigned long long)t->wait_b);
  } else if (strcmp(t->waits, "block_sync") == 0) {
    put(out, "block_sync, where %u of %u threads are", cta->arrived, cta->live);
  } else if (strncmp(t->waits, "cluster_", 8) == 0) {
    put(out, "%s, where %u of %u threads are", t->waits, cta->cluster->arrived, cta->cluster->live);
  } else if (t->warp->collective && strcmp(t->waits, t->warp->collective) == 0) {
    put(out, "%s, where %u of %u lanes are", t->waits, t->warp->arrived, t->warp->live);
  } else {
    put(out, "%s (%llu of %llu)", t->waits, (unsigned long long)t->wait_a,
        (unsigned long long)t->wait_b);
  }
}

static void put_block(text_out *out, const emu_cta *cta)
{
  for (u32 i = 0; i < cta->threads;) {
    const emu_thread *first = &cta->thread[i];
    u32 end = i + 1;
    if (first->state == EMU_DEAD || !first->waits) {
      i = end;
      continue;
    }
    while (end < cta->threads && alike(first, &cta->thread[end])) ++end;
    put(out, "device %d %s block %u warp %u", cta->device, cta->run->name, cta->block, i / 32);
    if ((end - 1) / 32 != i / 32)
      put(out, " to %u", (end - 1) / 32);
    else if (end - i < 32)
      put(out, " lane %u", i % 32);
    if (end - i > 1 && (end - 1) / 32 == i / 32 && end - i < 32) put(out, " to %u", (end - 1) % 32);
    put(out, " at %s:%d (%s) waits for ", first->site ? first->site->file : "?",
        first->site ? first->site->line : 0, first->site ? first->site->function : "?");
    put_reason(out, first);
    put(out, "\n");
    i = end;
  }
}

size_t emu_waiting(emu_machine *m, char *text, size_t size)
{
  text_out out = {text, size, 0};
  if (size) text[0] = 0;
  for (u32 i = 0; i < m->block_groups; ++i) {
    if (m->slot[i].cta) put_block(&out, m->slot[i].cta);
  }
  for (const emu_run_state *run = m->runs; run; run = run->next) {
    if (run->started < run->grid) {
      put(&out, "device %d %s: %u of %u blocks wait for a place on the device\n", run->device,
          run->name, run->grid - run->started, run->grid);
    }
  }
  return out.length;
}
