-- options.lua - checks option tables: a wrong key or value is an error that says what was meant.
--
-- Everything that takes a table of options goes through check(): what comes out has only known
-- keys, of the right types, sizes as integers. Misuse is blamed on the script's line, however deep
-- in minikvm's own Lua parts it is found.

local core = require "minikvm.core"

local M = {}

---The schemas that declare() was told, by whose options they are.
---@type table<string, table>
M.schemas = {}

local UNITS = { [""] = 0, K = 10, M = 20, G = 30 }

---Edits between two words: insert, remove, replace a letter, swap two neighbours.
---@param a string
---@param b string
---@return integer
local function distance(a, b)
  local before, last
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    before, last, row = last, row, { [0] = i }
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
  end
  return row[#b]
end

---The word of a list that somebody meant who wrote `word`: one edit away (two for six letters and
---more), or beginning with it; nil when none is close.
---@param word string
---@param list string[]
---@return string?
function M.nearest(word, list)
  local best, best_distance = nil, math.min(2, #word // 3) + 1
  for _, candidate in ipairs(list) do
    if math.abs(#word - #candidate) < best_distance then -- it takes that many edits at least
      local d = distance(word:lower(), candidate:lower())
      if d < best_distance then best, best_distance = candidate, d end
    end
  end
  if best or #word < 3 then return best end
  for _, candidate in ipairs(list) do
    if candidate:sub(1, #word) == word then return candidate end
  end
end

---" (did you mean 'word'?)" or "": the end of a message about an unknown word.
---@param word string
---@param list string[]
---@param quote? string  a format for the word, "'%s'" by default
---@return string
function M.hint(word, list, quote)
  local meant = M.nearest(word, list)
  return meant and (" (did you mean " .. (quote or "'%s'") .. "?)"):format(meant) or ""
end

---A value for messages: short, on one line.
local function show(value)
  if type(value) == "string" then
    local text = ("%q"):format(#value > 40 and value:sub(1, 37) .. "..." or value)
    return (text:gsub("\\\n", "\\n"))
  elseif type(value) == "number" or type(value) == "boolean" then
    return type(value) == "number" and "the number " .. tostring(value) or tostring(value)
  end
  return "a " .. type(value)
end

---The integer that text of decimal or hexadecimal digits stands for; nil when that does not fit.
---@param text string  "-7", "0x7c00"
---@return integer?
function M.to_integer(text)
  local digits = text:match "^0[xX]0*(%x+)$" -- tonumber() forgets those above 64 bits
  local known = digits and #digits <= 16 or text:find "^%-?%d+$"
  return known and math.tointeger(tonumber(text)) or nil
end

local SIZE = 'a size in bytes (a positive integer or "256K", "4M", "1G")'

---Bytes of a size given as a positive integer or as text: "4096", "0x1000", "256K", "4M", "1G".
---@param size integer|string
---@return integer? bytes
---@return string? why
function M.size(size)
  if math.type(size) == "integer" and size > 0 then return size end
  local digits, unit
  if type(size) == "string" then
    digits, unit = size:match("^(%d+)([KMGkmg]?)$")
    if not digits and size:match("^0[xX]%x+$") and #size <= 18 then digits, unit = size, "" end
  end
  local number, shift = digits and tonumber(digits), unit and UNITS[unit:upper()]
  if not number or number == 0 then
    return nil, ("expected %s, got %s"):format(SIZE, show(size))
  elseif math.type(number) ~= "integer" or number < 0 or number > math.maxinteger >> shift then
    return nil, ("%s is too large a size"):format(show(size))
  end
  return number << shift
end

local function of_type(name, article)
  return function(value)
    if type(value) == name then return value end
    return nil, ("expected %s, got %s"):format(article, show(value))
  end
end

---A rule for integers in a range.
---@param low integer
---@param high integer
---@param what? string  for messages: "an integer of 1 to 64"
---@return fun(value: any): integer?, string?
function M.between(low, high, what)
  what = what or ("an integer of %d to %d"):format(low, high)
  return function(value)
    local integer = type(value) == "number" and math.tointeger(value)
    if integer and low <= integer and integer <= high then return integer end
    return nil, ("expected %s, got %s"):format(what, tostring(value))
  end
end

local function is_of_kind(value, kind)
  return core.kind(value) == kind or type(value) == "table" and getmetatable(value) == kind
end

---A rule for objects of a kind.
---@param kind string  "minikvm.disk": of the core's userdata, or of a class
---@param what string  for messages: "a disk of kvm.disk"
---@return fun(value: any): any, string?
function M.object(kind, what)
  return function(value)
    if is_of_kind(value, kind) then return value end
    return nil, ("expected %s, got a %s"):format(what, type(value))
  end
end

---Checkers by type word: value -> value, or nil and what is wrong with it.
local CHECKS = {
  string = of_type("string", "a string"),
  text = function(value)
    if type(value) == "string" and not value:find("\0", 1, true) then return value end
    return nil, ("expected a string without NUL bytes, got %s"):format(show(value))
  end,
  boolean = of_type("boolean", "true or false"),
  ["function"] = of_type("function", "a function"),
  table = of_type("table", "a table"),
  permissions = M.between(0, 4095, "permissions (0 to 07777)"),
  size = M.size,
  any = function(value) return value end,
  integer = function(value)
    local integer = type(value) == "number" and math.tointeger(value)
    if integer then return integer end
    return nil, ("expected an integer, got %s"):format(show(value))
  end,
  address = function(value)
    if math.type(value) == "integer" and value >= 0 then return value end
    return nil, ("expected an address (an integer, 0 or more), got %s"):format(tostring(value))
  end,
  seconds = function(value)
    if type(value) == "number" and value >= 0 and value < math.huge then return value end
    return nil, ("expected seconds (a number, 0 or more), got %s"):format(show(value))
  end,
}

local function check_word(value, words)
  for _, word in ipairs(words) do
    if value == word then return value end
  end
  local known = {}
  for i, word in ipairs(words) do known[i] = ("%q"):format(word) end
  local hint = type(value) == "string" and M.hint(value, words, "%q") or ""
  return nil, ("expected %s, got %s%s"):format(table.concat(known, " or "), show(value), hint)
end

---Checks one value. false is a value: nil alone means "wrong".
local function check_value(value, rule, key)
  if type(rule) == "string" then
    return assert(CHECKS[rule], "unknown type in a schema: " .. rule)(value)
  elseif type(rule) == "function" then
    local checked, why = rule(value, key)
    if checked == nil then return nil, why or ("%s does not fit"):format(show(value)) end
    return checked
  end
  return check_word(value, rule)
end

---The keys of a table, which are strings or numbers, in order.
---@param map table
---@return any[]
function M.keys(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

---"'memory'" for a name, "[1]" for anything else.
local function show_key(prefix, key)
  if type(key) == "string" then return ("'%s%s'"):format(prefix, key) end
  return ("[%s]"):format(tostring(key))
end

local function unknown_key(where, prefix, key, schema)
  local hint = ""
  local remedy = type(key) == "string" and prefix == ""
    and require("minikvm.guesses").remedy(where, "options", key)
  if remedy then
    hint = (" (use %s)"):format(remedy)
  elseif type(key) == "string" then
    hint = M.hint(key, M.keys(schema), "'" .. prefix:gsub("%%", "%%%%") .. "%s'")
  end
  return ("%s: unknown option %s%s"):format(where, show_key(prefix, key), hint)
end

local function is_nested(rule)
  return type(rule) == "table" and rule[1] == nil
end

local check_table

---Checks the value of one key; returns it, or nil and a message.
local function check_entry(where, value, rule, prefix, key)
  local result, why
  if not is_nested(rule) then
    result, why = check_value(value, rule, key)
  elseif type(value) == "table" then
    return check_table(where, value, rule, prefix .. key .. ".")
  else
    why = ("expected a table, got %s"):format(show(value))
  end
  if result ~= nil then return result end
  return nil, ("%s: option %s: %s"):format(where, show_key(prefix, key), why)
end

---Returns a checked copy, or nil and a message.
function check_table(where, opts, schema, prefix)
  local checked = {}
  for key, value in pairs(opts) do
    local rule = schema[key]
    if rule == nil then return nil, unknown_key(where, prefix, key, schema) end
    local result, why = check_entry(where, value, rule, prefix, key)
    if result == nil then return nil, why end
    checked[key] = result
  end
  return checked
end

---Names a schema, so that guesses.lua, the types and the reference can be checked against it.
---@param where string  whose options they are, as check() is told
---@param schema table
---@param ... table  schemas whose rules it takes over
---@return table schema
function M.declare(where, schema, ...)
  for _, other in ipairs{ ... } do
    for key, rule in pairs(other) do schema[key] = rule end
  end
  M.schemas[where] = schema
  return schema
end

---Checks a table of options against a schema and returns a checked copy; raises when it does not
---fit. A schema gives a rule for each key: "string", "text" (a string that C reads up to its NUL),
---"boolean", "integer", "function", "table", "any", "size" (integer bytes, or text such as "4M";
---comes out as an integer), "address" (an integer >= 0), "permissions" (of a file), "seconds" (a
---number >= 0), a list of words of which the value must be one, a function(value, key) that returns
---the value or nil and a message, or a schema of its own for a table within the table.
---@param where string  the function the caller called, for messages: "kvm.vm"
---@param opts table?  nil counts as no options
---@param schema table<string, string|string[]|function|table>
---@return table
function M.check(where, opts, schema)
  if opts == nil then return {} end
  if type(opts) ~= "table" then
    core.blame(("%s: expected a table of options, got %s"):format(where, show(opts)))
  end
  local checked, why = check_table(where, opts, schema, "")
  return checked or core.blame(why)
end

---Checks one argument of a function by a rule as in a schema, and returns it; raises when it does
---not fit.
---@param where string  the function the caller called: "console:sendline"
---@param name string  the argument's
---@param value any
---@param rule string|string[]|function
---@return any
function M.argument(where, name, value, rule)
  local checked, why = check_value(value, rule, name)
  if checked == nil then core.blame(("%s: '%s': %s"):format(where, name, why)) end
  return checked
end

---Raises unless `self` is an object of a kind, which a method called with '.' mostly is not.
---@param where string  the method the caller called: "console:sendline"
---@param self any
---@param kind string  "minikvm.vm": of the core's userdata, or of a class
function M.self(where, self, kind)
  if is_of_kind(self, kind) then return end
  core.blame(("call %s with ':' (%s(...))"):format(where:match "[^:]*$", where))
end

---What was raised as text, without the place that Lua has put before it: to be blamed on another
---line.
---@param problem any
---@return string
function M.without_place(problem)
  return (tostring(problem):gsub("^[^\n]-%.lua:%d+: ", ""))
end

return M
