-- edu.lua - QEMU's teaching device "edu", for learning to write a driver: it inverts, computes
-- factorials, interrupts, and copies between RAM and a buffer of its own by DMA.
--
--   vm.pci:attach(edu.pci())                                 -- as the original
--   vm:attach(edu.new(), { mmio = 0xfeb00000, irq = 10 })    -- without PCI
--
-- Follows QEMU's published specification (docs/specs/edu). Where it leaves something open: an
-- access of another size or alignment than it allows reads ones and does nothing; registers of a
-- transfer, and the number whose factorial is being computed, cannot be written meanwhile; a
-- transfer that is not all in RAM or not all in the buffer moves nothing, ends as any other, and is
-- told to `on_error`. Handlers run on the vCPU's thread under the Lua lock; results come by timers
-- of the VM's clock.

local kvm = require "minikvm"
local options = require "minikvm.options"

local M = {}

---What the identification register reads: version 1.0.
M.ID = 0x010000ed

local SIZE <const> = 1 << 20
local BUFFER <const>, BUFFER_SIZE <const> = 0x40000, 4096
local COMPUTING <const>, FACTORIAL_IRQ <const> = 0x01, 0x80 -- bits of STATUS
local START <const>, FROM_EDU <const>, DMA_IRQ <const> = 1, 2, 4 -- bits of COMMAND
---What the interrupt status says: a factorial is there, a transfer is over.
M.IRQ_FACTORIAL, M.IRQ_DMA = 0x001, 0x100

local REGISTERS <const> = {
  [0x00] = { name = "ID", width = 4, access = "ro", reset = M.ID },
  [0x04] = { name = "ALIVE", width = 4 },
  [0x08] = { name = "FACTORIAL", width = 4 },
  [0x20] = { name = "STATUS", width = 4 },
  [0x24] = { name = "IRQ_STATUS", width = 4, access = "ro" },
  [0x60] = { name = "IRQ_RAISE", width = 4, access = "wo" },
  [0x64] = { name = "IRQ_ACK", width = 4, access = "wo" },
  [0x80] = { name = "SOURCE", width = 8 },
  [0x88] = { name = "DESTINATION", width = 8 },
  [0x90] = { name = "COUNT", width = 8 },
  [0x98] = { name = "COMMAND", width = 8 },
}

---4 bytes below 0x80, 4 or 8 from there, in their place; what is being used cannot be changed.
local function accepts(d, offset, size, is_write)
  local fits = (size == 4 or size == 8 and offset >= 0x80) and offset % size == 0
  if not (fits and is_write) then return fits end
  if offset >= 0x80 then return d.reg.COMMAND & START == 0 end
  return offset ~= 0x08 or d.state.computing == 0
end

-- ---- interrupts: the line is up while the status is not 0 ----

local function set_irq_status(d, value)
  d.reg.IRQ_STATUS = value
  if value ~= 0 then d:raise() else d:lower() end
end

local function interrupt(d, why)
  set_irq_status(d, d.reg.IRQ_STATUS | why)
end

-- ---- factorial ----

---n! in 32 bits: from 34 on it is 0, for it has 32 factors of 2.
local function factorial(n)
  local product = n < 34 and 1 or 0
  for i = 2, math.min(n, 33) do product = product * i & 0xffffffff end
  return product
end

local function finish_factorial(d)
  d.reg.FACTORIAL = factorial(d.reg.FACTORIAL)
  d.state.computing = 0
  if d.reg.STATUS & FACTORIAL_IRQ ~= 0 then interrupt(d, M.IRQ_FACTORIAL) end
end


-- ---- DMA ----

local function in_buffer(at, count)
  return at >= BUFFER and at <= BUFFER + BUFFER_SIZE and math.ult(count, BUFFER_SIZE + 1)
    and at + count <= BUFFER + BUFFER_SIZE
end

---Replaces bytes of the buffer.
local function store(d, at, bytes)
  local old = d.state.buffer
  d.state.buffer = old:sub(1, at) .. bytes .. old:sub(at + #bytes + 1)
end

---Moves the bytes: nil and the reason when it cannot.
local function transfer(d, dma_mask)
  local source, destination, count = d.reg.SOURCE, d.reg.DESTINATION, d.reg.COUNT
  local from_edu = d.reg.COMMAND & FROM_EDU ~= 0
  local inside, outside = destination, source
  if from_edu then inside, outside = source, destination end
  if not in_buffer(inside, count) then
    return nil, ("0x%x bytes at 0x%x are not all in its buffer"):format(count, inside)
  elseif outside & ~dma_mask ~= 0 then
    return nil, ("address 0x%x has more bits than its mask 0x%x"):format(outside, dma_mask)
  elseif from_edu then
    return d:dma_write(outside, d.state.buffer:sub(inside - BUFFER + 1, inside - BUFFER + count))
  end
  local bytes, why = d:dma_read(outside, count)
  if bytes then store(d, inside - BUFFER, bytes) end
  return bytes, why
end

local function finish_transfer(d, o)
  local moved, why = transfer(d, o.dma_mask)
  d.reg.COMMAND = d.reg.COMMAND & ~START
  if not moved then
    d.state.errors, d.state.last_error = d.state.errors + 1, why
    if o.on_error then o.on_error(d, why) end
  end
  if d.reg.COMMAND & DMA_IRQ ~= 0 then interrupt(d, M.IRQ_DMA) end
end


-- ---- the device ----

local function writers(o)
  return {
    ALIVE = function(d, _, value) d.reg.ALIVE = ~value & 0xffffffff end,
    FACTORIAL = function(d)
      d.state.computing = COMPUTING
      d:after(o.delay, "factorial")
    end,
    STATUS = function(d, _, value) d.reg.STATUS = value & FACTORIAL_IRQ end,
    IRQ_RAISE = function(d, _, value) interrupt(d, value) end,
    IRQ_ACK = function(d, _, value) set_irq_status(d, d.reg.IRQ_STATUS & ~value) end,
    COMMAND = function(d, _, value)
      if value & START ~= 0 then d:after(o.delay, "transfer") end
    end,
  }
end

local OPTIONS <const> = options.declare("edu.new", {
  delay = "seconds", dma_mask = "integer", on_error = "function",
})

---What both kinds have in common.
local function common(where, opts)
  local o = options.check(where, opts, OPTIONS)
  o.delay, o.dma_mask = o.delay or 0.0001, o.dma_mask or 0x0fffffff
  return {
    name = "edu", irq = true,
    timers = { factorial = finish_factorial, transfer = function(d) finish_transfer(d, o) end },
    reset = function(d)
      d.state = { buffer = ("\0"):rep(BUFFER_SIZE), computing = 0, errors = 0 }
    end,
  }, { size = SIZE, registers = REGISTERS, accepts = accepts, write = writers(o),
       read = { STATUS = function(d) return d.reg.STATUS | d.state.computing end } }
end

---Describes an edu device, for vm:attach() with `mmio` and `irq`. It has 1 MiB of registers.
---An attached one has state.buffer (its 4096 bytes), state.errors and state.last_error.
---  delay     seconds that a factorial and a transfer take (0.0001)
---  dma_mask  bits that addresses of transfers may have: 28 by default, 0x0fffffff
---  on_error  function(device, text): a transfer that cannot be done
---@param opts? { delay: number?, dma_mask: integer?, on_error: function? }
---@return minikvm.definition
function M.new(opts)
  local def, registers = common("edu.new", opts)
  for key, value in pairs(registers) do def[key] = value end
  return kvm.device(def)
end

---The same on PCI, for vm.pci:attach(): 1234:11e8, its registers in BAR 0, INTA# and MSI.
---@param opts? { delay: number?, dma_mask: integer?, on_error: function? }  as for new()
---@return minikvm.definition
function M.pci(opts)
  local def, registers = common("edu.pci", opts)
  def.vendor, def.device, def.class, def.revision = 0x1234, 0x11e8, 0x00ff00, 0x10
  def.subsystem = { 0x1af4, 0x1100 }
  def.bars, def.capabilities = { [0] = registers }, { "msi" }
  return kvm.pci(def)
end

return require("minikvm.strict").module(M, "devices.edu")
