-- Solutions of docs/book/13-many-machines.md.

local kvm = require "minikvm"
local t = require "minikvm.test"

local function machine(bytes)
  local vm = assert(kvm.vm{ mode = "real", echo = false, limits = { seconds = 20 } })
  assert(vm:load(bytes))
  return vm
end

t.describe("Many machines:", function()
  t.needs_kvm()

  t.it("1. twenty of a kind", function()
    local vms = {}
    for i = 1, 20 do vms[i] = machine("guests/real/fibonacci.bin"):start() end
    for _, result in ipairs(kvm.wait(vms)) do
      assert(result.reason == "halt")
      assert(result.vm.console:text():find "^0 1 1 2 3 5 8 13 ")
      result.vm:close()
    end
  end)

  t.it("2. one stops another", function()
    local spins <close> = machine{ bytes = "\xeb\xfe" }
    local other <close> = machine{ bytes = "\xe6\x80\xeb\xfe" } -- out 0x80, al; jmp .
    other.ports:on(0x80, { write = function()
      other.clock:after(0.001, function()
        spins:stop()
        other:stop()
      end)
    end })
    local results = kvm.wait{ spins:start(), other:start() }
    assert(results[1].reason == "stopped" and results[2].reason == "stopped")
  end)

  t.it("3. every third byte is lost", function()
    local sender <close> = machine{
      bytes = "\xbe\x0d\0\xba\x00\x03\xac\xee\x84\xc0\x75\xfa\xf4" .. "abXcdXefX\n\0" }
    local wire, count = {}, 0
    sender.ports:on(0x300, { write = function(_, byte)
      count = count + 1
      if count % 3 ~= 0 then table.insert(wire, string.char(byte)) end
    end })
    assert(sender:run{ deadline = 5 } == "halt")
    assert(table.concat(wire) == "abcdef\n\0")
  end)
end)
