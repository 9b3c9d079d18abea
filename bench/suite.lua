-- suite.lua - what a test suite costs: the cases of 1K OS (scripts/test_1k_os.lua), each begun from
-- one booted VM that is restored, or each with a VM of its own that boots.

local kvm = require "minikvm"
local now = require "minikvm.core".now
local report = require "report"

local ROUNDS <const> = 7

-- What is typed at the prompt "Select: ", and what must come back.
local CASES <const> = {
  { "1\n", "9x9=81\n" }, { "2\n", "0 1 2 3 4 5 6 7 8 9\n" }, { "4\n", "233 377\n" },
  { "5\n", "25 primes\n" }, { "7\n", "12! = 479001600\n" }, { "9\n", "11 programs on board\n" },
  { "3\nhello\n", "\nhello\n" }, { "6\n12 + 5\n", "\n17\n" },
  { "6\n7 / 0\n", "division by zero\n" },
  { "6\n1 +\n", "not understood" }, { "6\n65536 * 65536\n", "overflow" },
  { "8\n48 18\n", "gcd(48, 18) = 6\n" }, { "8\n48\n", "not understood" },
  { "x\n", "Not on the menu" },
  { "\n", "Not on the menu" }, { "10\n", "Not on the menu" }, { "0\n", "Goodbye.\n" },
}

local PLAIN <const> = { plain = true, stop = false }

local function boot()
  local vm = assert(kvm.vm{ mode = "paged", echo = false })
  assert(vm:load "os-1k/kernel.bin")
  vm.console:expect("Select: ", PLAIN)
  return vm
end

local function check(vm, case)
  vm.console:send(case[1])
  vm.console:expect(case[2], PLAIN)
end

local function took(fn)
  local from = now()
  fn()
  return now() - from
end

local function from_one_boot()
  local vm <close> = boot()
  local ready = assert(vm:snapshot())
  for _, case in ipairs(CASES) do
    assert(vm:restore(ready))
    check(vm, case)
  end
end

local function from_a_boot_each()
  for _, case in ipairs(CASES) do
    local vm <close> = boot()
    check(vm, case)
  end
end

local ONE <const>, EACH <const> = "one boot, restored for each case", "a boot for each case"
local BOOT <const>, CASE <const> = "a boot alone", "the cases alone, restored"
local kept = boot()
local ready = assert(kept:snapshot())

local cases = {
  { name = ONE, run = function() return took(from_one_boot) end },
  { name = EACH, run = function() return took(from_a_boot_each) end },
  { name = BOOT, run = function() return took(function() boot():close() end) end },
  { name = CASE,
    run = function()
      return took(function()
        for _, case in ipairs(CASES) do
          assert(kept:restore(ready))
          check(kept, case)
        end
      end)
    end },
}

report.title(("suite: %d cases of 1K OS, %d rounds, median and quartiles"):format(#CASES, ROUNDS))
local seconds = report.interleave(ROUNDS, cases)
for _, case in ipairs(cases) do report.line(case.name, seconds[case.name], "ms", 1e3) end
report.line("a boot for each : one boot", report.ratios(seconds[EACH], seconds[ONE]), "x", 1, -5)
os.exit(report.missed == 0, true)
