-- The ATA controller (lua/minikvm/devices/ata.lua) as its guests see it, and QEMU's fw_cfg. Numbers
-- are those of T13/1410D (ATA/ATAPI-6) and of QEMU's docs/specs/fw_cfg.rst.

local ata = require "minikvm.devices.ata"
local fw_cfg = require "minikvm.devices.fw_cfg"
local kvm = require "minikvm"
local process = require "support.process"
local support = require "support.guest"

local out, into = support.out, support.into

local DATA <const>, ERROR <const>, STATUS <const>, CONTROL <const> = 0x1f0, 0x1f1, 0x1f7, 0x3f6
local READ <const>, READ_EXT <const>, WRITE <const>, WRITE_EXT <const> = 0x20, 0x24, 0x30, 0x34
local BUFFER <const> = 0x8000

---Sectors whose bytes tell their numbers.
local function sectors(first, count)
  local list = {}
  for i = first, first + count - 1 do list[#list + 1] = ("%-8d"):format(i):rep(64) end
  return table.concat(list)
end

---Writes the registers of a command: the sector by LBA, 28 bits.
local function command(number, lba, count, device)
  return out(0x1f2, count or 1) .. out(0x1f3, lba & 0xff) .. out(0x1f4, lba >> 8 & 0xff)
    .. out(0x1f5, lba >> 16 & 0xff) .. out(0x1f6, device or 0xe0 | lba >> 24) .. out(STATUS, number)
end

---The same with 48 bits: the upper bytes first.
local function command_ext(number, lba, count)
  return out(0x1f6, 0xe0) .. out(0x1f2, count >> 8) .. out(0x1f3, lba >> 24 & 0xff)
    .. out(0x1f4, lba >> 32 & 0xff) .. out(0x1f5, lba >> 40 & 0xff) .. out(0x1f2, count & 0xff)
    .. out(0x1f3, lba & 0xff) .. out(0x1f4, lba >> 8 & 0xff) .. out(0x1f5, lba >> 16 & 0xff)
    .. out(STATUS, number)
end

---mov di/si, address; mov cx, words; mov dx, DATA; cld; rep insw or outsw
local function words_in(address, words)
  return ("<BI2BI2BI2"):pack(0xbf, address, 0xb9, words, 0xba, DATA) .. "\xfc\xf3\x6d"
end
local function words_out(address, words)
  return ("<BI2BI2BI2"):pack(0xbe, address, 0xb9, words, 0xba, DATA) .. "\xfc\xf3\x6f"
end

---A VM whose guest does these things, with one disk.
local function guest(parts, disk, opts)
  local vm = support.program(parts, { irqchip = "pic" })
  local o = opts or {}
  o.disks = { assert(kvm.disk(disk)) }
  return vm, vm:attach(ata.new(o), { ports = 0x1f0, irq = 14 })
end

local function run(vm)
  local reason, info = support.run(vm)
  assert.equal("halt", reason, info.text)
end

describe("an ATA disk", function()
  if support.without_kvm(pending) then return end

  it("says what it is", function()
    local vm <close> = guest({ out(0x1f6, 0xa0), out(STATUS, 0xec), into(0x7000, STATUS),
                               words_in(BUFFER, 256), into(0x7004, STATUS) }, { size = "200G" })
    run(vm)
    local function word(n) return vm.memory:u16(BUFFER + 2 * n) end
    assert.same({ 0x58, 0x50 }, { vm.memory:u8(0x7000), vm.memory:u8(0x7004) }) -- DRDY DSC, DRQ
    assert.same({ 0x0040, 16383, 16, 63 }, { word(0), word(1), word(3), word(6) })
    assert.equal(0x0200, word(49) & 0x0300) -- LBA, no DMA
    assert.equal(0x0fffffff, word(60) | word(61) << 16)
    assert.equal(0x0400, word(83) & 0xc400 ~ 0x4000) -- 48 bits
    assert.equal((200 << 30) // 512, vm.memory:u64(BUFFER + 200))
    local model = vm.memory:read(BUFFER + 54, 40):gsub("(.)(.)", "%2%1")
    assert.equal("minikvm disk", (model:match "^(.-) *$"))
  end)

  it("reads and writes sectors by numbers of 28 and 48 bits", function()
    local vm <close>, d = guest({
      command(READ, 5, 2), words_in(BUFFER, 512), into(0x7000, STATUS),
      command(WRITE, 3, 2), words_out(BUFFER, 512), into(0x7004, STATUS),
      command_ext(WRITE_EXT, 0x123456789, 1), words_out(BUFFER, 256),
      command_ext(READ_EXT, 0x123456788, 2), words_in(BUFFER + 1024, 512), into(0x7008, STATUS),
    }, { bytes = sectors(0, 16), size = 1 << 42 })
    run(vm)
    assert.equal(sectors(5, 2), vm.memory:read(BUFFER, 1024))
    assert.equal(("\0"):rep(512) .. sectors(5, 1), vm.memory:read(BUFFER + 1024, 1024))
    for at = 0x7000, 0x7008, 4 do assert.equal(0x50, vm.memory:u8(at)) end
    local disk = vm:disk(1)
    assert.equal(sectors(2, 1) .. sectors(5, 2) .. sectors(5, 1), disk:read(2 * 512, 2048))
    assert.equal(sectors(5, 1), disk:read(0x123456789 * 512, 512))
    assert.equal(d.disks[1], disk)
  end)

  it("finds sectors by cylinder, head and sector, in the geometry that it was given", function()
    local function chs(cylinder, head, sector)
      return out(0x1f2, 1) .. out(0x1f3, sector) .. out(0x1f4, cylinder & 0xff)
        .. out(0x1f5, cylinder >> 8) .. out(0x1f6, 0xa0 | head) .. out(STATUS, READ)
    end
    local vm <close> = guest({
      chs(0, 1, 2), words_in(BUFFER, 256), -- 63 sectors a track
      out(0x1f2, 9), out(0x1f6, 0xa1), out(STATUS, 0x91), -- two heads, 9 sectors
      chs(1, 1, 2), words_in(BUFFER + 512, 256),
      chs(0, 2, 1), into(0x7000, STATUS), into(0x7004, ERROR),
    }, { bytes = sectors(0, 100) })
    run(vm)
    assert.equal(sectors(64, 1) .. sectors(28, 1), vm.memory:read(BUFFER, 1024))
    assert.same({ 0x51, 0x10 }, { vm.memory:u8(0x7000), vm.memory:u8(0x7004) }) -- IDNF
  end)

  it("moves blocks of several sectors, with an interrupt each", function()
    -- OCW3: read the IRR of the second controller, in which line 14 is bit 6.
    local function pending_line(at) return out(0xa0, 0x0a) .. into(at, 0xa0) end
    local vm <close> = guest({
      out(0x1f2, 4), out(0x1f6, 0xe0), out(STATUS, 0xc6), into(0x7000, STATUS), -- SET MULTIPLE: 4
      command(0xc4, 8, 6), pending_line(0x7004), into(0x7008, STATUS), pending_line(0x700c),
      words_in(BUFFER, 256), pending_line(0x7010), words_in(BUFFER + 512, 768),
      pending_line(0x7014), into(0x7018, STATUS), words_in(BUFFER + 2048, 512),
      into(0x701c, STATUS),
      command(0xc5, 0, 2), pending_line(0x7020), words_out(BUFFER, 512), pending_line(0x7024),
      out(CONTROL, 2), command(READ, 1, 1), pending_line(0x7028), words_in(0x6000, 256),
    }, { bytes = sectors(0, 20) })
    run(vm)
    assert.equal(sectors(8, 6), vm.memory:read(BUFFER, 6 * 512))
    assert.equal(sectors(8, 2), vm:disk(1):read(0, 1024))
    local lines = {}
    for i, at in ipairs{ 0x7004, 0x700c, 0x7010, 0x7014, 0x7020, 0x7024, 0x7028 } do
      lines[i] = vm.memory:u8(at) & 0x40
    end
    -- up with a block, down when STATUS was read; a write's first block has none; nIEN
    assert.same({ 0x40, 0, 0, 0x40, 0, 0x40, 0 }, lines)
    assert.same({ 0x58, 0x58, 0x50 }, { vm.memory:u8(0x7008), vm.memory:u8(0x7018),
                                        vm.memory:u8(0x701c) })
  end)

  it("refuses what it does not know, and what lies beyond its end", function()
    local vm <close> = guest({
      out(0x1f6, 0xe0), out(STATUS, 0xc8), into(0x7000, STATUS), into(0x7004, ERROR), -- READ DMA
      command(READ, 16, 1), into(0x7008, STATUS), into(0x700c, ERROR),
      command(READ, 15, 2), words_in(BUFFER, 256), into(0x7010, STATUS), into(0x7014, ERROR),
      into(0x7018, 0x1f3), command_ext(READ_EXT, (1 << 48) - 1, 0), into(0x701c, STATUS),
      out(0x1f1, 0x99), out(STATUS, 0xef), into(0x7020, ERROR), -- SET FEATURES of none
    }, { bytes = sectors(0, 16) })
    run(vm)
    local got = {}
    for i = 0, 8 do got[i + 1] = vm.memory:u8(0x7000 + 4 * i) end
    assert.same({ 0x51, 0x04, 0x51, 0x10, 0x51, 0x10, 16, 0x51, 0x04 }, got)
    assert.equal(sectors(15, 1), vm.memory:read(BUFFER, 512))
  end)

  it("tells its guest and the script when the host cannot read, or write", function()
    local path, told = process.temporary(sectors(0, 64)), {}
    local vm <close> = guest({
      command(READ, 1, 1), words_in(BUFFER, 256), "\xf4",
      command(READ, 7, 2), words_in(BUFFER, 256), into(0x7000, STATUS), into(0x7004, ERROR),
      into(0x7008, 0x1f3), command(WRITE, 9, 1), words_out(BUFFER, 256), into(0x700c, STATUS),
      into(0x7010, ERROR), command(READ, 1, 1), words_in(BUFFER, 256), into(0x7014, STATUS),
    }, { path = path }, { on_error = function(_, text) told[#told + 1] = text end })
    run(vm)
    io.open(path, "wb"):write(sectors(0, 8)):close() -- cut off while it runs
    run(vm)
    os.remove(path)
    local got = {}
    for i = 0, 5 do got[i + 1] = vm.memory:u8(0x7000 + 4 * i) end
    -- UNC at sector 8; a device fault: the rest of the block cannot be read; what is there goes on
    assert.same({ 0x51, 0x40, 8, 0x71, 0x04, 0x50 }, got)
    assert.matches("the file ends at 4096, it had 32768 bytes when it was opened", told[1])
    assert.equal(2, #told)
  end)

  it("goes on with a transfer when another drive is selected meanwhile", function()
    -- ATA/ATAPI-6, 7.7 and 9.5: the command was the selected drive's; there is no drive 1 here
    local vm <close> = guest({
      command(READ, 0, 2), words_in(BUFFER, 256), out(0x1f6, 0xf0), words_in(BUFFER + 512, 256),
      command(WRITE, 2, 2), words_out(BUFFER, 256), out(0x1f6, 0xf0), words_out(BUFFER + 512, 256),
      command(READ, 3, 2), out(0x1f6, 0xf0), words_in(BUFFER + 1024, 256), -- ends behind the disk
      out(0x1f6, 0xe0), into(0x7000, STATUS), into(0x7004, ERROR),
    }, { bytes = sectors(0, 4) })
    run(vm)
    assert.equal(sectors(0, 2), vm.memory:read(BUFFER, 1024))
    assert.equal(sectors(0, 2) .. sectors(0, 2), vm:disk(1):read(0, 4 * 512))
    assert.same({ 0x51, 0x10 }, { vm.memory:u8(0x7000), vm.memory:u8(0x7004) }) -- IDNF
  end)

  it("has a second drive or none, and a signature after a reset", function()
    local vm <close> = support.program({
      out(0x1f6, 0xf0), into(0x7000, STATUS), out(STATUS, 0xec), into(0x7004, STATUS),
      out(CONTROL, 4), out(CONTROL, 0), into(0x7008, 0x1f2), into(0x700c, 0x1f3),
      into(0x7010, 0x1f4), into(0x7014, 0x1f5), into(0x7018, ERROR), into(0x701c, STATUS),
      command(READ, 0, 1, 0xf0), words_in(BUFFER, 256),
    }, { irqchip = "pic" })
    local one, two = assert(kvm.disk{ size = 512 }), assert(kvm.disk{ bytes = sectors(7, 1) })
    local d = vm:attach(ata.new{ disks = { one } }, { ports = 0x1f0, irq = 14 })
    run(vm)
    assert.same({ 0, 0 }, { vm.memory:u8(0x7000), vm.memory:u8(0x7004) })
    local got = {}
    for i = 2, 7 do got[i - 1] = vm.memory:u8(0x7000 + 4 * i) end
    assert.same({ 1, 1, 0, 0, 1, 0x50 }, got)
    d:detach()
    one = assert(kvm.disk{ size = 512 })
    vm:attach(ata.new{ disks = { one, two } }, { ports = 0x1f0, irq = 14 })
    vm.cpu[0].rip = 0
    run(vm)
    assert.equal(0x58, vm.memory:u8(0x7004))
    assert.equal(sectors(7, 1), vm.memory:read(BUFFER, 512))
  end)

  it("goes on in the middle of a sector after a restore", function()
    local vm <close> = guest({ command(READ, 3, 2), words_in(BUFFER, 100), "\xf4",
                               words_in(BUFFER + 200, 412), command(WRITE, 1, 1),
                               words_out(BUFFER, 30), "\xf4", words_out(BUFFER + 60, 226) },
                             { bytes = sectors(0, 8) })
    run(vm)
    local first = vm:snapshot()
    for _ = 1, 3 do
      run(vm)
      assert.equal(sectors(3, 2), vm.memory:read(BUFFER, 1024))
      local second = vm:snapshot()
      run(vm)
      assert.equal(sectors(3, 1), vm:disk(1):read(512, 512))
      vm:restore(second)
      assert.equal(sectors(1, 1), vm:disk(1):read(512, 512))
      run(vm)
      assert.equal(sectors(3, 1), vm:disk(1):read(512, 512))
      vm:restore(first)
    end
  end)

  it("serves data in C: Lua is called once a sector", function()
    local vm <close> = guest({ command(READ, 0, 16), words_in(BUFFER, 16 * 256) },
                             { bytes = sectors(0, 16) })
    run(vm)
    assert.equal(sectors(0, 16), vm.memory:read(BUFFER, 16 * 512))
    for _, row in ipairs(vm:stats()) do
      if row.first == DATA and row.last == DATA then
        assert.equal(16 * 256, row.accesses)
        assert.equal(0, row.lua)
      end
    end
  end)

  it("blames options on the script", function()
    for _, case in ipairs{ { {}, "disks" }, { { disks = {} }, "one disk or two, got 0" },
                           { { disks = { "x" } }, "expected a disk of kvm.disk, got a string" } } do
      local ok, why = pcall(ata.new, case[1])
      assert.is_false(ok)
      assert.matches("ata_spec.lua:%d+: ata.new: .*" .. case[2], why)
    end
    local vm <close> = support.vm{ irqchip = "pic" }
    local disk = assert(kvm.disk{ size = 512 })
    local _, why = pcall(function()
      vm:attach(ata.new{ disks = { disk, disk } }, { ports = 0x1f0, irq = 14 })
    end)
    assert.matches("^[^:]*ata_spec.lua:%d+: the disk is another device's already", why)
  end)
end)

describe("fw_cfg", function()
  if support.without_kvm(pending) then return end

  local function select(key) return out(0x510, key, 2) end
  ---mov di, address; mov cx, count; mov dx, 0x511; cld; rep insb
  local function bytes_in(address, count)
    return ("<BI2BI2BI2"):pack(0xbf, address, 0xb9, count, 0xba, 0x511) .. "\xfc\xf3\x6c"
  end

  it("has the signature, items and files with a directory", function()
    local vm <close> = support.program{ bytes_in(0x7000, 6), select(0x01), bytes_in(0x7010, 5),
                                        select(0x05), bytes_in(0x7020, 3), select(0x19),
                                        bytes_in(0x7100, 132), select(0x21), bytes_in(0x8000, 6000),
                                        select(0x4444), bytes_in(0x7030, 2) }
    local long = ("0123456789"):rep(599)
    vm:attach(fw_cfg.new{ items = { [0x05] = "\2\0" }, files = { b = long, a = "x" } },
              { ports = 0x510 })
    run(vm)
    assert.equal("QEMU\0\0", vm.memory:read(0x7000, 6))
    assert.equal("\1\0\0\0\0", vm.memory:read(0x7010, 5))
    assert.equal("\2\0\0", vm.memory:read(0x7020, 3))
    assert.equal((">I4I4I2I2c56I4I2I2c56"):pack(2, 1, 0x20, 0, "a", 5990, 0x21, 0, "b"),
                 vm.memory:read(0x7100, 132))
    assert.equal(long .. ("\0"):rep(10), vm.memory:read(0x8000, 6000))
    assert.equal("\0\0", vm.memory:read(0x7030, 2))
  end)
end)
