-- weak.lua - what weak.c calls: a guest with 32-bit paging on a KVM that has none (kvm.c), whose
-- page tables, descriptors, gates and stack are the input.

local kvm = require "minikvm"

local vms = {}
for i, mode in ipairs{ "paged", "protected" } do
  vms[i] = assert(kvm.vm{ mode = mode, irqchip = i == 1 and "pic" or nil,
                          echo = false, limits = { exits = 500, seconds = 2 } })
  assert(vms[i]:load{ bytes = "\xf4" })
  vms[i].console:eof()
end

local ENDS <const> = { shutdown = true, halt = true, exit = true, limit = true, deadline = true,
                       fault = true }

return function(bytes)
  local vm = vms[(bytes:byte() or 0) % 2 + 1]
  load_program(bytes:sub(2))
  assert(vm:reset())
  local reason, info = vm:run()
  if not ENDS[reason or ""] then error(("%s: %s"):format(reason, info.text), 0) end
  assert(#tostring(info.report or "") < 100000)
  if reason == "limit" then
    local snapshot <close> = assert(vm:snapshot())
    assert(vm:restore(snapshot))
  end
end
