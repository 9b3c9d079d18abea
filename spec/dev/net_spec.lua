-- virtio's network card and console (lua/minikvm/devices), driven by hand: Virtual I/O Device 1.2,
-- 5.1, 5.3.
-- spec/guests/linux_pci_spec.lua has Linux's driver.

local blk = require "minikvm.devices.blk"
local console = require "minikvm.devices.console"
local kvm = require "minikvm"
local net = require "minikvm.devices.net"
local pci = require "support.pci"
local program = require "support.program"
local support = require "support.guest"

local BASE <const>, CARD <const> = 0xfeb00000, pci.slot(2)
local QUEUE <const> = { [0] = 0x100000, [1] = 0x110000 } -- table; rings at + 0x1000 and + 0x2000
local DATA <const> = 0x120000
local FRAME <const> = ("\xff"):rep(6) .. "\x52\x54\0\0\0\1" .. "\8\6" .. "hello"

local function poke8(address, value) return ("<BBBI4"):pack(0xb0, value, 0xa2, address) end
local function poke16(address, value)
  return ("<BBI2BBI4"):pack(0x66, 0xb8, value, 0x66, 0xa3, address)
end

local function start(features)
  local parts = { pci.place(CARD, 0, BASE), poke8(BASE + 0x14, 3), pci.poke(BASE + 8, 1),
                  pci.poke(BASE + 0xc, 1), pci.poke(BASE + 8, 0),
                  pci.poke(BASE + 0xc, features or 0), poke8(BASE + 0x14, 11) }
  for i = 0, 1 do
    parts[#parts + 1] = poke16(BASE + 0x16, i) .. poke16(BASE + 0x18, 8)
      .. pci.poke(BASE + 0x20, QUEUE[i]) .. pci.poke(BASE + 0x28, QUEUE[i] + 0x1000)
      .. pci.poke(BASE + 0x30, QUEUE[i] + 0x2000) .. poke16(BASE + 0x1c, 1)
  end
  return table.concat(parts) .. poke8(BASE + 0x14, 15)
end

local function machine(opts, features)
  local vm = pci.vm{ memory = "4M", pci = { net.new(opts) } }
  pci.run(vm, { start(features) })
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

local function transmit(vm, frame, header)
  vm.memory:write(DATA, (header or ("\0"):rep(12)) .. frame)
  offer(vm, 1, DATA, 12 + #frame)
end

-- Features (5.1.3), what is left to the card (5.1.6).
local SUM <const>, GUEST_SUM <const>, GUEST_TCP4 <const>, TCP4 <const>, MERGED <const> = 1 << 0,
  1 << 1, 1 << 7, 1 << 11, 1 << 15
local TO_CUT <const> = ("<BBI2I2I2I2I2"):pack(1, 1, 54, 100, 34, 16, 0)

---The sum of RFC 1071: 0xffff when a checksum is right.
local function sum(bytes)
  local value = 0
  for i = 1, #bytes, 2 do value = value + ((">I2"):unpack(bytes:sub(i, i + 1) .. "\0")) end
  while value > 0xffff do value = (value & 0xffff) + (value >> 16) end
  return value
end

local ADDRESSES <const> = "\10\0\0\1\10\0\0\2"

local PAYLOAD <const> = ("0123456789"):rep(25)

---A segment of TCP, as Linux leaves it to a card: RFC 791 and 9293.
local function segment(payload)
  local length = 20 + #payload
  local tcp = (">I2I2I4I4BBI2I2I2"):pack(1000, 77, 500, 0, 0x50, 0x18, 4096,
    sum(ADDRESSES .. (">I2I2"):pack(6, length)), 0)
  local function header(check)
    return (">BBI2I2I2BBI2"):pack(0x45, 0, 20 + length, 7, 0, 64, 6, check) .. ADDRESSES
  end
  local ip = header(~sum(header(0)) & 0xffff)
  return ("\2\0\0\0\0\2\2\0\0\0\0\1\8\0"):sub(1, 14) .. ip .. tcp .. payload
end

---Sequence number and payload of one whose lengths and sums are right.
local function content(frame)
  local ip, tcp = frame:sub(15, 34), frame:sub(35)
  assert.same({ 0xffff, #frame - 14 }, { sum(ip), ((">I2"):unpack(ip, 3)) })
  assert.equal(0xffff, sum(ip:sub(13) .. (">I2I2"):pack(6, #tcp) .. tcp))
  return ((">I4"):unpack(tcp, 5)), tcp:sub(21)
end

---again: pause; cmp word ptr [the used ring's index], count; jne again
local function until_used(count)
  return "\xf3\x90\x66\x81\x3d" .. ("<I4I2"):pack(QUEUE[0] + 0x2002, count) .. "\x75\xf3"
end

---Frames arrive while the guest runs.
local function let_run(vm) return pci.run(vm, {}) end

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
    offer(vm, 0, DATA + 4096, 2048)
    assert.is_true(net.send(d, FRAME))
    let_run(vm)
    assert.equal(("\0"):rep(10) .. "\1\0" .. FRAME, vm.memory:read(DATA + 4096, 12 + #FRAME))
    assert.same({ 1, 12 + #FRAME }, { used(vm, 0), vm.memory:u32(QUEUE[0] + 0x2008) })
    pci.run(vm, { pci.peek(0x80000, BASE + 0x2000) })
    assert.equal("\2\0\0\0", vm.memory:read(0x80000, 4))
    assert.same({ 1, 1, 0 }, { d.state.sent, d.state.received, d.state.dropped })
  end)

  it("has frames wait for buffers, 256 of them, in order, also in snapshots and forks", function()
    local vm <close>, d = machine()
    for i = 1, 256 do assert.is_true(net.send(d, FRAME .. i)) end
    assert.is_false(net.send(d, FRAME .. 257))
    local snap <const> = assert(vm:snapshot())
    local function first_two(of)
      for i = 0, 1 do offer(of, 0, DATA + 4096 * i, 2048) end
      return { of.memory:read(DATA + 12, #FRAME + 1), of.memory:read(DATA + 4096 + 12, #FRAME + 1) }
    end
    assert.same({ FRAME .. 1, FRAME .. 2 }, first_two(vm))
    assert(vm:restore(snap))
    assert.same({ 256, 1 }, { #d.state.waiting, d.state.dropped })
    local child <close> = assert(vm:fork())
    assert.same({ FRAME .. 1, FRAME .. 2 }, first_two(child))
    assert.same({ 254, 256 }, { #child.pci:devices()[1].state.waiting, #d.state.waiting })
    pci.run(vm, { poke8(BASE + 0x14, 0) }) -- the driver resets it, which has no use for them
    assert.same({ 0, 257 }, { #d.state.waiting, d.state.dropped })
    assert.is_false(net.send(d, FRAME))
  end)

  it("delivers frames at their time, by the VM's clock, that of a fork", function()
    local vm <close>, d = machine()
    for _ = 1, 3 do offer(vm, 0, DATA, 64) end
    net.send(d, FRAME .. "late", 0.02)
    net.send(d, FRAME .. "soon", 0.01)
    assert.is_true(net.send(d, FRAME .. "now!"))
    local order = {}
    for i, waiting in ipairs(d.state.waiting) do order[i] = waiting.frame:sub(-4) end
    assert.same({ "now!", "soon", "late" }, order)
    local child <close> = assert(vm:fork())
    for _, of in ipairs{ child, vm } do
      pci.run(of, { until_used(3) })
      assert.equal(FRAME .. "late", of.memory:read(DATA + 12, #FRAME + 4))
      assert.equal(3, used(of, 0))
    end
  end)

  it("drops frames that are none, and what a buffer has no room for", function()
    local seen = 0
    local vm <close>, d = machine{ on_frame = function() seen = seen + 1 end }
    for _, length in ipairs{ 0, 13, 65536 } do transmit(vm, ("x"):rep(length)) end
    assert.same({ 0, 3, 3 }, { seen, d.state.dropped, used(vm, 1) })
    offer(vm, 0, DATA, 64)
    for _, length in ipairs{ 0, 13, 65536 } do
      assert.is_false(net.send(d, ("x"):rep(length)))
    end
    for _, length in ipairs{ 60, 52 } do assert.is_true(net.send(d, ("x"):rep(length))) end
    let_run(vm)
    assert.same({ 1, 7 }, { d.state.received, d.state.dropped })
    offer(vm, 1, DATA, 11)
    assert.equal("a frame has a header of 12 bytes", d.state.virtio.last_error)
  end)

  it("is a wire between VMs, also between forks", function()
    local hub = net.hub()
    local one <close> = machine{ hub = hub, mac = "02:00:00:00:00:01" }
    offer(one, 0, DATA + 4096, 2048)
    local other <close> = assert(one:fork())
    transmit(one, FRAME)
    let_run(other)
    assert.equal(FRAME, other.memory:read(DATA + 4096 + 12, #FRAME))
    assert.same({ 0, 1 }, { used(one, 0), used(other, 0) })
    transmit(other, FRAME)
    let_run(one)
    assert.same({ 1, 1 }, { used(one, 0), used(other, 0) })
  end)

  it("leaves a wire when it is detached, or has other code", function()
    local hub, new = net.hub(), net.hub()
    local one <close>, card = machine{ hub = hub }
    local other <close>, second = machine{ hub = hub }
    assert.same({ card, second }, hub:cards())
    card:replace(net.new{ hub = new })
    assert.same({ { second }, { card } }, { hub:cards(), new:cards() })
    transmit(one, FRAME)
    assert.same({ 1, 0 }, { card.state.sent, #second.state.waiting })
    card:detach()
    other:close()
    assert.same({ {}, {} }, { hub:cards(), new:cards() })
    assert.equal(0, hub:send(FRAME))
  end)

  it("takes no frame any more when it is detached, or its VM is closed", function()
    local vm <close>, d = machine()
    d:detach()
    assert.is_false(net.send(d, FRAME))
    assert.equal("halt", (let_run(vm)))
    local gone, card = machine{ hub = net.hub() }
    gone:close()
    assert.error_matches(function() net.send(card, FRAME) end, "closed")
  end)

  it("whose script raises ends that guest's run", function()
    local hub = net.hub{ on_frame = function() error "torn" end }
    local one <close> = machine{ hub = hub }
    local other <close>, d = machine{ hub = hub }
    one.memory:write(DATA, ("\0"):rep(12) .. FRAME)
    one.memory:write(QUEUE[1], ("<I8I4I2I2"):pack(DATA, 12 + #FRAME, 0, 0))
    one.memory:u16(QUEUE[1] + 0x1002, 1)
    local reason, info = pci.run(one, { poke16(BASE + 0x3004, 1) })
    assert.equal("error", reason)
    assert.matches("net_spec.lua:%d+: torn", info.text)
    assert.equal("halt", (let_run(other)))
    assert.equal(0, d.state.received)
  end)

  it("has a script between it and the others: drops, changes, doubles", function()
    local answers, froms = { false, "changed", true, nil }, {}
    local capture = net.capture()
    local hub = net.hub{ capture = capture, on_frame = function(h, frame, from)
      froms[#froms + 1] = from.vm.name
      local answer = answers[#froms]
      if answer == true then h:send(frame, { from = from }) end
      if answer == "changed" then return FRAME .. "!" end
      return answer
    end }
    local one <close> = machine{ hub = hub }
    local other <close>, d = machine{ hub = hub }
    for i = 1, 5 do offer(other, 0, DATA + 4096 * i, 2048) end
    for _, count in ipairs{ 0, 1, 3, 4 } do
      transmit(one, FRAME)
      let_run(other)
      assert.equal(count, d.state.received)
    end
    assert.equal(FRAME .. "!", other.memory:read(DATA + 4096 + 12, #FRAME + 1))
    assert.equal(4, #froms)
    assert.equal(4, capture:count())
    assert.equal(2, hub:send(FRAME))
    assert.equal(1, hub:send(FRAME, { from = d }))
  end)

  ---Sends n frames, and makes buffers available whenever there is room for one.
  local function busy(n)
    local loop = "\x66\xff\x05" .. ("<I4"):pack(QUEUE[1] + 0x1002)       -- inc word ptr [available]
      .. "\x66\xc7\x05" .. ("<I4I2"):pack(BASE + 0x3004, 1)              -- notify
      .. "\x66\xa1" .. ("<I4"):pack(QUEUE[0] + 0x1002)                   -- mov ax, [available]
      .. "\x66\x2b\x05" .. ("<I4"):pack(QUEUE[0] + 0x2002)               -- sub ax, [used]
      .. "\x66\x83\xf8\x08\x73\x10"                                     -- cmp ax, 8; jae on
      .. "\x66\xff\x05" .. ("<I4"):pack(QUEUE[0] + 0x1002)              -- inc word ptr [available]
      .. "\x66\xc7\x05" .. ("<I4I2"):pack(BASE + 0x3000, 0) .. "\x4e"   -- notify; on: dec esi
    return "\xbe" .. ("<I4"):pack(n) .. loop .. "\x0f\x85" .. ("<i4"):pack(-#loop - 6)
  end

  it("loses no count when VMs send to each other on threads of their own", function()
    local hub, vms <const>, frames <const> = net.hub(), {}, 2000
    for i = 1, 3 do
      local vm = machine{ hub = hub }
      vms[i] = vm
      vm.memory:write(DATA, ("\0"):rep(12) .. FRAME)
      for entry = 0, 7 do
        vm.memory:write(QUEUE[1] + 16 * entry, ("<I8I4I2I2"):pack(DATA, 12 + #FRAME, 0, 0))
        vm.memory:write(QUEUE[0] + 16 * entry, ("<I8I4I2I2"):pack(DATA + 4096, 2048, 2, 0))
        for queue = 0, 1 do vm.memory:u16(QUEUE[queue] + 0x1004 + 2 * entry, entry) end
      end
      pci.load(vm, { busy(frames) })
    end
    for _, vm in ipairs(vms) do assert(vm:start()) end
    for _, vm in ipairs(vms) do assert.equal("halt", (vm:wait())) end
    for _, vm in ipairs(vms) do
      local state = vm.pci:devices()[1].state
      assert.same({ frames, 2 * frames, 0 }, { state.sent,
        state.received + state.dropped + #state.waiting, state.virtio.errors })
      assert.equal(state.received & 0xffff, used(vm, 0))
      vm:close()
    end
  end)

  it("gives a script segments that a wire takes, with their checksums", function()
    local seen = {}
    local vm <close>, d = machine({ on_frame = function(_, frame) seen[#seen + 1] = frame end },
                                  SUM | TCP4)
    transmit(vm, segment(PAYLOAD), TO_CUT)
    local sequence, text = 500, ""
    for _, frame in ipairs(seen) do
      local at, payload = content(frame)
      assert.equal(sequence, at)
      sequence, text = at + #payload, text .. payload
    end
    assert.same({ 3, PAYLOAD, 1 }, { #seen, text, d.state.sent })
    transmit(vm, segment(PAYLOAD), TO_CUT:gsub("^\1\1", "\1\0")) -- a checksum only
    assert.equal(PAYLOAD, select(2, content(seen[4])))
    transmit(vm, segment(PAYLOAD), TO_CUT:gsub("^\1\1", "\1\4")) -- it is not IP version 6
    assert.same({ 4, 1 }, { #seen, d.state.dropped })
  end)

  it("hands a large segment on to who takes it, and cuts it for others", function()
    local hub = net.hub()
    local one <close> = machine({ hub = hub }, SUM | TCP4)
    local large <close>, l = machine({ hub = hub }, GUEST_SUM | GUEST_TCP4)
    local small <close>, s = machine{ hub = hub }
    for i = 1, 3 do
      offer(large, 0, DATA + 4096 * i, 2048)
      offer(small, 0, DATA + 4096 * i, 2048)
    end
    transmit(one, segment(PAYLOAD), TO_CUT)
    let_run(large)
    let_run(small)
    assert.same({ 1, 3 }, { l.state.received, s.state.received })
    assert.equal(TO_CUT:sub(1, 10) .. "\1\0" .. segment(PAYLOAD),
                 large.memory:read(DATA + 4096, 12 + #segment(PAYLOAD)))
    for i = 1, 3 do
      local length = small.memory:u32(QUEUE[0] + 0x2000 + 8 * i) -- of the element, after its id
      local bytes = small.memory:read(DATA + 4096 * i, length)
      assert.equal(("\0"):rep(10) .. "\1\0", bytes:sub(1, 12))
      local at, payload = content(bytes:sub(13))
      assert.same({ 400 + 100 * i, PAYLOAD:sub(100 * i - 99, 100 * i) }, { at, payload })
    end
  end)

  it("keeps what is left to others in snapshots", function()
    local hub = net.hub()
    local one <close> = machine({ hub = hub }, SUM | TCP4)
    local large <close>, l = machine({ hub = hub }, GUEST_SUM | GUEST_TCP4)
    transmit(one, segment(PAYLOAD), TO_CUT)
    local snap <const> = assert(large:snapshot())
    pci.run(large, { poke8(BASE + 0x14, 0) })
    assert(large:restore(snap))
    assert.same({ 1, 0 }, { #l.state.waiting, l.state.dropped })
    local path <const> = os.tmpname()
    assert(snap:save(path))
    local from_file <close> = assert(assert(kvm.load_snapshot(path)):vm{ echo = false,
      setup = function(new) new.pci:attach(net.new{ hub = hub }) end })
    os.remove(path)
    for _, vm in ipairs{ large, from_file } do
      offer(vm, 0, DATA + 4096, 2048)
      assert.equal(TO_CUT:sub(1, 10) .. "\1\0" .. segment(PAYLOAD),
                   vm.memory:read(DATA + 4096, 12 + #segment(PAYLOAD)))
    end
  end)

  it("spreads a frame over several buffers for a driver that merges them (5.1.6.4)", function()
    local vm <close>, d = machine({}, MERGED)
    local frame = FRAME .. ("0123456789"):rep(10)
    net.send(d, frame)
    offer(vm, 0, DATA + 4096, 50)
    offer(vm, 0, DATA + 8192, 50)
    assert.same({ 0, 1 }, { used(vm, 0), #d.state.waiting })
    offer(vm, 0, DATA + 12288, 50)
    assert.same({ 3, 1 }, { used(vm, 0), d.state.received })
    assert.equal(("\0"):rep(10) .. "\3\0" .. frame, vm.memory:read(DATA + 4096, 50)
      .. vm.memory:read(DATA + 8192, 50) .. vm.memory:read(DATA + 12288, 12 + #frame - 100))
    net.send(d, frame)
    offer(vm, 0, DATA, 11)
    assert.equal("a buffer has no room for the header of a frame", d.state.virtio.last_error)
    assert.same({ 3, 0 }, { used(vm, 0), #d.state.waiting })
  end)

  it("drops a frame that all buffers of its queue have no room for", function()
    local vm <close>, d = machine({}, MERGED)
    net.send(d, FRAME .. ("x"):rep(200))
    for i = 1, 8 do offer(vm, 0, DATA + 4096 * i, 20) end
    assert.same({ 0, 1, 0 }, { used(vm, 0), d.state.dropped, d.state.virtio.errors })
    net.send(d, FRAME)
    let_run(vm)
    assert.same({ 2, 1 }, { used(vm, 0), d.state.received })
  end)

  it("tells its driver of an MTU", function()
    local vm <close> = machine{ mtu = 9000 }
    pci.run(vm, { pci.poke(BASE, 0), pci.peek(0x80000, BASE + 4),
                  pci.peek(0x80004, BASE + 0x2008) })
    assert.equal(1 << 3, vm.memory:u32(0x80000) & 1 << 3)
    assert.equal(9000, vm.memory:u32(0x80004) >> 16)
  end)

  it("is refused when it makes no sense", function()
    local function refused(text, fn, ...)
      local ok, why = pcall(fn, ...)
      assert.is_false(ok)
      assert.matches(text, why, 1, true)
      assert.matches("net_spec.lua:", why, 1, true)
    end
    local function new(opts) return function() net.new(opts) end end
    refused("expected an address such as", new{ mac = "02:00" })
    refused("'mtu': expected bytes, 68 to 65521, got 65522", new{ mtu = 65522 })
    refused("expected an interface's name", new{ tap = "tap/0" })
    refused("expected an interface's name", new{ tap = ("x"):rep(16) })
    refused("expected a hub of net.hub()", new{ hub = {} })
    refused("one of 'on_frame', 'hub' and 'tap'", new{ hub = net.hub(), on_frame = print })
    refused("expected a capture of net.capture()", function() net.hub{ capture = "x.pcap" } end)
    local vm <close> = pci.vm{ memory = "4M" }
    local d = vm.pci:attach(kvm.pci{ name = "card", vendor = 1, device = 1 })
    refused("net.send: device card is no network card", function() net.send(d, FRAME) end)
    local hub, disk = net.hub(), vm.pci:attach(blk.new{ size = 512 })
    for _, from in ipairs{ d, disk } do
      refused("is no network card", function() hub:send(FRAME, { from = from }) end)
    end
    refused("'from': expected a network card", function() hub:send(FRAME, { from = hub }) end)
  end)
end)

describe("a capture", function()
  -- draft-ietf-opsawg-pcap: 4. File Header, 5. Packet Record
  it("is a file that tcpdump reads", function()
    local c = net.capture()
    c:add(FRAME, 1700000000.5)
    c:add("", 3)
    assert.equal(("<I4I2I2I4I4I4I4"):pack(0xa1b23c4d, 2, 4, 0, 0, 262144, 1)
      .. ("<I4I4I4I4"):pack(1700000000, 500000000, #FRAME, #FRAME) .. FRAME
      .. ("<I4I4I4I4"):pack(3, 0, 0, 0), c:bytes())
    local path <const> = os.tmpname()
    assert.is_true(c:save(path))
    local file <close> = assert(io.open(path, "rb"))
    os.remove(path)
    assert.equal(c:bytes(), file:read "a")
    local done, why, code = c:save "/nowhere/x.pcap"
    assert.same({ nil, "ENOENT" }, { done, code })
    assert.matches("/nowhere/x.pcap", why, 1, true)
  end)

  it("is as it was after a time that it has no room for", function()
    local c = net.capture()
    for _, seconds in ipairs{ 1e300, 1 << 32, -1, 0 / 0 } do
      assert.error_matches(function() c:add(FRAME, seconds) end,
                           "capture:add: .-seconds since 1970")
    end
    assert.same({ 0, 24 }, { c:count(), #c:bytes() })
  end)

  it("holds the newest frames, and counts the others", function()
    local c = net.capture{ limit = 4 * (16 + 100) }
    for i = 1, 10 do c:add(string.char(i):rep(100), i) end
    assert.same({ 4, 6, 24 + 4 * 116 }, { c:count(), c.lost, #c:bytes() })
    assert.equal("\7", c:bytes():sub(41, 41))
    c:add(("x"):rep(300000))
    assert.same({ 0, 11 }, { c:count(), c.lost })
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
    assert.same({ 2, 0 }, { used(vm, 0), #d.state.out[0] })
  end)

  it("is waited for, port by port", function()
    local vm <close> = pci.vm{ memory = "4M", pci = { console.new() } }
    pci.run(vm, { start() })
    local d = vm.pci:devices()[1]
    vm.memory:write(DATA, "login: ok")
    offer(vm, 1, DATA, 9)
    assert.same({ 2, "in" }, { console.expect(d, { "ok", "log(in):" }) })
    local failed, why = pcall(console.expect, d, "never", { timeout = 0.01 })
    assert.is_false(failed)
    assert.matches('^spec/dev/net_spec.lua:%d+: console.expect "never": the vm ended: halt, .-\n'
      .. "  printed last on port 0:\n    |  ok\n", why)
    assert.error_matches(function() console.expect(d, "x", { port = 1 }) end,
                         "console console has the ports 0 to 0, got 1")
    assert.error_matches(function() console.new{ ports = 0 } end, "expected how many, 1 to 31")
    assert.error_matches(function() console.new{ ports = { "a", 1 } } end, "or a list of names")
  end)
end)

describe("a card on a tap", function()
  if support.without_kvm(pending) then return end

  local function why_not()
    local vm <close> = pci.vm{ memory = "4M" }
    local ok, why = pcall(vm.pci.attach, vm.pci, net.new{ tap = "mkprobe" })
    if not ok then return why end
    return not os.execute "command -v busybox bash >/dev/null" and "there is no busybox" or nil
  end
  local no = why_not()
  if no then pending(no) return end

  local function sh(line, name)
    assert(os.execute("exec 2>/dev/null; " .. line:gsub("%%s", name)))
  end
  local function interface() return "mk" .. os.tmpname():match "%w+$" end

  it("gets what the host sends there, and the other way round", function()
    local name = interface()
    local vm <close>, d = machine{ tap = name }
    sh("echo 1 >/proc/sys/net/ipv6/conf/%s/disable_ipv6; busybox ip link set %s up", name)
    offer(vm, 0, DATA + 4096, 2048)
    pci.load(vm, { until_used(1) })
    assert(vm:start())
    sh("busybox arping -q -D -c 1 -w 1 -I %s 198.51.100.2", name) -- asks who has that address
    assert.equal("halt", (vm:wait(20)))
    local length = vm.memory:u32(QUEUE[0] + 0x2008) - 12
    local frame = vm.memory:read(DATA + 4096 + 12, length)
    assert.equal(("\xff"):rep(6), frame:sub(1, 6))
    assert.equal("\8\6\0\1\8\0\6\4\0\1", frame:sub(13, 22)) -- RFC 826
    assert.equal("\xc6\x33\x64\x02", frame:sub(39, 42))
    transmit(vm, FRAME)
    local file <close> = assert(io.open("/sys/class/net/" .. name .. "/statistics/rx_packets"))
    assert.equal(1, file:read "n")
    assert.same({ 1, 1, 0 }, { d.state.sent, d.state.received, d.state.dropped })
  end)

  it("leaves checksums and large segments to the host, and does for its driver what that does not",
     function()
    local name = interface()
    local vm <close>, d = machine({ tap = name }, SUM | TCP4)
    sh("echo 1 >/proc/sys/net/ipv6/conf/%s/disable_ipv6; busybox ip link set %s up; "
      .. "busybox ip addr add 198.51.100.1/24 dev %s; "
      .. "busybox arp -i %s -s 198.51.100.2 02:00:00:00:00:02", name)
    transmit(vm, segment(PAYLOAD), TO_CUT)
    local file <close> = assert(io.open("/sys/class/net/" .. name .. "/statistics/rx_packets"))
    assert.same({ 1, 1, 0 }, { file:read "n", d.state.sent, d.state.dropped })
    offer(vm, 0, DATA + 4096, 2048)
    sh("bash -c 'echo hello >/dev/udp/198.51.100.2/9'", name)
    pci.load(vm, { until_used(1) })
    assert.equal("halt", (vm:run{ deadline = 20 }))
    local udp = vm.memory:read(DATA + 4096 + 12, vm.memory:u32(QUEUE[0] + 0x2008) - 12):sub(15)
    assert.equal("hello\n", udp:sub(29))
    assert.equal(0xffff, sum(udp:sub(13, 20) .. (">I2I2"):pack(17, #udp - 20) .. udp:sub(21)))
    assert.equal(("\0"):rep(10), vm.memory:read(DATA + 4096, 10))
  end)

  it("says what it takes without permission", function()
    if not os.execute "setpriv --bounding-set -net_admin true 2>/dev/null" then
      return pending "this user has no permission to give up"
    end
    local path <const> = program.file [[
      local kvm, net = require "minikvm", require "minikvm.devices.net"
      local vm <close> = assert(kvm.vm{ mode = "protected", irqchip = "pic" })
      print(pcall(vm.pci.attach, vm.pci, net.new{ tap = "mkprobe" }))
      vm.pci:attach(net.new()) -- the VM goes on
    ]]
    local r = program.run("setpriv --bounding-set -net_admin P " .. path)
    os.remove(path)
    assert.same({ 0, "" }, { r.status, r.err })
    assert.matches("false\t[^\n]*tap mkprobe: no permission: it takes CAP_NET_ADMIN, or a tap made "
      .. "for this user: ip tuntap add mkprobe mode tap user NAME\n", r.out)
  end)

  it("has one of its own in each fork", function()
    local asked = {}
    local a, b = interface() .. "a", interface() .. "b"
    local vm <close> = machine{ tap = function(vm)
      asked[#asked + 1] = vm.name
      return ({ a, b, nil, "no/name" })[#asked]
    end }
    local forks = assert(vm:fork(2))
    local function card(of) return of.pci:devices()[1] end
    assert.same({ a, b }, { card(vm).own.tap_name, card(forks[1]).own.tap_name })
    assert.is_nil(card(forks[2]).own.tap_name)
    assert.error_matches(function() vm:fork() end,
                         "what 'tap' returned: expected an interface's name")
    assert.same({ "vm", "vm#1", "vm#2", "vm#1" }, asked)
    transmit(forks[2], FRAME) -- goes nowhere
    assert.equal(1, card(forks[2]).state.dropped)
    for _, child in ipairs(forks) do child:close() end
  end)

  it("has it alone, as long as its VM is open", function()
    local name = interface()
    local vm = pci.vm{ memory = "4M" }
    local d = vm.pci:attach(net.new{ tap = name })
    assert.error_matches(function() vm.pci:attach(net.new{ tap = name }) end,
                         "tap " .. name .. ": another card or program uses it")
    assert.error_matches(function() vm.pci:attach(net.new{ tap = "lo" }) end,
                         "tap lo: there is an interface of that name that is no tap")
    d:replace(net.new())
    vm.pci:attach(net.new{ tap = name })
    vm:close()
    local other <close> = pci.vm{ memory = "4M" }
    other.pci:attach(net.new{ tap = name })
  end)
end)
