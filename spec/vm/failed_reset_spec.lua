-- A reset or a restore that fails half-way leaves a VM that does not run, says why, and can be used
-- and closed. Descriptors run out by setrlimit (man 2 prlimit), which a helper process does,
-- because none can be started then.

local kvm = require "minikvm"
local support = require "support.guest"

local function start_helper()
  local flag = os.tmpname()
  local pid = assert(io.open "/proc/self/stat"):read "n"
  local shell = assert(io.popen("sh", "w"))
  local limit = select(3,
                       assert(io.open "/proc/self/limits"):read "a":find "Max open files%s+(%d+)")
  return function(count)
    os.remove(flag .. ".set")
    shell:write(("prlimit --pid %d --nofile=%s: && mv %s %s.set && : > %s\n"):format(pid,
      count or limit, flag, flag, flag)):flush()
    repeat kvm.sleep(0.001) until os.rename(flag .. ".set", flag .. ".set")
  end, function()
    shell:close()
    os.remove(flag)
    os.remove(flag .. ".set")
  end
end

---Everything that reaches for a vCPU.
local function use_all(vm)
  for _, use in ipairs{
    function() return vm.cpu[0].eax end, function() vm.cpu[0].eax = 1 end,
    function() return vm.cpu[0].cr3 end, function() return vm.cpu[0]:regs() end,
    function() return vm.cpu[0]:walk(0) end, function() vm.cpu[0]:interrupt(8) end,
    function() vm.cpu[0]:nmi() end, function() return vm:snapshot() end,
    function() return vm:fork() end, function() return vm:load{ bytes = "\xf4" } end,
    function() vm.msrs:tap(0x10, print):remove() end, function() vm.console:send "x" end,
    function() vm.cpuid:vendor "ABCDEFGHIJKL" end, function() return vm:stats() end,
    function() vm.memory:write(0, "x") end, function() vm:stop() end,
  } do
    pcall(use)
  end
end

describe("a vm:reset() that fails half-way", function()
  if support.without_kvm(pending) then return end
  if not os.execute "prlimit --version >/dev/null 2>&1" then return pending "needs prlimit" end

  it("leaves a vm that says why it does not run, until it is reset", function()
    local set_limit, finish = start_helper()
    local failed = 0
    for count = 3, 40 do
      local vm <close> = support.program({ support.out(0xe9, 0x61) }, { cpus = 2, memory = "1M" })
      assert.equal("halt", (support.run(vm)))
      set_limit(count)
      local done, why = vm:reset()
      local ran, report = pcall(vm.run, vm)
      if not done then use_all(vm) end
      set_limit()
      if not done then
        failed = failed + 1
        assert.is_false(ran)
        assert.matches("ended by error: reset%(%) it before it can run again %(reset failed: ",
                       report)
        assert.matches("Too many open files", why)
        assert.error_matches(function() return vm.cpu[0].eax end,
                             "has no vCPUs, because its reset failed")
        assert.error_matches(function() return vm:snapshot() end,
                             "has no vCPUs, because its reset failed")
        if count % 2 == 0 then -- the others are closed as they are
          assert(vm:reset())
          assert.equal("halt", (support.run(vm)))
        end
      end
    end
    finish()
    assert.is_true(failed > 2, failed .. " resets failed")
  end)
end)

describe("a vm:restore()", function()
  if support.without_kvm(pending) then return end

  it("whose device wants to run the vm meanwhile fails, and the vm can be closed", function()
    for _, method in ipairs{ "start", "run" } do
      local vm <close> = support.code "eb fe"
      local said
      vm:attach(kvm.device{ name = "d", size = 1, read = function() return 0 end,
        save = function() return 1 end,
        load = function(d)
          said = select(2, pcall(d.vm[method], d.vm))
          error "no"
        end }, { ports = 0x300 })
      local snap <close> = assert(vm:snapshot())
      local done, why = vm:restore(snap)
      assert.is_nil(done)
      assert.matches("restoring its devices: .*no$", why)
      assert.matches("is being reset or restored: start it when reset%(%) or "
                     .. "restore%(%) has returned", said)
      assert.equal("ended", vm.state)
      assert.matches("restore failed", (select(2, pcall(vm.run, vm))))
    end
  end)
end)

describe("a vm:reset() whose device fails", function()
  if support.without_kvm(pending) then return end

  it("raises, and the vm, which the device wanted to run, does not run until it is reset",
     function()
    local vm <close> = support.program{ support.out(0xe9, 0x61) }
    local bad, said = false, nil
    vm:attach(kvm.device{ name = "d", size = 1, read = function() return 0 end,
      reset = function(d)
        if not bad then return end
        said = select(2, pcall(d.vm.start, d.vm))
        error "no"
      end }, { ports = 0x300 })
    assert.equal("halt", (support.run(vm)))
    bad = true
    assert.error_matches(function() vm:reset() end, "no$")
    assert.matches("is being reset or restored", said)
    assert.matches("reset failed: .*no", (select(2, pcall(vm.run, vm))))
    bad = false
    assert(vm:reset())
    assert.equal("halt", (support.run(vm)))
  end)
end)
