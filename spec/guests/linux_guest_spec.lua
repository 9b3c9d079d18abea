-- Debian's kernel, booted on a stock KVM: kvm_pvm does not run Linux's user space.
-- tools/linux-kernel fetches the kernel; tools/stock runs this in an emulated machine.

local host = require "support.linux"
local kvm = require "minikvm"
local program = require "support.program"
local support = require "support.guest"

describe("Linux on a stock KVM", function()
  if host.without_linux(pending) then return end

  it("runs a command: its output on stdout, its status, files of the host", function()
    local path = program.file "of the host\n"
    local r = program.run("P linux --file etc/made=" .. path .. " --deadline 100 --run "
      .. "'uname -s; cat /etc/made; printf %s \"$PATH\" | wc -c; echo more >&2; exit 3'")
    os.remove(path)
    assert.same({ 3, "Linux\nof the host\n29\n", "more\n" }, { r.status, r.out, r.err })
  end)

  it("says where a kernel comes from when there is none", function()
    local r = program.run("XDG_CACHE_HOME=/nosuch P linux --deadline 1 --run true")
    if r.status == 124 then pending "there is one in /boot" return end
    assert.same({ 1, "minikvm: linux: no kernel: tools/linux-kernel (installed: share/minikvm/"
                  .. "tools) fetches Debian's, --kernel names another\n" }, { r.status, r.err })
  end)

  it("cannot start with a disk, or an initrd, that is not there", function()
    for _, option in ipairs{ "--disk", "--initrd" } do
      local r = program.run("P linux " .. option .. " /nosuch")
      assert.same({ 1, "minikvm: linux: /nosuch: No such file or directory\n" },
                  { r.status, r.err })
    end
  end)

  it("keeps the order of what is printed to stdout and to stderr", function()
    local r = program.run("P linux --deadline 100 --run "
      .. "'for i in 1 2 3; do echo out $i; echo error $i >&2; done' 2>&1")
    assert.equal("out 1\nerror 1\nout 2\nerror 2\nout 3\nerror 3\n", r.out)
  end)

  it("runs a shell, which hears all that was typed before it is there", function()
    local r = program.run("echo 'echo $((6 * 7)); exit 4' | P linux --deadline 100")
    assert.same({ 4, "" }, { r.status, r.err })
    assert.match("\n42\r\n", r.out)
  end)

  it("comes to the first instruction of init with few exits", function()
    -- an ELF64 file (gABI, chapter 4): iopl(3); mov edx, 0xf4; mov eax, 1; out dx, eax
    local code = support.bytes
      "bf 03 00 00 00 b8 ac 00 00 00 0f 05 ba f4 00 00 00 b8 01 00 00 00 ef"
    local at, size = 0x400000, 120 + #code
    local init = "\x7fELF\2\1\1" .. ("\0"):rep(9)
      .. ("<I2I2I4I8I8I8I4I2I2I2I2I2I2"):pack(2, 62, 1, at + 120, 64, 0, 0, 64, 56, 1, 64, 0, 0)
      .. ("<I4I4I8I8I8I8I8I8"):pack(1, 7, 0, at, at, size, size, 4096) .. code
    local vm <close> = support.vm{ mode = "linux" }
    assert(vm:load(host.KERNEL, { cmdline = "quiet", initrd = { bytes = assert(kvm.initrd{
      files = { init = { bytes = init } }, nodes = { ["dev/console"] = { "c", 5, 1 } } }) } }))
    local reason, info = vm:run{ deadline = 100 }
    assert.equal("exit", reason)
    local ticking, seconds = info.by.irq_window or 0, vm.clock.now
    for _, row in ipairs(vm:stats()) do
      if row.owner == "pic" or row.owner == "pit" then ticking = ticking + row.accesses end
    end
    assert.is_true(info.exits - ticking < 420, info.exits - ticking) -- whatever the host's speed
    assert.is_true(ticking < 250 * 7 * seconds, ticking) -- HZ; IN, OUT and window of a tick
  end)

  it("has the disks of minikvm run, whose images change with --disk-write alone", function()
    local path = program.file(("MINIKVM!"):rep(128))
    local input = "head -c 8 /dev/vda; printf written >/dev/vda; sync; exit 5"
    for _, case in ipairs{ { "", "MINIKVM!" }, { "--disk-write", "written!" } } do
      local r = program.run(("P run %s --disk %s --deadline 100 %s"):format(case[1], path,
                            host.KERNEL), { stdin = input .. "\n" })
      assert.same({ 5, true }, { r.status, r.out:find("MINIKVM!", 1, true) ~= nil }, r.err)
      local file <close> = assert(io.open(path, "rb"))
      assert.equal(case[2], file:read(8))
    end
    os.remove(path)
  end)

  it("is booted by minikvm run, which knows a kernel", function()
    local r = program.run("echo 'cat /proc/cmdline; exit 5' | P run --cmdline a=b --deadline 100 "
                          .. host.KERNEL)
    assert.equal(5, r.status)
    assert.match("console=ttyS0 [^\n]* a=b\r\n", r.out)
    assert.match("^minikvm: vmlinuz: exit: [^\n]*\n$", r.err)
  end)

  it("is booted from its vmlinux, too, by the PVH note", function()
    local bytes <const> = support.read_file(host.KERNEL)
    -- setup_sects, payload_offset, payload_length (boot.rst); behind LZ4 frames their unpacked size
    local start = (bytes:byte(0x1f2) + 1) * 512
    local offset, length = ("<I4I4"):unpack(bytes, 0x249)
    local packed = program.file(bytes:sub(start + offset + 1, start + offset + length - 4))
    local path = packed .. ".elf"
    local unpacked = os.execute(("lz4 -dqf %s %s 2>/dev/null"):format(packed, path))
    os.remove(packed)
    if not unpacked then pending "no lz4, or a kernel that is packed otherwise" return end
    local r = program.run("P linux --deadline 100 --run 'uname -s; exit 3' --kernel " .. path)
    os.remove(path)
    assert.same({ 3, "Linux\n", "" }, { r.status, r.out, r.err })
  end)

  it("forks after it has booted; a panic is told with its last lines", function()
    local vm <close> = support.vm{ mode = "linux" }
    local init = "#!/bin/sh\n/bin/busybox echo booted\nread -r line\nexit ${line#exit }\n"
    assert(vm:load(host.KERNEL, { cmdline = "quiet", initrd = { bytes = assert(kvm.initrd{
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
