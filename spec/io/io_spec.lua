-- The I/O thread: the order of output, readers that stall, output that is lost, and how little an
-- idle VM costs.

local lfs = require "lfs"
local kvm = require "minikvm"
local support = require "support.guest"
local process = require "support.process"
local program = require "support.program"

local function lines(n, text) return text:rep(n) end

describe("output of the guest and of the script", function()
  if support.without_kvm(pending) then return end

  -- A guest that prints "A\n", writes to a port whose handler prints "B\n", and prints "C\n".
  local ORDER = [[
    io.stdout:setvbuf "full"
    io.write "first\n"
    for _, coalesce in ipairs{ true, false } do
      local vm <close> = support.vm{ echo = true, coalesce = coalesce }
      vm.ports:on(0x80, { write = function() io.write "B\n" end })
      local print = support.out(0xe9, 65) .. support.out(0xe9, 10)
      local code = print .. support.out(0x80, 0) .. print:gsub("A", "C")
      assert(vm:load{ bytes = code:rep(50) .. "\xf4" })
      vm:run{ deadline = 20 }
    end
    io.write "last\n"
  ]]
  local WANT = "first\n" .. lines(100, "A\nB\nC\n") .. "last\n"

  local function output_of(shell)
    local path, out = process.script(ORDER), os.tmpname()
    assert(os.execute((shell:gsub("RUN", { RUN = process.command(path) }):gsub("OUT", out))))
    local file <close> = assert(io.open(out))
    local text = file:read("a"):gsub("\r", "")
    os.remove(path)
    os.remove(out)
    return text:match "^%d+\n(.*)$"
  end

  it("appears in the order in which it happened on a pipe", function()
    assert.equal(WANT, output_of "RUN | cat >OUT")
  end)

  -- A guest that answers what a script, which runs beside it, printed and then sent.
  it("appears in that order when one causes the other", function()
    local path = process.script [[
      io.stdout:setvbuf "full"
      local vm <close> = support.guest("real/echo", { echo = true }):start()
      for _ = 1, 20 do
        io.write "q"
        vm.console:send("a"):expect("a", { timeout = 20 })
      end
      vm.console:eof()
      vm:wait()
      io.write "\n"
    ]]
    local pipe <close> = assert(io.popen(process.command(path)))
    local text = pipe:read "a"
    os.remove(path)
    assert.equal(("qa"):rep(20) .. "\n", text:match "^%d+\n(.*)$")
  end)

  it("appears in that order in a file", function()
    assert.equal(WANT, output_of "(RUN) >OUT")
  end)

  it("appears in that order on a terminal", function()
    if not program.has_terminal then return pending "script(1) makes no terminal here" end
    assert.equal(WANT, output_of [[script -qec "RUN" /dev/null </dev/null >OUT]])
  end)
end)

-- POSIX, XCU 1.4 "Consequences of errors": a diagnostic, and a status above 0.
describe("output that cannot be written", function()
  if support.without_kvm(pending) then return end

  local PRINT <const> = { support.out(0xe9, 65) }

  it("ends the run with an error that says why", function()
    local path = os.tmpname() .. ".full"
    if not os.execute(("mknod -m 666 %s c 1 7 2>/dev/null"):format(path)) then
      return pending "mknod(1) needs rights"
    end
    local vm <close> = support.program(PRINT)
    assert(vm.console:output(path))
    local reason, info = support.run(vm) -- write(2), ENOSPC
    local r = program.run(("P run guests/real/hello.bin >%s"):format(path))
    os.remove(path)
    assert.equal("error", reason)
    assert.matches("output cannot be written: No space left on device", info.text)
    assert.equal(1, r.status)
    assert.matches("No space left on device", r.err)
  end)

  it("counts when the reader of a pipe is gone, too", function()
    local fifo = os.tmpname() .. ".fifo"
    assert(os.execute("mkfifo " .. fifo))
    local reader = assert(io.open(fifo, "r+")) -- fifo(7): opens without waiting
    local vm <close> = support.program(PRINT)
    assert(vm.console:output(fifo))
    reader:close()
    local reason, info = support.run(vm) -- write(2), EPIPE
    os.remove(fifo)
    assert.equal("error", reason)
    assert.matches("output cannot be written: Broken pipe", info.text)
  end)
end)

describe("a reader that stalls", function()
  if support.without_kvm(pending) then return end

  -- Ends by the deadline, by a stop, and lets another VM go on.
  local STALLED = [[
    local report = assert(io.open("REPORT", "w"))
    local function guest() return support.guest("real/flood", { echo = true }) end
    local vm <close> = guest()
    report:write(vm:run{ deadline = 0.3 }, " ")
    local started <close> = guest():start()
    local printed
    repeat -- until the guest waits for the reader
      printed = select(2, started.console:text())
      kvm.sleep(0.05)
    until printed >= 65536 and select(2, started.console:text()) == printed
    local other <close> = support.guest "real/hello"
    report:write(other:run{ deadline = 20 }, " ")
    report:write(started:stop(), "\n")
    report:close()
    os.exit(true, true)
  ]]

  ---What the script reports when it prints into what `shell` gives it, which nobody reads.
  local function report_of(shell)
    local fifo, report = os.tmpname() .. ".fifo", os.tmpname() .. ".report"
    assert(os.execute(("mkfifo %s %s"):format(fifo, report)))
    local path = process.script(STALLED:gsub("REPORT", report))
    local _ <close> = assert(io.open(fifo, "r+"))
    assert(os.execute(("{ %s; } >%s &"):format(
      shell:gsub("RUN", { RUN = process.command(path) }), fifo)))
    local pipe <close> = assert(io.popen("timeout 30 cat " .. report))
    local text = pipe:read "a"
    for _, name in ipairs{ fifo, report, path } do os.remove(name) end
    return text
  end

  it("of a pipe holds neither a deadline, nor a stop, nor another VM", function()
    assert.equal("deadline halt stopped\n", report_of "RUN")
  end)

  -- A terminal takes less than poll() lets hope: a write of 4 KiB waits for the reader.
  it("of a terminal holds none of them either", function()
    if not program.has_terminal then return pending "script(1) makes no terminal here" end
    assert.equal("deadline halt stopped\n",
                 report_of [[script -qec "RUN" /dev/null </dev/null]])
  end)
end)

describe("a guest that waits for a reader", function()
  if support.without_kvm(pending) then return end

  it("goes on when its output goes elsewhere, and after a reset", function()
    local fifo = os.tmpname() .. ".fifo"
    assert(os.execute("mkfifo " .. fifo))
    local _ <close> = assert(io.open(fifo, "r+"))
    local vm <close> = support.guest "real/flood"
    assert(vm.console:output(fifo))
    local function run_into_reader()
      local before
      repeat
        before = select(2, vm.console:text())
        assert.equal("deadline", (vm:run{ deadline = 0.2 }))
      until before >= 65536 and select(2, vm.console:text()) == before
    end
    run_into_reader()
    assert(vm:reset())
    run_into_reader()
    vm.console:echo(false)
    assert.equal("limit", (vm:run{ deadline = 20, output = 100000 }))
    os.remove(fifo)
  end)
end)

describe("standard input that two VMs share", function()
  if support.without_kvm(pending) then return end

  it("gives each byte to one of them, and holds neither", function()
    local path = process.script [[
      local vms = {}
      for i = 1, 2 do
        vms[i] = support.guest("real/echo")
        vms[i].console:attach():echo(false)
        vms[i]:start{ deadline = 20 }
      end
      local ends, got = {}, 0
      for i, result in ipairs(kvm.wait(vms)) do
        ends[i] = result.reason
        got = got + #(vms[i].console:text())
      end
      print(table.concat(ends, " "), got)
    ]]
    local typist = "for i in 1 2 3 4 5 6 7 8 9 10; do printf x; sleep 0.02; done"
    local shell = ("{ %s; } | { %s; }"):format(typist, process.command(path))
    local pipe <close> = assert(io.popen(shell))
    local text = pipe:read "a"
    os.remove(path)
    assert.matches("\nexit exit\t10\n$", text)
  end)
end)

describe("an idle VM", function()
  if support.without_kvm(pending) then return end

  ---How often the threads of this process were switched to and from so far, by thread.
  local function switches()
    local counts = {}
    for task in lfs.dir "/proc/self/task" do
      local file = io.open(("/proc/self/task/%s/status"):format(task))
      local text = file and file:read "a" or ""
      if file then file:close() end
      counts[task] = text:match "\nvoluntary_ctxt_switches:%s+(%d+)"
    end
    return counts
  end

  it("that waits for an interrupt wakes nobody", function()
    if process.sanitized() then return pending "a sanitizer has threads of its own" end
    local vm <close> = support.code("e6 80 fb f4 eb fd", { irqchip = "pic" }) -- out; sti; hlt; jmp
    local out = vm.ports:on(0x80, { write = function() end })
    vm:start()
    process.await(function() return out.hits == 1 end)
    kvm.sleep(0.1)
    local before, own = switches(), io.open("/proc/self/stat"):read "n"
    kvm.sleep(1)
    local most = 0
    for task, count in pairs(switches()) do
      if tonumber(task) ~= own then most = math.max(most, count - (before[task] or 0)) end
    end
    vm:stop()
    assert.is_true(most <= 2, most .. " switches in a second")
  end)

  -- setrlimit(2), RLIMIT_SIGPENDING: what timer_create(2) takes from.
  it("needs no signals that wait in a queue", function()
    local text = process.run([[
      local vms = {}
      for i = 1, 8 do vms[i] = support.guest("real/echo"):start() end
      for i = 1, 8 do vms[i].console:send("x"):eof() end
      local ends = {}
      for i, result in ipairs(kvm.wait(vms)) do ends[i] = result.reason end
      print(table.concat(ends, " "))
    ]], "bash -c 'ulimit -i 8; exec \"$0\" \"$@\"'")
    assert.equal("\nexit exit exit exit exit exit exit exit\n", text)
  end)
end)

describe("a screen", function()
  if support.without_kvm(pending) then return end

  it("that a guest without exits writes is seen", function()
    local vm <close> = support.code [[
      b8 00 b8         ; mov ax, 0xb800
      8e c0            ; mov es, ax
      26 c6 06 00 00 48 ; mov byte es:[0], 'H'
      26 c6 06 02 00 69 ; mov byte es:[2], 'i'
      eb fe            ; jmp $
    ]]
    vm:screen():expect("Hi", { timeout = 20 })
  end)
end)
