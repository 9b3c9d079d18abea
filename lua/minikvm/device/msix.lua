-- device/msix.lua - the table of MSI-X vectors of a PCI function, and what becomes of messages. PCI
-- Local Bus Specification 3.0, 6.8.2.
--
-- A message is a write to memory that an APIC takes. There is none: messages are lost and counted,
-- as on a board without one. Guests that have no APIC do not enable them. A function has one
-- interrupt, which is its first vector.

local M = {}

local ENTRY <const>, CONTROL <const>, MASKED <const> = 16, 12, 1
local MSIX <const>, MASK_ALL <const> = 0x11, 0x4000 -- the capability; of its control

---Those of devices: 16 bytes for each vector (address, data, control), then the pending bits.
---@type table<minikvm.device, string>
local tables = setmetatable({}, { __mode = "k" })

---Bytes of a table and of its pending bits.
---@param vectors integer
---@return integer
function M.length(vectors) return vectors * ENTRY + (vectors + 63) // 64 * 8 end

---A table as after a reset: each vector is masked.
---@param m { vectors: integer }
---@return string
function M.initial(m)
  return ("\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0"):rep(m.vectors)
    .. ("\0"):rep(M.length(m.vectors) - m.vectors * ENTRY)
end

---Gives a device its table: as a snapshot has it, or as after a reset.
---@param d minikvm.device  whose definition has one
---@param saved string?
function M.reset(d, saved)
  local m = d.definition.pci.msix
  local fits = type(saved) == "string" and #saved == M.length(m.vectors)
  tables[d] = fits and saved or M.initial(m)
end

---What a snapshot keeps; nil for a device without one.
function M.save(d) return tables[d] end

---Handlers for the table in its BAR; the pending bits are read-only.
local function handlers(d, m)
  return {
    name = "MSI-X table",
    read = function(address, size)
      return (("<I" .. size):unpack(tables[d], address - m.at + 1))
    end,
    write = function(address, value, size)
      local at = address - m.at
      if at + size > m.vectors * ENTRY then return end
      tables[d] = tables[d]:sub(1, at) .. ("<I" .. size):pack(value) .. tables[d]:sub(at + size + 1)
    end,
  }
end

---Puts the table into its BAR.
---@param d minikvm.device
---@param m { vectors: integer, bar: integer, at: integer }
function M.hook(d, m)
  d.bars[m.bar]:on({ m.at, m.at + M.length(m.vectors) - 1 }, handlers(d, m))
end

---Messages that were lost: [vm] = how many.
local lost = setmetatable({}, { __mode = "k" })

---@param vm minikvm.vm
---@return integer
function M.lost(vm) return lost[vm] or 0 end

---A message is due by this capability, which has this control. One that the guest has masked is
---pending.
function M.send(d, capability, control)
  local m = capability == MSIX and d.definition.pci.msix
  if m and (control & MASK_ALL ~= 0 or tables[d]:byte(CONTROL + 1) & MASKED ~= 0) then
    local pending = m.vectors * ENTRY
    tables[d] = tables[d]:sub(1, pending) .. string.char(tables[d]:byte(pending + 1) | 1)
      .. tables[d]:sub(pending + 2)
  else
    lost[d.vm] = M.lost(d.vm) + 1
  end
end

return M
