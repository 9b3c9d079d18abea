-- screen.lua - vm:screen(): the PC's text screen of a guest, 80 x 25 cells in RAM at 0xb8000.
--
-- Each cell is a character of code page 437 and a byte of colours (IBM VGA, text mode 3). There is
-- no display hardware behind it: what the guest has written there is shown, at every look.

local core = require "minikvm.core"

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

---@class minikvm.screen  the screen of one VM; looks at its RAM at every call, also while it runs
---@field private vm minikvm.vm
local Screen = {}
Screen.__index = Screen
Screen.__name = "minikvm.screen"

local function check_self(self, method)
  if getmetatable(self) ~= Screen then
    error(("call %s with ':' (screen:%s(...))"):format(method, method), 3)
  end
end

local function check_index(method, name, value, count)
  local index = type(value) == "number" and math.tointeger(value)
  if index and 0 <= index and index < count then return index end
  error(("screen:%s: %s is 0 to %d, got %s"):format(method, name, count - 1, tostring(value)), 3)
end

---A row's characters as UTF-8, without the blanks at its end (NUL is a blank, too).
local function row_text(cells, y)
  local characters = {}
  for x = 1, COLUMNS do
    characters[x] = CP437[cells:byte((y * COLUMNS + x) * 2 - 1)]
  end
  return (table.concat(characters):gsub(" +$", ""))
end

---One row.
---@param y integer  0 (the top) to 24
---@return string  UTF-8, without the blanks at its end
function Screen:row(y)
  check_self(self, "row")
  y = check_index("row", "y", y, ROWS)
  return row_text(self.vm.memory:read(BASE + y * COLUMNS * 2, COLUMNS * 2), 0)
end

---All of it: 25 lines, each without the blanks at its end and, but for the last, with a newline.
---@return string  UTF-8
function Screen:text()
  check_self(self, "text")
  local cells, rows = self.vm.memory:read(BASE, SIZE), {}
  for y = 0, ROWS - 1 do rows[#rows + 1] = row_text(cells, y) end
  return table.concat(rows, "\n")
end

Screen.__tostring = Screen.text

---Waits until the screen shows what a pattern matches, in the text that text() gives: looked at
---after every exit and every tick (10 ms) of the guest. Otherwise as console:expect, to whose
---options `timeout`, `budget`, `plain` and `stop` are the same.
---@param patterns string|string[]
---@param opts? table
---@return integer index
---@return string|integer ...  captures, or the whole match
function Screen:expect(patterns, opts)
  check_self(self, "expect")
  return require("minikvm.expect").screen_expect(self, self.vm, patterns, opts)
end

---@class minikvm.screen.cell
---@field char string  UTF-8
---@field code integer  the same in code page 437
---@field fg integer  foreground colour, 0 (black) to 15 (white)
---@field bg integer  background colour, 0 to 7
---@field blink boolean

---One cell.
---@param x integer  0 (left) to 79
---@param y integer  0 (the top) to 24
---@return minikvm.screen.cell
function Screen:cell(x, y)
  check_self(self, "cell")
  x, y = check_index("cell", "x", x, COLUMNS), check_index("cell", "y", y, ROWS)
  local cell = self.vm.memory:u16(BASE + (y * COLUMNS + x) * 2)
  local code, colours = cell & 0xff, cell >> 8
  return { char = CP437[code], code = code, fg = colours & 15, bg = colours >> 4 & 7,
           blink = colours >> 7 == 1 }
end

---The text screen of a guest that has one (a PC's, at 0xb8000). An error where RAM ends below it.
---@return minikvm.screen
function vm:screen()
  if type(self) ~= "userdata" then error("call screen with ':' (vm:screen())", 2) end
  local ram = #self.memory
  if ram < BASE + SIZE then
    error(("vm:screen: vm \"%s\" has no text screen: it lies at 0x%x to 0x%x, RAM ends at 0x%x")
          :format(self.name, BASE, BASE + SIZE - 1, ram), 2)
  end
  return setmetatable({ vm = self }, Screen)
end

return M
