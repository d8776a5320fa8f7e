-- The analytic cost model: ranks variants before anything is compiled. Only its order matters.
--
-- Per tile, the time of the slowest of three ports (tensor cores, L2 -> shared memory, shared
-- memory -> tensor cores) plus the epilogue; tiles go in waves over the SMs. ag_gemm ends no sooner
-- than the last chunk has arrived and is computed; gemm_rs and gemm_ar hide their communication
-- behind all but the last wave.
local arch = require "arch"

local M = {}

local function cdiv(a, b) return (a + b - 1) // b end

-- Cluster tiles of a problem; tiles never straddle a shard.
local function cluster_tiles(v, p)
  local rows = cdiv(p.m, p.world)
  local shards = p.op == "gemm" and 1 or p.world
  local per_shard = cdiv(p.op == "gemm" and p.m or rows, v.tile[1] * v.cluster[1])
  return shards * per_shard * cdiv(p.n, v.tile[2] * v.cluster[2])
end

-- Clocks of one output tile.
local function tile_clocks(v, p, facts)
  local bm, bn, bk = table.unpack(v.tile)
  local k = cdiv(cdiv(p.k, bk), v.split) * bk -- of one block
  local mma = k * bm * bn / facts.fma
  local l2 = k * 2 * (bm / v.cluster[2] + bn / v.cluster[1]) / facts.l2_rate
  -- each consumer warpgroup reads its rows of A and all of B
  local smem = k * 2 * (bm + 2 * bn) / facts.smem_rate
  local fill = 1500 -- first loads of a tile, not hidden when tiles are short
  local epilogue = bm * bn / 16
  local sums = v.split - 1 -- of as many blocks come for a share of the tile
  local exchange = sums > 0 and 1500 * facts.clock + sums * bm * bn * 4 / v.split / facts.dsmem_rate
    or 0
  return math.max(mma, l2, smem) + exchange + epilogue + (k < 2048 and fill or fill / 4)
end

-- ag_gemm: when the last shard has arrived, and what its tiles still need then: the k-tiles of one
-- chunk if it comes along k, the tiles of one chunk if it comes along m.
local function gathered_us(v, p, facts, link, clusters, tile_us)
  local shard, peers = cdiv(p.m, p.world), p.world - 1
  local bytes = shard * p.k * 2 * peers
  local tiles = cluster_tiles(v, p) // p.world
  if v.comm == "sm" then
    local rate = math.min(link, v.movers * facts.mover)
    local part = math.min(1, v.derived.move_k / p.k)
    return 4 + bytes / rate * 1e6 + cdiv(tiles, clusters) * tile_us * part
  end
  local chunks_k, chunks_m = v.chunk[1], v.chunk[2]
  local copies = 2 * chunks_k * chunks_m * peers -- microseconds of starting them
  return 10 + copies + bytes / link * 1e6
    + cdiv(cdiv(tiles, chunks_m), clusters) * tile_us / chunks_k
end

local sends_partials = { push = true, ring = true, twoshot = true }

-- Bytes per second that leave a rank. PCIe has them for neighbours; all ranks to all meet at the bridges.
local function link_rate(v, p, facts, machine)
  local rate = facts.link[machine.link] or facts.link.nvlink
  local crowded = machine.link == "pcie" and p.world > 2 and (v.comm == "push" or v.comm == "twoshot")
  return crowded and rate / 2 or rate
end

-- Bytes that this rank must send, and the share of the GEMM that can hide them.
local function exposed_us(p, rate, gemm_us, waves)
  if p.world == 1 then return 0 end
  local shard = cdiv(p.m, p.world)
  local peers = p.world - 1
  local columns = ({ gemm_rs = p.n, gemm_ar = 2 * p.n })[p.op]
  local bytes = shard * columns * peers * 2
  local us = bytes / rate * 1e6
  local hidden = gemm_us * (1 - 1 / (waves + 1))
  return math.max(0, us - hidden) + 4
end

-- Estimated microseconds of a variant on a machine {sms=, link=} for a problem.
function M.cost(v, p, machine)
  local facts = arch.get(v.arch)
  local sms = machine.sms and machine.sms > 0 and machine.sms or facts.sms
  local flops = 2.0 * p.m * p.n * p.k
  local peak = 2.0 * sms * facts.fma * facts.clock * 1e9
  local link = link_rate(v, p, facts, machine)
  if v.kind == "library" then
    -- what cuBLAS reaches on average, and then the whole collective behind it
    local us = flops / (0.78 * peak) * 1e6 + 6
    if v.comm == "nccl" then
      local columns = ({ ag_gemm = p.k, gemm_rs = p.n, gemm_ar = 2 * p.n })[p.op]
      local bytes = columns * p.m * 2 * (p.world - 1) / p.world
      us = us + bytes / (0.6 * link) * 1e6 + 15
    end
    return us
  end
  local clusters = math.max(1, (sms - v.movers) // (v.cluster[1] * v.cluster[2] * v.split))
  local waves = cdiv(math.max(1, cluster_tiles(v, p)), clusters)
  local tile_us = tile_clocks(v, p, facts) / (facts.clock * 1e3)
  local us = waves * tile_us + 4
  if v.comm == "ce" or v.comm == "sm" then
    -- where all is hidden, fewer copies and movers disturb the main loops less
    local disturb = (v.chunk[1] * v.chunk[2] - 1) * (p.world - 1) * 0.5 + v.movers * 0.03
    return math.max(us, gathered_us(v, p, facts, link, clusters, tile_us) + 4) + disturb
  end
  if sends_partials[v.comm] then -- each wave of sends leaves in one burst
    local burst = math.min(p.m * p.n, sms * v.tile[1] * v.tile[2]) * 2 / link * 1e6
    local sends = (p.world - 1) / p.world
    local share = v.pace == 0 and math.max(0.5, v.unbuffered) or 0.1
    us = us + share * burst * waves * sends -- what of a burst stops the main loops
    local rate = v.pace == 0 and link or math.min(link, v.pace * 1e9)
    us = math.max(us, p.m * p.n * 2 * sends / rate * 1e6)
  end
  if v.comm == "ring" then us = us + 3 * (p.world - 1) end -- hops of the last tile: store, signal, load
  return us + exposed_us(p, link, us, waves)
end

return M
