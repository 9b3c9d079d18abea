-- view/picture.lua - what a guest shows, as bytes for view/page.lua:
--   T state blinks columns rows x y first last  palette (16 x red, green, blue)  cells
--   F state width height (16 bits each)  pixels (blue, green, red, any)
-- state is 1 while the guest runs; x is 255 where there is no cursor; a cell is a character of code
-- page 437 and its colours.

local framebuffers = require "minikvm.vm.framebuffer"

local M = {}

local NONE <const> = 255

---@param look minikvm.screen.look
local function text_picture(state, look)
  local colours = {}
  for i = 1, 16 do
    local c = look.palette[i]
    colours[i] = string.char(c[1], c[2], c[3])
  end
  local cursor = { look.x or NONE, look.y or NONE, look.first or 0, look.last or 0 }
  return "T" .. string.char(state, look.blinks and 1 or 0, look.columns, look.rows,
                            table.unpack(cursor)) .. table.concat(colours) .. look.cells
end

---What the guest printed, of one that draws on no screen: laid out anew when there is more of it.
local function console_cells(vm, known)
  local text, total = vm.console:text()
  if known.total ~= total then
    local _, cells = require("minikvm.console.scroll").of(text)
    known.total, known.cells = total, cells
  end
  return known.cells
end

---@param vm minikvm.vm
---@param running boolean
---@param known table  what is remembered from one picture to the next
---@return string
function M.of(vm, running, known)
  local state, there = running and 1 or 0, framebuffers.of(vm)
  if there then
    return "F" .. ("<BI2I2"):pack(state, there.width, there.height)
      .. vm.memory:read(there.at, there.bytes)
  end
  local look = require("minikvm.console.screen").look(vm)
  if not look.cells or not look.cells:find "[^%z\7 ]" then
    look.cells, look.x = console_cells(vm, known), nil
  end
  return text_picture(state, look)
end

return M
