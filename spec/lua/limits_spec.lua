-- What ends Lua code that does not end by itself: a handler's time, and a script's memory.

local kvm = require "minikvm"
local support = require "support.guest"
local process = require "support.process"
local files = require "support.files"

local out, into, call, program = support.out, support.into, support.call, support.program

-- Globals are looked up by functions of busted: the line would be theirs.
local unhook, upper, resume, create, wrap, close = debug.sethook, string.upper, coroutine.resume,
  coroutine.create, coroutine.wrap, coroutine.close
local yield, pcall, xpcall, error, setmetatable, sort = -- luacheck: ignore
  coroutine.yield, pcall, xpcall, error, setmetatable, table.sort

local function spin() while true do end end

---Ways to run for ever that a hook must get into.
local RUNAWAYS = {
  ["a loop"] = spin,
  ["a loop behind pcall"] = function() while true do pcall(spin) end end,
  ["a loop in a pcall in a pcall"] = function()
    while true do pcall(function() while true do pcall(spin) end end) end
  end,
  ["a loop in a message handler"] = function() while true do xpcall(spin, spin) end end,
  ["a message handler of an error"] = function() xpcall(error, spin) end,
  ["a coroutine"] = function()
    local co = create(spin)
    while true do resume(co) end
  end,
  ["a wrapped coroutine behind pcall"] = function()
    while true do pcall(wrap(function() pcall(spin) end)) end
  end,
  ["a coroutine that closes its variables for ever"] = function()
    wrap(function()
      local _ <close> = setmetatable({}, { __close = spin })
      spin()
    end)()
  end,
  ["coroutine.close"] = function()
    local co = create(function()
      local _ <close> = setmetatable({}, { __close = spin })
      yield()
    end)
    resume(co)
    close(co)
  end,
  ["a comparison of table.sort"] = function() sort({ 3, 2, 1 }, spin) end,
  ["the replacement of string.gsub"] = function() ("x"):gsub("x", spin) end,
  ["a metamethod"] = function() return setmetatable({}, { __index = spin }).x end,
  ["an error's __tostring"] = function() error(setmetatable({}, { __tostring = spin })) end,
  ["C functions that call C functions"] = function()
    while true do ("x"):rep(1000):gsub(".", upper) end
  end,
  ["recursion"] = function() local function f() return f() end f() end,
  ["a loop in the depth of a recursion"] = function() -- a hook is set in each of its frames
    local function deep(n) return n == 0 and spin() or 1 + deep(n - 1) end
    deep(150000)
  end,
  ["a script that takes the hook off"] = function() while true do unhook() end end,
}

---Those where Lua has hooks off while it handles the error that ended the loop. minikvm's own
---interpreter knows of them; require replaces nothing of a program's.
local UNHOOKED <const> = { ["a loop in a message handler"] = true,
  ["a message handler of an error"] = true,
  ["a coroutine that closes its variables for ever"] = true }

local OWN <const> = package.preload.minikvm ~= nil -- is this minikvm's own interpreter?

local SHORT <const> = { handler = 0.02 }

---A run that must end because its handler did not; `what` names the handler, `insn` the instruction
---(false: a write to memory, of which KVM only tells where it ends).
local function ends(vm, what, insn)
  local waits = insn and "rip 0x%x+: " .. insn or "the write before rip 0x100a$"
  local reason, info = support.run(vm)
  assert.equal("error", reason, info.text)
  assert.matches("^[^\n]*limits_spec%.lua:%d+: " .. what .. " was ended after %d+%.%d s: "
    .. "its limit is 0%.02 s; the guest waits at " .. waits, info.text)
  assert.matches("^[^\n]*limits_spec%.lua:%d+: it took too long\nstack traceback:", info.traceback)
  vm:close()
end

describe("a handler that does not end", function()
  if support.without_kvm(pending) or process.without_signals(pending) then return end

  for name, runaway in pairs(RUNAWAYS) do
    it(("in %s, is ended"):format(name), function()
      if UNHOOKED[name] and not OWN then
        pending "lua's own xpcall and coroutine.wrap go on with hooks off"
        return
      end
      local vm = program({ out(0x80, 1) }, { limits = SHORT })
      vm.ports:on(0x80, { write = runaway })
      ends(vm, "the handler of port 0x80", "out dx, al")
    end)
  end

  it("of a read", function()
    local vm = program({ into(0x40, 0x81) }, { limits = SHORT })
    vm.ports:on(0x81, { read = spin })
    ends(vm, "the handler of port 0x81", "in al, dx")
  end)

  it("of an access of 4 bytes", function()
    local vm = program({ into(0x40, 0x81, 4) }, { limits = SHORT })
    vm.ports:on(0x81, { read = spin })
    ends(vm, "the handler of port 0x81", "in eax, dx")
  end)

  it("on top of another", function()
    local vm = program({ out(0x80, 1) }, { limits = SHORT })
    vm.ports:on(0x80, { write = spin })
    vm.ports:override(0x80, { write = function(_, value, _, next)
      while true do pcall(next, value) end
    end })
    ends(vm, "the handler of port 0x80", "out dx, al")
  end)

  it("of a hypercall", function()
    local vm = program({ call(0x42) }, { limits = SHORT })
    vm.hypercalls:define(0x42, "spin", spin)
    ends(vm, "a hypercall's handler", "out dx, al")
  end)

  it("of a line", function()
    local vm = program({ out(0xe9, 65), out(0xe9, 10) }, { limits = SHORT, coalesce = false })
    vm.console:on_line(spin)
    ends(vm, "the line handler", "out dx, al")
  end)

  it("of the last, unfinished line", function()
    local vm = program({ out(0xe9, 65) }, { limits = SHORT })
    vm.console:on_line(spin)
    ends(vm, "the line handler", "")
  end)

  -- mov eax, [0x100008]; mov [0x100008], eax; mov ecx, 0x4b564d80; rdmsr; wrmsr; hlt
  local PROTECTED <const> = "a1 08 00 10 00 a3 08 00 10 00 b9 80 4d 56 4b 0f 32 0f 30 f4"
  local MEMORY <const> = "the handler of address 0x100008"
  local MSR <const> = "the handler of MSR 0x4b564d80"

  for what, case in pairs{
    ["an MMIO read"] = { MEMORY, "mov eax, dword ptr", function(vm)
      vm.mmio:on(0x100000, 16, { read = spin })
    end },
    ["an MMIO write"] = { MEMORY, false, function(vm)
      vm.mmio:on(0x100000, 16, { write = spin })
    end },
    ["a device in memory"] = { MEMORY, "mov eax, dword ptr", function(vm)
      vm:attach(kvm.device{ name = "d", registers = { [8] = "X" }, width = 4, read = spin },
                { mmio = 0x100000 })
    end },
    ["an MSR read"] = { MSR, "rdmsr", function(vm) vm.msrs:on(0x4b564d80, { read = spin }) end },
    ["an MSR write"] = { MSR, "wrmsr", function(vm)
      vm.msrs:on(0x4b564d80, { read = function() return 0 end, write = spin })
    end },
    ["unhandled accesses"] = { MEMORY, "mov eax, dword ptr", function(vm)
      vm:on_unhandled(spin)
    end },
  } do
    it("of " .. what, function()
      local vm = support.code(PROTECTED, { mode = "protected", memory = "1M", limits = SHORT })
      case[3](vm)
      ends(vm, case[1], case[2])
    end)
  end

  for what, hook in pairs{
    ["a tap"] = function(vm) vm.ports:tap(0x80, spin) end,
    ["a fifo"] = function(vm) vm.ports:fifo(0x80, { size = 1 }, spin) end,
    ["a match"] = function(vm) vm.ports:match(0x80, 1, spin) end,
    ["a device"] = function(vm)
      vm:attach(kvm.device{ name = "d", registers = { [0] = "X" }, write = spin }, { ports = 0x80 })
    end,
  } do
    it("of " .. what, function()
      local vm = program({ out(0x80, 1) }, { limits = SHORT, coalesce = false })
      hook(vm)
      ends(vm, "the handler of port 0x80", "out dx, al")
    end)
  end

  it("of a timer", function()
    local vm = support.code("eb fe", { limits = SHORT })
    vm.clock:after(0, spin)
    vm.clock:after(0, spin)
    ends(vm, "a timer's function", "jmp 0")
  end)

  it("of a trace", function()
    ends(program({ out(0x80, 1) }, { limits = SHORT, trace = spin }), "the trace function", "")
  end)

  it("of a file policy", function()
    local policy = kvm.files{ root = "spec", rules = { { "**", "ro" } }, decide = spin }
    local guest = files.guest("byte", policy, { limits = SHORT })
    assert.error_matches(function() guest:open("limits_spec.lua", files.READ) end,
      "limits_spec.lua:%d+: the decide function was ended after .* rip 0x%x+: rep outsb")
  end)

  it("of a 64-bit guest: its instruction is read as such", function()
    local vm = support.code("48 31 c0 49 89 c0 e4 80 f4", { mode = "long", memory = "8M",
                                                           limits = SHORT })
    vm.ports:on(0x80, { read = spin })
    ends(vm, "the handler of port 0x80", "in al, 0x80")
  end)

  it("leaves a VM that can be reset, and a script that goes on", function()
    local vm <close> = program({ out(0x80, 1) }, { limits = SHORT })
    local hook = vm.ports:on(0x80, { write = spin })
    assert.equal("error", (support.run(vm)))
    hook:remove()
    vm.ports:on(0x80, { write = function() end })
    vm:reset()
    assert.equal("halt", (support.run(vm)))
    assert.is_nil(debug.gethook())
  end)

  it("of one VM ends that one, and others go on", function()
    local bad <close> = program({ out(0x80, 1) }, { limits = SHORT })
    local good <close> = program({ out(0x80, 1) }, { limits = SHORT })
    local calls = 0
    bad.ports:on(0x80, { write = spin })
    good.ports:on(0x80, { write = function() calls = calls + 1 end })
    local results = kvm.wait{ bad:start(), good:start() }
    assert.equal("error", results[1].reason)
    assert.equal("halt", results[2].reason)
    assert.equal(1, calls)
  end)

  it("does not outlive the run's deadline", function()
    local vm <close> = program{ out(0x80, 1) }
    vm.ports:on(0x80, { write = RUNAWAYS["a loop behind pcall"] })
    local reason, info = vm:run{ deadline = 0.1 }
    assert.equal("deadline", reason)
    assert.matches("limits_spec%.lua:%d+: the handler of port 0x80 was ended after %d+%.%d s: "
      .. "the run's deadline passed; the guest waits at rip 0x5: out dx, al", info.text)
    reason, info = vm:start{ deadline = 20 }:wait()
    assert.equal("halt", reason, info.text) -- the OUT was over
  end)

  it("does not outlive a stop that came before it", function()
    local vm <close> = program({ out(0x80, 1) }, { limits = { handler = false } })
    vm.ports:on(0x80, { write = function()
      vm:stop()
      spin()
    end })
    local reason, info = vm:start():wait(20)
    assert.equal("stopped", reason)
    assert.matches("was ended after %d+%.%d s: stopped from outside; the guest waits", info.text)
  end)

  for name, how in pairs{ ["in vm:run"] = "vm:run()", ["in vm:wait"] = "vm:start():wait()" } do
    it("does not outlive Ctrl-C " .. name, function()
      local pipe, pid, path = process.child([[
        local vm = support.program({ support.out(0x80, 1) }, { limits = { handler = false } })
        vm.ports:on(0x80, { write = function()
          print "inside"
          while true do pcall(function() while true do end end) end
        end })
      ]] .. how)
      pipe:read "l"
      assert.equal("inside", pipe:read "l")
      os.execute("kill -INT " .. pid)
      local output, _, status = process.finish(pipe)
      os.remove(path)
      assert.matches("interrupted!", output)
      assert.equal(1, status)
    end)
  end
end)

describe("a handler's time", function()
  if support.without_kvm(pending) then return end

  it("is its own: many short ones may take longer together", function()
    local vm = support.code("b9 3c 00 e6 80 e2 fc f4", { limits = { handler = 0.5 } }) -- 60 times
    local core = require "minikvm.core"
    vm.ports:on(0x80, { write = function()
      local from = core.now()
      while core.now() - from < 0.01 do end
    end })
    local reason, info = support.run(vm)
    assert.equal("halt", reason, info.text)
    vm:close()
  end)

  it("does not count while the handler waits for the script", function()
    local vm = program({ out(0x80, 1) }, { limits = SHORT })
    vm.ports:on(0x80, { write = function() end })
    vm:start()
    local core = require "minikvm.core"
    local from = core.now()
    while core.now() - from < 0.1 do end
    assert.equal("halt", (vm:wait(20)))
    vm:close()
  end)

  it("is seconds or false", function()
    for _, wrong in ipairs{ 0, -1, true, "1", math.huge, 0 / 0 } do
      assert.error_matches(function() kvm.vm{ limits = { handler = wrong } } end,
        "kvm.vm: option 'limits.handler': expected seconds %(more than 0%) or false, got ")
    end
    assert.error_matches(function() kvm.vm{ limits = { handlers = 1 } } end, "did you mean")
  end)
end)

describe("a script's memory", function()
  if support.without_kvm(pending) then return end

  -- An error that Lua raises outside of a protected call would go on in another thread's frame.
  it("that runs out in a handler ends the VM, not the process", function()
    if process.sanitized() then return pending "a sanitizer's shadow has no room in a limit" end
    for _, code in ipairs{ "while true do t[#t + 1] = {} end", "t = ('x'):rep(1 << 30)",
                           "coroutine.wrap(function() while true do t[#t + 1] = {} end end)()" } do
      local output, how, status = process.run(([[
        local vm = support.program{ support.out(0x80, 1) }
        local hook = vm.ports:on(0x80, { write = function() local t = {} %s end })
        local reason, info = vm:run()
        print(reason, info.text, info.waiting)
        hook:remove()
        print((vm:reset():run()))
      ]]):format(code), "prlimit --as=400000000")
      assert.matches("\nerror\tnot enough memory\trip 0x5: out dx, al\nhalt\n$", output)
      assert.same({ "exit", 0 }, { how, status })
    end
  end)
end)

describe("require", function()
  it("replaces nothing of a program's own libraries", function()
    if process.sanitized() then
      return pending "a sanitizer's runtime must come first in the process"
    end
    local code = [[
      local libraries, before = { _G, coroutine, string, table, debug, io, os, math }, {}
      for i, library in ipairs(libraries) do
        before[i] = {}
        for name, value in pairs(library) do before[i][name] = value end
      end
      require("minikvm").vm{}:close()
      for i, library in ipairs(libraries) do
        for name, value in pairs(library) do
          if before[i][name] ~= value then print("replaced", name) end
        end
      end
      print "looked"]]
    local pipe = assert(io.popen(("LUA_CPATH='./?.so;;' %s - 2>&1 <<'END'\n%s\nEND\n")
      :format(require("support.program").lua, code)))
    assert.equal("looked\n", pipe:read "a")
    pipe:close()
  end)
end)

describe("coroutines and xpcall, replaced,", function()
  it("do what they did", function()
    local co = coroutine.create(function(a, b)
      local c = coroutine.yield(a + b)
      error({ c })
    end)
    assert.same({ true, 3 }, { coroutine.resume(co, 1, 2) })
    local fine, object = coroutine.resume(co, "x")
    assert.same({ false, { "x" } }, { fine, object })
    assert.same({ false, "cannot resume dead coroutine" }, { coroutine.resume(co) })
    assert.equal("dead", coroutine.status(co))
    local f = coroutine.wrap(function(...) coroutine.yield(select("#", ...)) error "e" end)
    assert.equal(2, f(nil, nil))
    local _, message = pcall(function() f() end)
    assert.matches("limits_spec.lua:%d+: .*limits_spec.lua:%d+: e$", message)
    assert.error_matches(f, "cannot resume dead coroutine")
    assert.error_matches(function() coroutine.resume(1) end,
                         "bad argument #1 to 'resume' %(%a+ expected")
    assert.error_matches(function() coroutine.wrap() end, "function expected")
  end)

  it("close as they did", function()
    local closed = 0
    local function new(fail)
      local co = coroutine.create(function()
        local _ <close> = setmetatable({}, { __close = function()
          closed = closed + 1
          if fail then error("no", 0) end
        end })
        coroutine.yield()
      end)
      coroutine.resume(co)
      return co
    end
    assert.same({ true }, { coroutine.close(new(false)) })
    assert.same({ false, "no" }, { coroutine.close(new(true)) })
    assert.equal(2, closed)
    assert.error_matches(function() coroutine.close(coroutine.running()) end,
                         "cannot close a running coroutine")
    assert.is_true(coroutine.close(coroutine.create(print)))
  end)

  it("handle messages, and yield across xpcall", function()
    assert.same({ false, "handled x" },
                { xpcall(error, function(m) return "handled " .. m end, "x") })
    assert.same({ true, 1, 2 }, { xpcall(function(...) return ... end, print, 1, 2) })
    local co = coroutine.wrap(function()
      return xpcall(function() return coroutine.yield(1) end, print)
    end)
    assert.equal(1, co())
    assert.same({ true, 5 }, { co(5) })
    assert.error_matches(function() xpcall(print) end, "bad argument #2 to 'xpcall'")
  end)
end)
