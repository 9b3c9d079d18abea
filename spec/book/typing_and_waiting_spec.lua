-- Solutions of docs/book/08-typing-and-waiting.md.

local kvm = require "minikvm"
local t = require "minikvm.test"

local function menu(options)
  local vm = assert(kvm.vm{ mode = "paged", echo = false, coalesce = false })
  assert(vm:load "os-1k/kernel.bin")
  vm.console:expect("Select: ", options)
  return vm
end

t.describe("Typing and waiting:", function()
  t.needs_kvm()

  t.it("1. a division by zero", function()
    local vm <close> = menu()
    vm.console:sendline "6"
    vm.console:expect "Calculate: "
    vm.console:sendline "7 / 0"
    vm.console:expect "zero"
  end)

  t.it("2. one of two", function()
    local vm <close> = menu()
    vm.console:sendline "99"
    local which = vm.console:expect{ "Calculate: ", "Not on the menu" }
    assert(which == 2)
  end)

  t.it("3. the exits of a boot", function()
    local vm <close> = menu()
    local exits = vm:expect_exits()
    local same <close> = menu{ budget = exits, timeout = 60 }
    assert(same:expect_exits() == exits)
    local few <close> = assert(kvm.vm{ mode = "paged", echo = false, coalesce = false })
    assert(few:load "os-1k/kernel.bin")
    local index, _, code = few.console:try_expect("Select: ", { budget = exits // 2, timeout = 60 })
    assert(not index and code == "EDQUOT")
  end)
end)
