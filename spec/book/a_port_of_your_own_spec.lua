-- Solutions of docs/book/04-a-port-of-your-own.md.

local kvm = require "minikvm"
local t = require "minikvm.test"

local function machine(bytes)
  local vm = assert(kvm.vm{ mode = "real", echo = false })
  assert(vm:load{ bytes = bytes })
  return vm
end

t.describe("A port of your own:", function()
  t.needs_kvm()

  t.it("1. counts reads", function()
    local vm <close> = machine "\xe4\x60\xe4\x60\xe4\x60\xf4" -- three times in al, 0x60; hlt
    local hook = vm.ports:on(0x60, { read = function() return 0 end })
    assert(vm:run{ deadline = 5 } == "halt")
    assert(hook.hits == 3)
  end)

  t.it("2. a memory behind an index", function()
    -- mov al, 5; out 0x70, al; mov al, 0x2a; out 0x71, al; mov al, 6; out 0x70, al; in al, 0x71;
    -- mov bl, al; mov al, 5; out 0x70, al; in al, 0x71; hlt
    local vm <close> = machine "\xb0\x05\xe6\x70\xb0\x2a\xe6\x71\xb0\x06\xe6\x70\xe4\x71\z
      \x88\xc3\xb0\x05\xe6\x70\xe4\x71\xf4"
    local index, bytes = 0, {}
    vm.ports:on(0x70, { write = function(_, value) index = value & 0x7f end })
    vm.ports:on(0x71, {
      read = function() return bytes[index] or 0 end,
      write = function(_, value) bytes[index] = value end,
    })
    assert(vm:run{ deadline = 5 } == "halt")
    assert(vm.cpu[0].al == 0x2a and vm.cpu[0].bl == 0)
  end)

  t.it("3. a hypercall", function()
    -- mov dx, 0x500; mov ebx, 12; mov al, 0x80; out dx, al; in ax, dx; hlt
    local vm <close> = machine "\xba\x00\x05\x66\xbb\x0c\0\0\0\xb0\x80\xee\xed\xf4"
    vm.hypercalls:define(0x80, "square", function(n) return n * n end)
    assert(vm:run{ deadline = 5 } == "halt")
    assert(vm.cpu[0].ax == 144)
  end)
end)
