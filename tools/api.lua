#!/usr/bin/env lua5.4
-- The public Lua API as data, out of the definitions for editors in types/ (LuaCATS annotations),
-- and the tables of docs/lua-api.md made from it.
--
--   lua5.4 tools/api.lua    rewrites what stands between `<!-- types: … -->` and `<!-- end -->`
--
-- spec/lua/types_spec.lua loads this file for the same data. It knows the part of LuaCATS that is
-- used here; anything else in types/ is an error that names the line.

local M = {}

local FOLDER <const> = "types"

-- ---- types ----

local BUILTIN <const> = {}
for name in ([[any nil boolean string number integer function table userdata true false self T
              ]]):gmatch "%S+" do
  BUILTIN[name] = true
end

local type_at

---After a list of types between commas: the position behind it.
local function types_until(s, at, closing, used)
  while true do
    at = type_at(s, s:match("^%s*()", at), used)
    local comma = s:match("^%s*,()", at)
    if not comma then
      return s:match("^%s*" .. closing .. "()", at) or error("expected " .. closing .. " in " .. s)
    end
    at = comma
  end
end

---fun(name?: type, ...: type): type, type
local function function_at(s, at, used)
  at = s:match("^%(%s*()", at) or error("expected ( in " .. s)
  while not s:find("^%)", at) do
    at = s:match("^[%w_]+%??%s*()", at) or s:match("^%.%.%.%s*()", at)
      or error("a parameter is wrong in " .. s)
    local colon = s:match("^:%s*()", at)
    if colon then at = type_at(s, colon, used) end
    at = s:match("^%s*,%s*()", at) or at
  end
  at = at + 1
  local result = s:match("^:%s*()", at)
  while result do
    at = type_at(s, result, used)
    result = s:match("^,%s*()", at)
  end
  return at
end

local function one_type_at(s, at, used)
  local next = s:match('^"[^"]*"()', at) or s:match("^%d+()", at)
  if next then return next end
  next = s:match("^%(()", at)
  if next then return s:match("^%)()", type_at(s, next, used)) or error("expected ) in " .. s) end
  next = s:match("^%[()", at)
  if next then return types_until(s, next, "%]", used) end
  if s:find("^fun%(", at) then return function_at(s, at + 3, used) end
  local name, after = s:match("^([%a_][%w_.]*)()", at)
  if not name then error("there is no type at " .. s:sub(at)) end
  used[#used + 1] = name
  next = s:match("^<()", after)
  return next and types_until(s, next, ">", used) or after
end

---The position behind the type at one; names that occur go into `used`.
function type_at(s, at, used)
  while true do
    at = one_type_at(s, at, used)
    while s:find("^%[%]", at) or s:find("^%?", at) do
      at = at + (s:sub(at, at) == "?" and 1 or 2)
    end
    local more = s:match("^|()", at)
    if not more then return at end
    at = more
  end
end

---A type and the text behind it.
local function split_type(s, used)
  local stop = type_at(s, 1, used)
  local text = s:sub(stop)
  if text ~= "" and not text:find "^%s" then error("a type goes on strangely: " .. s) end
  return s:sub(1, stop - 1), (text:gsub("^%s+", ""))
end

-- ---- annotations ----

---@class api.entry
---@field name string
---@field type string?
---@field optional boolean?
---@field private boolean?
---@field text string

---@class api.class
---@field name string  "minikvm.vm"
---@field module string?  what require() takes, of a class that a file returns
---@field file string
---@field parents string[]
---@field text string
---@field options_of string[]  names of schemas: "kvm.vm"
---@field fields api.entry[]
---@field methods table[]  { name=, params=, returns=, text=, colon= }

local TAGS <const> = {}

function TAGS.class(state, rest)
  local name, parents = rest:match "^([%w_.]+)%s*:?%s*(.*)$"
  local class = { name = name, file = state.file, parents = {}, text = state.text(), fields = {},
                  methods = {}, options_of = {}, operators = {} }
  for parent in parents:gmatch "[%w_.]+" do class.parents[#class.parents + 1] = parent end
  local rest_of = class.text:match "Options of (`.*)"
  while rest_of do
    local schema, more = rest_of:match "^`([^`]+)`(.*)$"
    class.options_of[#class.options_of + 1] = schema
    rest_of = more and (more:match "^ and (`.*)" or more:match "^, (`.*)")
  end
  if state.api.classes[name] then error("class " .. name .. " is there twice") end
  state.api.classes[name], state.class = class, class
  state.api.list[#state.api.list + 1] = class
end

function TAGS.field(state, rest)
  local entry = { private = rest:find "^private " ~= nil }
  rest = rest:gsub("^private ", "")
  local key, after = rest:match '^%[([^%]"]+)%]%??%s+(.*)$'
  rest = rest:gsub('^%["([%w_]+)"%]', "%1") -- a name that is a keyword of LuaCATS
  if key then
    entry.index = true
    entry.name = "[" .. key .. "]"
  else
    entry.name, entry.optional, after = rest:match "^([%w_]+)(%??)%s+(.*)$"
    if not entry.name then error "expected a field's name" end
    entry.optional = entry.optional == "?"
  end
  entry.type, entry.text = split_type(after, state.used)
  table.insert((state.class or error "a field without a class").fields, entry)
end

function TAGS.param(state, rest)
  local name, optional, after = rest:match "^([%w_.]+)(%??)%s+(.*)$"
  local kind, text = split_type(after, state.used)
  table.insert(state.params, { name = name, optional = optional == "?", type = kind, text = text })
end

TAGS["return"] = function(state, rest)
  local kind, text = split_type(rest, state.used)
  local name, more = text:match "^([%a_.][%w_.]*)%s*(.*)$"
  if text:find "^#" then name, more = nil, text:sub(2) end
  table.insert(state.returns, { type = kind, name = name, text = more or "" })
end

function TAGS.alias(state, rest)
  local name, kind = rest:match "^([%w_.]+)%s*(.*)$"
  state.api.aliases[name] = { name = name, type = kind, text = state.text() }
  if kind ~= "" then split_type(kind, state.used) end
end

function TAGS.meta(state, rest) state.meta = rest end
function TAGS.operator(state, rest) state.class.operators[rest:match "^%a+"] = rest end
function TAGS.overload(state, rest)
  table.insert(state.overloads, rest)
  split_type(rest, state.used)
end
function TAGS.generic() end

local function add_function(state, var, mark, name, args)
  local class = state.vars[var] or error("nobody knows what class " .. var .. " is")
  local params, i = {}, 0
  for arg in args:gmatch "[%w_.]+" do
    i = i + 1
    params[i] = state.params[i] or error(("%s%s%s: no @param for %s"):format(var, mark, name, arg))
    if params[i].name ~= arg then
      error(("%s: @param %s where the argument is %s"):format(name, params[i].name, arg))
    end
  end
  local spare = state.params[i + 1]
  if spare then error(("%s: @param %s of no argument"):format(name, spare.name)) end
  table.insert(class.methods, { name = name, params = params, returns = state.returns,
                                text = state.text(), colon = mark == ":", var = var,
                                overloads = state.overloads })
end

local function forget(state)
  state.lines, state.params, state.returns, state.overloads = {}, {}, {}, {}
end

local function read_line(state, line)
  local tag, rest = line:match "^%-%-%-@(%a+)%s*(.*)$"
  if tag then
    return (TAGS[tag] or error("an annotation that is not used here: @" .. tag))(state, rest)
  end
  local text = line:match "^%-%-%-%s?(.*)$"
  if text then
    if not text:find "^|" then state.lines[#state.lines + 1] = text end
    return
  end
  local var = line:match "^local ([%w_]+) = {}$"
  local owner, mark, name, args = line:match "^function ([%w_]+)([.:])([%w_]+)%((.-)%) end$"
  if var then
    state.vars[var] = state.class
  elseif owner then
    add_function(state, owner, mark, name, args)
  elseif line:find "^return " then
    local class = state.vars[line:match "^return ([%w_]+)$"] or error "what is returned?"
    class.module = state.meta
  elseif line ~= "" and not line:find "^%-%-" then
    error("no annotation: " .. line)
  end
  forget(state)
end

local function read_file(api, path)
  local state = { api = api, file = path, vars = {}, used = {} }
  function state.text() return table.concat(state.lines, " ") end
  forget(state)
  local number = 0
  for line in io.lines(path) do
    number = number + 1
    local ok, why = pcall(read_line, state, line)
    if not ok then
      error(("%s:%d: %s"):format(path, number, (tostring(why):gsub("^.-:%d+: ", ""))), 0)
    end
  end
  if not state.meta then error(path .. ": @meta is missing", 0) end
  for _, name in ipairs(state.used) do
    api.used[#api.used + 1] = { name = name, file = path }
  end
end

---All of types/.
---@return { classes: table<string, api.class>, list: api.class[], aliases: table }
function M.read()
  local api = { classes = {}, list = {}, aliases = {}, used = {} }
  local files = io.popen(("find %s -name '*.lua' | LC_ALL=C sort"):format(FOLDER))
  for path in files:lines() do read_file(api, path) end
  files:close()
  for _, use in ipairs(api.used) do
    if not (BUILTIN[use.name] or api.classes[use.name] or api.aliases[use.name]) then
      error(("%s: there is no type %s"):format(use.file, use.name), 0)
    end
  end
  for _, class in ipairs(api.list) do
    for _, parent in ipairs(class.parents) do
      if not api.classes[parent] then error(class.name .. ": there is no class " .. parent, 0) end
    end
  end
  return api
end

---Everything of a class and of those that it inherits from.
---@param what "fields"|"methods"
---@return table[]
function M.all(api, class, what)
  local list = {}
  for _, entry in ipairs(class[what]) do list[#list + 1] = entry end
  for _, parent in ipairs(class.parents) do
    for _, entry in ipairs(M.all(api, api.classes[parent], what)) do list[#list + 1] = entry end
  end
  return list
end

return M
