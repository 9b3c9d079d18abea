-- json_read.lua - JSON text (RFC 8259) as values. An object is a table, an array one that
-- json.list() made, null is json.null.
--
-- A text may be of anybody's making: what is wrong is refused with the place and the reason.
-- Limits: 64 levels; numbers are 64-bit integers or doubles.

local json = require "minikvm.json"

local M = {}

local DEEPEST <const> = 64

local WORDS <const> = { ["true"] = true, ["false"] = false, null = json.null }
local UNESCAPED <const> = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n",
                            r = "\r", t = "\t" }

local function fail(at, why) error({ at = at, why = why }, 0) end

local function skip_blanks(text, at) return text:match("^[ \t\r\n]*()", at) end

---The character of \uXXXX at this place, with its other half if it has one, and what follows.
local function unicode(text, at)
  local code = tonumber(text:match("^\\u(%x%x%x%x)", at) or fail(at, "a wrong escape"), 16)
  local low = code >= 0xd800 and code < 0xdc00 and text:match("^\\u(%x%x%x%x)", at + 6)
  low = low and tonumber(low, 16)
  if low and low >= 0xdc00 and low < 0xe000 then
    return utf8.char(0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00)), at + 12
  end
  if code >= 0xd800 and code < 0xe000 then code = 0xfffd end
  return utf8.char(code), at + 6
end

local function read_string(text, at)
  local parts = {}
  at = at + 1
  while true do
    local plain, next_at = text:match('^([^"\\%c]*)()', at)
    parts[#parts + 1], at = plain, next_at
    local c = text:sub(at, at)
    if c == '"' then return table.concat(parts), at + 1 end
    if c ~= "\\" then fail(at, c == "" and "a string without its end" or "a control character") end
    local short = UNESCAPED[text:sub(at + 1, at + 1)]
    if short then
      parts[#parts + 1], at = short, at + 2
    else
      parts[#parts + 1], at = unicode(text, at)
    end
  end
end

local function read_number(text, at)
  local whole, after = text:match("^(%-?%d+)()", at)
  if not whole or whole:find "^%-?0%d" then fail(at, "no value") end
  after = text:match("^%.%d+()", after) or after
  after = text:match("^[eE][+-]?%d+()", after) or after
  local digits = text:sub(at, after - 1)
  return math.tointeger(tonumber(digits)) or tonumber(digits), after
end

local read

---Items between two brackets: calls item(at) for each, which returns the place behind it.
local function read_items(text, at, close, item)
  at = skip_blanks(text, at + 1)
  if text:sub(at, at) == close then return at + 1 end
  while true do
    at = skip_blanks(text, item(at))
    local c = text:sub(at, at)
    if c == close then return at + 1 end
    if c ~= "," then fail(at, ("expected , or %s"):format(close)) end
    at = at + 1
  end
end

local function read_list(text, at, depth)
  local list = json.list{}
  return list, read_items(text, at, "]", function(from)
    list[#list + 1], from = read(text, from, depth)
    return from
  end)
end

local function read_object(text, at, depth)
  local object = {}
  return object, read_items(text, at, "}", function(from)
    from = skip_blanks(text, from)
    if text:sub(from, from) ~= '"' then fail(from, "expected a key in quotes") end
    local key
    key, from = read_string(text, from)
    from = skip_blanks(text, from)
    if text:sub(from, from) ~= ":" then fail(from, "expected :") end
    object[key], from = read(text, from + 1, depth)
    return from
  end)
end

function read(text, at, depth)
  at = skip_blanks(text, at)
  if depth == DEEPEST then fail(at, ("more than %d levels"):format(DEEPEST)) end
  local c = text:sub(at, at)
  if c == '"' then return read_string(text, at) end
  if c == "[" then return read_list(text, at, depth + 1) end
  if c == "{" then return read_object(text, at, depth + 1) end
  local word, after = text:match("^(%l+)()", at)
  if word and WORDS[word] ~= nil then return WORDS[word], after end
  return read_number(text, at)
end

---The value of a JSON text; nil and what is wrong with it.
---@param text string
---@return any
---@return string? why  "byte 17: expected :"
function M.decode(text)
  local done, value, at = pcall(read, text, 1, 0)
  if done then
    at = skip_blanks(text, at)
    if at > #text then return value end
    value = { at = at, why = "something follows the value" }
  end
  if type(value) ~= "table" or not value.at then error(value, 0) end
  return nil, ("byte %d: %s"):format(value.at, value.why)
end

return M
