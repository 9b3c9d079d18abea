-- doctor.lua - can this host run virtual machines, and what to do about it if not.
--
-- Every look at the host goes through a table of functions (M.host), so that specs can describe
-- hosts that are not at hand. The verdict is kvm.probe()'s; the rest explains it.

local M = {}

---@class minikvm.doctor.host
---@field read fun(path: string): string?  the contents of a file, nil when it cannot be read
---@field exists fun(path: string): boolean
---@field owner fun(path: string): integer?, integer?, string?  owner, group, permissions rwxrwxrwx
---@field getenv fun(name: string): string?
---@field probe fun(): table  kvm.probe()

---@type minikvm.doctor.host
M.host = {
  read = function(path)
    local file = io.open(path, "r")
    if not file then return nil end
    local text = file:read("a")
    file:close()
    return text
  end,
  exists = function(path)
    local file, _, code = io.open(path, "r")
    if file then file:close() end
    return file ~= nil or code == 13 -- EACCES: there, but not for us
  end,
  owner = function(path)
    local found, lfs = pcall(require, "lfs")
    local is = found and lfs.attributes(path)
    if is then return is.uid, is.gid, is.permissions end
  end,
  getenv = os.getenv,
  probe = function() -- and whether a VM can be made: with kvm_intel and kvm_amd that tries none
    local kvm = require "minikvm"
    local found = kvm.probe()
    if found.ok then
      local vm, why, code = kvm.vm{ echo = false }
      if vm then vm:close() else found.ok, found.why, found.code = false, why, code end
    end
    return found
  end,
}

-- ---- facts about the host ----

local function cpu_flags(host)
  local flags = {}
  local line = (host.read("/proc/cpuinfo") or ""):match("flags%s*:%s*([^\n]*)") or ""
  for flag in line:gmatch("%S+") do flags[flag] = true end
  return flags
end

local MODULES = { "kvm_intel", "kvm_amd", "kvm_pvm", "kvm" }

---The loaded modules that serve KVM (or are built into the kernel), most specific first.
local function kvm_modules(host)
  local found = {}
  for _, name in ipairs(MODULES) do
    if host.exists("/sys/module/" .. name) then found[#found + 1] = name end
  end
  return found
end

---What kind of container this is, nil when it seems to be none.
local function container(host)
  if host.exists("/.dockerenv") then return "Docker" end
  if host.exists("/run/.containerenv") then return "Podman" end
  local groups = host.read("/proc/1/cgroup") or ""
  for word, name in pairs{ docker = "Docker", kubepods = "Kubernetes", lxc = "LXC",
                           libpod = "Podman", containerd = "containerd" } do
    if groups:find(word, 1, true) then return name end
  end
end

---Name and members of a group by number.
local function group(host, gid)
  for line in (host.read("/etc/group") or ""):gmatch("[^\n]+") do
    local name, number, members = line:match("^([^:]*):[^:]*:(%d+):?(.*)$")
    if tonumber(number) == gid then return name, members end
  end
end

---The numbers after a key of /proc/self/status, as a set.
local function status_numbers(host, key)
  local set = {}
  local line = ("\n" .. (host.read("/proc/self/status") or "")):match("\n" .. key .. ":([^\n]*)")
  for number in (line or ""):gmatch("%d+") do set[tonumber(number)] = true end
  return set
end

-- ---- checks: each returns "ok" | "warn" | "FAIL", what was found, what to do ----

local function check_cpu(host, probe)
  local flags = cpu_flags(host)
  if flags.vmx then return "ok", "Intel VT-x (vmx)" end
  if flags.svm then return "ok", "AMD-V (svm)" end
  if probe.ok or host.exists("/sys/module/kvm_pvm") then
    return "ok", "no vmx or svm flag; this KVM does without"
  end
  local remedy = flags.hypervisor
    and "this machine is a VM itself: its host must allow nested virtualization"
      .. " (kvm_intel or kvm_amd with nested=1, CPU model \"host\")"
    or "enable virtualization (VT-x, AMD-V or SVM) in the firmware's settings"
  return "FAIL", "no vmx or svm flag in /proc/cpuinfo", remedy
end

local function check_module(host, probe)
  local found = kvm_modules(host)
  if #found > 1 or found[1] == "kvm_pvm" then return "ok", table.concat(found, ", ") end
  if probe.ok then return "ok", "KVM answers; its modules are not visible from here" end
  local flags = cpu_flags(host)
  local module = flags.svm and "kvm_amd" or flags.vmx and "kvm_intel"
  local remedy = module and "sudo modprobe " .. module
    or "sudo modprobe kvm_intel (or kvm_amd); the kernel's log says why it will not load"
  local what = #found == 0 and "no kvm module is loaded"
    or "kvm is loaded, but neither kvm_intel nor kvm_amd"
  return "FAIL", what, container(host) and remedy .. ", outside the container" or remedy
end

local function check_container(host, probe)
  local kind = container(host)
  if not kind then return "ok", "none" end
  if probe.ok or host.exists("/dev/kvm") then return "ok", kind end
  return "warn", kind, "start the container with --device /dev/kvm"
end

local function check_device(host, probe)
  if host.exists("/dev/kvm") then return "ok", "exists" end
  if probe.ok then return "ok", "opened" end
  local remedy = container(host) and "start the container with --device /dev/kvm"
    or "load KVM's module, see above; if it is loaded: sudo mknod /dev/kvm c 10 232"
  return "FAIL", "does not exist", remedy
end

---The owning group could open the device, but this process is not in it.
local function group_remedy(host, gid)
  local name, members = group(host, gid)
  local user = host.getenv("USER") or host.getenv("LOGNAME") or "$USER"
  name = name or tostring(gid)
  for member in (members or ""):gmatch("[^,]+") do
    if member == user then
      return ("%s is in group %s already: log in again (or: newgrp %s)"):format(user, name, name)
    end
  end
  return ("sudo usermod -aG %s %s, then log in again"):format(name, user)
end

local function check_permission(host, probe)
  if probe.ok then return "ok", "/dev/kvm can be opened" end
  if probe.code == "ENOENT" then return "warn", "unknown without /dev/kvm" end
  if probe.code ~= "EACCES" and probe.code ~= "EPERM" then
    return "ok", "/dev/kvm does not refuse us"
  end
  local _, gid, modes = host.owner("/dev/kvm")
  local what = "/dev/kvm may not be opened by this user"
  if not gid then
    return "FAIL", what, "sudo usermod -aG kvm $USER, then log in again"
  elseif status_numbers(host, "Uid")[0] or status_numbers(host, "Groups")[gid] then
    return "FAIL", what .. ", though its owner and group would allow it",
      "a container's device policy or a security module forbids it: try --device /dev/kvm"
  elseif gid == 0 or modes and modes:sub(4, 5) ~= "rw" then
    return "FAIL", what .. ", nor by its group",
      "sudo chgrp kvm /dev/kvm; sudo chmod 660 /dev/kvm; sudo usermod -aG kvm $USER"
  end
  return "FAIL", what, group_remedy(host, gid)
end

local function check_api(_, probe)
  if probe.api == 12 then return "ok", "version 12" end
  if (probe.api or 0) > 0 then
    return "FAIL", ("version %s instead of 12"):format(probe.api), "a kernel of 2007 or later"
  end
  return "warn", "cannot be asked"
end

local function check_capabilities(_, probe)
  if (probe.api or 0) == 0 then return "warn", "cannot be asked" end
  local missing, count = {}, 0
  for name, present in pairs(probe.caps or {}) do
    count = count + 1
    if not present then missing[#missing + 1] = name end
  end
  table.sort(missing)
  if #missing == 0 then return "ok", ("all %d that minikvm can use"):format(count) end
  return "warn", "missing: " .. table.concat(missing, ", "),
    "a newer kernel; minikvm does without, slower or with less"
end

local KINDS = {
  vmx = "Intel VMX: guests run on the processor itself",
  svm = "AMD SVM: guests run on the processor itself",
  pvm = "paravirtual (kvm_pvm): 64-bit user code runs at full speed, all else is emulated, slowly",
}

local function check_kind(host, probe)
  if not probe.ok then return "warn", "unknown" end
  local what = KINDS[probe.host] or "unknown kind"
  if cpu_flags(host).hypervisor and probe.host ~= "pvm" then
    what = what .. "; nested in another VM, so exits are slow"
  end
  return "ok", what
end

---What guests need that some KVMs lack.
local FEATURES = {
  { key = "paging32", name = "32-bit paging" },
  { key = "int_n", name = "INT n" },
  { key = "iret", name = "IRET" },
  { key = "cpuid", name = "CPUID features" },
}

local MEANING = {
  native = { "ok", "native" },
  shaped = { "ok", "guests see the features they are given" },
  host = { "ok", "guests see this processor's own feature bits: they cannot be hidden" },
  assist = { "ok", "assisted: this KVM cannot, minikvm does it instead (same results, slower)" },
}

local function check_feature(feature)
  return function(_, probe)
    local meaning = probe.ok and MEANING[probe[feature.key]]
    if not meaning then
      return "warn", probe.ok and "unknown: built with WEAK=0, without what finds it out"
        or "unknown"
    end
    return table.unpack(meaning)
  end
end

local CHECKS = {
  { "processor", check_cpu },
  { "kernel module", check_module },
  { "container", check_container },
  { "/dev/kvm", check_device },
  { "permission", check_permission },
  { "KVM's API", check_api },
  { "capabilities", check_capabilities },
  { "kind of host", check_kind },
}
for _, feature in ipairs(FEATURES) do
  CHECKS[#CHECKS + 1] = { feature.name, check_feature(feature) }
end

---All checks, in order, as data.
---@param host? minikvm.doctor.host
---@return { name: string, verdict: string, found: string, remedy: string? }[]
---@return table probe
function M.examine(host)
  host = host or M.host
  local probe, results = host.probe(), {}
  for i, check in ipairs(CHECKS) do
    local verdict, found, remedy = check[2](host, probe)
    results[i] = { name = check[1], verdict = verdict, found = found, remedy = remedy }
  end
  return results, probe
end

local COLOUR <const> = { ok = "green", warn = "yellow", FAIL = "red" }

---Prints the checks and the verdict as text.
local function print_text(results, probe, write)
  local paint = require("minikvm.cli.style").painter(require("minikvm.core").process().terminal)
  for _, r in ipairs(results) do
    write(paint(COLOUR[r.verdict], ("%-4s"):format(r.verdict)))
    write(("  %-14s %s\n"):format(r.name, r.found))
    if r.remedy then write(("      %-14s -> %s\n"):format("", r.remedy)) end
  end
  if probe.ok then return write "\nVirtual machines can run on this host.\n" end
  write(("\nVirtual machines cannot run on this host: %s\n"):format(probe.why or "KVM says no"))
end

---The same as JSON; its shape is described in docs/json.md.
local function print_json(results, probe, write)
  local json = require "minikvm.json"
  local checks = {}
  for i, r in ipairs(results) do
    checks[i] = { name = r.name, verdict = r.verdict:lower(), found = r.found, remedy = r.remedy }
  end
  write(json.encode{ minikvm = require("minikvm")._VERSION, status = probe.ok and 0 or 1,
                     checks = json.list(checks), probe = probe } .. "\n")
end

---Prints the checks and the verdict; the status is 0 when VMs can run here.
---@param host? minikvm.doctor.host
---@param write? fun(text: string)
---@param as_json? boolean
---@return integer status
function M.run(host, write, as_json)
  write = write or function(text) io.stdout:write(text) end
  local results, probe = M.examine(host);
  (as_json and print_json or print_text)(results, probe, write)
  return probe.ok and 0 or 1
end

return M
