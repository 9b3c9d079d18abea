-- Waiting for what a guest prints or shows: console:expect and its kin, what is forbidden, budgets,
-- typing, logs, and what a failed wait tells.

local kvm = require "minikvm"
local core = require "minikvm.core"
local process = require "support.process"
local program = require "support.program"
local support = require "support.guest"

local message <const> = support.message

local out, call, bytes = support.out, support.call, support.bytes

local function echo(opts)
  return support.guest("real/echo", opts)
end

---A guest that prints a text byte by byte, then does `rest`, HLT by default.
local function printer(text, rest, opts)
  local parts = {}
  for c in text:gmatch "." do parts[#parts + 1] = out(0xe9, c:byte()) end
  parts[#parts + 1] = rest
  return support.program(parts, opts)
end

---The same by one WRITE hypercall: mov ecx, length; then the call with the text's address in EBX.
local function writer(text)
  local vm = support.program{ string.pack("<I2I4", 0xb966, #text), call(0x10, 0x800) }
  vm.memory:write(0x800, text)
  return vm
end

---The same by one REP OUTSB: mov si, 0x800; mov cx, length; mov dx, 0xe9; rep outsb.
local function stringer(text)
  local vm = support.program{ string.pack("<BI2BI2BI2", 0xbe, 0x800, 0xb9, #text, 0xba, 0xe9),
                              "\xf3\x6e" }
  vm.memory:write(0x800, text)
  return vm
end

-- 'a' again and again: mov al, 'a'; out 0xe9, al; jmp back
local CHATTER <const> = bytes "b0 61 e6 e9 eb fc"

describe("console:expect", function()
  if support.without_kvm(pending) then return end

  it("returns the pattern's index and its captures", function()
    local vm <close> = printer "code 17 at 0x2a, done\n"
    local con = vm.console
    assert.same({ 1, "17", "2a" }, { con:expect "code (%d+) at 0x(%x+)," })
    assert.same({ 2, " done" }, { con:expect{ "never", " done" } })
    assert.same({ 1, 1, "\n" }, { con:expect "()(\n)" })
  end)

  it("takes the match that ends first, and of its starts the leftmost", function()
    local vm <close> = printer "xxabcd"
    assert.same({ 3, "abc" }, { vm.console:expect{ "abcd", "bcd", "a%w+c", "bc" } })
    assert.same({ 1, "d" }, { vm.console:expect{ "d", "%w" } })
  end)

  it("begins behind the match before, and with what was printed before it was called", function()
    local vm <close> = printer "one two one\n"
    assert.equal("halt", (support.run(vm)))
    assert.same({ 1, "one" }, { vm.console:expect "one" })
    assert.same({ 1, " two" }, { vm.console:expect "^%stwo" })
    assert.same({ 1, "one" }, { vm.console:expect "one" })
    local _, _, code = vm.console:try_expect "one"
    assert.equal("ESHUTDOWN", code)
  end)

  it("finds the same however the bytes come", function()
    local text, found = "ab\0[login:] user=root\r\n# ", {}
    for i, make in ipairs{ printer, writer, stringer } do
      local vm <close> = make(text)
      found[i] = { vm.console:expect "%[(%a+):%] (%w-)=(%w+)\r\n# $" }
      assert.equal("halt", (support.run(vm)))
      assert.equal(#text, select(2, vm.console:text()))
    end
    assert.same({ 1, "login", "user", "root" }, found[1])
    assert.same(found[1], found[2])
    assert.same(found[1], found[3])
  end)

  it("does not cut lines for those who listen to them", function()
    local vm <close> = echo()
    local lines = {}
    vm.console:on_line(function(line) lines[#lines + 1] = line end)
    vm.console:type "one\nand two"
    vm.console:send("!"):eof()
    support.run(vm)
    assert.same({ "one", "and two!" }, lines)
  end)

  it("takes plain text as it is", function()
    local vm <close> = printer "50% (.*)? [yes]\n"
    assert.same({ 1, "% (.*)? [" }, { vm.console:expect("% (.*)? [", { plain = true }) })
  end)

  it("runs on and on a VM that it has stopped", function()
    local vm <close> = echo()
    for i = 1, 50 do
      vm.console:sendline("line " .. i)
      assert.same({ 1, tostring(i) }, { vm.console:expect "line (%d+)\n" })
      assert.equal("ended", vm.state)
    end
    vm.console:eof()
    assert.equal("exit", (support.run(vm)))
  end)

  it("sees one vCPU's output", function()
    local vm <close> = support.vm{ cpus = 2 }
    for cpu, text in pairs{ [0] = "zero", [1] = "first" } do
      local code = {}
      for c in text:gmatch "." do code[#code + 1] = out(0xe9, c:byte()) end
      assert(vm:load({ bytes = table.concat(code) .. "\xf4" }, { cpu = cpu }))
    end
    assert.same({ 1, "irst" }, { vm.console:expect("irst", { cpu = 1 }) })
    assert.same({ 1, "zer" }, { vm.console:expect "zer" })
    assert.matches("has no cpu 2", message(vm.console.expect, vm.console, "x", { cpu = 2 }))
  end)
end)

describe("the stop of a wait", function()
  if support.without_kvm(pending) then return end

  ---What can be seen of a VM that was stopped.
  local function state(vm)
    local text, total = vm.console:text()
    return { text, total, vm.cpu[0].rip, vm.cpu[0].rcx, vm:expect_exits() }
  end

  -- mov al, 'a'; loop: out 0xe9, al; inc cx; jmp loop
  local COUNTING <const> = bytes "b0 61 e6 e9 41 eb fb"

  it("is at the byte, each time", function()
    for _, coalesce in ipairs{ true, false } do
      local first
      for _ = 1, 20 do
        local vm <close> = support.program({ COUNTING }, { coalesce = coalesce })
        vm.console:expect(("a"):rep(100))
        local now = state(vm)
        first = first or now
        assert.same(first, now)
        assert.equal(100, now[2])
        assert.equal(99, now[4])
      end
    end
  end)

  it("is at the byte on a started VM that is asked for it", function()
    for _ = 1, 20 do
      local vm <close> = support.program({ COUNTING }, { coalesce = false })
      vm.console:send "" -- nothing
      local forbid <close> = vm.console:forbid(("a"):rep(70), { stop = true })
      vm:start()
      local reason, info = vm:wait(20)
      assert.same({ "forbidden", 1 }, { reason, forbid.hits }, info.text)
      assert.equal(70, select(2, vm.console:text()))
      forbid:remove()
      vm:start()
      local from = select(2, vm.console:text())
      vm.console:expect("a", { stop = true })
      assert.equal("ended", vm.state)
      assert.equal("stopped", (vm:wait()))
      assert.is_true(from <= select(2, vm.console:text()))
    end
  end)

  it("is behind the hypercall or the instruction that brought more bytes", function()
    for _, make in ipairs{ writer, stringer } do
      local vm <close> = make "abcdefgh"
      vm.console:expect "abc"
      local total = select(2, vm.console:text()) -- KVM hands REP OUTSB over as it likes
      assert.is_true(total == 8 or make == stringer and total >= 3)
      assert.same({ 1, "defgh" }, { vm.console:expect "^defgh" })
      assert.equal("halt", (support.run(vm)))
    end
  end)

  it("can be left out, so that output is collected", function()
    local vm <close> = support.program{ CHATTER }
    vm.console:expect(("a"):rep(500), { stop = false })
    local _, info = vm:run{ exits = 1, deadline = 0.05 }
    assert.equal("ended", vm.state)
    if info.served.coalesced == 0 then assert.is_nil(kvm.probe().caps.coalesced_pio or nil) end
  end)
end)

describe("a session with 1K OS", function()
  if support.without_kvm(pending) then return end

  it("is a dialogue", function()
    local vm <close> = support.vm{ mode = "paged" }
    assert(vm:load "os-1k/kernel.bin")
    local con, wait = vm.console, { timeout = 60 }
    con:forbid "[Pp]anic"
    con:expect("Select: ", wait)
    con:sendline "6"
    for sum, result in pairs{ ["12 + 5"] = "17", ["100 - 37"] = "63" } do
      con:expect("Calculate: ", wait)
      con:type(sum .. "\n", wait)
      assert.same({ 2, result }, { con:expect({ "[Ee]rror", "^(%d+)\n" }, wait) })
    end
    con:expect("Calculate: ", wait)
  end)
end)

describe("a wait on a started VM", function()
  if support.without_kvm(pending) then return end

  it("leaves it running", function()
    local vm <close> = echo()
    vm:start()
    for i = 1, 20 do
      vm.console:send("<" .. i .. ">")
      assert.same({ 1, tostring(i) }, { vm.console:expect("<(%d+)>") })
      assert.equal("running", vm.state)
    end
  end)

  it("comes back though the guest prints and prints", function()
    local vm <close> = support.program{ CHATTER }
    vm:start()
    for _ = 1, 5 do vm.console:expect(("a"):rep(200)) end
    assert.equal("running", vm.state)
  end)

  it("ends with the VM", function()
    local vm <close> = echo()
    vm:start()
    vm.console:send("abc"):eof()
    local index, why, code = vm.console:try_expect("never", { timeout = 60 })
    assert.same({ nil, "ESHUTDOWN" }, { index, code })
    assert.matches("the vm ended: exit, the guest exited with code 0", why)
  end)

  it("tells where the vCPU is", function()
    local vm <close> = support.code "eb fe" -- jmp $
    vm:start()
    local _, why, code = vm.console:try_expect("never", { timeout = 0.05 })
    assert.equal("ETIMEDOUT", code)
    assert.matches("cpu 0: running at rip 0x0", why)
    assert.equal("running", vm.state)
  end)

  it("has a budget too", function()
    local vm <close> = support.program{ CHATTER }
    vm:start()
    local _, why, code = vm.console:try_expect("never", { budget = 300 })
    assert.equal("EDQUOT", code, why)
    assert.equal("running", vm.state)
  end)
end)

describe("a failed wait", function()
  if support.without_kvm(pending) then return end

  it("raises an error that tells all", function()
    local vm <close> = echo()
    vm.console:send "one\ntwo\x1b[m\n"
    local why = message(function() vm.console:expect({ "three", "fo%u" }, { budget = 40 }) end)
    local line = debug.getinfo(1, "l").currentline - 1
    assert.equal(("spec/io/expect_spec.lua:%d: "):format(line)
      .. 'expect "three" or "fo%u": not within the budget of 40 exits\n'
      .. "  printed last:\n    | one\n    | two\\x1b[m\n"
      .. '  sent last: "one\\ntwo\\x1b[m\\n", all of it was read\n'
      .. ("  cpu 0: limit at rip 0x%x: the budget of a wait is used up"):format(vm.cpu[0].rip), why)
  end)

  it("shows the end of much output, and input that was not read", function()
    local vm <close> = printer(("line\n"):rep(30) .. "end")
    vm.console:send "unread"
    local why = message(vm.console.expect, vm.console, "never")
    assert.matches("    | %.%.%.\n    | line\n", why)
    assert.matches("    | line\n    | end\n", why)
    assert.equal(11, select(2, why:gsub("\n    |", "")))
    assert.matches('sent last: "unread", 6 bytes are not read yet', why)
    assert.matches("the vm ended: halt, HLT with interrupts off", why)
  end)

  it("says that nothing was printed or sent", function()
    local vm <close> = support.program{}
    local _, why = vm.console:try_expect "x"
    assert.matches("printed last:\n    %(nothing%)\n  sent last: nothing\n", why)
  end)

  it("consumes nothing", function()
    local vm <close> = echo()
    vm.console:send "abc"
    assert.is_nil((vm.console:try_expect("never", { timeout = 0.05 })))
    assert.same({ 1, "abc" }, { vm.console:expect "^abc" })
  end)

  it("within its budget of exits is exact", function()
    for _ = 1, 5 do
      local vm <close> = support.program({ CHATTER })
      local _, why, code = vm.console:try_expect("b", { budget = 123 })
      assert.equal("EDQUOT", code)
      assert.matches("not within the budget of 123 exits", why)
      assert.equal(123, vm:expect_exits(123))
      assert.equal(123, select(2, vm.console:text()))
      assert.is_nil((vm.console:try_expect("b", { budget = { exits = 7 } })))
      vm:expect_exits(7)
    end
  end)

  it("of ticks is for a VM with a timer", function()
    local vm <close> = support.vm()
    local ok, why = pcall(vm.console.expect, vm.console, "x", { budget = { ticks = 5 } })
    assert.is_false(ok)
    assert.matches('a budget of ticks: vm "vm" has no timer that ticks', why)
  end)

  it("counts timer ticks", function()
    if kvm.probe().iret == "unknown" then pending "this host has no IRET" return end
    local vm <close> = support.vm{ mode = "paged", memory = "4M", irqchip = "pic" }
    assert(vm:load "guests/prot/ticks.bin")
    local _, why, code = vm.console:try_expect("ticks", { budget = { ticks = 5 } })
    assert.equal("EDQUOT", code, why)
    assert.matches("not within the budget of 5 timer ticks", why)
    assert.same({ 1, "20" }, { vm.console:expect("(%d+) ticks", { budget = { ticks = 100 } }) })
  end)

  it("comes at once when the VM has ended for good", function()
    local vm <close> = echo()
    vm.console:eof()
    assert.equal("exit", (support.run(vm)))
    assert.matches("the vm ended: exit", message(vm.console.expect, vm.console, "x"))
    local triple <close> = support.guest "real/triple"
    triple:run{ deadline = 20 }
    assert.equal("ESHUTDOWN", (select(3, triple.console:try_expect "x")))
  end)

  it("heeds the VM's own limits", function()
    local vm <close> = support.program({ CHATTER }, { limits = { output = 50 } })
    local _, why, code = vm.console:try_expect "b"
    assert.same("ESHUTDOWN", code)
    assert.matches("the vm ended: limit, the limit of 50 bytes of output", why)
  end)
end)

describe("misuse of a wait", function()
  if support.without_kvm(pending) then return end

  local vm, con

  before_each(function()
    vm = echo()
    con = vm.console
  end)

  after_each(function() vm:close() end)

  local WRONG <const> = {
    { { "" }, 'pattern "" matches the empty string, which is everywhere' },
    { { "a*" }, 'pattern "a%*" matches the empty string' },
    { { "(a-)%f[%w]b?$" }, "matches the empty string" },
    { { "", { plain = true } }, "the empty text is found everywhere" },
    { { "(a" }, 'malformed pattern "%(a", at character 2: unfinished capture' },
    { { { "fine", "%" } }, 'malformed pattern "%%", at character 1: ends with \'%%\'' },
    { { "[a" }, "missing '%]'" },
    { { ("a?"):rep(200) .. "b" }, "too complex" },
    { { ("x"):rep(70000), { plain = true } }, "a pattern of 70000 bytes: 65536 at the most" },
    { {}, "expected a pattern or a list of patterns, got nil" },
    { { {} }, "got an empty table" },
    { { { "a", 7 } }, "pattern 2 is a number" },
    { { { "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q" } },
      "more than 16 patterns" },
    { { "x", { tiemout = 1 } }, "unknown option 'tiemout' %(did you mean 'timeout'%?%)" },
    { { "x", { timeout = -1 } }, "option 'timeout': expected seconds" },
    { { "x", { budget = 0 } }, "option 'budget': expected a number of exits" },
    { { "x", { budget = { exit = 1 } } }, "expected { exits = n, ticks = n }.*got exit = 1" },
    { { "x", { budget = {} } }, "got an empty table" },
  }

  for _, case in ipairs(WRONG) do
    it("is an error: " .. case[2], function()
      local why = message(function() con:expect(table.unpack(case[1], 1, 2)) end)
      assert.matches(case[2], why)
      assert.matches("^spec/io/expect_spec%.lua:%d+: ", why)
      assert.matches(case[2], message(con.try_expect, con, table.unpack(case[1], 1, 2)))
    end)
  end

  it("inside a handler", function()
    local why
    con:on_line(function() why = message(con.expect, con, "x") end)
    con:send("line\n"):eof()
    support.run(vm)
    assert.matches("expect%(%) would block inside a handler", why)
  end)

  it("on a closed or empty VM, or without one", function()
    local empty <close> = support.vm()
    assert.matches("nothing to run", message(empty.console.expect, empty.console, "x"))
    vm:close()
    assert.matches('^spec/.*console:expect: vm "vm" is closed',
                   message(function() con:expect "x" end))
    assert.matches('vm "vm" is closed', message(con.forbid, con, "x"))
    assert.matches("call expect with ':'", message(con.expect, "x"))
  end)

  it("when the VM is paused and has not printed it yet", function()
    vm:start{ deadline = 20 }
    con:send "abc":expect "ab"
    vm:pause()
    assert.matches('^spec/.*expect: vm "vm" is paused: vm:resume%(%) lets it go on',
                   message(con.expect, con, "never"))
    vm:resume()
    assert.same({ 1, "c" }, { con:expect "c" })
  end)

  it("when input has ended", function()
    con:send("abc"):eof()
    assert.matches("console input has ended: nothing can follow eof",
                   message(con.type, con, "more"))
    assert.same({ 1, "abc" }, { con:expect "abc" })
  end)

  it("when the VM is closed while it waits", function()
    con:on_line(function() vm:close() end)
    con:send "line\n"
    local _, why, code = con:try_expect "never"
    assert.equal("ESHUTDOWN", code)
    assert.matches("the vm was closed", why)
  end)
end)

describe("a pattern that needs too much work", function()
  if support.without_kvm(pending) then return end

  local EXPLODES <const> = "(.-)(.-)(.-)(.-)%1%2%3%4a%f[y]a"

  it("fails the wait", function()
    local vm <close> = support.program{ CHATTER }
    local _, why, code = vm.console:try_expect(EXPLODES, { timeout = 60 })
    assert.equal("E2BIG", code)
    assert.matches('needs more than 10000000 steps', why)
    assert.matches("%(%.%-%)", why)
    assert.same({ 1, "aaa" }, { vm.console:expect "aaa" }) -- goes on
  end)

  it("ends a run that forbids it", function()
    local vm <close> = support.program{ CHATTER }
    local forbid <close> = vm.console:forbid(EXPLODES)
    local reason, info = support.run(vm)
    assert.same({ "forbidden", 1 }, { reason, forbid.hits })
    assert.matches("needs more than 10000000 steps", info.text)
  end)
end)

describe("console:forbid", function()
  if support.without_kvm(pending) then return end

  it("ends the run, and fails waits until it is removed", function()
    local vm <close> = printer "fine\nPANIC: no memory\nready\n"
    local con = vm.console
    local forbid = con:forbid "PANIC.-\n"
    assert.same({ 1, "fine" }, { con:expect "fine" })
    for _ = 1, 2 do
      local _, why, code = con:try_expect "ready"
      assert.equal("ECANCELED", code)
      assert.matches('the output matches the forbidden pattern "PANIC%.%-\n": "PANIC: no memory"',
                     why)
    end
    assert.equal(1, forbid.hits)
    forbid:remove()
    assert.equal(1, forbid.hits)
    assert.same({ 1, "ready" }, { con:expect "ready" })
  end)

  it("holds over runs, and looks only at what comes", function()
    local vm <close> = echo()
    vm.console:send "BAD"
    vm.console:expect "BA"
    local forbid <close> = vm.console:forbid "BAD"
    vm.console:expect "D"
    for i = 1, 3 do
      vm.console:send "B"
      assert.equal("deadline", (vm:run{ deadline = 0.02 }))
      vm.console:send "AD"
      local reason, info = support.run(vm)
      assert.same({ "forbidden", i }, { reason, forbid.hits }, info.text)
      assert.matches('forbidden pattern "BAD"', info.text)
    end
  end)

  it("yields to a match that ends before it", function()
    local vm <close> = writer "ready PANIC"
    local forbid <close> = vm.console:forbid "PANIC"
    assert.same({ 1, "ready" }, { vm.console:expect "ready" })
    assert.equal("ECANCELED", (select(3, vm.console:try_expect "PANIC")))
    assert.equal(1, forbid.hits)
  end)

  it("sees every vCPU, or one", function()
    for only, hits in pairs{ [0] = 0, [1] = 1, [-1] = 1 } do
      local vm <close> = support.vm{ cpus = 2 }
      assert(vm:load({ bytes = "\xf4" }, { cpu = 0 }))
      assert(vm:load({ bytes = out(0xe9, 0x58) .. "\xf4" }, { cpu = 1 }))
      local forbid <close> = vm.console:forbid("X", { cpu = only >= 0 and only or nil })
      local reason = support.run(vm)
      assert.same({ hits == 1 and "forbidden" or "halt", hits }, { reason, forbid.hits })
    end
  end)

  it("is cleared by a reset, and stays", function()
    local vm <close> = printer "xPANICx"
    local forbid <close> = vm.console:forbid "PANIC"
    for _ = 1, 2 do
      assert.equal("forbidden", (support.run(vm)))
      assert.equal(1, forbid.hits)
      vm:reset()
      assert.equal(0, forbid.hits)
    end
  end)

  it("ends a started VM and its wait", function()
    local vm <close> = echo()
    local forbid <close> = vm.console:forbid "bad"
    vm:start()
    vm.console:send "so bad"
    local _, why, code = vm.console:try_expect("never", { timeout = 60 })
    assert.equal("ECANCELED", code, why)
    assert.equal("forbidden", (vm:wait(20)))
    assert.equal(1, forbid.hits)
  end)

  it("may be armed and removed by a handler, and outlived by its VM", function()
    local vm = echo()
    local forbid
    vm.console:on_line(function(line)
      if line == "on" then forbid = vm.console:forbid "x" end
      if line == "off" then forbid:remove() end
    end)
    vm.console:send("x\non\noff\nx\n"):eof()
    assert.equal("exit", (support.run(vm)))
    local left = vm.console:forbid "x"
    vm:close()
    assert.matches("closed", message(left.remove, left))
  end)

  it("refuses what can be no pattern", function()
    local vm <close> = echo()
    assert.matches("expected a pattern, got a table", message(vm.console.forbid, vm.console, {}))
    assert.matches("empty string", message(vm.console.forbid, vm.console, "x*"))
    assert.matches("has no cpu 3", message(vm.console.forbid, vm.console, "x", { cpu = 3 }))
  end)
end)

describe("console:type", function()
  if support.without_kvm(pending) then return end

  it("waits for each echo", function()
    local vm <close> = echo()
    assert.equal(vm.console, vm.console:type("hello\n", { delay = 0.001 }))
    assert.equal("hello\n", (vm.console:text()))
    local _, _, code = vm.console:try_expect("o", { timeout = 0.02 })
    assert.equal("ETIMEDOUT", code) -- the echoes are taken
    vm:start()
    vm.console:type "again"
    assert.equal("hello\nagain", (vm.console:text()))
  end)

  it("tells which echo did not come", function()
    local vm <close> = support.program{ CHATTER }
    local why = message(vm.console.type, vm.console, "ab", { budget = 100 })
    assert.matches('type: the echo of character 2 of 2, "b": not within the budget', why)
  end)

  it("does without", function()
    local vm <close> = support.program{ CHATTER }
    vm.console:type("secret", { echo = false })
    assert.equal("idle", vm.state)
  end)
end)

describe("console:log", function()
  if support.without_kvm(pending) then return end

  it("keeps all that is printed from then on", function()
    local path = process.temporary "old"
    local vm <close> = echo()
    local con = vm.console
    con:send "before"
    con:expect "before"
    assert.equal(con, con:log(path))
    con:send "logged\n"
    con:expect "logged\n"
    assert.equal(con, con:log(nil))
    con:send "after"
    con:expect "after"
    assert.equal("logged\n", support.read_file(path))
    assert(con:log(path))
    con:send(("x"):rep(10000)):eof()
    support.run(vm)
    vm:close()
    assert.equal(10000, #support.read_file(path))
    os.remove(path)
  end)

  it("says when that cannot be", function()
    local vm <close> = echo()
    assert.same({ nil, "/nowhere/log: No such file or directory", "ENOENT" },
                { vm.console:log "/nowhere/log" })
    assert(vm.console:log "/dev/full")
    vm.console:send("text"):eof()
    assert.equal("exit", (support.run(vm)))
    local _, why, code = vm.console:log(nil)
    assert.equal("ENOSPC", code)
    assert.matches("the console's log was not written", why)
    assert.equal(vm.console, vm.console:log(nil))
  end)
end)

describe("console:interact", function()
  if support.without_kvm(pending) then return end

  it("hands stdin and stdout over, then back", function()
    local path = program.file [[
      local vm = require "minikvm".vm{ echo = false }
      vm:load "guests/real/echo.bin"
      vm.console:send "script\n"
      vm.console:expect "script"
      local reason, info = vm.console:interact()
      print(reason, info.code, (vm.console:text()))
    ]]
    local r = program.run("P " .. path, { stdin = "user\n" })
    os.remove(path)
    assert.same({ 0, "\nuser\nexit\t0\tscript\nuser\n\n" }, { r.status, r.out }, r.err)
  end)

  it("closes the file that input came from when the vm is closed meanwhile", function()
    local before
    for _ = 1, 3 do
      local vm = support.program{ call(0x42) }
      vm.console:input "/dev/null"
      vm.hypercalls:define(0x42, "close", function() vm:close() end)
      assert.equal("stopped", (vm.console:interact()))
      before = before or process.entries "/proc/self/fd"
    end
    assert.equal(before, process.entries "/proc/self/fd")
  end)
end)

describe("console:interact on a terminal", function()
  if support.without_kvm(pending) then return end
  if not program.has_terminal then pending "needs util-linux's script" return end

  it("ends by Ctrl-A x, and the script goes on", function()
    local log = process.temporary()
    local path = program.file(([[
      local vm = require "minikvm".vm{ echo = false }
      vm:load "guests/real/echo.bin"
      -- it prints "R", and goes to the image: the terminal is raw by then
      vm.memory:write(0x8000, %q)
      vm.cpu[0].ip = 0x8000
      local con = vm.console
      con:output %q
      con:forbid "bad"
      print((con:interact()))
      con:send "back"
      print(con:expect "^(ba)ck")
      vm:close()
    ]]):format("\xb0R\xe6\xe9\xe9\xf9\x7f", log)) -- mov al, 'R'; out 0xe9, al; jmp 0
    local t = program.start("P " .. path, { terminal = true })
    local r = t:wait("R"):type("user"):wait("user"):type("\1x"):finish()
    os.remove(path)
    assert.matches("Ruserstopped\n1\tba\n", r.out, 1, true, r.err)
    assert.equal("back", support.read_file(log))
    os.remove(log)
  end)
end)

describe("screen:expect", function()
  if support.without_kvm(pending) then return end

  local DIGITS <const> = [[
    b8 00 b8 8e c0 31 ff ; mov ax, 0xb800; mov es, ax; xor di, di
    b0 30                ; mov al, '0'
    26 88 05 e6 80       ; next: mov es:[di], al; out 0x80, al
    fe c0 3c 3a 72 f5 f4 ; inc al; cmp al, ':'; jb next; hlt
  ]]

  it("waits for what is shown", function()
    local vm <close> = support.code(DIGITS)
    local screen = vm:screen()
    assert.same({ 1, "5" }, { screen:expect "^(5)" })
    assert.equal("5", screen:row(0))
    assert.same({ 2, "9" }, { screen:expect{ "x", "9" } })
    assert.equal("halt", (support.run(vm)))
    assert.same({ 1, "9" }, { screen:expect("9", { plain = true }) })
    local why = message(screen.expect, screen, "never")
    assert.matches('screen:expect "never": the vm ended: halt', why)
    assert.matches("on the screen:\n     0 | 9\n  sent", why) -- the rows that are not blank
  end)

  it("waits for a prompt that ends in a blank, and for the end of a row", function()
    for _, blank in ipairs{ "\0\7", " \7" } do -- memory as it is at first, and cleared
      local vm <close> = support.code "f4"
      vm.memory:write(0xb8000, blank:rep(80 * 25))
      vm.memory:write(0xb8000 + 160, (("login: "):gsub(".", "%0\7")))
      vm.memory:write(0xb8000 + 320, ">\7 \7")
      local screen = vm:screen()
      assert.same({ 1, "> " }, { screen:expect("> ", { plain = true }) })
      assert.same({ 1, "login: " }, { screen:expect "login: " })
      assert.same({ 1, "\n>" }, { screen:expect "\n>%f[\n]" })
      assert.equal("\nlogin:\n>" .. ("\n"):rep(22), screen:text())
      local why = message(screen.expect, screen, "never")
      assert.matches("on the screen:\n     1 | login:\n     2 | >\n  sent", why)
    end
    local vm <close> = support.code "f4"
    vm.memory:write(0xb8000, ">\7 \7")
    assert.equal("> " .. ("\n"):rep(24), vm:screen():text{ blanks = true })
    assert.equal(">", vm:screen():row(0))
  end)

  it("sees each of what is shown between two exits", function()
    for digit = 0, 9 do
      local vm <close> = support.code(DIGITS)
      assert.same({ 1, tostring(digit) }, { vm:screen():expect(tostring(digit)) })
      assert.equal(digit + 1, vm:expect_exits())
    end
  end)

  it("waits on a started VM, and has a budget", function()
    local vm <close> = support.code(DIGITS)
    vm:start()
    local screen = vm:screen()
    assert.same({ 1, "9" }, { screen:expect "9" })
    vm:close()
    assert.matches('^spec/.*screen:expect: vm "vm" is closed',
                   message(function() screen:expect "9" end))
    local spin <close> = support.code "e6 80 eb fc" -- out 0x80, al; jmp back
    local ok, why = pcall(function() spin:screen():expect("x", { budget = 50 }) end)
    assert.is_false(ok)
    assert.matches("not within the budget of 50 exits", why)
    assert.equal(50, spin:expect_exits())
  end)
end)

describe("keyboard:type with a timeout", function()
  if support.without_kvm(pending) then return end

  local TEXT <const> = ("k"):rep(2100) -- 4200 scancode bytes: more than there is room for

  local function keyboard_guest()
    local vm = support.vm{ mode = "protected", irqchip = "pic" }
    assert(vm:load "guests/prot/keyboard.bin")
    return vm
  end

  it("lets the guest read what does not fit", function()
    for _, started in ipairs{ false, true } do
      local vm <close> = keyboard_guest()
      vm.console:expect "ready\n"
      if started then vm:start() end
      assert.equal("ENOBUFS", (select(3, vm.keyboard:type(TEXT))))
      assert.equal(vm.keyboard, vm.keyboard:type("rest\n", { timeout = 20 }))
      assert.same({ 1, "k" }, { vm.console:expect("typed: k+(k)\n", { timeout = 20 }) })
    end
  end)

  it("gives up", function()
    local vm <close> = support.program({ CHATTER }, { irqchip = "pic" })
    local done, _, code, typed = vm.keyboard:type(TEXT, { timeout = 0.02 })
    assert.same({ nil, "ENOBUFS" }, { done, code })
    assert.is_true(typed > 1000 and typed < #TEXT)
    assert.matches("unknown option 'timout'",
                   message(vm.keyboard.type, vm.keyboard, "x", { timout = 1 }))
  end)
end)

describe("vm:expect_exits", function()
  if support.without_kvm(pending) then return end

  it("counts from the last look", function()
    local vm <close> = support.program({ out(0x80, 1), out(0x80, 2), out(0x80, 3) })
    assert.equal(0, vm:expect_exits())
    support.run(vm)
    assert.equal(4, vm:expect_exits{ min = 4, max = 4 })
    assert.equal(0, vm:expect_exits(0))
    vm:reset()
    vm:run{ exits = 2 }
    assert.equal(2, vm:expect_exits(2))
  end)

  it("raises when there were others", function()
    local vm <close> = support.program({ out(0x80, 1) })
    support.run(vm)
    assert.matches("^spec/.*expected 3 exits since the last look, there were 2\n  cpu 0: halt at",
                   message(function() vm:expect_exits(3) end))
    assert.matches("at least 1 exits", message(vm.expect_exits, vm, { min = 1 }))
    vm:reset()
    support.run(vm)
    assert.matches("at most 1 exits", message(vm.expect_exits, vm, { max = 1 }))
    assert.matches("did you mean 'max'", message(vm.expect_exits, vm, { maxx = 1 }))
  end)
end)

describe("a watch", function()
  it("finds all matches in a stream, whatever its pieces", function()
    local text = ("one two three\n"):rep(100)
    for _, piece in ipairs{ 1, 7, 512, #text } do
      local vm <close> = assert(kvm.vm{ echo = false })
      vm:load{ bytes = "\xe6\x80\xeb\xfc" } -- again: out 0x80, al; jmp again
      local at = 1
      vm.ports:on(0x80, { write = function()
        if at > #text then return vm:exit(0) end
        vm.console:write(text:sub(at, at + piece - 1))
        at = at + piece
      end })
      for _ = 1, 100 do vm.console:expect "t%w+e\n" end
      assert.matches("the vm ended: exit", message(vm.console.expect, vm.console, "t%w+e\n"))
    end
  end)

  it("matches what string.match does, whatever the pattern", function()
    local parts = { "a", "b", ".", "%a", "[^a]", "[ab]", "(", ")", "()", "%1", "%b()", "%f[a]", "*",
                    "+", "-", "?", "$", "^", "%d", "\0" }
    local letters, compared = { "a", "b", "1", "(", ")", " ", "\0" }, 0
    for _ = 1, 20000 do
      local pattern, text = {}, {}
      for i = 1, math.random(6) do pattern[i] = parts[math.random(#parts)] end
      for i = 1, math.random(12) do text[i] = letters[math.random(#letters)] end
      local p, t = table.concat(pattern), table.concat(text)
      local found = table.pack(pcall(core.search, t, p))
      if found[1] then
        compared = compared + 1
        assert.same({ p, t, t:match(p) }, { p, t, table.unpack(found, 2, found.n) })
      end
    end
    assert.is_true(compared > 1000)
  end)

  it("matches text as string.match does", function()
    for _, case in ipairs{ { "key = value", "(%w+)%s*=%s*(%w+)" }, { "f(a(b))c", "%b()" },
                           { "THE (quick) fox", "%f[%a]%a+()" }, { "abab", "(ab)%1" } } do
      assert.same({ case[1]:match(case[2]) }, { core.search(case[1], case[2]) })
    end
  end)
end)
