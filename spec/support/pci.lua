-- pci.lua - flat 32-bit guests that use a PCI bus: configuration mechanism 1, memory and ports, as
-- machine code.

local kvm = require "minikvm"

local M = {}

---CONFADD of a slot.
function M.slot(slot, fn) return 0x80000000 | slot << 11 | (fn or 0) << 8 end

local function mov(opcode, value) return string.pack("<BI4", opcode, value) end

---mov edx, port; mov eax, value; out dx, eax/ax/al
function M.outp(port, value, size)
  local out = size == 1 and "\xee" or size == 2 and "\x66\xef" or "\xef"
  return mov(0xba, port) .. mov(0xb8, value) .. out
end

---mov edx, port; xor eax, eax; in eax/ax/al, dx; mov [to], eax
function M.inp(to, port, size)
  local read = size == 1 and "\xec" or size == 2 and "\x66\xed" or "\xed"
  return mov(0xba, port) .. "\x31\xc0" .. read .. mov(0xa3, to)
end

---A write to configuration space, of 4 bytes if nothing else is said.
function M.set(function_, reg, value, size)
  return M.outp(0xcf8, function_ | reg & 0xfc) .. M.outp(0xcfc + (reg & 3), value, size)
end

---A read of it.
function M.get(to, function_, reg, size)
  return M.outp(0xcf8, function_ | reg & 0xfc) .. M.inp(to, 0xcfc + (reg & 3), size)
end

---mov eax, value; mov [address], eax
function M.poke(address, value) return mov(0xb8, value) .. mov(0xa3, address) end

---mov eax, [address]; mov [to], eax
function M.peek(to, address) return mov(0xa1, address) .. mov(0xa3, to) end

---A BAR at an address, with the decoding of memory and bus mastering on.
function M.place(function_, number, address)
  return M.set(function_, 0x10 + 4 * number, address) .. M.set(function_, 4, 7, 2)
end

M.HALT = "\xf4"

---A VM with these parts of a guest, HLT behind them.
function M.vm(opts)
  local o = { mode = "protected", irqchip = "pic", echo = false, limits = { seconds = 20 } }
  for key, value in pairs(opts or {}) do o[key] = value end
  return assert(kvm.vm(o))
end

function M.load(vm, parts)
  assert(vm:load{ bytes = table.concat(parts) .. M.HALT })
  return vm
end

---Runs parts of a guest in a VM that has its devices.
function M.run(vm, parts)
  M.load(vm, parts)
  return vm:run()
end

return M
