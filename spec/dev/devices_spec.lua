-- The devices of lua/minikvm/devices, as their guests see them. The edu's 64-bit driver is one of
-- guests/long.

local kvm = require "minikvm"
local calendar = require "minikvm.device.calendar"
local device = require "minikvm.device"
local edu = require "minikvm.devices.edu"
local rtc = require "minikvm.devices.rtc"
local support = require "support.guest"

local EDU <const> = 0xfeb00000

-- Accesses of a flat 32-bit guest to the edu: mov dword [EDU + reg], value; mov eax, [EDU + reg];
-- mov [address], eax
local function put(reg, value) return ("<I2I4I4"):pack(0x05c7, EDU + reg, value) end
local function get(reg, address) return ("<BI4BI4"):pack(0xa1, EDU + reg, 0xa3, address) end
local HLT <const> = "\xf4"

describe("edu", function()
  if support.without_kvm(pending) then return end

  ---A VM with an edu whose guest does these things.
  local function guest(parts, opts)
    local vm = support.vm{ mode = "protected", irqchip = "pic" }
    local d = vm:attach(edu.new(opts), { mmio = EDU, irq = 10 })
    assert(vm:load{ bytes = table.concat(parts) .. HLT })
    return vm, d
  end

  local function run(vm)
    local reason, info = support.run(vm)
    assert.equal("halt", reason, info.text)
  end

  it("does not let go of what it works on", function()
    local vm <close>, d = guest({
      put(0x08, 10), put(0x08, 4), put(0x20, 0xff), get(0x20, 0x8000), get(0x08, 0x8004),
      put(0x90, 16), put(0x98, 1), put(0x90, 4096), put(0x98, 0), get(0x90, 0x8008),
      get(0x98, 0x800c),
    }, { delay = 3600 })
    run(vm)
    assert.same({ 0x81, 10, 16, 1 }, { vm.memory:u32(0x8000), vm.memory:u32(0x8004),
                                     vm.memory:u32(0x8008), vm.memory:u32(0x800c) })
    assert.equal(3, d.refused)
  end)

  it("is as new after a reset, and what it was doing does not come", function()
    local vm <close>, d = guest({ put(0x08, 10), put(0x20, 0x80), put(0x60, 1), put(0x98, 1) },
                                { delay = 3600 })
    run(vm)
    d.state.buffer = ("x"):rep(4096)
    assert(vm:reset())
    assert.same({ 0, 0, 0, 0 }, { d.reg.FACTORIAL, d.reg.STATUS, d.reg.IRQ_STATUS, d.reg.COMMAND })
    assert.same({ buffer = ("\0"):rep(4096), computing = 0, errors = 0 }, d.state)
  end)

  it("goes on after load() with what it was doing at save(), in the time that was left", function()
    local wait = "\xa1" .. ("<I4"):pack(EDU + 0x20) .. "\xa8\1\x75\xf7" -- mov eax, [STATUS];
                                                           -- test al, 1; jnz
    local from <close> = guest({ put(0x60, 0x40), put(0x08, 6) }, { delay = 0.05 })
    run(from)
    local saved = device.save_all(from)
    local to <close>, d = guest({ wait, get(0x08, 0x8000), get(0x24, 0x8004) })
    assert.is_true(device.fits(to, saved))
    device.load_all(to, saved)
    run(to)
    assert.same({ 720, 0x40 }, { to.memory:u32(0x8000), to.memory:u32(0x8004) })
    assert.same(d.state, device.save_all(to)[1].value.state)
  end)

  it("moves nothing over a device or beyond RAM, and says so", function()
    local vm <close> = support.vm{ mode = "long", memory = "2M", irqchip = "pic", map_io = EDU }
    local texts = {}
    local d = vm:attach(edu.new{ dma_mask = -1, on_error = function(_, text)
      texts[#texts + 1] = text
    end }, { mmio = EDU, irq = 10 })
    assert(vm:load "guests/long/edu.bin")
    assert.equal("exit", (support.run(vm)))
    assert.equal(11, #texts)
    assert.equal(11, d.state.errors)
    assert.equal("0x1001 bytes at 0x40000 are not all in its buffer", texts[1])
    assert.equal("device edu: DMA of 8 bytes from 0xfffffffffffffffc is not all in RAM", texts[5])
    assert.equal("device edu: DMA of 8 bytes from 0xfeb00000 is not all in RAM", texts[8])
    assert.equal("device edu: DMA of 8 bytes to 0xffffff0 is not all in RAM", texts[9])
    assert.equal(texts[11], d.state.last_error)
  end)

  it("refuses options it does not know and to be without a line", function()
    assert.error_matches(function() edu.new{ delya = 1 } end, "did you mean 'delay'")
    local vm <close> = support.vm{ irqchip = "pic" }
    assert.error_matches(function() vm:attach(edu.new(), { mmio = EDU }) end,
                         "needs an interrupt line")
  end)
end)

describe("a device", function()
  if support.without_kvm(pending) then return end

  it("whose beginning fails leaves nothing behind, and the error is its own", function()
    local vm <close> = support.program({ support.into(0x8000, 0x300) }, { irqchip = "pic" })
    local def = kvm.device{ registers = { [0] = "A" }, attach = function(d)
      d:keep(vm.ports:on(0x400, { read = function() return 1 end }))
      d:raise()
      error("no room", 0)
    end }
    assert.error_matches(function() vm:attach(def, { ports = 0x300, irq = 5 }) end, "no room$")
    assert.same({}, device.of(vm))
    support.run(vm)
    assert.equal(0xff, vm.memory:u8(0x8000))
    vm.ports:on(0x400, { read = function() return 2 end }):remove() -- it is free
  end)

  it("that comes does not lower the line of another", function()
    -- Line 5 as it is: OCW3 = 0x0a reads the requests of the first PIC
    local vm <close> = support.program({ support.out(0x20, 0x0a), support.into(0x8000, 0x20) },
                                       { irqchip = "pic" })
    local def = kvm.device{ registers = { [0] = "A" } }
    local first = vm:attach(def, { ports = 0x300, irq = 5 })
    first:raise()
    local second = vm:attach(def, { ports = 0x301, irq = 5 })
    second:raise()
    second:lower()
    support.run(vm)
    assert.equal(0x20, vm.memory:u8(0x8000) & 0x20)
    vm:reset()
    support.run(vm)
    assert.equal(0, vm.memory:u8(0x8000) & 0x20)
  end)

  it("answers only what it accepts", function()
    local vm <close> = support.program{
      support.out(0x300, 0x1234, 2), support.out(0x300, 7), support.into(0x8000, 0x300),
      support.into(0x8004, 0x300, 2) }
    local seen = {}
    local d = vm:attach(kvm.device{ registers = { [0] = "A", "B" },
      accepts = function(_, offset, size, is_write)
        seen[#seen + 1] = ("%d/%d%s"):format(offset, size, is_write and "w" or "r")
        return size == 1
      end }, { ports = 0x300 })
    support.run(vm)
    assert.same({ "0/2w", "0/1w", "0/1r", "0/2r" }, seen)
    assert.same({ 7, 0xffff, 2 }, { vm.memory:u32(0x8000), vm.memory:u32(0x8004), d.refused })
  end)
end)

describe("rtc", function()
  if support.without_kvm(pending) then return end
  local NEW_YEARS_EVE <const> = 1956527998 -- 2031-12-31 23:59:58

  local function clock(parts, opts)
    local vm = support.program(parts, { irqchip = "pic" })
    return vm, vm:attach(rtc.new(opts), { ports = 0x70, irq = 8 })
  end

  ---OUT to index and data at once, and IN of a register.
  local function put_reg(index, value) return support.out(0x70, index | value << 8, 2) end
  local function get_reg(index, at)
    return support.out(0x70, index, 1) .. support.into(at, 0x71, 1)
  end

  it("shows the date and interrupts for update, alarm and period", function()
    local vm <close> = support.vm{ irqchip = "pic" }
    vm:attach(rtc.new{ time = NEW_YEARS_EVE, speed = 5 }, { ports = 0x70, irq = 8 })
    assert(vm:load("guests/real/rtc.bin", { at = 0x1000 }))
    local reason, info = support.run(vm)
    assert.equal("halt", reason, info.text)
    assert.matches([[
^update [9d]0 2031%-12%-31 23:59:59 04
alarm [bf]0 2032%-01%-01 00:00:01 05
periodic
set 2096%-02%-29 81:02:03 05
24 hours 2096%-02%-29 13:02:03 04
binary 1460%-02%-1d 0d:02:03 04
12 hours 2096%-02%-29 81:02:03 04
in progress 10
memory a5 a5 80
$]], (vm.console:text()))
  end)

  it("shows the host's date unless told another", function()
    local vm <close> = clock{ get_reg(0x32, 0x8000), get_reg(9, 0x8001) }
    local before = os.date("!%Y")
    support.run(vm)
    local year = ("%02x%02x"):format(vm.memory:u8(0x8000), vm.memory:u8(0x8001))
    assert.is_true(year == before or year == os.date("!%Y"), year)
  end)

  it("keeps its memory's contents, but not over a reset", function()
    local vm <close> = clock({ get_reg(0x0f, 0x8000), put_reg(0x0f, 0x55), get_reg(0x8f, 0x8001) },
                             { cmos = { [0x0f] = 0xaa } })
    for _ = 1, 2 do
      support.run(vm)
      assert.equal(0x55aa, vm.memory:u16(0x8000))
      assert(vm:reset())
    end
  end)

  it("answers whatever is written to it", function()
    local parts = {}
    for _, b in ipairs{ 0x00, 0x80, 0x82, 0x04, 0x76, 0x7f, 0xff, 0x02 } do
      parts[#parts + 1] = put_reg(0x0b, b)
      for _, value in ipairs{ 0xff, 0x00, 0x9a, 0x80 } do
        for index = 0, 10 do parts[#parts + 1] = put_reg(index, value) end
        parts[#parts + 1] = put_reg(0x32, value)
      end
      for index = 0, 13 do parts[#parts + 1] = get_reg(index, 0xe000 + index) end
    end
    local vm <close>, d = clock(parts)
    local reason, info = support.run(vm)
    assert.equal("halt", reason, info.text)
    assert.equal(0x80, vm.memory:u8(0xe00d))
    collectgarbage()
    local first = next(d.timers)
    assert.is_true(first == nil or next(d.timers, first) == nil) -- they do not pile up
  end)

  it("goes on after load() from the time at save()", function()
    local from <close>, d = clock({ put_reg(0x0b, 0x12) }, { time = NEW_YEARS_EVE })
    support.run(from)
    local saved = device.save_all(from)
    local cmos = saved[1].value.cmos
    assert.same({ 0x31, 0x12, 0x31, 0x23, 0x59 }, { cmos[9], cmos[8], cmos[7], cmos[4], cmos[2] })
    cmos[0] = 0x59
    local to <close> = clock({ get_reg(4, 0x8000), get_reg(0x0b, 0x8001) }, { time = 0 })
    device.load_all(to, saved)
    support.run(to)
    assert.matches("^[\x23\0]\x12$", to.memory:read(0x8000, 2)) -- midnight may have passed
    assert.equal(0x12, d.state.cmos[0x0b])
  end)

  ---Sets registers { [index] = byte } in a format of register B, waits for the next update, and
  ---returns what is then in those registers.
  local function after_update(format, registers)
    local parts, reads, indices = { put_reg(0x0b, 0x80 | format), get_reg(0x0c, 0x8000) }, {}, {}
    for index, value in pairs(registers) do
      parts[#parts + 1] = put_reg(index, value)
      reads[#reads + 1] = get_reg(index, 0x8000 + 4 * #reads)
      indices[#indices + 1] = index
    end
    parts[#parts + 1] = put_reg(0x0b, format)
    parts[#parts + 1] = support.bytes "b0 0c e6 70 e4 71 a8 10 74 f6" -- until UF in register C
    local vm <close> = clock({ table.concat(parts), table.concat(reads) }, { speed = 20 })
    support.run(vm)
    local values = {}
    for i, index in ipairs(indices) do values[index] = vm.memory:u8(0x8000 + 4 * (i - 1)) end
    values[0] = nil -- the next second may have come
    return values
  end

  -- MC146818 data sheet, "Time, Calendar, and Alarm Locations"
  it("counts on in every format", function()
    assert.same({ [2] = 0x00, [4] = 0x12, [6] = 0x01, [7] = 0x01, [8] = 0x01, [9] = 0x00,
                  [0x32] = 0x21 },
      after_update(0x00, { [0] = 0x59, [2] = 0x59, [4] = 0x91, [6] = 0x07, [7] = 0x31, [8] = 0x12,
                           [9] = 0x99, [0x32] = 0x20 })) -- 11 at night, a Saturday
    assert.same({ [2] = 0x00, [4] = 0x92, [6] = 0x03, [7] = 0x28 },
      after_update(0x00, { [0] = 0x59, [2] = 0x59, [4] = 0x11, [6] = 0x03, [7] = 0x28 }))
    assert.same({ [2] = 0, [4] = 0, [7] = 29, [8] = 2, [9] = 96, [0x32] = 20 },
      after_update(0x06, { [0] = 59, [2] = 59, [4] = 23, [7] = 28, [8] = 2, [9] = 96,
                           [0x32] = 20 }))
    assert.same({ [2] = 10, [4] = 0x81 }, after_update(0x04, { [0] = 59, [2] = 9, [4] = 0x81 }))
  end)

  it("keeps what is written, a date that is none until its midnight", function()
    -- while it goes: day 31, then month 1, with the date 10 February
    local vm <close> = clock({ put_reg(7, 0x31), put_reg(8, 0x01), get_reg(7, 0x8000),
                               get_reg(8, 0x8004), get_reg(9, 0x8008) }, { time = 1770681600 })
    support.run(vm)
    assert.same({ 0x31, 0x01, 0x26 },
                { vm.memory:u8(0x8000), vm.memory:u8(0x8004), vm.memory:u8(0x8008) })
    assert.same({ [2] = 0x10, [4] = 0x10, [7] = 0x31, [8] = 0x02 },
      after_update(0x02, { [0] = 0x59, [2] = 0x09, [4] = 0x10, [7] = 0x31, [8] = 0x02 }))
    assert.same({ [2] = 0x00, [4] = 0x00, [7] = 0x01, [8] = 0x03 },
      after_update(0x02, { [0] = 0x59, [2] = 0x59, [4] = 0x23, [7] = 0x31, [8] = 0x02 }))
  end)

  -- "Register A", DV2 to DV0: 11X is divider reset; updates begin half a second after it ends
  it("stands still while its divider chain is in reset", function()
    local parts = { put_reg(0x0b, 0x02), put_reg(0x0a, 0x76), put_reg(0, 0x30) }
    for _ = 1, 2000 do parts[#parts + 1] = get_reg(0x0c, 0x8000) end
    parts[#parts + 1] = get_reg(0, 0x8004)
    parts[#parts + 1] = put_reg(0x0a, 0x26) .. support.bytes "b0 0c e6 70 e4 71 a8 10 74 f6"
    parts[#parts + 1] = get_reg(0, 0x8008)
    local vm <close>, d = clock(parts, { speed = 100 })
    support.run(vm)
    assert.equal(0, vm.memory:u8(0x8000)) -- no flag came
    assert.equal(0x30, vm.memory:u8(0x8004))
    assert.is_true(vm.memory:u8(0x8008) > 0x30 and d.state.since > 0)
  end)

  it("refuses times, speeds and memory that are none", function()
    for text, opts in pairs{
      ["integer"] = { time = 0.5 }, ["above 0"] = { speed = 0 },
      ["1000000 at most"] = { speed = 1e9 }, ["index 10: 0x0e"] = { cmos = { [10] = 1 } },
      ["index 0x50: expected a byte"] = { cmos = { [0x50] = 256 } },
    } do
      assert.error_matches(function() rtc.new(opts) end, text)
    end
  end)
end)

describe("calendar", function()
  it("agrees with the C library, and takes dates that are none", function()
    for i = -100000, 100000, 373 do
      local seconds = i * 86400 + i * 7 % 86400
      local c, want = calendar.from_seconds(seconds), os.date("!*t", seconds)
      assert.same({ want.year, want.month, want.day, want.wday, want.hour, want.min, want.sec },
                  { c.year, c.month, c.day, c.weekday, c.hour, c.minute, c.second })
      assert.equal(seconds - seconds % 86400, calendar.to_seconds(c.year, c.month, c.day))
    end
    assert.equal(calendar.to_seconds(2031, 1, 1), calendar.to_seconds(2030, 12, 32))
    assert.equal(calendar.to_seconds(2030, 12, 1), calendar.to_seconds(2031, 0, 1))
    assert.equal(calendar.to_seconds(2031, 3, 2), calendar.to_seconds(2030, 14, 30))
  end)
end)
