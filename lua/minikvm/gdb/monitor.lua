-- gdb/monitor.lua - gdb's "monitor" commands: snapshots by name, and Lua with the VM at hand.

local show = require "minikvm.cli.show"

local M = {}

local MOST <const> = 1 << 20 -- bytes of output

local HELP <const> = [[
snapshot [NAME]   keeps the VM as it is now
restore [NAME]    back to that; then: maintenance flush register-cache
help              this text
Anything else is Lua, an expression or a statement: vm, cpu (of the thread) and kvm are there.
]]

---@class minikvm.gdb.output
local function new_output()
  local list, size = {}, 0
  return function(text)
    if not text then return table.concat(list) end
    if size <= MOST then list[#list + 1] = text:sub(1, MOST - size) end
    size = size + #text
  end
end

local commands = {}

function commands.help(_, _, out) out(HELP) end

function commands.snapshot(s, name, out)
  local snap, why = s.vm:snapshot()
  if not snap then return out(why .. "\n") end
  s.snapshots[name] = snap
  out(("snapshot %q taken\n"):format(name))
end

function commands.restore(s, name, out)
  local snap = s.snapshots[name]
  if not snap then
    return out(("there is no snapshot %q: take one with 'monitor snapshot'\n"):format(name))
  end
  local done, why = s.vm:restore(snap)
  out(done and ("back at snapshot %q\n"):format(name) or why .. "\n")
end

---What an expression gave, as the prompt shows it.
local function show_all(out, ...)
  for i = 1, select("#", ...) do
    out((i > 1 and "\t" or "") .. show.text((select(i, ...))))
  end
  if select("#", ...) > 0 then out "\n" end
end

---@return minikvm.vm
local function environment(s, cpu, out)
  local function print_here(...)
    local words = table.pack(...)
    for i = 1, words.n do words[i] = tostring(words[i]) end
    out(table.concat(words, "\t") .. "\n")
  end
  return setmetatable({ vm = s.vm, cpu = cpu, kvm = require "minikvm", print = print_here },
                      { __index = _G, __newindex = _G })
end

local function run_lua(s, text, cpu, out)
  local env = environment(s, cpu, out)
  local chunk, why = load("return " .. text, "=monitor", "t", env)
  if not chunk then chunk, why = load(text, "=monitor", "t", env) end
  if not chunk then return out(why .. "\n") end
  show_all(out, chunk())
end

---@param s minikvm.gdb.session
---@param text string  what the user typed behind "monitor"
---@param cpu minikvm.cpu
---@return string output
function M.run(s, text, cpu)
  local out = new_output()
  local word, rest = text:match "^%s*(%a+)%s*(%S*)%s*$"
  local ok, why = true, nil
  if word and commands[word] then
    ok, why = pcall(commands[word], s, rest, out)
  elseif not s.opts.monitor then
    out "Lua is off here: vm:gdb{ monitor = true } turns it on\n"
  else
    ok, why = pcall(run_lua, s, text, cpu, out)
  end
  if not ok then out(tostring(why) .. "\n") end
  return out()
end

return M
