-- suite.lua - what a test suite costs: the cases of scripts/test_1k_os.lua, each begun from one
-- booted VM that is restored, or each with a VM of its own that boots and goes to where it begins;
-- and the first with all blocks of the kernel covered.

local kvm = require "minikvm"
local now = require "minikvm.core".now
local report = require "report"

local ROUNDS <const> = 7
local PLAIN <const> = { plain = true, stop = false }
local MENU <const>, SYNTAX <const> = "Not on the menu", "not understood"
local OVERFLOW <const>, ZERO <const> = "overflow", "division by zero"

---Pairs of what is typed and what must come back, for several lines with one answer.
local function all(answer, lines)
  local cases = {}
  for i, line in ipairs(lines) do cases[i] = { line, answer } end
  return cases
end

local function join(list, more)
  return table.move(more, 1, #more, #list + 1, list)
end

-- Where cases begin: what is typed at the menu to get there, and the prompt there.
local PLACES <const> = {
  { "", "Select: ", join({
    { "1", "9x9=81\n" }, { "2", "0 1 2 3 4 5 6 7 8 9\n" }, { "4", "233 377\n" },
    { "5", "25 primes\n" }, { "7", "5! = 120\n" }, { "9", "11 programs on board\n" },
    { "0", "Goodbye.\n" },
  }, all(MENU, { "", " ", "10", "-1", "+1", "00", "1.", "1x", "x", "1 1", "4294967297",
                 ("1"):rep(200), "\xc2\xb2", "shell", "%n%s" })) },
  { "3\n", "Echo: ", { { "hello, world", "hello, world\n" }, { "", "Echo: " },
                       { "  two  spaces ", "  two  spaces \n" }, { "%d %s", "%d %s\n" } } },
  { "6\n", "Calculate: ", join({
    { "12 + 5", "17\n" }, { "100 - 37", "63\n" }, { "-100 / 7", "-14\n" }, { "6 x 7", "42\n" },
    { "-2147483648 / 1", "-2147483648\n" }, { "7 / 0", ZERO }, { "1 / -0", ZERO },
    { "2147483647 + 1", OVERFLOW }, { "-2147483648 / -1", OVERFLOW },
    { ("9"):rep(200) .. " - 1", OVERFLOW },
  }, all(SYNTAX, { "", "+", "1 +", "1 1", "1 + 1 + 1", "1.5 + 1", "0x10 + 1", "(1 + 1)",
                   "--1 + 1", "/1", "\xff\xfe", "%s%n + 1" })) },
  { "8\n", "Numbers: ", {
    { "48 18", "= 6\n" }, { "0 0", "= 0\n" }, { "-48 18", "= 6\n" }, { "48", SYNTAX },
    { "48 18 6", SYNTAX }, { ",", SYNTAX }, { "2147483648 1", OVERFLOW } } },
}

local function boot(covered)
  local vm = assert(kvm.vm{ mode = "paged", echo = false })
  assert(vm:load "os-1k/kernel.bin")
  if covered then
    assert(vm:load_symbols "os-1k/build/kernel.elf")
    assert(vm:coverage())
  end
  vm.console:expect("Select: ", PLAIN)
  return vm
end

local function go_to(vm, place)
  if place[1] == "" then return end
  vm.console:send(place[1])
  vm.console:expect(place[2], PLAIN)
end

local function check(vm, case)
  vm.console:sendline(case[1])
  vm.console:expect(case[2], PLAIN)
end

local function from_one_boot(covered)
  local vm <close> = boot(covered)
  local menu = assert(vm:snapshot())
  for _, place in ipairs(PLACES) do
    assert(vm:restore(menu))
    go_to(vm, place)
    local ready = assert(vm:snapshot())
    for _, case in ipairs(place[3]) do
      assert(vm:restore(ready))
      check(vm, case)
    end
  end
end

local function from_a_boot_each()
  for _, place in ipairs(PLACES) do
    for _, case in ipairs(place[3]) do
      local vm <close> = boot()
      go_to(vm, place)
      check(vm, case)
    end
  end
end

local function seconds_of(fn)
  return function()
    local from = now()
    fn()
    return now() - from
  end
end

local ONE <const>, EACH <const> = "one boot, restored for each case", "a boot for each case"
local BOOT <const>, COVERED <const> = "a boot alone", "one boot, all blocks covered"
local cases = {
  { name = ONE, run = seconds_of(from_one_boot) },
  { name = COVERED, run = seconds_of(function() from_one_boot(true) end) },
  { name = EACH, run = seconds_of(from_a_boot_each) },
  { name = BOOT, run = seconds_of(function() boot():close() end) },
}

local count = 0
for _, place in ipairs(PLACES) do count = count + #place[3] end
report.title(("suite: %d cases of 1K OS, %d rounds, median and quartiles"):format(count, ROUNDS))
local seconds = report.interleave(ROUNDS, cases)
for _, case in ipairs(cases) do report.line(case.name, seconds[case.name], "ms", 1e3) end
report.line("covered : not", report.ratios(seconds[COVERED], seconds[ONE]), "x", 1, 1.3)
report.line("a boot for each : one boot", report.ratios(seconds[EACH], seconds[ONE]), "x", 1, -5)
report.finish()
