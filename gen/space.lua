-- The declared space: every variant of every op, in one fixed order.
--
-- A variant is a key (op, arch, dtype, layout, world: must match the problem) and knobs (the axes
-- of its body, and its communication pattern: the tuner's choice). Names are printed from the fields:
--   ag_gemm.sm90a.bf16.nt.w8__128x256x64.c2x1.s4.coop.r2.ce
-- and are never taken apart; a name is looked up by enumerating what is declared.
local arch = require "arch"
local dtype = require "dtype"

local M = {}

M.ops = { "gemm", "ag_gemm", "gemm_rs", "gemm_ar", "aux" }
M.layouts = { "nt" }

local function space_of(op) return require("space." .. op) end

local function body_of(family)
  if type(family.body) == "string" then return require(family.body) end
  return family.body
end

local function key_text(v)
  return table.concat({ v.op, arch.get(v.arch).short, v.dtype, v.layout, "w" .. v.world }, ".")
end

-- Adds to a point's fields its name, and what follows from them if nothing speaks against it.
local function finish(v, body, knobs, reason)
  v.name = key_text(v) .. "__" .. table.concat(knobs, ".")
  v.symbol = ""
  if v.kind == "library" then return v end
  local facts = arch.get(v.arch)
  v.template = body.template
  v.isa = facts.isa
  if not reason then
    v.symbol = "tml_" .. v.name:gsub("[^%w]", "_")
    v.derived = body.derive(v, facts)
    v.unbuffered = body.unbuffered and body.unbuffered(v) or 0
  end
  return v
end

-- All points of one family and key, knobs in declared order; yield(variant, reason). `all`: also the
-- refused ones; there are many more of these, so that they cost little if nobody wants them.
local function family_points(key, family, all, yield)
  local function start(kind, comm)
    local v = { kind = kind, comm = comm }
    for name, value in next, key do v[name] = value end
    return v
  end
  if family.library then
    return yield(finish(start("library", family.library), nil, { family.library }))
  end
  local body, facts = body_of(family), arch.get(key.arch)
  if family.aux then
    local v = start("aux", "none")
    v.kernel = family.aux
    local reason = body.refuse(v, facts)
    if reason and not all then return false end
    return yield(finish(v, body, { family.aux }, reason), reason)
  end
  local axes = body.axes
  local chosen = {} -- index of each axis' value
  -- An axis may be `of` some patterns alone; for others it has but its first value.
  local function declared(depth, i, comm)
    return i == 1 or not axes[depth].of or axes[depth].of[comm]
  end
  local function any_declared(depth, i)
    for _, comm in ipairs(family.comm) do
      if declared(depth, i, comm) then return true end
    end
    return false
  end
  local function all_declared(comm)
    for depth = 1, #axes do
      if not declared(depth, chosen[depth], comm) then return false end
    end
    return true
  end
  local v -- the point being tried; a new one once it was given away
  local function try(comm)
    v = v or start("fused")
    v.comm = comm
    for depth, axis in ipairs(axes) do v[axis[1]] = axis[2][chosen[depth]] end
    body.settle(v)
    local reason = body.refuse(v, facts)
    if reason and not all then return false end
    local point, parts = v, {}
    for _, axis in ipairs(axes) do
      local value = v[axis[1]]
      local text = axis.print and axis.print(value) or value
      if text ~= "" then parts[#parts + 1] = text end
    end
    if comm ~= "none" then parts[#parts + 1] = comm end
    v = nil
    return yield(finish(point, body, parts, reason), reason)
  end
  local function choose(depth)
    if depth > #axes then
      for _, comm in ipairs(family.comm) do
        if all_declared(comm) and try(comm) then return true end
      end
      return false
    end
    local axis = axes[depth]
    for i = 1, #axis[2] do
      if any_declared(depth, i) then
        chosen[depth] = i
        if choose(depth + 1) then return true end
      end
    end
    return false
  end
  return choose(1)
end

local function among(list, value)
  for _, entry in ipairs(list) do
    if entry == value then return true end
  end
  return false
end

local function wanted(filter, field, value)
  return filter[field] == nil or filter[field] == "" or filter[field] == value
end

local function names_of(list)
  local names = {}
  for i, entry in ipairs(list) do names[i] = entry.name end
  return names
end

-- true, or nil and a sentence that names the unknown word and those that exist.
function M.check_filter(filter)
  local known = { op = M.ops, arch = arch.names(), dtype = names_of(dtype.list) }
  for _, field in ipairs { "op", "arch", "dtype" } do
    local value = filter[field]
    if value and value ~= "" and not among(known[field], value) then
      return nil, ("unknown %s '%s'; known: %s"):format(
        field, value, table.concat(known[field], ", "))
    end
  end
  return true
end

local function family_serves(family, arch_name, dtype_name)
  if family.dtypes and not among(family.dtypes, dtype_name) then return false end
  if family.library or family.aux then return true end
  return body_of(family).arch == arch_name
end

local function key_wanted(filter, key)
  for _, field in ipairs { "op", "arch", "dtype" } do
    if not wanted(filter, field, key[field]) then return false end
  end
  local text, prefix = key_text(key) .. "__", filter.prefix or ""
  if text:sub(1, #prefix) ~= prefix:sub(1, #text) then return false end
  return not filter.world or filter.world == 0 or filter.world == key.world
end

-- Calls fn(key, families) for each key that matches the filter, in declared order, until it
-- returns true.
local function each_key(filter, fn)
  for _, op in ipairs(M.ops) do
    local space = space_of(op)
    for _, facts in ipairs(arch.list) do
      for _, kind in ipairs(dtype.list) do
        for _, layout in ipairs(M.layouts) do
          for _, world in ipairs(space.worlds) do
            local key = { op = op, arch = facts.name, dtype = kind.name, layout = layout,
              world = world }
            if key_wanted(filter, key) and fn(key, space.families) then return end
          end
        end
      end
    end
  end
end

local function key_points(key, families, all, yield)
  for _, family in ipairs(families) do
    if family_serves(family, key.arch, key.dtype) and family_points(key, family, all, yield) then
      return true
    end
  end
  return false
end

-- The legal points of one key, in declared order and by name; made when the key is first asked for.
local indexes = {}

local function index_of(key, families)
  local text = key_text(key)
  if not indexes[text] then
    local index = { list = {}, named = {} }
    key_points(key, families, false, function(v)
      if index.named[v.name] then error("two declared points have the name " .. v.name, 0) end
      index.named[v.name] = v
      index.list[#index.list + 1] = v
      return false
    end)
    indexes[text] = index
  end
  return indexes[text]
end

-- Calls fn(variant, reason) for each declared point that matches filter {op=, arch=, dtype=,
-- world=, prefix=, refused=} (empty or nil: any; world 0: any), until fn returns true. Keys that no name
-- with the prefix has are left out. reason is nil for a legal point; others only come if filter.refused
-- asks for them.
function M.each(filter, fn)
  each_key(filter, function(key, families)
    if filter.refused then return key_points(key, families, true, fn) end
    for _, v in ipairs(index_of(key, families).list) do
      if fn(v) then return true end
    end
    return false
  end)
end

-- The legal points that match the problem's key on this arch.
function M.points(arch_name, problem)
  local filter = { op = problem.op, arch = arch_name, dtype = problem.dtype, world = problem.world }
  local list = {}
  each_key(filter, function(key, families)
    if key.layout == problem.layout then list = index_of(key, families).list end
    return false
  end)
  return list
end

-- The variant of this name, and why it is refused if it is; nil if none is declared.
function M.find(name)
  for _, index in next, indexes do
    if index.named[name] then return index.named[name] end
  end
  local found, why
  each_key({}, function(key, families)
    local prefix = key_text(key) .. "__"
    if name:sub(1, #prefix) ~= prefix then return false end
    found = index_of(key, families).named[name]
    if found then return true end
    key_points(key, families, true, function(v, reason)
      if v.name ~= name then return false end
      found, why = v, reason
      return true
    end)
    return true
  end)
  return found, why
end

-- true, or false and why this variant cannot serve a problem {op, dtype, layout, world, m, n, k}.
function M.serves(v, problem)
  for _, field in ipairs { "op", "dtype", "layout", "world" } do
    if v[field] ~= problem[field] then
      return false, ("%s is for %s %s, not %s"):format(v.name, field, v[field], problem[field])
    end
  end
  if v.kind == "library" then return true end
  for _, field in ipairs { "n", "k" } do
    if problem[field] % 8 ~= 0 then
      return false, ("%s = %d is not a multiple of 8 (16-byte rows for TMA)"):format(
        field, problem[field])
    end
    if problem[field] < 8 then
      return false, ("%s = %d is below 8"):format(field, problem[field])
    end
  end
  return true
end

return M
