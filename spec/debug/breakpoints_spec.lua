-- breakpoints_spec.lua - breakpoints: a guest stops before the instruction there, and goes on from
-- it as if nothing had been.

local guest = require "spec.support.guest"
local process = require "support.process"

-- Counts EAX up to 5; each turn begins at LOOP. `inc eax` has a prefix in real mode.
local WIDE <const> = "b905000000 ffc0 ffc9 75fa f4"   -- mov ecx, 5; inc eax; dec ecx; jnz -6; hlt
local REAL <const> = "66b905000000 66ffc0 66ffc9 75f8 f4"
local MODES <const> = { "real", "protected", "paged", "long" }

local function counter(mode, opts)
  opts = opts or {}
  opts.mode = mode
  local vm = guest.code(mode == "real" and REAL or WIDE, opts)
  return vm, vm.cpu[0].rip + (mode == "real" and 6 or 5)
end

describe("breakpoints, without_kvm none:", function()
  if guest.without_kvm(pending) then return end

  for _, mode in ipairs(MODES) do
    it(mode .. " mode: a breakpoint calls its function before each turn of a loop", function()
      local vm <close>, at = counter(mode)
      local seen = {}
      local handle = vm:break_at(at, function(cpu, h)
        assert.are.equal(at, cpu.rip)
        assert.are.equal(#seen + 1, h.hits)
        seen[#seen + 1] = cpu.rax
      end)
      assert.are.equal("halt", (guest.run(vm)))
      assert.are.same({ 0, 1, 2, 3, 4 }, seen)
      assert.are.equal(5, handle.hits)
      assert.are.equal(5, vm.cpu[0].rax)
    end)

    it(mode .. " mode: a stop is a pause, and memory is the guest's own", function()
      local vm <close>, at = counter(mode)
      local before = vm.memory:read(vm.cpu[0]:translate(at), 8)
      local handle = vm:break_at(at)
      for turn = 1, 5 do
        local reason, info = guest.run(vm)
        assert.are.equal("break", reason)
        assert.are.equal(handle, info.stop.handle)
        assert.are.equal("break", info.stop.kind)
        assert.are.equal(at, info.stop.address)
        assert.are.equal(vm.cpu[0], info.stop.cpu)
        assert.are.equal(turn - 1, vm.cpu[0].rax)
        assert.are.equal(before, vm.memory:read(vm.cpu[0]:translate(at), 8))
      end
      assert.are.equal("halt", (guest.run(vm)))
    end)

    it(mode .. " mode: steps", function()
      local vm <close>, at = counter(mode)
      local turn = mode == "real" and { 0, 3, 6 } or { 0, 2, 4 }
      assert.are.equal("break", (vm:run{ until_pc = at, deadline = 20 }))
      for i = 1, 7 do
        assert.are.equal(at + turn[(i - 1) % 3 + 1], vm.cpu[0].rip)
        local reason, info = vm.cpu[0]:step()
        assert.are.equal("break", reason)
        assert.are.equal("step", info.stop.kind)
      end
      assert.are.equal(3, vm.cpu[0].rax)
      assert.are.equal("halt", (vm.cpu[0]:step(1000)))
      assert.are.equal(5, vm.cpu[0].rax)
    end)
  end

  it("once, after and condition", function()
    local vm <close>, at = counter "protected"
    local calls = {}
    local function note(name)
      return function(cpu) calls[#calls + 1] = name .. cpu.rax end
    end
    vm:break_at(at, { fn = note "once", once = true })
    vm:break_at(at, { fn = note "after", after = 3 })
    vm:break_at(at, { fn = note "odd", condition = function(cpu) return cpu.rax % 2 == 1 end,
                      once = true })
    vm:break_at(at, { fn = note "other", cpu = 0, condition = function() return false end })
    guest.run(vm)
    table.sort(calls)
    assert.are.same({ "after3", "after4", "odd1", "once0" }, calls)
  end)

  it("a breakpoint may remove itself and others from its function", function()
    local vm <close>, at = counter "long"
    local first, second
    first = vm:break_at(at, function()
      first:remove()
      second:remove()
    end)
    second = vm:break_at(at, function() end)
    local third = vm:break_at(at, function() end)
    assert.are.equal("halt", (guest.run(vm)))
    assert.are.equal(1, first.hits)
    assert.is_true(second.hits <= 1)
    assert.are.equal(5, third.hits)
  end)

  it("the guest's own HLT is its own, with a breakpoint on it and beside it", function()
    local vm <close> = guest.code("40 f4", { mode = "protected" }) -- inc eax; hlt
    local at = vm.cpu[0].rip
    local on, behind = vm:break_at(at + 1, function() end), vm:break_at(at, function() end)
    local reason, info = guest.run(vm)
    assert.are.equal("halt", reason)
    assert.are.equal(at + 2, vm.cpu[0].rip)
    assert.are.same({ 1, 1 }, { on.hits, behind.hits })
    assert.are.equal(1, info.by.hlt)
  end)

  it("a snapshot taken at a stop has no patch, and VMs made from it go on from there", function()
    local vm <close>, at = counter "long"
    local handle = vm:break_at(at)
    guest.run(vm)
    guest.run(vm)
    local snap = vm:snapshot()
    local fork <close> = assert(snap:vm{ echo = false })
    assert.are.equal("halt", (guest.run(fork)))
    assert.are.equal(5, fork.cpu[0].rax)
    for _ = 1, 2 do
      assert.are.equal("break", (guest.run(vm)))
      assert.are.equal(2, vm.cpu[0].rax)
      assert(vm:restore(snap))
    end
    handle:remove()
    assert.are.equal("halt", (guest.run(vm)))
  end)

  it("a breakpoint that is set and removed while its VM runs", function()
    local vm <close> = guest.code("ebfe", { mode = "protected" }) -- jmp $
    local at = vm.cpu[0].rip
    vm:start{ deadline = 20 }
    local handle = vm:break_at(at)
    local stop = assert(vm:wait_break(20))
    assert.are.equal(handle, stop.handle)
    assert.are.equal("paused", vm.state)
    assert.are.equal("\xeb\xfe", vm.memory:read(at, 2))
    local reason, info = vm.cpu[0]:step()
    assert.are.equal("break", reason)
    assert.are.equal("step", info.stop.kind)
    handle:remove()
    vm:resume()
    assert.are.equal("running", vm.state)
    assert.are.equal("stopped", (vm:stop()))
  end)

  it("nothing is left when the last one is gone: as without any", function()
    local function counts(vm)
      local reason, info = guest.run(vm)
      assert.are.equal("halt", reason)
      return { info.entries, info.exits, info.by.io, info.by.debug or 0 }
    end
    local code <const> = "b914000000 e680 ffc9 75fa f4" -- mov ecx, 20; out 0x80, al; dec; jnz; hlt
    local plain <close> = guest.code(code, { mode = "protected" })
    local vm <close> = guest.code(code, { mode = "protected" })
    vm:break_at(vm.cpu[0].rip):remove()
    vm:watch(0x3000, 4):remove()
    assert.are.same(counts(plain), counts(vm))
  end)

  it("several vCPUs: each comes to it, and executes the instruction once", function()
    -- mov ecx, 20; lock inc dword [0x5000]; dec ecx; jnz -11; hlt
    local code <const> = "b914000000 f0ff0500500000 ffc9 75f5 f4"
    local function machine()
      return guest.code(code, { mode = "protected", cpus = 4 })
    end
    local vm <close> = machine()
    local of = { [0] = 0, 0, 0, 0 }
    vm:break_at(0x1005, function(cpu) of[cpu.index] = of[cpu.index] + 1 end)
    assert.are.equal("halt", (guest.run(vm)))
    assert.are.same({ [0] = 20, 20, 20, 20 }, of)
    assert.are.equal(80, vm.memory:u32(0x5000))

    local stopped <close> = machine()
    local stops, second = 0, stopped:break_at(0x1005, { cpu = 2 })
    local reason, info = guest.run(stopped)
    while reason == "break" do
      stops = stops + 1
      assert.are.equal(2, info.stop.cpu.index)
      reason, info = guest.run(stopped)
    end
    assert.are.equal("halt", reason)
    assert.are.same({ 20, 20, 80 }, { stops, second.hits, stopped.memory:u32(0x5000) })
  end)

  it("stops of several vCPUs are told one after the other", function()
    local vm <close> = guest.code("b903000000 f0ff0500500000 ffc9 75f5 f4",
                                  { mode = "protected", cpus = 3 })
    vm:break_at(0x1005)
    local of, reason, info = { [0] = 0, 0, 0 }
    repeat
      reason, info = guest.run(vm)
      if info.stop then of[info.stop.cpu.index] = of[info.stop.cpu.index] + 1 end
    until reason ~= "break"
    assert.are.same({ "halt", { [0] = 3, 3, 3 } }, { reason, of })
    assert.are.equal(9, vm.memory:u32(0x5000))
  end)

  it("programs of ring 3, in 64 bits", function()
    local vm <close> = guest.guest("long/ring3", { mode = "long" })
    local at = vm.memory:find "\x48\x8d\x04\x3f\xc3" -- lea rax, [rdi + rdi]; ret
    local handle = vm:break_at(at, function(cpu)
      assert.are.equal(3, cpu:sregs().cs.selector & 3)
      return cpu.rdi == 50
    end)
    assert.are.equal("break", (guest.run(vm)))
    assert.are.equal("break", (vm.cpu[0]:step()))
    assert.are.same({ at + 4, 100 }, { vm.cpu[0].rip, vm.cpu[0].rax })
    assert.are.equal("exit", (guest.run(vm)))
    assert.are.equal(100, handle.hits)
  end)

  it("programs of ring 3, in 32 bits and without a handler of #GP", function()
    local vm <close> = guest.guest("prot/ring3", { mode = "paged" })
    local at = 0x80000000 + vm.memory:find "\xba\xcd\xab\0\0" -- mov edx, 0xabcd
    vm:break_at(at)
    local reason = guest.run(vm)
    if reason == "shutdown" and process.emulated then
      pending "the emulated AMD machine loses the registers there"
      return
    end
    assert.are.equal("break", reason)
    assert.are.equal(3, vm.cpu[0]:sregs().cs.selector & 3)
    for _ = 1, 8 do assert.are.equal("break", (vm.cpu[0]:step())) end
    reason = guest.run(vm)
    assert.are.same({ "exit", 7 }, { reason, select(2, vm:wait()).code })
  end)
end)
