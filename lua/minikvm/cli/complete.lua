-- cli/complete.lua - what Tab offers at the prompt: commands, names, fields and methods, symbols of
-- the guest, files.
--
-- What stands before the cursor is looked at, never run: tables are read raw, and of objects only
-- minikvm's own are asked for a field. An answer is bounded (MOST).

local M = {}

local MOST <const> = 200

local KEYWORDS <const> = [[and break do else elseif end false for function goto if in local nil not
  or repeat return then true until while]]

-- ---- lists ----

---@class minikvm.completion
---@field prefix string
---@field words string[]
---@field known table<string, true>

local function offer(list, word)
  if #list.words >= MOST or list.known[word] or word:sub(1, #list.prefix) ~= list.prefix then
    return
  end
  list.known[word] = true
  list.words[#list.words + 1] = word
end

local function is_name(key) return type(key) == "string" and key:find "^[%a_][%w_]*$" end

-- ---- what a value has ----

---Goes through a table and those that it inherits from, raw: fn(key, value).
local function each_raw(t, fn)
  for _ = 1, 8 do
    for key, value in next, t do fn(key, value) end
    local meta = debug.getmetatable(t)
    t = type(meta) == "table" and rawget(meta, "__index")
    if type(t) ~= "table" then return end
  end
end

local function offer_object(list, value, methods)
  local core = require "minikvm.core"
  local kind = core.kind(value)
  if not kind or not kind:find "^minikvm%." then return end
  if methods then
    each_raw(core.methods(kind), function(key) if is_name(key) then offer(list, key) end end)
  else
    for _, key in ipairs(require("minikvm.strict").fields(kind)) do offer(list, key) end
  end
end

---Names behind `value.` or `value:`, those that are not for everybody left out.
local function offer_fields(list, value, methods)
  if type(value) == "userdata" then return offer_object(list, value, methods) end
  if type(value) == "string" then value = string end
  if type(value) ~= "table" then return end
  local hidden = list.prefix:sub(1, 1) ~= "_"
  each_raw(value, function(key, field)
    if is_name(key) and not (hidden and key:sub(1, 1) == "_")
       and (not methods or type(field) == "function") then
      offer(list, key)
    end
  end)
end

---A field, without running any code of the user's; nil when that cannot be.
local function field_of(value, key)
  if type(value) == "userdata" then
    local core = require "minikvm.core"
    local kind = core.kind(value)
    local ok, field = pcall(function() return kind:find "^minikvm%." and value[key] end)
    return ok and field or nil
  elseif type(value) ~= "table" then
    return nil
  end
  local found
  each_raw(value, function(k, field) if k == key and found == nil then found = field end end)
  if found == nil and math.type(key) == "integer" then -- vm.cpu[0]: the core's
    local meta = debug.getmetatable(value)
    local own = type(meta) == "table" and rawget(meta, "__name")
    if type(own) == "string" and own:find "^minikvm" then
      local ok, field = pcall(function() return value[key] end)
      found = ok and field or nil
    end
  end
  return found
end

-- ---- what stands before the cursor ----

---The value that a chain of names, fields and literal indices stands for.
local function value_of(chain)
  local name, rest = chain:match "^([%a_][%w_]*)(.*)$"
  local value = name and rawget(_G, name)
  while value ~= nil and rest ~= "" do
    local key, more = rest:match "^[.:]([%a_][%w_]*)(.*)$"
    if not key then
      local index
      index, more = rest:match "^%[([^%]]*)%](.*)$"
      key = index and (math.tointeger(tonumber(index)) or index:match "^['\"](.*)['\"]$")
    end
    if key == nil then return nil end
    value, rest = field_of(value, key), more
  end
  return value
end

---The quote that is open at the end of a line, and where; nil when none is.
local function open_quote(line)
  local quote, at, i = nil, nil, 1
  while i <= #line do
    local c = line:sub(i, i)
    if quote and c == "\\" then
      i = i + 1
    elseif quote and c == quote then
      quote = nil
    elseif not quote and (c == '"' or c == "'") then
      quote, at = c, i
    end
    i = i + 1
  end
  return quote and at
end

-- ---- kinds of words ----

local function offer_symbols(list)
  local vm = rawget(_G, "vm")
  local core = require "minikvm.core"
  if core.kind(vm) ~= "minikvm.vm" or vm.state == "closed" then return end
  local names = {}
  for name in pairs(vm.symbols) do
    if name:sub(1, #list.prefix) == list.prefix then names[#names + 1] = name end
  end
  table.sort(names)
  for _, name in ipairs(names) do offer(list, name) end
end

local function offer_files(list)
  local found, lfs = pcall(require, "lfs")
  if not found then return end
  local folder, start = list.prefix:match "^(.*/)([^/]*)$"
  folder, start = folder or "", start or list.prefix
  local place = folder == "" and "." or (folder:gsub("^~/", (os.getenv "HOME" or "~") .. "/"))
  local ok, iterate, dir = pcall(lfs.dir, place)
  for name in ok and iterate or function() end, dir do
    if name:sub(1, #start) == start and (start ~= "" or name:sub(1, 1) ~= ".")
       and name ~= "." and name ~= ".." then
      local is_folder = lfs.attributes(place .. "/" .. name, "mode") == "directory"
      offer(list, folder .. name .. (is_folder and "/" or ""))
    end
  end
end

local function offer_globals(list)
  for word in KEYWORDS:gmatch "%a+" do offer(list, word) end
  for key in next, _G do
    if is_name(key) then offer(list, key) end
  end
end

local OFFERS <const> = { symbols = offer_symbols, files = offer_files, globals = offer_globals }

local function new_list(prefix) return { prefix = prefix, words = {}, known = {} } end

---What may replace the end of the line, and how many bytes of it.
local function candidates(line, commands)
  local quote = open_quote(line)
  if quote then
    local list = new_list(line:sub(quote + 1))
    offer_symbols(list)
    offer_files(list)
    return list
  end
  local first, rest = line:match "^%s*([%a_]+)%s+(.*)$"
  local kinds = first and commands and commands.arguments(line)
  if kinds then
    local list = new_list(rest:match "[^%s]*$")
    for _, kind in ipairs(kinds) do OFFERS[kind](list) end
    if list.words[1] then return list end
  end
  local chain, mark, part = line:match "([%a_][%w_.:%[%]'\"]*)([.:])([%w_]*)$"
  local list = new_list(part or line:match "[%a_][%w_]*$" or "")
  if chain then
    offer_fields(list, value_of(chain), mark == ":")
    if mark == "." and #list.words == 0 then offer_fields(list, value_of(chain), true) end
  elseif not line:find "[.:][%w_]*$" then
    if commands and line:find "^%s*[%a_]*$" then
      for _, name in ipairs(commands.names()) do offer(list, name) end
    end
    offer_globals(list)
  end
  return list
end

---What Tab offers at the end of `line` in place of its part `text`, which libedit has cut off at
---its own word boundaries: words that begin with it, sorted.
---@param line string  up to the cursor
---@param text string
---@param commands table?  cli/commands.lua
---@return string[]
function M.words(line, text, commands)
  local list = candidates(line, commands)
  table.sort(list.words)
  local words, extra = {}, #text - #list.prefix
  local head = extra > 0 and text:sub(1, extra) or ""
  for i, word in ipairs(list.words) do
    words[i] = head .. (extra < 0 and word:sub(1 - extra) or word)
  end
  return words
end

return M
