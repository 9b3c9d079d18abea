-- image/plan.lua - what an image is, and what of it goes where: as data, without a VM.
--
-- Every field of a file is checked before it is used. Addresses and sizes are integers of 64 bits,
-- those of ELF64 unsigned: they are compared by math.ult, and sums are avoided where they could
-- overflow. Nothing here reads more of a file than its headers.

local ult = math.ult

local M = {}

M.SEGMENTS_MAX = 64
local MULTIBOOT <const> = "\x02\xb0\xad\x1b"
M.HEAD = 8192 -- bytes at the start of a file that tell what it is
local HIGH_BASE <const> = 0x80000000 -- paged mode: where RAM appears once more

---@class minikvm.image.source
---@field name string  for messages
---@field size integer
---@field head string  its first bytes, 8192 at the most
---@field bytes string?  all of it; or:
---@field read fun(self, offset: integer, bytes: integer): string  raises when that fails
---@field modules { name: string, size: integer, text: string }[]?  for Multiboot

---@class minikvm.image.want
---@field mode "real"|"protected"|"paged"|"long"
---@field bits 16|32|64  of the code that the mode starts with
---@field paging boolean?
---@field limit integer  images end at or below it; the RAM that a Multiboot kernel is told of
---@field ranges { [1]: integer, [2]: integer }[]?  RAM elsewhere: address, size
---@field high integer?  the linear address where physical 0 is mapped once more
---@field format string?  nil: what detect() says
---@field at integer?  flat: where it goes; ELF in real mode: what its addresses are relative to
---@field has_at boolean?  `at` was asked for
---@field entry integer?  instead of the file's own
---@field symbol string?  or this one's value
---@field cmdline string?  Multiboot
---@field blocks minikvm.image.block[]?  what minikvm keeps in RAM
---@field busy minikvm.image.segment[]?  earlier images: blocks do not move there

---@class minikvm.image.segment
---@field at integer  guest-physical
---@field linear integer  where the program believes it to be (ELF: p_vaddr)
---@field offset integer  in the file
---@field file_bytes integer
---@field mem_bytes integer  what it has beyond file_bytes is zero

---@class minikvm.image.plan
---@field format "flat"|"boot"|"elf"|"multiboot"
---@field segments minikvm.image.segment[]
---@field entry integer  instruction pointer; linear in modes with paging, an offset in real mode
---@field at integer  where it was loaded to; ELF in real mode: the window's start
---@field cs integer?  real mode: the segment that `entry` belongs to; nil: that of the place
---@field regs { eax: integer?, ebx: integer?, edx: integer? }?  what the format says of them
---@field info { at: integer, bytes: string }?  the Multiboot information
---@field modules { source: table, at: integer }[]?

---Raises what vm:load returns as nil, text, code.
---@param source { name: string }
---@param code string  such as "ENOEXEC"
function M.refuse(source, code, format, ...)
  error({ code = code, text = ("%s: " .. format):format(source.name, ...) }, 0)
end

local refuse = M.refuse

---Whether `bytes` at `offset` lie inside `size`, all of them unsigned.
function M.inside(offset, bytes, size)
  return not ult(size, bytes) and not ult(size - bytes, offset)
end

local inside = M.inside

---How a user asks for a mode.
function M.as_mode(mode)
  return ('mode="%s" (minikvm run: --mode %s)'):format(mode, mode)
end

---The segment that holds a linear address, or with `physical` a guest-physical one; or nil.
function M.segment(plan, address, physical)
  for _, s in ipairs(plan.segments) do
    if ult(address - (physical and s.at or s.linear), s.mem_bytes) then return s end
  end
end

-- ---- what it is ----

function M.is_elf(source)
  return source.head:sub(1, 4) == "\x7fELF"
end

---Whether there is a Multiboot header that can be followed.
function M.is_multiboot(source)
  return source.head:find(MULTIBOOT, 1, true) ~= nil
    and require("minikvm.image.multiboot").header(source, true) ~= nil
end

local function is_boot_sector(source)
  return source.head:sub(511, 512) == "\x55\xaa"
end

---What an image is, for a mode:
---  multiboot  32 bits without paging, a header with the right checksum that can be followed
---  elf        it begins with ELF's magic number
---  boot       16 bits, exactly 512 bytes, with the signature
---  flat       everything else
---@return string format
function M.detect(source, want)
  if want.bits == 32 and not want.paging and M.is_multiboot(source) then return "multiboot" end
  if M.is_elf(source) then return "elf" end
  if want.bits == 16 and source.size == 512 and is_boot_sector(source) then return "boot" end
  return "flat"
end

---Whether mode() may have an answer: cheaper to ask.
function M.tells_mode(source)
  return M.is_elf(source) or is_boot_sector(source)
    or source.head:find(MULTIBOOT, 1, true) ~= nil
end

---The mode that the file says it is for; nil when it does not say. And the format, when that is not
---what detect() makes of it: an image of a whole disk is booted.
---@return string? mode
---@return string? format
function M.mode(source)
  if M.is_multiboot(source) then return "protected" end
  if M.is_elf(source) then return require("minikvm.image.elf").mode(source) end
  if is_boot_sector(source) and source.size % 512 == 0 then return "real", "boot" end
end

---Formats that nothing here loads, and that look like others.
local function refuse_foreign(source)
  if is_boot_sector(source) and source.head:sub(0x203, 0x206) == "HdrS" then
    refuse(source, "ENOEXEC", "a Linux kernel (bzImage) needs a boot loader: minikvm loads flat "
      .. "images, boot sectors, ELF and Multiboot; format=\"flat\" loads its bytes as they are")
  end
end

---The format, when none was asked for. What looks like one but cannot be loaded as that is refused.
local function choose_format(source, want)
  local format = M.detect(source, want)
  if want.has_at or format == "elf" or format == "multiboot" then return format end
  refuse_foreign(source)
  if want.bits ~= 16 and is_boot_sector(source) and source.size % 512 == 0 then
    refuse(source, "EINVAL", "a boot sector starts in real mode: %s; format=\"flat\" loads its "
      .. "bytes as they are", M.as_mode "real")
  elseif format == "flat" and want.mode ~= "protected" and M.is_multiboot(source) then
    refuse(source, "EINVAL", "a Multiboot kernel starts in 32-bit mode with paging off: %s; "
      .. "format=\"flat\" loads its bytes as they are", M.as_mode "protected")
  end
  return format
end

-- ---- checks that all formats share ----

local function check_range(source, want, what, at, bytes)
  if inside(at, bytes, want.limit) then return end
  for _, r in ipairs(want.ranges or {}) do
    if not ult(at, r[1]) and inside(at - r[1], bytes, r[2]) then return end
  end
  local room = ult(at, want.limit) and want.limit - at or 0
  refuse(source, "EFBIG", "%s%s bytes do not fit at 0x%x: there is room for %d", what,
         bytes < 0 and ("0x%x"):format(bytes) or ("%d"):format(bytes), at, room)
end

---Whether two ranges have a byte in common; they end below 2^63.
local function overlap(a, a_bytes, b, b_bytes)
  return a < b + b_bytes and b < a + a_bytes
end

M.overlap = overlap

local function check_segments(source, want, plan)
  local list = plan.segments
  local named = plan.format == "elf" or plan.format == "multiboot"
  for i, s in ipairs(list) do
    check_range(source, want, named and ("segment %d (VirtAddr 0x%x): "):format(i - 1, s.linear)
                or "", s.at, s.mem_bytes)
    for j = 1, i - 1 do
      if overlap(s.at, s.mem_bytes, list[j].at, list[j].mem_bytes) then
        refuse(source, "EINVAL", "segments %d and %d overlap in memory at 0x%x", j - 1, i - 1,
               math.max(s.at, list[j].at))
      end
    end
  end
end

---Where it starts: an address given is taken as it is; the file's own entry and its symbols are
---linear, and without paging code runs where it was put.
local function choose_entry(source, want, plan)
  if want.entry then
    plan.entry = want.entry
    return
  end
  if want.symbol and (plan.format == "elf" or plan.format == "multiboot") then
    plan.entry = require("minikvm.image.symbols").entry(source, want.symbol)
  elseif want.symbol then
    refuse(source, "ENOENT", "entry=%q: the image has no symbol table", want.symbol)
  end
  local s = M.segment(plan, plan.entry)
  if s and want.bits == 32 and not want.paging then
    plan.entry = plan.entry - s.linear + s.at
  elseif plan.format == "flat" and want.mode == "paged" then
    plan.entry = plan.entry + HIGH_BASE -- where kernels of this mode are linked
  end
end

local FORMATS <const> = { flat = "flat", boot = "flat", elf = "elf", multiboot = "multiboot" }

---What goes where, and where it starts; raises what refuse() raises.
---@param source minikvm.image.source
---@param want minikvm.image.want
---@return minikvm.image.plan
function M.make(source, want)
  local format = want.format or choose_format(source, want)
  if want.has_at and want.bits ~= 16 and format ~= "flat" then
    refuse(source, "EINVAL", "at= is for flat images; this one (format=%q) says itself where it "
      .. "goes", format)
  elseif source.modules and format ~= "multiboot" then
    refuse(source, "EINVAL", "modules= are for Multiboot; this image is format=%q", format)
  end
  local reader = require("minikvm.image." .. FORMATS[format])
  local plan = reader.segments(source, want, format)
  plan.format = format
  check_segments(source, want, plan)
  if want.blocks then require("minikvm.image.tables").place(source, want, plan) end
  if reader.finish then reader.finish(source, want, plan, format) end
  choose_entry(source, want, plan)
  plan.at = want.bits == 16 and not plan.cs and want.at or plan.segments[1].at
  return plan
end

return M
