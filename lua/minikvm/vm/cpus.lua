-- vm/cpus.lua - vm.cpu, the table of a VM's vCPUs from 0: what it says of itself, and of what is
-- not in it. Its metatable is the core's (src/lua/cpu.c).

local core = require "minikvm.core"

local meta = core.metatable "minikvm.cpus"

local function count(list)
  return rawget(list, 0) and rawlen(list) + 1 or 0
end

---#vm.cpu: how many there are.
function meta.__len(list) return count(list) end

---From 0 on.
function meta.__pairs(list)
  local function step(cpus, i)
    i = i and i + 1 or 0
    local cpu = rawget(cpus, i)
    if cpu then return i, cpu end
  end
  return step, list, nil
end

---Of the one behind the last, nil, so that loops end there.
function meta.__index(list, key)
  if math.type(key) ~= "integer" then
    require("minikvm.strict").unknown("minikvm.cpus", key, false)
  end
  local n = count(list)
  if key ~= n then
    core.blame(("vm.cpu has no vCPU %d: there %s, from 0 to %d"):format(
      key, n == 1 and "is one" or ("are %d"):format(n), n - 1))
  end
end

function meta.__newindex(_, key)
  if type(key) == "string" then require("minikvm.strict").unknown("minikvm.cpus", key, true) end
  core.blame "vm.cpu: a vCPU is added by vm:add_cpu()"
end

function meta.__tostring(list)
  local lines = {}
  for i = 0, count(list) - 1 do lines[i + 1] = tostring(rawget(list, i)) end
  return table.concat(lines, "\n")
end
