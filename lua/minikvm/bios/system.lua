-- system.lua - INT 11h, 12h, 14h, 15h, 17h and 1Ah: equipment, memory, serial ports, time.
--
-- IBM PC/AT Technical Reference, "BIOS"; ACPI 6.4, 15.1 (E820); APM 1.2 (off). The first serial
-- port is the console. No mouse, no printer, no PCI, no extended BIOS data area.

local calendar = require "minikvm.device.calendar"
local disks = require "minikvm.bios.disk"
local calls = require "minikvm.bios.frame"
local keyboard = require "minikvm.bios.keyboard"
local rom = require "minikvm.bios.rom"

local M = {}

local EQUIPMENT <const>, BASE_MEMORY <const>, TICKS <const>, MIDNIGHT <const> =
  0x410, 0x413, 0x46c, 0x470
local KIB <const>, BASE_KIB <const> = 1024, 640
local MIB <const>, HOLE <const> = 1 << 20, 1 << 32
local UNSUPPORTED <const> = 0x86

-- ---- memory ----

---RAM from 1 MiB on, as far as it is one piece; and what lies from 4 GiB on.
local function extended(d)
  local low, high = 0, 0
  for _, r in ipairs(d.vm.memory:regions()) do
    if r.kind == "ram" and r.at <= MIB and r.at + r.size > MIB then low = r.at + r.size - MIB end
    if r.kind == "ram" and r.at == HOLE then high = r.size end
  end
  return low, high
end

---What E820 tells, an entry each: address, bytes, 1 for RAM or 2 for what is reserved.
local function memory_map(d)
  local low, high = extended(d)
  local map = { { 0, BASE_KIB * KIB, 1 }, { rom.BASE, MIB - rom.BASE, 2 } }
  if low > 0 then map[#map + 1] = { MIB, low, 1 } end
  if high > 0 then map[#map + 1] = { HOLE, high, 1 } end
  return map
end

local function e820(d, cpu)
  local map, at = memory_map(d), calls.linear(cpu.es, cpu.di)
  local entry = map[cpu.ebx + 1]
  if cpu.edx ~= 0x534d4150 or not entry or cpu.ecx < 20 or not d.vm.memory:has(at, 20, true) then
    return calls.fail(d, UNSUPPORTED)
  end
  d.vm.memory:write(at, ("<I8I8I4"):pack(entry[1], entry[2], entry[3]))
  cpu.eax, cpu.ecx, cpu.ebx = 0x534d4150, 20, cpu.ebx + 1 < #map and cpu.ebx + 1 or 0
  calls.carry(d, false)
end

---AX=E801h: KiB below 16 MiB, 64 KiB above.
local function e801(d, cpu)
  local low = extended(d)
  local below = math.min(low, 15 * MIB)
  cpu.ax, cpu.bx = below // KIB, math.min((low - below) // (64 * KIB), 0xffff)
  cpu.cx, cpu.dx = cpu.ax, cpu.bx
  calls.carry(d, false)
end

local function extended_size(d, cpu)
  cpu.ax = math.min(extended(d) // KIB, 0xffff)
  calls.carry(d, false)
end

---AH=87h: moves CX words by two descriptors of a table at ES:SI.
local function move_block(d, cpu)
  local memory, at = d.vm.memory, calls.linear(cpu.es, cpu.si)
  if not memory:has(at, 0x30) then return calls.fail(d, 1) end
  local function base(descriptor)
    local where = at + descriptor
    return memory:u16(where + 2) | memory:u8(where + 4) << 16 | memory:u8(where + 7) << 24
  end
  local from, to, bytes = base(0x10), base(0x18), 2 * cpu.cx
  if cpu.cx > 0x8000 or not memory:has(from, bytes) or not memory:has(to, bytes, true) then
    return calls.fail(d, 1)
  end
  memory:write(to, memory:read(from, bytes))
  calls.done(d)
end

-- ---- INT 15h ----

---AH=86h: CX:DX microseconds, in which the guest is interrupted.
local function wait(d, cpu)
  local s, now = d.state, d.vm.clock.now
  s.wait_until = s.wait_until or now + (cpu.cx << 16 | cpu.dx) / 1e6
  local left = s.wait_until - now
  if left > 0 then return calls.wait(d, left) end
  s.wait_until = nil
  calls.done(d)
end

local function a20(d, cpu)
  if cpu.al > 3 then return calls.fail(d, UNSUPPORTED) end
  if cpu.al == 2 then cpu.al = 1 elseif cpu.al == 3 then cpu.bx = 3 end -- it is always on
  calls.done(d)
end

---APM: there, so that a guest can switch off.
local function apm(d, cpu)
  if cpu.al == 0x00 then
    cpu.ax, cpu.bx, cpu.cx = 0x0102, 0x504d, 0
  elseif cpu.al == 0x07 and cpu.bx == 1 and cpu.cx == 3 then
    d.vm:exit(0)
  elseif cpu.al == 0x0e then
    cpu.ax = 0x0102
  elseif cpu.al ~= 0x01 and cpu.al ~= 0x04 and cpu.al ~= 0x07 and cpu.al ~= 0x08 and cpu.al ~= 0x0d
         and cpu.al ~= 0x0f then
    return calls.fail(d, UNSUPPORTED)
  end
  calls.carry(d, false)
end

local function configuration(d, cpu)
  cpu.es, cpu.bx = rom.SEGMENT, rom.CONFIG
  calls.done(d)
end

local INT15 <const> = {
  [0x24] = a20, [0x53] = apm, [0x86] = wait, [0x87] = move_block, [0x88] = extended_size,
  [0xc0] = configuration, [0xec] = calls.done,
  [0xe8] = function(d, cpu)
    if cpu.al == 0x20 then return e820(d, cpu) end
    if cpu.al == 0x01 then return e801(d, cpu) end
    calls.fail(d, UNSUPPORTED)
  end,
}

---@param d minikvm.device
function M.int15(d)
  local cpu = d.vm.cpu[0]
  calls.answer(d)
  local serve = INT15[cpu.ah]
  if serve then serve(d, cpu) else calls.fail(d, UNSUPPORTED) end
end

-- ---- INT 1Ah ----

local function bcd(value) return value // 10 << 4 | value % 10 end

---The date that the guest sees: `time` when the VM was made, and on by its clock.
local function now(d)
  return calendar.from_seconds(d.state.began + math.floor(d.vm.clock.now))
end

local INT1A <const> = {
  [0x00] = function(d, cpu)
    local ticks = d.vm.memory:u32(TICKS)
    cpu.cx, cpu.dx, cpu.al = ticks >> 16, ticks & 0xffff, d.vm.memory:u8(MIDNIGHT)
    d.vm.memory:u8(MIDNIGHT, 0)
  end,
  [0x01] = function(d, cpu) d.vm.memory:u32(TICKS, cpu.cx << 16 | cpu.dx) end,
  [0x02] = function(d, cpu)
    local t = now(d)
    cpu.ch, cpu.cl, cpu.dh, cpu.dl = bcd(t.hour), bcd(t.minute), bcd(t.second), 0
  end,
  [0x04] = function(d, cpu)
    local t = now(d)
    cpu.ch, cpu.cl, cpu.dh, cpu.dl = bcd(t.year // 100 % 100), bcd(t.year % 100), bcd(t.month),
      bcd(t.day)
  end,
}

---@param d minikvm.device
function M.int1a(d)
  local cpu = d.vm.cpu[0]
  local serve = INT1A[cpu.ah]
  if not serve then return calls.fail(d, UNSUPPORTED) end
  serve(d, cpu)
  calls.carry(d, false)
end

-- ---- the others ----

function M.int11(d) d.vm.cpu[0].ax = d.vm.memory:u16(EQUIPMENT) end

function M.int12(d) d.vm.cpu[0].ax = d.vm.memory:u16(BASE_MEMORY) end

---The first serial port is the console.
function M.int14(d)
  local cpu = d.vm.cpu[0]
  if cpu.dx ~= 0 then
    cpu.ah = 0x80 -- a time-out: nobody is there
  elseif cpu.ah == 0x01 then
    d.own.print(d, string.char(cpu.al))
    cpu.ah = 0x60
  elseif cpu.ah == 0x02 then
    local byte = keyboard.byte(d)
    cpu.ah = byte and 0x60 or 0x80
    if byte then cpu.al = byte end
  else
    cpu.ax = 0x60b0
  end
end

---No printer.
function M.int17(d) d.vm.cpu[0].ah = 0x01 end

---Low memory: equipment, sizes, the time of day as ticks.
function M.tables(d)
  local memory, floppies = d.vm.memory, disks.count(d, true)
  memory:u16(0x400, 0x3f8)
  memory:u16(EQUIPMENT, 0x0222 | (floppies > 0 and 0x0001 | floppies - 1 << 6 or 0)) -- FPU, colour
  memory:u16(BASE_MEMORY, BASE_KIB)
  local t = now(d)
  memory:u32(TICKS, (t.hour * 3600 + t.minute * 60 + t.second) * 1193182 // 65536)
end

return M
