-- worker/init.lua - kvm.worker on its owner's side: what it runs, as bytes, and values as messages,
-- on top of the core's functions (src/lua/worker.c), which know bytes.

local core = require "minikvm.core"
local copy = require "minikvm.copy"

local M = {}

local methods = core.methods "minikvm.worker"
local wait = methods.wait
copy.of_values(methods, core.blame)

function methods:wait(timeout)
  local done, results, code = wait(self, timeout)
  if not done then return done, results, code end
  return true, copy.unpack_values(results)
end

---A function and its upvalues.
local function pack_function(fn)
  local about = debug.getinfo(fn, "Su")
  if about.what == "C" then
    core.blame "kvm.worker: a C function cannot be copied: give a Lua function"
  end
  local upvalues = {}
  for i = 1, about.nups do
    local name, value = debug.getupvalue(fn, i)
    local bytes, why = "", nil
    if name ~= "_ENV" then
      bytes, why = copy.pack(value, ("kvm.worker: upvalue '%s'"):format(name))
    end
    if not bytes then
      core.blame(why .. "; get it inside the function, or pass what it needs as arguments")
    end
    upvalues[i] = bytes
  end
  return { code = string.dump(fn), upvalues = upvalues }
end

---See kvm.worker.
function M.start(what, ...)
  local script = type(what) == "string"
  if not script and type(what) ~= "function" then
    core.blame(("kvm.worker: expected a function or the path of a script, got a %s"):format(
      type(what)))
  end
  local start = script and { script = what } or pack_function(what)
  local bytes, why
  start.arguments, why = copy.pack_values("kvm.worker: argument", ...)
  if package then start.path, start.cpath = package.path, package.cpath end -- for its modules
  if start.arguments then bytes, why = copy.pack(start, "kvm.worker: argument") end
  if not bytes then core.blame(why) end
  return core.worker(bytes, script and what or nil)
end

return M
