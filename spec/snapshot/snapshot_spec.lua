-- Snapshots: what a guest does after going back to one is what it did the first time, down to the
-- exit; and what belongs to one, piece by piece. Files and bad input: snapshot_file_spec.lua.

local support = require "support.guest"

local STOP <const> = 0x10 -- an OUT to this port stops the VM

---A guest that stops by OUT 0x10: "e6 10" is out 0x10, al.
local function stopping(listing, opts)
  local vm = support.code(listing, opts)
  vm.ports:on(STOP, { write = function() vm:stop() end })
  return vm
end

local function ended(reason, vm)
  local got, info = support.run(vm)
  assert.equal(reason, got, info.text)
  return info
end

---Runs to the end; what must be the same again, and the exits so far.
local function outcome(vm, before)
  local reason, info = support.run(vm)
  return { reason, info.code or false, info.exits - before, (vm.console:text()) }, info.exits
end

---1K OS at its menu, where it asks for input for the first time.
local function at_menu(opts)
  local o = { mode = "paged", coalesce = false }
  for key, value in pairs(opts or {}) do o[key] = value end
  local vm = support.vm(o)
  assert(vm:load "os-1k/kernel.bin")
  local asked = vm.hypercalls:define(2, "getchar", function()
    vm:stop()
    return 1 << 8 | 0xff -- nothing yet
  end)
  local info = ended("stopped", vm)
  asked:remove()
  assert.matches("Select: $", (vm.console:text()))
  return vm, info.exits
end

describe("a snapshot", function()
  if support.without_kvm(pending) then return end

  local GUESTS <const> = {
    { "real/primes" }, { "real/echo", {}, "text\n" }, { "real/multiplication" },
    { "prot/softint" }, { "prot/cr3switch" }, { "prot/changepd" }, { "prot/modeswitch" },
    { "prot/pagefault" }, { "long/ring3", { mode = "long" } },
    { "long/idt", { mode = "long", page_size = "2M" } }, { "long/remap", { mode = "long" }, "xy" },
  }

  for _, guest in ipairs(GUESTS) do
    local name, opts, input = table.unpack(guest)
    local want = support.expectation(name)

    it("of " .. name .. " goes on the same way again and again, and in a new VM", function()
      local o = { coalesce = false, mode = want.mode, irqchip = want.irqchip }
      for key, value in pairs(opts or {}) do o[key] = value end
      for _, exits in ipairs{ 1, 6, 12 } do
        local vm <close> = support.guest(name, o)
        vm.console:send(input or ""):eof()
        local reason, info = vm:run{ exits = exits, deadline = 20 }
        if reason ~= "limit" then break end
        local snap <close> = assert(vm:snapshot())
        local first, total = outcome(vm, info.exits)
        for _ = 1, 3 do
          local again
          assert.equal(vm, assert(vm:restore(snap)))
          again, total = outcome(vm, total)
          assert.same(first, again)
        end
        local new <close> = assert(snap:vm{ echo = false, coalesce = false })
        assert.same(first, (outcome(new, 0)))
      end
    end)
  end

  it("of a booted system answers different input, and the same input alike 20 times", function()
    local vm <close>, total = at_menu()
    local snap <close> = assert(vm:snapshot())
    local answers = {}
    for i = 1, 20 do
      local input = i % 2 == 0 and "2\n0\n" or "4\n0\n"
      vm.console:send(input)
      local again, now = outcome(vm, total)
      total = now
      assert.equal("exit", again[1])
      assert.same(answers[input] or again, again)
      answers[input] = again
      assert(vm:restore(snap))
    end
    assert.matches("0 1 2 3 4 5 6 7 8 9", answers["2\n0\n"][4])
    assert.not_equal(answers["2\n0\n"][4], answers["4\n0\n"][4])
  end)

  it("goes back to a place where 64-bit page tables were others than now", function()
    local vm <close> = support.guest("long/remap", { mode = "long" })
    local asked = vm.hypercalls:define(2, "getchar", function() vm:stop() return 1 << 8 | 0xff end)
    ended("stopped", vm)
    asked:remove()
    local snap <close> = assert(vm:snapshot())
    for _ = 1, 5 do
      vm.console:send "xy":eof()
      ended("exit", vm)
      assert.equal("abBCDFG\n", (vm.console:text()))
      assert(vm:restore(snap))
    end
  end)

  -- A TLB holds what it was filled with until it is told (Intel SDM volume 3, 4.10).
  it("goes back to mappings that the processor has forgotten since", function()
    local vm <close> = stopping([[ e6 10          ; out 0x10, al
                                   8a 06 88 45 00 ; mov al, [rsi]; mov [rbp], al
                                   48 89 1f       ; mov [rdi], rbx: another page
                                   0f 01 3e       ; invlpg [rsi]
                                   8a 06 88 45 01 ; mov al, [rsi]; mov [rbp + 1], al
                                   e6 10 f4 ]], { mode = "long" })
    local cpu, memory <const> = vm.cpu[0], vm.memory
    local table_at = cpu.cr3
    for level = 3, 1, -1 do -- the table of the last level, SDM volume 3, 4.5
      table_at = memory:u64(table_at + 8 * (0x200000 >> (12 + 9 * level) & 511)) & ~0xfff
    end
    memory:write(0x200000, "1")
    memory:write(0x300000, "2")
    cpu.rsi, cpu.rdi, cpu.rbp = 0x200000, table_at, 0x100000
    cpu.rbx = memory:u64(table_at) + 0x100000
    ended("stopped", vm)
    local snap <close> = assert(vm:snapshot())
    for _ = 1, 5 do
      ended("stopped", vm)
      assert.equal("12", memory:read(0x100000, 2))
      assert(vm:restore(snap))
    end
  end)

  -- Each of these keeps something, stops, stores it to 0x800, and spoils it.
  local PIECES <const> = {
    { "general registers", [[ 66 bb 78 56 34 12 e6 10 66 89 1e 00 08 66 31 db f4 ]], 0x12345678 },
    { "MSRs", [[ 66 b9 74 01 00 00 66 b8 55 00 00 00 66 31 d2 0f 30 ; wrmsr 0x174
                 e6 10 66 b9 74 01 00 00 0f 32 66 a3 00 08
                 66 b8 11 00 00 00 66 31 d2 0f 30 f4 ]], 0x55 },
    { "debug registers", [[ 66 b8 78 56 34 12 0f 23 c0 e6 10 0f 21 c0 66 a3 00 08
                            66 31 c0 0f 23 c0 f4 ]], 0x12345678 },
    { "control registers", [[ 66 b8 00 70 34 12 0f 22 d0 e6 10 0f 20 d0 66 a3 00 08 ; cr2
                              66 31 c0 0f 22 d0 f4 ]], 0x12347000 },
    { "the UART", [[ ba ff 03 b0 a7 ee e6 10 66 31 c0 ec 66 a3 00 08 b0 11 ee f4 ]], 0xa7 },
    { "an answer that waits", [[ b0 02 ba 00 05 ee e6 10 66 31 c0 ed 66 a3 00 08 f4 ]], 0x41 },
    { "memory", [[ c7 06 00 09 34 12 e6 10 66 a1 00 09 66 a3 00 08 c7 06 00 09 00 00 f4 ]],
      0x1234 },
  }

  for _, piece in ipairs(PIECES) do
    local name, listing, value = table.unpack(piece)
    it("holds " .. name, function()
      local vm <close> = stopping(listing)
      vm.console:send "A"
      ended("stopped", vm)
      local snap <close> = assert(vm:snapshot())
      for _ = 1, 3 do
        vm.memory:u32(0x800, 0)
        ended("halt", vm)
        assert.equal(value, vm.memory:u32(0x800))
        assert(vm:restore(snap))
        assert.equal(0, vm.memory:u32(0x800))
      end
    end)
  end

  it("holds the FPU's registers", function()
    local vm <close> = stopping([[ 0f 10 04 25 00 20 00 00  ; movups xmm0, [0x2000]
                                   e6 10
                                   0f 11 04 25 00 30 00 00  ; movups [0x3000], xmm0
                                   0f 10 04 25 10 20 00 00  ; movups xmm0, [0x2010]
                                   f4 ]], { mode = "long" })
    vm.memory:write(0x2000, "0123456789abcdefFEDCBA9876543210")
    ended("stopped", vm)
    local snap <close> = assert(vm:snapshot())
    for _ = 1, 2 do
      ended("halt", vm)
      assert.equal("0123456789abcdef", vm.memory:read(0x3000, 16))
      assert(vm:restore(snap))
    end
  end)

  it("holds input that waits, its end, and what was printed", function()
    local vm <close> = stopping [[ ba e9 00 ec ee e6 10 eb fa ]] -- in al, 0xe9; out 0xe9, al; stop
    vm.console:send "abc":eof()
    ended("stopped", vm)
    local snap <close> = assert(vm:snapshot())
    for _ = 1, 3 do
      ended("stopped", vm)
      ended("stopped", vm)
      assert.equal("abc", (vm.console:text()))
      assert.has_error(function() assert(vm.console:send "x") end)
      assert(vm:restore(snap))
      local text, total = vm.console:text()
      assert.same({ "a", 1 }, { text, total })
    end
  end)

  it("holds how far a script has waited, and forgets what was forbidden since", function()
    local vm <close> = support.vm{ mode = "paged" }
    assert(vm:load "os-1k/kernel.bin")
    vm:start()
    local con = vm.console
    assert(con:expect("Select: ", { stop = true, plain = true }))
    vm:wait(20)
    local forbidden = con:forbid "55 89"
    local snap <close> = assert(vm:snapshot())
    for i = 1, 3 do
      con:send(i == 2 and "4\n" or "2\n")
      vm:start()
      local fine, found = pcall(con.expect, con, "%d [%d ]+\n.-Select: ", { stop = true })
      assert.equal(i ~= 2, fine, found)
      if i == 2 then assert.matches("the forbidden pattern \"55 89\"", found) end
      vm:wait(20)
      assert(vm:restore(snap))
    end
    forbidden:remove()
  end)

  it("holds what latches and fifos hold", function()
    local vm <close> = stopping [[ b0 41 e6 80 e6 90 e6 10 b0 42 e6 80 b0 0a e6 90 f4 ]]
    local latch = vm.ports:latch(0x80)
    local records = {}
    vm.ports:fifo(0x90, { on = "\n" }, function(record) records[#records + 1] = record end)
    ended("stopped", vm)
    local snap <close> = assert(vm:snapshot())
    local new_latch
    local new <close> = assert(snap:vm{ echo = false, setup = function(child)
      new_latch = child.ports:latch(0x80)
    end })
    assert.equal(0x41, new_latch:get())
    for i = 1, 2 do
      ended("halt", vm)
      assert.same({ 0x42, "A" }, { latch:get(), records[i] })
      assert(vm:restore(snap))
      assert.equal(0x41, latch:get())
    end
    ended("halt", new)
  end)

  it("sets a file that input comes from back to where it was", function()
    local process = require "support.process"
    local path = process.temporary(("0123456789"):rep(1000))
    -- 1 byte, then 4999 more: what is read at once does not reach so far
    local vm <close> = stopping [[ ba e9 00 ec ee e6 10 b9 87 13 ec ee e2 fc e6 10 ]]
    assert(vm.console:input(path))
    ended("stopped", vm)
    local snap <close> = assert(vm:snapshot())
    for _ = 1, 2 do
      ended("stopped", vm)
      assert.equal(("0123456789"):rep(500), (vm.console:text()))
      assert(vm:restore(snap))
    end
    os.remove(path)
  end)

  it("holds interrupts that wait", function()
    local vm <close> = stopping [[ e6 10 fb f4 fb f4 fa f4 ]] -- stop; sti; hlt; sti; hlt; cli; hlt
    for i = 0, 1 do -- the handlers print their number
      vm.memory:write(4 * (0x20 + i), string.pack("<I2I2", 0x500 + 16 * i, 0))
      vm.memory:write(0x500 + 16 * i, support.bytes("50 b0 3" .. i .. " e6 e9 58 cf"))
    end
    ended("stopped", vm)
    vm.cpu[0]:interrupt(0x21)
    vm.cpu[0]:interrupt(0x20)
    local snap <close> = assert(vm:snapshot())
    for _ = 1, 3 do
      ended("halt", vm)
      assert.equal("01", (vm.console:text()))
      assert(vm:restore(snap))
    end
  end)

  it("holds the timer of a guest: it gets the ticks that were left", function()
    local vm <close> = support.guest("prot/ticks", { mode = "paged", irqchip = "pic" })
    local ticks = 0
    local stop_at = 7
    vm.ports:override(0x20, { write = function(_, value, _, next) -- an end of interrupt
      if value == 0x20 then ticks = ticks + 1 end
      if ticks == stop_at then vm:stop() end
      next()
    end })
    ended("stopped", vm)
    local snap <close> = assert(vm:snapshot())
    stop_at = -1
    for _ = 1, 3 do
      ticks = 7
      assert.equal(0, ended("exit", vm).code)
      assert.equal("20 ticks\n", (vm.console:text()))
      assert.is_true(ticks >= 20) -- one more may have come before the guest looked
      assert(vm:restore(snap))
    end
  end)

  it("holds what was typed at the keyboard", function()
    local vm <close> = stopping([[ e4 60 aa e6 10 eb f9 ]], { irqchip = "pic" }) -- in; stosb; stop
    vm.cpu[0].rdi = 0x800
    assert(vm.keyboard:type "ab")
    ended("stopped", vm)
    local snap <close> = assert(vm:snapshot())
    for _ = 1, 3 do
      for _ = 2, 4 do ended("stopped", vm) end
      assert.equal("\x1e\x9e\x30\xb0", vm.memory:read(0x800, 4)) -- A and B, down and up
      assert(vm:restore(snap))
    end
  end)

  it("arms the script's timers again, those that were removed left out", function()
    local vm <close> = stopping("e6 10 fb f4 eb fd", { irqchip = "pic" }) -- stop; sti; hlt for ever
    local fired = {}
    local function note(name, stops)
      return function()
        fired[#fired + 1] = name
        if stops then vm:stop() end
      end
    end
    ended("stopped", vm)
    local removed = vm.clock:after(0.001, note "removed")
    vm.clock:after(0.002, note "kept")
    vm.clock:after(0.01, note("last", true))
    local snap <close> = assert(vm:snapshot())
    removed:remove()
    for _ = 1, 3 do
      vm.clock:after(0.001, note "later")
      assert(vm:restore(snap))
      ended("stopped", vm)
      assert.same({ "kept", "last" }, fired)
      fired = {}
    end
    local new <close> = assert(snap:vm{ echo = false })
    assert.equal("halt", (support.run(new))) -- nothing can wake it
    assert.same({}, fired)
  end)

  it("knows what the host wrote into guest memory", function()
    local vm <close> = stopping [[ e6 10 f4 ]]
    ended("stopped", vm)
    vm.memory:write(0x5ffe, "old!")
    local snap <close> = assert(vm:snapshot())
    vm.memory:write(0x5ffe, "new!")
    vm.memory:u64(0x9000, -1)
    vm.memory:fill(0x20000, 0x10000, 7)
    assert(vm:load({ bytes = ("x"):rep(10000) }, { at = 0x30000 }))
    assert(vm:restore(snap))
    assert.equal("old!", vm.memory:read(0x5ffe, 4))
    assert.equal(0, vm.memory:u64(0x9000))
    assert.equal(("\0"):rep(0x20000), vm.memory:read(0x20000, 0x20000))
    ended("halt", vm)
  end)

  it("knows what devices wrote into guest memory", function()
    -- hypercall READ: ebx and ecx say where
    local vm <close> = stopping [[ e6 10 66 bb 00 50 00 00 66 b9 04 00 00 00 b0 11 ba 00 05 ee f4 ]]
    vm.console:send "data"
    ended("stopped", vm)
    local snap <close> = assert(vm:snapshot())
    for _ = 1, 2 do
      ended("halt", vm)
      assert.equal("data", vm.memory:read(0x5000, 4))
      assert(vm:restore(snap))
      assert.equal("\0\0\0\0", vm.memory:read(0x5000, 4))
    end
  end)

  it("can be gone back to after a reset, a fault, and from another one", function()
    local vm <close> = stopping [[ fe 06 00 08 e6 10 eb f8 ]] -- inc byte [0x800]; stop; again
    ended("stopped", vm)
    local snaps = {}
    for i = 1, 4 do
      vm.memory:u32(0x1000 * (i + 4), i)
      snaps[i] = assert(vm:snapshot())
      ended("stopped", vm)
    end
    local function check(i, where)
      assert.equal(i, where.memory:u8(0x800))
      for j = 1, 4 do
        assert.equal(j <= i and j or 0, where.memory:u32(0x1000 * (j + 4)))
      end
    end
    for _, i in ipairs{ 3, 1, 4, 4, 2, 1, 3 } do
      assert(vm:restore(snaps[i]))
      check(i, vm)
    end
    assert(vm:reset())
    assert(vm:restore(snaps[2]))
    check(2, vm)
    local other <close> = stopping "f4" -- of the same shape
    for _, i in ipairs{ 4, 1, 3 } do
      assert(other:restore(snaps[i]))
      check(i, other)
    end
    local child <close> = assert(snaps[3]:vm{ echo = false })
    check(3, child)
    for _, i in ipairs{ 1, 3, 4, 2 } do
      assert(child:restore(snaps[i]))
      check(i, child)
    end
    assert(child:reset()) -- to what it was made from
    check(3, child)
    vm.memory:write(vm.cpu[0].rip, "\xf0\x90") -- lock nop: not an instruction
    vm.memory:u32(24, 0xffffffff)
    vm:run{ exits = 10, deadline = 0.2 }
    assert(vm:restore(snaps[1]))
    check(1, vm)
    ended("stopped", vm)
    assert.equal(2, vm.memory:u8(0x800))
  end)

  it("of a VM that died makes a VM that is dead; one from before makes it runnable", function()
    local vm <close> = stopping("e6 10 e4 77 f4", { unhandled = "fault" }) -- in al, 0x77
    ended("stopped", vm)
    local before <close> = assert(vm:snapshot())
    ended("fault", vm)
    local after <close> = assert(vm:snapshot())
    assert.has_error(function() vm:run() end)
    assert(vm:restore(before))
    ended("fault", vm)
    local dead <close> = assert(after:vm{ echo = false })
    assert.has_error(function() dead:run() end)
    assert.equal("ended", dead.state)
    assert(dead:restore(before))
    ended("halt", dead) -- this one does not mind
  end)
end)
