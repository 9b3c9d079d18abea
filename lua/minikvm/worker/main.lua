-- worker/main.lua - what a worker's thread runs, in its new Lua state (src/lua/worker.c): the
-- function or script that worker/init.lua packed. Returns its results as bytes.

local copy, methods, owner, blame, bytes = ...

copy.of_values(methods, blame)

local start = copy.unpack(bytes)
package.path, package.cpath = start.path or "", start.cpath or ""
local run, why
if start.script then
  run, why = loadfile(start.script)
  if not run then error(why, 0) end
  rawset(_G, "arg", { [0] = start.script })
else
  run = load(start.code, "=worker", "b")
  for i, value in ipairs(start.upvalues) do
    if value == "" then debug.setupvalue(run, i, _G) -- _ENV
    else debug.setupvalue(run, i, (copy.unpack(value))) end
  end
end

local arguments = table.pack(copy.unpack_values(start.arguments))
if type(rawget(_G, "arg")) == "table" then table.move(arguments, 1, arguments.n, 1, _G.arg) end
local results
results, why = copy.pack_values("worker: result",
                                run(owner, table.unpack(arguments, 1, arguments.n)))
return results or error(why, 0)
