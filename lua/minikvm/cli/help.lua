-- cli/help.lua - help at the prompt: what docs/lua-api.md, which the build puts into the module,
-- says of a function, a method, an option table or a kind of object.
--
-- A topic is the name of a heading ("vm:run", "kvm.vm", "Snapshots") or of the first cell of a row
-- ("memory:u32"). A function is found by comparing: whose method it is, is known of all kinds of
-- objects.

local core = require "minikvm.core"
local style = require "minikvm.cli.style"

local M = {}

local WIDTH <const> = 92

---What objects are called in the document, where that is not the kind's name.
local OBJECTS <const> = { timer = "handle", files = "policy", vmfiles = "files",
                          symbols = "vm.symbols" }
---The section about such objects, by what they are called.
local SECTIONS <const> = { cpu = "vCPU", handle = "Handles", snapshot = "Snapshots",
                           policy = "kvm.files", disk = "kvm.disk",
                           mmio = "Memory outside RAM, MSRs",
                           msrs = "Memory outside RAM, MSRs" }

-- ---- the document ----

---@class minikvm.help.topic
---@field name string  "vm:run"
---@field heading string?  of a section
---@field lines string[]  of the section, or the cells of a row
---@field row boolean?

local topics ---@type minikvm.help.topic[]?

---Names in backticks or in a heading: "vm:pause(), vm:resume()"; `u16` after `memory:u8(…)` is one
---of memory's.
local function names_in(text, list)
  local object
  for piece in (text:gsub("|%s*", "")):gmatch "[^`,%s][^`,]*" do
    local path, name = piece:match "^([%a_][%w_.]*[.:])([%a_][%w_]*)"
    if path then object = path end
    name = name or object and piece:match "^([%a_][%w_]*)%f[^%w_]"
    if name and object then list[#list + 1] = object .. name end
  end
  return list
end

local function add_topic(name, topic)
  local own = setmetatable({ name = name }, { __index = topic })
  topics[#topics + 1] = own
end

local function add_row(line)
  local cell = line:match "^| *(`[^|]*) *|"
  if not cell then return end
  for _, name in ipairs(names_in(cell, {})) do
    if name:find "[.:]" then add_topic(name, { row = true, lines = { line } }) end
  end
end

local function read_document()
  topics = {}
  local open, section
  for line in (require "minikvm.cli.api"):gmatch "([^\n]*)\n" do
    local level, heading = line:match "^(##+) +(.*)"
    if heading then
      open = { heading = heading, lines = {}, parts = {} }
      if level == "##" then section = open else table.insert(section.parts, heading) end
      add_topic(heading, open)
      for _, name in ipairs(names_in(heading, {})) do add_topic(name, open) end
    elseif open then
      table.insert(open.lines, line)
      add_row(line)
    end
  end
end

-- ---- as text ----

---Markdown's marks are left out: links, backticks, bars that stand in a cell.
local function plain(text)
  return (text:gsub("%[([^%]]*)%]%([^)]*%)", "%1"):gsub("`", ""):gsub("\\|", "|"))
end

---Lines of a paragraph, no wider than WIDTH.
local function wrap(text, indent, list)
  for line in (style.wrap(indent .. text:gsub("%s+", " "), WIDTH) .. "\n"):gmatch "(.-)\n" do
    list[#list + 1] = line
  end
end

---A row as "  name", what it says below.
local function add_cells(line, list)
  local cells = {}
  for cell in (line:gsub("\\|", "\0")):gmatch "|([^|]*)" do
    cells[#cells + 1] = plain((cell:gsub("%z", "|"):gsub("^%s+", ""):gsub("%s+$", "")))
  end
  if (cells[1] or ""):find "^%-+$" or not cells[2] then return end
  local text = table.concat(cells, "  ", 2):gsub("%s+$", "")
  if #cells[1] <= 16 then
    local first = #list + 1
    wrap(text, (" "):rep(20), list)
    list[first] = ("  %-18s%s"):format(cells[1], list[first]:sub(21))
  else
    list[#list + 1] = "  " .. cells[1]
    wrap(text, (" "):rep(20), list)
  end
end

local function render(topic)
  local list, code = {}, false
  if topic.heading then list[1] = plain(topic.heading) end
  for _, line in ipairs(topic.lines) do
    if line:find "^```" then
      code = not code
    elseif code then
      list[#list + 1] = "    " .. line
    elseif line:find "^|" then
      add_cells(line, list)
    elseif line:find "^<!%-%-" or line == "" and list[#list] == "" then -- of tables that are made
      goto next
    elseif line:find "^%- " then
      wrap(plain(line), "  ", list)
    else
      wrap(plain(line), "", list)
    end
    ::next::
  end
  while list[#list] == "" do list[#list] = nil end
  if topic.parts and topic.parts[1] then
    list[#list + 1] = ""
    wrap("More: " .. plain(table.concat(topic.parts, ", ")), "", list)
  end
  return table.concat(list, "\n")
end

-- ---- questions ----

---The names of a function of minikvm's: "vm:run", "kvm.vm"; several kinds may share a method.
---@param fn function
---@return string[]
local function names_of(fn)
  local names = {}
  for name, value in pairs(require "minikvm") do
    if value == fn then names[#names + 1] = "kvm." .. name end
  end
  for kind, meta in pairs(debug.getregistry()) do
    local short = type(kind) == "string" and kind:match "^minikvm%.(.+)"
    for name, value in pairs(short and type(meta) == "table" and meta.methods or {}) do
      if value == fn then names[#names + 1] = (OBJECTS[short] or short) .. ":" .. name end
    end
  end
  table.sort(names)
  return names
end

local function same(a, b)
  return a:lower():gsub("[.]", ":") == b:lower():gsub("[.]", ":")
end

---The topics that a word may mean: of that name, else whose name ends so.
local function find(word)
  if not topics then read_document() end
  local exact, ends = {}, {}
  for _, topic in ipairs(topics) do
    if same(topic.name, word) then exact[#exact + 1] = topic end
    local last = topic.name:match "[.:]([%w_]+)$"
    if last == word then ends[#ends + 1] = topic end
  end
  return exact[1] and exact or ends
end

local function all_of(list)
  local seen, parts = {}, {}
  for _, topic in ipairs(list) do
    local text = render(topic)
    if not seen[text] and #parts < 8 then parts[#parts + 1] = text end
    seen[text] = true
  end
  return table.concat(parts, "\n\n")
end

---Names that are like a word, for the message that there is no such topic.
local function hint(word)
  local names = {}
  for _, topic in ipairs(topics) do
    names[#names + 1] = topic.name
    names[#names + 1] = topic.name:match "[.:]([%w_]+)$"
  end
  return require("minikvm.options").hint(word, names)
end

---The topics about a function; else about what other objects have of that name.
local function find_function(fn)
  local names = names_of(fn)
  for _, name in ipairs(names) do
    local list = find(name)
    if list[1] then return list end
  end
  return names[1] and find(names[1]:match "[%w_]+$") or {}
end

---The topic about such objects.
local function find_kind(value)
  local kind = core.kind(value) or type(value) == "table" and getmetatable(value)
  local short = type(kind) == "string" and kind:match "^minikvm%.(.*)"
  if value == require "minikvm" then short = "kvm" end
  if not short then return {} end
  short = OBJECTS[short] or short
  return find(SECTIONS[short] or short)
end

---What there is to say of a value: a function, an object of minikvm's, or the name of a topic.
---@param value any
---@return string? text
---@return string? why
function M.of(value)
  local kind = type(value)
  local list
  if kind == "function" then
    list = find_function(value)
  elseif kind == "string" then
    list = find(value)
  else
    list = find_kind(value)
  end
  if list[1] then return all_of(list) end
  if kind == "string" then return nil, ("there is no help on %s%s"):format(value, hint(value)) end
  return nil, ("there is help on what is minikvm's, not on this %s"):format(kind)
end

---All names that there is help on.
---@return string[]
function M.names()
  if not topics then read_document() end
  local names = {}
  for i, topic in ipairs(topics) do names[i] = topic.name end
  return names
end

return M
