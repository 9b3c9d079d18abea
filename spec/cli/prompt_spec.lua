-- A VM that is held and looked at while it runs: pause, resume, and the prompt.

local kvm = require "minikvm"
local support = require "support.guest"
local process = require "support.process"
local runner = require "support.program"

local SPIN <const> = "eb fe"
local COUNT <const> = "66 40 eb fc"           -- inc eax; jmp to it
local OUT_FOR_EVER <const> = "e6 80 eb fc"    -- out 0x80, al; jmp to it

describe("a paused VM", function()
  if support.without_kvm(pending) then return end

  local function started(listing, opts)
    return support.code(listing, opts):start()
  end

  it("stands still, can be looked at and changed, and goes on", function()
    local vm <close> = started(COUNT)
    process.await(function() return vm:pause() and vm.cpu[0].rax > 0 or not vm:resume() end)
    assert.equal("paused", vm.state)
    local count = vm.cpu[0].eax
    assert.is_true(vm.cpu[0].ip == 0 or vm.cpu[0].ip == 2)
    vm.memory:write(0, "\x90\x90\x90\xf4") -- nop; nop; nop; hlt
    vm.cpu[0].rip, vm.cpu[0].rbx = 0, 0x1234
    assert.equal(vm, vm:resume())
    assert.equal("halt", (vm:wait(20)))
    assert.same({ 0x1234, count }, { vm.cpu[0].rbx, vm.cpu[0].eax }) -- none was counted meanwhile
  end)

  it("has all of its cpus outside the guest", function()
    local vm <close> = started("66 ff 06 00 10 eb f9", { cpus = 4 }) -- inc dword [0x1000]; again
    local other <close> = support.code("b9 00 00 e2 fe f4") -- mov cx, 0; loop $; hlt: takes time
    local function counts()
      local list = {}
      for i = 0, 3 do list[i + 1] = vm.memory:u32(i * 0x40000 + 0x1000) end
      return list
    end
    local before = { 0, 0, 0, 0 }
    for _ = 1, 5 do
      process.await(function() -- all of them run
        for i, count in ipairs(counts()) do
          if count == before[i] then return false end
        end
        return true
      end)
      assert.equal(vm, vm:pause())
      before = counts()
      assert.equal("halt", (support.run(other:reset())))
      assert.same(before, counts())
      vm:resume()
    end
    assert.equal("stopped", (vm:stop()))
  end)

  it("is paused also when some of its cpus have ended, and when all are halted", function()
    local vm <close> = support.vm{ cpus = 2 }
    vm:load{ bytes = "\xf4" }
    vm:load({ bytes = "\xeb\xfe" }, { cpu = 1 })
    vm:start()
    assert.equal(vm, vm:pause())
    assert.equal("paused", vm.state)
    vm:stop()
    local idle <close> = support.code("fb f4 eb fd") -- sti; hlt; jmp to it
    idle.clock:after(1000, function() end)
    idle:start()
    assert.equal(idle, idle:pause())
    assert.equal("stopped", (idle:stop()))
  end)

  it("calls no handlers, and hooks can be made and removed", function()
    local vm <close> = started(OUT_FOR_EVER)
    local calls = 0
    local hook = vm.ports:on(0x80, { write = function() calls = calls + 1 end })
    process.await(function() return calls > 0 end)
    vm:pause()
    local before = calls
    local other <close> = support.code("b9 00 00 e2 fe f4") -- mov cx, 0; loop $; hlt: takes time
    assert.equal("halt", (support.run(other))) -- handlers may run meanwhile
    assert.equal(before, calls)
    hook:remove()
    local others = 0
    vm.ports:on(0x80, { write = function() others = others + 1 end })
    vm:resume()
    process.await(function() return others > 0 end)
    assert.equal(before, calls)
  end)

  it("can be stopped, closed, waited for, paused again and collected", function()
    local before = process.threads()
    local vm = started(SPIN)
    vm:pause()
    assert.equal(vm, vm:pause())
    assert.same({ nil, 'vm "vm" is still running', "ETIMEDOUT" }, { vm:wait(0.01) })
    assert.error_matches(function() vm:load{ bytes = "x" } end, "is running")
    assert.error_matches(function() vm:run() end, "is running")
    assert.equal("stopped", (vm:stop()))
    assert.equal("ended", vm.state)
    vm:start():pause()
    vm:close()
    do support.code(SPIN):start():pause() end
    collectgarbage()
    collectgarbage()
    assert.is_true(process.threads() <= before)
  end)

  it("runs again, and from the start after a reset", function()
    local vm <close> = started(SPIN)
    vm:pause()
    vm:stop()
    vm:start()
    assert.equal("running", vm.state)
    vm:pause()
    vm:stop()
    assert.equal("deadline", (vm:reset():start{ deadline = 0.02 }:wait(20)))
  end)

  it("has its deadline put off, and its timers late", function()
    local vm <close> = support.code(SPIN)
    local fired = 0
    vm:start{ deadline = 0.1 }
    vm:pause()
    vm.clock:after(0.01, function() fired = fired + 1 end)
    kvm.sleep(0.15)
    assert.same({ "paused", 0 }, { vm.state, fired })
    vm:resume()
    local reason, info = vm:wait(20)
    assert.same({ "deadline", 1 }, { reason, fired })
    assert.is_true(info.seconds > 0.15)
  end)

  it("is paused from a handler when that is done", function()
    local vm <close> = support.code(OUT_FOR_EVER)
    local asked = 0
    vm.ports:on(0x80, { write = function()
      if asked < 2 then assert(vm:pause() == vm) end
      asked = asked + 1
    end })
    vm:start()
    for i = 1, 2 do
      process.await(function() return vm.state == "paused" end)
      assert.equal(i, asked)
      vm:resume()
    end
    process.await(function() return asked > 2 end)
  end)

  it("has to be one that was started", function()
    local vm <close> = support.program{ support.out(0x80, 1) }
    assert.error_matches(function() vm:pause() end, "pause: vm \"vm\" was never started")
    assert.error_matches(function() vm:resume() end, "resume: vm \"vm\" is not paused")
    local why
    vm.ports:on(0x80, { write = function() why = select(2, pcall(vm.pause, vm)) end })
    assert.equal("halt", (support.run(vm)))
    assert.matches("is inside run%(%), and nobody could resume it", why)
    assert.same({ nil, 'vm "vm" has ended', "ESRCH" }, { vm:pause() })
    assert.error_matches(function() vm:resume() end, "is not paused")
  end)

  it("may be paused and resumed at any time, by the dozen", function()
    local vms, calls = {}, 0
    for i = 1, 4 do
      vms[i] = support.code(OUT_FOR_EVER, { cpus = i })
      vms[i].ports:on(0x80, { write = function() calls = calls + 1 end })
      vms[i].clock:every(0.001, function() calls = calls + 1 end)
      vms[i]:start()
    end
    for round = 1, 30 do
      for i, vm in ipairs(vms) do
        if (round + i) % 2 == 0 then vm:pause() else pcall(vm.resume, vm) end
      end
    end
    for _, vm in ipairs(vms) do vm:close() end
    assert.is_true(calls > 0)
  end)
end)

describe("cpu:disassemble", function()
  if support.without_kvm(pending) then return end

  it("lists what comes next", function()
    local vm <close> = support.code "b8 34 12 e6 80 f4"
    local list = vm.cpu[0]:disassemble(3)
    assert.equal("> 00000000  b8 34 12                 mov ax, 0x1234\n"
      .. "  00000003  e6 80                    out 0x80, al\n"
      .. "  00000005  f4                       hlt ", (tostring(list):gsub("hlt$", "hlt ")))
    local first = list[1]
    assert.same({ 3, 0, 3, "\xb8\x34\x12" }, { #list, first.address, first.size, first.bytes })
    assert.equal("hlt", vm.cpu[0]:disassemble(1, 5)[1].text)
    assert.equal(0, #vm.cpu[0]:disassemble(1, 0x7fffffff))
    vm.memory:map{ at = 0xfffff000, bytes = ("\x90"):rep(4095) .. "\xf4", rom = true }
    list = vm.cpu[0]:disassemble(2, 0xfffffffe)
    assert.same({ "nop", "hlt" }, { list[1].text, list[2].text })
    for _, wrong in ipairs{ 0, -1, 1.5, "x" } do
      assert.error_matches(function() vm.cpu[0]:disassemble(wrong) end, "1 to 10000")
    end
  end)

  it("reads 64-bit code by its page tables", function()
    local vm <close> = support.code("49 89 c0 f4", { mode = "long", memory = "8M" })
    assert.equal("mov r8, rax", vm.cpu[0]:disassemble(1)[1].text)
  end)
end)

describe("the prompt on a VM", function()
  if support.without_kvm(pending) then return end

  local function session(lines, arguments)
    local r = runner.run("P run --prompt " .. (arguments or "guests/real/spin.bin"),
                         { stdin = table.concat(lines, "\n") .. "\n" })
    return r.out, r.err, r.status
  end

  it("holds it, looks, hooks a port, and goes on", function()
    local out, err, status = session{
      "vm.state", "vm:start().state", "vm:pause().state", "vm.cpu[0]:disassemble(1)",
      "vm.memory:hexdump(0, 2)", "vm.memory:write(0, '\\xe6\\x80\\xeb\\xfc')",
      "hook = vm.ports:on(0x80, { write = function() end })", "vm:resume().state",
      "while hook.hits == 0 do kvm.sleep(0.001) end", "hook.hits > 0", "(vm:stop())",
    }
    assert.equal(0, status)
    assert.matches("loaded, not running", err)
    assert.equal([[
idle
running
paused
00000000  eb fe                    jmp 0
00000000  eb fe                                            ..

running
true
stopped

]], (out:gsub("> ", "")))
  end)

  it("lets handlers run while it waits for a line", function()
    local fifo = os.tmpname()
    assert(os.remove(fifo) and os.execute("mkfifo " .. fifo))
    local pipe = assert(io.popen(("exec timeout -s KILL 60 %s run --prompt guests/real/spin.bin "
      .. "<%s 2>&1 >/dev/null"):format(runner.minikvm, fifo)))
    local typist = assert(io.open(fifo, "w"))
    os.remove(fifo)
    typist:write([[vm.memory:write(0, "\xe6\x80\xeb\xfe")
      vm.ports:on(0x80, { write = function() io.stderr:write "called\n" end })
      vm:start()
    ]])
    typist:flush()
    local line
    repeat line = pipe:read "l" until line == nil or line == "called"
    assert.equal("called", line) -- the prompt has no further line, and no end of input
    typist:close()
    assert.is_true((pipe:close()))
  end)

  it("has short commands beside Lua", function()
    local out, err, status = session{
      "x 0 2", "dis 1", "x rip + 1 1", "where", "x = 5", "x", "x  == 5", "x = nil",
      "vm:load{ bytes = '\\xb8\\x34\\x12\\xf4' }", "continue", "x 0xfffff000 16", "cpu 1",
      "help x", "w nonsense(", "vm = nil", "where", "next" }
    assert.equal(0, status)
    assert.equal([[
00000000  eb fe                                             ..
00000000  eb fe                    jmp 0
00000001  fe                                                .
0x0
00000000  eb fe                    jmp 0
5
true
minikvm.vm "spin" (real mode, 1M, 1 vCPU, idle)
halt: HLT with interrupts off and nothing to wake it
0x4
00000004  00 00                    add byte ptr [bx + si], al
0xfffff000 is not mapped to memory
x WHERE [BYTES]
  memory at a linear address: x rsp, x table+16 64

]], (out:gsub("> ", "")))
    assert.matches('vm "spin" has no cpu 1\n"nonsense%(": no symbols are known: .-\n'
      .. 'there is no VM: commands are about the one in the global vm', err)
    assert.not_matches("traceback", err)
  end)

  it("goes through a guest step by step", function()
    local out, err, status = session({
      "break kernel", "c", "b kernel+1 if cpu.rsp == 0", "b", "step", "", "delete 1", "b",
      "x magic - 0x36d76289 + 0x1000 4", "until start+0xc", "x rip 1", "delete", "b",
      "vm:reset().state", "break kernel", "vm:start():wait_break().kind", "where", "c", "d 9",
      "(vm:stop())" },
      "guests/boot/multiboot2.elf")
    assert.equal(0, status)
    local kernel = out:match "break kernel %(0x(%x+)%)"
    for _, text in ipairs{
      "breakpoint 1\n0x" .. kernel .. " in kernel .-\n%d+\t.-\n> 0*" .. kernel .. "  ",
      "1   break kernel %(0x" .. kernel .. "%), hit 1 times\n"
        .. "2   break kernel%+1 if cpu.rsp == 0 .-, hit 0 times",
      "0x" .. ("%x"):format(tonumber(kernel, 16) + 1) .. " in kernel%+0x1 ",
      "> > 2   break kernel%+1", "\n> 00001000  %x%x %x%x %x%x %x%x ", "in start%+0xc\n",
      "> > no breakpoints\n", "> idle\n", "3   break kernel",
      "> break\nbreakpoint 3\n0x" .. kernel,
      "\n> 0x" .. kernel .. " in kernel", "\nend\nhalt: ",
      "> halt\n" } do
      assert.matches(text, out)
    end
    assert.matches("there is no breakpoint 9\n", err)
  end)

  it("stops where memory is written, and says what it does not know", function()
    local out, err = session{
      "vm.memory:write(0, '\\x90\\xa3\\x00\\x10\\xf4')", "watch 0x1000 2", "b", "c", "d 1", "c",
      "watch nonsense", "break nonsense", "step x", "until", "x", "x 0 5000", "trace /nowhere/t",
      "trace f stores" }
    assert.matches("1   watch 0x1000, 2 bytes, w\n", out)
    assert.matches("watch 1: 0x1000\n0x4\n> 00000004  f4 +hlt\n", out)
    assert.matches("\n> > halt: ", out)
    for _, text in ipairs{ '"nonsense": no symbols', "expected a number of times", "until what?",
                           "examine what?", "1 to 4096 bytes", "/nowhere/t: No such file",
                           "calls or instructions, not stores" } do
      assert.matches(text, err, 1, true)
    end
    assert.not_matches("traceback", err)
  end)

  it("holds a guest that runs at Ctrl-C, and goes on", function()
    if process.without_signals(pending) then return end
    local t = runner.start "exec env MINIKVM_HISTORY= P prompt guests/real/spin.bin"
    t:type [[vm.memory:write(0, "\xe6\x80\xeb\xfc") -- out 0x80, al; jmp to it
      vm.ports:on(0x80, { write = function() io.write(told and "" or "it runs\n") told = true end })
      c
    ]]
    for _ = 1, 2 do -- on this thread, and on one of its own
      t:wait("it runs\n"):kill("INT"):wait("interrupted\n0x"):wait "> "
      t:type "if vm.state ~= 'paused' then vm:start() vm:pause() end\ntold = nil\nc\n"
    end
    t:wait("it runs\n"):kill("INT"):wait "interrupted\n"
    assert.equal(0, t:finish().status)
  end)

  it("prints tables with what is in them, however large or tangled they are", function()
    local out = session{
      "{ 1, 'a\\n', { x = { y = true } }, [true] = 2.5, ['two words'] = {} }",
      "t = {}; t.t = t; return t", "{ rip = 4096, size = 4096 }", "#tostring({}), 'text'",
      "(function() local t = {} for i = 1, 1e5 do t[i] = i end return t end)()",
      "('\\xff'):rep(3), { '\\xff', 'g\u{fc}\u{df}' }" }
    local lines = {}
    for line in out:gsub("> ", ""):gmatch "[^\n]+" do lines[#lines + 1] = line end
    assert.equal('{ 1, "a\\n", { x = { y = true } }, ["two words"] = {}, [true] = 2.5 }', lines[1])
    assert.equal("{ t = { the same again } }", lines[2])
    assert.equal("{ rip = 0x1000, size = 4096 }", lines[3])
    assert.matches("^%d+\ttext$", lines[4])
    assert.same({ "{", "  1,", "  … 99940 more", "}" },
                { lines[5], lines[6], lines[#lines - 2], lines[#lines - 1] })
    assert.equal('\xff\xff\xff\t{ "\\xff", "g\u{fc}\u{df}" }', lines[#lines])
  end)

  it("prints what objects have that are gone through by pairs", function()
    local out = session({ "vm.symbols", "vm", "io.stdout" }, "guests/boot/multiboot2.elf")
    assert.matches("\n  kernel = 0x%x+,\n", out)
    assert.matches('\n> minikvm.vm "multiboot2" %b()\n> file %(0x', out)
  end)

  it("has help on commands, functions, methods and objects", function()
    local out, err = session{ "help", "help(vm.run)", "help vm:pause", "help(vm.memory)",
                              "help(kvm)", "help vm:rum", "help(print)" }
    for _, text in ipairs{ "step, s %[N%]", "Runs the VM to its end and returns reason, info",
                           "pause makes the vCPUs of a started VM leave", "memory:hexdump%(",
                           "kvm%.vm%(options%)" } do
      assert.matches(text, out)
    end
    assert.matches("there is no help on vm:rum %(did you mean 'vm:run'%?%)", err)
    assert.matches("there is help on what is minikvm's, not on this function", err)
  end)

  it("goes on from a snapshot", function()
    local path = os.tmpname()
    session({ "vm.cpu[0].rbx = 77", ("vm:snapshot():save %q"):format(path) })
    local r = runner.run("P prompt " .. path, { stdin = "vm.cpu[0].rbx\n" })
    os.remove(path)
    assert.same({ 0, "> 77\n> \n" }, { r.status, r.out })
    assert.equal(2, runner.run("P prompt").status)
    assert.equal(1, runner.run("P prompt /nonexistent").status)
  end)

  it("has several VMs in a list", function()
    local out = session({ "#vms, vms[1] == vm, vms[2].name" },
                        "guests/real/spin.bin guests/real/hello.bin")
    assert.matches("2\ttrue\thello", out)
  end)

  it("stops what runs when it is left", function()
    local _, _, status = session{ "vm:start()" }
    assert.equal(0, status)
  end)

  it("reports mistakes and goes on", function()
    local out, err = session{ "vm:resume()", "vm.cpu[0].nope", "1 + 1" }
    assert.matches("resume: vm \"spin\" is not paused", err)
    assert.matches("cpu has no register or method 'nope'", err)
    assert.matches("2\n", out)
  end)

  it("goes on when a value cannot be printed", function()
    local out, err, status = session{
      "setmetatable({}, { __tostring = function() error 'it is shy' end })", "40 + 2" }
    assert.matches("it is shy", err)
    assert.same({ 0, true }, { status, out:find("> 42\n", 1, true) ~= nil })
  end)

  it("forgets the breakpoints of a VM that is closed", function()
    local out, err = session{ "b 0x10", "watch 0x20", "vm:close()", "vm = kvm.vm{ echo = false }",
                              "b 0x30", "b", "vm:close()", "vm = kvm.vm{ echo = false }", "d 3",
                              "d", "b" }
    assert.matches("> 3   break 0x30 (0x30)\n> 3   break 0x30 (0x30), hit 0 times\n", out, 1, true)
    assert.matches("no breakpoints\n", out)
    assert.matches("^[^\n]*\n[^\n]*\n$", err) -- what it is, at the beginning
  end)

  it("takes every letter on a terminal", function()
    if not runner.has_terminal then return pending "needs util-linux's script" end
    local t = runner.start("exec env LANG= LC_ALL= MINIKVM_HISTORY= P", { terminal = true })
    t:wait("> "):reading() -- "güß €" has 9 bytes in UTF-8
    t:type "return #\"g\xc3\xbc\xc3\x9f \xe2\x82\xac\", \"z\xc3\xa4hlt\"\n"
    t:wait("\n9\tz\xc3\xa4hlt\n> "):reading():type("\4"):finish()
  end)

  it("completes on a terminal", function()
    if not runner.has_terminal then return pending "needs util-linux's script" end
    local t = runner.start("exec env LANG= LC_ALL= MINIKVM_HISTORY= P run --prompt "
                           .. "guests/real/spin.bin", { terminal = true })
    -- "ü" has two bytes: the word begins behind it all the same
    t:wait("> "):reading():type("#\"g\xc3\xbc\" .. vm.cpu[0].rfl\t"):wait("ags"):type("\n")
    t:wait("\n32\n> "):reading():type "dis\t"
    t:wait("assemble"):type(" 1\n"):wait("jmp 0\n> "):reading():type("\4"):finish()
  end)

  it("has no history in what is no file", function()
    if not runner.has_terminal then return pending "needs util-linux's script" end
    local folder = runner.folder()
    assert(os.execute(("mkfifo %s/fifo"):format(folder)))
    for _, path in ipairs{ "/fifo", "" } do
      local t = runner.start(("exec env MINIKVM_HISTORY=%s%s P"):format(folder, path),
                             { terminal = true })
      t:wait("> "):reading():type("6 * 7\n"):wait("\n42\n> "):reading():type "\4"
      assert.equal(0, t:finish().status)
    end
    os.execute("rm -r " .. folder)
  end)

  it("works on a terminal", function()
    if not runner.has_terminal then return pending "needs util-linux's script" end
    local t = runner.start("exec env MINIKVM_HISTORY= P run --prompt guests/real/spin.bin",
                           { terminal = true })
    t:wait("> "):reading():type("vm:start():pause().state .. 1\n"):wait("\npaused1\n> "):reading()
    t:type "\4"
    assert.equal(0, t:finish().status)
  end)
end)
