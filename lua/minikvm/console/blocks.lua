-- blocks.lua - a framebuffer in a terminal: each character is two pixels, the upper half block in
-- one colour on a background of the other (Unicode, U+2580), of 24 bits or the 256 of xterm.
--
-- The picture is made to fit the terminal, its sides in proportion, by leaving pixels out or
-- repeating them.

local M = {}

---What sets a colour, 38 the foreground's or 48 the background's: by 24 bits or by xterm's cube.
local function true_colour(what, r, g, b) return ("%d;2;%d;%d;%d"):format(what, r, g, b) end

local function cube_colour(what, r, g, b)
  local function level(value) return (value * 5 + 127) // 255 end
  return ("%d;5;%d"):format(what, 16 + 36 * level(r) + 6 * level(g) + level(b))
end

---How large the picture is there: characters, and pixels from top to bottom.
local function fit(there, columns, rows)
  local scale = math.min(columns / there.width, 2 * rows / there.height)
  local function side(pixels) return math.max(1, math.floor(pixels * scale)) end
  return math.min(columns, side(there.width)), math.min(2 * rows, side(there.height))
end

local function pixel(line, x)
  local b, g, r = line:byte(4 * x + 1, 4 * x + 3)
  return r, g, b
end

---One row of characters of two lines of pixels.
local function row_text(upper, lower, width, there, colour)
  local parts, set = {}, nil
  for x = 0, width - 1 do
    local at = x * there.width // width
    local fg, bg = colour(38, pixel(upper, at)), "49"
    if lower then bg = colour(48, pixel(lower, at)) end
    local now = fg .. ";" .. bg
    if now ~= set then parts[#parts + 1] = "\27[0;" .. now .. "m" end
    parts[#parts + 1], set = "▀", now
  end
  return table.concat(parts)
end

---What makes the terminal show the picture.
---@param vm minikvm.vm
---@param there minikvm.framebuffer
---@param shown table<integer, string>  by row, the pixels that are shown; is changed
---@param columns integer
---@param rows integer
---@param deep boolean  24 bits
---@return string
function M.changes(vm, there, shown, columns, rows, deep)
  local width, height = fit(there, columns, rows)
  local colour, parts = deep and true_colour or cube_colour, {}
  local function line(y)
    if y >= height then return nil end
    local at = there.at + y * there.height // height * there.pitch
    return vm.memory:read(at, there.pitch)
  end
  for y = 0, (height + 1) // 2 - 1 do
    local upper, lower = line(2 * y), line(2 * y + 1)
    local pixels = upper .. (lower or "")
    if shown[y] ~= pixels then
      shown[y] = pixels
      parts[#parts + 1] = ("\27[%d;1H"):format(y + 1)
        .. row_text(upper, lower, width, there, colour)
    end
  end
  return table.concat(parts)
end

return M
