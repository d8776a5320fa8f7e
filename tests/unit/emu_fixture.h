/* For the tests of the emulated device: a machine, memory, and kernels written by hand over the
 * primitives. A kernel takes one parameter, `args`. */
#ifndef EMU_FIXTURE_H
#define EMU_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../runtime/emu/device.h"
#include "../../templates/prim/emu_table.cu.in"

static const emu_primitives *tml_emu;

#include "../../templates/prim/emu_calls.cu.in"

#define KERNEL_ARGS(params) ((const args *)(params)[0])

typedef struct {
  u64 at[4];
  tensor_map map[4];
  i32 mode, device;
} args;

typedef struct {
  emu_machine *m;
  emu_clock *stream[8];
} rig;

static inline rig rig_make(int devices, u64 seed)
{
  emu_config config = {devices, 4, seed, 3, 0, 0};
  rig r = {0};
  tml_emu = emu_primitives_of_abi(EMU_ABI);
  assert_non_null(tml_emu);
  r.m = emu_machine_create(&config);
  assert_non_null(r.m);
  for (int d = 0; d < devices; ++d) r.stream[d] = emu_clock_create(r.m);
  return r;
}

static inline void rig_free(rig *r)
{
  for (int d = 0; d < 8; ++d) emu_clock_destroy(r->stream[d]);
  emu_machine_destroy(r->m);
}

/* Memory of a device that every device maps. */
static inline u64 rig_memory(rig *r, int device, size_t bytes)
{
  u64 at = emu_reserve(r->m, bytes, 65536);
  emu_memory *memory = emu_memory_create(r->m, device, bytes);
  assert_null(emu_map(r->m, at, bytes, memory, 0, 0xff));
  emu_memory_release(memory);
  return at;
}

/* The same, written by the host before anything starts. */
static inline u64 rig_filled(rig *r, int device, const void *data, size_t bytes)
{
  u64 at = rig_memory(r, device, bytes);
  assert_null(emu_host_write(r->m, at, data, bytes, r->stream[device]));
  for (int d = 0; d < 8; ++d) {
    if (r->stream[d] && d != device) emu_clock_join(r->stream[d], r->stream[device]);
  }
  return at;
}

static inline tensor_map rig_map(u64 at, u64 columns, u64 rows, u32 box_rows)
{
  tensor_map map;
  emu_tensor t = {.at = at,
                  .rank = 2,
                  .element = 2,
                  .dim = {columns, rows},
                  .stride = {2, 2 * columns},
                  .box = {64, box_rows},
                  .swizzle = 3};
  assert_null(emu_tensor_encode(&map, &t));
  return map;
}

static inline void rig_submit(rig *r, int device, emu_kernel_entry entry, const args *a, u32 grid,
                              u32 block, u32 cluster)
{
  u32 size = sizeof *a;
  args copy = *a;
  void *params[1] = {&copy};
  emu_launch launch = {device, "hand", entry, params, &size, 1, grid, block, cluster, 65536, 0};
  copy.device = device;
  assert_null(emu_submit_launch(r->m, &launch, r->stream[device], NULL, NULL));
}

/* Until nothing is under way, or nothing moves. */
static inline emu_state rig_run(rig *r)
{
  for (int passes = 0; passes < 20000;) {
    emu_state state = emu_run(r->m, 0);
    if (state == EMU_POLLING) {
      emu_pass_time(r->m);
      ++passes;
    } else if (state != EMU_DONE) {
      return state;
    }
  }
  return EMU_POLLING;
}

static inline void rig_expect_clean(const rig *r)
{
  const emu_report *report = emu_report_at(r->m, 0);
  if (report) fail_msg("%s", report->text);
}

static inline int rig_reported(const rig *r, emu_hazard kind)
{
  for (size_t i = 0; i < emu_report_count(r->m); ++i) {
    if (emu_report_at(r->m, i)->kind == kind) return 1;
  }
  return 0;
}

#endif
