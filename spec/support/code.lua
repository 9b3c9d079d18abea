-- code.lua - listings of machine code as ELF files with symbols, for specs of debugging.

local M = {}

---An ELF file with one segment at its address, which is executable and written to, and functions:
---{ { name, address, size }, … }.
---@return string
function M.elf(bits, address, code, symbols)
  local wide = bits == 64
  local names, table_bytes = "\0", (wide and ("\0"):rep(24) or ("\0"):rep(16))
  for _, s in ipairs(symbols) do
    local at = #names
    names = names .. s[1] .. "\0"
    table_bytes = table_bytes .. (wide and ("<I4BBI2I8I8"):pack(at, 0x12, 0, 1, s[2], s[3])
      or ("<I4I4I4BBI2"):pack(at, s[2], s[3], 0x12, 0, 1))
  end
  local head, program, section = wide and 64 or 52, wide and 56 or 32, wide and 64 or 40
  local at_code = head + program
  local at_table = at_code + #code
  local at_names = at_table + #table_bytes
  local at_sections = at_names + #names
  local header = "\x7fELF" .. (wide and "\2" or "\1") .. "\1\1" .. ("\0"):rep(9)
    .. (wide and "<I2I2I4I8I8I8I4I2I2I2I2I2I2" or "<I2I2I4I4I4I4I4I2I2I2I2I2I2"):pack(2,
      wide and 62 or 3, 1, address, head, at_sections, 0, head, program, 1, section, 4, 0)
  local load = wide and ("<I4I4I8I8I8I8I8I8"):pack(1, 7, at_code, address, address, #code, #code, 1)
    or ("<I4I4I4I4I4I4I4I4"):pack(1, at_code, address, address, #code, #code, 7, 1)
  local function sec(kind, flags, at, offset, size, link, entry)
    return (wide and "<I4I4I8I8I8I8I4I4I8I8" or "<I4I4I4I4I4I4I4I4I4I4"):pack(0, kind, flags, at,
      offset, size, link, 0, 1, entry)
  end
  return header .. load .. code .. table_bytes .. names .. sec(0, 0, 0, 0, 0, 0, 0)
    .. sec(1, 6, address, at_code, #code, 0, 0)
    .. sec(2, 0, 0, at_table, #table_bytes, 3, wide and 24 or 16)
    .. sec(3, 0, 0, at_names, #names, 0, 0)
end

return M
