-- Solutions of docs/book/05-time-and-interrupts.md.

local kvm = require "minikvm"
local t = require "minikvm.test"

---A machine whose handler of vector 0x40 lies at 0x2000.
local function machine(code, handler)
  local vm = assert(kvm.vm{ mode = "real", echo = false, limits = { seconds = 5 } })
  assert(vm:load({ bytes = code }, { at = 0x1000 }))
  vm.memory:write(0x2000, handler)
  vm.memory:u16(0x40 * 4, 0x2000)
  vm.memory:u16(0x40 * 4 + 2, 0)
  return vm
end

t.describe("Time and interrupts:", function()
  t.needs_kvm()

  t.it("1. three interrupts", function()
    -- again: sti; hlt; cmp bx, 3; jne again; mov al, bl; out 0xf4, al. The handler: inc bx; iret
    local vm <close> = machine("\xfb\xf4\x83\xfb\x03\x75\xf9\x88\xd8\xe6\xf4", "\x43\xcf")
    vm.clock:every(0.01, function() vm.cpu[0]:interrupt(0x40) end)
    local reason, info = vm:run()
    assert(reason == "exit" and info.code == 3)
  end)

  t.it("2. nothing can come", function()
    local vm <close> = machine("\xfb\xf4\xe6\xf4", "\xb0\x07\xcf")
    assert(vm:run() == "halt")
    assert(vm.cpu[0].al == 0)
  end)

  t.it("3. typed at by keys", function()
    local vm <close> = assert(kvm.vm{ mode = "protected", irqchip = "pic", echo = false })
    assert(vm:load "guests/prot/keyboard.bin")
    assert(vm.keyboard:type "Hi there!")
    vm.keyboard:press "enter"
    assert(vm:run{ deadline = 10 } == "exit")
    assert(vm.console:text():find "typed: Hi there!\n")
  end)
end)
