-- debug/code.lua - the code of a VM's images for coverage: its blocks (debug/blocks.lua) and the
-- source lines, functions and branches that they belong to, by DWARF's line tables.
--
-- The same files at the same place are one `code`, whichever VM they are in: what one VM has
-- reached another one need not look for.

local blocks = require "minikvm.debug.blocks"
local core = require "minikvm.core"
local dwarf = require "minikvm.debug.dwarf"
local images = require "minikvm.image"
local plan = require "minikvm.image.plan"
local symbols = require "minikvm.image.symbols"

local M = {}

---Which way a branch went: bits.
M.TAKEN, M.NOT_TAKEN = 1, 2

---@class minikvm.code : minikvm.blocks
---@field key string     the same for the same code
---@field names string[]  of the files
---@field places table<integer, { file: string, line: integer }[]>?  lines of each block: places()

-- By key, what was found.
local known = setmetatable({}, { __mode = "v" })

-- ---- line tables ----

---A source's path without "." and "..", as lcov's other tools write it.
local function normal(path)
  local parts = {}
  for part in path:gmatch "[^/]+" do
    if part == ".." and #parts > 0 and parts[#parts] ~= ".." then
      parts[#parts] = nil
    elseif part ~= "." then
      parts[#parts + 1] = part
    end
  end
  return (path:sub(1, 1) == "/" and "/" or "") .. table.concat(parts, "/")
end

---The rows of an image's line tables: address (linear), line, path; where a unit ends a row without
---a line.
local function add_rows(rows, image, info)
  for number, unit in ipairs(core.dwarf.units(info)) do
    local list, paths = core.dwarf.rows(info, number), {}
    for i = 1, #list, 3 do
      local address, line, file = list[i], list[i + 1], list[i + 2] or "?"
      if not paths[file] then
        local _, _, _, path = core.dwarf.line(info, address)
        path = path or file
        local directory = path:sub(1, 1) ~= "/" and unit.directory
        paths[file] = normal(directory and directory .. "/" .. path or path)
      end
      rows[#rows + 1] = { symbols.to_memory(image, address), line > 0 and line, paths[file], i }
    end
    for i = 2, #unit.ranges, 2 do
      rows[#rows + 1] = { symbols.to_memory(image, unit.ranges[i]), false, nil, -1 }
    end
  end
end

local function row_less(a, b)
  if a[1] ~= b[1] then return math.ult(a[1], b[1]) end
  return a[4] < b[4] -- the ends of units first, then the order of the table
end

local function rows_of(list)
  local rows = {}
  for _, image in ipairs(list) do
    local info = dwarf.of(image)
    if info then add_rows(rows, image, info) end
  end
  table.sort(rows, row_less)
  return rows
end

-- ---- what there is ----

local ENTERED_32 <const> = { multiboot = true, multiboot2 = true, pvh = true }

---Puts the blocks of several files together, in the order of addresses.
local function merge(list)
  if #list == 1 then return list[1] end
  local order, all = {}, { bits = list[1] and list[1].bits, functions = {}, calls = {} }
  for _, b in ipairs(list) do
    for i = 1, b.count do order[#order + 1] = { b, i } end
    table.move(b.functions, 1, #b.functions, #all.functions + 1, all.functions)
    table.move(b.calls, 1, #b.calls, #all.calls + 1, all.calls)
  end
  table.sort(order, function(x, y) return math.ult(x[1].address[x[2]], y[1].address[y[2]]) end)
  for _, name in ipairs(blocks.LISTS) do
    local to = {}
    for n, at in ipairs(order) do to[n] = at[1][name][at[2]] end
    all[name] = to
  end
  return blocks.index(all)
end

local function key_of(list, o)
  local parts = { tostring(o.labels), tostring(o.called) }
  for _, image in ipairs(list) do
    parts[#parts + 1] = ("%x"):format(symbols.to_memory(image, 0))
    parts[#parts + 1] = image.source.bytes or image.source.name .. image.source.size
  end
  return table.concat(parts, "\0")
end

local function find(list, o)
  local rows = rows_of(list)
  local lines = {}
  for _, row in ipairs(rows) do
    if row[2] then lines[row[1]] = true end
  end
  local found, names = {}, {}
  for i, image in ipairs(list) do
    found[i] = blocks.of(image.source, symbols.to_memory(image, 0), {
      has_line = function(address) return lines[address] end, labels = o.labels, called = o.called,
      bits = image.plan.real and 16 or nil, entered_32 = ENTERED_32[image.plan.format] })
    names[i] = image.source.name
  end
  local code = merge(found)
  code.rows, code.names = rows, names
  return code
end

---The code of a VM's images; nil when there is none. A damaged file raises what vm:load returns.
---@param vm minikvm.vm
---@param o { labels: boolean?, called: string? }
---@return minikvm.code?
function M.of(vm, o)
  local list = {}
  for _, image in ipairs(images.objects(vm)) do
    if plan.is_elf_image(image) then list[#list + 1] = image end
  end
  if #list == 0 then return nil end
  local key = key_of(list, o)
  local code = known[key]
  if not code then
    code = find(list, o)
    code.key, known[key] = key, code
  end
  return code
end

-- ---- lines of blocks ----

---The number of rows up to an address; with `first` up to the first one of those that begin there.
local function rows_up_to(rows, address, first)
  local low, high = 1, #rows + 1
  while low < high do
    local middle = (low + high) // 2
    if math.ult(address, rows[middle][1]) then high = middle else low = middle + 1 end
  end
  local n = low - 1
  while first and n > 1 and rows[n - 1][1] == address and rows[n - 1][2] do n = n - 1 end
  return n
end

---The source line of an address; nil when none is known. With `first` the one that begins there,
---before what is inlined.
---@return { file: string, line: integer }?
function M.place(code, address, first)
  local row = code.rows[rows_up_to(code.rows, address, first)]
  return row and row[2] and { file = row[3], line = row[2] } or nil
end

local function places_of(code, i)
  local rows, list, seen = code.rows, {}, {}
  local first, last = code.address[i], code.address[i] + code.size[i] - 1
  for k = math.max(rows_up_to(rows, first, true), 1), #rows do
    local row = rows[k]
    if math.ult(last, row[1]) then break end
    local key = row[2] and row[3] .. ":" .. row[2]
    if key and not seen[key] then
      list[#list + 1], seen[key] = { file = row[3], line = row[2] }, true
    end
  end
  return list
end

---By block, the source lines that have code in it.
---@return table<integer, { file: string, line: integer }[]>
function M.places(code)
  if not code.places then
    local places = {}
    for i = 1, code.count do places[i] = places_of(code, i) end
    code.places = places
  end
  return code.places
end

-- ---- branches ----

---Which blocks jumps and branches of exactly one block lead to, and nothing else.
local function single_sources(code)
  local count = {}
  local function add(address)
    local i = code.by_address[address]
    if i then count[i] = (count[i] or 0) + 1 end
  end
  for i = 1, code.count do
    local kind = code.kind[i]
    if kind == blocks.JUMP or kind == blocks.BRANCH then add(code.target[i]) end
    if kind == blocks.NEXT or kind == blocks.BRANCH then add(code.address[i] + code.size[i]) end
  end
  return function(address)
    local i = code.by_address[address]
    return i ~= nil and count[i] == 1 and not code.entry[i] and not code.shared[i]
  end
end

---Conditional branches: of each, the block that it ends; whether the blocks that were reached tell
---that it was taken, that it was not; else it must be looked at.
---@return { block: integer, taken_known: boolean, not_taken_known: boolean }[]
function M.branches(code)
  if not code.branches then
    local is_single, list = single_sources(code), {}
    for i = 1, code.count do
      local there, next_one = code.target[i], code.address[i] + code.size[i]
      if code.kind[i] == blocks.BRANCH and there ~= 0 then
        local same = there == next_one
        list[#list + 1] = { block = i, taken_known = not same and is_single(there),
                            not_taken_known = not same and is_single(next_one) }
      end
    end
    code.branches = list
  end
  return code.branches
end

return M
