-- Several VMs at once: threads, the Lua lock, garbage collection, and that nothing is left over.

local kvm = require "minikvm"
local support = require "support.guest"
local process = require "support.process"

local out, program, await = support.out, support.program, process.await

local SPIN = "eb fe"           -- jmp $
local OUT_FOR_EVER = "e6 80 eb fc" -- out 0x80, al; jmp to it

describe("several VMs", function()
  if support.without_kvm(pending) then return end

  it("run side by side, and kvm.wait tells how each ended", function()
    local vms = {}
    for i, name in ipairs{ "counter", "hello", "exit42", "triple", "fibonacci" } do
      vms[i] = support.guest("real/" .. name, { name = name }):start()
    end
    local results = kvm.wait(vms)
    local reasons = {}
    for i, result in ipairs(results) do
      assert.equal(vms[i], result.vm)
      assert.equal(result.reason, result.info.reason)
      reasons[i] = result.reason
      result.vm:close()
    end
    assert.same({ "halt", "halt", "exit", "shutdown", "halt" }, reasons)
    assert.equal(42, results[3].info.code)
  end)

  it("tell what their timers have left while these fire on another thread", function()
    local vm <close> = support.code(SPIN)
    local fired = 0
    local timer = vm.clock:every(1e-5, function() fired = fired + 1 end)
    vm:start()
    await(function()
      local left = timer.left
      assert.is_true(left >= 0 and left < 1)
      return fired >= 100
    end)
    vm:stop()
  end)

  it("run at the same time: each may wait for the other", function()
    -- wait until the IN gives 1; hlt
    local WAITS = "e6 80 e4 80 3c 01 75 f8 f4"
    local one <close> = support.code(WAITS, { name = "one" })
    local two <close> = support.code(WAITS, { name = "two" })
    local seen = {}
    for vm, other in pairs{ [one] = two, [two] = one } do
      vm.ports:on(0x80, {
        write = function() seen[vm.name] = true end,
        read = function() return seen[other.name] and 1 or 0 end,
      })
    end
    for _, result in ipairs(kvm.wait({ one:start(), two:start() }, { timeout = 20 })) do
      assert.equal("halt", result.reason)
    end
  end)

  it("that run on after kvm.wait's timeout have no reason yet", function()
    local spin <close> = support.code(SPIN):start()
    local halt <close> = support.code("f4"):start()
    halt:wait()
    local results = kvm.wait({ spin, halt }, { timeout = 0.01 })
    assert.is_nil(results[1].reason)
    assert.matches("still running", results[1].info)
    assert.equal("halt", results[2].reason)
    assert.error_matches(function() kvm.wait() end, "list of vms")
    assert.error_matches(function() kvm.wait({}, { timeot = 1 }) end, "did you mean 'timeout'")
    assert.error(function() kvm.wait{ 1 } end)
    assert.same({}, kvm.wait{})
  end)

  it("never have their handlers in parallel", function()
    local inside, calls, vms = false, 0, {}
    local function handler()
      assert(not inside)
      inside = true
      for i = 1, 200 do calls = calls + (i == 200 and 1 or 0) end
      if calls % 50 == 0 then collectgarbage "step" end
      inside = false
    end
    for i = 1, 4 do
      local vm = support.code("b9 64 00 e6 80 e2 fc f4", { cpus = i }) -- 100 times out 0x80
      vm.ports:on(0x80, { write = handler })
      vms[i] = vm:start()
    end
    for _, result in ipairs(kvm.wait(vms)) do
      assert.equal("halt", result.reason, result.info.text)
      result.vm:close()
    end
    assert.equal(1000, calls)
  end)

  it("have no handler run while the script runs", function()
    local calls = 0
    local vm <close> = support.code(OUT_FOR_EVER)
    vm.ports:on(0x80, { write = function() calls = calls + 1 end })
    vm:start()
    await(function() return calls > 0 end)
    local before = calls
    for _ = 1, 300000 do assert(calls == before) end
    await(function() return calls > before end)
  end)

  it("let their handlers use what the script has, errors included", function()
    local results, vms = {}, {}
    for i = 1, 8 do
      local vm = program({ out(0x80, i) }, { name = "vm" .. i })
      vm.ports:on(0x80, { write = function(_, value)
        results[value] = ("%s got %d"):format(vm.name, value)
        if value % 2 == 0 then error(("x"):rep(value)) end
      end })
      vms[i] = vm:start()
    end
    for i, result in ipairs(kvm.wait(vms)) do
      assert.equal(i % 2 == 0 and "error" or "halt", result.reason)
      assert.equal(("vm%d got %d"):format(i, i), results[i])
      result.vm:close()
    end
  end)

  it("may stop one another from handlers", function()
    local spin <close> = support.code(SPIN):start()
    local vm <close> = program{ out(0x80, 1) }
    vm.ports:on(0x80, { write = function() spin:stop() end })
    assert.equal("halt", (vm:start():wait(20)))
    assert.equal("stopped", (spin:wait(20)))
  end)

  it("can be closed while their handlers wait for the Lua lock", function()
    for _ = 1, 20 do
      local vm = support.code(OUT_FOR_EVER, { cpus = 4 })
      local called = false
      vm.ports:on(0x80, { write = function() called = true end })
      vm:start()
      await(function() return called end)
      vm:close()
    end
  end)

  it("can be started and stopped by the dozen, over and over", function()
    local vms = {}
    for i = 1, 12 do vms[i] = support.code(SPIN) end
    for _ = 1, 5 do
      for _, vm in ipairs(vms) do vm:start() end
      for _, vm in ipairs(vms) do assert.equal("stopped", (vm:stop())) end
    end
    for _, vm in ipairs(vms) do vm:close() end
  end)
end)

describe("hooks that come and go while four cpus run", function()
  if support.without_kvm(pending) then return end

  it("answer or do not, and never crash", function()
    local vm <close> = support.code("e6 80 e4 80 e6 e9 eb f8", { cpus = 4 }) -- out, in, out 0xe9
    local calls = 0
    local counting = { write = function() calls = calls + 1 end, read = function() return 65 end }
    vm:start()
    for _ = 1, 100 do
      local on = vm.ports:on(0x80, counting)
      local over = vm.ports:override(0xe9, { write = function(_, v, _, next) next(v) end })
      kvm.sleep(0)
      on:remove()
      over:remove()
    end
    local reason, info = vm:stop()
    assert.equal("stopped", reason, info.text)
  end)
end)

describe("garbage collection", function()
  if support.without_kvm(pending) then return end

  local function collect()
    collectgarbage()
    collectgarbage()
  end

  local tasks = process.threads

  it("ends a running VM that nobody knows any more", function()
    collect()
    local _ <close> = support.vm() -- the I/O thread is there while any VM is
    local before = tasks()
    do
      local vm = support.code(SPIN, { cpus = 4 })
      vm:start()
    end
    assert.equal(before + 4, tasks())
    collect()
    await(function() return tasks() == before end)
  end)

  it("leaves a VM alone that is known through a child", function()
    local memory = support.code(SPIN):start().memory
    collect()
    assert.equal(0xeb, memory:u8(0))
    local cpu = support.vm().cpu[0]
    collect()
    assert.equal(0, cpu.rax)
    local handle = support.vm().ports:on(0x80, { read = print })
    collect()
    handle:remove()
  end)

  it("ends a VM whose handlers refer to it", function()
    collect()
    local before = tasks()
    for _ = 1, 10 do
      local vm = support.code(OUT_FOR_EVER)
      vm.ports:on(0x80, { write = function() return vm end })
      vm.console:on_line(function() return vm end)
      vm.hypercalls:define(0x42, "x", function() return vm end)
      vm:start()
    end
    collect()
    await(function() return tasks() == before end)
  end)

  it("may happen inside the handler of the VM that is garbage", function()
    collect()
    local before = tasks()
    local calls = 0
    for _ = 1, 3 do
      local vm = support.code(OUT_FOR_EVER)
      vm.ports:on(0x80, { write = function()
        calls = calls + 1
        collectgarbage()
      end })
      vm:start()
      await(function() return calls > 0 end)
    end
    await(function()
      collectgarbage()
      return tasks() == before
    end)
  end)

  it("may happen at every step of handlers that allocate", function()
    collectgarbage "generational"
    local vm <close> = support.code "b9 f4 01 e6 80 e2 fc f4" -- 500 times out 0x80
    local list = {}
    vm.ports:on(0x80, { write = function(port, value)
      list[#list + 1] = { ("%d"):format(port), value }
      if #list % 50 == 0 then support.code "f4":start() end
    end })
    assert.equal("halt", (vm:start():wait(60)))
    collectgarbage "incremental"
    assert.equal(500, #list)
  end)
end)

describe("nothing is left", function()
  if support.without_kvm(pending) then return end

  it("of 1,000 VMs that were created, run and closed", function()
    local function round(i)
      local vm <close> = program{ out(0x80, i & 0xff), out(0xe9, 65) }
      vm.ports:on(0x80, { write = function() end })
      vm.console:on_line(function() end)
      if i % 4 == 0 then vm:start():wait() else vm:run() end
      if i % 8 == 0 then vm:reset() end
    end
    local function rounds(n)
      for i = 1, n do
        round(i)
        if i % 50 == 0 then collectgarbage() end -- else the heap's size is chance
      end
      collectgarbage()
      return { fds = process.descriptors(), threads = process.threads() },
             process.resident(), collectgarbage "count"
    end
    local total = process.sanitized() and 200 or 1000
    local counts, resident, lua = rounds(total // 2)
    local counts_after, resident_after, lua_after = rounds(total // 2)
    assert.same(counts, counts_after)
    assert.is_true(lua_after - lua < 16, lua_after - lua .. " KiB of Lua")
    if not process.sanitized() then
      -- malloc() grows by steps of more than 1 MiB, once; a page of each VM would be 2 MiB
      assert.is_true(resident_after - resident < 2000, resident_after - resident .. " KiB")
    end
  end)

  it("of VMs that could not be made or loaded", function()
    local fds = process.descriptors()
    for _ = 1, 50 do
      assert.is_false((pcall(kvm.vm, { memory = "65G" })))
      local vm <close> = support.vm()
      vm:load "/no/such"
      vm:load "/tmp"
      vm:load({ bytes = "x" }, { entry = 0x10000 })
    end
    assert.equal(fds, process.descriptors())
  end)

  it("when descriptors run out: the failure has a name", function()
    local output = process.run([[
      local vms, why, code = {}
      for i = 1, 100 do
        vms[i], why, code = kvm.vm{ echo = false }
        if not vms[i] then break end
      end
      print(#vms < 100, code, why)
      vms = nil
      collectgarbage()
      print(#kvm.vm().memory)
    ]], "sh -c 'ulimit -n 24; exec \"$0\" \"$@\"'")
    assert.matches("true\tEMFILE\tcannot create", output)
    assert.matches("1048576\n$", output)
  end)
end)

describe("256 VMs", function()
  if support.without_kvm(pending) then return end

  it("live at once, and cost little while they idle", function()
    collectgarbage()
    local fds, resident = process.descriptors(), process.resident()
    local vms = {}
    for i = 1, 256 do
      vms[i] = support.guest("real/echo", { name = "vm" .. i }):start()
    end
    for i, vm in ipairs(vms) do vm.console:send("hello " .. i) end
    for i, vm in ipairs(vms) do
      local want = "hello " .. i
      await(function() return vm.console:text() == want end, 60)
    end
    local each = (process.resident() - resident) / 256
    for _, vm in ipairs(vms) do vm.console:eof() end
    for _, result in ipairs(kvm.wait(vms)) do
      assert.equal("exit", result.reason)
      result.vm:close()
    end
    assert.equal(fds, process.descriptors())
    if not process.sanitized() then assert.is_true(each < 150, each .. " KiB each") end
  end)
end)

-- A kick that came while a thread was being taken down deadlocked in malloc(), which the first use
-- of a thread's variable in a shared object calls.
describe("what the kick's handler uses", function()
  it("needs no memory at its first use", function()
    local pipe = assert(io.popen "nm -D ./minikvm.so")
    local symbols = pipe:read "a"
    pipe:close()
    assert.matches("luaopen_minikvm", symbols)
    assert.is_nil(symbols:find("__tls_get_addr", 1, true))
  end)
end)
