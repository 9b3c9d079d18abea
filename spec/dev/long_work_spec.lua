-- What a guest asks for is done in pieces, between which the run's limits count, and a device that
-- was cut short answers how far it came.

local kvm = require "minikvm"
local lfs = require "lfs"
local support = require "support.guest"
local process = require "support.process"

local MIB <const> = 1 << 20

---Real mode: ebx = address, ecx = count, hypercall `number`; in eax, dx; mov [0x100], eax; hlt
local function caller(number, address, count, opts)
  local vm = support.vm(opts)
  assert(vm:load{ bytes = ("<I2I4I2I4"):pack(0xbb66, address, 0xb966, count) .. "\xba\x00\x05\xb0"
    .. string.char(number) .. "\xee\x66\xed\x66\xa3\x00\x01\xf4" })
  return vm
end

local function fifo()
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkfifo " .. path))
  return path, assert(io.open(path, "r+")) -- both ends: opening the other does not wait
end

describe("one long hypercall WRITE", function()
  if support.without_kvm(pending) then return end

  it("ends at the byte that is over the limit of output, and no line is scanned twice", function()
    for _, limit in ipairs{ 1, 65535, 65536, 65537, 3 * MIB } do
      local vm <close> = caller(0x10, 0, 64 * MIB,
                                { memory = 64 * MIB, limits = { output = limit } })
      local seen = 0
      vm.console:on_line(function(line) seen = seen + #line end)
      assert.equal("limit", (support.run(vm)))
      local _, total = vm.console:text()
      assert.equal(limit + 1, total)
      assert.equal("halt", (vm:run{ output = 10 }))
      assert.equal(limit + 1, vm.memory:u32(0x100)) -- docs/abi.md: the count of what was printed
      assert.is_true(seen <= total and total - seen <= MIB)
    end
  end)

  it("of as much as the limit allows ends by itself", function()
    local vm <close> = caller(0x10, 0x1000, 65536, { limits = { output = 65536 } })
    assert.equal("halt", (support.run(vm)))
    assert.equal(65536, vm.memory:u32(0x100))
  end)

  it("to a slow listener heeds the deadline before its last line", function()
    local vm <close> = caller(0x10, 0x10000, 65536, { limits = { seconds = 0.1 } })
    vm.memory:write(0x10000, ("\n"):rep(65536))
    local calls = 0
    vm.console:on_line(function()
      calls = calls + 1
      local till = os.clock() + 0.005
      while os.clock() < till do end
    end)
    assert.equal("deadline", (vm:run()))
    assert.is_true(calls < 200, calls .. " calls")
  end)

  it("waits for a reader, keeps little for it, and heeds the deadline and a stop", function()
    local path, reader = fifo()
    local vm <close> = caller(0x10, 0, 64 * MIB, { memory = 64 * MIB })
    assert(vm.console:output(path))
    assert.equal("deadline", (vm:run{ deadline = 0.1 }))
    local _, total = vm.console:text()
    assert.is_true(total > 0 and total <= MIB, total .. " bytes")
    vm:reset()
    vm:start()
    repeat kvm.sleep(0.001) until select(2, vm.console:text()) > 0
    assert.equal("stopped", (vm:stop()))
    reader:close()
    os.remove(path)
  end)
end)

describe("one long READ", function()
  if support.without_kvm(pending) then return end

  it("by hypercall, of an endless input, heeds the deadline", function()
    local vm <close> = caller(0x11, 0, 512 * MIB, { memory = 512 * MIB })
    assert(vm.console:input "/dev/zero")
    assert.equal("deadline", (vm:run{ deadline = 0.05 }))
  end)

  it("of a file, by request block, heeds the deadline and tells how much it read", function()
    local folder = os.tmpname()
    os.remove(folder)
    lfs.mkdir(folder)
    local file = assert(io.open(folder .. "/big", "w"))
    file:seek("set", 1024 * MIB - 1)
    file:write "x"
    file:close()
    local policy = assert(kvm.files{ root = folder, rules = { { "big", "ro" } } })
    local vm <close> = support.vm{ memory = "1G", files = policy }
    -- mov dx, 0x27c; mov eax, 0x8000; out dx, eax; mov eax, 0x8040; out dx, eax; hlt
    assert(vm:load{ bytes = "\xba\x7c\x02\x66\xb8\x00\x80\x00\x00\x66\xef"
      .. "\x66\xb8\x40\x80\x00\x00\x66\xef\xf4" })
    local size = 1023 * MIB
    vm.memory:write(0x8000, ("<I4I4i4I4I8i8i8"):pack(1, 1, 0, 3, 0x9000, 0, -1))
    vm.memory:write(0x8040, ("<I4I4i4I4I8i8i8"):pack(3, 0, 0, size, MIB, 0, -1))
    vm.memory:write(0x9000, "big")
    assert.equal("deadline", (vm:run{ deadline = 0.02 }))
    local n = ("<i8"):unpack(vm.memory:read(0x8060, 8))
    assert.is_true(n < size and (n == -1 or n % MIB == 0), n .. " bytes") -- -1: it was not begun
    os.remove(folder .. "/big")
    lfs.rmdir(folder)
  end)
end)

describe("one long copy", function()
  if support.without_kvm(pending) then return end

  it("of a file that the guest opens to write (cow) heeds the deadline, and leaves nothing",
     function()
    local folder = os.tmpname()
    os.remove(folder)
    lfs.mkdir(folder)
    local file = assert(io.open(folder .. "/big", "w"))
    for _ = 1, process.emulated and 64 or 256 do file:write(("x"):rep(MIB)) end -- its disk is RAM
    file:close()
    local policy = assert(kvm.files{ root = folder, rules = { { "big", "cow" } } })
    local vm <close> = support.vm{ files = policy }
    -- mov dx, 0x27c; mov eax, 0x8000; out dx, eax; hlt
    assert(vm:load{ bytes = "\xba\x7c\x02\x66\xb8\x00\x80\x00\x00\x66\xef\xf4" })
    vm.memory:write(0x8000, ("<I4I4i4I4I8i8i8"):pack(1, 2, 0, 3, 0x9000, 0, -1)) -- open to write
    vm.memory:write(0x9000, "big")
    local reason = vm:run{ deadline = 0.005 }
    local result = ("<i8"):unpack(vm.memory:read(0x8020, 8))
    if result ~= 0 then -- a file system that clones files is done at once
      assert.equal("deadline", reason)
      assert.is_true(result == -1 or result == -4, result .. "") -- not begun, or EINTR
      assert.equal(0, vm.files:usage().files)
    end
    vm:reset()
    vm.memory:write(0x8000, ("<I4I4i4I4I8i8i8"):pack(1, 2, 0, 3, 0x9000, 0, -1))
    vm.memory:write(0x9000, "big")
    assert.equal("halt", (support.run(vm)))
    assert.equal(0, (("<i8"):unpack(vm.memory:read(0x8020, 8))))
    os.remove(folder .. "/big")
    lfs.rmdir(folder)
  end)
end)

describe("string I/O", function()
  if support.without_kvm(pending) then return end

  it("to a slow handler heeds the deadline before its last item", function()
    -- mov cx, 0xffff; mov dx, 0x80; rep outsb; hlt
    local vm <close> = support.code "b9 ff ff ba 80 00 f3 6e f4"
    local calls = 0
    vm.ports:on(0x80, { write = function()
      calls = calls + 1
      local till = os.clock() + 0.01
      while os.clock() < till do end
    end })
    assert.equal("deadline", (vm:run{ deadline = 0.1 }))
    assert.is_true(calls < 100, calls .. " calls")
  end)
end)
