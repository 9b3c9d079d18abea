-- start.lua - how long it takes to begin: a whole process, and a VM inside one.

local kvm = require "minikvm"
local report = require "report"

local ROUNDS <const>, LOOP <const>, STARTS <const> = 15, 50, 4

---Median seconds of starting a program a few times: one round's figure.
local function process(command)
  return function()
    local seconds = report.numbers(("%s spawn %d %s"):format(report.bare, STARTS, command))
    return report.quartiles(seconds).median
  end
end

local function vms()
  local now = require "minikvm.core".now
  local began = now()
  for _ = 1, LOOP do
    local vm <close> = assert(kvm.vm{ echo = false })
    assert(vm:load{ bytes = "\xf4" })
    assert(vm:run() == "halt")
  end
  return now() - began
end

local WHOLE <const> = "minikvm run minimal.bin"
local BARE <const> = "VM by bare ioctls: create, run, close"
local INSIDE <const> = "VM by kvm.vm: the same"

local cases = {
  { name = "/bin/true", run = process "/bin/true" },
  { name = "lua5.4 -e ''", run = process "lua5.4 -e ''" },
  { name = WHOLE, run = process(report.minikvm .. " run guests/real/minimal.bin") },
  { name = BARE,
    run = function()
      return report.numbers(("%s start %d"):format(report.bare, LOOP))[1] / LOOP
    end },
  { name = INSIDE, run = function() return vms() / LOOP end },
}

report.title(("start: %d rounds, median and quartiles"):format(ROUNDS))
local seconds = report.interleave(ROUNDS, cases)
local limits = { [WHOLE] = 8 }
for _, case in ipairs(cases) do
  report.line(case.name, seconds[case.name], "ms", 1e3, limits[case.name])
end
report.line("kvm.vm : bare ioctls", report.ratios(seconds[INSIDE], seconds[BARE]), "x", 1, 1.3)
report.finish()
