/* The table of primitives, and those that need no file of their own. */
#include "prims.h"

#include "mma.h"
#include "tensor.h"

#include <math.h>

static u32 thread_id(void) { return emu_self()->index; }
static u32 block_id(void) { return emu_self()->cta->block; }
static u32 block_count(void) { return emu_self()->cta->run->grid; }
static u32 cluster_rank(void) { return emu_self()->cta->rank; }
static u32 smem_base(void) { return EMU_SMEM_BASE; }

/* Registers move between warpgroups on a GPU; here the count is only checked. */
static void regs_change(emu_site *site, u32 count)
{
  emu_enter(site);
  if (count % 8 || count < 24 || count > 256) {
    emu_hazard_here(EMU_MISUSE, 0, "%u registers: not a multiple of 8 from 24 to 256", count);
  }
}

static u64 clock_ns(emu_site *site) { return emu_enter(site)->cta->m->now; }

/* Who polls a word that has not changed is woken by its change, not by the clock. */
static void pause_ns(emu_site *site, u32 ns)
{
  if (emu_enter(site)->polls > 0)
    emu_park();
  else
    emu_sleep(ns);
}

static const emu_primitives table = {
    .thread_id = thread_id,
    .block_id = block_id,
    .block_count = block_count,
    .cluster_rank = cluster_rank,
    .smem_base = smem_base,
    .warp_uniform = emu_warp_uniform,
    .warp_sync = emu_warp_sync,
    .warp_all = emu_warp_all,
    .warp_ballot = emu_warp_ballot,
    .block_sync = emu_block_sync,
    .cluster_meet = emu_cluster_meet,
    .regs_change = regs_change,
    .smem_load = emu_smem_load,
    .smem_store = emu_smem_store,
    .smem_of_block = emu_smem_of_block,
    .smem_store_cluster = emu_smem_store,
    .smem_store_async_x4 = emu_smem_store_async,
    .smem_load_x4 = emu_smem_load_x4,
    .smem_store_matrix_x4 = emu_store_matrix,
    .smem_load_matrix_x4 = emu_load_matrix,
    .mbar_init = emu_mbar_init,
    .mbar_init_fence = emu_mbar_init_fence,
    .mbar_add = emu_mbar_add,
    .mbar_arrive_cluster = emu_mbar_arrive_cluster,
    .mbar_arrive_cluster_release = emu_mbar_arrive_cluster_release,
    .mbar_wait = emu_mbar_wait,
    .mbar_wait_cluster = emu_mbar_wait_cluster,
    .fence_async_smem = emu_fence_async_smem,
    .fence_async_global = emu_fence_async_global,
    .tma_load = emu_tma_issue,
    .tma_store = emu_tma_store_issue,
    .tma_store_commit = emu_tma_store_commit,
    .tma_store_wait_read = emu_tma_store_wait_read,
    .tma_store_wait = emu_tma_store_wait,
    .global_load_relaxed_sys = emu_load_relaxed,
    .global_load_acquire_sys = emu_load_acquire,
    .global_store_relaxed_sys = emu_store_relaxed,
    .global_store_release_sys = emu_store_release,
    .global_add_gpu = emu_add,
    .global_swap_gpu = emu_swap,
    .global_load = emu_load,
    .global_store = emu_store,
    .clock_ns = clock_ns,
    .pause_ns = pause_ns,
    .wgmma_fence = emu_wgmma_fence,
    .wgmma_commit = emu_wgmma_commit,
    .wgmma_wait = emu_wgmma_wait,
    .wgmma = emu_wgmma,
    .from_half = emu_from_half,
    .to_half = emu_to_half,
    .poisoned = emu_poisoned,
    .math_sqrt = sqrtf,
    .math_log = logf,
    .math_sin = sinf,
    .math_cos = cosf,
};

const void *emu_primitives_of_abi(unsigned abi) { return abi == EMU_ABI ? &table : NULL; }
