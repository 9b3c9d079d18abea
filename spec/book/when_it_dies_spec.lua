-- Solutions of docs/book/12-when-it-dies.md.

local kvm = require "minikvm"
local t = require "minikvm.test"

local function machine(bytes)
  local vm = assert(kvm.vm{ mode = "protected", echo = false })
  assert(vm:load{ bytes = bytes })
  return vm
end

t.describe("When it dies:", function()
  t.needs_kvm()

  t.it("1. counts calls", function()
    -- mov ecx, 5; again: call f; dec ecx; jnz again; hlt; f: ret
    local vm <close> = machine "\xb9\x05\0\0\0\xe8\x04\0\0\0\x49\x75\xf8\xf4\xc3"
    local calls = vm:break_at(0x100e, function() end)
    assert(vm:run{ deadline = 10 } == "halt")
    assert(calls.hits == 5)
  end)

  t.it("2. finds who writes", function()
    -- nop; mov byte ptr [0x700], 7; nop; hlt
    local vm <close> = machine "\x90\xc6\x05\x00\x07\0\0\x07\x90\xf4"
    vm:watch(0x700, 1, "w", function() return true end)
    assert(vm:run{ deadline = 10 } == "break")
    assert(vm.cpu[0].rip == 0x1008) -- behind the instruction at 0x1001
    assert(vm.memory:read(0x700, 1) == "\x07")
  end)

  t.it("3. step by step", function()
    local vm <close> = machine "\x90\x89\xc3\x40\xf4" -- nop; mov ebx, eax; inc eax; hlt
    local seen = {}
    for i = 1, 3 do
      vm.cpu[0]:step()
      seen[i] = vm.cpu[0].rip
    end
    assert(seen[1] == 0x1001 and seen[2] == 0x1003 and seen[3] == 0x1004)
  end)
end)
