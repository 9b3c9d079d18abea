-- boot.lua - makes small kernels for the boot protocols Multiboot2, PVH and Limine, good until
-- somebody changes a field, and reads what plans hand over to them.

local image = require "support.image"

local M = {}

M.AT, M.SIZE, M.HEADER, M.BSS = 0x110000, 4096, 0x800, 0x1800 -- of the Multiboot2 kernel

local function put(bytes, at, part)
  return bytes:sub(1, at) .. part .. bytes:sub(at + #part + 1)
end

M.put = put

-- ---- Multiboot2 ----

---A tag of the header: type, flags, fields of 32 bits. `size` instead of its own.
function M.tag(kind, flags, fields, size)
  local body = ("<I4"):rep(#fields):pack(table.unpack(fields))
  return { kind = kind, flags = flags, body = body, size = size or 8 + #body }
end

---A kernel of 4 KiB at 1 MiB + 64 KiB, by address tags; with `tags` instead of those.
function M.multiboot2(tags)
  local at = M.AT
  return { magic = 0xe85250d6, architecture = 0, tags = tags or {
    M.tag(2, 0, { at + M.HEADER, at, at + M.SIZE, at + M.SIZE + M.BSS }),
    M.tag(3, 0, { at + 0x100 }), M.tag(0, 0, {}) } }
end

local function tag_bytes(t)
  local bytes = ("<I2I2I4"):pack(t.kind, t.flags, t.size) .. t.body
  return bytes .. ("\0"):rep(-#bytes & 7)
end

---@param base string?  the file that gets the header, instead of zeros: an ELF file
function M.multiboot2_bytes(m, base)
  local parts = {}
  for i, t in ipairs(m.tags) do parts[i] = tag_bytes(t) end
  local tags = table.concat(parts)
  local length = m.length or 16 + #tags
  local checksum = m.checksum or -(m.magic + m.architecture + length) & 0xffffffff
  local header = ("<I4I4I4I4"):pack(m.magic, m.architecture, length, checksum) .. tags
  return put(base or ("\xf4"):rep(M.SIZE), m.at or M.HEADER, header):sub(1, M.SIZE)
end

---The tags of the information, by type, in order.
function M.information(made)
  local bytes, at, tags = made.info.bytes, 9, {}
  assert(#bytes == ("<I4"):unpack(bytes), "total_size")
  repeat
    local kind, size = ("<I4I4"):unpack(bytes, at)
    tags[kind] = tags[kind] or {}
    table.insert(tags[kind], bytes:sub(at + 8, at + size - 1))
    at = at + (size + 7 & -8)
  until kind == 0
  assert(at == #bytes + 1, "the end tag is the last one")
  return tags
end

-- ---- PVH ----

M.NOTE = 0x700

---An ELF32 file with the note.
function M.pvh()
  local m = image.elf(32)
  m.p[2].offset, m.p[2].filesz = M.NOTE, 20
  return put(image.bytes(m), M.NOTE, ("<I4I4I4zI4"):pack(4, 4, 18, "Xen", image.TEXT_AT))
end

-- ---- Limine ----

M.HIGH = 0xffffffff80000000
M.HHDM = 0xffff800000000000
M.PHDRS, M.TEXT, M.DATA, M.RELA, M.DYNAMIC, M.FILE = 0x40, 0x1000, 0x2000, 0x3c00, 0x3d00, 0x3e00
M.DATA_BYTES, M.DATA_MEMORY = 0x1e00, 0x2800 -- in the file; in memory

local COMMON <const> = { 0xc7b1dd30df4c8b88, 0x0a82e883a194f07b }

---By name, the IDs of the features.
M.IDS = {
  loader = { 0xf55038d8e2a1202f, 0x279426fcf5f59740 },
  line = { 0x4b161536e598651e, 0xb390ad4a2f1f303a },
  stack = { 0x224ef0460a8e8926, 0xe1cb0fc25f46ea3d },
  hhdm = { 0x48dcf1cb8ad2b852, 0x63984e959a98244b },
  framebuffer = { 0x9d5827dcd881dd75, 0xa3148604f6fab11b },
  paging = { 0x95c1a0edab0944cb, 0xa4e5cb3842f7488a },
  map = { 0x67cf3d9d378a806f, 0xe304acdfc50c3c62 },
  entry = { 0x13d86c035a1cd3e1, 0x2b0caa89d8f3026a },
  file = { 0xad97e90e83f1ed67, 0x31eb5d1c5ff23b69 },
  module = { 0x3e7e279702be32af, 0xca1c4f3bd1280cee },
  rsdp = { 0xc5e77b6b397e7b43, 0x27637845accdcf3c },
  date = { 0x502746e184c088aa, 0xfbc5ec83e6327893 },
  where = { 0x71ba76863cc55f63, 0xb2644a48c516a487 },
  tsc = { 0x10f2ee1d87d195e4, 0xf747a2b78f6ddb31 },
}

local function words(list) return ("<i8"):rep(#list):pack(table.unpack(list)) end

M.words = words

M.START = words{ 0xf6b8f4b39de7d1ae, 0xfab91a6940fcb9cf, 0x785c6ed015d3e316, 0x181e920a7852b9d9 }
M.STOP = words{ 0xadc0e0531bb10d03, 0x9572709f31764c62 }

function M.base_tag(revision)
  return words{ 0xf9562b2d5c95a6c8, 0x6a7b384944536bdc, revision }
end

---A request by the feature's name, its revision, and what it has besides.
function M.request(name, revision, more)
  local id = M.IDS[name] or name
  return words{ COMMON[1], COMMON[2], id[1], id[2], revision or 0, 0 } .. words(more or {})
end

---A kernel with a segment of code, R-X, and one of data, RW-, in which the requests are.
---  kind       2 (EXEC) or 3 (DYN), whose addresses are from 0 on
---  base       what all addresses count from
---  revision   base revision; false: no tag
---  requests   { { name, revision, { fields } }, ... }
---  data       instead of all that
---  rela       relocations { address, type, symbol, addend }
function M.limine(o)
  o = o or {}
  local base = o.base or o.kind == 3 and 0 or M.HIGH
  local data = o.data
  if not data then
    local parts = { M.START, o.revision ~= false and M.base_tag(o.revision or 6) or "" }
    for _, r in ipairs(o.requests or {}) do parts[#parts + 1] = M.request(table.unpack(r)) end
    data = table.concat(parts) .. M.STOP
  end
  local rela = {}
  for i, r in ipairs(o.rela or {}) do
    rela[i] = ("<i8I4I4i8"):pack(r[1], r[2], r[3] or 0, r[4] or 0)
  end
  rela = table.concat(rela)
  local dynamic = words{ 7, base + M.RELA, 8, #rela, 9, 24, 0, 0 }
  local function header(kind, flags, at, file, memory)
    return ("<I4I4i8i8i8i8i8i8"):pack(kind, flags, at, base + at, 0, file, memory, 0x1000)
  end
  local headers = { header(1, 5, M.TEXT, 16, 16), header(1, 6, M.DATA, M.DATA_BYTES, M.DATA_MEMORY),
                    header(2, 6, M.DYNAMIC, #dynamic, #dynamic) }
  local file = "\x7fELF\2\1\1" .. ("\0"):rep(9)
    .. ("<I2I2I4i8i8i8I4I2I2I2I2I2I2"):pack(o.kind or 2, 62, 1, base + M.TEXT, 64, 0, 0, 64, 56,
                                            #headers, 64, 0, 0) .. table.concat(headers)
  file = file .. ("\0"):rep(M.FILE - #file)
  file = put(put(file, M.TEXT, ("\xf4"):rep(16)), M.DATA, data)
  return put(put(file, M.RELA, rela), M.DYNAMIC, dynamic)
end

---What a plan puts into RAM: read(address, bytes), which knows addresses in the higher half, too.
function M.memory(made, source)
  local m = {}
  function m.read(_, at, bytes)
    if at < 0 then at = at - M.HHDM end
    for _, p in ipairs(made.patches or {}) do
      if p.at == at and bytes == #p.bytes then return p.bytes end
    end
    local offset = at - made.info.at
    if offset >= 0 and offset < #made.info.bytes then
      return made.info.bytes:sub(offset + 1, offset + bytes)
    end
    for _, s in ipairs(made.segments) do
      local within = at - s.at
      if within >= 0 and within + bytes <= s.file_bytes then
        return source.bytes:sub(s.offset + within + 1, s.offset + within + bytes)
      end
    end
  end
  function m.u64(self, at) return (("<i8"):unpack(self:read(at, 8))) end
  function m.text(self, at)
    local text = ""
    repeat
      local c = self:read(at + #text, 1)
      text = text .. c
    until c == "\0"
    return text:sub(1, -2)
  end
  return m
end

---The response to a request of a Limine kernel, as so many quadwords; nil when it was left alone.
function M.answer(made, source, name, count)
  local id = words(M.IDS[name])
  local at = source.bytes:find(words(COMMON) .. id, 1, true)
  assert(at, "it does not ask for " .. name)
  local memory, data = M.memory(made, source), made.segments[2]
  local pointer = memory:u64(data.at + at - 1 - data.offset + 40)
  if pointer == 0 then return nil end
  local list = {}
  for i = 0, count do list[i] = memory:u64(pointer + 8 * i) end
  return list, memory
end

---Follows page tables of a plan: address, flags of the last level, writable and executable.
function M.walk(made, source, linear)
  local memory, table_at, write, execute = M.memory(made, source), made.handoff.cr3, true, true
  for shift = 39, 12, -9 do
    local entry = memory:u64(table_at + (linear >> shift & 511) * 8)
    if entry & 1 == 0 then return nil end
    write, execute = write and entry & 2 ~= 0, execute and entry >= 0
    local large = shift == 21 and entry & 0x80 ~= 0
    if shift == 12 or large then
      local size = 1 << shift
      return { at = (entry & 0x000ffffffffff000 & -size) + (linear & size - 1), flags = entry,
               write = write, execute = execute, user = entry & 4 ~= 0, large = large }
    end
    table_at = entry & 0x000ffffffffff000
  end
end

return M
