-- scroll.lua - what a terminal of 80 x 25 characters would show of a console's output, for guests
-- that have no screen: lines that are too long go on in the next row, carriage return, backspace
-- and tab move, escape sequences (ECMA-48, 5.4) show nothing.

local M = {}

local COLUMNS <const>, ROWS <const> = 80, 25
local BYTES <const> = 16 << 10 -- looked at, from the end
local ATTRIBUTE <const> = "\7" -- light grey on black

local codes ---@type table<string, integer>  characters of code page 437 by their UTF-8

local function code_of(character)
  if not codes then
    codes = {}
    for code, text in pairs(require("minikvm.console.screen").characters) do
      codes[text] = codes[text] or code
    end
  end
  return codes[character] or 63
end

---The characters of a text that is UTF-8, or else its bytes as code page 437 has them.
local function characters(text)
  local list, known = {}, require("minikvm.console.screen").characters
  local pattern = utf8.len(text) and utf8.charpattern or "."
  for c in text:gmatch(pattern) do
    list[#list + 1] = #c == 1 and c:byte() > 127 and known[c:byte()] or c
  end
  return list
end

---Rows of characters; each has its own width in `n`.
local function lay_out(list)
  local rows, x = { {} }, 0
  local function feed() rows[#rows + 1] = {} end
  for _, c in ipairs(list) do
    if c == "\n" then
      feed()
      x = 0
    elseif c == "\r" then
      x = 0
    elseif c == "\b" then
      x = math.max(0, x - 1)
    elseif c == "\t" then
      x = math.min(x // 8 * 8 + 8, COLUMNS - 1)
    elseif not c:find "^%c" then
      if x == COLUMNS then
        feed()
        x = 0
      end
      x = x + 1
      rows[#rows][x] = c
    end
  end
  if #rows > 1 and next(rows[#rows]) == nil then rows[#rows] = nil end
  return table.move(rows, math.max(1, #rows - ROWS + 1), #rows, 1, {})
end

---@param text string  what was printed
---@return string[] rows  25 at the most, UTF-8
---@return string cells  as a PC's text screen has them
function M.of(text)
  text = text:sub(-BYTES):gsub("^[\x80-\xbf]+", "")
  text = text:gsub("\27%[[0-?]*[ -/]*[@-~]", ""):gsub("\27[ -/]*[0-~]", "")
  local rows, cells = {}, {}
  for y, row in ipairs(lay_out(characters(text))) do
    local last, line = 0, {}
    for x = 1, COLUMNS do
      line[x] = row[x] or " "
      if row[x] then last = x end
      cells[#cells + 1] = string.char(code_of(line[x])) .. ATTRIBUTE
    end
    rows[y] = table.concat(line, "", 1, last)
  end
  return rows, table.concat(cells) .. (" " .. ATTRIBUTE):rep(COLUMNS * (ROWS - #rows))
end

return M
