-- VMs of up to 64 vCPUs. What each is told of itself: Intel SDM volume 2, CPUID, leaf 1 (initial
-- APIC ID in EBX bits 31 to 24) and leaf 0xb (x2APIC ID in EDX); its number and its stack:
-- docs/abi.md.

local kvm = require "minikvm"
local support = require "support.guest"

local MOST <const> = 64
local TABLE <const> = 0x200000 -- of what the vCPUs report, 16 bytes each
local STACK <const> = 0x4000

---mov eax, 1; cpuid; shr ebx, 24; mov [TABLE + edi * 8], ebx; mov [TABLE + 4 + edi * 8], edi;
---push edi; hlt: the same bytes in 32- and 64-bit code
local REPORT <const> = "b8 01000000 0fa2 c1eb18 891cfd 00002000 893cfd 04002000 57 f4"
---mov eax, 1; cpuid; shr ebx, 24; mov [0x1000], ebx; mov [0x1004], cs; mov [0x1006], sp; hlt
local REPORT_REAL <const> = "66b8 01000000 0fa2 66c1eb18 66891e 0010 8c0e 0410 8926 0610 f4"
---lock inc dword [0x3000 + edi * 4]; jmp back, in 32- and 64-bit code; real mode: inc [0x1000]
local COUNT <const> = "f0 ff04bd 00300000 eb f6"
local COUNT_REAL <const> = "66 ff06 0010 eb f9"

---A VM of so many vCPUs that run the same bytes.
local function all(listing, opts)
  local vm = support.vm(opts)
  assert(vm:load({ bytes = support.bytes(listing) }, { cpu = "all" }))
  return vm
end

local function halts(vm)
  local reason, info = support.run(vm)
  assert.equal("halt", reason, info.text)
  return info
end

---What the vCPUs found out in mode long or protected: their APIC ids, numbers, and stacks.
local function check_reports(vm, cpus)
  local top = vm.cpu[0].rsp
  for cpu = 0, cpus - 1 do
    local at = TABLE + 8 * cpu
    assert.same({ cpu, cpu }, { vm.memory:u32(at), vm.memory:u32(at + 4) })
    assert.equal(top - cpu * STACK, vm.cpu[cpu].rsp)
    assert.equal(cpu, vm.memory:u32(vm.cpu[cpu].rsp))
  end
end

local function window(cpus)
  local size = 0x40000
  while size * cpus > 1 << 20 do size = size // 2 end
  return size
end

local function refused(pattern, ...)
  local ok, why = pcall(...)
  assert.is_false(ok)
  assert.matches(pattern, why)
  assert.matches("cpus_spec.lua:%d+:", why) -- the script's line is blamed
end

---Waits until every vCPU has counted further than it had.
local function count_on(cpus, at)
  local seen = {}
  for cpu = 0, cpus - 1 do seen[cpu] = at(cpu) end
  local deadline = os.time() + 60
  for cpu = 0, cpus - 1 do
    while at(cpu) == seen[cpu] do
      assert.is_true(os.time() < deadline, "cpu " .. cpu .. " does not run")
      kvm.sleep(0.001)
    end
  end
end

describe("a VM of many vCPUs", function()
  if support.without_kvm(pending) then return end

  it("tells each its APIC id, in real mode in a window of its own", function()
    for _, cpus in ipairs{ 1, 2, 4, 5, 16, 33, MOST } do
      local vm <close> = all(REPORT_REAL, { cpus = cpus })
      local info = halts(vm)
      assert.equal(cpus, info.exits)
      for cpu = 0, cpus - 1 do
        local at = cpu * window(cpus)
        assert.same({ cpu, at >> 4, math.min(0xfff0, window(cpus) - 16) },
                    { vm.memory:u32(at + 0x1000), vm.memory:u16(at + 0x1004),
                      vm.memory:u16(at + 0x1006) })
      end
    end
  end)

  for _, mode in ipairs{ "protected", "long" } do
    it("tells each its number, in mode " .. mode .. " with a stack of its own", function()
      for _, cpus in ipairs{ 1, 3, MOST } do
        local vm <close> = all(REPORT, { cpus = cpus, mode = mode })
        halts(vm)
        check_reports(vm, cpus)
      end
    end)
  end

  it("runs 32-bit paging on all of them, where KVM does", function()
    if support.host.paging32 == "native" then
      local vm <close> = all(REPORT, { cpus = 8, mode = "paged" })
      halts(vm)
      return check_reports(vm, 8)
    end
    local vm, why, code = kvm.vm{ mode = "paged", cpus = 8 }
    assert.same({ nil, "EOPNOTSUPP" }, { vm, code })
    assert.matches("does not run 32%-bit paging", why)
  end)

  it("grows by one vCPU after the other, to be loaded as it grows", function()
    local vm <close> = support.vm{ mode = "long" }
    assert(vm:load({ bytes = support.bytes(REPORT) }))
    for cpu = 1, MOST - 1 do
      local added = assert(vm:add_cpu())
      assert.is_true(rawequal(vm.cpu[cpu], added))
      assert(vm:load({ bytes = support.bytes(REPORT) }, { cpu = cpu }))
    end
    refused("cpus = 65: a VM has 1 to 64", function() vm:add_cpu() end)
    assert.is_nil(vm.cpu[MOST])
    halts(vm)
    check_reports(vm, MOST)
    vm:reset()
    halts(vm)
    check_reports(vm, MOST)
  end)

  it("has its mode by its image, as one of a single vCPU", function()
    local vm <close> = support.vm{ cpus = 2 }
    assert(vm:load("guests/build/long/hello.elf", { cpu = "all" }))
    assert.equal("long", vm.mode)
    assert.equal(1, vm.cpu[1].rdi)
    assert.equal(vm.cpu[0].rsp - STACK, vm.cpu[1].rsp)
  end)

  it("is the same in a snapshot, its file, a fork and after a restore", function()
    local path = os.tmpname()
    local vm <close> = all(REPORT, { cpus = MOST, mode = "long" })
    local before <close> = assert(vm:snapshot())
    halts(vm)
    local after <close> = assert(vm:snapshot())
    assert(after:save(path))
    local read <close> = assert(kvm.load_snapshot(path))
    os.remove(path)
    assert.equal(MOST, read.cpus)
    for _, snap in ipairs{ after, read } do
      local fork <close> = assert(snap:vm{ echo = false })
      check_reports(fork, MOST)
    end
    local fork <close> = assert(before:vm{ echo = false })
    halts(fork)
    check_reports(fork, MOST)
    assert(vm:restore(before))
    assert.equal(0, vm.memory:u32(TABLE + 8 * 63))
    halts(vm)
    check_reports(vm, MOST)
  end)

  it("keeps snapshots of one vCPU as small as they are", function()
    local one, two = os.tmpname(), os.tmpname()
    local function size_of(cpus, path)
      local vm <close> = support.vm{ cpus = cpus, memory = "1M" }
      local snap <close> = assert(vm:snapshot())
      assert(snap:save(path))
      local file <close> = assert(io.open(path, "rb"))
      local size = file:seek "end"
      os.remove(path)
      return size
    end
    local each = size_of(2, two) - size_of(1, one)
    assert.is_true(size_of(1, one) < 2 * each, "what one costs") -- no room for others
    assert.is_true(size_of(64, two) <= size_of(1, one) + 63 * each)
  end)

  it("stops, pauses and goes on, all of it", function()
    local vm <close> = all(COUNT, { cpus = MOST, mode = "long" })
    local function at(cpu) return vm.memory:u32(0x3000 + 4 * cpu) end
    assert(vm:start{ deadline = 120 })
    count_on(MOST, at)
    assert(vm:pause())
    local held = vm.memory:read(0x3000, 4 * MOST)
    assert.equal(63, vm.cpu[63].rdi)
    local other <close> = support.code("b9 00 00 e2 fe f4") -- mov cx, 0; loop $; hlt: takes time
    assert.equal("halt", (support.run(other)))
    assert.equal(held, vm.memory:read(0x3000, 4 * MOST))
    vm:resume()
    count_on(MOST, at)
    local reason, info = vm:stop()
    assert.equal("stopped", reason)
    for cpu = 0, MOST - 1 do assert.equal("stopped", info.cpu[cpu].reason) end
  end)

  it("ends at the deadline and at a limit, all of it", function()
    local vm <close> = all(COUNT_REAL, { cpus = MOST })
    assert.equal("deadline", (vm:run{ deadline = 0.2 }))
    local loud <close> = all("e680 ebfc", { cpus = MOST }) -- out 0x80, al; jmp back
    local reason, info = loud:run{ exits = 50, deadline = 60 }
    assert.equal("limit", reason, info.text)
    for cpu = 0, MOST - 1 do assert.is_true(info.cpu[cpu].exits <= 50) end
  end)

  it("has its exits counted, and its handlers told who asks", function()
    -- mov al, 0x42; mov dx, 0x500; out dx, al; in al, 0x81; hlt
    local vm <close> = all("b042 ba0005 ee e481 f4", { cpus = MOST })
    local asked, count = {}, 0
    local hook = vm.hypercalls:define(0x42, "who", function(_, cpu)
      count = count + 1
      asked[cpu] = true
    end)
    local info = halts(vm)
    for cpu = 0, MOST - 1 do
      assert.is_true(asked[cpu])
      assert.equal(3, info.cpu[cpu].exits)
    end
    assert.same({ MOST, MOST, 3 * MOST, MOST }, { count, hook.hits, info.exits, info.served.none })
    assert.equal(MOST, info.by.hlt)
  end)

  it("does not take a vCPU when it is too late", function()
    local vm <close> = support.program({ support.out(0x80, 1) }, { name = "late" })
    local why
    vm.ports:on(0x80, { write = function() why = select(2, pcall(vm.add_cpu, vm)) end })
    halts(vm)
    assert.matches("vm \"late\" is running", why)
    refused("reset%(%) it first", function() vm:add_cpu() end)
    vm:reset()
    assert(vm:add_cpu())
    refused("cpu 1 has nothing to run", vm.run, vm)

    local shaped <close> = support.vm{ cpuid = { [1] = { ebx = 0x05020800 } } }
    refused("its CPUID was changed for 1 vCPUs", function() shaped:add_cpu() end)
    local loaded <close> = support.code("f4", { cpus = 4 })
    refused("add vCPUs before vm:load", function() loaded:add_cpu() end)
    local small <close> = support.vm{ memory = "256K" }
    refused("a window of 256 KiB each", function() small:add_cpu() end)
    local snap <close> = assert(small:snapshot())
    local made <close> = assert(snap:vm{})
    refused("made from a snapshot", function() made:add_cpu() end)
    refused("mode \"linux\" has one vCPU", kvm.vm, { mode = "linux", cpus = 2 })
    local closed = support.vm()
    closed:close()
    refused("is closed", function() closed:add_cpu() end)
  end)

  it("refuses a snapshot of fewer", function()
    local vm <close> = support.vm()
    local one <close> = assert(vm:snapshot())
    assert(vm:add_cpu())
    refused("cpus = 1, not 2", function() vm:restore(one) end)
  end)

  it("does not start vCPUs for a guest that sends start-up IPIs: there is no APIC", function()
    -- SDM volume 3, 11.4.4: INIT and two SIPIs to all but self, to the ICR at 0xfee00300
    -- test edi, edi; jnz hlt; mov dword [abs 0xfee00300], …; hlt
    local function ipi(value) return "c705 00 03 e0 fe" .. value end
    local code = "85ff 751e" .. ipi "00450c00" .. ipi "10460c00" .. ipi "10460c00" .. "f4"
    local vm <close> = all(code, { mode = "protected", cpus = 3 })
    local info = halts(vm)
    assert.same({ 3, 1, 1 }, { info.served.none, info.cpu[1].exits, info.cpu[2].exits })
  end)
end)
