-- font.lua - console fonts for pictures of text screens: PSF 1 and 2 (.psf, .psfu), also compressed
-- by gzip, with their Unicode tables.
--
-- Follows the kernel's and kbd's description of the format (psf.h). A font comes from a file, so it
-- is data to be doubted: sizes are checked before they are used, and what does not fit is refused
-- with the reason. Limits: glyphs of 1 to 32 by 1 to 64 pixels, 65536 of them.

local class = require "minikvm.class"
local core = require "minikvm.core"

local M = {}

---@class minikvm.font
---@field path string
---@field width integer  pixels
---@field height integer
---@field count integer  glyphs
---@field private glyphs string  all of them, row by row, the leftmost pixel in the highest bit
---@field private index table<integer, integer>?  from Unicode to glyphs; nil: it has no table
local Font, meta = class "minikvm.font"

local LIMIT <const> = 4 << 20 -- bytes of a font
local MAX_WIDTH <const>, MAX_HEIGHT <const>, MAX_GLYPHS <const> = 32, 64, 65536

---Where distributions keep the VGA's font; the first that is there is taken. The last ones lack a
---few of its characters.
local PLACES <const> = {
  "/usr/share/consolefonts/default8x16.psf.gz",
  "/usr/share/kbd/consolefonts/default8x16.psfu.gz",
  "/usr/lib/kbd/consolefonts/default8x16.psfu.gz",
  "/usr/share/consolefonts/FullGreek-VGA16.psf.gz",
  "/usr/share/consolefonts/Lat15-VGA16.psf.gz",
}

-- ---- Unicode tables ----

---PSF 1: 16-bit numbers; 0xfffe begins sequences, which no single character needs; 0xffff ends a
---glyph's list.
local function read_table_1(bytes, at, count)
  local index, glyph, in_sequence = {}, 0, false
  while glyph < count do
    if at + 1 > #bytes then return nil, "its Unicode table ends too early" end
    local point = ("<I2"):unpack(bytes, at)
    at = at + 2
    if point == 0xffff then
      glyph, in_sequence = glyph + 1, false
    elseif point == 0xfffe then
      in_sequence = true
    elseif not in_sequence then
      index[point] = index[point] or glyph
    end
  end
  return index
end

---PSF 2: UTF-8; a byte 0xfe begins sequences, 0xff ends a glyph's list.
local function read_table_2(bytes, at, count)
  local index = {}
  for glyph = 0, count - 1 do
    local stop = bytes:find("\xff", at, true)
    if not stop then return nil, "its Unicode table ends too early" end
    local singles = bytes:sub(at, stop - 1):match "^[^\xfe]*"
    if not utf8.len(singles) then
      return nil, ("its Unicode table has no UTF-8 for glyph %d"):format(glyph)
    end
    for _, point in utf8.codes(singles) do index[point] = index[point] or glyph end
    at = stop + 1
  end
  return index
end

-- ---- headers ----

local function check_sizes(f, size_of_glyph)
  local bytes = (f.width + 7) // 8 * f.height
  if f.width < 1 or f.width > MAX_WIDTH or f.height < 1 or f.height > MAX_HEIGHT then
    return nil, ("its glyphs of %d x %d pixels are not 1 to %d by 1 to %d"):format(
      f.width, f.height, MAX_WIDTH, MAX_HEIGHT)
  elseif size_of_glyph ~= bytes then
    return nil, ("it says that a glyph of %d x %d pixels has %d bytes, not %d"):format(
      f.width, f.height, size_of_glyph, bytes)
  elseif f.count < 1 or f.count > MAX_GLYPHS then
    return nil, ("it has %d glyphs, not 1 to %d"):format(f.count, MAX_GLYPHS)
  end
  return true
end

---Takes the glyphs behind a header of `header` bytes and the table behind them.
local function read_rest(f, bytes, header, size_of_glyph, read_table)
  local ok, why = check_sizes(f, size_of_glyph)
  if not ok then return nil, why end
  local length = f.count * size_of_glyph
  if header + length > #bytes then return nil, "it ends before its last glyph" end
  f.glyphs = bytes:sub(header + 1, header + length)
  if read_table then
    f.index, why = read_table(bytes, header + length + 1, f.count)
    if not f.index then return nil, why end
  end
  return setmetatable(f, meta)
end

local function read_1(bytes)
  if #bytes < 4 then return nil, "it ends in its header" end
  local mode, size = bytes:byte(3, 4)
  local f = { width = 8, height = size, count = mode & 1 ~= 0 and 512 or 256 }
  return read_rest(f, bytes, 4, size, mode & 6 ~= 0 and read_table_1)
end

local function read_2(bytes)
  if #bytes < 32 then return nil, "it ends in its header" end
  local version, header, flags, count, size, height, width = ("<I4I4I4I4I4I4I4"):unpack(bytes, 5)
  if version ~= 0 then return nil, ("it has version %d of PSF 2, not 0"):format(version) end
  if header < 32 or header > #bytes then return nil, ("its header of %d bytes"):format(header) end
  local f = { width = width, height = height, count = count }
  return read_rest(f, bytes, header, size, flags & 1 ~= 0 and read_table_2)
end

---Reads a font from memory.
---@param bytes string  a .psf, .psfu or .psf.gz file
---@return minikvm.font?
---@return string? why
function M.parse(bytes)
  if bytes:sub(1, 2) == "\x1f\x8b" then
    bytes = core.inflate(bytes, LIMIT)
    if not bytes then return nil, "it is damaged, or more than 4 MiB unpacked" end
  end
  if #bytes > LIMIT then return nil, "it has more than 4 MiB" end
  if bytes:sub(1, 2) == "\x36\x04" then return read_1(bytes) end
  if bytes:sub(1, 4) == "\x72\xb5\x4a\x86" then return read_2(bytes) end
  return nil, "it is no PSF font"
end

local function read_file(path)
  if not io then return nil, path .. ": files cannot be read here", "EACCES" end
  local file <close>, why = io.open(path, "rb")
  if not file then return nil, why, "ENOENT" end
  local bytes, what = file:read(LIMIT + 1)
  if not bytes then return nil, ("%s: %s"):format(path, what or "it is empty"), "EINVAL" end
  return bytes
end

local loaded = {} -- by path

---Reads a font file, once.
---@param path? string  the VGA's font of the distribution by default
---@return minikvm.font?
---@return string? why
---@return string? code
function M.load(path)
  if not path then return M.default() end
  if loaded[path] then return loaded[path] end
  local bytes, why, code = read_file(path)
  if not bytes then return nil, why, code end
  local font
  font, why = M.parse(bytes)
  if not font then return nil, ("%s: %s"):format(path, why), "EINVAL" end
  font.path, loaded[path] = path, font
  return font
end

---@return minikvm.font?
---@return string? why
---@return string? code
function M.default()
  for _, path in ipairs(PLACES) do
    local font, why, code = M.load(path)
    if font or code ~= "ENOENT" then return font, why, code end
  end
  return nil, "no console font is installed: Debian's package is console-data (make deps installs "
    .. "it); or name one with font = PATH", "ENOENT"
end

---The glyph of a character; a font without a table has them in the order of code page 437. What it
---lacks is a question mark, or blank.
---@param point integer  Unicode
---@param code integer  in code page 437
---@return integer
function Font:glyph(point, code)
  if not self.index then return code < self.count and code or 0 end
  return self.index[point] or self.index[0xfffd] or self.index[0x3f] or 0
end

---Row y of a glyph: `width` bits, the leftmost pixel highest.
---@param glyph integer
---@param y integer  from 0
---@return integer
function Font:row(glyph, y)
  local stride = (self.width + 7) // 8
  local at = (glyph * self.height + y) * stride
  local bits = (">I" .. stride):unpack(self.glyphs, at + 1)
  return bits >> stride * 8 - self.width
end

return M
