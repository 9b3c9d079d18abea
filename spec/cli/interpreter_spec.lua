-- minikvm as an interpreter: what stock lua does, it does, messages and exit statuses included.

local process = require "support.process"
local program = require "support.program"

---The differences there may be: the program's name, and one more line of version.
local function normalized(text, name)
  text = text:gsub(name:gsub("%p", "%%%0"), "P")
  return (text:gsub("minikvm %d+%.%d+%.%d+\n", ""))
end

local function outcome(command, name, stdin)
  local r = program.run(command, { program = name, stdin = stdin })
  return { status = r.status, out = normalized(r.out, name), err = normalized(r.err, name) }
end

local function same_as_lua(command, stdin)
  assert.same(outcome(command, program.lua, stdin), outcome(command, program.minikvm, stdin))
end

describe("minikvm behaves like lua:", function()
  local script, init
  setup(function()
    script = program.file "#!/usr/bin/env lua\nprint(#arg, arg[-1], arg[-2], arg[-3], ...)\n"
    init = program.file "print 'init file'"
  end)
  teardown(function()
    os.remove(script)
    os.remove(init)
  end)

  for name, command in pairs{
    ["script and its arguments"] = "P SCRIPT a 'b c'",
    ["negative indices of arg"] = "P -e 'x = 1' -W SCRIPT a",
    ["arg without a script"] = "P -e 'print(#arg, arg[0] ~= nil, arg[1])'",
    ["several -e share a state"] = "P -e 'x = 1' -e 'print(x)'",
    ["-e with its value attached"] = "P -e'print(1)'",
    ["-e without a value"] = "P -e 2>&1 | head -1",
    ["-l"] = "P -l string -e 'print(string.rep(\"a\", 3))'",
    ["-l into a global"] = "P -l s=string -e 'print(s.rep(\"a\", 3))'",
    ["-l of a missing module"] = "P -l nope 2>&1 | head -1",
    ["-v"] = "P -v",
    ["-v -e"] = "P -v -e 'print(1)'",
    ["-W"] = "P -W -e 'warn \"w\"'",
    ["warnings are off"] = "P -e 'warn \"w\"'",
    ["-- then a script"] = "P -- SCRIPT -x",
    ["-- then a file called -"] = "P -- -",
    ["LUA_INIT"] = "LUA_INIT='print(7)' P -e 'print(8)'",
    ["LUA_INIT with a file"] = "LUA_INIT=@INIT P -e 'print(8)'",
    ["LUA_INIT_5_4 comes first"] = "LUA_INIT='print(7)' LUA_INIT_5_4='print(9)' P -e ''",
    ["LUA_INIT that fails"] = "LUA_INIT='error \"no\"' P -e 'print(8)'",
    ["-E"] = "LUA_INIT='print(7)' LUA_PATH=x P -E -e 'print(package.path)'",
    ["LUA_PATH"] = "LUA_PATH='x/?.lua' P -e 'print(package.path)'",
    ["garbage collector's mode"] = "P -e 'print(collectgarbage \"incremental\")'",
    ["a missing script"] = "P no-such-file.lua",
    ["a syntax error"] = "P -e 'x ='",
    ["an error with traceback"] = "P -e 'local function f() error \"x\" end f()'",
    ["an error in a coroutine"] = "P -e 'coroutine.wrap(function() error \"in\" end)()'",
    ["a table as error"] = "P -e 'error {}'",
    ["nil as error"] = "P -e 'error(nil)'",
    ["an error with __tostring"] = "P -e 'error(setmetatable({}, { __tostring = function()"
      .. " return \"t\" end }))'",
    ["the stack of a script"] = "P -e 'print(debug.traceback(), coroutine.isyieldable(),"
      .. " select(2, coroutine.running()))'",
    ["libraries taken away"] = "P -e 'string, io, table, load, ipairs, type = nil' -W"
      .. " -e 'print(io)' -e 'error \"x\"'",
    ["a message with a zero byte"] = "P -e 'error \"x\\0y\"'",
    ["require made nil"] = "P -e 'require = nil' -l string",
    ["-l into a global that refuses"] = "P -e 'setmetatable(_G, { __newindex = function(_, k)"
      .. " error(k) end })' -l s=string",
    ["arg made nil"] = "P -e 'arg = nil' SCRIPT",
    ["os.exit with a status"] = "P -e 'os.exit(3)'",
    ["os.exit that closes the state"] = "P -e 'os.exit(true, true)'",
    ["__gc and __close at the end"] = "P -e 'x = setmetatable({}, { __gc = function()"
      .. " print \"gone\" end })'",
    ["SIGINT, wherever it comes"] = "{ P -e 'io.popen \"kill -INT $PPID\" while true do end' 2>&1;"
      .. " echo $?; } | grep -v -e '^stack' -e '^.\\[' |"
      .. " sed 's/: (command line):1:/:/'",
  } do
    it(name, function()
      if command:find "kill %-INT" and process.without_signals(pending) then return end
      same_as_lua((command:gsub("SCRIPT", script):gsub("INIT$", init):gsub("@INIT", "@" .. init)))
    end)
  end

  it("a script on stdin", function() same_as_lua("P", "print(arg[0] ~= nil, ...)") end)
  it("- and arguments", function() same_as_lua("P - a b", "print(arg[0], ...)") end)
  it("-e keeps stdin from being a script", function() same_as_lua("P -e ''", "print 'read'") end)
  it("an error on stdin, named", function() same_as_lua("P -", "error 'x'") end)
end)

describe("minikvm the program", function()
  it("prints lua's version and its own", function()
    assert.match("^Lua 5%.4.-\nminikvm %d+%.%d+%.%d+\n$", program.run("P -v").out)
  end)

  it("has the module built in", function()
    local r = program.run("LUA_PATH= LUA_CPATH= P -e 'print(require \"minikvm\"._VERSION)'")
    assert.match("^%d+%.%d+%.%d+\n$", r.out)
  end)

  it("fails when a script on stdin fails, where lua's status is 0", function()
    assert.equal(1, program.run("P", { stdin = "error 'x'" }).status)
  end)

  for option, meant in pairs{ ["--hlep"] = "--help", ["--verison"] = "--version" } do
    it(("refuses %s, status 2, and names %s"):format(option, meant), function()
      local r = program.run("P " .. option)
      assert.equal(2, r.status)
      assert.equal("", r.out)
      assert.match(("unrecognized option '%s' (did you mean '%s'?)\nusage: "):format(option, meant)
        :gsub("[-()?]", "%%%0"), r.err)
    end)
  end

  it("refuses an unknown option that is near to none", function()
    local r = program.run("P -x")
    assert.equal(2, r.status)
    assert.match("unrecognized option '%-x'\nusage: ", r.err)
  end)

  it("knows a misspelt sub-command", function()
    local r = program.run("P docter")
    assert.equal(1, r.status)
    assert.match("did you mean '.* doctor'%?", r.err)
  end)

  it("knows a guest image that was given as a script", function()
    local image = program.file "\xb0\x41\xf4"
    os.rename(image, image .. ".bin")
    local r = program.run(("P %s.bin"):format(image))
    os.remove(image .. ".bin")
    assert.equal(1, r.status)
    assert.match("a guest image runs with '.* run .*%.bin'", r.err)
  end)

  it("takes a file named like a sub-command by its path", function()
    local dir = program.file ""
    os.remove(dir)
    local r = program.run(("mkdir %s && echo 'print \"mine\"' > %s/run; P %s/run; rm -r %s")
      :format(dir, dir, dir, dir))
    assert.equal("mine\n", r.out)
  end)

  it("ends at a second SIGINT", function()
    if process.without_signals(pending) then return end
    local p = program.start "exec P -e 'local function spin() print(1) while true do end end\
      io.stdout:setvbuf(\"no\") while true do pcall(spin) end'"
    p:wait("1\n"):kill("INT"):wait("1\n"):kill("INT")
    assert.same({ status = 130, out = "1\n1\n", err = "" }, p:finish())
  end)
end)

describe("-e", function()
  it("has kvm as a global, unless that is taken", function()
    assert.equal("function\n", program.run("P -e 'print(type(kvm.vm))'").out)
    assert.equal("1\t2\n", program.run("P -e 'kvm = 1' -e 'x = 2; print(kvm, x)'").out)
    -- not loaded unasked
    assert.equal("nil\n", program.run("P -e 'print(_G[\"k\" .. \"vm\"])'").out)
  end)
end)

describe("the prompt", function()
  local function session(text) return program.run("P -i", { stdin = text }) end
  ---What was printed, without the banner and the prompts.
  local function printed(text) return (session(text).out:gsub("^.-\n.-\n", ""):gsub(">+ ", "")) end

  it("prints the values of an expression", function()
    assert.equal("3\n1\t2\nnil\n\n", printed "1+2\n1, 2\nnil\n")
  end)
  it("prints nothing for a statement", function() assert.equal("\n", printed "x = 1\n") end)
  it("takes = for return", function() assert.equal("7\n\n", printed "= 7\n") end)
  it("continues unfinished lines", function()
    assert.equal("1\n2\n5\n\n", printed "for i = 1, 2 do\nprint(i)\nend\nx =\n5\nx\n")
  end)
  it("has kvm as a global", function()
    assert.equal("table\n\n", printed "type(kvm.probe())\n")
  end)
  it("uses _PROMPT and _PROMPT2", function()
    assert.match("> @@3\n@%+1\n@\n$", session('_PROMPT = "@"; _PROMPT2 = "+"\n_PROMPT .. "3"\n'
      .. "print(\n1)\n").out)
  end)
  it("goes on after errors", function()
    local r = session "error 'first'\n)\nx = 5 +\n"
    assert.match("stdin:1: first\nstack traceback:", r.err)
    assert.match("stdin:1: unexpected symbol near '%)'", r.err)
    assert.match("<eof>\n$", r.err)
    assert.equal(0, r.status)
  end)
  it("comes after the script with -i", function()
    local r = program.run("P -i -e 'x = 42'", { stdin = "x\n" })
    assert.match("> 42\n", r.out)
  end)

  it("edits lines and keeps history on a terminal", function()
    if not program.has_terminal then return pending "needs util-linux's script" end
    local history = program.file ""
    local t = program.start("exec env MINIKVM_HISTORY=" .. history .. " P", { terminal = true })
    t:wait("> "):reading():type("20+22\n"):wait("\n42\n> "):reading()
    t:type("garbage"):wait("garbage"):reading()
    t:type("\3"):wait("> "):reading():type('"al".."ive"\n'):wait("\nalive\n> "):reading():type "\4"
    assert.equal(0, t:finish().status)
    local kept = program.run("cat " .. history).out
    os.remove(history)
    assert.match("20%+22", kept)
    assert.is_nil(kept:find("garbage", 1, true))
  end)
end)
