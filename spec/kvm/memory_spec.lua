-- vm.memory: guest RAM by guest-physical address.

local kvm = require "minikvm"
local image = require "support.image"
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

describe("memory above the hole", function()
  if support.without_kvm(pending) then return end

  -- Where RAM is (docs/abi.md): 3 GiB from 0, the rest from 4 GiB.
  local HOLE <const>, HIGH <const> = 3 << 30, 4 << 30

  ---A 64-bit guest; `code` in hexadecimal.
  local function long(code, options)
    local o = { mode = "long", page_size = "2M", memory = "4G", echo = false }
    for key, value in pairs(options or {}) do o[key] = value end
    local vm = assert(kvm.vm(o))
    return assert(vm:load{ bytes = support.bytes(code) })
  end

  -- mov rax, 0x100000000; mov dword [rax], 0x11223344; add dword [rax], 1
  -- mov rax, 0x13ffffff8; mov qword [rax], -1; hlt
  local HIGH_WRITER <const> = [[ 48 b8 00 00 00 00 01 00 00 00 c7 00 44 33 22 11 83 00 01
    48 b8 f8 ff ff 3f 01 00 00 00 48 c7 00 ff ff ff ff f4 ]]

  it("is RAM from 4 GiB on, in which a guest reads, writes and stands", function()
    local vm <close> = long(HIGH_WRITER)
    assert.equal("halt", (vm:run{ deadline = 20 }))
    assert.equal(0x11223345, vm.memory:u32(HIGH))
    assert.equal(-1, vm.memory:u64(HIGH + (1 << 30) - 8))
    assert.equal(4 << 30, #vm.memory)
    assert.equal(HIGH, vm.memory:find("\x45\x33\x22\x11", HIGH))
    local walk = vm.cpu[0]:walk(HIGH + 0x1234)
    assert.same({ true, HIGH + 0x1234 }, { walk.present, walk.address })
    assert.is_false(vm.cpu[0]:walk(HOLE).present)
  end)

  it("leaves a hole, which is for devices", function()
    local vm <close> = long("a1 00 00 c0 fe 00 00 00 00 f4", { map_io = 0xfec00000 })
    -- mov eax, [0xfec00000]; hlt
    vm.mmio:on({ 0xfec00000, size = 4096 }, { read = function() return 0x1234 end })
    assert.equal("halt", (vm:run{ deadline = 20 }))
    assert.equal(0x1234, vm.cpu[0].rax)
    assert.is_true(vm.memory:has(HOLE - 1, 1))
    assert.is_false(vm.memory:has(HOLE, 1))
    assert.is_false(vm.memory:has(HOLE - 1, 2))
    assert.is_true(vm.memory:has(HIGH + (1 << 30) - 1, 1))
    assert.is_false(vm.memory:has(HIGH + (1 << 30) - 1, 2))
    assert.error_matches(function() vm.memory:read(HOLE - 1, 2) end, "not all in RAM")
    assert.error_matches(function() vm.memory:u8(HIGH - 1, 1) end, "not all in RAM")
    assert.same({ { at = 0, size = HOLE, kind = "ram", writable = true, name = "RAM" },
                  { at = HIGH, size = 1 << 30, kind = "ram", writable = true, name = "RAM" } },
                vm.memory:regions())
  end)

  it("is in the guest's list of RAM", function()
    local vm <close> = long("f4")
    assert.equal("halt", (vm:run{ deadline = 20 }))
    local info = vm.cpu[0].rbx
    local ram, _, _, count, list = ("<I4I4I4I4I4"):unpack(vm.memory:read(info + 8, 20))
    assert.same({ 0xffffffff, 2 }, { ram, count })
    assert.equal(("<I8I8I4I8I8I4"):pack(0, HOLE, 1, HIGH, 1 << 30, 1), vm.memory:read(list, 40))
  end)

  it("appears at map_base as far as addresses go, without covering the map from 0", function()
    local vm <close> = long("f4", { map_base = 0xffffffff80000000 })
    assert.equal("halt", (vm:run{ deadline = 20 }))
    for linear, physical in pairs{ [0x1000] = 0x1000, [HIGH] = HIGH, [-(2 << 30)] = 0,
                                   [-4096] = (2 << 30) - 4096 } do
      assert.equal(physical, (vm.cpu[0]:translate(linear)), ("0x%x"):format(linear))
    end
  end)

  it("may be 64 GiB of which most is never used", function()
    -- mov rax, 0x103fffffff8; mov qword [rax], 7; hlt: the last 8 bytes
    local vm <close> = long("48 b8 f8 ff ff 3f 10 00 00 00 48 c7 00 07 00 00 00 f4",
                            { memory = "64G" })
    assert.equal("halt", (vm:run{ deadline = 20 }))
    local last = HIGH + (61 << 30) - 8
    assert.equal(7, vm.memory:u64(last))
    local snap <close> = assert(vm:snapshot())
    vm.memory:u64(last, 8)
    assert(vm:restore(snap))
    assert.equal(7, vm.memory:u64(last))
  end)

  it("belongs to snapshots, forks and files", function()
    local vm <close> = long(HIGH_WRITER)
    local empty <close> = assert(vm:snapshot())
    assert.equal("halt", (vm:run{ deadline = 20 }))
    local full <close> = assert(vm:snapshot())
    local child <close> = assert(vm:fork())
    assert.equal(0x11223345, child.memory:u32(HIGH))
    child.memory:u32(HIGH, 1)
    assert(child:restore(empty))
    assert.equal(0, child.memory:u32(HIGH))
    assert.equal("halt", (child:run{ deadline = 20 }))
    assert.equal(0x11223345, child.memory:u32(HIGH))
    assert(vm:restore(empty))
    assert.equal(0, vm.memory:u64(HIGH + (1 << 30) - 8))
    local path = os.tmpname()
    assert(full:save(path))
    local loaded <close> = assert(kvm.load_snapshot(path))
    os.remove(path)
    local other <close> = assert(loaded:vm{ echo = false })
    assert.equal(0x11223345, other.memory:u32(HIGH))
    assert.equal(-1, other.memory:u64(HIGH + (1 << 30) - 8))
  end)

  it("is in the maps that Multiboot and Linux kernels are given", function()
    local map = require("minikvm.image.place").memory_map{ limit = HOLE,
                                                           ranges = { { HIGH, 1 << 30 } } }
    assert.same({ { 0, 0xa0000, 1 }, { 0xa0000, 0x100000, 2 }, { 0x100000, HOLE, 1 },
                  { HIGH, HIGH + (1 << 30), 1 } }, map)
    -- Multiboot Specification 3.3: mmap_length and mmap_addr at 44 and 48 of the structure in EBX
    local m = image.multiboot(true)
    local vm <close> = assert(kvm.vm{ mode = "protected", memory = "4G", echo = false })
    assert(vm:load{ bytes = image.bytes(m) })
    local info = vm.cpu[0].rbx
    local length, at = vm.memory:u32(info + 44), vm.memory:u32(info + 48)
    assert.equal(("<I4I8I8I4"):pack(20, HIGH, 1 << 30, 1), vm.memory:read(at + length - 24, 24))
  end)

  it("takes images, and DMA of devices", function()
    local vm <close> = long("48 b8 00 00 20 00 01 00 00 00 ff e0") -- mov rax, 0x100200000; jmp rax
    assert(vm:load({ bytes = "\xb0\x2a\xe6\xf4" }, { at = HIGH + 0x200000, entry = 0x1000 }))
    local _, info = vm:run{ deadline = 20 }
    assert.equal(42, info.code)
    local d = vm:attach(kvm.device{ name = "dma", registers = {} }, { mmio = 0xfe000000 })
    assert.is_true(d:dma_write(HIGH, "high"))
    assert.equal("high", d:dma_read(HIGH, 4))
    assert.is_false(d:is_ram(HOLE, 1))
    assert.is_nil((d:dma_read(HOLE - 1, 2)))
    local done, why, code = vm:load({ bytes = "xx" }, { at = HOLE - 1 })
    assert.same({ nil, "EFBIG" }, { done, code }, why)
  end)
end)

describe("memory:map", function()
  if support.without_kvm(pending) then return end
  local path

  before_each(function() path = os.tmpname() end)
  after_each(function() os.remove(path) end)

  local function file(bytes)
    local f <close> = assert(io.open(path, "wb"))
    f:write(bytes)
  end

  local function contents()
    local f <close> = assert(io.open(path, "rb"))
    return f:read "a"
  end

  ---A 32-bit guest without paging and with 1 MiB of RAM; options for kvm.vm.
  local function prot(code, options)
    local o = { mode = "protected", memory = "1M", echo = false }
    for key, value in pairs(options or {}) do o[key] = value end
    local vm = assert(kvm.vm(o))
    return assert(vm:load{ bytes = support.bytes(code) })
  end

  -- mov byte [0xfff00000], 0x99; mov bl, [0xfff00004]; mov eax, 0xfff00000; jmp eax
  local TO_ROM <const> = "c6 05 00 00 f0 ff 99 8a 1d 04 00 f0 ff b8 00 00 f0 ff ff e0"
  local ROM <const> = "\xb0\x2a\xe6\xf4\x77" -- mov al, 42; out 0xf4, al; a byte

  it("makes ROM, which guests read and run, and do not write", function()
    local vm <close> = prot(TO_ROM, { coalesce = false })
    local rom = assert(vm.memory:map{ at = 0xfff00000, rom = true, bytes = ROM, size = "64K" })
    local reason, info = vm:run{ deadline = 20 }
    assert.same({ "exit", 42, 0x77 }, { reason, info.code, vm.cpu[0].bl })
    assert.equal(1, rom.hits)
    assert.equal(1, info.by.mmio)
    assert.equal(1, info.served.none)
    assert.equal(ROM .. "\0", vm.memory:read(0xfff00000, 6))
    assert.is_true(vm.memory:has(0xfff00000, 65536))
    assert.is_false(vm.memory:has(0xfff00000, 1, true))
    for _, write in ipairs{ function(m) m:write(0xfff00000, "x") end,
                            function(m) m:u8(0xfff0ffff, 1) end,
                            function(m) m:fill(0xfff00000, 2) end } do
      assert.error_matches(function() write(vm.memory) end, "ROM is read%-only")
    end
    assert(vm:reset())
    assert.equal(0, rom.hits)
    assert.equal(42, (select(2, vm:run{ deadline = 20 })).code)
  end)

  it("hands writes to ROM to a handler that lies there, or ends the VM with unhandled=fault",
     function()
    local vm <close> = prot(TO_ROM)
    local rom = assert(vm.memory:map{ at = 0xfff00000, rom = true, bytes = ROM })
    local got
    vm.mmio:on({ 0xfff00000, size = 4 },
               { write = function(_, value, size) got = { value, size } end })
    assert.equal("exit", (vm:run{ deadline = 20 }))
    assert.same({ 0x99, 1 }, got)
    assert.equal(0, rom.hits)
    local strict <close> = prot(TO_ROM, { unhandled = "fault" })
    assert(strict.memory:map{ at = 0xfff00000, rom = true, bytes = ROM })
    local reason, info = strict:run{ deadline = 20 }
    assert.equal("fault", reason)
    assert.matches("write to 0xfff00000: it is read%-only memory and nobody serves it", info.text)
  end)

  it("is in the tables of long mode and of paged mode when it was there before the image",
     function()
    -- mov eax, 0xfff00000; jmp rax (long), jmp eax (paged)
    for _, mode in ipairs{ "long", "paged" } do
      for _, page in ipairs(mode == "long" and { "4K", "2M" } or { false }) do
        local vm <close> = assert(kvm.vm{ mode = mode, echo = false, page_size = page or nil })
        assert(vm.memory:map{ at = 0xfff00000, rom = true, bytes = ROM })
        assert(vm:load{ bytes = support.bytes "b8 00 00 f0 ff ff e0" })
        local reason, info = vm:run{ deadline = 20 }
        assert.same({ "exit", 42 }, { reason, info.code }, mode)
        assert(vm:reset())
        assert.equal("exit", (vm:run{ deadline = 20 }))
      end
    end
  end)

  it("takes a ROM from a file, as it was then", function()
    file(ROM)
    local vm <close> = prot(TO_ROM)
    assert(vm.memory:map{ at = 0xfff00000, rom = true, path = path })
    file "something else"
    assert.equal(42, (select(2, vm:run{ deadline = 20 })).code)
    assert.equal(ROM .. ("\0"):rep(4096 - #ROM), vm.memory:read(0xfff00000, 4096))
  end)

  -- inc dword [0x10000000]; hlt
  local COUNTER <const> = "ff 05 00 00 00 10 f4"

  it("makes RAM outside RAM, which snapshots keep and a reset clears", function()
    local vm <close> = prot(COUNTER)
    assert(vm.memory:map{ at = 0x10000000, size = "2M", bytes = "\5" })
    local function count(where) return where.memory:u32(0x10000000) end
    assert.equal("halt", (vm:run{ deadline = 20 }))
    assert.equal(6, count(vm))
    local six <close> = assert(vm:snapshot())
    vm.memory:write(0x101fffff, "x")
    vm.memory:u32(0x10000000, 50)
    local fifty <close> = assert(vm:snapshot())
    local child <close> = assert(vm:fork())
    assert.equal(50, count(child))
    assert(vm:restore(six))
    assert.same({ 6, 0 }, { count(vm), vm.memory:u8(0x101fffff) })
    assert(vm:reset())
    assert.equal(5, count(vm))
    assert.equal("halt", (vm:run{ deadline = 20 }))
    assert.equal(6, count(vm))
    assert(vm:restore(fifty))
    assert.same({ 50, 0x78 }, { count(vm), vm.memory:u8(0x101fffff) })
    assert(child:restore(six))
    assert.equal(6, count(child))
    assert(fifty:save(path))
    local loaded <close> = assert(kvm.load_snapshot(path))
    local other <close> = assert(loaded:vm{ echo = false })
    assert.equal(50, count(other))
    assert.same(vm.memory:regions(), other.memory:regions())
  end)

  it("goes on at the end of RAM, and accesses go over the seam", function()
    -- mov dword [0xffffe], 0x44332211; hlt
    local vm <close> = prot "c7 05 fe ff 0f 00 11 22 33 44 f4"
    assert(vm.memory:map{ at = 0x100000, size = 4096 })
    assert.equal("halt", (vm:run{ deadline = 20 }))
    assert.equal("\x11\x22\x33\x44", vm.memory:read(0xffffe, 4))
    assert.equal("\x11\x22\x33\x44", vm.memory:cstring(0xffffe))
    assert.equal(0xffffe, vm.memory:find("\x11\x22\x33\x44", 0x2000))
    vm.memory:fill(0xffffc, 8, 0x41)
    vm.memory:u64(0xffffc, 0x0102030405060708)
    assert.equal(0x0102030405060708, vm.memory:u64(0xffffc))
    assert.error_matches(function() vm.memory:read(0x100ffc, 8) end, "not all in RAM")
  end)

  it("shares a file: VMs and processes see what is written, snapshots do not change it", function()
    file(("\0"):rep(4096))
    local one <close> = prot(COUNTER)
    local two <close> = prot(COUNTER)
    for _, vm in ipairs{ one, two } do
      assert(vm.memory:map{ at = 0x10000000, path = path, shared = true })
    end
    for _, vm in ipairs{ one, two, one } do
      assert.equal("halt", (vm:run{ deadline = 20 }))
      assert(vm:reset())
    end
    assert.equal(3, two.memory:u32(0x10000000))
    assert.equal(3, (("<I4"):unpack(contents())))
    local snap <close> = assert(one:snapshot())
    one.memory:u32(0x10000000, 9)
    assert(one:restore(snap))
    assert.equal(9, two.memory:u32(0x10000000))
    assert.error_matches(function() snap:vm{ echo = false } end,
                         path:match "[^/]*$" .. ", 0x1000 bytes "
                         .. "at 0x10000000 %(vm%.memory:map%)")
    local child <close> = assert(snap:vm{ echo = false, setup = function(vm)
      assert(vm.memory:map{ at = 0x10000000, path = path, shared = true })
    end })
    assert.equal(9, child.memory:u32(0x10000000))
  end)

  it("shares a file that the guest only reads", function()
    file "\7"
    local vm <close> = prot(COUNTER)
    local handle = assert(vm.memory:map{ at = 0x10000000, path = path, shared = true, rom = true })
    assert.equal("halt", (vm:run{ deadline = 20 }))
    assert.equal(1, handle.hits)
    assert.equal("\7", contents())
    file "\8"
    assert.equal(8, vm.memory:u8(0x10000000))
  end)

  it("has no memory where a shared file was cut off", function()
    file(("x"):rep(8192))
    local vm <close> = prot "f4"
    assert(vm.memory:map{ at = 0x10000000, path = path, shared = true })
    file(("y"):rep(4095) .. "z")
    assert.equal("y", vm.memory:read(0x10000000, 1))
    assert.error_matches(function() vm.memory:read(0x10001000, 1) end, "not all in RAM")
    assert.is_false(vm.memory:has(0x10000000, 8192))
    assert.equal(0x10000ffe, vm.memory:find("yz", 0x10000000))
    assert.is_nil(vm.memory:find("x", 0x10000000))
    assert.equal(("y"):rep(4095) .. "z", vm.memory:cstring(0x10000000))
  end)

  it("is searched beyond the first MiB, and where two of them meet", function()
    local vm <close> = assert(kvm.vm{ mode = "protected", memory = "4M" })
    for _, at in ipairs{ (3 << 20) - 3, 0x10000, 4 << 20 } do
      vm.memory:write(at - 6, "needle")
      assert.equal(at - 6, vm.memory:find("needle", at < 1 << 20 and 0 or 0x20000))
      vm.memory:fill(at - 6, 6)
    end
    assert.is_nil(vm.memory:find "needle")
  end)

  it("is taken away by remove(), and restores want it there", function()
    local vm <close> = prot(COUNTER)
    local handle = assert(vm.memory:map{ at = 0x10000000, size = 4096, name = "extra" })
    assert.equal("halt", (vm:run{ deadline = 20 }))
    local snap <close> = assert(vm:snapshot())
    handle:remove()
    handle:remove()
    assert.equal(1, #vm.memory:regions())
    assert.error_matches(function() vm.memory:u8(0x10000000) end, "not all in RAM")
    assert.error_matches(function() vm:restore(snap) end, "extra, 0x1000 bytes at 0x10000000")
    assert(vm:reset())
    local _, info = vm:run{ deadline = 20 }
    assert.equal(2, info.served.none) -- the read and the write of `inc`
    handle = assert(vm.memory:map{ at = 0x10000000, size = 4096 })
    assert(vm:restore(snap))
    assert.equal(1, vm.memory:u32(0x10000000))
    assert(vm.memory:map{ at = 0x20000000, size = 4096, name = "more" })
    assert.error_matches(function() vm:restore(snap) end, "no more, 0x1000 bytes at 0x20000000")
    handle:remove()
  end)

  it("stays when the first image chooses another mode and size of RAM", function()
    local vm <close> = assert(kvm.vm{ echo = false }) -- 1 MiB, until an image says more
    assert(vm.memory:map{ at = 0x10000000, size = 4096, bytes = "mapped" })
    assert(vm:load{ bytes = image.bytes(image.elf(32)) })
    assert.equal(4 << 20, #vm.memory)
    assert.equal("mapped", vm.memory:read(0x10000000, 6))
    assert.equal(2, #vm.memory:regions())
  end)

  it("works under paging by memory slots", function()
    -- paged mode: mov dword [0x10000000], 5 (RAM); mov byte [0x10400000], 9 (ROM); hlt
    local vm <close> = assert(kvm.vm{ mode = "paged", echo = false })
    assert(vm.memory:map{ at = 0x10000000, size = "4M" })
    local rom = assert(vm.memory:map{ at = 0x10400000, rom = true, bytes = ROM })
    assert(vm:load{ bytes = support.bytes "c7 05 00 00 00 10 05 00 00 00 c6 05 00 00 40 10 09 f4" })
    assert.equal("halt", (vm:run{ deadline = 20 }))
    assert.equal(5, vm.memory:u32(0x10000000))
    assert.equal(ROM, vm.memory:read(0x10400000, #ROM))
    assert.equal(1, rom.hits)
    local snap <close> = assert(vm:snapshot())
    vm.memory:u32(0x10000000, 6)
    local more = assert(vm.memory:map{ at = 0x20000000, size = 4096 })
    more:remove()
    assert(vm:restore(snap))
    assert.equal(5, vm.memory:u32(0x10000000))
  end)

  it("refuses what does not go together, what overlaps, and too much", function()
    local vm <close> = prot "eb fe"
    local device = vm.mmio:on({ 0x30000000, size = 16 },
                              { name = "a device", read = function() end })
    local function misuse(options, pattern)
      assert.error_matches(function() vm.memory:map(options) end, pattern)
    end
    misuse({ size = 4096 }, "'at' is missing")
    misuse({ at = 0x200000 }, "'size' is missing")
    misuse({ at = 0x200000, size = 0 }, "'size': expected a size")
    misuse({ at = -4096, size = 4096 }, "'at': expected an address")
    misuse({ at = 0x200000, size = 100 }, "multiples of 4096")
    misuse({ at = 0x200800, size = 4096 }, "multiples of 4096")
    misuse({ at = 0x200000, size = "128G" }, "at most 64G")
    misuse({ at = 1 << 60, size = 4096 }, "end below 0x10000000000000")
    misuse({ at = math.maxinteger & -4096, size = 4096 }, "end below")
    misuse({ at = 0x200000, siez = 4096 }, "unknown option 'siez' %(did you mean 'size'%?%)")
    misuse({ at = 0x200000, rom = true, size = 4096 }, "give its contents")
    misuse({ at = 0x200000, bytes = "" }, "'bytes' is empty")
    misuse({ at = 0x200000, path = path .. "\0x" }, "'path'.*NUL")
    misuse({ at = 0x200000, bytes = "x", path = path }, "give one of them")
    misuse({ at = 0x200000, shared = true, size = 4096 }, "give its 'path'")
    misuse({ at = 0xff000, size = 8192 }, "overlaps RAM at 0x0%-0xfffff")
    misuse({ at = 0x2ffff000, size = 8192 }, "overlaps a device at 0x30000000")
    misuse({ at = 0xfeffd000, size = 4096 }, "KVM needs")
    assert(vm.memory:map{ at = 0x10000000, size = 8192, name = "first" })
    misuse({ at = 0x10001000, size = 4096, name = "second" },
           "second: 0x10001000%-0x10001fff overlaps first at 0x10000000%-0x10001fff")
    assert.error_matches(function() vm.mmio:on({ 0x10001000, size = 1 }, { read = print }) end,
                         "lie over first")
    device:remove()
    vm:start()
    misuse({ at = 0x200000, size = 4096 }, "running")
    vm:stop()
    local made = 0
    for i = 1, 300 do
      local ok, why = pcall(vm.memory.map, vm.memory, { at = 0x40000000 + i * 8192, size = 4096 })
      made = made + (ok and 1 or 0)
      if not ok then assert.matches("at most 255 regions", why) end
    end
    assert.equal(255 - 2, made)
  end)

  it("says what is wrong with a file", function()
    local vm <close> = prot "f4"
    local function refused(options, pattern, code)
      options.at = 0x200000
      local handle, why, name = vm.memory:map(options)
      assert.is_nil(handle)
      assert.matches(pattern, why)
      assert.equal(code, name)
    end
    refused({ path = "/nonexistent/rom", rom = true }, "^/nonexistent/rom: No such file", "ENOENT")
    refused({ path = "/" }, "^/: it is a directory", "EISDIR")
    refused({ path = "/", shared = true }, "^/: ", "EISDIR")
    refused({ path = "/dev/null" }, "not a regular file", "EINVAL")
    refused({ path = path }, "is empty", "EINVAL")
    file(("x"):rep(5000))
    refused({ path = path, size = 4096 }, "5000 bytes do not fit", "EFBIG")
    refused({ path = path, shared = true, size = "1M" }, "make the file longer", "EINVAL")
    refused({ bytes = ("x"):rep(5000), size = 4096 }, "5000 bytes do not fit", "EFBIG")
    os.remove(path)
    assert(os.execute("mkfifo " .. path))
    refused({ path = path }, "not a regular file", "EINVAL")
    assert.equal(1, #vm.memory:regions())
  end)

  it("is not in children that a script forks", function()
    -- proc_pid_smaps(5): "dc", the area is not copied on fork (MADV_DONTFORK)
    local vm <close> = prot "f4"
    local inside
    for line in io.lines "/proc/self/smaps" do
      local size = line:match "^Size:%s+(%d+) kB"
      if size then inside = size == "1024" end
      if inside and line:find "^VmFlags:.* dc " then inside = "found" break end
    end
    assert.equal("found", inside)
    assert.equal("halt", (vm:run{ deadline = 20 }))
  end)
end)
