-- image/relocations.lua - what a position-independent ELF64 file wants changed where it is loaded:
-- gABI, "Dynamic Section", "Relocation"; System V ABI, AMD64 supplement, "Relocation Types".
--
-- Types that need no symbol of another file: RELATIVE, 64, GLOB_DAT, JUMP_SLOT; and RELR tables.

local plan = require "minikvm.image.plan"

local refuse = plan.refuse

local M = {}

local MOST <const> = 1 << 18 -- relocations
local DYNAMIC_MAX <const> = 1 << 16 -- bytes
local RELA_SIZE <const>, SYMBOL_SIZE <const> = 24, 24
local NONE <const>, ABS64 <const>, GLOB_DAT <const>, JUMP_SLOT <const>, RELATIVE <const> =
  0, 1, 6, 7, 8
local WEAK <const> = 2 -- a symbol's binding

-- Of the dynamic section.
local TAGS <const> = {
  [2] = "pltrelsz", [5] = "strtab", [6] = "symtab", [7] = "rela", [8] = "relasz", [9] = "relaent",
  [17] = "rel", [20] = "pltrel", [23] = "jmprel", [35] = "relrsz", [36] = "relr", [37] = "relrent",
}

---The dynamic section's entries by name.
local function read_dynamic(source, offset, size)
  if not plan.inside(offset, size, source.size) or size > DYNAMIC_MAX then
    refuse(source, "ENOEXEC", "program header: DYNAMIC: Offset 0x%x + FileSiz 0x%x lies beyond the "
      .. "file's %d bytes, or is more than %d", offset, size, source.size, DYNAMIC_MAX)
  end
  local bytes, found = source:read(offset, size), {}
  for at = 1, size - 15, 16 do
    local tag, value = ("<i8i8"):unpack(bytes, at)
    if tag == 0 then break end
    if TAGS[tag] then found[TAGS[tag]] = value end
  end
  return found
end

---A table that the dynamic section names, as bytes.
local function read_table(source, executable, what, at, size, entry)
  if not at or not size or size == 0 then return "" end
  if size % entry ~= 0 or size < 0 or size // entry > MOST then
    refuse(source, "ENOEXEC", "dynamic section: %s of 0x%x bytes: not whole entries of %d, or more "
      .. "than %d", what, size, entry, MOST)
  end
  return executable:bytes(at, size)
    or refuse(source, "ENOEXEC", "dynamic section: %s: 0x%x bytes at 0x%x are not in a LOAD "
      .. "segment", what, size, at)
end

---The value of a symbol of this file.
local function symbol_value(source, executable, dynamic, index)
  local bytes = dynamic.symtab
    and executable:bytes(dynamic.symtab + index * SYMBOL_SIZE, SYMBOL_SIZE)
  if not bytes then
    refuse(source, "ENOEXEC", "relocation: symbol %d is not in the symbol table", index)
  end
  local _, info, _, section, value = ("<I4BBI2i8"):unpack(bytes)
  if section ~= 0 then return value + executable.slide end
  if info >> 4 == WEAK then return 0 end
  refuse(source, "ENOEXEC", "relocation: symbol %d is not defined in this file", index)
end

---Notes a quadword; it must be in what is loaded.
local function change(source, executable, to, where, value)
  if not executable:segment(where, 8) then
    refuse(source, "ENOEXEC", "relocation at 0x%x: not in a LOAD segment", where)
  elseif to.count == MOST then
    refuse(source, "E2BIG", "more than %d relocations", MOST)
  end
  to.count, to.words[where] = to.count + 1, value
end

---The value that a relocation stores; nil when it stores none.
local function value_of(source, executable, dynamic, where, info, addend)
  local kind, symbol = info & 0xffffffff, info >> 32
  if kind == NONE then return nil end
  if kind == RELATIVE then return addend + executable.slide end
  if kind == ABS64 then return symbol_value(source, executable, dynamic, symbol) + addend end
  if kind == GLOB_DAT or kind == JUMP_SLOT then
    return symbol_value(source, executable, dynamic, symbol)
  end
  refuse(source, "EOPNOTSUPP", "relocation at 0x%x: type %d is not known", where, kind)
end

local function apply_rela(source, executable, dynamic, bytes, to)
  for at = 1, #bytes, RELA_SIZE do
    local where, info, addend = ("<i8i8i8"):unpack(bytes, at)
    local value = value_of(source, executable, dynamic, where, info, addend)
    if value then change(source, executable, to, where, value) end
  end
end

---RELR: an even word is an address, an odd one a bit for each of the 63 words that follow.
local function apply_relr(source, executable, bytes, to)
  local next_word = 0
  local function relative(where)
    change(source, executable, to, where, executable:u64(where) + executable.slide)
  end
  for at = 1, #bytes, 8 do
    local word = ("<i8"):unpack(bytes, at)
    if word & 1 == 0 then
      relative(word)
      next_word = word + 8
    else
      for bit = 1, 63 do
        if word >> bit & 1 == 1 then relative(next_word + (bit - 1) * 8) end
      end
      next_word = next_word + 63 * 8
    end
  end
end

---The quadwords to be changed: what they hold, by the address in the file.
---@param executable minikvm.image.executable
---@param offset integer  of the dynamic section in the file
---@param size integer
---@return table<integer, integer>
function M.read(source, executable, offset, size)
  local dynamic, to = read_dynamic(source, offset, size), { count = 0, words = {} }
  if dynamic.rel or (dynamic.pltrel or 7) ~= 7 then
    refuse(source, "EOPNOTSUPP", "dynamic section: REL relocations are not for this machine")
  elseif (dynamic.relaent or RELA_SIZE) ~= RELA_SIZE then
    refuse(source, "ENOEXEC", "dynamic section: RELAENT %d, not %d", dynamic.relaent, RELA_SIZE)
  end
  apply_relr(source, executable,
             read_table(source, executable, "RELR", dynamic.relr, dynamic.relrsz, 8), to)
  for _, t in ipairs{ { "RELA", dynamic.rela, dynamic.relasz },
                      { "JMPREL", dynamic.jmprel, dynamic.pltrelsz } } do
    apply_rela(source, executable, dynamic,
               read_table(source, executable, t[1], t[2], t[3], RELA_SIZE), to)
  end
  return to.words
end

return M
