-- image.lua - makes small ELF files and Multiboot kernels field by field, good until somebody
-- changes a field, and plans where they would go without a VM.

local plan = require "minikvm.image.plan"

local M = {}

M.SIZE, M.PHDRS, M.CODE, M.DATA = 4096, 0x40, 0x100, 0x140
M.SYMBOLS, M.NAMES, M.SHDRS, M.HEADER = 0x180, 0x240, 0x280, 0x800 -- HEADER: of Multiboot
M.TEXT_AT, M.DATA_AT, M.BSS, M.KERNEL_AT = 0x2000, 0x3000, 0x1800, 0x10000
M.RAM = 4 << 20

local FUNC <const>, OBJECT <const>, FILE <const> = 2, 1, 4
local GLOBAL <const> = 0x10

local function copy(list)
  local t = {}
  for key, value in pairs(list) do t[key] = value end
  return t
end

---Symbols as { name, value, size, info, section }; 1 is the empty one.
local function symbols()
  local at, data = M.TEXT_AT, M.DATA_AT
  return {
    { "", 0, 0, 0, 0 }, { "a.c", 0, 0, FILE, 1 }, { "start", at, 0, GLOBAL, 1 },
    { "main", at + 4, 8, FUNC, 1 }, { "main", at + 8, 4, GLOBAL | FUNC, 1 },
    { "table", data, 8, GLOBAL | OBJECT, 1 }, { "STACK", 0x4000, 0, GLOBAL, 0xfff1 },
    { "missing", 0, 0, GLOBAL, 0 },
  }
end

---A program of two LOAD segments, the second with bss, and a NOTE. Fields have their names of
---elf.h; `bits` 32 or 64.
function M.elf(bits)
  local wide = bits == 64
  local symbol = wide and 24 or 16
  return {
    bits = bits, size = M.SIZE, symbols = symbols(), last_name = "\0",
    e = { class = wide and 2 or 1, data = 1, ident_version = 1, magic = "\x7fELF", type = 2,
          machine = wide and 62 or 3, version = 1, entry = M.TEXT_AT, phoff = M.PHDRS,
          shoff = M.SHDRS, ehsize = wide and 64 or 52, phentsize = wide and 56 or 32, phnum = 3,
          shentsize = wide and 64 or 40, shnum = 3 },
    p = { { type = 1, offset = M.CODE, vaddr = M.TEXT_AT, paddr = M.TEXT_AT, filesz = 16,
            memsz = 16, align = 1 },
          { type = 4, offset = 0xffffffff, vaddr = 0, paddr = 0, filesz = 1, memsz = 0, align = 0 },
          { type = 1, offset = M.DATA, vaddr = M.DATA_AT, paddr = M.DATA_AT, filesz = 8,
            memsz = 8 + M.BSS, align = 4 } },
    s = { { type = 0, offset = 0, size = 0, link = 0, entsize = 0 },
          { type = 2, offset = M.SYMBOLS, size = 8 * symbol, link = 2, entsize = symbol },
          { type = 3, offset = M.NAMES, size = 0x40, link = 0, entsize = 0 } },
  }
end

---With address fields (flags bit 16) that load the whole file at 0x10000, or without.
function M.multiboot(addresses)
  local m, at = M.elf(32), M.KERNEL_AT
  m.multiboot = { magic = 0x1badb002, flags = addresses and 0x10003 or 3,
                  header_addr = at + M.HEADER, load_addr = at, load_end_addr = at + M.SIZE,
                  bss_end_addr = at + M.SIZE + M.BSS, entry_addr = at + M.CODE }
  return m
end

-- ---- as bytes ----

local function elf_header(m)
  local e = m.e
  return e.magic .. ("BBB"):pack(e.class, e.data, e.ident_version) .. ("\0"):rep(9)
    .. (m.bits == 64 and "<I2I2I4i8i8i8I4I2I2I2I2I2I2" or "<I2I2I4I4I4I4I4I2I2I2I2I2I2"):pack(
      e.type, e.machine, e.version, e.entry, e.phoff, e.shoff, 0, e.ehsize, e.phentsize, e.phnum,
      e.shentsize, e.shnum, 0)
end

local function program_header(m, p)
  if m.bits == 64 then
    return ("<I4I4i8i8i8i8i8i8"):pack(p.type, 7, p.offset, p.vaddr, p.paddr, p.filesz, p.memsz,
                                      p.align)
  end
  return ("<I4I4I4I4I4I4I4I4"):pack(p.type, p.offset, p.vaddr, p.paddr, p.filesz, p.memsz, 7,
                                    p.align)
end

local function section_header(m, s)
  local format = m.bits == 64 and "<I4I4i8i8i8i8I4I4i8i8" or "<I4I4I4I4I4I4I4I4I4I4"
  return format:pack(0, s.type, 0, 0, s.offset, s.size, s.link, 0, 1, s.entsize)
end

---The names, and where each of them is.
local function names_of(m)
  local names, at = "\0", {}
  for i, s in ipairs(m.symbols) do
    at[i] = s[1] == "" and 0 or #names
    if s[1] ~= "" then names = names .. s[1] .. "\0" end
  end
  return names .. ("\0"):rep(0x3f - #names) .. m.last_name, at
end

local function symbol(m, s, name)
  name = s.name or name
  if m.bits == 64 then return ("<I4BBI2i8i8"):pack(name, s[4], 0, s[5], s[2], s[3]) end
  return ("<I4I4I4BBI2"):pack(name, s[2], s[3], s[4], 0, s[5])
end

local function multiboot_header(h)
  return ("<I4I4I4I4I4I4I4I4"):pack(h.magic, h.flags, -(h.magic + h.flags) & 0xffffffff,
                                    h.header_addr, h.load_addr, h.load_end_addr, h.bss_end_addr,
                                    h.entry_addr)
end

local function put(bytes, at, part)
  return bytes:sub(1, at) .. part .. bytes:sub(at + #part + 1)
end

local function each(m, list, fn)
  local parts = {}
  for i, one in ipairs(list) do parts[i] = fn(m, one) end
  return table.concat(parts)
end

---The file. Code is 16 bytes of 0xc0 and up, data 8 bytes of 0xd0 and up.
---@return string
function M.bytes(m)
  local names, at = names_of(m)
  local list = {}
  for i, s in ipairs(m.symbols) do list[i] = symbol(m, s, at[i]) end
  local bytes = put(("\0"):rep(M.SIZE), 0, elf_header(m))
  bytes = put(bytes, M.CODE, "\xc0\xc1\xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xca\xcb\xcc\xcd\xce\xcf")
  bytes = put(bytes, M.DATA, "\xd0\xd1\xd2\xd3\xd4\xd5\xd6\xd7")
  bytes = put(bytes, M.PHDRS, each(m, m.p, program_header))
  bytes = put(bytes, M.SHDRS, each(m, m.s, section_header))
  bytes = put(put(bytes, M.SYMBOLS, table.concat(list)), M.NAMES, names)
  if m.multiboot then bytes = put(bytes, M.HEADER, multiboot_header(m.multiboot)) end
  return bytes:sub(1, m.size)
end

-- ---- planned ----

---@return minikvm.image.source
function M.source(bytes, name)
  return { name = name or "test.elf", size = #bytes, bytes = bytes, head = bytes:sub(1, plan.HEAD),
           read = function(self, offset, n)
             assert(plan.inside(offset, n, self.size), "it reads beyond the end of the file")
             return self.bytes:sub(offset + 1, offset + n)
           end }
end

---What a mode of so many bits wants, with 4 MiB of RAM; `more` is put over it.
function M.wants(bits, more)
  local want = { mode = bits == 64 and "long" or bits == 32 and "protected" or "real", bits = bits,
                 paging = bits == 64, limit = M.RAM, at = bits == 16 and 0 or 0x1000 }
  for key, value in pairs(more or {}) do want[key] = value end
  return want
end

---The plan of an image; nil, text, code when it is refused. Any other error is the test's.
---@param image string|table  bytes, or what elf() and multiboot() return
function M.plan(image, want)
  local source = type(image) == "string" and M.source(image) or image.head and image
    or M.source(M.bytes(image))
  local ok, made = pcall(plan.make, source, copy(want))
  if ok then return made end
  if type(made) ~= "table" or not made.text then error(made, 0) end
  return nil, made.text, made.code
end

-- ---- Linux ----

local MIB <const> = 1 << 20
M.BZIMAGE_AT = 16 * MIB -- pref_address

---A bzImage, good until somebody changes a field; `code` is at its 64-bit entry point.
function M.bzimage(code)
  return { setup_sects = 1, boot_flag = 0xaa55, length = 0x6a, magic = "HdrS", version = 0x20f,
           loadflags = 1, initrd_max = 0x7fffffff, alignment = 2 * MIB, relocatable = 1,
           xloadflags = 1, cmdline_size = 2047, pref_address = M.BZIMAGE_AT, init_size = 8 * MIB,
           payload = ("\xf4"):rep(0x200) .. (code or "") .. ("\0"):rep(-#(code or "") % 16 + 16) }
end

function M.bzimage_bytes(k)
  local sectors = k.setup_sects == 0 and 4 or k.setup_sects
  local size = k.syssize or #k.payload // 16
  local header = ("<BI2I4I2I2I2I2"):pack(k.setup_sects, 0, size, 0, 0xffff, 0, k.boot_flag)
    .. "\xeb" .. ("<Bc4I2"):pack(k.length, k.magic, k.version) .. ("\0"):rep(9)
    .. ("<B"):pack(k.loadflags) .. ("\0"):rep(26)
    .. ("<I4I4BBI2I4"):pack(k.initrd_max, k.alignment, k.relocatable, 21, k.xloadflags,
                            k.cmdline_size)
    .. ("\0"):rep(28) .. ("<I8I4I4"):pack(k.pref_address, k.init_size, 0)
  local setup = ("\0"):rep(0x1f1) .. header
  return setup .. ("\0"):rep((sectors + 1) * 512 - #setup) .. k.payload
end

return M
