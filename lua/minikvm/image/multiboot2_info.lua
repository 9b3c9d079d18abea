-- image/multiboot2_info.lua - what a Multiboot2 kernel is told: Multiboot2 Specification 2.0,
-- section 3.6, tags on boundaries of 8.
--
-- Given: command line, loader's name, modules, basic memory information, memory map, framebuffer,
-- the kernel's ELF sections with those that it does not load itself, RSDP when there is one, the
-- base of a relocatable kernel. Not given, for there is none: boot device, VBE, APM, EFI, SMBIOS,
-- network. The fields of the ELF sections' tag have 32 bits, as GRUB has them and kernels read
-- them.

local place = require "minikvm.image.place"
local plan = require "minikvm.image.plan"

local refuse = plan.refuse

local M = {}

local END <const>, CMDLINE <const>, LOADER <const>, MODULE <const>, MEMORY <const>, MAP <const>,
  FRAMEBUFFER <const>, ELF_SECTIONS <const>, ACPI_OLD <const>, ACPI_NEW <const>, BASE <const> =
  0, 1, 2, 3, 4, 6, 8, 9, 14, 15, 21
local NAME <const> = "minikvm"
local MODULES_MAX <const>, SECTIONS_MAX <const> = 64, 4096
local LOWEST <const> = 0x1000
local MAP_ENTRY <const>, MAP_VERSION <const> = 24, 0
local RGB <const> = 1 -- framebuffer_type
local NOBITS <const>, ALLOC <const> = 8, 2 -- of sections

local function tag(kind, fields)
  local size = 8 + #fields
  return ("<I4I4"):pack(kind, size) .. fields .. ("\0"):rep(-size & 7)
end

-- ---- modules ----

---A place above the kernel and the first MiB, or below the kernel when there is no room there;
---page-aligned as all modules are (3.1.9).
local function find_place(source, want, made, what, bytes)
  return place.above(want, made, bytes, place.behind(made))
    or place.find(source, want, made, what, bytes, place.HIGH_START)
end

local function place_modules(source, want, made)
  made.modules = {}
  for i, m in ipairs(source.modules or {}) do
    if i > MODULES_MAX then refuse(source, "E2BIG", "more than %d modules", MODULES_MAX) end
    made.modules[i] = { source = m, at = find_place(source, want, made, m.name, m.size) }
  end
end

local function module_tags(source, made)
  local list = {}
  for i, m in ipairs(made.modules) do
    list[i] = tag(MODULE, ("<I4I4"):pack(m.at, m.at + m.source.size)
                    .. plan.terminated(source, "the string of module " .. m.source.name,
                                       m.source.text))
  end
  return table.concat(list)
end

-- ---- memory ----

local function memory_tags(want)
  local entries = {}
  for i, r in ipairs(place.memory_map(want)) do
    entries[i] = ("<I8I8I4I4"):pack(r[1], r[2] - r[1], r[3], 0)
  end
  return tag(MEMORY, ("<I4I4"):pack(place.kibibytes(want)))
    .. tag(MAP, ("<I4I4"):pack(MAP_ENTRY, MAP_VERSION) .. table.concat(entries))
end

---Direct colours: bits of red, green and blue, each by position and size.
local function framebuffer_tag(f)
  return tag(FRAMEBUFFER, ("<I8I4I4I4BBI2BBBBBB"):pack(f.at, f.pitch, f.width, f.height, 32, RGB, 0,
                                                       16, 8, 8, 8, 0, 8))
end

---A copy of the RSDP, of ACPI 1.0 or of a later one.
local function acpi_tag(rsdp)
  return tag(rsdp.revision < 2 and ACPI_OLD or ACPI_NEW, rsdp.bytes)
end

-- ---- ELF sections ----

---A part of the kernel's file, to be loaded as a module is.
local function part(source, offset, bytes, name)
  return { name = name, size = bytes,
           put = function(_, vm, at, from, n) source:put(vm, at, offset + from, n) end }
end

---Where a section lies in the file that the kernel does not load itself; nil for others.
local function unloaded_section(source, header, index, wide)
  local kind = ("<I4"):unpack(header, 5)
  local flags, address, offset, size = (wide and "<I8I8I8I8" or "<I4I4I4I4"):unpack(header, 9)
  if kind == 0 or kind == NOBITS or size == 0 or flags & ALLOC ~= 0 or address ~= 0 then return end
  if not plan.inside(offset, size, source.size) then
    refuse(source, "ENOEXEC", "section %d: Offset 0x%x + Size 0x%x lies beyond the file's %d bytes",
           index, offset, size, source.size)
  end
  return { index = index, offset = offset, size = size }
end

---Puts sections into RAM one behind the other, each on pages of its own.
local function place_sections(source, want, made, sections)
  local bytes = 0
  for _, s in ipairs(sections) do s.at, bytes = bytes, bytes + place.page_up(s.size) end
  local base = bytes > 0 and find_place(source, want, made, "the kernel's sections", bytes)
  for _, s in ipairs(sections) do
    s.at = base + s.at
    made.modules[#made.modules + 1] = { source = part(source, s.offset, s.size, "section"),
                                        at = s.at }
  end
end

---The section headers, with addresses of those that are put into RAM here.
local function sections_tag(source, want, made)
  local elf = require "minikvm.image.elf"
  local h = elf.header(source)
  local headers = require("minikvm.image.symbols").section_headers(source, h)
  if not headers then return "" end
  if h.shnum > SECTIONS_MAX then
    refuse(source, "E2BIG", "ELF header: Number of section headers: %d, more than %d", h.shnum,
           SECTIONS_MAX)
  end
  local size, wide, list, sections = h.class.section, h.class.bits == 64, {}, {}
  for i = 0, h.shnum - 1 do
    list[i + 1] = headers:sub(i * size + 1, (i + 1) * size)
    sections[#sections + 1] = unloaded_section(source, list[i + 1], i, wide)
  end
  place_sections(source, want, made, sections)
  for _, s in ipairs(sections) do
    local header = list[s.index + 1]
    list[s.index + 1] = header:sub(1, wide and 16 or 12) .. (wide and "<I8" or "<I4"):pack(s.at)
      .. header:sub(wide and 25 or 17)
  end
  return tag(ELF_SECTIONS, ("<I4I4I4"):pack(h.shnum, size, h.shstrndx) .. table.concat(list))
end

-- ---- all of it ----

---Puts modules and sections into made.modules; the information and where it is.
---@return { at: integer, bytes: string }
function M.make(source, want, made)
  place_modules(source, want, made)
  local rsdp = want.rsdp and want.rsdp()
  local tags = { tag(CMDLINE, plan.terminated(source, "the command line", want.cmdline or "")),
                 tag(LOADER, NAME .. "\0"), module_tags(source, made), memory_tags(want) }
  if made.framebuffer then tags[#tags + 1] = framebuffer_tag(made.framebuffer) end
  if plan.is_elf(source) then tags[#tags + 1] = sections_tag(source, want, made) end
  if rsdp then tags[#tags + 1] = acpi_tag(rsdp) end
  if made.base then tags[#tags + 1] = tag(BASE, ("<I4"):pack(made.base)) end
  tags[#tags + 1] = tag(END, "")
  local bytes = table.concat(tags)
  local at = place.find(source, want, made, "the Multiboot2 information", 8 + #bytes, LOWEST)
  return { at = at, bytes = ("<I4I4"):pack(8 + #bytes, 0) .. bytes }
end

return M
