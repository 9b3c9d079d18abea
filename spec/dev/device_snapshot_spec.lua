-- Devices in Lua, latches and fifos in snapshots: what they hold goes back, and into files.

local kvm = require "minikvm"
local support = require "support.guest"

local out, into, program, run = support.out, support.into, support.program, support.run

local function counter(more)
  local def = { name = "counter", registers = { [0] = "CTRL", "DATA" },
                reset = function(d) d.state.reads = 0 end,
                read = { DATA = function(d)
                  d.state.reads = d.state.reads + 1
                  return d.state.reads
                end } }
  for key, value in pairs(more or {}) do def[key] = value end
  return kvm.device(def)
end

---Reads DATA into 0x1000 after every HLT.
local function guest(opts)
  return program({ out(0x300, 7), into(0x1000, 0x301), "\xf4", into(0x1000, 0x301) }, opts)
end

describe("a snapshot", function()
  if support.without_kvm(pending) then return end

  it("has the state and the registers of devices in Lua", function()
    local vm <close> = guest()
    local d = vm:attach(counter(), { ports = 0x300 })
    run(vm)
    local snap = vm:snapshot()
    for _ = 1, 3 do
      run(vm)
      assert.same({ 2, 2, 7 }, { vm.memory:u8(0x1000), d.state.reads, d.reg.CTRL })
      d.state.reads, d.reg.CTRL, d.state.more = 50, 0, true
      vm:restore(snap)
      assert.same({ 1, 7 }, { d.state.reads, d.reg.CTRL })
      assert.is_nil(d.state.more)
    end
  end)

  it("uses what the device's own save and load make of it", function()
    local vm <close> = guest()
    local d = vm:attach(counter{
      save = function(self) return { "reads", self.state.reads * 10 } end,
      load = function(self, value) self.state = { reads = value[2] // 10, loaded = value[1] } end,
    }, { ports = 0x300 })
    run(vm)
    local snap = vm:snapshot()
    run(vm)
    vm:restore(snap)
    assert.same({ reads = 1, loaded = "reads" }, d.state)
  end)

  it("goes into forks and files, whose VMs get devices of the same names", function()
    local vm <close> = guest()
    vm:attach(counter(), { ports = 0x300 })
    vm.ports:latch(0x80, 5)
    run(vm)
    local function setup(child)
      child:attach(counter(), { ports = 0x300 })
      child.ports:latch(0x80)
    end
    local child <close> = vm:fork(setup)
    run(child)
    assert.equal(2, child.memory:u8(0x1000))
    local path = os.tmpname()
    assert(vm:snapshot():save(path))
    local snap = assert(kvm.load_snapshot(path))
    os.remove(path)
    local again <close> = snap:vm{ echo = false, setup = setup }
    run(again)
    assert.equal(2, again.memory:u8(0x1000))
    local ok, why = pcall(snap.vm, snap, { echo = false })
    assert.is_false(ok)
    assert.matches('the vm lacks "counter" %(ports 0x300%); attach them in setup', why)
  end)

  it("keeps an interrupt line that is up", function()
    local vm <close> = support.vm{ irqchip = "pic" }
    vm:load{ bytes = "\xf4" }
    local def = kvm.device{ name = "bell", irq = true, registers = { [0] = "X" } }
    local a = vm:attach(def, { ports = 0x300, irq = 5 })
    local b = vm:attach(def, { ports = 0x301, irq = 5, name = "other" })
    a:raise()
    local snap = vm:snapshot()
    a:lower()
    vm:restore(snap)
    b:raise()
    b:lower() -- a still holds the line
    vm.ports:on(0x80, { read = function() return 0 end })
    -- OCW3: read the IRR; in al, 0x20; mov [0x1000], al
    vm.memory:write(0x8000, support.bytes "b0 0a e6 20 e4 20 a2 00 10 f4")
    vm.cpu[0].rip = 0x8000
    run(vm)
    assert.equal(0x20, vm.memory:u8(0x1000) & 0x20)
  end)

  it("has what latches and fifos hold", function()
    local vm <close> = program{ out(0x80, 0x44, 1), out(0x81, 0x41), "\xf4", out(0x80, 1),
                                out(0x81, 0x42), out(0x81, 0x0a) }
    local latch = vm.ports:latch(0x80)
    local records = {}
    local fifo = vm.ports:fifo(0x81, { on = "\n" }, function(r) records[#records + 1] = r end)
    run(vm)
    local snap = vm:snapshot()
    for i = 1, 3 do
      assert.equal(0x44, latch:get())
      run(vm)
      assert.equal("AB", records[i])
      assert.equal(1, latch:get())
      vm:restore(snap)
    end
    assert.equal("A", fifo:take())
    latch:remove() -- hooks are the script's: what is not there any more is not missed
    vm:restore(snap)
    assert.equal("A", fifo:take())
  end)

  it("refuses what cannot be copied, naming the device and the place", function()
    local vm <close> = guest()
    local d = vm:attach(counter(), { ports = 0x300 })
    d.state.nested = { fn = print }
    local ok, why = pcall(vm.snapshot, vm)
    assert.is_false(ok)
    assert.matches('device "counter".*nested.*fn', why)
    d.state.nested = nil
    assert(vm:snapshot())
  end)

  it("refuses a state that contains itself, is too deep, or too much", function()
    local vm <close> = guest()
    local d = vm:attach(counter(), { ports = 0x300 })
    local loop, deep, twice = {}, {}, {}
    loop.loop = loop
    for _ = 1, 200000 do deep = { deep } end
    for _ = 1, 60 do twice = { twice, twice } end
    for value, why in pairs{ [loop] = "a table that contains itself",
                             [deep] = "more than 100 tables", [twice] = "larger than 64 MiB" } do
      d.state.nested = value
      assert.error_matches(function() vm:snapshot() end,
        '^vm:snapshot: device "counter".*nested.*' .. why)
    end
  end)

  -- Such as a file may have them.
  it("refuses states that are none, and changes nothing", function()
    local vm <close> = guest()
    local d = vm:attach(counter(), { ports = 0x300 })
    local place = d.place
    run(vm)
    for key, value in pairs{ place = {}, reg = 7 } do
      d[key] = value
      local snap = vm:snapshot()
      d.place, d.state.reads = place, 9
      assert.error_matches(function() vm:restore(snap) end,
                           "vm:restore: the states of its devices are damaged")
      assert.equal(9, d.state.reads)
      vm:reset()
    end
  end)

  it("that a device does not take leaves a VM that says so and runs after the next", function()
    local vm <close> = guest()
    local broken = true
    vm:attach(counter{
      save = function() return 5 end,
      load = function(_, value) if broken then local _ = value.field.of.nothing end end,
    }, { ports = 0x300 })
    local snap = vm:snapshot()
    local restored, why, code = vm:restore(snap)
    assert.is_nil(restored)
    assert.equal("EINVAL", code)
    assert.matches("restoring its devices: .*device_snapshot_spec.lua:%d+", why)
    local ok = pcall(run, vm)
    assert.is_false(ok)
    broken = false
    assert(vm:restore(snap))
    assert.equal("halt", (run(vm)))
  end)

  it("fits devices of the same names at the same places, in any order", function()
    local vm <close> = guest()
    local a = vm:attach(counter(), { ports = 0x300 })
    local snap = vm:snapshot()
    local b = vm:attach(counter{ name = "other" }, { ports = 0x310 })
    local function refused(text)
      local ok, why = pcall(vm.restore, vm, snap)
      assert.is_false(ok)
      assert.matches("devices were added or removed: " .. text, why)
    end
    refused 'it has none of "other" %(ports 0x310%)'
    a:detach()
    refused 'the vm lacks "counter" %(ports 0x300%); it has none of "other" %(ports 0x310%)'
    vm:attach(counter(), { ports = 0x300 })
    local both = vm:snapshot()
    b:detach()
    assert(vm:restore(snap))
    vm.ports:on(0x320, { read = function() return 0 end })
    vm:attach(counter{ name = "other" }, { ports = 0x310 })
    assert(vm:restore(both))
  end)
end)
