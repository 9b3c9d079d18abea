-- image/executable.lua - an ELF64 program for the higher half, as a boot protocol loads it: its
-- LOAD segments one after the other in RAM as they are in the address space, its entry and its
-- words there.

local elf = require "minikvm.image.elf"
local plan = require "minikvm.image.plan"

local ult, refuse, inside = math.ult, plan.refuse, plan.inside

local M = {}

M.HIGH = 0xffffffff80000000 -- programs are at or above this address
local EXEC <const>, DYN <const> = 2, 3
local LOAD <const>, DYNAMIC <const> = 1, 2
local PAGE <const>, ALIGN_MAX <const> = 4096, 2 << 20
local SPAN_MAX <const> = 1 << 31

---@class minikvm.image.executable
---@field source minikvm.image.source
---@field segments table[]  by address: vaddr, offset, filesz, memsz, flags
---@field entry integer  as in the file
---@field low integer  the first page, without the slide
---@field span integer  bytes, whole pages
---@field align integer  a power of 2, a page at least
---@field slide integer  what is added to all addresses
---@field words table<integer, integer>  what relocations change, by address without the slide
local Executable = {}
Executable.__index = Executable

-- ---- what is in it ----

---The segment that holds these bytes, without the slide; nil when none does.
function Executable:segment(at, bytes)
  for _, s in ipairs(self.segments) do
    if inside(at - s.vaddr, bytes, s.memsz) then return s end
  end
end

---Bytes of the file that lie in one segment; nil otherwise.
---@return string?
function Executable:bytes(at, bytes)
  for _, s in ipairs(self.segments) do
    if inside(at - s.vaddr, bytes, s.filesz) then
      return self.source:read(s.offset + at - s.vaddr, bytes)
    end
  end
end

---A quadword as it is once the program is loaded; 0 outside of it.
---@return integer
function Executable:u64(at)
  if self.words[at] then return self.words[at] end
  local bytes = self:bytes(at, 8)
  return bytes and (("<i8"):unpack(bytes)) or 0
end

---Whether code may run at an address, with the slide.
function Executable:runs_at(address)
  local s = self:segment(address - self.slide, 1)
  return s ~= nil and s.flags & 1 ~= 0
end

-- ---- reading it ----

local function add_segment(source, h, list, i, ...)
  local offset, vaddr, paddr, filesz, memsz, flags, align = ...
  elf.check_segment(source, h, i, offset, vaddr, paddr, filesz, memsz)
  if memsz == 0 then return end
  if #list == plan.SEGMENTS_MAX then
    refuse(source, "E2BIG", "more than %d program headers of Type LOAD", plan.SEGMENTS_MAX)
  end
  list[#list + 1] = { vaddr = vaddr, offset = filesz ~= 0 and offset or 0, filesz = filesz,
                      memsz = memsz, flags = flags, align = align, number = i }
end

---LOAD segments by address, and where the dynamic section is.
local function read_headers(source, h)
  local list, dynamic = {}, nil
  for i, kind, offset, vaddr, paddr, size, memsz, flags, align in elf.program_headers(source, h) do
    if kind == LOAD then
      add_segment(source, h, list, i, offset, vaddr, paddr, size, memsz, flags, align)
    elseif kind == DYNAMIC then
      dynamic = { offset = offset, size = size }
    end
  end
  if #list == 0 then
    refuse(source, "ENOEXEC", "no program header of Type LOAD: there is nothing to load")
  end
  table.sort(list, function(a, b) return ult(a.vaddr, b.vaddr) end)
  return list, dynamic
end

---The segments' own alignment, as far as it makes sense.
local function alignment(list)
  local most = PAGE
  for _, s in ipairs(list) do
    if s.align > most and s.align & s.align - 1 == 0 then most = s.align end
  end
  return math.min(most, ALIGN_MAX)
end

---How far a program is moved: into the higher half, when it can be.
local function choose_slide(source, h, list, low)
  if not ult(low, M.HIGH) then return 0 end
  if h.type == DYN then return M.HIGH - low end
  refuse(source, "ENOEXEC", "program header %d: LOAD: VirtAddr 0x%x: a kernel that is not "
    .. "relocatable is to be linked at 0x%x or above", list[1].number, list[1].vaddr, M.HIGH)
end

---From the first page to the end of the last one.
local function extent(source, list, align)
  local low, finish = list[1].vaddr & -align, 0
  for _, s in ipairs(list) do
    local to = s.vaddr - low + s.memsz
    if ult(SPAN_MAX, s.memsz) or ult(SPAN_MAX, to) then
      refuse(source, "ENOEXEC", "program header %d: LOAD: VirtAddr 0x%x + MemSiz 0x%x is more than "
        .. "2 GiB from the first one", s.number, s.vaddr, s.memsz)
    end
    finish = math.max(finish, to)
  end
  return low, (finish + PAGE - 1) & -PAGE
end

---Where segments begin whose bytes lie in the same place.
local function check_overlap(source, list)
  for i = 2, #list do
    local before, s = list[i - 1], list[i]
    if ult(s.vaddr - before.vaddr, before.memsz) then
      refuse(source, "EINVAL", "segments %d and %d overlap at 0x%x", before.number, s.number,
             s.vaddr)
    end
  end
end

---Whether a file can be such a program, by its headers alone: raises what is wrong with them.
---@return boolean
function M.is_candidate(source)
  local h = elf.header(source)
  if h.class.bits ~= 64 or (h.type ~= EXEC and h.type ~= DYN) then return false end
  local list = read_headers(source, h)
  return h.type == DYN or not ult(list[1].vaddr, M.HIGH)
end

---Its LOAD segments by address.
function M.segments(source)
  return (read_headers(source, elf.header(source)))
end

---@return minikvm.image.executable  raises what is wrong with the file
function M.read(source)
  local h = elf.header(source)
  if h.type ~= EXEC and h.type ~= DYN then elf.check_type(source, h) end
  elf.check_machine(source, h)
  if h.class.bits ~= 64 then refuse(source, "ENOEXEC", "ELF header: Class ELF32, not ELF64") end
  local list, dynamic = read_headers(source, h)
  check_overlap(source, list)
  local align = alignment(list)
  local low, span = extent(source, list, align)
  local slide = choose_slide(source, h, list, low)
  if ult(low + slide + span - 1, low + slide) then
    refuse(source, "ENOEXEC", "its 0x%x bytes from 0x%x on wrap around", span, low + slide)
  end
  local executable = setmetatable({ source = source, segments = list, entry = h.entry, low = low,
                                    span = span, align = align, slide = slide, words = {} },
                                  Executable)
  if dynamic and h.type == DYN then
    executable.words = require("minikvm.image.relocations").read(source, executable, dynamic.offset,
                                                                 dynamic.size)
  end
  return executable
end

return M
