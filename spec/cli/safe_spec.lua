-- minikvm --safe: what a script does not get, and how one ends that does not end by itself.

local lfs = require "lfs"
local support = require "support.guest"
local process = require "support.process"
local program = require "support.program"
local safes = require "support.safe"
local safe, prints, refuses = safes.run, safes.prints, safes.refuses

describe("--safe", function()
  if process.without_jail(pending) then return end
  it("opens no files and no taps for devices that come along", function()
    if support.without_kvm(pending) then return end
    local attach = [[local kvm = require "minikvm"
      local vm = kvm.vm{ mode = "protected", irqchip = "pic" }
      vm.pci:attach(require("minikvm.devices.%s").new{ %s })]]
    refuses("/etc/passwd: disks cannot be opened with %-%-safe",
            attach:format("blk", 'path = "/etc/passwd"'))
    refuses("tap mksafe: the host's network cannot be used with %-%-safe",
            attach:format("net", 'tap = "mksafe"'))
    refuses("capture:save is not there with %-%-safe", [[require "minikvm"
      error((select(2, require("minikvm.devices.net").capture():save "/nowhere/x.pcap")))]])
  end)

  it("runs a script with its arguments", function()
    assert.equal("a\t--b\n2\tS\n", prints("print(...) print(#arg, arg[0])", "", "a --b"))
    assert.equal("a\n", prints("print(...)", "--seconds 5 --", "a"))
  end)

  it("gives no way out of the script", function()
    assert.equal("nil nil nil nil nil nil nil nil\n", prints [[
      local t = {}
      for i, name in ipairs{ "io", "debug", "package", "dofile", "loadfile", "unpack", "kvm" } do
        t[i] = tostring(_G[name])
      end
      t[#t + 1] = tostring(string.dump)
      print(table.concat(t, " "))
    ]])
    assert.equal("clock date difftime exit time\n", prints [[
      local names = {}
      for name in pairs(os) do names[#names + 1] = name end
      table.sort(names)
      print(table.concat(names, " "))
    ]])
    refuses("attempt to load a binary chunk", "assert(load('\\27Lua'))")
    refuses("attempt to load a binary chunk", "assert(load('\\27Lua', 'x', 'b'))")
    refuses("nil", "return load('return io')()")
    refuses("nil", "return load('return print', 'x', 't', {})()")
    refuses("^locked\n", "error(getmetatable '', 0)")
    refuses("attempt to index a string value", "('').rep = print")
    for _, name in ipairs{ "io", "os", "minikvm.core", "minikvm.cli", "minikvm.options", "lfs",
                           "../x", "..x", "x..y", "/etc/passwd", "", "a b" } do
      refuses(name:find "^%l+$" and "cannot open" or "is not there with %-%-safe",
              ("require %q"):format(name))
    end
  end)

  it("says why a script cannot be loaded, and nothing of its own insides", function()
    local path = program.file "x = = 1"
    local r = program.run("P --safe " .. path)
    os.remove(path)
    assert.equal(1, r.status)
    assert.matches("^minikvm: %-%-safe: [^\n]*:1: unexpected symbol near '='\n$",
                   program.without_missing(r.err))
    r = program.run "P --safe /nowhere/x.lua"
    assert.equal(1, r.status)
    assert.matches("^minikvm: %-%-safe: cannot open /nowhere/x.lua[^\n]*\n$",
                   program.without_missing(r.err))
  end)

  it("requires of minikvm what is inside the program, never a file of such a name", function()
    local folder = os.tmpname()
    os.remove(folder)
    os.execute(("mkdir -p %s/minikvm/devices"):format(folder))
    local file = assert(io.open(folder .. "/minikvm/devices/evil.lua", "w"))
    file:write "print 'full rights' return {}"
    file:close()
    file = assert(io.open(folder .. "/main.lua", "w"))
    file:write [[
      for _, name in ipairs{ "evil", "edu", "rtc", "vga" } do
        print(name, (pcall(require, "minikvm.devices." .. name)))
      end
    ]]
    file:close()
    local r = program.run(([[LUA_PATH="%s/?.lua" P --safe %s/main.lua]]):format(folder, folder))
    os.execute("rm -r " .. folder)
    assert.same({ "", 0 }, { r.err, r.status })
    assert.equal("evil\tfalse\nedu\ttrue\nrtc\ttrue\nvga\ttrue\n", r.out)
  end)

  it("keeps the metatables of all objects out of reach", function()
    local out = prints [[
      local kvm = require "minikvm"
      local files = kvm.files{}
      local vm = kvm.vm{ echo = false, files = files, irqchip = "pic" }
      local def = kvm.device{ name = "d", size = 1, read = function() return 1 end }
      local snap = vm:snapshot()
      local objects = { "", vm, vm.cpu[0], vm.cpuid, vm.ports, vm.mmio, vm.msrs, vm.memory,
        vm.console, vm.clock, vm.keyboard, vm.hypercalls, vm.symbols, vm.files, files, snap,
        vm:screen(), vm:stats(), vm.cpu[0]:disassemble(), def, vm:attach(def, { ports = 0x300 }),
        vm.console:on_line(print), vm.clock:after(1, print), vm.ports:tap(1, print),
        vm.cpuid:vendor "ABCDEFGHIJKL" }
      for i, object in ipairs(objects) do
        local ok, index = pcall(function() return object.__index end)
        print(i, getmetatable(object), ok and index ~= nil and index,
              pcall(setmetatable, object, { }) == true)
      end
      print(getmetatable(print), getmetatable(coroutine.running()), getmetatable({}), ("").dump)
    ]]
    local count = 0
    for rest in out:gmatch "%d+\t([^\n]*)\n" do
      count = count + 1
      assert.matches("^[%w.]+\tfalse\tfalse$", rest)
    end
    assert.equal(25, count)
    assert.matches("\nnil\tnil\tnil\tnil\n$", out)
  end)

  it("runs nothing of the script when its time is over: error objects, closing variables",
     function()
    if process.without_signals(pending) then return end
    for _, code in ipairs{
      "error(setmetatable({}, { __tostring = function() while true do end end }))",
      "setmetatable({}, { __gc = function() while true do end end })",
      "local x <close> = setmetatable({}, { __close = function() while true do end end })",
      "coroutine.wrap(function() local x <close> = setmetatable({}, { __close = function() while "
        .. "true do end end }) coroutine.yield() end)() while true do end",
    } do
      local r = safe(code, "--seconds 0.2")
      assert.equal(1, r.status)
      assert.matches("the script's time is up", r.err)
    end
  end)

  it("lets scripts require what lies beside them, as safe as they are", function()
    local folder = program.folder()
    assert(lfs.mkdir(folder .. "/sub"))
    for name, text in pairs{ ["main.lua"] = "local p = require 'sub.part' print(p.io, p.n, "
                               .. "require 'sub.part' == p, require 'bad')",
                             ["sub/part.lua"] = "n = (n or 0) + 1 return { io = io, n = n }",
                             ["bad.lua"] = "\27Lua" } do
      local file = assert(io.open(folder .. "/" .. name, "w"))
      file:write(text)
      file:close()
    end
    local r = program.run(("P --safe %s/main.lua"):format(folder))
    os.execute("rm -r " .. folder)
    assert.equal(1, r.status)
    assert.matches("attempt to load a binary chunk", r.err)
    assert.matches("main.lua:1: in main chunk", r.err)
  end)

  it("ends whatever takes long, and says where", function()
    if process.without_signals(pending) then return end
    for _, code in ipairs{
      "while true do end",
      "while true do pcall(function() while true do end end) end",
      "local t = setmetatable({}, { __len = function() return 1 << 62 end }) table.insert(t, 1, 1)",
      "table.move({}, 1, 1 << 62, 2)",
      "return ('a'):rep(40):find(('a*'):rep(30) .. 'b')",
      "local s, t = ('x'):rep(4000000), {} for i = 1, 20000 do t[i] = s end table.sort(t)",
      "coroutine.wrap(function() local x while true do x = 1 end end)()",
      "coroutine.wrap(function() while true do pcall(coroutine.wrap(error)) end end)()",
      "xpcall(error, function() while true do end end)",
      "require('minikvm').sleep(1000)",
    } do
      local r = safe(code, "--seconds 0.05")
      assert.equal(1, r.status)
      assert.equal("minikvm: S:1: the script's time is up: 0.05 s (--seconds)\n", r.err)
    end
  end)

  it("says where without a word of the script's that could drive a terminal", function()
    if process.without_signals(pending) then return end
    local r = safe([[load("while true do end", "=\27[2J\n")()]], "--seconds 0.05")
    assert.equal("minikvm: ?[2J?:1: the script's time is up: 0.05 s (--seconds)\n", r.err)
  end)

  it("loses nothing of what was printed before", function()
    local r = safe("print 'a' print 'b' while true do end", "--seconds 0.05")
    assert.equal("a\nb\n", r.out)
  end)

  it("limits the memory of the process, whoever takes it", function()
    if process.sanitized() then return pending "a sanitizer's shadow has no room in a limit" end
    local r = safe("local t = {}\nwhile true do t[#t + 1] = {} end", "--memory 4M")
    assert.equal(1, r.status)
    assert.matches("minikvm: S:2: not enough memory: %d+ bytes more were wanted %(%-%-memory%)\n$",
                   r.err)
    refuses("not enough memory", "return ('x'):rep(1 << 30)")
    refuses("not enough memory", "return string.pack('>s4', ('x'):rep(200 << 20))")
  end)

  it("has a command line that is checked", function()
    for arguments, why in pairs{
      [""] = "script.lua is missing", ["--guest x /dev/null"] = "expected NAME=PATH",
      ["--files x=/tmp:wr /dev/null"] = "none of ro, cow, rw, shared%-rw",
      ["--seconds 0 /dev/null"] = "expected seconds", ["--memory 0 /dev/null"] = "expected a size",
      ["--gest x=y /dev/null"] = "did you mean '%-%-guest'",
    } do
      local r = program.run("P --safe " .. arguments)
      assert.equal(2, r.status)
      assert.matches(why, r.err)
    end
    assert.matches("usage: minikvm %-%-safe", program.run("P --safe --help").out)
    assert.equal(1, program.run("P --safe /no/such").status)
    assert.matches("did you mean '%-%-safe'", program.run("P --saf x").err)
    assert.equal(7, safe("os.exit(7)").status)
    assert.equal(1, safe("error 'x'").status)
  end)
end)
