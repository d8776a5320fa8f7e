/* A fortified longjmp takes a jump between stacks for a mistake. */
#undef _FORTIFY_SOURCE
#include "fibre.h"

#include <setjmp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
#ifndef EMU_ASAN
#define EMU_ASAN 0
#endif

#if EMU_ASAN
#include <sanitizer/common_interface_defs.h>
#define STACK_BYTES ((size_t)512 << 10)
#else
/* An odd number of cache lines above a power of two, so that the tops of stacks fall into different
 * sets. */
#define STACK_BYTES (((size_t)64 << 10) + 33 * 64)
#endif
#define STACKS_PER_MAP 64

struct emu_fibre {
  emu_fibres *pool;
  emu_fibre *next; /* free list */
  void (*fn)(void *);
  void *arg;
  char *stack;
  int entered; /* the stack has been started and stands in its loop, or inside fn */
  int finished;
#if EMU_ASAN
  ucontext_t self;
  void *fake;
#else
  jmp_buf self;
#endif
};

typedef struct stack_map {
  struct stack_map *next;
  char *bytes;
  emu_fibre fibre[STACKS_PER_MAP];
} stack_map;

struct emu_fibres {
  stack_map *maps;
  emu_fibre *free;
#if EMU_ASAN
  ucontext_t home;
  void *fake;
  const void *bottom; /* of the stack that resumes */
  size_t size;
#else
  jmp_buf home;
#endif
};

emu_fibres *emu_fibres_create(void) { return calloc(1, sizeof(emu_fibres)); }

void emu_fibres_destroy(emu_fibres *pool)
{
  if (!pool) return;
  while (pool->maps) {
    stack_map *map = pool->maps;
    pool->maps = map->next;
    munmap(map->bytes, STACK_BYTES * STACKS_PER_MAP);
    free(map);
  }
  free(pool);
}

static int more_stacks(emu_fibres *pool)
{
  stack_map *map = calloc(1, sizeof *map);
  if (!map) return 0;
  map->bytes = mmap(NULL, STACK_BYTES * STACKS_PER_MAP, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map->bytes == MAP_FAILED) {
    free(map);
    return 0;
  }
  map->next = pool->maps;
  pool->maps = map;
  for (int i = 0; i < STACKS_PER_MAP; ++i) {
    emu_fibre *fibre = &map->fibre[i];
    fibre->pool = pool;
    fibre->stack = map->bytes + STACK_BYTES * (size_t)i;
    fibre->next = pool->free;
    pool->free = fibre;
  }
  return 1;
}

emu_fibre *emu_fibre_take(emu_fibres *pool, void (*fn)(void *), void *arg)
{
  emu_fibre *fibre;
  if (!pool->free && !more_stacks(pool)) return NULL;
  fibre = pool->free;
  pool->free = fibre->next;
  fibre->fn = fn;
  fibre->arg = arg;
  fibre->finished = 0;
  return fibre;
}

static void leave(emu_fibre *fibre)
{
#if EMU_ASAN
  emu_fibres *pool = fibre->pool;
  __sanitizer_start_switch_fiber(&fibre->fake, pool->bottom, pool->size);
  swapcontext(&fibre->self, &pool->home);
  __sanitizer_finish_switch_fiber(fibre->fake, &pool->bottom, &pool->size);
#else
  if (_setjmp(fibre->self) == 0) _longjmp(fibre->pool->home, 1);
#endif
}

/* The bottom of every fibre's stack: one function after another. The pointer comes in two halves
 * since makecontext passes ints. */
static void loop(unsigned low, unsigned high)
{
  emu_fibre *fibre = (emu_fibre *)((size_t)low | (size_t)high << 16 << 16);
#if EMU_ASAN
  __sanitizer_finish_switch_fiber(NULL, &fibre->pool->bottom, &fibre->pool->size);
#endif
  for (;;) {
    fibre->fn(fibre->arg);
    fibre->finished = 1;
    leave(fibre);
  }
}

static void prepare(emu_fibre *fibre, ucontext_t *context)
{
  size_t self = (size_t)fibre;
  getcontext(context);
  context->uc_stack.ss_sp = fibre->stack;
  context->uc_stack.ss_size = STACK_BYTES;
  context->uc_link = NULL;
  makecontext(context, (void (*)(void))loop, 2, (unsigned)(self & 0xffffffffu),
              (unsigned)(self >> 16 >> 16));
  fibre->entered = 1;
}

#if EMU_ASAN
static void enter(emu_fibre *fibre)
{
  emu_fibres *pool = fibre->pool;
  if (!fibre->entered) prepare(fibre, &fibre->self);
  __sanitizer_start_switch_fiber(&pool->fake, fibre->stack, STACK_BYTES);
  swapcontext(&pool->home, &fibre->self);
  __sanitizer_finish_switch_fiber(pool->fake, NULL, NULL);
}
#else
static void first_entry(emu_fibre *fibre)
{
  ucontext_t context;
  prepare(fibre, &context);
  setcontext(&context);
}

static void enter(emu_fibre *fibre)
{
  if (_setjmp(fibre->pool->home) == 0) {
    if (fibre->entered) _longjmp(fibre->self, 1);
    first_entry(fibre);
  }
}
#endif

int emu_fibre_resume(emu_fibre *fibre)
{
  enter(fibre);
  if (!fibre->finished) return 1;
  fibre->next = fibre->pool->free;
  fibre->pool->free = fibre;
  return 0;
}

void emu_fibre_yield(emu_fibre *fibre) { leave(fibre); }

void emu_fibre_drop(emu_fibre *fibre)
{
  fibre->entered = 0; /* the next user starts the stack afresh */
  fibre->next = fibre->pool->free;
  fibre->pool->free = fibre;
}
