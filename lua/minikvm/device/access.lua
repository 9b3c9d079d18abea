-- device/access.lua - what a device does beside its registers: it reads and writes guest memory on
-- its own and the RAM of its BARs, has disks, and keeps further hooks.

local core = require "minikvm.core"
local disks = require "minikvm.device.disk"
local options = require "minikvm.options"

---Methods of devices.
---@class minikvm.device
local Device = {}

local KIND <const> = "minikvm.device"

local function check_ram(d, where, number, at)
  options.self(where, d, KIND)
  options.argument(where, "number", number, "integer")
  options.argument(where, "at", at, "integer")
  if not d.pci then core.blame(("%s: device %s is no PCI function"):format(where, d.name)) end
  if number < 0 or number > 5 then
    core.blame(("%s: device %s has no BAR %d"):format(where, d.name, number))
  end
end

local check_handle <const> = options.object("minikvm.handle", "a handle")

local function is_handle(value)
  if core.kind(value) == "minikvm.timer" then return value end
  return check_handle(value)
end

---Why a device may not access memory: nil when it may.
local function no_master(d)
  if not d.pci or core.pci_master(d.pci) then return end
  return ("device %s: the guest has not made it a bus master (command register, bit 2)"):format(
    d.name)
end

---The line of the PIC that its interrupt goes to; nil: none. The guest routes that of a PCI
---function.
---@return integer?
function Device:line()
  options.self("device:line", self, KIND)
  return self.pci and core.pci_line(self.pci) or self.irq
end

---Where a BAR of a PCI function is; nil while the guest has put it nowhere.
---@param number integer  0 to 5
---@return integer? address
function Device:bar(number)
  options.self("device:bar", self, KIND)
  options.argument("device:bar", "number", number, "integer")
  if not (self.bars or {})[number] then
    core.blame(("device:bar: device %s has no BAR %d"):format(self.name, number))
  end
  return core.pci_place(self.pci, number)
end

---What is in the RAM of a BAR, wherever the guest has put it.
---@param number integer  0 to 5
---@param at integer  in the BAR
---@param length integer
---@return string bytes
function Device:ram_read(number, at, length)
  check_ram(self, "device:ram_read", number, at)
  options.argument("device:ram_read", "length", length, "integer")
  if length < 0 then core.blame "device:ram_read: 'length': expected 0 or more" end
  return core.pci_ram_read(self.pci, number, at, length)
end

---Changes it.
---@param number integer
---@param at integer
---@param bytes string
function Device:ram_write(number, at, bytes)
  check_ram(self, "device:ram_write", number, at)
  options.argument("device:ram_write", "bytes", bytes, "string")
  core.pci_ram_write(self.pci, number, at, bytes)
end

---A disk of kvm.disk becomes a part of the device: what was written to it is in snapshots, goes
---with a reset, and it is closed when the device goes.
---@param disk minikvm.disk
---@return minikvm.disk
function Device:use_disk(disk)
  options.self("device:use_disk", self, KIND)
  return disks.use(self, disk)
end

---Keeps a further hook of the device, such as one from vm.ports:on(), which goes with it.
---@param handle minikvm.handle
---@return minikvm.handle
function Device:keep(handle)
  options.self("device:keep", self, KIND)
  options.argument("device:keep", "handle", handle, is_handle)
  self.handles[#self.handles + 1] = handle
  return handle
end

---Whether a guest-physical range lies in RAM that a device may write to.
---@param address integer  as the guest gave it: any 64 bits
---@param length integer  bytes
---@return boolean
function Device:is_ram(address, length)
  options.self("device:is_ram", self, KIND)
  options.argument("device:is_ram", "address", address, "integer")
  options.argument("device:is_ram", "length", length, "integer")
  return self.vm.memory:has(address, length, true)
end

---Reads guest memory, as a device does on its own; a PCI function once the guest lets it.
---@param address integer
---@param length integer  bytes
---@return string? bytes  nil when the range is not all RAM, or it is no bus master
---@return string? why
function Device:dma_read(address, length)
  options.self("device:dma_read", self, KIND)
  options.argument("device:dma_read", "address", address, "integer")
  options.argument("device:dma_read", "length", length, "integer")
  local why = no_master(self)
  if why then return nil, why end
  if self.vm.memory:has(address, length) then return self.vm.memory:read(address, length) end
  return nil, ("device %s: DMA of %d bytes from 0x%x is not all in RAM"):format(self.name, length,
                                                                             address)
end

---Writes guest memory.
---@param address integer
---@param bytes string
---@return boolean? done  nil when the range is not all RAM, or it is no bus master: nothing was
---  written
---@return string? why
function Device:dma_write(address, bytes)
  options.self("device:dma_write", self, KIND)
  options.argument("device:dma_write", "bytes", bytes, "string")
  local why = no_master(self)
  if why then return nil, why end
  if self:is_ram(address, #bytes) then
    self.vm.memory:write(address, bytes)
    return true
  end
  return nil, ("device %s: DMA of %d bytes to 0x%x is not all in RAM"):format(self.name, #bytes,
                                                                           address)
end

return Device
