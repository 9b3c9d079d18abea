-- beside.lua - shell commands that run beside a spec, whose VMs go on meanwhile.

local process = require "support.process"

local M = {}

---@class beside
---@field out string  what it prints; "OUT.end" is there when it has ended
---@field path string?  a file that goes with it
local Beside = {}
Beside.__index = Beside

---@param command string  ends by itself
---@param path? string  a file that is removed at its end
---@return beside
function M.start(command, path)
  local out = os.tmpname()
  local line = "{ %s\n: >%s.end; } </dev/null >%s 2>&1 &"
  assert(os.execute(line:format(command, out, out)))
  return setmetatable({ out = out, path = path }, Beside)
end

---Waits until it has printed a text.
---@param text string
function Beside:wait(text)
  process.await(function()
    local file <close> = assert(io.open(self.out))
    return file:read("a"):find(text, 1, true)
  end, 60)
end

---Waits for its end; handlers run meanwhile.
---@return string output
function Beside:finish()
  process.await(function()
    local file <close> = io.open(self.out .. ".end")
    return file
  end, 60)
  local output <close> = assert(io.open(self.out))
  for _, path in ipairs{ self.out, self.out .. ".end", self.path } do os.remove(path) end
  return output:read "a"
end

return M
