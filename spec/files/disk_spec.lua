-- Disks of devices made in Lua: images and what is written over them, in snapshots, forks and
-- files; images that are no disk, are cut off, or replaced.

local kvm = require "minikvm"
local lfs = require "lfs"
local process = require "support.process"
local program = require "support.program"
local support = require "support.guest"

local out, into, run = support.out, support.into, support.run

local BLOCK <const> = 4096

---An image of so many bytes, which are those of their numbers' last digits.
local function image(bytes)
  return process.temporary(("0123456789"):rep(bytes // 10 + 1):sub(1, bytes))
end

---A device whose one register reads and writes the first byte of sector 1.
local function drive(opts)
  return kvm.device{
    name = "drive", registers = { [0] = "BYTE" },
    attach = function(d) d.own.disk = d:use_disk(assert(kvm.disk(opts))) end,
    write = { BYTE = function(d, _, value)
      assert(d.own.disk:write(512, string.char(value)))
    end },
    read = { BYTE = function(d) return assert(d.own.disk:read(512, 1)):byte() end },
  }
end

---A guest that reads the byte to 0x1000, writes 0x41, halts; and reads it to 0x1004.
local function guest(opts)
  local vm = support.program({ into(0x1000, 0x300), out(0x300, 0x41), "\xf4",
                               into(0x1004, 0x300) })
  return vm, vm:attach(drive(opts), { ports = 0x300 }).own.disk
end

describe("kvm.disk", function()
  it("reads an image, and keeps what is written over it to itself", function()
    local path = image(3 * BLOCK + 700)
    local disk <close> = assert(kvm.disk{ path = path })
    assert.equal(3 * BLOCK + 1024, disk:size())
    assert.equal("890123", disk:read(BLOCK + 2, 6))
    assert.equal(("\0"):rep(324), disk:read(3 * BLOCK + 700, 324))
    assert.equal(disk, disk:write(BLOCK - 2, "abcd"))
    assert.equal("3abcd89", disk:read(BLOCK - 3, 7))
    assert.equal(2 * BLOCK, disk:written())
    assert.equal(3 * BLOCK + 700, lfs.attributes(path, "size"))
    assert.is_nil(support.read_file(path):find("abcd", 1, true))
    os.remove(path)
    assert.equal("3abcd89", disk:read(BLOCK - 3, 7)) -- the open file, whatever its name is now
  end)

  it("writes to the file when it is told to", function()
    local path = image(2 * BLOCK)
    local disk <close> = assert(kvm.disk{ path = path, write = true })
    assert(disk:write(510, "abcd"))
    assert(disk:flush())
    assert.equal("abcd", support.read_file(path):sub(511, 514))
    assert.is_nil(disk:written())
    os.remove(path)
  end)

  it("does not write where it must not, and says so", function()
    -- man 2 open, ETXTBSY: a program that runs, which not even root opens to write
    local busy = program.run("P -e 'local d, _, code = kvm.disk{ path = arg[0], write = true } "
      .. "print(d, code, (kvm.disk{ path = arg[0] }))'")
    assert.matches("^nil\tETXTBSY\tminikvm.disk ", busy.out)
    -- man 2 setrlimit, RLIMIT_FSIZE: beyond it SIGXFSZ ends a process that does not look
    local path = image(64 << 10)
    local r = program.run(([[ulimit -f 8; %s P -e 'local d = kvm.disk{ path = "%s", write = true }
      print(d:write(0, "x"), select(3, d:write(32768, "x")))']]):format(process.SMALL_FILES, path))
    assert.same({ 0, ("minikvm.disk %s\tEFBIG\n"):format(path), "" }, { r.status, r.out, r.err })
    os.remove(path)
  end)

  it("is made in memory, too", function()
    local disk <close> = assert(kvm.disk{ bytes = "abc", size = 1024 })
    assert.equal(1024, disk:size())
    assert.equal("abc\0", disk:read(0, 4))
    local large <close> = assert(kvm.disk{ size = 1 << 40 })
    assert(large:write((1 << 40) - 4, "last"))
    assert.equal("\0last", large:read((1 << 40) - 5, 5))
    assert.equal(BLOCK, large:written())
  end)

  it("takes an image of 10^12 bytes that is a hole", function()
    local path = process.temporary ""
    assert(kvm.disk{ path = image(512) }) -- the host's files work
    local file = assert(io.open(path, "r+b"))
    file:seek("set", 10 ^ 12 // 1 - 1)
    file:write "x"
    file:close()
    local disk <close> = assert(kvm.disk{ path = path })
    os.remove(path)
    assert.equal(1000000000000, disk:size())
    assert.equal("\0x", disk:read(disk:size() - 2, 2))
    assert(disk:write(disk:size() - 512, ("y"):rep(512)))
    assert.equal("yy", disk:read(disk:size() - 2, 2))
  end)

  it("refuses what is no disk, with a reason", function()
    local function refused(bytes, pattern)
      local path = image(bytes)
      local disk, why, code = kvm.disk{ path = path }
      os.remove(path)
      assert.is_nil(disk)
      assert.matches(pattern, why)
      assert.equal("EINVAL", code)
    end
    refused(0, "the disk image is empty")
    refused(511, "a disk has sectors of 512 bytes, this image has 511 bytes")
    for path, what in pairs{ ["/nowhere"] = "ENOENT", ["/"] = "EISDIR",
                             ["/dev/null"] = "EINVAL" } do
      local disk, why, code = kvm.disk{ path = path }
      assert.is_nil(disk)
      assert.equal(what, code)
      assert.matches("^" .. path .. ": ", why)
    end
  end)

  it("blames options that do not go together on the script", function()
    local function blamed(opts, pattern)
      local ok, why = pcall(kvm.disk, opts)
      assert.is_false(ok)
      assert.matches("disk_spec.lua:%d+: kvm.disk: .*" .. pattern, why)
    end
    blamed({}, "give 'path'")
    blamed({ path = "x", size = 512 }, "'size' and 'bytes' are for a disk without 'path'")
    blamed({ size = 512, write = true }, "'write' is for a file")
    blamed({ size = 513 }, "not whole sectors")
    blamed({ size = 512, bytes = ("x"):rep(513) }, "do not fit")
    blamed({ pathh = "x" }, "unknown option 'pathh' %(did you mean 'path'%?%)")
  end)

  it("checks what is read and written", function()
    local disk <close> = assert(kvm.disk{ size = 1024 })
    for _, range in ipairs{ { 1024, 1 }, { -1, 1 }, { 0, 1025 }, { math.maxinteger, 2 } } do
      local ok, why = pcall(disk.read, disk, range[1], range[2])
      assert.is_false(ok)
      assert.matches("lie outside of its 1024 bytes", why)
    end
    assert.equal("", disk:read(1024, 0))
    local ok, why = pcall(disk.write, disk, 1023, "xy")
    assert.is_false(ok)
    assert.matches("lie outside", why)
  end)

  it("has a limit to what is written in memory", function()
    local disk <close> = assert(kvm.disk{ size = "1M", limit = 2 * BLOCK })
    assert(disk:write(0, ("x"):rep(BLOCK)))
    assert(disk:write(5 * BLOCK, "x"))
    local done, why, code = disk:write(9 * BLOCK, "x")
    assert.is_nil(done)
    assert.equal("ENOSPC", code)
    assert.matches("has 8192 bytes, as many as it may", why)
    assert(disk:write(5 * BLOCK + 7, "y")) -- what is there may change
  end)

  it("reports an image that was cut off while it was in use", function()
    local path = image(4 * BLOCK)
    local disk <close> = assert(kvm.disk{ path = path })
    assert(disk:write(3 * BLOCK, ("x"):rep(BLOCK)))
    io.open(path, "wb"):write(("z"):rep(BLOCK)):close()
    assert.equal("z", disk:read(0, 1))
    assert.equal("x", disk:read(3 * BLOCK, 1))
    for _, try in ipairs{ { "read", 2 * BLOCK, 512 }, { "write", 2 * BLOCK, "x" } } do
      local done, why, code = disk[try[1]](disk, try[2], try[3])
      assert.is_nil(done)
      assert.equal("EIO", code)
      assert.matches("the file ends at %d+, it had 16384 bytes when it was opened", why)
    end
    os.remove(path)
  end)
end)

describe("what a guest wrote to a disk", function()
  if support.without_kvm(pending) then return end

  it("goes with a restore, a fork and a file, and the image stays as it was", function()
    local path = image(2 * BLOCK)
    local vm <close> = guest{ path = path }
    run(vm)
    assert.equal(0x32, vm.memory:u8(0x1000)) -- "2": byte 512
    local snap = assert(vm:snapshot())
    run(vm)
    assert.equal(0x41, vm.memory:u8(0x1004))
    local setup = function(child) child:attach(drive{ path = path }, { ports = 0x300 }) end
    local file = os.tmpname()
    assert(snap:save(file))
    assert(vm:restore(snap))
    local child <close> = vm:fork(setup)
    local again <close> = assert(kvm.load_snapshot(file)):vm{ echo = false, setup = setup }
    os.remove(file)
    for _, one in ipairs{ vm, child, again } do
      assert.equal("halt", (run(one)))
      assert.equal(0x41, one.memory:u8(0x1004))
    end
    assert.equal("2", support.read_file(path):sub(513, 513))
    os.remove(path)
  end)

  it("is forgotten by a restore to what was before it, and by a reset", function()
    local vm <close>, disk = guest{ bytes = ("x"):rep(1024) }
    local snap = vm:snapshot()
    for i = 1, 6 do
      run(vm)
      assert.equal(("x"):byte(), vm.memory:u8(0x1000))
      assert.equal("A", disk:read(512, 1))
      if i % 2 == 0 then vm:restore(snap) else vm:reset() end
      assert.equal("x", disk:read(512, 1))
    end
  end)

  it("is shared: a snapshot of a full disk takes no copy", function()
    local vm <close>, disk = guest{ size = "64M" }
    for at = 0, disk:size() - 1, 1 << 20 do disk:write(at, ("x"):rep(1 << 20)) end
    local function resident()
      return tonumber(support.read_file "/proc/self/status":match "VmRSS:%s*(%d+)")
    end
    local snaps, before = {}, resident()
    for i = 1, 20 do
      snaps[i] = assert(vm:snapshot())
      disk:write(i * BLOCK, tostring(i))
    end
    assert.is_true(resident() - before < 32 << 10) -- KiB; copies would be 1.2 GiB
    vm:restore(snaps[3])
    assert.equal("2", disk:read(2 * BLOCK, 1))
    assert.equal("x", disk:read(3 * BLOCK, 1))
  end)

  it("does not go over another image", function()
    local path = image(2 * BLOCK)
    local vm <close> = guest{ path = path }
    run(vm)
    local snap = vm:snapshot()
    local function other(opts)
      local ok, why = pcall(snap.vm, snap, { echo = false, setup = function(child)
        child:attach(drive(opts), { ports = 0x300 })
      end })
      assert.is_false(ok)
      return why
    end
    io.open(path, "r+b"):write("?"):close()
    assert.matches("disk 1 of device \"drive\" is another image now", other{ path = path })
    assert.matches("had 8192 bytes, it has 1024", other{ size = 1024 })
    assert.matches("writes to its file now", other{ path = path, write = true })
    os.remove(path)
  end)

  it("is one device's", function()
    local disk <close> = assert(kvm.disk{ size = 512 })
    local vm <close> = support.vm()
    local def = kvm.device{ name = "two", attach = function(d) d:use_disk(disk) end }
    vm:attach(def, {})
    local ok, why = pcall(vm.attach, vm, def, {})
    assert.is_false(ok)
    assert.matches("another device's already", why)
    vm:close()
    ok, why = pcall(disk.read, disk, 0, 1)
    assert.is_false(ok)
    assert.matches("the disk is closed", why)
  end)
end)
