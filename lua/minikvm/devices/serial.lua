-- serial.lua - a PCI card with a 16550A, QEMU's pci-serial: a second console, a modem line,
-- whatever a script is at its other end.
--
--   local port = vm.pci:attach(serial.new{ on_output = function(d, byte) ... end })
--   serial.send(port, "text")
--
-- Follows TI's data sheet of the TL16C550C. Bytes are sent at once, so the transmitter is always
-- empty. Those for the guest wait on the wire until it is ready to receive (RTS) and has read what
-- is in its FIFO of 16 bytes, so none is lost. Break, parity and speed are registers and nothing
-- else. Handlers run on the vCPU's thread under the Lua lock.

local core = require "minikvm.core"
local device = require "minikvm.device"
local kvm = require "minikvm"
local options = require "minikvm.options"

local M = {}

local DATA <const>, IER <const>, IIR <const>, LCR <const> = 0, 1, 2, 3
local MCR <const>, LSR <const>, MSR <const>, SCR <const> = 4, 5, 6, 7
local DLAB <const> = 0x80 -- of LCR
local RECEIVED <const>, EMPTY <const>, STATUS <const> = 1, 2, 8 -- of IER
local NONE <const>, IS_EMPTY <const>, IS_DATA <const>, IS_STATUS <const> = 1, 2, 4, 0
local FIFO <const>, CLEAR <const> = 1, 2 -- of FCR
local LOOP <const>, OUT2 <const>, RTS <const> = 0x10, 0x08, 0x02 -- of MCR
local READY <const>, IDLE <const> = 1, 0x60 -- of LSR
local LINES <const> = 0xb0 -- DCD, DSR, CTS

-- ---- interrupts ----

---The cause of the highest priority: table 4 of the data sheet.
local function cause(s)
  if s.ier & RECEIVED ~= 0 and #s.fifo > 0 then return IS_DATA end
  if s.ier & EMPTY ~= 0 and s.empty then return IS_EMPTY end
  if s.ier & STATUS ~= 0 and s.delta ~= 0 then return IS_STATUS end
  return NONE
end

---Bytes received that it holds.
local function depth(s) return s.fcr & FIFO ~= 0 and 16 or 1 end

---What waits on the wire, from `at` on, comes in.
local function receive(s)
  local room, at = depth(s) - #s.fifo, s.at or 1
  if s.mcr & (RTS | LOOP) ~= RTS or room <= 0 or s.wire == "" then return end
  s.fifo, s.at = s.fifo .. s.wire:sub(at, at + room - 1), at + room
  if s.at > #s.wire then s.wire, s.at = "", 1 end
end

---OUT2 connects the interrupt to the bus, as on PCs.
local function update(d)
  local s = d.state
  receive(s)
  if cause(s) ~= NONE and s.mcr & OUT2 ~= 0 then d:raise() else d:lower() end
end

---The modem's lines; in a loop the outputs are the inputs: RTS, DTR, OUT1, OUT2.
local function lines(s)
  if s.mcr & LOOP == 0 then return LINES end
  return (s.mcr & 2) << 3 | (s.mcr & 1) << 5 | (s.mcr & 0xc) << 4
end

-- ---- registers ----

local readers = {
  [DATA] = function(d, s)
    if s.lcr & DLAB ~= 0 then return s.divisor & 0xff end
    local byte = s.fifo:byte() or 0
    s.fifo = s.fifo:sub(2)
    update(d)
    return byte
  end,
  [IER] = function(_, s) return s.lcr & DLAB ~= 0 and s.divisor >> 8 or s.ier end,
  [IIR] = function(d, s)
    local value = cause(s)
    if value == IS_EMPTY then
      s.empty = false
      update(d)
    end
    return value | (s.fcr & FIFO ~= 0 and 0xc0 or 0)
  end,
  [LCR] = function(_, s) return s.lcr end,
  [MCR] = function(_, s) return s.mcr end,
  [LSR] = function(_, s) return IDLE | (#s.fifo > 0 and READY or 0) end,
  [MSR] = function(d, s)
    local value = lines(s) | s.delta
    s.delta = 0
    update(d)
    return value
  end,
  [SCR] = function(_, s) return s.scr end,
}

local function transmit(d, s, byte, o)
  if s.mcr & LOOP ~= 0 then
    s.fifo = (s.fifo .. string.char(byte)):sub(-depth(s))
  else
    o.on_output(d, byte)
  end
  s.empty = true
end

local function write_mcr(s, value)
  local before = lines(s)
  s.mcr = value & 0x1f
  s.delta = s.delta | (before ~ lines(s)) >> 4
end

local writers = {
  [DATA] = function(d, s, value, o)
    if s.lcr & DLAB == 0 then return transmit(d, s, value, o) end
    s.divisor = s.divisor & 0xff00 | value
  end,
  [IER] = function(_, s, value)
    if s.lcr & DLAB ~= 0 then
      s.divisor = s.divisor & 0xff | value << 8
    else
      if value & EMPTY ~= 0 and s.ier & EMPTY == 0 then s.empty = true end
      s.ier = value & 15
    end
  end,
  [IIR] = function(_, s, value) -- switching the FIFO on or off clears it, too
    if value & CLEAR ~= 0 or (s.fcr ~ value) & FIFO ~= 0 then s.fifo = "" end
    s.fcr = value
  end,
  [LCR] = function(_, s, value) s.lcr = value end,
  [MCR] = function(_, s, value) write_mcr(s, value) end,
  [SCR] = function(_, s, value) s.scr = value end,
}

---Wider accesses touch one register after the other.
local function read(d, offset, size)
  local value = 0
  for i = 0, size - 1 do value = value | readers[offset + i](d, d.state) << 8 * i end
  return value
end

local function write(o)
  return function(d, offset, value, size)
    for i = 0, size - 1 do
      local fn = writers[offset + i]
      if fn then fn(d, d.state, value >> 8 * i & 0xff, o) end
    end
    update(d)
  end
end

-- ---- the device ----

---Bytes for the guest.
---@param d minikvm.device
---@param text string
function M.send(d, text)
  options.argument("serial.send", "device", d, device.check)
  options.argument("serial.send", "text", text, "string")
  if not d.state.wire then
    core.blame(("serial.send: device %s is no serial card"):format(d.name))
  end
  local s = d.state
  s.wire, s.at = s.wire:sub(s.at or 1) .. text, 1
  update(d)
end

local OPTIONS <const> = options.declare("serial.new", { on_output = "function" })

---Describes it, for vm.pci:attach().
---  on_output  function(device, byte): the guest has sent one
---@param opts? { on_output: function? }
---@return minikvm.definition
function M.new(opts)
  local o = options.check("serial.new", opts, OPTIONS)
  o.on_output = o.on_output or function() end
  return kvm.pci{
    name = "serial", vendor = 0x1b36, device = 0x0002, class = 0x070002, revision = 1, irq = true,
    subsystem = { 0x1af4, 0x1100 },
    bars = { [0] = { io = true, size = 8, read = read, write = write(o) } },
    reset = function(d)
      d.state = { ier = 0, fcr = 0, lcr = 0, mcr = 0, scr = 0, divisor = 12, delta = 0,
                  empty = true, fifo = "", wire = "", at = 1 }
    end,
  }
end

return require("minikvm.strict").module(M, "devices.serial")
