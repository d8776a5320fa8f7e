-- What test_gen.c calls: a generator of three variants, and ways to fail.
local deep = require "deep.one"
local M = {}
local isa
function M.set_isa(name) isa = name end
function M.pad() return { epoch=0, ticket=16, claim=32, abort=48, slot_last=64, outbox=80,
  header=96, done=128, shard=144, ready=208, pulled=216, words=256 } end
local function v(name) return { name = name, symbol = "s", arch = "sm_90a", kind = "fused",
  op = "ag_gemm", dtype = "fp16", layout = "nt", world = 2, pattern = "ce", tile_m = 128,
  tile_n = 256, tile_k = 64, cluster_m = 2, cluster_n = 1, stages = 4, box_a = 64, box_b = 128,
  box_c = 32, threads = 384, smem = 200000, cooperative = true,
  params = { "map_a", "bias", "m" }, requires = { "gate" } } end
function M.each(filter, fn)
  if filter.op == "conv" then return nil, "unknown op 'conv'; known: gemm" end
  for i = 1, 3 do if fn(v("one." .. i), nil) then return true end end
  if filter.refused and filter.world == 2 then fn({ name = "bad" }, "smem") end
  return true
end
function M.variant(name)
  if name == "raise" then error("boom") end
  if name == "table" then error({}) end
  if name == "param" then local t = v(name); t.params = { "nobody" }; return t end
  if name == "twice" then local t = v(name); t.params = { "m", "m" }; return t end
  if name == "float" then local t = v(name); t.smem = 1.5; return t end
  if name == "illegal" then return nil, "illegal", "too big" end
  if name ~= "one.1" then return nil, "unknown", "no such name" end
  return v(name)
end
function M.aux(kernel, arch, dtype, world)
  if kernel ~= "gate" then return nil, "no aux " .. kernel end
  return { name = kernel .. arch .. dtype .. world, kind = "aux", pattern = "none", params = {} }
end
function M.expand(name, lines)
  if name == "globals" then
    local bad = {}
    for _, n in ipairs { "io", "os", "dofile", "loadfile", "print", "pairs", "_G", "debug",
      "package", "collectgarbage", "coroutine", "utf8", "getmetatable" } do
      if rawget(deep.globals, n) then bad[#bad + 1] = n end
    end
    return table.concat(bad, " ") .. "|" .. tostring(math.random) .. tostring(string.dump)
  end
  if name == "bytecode" then return tostring(load("\27Lua")) end
  if name == "load" then return load("return x", "@c", "t", { x = "env" })() end
  if name == "chunk" then local f, m = load("(", "@kernel/x.cu.in"); return m end
  if name == "outside" then return read_source("templates/../../etc/passwd") end
  if name == "absent" then return read_source("templates/none.in") end
  if name == "late" then return tostring(pcall(require, "late")) .. select(2, pcall(require, "late")) end
  return read_source("templates/t.in") .. tostring(lines) .. tostring(isa) .. deep.name
end
function M.rank(arch, p, m)
  if p.m == 0 then return nil, "none legal: smem" end
  return { { name = "a" .. tostring(p.bias) .. tostring(m.sms), us = 1.5 }, { name = "b", us = 2 } }
end
function M.serves(name, p) if p.n % 16 ~= 0 then return false, "n % 16" end return true end
function M.arch_of(cc) if cc == 90 then return "sm_90a" end return nil, "known: sm_90a" end
return M
