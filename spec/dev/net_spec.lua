-- virtio's network card and console (lua/minikvm/devices), driven by hand: Virtual I/O Device 1.2,
-- 5.1, 5.3.
-- spec/guests/linux_pci_spec.lua has Linux's driver.

local console = require "minikvm.devices.console"
local net = require "minikvm.devices.net"
local pci = require "support.pci"
local support = require "support.guest"

local BASE <const>, CARD <const> = 0xfeb00000, pci.slot(2)
local QUEUE <const> = { [0] = 0x100000, [1] = 0x110000 } -- table; rings at + 0x1000 and + 0x2000
local DATA <const> = 0x120000
local FRAME <const> = ("\xff"):rep(6) .. "\x52\x54\0\0\0\1" .. "\8\6" .. "hello"

local function poke8(address, value) return ("<BBBI4"):pack(0xb0, value, 0xa2, address) end
local function poke16(address, value)
  return ("<BBI2BBI4"):pack(0x66, 0xb8, value, 0x66, 0xa3, address)
end

local function start()
  local parts = { pci.place(CARD, 0, BASE), poke8(BASE + 0x14, 3), pci.poke(BASE + 8, 1),
                  pci.poke(BASE + 0xc, 1), poke8(BASE + 0x14, 11) }
  for i = 0, 1 do
    parts[#parts + 1] = poke16(BASE + 0x16, i) .. poke16(BASE + 0x18, 8)
      .. pci.poke(BASE + 0x20, QUEUE[i]) .. pci.poke(BASE + 0x28, QUEUE[i] + 0x1000)
      .. pci.poke(BASE + 0x30, QUEUE[i] + 0x2000) .. poke16(BASE + 0x1c, 1)
  end
  return table.concat(parts) .. poke8(BASE + 0x14, 15)
end

local function machine(opts)
  local vm = pci.vm{ memory = "4M", pci = { net.new(opts) } }
  pci.run(vm, { start() })
  return vm, vm.pci:devices()[1]
end

---Makes one buffer available, and notifies.
local function offer(vm, queue, at, length)
  local m, base = vm.memory, QUEUE[queue]
  local n = m:u16(base + 0x1002)
  m:write(base + n % 8 * 16, ("<I8I4I2I2"):pack(at, length, queue == 0 and 2 or 0, 0))
  m:u16(base + 0x1004 + n % 8 * 2, n % 8)
  m:u16(base + 0x1002, n + 1)
  pci.run(vm, { poke16(BASE + 0x3000 + 4 * queue, queue) })
end

local function transmit(vm, frame)
  vm.memory:write(DATA, ("\0"):rep(12) .. frame)
  offer(vm, 1, DATA, 12 + #frame)
end

local function used(vm, queue) return vm.memory:u16(QUEUE[queue] + 0x2002) end

describe("virtio's network card", function()
  if support.without_kvm(pending) then return end

  it("hands frames to a script and takes them from it", function()
    local seen = {}
    local vm <close>, d = machine{ mac = "02:00:00:00:00:0a", on_frame = function(_, frame)
      seen[#seen + 1] = frame
    end }
    transmit(vm, FRAME)
    assert.same({ FRAME }, seen)
    assert.equal(1, used(vm, 1))
    assert.is_false(net.send(d, FRAME)) -- there is no buffer yet
    offer(vm, 0, DATA + 4096, 2048)
    assert.is_true(net.send(d, FRAME))
    assert.equal(("\0"):rep(10) .. "\1\0" .. FRAME, vm.memory:read(DATA + 4096, 12 + #FRAME))
    assert.same({ 1, 12 + #FRAME }, { used(vm, 0), vm.memory:u32(QUEUE[0] + 0x2008) })
    pci.run(vm, { pci.peek(0x80000, BASE + 0x2000) })
    assert.equal("\2\0\0\0", vm.memory:read(0x80000, 4))
    assert.same({ 1, 1, 1 }, { d.state.sent, d.state.received, d.state.dropped })
  end)

  it("drops frames that are none, and what a buffer has no room for", function()
    local seen = 0
    local vm <close>, d = machine{ on_frame = function() seen = seen + 1 end }
    for _, length in ipairs{ 0, 13, 65536 } do transmit(vm, ("x"):rep(length)) end
    assert.same({ 0, 3, 3 }, { seen, d.state.dropped, used(vm, 1) })
    offer(vm, 0, DATA, 64)
    for _, length in ipairs{ 0, 13, 65536, 60 } do
      assert.is_false(net.send(d, ("x"):rep(length)))
    end
    assert.is_true(net.send(d, ("x"):rep(52)))
    offer(vm, 1, DATA, 11)
    assert.equal("a frame has a header of 12 bytes", d.state.virtio.last_error)
  end)

  it("is a wire between VMs, also between forks", function()
    local hub = net.hub()
    local one <close> = machine{ hub = hub, mac = "02:00:00:00:00:01" }
    offer(one, 0, DATA + 4096, 2048)
    local other <close> = assert(one:fork())
    transmit(one, FRAME)
    assert.equal(FRAME, other.memory:read(DATA + 4096 + 12, #FRAME))
    assert.same({ 0, 1 }, { used(one, 0), used(other, 0) })
    transmit(other, FRAME)
    assert.same({ 1, 1 }, { used(one, 0), used(other, 0) })
    assert.error_matches(function() net.new{ mac = "02:00" } end, "expected an address such as")
  end)
end)

describe("virtio's console", function()
  if support.without_kvm(pending) then return end

  it("prints, and hands on what waits as there are buffers", function()
    local printed = {}
    local vm <close> = pci.vm{ memory = "4M", pci = { console.new{ on_output = function(_, text)
      printed[#printed + 1] = text
    end } } }
    pci.run(vm, { start() })
    local d = vm.pci:devices()[1]
    vm.memory:write(DATA, "out")
    offer(vm, 1, DATA, 3)
    assert.same({ "out" }, printed)
    console.send(d, "abcdef")
    for i = 0, 1 do offer(vm, 0, DATA + 4096 * (i + 1), 4) end
    assert.equal("abcd", vm.memory:read(DATA + 4096, 4))
    assert.equal("ef\0", vm.memory:read(DATA + 8192, 3))
    assert.same({ 2, "" }, { used(vm, 0), d.state.input })
  end)
end)
