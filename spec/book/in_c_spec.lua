-- Solutions of docs/book/07-64-bits-in-c.md.

local kvm = require "minikvm"
local t = require "minikvm.test"

t.describe("64 bits, in C:", function()
  t.needs_kvm()

  t.it("1. the command line, by the boot information", function()
    local vm <close> = assert(kvm.vm{ mode = "long", cmdline = "seven 7", echo = false })
    assert(vm:load{ bytes = "\xf4" })
    local block = vm.cpu[0].rbx
    assert(vm.memory:read(block, 4) == "MKBI")
    assert(vm.memory:read(vm.memory:u32(block + 16), 8) == "seven 7\0")
    assert(vm:run{ deadline = 5 } == "halt")
  end)

  t.it("2. pages of two sizes", function()
    local exits = {}
    for _, size in ipairs{ "4K", "2M" } do
      local vm <close> = assert(kvm.vm{ mode = "long", page_size = size, coalesce = false,
                                        echo = false })
      assert(vm:load "guests/long/sieve.bin")
      local reason, info = vm:run{ deadline = 20 }
      assert(reason == "exit" and info.code == 0)
      exits[#exits + 1] = info.exits
    end
    assert(exits[1] == exits[2])
  end)
end)
