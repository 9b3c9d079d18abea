-- vm.console: what goes into a guest and what comes out.

local support = require "support.guest"
local process = require "support.process"

local run, await, took = support.run, process.await, process.took

---A guest that prints `text` byte by byte.
local function printer(text, opts)
  local vm = support.vm(opts)
  local code = support.bytes [[
    be 20 00   ; mov si, 32
    2e ac      ; lods al, cs:[si]
    84 c0      ; test al, al
    74 04      ; jz to the hlt
    e6 e9      ; out 0xe9, al
    eb f6      ; jmp to the lods
    f4         ; hlt
  ]]
  code = code .. ("\0"):rep(32 - #code)
  for cpu = 0, (opts and opts.cpus or 1) - 1 do
    assert(vm:load({ bytes = code .. text:gsub("@", cpu) .. "\0" }, { cpu = cpu }))
  end
  return vm
end

---A guest that prints `length` bytes of memory from 0x2000 with one hypercall.
local function writer(text, opts)
  local length = "\x66\xb9" .. string.pack("<I4", #text) -- mov ecx, length
  local vm = support.program({ length, support.call(0x10, 0x2000) }, opts)
  vm.memory:write(0x2000, text)
  return vm
end

local function lines_of(vm)
  local lines = {}
  vm.console:on_line(function(line) lines[#lines + 1] = line end)
  assert(run(vm))
  return lines
end

describe("console input", function()
  if support.without_kvm(pending) then return end

  it("arrives in order, all of it, NUL and 0xff too", function()
    local all = {}
    for i = 0, 255 do all[i + 1] = string.char(i) end
    local text = table.concat(all):rep(8)
    local vm <close> = support.guest "real/echo"
    assert.equal(vm.console, vm.console:send(text))
    vm.console:eof()
    assert.equal("exit", (run(vm)))
    assert.equal(text, (vm.console:text()))
  end)

  it("may be sent in pieces while the guest runs", function()
    local vm <close> = support.guest("real/echo"):start()
    for _, piece in ipairs{ "one ", "two ", "three" } do
      local before = select(2, vm.console:text())
      vm.console:send(piece)
      await(function() return select(2, vm.console:text()) == before + #piece end)
    end
    vm.console:eof()
    assert.equal("exit", (vm:wait(20)))
    assert.equal("one two three", (vm.console:text()))
  end)

  it("may be sent by a listener", function()
    local vm <close> = support.guest "real/echo"
    vm.console:on_line(function(line)
      if line == "more" then vm.console:sendline "end" else vm.console:eof() end
    end)
    vm.console:sendline "more"
    assert.equal("exit", (run(vm)))
    assert.equal("more\nend\n", (vm.console:text()))
  end)

  it("cannot follow eof", function()
    local vm <close> = support.vm()
    assert.equal(vm.console, vm.console:eof())
    vm.console:eof()
    local sent, why, code = vm.console:send "x"
    assert.is_nil(sent)
    assert.matches("ended", why)
    assert.equal("EPIPE", code)
  end)

  it("is bounded", function()
    local vm <close> = support.vm()
    local megabyte = ("x"):rep(1 << 20)
    for _ = 1, 16 do assert(vm.console:send(megabyte)) end
    local sent, why, code = vm.console:send "x"
    assert.is_nil(sent)
    assert.matches("full", why)
    assert.equal("ENOBUFS", code)
    vm:reset()
    assert(vm.console:send "x")
  end)

  it("comes from a file, to its end", function()
    local text = ("line\n"):rep(1500) -- more than is read at a time
    local path = process.temporary(text)
    local vm <close> = support.guest "real/echo"
    assert.equal(vm.console, vm.console:input(path))
    os.remove(path)
    assert.equal("exit", (run(vm)))
    assert.equal(text, (vm.console:text()))
  end)

  it("from an empty file ends at once", function()
    local vm <close> = support.guest "real/echo"
    vm.console:input "/dev/null"
    assert.same({ "exit", "" }, { (run(vm)), (vm.console:text()) })
  end)

  it("from a file that cannot be read is refused", function()
    local vm <close> = support.vm()
    for path, code in pairs{ ["/no/such"] = "ENOENT", ["/tmp"] = "EISDIR" } do
      local ok, why, name = vm.console:input(path)
      assert.same({ nil, code }, { ok, name })
      assert.matches("^" .. path .. ": ", why)
    end
  end)

  it("leaves no descriptor behind", function()
    local before = process.descriptors()
    for _ = 1, 20 do
      local vm <close> = support.vm()
      for _ = 1, 3 do vm.console:input "/dev/null" end
    end
    assert.equal(before, process.descriptors())
  end)
end)

describe("console output", function()
  if support.without_kvm(pending) then return end

  it("is kept as text, the newest MiB of it, and counted", function()
    local vm <close> = writer(("0123456789abcdef"):rep(0x1000 * 8 // 16), { memory = "256K" })
    vm.memory:write(0, support.bytes [[
      66 bb 00 20 00 00   ; mov ebx, 0x2000
      66 b9 07 80 00 00   ; mov ecx, 0x8007 (7 of them are zero)
      bf 23 00            ; mov di, 35
      ba 00 05            ; mov dx, 0x500
      b0 10               ; mov al, WRITE
      ee                  ; out dx, al
      4f                  ; dec di
      75 fa               ; jnz to the mov al
      f4                  ; hlt
    ]])
    run(vm)
    local text, total = vm.console:text()
    local once = vm.memory:read(0x2000, 0x8007)
    assert.equal(35 * #once, total)
    assert.equal(once:rep(35):sub(-(1 << 20)), text)
  end)

  it("is cut into lines, the last one also when it is not finished", function()
    local vm <close> = printer "one\n\ntwo\r\nthree"
    assert.same({ "one", "", "two\r", "three" }, lines_of(vm))
  end)

  it("ends with a newline, and no empty line follows", function()
    local vm <close> = printer "one\n"
    assert.same({ "one" }, lines_of(vm))
  end)

  it("has lines with any bytes in them", function()
    local vm <close> = writer "a\0b\xff\n\0\n"
    assert.same({ "a\0b\xff", "\0" }, lines_of(vm))
  end)

  it("hands a line of more than 1 MiB over in pieces, and says so", function()
    for length, expected in pairs{ [0x10000] = { 0x10000, "false" },
                                   [0x10001] = { 0x10001, "false" },
                                   [0x100000] = { 0x100000, "false" },
                                   [0x100001] = { 0x100000, "true", 1, "false" },
                                   [0x250000] = { 0x100000, "true", 0x100000, "true", 0x50000,
                                                  "false" },
                                 } do
      local vm <close> = writer(("x"):rep(length) .. "\nb\n", { memory = "4M" })
      local seen = {}
      vm.console:on_line(function(line, _, more)
        table.move({ #line, tostring(more) }, 1, 2, #seen + 1, seen)
      end)
      run(vm)
      assert.same(table.move({ 1, "false" }, 1, 2, #expected + 1, expected), seen)
    end
  end)

  it("finishes its line in the next run when a limit cut it", function()
    local vm <close> = printer("abcdef\n", { coalesce = false })
    local lines = {}
    vm.console:on_line(function(line) lines[#lines + 1] = line end)
    assert.equal("limit", (vm:run{ exits = 3 }))
    run(vm)
    assert.same({ "abc", "def" }, lines)
  end)

  it("goes to every listener, in order, until it is removed", function()
    local vm <close> = printer "1\n2\n3\n"
    local seen = {}
    local first
    first = vm.console:on_line(function(line)
      seen[#seen + 1] = "a" .. line
      if line == "2" then first:remove() end
    end)
    local second = vm.console:on_line(function(line) seen[#seen + 1] = "b" .. line end)
    run(vm)
    assert.same({ "a1", "b1", "a2", "b2", "b3" }, seen)
    assert.same({ 2, 3 }, { first.hits, second.hits })
    do local _ <close> = second end
    first:remove()
    vm:reset()
    run(vm)
    assert.equal(5, #seen)
  end)

  it("that a listener cannot take ends the run", function()
    local vm <close> = printer "1\n2\n"
    vm.console:on_line(function(line) error("line " .. line) end)
    local reason, info = run(vm)
    assert.equal("error", reason)
    assert.matches("line 1$", info.text)
    assert.matches("stack traceback", info.traceback)
    local last <close> = printer "unfinished"
    last.console:on_line(function() error "no" end)
    reason, info = run(last)
    assert.equal("error", reason, info.text)
  end)

  it("wants a function to listen", function()
    local vm <close> = support.vm()
    assert.error_matches(function() vm.console:on_line() end, "expected a function")
    assert.error_matches(function() vm.console:on_line "print" end, "expected a function")
    assert.error_matches(function() vm.console:text(1) end, "no such cpu")
    assert.error_matches(function() vm.console:text(-1) end, "no such cpu")
    assert.error_matches(function() vm.console:echo "yes" end, "boolean expected")
    assert.error_matches(function() vm.console:send(nil) end, "string expected")
  end)

  it("of several cpus is kept apart, lines too", function()
    local vm <close> = printer(("@ says @@@\n"):rep(50), { cpus = 4 })
    local lines = { [0] = {}, {}, {}, {} }
    vm.console:on_line(function(line, cpu) table.insert(lines[cpu], line) end)
    assert.equal("halt", (run(vm)))
    for cpu = 0, 3 do
      local line = ("@ says @@@"):gsub("@", cpu)
      assert.equal((line .. "\n"):rep(50), (vm.console:text(cpu)))
      assert.equal(50, #lines[cpu])
      for _, got in ipairs(lines[cpu]) do assert.equal(line, got) end
    end
  end)

  it("appears while the guest spins", function()
    -- mov al, 'A'; out 0xe9, al; mov al, '\n'; out 0xe9, al; jmp $
    local vm <close> = support.code "b0 41 e6 e9 b0 0a e6 e9 eb fe"
    local seen
    vm.console:on_line(function(line) seen = line end)
    vm:start()
    local seconds = took(function() await(function() return seen end) end)
    assert.equal("A", seen)
    assert.is_true(seconds < process.SOON, ("%.3f s"):format(seconds))
  end)
end)

describe("a guest that polls for input", function()
  if support.without_kvm(pending) then return end

  local POLLS = {
    ["GETCHAR"] = [[
      ba 00 05   ; mov dx, 0x500
      b0 02      ; mov al, GETCHAR
      ee         ; out dx, al
      ed         ; in ax, dx
      84 e4      ; test ah, ah
      75 f8      ; jnz to the mov al
      e6 f4      ; out 0xf4, al
    ]],
    ["READ"] = [[
      66 bb 00 10 00 00   ; mov ebx, 0x1000
      66 b9 01 00 00 00   ; mov ecx, 1
      ba 00 05            ; mov dx, 0x500
      b0 11               ; mov al, READ
      ee                  ; out dx, al
      66 ed               ; in eax, dx
      66 3d fe ff ff ff   ; cmp eax, none yet
      74 f3               ; je to the mov al
      a0 00 10            ; mov al, [0x1000]
      e6 f4               ; out 0xf4, al
    ]],
    ["the debug console"] = [[
      e4 e9   ; in al, 0xe9
      3c ff   ; cmp al, 0xff
      74 fa   ; je to the in
      e6 f4   ; out 0xf4, al
    ]],
  }

  for what, listing in pairs(POLLS) do
    it("by " .. what .. " burns no core, and wakes at once", function()
      local vm <close> = support.code(listing)
      local polls = 0
      vm.ports:override(what == "the debug console" and 0xe9 or 0x500, {
        read = function(_, _, next) polls = polls + 1 return next() end })
      vm:start()
      await(function() return polls > 0 end)
      local from = os.clock()
      local seconds = took(function() require("minikvm").sleep(0.25) end)
      local burnt = os.clock() - from
      assert.is_true(burnt < seconds / 4, ("%.3f s of %.3f s"):format(burnt, seconds))
      vm.console:send "A"
      local reason, info
      seconds = took(function() reason, info = vm:wait(20) end)
      assert.same({ "exit", 0x41 }, { reason, info.code })
      assert.is_true(seconds < process.SOON, ("%.3f s"):format(seconds))
    end)
  end
end)

describe("a console attached to the program's own", function()
  if support.without_kvm(pending) then return end

  local ECHO = [[
    local vm = support.guest("real/echo", { echo = true })
    vm.console:attach()
    local reason, info = vm:run{ deadline = 20 }
    io.stdout:write("|", reason, " ", info.code or "", "\n")
  ]]

  local TALK = [[
    local size = 0x30000
    local parts = { "\x66\xb9" .. string.pack("<I4", size) } -- mov ecx, size
    for i = 1, 4 do parts[1 + i] = support.call(0x10, 0x10000) end
    local vm = support.program(parts, { echo = true })
    vm.memory:fill(0x10000, size, 0x78)
    local reason = vm:run{ deadline = 20 }
    io.stdout:write("|", reason, "\n")
  ]]

  ---The output of ECHO, or of another script, without the process number.
  local function echo(shell, code)
    local path = process.script(code or ECHO)
    local pipe = assert(io.popen((shell:gsub("ECHO", { ECHO = process.command(path) }))))
    local text = pipe:read "a"
    pipe:close()
    os.remove(path)
    return text:match "^%d+\n(.*)$"
  end

  it("takes a pipe to its end", function()
    assert.equal("abc|exit 0\n", echo "printf abc | ECHO")
    assert.equal("|exit 0\n", echo "printf '' | ECHO")
  end)

  it("takes a file", function()
    local path = process.temporary(("file\n"):rep(500))
    assert.equal(("file\n"):rep(500) .. "|exit 0\n", echo("ECHO <" .. path))
    os.remove(path)
  end)

  it("takes what comes late", function()
    assert.equal("abcd|exit 0\n", echo "(printf ab; sleep 0.15; printf cd) | ECHO")
  end)

  it("gives all of its output to a slow reader", function()
    local text = echo("ECHO | (sleep 0.1; cat)", TALK)
    assert.equal(4 * 0x30000 + #"|halt\n", #text)
    assert.equal("x|halt\n", text:sub(-7))
  end)

  it("ends when the reader is gone", function()
    assert.equal(("x"):rep(10), echo("ECHO | { read n; echo $n; head -c 10; }", TALK):sub(1, 10))
  end)

  it("detaches again", function()
    local vm <close> = support.guest "real/echo"
    assert.equal(vm.console, vm.console:attach())
    assert.equal(vm.console, vm.console:detach())
    vm.console:send("x"):eof()
    assert.same({ "exit", "x" }, { (run(vm)), (vm.console:text()) })
  end)
end)
