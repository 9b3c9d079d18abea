-- rtc.lua - CMOS and real-time clock of a PC: MC146818 behind ports 0x70 (index) and 0x71 (data).
--
--   vm:attach(rtc.new(), { ports = 0x70, irq = 8 })
--
-- Follows Motorola's data sheet of the MC146818 and, for the century in register 0x32 and the
-- NMI-disable bit in port 0x70, the IBM AT. The date is a count of seconds that goes by the VM's
-- clock; what the guest reads is made from it, in the format that register B asks for then. Limits:
-- the weekday follows from the date and cannot be set, there is no daylight saving and no square
-- wave, and NMIs of cpu:nmi() arrive whatever port 0x70 says. Events become flags when somebody
-- looks or an enabled interrupt is due, so a clock that is not used costs nothing. Handlers run on
-- the vCPU's thread under the Lua lock.

local kvm = require "minikvm"
local options = require "minikvm.options"
local calendar = require "minikvm.device.calendar"

local M = {}

local A <const>, B <const>, C <const>, D <const> = 0x0a, 0x0b, 0x0c, 0x0d
local RATE <const>, UIP <const> = 0x0f, 0x80 -- in A
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

-- ---- time: state.base seconds since 1970 at state.since of the VM's clock ----

---Seconds since 1970, with their fraction.
local function now(d)
  local s = d.state
  if s.frozen then return s.base end
  return s.base + (d.vm.clock.now - s.since) * s.speed
end

local function set_time(d, seconds)
  local s = d.state
  s.base, s.since = seconds, d.vm.clock.now
  s.seen = math.floor(seconds) -- no second has passed yet
end

local function civil(seconds)
  local c = calendar.from_seconds(math.floor(seconds))
  c.century, c.year = c.year // 100 % 100, c.year % 100
  return c
end

---The registers of time and date as the guest reads them.
local function snapshot(d)
  local values, mode = {}, d.state.cmos[B]
  for field, value in pairs(civil(now(d))) do values[field] = encode(mode, field, value) end
  return values
end

---Makes the date of such registers; what is no date counts on: the 32nd is the next month's first.
local function date_of(d, values)
  local mode, v = d.state.cmos[B], {}
  for field, value in pairs(values) do v[field] = decode(mode, field, value) end
  return calendar.to_seconds(v.century * 100 + v.year, v.month, v.day)
    + v.hour * 3600 + v.minute * 60 + v.second
end

-- ---- events: what has happened since somebody looked ----

local function alarm_fits(d, seconds)
  local cmos, today = d.state.cmos, seconds % DAY
  local at = { [1] = today % 60, [3] = today // 60 % 60, [5] = today // 3600 }
  for index, value in pairs(at) do
    local wanted = cmos[index]
    if wanted < ANY and wanted ~= encode(cmos[B], FIELD[index - 1], value) then return false end
  end
  return true
end

---Whether the alarm's time lay in the seconds after `from` up to `to`; it repeats every day.
local function alarm_passed(d, from, to)
  for seconds = math.max(from, to - DAY) + 1, to do
    if alarm_fits(d, seconds) then return true end
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
  local p = period(d)
  return p and (d.vm.clock.now - d.state.started) * d.state.speed // p or 0
end

local function update_line(d)
  local cmos = d.state.cmos
  local raised = cmos[C] & cmos[B] & (PERIODIC | ALARM | UPDATE) ~= 0
  cmos[C] = cmos[C] & ~IRQF | (raised and IRQF or 0)
  if not d.irq then return end
  if raised then d:raise() else d:lower() end
end

---Brings the flags of register C up to date.
local function catch_up(d)
  local s = d.state
  local flags, second, tick = s.cmos[C], math.floor(now(d)), ticks(d)
  if second > s.seen then
    flags = flags | UPDATE
    if flags & ALARM == 0 and alarm_passed(d, s.seen, second) then flags = flags | ALARM end
  end
  if tick > s.ticks then flags = flags | PERIODIC end
  s.seen, s.ticks, s.cmos[C] = math.max(second, s.seen), tick, flags
  update_line(d)
end

---Seconds to the next event that an interrupt is enabled for and whose flag is not up; nil: none.
local function next_event(d)
  local s = d.state
  local waiting = s.cmos[B] & ~s.cmos[C]
  local delay
  if waiting & (UPDATE | ALARM) ~= 0 and not s.frozen then
    delay = (s.seen + 1 - now(d)) / s.speed
  end
  local p = waiting & PERIODIC ~= 0 and period(d)
  if p then
    local periodic = s.started + (s.ticks + 1) * p / s.speed - d.vm.clock.now
    delay = math.min(delay or periodic, periodic)
  end
  return delay and math.max(delay, 0)
end

---Sets the one timer for what comes next.
local function arm(d)
  if d.own.timer then d.own.timer:remove() end
  local delay = next_event(d)
  d.own.timer = delay and d:after(delay, function()
    d.own.timer = nil
    catch_up(d)
    arm(d)
  end)
end

-- ---- registers ----

local function read_data(d)
  local s = d.state
  local index = s.index
  if index == A then
    local rest = (1 - now(d) % 1) / s.speed
    local updating = not s.frozen and rest < math.min(UPDATE_SECONDS, 0.5 / s.speed)
    return s.cmos[A] | (updating and UIP or 0)
  elseif index == C then
    catch_up(d)
    local flags = s.cmos[C]
    s.cmos[C] = 0
    update_line(d)
    arm(d)
    return flags
  elseif FIELD[index] then
    return (s.frozen and s.frozen or snapshot(d))[FIELD[index]]
  end
  return s.cmos[index]
end

local function write_field(d, field, value)
  local values = d.state.frozen or snapshot(d)
  if field == "weekday" then return end
  values[field] = value
  if not d.state.frozen then set_time(d, date_of(d, values) + now(d) % 1) end
end

---SET stops the clock while its registers are being written.
local function write_b(d, value)
  local s = d.state
  local frozen = s.frozen
  if value & SET ~= 0 and not frozen then
    s.base, s.frozen = now(d), snapshot(d)
  elseif value & SET == 0 and frozen then
    s.cmos[B] = value -- the format that the registers are now said to have
    s.frozen = nil
    set_time(d, date_of(d, frozen))
  end
  s.cmos[B] = value & SET ~= 0 and value & ~UPDATE or value -- the data sheet: SET clears UIE
end

local function write_data(d, _, value)
  local s = d.state
  local index = s.index
  if index == C or index == D then return end
  catch_up(d)
  if index == A then
    s.cmos[A] = value & ~UIP
    s.ticks = ticks(d) -- of the new period
  elseif index == B then
    write_b(d, value)
  elseif FIELD[index] then
    write_field(d, FIELD[index], value)
  else
    s.cmos[index] = value
  end
  update_line(d)
  arm(d)
end

-- ---- the device ----

---A state whose times do not depend on the clock of the VM that it is loaded into.
local function save(d)
  catch_up(d)
  local copy = {}
  for key, value in pairs(d.state) do copy[key] = value end
  copy.base, copy.since, copy.started = now(d), 0, d.vm.clock.now - d.state.started
  return copy
end

local function load(d, saved)
  local clock = d.vm.clock.now
  d.state, d.own.timer = saved, nil
  d.state.seen = math.floor(saved.base)
  d.state.since, d.state.started = clock, clock - saved.started
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

local OPTIONS <const> = { time = "integer", speed = check_speed, cmos = check_cmos }

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
    reset = function(d)
      d.own.timer = nil
      d.state = { index = 0, nmi_off = false, cmos = initial(o.cmos or {}), speed = o.speed or 1,
                  ticks = 0, started = d.vm.clock.now }
      set_time(d, o.time or os and os.time() or 0) -- a safe script has no os
    end,
    save = save, load = load,
  }
end

return M
