-- png.lua - writes pictures as PNG (W3C Portable Network Graphics, second edition): with a palette,
-- eight bits a pixel, or as red, green and blue; no interlace, no filter.

local core = require "minikvm.core"

local M = {}

local SIGNATURE <const> = "\x89PNG\r\n\x1a\n"
local DEPTH <const>, RGB <const>, INDEXED <const> = 8, 2, 3

local function chunk(kind, data)
  return (">I4"):pack(#data) .. kind .. data .. (">I4"):pack(core.crc32(kind .. data))
end

local function file(width, height, colour_type, palette, lines)
  local unfiltered = "\0" .. table.concat(lines, "\0")
  return SIGNATURE
    .. chunk("IHDR", (">I4I4BBBBB"):pack(width, height, DEPTH, colour_type, 0, 0, 0)) .. palette
    .. chunk("IDAT", assert(core.deflate(unfiltered), "out of memory for a picture"))
    .. chunk("IEND", "")
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
  return file(width, height, INDEXED, chunk("PLTE", table.concat(colours)), lines)
end

---@param width integer
---@param height integer
---@param lines string[]  one for each row from the top: red, green and blue of each pixel
---@return string
function M.encode_rgb(width, height, lines)
  return file(width, height, RGB, "", lines)
end

return M
