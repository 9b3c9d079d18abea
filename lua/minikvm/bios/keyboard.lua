-- keyboard.lua - INT 09h and INT 16h: keys, from the keyboard's scancodes and from the console,
-- into the buffer at 40:1e and out of it.
--
-- IBM PC/AT Technical Reference, "Keyboard Encoding and Usage". What is typed at the console (a
-- terminal, a pipe, console:send) becomes the keys that would have typed it; arrows and the like
-- come as ANSI's escape sequences. No Unicode, no other layout than the US one.

local calls = require "minikvm.bios.frame"

local M = {}

local BDA <const> = 0x400
local SHIFTS <const>, SHIFTS_2 <const>, HEAD <const>, TAIL <const> = 0x417, 0x418, 0x41a, 0x41c
local FIRST <const>, LAST <const> = 0x1e, 0x3e
local RIGHT <const>, LEFT <const>, CTRL <const>, ALT <const> = 0x01, 0x02, 0x04, 0x08
local NUM <const>, CAPS <const> = 0x20, 0x40
local WAIT <const> = 0.004 -- seconds between two looks at the console
local POLLS <const> = 16 -- in vain before the guest is taken to be waiting

-- ---- the buffer ----

local function next_place(at) return at + 2 >= LAST and FIRST or at + 2 end

---@return boolean  false when it is full
local function push(d, key)
  local memory = d.vm.memory
  local tail = memory:u16(TAIL)
  local after = next_place(tail)
  if tail < FIRST or tail >= LAST or after == memory:u16(HEAD) then return false end
  memory:u16(BDA + tail, key)
  memory:u16(TAIL, after)
  return true
end

---The next key, which stays there unless it is taken; nil: none.
local function peek(d, take)
  local memory = d.vm.memory
  local head = memory:u16(HEAD)
  if head == memory:u16(TAIL) or head < FIRST or head >= LAST then return nil end
  if take then memory:u16(HEAD, next_place(head)) end
  return memory:u16(BDA + head)
end

local function is_full(d)
  return next_place(d.vm.memory:u16(TAIL)) == d.vm.memory:u16(HEAD)
end

-- ---- characters and scancodes ----

-- Scancodes of set 1 from a code on: what they type, and what with shift.
local ROWS <const> = {
  { 0x02, "1234567890-=\8\9qwertyuiop[]\13", "!@#$%^&*()_+\8\0QWERTYUIOP{}\13" },
  { 0x1e, "asdfghjkl;'`", 'ASDFGHJKL:"~' }, { 0x2b, "\\zxcvbnm,./", "|ZXCVBNM<>?" },
  { 0x39, " ", " " }, { 0x01, "\27", "\27" },
}
local PLAIN, SHIFTED, CODES = {}, {}, {}
for _, row in ipairs(ROWS) do
  for i = 1, #row[2] do
    local code, plain, shifted = row[1] + i - 1, row[2]:byte(i), row[3]:byte(i)
    PLAIN[code], SHIFTED[code] = plain, shifted
    CODES[shifted], CODES[plain] = CODES[shifted] or code, code
  end
end
for letter = 1, 26 do CODES[letter] = CODES[letter] or CODES[letter + 0x60] end -- with ctrl
CODES[0] = nil

---The key that types a byte of the console: scancode << 8 | character.
local function key_of(byte)
  if byte == 0x0a then byte = 0x0d elseif byte == 0x7f then byte = 0x08 end
  return (CODES[byte] or 0) << 8 | byte
end

-- Escape sequences behind ESC [ or ESC O (ECMA-48, xterm), by their last part.
local SEQUENCES <const> = { A = 0x4800, B = 0x5000, C = 0x4d00, D = 0x4b00, H = 0x4700, F = 0x4f00,
                            ["2~"] = 0x5200, ["3~"] = 0x5300, ["5~"] = 0x4900, ["6~"] = 0x5100,
                            P = 0x3b00, Q = 0x3c00, R = 0x3d00, S = 0x3e00, ["15~"] = 0x3f00,
                            ["17~"] = 0x4000, ["18~"] = 0x4100, ["19~"] = 0x4200,
                            ["20~"] = 0x4300, ["21~"] = 0x4400 }

---Keys that the bytes of the console type: calls put(key) for each.
local function type_bytes(text, put)
  local i = 1
  while i <= #text do
    local sequence = text:match("^\27[%[O](%d*[~%a])", i)
    if sequence and SEQUENCES[sequence] then
      put(SEQUENCES[sequence])
      i = i + 2 + #sequence
    else
      put(key_of(text:byte(i)))
      i = i + 1
    end
  end
end

---Takes what waits at the console, as far as the buffer has room.
---@return boolean ended  nothing will come any more
local function take_console(d)
  local s = d.state
  if is_full(d) then return false end
  if #s.typed == 0 then
    local bytes, _, code = d.vm.console:read(64, 0)
    if not bytes then return code == "ENODATA" end
    type_bytes(bytes, function(key) s.typed[#s.typed + 1] = key end)
  end
  while s.typed[1] and push(d, s.typed[1]) do table.remove(s.typed, 1) end
  return false
end

-- ---- INT 09h: scancodes ----

local SHIFT_KEYS <const> = { [0x36] = RIGHT, [0x2a] = LEFT, [0x1d] = CTRL, [0x38] = ALT }
local LOCKS <const> = { [0x45] = NUM, [0x3a] = CAPS, [0x46] = 0x10 }
local KEYPAD <const> = "789-456+1230."

---With ctrl: what letters and some other keys give.
local function with_ctrl(code)
  local plain = PLAIN[code]
  if plain and plain >= 0x61 and plain <= 0x7a then return code << 8 | plain & 0x1f end
  if plain == 0x20 then return code << 8 | 0x20 end
  if code >= 0x3b and code <= 0x44 then return code + 0x23 << 8 end
  if plain == 0x0d then return code << 8 | 0x0a end
end

local function with_alt(code)
  if code >= 0x02 and code <= 0x0d then return code + 0x76 << 8 end
  if code >= 0x3b and code <= 0x44 then return code + 0x2d << 8 end
  if PLAIN[code] then return code << 8 end
end

local function with_shift(code, shifts)
  local plain, shifted = PLAIN[code], shifts & (LEFT | RIGHT) ~= 0
  if plain and plain >= 0x61 and plain <= 0x7a and shifts & CAPS ~= 0 then shifted = not shifted end
  if shifted and code >= 0x3b and code <= 0x44 then return code + 0x19 << 8 end
  return code << 8 | (shifted and SHIFTED[code] or plain or 0)
end

---A key that goes down: scancode << 8 | character; nil: it types nothing.
local function translate(code, shifts, extended)
  if extended then return code == 0x1c and 0xe00d or code == 0x35 and 0xe02f or code << 8 | 0xe0 end
  if code >= 0x47 and code <= 0x53 then
    local digit = KEYPAD:sub(code - 0x46, code - 0x46)
    local number = (shifts & NUM ~= 0) ~= (shifts & (LEFT | RIGHT) ~= 0)
    return (number or digit:find "[-+]") and code << 8 | digit:byte() or code << 8
  end
  if shifts & ALT ~= 0 then return with_alt(code) end
  if shifts & CTRL ~= 0 then return with_ctrl(code) end
  if code == 0x37 then return 0x372a end
  if PLAIN[code] or code >= 0x3b and code <= 0x44 then return with_shift(code, shifts) end
  if code == 0x57 or code == 0x58 then return code + 0x2e << 8 end -- F11, F12
end

---A byte from the keyboard, in AL.
---@param d minikvm.device
function M.scancode(d)
  local memory, byte, s = d.vm.memory, d.vm.cpu[0].al, d.state
  local shifts, code, up = memory:u8(SHIFTS), byte & 0x7f, byte > 0x7f
  local extended = s.extended
  s.extended = byte == 0xe0
  if byte >= 0xe0 then return end -- prefixes, and what is no key
  local held, lock = SHIFT_KEYS[code], LOCKS[code]
  if held and not (extended and held <= LEFT) then
    memory:u8(SHIFTS, up and shifts & ~held or shifts | held)
  elseif lock and not extended then
    local already = memory:u8(SHIFTS_2)
    if not up and already & lock == 0 then memory:u8(SHIFTS, shifts ~ lock) end
    memory:u8(SHIFTS_2, up and already & ~lock or already | lock)
  elseif not up then
    local key = translate(code, shifts, extended)
    if key then push(d, key) end
  end
end

-- ---- INT 16h ----

---What programs that know 83 keys see of the others: no 0e0h, neither as character nor as scancode.
local function narrowed(key)
  if key & 0xff == 0xe0 then return key & 0xff00 end
  if key >> 8 == 0xe0 then return (key & 0xff == 0x0d and 0x1c00 or 0x3500) | key & 0xff end
  return key
end

local function read_key(d, extended)
  local ended = not peek(d) and take_console(d)
  local key = peek(d, true)
  if ended and not key then d.own.no_input(d) end
  if not key then return calls.wait(d, WAIT) end
  d.state.polls = 0
  d.vm.cpu[0].ax = extended and key or narrowed(key)
end

---Who asks again and again is waiting, and lets the host do something else.
local function check(d, extended)
  local s = d.state
  if not peek(d) then take_console(d) end
  local key = peek(d)
  s.polls = key and 0 or s.polls + 1
  if s.polls > POLLS and not s.idled then
    s.idled = true
    return calls.wait(d, WAIT)
  end
  s.idled = false
  calls.zero(d, key == nil)
  if key then d.vm.cpu[0].ax = extended and key or narrowed(key) end
end

local SERVICES <const> = {
  [0x00] = function(d) read_key(d, false) end, [0x10] = function(d) read_key(d, true) end,
  [0x01] = function(d) check(d, false) end, [0x11] = function(d) check(d, true) end,
  [0x02] = function(d) d.vm.cpu[0].al = d.vm.memory:u8(SHIFTS) end,
  [0x12] = function(d) d.vm.cpu[0].ax = d.vm.memory:u16(SHIFTS) end,
  [0x05] = function(d) d.vm.cpu[0].al = push(d, d.vm.cpu[0].cx) and 0 or 1 end,
  [0x09] = function(d) d.vm.cpu[0].al = 0x20 end, -- 10h to 12h are there
}

---@param d minikvm.device
function M.int16(d)
  calls.answer(d)
  local serve = SERVICES[d.vm.cpu[0].ah]
  if serve then serve(d) end
end

---What the buffer holds at first.
function M.tables(memory)
  memory:u16(HEAD, FIRST)
  memory:u16(TAIL, FIRST)
  memory:u16(0x480, FIRST) -- where it lies
  memory:u16(0x482, LAST)
  memory:u8(0x496, 0x10) -- an enhanced keyboard
end

---A byte typed at the console, for INT 14h; nil: none waits.
function M.byte(d)
  local bytes = d.vm.console:read(1, 0)
  return bytes and bytes:byte()
end

return M
