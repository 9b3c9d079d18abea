-- virtio devices in Lua (kvm.virtio), driven by hand: Virtual I/O Device 1.2, chapters 2, 3 and
-- 4.1. spec/c/test_virtq.c has the queues; spec/guests/linux_pci_spec.lua Linux's drivers.

local console = require "minikvm.devices.console"
local kvm = require "minikvm"
local net = require "minikvm.devices.net"
local pci = require "support.pci"
local rng = require "minikvm.devices.rng"
local support = require "support.guest"
local virtio = require "minikvm.device.virtio"

local BASE <const>, CARD <const> = 0xfeb00000, pci.slot(2)
local DESC <const>, AVAIL <const>, USED <const>, DATA <const> = 0x100000, 0x101000, 0x102000,
  0x110000
local A <const>, B <const> = 0x80000, 0x80004
local NEXT <const>, WRITE <const> = 1, 2
local poke, peek = pci.poke, pci.peek

---mov al, value; mov [address], al
local function poke8(address, value) return ("<BBBI4"):pack(0xb0, value, 0xa2, address) end
---mov ax, value; mov [address], ax
local function poke16(address, value) return ("<BBI2BBI4"):pack(0x66, 0xb8, value, 0x66, 0xa3,
  address) end

---What a driver does up to DRIVER_OK, with one queue of `size` (3.1.1); `at`: its rings, if they
---are elsewhere; `queue`: another one than 0.
local function start(size, more, at, queue)
  local desc, avail, used = table.unpack(at or { DESC, AVAIL, USED })
  return table.concat{ pci.place(CARD, 0, BASE), poke8(BASE + 0x14, 0), poke8(BASE + 0x14, 3),
    poke(BASE + 8, 1), poke(BASE + 0xc, 1), poke(BASE + 8, 0), poke(BASE + 0xc, more or 0),
    poke8(BASE + 0x14, 11), poke16(BASE + 0x16, queue or 0), poke16(BASE + 0x18, size),
    poke(BASE + 0x20, desc), poke(BASE + 0x24, 0), poke(BASE + 0x28, avail), poke(BASE + 0x2c, 0),
    poke(BASE + 0x30, used), poke(BASE + 0x34, 0), poke16(BASE + 0x1c, 1), poke8(BASE + 0x14, 15) }
end
local NOTIFY <const> = poke16(BASE + 0x3000, 0)

local function machine(def, opts)
  local vm = pci.vm{ memory = "4M" }
  return vm, vm.pci:attach(def, opts)
end

local function describe_at(vm, i, at, length, flags, next_)
  vm.memory:write(DESC + 16 * i, ("<I8I4I2I2"):pack(at, length, flags, next_ or 0))
end

---Makes buffers available: their heads, from entry `first` of the ring on.
local function offer(vm, heads, first)
  for i, head in ipairs(heads) do vm.memory:u16(AVAIL + 4 + 2 * ((first or 0) + i - 1), head) end
  vm.memory:u16(AVAIL + 2, (first or 0) + #heads)
end

local function status(vm) return vm.memory:u32(A) & 0xff end

local function echo(on_buffer, more)
  local def = { name = "echo", id = 42, queues = { 8 }, config = "configuration",
    on_buffer = on_buffer }
  for key, value in pairs(more or {}) do def[key] = value end
  return kvm.virtio(def)
end

local function answer(_, _, b)
  b:write(b:read():upper())
  b:done()
end

describe("a virtio device", function()
  if support.without_kvm(pending) then return end

  it("is one that a driver finds: ids, capabilities, features, configuration", function()
    local vm <close> = machine(echo(answer, { features = 1 << 5 }))
    pci.run(vm, { pci.get(A, CARD, 0), pci.get(B, CARD, 0x40), pci.place(CARD, 0, BASE),
                  peek(B + 4, BASE + 4), poke(BASE, 1), peek(B + 8, BASE + 4), poke(BASE, 2),
                  peek(B + 12, BASE + 4), peek(B + 16, BASE + 0x2000), peek(B + 20, BASE + 0x200c),
                  peek(B + 24, BASE + 0x10) })
    local m = vm.memory
    assert.same({ 0x106a1af4, 0x05145409 }, { m:u32(A), m:u32(B) })
    assert.same({ 1 << 5 | 3 << 28, 1, 0 }, { m:u32(B + 4), m:u32(B + 8), m:u32(B + 12) })
    assert.equal("conf", m:read(B + 16, 4))
    assert.equal("n\0\0\0", m:read(B + 20, 4))
    assert.equal(0x0001ffff, m:u32(B + 24)) -- no vectors; one queue
  end)

  it("is driven through configuration space alone, too", function()
    local vm <close>, d = machine(echo(answer))
    local function window(offset, length)
      return pci.set(CARD, 0x44, 0, 1) .. pci.set(CARD, 0x48, offset) .. pci.set(CARD, 0x4c, length)
    end
    pci.run(vm, { window(0x14, 1), pci.set(CARD, 0x50, 3), pci.get(A, CARD, 0x50), window(0x2000,
      4),
                  pci.get(B, CARD, 0x50), window(0x3000, 2), pci.set(CARD, 0x50, 0),
                  window(0xfffffffc, 4), pci.get(B + 4, CARD, 0x50), window(0, 3),
                  pci.set(CARD, 0x50, 1), pci.get(B + 8, CARD, 0x50) })
    assert.same({ 3, 3, 0, 0 }, { d.reg.STATUS, vm.memory:u8(A), vm.memory:u32(B + 4),
                                  vm.memory:u32(B + 8) })
    assert.equal("conf", vm.memory:read(B, 4))
  end)

  it("serves buffers, and interrupts", function()
    local vm <close>, d = machine(echo(answer))
    describe_at(vm, 0, DATA, 5, NEXT, 1)
    describe_at(vm, 1, DATA + 16, 16, WRITE)
    vm.memory:write(DATA, "hello")
    offer(vm, { 0 })
    pci.run(vm, { start(8), NOTIFY, peek(A, BASE + 0x1000), peek(B, BASE + 0x1000) })
    assert.equal("HELLO", vm.memory:read(DATA + 16, 5))
    assert.same({ 1, 0, 5 }, { vm.memory:u16(USED + 2), vm.memory:u32(USED + 4),
      vm.memory:u32(USED + 8) })
    assert.same({ 1, 0 }, { vm.memory:u8(A), vm.memory:u8(B) }) -- the ISR, which reading clears
    assert.equal(0, d.state.virtio.errors)
  end)

  it("says whose configuration is none", function()
    local vm <close> = machine(kvm.virtio{ name = "odd", id = 42, queues = 1, on_buffer = answer,
                                           config = function() return 7 end })
    vm:load{ bytes = pci.place(CARD, 0, BASE) .. peek(A, BASE + 0x2000) }
    local reason, info = vm:run()
    assert.equal("error", reason)
    assert.matches("device odd: its 'config' returned a number, not the bytes", info.text, 1, true)
  end)

  it("keeps a limit of what a driver asks for and never takes", function()
    local vm <close>, d = machine(console.new{ ports = 31 })
    vm.memory:write(DATA, ("<I4I2I2"):pack(0, 0, 1)) -- VIRTIO_CONSOLE_DEVICE_READY
    local heads = {}
    for i = 0, 63 do
      describe_at(vm, i, DATA, 8, 0)
      heads[i + 1] = i
    end
    offer(vm, heads)
    pci.run(vm, { start(64, nil, nil, 3), poke16(BASE + 0x3000 + 4 * 3, 0) })
    assert.equal(64, vm.memory:u16(USED + 2))
    assert.equal(1024, #d.state.out[2])
  end)

  it("answers later, in any order, once", function()
    local kept = {}
    local vm <close> = machine(echo(function(_, _, b) kept[#kept + 1] = b end))
    for i = 0, 2 do describe_at(vm, i, DATA + i * 16, 16, WRITE) end
    offer(vm, { 0, 1, 2 })
    pci.run(vm, { start(8), NOTIFY })
    assert.equal(0, vm.memory:u16(USED + 2))
    assert.equal(3, #kept)
    for _, i in ipairs{ 3, 1 } do
      assert(kept[i]:write(("x"):rep(i)))
      kept[i]:done()
    end
    assert.same({ 2, 2, 3, 0, 1 }, { vm.memory:u16(USED + 2), vm.memory:u32(USED + 4),
                                     vm.memory:u32(USED + 8), vm.memory:u32(USED + 12),
                                     vm.memory:u32(USED + 16) })
    assert.error_matches(function() kept[1]:done() end,
                         "buffer:done: the buffer of device echo was answered already")
    local done, why = kept[2]:write(("y"):rep(17))
    assert.same({ nil, "17 bytes do not fit: the buffer has room for 16" }, { done, why })
    assert.equal("", kept[2]:read())
  end)

  it("has what is not answered come again after a restore and in a fork, each once", function()
    local kept = {}
    local function def() return echo(function(d, _, b) kept[#kept + 1] = d.vm.name b:write "ok"
      b.device.own.b = b end) end
    local vm <close>, d = machine(def())
    describe_at(vm, 0, DATA, 16, WRITE)
    offer(vm, { 0 })
    pci.run(vm, { start(8), NOTIFY })
    local snap = assert(vm:snapshot())
    local old = d.own.b
    old:done()
    assert.equal(1, vm.memory:u16(USED + 2))
    assert(vm:restore(snap))
    assert.is_true(old:is_stale())
    d.own.b:done()
    assert.equal(1, vm.memory:u16(USED + 2))
    assert(vm:restore(snap))
    local child <close> = assert(vm:fork(function(new) new.pci:attach(def(), { slot = 2 }) end))
    child.pci:devices()[1].own.b:done()
    assert.equal(1, child.memory:u16(USED + 2))
    assert.same({ "vm", "vm", "vm", "vm#1" }, kept)
  end)

  it("stands still for a driver that says what cannot be, and counts it", function()
    local cases = {
      { "queue 0: a size of 0: it is a power of two, at most 8", start(0) },
      { "queue 0: a size of 3: it is a power of two, at most 8", start(3) },
      { "queue 0: a size of 65535: it is a power of two, at most 8", start(65535) },
      { "8 bytes at 0xfeb00000 are not all in RAM", start(8), { 0xfeb00000, 8, 0 } },
      { "a descriptor lies behind its table (9)", start(8), { DATA, 8, NEXT, 9 } },
      { "a buffer has more descriptors than its queue (8)", start(8), { DATA, 8, NEXT, 0 } },
      { "an indirect descriptor was not negotiated (0)", start(8), { DATA, 16, 4 } },
    }
    for _, case in ipairs(cases) do
      local served = 0
      local vm <close>, d = machine(echo(function(_, _, b) served = served + 1 b:done() end))
      describe_at(vm, 0, table.unpack(case[3] or { DATA, 8, 0 }))
      offer(vm, { 0 })
      pci.run(vm, { case[2], NOTIFY, NOTIFY, peek(A, BASE + 0x14) })
      assert.same({ 0, 1, case[1] }, { served, d.state.virtio.errors, d.state.virtio.last_error })
      assert.equal(64, status(vm) & 64)
      describe_at(vm, 0, DATA, 8, 0)
      pci.run(vm, { start(8), NOTIFY, peek(A, BASE + 0x14) })
      assert.equal(15, status(vm))
      assert.is_true(served > 0)
    end
  end)

  local ROM <const>, INDIRECT <const> = 0xd0000000, 1 << 28

  it("stands still for rings that are no memory, and for buffers that wrap", function()
    local cases = {
      { "queue 0: a ring is not all in RAM (8)", { BASE + 0x2000, AVAIL, USED } },
      { "queue 0: a ring is not all in RAM (8)", { DESC, AVAIL, BASE } },
      { "queue 0: a ring is not all in RAM (8)", { DESC, AVAIL, ROM } },
      { "queue 0: a ring is not all in RAM (8)", { DESC, 0xfffffffe, USED } },
      { "queue 0: a ring is not aligned (8)", { DESC, AVAIL + 1, USED } },
      { "16 bytes at 0xfffffffffffffff8 are not all in RAM", nil, { -8, 16, 0 } },
      { "4294967295 bytes at 0x110000 are not all in RAM", nil, { DATA, 0xffffffff, WRITE } },
      { "8 bytes at 0xd0000000 are not all in RAM", nil, { ROM, 8, WRITE } },
      { "an indirect descriptor in an indirect table (0)", nil, { DATA, 16, 4 } },
    }
    for _, case in ipairs(cases) do
      local served = 0
      local vm <close>, d = machine(echo(function(_, _, b) served = served + 1 b:done() end))
      vm.memory:map{ at = ROM, rom = true, bytes = ("\0"):rep(4096) }
      describe_at(vm, 0, table.unpack(case[3] or { DATA, 8, 0 }))
      vm.memory:write(DATA, ("<I8I4I2I2"):pack(DATA, 16, 4, 0)) -- a table in a table
      offer(vm, { 0 })
      assert.equal("halt", (pci.run(vm, { start(8, INDIRECT, case[2]), NOTIFY,
                                          peek(A, BASE + 0x14) })))
      assert.same({ 0, 1, case[1] }, { served, d.state.virtio.errors, d.state.virtio.last_error })
      assert.equal(64, status(vm) & 64)
    end
  end)

  it("serves a driver whose rings lie over each other, which harms that one alone", function()
    local vm <close> = machine(echo(answer, { queues = { 8, 8 } }))
    describe_at(vm, 0, DATA, 16, WRITE)
    offer(vm, { 0 })
    assert.equal("halt", (pci.run(vm, { start(8, 0, { DESC, AVAIL, DESC }), NOTIFY, NOTIFY })))
    assert.equal("halt", (pci.run(vm, { start(8), poke16(BASE + 0x16, 1), poke16(BASE + 0x18, 8),
      poke(BASE + 0x20, DESC), poke(BASE + 0x28, AVAIL), poke(BASE + 0x30, DESC),
      poke16(BASE + 0x1c, 1), NOTIFY, poke16(BASE + 0x3004, 1), NOTIFY })))
  end)

  it("bears a part of no bytes, wherever that is", function()
    local vm <close> = machine(echo(answer))
    describe_at(vm, 0, BASE, 0, NEXT, 1)
    describe_at(vm, 1, DATA, 5, NEXT, 2)
    describe_at(vm, 2, -8, 0, NEXT | WRITE, 3)
    describe_at(vm, 3, DATA + 16, 8, WRITE)
    vm.memory:write(DATA, "hello")
    offer(vm, { 0 })
    assert.equal("halt", (pci.run(vm, { start(8), NOTIFY })))
    assert.equal("HELLO", vm.memory:read(DATA + 16, 5))
  end)

  it("serves no buffer across the hole below 4 GiB", function()
    local vm <close> = pci.vm{ memory = "4G" }
    local d = vm.pci:attach(echo(answer))
    for i, at in ipairs{ 0xbffffffc, 0xfffffffc } do
      describe_at(vm, 0, at, 8, WRITE)
      offer(vm, { 0 })
      pci.run(vm, { start(8), NOTIFY })
      assert.same({ i, ("8 bytes at 0x%x are not all in RAM"):format(at) },
                  { d.state.virtio.errors, d.state.virtio.last_error })
    end
  end)

  it("outlasts what another vCPU does to its rings meanwhile", function()
    local function card() return net.new{ on_frame = function() end } end
    for i, def in ipairs{ echo(answer), card(), card() } do
      local queue = i == 2 and 1 or 0
      local vm <close> = kvm.vm{ mode = "protected", cpus = 2, memory = "4M", irqchip = "pic",
                                 echo = false, limits = { seconds = 20 } }
      local d = vm.pci:attach(def)
      vm.ports:on(0x99, { write = function() -- a frame for the driver's buffers
        if i == 3 then net.send(d, ("frame"):rep(100)) end
      end })
      local features = i == 3 and 1 << 15 or 0 -- which it merges (VIRTIO_NET_F_MRG_RXBUF)
      local round = start(8, features, nil, queue) .. poke16(AVAIL + 2, 1) .. pci.outp(0x99, 1, 1)
        .. poke16(BASE + 0x3000 + 4 * queue, queue)
      assert(vm:load{ bytes = "\xbe" .. ("<I4"):pack(100) .. round .. "\x4e\x0f\x85"
        .. ("<i4"):pack(-#round - 7) .. pci.poke(A, 1) .. pci.HALT })
      -- Random numbers of 20 bits, as addresses behind the code, all over the rings, until A is 1:
      -- again: imul eax, eax, 0x19660d; add eax, 0x3c6ef35f; mov ebx, eax; shr ebx, 18
      -- mov ecx, eax; and ecx, 0xfffff; or ecx, 0x100000; mov [DESC + ebx], ecx
      -- cmp dword [A], 1; jne again; hlt
      assert(vm:load({ bytes = support.bytes "69 c0 0d 66 19 00 05 5f f3 6e 3c 89 c3 c1 eb 12 89 c1"
        .. support.bytes "81 e1 ff ff 0f 00 81 c9 00 00 10 00 89 8b" .. ("<I4"):pack(DESC)
        .. "\x83\x3d" .. ("<I4"):pack(A) .. "\x01\x75\xd3\xf4" }, { at = 0x40000, cpu = 1 }))
      local reason, info = vm:run()
      assert.equal("halt", reason, info.text)
      assert.is_true(d.state.virtio.errors > 0)
    end
  end)

  it("has a state that fits it, or none of that is taken", function()
    local vm <close> = machine(echo(answer, { queues = { 8, 8 }, features = 1 }))
    pci.run(vm, { start(8, 1) })
    local snap = assert(vm:snapshot())
    local function refused(text, def)
      local new, why = snap:vm{ echo = false, setup = function(v) v.pci:attach(def) end }
      assert.is_nil(new)
      assert.matches(text, why, 1, true)
    end
    for n, queues in pairs{ ["1 queue"] = { 8 }, ["3 queues"] = { 8, 8, 8 } } do
      refused("device echo: the state that was saved is not that of a virtio device with " .. n,
              echo(answer, { queues = queues, features = 1 }))
    end
    refused("device echo: its driver uses features that it does not have: 0x1",
            echo(answer, { queues = { 8, 8 } }))
    refused("virtio_spec.lua", echo(answer, { queues = { 8, 8 }, features = 1, load = function()
      error "no" end }))
  end)

  it("takes only features that it has offered", function()
    local vm <close> = machine(echo(answer))
    pci.run(vm, { start(8, 1 << 7), peek(A, BASE + 0x14) })
    assert.equal(0, status(vm) & 8)
  end)

  it("goes on in mid-request without its driver, when that resets it", function()
    local kept
    local vm <close> = machine(echo(function(_, _, b) kept = b end))
    describe_at(vm, 0, DATA, 16, WRITE)
    offer(vm, { 0 })
    pci.run(vm, { start(8), NOTIFY, poke8(BASE + 0x14, 0) })
    assert.is_true(kept:is_stale())
    assert.is_true(kept:write "late")
    kept:done()
    assert.equal(0, vm.memory:u16(USED + 2))
    assert.equal("\0\0\0\0", vm.memory:read(DATA, 4))
  end)

  it("has no more buffers to answer than its queue has entries (2.7.13)", function()
    local vm <close>, d = machine(echo(function() end))
    describe_at(vm, 0, DATA, 16, WRITE)
    offer(vm, { 0, 0, 0, 0, 0, 0, 0, 0 })
    local again = "\x66\xff\x05" .. ("<I4"):pack(AVAIL + 2) -- inc word [AVAIL + 2]
    pci.run(vm, { start(8), again, NOTIFY, again, NOTIFY, peek(A, BASE + 0x14) })
    assert.same({ 8, 1, 64 | 15 }, { #d.state.virtio.open[0], d.state.virtio.errors, status(vm) })
  end)

  it("has one timer for what is left, whatever its driver does", function()
    local armed, last
    local vm <close>, d = machine(echo(function(dev, queue, b)
      armed, last = 0, queue
      for timer in pairs(dev.timers) do armed = armed + (timer.left and 1 or 0) end
      b:done()
    end, { queues = { 8, 8, 8 } }))
    describe_at(vm, 0, DATA, 16, WRITE)
    local parts = { start(1) }
    for i = 1, 2 do
      parts[#parts + 1] = poke16(BASE + 0x16, i) .. poke16(BASE + 0x18, 1)
        .. poke(BASE + 0x20, DESC) .. poke(BASE + 0x28, AVAIL) .. poke(BASE + 0x30, USED)
        .. poke16(BASE + 0x1c, 1)
    end
    pci.run(vm, { table.concat(parts), poke16(AVAIL + 2, 1), poke8(BASE + 0x14, 15) })
    assert.same({ 2, 1, 0 }, { last, armed, d.state.virtio.errors })
  end)

  it("bears a size of a queue that only a script or a snapshot can give it", function()
    local vm <close>, d = machine(echo(answer))
    for i = 0, 2047 do describe_at(vm, i, DATA, 4, NEXT, (i + 1) % 2048) end
    pci.run(vm, { start(8) })
    for _, size in ipairs{ 0, 3, 2048, 65535, 65537, -1 } do
      d.reg.STATUS, d.reg.QUEUE_SIZE[0] = 15, size
      d.state.virtio.broken, d.state.virtio.taken[0] = false, 0
      assert.equal("halt", (pci.run(vm, { poke16(AVAIL + 2, 1), NOTIFY })))
      assert.matches("the size of a queue is a power of two", d.state.virtio.last_error)
    end
  end)

  it("whose Lua raises ends the run, and names the place", function()
    local vm <close> = machine(echo(function() error "no" end))
    describe_at(vm, 0, DATA, 16, WRITE)
    offer(vm, { 0 })
    local reason, info = pci.run(vm, { start(8), NOTIFY })
    assert.equal("error", reason)
    assert.matches("virtio_spec.lua:%d+: no", info.text)
  end)

  it("is refused when it makes no sense", function()
    local function refused(text, def)
      local ok, why = pcall(kvm.virtio, def)
      assert.is_false(ok)
      assert.matches(text, why, 1, true)
    end
    local function fn() end
    refused("it needs 'id', 'queues' and 'on_buffer'", { id = 1 })
    refused("a kind of device is 1 to 63, got 0", { id = 0, queues = 1, on_buffer = fn })
    refused("a size is a power of two, 1 to 1024, got 3", { id = 1, queues = { 3 },
      on_buffer = fn })
    for _, queues in ipairs{ 0, 65, math.maxinteger } do
      refused("expected how many, 1 to 64", { id = 1, queues = queues, on_buffer = fn })
    end
    refused("bits 0 to 23 and 50 to 63 are the device's", { id = 1, queues = 1, on_buffer = fn,
      features = 1 << 28 })
  end)

  it("tells its driver of a new configuration", function()
    local text = "old"
    local vm <close>, d = machine(echo(answer, { config = function() return text end }))
    pci.run(vm, { start(8) })
    text = "new"
    virtio.config_changed(d)
    pci.run(vm, { peek(A, BASE + 0x1000), peek(B, BASE + 0x2000) })
    assert.same({ 2, "new" }, { vm.memory:u8(A), vm.memory:read(B, 3) })
  end)
end)

describe("virtio's entropy device", function()
  if support.without_kvm(pending) then return end

  it("fills buffers with what it is given", function()
    local vm <close> = machine(rng.new{ bytes = function(n) return ("r"):rep(n) end })
    describe_at(vm, 0, DATA, 10, WRITE | NEXT, 1)
    describe_at(vm, 1, DATA + 4096, 6, WRITE)
    offer(vm, { 0 })
    pci.run(vm, { start(8), NOTIFY })
    assert.equal(("r"):rep(10) .. "\0", vm.memory:read(DATA, 11))
    assert.equal(("r"):rep(6), vm.memory:read(DATA + 4096, 6))
    assert.equal(16, vm.memory:u32(USED + 8))
  end)

  it("fills them with random bytes else", function()
    local vm <close> = machine(rng.new())
    describe_at(vm, 0, DATA, 32, WRITE | NEXT, 1)
    describe_at(vm, 1, DATA + 32, 32, WRITE)
    offer(vm, { 0 })
    pci.run(vm, { start(8), NOTIFY })
    local zero <const> = ("\0"):rep(32)
    local a, b = vm.memory:read(DATA, 32), vm.memory:read(DATA + 32, 32)
    assert.is_true(a ~= b and a ~= zero and b ~= zero)
    assert.equal(64, vm.memory:u32(USED + 8))
  end)
end)
