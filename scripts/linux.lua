-- linux.lua - Linux from a script: boots a kernel with a shell on its console, asks it something,
-- and forks the booted machine.
--
--   minikvm scripts/linux.lua [KERNEL]      (default: what tools/linux-kernel has fetched)
--
-- It takes kvm_intel or kvm_amd; elsewhere: tools/stock -- ./minikvm scripts/linux.lua

local kvm = require "minikvm"
local args = require "minikvm.cli.args"
local host = require "minikvm.linux.host"

local opts, status = args.handle({
  program = "linux.lua", summary = "Boots Linux with a shell, asks it something, forks it.",
  options = {}, rest = { key = "kernels", value = "kernel", max = 1,
    help = "its kernel (default: what tools/linux-kernel has fetched)" },
}, arg)
if not opts then os.exit(status, true) end

local kernel, why = opts.kernels and opts.kernels[1], host.problem(kvm, "scripts/linux.lua")
if not kernel and not why then kernel, why = host.find_kernel() end
if why then
  io.stderr:write("linux.lua: ", why, "\n")
  os.exit(1)
end

local initrd = assert(kvm.initrd{
  busybox = true, directories = { "proc" }, nodes = { ["dev/console"] = { "c", 5, 1 } },
  init = "#!/bin/sh\n/bin/busybox mount -t proc proc /proc\n/bin/busybox --install -s /bin\n"
    .. "stty -echo\nPS1='ready> ' exec sh\n",
})

local vm <close> = assert(kvm.vm{ name = "linux", mode = "linux", echo = false })
assert(vm:load(kernel, { initrd = { bytes = initrd, name = "initrd" }, cmdline = "quiet" }))

---What a command prints.
local function sh(machine, command)
  machine.console:sendline(command)
  local _, text = machine.console:expect("(.-)\r\nready> ", { timeout = 30 })
  return text
end

vm.console:expect("ready> ", { timeout = 60 })
print("booted: " .. sh(vm, "uname -sr"))

for i, child in ipairs(assert(vm:fork(2))) do
  print(("fork %d: %s"):format(i, sh(child, ("echo $((%d * 7))"):format(i))))
  child:close()
end
