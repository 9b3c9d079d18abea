-- rtc.lua - CMOS and real-time clock of a PC: MC146818 behind ports 0x70 (index) and 0x71 (data).
--
--   vm:attach(rtc.new(), { ports = 0x70, irq = 8 })
--
-- Follows Motorola's data sheet of the MC146818 and, for the century in register 0x32 and the
-- NMI-disable bit in port 0x70, the IBM AT. The registers hold what was written to them. Seconds of
-- the VM's time that have passed are added when somebody looks; an event becomes a flag then, or
-- when an enabled interrupt is due: a clock that is not used costs nothing. Limits: the weekday
-- follows from the date until the guest has written one, registers change their format along with
-- register B, there is no daylight saving and no square wave, and NMIs of cpu:nmi() arrive whatever
-- port 0x70 says. Handlers run on the vCPU's thread under the Lua lock.

local kvm = require "minikvm"
local options = require "minikvm.options"
local calendar = require "minikvm.device.calendar"

local M = {}

local A <const>, B <const>, C <const>, D <const> = 0x0a, 0x0b, 0x0c, 0x0d
local RATE <const>, UIP <const> = 0x0f, 0x80 -- in A
local DIVIDER <const>, HELD <const> = 0x70, 0x60 -- in A: from HELD on the divider chain is in reset
local SET <const>, BINARY <const>, HOURS_24 <const> = 0x80, 0x04, 0x02 -- in B
local PERIODIC <const>, ALARM <const>, UPDATE <const> = 0x40, 0x20, 0x10 -- in B and C
local IRQF <const> = 0x80 -- in C
local VALID <const> = 0x80 -- in D
local CENTURY <const> = 0x32
local PM <const> = 0x80
local ANY <const> = 0xc0 -- an alarm register of 0xc0 to 0xff fits every value
local OSCILLATOR <const> = 32768
local UPDATE_SECONDS <const> = 0.002228 -- UIP: 244 us before and 1984 us during an update
local DAY <const> = 86400

-- Registers 0 to 9: time and alarm alternate, then the date.
---@type table<integer, string>
local FIELD <const> = { [0] = "second", [2] = "minute", [4] = "hour", [6] = "weekday", [7] = "day",
                        [8] = "month", [9] = "year", [CENTURY] = "century" }

-- ---- formats of register B ----

local function to_bcd(value) return value // 10 << 4 | value % 10 end
local function from_bcd(value) return (value >> 4) * 10 + (value & 15) end

local function encode(mode, field, value)
  local pm = 0
  if field == "hour" and mode & HOURS_24 == 0 then
    pm = value >= 12 and PM or 0
    value = (value + 11) % 12 + 1
  end
  return (mode & BINARY ~= 0 and value or to_bcd(value)) | pm
end

local function decode(mode, field, value)
  local twelve = field == "hour" and mode & HOURS_24 == 0
  local pm = twelve and value & PM ~= 0
  if twelve then value = value & ~PM end
  if mode & BINARY == 0 then value = from_bcd(value) end
  if twelve then value = value % 12 + (pm and 12 or 0) end
  return value
end

-- ---- time: state.since is when, by the VM's clock, the second that is shown began ----

---Whether seconds pass: not while the guest sets the clock, nor with the divider in reset.
local function counts(d)
  local cmos = d.state.cmos
  return cmos[B] & SET == 0 and cmos[A] & DIVIDER < HELD
end

---A register's value as a number; and a number into its register.
local function get(d, index) return decode(d.state.cmos[B], FIELD[index], d.state.cmos[index]) end

local function put(d, index, value)
  d.state.cmos[index] = encode(d.state.cmos[B], FIELD[index], value) & 0xff
end

---Seconds since 1970 at the beginning of the day in the registers; the days that a month does not
---have are its last one.
local function day_in(d)
  local year = get(d, CENTURY) * 100 + get(d, 9)
  local month = math.max(1, math.min(get(d, 8), 12))
  local first, after = calendar.to_seconds(year, month, 1), calendar.to_seconds(year, month + 1, 1)
  local day = math.max(1, math.min(get(d, 7), (after - first) // DAY))
  return first + (day - 1) * DAY
end

local function put_date(d, seconds)
  local c = calendar.from_seconds(seconds)
  put(d, CENTURY, c.year // 100 % 100)
  put(d, 9, c.year % 100)
  put(d, 8, c.month)
  put(d, 7, c.day)
end

local function follow_date(d)
  if not d.state.own_weekday then put(d, 6, calendar.from_seconds(day_in(d)).weekday) end
end

---Adds seconds, with a carry from register to register.
local function add_seconds(d, carry)
  for _, at in ipairs{ { 0, 60 }, { 2, 60 }, { 4, 24 } } do
    local total = get(d, at[1]) + carry
    carry = total // at[2]
    put(d, at[1], total % at[2])
    if carry == 0 then return end
  end
  put_date(d, day_in(d) + carry * DAY)
  if d.state.own_weekday then put(d, 6, (get(d, 6) - 1 + carry) % 7 + 1) end
  follow_date(d)
end

---A second begins.
local function start_second(d, ago) d.state.since = d.vm.clock.now - (ago or 0) / d.state.speed end

local function set_time(d, seconds)
  put_date(d, seconds)
  for index, field in pairs{ [0] = "second", [2] = "minute", [4] = "hour" } do
    put(d, index, calendar.from_seconds(seconds)[field])
  end
  follow_date(d)
  start_second(d)
end

-- ---- events: what has happened since somebody looked ----

---A function that tells whether an alarm register fits a value; it works out each once.
local function matcher(d, index)
  local known, wanted, mode = {}, d.state.cmos[index], d.state.cmos[B]
  return function(value)
    local fits = known[value]
    if fits == nil then
      fits = wanted >= ANY or wanted == encode(mode, FIELD[index - 1], value)
      known[value] = fits
    end
    return fits
  end
end

---Whether the alarm's time lies in the next `count` seconds; it repeats every day.
local function alarm_passes(d, count)
  local today = get(d, 4) * 3600 + get(d, 2) * 60 + get(d, 0)
  local second, minute, hour = matcher(d, 1), matcher(d, 3), matcher(d, 5)
  for at = today + 1, today + math.min(count, DAY) do
    if second(at % 60) and minute(at // 60 % 60) and hour(at // 3600 % 24) then return true end
  end
  return false
end

---Seconds of a periodic interrupt; nil when it is off. Rates 1 and 2 are those of 8 and 9.
local function period(d)
  local rate = d.state.cmos[A] & RATE
  if rate == 0 then return nil end
  return (1 << (rate < 3 and rate + 7 or rate) - 1) / OSCILLATOR
end

local function ticks(d)
  local p = d.state.cmos[A] & DIVIDER < HELD and period(d)
  return p and (d.vm.clock.now - d.state.started) * d.state.speed // p or 0
end

local function update_line(d)
  local cmos = d.state.cmos
  local raised = cmos[C] & cmos[B] & (PERIODIC | ALARM | UPDATE) ~= 0
  cmos[C] = cmos[C] & ~IRQF | (raised and IRQF or 0)
  if not d.irq then return end
  if raised then d:raise() else d:lower() end
end

---Brings time and the flags of register C up to date.
local function catch_up(d)
  local s = d.state
  local flags, tick = s.cmos[C], ticks(d)
  local count = counts(d) and (d.vm.clock.now - s.since) * s.speed // 1 | 0 or 0
  if count > 0 then
    flags = flags | UPDATE
    if flags & ALARM == 0 and alarm_passes(d, count) then flags = flags | ALARM end
    add_seconds(d, count)
    s.since = s.since + count / s.speed
  end
  if tick > s.ticks then flags = flags | PERIODIC end
  s.ticks, s.cmos[C] = tick, flags
  update_line(d)
end

---Seconds to the next update of the registers.
local function to_update(d)
  local s = d.state
  return math.max(s.since + 1 / s.speed - d.vm.clock.now, 0)
end

---Seconds to the next event that an interrupt is enabled for and whose flag is not up; nil: none.
local function next_event(d)
  local s = d.state
  local waiting = s.cmos[B] & ~s.cmos[C]
  local delay = waiting & (UPDATE | ALARM) ~= 0 and counts(d) and to_update(d) or nil
  local p = waiting & PERIODIC ~= 0 and s.cmos[A] & DIVIDER < HELD and period(d)
  if p then
    local periodic = s.started + (s.ticks + 1) * p / s.speed - d.vm.clock.now
    delay = math.min(delay or periodic, periodic)
  end
  return delay and math.max(delay, 0)
end

---Sets the one timer for what comes next.
local function arm(d)
  d:cancel "event"
  local delay = next_event(d)
  if delay then d:after(delay, "event") end
end

local function event(d)
  catch_up(d)
  arm(d)
end

-- ---- registers ----

local function read_data(d)
  local s = d.state
  local index = s.index
  if not FIELD[index] and index ~= A and index ~= C then return s.cmos[index] end
  catch_up(d)
  local value = s.cmos[index]
  if index == A then
    local updating = counts(d) and to_update(d) < math.min(UPDATE_SECONDS, 0.5 / s.speed)
    return value | (updating and UIP or 0)
  elseif index == C then
    s.cmos[C] = 0
    update_line(d)
    arm(d)
  end
  return value
end

---A new period or time base. The divider chain that leaves its reset: the first update comes half a
---second later.
local function write_a(d, value)
  local s = d.state
  local was = s.cmos[A]
  s.cmos[A] = value & ~UIP
  if was & DIVIDER >= HELD and value & DIVIDER < HELD then
    start_second(d, 0.5)
    s.started = d.vm.clock.now
  end
  s.ticks = ticks(d)
end

---SET holds the clock while its registers are being written, and clears UIE. The formats of a clock
---that goes are changed along.
local function write_b(d, value)
  local s = d.state
  local was, numbers = s.cmos[B], {}
  for index in pairs(FIELD) do numbers[index] = get(d, index) end
  s.cmos[B] = value & SET ~= 0 and value & ~UPDATE or value
  if (was | value) & SET == 0 and (was ~ value) & (BINARY | HOURS_24) ~= 0 then
    for index, number in pairs(numbers) do put(d, index, number) end
  elseif was & ~value & SET ~= 0 then
    follow_date(d)
    start_second(d)
  end
end

local function write_data(d, _, value)
  local s = d.state
  local index = s.index
  if index == C or index == D then return end
  catch_up(d)
  if index == A then
    write_a(d, value)
  elseif index == B then
    write_b(d, value)
  else
    s.cmos[index] = value
    if index == 6 then s.own_weekday = true end
    if index >= 7 and FIELD[index] and s.cmos[B] & SET == 0 then follow_date(d) end
  end
  update_line(d)
  arm(d)
end

-- ---- the device ----

---A state whose times do not depend on the clock of the VM that it is loaded into.
local function save(d)
  catch_up(d)
  local copy, clock = {}, d.vm.clock.now
  for key, value in pairs(d.state) do copy[key] = value end
  copy.since, copy.started = clock - copy.since, clock - copy.started
  return copy
end

local function load(d, saved)
  local clock = d.vm.clock.now
  d.state = saved
  saved.since, saved.started = clock - saved.since, clock - saved.started
  update_line(d)
  arm(d)
end

---A battery's worth of registers: 24-hour BCD, 1024 periodic ticks a second, alarm at midnight.
local function initial(cmos)
  local values = {}
  for index = 0, 0x7f do values[index] = cmos[index] or 0 end
  values[A], values[B], values[C], values[D] = 0x26, HOURS_24, 0, VALID
  return values
end

local function check_cmos(value)
  if type(value) ~= "table" then return nil, "expected a table of bytes by index" end
  for index, byte in pairs(value) do
    if math.type(index) ~= "integer" or index < 0x0e or index > 0x7f or index == CENTURY then
      return nil, ("index %s: 0x0e to 0x7f but 0x32 are memory"):format(tostring(index))
    elseif math.type(byte) ~= "integer" or byte < 0 or byte > 255 then
      return nil, ("index 0x%02x: expected a byte, got %s"):format(index, tostring(byte))
    end
  end
  return value
end

local function check_speed(value)
  if type(value) == "number" and value > 0 and value <= 1e6 then return value end
  return nil, ("expected a number above 0, 1000000 at most, got %s"):format(tostring(value))
end

local OPTIONS <const> = options.declare("rtc.new", {
  time = "integer", speed = check_speed, cmos = check_cmos,
})

---Describes a PC's real-time clock, for vm:attach() with `ports = 0x70` and `irq = 8`.
---  time   what the clock shows at first, in seconds since 1970 as UTC: the host's time by default
---  speed  seconds of the clock in one second (1); its interrupts come that much faster, too
---  cmos   { [index] = byte }: what the memory holds at first, index 0x0e to 0x7f
---@param opts? { time: integer?, speed: number?, cmos: table<integer, integer>? }
---@return minikvm.definition
function M.new(opts)
  local o = options.check("rtc.new", opts, OPTIONS)
  return kvm.device{
    name = "rtc", irq = true, registers = { [0] = "INDEX", "DATA" },
    read = { INDEX = function() return 0xff end, DATA = read_data },
    write = {
      INDEX = function(d, _, value) d.state.index, d.state.nmi_off = value & 0x7f, value > 0x7f end,
      DATA = write_data,
    },
    timers = { event = event },
    reset = function(d)
      d.state = { index = 0, nmi_off = false, cmos = initial(o.cmos or {}), speed = o.speed or 1,
                  ticks = 0, started = d.vm.clock.now }
      set_time(d, o.time or os and os.time() or 0) -- a safe script has no os
    end,
    save = save, load = load,
  }
end

return require("minikvm.strict").module(M, "devices.rtc")
