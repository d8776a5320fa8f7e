-- Element types of A, B, bias and C; accumulation is always fp32.
local M = {}

M.list = {
  { name = "bf16", bytes = 2, wgmma = "bf16" },
  { name = "fp16", bytes = 2, wgmma = "f16" },
}

function M.get(name)
  for _, dtype in ipairs(M.list) do
    if dtype.name == name then return dtype end
  end
end

return M
