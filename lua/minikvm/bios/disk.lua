-- disk.lua - INT 13h: sectors by cylinder, head and sector, and by packets; the boot.
--
-- IBM PC/AT Technical Reference, "BIOS"; Phoenix' Enhanced Disk Drive Specification 1.1 and 3.0.
-- An image of a diskette's size is a diskette, drive 0 or 1; others are fixed disks, from 80h on.
-- What the host refuses is an error of the call, and told to on_error.

local calls = require "minikvm.bios.frame"

local M = {}

local SECTOR <const> = 512
local STATUS <const>, COUNT <const> = 0x474, 0x475
local BOOT <const>, SIGNATURE <const> = 0x7c00, 0xaa55
local INVALID <const>, NOT_FOUND <const>, CHANGED <const>, BAD <const>, FAULT <const> =
  0x01, 0x04, 0x09, 0x10, 0xcc
local PIECE <const> = 127 -- sectors moved at once
local USUAL_KIB <const> = 1440 -- of a diskette

-- By the size of a diskette in KiB: cylinders, heads, sectors, and the drive's type in AH=08h.
local FLOPPIES <const> = {
  [160] = { 40, 1, 8, 1 }, [180] = { 40, 1, 9, 1 }, [320] = { 40, 2, 8, 1 },
  [360] = { 40, 2, 9, 1 },
  [720] = { 80, 2, 9, 3 }, [1200] = { 80, 2, 15, 2 }, [1440] = { 80, 2, 18, 4 },
  [1680] = { 80, 2, 21, 4 }, [2880] = { 80, 2, 36, 6 },
}

---Whether a disk of so many bytes is a diskette.
---@param bytes integer
function M.is_floppy(bytes) return bytes % 1024 == 0 and FLOPPIES[bytes // 1024] ~= nil end

---The geometry that a fixed disk is given: heads enough for 1024 cylinders.
local function fixed_geometry(sectors)
  local heads = 16
  while heads < 255 and sectors > 1024 * heads * 63 do heads = math.min(2 * heads, 255) end
  return { math.max(1, math.min(1024, sectors // (heads * 63))), heads, 63 }
end

---@class minikvm.bios.drive
---@field disk minikvm.disk
---@field number integer  0 and 1: diskettes, 80h on: fixed disks
---@field sectors integer
---@field geometry integer[]  cylinders, heads, sectors, type of a diskette drive

---A small image may be the beginning of a diskette, whose loader knows its drive and geometry:
---where there is no diskette it is drive 0, too.
---@param list minikvm.disk[]
---@return minikvm.bios.drive[]  in the order in which they were given
function M.drives(list)
  local drives, floppies, fixed = {}, 0, 0x80
  for i, disk in ipairs(list) do
    local bytes = disk:size()
    local drive = { disk = disk, sectors = bytes // SECTOR }
    if M.is_floppy(bytes) then
      drive.number, drive.geometry, floppies = floppies, FLOPPIES[bytes // 1024], floppies + 1
    else
      drive.number, drive.geometry, fixed = fixed, fixed_geometry(drive.sectors), fixed + 1
    end
    drives[i] = drive
  end
  local first = drives[1]
  if floppies == 0 and first and first.disk:size() < USUAL_KIB * 1024 then
    drives[#drives + 1] = { disk = first.disk, sectors = first.sectors, number = 0,
                            geometry = FLOPPIES[USUAL_KIB] }
  end
  return drives
end

local function drive_of(d, number)
  for _, drive in ipairs(d.own.drives) do
    if drive.number == number then return drive end
  end
end

local function count_of(d, floppies)
  local count = 0
  for _, drive in ipairs(d.own.drives) do
    if (drive.number < 0x80) == floppies then count = count + 1 end
  end
  return count
end

M.count = count_of

-- ---- transfers ----

---Moves sectors between a drive and memory: how many were moved, and an error's code.
---@param what "read"|"write"|"verify"
local function move(d, drive, what, first, count, address)
  local memory = d.vm.memory
  local sectors = drive.sectors
  if first < 0 or first >= sectors or count > sectors - first then return 0, NOT_FOUND end
  if what ~= "verify" and not memory:has(address, count * SECTOR, what == "read") then
    return 0, CHANGED -- beyond what can be addressed
  end
  local done = 0
  while done < count do
    local n = math.min(count - done, PIECE)
    local at, place = (first + done) * SECTOR, address + done * SECTOR
    local ok, why
    if what == "write" then
      ok, why = drive.disk:write(at, memory:read(place, n * SECTOR))
    else
      ok, why = drive.disk:read(at, n * SECTOR)
      if ok and what == "read" then memory:write(place, ok) end
    end
    if not ok then
      d.own.report(d, why)
      return done, what == "write" and FAULT or BAD
    end
    done = done + n
  end
  return done
end

---The sector that CX and DH name; nil when the drive has none such.
local function chs(drive, cpu)
  local g = drive.geometry
  local cylinder, head, sector = cpu.ch | (cpu.cl & 0xc0) << 2, cpu.dh, cpu.cl & 0x3f
  if sector == 0 or sector > g[3] or head >= g[2] then return nil end
  return (cylinder * g[2] + head) * g[3] + sector - 1
end

local function moves(what)
  return function(d, drive, cpu)
    local first = chs(drive, cpu)
    if cpu.al == 0 then return INVALID end
    if not first then return NOT_FOUND end
    local done, code = move(d, drive, what, first, cpu.al, calls.linear(cpu.es, cpu.bx))
    cpu.al = done
    return code
  end
end

---The same by a packet at DS:SI: size, 0, count, offset, segment, sector, and a flat address when
---offset and segment are all ones (3.0).
local function moves_extended(what)
  return function(d, drive, cpu)
    local memory, at = d.vm.memory, calls.linear(cpu.ds, cpu.si)
    if not memory:has(at, 24, true) or memory:u8(at) < 16 then return INVALID end
    local count, offset, segment = memory:u16(at + 2), memory:u16(at + 4), memory:u16(at + 6)
    local address = calls.linear(segment, offset)
    if offset == 0xffff and segment == 0xffff and memory:u8(at) >= 24 then
      address = memory:u64(at + 16)
    end
    local done, code = move(d, drive, what, memory:u64(at + 8), count, address)
    memory:u16(at + 2, done)
    return code
  end
end

-- ---- what drives are ----

local function parameters(d, drive, cpu)
  local g, floppy = drive.geometry, drive.number < 0x80
  local last = g[1] - 1
  cpu.ch, cpu.cl, cpu.dh = last & 0xff, g[3] | (last >> 8) << 6, g[2] - 1
  cpu.dl, cpu.al = count_of(d, floppy), 0
  if floppy then
    cpu.bx, cpu.es, cpu.di = g[4], 0, 0
  end
end

---AH=15h: AH is the answer.
local function drive_type(d, drive, cpu)
  if drive.number < 0x80 then
    cpu.ah = 2 -- a diskette, whose change is noticed
  else
    local sectors = math.min(drive.sectors, 0xffffffff)
    cpu.ah, cpu.cx, cpu.dx = 3, sectors >> 16, sectors & 0xffff
  end
  calls.carry(d, false)
  return "answered"
end

local function check_extensions(_, drive, cpu)
  if cpu.bx ~= 0x55aa or drive.number < 0x80 then return INVALID end
  cpu.bx, cpu.ah, cpu.cx = 0xaa55, 0x21, 0x0005 -- version 1.1; packets, and information on drives
  return "answered"
end

local function extended_parameters(d, drive, cpu)
  local memory, at, g = d.vm.memory, calls.linear(cpu.ds, cpu.si), drive.geometry
  if not memory:has(at, 26, true) or memory:u16(at) < 26 then return INVALID end
  memory:write(at, ("<I2I2I4I4I4I8I2"):pack(26, 2, g[1], g[2], g[3], drive.sectors, SECTOR))
end

local function nothing() end

local SERVICES <const> = {
  [0x00] = nothing, [0x0d] = nothing, [0x10] = nothing, [0x11] = nothing, [0x0c] = nothing,
  [0x09] = nothing, [0x16] = nothing, [0x17] = nothing, [0x18] = nothing, [0x47] = nothing,
  [0x14] = nothing, [0x02] = moves "read", [0x03] = moves "write", [0x04] = moves "verify",
  [0x08] = parameters, [0x15] = drive_type, [0x41] = check_extensions,
  [0x42] = moves_extended "read", [0x43] = moves_extended "write", [0x44] = moves_extended "verify",
  [0x48] = extended_parameters,
}
local EXTENDED <const> = 0x41 -- from here on for fixed disks only

---@param d minikvm.device
function M.int13(d)
  local cpu, memory = d.vm.cpu[0], d.vm.memory
  local call, drive = cpu.ah, drive_of(d, cpu.dl)
  if call == 0x01 then -- the last status
    cpu.ah = memory:u8(STATUS)
    return calls.carry(d, cpu.ah ~= 0)
  end
  local serve = SERVICES[call]
  local code = INVALID
  if call == 0x15 and not drive then
    cpu.ah = 0 -- none is there
    return calls.carry(d, false)
  elseif serve and drive and not (call >= EXTENDED and drive.number < 0x80) then
    code = serve(d, drive, cpu)
  end
  memory:u8(STATUS, math.type(code) == "integer" and code or 0)
  if code == "answered" then
    calls.carry(d, false)
  elseif code then
    calls.fail(d, code)
  else
    calls.done(d)
  end
end

-- ---- the boot ----

---Reads the boot sector of the first drive that has one: the drive, or nil and why there is none.
---@param d minikvm.device
---@return minikvm.bios.drive?
---@return string?
function M.boot(d)
  local why = "there is no disk"
  for _, drive in ipairs(d.own.drives) do
    local bytes, problem = drive.disk:read(0, SECTOR)
    if not bytes then
      d.own.report(d, problem)
      why = "the disk cannot be read"
    elseif ("<I2"):unpack(bytes, 511) ~= SIGNATURE then
      why = "the disk's first sector is no boot sector (it does not end with 55 aa)"
    else
      d.vm.memory:write(BOOT, bytes)
      return drive
    end
  end
  return nil, why
end

---What the tables in low memory say of the drives.
function M.tables(d) d.vm.memory:u8(COUNT, count_of(d, false)) end

return M
