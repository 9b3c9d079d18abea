-- image/limine_machine.lua - the machine that a kernel finds which was loaded by the Limine boot
-- protocol: PROTOCOL.md, "Memory Layout at Entry", "Caching", "Machine State at Entry" (x86-64),
-- "Memory Map Feature".
--
-- The loader's part of RAM is one piece: page tables, the GDT with what is answered, the stack. It
-- is "bootloader reclaimable". There is no APIC and no IOMMU.

local acpi_area = require "minikvm.image.acpi"
local answers = require "minikvm.image.limine_answers"
local pages = require "minikvm.image.pages"
local place = require "minikvm.image.place"
local plan = require "minikvm.image.plan"

local refuse = plan.refuse

local M = {}

local PAGE <const>, GIB4 <const> = 4096, 1 << 32
local HHDM <const> = answers.HHDM
local ACPI_FIRST <const>, ACPI_END <const> = acpi_area.FIRST, acpi_area.END

-- Types of memory.
local USABLE <const>, RESERVED <const>, RECLAIMABLE <const>, KERNEL <const>, FRAMEBUFFER <const>,
  RESERVED_MAPPED <const> = 0, 1, 5, 6, 7, 8

-- Null; code and data of 16, of 32, of 64 bits.
local GDT <const> = { 0, 0x00009b000000ffff, 0x000093000000ffff, 0x00cf9b000000ffff,
                      0x00cf93000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff }
local CS <const>, DS <const> = 0x28, 0x30
local CR0 <const>, CR4 <const> = 0x80010011, 0x20 -- PE, ET, WP, PG; PAE
local LME <const>, LMA <const>, NXE <const> = 0x100, 0x400, 0x800
local PAT <const> = 0x0007010500070406 -- WB, WT, UC-, UC, WP, WC; the rest as at reset

-- ---- the memory map ----

---RAM and what is in it, without gaps: { first, end, type }, each from RAM's ranges.
local function ram_ranges(want)
  local list = {}
  for _, r in ipairs(place.memory_map(want)) do
    local first = math.max(r[1], PAGE) -- page 0 is never usable
    if r[1] == 0 then list[1] = { 0, PAGE, RESERVED } end
    if first < r[2] then list[#list + 1] = { first, r[2], r[3] == 1 and USABLE or RESERVED } end
  end
  return list
end

---Cuts a range out of the usable ones that it lies in.
local function cut(list, first, finish, kind)
  local result = {}
  for _, r in ipairs(list) do
    if r[3] == USABLE and first < r[2] and r[1] < finish then
      if r[1] < first then result[#result + 1] = { r[1], first, USABLE } end
      if finish < r[2] then result[#result + 1] = { finish, r[2], USABLE } end
    else
      result[#result + 1] = r
    end
  end
  result[#result + 1] = { first, finish, kind }
  return result
end

---The memory map by address.
---@param loader { [1]: integer, [2]: integer }?  the loader's part: first byte, end
---@return integer[][]
local function memory_map(want, made, loader, acpi)
  local list = ram_ranges(want)
  list = cut(list, made.base, made.base + made.executable.span, KERNEL)
  for _, m in ipairs(made.modules) do
    list = cut(list, m.at, place.page_up(m.at + m.source.size), KERNEL)
  end
  if loader then list = cut(list, loader[1], loader[2], RECLAIMABLE) end
  if acpi then list[#list + 1] = { ACPI_FIRST, ACPI_END, RESERVED_MAPPED } end
  local f = made.framebuffer
  if f then list[#list + 1] = { f.at, f.at + f.bytes, FRAMEBUFFER } end
  table.sort(list, function(a, b)
    return a[1] < b[1] or a[1] == b[1] and a[2] < b[2]
  end)
  return list
end

-- ---- page tables ----

local function map_kernel(tables, made, nx)
  local slide = made.executable.slide
  for _, s in ipairs(made.executable.segments) do
    local first = s.vaddr & -PAGE
    local flags = (s.flags & 2 ~= 0 and pages.WRITE or 0)
      | (nx and s.flags & 1 == 0 and pages.NO_EXECUTE or 0)
    pages.map(tables, first + slide, made.base + first - made.executable.low,
              (s.vaddr + s.memsz - first + PAGE - 1) & -PAGE, flags)
  end
end

---Memory at its address plus `to`; the framebuffer is none of it.
local function map_around(tables, to, first, finish, f)
  local from, gap = math.min(math.max(f and f.at or finish, first), finish), finish
  if f and f.at < finish then gap = math.max(place.page_up(f.at + f.bytes), first) end
  pages.map(tables, to + first, first, from - first, pages.WRITE)
  if gap < finish then pages.map(tables, to + gap, gap, finish - gap, pages.WRITE) end
end

---Before base revision 3 the first 4 GiB are mapped, whatever they are.
local function map_all(tables, to, first, want, f)
  map_around(tables, to, first, GIB4, f)
  for _, r in ipairs(want.ranges or {}) do
    if r[1] >= GIB4 then pages.map(tables, to + r[1], r[1], r[2], pages.WRITE) end
  end
end

---From base revision 3 on: what is usable, in use by the kernel or the loader; and ACPI's.
local function map_listed(tables, want, acpi)
  for _, r in ipairs(ram_ranges(want)) do
    if r[3] == USABLE then pages.map(tables, HHDM + r[1], r[1], r[2] - r[1], pages.WRITE) end
  end
  if acpi then
    pages.map(tables, HHDM + ACPI_FIRST, ACPI_FIRST, ACPI_END - ACPI_FIRST, pages.WRITE)
  end
end

local function make_tables(want, made, features, acpi)
  local tables, f = pages.new(), made.framebuffer
  if made.limine.revision < 3 then
    map_all(tables, HHDM, 0, want, f)
    if made.limine.revision == 0 then map_all(tables, 0, PAGE, want, f) end
  else
    map_listed(tables, want, acpi)
  end
  if f then
    local flags = pages.WRITE | (features.pat and pages.WRITE_COMBINING or 0)
    pages.map(tables, HHDM + f.at, f.at, place.page_up(f.bytes), flags)
  end
  map_kernel(tables, made, features.nx)
  return tables
end

-- ---- all of it ----

local function place_modules(source, want, made)
  made.modules = {}
  local list = { table.unpack(source.modules or {}) }
  if made.limine.by_id[answers.FILE] then -- the whole file, for the kernel to read
    list[#list + 1] = { name = source.name, size = source.size, text = "", kernel = true,
                        put = function(_, ...) source:put(...) end }
  end
  for i, m in ipairs(list) do
    made.modules[i] = { source = m, at = place.find(source, want, made, m.name, m.size,
                                                    place.HIGH_START) }
  end
end

---Where the loader's part of RAM goes: page tables, data, stack.
local function place_loader(source, want, made, tables, data, stack)
  local bytes = tables + data + stack
  return place.find(source, want, made, "page tables and a stack", bytes, place.HIGH_START), bytes
end

---The kernel's entry: what the Entry Point feature says, or the file.
local function check_entry(source, want, made, entry)
  made.entry = entry or made.entry
  if want.entry or want.symbol or made.executable:runs_at(made.entry) then return end
  refuse(source, "ENOEXEC", "Limine: %s 0x%x lies in no segment that can be executed",
         entry and "Entry Point feature: entry" or "ELF header: Entry point address", made.entry)
end

local function handoff(at, gdt, stack_top, features)
  return { cr0 = CR0, cr3 = at, cr4 = CR4, efer = LME | LMA | (features.nx and NXE or 0),
           pat = features.pat and PAT or 0, rsp = HHDM + stack_top - 8, -- a return address of 0
           gdt = HHDM + gdt, gdt_limit = #GDT * 8 - 1, cs = CS, ds = DS, code = GDT[CS // 8 + 1],
           data = GDT[DS // 8 + 1] }
end

---Modules, answers, page tables and registers, into the plan.
function M.finish(source, want, made)
  local features = want.features and want.features() or { nx = true, pat = true }
  local rsdp = want.rsdp and want.rsdp()
  local acpi = rsdp and made.limine.revision >= 4
  local context = { source = source, want = want, made = made, rsdp = rsdp, features = features }
  place_modules(source, want, made)
  local tables = make_tables(want, made, features, acpi)
  local stack = answers.stack_size(context)
  local gdt = ("<i8"):rep(#GDT):pack(table.unpack(GDT))
  context.map = memory_map(want, made, nil, acpi)
  local spare = 8 * 32 -- the loader's part makes a few entries more
  local data = place.page_up(#gdt + #answers.make(context, 0) + spare)
  local at, bytes = place_loader(source, want, made, pages.size(tables), data, stack)
  local gdt_at = at + pages.size(tables)
  context.map = memory_map(want, made, { at, at + bytes }, acpi)
  local answered, patches, entry = answers.make(context, gdt_at + #gdt)
  made.info = { at = at, bytes = pages.pack(tables, at) .. gdt .. answered }
  made.zeros = { { at = at + #made.info.bytes, bytes = bytes - #made.info.bytes } }
  made.patches = patches
  check_entry(source, want, made, entry)
  made.handoff = handoff(at, gdt_at, at + bytes, features)
end

return M
