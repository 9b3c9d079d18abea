-- test_network.lua - tests between two Linuxes on one wire: forks of a machine booted once.
--
--   minikvm test scripts/test_network.lua      (docs/net.md)
--
-- It takes kvm_intel or kvm_amd, and the kernel that tools/linux-kernel fetches.

local t = require "minikvm.test"
local net = require "minikvm.devices.net"

local pings, loses = 0, false
local capture = net.capture()
local hub = net.hub{ capture = capture, on_frame = function(_, frame)
  if not loses or frame:sub(13, 14) ~= "\8\0" or frame:byte(24) ~= 1 then return end -- no ICMP
  pings = pings + 1
  if pings % 4 == 0 then return false end -- every fourth is lost
end }

local linux = t.linux{ memory = "128M", pci = { net.new{ hub = hub } },
                       modules = { "virtio_pci", "virtio_net" } }

local UP <const> = [[
  set -e
  ip link set eth0 address 02:00:00:00:00:0%d
  ip addr add 10.0.0.%d/24 dev eth0
  ip link set eth0 up
]]

---Two machines; the second one answers while the first one is used.
local function pair()
  linux()
  local machines = { linux:fork(2) }
  for i, machine in ipairs(machines) do
    local output, status = machine:sh(UP:format(i, i), { timeout = 60 })
    assert(status == 0, output)
  end
  machines[2].vm:start()
  return machines[1]
end

t.describe("two machines on a wire", function()
  t.it("reach each other", function()
    local output, status = pair():sh("ping -c 1 10.0.0.2", { timeout = 60 })
    assert(status == 0, output)
    assert(capture:bytes():find("\2\0\0\0\0\2\2\0\0\0\0\1\8\0", 1, true)) -- IP from one to two
  end)

  t.it("lose what the wire loses", function()
    local machine = pair()
    machine:sh("ping -c 1 10.0.0.2", { timeout = 60 }) -- each knows the other's address
    pings, loses = 0, true
    local output = machine:sh("ping -c 4 -i 0.1 -W 1 10.0.0.2", { timeout = 60 })
    loses = false
    assert(output:find "2 packets received", output) -- two replies are lost
  end)
end)
