-- i6300esb.lua - the watchdog of Intel's 6300ESB: a guest that does not come back in time is
-- bitten.
--
--   vm.pci:attach(i6300esb.new())
--
-- Follows Intel's 6300ESB data sheet (300641), chapter 16: a 35-bit down-counter at 33 MHz,
-- preloaded twice. The end of the first stage may interrupt, that of the second bites. Registers of
-- memory are written after 0x80 and 0x86 at offset 0x0c. What it counts is the VM's time, which
-- belongs to snapshots. Handlers run on the vCPU's thread under the Lua lock.

local kvm = require "minikvm"
local options = require "minikvm.options"

local M = {}

local HZ <const> = 33e6
local PRELOAD_BITS <const> = 0xfffff
local ENABLE <const>, LOCK <const>, FREE <const> = 2, 1, 4 -- of LOCK: FREE runs on after a bite
local FAST <const>, NO_BITE <const>, INTERRUPT <const> = 4, 0x20, 3 -- of CONFIG
local RELOAD <const>, TIMEOUT <const> = 0x100, 0x200 -- of RELOAD
local UNLOCK <const> = { [0x80] = 1, [0x86] = 2 }

---Seconds of a stage: 1 kHz by 15 bits more than a preload value has, 1 MHz by 5.
local function seconds(d)
  local preload = d.state.stage == 1 and d.reg.TIMER1 or d.reg.TIMER2
  return ((preload << (d.reg.CONFIG & FAST ~= 0 and 5 or 15)) + 1) / HZ
end

local function start(d, stage)
  d:cancel "stage"
  d.state.stage = stage
  if d.reg.LOCK & ENABLE ~= 0 then d:after(seconds(d), "stage") end
end

local function end_of_stage(d, on_bite)
  if d.state.stage == 1 then
    if d.reg.CONFIG & INTERRUPT == 0 then
      d.state.interrupt = true
      d:raise()
    end
    start(d, 2)
  else
    d.state.bitten = true
    if d.reg.LOCK & FREE ~= 0 then start(d, 1) end
    if d.reg.CONFIG & NO_BITE == 0 then on_bite(d) end
  end
end

---A register of memory is written when it is unlocked, once.
local function unlocked(d)
  local is = d.state.unlock == 2
  d.state.unlock = 0
  return is
end

local function write_reload(d, _, value)
  local step = UNLOCK[value]
  if step and step == d.state.unlock + 1 then
    d.state.unlock = step
  elseif unlocked(d) then
    if value & RELOAD ~= 0 then start(d, 1) end
    if value & TIMEOUT ~= 0 then d.state.bitten = false end
  end
  d.reg.RELOAD = 0
end

local function preload(name, kept)
  return function(d, _, value)
    d.reg[name] = unlocked(d) and value & PRELOAD_BITS or d.state[kept]
    d.state[kept] = d.reg[name]
  end
end

local function write_lock(d, _, value)
  if d.state.locked then
    d.reg.LOCK = d.state.lock
    return
  end
  d.state.lock, d.state.locked = value & 7, value & LOCK ~= 0
  d.reg.LOCK = d.state.lock
  start(d, 1)
end

local OPTIONS <const> = options.declare("i6300esb.new", { on_bite = "function" })

---Describes it, for vm.pci:attach().
---  on_bite  function(device): the second stage is over; by default the run ends with reason
---           "shutdown", as by the reset that the original makes
---@param opts? { on_bite: function? }
---@return minikvm.definition
function M.new(opts)
  local on_bite = options.check("i6300esb.new", opts, OPTIONS).on_bite or function(d)
    d.vm:crash("shutdown", "reset by the watchdog (i6300esb)")
  end
  return kvm.pci{
    name = "i6300esb", vendor = 0x8086, device = 0x25ab, class = 0x088000, irq = true,
    subsystem = { 0x8086, 0x25ab },
    config = {
      registers = { [0x60] = { name = "CONFIG", width = 2 },
                    [0x68] = { name = "LOCK", width = 1 } },
      write = { LOCK = write_lock },
    },
    bars = { [0] = {
      registers = { [0] = { name = "TIMER1", reset = PRELOAD_BITS },
                    [4] = { name = "TIMER2", reset = PRELOAD_BITS },
                    [8] = "STATUS", [12] = "RELOAD" },
      width = 4,
      read = { STATUS = function(d) return d.state.interrupt and 1 or 0 end,
               RELOAD = function(d) return d.state.bitten and TIMEOUT or 0 end },
      write = {
        TIMER1 = preload("TIMER1", "first"), TIMER2 = preload("TIMER2", "second"),
        RELOAD = write_reload,
        STATUS = function(d, _, value) -- writing 1 clears
          if value & 1 == 0 then return end
          d.state.interrupt = false
          d:lower()
        end,
      } } },
    timers = { stage = function(d) end_of_stage(d, on_bite) end },
    reset = function(d)
      d.state = { stage = 1, unlock = 0, interrupt = false, bitten = false, locked = false,
                  lock = 0, first = PRELOAD_BITS, second = PRELOAD_BITS }
    end,
  }
end

return require("minikvm.strict").module(M, "devices.i6300esb")
