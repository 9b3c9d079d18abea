-- vm.keyboard: what a US keyboard sends for what is typed and pressed (IBM PS/2 Hardware Interface
-- Technical Reference, "Keyboards (101- and 102-Key)", scan code tables).
-- spec/dev/interrupts_spec.lua has its interrupt; spec/c/test_i8042.c the controller's commands.

local support = require "support.guest"

local out, bytes = support.out, support.bytes

-- Set-ups: what the guest tells the keyboard before something is typed.
local NUM_LOCK <const> = out(0x60, 0xed) .. bytes "e4 60" .. out(0x60, 2) .. bytes "e4 60"
local SET_2 <const> = out(0x64, 0x60) .. out(0x60, 0x24) -- not translated

---What a guest reads from port 0x60 when fn(keyboard) has typed; it reads as much as is expected.
local function sends(expected, fn, setup)
  local want = bytes(expected)
  local vm <close> = support.vm{ irqchip = "pic" }
  vm.ports:on(0x80, { write = function() fn(vm.keyboard) end })
  local code = (setup or "") .. out(0x80, 0) .. "\xbf\x00\x40\xb9" .. ("<I2"):pack(#want)
    .. bytes "e4 64 a8 01 74 fa e4 60 aa e2 f5  e4 64 a2 00 60 f4" -- then the status
  assert(vm:load{ bytes = code })
  assert.equal("halt", (support.run(vm)))
  local function hex(s) return (s:gsub(".", function(c) return ("%02x "):format(c:byte()) end)) end
  assert.equal(hex(want), hex(vm.memory:read(0x4000, #want)))
  assert.equal(0, vm.memory:u8(0x6000) & 1) -- and no more came
end

local function press(...)
  local names = { ... }
  return function(keyboard) keyboard:press(table.unpack(names)) end
end

describe("a keyboard", function()
  if support.without_kvm(pending) then return end

  it("types symbols and control characters", function()
    sends("2a 29 a9 aa 2a 2b ab aa 2a 28 a8 aa 2a 35 b5 aa 39 b9 35 b5 "
          .. "0f 8f 0e 8e 0e 8e 01 81 1d 2e ae 9d",
          function(k) k:type "~|\"? /\t\b\x7f\x1b\x03" end)
  end)

  it("has a key for every printable ASCII character, and each its own", function()
    local vm <close> = support.vm{ irqchip = "pic" }
    for c = 0x20, 0x7e do assert.equal(vm.keyboard, vm.keyboard:type(string.char(c))) end
    sends("02 82 2a 02 82 aa 34 b4 2a 34 b4 aa 0d 8d 2a 0d 8d aa", function(k) k:type "1!.>=+" end)
  end)

  it("presses chords, and capitals with shift", function()
    sends("1d 38 e0 53 e0 d3 b8 9d", press("ctrl", "alt", "Delete"))
    sends("2a 1e 9e aa", press "A")
  end)

  it("knows keys by name", function()
    local names, codes = {}, {}
    for name, code in ([[ esc 01 enter 1c tab 0f backspace 0e space 39 ctrl 1d rctrl e01d shift 2a
      rshift 36 alt 38 altgr e038 super e05b menu e05d capslock 3a numlock 45 scrolllock 46 up e048
      down e050 left e04b right e04d home e047 end e04f pageup e049 pagedown e051 insert e052
      delete e053 f1 3b f2 3c f3 3d f4 3e f5 3f f6 40 f7 41 f8 42 f9 43 f10 44 f11 57 f12 58 kp0 52
      kpdot 53 kpenter e01c kpslash e035 kpstar 37 kpminus 4a kpplus 4e ]]):gmatch "(%w+) (%x+)" do
      names[#names + 1] = name
      local up = ("%02x"):format(tonumber(code:sub(-2), 16) | 0x80)
      codes[#codes + 1] = code .. code:sub(1, -3) .. up
    end
    sends(table.concat(codes), function(k)
      for _, name in ipairs(names) do k:press(name) end
    end)
  end)

  it("fakes shifts around the grey keys while NumLock is on", function()
    sends("e0 48 e0 c8", press "up")
    sends("e0 2a e0 48 e0 c8 e0 aa", press "up", NUM_LOCK)
    sends("2a e0 48 e0 c8 aa", press("shift", "up"), NUM_LOCK) -- the two cancel each other
    sends("48 c8", press "kp8", NUM_LOCK) -- the keypad's own keys have none
  end)

  it("undoes shifts around the grey keys and the keypad's slash", function()
    sends("2a e0 aa e0 52 e0 d2 e0 2a aa", press("shift", "insert"))
    sends("36 e0 b6 e0 53 e0 d3 e0 36 b6", press("rshift", "delete"))
    sends("2a 36 e0 aa e0 b6 e0 4b e0 cb e0 36 e0 2a b6 aa", press("shift", "rshift", "left"))
    sends("2a e0 aa e0 35 e0 b5 e0 2a aa", press("shift", "kpslash"), NUM_LOCK)
    sends("e0 35 e0 b5", press "kpslash", NUM_LOCK)
  end)

  it("sends what print and pause send, alone and with modifiers", function()
    sends("e0 2a e0 37 e0 b7 e0 aa", press "print")
    sends("1d e0 37 e0 b7 9d", press("ctrl", "print"))
    sends("2a e0 37 e0 b7 aa", press("shift", "printscreen"))
    sends("38 54 d4 b8", press("alt", "sysrq"))
    sends("e1 1d 45 e1 9d c5", press "pause")
    sends("1d e0 46 e0 c6 9d", press("ctrl", "break"))
  end)

  it("sends the same in set 2", function()
    sends("e0 12 e0 7c e0 f0 7c e0 f0 12", press "print", SET_2)
    sends("e1 14 77 e1 f0 14 f0 77", press "pause", SET_2)
    sends("12 e0 f0 12 e0 75 e0 f0 75 e0 12 f0 12", press("shift", "up"), SET_2)
    sends("11 84 f0 84 f0 11", press("alt", "sysrq"), SET_2)
    sends("14 e0 7e e0 f0 7e f0 14", press("ctrl", "pause"), SET_2)
  end)
end)
