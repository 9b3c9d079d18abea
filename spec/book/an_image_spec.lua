-- Solutions of docs/book/03-an-image.md.

local kvm = require "minikvm"
local t = require "minikvm.test"

t.describe("An image:", function()
  t.needs_kvm()

  t.it("1. reads to the end of its input", function()
    local vm <close> = assert(kvm.vm{ mode = "real", echo = false })
    -- more: mov dx, 0x500; mov al, 2; out dx, al; in ax, dx; cmp ah, 1; je more; ja done;
    -- out 0xe9, al; jmp more; done: hlt
    assert(vm:load{ bytes = "\xba\x00\x05\xb0\x02\xee\xed\x80\xfc\x01\x74\xf4\x77\x04\xe6\xe9"
      .. "\xeb\xee\xf4" })
    vm.console:send("3\xff"):eof()
    assert(vm:run{ deadline = 5 } == "halt")
    assert(vm.console:text() == "3\xff")
  end)

  t.it("2. at 0x7c00", function()
    local vm <close> = assert(kvm.vm{ mode = "real", echo = false })
    assert(vm:load({ bytes = "\xf4" }, { at = 0x7c00 }))
    assert(vm.cpu[0].cs == 0x7c0 and vm.cpu[0].rip == 0)
    assert(vm:run{ deadline = 5 } == "halt")
  end)

  t.it("3. two images, two vCPUs", function()
    local vm <close> = assert(kvm.vm{ mode = "real", cpus = 2, echo = false })
    local of = { [0] = "", "" }
    vm.console:on_line(function(line, cpu) of[cpu] = of[cpu] .. line end)
    for cpu, letter in pairs{ [0] = "a", "b" } do
      -- mov al, letter; out 0xe9, al; mov al, 10; out 0xe9, al; hlt
      assert(vm:load({ bytes = "\xb0" .. letter .. "\xe6\xe9\xb0\n\xe6\xe9\xf4" }, { cpu = cpu }))
    end
    assert(vm:run{ deadline = 5 } == "halt")
    assert(of[0] == "a" and of[1] == "b")
  end)
end)
