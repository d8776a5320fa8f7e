-- Kernel parameters, declared once: the signature in the text and the caller's packing both come
-- from here. What each one means stands beside its name in the runtime's gen.h.
--   maps   a table of tensor maps; the kernel says how many
--   addrs  a table of 64-bit addresses, one per rank (always room for 8)
local M = {}

M.types = {
  map_a = "maps", map_b = "maps", map_c = "maps",
  map_in = "maps", map_out = "maps", map_fin = "maps",
  pad = "addrs", signals = "addrs",
  bias = "u64", record = "u64", timeout_ns = "u64", fingerprint = "u64",
  src = "u64", dst = "u64", aux = "u64", seed = "u64", count = "u64",
  ld = "i64", ld2 = "i64",
  m = "i32", n = "i32", k = "i32", rank = "i32", shard = "i32", slot = "i32",
  keep = "i32", pull = "i32", direct = "i32",
  signal_stride = "i32",
  row0 = "i32", row_step = "i32", flags = "i32",
}

-- C types of one parameter: in the signature, and in a struct that refers to it.
local function ctype(name, counts)
  local kind = M.types[name] or error("undeclared kernel parameter '" .. name .. "'", 0)
  if kind == "maps" then
    return ("const GRID_CONSTANT map_table_%d"):format(counts[name]), "const tensor_map *"
  end
  if kind == "addrs" then return "const GRID_CONSTANT addr_table", "const u64 *" end
  return kind, kind .. " "
end

-- "const GRID_CONSTANT map_table_1 map_a, u64 bias, ..."
function M.signature(names, counts)
  local list = {}
  for i, name in ipairs(names) do list[i] = (ctype(name, counts)) .. " " .. name end
  return table.concat(list, ",\n    ")
end

-- Fields of a struct that carries all parameters to the roles: { {decl=, value=}, ... }
function M.fields(names, counts)
  local list = {}
  for i, name in ipairs(names) do
    local _, field = ctype(name, counts)
    local table_like = M.types[name] == "maps" or M.types[name] == "addrs"
    list[i] = { decl = field .. name, name = name, value = table_like and name .. ".at" or name }
  end
  return list
end

-- The distinct lengths of map tables, ascending.
function M.map_lengths(names, counts)
  local list, seen = {}, {}
  for _, name in ipairs(names) do
    local count = counts[name]
    if M.types[name] == "maps" and not seen[count] then
      seen[count] = true
      list[#list + 1] = count
    end
  end
  table.sort(list)
  return list
end

return M
