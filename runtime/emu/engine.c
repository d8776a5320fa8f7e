/* Asynchronous work that is no kernel: copies by copy engines, and what the driver half brings. */
#include "state.h"

#include <stdlib.h>
#include <string.h>

#define PIECES 4u
#define SIGNAL_BYTES 64u /* copies up to here carry order in their words */

typedef struct {
  emu_object object;
  emu_machine *m;
  emu_clock *clock;
  u32 number; /* of the operation in its clock */
  void (*done)(void *);
  void *arg;
  /* a copy */
  emu_memory *to, *from;
  size_t to_at, from_at, to_pitch, from_pitch, width, rows;
  u32 pieces; /* that have not landed */
  /* other work */
  void (*run)(void *);
  void *run_arg;
} emu_work;

typedef struct {
  emu_object object;
  emu_work *work;
  size_t begin, end; /* bytes of the only row, or rows */
} emu_piece;

static void nothing(void *object) { (void)object; }

static void destroy(void *object)
{
  emu_work *work = object;
  if (work->to) emu_memory_release(work->to);
  if (work->from) emu_memory_release(work->from);
}

static emu_work *work_new(emu_machine *m, emu_clock *clock, void (*done)(void *), void *arg)
{
  emu_work *work = emu_object_new(m, sizeof *work, destroy);
  work->m = m;
  work->clock = clock;
  work->number = clock ? emu_clock_next(clock) : 0;
  work->done = done;
  work->arg = arg;
  ++m->under_way;
  return work;
}

/* `order` must outlive the access: a borrowed view of the clock. */
static emu_access access_of(const emu_work *work, const char *what, emu_order *order)
{
  emu_access access = {.m = work->m, .name = what, .global = 1};
  memset(order, 0, sizeof *order);
  if (work->clock) {
    order->all = work->clock->all;
    access.order = order;
    access.agent = work->clock->agent;
    access.clock = work->number;
  }
  return access;
}

static void finish(emu_work *work)
{
  if (work->clock) emu_vector_raise(&work->clock->all, work->clock->agent, work->number);
  emu_complete(work->m, work->clock, work->done, work->arg);
  emu_object_free(work);
}

/* The words of a short copy release what its stream has done, itself included. */
static void signal(const emu_work *work, size_t at)
{
  emu_order order;
  emu_order_init(&order, work->m->groups);
  if (work->clock) {
    emu_vector_copy(&order.all, &work->clock->all);
    emu_vector_raise(&order.all, work->clock->agent, work->number);
  }
  for (size_t x = at; x + 8 <= at + work->width; x += 8) {
    emu_word_store(work->to, x, work->clock ? &order : NULL);
    emu_unpark(work->m, work->to->bytes + x);
  }
  emu_order_free(&order);
}

static void land(void *arg)
{
  emu_piece *piece = arg;
  emu_work *work = piece->work;
  unsigned char *to = work->to->bytes + work->to_at;
  const unsigned char *from = work->from->bytes + work->from_at;
  if (work->rows == 1) {
    memmove(to + piece->begin, from + piece->begin, piece->end - piece->begin);
    if (work->width <= SIGNAL_BYTES) signal(work, work->to_at);
  } else {
    for (size_t r = piece->begin; r < piece->end; ++r) {
      memmove(to + r * work->to_pitch, from + r * work->from_pitch, work->width);
    }
  }
  emu_object_free(piece);
  if (--work->pieces == 0) finish(work);
}

static void cut(emu_work *work, u64 delay_ns)
{
  int one_row = work->rows == 1;
  size_t total = one_row ? work->width : work->rows;
  size_t unit = one_row ? 256 : 1, step = total / PIECES / unit * unit;
  u32 count = step == 0 ? 1 : PIECES;
  work->pieces = count;
  for (u32 i = 0; i < count; ++i) {
    emu_piece *piece = emu_object_new(work->m, sizeof *piece, nothing);
    piece->work = work;
    piece->begin = i * step;
    piece->end = i + 1 == count ? total : (i + 1) * step;
    emu_at(work->m, delay_ns + emu_late(work->m), land, piece);
  }
}

static void run_work(void *arg)
{
  emu_work *work = arg;
  if (work->run) work->run(work->run_arg);
  finish(work);
}

const char *emu_submit_copy_2d(emu_machine *m, uint64_t dst, size_t dst_pitch, uint64_t src,
                               size_t src_pitch, size_t width, size_t rows, uint64_t delay_ns,
                               const char *what, emu_clock *clock, void (*done)(void *), void *arg)
{
  size_t to_bytes = rows ? (rows - 1) * dst_pitch + width : 0;
  size_t from_bytes = rows ? (rows - 1) * src_pitch + width : 0;
  emu_memory *to = NULL, *from = NULL;
  size_t to_at = 0, from_at = 0;
  emu_work *work;
  emu_order order;
  if (width > 0 && rows > 0) {
    if (!emu_resolve(m, EMU_HOST, dst, to_bytes, &to, &to_at))
      return "the copy's destination is not mapped";
    if (!emu_resolve(m, EMU_HOST, src, from_bytes, &from, &from_at))
      return "the copy's source is not mapped";
  }
  work = work_new(m, clock, done, arg);
  if (!to) { /* nothing to copy: the operation is still one of its stream */
    emu_at(m, delay_ns, run_work, work);
    return NULL;
  }
  work->to = to;
  work->from = from;
  work->to_at = to_at;
  work->from_at = from_at;
  work->to_pitch = dst_pitch;
  work->from_pitch = src_pitch;
  work->width = width;
  work->rows = rows;
  emu_memory_retain(to);
  emu_memory_retain(from);
  emu_access access = access_of(work, what, &order);
  for (size_t r = 0; r < rows; ++r) {
    emu_memory_read(from, from_at + r * src_pitch, width, src + r * src_pitch, &access);
    emu_memory_write(to, to_at + r * dst_pitch, width, dst + r * dst_pitch, &access);
  }
  cut(work, delay_ns);
  return NULL;
}

const char *emu_submit_copy(emu_machine *m, uint64_t dst, uint64_t src, size_t bytes,
                            uint64_t delay_ns, const char *what, emu_clock *clock,
                            void (*done)(void *), void *arg)
{
  return emu_submit_copy_2d(m, dst, bytes, src, bytes, bytes, 1, delay_ns, what, clock, done, arg);
}

const char *emu_submit_work(emu_machine *m, const emu_range *ranges, int count, uint64_t delay_ns,
                            const char *what, void (*run)(void *), void *run_arg, emu_clock *clock,
                            void (*done)(void *), void *arg)
{
  emu_memory *memory;
  size_t offset;
  emu_order order;
  emu_work *work;
  for (int i = 0; i < count; ++i) {
    if (ranges[i].bytes &&
        !emu_resolve(m, EMU_HOST, ranges[i].at, ranges[i].bytes, &memory, &offset)) {
      return "a range of the operation is not mapped";
    }
  }
  work = work_new(m, clock, done, arg);
  work->run = run;
  work->run_arg = run_arg;
  emu_access access = access_of(work, what, &order);
  for (int write = 0; write < 2; ++write) { /* all reads are before all writes */
    for (int i = 0; i < count; ++i) {
      const emu_range *range = &ranges[i];
      if (!range->bytes || !range->write != !write) continue;
      emu_resolve(m, EMU_HOST, range->at, range->bytes, &memory, &offset);
      if (write)
        emu_memory_write(memory, offset, range->bytes, range->at, &access);
      else
        emu_memory_read(memory, offset, range->bytes, range->at, &access);
    }
  }
  emu_at(m, delay_ns + emu_late(m), run_work, work);
  return NULL;
}

/* ---- The host -------------------------------------------------------------------------------- */
static const char *host_access(emu_machine *m, u64 at, size_t bytes, emu_clock *host, int write,
                               unsigned char **place)
{
  emu_memory *memory;
  size_t offset;
  emu_order order = {0};
  emu_access access = {.m = m, .name = "the host", .global = 1};
  *place = emu_resolve(m, EMU_HOST, at, bytes, &memory, &offset);
  if (!*place) return "the address is not mapped";
  if (host) {
    u32 number = emu_clock_next(host);
    emu_vector_raise(&host->all, host->agent, number);
    order.all = host->all;
    access.order = &order;
    access.agent = host->agent;
    access.clock = number;
  }
  if (write)
    emu_memory_write(memory, offset, bytes, at, &access);
  else
    emu_memory_read(memory, offset, bytes, at, &access);
  return NULL;
}

const char *emu_host_write(emu_machine *m, uint64_t dst, const void *src, size_t bytes,
                           emu_clock *host)
{
  unsigned char *to;
  const char *reason = bytes ? host_access(m, dst, bytes, host, 1, &to) : NULL;
  if (bytes && !reason) {
    memcpy(to, src, bytes);
    emu_unpark(m, NULL);
  }
  return reason;
}

const char *emu_host_read(emu_machine *m, void *dst, uint64_t src, size_t bytes, emu_clock *host)
{
  unsigned char *from;
  const char *reason = bytes ? host_access(m, src, bytes, host, 0, &from) : NULL;
  if (bytes && !reason) memcpy(dst, from, bytes);
  return reason;
}
