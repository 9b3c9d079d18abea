-- safe.lua - runs scripts under minikvm --safe, for specs.

local assert = require "luassert"
local program = require "support.program"

local M = {}

---Runs a script with --safe, in a folder where nothing lies beside it.
---@param code string
---@param arguments? string  before the script
function M.run(code, arguments, behind)
  local folder = program.folder()
  local path = folder .. "/script.lua"
  assert(io.open(path, "w")):write(code):close()
  local r = program.run(("P --safe %s %s %s"):format(arguments or "", path, behind or ""))
  os.remove(path)
  os.remove(folder)
  r.out, r.err = r.out:gsub(path, "S"), r.err:gsub(path, "S")
  r.err = program.without_missing(r.err)
  return r
end

---What a script prints, which must end well.
function M.prints(code, arguments, behind)
  local r = M.run(code, arguments, behind)
  assert.equal("", r.err)
  assert.equal(0, r.status)
  return r.out
end

---The message with which `code` fails in the script.
function M.refuses(message, code, arguments)
  local out = M.prints(("print(select(2, pcall(function() %s end)))"):format(code), arguments)
  assert.matches(message, out)
end

return M
