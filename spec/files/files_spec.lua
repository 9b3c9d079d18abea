-- The file port as a guest sees it: both protocols, every operation, and everything a guest may get
-- wrong. What a policy allows is in fsbox_spec.lua.

local support = require "support.guest"
local process = require "support.process"
local files = require "support.files"

local READ <const>, WRITE <const>, CREATE <const> = files.READ, files.WRITE, files.CREATE
local TRUNC <const>, APPEND <const> = files.TRUNC, files.APPEND
local SET <const>, CUR <const>, END <const> = 0, 1, 2
local BUFFER <const> = 0x10000

for _, protocol in ipairs{ "byte", "block" } do
  describe("file port, " .. protocol .. " protocol,", function()
    if support.without_kvm(pending) then return end
    local g

    before_each(function() g = files.guest(protocol) end)
    after_each(function() g.vm:close() end)

    it("creates, writes, seeks, reads and closes", function()
      assert.equal(0, g:open("notes.txt", READ | WRITE))
      assert.equal(11, g:write(0, "hello world"))
      assert.equal(11, g:stat(0))
      assert.equal(6, g:seek(0, 6, SET))
      local n, data = g:read(0, 100)
      assert.equal(5, n)
      assert.equal("world", data)
      assert.equal(0, (g:read(0, 100)))
      assert.equal(9, g:seek(0, -2, CUR))
      assert.equal(8, g:seek(0, -3, END))
      assert.equal("rl", select(2, g:read(0, 2)))
      assert.equal(0, g:close(0))
      assert.equal("hello world", g:content "notes.txt")
    end)

    it("carries every byte value, and more than one buffer", function()
      local all = {}
      for i = 0, 255 do all[i + 1] = string.char(i) end
      local data = table.concat(all):rep(80)
      g:put("all", data)
      assert.equal(data, g:content "all")
    end)

    it("makes the folders of a name", function()
      g:put("a/b/c/file.x", "deep")
      assert.equal("deep", g:content "a/b/c/file.x")
      assert.equal("deep", files.get(g.vm.files:directory() .. "/a/b/c/file.x"))
      assert.equal(files.EACCES, g:open("a/b", READ))
      assert.equal(files.EACCES, g:open("a/b", WRITE))
      assert.equal(files.ENOTDIR, g:open("a/b/c/file.x/d", WRITE))
    end)

    it("heeds the flags of OPEN", function()
      assert.equal(files.ENOENT, g:open("f", READ))
      assert.equal(0, g:open("f", READ | CREATE))
      assert.equal(0, g:stat(0))
      assert.equal(files.EBADF, g:write(0, "x"))
      g:close(0)
      g:put("f", "12345")
      local a = g:open("f", WRITE | APPEND)
      assert.equal(3, g:write(a, "678"))
      assert.equal(0, g:seek(a, 0, SET))
      assert.equal(1, g:write(a, "9"))
      assert.equal(9, g:seek(a, 0, CUR))
      g:close(a)
      assert.equal("123456789", g:content "f")
      assert.equal(0, g:open("f", READ | WRITE | TRUNC))
      assert.equal(0, g:stat(0))
      for _, flags in ipairs{ 0, CREATE, TRUNC, APPEND, 32, READ | 64, 0xff } do
        assert.equal(files.EINVAL, g:open("f", flags))
      end
    end)

    it("leaves a hole where nothing was written", function()
      g:open("f", READ | WRITE)
      assert.equal(1000, g:seek(0, 1000, SET))
      assert.equal(0, g:stat(0))
      assert.equal(0, (g:read(0, 10)))
      assert.equal(1, g:write(0, "x"))
      assert.equal(("\0"):rep(1000) .. "x", g:content "f")
    end)

    it("gives two descriptors of one file a position each", function()
      g:put("f", "abcdef")
      local a, b = g:open("f", READ), g:open("f", READ | WRITE)
      assert.equal("abc", select(2, g:read(a, 3)))
      assert.equal(2, g:write(b, "AB"))
      assert.equal(0, g:seek(a, 0, SET))
      assert.equal("ABcdef", select(2, g:read(a, 10)))
      assert.equal("cdef", select(2, g:read(b, 10)))
    end)

    it("answers EBADF for descriptors that are none", function()
      for _, fd in ipairs{ -1, 0, 15, 16, 0x7fffffff, -0x80000000, 3 } do
        assert.equal(files.EBADF, g:close(fd))
        assert.equal(files.EBADF, (g:read(fd, 10)))
        assert.equal(files.EBADF, g:write(fd, "x"))
        assert.equal(files.EBADF, g:seek(fd, 0, SET))
        assert.equal(files.EBADF, g:stat(fd))
      end
      g:open("f", READ | WRITE)
      assert.equal(0, g:close(0))
      assert.equal(files.EBADF, g:close(0))
      assert.equal(files.EBADF, (g:read(0, 1)))
      assert.equal(files.EBADF, g:write(0, "x"))
    end)

    it("has 16 descriptors, the lowest free one first", function()
      for fd = 0, 15 do assert.equal(fd, g:open("f" .. fd // 2, READ | WRITE)) end
      assert.equal(files.EMFILE, g:open("g", WRITE))
      assert.equal(files.EMFILE, g:open("f0", READ))
      g:close(7)
      g:close(3)
      assert.equal(3, g:open("g", WRITE))
      assert.equal(7, g:open("g", WRITE))
      assert.equal(files.EMFILE, g:open("g", WRITE))
      assert.equal(9, g.vm.files:usage().files)
    end)

    it("keeps the directions of a descriptor", function()
      g:put("f", "data")
      local r, w = g:open("f", READ), g:open("f", WRITE)
      assert.equal(files.EBADF, g:write(r, "x"))
      assert.equal(files.EBADF, (g:read(w, 1)))
      assert.equal("data", g:content "f")
    end)

    it("refuses names that are none, and touches nothing", function()
      for _, name in ipairs{ "", ".", "..", "/", "/etc/passwd", "../x", "a/../b", "a/..", "a//b",
                             "a/", "./a", "a/.", "a\0b", "a\0", "\0", "a b", "a\\b", "a:b", "*",
                             "a?", "a\n", "\xc3\xa4", "~copy.1", ("a/"):rep(127) .. "/",
                             "proc/self/fd/../..", "//etc/passwd" } do
        assert.equal(files.EINVAL, g:open(name, READ), name)
        assert.equal(files.EINVAL, g:open(name, READ | WRITE), name)
      end
      assert.is_nil(g.vm.files:directory())
    end)

    it("takes names of 255 bytes, of one component or many", function()
      for _, name in ipairs{ ("n"):rep(255), ("a/"):rep(127) .. "b", "...", "..a", "-", "_.-" } do
        g:put(name, "x")
        assert.equal("x", g:content(name))
      end
    end)

    it("counts 0 bytes, and refuses negative counts", function()
      g:put("f", "data")
      local fd = g:open("f", READ | WRITE)
      local n, data = g:read(fd, 0)
      assert.equal(0, n)
      assert.equal("", data)
      assert.equal(0, g:write(fd, ""))
      assert.equal(files.EBADF, g:write(9, ""))
      assert.equal(files.EINVAL, (g:read(fd, -1)))
      assert.equal(files.EINVAL, (g:read(fd, -0x80000000)))
      assert.equal("data", select(2, g:read(fd, 4)))
    end)

    it("does not seek to where nothing can be", function()
      g:put("f", "data")
      local fd = g:open("f", READ)
      assert.equal(2, g:seek(fd, 2, SET))
      assert.equal(files.EINVAL, g:seek(fd, -1, SET))
      assert.equal(files.EINVAL, g:seek(fd, -5, END))
      assert.equal(files.EINVAL, g:seek(fd, -0x80000000, CUR))
      assert.equal(files.EINVAL, g:seek(fd, 0, 3))
      assert.equal(files.EINVAL, g:seek(fd, 0, 255))
      assert.equal("ta", select(2, g:read(fd, 9)))
    end)

    it("does every open and close without a trace on the host", function()
      g:put("f", "x")
      local before = process.entries "/proc/self/fd"
      for _ = 1, 1000 do
        local fd = g:open("f", READ | WRITE)
        g:close(fd)
        assert.equal(0, fd)
      end
      assert.equal(before, process.entries "/proc/self/fd")
    end)
  end)
end

describe("file port, byte protocol,", function()
  if support.without_kvm(pending) then return end
  local g

  before_each(function() g = files.guest "byte" end)
  after_each(function() g.vm:close() end)

  it("answers EINVAL to an unknown operation, at once", function()
    for _, op in ipairs{ 0, 7, 0x80, 0xff } do
      assert.equal("\xea\xff\xff\xff", g:wire(string.char(op), 4))
    end
  end)

  it("reads 0 when no answer is pending", function()
    assert.equal("\0\0\0\0", g:wire("", 4))
    g:put("f", "data")
    assert.equal(0, g:open("f", READ))
    assert.equal(("<i4"):pack(2) .. "da\0\0", g:wire(("<Bi4i4"):pack(3, 0, 2), 8))
  end)

  it("discards an answer when a command begins", function()
    g:put("f", "data")
    g:open("f", READ)
    assert.equal(("<i4"):pack(4), g:wire(("<Bi4i4"):pack(3, 0, 4), 4))
    assert.equal(4, g:stat(0)) -- and not the data
    assert.equal(("<i4"):pack(0), g:wire(("<Bi4Bi4i4"):pack(6, 0, 3, 0, 4), 4))
  end)

  it("answers a WRITE of a negative count without waiting for data", function()
    g:open("f", WRITE)
    assert.equal(("<i4"):pack(files.EINVAL), g:wire(("<Bi4i4"):pack(4, 0, -1), 4))
    assert.equal(("<i4"):pack(files.EINVAL), g:wire(("<Bi4i4"):pack(4, 0, -0x80000000), 4))
    assert.equal(0, g:stat(0))
  end)

  it("swallows the data of a WRITE that fails", function()
    assert.equal(files.EBADF, g:write(5, ("\1"):rep(300)))
    assert.equal(0, g:open("f", WRITE))
  end)

  it("drops a command when the guest halts in the middle of it", function()
    g:open("f", READ | WRITE)
    local whole = ("<Bi4s4"):pack(4, 0, "data")
    for length = 1, #whole - 1 do
      g:wire(whole:sub(1, length), 0)
      assert.equal(0, g:stat(0))
    end
    g:wire(("<Bi4i4"):pack(4, 0, 0x7fffffff) .. ("x"):rep(5000), 0) -- most of it never comes
    assert.equal(0, g:stat(0))
    assert.equal(4, g:write(0, "data"))
  end)

  it("goes on with a command when the vCPU was only interrupted", function()
    local vm = support.program({ support.out(0x278, 1, 1), support.out(0x278, WRITE, 1),
                                 support.out(0x278, 1, 1), support.out(0x278, 0x66, 1),
                                 support.into(0x800, 0x278, 1) }, { coalesce = false })
    for _ = 1, 4 do assert.equal("limit", (vm:run{ exits = 1 })) end
    assert.equal("halt", (vm:run{ deadline = 20 }))
    assert.equal(1, vm.files:usage().files)
    vm:close()
  end)

  it("takes one byte of wider accesses", function()
    local vm = support.program({ support.out(0x278, 0x09, 2), support.into(0x800, 0x278, 4),
                                 support.into(0x804, 0x278, 1) }, { coalesce = false })
    assert.equal("halt", (vm:run{ deadline = 20 }))
    assert.equal(0xffffffea, vm.memory:u32(0x800) & 0xff | 0xffffff00)
    assert.equal(0xff, vm.memory:u8(0x804))
    vm:close()
  end)

  it("takes exactly one exit a byte", function()
    local parts = {}
    for byte in ("\6\0\0\0\0"):gmatch "." do
      parts[#parts + 1] = support.out(0x278, byte:byte(), 1)
    end
    for i = 0, 3 do parts[#parts + 1] = support.into(0x800 + i, 0x278, 1) end
    local vm = support.program(parts, { coalesce = false })
    local _, info = vm:run{ deadline = 20 }
    assert.equal(5 + 4 + 1, info.exits)
    assert.equal(files.EBADF, vm.memory:u32(0x800) - (1 << 32))
    vm:close()
  end)

  it("keeps the commands of two vCPUs apart", function()
    -- vCPU i writes i 300 times to a file of its own, one byte a command.
    local function program(cpu)
      local name = ("%d"):format(cpu)
      local parts = {}
      local function send(bytes)
        for i = 1, #bytes do parts[#parts + 1] = support.out(0x278, bytes:byte(i), 1) end
      end
      send("\1\2\1" .. name)
      parts[#parts + 1] = support.into(0xf000, 0x278, 1) -- the descriptor
      parts[#parts + 1] = support.bytes "b9 2c 01"       -- mov cx, 300
      local from = #table.concat(parts)
      send "\4"
      parts[#parts + 1] = support.bytes "a0 00 f0 ee"    -- mov al, [0xf000]; out dx, al
      send("\0\0\0\1\0\0\0" .. name)
      local length = #table.concat(parts) - from
      parts[#parts + 1] = "\xe2" .. string.char(256 - length - 2) -- loop
      return table.concat(parts) .. "\xf4"
    end
    local vm = support.vm{ cpus = 2, coalesce = false }
    for cpu = 0, 1 do assert(vm:load({ bytes = program(cpu) }, { cpu = cpu })) end
    assert.equal("halt", (vm:run{ deadline = 60 }))
    for cpu = 0, 1 do
      assert.equal(tostring(cpu):rep(300), files.get(vm.files:directory() .. "/" .. cpu))
    end
    vm:close()
  end)
end)

describe("file port, block protocol,", function()
  if support.without_kvm(pending) then return end
  local g, top

  before_each(function()
    g = files.guest("block", nil, { memory = "1M" })
    top = #g.vm.memory
    g:put("f", "0123456789")
  end)
  after_each(function() g.vm:close() end)

  it("takes one exit a call, IN included when it is wanted", function()
    local before = select(2, g.vm:run{ deadline = 20 }).exits
    g:stat(0)
    local _, info = g.vm:run{ deadline = 20 }
    assert.equal(before + 2 * 3, info.exits) -- OUT, IN, HLT
  end)

  it("answers an unknown operation, and reads 0 when nothing is pending", function()
    for _, op in ipairs{ 0, 7, 0x101, 0x80000003, 0xffffffff } do
      local answer, result = g:call(op, 0, 0, 0, 0, 0)
      assert.equal(files.EINVAL, answer)
      assert.equal(files.EINVAL, result)
    end
    local vm = support.program{ support.into(0x800, 0x27c, 4) }
    vm.memory:u32(0x800, 0x55)
    assert.equal("halt", (vm:run{ deadline = 20 }))
    assert.equal(0, vm.memory:u32(0x800))
    vm:close()
  end)

  it("answers EFAULT for a block that is not all in RAM, and does nothing", function()
    g.vm.memory:write(0x1000, ("<I4I4i4I4i8i8i8"):pack(1, READ, 0, 1, BUFFER, 0, 0x55))
    local good = g.vm.memory:read(0x1000, 40)
    for _, at in ipairs{ top - 39, top - 32, top - 8, top - 1, top, top + 1, 0x7fffffff,
                         0xffffffd8, 0xfffffff0, 0xffffffff } do
      if at < top then g.vm.memory:write(at, good:sub(1, top - at)) end
      assert.equal(files.EFAULT, (g:raw_call(at)))
    end
    assert.equal(0, g.vm.files:usage().open)
    g.vm.memory:write(BUFFER, "f")
    assert.equal(0, (g:call(1, READ, 0, 1, BUFFER, 0, top - 40))) -- its last place
  end)

  it("answers EFAULT for buffers that are not all in RAM, and does nothing", function()
    local fd = g:open("f", READ | WRITE)
    for _, where in ipairs{ { top - 4, 5 }, { top - 1, 2 }, { top, 1 }, { top + 1, 0 },
                            { 0, top + 1 }, { 0, 0x7fffffff }, { 0x1000, 0x7fffffff },
                            { -1, 1 }, { -1, 2 }, { -8, 16 }, { -0x7fffffff, 0x7fffffff },
                            { math.mininteger, 1 }, { math.maxinteger, 1 }, { 1 << 32, 1 } } do
      for _, op in ipairs{ 3, 4 } do
        local answer, result = g:call(op, 0, fd, where[2], where[1], 0)
        assert.equal(files.EFAULT, answer)
        assert.equal(files.EFAULT, result)
      end
    end
    for _, count in ipairs{ 1 << 31, 0xffffffff } do
      assert.equal(files.EINVAL, (g:call(3, 0, fd, count, 0, 0)))
      assert.equal(files.EINVAL, (g:call(4, 0, fd, count, 0, 0)))
    end
    assert.equal(10, g:stat(fd))
    assert.equal(10, (g:call(3, 0, fd, 20, top - 20, 0)))
    assert.equal("0123456789", g.vm.memory:read(top - 20, 10))
  end)

  it("answers for names that are too long or not in RAM", function()
    assert.equal(files.ENAMETOOLONG, (g:call(1, READ, 0, 256, BUFFER, 0)))
    assert.equal(files.ENAMETOOLONG, (g:call(1, READ, 0, 0xffffffff, BUFFER, 0)))
    assert.equal(files.EFAULT, (g:call(1, READ, 0, 2, top - 1, 0)))
    assert.equal(files.EFAULT, (g:call(1, READ, 0, 1, -1, 0)))
    assert.equal(files.EFAULT, (g:call(1, READ, 0, 255, -100, 0)))
  end)

  it("reads over its own block without being led astray", function()
    local block = ("<I4I4i4I4i8i8i8"):pack(2, 0, 0, 0, 0, 0, 0) -- a CLOSE, in the file
    g:put("evil", block:rep(3))
    local fd = g:open("evil", READ)
    local answer, result = g:call(3, 0, fd, 100, 0x1000 - 20, 0)
    assert.equal(100, answer)
    assert.equal(100, result)
    assert.equal(120, g:stat(fd))
    assert.equal(20, (g:call(4, 0, fd, 20, 0x1000, 0)) == files.EBADF and 20)
    g:close(fd)
    fd = g:open("f", READ | WRITE)
    assert.equal(40, (g:call(4, 0, fd, 40, 0x1000, 0))) -- writes its block
    assert.equal(40, g:stat(fd))
  end)

  it("has 64-bit positions, and says EOVERFLOW in IN when one does not fit", function()
    local fd = g:open("f", READ)
    local answer, result = g:call(5, SET, fd, 0, 0, 1 << 40)
    assert.equal(files.EOVERFLOW, answer)
    assert.equal(1 << 40, result)
    assert.equal(0, (g:read(fd, 10)))
    assert.equal(files.EOVERFLOW, select(2, g:call(5, CUR, fd, 0, 0, math.maxinteger)))
    assert.equal(math.maxinteger, select(2, g:call(5, SET, fd, 0, 0, math.maxinteger)))
    assert.equal(0, (g:read(fd, 10)))
    assert.equal(files.EINVAL, select(2, g:call(5, SET, fd, 0, 0, math.mininteger)))
    local w = g:open("f", WRITE)
    g:call(5, SET, w, 0, 0, math.maxinteger)
    assert.equal(files.EFBIG, g:write(w, "x"))
    assert.equal(10, g:stat(w))
  end)

  it("takes no other access than one of 32 bits", function()
    local vm = support.program{ support.out(0x27c, 0x00, 1), support.into(0x800, 0x27c, 4),
                                support.out(0x27c, 0x1000, 2), support.into(0x804, 0x27c, 2) }
    assert.equal("halt", (vm:run{ deadline = 20 }))
    assert.equal(0xffffffea, vm.memory:u32(0x800))
    assert.equal(0xffea, vm.memory:u32(0x804))
    vm:close()
  end)

  it("is not led astray by another vCPU that changes the block meanwhile", function()
    -- vCPU 1 makes the block at 0x1000 now a READ into RAM, now one far outside, for ever.
    local change = support.bytes [[
      31 c0             ; xor ax, ax
      8e d8             ; mov ds, ax
      fe 06 13 10       ; inc byte ptr [0x1013]  (buffer, bits 24 to 31)
      80 36 0f 10 40    ; xor byte ptr [0x100f], 0x40  (count)
      fe 06 00 10       ; inc byte ptr [0x1000]  (operation)
      eb f1             ; jmp to the changes
    ]]
    local call = support.bytes [[
      b9 88 13          ; mov cx, 5000
      ba 7c 02          ; mov dx, 0x27c
      66 b8 00 10 00 00 ; mov eax, 0x1000
      66 ef             ; out dx, eax
      e2 fc             ; loop
      b3 00             ; mov bl, 0
      ba f4 00          ; mov dx, 0xf4
      b0 00             ; mov al, 0
      ee                ; out dx, al
    ]]
    local vm = support.vm{ cpus = 2, memory = "1M", coalesce = false }
    assert(vm:load({ bytes = call }, { cpu = 0 }))
    assert(vm:load({ bytes = change }, { cpu = 1 }))
    vm.memory:write(0x1000, ("<I4I4i4I4i8i8i8"):pack(3, 0, 0, 8, 0x2000, 0, 0))
    local reason, info = vm:run{ deadline = 60 }
    assert.equal("exit", reason, info.text)
    vm:close()
  end)
end)

describe("file port", function()
  if support.without_kvm(pending) then return end

  it("can be watched, wrapped and replaced", function()
    local g = files.guest "byte"
    local seen = {}
    local handle = g.vm.ports:override(0x278, {
      write = function(_, value, _, next) seen[#seen + 1] = value next() end })
    assert.equal(0, g:open("f", WRITE))
    assert.same({ 1, WRITE, 1, 0x66 }, seen)
    handle:remove()
    handle = g.vm.ports:override(0x278, { read = function() return 7 end })
    assert.equal(0x07070707, g:stat(0))
    handle:remove()
    assert.equal(0, g:stat(0))
    g.vm:close()
  end)

  it("closes what is open and forgets what was made when the vm is reset", function()
    local g = files.guest "byte"
    g:put("f", "data")
    g:open("f", READ)
    g:wire("\1\2\200abc", 0)
    local directory = g.vm.files:directory()
    assert(g.vm:reset())
    assert.same({ open = 0, bytes = 0, files = 0 }, g.vm.files:usage())
    assert.is_nil(g.vm.files:directory())
    assert.is_nil(files.get(directory .. "/f"))
    assert.equal(files.ENOENT, g:open("f", READ))
    assert.equal(files.EBADF, g:stat(0))
    g.vm:close()
  end)

  it("leaves nothing behind: descriptors, folders, memory", function()
    local function round()
      local g = files.guest "block"
      g:put("a/b", ("x"):rep(5000))
      g:open("a/b", READ | WRITE)
      local directory = g.vm.files:directory()
      g.vm:close()
      return directory
    end
    round()
    local before = process.entries "/proc/self/fd"
    for _ = 1, process.sanitized() and 50 or 200 do
      assert.is_nil(require "lfs".attributes(round()))
    end
    assert.equal(before, process.entries "/proc/self/fd")
  end)

  it("is there for many VMs at once, each with files of its own", function()
    local vms = {}
    for i = 1, 16 do
      local parts = {}
      for byte in ("\1\3\1f\4\0\0\0\0\1\0\0\0" .. string.char(64 + i)):gmatch "." do
        parts[#parts + 1] = support.out(0x278, byte:byte(), 1)
      end
      -- half of them stop in the middle of a command and spin
      local stall = i % 2 == 0 and support.out(0x278, 4, 1) .. "\xeb\xfe" or "\xf4"
      vms[i] = support.vm{ name = "g" .. i, coalesce = false }
      assert(vms[i]:load{ bytes = table.concat(parts) .. stall })
    end
    for _, vm in ipairs(vms) do vm:start() end
    for i = 1, 16, 2 do assert.equal("halt", (vms[i]:wait(60))) end
    for i, vm in ipairs(vms) do
      process.await(function() return vm.files:usage().bytes == 1 end)
      vm:stop()
      assert.equal(string.char(64 + i), files.get(vm.files:directory() .. "/f"))
      vm:close()
    end
  end)
end)

describe("scripts/file_protocol.lua", function()
  if support.without_kvm(pending) then return end

  it("passes its own check", function()
    local program = require "support.program"
    local r = program.run "P scripts/file_protocol.lua"
    assert.equal(0, r.status, r.out .. r.err)
  end)
end)

describe("vm.files from Lua", function()
  if support.without_kvm(pending) then return end

  local folder
  before_each(function() folder = files.folder() end)
  after_each(function() files.remove(folder) end)

  local function put(all)
    for name, data in pairs(all) do files.put(folder .. "/" .. name, data) end
  end

  local function policy( rules, more)
    local o = { root = folder, rules = rules, audit = true }
    for key, value in pairs(more or {}) do o[key] = value end
    return assert(require "minikvm".files(o))
  end

  it("opens, reads, writes, seeks and closes as a guest does, under its policy", function()
    put{ ["read.txt"] = "hello", ["copied.txt"] = "original" }
    local vm <close> = support.vm{ files = policy({ { "read.txt", "ro" },
                                                                 { "copied.txt", "cow" } }) }
    local f = vm.files
    local fd = assert(f:open "read.txt")
    assert.same({ 0, 5 }, { fd, f:size(fd) })
    assert.same({ "hel", "lo", "" }, { f:read(fd, 3), f:read(fd, 3), f:read(fd, 3) })
    assert.equal(1, f:seek(fd, "set", 1))
    assert.equal("ello", f:read(fd, 100))
    assert.same({ nil, "files:write: Bad file descriptor", "EBADF" }, { f:write(fd, "x") })
    assert.equal(0, f:close(fd))
    assert.equal("EBADF", select(3, f:close(fd)))
    assert.equal("EBADF", select(3, f:read(1 << 40, 1)))

    fd = assert(f:open("copied.txt", "r+"))
    assert.equal(3, f:write(fd, "NEW"))
    assert.equal(0, f:seek(fd, "set"))
    assert.equal("NEWginal", f:read(fd, 100))
    assert.equal("original", files.get(folder .. "/copied.txt")) -- the host's stays
    for name, code in pairs{ ["missing.txt"] = "ENOENT", ["../x"] = "EINVAL",
                             ["a\0b"] = "EINVAL" } do
      assert.equal(code, select(3, f:open(name)), name)
    end
    assert.equal("EROFS", select(3, f:open("read.txt", "w")))
    assert.error_matches(function() f:open("read.txt", "q") end, "a mode is r, w, a")
    assert.error_matches(function() f:open{} end,
                         "^files:open: 'name': expected a string, got a table")
    assert.equal("open", f:audit()[1].op)
  end)

  it("asks decide, whose error is the caller's", function()
    put{ ["a.txt"] = "a", ["b.txt"] = "b", ["c.txt"] = "c" }
    local answers = { ["a.txt"] = true, ["b.txt"] = false }
    local vm <close> = support.vm{ files = policy({ { "*", "ro" } }, {
      decide = function(name)
        if answers[name] == nil then error "not that one" end
        return answers[name]
      end }) }
    assert.equal("a", vm.files:read(assert(vm.files:open "a.txt"), 9))
    assert.equal("EACCES", select(3, vm.files:open "b.txt"))
    assert.error_matches(function() vm.files:open "c.txt" end, "not that one")
    assert.equal(1, vm.files:open "a.txt") -- nothing is left of the failed ones
  end)

  -- A page of Lua: the guest writes "name\n" to port 0x90 byte by byte and reads the file there.
  it("makes another file protocol, in a handler", function()
    put{ ["f.txt"] = "Hi!" }
    local parts = {}
    for c in ("f.txt\n"):gmatch "." do parts[#parts + 1] = support.out(0x90, c:byte()) end
    for i = 0, 3 do parts[#parts + 1] = support.into(0x2000 + 4 * i, 0x90) end
    local vm <close> = support.program(parts,
      { files = policy({ { "*.txt", "ro" } }, { decide = function() return "ro" end }) })
    local name, fd = "", nil
    vm.ports:on(0x90, {
      write = function(_, byte)
        if byte == 10 then fd = assert(vm.files:open(name))
        else name = name .. string.char(byte) end
      end,
      read = function() return (vm.files:read(fd, 1):byte() or 0xff) end,
    })
    assert.equal("halt", (vm:run()))
    local got = {}
    for i = 0, 3 do got[i + 1] = vm.memory:u8(0x2000 + 4 * i) end
    assert.same({ 0x48, 0x69, 0x21, 0xff }, got)
    assert.equal(1, vm.files:usage().open)
  end)
end)
