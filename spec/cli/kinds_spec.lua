-- minikvm run with files that are more than an image: snapshots, Linux kernels. That a shell under
-- Linux works is shown by spec/guests/linux_guest_spec.lua.

local kvm = require "minikvm"
local program = require "support.program"
local support = require "support.guest"

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

local function write(path, bytes)
  local file <close> = assert(io.open(path, "wb"))
  file:write(bytes)
end

describe("minikvm run", function()
  if support.without_kvm(pending) then return end

  it("goes on with a snapshot", function()
    local vm <close> = support.vm{ mode = "protected", name = "before" }
    -- mov al, 'a'; out 0xe9, al; hlt; mov al, 'b'; out 0xe9, al; mov al, 3; out 0xf4, al
    assert(vm:load{ bytes = support.bytes "b0 61 e6 e9 f4 b0 62 e6 e9 b0 03 e6 f4" })
    assert.equal("halt", (support.run(vm)))
    local snap <close>, path = assert(vm:snapshot()), program.file ""
    assert(snap:save(path))
    local r = program.run("P run --name s " .. path)
    assert.same({ 3, "b" }, { r.status, r.out })
    assert.matches("^minikvm: s: exit: the guest wrote 3 to the exit port\n$", r.err)
    r = program.run("P run --memory 4M " .. path)
    assert.equal(2, r.status)
    assert.matches("--memory: it is a snapshot, which has that in it", r.err, 1, true)
    write(path, read(path):sub(1, 100))
    r = program.run("P run " .. path)
    os.remove(path)
    assert.equal(1, r.status)
    assert.matches("truncated", r.err)
  end)

  it("says that a snapshot with devices in Lua takes a script", function()
    local vm <close> = support.vm()
    vm:attach(kvm.device{ name = "adc", registers = { [0] = "DATA" } }, { ports = 0x300 })
    assert(vm:load{ bytes = "\xf4" })
    local snap <close>, path = assert(vm:snapshot()), program.file ""
    assert(snap:save(path))
    local r = program.run("P run " .. path)
    os.remove(path)
    assert.equal(1, r.status)
    assert.matches("devices in Lua.*a script resumes it", r.err)
  end)

  it("knows a vmlinux by its notes", function()
    -- ELF32 with a segment of notes: XEN_ELFNOTE_PHYS32_ENTRY, and one of Linux's (build-salt.h)
    local function file(owner)
      local notes = ("<I4I4I4c4I4"):pack(4, 4, 18, "Xen\0", 0x100000)
        .. ("<I4I4I4c8I4"):pack(6, 4, 0x100, owner, 0)
      return "\x7fELF\1\1\1" .. ("\0"):rep(9)
        .. ("<I2I2I4I4I4I4I4I2I2I2I2I2I2"):pack(2, 3, 1, 0x100000, 52, 0, 0, 52, 32, 2, 40, 0, 0)
        .. ("<I4I4I4I4I4I4I4I4"):pack(4, 116, 0, 0, #notes, #notes, 0, 4)
        .. ("<I4I4I4I4I4I4I4I4"):pack(1, 116 + #notes, 0x100000, 0x100000, 1, 1, 7, 1)
        .. notes .. "\xf4"
    end
    for owner, linux in pairs{ ["Linux\0"] = true, ["Other\0"] = false } do
      local path = program.file(file(owner))
      local r = program.run("P run --at 4096 " .. path)
      os.remove(path)
      assert.equal(linux, r.err:find("--at: it is a Linux kernel", 1, true) ~= nil, r.err)
    end
  end)

  it("boots a Linux kernel as minikvm linux does, where this host can", function()
    -- boot_flag and header (Linux, Documentation/arch/x86/boot.rst)
    local path = program.file(("\0"):rep(510) .. "\x55\xaa\0\0HdrS" .. ("\0"):rep(4096))
    local r = program.run("P run --at 4096 " .. path)
    assert.equal(2, r.status)
    assert.matches("--at: it is a Linux kernel, which says that itself", r.err, 1, true)
    r = program.run("P run --mode real " .. path)
    assert.equal(1, r.status)
    assert.matches("starts in 64%-bit mode", r.err)
    r = program.run("P run --disk-write " .. path)
    assert.equal(2, r.status)
    assert.matches("--disk-write: no disk is named by --disk", r.err, 1, true)
    if kvm.probe().host == "pvm" then
      for options, disk in pairs{ [""] = "\n", ["--disk a"] = " --disk a,cow\n",
                                  ["--disk a --disk-write"] = " --disk a\n" } do
        r = program.run(("P run %s %s"):format(options, path))
        assert.equal(1, r.status)
        assert.matches("tools/stock -- ./minikvm linux --kernel " .. path .. disk, r.err, 1, true)
      end
    end
    os.remove(path)
  end)

  it("takes no ELF file for a disk", function()
    local r = program.run "P run --disk guests/real/disk.bin guests/boot/pvh.elf"
    assert.equal(2, r.status)
    assert.matches("pvh.elf: an ELF file is no disk to boot from", r.err, 1, true)
  end)
end)
