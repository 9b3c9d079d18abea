-- image/addresses.lua - the part of a file that a kernel's header says by addresses, for kernels
-- that are no ELF files: Multiboot Specification 0.6.96, section 3.1.3; Multiboot2 Specification
-- 2.0, section 3.1.5.

local M = {}

---@param source minikvm.image.source
---@param a { header_addr: integer, load_addr: integer, load_end_addr: integer,
---  bss_end_addr: integer }
---@param at integer  where the header is in the file
---@param bad fun(format: string, ...)  raises what is wrong with the header
---@return { segments: minikvm.image.segment[], entry: integer } made  entered at its beginning
---@return integer finish  the address behind what is loaded
function M.read(source, a, at, bad)
  local load = a.load_addr
  if load > a.header_addr then
    bad("load_addr 0x%x is above header_addr 0x%x", load, a.header_addr)
  elseif a.header_addr - load > at then
    bad("load_addr 0x%x is before the start of the file: the header is only 0x%x bytes into it",
        load, at)
  end
  local offset = at - (a.header_addr - load)
  local rest = source.size - offset
  local bytes = a.load_end_addr ~= 0 and a.load_end_addr - load or rest
  local finish = load + bytes
  if bytes <= 0 then
    bad("load_end_addr 0x%x is %s load_addr 0x%x", a.load_end_addr,
        bytes < 0 and "below" or "not above", load)
  elseif bytes > rest then
    bad("load_end_addr 0x%x is beyond the end of the file (0x%x)", a.load_end_addr, load + rest)
  elseif a.bss_end_addr ~= 0 and a.bss_end_addr < finish then
    bad("bss_end_addr 0x%x is below the end of what is loaded, 0x%x", a.bss_end_addr, finish)
  end
  if a.bss_end_addr ~= 0 then finish = a.bss_end_addr end
  return { segments = { { at = load, linear = load, offset = offset, file_bytes = bytes,
                          mem_bytes = finish - load } }, entry = load }, finish
end

return M
