-- Solutions of docs/book/06-32-bits-and-page-tables.md.

local kvm = require "minikvm"
local t = require "minikvm.test"

t.describe("32 bits and page tables:", function()
  t.needs_kvm()

  t.it("1. an address and its place", function()
    local vm <close> = assert(kvm.vm{ mode = "paged", echo = false })
    assert(vm:load{ bytes = "\xa1\x56\x34\x00\x80\xf4" }) -- mov eax, [0x80003456]; hlt
    local place = vm.cpu[0]:translate(0x80003456)
    assert(place == 0x3456)
    vm.memory:u32(place, 0xcafe)
    assert(vm:run{ deadline = 5 } == "halt")
    assert(vm.cpu[0].eax == 0xcafe)
  end)

  t.it("2. an entry that is cleared", function()
    local vm <close> = assert(kvm.vm{ mode = "paged", memory = "8M", echo = false })
    -- mov dword ptr [0x100004], 0; hlt: the second entry, 4 MiB from 4 MiB on
    assert(vm:load{ bytes = "\xc7\x05\x04\x00\x10\x00\x00\x00\x00\x00\xf4" })
    assert(vm.cpu[0]:walk(0x400000).present)
    assert(vm:run{ deadline = 5 } == "halt")
    assert(not vm.cpu[0]:walk(0x400000).present)
    assert(vm.cpu[0]:walk(0x3ff000).present and vm.cpu[0]:walk(0x80400000).present)
  end)

  t.it("3. a table that is too short", function()
    local vm <close> = assert(kvm.vm{ mode = "protected", echo = false })
    assert(vm:load "guests/prot/triple.bin")
    local reason, info = vm:run{ deadline = 5 }
    assert(reason == "shutdown")
    -- AMD's processors lose the registers in a triple fault, and the report says that instead.
    assert(info.report:find "#DE divide error"
      or info.report:find "^registers: lost, because KVM resets an AMD processor")
  end)
end)
