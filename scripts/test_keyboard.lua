-- test_keyboard.lua - 1K OS typed at key by key, with shift, backspace, caps lock and Ctrl-C.
--
--   minikvm scripts/test_keyboard.lua

local t = require "minikvm.test"

local here <const> = arg[0]:match "^.*/" or ""

local menu = t.guest{
  name = "1K OS", mode = "paged", image = here .. "../os-1k/kernel.bin", irqchip = "pic",
  cmdline = "input=keyboard",
  boot = function(vm) vm.console:expect "Select: " end,
}

local echo = menu:branch(function(vm)
  assert(vm.keyboard:type "3\n")
  vm.console:expect "Echo: "
end)

t.describe("1K OS at its keyboard", function()
  t.it("calculates, and what was deleted does not count", function()
    local vm = menu()
    assert(vm.keyboard:type "6\n")
    vm.console:expect "Calculate: "
    assert(vm.keyboard:type "1\b2 + 3\n")
    vm.console:expect "\n(%d+)\nCalculate: "
    assert(vm.keyboard:type "6 * 7\n")
    local _, answer = vm.console:expect "\n(%d+)\nCalculate: "
    assert(answer == "42", answer)
  end)

  t.it("knows shift", function()
    local vm = echo()
    assert(vm.keyboard:type "Hello, World! {}|~\n")
    vm.console:expect("\nHello, World! {}|~\n", { plain = true })
  end)

  t.it("knows caps lock", function()
    local vm = echo()
    vm.keyboard:press "capslock"
    assert(vm.keyboard:type "abC\n")
    vm.console:expect "\nABc\n"
  end)

  t.it("goes back to the menu on Ctrl-C", function()
    local vm = echo()
    assert(vm.keyboard:type "half a line")
    vm.keyboard:press("ctrl", "c")
    vm.console:expect "%^C\n.*Select: "
  end)
end)
