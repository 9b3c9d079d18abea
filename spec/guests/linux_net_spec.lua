-- Two Linuxes of Debian's kernel on one wire (lua/minikvm/devices/net.lua), with their own driver,
-- virtio_net, and a script between them. On a stock KVM: kvm_pvm does not run Linux's user space.

local kvm = require "minikvm"
local linux = require "support.linux"
local net = require "minikvm.devices.net"
local program = require "support.program"
local support = require "support.guest"

local MODULES <const> = (os.getenv "XDG_CACHE_HOME" or (os.getenv "HOME" or "") .. "/.cache")
  .. "/minikvm-linux/modules"
local ECHO <const> = 8 -- of ICMP (RFC 792)

local function is_ping(frame)
  return frame:sub(13, 14) == "\8\0" and frame:byte(24) == 1 and frame:byte(35) == ECHO
end

describe("two forks of a Linux on one wire", function()
  if linux.without_linux(pending) then return end

  local vm, pair, between, capture
  setup(function()
    capture = net.capture()
    local hub = net.hub{ capture = capture, on_frame = function(hub, frame, from)
      if between and is_ping(frame) then return between(hub, frame, from) end
    end }
    vm = support.vm{ mode = "linux", memory = "128M", pci = { net.new{ hub = hub, mtu = 9000 } } }
    assert(vm:load(linux.KERNEL, { cmdline = "quiet", initrd = { bytes = assert(kvm.initrd{
      agent = true, modules = { "virtio_pci", "virtio_net", from = MODULES } }) } }))
    vm:linux():wait{ timeout = 150 }
    pair = assert(vm:fork(2))
    for i, child in ipairs(pair) do
      local line = ("ip link set eth0 address 02:00:00:00:00:0%d && "
        .. "ip addr add 10.0.0.%d/24 dev eth0 && ip link set eth0 up"):format(i, i)
      local text, status = child:linux():sh(line, { timeout = 60 })
      assert.equal(0, status, text)
    end
    pair[2]:start()
  end)
  teardown(function()
    for _, child in ipairs(pair or {}) do child:close() end
    if vm then vm:close() end
  end)

  local function sh(line) return (pair[1]:linux():sh(line, { timeout = 60 })) end

  it("ping each other, and tcpdump reads what went over it", function()
    assert.equal("9000\n", sh "cat /sys/class/net/eth0/mtu")
    assert.matches("3 packets transmitted, 3 packets received, 0%% packet loss",
                   sh "ping -c 3 -i 0.1 10.0.0.2")
    assert.matches("1 packets received", sh "ping -c 1 -s 8000 10.0.0.2")
    local bytes = capture:bytes()
    assert.is_not_nil(bytes:find("\2\0\0\0\0\2\2\0\0\0\0\1\8\0E", 1, true))
    assert.is_true(capture:count() >= 8)
  end)

  it("lose a frame, get one twice, or late, as the script says", function()
    finally(function() between = nil end)
    between = function() between = nil return false end
    assert.matches("2 packets transmitted, 1 packets received", sh "ping -c 2 -i 0.1 10.0.0.2")
    between = function(hub, frame, from) hub:send(frame, { from = from }) end
    assert.matches("2 packets received, %d+ duplicates", sh "ping -c 2 -i 0.1 10.0.0.2")
    between = function(hub, frame, from)
      hub:send(frame, { from = from, after = 0.25 })
      return false
    end
    local ms = tonumber(sh "ping -c 1 10.0.0.2":match "time=([%d.]+) ms")
    assert.is_true(ms >= 250, ms)
  end)

  it("have had nothing dropped, and no driver that was wrong", function()
    for _, child in ipairs(pair) do
      local state = child.pci:devices()[1].state
      assert.same({ 0, 0 }, { state.dropped, state.virtio.errors })
      assert.is_true(state.sent > 0 and state.received > 0)
    end
  end)
end)

describe("scripts/test_network.lua", function()
  if linux.without_linux(pending) then return end

  it("passes", function()
    local folder <const> = os.tmpname()
    os.remove(folder)
    local r = program.run("P test scripts/test_network.lua --artefacts " .. folder)
    os.execute("rm -rf " .. folder)
    assert.equal(0, r.status, r.out)
    assert.matches("2 passed, 0 failed, 0 skipped", r.out)
  end)
end)
