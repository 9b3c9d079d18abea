-- debug/blocks.lua - the basic blocks of code: what coverage arms breakpoints on
-- (src/lua/blocks.c finds them).
--
-- What is taken for code: what can be reached, by jumps, calls and jump tables, from a function's
-- symbol, from the entry point or from an address that is given; the rest of a function whose
-- symbol has a size; a label in an executable section where the line table has a line, or from
-- which a few instructions lead to what is known to be code. A block whose first byte lies inside
-- another instruction is known as `shared`, and nobody writes there.

local core = require "minikvm.core"
local elf = require "minikvm.image.elf"
local symbols = require "minikvm.image.symbols"

local M = {}

local PIECE <const> = 20000 -- instructions followed at once: a script can be interrupted in between
local EXECINSTR <const>, ALLOC <const> = 4, 2 -- gABI, "Section Attribute Flags"
local NOBITS <const> = 8
local MOST_SECTIONS <const> = 200
local MOST_ROUNDS <const> = 64 -- of labels that lead to labels
local MOST_DATA <const> = 64 << 20 -- bytes of data sections that may have jump tables

---@class minikvm.blocks  lists by number of the block, in the order of addresses
---@field count integer
---@field bits 16|32|64
---@field address integer[]  linear
---@field size integer[]     bytes
---@field last integer[]     address of its last instruction
---@field kind integer[]     how it ends: NEXT, JUMP, BRANCH, STOP
---@field target integer[]   of a jump or branch; 0: none that is known
---@field condition integer[]  of a branch: src/lua/blocks.c, condition_of()
---@field shared boolean[]   its first byte lies inside another instruction
---@field entry boolean[]    something else than jumps and branches leads to it: a call, a symbol
---@field code string[]      what it begins with, 7 bytes at the most
---@field last_code string[] the same of its last instruction
---@field by_address table<integer, integer>
---@field functions { address: integer, size: integer, name: string, label: boolean? }[]
---@field calls integer[]    return addresses of calls of the function that was asked for

M.NEXT, M.JUMP, M.BRANCH, M.STOP = 0, 1, 2, 3

M.LISTS = { "address", "size", "last", "kind", "target", "condition", "shared", "entry", "code",
            "last_code" }

---Completes blocks whose lists are there.
---@return minikvm.blocks
function M.index(b)
  b.count, b.by_address = #b.address, {}
  for i, address in ipairs(b.address) do b.by_address[address] = i end
  return b
end

local function run(finder)
  while not finder:run(PIECE) do end
end

local function sweep(finder, address, size)
  local at, last = address, address + size
  while at and math.ult(at, last) do
    at = finder:sweep(at, last - at)
    run(finder)
  end
end

---The direct calls (E8) of a function in known blocks: what -fsanitize-coverage=trace-pc puts into
---each.
local function note_calls(b, section, target)
  local bytes, width, i = section.bytes, b.bits == 16 and 2 or 4, 1
  local mask, offset = b.bits == 64 and -1 or 0xffffffff, "<i" .. width
  for at in bytes:gmatch "()\xe8" do
    local behind = section.address + at + width
    if at + width <= #bytes and behind + offset:unpack(bytes, at + 1) - target & mask == 0 then
      while i < b.count and not math.ult(behind - 1, b.address[i + 1]) do i = i + 1 end
      if math.ult(behind - 1 - b.address[i], b.size[i]) then b.calls[#b.calls + 1] = behind end
    end
  end
end

local function collect(finder, b, section)
  local offset = 0
  repeat
    local got = table.pack(finder:blocks(section, offset))
    offset = got[1]
    for i, name in ipairs(M.LISTS) do
      table.move(got[i + 1], 1, #got[i + 1], b.count + 1, b[name])
    end
    b.count = #b.address
  until not offset
end

---Each byte once, however functions lie over one another.
local function sweep_all(finder, functions)
  table.sort(functions, function(x, y) return math.ult(x.address, y.address) end)
  local done = 0
  for _, f in ipairs(functions) do
    local first, last = f.address, f.address + f.size
    if math.ult(first, done) then first = done end
    if math.ult(first, last) then
      sweep(finder, first, last - first)
      done = last
    end
  end
end

local function add_label(functions, label)
  functions[#functions + 1] = { address = label.address, size = 0, name = label.name, label = true }
end

---Follows the labels that lead to what is known by then, or to another label, until there are no
---more.
local function follow_labels(finder, labels, functions)
  local left, is_label, rounds = labels, {}, 0
  for _, label in ipairs(labels) do is_label[label.address] = true end
  repeat
    local candidates, count = left, #functions
    left = {}
    for _, label in ipairs(candidates) do
      local target, known = finder:leads(label.address)
      if known or is_label[target] then
        finder:push(label.address)
        add_label(functions, label)
      else
        left[#left + 1] = label
      end
    end
    run(finder)
    rounds = rounds + 1
  until #functions == count or rounds == MOST_ROUNDS
end

---Finds them.
---  bits       16, 32, 64
---  sections   { { address=, bytes=, code = true or false }, … }: data, too, for jump tables
---  entries    addresses where code begins
---  functions  { { address=, size=, name= }, … }: all of each is code
---  labels     { { address=, name= }, … }: code where a few instructions from there on lead to what
---             is known, or to another of them; they become functions
---  called     the address of a function: `calls` gets what lies behind each call of it
---@return minikvm.blocks
function M.find(o)
  local finder = core.block_finder(o.bits)
  table.sort(o.sections, function(a, b) return math.ult(a.address, b.address) end)
  for _, s in ipairs(o.sections) do finder:add(s.address, s.bytes, s.code) end
  for _, address in ipairs(o.entries or {}) do finder:push(address) end
  for _, f in ipairs(o.functions or {}) do finder:push(f.address) end
  run(finder)
  local functions = table.move(o.functions or {}, 1, #(o.functions or {}), 1, {})
  sweep_all(finder, functions)
  follow_labels(finder, o.labels or {}, functions)
  table.sort(functions, function(x, y) return math.ult(x.address, y.address) end)
  local b = { count = 0, bits = o.bits, functions = functions }
  for _, name in ipairs(M.LISTS) do b[name] = {} end
  for i, s in ipairs(o.sections) do
    if s.code then collect(finder, b, i) end
  end
  M.index(b)
  b.calls = {}
  for _, s in ipairs(o.sections) do
    if o.called and s.code and b.count > 0 then note_calls(b, s, o.called) end
  end
  return b
end

-- ---- an ELF image ----

---@return table? section  { address=, bytes=, code= }
local function section_of(source, h, bytes, i, slide)
  local wide = h.class.bits == 64
  local at = i * h.class.section + 1
  local kind, flags, address, offset, size
  if wide then
    kind, flags, address, offset, size = ("<I4I8I8I8I8"):unpack(bytes, at + 4)
  else
    kind, flags, address, offset, size = ("<I4I4I4I4I4"):unpack(bytes, at + 4)
  end
  local code = flags & EXECINSTR ~= 0
  if flags & ALLOC == 0 or kind == NOBITS or size == 0 or not code and size > MOST_DATA
     or offset < 0 or size < 0 or offset > source.size or size > source.size - offset then
    return nil
  end
  return { address = address + slide, bytes = source:read(offset, size), code = code }
end

---The program headers, for a file without sections.
local function segments_of(source, h, slide)
  local list = {}
  for _, kind, offset, vaddr, _, filesz, _, flags in elf.program_headers(source, h) do
    if kind == 1 and filesz > 0 and offset >= 0 and offset <= source.size
       and filesz <= source.size - offset then
      list[#list + 1] = { address = vaddr + slide, bytes = source:read(offset, filesz),
                          code = flags & 1 ~= 0 }
    end
  end
  return list
end

local function sections_of(source, h, slide)
  local bytes, list = symbols.section_headers(source, h), {}
  for i = 0, bytes and h.shnum - 1 or -1 do
    if #list == MOST_SECTIONS then break end
    list[#list + 1] = section_of(source, h, bytes, i, slide)
  end
  return bytes and list or segments_of(source, h, slide)
end

local function in_code(sections, address)
  for _, s in ipairs(sections) do
    if s.code and math.ult(address - s.address, #s.bytes) then return true end
  end
  return false
end

---Functions by their symbols, in the order of addresses, each once; and labels in code.
local function functions_of(source, sections, slide)
  local t, list, labels, seen = symbols.of(source), {}, {}, {}
  for n = 1, t and t.count or 0 do
    local address = t.values[n] + slide
    if t.functions[n] and not seen[address] then
      seen[address] = true
      list[#list + 1] = { address = address, size = t.sizes[n], name = t.names[n] }
    elseif not t.functions[n] and t.sizes[n] == 0 and not t.absolute[n] then
      labels[#labels + 1] = { address = address, name = t.names[n] }
    end
  end
  local inside, of_code = {}, {}
  for _, f in ipairs(list) do
    if in_code(sections, f.address) then inside[#inside + 1] = f end
  end
  for _, label in ipairs(labels) do
    if in_code(sections, label.address) and not seen[label.address] then
      of_code[#of_code + 1] = label
    end
  end
  table.sort(inside, function(a, b) return math.ult(a.address, b.address) end)
  return inside, of_code
end

---The addresses of the bytes of blocks, as a set.
local function bytes_of(b)
  local bytes = {}
  for i = 1, b.count do
    for at = b.address[i], b.address[i] + b.size[i] - 1 do bytes[at] = true end
  end
  return bytes
end

---Those of a list that are not in these blocks.
local function outside(b, list)
  local bytes, left = bytes_of(b), {}
  for _, one in ipairs(list) do
    if not bytes[one.address] then left[#left + 1] = one end
  end
  return left
end

---Blocks without those that have a byte in common with others: what begins as 32-bit code and is
---followed as such is no 64-bit code.
local function without(b, others)
  local bytes, left = bytes_of(others), { bits = b.bits, functions = b.functions, calls = b.calls }
  for _, name in ipairs(M.LISTS) do left[name] = {} end
  for i = 1, b.count do
    local free = true
    for at = b.address[i], b.address[i] + b.size[i] - 1 do free = free and not bytes[at] end
    for _, name in ipairs(free and M.LISTS or {}) do
      table.insert(left[name], b[name][i])
    end
  end
  return M.index(left)
end

---The blocks of an ELF file that lies in memory `slide` bytes above its addresses.
---  has_line  function(address) -> whether the line table has one there: then a label is code
---  labels    true: all labels in executable sections are code
---  called    the name of a function, as `called` of M.find()
---  bits      of the code, where it is not what the file says: 16
---  entered_32  its entry point is 32-bit code, whatever the rest is
---@param source minikvm.image.source
---@param slide integer
---@param o { has_line: function?, labels: boolean?, called: string?, bits: integer?,
---  entered_32: boolean? }
---@return minikvm.blocks
function M.of(source, slide, o)
  local h = elf.header(source)
  local sections = sections_of(source, h, slide)
  local functions, labels = functions_of(source, sections, slide)
  local entries, first = { h.entry + slide }, nil
  if o.entered_32 and h.class.bits == 64 then
    first = M.find{ bits = 32, sections = sections, entries = entries }
    entries, functions, labels = {}, outside(first, functions), outside(first, labels)
  end
  local unsure = {}
  for _, label in ipairs(labels) do
    if o.labels or o.has_line and o.has_line(label.address) then
      add_label(functions, label)
    else
      unsure[#unsure + 1] = label
    end
  end
  local t = o.called and symbols.of(source)
  local n = t and t.by_name[o.called]
  local found = M.find{ bits = o.bits or h.class.bits, sections = sections, entries = entries,
                        functions = functions, labels = unsure,
                        called = n and t.values[n] + slide }
  return first and without(found, first) or found
end

return M
