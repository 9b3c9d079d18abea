-- PCI functions in Lua (kvm.pci, vm.pci), used by a guest through configuration mechanism 1 and
-- BARs. What registers of the bus hold: PCI Local Bus Specification 3.0, chapter 6;
-- spec/c/test_pci.c has the bus itself.

local kvm = require "minikvm"
local support = require "support.guest"
local pci = require "support.pci"

local BASE <const>, OTHER <const> = 0xfeb00000, 0xc0000000
local A <const>, B <const>, C <const> = 0x80000, 0x80004, 0x80008
  -- where guests keep what they read
local CARD <const> = pci.slot(3)

local function adder(more)
  local def = { name = "adder", vendor = 0x1234, device = 0x5678, class = 0xff0000,
                bars = { [0] = { registers = { [0] = "A", [4] = "B", [8] = "SUM" }, width = 4,
                                 read = { SUM = function(d) return d.reg.A + d.reg.B & 0xffffffff
                                   end } } } }
  for key, value in pairs(more or {}) do def[key] = value end
  return kvm.pci(def)
end

local function read(vm, at) return vm.memory:u32(at) end

describe("a PCI function in Lua", function()
  if support.without_kvm(pending) then return end

  it("is found, placed and used by its guest", function()
    local vm <close> = pci.vm()
    local d = vm.pci:attach(adder(), { slot = 3 })
    assert.equal("halt", (pci.run(vm, {
      pci.get(A, CARD, 0), pci.set(CARD, 0x10, 0xffffffff), pci.get(B, CARD, 0x10),
      pci.place(CARD, 0, BASE), pci.poke(BASE, 40), pci.poke(BASE + 4, 2), pci.peek(C, BASE + 8),
    })))
    assert.same({ 0x56781234, 0xfffffff0, 42 }, { read(vm, A), read(vm, B), read(vm, C) })
    assert.same({ 40, 2, BASE, 3 }, { d.reg.A, d.reg.B, d:bar(0), d.slot })
  end)

  it("has everything in a BAR move with it", function()
    local vm <close> = pci.vm()
    local rung, records = 0, {}
    local d = vm.pci:attach(kvm.pci{ name = "card", vendor = 1, device = 1, bars = {
      [0] = { size = 4096 }, [1] = { ram = 8192 } } }, { slot = 3 })
    local w = d.bars[0]
    w:on(0, 4, { read = function(at, size) return 0x100 * size + at end })
    w:const(4, 4, 0x44)
    local latch = w:latch(8, 4)
    w:sink(12, 4)
    w:fifo(16, 4, { size = 4 }, function(r) records[#records + 1] = r end)
    w:doorbell(20, 4, function(count) rung = rung + count end)
    local function round(at, ram)
      return pci.peek(A, at) .. pci.peek(B, at + 4) .. pci.poke(at + 8, at) .. pci.poke(at + 12, 1)
        .. pci.poke(at + 16, 0x41424344) .. pci.poke(at + 20, 7) .. pci.poke(ram + 4096, at)
    end
    local function check(at, n)
      vm.clock:after(0.001, function() end)
      assert.same({ 0x400, 0x44, at, n }, { read(vm, A), read(vm, B), latch:get(8, 4), #records })
    end
    pci.run(vm, { pci.set(CARD, 0x14, 0xd0000000), pci.place(CARD, 0, BASE), round(BASE,
      0xd0000000),
                  pci.HALT })
    check(BASE, 1)
    pci.run(vm, { pci.set(CARD, 0x14, 0xe0000000), pci.place(CARD, 0, OTHER),
                  pci.peek(C, 0xe0001000), round(OTHER, 0xe0000000), pci.peek(B + 8, BASE) })
    check(OTHER, 2)
    assert.equal(BASE, read(vm, C)) -- RAM came along
    assert.equal(0xffffffff, read(vm, B + 8)) -- and nothing stayed
    assert.equal(2, rung)
    pci.run(vm, { pci.set(CARD, 4, 0, 2), pci.poke(OTHER + 8, 1), pci.peek(A, OTHER) })
    assert.same({ 0xffffffff, OTHER }, { read(vm, A), latch:get(8, 4) })
  end)

  it("has RAM without exits where KVM can map it, and with them elsewhere", function()
    if support.host.host == "pvm" then
      pending "a weak KVM's 32-bit guests have memory slots of their own"
      return
    end
    local vm <close> = pci.vm()
    vm.pci:attach(kvm.pci{ vendor = 1, device = 1, bars = { [0] = { ram = "1M" } } }, { slot = 3 })
    local _, before = pci.run(vm, { pci.place(CARD, 0, BASE) })
    local _, after = pci.run(vm, { pci.place(CARD, 0, BASE), pci.poke(BASE, 5), pci.peek(A, BASE),
                                   pci.poke(BASE + 0xffffc, 5) })
    assert.equal(2 * before.exits, after.exits) -- they are counted on
  end)

  it("reads and writes that RAM itself, and in long mode it costs no exits here either", function()
    local vm <close> = support.vm{ mode = "long", memory = "2M", irqchip = "pic", map_io = BASE }
    local d = vm.pci:attach(kvm.pci{ name = "video", vendor = 1, device = 1, bars = {
      [0] = { ram = { at = 4096, size = 8192 }, registers = { [0] = "X" } } } },
      { slot = 3, at = { [0] = BASE } })
    d:ram_write(0, 4100, "abcd")
    -- mov eax, [BASE + 4100]; mov [BASE + 8192], eax; 1000 times; hlt
    local access = ("<BI8BI8"):pack(0xa1, BASE + 4100, 0xa3, BASE + 8192)
    assert(vm:load{ bytes = ("<BI4"):pack(0xb9, 1000) .. access .. "\xff\xc9\x75\xea\xf4" })
    local reason, info = support.run(vm)
    assert.same({ "halt", 1 }, { reason, info.exits })
    assert.equal("abcd\0", d:ram_read(0, 8192, 5))
    assert(vm:reset())
    assert.equal("\0\0\0\0", d:ram_read(0, 8192, 4))
    assert.error_matches(function() d:ram_read(0, 0, 4) end,
                         "pci: video: 4 bytes at 0x0 of BAR 0 are not all in its RAM")
    assert.error_matches(function() d:ram_write(1, 0, "") end, "pci: video: BAR 1 has no RAM")
  end)

  it("leaves RAM, and the ports of the PC, to those who have them", function()
    local vm <close> = pci.vm()
    vm.pci:attach(kvm.pci{ vendor = 1, device = 1, bars = {
      [0] = { registers = { [0] = "X" }, width = 4, read = function() return 1 end },
      [1] = { io = true, size = 256, read = function() return 1 end },
      [2] = { ram = 4096 } } }, { slot = 3 })
    assert.equal("halt", (pci.run(vm, {
      pci.poke(0x90000, 77), pci.set(CARD, 0x18, 0x90000), pci.place(CARD, 0, 0x90000), pci.peek(A,
        0x90000),
      pci.poke(0x90000, 78),
      pci.set(CARD, 0x14, 0xc00), pci.get(B, CARD, 0) })))
    assert.same({ 77, 78, 0x00010001 }, { read(vm, A), read(vm, 0x90000), read(vm, B) })
  end)

  it("has banked registers", function()
    local vm <close> = pci.vm()
    local seen = {}
    local d = vm.pci:attach(kvm.pci{ vendor = 1, device = 1, bars = { [0] = {
      registers = { [0] = { name = "SELECT", width = 2 },
                    [4] = { name = "SIZE", width = 4, bank = "SELECT", banks = 3, reset = 9 } },
      write = { SIZE = function(_, name, value, _, bank) seen[#seen + 1] = name .. bank .. "="
        .. value end },
    } } }, { slot = 3 })
    pci.run(vm, { pci.place(CARD, 0, BASE), pci.poke(BASE, 1), pci.poke(BASE + 4, 5), pci.peek(A,
      BASE + 4),
                  pci.poke(BASE, 2), pci.peek(B, BASE + 4), pci.poke(BASE, 3), pci.poke(BASE + 4,
                    6),
                  pci.peek(C, BASE + 4) })
    assert.same({ 5, 9, 0 }, { read(vm, A), read(vm, B), read(vm, C) })
    assert.same({ "SIZE1=5" }, seen)
    assert.same({ [0] = 9, 5, 9 }, d.reg.SIZE)
  end)

  it("has registers of its own in configuration space, and capabilities", function()
    local vm <close> = pci.vm()
    local d = vm.pci:attach(adder{
      config = { registers = { [0x60] = { name = "MODE", width = 1 }, [0x62] = { name = "KEY",
        width = 2 } },
                 read = { KEY = function(self) return self.reg.MODE * 2 end } },
      capabilities = { { id = 9, bytes = "\5\6", writable = "\0\255" }, "msi" },
    }, { slot = 3 })
    pci.run(vm, { pci.set(CARD, 0x60, 0x21, 1), pci.get(A, CARD, 0x60), pci.get(B, CARD, 0x34),
                  pci.set(CARD, 0x40, 0xffffffff), pci.get(C, CARD, 0x40), pci.get(C + 4, CARD,
                    0x44) })
    assert.equal(0x21, d.reg.MODE)
    assert.same({ 0x00420021, 0x40, 0xff054409, 0x00800005 },
                { read(vm, A), read(vm, B), read(vm, C), read(vm, C + 4) })
  end)

  it("has the interrupts of a guest that enables MSI or MSI-X lost, or pending", function()
    local vm <close> = pci.vm()
    local function attach(to)
      return to.pci:attach(kvm.pci{ vendor = 1, device = 1, irq = true,
        bars = { [0] = { size = 4096 } },
        capabilities = { "msi", { vectors = 3, bar = 0, at = 0x800 } } }, { slot = 3 })
    end
    local d = attach(vm)
    local function interrupt()
      d:raise()
      d:lower()
      return vm.pci:lost()
    end
    local function run(...) assert.equal("halt", (pci.run(...))) end
    local TABLE <const>, PENDING <const> = BASE + 0x800, BASE + 0x830
    run(vm, { pci.place(CARD, 0, BASE), pci.get(A, CARD, 0x54), pci.get(B, CARD, 0x58),
                  pci.get(C, CARD, 0x50), pci.set(CARD, 0x42, 1, 2) })
    assert.same({ 0x800, 0x830, 0x00020011 }, { read(vm, A), read(vm, B), read(vm, C) })
    assert.equal(1, interrupt())
    run(vm, { pci.peek(A, TABLE + 12), pci.poke(TABLE, 0xfee01000), pci.poke(TABLE + 16, 7),
              pci.poke(PENDING, 0xff), pci.set(CARD, 0x42, 0, 2), pci.set(CARD, 0x52, 0x8000, 2) })
    assert.equal(1, read(vm, A)) -- each vector is masked at first
    assert.equal(1, interrupt())
    local child <close> = assert(vm:fork(attach))
    run(vm, { pci.peek(A, PENDING), pci.peek(B, TABLE), pci.peek(C, TABLE + 16),
                  pci.poke(TABLE + 12, 0), pci.set(CARD, 0x52, 0xc000, 2) })
    assert.same({ 1, 0xfee01000, 7 }, { read(vm, A), read(vm, B), read(vm, C) })
    assert.equal(1, interrupt()) -- all are masked
    run(vm, { pci.set(CARD, 0x52, 0x8000, 2) })
    assert.equal(2, interrupt())
    run(child, { pci.peek(A, PENDING), pci.peek(B, TABLE), pci.peek(C, TABLE + 12) })
    assert.same({ 1, 0xfee01000, 1 }, { read(child, A), read(child, B), read(child, C) })
    assert(vm:reset())
    run(vm, { pci.place(CARD, 0, BASE), pci.peek(A, PENDING), pci.peek(B, TABLE),
                  pci.peek(C, TABLE + 12) })
    assert.same({ 0, 0, 1 }, { read(vm, A), read(vm, B), read(vm, C) })
  end)

  it("reads and writes memory once the guest makes it a bus master, and answers a bad address",
    function()
    local vm <close> = pci.vm()
    local said = {}
    local d = vm.pci:attach(adder{ bars = { [0] = { registers = { [0] = "GO" }, width = 4,
      write = { GO = function(self, _, at)
        local ok, why = self:dma_write(at, "abcd")
        said[#said + 1] = why or tostring(ok)
        said[#said + 1] = self:dma_read(at, 4) or "?"
      end } } } }, { slot = 3 })
    assert.equal("halt", (pci.run(vm, {
      pci.set(CARD, 0x10, BASE), pci.set(CARD, 4, 2, 2), pci.poke(BASE, A), pci.set(CARD, 4, 6, 2),
      pci.poke(BASE, A), pci.poke(BASE, 0xfffffffe) })))
    assert.same({ "device adder: the guest has not made it a bus master (command register, bit 2)",
      "?",
                  "true", "abcd", "device adder: DMA of 4 bytes to 0xfffffffe is not all in RAM",
                    "?" },
                said)
    assert.is_nil((d:dma_read(0, -1)))
    assert.is_nil((d:dma_read(-1, 1 << 40)))
  end)

  it("raises a line that its guest routes", function()
    local vm <close> = pci.vm()
    local d = vm.pci:attach(adder{ irq = true, bars = { [0] = { registers = { [0] = "GO" },
      width = 4,
      write = { GO = function(self, _, value) if value > 0 then self:raise() else self:lower() end
        end },
    } } }, { slot = 3 })
    local IRR <const> = "\xb0\x0a\xe6\x20\xe4\x20\x0f\xb6\xc0" -- OCW3; in al, 0x20; movzx eax, al
    local function irr(to) return IRR .. string.pack("<BI4", 0xa3, to) end
    assert.equal(5, d:line())
    pci.run(vm, { pci.place(CARD, 0, BASE), pci.poke(BASE, 1), irr(A), pci.set(pci.slot(1), 0x62, 7,
      1),
                  irr(B), pci.poke(BASE, 0), irr(C) })
    assert.same({ 0x20, 0x80, 0 }, { read(vm, A) & 0xa0, read(vm, B) & 0xa0, read(vm, C) & 0xa0 })
    assert.equal(7, d:line())
  end)

  it("comes and goes, in any order, also under a guest that uses it", function()
    local vm <close> = pci.vm()
    local def = adder()
    local d
    vm.ports:on(0x99, { write = function(_, value)
      if value == 1 then d:detach() else d = vm.pci:attach(def, { slot = 3 }) end
    end })
    d = vm.pci:attach(def, { slot = 3 })
    local first = d
    pci.run(vm, { pci.place(CARD, 0, BASE), pci.poke(BASE, 3), pci.outp(0x99, 1, 1), pci.peek(A,
      BASE),
                  pci.get(B, CARD, 0), pci.outp(0x99, 2, 1), pci.peek(C, BASE), pci.place(CARD, 0,
                    BASE),
                  pci.peek(C + 4, BASE) })
    assert.same({ 0xffffffff, 0xffffffff, 0xffffffff, 0 },
                { read(vm, A), read(vm, B), read(vm, C), read(vm, C + 4) })
    assert.error_matches(function() first.bars[0]:latch(0, 4) end, "its device is detached")
    assert.same({ d }, vm.pci:devices())
    for _ = 1, 1000 do
      d:detach()
      d = vm.pci:attach(def)
    end
    assert.equal(2, d.slot)
  end)

  it("has a BAR with doorbells moved at will, to where others are", function()
    local vm <close> = pci.vm()
    local rung = { 0, 0 }
    for i = 1, 2 do
      local d = vm.pci:attach(kvm.pci{ name = "card " .. i, vendor = 1, device = i,
        bars = { [0] = { size = 4096 } } }, { slot = i + 2 })
      for at = 0, 60, 4 do
        d.bars[0]:doorbell(at, 4, function(count) rung[i] = rung[i] + count end)
      end
    end
    local round = pci.set(CARD, 0x10, BASE) .. pci.poke(BASE, 1) .. pci.set(CARD, 0x10, OTHER)
      .. pci.poke(BASE, 1) .. pci.poke(OTHER, 1)
    assert.equal("halt", (pci.run(vm, { pci.place(pci.slot(4), 0, BASE), pci.place(CARD, 0, OTHER),
      "\xbe" .. ("<I4"):pack(500), round, "\x4e\x0f\x85" .. ("<i4"):pack(-#round - 7) })))
    assert.equal(1500, rung[1] + rung[2]) -- of two at one place either may answer
  end)

  it("may have its BAR moved by one vCPU while another one uses it", function()
    local vm <close> = kvm.vm{ cpus = 2, echo = false, limits = { seconds = 20 } }
    vm.pci:attach(kvm.pci{ vendor = 1, device = 1, bars = { [0] = { io = true, size = 4,
      read = function() return 0x5a end } } }, { slot = 3 })
    local out, bytes = support.out, support.bytes
    -- 2000 times: BAR 0 to 0xc000, and to 0xd000
    assert(vm:load{ bytes = out(0xcf8, CARD | 4, 4) .. out(0xcfc, 1, 2) .. out(0xcf8, CARD | 0x10,
      4)
      .. bytes "b9 d0 07" .. out(0xcfc, 0xc000, 4) .. out(0xcfc, 0xd000,
        4) .. bytes "49 75 e7 f4" })
    -- 2000 times: in al, 0xc000; what is neither the register nor nobody's ends with code 1
    assert(vm:load({ bytes = bytes "b9 d0 07 ba 00 c0 ec 3c 5a 74 0a 3c ff 74 06 b0 01 ba f4 00 ee"
                       .. bytes "49 75 ea f4" },
                   { cpu = 1 }))
    assert.equal("halt", (vm:run()))
  end)
end)

describe("a BAR of memory that one vCPU moves while another one uses it", function()
  if support.without_kvm(pending) then return end

  it("answers there, or nobody does", function()
    local vm <close> = kvm.vm{ mode = "protected", cpus = 2, memory = "2M", irqchip = "pic",
                               echo = false, limits = { seconds = 20 } }
    local sizes = {} -- of reads: each is answered whole, or not at all
    local d = vm.pci:attach(kvm.pci{ vendor = 1, device = 1, bars = { [0] = { size = 4096,
      read = function(_, _, size)
        sizes[size] = true
        return 0x5a5a5a5a & (1 << 8 * size) - 1
      end } } }, { slot = 3 })
    local moves = pci.set(CARD, 0x10, OTHER) .. pci.set(CARD, 0x10, BASE)
    assert(vm:load{ bytes = pci.place(CARD, 0, BASE) .. "\xbe" .. ("<I4"):pack(1000) .. moves
      .. "\x4e\x0f\x85" .. ("<i4"):pack(-#moves - 7) .. pci.poke(A, 1) .. pci.HALT })
    -- again: mov eax, [BASE]; cmp eax, -1; je on; cmp eax, 0x5a5a5a5a; je on; mov [B], eax
    -- on: cmp dword [A], 1; jne again; hlt
    assert(vm:load({ bytes = "\xa1" .. ("<I4"):pack(BASE)
      .. "\x83\xf8\xff\x74\x0c\x3d\x5a\x5a\x5a\x5a\x74\x05\xa3" .. ("<I4"):pack(B)
      .. "\x83\x3d" .. ("<I4"):pack(A) .. "\x01\x75\xe1\xf4" }, { at = 0x40000, cpu = 1 }))
    assert.equal("halt", (vm:run()))
    assert.same({ 0, BASE }, { read(vm, B), d:bar(0) })
    sizes[4] = nil
    assert.same({}, sizes)
  end)
end)

describe("a BAR that is moved without end while an access of another vCPU is served", function()
  if support.without_kvm(pending) then return end

  it("is nowhere in the end, and comes back when that is over", function()
    local vm <close> = pci.vm{ cpus = 2 }
    local d = vm.pci:attach(kvm.pci{ vendor = 1, device = 1, bars = { [0] = { size = 4096,
      read = function() return 7 end } } }, { slot = 3 })
    local where = {}
    for i = 0, 299 do vm.mmio:const(0xfe000000 + i * 0x1000, 4, 0) end -- as much as a move costs
    vm.mmio:on(0xfed00000, 4, { read = function()
      where[1] = d:bar(0)
      vm.memory:u32(A, 1)
      while vm.memory:u32(A) ~= 2 do kvm.sleep(0.001) end
      where[2] = d:bar(0) or "nowhere"
      return 0
    end })
    -- again: cmp dword [at], value; jne again
    local function wait(at, value)
      return "\x83\x3d" .. ("<I4B"):pack(at, value) .. "\x75\xf7"
    end
    local moves = pci.set(CARD, 0x10, OTHER) .. pci.set(CARD, 0x10, BASE)
    assert(vm:load{ bytes = pci.place(CARD, 0, BASE) .. pci.poke(B, 1) .. wait(A, 1) .. "\xbe"
      .. ("<I4"):pack(2000) .. moves .. "\x4e\x0f\x85" .. ("<i4"):pack(-#moves - 7)
      .. pci.peek(C, BASE) .. pci.poke(A, 2) .. wait(B, 2) .. pci.place(CARD, 0, OTHER)
      .. pci.peek(C + 4, OTHER) .. pci.HALT })
    assert(vm:load({ bytes = wait(B, 1) .. pci.peek(C + 8, 0xfed00000) .. pci.poke(B, 2)
      .. pci.HALT }, { at = 0x40000, cpu = 1 }))
    assert.equal("halt", (vm:run()))
    assert.same({ BASE, "nowhere" }, where)
    assert.same({ 0xffffffff, 7 }, { read(vm, C), read(vm, C + 4) })
  end)
end)

describe("a PCI function in a snapshot", function()
  if support.without_kvm(pending) then return end

  local function machine(setup)
    local vm = pci.vm()
    return vm, setup(vm)
  end

  local function setup(vm)
    local d = vm.pci:attach(adder(), { slot = 3 })
    d.bars[0]:latch(12, 4)
    vm.pci:attach(kvm.pci{ name = "ram", vendor = 1, device = 2, bars = { [0] = { ram = 8192 } } })
    return d
  end

  local USE <const> = pci.place(CARD, 0, BASE) .. pci.place(pci.slot(2), 0, OTHER) .. pci.poke(BASE,
    1)
    .. pci.poke(BASE + 12, 0x12) .. pci.poke(OTHER + 4096, 0x34) .. pci.HALT
  local LOOK <const> = pci.peek(A, BASE) .. pci.peek(B, BASE + 12) .. pci.peek(C,
    OTHER + 4096) .. pci.HALT
    .. pci.poke(BASE, 9) .. pci.poke(BASE + 12, 9) .. pci.poke(OTHER + 4096, 9) .. pci.HALT

  local function look(vm)
    assert.equal("halt", (vm:run()))
    assert.same({ 1, 0x12, 0x34 }, { read(vm, A), read(vm, B), read(vm, C) })
    vm:run()
  end

  it("is where it was, with what it held: after a restore, in forks and in files", function()
    local vm <close>, d = machine(setup)
    pci.run(vm, { USE, LOOK })
    local snap = assert(vm:snapshot())
    look(vm)
    assert.equal(9, d.reg.A)
    d.bars[0]:latch(8, 4)
    assert(vm:restore(snap))
    look(vm)
    assert(vm:restore(snap))
    local child <close> = assert(vm:fork(setup))
    look(child)
    local path = os.tmpname()
    assert(snap:save(path))
    local from_file <close> = assert(assert(kvm.load_snapshot(path)):vm{ echo = false,
      setup = setup })
    os.remove(path)
    look(from_file)
  end)

  it("does not mind the order in which functions were attached, and names those that are missing",
    function()
    local vm <close> = machine(setup)
    pci.run(vm, { USE, LOOK })
    local snap = assert(vm:snapshot())
    local other <close> = assert(snap:vm{ echo = false, setup = function(new)
      new.pci:attach(kvm.pci{ name = "ram", vendor = 1, device = 2,
        bars = { [0] = { ram = 8192 } } },
                     { slot = 2 })
      new.pci:attach(adder(), { slot = 3 }).bars[0]:latch(12, 4)
    end })
    look(other)
    local function refused(text, fn)
      local ok, why = pcall(snap.vm, snap, { echo = false, setup = fn })
      assert.is_false(ok)
      assert.matches(text, why, 1, true)
    end
    refused('the vm lacks "ram" (slot 2.0)', function(new) new.pci:attach(adder(),
      { slot = 3 }) end)
    refused('the vm lacks "adder" (slot 3.0), "ram" (slot 2.0); it has none of "adder" (slot 5.0)',
            function(new) new.pci:attach(adder(), { slot = 5 }) end)
  end)

  it("goes with a reset", function()
    local vm <close>, d = machine(setup)
    pci.run(vm, { USE })
    assert.equal(BASE, d:bar(0))
    assert(vm:reset())
    assert.is_nil(d:bar(0))
    vm:run()
    assert.equal(BASE, d:bar(0))
  end)
end)

describe("timers by name", function()
  if support.without_kvm(pending) then return end

  local function ticker(fired)
    return kvm.device{ name = "ticker", registers = { [0] = "GO" },
      timers = { tick = function(d) fired[#fired + 1] = d.vm.name .. " " .. d.reg.GO end },
      write = { GO = function(d, _, value)
        if value == 1 then d:after(0.05, "tick") else d:every(0.02, "tick") end
      end } }
  end

  it("belong to snapshots with the time that is left", function()
    local fired = {}
    local vm <close> = support.program({ support.out(0x300, 1), "\xf4\xfb\xf4" },
      { irqchip = "pic" })
    vm:attach(ticker(fired), { ports = 0x300 })
    local began = vm.clock.now
    support.run(vm)
    local left = 0.05 - (vm.clock.now - began) -- at the least: it was armed meanwhile
    local snap = assert(vm:snapshot())
    support.run(vm)
    assert.same({ "vm 1" }, fired)
    assert(vm:restore(snap))
    support.run(vm)
    assert.same({ "vm 1", "vm 1" }, fired)
    assert(vm:restore(snap))
    local child <close> = assert(vm:fork(function(new) new:attach(ticker(fired),
      { ports = 0x300 }) end))
    local before = child.clock.now
    support.run(child)
    assert.same({ "vm 1", "vm 1", "vm#1 1" }, fired)
    assert.is_true(child.clock.now - before >= left)
    local path <const> = os.tmpname()
    assert(snap:save(path))
    local from_file <close> = assert(assert(kvm.load_snapshot(path)):vm{ name = "file",
      setup = function(new) new:attach(ticker(fired), { ports = 0x300 }) end })
    os.remove(path)
    before = from_file.clock.now
    support.run(from_file)
    assert.equal("file 1", fired[4])
    assert.is_true(from_file.clock.now - before >= left)
  end)

  it("are refused where nobody has such a function, by name", function()
    local vm <close> = support.vm()
    local def = kvm.device{ name = "t", timers = { tick = function() end } }
    local d = vm:attach(def)
    assert.error_matches(function() d:after(1, "tock") end,
                         'device:after: device t has no timer "tock" %(did you mean "tick"%?%)')
    assert.error_matches(function() kvm.device{ timers = { tick = 1 } } end,
                         "option 'timers': tick: expected a function, got a number")
    d:after(10, "tick")
    vm:load{ bytes = "\xf4" }
    local snap = assert(vm:snapshot())
    d:replace(kvm.device{ name = "t" })
    assert.error_matches(function() vm:restore(snap) end,
                         'device "t" has no timer "tick", which was armed')
  end)
end)

describe("device:replace", function()
  if support.without_kvm(pending) then return end

  it("puts other code in place, with state, registers and timers", function()
    local vm <close> = pci.vm()
    local d = vm.pci:attach(adder{ timers = { tick = function() end } }, { slot = 3 })
    d.state.kept = true
    d:after(10, "tick")
    pci.run(vm, { pci.place(CARD, 0, BASE), pci.poke(BASE, 5), pci.poke(BASE + 4, 6), pci.HALT,
                  pci.peek(A, BASE + 8), pci.peek(B, BASE + 12) })
    local same, dropped = d:replace(adder{ bars = { [0] = {
      registers = { [0] = "A", [8] = "PRODUCT", [12] = { name = "NEW", reset = 3 } }, width = 4,
      read = { PRODUCT = function(self) return self.reg.A * 10 end } } },
      replaced = function(self) self.state.replaced = true end })
    assert.equal(d, same)
    assert.same({ "register B is gone, it had 0x6", "register SUM is gone, it had 0x0",
                  "timer tick was armed and is gone" }, dropped)
    assert.same({ kept = true, replaced = true }, d.state)
    vm:run()
    assert.same({ 50, 3 }, { read(vm, A), read(vm, B) })
    assert.error_matches(function() return d.reg.B end, "there is no register of device adder 'B'")
  end)

  it("does so while the guest runs", function()
    local vm <close> = pci.vm()
    local function def(code)
      return kvm.pci{ vendor = 1, device = 1, bars = { [0] = { registers = { [0] = "X" }, width = 4,
        read = { X = function() return code end } } } }
    end
    local d = vm.pci:attach(def(0), { slot = 3 })
    -- mov eax, [BASE]; test eax, eax; jz back: until it reads something else
    pci.load(vm, { pci.place(CARD, 0, BASE),
                   "\xa1\x00\x00\xb0\xfe\x85\xc0\x74\xf7\xa3\x00\x00\x08\x00" })
    vm:start()
    while d:hits() < 10 do kvm.sleep(0.001) end
    d:replace(def(7))
    assert.equal("halt", (vm:wait(20)))
    assert.equal(7, read(vm, A))
  end)

  it("refuses what does not fit its place, and changes nothing", function()
    local vm <close> = pci.vm()
    local d = vm.pci:attach(adder(), { slot = 3 })
    local function refused(text, def)
      local ok, why = pcall(d.replace, d, def)
      assert.is_false(ok)
      assert.matches(text, why, 1, true)
      assert.equal("adder", d.definition.name)
    end
    refused("device:replace: device adder: its device is 0x1, not 0x5678: detach it and attach"
              .. " the new one",
            adder{ device = 1 })
    refused("BAR 0 has 0x1000 bytes, not 0x10", adder{ bars = { [0] = { size = 4096 } } })
    refused("BAR 0 is not there any more", adder{ bars = {} })
    refused("BAR 1 is new", adder{ bars = { [0] = { size = 16 }, [1] = { size = 16 } } })
    refused("it interrupts, and has no line", adder{ irq = true })
    refused("its capabilities are others", adder{ capabilities = { "msi" } })
    refused("it was made by kvm.pci, the new one by kvm.device", kvm.device{})
    refused("expected a device made by", {})
    local plain = vm:attach(kvm.device{ name = "p", registers = { [0] = "X" } }, { ports = 0x300 })
    assert.error_matches(function() plain:replace(kvm.device{ registers = { [0] = "X", "Y" } }) end,
                         "it takes 2 bytes, not 1")
  end)
end)

describe("misuse of kvm.pci and vm.pci", function()
  local function refused(text, fn, ...)
    local ok, why = pcall(fn, ...)
    assert.is_false(ok)
    assert.matches(text, why, 1, true)
    assert.matches("^spec/dev/pci_spec.lua:%d+: ", why)
  end

  local function define(more)
    return function()
      local def = { vendor = 1, device = 1 }
      for key, value in pairs(more) do def[key] = value end
      return kvm.pci(def)
    end
  end

  it("is refused where a function is described", function()
    refused("kvm.pci: it needs 'vendor' and 'device'", function() kvm.pci{} end)
    refused("kvm.pci: option 'vendor': expected an integer of 0x0 to 0xfffe, got 65535",
      define{ vendor = 0xffff })
    refused("kvm.pci: unknown option 'bar' (did you mean 'bars'?)", define{ bar = {} })
    refused("kvm.pci: bars: [6]: a BAR is 0 to 5", define{ bars = { [6] = {} } })
    refused("kvm.pci: bars[0]: say its 'size': it has handlers and no registers",
            define{ bars = { [0] = { read = function() end } } })
    refused("register X is there twice", define{ bars = { [0] = { registers = { [0] = "X" } },
                                                          [1] = { registers = { [0] = "X" } } } })
    for _, ram in ipairs{ { size = (1 << 62) + 4096 }, { at = math.maxinteger, size = 4096 } } do
      refused("expected bytes, 1099511627776 at the most",
              define{ bars = { [0] = { ram = ram } } })
    end
    refused("register X lies over its RAM", define{ bars = { [0] = { registers = { [4096] = "X" },
                                                                     ram = { at = 4096,
                                                                       size = 4096 } } } })
    refused("register X lies over its RAM", define{ bars = { [0] = { registers = { [0] = "X" },
                                                                     ram = { at = -4096,
                                                                       size = 4096 } } } })
    refused("kvm.pci: config: register X: those of 1, 2 or 4 bytes from 0x40",
            define{ config = { registers = { [0x10] = "X" } } })
    refused("kvm.pci: capabilities: msi is there twice", define{ capabilities = { "msi", "msi" } })
    refused("kvm.pci: capabilities[1]: 'writable' has a byte for each of 'bytes'",
            define{ capabilities = { { id = 9, bytes = "ab", writable = "" } } })
    refused("register Y: there is no register X to select its bank", function()
      kvm.device{ registers = { [0] = { name = "Y", bank = "X", banks = 2 } } }
    end)
    refused("'banks' is 1 to 65536", function()
      kvm.device{ registers = { [0] = "X", { name = "Y", bank = "X", banks = 0 } } }
    end)
  end)

  it("leaves nothing behind of what cannot be attached", function()
    local vm <close> = support.vm{ irqchip = "pic" }
    local def = kvm.pci{ vendor = 1, device = 1,
                         bars = { [0] = { width = 4, registers = { [0] = "X" } } } }
    vm.pci:attach(def, { slot = 5 })
    local function held()
      for _ = 1, 500 do
        refused("slot 5, function 0 is taken", function() vm.pci:attach(def, { slot = 5 }) end)
      end
      collectgarbage()
      collectgarbage()
      return collectgarbage "count"
    end
    local before = held()
    assert.is_true(held() - before < 256, "KiB") -- what is left of each would be two
  end)

  it("is refused where it is attached", function()
    if support.without_kvm(pending) then return end
    local vm <close> = support.vm()
    local bus = vm.pci
    local function attach(def, opts) return function() bus:attach(kvm.pci(def), opts) end end
    refused("vm.pci:attach: expected a device made by kvm.pci{...}",
      function() bus:attach(kvm.device{}) end)
    refused("device device is a PCI function: vm.pci:attach()", function()
      vm:attach(kvm.pci{ vendor = 1, device = 1 })
    end)
    refused("pci: irq interrupts, and the VM has no interrupt lines: create it with irqchip ="
              .. " \"pic\"",
            attach({ name = "irq", vendor = 1, device = 1, irq = true }))
    assert.is_false(bus:enabled())
    refused("BAR 0 of 0x18 bytes: a size is a power of two, 0x10 to 0x80000000",
            attach{ vendor = 1, device = 1, bars = { [0] = { size = 24 } } })
    refused("pci: device: BAR 0 of 0x200 bytes: a size is a power of two, 0x4 to 0x100",
            attach{ vendor = 1, device = 1, bars = { [0] = { io = true, size = 512 } } })
    refused("BAR 5: there are 0 to 5, and a 64-bit one takes two",
            attach{ vendor = 1, device = 1, bars = { [5] = { wide = true, size = 16 } } })
    refused("pci: device: capability 0x9 of 202 bytes does not fit: configuration space has 192 "
              .. "bytes for all of them",
            attach{ vendor = 1, device = 1, capabilities = { "msi",
              { id = 9, bytes = ("x"):rep(200) } } })
    for _, m in ipairs{ { vectors = 300, at = 0 }, { vectors = 1, at = 4 },
                        { vectors = 1, at = -8 }, { vectors = 1, bar = 1 },
                        { vectors = 1, bar = 2 } } do
      refused("lies inside a BAR of memory at a multiple of 8",
              attach{ vendor = 1, device = 1, capabilities = { m },
                      bars = { [0] = { size = 4096 }, [1] = { size = 64, io = true } } })
    end
    refused("BAR 1 is taken: a 64-bit one takes the next, too",
            attach{ vendor = 1, device = 1, bars = { [0] = { size = 16, wide = true },
              [1] = { size = 16 } } })
    refused("BAR 0 at 0xfeb00008: it is a multiple of its size",
            attach({ vendor = 1, device = 1, bars = { [0] = { size = 16 } } },
              { at = { [0] = 0xfeb00008 } }))
    refused("BAR 0 at 0x100000000: it has to end below 0xffffffff",
            attach({ vendor = 1, device = 1, bars = { [0] = { size = 16 } } },
              { at = { [0] = 1 << 32 } }))
    refused("BAR 0 at 0xfffffffffffffff0: it has to end below 0x10000",
            attach({ vendor = 1, device = 1, bars = { [0] = { size = 16, io = true } } },
              { at = { [0] = -16 } }))
    refused("at[1]: expected addresses by the numbers of its BARs",
            attach({ vendor = 1, device = 1 }, { at = { 5 } }))
    refused("'slot': expected an integer of 0x1 to 0x1f, got 32", attach({ vendor = 1, device = 1 },
      { slot = 32 }))
    bus:attach(kvm.pci{ name = "one", vendor = 1, device = 1 }, { slot = 3 })
    refused("pci: two: slot 3, function 0 is taken by one",
            attach({ name = "two", vendor = 1, device = 1 }, { slot = 3 }))
    refused("call attach with ':'", function() bus.attach() end)
    local other <close> = support.vm()
    other.ports:on(0xcfc, { read = function() return 0 end })
    refused("pci: port 0xcfc belongs to a Lua handler", function()
      other.pci:attach(kvm.pci{ vendor = 1, device = 1 })
    end)
  end)

  it("is refused in a BAR's window", function()
    if support.without_kvm(pending) then return end
    local vm <close> = support.vm()
    local d = vm.pci:attach(kvm.pci{ vendor = 1, device = 1, bars = { [0] = { size = 16 },
      [1] = { ram = 4096 } } })
    refused("the window has 0x10 bytes", function() d.bars[0]:latch(8, 16) end)
    refused("belongs to RAM of the BAR", function() d.bars[1]:on(0, 4, { read = print }) end)
    refused("device device has no BAR 3", function() d:bar(3) end)
    assert.equal(16, d.bars[0].size)
  end)
end)
