-- keyboard.lua - vm.keyboard: typing at a guest's keyboard, a US one with 102 keys.
--
-- Makes scancodes of set 1 (IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and
-- 102-Key)", table "Scan Code Set 1"); the device (src/dev/i8042.c) makes those of set 2 from them.

local core = require "minikvm.core"
local options = require "minikvm.options"

---@class minikvm.keyboard
local keyboard = core.methods "minikvm.keyboard"

local SLICE <const> = 0.005 -- seconds that the guest gets to read some
local TYPE = options.declare("keyboard:type", { timeout = "seconds" })
local CHORD <const> = 16 -- keys at once
local FULL <const> = "keyboard: 4096 scancodes wait already: the guest does not read them from "
  .. "port 0x60 as fast as they are typed" -- MK_I8042_KEYS
local NUM_LOCK <const> = 2 -- of the LEDs

-- ---- keys ----

---@class minikvm.key
---@field code integer  of set 1
---@field extended boolean?  has the prefix 0xe0
---@field kind string?  of keys whose codes depend on others: "grey", "slash", "print", "pause"; of
---                     those others: "shift", "rshift", "ctrl", "alt"

---Keys by name: code, then "e" for those with a prefix, then the kind.
local KEYS, NAMES = {}, {}
for name, code, extended, kind in ([[
  esc 01  escape 01  backspace 0e  tab 0f  enter 1c  return 1c  space 39  menu 5de
  ctrl 1d:ctrl  lctrl 1d:ctrl  rctrl 1de:ctrl  shift 2a:shift  lshift 2a:shift  rshift 36:rshift
  alt 38:alt  lalt 38:alt  ralt 38e:alt  altgr 38e:alt  super 5be  rsuper 5ce
  capslock 3a  numlock 45  scrolllock 46  f1 3b  f2 3c  f3 3d  f4 3e  f5 3f  f6 40  f7 41  f8 42
  f9 43  f10 44  f11 57  f12 58  up 48e:grey  down 50e:grey  left 4be:grey  right 4de:grey
  home 47e:grey  end 4fe:grey  pageup 49e:grey  pagedown 51e:grey  insert 52e:grey
  delete 53e:grey  kp0 52  kp1 4f  kp2 50  kp3 51  kp4 4b  kp5 4c  kp6 4d  kp7 47  kp8 48  kp9 49
  kpenter 1ce  kpplus 4e  kpminus 4a  kpstar 37  kpdot 53  kpslash 35e:slash
  print 37e:print  printscreen 37e:print  sysrq 37e:print  pause 45:pause  break 45:pause
]]):gmatch "(%w+) (%x%x)(e?):?(%l*)" do
  KEYS[name] = { code = tonumber(code, 16), extended = extended == "e", kind = kind }
  NAMES[#NAMES + 1] = name
end

---What types a character: a key, and the modifier it needs.
local STROKES = {}
local ROWS <const> = { [0x01] = "\27", [0x02] = "1234567890-=\b\tqwertyuiop[]\n",
                       [0x1e] = "asdfghjkl;'`", [0x2b] = "\\zxcvbnm,./", [0x39] = " " }
for first, row in pairs(ROWS) do
  for i = 1, #row do STROKES[row:sub(i, i)] = { { code = first + i - 1 } } end
end
for from, to in pairs{ ["1234567890-="] = "!@#$%^&*()_+", ["[];'`\\,./"] = '{}:"~|<>?' } do
  for i = 1, #from do STROKES[to:sub(i, i)] = { KEYS.shift, STROKES[from:sub(i, i)][1] } end
end
for letter in ("abcdefghijklmnopqrstuvwxyz"):gmatch "." do
  local key, control = STROKES[letter][1], string.char(letter:byte() & 0x1f)
  STROKES[letter:upper()] = { KEYS.shift, key }
  STROKES[control] = STROKES[control] or { KEYS.ctrl, key }
end
STROKES["\r"], STROKES["\127"] = STROKES["\n"], STROKES["\b"]

-- ---- scancodes ----

---The shifts that a grey key undoes, or fakes, around its own codes: before it and after it.
local function fake_shifts(kind, held, leds)
  local before, after = "", ""
  local shifted = held.shift or held.rshift
  local number = kind == "grey" and leds & NUM_LOCK ~= 0
  if number and not shifted then return "\xe0\x2a", "\xe0\xaa" end
  if number then return "", "" end
  if held.shift then before, after = "\xe0\xaa", "\xe0\x2a" end
  if held.rshift then before, after = before .. "\xe0\xb6", "\xe0\x36" .. after end
  return before, after
end

---Codes of a key that goes down while others are held, and of its way up.
local function codes_of(key, held, leds)
  local prefix = key.extended and "\xe0" or ""
  local make, up = prefix .. string.char(key.code), prefix .. string.char(key.code | 0x80)
  if key.kind == "grey" or key.kind == "slash" then
    local before, after = fake_shifts(key.kind, held, leds)
    return before .. make, up .. after
  elseif key.kind == "print" then
    if held.alt then return "\x54", "\xd4" end -- SysRq
    if held.ctrl or held.shift or held.rshift then return make, up end
    return "\xe0\x2a" .. make, up .. "\xe0\xaa"
  elseif key.kind == "pause" then -- tells nothing of its way up
    return held.ctrl and "\xe0\x46\xe0\xc6" or "\xe1\x1d\x45\xe1\x9d\xc5", ""
  end
  return make, up
end

---Codes of keys that are pressed in order and released in reverse.
local function chord(keys, leds)
  local down, up, held = {}, {}, {}
  for i, key in ipairs(keys) do
    down[i], up[#keys + 1 - i] = codes_of(key, held, leds)
    if key.kind then held[key.kind] = true end
  end
  return table.concat(down) .. table.concat(up)
end

-- ---- typing ----

---Types as many whole characters as there is room for; returns how many, and why not all.
local function type_some(self, text, from)
  local room, leds = core.keyboard_state(self)
  local codes = {}
  for i = from, #text do
    local code = chord(STROKES[text:sub(i, i)], leds)
    room = room - #code
    if room < 0 then break end
    codes[#codes + 1] = code
  end
  core.scancodes(self, table.concat(codes))
  return #codes
end

---Why a text cannot be typed; nil when it can.
local function untypable(text)
  for i = 1, #text do
    if not STROKES[text:sub(i, i)] then
      return ("keyboard: no key of a US keyboard types byte 0x%02x (at %d)"):format(text:byte(i), i)
    end
  end
end

---Lets the guest read; false when it does not run any more by itself.
local function let_read(vm)
  if vm.state == "running" then
    core.sleep(SLICE)
    return true
  end
  return vm:run{ deadline = SLICE } == "deadline"
end

---Types ASCII on a US keyboard; "\n" is Enter, "\b" Backspace, "\t" Tab, other control characters
---Ctrl with a letter.
---  timeout  so many seconds the guest may take to read what does not fit; it runs meanwhile, on
---           this thread if it was not started
---@param text string
---@param opts? { timeout: number? }
---@return minikvm.keyboard? keyboard
---@return string? why
---@return string? code  "EINVAL", and nothing typed, for a character without a key; "ENOBUFS"
---@return integer? typed  characters that were
function keyboard:type(text, opts)
  options.self("keyboard:type", self, "minikvm.keyboard")
  options.argument("keyboard:type", "text", text, "string")
  local timeout = options.check("keyboard:type", opts, TYPE).timeout
  local why = untypable(text)
  if why then return nil, why, "EINVAL", 0 end
  local vm = core.vm_of(self, "minikvm.keyboard")
  local give_up, typed = core.now() + (timeout or 0), type_some(self, text, 1)
  while typed < #text and timeout and core.now() <= give_up and let_read(vm) do
    typed = typed + type_some(self, text, typed + 1)
  end
  if typed == #text then return self end
  return nil, FULL, "ENOBUFS", typed
end

local function key_named(name)
  if type(name) ~= "string" then
    core.blame("keyboard:press: a key's name is a string, not a " .. type(name))
  end
  local keys = #name == 1 and STROKES[name] or { KEYS[name:lower()] }
  if #keys > 0 then return keys end
  core.blame(("keyboard:press: no key is named %q%s"):format(name:sub(1, 40),
                                                           options.hint(name, NAMES)))
end

---Presses keys in order and releases them in reverse: "ctrl", "c"; "f1"; "alt", "tab"; "A". A
---one-character name is the key that types it, with shift if that is needed. An unknown name
---raises, and so does a keyboard that has no room.
---@param ... string  1 to 16 names
---@return minikvm.keyboard keyboard
function keyboard:press(...)
  options.self("keyboard:press", self, "minikvm.keyboard")
  local keys, count = {}, select("#", ...)
  local _, leds = core.keyboard_state(self)
  if count < 1 or count > CHORD then core.blame("keyboard:press: 1 to 16 key names") end
  for i = 1, count do
    for _, key in ipairs(key_named((select(i, ...)))) do keys[#keys + 1] = key end
  end
  if not core.scancodes(self, chord(keys, leds)) then core.blame("keyboard:press: " .. FULL) end
  return self
end
