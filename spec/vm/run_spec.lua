-- How runs end, what they report, and that nothing a guest does keeps a run from ending.

local support = require "support.guest"
local process = require "support.process"

local run, took = support.run, process.took

local SPIN = "eb fe" -- jmp $
local TALK = [[
  e6 e9   ; out 0xe9, al
  eb fc   ; jmp to the start
]]
local TALK_BY_CALL = [[
  66 31 db            ; xor ebx, ebx
  66 b9 00 00 01 00   ; mov ecx, 65536
  ba 00 05            ; mov dx, 0x500
  b0 10               ; mov al, WRITE
  ee                  ; out dx, al
  eb fd               ; jmp to the out
]]
local COUNT = [[
  b0 30   ; mov al, '0'
  e6 e9   ; out 0xe9, al
  fe c0   ; inc al
  eb fa   ; jmp to the out
]]
local HALT_DEAF = "fa f4 eb fd" -- cli; hlt; jmp to the hlt

local function close_after(vm, fn)
  local closing <close> = vm
  return fn(closing)
end

describe("a run ends by", function()
  if support.without_kvm(pending) then return end

  it("halt: HLT and nothing that wakes it", function()
    local vm <close> = support.code "f4"
    local reason, info = run(vm)
    assert.same({ "halt", "halt", 1, 1 }, { reason, info.reason, info.rip, info.by.hlt })
    assert.matches("HLT with interrupts off", info.text)
    local on <close> = support.code "fb f4" -- sti; hlt
    assert.matches("HLT with interrupts on", select(2, run(on)).text)
  end)

  it("exit: the hypercall, with BL as the code", function()
    local vm <close> = support.program{ support.call(0, 0x12a) }
    local reason, info = run(vm)
    assert.same({ "exit", 0x2a }, { reason, info.code })
    assert.matches("code 42", info.text)
  end)

  it("exit: the exit port, with the value as it is", function()
    for size, value in pairs{ 0xfe, 0xfedc, [4] = 0xfedcba98 } do
      local vm <close> = support.program{ support.out(0xf4, value, size) }
      local reason, info = run(vm)
      assert.same({ "exit", value }, { reason, info.code })
    end
  end)

  it("shutdown: a triple fault, with the instruction's bytes", function()
    local vm <close> = support.guest "real/triple"
    local reason, info = run(vm)
    assert.equal("shutdown", reason)
    if info.text:find "registers are lost" then -- AMD: KVM resets the vCPU
      assert.matches("triple fault after rip 0x%x+", info.text)
    else
      assert.matches("triple fault at rip 0x%x+", info.text)
      assert.matches("^%x%x", info.bytes)
    end
  end)

  it("fault: a hypercall that nobody knows", function()
    local vm <close> = support.program{ support.call(0x7f) }
    local reason, info = run(vm)
    assert.equal("fault", reason)
    assert.matches("unknown hypercall 0x7f: define it", info.text)
  end)

  it("fault: a jump out of RAM", function()
    local vm <close> = support.code("ea 00 00 00 80", { memory = "256K" }) -- jmp 0x8000:0
    local reason, info = run(vm)
    assert.equal("fault", reason)
    assert.matches("at rip 0x0, .*RAM", info.text)
  end)

  it("fault: an unserved port when unhandled is 'fault'", function()
    for what, part in pairs{ ["OUT to port 0x4321"] = support.out(0x4321, 1),
                             ["IN from port 0x4321"] = support.into(0x1000, 0x4321, 2) } do
      local vm <close> = support.program({ part }, { unhandled = "fault" })
      local reason, info = run(vm)
      assert.equal("fault", reason)
      assert.matches(what .. ": nobody serves it", info.text)
    end
  end)

  it("fault: an address outside RAM when unhandled is 'fault'", function()
    local code = "b8 00 f0 8e d8 a0 00 00 a2 00 00 f4" -- ds = 0xf000; mov al, [0]; mov [0], al; hlt
    local vm <close> = support.code(code, { unhandled = "fault", memory = "64K" })
    local reason, info = run(vm)
    assert.equal("fault", reason)
    assert.matches("read from 0xf0000: it is outside RAM", info.text)
    local ignoring <close> = support.code(code, { memory = "64K" })
    reason, info = run(ignoring)
    assert.same({ "halt", 0xff, 2 }, { reason, ignoring.cpu[0].al, info.served.none })
  end)

  it("deadline, whatever the guest does", function()
    for what, listing in pairs{ spins = SPIN, talks = TALK, calls = TALK_BY_CALL } do
      local vm <close> = support.code(listing)
      local reason, info
      local seconds = took(function() reason, info = vm:run{ deadline = 0.03 } end)
      assert.equal("deadline", reason, what)
      assert.matches("deadline", info.text)
      assert.is_true(seconds >= 0.03 and seconds < process.SOON, what .. ": " .. seconds)
    end
  end)

  it("deadline at once when it is 0", function()
    local vm <close> = support.code "f4"
    local reason, info = vm:run{ deadline = 0 }
    assert.same({ "deadline", 0, 0 }, { reason, info.exits, info.rip })
    assert.equal("halt", (run(vm)))
  end)

  it("limit: so many exits, and not one more", function()
    local vm <close> = support.code(TALK, { coalesce = false })
    local reason, info = vm:run{ exits = 10 }
    assert.same({ "limit", 10, 10 }, { reason, info.exits, #vm.console:text() })
    assert.matches("limit of 10 exits", info.text)
  end)

  it("limit: so many bytes of output", function()
    for _, coalesce in ipairs{ true, false } do
      local vm <close> = support.code(COUNT, { coalesce = coalesce, limits = { output = 1000 } })
      local reason, info = run(vm)
      local _, total = vm.console:text()
      assert.equal("limit", reason)
      assert.matches("limit of 1000 bytes", info.text)
      assert.is_true(total >= 1000 and total < 1000 + 4096 // 24)
    end
  end)

  it("stopped: from a handler, when that is done", function()
    local vm <close> = support.program{ support.out(0x80, 1), support.out(0x80, 2) }
    local seen = {}
    vm.ports:on(0x80, { write = function(_, value)
      assert.is_nil((vm:stop()))
      seen[#seen + 1] = value
    end })
    local reason, info = run(vm)
    assert.same({ "stopped", { 1 } }, { reason, seen })
    assert.matches("stopped", info.text)
    assert.equal("stopped", (run(vm)))
    assert.equal("halt", (run(vm)))
    assert.same({ 1, 2 }, seen)
  end)

  it("error: a handler that raises", function()
    local vm <close> = support.program{ support.out(0x80, 1) }
    vm.ports:on(0x80, { write = function() error "no" end })
    local reason, info = run(vm)
    assert.equal("error", reason)
    assert.matches("no$", info.text)
    assert.matches("stack traceback", info.traceback)
  end)

  it("one of these reasons when the guest is noise", function()
    math.randomseed(20240117)
    local known = { halt = true, exit = true, shutdown = true, fault = true, deadline = true,
                    limit = true }
    for _ = 1, 30 do
      local noise = {}
      for i = 1, 256 do noise[i] = string.char(math.random(0, 255)) end
      local vm <close> = support.vm{ unhandled = "fault" }
      assert(vm:load{ bytes = table.concat(noise) })
      local reason, info = vm:run{ deadline = 0.01, exits = 10000 }
      assert.is_true(known[reason], reason)
      assert.is_true(#info.text > 0)
    end
  end)
end)

describe("a started VM is stopped within a bounded time when it", function()
  if support.without_kvm(pending) then return end

  for what, listing in pairs{ spins = SPIN, ["prints for ever"] = TALK,
                              ["calls for ever"] = TALK_BY_CALL } do
    it(what, function()
      close_after(support.code(listing), function(vm)
        vm:start()
        local reason
        local seconds = took(function() reason = vm:stop() end)
        assert.equal("stopped", reason)
        assert.is_true(seconds < process.SOON, ("%.3f s"):format(seconds))
        vm:start{ deadline = 0.03 }
        seconds = took(function() reason = vm:wait(20) end)
        assert.equal("deadline", reason)
        assert.is_true(seconds < process.SOON, ("%.3f s"):format(seconds))
      end)
    end)
  end

  it("waits for input", function()
    local vm <close> = support.guest "real/echo"
    vm:start()
    local reason
    local seconds = took(function() reason = vm:stop() end)
    assert.equal("stopped", reason)
    assert.is_true(seconds < process.SOON, ("%.3f s"):format(seconds))
  end)

  it("halts deaf, which is an end of its own", function()
    local vm <close> = support.code(HALT_DEAF)
    assert.equal("halt", (vm:start():wait(20)))
  end)

  it("has four cpus that spin", function()
    local vm <close> = support.code(SPIN, { cpus = 4 })
    vm:start()
    local reason, info
    local seconds = took(function() reason, info = vm:stop() end)
    assert.equal("stopped", reason)
    for cpu = 0, 3 do assert.equal("stopped", info.cpu[cpu].reason) end
    assert.is_true(seconds < process.SOON, ("%.3f s"):format(seconds))
    seconds = took(function() reason = vm:run{ deadline = 0.03 } end)
    assert.equal("deadline", reason)
    assert.is_true(seconds < process.SOON, ("%.3f s"):format(seconds))
  end)
end)

describe("a run that hit a limit goes on where it was", function()
  if support.without_kvm(pending) then return end

  ---"0123…" of n bytes, modulo 256
  local function counted(n)
    local bytes = {}
    for i = 1, n do bytes[i] = string.char((0x2f + i) & 0xff) end
    return table.concat(bytes)
  end

  it("after exits", function()
    local vm <close> = support.code(COUNT, { coalesce = false })
    for i = 1, 4 do
      local reason, info = vm:run{ exits = 100 }
      assert.same({ "limit", i * 100 }, { reason, info.exits })
      assert.equal(counted(i * 100), (vm.console:text()))
    end
  end)

  it("after a limit of exits on an IN, whose value arrives all the same", function()
    local vm <close> = support.program({ support.into(0x1000, 0x80), support.into(0x1004, 0x80) })
    local n = 0
    vm.ports:on(0x80, { read = function() n = n + 1 return n end })
    assert.equal("limit", (vm:run{ exits = 1 }))
    assert.equal(1, vm.cpu[0].eax)
    assert.equal("halt", (run(vm)))
    assert.same({ 1, 2 }, { vm.memory:u32(0x1000), vm.memory:u32(0x1004) })
  end)

  it("after output, of which every run has its own", function()
    local vm <close> = support.code(COUNT, { limits = { output = 500 } })
    local before = 0
    for _ = 1, 4 do
      assert.equal("limit", (run(vm)))
      local text, total = vm.console:text()
      assert.equal(counted(total), text)
      assert.is_true(total - before >= 500, ("%d bytes"):format(total - before))
      before = total
    end
  end)

  it("after a deadline, with coalesced output in order", function()
    local vm <close> = support.code(COUNT)
    for _ = 1, 5 do vm:run{ deadline = 0.02 } end
    local text, total = vm.console:text()
    if total == #text then assert.equal(counted(total), text) end
    assert.is_true(total > 0)
  end)

  it("and stopping and starting in turn loses nothing", function()
    local vm <close> = support.code(COUNT, { coalesce = false })
    for _ = 1, 5 do
      local _, before = vm.console:text()
      vm:start()
      process.await(function() return select(2, vm.console:text()) > before end)
      vm:stop()
    end
    local text, total = vm.console:text()
    if total == #text then assert.equal(counted(total), text) end
  end)
end)

describe("what a run reports", function()
  if support.without_kvm(pending) then return end

  it("counts exits in all, by kind, and by who served them", function()
    local vm <close> = support.program({ support.out(0x80, 1), support.into(0x1000, 0x80),
      support.out(0xe9, 65), support.into(0x1000, 0x3ff), support.out(0x3000, 1),
      support.into(0x1000, 0x3000) }, { coalesce = false })
    vm.ports:on(0x80, { read = function() return 0 end, write = function() end })
    local _, info = run(vm)
    assert.same({ exits = 7, by = { io = 6, hlt = 1 },
                  served = { lua = 2, c = 2, none = 2, coalesced = 0 } },
                { exits = info.exits, by = info.by, served = info.served })
  end)

  it("counts output that cost no exit", function()
    if not support.host.caps.coalesced_pio then return pending "this KVM has no coalesced PIO" end
    local vm <close> = support.code "b9 f4 01 b0 2e e6 e9 e2 fc f4" -- 500 times '.' to 0xe9
    local _, info = run(vm)
    assert.equal(500, info.served.coalesced + info.by.io) -- a full ring costs one
    assert.is_true(info.exits < 50)
    assert.equal(("."):rep(500), (vm.console:text()))
  end)

  it("keeps the order of coalesced output and exits", function()
    local parts = {}
    for i = 0, 9 do
      parts[#parts + 1] = support.out(0xe9, 0x30 + i) .. support.call(1, 0x61 + i)
    end
    local vm <close> = support.program(parts)
    run(vm)
    assert.equal("0a1b2c3d4e5f6g7h8i9j", (vm.console:text()))
  end)

  it("has an entry for each cpu, and the gravest speaks for the VM", function()
    local vm <close> = support.vm{ cpus = 4 }
    for cpu, listing in pairs{ [0] = "f4", "b3 03 b0 00 ba 00 05 ee", "f4", -- hlt; exit 3; hlt
                               "b3 00 b0 00 ba 00 05 ee" } do               -- exit 0
      assert(vm:load({ bytes = support.bytes(listing) }, { cpu = cpu }))
    end
    local reason, info = run(vm)
    assert.same({ "exit", 3 }, { reason, info.code })
    local ends, exits = {}, 0
    for cpu = 0, 3 do
      ends[cpu + 1] = info.cpu[cpu].reason
      exits = exits + info.cpu[cpu].exits
    end
    assert.same({ "halt", "exit", "halt", "exit" }, ends)
    assert.equal(info.exits, exits)
  end)

  it("lets a cpu go on when another exits by hypercall", function()
    local vm <close> = support.vm{ cpus = 2 }
    assert(vm:load({ bytes = support.call(0, 0) .. "\xf4" }))
    local longer = support.out(0x80, 1) .. support.out(0xe9, 65) .. "\xf4"
    assert(vm:load({ bytes = longer }, { cpu = 1 }))
    vm.ports:on(0x80, { write = function() end })
    local _, info = run(vm)
    assert.same({ "exit", "halt" }, { info.cpu[0].reason, info.cpu[1].reason })
    assert.equal("A", (vm.console:text(1)))
  end)

  it("shows that the exit port ends them all", function()
    local vm <close> = support.vm{ cpus = 2 }
    assert(vm:load{ bytes = support.bytes(SPIN) })
    assert(vm:load({ bytes = support.out(0xf4, 9) .. "\xf4" }, { cpu = 1 }))
    local reason, info = run(vm)
    assert.same({ "exit", 9, "stopped" }, { reason, info.code, info.cpu[0].reason })
  end)

  it("has times and registers", function()
    local vm <close> = support.code(SPIN)
    local _, info = vm:run{ deadline = 0.02 }
    assert.is_true(info.seconds >= 0.02)
    assert.equal(0, info.rip)
  end)

  it("takes the VM's limits, and the run's own before them", function()
    local vm <close> = support.code(TALK, { coalesce = false, limits = { exits = 5 } })
    assert.equal(5, select(2, run(vm)).exits)
    assert.equal(12, select(2, vm:run{ exits = 7 }).exits)
  end)

  it("wants options it knows", function()
    local vm <close> = support.code(SPIN)
    assert.error_matches(function() vm:run{ deadlin = 1 } end, "did you mean 'deadline'")
    for _, bad in ipairs{ -1, 0 / 0, math.huge, "1" } do
      assert.error_matches(function() vm:run{ deadline = bad } end, "deadline")
    end
    assert.error_matches(function() vm:run{ exits = 0 } end, "exits")
    assert.error_matches(function() vm:run(1) end, "table of options")
    vm:start()
    assert.error_matches(function() vm:wait(-1) end, "seconds")
    assert.error_matches(function() vm:wait(0 / 0) end, "seconds")
    local nothing, why, code = vm:wait(0.001)
    assert.is_nil(nothing)
    assert.matches("still running", why)
    assert.equal("ETIMEDOUT", code)
  end)

  it("traces every exit", function()
    local lines = {}
    local vm <close> = support.program({ support.out(0x80, 7), support.into(0x1000, 0x3000, 2) },
      { trace = function(line) lines[#lines + 1] = line end })
    local _, info = run(vm)
    assert.equal(info.exits, #lines)
    assert.matches("out +port=0x080 size=1 value=0x7", lines[1])
    assert.matches("in +port=0x3000 size=2 value=0xffff", lines[2])
    assert.matches("hlt", lines[3])
    vm:trace(nil)
    vm:reset()
    run(vm)
    assert.equal(3, #lines)
  end)

  it("traces from the middle of a run, to its middle", function()
    local vm <close> = support.code("e6 80 e6 81 e6 82 e6 83 f4", { coalesce = false })
    local lines = {}
    vm.ports:on(0x81, { write = function()
      vm:trace(function(line)
        lines[#lines + 1] = line:match "port=0x(%x+)"
        if #lines == 2 then vm:trace(nil) end
      end)
    end })
    assert.equal("halt", (run(vm)))
    assert.same({ "082", "083" }, lines) -- a line comes before its access is served
  end)

  it("tells a handler at once whether another VM has ended", function()
    local other <close> = support.code(SPIN)
    other:start()
    local vm <close> = support.code "e6 80 f4"
    local first, code, second
    vm.ports:on(0x80, { write = function()
      first, code = other:wait(0), select(3, other:wait(0))
      other:stop()
    end })
    assert.equal("halt", (run(vm)))
    assert.same({ "nil", "ETIMEDOUT" }, { tostring(first), code })
    second = other:wait()
    assert.equal("stopped", second)
  end)

  it("explains what it died of to whoever asks", function()
    for _, ask in ipairs{ "wait", "stop" } do
      local vm <close> = support.guest "real/triple"
      vm:start():wait()
      local reason, info = vm[ask](vm)
      assert.equal("shutdown", reason)
      assert.is_string(info.report)
    end
  end)

  it("is an error when the trace function fails", function()
    local fail = function() error "x" end
    local vm <close> = support.program({ support.out(0x80, 7) }, { trace = fail })
    assert.equal("error", (run(vm)))
  end)
end)

describe("a guest that floods the console", function()
  if support.without_kvm(pending) then return end

  it("costs bounded memory", function()
    local vm <close> = support.code(TALK_BY_CALL, { limits = { output = "64M" } })
    vm.console:on_line(function() end)
    local before = process.resident()
    assert.equal("limit", (run(vm)))
    local text, total = vm.console:text()
    assert.is_true(total >= 64 << 20)
    assert.equal(1 << 20, #text)
    if not process.sanitized() then assert.is_true(process.resident() - before < 16 << 10) end
  end)

  it("waits for a reader of stdout that does not read", function()
    local pipe, _, path = process.child [[
      local vm = support.guest("real/flood", { echo = true })
      print(vm:start():wait(0.3) or "running")
      io.stderr:write("total ", select(2, vm.console:text()), "\n")
    ]]
    os.remove(path)
    local text = pipe:read "a"
    pipe:close()
    assert.is_true(#text > 0)
  end)
end)
