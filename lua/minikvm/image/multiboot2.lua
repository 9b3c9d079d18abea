-- image/multiboot2.lua - kernels with a Multiboot2 header: Multiboot2 Specification 2.0, section
-- 3.1 (the header and its tags) and 3.3 (the machine's state). What they are told is made by
-- multiboot2_info.lua.
--
-- Taken: kernels for 32-bit protected mode (architecture 0), as ELF files or by address tags,
-- relocatable ones too. Tags for EFI are for a machine that has it, and do not matter here.

local framebuffers = require "minikvm.vm.framebuffer"
local place = require "minikvm.image.place"
local plan = require "minikvm.image.plan"

local refuse = plan.refuse

local M = {}

M.beside = "modules" -- what may be loaded beside it
M.video = true -- a kernel may be told of a framebuffer

local MAGIC <const>, MAGIC_BYTES <const> = 0xe85250d6, "\xd6\x50\x52\xe8" -- 3.1.1
local LOADER_MAGIC <const> = 0x36d76289 -- 3.3, in EAX
local FIELDS <const> = 16 -- bytes before its tags
local I386 <const> = 0
local TAG <const>, OPTIONAL <const> = 8, 1 -- bytes before a tag's own fields; in its flags

local END <const>, REQUEST <const>, ADDRESS <const>, ENTRY <const>, CONSOLE <const>,
  FRAMEBUFFER <const>, ALIGN <const>, RELOCATABLE <const> = 0, 1, 2, 3, 4, 5, 6, 10
local EFI_SERVICES <const>, EFI_I386 <const>, EFI_AMD64 <const> = 7, 8, 9
local CONSOLE_KNOWN <const> = 3 -- a console is needed; EGA text is understood
local HIGHEST <const> = 2 -- preference of a relocatable kernel; 0 none, 1 the lowest address
local INFORMATION_LAST <const> = 21 -- the highest type of information (3.6)
local WHOLE_FILE <const> = 0xffffffff -- load_addr

-- ---- finding it (3.1) ----

---The next magic number on a boundary of 8, and the fields behind it; nil when there is none.
local function next_magic(bytes, at)
  repeat
    at = bytes:find(MAGIC_BYTES, at + 1, true)
    if not at or at + FIELDS - 1 > #bytes then return nil end
  until at % 8 == 1
  local _, architecture, length, checksum = ("<I4I4I4I4"):unpack(bytes, at)
  return at, architecture, length, checksum
end

---The first header on a boundary of 8 whose checksum is right; nil when there is none.
---@return { offset: integer, architecture: integer, length: integer, bytes: string }?
function M.header(source)
  local bytes = plan.start(source)
  for at, architecture, length, checksum in next_magic, bytes, 0 do
    if MAGIC + architecture + length + checksum & 0xffffffff == 0 then
      return { offset = at - 1, architecture = architecture, length = length, bytes = bytes }
    end
  end
end

---Refuses a file that has no header, and what would be one but for its checksum.
function M.refuse_wrong_checksum(source)
  local bytes = plan.start(source)
  for at, architecture, length, checksum in next_magic, bytes, 0 do
    local right = -(MAGIC + architecture + length) & 0xffffffff
    if checksum == right then return end
    if architecture == 0 and length % 8 == 0 and length >= FIELDS and length <= #bytes then
      refuse(source, "ENOEXEC", "Multiboot2 header at 0x%x of the file: its checksum is 0x%x, and "
        .. "0x%x would be right; format=\"elf\" loads the file without it", at - 1, checksum, right)
    end
  end
end

-- ---- its tags ----

local function bad(source, format, ...)
  refuse(source, "ENOEXEC", "Multiboot2 header: " .. format, ...)
end

local function check_header(source, h, want)
  plan.need_protected(source, want, "a Multiboot2 kernel")
  if h.architecture ~= I386 then
    bad(source, "architecture %d is not 0, 32-bit protected mode of i386", h.architecture)
  elseif h.length < FIELDS + TAG then
    bad(source, "header_length %d has no room for the end tag", h.length)
  elseif h.length > #h.bytes - h.offset then
    bad(source, "header_length %d: it ends beyond the first %d bytes of the file", h.length,
        #h.bytes)
  end
end

-- By type: name, bytes of its fields (behind type, flags and size), format, names of the fields.
local FIELDS_OF <const> = {
  [ADDRESS] = { "address tag", 16, "<I4I4I4I4", "header_addr", "load_addr", "load_end_addr",
                "bss_end_addr" },
  [ENTRY] = { "entry address tag", 4, "<I4", "entry_addr" },
  [CONSOLE] = { "flags tag", 4, "<I4", "console_flags" },
  [FRAMEBUFFER] = { "framebuffer tag", 12, "<I4I4I4", "width", "height", "depth" },
  [ALIGN] = { "module alignment tag", 0, "" },
  [RELOCATABLE] = { "relocatable header tag", 16, "<I4I4I4I4", "min_addr", "max_addr", "align",
                    "preference" },
  [EFI_SERVICES] = { "EFI boot services tag", 0, "" },
  [EFI_I386] = { "EFI i386 entry address tag", 4, "<I4", "entry_addr" },
  [EFI_AMD64] = { "EFI amd64 entry address tag", 4, "<I4", "entry_addr" },
}

local function read_fields(source, h, kind, at, size)
  local layout = FIELDS_OF[kind]
  if size < TAG + layout[2] then
    bad(source, "%s: size %d, it takes %d", layout[1], size, TAG + layout[2])
  end
  local values, fields = table.pack(layout[3]:unpack(h.bytes, at + TAG + 1)), {}
  for i = 4, #layout do fields[layout[i]] = values[i - 3] end
  return fields
end

---What the kernel wants to be told (3.1.4). All that the specification knows can be asked for; what
---the machine does not have is not there.
local function check_request(source, h, at, size, optional)
  if (size - TAG) % 4 ~= 0 then
    bad(source, "information request tag: size %d leaves a part of a type", size)
  end
  for where = at + TAG, at + size - 4, 4 do
    local kind = ("<I4"):unpack(h.bytes, where + 1)
    if kind > INFORMATION_LAST and not optional then
      refuse(source, "EOPNOTSUPP", "Multiboot2 header: information request tag: type %d is not "
        .. "known", kind)
    end
  end
end

---One tag, into `tags`.
local function read_tag(source, h, tags, kind, flags, at, size)
  local optional = flags & OPTIONAL ~= 0
  if kind == REQUEST then
    check_request(source, h, at, size, optional)
  elseif FIELDS_OF[kind] then
    tags[kind] = read_fields(source, h, kind, at, size)
    tags[kind].optional = optional
  elseif not optional then
    refuse(source, "EOPNOTSUPP", "Multiboot2 header: a tag of type %d at 0x%x, which is not known "
      .. "and not optional", kind, at)
  end
end

---The tags by type.
local function read_tags(source, h)
  local tags, at, finish = {}, h.offset + FIELDS, h.offset + h.length
  while true do
    if at + TAG > finish then bad(source, "no end tag in its %d bytes", h.length) end
    local kind, flags, size = ("<I2I2I4"):unpack(h.bytes, at + 1)
    if size < TAG or size > finish - at then
      bad(source, "the tag at 0x%x (type %d): size %d is not 8 to %d, the rest of the header", at,
          kind, size, finish - at)
    elseif kind == END then
      return tags
    end
    read_tag(source, h, tags, kind, flags, at, size)
    at = at + (size + 7 & -8)
  end
end

-- ---- where it goes ----

---The part of the file that the address tag names.
local function by_addresses(source, h, a)
  local function wrong(format, ...) bad(source, "address tag: " .. format, ...) end
  if a.load_addr == WHOLE_FILE then
    a.load_addr = a.header_addr - h.offset
    if a.load_addr < 0 then
      wrong("header_addr 0x%x: the file would begin below 0", a.header_addr)
    end
  end
  return (require("minikvm.image.addresses").read(source, a, h.offset, wrong))
end

---The lowest address of all segments, and the end of the highest.
local function extent(source, made)
  local low, high = math.maxinteger, 0
  for i, s in ipairs(made.segments) do
    if not plan.inside(s.at, s.mem_bytes, 1 << 32) then
      refuse(source, "ENOEXEC", "segment %d: 0x%x bytes at 0x%x are not below 4 GiB", i - 1,
             s.mem_bytes, s.at)
    end
    low, high = math.min(low, s.at), math.max(high, s.at + s.mem_bytes)
  end
  return low, high
end

local function check_relocatable(source, r, bytes)
  if r.align ~= 0 and r.align & r.align - 1 ~= 0 then
    bad(source, "relocatable header tag: align 0x%x is no power of 2", r.align)
  elseif r.min_addr > r.max_addr or bytes > r.max_addr - r.min_addr + 1 then
    bad(source, "relocatable header tag: %d bytes do not fit from min_addr 0x%x to max_addr 0x%x",
        bytes, r.min_addr, r.max_addr)
  elseif r.preference > HIGHEST then
    bad(source, "relocatable header tag: preference %d is not 0, 1 or 2", r.preference)
  end
end

---The address for a kernel that may be anywhere in a range (3.1.12): its own if that is free and no
---other is preferred.
local function choose_base(source, want, r, low, bytes)
  local align, last = math.max(r.align, 1), r.max_addr - bytes + 1
  local around = setmetatable({ limit = math.min(want.limit, r.max_addr + 1) }, { __index = want })
  local free = { segments = {} } -- nothing is in RAM yet
  local fits = low >= r.min_addr and low <= last and low % align == 0
  if fits and r.preference == 0 and place.is_free(around, free, low, bytes) then return low end
  local at = r.preference == HIGHEST and place.below(around, free, bytes, r.max_addr + 1,
                                                      r.min_addr, align)
    or r.preference ~= HIGHEST and place.above(around, free, bytes, r.min_addr, align)
  if at then return at end
  refuse(source, "EFBIG", "no room in RAM for its %d bytes between min_addr 0x%x and max_addr 0x%x",
         bytes, r.min_addr, r.max_addr)
end

---Moves a relocatable kernel, its entry with it (3.6.15: it is told where it is).
local function relocate(source, want, made, r)
  local low, high = extent(source, made)
  check_relocatable(source, r, high - low)
  local at = choose_base(source, want, r, low, high - low)
  for _, s in ipairs(made.segments) do s.at = s.at + at - low end
  made.base, made.moved = at, at - low
end

---The physical entry (3.1.6): that of the tag, or the file's own.
local function set_entry(source, want, made, tag)
  local entry = tag and tag.entry_addr
  if not entry then
    local s = plan.segment(made, made.entry)
    entry = s and made.entry - s.linear + s.at or made.entry + made.moved
  else
    entry = entry + made.moved
  end
  if not plan.segment({ segments = made.segments }, entry, true) and not want.entry
     and not want.symbol then
    refuse(source, "ENOEXEC", "Multiboot2 header: the entry 0x%x lies in no part of the kernel "
      .. "that is loaded", entry)
  end
  made.entry, made.physical = entry, true
end

local function load_parts(source, want, h, tags)
  if tags[ADDRESS] then return by_addresses(source, h, tags[ADDRESS]) end
  if not plan.is_elf(source) then
    bad(source, "no address tag, and it is not an ELF file")
  end
  -- Where the entry is, is checked here: a tag may say another one.
  local loose = setmetatable({ entry = tags[ENTRY] and 0 or want.entry }, { __index = want })
  return require("minikvm.image.elf").segments(source, loose, "multiboot2", true)
end

local function check_tags(source, want, tags)
  local console, video = tags[CONSOLE], tags[FRAMEBUFFER]
  if console and console.console_flags & ~CONSOLE_KNOWN ~= 0 and not console.optional then
    bad(source, "flags tag: console_flags 0x%x ask for something unknown", console.console_flags)
  elseif video and not video.optional and want.framebuffer == false then
    refuse(source, "EOPNOTSUPP", "Multiboot2 header: the framebuffer tag asks for a framebuffer, "
      .. "and framebuffer=false was given")
  end
end

function M.segments(source, want)
  local h = M.header(source)
  if not h then
    refuse(source, "ENOEXEC", "no Multiboot2 header with the right checksum in the first 32768 "
      .. "bytes")
  end
  check_header(source, h, want)
  local tags = read_tags(source, h)
  check_tags(source, want, tags)
  local made = load_parts(source, want, h, tags)
  made.moved = 0
  if tags[RELOCATABLE] then relocate(source, want, made, tags[RELOCATABLE]) end
  set_entry(source, want, made, tags[ENTRY])
  made.framebuffer = framebuffers.choose(want, tags[FRAMEBUFFER])
  return made
end

---Modules, the information, and what EAX and EBX hold at the entry (3.3).
function M.finish(source, want, made)
  local info = require "minikvm.image.multiboot2_info"
  made.info = info.make(source, want, made)
  made.patches = place.bios_data(want, made)
  made.regs = { eax = LOADER_MAGIC, ebx = made.info.at }
end

return M
