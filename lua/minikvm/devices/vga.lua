-- vga.lua - the text screen of a PC's VGA: video memory at 0xb8000 and the registers that guests
-- touch in text mode: cursor, start address, blinking or bright backgrounds, palette.
--
--   vm:attach(vga.new(), { ports = 0x3c0 })
--
-- Video memory is RAM where the VM's RAM covers it, else a latch in C; vm:screen() shows it.
-- Follows IBM's VGA technical reference: mode 3, 80 x 25 characters; no graphics, no other modes,
-- no fonts of the guest's own. Registers that change nothing here keep what is written to them.
-- Handlers run on the vCPU's thread under the Lua lock.

local core = require "minikvm.core"
local kvm = require "minikvm"
local options = require "minikvm.options"

local M = {}

M.BASE, M.SIZE = 0xb8000, 0x8000 -- of video memory
local BASE <const>, SIZE <const> = M.BASE, M.SIZE

-- Ports from 0x3c0.
local REGISTERS <const> = {
  [0x00] = "ATTRIBUTE", [0x01] = { name = "ATTRIBUTE_READ", access = "ro" }, [0x02] = "MISC",
  [0x04] = "SEQUENCER_INDEX", [0x05] = "SEQUENCER", [0x06] = { name = "DAC_MASK", reset = 0xff },
  [0x07] = "DAC_READ", [0x08] = "DAC_WRITE", [0x09] = "DAC",
  [0x0c] = { name = "MISC_READ", access = "ro" }, [0x0e] = "GRAPHICS_INDEX", [0x0f] = "GRAPHICS",
  [0x14] = "CRTC_INDEX", [0x15] = "CRTC", [0x1a] = "STATUS",
}
local PORTS <const> = 0x20

-- What a BIOS leaves in mode 3.
local CRTC <const> = "5f4f50825581bf1f004f0d0e00000000" .. "9c8e8f281f96b9a3ff"
local ATTRIBUTE <const> = "0001020304051407" .. "38393a3b3c3d3e3f" .. "0c000f0800"
local SEQUENCER <const>, GRAPHICS <const> = "0300030002", "0000000000100e00ff"
local MISC <const> = 0x67

local CURSOR_START <const>, CURSOR_END <const> = 0x0a, 0x0b
local START <const>, CURSOR <const> = 0x0c, 0x0e -- each a high and a low byte
local CURSOR_OFF <const> = 0x20
local MODE <const>, BLINK <const> = 0x10, 0x08 -- in the attribute controller
local ENABLED <const> = 0x20 -- in its index: the palette is the screen's, not the processor's
local NO_DISPLAY <const>, RETRACE <const> = 0x01, 0x08 -- in STATUS

local function file_of(hex)
  return table.move({ core.unhex(hex):byte(1, -1) }, 1, #hex // 2, 0, {}) -- from 0
end

---The 64 colours of an EGA, then black, as a BIOS does; red, green and blue of six bits each.
local function initial_dac()
  local dac = {}
  for i = 0, 255 do
    for c = 0, 2 do
      local strong, weak = i >> 2 - c & 1, i >> 5 - c & 1
      dac[3 * i + c] = i < 64 and strong * 0x2a + weak * 0x15 or 0
    end
  end
  return dac
end

-- ---- registers ----

---A pair of ports: the index, and the register that it names. Registers beyond the last read 0.
local function read_indexed(file, index)
  return function(d) return d.state[file][d.reg[index]] or 0 end
end

local function write_indexed(file, index)
  return function(d, _, value)
    local values, i = d.state[file], d.reg[index]
    if values[i] then values[i] = value end
  end
end

---One port takes index and value in turn; reading STATUS starts with an index.
local function write_attribute(d, _, value)
  local s = d.state
  if not s.expects_value then
    s.attribute_index = value
  elseif s.attribute[s.attribute_index & 0x1f] then
    s.attribute[s.attribute_index & 0x1f] = value
  end
  s.expects_value = not s.expects_value
end

---There is no beam: each look finds it further on, so that who waits for any of it gets there.
local BEAM <const> = { [0] = 0, NO_DISPLAY, 0, NO_DISPLAY | RETRACE }

local function read_status(d)
  local s = d.state
  s.expects_value = false
  s.beam = (s.beam + 1) % 4
  return BEAM[s.beam]
end

local function read_dac(d)
  local s = d.state
  local value = s.dac[s.dac_at]
  s.dac_at = (s.dac_at + 1) % 768
  return value
end

local function write_dac(d, _, value)
  local s = d.state
  s.dac[s.dac_at] = value & 0x3f
  s.dac_at = (s.dac_at + 1) % 768
end

local function set_dac_index(reading)
  return function(d, _, value) d.state.dac_at, d.state.dac_reading = 3 * value, reading end
end

local READ <const> = {
  ATTRIBUTE = function(d) return d.state.attribute_index end,
  ATTRIBUTE_READ = function(d) return d.state.attribute[d.state.attribute_index & 0x1f] or 0 end,
  MISC = function() return 0 end, -- input status 0
  MISC_READ = function(d) return d.state.misc end,
  SEQUENCER = read_indexed("sequencer", "SEQUENCER_INDEX"),
  GRAPHICS = read_indexed("graphics", "GRAPHICS_INDEX"),
  CRTC = read_indexed("crtc", "CRTC_INDEX"),
  DAC_READ = function(d) return d.state.dac_reading and 3 or 0 end,
  DAC_WRITE = function(d) return d.state.dac_at // 3 end,
  DAC = read_dac, STATUS = read_status,
}

local WRITE <const> = {
  ATTRIBUTE = write_attribute,
  MISC = function(d, _, value) d.state.misc = value end,
  SEQUENCER = write_indexed("sequencer", "SEQUENCER_INDEX"),
  GRAPHICS = write_indexed("graphics", "GRAPHICS_INDEX"),
  CRTC = write_indexed("crtc", "CRTC_INDEX"),
  DAC_READ = set_dac_index(true), DAC_WRITE = set_dac_index(false), DAC = write_dac,
}

-- ---- what vm:screen() asks ----

---The VM's VGA; nil when it has none.
---@param vm minikvm.vm
---@return minikvm.device?
function M.of(vm)
  for _, d in ipairs(require("minikvm.device").of(vm)) do
    if d.definition.read == READ then return d end
  end
end

---Eight bytes at a multiple of 8.
local function eight(d, at)
  local address = BASE + at % SIZE
  if address < #d.vm.memory then return d.vm.memory:read(address, 8) end
  return ("<i8"):pack(d.own.video:get(address, 8))
end

---Bytes of video memory, which begins again where it ends.
---@param d minikvm.device
---@param at integer  from its beginning
---@param count integer
---@return string
function M.video(d, at, count)
  if not d.own.video and at + count <= SIZE then return d.vm.memory:read(BASE + at, count) end
  local parts, first = {}, at & ~7
  for i = first, at + count - 1, 8 do parts[#parts + 1] = eight(d, i) end
  return table.concat(parts):sub(at - first + 1, at - first + count)
end

local function word(crtc, index) return crtc[index] << 8 | crtc[index + 1] end

---The first character shown, from the beginning of video memory.
---@param d minikvm.device
---@return integer
function M.start(d) return word(d.state.crtc, START) % (SIZE // 2) end

---Where the cursor is, from the beginning of video memory, and its first and last line of 0 to 31;
---nil when it is off.
---@param d minikvm.device
---@return integer? position
---@return integer? first
---@return integer? last
function M.cursor(d)
  local crtc = d.state.crtc
  local first, last = crtc[CURSOR_START] & 0x1f, crtc[CURSOR_END] & 0x1f
  if crtc[CURSOR_START] & CURSOR_OFF ~= 0 or first > last then return nil end
  return word(crtc, CURSOR) % (SIZE // 2), first, last
end

---Whether bit 7 of an attribute makes a character blink, not its background bright.
---@param d minikvm.device
---@return boolean
function M.blinks(d) return d.state.attribute[MODE] & BLINK ~= 0 end

---The 16 colours as the guest has set them.
---@param d minikvm.device
---@return integer[][]  { red, green, blue } of 0 to 255, from 1
function M.palette(d)
  local colours, s = {}, d.state
  for i = 0, 15 do
    local at, c = 3 * (s.attribute[i] & 0x3f & d.reg.DAC_MASK), {}
    for part = 0, 2 do c[part + 1] = s.dac[at + part] * 255 // 63 end
    colours[i + 1] = c
  end
  return colours
end

-- ---- the device ----

local function reset(d)
  d.state = {
    crtc = file_of(CRTC), attribute = file_of(ATTRIBUTE), sequencer = file_of(SEQUENCER),
    graphics = file_of(GRAPHICS), misc = MISC, dac = initial_dac(), dac_at = 0, beam = 0,
    attribute_index = ENABLED, expects_value = false,
  }
end

---Puts a latch where there is no RAM.
local function attach(d)
  local first = math.max(#d.vm.memory, BASE)
  if first < BASE + SIZE then d.own.video = d:keep(d.vm.mmio:latch(first, BASE + SIZE - first)) end
end

local OPTIONS <const> = options.declare("vga.new", {})

---Describes a VGA's text screen, for vm:attach() with `ports = 0x3c0`.
---@param opts? table  there are no options
---@return minikvm.definition
function M.new(opts)
  options.check("vga.new", opts, OPTIONS)
  return kvm.device{ name = "vga", registers = REGISTERS, size = PORTS, width = 1, read = READ,
                     write = WRITE, reset = reset, attach = attach }
end

return require("minikvm.strict").module(M, "devices.vga")
