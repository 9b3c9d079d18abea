-- Image formats as guests see them: what is in RAM, where they start, what they are told. The files
-- are made here, byte by byte; every bad field has its test in elf_spec.lua and multiboot_spec.lua.

local kvm = require "minikvm"
local lfs = require "lfs"
local make = require "support.image"
local process = require "support.process"
local support = require "support.guest"

local CODE <const>, DATA <const>, BSS <const> = 0x2000, 0x3000, 0x800
local HIGH <const> = 0xffffffff80000000 -- a negative integer, as addresses up there are

-- mov al, 'A'; out 0xe9, al; hlt; mov al, 'B'; out 0xe9, al; hlt: the same in 16, 32 and 64 bits
local PROGRAM <const> = support.bytes "b0 41 e6 e9 f4  b0 42 e6 e9 f4"
local OTHER <const> = 5 -- offset of the second half

local function narrow_elf(p)
  return string.pack("<c4BBBc9I2I2I4I4I4I4I4I2I2I2I2I2I2", "\x7fELF", 1, 1, 1, ("\0"):rep(9),
                     p.type, 3, 1, p.entry & 0xffffffff, 52, p.sections, 0, 52, 32, 2, 40, 3, 0)
end

local function wide_elf(p)
  return string.pack("<c4BBBc9I2I2I4i8I8I8I4I2I2I2I2I2I2", "\x7fELF", 2, 1, 1, ("\0"):rep(9),
                     p.type, 62, 1, p.entry, 64, p.sections, 0, 64, 56, 2, 64, 3, 0)
end

local function segment(wide, offset, linear, at, file, memory)
  if wide then
    return string.pack("<I4I4I8i8i8I8I8I8", 1, 7, offset, linear, at, file, memory, 1)
  end
  return string.pack("<I4I4I4I4I4I4I4I4", 1, offset, linear & 0xffffffff, at & 0xffffffff, file,
                     memory, 7, 1)
end

local function section(wide, kind, offset, size, link, entry)
  local format = wide and "<I4I4I8I8I8I8I4I4I8I8" or "<I4I4I4I4I4I4I4I4I4I4"
  return string.pack(format, 0, kind, 0, 0, offset, size, link, 0, 1, entry)
end

local function symbol(wide, name, value, info)
  if wide then return string.pack("<I4BBI2i8I8", name, info, 0, 1, value, 0) end
  return string.pack("<I4I4I4BBI2", name, value & 0xffffffff, 0, info, 0, 1)
end

---An executable: the program at CODE, "data" and bss at DATA, symbols start, other and data.
---@param opts { wide: boolean?, high: integer?, physical: boolean?, type: integer?, code: string? }
---  linked at `high` + address, with physical addresses of its own or the same ones
local function elf(opts)
  local wide, high = opts.wide, opts.high or 0
  local physical = opts.physical and 0 or high
  local code = opts.code or PROGRAM
  local names = "\0start\0other\0data\0"
  local symbols = symbol(wide, 0, 0, 0) .. symbol(wide, 1, high + CODE, 0x10)
    .. symbol(wide, 7, high + CODE + OTHER, 0x10) .. symbol(wide, 13, high + DATA, 0x11)
  local head = wide and 64 + 2 * 56 or 52 + 2 * 32
  local at = { data = head + #code }
  at.symbols = at.data + 4
  at.names = at.symbols + #symbols
  local header = (wide and wide_elf or narrow_elf){ type = opts.type or 2, entry = high + CODE,
                                                    sections = at.names + #names }
  return table.concat{ header, segment(wide, head, high + CODE, physical + CODE, #code, #code),
    segment(wide, at.data, high + DATA, physical + DATA, 4, 4 + BSS), code, "data", symbols, names,
    section(wide, 0, 0, 0, 0, 0), section(wide, 2, at.symbols, #symbols, 2, wide and 24 or 16),
    section(wide, 3, at.names, #names, 0, 0) }
end

---A Multiboot kernel of this code, loaded whole at `at` by address fields.
local function multiboot(code, at)
  local flags, head = 0x10003, 32
  local function address(offset) return at + offset end
  return string.pack("<I4I4I4I4I4I4I4I4", 0x1badb002, flags, -(0x1badb002 + flags) & 0xffffffff,
                     address(0), address(0), 0, 0, address(head)) .. code
end

local function run(vm)
  local reason = vm:run{ deadline = 20 }
  return vm.console:text(), reason
end

local function load_bytes(vm, bytes, opts)
  assert(vm:load({ bytes = bytes, name = "kernel" }, opts))
  return vm
end

describe("an ELF file", function()
  if support.without_kvm(pending) then return end

  local WAYS <const> = {
    ["real mode"] = { { mode = "real" }, {} },
    ["protected mode"] = { { mode = "protected" }, {} },
    ["paged mode"] = { { mode = "paged" }, {} },
    ["paged mode, linked high"] = { { mode = "paged" }, { high = 0x80000000 } },
    ["paged mode, linked high, loaded low"] = { { mode = "paged" },
                                                { high = 0x80000000, physical = true } },
    ["protected mode, linked high, loaded low"] = { { mode = "protected" },
                                                    { high = 0xc0000000, physical = true } },
    ["long mode"] = { { mode = "long" }, { wide = true } },
    ["long mode, pages of 2 MiB"] = { { mode = "long", page_size = "2M" }, { wide = true } },
    ["long mode, linked high"] = { { mode = "long", map_base = HIGH },
                                   { wide = true, high = HIGH } },
    ["long mode, linked high, loaded low"] = { { mode = "long", map_base = HIGH },
                                               { wide = true, high = HIGH, physical = true } },
  }

  for name, way in pairs(WAYS) do
    it("runs in " .. name, function()
      local vm <close> = support.vm(way[1])
      vm.memory:fill(0x2800, 0x2000, 0xcc)
      load_bytes(vm, elf(way[2]))
      assert.equal("data" .. ("\0"):rep(BSS) .. "\xcc", vm.memory:read(DATA, 4 + BSS + 1))
      assert.equal("\xcc", vm.memory:read(DATA - 1, 1))
      local output, reason = run(vm)
      assert.equal("halt", reason)
      assert.equal("A", output)
    end)
  end

  it("starts at a symbol, an address or its own entry", function()
    for entry, output in pairs{ other = "B", start = "A", [CODE + OTHER] = "B" } do
      local vm <close> = support.vm{ mode = "protected" }
      load_bytes(vm, elf{}, { entry = entry })
      assert.equal(output, (run(vm)))
    end
    local vm <close> = support.vm{ mode = "protected" }
    local ok, why, code = vm:load({ bytes = elf{}, name = "kernel" }, { entry = "othr" })
    assert.is_nil(ok)
    assert.matches('kernel: entry="othr": it has no such symbol', why)
    assert.equal("ENOENT", code)
  end)

  it("starts at a symbol of a program that was linked elsewhere than it runs", function()
    local vm <close> = support.vm{ mode = "protected" }
    load_bytes(vm, elf{ high = 0xc0000000, physical = true }, { entry = "other" })
    assert.equal("B", (run(vm)))
  end)

  it("has each real-mode vCPU's window to itself", function()
    local vm <close> = support.vm{ mode = "real", cpus = 2 }
    load_bytes(vm, elf{}, { cpu = 0 })
    load_bytes(vm, elf{}, { cpu = 1, entry = "other" })
    assert.equal("data", vm.memory:read(0x40000 + DATA, 4))
    run(vm)
    assert.same({ "A", "B" }, { (vm.console:text(0)), (vm.console:text(1)) })
  end)

  it("comes back with a reset, whatever happened to its file", function()
    local path = process.temporary(elf{ wide = true })
    local vm <close> = support.vm{ mode = "long" }
    assert(vm:load(path))
    assert.equal("A", (run(vm)))
    assert(io.open(path, "wb")):close() -- truncated
    vm.memory:fill(CODE, 0x2000, 0xcc)
    assert(vm:reset())
    assert.equal("data" .. ("\0"):rep(BSS), vm.memory:read(DATA, 4 + BSS))
    assert.equal("A", (run(vm)))
    os.remove(path)
  end)

  it("is refused with a reason, and leaves the VM as it was", function()
    local vm <close> = support.vm{ mode = "protected" }
    for words, bytes in pairs{ ["ends within the ELF header"] = elf{}:sub(1, 51),
                               ["program headers: 0x34: 2 of them do not fit"] = elf{}:sub(1, 60),
                               ["lies beyond the file's"] = elf{}:sub(1, 120),
                               ["link it with %-static %-no%-pie"] = elf{ type = 3 },
                               ['runs in mode="long" only'] = elf{ wide = true } } do
      local ok, why = vm:load{ bytes = bytes, name = "kernel" }
      assert.is_nil(ok)
      assert.matches("^kernel: ", why)
      assert.matches(words, why)
    end
    assert.equal(("\0"):rep(16), vm.memory:read(CODE, 16))
    assert.error_matches(function() vm:run() end, "the last load failed: kernel: ")
    load_bytes(vm, elf{})
    assert.equal("A", (run(vm)))
  end)

  it("may lie where the mode has its tables", function()
    for _, way in ipairs{ { { mode = "long" }, { wide = true, high = -0x1800 } },
                          { { mode = "paged" }, { high = 0xfe000 } },
                          { { mode = "long", memory = "2M" },
                            { wide = true, high = 0x1fb000 } } } do
      local vm <close> = support.vm(way[1])
      load_bytes(vm, elf(way[2]))
      for _ = 1, 2 do
        assert.equal("data", vm.memory:read(way[2].high + DATA, 4))
        assert.equal("A", (run(vm)))
        assert(vm:reset())
      end
    end
  end)

  -- ld -Ttext 0x1000 puts the first segment at 0, with the ELF header and the program headers.
  it("may begin at 0 with its own headers", function()
    for _, mode in ipairs{ "protected", "paged", "long" } do
      local m = make.elf(mode == "long" and 64 or 32)
      m.p[1].offset, m.p[1].vaddr, m.p[1].paddr = 0, 0, 0
      m.p[1].filesz, m.p[1].memsz, m.e.entry = 0x800, 0x1800, make.CODE
      local bytes = make.bytes(m)
      bytes = bytes:sub(1, make.CODE) .. PROGRAM .. bytes:sub(make.CODE + #PROGRAM + 1)
      local vm <close> = support.vm{ mode = mode }
      load_bytes(vm, bytes)
      assert.equal("A", (run(vm)))
      assert.equal(bytes:sub(1, 0x800) .. ("\0"):rep(0x1000), vm.memory:read(0, 0x1800))
      assert.equal(0x49424b4d, vm.memory:u32(vm.cpu[0].rbx)) -- the boot information, elsewhere
    end
  end)

  it("runs whatever is wrong with what loading does not need", function()
    local function program(change)
      local m = make.elf(64)
      change(m)
      local bytes = make.bytes(m)
      return bytes:sub(1, make.CODE) .. PROGRAM .. bytes:sub(make.CODE + #PROGRAM + 1)
    end
    for _, change in ipairs{
      function(m) m.p[3].filesz, m.p[3].offset = 0, 1 << 40 end, -- .bss only, behind the file's end
      function(m) m.p[2].type = 3 end, -- INTERP of a static file
      function(m) m.e.shoff = 1 << 40 end,
      function(m) m.p[1].align = 7 end } do
      local vm <close> = support.vm{ mode = "long" }
      load_bytes(vm, program(change))
      assert.equal("A", (run(vm)))
    end
    local vm <close> = support.vm{ mode = "protected" }
    load_bytes(vm, elf{}:sub(1, -2)) -- cut off in its section headers
    assert.equal("A", (run(vm)))
    assert.is_nil(vm.symbols.start)
  end)

  it("does not take at=, except in real mode", function()
    local vm <close> = support.vm{ mode = "protected" }
    local ok, why = vm:load({ bytes = elf{} }, { at = 0x5000 })
    assert.is_nil(ok)
    assert.matches("at= is for flat images", why)
    local real <close> = support.vm{ mode = "real" }
    load_bytes(real, elf{}, { at = 0x10000 })
    assert.equal("data", real.memory:read(0x10000 + DATA, 4))
    assert.equal("A", (run(real)))
  end)

  it("can be loaded as the bytes it is", function()
    local vm <close> = support.vm{ mode = "protected" }
    load_bytes(vm, elf{}, { format = "flat", entry = 0x1000 + 52 + 64 })
    assert.equal("\x7fELF", vm.memory:read(0x1000, 4))
    assert.equal("A", (run(vm)))
  end)
end)

describe("symbols", function()
  if support.without_kvm(pending) then return end

  it("are found by name, by address and one after the other", function()
    local vm <close> = support.vm{ mode = "long", map_base = HIGH }
    load_bytes(vm, elf{ wide = true, high = HIGH })
    assert.equal(HIGH + CODE, vm.symbols.start)
    assert.equal(HIGH + DATA, vm.symbols["data"])
    assert.is_nil(vm.symbols.nothing)
    local all = {}
    for name, value in pairs(vm.symbols) do all[name] = value end
    assert.same({ start = HIGH + CODE, other = HIGH + CODE + OTHER, data = HIGH + DATA }, all)
    local name, offset = vm:symbol_at(HIGH + CODE + OTHER + 2)
    assert.equal("other", name)
    assert.equal(2, offset)
    assert.is_nil(vm:symbol_at(HIGH + CODE - 1))
    assert.is_nil(vm:symbol_at(0))
  end)

  it("of later images come first", function()
    local vm <close> = support.vm{ mode = "real", cpus = 2 }
    assert.is_nil(vm.symbols.start)
    load_bytes(vm, "\xf4", { cpu = 0 })
    assert.is_nil(vm.symbols.start)
    load_bytes(vm, elf{}, { cpu = 1 })
    assert.equal(0x40000 + CODE, vm.symbols.start) -- it is loaded relative to its vCPU's window
    assert.same({ "start", 1 }, { vm:symbol_at(0x40000 + CODE + 1) })
  end)

  it("are those of forks, too", function()
    local vm <close> = support.vm()
    load_bytes(vm, elf{ wide = true })
    local child <close> = assert(vm:fork())
    assert.equal(CODE, child.symbols.start)
    assert.equal("other", (child:symbol_at(CODE + OTHER)))
    assert.same({ "long", #vm.memory }, { child.mode, #child.memory })
    assert.equal("A", (run(child)))
  end)

  it("are gone with their VM", function()
    local vm = support.vm{ mode = "protected" }
    load_bytes(vm, elf{})
    local symbols = vm.symbols
    vm:close()
    assert.error_matches(function() return symbols.start end, "is closed")
    assert.error_matches(function() return pairs(symbols) end, "is closed")
  end)
end)

describe("a Multiboot kernel", function()
  if support.without_kvm(pending) then return end

  -- cmp eax, 0x2badb002; jne end; mov esi, [ebx+16]; again: lodsb; test al, al; jz end;
  -- out 0xe9, al; jmp again; end: hlt
  local LINE <const> = support.bytes
    "3d 02b0ad2b  75 0c  8b 73 10  ac  84 c0  74 04  e6 e9  eb f7  f4"
  -- mov esi, [ebx+24]; mov ecx, [esi+4+16]; mov esi, [esi+16]; sub ecx, esi; again: lodsb;
  -- out 0xe9, al; loop again; hlt
  local SECOND_MODULE <const> = support.bytes
    "8b 73 18  8b 4e 14  8b 76 10  29 f1  ac  e6 e9  e2 fb  f4"

  local function u32(vm, at) return vm.memory:u32(at) end

  it("gets its command line: the VM's or that of the load", function()
    local vm <close> = support.vm{ mode = "protected", cmdline = "verbose" }
    load_bytes(vm, multiboot(LINE, 0x10000))
    assert.equal("verbose", (run(vm)))
    local other <close> = support.vm{ mode = "protected", cmdline = "verbose" }
    load_bytes(other, multiboot(LINE, 0x10000), { cmdline = "quiet" })
    assert.equal("quiet", (run(other)))
    assert(other:reset())
    other.console:text()
    assert.matches("quiet$", (run(other)))
  end)

  it("gets modules", function()
    local path = process.temporary "from a file"
    local vm <close> = support.vm{ mode = "protected" }
    load_bytes(vm, multiboot(SECOND_MODULE, 0x200000),
               { modules = { { bytes = "first", name = "one", text = "a b" }, path } })
    assert.equal("from a file", (run(vm)))
    local mods = u32(vm, vm.cpu[0].rbx + 24)
    assert.equal("a b", vm.memory:cstring(u32(vm, mods + 8)))
    assert.equal(path, vm.memory:cstring(u32(vm, mods + 24)))
    os.remove(path)
  end)

  it("gets a map of memory", function()
    local vm <close> = support.vm{ mode = "protected", memory = "8M" }
    load_bytes(vm, multiboot("\xf4", 0x100000))
    local info = vm.cpu[0].rbx
    assert.equal(640, u32(vm, info + 4))
    assert.equal(7 << 10, u32(vm, info + 8))
    local map, seen = u32(vm, info + 48), {}
    for entry = map, map + u32(vm, info + 44) - 1, 24 do
      assert.equal(20, u32(vm, entry))
      seen[#seen + 1] = { vm.memory:u64(entry + 4), vm.memory:u64(entry + 12), u32(vm, entry + 20) }
    end
    assert.same({ { 0, 0xa0000, 1 }, { 0xa0000, 0x60000, 2 }, { 0x100000, 7 << 20, 1 } }, seen)
  end)

  it("can be an ELF file, with symbols", function()
    local header = multiboot("", 0):sub(1, 12)
    header = string.pack("<I4I4I4", 0x1badb002, 0, -0x1badb002 & 0xffffffff) .. header:sub(13)
    local vm <close> = support.vm{ mode = "protected" }
    local code = LINE .. ("\0"):rep(-#LINE & 3)
    load_bytes(vm, elf{ code = code .. header }, { cmdline = "elf" })
    assert.equal("elf", (run(vm)))
    assert.equal(CODE, vm.symbols.start)
  end)

  it("is refused in modes with paging, and modules for anything else", function()
    for _, mode in ipairs{ "real", "paged", "long" } do
      local vm <close> = support.vm{ mode = mode }
      local ok, why = vm:load({ bytes = multiboot("\xf4", 0x10000) }, { format = "multiboot" })
      assert.is_nil(ok)
      assert.matches('mode="protected"', why)
    end
    local vm <close> = support.vm{ mode = "protected" }
    local ok, why = vm:load({ bytes = elf{} }, { modules = { { bytes = "x" } } })
    assert.is_nil(ok)
    assert.matches("modules= are for Multiboot", why)
    ok, why = vm:load({ bytes = multiboot("\xf4", 0x10000) }, { modules = { "/no/such/file" } })
    assert.is_nil(ok)
    assert.matches("/no/such/file", why)
    for _, modules in ipairs{ 1, { 1 }, { {} }, { { bites = "x" } } } do
      assert.error(function() vm:load({ bytes = "x" }, { modules = modules }) end)
    end
  end)
end)

describe("a boot sector", function()
  if support.without_kvm(pending) then return end

  -- mov al, dl; out 0xe9, al; mov ax, cs; out 0xe9, al; call next; next: pop ax; out 0xe9, al;
  -- mov al, ah; out 0xe9, al; hlt
  local CODE_16 <const> = support.bytes
    "88 d0 e6 e9  8c c8 e6 e9  e8 0000 58 e6 e9  88 e0 e6 e9  f4"
  local SECTOR <const> = CODE_16 .. ("\0"):rep(510 - #CODE_16) .. "\x55\xaa"

  it("starts at 0:0x7c00 with the drive in DL", function()
    local vm <close> = support.vm{ mode = "real" }
    load_bytes(vm, SECTOR)
    assert.equal("\x80\0\x0b\x7c", (run(vm)))
  end)

  it("is the first sector of a disk image, when asked for", function()
    local disk = SECTOR .. ("x"):rep(512)
    local vm <close> = support.vm{ mode = "real" }
    load_bytes(vm, disk, { format = "boot" })
    assert.equal(("\0"):rep(512), vm.memory:read(0x7e00, 512))
    assert.equal("\x80\0\x0b\x7c", (run(vm)))
    local flat <close> = support.vm{ mode = "real" }
    load_bytes(flat, disk)
    assert.equal("\0\0\x0b\0", (run(flat)))
  end)

  it("needs its signature", function()
    local vm <close> = support.vm{ mode = "real" }
    local ok, why, code = vm:load({ bytes = SECTOR:sub(1, 511) .. "\0" }, { format = "boot" })
    assert.is_nil(ok)
    assert.matches("no signature", why)
    assert.equal("ENOEXEC", code)
  end)
end)

describe("a VM whose mode nobody chose", function()
  if support.without_kvm(pending) then return end

  local SECTOR <const> = PROGRAM .. ("\0"):rep(510 - #PROGRAM) .. "\x55\xaa"

  it("gets the one that the image is for", function()
    for mode, bytes in pairs{ real = PROGRAM, protected = elf{}, paged = elf{ high = 0x80000000 },
                              long = elf{ wide = true } } do
      local vm <close> = support.vm()
      assert.equal("real", vm.mode)
      load_bytes(vm, bytes)
      assert.same({ mode, mode == "real" and 1 << 20 or 4 << 20 }, { vm.mode, #vm.memory })
      for _ = 1, 2 do
        assert.equal("A", (run(vm)))
        assert(vm:reset())
        vm.console:text()
      end
    end
    local vm <close> = support.vm()
    load_bytes(vm, multiboot(PROGRAM, 0x100000))
    assert.same({ "protected", "A" }, { vm.mode, (run(vm)) })
  end)

  it("keeps the memory that was chosen, and what is in it", function()
    local vm <close> = support.vm{ memory = "8M" }
    vm.memory:write(0x8000, "kept")
    load_bytes(vm, elf{ wide = true })
    assert.same({ "kept", 8 << 20 }, { vm.memory:read(0x8000, 4), #vm.memory })
    local other <close> = support.vm()
    other.memory:write(0x8000, "kept")
    load_bytes(other, elf{ wide = true })
    assert.same({ "kept", "A" }, { other.memory:read(0x8000, 4), (run(other)) })
    local small <close> = support.vm{ memory = "16K" }
    local ok, why = small:load{ bytes = elf{ wide = true }, name = "kernel" }
    assert.is_nil(ok)
    assert.matches("^kernel: .*memory of 16384 bytes is too small", why)
  end)

  it("is not settled by an image that is refused, but by one that is loaded", function()
    local vm <close> = support.vm()
    assert.is_nil((vm:load{ bytes = elf{ wide = true, type = 3 } }))
    assert.same({ "real", 1 << 20 }, { vm.mode, #vm.memory })
    load_bytes(vm, elf{})
    assert.equal("protected", vm.mode)
    local ok, why = vm:load{ bytes = elf{ wide = true } }
    assert.is_nil(ok)
    assert.matches('runs in mode="long" only', why)
    local flat <close> = support.vm()
    load_bytes(flat, PROGRAM)
    assert.is_nil((flat:load{ bytes = elf{ wide = true } }))
    local ran <close> = support.vm()
    ran.memory:write(0, "\xf4")
    ran.cpu[0].cs, ran.cpu[0].rip = 0, 0
    assert.equal("halt", (ran:run{ deadline = 20 }))
    assert.is_nil((ran:load{ bytes = elf{ wide = true } }))
  end)

  it("boots an image of a disk", function()
    for _, bytes in ipairs{ SECTOR, SECTOR .. SECTOR, SECTOR .. ("\0"):rep(1474560 - 512) } do
      local vm <close> = support.vm()
      load_bytes(vm, bytes)
      assert.equal("A", (run(vm)))
      assert.equal(0x7c05, vm.cpu[0].rip)
      assert.equal(#bytes == 1474560 and 0 or 0x80, vm.cpu[0].rdx)
    end
    local placed <close> = support.vm()
    load_bytes(placed, SECTOR .. SECTOR, { at = 0x1000 }) -- as bytes
    assert.equal(SECTOR, placed.memory:read(0x1200, 512))
  end)

  it("of several vCPUs is in the image's, too", function()
    local vm <close> = support.vm{ cpus = 2 }
    load_bytes(vm, elf{}, { cpu = 0 })
    load_bytes(vm, elf{}, { cpu = 1, entry = "other" })
    run(vm)
    assert.equal("protected", vm.mode)
    local text = vm.console:text() -- one stream, in the order in which they print
    assert.is_true(text == "AB" or text == "BA", text)
  end)
end)

describe("an image that is packed with gzip (RFC 1952)", function()
  if support.without_kvm(pending) then return end

  local core = require "minikvm.core"

  ---Header, deflate's stream without zlib's header and checksum, trailer.
  local function gzip(bytes, size)
    return "\x1f\x8b\x08" .. ("\0"):rep(7) .. core.deflate(bytes):sub(3, -5)
      .. ("<I4I4"):pack(core.crc32(bytes), size or #bytes)
  end

  it("is what is in it, in a file and as bytes, after a reset too", function()
    local packed = gzip(support.read_file "guests/boot/multiboot2.elf")
    local path = os.tmpname()
    local file <close> = assert(io.open(path, "wb"))
    file:write(packed)
    file:close()
    for _, source in ipairs{ path, { bytes = packed } } do
      local vm <close> = support.vm()
      assert(vm:load(source))
      for _ = 1, 2 do
        assert.equal("halt", (vm:run{ deadline = 20 }))
        assert.matches("\nend\n$", (vm.console:text()))
        assert(vm:reset())
      end
      assert.is_truthy(vm.symbols.start)
    end
    os.remove(path)
  end)

  it("is refused when it is damaged, and taken as bytes when that is wanted", function()
    local good = gzip(("kernel "):rep(100))
    for _, bad in ipairs{ good:sub(1, 12), good:sub(1, -2), gzip("kernel", 7), gzip("kernel", 0),
                          gzip("kernel", 0xffffffff),
                          good:sub(1, 20) .. "x" .. good:sub(22) } do
      local vm <close> = support.vm()
      local done, why = vm:load{ bytes = bad }
      assert.is_nil(done)
      assert.matches("^image: gzip: ", why)
      assert(vm:load({ bytes = bad }, { format = "flat" }))
      assert.equal(bad, vm.memory:read(0, #bad))
    end
  end)
end)

describe("an image in a mode that it is not for", function()
  if support.without_kvm(pending) then return end

  it("names the likely one, for scripts and for the command line", function()
    local floppy = ("\0"):rep(510) .. "\x55\xaa" .. ("\0"):rep(1474560 - 512)
    for _, case in ipairs{
      { "real", elf{ wide = true }, "long" }, { "protected", elf{ wide = true }, "long" },
      { "long", elf{}, "protected" }, { "long", elf{ high = 0x80000000 }, "paged" },
      { "real", elf{ high = 0x100000 }, "protected" },
      { "protected", elf{ high = 0x80000000 }, "paged" },
      { "real", multiboot(PROGRAM, 0x100000), "protected" },
      { "long", multiboot(PROGRAM, 0x100000), "protected" },
      { "paged", multiboot(PROGRAM, 0x100000), "protected" } } do
      local vm <close> = support.vm{ mode = case[1] }
      local ok, why = vm:load{ bytes = case[2], name = "kernel" }
      assert.is_nil(ok, case[1])
      assert.matches(('mode="%s"'):format(case[3]), why, 1, true)
      assert.matches(("(minikvm run: --mode %s)"):format(case[3]), why, 1, true)
    end
    local vm <close> = support.vm{ mode = "real" }
    assert.matches('format="boot" loads its boot sector', (select(2, vm:load{ bytes = floppy })))
    local open <close> = support.vm()
    local _, why = open:load{ bytes = elf{ wide = true, high = 0x400000 } }
    assert.matches("room for 0; RAM is 4M unless memory= (minikvm run: --memory) says", why, 1,
                   true)
    assert.is_nil(why:find("mode=", 1, true))
    assert.matches("mode= (minikvm run: --mode) was not given",
                   (select(2, open:load{ bytes = ("x"):rep(1 << 20) })), 1, true)
  end)
end)

describe("1K OS", function()
  if support.without_kvm(pending) then return end
  local KERNEL <const> = "os-1k/build/kernel.elf"
  if not lfs.attributes(KERNEL) then
    pending("needs " .. KERNEL)
    return
  end

  it("boots from its ELF file as from its flat image", function()
    local output = {}
    for i, path in ipairs{ KERNEL, "os-1k/kernel.bin" } do
      local vm <close> = support.vm{ mode = "paged" }
      assert(vm:load(path))
      vm.console:eof()
      run(vm)
      output[i] = vm.console:text()
    end
    assert.is_truthy(#output[1] > 10)
    assert.equal(output[2], output[1])
  end)
end)

it("an unknown format is refused", function()
  local ok, vm = pcall(kvm.vm, { echo = false })
  if not ok or not vm then return end
  assert.error_matches(function() vm:load({ bytes = "x" }, { format = "elff" }) end,
                       'did you mean "elf"')
  vm:close()
end)
