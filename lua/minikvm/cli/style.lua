-- cli/style.lua - how text looks on a terminal: colours, lines that fit, a line that is drawn over
-- itself. In files and pipes it is the text alone.
--
-- Escapes (ECMA-48: SGR, EL) go to a terminal whose TERM names one that knows them: not "dumb", and
-- not nothing. NO_COLOR, when it is not empty, keeps colours away (no-color.org).

local core = require "minikvm.core"

local M = {}

local COLUMNS <const>, NARROWEST <const> = 80, 10 -- when nobody tells; for a line of progress
local COLOURS <const> = { red = "31", green = "32", yellow = "33", bold = "1" }

local function setting(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

---Whether a terminal takes escapes.
---@param terminal boolean
---@return boolean
function M.takes_escapes(terminal)
  local term = setting "TERM"
  return terminal and term ~= nil and term ~= "dumb"
end

---@param terminal boolean  where the text goes is one
---@return fun(colour: "red"|"green"|"yellow"|"bold", text: string): string
function M.painter(terminal)
  if not M.takes_escapes(terminal) or setting "NO_COLOR" then
    return function(_, text) return text end
  end
  return function(colour, text) return ("\27[%sm%s\27[0m"):format(COLOURS[colour], text) end
end

---How many columns standard output has; nil when it is no terminal.
---@return integer?
function M.columns()
  if not core.process().terminal then return nil end
  local _, columns = core.terminal_size()
  return columns or COLUMNS
end

-- ---- text that fits ----

---The beginning of a text that takes so many columns at most. Characters from U+1100 on count two,
---as the widest of them do.
---@param text string
---@param columns integer
---@return string
function M.cut(text, columns)
  if not utf8.len(text) then return text:sub(1, columns) end
  local used = 0
  for at, code in utf8.codes(text) do
    used = used + (code < 0x1100 and 1 or 2)
    if used > columns then return text:sub(1, at - 1) end
  end
  return text
end

---Where a line is broken: behind the last space that leaves it short enough, if there is one behind
---its indentation, else in the midst of a word.
local function break_at(line, columns, indent)
  local space = line:sub(1, columns + 1):match "^.*() "
  if space and space > #indent + 1 then return space - 1, space + 1 end
  return columns, columns + 1
end

---The text with its long lines broken; what follows is indented as they were, while there is room.
---@param text string
---@param columns integer?  nil: as it is
---@return string
function M.wrap(text, columns)
  if not columns then return text end
  return (text:gsub("[^\n]+", function(line)
    local parts = {}
    while #line > columns do
      local indent = line:match "^ *"
      if #indent > columns // 2 then
        indent = (" "):rep(columns // 4)
        line = indent .. line:match "^ *(.*)"
      end
      local last, next_from = break_at(line, columns, indent)
      parts[#parts + 1] = line:sub(1, last):match "^(.-) *$"
      line = indent .. line:sub(next_from):match "^ *(.*)"
    end
    parts[#parts + 1] = line
    return table.concat(parts, "\n")
  end))
end

-- ---- progress ----

---Seconds as people say them: "40 s", "3 min", "2 h 10 min".
---@param seconds number
---@return string
function M.duration(seconds)
  local s = math.ceil(seconds)
  if s < 100 then return ("%d s"):format(s) end
  local minutes = (s + 30) // 60
  if minutes < 100 then return ("%d min"):format(minutes) end
  return ("%d h %d min"):format(minutes // 60, minutes % 60)
end

---@class minikvm.progress  a line on standard output that is drawn over itself
local Progress = {}
Progress.__index = Progress

---@param terminal boolean  standard output is one
---@return minikvm.progress?  nil where there is none that takes escapes
function M.progress(terminal)
  if not M.takes_escapes(terminal) then return nil end
  return setmetatable({ shown = false }, Progress)
end

---Takes the line away.
function Progress:clear()
  if self.shown then io.stdout:write "\r\27[K" end
  self.shown = false
end

---Shows a text, cut so that it stays one line.
---@param text string
function Progress:show(text)
  local columns = M.columns() or COLUMNS
  self:clear()
  if columns >= NARROWEST then
    io.stdout:write(M.cut(text, columns - 1))
    self.shown = true
  end
  io.stdout:flush()
end

return M
