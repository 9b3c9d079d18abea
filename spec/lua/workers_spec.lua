-- Workers: Lua states of their own, on threads of their own.

local kvm = require "minikvm"
local support = require "support.guest"
local process = require "support.process"

local function echo(me, ...)
  me:send("got", ...)
  return ...
end

---No more threads than there were.
local function settled(before)
  assert.is_true(process.threads() <= before, process.threads() .. " threads")
end

---Starts a worker that is closed with its variable.
local function worker(...)
  return assert(kvm.worker(...))
end

describe("a worker", function()
  it("gets copies of its arguments and returns copies of its results", function()
    local values = { nil, true, false, 0, -1, math.maxinteger, math.mininteger, 0.5, -0.0,
                     math.huge, "", "a\0b", { 1, 2, nil, 4, x = { y = { "z" } }, [2.5] = false } }
    local w <close> = worker(echo, table.unpack(values, 1, 13))
    local expected = table.pack("got", table.unpack(values, 1, 13))
    assert.same(expected, table.pack(w:receive(20)))
    expected[1] = true
    assert.same(expected, table.pack(w:wait(20)))
    assert.same(expected, table.pack(w:wait(20))) -- again
    local first, second = select(14, w:wait()), select(14, w:wait())
    assert.not_equal(first, second)
    assert.equal("integer", math.type(select(5, w:wait())))
  end)

  it("keeps NaN, and many values", function()
    local list = {}
    for i = 1, 250 do list[i] = i end
    list[251] = 0 / 0
    local w <close> = worker(echo, table.unpack(list))
    local back = table.pack(w:wait(20))
    assert.equal(252, back.n)
    assert.equal(250, back[251])
    assert.is_true(back[252] ~= back[252])
  end)

  it("has its own globals, the maker's paths, and the module", function()
    local path = package.path
    local w <close> = worker(function()
      local kvm = require "minikvm" -- luacheck: ignore
      local before = rawget(_G, "workers_spec")
      rawset(_G, "workers_spec", 1)
      return before, package.path, kvm._VERSION, require("minikvm.options").size "1K"
    end)
    assert.same({ true, nil, path, kvm._VERSION, 1024 }, { w:wait(20) })
    assert.is_nil(rawget(_G, "workers_spec"))
  end)

  it("has copies of upvalues", function()
    local n, list, none = 5, { 1, { 2 } }, nil
    local w <close> = worker(function()
      n = n + 1
      list[2][1] = 7
      return n, list, none
    end)
    assert.same({ true, 6, { 1, { 7 } } }, { w:wait(20) })
    assert.same({ 5, { 1, { 2 } } }, { n, list })
  end)

  it("runs scripts, with their arguments", function()
    local path = process.temporary
      "local me, a, b = ... me:send(arg[0], arg[1], arg[2], #arg) return a, b"
    local w <close> = worker(path, "x", 2)
    assert.same({ path, "x", 2, 2 }, { w:receive(20) })
    assert.same({ true, "x", 2 }, { w:wait(20) })
    os.remove(path)
    assert.same({ nil, path .. ": No such file or directory", "ENOENT" }, { kvm.worker(path) })
  end)

  it("brings home where a script is wrong", function()
    local path = process.temporary "x ="
    local w <close> = worker(path)
    local _, why, code = w:wait(20)
    os.remove(path)
    assert.matches(":1: unexpected symbol near <eof>", why)
    assert.equal("ERROR", code)
  end)

  it("brings errors and tracebacks home", function()
    local w <close> = worker(function()
      local function deep() error "no luck" end
      deep()
    end)
    local none, why, code = w:wait(20)
    assert.same({ nil, "ERROR" }, { none, code })
    assert.matches("^[^\n]*workers_spec.lua:%d+: no luck\nstack traceback:\n.*"
      .. "workers_spec.lua:%d+: in .*deep", why)
    for _, object in ipairs{ "nil", "{}", "setmetatable({}, { __tostring = error })", "1" } do
      local other <close> = worker(load(("error(%s)"):format(object)))
      assert.equal("ERROR", (select(3, other:wait(20))))
    end
  end)

  it("cannot take or give what is no value", function()
    local loop = {}
    loop.x = loop
    for what, value in pairs{ ["a function"] = print, ["a userdata"] = io.stdout,
                              ["a thread"] = coroutine.create(print),
                              ["a table with a metatable"] = setmetatable({}, {}) } do
      assert.error_matches(function() kvm.worker(echo, 1, { a = { value } }) end,
        "kvm.worker: argument 2%.a%[1%]: " .. what .. " cannot be copied")
      assert.error_matches(function() kvm.worker(function() return value end) end,
        "kvm.worker: upvalue 'value': " .. what .. " cannot be copied; ")
    end
    assert.error_matches(function() kvm.worker(echo, loop) end, "argument 1.x: a table that cont")
    assert.error_matches(function() kvm.worker(function() return kvm end) end,
                         "upvalue 'kvm'%.[%w_]+: a function cannot be copied; get it inside")
    assert.error_matches(function() kvm.worker(print) end, "a C function")
    for _, wrong in ipairs{ 1, {}, true } do
      assert.error_matches(function() kvm.worker(wrong) end, "expected a function or the path")
    end
    assert.error_matches(function() kvm.worker() end, "expected a function or the path")
    local w <close> = worker(function() return 1, print end)
    assert.matches("worker: result 2: a function cannot be copied", select(2, w:wait(20)))
  end)

  it("is told apart from its message's absence", function()
    local w <close> = worker(function(me) me:receive() end)
    assert.error_matches(function() w:send() end, "the first value of a message is not nil")
    assert.error_matches(function() w:send(nil, 1) end, "the first value of a message is not nil")
    assert.error_matches(function() w:send(1, print) end, "send: argument 2: a function cannot")
    for _, timeout in ipairs{ "x", {}, -1, 0 / 0 } do
      local _, why = pcall(function() local _ = w:receive(timeout) end)
      assert.matches("workers_spec.lua:%d+: receive: 'timeout': expected seconds, 0 or more", why)
    end
    assert.error_matches(function() w.send(1, 2) end, "^send: call it with ':'")
    assert.error_matches(function() w.receive() end, "^receive: call it with ':'")
    assert.same({ nil, "receive: no message came in time", "ETIMEDOUT" }, { w:receive(0) })
    assert.same({ nil, "the worker still runs", "ETIMEDOUT" }, { w:wait(0) })
    assert.is_true(w:send(false))
    assert.is_true((w:wait(20)))
    assert.same({ nil, "send: the worker has ended", "EPIPE" }, { w:send(1) })
    assert.same({ nil, "receive: the worker has ended", "EPIPE" }, { w:receive() })
  end)

  it("keeps messages in order, also those that wait when it ends", function()
    local w <close> = worker(function(me)
      for i = 1, 1000 do me:send(i) end
      local sum = 0
      for n in function() return me:receive() end do
        if n == "end" then return sum end
        sum = sum + n
      end
    end)
    for i = 1, 1000 do w:send(i) end
    w:send "end"
    assert.same({ true, 500500 }, { w:wait(20) })
    for i = 1, 1000 do assert.equal(i, w:receive()) end
    assert.equal("EPIPE", (select(3, w:receive())))
  end)

  it("cannot be flooded", function()
    local w <close> = worker(function(me) me:receive "x" end) -- fails: not seconds
    w:wait(20)
    local full <close> = worker(function(me) while me:receive() ~= "stop" do end end)
    local big <const> = ("x"):rep(40 << 20)
    local idle <close> = worker(function() require("minikvm").sleep(1000) end)
    assert.is_true(idle:send(big))
    assert.same({ nil, "send: 64 MiB wait to be received already", "ENOBUFS" }, { idle:send(big) })
    assert.is_true(full:send "stop")
  end)

  it("can have workers itself", function()
    local w <close> = worker(function(_, n)
      local inner = require("minikvm").worker(function(_, m) return m * 2 end, n)
      return select(2, inner:wait())
    end, 21)
    assert.same({ true, 42 }, { w:wait(20) })
  end)

  it("is named in tostring", function()
    local w <close> = worker(function(me) me:receive() end)
    assert.equal("minikvm.worker (running)", tostring(w))
    w:close()
    assert.equal("minikvm.worker (ended)", tostring(w))
  end)
end)

describe("a worker that never ends is closed", function()
  if process.without_signals(pending) then return end

  local FOREVER = {
    ["in a loop"] = function(me) me:send "x" while true do end end,
    ["in a loop behind pcall"] = function(me)
      me:send "x"
      while true do pcall(function() while true do end end) end
    end,
    ["in a coroutine"] = function(me)
      me:send "x"
      local co = coroutine.create(function() while true do pcall(function() end) end end)
      while true do coroutine.resume(co) end
    end,
    ["in a message handler"] = function(me)
      me:send "x"
      while true do xpcall(error, function() while true do end end) end
    end,
    ["in receive"] = function(me) me:send "x" while true do pcall(me.receive, me) end end,
    ["in kvm.sleep"] = function(me)
      me:send "x"
      while true do require("minikvm").sleep(1000) end
    end,
    ["before it began"] = false,
    ["in wait for a worker"] = function(me)
      local w = require("minikvm").worker(function(inner) inner:receive() end)
      me:send "x"
      w:wait()
    end,
  }

  for name, forever in pairs(FOREVER) do
    it(name, function()
      local before = process.threads()
      local w = worker(forever or function() while true do end end)
      if forever then assert.equal("x", w:receive(20)) end
      assert.is_true(w:close())
      assert.is_true(w:close())
      local none, why, code = w:wait()
      assert.equal("ECANCELED", none == nil and code, why)
      settled(before)
    end)
  end

  it("by <close>, and by the garbage collector", function()
    local before = process.threads()
    do
      local w <close> = worker(function() while true do end end) -- luacheck: ignore
    end
    settled(before)
    for _ = 1, 3 do worker(function() while true do end end) end
    collectgarbage()
    collectgarbage()
    settled(before)
  end)

  it("with its script", function()
    local output, how, status = process.run [[
      for i = 1, 4 do _G["w" .. i] = kvm.worker(function() while true do end end) end
      print "end"
    ]]
    assert.same({ "\nend\n", "exit", 0 }, { output, how, status })
  end)

  it("or left to itself, where no hook gets in", function()
    local output, how, status = process.run([[
      local w = kvm.worker(function(me)
        setmetatable({}, { __gc = function()
          me:send "x"
          while true do end
        end })
        collectgarbage()
      end)
      w:receive()
      print(select(3, w:close()))
      print(select(3, w:close()))
      print(w:wait())
      print(w)
    ]], "env ASAN_OPTIONS=detect_leaks=0")
    assert.same({ "\nEBUSY\nEBUSY\nnil\tthe worker is stuck in a C function\tECANCELED\n"
                  .. "minikvm.worker (stuck)\n", "exit", 0 }, { output, how, status })
  end)
end)

describe("workers with VMs", function()
  if support.without_kvm(pending) then return end

  it("run them, handlers and all, at the same time", function()
    local function run(me, n)
      local vm <close> = require("minikvm").vm{ echo = false }
      vm:load{ bytes = "\xe6\x80\xe4\x80\x3c\x01\x75\xf8\xf4" } -- out; in; until it gives 1
      local answer = 0
      vm.ports:on(0x80, {
        write = function() if answer == 0 then me:send "there" end answer = me:receive(0) or 2 end,
        read = function() return answer end,
      })
      local reason = vm:run{ deadline = 20 }
      return reason, n
    end
    local workers = {}
    for i = 1, 4 do workers[i] = worker(run, i) end
    for i = 1, 4 do assert.equal("there", workers[i]:receive(20)) end
    for i = 1, 4 do workers[i]:send(1) end
    for i = 1, 4 do assert.same({ true, "halt", i }, { workers[i]:wait(20) }) end
  end)

  it("stop with it, also those that were started", function()
    local before = process.threads()
    local w <close> = worker(function(me)
      local vm = require("minikvm").vm{ echo = false }
      vm:load{ bytes = "\xe6\x81\xeb\xfe" }
      vm.ports:on(0x81, { write = function() me:send "inside" end })
      vm:start()
      vm:wait()
    end)
    assert.equal("inside", w:receive(20))
    assert.is_true(w:close())
    settled(before)
  end)

  it("leave nothing behind", function()
    local function round()
      local w <close> = worker(function()
        local vm = require("minikvm").vm{ echo = false }
        vm:load{ bytes = "\xeb\xfe" }
        vm:start()
      end)
      assert.is_true((w:wait(20)))
    end
    round()
    local fds, threads = process.descriptors(), process.threads()
    for _ = 1, 20 do round() end
    assert.equal(fds, process.descriptors())
    settled(threads)
  end)

  if process.without_signals(pending) then return end

  local function never(me, how, bytes)
    local vm = require("minikvm").vm{ echo = false, limits = { handler = false } }
    vm:load{ bytes = bytes }
    vm.ports:on(0x80, { write = function()
      me:send "inside"
      while true do pcall(function() while true do end end) end
    end })
    vm.ports:on(0x81, { write = function() me:send "inside" end })
    if how == "run" then while true do vm:run() end end
    vm:start()
    if how == "wait" then while true do vm:wait() end end
    while true do end
  end

  for how, bytes in pairs{ run = "\xe6\x81\xeb\xfe", wait = "\xe6\x81\xeb\xfe" } do
    it(("are closed inside vm:%s of a guest that spins"):format(how), function()
      local before = process.threads()
      local w <close> = worker(never, how, bytes)
      assert.equal("inside", w:receive(20))
      assert.is_true(w:close())
      settled(before)
    end)
    it(("are closed inside vm:%s with a handler that never ends"):format(how), function()
      local before = process.threads()
      local w <close> = worker(never, how, "\xe6\x80\xeb\xfe")
      assert.equal("inside", w:receive(20))
      assert.is_true(w:close())
      settled(before)
    end)
  end

  it("can be spoken to and waited for inside a handler", function()
    local w <close> = worker(function(me) me:send(me:receive()) return 1 end)
    local vm <close> = support.program{ support.out(0x80, 1) }
    local answer, results
    vm.ports:on(0x80, { write = function()
      assert(w:send "ping")
      answer = w:receive()
      results = { w:wait() }
    end })
    local reason, info = support.run(vm)
    assert.equal("halt", reason, info.text)
    assert.equal("ping", answer)
    assert.same({ true, 1 }, results)
  end)
end)
