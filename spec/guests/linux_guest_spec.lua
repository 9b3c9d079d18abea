-- Debian's kernel, booted on a stock KVM: kvm_pvm does not run Linux's user space. tools/linux-kernel
-- fetches the kernel; tools/stock runs this in an emulated machine.

local kvm = require "minikvm"
local program = require "support.program"
local support = require "support.guest"

local KERNEL <const> = (os.getenv "XDG_CACHE_HOME" or (os.getenv "HOME" or "") .. "/.cache")
  .. "/minikvm-linux/vmlinuz"

---Says why Linux cannot be booted here: true when it did.
local function without_linux()
  if support.without_kvm(pending) then return true end
  local kernel = io.open(KERNEL, "rb")
  local why = kvm.probe().host == "pvm" and "kvm_pvm does not run Linux: tools/stock does"
    or not kernel and "there is no " .. KERNEL .. ": tools/linux-kernel fetches it"
    or os.execute "command -v busybox >/dev/null" == nil and "there is no busybox"
  if kernel then kernel:close() end
  if why then pending(why) end
  return why and true or false
end

describe("Linux on a stock KVM", function()
  if without_linux() then return end

  it("runs a command: its output on stdout, its status, files of the host", function()
    local path = program.file "of the host\n"
    local r = program.run("P linux --file etc/made=" .. path .. " --deadline 100 --run "
      .. "'uname -s; cat /etc/made; printf %s \"$PATH\" | wc -c; echo more >&2; exit 3'")
    os.remove(path)
    assert.same({ 3, "Linux\nof the host\n29\n", "more\n" }, { r.status, r.out, r.err })
  end)

  it("runs a shell, which hears all that was typed before it is there", function()
    local r = program.run("echo 'echo $((6 * 7)); exit 4' | P linux --deadline 100")
    assert.same({ 4, "" }, { r.status, r.err })
    assert.match("\n42\r\n", r.out)
  end)

  it("is booted by minikvm run, which knows a kernel", function()
    local r = program.run("echo 'cat /proc/cmdline; exit 5' | P run --cmdline a=b --deadline 100 "
                          .. KERNEL)
    assert.equal(5, r.status)
    assert.match("console=ttyS0 [^\n]* a=b\r\n", r.out)
    assert.match("^minikvm: vmlinuz: exit: [^\n]*\n$", r.err)
  end)

  it("forks after it has booted; a panic is told with its last lines", function()
    local vm <close> = support.vm{ mode = "linux" }
    local init = "#!/bin/sh\n/bin/busybox echo booted\nread -r line\nexit ${line#exit }\n"
    assert(vm:load(KERNEL, { cmdline = "quiet", initrd = { bytes = assert(kvm.initrd{
      busybox = true, init = init, nodes = { ["dev/console"] = { "c", 5, 1 } } }) } }))
    vm.console:expect("booted\r\n", { timeout = 100 })
    local children <const> = assert(vm:fork(2))
    for i, child in ipairs(children) do
      child.console:echo(false)
      child.console:sendline(("exit %d"):format(i))
      local reason, info = child:run{ deadline = 60 }
      local panic = ("Attempted to kill init! exitcode=0x%08x"):format(i << 8) -- wait(2)
      assert.equal("shutdown", reason)
      assert.truthy(info.text:find("Linux panicked: " .. panic, 1, true), info.text)
      assert.truthy(info.report:find(panic, 1, true), info.report)
      child:close()
    end
  end)
end)
