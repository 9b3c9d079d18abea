-- image/pages.lua - page tables of 64-bit mode with four levels, as bytes: Intel SDM volume 3, 4.5
-- (structure), 4.9.2 (memory types by PAT). For boot protocols that hand over tables of their own.

local M = {}

local PAGE <const>, LARGE <const> = 4096, 2 << 20
local PRESENT <const>, SIZE <const> = 1, 0x80
M.WRITE, M.NO_EXECUTE = 2, 1 << 63
M.WRITE_COMBINING = 1 << 32 -- here: entry 5 of the PAT
local PAT_SMALL <const>, PAT_LARGE <const>, PWT <const> = 1 << 7, 1 << 12, 1 << 3
local ENTRIES <const> = 512
local TABLE <const> = "<" .. ("i8"):rep(ENTRIES)

---@class minikvm.pages
---@field tables table<integer, integer>[]  entries by index; those of tables below are absent
---@field links table<integer, integer>[]  numbers of tables below, by index

---@return minikvm.pages  with nothing mapped
function M.new()
  return { tables = { {} }, links = { {} } }
end

---The number of the table below an entry; made when there is none.
local function descend(pages, number, index)
  local link = pages.links[number]
  if not link[index] then
    local n = #pages.tables + 1
    pages.tables[n], pages.links[n], link[index] = {}, {}, n
  end
  return link[index]
end

---The number of the page directory around an address.
local function directory(pages, linear)
  local number = descend(pages, 1, linear >> 39 & 511)
  return descend(pages, number, linear >> 30 & 511)
end

local function bits_of(flags, large)
  local bits = PRESENT | flags & (M.WRITE | M.NO_EXECUTE) | (large and SIZE or 0)
  if flags & M.WRITE_COMBINING ~= 0 then bits = bits | PWT | (large and PAT_LARGE or PAT_SMALL) end
  return bits
end

---A page that two parts share may be written, or executed, if one of them may.
local function combine(old, new)
  if not old then return new end
  return (old | new) & ~M.NO_EXECUTE | old & new & M.NO_EXECUTE
end

---Maps pages; addresses and size are multiples of 4096. Large pages where both addresses allow it.
---@param flags integer  WRITE, NO_EXECUTE, WRITE_COMBINING
function M.map(pages, linear, physical, bytes, flags)
  local at = 0
  while at < bytes do
    local to, from = linear + at, physical + at
    local number, index = directory(pages, to), to >> 21 & 511
    local aligned = (to | from) & LARGE - 1 == 0 and bytes - at >= LARGE
    if aligned and not pages.links[number][index] then
      pages.tables[number][index] = from | bits_of(flags, true)
      at = at + LARGE
    else
      local small = pages.tables[descend(pages, number, index)]
      local i = to >> 12 & 511
      small[i] = combine(small[i], from | bits_of(flags, false))
      at = at + PAGE
    end
  end
end

---@return integer bytes  that the tables take
function M.size(pages)
  return #pages.tables * PAGE
end

---The tables as bytes when the first, the root, is at this physical address.
---@return string
function M.pack(pages, at)
  local parts = {}
  for number, entries in ipairs(pages.tables) do
    local list, links = {}, pages.links[number]
    for i = 0, ENTRIES - 1 do
      local below = links[i]
      list[i + 1] = below and (at + (below - 1) * PAGE | PRESENT | M.WRITE) or entries[i] or 0
    end
    parts[number] = TABLE:pack(table.unpack(list))
  end
  return table.concat(parts)
end

return M
