-- gdb's breakpoints, watches and steps in every mode of the processor: real gdb on the guests of
-- guests/, whose sources say what is where, and on some machine code. Right is what the processor
-- does with that code (Intel SDM volume 2), and the source lines of the compiler's debugging
-- information.

local gdb = require "support.gdb"
local process = require "support.process"
local support = require "support.guest"

describe("gdb", function()
  if support.without_kvm(pending) or gdb.without_gdb(pending) then return end

  local MARK <const> = gdb.MARK

  ---Runs gdb on one of the guests, whose symbols it has.
  local function debug_guest(name, opts, commands)
    local vm <close> = support.guest(name, opts)
    local output, reason, info = gdb.debug(vm, commands, { words = ("guests/build/%s.elf")
      :format(name) })
    return output, reason, info.code
  end

  it("breaks and steps in 16-bit code of any segment", function()
    local vm <close> = support.vm{ mode = "real" }
    vm:load({ bytes = support.bytes [[
      b8 34 12          ; 0x7c00: mov ax, 0x1234
      9a 00 00 00 09    ; call 0x0900:0
      f4                ; hlt ]] }, { at = 0x7c00, segment = 0x7c0 })
    vm.memory:write(0x9000, support.bytes "40 40 cb") -- inc ax; inc ax; retf
    local output, reason = gdb.debug(vm, {
      "break *0x9001", "continue", MARK, "p/x $eax", "x/i $pc", "p/x $cs", "stepi", "p/x $eax",
      "x/i $pc", "stepi", "p/x $pc", "p/x $cs", "delete", "continue" })
    assert.equal("halt", reason)
    assert.equal([[
$1 = 0x1235
=> 0x9001:	inc    %ax
$2 = 0x900
0x00009002 in ?? ()
$3 = 0x1236
=> 0x9002:	lret
0x00007c08 in ?? ()
$4 = 0x7c08
$5 = 0x7c0
[Inferior 1 (Remote target) exited normally]
]], output)
  end)

  it("breaks in a paged kernel's handler of the timer, by its symbol", function()
    local output, reason, code = debug_guest("prot/ticks", { mode = "paged", irqchip = "pic" }, {
      "break tick", "continue", MARK, "x/i $pc", "p $cr0", "p *(int *)&ticks", "continue",
      "p *(int *)&ticks", "stepi", "stepi", "p *(int *)&ticks", "x/i $pc", "delete", "continue" })
    assert.same({ "exit", 0 }, { reason, code })
    assert.matches("^=> 0x80001083 <tick>:\tcmpl   %$0x14,0x800010d5\n%$1 = %[ PE ET NE WP PG %]\n"
      .. "%$2 = 0\n", output)
    assert.matches("%$3 = 1\n.*%$4 = 2\n=> 0x80001091 <tick%+14>:\tpush   %%eax\n", output)
  end)

  it("follows a guest that turns paging on, to addresses that were not there before", function()
    if support.host.host ~= "pvm" then
      return pending "a page that a guest maps without an exit gets its breakpoints at the next one"
    end
    local output, reason = debug_guest("prot/paging", { mode = "protected" }, {
      "break *((unsigned) &high + 0x80000000)", "continue", MARK, "x/i $pc", "p $cr0",
      "x/xw 0x40005008", "delete", "break *&off", "continue", "x/i $pc", "delete", "continue" })
    assert.equal("exit", reason)
    assert.matches("^=> 0x80001071:\tcall   0x80001076\n%$1 = %[ PE ET NE WP PG %]\n"
      .. "0x40005008:\t0x12345678\n", output)
    assert.matches("=> 0x10c0 <off>:", output)
  end)

  it("knows lines, variables and callers of a 64-bit guest in C, and its interrupts", function()
    local output, reason, code = debug_guest("long/idt", { mode = "long", irqchip = "pic" }, {
      "break tick", "continue", MARK, "bt 2", "p ticks", "next", "p ticks", "finish", "delete",
      "tbreak report", "info line main", "continue" })
    assert.same({ "exit", 0 }, { reason, code })
    assert.matches("#0  tick %(t=0x%x+%) at long/idt%.c:%d+\n#1  0x%x+ in trap_common %(%) at "
      .. "long/traps%.S:%d+", output)
    assert.matches("%$1 = 0\n.*%$2 = 1\n", output)
    assert.matches("\ntrap_common %(%) at long/traps%.S", output)
    assert.matches("Line %d+ of \"long/idt%.c\" starts at address", output)
  end)

  if process.emulated then return end -- gdb takes seconds there

  it("breaks and steps in ring 3, of 32 and 64 bits, and in the kernel that it calls", function()
    local output, reason, code = debug_guest("prot/ring3", { mode = "paged" }, {
      "break user", "continue", MARK, "p $cs & 3", "x/i $pc", "stepi", "x/i $pc",
      "break system_call", "continue", "p $cs & 3", "p/x $edx", "delete", "continue" })
    assert.same({ "exit", 7 }, { reason, code })
    assert.matches("^%$1 = 3\n=> 0x%x+ <user>:\tmov    %$0xabcd,%%edx\n.-"
      .. "=> 0x%x+ <user%+5>:\tmov    %%cs,%%eax\n.-%$2 = 0\n%$3 = 0xabcd\n", output)

    output, reason, code = debug_guest("long/ring3", { mode = "long" }, {
      "break twice", "continue", MARK, "p $cs & 3", "p n", "continue", "p n", "bt 1", "delete",
      "continue" })
    assert.same({ "exit", 0 }, { reason, code })
    assert.matches("^%$1 = 3\n%$2 = 0\n.-%$3 = 1\n#0  twice %(n=1%) at long/ring3%.c:%d+\n", output)
  end)

  it("stops with the thread that was there, of four vCPUs, and steps one alone", function()
    local vm <close> = support.vm{ mode = "protected", cpus = 4 }
    -- again: inc eax; inc eax; nop; jmp again
    vm:load({ bytes = support.bytes "40 40 90 eb fb" }, { cpu = "all" })
    local server <close> = assert(vm:gdb())
    local client = gdb.client(server.address, [[
quiet()
ask("?")
ask("Z0,1002,1")
seen = set()
for i in range(500):
    stop = ask("vCont;c")
    assert stop.startswith("T05thread:") and "swbreak" in stop, stop
    seen.add(stop[10])
    if len(seen) == 4: break
print("threads", "".join(sorted(seen)))
ask("z0,1002,1")
def places():
    return [ask("Hg%x" % t) and ask("p8") for t in (1, 2, 3, 4)]
before = places()
for i in range(3):
    print(ask("vCont;s:3")[:11])
after = places()
print("moved", [i + 1 for i in range(4) if before[i] != after[i] ])
for i in range(1000):
    assert ask("vCont;s:2;c")[:11] == "T05thread:2"
    if places()[0] != after[0]: break
print("others run", i < 999)
ask("Z0,1002,1")
before = places()
assert ask("vCont;c:4")[:11] == "T05thread:4"
after = places()
print("others", before[:3] == after[:3])
packet("k")
]])
    assert.equal("stopped", (vm:run{ deadline = 40 }))
    assert.equal([[
threads 1234
T05thread:3
T05thread:3
T05thread:3
moved [3]
others run True
others True
]], client:finish())
  end)

  it("shares an address with a script, and is seen by nobody who reads the code", function()
    local vm <close> = support.vm{ mode = "protected" }
    vm:load{ bytes = support.bytes "b9 03 00 00 00 40 a0 05 10 00 00 e2 f8 f4" }
    -- mov ecx, 3; again: inc eax; mov al, [again]; loop again; hlt
    local hits = 0
    assert(vm:break_at(0x1005, function() hits = hits + 1 end))
    local server <close> = assert(vm:gdb())
    local client = gdb.client(server.address, [[
quiet()
ask("?")
print(ask("Z0,1005,1"), ask("Z0,1005,1"), ask("Z1,100d,1"))
print([ask("vCont;c")[12:20] for i in range(2)], ask("m1005,2"), ask("z0,1005,1"))
print(ask("vCont;c")[12:20], ask("m100d,1"), ask("p1"))
print(ask("z1,100d,1"), ask("z0,1005,1"), ask("Z9,0,1"), ask("Z0,zz,1"), ask("Z0,1005"))
packet("vCont;c")
print(receive())
]])
    assert.equal("halt", (vm:run{ deadline = 20 }))
    assert.equal("OK OK OK\n['swbreak:', 'swbreak:'] 40a0 OK\nhwbreak: f4 00000000\n"
      .. "OK OK E16 E16 E16\nW00\n", client:finish())
    assert.equal(3, hits)
  end)

  it("watches memory for writes, reads and both", function()
    local vm <close> = support.vm{ mode = "protected" }
    vm:load{ bytes = support.bytes [[
      b8 05 00 00 00     ; 0x1000: mov eax, 5
      a3 00 20 00 00     ; mov [0x2000], eax
      a3 08 20 00 00     ; 0x100a: mov [0x2008], eax
      8b 1d 08 20 00 00  ; mov ebx, [0x2008]
      40                 ; 0x1015: inc eax
      ff 05 10 20 00 00  ; inc dword [0x2010]
      a3 00 20 00 00     ; 0x101c: mov [0x2000], eax
      f4                 ; 0x1021: hlt ]] }
    local output, reason = gdb.debug(vm, {
      "watch *(int *)0x2000", "rwatch *(int *)0x2008", "awatch *(char *)0x2010", MARK, "continue",
      "x/i $pc", "continue", "x/i $pc", "continue", "x/i $pc", "delete 3", "continue", "x/i $pc",
      "delete", "continue" })
    assert.equal("halt", reason)
    assert.matches("Hardware watchpoint 1.-Old value = 0\nNew value = 5\n.-=> 0x100a:.-"
      .. "Hardware read watchpoint 2.-Value = 5\n.-=> 0x1015:.-"
      .. "Hardware access %(read/write%) watchpoint 3.-=> 0x101c:.-"
      .. "Hardware watchpoint 1.-Old value = 5\nNew value = 6\n.-=> 0x1021:", output)
  end)

  it("takes its breakpoints along when it goes", function()
    for _, how in ipairs{ "ask('D')", "line.close()" } do
      local vm <close> = support.vm{ mode = "protected" }
      vm:load{ bytes = support.bytes "40 40 40 f4" }
      local server <close> = assert(vm:gdb{ lost = "continue" })
      local client = gdb.client(server.address, [[
quiet()
ask("?")
for at in (0x1000, 0x1001, 0x1002): ask("Z0,%x,1" % at)
print(ask("vCont;c")[:3], ask("vCont;s:1")[:3])
]] .. how)
      assert.equal("halt", (vm:run{ deadline = 20 }))
      assert.equal("T05 T05\n", client:finish())
      assert.equal(3, vm.cpu[0].eax)
    end
  end)
end)
