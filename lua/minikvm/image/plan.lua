-- image/plan.lua - what an image is, and what of it goes where: as data, without a VM.
--
-- Every field of a file is checked before it is used. Addresses and sizes are integers of 64 bits,
-- those of ELF64 unsigned: they are compared by math.ult, and sums are avoided where they could
-- overflow. Nothing here reads more of a file than its headers.

local ult = math.ult

local M = {}

M.SEGMENTS_MAX = 64
local MULTIBOOT <const>, MULTIBOOT2 <const> = "\x02\xb0\xad\x1b", "\xd6\x50\x52\xe8"
M.HEAD = 8192 -- bytes at the start of a file that tell what it is
local START <const> = 32768 -- and those in which a Multiboot2 header is
local HIGH_BASE <const> = 0x80000000 -- paged mode: where RAM appears once more

---@class minikvm.image.source
---@field name string  for messages
---@field path string?  of the file that it is
---@field size integer
---@field head string  its first bytes, 8192 at the most
---@field bytes string?  all of it; or:
---@field read fun(self, offset: integer, bytes: integer): string  raises when that fails
---@field modules { name: string, size: integer, text: string }[]?
---@field initrd boolean?  there is one, and it is the only module

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
---@field linux boolean?  nothing but a Linux kernel
---@field entry integer?  instead of the file's own
---@field symbol string?  or this one's value
---@field cmdline string?  Multiboot
---@field blocks minikvm.image.block[]?  what minikvm keeps in RAM
---@field cpus integer?  that the VM has
---@field busy minikvm.image.segment[]?  earlier images: blocks do not move there
---@field framebuffer minikvm.framebuffer|false|nil  nil: when the kernel asks for one
---@field has_framebuffer minikvm.framebuffer?  that the VM has
---@field rsdp (fun(): { at: integer, revision: integer, bytes: string }?)?
---@field features { nx: boolean, pat: boolean, tsc_hz: integer? }?  of the processor
---@field now integer?  seconds since 1970

---@class minikvm.image.segment
---@field at integer  guest-physical
---@field linear integer  where the program is linked to run (ELF: p_vaddr)
---@field offset integer  in the file
---@field file_bytes integer
---@field mem_bytes integer  what it has beyond file_bytes is zero

---@class minikvm.image.plan
---@field format "flat"|"boot"|"elf"|"multiboot"|"multiboot2"|"limine"|"linux"|"pvh"
---@field segments minikvm.image.segment[]
---@field entry integer  instruction pointer; linear in modes with paging, an offset in real mode
---@field at integer  where it was loaded to; ELF in real mode: the window's start
---@field cs integer?  real mode: the segment that `entry` belongs to; nil: that of the place
---@field physical boolean?  `entry` is, and stays so
---@field regs { eax: integer?, ebx: integer?, edx: integer?, esi: integer? }?  what the format says
---@field info { at: integer, bytes: string }?  what is handed over
---@field modules { source: table, at: integer }[]?
---@field framebuffer minikvm.framebuffer?  that the VM is to have
---@field handoff table?  long mode: what all registers hold, as core.set_entry takes it
---@field zeros { at: integer, bytes: integer }[]?  more RAM that is to be zero
---@field patches { at: integer, bytes: string }[]?  over what was loaded
---@field slide integer?  what is added to the addresses in the file
---@field real boolean?  for real mode: linear addresses are physical ones

---Raises what vm:load returns as nil, text, code.
---@param source { name: string }
---@param code string  such as "ENOEXEC"
function M.refuse(source, code, format, ...)
  error({ code = code, text = ("%s: " .. format):format(source.name, ...) }, 0)
end

local refuse = M.refuse

local TEXT_MAX <const> = 4095

---A text that a kernel is told, with the NUL at its end; refused when it is longer than 4095 bytes
---or has a NUL in it.
---@param what string  "the command line"
function M.terminated(source, what, text)
  if #text > TEXT_MAX then
    refuse(source, "E2BIG", "%s is longer than %d bytes", what, TEXT_MAX)
  elseif text:find "%z" then
    refuse(source, "EINVAL", "%s has a NUL in it", what)
  end
  return text .. "\0"
end

---Whether `bytes` at `offset` lie inside `size`, all of them unsigned.
function M.inside(offset, bytes, size)
  return not ult(size, bytes) and not ult(size - bytes, offset)
end

local inside = M.inside

---How a user asks for a mode.
function M.as_mode(mode)
  return ('mode="%s" (minikvm run: --mode %s)'):format(mode, mode)
end

---Raises unless a mode is the one in which kernels for boot loaders of 32 bits start.
---@param what string  "a Multiboot kernel"
function M.need_protected(source, want, what)
  if want.bits == 32 and not want.paging then return end
  refuse(source, "EINVAL", "%s starts in 32-bit mode with paging off: %s", what,
         M.as_mode "protected")
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

---Whether an image that was loaded is an ELF file, and was taken for one.
---@param image { source: minikvm.image.source, plan: minikvm.image.plan }
function M.is_elf_image(image)
  return image.plan.format ~= "flat" and M.is_elf(image.source)
end

---The part of a file in which a Multiboot2 header is.
---@return string
function M.start(source)
  if source.size <= #source.head then return source.head end
  source.start = source.start or source:read(0, math.min(source.size, START))
  return source.start
end

---Whether there is a Multiboot2 header.
function M.is_multiboot2(source)
  return M.start(source):find(MULTIBOOT2, 1, true) ~= nil
    and require("minikvm.image.multiboot2").header(source) ~= nil
end

---Whether it is a 64-bit ELF file with requests of the Limine boot protocol.
function M.is_limine(source)
  return M.is_elf(source) and require("minikvm.image.limine").is(source)
end

---Whether there is a Multiboot header that can be followed.
function M.is_multiboot(source)
  return source.head:find(MULTIBOOT, 1, true) ~= nil
    and require("minikvm.image.multiboot").header(source, true) ~= nil
end

local function is_boot_sector(source)
  return source.head:sub(511, 512) == "\x55\xaa"
end

---The boot protocol by which an image starts in 32-bit mode without paging; nil when there is none.
---@return string?
function M.protected_format(source)
  return M.is_multiboot2(source) and "multiboot2" or M.is_multiboot(source) and "multiboot"
    or M.is_pvh(source) and "pvh" or nil
end

---What an image is, for a mode:
---  multiboot2 32 bits without paging, a header with the right checksum
---  multiboot  the same, one that can be followed
---  pvh        the same, ELF with the note
---  limine     64 bits, ELF with requests
---  linux      64 bits, a bzImage
---  elf        it begins with ELF's magic number
---  boot       16 bits, exactly 512 bytes, with the signature
---  flat       everything else
---@return string format
function M.detect(source, want)
  if want.bits == 32 and not want.paging then
    local format = M.protected_format(source)
    if format then return format end
  elseif want.bits == 64 and M.is_limine(source) then
    return "limine"
  end
  if M.is_elf(source) then return "elf" end
  if want.bits == 64 and M.is_bzimage(source) then return "linux" end
  if want.bits == 16 and source.size == 512 and is_boot_sector(source) then return "boot" end
  return "flat"
end

---Whether it is a Linux kernel with a boot loader's header.
function M.is_bzimage(source)
  return source.head:sub(0x203, 0x206) == "HdrS" and is_boot_sector(source)
end

---Whether it is an ELF file with an entry point for PVH.
function M.is_pvh(source)
  return M.is_elf(source) and require("minikvm.image.pvh").is(source)
end

---Whether mode() may have an answer: cheaper to ask.
function M.tells_mode(source)
  return M.is_elf(source) or is_boot_sector(source)
    or source.head:find(MULTIBOOT, 1, true) ~= nil or M.is_multiboot2(source)
end

---The mode that the file says it is for; nil when it does not say. And the format, when that is not
---what detect() makes of it: an image of a whole disk is booted.
---@return string? mode
---@return string? format
function M.mode(source)
  if M.protected_format(source) then return "protected" end
  if M.is_bzimage(source) then return "long", "linux" end
  if M.is_elf(source) then return require("minikvm.image.elf").mode(source) end
  if is_boot_sector(source) and source.size % 512 == 0 then return "real", "boot" end
end

local RAW <const> = "a disk in the format %s: qemu-img convert -O raw makes an image of it that "
  .. "boots"

-- What nothing here loads: where its magic number lies, that, and what it is.
local FOREIGN <const> = {
  { 0, "QFI\xfb", RAW:format "qcow2" }, { 0, "KDMV", RAW:format "VMDK" },
  { 0, "vhdxfile", RAW:format "VHDX" }, { 0x40, "\x7f\x10\xda\xbe", RAW:format "VDI" },
  { 0, "\xfd7zXZ\0", "packed with xz: unpack it first" },
  { 0, "\x28\xb5\x2f\xfd", "packed with zstd: unpack it first" },
  { 0, "070701", "an initramfs (cpio), which goes beside a kernel: initrd= (minikvm linux "
                 .. "--initrd)" },
}

---Formats that nothing here loads, and that look like others.
local function refuse_foreign(source)
  for _, kind in ipairs(FOREIGN) do
    if source.head:sub(kind[1] + 1, kind[1] + #kind[2]) == kind[2] then
      refuse(source, "ENOEXEC", "it is %s; format=\"flat\" loads its bytes as they are", kind[3])
    end
  end
  if M.is_bzimage(source) then
    refuse(source, "EINVAL", "a Linux kernel (bzImage) starts in 64-bit mode: mode=\"linux\" "
      .. "(minikvm linux --kernel); format=\"flat\" loads its bytes as they are")
  end
end

---Multiboot kernels of both versions, in another mode.
local function refuse_protected(source)
  local what = M.is_multiboot2(source) and "Multiboot2" or M.is_multiboot(source) and "Multiboot"
  if not what then return end
  refuse(source, "EINVAL", "a %s kernel starts in 32-bit mode with paging off: %s; "
    .. "format=\"flat\" loads its bytes as they are", what, M.as_mode "protected")
end

-- Formats with segments.
local NAMED <const> = { elf = true, multiboot = true, multiboot2 = true, limine = true, pvh = true }

---An ELF file by itself, whose author may have had something else in mind.
local function check_elf(source, want)
  if want.bits == 32 and not want.paging and M.start(source):find(MULTIBOOT2, 1, true) then
    require("minikvm.image.multiboot2").refuse_wrong_checksum(source)
  end
end

---The format, when none was asked for. What looks like one but cannot be loaded as that is refused.
local function choose_format(source, want)
  local format = M.detect(source, want)
  if format == "linux" then return format end
  if want.linux and format ~= "pvh" then
    refuse(source, "ENOEXEC", "not a Linux kernel: it is neither a bzImage (no HdrS at 0x202) nor "
      .. "an ELF file with a PVH note")
  end
  if format == "elf" then check_elf(source, want) end
  if want.has_at or NAMED[format] then return format end
  refuse_foreign(source)
  if want.bits ~= 16 and is_boot_sector(source) and source.size % 512 == 0 then
    refuse(source, "EINVAL", "a boot sector starts in real mode: %s; format=\"flat\" loads its "
      .. "bytes as they are", M.as_mode "real")
  elseif format == "flat" and want.mode ~= "protected" then
    refuse_protected(source)
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
  local named = NAMED[plan.format]
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
  if want.symbol and NAMED[plan.format] then
    local value = require("minikvm.image.symbols").entry(source, want.symbol)
    plan.entry, plan.physical = value + (plan.slide or 0), nil
  elseif want.symbol then
    refuse(source, "ENOENT", "entry=%q: the image has no symbol table", want.symbol)
  end
  local s = not plan.physical and M.segment(plan, plan.entry)
  if s and want.bits == 32 and not want.paging then
    plan.entry = plan.entry - s.linear + s.at
  elseif plan.format == "flat" and want.mode == "paged" then
    plan.entry = plan.entry + HIGH_BASE -- where kernels of this mode are linked
  end
end

local FORMATS <const> = { flat = "flat", boot = "flat", elf = "elf", multiboot = "multiboot",
                          linux = "linux", pvh = "pvh", multiboot2 = "multiboot2",
                          limine = "limine" }

---Modules and an initrd are for formats that know of them.
local function check_beside(source, format, beside)
  local what = source.modules and source.initrd and "initrd" or "modules"
  if not source.modules or beside == what or beside == "modules" then return end
  refuse(source, "EINVAL", "%s= %s; this image is format=%q", what,
         what == "initrd" and "is for Linux kernels" or "are for Multiboot, Limine and PVH", format)
end

---What goes where, and where it starts; raises what refuse() raises.
---@param source minikvm.image.source
---@param want minikvm.image.want
---@return minikvm.image.plan
function M.make(source, want)
  local format = want.format or choose_format(source, want)
  local reader = require("minikvm.image." .. FORMATS[format])
  check_beside(source, format, reader.beside)
  if want.framebuffer and not reader.video then
    refuse(source, "EINVAL", "framebuffer= is for Multiboot and Limine kernels; this image is "
      .. "format=%q", format)
  end
  if want.has_at and want.bits ~= 16 and format ~= "flat" and format ~= "linux" then
    refuse(source, "EINVAL", "at= is for flat images; this one (format=%q) says itself where it "
      .. "goes", format)
  end
  local plan = reader.segments(source, want, format)
  plan.format, plan.real = format, want.bits == 16
  check_segments(source, want, plan)
  if want.blocks then require("minikvm.image.tables").place(source, want, plan) end
  if reader.finish then reader.finish(source, want, plan, format) end
  choose_entry(source, want, plan)
  plan.at = want.bits == 16 and not plan.cs and want.at or plan.segments[1].at
  return plan
end

return M
