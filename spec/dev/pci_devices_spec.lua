-- The PCI functions of lua/minikvm/devices, as guests of ours see them. Right values: QEMU's
-- published specifications (docs/specs/edu, pvpanic, pci-serial), TI's data sheet of the TL16C550C,
-- Intel's of the 6300ESB (300641, chapter 16). spec/guests/linux_pci_spec.lua has Linux's drivers.

local console = require "minikvm.devices.console"
local edu = require "minikvm.devices.edu"
local i6300esb = require "minikvm.devices.i6300esb"
local pci = require "support.pci"
local pvpanic = require "minikvm.devices.pvpanic"
local serial = require "minikvm.devices.serial"
local support = require "support.guest"
local virtio = require "minikvm.device.virtio"

local BASE <const> = 0xfeb00000
local A <const>, B <const>, C <const> = 0x80000, 0x80004, 0x80008
local CARD <const> = pci.slot(3)

local function read(vm, at) return vm.memory:u32(at) end

describe("edu on PCI", function()
  if support.without_kvm(pending) then return end

  it("is found and driven by the 64-bit driver, on each of the router's lines", function()
    local want = support.read_file "guests/long/edu.expect":match "\n\n(.*)$"
    for slot = 2, 5 do
      local vm <close> = support.vm{ mode = "long", memory = "2M", irqchip = "pic", map_io = BASE }
      local d = vm.pci:attach(edu.pci(), { slot = slot })
      assert(vm:load "guests/long/edu.bin")
      local reason, info = support.run(vm)
      assert.same({ "exit", 0 }, { reason, info.code }, info.text)
      assert.equal(want, vm.console:text())
      assert.equal(11, d.state.errors)
    end
  end)

  it("is what QEMU's is to who looks for it", function()
    local vm <close> = pci.vm()
    vm.pci:attach(edu.pci(), { slot = 3 })
    pci.run(vm, { pci.get(A, CARD, 0), pci.get(B, CARD, 8), pci.set(CARD, 0x10, 0xffffffff),
                  pci.get(C, CARD, 0x10) })
    assert.same({ 0x11e81234, 0x00ff0010, 0xfff00000 }, { read(vm, A), read(vm, B), read(vm, C) })
  end)

  it("moves nothing while it is no bus master", function()
    local vm <close> = pci.vm()
    local why
    vm.pci:attach(edu.pci{ delay = 0, on_error = function(_, text) why = text end },
                  { slot = 3, at = { [0] = BASE } })
    pci.run(vm, { pci.poke(BASE + 0x88, 0x40000), pci.poke(BASE + 0x90, 4), pci.poke(BASE + 0x98,
      1),
                  "\xa1\x98\x00\xb0\xfe\xa8\x01\x75\xf7" }) -- until bit 0 of COMMAND is 0
    assert.equal("device edu: the guest has not made it a bus master (command register, bit 2)",
      why)
  end)
end)

describe("pvpanic", function()
  if support.without_kvm(pending) then return end

  it("ends the run with a reason of its own", function()
    local vm <close> = pci.vm()
    local d = vm.pci:attach(pvpanic.new(), { slot = 3, at = { [0] = BASE } })
    local reason, info = pci.run(vm, { pci.peek(A, BASE), pci.poke(BASE, 2), "\xb0\1\xa2",
                                       ("<I4"):pack(BASE), pci.poke(B, 1) })
    assert.same({ "panic", "the guest's kernel has panicked (pvpanic)" }, { reason, info.text })
    assert.same({ 7, 0, 3 }, { vm.memory:u8(A), read(vm, B), d.state.events })
    assert.error_matches(function() vm:run() end, "panic")
    assert(vm:reset())
    assert.equal("panic", (vm:run()))
  end)

  it("tells a script instead", function()
    local vm <close> = pci.vm()
    local events = {}
    vm.pci:attach(pvpanic.new{ on_event = function(_, event) events[#events + 1] = event end },
                  { slot = 3, at = { [0] = BASE } })
    assert.equal("halt", (pci.run(vm, { pci.poke(BASE, 1), pci.poke(BASE, 6), pci.poke(BASE,
      0x80) })))
    assert.same({ 1, 6 }, events)
  end)
end)

describe("the PCI serial card", function()
  if support.without_kvm(pending) then return end

  it("sends, receives, and says why it interrupts", function()
    local vm <close> = pci.vm()
    local sent = {}
    local d = vm.pci:attach(serial.new{ on_output = function(_, byte) sent[#sent + 1] = byte end },
                            { slot = 3, at = { [0] = 0xc000 } })
    local function reg(n, value) return pci.outp(0xc000 + n, value, 1) end
    local IRR <const> = "\xb0\x0a\xe6\x20\xe4\x20\x0f\xb6\xc0\xa3" .. ("<I4"):pack(C)
    pci.run(vm, { reg(3, 0x80), reg(0, 1), reg(1, 2), pci.inp(A, 0xc001, 1), reg(3, 3),
      -- divisor 0x201
                  reg(4, 10), reg(1, 2), pci.inp(B, 0xc002, 1), reg(0, 0x41), IRR })
    assert.same({ 2, 2, 0x20 }, { read(vm, A), read(vm, B), read(vm, C) & 0x20 })
    assert.same({ 0x41 }, sent)
    assert.equal(0x201, d.state.divisor)
    pci.run(vm, { pci.inp(A, 0xc002, 1), pci.inp(B, 0xc002, 1), reg(1, 1), IRR })
    assert.same({ 2, 1, 0 }, { read(vm, A), read(vm, B), read(vm, C) & 0x20 })
    serial.send(d, "xy")
    pci.run(vm, { IRR, pci.inp(A, 0xc005, 1), pci.inp(B, 0xc000, 1), pci.inp(B + 8, 0xc000, 1),
                  pci.inp(B + 12, 0xc005, 1) })
    assert.same({ 0x20, 0x61, 0x78, 0x79, 0x60 },
                { read(vm, C) & 0x20, read(vm, A), read(vm, B), read(vm, B + 8), read(vm, B + 12) })
  end)

  it("has each byte once when its FIFO is switched off, which clears it", function()
    local vm <close> = pci.vm()
    local d = vm.pci:attach(serial.new(), { slot = 3, at = { [0] = 0xc000 } })
    local function reg(n, value) return pci.outp(0xc000 + n, value, 1) end
    pci.run(vm, { reg(2, 1), reg(4, 2) })
    serial.send(d, ("lost"):rep(4) .. "ABC")
    pci.run(vm, { reg(2, 0), pci.inp(A, 0xc000, 1), pci.inp(B, 0xc000, 1), pci.inp(C, 0xc000, 1),
                  pci.inp(C + 8, 0xc005, 1) })
    assert.equal("ABC\x60", vm.memory:read(A, 1) .. vm.memory:read(B, 1) .. vm.memory:read(C, 1)
      .. vm.memory:read(C + 8, 1))
  end)

  it("receives in order what was sent at several times, also after a restore", function()
    local vm <close> = pci.vm()
    local d = vm.pci:attach(serial.new(), { slot = 3, at = { [0] = 0xc000 } })
    local text = {}
    for i = 1, 60 do text[i] = string.char(0x20 + i) end
    text = table.concat(text)
    local function received(n)
      local list, bytes = {}, {}
      for i = 1, n do list[i] = pci.inp(A + 4 * i, 0xc000, 1) end
      pci.run(vm, list)
      for i = 1, n do bytes[i] = vm.memory:read(A + 4 * i, 1) end
      return table.concat(bytes)
    end
    pci.run(vm, { pci.outp(0xc002, 1, 1), pci.outp(0xc004, 2, 1) })
    serial.send(d, text:sub(1, 40))
    assert.equal(text:sub(1, 20), received(20))
    serial.send(d, text:sub(41))
    local snap = vm:snapshot()
    for _ = 1, 2 do
      assert.equal(text:sub(21) .. "\0", received(41))
      vm:restore(snap)
    end
  end)
end)

describe("what a script sends", function()
  if support.without_kvm(pending) then return end

  it("goes to a device that can take it, or the script's line is blamed", function()
    local vm <close> = pci.vm()
    local card = vm.pci:attach(edu.pci())
    for name, send in pairs{ ["serial.send"] = serial.send, ["console.send"] = console.send,
                             ["virtio.config_changed"] = virtio.config_changed } do
      for _, d in ipairs{ card, {}, "x", 1 } do
        local ok, why = pcall(function() send(d, "text") end)
        assert.is_false(ok)
        assert.matches("^[^\n]*pci_devices_spec.lua:%d+: " .. name:gsub("%p", "%%%0") .. "[: ]",
                       why)
      end
    end
    assert.error_matches(function() card:ram_read(7, 0, 1) end,
                         "device:ram_read: device edu has no BAR 7")
    assert.error_matches(function() card:ram_read(0, 0, -1) end,
                         "device:ram_read: .length.: expected 0 or more")
  end)
end)

describe("the 6300ESB's watchdog", function()
  if support.without_kvm(pending) then return end

  local UNLOCK <const> = pci.poke(BASE + 12, 0x80) .. pci.poke(BASE + 12, 0x86)
  -- 1 MHz by preload 0x100 << 5: 8192 of 33 MHz a stage, 0.25 ms
  local SHORT <const> = pci.set(CARD, 0x60, 7, 2) .. UNLOCK .. pci.poke(BASE, 0x100) .. UNLOCK
    .. pci.poke(BASE + 4, 0x100)
  local FOR_EVER <const> = "\xeb\xfe"

  it("bites who does not come back, and ends the run", function()
    local vm <close> = pci.vm()
    local d = vm.pci:attach(i6300esb.new(), { slot = 3, at = { [0] = BASE } })
    local reason, info = pci.run(vm, { SHORT, pci.set(CARD, 0x68, 2, 1), FOR_EVER })
    assert.same({ "shutdown", "reset by the watchdog (i6300esb)" }, { reason, info.text })
    assert.is_true(d.state.bitten)
  end)

  it("leaves who comes back alone, and takes nothing that is not unlocked", function()
    local vm <close> = pci.vm()
    local d = vm.pci:attach(i6300esb.new(), { slot = 3, at = { [0] = BASE } })
    assert.equal("halt", (pci.run(vm, {
      pci.poke(BASE, 5), pci.poke(BASE + 12, 0x86), pci.poke(BASE + 12, 0x80), pci.poke(BASE, 5),
      pci.peek(A, BASE), UNLOCK, pci.poke(BASE, 0x123456), pci.peek(B, BASE), pci.poke(BASE, 5),
      pci.set(CARD, 0x68, 3, 1), pci.set(CARD, 0x68, 0, 1), pci.get(C, CARD, 0x68),
      UNLOCK, pci.poke(BASE + 12, 0x100) })))
    assert.same({ 0xfffff, 0x23456, 3 }, { read(vm, A), read(vm, B), read(vm, C) })
    assert.same({ 1, false }, { d.state.stage, d.state.bitten })
    local snap = assert(vm:snapshot())
    assert(vm:restore(snap)) -- its timer is one by name
    d:cancel "stage"
  end)

  it("interrupts at the end of its first stage, if it is told to", function()
    local vm <close> = pci.vm()
    local bitten
    local d = vm.pci:attach(i6300esb.new{ on_bite = function(self) bitten = true self.vm:exit(3) end
      },
                            { slot = 3, at = { [0] = BASE } })
    local reason, info = pci.run(vm, { SHORT, pci.set(CARD, 0x60, 4, 2), pci.set(CARD, 0x68, 2, 1),
                                       FOR_EVER })
    assert.same({ "exit", 3, true, true }, { reason, info.code, bitten, d.state.interrupt })
  end)
end)
