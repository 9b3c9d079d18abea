-- image/linux.lua - Linux kernels as distributions have them (bzImage), by the 64-bit boot
-- protocol: Linux, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header" and "64-bit Boot
-- Protocol"; zero-page.rst for where the rest of what a kernel is told lies.
--
-- The real-mode part of the file is not run. Protocol 2.12 is asked for, which says whether there
-- is a 64-bit entry point (Linux 3.8 and later).

local place = require "minikvm.image.place"
local plan = require "minikvm.image.plan"

local refuse = plan.refuse

local M = {}

M.beside = "initrd" -- what may be loaded beside it

local SECTOR <const>, PAGE <const> = 512, 4096
local SETUP_SECTS_OLD <const> = 4 -- what 0 means
local VERSION <const> = 0x20c
-- Offsets, in the file and in the zero page.
local SETUP_SECTS <const>, HEADER_LENGTH <const>, E820_COUNT <const>, E820 <const> =
  0x1f1, 0x201, 0x1e8, 0x2d0
local LOADER <const>, LOADFLAGS <const>, CODE32_START <const>, RAMDISK <const>, HEAP_END <const>,
  CMD_LINE <const> = 0x210, 0x211, 0x214, 0x218, 0x224, 0x228
local FIELDS_END <const>, HEADER_END <const> = 0x264, 0x290 -- behind init_size; of the header
local LOADED_HIGH <const>, CAN_USE_HEAP <const> = 0x01, 0x80 -- loadflags
local KERNEL_64 <const> = 0x01 -- xloadflags
local UNKNOWN_LOADER <const>, HEAP <const> = 0xff, 0xfe00
local ENTRY_64 <const> = 0x200
local E820_MAX <const> = 128 -- entries in the zero page
local LOWEST <const> = 0x10000 -- of what is handed over
-- __BOOT_CS and __BOOT_DS: flat segments, which may be executed and read, or read and written.
local CS <const>, DS <const>, GDT_SIZE <const> = 0x10, 0x18, 32
local CODE <const>, DATA <const> = 0x00af9b000000ffff, 0x00cf93000000ffff

-- ---- the header ----

local function check_start(source)
  local head = source.head
  if #head < 0x208 then
    refuse(source, "ENOEXEC", "not a Linux kernel: the file ends within the setup header, after %d "
      .. "bytes", #head)
  elseif head:sub(511, 512) ~= "\x55\xaa" then
    refuse(source, "ENOEXEC", "not a Linux kernel: no boot_flag 0xaa55 at 0x1fe")
  elseif head:sub(0x203, 0x206) ~= "HdrS" then
    refuse(source, "ENOEXEC", "not a Linux kernel: no magic number HdrS at 0x202")
  end
  local version = ("<I2"):unpack(head, 0x207)
  if version < VERSION then
    refuse(source, "ENOEXEC", "setup header: version %d.%02d: the 64-bit boot protocol takes 2.12 "
      .. "(Linux 3.8) or later", version >> 8, version & 0xff)
  end
end

---@return table header  its fields, and `bytes`, from setup_sects on
local function read_header(source)
  check_start(source)
  local head = source.head
  local finish = math.min(0x202 + head:byte(HEADER_LENGTH + 1), HEADER_END)
  if finish < FIELDS_END then
    refuse(source, "ENOEXEC", "setup header: it ends at 0x%x, before init_size", finish)
  elseif #head < finish then
    refuse(source, "ENOEXEC", "the file ends within the setup header, after %d bytes", #head)
  end
  local h = { bytes = head:sub(SETUP_SECTS + 1, finish) }
  local sectors = head:byte(SETUP_SECTS + 1)
  h.setup = ((sectors == 0 and SETUP_SECTS_OLD or sectors) + 1) * SECTOR
  h.size = ("<I4"):unpack(head, 0x1f5) * 16
  h.loadflags = head:byte(LOADFLAGS + 1)
  h.initrd_max, h.alignment, h.relocatable, h.min_alignment, h.xloadflags, h.cmdline_size =
    ("<I4I4BBI2I4"):unpack(head, 0x22d)
  h.pref_address, h.init_size = ("<i8I4"):unpack(head, 0x259)
  return h
end

local function check_header(source, h)
  if h.loadflags & LOADED_HIGH == 0 then
    refuse(source, "ENOEXEC", "setup header: loadflags 0x%x: a zImage, which is loaded low",
           h.loadflags)
  elseif h.xloadflags & KERNEL_64 == 0 then
    refuse(source, "ENOEXEC", "setup header: xloadflags 0x%x: no 64-bit entry point: it is a "
      .. "kernel of 32 bits", h.xloadflags)
  elseif source.size <= h.setup then
    refuse(source, "ENOEXEC", "the file ends within the setup code: setup_sects makes it %d bytes, "
      .. "the file has %d", h.setup, source.size)
  elseif h.size > source.size - h.setup then
    refuse(source, "ENOEXEC", "the file is cut short: syssize makes the kernel %d bytes, the file "
      .. "has %d", h.size, source.size - h.setup)
  elseif h.size <= ENTRY_64 then
    refuse(source, "ENOEXEC", "setup header: syssize: %d bytes have no 64-bit entry point at 0x200",
           h.size)
  end
end

-- ---- where it goes ----

---The address: the one that it prefers, or the one that was asked for.
local function choose_address(source, want, h)
  local at = want.has_at and want.at or h.pref_address
  if at == h.pref_address then return at end
  if h.relocatable == 0 then
    refuse(source, "EINVAL", "at= 0x%x: this kernel is not relocatable: it runs at 0x%x", at,
           h.pref_address)
  elseif h.alignment == 0 or at % h.alignment ~= 0 then
    refuse(source, "EINVAL", "at= 0x%x: this kernel goes to a multiple of 0x%x", at, h.alignment)
  end
  return at
end

local function check_room(source, want, at, bytes)
  if plan.inside(at, bytes, want.limit) then return end
  if at < 0 or at > place.TOP then
    refuse(source, "ENOEXEC", "setup header: pref_address 0x%x is no address below 4 GiB", at)
  end
  refuse(source, "EFBIG", "the kernel needs %d bytes from 0x%x on to unpack itself (init_size), "
    .. "RAM ends at 0x%x: %s", bytes, at, want.limit, place.ram_it_takes(source, want, at + bytes))
end

function M.segments(source, want)
  local h = read_header(source)
  check_header(source, h)
  local at = choose_address(source, want, h)
  local rest = source.size - h.setup
  local bytes = math.max(h.init_size, rest)
  check_room(source, want, at, bytes)
  return { segments = { { at = at, linear = at, offset = h.setup, file_bytes = rest,
                          mem_bytes = bytes } },
           entry = at + ENTRY_64, header = h }
end

-- ---- what is handed over ----

local function place_initrd(source, want, made)
  local initrd, h, s = source.modules and source.modules[1], made.header, made.segments[1]
  made.modules = {}
  if not initrd then return end
  local at = place.below(want, made, initrd.size, h.initrd_max + 1, place.HIGH_START)
  if at then
    made.modules[1] = { source = initrd, at = at }
  elseif place.below(want, made, initrd.size, want.limit, place.HIGH_START) then
    refuse(source, "EFBIG", "%s: %d bytes do not fit below 0x%x, where this kernel takes its "
      .. "initrd (initrd_addr_max)", initrd.name, initrd.size, h.initrd_max)
  else
    refuse(source, "EFBIG", "%s: %d bytes do not fit into RAM beside the kernel: %s", initrd.name,
           initrd.size, place.ram_it_takes(source, want, s.at + s.mem_bytes))
  end
end

---The kernel's command line, with its NUL.
local function command_line(source, want, most)
  local text = want.cmdline or ""
  if #text > most then
    refuse(source, "E2BIG", "the command line of %d bytes is longer than this kernel takes: %d",
           #text, most)
  elseif text:find "%z" then
    refuse(source, "EINVAL", "the command line has a NUL in it")
  end
  return text .. "\0"
end

local function put(bytes, at, part)
  return bytes:sub(1, at) .. part .. bytes:sub(at + #part + 1)
end

---The zero page; the command line follows it.
local function zero_page(want, made, at)
  local h, page, map = made.header, ("\0"):rep(PAGE), {}
  local initrd = made.modules[1]
  for i, r in ipairs(place.memory_map(want)) do
    if i > E820_MAX then break end
    map[i] = ("<I8I8I4"):pack(r[1], r[2] - r[1], r[3])
  end
  page = put(page, E820_COUNT, string.char(#map))
  page = put(page, SETUP_SECTS, h.bytes)
  page = put(page, LOADER, string.char(UNKNOWN_LOADER))
  page = put(page, LOADFLAGS, string.char(h.loadflags | CAN_USE_HEAP))
  page = put(page, CODE32_START, ("<I4"):pack(made.segments[1].at))
  page = put(page, HEAP_END, ("<I2"):pack(HEAP))
  page = put(page, CMD_LINE, ("<I4"):pack(at + PAGE))
  if initrd then page = put(page, RAMDISK, ("<I4I4"):pack(initrd.at, initrd.source.size)) end
  return put(page, E820, table.concat(map))
end

---Descriptors for the selectors that the protocol names.
local function handoff(gdt)
  return { gdt = gdt, gdt_limit = GDT_SIZE - 1, cs = CS, ds = DS, code = CODE, data = DATA }
end

---The initrd, the zero page, the GDT, and RSI, which points to the page at the entry.
function M.finish(source, want, made)
  local line = command_line(source, want, made.header.cmdline_size)
  line = line .. ("\0"):rep(-#line % 8)
  place_initrd(source, want, made)
  local at = place.find(source, want, made, "the boot parameters", PAGE + #line + GDT_SIZE, LOWEST)
  made.info = { at = at, bytes = zero_page(want, made, at) .. line
                               .. ("<i8i8i8i8"):pack(0, 0, CODE, DATA) }
  made.regs, made.handoff = { esi = at }, handoff(at + PAGE + #line)
end

return M
