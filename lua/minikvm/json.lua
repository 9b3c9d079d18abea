-- json.lua - values as JSON text (RFC 8259): traces, `vm:stats():json()` and what --json prints.
--
-- Keys are sorted, so the same value is the same text. What JSON has no number for, infinity and
-- "not a number", is null. Addresses and registers are given as text, by hex(): most readers of
-- JSON have doubles, which do not hold 64 bits.

local M = {}

local ESCAPES <const> = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\t"] = "\\t" }
local LIST <const> = {} -- the metatable of what list() made

---What an object has for a value that is not there.
M.null = setmetatable({}, { __name = "null" })

---A JSON string; bytes of a text that is not UTF-8 are taken for Latin-1.
---@param text string
---@return string
function M.quoted(text)
  local pattern = utf8.len(text) and '[%c"\\\x7f]' or '[%c"\\\x7f-\xff]'
  return '"' .. text:gsub(pattern, function(c)
    return ESCAPES[c] or ("\\u%04x"):format(c:byte())
  end) .. '"'
end

---A number of 64 bits as the text that stands for it: "0x7c00".
---@param value integer
---@return string
function M.hex(value) return ("0x%x"):format(value) end

---Makes a table a list, also when it is empty.
---@param values table
---@return table values
function M.list(values) return setmetatable(values, LIST) end

local function number(value)
  if math.type(value) == "integer" then return ("%d"):format(value) end
  if value ~= value or value == math.huge or value == -math.huge then return "null" end
  local text = ("%.14g"):format(value)
  if tonumber(text) ~= value then text = ("%.17g"):format(value) end
  return (text:gsub(",", ".")) -- of some locales
end

local encode

local function list_of(values)
  local parts = {}
  for i, value in ipairs(values) do parts[i] = encode(value) end
  return "[" .. table.concat(parts, ",") .. "]"
end

local function object_of(values)
  local keys, parts = {}, {}
  for key in pairs(values) do keys[#keys + 1] = key end
  table.sort(keys)
  for i, key in ipairs(keys) do parts[i] = M.quoted(key) .. ":" .. encode(values[key]) end
  return "{" .. table.concat(parts, ",") .. "}"
end

local ENCODERS <const> = {
  string = M.quoted, number = number, boolean = tostring,
  table = function(value)
    if rawequal(value, M.null) then return "null" end
    return (value[1] ~= nil or getmetatable(value) == LIST) and list_of(value) or object_of(value)
  end,
}

---A value as JSON, on one line. Tables with a first element are lists, others objects with keys
---that are strings.
---@param value string|number|boolean|table
---@return string
function M.encode(value)
  return ENCODERS[type(value)](value)
end
encode = M.encode

return M
