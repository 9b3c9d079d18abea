-- vm.ports: handlers in Lua, on top of one another and of the devices in C.

local support = require "support.guest"

local out, into, program, run = support.out, support.into, support.program, support.run

---A function that keeps the arguments of its calls in a list, which it returns too.
local function recorder(answer)
  local calls = {}
  return function(...)
    calls[#calls + 1] = { ... }
    return answer
  end, calls
end

describe("ports:on", function()
  if support.without_kvm(pending) then return end

  it("gets port, value and size of every OUT", function()
    local vm <close> = program{ out(0x80, 0x12), out(0x81, 0x1234, 2), out(0x82, 0x12345678, 4),
                                out(0x86, 0xff) }
    local write, calls = recorder()
    vm.ports:on(0x80, 0x85, { write = write })
    assert.equal("halt", (run(vm)))
    assert.same({ { 0x80, 0x12, 1 }, { 0x81, 0x1234, 2 }, { 0x82, 0x12345678, 4 } }, calls)
  end)

  it("answers every IN", function()
    local vm <close> = program{ into(0x1000, 0x80), into(0x1004, 0x80, 2), into(0x1008, 0x80, 4) }
    local calls = {}
    vm.ports:on(0x80, { read = function(port, size, ...)
      calls[#calls + 1] = { port, size, ... }
      return 0x12345678 & (1 << 8 * size) - 1
    end })
    run(vm)
    assert.same({ { 0x80, 1 }, { 0x80, 2 }, { 0x80, 4 } }, calls)
    assert.same({ 0x78, 0x5678, 0x12345678 },
                { vm.memory:u32(0x1000), vm.memory:u32(0x1004), vm.memory:u32(0x1008) })
  end)

  it("leaves a direction without a function unserved", function()
    local vm <close> = program{ into(0x1000, 0x80), out(0x81, 1) }
    vm.ports:on(0x80, { write = function() end })
    vm.ports:on(0x81, { read = function() return 0 end })
    assert.equal("halt", (run(vm)))
    assert.equal(0xff, vm.memory:u8(0x1000))
  end)

  it("serves string I/O item by item", function()
    local vm <close> = support.code [[
      be 00 10   ; mov si, 0x1000
      b9 05 00   ; mov cx, 5
      ba 80 00   ; mov dx, 0x80
      f3 6e      ; rep outsb
      bf 00 20   ; mov di, 0x2000
      b9 03 00   ; mov cx, 3
      f3 6d      ; rep insw
      f4         ; hlt
    ]]
    vm.memory:write(0x1000, "hello")
    local text, n = "", 0x4140
    vm.ports:on(0x80, {
      write = function(_, value) text = text .. string.char(value) end,
      read = function() n = n + 1 return n end,
    })
    run(vm)
    assert.same({ "hello", "AABACA" }, { text, vm.memory:read(0x2000, 6) })
  end)

  it("refuses ports that somebody has, and names who", function()
    local vm <close> = support.vm()
    for port, owner in pairs{ [0x3f8] = "UART", [0x3ff] = "UART", [0xe9] = "debug console",
                              [0xf4] = "exit port", [0x500] = "hypercall port" } do
      assert.error_matches(function() vm.ports:on(port, { read = print }) end,
                           ("port 0x%x belongs to .*%s.*override"):format(port, owner))
    end
    assert.error_matches(function() vm.ports:on(0x3f0, 0x3f9, { read = print }) end, "port 0x3f8")
    vm.ports:on(0x80, 0x8f, { read = print })
    assert.error_matches(function() vm.ports:on(0x8f, 0x90, { read = print }) end,
                         "port 0x8f belongs to a Lua handler")
    vm.ports:on(0x90, { read = print })
  end)

  it("takes the first and the last port there are, and none beyond", function()
    local vm <close> = program{ out(0, 1), out(0xffff, 2), into(0x1000, 0xffff) }
    local write, calls = recorder()
    vm.ports:on(0, 0x1f, { write = write })
    vm.ports:on(0xffff, { write = write, read = function() return 3 end })
    run(vm)
    assert.same({ { 0, 1, 1 }, { 0xffff, 2, 1 } }, calls)
    assert.equal(3, vm.memory:u8(0x1000))
    for _, port in ipairs{ -1, 0x10000, math.maxinteger, math.mininteger } do
      assert.error_matches(function() vm.ports:on(port, { read = print }) end, "0 to 0xffff")
      assert.error_matches(function() vm.ports:on(5, port, { read = print }) end, "0 to 0xffff")
      assert.error_matches(function() vm.ports:override(port, { read = print }) end, "0 to 0xffff")
    end
    assert.error_matches(function() vm.ports:on(0x90, 0x8f, { read = print }) end,
                         "before the first")
  end)

  it("takes every port of a VM", function()
    local vm <close> = program{ out(0x80, 1), out(0xe9, 65), out(0xfffe, 3, 2) }
    local write, calls = recorder()
    local all = vm.ports:override(0, 0xffff, { write = write })
    run(vm)
    assert.same({ 3, 3, "" }, { #calls, all.hits, (vm.console:text()) })
    all:remove()
    vm:reset()
    run(vm)
    assert.same({ 3, "A" }, { #calls, (vm.console:text()) })
  end)

  it("wants functions, called read and write", function()
    local vm <close> = support.vm()
    local ports = vm.ports
    assert.error_matches(function() ports:on(0x80, {}) end, "neither read nor write")
    assert.error_matches(function() ports:on(0x80, { reed = print }) end, "unknown handler 'reed'")
    assert.error_matches(function() ports:on(0x80, { read = 1 }) end, "is a number, not a function")
    assert.error_matches(function() ports:on(0x80, { print }) end, "unknown handler")
    assert.error(function() ports:on(0x80) end)
    assert.error(function() ports:on() end)
    assert.error(function() ports:on("x", { read = print }) end)
    ports:on(0x80, { read = print })
  end)
end)

describe("an access that is wider than its port", function()
  if support.without_kvm(pending) then return end

  it("touches consecutive ports, low byte first, each with its own owner", function()
    local vm <close> = program{ out(0xe8, 0x33224111, 4), into(0x1000, 0xe8, 4) }
    local write, calls = recorder()
    vm.ports:on(0xea, { write = write, read = function() return 0x55 end })
    vm.console:send "k"
    run(vm)
    assert.same({ { 0xea, 0x22, 1 } }, calls)
    assert.equal("A", (vm.console:text()))
    assert.equal("\xffk\x55\xff", vm.memory:read(0x1000, 4))
  end)

  it("is handed whole to a Lua handler at its first port", function()
    local vm <close> = program{ out(0x80, 0x44332211, 4) }
    local write, calls = recorder()
    local other, others = recorder()
    vm.ports:on(0x80, { write = write })
    vm.ports:on(0x81, { write = other })
    run(vm)
    assert.same({ { { 0x80, 0x44332211, 4 } }, {} }, { calls, others })
  end)

  it("is split at the end of a range of ports, as in memory", function()
    local vm <close> = program{ into(0x1000, 0x81, 2), into(0x1004, 0x81, 4), into(0x1008, 0x86, 4),
                                out(0x83, 0x0201, 2) }
    local log = {}
    for base = 0x80, 0x84, 4 do
      vm.ports:on(base, base + 3, {
        read = function(port, size)
          log[#log + 1] = ("%x/%d"):format(port, size)
          return 0x88776655443322 >> 8 * (port - 0x81) & (1 << 8 * size) - 1
        end,
        write = function(port, value, size)
          log[#log + 1] = ("%x=%x/%d"):format(port, value, size)
        end,
      })
    end
    local _, info = run(vm)
    assert.same({ 0x3322, 0x55443322, 0xffff8877 },
                { vm.memory:u16(0x1000), vm.memory:u32(0x1004), vm.memory:u32(0x1008) })
    assert.same({ "81/2", "81/1", "82/1", "83/1", "84/1", "86/1", "87/1", "83=1/1", "84=2/1" }, log)
    assert.equal(2, info.served.none)
  end)

  it("is at fault where nobody serves a part of it, which is named", function()
    local vm <close> = program({ into(0x1000, 0x82, 4) }, { unhandled = "fault" })
    vm.ports:on(0x80, 0x83, { read = function() return 1 end })
    local reason, info = run(vm)
    assert.equal("fault", reason)
    assert.matches("IN from port 0x84: nobody serves it", info.text)
  end)

  it("is split where another range lies on top of a part of it", function()
    local vm <close> = program{ into(0x1000, 0x80, 4), into(0x1004, 0x80, 2) }
    vm.ports:on(0x80, 0x83, { read = function(_, size) return size == 1 and 0x11 or 0x2222 end })
    vm.ports:override(0x82, { read = function() return 0x33 end })
    run(vm)
    assert.same({ 0x11331111, 0x2222 }, { vm.memory:u32(0x1000), vm.memory:u16(0x1004) })
  end)

  it("is split beneath an override whose 'next' reaches byte ports", function()
    local vm <close> = program{ out(0xe9, 0x4241, 2), into(0x1000, 0xe9, 2) }
    local after, calls = recorder()
    vm.ports:on(0xea, { write = after, read = function() return 0x12 end })
    local sizes = {}
    vm.ports:override(0xe9, {
      write = function(_, value, size, next)
        sizes[#sizes + 1] = size
        next(value)
      end,
      read = function(_, size, next)
        sizes[#sizes + 1] = size
        return next()
      end,
    })
    vm.console:send "k"
    run(vm)
    assert.same({ 2, 2 }, sizes)
    assert.equal("A", (vm.console:text()))
    assert.same({ { 0xea, 0x42, 1 } }, calls)
    assert.equal("k\x12", vm.memory:read(0x1000, 2))
  end)
end)

describe("ports:override", function()
  if support.without_kvm(pending) then return end

  it("may pass on to a device in C, in both directions, or not", function()
    local vm <close> = program{ out(0xe9, 0x61), out(0xe9, 0x62), out(0xe9, 0x63),
                                into(0x1000, 0xe9) }
    vm.console:send "k"
    vm.ports:override(0xe9, {
      write = function(_, value, _, next)
        if value == 0x62 then return end
        assert.is_nil(next(value - 0x20))
      end,
      read = function(_, _, next) return next() + 1 end,
    })
    run(vm)
    assert.same({ "AC", 0x6c }, { (vm.console:text()), vm.memory:u8(0x1000) })
  end)

  it("passes the access as it was when next has no argument", function()
    local vm <close> = program{ out(0xe9, 0x61) }
    vm.ports:override(0xe9, { write = function(_, _, _, next) next() end })
    run(vm)
    assert.equal("a", (vm.console:text()))
  end)

  it("may call next twice", function()
    local vm <close> = program{ out(0xe9, 0x61) }
    vm.ports:override(0xe9, { write = function(_, v, _, next) next(v) next(v + 1) end })
    run(vm)
    assert.equal("ab", (vm.console:text()))
  end)

  it("may pass on to Lua handlers, down to the device", function()
    local vm <close> = program{ out(0xe9, 0x61), into(0x1000, 0xe9) }
    vm.console:send "k"
    local order = {}
    for i = 1, 3 do
      vm.ports:override(0xe9, {
        write = function(_, value, _, next)
          order[#order + 1] = i
          next(value + 1)
          order[#order + 1] = -i
        end,
        read = function(_, _, next) return next() + 1 end,
      })
    end
    run(vm)
    assert.same({ 3, 2, 1, -1, -2, -3 }, order)
    assert.same({ "d", 0x6e }, { (vm.console:text()), vm.memory:u8(0x1000) })
  end)

  it("passes a direction without a function to what lies beneath", function()
    local vm <close> = program{ out(0xe9, 0x61), into(0x1000, 0xe9) }
    vm.console:send "k"
    vm.ports:override(0xe9, { read = function() return 1 end })
    vm.ports:override(0xe9, { write = function(_, v, _, next) next(v + 1) end })
    run(vm)
    assert.same({ "b", 1 }, { (vm.console:text()), vm.memory:u8(0x1000) })
  end)

  it("finds nobody beneath a port that nobody serves", function()
    local vm <close> = program{ out(0x80, 1), into(0x1000, 0x80, 2) }
    vm.ports:override(0x80, { write = function(_, _, _, next) next(2) end,
                              read = function(_, _, next) return next() end })
    assert.equal("halt", (run(vm)))
    assert.equal(0xffff, vm.memory:u16(0x1000))
  end)

  it("is called through a coroutine of the handler too", function()
    local vm <close> = program{ out(0xe9, 0x61) }
    vm.ports:override(0xe9, { write = function(_, value, _, next) next(value + 1) end })
    vm.ports:override(0xe9, { write = function(_, value, _, next)
      coroutine.wrap(function() next(value + 1) end)()
    end })
    assert.equal("halt", (run(vm)))
    assert.equal("c", (vm.console:text()))
  end)

  it("says that the handler beneath failed", function()
    local vm <close> = program{ out(0x80, 1) }
    local caught
    vm.ports:on(0x80, { write = function() error "deep" end })
    vm.ports:override(0x80, { write = function(_, _, _, next)
      caught = select(2, pcall(next, 1))
    end })
    local reason, info = run(vm)
    assert.equal("error", reason)
    assert.matches("deep", info.text)
    assert.matches("the handler beneath failed", caught)
  end)

  it("refuses to pass on what does not fit", function()
    local vm <close> = program{ out(0xe9, 0x61) }
    vm.ports:override(0xe9, { write = function(_, _, _, next)
      for _, bad in ipairs{ 256, -1, 1.5, "x", {} } do assert(not pcall(next, bad)) end
      next(0x41)
    end })
    local reason, info = run(vm)
    assert.equal("halt", reason, info.text)
    assert.equal("A", (vm.console:text()))
  end)

  it("lets coalesced ports be seen byte by byte, and back", function()
    local vm <close> = program{ out(0xe9, 0x61), out(0xe9, 0x62) }
    local write, calls = recorder()
    local hook = vm.ports:override(0xe9, { write = write })
    run(vm)
    assert.equal(2, #calls)
    hook:remove()
    vm:reset()
    run(vm)
    assert.equal("ab", (vm.console:text()))
  end)

  it("may be piled up until Lua's stack ends, which is an error and no crash", function()
    local vm <close> = program{ out(0x80, 1) }
    for _ = 1, 1000 do
      vm.ports:override(0x80, { write = function(_, v, _, next) next(v) end })
    end
    assert.equal("error", (run(vm)))
  end)
end)

describe("next, outside its access,", function()
  if support.without_kvm(pending) then return end

  it("is an error: after the handler, after the VM, after its collection", function()
    local kept
    do
      local vm <close> = program{ out(0xe9, 0x61) }
      vm.ports:override(0xe9, { write = function(_, _, _, next) kept = next end })
      run(vm)
      assert.error_matches(function() kept(1) end, "an access that is over")
      assert.equal("", (vm.console:text()))
    end
    assert.error_matches(function() kept(1) end, "an access that is over")
    collectgarbage()
    collectgarbage()
    assert.error_matches(function() kept(1) end, "an access that is over")
  end)
end)

describe("a handle", function()
  if support.without_kvm(pending) then return end

  it("counts, removes once, and keeps its count", function()
    local vm <close> = program{ out(0x80, 1), out(0x80, 2), into(0x1000, 0x80) }
    local hook = vm.ports:on(0x80, { read = function() return 0 end, write = function() end })
    assert.equal(0, hook.hits)
    run(vm)
    assert.equal(3, hook.hits)
    assert.equal("minikvm.handle (3 hits)", tostring(hook))
    hook:remove()
    hook:remove()
    assert.same({ 3, "minikvm.handle (3 hits, removed)" }, { hook.hits, tostring(hook) })
    vm:reset()
    run(vm)
    assert.equal(3, hook.hits)
    assert.equal(0xff, vm.memory:u8(0x1000))
  end)

  it("removes with <close>, and its ports are free again", function()
    local vm <close> = program{ out(0x80, 1) }
    local write, calls = recorder()
    for _ = 1, 3 do
      local hook <close> = vm.ports:on(0x80, 0x8f, { write = write })
      run(vm)
      vm:reset()
      assert.equal(1, hook.hits)
    end
    run(vm)
    assert.equal(3, #calls)
  end)

  it("may be dropped: the hook stays", function()
    local vm <close> = program{ out(0x80, 1) }
    local write, calls = recorder()
    vm.ports:on(0x80, { write = write })
    collectgarbage()
    collectgarbage()
    run(vm)
    assert.equal(1, #calls)
  end)

  it("removed from the middle leaves those above and beneath", function()
    local vm <close> = program{ out(0xe9, 0x61) }
    local hooks = {}
    for i = 1, 3 do
      hooks[i] = vm.ports:override(0xe9, { write = function(_, v, _, next) next(v + i) end })
    end
    hooks[2]:remove()
    run(vm)
    assert.equal(string.char(0x61 + 3 + 1), (vm.console:text()))
  end)

  it("has no other fields", function()
    local vm <close> = support.vm()
    local hook <close> = vm.ports:on(0x80, { write = print })
    assert.error_matches(function() return hook.hit end, "did you mean 'hits'")
    assert.error(function() hook.hits = 1 end)
  end)
end)

describe("a handler", function()
  if support.without_kvm(pending) then return end

  it("may remove itself", function()
    local vm <close> = program{ out(0x80, 1), out(0x80, 2) }
    local write, calls = recorder()
    local hook
    hook = vm.ports:on(0x80, { write = function(...)
      hook:remove()
      collectgarbage()
      write(...)
    end })
    assert.equal("halt", (run(vm)))
    assert.same({ { 0x80, 1, 1 } }, calls)
    assert.equal(1, hook.hits)
  end)

  it("may remove itself and still pass on", function()
    local vm <close> = program{ out(0xe9, 0x61), out(0xe9, 0x62) }
    local hook
    hook = vm.ports:override(0xe9, { write = function(_, value, _, next)
      hook:remove()
      next(value - 0x20)
    end })
    run(vm)
    assert.equal("Ab", (vm.console:text()))
  end)

  it("may remove the one beneath before it passes on", function()
    local vm <close> = program{ out(0xe9, 0x61) }
    local beneath = vm.ports:override(0xe9, { write = function() error "removed" end })
    vm.ports:override(0xe9, { write = function(_, value, _, next)
      beneath:remove()
      collectgarbage()
      next(value)
    end })
    local reason = run(vm)
    assert.same({ "halt", "a" }, { reason, (vm.console:text()) })
  end)

  it("may hook other ports, and its own", function()
    local vm <close> = program{ out(0x80, 1), out(0x81, 2), out(0x80, 3) }
    local inner, calls = recorder()
    vm.ports:on(0x80, { write = function(_, value)
      if value == 1 then
        vm.ports:on(0x81, { write = inner })
        vm.ports:override(0x80, { write = inner })
      end
    end })
    assert.equal("halt", (run(vm)))
    assert.same({ 2, 3 }, { calls[1][2], calls[2][2] })
  end)

  it("may add and remove hooks by the thousand", function()
    local vm <close> = support.code "b9 d0 07 e6 80 e2 fc f4" -- 2,000 times out 0x80
    local last
    vm.ports:on(0x80, { write = function()
      if last then last:remove() end
      last = vm.ports:on(0x90, 0x9f, { write = print })
    end })
    assert.equal("halt", (run(vm)))
  end)

  it("that raises ends the run with its message and a traceback", function()
    local vm <close> = program{ out(0x80, 1), out(0x81, 1) }
    local function fails() error "no such register" end
    local write, calls = recorder()
    vm.ports:on(0x80, { write = function() fails() end })
    vm.ports:on(0x81, { write = write })
    local reason, info = run(vm)
    assert.equal("error", reason)
    assert.matches("^spec/dev/ports_spec.lua:%d+: no such register$", info.text)
    assert.matches("no such register\nstack traceback:\n.*fails", info.traceback)
    assert.same({}, calls)
    assert.error_matches(function() vm:run() end, "reset")
    vm:reset()
    assert.equal("error", (run(vm)))
  end)

  it("may raise anything", function()
    local mean = setmetatable({}, { __tostring = function() error "not even that" end })
    local wrong = setmetatable({}, { __tostring = function() return 42 end })
    local named = setmetatable({}, { __tostring = function() return "a table that can talk" end })
    for _, case in ipairs{ { nil, "nil" }, { 42, "42" }, { "\0", "" }, { {}, "table" },
                           { named, "a table that can talk" }, { mean, "" }, { wrong, "" },
                           { ("x"):rep(100000), "xxx" }, { print, "function" } } do
      local vm <close> = program{ out(0x80, 1) }
      vm.ports:on(0x80, { write = function() error(case[1]) end })
      local reason, info = run(vm)
      assert.equal("error", reason)
      assert.matches(case[2], info.text)
    end
  end)

  it("that answers nonsense to an IN is told what is wrong", function()
    local mean = setmetatable({}, { __tostring = function() error "mean" end })
    for _, case in ipairs{ { nil, "nil" }, { 1.5, "number 1%.5" }, { "65", "string 65" },
                           { {}, "table" }, { true, "boolean" }, { mean, "table" },
                           { ("x"):rep(100000), "string xxx" }, { -1, "%-1: it does not fit" },
                           { 256, "256: it does not fit in 1 byte$" },
                           { math.mininteger, "%-9%d+: it does not fit" } } do
      local vm <close> = program{ into(0x1000, 0x80) }
      vm.ports:on(0x80, { read = function() return case[1] end })
      local reason, info = run(vm)
      assert.equal("error", reason)
      assert.matches("^read handler of port 0x80 answered " .. case[2], info.text)
    end
    local vm <close> = program{ into(0x1000, 0x80, 2) }
    vm.ports:on(0x80, { read = function() return 0x10000 end })
    assert.matches("2 bytes", select(2, run(vm)).text)
  end)

  it("may return more than one value, and anything from a write", function()
    local vm <close> = program{ into(0x1000, 0x80), out(0x80, 1) }
    vm.ports:on(0x80, { read = function() return 7, "x", nil end,
                        write = function() return "anything", {} end })
    assert.equal("halt", (run(vm)))
    assert.equal(7, vm.memory:u8(0x1000))
  end)

  it("that would wait for a VM is refused", function()
    local kvm = require "minikvm"
    local other <close> = support.code "f4"
    for what, block in pairs{
      run = function(vm) vm:run() end, wait = function(vm) vm:wait() end,
      ["other's run"] = function() other:run() end,
      ["kvm.wait"] = function(vm) kvm.wait{ vm } end,
    } do
      local vm <close> = program{ out(0x80, 1) }
      vm.ports:on(0x80, { write = function() block(vm) end })
      local reason, info = run(vm)
      assert.equal("error", reason, what)
      assert.matches("would block inside a handler", info.text, 1, true, what)
    end
    assert.equal("idle", other.state)
  end)

  it("may not load, start or reset the VM that waits for it", function()
    for _, method in ipairs{ "start", "reset", "load" } do
      local vm <close> = program{ out(0x80, 1) }
      vm.ports:on(0x80, { write = function() vm[method](vm, method == "load" and "x" or nil) end })
      local reason, info = run(vm)
      assert.equal("error", reason)
      assert.matches("is running", info.text)
    end
  end)

  it("may not yield out of itself", function()
    local vm <close> = program{ out(0x80, 1) }
    vm.ports:on(0x80, { write = function() coroutine.yield() end })
    local reason, info = run(vm)
    assert.equal("error", reason)
    assert.matches("yield", info.text)
  end)

  it("may close its own VM: the run ends, then the VM", function()
    local vm = program{ out(0x80, 1), out(0x80, 2) }
    local write, calls = recorder()
    vm.ports:on(0x80, { write = function(...)
      vm:close()
      write(...)
    end })
    local reason, info = run(vm)
    assert.same({ "stopped", "stopped", 1, "closed" }, { reason, info.reason, #calls, vm.state })
  end)

  it("may close its own VM when that has a thread of its own", function()
    local vm = program{ out(0x80, 1), out(0x80, 2) }
    vm.ports:on(0x80, { write = function() vm:close() end })
    vm:start()
    assert.equal("stopped", (vm:wait(20)))
    assert.equal("closed", vm.state)
    assert.error_matches(function() vm:wait() end, "closed")
  end)

  it("may close another VM, that spins or that waits for the Lua lock", function()
    for _, listing in ipairs{ "eb fe", "e6 80 eb fc" } do -- jmp $; or out 0x80 for ever
      local other = support.code(listing)
      other.ports:on(0x80, { write = function() end })
      other:start()
      local vm <close> = program{ out(0x80, 1) }
      vm.ports:on(0x80, { write = function() other:close() end })
      assert.equal("halt", (run(vm)))
      assert.equal("closed", other.state)
    end
  end)

  it("may start another VM, and stop it", function()
    local other <close> = support.code "eb fe"
    local vm <close> = program{ out(0x80, 1), out(0x80, 2) }
    vm.ports:on(0x80, { write = function(_, value)
      if value == 1 then other:start() else other:stop() end
    end })
    assert.equal("halt", (run(vm)))
    assert.equal("stopped", (other:wait(20)))
  end)

  it("survives a script that meddles with its coroutine", function()
    local vm <close> = program{ out(0x80, 1) }
    local co
    vm.ports:on(0x80, { write = function() co = coroutine.running() end })
    for _, meddle in ipairs{ coroutine.close, coroutine.resume, coroutine.status, print } do
      assert.equal("halt", (run(vm)))
      if meddle ~= print then meddle(co, print, 1) end
      assert.equal("dead", coroutine.status(co))
      vm:reset()
    end
  end)
end)

describe("a script that serves ports", function()
  if support.without_kvm(pending) then return end

  -- What the guest prints at port 0xe9 and what the script prints for port 0x80 is one stream.
  local function printer(parts, opts)
    local vm = support.program(parts, opts)
    vm.ports:on(0x80, { write = function(_, value) vm.console:write(string.char(value)) end })
    return vm
  end

  it("prints into its guest's stream, in order", function()
    local vm <close> = printer{ support.out(0xe9, 0x41), support.out(0x80, 0x42),
                                support.out(0xe9, 0x43), support.out(0x80, 0x0a) }
    local lines = {}
    vm.console:on_line(function(line, cpu) lines[#lines + 1] = cpu .. line end)
    assert.equal("halt", (vm:run()))
    assert.equal("ABC\n", (vm.console:text()))
    assert.same({ "0ABC" }, lines)
  end)

  it("is waited for, forbidden and limited like its guest", function()
    local parts = { support.out(0x80, 0x41), support.out(0x80, 0x42), support.out(0x80, 0x43) }
    local vm <close> = printer(parts)
    assert.equal(1, (vm.console:expect "AB"))
    assert.equal("AB", (vm.console:text()))
    local other <close> = printer(parts)
    other.console:forbid("B", { stop = true })
    assert.equal("forbidden", (other:run()))
    assert.equal("AB", (other.console:text()))
    local limited <close> = printer(parts)
    assert.equal("limit", (limited:run{ output = 2 }))
  end)

  it("ends its guest with a code", function()
    for _, code in ipairs{ 0, 7, 0xffffffff } do
      local vm <close> = support.program{ support.out(0x80, 1), support.out(0xe9, 0x41) }
      vm.ports:on(0x80, { write = function() vm:exit(code) end })
      local reason, info = vm:run()
      assert.equal("exit", reason)
      assert.equal(code, info.code)
      assert.equal("", (vm.console:text())) -- nothing of the guest ran after the access
    end
  end)

  it("does both in its handlers only", function()
    local vm <close> = support.program{ support.out(0x80, 1) }
    local other <close> = support.vm()
    assert.error_matches(function() vm.console:write "x" end, "only a handler of the vm prints")
    assert.error_matches(function() vm:exit(1) end, "only a handler of the vm ends it")
    local why = {}
    vm.ports:on(0x80, { write = function()
      for _, fn in ipairs{ function() other.console:write "x" end, function() other:exit(1) end,
                           function() vm:exit(-1) end, function() vm:exit(1 << 32) end } do
        why[#why + 1] = select(2, pcall(fn))
      end
    end })
    assert.equal("halt", (vm:run()))
    assert.matches("console:write: only a handler", why[1])
    assert.matches("vm:exit: only a handler", why[2])
    assert.matches("0 to 0xffffffff", why[3])
    assert.matches("0 to 0xffffffff", why[4])
  end)
end)
