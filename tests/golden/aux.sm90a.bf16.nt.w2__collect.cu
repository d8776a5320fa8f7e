// aux.sm90a.bf16.nt.w2__collect
//
// `count` words of 4 bytes from staging to dst, behind a call whose movers (pattern sm) filled one half of
// staging: which, only the device knows. src: the words in half 0; aux: bytes from half to half.
// Primitives of sm_90a: the only place with PTX, and the only way to touch memory.
//
// Shared memory is addressed by 32-bit shared-window addresses, global memory by 64-bit addresses.
// Names of a file that replaces this one (another arch, or the CPU) are the same; a kernel body knows
// nothing else of the machine. What looks like a function call with a literal argument may be a macro,
// since PTX wants immediates there.
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

typedef struct __align__(64) { u64 word[16]; } tensor_map; // CUtensorMap
typedef struct { u64 at[8]; } addr_table;                  // one address per rank

#define KERNEL(THREADS, CLUSTER) \
  extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
#define KERNEL_FLAT(THREADS) extern "C" __global__ void __launch_bounds__(THREADS)
#define GRID_CONSTANT __grid_constant__
// Before a loop: keep it a loop.
#define NO_UNROLL _Pragma("unroll 1")
#define INLINE static __device__ __forceinline__ __attribute__((unused))

// ---- Who am I --------------------------------------------------------------------------------------
INLINE u32 thread_id(void) { return threadIdx.x; }
INLINE u32 block_id(void) { return blockIdx.x; }
INLINE u32 block_count(void) { return gridDim.x; }
// The same value in all lanes of the warp, known to the compiler to be so.
INLINE u32 warp_uniform(u32 x) { return __shfl_sync(0xffffffffu, x, 0); }
INLINE u32 cluster_rank(void)
{
  u32 r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}

// ---- Barriers of threads ---------------------------------------------------------------------------
INLINE void warp_sync(void) { __syncwarp(); }
// 1 if x is nonzero in all lanes.
INLINE i32 warp_all(i32 x) { return __all_sync(0xffffffffu, x); }
// Bit l: x is nonzero in lane l.
INLINE u32 warp_ballot(i32 x) { return __ballot_sync(0xffffffffu, x); }
INLINE void block_sync(void) { __syncthreads(); }
// Execution order alone: for what mbar_init_fence has published.
INLINE void cluster_meet(void)
{
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
#define regs_decrease(COUNT) asm volatile("setmaxnreg.dec.sync.aligned.u32 " #COUNT ";")
#define regs_increase(COUNT) asm volatile("setmaxnreg.inc.sync.aligned.u32 " #COUNT ";")

// ---- Kernels of a stream ---------------------------------------------------------------------------
// Programmatic dependent launch. All earlier kernels have ended and their writes are visible.
INLINE void grid_wait_previous(void) { asm volatile("griddepcontrol.wait;" ::: "memory"); }
// The next kernel may take SMs that this one leaves. It waits for itself (grid_wait_previous) before it reads
// anything, unless this kernel has done so before.
INLINE void grid_start_next(void) { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// ---- Shared memory ---------------------------------------------------------------------------------
extern __shared__ __align__(1024) unsigned char smem_bytes[];
INLINE u32 smem_base(void) { return (u32)__cvta_generic_to_shared(smem_bytes); }

// Words that one thread writes while others read them.
INLINE u32 smem_load_relaxed_u32(u32 at)
{
  u32 x;
  asm volatile("ld.relaxed.cta.shared.u32 %0, [%1];" : "=r"(x) : "r"(at) : "memory");
  return x;
}
INLINE void smem_store_relaxed_u32(u32 at, u32 x)
{
  asm volatile("st.relaxed.cta.shared.u32 [%0], %1;" ::"r"(at), "r"(x) : "memory");
}
// The address of `at` in the shared memory of another block of the cluster.
INLINE u32 smem_of_block(u32 at, u32 block)
{
  u32 r;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(at), "r"(block));
  return r;
}
// Four floats to the shared memory of another block, of which its barrier `bar` counts 16 bytes when they are
// there (mbar_wait_cluster). `at` and `bar` are cluster addresses (smem_of_block); `at` a multiple of 16.
INLINE void smem_store_async_x4(u32 at, const float *x, u32 bar)
{
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(at),
               "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3]), "r"(bar)
               : "memory");
}
// Four floats; `at` is a multiple of 16.
INLINE void smem_load_x4(u32 at, float *x)
{
  asm volatile("ld.shared::cta.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
               : "r"(at)
               : "memory");
}
// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8, and
// holds of each matrix the elements (l / 4, 2 * (l % 4)) and the next.
INLINE void smem_store_matrix_x4(u32 at, u32 r0, u32 r1, u32 r2, u32 r3)
{
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
               "r"(r0), "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}
INLINE void smem_load_matrix_x4(u32 at, u32 *r)
{
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared::cta.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

// ---- mbarriers -------------------------------------------------------------------------------------
INLINE void mbar_init(u32 bar, u32 arrivals)
{
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}
// After mbar_init, before the barrier of threads that publishes it (to the cluster and the TMA unit).
INLINE void mbar_init_fence(void)
{
  asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::: "memory");
}
INLINE void mbar_arrive(u32 bar)
{
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
// One arrival that also announces `bytes` of asynchronous copies.
INLINE void mbar_arrive_expect(u32 bar, u32 bytes)
{
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
// Arrival at the barrier of another block; `bar` is a cluster address (smem_of_block). It orders what the
// tensor cores and TMA have read, not plain accesses: a release at cluster scope would cost a GPU-wide
// memory barrier for every stage.
INLINE void mbar_arrive_cluster(u32 bar)
{
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(bar) : "memory");
}
// The same with a release: orders plain accesses too.
INLINE void mbar_arrive_cluster_release(u32 bar)
{
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(bar) : "memory");
}
// Waits until the phase of this parity has completed. Bounded by its arrivers, who bound their waits.
INLINE void mbar_wait(u32 bar, u32 parity)
{
  asm volatile("{\n\t"
               ".reg .pred done;\n"
               "again:\n\t"
               "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
               "@done bra.uni over;\n\t"
               "bra.uni again;\n"
               "over:\n\t"
               "}" ::"r"(bar),
               "r"(parity)
               : "memory");
}
// The same for a barrier that other blocks complete, by smem_store_async_x4 or a release.
INLINE void mbar_wait_cluster(u32 bar, u32 parity)
{
  asm volatile("{\n\t"
               ".reg .pred done;\n"
               "again:\n\t"
               "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n\t"
               "@done bra.uni over;\n\t"
               "bra.uni again;\n"
               "over:\n\t"
               "}" ::"r"(bar),
               "r"(parity)
               : "memory");
}

// ---- Proxies ---------------------------------------------------------------------------------------
// Generic accesses to shared memory before it are ordered before asynchronous ones after it.
INLINE void fence_async_smem(void) { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
INLINE void fence_async_global(void) { asm volatile("fence.proxy.async.global;" ::: "memory"); }

INLINE void tma_load_2d(u32 dst, const tensor_map *map, u32 bar, i32 x, i32 y)
{
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
               " [%0], [%1, {%3, %4}], [%2];" ::"r"(dst), "l"((u64)map), "r"(bar), "r"(x), "r"(y)
               : "memory");
}
// To the same offset, and the same barrier's offset, in every block of `mask`.
INLINE void tma_load_2d_multicast(u32 dst, const tensor_map *map, u32 bar, i32 x, i32 y, u16 mask)
{
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
               ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(dst),
               "l"((u64)map), "r"(bar), "r"(x), "r"(y), "h"(mask)
               : "memory");
}
INLINE void tma_load_4d(u32 dst, const tensor_map *map, u32 bar, i32 x, i32 y, i32 z, i32 w)
{
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
               " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(dst),
               "l"((u64)map), "r"(bar), "r"(x), "r"(y), "r"(z), "r"(w)
               : "memory");
}
// To the same offset, and the same barrier's offset, in every block of `mask`.
INLINE void tma_load_4d_multicast(u32 dst, const tensor_map *map, u32 bar, i32 x, i32 y, i32 z, i32 w, u16 mask)
{
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
               ".multicast::cluster [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(dst),
               "l"((u64)map), "r"(bar), "r"(x), "r"(y), "r"(z), "r"(w), "h"(mask)
               : "memory");
}
INLINE void tma_store_2d(const tensor_map *map, u32 src, i32 x, i32 y)
{
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"((u64)map),
               "r"(src), "r"(x), "r"(y)
               : "memory");
}
INLINE void tma_store_4d(const tensor_map *map, u32 src, i32 x, i32 y, i32 z, i32 w)
{
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"((u64)map),
               "r"(src), "r"(x), "r"(y), "r"(z), "r"(w)
               : "memory");
}
INLINE void tma_store_commit(void) { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until at most PENDING of this thread's newest groups still read their shared memory.
#define tma_store_wait_read(PENDING) asm volatile("cp.async.bulk.wait_group.read " #PENDING ";" ::: "memory")
// Until at most PENDING are incomplete; the others' writes are then visible to this thread.
#define tma_store_wait(PENDING) asm volatile("cp.async.bulk.wait_group " #PENDING ";" ::: "memory")

// ---- Global memory ---------------------------------------------------------------------------------
// relaxed/acquire/release at system scope: words that other ranks or the host see.
INLINE u64 global_load_relaxed_sys(u64 at)
{
  u64 x;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(x) : "l"(at) : "memory");
  return x;
}
// Sees what the writer did before the release whose value it reads. Cheap, unlike a fence, which would also
// wait for this SM's own stores to peers (microseconds).
INLINE u64 global_load_acquire_sys(u64 at)
{
  u64 x;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(x) : "l"(at) : "memory");
  return x;
}
INLINE void global_store_relaxed_sys(u64 at, u64 x)
{
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(at), "l"(x) : "memory");
}
INLINE void global_store_release_sys(u64 at, u64 x)
{
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(at), "l"(x) : "memory");
}
// Returns the old value; orders this thread's accesses, and those it has seen, on this GPU.
INLINE u64 global_add_gpu(u64 at, u64 x)
{
  u64 old;
  asm volatile("atom.acq_rel.gpu.global.add.u64 %0, [%1], %2;" : "=l"(old) : "l"(at), "l"(x) : "memory");
  return old;
}
INLINE u64 global_swap_gpu(u64 at, u64 x)
{
  u64 old;
  asm volatile("atom.acq_rel.gpu.global.exch.b64 %0, [%1], %2;" : "=l"(old) : "l"(at), "l"(x) : "memory");
  return old;
}
// Plain accesses: data of this kernel, or of earlier ones in stream order.
INLINE u32 global_load_u32(u64 at)
{
  u32 x;
  asm volatile("ld.global.u32 %0, [%1];" : "=r"(x) : "l"(at) : "memory");
  return x;
}
INLINE void global_store_u32(u64 at, u32 x)
{
  asm volatile("st.global.u32 [%0], %1;" ::"l"(at), "r"(x) : "memory");
}
INLINE float global_load_f32(u64 at)
{
  float x;
  asm volatile("ld.global.f32 %0, [%1];" : "=f"(x) : "l"(at) : "memory");
  return x;
}
INLINE void global_store_f32(u64 at, float x)
{
  asm volatile("st.global.f32 [%0], %1;" ::"l"(at), "f"(x) : "memory");
}
INLINE void global_store_u16(u64 at, u32 x)
{
  asm volatile("st.global.u16 [%0], %1;" ::"l"(at), "h"((u16)x) : "memory");
}

// ---- Time ------------------------------------------------------------------------------------------
INLINE u64 clock_ns(void)
{
  u64 t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}
INLINE void pause_ns(u32 ns) { __nanosleep(ns); }

// ---- Mathematics (fast, about 1e-6) ---------------------------------------------------------------------------------
INLINE float math_sqrt(float x) { return sqrtf(x); }
INLINE float math_log(float x) { return __logf(x); }
INLINE float math_sin(float x) { return __sinf(x); }
INLINE float math_cos(float x) { return __cosf(x); }

KERNEL_FLAT(256) tml_aux_sm90a_bf16_nt_w2__collect(
    u64 dst,
    u64 src,
    u64 aux,
    u64 count,
    i32 rank,
    const GRID_CONSTANT addr_table pad)
{
  u64 epoch = global_load_relaxed_sys(pad.at[rank] + 0); // of the call before this kernel
  u64 from = src + (epoch & 1) * aux, i;
  for (i = (u64)block_id() * 256 + thread_id(); i < count; i += (u64)block_count() * 256) {
    global_store_u32(dst + 4 * i, global_load_u32(from + 4 * i));
  }
}
