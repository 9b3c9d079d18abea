-- test_1k_os.lua - 1K OS, booted once: every program and every bad input begins at its prompt.
--
--   minikvm scripts/test_1k_os.lua          or: minikvm test scripts/test_1k_os.lua

local t = require "minikvm.test"

local here <const> = arg[0]:match "^.*/" or ""

local PLAIN <const> = { plain = true }
local OVERFLOW <const> = "overflow: numbers go from -2147483648 to 2147483647"
local CALCULATE <const> = "not understood: type something like 12 + 5"
local NUMBERS <const> = "not understood: type two numbers like 48 18"

local menu = t.guest{
  name = "1K OS", mode = "paged", image = here .. "../os-1k/kernel.bin",
  symbols = here .. "../os-1k/build/kernel.elf",
  boot = function(vm)
    vm.console:forbid "PANIC"
    vm.console:expect "Select: "
  end,
}

---The menu and the answer to a prompt there, for a program that goes on asking.
local function program(number, prompt)
  return menu:branch(function(vm)
    vm.console:sendline(number)
    vm.console:expect(prompt, PLAIN)
  end)
end

---A test for each line that is typed: what is printed before the guest asks again.
local function answers(guest, prompt, cases)
  for _, case in ipairs(cases) do
    local line, answer = case[1], case[2]
    t.it(("%q is answered %q"):format(line, answer), function()
      local con = guest().console
      con:sendline(line)
      con:expect(("%s\n%s\n%s"):format(line, answer, prompt), PLAIN)
    end)
  end
end

t.describe("1K OS's menu:", function()
  local printed = {
    ["1"] = "9x1=9   9x2=18  9x3=27  9x4=36  9x5=45  9x6=54  9x7=63  9x8=72  9x9=81\n",
    ["2"] = "0 1 2 3 4 5 6 7 8 9\n",
    ["4"] = "0 1 1 2 3 5 8 13 21 34 55 89 144 233 377\n",
    ["5"] = "73 79 83 89 97\n25 primes\n",
    ["7"] = "0! = 1\n1! = 1\n2! = 2\n3! = 6\n4! = 24\n5! = 120\n",
    ["9"] = "1K OS, a 32-bit teaching operating system, 11 programs on board\n",
  }
  for number, text in pairs(printed) do
    t.it("program " .. number .. " prints what it is there for, then asks again", function()
      local con = menu().console
      con:sendline(number)
      con:expect(text, PLAIN)
      con:expect "Select: "
    end)
  end

  t.it("0 ends it", function()
    local vm = menu()
    vm.console:sendline "0"
    local reason, info = vm:run{ deadline = 20 }
    assert(reason == "exit" and info.code == 0, info.text)
  end)

  local bad = {}
  for i, line in ipairs{ "", " ", "10", "-1", "+1", "00", "1.", "1x", "x", "1 1", "4294967297",
                         ("1"):rep(200), "\xc2\xb2", "shell", "%n%s" } do
    bad[i] = { line, "Not on the menu: type a number from 0 to 9." }
  end
  answers(menu, "Select: ", bad)
end)

t.describe("1K OS's echo:", function()
  local cases = {}
  for i, line in ipairs{ "hello, world", "", "  two  spaces ", "%d %s" } do
    cases[i] = { line, line }
  end
  answers(program("3", "Echo: "), "Echo: ", cases)
end)

t.describe("1K OS's calculator:", function()
  local cases = {
    { "12 + 5", "17" }, { "100 - 37", "63" }, { "-100 / 7", "-14" }, { "6 x 7", "42" },
    { "-2147483648 / 1", "-2147483648" }, { "7 / 0", "division by zero" },
    { "1 / -0", "division by zero" }, { "2147483647 + 1", OVERFLOW },
    { "-2147483648 / -1", OVERFLOW }, { ("9"):rep(200) .. " - 1", OVERFLOW },
  }
  for _, line in ipairs{ "", "+", "1 +", "1 1", "1 + 1 + 1", "1.5 + 1", "0x10 + 1", "(1 + 1)",
                         "--1 + 1", "/1", "\xff\xfe", "%s%n + 1" } do
    cases[#cases + 1] = { line, CALCULATE }
  end
  answers(program("6", "Calculate: "), "Calculate: ", cases)
end)

t.describe("1K OS's divisors:", function()
  answers(program("8", "Numbers: "), "Numbers: ", {
    { "48 18", "gcd(48, 18) = 6" }, { "0 0", "gcd(0, 0) = 0" }, { "-48 18", "gcd(-48, 18) = 6" },
    { "48", NUMBERS }, { "48 18 6", NUMBERS }, { ",", NUMBERS }, { "2147483648 1", OVERFLOW },
  })
end)
