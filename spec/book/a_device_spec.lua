-- Solutions of docs/book/11-a-device.md.

local kvm = require "minikvm"
local t = require "minikvm.test"

local function machine(description, bytes)
  local vm = assert(kvm.vm{ mode = "real", echo = false })
  local device = vm:attach(kvm.device(description), { ports = 0x300 })
  assert(vm:load{ bytes = bytes })
  return vm, device
end

t.describe("A device:", function()
  t.needs_kvm()

  t.it("1. counts down", function()
    -- mov dx, 0x300; again: in al, dx; inc bx; test al, al; jnz again; hlt
    local vm <close> = machine({
      name = "countdown", registers = { [0] = "LEFT" },
      reset = function(d) d.state.left = 5 end,
      read = function(d)
        d.state.left = d.state.left - 1
        return d.state.left
      end,
    }, "\xba\x00\x03\xec\x43\x84\xc0\x75\xfa\xf4")
    assert(vm:run{ deadline = 5 } == "halt")
    assert(vm.cpu[0].bx == 5)
  end)

  t.it("2. is in a snapshot", function()
    -- mov dx, 0x300; mov al, 7; out dx, al; hlt
    local vm <close>, device = machine({
      name = "adder", registers = { [0] = "VALUE" },
      reset = function(d) d.state.sum = 0 end,
      write = function(d, _, value) d.state.sum = d.state.sum + value end,
    }, "\xba\x00\x03\xb0\x07\xee\xf4")
    local before <close> = assert(vm:snapshot())
    assert(vm:run{ deadline = 5 } == "halt" and device.state.sum == 7)
    assert(vm:restore(before))
    assert(device.state.sum == 0)
  end)

  t.it("3. refuses what is no memory", function()
    -- mov dx, 0x300; mov eax, 0xf0000000; out dx, eax; mov dx, 0x304; mov eax, 5; out dx, eax;
    -- in eax, dx; hlt
    local vm <close> = machine({
      name = "upper",
      registers = { [0] = { name = "ADDRESS", width = 4 }, [4] = { name = "LENGTH", width = 4 } },
      write = {
        LENGTH = function(d, _, length)
          local bytes = d:dma_read(d.reg.ADDRESS, math.min(length, 4096))
          d.reg.LENGTH = bytes and d:dma_write(d.reg.ADDRESS, bytes:upper()) and #bytes or 0
        end,
      },
    }, "\xba\x00\x03\x66\xb8\0\0\0\xf0\x66\xef\xba\x04\x03\x66\xb8\x05\0\0\0\x66\xef\x66\xed\xf4")
    assert(vm:run{ deadline = 5 } == "halt")
    assert(vm.cpu[0].eax == 0)
  end)
end)
