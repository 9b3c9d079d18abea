-- device/config_space.lua - configuration space of a PCI function as bytes: what it holds after a
-- reset, and which bits of it a guest may write. The core finds the BARs there (src/dev/pci.h).
-- PCI Local Bus Specification 3.0, 6.1, 6.2.5.1, 6.7, 6.8.

local core = require "minikvm.core"

local M = {}

local SIZE <const>, FIRST_CAP <const> = 256, 0x40
local COMMAND <const>, STATUS <const>, BAR0 <const>, CAPS <const>, PIN <const> = 4, 6, 0x10, 0x34,
                                                                                 0x3d
local HAS_CAPS <const> = "\x10" -- of STATUS
local MSI <const>, MSIX <const> = 5, 0x11

---What the register of a BAR says of its kind, in how many bits; sizes, and the end of addresses.
local KINDS <const> = {
  mem32 = { type = 0, low = 4, least = 16, most = 1 << 31, limit = 0xffffffff, decoding = "\2" },
  mem64 = { type = 4, low = 4, least = 16, most = 1 << 40, limit = 1 << 63, decoding = "\2" },
  io = { type = 1, low = 2, least = 4, most = 256, limit = 0x10000, decoding = "\1" },
}
local PREFETCHABLE <const> = 8

---@class minikvm.config_space  a function's, while it is put together
---@field name string  for messages
---@field initial integer[]  256 bytes, from 1
---@field writable integer[]
local Space = {}
Space.__index = Space

local function blame(self, text, ...)
  core.blame(("pci: %s: " .. text):format(self.name, ...))
end

---Sets bits, from a place on.
local function put(bytes, at, new)
  for i = 1, #new do bytes[at + i] = bytes[at + i] | new:byte(i) end
end

local function bytes_of(list) return string.char(table.unpack(list, 1, SIZE)) end

local function check_place(self, number, size, kind, at)
  if size < kind.least or size > kind.most or size & size - 1 ~= 0 then
    blame(self, "BAR %d of 0x%x bytes: a size is a power of two, 0x%x to 0x%x", number, size,
          kind.least, kind.most)
  elseif at & size - 1 ~= 0 then
    blame(self, "BAR %d at 0x%x: it is a multiple of its size", number, at)
  elseif math.ult(kind.limit - size, at) then
    blame(self, "BAR %d at 0x%x: it has to end below 0x%x", number, at, kind.limit)
  end
end

---Adds a BAR: those with lower numbers first.
---@param number integer
---@param bar { kind: string, prefetch: boolean, size: integer }
---@param at integer  where it is after a reset, with its decoding on; 0: nowhere
function Space:add_bar(number, bar, at)
  local kind = KINDS[bar.kind]
  local wide = bar.kind == "mem64"
  if self.taken == number then
    blame(self, "BAR %d is taken: a 64-bit one takes the next, too", number)
  elseif wide and number == 5 then
    blame(self, "BAR %d: there are 0 to 5, and a 64-bit one takes two", number)
  end
  check_place(self, number, bar.size, kind, at)
  local format = wide and "<I8" or "<I4"
  local address = ~(bar.size - 1) & (wide and -1 or 0xffffffff) >> kind.low << kind.low
  local type = kind.type | (bar.prefetch and bar.kind ~= "io" and PREFETCHABLE or 0)
  put(self.initial, BAR0 + 4 * number, (format:pack(at | type)))
  put(self.writable, BAR0 + 4 * number, (format:pack(address)))
  if at ~= 0 then put(self.initial, COMMAND, kind.decoding) end
  self.taken = wide and number + 1 or nil
end

---Adds a capability: the bytes after id and next, and the bits of them that a guest may write.
function Space:add_capability(id, bytes, writable)
  local at = self.next
  if at + 2 + #bytes > SIZE then
    blame(self, "capability 0x%x of %d bytes does not fit: configuration space has 192 bytes for "
          .. "all of them", id, 2 + #bytes)
  end
  put(self.initial, self.link, string.char(at))
  put(self.initial, STATUS, HAS_CAPS)
  put(self.initial, at, string.char(id, 0) .. bytes)
  put(self.writable, at + 2, writable)
  self.link, self.next = at + 1, at + 2 + #bytes + 3 & ~3
end

---MSI: one message, to any address of 64 bits.
function Space:add_msi()
  self:add_capability(MSI, "\x80" .. ("\0"):rep(11), "\x71\0\xfc" .. ("\xff"):rep(9))
end

---MSI-X, whose table of vectors, with their pending bits behind it, lies in a BAR (msix.lua).
---@param m { vectors: integer, bar: integer, at: integer }
---@param length integer  bytes of table and pending bits
---@param bar { kind: string, size: integer }?  the BAR
function Space:add_msix(m, length, bar)
  local size = bar and bar.kind ~= "io" and math.min(bar.size, 0xffffffff) or 0
  if m.at % 8 ~= 0 or m.at < 0 or m.at > size - length then
    blame(self, "MSI-X with %d vectors at 0x%x of BAR %d: there are 1 to 2048, and their table of "
          .. "16 bytes each, with a bit for each behind it, lies inside a BAR of memory at a "
          .. "multiple of 8", m.vectors, m.at, m.bar)
  end
  self:add_capability(MSIX,
    ("<I2I4I4"):pack(m.vectors - 1, m.at | m.bar, m.at + 16 * m.vectors | m.bar),
    "\0\xc0" .. ("\0"):rep(8))
end

---@return string initial
---@return string writable
function Space:bytes() return bytes_of(self.initial), bytes_of(self.writable) end

---@param name string
---@param id { vendor: integer, device: integer, class: integer, revision: integer,
---  subvendor: integer, subdevice: integer }
---@param pin integer  1 to 4: INTA# to INTD#; 0: it does not interrupt
---@return minikvm.config_space
function M.new(name, id, pin)
  local self = setmetatable({ name = name, initial = {}, writable = {}, link = CAPS,
                              next = FIRST_CAP }, Space)
  for i = 1, SIZE do self.initial[i], self.writable[i] = 0, 0 end
  put(self.initial, 0, ("<I2I2I4I4"):pack(id.vendor, id.device, 0, id.class << 8 | id.revision))
  put(self.initial, 0x2c, ("<I2I2"):pack(id.subvendor, id.subdevice))
  put(self.initial, PIN, string.char(pin))
  return self
end

return M
