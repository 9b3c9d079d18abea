-- Solutions of docs/book/09-there-and-back.md.

local kvm = require "minikvm"
local t = require "minikvm.test"

t.describe("There and back:", function()
  t.needs_kvm()

  t.it("1. memory and a register", function()
    local vm <close> = assert(kvm.vm{ mode = "real", echo = false })
    assert(vm:load{ bytes = "\x40\xf4" }) -- inc ax; hlt
    vm.memory:write(0x200, "before")
    vm.cpu[0].ax = 1
    local moment <close> = assert(vm:snapshot())
    vm.memory:write(0x200, "after!")
    assert(vm:run{ deadline = 5 } == "halt" and vm.cpu[0].ax == 2)
    assert(vm:restore(moment))
    assert(vm.memory:read(0x200, 6) == "before" and vm.cpu[0].ax == 1 and vm.cpu[0].rip == 0)
  end)

  t.it("2. the same three times", function()
    local vm <close> = assert(kvm.vm{ mode = "paged", echo = false })
    assert(vm:load "os-1k/kernel.bin")
    vm.console:expect "Select: "
    local ready <close> = assert(vm:snapshot())
    local first
    for _ = 1, 3 do
      assert(vm:restore(ready))
      vm.console:send "4\n5\n0\n"
      assert(vm:run{ deadline = 20 } == "exit")
      local text = vm.console:text()
      first = first or text
      assert(text == first and #text > 0)
    end
  end)

  t.it("3. a fork in the middle", function()
    local vm <close> = assert(kvm.vm{ mode = "real", echo = false, coalesce = false })
    assert(vm:load "guests/real/counter.bin")
    assert(vm:run{ exits = 6 } == "limit")
    local fork <close> = assert(vm:fork())
    assert(vm:run{ deadline = 5 } == "halt" and fork:run{ deadline = 5 } == "halt")
    assert(vm.console:text() == "0 1 2 3 4 5 6 7 8 9\n")
    assert(fork.console:text() == vm.console:text())
  end)
end)
