-- Interrupts: asked for by vector, by lines of the PIC, by the timer, the UART and the keyboard;
-- HLT, which waits for them; and the script's own timers, vm.clock.

local kvm = require "minikvm"
local core = require "minikvm.core"
local process = require "support.process"
local support = require "support.guest"

local run, took, out = support.run, process.took, support.out
local bytes = support.bytes

local STI <const>, CLI <const>, NOP <const>, HLT <const> = "\xfb", "\xfa", "\x90", "\xf4"
local REST <const> = STI .. HLT .. "\xeb\xfd" -- sti; hlt; jmp to the hlt: takes all that comes

-- ---- vectors, in each mode ----

local COUNT_16 <const> = "2e ff 06 f0 01 cf"     -- inc word cs:[0x1f0]; iret
local COUNT_32 <const> = "ff 05 f0 31 00 00 cf"  -- inc dword ptr [0x31f0]; iretd

---What differs between modes: where a handler lies, how a vector gets to it, what it counts in.
local MODES <const> = {
  real = {
    count = function(vm) return vm.memory:u16(0x101f0) end,
    set = function(vm, vector, listing, slot)
      local offset = 0x200 + (slot or 0) * 0x40
      vm.memory:write(0x10000 + offset, bytes(listing or COUNT_16))
      vm.memory:write(vector * 4, ("<I2I2"):pack(offset, 0x1000))
    end,
    load = { at = 0x10000 },
  },
  protected = {
    count = function(vm) return vm.memory:u32(0x31f0) end,
    set = function(vm, vector, listing, slot)
      local offset = 0x3200 + (slot or 0) * 0x40
      vm.memory:write(offset, bytes(listing or COUNT_32))
      vm.memory:write(0x600 + vector * 8, ("<I2I2I2I2"):pack(offset, 0x08, 0x8e00, 0))
    end,
  },
}
MODES.paged = MODES.protected

---A VM whose guest is this machine code, which has to be the same in all modes.
local function guest(mode, code, opts)
  local o = { mode = mode }
  for key, value in pairs(opts or {}) do o[key] = value end
  local vm = support.vm(o)
  assert(vm:load({ bytes = code }, MODES[mode].load))
  return vm, MODES[mode]
end

for name in pairs(MODES) do
  describe("cpu:interrupt in mode " .. name, function()
    if support.without_kvm(pending) then return end

    it("calls the vector's handler when interrupts are on", function()
      local vm <close>, mode = guest(name, REST)
      mode.set(vm, 0x20)
      vm.cpu[0]:interrupt(0x20)
      local reason, info = run(vm)
      assert.same({ "halt", 1 }, { reason, mode.count(vm) }, info.text)
      assert.matches("interrupts on", info.text)
    end)

    it("waits while they are off", function()
      local vm <close>, mode = guest(name, "\xe6\x80" .. HLT .. REST) -- out 0x80, al; hlt
      mode.set(vm, 0x20)
      vm.ports:on(0x80, { write = function() vm.cpu[0]:interrupt(0x20) end })
      local _, info = run(vm)
      assert.matches("interrupts off", info.text)
      assert.equal(0, mode.count(vm))
      run(vm) -- goes on behind the HLT
      assert.equal(1, mode.count(vm))
    end)

    it("delivers every vector, and each once though it is asked for twice", function()
      local vm <close>, mode = guest(name, REST)
      for vector = 0x20, 0xff do
        mode.set(vm, vector)
        vm.cpu[0]:interrupt(vector)
        vm.cpu[0]:interrupt(vector)
      end
      assert.equal("halt", (run(vm)))
      assert.equal(0xe0, mode.count(vm))
    end)

    it("takes the lowest vector first, and none inside a handler", function()
      local vm <close>, mode = guest(name, REST)
      for i, vector in ipairs{ 0xfe, 0x21, 0x80, 0x40, 0x3f } do
        -- mov al, 'A' + i; out 0xe9, al; nop; nop; or al, 0x20; out 0xe9, al; iret
        mode.set(vm, vector, ("b0 %02x e6 e9 90 90 0c 20 e6 e9 cf"):format(0x40 + i), i)
        vm.cpu[0]:interrupt(vector)
      end
      run(vm)
      assert.equal("BbEeDdCcAa", (vm.console:text()))
    end)

    it("wakes a halted guest from a timer of the script", function()
      local vm <close>, mode = guest(name, STI .. HLT .. CLI .. HLT)
      mode.set(vm, 0x77)
      vm.clock:after(0.02, function() vm.cpu[0]:interrupt(0x77) end)
      local reason, info = run(vm)
      assert.same({ "halt", 1 }, { reason, mode.count(vm) })
      assert.matches("interrupts off", info.text)
    end)

    it("is forgotten by a reset", function()
      local vm <close>, mode = guest(name, REST)
      vm.cpu[0]:interrupt(0x20)
      vm.cpu[0]:nmi()
      vm:reset()
      mode.set(vm, 0x20)
      mode.set(vm, 2)
      run(vm)
      assert.equal(0, mode.count(vm))
    end)

    it("cpu:nmi comes through though interrupts are off, and wakes from HLT", function()
      local vm <close>, mode = guest(name, "\xe6\x80" .. NOP .. HLT .. "\xeb\xfd")
      mode.set(vm, 2)
      vm.ports:on(0x80, { write = function() vm.cpu[0]:nmi() end })
      run(vm)
      assert.equal(1, mode.count(vm))
      vm.cpu[0]:nmi()
      run(vm)
      assert.equal(2, mode.count(vm))
    end)
  end)
end

-- What the vCPU's own thread raises is offered at the entry that comes anyway. Without that each
-- interrupt would cost a KVM_RUN that only returns; a tick of the host's costs one now and then.
describe("an interrupt raised in a handler", function()
  if support.without_kvm(pending) then return end

  local raise = {
    ["cpu:interrupt"] = function(vm) vm.cpu[0]:interrupt(0x20) end,
    ["cpu:nmi"] = function(vm) vm.cpu[0]:nmi() end,
    ["vm:irq"] = function(vm) vm:irq(0) end,
  }
  for name, fn in pairs(raise) do
    it("costs no entry: " .. name, function()
      -- mov cx, 200; sti; out 0x80, al; loop
      local AGAIN <const> = "\xb9\xc8\x00\xfb\xe6\x80\xe2\xfc"
      local vm <close>, mode = guest("real", support.bytes [[
        b0 11 e6 20  b0 20 e6 21  b0 04 e6 21  b0 03 e6 21  b0 00 e6 21  ; 8259A: vector 0x20, AEOI
        ]] .. AGAIN .. CLI .. HLT, { irqchip = "pic" })
      mode.set(vm, 0x20)
      mode.set(vm, 2)
      vm.ports:on(0x80, { write = function() fn(vm) end })
      local reason, info = run(vm)
      assert.same({ "halt", 200 }, { reason, mode.count(vm) }, info.text)
      local windows = info.by.irq_window or 0
      assert.equal(206, info.exits - windows)
      assert.is_true(windows <= 1, windows .. " exits for interrupt windows")
      assert.is_true(info.entries - info.exits < 100, info.entries .. " entries")
    end)
  end
end)

-- A KVM that emulates looks once in 1,024 instructions (docs/hosts.md, "Short interrupt windows").
describe("an interrupt that waits", function()
  if support.without_kvm(pending) then return end

  for name, code in pairs{
    ["1,100 instructions"] = STI .. NOP:rep(1100) .. CLI .. HLT,
    ["a HLT"] = STI .. HLT .. CLI .. HLT,
    ["an exit"] = STI .. NOP .. "\xe6\x80" .. CLI .. HLT,                  -- out 0x80, al
    ["many short windows"] = STI .. NOP .. CLI .. "\xf6\x06\xf0\x01\xff" -- test byte [0x1f0], 0xff
      .. "\x74\xf6" .. HLT,                                               -- jz to the sti
  } do
    it("is taken in a window of " .. name, function()
      local vm <close>, mode = guest("real", "\xe9\xfd\x1f") -- jmp 0x2000: behind the handler
      vm.memory:write(0x12000, code)
      vm.cpu[0].ds = 0x1000
      mode.set(vm, 0x20)
      vm.cpu[0]:interrupt(0x20)
      local reason, info = run(vm)
      assert.same({ "halt", 1 }, { reason, mode.count(vm) }, info.text)
      assert.matches("interrupts off", info.text)
    end)
  end
end)

describe("cpu:interrupt", function()
  if support.without_kvm(pending) then return end

  it("refuses what is no vector", function()
    local vm <close> = support.vm()
    for _, wrong in ipairs{ -1, 256, 1.5, "x", {} } do
      assert.error(function() vm.cpu[0]:interrupt(wrong) end)
    end
    assert.error_matches(function() vm.cpu[0]:interrupt(256) end, "a vector is 0 to 255")
    assert.error(function() vm.cpu[0]:interrupt() end)
  end)

  it("and nmi get through to a started guest that spins or sleeps", function()
    for _, code in ipairs{ STI .. "\xeb\xfe", REST } do -- sti; jmp $
      local vm <close>, mode = guest("real", code, { irqchip = "pic" })
      mode.set(vm, 0x20)
      mode.set(vm, 2)
      vm:start{ deadline = 20 }
      vm.cpu[0]:interrupt(0x20)
      process.await(function() return mode.count(vm) == 1 end)
      vm.cpu[0]:nmi()
      process.await(function() return mode.count(vm) == 2 end)
      assert.equal("stopped", (vm:stop()))
    end
  end)

  it("reaches each vCPU of its own", function()
    local vm <close> = support.vm{ cpus = 2 }
    for i = 0, 1 do
      vm:load({ bytes = REST }, { cpu = i })
      vm.memory:write(i * 0x40000 + 0x200, bytes("b0 3" .. i .. " e6 e9 cf")) -- prints '0' or '1'
      vm.memory:write((0x30 + i) * 4, ("<I2I2"):pack(0x200, i * 0x4000))
      vm.cpu[i]:interrupt(0x30 + i)
    end
    run(vm)
    assert.same({ "0", "1" }, { (vm.console:text(0)), (vm.console:text(1)) })
  end)
end)

-- ---- lines of the PIC, in real mode ----

---Initialises both chips, lines 0-7 at vector 0x20 and 8-15 at 0x28, with these masks.
local function pic(mask1, mask2)
  return out(0x20, 0x11) .. out(0xa0, 0x11) .. out(0x21, 0x20) .. out(0xa1, 0x28) .. out(0x21, 4)
    .. out(0xa1, 2) .. out(0x21, 1) .. out(0xa1, 1)
    .. out(0x21, mask1 or 0) .. out(0xa1, mask2 or 0)
end

local EOI <const> = "\xb0\x20\xe6\xa0\xe6\x20" -- mov al, 0x20; out 0xa0, al; out 0x20, al
local SAVE <const> = "\x50\x52"     -- push ax; push dx
local IRET <const> = "\x5a\x58\xcf" -- pop dx; pop ax; iret
local ASK <const> = out(0x80, 1)               -- the script does something

---mov al, letter; out 0xe9, al
local function say(letter) return "\xb0" .. letter .. "\xe6\xe9" end

---A real-mode guest with a PIC whose handler of line n is `handlers[n]`; by default one that says
---the line's letter ('A' is line 0) and acknowledges. Handlers may run between any two
---instructions: SAVE is put before each, and they end with IRET. What `ask` does is done at ASK.
local function lines(code, handlers, ask, opts)
  local o = { irqchip = "pic" }
  for key, value in pairs(opts or {}) do o[key] = value end
  local vm = support.vm(o)
  assert(vm:load({ bytes = code }, { at = 0x10000 }))
  for line = 0, 15 do
    local handler = handlers and handlers[line]
      or say(string.char(65 + line)) .. EOI .. IRET
    vm.memory:write(0x20000 + line * 0x100, SAVE .. handler)
    vm.memory:write((0x20 + line) * 4, ("<I2I2"):pack(line * 0x100, 0x2000))
  end
  if ask then vm.ports:on(0x80, { write = function() ask(vm) end }) end
  return vm
end

local function raise(...)
  local list = { ... }
  return function(vm) for _, line in ipairs(list) do vm:irq(line) end end
end

local function says(vm, want)
  local reason, info = run(vm)
  assert.equal("halt", reason, info.text)
  assert.equal(want, (vm.console:text()))
end

describe("vm:irq", function()
  if support.without_kvm(pending) then return end

  it("interrupts by line, the highest priority first", function()
    local vm <close> = lines(pic() .. ASK .. REST, nil,
                             raise(15, 7, 3, 8, 12, 5, 1, 0))
    says(vm, "ABIMPDFH") -- 0, 1, then the second chip's on line 2, then 3 to 7
  end)

  it("interrupts a handler with a higher priority only", function()
    local nested = say "F" .. STI .. ASK .. NOP .. say "f" .. EOI .. IRET
    local steps = { raise(5), raise(3, 5, 7) }
    local vm <close> = lines(pic() .. ASK .. REST, { [5] = nested }, function(vm)
      local step = table.remove(steps, 1)
      if step then step(vm) end
    end)
    says(vm, "FDfFfH")
  end)

  it("waits for the end of the interrupt before it", function()
    local vm <close> = lines(pic() .. ASK .. REST,
                             { [3] = say "D" .. IRET }, raise(3, 5)) -- no EOI
    says(vm, "D")
    vm.memory:write(0x10000, out(0x20, 0x20) .. REST)
    vm.cpu[0].ip = 0
    says(vm, "DF")
  end)

  it("keeps what is masked until it is unmasked", function()
    local vm <close> = lines(pic(0xff, 0xff) .. ASK .. STI .. NOP .. out(0x21, 0xf7) .. NOP
                             .. say "-" .. out(0xa1, 0) .. say "+" .. out(0x21, 0) .. REST,
                             nil, raise(3, 10, 6))
    says(vm, "D-+KG")
  end)

  it("delivers nothing before the guest initialised the chips", function()
    local vm <close> = lines(ASK .. REST, nil, raise(0, 3))
    says(vm, "")
  end)

  it("forgets a request that is withdrawn in time", function()
    local vm <close> = lines(pic() .. ASK .. REST, nil, function(vm)
      vm:irq(3, true)
      vm:irq(3, false)
    end)
    says(vm, "")
  end)

  it("takes a level that stays for one request, unless the line is level-triggered", function()
    local high = function(vm) vm:irq(3, true) end
    local edge <close> = lines(pic() .. ASK .. REST, nil, high)
    says(edge, "D")
    local calls = 0
    local level <close> = lines(pic() .. out(0x4d0, 8) .. ASK .. REST,
      { [3] = say "D" .. ASK .. EOI .. IRET }, function(vm)
        calls = calls + 1
        vm:irq(3, calls < 4)
      end)
    says(level, "DDD")
  end)

  it("a level that nobody lowers is a storm, which ends with the run", function()
    local vm <close> = lines(pic() .. out(0x4d0, 8) .. ASK .. STI .. "\xeb\xfe",
                             { [3] = EOI .. IRET }, function(vm) vm:irq(3, true) end)
    local reason
    local seconds = took(function() reason = vm:run{ deadline = 0.1 } end)
    assert.equal("deadline", reason)
    assert.is_true(seconds < 5)
    assert.equal("limit", (vm:run{ exits = vm.cpu[0].index + 50, deadline = 20 }))
    vm:start{ deadline = 20 }
    assert.equal("stopped", (vm:stop()))
  end)

  it("reads as spurious what is gone when the chip is asked", function()
    -- polls with nothing pending, keeps the answer at 0x1f0
    local vm <close> = lines(pic() .. out(0x20, 0x0c) .. "\xe4\x20\x2e\xa2\xf0\x01" .. HLT)
    says(vm, "")
    assert.equal(0, vm.memory:u8(0x101f0) & 0x80)
  end)

  it("wakes a started guest that sleeps, for as long as it takes", function()
    local vm <close> = lines(pic() .. REST)
    vm:start{ deadline = 20 }
    for i, line in ipairs{ 5, 9, 1 } do
      vm:irq(line)
      process.await(function() return #vm.console:text() == i end)
    end
    assert.equal("FJB", (vm.console:text()))
    assert.equal("stopped", (vm:stop()))
  end)

  it("is cleared by a reset, with the chips' state", function()
    local vm <close> = lines(pic() .. REST)
    vm.memory:write(0x10000, pic() .. HLT)
    run(vm)
    vm:irq(3, true)
    vm:reset()
    for line = 0, 15 do vm.memory:write((0x20 + line) * 4, ("<I2I2"):pack(line * 0x100, 0x2000)) end
    vm.memory:write(0x20300, SAVE .. say "D" .. EOI .. IRET)
    says(vm, "")
  end)

  it("refuses lines that there are not", function()
    local vm <close> = support.vm{ irqchip = "pic" }
    for _, wrong in ipairs{ -1, 2, 16, 1.5, "x" } do
      assert.error(function() vm:irq(wrong) end)
    end
    assert.error_matches(function() vm:irq(2) end, "0 to 15, not 2")
    local none <close> = support.vm{ name = "bare" }
    assert.error_matches(function() none:irq(3) end, 'vm "bare" has no interrupt lines: .*irqchip')
    assert.error_matches(function() none.keyboard:type "x" end, "has no keyboard: .*irqchip")
  end)
end)

describe("HLT", function()
  if support.without_kvm(pending) then return end

  it("with interrupts off ends the run, whatever else would come", function()
    local vm <close> = lines(pic() .. CLI .. ASK .. HLT, nil, function(vm)
      vm:irq(3)
      vm.clock:every(0.01, function() vm:irq(4) end)
    end)
    local reason, info = run(vm)
    assert.same({ "halt", "" }, { reason, (vm.console:text()) })
    assert.matches("HLT with interrupts off", info.text)
  end)

  it("with interrupts on and nothing to come ends the run too", function()
    local vm <close> = lines(pic() .. STI .. HLT)
    local reason, info = run(vm)
    assert.equal("halt", reason)
    assert.matches("HLT with interrupts on and nothing to wake it", info.text)
  end)

  it("burns no CPU while it waits", function()
    local vm <close> = lines(pic() .. STI .. HLT .. CLI .. HLT)
    vm.clock:after(0.4, function() vm:irq(3) end)
    local cpu = os.clock()
    local seconds = took(function() says(vm, "D") end)
    assert.is_true(seconds >= 0.4)
    assert.is_true(os.clock() - cpu < 0.2)
  end)

  it("is over when the deadline is", function()
    local vm <close> = lines(pic() .. STI .. HLT)
    vm.clock:after(1000, function() end)
    local reason
    local seconds = took(function() reason = vm:run{ deadline = 0.05 } end)
    assert.equal("deadline", reason)
    assert.is_true(seconds >= 0.05 and seconds < 5)
  end)
end)

describe("the UART's interrupt line", function()
  if support.without_kvm(pending) then return end

  local READ <const> = bytes [[
    ba f8 03 ec   ; mov dx, 0x3f8; in al, dx
    e6 e9         ; out 0xe9, al
    ba fd 03 ec   ; mov dx, 0x3fd; in al, dx
    a8 01 75 f2   ; test al, 1; jnz to the start: more has come
  ]] .. EOI .. IRET
  local ENABLE <const> = pic() .. out(0x3fc, 8) .. out(0x3f9, 1) -- OUT2, received data

  it("tells of input that waits", function()
    local vm <close> = lines(ENABLE .. REST, { [4] = READ })
    vm.console:send "hello"
    vm.console:eof()
    says(vm, "hello")
  end)

  it("tells a sleeping guest of input that comes later", function()
    local vm <close> = lines(ENABLE .. REST, { [4] = READ })
    vm:start{ deadline = 20 }
    for i = 1, 5 do
      vm.console:send(tostring(i))
      process.await(function() return #vm.console:text() == i end)
    end
    assert.equal("12345", (vm.console:text()))
    vm:stop()
  end)

  it("is off until the guest turns it on", function()
    local vm <close> = lines(pic() .. out(0x3f9, 1) .. REST, { [4] = READ }) -- no OUT2
    vm.console:send "x"
    says(vm, "")
  end)
end)

-- ---- the timer ----

---Programs channel 0 as a rate generator.
local function pit(divisor)
  return out(0x43, 0x34) .. out(0x40, divisor & 0xff) .. out(0x40, divisor >> 8)
end

local TICK <const> = bytes "2e ff 06 f0 00" .. EOI .. IRET -- inc word cs:[0xf0]
local function ticks(vm) return vm.memory:u16(0x200f0) end

-- mov ax, 0x2000; mov ds, ax; sti; hlt; cmp word [count], n; jb to the hlt; cli
local function wait_for_ticks(n)
  return bytes "b8 00 20 8e d8 fb f4 81 3e f0 00" .. ("<I2"):pack(n) .. bytes "72 f7 fa"
end

describe("the timer", function()
  if support.without_kvm(pending) then return end

  it("interrupts a sleeping guest at its rate", function()
    local vm <close> = lines(pic(0xfe) .. pit(11932) .. wait_for_ticks(20) .. HLT, { [0] = TICK })
    local reason
    local seconds = took(function() reason = run(vm) end)
    assert.equal("halt", reason)
    assert.is_true(seconds >= 0.199, seconds)
    assert.is_true(ticks(vm) >= 20 and ticks(vm) <= seconds * 100 + 1, ticks(vm))
  end)

  it("loses no tick while interrupts are off", function()
    local times = {}
    local vm <close> = lines(pic(0xfe) .. pit(11932) .. ASK .. wait_for_ticks(50) .. ASK .. HLT,
      { [0] = TICK }, function()
        local from = core.now()
        while #times == 0 and core.now() - from < 0.52 do end -- the guest is deaf meanwhile
        times[#times + 1] = core.now()
      end)
    assert.equal("halt", (run(vm)))
    assert.equal(2, #times)
    assert.is_true(times[2] - times[1] < 0.4, times[2] - times[1]) -- it had them all at once
  end)

  it("at an absurd rate lets neither the guest nor the host hang", function()
    if process.emulated == "vmx" then return pending "a million interrupts take minutes there" end
    for _, divisor in ipairs{ 1, 2, 10 } do
      -- 8192 times round with interrupts on, which a fast processor does before the first tick
      local vm <close> = lines(pic(0xfe) .. pit(divisor) .. bytes "b9 00 20 fb 90 e2 fd"
                               .. wait_for_ticks(1) .. HLT, { [0] = TICK })
      local reason, info = vm:run{ deadline = 30 }
      assert.equal("halt", reason, info.text)
      assert.is_true(ticks(vm) > 0)
      local sleepy <close> = lines(pic(0xfe) .. pit(divisor) .. wait_for_ticks(500) .. HLT,
                                    { [0] = TICK })
      assert.equal("halt", (run(sleepy)))
      local spinning <close> = lines(pic(0xfe) .. pit(divisor) .. STI .. "\xeb\xfe", { [0] = TICK })
      local seconds = took(function() reason = spinning:run{ deadline = 0.05 } end)
      assert.equal("deadline", reason)
      assert.is_true(seconds < 5)
    end
  end)

  it("stands still while the script thinks", function()
    local vm
    local asked = 0
    vm = lines(pic(0xfe) .. pit(11932) .. STI .. ASK .. wait_for_ticks(1) .. CLI .. HLT,
               { [0] = TICK }, function() asked = asked + 1; vm:stop() end)
    local reason, first = run(vm)
    assert.same({ "stopped", 1 }, { reason, asked })
    kvm.sleep(0.3) -- would be 30 ticks
    local _, second = run(vm)
    assert.equal("halt", second.reason)
    -- 100 Hz: as many as the time of both runs allows, and no more
    assert.is_true(ticks(vm) >= 1 and ticks(vm) <= (first.seconds + second.seconds) * 100,
                   ticks(vm))
    vm:close()
  end)

  it("stops with a reset", function()
    local vm <close> = lines(pic(0xfe) .. pit(1193) .. wait_for_ticks(3) .. HLT, { [0] = TICK })
    assert.equal("halt", (run(vm)))
    vm:reset()
    vm.memory:write(0x10000, STI .. HLT)
    local reason, info = run(vm)
    assert.equal("halt", reason)
    assert.matches("interrupts on and nothing to wake it", info.text)
  end)

  it("interrupts 32-bit guests, whose handlers return", function()
    for _, name in ipairs{ "protected", "paged" } do
      local vm <close>, mode = guest(name, bytes [[
        b0 11 e6 20 e6 a0   ; ICW1
        b0 20 e6 21         ; ICW2: vectors 0x20 and 0x28
        b0 28 e6 a1
        b0 04 e6 21         ; ICW3
        b0 02 e6 a1
        b0 01 e6 21 e6 a1   ; ICW4
        b0 fe e6 21         ; only the timer
        b0 34 e6 43         ; channel 0, mode 2
        b0 9c e6 40         ; 11932: 100 times a second
        b0 2e e6 40
        fb                  ; sti
        f4                  ; hlt
        83 3d f0 31 00 00 0a   ; cmp dword ptr [0x31f0], 10
        72 f6               ; jb to the hlt
        fa                  ; cli
        f4                  ; hlt
      ]], { irqchip = "pic" })
      mode.set(vm, 0x20, "50 b0 20 e6 20 ff 05 f0 31 00 00 58 cf")
      -- push eax; mov al, EOI; out 0x20, al; inc dword ptr [0x31f0]; pop eax; iretd
      local reason, info = run(vm)
      assert.equal("halt", reason, info.text)
      assert.is_true(mode.count(vm) >= 10)
      assert.equal(kvm.probe().iret == "native", info.assists == 0)
    end
  end)
end)

-- ---- the keyboard ----

-- in al, 0x60; mov [bx], al in the handlers' segment; inc bx: scancodes from 0x24000 on
local KEY <const> = bytes "e4 60 2e 88 07 43" .. EOI .. IRET
local TYPE <const> = pic(0xfd) .. bytes "bb 00 40" .. ASK .. REST

local function scancodes(vm) return vm.memory:read(0x24000, vm.cpu[0].bx - 0x4000) end

local function typed(...)
  local ask = table.pack(...)
  local vm = lines(TYPE, { [1] = KEY }, function(vm)
    for _, what in ipairs(ask) do what(vm.keyboard) end
  end)
  local reason, info = run(vm)
  assert.equal("halt", reason, info.text)
  return vm
end

describe("vm.keyboard", function()
  if support.without_kvm(pending) then return end

  it("types text as a US keyboard does", function()
    local vm <close> = typed(function(k) assert.equal(k, k:type "aB\n") end)
    assert.equal(bytes "1e 9e  2a 30 b0 aa  1c 9c", scancodes(vm))
  end)

  it("presses keys in order and lets them go in reverse", function()
    local vm <close> = typed(function(k) k:press("ctrl", "c"):press "f1" end,
                             function(k) k:press "A" end, function(k) k:press "up" end)
    assert.equal(bytes "1d 2e ae 9d  3b bb  2a 1e 9e aa  e0 48 e0 c8", scancodes(vm))
  end)

  it("says how much was typed when the guest does not read it as fast", function()
    local vm <close> = lines(TYPE, { [1] = KEY })
    local typed_all, why, code, count = vm.keyboard:type(("x"):rep(10000))
    assert.same({ nil, "ENOBUFS", 2048 }, { typed_all, code, count })
    assert.matches("4096 scancodes wait already", why)
    assert.error_matches(function() vm.keyboard:press "f1" end, "wait already")
    assert.equal("halt", (run(vm)))
    assert.equal(bytes "2d ad":rep(2048), scancodes(vm)) -- and nothing that did not fit
    assert.is_truthy(vm.keyboard:type "y")
  end)

  it("types nothing of a text that has no key for a byte", function()
    local vm <close> = lines(TYPE, { [1] = KEY })
    for _, text in ipairs{ "ab\xc3\xa4", "\0ab\x80" } do
      local ok, why, code, count = vm.keyboard:type(text)
      assert.same({ nil, "EINVAL", 0 }, { ok, code, count })
      assert.matches("no key of a US keyboard types byte 0x%x%x", why)
    end
    run(vm)
    assert.equal("", scancodes(vm))
  end)

  it("refuses keys that there are not", function()
    local vm <close> = support.vm{ irqchip = "pic" }
    for _, name in ipairs{ "", "nosuch", "Ctrl-C", "\xff", "a\0b", ("f"):rep(1000) } do
      assert.error_matches(function() vm.keyboard:press(name) end, "no key is named")
    end
    assert.error_matches(function() vm.keyboard:press() end, "1 to 16 key names")
    assert.error_matches(function()
      vm.keyboard:press("a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a",
                        "a", "a")
    end, "1 to 16 key names")
    assert.error(function() vm.keyboard:press({}) end)
    assert.error(function() vm.keyboard:type() end)
  end)

  it("wakes a started guest, key by key", function()
    local vm <close> = lines(pic(0xfd) .. REST,
                             { [1] = "\xe4\x60\xe6\xe9" .. EOI .. IRET }) -- in al, 0x60; out 0xe9
    vm:start{ deadline = 20 }
    for i, letter in ipairs{ "a", "b", "c" } do
      vm.keyboard:type(letter)
      process.await(function() return #vm.console:text() == 2 * i end)
    end
    assert.equal(bytes "1e 9e 30 b0 2e ae", (vm.console:text()))
    vm:stop()
  end)

  it("forgets what was typed at a reset", function()
    local vm <close> = lines(TYPE, { [1] = KEY })
    vm.keyboard:type "abc"
    vm:reset()
    vm.memory:write(0x20100, KEY)
    vm.memory:write(0x21 * 4, ("<I2I2"):pack(0x100, 0x2000))
    run(vm)
    assert.equal("", scancodes(vm))
  end)
end)

-- ---- the script's timers ----

describe("vm.clock", function()
  if support.without_kvm(pending) then return end

  ---A guest that spins (sti; jmp $): only timers and deadlines get it out.
  local function spinning(opts) return support.code("fb eb fe", opts) end

  it("calls a function once, after so many seconds", function()
    local vm <close> = spinning()
    local at
    local from = vm.clock.now
    local timer = vm.clock:after(0.03, function()
      at = vm.clock.now
      vm:stop()
    end)
    assert.equal(0, timer.hits)
    assert.equal("stopped", (run(vm)))
    assert.is_true(at - from >= 0.03 and at - from < 10)
    assert.equal(1, timer.hits)
    vm:run{ deadline = 0.05 }
    assert.equal(1, timer.hits)
  end)

  it("calls a function every so many seconds, and counts", function()
    local vm <close> = spinning()
    local calls = 0
    local timer = vm.clock:every(0.002, function()
      calls = calls + 1
      if calls == 10 then vm:stop() end
    end)
    local seconds = took(function() assert.equal("stopped", (run(vm))) end)
    assert.same({ 10, 10 }, { calls, timer.hits })
    assert.is_true(seconds >= 0.02 - 0.002)
  end)

  it("calls what is due in the order of time", function()
    local vm <close> = spinning()
    local order = {}
    for _, ms in ipairs{ 120, 40, 80, 0 } do
      vm.clock:after(ms / 1000, function() order[#order + 1] = ms end)
    end
    vm.clock:after(0.16, function() vm:stop() end)
    run(vm)
    assert.same({ 0, 40, 80, 120 }, order)
  end)

  it("wakes a guest that sleeps, and runs between its exits", function()
    local vm <close> = support.vm()
    vm:load{ bytes = REST }
    local calls = 0
    vm.clock:every(0.005, function()
      calls = calls + 1
      if calls == 5 then vm:stop() end
    end)
    local reason, info = run(vm)
    assert.same({ "stopped", 5, 1 }, { reason, calls, info.by.hlt })
  end)

  it("goes by removed timers in silence", function()
    local vm <close> = spinning()
    local calls = 0
    local function count() calls = calls + 1 end
    local before = vm.clock:after(0.001, count)
    before:remove()
    before:remove()
    local inside, later
    inside = vm.clock:every(0.001, function() count() inside:remove() end)
    vm.clock:after(0, function() later:remove() end)
    later = vm.clock:after(0, count) -- due as well when that is called
    do local _ <close> = vm.clock:every(0.001, count) end
    vm:run{ deadline = 0.05 }
    assert.same({ 1, 0, 1, 0 }, { calls, before.hits, inside.hits, later.hits })
  end)

  it("keeps timers alive that nobody else holds", function()
    local vm <close> = spinning()
    vm.clock:after(0.01, function() vm:stop() end)
    collectgarbage()
    collectgarbage()
    assert.equal("stopped", (run(vm)))
  end)

  it("lets timers set timers", function()
    local vm <close> = spinning()
    local depth = 0
    local function again()
      depth = depth + 1
      if depth == 20 then vm:stop() else vm.clock:after(0, again) end
    end
    vm.clock:after(0, again)
    assert.equal("stopped", (run(vm)))
    assert.equal(20, depth)
  end)

  it("ends the run with a function's error", function()
    local vm <close> = spinning()
    vm.clock:after(0.001, function() error "out of ideas" end)
    local reason, info = run(vm)
    assert.equal("error", reason)
    assert.matches("out of ideas", info.text)
    assert.matches("interrupts_spec.lua", info.traceback, 1, true)
    assert.error_matches(function() vm:run() end, "reset")
  end)

  it("keeps to the grid after a function that took long", function()
    local vm <close> = spinning()
    local timer, long
    timer = vm.clock:every(0.01, function()
      if timer.hits > 1 then return vm:stop() end
      long = core.now()
      while core.now() - long < 0.035 do end
    end)
    local seconds = took(function() run(vm) end)
    assert.equal(2, timer.hits)
    assert.is_true(seconds >= 0.045)
  end)

  it("does not block the guest with the shortest period there is", function()
    local vm <close> = support.program{ bytes "66 b9 00 40 00 00 67 e2 fe" } -- loop 16384 times
    local timer = vm.clock:every(0.00001, function() end)
    local reason = vm:run{ deadline = 30 }
    assert.equal("halt", reason)
    assert.is_true(timer.hits > 0)
  end)

  it("tells the time, which goes while the guest runs", function()
    local vm <close> = spinning()
    assert.equal(0.0, vm.clock.now)
    local seconds = took(function() vm:run{ deadline = 0.02 } end)
    assert.is_true(vm.clock.now > 0 and vm.clock.now <= seconds)
  end)

  it("stands still while the VM is stopped or paused", function()
    local vm <close> = spinning()
    vm:run{ deadline = 0.01 }
    local stopped = vm.clock.now
    kvm.sleep(0.05)
    assert.equal(stopped, vm.clock.now)
    vm:start():pause() -- it may have run for any time until then
    local paused = vm.clock.now
    local timer = vm.clock:after(0.02, function() vm:stop() end)
    kvm.sleep(0.05)
    assert.equal(paused, vm.clock.now)
    assert.equal(0, timer.hits)
    vm:resume()
    assert.equal("stopped", (vm:wait(20)))
    assert.is_true(vm.clock.now >= paused + 0.02)
  end)

  it("goes back with a snapshot, and on in a fork", function()
    local vm <close> = spinning()
    vm:run{ deadline = 0.02 }
    local snap <close> = assert(vm:snapshot())
    local at = vm.clock.now
    vm:run{ deadline = 0.01 }
    assert.is_true(vm.clock.now > at)
    local fork <close> = assert(vm:fork())
    assert.equal(vm.clock.now, fork.clock.now)
    assert(vm:restore(snap))
    assert.equal(at, vm.clock.now)
  end)

  it("refuses what is no time and no function", function()
    local vm <close> = support.vm()
    local function nothing() end
    for _, wrong in ipairs{ -1, 1e9, 0 / 0, math.huge, "x", {} } do
      assert.error(function() vm.clock:after(wrong, nothing) end)
      assert.error(function() vm.clock:every(wrong, nothing) end)
    end
    for _, wrong in ipairs{ 0, 0.000009 } do
      assert.error_matches(function() vm.clock:every(wrong, nothing) end, "10 microseconds")
    end
    assert.error(function() vm.clock:after(1) end)
    assert.error(function() vm.clock:after(1, "x") end)
    assert.error_matches(function() vm.clock.after(1, nothing) end, "call it with ':'")
  end)

  it("ends with its vm, though handles are left", function()
    local vm = support.code "eb fe"
    local once, often = vm.clock:after(100, print), vm.clock:every(100, print)
    local clock = vm.clock
    vm:close()
    once:remove()
    assert.same({ 0, 0 }, { once.hits, often.hits })
    assert.error_matches(function() clock:after(1, print) end, "is closed")
    vm, clock = nil, nil -- luacheck: ignore
    collectgarbage()
    assert.equal(0, often.hits)
  end)
end)

-- ---- OUTs that the PIC hears of at the next exit (src/dev/zones.h) ----

describe("a PIC whose OUTs are collected", function()
  if support.without_kvm(pending) then return end

  -- Input 5 is vector 0x25. The mask is written 40 times, so that KVM collects it; then a line goes
  -- up that is masked, is let through by an OUT that is no exit, and the guest waits for what its
  -- handler counts, without any exit.
  local PIC <const> = "b0 11 e6 20 b0 20 e6 21 b0 04 e6 21 b0 01 e6 21 " -- ICW1 to ICW4
  local MASKS <const> = "b0 ff b9 28 00 e6 21 e2 fc "  -- mov cx, 40; out 0x21, al; loop
  local RAISE <const> = "e6 80 b0 df e6 21 fb "        -- out 0x80, al; unmask 5; sti
  local WAIT <const> = "2e 83 3e f0 01 01 75 f8 f4"    -- cmp word cs:[0x1f0], 1; jne; hlt
  -- inc word cs:[0x1f0]; mask; end of interrupt; iret
  local HANDLER <const> = "2e ff 06 f0 01 b0 ff e6 21 b0 20 e6 20 cf"

  it("lets an interrupt through that was masked when it came", function()
    local vm <close>, mode = guest("real", bytes(PIC .. MASKS .. RAISE .. WAIT),
                                   { irqchip = "pic" })
    core.collect_pic(vm)
    mode.set(vm, 0x25, HANDLER)
    vm.ports:on(0x80, { write = function() vm:irq(5, true) end })
    local reason, info = run(vm)
    assert.same({ "halt", 1 }, { reason, mode.count(vm) }, info.text)
    for _, row in ipairs(vm:stats()) do
      if row.owner == "pic" and row.first == 0x20 then
        assert.is_true(row.no_exit >= 8, row.no_exit)
      end
    end
  end)
end)
