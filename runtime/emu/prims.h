/* The primitives that the table points to; templates/prim/sm_90a.cu.in says what each does. */
#ifndef EMU_PRIMS_H
#define EMU_PRIMS_H

#include "state.h"

/* sync.c */
void emu_warp_sync(emu_site *site);
u32 emu_warp_uniform(emu_site *site, u32 x);
i32 emu_warp_all(emu_site *site, i32 x);
u32 emu_warp_ballot(emu_site *site, i32 x);
void emu_block_sync(emu_site *site);
void emu_cluster_meet(emu_site *site);

/* smem.c */
u64 emu_smem_load(emu_site *site, u32 at, u32 bytes);
void emu_smem_store(emu_site *site, u32 at, u64 x, u32 bytes);
u32 emu_smem_of_block(emu_site *site, u32 at, u32 block);
void emu_smem_load_x4(emu_site *site, u32 at, float *x);
void emu_store_matrix(emu_site *site, u32 at, u32 r0, u32 r1, u32 r2, u32 r3);
void emu_load_matrix(emu_site *site, u32 at, u32 *r);

/* mbar.c */
void emu_mbar_init(emu_site *site, u32 bar, u32 arrivals);
void emu_mbar_init_fence(emu_site *site);
void emu_mbar_add(emu_site *site, u32 bar, u32 count, u32 bytes);
void emu_mbar_arrive_cluster(emu_site *site, u32 bar);
void emu_mbar_arrive_cluster_release(emu_site *site, u32 bar);
void emu_mbar_wait(emu_site *site, u32 bar, u32 parity);
void emu_mbar_wait_cluster(emu_site *site, u32 bar, u32 parity);
void emu_fence_async_smem(emu_site *site);
void emu_fence_async_global(emu_site *site);

/* remote.c */
void emu_smem_store_async(emu_site *site, u32 at, const float *x, u32 bar);

/* load.c, bulk.c */
void emu_tma_issue(emu_site *site, u32 dst, const void *map, u32 bar, u32 rank, const i32 *at,
                   u32 mask);
void emu_tma_store_issue(emu_site *site, const void *map, u32 src, u32 rank, const i32 *at);
void emu_tma_store_commit(emu_site *site);
void emu_tma_store_wait_read(emu_site *site, u32 pending);
void emu_tma_store_wait(emu_site *site, u32 pending);

/* word.c */
u64 emu_load_relaxed(emu_site *site, u64 at);
u64 emu_load_acquire(emu_site *site, u64 at);
void emu_store_relaxed(emu_site *site, u64 at, u64 x);
void emu_store_release(emu_site *site, u64 at, u64 x);
u64 emu_add(emu_site *site, u64 at, u64 x);
u64 emu_swap(emu_site *site, u64 at, u64 x);
u64 emu_load(emu_site *site, u64 at, u32 bytes);
void emu_store(emu_site *site, u64 at, u64 x, u32 bytes);

/* mma.c */
void emu_wgmma_fence(emu_site *site);
void emu_wgmma_commit(emu_site *site);
void emu_wgmma_wait(emu_site *site, u32 pending);
void emu_wgmma(emu_site *site, float *d, u64 a, u64 b, u32 columns, u32 fp16, u32 accumulate);
void emu_poisoned(emu_site *site);

#endif
