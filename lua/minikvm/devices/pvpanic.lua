-- pvpanic.lua - a guest says that its kernel has panicked: QEMU's pvpanic-pci, which Linux's driver
-- of that name and others bind to.
--
--   vm.pci:attach(pvpanic.new())
--
-- Follows QEMU's published specification (docs/specs/pvpanic). One register of one byte in BAR 0:
-- it reads which events there are, and what is written are those that have happened. Handlers run
-- on the vCPU's thread under the Lua lock.

local kvm = require "minikvm"
local options = require "minikvm.options"

local M = {}

---Events: the kernel has panicked; it has, and boots a kernel for a dump; it shuts down.
M.PANICKED, M.CRASH_LOADED, M.SHUTDOWN = 1, 2, 4

local SIZE <const> = 16
local ALL <const> = M.PANICKED | M.CRASH_LOADED | M.SHUTDOWN

local OPTIONS <const> = options.declare("pvpanic.new", { on_event = "function" })

---A panic ends the run; a kernel that will dump goes on.
local function on_event(d, event)
  if event & M.PANICKED ~= 0 then
    d.vm:crash("panic", "the guest's kernel has panicked (pvpanic)")
  end
end

---Describes it, for vm.pci:attach(). Its state has `events`, those that the guest told of.
---  on_event  function(device, event): one of M.PANICKED and the others, or several; by default a
---            panic ends the run with reason "panic"
---@param opts? { on_event: function? }
---@return minikvm.definition
function M.new(opts)
  local tell = options.check("pvpanic.new", opts, OPTIONS).on_event or on_event
  return kvm.pci{
    name = "pvpanic", vendor = 0x1b36, device = 0x0011, class = 0x08ff00, revision = 1,
    subsystem = { 0x1af4, 0x1100 },
    bars = { [0] = { size = SIZE, registers = { [0] = "EVENTS" },
      read = { EVENTS = function() return ALL end },
      write = { EVENTS = function(d, _, value)
        d.state.events = d.state.events | value & ALL
        if value & ALL ~= 0 then tell(d, value & ALL) end
      end } } },
    reset = function(d) d.state.events = 0 end,
  }
end

return require("minikvm.strict").module(M, "devices.pvpanic")
