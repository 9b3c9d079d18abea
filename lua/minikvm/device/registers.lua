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
---@field bank string?  the register whose value says which of its values is seen
---@field banks integer?  how many there are

-- ---- describing them ----

---Sizes of an access, and so of a register.
M.WIDTHS = { [1] = true, [2] = true, [4] = true, [8] = true }
local WIDTHS <const> = M.WIDTHS

local REGISTER <const> = { name = "string", width = "integer", reset = "integer",
                           access = { "rw", "ro", "wo" }, bank = "string", banks = "integer" }
local BANKS_MAX <const> = 65536

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
  local banks = checked.banks
  if (checked.bank == nil) ~= (banks == nil) then
    return problem(where, "'bank' names a register, 'banks' says how many it selects from")
  elseif banks and (banks < 1 or banks > BANKS_MAX) then
    return problem(where, "'banks' is 1 to %d", BANKS_MAX)
  end
  return { name = checked.name, offset = offset, width = width, reset = checked.reset or 0,
           access = checked.access or "rw", bank = checked.bank, banks = banks }
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
---@param names table<string, minikvm.register>  those of the device's other blocks; they are added
---@return minikvm.register[]? list
---@return string? why
function M.read(given, width, names)
  local list = {}
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
    if r.bank and (not names[r.bank] or names[r.bank].bank) then
      return nil, ("register %s: there is no register %s to select its bank"):format(r.name, r.bank)
    end
  end
  return list
end

---What a register holds after a reset: a table of values from 0 for one with banks.
---@param r minikvm.register
function M.initial(r)
  if not r.bank then return r.reset end
  local values = {}
  for i = 0, r.banks - 1 do values[i] = r.reset end
  return values
end

-- ---- what an access of any size means ----

---A number of so many bytes, all of them ones.
function M.mask(bytes) return bytes == 8 and -1 or (1 << 8 * bytes) - 1 end

local mask = M.mask

---The bank that a register is seen of; nil when there is none of that number.
local function selected(d, r)
  local i = d.reg[r.bank]
  return math.ult(i, r.banks) and i or nil
end

---What was written last.
local function value_of(d, r)
  if not r.bank then return d.reg[r.name] end
  local i = selected(d, r)
  return i and d.reg[r.name][i] or 0
end

---The register's value as the guest sees it; of a bank that is not there, 0.
local function read_whole(d, block, r, size)
  if r.access == "wo" then return 0 end
  local fn = block.readers and block.readers[r.name] or block.read_any
  local bank = r.bank and selected(d, r)
  if not fn or bank == nil and r.bank then return value_of(d, r) end
  local value = fn(d, r.name, size, bank)
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

local function write_whole(d, block, r, value, size)
  if r.access == "ro" then return end
  local bank
  if r.bank then
    bank = selected(d, r)
    if not bank then return end
    d.reg[r.name][bank] = value
  else
    d.reg[r.name] = value
  end
  local fn = block.writers and block.writers[r.name] or block.write_any
  if fn then fn(d, r.name, value, size, bank) end
end

---The bytes of registers that an access of `size` bytes at `offset` touches: calls
---fn(register, first byte in it, bytes, first byte in the access) for each.
local function each_register(block, offset, size, fn)
  for _, r in ipairs(block.list) do
    local from = math.max(offset, r.offset)
    local to = math.min(offset + size, r.offset + r.width)
    if from < to then fn(r, from - r.offset, to - from, from - offset) end
  end
end

---A part of a register reads as those bytes of it; between registers lie ones.
local function read_parts(d, block, offset, size)
  local value = mask(size)
  each_register(block, offset, size, function(r, first, bytes, at)
    local part = read_whole(d, block, r, bytes) >> 8 * first & mask(bytes)
    value = value & ~(mask(bytes) << 8 * at) | part << 8 * at
  end)
  return value & mask(size)
end

---A part of a register that is written is the whole one with these bytes changed.
local function write_parts(d, block, offset, value, size)
  each_register(block, offset, size, function(r, first, bytes, at)
    local part = value >> 8 * at & mask(bytes)
    local whole = value_of(d, r) & ~(mask(bytes) << 8 * first) | part << 8 * first
    write_whole(d, block, r, whole & mask(r.width), bytes)
  end)
end

---Handlers of a device's accesses to a block by offset; that of exactly one register is the quick
---case.
---@param d minikvm.device
---@param block minikvm.block
---@return fun(offset: integer, size: integer): integer read
---@return fun(offset: integer, value: integer, size: integer) write
function M.handlers(d, block)
  local exact = {}
  for _, r in ipairs(block.list) do exact[r.offset] = r end
  return function(offset, size)
    local r = exact[offset]
    if r and r.width == size then return read_whole(d, block, r, size) end
    return read_parts(d, block, offset, size)
  end, function(offset, value, size)
    local r = exact[offset]
    if r and r.width == size then return write_whole(d, block, r, value, size) end
    return write_parts(d, block, offset, value, size)
  end
end

return M
