-- Solutions of docs/book/17-in-your-program.md.

local kvm = require "minikvm"
local program = require "support.program"
local t = require "minikvm.test"

t.describe("In your program:", function()
  t.needs_kvm()

  t.it("1. a call that takes too long", function()
    local vm <close> = assert(kvm.vm{ mode = "long", echo = false })
    -- mov eax, [0x2000]; again: test eax, eax; jz again; imul eax, eax; mov [0x2000], eax; hlt
    assert(vm:load{ bytes = "\x8b\x04\x25\0\x20\0\0\x85\xc0\x74\xfc\x0f\xaf\xc0\z
      \x89\x04\x25\0\x20\0\0\xf4" })
    local ready <close> = assert(vm:snapshot())
    local function square(n)
      assert(vm:restore(ready))
      vm.memory:u32(0x2000, n)
      local reason = vm:run{ deadline = n == 0 and 0.05 or 10 }
      if reason ~= "halt" then return nil, reason end
      return vm.memory:u32(0x2000)
    end
    local result, why = square(0)
    assert(not result and why == "deadline")
    assert(square(12) == 144)
  end)

  t.it("2. a hypercall", function()
    local vm <close> = assert(kvm.vm{ mode = "real", echo = false })
    -- mov al, 0x80; mov dx, 0x500; out dx, al; in al, dx; out 0xf4, al
    assert(vm:load{ bytes = "\xb0\x80\xba\x00\x05\xee\xec\xe6\xf4" })
    vm.hypercalls:define(0x80, "answer", function() return 42 end)
    local reason, info = vm:run{ deadline = 5 }
    assert(reason == "exit" and info.code == 42)
  end)

  t.it("3. a second jail", function()
    local path = program.file [[
      local kvm = require "minikvm"
      assert(kvm.jail{})
      print(pcall(kvm.jail, {}))
    ]]
    local r = program.run("P " .. path)
    os.remove(path)
    assert(r.status == 0, r.err)
    assert(r.out:find "jail", r.out)
  end)
end)
