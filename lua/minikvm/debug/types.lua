-- debug/types.lua - types of C and values of them as text: int, struct point *, char [16].
--
-- Types come from a file, where they may refer to themselves in a circle: how deep one is followed
-- is limited, and so is how much of a value is shown. DWARF 5, chapter 5.

local dies = require "minikvm.debug.dies"

local M = {}

local DEEPEST <const> = 24 -- types that refer to one another
local LEVELS <const> = 3 -- structures in structures that are shown
local ELEMENTS <const>, TEXT <const> = 8, 40 -- that are shown of an array; of a string
M.LARGEST = 4096 -- bytes of a value that are read

-- By debugging information, what is known of its types.
local known = setmetatable({}, { __mode = "k" })

---@class minikvm.type
---@field kind string  "base", "pointer", "struct", "union", "enum", "array", "typedef", …
---@field name string?
---@field size integer?
---@field encoding integer?
---@field of integer?
---@field members table[]?
---@field counts integer[]?
---@field values table[]?

---@param number integer?  nil is void
---@return minikvm.type
function M.of(info, number)
  if not number then return { kind = "void", name = "void" } end
  known[info] = known[info] or {}
  local types = known[info]
  types[number] = types[number] or dies.type(info, number)
  return types[number]
end

local THROUGH <const> = { typedef = true, const = true, volatile = true, qualified = true }

---The type that a name or a qualifier stands for.
local function strip(info, number)
  local t = M.of(info, number)
  for _ = 1, DEEPEST do
    if not THROUGH[t.kind] then return t end
    t = M.of(info, t.of)
  end
  return { kind = "other", name = "a type that is defined by itself" }
end

M.strip = strip

---How many bytes a value has; nil when that is not known.
---@return integer?
function M.size(info, number, bits, depth)
  local t = strip(info, number)
  if t.size then return t.size end
  if t.kind == "pointer" then return bits // 8 end
  if t.kind ~= "array" or (depth or 0) > DEEPEST then return nil end
  local size = M.size(info, t.of, bits, (depth or 0) + 1)
  for _, count in ipairs(t.counts) do
    if not size or count < 0 or count > M.LARGEST then return nil end
    size = size * count
  end
  return size
end

local PREFIX <const> = { struct = "struct ", union = "union ", enum = "enum " }

---A type as C writes it.
---@return string
function M.name(info, number, depth)
  depth = (depth or 0) + 1
  if depth > DEEPEST then return "…" end
  local t = M.of(info, number)
  if t.kind == "pointer" then
    local inner = M.name(info, t.of, depth)
    return inner .. (inner:find "%*$" and "*" or " *")
  elseif t.kind == "array" then
    local parts = {}
    for i, count in ipairs(t.counts) do parts[i] = ("[%s]"):format(count < 0 and "" or count) end
    return M.name(info, t.of, depth) .. " " .. table.concat(parts)
  elseif t.kind == "const" or t.kind == "volatile" then
    return t.kind .. " " .. M.name(info, t.of, depth)
  elseif t.kind == "qualified" then
    return M.name(info, t.of, depth)
  elseif t.kind == "function" then
    return M.name(info, t.of, depth) .. " ()"
  end
  return (PREFIX[t.kind] or "") .. (t.name or "(unnamed)")
end

-- ---- values ----

---@class minikvm.types.context
---@field info minikvm.dwarf
---@field bits 32|64
---@field bytes fun(address: integer, length: integer): string
---@field place fun(address: integer): string?  function and line

local BOOLEAN <const>, FLOAT <const>, SIGNED <const>, SIGNED_CHAR <const>, CHAR <const> =
  2, 4, 5, 6, 8

local INTEGER <const> = { "1", "2", [4] = "4", [8] = "8" }

local function quoted(text)
  return '"' .. text:gsub("[%c\x7f-\xff\"\\]", function(c)
    return c == "\n" and "\\n" or ("\\x%02x"):format(c:byte())
  end) .. '"'
end

local function of_base(t, bytes)
  if t.encoding == FLOAT and (#bytes == 4 or #bytes == 8) then
    local value = (#bytes == 4 and "<f" or "<d"):unpack(bytes)
    return value, ("%.6g"):format(value)
  elseif not INTEGER[#bytes] then
    local digits = bytes:reverse():gsub(".", function(b) return ("%02x"):format(b:byte()) end)
    return bytes, "0x" .. digits
  end
  local signed = t.encoding == SIGNED or t.encoding == SIGNED_CHAR or #bytes == 8
  local value = ((signed and "<i" or "<I") .. INTEGER[#bytes]):unpack(bytes)
  if t.encoding == BOOLEAN then return value ~= 0, value ~= 0 and "true" or "false" end
  local is_char = t.encoding == SIGNED_CHAR or t.encoding == CHAR
  local large = value < 0 and t.encoding ~= SIGNED and not is_char -- beyond what Lua writes so
  local text = (large and "0x%x" or "%d"):format(value)
  if is_char and value >= 32 and value < 127 then text = ("%s '%c'"):format(text, value) end
  return value, text
end

local function is_char(context, number)
  local t = strip(context.info, number)
  return t.kind == "base" and t.size == 1 and (t.encoding == CHAR or t.encoding == SIGNED_CHAR)
end

local function of_pointer(context, t, bytes)
  local value = (context.bits == 64 and "<i8" or "<I4"):unpack(bytes)
  local text = ("0x%x"):format(value)
  if value == 0 then return value, "NULL" end
  if is_char(context, t.of) then
    local from = context.bytes(value, TEXT + 1)
    local last = from:find("\0", 1, true)
    if from ~= "" then
      text = ("%s %s%s"):format(text, quoted(from:sub(1, last and last - 1 or TEXT)),
                                last and "" or "…")
    end
  elseif strip(context.info, t.of).kind == "function" then
    local place = context.place(value)
    if place then text = ("%s %s"):format(text, place) end
  end
  return value, text
end

local function of_enum(t, bytes)
  local value, text = of_base({ encoding = SIGNED }, bytes)
  for _, one in ipairs(t.values) do
    if one.value == value then return value, one.name or text end
  end
  return value, text
end

local of_bytes

---The bits of a member that has less than its type; nil: it is a whole one.
local function bit_field(context, member, bytes)
  local count = member.bit_size
  if not count then return nil end
  local from = member.data_bit_offset
  if not from then
    local size = member.size or M.size(context.info, member.type, context.bits) or 4
    from = (member.offset or 0) * 8 + size * 8 - (member.bit_offset or 0) - count
  end
  local first, value = from // 8, 0
  local part = bytes:sub(first + 1, (from + count - 1) // 8 + 1)
  if #part > 8 or part == "" or count > 64 then return 0 end
  for i = #part, 1, -1 do value = value << 8 | part:byte(i) end
  value = value >> (from % 8)
  return count == 64 and value or value & (1 << count) - 1
end

local function of_struct(context, t, bytes, level)
  if level > LEVELS then return nil, "{…}" end
  local value, parts = {}, {}
  for i, member in ipairs(t.members) do
    local name, bits = member.name or "", bit_field(context, member, bytes)
    local text = bits and ("%d"):format(bits)
    value[name] = bits
    if not bits then
      local size, from = M.size(context.info, member.type, context.bits) or 0, member.offset or 0
      local part = bytes:sub(from + 1, from + size)
      value[name], text = of_bytes(context, member.type, part, level + 1)
    end
    if i <= 2 * ELEMENTS then parts[#parts + 1] = ("%s = %s"):format(name, text) end
  end
  if #t.members > 2 * ELEMENTS then parts[#parts + 1] = "…" end
  return value, ("{ %s }"):format(table.concat(parts, ", "))
end

local function of_array(context, t, bytes, level)
  local size = M.size(context.info, t.of, context.bits)
  if not size or size == 0 then return nil, "[]" end
  if is_char(context, t.of) then
    local last = bytes:find("\0", 1, true)
    local text = bytes:sub(1, last and last - 1 or #bytes)
    return text, quoted(text:sub(1, TEXT)) .. (#text > TEXT and "…" or "")
  elseif level > LEVELS then
    return nil, "[…]"
  end
  local value, parts, count = {}, {}, #bytes // size
  for i = 1, count do
    local text
    value[i], text = of_bytes(context, t.of, bytes:sub((i - 1) * size + 1, i * size), level + 1)
    if i <= ELEMENTS then parts[i] = text end
  end
  if count > ELEMENTS then parts[#parts + 1] = "…" end
  return value, ("{ %s }"):format(table.concat(parts, ", "))
end

---A value of a type: what Lua has of it, and as text.
---@param context minikvm.types.context
---@param number integer?  the type
---@param bytes string
---@param level integer  of structures around it, from 1
---@return any value
---@return string text
function of_bytes(context, number, bytes, level)
  local t = strip(context.info, number)
  local size = M.size(context.info, number, context.bits)
  if not size then return nil, "a value of unknown size" end
  if #bytes < size then return nil, "in memory that is not mapped" end
  if t.kind == "base" then return of_base(t, bytes) end
  if t.kind == "pointer" and size == context.bits // 8 then return of_pointer(context, t, bytes) end
  if t.kind == "enum" and INTEGER[size] then return of_enum(t, bytes) end
  if t.kind == "struct" or t.kind == "union" then return of_struct(context, t, bytes, level) end
  if t.kind == "array" then return of_array(context, t, bytes, level) end
  return bytes, ("%d bytes"):format(size)
end

M.of_bytes = of_bytes

return M
