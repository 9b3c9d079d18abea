-- image/symbols.lua - names and addresses of an ELF image (gABI chapter 4, "Sections", "String
-- Table", "Symbol Table"): vm.symbols, vm:symbol_at, entry = "name".
--
-- They are read when somebody asks for the first time. A file whose symbols are damaged can be
-- loaded: only here is that an error. Work and memory are bounded by the sizes below.

local plan = require "minikvm.image.plan"
local elf = require "minikvm.image.elf"

local refuse, inside, ult = plan.refuse, plan.inside, math.ult

local M = {}

local SYMTAB <const>, STRTAB <const> = 2, 3
local NOBITS <const> = 8 -- a section that has no bytes in the file
M.NOBITS = NOBITS
local NOTYPE <const>, FUNC <const> = 0, 2 -- between them lies OBJECT
local UNDEF <const>, ABS <const>, COMMON <const> = 0, 0xfff1, 0xfff2
local SYMTAB_MAX <const>, STRTAB_MAX <const> = 16 << 20, 64 << 20 -- bytes: about a second's work
local NAME_MAX <const>, NAME_USUAL <const> = 4096, 128
local SECTION_NAMES_MAX <const> = 1 << 20
local NAMES_MAX <const> = 64 << 20 -- bytes of all names together: many may end with the same one

---What a symbol's bind is worth when there are several of a name: global, weak, local.
local RANK <const> = { [0] = 1, [1] = 3, [2] = 2 }

---@class minikvm.image.symbols
---@field count integer
---@field names string[]
---@field values integer[]
---@field sizes integer[]
---@field ranks integer[]
---@field absolute table<integer, true>
---@field functions table<integer, true>
---@field by_name table<string, integer>  the number of the one that counts

-- ---- the sections ----

---Type, offset, size, link and size of an entry of section `i`.
local function section(bytes, h, i)
  local wide = h.class.bits == 64
  local at = i * h.class.section + 1
  local kind = ("<I4"):unpack(bytes, at + 4)
  local fields, entry_at = wide and "<I8I8I4" or "<I4I4I4", at + (wide and 56 or 36)
  local offset, size, link = fields:unpack(bytes, at + (wide and 24 or 16))
  local entry = (wide and "<I8" or "<I4"):unpack(bytes, entry_at)
  return kind, offset, size, link, entry
end

---All section headers as bytes; nil when there are none.
---@return string?
function M.section_headers(source, h)
  if h.shnum == 0 or h.shoff == 0 then return nil end
  if h.shentsize ~= h.class.section then
    refuse(source, "ENOEXEC", "ELF header: Size of section headers: %d, not %d", h.shentsize,
           h.class.section)
  elseif not inside(h.shoff, h.shnum * h.class.section, source.size) then
    refuse(source, "ENOEXEC", "ELF header: Start of section headers: 0x%x: %d of them do not fit "
      .. "into the file's %d bytes: is it cut short?", h.shoff, h.shnum, source.size)
  end
  return source:read(h.shoff, h.shnum * h.class.section)
end

---Where a section of this name lies in the file; nil when there is none, or its headers are
---damaged.
---@return integer? offset
---@return integer? size
---@return integer? kind  its Type
function M.section(source, wanted)
  local ok, h, sections = pcall(function()
    local header = elf.header(source)
    return header, M.section_headers(source, header)
  end)
  if not ok or not sections or h.shstrndx >= h.shnum then return nil end
  local _, at, bytes = section(sections, h, h.shstrndx)
  if not inside(at, bytes, source.size) or bytes > SECTION_NAMES_MAX then return nil end
  local names = source:read(at, bytes)
  for i = 0, h.shnum - 1 do
    local name = ("<I4"):unpack(sections, i * h.class.section + 1)
    if names:sub(name + 1, name + #wanted + 1) == wanted .. "\0" then
      local kind, offset, size = section(sections, h, i)
      if kind == NOBITS or inside(offset, size, source.size) then return offset, size, kind end
    end
  end
end

local function check_size(source, i, what, size, most)
  if size > most then
    refuse(source, "EFBIG", "section %d: %s: %d bytes are too many", i, what, size)
  end
end

local function read_names(source, sections, h, i)
  local kind, offset, size = section(sections, h, i)
  if kind ~= STRTAB then
    refuse(source, "ENOEXEC", "section %d, the symbols' Link: Type is not STRTAB", i)
  elseif not inside(offset, size, source.size) then
    refuse(source, "ENOEXEC", "section %d: STRTAB: Offset 0x%x + Size 0x%x lies beyond the file's "
      .. "%d bytes", i, offset, size, source.size)
  end
  check_size(source, i, "STRTAB", size, STRTAB_MAX)
  local names = source:read(offset, size)
  if names:byte(-1) ~= 0 then
    refuse(source, "ENOEXEC", "section %d: STRTAB: it does not end with a null byte", i)
  end
  return names
end

---The bytes of the symbol table in section `i` and of its names.
local function read_table(source, sections, h, i)
  local _, offset, size, link, entry = section(sections, h, i)
  if entry ~= h.class.symbol then
    refuse(source, "ENOEXEC", "section %d: SYMTAB: EntSize 0x%x is not 0x%x", i, entry,
           h.class.symbol)
  elseif not inside(offset, size, source.size) or size % entry ~= 0 then
    refuse(source, "ENOEXEC", "section %d: SYMTAB: Offset 0x%x + Size 0x%x lies beyond the file's "
      .. "%d bytes or has half an entry", i, offset, size, source.size)
  elseif link >= h.shnum then
    refuse(source, "ENOEXEC", "section %d: SYMTAB: Link %d: there are %d sections", i, link,
           h.shnum)
  end
  check_size(source, i, "SYMTAB", size, SYMTAB_MAX)
  return source:read(offset, size), read_names(source, sections, h, link)
end

-- ---- the symbols ----

---The name at an offset of the string table; nil when it is empty or longer than NAME_MAX.
local function name_at(names, offset)
  for _, most in ipairs{ NAME_USUAL, NAME_MAX } do
    local piece = names:sub(offset + 1, offset + most)
    local last = piece:find("\0", 1, true)
    if last then return last > 1 and piece:sub(1, last - 1) or nil end
  end
end

---Adds a function, object or label that is defined in this file.
local function add(t, names, name, info, shndx, value, size)
  local kind = info & 15
  if kind > FUNC or kind < NOTYPE or shndx == UNDEF or shndx == COMMON or name >= #names then
    return
  end
  local text = name_at(names, name)
  if not text then return end
  local n, rank = t.count + 1, RANK[info >> 4] or 1
  t.bytes = t.bytes + #text
  t.count, t.names[n], t.values[n], t.sizes[n], t.ranks[n] = n, text, value, size, rank
  if shndx == ABS then t.absolute[n] = true end
  if kind == FUNC then t.functions[n] = true end
  local known = t.by_name[text]
  if not known or rank > t.ranks[known] then t.by_name[text] = n end
end

local function decode(source, symbols, names, wide)
  local t = { count = 0, bytes = 0, names = {}, values = {}, sizes = {}, ranks = {}, absolute = {},
              functions = {}, by_name = {} }
  local format = wide and "<I4BBI2I8I8" or "<I4I4I4BBI2"
  for at = 1, #symbols, wide and 24 or 16 do
    local name, info, shndx, value, size, _
    if wide then
      name, info, _, shndx, value, size = format:unpack(symbols, at)
    else
      name, value, size, info, _, shndx = format:unpack(symbols, at)
    end
    add(t, names, name, info, shndx, value, size)
    if t.bytes > NAMES_MAX then refuse(source, "EFBIG", "its symbols' names are too long") end
  end
  return t
end

local function read(source)
  if not plan.is_elf(source) then return nil end
  local h = elf.header(source)
  local sections = M.section_headers(source, h)
  for i = 0, sections and h.shnum - 1 or -1 do
    if section(sections, h, i) == SYMTAB then
      local symbols, names = read_table(source, sections, h, i)
      return decode(source, symbols, names, h.class.bits == 64)
    end
  end
end

---The symbols of an image, read once; nil when it has none. Raises what refuse() raises.
---@return minikvm.image.symbols?
function M.of(source)
  if source.symbols == nil then source.symbols = read(source) or false end
  return source.symbols or nil
end

---The value of a symbol, for entry = "name".
function M.entry(source, name)
  local t = M.of(source)
  if not t then
    refuse(source, "ENOENT", "entry=%q: the image has no symbol table", name)
  end
  local n = t.by_name[name]
  if not n then refuse(source, "ENOENT", "entry=%q: it has no such symbol", name) end
  return t.values[n]
end

---The same, nil for an image whose symbols are damaged or whose file cannot be read any more.
local function symbols_of(image)
  if image.plan.format == "flat" then return nil end
  local ok, t = pcall(M.of, image.source)
  if ok then return t end
  if type(t) ~= "table" then error(t, 0) end
  image.source.symbols = false
end

-- ---- questions ----

---What is added to the addresses of a file that was loaded elsewhere. A real-mode program is
---loaded relative to its window.
local function slide_of(image)
  local made = image.plan
  local first = made.real and made.segments[1]
  return made.slide or first and first.at - first.linear or 0
end

---What an address in the file is in memory.
function M.to_memory(image, address) return address + slide_of(image) end

---The address in the file of what lies at a linear address, and the segment that holds it; nil when
---the image is not there. With `physical` of what lies at a physical address: code of the higher
---half that runs before paging is on, or by a mapping of all RAM.
---@return integer? address
---@return minikvm.image.segment? segment
function M.to_file(image, address, physical)
  physical = physical or image.plan.real
  local segment = plan.segment(image.plan, address, physical)
  if not segment then return nil end
  if physical and not image.plan.real then address = address - segment.at + segment.linear end
  return address - slide_of(image), segment
end

---The address of a symbol; of several images the one loaded last counts.
---@param images { source: table, plan: table }[]
---@return integer?
function M.find(images, name)
  for i = #images, 1, -1 do
    local t = symbols_of(images[i])
    local n = t and t.by_name[name]
    if n then return t.values[n] + slide_of(images[i]) end
  end
end

---All names and addresses.
---@return table<string, integer>
function M.all(images)
  local all = {}
  for _, image in ipairs(images) do
    local t = symbols_of(image)
    local slide = slide_of(image)
    for name, n in pairs(t and t.by_name or {}) do all[name] = t.values[n] + slide end
  end
  return all
end

---Whether symbol `n` says more of an address than `than`: nearer, then with a size, then global.
local function better(t, n, than)
  if t.values[n] ~= t.values[than] then return ult(t.values[than], t.values[n]) end
  if (t.sizes[n] == 0) ~= (t.sizes[than] == 0) then return t.sizes[n] ~= 0 end
  return t.ranks[n] > t.ranks[than]
end

---One that has a size holds its bytes; a label holds what follows it in its segment.
local function holds(t, n, first, address)
  local value, size = t.values[n], t.sizes[n]
  if ult(address, value) or t.absolute[n] then return false end
  if size ~= 0 then return ult(address - value, size) end
  return not ult(value, first)
end

-- Values in an order in which `<` is that of unsigned integers.
local function key_of(value) return value ~ math.mininteger end

---Adds to a table of symbols what at() needs: the values in order (`keys`), the symbols of each
---(`same`), and up to each how far those with a size reach, and where the last label is.
local function sort(t)
  local keys, same = {}, {}
  for n = 1, t.count do
    local key = key_of(t.values[n])
    if not t.absolute[n] then
      if not same[key] then keys[#keys + 1], same[key] = key, {} end
      same[key][#same[key] + 1] = n
    end
  end
  table.sort(keys)
  t.keys, t.same, t.reach, t.label = keys, same, {}, {}
  local reach, label = math.mininteger, 0
  for i, key in ipairs(keys) do
    for _, n in ipairs(same[key]) do
      local size = t.sizes[n]
      if size == 0 then label = i end
      local last = key + size - 1
      if size ~= 0 then reach = math.max(reach, last < key and math.maxinteger or last) end
    end
    t.reach[i], t.label[i] = reach, label
  end
end

---How many keys are at or below one.
local function count_up_to(keys, key)
  local low, high = 1, #keys + 1
  while low < high do
    local middle = (low + high) // 2
    if keys[middle] <= key then low = middle + 1 else high = middle end
  end
  return low - 1
end

---The nearest symbol that holds an address: from its key downwards, as long as one may.
---@param first integer  the address of its segment
local function at(t, first, address)
  if not t.keys then sort(t) end
  local key = key_of(address)
  local i = count_up_to(t.keys, key)
  while i > 0 do
    local found
    for _, n in ipairs(t.same[t.keys[i]]) do
      if holds(t, n, first, address) and (not found or better(t, n, found)) then found = n end
    end
    if found then return found end
    i = t.reach[i] >= key and i - 1 or math.min(i - 1, t.label[i])
  end
end

---The function or label that a linear address lies in, and the offset; nil when there is none.
---Where no image has it, it may be a physical one.
---@return string? name
---@return integer? offset
function M.at(images, address)
  for _, physical in ipairs{ false, true } do
    for i = #images, 1, -1 do
      local there, segment = M.to_file(images[i], address, physical)
      local t = there and symbols_of(images[i])
      local n = t and at(t, segment.linear - (images[i].plan.slide or 0), there)
      if n then return t.names[n], there - t.values[n] end
    end
  end
end

return M
