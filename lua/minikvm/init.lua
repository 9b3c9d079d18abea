-- init.lua - what require "minikvm" returns. The C core arrives as the chunk's argument.

local core = ...

package.loaded["minikvm.core"] = core

local options = require "minikvm.options"
local strict = require "minikvm.strict"
require "minikvm.vm"

-- A kind of object, the part that brings some of its methods, and their names: it is loaded when
-- one of them is called first, and takes the place of what stands there until then.
for _, late in ipairs{
  { "vm", "vm.snapshot", "snapshot", "restore", "fork" },
  { "vm", "vm.stats", "stats" },
  { "vm", "console.screen", "screen" },
  { "vm", "image.symbol_file", "load_symbols" },
  { "vm", "linux", "linux" },
  { "vm", "debug", "break_at", "wait_break", "watch" },
  { "cpu", "debug", "step", "step_over" },
  { "vm", "debug.profile", "profile" },
  { "vm", "debug.coverage", "coverage" },
  { "memory", "vm.memory", "map", "hexdump" },
  { "vmfiles", "vm.files", "open" },
  { "cpuid", "vm.cpuid", "get", "set", "has", "hide", "vendor" },
  { "cpu", "vm.cpu", "regs", "sregs", "set_sregs", "walk", "disassemble", "registers", "backtrace",
    "locals" },
  { "ports", "device.hooks", "on", "override", "tap", "const", "latch", "sink", "fifo", "source",
    "match", "doorbell" },
  { "mmio", "device.hooks", "on", "override", "tap", "const", "latch", "sink", "fifo", "source",
    "match", "doorbell" },
  { "msrs", "device.hooks", "on", "override", "tap", "const", "latch", "sink", "fifo", "source",
    "match" },
  { "hypercalls", "device.hypercalls", "define", "override", "tap" },
  { "console", "console", "on_line", "sendline", "expect", "try_expect", "forbid", "type",
    "interact" },
  { "keyboard", "console.keyboard", "type", "press" },
  { "pci", "device.pci", "attach", "devices", "enable", "enabled", "lost", "routing_table" },
} do
  local methods <const> = core.methods("minikvm." .. late[1])
  for i = 3, #late do
    local name <const> = late[i]
    methods[name] = function(...)
      require("minikvm." .. late[2])
      return methods[name](...)
    end
  end
end

-- The same of vm.cpu.
local cpus <const> = core.metatable "minikvm.cpus"
for _, name in ipairs{ "__len", "__pairs", "__index", "__newindex", "__tostring" } do
  cpus[name] = function(...)
    require "minikvm.vm.cpus"
    return cpus[name](...)
  end
end

-- print() and tostring() of these tell how they stand.
for name in ("vm cpu memory ports mmio msrs cpuid hypercalls console clock keyboard vmfiles pci "
             .. "snapshot timer"):gmatch "%a+" do
  local kind <const> = "minikvm." .. name
  core.metatable(kind).__tostring = function(object)
    return require("minikvm.describe").of(kind, object)
  end
end

---@class minikvm
local M = { _VERSION = core.version }

---What this host's KVM is and can do, found out by running tiny guests. Never raises.
---@return minikvm.probe
function M.probe()
  return require("minikvm.vm.probe").probe()
end

---Lets `seconds` pass; handlers run meanwhile. Inside a handler its guest waits, nothing else does.
---@type fun(seconds: number)
M.sleep = core.sleep

---The signal that interrupts guests. With a number: chooses it, before the first VM is made, for a
---program that uses SIGRTMIN + 6 itself. Misuse raises.
---@type fun(number?: integer): integer
M.signal = core.signal

---Machine code as text, in Intel syntax.
---@type fun(bytes: string, bits: 16|32|64, address?: integer): minikvm.instruction[]
M.disassemble = core.disassemble

local WAIT <const> = options.declare("kvm.wait", { timeout = "seconds" })

---Runs a function, or a script, on a thread and in a Lua state of its own. Its first argument is
---its end of the line: me:send(...), me:receive(timeout). Values are copied: nil, booleans,
---numbers, strings, tables of these.
---@param what function|string  or the path of a script
---@return minikvm.worker? worker
---@return string? why  "path: why" when the script cannot be read
---@return string? code  such as "ENOENT"
function M.worker(what, ...)
  return require("minikvm.worker").start(what, ...)
end

---Puts the process into a jail: it keeps the files that are named, and what running guests takes.
---Once, before the first VM, worker or thread; not in a handler. docs/security.md has the whole.
---  level   "best" (default): what the kernel has; "strict": all walls, or an error;
---          "log": none, and what would be refused is told on stderr
---  read    a path or a list: files and directories that may be read
---  write   the same, that may be written to
---  change  directories in which files may be made, renamed, removed, too
---  files   true: guests have files (kvm.files) below what is named
---  listen  true: gdb may be listened for; or a list of vm:gdb's addresses: a Unix socket's folder
---          is granted, too
---  policy  a policy file (docs/security.md), whose grants are added
---@return minikvm.jail? jail
---@return string? why  "kvm.jail: what: why"
---@return string? code  such as "ENOENT", "EBUSY", "EALREADY", "ENOTSUP"
function M.jail(opts)
  return require("minikvm.jail").enter(opts)
end

---Creates a virtual machine: see lua/minikvm/vm/init.lua for the options.
---@return minikvm.vm? vm
---@return string? why  "what: why" when the host fails
---@return string? code  such as "ENOENT"
function M.vm(opts)
  return require("minikvm.vm").new(opts)
end

---Creates a file policy: see lua/minikvm/vm/files.lua for the options.
---@return minikvm.files? policy
---@return string? why  "what: why" when a directory cannot be used
---@return string? code  such as "ENOENT"
function M.files(opts)
  return require("minikvm.vm.files").new(opts)
end

---Describes a device, to be attached with vm:attach(): see lua/minikvm/device/init.lua for the
---options.
---@return minikvm.definition
function M.device(def)
  return require("minikvm.device").define(def)
end

---A disk for a device: an image, or one in memory: see lua/minikvm/device/disk.lua for the options.
---@return minikvm.disk? disk
---@return string? why  "path: why" when the file cannot be used
---@return string? code  such as "ENOENT"
function M.disk(opts)
  return require("minikvm.device.disk").open(opts)
end

---Describes a function of the PCI bus, to be attached with vm.pci:attach(): see
---lua/minikvm/device/pci.lua for the options.
---@return minikvm.definition
function M.pci(def)
  return require("minikvm.device.pci").define(def)
end

---Describes a virtio device over PCI, to be attached with vm.pci:attach(): see
---lua/minikvm/device/virtio.lua for the options.
---@return minikvm.definition
function M.virtio(def)
  return require("minikvm.device.virtio").define(def)
end

---An initramfs for a Linux guest; the same table gives the same bytes.
---  files        by path: a path of the host, { bytes= | path=, mode= }, or a function that returns
---               the bytes; mode: permissions (0755)
---  directories  a list of paths, or permissions by path; those that a path needs are made anyway
---  nodes        device nodes by path: { "c" or "b", major, minor, mode = permissions (0600) }
---  links        symbolic links: where they lead, by path
---  modules      { NAME, ..., from = "/lib/modules/VERSION" }: kernel modules and what they need,
---               as lib/modules/NAME.ko, and in which order to load them in lib/modules/order;
---               those that are compressed (.xz, .zst, .gz) are unpacked by the host's programs
---  busybox      true: the host's static one as bin/busybox, bin/sh; or the path of one
---  init         the text of /init, the first program
---  agent        true: the program behind vm:linux() as bin/minikvm-agent, with busybox and, where
---               `init` says nothing else, an init that loads the modules and becomes the agent
---  gzip         true: compressed
---Paths are relative to the root. Misuse raises.
---@return string? bytes
---@return string? why  "path: why" when a file of the host cannot be used
---@return string? code  such as "ENOENT"
function M.initrd(opts)
  return require("minikvm.image.initrd").make(opts)
end

---Reads a snapshot from a file that snapshot:save() wrote.
---@param path string
---@return minikvm.snapshot? snapshot
---@return string? why  "path: why" when it cannot be read, is no snapshot, or is damaged
---@return string? code  such as "ENOENT"
function M.load_snapshot(path)
  if type(path) ~= "string" then
    core.blame(("kvm.load_snapshot: expected a path, got a %s"):format(type(path)))
  end
  require "minikvm.vm.snapshot" -- the methods of snapshots
  return core.load_snapshot(path)
end

local waited = strict.record("waited", "a result of kvm.wait", { "vm", "reason", "info" },
  function(one) return ("%s: %s"):format(one.vm.name, tostring(one.info)) end)

---Waits for several started VMs to end.
---@param vms minikvm.vm[]
---@param opts? { timeout: number? }  seconds; those that still run then have reason nil
---@return { vm: minikvm.vm, reason: string?, info: table|string }[]  in the order of `vms`
function M.wait(vms, opts)
  if type(vms) ~= "table" then
    core.blame(("kvm.wait: expected a list of vms, got a %s"):format(type(vms)))
  end
  local timeout = options.check("kvm.wait", opts, WAIT).timeout
  local until_then = timeout and core.now() + timeout
  local results = {}
  for i, vm in ipairs(vms) do
    local reason, info = vm:wait(until_then and math.max(0, until_then - core.now()))
    results[i] = waited{ vm = vm, reason = reason, info = info }
  end
  return results
end

return strict.module(M, "kvm")
