-- terminal.lua - a guest's text screen in the user's terminal: what has changed since the last look
-- goes there as escape sequences (ECMA-48, and xterm's for bright colours).
--
-- Looks 25 times a second, by a timer of the VM, so that it sees what guests write into video
-- memory themselves, too. Bytes go through the VM's console, in UTF-8. A terminal of fewer than 80
-- × 25 characters shows a part. Runs on the thread of vCPU 0 under the Lua lock.

local M = {}

local COLUMNS <const>, ROWS <const> = 80, 25
local SECONDS <const> = 0.04
local ROW <const> = 2 * COLUMNS
local BEGIN <const>, FINISH <const> = "\27[?7l\27[0m\27[2J", "\27[0m\27[?25h\27[?7h\27[25;1H\r\n"

-- The PC's colours in the order of ECMA-48: blue and red change places.
local COLOURS <const> = { [0] = 0, 4, 2, 6, 1, 5, 3, 7 }

---@param blinks boolean  what bit 7 means; else the background is bright
local function attribute(byte, blinks)
  local fg, bg, high = byte & 15, byte >> 4 & 7, byte > 0x7f
  return ("\27[0;%d;%d%sm"):format((fg > 7 and 90 or 30) + COLOURS[fg & 7],
                                   (high and not blinks and 100 or 40) + COLOURS[bg],
                                   high and blinks and ";5" or "")
end

---What makes one row of the terminal the other, and the attribute that is set then.
---@param kind { characters: table<integer, string>, blinks: boolean }
local function row_changes(before, after, y, set, kind)
  local parts, at = {}, nil -- where the terminal's cursor is
  for x = 0, COLUMNS - 1 do
    local cell = after:sub(2 * x + 1, 2 * x + 2)
    if cell ~= before:sub(2 * x + 1, 2 * x + 2) then
      local code, colours = cell:byte(1, 2)
      if at ~= x then parts[#parts + 1] = ("\27[%d;%dH"):format(y + 1, x + 1) end
      if set ~= colours then parts[#parts + 1] = attribute(colours, kind.blinks) end
      set, at = colours, x + 1
      parts[#parts + 1] = kind.characters[code]
    end
  end
  return table.concat(parts), set
end

---@class minikvm.terminal
---@field vm minikvm.vm
---@field shown string  the cells that the terminal shows
---@field cursor string  what put its cursor where it is
local Terminal = {}
Terminal.__index = Terminal

local function cursor_of(vm)
  local x, y = vm:screen():cursor()
  return x and ("\27[%d;%dH\27[?25h"):format(y + 1, x + 1) or "\27[?25l"
end

---What the terminal must be told to show what the screen shows now; "" when it does.
---@return string
function Terminal:changes()
  local screen = require "minikvm.console.screen"
  local cells, blinks = screen.cells(self.vm)
  local parts, set, kind = {}, nil, { characters = screen.characters, blinks = blinks }
  local first = self.shown == nil
  self.shown = self.shown or (" \7"):rep(COLUMNS * ROWS)
  if first then parts[1] = BEGIN end
  for y = 0, cells ~= self.shown and ROWS - 1 or -1 do
    local from, to = y * ROW + 1, (y + 1) * ROW
    local before, after = self.shown:sub(from, to), cells:sub(from, to)
    if before ~= after then
      parts[#parts + 1], set = row_changes(before, after, y, set, kind)
    end
  end
  local cursor = cursor_of(self.vm)
  if #parts > 0 or cursor ~= self.cursor then parts[#parts + 1] = "\27[0m" .. cursor end
  self.shown, self.cursor = cells, cursor
  return table.concat(parts)
end

---The last changes, and the terminal as it was; for after the run.
---@return string
function Terminal:finish() return self:changes() .. FINISH end

---Shows the screen of a VM in the terminal that its console goes to, while it runs; the BIOS in Lua
---prints nothing there itself any more.
---@param vm minikvm.vm
---@return minikvm.terminal
function M.show(vm)
  local terminal = setmetatable({ vm = vm }, Terminal)
  for _, d in ipairs(require("minikvm.device").of(vm)) do
    if d.name == "bios" then d.own.quiet = true end
  end
  vm.clock:every(SECONDS, function()
    local text = terminal:changes()
    if text ~= "" then vm.console:write(text) end
  end)
  return terminal
end

return M
