-- registers.lua - the registers of a device in Lua: checks their description, and says what an
-- access of any size and offset means for them.
--
-- An access may touch a part of a register, several, or the room between them, which reads as ones.

local options = require "minikvm.options"

local M = {}

---@class minikvm.register
---@field name string
---@field offset integer  bytes from the device's base
---@field width integer  bytes: 1, 2, 4 or 8
---@field reset integer  its value after a reset
---@field access "rw"|"ro"|"wo"

-- ---- describing them ----

---Sizes of an access, and so of a register.
M.WIDTHS = { [1] = true, [2] = true, [4] = true, [8] = true }
local WIDTHS <const> = M.WIDTHS

local REGISTER <const> = { name = "string", width = "integer", reset = "integer",
                           access = { "rw", "ro", "wo" } }

local function problem(where, text, ...)
  return nil, ("%s: " .. text):format(where, ...)
end

---One entry of `registers`: a name, or { name=, width=, reset=, access= }.
local function read_register(offset, entry)
  local where = ("register at %s"):format(tostring(offset))
  if math.type(offset) ~= "integer" or offset < 0 or offset > 0xffffff then
    return problem(where, "an offset is an integer of 0 to 0xffffff")
  end
  if type(entry) == "string" then entry = { name = entry } end
  if type(entry) ~= "table" then return problem(where, "expected a name or { name=, width= }") end
  local ok, checked = pcall(options.check, "", entry, REGISTER)
  if not ok then return problem(where, "%s", (checked:gsub("^.-: : ", ""))) end
  local width = checked.width
  if not checked.name or checked.name == "" then return problem(where, "it has no name") end
  if width and not WIDTHS[width] then return problem(where, "a width is 1, 2, 4 or 8 bytes") end
  return { name = checked.name, offset = offset, width = width, reset = checked.reset or 0,
           access = checked.access or "rw" }
end

local function by_offset(a, b) return a.offset < b.offset end

---Registers without a width are as wide as the smallest distance between two of them.
local function default_width(list)
  local gap = 8
  for i = 2, #list do gap = math.min(gap, list[i].offset - list[i - 1].offset) end
  if #list < 2 then return 1 end
  return gap >= 8 and 8 or gap >= 4 and 4 or gap >= 2 and 2 or 1
end

---The registers in order, checked: nil and what is wrong otherwise.
---@param given table
---@param width? integer  of those that say none
---@return minikvm.register[]? list
---@return table<string, minikvm.register>|string names  or what is wrong
function M.read(given, width)
  local list, names = {}, {}
  for offset, entry in pairs(given) do
    local r, why = read_register(offset, entry)
    if not r then return nil, why end
    if names[r.name] then return nil, ("register %s is there twice"):format(r.name) end
    names[r.name] = r
    list[#list + 1] = r
  end
  table.sort(list, by_offset)
  local default = width or default_width(list)
  for i, r in ipairs(list) do
    r.width = r.width or default
    local before = list[i - 1]
    if before and before.offset + before.width > r.offset then
      return nil, ("registers %s and %s overlap"):format(before.name, r.name)
    end
    if r.width < 8 and (r.reset < 0 or r.reset >> (8 * r.width) ~= 0) then
      return nil, ("register %s: its reset value does not fit in %d bytes"):format(r.name, r.width)
    end
  end
  return list, names
end

-- ---- what an access of any size means ----

---A number of so many bytes, all of them ones.
function M.mask(bytes) return bytes == 8 and -1 or (1 << 8 * bytes) - 1 end

local mask = M.mask

---The register's value as the guest sees it.
local function read_whole(d, r, size)
  if r.access == "wo" then return 0 end
  local fn = d.readers and d.readers[r.name] or d.read_any
  if not fn then return d.reg[r.name] end
  local value = fn(d, r.name, size)
  if math.type(value) ~= "integer" then
    error(("device %s: reading %s answered %s: it must return an integer")
      :format(d.name, r.name, value == nil and "nil" or type(value) .. " " .. tostring(value)), 0)
  end
  if r.width < 8 and (value < 0 or value > mask(r.width)) then
    error(("device %s: reading %s answered %d: it does not fit in %d byte%s")
      :format(d.name, r.name, value, r.width, r.width > 1 and "s" or ""), 0)
  end
  return value
end

local function write_whole(d, r, value, size)
  if r.access == "ro" then return end
  d.reg[r.name] = value
  local fn = d.writers and d.writers[r.name] or d.write_any
  if fn then fn(d, r.name, value, size) end
end

---The bytes of registers that an access of `size` bytes at `offset` touches: calls
---fn(register, first byte in it, bytes, first byte in the access) for each.
local function each_register(d, offset, size, fn)
  for _, r in ipairs(d.list) do
    local from = math.max(offset, r.offset)
    local to = math.min(offset + size, r.offset + r.width)
    if from < to then fn(r, from - r.offset, to - from, from - offset) end
  end
end

---A part of a register reads as those bytes of it; between registers lie ones.
local function read_parts(d, offset, size)
  local value = mask(size)
  each_register(d, offset, size, function(r, first, bytes, at)
    local part = read_whole(d, r, bytes) >> 8 * first & mask(bytes)
    value = value & ~(mask(bytes) << 8 * at) | part << 8 * at
  end)
  return value & mask(size)
end

---A part of a register that is written is the whole one with these bytes changed.
local function write_parts(d, offset, value, size)
  each_register(d, offset, size, function(r, first, bytes, at)
    local part = value >> 8 * at & mask(bytes)
    local whole = d.reg[r.name] & ~(mask(bytes) << 8 * first) | part << 8 * first
    write_whole(d, r, whole & mask(r.width), bytes)
  end)
end

---Handlers of a device's accesses by offset; that of exactly one register is the quick case.
---@param d minikvm.device
---@return { read: function, write: function }
function M.handlers(d)
  local exact = {}
  for _, r in ipairs(d.list) do exact[r.offset] = r end
  return {
    read = function(offset, size)
      local r = exact[offset]
      if r and r.width == size then return read_whole(d, r, size) end
      return read_parts(d, offset, size)
    end,
    write = function(offset, value, size)
      local r = exact[offset]
      if r and r.width == size then return write_whole(d, r, value, size) end
      return write_parts(d, offset, value, size)
    end,
  }
end

return M
