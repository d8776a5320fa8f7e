-- What the runtime calls: names, texts, costs. Pure: the same call gives the same bytes.
-- Errors are strings that begin with "file:line:"; a wrong word from the caller is returned as
-- nil and a sentence instead.
local arch = require "arch"
local dtype = require "dtype"
local fault = require "fault"
local layout = require "layout"
local model = require "model"
local space = require "space"
local tmpl = require "tmpl"

local M = {}

local isa -- primitive set that replaces the arch's own, or nil

function M.set_isa(name) isa = name end

function M.pad() return layout end

function M.archs() return arch.names() end

-- The arch for a compute capability (90 for 9.0).
function M.arch_of(cc)
  for _, facts in ipairs(arch.list) do
    if facts.cc == cc then return facts.name end
  end
  return nil, ("no architecture of the space serves compute capability %d.%d; it has %s"):format(
    cc // 10, cc % 10, table.concat(arch.names(), ", "))
end

-- The runtime's view of a variant: the fields of its struct.
local function view(v)
  local d = v.derived or {}
  local tile, cluster = v.tile or { 0, 0, 0 }, v.cluster or { 1, 1 }
  local requires = {}
  for i, kernel in ipairs(d.requires or {}) do
    requires[i] = M.aux(kernel, v.arch, v.dtype, v.world).name
  end
  return {
    name = v.name, symbol = v.symbol, arch = v.arch, kind = v.kind,
    op = v.kind ~= "aux" and v.op or nil, dtype = v.dtype, layout = v.layout, world = v.world,
    pattern = v.comm,
    tile_m = tile[1], tile_n = tile[2], tile_k = tile[3],
    cluster_m = cluster[1], cluster_n = cluster[2], split = v.split or 1, stages = v.stages or 0,
    box_a = d.box_a or 0, box_b = d.box_b or 0, box_c = d.box_c or 0, box_n = d.box_n or 0,
    threads = d.threads or 0, registers = d.registers or 0, smem = d.smem or 0,
    cooperative = d.cooperative or false,
    overlap = d.overlap or false,
    chunks_k = d.chunks_k or 0, chunks_m = d.chunks_m or 0,
    movers = d.movers or 0, move_k = d.move_k or 0,
    params = d.params or {}, requires = requires,
  }
end

function M.each(filter, fn)
  local ok, message = space.check_filter(filter)
  if not ok then return nil, message end
  space.each(filter, function(v, reason) return fn(view(v), reason) end)
  return true
end

function M.variant(name)
  local v, reason = space.find(name)
  if not v then
    return nil, "unknown", ("no variant is named '%.80s'; list shows the names"):format(name)
  end
  if reason then return nil, "illegal", ("%s is refused: %s"):format(name, reason) end
  return view(v)
end

-- The auxiliary kernel for a rank's arch, dtype and world. A kernel that touches no elements exists
-- for one dtype, one that knows no peers for a world of one.
function M.aux(kernel, arch_name, dtype_name, world)
  local found
  space.each({ op = "aux", arch = arch_name }, function(v)
    if v.kernel == kernel and (v.world == world or v.world == 1)
      and (v.dtype == dtype_name or v.world > 1) then
      found = v
      return true
    end
    return false
  end)
  if not found then
    return nil, ("no auxiliary kernel '%s' for %s %s w%d"):format(
      kernel, arch_name, dtype_name, world)
  end
  return view(found)
end

-- The flattened source of a variant; `lines` adds #line. Raises for unknown and illegal names.
function M.expand(name, lines)
  local v, reason = space.find(name)
  if not v then error(("no variant is named '%.80s'"):format(name), 0) end
  if reason then error(("%s is refused: %s"):format(name, reason), 0) end
  if v.kind == "library" then error(name .. " is a library call; it has no source", 0) end
  local params = {}
  for key, value in next, v do params[key] = value end
  for key, value in next, v.derived do params[key] = value end
  params.isa = isa or v.isa
  params.elem = dtype.get(v.dtype)
  params.pad_words = layout
  params.faults = fault
  params.variant_name = v.name
  params.read_source, params.derived = nil, nil
  local function read(path) return read_source("templates/" .. path) end
  return tmpl.expand(v.template, params, read, lines)
end

function M.serves(name, problem)
  local v, reason = space.find(name)
  if not v then return false, ("no variant is named '%.80s'"):format(name) end
  if reason then return false, reason end
  return space.serves(v, problem)
end

-- Legal variants that serve a problem, cheapest first; equal costs stay in declared order.
function M.rank(arch_name, problem, machine)
  local list, refusal = {}, nil
  for _, v in ipairs(space.points(arch_name, problem)) do
    local ok, why = space.serves(v, problem)
    if ok then
      list[#list + 1] = { name = v.name, us = model.cost(v, problem, machine), order = #list }
    else
      refusal = v.name .. ": " .. why
    end
  end
  if #list == 0 then
    return nil, ("no legal variant of %s for %s in a world of %d%s"):format(
      problem.op, arch_name, problem.world, refusal and "; " .. refusal or "")
  end
  table.sort(list, function(a, b)
    if a.us ~= b.us then return a.us < b.us end
    return a.order < b.order
  end)
  return list
end

return M
