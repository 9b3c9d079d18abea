-- describe.lua - what print() shows of objects of the core: which one it is, and how it stands, in
-- one line. Loaded by the first such question; never raises, also of what is closed.

local core = require "minikvm.core"

local M = {}

---Bytes as people write them: "4M", "640K", "513 bytes".
local function size(bytes)
  for _, unit in ipairs{ { "G", 30 }, { "M", 20 }, { "K", 10 } } do
    if bytes >> unit[2] > 0 and bytes & (1 << unit[2]) - 1 == 0 then
      return (bytes >> unit[2]) .. unit[1]
    end
  end
  return bytes .. " bytes"
end

local function plural(n, what) return ("%d %s%s"):format(n, what, n == 1 and "" or "s") end

local function hooks(space)
  return function(_, vm)
    local n = 0
    for _, row in ipairs(core.stats(vm, space)) do
      if row.owner then n = n + 1 end
    end
    return plural(n, "range") .. " served"
  end
end

local function cpu_text(cpu)
  local text = ("rip 0x%x"):format(cpu.rip)
  local at, offset = core.vm_of(cpu, "minikvm.cpu"):symbol_at(cpu.rip)
  return at and ("%s, %s+0x%x"):format(text, at, offset) or text
end

local function memory_text(memory)
  local more = #memory:regions() - 1
  return size(#memory) .. " of RAM" .. (more > 0 and (", %s in all"):format(
    plural(more + 1, "region")) or "")
end

---How an object stands, by its kind: given the object and its VM.
local TEXTS <const> = {
  vm = function(vm)
    return ("%s mode, %s, %s, %s"):format(vm.mode, size(#vm.memory), plural(#vm.cpu, "vCPU"),
                                          vm.state)
  end,
  cpu = cpu_text, memory = memory_text, ports = hooks "port", mmio = hooks "mmio",
  msrs = hooks "msr",
  console = function(console) return ("%d bytes printed"):format((select(2, console:text()))) end,
  clock = function(clock) return ("%.6f s"):format(clock.now) end,
  vmfiles = function(files)
    local usage = files:usage()
    return ("%s open, %s written"):format(plural(usage.open, "file"), size(usage.bytes))
  end,
  pci = function(pci) return plural(#pci:devices(), "function") end,
  snapshot = function(s)
    return ("%s mode, %s, %s"):format(s.mode, size(s.memory), plural(s.cpus, "vCPU"))
  end,
  timer = function(timer)
    return plural(timer.hits, "hit") .. (timer.left and (", calls in %.6f s"):format(timer.left)
      or "")
  end,
}

local function name_of(short, object, vm)
  if short == "vm" then return (" %q"):format(object.name) end
  if short == "snapshot" then return (" of %q"):format(object.name) end
  if short == "cpu" then return (" %d of %q"):format(object.index, vm.name) end
  return vm and (" of %q"):format(vm.name) or ""
end

---@param kind string  "minikvm.vm"
---@param object userdata
---@return string
function M.of(kind, object)
  local short <const> = kind:match "[^.]*$"
  local vm = short == "vm" and object or core.owner(object)
  local known, name = pcall(name_of, short, object, vm)
  if vm and vm.state == "closed" or not known then
    return kind .. (vm and vm ~= object and (" of %q"):format(vm.name) or known and name or "")
      .. " (closed)"
  end
  local ok, text = pcall(TEXTS[short] or function() end, object, vm)
  return kind .. name .. (ok and text and (" (%s)"):format(text) or "")
end

return M
