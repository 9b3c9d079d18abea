#!/usr/bin/env lua5.4
-- The public Lua API as data, out of the definitions for editors in types/ (LuaCATS annotations),
-- and the tables of docs/lua-api.md made from it.
--
--   lua5.4 tools/api.lua    rewrites what stands between `<!-- types: … -->` and `<!-- end -->`
--
-- spec/lua/types_spec.lua loads this file for the same data. It knows the part of LuaCATS that is
-- used here; anything else in types/ is an error that names the line.

local M = {}

local FOLDER <const>, DOCUMENT <const> = "types", "docs/lua-api.md"

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
    state.class.var = var
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

-- ---- the tables of the reference ----

---A type as it is shown: without the prefix of the classes.
local function shown(kind) return (kind:gsub("minikvm%.%f[%a]", "")) end

local function code(text) return "`" .. text:gsub("|", "\\|") .. "`" end

---Text of a cell.
local function cell(text) return (text:gsub("|", "\\|")) end

---Where the document says more, by what a heading begins with: "vm:load" → "#vmloadsource-options",
---as hosting sites make anchors.
local function anchors(document)
  local list = {}
  for heading in ("\n" .. document):gmatch "\n##+ +([^\n]*)" do
    local anchor = heading:lower():gsub("[^%w _-]", ""):gsub(" ", "-")
    for name in heading:gmatch "[%a_][%w_]*[.:][%w_]+" do list[name] = list[name] or anchor end
  end
  return list
end

local function linked(name, text, links)
  return links[name] and ("[%s](#%s)"):format(code(text), links[name]) or code(text)
end

---"nil, why, code" once, whichever words the definitions have for it.
local function results(method)
  local names = {}
  for i, one in ipairs(method.returns) do
    local failed = one.name == "why" or one.name == "code"
    if failed then break end
    names[i] = one.name and one.name ~= "..." and one.name or shown(one.type)
  end
  if #names == 0 then return "" end
  local text = code(table.concat(names, ", "))
  local last = method.returns[#names + 1]
  if last and last.name == "why" then
    text = text .. (method.returns[#names + 2] and ", or `nil, why, code`" or ", or `nil, why`")
  end
  return text
end

---What is said of parameters and results, behind what the function does.
local function details(method)
  local parts = {}
  for _, list in ipairs{ method.params, method.returns } do
    for _, one in ipairs(list) do
      if one.text ~= "" then
        parts[#parts + 1] = (one.name and code(one.name) .. ": " or "") .. cell(one.text)
      end
    end
  end
  return parts[1] and " " .. table.concat(parts, "; ") or ""
end

local function method_row(method, object, links)
  local args = {}
  for i, param in ipairs(method.params) do args[i] = param.name end
  local name = object .. (method.colon and ":" or ".") .. method.name
  local call = ("%s(%s)"):format(name, table.concat(args, ", "))
  return ("| %s | %s | %s%s |"):format(linked(name, call, links), results(method),
                                       cell(method.text), details(method))
end

---Fields that follow one another and are alike, together.
local function grouped(fields)
  local groups = {}
  for i, field in ipairs(fields) do
    local before = fields[i - 1]
    if before and before.type == field.type and before.text == field.text and not field.index then
      table.insert(groups[#groups], field)
    else
      groups[#groups + 1] = { field }
    end
  end
  return groups
end

local function field_row(group, object, links)
  local names = {}
  for i, field in ipairs(group) do
    local name = (object and object .. (field.index and "" or ".") or "") .. field.name
    names[i] = linked(name, name, links)
  end
  return ("| %s | %s | %s |"):format(table.concat(names, ", "), code(shown(group[1].type)),
                                     cell(group[1].text))
end

---A class that has nothing of its own: what it is, and where its functions come from.
local function only_text(class)
  local parents = {}
  for i, parent in ipairs(class.parents) do parents[i] = code(shown(parent)) end
  return ("%s: %s It has what %s has."):format(code(shown(class.name)), class.text,
                                              table.concat(parents, " and "))
end

---What stands in the place of a marker: the fields, then the methods of a class.
---@param api table
---@param name string  "minikvm.vm"; "minikvm.hooks as ports": what objects are called
---@param links table<string, string>
---@return string
function M.table_of(api, name, links)
  local class_name, object = name:match "^(%S+) as (%S+)$"
  local class = api.classes[class_name or name] or error("types/ has no class " .. name)
  local is_object = #class.methods > 0 or class.var
  object = object or is_object and (class.var or class.methods[1].var) or nil
  local lines = { class.module and class.module ~= "minikvm"
    and ("`%s`: %s"):format(class.module, class.text) or nil }
  local function head(what, second)
    if lines[1] then lines[#lines + 1] = "" end
    lines[#lines + 1] = ("| %s | %s | |"):format(what, second)
    lines[#lines + 1] = "| --- | --- | --- |"
  end
  local public = {}
  for _, field in ipairs(class.fields) do
    if not field.private then public[#public + 1] = field end
  end
  for i, group in ipairs(grouped(public)) do
    if i == 1 then head(is_object and "field" or code(shown(class.name)), "type") end
    lines[#lines + 1] = field_row(group, object, links)
  end
  for i, method in ipairs(class.methods) do
    if i == 1 then head("function", "returns") end
    lines[#lines + 1] = method_row(method, object, links)
  end
  return lines[1] and table.concat(lines, "\n") or only_text(class)
end

---The classes that a document has tables of.
---@return table<string, true>
function M.documented(document)
  local names = {}
  for list in document:gmatch "<!%-%- types: (.-) %-%->" do
    for name in list:gmatch "[^,]+" do names[name:match "^%s*(%S+)"] = true end
  end
  return names
end

---A document with the tables of its markers anew.
---@param api table
---@param document string
---@return string
function M.render(api, document)
  local links = anchors(document)
  local function filled(open, list, close)
    local tables = {}
    for name in list:gmatch "[^,]+" do
      tables[#tables + 1] = M.table_of(api, name:match "^%s*(.-)%s*$", links)
    end
    return open .. "\n" .. table.concat(tables, "\n\n") .. "\n\n" .. close
  end
  return (document:gsub("(<!%-%- types: (.-) %-%->\n).-(<!%-%- end %-%->)", filled))
end

---Rewrites the tables of docs/lua-api.md.
local function main()
  local file = assert(io.open(DOCUMENT))
  local before = file:read "a"
  file:close()
  local after = M.render(M.read(), before)
  if after == before then return print(DOCUMENT .. " is up to date") end
  file = assert(io.open(DOCUMENT, "w"))
  file:write(after)
  file:close()
  print(DOCUMENT .. ": tables made anew")
end

if arg and arg[0] and arg[0]:find "tools/api%.lua$" then main() end

return M
