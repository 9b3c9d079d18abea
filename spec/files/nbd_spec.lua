-- Disks of NBD servers (src/files/nbd.h): kvm.disk{ path = "nbd..." }, and a guest on one. Servers:
-- nbdkit(1), qemu-nbd(8); where they are not installed nothing is tested.

local drive = require "support.blk"
local kvm = require "minikvm"
local process = require "support.process"
local support = require "support.guest"

local function installed(name) return os.execute("command -v " .. name .. " >/dev/null 2>&1") end

---A server at a socket of its own; what `start` says has %s for its socket and its file of the
---process number; at: which socket, one of its own by default.
---@return string uri
---@return fun() stop
local function serve(start, at)
  local socket, pid_file = at or os.tmpname(), os.tmpname()
  os.remove(socket)
  os.remove(pid_file)
  assert(os.execute(start:format(socket, pid_file)))
  local pid
  process.await(function()
    local file <close> = io.open(pid_file)
    pid = file and file:read "n"
    return pid
  end)
  return "nbd+unix:///?socket=" .. socket, function()
    os.execute(("kill -9 %d; while grep -q '^State:.[^ZX]' /proc/%d/status 2>/dev/null; do "
      .. "sleep 0.01; done"):format(pid, pid))
    os.remove(socket)
    os.remove(pid_file)
  end
end

local NBDKIT <const> = "nbdkit -U %s -P %s "

describe("a disk of an NBD server", function()
  if not installed "nbdkit" then
    pending "nbdkit is not installed"
    return
  end

  it("is read, written and flushed, or has what is written kept in memory", function()
    local uri, stop = serve(NBDKIT .. "memory 4M")
    local disk <close> = assert(kvm.disk{ path = uri, write = true })
    assert.equal(4 << 20, disk:size())
    assert.equal("\0\0\0", disk:read(5000, 3))
    assert(disk:write(4095, "abc"))
    assert(disk:flush())
    local layered <close> = assert(kvm.disk{ path = uri })
    assert.equal("\0abc", layered:read(4094, 4))
    assert(layered:write(4096, "B"))
    assert.equal("\0aBc", layered:read(4094, 4))
    assert.equal("\0abc", disk:read(4094, 4))
    stop()
    local data, why = disk:read(0, 1)
    assert.is_nil(data)
    assert.matches("^nbd%+unix:.*: nbd_", why)
  end)

  it("says what a server refuses, and when there is none", function()
    local uri, stop = serve(NBDKIT .. "-r memory 4M")
    local disk, why, code = kvm.disk{ path = uri, write = true }
    assert.same({ nil, uri .. ": the server lets nobody write to it", "EROFS" },
                { disk, why, code })
    stop()
    disk, why, code = kvm.disk{ path = uri }
    assert.same({ nil, "ENOENT" }, { disk, code })
    assert.matches("No such file or directory", why)
    disk, why = kvm.disk{ path = "nbd+fax://example/" }
    assert.is_nil(disk)
    assert.matches("nbd%+fax://example/: .*unknown NBD URI scheme", why)
  end)

  it("comes back when its server does", function()
    local uri, stop = serve(NBDKIT .. "memory 4M")
    local disk <close> = assert(kvm.disk{ path = uri })
    stop()
    assert.is_nil((disk:read(0, 1)))
    stop = select(2, serve(NBDKIT .. "memory 4M", uri:match "socket=(.*)"))
    process.await(function() return disk:read(0, 1) end)
    stop()
  end)

  if support.without_kvm(pending) then return end

  it("is a guest's: with requests, errors of the server, flushes, zeros and discards", function()
    local uri, stop = serve(NBDKIT .. "--filter=error memory 4M error=ENOSPC error-pwrite-rate=1 "
      .. "error-file=/tmp/minikvm-nbd-spec-error")
    local vm <close>, d = drive.machine{ path = uri, write = true }
    local request = drive.request
    assert.equal(0, request(vm, drive.OUT, 3, 1024, ("n"):rep(1024)))
    assert.equal(0, request(vm, drive.FLUSH, 0, 0))
    assert.equal(0, request(vm, drive.ZERO, 0, 16, ("<I8I4I4"):pack(4, 1, 1)))
    assert.equal(0, request(vm, drive.DISCARD, 0, 16, ("<I8I4I4"):pack(100, 8, 0)))
    assert.equal(0, request(vm, drive.IN, 3, 1024))
    assert.equal(("n"):rep(512) .. ("\0"):rep(512), vm.memory:read(drive.DATA, 1024))
    local trigger = assert(io.open("/tmp/minikvm-nbd-spec-error", "w"))
    trigger:close()
    assert.equal(1, request(vm, drive.OUT, 3, 512, "x"))
    os.remove "/tmp/minikvm-nbd-spec-error"
    assert.matches("No space left on device", d.state.failure)
    assert.equal(0, request(vm, drive.OUT, 3, 512, "x"))
    stop()
    assert.equal(1, request(vm, drive.IN, 3, 512))
  end)

  it("is a guest's: qcow2, by qemu-nbd", function()
    if not (installed "qemu-nbd" and installed "qemu-img") then
      return pending "qemu-nbd is not installed"
    end
    local image = process.temporary()
    assert(os.execute(("qemu-img create -q -f qcow2 %s 4M"):format(image)))
    local start = "qemu-nbd --fork -f qcow2 -k %s --pid-file=%s " .. image
    local uri, stop = serve(start)
    do
      local vm <close> = drive.machine{ path = uri, write = true }
      assert.equal(0, drive.request(vm, drive.OUT, 9, 512, ("q"):rep(512)))
      assert.equal(0, drive.request(vm, drive.FLUSH, 0, 0))
    end
    stop()
    uri, stop = serve(start)
    local vm <close> = drive.machine{ path = uri }
    assert.equal(0, drive.request(vm, drive.IN, 9, 512))
    assert.equal(("q"):rep(512), vm.memory:read(drive.DATA, 512))
    vm:close()
    stop()
    os.remove(image)
  end)
end)
