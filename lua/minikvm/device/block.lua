-- device/block.lua - a block of a device: registers, or handlers of plain accesses, that lie
-- together at one place: in ports, in memory, in a BAR, in PCI configuration space.

local core = require "minikvm.core"
local registers = require "minikvm.device.registers"

local M = {}

---@class minikvm.block
---@field list minikvm.register[]
---@field has_registers boolean
---@field size integer  bytes
---@field accepts function?
---@field readers table<string, function>?  by register
---@field read_any function?  of all registers, or of a block that has none
---@field writers table<string, function>?
---@field write_any function?

local function handler(value)
  if type(value) == "function" then return value end
  if type(value) ~= "table" then return nil, "expected a function, or functions by register" end
  for name, fn in pairs(value) do
    if type(fn) ~= "function" then
      return nil, ("%s: expected a function, got a %s"):format(tostring(name), type(fn))
    end
  end
  return value
end

local function width(value)
  if registers.WIDTHS[value] then return value end
  return nil, "a width is 1, 2, 4 or 8 bytes"
end

---Options of a block, for options.check().
M.OPTIONS = {
  width = width, size = "integer", read = handler, write = handler, accepts = "function",
  registers = function(value)
    if type(value) == "table" then return value end
    return nil, "expected a table of offsets and names"
  end,
}

local function check_names(where, handlers, names)
  if type(handlers) ~= "table" then return end
  for name in pairs(handlers) do
    if not names[name] then
      core.blame(("%s: there is no register %s"):format(where, tostring(name)))
    end
  end
end

---A checked block of what options.check() returned; raises when it makes no sense.
---@param where string  for messages: "kvm.device"
---@param o table
---@param names table<string, minikvm.register>  of all blocks of the device
---@return minikvm.block
function M.check(where, o, names)
  local list, why = registers.read(o.registers or {}, o.width, names)
  if not list then core.blame(("%s: %s"):format(where, why)) end
  local last = list[#list]
  local size = o.size or (last and last.offset + last.width) or 1
  if size < 1 then core.blame(where .. ": a size is 1 byte or more") end
  if last and last.offset + last.width > size then
    core.blame(("%s: register %s lies behind its %d bytes"):format(where, last.name, size))
  end
  local own = {}
  for _, r in ipairs(list) do own[r.name] = true end
  check_names(where .. ": read", o.read, own)
  check_names(where .. ": write", o.write, own)
  local function one(value, kind) return type(value) == kind and value or nil end
  return { list = list, has_registers = o.registers ~= nil, size = size, accepts = o.accepts,
           readers = one(o.read, "table"), read_any = one(o.read, "function"),
           writers = one(o.write, "table"), write_any = one(o.write, "function") }
end

---Handlers of a device without registers: they get offsets.
local function plain(d, block)
  local read, write = block.read_any, block.write_any
  return read and function(offset, size) return read(d, offset, size) end,
         write and function(offset, value, size) return write(d, offset, value, size) end
end

---The functions that serve a block of an instance, by offset; nil for what it has no handler.
---@param d minikvm.device
---@param block minikvm.block
---@return (fun(offset: integer, size: integer): integer)? read
---@return (fun(offset: integer, value: integer, size: integer))? write
function M.functions(d, block)
  local accepts, read, write = block.accepts
  if block.has_registers then
    read, write = registers.handlers(d, block)
  else
    read, write = plain(d, block)
  end
  if not accepts then return read, write end
  local function refuse(size)
    d.refused = d.refused + 1
    return registers.mask(size)
  end
  return read and function(offset, size)
    return accepts(d, offset, size, false) and read(offset, size) or refuse(size)
  end, write and function(offset, value, size)
    if accepts(d, offset, size, true) then write(offset, value, size) else refuse(size) end
  end
end

---A block at its place: handlers for vm.ports, vm.mmio or a window, which call what `place` holds,
---so that a device can be replaced while it is used.
---@param d minikvm.device
---@param block minikvm.block
---@param base integer  address of its first byte
---@param all boolean?  it owns its addresses: what it does not serve reads ones
---@return { read: function, write: function } place
---@return { name: string, read: function?, write: function? } handlers
function M.place(d, block, base, all)
  local place = {}
  M.fill(place, d, block, all)
  local handlers = { name = ("device %s"):format(d.name) }
  if place.read then
    handlers.read = function(address, size) return place.read(address - base, size) end
  end
  if place.write then
    handlers.write = function(address, value, size) place.write(address - base, value, size) end
  end
  return place, handlers
end

---Puts other code at a place.
function M.fill(place, d, block, all)
  place.read, place.write = M.functions(d, block)
  if all then
    place.read = place.read or function(_, size) return registers.mask(size) end
    place.write = place.write or function() end
  end
  place.all = all
end

return M
