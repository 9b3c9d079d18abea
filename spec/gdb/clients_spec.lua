-- Clients of gdb's protocol that come, go and come at the wrong moment, and vm:gdb's options.

local gdb = require "support.gdb"
local kvm = require "minikvm"
local process = require "support.process"
local program = require "support.program"
local support = require "support.guest"

describe("a client of gdb's protocol", function()
  if support.without_kvm(pending) or gdb.without_gdb(pending, true) then return end

  it("is the only one", function()
    local said = {}
    local output = gdb.against([[
quiet()
first, kept = line, rest
connect()
try: print("second", repr(receive()))
except OSError: print("second", "'closed'")
line, rest = first, kept
print("first", ask("qC"))
packet("k")
]], { notify = function(text) said[#said + 1] = text end })
    assert.equal("second 'closed'\nfirst QC1\n", output)
    assert.same({ "a second gdb was sent away: one is connected" }, said)
  end)

  it("may vanish: the guest does what it was told", function()
    local vanish <const> = "quiet()\nask('?')\nline.close()\n"
    local _, reason = gdb.against(vanish, { lost = "stop" })
    assert.equal("stopped", reason)

    for _, lost in ipairs{ "continue", "hold" } do
      local vm <close> = support.vm{ mode = "protected" }
      vm:load{ bytes = support.bytes(gdb.COUNT) }
      local server <close> = assert(vm:gdb{ lost = lost })
      local client = gdb.client(server.address, vanish)
      vm:start()
      client:finish()
      process.await(function() return not server.connected end)
      if lost == "continue" then
        process.await(function() return vm.memory:u32(0x2000) > 0 end)
      else
        assert.same({ "paused", 0 }, { vm.state, vm.memory:u32(0x2000) })
        assert.error_matches(function() vm:resume() end, "is not paused: its debugger holds it")
        client = gdb.client(server.address, "quiet()\nask('?')\nask('D')\n") -- another one
        process.await(function() return vm.memory:u32(0x2000) > 0 end)
        client:finish()
      end
      assert.equal("stopped", (vm:stop()))
    end
  end)

  it("that goes with half a packet sent costs nothing but itself", function()
    local output, reason = gdb.against([[
connect(); send(b"$m1000"); line.close()
quiet()
print(ask("m1000,1"))
packet("k")
]])
    assert.same({ "ff\n", "stopped" }, { output, reason })
  end)

  it("is heard also while the guest halts, waits in a handler, and does nothing but run", function()
    local vm <close> = support.vm{ mode = "protected" }
    vm:load{ bytes = support.bytes "e4 80 f4" } -- in al, 0x80; hlt
    local server <close> = assert(vm:gdb{ stop = false })
    local client
    vm.ports:on(0x80, { read = function()
      client = gdb.client(server.address, [[
quiet()
print(ask("?")[:3], ask("m1000,2"))
print(ask("D"))
]])
      while server.hits == 0 or server.connected do kvm.sleep(0.005) end
      return 7
    end })
    assert.equal("halt", (vm:run{ deadline = 20 }))
    assert.equal("T05 e480\nOK\n", client:finish())
    assert.equal(7, vm.cpu[0].al)
  end)
end)

describe("minikvm run", function()
  if support.without_kvm(pending) or gdb.without_gdb(pending, true) then return end

  it("waits for gdb with --gdb, and at a crash with --gdb-on-crash", function()
    local path <const> = os.tmpname() .. ".socket"
    local debugger = gdb.start{
      -- it comes when the socket is there
      "python import os, time",
      ("python while not os.path.exists(%q): time.sleep(0.01)"):format(path),
      "target remote " .. path, gdb.MARK, "x/i $pc", "break *6", "continue", "p $pc", "continue" }
    local r = program.run(("P run --gdb unix:%s guests/real/hello.bin"):format(path))
    assert.same({ 0, "Hello, KVM!\n", ("minikvm: hello: it waits for gdb: target remote %s\n")
      :format(path) }, { r.status, r.out, r.err })
    assert.matches("=> 0x0:\tmov    %$0x17,%%si\n.-Breakpoint 1, 0x00000006.-exited normally",
                   gdb.behind_mark(debugger:finish()))

    debugger = gdb.start{
      "python import os, time",
      ("python while not os.path.exists(%q): time.sleep(0.01)"):format(path),
      "target remote " .. path, gdb.MARK, "x/2xb 0x1009", "kill" }
    r = program.run(("P run --gdb-on-crash unix:%s --mode protected guests/prot/triple.bin")
      :format(path))
    assert.equal(134, r.status)
    assert.matches("^minikvm: triple: shutdown; to look at it: target remote .-\n"
      .. "minikvm: triple: shutdown: triple fault", r.err)
    assert.equal("0x1009:\t0xf7\t0xf1\n[Inferior 1 (Remote target) killed]\n",
                 gdb.behind_mark(debugger:finish()))
  end)

  it("says what is wrong with where gdb is to connect", function()
    for words, why in pairs{
      ["--gdb x"] = '--gdb: expected a port',
      ["--gdb 1 --gdb-on-crash 2"] = "--gdb or --gdb-on-crash",
      ["--gdb 1 guests/real/counter.bin"] = "--gdb is for one image",
    } do
      local r = program.run(("P run %s guests/real/hello.bin"):format(words))
      assert.equal(2, r.status)
      assert.matches(why, r.err, 1, true)
    end
    local r = program.run "P run --gdb unix:/nonexistent/x guests/real/hello.bin"
    assert.equal(1, r.status)
    assert.matches("unix:/nonexistent/x: No such file or directory", r.err, 1, true)
  end)

  it("gives a --safe script no gdb", function()
    if process.sanitized() then return end -- it asks of the jail what that forbids
    local path = program.file 'require("minikvm").vm():gdb()'
    local r = program.run("P --safe " .. path)
    os.remove(path)
    assert.not_equal(0, r.status)
    assert.matches("vm:gdb", r.err, 1, true)
  end)
end)

describe("vm:gdb", function()
  if support.without_kvm(pending) then return end

  it("says what is wrong with its options, and what the world refuses", function()
    local vm <close> = support.vm()
    for _, case in ipairs{
      { { at = "host" }, "option 'at': expected a port" }, { { at = 70000 }, "expected a port" },
      { { at = "a\0b" }, "expected a port or text" }, { { lost = "no" }, "expected \"hold\"" },
      { { port = 1 }, "unknown option 'port'" },
    } do
      assert.error_matches(function() vm:gdb(case[1]) end, case[2])
    end
    local path = process.temporary()
    local gdb_, why, code = vm:gdb{ at = "unix:" .. path }
    assert.same({ nil, "EADDRINUSE" }, { gdb_, code })
    assert.matches("it is there already: remove it", why)
    os.remove(path)
    assert.equal("ENAMETOOLONG", (select(3, vm:gdb{ at = "unix:/" .. ("x"):rep(200) })))
    local server = assert(vm:gdb{ at = "unix:" .. path })
    assert.error_matches(function() vm:gdb() end, "has a gdb already")
    assert.equal(path, server.address)
    server:remove()
    assert.is_nil(io.open(path))
    local again <close> = assert(vm:gdb())
    assert.equal("127.0.0.1:" .. again.port, again.address)
    local other <close> = support.vm()
    assert.equal("EADDRINUSE", (select(3, other:gdb{ at = again.port })))
    assert.error_matches(function() return again.nothing end, "gdb has no")
  end)

  it("leaves no descriptor and no hold behind when it goes, or with its VM", function()
    local vm = support.vm{ mode = "protected" }
    vm:load{ bytes = support.bytes "f4" }
    vm:run()
    local before = process.descriptors()
    assert(vm:gdb()):remove()
    assert.equal(before, process.descriptors())
    vm:reset()
    assert.equal("halt", (vm:run{ deadline = 5 }))
    local server = assert(vm:gdb())
    vm:close()
    server:remove()
    assert.is_true(process.descriptors() < before)
  end)
end)
