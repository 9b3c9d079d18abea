-- keys.lua - bytes that a terminal sends, as keys of a PC: letters, control characters, and the
-- sequences of xterm, the Linux console and VT220 for the other keys, with their modifiers (xterm,
-- "Control Sequences": PC-Style Function Keys).
--
-- Sequences may come in pieces. An ESC that nothing follows until flush() is the key. What is no
-- key of a US keyboard is passed over.

local M = {}

local LONGEST <const> = 16 -- bytes of a sequence

---By the last byte of ESC [ … or ESC O …
local FINAL <const> = { A = "up", B = "down", C = "right", D = "left", H = "home", F = "end",
                        P = "f1", Q = "f2", R = "f3", S = "f4", Z = "tab", M = "kpenter" }
---By the number in ESC [ n ~
local NUMBERS <const> = {
  [1] = "home", [2] = "insert", [3] = "delete", [4] = "end", [5] = "pageup", [6] = "pagedown",
  [7] = "home", [8] = "end", [11] = "f1", [12] = "f2", [13] = "f3", [14] = "f4", [15] = "f5",
  [17] = "f6", [18] = "f7", [19] = "f8", [20] = "f9", [21] = "f10", [23] = "f11", [24] = "f12",
}
local LINUX <const> = { A = "f1", B = "f2", C = "f3", D = "f4", E = "f5" } -- ESC [ [ A
local NAMED <const> = { ["\r"] = "enter", ["\n"] = "enter", ["\127"] = "backspace",
                        ["\b"] = "backspace", ["\t"] = "tab", ["\27"] = "esc", [" "] = "space" }

---@class minikvm.keys
---@field private held string  the beginning of a sequence
local Keys = {}
Keys.__index = Keys

---@return minikvm.keys
function M.new() return setmetatable({ held = "" }, Keys) end

---A key with modifiers: bits 0 to 2 of `bits` are shift, alt and ctrl.
local function with(bits, name)
  local keys = {}
  for i, modifier in ipairs{ "shift", "alt", "ctrl" } do
    if bits >> (i - 1) & 1 == 1 then keys[#keys + 1] = modifier end
  end
  keys[#keys + 1] = name
  return keys
end

---Ctrl with a letter and the like; nil for what has no key.
local function plain(c)
  if NAMED[c] then return { NAMED[c] } end
  local byte = c:byte()
  if byte == 0 then return { "ctrl", "space" } end
  if byte < 32 then return { "ctrl", string.char(byte + 64):lower() } end
  return byte < 127 and { c } or nil
end

---The key of a sequence without its ESC: keys or nil, and what follows; false: it goes on.
local function sequence(text)
  local linux, after = text:match "^%[%[([A-E])()"
  if linux then return { LINUX[linux] }, after end
  local unfinished = text:find "^%[[?>]?[0-9;]*$" or text == "[[" or text == "O"
  if unfinished and #text < LONGEST then return nil, false end
  if unfinished then return nil, #text + 1 end
  local parameters, final
  parameters, final, after = text:match "^[%[O][?>]?([0-9;]*)([@-~])()"
  if not final then return nil, 1 end
  local number, modifier = parameters:match "^(%d*);?(%d*)"
  local bits = math.max(0, (tonumber(modifier) or 1) - 1)
  if final == "Z" then bits = bits | 1 end -- Shift-Tab
  local name = final == "~" and NUMBERS[tonumber(number)] or final ~= "~" and FINAL[final]
  return name and with(bits, name) or nil, after
end

---Takes bytes; returns the keys that they are, each a list of names as keyboard:press() has them.
---@param bytes string
---@return string[][]
function Keys:feed(bytes)
  local text, keys, at = self.held .. bytes, {}, 1
  self.held = ""
  while at <= #text do
    local c = text:sub(at, at)
    if c ~= "\27" then
      keys[#keys + 1], at = plain(c), at + 1
    elseif at == #text then
      self.held = c
      break
    else
      local key, after = sequence(text:sub(at + 1))
      if after == false then
        self.held = text:sub(at)
        break
      elseif after == 1 and text:sub(at + 1, at + 1) == "\27" then
        key, after = { "esc" }, 0
      elseif after == 1 then -- Alt with a key is ESC and that
        key = plain(text:sub(at + 1, at + 1))
        if key then table.insert(key, 1, "alt") end
        after = 2
      end
      keys[#keys + 1], at = key, at + math.max(1, after)
    end
  end
  return keys
end

---Nothing came for a while: what is held is the Escape key.
---@return string[][]
function Keys:flush()
  local held = self.held
  self.held = ""
  local keys = {}
  for c in held:gmatch "." do keys[#keys + 1] = plain(c) end
  return keys
end

return M
