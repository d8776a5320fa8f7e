-- Kernels that serve the others: the gate before copy engines, the gathered A of movers, the bias of
-- unfused variants; for checks the inputs, the reference, and a grid that holds the GPU while copies
-- must progress; for the benchmark, stores that fill the links.
local params = require "params"

local kernels = {
  gate = { threads = 32, overlap = true, worlds = { 2, 3, 4, 5, 6, 7, 8 },
    params = { "rank", "slot", "pull", "timeout_ns", "record", "pad" } },
  collect = { threads = 256, worlds = { 2, 3, 4, 5, 6, 7, 8 },
    params = { "dst", "src", "aux", "count", "rank", "pad" } },
  hold = { threads = 1024, smem = 200 * 1024, worlds = { 2, 3, 4, 5, 6, 7, 8 },
    params = { "rank", "slot", "timeout_ns", "record", "pad", "count" } },
  stores = { threads = 128, smem = 16 * 1024, worlds = { 2, 3, 4, 5, 6, 7, 8 },
    params = { "rank", "count", "map_out" } },
  bias = { threads = 256, params = { "dst", "bias", "m", "n", "ld" }, worlds = { 1 } },
  fill = { threads = 256, params = { "dst", "count", "seed" }, worlds = { 1 } },
  reference = { threads = 256, worlds = { 1 },
    params = { "src", "aux", "dst", "m", "n", "k", "ld", "ld2", "row0", "row_step", "flags" } },
}

local M = { op = "aux", worlds = { 1, 2, 3, 4, 5, 6, 7, 8 }, families = {} }
for _, name in ipairs { "gate", "collect", "hold", "stores", "bias", "fill", "reference" } do
  local kernel = kernels[name]
  local body = { template = "kernel/" .. name .. ".cu.in", axes = {} }
  function body.derive(v)
    local counts = { map_out = v.world }
    return {
      threads = kernel.threads, smem = kernel.smem or 0, overlap = kernel.overlap or false,
      params = kernel.params, signature = params.signature(kernel.params, counts),
      fields = params.fields(kernel.params, counts),
      map_lengths = params.map_lengths(kernel.params, counts),
    }
  end
  function body.refuse(v)
    for _, world in ipairs(kernel.worlds) do
      if world == v.world then return nil end
    end
    return name .. ": not used in a world of " .. v.world
  end
  local untyped = kernel.worlds[1] > 1 -- what knows peers knows no elements
  M.families[#M.families + 1] = { body = body, aux = name, dtypes = untyped and { "bf16" } or nil }
end
return M
