-- Solutions of docs/book/15-an-operating-system.md.

local kvm = require "minikvm"
local t = require "minikvm.test"

local function trial()
  local vm = assert(kvm.vm{ mode = "paged", memory = "8M", cmdline = "init=trial", echo = false })
  assert(vm:load "os-1k/kernel.bin")
  vm.console:expect "Trial: "
  return vm
end

t.describe("An operating system:", function()
  t.needs_kvm()

  t.it("1. pages that a program may not write to", function()
    local vm <close> = trial()
    local code = vm.cpu[0]:walk(0x1000000)
    local stack = vm.cpu[0]:walk(0x103f000)
    local kernel = vm.cpu[0]:walk(0x80001000)
    assert(code.present and code.user and not code.writable)
    assert(stack.present and stack.user and stack.writable)
    assert(kernel.present and not kernel.user)
    assert(not vm.cpu[0]:walk(0).present)
  end)

  t.it("2. a fault of a program", function()
    local vm <close> = trial()
    vm.console:sendline "null"
    vm.console:expect "program trial: page fault at 0x00000010"
    vm.console:expect "Select: "
    vm.console:sendline "0"
    assert(vm:run{ deadline = 20 } == "exit")
  end)
end)
