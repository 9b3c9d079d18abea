-- A handler that waits: its guest stays at the access, everything else goes on.

local kvm = require "minikvm"
local support = require "support.guest"
local process = require "support.process"

local out, into, program = support.out, support.into, support.program

describe("a handler that waits", function()
  if support.without_kvm(pending) then return end

  it("lets time pass; the guest is answered after that", function()
    local vm <close> = program{ into(0x1000, 0x80) }
    local took
    vm.ports:on(0x80, { read = function()
      took = process.took(function() kvm.sleep(0.05) end)
      return 7
    end })
    assert.equal("halt", (support.run(vm)))
    assert.is_true(took >= 0.05)
    assert.equal(7, vm.memory:u8(0x1000))
  end)

  it("does not keep the script from its work, nor handlers of other VMs", function()
    local w <close> = kvm.worker(function(me) me:send(me:receive()) end)
    local first <close> = program{ into(0x1000, 0x80) }
    local second <close> = program{ out(0x81, 1) }
    local waits, value = false, nil
    first.ports:on(0x80, { read = function()
      waits = true
      return (w:receive())
    end })
    second.ports:on(0x81, { write = function(_, n)
      value = n
      w:send(42)
    end })
    first:start()
    process.await(function() return waits end)
    assert.equal("halt", (support.run(second)))
    assert.equal("halt", (first:wait(20)))
    assert.same({ 1, 42 }, { value, first.memory:u8(0x1000) })
  end)

  it("is served by timers of its VM", function()
    local vm <close> = program{ into(0x1000, 0x80) }
    vm.ports:on(0x80, { read = function() return vm.console:read():byte() end })
    vm.clock:after(0.001, function() vm.console:send "k" end)
    assert.equal("halt", (support.run(vm)))
    assert.equal(("k"):byte(), vm.memory:u8(0x1000))
  end)

  it("reads input that comes later, several bytes of it, and its end", function()
    local vm <close> = program{ out(0x80, 1) }
    local got, waits = {}, false
    vm.ports:on(0x80, { write = function()
      got[1] = select(3, vm.console:read(1, 0))
      got[2] = select(3, vm.console:read(1, 0.001))
      waits = true
      got[3] = vm.console:read(3)
      got[4] = vm.console:read(9)
      got[5] = select(3, vm.console:read())
    end })
    vm:start()
    process.await(function() return waits end)
    vm.console:send "abcd"
    vm.console:eof()
    assert.equal("halt", (vm:wait(20)))
    assert.same({ "ETIMEDOUT", "ETIMEDOUT", "abc", "d", "ENODATA" }, got)
  end)

  it("may wait inside a coroutine of its own", function()
    local vm <close> = program{ into(0x1000, 0x80) }
    local co = coroutine.wrap(function()
      while true do
        kvm.sleep(0.001)
        coroutine.yield(5)
      end
    end)
    vm.ports:on(0x80, { read = function() return co() + co() end })
    assert.equal("halt", (support.run(vm)))
    assert.equal(10, vm.memory:u8(0x1000))
  end)

  it("is not ended by its limit, which is one on its own work", function()
    local vm <close> = program({ into(0x1000, 0x80) }, { limits = { handler = 0.02 } })
    vm.ports:on(0x80, { read = function()
      kvm.sleep(0.1)
      return 3
    end })
    local reason, info = support.run(vm)
    assert.equal("halt", reason, info.text)
    if process.without_signals(pending) then return end
    vm:reset()
    vm.ports:override(0x80, { read = function()
      kvm.sleep(0.1)
      while true do end
    end })
    reason, info = support.run(vm)
    assert.equal("error", reason)
    assert.matches("its limit is 0.02 s", info.text)
  end)

  for name, wait in pairs{
    sleep = function() kvm.sleep(1000) end,
    receive = function(_, w) w:receive() end,
    read = function(vm) vm.console:read() end,
    ["sleep behind pcall"] = function() while true do pcall(kvm.sleep, 1000) end end,
  } do
    it(("is ended by stop, deadline and close: %s"):format(name), function()
      local w <close> = kvm.worker(function(me) me:receive() end)
      for how, finish in pairs{
        stopped = function(vm) return vm:stop() end,
        deadline = function(vm) return vm:wait(20) end,
        closed = function(vm)
          vm:close()
          return "closed"
        end,
      } do
        local vm <close> = program{ out(0x80, 1) }
        local waits
        vm.ports:on(0x80, { write = function()
          waits = true
          wait(vm, w)
          waits = "over"
        end })
        vm:start{ deadline = how == "deadline" and 0.05 or nil }
        if how ~= "deadline" then process.await(function() return waits end) end
        local seconds = process.took(function() assert.equal(how, (finish(vm))) end)
        assert.is_true(seconds < process.SOON)
        assert.not_equal("over", waits)
      end
    end)
  end

  it("says that the deadline ended it", function()
    local vm <close> = program{ out(0x80, 1) }
    vm.ports:on(0x80, { write = function() kvm.sleep(1000) end })
    local reason, info = vm:run{ deadline = 0.05 }
    assert.equal("deadline", reason)
    assert.matches(" was ended after %d+%.%d s: the run's deadline passed; ", info.text)
  end)

  it("is ended when its VM is garbage", function()
    local waits = false
    do
      local vm = program{ out(0x80, 1) }
      vm.ports:on(0x80, { write = function()
        waits = true
        kvm.sleep(1000)
      end })
      vm:start()
    end
    process.await(function() return waits end)
    local threads = process.threads()
    collectgarbage()
    collectgarbage()
    process.await(function() return process.threads() < threads end)
  end)

  it("keeps what it serves, though doorbells ring and hooks are removed meanwhile", function()
    local vm <close> = support.vm{ cpus = 2 }
    local waits, rung, value = false, false, nil
    vm.ports:on(0x80, { write = function(_, n) value = n end })
    local above <close> = vm.ports:override(0x80, { write = function(_, n, _, next)
      waits = true
      process.await(function() return rung end)
      for port = 0x1000, 0x1100 do
        vm.ports:on(port, { read = function() return 0 end }):remove()
      end
      next(n + 1)
    end })
    vm.ports:doorbell(0x90, 1, function()
      above:remove()
      rung = true
    end)
    vm:load{ bytes = out(0x80, 1) .. "\xf4" }
    vm:load({ bytes = into(0x1000, 0x81) .. out(0x90, 1) .. "\xf4" }, { cpu = 1 })
    vm.ports:on(0x81, { read = function() -- the second vCPU goes on when the first one waits
      process.await(function() return waits end)
      return 0
    end })
    assert.equal("halt", (support.run(vm)))
    assert.equal(2, value)
  end)

  it("can be paused: what it waits for does not come nearer", function()
    local vm <close> = program{ into(0x1000, 0x80) }
    local from, took
    vm.ports:on(0x80, { read = function()
      from = true
      took = process.took(function() kvm.sleep(0.05) end)
      return 1
    end })
    vm:start()
    process.await(function() return from end)
    local paused = process.took(function()
      assert(vm:pause())
      assert.equal("paused", vm.state)
      kvm.sleep(0.1)
      assert.is_nil(took)
      vm:resume()
    end)
    assert.equal("halt", (vm:wait(20)))
    assert.is_true(paused >= 0.1 and took >= 0.15)
  end)

  it("keeps its vCPU's registers to itself", function()
    local vm <close> = program{ out(0x80, 1) }
    local waits = false
    vm.ports:on(0x80, { write = function()
      waits = vm.cpu[0].rip ~= nil
      kvm.sleep(1000)
    end })
    vm:start()
    process.await(function() return waits end)
    assert.error_matches(function() return vm.cpu[0].rip end, "is running")
  end)

  it("fails with a timer that fails meanwhile: that is what the run reports", function()
    local vm <close> = program{ out(0x80, 1) }
    vm.ports:on(0x80, { write = function() kvm.sleep(1000) end })
    vm.clock:after(0.001, function() error "the timer" end)
    local reason, info = support.run(vm)
    assert.equal("error", reason)
    assert.matches("the timer", info.text)
  end)

  it("can be one of a timer, of a line, and of the last line", function()
    local vm <close> = support.guest "real/hello"
    local lines, ticks = {}, 0
    vm.console:on_line(function(line)
      kvm.sleep(0.001)
      lines[#lines + 1] = line
    end)
    vm.clock:after(0, function()
      kvm.sleep(0.001)
      ticks = ticks + 1
    end)
    assert.equal("halt", (support.run(vm)))
    assert.is_true(#lines > 0)
    assert.equal(1, ticks)
  end)
end)
