-- Holes (man 2 lseek, SEEK_HOLE) take no room: of a guest's files in snapshots and copies of them,
-- and of a snapshot's own file. The folders must lie on a file system that has holes (ext4, xfs,
-- tmpfs).

local kvm = require "minikvm"
local files = require "support.files"
local lfs = require "lfs"
local support = require "support.guest"

local GIB <const> = 1 << 30
local CREATE <const> = files.READ | files.WRITE | files.CREATE

---Blocks on the disk of all files in a folder, in bytes.
local function on_disk(folder)
  local sum = 0
  for _, name in ipairs(files.names(folder)) do
    sum = sum + lfs.attributes(folder .. "/" .. name, "blocks") * 512
  end
  return sum
end

local function resident()
  return tonumber(support.read_file("/proc/self/status"):match "VmHWM:%s*(%d+)") << 10
end

---A guest with four files of 1 GiB: bytes at 0, 5000 and the end, and a block of zeros that it
---wrote.
local function sparse_guest()
  local guest = files.guest("block", kvm.files{ max_bytes = 200000 })
  for i = 1, 4 do
    local fd = guest:open("f" .. i, CREATE)
    for offset, data in pairs{ [0] = "first" .. i, [5000] = "second", [65536] = ("\0"):rep(8192),
                               [GIB - 5] = "last" .. i } do
      assert.equal(offset, guest:seek(fd, offset, 0))
      assert.equal(#data, guest:write(fd, data))
    end
    guest:close(fd)
  end
  return guest
end

local function check_files(guest)
  assert.is_true(on_disk(guest.vm.files:directory()) < 1 << 20)
  for i = 1, 4 do
    local fd = guest:open("f" .. i, files.READ)
    assert.equal(GIB, guest:stat(fd))
    local _, head = guest:read(fd, 5010)
    assert.equal("first" .. i .. ("\0"):rep(4994) .. "second\0\0\0\0", head)
    guest:seek(fd, GIB - 10, 0)
    assert.equal(("\0"):rep(5) .. "last" .. i, select(2, guest:read(fd, 10)))
    guest:close(fd)
  end
end

describe("a hole", function()
  if support.without_kvm(pending) then return end

  it("of a guest's file stays one in a snapshot, a restore, a fork and a snapshot's file",
     function()
    local guest = sparse_guest()
    local before = resident()
    local snap <close> = assert(guest.vm:snapshot())
    guest:put("f1", "something else")
    assert(guest.vm:restore(snap))
    check_files(guest)
    local path = os.tmpname()
    assert(snap:save(path))
    assert.is_true(lfs.attributes(path, "size") < 1 << 20)
    local loaded <close> = assert(kvm.load_snapshot(path))
    os.remove(path)
    for _, vm in ipairs{ assert(guest.vm:fork()), assert(snap:vm()), assert(loaded:vm()) } do
      local new = setmetatable({ vm = vm }, { __index = guest })
      check_files(new)
      vm:close()
    end
    assert.is_true(resident() - before < 64 << 20)
    guest.vm:close()
  end)

  it("of a snapshot's file is refused before it is read", function()
    local path = os.tmpname()
    local vm <close> = support.code("f4", { memory = "64K" })
    local snap <close> = assert(vm:snapshot())
    assert(snap:save(path))
    local head = support.read_file(path):sub(1, 12)
    local before = resident()
    for _, state in ipairs{ 4 * GIB - 40, 100 } do -- all of it the state; or RAM
      local file <close> = assert(io.open(path, "wb"))
      file:write(head, ("<I4I8I8I8"):pack(0, 4 * GIB, 4 * GIB, state))
      file:seek("set", 4 * GIB - 1)
      file:write "x"
      file:flush()
      local loaded, why, code = kvm.load_snapshot(path)
      assert.is_nil(loaded)
      assert.matches("the snapshot is damaged: most of it is a hole", why)
      assert.equal("EBADMSG", code)
    end
    os.remove(path)
    assert.is_true(resident() - before < 64 << 20)
  end)

  it("may be in the copy of a snapshot's file, where its zeros are", function()
    local path = os.tmpname()
    local vm <close> = support.code("f4", { memory = "16M" })
    for i = 0, 2000 do vm.memory:write(i * 8192 + 4095, "x") end
    local snap <close> = assert(vm:snapshot())
    assert(snap:save(path))
    assert(os.execute(("cp --sparse=always %s %s.copy && mv %s.copy %s")
                        :format(path, path, path, path)))
    local _ <close> = assert(kvm.load_snapshot(path))
    os.remove(path)
  end)
end)
