-- screen.lua - vm:screen(): the PC's text screen of a guest, 80 x 25 cells in RAM at 0xb8000; or
-- the picture in its framebuffer (vm/framebuffer.lua), when it has one.
--
-- Each cell is a character of code page 437 and a byte of colours (IBM VGA, text mode 3). What the
-- guest has written there is shown, at every look, as text or as a picture. With a VGA device
-- (devices/vga.lua) the guest has a cursor, a start address and a palette, and needs no RAM there.

local class = require "minikvm.class"
local core = require "minikvm.core"
local framebuffers = require "minikvm.vm.framebuffer"
local options = require "minikvm.options"
local strict = require "minikvm.strict"

local M = {}

---@class minikvm.vm
local vm = core.methods "minikvm.vm"

local BASE <const>, COLUMNS <const>, ROWS <const> = 0xb8000, 80, 25
local SIZE <const> = COLUMNS * ROWS * 2

-- Code page 437: the characters of 0 to 31, 127, and 128 to 255.
local LOW = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
local HIGH = "⌂ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáí"
  .. "óúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜"
  .. "╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒"
  .. "╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥"
  .. "≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}"

local CP437 = {}
for code = 32, 126 do CP437[code] = string.char(code) end
for first, text in pairs{ [0] = LOW, [127] = HIGH } do
  for _, point in utf8.codes(text) do
    CP437[first] = utf8.char(point)
    first = first + 1
  end
end

---The characters of code page 437 as UTF-8, by their codes from 0.
M.characters = CP437

-- The 16 colours of a PC, for VMs whose guest cannot change them.
local COLOURS <const> = {
  { 0, 0, 0 }, { 0, 0, 170 }, { 0, 170, 0 }, { 0, 170, 170 },
  { 170, 0, 0 }, { 170, 0, 170 }, { 170, 85, 0 }, { 170, 170, 170 },
  { 85, 85, 85 }, { 85, 85, 255 }, { 85, 255, 85 }, { 85, 255, 255 },
  { 255, 85, 85 }, { 255, 85, 255 }, { 255, 255, 85 }, { 255, 255, 255 },
}

---@class minikvm.screen  the screen of one VM; looks at it at every call, also while it runs
local SCREEN <const> = "minikvm.screen"
local Screen, meta = class(SCREEN)
strict.seal(Screen, meta, "screen", { "vm" })

local function check_index(method, name, value, count)
  local index = type(value) == "number" and math.tointeger(value)
  if index and 0 <= index and index < count then return index end
  core.blame(("screen:%s: %s is 0 to %d, got %s"):format(method, name, count - 1, tostring(value)))
end

---The VM's VGA device, when it has one, and the functions that look into it.
local function adapter(vm_)
  local vga = package.loaded["minikvm.devices.vga"]
  return vga and vga.of(vm_), vga
end

---Bytes of the screen, from the upper left corner.
local function cells_of(self, at, count)
  local card, vga = adapter(self.vm)
  if card then return vga.video(card, vga.start(card) * 2 + at, count) end
  return self.vm.memory:read(BASE + at, count)
end

---Whether bit 7 of an attribute makes characters blink, or else their background bright.
local function blinks(self)
  local card, vga = adapter(self.vm)
  return not card or vga.blinks(card)
end

---The cells of a VM's screen: a character of code page 437 and its colours each, row after row.
---@param vm_ minikvm.vm
---@return string
---@return boolean blinks  what bit 7 of the colours means; else a bright background
function M.cells(vm_)
  local screen = { vm = vm_ }
  return cells_of(screen, 0, SIZE), blinks(screen)
end

---@class minikvm.screen.look
---@field columns integer
---@field rows integer
---@field cells string?  nil: the VM has no text screen
---@field blinks boolean
---@field palette integer[][]
---@field x integer?  of the cursor, as Screen:cursor() has it, with y, first and last

---All that a text screen shows at this moment.
---@param vm_ minikvm.vm
---@return minikvm.screen.look
function M.look(vm_)
  local card, vga = adapter(vm_)
  local there = card or #vm_.memory >= BASE + SIZE
  local look = { columns = COLUMNS, rows = ROWS, palette = card and vga.palette(card) or COLOURS }
  if not there then return look end
  look.cells, look.blinks = M.cells(vm_)
  look.x, look.y, look.first, look.last = M.cursor(vm_)
  return look
end

---A row's characters as UTF-8, without the blanks at its end; or with those that were written: a
---NUL is a blank that was not.
local function row_text(cells, y, opts)
  local characters, last = {}, 0
  for x = 1, COLUMNS do
    local code = cells:byte((y * COLUMNS + x) * 2 - 1)
    characters[x] = CP437[code]
    if code ~= 0 and (code ~= 32 or opts.blanks) then last = x end
  end
  if y == opts.y then
    characters[opts.x + 1] = opts.cursor
    last = math.max(last, opts.x + 1)
  end
  return table.concat(characters, "", 1, last)
end

---One row.
---@param y integer  0 (the top) to 24
---@return string  UTF-8, without the blanks at its end
function Screen:row(y)
  options.self("screen:row", self, SCREEN)
  y = check_index("row", "y", y, ROWS)
  return row_text(cells_of(self, y * COLUMNS * 2, COLUMNS * 2), 0, {})
end

---Where the guest's cursor is; nil when it is off or not on the screen, and in a VM without a VGA
---device (minikvm.devices.vga), whose guest has none.
---@return integer? x
---@return integer? y
---@return integer? first  line of the character in which it begins, from the top, of 16
---@return integer? last
function Screen:cursor()
  options.self("screen:cursor", self, SCREEN)
  return M.cursor(self.vm)
end

---The same, of a VM.
---@param vm_ minikvm.vm
function M.cursor(vm_)
  local card, vga = adapter(vm_)
  if not card then return nil end
  local at, first, last = vga.cursor(card)
  at = at and (at - vga.start(card)) % (vga.SIZE // 2)
  if not at or at >= COLUMNS * ROWS then return nil end
  return at % COLUMNS, at // COLUMNS, first, last
end

local TEXT <const> = options.declare("screen:text", { cursor = "string", blanks = "boolean" })

---All of it: 25 lines, each without the blanks at its end and, but for the last, with a newline.
---  cursor  what stands where the cursor is, instead of what is below it
---  blanks  true: with the blanks that the guest wrote at the ends of lines
---@param opts? { cursor: string?, blanks: boolean? }
---@return string  UTF-8
function Screen:text(opts)
  options.self("screen:text", self, SCREEN)
  local o = options.check("screen:text", opts, TEXT)
  local cells, rows, how = cells_of(self, 0, SIZE), {}, { blanks = o.blanks, cursor = o.cursor }
  if o.cursor then how.x, how.y = self:cursor() end
  for i = 0, ROWS - 1 do rows[#rows + 1] = row_text(cells, i, how) end
  return table.concat(rows, "\n")
end

function meta:__tostring() return self:text() end

---Waits until the screen shows what a pattern matches, in the text that text() gives or in that of
---text{ blanks = true }: looked at after every exit and every tick (10 ms) of the guest, with a VGA
---device when its memory changes and every tick. Otherwise as console:expect, to whose
---options `timeout`, `budget`, `plain` and `stop` are the same.
---@param patterns string|string[]
---@param opts? table
---@return integer index
---@return string|integer ...  captures, or the whole match
function Screen:expect(patterns, opts)
  options.self("screen:expect", self, SCREEN)
  return require("minikvm.console.expect").screen_expect(self, self.vm, patterns, opts,
                                                         (adapter(self.vm)))
end

local mark = strict.record("screen.cell", "a cell", { "char", "code", "fg", "bg", "blink" })

---One cell.
---@param x integer  0 (left) to 79
---@param y integer  0 (the top) to 24
---@return minikvm.screen.cell
function Screen:cell(x, y)
  options.self("screen:cell", self, SCREEN)
  x, y = check_index("cell", "x", x, COLUMNS), check_index("cell", "y", y, ROWS)
  local code, colours = cells_of(self, (y * COLUMNS + x) * 2, 2):byte(1, 2)
  local blink = blinks(self)
  return mark{ char = CP437[code], code = code, fg = colours & 15,
           bg = colours >> 4 & (blink and 7 or 15), blink = blink and colours >> 7 == 1 }
end

-- ---- as a picture ----

---The pixels of one line of a character, as places in the palette.
local function run_of(bits, width, fg, bg, scale)
  local pixels = {}
  for i = width - 1, 0, -1 do
    pixels[#pixels + 1] = string.char(bits >> i & 1 == 1 and fg or bg):rep(scale)
  end
  return table.concat(pixels)
end

---Draws rows of cells: returns lines of pixels.
local function draw(cells, font, cursor, scale, colour_bits)
  local runs, lines = {}, {}
  local function line_of(y, i)
    local parts = {}
    for x = 0, COLUMNS - 1 do
      local code, attribute = cells:byte((y * COLUMNS + x) * 2 + 1, (y * COLUMNS + x) * 2 + 2)
      local at_cursor = x == cursor.x and y == cursor.y and i >= cursor.first and i <= cursor.last
      local bits = at_cursor and -1 or font:row(font:glyph(utf8.codepoint(CP437[code]), code), i)
      local key = (bits & 0xffffffff) << 8 | attribute
      runs[key] = runs[key] or run_of(bits, font.width, attribute & 15,
                                      attribute >> 4 & colour_bits, scale)
      parts[#parts + 1] = runs[key]
    end
    return table.concat(parts)
  end
  for y = 0, ROWS - 1 do
    for i = 0, font.height - 1 do
      local line = line_of(y, i)
      for _ = 1, scale do lines[#lines + 1] = line end
    end
  end
  return lines
end

---The cursor in lines of the font, which may be higher or lower than the card's 16.
local function cursor_for(self, font, wanted)
  local x, y, first, last = self:cursor()
  if not x or wanted == false then return {} end
  return { x = x, y = y, first = first * font.height // 16,
           last = (last + 1) * font.height // 16 - 1 }
end

local PNG <const> = options.declare("screen:png", {
  font = "text", scale = options.between(1, 8), cursor = "boolean",
})

local PICTURE_MAX <const> = 64 << 20 -- bytes

---The framebuffer as a picture.
local function draw_framebuffer(self, there, scale)
  local width, height = there.width * scale, there.height * scale
  if (width * 3 + 1) * height > PICTURE_MAX then
    core.blame(("screen:png: scale %d makes it a picture of more than %d MiB"):format(
      scale, PICTURE_MAX >> 20))
  end
  return require("minikvm.console.png").encode_rgb(
    width, height, framebuffers.lines(self.vm, there, scale))
end

---A picture of cells as a text screen has them, without a cursor; nil, why, code when there is no
---font.
---@param cells string
---@return string? picture
---@return string? why
---@return string? code
function M.picture(cells)
  local font, why, code = require("minikvm.console.font").load()
  if not font then return nil, why, code end
  return require("minikvm.console.png").encode(COLUMNS * font.width, ROWS * font.height, COLOURS,
                                               draw(cells, font, {}, 1, 7))
end

---The text screen as a picture; nil, why, code when there is no font.
local function draw_text(self, o)
  local font, why, code = require("minikvm.console.font").load(o.font)
  if not font then return nil, why, code end
  local card, vga = adapter(self.vm)
  local scale = o.scale or 1
  local lines = draw(cells_of(self, 0, SIZE), font, cursor_for(self, font, o.cursor), scale,
                     blinks(self) and 7 or 15)
  return require("minikvm.console.png").encode(COLUMNS * font.width * scale, #lines,
                                               card and vga.palette(card) or COLOURS, lines)
end

---The screen as a picture in PNG: the framebuffer, in a VM that has one; else the text screen, of
---640 x 400 pixels with the usual font: its 16 colours, its cursor; what blinks is shown.
---@param path? string  a file to write; without one the picture is returned
---@param opts? { font: string?, scale: integer?, cursor: boolean? }  a console font (.psf, .psfu,
---  .psf.gz) instead of the distribution's own; pixels for each of the font's, 1 to 8 (1); false:
---  without the cursor
---@return string|boolean|nil picture  its bytes, or true; nil, why, code when there is no font, or
---  the file cannot be written
---@return string? why
---@return string? code
function Screen:png(path, opts)
  options.self("screen:png", self, SCREEN)
  if path ~= nil then options.argument("screen:png", "path", path, "text") end
  local o = options.check("screen:png", opts, PNG)
  local there = framebuffers.of(self.vm)
  local bytes, why, code
  if there then
    bytes = draw_framebuffer(self, there, o.scale or 1)
  else
    bytes, why, code = draw_text(self, o)
  end
  if not bytes then return nil, why, code end
  if not path then return bytes end
  return core.write_file(path, bytes)
end

---A pixel of the framebuffer: red, green and blue, 0 to 255. Raises in a VM without one.
---@param x integer  from 0 (left)
---@param y integer  from 0 (the top)
---@return integer red
---@return integer green
---@return integer blue
function Screen:pixel(x, y)
  options.self("screen:pixel", self, SCREEN)
  local there = framebuffers.of(self.vm)
  if not there then
    core.blame(("screen:pixel: vm %q has no framebuffer: give vm:load framebuffer="):format(
      self.vm.name))
  end
  x = check_index("pixel", "x", x, there.width)
  y = check_index("pixel", "y", y, there.height)
  return framebuffers.pixel(self.vm, there, x, y)
end

---The size of the framebuffer in pixels; nil in a VM without one.
---@return integer? width
---@return integer? height
function Screen:size()
  options.self("screen:size", self, SCREEN)
  local there = framebuffers.of(self.vm)
  if there then return there.width, there.height end
end

---The screen of a guest that has one: a PC's text screen at 0xb8000, a framebuffer. An error where
---RAM ends below the former and the VM has no VGA device and no framebuffer.
---@return minikvm.screen
function vm:screen()
  options.self("vm:screen", self, "minikvm.vm")
  local ram = #self.memory
  if ram < BASE + SIZE and not adapter(self) and not framebuffers.of(self) then
    core.blame(("vm:screen: vm \"%s\" has no text screen: it lies at 0x%x to 0x%x, RAM ends at "
           .. "0x%x, no minikvm.devices.vga is attached; and it has no framebuffer")
          :format(self.name, BASE, BASE + SIZE - 1, ram))
  end
  return setmetatable({ vm = self }, meta)
end

return M
