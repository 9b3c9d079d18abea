-- Snapshots of a VM that is paused (vm:pause): taking, restoring, new VMs. Right is what the guest
-- counts: it goes on from where the snapshot was taken, and nowhere else.

local kvm = require "minikvm"
local support = require "support.guest"
local process = require "support.process"

local COUNT <const> = "40 eb fd" -- inc eax; jmp to it

describe("a paused VM", function()
  if support.without_kvm(pending) then return end

  local function counting(cpus)
    local vm = support.vm{ mode = "protected", cpus = cpus }
    vm:load({ bytes = support.bytes(COUNT) }, { cpu = "all" })
    return vm:start()
  end

  ---Lets it run until all vCPUs have counted on, and pauses it.
  local function go_on(vm, cpus)
    local before = {}
    for i = 0, cpus - 1 do before[i] = vm.cpu[i].eax end
    process.await(function()
      vm:resume()
      vm:pause()
      for i = 0, cpus - 1 do
        if vm.cpu[i].eax == before[i] then return false end
      end
      return true
    end)
  end

  it("can be snapshotted, restored, and be the parent of others", function()
    for cpus = 1, 3, 2 do
      local vm <close> = counting(cpus)
      vm:pause()
      go_on(vm, cpus)
      local snap <close> = assert(vm:snapshot())
      local counts = {}
      for i = 0, cpus - 1 do counts[i] = vm.cpu[i].eax end
      for _ = 1, 2 do
        go_on(vm, cpus)
        assert.equal(vm, vm:restore(snap))
        assert.equal("paused", vm.state)
        for i = 0, cpus - 1 do assert.equal(counts[i], vm.cpu[i].eax) end
      end
      local other <close> = assert(snap:vm{ echo = false })
      for i = 0, cpus - 1 do assert.equal(counts[i], other.cpu[i].eax) end
      assert.equal("stopped", (other:start():stop()))
      assert.equal("stopped", (vm:stop()))
      assert.equal(vm, vm:restore(snap)) -- also when it does not run any more
      for i = 0, cpus - 1 do assert.equal(counts[i], vm.cpu[i].eax) end
    end
  end)

  it("is not snapshotted in the middle of an access, nor restored when a cpu has ended", function()
    local vm <close> = support.vm{ mode = "protected", cpus = 2 }
    vm:load{ bytes = support.bytes "e4 80 eb fc" } -- in al, 0x80; again
    vm:load({ bytes = support.bytes(COUNT) }, { cpu = 1, at = 0x2000 })
    local entered, go = false, false
    vm.ports:on(0x80, { read = function()
      entered = true
      while not go do kvm.sleep(0.002) end
      return 0
    end })
    vm:start()
    process.await(function() return entered end)
    vm:pause()
    assert.error_matches(function() vm:snapshot() end, "is running: stop it first")
    go = true
    assert.equal("stopped", (vm:stop()))

    local two <close> = support.vm{ mode = "protected", cpus = 2 }
    two:load{ bytes = support.bytes "f4" }
    two:load({ bytes = support.bytes(COUNT) }, { cpu = 1, at = 0x2000 })
    two:start()
    two:pause()
    local snap <close> = assert(two:snapshot())
    process.await(function()
      two:resume()
      kvm.sleep(0.001)
      two:pause()
      local ok, why = pcall(two.restore, two, snap)
      return not ok and why:find("a cpu of it has come to its end", 1, true)
    end)
    two:stop()
    assert.equal(two, two:restore(snap))
  end)
end)
