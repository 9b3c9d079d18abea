-- Snapshots in files and in other processes, forks, files of the guest, devices of the script; and
-- everything that must be refused.

local kvm = require "minikvm"
local lfs = require "lfs"
local process = require "support.process"
local support = require "support.guest"

local STOP <const> = 0x10

---A guest that stops by OUT 0x10: "e6 10".
local function stopping(listing, opts)
  local vm = support.code(listing, opts)
  vm.ports:on(STOP, { write = function() vm:stop() end })
  return vm
end

local COUNTER <const> = "fe 06 00 08 e6 10 eb f8" -- inc byte [0x800]; stop; again

local function counter(opts)
  local vm = stopping(COUNTER, opts)
  assert.equal("stopped", (support.run(vm)))
  return vm
end

---A counter's snapshot in a file, as bytes too.
local function saved()
  local path = os.tmpname()
  local vm <close> = counter{ memory = "64K" }
  local snap <close> = assert(vm:snapshot())
  assert.equal(snap, assert(snap:save(path)))
  return path, support.read_file(path)
end

local function load_bytes(bytes)
  local path = process.temporary(bytes)
  local snap, why, code = kvm.load_snapshot(path)
  os.remove(path)
  return snap, why and why:gsub("^" .. path:gsub("%p", "%%%0") .. ": ", ""), code
end

local crc_table = {}
for i = 0, 255 do
  local c = i
  for _ = 1, 8 do c = c & 1 == 1 and 0xedb88320 ~ c >> 1 or c >> 1 end
  crc_table[i] = c
end

---The bytes with the checksum that they should have.
local function signed(bytes)
  local c = 0xffffffff
  for i = 25, #bytes do c = crc_table[(c ~ bytes:byte(i)) & 255] ~ c >> 8 end
  return bytes:sub(1, 12) .. ("<I4"):pack(c ~ 0xffffffff) .. bytes:sub(17)
end

describe("a snapshot's file", function()
  if support.without_kvm(pending) then return end

  it("goes on in another process, in every mode", function()
    local cases = {
      { "real/primes", { mode = "real" } }, { "prot/hello", { mode = "protected" } },
      { "prot/cr3switch", { mode = "paged" } }, { "long/idt", { mode = "long" } },
    }
    local want, paths, code = {}, {}, { "local snap\n" }
    for i, case in ipairs(cases) do
      local name, opts = table.unpack(case)
      opts.coalesce = false
      opts.irqchip = support.expectation(name).irqchip
      local vm <close> = support.guest(name, opts)
      vm.console:eof()
      assert.equal("limit", (vm:run{ exits = 4, deadline = 20 }))
      local snap <close> = assert(vm:snapshot())
      paths[i] = os.tmpname()
      assert(snap:save(paths[i]))
      support.run(vm)
      want[i] = vm.console:text()
      code[#code + 1] = ([[
        vm = assert(assert(kvm.load_snapshot(%q)):vm{ echo = false })
        assert(vm:run{ deadline = 20 })
        local text = vm.console:text()
        io.write(#text, "\n", text)
      ]]):format(paths[i])
    end
    local pipe, _, script = process.child(table.concat(code))
    pipe:read "l"
    for i = 1, #cases do
      local length = pipe:read "n"
      pipe:read "l"
      assert.equal(want[i], length and pipe:read(length), cases[i][1])
    end
    process.finish(pipe)
    os.remove(script)
    for _, path in ipairs(paths) do os.remove(path) end
  end)

  it("holds everything that a restore needs, and can be restored into a VM of the shape", function()
    local path = saved()
    local snap <close> = assert(kvm.load_snapshot(path))
    assert.same({ "vm", "real", 65536, 1, "none" },
                { snap.name, snap.mode, snap.memory, snap.cpus, snap.irqchip })
    local vm <close> = counter{ memory = "64K" }
    for _ = 1, 3 do
      support.run(vm)
      assert(vm:restore(snap))
      assert.equal(1, vm.memory:u8(0x800))
    end
    os.remove(path)
  end)

  it("is refused when it is truncated, anywhere", function()
    local path, bytes = saved()
    for length = 0, #bytes - 1 do
      if length < 300 or length % 61 == 0 or length > #bytes - 50 then
        local snap, why, code = load_bytes(bytes:sub(1, length))
        assert.is_nil(snap)
        assert.matches(length < 24 and "^not a snapshot of minikvm$" or
                       "^the snapshot is truncated: %d+ bytes of %d+$", why)
        assert.equal(length < 24 and "EINVAL" or "EBADMSG", code)
      end
    end
    local _, why = load_bytes(bytes .. "x")
    assert.matches("truncated", why)
    os.remove(path)
  end)

  it("is refused when a byte was altered, anywhere", function()
    local path, bytes = saved()
    for at = 1, #bytes do
      if at < 200 or at % 37 == 0 then
        local byte = string.char(bytes:byte(at) ~ 0x40)
        local altered = bytes:sub(1, at - 1) .. byte .. bytes:sub(at + 1)
        assert.is_nil((load_bytes(altered)), at)
      end
    end
    os.remove(path)
  end)

  it("does no harm when it was altered and its checksum made right", function()
    local path, bytes = saved()
    local vm <close> = counter{ memory = "64K" }
    local loaded = 0
    for at = 25, #bytes do
      if at < 90 or at % 83 == 0 then
        for _, byte in ipairs{ 0x00, 0xff, bytes:byte(at) ~ 1 } do
          local altered = bytes:sub(1, at - 1) .. string.char(byte) .. bytes:sub(at + 1)
          local snap <close>, why = load_bytes(signed(altered))
          assert.is_true(snap ~= nil or why:find "^the snapshot is damaged" ~= nil, why)
          if snap and snap.memory == 65536 and snap.mode == "real" and snap.cpus == 1
            and snap.irqchip == "none" then
            loaded = loaded + 1
            vm:restore(snap) -- may fail
          end
        end
      end
    end
    assert.is_true(loaded > 5)
    os.remove(path)
  end)

  -- Each device's section is its name, the length of its state (u64), its state; the fields that
  -- are altered are the first: i8042 queue head (0..4095), UART IER (bits 0..3), file port op
  -- (1..6).
  it("is refused when a device cannot be in the state that it tells of", function()
    local path = os.tmpname()
    local vm <close> = counter{ memory = "64K", irqchip = "pic" }
    local snap <close> = assert(vm:snapshot())
    assert(snap:save(path))
    local bytes = support.read_file(path)
    os.remove(path)
    for name, state in pairs{ i8042 = "\xff\xff", uart = "\x10", ["file port"] = "\x77" } do
      local section = string.char(#name) .. name
      local at = assert(bytes:find(section, 1, true), name) + #section + 8
      local altered = bytes:sub(1, at - 1) .. state .. bytes:sub(at + #state)
      local _, why, code = load_bytes(signed(altered))
      assert.same({ "the snapshot is damaged: its state is damaged", "EBADMSG" }, { why, code })
    end
  end)

  -- At its end: how many disks, of each its blocks of 4096 bytes, then those written, by number.
  it("is refused when its disks cannot hold what it tells of", function()
    local path = os.tmpname()
    local vm <close> = counter{ memory = "64K" }
    vm:attach(kvm.device{ name = "drive", attach = function(d)
      d:use_disk(kvm.disk{ size = "16K" }):write(8192, "x")
    end }, {})
    assert(assert(vm:snapshot()):save(path))
    local bytes = support.read_file(path)
    os.remove(path)
    local block = "x" .. ("\0"):rep(4095)
    local head = bytes:sub(1, -1 - #("<I8I8I8 c4096 I8"):pack(1, 4, 3, block, 0))
    local function load(format, ...)
      local tail = format:pack(...)
      local length = ("<I8"):pack(#head + #tail)
      return load_bytes(signed(head:sub(1, 16) .. length .. head:sub(25) .. tail))
    end
    assert(load("<I8I8I8 c4096 I8", 1, 4, 3, block, 0))
    for _, case in ipairs{
      { "no VM has so many disks", "<I8", 33 }, { "it ends too early", "<I8", 1 },
      { "no disk has so many blocks", "<I8I8I8", 1, 0, 0 },
      { "no disk has so many blocks", "<I8i8I8", 1, -1, 0 },
      { "blocks outside a disk", "<I8I8I8 c4096 I8", 1, 4, 5, block, 0 },
      { "blocks outside a disk", "<I8I8I8 c4096 I8 c4096 I8", 1, 4, 3, block, 3, block, 0 },
      { "it ends too early", "<I8I8I8 c4096", 1, 4, 3, block },
      { "it ends too early", "<I8I8I8 c9", 1, 4, 3, block:sub(1, 9) },
      { "something follows it", "<I8I8I8I8", 1, 4, 0, 0 },
    } do
      local _, why, code = load(table.unpack(case, 2))
      assert.same({ "the snapshot is damaged: " .. case[1], "EBADMSG" }, { why, code })
    end
  end)

  it("is refused when it is something else, or of a newer minikvm", function()
    local path, bytes = saved()
    local newer = bytes:sub(1, 8) .. ("<I4"):pack(9) .. bytes:sub(13)
    local _, why, code = load_bytes(newer)
    assert.equal("a snapshot of version 9: this minikvm reads version 8", why)
    assert.equal("EOPNOTSUPP", code)
    for _, foreign in ipairs{ "", "\n", ("x"):rep(5000), support.read_file "os-1k/kernel.bin" } do
      assert.equal("not a snapshot of minikvm", (select(2, load_bytes(foreign))))
    end
    _, why, code = kvm.load_snapshot "/nonexistent/a.mks"
    assert.equal("/nonexistent/a.mks: No such file or directory", why)
    assert.equal("ENOENT", code)
    assert.equal("/dev/zero: not a file", (select(2, kvm.load_snapshot "/dev/zero")))
    assert.equal("EINVAL", (select(3, kvm.load_snapshot "/tmp")))
    assert.has_error(function() kvm.load_snapshot() end)
    os.remove(path)
  end)

  -- POSIX.1-2017, open: O_CREAT | O_TRUNC writes through a link and into a FIFO.
  it("is written through a link, into a FIFO and into a device, which stay", function()
    local vm <close> = counter{ memory = "64K" }
    local snap <close> = assert(vm:snapshot())
    local folder = os.tmpname()
    os.remove(folder)
    assert(os.execute(("mkdir %s && cd %s && ln -s target link && mkfifo fifo")
                        :format(folder, folder)))
    assert(snap:save(folder .. "/link"))
    assert.equal("link", lfs.symlinkattributes(folder .. "/link", "mode"))
    local want = support.read_file(folder .. "/target")
    local pipe = assert(io.popen(("cat %s/fifo"):format(folder)))
    assert(snap:save(folder .. "/fifo"))
    assert.equal(want, pipe:read "a") -- a pipe cannot seek: its head is right at once
    pipe:close()
    assert.equal("named pipe", lfs.attributes(folder .. "/fifo", "mode"))
    local made = os.execute(("mknod %s/full c 1 7 2>/dev/null"):format(folder))
    if made then assert.equal("ENOSPC", (select(3, snap:save(folder .. "/full")))) end
    assert.equal(snap, assert(snap:save(folder .. "/link")))
    local again <close> = assert(kvm.load_snapshot(folder .. "/link"))
    assert.equal(64 << 10, again.memory)
    os.execute("rm -r " .. folder)
  end)

  it("appears only when it is complete, whatever happens meanwhile", function()
    local folder = os.tmpname()
    os.remove(folder)
    assert(lfs.mkdir(folder))
    local function names()
      local list = {}
      for name in lfs.dir(folder) do
        if not name:find "^%.%.?$" then list[#list + 1] = name end
      end
      return list
    end
    for _ = 1, 3 do
      local pipe, pid, script = process.child(([[
        local vm = support.vm{ memory = "32M" }
        vm.memory:fill(0, 32 << 20, 0x5a)
        local snap = assert(vm:snapshot())
        while true do assert(snap:save(%q)) end
      ]]):format(folder .. "/a.mks"))
      process.await(function() return #names() > 0 end)
      os.execute(("kill -KILL %d"):format(pid))
      process.finish(pipe)
      os.remove(script)
      local snap = kvm.load_snapshot(folder .. "/a.mks")
      if lfs.attributes(folder .. "/a.mks") then
        assert.equal(32 << 20, assert(snap).memory)
        snap:close()
      end
      for _, name in ipairs(names()) do
        if name ~= "a.mks" then
          local left <close> = kvm.load_snapshot(folder .. "/" .. name)
          assert.is_true(left == nil or left.memory == 32 << 20)
        end
        os.remove(folder .. "/" .. name)
      end
    end
    lfs.rmdir(folder)
  end)

  it("leaves nothing behind when there is no room, and ends no process", function()
    local path = os.tmpname()
    os.remove(path)
    local pipe, _, script = process.child(([[
      local vm = support.vm{ memory = "1M" }
      vm.memory:fill(0, 1 << 20, 1)
      local snap, why, code = vm:snapshot()
      print(snap, code)
      vm = support.vm{ memory = "64K" }
      vm.memory:fill(0, 64 << 10, 1)
      print(select(3, assert(vm:snapshot()):save(%q)))
    ]]):format(path), process.SMALL_FILES .. "sh -c 'ulimit -f 128; exec \"$@\"' sh")
    local output = process.finish(pipe)
    os.remove(script)
    assert.equal("\nnil\tEFBIG\nEFBIG\n", output)
    assert.is_nil(lfs.attributes(path))
    local vm <close> = counter{ memory = "64K" }
    local snap <close> = assert(vm:snapshot())
    assert.equal("ENOENT", (select(3, snap:save "/nonexistent/a.mks")))
    assert.equal("EISDIR", (select(3, snap:save(lfs.currentdir()))))
  end)
end)

describe("vm:fork", function()
  if support.without_kvm(pending) then return end

  it("makes VMs that share nothing they write, also while they run side by side", function()
    local vm <close> = stopping("fe 06 00 08 e6 10 80 06 01 08 01 e2 f9 80 06 00 08 01 f4")
    support.run(vm)
    vm.cpu[0].rcx = 60000
    local children = assert(vm:fork(5))
    for i, child in ipairs(children) do
      assert.equal("vm#" .. i, child.name)
      child.memory:u8(0x801, i)
      child:start{ deadline = 20 }
    end
    vm.memory:u8(0x800, 77)
    for i, result in ipairs(kvm.wait(children)) do
      assert.equal("halt", result.reason)
      assert.equal(2, result.vm.memory:u8(0x800))
      assert.equal((i + 60000) & 255, result.vm.memory:u8(0x801))
      result.vm:close()
    end
    assert.same({ 77, 0 }, { vm.memory:u8(0x800), vm.memory:u8(0x801) })
  end)

  it("gives one VM without a number, with the parent's options", function()
    local vm <close> = counter{ name = "parent", limits = { exits = 3 } }
    local child <close> = assert(vm:fork())
    assert.equal("parent#1", child.name)
    assert.equal("limit", (child:run{ deadline = 20 }))
    local grandchild <close> = assert(child:fork())
    assert.equal("parent#1#1", grandchild.name)
    assert.equal(child.memory:u8(0x800), grandchild.memory:u8(0x800))
  end)

  it("lets a function set up each child, whose own errors come through", function()
    local vm <close> = counter()
    local children = assert(vm:fork(3, function(child, i)
      child.ports:on(STOP, { write = function() child:stop() end })
      child.memory:u8(0x800, 10 * i)
    end))
    for i, child in ipairs(children) do
      assert.equal("stopped", (support.run(child)))
      assert.equal(10 * i + 1, child.memory:u8(0x800))
      child:close()
    end
    assert.has_error(function() vm:fork(2, function() error("mine", 0) end) end, "mine")
  end)

  it("refuses what is no number of VMs", function()
    local vm <close> = counter()
    for _, n in ipairs{ 0, -1, 1.5, "2", 10001, {} } do
      assert.has_error(function() vm:fork(n) end)
    end
    assert.has_error(function() vm:fork(1, 2) end)
  end)
end)

describe("files of a guest", function()
  if support.without_kvm(pending) then return end

  ---A guest that makes one request of the file port a run: what block() put at 0x600.
  local function file_guest(opts)
    local vm = stopping("e6 10 ba 7c 02 66 b8 00 06 00 00 66 ef eb f1", opts)
    support.run(vm)
    local function request(op, flags, fd, count, address, offset)
      vm.memory:write(0x600, ("<I4I4i4I4I8i8i8"):pack(op, flags, fd, count, address, offset, 0))
      assert.equal("stopped", (support.run(vm)))
      return (("<i8"):unpack(vm.memory:read(0x600 + 32, 8)))
    end
    return vm, {
      open = function(name, flags)
        vm.memory:write(0x900, name)
        return request(1, flags, 0, #name, 0x900, 0)
      end,
      read = function(fd)
        local n = request(3, 0, fd, 100, 0xa00, 0)
        return n >= 0 and vm.memory:read(0xa00, n) or n
      end,
      write = function(fd, text)
        vm.memory:write(0xb00, text)
        return request(4, 0, fd, #text, 0xb00, 0)
      end,
      seek = function(fd, at) return request(5, 0, fd, 0, 0, at) end,
    }
  end

  it("are as they were: descriptors, positions, and the contents of private ones", function()
    local vm <close>, file = file_guest()
    local fd = file.open("dir/notes", 3)
    assert.equal(0, fd)
    assert.equal(6, file.write(fd, "before"))
    assert.equal(3, file.seek(fd, 3))
    local snap <close> = assert(vm:snapshot())
    for _ = 1, 3 do
      assert.equal("ore", file.read(fd))
      assert.equal(5, file.write(fd, "after"))
      assert.equal(1, file.open("later", 3))
      assert.equal(0, file.seek(fd, 0))
      assert.equal("beforeafter", file.read(fd))
      assert(vm:restore(snap))
    end
    local path = os.tmpname()
    assert(snap:save(path))
    local loaded <close> = assert(kvm.load_snapshot(path))
    os.remove(path)
    local new <close> = assert(loaded:vm{ echo = false })
    assert(vm:restore(loaded))
    assert.equal("ore", file.read(fd))
    assert.equal("before", support.read_file(new.files:directory() .. "/dir/notes"))
    assert.not_equal(vm.files:directory(), new.files:directory())
  end)

  -- Somebody may say in a snapshot what minikvm would not: the file's lock is what keeps others
  -- out.
  it("of the host that may be written by one vm at a time are locked, whatever the file says",
     function()
    local folder = os.tmpname()
    os.remove(folder)
    assert(lfs.mkdir(folder))
    assert(io.open(folder .. "/f", "w")):write("host's"):close()
    local policy = assert(kvm.files{ root = folder, rules = { { "f", "rw" } } })
    local path = os.tmpname()
    local vm, file = file_guest{ files = policy }
    assert.equal(0, file.open("f", 3))
    local snap <close> = assert(vm:snapshot())
    assert(snap:save(path))
    local bytes = support.read_file(path)
    -- its name; not own, writable
    local node = ("<I4"):pack(256) .. "f" .. ("\0"):rep(255) .. "\0\1"
    local _, at = bytes:find(node .. "\1", 1, true) -- locked
    assert(at and not bytes:find(node, at, true))
    local changed = bytes:sub(1, at - 1) .. "\0" .. bytes:sub(at + 1)
    local forged <close> = assert(load_bytes(signed(changed)))
    os.remove(path)
    local new, why, code = forged:vm{ echo = false, files = policy }
    assert.is_nil(new)
    assert.equal("EBUSY", code, why)
    vm:close()
    new = assert(forged:vm{ echo = false, files = policy })
    local _ <close>, second_file = file_guest{ files = policy }
    assert.equal(-16, second_file.open("f", 3)) -- EBUSY: the new one has it
    new:close()
    assert.equal(0, second_file.open("f", 3))
    os.execute("rm -r " .. folder)
  end)

  it("that the host put beside them in private= stay as the host has them", function()
    local folder = os.tmpname()
    os.remove(folder)
    local function put(name, text)
      assert(io.open(folder .. "/v/" .. name, "w")):write(text):close()
    end
    local function get(name) return support.read_file(folder .. "/v/" .. name) end
    local vm <close>, file = file_guest{ name = "v", files = assert(kvm.files{ private = folder }) }
    assert.equal(0, file.open("dir/notes", 3))
    file.write(0, "before")
    put("old.txt", "the host's, and seen by the snapshot")
    put("open.txt", "the host's")
    local snap <close> = assert(vm:snapshot())
    for _ = 1, 3 do
      file.write(0, "after")
      assert.equal(1, file.open("other/later", 3))
      assert.equal(2, file.open("open.txt", 3))
      file.write(2, "guest was here")
      put("dir/notes.txt", "the host's")
      put("old.txt", "changed by the host")
      put("not sayable", "the host's")
      assert(vm:restore(snap))
      assert.equal("before", get "dir/notes")
      assert.equal("the host's", get "dir/notes.txt")
      assert.equal("changed by the host", get "old.txt")
      assert.equal("the host's", get "not sayable")
      assert.equal("the host's", get "open.txt") -- as it was: the guest had written to it
      assert.is_nil(lfs.attributes(folder .. "/v/other"))
    end
    os.execute("rm -r " .. folder)
  end)

  it("of the host are opened again where the policy lets them", function()
    local folder = os.tmpname()
    os.remove(folder)
    assert(lfs.mkdir(folder))
    local function put(name, text)
      local f = assert(io.open(folder .. "/" .. name, "w"))
      f:write(text):close()
    end
    put("ro", "0123456789")
    put("cow", "original")
    local policy = assert(kvm.files{ root = folder, rules = { { "ro", "ro" }, { "cow", "cow" } } })
    local vm <close>, file = file_guest{ files = policy }
    local ro, cow = file.open("ro", 1), file.open("cow", 3)
    file.seek(ro, 4)
    assert.equal(4, file.write(cow, "copy"))
    local snap <close> = assert(vm:snapshot())
    file.read(ro)
    file.write(cow, "!!!!")
    assert(vm:restore(snap))
    assert.equal("456789", file.read(ro))
    file.seek(cow, 0)
    assert.equal("copyinal", file.read(cow))
    assert.equal("original", support.read_file(folder .. "/cow"))

    local child <close> = assert(vm:fork()) -- has the policy
    assert.equal("copyinal", support.read_file(child.files:directory() .. "/cow"))
    local new, why, code = snap:vm{ echo = false } -- has not
    assert.is_nil(new)
    assert.equal('vm "vm": the file "ro" that its guest has open: Permission denied', why)
    assert.equal("EACCES", code)
    os.remove(folder .. "/ro")
    assert.equal("ENOENT", (select(3, vm:restore(snap))))
    assert.has_error(function() vm:run() end) -- half restored: it must not run
    put("ro", "9876543210")
    assert(vm:restore(snap))
    assert.equal("543210", file.read(ro))
    os.remove(folder .. "/ro")
    os.remove(folder .. "/cow")
    lfs.rmdir(folder)
  end)

  it("are as they were in the middle of a command, byte by byte", function()
    -- out 0x278: 1 (open), flags 3, length 1, then a stop, then the name; the answer's first byte
    local vm <close> = stopping [[ ba 78 02 b0 01 ee b0 03 ee b0 01 ee e6 10 b0 61 ee
                                   ec a2 00 08 f4 ]]
    support.run(vm)
    local snap <close> = assert(vm:snapshot())
    for _ = 1, 2 do
      vm.memory:u8(0x800, 99)
      assert.equal("halt", (support.run(vm)))
      assert.equal(0, vm.memory:u8(0x800)) -- descriptor 0
      assert(vm:restore(snap))
    end
  end)
end)

describe("devices of the script", function()
  if support.without_kvm(pending) then return end

  local Counter = kvm.device{ name = "counter", registers = { [0] = "VALUE" }, size = 1,
    write = { VALUE = function(d, _, value) d.state.sum = (d.state.sum or 0) + value end } }
  local ADD <const> = "b0 05 e6 40 e6 10 eb f8" -- out 0x40, 5; stop; again

  it("are part of it, and of what is made from it", function()
    local vm <close> = stopping(ADD)
    local d = vm:attach(Counter, { ports = 0x40 })
    support.run(vm)
    local snap <close> = assert(vm:snapshot())
    for _ = 1, 3 do
      support.run(vm)
      assert.same({ 10, 5 }, { d.state.sum, d.reg.VALUE })
      d.reg.VALUE = 9
      assert(vm:restore(snap))
      assert.same({ 5, 5 }, { d.state.sum, d.reg.VALUE })
    end
    local other
    local child <close> = assert(vm:fork(function(c)
      other = c:attach(Counter, { ports = 0x40 })
      c.ports:on(STOP, { write = function() c:stop() end })
    end))
    support.run(child)
    assert.same({ 10, 5 }, { other.state.sum, d.state.sum })
    assert(child:reset())
    assert.equal(5, other.state.sum)
  end)

  it("must be the same ones", function()
    local vm <close> = stopping(ADD)
    local d = vm:attach(Counter, { ports = 0x40 })
    local snap <close> = assert(vm:snapshot())
    support.run(vm)
    local added = vm:attach(Counter, { ports = 0x60, name = "second" })
    local before = vm.memory:u8(0x800)
    assert.error_matches(function() vm:restore(snap) end,
                         "vm:restore: devices were added or removed: it has none of")
    assert.same({ 5, before }, { d.state.sum, vm.memory:u8(0x800) })
    added:detach()
    d:detach()
    assert.error_matches(function() vm:restore(snap) end, "added or removed")
    assert.error_matches(function() snap:vm{ echo = false } end,
                         "added or removed.*attach them in setup")
    vm:attach(Counter, { ports = 0x40, name = "other" })
    assert.error_matches(function() vm:restore(snap) end, "added or removed")
  end)

  it("are refused with states that cannot be copied, and may refuse a state", function()
    local vm <close> = stopping(ADD)
    local d = vm:attach(Counter, { ports = 0x40 })
    d.state.list = { { fn = print } }
    assert.error_matches(function() vm:snapshot() end, 'vm:snapshot: device "counter".*%.fn: '
                         .. "a function cannot be copied")
    d:detach()
    local picky = true
    vm:attach(kvm.device{ name = "picky", save = function() return 1 end,
                          load = function() if picky then error("not that one", 0) end end }, {})
    local snap <close> = assert(vm:snapshot())
    local done, why, code = vm:restore(snap)
    assert.same({ nil, 'vm "vm": restoring its devices: not that one', "EINVAL" },
                { done, why, code })
    assert.has_error(function() vm:run() end)
    picky = false
    assert(vm:restore(snap))
    assert.equal("stopped", (support.run(vm)))
  end)
end)

describe("a restore", function()
  if support.without_kvm(pending) then return end

  it("into a VM of another shape is refused, and changes nothing", function()
    local vm <close> = counter{ memory = "64K" }
    local snap <close> = assert(vm:snapshot())
    local shapes = {
      { { memory = "128K" }, "memory = 65536, not 131072" },
      { { memory = "64K", irqchip = "pic" }, 'irqchip = "none"' },
      { { mode = "protected", memory = "64K" }, 'mode = "real", not "protected"' },
      { { memory = "64K", cpuid = { vendor = "AnotherOne12" } }, "other processor features" },
    }
    for _, shape in ipairs(shapes) do
      local other <close> = support.vm(shape[1])
      other.memory:u8(0x800, 42)
      assert.error_matches(function() other:restore(snap) end,
                           "vm:restore: the snapshot does not fit vm \"vm\": it is of one with "
                           .. shape[2], nil, nil)
      assert.equal(42, other.memory:u8(0x800))
      assert.equal("idle", other.state)
    end
    local two <close> = support.vm{ cpus = 2 }
    local one <close> = assert(support.vm())
    local pair <close> = assert(two:snapshot())
    assert.error_matches(function() one:restore(pair) end, "cpus = 2, not 1")
  end)

  it("while it runs, in its handler, or of something closed is refused", function()
    local vm <close> = stopping "e6 10 e6 11 eb fe"
    local problems = {}
    support.run(vm)
    local snap = assert(vm:snapshot())
    vm.ports:on(0x11, { write = function()
      for i, call in ipairs{ vm.snapshot, vm.restore, vm.fork } do
        problems[i] = select(2, pcall(call, vm, i == 2 and snap or nil))
      end
    end })
    vm:start()
    process.await(function() return #problems == 3 end)
    for i, name in ipairs{ "snapshot", "restore", "fork" } do
      assert.matches("vm:" .. name .. ': inside a handler of vm "vm"', problems[i])
      assert.error_matches(function() vm[name](vm, name == "restore" and snap or nil) end,
                           "vm:" .. name .. ': vm "vm" is running: stop it first')
    end
    vm:stop()
    for _, wrong in ipairs{ 1, "x", {}, vm } do
      assert.error_matches(function() vm:restore(wrong) end, "expected a snapshot, got")
    end
    assert.has_error(function() vm:restore() end)
    snap:close()
    snap:close()
    assert.error_matches(function() vm:restore(snap) end, "the snapshot is closed")
    assert.error_matches(function() snap:vm() end, "the snapshot is closed")
    assert.error_matches(function() snap:save "x" end, "the snapshot is closed")
    assert.error_matches(function() return snap.memory end, "the snapshot is closed")
    assert.matches("closed", tostring(snap))
    vm:close()
    assert.has_error(function() vm:snapshot() end)
  end)

  it("outlives the VM and the snapshot it came from", function()
    local vm = counter()
    local snap = assert(vm:snapshot())
    vm:close()
    local child <close> = assert(snap:vm{ echo = false })
    snap:close()
    assert.equal(1, child.memory:u8(0x800))
    assert.equal("halt", (support.run(support.program{})))
    local again <close> = assert(child:fork())
    assert.equal(1, again.memory:u8(0x800))
  end)

  it("gives all descriptors and memory back", function()
    local before = process.descriptors()
    for _ = 1, 20 do
      local vm <close> = counter()
      local snap <close> = assert(vm:snapshot())
      local child <close> = assert(snap:vm{ echo = false })
      assert(child:restore(snap))
      assert(vm:fork()):close()
    end
    assert.equal(before, process.descriptors())
  end)

  it("checks the options of snap:vm", function()
    local vm <close> = counter()
    local snap <close> = assert(vm:snapshot())
    for _, opts in ipairs{ { memory = "1M" }, { mode = "long" }, { nme = "x" }, { setup = 1 } } do
      assert.has_error(function() snap:vm(opts) end)
    end
    local child <close> = assert(snap:vm{ name = "child", echo = false })
    assert.equal("child", child.name)
  end)
end)
