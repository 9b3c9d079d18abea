-- What a guest is told of its processor when nobody changes it: a VM without a local APIC, whose
-- vCPUs are the cores of one package. Leaves: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix
-- E.4; Linux Documentation/virt/kvm/x86/cpuid.rst; 0x40000010 as VMware and Linux's guests have it.

local support = require "support.guest"

---What real-mode vCPUs see: a function of vCPU, leaf and subleaf that gives four registers.
---@param asked { [1]: integer, [2]: integer? }[]  leaves and subleaves
local function see(vm, asked)
  local code = {}
  for i, q in ipairs(asked) do -- mov eax, leaf; mov ecx, subleaf; cpuid; mov [at], eax; …
    local at = 0x1000 + 16 * i
    code[i] = ("<I2I4I2I4I2"):pack(0xb866, q[1], 0xb966, q[2] or 0, 0xa20f)
      .. ("<I2I2"):pack(0xa366, at) .. "\x66\x89\x1e" .. ("<I2"):pack(at + 4)
      .. "\x66\x89\x0e" .. ("<I2"):pack(at + 8) .. "\x66\x89\x16" .. ("<I2"):pack(at + 12)
  end
  local cpus = 0
  while vm.cpu[cpus] do
    assert(vm:load({ bytes = table.concat(code) .. "\xf4" }, { cpu = cpus }))
    cpus = cpus + 1
  end
  local reason, info = support.run(vm)
  assert.equal("halt", reason, info.text)
  local window = 0x40000
  while window * cpus > 1 << 20 do window = window // 2 end
  return function(cpu, leaf, subleaf)
    for i, q in ipairs(asked) do
      if q[1] == leaf and (q[2] or 0) == (subleaf or 0) then
        local at = cpu * window + 0x1000 + 16 * i
        return vm.memory:u32(at), vm.memory:u32(at + 4), vm.memory:u32(at + 8),
               vm.memory:u32(at + 12)
      end
    end
    error "not asked"
  end
end

local function bit(value, n) return value >> n & 1 end

describe("CPUID", function()
  if support.without_kvm(pending) then return end

  it("has no local APIC, nor what needs one, and says that there is a hypervisor", function()
    local vm <close> = support.vm()
    local get = see(vm, { { 1 }, { 6 }, { 0x80000001 }, { 0x40000000 }, { 0x40000001 } })
    local _, _, ecx, edx = get(0, 1)
    assert.same({ apic = 0, x2apic = 0, tsc_deadline = 0, hypervisor = 1 },
                { apic = bit(edx, 9), x2apic = bit(ecx, 21), tsc_deadline = bit(ecx, 24),
                  hypervisor = bit(ecx, 31) })
    assert.equal(0, bit((get(0, 6)), 2)) -- ARAT
    _, _, ecx, edx = get(0, 0x80000001)
    assert.same({ 0, 0 }, { bit(ecx, 3), bit(edx, 9) }) -- AMD: ExtApicSpace, APIC
    local _, b, c, d = get(0, 0x40000000)
    assert.equal("KVMKVMKVM\0\0\0", ("<I4I4I4"):pack(b, c, d))
    assert.equal(0, (get(0, 0x40000001))) -- KVM's paravirtual features
    assert.same({ false, false, true },
                { vm.cpuid:has "apic", vm.cpuid:has "x2apic", vm.cpuid:has "hypervisor" })
  end)

  -- With 1 << bits >= cpus: the least number of bits that APIC ids fit into.
  for cpus, bits in pairs{ [1] = 0, [4] = 2, [5] = 3, [64] = 6 } do
    it(("gives each of %d its index as APIC id, a core of one package"):format(cpus), function()
      local vm <close> = support.vm{ cpus = cpus }
      local asked = { { 0 }, { 1 }, { 4, 0 }, { 4, 3 }, { 0xb, 0 }, { 0xb, 1 }, { 0xb, 2 },
                      { 0x1f, 0 }, { 0x1f, 1 }, { 0x1f, 2 }, { 0x80000008 }, { 0x8000001d, 3 },
                      { 0x8000001e } }
      local get = see(vm, asked)
      local highest, vendor = get(0, 0)
      for cpu = 0, cpus - 1 do
        local _, ebx, _, edx = get(cpu, 1)
        assert.same({ cpu, cpus }, { ebx >> 24, ebx >> 16 & 0xff }) -- id, ids
        if cpus > 1 or support.host.cpuid == "shaped" then
          assert.equal(cpus > 1 and 1 or 0, bit(edx, 28)) -- HTT
        end
        for _, leaf in ipairs{ 0xb, 0x1f } do
          if highest >= leaf then
            assert.same({ 0, 1, 0x100, cpu }, { get(cpu, leaf, 0) }) -- threads of a core
            assert.same({ bits, cpus, 0x201, cpu }, { get(cpu, leaf, 1) }) -- cores of the package
            local _, count, kind, id = get(cpu, leaf, 2)
            assert.same({ 0, 0, cpu }, { count, kind >> 8, id }) -- no more levels
          end
        end
        if vendor == 0x756e6547 and (get(cpu, 4)) & 31 ~= 0 then -- GenuineIntel
          local first, third = get(cpu, 4), get(cpu, 4, 3)
          assert.equal((1 << bits) - 1, first >> 26) -- ids of cores in the package, less one
          assert.equal(0, first >> 14 & 0xfff) -- cores that share it, less one
          if third & 31 ~= 0 then assert.equal((1 << bits) - 1, third >> 14 & 0xfff) end
        elseif vendor == 0x68747541 then -- AuthenticAMD
          local id, core = get(cpu, 0x8000001e)
          assert.same({ cpu, cpu }, { id, core & 0xff })
          local _, _, cores = get(cpu, 0x80000008)
          assert.same({ cpus - 1, bits }, { cores & 0xff, cores >> 12 & 15 }) -- NC, ApicIdSize
          local third = get(cpu, 0x8000001d, 3)
          if third & 31 ~= 0 then assert.equal((1 << bits) - 1, third >> 14 & 0xfff) end
        end
      end
    end)
  end

  it("adds the index to an APIC id that the script gives", function()
    local vm <close> = support.vm{ cpus = 2, cpuid = { [1] = { ebx = 0x05020800 } } }
    local get = see(vm, { { 1 } })
    assert.same({ 0x05020800, 0x06020800 }, { select(2, get(0, 1)), (select(2, get(1, 1))) })
    assert.equal(0x05020800, vm.cpuid:get(1).ebx)
  end)

  it("knows the frequency of the time-stamp counter", function()
    local vm <close> = support.vm()
    local hz = vm.cpu[0].tsc_hz
    if not hz then return pending "this host's time-stamp counter has no known frequency" end
    local get = see(vm, { { 0 }, { 0x15 }, { 0x40000000 }, { 0x40000010 } })
    assert.is_true((get(0, 0x40000000)) >= 0x40000010)
    assert.equal(hz, (get(0, 0x40000010)) * 1000)
    if (get(0, 0)) >= 0x15 then
      local denominator, numerator, crystal = get(0, 0x15)
      assert.equal(hz, crystal * numerator // denominator)
    end
  end)

  it("is the same after a reset and in a fork", function()
    local vm <close> = support.vm()
    see(vm, { { 1 } })
    local snap <close> = assert(vm:snapshot())
    local fork <close> = assert(snap:vm{ echo = false })
    vm:reset()
    for _, each in ipairs{ vm, fork } do
      local _, _, ecx, edx = see(each, { { 1 } })(0, 1)
      assert.same({ 0, 0, 1 }, { bit(edx, 9), bit(ecx, 21), bit(ecx, 31) })
    end
  end)
end)
