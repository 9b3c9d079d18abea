-- minikvm.test: fixtures, modes and artefacts, in small suites that are run as users run them.

local program = require "support.program"
local suites = require "support.suite"
local support = require "support.guest"

local T <const> = 'local t = require "minikvm.test"\n'

-- Counts at 0x2000 how often it came past its HLT: next: hlt; inc byte [0x2000]; jmp next
local COUNTER <const> = T .. [[
local counter = t.guest{
  name = "counter", image = { bytes = "\xf4\xfe\x06\x00\x20\xeb\xf9" },
  boot = function(vm) vm:run() end,
}
local function count(vm) return vm.memory:u8(0x2000) end
]]

---The text without what differs from run to run.
local function ran(text, words)
  local s <close> = suites.new{ ["a_spec.lua"] = text }
  local r = s:test(words)
  return r.last, r.out, r.status
end

describe("minikvm.test", function()
  it("says what is wrong with its arguments", function()
    local _, out = ran(T .. [[
      it("a", function() t.guest "x" end)
      it("b", function() t.guest{ boot = 1 } end)
      it("c", function() t.modes{} end)
      it("d", function() t.modes{ "real", "rael" } end)
      it("e", function() t.modes{ "real" }(1) end)
      it("f", function() t.guest{}:branch() end)
      describe("g", function() t.guest{}() end)
      it("h", function() t.linux "x" end)
      it("i", function() t.linux{ timeout = "long" } end)
      it("j", function() t.linux{}:branch(1) end)
      describe("k", function() t.linux{}() end)]])
    for line, text in pairs{
      [2] = "t.guest: expected a table of options, got string",
      [3] = "t.guest: option 'boot': expected a function, got the number 1",
      [4] = "t.modes: expected a list of modes", [5] = "did you mean \"real\"?",
      [6] = "expected a function, got number", [7] = "guest:branch: expected a function, got nil",
      [8] = "a guest is for the inside of a test",
      [9] = "t.linux: expected a table of options, got string",
      [10] = "t.linux: option 'timeout': expected seconds",
      [11] = "linux:branch: 'go_on': expected a function",
      [12] = "a linux fixture is for the inside of a test",
    } do
      assert.matches(("a_spec.lua:%d: [^\n]*%s"):format(line, text:gsub("%p", "%%%0")), out)
    end
  end)

  it("is for Busted, and for scripts that are to be run by it", function()
    local s <close> = suites.new{ ["x.lua"] = T .. 'it("passes", function() end)',
                                  ["y.lua"] = T .. 'it("fails", function() error "no" end)',
                                  ["z.lua"] = 'local kvm = require "minikvm" require "y"' }
    local runs = { "P" }
    if not require("support.process").sanitized() then runs[2] = program.lua end
    for _, interpreter in ipairs(runs) do
      local r = program.run(("%s %s/x.lua"):format(interpreter, s.folder))
      assert.same({ 0, "" }, { r.status, r.err })
      assert.matches("\n1 passed, 0 failed, 0 skipped\n$", r.out)
      local tap = ("%s %s/y.lua --tap --artefacts %s"):format(interpreter, s.folder, s.folder)
      assert.matches("^not ok 1 %- .*/y.lua: fails\n", program.run(tap).out)
      r = program.run(("LUA_PATH='%s/?.lua;;' %s %s/z.lua"):format(s.folder, interpreter, s.folder))
      assert.same({ 1, "" }, { r.status, r.out })
      assert.matches("minikvm.test works inside Busted: run the file by 'minikvm test FILE'", r.err)
    end
  end)

  it("skips what needs KVM, with the reason, where there is none", function()
    local host = "unshare -m sh -c 'mount -t tmpfs none /dev && exec \"$0\" \"$@\"'"
    if not os.execute(host .. " true 2>/dev/null") then
      return pending "cannot take /dev/kvm away here"
    end
    local SKIPPED <const> = "# SKIP [^\n]*needs KVM: /dev/kvm: it does not exist"
    local s <close> = suites.new{ ["a_spec.lua"] = COUNTER .. [[
      it("needs it", function() counter() end)
      it("needs several", function() counter:fork(2) end)
      it("asks", function() t.needs_kvm() error "not reached" end)
      it("does not", function() end)]] }
    local r = program.run(("%s P test --tap %s"):format(host, s.folder))
    assert.same({ 0, "" }, { r.status, r.err })
    assert.equal(3, select(2, r.out:gsub(SKIPPED, "")))
    assert.matches("# 1 passed, 0 failed, 3 skipped\n", r.out)
  end)
end)

describe("minikvm.test's guests", function()
  if support.without_kvm(pending) then return end

  it("boot once, and every test begins from there", function()
    assert.equal("4 passed, 0 failed, 0 skipped", (ran(COUNTER .. [[
      for i = 1, 3 do
        it("test " .. i, function()
          local vm = counter()
          assert.equal(0, count(vm))
          for n = 1, i do
            assert.equal("halt", (vm:run()))
            assert.equal(n, count(vm))
          end
          assert.equal(vm, counter()) -- the same, as it is
          assert.equal(i, count(vm))
        end)
      end
      it("booted", function() assert.equal(1, counter.booted) end)]])))
  end)

  it("begin each test with what is to be done then", function()
    assert.equal("3 passed, 0 failed, 0 skipped", (ran(T .. [[
      local marked = t.guest{
        image = { bytes = "\xf4" },
        each = function(vm) vm.memory:u8(0x3000, vm.memory:u8(0x3000) + 1) end,
      }
      local branch = marked:branch(function(vm) vm.memory:u8(0x3000, 10) end)
      for i = 1, 2 do
        it("test " .. i, function()
          assert.equal(1, marked().memory:u8(0x3000))
          assert.equal(1, marked().memory:u8(0x3000)) -- the same test
        end)
      end
      it("branch", function() assert.equal(11, branch().memory:u8(0x3000)) end)]])))
  end)

  it("wait for output from where they had booted", function()
    assert.equal("4 passed, 0 failed, 0 skipped", (ran(T .. [[
      local letters = t.guest{ -- mov al, 'A'; next: out 0xe9, al; inc al; jmp next
        image = { bytes = "\xb0\x41\xe6\xe9\xfe\xc0\xeb\xfa" },
        boot = function(vm) vm.console:forbid "X" vm.console:expect "A" end,
      }
      for i = 1, 3 do
        it("test " .. i, function()
          local con = letters().console
          assert.equal("BCD", select(2, con:expect "^.-D"))
          con:expect "EF"
        end)
      end
      it("and forbid it in each", function()
        for _ = 1, 2 do
          local vm = letters()
          assert.has_error(function() vm.console:expect "Z" end)
          assert(vm:restore(letters.ready))
        end
      end)]])))
  end)

  it("branch", function()
    assert.equal("4 passed, 0 failed, 0 skipped", (ran(COUNTER .. [[
      local at_two = counter:branch(function(vm) vm:run() vm:run() end)
      local at_three = at_two:branch(function(vm) vm:run() end)
      it("at three", function() assert.equal(3, count(at_three())) end)
      it("at two", function()
        at_two():run()
        assert.equal(3, count(at_three.machine.vm))
      end)
      it("at two again, and then at the root", function()
        assert.equal(2, count(at_two()))
        assert.equal(0, count(counter()))
      end)
      it("each booted once", function()
        assert.same({ 1, 1, 1 }, { counter.booted, at_two.booted, at_three.booted })
      end)]])))
  end)

  it("fork into several VMs, which are closed after the test", function()
    assert.equal("2 passed, 0 failed, 0 skipped", (ran(COUNTER .. [[
      local kept
      it("three at a time", function()
        local vm = counter()
        local a, b = counter:fork(2)
        vm:run() b:run() b:run()
        assert.same({ 1, 0, 2 }, { count(vm), count(a), count(b) })
        a:start() a:wait(20)
        kept = a
      end)
      it("gone", function() assert.equal("closed", kept.state) end)]])))
  end)

  it("come back when a test has closed them", function()
    assert.equal("2 passed, 0 failed, 0 skipped", (ran(COUNTER .. [[
      it("closes", function() counter():close() end)
      it("boots again", function()
        assert.equal(0, count(counter()))
        assert.equal(2, counter.booted)
      end)]])))
  end)

  it("that do not boot fail all their tests, tried once", function()
    local last, out = ran(T .. [[
      local booted = 0
      local bad = t.guest{ name = "bad", image = { bytes = "\xf4" },
                           boot = function() booted = booted + 1 error "no prompt" end }
      local branch = bad:branch(function() error "never" end)
      it("one", function() bad() end)
      it("two", function() branch() end)
      it("three", function() assert.equal(1, booted) end)
      it("no image", function() t.guest{ image = "nosuch.bin" }() end)]])
    assert.equal("1 passed, 3 failed, 0 skipped", last)
    local text = 'the guest "bad" did not boot: %S*a_spec.lua:4: no prompt\n'
    assert.matches("error: one\n    a_spec.lua:6: " .. text, out)
    assert.matches("error: two\n    a_spec.lua:7: " .. text, out)
    assert.matches('a_spec.lua:9: the guest "vm" did not boot: nosuch.bin: No such file', out)
  end)

  it("that a test leaves running are its failure, and are there for the next", function()
    local last, out = ran(T .. [[
      local spin = t.guest{ name = "spin", image = { bytes = "\xeb\xfe" } }
      it("leaves it", function() spin():start() end)
      it("finds it again", function() assert.equal("idle", spin().state) end)]])
    assert.equal("1 passed, 1 failed, 0 skipped", last)
    assert.matches("a_spec.lua:3: left a VM running: spin", out)
  end)

  it("run one body in several modes", function()
    local last, out = ran(T .. [[
      t.modes{ "real", "protected", "paged", "long" }(function(mode)
        local stub = t.guest{ mode = mode, image = { bytes = "\xb0\x41\xe6\xe9\xf4" } }
        it("prints", function()
          local vm = stub()
          assert.equal("halt", (vm:run{ deadline = 20 }))
          assert.equal("A", (vm.console:text()))
        end)
      end)]], "--tap")
    assert.matches("# 4 passed, 0 failed, 0 skipped", last .. out)
    for _, mode in ipairs{ "real", "protected", "paged", "long" } do
      assert.matches(mode .. " mode: prints", out, 1, true)
    end
  end)
end)

describe("minikvm.test's artefacts", function()
  if support.without_kvm(pending) then return end

  ---What is kept of the only failed test of a spec: content by file.
  local function kept(text, words)
    local s <close> = suites.new{ ["a_spec.lua"] = text }
    local r = s:test(words)
    assert.equal(1, r.status)
    local found = {}
    for _, path in ipairs(s:files "kept") do
      local name = path:match "^kept/[^/]+/[^/]+/[^/]+/(.*)$"
      found[name] = s:read(path)
    end
    return found, s, r
  end

  it("show every VM of the test as it was when it failed", function()
    local found = kept(T .. [[
      local kvm = require "minikvm"
      local guest = t.guest{ name = "fixture", trace = true, coalesce = false,
                             image = { bytes = "\xb0\x41\xe6\xe9\xf4" } }
      it("fails", function()
        local vm <close> = kvm.vm{ name = "my own", echo = false }
        vm:load{ bytes = "\xb0\x42\xe6\xe9\xf4" }
        vm:run()
        guest():run()
        assert.equal("BA", "AB")
      end)]])
    assert.equal("A", found["fixture/console.log"])
    assert.equal("B", found["my-own/console.log"])
    assert.matches("out  port=0x0e9 size=1 value=0x41[^\n]*\n.* hlt", found["fixture/exits.log"])
    assert.is_nil(found["my-own/exits.log"])
    for name, letter in pairs{ fixture = "A", ["my-own"] = "B" } do
      assert.matches("^cpu 0: halt at rip 0x%x+: ", found[name .. "/cause.txt"])
      assert.equal("vCPU 0\n#0 0x5\n\n", found[name .. "/stack.txt"])
      assert.equal(letter .. "\n", found[name .. "/screen.txt"])
      assert.equal("\x89PNG\r\n\x1a\n", found[name .. "/screen.png"]:sub(1, 8))
    end
    assert.matches("eax 00000042", found["my-own/registers.txt"])
    assert.matches("16%-bit real mode", found["my-own/registers.txt"])
    assert.matches("Expected objects to be equal", found["message.txt"])
    assert.matches(" %-%-trace %-%-filter '?^fails$'? ", found["reproduce.sh"])
    assert.is_true(#found["fixture/snapshot"] > 0 and #found["my-own/snapshot"] > 0)
  end)

  -- IBM VGA, text mode 3: a cell is a character of code page 437 and its colours
  it("have the screen that the guest has drawn on, and say why it died", function()
    local found = kept(T .. [[
      local guest = t.guest{ name = "a", image = { bytes =  -- mov ax, 0xb800; mov ds, ax
        "\xb8\x00\xb8\x8e\xd8\xc7\x06\x02\x00\xdb\x1f" -- mov word [2], 0x1fdb
        .. "\xb0\x42\xe6\xe9\xf4" } } -- prints B; hlt
      local dead = t.guest{ name = "b", mode = "protected", image = { bytes = "\x0f\x0b" } } -- ud2
      it("fails", function() guest():run() dead():run() error "x" end)]])
    assert.equal(" █", found["a/screen.txt"]:match "^[^\n]*")
    assert.matches("^cpu 0: shutdown at rip 0x%x+: triple fault", found["b/cause.txt"])
    local lost = found["b/cause.txt"]:find "rip 0xfff0:" -- KVM on AMD resets the processor
    assert(lost or found["b/cause.txt"]:find "likeliest cause: #UD invalid opcode")
  end)

  it("have the last exits of all VMs with --trace, no more than 200", function()
    local found = kept([[
      it("fails", function()
        local kvm = require "minikvm"
        local vm = kvm.vm{ echo = false, coalesce = false }
        vm:load{ bytes = "\xb9\x2c\x01\xe6\x80\xe2\xfc\xf4" } -- mov cx, 300; out 0x80, al; loop
        vm:run()
        error "here"
      end)]], "--trace")
    local lines = found["vm/exits.log"]
    assert.equal(200, select(2, lines:gsub("\n", "")))
    assert.matches(" hlt\n$", lines)
  end)

  it("have a snapshot to go on from", function()
    local s <close> = suites.new{ ["a_spec.lua"] = COUNTER .. [[
      it("fails", function()
        local vm = counter()
        vm:run() vm:run() vm:run()
        assert.equal(4, count(vm))
      end)]] }
    assert.equal(1, s:test().status)
    local path
    for _, name in ipairs(s:files "kept") do path = name:find "/snapshot$" and name or path end
    s:write("go_on.lua", ([[
      local kvm = require "minikvm"
      local vm = assert(assert(kvm.load_snapshot(%q)):vm())
      assert(vm:run() == "halt")
      print(vm.memory:u8(0x2000))]]):format(s.folder .. "/" .. path))
    local r = program.run(("P %s/go_on.lua"):format(s.folder))
    assert.same({ "4\n", "" }, { r.out, r.err })
  end)

  it("are taken of a guest that did not boot", function()
    local found = kept(T .. [[
      local bad = t.guest{ name = "bad", image = { bytes = "\xb0\x43\xe6\xe9\xf4" },
                           boot = function(vm) vm:run() error "no prompt" end }
      it("fails", function() bad() end)]])
    assert.equal("C", found["bad/console.log"])
    assert.matches("no prompt", found["message.txt"])
  end)
end)
