-- png.lua - writes pictures with a palette as PNG (W3C Portable Network Graphics, second edition):
-- eight bits a pixel, no interlace, no filter.

local core = require "minikvm.core"

local M = {}

local SIGNATURE <const> = "\x89PNG\r\n\x1a\n"
local DEPTH <const>, INDEXED <const> = 8, 3

local function chunk(kind, data)
  return (">I4"):pack(#data) .. kind .. data .. (">I4"):pack(core.crc32(kind .. data))
end

---@param width integer
---@param height integer
---@param palette integer[][]  { { red, green, blue }, ... }, each 0 to 255; at most 256 of them
---@param lines string[]  one for each row from the top: a byte for each pixel, its place in the
---  palette, from 0
---@return string
function M.encode(width, height, palette, lines)
  local colours = {}
  for i, c in ipairs(palette) do colours[i] = string.char(c[1], c[2], c[3]) end
  local unfiltered = "\0" .. table.concat(lines, "\0")
  return SIGNATURE
    .. chunk("IHDR", (">I4I4BBBBB"):pack(width, height, DEPTH, INDEXED, 0, 0, 0))
    .. chunk("PLTE", table.concat(colours))
    .. chunk("IDAT", assert(core.deflate(unfiltered), "out of memory for a picture"))
    .. chunk("IEND", "")
end

return M
