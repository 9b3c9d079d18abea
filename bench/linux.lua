-- linux.lua - Debian's kernel, from nothing to the end of a command: minikvm linux --run true
-- beside QEMU's microvm with the same kernel, first file system and KVM; and how many exits it
-- takes to the first instruction of init.
--
-- It takes kvm_intel or kvm_amd, and QEMU (Debian: qemu-system-x86). Elsewhere:
-- tools/stock -- tools/bench linux

local kvm = require "minikvm" -- first: it brings the parts
local host = require "minikvm.linux.host"
local linux = require "minikvm.cli.linux"
local report = require "report"

local ROUNDS <const>, EXITS <const> = 5, 4200

local kernel, missing = host.find_kernel()
local problem = host.problem(kvm, "linux") or missing
if problem then
  report.finish(problem:match "^[^:.\n]*")
end
---Seconds of a command that ends with this status.
local function timed(command, status)
  return function()
    local now = require "minikvm.core".now
    local began = now()
    local _, _, ended = os.execute(command)
    assert(ended == status, ("%s: status %s"):format(command, ended))
    return now() - began
  end
end

---The first file system of minikvm linux --run true, in a file.
local function initrd_file()
  local path = os.tmpname()
  local file <close> = assert(io.open(path, "wb"))
  file:write(assert(kvm.initrd(linux.initrd_options({ run = "true", vm = {} }, kernel))))
  return path
end

---Exits until init writes to the exit port, its first deed.
local function exits()
  local vm <close> = assert(kvm.vm{ mode = "linux", echo = false })
  local tell = require "minikvm.image.tell"
  assert(vm:load(kernel, { cmdline = "quiet", initrd = { bytes = assert(kvm.initrd{
    files = { tell = { bytes = tell.program() } }, init = "#!/tell 244\n" }) } }))
  local reason, info = vm:run{ deadline = 100 }
  assert(reason == "exit", info.text)
  return info.exits
end

local OURS <const>, QEMU <const> = "minikvm linux --run true", "QEMU microvm: the same"
local initrd = initrd_file()
-- The guest's exit port: QEMU ends with twice the value and one.
local microvm = ("qemu-system-x86_64 -M microvm -accel kvm -cpu host -m 256 -nodefaults "
  .. "-no-user-config -display none -no-reboot -serial null -kernel '%s' -initrd '%s' -append "
  .. "'console=ttyS0 quiet loglevel=1 panic=-1 reboot=t' -debugcon null "
  .. "-device isa-debug-exit,iobase=0xf4,iosize=1 </dev/null"):format(kernel, initrd)

report.title(("linux: %d rounds, median and quartiles"):format(ROUNDS))
local seconds = report.interleave(ROUNDS, {
  { name = OURS, run = timed(report.minikvm .. " linux --run true", 0) },
  { name = QEMU, run = timed(microvm, 1) },
  { name = "exits", run = exits },
})
os.remove(initrd)
report.line(OURS, seconds[OURS], "s", 1)
report.line(QEMU, seconds[QEMU], "s", 1)
report.line("minikvm : QEMU", report.ratios(seconds[OURS], seconds[QEMU]), "x", 1, 1)
report.line("exits to the first instruction of init", seconds.exits, "", 1, EXITS)
report.finish()
