-- vm/probe.lua - kvm.probe: what this host's KVM can do, in words.

local core = require "minikvm.core"
local strict = require "minikvm.strict"

local M = {}

---Capabilities that minikvm can use: their numbers in <linux/kvm.h>.
local CAPABILITIES <const> = {
  immediate_exit = 136, coalesced_pio = 162, sync_regs = 74, ioeventfd = 36, readonly_mem = 81,
  user_space_msr = 188, msr_filter = 189, xsave = 55, vcpu_events = 41,
}

local function word(known, yes, no)
  if known == nil then return "unknown" end
  return known and yes or no
end

local mark = strict.record("probe", "kvm.probe()", {
  "ok", "why", "code", "host", "api", "paging32", "int_n", "iret", "cpuid", "caps" },
  function(probe)
    if not probe.ok then return "VMs cannot run here: " .. tostring(probe.why) end
    return ("KVM of host %s, API %d: 32-bit paging %s, int n %s, iret %s, CPUID %s"):format(
      probe.host, probe.api, probe.paging32, probe.int_n, probe.iret, probe.cpuid)
  end)

---What kind of KVM this host has; never raises because of it. May make a VM of its own.
---@return minikvm.probe
function M.probe()
  local caps = {}
  for name, number in pairs(CAPABILITIES) do caps[name] = number end
  local found = core.probe(caps)
  if found.api == 0 then caps = {} end
  found.caps = caps
  for _, key in ipairs{ "paging32", "int_n", "iret" } do
    found[key] = word(found[key], "native", "assist")
  end
  found.cpuid = word(found.cpuid, "shaped", "host")
  return mark(found)
end

return M
