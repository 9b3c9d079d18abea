-- Signals in every call that blocks: the script gets its thread back, and the process ends in time.

local kvm = require "minikvm"
local support = require "support.guest"
local process = require "support.process"

local PROLOGUE <const> = [[
  local function ready()
    ready = function() end
    io.stderr:write "ready\n"
  end
  -- A guest that calls a handler and then spins: what is ready is the call that blocks.
  local spin = support.code "e6 80 eb fe" -- out 0x80, al; jmp $
  local function watch()
    spin.ports:on(0x80, { write = function() ready() end })
  end
  local function attempt(fn)
    local ok, why = pcall(fn)
    print("returned", ok, why)
    print("state", spin.state)
  end
]]

-- Ends of the PROLOGUE, by the call that blocks. Whoever reads "ready" may send the signal.
local CALLS = {
  ["vm:run"] = "watch() attempt(function() spin:run() end)",
  ["vm:run of four cpus"] = [[
    spin = support.code("e6 80 eb fe", { cpus = 4 })
    watch() attempt(function() spin:run() end)]],
  ["vm:run that waits for input"] = [[
    spin = support.guest "real/echo"
    spin.ports:override(0x500, { read = function(_, _, next) ready() return next() end })
    attempt(function() spin:run() end)]],
  ["vm:run whose handler waits"] = [[
    spin.ports:on(0x80, { write = function() ready() kvm.sleep(1000) end })
    attempt(function() spin:run() end)]],
  ["vm:wait while a handler waits"] = [[
    spin.ports:on(0x80, { write = function() ready() kvm.sleep(1000) end })
    spin:start() attempt(function() spin:wait() end)]],
  ["vm:wait"] = "watch() spin:start() attempt(function() spin:wait() end)",
  ["kvm.wait"] = "watch() spin:start() attempt(function() kvm.wait{ spin } end)",
  ["kvm.sleep"] = "watch() spin:start() attempt(function() kvm.sleep(1000) end)",
  ["what comes before vm:run"] = "attempt(function() ready() spin:run() end)",
  ["what comes before vm:wait"] = "spin:start() attempt(function() ready() spin:wait() end)",
  ["what comes before kvm.sleep"] = "attempt(function() ready() kvm.sleep(1000) end)",
}

---Starts the child, sends the signal when it is ready; its output after that, and how it ended.
local function signalled(code, signal)
  local pipe, pid, path = process.child(PROLOGUE .. code)
  pipe:read "l"
  assert.equal("ready", pipe:read "l")
  assert(os.execute(("kill -%s %d"):format(signal, pid)))
  local output, how, status
  local seconds = process.took(function() output, how, status = process.finish(pipe) end)
  os.remove(path)
  return output, how, status, seconds
end

describe("SIGINT", function()
  if support.without_kvm(pending) then return end

  for call, code in pairs(CALLS) do
    it("is an error out of " .. call, function()
      local output, how, status, seconds = signalled(code, "INT")
      assert.matches("returned\tfalse\t.*interrupted!", output)
      assert.same({ "exit", 0 }, { how, status })
      assert.is_true(seconds < process.SOON, ("%.3f s"):format(seconds))
    end)
  end

  it("leaves a VM of its own thread running, and stops the one it ran", function()
    assert.matches("state\trunning", (signalled(CALLS["vm:wait"], "INT")))
    assert.matches("state\tended", (signalled(CALLS["vm:run"], "INT")))
  end)

  it("nobody catches ends the program", function()
    local output, how, status, seconds = signalled("watch() spin:run()", "INT")
    assert.matches("interrupted!", output)
    assert.same({ "exit", true }, { how, status ~= 0 })
    assert.is_true(seconds < process.SOON, ("%.3f s"):format(seconds))
  end)

  it("twice ends a handler that never does", function()
    local pipe, pid, path = process.child [[
      local vm = support.program{ support.out(0x80, 1) }
      vm.ports:on(0x80, { write = function()
        io.stderr:write "ready\n"
        while true do end
      end })
      vm:start()
      vm:wait()
    ]]
    pipe:read "l"
    assert.equal("ready", pipe:read "l")
    -- Two signals of one kind may become one while the first is pending.
    os.execute(("for i in $(seq 200); do kill -INT %d 2>/dev/null || break; sleep 0.02; done")
      :format(pid))
    local _, how, number = process.finish(pipe)
    os.remove(path)
    assert.same({ "signal", 2 }, { how, number })
  end)
end)

describe("SIGTERM", function()
  if support.without_kvm(pending) then return end

  for call, code in pairs(CALLS) do
    it("ends the process in " .. call, function()
      local _, how, number, seconds = signalled(code, "TERM")
      assert.same({ "signal", 15 }, { how, number })
      assert.is_true(seconds < process.SOON, ("%.3f s"):format(seconds))
    end)
  end
end)

describe("os.exit", function()
  if support.without_kvm(pending) then return end

  for _, close in ipairs{ "false", "true" } do
    it("in a handler ends the process with its status, closing the state: " .. close, function()
      local _, how, status = process.run(([[
        local other = support.code("eb fe"):start()
        local vm = support.code("eb fe", { cpus = 4 })
        vm:load{ bytes = support.out(0x80, 1) }
        vm.ports:on(0x80, { write = function() os.exit(3, %s) end })
        vm:start()
        vm:wait()
        other:stop()
      ]]):format(close), "env ASAN_OPTIONS=detect_leaks=0 "
        .. "TSAN_OPTIONS=report_thread_leaks=0") -- what other threads use stays, and they do
      assert.same({ "exit", 3 }, { how, status })
    end)
  end

  it("in the script ends running VMs", function()
    local _, _, status = process.run [[
      support.code("eb fe"):start()
      os.exit(4, true)
    ]]
    assert.equal(4, status)
  end)

  it("is not needed: a script that comes to its end takes its VMs along", function()
    local _, how, status = process.run [[
      for cpus = 1, 4 do support.code("e6 80 eb fc", { cpus = cpus }):start() end
    ]]
    assert.same({ "exit", 0 }, { how, status })
  end)
end)

---The signals blocked in the thread that reads it (proc(5), SigBlk), as a number.
local MASK <const> = [[
  local function mask(path)
    for line in io.lines(path or "/proc/thread-self/status") do
      local digits = line:match "^SigBlk:%s*(%x+)"
      if digits then return tonumber(digits, 16) end
    end
  end
  local KICK = 1 << (kvm.signal() - 1)
]]

---Words before a program that start it with the kick's signal blocked, as threads of many runtimes
---do.
local BLOCKED <const> = ("env --block-signal=%d"):format(kvm.signal())

describe("the kick's signal", function()
  if support.without_kvm(pending) then return end

  it("blocked by the caller is let in while a VM runs, and blocked again", function()
    local output = process.run(MASK .. [[
      assert(mask() & KICK == KICK)
      local vm = support.code "e6 80 eb fe"
      local inside
      vm.ports:on(0x80, { write = function() inside = mask() end })
      local reason = vm:run{ deadline = 0.05 }
      print("ran", reason, inside & KICK, mask() & KICK == KICK)
      vm:reset()
      vm:start()
      print("stopped", vm:stop())
    ]], BLOCKED)
    assert.matches("ran\tdeadline\t0\ttrue\n", output)
    assert.matches("stopped\tstopped", output)
  end)

  it("blocked by the caller ends handlers, and workers", function()
    if process.without_signals(pending) then return end
    local output = process.run([[
      local vm = support.code("e6 80 f4", { limits = { handler = 0.02 } })
      vm.ports:on(0x80, { write = function() while true do end end })
      print((vm:run()))
      local w = kvm.worker(function() while true do end end)
      print((w:close()))
    ]], BLOCKED)
    assert.matches("error\ntrue\n", output)
  end)

  it("can be another one, chosen before the first VM", function()
    local output = process.run [[
      local other = kvm.signal() + 1
      local function fails(...) return select(2, pcall(kvm.signal, ...)) end
      print("wrong", fails(9), fails(11), fails(33), fails(1000), fails(2))
      print("chosen", kvm.signal(other) == other, kvm.signal() == other)
      local vm = support.code "eb fe"
      print("ran", (vm:run{ deadline = 0.05 }))
      for line in io.lines "/proc/self/status" do
        local caught = line:match "^SigCgt:%s*(%x+)"
        -- neither, old, new
        if caught then print("caught", tonumber(caught, 16) >> (other - 2) & 3) end
      end
      print("late", fails(other + 1))
      print("same", kvm.signal(other) == other)
    ]]
    assert.matches("wrong\t[^\n]*signal 9 cannot.*signal 11 cannot.*signal 33 cannot.*"
                   .. "no such signal"
      .. ".*signal 2 is in use", output)
    assert.matches("chosen\ttrue\ttrue\nran\tdeadline\ncaught\t2\nlate\t.*before the first VM",
                   output)
    assert.matches("same\ttrue", output)
  end)

  it("breaks off a write that nobody reads, when the deadline has passed, and nothing else",
     function()
    if process.without_signals(pending) then return end
    local output, _, _ = process.run [[
      local stalled = io.popen("exec sleep 20 >/dev/null 2>&1", "w")
      stalled:setvbuf "no"
      local vm = support.code "e6 80 e6 81 f4"
      vm.ports:on(0x80, { write = function()
        print("read", io.popen("sleep 0.1; echo slow"):read())
      end })
      vm.ports:on(0x81, { write = function() stalled:write(("x"):rep(1 << 20)) end })
      print("ran", (vm:run{ deadline = 0.5 }))
      os.exit(0, false)
    ]]
    assert.matches("read\tslow\nran\tdeadline", output)
  end)
end)

describe("a process of the test runner", function()
  it("has no signal blocked, whatever started the runner", function()
    local output = process.run([[
      local children <close> = require("minikvm.test.children").open()
      children:spawn({ "/bin/sh", "-c", "exec grep SigBlk /proc/self/status" },
                     { "PATH=/usr/bin:/bin" })
      local text = ""
      repeat
        local what, _, bytes = children:next(20)
        if what == "output" then text = text .. bytes end
      until what ~= "output" and what ~= "report"
      print(text)
    ]], "env --block-signal=TERM --block-signal=USR1")
    assert.matches("SigBlk:%s+0+\n", output)
  end)
end)

describe("a process that a handler starts", function()
  if support.without_kvm(pending) then return end

  it("has the signal mask of the thread that runs or starts the VM", function()
    local output = process.run(MASK .. [[
      local vm = support.code "e6 80 f4"
      vm.ports:on(0x80, { write = function()
        local pipe = io.popen "exec grep SigBlk /proc/self/status"
        print("popen", tonumber(pipe:read "a":match "%x+\n$", 16))
        pipe:close()
        os.execute "bash -c 'exec sed -n s/SigBlk/execute/p /proc/self/status'"
      end })
      io.stdout:setvbuf "no"
      vm:run()
      vm:reset()
      vm:start()
      vm:wait()
      local w = kvm.worker(function()
        print("worker",
              tonumber(io.popen "exec grep SigBlk /proc/self/status":read "a":match "%x+\n$", 16))
      end)
      w:wait()
    ]])
    local count = 0
    for value in output:gmatch "%a+:?\t(%x+)\n" do
      count = count + 1
      assert.equal(0, tonumber(value, 16), output)
    end
    assert.equal(5, count, output)
  end)
end)
