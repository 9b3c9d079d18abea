-- blk.lua - flat 32-bit guests that drive virtio's block device by hand: a queue of eight entries
-- in slot 2, one request at a time. Virtual I/O Device 1.2, 2.7, 4.1, 5.2.

local blk = require "minikvm.devices.blk"
local pci = require "support.pci"

local M = {}

M.IN, M.OUT, M.FLUSH, M.ID, M.DISCARD, M.ZERO = 0, 1, 4, 8, 11, 13
M.BASE, M.DESC, M.AVAIL, M.USED, M.DATA = 0xfeb00000, 0x100000, 0x101000, 0x102000, 0x110000
M.STATUS = 0x104000
local HEAD <const> = 0x103000
local CARD <const> = pci.slot(2)

---mov al, value; mov [address], al
function M.poke8(address, value) return ("<BBBI4"):pack(0xb0, value, 0xa2, address) end
---mov ax, value; mov [address], ax
function M.poke16(address, value)
  return ("<BBI2BBI4"):pack(0x66, 0xb8, value, 0x66, 0xa3, address)
end

---Until the device has used so many buffers: cmp word [used + 2], count; jne.
function M.wait_used(count)
  return ("<BBBI4I2BB"):pack(0x66, 0x81, 0x3d, M.USED + 2, count & 0xffff, 0x75, 0xf5)
end

---Until bits of the device's status are set, or not: mov al, [status]; test al, bits; jz or jnz.
local function wait_status(bits, jump)
  return ("<BI4BBBB"):pack(0xa0, M.BASE + 0x14, 0xa8, bits, jump, 0xf7)
end
M.WAIT_BROKEN, M.WAIT_RESET = wait_status(64, 0x74), wait_status(0xff, 0x75)
M.NOTIFY, M.RESET = M.poke16(M.BASE + 0x3000, 0), M.poke8(M.BASE + 0x14, 0)

---What a driver does up to DRIVER_OK, which is asked for flushes.
M.START = table.concat{ M.poke8(M.BASE + 0x14, 3), pci.poke(M.BASE + 8, 0),
  pci.poke(M.BASE + 0xc, 1 << 9 | 1 << 28), pci.poke(M.BASE + 8, 1), pci.poke(M.BASE + 0xc, 1),
  M.poke8(M.BASE + 0x14, 11), M.poke16(M.BASE + 0x18, 8), pci.poke(M.BASE + 0x20, M.DESC),
  pci.poke(M.BASE + 0x28, M.AVAIL), pci.poke(M.BASE + 0x30, M.USED), M.poke16(M.BASE + 0x1c, 1),
  M.poke8(M.BASE + 0x14, 15) }

---A VM with a disk whose driver is ready, in slot 2.
---@param opts table  of blk.new
---@param more? table  of kvm.vm
function M.machine(opts, more)
  local o = { memory = "4M", pci = { { blk.new(opts), slot = 2 } } }
  for key, value in pairs(more or {}) do o[key] = value end
  local vm = pci.vm(o)
  pci.run(vm, { pci.place(CARD, 0, M.BASE), M.START })
  return vm, vm.pci:devices()[1]
end

---@return string descriptor
function M.descriptor(at, length, flags, next_)
  return ("<I8I4I2I2"):pack(at, length, flags, next_ or 0)
end

---Makes the buffer with this head available; how many there were before.
function M.offer(vm, head)
  local n = vm.memory:u16(M.AVAIL + 2)
  vm.memory:u16(M.AVAIL + 4 + n % 8 * 2, head)
  vm.memory:u16(M.AVAIL + 2, n + 1 & 0xffff)
  return n
end

---Puts the header of a request into memory.
function M.header(vm, kind, sector)
  vm.memory:write(HEAD, ("<I4I4I8"):pack(kind, 0, sector))
  vm.memory:u8(M.STATUS, 0xaa)
  return HEAD
end

---One request, of one part beside header and status: its status.
function M.request(vm, kind, sector, length, data)
  local m, into = vm.memory, (kind == M.IN or kind == M.ID) and 2 or 0
  M.header(vm, kind, sector)
  if data then m:write(M.DATA, data) end
  m:write(M.DESC, M.descriptor(HEAD, 16, 1, length > 0 and 1 or 2)
    .. M.descriptor(M.DATA, length, 1 | into, 2) .. M.descriptor(M.STATUS, 1, 2))
  local n = M.offer(vm, 0)
  pci.run(vm, { M.NOTIFY, M.wait_used(n + 1) })
  assert(m:u16(M.USED + 2) == n + 1 & 0xffff, "the request was not answered")
  return m:u8(M.STATUS)
end

return M
