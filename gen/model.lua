-- The analytic cost model: ranks variants before anything is compiled. Only its order matters.
--
-- A tile takes the slower of two ports, the tensor cores and what comes into the SM's shared memory, and
-- then its epilogue; tiles go in waves over the SMs. Under load the power limit sets the clock: the fuller
-- the tensor cores, the lower it is. Constants were read off traces of single kernels on H100s (the rates of
-- ports in arch.lua, clocks here), those of what depends on chance were fitted to 2100 measured times.
local arch = require "arch"

local M = {}

local LAUNCH_US = 4      -- launch, first loads, last stores
local FILL = 1300        -- clocks until the first tile's loads have come
-- Clocks of an output buffer of 64 columns in the epilogue: of a free one, of one to be waited for.
local PART, PART_LATE = 270, 490
local SUM_PART = 670     -- more for one that adds a partial
local NARROW = 0.42      -- the part of these that one of 32 columns takes
local SPLIT_WAVES = 1.2  -- a split tile's sums and the next one's main loop get in each other's way
-- Loads come late now and then: main loops lose so much for each 1000 clocks that the stages hold less
-- than AHEAD.
local LATE, AHEAD = 0.07, 4300

local function cdiv(a, b) return (a + b - 1) // b end

-- Cluster tiles of a problem; tiles never straddle a shard.
local function cluster_tiles(v, p)
  local rows = cdiv(p.m, p.world)
  local shards = p.op == "gemm" and 1 or p.world
  local per_shard = cdiv(p.op == "gemm" and p.m or rows, v.tile[1] * v.cluster[1])
  return shards * per_shard * cdiv(p.n, v.tile[2] * v.cluster[2])
end

local function part_clocks(v, clocks) return v.derived.PART == 64 and clocks or NARROW * clocks end

-- Clocks of one output tile: its main loop, and what follows before the next can begin.
local function tile_clocks(v, p, facts)
  local bm, bn, bk = table.unpack(v.tile)
  local k = cdiv(cdiv(p.k, bk), v.split) * bk -- of one block
  local mma = k * bm * bn / facts.fma
  local main = math.max(mma, k * 2 * (bm + bn) / facts.l2_rate)
  main = main * (1 + LATE * math.max(0, AHEAD - v.stages * bk * bm * bn / facts.fma) / 1000)
  local sums = v.split - 1 -- of as many blocks come for a share of the tile
  if sums > 0 then main = main + 1900 + sums * bm * bn * 4 / v.split / facts.dsmem_rate end
  local parts = v.derived.MI * bn // v.derived.PART
  local epilogue = parts * part_clocks(v, v.unbuffered == 0 and PART or PART_LATE)
  -- pingpong: the other warpgroup's main loop runs on
  if v.schedule == "pingpong" then epilogue = math.max(200, epilogue - main) end
  return main, epilogue, mma
end

-- ag_gemm: when the first chunk of a peer has arrived, and the end of the call if it waits for the last: the
-- k-tiles of one chunk are still to do if chunks lie along k, the tiles of one chunk if along m.
local function gathered_us(v, p, facts, w)
  local peers = p.world - 1
  local bytes = cdiv(p.m, p.world) * p.k * 2 * peers
  local tiles = cdiv(w.tiles, p.world)
  if v.comm == "sm" then
    local rate = math.min(w.link * facts.movers, v.movers * facts.mover)
    local part = math.min(1, v.derived.move_k / p.k)
    local all = 9 + bytes / rate * 1e6
    return 7 + bytes / rate * 1e6 * part, all + cdiv(tiles, w.clusters) * w.tile_us * part
  end
  local chunks_k, chunks_m = v.chunk[1], v.chunk[2]
  local copies = 2 * chunks_k * chunks_m * peers -- microseconds of starting them
  local all = 10 + copies + bytes / w.link * 1e6
  return 12 + bytes / (chunks_k * chunks_m * peers) / w.link * 1e6,
    all + cdiv(cdiv(tiles, chunks_m), w.clusters) * w.tile_us / chunks_k
end

local sends_partials = { push = true, ring = true, twoshot = true }

-- Bytes per second that leave a rank. PCIe has them for neighbours; all ranks to all meet at the bridges.
local function link_rate(v, p, facts, machine)
  local rate = facts.link[machine.link] or facts.link.nvlink
  local crowded = machine.link == "pcie" and p.world > 2 and (v.comm == "push" or v.comm == "twoshot")
  return crowded and rate / 2 or rate
end

-- Clock in GHz when the tensor cores are busy for this share of the time. What fills shared memory takes
-- power too, and so does what is read from L2 for it: both relative to 128x256 tiles in pairs that share
-- columns.
local function clock_of(v, facts, busy)
  local bm, bn = v.tile[1], v.tile[2]
  local fill = (bm + bn) / (bm * bn) * 256 / 3
  local reads = (bm / v.cluster[2] + bn / v.cluster[1]) / (bm * bn) * 128
  local power = (1 - 0.08 * math.max(0, fill - 1)) * (1.01 - 0.01 * reads)
  return math.min(facts.clock_most, facts.clock * math.max(busy, 0.1) ^ -0.36 * power)
end

-- gemm_rs, gemm_ar: how sends stretch the call. A block's buffers hold at most one tile, so its next epilogue
-- waits until the tile before has left.
local function sent_us(v, p, w)
  local bytes = v.tile[1] * v.tile[2] * 2
  local rate = v.pace > 0 and math.min(w.link, v.pace * 1e9) or w.link
  if v.derived.PART < 64 then rate = 0.75 * rate end -- short rows make small packets
  local drain = w.blocks * bytes / rate * 1e6 -- of a tile of every block
  local sends = (p.world - 1) / p.world
  local sums = v.derived.MI * v.tile[2] // v.derived.PART * part_clocks(v, SUM_PART) / (w.clock * 1e3)
  -- stores that queue hold up loads; what has no buffer holds up the warpgroup
  local blocked = (v.pace == 0 and 0.32 or 0) * drain + 1.2 * v.unbuffered * drain
  local total
  if v.roles == "fixed" then -- who only adds, and who only sends
    local sender = math.max(sends * 1.25 * drain, w.tile_us + sends * blocked)
    total = w.waves * math.max(w.tile_us + sums, sender)
  else
    local pair = w.tile_us * 2 + sums + 2 * sends * blocked
    total = w.waves / 2 * math.max(pair, 2 * sends * drain + w.tile_us)
  end
  if p.op == "gemm_ar" then -- the finished tiles leave as well, and the last of them late
    local all = 2 * sends * p.m * p.n * 2 / rate * 1e6
    total = math.max(total * 1.03, w.tile_us + all) + math.min(drain, all) + 4
  end
  -- first tiles of a call alone, then the link
  return math.max(total * 1.03, w.tile_us + sends * p.m * p.n * 2 / rate * 1e6)
end

-- Reading the weights: once for each group of rows of the raster, from DRAM but for what L2 keeps from
-- the time before.
local function weights_us(v, p, facts)
  local group = v.derived.GROUP * v.tile[1] * v.cluster[1]
  local shards = (p.op == "gemm" or v.order == "side") and 1 or p.world
  local bytes, times = p.n * p.k * 2, shards * cdiv(cdiv(p.m, shards), group)
  return (bytes + (times - 1) * math.max(0, bytes - facts.l2_keep)) / facts.dram * 1e6
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
  local blocks = v.cluster[1] * v.cluster[2] * v.split
  local clusters = (sms - v.movers) // blocks
  if blocks > 2 then clusters = clusters * 10 // 11 end -- GPCs whose SMs do not divide by it
  clusters = math.max(1, clusters)
  local tiles = math.max(1, cluster_tiles(v, p))
  local waves = cdiv(tiles, clusters)
  local main, epilogue, mma = tile_clocks(v, p, facts)
  if v.split > 1 and waves > 1 then main = SPLIT_WAVES * main end
  local clocks = waves * (main + epilogue) + FILL
  local clock = clock_of(v, facts, tiles * blocks * mma / (sms * clocks))
  local tile_us = (main + epilogue) / (clock * 1e3)
  local us = math.max(clocks / (clock * 1e3), weights_us(v, p, facts)) + LAUNCH_US
  local w = { link = link, tiles = tiles, clusters = clusters, waves = waves, clock = clock,
    blocks = math.min(clusters, tiles) * blocks, tile_us = tile_us }
  if v.comm == "ce" or v.comm == "sm" then
    local first, last = gathered_us(v, p, facts, w)
    -- blocks that begin with a peer's tile begin late
    local own = tiles // p.world
    if v.order == "side" then
      us = us + 0.7 * first
    elseif own < clusters then
      us = math.max(us, first + cdiv(tiles - own, clusters) * tile_us + LAUNCH_US)
    end
    -- where all is hidden, fewer copies and movers disturb the main loops less
    local disturb = (v.chunk[1] * v.chunk[2] - 1) * (p.world - 1) * 0.5 + v.movers * 0.03
    return math.max(us, last + LAUNCH_US) + disturb
  end
  if sends_partials[v.comm] then us = math.max(us, sent_us(v, p, w) + LAUNCH_US) end
  if v.comm == "ring" then us = us + 3 * (p.world - 1) end -- hops of the last tile: store, signal, load
  return us
end

return M
