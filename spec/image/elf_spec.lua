-- ELF files as plans: good ones, and bad ones of every kind (gABI 4.1, chapters 4 and 5; the words
-- of messages are readelf's). What guests see of them is in image_spec.lua.

local make = require "support.image"
require "minikvm"
local plan = require "minikvm.image.plan"
local symbols = require "minikvm.image.symbols"

local HIGH <const> = 0x80000000
local U32 <const> = 0xffffffff
local TEXT <const>, DATA <const> = make.TEXT_AT, make.DATA_AT

---Both classes, with the mode they run in.
local function both(fn)
  for _, bits in ipairs{ 32, 64 } do fn(bits, make.wants(bits)) end
end

local function fits(image, want)
  local made, why = make.plan(image, want)
  assert(made, why)
  return made
end

describe("an ELF file", function()
  it("of either class is recognized and goes where its headers say", function()
    both(function(bits, want)
      local made = fits(make.elf(bits), want)
      assert.equal("elf", made.format)
      assert.equal(TEXT, made.entry)
      assert.is_nil(made.regs)
      assert.same({ { at = TEXT, linear = TEXT, offset = make.CODE, file_bytes = 16,
                      mem_bytes = 16 },
                    { at = DATA, linear = DATA, offset = make.DATA, file_bytes = 8,
                      mem_bytes = 8 + make.BSS } }, made.segments)
    end)
  end)

  it("that is linked high goes where the mode maps it, or where it says", function()
    local m = make.elf(32)
    m.e.entry = TEXT + HIGH
    m.p[1].vaddr, m.p[1].paddr = TEXT + HIGH, TEXT + HIGH
    local paged = make.wants(32, { mode = "paged", paging = true, high = HIGH })
    local made = fits(m, paged)
    assert.same({ TEXT, TEXT + HIGH }, { made.segments[1].at, made.entry })
    m.p[1].paddr = TEXT
    made = fits(m, paged)
    assert.same({ TEXT, TEXT + HIGH }, { made.segments[1].at, made.entry })
    assert.equal(TEXT, fits(m, make.wants(32)).entry) -- without paging it is physical
    m.e.entry = TEXT + 3 -- an entry that is a physical address stays one
    assert.equal(TEXT + 3, fits(m, paged).entry)
  end)

  it("in real mode is relative to the window", function()
    local made = fits(make.elf(32), make.wants(16, { at = 0x40000, has_at = true }))
    assert.same({ 0x40000 + TEXT, TEXT, 0x40000 }, { made.segments[1].at, made.entry, made.at })
    assert.is_nil(made.cs)
  end)

  it("starts at a symbol or an address that is given", function()
    local m = make.elf(64)
    assert.equal(TEXT + 8, fits(m, make.wants(64, { symbol = "main" })).entry) -- the global one
    local _, why, code = make.plan(m, make.wants(64, { symbol = "nothing" }))
    assert.matches('entry="nothing": it has no such symbol', why)
    assert.equal("ENOENT", code)
    m.e.shoff, m.e.shnum = 0, 0
    _, why, code = make.plan(m, make.wants(64, { symbol = "main" }))
    assert.matches("no symbol table", why)
    assert.equal("ENOENT", code)
    m.e.entry = 1 -- does not matter when it starts elsewhere
    local entry = 0xffffffff80001234
    assert.equal(entry, fits(m, make.wants(64, { entry = entry })).entry)
  end)

  it("says itself which mode it is for", function()
    local function mode(m) return (plan.mode(make.source(make.bytes(m)))) end
    local m = make.elf(32)
    assert.same({ "protected", "long" }, { mode(m), mode(make.elf(64)) })
    for _, p in ipairs(m.p) do p.paddr = p.paddr + HIGH end
    assert.equal("paged", mode(m)) -- where paged mode has RAM once more, and protected none
  end)

  -- What loading does not need: gABI chapter 4 has a section header table as optional in an
  -- executable; p_align, e_version and e_ehsize say nothing that a loader uses.
  it("is taken whatever is wrong with what loading does not need", function()
    local function taken(change)
      both(function(bits, want)
        local m = make.elf(bits)
        change(m)
        fits(m, want)
      end)
    end
    taken(function(m) m.p[1].align = 3 end)
    taken(function(m) m.e.version = 2 end)
    taken(function(m) m.e.ident_version = 0 end)
    taken(function(m) m.e.ehsize = 0 end)
    taken(function(m) m.e.shoff = U32 end)
    taken(function(m) m.e.shoff = make.SIZE - 1 end)
    taken(function(m) m.e.shentsize = 1 end)
    taken(function(m) m.e.shnum = 0xffff end)
    taken(function(m) m.size = make.SHDRS + 70 end) -- cut short behind what is loaded
    taken(function(m) m.s[2].entsize = 0 end)
    taken(function(m) m.s[3].size = 0 end)
    taken(function(m) -- no bytes in the file, so its offset means nothing
      m.p[3].filesz, m.p[3].offset = 0, U32
    end)
    taken(function(m) -- a LOAD of nothing at all
      m.p[3].filesz, m.p[3].memsz, m.p[3].offset, m.p[3].vaddr = 0, 0, U32, U32
    end)
    taken(function(m) m.p[2].type = 3 end) -- INTERP of a file that has nothing DYNAMIC
    taken(function(m) m.p[2].type = 2 end) -- DYNAMIC without INTERP
  end)
end)

-- ---- bad ones ----

---Makes a good file of the class, changes it, and wants these words.
local function bad(bits, words, change, want)
  local m = make.elf(bits)
  if change then change(m) end
  local made, why, code = make.plan(m, want or make.wants(bits, { format = "elf" }))
  assert.is_nil(made, "taken, without: " .. words)
  assert(why:find(words, 1, true), ("wanted %q, got %q"):format(words, why))
  assert.matches("^test%.elf: ", why)
  assert.matches("^E%u", code)
end

local function bad_both(words, change)
  bad(32, words, change)
  bad(64, words, change)
end

describe("a bad ELF file is refused:", function()
  it("its header", function()
    bad_both("wrong magic bytes", function(m) m.e.magic = "\x7eELF" end)
    bad_both("wrong magic bytes", function(m) m.size = 3 end)
    for _, size in ipairs{ 4, 15, 16, 51 } do
      bad_both("ends within the ELF header", function(m) m.size = size end)
    end
    bad(64, "ends within the ELF header", function(m) m.size = 63 end)
    bad_both("Class 0x0", function(m) m.e.class = 0 end)
    bad_both("Class 0x3", function(m) m.e.class = 3 end)
    bad_both("Data 0x2", function(m) m.e.data = 2 end)
    bad_both("Data 0x0", function(m) m.e.data = 0 end)
    bad_both("not NONE", function(m) m.e.type = 0 end)
    bad_both("REL (Relocatable file)", function(m) m.e.type = 1 end)
    bad_both("-no-pie", function(m) m.e.type = 3 end)
    bad_both("CORE", function(m) m.e.type = 4 end)
    bad_both("not 0xffff", function(m) m.e.type = 0xffff end)
    bad_both("Machine 40", function(m) m.e.machine = 40 end)
    bad(32, "Class ELF32 with Machine Advanced", function(m) m.e.machine = 62 end)
    bad(64, "Class ELF64 with Machine Intel 80386", function(m) m.e.machine = 3 end)
    bad_both("Entry point address 0x0", function(m) m.e.entry = 0 end)
    bad_both("Entry point address 0x2010", function(m) m.e.entry = TEXT + 16 end)
    bad(64, "Entry point address 0xffffffffffffffff", function(m) m.e.entry = -1 end)
  end)

  it("it is for another mode, which is named", function()
    bad(32, 'does not run in long mode: mode="protected" (minikvm run: --mode protected)', nil,
        make.wants(64))
    bad(32, 'mode="paged"', function(m)
      for _, p in ipairs(m.p) do p.paddr = p.paddr + HIGH end
    end, make.wants(64))
    for _, bits in ipairs{ 16, 32 } do
      bad(64, 'runs in mode="long" only (minikvm run: --mode long)', nil, make.wants(bits))
    end
  end)

  it("its program headers", function()
    bad_both("There are no program headers", function(m) m.e.phnum = 0 end)
    bad_both("extended numbering", function(m) m.e.phnum = 0xffff end)
    bad_both("65534 of them do not fit", function(m) m.e.phnum = 0xfffe end)
    bad_both("Size of program headers: 0", function(m) m.e.phentsize = 0 end)
    bad_both("Size of program headers: 31", function(m) m.e.phentsize = 31 end)
    bad_both("Start of program headers: 0x1000", function(m) m.e.phoff = make.SIZE end)
    bad_both("Start of program headers: 0xfc0", function(m) m.e.phoff = make.SIZE - 64 end)
    bad_both("Start of program headers: 0xffffffff", function(m) m.e.phoff = U32 end)
    bad(64, "Start of program headers: 0xffffffffffffffff", function(m) m.e.phoff = -1 end)
    bad(64, "Start of program headers: 0xffffffffffffffc0", function(m) m.e.phoff = -64 end)
    bad_both("nothing to load", function(m) m.p[1].type, m.p[3].type = 4, 4 end)
    bad_both("nothing to load", function(m)
      m.p[1].filesz, m.p[1].memsz, m.p[3].type = 0, 0, 0
    end)
    bad_both("dynamically linked", function(m)
      m.p[2].type, m.p[3].type = 3, 2 -- INTERP and DYNAMIC
    end)
  end)

  it("its segments' sizes and addresses", function()
    local function one(fields)
      return function(m)
        for key, value in pairs(fields) do m.p[1][key] = value end
      end
    end
    local function two(fields)
      return function(m)
        for key, value in pairs(fields) do m.p[3][key] = value end
      end
    end
    bad_both("FileSiz 0x11 is larger than MemSiz 0x10", one{ filesz = 17 })
    bad_both("FileSiz 0x10 is larger than MemSiz 0x0", one{ memsz = 0 })
    bad_both("lies beyond the file's", one{ offset = make.SIZE - 15 })
    bad_both("lies beyond the file's", one{ offset = U32 })
    bad_both("lies beyond the file's", one{ filesz = U32, memsz = U32 })
    bad(64, "lies beyond the file's", one{ offset = -1 })
    bad(64, "lies beyond the file's", one{ filesz = -1, memsz = -1 })
    bad(64, "lies beyond the file's", one{ offset = -16 })
    bad(32, "VirtAddr 0xfffffff1 + MemSiz 0x10 wraps", one{ vaddr = U32 - 14 })
    bad(64, "VirtAddr 0xfffffffffffffff1 + MemSiz 0x10 wraps", one{ vaddr = -15 })
    bad(32, "PhysAddr 0xfffffff1 + MemSiz 0x10 wraps", one{ paddr = U32 - 14 })
    bad(64, "PhysAddr 0xfffffffffffffff1 + MemSiz 0x10 wraps", one{ paddr = -15 })
    bad(32, "wraps", two{ memsz = U32, vaddr = U32 - 7 })
    bad(64, "wraps", two{ memsz = U32, vaddr = -8 })
    bad_both("do not fit at 0x3ffff1: there is room for 15", one{ paddr = make.RAM - 15 })
    bad_both("do not fit at 0x400000: there is room for 0", one{ paddr = make.RAM })
    bad(32, "do not fit at 0xfffffff0", one{ paddr = U32 - 15 })
    bad(64, "do not fit at 0xfffffffffffffff0", one{ paddr = -16 })
    bad_both("do not fit at 0x3000", two{ memsz = make.RAM })
    bad(64, "bytes do not fit at 0x3000", two{ memsz = -1 - DATA })
    bad_both("segments 0 and 1 overlap in memory at 0x300f", one{ paddr = DATA + 15 })
    bad_both("segments 0 and 1 overlap in memory at 0x3000", one{ paddr = DATA - 15 })
    bad_both("segments 0 and 1 overlap", one{ paddr = DATA + 8 + make.BSS - 1 })
  end)

  it("too many segments", function()
    for n = plan.SEGMENTS_MAX, plan.SEGMENTS_MAX + 1 do
      local m = make.elf(64)
      m.e.phoff, m.e.phnum, m.e.shnum, m.size = 64, n, 0, 64
      local headers = {}
      for i = 1, n do
        headers[i] = ("<I4I4i8i8i8i8i8i8"):pack(1, 7, 0, 0x2000 + i, 0x1fff + i, 1, 1, 1)
      end
      m.e.entry = 0x2001
      local made, _, code = make.plan(make.source(make.bytes(m) .. table.concat(headers)),
                                      make.wants(64))
      if n == plan.SEGMENTS_MAX then
        assert.equal(n, #made.segments)
      else
        assert.equal("E2BIG", code)
      end
    end
  end)
end)

-- ---- symbols ----

local function image_of(m, bits)
  local source = make.source(make.bytes(m))
  return { { source = source, plan = fits(source, make.wants(bits)) } }
end

describe("symbols", function()
  it("are what is defined and no file; of two of a name the global one", function()
    both(function(bits)
      local images = image_of(make.elf(bits), bits)
      assert.equal(5, symbols.of(images[1].source).count)
      assert.same({ start = TEXT, main = TEXT + 8, table = DATA, STACK = 0x4000 },
                  symbols.all(images))
      assert.equal(TEXT + 8, symbols.find(images, "main"))
      for _, name in ipairs{ "missing", "a.c", "" } do
        assert.is_nil(symbols.find(images, name))
      end
    end)
  end)

  it("hold addresses: a label what follows it, of two functions the nearer", function()
    both(function(bits)
      local images = image_of(make.elf(bits), bits)
      assert.same({ "start", 3 }, { symbols.at(images, TEXT + 3) })
      assert.same({ "main", 3 }, { symbols.at(images, TEXT + 11) })
      assert.same({ "start", 12 }, { symbols.at(images, TEXT + 12) })
      for _, where in ipairs{ DATA + 8, 0x4000, 0, -1 } do
        assert.is_nil((symbols.at(images, where)))
      end
    end)
  end)

  it("whose names are outside the string table are passed over", function()
    local m = make.elf(64)
    m.symbols[3].name, m.symbols[4].name, m.symbols[5].name = U32, 0x40, 0
    m.symbols[6][2], m.symbols[6][3] = -2, -1
    local images = image_of(m, 64)
    assert.is_nil(symbols.find(images, "main"))
    assert.is_nil(symbols.find(images, "start"))
    assert.equal(-2, symbols.find(images, "table"))
    assert.is_nil((symbols.at(images, DATA)))
  end)

  it("that are damaged are an error only for who needs them", function()
    local function damaged(bits, words, change)
      local m = make.elf(bits)
      change(m)
      assert.same({}, symbols.all(image_of(m, bits)))
      bad(bits, words, change, make.wants(bits, { symbol = "main" }))
    end
    local function damaged_both(words, change)
      damaged(32, words, change)
      damaged(64, words, change)
    end
    damaged_both("Size of section headers: 1", function(m) m.e.shentsize = 1 end)
    damaged_both("is it cut short?", function(m) m.e.shoff = make.SIZE - 1 end)
    damaged_both("is it cut short?", function(m) m.e.shoff = U32 end)
    damaged(64, "is it cut short?", function(m) m.e.shoff = -1 end)
    damaged_both("is it cut short?", function(m) m.e.shnum = 0xffff end)
    damaged_both("is it cut short?", function(m) m.size = make.SHDRS + 70 end)
    damaged_both("SYMTAB: EntSize 0x0", function(m) m.s[2].entsize = 0 end)
    damaged_both("SYMTAB: Offset 0x1000", function(m) m.s[2].offset = make.SIZE end)
    damaged_both("half an entry", function(m) m.s[2].size = m.s[2].size + 1 end)
    damaged_both("SYMTAB: Offset", function(m) m.s[2].size = m.s[2].entsize * 1000 end)
    damaged(64, "SYMTAB: Offset", function(m) m.s[2].size = -16 // 24 * 24 end)
    damaged_both("Link 3: there are 3 sections", function(m) m.s[2].link = 3 end)
    damaged_both("Link 4294967295", function(m) m.s[2].link = U32 end)
    damaged_both("Type is not STRTAB", function(m) m.s[2].link = 0 end)
    damaged_both("Type is not STRTAB", function(m) m.s[2].link = 1 end)
    damaged_both("STRTAB: Offset 0xffffffff", function(m) m.s[3].offset = U32 end)
    damaged_both("STRTAB: Offset", function(m) m.s[3].size = U32 end)
    damaged(64, "STRTAB: Offset", function(m) m.s[3].size = -1 end)
    damaged_both("does not end with a null byte", function(m) m.s[3].size = 0 end)
    damaged_both("does not end with a null byte", function(m) m.last_name = "x" end)
  end)

  it("cost no more than their bytes, though many share one long name", function()
    local m = make.elf(64)
    local source = make.source(make.bytes(m))
    local count, names = 40000, "\0" .. ("n"):rep(4000) .. "\0"
    local entries = {}
    for i = 1, count do entries[i] = ("<I4BBI2i8i8"):pack(1 + i % 2000, 0x12, 0, 1, TEXT, 1) end
    local table_at = #source.bytes
    m.s[2].offset, m.s[2].size = table_at, count * 24
    m.s[3].offset, m.s[3].size = table_at + count * 24, #names
    source = make.source(make.bytes(m) .. table.concat(entries) .. names)
    local made, why, code = make.plan(source, make.wants(64, { symbol = "main" }))
    assert.is_nil(made)
    assert.matches("names are too long", why)
    assert.equal("EFBIG", code)
  end)
end)
