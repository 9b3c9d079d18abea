-- ata.lua - one channel of a PC's ATA controller, with one disk or two, by programmed I/O.
--
--   vm:attach(ata.new{ disks = { kvm.disk{ path = "disk.img" } } }, { ports = 0x1f0, irq = 14 })
--
-- Follows T13/1410D (ATA/ATAPI-6): command block at the base, control block at base + 0x206; LBA of
-- 28 and 48 bits and CHS, READ and WRITE SECTORS and MULTIPLE, IDENTIFY, SET FEATURES. No DMA, no
-- packet devices. A command is done when it is written, so BSY is never seen; a sector at a time
-- goes through a source and a fifo of the data port, in C. What the host refuses is an error of the
-- command (UNC for a read, a device fault for a write), and told to on_error. Handlers run on the
-- vCPU's thread under the Lua lock.

local kvm = require "minikvm"
local disks = require "minikvm.device.disk"
local options = require "minikvm.options"

local M = {}

local SECTOR <const>, CONTROL <const> = 512, 0x206
local ERR <const>, DRQ <const>, DSC <const>, DF <const>, DRDY <const> = 0x01, 0x08, 0x10, 0x20, 0x40
local ABRT <const>, IDNF <const>, UNC <const> = 0x04, 0x10, 0x40 -- in ERROR
local PASSED <const> = 0x01 -- in ERROR: the diagnostic's code
local LBA <const>, SECOND <const>, HEAD <const> = 0x40, 0x10, 0x0f -- in DEVICE
local NIEN <const>, SRST <const>, HOB <const> = 0x02, 0x04, 0x80 -- in the device control register
local MULTIPLE_MAX <const> = 16
local LBA28_MAX <const>, LBA48_MAX <const> = 0x0fffffff, 1 << 48
local CHS_MAX <const> = 16383 -- cylinders

-- ---- drives ----

---The geometry that a drive tells of before it is asked for another.
local function default_geometry(sectors)
  local cylinders = math.max(1, math.min(sectors // (16 * 63), CHS_MAX))
  return { heads = 16, sectors = 63, cylinders = cylinders }
end

local function new_drive(disk)
  local g = default_geometry(disk:size() // SECTOR)
  return { heads = g.heads, sectors = g.sectors, multiple = MULTIPLE_MAX }
end

---1 or 2, by the DEVICE register, which a guest may write at any time.
local function selection(d) return d.state.device & SECOND ~= 0 and 2 or 1 end

---The selected drive: its disk and its state; nil when there is none.
local function selected(d)
  local i = selection(d)
  return d.disks[i], d.state.drives[i]
end

---The drive that a transfer is of, whichever is selected meanwhile; without one the selected drive.
local function working(d)
  local t = d.state.transfer
  local i = t and t.drive or selection(d)
  return d.disks[i], d.state.drives[i]
end

---Text in words: the first character in the upper half.
local function words_of(text, count)
  return (("%-" .. 2 * count .. "s"):format(text):sub(1, 2 * count):gsub("(.)(.)", "%2%1"))
end

---The 256 words that IDENTIFY DEVICE answers (table 27).
local function identify(disk, drive, serial)
  local total = disk:size() // SECTOR
  local g = default_geometry(total)
  local w, low = {}, math.min(total, LBA28_MAX)
  for i = 0, 255 do w[i] = 0 end
  w[0], w[1], w[3], w[6] = 0x0040, g.cylinders, g.heads, g.sectors
  w[47], w[49], w[50], w[51] = 0x8000 | MULTIPLE_MAX, 0x0200, 0x4000, 0x0200 -- LBA, no DMA
  w[53] = 0x0003 -- words 54 to 58 and 64 to 70 are valid
  w[55], w[56] = drive.heads, drive.sectors
  w[54] = math.min(total // (drive.heads * drive.sectors), 0xffff)
  local current = w[54] * w[55] * w[56]
  w[57], w[58] = current & 0xffff, current >> 16 & 0xffff
  w[59] = drive.multiple > 0 and 0x0100 | drive.multiple or 0
  w[60], w[61] = low & 0xffff, low >> 16
  w[64], w[67], w[68] = 0x0003, 120, 120 -- PIO modes 3 and 4, nanoseconds of a cycle
  w[80] = 0x007e -- ATA-1 to ATA/ATAPI-6
  w[83], w[84], w[86], w[87] = 0x7400, 0x4000, 0x3400, 0x4000 -- FLUSH CACHE (EXT), LBA48
  for i = 0, 3 do w[100 + i] = total >> 16 * i & 0xffff end
  local bytes = ("<" .. ("I2"):rep(256)):pack(table.unpack(w, 0, 255))
  return bytes:sub(1, 20) .. words_of(serial, 10) .. bytes:sub(41, 46) .. words_of("1", 4)
    .. words_of("minikvm disk", 20) .. bytes:sub(95)
end

-- ---- status, interrupts ----

local function update_line(d)
  if not d.irq then return end
  if d.state.pending and d.state.control & NIEN == 0 then d:raise() else d:lower() end
end

local function interrupt(d)
  d.state.pending = true
  update_line(d)
end

---A command is over.
local function finish(d, err, fault)
  local s = d.state
  s.error = err or 0
  s.status = DRDY | DSC | (err and ERR or 0) | (fault and DF or 0)
  s.transfer = nil
  d.own.source:take()
  d.own.fifo:take()
  interrupt(d)
end

local function abort(d) finish(d, ABRT) end

local function report(d, why)
  if d.own.on_error then d.own.on_error(d, why) end
end

-- ---- where a command's sectors are ----

---The first sector and the count of a command; nil when the address is none of the drive.
local function address(d, ext)
  local s, disk, drive = d.state, selected(d)
  local total = disk:size() // SECTOR
  local first, count
  if ext then
    first = s.low | s.mid << 8 | s.high << 16 | s.low_hob << 24 | s.mid_hob << 32 | s.high_hob << 40
    count = s.count | s.count_hob << 8
    count = count == 0 and 65536 or count
  else
    count = s.count == 0 and 256 or s.count
    if s.device & LBA ~= 0 then
      first = s.low | s.mid << 8 | s.high << 16 | (s.device & HEAD) << 24
    else
      local head, cylinder = s.device & HEAD, s.mid | s.high << 8
      if s.low == 0 or s.low > drive.sectors or head >= drive.heads then return nil end
      first = (cylinder * drive.heads + head) * drive.sectors + s.low - 1
    end
  end
  if first >= total then return nil end
  return first, count, total
end

---Puts a sector's number where the guest gave the first one: that of an error, or the last one.
local function put_address(d, sector, ext)
  local s, _, drive = d.state, working(d)
  if ext then
    s.low_hob, s.mid_hob, s.high_hob = sector >> 24 & 0xff, sector >> 32 & 0xff, sector >> 40 & 0xff
  elseif s.device & LBA == 0 then
    local track = sector // drive.sectors
    local cylinder = track // drive.heads
    s.device = s.device & ~HEAD | track % drive.heads
    s.low, s.mid, s.high = sector % drive.sectors + 1, cylinder & 0xff, cylinder >> 8 & 0xff
    return
  else
    s.device = s.device & ~HEAD | sector >> 24 & HEAD
  end
  s.low, s.mid, s.high = sector & 0xff, sector >> 8 & 0xff, sector >> 16 & 0xff
end

-- ---- transfers ----

---Ends a transfer at a sector that cannot be: beyond the drive, or refused by the host.
local function fail(d, why)
  local t = d.state.transfer
  put_address(d, t.at, t.ext)
  if why then report(d, why) end
  if not why then finish(d, IDNF)
  elseif t.write then finish(d, ABRT, true)
  else finish(d, UNC) end
end

---The next sector to the data port. An interrupt for each block of `block` sectors.
local function offer_sector(d)
  local t, disk = d.state.transfer, working(d)
  if t.at >= t.total then return fail(d) end
  local bytes, why = disk:read(t.at * SECTOR, SECTOR)
  if not bytes then return fail(d, why) end
  d.own.source:put(bytes)
  d.state.status = DRDY | DSC | DRQ
  if t.done % t.block == 0 then interrupt(d) end
end

---All of a sector was read.
local function on_empty(d)
  local t = d.state.transfer
  if not t then -- IDENTIFY's
    d.state.status = DRDY | DSC
    return
  end
  t.done, t.left = t.done + 1, t.left - 1
  if t.left > 0 then
    t.at = t.at + 1
    return offer_sector(d)
  end
  put_address(d, t.at, t.ext)
  d.state.status, d.state.transfer = DRDY | DSC, nil -- the last block had its interrupt
end

---All of a sector was written.
local function on_sector(d, bytes)
  local t, disk = d.state.transfer, working(d)
  if not (t and t.write) then return end -- nobody asked for it
  if t.at >= t.total then return fail(d) end
  local done, why = disk:write(t.at * SECTOR, bytes)
  if not done then return fail(d, why) end
  t.done, t.left = t.done + 1, t.left - 1
  if t.left == 0 then
    put_address(d, t.at, t.ext)
    return finish(d)
  end
  t.at = t.at + 1
  if t.done % t.block == 0 then interrupt(d) end
end

---@param how { write: boolean?, ext: boolean?, multiple: boolean? }
local function transfer(d, how)
  local _, drive = selected(d)
  local first, count, total = address(d, how.ext)
  if how.multiple and drive.multiple == 0 then return abort(d) end
  if not first then return finish(d, IDNF) end
  d.state.transfer = { at = first, left = count, total = total, done = 0, ext = how.ext,
                       write = how.write, block = how.multiple and drive.multiple or 1,
                       drive = selection(d) }
  if not how.write then return offer_sector(d) end
  d.state.status = DRDY | DSC | DRQ -- the first block needs no interrupt
end

-- ---- commands ----

local function verify(ext)
  return function(d)
    local first, count, total = address(d, ext)
    if not first or count > total - first then return finish(d, IDNF) end
    put_address(d, first + count - 1, ext)
    finish(d)
  end
end

local function identify_device(d)
  local disk, drive = selected(d)
  d.own.source:put(identify(disk, drive, ("MK%d"):format(d.state.device & SECOND ~= 0 and 2 or 1)))
  d.state.error, d.state.status = 0, DRDY | DSC | DRQ
  interrupt(d)
end

local function set_multiple(d)
  local _, drive = selected(d)
  local n = d.state.count
  if n > MULTIPLE_MAX or n & n - 1 ~= 0 then return abort(d) end
  drive.multiple = n
  finish(d)
end

---Features that change nothing here: PIO modes 0 to 4, the write cache, look-ahead, defaults.
local FEATURES <const> = { [0x02] = true, [0x82] = true, [0x55] = true, [0xaa] = true,
                           [0x66] = true, [0xcc] = true }

local function set_features(d)
  local s = d.state
  local pio = s.features == 0x03 and (s.count <= 1 or s.count >= 8 and s.count <= 12)
  if pio or FEATURES[s.features] then finish(d) else abort(d) end
end

local function set_geometry(d)
  local _, drive = selected(d)
  if d.state.count == 0 then return abort(d) end
  drive.sectors, drive.heads = d.state.count, (d.state.device & HEAD) + 1
  finish(d)
end

local function flush(d)
  local done, why = selected(d):flush()
  if done then return finish(d) end
  report(d, why)
  finish(d, ABRT, true)
end

---What an ATA disk leaves in the command block after a reset, and by which it is told from others.
local function signature(d)
  local s = d.state
  s.count, s.low, s.mid, s.high, s.device = 1, 1, 0, 0, 0
  s.count_hob, s.low_hob, s.mid_hob, s.high_hob, s.features = 0, 0, 0, 0, 0
  s.error, s.status, s.transfer, s.pending = PASSED, DRDY | DSC, nil, false
end

local function diagnose(d)
  signature(d)
  interrupt(d)
end

local function native_max(ext)
  return function(d)
    local most = ext and LBA48_MAX or LBA28_MAX + 1
    put_address(d, math.min(selected(d):size() // SECTOR, most) - 1, ext)
    finish(d)
  end
end

local function power_mode(d)
  d.state.count = 0xff -- active or idle
  finish(d)
end

local function moves(how) return function(d) transfer(d, how) end end

local COMMANDS <const> = {
  [0x20] = moves{}, [0x21] = moves{}, [0x24] = moves{ ext = true },
  [0x30] = moves{ write = true }, [0x31] = moves{ write = true },
  [0x34] = moves{ write = true, ext = true },
  [0xc4] = moves{ multiple = true }, [0x29] = moves{ multiple = true, ext = true },
  [0xc5] = moves{ write = true, multiple = true },
  [0x39] = moves{ write = true, multiple = true, ext = true },
  [0x40] = verify(false), [0x41] = verify(false), [0x42] = verify(true), [0x70] = verify(false),
  [0x90] = diagnose, [0x91] = set_geometry, [0xc6] = set_multiple, [0xec] = identify_device,
  [0xef] = set_features, [0xe7] = flush, [0xea] = flush, [0xe5] = power_mode,
  [0xf8] = native_max(false), [0x27] = native_max(true),
  [0xe0] = finish, [0xe1] = finish, [0xe2] = finish, [0xe3] = finish,
}
for command = 0x10, 0x1f do COMMANDS[command] = finish end -- RECALIBRATE

local function write_command(d, _, command)
  local s = d.state
  if not selected(d) and command ~= 0x90 then return end -- nobody is there to take it
  s.transfer, s.error, s.pending = nil, 0, false
  d.own.source:take()
  d.own.fifo:take()
  update_line(d)
  local run = COMMANDS[command] or abort
  run(d)
end

-- ---- registers ----

---A drive that is not there: the other one answers 0 for its status.
local function status(d) return selected(d) and d.state.status or 0 end

local function read_status(d)
  local value = status(d)
  if d.state.pending then
    d.state.pending = false
    update_line(d)
  end
  return value
end

---A register that keeps two values, the earlier one for LBA48.
local function read_pair(name)
  return function(d)
    return d.state[d.state.control & HOB ~= 0 and name .. "_hob" or name]
  end
end

local function write_pair(name)
  return function(d, _, value)
    local s = d.state
    s.control = s.control & ~HOB
    s[name .. "_hob"], s[name] = s[name], value
  end
end

local READ <const> = {
  DATA = function() return 0xff end, ERROR = function(d) return d.state.error end,
  COUNT = read_pair "count", LOW = read_pair "low", MID = read_pair "mid", HIGH = read_pair "high",
  DEVICE = function(d) return d.state.device | 0xa0 end, STATUS = read_status,
}
local WRITE <const> = {
  ERROR = function(d, _, value) d.state.features = value end,
  COUNT = write_pair "count", LOW = write_pair "low", MID = write_pair "mid",
  HIGH = write_pair "high",
  DEVICE = function(d, _, value)
    d.state.control = d.state.control & ~HOB
    d.state.device = value
  end,
  STATUS = write_command,
}

local function write_control(d, value)
  local s = d.state
  if value & ~s.control & SRST ~= 0 then
    signature(d)
    d.own.source:take()
    d.own.fifo:take()
  end
  s.control = value
  update_line(d)
end

-- ---- the device ----

local function reset(d)
  d.state = { control = 0, drives = {} }
  for i, disk in ipairs(d.disks) do d.state.drives[i] = new_drive(disk) end
  signature(d)
end

local function attach(d, o)
  d.own.on_error = o.on_error
  for _, disk in ipairs(o.disks) do d:use_disk(disk) end
  local ports = d.vm.ports
  d.own.fifo = d:keep(ports:fifo(d.base, { size = SECTOR }, function(b) on_sector(d, b) end))
  d.own.source = d:keep(ports:source(d.base, function() on_empty(d) end))
  d:keep(ports:on(d.base + CONTROL, {
    read = function() return status(d) end,
    write = function(_, value) write_control(d, value) end,
  }))
  reset(d) -- now that its disks are there
end

local function check_disks(value)
  local list, why = disks.check_list(value)
  if list and (#list < 1 or #list > 2) then
    return nil, ("a channel has one disk or two, got %d"):format(#list)
  end
  return list, why
end

local OPTIONS <const> = options.declare("ata.new", { disks = check_disks, on_error = "function" })

---Describes a channel of an ATA controller, for vm:attach() with `ports = 0x1f0, irq = 14` (or
---0x170 and 15).
---  disks     its disks (kvm.disk), one or two
---  on_error  function(d, text): what the host refused, which the guest gets as an error
---@param opts { disks: minikvm.disk[], on_error: function? }
---@return minikvm.definition
function M.new(opts)
  local o = options.check("ata.new", opts, OPTIONS)
  if not o.disks then options.argument("ata.new", "disks", nil, check_disks) end
  return kvm.device{
    name = "ata", irq = true, read = READ, write = WRITE, reset = reset,
    registers = { [0] = "DATA", "ERROR", "COUNT", "LOW", "MID", "HIGH", "DEVICE", "STATUS" },
    attach = function(d) attach(d, o) end,
  }
end

return require("minikvm.strict").module(M, "devices.ata")
