-- Solutions of docs/book/01-one-byte.md.

local kvm = require "minikvm"
local t = require "minikvm.test"

local function machine(bytes)
  local vm = assert(kvm.vm{ mode = "real", echo = false })
  assert(vm:load{ bytes = bytes })
  return vm
end

t.describe("One byte:", function()
  t.needs_kvm()

  t.it("1. three times INC AX", function()
    local vm <close> = machine "\x40\x40\x40\xf4"
    vm.cpu[0].ax = 39
    assert(vm:run{ deadline = 5 } == "halt")
    assert(vm.cpu[0].ax == 42)
  end)

  t.it("2. a byte of memory in AL", function()
    local vm <close> = machine "\xa0\x00\x02\xf4"
    vm.memory:write(0x200, "\x2a")
    assert(vm:run{ deadline = 5 } == "halt")
    assert(vm.cpu[0].al == 0x2a)
  end)

  t.it("3. out of an endless loop", function()
    local vm <close> = machine "\xeb\xfe\xf4"
    assert(vm:run{ deadline = 0.05 } == "deadline")
    vm.cpu[0].rip = 2
    assert(vm:run{ deadline = 5 } == "halt")
  end)
end)
