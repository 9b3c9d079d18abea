-- The life of a VM: options, loading, states, reset, and use after its end.

local kvm = require "minikvm"
local support = require "support.guest"
local process = require "support.process"

local HLT = "f4"
local WINDOW <const> = 0x40000

-- Counts in memory, on the console, in a register of the UART and in a port hook's eyes.
local COUNT = [[
  fe 06 00 10   ; inc byte ptr [0x1000]
  a0 00 10      ; mov al, [0x1000]
  04 30         ; add al, '0'
  e6 e9         ; out 0xe9, al
  ba ff 03      ; mov dx, 0x3ff (scratch register)
  ec            ; in al, dx
  e6 80         ; out 0x80, al
  b0 5a         ; mov al, 0x5a
  ee            ; out dx, al
  f4            ; hlt
  eb e9         ; jmp to the start
]]

---A call that reports its failure in either way: raises, or returns nil and a text.
local function refused(pattern, fn, ...)
  local ok, value, why = pcall(fn, ...)
  local text = ok and why or value
  assert.is_truthy(not ok or value == nil, "it was accepted")
  assert.matches(pattern, text)
end

local function run(vm)
  return vm:run{ deadline = 20 }
end

describe("options of kvm.vm", function()
  if support.without_kvm(pending) then return end

  it("name the nearest option when one is unknown", function()
    assert.error_matches(function() kvm.vm{ memmory = "1M" } end, "did you mean 'memory'")
    assert.error_matches(function() kvm.vm{ limits = { exit = 1 } } end,
                         "did you mean 'limits%.exits'")
    assert.error_matches(function() kvm.vm{ [1] = true } end, "unknown option %[1%]")
    assert.error_matches(function() kvm.vm "1M" end, "expected a table")
  end)

  it("take 1 to 64 cpus", function()
    for _, cpus in ipairs{ 0, 65, -1, 1000000000, 1 << 32 | 1, math.maxinteger, math.mininteger } do
      refused("1 to 64", kvm.vm, { cpus = cpus })
    end
    refused("integer", kvm.vm, { cpus = 1.5 })
    for _, cpus in ipairs{ 1, 2, 4, 5, 63, 64 } do kvm.vm{ cpus = cpus }:close() end
  end)

  it("take a memory size that can be", function()
    for _, size in ipairs{ 0, -1, math.mininteger, math.maxinteger, 4097, 1.5, "4Q", "", "-4K", "0",
                           "1K", "9000000000G", "65G", "1M " } do
      refused("memory", kvm.vm, { memory = size })
    end
    for given, size in pairs{ ["4K"] = 4096, ["2M"] = 2 << 20, [8192] = 8192, ["12288"] = 12288 } do
      local vm = support.vm{ memory = given }
      assert.equal(size, #vm.memory)
      vm:close()
    end
  end)

  it("refuse several cpus without room for their windows or stacks", function()
    refused("a window of 256 KiB each", kvm.vm, { cpus = 4, memory = "512K" })
    refused("a window of 16 KiB each", kvm.vm, { cpus = 64, memory = "1020K" })
    refused("a stack of 16 KiB each", kvm.vm, { cpus = 64, memory = "1M", mode = "long" })
    support.vm{ cpus = 2, memory = "512K" }:close()
  end)

  it("refuse wrong modes, limits and types", function()
    refused("mode", kvm.vm, { mode = "reall" })
    refused("unhandled", kvm.vm, { unhandled = "faults" })
    refused("limits%.exits", kvm.vm, { limits = { exits = 0 } })
    refused("limits%.seconds", kvm.vm, { limits = { seconds = -1 } })
    refused("limits%.output", kvm.vm, { limits = { output = "4Q" } })
    refused("name", kvm.vm, { name = 1 })
    refused("trace", kvm.vm, { trace = true })
    refused("echo", kvm.vm, { echo = 1 })
  end)
end)

describe("vm:load", function()
  if support.without_kvm(pending) then return end
  local path

  before_each(function() path = process.temporary() end)
  after_each(function() os.remove(path) end)

  local function file_of(size)
    local file <close> = assert(io.open(path, "wb"))
    file:write("\xf4", ("\0"):rep(size - 1))
  end

  local function check_failure(code, pattern, vm, ...)
    local loaded, why, name = vm:load(...)
    assert.is_nil(loaded)
    assert.matches(pattern, why)
    assert.equal(code, name)
  end

  it("says why a file cannot be an image", function()
    local vm <close> = support.vm()
    check_failure("ENOENT", "^/no/such%.bin: No such file", vm, "/no/such.bin")
    check_failure("EISDIR", "^/tmp: .*directory", vm, "/tmp")
    check_failure("EINVAL", "empty", vm, path)
    check_failure("EINVAL", "regular file", vm, "/dev/null")
    check_failure("EINVAL", "empty", vm, { bytes = "" })
  end)

  it("does not wait for a FIFO's writer", function()
    os.remove(path)
    assert(os.execute("mkfifo " .. path))
    local vm <close> = support.vm()
    check_failure("EINVAL", "regular file", vm, path)
  end)

  it("takes an image of exactly the window's size", function()
    local vm <close> = support.vm()
    file_of(WINDOW)
    assert.equal(vm, vm:load(path))
    assert.equal("halt", (run(vm)))
  end)

  it("refuses one byte more, and says how much room there is", function()
    local vm <close> = support.vm()
    file_of(WINDOW + 1)
    check_failure("EFBIG", "262145 bytes do not fit at 0x0: there is room for 262144", vm, path)
    local two <close> = support.vm{ cpus = 2 }
    check_failure("EFBIG", "262145 bytes do not fit at 0x40000", two, path, { cpu = 1 })
  end)

  it("fills RAM to its last byte, not further, when told where", function()
    local vm <close> = support.vm{ memory = "64K" }
    file_of(0x10000)
    assert(vm:load(path, { at = 0 }))
    assert(vm:load({ bytes = "\xf4" }, { at = 0xffff, segment = 0xfff, entry = 0xf }))
    assert.equal("halt", (run(vm)))
    check_failure("EFBIG", "do not fit", vm, { bytes = "\xf4\xf4" },
                  { at = 0xffff, segment = 0, entry = 0 })
    file_of(0x10001)
    check_failure("EFBIG", "do not fit", vm, path)
  end)

  it("refuses places outside RAM, sums that overflow included", function()
    local vm <close> = support.vm()
    for _, at in ipairs{ 1 << 20, 1 << 32, math.maxinteger, math.maxinteger - 0xfff } do
      check_failure("EFBIG", "do not fit", vm, { bytes = "\xf4" }, { at = at })
      check_failure("EFBIG", "do not fit", vm, { bytes = "\xf4" }, { at = at, segment = 0 })
    end
    for _, far in ipairs{ 0x10000, 1 << 32, 1 << 60, math.maxinteger } do
      check_failure("EINVAL", "entry", vm, { bytes = "\xf4" }, { segment = far })
      check_failure("EINVAL", "entry", vm, { bytes = "\xf4" }, { entry = far })
      check_failure("EINVAL", "entry", vm, { bytes = "\xf4" }, { segment = far, entry = far })
    end
    check_failure("EINVAL", "entry", vm, { bytes = "\xf4" }, { segment = 0xffff, entry = 0xffff })
    for _, key in ipairs{ "at", "segment" } do
      assert.error_matches(function() vm:load({ bytes = "\xf4" }, { [key] = -1 }) end, key)
    end
    check_failure("EINVAL", "entry", vm, { bytes = "\xf4" }, { entry = -1 }) -- fine in long mode
  end)

  it("wants segment and entry for a place that no segment begins at", function()
    local vm <close> = support.vm()
    check_failure("EINVAL", "segment", vm, { bytes = "\xf4" }, { at = 0x12345 })
    assert(vm:load({ bytes = "\xf4" }, { at = 0x12345, segment = 0x1234, entry = 5 }))
    local reason, info = run(vm)
    assert.same({ "halt", 6 }, { reason, info.rip })
  end)

  it("starts a boot sector where a PC does", function()
    local vm <close> = support.vm()
    assert(vm:load({ bytes = support.bytes "8c c8 e6 80 f4" }, -- mov ax, cs; out 0x80, al; hlt
                   { at = 0x7c00, segment = 0, entry = 0x7c00 }))
    assert.equal("halt", (run(vm)))
    assert.equal(0x7c05, vm.cpu[0].ip)
    assert.equal(0, vm.cpu[0].ax)
  end)

  it("refuses a cpu that the VM does not have", function()
    local vm <close> = support.vm{ cpus = 2 }
    for _, cpu in ipairs{ 2, 4, -1, 1 << 32, math.maxinteger } do
      refused("cpu", vm.load, vm, { bytes = "\xf4" }, { cpu = cpu })
    end
  end)

  it("raises when it is called wrongly", function()
    local vm <close> = support.vm()
    assert.error_matches(function() vm:load() end, "expected a path")
    assert.error_matches(function() vm:load(42) end, "expected a path")
    assert.error_matches(function() vm:load{} end, "no 'bytes'")
    assert.error_matches(function() vm:load{ bytes = 1 } end, "bytes")
    assert.error_matches(function() vm:load("x", { entri = 1 }) end, "did you mean 'entry'")
    assert.error_matches(function() vm.load "guest.bin" end, "':'")
  end)

  it("leaves its reason for a run that follows", function()
    local vm <close> = support.vm{ name = "empty" }
    assert.error_matches(function() vm:run() end, "\"empty\": cpu 0 has nothing to run")
    vm:load "/no/such.bin"
    assert.error_matches(function() vm:run() end, "the last load failed: /no/such.bin: No such")
    assert.error_matches(function() vm:start() end, "nothing to run")
    assert.equal("idle", vm.state)
  end)
end)

describe("a VM", function()
  if support.without_kvm(pending) then return end

  it("tells its name and its state", function()
    local vm = support.code(HLT, { name = "a" })
    assert.equal("a", vm.name)
    assert.equal("idle", vm.state)
    assert.equal('minikvm.vm "a" (real mode, 1M, 1 vCPU, idle)', tostring(vm))
    run(vm)
    assert.equal("ended", vm.state)
    vm:close()
    assert.equal("closed", vm.state)
    assert.equal('minikvm.vm "a" (closed)', tostring(vm))
    assert.equal("vm", support.vm().name)
  end)

  it("cuts a name that is too long, and takes any bytes in it", function()
    local vm <close> = support.vm{ name = ("%s%n\n"):rep(100) }
    assert.equal(("%s%n\n"):rep(100):sub(1, 63), vm.name)
  end)

  it("is running between start and its end, and then only", function()
    local vm <close> = support.code "eb fe" -- jmp $
    vm:start()
    assert.equal("running", vm.state)
    assert.error_matches(function() vm:start() end, "is running")
    assert.error_matches(function() vm:run() end, "is running")
    assert.error_matches(function() vm:reset() end, "is running")
    assert.error_matches(function() vm:load{ bytes = "\xf4" } end, "is running")
    assert.error_matches(function() return vm.cpu[0].rip end, "is running")
    assert.equal("stopped", (vm:stop()))
    assert.equal("ended", vm.state)
    assert.equal("stopped", (vm:wait()))
  end)

  it("was never started: waiting for it is an error, stopping it nothing", function()
    local vm <close> = support.code(HLT)
    assert.error_matches(function() vm:wait() end, "never started")
    assert.is_nil((vm:stop()))
    assert.equal("halt", (run(vm)))
  end)

  it("runs on behind the HLT when it is run twice", function()
    local vm <close> = support.code "b0 41 e6 e9 f4 b0 42 e6 e9 f4" -- 'A' to 0xe9, hlt, 'B', hlt
    assert.equal("halt", (run(vm)))
    assert.equal("A", (vm.console:text()))
    assert.equal("halt", (run(vm)))
    assert.equal("AB", (vm.console:text()))
  end)

  it("does not run on after a triple fault, but after a reset", function()
    local vm <close> = support.guest "real/triple"
    assert.equal("shutdown", (run(vm)))
    assert.error_matches(function() vm:run() end, "ended by shutdown: reset")
    vm:reset()
    assert.equal("idle", vm.state)
    assert.equal("shutdown", (run(vm)))
  end)

  it("has no other fields", function()
    local vm <close> = support.vm()
    assert.error_matches(function() return vm.rum end, "a vm has no 'rum'")
    assert.error_matches(function() return vm[1] end, "a vm has no '1'")
    assert.error(function() vm.name = "b" end)
    assert.is_nil(vm.cpu[1])
  end)

  it("is closed once, however often, and by <close>", function()
    local kept
    do
      local vm <close> = support.code(HLT)
      kept = vm
    end
    assert.equal("closed", kept.state)
    kept:close()
    kept:close()
    local running <close> = support.code("eb fe"):start()
    running:close()
    assert.equal("closed", running.state)
  end)

  it("says so when it is used after its end", function()
    local vm = support.code(HLT, { name = "late" })
    local cpu, memory, console = vm.cpu[0], vm.memory, vm.console
    local ports, calls = vm.ports, vm.hypercalls
    local hook = ports:on(0x80, { write = function() end })
    local call = calls:define(0x80, "x", function() end)
    local listener = console:on_line(function() end)
    run(vm)
    vm:close()
    local nothing = function() end
    for what, use in pairs{
      run = function() vm:run() end, start = function() vm:start() end,
      wait = function() vm:wait() end, stop = function() vm:stop() end,
      load = function() vm:load{ bytes = "\xf4" } end, reset = function() vm:reset() end,
      trace = function() vm:trace(nothing) end, rip = function() return cpu.rip end,
      ["rip="] = function() cpu.rip = 0 end, regs = function() cpu:regs() end,
      sregs = function() cpu:sregs() end, read = function() memory:read(0, 1) end,
      write = function() memory:write(0, "x") end, u8 = function() memory:u8(0) end,
      find = function() memory:find "x" end, size = function() return #memory end,
      on = function() ports:on(0x90, { read = nothing }) end,
      override = function() ports:override(0x90, { read = nothing }) end,
      define = function() calls:define(1, "x", nothing) end,
      send = function() console:send "x" end, eof = function() console:eof() end,
      text = function() console:text() end, on_line = function() console:on_line(nothing) end,
      input = function() console:input "/dev/null" end, attach = function() console:attach() end,
      fork = function() vm:fork() end, snapshot = function() vm:snapshot() end,
      sendline = function() console:sendline "x" end, stats = function() vm:stats() end,
      remove = function() hook:remove() end, remove2 = function() call:remove() end,
    } do
      local ok, why = pcall(use)
      assert.is_false(ok, what)
      assert.matches("^[^\n]*vm_spec%.lua:%d+: [^\n]*closed", why, 1, false, what)
    end
    assert.is_number(hook.hits)
    assert.is_number(call.hits)
    assert.error_matches(function() listener:remove() end, "closed")
    assert.matches("closed", tostring(cpu))
    assert.is_string(tostring(memory))
  end)

  it("may be closed before what was to be closed with it", function()
    local vm = support.code(HLT)
    local hook <close> = vm.ports:on(0x80, { write = print })
    local call <close> = vm.hypercalls:define(0x80, "x", print)
    local listener <close> = vm.console:on_line(print)
    vm:close()
    assert.same({ 0, 0, 0 }, { hook.hits, call.hits, listener.hits })
  end)

  it("asks for ':' where '.' was written", function()
    local vm <close> = support.code(HLT)
    local hook <close> = vm.ports:on(0x80, { write = print })
    for what, use in pairs{
      run = function() vm.run() end, run_with = function() vm.run{ deadline = 1 } end,
      start = function() vm.start() end, wait = function() vm.wait(1) end,
      stop = function() vm.stop() end, close = function() vm.close() end,
      reset = function() vm.reset() end, load = function() vm.load "x" end,
      trace = function() vm.trace(print) end, read = function() vm.memory.read(0, 1) end,
      u8 = function() vm.memory.u8(0) end, regs = function() vm.cpu[0].regs() end,
      on = function() vm.ports.on(0x80, { write = print }) end,
      override = function() vm.ports.override(0x80, { write = print }) end,
      define = function() vm.hypercalls.define(1, "x", print) end,
      send = function() vm.console.send "x" end, sendline = function() vm.console.sendline "x" end,
      on_line = function() vm.console.on_line(print) end, text = function() vm.console.text() end,
      remove = function() hook.remove() end,
    } do
      local ok, why = pcall(use)
      assert.is_false(ok, what)
      assert.matches("':'", why, 1, true, what)
    end
  end)
end)

describe("vm:reset", function()
  if support.without_kvm(pending) then return end

  ---Everything that a run of COUNT can be told apart by.
  local function observe(vm)
    local scratch = {}
    local hook <close> = vm.ports:on(0x80, { write = function(_, value)
      scratch[#scratch + 1] = value
    end })
    local reason, info = run(vm)
    local again = run(vm)
    return { reason, again, info.exits, info.by, info.served, scratch, (vm.console:text()),
             vm.memory:u8(0x1000), vm.cpu[0]:regs(), vm.cpu[0]:sregs().cs, hook.hits }
  end

  it("gives the same run again: memory, registers, devices, console, counters", function()
    local vm <close> = support.code(COUNT, { coalesce = false })
    local first = observe(vm)
    assert.same({ { 0, 0x5a }, "12", 2 }, { first[6], first[7], first[8] })
    for _ = 1, 3 do
      vm.memory:fill(0x2000, 100, 0xcc)
      vm.cpu[0].cs = 0x1111
      vm.cpu[0].rbx = 42
      assert.equal(vm, vm:reset())
      assert.same({ "idle", "", 0, "\0" }, { vm.state, (vm.console:text()), vm.cpu[0].rbx,
                                            vm.memory:read(0x2000, 1) })
      assert.same(first, observe(vm))
    end
  end)

  it("does so with coalesced output too", function()
    local vm <close> = support.code(COUNT)
    local first = observe(vm)
    vm:reset()
    assert.same(first, observe(vm))
  end)

  it("puts back a program that changed itself", function()
    local vm <close> = support.code "c6 06 05 00 90 f4 f4" -- mov byte ptr [5], nop; hlt; hlt
    assert.equal(7, select(2, run(vm)).rip)
    vm:reset()
    assert.equal("c606050090f4f4", (vm.memory:read(0, 7):gsub(".", function(c)
      return ("%02x"):format(c:byte())
    end)))
    assert.equal(7, select(2, run(vm)).rip)
  end)

  it("starts every cpu where its own image was loaded", function()
    local vm <close> = support.vm{ cpus = 2 }
    assert(vm:load({ bytes = "\xf4" }, { at = 0x7c00, segment = 0, entry = 0x7c00 }))
    assert(vm:load({ bytes = "\x90\xf4" }, { cpu = 1 }))
    for _ = 1, 2 do
      local _, info = run(vm)
      assert.same({ 0x7c01, 2 }, { info.cpu[0].rip, info.cpu[1].rip })
      vm:reset()
    end
  end)

  it("leaves a cpu alone that had no image", function()
    local vm <close> = support.vm{ cpus = 2 }
    assert(vm:load({ bytes = "\xf4" }, { at = 0x7c00, segment = 0, entry = 0x7c00 }))
    vm.memory:write(0x100, "\xf4") -- whoever writes memory may have written any cpu's program
    vm:reset()
    assert.equal(0x7c00, vm.cpu[0].rip)
  end)

  it("keeps hooks, listeners and definitions", function()
    local vm <close> = support.code "b0 41 e6 80 e6 e9 f4" -- 'A' to 0x80 and 0xe9, hlt
    local lines = {}
    vm.console:on_line(function(line) lines[#lines + 1] = line end)
    local hook = vm.ports:on(0x80, { write = function() end })
    run(vm)
    vm:reset()
    run(vm)
    assert.same({ { "A", "A" }, 2 }, { lines, hook.hits })
  end)

  it("lets an input file begin anew, and ended input go on", function()
    local path = process.temporary "xyz"
    local vm <close> = support.guest "real/echo"
    vm.console:input(path)
    for _ = 1, 2 do
      assert.equal("exit", (run(vm)))
      assert.equal("xyz", (vm.console:text()))
      vm:reset()
    end
    vm.console:detach()
    vm.console:send("abc"):eof()
    run(vm)
    assert.equal("abc", (vm.console:text()))
    os.remove(path)
  end)
end)
