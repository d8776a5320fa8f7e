-- The analytic cost model: ranks variants before anything is compiled. Only its order matters.
--
-- Per tile, the time of the slowest of three ports (tensor cores, L2 -> shared memory, shared
-- memory -> tensor cores) plus the epilogue; tiles go in waves over the SMs. Communication is hidden
-- behind all but the first wave (ag_gemm) or the last (gemm_rs, gemm_ar).
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

-- Bytes that this rank must send, and the share of the GEMM that can hide them.
local function exposed_us(p, facts, machine, gemm_us, waves)
  if p.world == 1 then return 0 end
  local rate = facts.link[machine.link] or facts.link.nvlink
  local shard = cdiv(p.m, p.world)
  local peers = p.world - 1
  local columns = ({ ag_gemm = p.k, gemm_rs = p.n, gemm_ar = 2 * p.n })[p.op]
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
  local link = facts.link[machine.link] or facts.link.nvlink
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
  local clusters = sms // (v.cluster[1] * v.cluster[2] * v.split)
  local waves = cdiv(math.max(1, cluster_tiles(v, p)), clusters)
  local us = waves * tile_clocks(v, p, facts) / (facts.clock * 1e3) + 4
  if v.comm == "push" or v.comm == "twoshot" then -- each wave of sends leaves in one burst
    local burst = math.min(p.m * p.n, sms * v.tile[1] * v.tile[2]) * 2 / link * 1e6
    local sends = (p.world - 1) / p.world
    local share = v.pace == 0 and math.max(0.5, v.unbuffered) or 0.1
    us = us + share * burst * waves * sends -- what of a burst stops the main loops
    local rate = v.pace == 0 and link or math.min(link, v.pace * 1e9)
    us = math.max(us, p.m * p.n * 2 * sends / rate * 1e6)
  end
  return us + exposed_us(p, facts, machine, us, waves)
end

return M
