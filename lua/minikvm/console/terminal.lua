-- terminal.lua - a guest's screen in the user's terminal: what has changed since the last look goes
-- there as escape sequences (ECMA-48, and xterm's for bright colours).
--
-- Looks 25 times a second, by a timer of the VM, so that it sees what guests write into video
-- memory themselves, too. Text is UTF-8; a terminal of fewer than 80 × 25 characters shows a part
-- of it. A BIOS in Lua has its screen among what the console prints (show); `run --screen` has the
-- whole terminal: another screen of it while the guest runs, and its keys for the PC's keyboard
-- (take). Runs on the thread of vCPU 0 under the Lua lock.

local core = require "minikvm.core"

local M = {}

local COLUMNS <const>, ROWS <const> = 80, 25
local SECONDS <const> = 0.04
local ROW <const> = 2 * COLUMNS
local ALTERNATE <const> = "\27[?1049h" -- xterm's second screen
local FAREWELL <const> = "\27[0m\27[?25h\27[?7h\27[?1049l" -- the terminal as it was
local INPUT <const> = 4096 -- bytes at a look
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
---@param kind { characters: table<integer, string>, blinks: boolean, columns: integer }
local function row_changes(before, after, y, set, kind)
  local parts, at = {}, nil -- where the terminal's cursor is
  for x = 0, kind.columns - 1 do
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
---@field whole boolean?  the terminal is its own, and it takes keys from it
---@field shown string?  the cells that the terminal shows
---@field cursor string?  what put its cursor where it is
---@field pixels table<integer, string>?  what it shows of a framebuffer
---@field size string?  of the terminal at the last look
local Terminal = {}
Terminal.__index = Terminal

local function cursor_of(vm, columns, rows)
  local x, y = vm:screen():cursor()
  return x and x < columns and y < rows and ("\27[%d;%dH\27[?25h"):format(y + 1, x + 1)
    or "\27[?25l"
end

---What makes the text that the terminal shows that of the screen.
local function text_changes(self, columns, rows)
  local screen = require "minikvm.console.screen"
  local cells, blinks = screen.cells(self.vm)
  local kind = { characters = screen.characters, blinks = blinks,
                 columns = math.min(columns, COLUMNS) }
  local parts, set = {}, nil
  self.shown = self.shown or (" \7"):rep(COLUMNS * ROWS)
  for y = 0, cells ~= self.shown and math.min(rows, ROWS) - 1 or -1 do
    local from, to = y * ROW + 1, y * ROW + 2 * kind.columns -- as much as there is room for
    local before, after = self.shown:sub(from, to), cells:sub(from, to)
    if before ~= after then
      parts[#parts + 1], set = row_changes(before, after, y, set, kind)
    end
  end
  local cursor = cursor_of(self.vm, columns, rows)
  if #parts > 0 or cursor ~= self.cursor then parts[#parts + 1] = "\27[0m" .. cursor end
  self.shown, self.cursor = cells, cursor
  return table.concat(parts)
end

---What the terminal must be told to show what the screen shows now; "" when it does.
---@return string
function Terminal:changes()
  local rows, columns = core.terminal_size()
  rows, columns = rows or ROWS, columns or COLUMNS
  local size, begin = columns .. "x" .. rows, ""
  if self.size ~= size then -- all of it anew
    begin = (self.whole and not self.size and ALTERNATE or "") .. BEGIN
    self.size, self.shown, self.cursor, self.pixels = size, nil, nil, nil
  end
  local there = self.whole and require("minikvm.vm.framebuffer").of(self.vm)
  if not there then return begin .. text_changes(self, columns, rows) end
  self.pixels = self.pixels or {}
  local text = require("minikvm.console.blocks").changes(self.vm, there, self.pixels, columns,
                                                         rows, self.deep)
  if begin ~= "" then begin = begin .. "\27[?25l" end
  return begin .. text
end

---The last changes, and the terminal as it was; for after the run. The whole terminal is that
---already, and shows what text was on the screen, as of any program.
---@return string
function Terminal:finish()
  if not self.whole then return self:changes() .. FINISH end
  self.spool:discard()
  core.terminal_farewell ""
  if not self.size or require("minikvm.vm.framebuffer").of(self.vm) then return "" end
  local text = self.vm:screen():text():gsub("%s+$", "")
  return text == "" and "" or text .. "\n"
end

---Presses the keys that were typed.
local function take_keys(self)
  local bytes = self.vm.console:read(INPUT, 0)
  local keys = bytes and self.keys:feed(bytes) or self.keys:flush()
  for _, key in ipairs(keys) do
    pcall(self.vm.keyboard.press, self.vm.keyboard, table.unpack(key)) -- one that has no room
  end
end

---A look at the screen. A terminal that does not take what it was told is told nothing more
---meanwhile, and then the newest.
local function look(self)
  if self.keys then take_keys(self) end
  if not self.spool:flush() then return end
  local first = not self.size
  local text = self:changes()
  if first then core.terminal_farewell(FAREWELL) end
  if text ~= "" and not self.spool:put(text) then self.size = "lost" end
  self.spool:flush()
end

---A BIOS in Lua, which reads keys as the terminal sends them, prints nothing there itself any more.
---@return boolean  there is one
local function quieten(vm)
  local found = false
  for _, d in ipairs(require("minikvm.device").of(vm)) do
    if d.name == "bios" then d.own.quiet, found = true, true end
  end
  return found
end

---Shows the screen of a VM in the terminal that its console goes to, while it runs.
---@param vm minikvm.vm
---@return minikvm.terminal
function M.show(vm)
  local terminal = setmetatable({ vm = vm }, Terminal)
  quieten(vm)
  vm.clock:every(SECONDS, function()
    local text = terminal:changes()
    if text ~= "" then vm.console:write(text) end
  end)
  return terminal
end

---Gives the VM the whole terminal while it runs: its screen, and the keyboard if it has one. What
---the guest prints is not shown. Standard input and output are a terminal.
---@param vm minikvm.vm  whose console is attached; an error when it has no screen
---@return minikvm.terminal? terminal
---@return string? why
---@return string? code
function M.take(vm)
  vm:screen()
  local spool, why, code = require("minikvm.spool").stdout()
  if not spool then return nil, why, code end
  local colours = os.getenv "COLORTERM"
  local terminal = setmetatable({ vm = vm, whole = true, spool = spool,
                                  deep = colours == "truecolor" or colours == "24bit" }, Terminal)
  vm.console:echo(false)
  if not quieten(vm) and pcall(core.keyboard_state, vm.keyboard) then
    terminal.keys = require("minikvm.console.keys").new()
    core.keys_to_script(vm.console, true)
  end
  vm.clock:every(SECONDS, function() look(terminal) end)
  return terminal
end

return M
