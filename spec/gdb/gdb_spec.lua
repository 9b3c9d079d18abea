-- gdb on a guest: connecting, registers, memory, threads, stopping and going on. Right is what the
-- guest's own code does and what its mode's addresses are (Intel SDM volume 1, 3.3); packets are
-- those of Debugging with GDB, appendix E, spoken by gdb itself.

local files = require "support.files"
local gdb = require "support.gdb"
local support = require "support.guest"

describe("gdb", function()
  if support.without_kvm(pending) or gdb.without_gdb(pending, true) then return end

  it("finds a 16-bit guest before its first instruction, by linear addresses", function()
    local vm <close> = support.vm{ mode = "real" }
    vm:load({ bytes = support.bytes "b8 34 12 bb 78 56 f4" }, { at = 0x7c00, segment = 0x7c0 })
    local output, reason = gdb.debug(vm, { gdb.MARK, "x/3i $pc", "p/x $cs", "p/x $cs_base",
                                           "p/x $eip", "detach" })
    assert.equal("halt", reason)
    assert.matches("0x7c00:\tmov    %$0x1234,%%ax\n", output)
    assert.matches("0x7c03:\tmov    %$0x5678,%%bx\n", output)
    assert.matches("= 0x7c0\n.*= 0x7c00\n.*= 0x7c00\n", output)
    assert.equal(0x5678, vm.cpu[0].bx)
  end)

  it("is told of 32-bit and 64-bit guests as what they are", function()
    for mode, register in pairs{ protected = "eax", long = "rax" } do
      local vm <close> = support.vm{ mode = mode }
      vm:load{ bytes = support.bytes "b8 78 56 34 12 f4" } -- mov eax, 0x12345678; hlt
      local output = gdb.debug(vm, { gdb.MARK, "x/i $pc", "p sizeof($pc)", "show architecture",
                                     "detach" })
      assert.matches("mov    %$0x12345678,%%eax", output)
      assert.matches(mode == "long" and "i386:x86%-64" or '"i386"', output)
      assert.equal(0x12345678, vm.cpu[0][register])
    end
  end)

  it("sets registers and memory, which the guest then has", function()
    local vm <close> = support.vm{ mode = "protected" }
    vm:load{ bytes = support.bytes "a3 00 20 00 00 f4" } -- mov [0x2000], eax; hlt
    local output, reason = gdb.debug(vm, {
      "set var $eax = 0x11223344", "set var {int}0x2004 = 0x55667788",
      "set var $xmm1.v4_int32[2] = 9",
      "set var $fs = 0x10", gdb.MARK, "p/x $eax", "p $xmm1.v4_int32", "p/x $fs", "x/xw 0x2004",
      "p $cr0", "p/x $gdt_limit", "detach" })
    assert.equal("halt", reason)
    assert.matches("= 0x11223344\n.*= {0, 0, 9, 0}\n.*= 0x10\n0x2004:\t0x55667788\n", output)
    assert.matches("= %[ PE ET NE %]", output)
    assert.equal(0x11223344, vm.memory:u32(0x2000))
    assert.equal(0x55667788, vm.memory:u32(0x2004))
  end)

  it("interrupts a guest that runs, looks at it, and lets it go on", function()
    local vm <close> = support.vm{ mode = "protected" }
    vm:load{ bytes = support.bytes [[
      ff 05 00 20 00 00       ; inc dword [0x2000]
      e6 80                   ; out 0x80, al
      80 3d 10 20 00 00 00    ; cmp byte [0x2010], 0
      74 ef                   ; je: again
      f4 ]] }
    local path <const> = os.tmpname() -- it has a byte when the guest has come so far
    vm.ports:on(0x80, { write = function()
      if vm.memory:u32(0x2000) == 1 then files.put(path, "1") end
    end })
    local output, reason = gdb.debug(vm, {
      "python", "import os, threading, time", "def interrupt():",
      ("  while os.path.getsize(%q) == 0: time.sleep(0.01)"):format(path),
      "  gdb.post_event(lambda: gdb.execute('interrupt'))",
      "threading.Thread(target=interrupt).start()", "end",
      "continue", gdb.MARK, "p $pc >= 0x1000 && $pc < 0x1011", "p *(int *)0x2000 > 0",
      "set var *(char *)0x2010 = 1", "continue" })
    os.remove(path)
    assert.equal("halt", reason)
    assert.matches("= 1\n.*= 1\n.*exited normally", output)
  end)

  it("has a thread for each vCPU, each with its registers", function()
    local vm <close> = support.vm{ mode = "protected", cpus = 4 }
    vm:load({ bytes = support.bytes "89 f8 f4" }, { cpu = "all" }) -- mov eax, edi (its number); hlt
    local output, reason = gdb.debug(vm, { gdb.MARK, "info threads",
                                           "thread apply all p $edi", "detach" })
    assert.equal("halt", reason)
    assert.matches("Thread 4 %(cpu 3%)", output)
    for i = 1, 4 do
      assert.matches(("Thread %d %%(.-= %d\n"):format(i, i - 1), output)
      assert.equal(i - 1, vm.cpu[i - 1].eax)
    end
  end)

  it("runs Lua by 'monitor', and keeps and restores snapshots", function()
    local vm <close> = support.vm{ mode = "protected" }
    vm:load{ bytes = support.bytes "f4" }
    local output = gdb.debug(vm, {
      "monitor snapshot early", "set var *(int *)0x3000 = 77", "set var $ebx = 5", gdb.MARK,
      "monitor vm.memory:u32(0x3000)", "monitor cpu:translate(0x1000)",
      "monitor for i = 1, 2 do print(i, vm.name) end", "monitor nonsense(", "monitor error 'why'",
      "monitor restore late", "monitor restore early", "maintenance flush register-cache",
      "p $ebx", "x/dw 0x3000", "kill" })
    assert.matches("^77\n4096\t4096\n1\tvm\n2\tvm\n", output)
    assert.matches("unexpected symbol", output)
    assert.matches("monitor:1: why\n", output)
    assert.matches('there is no snapshot "late".-back at snapshot "early"\n', output)
    assert.matches("= 3584\n0x3000:\t0\n", output) -- EBX has the boot information's address
  end)

  it("debugs a VM that was started, a fork of it, and one just restored", function()
    local parent <close> = support.vm{ mode = "protected" }
    parent:load{ bytes = support.bytes "40 40 f4" } -- inc eax; inc eax; hlt
    parent:run()
    local snap <close> = assert(parent:snapshot())
    local fork <close> = assert(parent:fork())
    local fresh <close> = assert(snap:vm{ echo = false })
    for i, vm in ipairs{ parent:restore(snap), fork, fresh } do
      vm.cpu[0].rip = 0x1000
      local server <close> = assert(vm:gdb())
      local process = gdb.start{ "target remote " .. server.address, gdb.MARK,
                                 "set var $eax = " .. 10 * i, "x/i $pc", "kill" }
      vm:start()
      vm:wait()
      assert.matches("inc    %%eax", gdb.behind_mark(process:finish()))
      assert.equal(10 * i, vm.cpu[0].eax)
    end
  end)

  it("is told how a run ends", function()
    for code, text in pairs{ [0] = "exited normally", [42] = "exited with code 052" } do
      local vm <close> = support.program{ support.out(0xf4, code, 4) }
      assert.matches(text, (gdb.debug(vm, { "continue" })))
    end
  end)

  it("stays when a script runs its guest in several goes, such as waits for output", function()
    local vm <close> = support.guest "real/counter"
    local server <close> = assert(vm:gdb())
    local process = gdb.start{ "target remote " .. server.address, "break *0x6", "continue",
                               gdb.MARK, "p/x $eip", "delete", "continue" }
    vm.console:expect("2", { timeout = 20 })
    assert.equal("limit", (vm:run{ exits = 1 }))
    vm.console:expect("9", { timeout = 20 })
    assert.equal("halt", (vm:run{ deadline = 20 }))
    assert.equal("$1 = 0x6\n[Inferior 1 (Remote target) exited normally]\n",
                 gdb.behind_mark(process:finish()))
    assert.equal(1, server.hits - 1) -- at its begin, and at 6
  end)

  it("sees a guest that has died, and then the run ends", function()
    local vm <close> = support.guest("prot/triple", { mode = "protected" })
    local output, reason, info = gdb.debug(vm, { "continue", gdb.MARK, "x/i $pc", "continue" })
    assert.equal("shutdown", reason)
    if support.host.host ~= "svm" then -- which loses the registers
      assert.matches("#DE", info.report)
      assert.matches("div    %%ecx", output)
    end
    assert.matches("terminated with signal SIGSEGV", output)
  end)

  it("comes only when the guest has died, with on = \"crash\"", function()
    local vm <close> = support.guest("prot/triple", { mode = "protected" })
    local said, process = {}, nil
    local server <close> = assert(vm:gdb{ on = "crash", notify = function(text)
      said[#said + 1] = text
      process = gdb.start{ "target remote " .. text:match "remote (%S+)", gdb.MARK,
                           "p *(char *)0x1009" }
    end })
    assert.equal("shutdown", (vm:run()))
    assert.matches("= %-9 '\\367'\n", gdb.behind_mark(process:finish())) -- div ecx: f7 f1
    assert.same({ "shutdown; to look at it: target remote " .. server.address }, said)
  end)
end)
