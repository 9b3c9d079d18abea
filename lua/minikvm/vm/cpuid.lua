-- cpuid.lua - vm.cpuid: what the guest is told of its processor.
--
-- KVM answers CPUID itself, from a list that can be changed until the VM runs for the first time
-- (api.rst, KVM_SET_CPUID2); nothing exits, so nothing is counted. Leaves and feature bits: Intel
-- SDM volume 2, CPUID; AMD APM volume 3, appendix E.

local core = require "minikvm.core"
local handle = require "minikvm.handle"
local options = require "minikvm.options"
local strict = require "minikvm.strict"

local M = {}

---@class minikvm.cpuid
local cpuid = core.methods "minikvm.cpuid"

local SIGNIFICANT_INDEX <const> = 1 -- KVM_CPUID_FLAG_SIGNIFCANT_INDEX

---Feature names as in /proc/cpuinfo: leaf, subleaf, register, bit.
local FEATURES <const> = {
  fpu = { 1, 0, "edx", 0 }, pse = { 1, 0, "edx", 3 }, tsc = { 1, 0, "edx", 4 },
  msr = { 1, 0, "edx", 5 }, pae = { 1, 0, "edx", 6 }, cx8 = { 1, 0, "edx", 8 },
  apic = { 1, 0, "edx", 9 }, sep = { 1, 0, "edx", 11 }, pge = { 1, 0, "edx", 13 },
  cmov = { 1, 0, "edx", 15 }, pat = { 1, 0, "edx", 16 }, pse36 = { 1, 0, "edx", 17 },
  clflush = { 1, 0, "edx", 19 }, mmx = { 1, 0, "edx", 23 }, fxsr = { 1, 0, "edx", 24 },
  sse = { 1, 0, "edx", 25 }, sse2 = { 1, 0, "edx", 26 },
  sse3 = { 1, 0, "ecx", 0 }, pclmulqdq = { 1, 0, "ecx", 1 }, ssse3 = { 1, 0, "ecx", 9 },
  fma = { 1, 0, "ecx", 12 }, cx16 = { 1, 0, "ecx", 13 }, sse4_1 = { 1, 0, "ecx", 19 },
  sse4_2 = { 1, 0, "ecx", 20 }, x2apic = { 1, 0, "ecx", 21 }, movbe = { 1, 0, "ecx", 22 },
  popcnt = { 1, 0, "ecx", 23 }, aes = { 1, 0, "ecx", 25 }, xsave = { 1, 0, "ecx", 26 },
  avx = { 1, 0, "ecx", 28 }, f16c = { 1, 0, "ecx", 29 }, rdrand = { 1, 0, "ecx", 30 },
  hypervisor = { 1, 0, "ecx", 31 },
  fsgsbase = { 7, 0, "ebx", 0 }, bmi1 = { 7, 0, "ebx", 3 }, avx2 = { 7, 0, "ebx", 5 },
  smep = { 7, 0, "ebx", 7 }, bmi2 = { 7, 0, "ebx", 8 }, erms = { 7, 0, "ebx", 9 },
  invpcid = { 7, 0, "ebx", 10 }, avx512f = { 7, 0, "ebx", 16 }, rdseed = { 7, 0, "ebx", 18 },
  smap = { 7, 0, "ebx", 20 }, umip = { 7, 0, "ecx", 2 }, la57 = { 7, 0, "ecx", 16 },
  syscall = { 0x80000001, 0, "edx", 11 }, nx = { 0x80000001, 0, "edx", 20 },
  pdpe1gb = { 0x80000001, 0, "edx", 26 }, rdtscp = { 0x80000001, 0, "edx", 27 },
  lm = { 0x80000001, 0, "edx", 29 }, svm = { 0x80000001, 0, "ecx", 2 }, vmx = { 1, 0, "ecx", 5 },
}

local REGISTERS <const> = options.declare("vm.cpuid", {
  eax = "integer", ebx = "integer", ecx = "integer", edx = "integer",
})

-- struct kvm_cpuid_entry2 of <linux/kvm.h>
local ENTRY <const>, PADDING <const> = "<I4I4I4I4I4I4I4", ("\0"):rep(12)
local SIZE <const> = ENTRY:packsize() + #PADDING

---The leaves that there are: { leaf=, subleaf=, flags=, eax=, ebx=, ecx=, edx= }, ...
local function leaves(self)
  local bytes, list = core.cpuid(self), {}
  for at = 1, #bytes, SIZE do
    local e = {}
    e.leaf, e.subleaf, e.flags, e.eax, e.ebx, e.ecx, e.edx = ENTRY:unpack(bytes, at)
    list[#list + 1] = e
  end
  return list
end

local function find(list, leaf, subleaf)
  for _, e in ipairs(list) do
    local any = e.flags & SIGNIFICANT_INDEX == 0
    if e.leaf == leaf and (any or e.subleaf == subleaf) then return e end
  end
end

local function check_number(value, what)
  if math.type(value) == "integer" and value >= 0 and value <= 0xffffffff then return value end
  core.blame(("vm.cpuid: %s: expected an integer of 0 to 0xffffffff, got %s"):format(what,
                                                                              tostring(value)))
end

local function check_registers(values)
  local o = options.check("vm.cpuid", values, REGISTERS)
  for name, value in pairs(o) do check_number(value, name) end
  return o
end

local mark = strict.record("cpuid.registers", "cpuid:get()", { "eax", "ebx", "ecx", "edx" },
  function(r)
    return ("eax %08x  ebx %08x  ecx %08x  edx %08x"):format(r.eax, r.ebx, r.ecx, r.edx)
  end)

---What the guest's CPUID answers for a leaf; nil when the list has none.
---@param leaf integer
---@param subleaf? integer  ECX (0)
---@return { eax: integer, ebx: integer, ecx: integer, edx: integer }?
function cpuid:get(leaf, subleaf)
  options.self("cpuid:get", self, "minikvm.cpuid")
  local e = find(leaves(self), check_number(leaf, "leaf"),
                 check_number(subleaf or 0, "subleaf"))
  return e and mark{ eax = e.eax, ebx = e.ebx, ecx = e.ecx, edx = e.edx }
end

local function store_bytes(self, bytes)
  local ok, why = core.set_cpuid(self, bytes)
  if not ok then core.blame("vm.cpuid: " .. why) end
end

---@class minikvm.cpuid.handle  puts back what the leaf answered before; not of a VM that has run
local new = handle.kind("handle of vm.cpuid", { "cpuid", "before" }, function(h)
  store_bytes(h.cpuid, h.before)
end)

---Makes the list the VM's; what it was before comes back with the handle.
local function store(self, list)
  local before, entries = core.cpuid(self), {}
  for i, e in ipairs(list) do
    entries[i] = ENTRY:pack(e.leaf, e.subleaf, e.flags, e.eax, e.ebx, e.ecx, e.edx) .. PADDING
  end
  store_bytes(self, table.concat(entries))
  return new{ cpuid = self, before = before }
end

-- What some KVMs show guests as the host's processor has it, whatever they are told.
local FEATURE_WORDS <const> = {
  [1] = { ecx = true, edx = true },
  [7] = { eax = true, ebx = true, ecx = true, edx = true },
  [13] = { eax = true, ebx = true, ecx = true, edx = true },
}

local function need_shaping(leaf, register, what)
  if FEATURE_WORDS[leaf] and FEATURE_WORDS[leaf][register]
    and require("minikvm.vm.probe").probe().cpuid == "host" then
    core.blame(("vm.cpuid: %s: this host's KVM shows guests its own feature bits in leaves 1, 7 "
      .. "and "
                .. "13 (kvm.probe().cpuid)"):format(what))
  end
end

---Sets registers of a leaf; those not given stay, a new leaf's are 0. Returns a handle: KVM answers
---CPUID by itself, so it has no hits. An error for feature bits on hosts that show guests their
---own.
---@param leaf integer
---@param subleaf integer|table  ECX, or the registers when there is one
---@param registers? { eax: integer?, ebx: integer?, ecx: integer?, edx: integer? }
---@return minikvm.cpuid.handle
function cpuid:set(leaf, subleaf, registers)
  options.self("cpuid:set", self, "minikvm.cpuid")
  if type(subleaf) == "table" then subleaf, registers = nil, subleaf end
  check_number(leaf, "leaf")
  check_number(subleaf or 0, "subleaf")
  local values = check_registers(registers)
  local list = leaves(self)
  local e = find(list, leaf, subleaf or 0)
  if not e then
    e = { leaf = leaf, subleaf = subleaf or 0, flags = subleaf and SIGNIFICANT_INDEX or 0,
          eax = 0, ebx = 0, ecx = 0, edx = 0 }
    list[#list + 1] = e
  end
  for name, value in pairs(values) do
    if e[name] ~= value then
      need_shaping(leaf, name, ("%s of leaf %d cannot be set"):format(name, leaf))
    end
    e[name] = value
  end
  return store(self, list)
end

local function feature(name)
  local f = FEATURES[name]
  if f then return f end
  core.blame(("vm.cpuid: unknown feature %q%s"):format(tostring(name),
    options.hint(tostring(name), options.keys(FEATURES), "%q")))
end

---Whether the guest is told of a feature, by its name in /proc/cpuinfo.
---@param name string
---@return boolean
function cpuid:has(name)
  options.self("cpuid:has", self, "minikvm.cpuid")
  local f = feature(name)
  local e = find(leaves(self), f[1], f[2])
  return e ~= nil and e[f[3]] >> f[4] & 1 == 1
end

---Hides features, by their names in /proc/cpuinfo. The instructions may still work: CPUID only
---tells. An error on hosts where CPUID is not KVM's to answer.
---@param ... string
---@return minikvm.cpuid.handle
function cpuid:hide(...)
  options.self("cpuid:hide", self, "minikvm.cpuid")
  local list = leaves(self)
  for _, name in ipairs{ ... } do
    local f = feature(name)
    need_shaping(f[1], f[3], ("%q cannot be hidden"):format(name))
    local e = find(list, f[1], f[2])
    if e then e[f[3]] = e[f[3]] & ~(1 << f[4]) end
  end
  return store(self, list)
end

---Sets the twelve letters of leaf 0, such as "GenuineIntel".
---@param text string
---@return minikvm.cpuid.handle
function cpuid:vendor(text)
  options.self("cpuid:vendor", self, "minikvm.cpuid")
  if type(text) ~= "string" or #text ~= 12 then
    core.blame("vm.cpuid: a vendor has 12 bytes")
  end
  local ebx, edx, ecx = ("<I4I4I4"):unpack(text)
  return self:set(0, { ebx = ebx, ecx = ecx, edx = edx })
end

---The cpuid option of kvm.vm: { vendor=, hide={...}, [leaf] = { eax=, ... } }.
---@param vm minikvm.vm
---@param o table
function M.apply(vm, o)
  for key, value in pairs(o) do
    if key == "vendor" then
      vm.cpuid:vendor(value)
    elseif key == "hide" then
      vm.cpuid:hide(table.unpack(type(value) == "table" and value or { value }))
    elseif math.type(key) == "integer" then
      vm.cpuid:set(key, value)
    else
      core.blame(("kvm.vm: option 'cpuid': unknown key %s; there are vendor, hide and numbers of "
                  .. "leaves"):format(tostring(key)))
    end
  end
end

return M
