-- vm.memory: guest RAM by guest-physical address.

local support = require "support.guest"

describe("vm.memory", function()
  if support.without_kvm(pending) then return end
  local vm, memory

  before_each(function()
    vm = support.vm{ memory = "64K" }
    memory = vm.memory
  end)
  after_each(function() vm:close() end)

  it("is zero at first, and keeps what is written", function()
    assert.equal(("\0"):rep(0x10000), memory:read(0, 0x10000))
    memory:write(0x1234, "any\0bytes\xff")
    assert.equal("\0any\0bytes\xff\0", memory:read(0x1233, 12))
    memory:write(5, "")
    assert.equal("", memory:read(5, 0))
  end)

  it("is what the guest sees, and shows what the guest wrote", function()
    -- mov al, [0x800]; inc al; mov [0x801], al; hlt
    local guest <close> = support.code "a0 00 08 fe c0 a2 01 08 f4"
    guest.memory:u8(0x800, 41)
    support.run(guest)
    assert.equal(42, guest.memory:u8(0x801))
  end)

  it("has its windows one after the other", function()
    -- mov byte ptr [0x1000], 7; hlt
    local guest <close> = support.code("c6 06 00 10 07 f4", { cpus = 4 })
    support.run(guest)
    for cpu = 0, 3 do assert.equal(7, guest.memory:u8(cpu * 0x40000 + 0x1000)) end
  end)

  it("reads and writes integers of 1, 2, 4 and 8 bytes, low byte first", function()
    for size, name in pairs{ "u8", "u16", [4] = "u32", [8] = "u64" } do
      local value = string.unpack("<I" .. size, "\x88\x77\x66\x55\x44\x33\x22\x11")
      assert.is_nil(memory[name](memory, 0x100 + size * 16, value))
      assert.equal(value, memory[name](memory, 0x100 + size * 16))
      assert.equal(("\x88\x77\x66\x55\x44\x33\x22\x11"):sub(1, size) .. "\0",
                   memory:read(0x100 + size * 16, size + 1))
    end
    memory:u64(0x100, -1)
    assert.same({ 0xff, 0xffff, 0xffffffff, -1 }, { memory:u8(0x100), memory:u16(0x100),
                                                    memory:u32(0x100), memory:u64(0x100) })
  end)

  it("refuses integers that do not fit", function()
    for name, value in pairs{ u8 = 256, u16 = 65536, u32 = 1 << 32 } do
      assert.error_matches(function() memory[name](memory, 0, value) end, "too large")
      assert.error_matches(function() memory[name](memory, 0, -1) end, "too large")
    end
    assert.equal(0, memory:u64(0))
  end)

  it("ends with its last byte", function()
    memory:write(0xffff, "x")
    assert.equal("x", memory:read(0xffff, 1))
    assert.equal("", memory:read(0x10000, 0))
    assert.equal(0x10000, memory:size())
    assert.equal(0x10000, #memory)
  end)

  it("refuses what is not all in RAM, sums that overflow included", function()
    local function refused(method, ...)
      local arguments = { ... }
      assert.error_matches(function() memory[method](memory, table.unpack(arguments)) end,
                           "not all in RAM")
    end
    for _, at in ipairs{ 0xffff, 0x10000, 0x10001, 1 << 32, math.maxinteger, -1,
                         math.mininteger } do
      refused("read", at, 2)
      refused("write", at, "xy")
      refused("u16", at)
      refused("u64", at, 1)
      refused("fill", at, 2)
      refused("hexdump", at, 2)
    end
    refused("read", 1, math.maxinteger)
    refused("fill", 1, math.maxinteger)
    refused("hexdump", 1, math.maxinteger)
    refused("find", "x", 0x10001)
    refused("cstring", -1)
    assert.error_matches(function() memory:read(0, -1) end, "length of %-1")
    assert.error_matches(function() memory:fill(0, -1) end, "length of %-1")
  end)

  it("refuses arguments of other types", function()
    assert.error_matches(function() memory:read("x", 1) end, "number expected")
    assert.error_matches(function() memory:read(0) end, "number expected")
    assert.error_matches(function() memory:read(0.5, 1) end, "integer")
    assert.error_matches(function() memory:write(0) end, "string expected")
    assert.error_matches(function() memory:u8() end, "number expected")
    assert.error(function() return memory.read(vm.console, 0, 1) end)
  end)

  it("gives the bytes before the next NUL", function()
    memory:write(0x100, "hello\0world")
    assert.equal("hello", memory:cstring(0x100))
    assert.equal("hel", memory:cstring(0x100, 3))
    assert.equal("", memory:cstring(0x105))
    memory:fill(0xfff0, 16, 0x41)
    assert.equal(("A"):rep(16), memory:cstring(0xfff0))
    assert.equal("", memory:cstring(0x10000))
    assert.error_matches(function() memory:cstring(0, -1) end, "negative limit")
  end)

  it("fills", function()
    memory:fill(0x10, 4, 0xab)
    assert.equal("\0\xab\xab\xab\xab\0", memory:read(0xf, 6))
    memory:fill(0x11, 2)
    assert.equal("\xab\0\0\xab", memory:read(0x10, 4))
    for _, byte in ipairs{ -1, 256 } do
      assert.error_matches(function() memory:fill(0, 1, byte) end, "not a byte")
    end
  end)

  it("finds", function()
    memory:write(0x1234, "needle")
    memory:write(0xfffa, "needle")
    assert.equal(0x1234, memory:find "needle")
    assert.equal(0x1234, memory:find("needle", 0x1234))
    assert.equal(0xfffa, memory:find("needle", 0x1235))
    assert.is_nil(memory:find("needle", 0xfffb))
    assert.is_nil(memory:find "needles")
    assert.equal(7, memory:find("", 7))
  end)

  it("dumps in lines of 16 bytes", function()
    memory:write(0x100, "Hello, KVM!\n\0\x7f ~and on")
    assert.equal([[
00000100  48 65 6c 6c 6f 2c 20 4b 56 4d 21 0a 00 7f 20 7e  Hello, KVM!... ~
00000110  61 6e 64                                         and
]], memory:hexdump(0x100, 19))
    assert.equal("", memory:hexdump(0, 0))
  end)

  it("may be written while the guest runs", function()
    local guest <close> = support.code "80 3e 00 10 01 75 f9 f4" -- wait for [0x1000] to be 1; hlt
    guest:start()
    guest.memory:u8(0x1000, 1)
    assert.equal("halt", (guest:wait(20)))
  end)

  it("lets a program be written and run without an image", function()
    memory:write(0x100, support.bytes "b0 2a e6 f4") -- exit port: 42
    vm.cpu[0].cs = 0
    vm.cpu[0].rip = 0x100
    local reason, info = support.run(vm)
    assert.same({ "exit", 42 }, { reason, info.code })
  end)
end)
