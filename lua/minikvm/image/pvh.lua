-- image/pvh.lua - kernels that are ELF files with an entry point for PVH, as Linux's vmlinux is:
-- the x86/HVM direct boot ABI (Xen, docs/misc/pvh.pandoc; public/arch-x86/hvm/start_info.h, version
-- 1; public/elfnote.h). They start in 32-bit protected mode without paging, EBX pointing to what
-- they are told: modules, the first of which is Linux's initrd, command line, memory map.

local elf = require "minikvm.image.elf"
local place = require "minikvm.image.place"
local plan = require "minikvm.image.plan"

local refuse = plan.refuse

local M = {}

M.beside = "modules"

local NOTE <const> = 4 -- a program header's type
local NAME <const>, PHYS32_ENTRY <const> = "Xen\0", 18
local LINUX <const> = "Linux\0" -- the owner of notes
local NOTES_MAX <const> = 1 << 16 -- bytes looked at
local MAGIC <const>, VERSION <const> = 0x336ec578, 1
local INFO_SIZE <const>, MODULE_SIZE <const>, MAP_ENTRY_SIZE <const> = 56, 32, 24
local LOWEST <const> = 0x1000

-- ---- the note ----

---The first note in the bytes of a NOTE segment (gABI, "Note Section") of which `pick(name, kind,
---value)` returns something, and that; nil when there is none.
---@param step integer  what names and values are aligned to
local function find_in(bytes, step, pick)
  local function align(n) return (n + step - 1) & -step end
  local at = 1
  while at + 11 <= #bytes do
    local name_size, size, kind = ("<I4I4I4"):unpack(bytes, at)
    local value = at + align(12 + name_size)
    if value + size - 1 > #bytes then return nil end
    local found = pick(bytes:sub(at + 12, at + 11 + name_size), kind,
                       bytes:sub(value, value + size - 1))
    if found then return found end
    at = value + align(size)
  end
end

---The same for all of a file; raises what elf.header() and reading raise.
local function find_note(source, pick)
  for _, kind, offset, _, _, size, _, _, step in elf.program_headers(source, elf.header(source)) do
    if kind == NOTE and plan.inside(offset, size, source.size) then
      local bytes = source:read(offset, math.min(size, NOTES_MAX))
      local found = find_in(bytes, 4, pick) or step == 8 and find_in(bytes, 8, pick)
      if found then return found end
    end
  end
end

---@return integer? entry  physical
local function find_entry(source)
  return find_note(source, function(name, kind, value)
    return kind == PHYS32_ENTRY and name == NAME and #value >= 4 and (("<I4"):unpack(value)) or nil
  end)
end

---Whether a file is an ELF with such a note; what is wrong with a damaged one is said by elf.lua.
function M.is(source)
  if not plan.is_elf(source) then return false end
  local ok, entry = pcall(find_entry, source)
  return ok and entry ~= nil
end

---Whether such a file is a Linux kernel: its notes have an owner of that name (linux/elfnote-lto.h,
---linux/build-salt.h).
function M.is_linux(source)
  return M.is(source) and find_note(source, function(name) return name == LINUX or nil end) ~= nil
end

---Says how much RAM it takes when that is too little.
local function check_room(source, want, made)
  local top = 0
  for _, s in ipairs(made.segments) do top = math.max(top, s.at + s.mem_bytes) end
  if top <= want.limit or top > place.TOP or want.ranges and want.ranges[1] then return end
  refuse(source, "EFBIG", "the kernel needs RAM up to 0x%x, RAM ends at 0x%x: %s", top, want.limit,
         place.ram_it_takes(source, want, top))
end

function M.segments(source, want)
  plan.need_protected(source, want, "a kernel with a PVH note")
  local entry = find_entry(source)
  if not entry then refuse(source, "ENOEXEC", "it has no note of a PVH entry point") end
  local made = elf.segments(source, want, "pvh", true)
  if not plan.segment(made, entry, true) then
    refuse(source, "ENOEXEC", "its PVH entry point 0x%x lies in no LOAD segment", entry)
  end
  check_room(source, want, made)
  made.entry, made.physical = entry, true
  return made
end

-- ---- what is handed over: structure, modules, memory map, strings ----

local function place_modules(source, want, made)
  made.modules = {}
  for i, m in ipairs(source.modules or {}) do
    local at = place.below(want, made, m.size, want.limit, place.HIGH_START)
      or refuse(source, "EFBIG", "%s: %d bytes do not fit into RAM beside the kernel", m.name,
                m.size)
    made.modules[i] = { source = m, at = at }
  end
end

---Modules, what they and the kernel are told, and EBX.
function M.finish(source, want, made)
  place_modules(source, want, made)
  local texts = { plan.terminated(source, "the command line", want.cmdline or "") }
  for i, m in ipairs(made.modules) do
    texts[i + 1] = plan.terminated(source, "a module's text", m.source.text)
  end
  local map, rsdp = place.memory_map(want), want.rsdp and want.rsdp()
  local map_at = INFO_SIZE + #made.modules * MODULE_SIZE
  local text_at = map_at + #map * MAP_ENTRY_SIZE
  local at = place.find(source, want, made, "the boot parameters", text_at + #table.concat(texts),
                        LOWEST)
  local list, next_text = {}, at + text_at + #texts[1]
  for i, m in ipairs(made.modules) do
    list[i] = ("<I8I8I8I8"):pack(m.at, m.source.size, next_text, 0)
    next_text = next_text + #texts[i + 1]
  end
  for _, r in ipairs(map) do
    list[#list + 1] = ("<I8I8I4I4"):pack(r[1], r[2] - r[1], r[3], 0)
  end
  local info = ("<I4I4I4I4I8I8I8I8I4I4"):pack(MAGIC, VERSION, 0, #made.modules,
    #made.modules > 0 and at + INFO_SIZE or 0, at + text_at, rsdp and rsdp.at or 0, at + map_at,
    #map, 0)
  made.info = { at = at, bytes = info .. table.concat(list) .. table.concat(texts) }
  made.regs = { ebx = at }
end

return M
