-- The template expander: CUDA C with Lua lines -> text.
--
--   //! lua code        a line of Lua; text lines between such lines are statements of it
--   text ${expr} text   everything else is output; ${expr} splices a string or an integer
--   //! include "f"     expands templates/f in place, in the same environment
--
-- One template line is one Lua line and the chunk is named after the file, so every Lua error names
-- the template's line. The environment is strict: an unknown name is an error. nil and floats do
-- not splice (write `//`, not `/`). With `lines`, "#line N file" precedes each output line that does
-- not follow its predecessor, so that the C compiler names the template's line too.
local M = {}

-- The Lua expression list of one text line: "abc", (expr), "def"
local function pieces(line, where)
  local list, at = {}, 1
  while true do
    local start = line:find("${", at, true)
    if not start then break end
    local braces = line:match("^%b{}", start + 1)
    if not braces then error(where .. ": '${' without its '}'", 0) end
    if start > at then list[#list + 1] = ("%q"):format(line:sub(at, start - 1)) end
    list[#list + 1] = "(" .. braces:sub(2, -2) .. ")"
    at = start + 1 + #braces
  end
  if at <= #line or #list == 0 then list[#list + 1] = ("%q"):format(line:sub(at)) end
  return table.concat(list, ",")
end

-- Template text -> Lua text with the same line numbers.
local function translate(path, text)
  local out, number = {}, 0
  for line in (text:sub(-1) == "\n" and text or text .. "\n"):gmatch("(.-)\n") do
    number = number + 1
    local code = line:match("^%s*//!(.*)$")
    out[number] = code or ("__emit(%d,%s)"):format(number, pieces(line, path .. ":" .. number))
  end
  return table.concat(out, "\n")
end

local function spliced(value)
  if type(value) == "string" then return value end
  if math.type(value) == "integer" then return tostring(value) end
  error(("'${}' takes a string or an integer, not %s"):format(
    math.type(value) == "float" and "the float " .. value or type(value)), 3)
end

-- What template lines may use beside the parameters; everything in it is pure.
local library = { math = math, string = string, table = table, ipairs = ipairs, assert = assert,
  error = error, tostring = tostring, tonumber = tonumber, type = type, select = select }

-- Expands the template `path` (below templates/). `read(path)` gives a template's text; `params`
-- are the names that the template sees. Raises a string that begins with "file:line:".
function M.expand(path, params, read, lines)
  local out, expected_file, expected_line = {}, nil, nil
  local env = {}
  local file -- of the template whose lines are being emitted

  local function emit(number, ...)
    if lines and (file ~= expected_file or number ~= expected_line) then
      out[#out + 1] = ('#line %d "%s"'):format(number, file)
    end
    expected_file, expected_line = file, number + 1
    local parts = { ... }
    -- a nil piece shortens neither select("#") nor our duty to refuse it
    for i = 1, select("#", ...) do parts[i] = spliced((select(i, ...))) end
    out[#out + 1] = table.concat(parts)
  end

  local function include(name)
    local chunk, message = load(translate(name, read(name)), "@" .. name, "t", env)
    if not chunk then error(message, 0) end
    local outer = file
    file = name
    chunk()
    file = outer
  end

  env.__emit, env.include = emit, include
  for name, value in next, library do env[name] = value end
  for name, value in next, params do env[name] = value end
  setmetatable(env, { __index = function(_, name)
    error(("undefined template name '%s'"):format(name), 2)
  end })
  include(path)
  return table.concat(out, "\n") .. "\n"
end

return M
