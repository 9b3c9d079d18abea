-- `minikvm test`: small suites, run as users run them.

local process = require "support.process"
local program = require "support.program"
local suites = require "support.suite"
local support = require "support.guest"

local PASS <const> = 'it("passes", function() end)\n'
local FAIL <const> = PASS .. 'it("fails", function() assert.equal(1, 2) end)\n'

local function has(command)
  return os.execute("command -v " .. command .. " >/dev/null") == true
end

describe("minikvm test", function()
  it("runs the spec files of folders, and files by any name", function()
    local s <close> = suites.new{ ["a_spec.lua"] = PASS, ["deep/er/test_b.lua"] = PASS,
                                  ["other.lua"] = "error()", [".hidden/c_spec.lua"] = "error()",
                                  ["named.lua"] = PASS }
    local r = s:test()
    assert.same({ 0, "2 passed, 0 failed, 0 skipped", "" }, { r.status, r.last, r.err })
    assert.matches("ok +%d+%.%d%d s  deep/er/test_b.lua %(1 passed%)\n", r.out)
    r = s:test "D/named.lua D//a_spec.lua D/./a_spec.lua"
    assert.equal("2 passed, 0 failed, 0 skipped", r.last)
  end)

  it("tells what failed, where, and what was skipped, whatever a spec prints", function()
    local s <close> = suites.new{ ["a_spec.lua"] = FAIL, ["b_spec.lua"] = [[
      describe("outer", function()
        io.stdout:write("ok 1\n\0\27[2J", ("x"):rep(200000))
        io.stderr:write "test\tb\tfail\n"
        it("boom", function() error{ code = 5 } end)
        it("later", function() pending "not yet" end)
        pending "much later"
      end)]] }
    local r = s:test()
    assert.same({ 1, "1 passed, 2 failed, 2 skipped" }, { r.status, r.last })
    assert.matches("failed: fails\n    a_spec.lua:2: Expected objects to be equal", r.out)
    assert.matches("error: outer boom\n    b_spec.lua:4:", r.out)
    assert.matches("\n  skipped: .*not yet\n  skipped: much later\n", r.out)
    assert.is_nil(r.out:find "\27")
    assert.is_nil(r.out:find "xxx")
  end)

  it("takes a failure outside of tests for one", function()
    local BLOCK <const> = 'describe("d", function() %s(function() error %q end) ' .. PASS .. " end)"
    local s <close> = suites.new{
      ["a_spec.lua"] = BLOCK:format("setup", "no"),
      ["b_spec.lua"] = BLOCK:format("before_each", "never"),
      ["c_spec.lua"] = PASS .. "error 'at the end'",
      ["d_spec.lua"] = BLOCK:format("after_each", "late"),
    }
    local r = s:test()
    assert.same({ 1, "1 passed, 4 failed, 0 skipped" }, { r.status, r.last })
    for _, text in ipairs{ "a_spec.lua:1: no", "b_spec.lua:1: never", "c_spec.lua:2: at the end",
                           "d_spec.lua:1: late" } do
      assert.matches(text, r.out, 1, true)
    end
  end)

  it("reports a syntax error with its line, and runs the other files", function()
    local s <close> = suites.new{ ["a_spec.lua"] = "\n\nit('x' function)", ["b_spec.lua"] = PASS }
    local r = s:test()
    assert.same({ 1, "1 passed, 1 failed, 0 skipped" }, { r.status, r.last })
    assert.matches("a_spec.lua:3: '%)' expected near 'function'", r.out)
  end)

  it("outlives a file that crashes or leaves", function()
    local s <close> = suites.new{
      ["crash_spec.lua"] = PASS .. 'it("dies", function() print "last words" io.stdout:flush() '
        .. 'os.execute "kill -ABRT $PPID" end)',
      ["leave_spec.lua"] = PASS .. 'it("leaves", function() os.exit(0) end)',
      ["late_spec.lua"] = PASS .. 'setmetatable({}, { __gc = function() os.exit(7) end })',
      ["good_spec.lua"] = PASS }
    local r = s:test()
    assert.same({ 1, "4 passed, 3 failed, 0 skipped" }, { r.status, r.last })
    assert.matches("error: dies\n    crash_spec.lua:2: the file's process was ended by SIGABRT, in "
                   .. "the midst of this test; it printed last:\n    last words\n", r.out)
    assert.matches("error: leaves\n    leave_spec.lua:2: the file's process ended with status 0 "
                   .. "before its tests did", r.out)
    assert.matches("ended with status 7 after its tests had passed", r.out)
  end)

  -- POSIX XCU 1.4: an utility that did not do what was asked for has a status above 0.
  it("does not pass where nothing was tested", function()
    local s <close> = suites.new{
      ["empty_spec.lua"] = "", ["none_spec.lua"] = 'describe("nothing", function() end)',
      ["early_spec.lua"] = "os.exit(0)", ["good_spec.lua"] = PASS,
      ["README.md"] = "# A guide\nto it", ["notes.txt"] = "" }
    local r = s:test()
    assert.same({ 1, "1 passed, 3 failed, 0 skipped" }, { r.status, r.last })
    for _, name in ipairs{ "empty", "none" } do
      assert.matches(("error: %s_spec.lua\n    the file's process found no tests in it")
                       :format(name),
                     r.out)
    end
    assert.matches("error: early_spec.lua\n    the file's process ended with status 0 before",
                   r.out)
    r = s:test "--jobs 1 D/README.md D/notes.txt"
    assert.same({ 1, "0 passed, 2 failed, 0 skipped" }, { r.status, r.last })
    assert.matches("README.md:2: syntax error near 'it'", r.out, 1, true)
    assert.matches("error: notes.txt\n    the file's process found no tests in it", r.out)
    for _, words in ipairs{ "", "--tap " } do
      r = s:test(words .. "--filter nosuch D/good_spec.lua")
      assert.equal(1, r.status)
      assert.matches("^minikvm test: no test ran: none has a name that fits %-%-filter\n", r.err)
    end
  end)

  -- The runner looks at each byte of what it is told once, so its own deadlines hold.
  it("tells the two ends of a long message, and keeps to --timeout whatever a file prints",
     function()
    local s <close> = suites.new{
      ["long_spec.lua"] = [[
        it("y", function() error(("y"):rep(4000000) .. "end") end)
        it("lines", function() error(("\n"):rep(400000) .. "end") end)
        it(("n"):rep(100000), function() error("x") end)]],
      ["flood_spec.lua"] = [[it("floods", function()
        local report = io.open("/proc/self/fd/3", "w")
        while true do
          report:write(("a"):rep(100000), ("\n\t"):rep(1000))
          io.stdout:write(("\n"):rep(1000))
        end
      end)]] }
    local r = s:test "--junit D/x.xml D/long_spec.lua"
    assert.same({ 1, "0 passed, 3 failed, 0 skipped" }, { r.status, r.last })
    assert.matches("yyy\n    ... (39", r.out, 1, true)
    assert.matches("end\n    kept in ", r.out, 1, true)
    assert.is_true(#r.out < 250000, #r.out)
    r = s:test "--timeout 3 --junit D/x.xml D/flood_spec.lua"
    assert.same({ 1, "0 passed, 1 failed, 0 skipped" }, { r.status, r.last })
    assert.matches("took longer than 3 s (--timeout), in the midst of this test", r.out, 1, true)
    assert.is_true(#r.out < 50000, #r.out)
  end)

  it("ends a file that hangs", function()
    local s <close> = suites.new{ ["a_spec.lua"] = 'it("hangs", function() while true do end end)' }
    local r = s:test "--timeout 1"
    assert.same({ 1, "0 passed, 1 failed, 0 skipped" }, { r.status, r.last })
    assert.matches("the file's process took longer than 1 s", r.out)
  end)

  it("says what is wrong with a command line", function()
    local s <close> = suites.new{ ["a_spec.lua"] = PASS, ["empty/x.lua"] = "",
                                  ["timings"] = "1.5 a_spec.lua\nsoon b\n" }
    for words, message in pairs{
      ["--shard 0/0"] = "--shard: expected K/N with K from 1 to N, such as 2/4, got \"0/0\"",
      ["--shard 5/4"] = "got \"5/4\"", ["--shard 1"] = "got \"1\"", ["--shard -1/2"] = "-1/2",
      ["--shard 1/99999999999999999999"] = "expected K/N", ["--jobs 0"] = "--jobs: expected",
      ["--jobs 65"] = "(1 to 64), got \"65\"", ["--jobs x"] = "got \"x\"",
      ["--repeat 0"] = "--repeat", ["--seed x"] = "--seed", ["--timeout 0"] = "above 0",
      ["--seed 99999999999999999999"] = "--seed",
      ["--timeout nan"] = "--timeout", ["--filter ["] = "not a Lua pattern: malformed pattern",
      ["--tap --list"] = "exclude each other", ["--jbos 2"] = "did you mean '--jobs'",
      ["D/nosuch"] = "nosuch: No such file or directory", ["D/empty"] = "no spec files",
      ["--timings D/nosuch D"] = "No such file",
      ["--timings D/timings D"] = "timings:2: expected SECONDS",
      ["--timings D/empty D"] = "empty: Is a directory", ["--timings /dev/zero D"] = "zero:1: exp",
      ["--junit D/nosuch/x.xml D"] = "--junit: ", ["--junit D/empty D"] = "empty: Is a directory",
      ["--save-timings D/nosuch/x D"] = "--save-timings: ", ["/dev/null"] = "neither a file nor a",
      ["--artefacts D/a_spec.lua"] = "is given twice", ["--tap=1"] = "--tap takes no value",
    } do
      local r = s:test(words)
      assert.same({ 2, "" }, { r.status, r.out }, words .. ": " .. r.err)
      assert.matches(message, r.err, 1, true)
      assert.matches("usage: minikvm test", r.err, 1, true)
    end
    local r = program.run(("P test --artefacts %s/a_spec.lua/x %s"):format(s.folder, s.folder))
    assert.same({ 2, "" }, { r.status, r.out })
    assert.matches("--artefacts: .*a_spec.lua/x: Not a directory", r.err)
  end)

  it("names what is not installed, and its help does without", function()
    local without = "LUA_CPATH=/nosuch P "
    for _, words in ipairs{ "test spec", "test --list spec", "new suite x" } do
      local r = program.run(without .. words)
      assert.is_true(r.status ~= 0)
      assert.matches("LuaFileSystem is not installed (Debian: lua-filesystem)", r.err, 1, true)
      assert.not_matches("traceback", r.err)
    end
    for _, words in ipairs{ "test --help", "completion bash" } do
      assert.equal(0, program.run(without .. words).status)
    end
  end)

  it("has a help, and is known to --help", function()
    local r = program.run "P test --help"
    assert.equal(0, r.status)
    for _, option in ipairs{ "--jobs", "--tap", "--junit", "--shard", "--repeat", "--seed",
                             "--bail", "--filter", "--artefacts", "--timeout" } do
      assert.matches(option, r.out, 1, true)
    end
    assert.matches("minikvm test [options]", program.run("P --help").out, 1, true)
  end)
end)

describe("minikvm test --shard", function()
  local names <const> = { "a", "b", "c", "d", "e", "f", "g" }

  local function suite()
    local s = suites.new{}
    for i, name in ipairs(names) do s:write(name .. "_spec.lua", PASS .. (" "):rep(i * i * 40)) end
    return s
  end

  local function list(s, words)
    local r = s:test("--list --jobs 1 " .. words)
    assert.equal(0, r.status, r.err)
    local files = {}
    for line in r.out:gmatch "[^\n]+" do files[#files + 1] = line end
    return files
  end

  it("gives every file to one shard, the same each time", function()
    local s <close> = suite()
    assert.same(list(s, "--shard 1/3"), list(s, "--shard 1/3"))
    for _, n in ipairs{ 2, 3 } do
      local all = {}
      for k = 1, n do
        local part = list(s, ("--shard %d/%d"):format(k, n))
        table.move(part, 1, #part, #all + 1, all)
      end
      table.sort(all)
      assert.same(list(s, ""), all)
    end
  end)

  it("balances by size, or by seconds when they are known", function()
    local s <close> = suite()
    local heavy = list(s, "--shard 1/2")
    assert.same({ "a_spec.lua", "b_spec.lua", "d_spec.lua", "g_spec.lua" }, heavy)
    local lines = {}
    for _, name in ipairs(names) do
      lines[#lines + 1] = ("%g %s/%s_spec.lua\n"):format(name == "a" and 60 or 10, s.folder, name)
    end
    s:write("timings", table.concat(lines))
    assert.same({ "a_spec.lua" }, list(s, ("--shard 1/2 --timings %s/timings"):format(s.folder)))
  end)

  it("refuses to be one of more parts than there are files", function()
    local s <close> = suites.new{ ["a_spec.lua"] = PASS }
    local r = s:test "--shard 1/2"
    assert.same({ 2, "" }, { r.status, r.out })
    assert.matches("--shard 1/2: there are 1 spec files, too few for 2 parts", r.err, 1, true)
  end)

  it("saves the seconds that it balances by", function()
    local s <close> = suite()
    assert.equal(0, s:test("--save-timings D/timings D").status)
    local times = s:read "timings"
    assert.equal(#names, select(2, times:gsub("%d+%.%d%d%d [^\n]+_spec.lua\n", "")))
    assert.equal(0, s:test("--timings D/timings --shard 1/2 D").status)
  end)
end)

describe("minikvm test", function()
  local ORDER <const> = [[for i = 1, 8 do
    it("t" .. i, function() io.open(%q, "a"):write(i, " "):close() end) end]]

  it("--seed shuffles files and tests, the same way for the same seed", function()
    local s <close> = suites.new{}
    for _, name in ipairs{ "a", "b", "c", "d", "e" } do s:write(name .. "_spec.lua", PASS) end
    s:write("one/x_spec.lua", ORDER:format(s.folder .. "/order"))
    local function order(seed)
      os.remove(s.folder .. "/order")
      s:test("D/one --seed " .. seed)
      return s:read "order" .. s:test("--list --seed " .. seed).out
    end
    local first = order(7)
    assert.equal(first, order(7))
    local seed = 8
    while seed < 12 and order(seed) == first do seed = seed + 1 end
    assert.is_true(seed < 12)
  end)

  it("--repeat tells what fails sometimes from what fails always", function()
    local s <close> = suites.new{}
    s:write("a_spec.lua", ([[
      it("always", function() error "no" end)
      it("sometimes", function()
        local n = #(io.open(%q, "a+"):read "a")
        io.open(%q, "a"):write("x"):close()
        assert.is_true(n %% 3 ~= 1)
      end)]]):format(s.folder .. "/count", s.folder .. "/count"))
    s:write("b_spec.lua", PASS)
    local r = s:test "--repeat 3 --jobs 1"
    assert.same({ 1, "5 passed, 4 failed, 0 skipped" }, { r.status, r.last })
    assert.matches("flaky: a_spec.lua: sometimes (failed in 1 of 3 runs)\n", r.out, 1, true)
    assert.is_nil(r.out:find "flaky: a_spec.lua: always")
  end)

  it("--bail stops at the first failure", function()
    local s <close> = suites.new{ ["a_spec.lua"] = FAIL .. 'it("is not run", function() end)',
                                  ["b_spec.lua"] = PASS }
    local r = s:test "--bail --jobs 1"
    assert.same({ 1, "1 passed, 1 failed, 0 skipped" }, { r.status, r.last })
    assert.matches("stopped by --bail: 1 of 2 files not run to their end", r.out, 1, true)
  end)

  it("--filter chooses tests by their full names", function()
    local s <close> = suites.new{ ["a_spec.lua"] = 'describe("d", function() ' .. FAIL .. "end)" }
    local r = s:test "--filter '^d passes$'"
    assert.same({ 0, "1 passed, 0 failed, 0 skipped" }, { r.status, r.last })
  end)

  it("draws its progress on a terminal only", function()
    if not program.has_terminal then return pending "needs script(1)" end
    local s <close> = suites.new{ ["a_spec.lua"] = PASS }
    assert.is_nil(s:test().out:find("\27", 1, true))
    local words = ("exec env TERM=xterm NO_COLOR=1 P test --artefacts %s/kept %s"):format(s.folder,
                                                                                     s.folder)
    local r = program.start(words, { terminal = true }):finish()
    assert.matches("[0/1] a_spec.lua", r.out, 1, true)
    assert.matches("1 passed, 0 failed, 0 skipped\n", r.out, 1, true)
  end)
end)

describe("results for others:", function()
  -- Names and messages that are to hurt: directives, markup, controls, bytes that are no UTF-8.
  local NASTY <const> = [=[
    it("a # TODO \\ name\nof two lines", function() end)
    it("<b> & \"q\" ]]>\1\27[0m\0\255\237\160\128", function()
      print "out \0\1 ]]> <&\255"
      error("<m> ]]>\1\0\254\239\191\191 & \"x\"\nnot ok 99\n1..0")
    end)
    it("\xe2\x82\xac", function() pending "# why <not>\n1..0" end)]=]

  it("TAP that prove takes", function()
    if not has "prove" then return pending "needs prove (Perl)" end
    local s <close> = suites.new{ ["a_spec.lua"] = NASTY, ["b_spec.lua"] = PASS }
    local tap = s:test "--tap --jobs 1"
    assert.equal(1, tap.status)
    assert.matches("\n1..4\n$", tap.out)
    s:write("all.tap", tap.out)
    local r = program.run(("prove -v -e cat %s/all.tap"):format(s.folder))
    assert.is_true(r.status ~= 0)
    assert.matches("Failed 1/4 subtests", r.out, 1, true)
    assert.matches("(less 1 skipped subtest: 2 okay)", r.out, 1, true)
    r = program.run(("prove -e 'P test --tap' %s/b_spec.lua"):format(s.folder))
    assert.equal(0, r.status, r.out .. r.err)
    assert.matches("Result: PASS", r.out)
  end)

  it("JUnit XML that fits the schemas of Ant and Jenkins", function()
    if not has "xmllint" then return pending "needs xmllint (libxml2-utils)" end
    local s <close> = suites.new{ ["a_spec.lua"] = NASTY, ["b_spec.lua"] = PASS,
                                  ["c_spec.lua"] = "syntax error" }
    local r = s:test "--junit D/out.xml --repeat 2 D"
    assert.same({ 1, "4 passed, 4 failed, 2 skipped" }, { r.status, r.last })
    local lint = program.run(("xmllint --noout --schema spec/support/junit.xsd %s/out.xml")
      :format(s.folder))
    assert.equal(0, lint.status, lint.err)
    local xml = s:read "out.xml"
    assert.matches('tests="3" failures="0" errors="1" skipped="1"', xml, 1, true)
    assert.matches('"&lt;b&gt; &amp; &quot;q&quot; ]]&gt;\\x01\\x1b[0m\\x00\\xff\\xed\\xa0\\x80"',
                   xml, 1, true)
    assert.matches('name="\xe2\x82\xac"', xml, 1, true)
    assert.equal(6, select(2, xml:gsub("<testsuite ", "")))
  end)

  -- POSIX.1-2017, open: O_CREAT | O_TRUNC writes through a link and into a FIFO.
  it("are written through a link and into a FIFO, and keep a file's permissions", function()
    local s <close> = suites.new{ ["a_spec.lua"] = PASS, ["old.xml"] = "old", ["own.xml"] = "old" }
    local r = s:test([[--jobs 1 D/a_spec.lua >/dev/null; cd D && ln -s old.xml link.xml &&
      ln -s new.xml fresh.xml && mkfifo fifo && chmod 640 own.xml; cat fifo >got & cd - >/dev/null;
      for name in link fresh own; do P test --junit D/$name.xml D/a_spec.lua >/dev/null; done
      P test --junit D/fifo D/a_spec.lua; wait; cd D; stat -c '%F %a' link.xml fifo own.xml]])
    assert.matches("symbolic link 777\nfifo %d+\nregular file 640\n$", r.out)
    for _, name in ipairs{ "old.xml", "new.xml", "own.xml", "got" } do
      assert.matches("^<%?xml .*</testsuites>\n$", s:read(name))
    end
  end)

  it("are an error when they cannot be written", function()
    local s <close> = suites.new{ ["gone/a"] = "" }
    s:write("a_spec.lua", ("it('a', function() os.execute 'rm -r %s/gone' end)"):format(s.folder))
    local r = s:test "--junit D/gone/out.xml D"
    assert.same({ 1, "1 passed, 0 failed, 0 skipped" }, { r.status, r.last })
    assert.matches("^minikvm test: %-%-junit: [^\n]*out.xml: No such file or directory\n$", r.err)
  end)
end)

describe("minikvm test, artefacts:", function()
  it("two runners in one folder keep theirs apart", function()
    local s <close> = suites.new{ ["a_spec.lua"] = FAIL }
    local line = ("P test --artefacts %s/kept %s >/dev/null & "):format(s.folder, s.folder)
    program.run(line:rep(4) .. "wait")
    local files = s:files "kept"
    assert.equal(8, #files)
    local runs = {}
    for _, path in ipairs(files) do runs[path:match "^kept/([^/]+)/"] = true end
    local count = 0
    for _ in pairs(runs) do count = count + 1 end
    assert.equal(4, count)
  end)

  it("hold the message and a command that repeats the test", function()
    local s <close> = suites.new{
      ["a_spec.lua"] = [[describe("it's (a) 100% $test", function()
        it("fails", function() assert.equal(1, 2) end)
        it("fails not", function() end) end)]] }
    assert.equal(1, s:test("--seed 3").status)
    local folder = s:files("kept")[1]:match "^(.*)/"
    assert.matches("a_spec.lua:2: Expected objects to be equal", s:read(folder .. "/message.txt"))
    local r = program.run(("cd / && PATH=/usr/bin:/bin sh %s/%s/reproduce.sh"):format(s.folder,
                                                                                  folder))
    assert.matches("\n0 passed, 1 failed, 0 skipped\n$", r.out, 1, false, r.err)
    assert.matches("it's (a) 100% $test fails\n", r.out, 1, true)
  end)

  it("that cannot be kept are told of", function()
    local s <close> = suites.new{ ["a_spec.lua"] = [[
      it("fails", function()
        io.open = function() return nil, "no room" end
        error "x"
      end)]] }
    local r = s:test()
    assert.matches("\n    kept in [^\n]*/fails, incomplete: no room\n", r.out)
  end)

  it("leave no folder when all is well", function()
    local s <close> = suites.new{ ["a_spec.lua"] = PASS }
    s:test()
    assert.same({}, s:files "kept")
  end)
end)

describe("minikvm test, interrupted:", function()
  -- The test says on a file which process sleeps, so that the signal comes when it does.
  local SLEEPER <const> = PASS .. [[it("sleeps", function()
    os.execute "echo $$ >D/pid.new; mv D/pid.new D/pid; exec sleep 1000" end)]]

  ---Sends a signal to a runner in the midst of a test; returns what came of it, and the sleeper.
  local function interrupt(signal)
    local s = suites.new{}
    s:write("b_spec.lua", (SLEEPER:gsub("D", s.folder)))
    local r = s:test("--tap D/b_spec.lua & runner=$!; while ! [ -e D/pid ]; do sleep 0.01; done; "
                     .. "kill -" .. signal .. " $runner; wait $runner")
    local pid = tonumber(s:read "pid")
    s:remove()
    return r, pid
  end

  local function gone(pid)
    local stat = support.read_file(("/proc/%d/stat"):format(pid))
    return not stat or stat:find "%) [ZX] " ~= nil
  end

  for signal, status in pairs{ INT = 130, TERM = 143, HUP = 129 } do
    it(signal .. " ends the children, and what was done is reported", function()
      local r, pid = interrupt(signal)
      assert.equal(status, r.status)
      assert.matches("ok 1 - b_spec.lua: passes\n", r.out, 1, true)
      assert.matches("Bail out! interrupted by SIG" .. signal .. ": 1 of 1 files", r.out, 1, true)
      process.await(function() return gone(pid) end)
    end)
  end

  it("killed, it takes them along, and what they started", function()
    local r, pid = interrupt "KILL"
    assert.equal(137, r.status)
    process.await(function() return gone(pid) end)
  end)
end)

describe("minikvm test, VMs left running", function()
  if support.without_kvm(pending) then return end

  local HEAD <const> = [[local kvm, kept = require "minikvm", nil
    local function spin(name)
      local vm = kvm.vm{ name = name, echo = false }
      vm:load{ bytes = "\xeb\xfe" }
      return vm:start()
    end
  ]]

  it("by a test are its failure, and are gone for the next one", function()
    local s <close> = suites.new{ ["a_spec.lua"] = HEAD .. [[
      it("leaves", function() kept = { spin "first", spin "second" } end)
      it("sees none", function() assert.equal("closed", kept[1].state) end)
      it("stops its own", function() local vm = spin "x" vm:stop() end)]] }
    local r = s:test()
    assert.same({ 1, "2 passed, 1 failed, 0 skipped" }, { r.status, r.last })
    assert.matches("failed: leaves\n    a_spec.lua:7: left 2 VMs running: first, second", r.out)
  end)

  it("by after_each are not, and those of a block are at the end", function()
    local s <close> = suites.new{ ["a_spec.lua"] = HEAD .. [[
      describe("a", function()
        local vm
        after_each(function() vm:stop() end)
        it("is tidied up", function() vm = spin "a" end)
      end)
      describe("b", function()
        setup(function() kept = spin "of the block" end)
        it("uses it", function() assert.equal("running", kept.state) end)
        it("and again", function() assert.equal("running", kept.state) end)
      end)]] }
    local r = s:test()
    assert.same({ 1, "3 passed, 1 failed, 0 skipped" }, { r.status, r.last })
    assert.matches("error: the end of the file\n    left a VM running: of the block", r.out)
  end)
end)
