-- image/elf.lua - ELF executables for the 80386 and x86-64: System V ABI (gABI 4.1), chapter 4 "ELF
-- Header" and "Sections", chapter 5 "Program Header"; the processor supplements for i386 and amd64.
--
-- What loading does not need is not checked: sections, alignment, sizes that only describe the
-- header itself. Errors speak as readelf does.

local plan = require "minikvm.image.plan"

local ult, refuse, inside = math.ult, plan.refuse, plan.inside

local M = {}

local CLASS_32 <const>, CLASS_64 <const> = 1, 2
local LITTLE_ENDIAN <const>, EXEC <const> = 1, 2
local I386 <const>, X86_64 <const> = 3, 62
local LOAD <const>, DYNAMIC <const>, INTERP <const> = 1, 2, 3
local PN_XNUM <const> = 0xffff
local HIGH_BASE <const> = 0x80000000

local KINDS <const> = {
  [0] = "NONE", "REL (Relocatable file): link it first", "EXEC",
  "DYN (Position-Independent Executable or shared object): link it with -static -no-pie",
  "CORE (Core file)",
}

---By class: bytes and layout of the ELF header behind e_ident, of a program header, of a section
---header, of a symbol; the highest address.
M.CLASSES = {
  [CLASS_32] = { bits = 32, header = 52, fields = "<I2I2I4I4I4I4I4I2I2I2I2I2I2", program = 32,
                 section = 40, symbol = 16, top = 0xffffffff },
  [CLASS_64] = { bits = 64, header = 64, fields = "<I2I2I4I8I8I8I4I2I2I2I2I2I2", program = 56,
                 section = 64, symbol = 24, top = -1 },
}

---@class minikvm.image.elf
---@field class table  of CLASSES
---@field type integer
---@field machine integer
---@field entry integer
---@field phoff integer
---@field shoff integer
---@field phentsize integer
---@field phnum integer
---@field shentsize integer
---@field shnum integer
---@field shstrndx integer

---The ELF header; raises when it is none of this machine's kind.
---@return minikvm.image.elf
function M.header(source)
  local head = source.head
  if not plan.is_elf(source) then
    refuse(source, "ENOEXEC", "not an ELF file: it has the wrong magic bytes at the start")
  elseif #head < 16 then
    refuse(source, "ENOEXEC", "the file ends within the ELF header")
  end
  local class, data = head:byte(5, 6)
  local kind = M.CLASSES[class]
  if not kind then
    refuse(source, "ENOEXEC", "ELF header: Class 0x%x is neither ELF32 nor ELF64", class)
  elseif data ~= LITTLE_ENDIAN then
    refuse(source, "ENOEXEC", "ELF header: Data 0x%x is not 2's complement, little endian", data)
  elseif #head < kind.header then
    refuse(source, "ENOEXEC", "the file ends within the ELF header")
  end
  local h = { class = kind }
  h.type, h.machine, h.version, h.entry, h.phoff, h.shoff, h.flags, h.ehsize, h.phentsize, h.phnum,
    h.shentsize, h.shnum, h.shstrndx = kind.fields:unpack(head, 17)
  return h
end

---Raises unless it is linked to run where it says.
function M.check_type(source, h)
  if h.type ~= EXEC then
    refuse(source, "ENOEXEC", "ELF header: Type must be EXEC, not %s",
           KINDS[h.type] or ("0x%x"):format(h.type))
  end
end

---The machine that the class must go with: x32 and its like are refused.
function M.check_machine(source, h)
  local narrow = h.class.bits == 32
  if h.machine == (narrow and I386 or X86_64) then return end
  if h.machine == I386 or h.machine == X86_64 then
    refuse(source, "ENOEXEC", "ELF header: Class %s with Machine %s", narrow and "ELF32" or "ELF64",
           narrow and "Advanced Micro Devices X86-64" or "Intel 80386")
  end
  refuse(source, "ENOEXEC", "ELF header: Machine %d is neither Intel 80386 nor Advanced Micro "
    .. "Devices X86-64", h.machine)
end

local function check_bits(source, h, want)
  if (h.class.bits == 32) == (want.bits ~= 64) then return end
  if h.class.bits == 32 then
    refuse(source, "EINVAL", "a program for Intel 80386 does not run in long mode: %s",
           plan.as_mode(M.mode(source)))
  end
  refuse(source, "EINVAL", "a program for Advanced Micro Devices X86-64 runs in mode=\"long\" only "
    .. "(minikvm run: --mode long)")
end

local function check_program_headers(source, h)
  local size = h.class.program
  if h.phnum == 0 then
    refuse(source, "ENOEXEC", "There are no program headers in this file")
  elseif h.phnum == PN_XNUM then
    refuse(source, "ENOEXEC", "ELF header: Number of program headers: %d: extended numbering is "
      .. "not supported", h.phnum)
  elseif h.phentsize ~= size then
    refuse(source, "ENOEXEC", "ELF header: Size of program headers: %d, not %d", h.phentsize, size)
  elseif not inside(h.phoff, h.phnum * size, source.size) then
    refuse(source, "ENOEXEC", "ELF header: Start of program headers: 0x%x: %d of them do not fit "
      .. "into the file's %d bytes", h.phoff, h.phnum, source.size)
  end
end

---Goes through the program headers: number from 0, type, offset, vaddr, paddr, filesz, memsz,
---flags, align.
---@param h minikvm.image.elf
function M.program_headers(source, h)
  check_program_headers(source, h)
  local size, wide = h.class.program, h.class.bits == 64
  local bytes, i = source:read(h.phoff, h.phnum * size), -1
  return function()
    i = i + 1
    if i == h.phnum then return nil end
    local kind, offset, vaddr, paddr, filesz, memsz, flags, align
    if wide then
      kind, flags, offset, vaddr, paddr, filesz, memsz, align =
        ("<I4I4i8i8i8i8i8i8"):unpack(bytes, i * size + 1)
    else
      kind, offset, vaddr, paddr, filesz, memsz, flags, align =
        ("<I4I4I4I4I4I4I4I4"):unpack(bytes, i * size + 1)
    end
    return i, kind, offset, vaddr, paddr, filesz, memsz, flags, align
  end
end

---What every loader wants of a LOAD segment.
function M.check_segment(source, h, i, offset, vaddr, paddr, filesz, memsz)
  local function bad(format, ...)
    refuse(source, "ENOEXEC", "program header %d: LOAD: " .. format, i, ...)
  end
  local top = h.class.top
  if ult(memsz, filesz) then
    bad("FileSiz 0x%x is larger than MemSiz 0x%x", filesz, memsz)
  elseif filesz ~= 0 and not inside(offset, filesz, source.size) then
    bad("Offset 0x%x + FileSiz 0x%x lies beyond the file's %d bytes", offset, filesz, source.size)
  elseif memsz ~= 0 and ult(top - vaddr, memsz - 1) then
    bad("VirtAddr 0x%x + MemSiz 0x%x wraps around", vaddr, memsz)
  elseif memsz ~= 0 and ult(top - paddr, memsz - 1) then
    bad("PhysAddr 0x%x + MemSiz 0x%x wraps around", paddr, memsz)
  end
end

---Linked high and with no physical addresses of their own (p_paddr = p_vaddr), segments go where
---the mode maps their addresses to.
local function physical(want, paddr, memsz)
  if want.bits == 16 then return paddr + want.at end
  local high = want.high or 0
  if high ~= 0 and not ult(paddr, high) and not inside(paddr, memsz, want.limit) then
    return paddr - high
  end
  return paddr
end

---A file that names an interpreter and has nothing to link dynamically is static all the same: so
---unikernels keep a host from starting them.
local function check_interpreter(source, interpreter, dynamic)
  if interpreter and dynamic then
    refuse(source, "ENOEXEC", "program header %d: INTERP: it is dynamically linked: link it with "
      .. "-static", interpreter)
  end
end

local function load_segments(source, want, h)
  local list, interpreter, dynamic = {}, nil, false
  for i, kind, offset, vaddr, paddr, filesz, memsz in M.program_headers(source, h) do
    if kind == INTERP then interpreter = i end
    dynamic = dynamic or kind == DYNAMIC
    if kind == LOAD then
      M.check_segment(source, h, i, offset, vaddr, paddr, filesz, memsz)
      if memsz ~= 0 then
        list[#list + 1] = { at = physical(want, paddr, memsz), linear = vaddr,
                            offset = filesz ~= 0 and offset or 0, file_bytes = filesz,
                            mem_bytes = memsz }
      end
      if #list > plan.SEGMENTS_MAX then
        refuse(source, "E2BIG", "more than %d program headers of Type LOAD", plan.SEGMENTS_MAX)
      end
    end
  end
  check_interpreter(source, interpreter, dynamic)
  if #list == 0 then
    refuse(source, "ENOEXEC", "no program header of Type LOAD: there is nothing to load")
  end
  return list
end

---The entry is linear; some linker scripts make it physical instead. Neither matters when the
---caller starts it elsewhere.
local function check_entry(source, want, h, made)
  if want.entry or want.symbol or plan.segment(made, h.entry)
     or plan.segment(made, h.entry, true) then
    return
  end
  refuse(source, "ENOEXEC", "ELF header: Entry point address 0x%x lies in no LOAD segment", h.entry)
end

---@param any_class boolean?  a Multiboot kernel may be of either class
function M.segments(source, want, _, any_class)
  local h = M.header(source)
  M.check_type(source, h)
  M.check_machine(source, h)
  if not any_class then check_bits(source, h, want) end
  local made = { segments = load_segments(source, want, h), entry = h.entry }
  check_entry(source, want, h, made)
  return made
end

---The mode that a program is for. One of 32 bits that is to be loaded above 2 GiB expects RAM
---there, as paged mode has it.
function M.mode(source)
  local h = M.header(source)
  if h.class.bits == 64 then return "long" end
  local lowest = -1
  for _, kind, _, _, paddr, _, memsz in M.program_headers(source, h) do
    if kind == LOAD and memsz ~= 0 and ult(paddr, lowest) then lowest = paddr end
  end
  return lowest ~= -1 and lowest >= HIGH_BASE and "paged" or "protected"
end

return M
