-- Facts of the architectures, one row each. Rates are per SM and clock unless named otherwise; they
-- feed the cost model only. `isa` names the primitive set under templates/prim/.
local M = {}

M.list = {
  { name = "sm_90a", short = "sm90a", cc = 90, isa = "sm_90a",
    smem = 232448,         -- opt-in shared memory of a block, bytes
    regs = 65536,          -- 32-bit registers of an SM
    sms = 132,             -- of the H100 and H200; a machine's own count replaces it
    clock = 1.57,          -- GHz when the tensor cores never rest; the power limit sets it
    clock_most = 1.83,     -- GHz when they mostly do
    fma = 2048,            -- 16-bit FMAs with fp32 accumulation
    l2_rate = 54,          -- bytes from L2 into shared memory, all SMs active, shared loads in each block
    dsmem_rate = 32,       -- bytes from other blocks of the cluster
    dram = 2.7e12,         -- bytes per second that GEMMs reach (H100; the H200 has more)
    l2_keep = 4.0e7,       -- bytes of what was read last that are still in L2
    mover = 2.2e10,        -- bytes per second of a block that carries data to peers
    movers = 0.74,         -- of the link that any number of them reaches
    link = { nvlink = 3.5e11, pcie = 2.5e10 } }, -- bytes per second, one way
}

function M.get(name)
  for _, arch in ipairs(M.list) do
    if arch.name == name then return arch end
  end
end

function M.names()
  local names = {}
  for i, arch in ipairs(M.list) do names[i] = arch.name end
  return names
end

return M
