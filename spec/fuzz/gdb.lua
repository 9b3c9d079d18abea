-- gdb.lua - what gdb.c calls: a session of gdb's protocol with a guest that stands still. Packets
-- are lines of the input; its socket is none.

local kvm = require "minikvm"
local packets = require "minikvm.gdb.packets"
local session = require "minikvm.gdb.session"

local vm = assert(kvm.vm{ mode = "protected", memory = "256K", cpus = 2, echo = false })
assert(vm:load{ bytes = ("\x90"):rep(64) .. "\xf4" }, { at = 0x1000 })
assert(vm.memory:map{ at = 0x100000, rom = true, name = "rom", bytes = ("r"):rep(4096) })

---What minikvm says of a fault of its own begins so.
local client = { acks = true }
function client.send(_, reply)
  assert(#reply <= 0x20000 + 64, "a reply longer than gdb was told")
  if reply:find "^E%.minikvm: " then error(reply, 0) end
end
function client.close() end

return function(bytes)
  local s = session.new(vm, {}, { lost = "hold", arch = "auto", monitor = false })
  for packet in bytes:gmatch "[^\n]+" do
    s.client, s.state = client, "stopped"
    packets.serve(s, packet)
  end
  session.remove_points(s)
end
