-- image/symbol_file.lua - vm:load_symbols: files that are not loaded, whose symbols and source
-- lines count: ELF files, and lists as nm prints them, such as Linux's System.map.
--
-- Symbols of another build than what the guest runs are worse than none: an ELF file is compared
-- with what lies at its addresses, by its build id (a note of the GNU linker) and by its bytes.

local core = require "minikvm.core"
local elf = require "minikvm.image.elf"
local images = require "minikvm.image"
local options = require "minikvm.options"
local plan = require "minikvm.image.plan"
local sources = require "minikvm.image.source"
local symbols = require "minikvm.image.symbols"

local refuse, ult = plan.refuse, math.ult

local M = {}

local LOAD <const> = 1
local BUILD_ID <const>, NOTE_MAX <const> = 3, 4096
local TEXT_MAX <const>, LINES_MAX <const> = 64 << 20, 1 << 20
local FARTHEST <const> = 1 << 20 -- how far a label of a list reaches when no other one follows
local PROGBITS <const> = 1 -- a section's Type
local SAMPLES <const>, SAMPLE <const> = 64, 16 -- how many pieces of how many bytes

-- ---- lists of symbols ----

---What a symbol's letter is worth, as for binds in ELF files: nm(1). Absent: not an address here.
local function rank_of(letter)
  if letter:find "[VWvw]" then return 2 end
  if not letter:find "[ABDGRSTabdgrst]" then return nil end
  return letter:find "%u" and 3 or 1
end

local function add(t, value, letter, name)
  local rank = rank_of(letter)
  if not rank then return end
  local n = t.count + 1
  t.count, t.names[n], t.values[n], t.sizes[n], t.ranks[n] = n, name, value, 0, rank
  if letter:find "[Aa]" then t.absolute[n] = true end
  local known = t.by_name[name]
  if not known or rank > t.ranks[known] then t.by_name[name] = n end
end

---Each reaches to the next one; returns the first value and how far all of them reach.
local function set_sizes(t)
  local order = {}
  for n = 1, t.count do order[n] = n end
  table.sort(order, function(a, b) return ult(t.values[a], t.values[b]) end)
  local next_value
  for i = #order, 1, -1 do
    local n = order[i]
    local value = t.values[n]
    if next_value == nil then next_value = value + FARTHEST end
    local above = i < #order and t.values[order[i + 1]]
    if above and above ~= value then next_value = above end
    local size = next_value - value
    t.sizes[n] = ult(FARTHEST, size) and FARTHEST or size
  end
  local first, last = t.values[order[1]], t.values[order[#order]]
  return first, last - first + FARTHEST
end

---The symbols of a list; nil when it is none.
local function read_list(source)
  local t = { count = 0, names = {}, values = {}, sizes = {}, ranks = {}, absolute = {},
              by_name = {} }
  local lines = 0
  for line in source:read(0, source.size):gmatch "[^\r\n]+" do
    lines = lines + 1
    local digits, letter, name = line:match "^(%x+) (%a) ([^%s]+)"
    if not digits then digits, letter, name = line:match "^(%x+) %x+ (%a) ([^%s]+)" end
    if digits and #digits <= 16 then
      add(t, tonumber(digits, 16), letter, name)
    elseif not line:find "^%s+[Uwv] %S" then
      return nil
    end
    if lines > LINES_MAX then refuse(source, "EFBIG", "more than %d lines", LINES_MAX) end
  end
  return t.count > 0 and t or nil
end

---Reads the symbols of a list into the source; nothing for an ELF file, whose symbols are read when
---somebody asks.
---@return table? symbols
function M.read(source)
  if plan.is_elf(source) then return nil end
  if source.size > TEXT_MAX then
    refuse(source, "EFBIG", "%d bytes are too many for a list of symbols", source.size)
  end
  local t = read_list(source)
  if not t then
    refuse(source, "ENOEXEC", "it is neither an ELF file nor a list of symbols as nm prints it")
  end
  t.first, t.bytes = set_sizes(t)
  source.symbols = t
  return t
end

local function plan_list(source, offset)
  local t = M.read(source)
  local first, bytes = t.first, t.bytes
  return { { at = first + offset, linear = first + offset, offset = 0, file_bytes = 0,
             mem_bytes = bytes } }
end

-- ---- ELF files ----

local function plan_elf(source, offset)
  local h, list = elf.header(source), {}
  elf.check_machine(source, h)
  for i, kind, at, vaddr, paddr, filesz, memsz in elf.program_headers(source, h) do
    if kind == LOAD and memsz ~= 0 and #list < plan.SEGMENTS_MAX then
      elf.check_segment(source, h, i, 0, vaddr, paddr, 0, memsz)
      list[#list + 1] = { at = paddr + offset, linear = vaddr + offset, offset = at,
                          file_bytes = filesz, mem_bytes = memsz }
    end
  end
  if #list == 0 then refuse(source, "ENOEXEC", "no program header of Type LOAD") end
  return list
end

---The build id, in hexadecimal digits; nil when there is none.
---@return string?
function M.build_id(source)
  local at, size = symbols.section(source, ".note.gnu.build-id")
  if not at or size < 16 or size > NOTE_MAX then return nil end
  local note = source:read(at, size)
  local name_size, id_size, kind = ("<I4I4I4"):unpack(note)
  local from = 12 + (name_size + 3 & ~3)
  if kind ~= BUILD_ID or id_size == 0 or from + id_size > size then return nil end
  return core.hex(note:sub(from + 1, from + id_size))
end

local function overlap(a, b)
  for _, s in ipairs(a.segments) do
    for _, t in ipairs(b.segments) do
      if ult(s.linear - t.linear, t.mem_bytes) or ult(t.linear - s.linear, s.mem_bytes) then
        return true
      end
    end
  end
  return false
end

local function check_build_id(vm, source, made)
  local id = M.build_id(source)
  for _, image in ipairs(id and images.of(vm) or {}) do
    local known = plan.is_elf(image.source) and overlap(image.plan, made)
      and M.build_id(image.source)
    if known and known ~= id then
      refuse(source, "ESTALE", "symbols of another build: its build id is %s, that of %s, which "
        .. "lies at these addresses, %s", id, image.source.name, known)
    end
  end
end

---What the guest has at the linear or the physical address of a piece of a segment.
local function guest_bytes(vm, segment, linear, length)
  for _, at in ipairs{ vm.cpu[0]:translate(linear) or segment.at + linear - segment.linear,
                       segment.at + linear - segment.linear } do
    if vm.memory:has(at, length) then
      local bytes = vm.memory:read(at, length)
      if bytes:find "[^%z]" then return bytes end
    end
  end
end

---The linear address of a place in the file; and its segment.
local function linear_of(made, offset)
  for _, s in ipairs(made.segments) do
    if plan.inside(offset - s.offset, SAMPLE, s.file_bytes) then
      return s.linear + offset - s.offset, s
    end
  end
end

---How many pieces of the file's code differ from the guest's memory, and of how many. What is not
---in memory yet does not count.
local function compare(vm, source, made, at, size)
  local differ, looked = 0, 0
  for i = 0, SAMPLES - 1 do
    local offset = at + (size - SAMPLE) * i // (SAMPLES - 1)
    local linear, segment = linear_of(made, offset)
    local bytes = linear and guest_bytes(vm, segment, linear, SAMPLE)
    if bytes then
      looked = looked + 1
      if bytes ~= source:read(offset, SAMPLE) then differ = differ + 1 end
    end
  end
  return differ, looked
end

---Code may change itself, but not most of it. Files that have nothing but debugging information
---have no bytes to compare, and a vCPU that runs does not tell how its memory is mapped.
local function check_bytes(vm, source, made)
  local at, size, kind = symbols.section(source, ".text")
  if not at or size < SAMPLE or kind ~= PROGBITS then return end
  local ok, differ, looked = pcall(compare, vm, source, made, at, size)
  if not ok and type(differ) == "table" then error(differ, 0) end
  if not ok or differ * 2 <= looked then return end
  refuse(source, "ESTALE", "symbols of another build, or for another address: of %d pieces of its "
    .. "code %d are not what the guest has there", looked, differ)
end

-- ---- vm:load_symbols ----

local function load(vm, source, offset)
  local is_elf = plan.is_elf(source)
  local made = { format = "symbols", slide = offset,
                 segments = is_elf and plan_elf(source, offset) or plan_list(source, offset) }
  if is_elf then
    check_build_id(vm, source, made)
    check_bytes(vm, source, made)
  end
  images.add_symbols(vm, { source = source, plan = made })
end

---Takes symbols and source lines from a file that is not loaded: an ELF file, or a list as nm
---prints it, such as System.map. They count before those of images, for forks and snapshots as
---well, and stay over a reset. Refused when the guest's memory or an image has another build.
---@param path string
---@param offset? integer  what is added to its addresses (0)
---@return minikvm.vm? vm  or nil, "what: why", "ENAME"
---@return string? why
---@return string? code
core.methods "minikvm.vm".load_symbols = function(vm, path, offset)
  options.self("vm:load_symbols", vm, "minikvm.vm")
  options.argument("vm:load_symbols", "path", path, "text")
  offset = offset == nil and 0 or options.argument("vm:load_symbols", "offset", offset, "integer")
  core.check_open(vm)
  local opened, source = pcall(sources.open, vm, path)
  local ok, problem = opened, source
  if opened then ok, problem = pcall(load, vm, source, offset) end
  if ok then return vm end
  if opened then source:close() end
  if type(problem) ~= "table" or not problem.text then error(problem, 0) end
  return nil, problem.text, problem.code
end

return M
