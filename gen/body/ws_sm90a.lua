-- The persistent warp-specialised body for sm_90a (templates/kernel/ws_sm90a.cu.in): what it can be
-- tuned to, what follows from a choice, and which choices are refused. Serves all four ops.
--
-- One producer warpgroup (TMA loads; storer, loader and herald warps beside it) and two consumer
-- warpgroups. Schedule coop: they share every tile, half its rows each. pingpong: each takes every
-- second tile, so that its epilogue runs under the other's tensor cores. Split: blocks of a cluster
-- compute parts of k of the same tile.
local params = require "params"

local M = { template = "kernel/ws_sm90a.cu.in", arch = "sm_90a" }

local CONSUMERS = 2  -- consumer warpgroups
local SUB = 64       -- rows of an output buffer, of a tile that is not split
local GROUP = 8      -- m-blocks that a raster group walks before the next column of tiles
local STAGES = { 3, 4, 5, 6 }
local MOST_PARTS = 7  -- output buffers of a tile that twoshot unrolls
local MOST_BLOCKS = 4 -- of a cluster: larger ones leave SMs of a GPC idle

local function product(v) return table.concat(v, "x") end

-- Axes in the order of the name; `print` gives the name's part.
M.axes = {
  { "tile", { { 128, 128, 64 }, { 128, 160, 64 }, { 128, 192, 64 }, { 128, 256, 64 },
      { 256, 128, 64 }, { 256, 160, 64 }, { 256, 192, 64 }, { 64, 256, 64 }, { 128, 96, 64 },
      { 128, 224, 64 } }, print = product },
  { "cluster", { { 1, 1 }, { 2, 1 }, { 1, 2 } }, print = function(v) return "c" .. product(v) end },
  -- Parts of k, each computed by a block of its own; the cluster adds them up through its shared
  -- memory. For GEMMs with too few tiles for all SMs.
  { "split", { 1, 2, 4 }, print = function(v) return v > 1 and "k" .. v or "" end },
  { "stages", STAGES, print = function(v) return "s" .. v end },
  { "schedule", { "coop", "pingpong" } },
  -- Output buffers of each consumer warpgroup. A whole tile's worth lets the warpgroup go on at
  -- once while slow stores (to a peer) drain; two leave room for another stage.
  { "ring", { 2, "whole" }, print = function(v) return "r" .. v end },
  -- Rate at which a rank sends while it computes, GB/s; 0: as fast as tiles come. Stores that wait
  -- for the link hold up the loads of their SM; an even stream below its rate does not.
  { "pace", { 0, 280, 340 }, of = { push = true, ring = true, twoshot = true },
    print = function(v) return v > 0 and "g" .. v or "" end },
  -- "fixed": some blocks send all the time, the others keep to own tiles; else all do both in turn.
  { "roles", { "", "fixed" }, of = { push = true } },
  -- Parts of a shard that copy engines bring one by one, along k and along m: the main loop waits
  -- for the part that it needs.
  { "chunk", { { 1, 1 }, { 2, 1 }, { 4, 1 }, { 1, 2 }, { 1, 4 } }, of = { ce = true },
    print = function(v)
      return v[1] > 1 and "kc" .. v[1] or v[2] > 1 and "mc" .. v[2] or ""
    end },
  -- "side": the shards' rows side by side, so that weights are read once for all of them; some blocks
  -- wait for the first chunks. Else the own shard comes first.
  { "order", { "", "side" }, of = { sm = true } },
  -- Blocks that carry this rank's shard to the peers and compute nothing.
  { "movers", { 0, 8, 4, 16 }, of = { sm = true },
    print = function(v) return v > 0 and "x" .. v or "" end },
}

-- Parameters of the kernel by communication pattern, in signature order.
local common = { "map_a", "map_b", "map_c", "bias", "m", "n", "k" }
local call = { "rank", "shard", "fingerprint", "timeout_ns", "record", "pad" }
local extra = {
  none = {},
  ce = { "slot", "keep", "pull" },
  sm = { "signal_stride", "signals", "map_out" },
  push = { "signal_stride", "signals", "map_in", "map_out" },
  ring = { "signal_stride", "signals", "map_in", "map_out" },
  twoshot = { "direct", "signal_stride", "signals", "map_in", "map_out", "map_fin" },
}

-- Patterns that send partial tiles: their blocks wait for blocks of other ranks, and an even pace helps.
local function sends_partials(comm) return comm == "push" or comm == "ring" or comm == "twoshot" end

local function param_list(comm)
  local list = { table.unpack(common) }
  if comm ~= "none" then table.move(call, 1, #call, #list + 1, list) end
  table.move(extra[comm], 1, #extra[comm], #list + 1, list)
  return list
end

local function map_counts(comm, world)
  local gathers = comm == "ce" or comm == "sm"
  return {
    map_a = gathers and world or 1, map_b = 1,
    map_c = (gathers or comm == "twoshot") and world or 1,
    map_in = comm == "twoshot" and 1 + world or comm == "ring" and world or 1,
    map_out = world, map_fin = world,
  }
end

-- Columns of an output buffer: a row of it is one line of the TMA swizzle (128 or 64 bytes).
local function part_columns(v) return v.tile[2] % 64 == 0 and 64 or 32 end

-- 64-row blocks of a warpgroup, and its output buffers for one tile.
local function row_blocks(v)
  return v.tile[1] // (64 * (v.schedule == "pingpong" and 1 or CONSUMERS))
end
local function accumulators(v) return row_blocks(v) * v.tile[2] // 2 end -- of a thread
local function tile_parts(v) return row_blocks(v) * v.tile[2] // part_columns(v) end

-- Of the rows of a warpgroup's 64-row block, a block of a split tile stores its share.
local function box_rows(v) return SUB // v.split end

-- Registers of a thread of the producer warpgroup and of a consumer, of the 168 each that the launch bound
-- allows. A storer that looks at the clock or sends twice needs more than one that stores, and few
-- consumers need all they can get.
local function registers(v)
  local busy = v.pace > 0 or v.comm == "twoshot"
  if busy or accumulators(v) <= 128 then return 72, 216 end
  return 56, 224
end

local function ring_bytes(v, ring) return CONSUMERS * ring * box_rows(v) * part_columns(v) * 2 end

-- What the other blocks of a split tile have summed for this one's share of it, fp32.
local function sums_bytes(v) return (v.split - 1) * v.tile[1] * v.tile[2] * 4 // v.split end

local function barrier_count(v, stages, ring)
  local split = v.split > 1 and CONSUMERS * (tile_parts(v) + 1) or 0
  return 2 * stages + 3 * CONSUMERS * ring + CONSUMERS + split
end

local function stage_bytes(v)
  return (v.tile[1] + v.tile[2]) * v.tile[3] * 2
end

local function smem_bytes(v, stages, ring)
  -- 16: the words of the call
  return stages * stage_bytes(v) + ring_bytes(v, ring) + sums_bytes(v)
    + 8 * barrier_count(v, stages, ring) + 16
end

-- A chunk of a mover, which has a signal, is what a stage of operands has room for: all rows of a tile,
-- and as many lines of 64 columns (a power of two).
local function move_lines(v)
  local lines = 1
  while 2 * lines * v.tile[1] <= v.tile[1] + v.tile[2] do lines = 2 * lines end
  return lines
end

-- Everything that the template and the launcher need beyond the axes.
function M.derive(v)
  local bm, bn, bk = table.unpack(v.tile)
  local cm, cn = table.unpack(v.cluster)
  local names = param_list(v.comm)
  local counts = map_counts(v.comm, v.world)
  local ring = v.stages * stage_bytes(v)
  local sums = ring + ring_bytes(v, v.ring)
  local bars = sums + sums_bytes(v)
  local words = bars + 8 * barrier_count(v, v.stages, v.ring)
  local producer_regs, consumer_regs = registers(v)
  local turn = bars + 16 * v.stages + 24 * CONSUMERS * v.ring
  return {
    BM = bm, BN = bn, BK = bk, CM = cm, CN = cn, SPLIT = v.split, CL = cm * cn * v.split,
    STAGES = v.stages, GROUP = GROUP,
    CONSUMERS = CONSUMERS, RING = v.ring, SUB = box_rows(v), PART = part_columns(v),
    pingpong = v.schedule == "pingpong", MI = row_blocks(v),
    PACE = v.pace, fixed = v.roles == "fixed",
    threads = 128 * (1 + CONSUMERS), smem = smem_bytes(v, v.stages, v.ring),
    producer_regs = producer_regs, consumer_regs = consumer_regs,
    registers = (producer_regs + CONSUMERS * consumer_regs) // (1 + CONSUMERS),
    -- the place of the first tile is found in the prologue, where there are registers to keep it
    early = v.comm == "none" or producer_regs > 56,
    -- shared memory, byte offsets
    at_a = 0, at_b = v.stages * bm * bk * 2, at_ring = ring,
    at_full = bars, at_empty = bars + 8 * v.stages,
    at_out_full = bars + 16 * v.stages,
    at_out_empty = bars + 16 * v.stages + 8 * CONSUMERS * v.ring,
    at_out_ready = bars + 16 * v.stages + 16 * CONSUMERS * v.ring,
    at_turn = turn, at_sums = sums, at_summed = turn + 8 * CONSUMERS,
    at_credit = turn + 8 * CONSUMERS * (1 + tile_parts(v)),
    at_dead = words,
    -- TMA boxes, rows: each block of a cluster loads its part of what the cluster shares
    box_a = bm // cn, box_b = bn // cm, box_c = box_rows(v), box_n = part_columns(v),
    cooperative = sends_partials(v.comm),
    overlap = true,
    on_comm = v.comm ~= "none",
    -- ag_gemm: how a shard travels
    beside = v.order == "side",
    chunks_k = v.chunk[1], chunks_m = v.chunk[2],
    movers = v.movers, move_lines = move_lines(v),
    move_k = v.comm == "sm" and move_lines(v) * 64 or 0,
    staged = v.comm == "sm", -- the peers' rows of A are read from staging
    params = names, signature = params.signature(names, counts),
    fields = params.fields(names, counts), map_lengths = params.map_lengths(names, counts),
    requires = v.comm == "ce" and { "gate" } or v.comm == "sm" and { "collect" } or {},
  }
end

-- Values of axes that depend on others: a ring of a whole tile.
function M.settle(v)
  v.whole = v.ring == "whole"
  if v.whole then v.ring = tile_parts(v) end
end

-- nil, or the reason why the point is refused.
function M.refuse(v, arch)
  local rows = v.schedule == "coop" and v.tile[1] // CONSUMERS or v.tile[1] -- of one warpgroup
  if rows % 64 ~= 0 then
    return ("schedule: %s gives a warpgroup %d rows, not a multiple of 64"):format(v.schedule, rows)
  end
  if accumulators(v) > 192 then
    return ("registers: %d accumulators a thread leave no room for the epilogue"):format(
      accumulators(v))
  end
  if accumulators(v) > 160 and sends_partials(v.comm) then
    return ("registers: %d accumulators a thread leave no room for the sum of partials"):format(
      accumulators(v))
  end
  if v.split > 1 then
    if sends_partials(v.comm) then return "split: a tile's signal has one writer" end
    if v.schedule ~= "coop" then return "split: pingpong would hold the sums of two tiles" end
    local blocks = v.split * v.cluster[1] * v.cluster[2]
    if blocks > MOST_BLOCKS then
      return ("split: a cluster of %d blocks, at most %d"):format(blocks, MOST_BLOCKS)
    end
  end
  if v.whole and v.ring == 2 then return "ring: a whole tile's is two" end
  if v.comm == "twoshot" and v.ring > MOST_PARTS then
    return ("ring: the epilogues of %d output buffers take more than a second to compile"):format(v.ring)
  end
  if v.comm == "sm" and v.movers == 0 then return "movers: no block moves the shard" end
  if v.pace > 0 and v.ring ~= tile_parts(v) then return "pace: needs a ring of a whole tile" end
  local bytes = smem_bytes(v, v.stages, v.ring)
  if bytes > arch.smem then
    return ("smem: %d bytes, %s has %d"):format(bytes, arch.name, arch.smem)
  end
  if v.ring < tile_parts(v) and smem_bytes(v, v.stages, tile_parts(v)) <= arch.smem then
    return "ring: a whole tile fits beside as many stages"
  end
  local deeper = smem_bytes(v, v.stages + 1, v.ring)
  if deeper <= arch.smem and v.stages < STAGES[#STAGES] then return "stages: a deeper pipeline fits" end
end

-- Share of a tile's output that its warpgroups cannot leave behind in output buffers.
function M.unbuffered(v) return 1 - v.ring / tile_parts(v) end

return M
