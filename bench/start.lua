-- start.lua - how long it takes to begin: a whole process, and a VM inside one.
--
-- The whole process is compared with what it cannot do without: a Lua interpreter, and KVM's own
-- calls for a VM. Modes with page tables are compared with real mode as whole processes, too, for
-- what they find out about the host is found out once a process: by processor time, which other
-- work on the machine does not change much.

local kvm = require "minikvm"
local report = require "report"

local ROUNDS <const>, LOOP <const>, STARTS <const> = 15, 50, 4

local passed = {}

---Of starting a program a few times: median seconds; returns those of processor time.
local function process(name, command)
  local numbers = report.numbers(("%s spawn %d %s"):format(report.bare, STARTS, command))
  local lists = { {}, {} }
  for i, number in ipairs(numbers) do table.insert(lists[2 - i % 2], number) end
  table.insert(passed[name], report.quartiles(lists[1]).median)
  return report.quartiles(lists[2]).median
end

local function bare(name)
  local numbers = report.numbers(("%s start %d"):format(report.bare, LOOP))
  table.insert(passed[name], numbers[1] / LOOP)
  return numbers[2] / LOOP
end

local function vms(name)
  local now = require "minikvm.core".now
  local began, busy = now(), os.clock()
  for _ = 1, LOOP do
    local vm <close> = assert(kvm.vm{ echo = false })
    assert(vm:load{ bytes = "\xf4" })
    assert(vm:run() == "halt")
  end
  table.insert(passed[name], (now() - began) / LOOP)
  return (os.clock() - busy) / LOOP
end

local LUA <const>, WHOLE <const> = "lua5.4 -e ''", "minikvm run minimal.bin"
local BARE <const> = "VM by bare ioctls: create, run, close"
local INSIDE <const> = "VM by kvm.vm: the same"
local REAL <const>, LONG <const>, PAGED <const> = "in mode real", "in mode long", "in mode paged"

---A case that runs a command.
local function of(name, command, limit)
  return { name = name, limit = limit, fn = function() return process(name, command) end }
end

local function minikvm(name, options, limit)
  return of(name, ("%s run %s guests/real/minimal.bin"):format(report.minikvm, options), limit)
end

local cases = {
  of("/bin/true", "/bin/true"), of(LUA, LUA), minikvm(WHOLE, "", 8),
  { name = BARE, fn = bare }, { name = INSIDE, fn = vms },
  minikvm(REAL, "--mode real"), minikvm(LONG, "--mode long"), minikvm(PAGED, "--mode paged"),
}
for _, case in ipairs(cases) do
  passed[case.name] = {}
  case.run = function() return case.fn(case.name) end
end

---The whole process beside its floor, round by round.
local function beside(seconds)
  return report.ratios(seconds[WHOLE], report.sums(seconds[LUA], seconds[BARE]))
end

report.title(("start: %d rounds, median and quartiles"):format(ROUNDS))
local busy = report.interleave(ROUNDS, cases)
report.note "  time that passed:"
for _, case in ipairs(cases) do
  report.line(case.name, passed[case.name], "ms", 1e3, case.limit)
end
report.line("minikvm run : lua5.4 and bare ioctls", beside(passed), "x", 1, 1.35)
report.line("kvm.vm : bare ioctls", report.ratios(passed[INSIDE], passed[BARE]), "x", 1, 1.3)
report.note "  processor time:"
for _, case in ipairs(cases) do report.line(case.name, busy[case.name], "ms", 1e3) end
report.line("minikvm run : lua5.4 and bare ioctls", beside(busy), "x", 1)
for _, mode in ipairs{ LONG, PAGED } do
  report.line(mode .. ", more than in mode real", report.differences(busy[mode], busy[REAL]), "ms",
              1e3, 0.3)
end
report.finish()
