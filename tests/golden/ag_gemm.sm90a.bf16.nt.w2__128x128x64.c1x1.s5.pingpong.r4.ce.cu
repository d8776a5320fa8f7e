// ag_gemm.sm90a.bf16.nt.w2__128x128x64.c1x1.s5.pingpong.r4.ce
//
// Persistent warp-specialised GEMM tile loop: C = A B^T, with a communication policy at its fixed points.
//
//   warp 0        producer: waits at the gate of a peer's rows, loads tiles of A and B by TMA
//   warp 1        storer: output buffers -> C or a peer's staging, then the tile's signal
//   warp 2        loader: peers' partial or finished tiles -> output buffers (policies that add or copy)
//   warp 3        herald: the headers of the call (block 0 of a call on a comm)
//   warps 4-11    two consumer warpgroups: tensor cores, epilogue; in blocks that are movers (sm) some carry chunks
//
// Schedule pingpong: the warpgroups take turns, a whole tile each, so that one's epilogue runs under the other's tensor cores; the ring of stages keeps their order.
//
// Two kinds of rings in shared memory. Operand stages: producer -> full -> consumers -> empty.
// Output buffers, 4 of 64x64 elements per consumer warpgroup, used at positions 0, 1, 2, ...:
// empty -> (loader -> ready ->) consumer -> full -> storer -> empty. Every position completes exactly
// one phase of each barrier, whatever the tile needs, so all roles count positions alike.
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
// Element type bf16: conversions.
// Two fp32 -> two elements in one register, `low` in the lower half; round to nearest even.
INLINE u32 pack2(float low, float high)
{
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
INLINE float unpack_low(u32 r) { return __uint_as_float(r << 16); }
INLINE float unpack_high(u32 r) { return __uint_as_float(r & 0xffff0000u); }
// wgmma: D[64, N] (+)= A[64, 16] B[N, 16]^T for one warpgroup, operands in shared memory.
//
// Between issue and the wait that covers it, nothing may touch the accumulators.
INLINE void wgmma_fence(void) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
INLINE void wgmma_commit(void) { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
#define wgmma_wait(PENDING) asm volatile("wgmma.wait_group.sync.aligned " #PENDING ";" ::: "memory")

// Matrix descriptor of a K-major operand with 128-byte swizzle: rows of 128 bytes in groups of 8
// (1024 bytes apart); the address is 1024-byte aligned, plus 32 bytes per step of 16 along k.
INLINE u64 wgmma_operand(u32 at)
{
  return ((u64)1 << 62) | ((u64)(1024 >> 4) << 32) | ((u64)1 << 16) | (u64)((at & 0x3ffff) >> 4);
}
// The same operand `steps` of 16 elements further along k.
INLINE u64 wgmma_step_k(u64 operand, u32 steps) { return operand + 2 * steps; }

// d: 64 floats. Lane l of warp w holds row 16 w + l / 4 + 8 ((i / 2) % 2), column
// 8 (i / 4) + 2 (l % 4) + i % 2 in d[i]. accumulate 0: D = A B^T, else D += A B^T.
INLINE void wgmma_m64n128k16(float *d, u64 a, u64 b, u32 accumulate)
{
  asm volatile("{\n\t"
               ".reg .pred p;\n\t"
               "setp.ne.b32 p, %66, 0;\n\t"
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
               "%64, %65, p, 1, 1, 0, 0;\n\t"
               "}"
               : "+f"(d[0]),"+f"(d[1]),"+f"(d[2]),"+f"(d[3]),"+f"(d[4]),"+f"(d[5]),"+f"(d[6]),"+f"(d[7]),"+f"(d[8]),"+f"(d[9]),"+f"(d[10]),"+f"(d[11]),"+f"(d[12]),"+f"(d[13]),"+f"(d[14]),"+f"(d[15]),"+f"(d[16]),"+f"(d[17]),"+f"(d[18]),"+f"(d[19]),"+f"(d[20]),"+f"(d[21]),"+f"(d[22]),"+f"(d[23]),"+f"(d[24]),"+f"(d[25]),"+f"(d[26]),"+f"(d[27]),"+f"(d[28]),"+f"(d[29]),"+f"(d[30]),"+f"(d[31]),"+f"(d[32]),"+f"(d[33]),"+f"(d[34]),"+f"(d[35]),"+f"(d[36]),"+f"(d[37]),"+f"(d[38]),"+f"(d[39]),"+f"(d[40]),"+f"(d[41]),"+f"(d[42]),"+f"(d[43]),"+f"(d[44]),"+f"(d[45]),"+f"(d[46]),"+f"(d[47]),"+f"(d[48]),"+f"(d[49]),"+f"(d[50]),"+f"(d[51]),"+f"(d[52]),"+f"(d[53]),"+f"(d[54]),"+f"(d[55]),"+f"(d[56]),"+f"(d[57]),"+f"(d[58]),"+f"(d[59]),"+f"(d[60]),"+f"(d[61]),"+f"(d[62]),"+f"(d[63])
               : "l"(a), "l"(b), "r"(accumulate));
}
// What every role of the kernel knows of the call: the kernel's parameters, and what the prologue read.
typedef struct { tensor_map at[1]; } map_table_1;
typedef struct { tensor_map at[2]; } map_table_2;

typedef struct {
  const tensor_map *map_a;
  const tensor_map *map_b;
  const tensor_map *map_c;
  u64 bias;
  i32 m;
  i32 n;
  i32 k;
  i32 rank;
  i32 shard;
  u64 fingerprint;
  u64 timeout_ns;
  u64 record;
  const u64 *pad;
  i32 slot;
  i32 keep;
  i32 pull;
  u32 smem;   // shared memory of this block
  u32 block;  // of this block among those of its cluster that share loads
  u32 k_part; // the part of k that they compute
  u64 epoch;  // number of this call
} job;

INLINE i32 div_up(i32 a, i32 b) { return (a + b - 1) / b; }
// One output tile of a block, as the roles and the policy pass it on.
#define TILE_OWN 0  // this rank's result
#define TILE_SEND 1 // a partial result that another rank owns
#define TILE_COPY 2 // a result that another rank finished: staging -> C
#define TILE_PASS 3 // a partial result from another rank, added to and sent on
#define TILE_END 4

typedef struct {
  i32 kind;
  i32 shard;
  i32 tm, tn; // tile row in the shard, tile column
  i32 number; // of the tile in its shard; names its signal word
} tile;
// Waiting for another rank: the one place that does, and it is bounded.
//
// A word holds the epoch of its newest event and only grows; waiting means "at least". The poll is
// relaxed; every 1024 polls it looks at the abort word and at the clock. On success an acquiring
// load and the proxy fence make the writer's data visible to this thread, TMA loads included.
#define FAULT_HEADER_TIMEOUT 1
#define FAULT_SHARD_TIMEOUT 2
#define FAULT_PARTIAL_TIMEOUT 3
#define FAULT_RESULT_TIMEOUT 4
#define FAULT_SLOT_TIMEOUT 5
#define FAULT_MISMATCH 6
#define FAULT_PEER_ABORT 7

// Writes the fault record once and raises the abort word everywhere: from now on no rank waits.
INLINE void raise_fault(const job *j, u32 code, i32 peer, i64 tile_number, u64 expected, u64 found, u64 waited)
{
  u64 own = j->pad[j->rank];
  i32 r;
  if (global_swap_gpu(own + 256, 1) == 0) {
    global_store_relaxed_sys(j->record + 8, (u64)j->rank);
    global_store_relaxed_sys(j->record + 16, (u64)peer);
    global_store_relaxed_sys(j->record + 24, (u64)tile_number);
    global_store_relaxed_sys(j->record + 32, expected);
    global_store_relaxed_sys(j->record + 40, found);
    global_store_relaxed_sys(j->record + 48, waited);
    global_store_release_sys(j->record, (u64)code);
  }
  NO_UNROLL
  for (r = 0; r < 2; ++r) global_store_relaxed_sys(j->pad[r] + 384, 1 + (u64)j->rank);
}

// 1: *at has reached `expected`. 0: aborted or too late (then the fault is raised); do not wait again.
INLINE i32 wait_for(const job *j, u64 at, u64 expected, u32 code, i32 peer, i64 tile_number)
{
  u64 start = 0, found = global_load_relaxed_sys(at);
  u32 polls = 0;
  while (found < expected) {
    if (++polls % 1024 == 0) {
      u64 now = clock_ns();
      if (global_load_relaxed_sys(j->pad[j->rank] + 384) != 0) return 0;
      if (start == 0) start = now;
      if (now - start > j->timeout_ns) {
        raise_fault(j, code, peer, tile_number, expected, found, now - start);
        return 0;
      }
    }
    pause_ns(20);
    found = global_load_relaxed_sys(at);
  }
  global_load_acquire_sys(at);
  fence_async_global();
  return 1;
}
// ag_gemm by copy engines: shards arrive in a slot of staging, whole or in chunks, each chunk followed by its
// signal word. Every rank pushes its own; or, where A is symmetric memory, pulls its peers' (j->pull).
// What ce and sm share: the order of the tiles and where they go. The own shard first, read in place, then
// the peers' in order of arrival (or their rows side by side, in that order): rank s serves s - 1 first, so r
// receives from r + 1 first.
INLINE i32 shard_of_step(const job *j, i32 step) { return (j->rank + step) % 2; }
INLINE i32 step_kind(i32 step) { return (void)step, TILE_OWN; }

// Every shard has a map of its own: this rank's in the caller's A, the others' where they arrive.
INLINE const tensor_map *operand_map(const job *j, const tile *t) { return j->map_a + t->shard; }
INLINE i32 operand_row(const job *j, const tile *t) { return (void)j, t->tm * 128; }

// 1 if the tile's rows of A come from a peer. None do beyond the last row of a shard, where a cluster may have
// a tile.
INLINE i32 is_awaited(const job *j, const tile *t)
{
  i32 row = t->tm * 128;
  return t->shard != j->rank && row < j->shard && t->shard * j->shard + row < j->m;
}

INLINE void store_buffer(const job *j, const tile *t, i32 quiet, u32 buffer, i32 x, i32 y)
{
  (void)quiet;
  tma_store_2d(j->map_c + t->shard, buffer, x, y);
}

// Producer, before k-tile i of an awaited tile: waits for the chunk that has it. Returns how many k-tiles of
// this tile are then there. *arrived: bit 4 * shard + chunk; all of them after an abort.
INLINE i32 gate(const job *j, const tile *t, i32 i, u32 *arrived)
{
  i32 chunk = 0, ready = div_up(j->k, 64);
  (void)i;
  if ((*arrived >> (4 * t->shard + chunk) & 1) == 0) {
    u64 word = j->pad[j->rank] + 8 * (u64)(144 + (j->slot * 8 + t->shard) * 4 + chunk);
    i32 alive = wait_for(j, word, j->epoch, FAULT_SHARD_TIMEOUT, t->shard, t->shard);
    *arrived |= alive ? 1u << (4 * t->shard + chunk) : ~0u;
  }
  return ready;
}

// Every block has read its last shard: the peers may fill this slot again. Unless the stream copies the
// gathered A out of it behind this kernel: then that is left to the gate of the next call.
INLINE void release_slot(const job *j, u64 epoch)
{
  i32 r;
  if (j->keep) {
    global_store_relaxed_sys(j->pad[j->rank] + 8 * (u64)(128 + j->rank), epoch);
    return;
  }
  NO_UNROLL
  for (r = 0; r < 2; ++r) {
    if (r != j->rank) global_store_release_sys(j->pad[r] + 8 * (u64)(128 + j->rank), epoch);
  }
}

INLINE void call_finished(const job *j, u64 epoch)
{
  i32 r;
  release_slot(j, epoch);
  NO_UNROLL
  for (r = 0; r < 2 && j->pull; ++r) { // the caller has its A back when every peer has pulled it
    u64 word = j->pad[j->rank] + 8 * (u64)(216 + r);
    if (r != j->rank && !wait_for(j, word, epoch, FAULT_SLOT_TIMEOUT, r, j->slot)) return;
  }
}
// Which tile next: a rule of the tile's number, so that every role finds the same answer and nothing is
// looked up. A policy gives the steps of a call (shard_of_step, step_kind), and how they mix: the tiles of
// a step go in chunks of all, chunk c of a step comes in round c + step_delay, and a
// round has its steps in order. Or the rows of all shards lie side by side (beside), as if they were one. Inside a shard the raster walks groups of rows of cluster tiles, which keeps
// their rows of A in L2.
//
// Tiles never straddle a shard: the last row of tiles of a shard is cut by its tensor maps. Tiles that a
// cluster has beyond the last row or column are computed like the others, on zeros, and stored nowhere.
// First tile of this block's cluster, and the stride to its next. Movers have no tiles.
INLINE u32 first_tile(void) { return block_id() / 1; }
INLINE u32 tile_stride(void) { return block_count() / 1; }

INLINE i32 shard_rows(const job *j, i32 shard)
{
  i32 left = j->m - shard * j->shard;
  return left < 0 ? 0 : left < j->shard ? left : j->shard;
}

// Cluster tiles of a shard. Shard 0 has the most.
INLINE i32 shard_tiles(const job *j, i32 shard)
{
  return div_up(shard_rows(j, shard), 128) * div_up(j->n, 128);
}

// A segment of the order: the tiles of one step in one round.
typedef struct {
  i32 first; // number of its first tile
  i32 round, step;
} segment;

INLINE i32 chunk_tiles(void) { return 0x7fffffff; }

// Index in the shard of a segment's first tile.
INLINE i32 segment_begin(const segment *s, i32 chunks)
{
  return (void)s, (void)chunks, 0;
}

INLINE i32 segment_tiles(const job *j, const segment *s, i32 chunks)
{
  i32 begin = segment_begin(s, chunks), left = shard_tiles(j, shard_of_step(j, s->step)) - begin;
  return begin < 0 || left < 0 ? 0 : left < chunk_tiles() ? left : chunk_tiles();
}

// The tile of this number; `at`: a segment at or before it, {0} at first, moved on to its own.
INLINE tile tile_at(const job *j, segment *at, u32 number)
{
  tile t;
  i32 columns = div_up(j->n, 128), rows, row, left, group, inside, height, step;
  i32 chunks = 1, size = segment_tiles(j, at, chunks);
  t.kind = TILE_END;
  t.shard = t.tm = t.tn = t.number = 0;
  NO_UNROLL
  while ((i32)number - at->first >= size) {
    if (at->step + 1 < 2) {
      ++at->step;
    } else {
      return t;
    }
    at->first += size;
    size = segment_tiles(j, at, chunks);
  }
  left = (i32)number - at->first + segment_begin(at, chunks);
  step = at->step;
  rows = div_up(shard_rows(j, shard_of_step(j, step)), 128);
  group = left / (8 * columns);
  inside = left % (8 * columns);
  height = rows - group * 8;
  if (height > 8) height = 8;
  row = group * 8 + inside % height;
  t.kind = step_kind(step);
  t.shard = shard_of_step(j, step);
  t.tm = row * 1;
  t.tn = inside / height * 1;
  t.number = t.tm * columns * 1 + t.tn;
  return t;
}

// A role's way through its tiles.
typedef struct {
  u32 number; // of the tile
  segment order;
  tile t;
} walk;

INLINE walk walk_from(const job *j, u32 number)
{
  walk w = {number, {0, 0, 0}, {0, 0, 0, 0, 0}};
  w.t = tile_at(j, &w.order, number);
  return w;
}

INLINE void step(const job *j, walk *w, u32 stride)
{
  w->number += stride;
  w->t = tile_at(j, &w->order, w->number);
}
// The frame of a call on a comm: its number, headers, leave. Protocol: epochs never reset; what alternates
// alternates by the parity of the epoch; before a call ends, block 0 has seen and compared the headers
// of all peers, so a rank that finishes call e knows that all peers have started e, hence finished e-1.
INLINE u64 header_word(u64 pad, u64 epoch, i32 src)
{
  return pad + 8 * (u64)(96 + ((i32)(epoch & 1) * 8 + src) * 2);
}

// The number of this call: one more than the last finished one. The last block moves the word on when all
// blocks are done with it, so every role may read it for itself, when it needs it.
INLINE u64 call_epoch(const job *j) { return global_load_relaxed_sys(j->pad[j->rank] + 0) + 1; }

// Nonzero after an abort. A call that begins so runs out without waiting, and publishes nothing.
INLINE u64 call_aborted(const job *j) { return global_load_relaxed_sys(j->pad[j->rank] + 384); }

// Block 0, one lane per peer: announces this call to the peer, then waits for the peer's announcement
// and compares. Runs beside the other roles.
INLINE void call_headers(const job *j, i32 peer)
{
  u64 there = header_word(j->pad[peer], j->epoch, j->rank);
  u64 here = header_word(j->pad[j->rank], j->epoch, peer);
  u64 epoch, print;
  if (call_aborted(j)) return;
  global_store_relaxed_sys(there + 8, j->fingerprint);
  global_store_release_sys(there, j->epoch);
  if (!wait_for(j, here, j->epoch, FAULT_HEADER_TIMEOUT, peer, -1)) return;
  epoch = global_load_relaxed_sys(here);
  print = global_load_relaxed_sys(here + 8);
  if (print != j->fingerprint || epoch != j->epoch) {
    raise_fault(j, FAULT_MISMATCH, peer, -1, j->fingerprint, print, 0);
  }
}

// One thread of each block, after all roles of the block have finished. The last one closes the call:
// the epoch moves on, and an abort that came meanwhile is shown to the host.
INLINE void call_leave(const job *j)
{
  u64 own = j->pad[j->rank], epoch = call_epoch(j), aborted;
  if (global_add_gpu(own + 128, 1) + 1 != block_count()) return;
  global_store_relaxed_sys(own + 128, 0);
  aborted = call_aborted(j);
  if (aborted != 0) {
    global_store_relaxed_sys(j->record + 56, aborted);
  } else {
    call_finished(j, epoch);
  }
  global_store_relaxed_sys(own + 0, epoch);
}

// Barriers of the output buffer that consumer warpgroup `group` uses at `position`, and the parity that
// a waiter for its completed phase gives.
INLINE u32 out_index(u32 group, u32 position) { return group * 4 + position % 4; }
INLINE u32 out_parity(u32 position) { return position / 4 & 1; }
INLINE u32 out_buffer(const job *j, u32 index) { return j->smem + 163840 + index * 8192; }
INLINE u32 out_full(const job *j, u32 index) { return j->smem + 229456 + 8 * index; }
INLINE u32 out_empty(const job *j, u32 index) { return j->smem + 229520 + 8 * index; }
INLINE u32 out_ready(const job *j, u32 index) { return j->smem + 229584 + 8 * index; }

// First k-tile of a part of k, which ends where the next begins. A part may be empty.
INLINE i32 first_k_tile(const job *j, u32 part) { return (i32)part * div_up(j->k, 64); }

// Loads this block's part of one k-tile; what the cluster shares is loaded in parts and multicast.
INLINE void load_stage(const job *j, const tensor_map *map_a, u32 stage, i32 k, i32 row, i32 column)
{
  u32 full = j->smem + 229376 + 8 * stage;
  u32 a = j->smem + 0 + stage * 16384;
  u32 b = j->smem + 81920 + stage * 16384;
  mbar_arrive_expect(full, 32768);
  tma_load_2d(a, map_a, full, k, row);
  tma_load_2d(b, j->map_b, full, k, column);
}

// One lane.
INLINE void produce(job *j, walk w, u32 lane)
{
  u32 stage = 0, parity = 1;
  i32 k_first = first_k_tile(j, j->k_part), k_end = first_k_tile(j, j->k_part + 1);
  u32 arrived = 0; // the gate's own
  for (; w.t.kind != TILE_END; step(j, &w, tile_stride())) {
    tile t = w.t;
    const tensor_map *map_a = operand_map(j, &t);
    i32 i, row = operand_row(j, &t);
    i32 ready = is_awaited(j, &t) ? k_first : k_end; // k-tiles before it need no wait
    if (ready == k_first && j->epoch == 0) j->epoch = call_epoch(j);
    NO_UNROLL
    for (i = k_first; i < k_end; ++i) {
      if (i == ready) ready = gate(j, &t, i, &arrived);
      mbar_wait(j->smem + 229416 + 8 * stage, parity);
      load_stage(j, map_a, stage, i * 64, row, t.tn * 128);
      if (++stage == 5) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
}

// Every tile's buffers in the order of their positions, each to where the policy sends it (store_buffer: x
// and y in the shard), then the tile's signal.
INLINE void store(job *j)
{
  walk w = walk_from(j, first_tile());
  u32 position = 0; // of the warpgroups of this tile
  u32 turn = 0, other_position = 0; // whose tile it is; position of the other warpgroup
  u32 pending = 0; // empty barrier of the buffer that is still being read; 0: none
  i32 quiet = 0;   // nothing may leave this rank
  for (; w.t.kind != TILE_END; step(j, &w, tile_stride())) {
    tile t = w.t;
    i32 i, sub;
    u32 group;
    NO_UNROLL
    for (i = 0; i < 2; ++i) {
      NO_UNROLL
      for (sub = 0; sub < 2; ++sub) {
        NO_UNROLL
        for (group = 0; group < 1; ++group) {
          u32 index = out_index(turn, position);
          mbar_wait(out_full(j, index), out_parity(position));
          store_buffer(j, &t, quiet, out_buffer(j, index), t.tn * 128 + sub * 64,
                       t.tm * 128 + ((i32)group * 2 + i) * 64);
          tma_store_commit();
          if (pending != 0) {
            tma_store_wait_read(1);
            mbar_arrive(pending);
          }
          pending = out_empty(j, index);
        }
        ++position;
      }
    }
    tma_store_wait_read(0);
    mbar_arrive(pending);
    pending = 0;
    u32 swap = position;
    position = other_position;
    other_position = swap;
    turn ^= 1;
  }
}
// One lane of the warpgroup (one per block that shares loads) gives a stage back to the producers.
INLINE void release_stage(const job *j, u32 stage, u32 thread)
{
  if (thread == 0) mbar_arrive(j->smem + 229416 + 8 * stage);
}

// All k-tiles of one tile into acc, from k-tile number `at` of this block on. The newest group is still
// in flight on return: acc belongs to the tensor cores until multiply_end.
INLINE void multiply_begin(const job *j, float *acc, u32 group, u32 thread, i32 k_tiles, u32 at)
{
  u32 stage = at % 5, parity = at / 5 & 1, previous = 0;
  i32 i;
  NO_UNROLL
  for (i = 0; i < k_tiles; ++i) {
    u64 a = wgmma_operand(j->smem + 0 + stage * 16384);
    u64 b = wgmma_operand(j->smem + 81920 + stage * 16384);
    mbar_wait(j->smem + 229376 + 8 * stage, parity);
    wgmma_fence();
    wgmma_m64n128k16(acc + 0, wgmma_step_k(a, 0), wgmma_step_k(b, 0), i > 0);
    wgmma_m64n128k16(acc + 64, wgmma_step_k(a + 512, 0), wgmma_step_k(b, 0), i > 0);
    wgmma_m64n128k16(acc + 0, wgmma_step_k(a, 1), wgmma_step_k(b, 1), 1);
    wgmma_m64n128k16(acc + 64, wgmma_step_k(a + 512, 1), wgmma_step_k(b, 1), 1);
    wgmma_m64n128k16(acc + 0, wgmma_step_k(a, 2), wgmma_step_k(b, 2), 1);
    wgmma_m64n128k16(acc + 64, wgmma_step_k(a + 512, 2), wgmma_step_k(b, 2), 1);
    wgmma_m64n128k16(acc + 0, wgmma_step_k(a, 3), wgmma_step_k(b, 3), 1);
    wgmma_m64n128k16(acc + 64, wgmma_step_k(a + 512, 3), wgmma_step_k(b, 3), 1);
    wgmma_commit();
    wgmma_wait(1);
    if (i > 0) release_stage(j, previous, thread);
    previous = stage;
    if (++stage == 5) {
      stage = 0;
      parity ^= 1;
    }
  }
}

// Waits for the last group; `at`: number of the tile's first k-tile.
INLINE void multiply_end(const job *j, u32 thread, i32 k_tiles, u32 at)
{
  wgmma_wait(0);
  release_stage(j, (at + (u32)k_tiles - 1) % 5, thread);
}

// Address of this lane's row for the 16 columns `q` of an output buffer (swizzled as TMA does for rows of
// 128 bytes).
INLINE u32 fragment(u32 buffer, u32 thread, u32 q)
{
  u32 row = (thread >> 5) * 16 + (thread & 15), chunk = q * 2 + (thread >> 4 & 1);
  return buffer + row * 128 + ((chunk ^ (row & 7)) << 4);
}

// The consumer's values are in the buffer: over to the storer.
INLINE void pass_on(const job *j, u32 index, u32 thread)
{
  fence_async_smem();
  warp_sync();
  if ((thread & 31) == 0) mbar_arrive(out_full(j, index));
}

INLINE void add_bias(const job *j, float *values, i32 column)
{
  i32 q;
  for (q = 0; q < 8; ++q) { // this lane's pair of each 8 columns
    i32 x = column + (q / 2) * 16 + (q % 2) * 8;
    u32 pair = x < j->n ? global_load_u32(j->bias + 2 * (u64)x) : 0;
    float *v = values + (q / 2) * 8 + (q % 2) * 4;
    v[0] += unpack_low(pair);
    v[1] += unpack_high(pair);
    v[2] += unpack_low(pair);
    v[3] += unpack_high(pair);
  }
}

// This thread's values of a 64x64 part of the tile -> the output buffer that it holds.
INLINE void fill_buffer(const job *j, const float *values, u32 index, u32 thread)
{
  u32 q;
  for (q = 0; q < 4; ++q) {
    const float *v = values + q * 8;
    smem_store_matrix_x4(fragment(out_buffer(j, index), thread, q), pack2(v[0], v[1]), pack2(v[2], v[3]),
                         pack2(v[4], v[5]), pack2(v[6], v[7]));
  }
  pass_on(j, index, thread);
}

// A part that needs nothing of other ranks; column: of the thread's first pair.
INLINE void write_part(const job *j, float *values, i32 column, u32 group, u32 thread, u32 *position)
{
  u32 index = out_index(group, *position);
  mbar_wait(out_empty(j, index), out_parity(*position) ^ 1);
  if (j->bias != 0) add_bias(j, values, column);
  fill_buffer(j, values, index, thread);
  ++*position;
}

// Turns: a warpgroup enters the ring of stages when the other has seen its last stage filled. Without it
// the parity of a stage would be ambiguous, since each warpgroup skips the other's k-tiles.
INLINE void await_turn(const job *j, u32 group, u32 count)
{
  mbar_wait(j->smem + 229648 + 8 * group, (count & 1) ^ 1 ^ group);
}
INLINE void pass_turn(const job *j, u32 group, u32 thread)
{
  if ((thread & 31) == 0) mbar_arrive(j->smem + 229648 + 8 * (group ^ 1));
}

INLINE void consume(const job *j, u32 group, u32 thread)
{
  float acc[128];
  i32 k_tiles = first_k_tile(j, j->k_part + 1) - first_k_tile(j, j->k_part);
  walk w = walk_from(j, first_tile() + group * tile_stride());
  u32 stride = 2 * tile_stride(), position = 0;
  u32 turn = 0, at = group * (u32)k_tiles, k_stride = 2 * (u32)k_tiles;
  while (w.t.kind != TILE_END) {
    tile t = w.t;
    await_turn(j, group, turn++);
    multiply_begin(j, acc, group, thread, k_tiles, at);
    pass_turn(j, group, thread);
    step(j, &w, stride); // to the next tile, under the last tensor core instructions
    multiply_end(j, thread, k_tiles, at);
    at += k_stride;
    write_part(j, acc + 0, t.tn * 128 + 0 + (i32)(thread & 3) * 2, group,
               thread, &position);
    write_part(j, acc + 32, t.tn * 128 + 64 + (i32)(thread & 3) * 2, group,
               thread, &position);
    write_part(j, acc + 64, t.tn * 128 + 0 + (i32)(thread & 3) * 2, group,
               thread, &position);
    write_part(j, acc + 96, t.tn * 128 + 64 + (i32)(thread & 3) * 2, group,
               thread, &position);
  }
}

// One lane of each warp but the producer's: an mbarrier takes its time to make.
INLINE void init_barriers(const job *j, u32 helper)
{
  u32 i;
  NO_UNROLL
  for (i = helper; i < 36; i += 11) {
    mbar_init(j->smem + 229376 + 8 * i, i < 5 ? 1 : i < 10 ? 1 : i < 18 ? 4 : i < 34 ? 1 : i < 36 ? 4 : 0);
  }
  if (helper == 0) smem_store_relaxed_u32(j->smem + 229664, 0);
  mbar_init_fence();
}

// A warp of block 0: the headers of the call.
INLINE void herald(job *j, u32 lane)
{
  if (block_id() != 0 || lane >= 2 || (i32)lane == j->rank) return;
  j->epoch = call_epoch(j);
  call_headers(j, (i32)lane);
}

KERNEL(384, 1) tml_ag_gemm_sm90a_bf16_nt_w2__128x128x64_c1x1_s5_pingpong_r4_ce(
    const GRID_CONSTANT map_table_2 map_a,
    const GRID_CONSTANT map_table_1 map_b,
    const GRID_CONSTANT map_table_2 map_c,
    u64 bias,
    i32 m,
    i32 n,
    i32 k,
    i32 rank,
    i32 shard,
    u64 fingerprint,
    u64 timeout_ns,
    u64 record,
    const GRID_CONSTANT addr_table pad,
    i32 slot,
    i32 keep,
    i32 pull)
{
  u32 thread = thread_id(), warp = warp_uniform(thread >> 5), lane = thread & 31;
  job j;
  walk w; // the producer's
  j.map_a = map_a.at;
  j.map_b = map_b.at;
  j.map_c = map_c.at;
  j.bias = bias;
  j.m = m;
  j.n = n;
  j.k = k;
  j.rank = rank;
  j.shard = shard;
  j.fingerprint = fingerprint;
  j.timeout_ns = timeout_ns;
  j.record = record;
  j.pad = pad.at;
  j.slot = slot;
  j.keep = keep;
  j.pull = pull;
  j.smem = smem_base();
  j.block = 0;
  j.k_part = 0;
  j.epoch = 0;
  if (warp == 0) w = walk_from(&j, first_tile()); // now, since the first loads wait for it
  if (warp > 0 && lane == 0) init_barriers(&j, warp - 1);
  block_sync();
  grid_start_next();

  if (warp < 4) {
    regs_decrease(72);
    if (warp == 0 && lane == 0) produce(&j, w, lane);
    if (warp == 1 && lane == 0) store(&j);
    if (warp == 3) herald(&j, lane);
  } else {
    regs_increase(216);
    consume(&j, (warp - 4) / 4, thread % 128);
  }

  warp_sync();
  block_sync();
  if (thread == 0) call_leave(&j);
}
