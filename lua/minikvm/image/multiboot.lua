-- image/multiboot.lua - kernels with a Multiboot header: Multiboot Specification 0.6.96, section
-- 3.1 (the header), 3.2 (the machine's state) and 3.3 (the information handed over).
--
-- Provided: memory sizes, memory map, command line, modules on page boundaries, the loader's name,
-- a framebuffer. Not provided: text modes, boot device, drives, APM, the kernel's own section
-- headers.

local framebuffers = require "minikvm.vm.framebuffer"
local place = require "minikvm.image.place"
local plan = require "minikvm.image.plan"

local refuse = plan.refuse

local M = {}

M.beside = "modules" -- what may be loaded beside it
M.video = true -- a kernel may be told of a framebuffer

local HEADER_MAGIC <const>, HEADER_BYTES <const> = 0x1badb002, "\x02\xb0\xad\x1b" -- 3.1.2
local LOADER_MAGIC <const> = 0x2badb002 -- 3.2, in EAX
-- Without and with address fields, with those of video modes.
local HEADER_SIZE <const>, ADDRESSES_SIZE <const>, VIDEO_SIZE <const> = 12, 32, 48

-- 3.1.2: a loader that does not know one of the flags 0 to 15 must fail. Alignment of modules (0)
-- and memory information (1) are always there.
local WANTS_VIDEO <const>, WANTS_UNKNOWN <const>, HAS_ADDRESSES <const> = 4, 0xfff8, 0x10000

-- 3.3: memory, command line, modules, memory map, loader's name
local INFO_FLAGS <const> = 0x001 | 0x004 | 0x008 | 0x040 | 0x200
local INFO_SIZE <const> = 116 -- up to and including the frame buffer's fields
local MODULE_SIZE <const>, MAP_ENTRY_SIZE <const> = 16, 24
local LOADER <const> = "minikvm"
local HAS_FRAMEBUFFER <const>, FRAMEBUFFER_AT <const>, RGB <const> = 0x1000, 88, 1
local TEXT_MAX <const>, MODULES_MAX <const> = 1024, 32

local INFO_LOWEST <const> = 0x1000

-- ---- the header (3.1) ----

---The header at `at`, when its checksum is right and it is whole.
local function header_at(head, at)
  if at + HEADER_SIZE > #head then return nil end
  local magic, flags, checksum = ("<I4I4I4"):unpack(head, at + 1)
  if magic + flags + checksum & 0xffffffff ~= 0 or magic ~= HEADER_MAGIC then return nil end
  local h = { offset = at, flags = flags }
  if flags & HAS_ADDRESSES ~= 0 then
    if at + ADDRESSES_SIZE > #head then return nil end
    h.header_addr, h.load_addr, h.load_end_addr, h.bss_end_addr, h.entry_addr =
      ("<I4I4I4I4I4"):unpack(head, at + HEADER_SIZE + 1)
  end
  if flags & WANTS_VIDEO ~= 0 and at + VIDEO_SIZE <= #head then
    h.width, h.height = ("<I4I4"):unpack(head, at + ADDRESSES_SIZE + 5)
  end
  return h
end

---The first header in the file's first 8192 bytes, on a boundary of 4; nil when there is none.
---@param followed boolean?  one that can be followed: without address fields the file is ELF
function M.header(source, followed)
  local head, at = source.head, 1
  local h
  repeat
    at = head:find(HEADER_BYTES, at, true)
    if not at then return nil end
    h = at % 4 == 1 and header_at(head, at - 1)
    at = at + 1
  until h
  if followed and h.flags & HAS_ADDRESSES == 0 and not plan.is_elf(source) then return nil end
  return h
end

local function check_header(source, h, want)
  plan.need_protected(source, want, "a Multiboot kernel")
  if h.flags & WANTS_VIDEO ~= 0 and not h.width then
    refuse(source, "ENOEXEC", "Multiboot header: flags 0x%x ask for a video mode (bit 2), and it "
      .. "ends before its fields", h.flags)
  elseif h.flags & WANTS_VIDEO ~= 0 and want.framebuffer == false then
    refuse(source, "EOPNOTSUPP", "Multiboot header: flags 0x%x ask for a video mode (bit 2), and "
      .. "framebuffer=false was given", h.flags)
  elseif h.flags & WANTS_UNKNOWN ~= 0 then
    refuse(source, "EOPNOTSUPP", "Multiboot header: flags 0x%x ask for something unknown (bits "
      .. "0x%x)", h.flags, h.flags & WANTS_UNKNOWN)
  end
end

-- ---- the kernel's addresses (3.1.3) ----

local function by_addresses(source, h)
  local function bad(format, ...) refuse(source, "ENOEXEC", "Multiboot header: " .. format, ...) end
  local made, finish = require("minikvm.image.addresses").read(source, h, h.offset, bad)
  if h.entry_addr < h.load_addr or h.entry_addr >= finish then
    bad("entry_addr 0x%x is outside 0x%x to 0x%x, which is loaded", h.entry_addr, h.load_addr,
        finish)
  end
  made.entry = h.entry_addr
  return made
end

function M.segments(source, want)
  local h = M.header(source)
  if not h then
    refuse(source, "ENOEXEC", "no Multiboot header with the right checksum in the first 8192 bytes")
  end
  check_header(source, h, want)
  local made
  if h.flags & HAS_ADDRESSES ~= 0 then
    made = by_addresses(source, h)
  elseif plan.is_elf(source) then
    made = require("minikvm.image.elf").segments(source, want, "multiboot", true)
  else
    refuse(source, "ENOEXEC", "Multiboot header: flags 0x%x: no address fields (bit 16), and it is "
      .. "not an ELF file", h.flags)
  end
  made.framebuffer = framebuffers.choose(want, h.width and h)
  return made
end

-- ---- modules and the information ----

---The first free place at or above `from`, page-aligned.
local function find_place(source, want, made, what, bytes, from)
  return place.above(want, made, bytes, from)
    or refuse(source, "EFBIG", "no room in memory for %s of %d bytes", what, bytes)
end

local function place_modules(source, want, made)
  local from = place.behind(made)
  made.modules = {}
  for i, m in ipairs(source.modules or {}) do
    if i > MODULES_MAX then refuse(source, "E2BIG", "more than %d modules", MODULES_MAX) end
    if #m.text > TEXT_MAX then
      refuse(source, "E2BIG", "the string of module %s is longer than %d bytes", m.name, TEXT_MAX)
    end
    local at = find_place(source, want, made, m.name, m.size, from)
    made.modules[i] = { source = m, at = at }
    from = at + m.size
  end
end

-- ---- the information (3.3), laid out as: structure, modules, memory map, strings ----

local function memory_map(want)
  local entries = {}
  for i, r in ipairs(place.memory_map(want)) do -- an entry's size does not count itself
    entries[i] = ("<I4I8I8I4"):pack(MAP_ENTRY_SIZE - 4, r[1], r[2] - r[1], r[3])
  end
  return table.concat(entries)
end

---Strings, each with its NUL, and where they are when the first is at `at`.
local function strings(list, at)
  local places = {}
  for i, text in ipairs(list) do
    places[i] = at
    at = at + #text + 1
  end
  return table.concat(list, "\0") .. "\0", places
end

local function module_list(modules, texts)
  local entries = {}
  for i, m in ipairs(modules) do
    entries[i] = ("<I4I4I4I4"):pack(m.at, m.at + m.source.size, texts[i], 0)
  end
  return table.concat(entries)
end

---Where the framebuffer is, and its colours: position and size of each.
local function framebuffer_fields(f)
  if not f then return ("\0"):rep(INFO_SIZE - FRAMEBUFFER_AT) end
  return ("<I8I4I4I4BBBBBBBB"):pack(f.at, f.pitch, f.width, f.height, 32, RGB, 16, 8, 8, 8, 0, 8)
end

---The structure itself; `at` says where its parts are.
local function structure(want, made, at)
  local lower, upper = place.kibibytes(want)
  local flags, count = INFO_FLAGS | (made.framebuffer and HAS_FRAMEBUFFER or 0), #made.modules
  return ("<I4I4I4I4I4I4I4"):pack(flags, lower, upper, 0, at.line, count, at.modules)
    .. ("\0"):rep(16) .. ("<I4I4"):pack(at.map_size, at.map) .. ("\0"):rep(12)
    .. ("<I4"):pack(at.loader) .. ("\0"):rep(FRAMEBUFFER_AT - 68)
    .. framebuffer_fields(made.framebuffer)
end

local function make_info(source, want, made)
  local line, modules = want.cmdline or "", made.modules
  if #line > TEXT_MAX then
    refuse(source, "E2BIG", "the command line is longer than %d bytes", TEXT_MAX)
  end
  local texts = { line, LOADER }
  for i, m in ipairs(modules) do texts[i + 2] = m.source.text end
  local map, list_size = memory_map(want), #modules * MODULE_SIZE
  local before_texts = INFO_SIZE + list_size + #map
  local at = find_place(source, want, made, "the Multiboot information",
                        before_texts + #strings(texts, 0), INFO_LOWEST)
  local text, places = strings(texts, at + before_texts)
  local where = { modules = at + INFO_SIZE, map = at + INFO_SIZE + list_size, map_size = #map,
                  line = table.remove(places, 1), loader = table.remove(places, 1) }
  return { at = at, bytes = structure(want, made, where) .. module_list(modules, places) .. map
                      .. text }
end

---Modules, the information, and what EAX and EBX hold at the entry (3.2).
function M.finish(source, want, made)
  place_modules(source, want, made)
  made.info = make_info(source, want, made)
  made.patches = place.bios_data(want, made)
  made.regs = { eax = LOADER_MAGIC, ebx = made.info.at }
end

return M
