-- Multiboot2 kernels as plans: the header's tags, and the information (Multiboot2 Specification
-- 2.0, sections 3.1 and 3.6). What guests see of them is in spec/guests/boot_guests_spec.lua.

local boot = require "support.boot"
local make = require "support.image"
require "minikvm"

local AT <const>, END <const> = boot.AT, boot.tag(0, 0, {})

local function plan(m, want, modules)
  local source = make.source(type(m) == "string" and m or boot.multiboot2_bytes(m))
  source.modules = modules
  return make.plan(source, make.wants(32, want))
end

local function fits(m, want, modules)
  local made, why = plan(m, want, modules)
  assert(made, why)
  return made
end

---The usual kernel with these tags before the end tag.
local function with(...)
  local m = boot.multiboot2()
  table.remove(m.tags)
  for _, t in ipairs{ ... } do m.tags[#m.tags + 1] = t end
  m.tags[#m.tags + 1] = END
  return m
end

local function module(name, bytes, text)
  return { name = name, size = #bytes, bytes = bytes, text = text or name }
end

describe("a Multiboot2 kernel", function()
  it("is loaded and entered as its address tags say (3.1.5, 3.1.6)", function()
    local made = fits(boot.multiboot2())
    assert.same({ { at = AT, linear = AT, offset = 0, file_bytes = boot.SIZE,
                    mem_bytes = boot.SIZE + boot.BSS } }, made.segments)
    assert.equal(AT + 0x100, made.entry)
    assert.same({ eax = 0x36d76289, ebx = made.info.at }, made.regs)
    local whole = boot.tag(2, 0, { AT + boot.HEADER, 0xffffffff, 0, 0 }) -- load_addr -1
    made = fits(boot.multiboot2{ whole, boot.tag(3, 0, { AT }), END })
    assert.same({ AT, boot.SIZE, boot.SIZE },
                { made.segments[1].at, made.segments[1].file_bytes, made.segments[1].mem_bytes })
    local later = boot.tag(2, 0, { AT + 0x100, AT, 0, 0 }) -- from 0x700 of the file on
    made = fits(boot.multiboot2{ later, boot.tag(3, 0, { AT }), END })
    assert.same({ boot.HEADER - 0x100, boot.SIZE - boot.HEADER + 0x100 },
                { made.segments[1].offset, made.segments[1].file_bytes })
  end)

  it("may be an ELF file of 32 or 64 bits, whose entry a tag can replace", function()
    for _, bits in ipairs{ 32, 64 } do
      local elf = make.bytes(make.elf(bits))
      local made = fits(boot.multiboot2_bytes(boot.multiboot2{ END }, elf))
      assert.equal(make.TEXT_AT, made.entry)
      assert.equal("multiboot2", made.format)
      made = fits(boot.multiboot2_bytes(boot.multiboot2{ boot.tag(3, 0, { 0x2004 }), END }, elf))
      assert.equal(0x2004, made.entry)
    end
  end)

  it("has its header in the first 32768 bytes, on a boundary of 8", function()
    local kernel = boot.multiboot2_bytes(boot.multiboot2{
      boot.tag(2, 0, { AT + boot.HEADER + 28672, 0xffffffff, 0, 0 }), boot.tag(3, 0, { AT }), END })
    assert.equal("multiboot2", fits(("\0"):rep(28672) .. kernel).format)
    for _, before in ipairs{ 28676, 32768 } do
      local _, why = plan(("\0"):rep(before) .. kernel, { format = "multiboot2" })
      assert.matches("no Multiboot2 header", why)
    end
  end)

  it("is told its command line, loader, modules and memory (3.6)", function()
    local modules = { module("a", "12345"), module("b", ("x"):rep(4096), "b text") }
    local made = fits(with(boot.tag(6, 0, {}), boot.tag(1, 0, { 1, 3, 6, 21 })),
                      { cmdline = "root=1" }, modules)
    local tags = boot.information(made)
    assert.same({ "root=1\0" }, tags[1])
    assert.same({ "minikvm\0" }, tags[2])
    assert.equal(2, #tags[3])
    for i, m in ipairs(modules) do
      local first, last, text = ("<I4I4z"):unpack(tags[3][i])
      assert.same({ made.modules[i].at, #m.bytes, m.text, 0 },
                  { first, last - first, text, first % 4096 })
    end
    assert.equal(("<I4I4"):pack(640, make.RAM // 1024 - 1024), tags[4][1])
    local map = tags[6][1]
    assert.equal(("<I4I4"):pack(24, 0), map:sub(1, 8))
    assert.equal(("<I8I8I4I4"):pack(0x100000, make.RAM - 0x100000, 1, 0), map:sub(57))
    assert.equal(8 + 3 * 24, #map)
    for _, absent in ipairs{ 5, 7, 8, 9, 10, 14, 15, 21 } do assert.is_nil(tags[absent]) end
  end)

  it("finds the size of low memory where a BIOS has it, unless it lies there", function()
    assert.same({ { at = 0x413, bytes = ("<I2"):pack(640) } }, fits(boot.multiboot2()).patches)
    local low = boot.multiboot2{ boot.tag(2, 0, { boot.HEADER, 0, 0, 0 }), boot.tag(3, 0, { 0 }),
                                 END }
    assert.same({}, fits(low).patches)
  end)

  it("is told of ELF sections, and of those that it does not load itself where they are", function()
    local elf = make.bytes(make.elf(32))
    local source = make.source(boot.multiboot2_bytes(boot.multiboot2{ END }, elf))
    local put = {}
    function source.put(_, vm, at, offset, bytes) put[#put + 1] = { vm, at, offset, bytes } end
    local made = assert(make.plan(source, make.wants(32)))
    local sections = boot.information(made)[9][1]
    assert.equal(("<I4I4I4"):pack(3, 40, 0), sections:sub(1, 12))
    for i, m in ipairs(made.modules) do -- the symbol table and its names
      local kind, _, address, offset, size = ("<I4I4I4I4I4"):unpack(sections, 13 + i * 40 + 4)
      assert.same({ i + 1, m.at, m.source.size }, { kind, address, size })
      m.source:put("vm", m.at, 0, size)
      assert.same({ "vm", address, offset, size }, put[i])
    end
    assert.equal(2, #put)
  end)

  it("has room looked for once, however many sections there are", function()
    local place, looks = require "minikvm.image.place", {}
    local above = place.above
    finally(function() place.above = above end)
    for i, more in ipairs{ 0, 100 } do
      local m = make.elf(32)
      m.e.shnum, looks[i] = m.e.shnum + more, 0
      local whole = make.bytes(m)
      local headers = whole:sub(make.SHDRS + 1, make.SHDRS + 3 * 40)
      m.e.shoff = #whole
      local source = make.source(boot.multiboot2_bytes(boot.multiboot2{ END }, make.bytes(m))
                                 .. headers .. headers:sub(41, 80):rep(more))
      function place.above(...)
        looks[i] = looks[i] + 1
        return above(...)
      end
      local made = assert(make.plan(source, make.wants(32)))
      assert.equal(2 + more, #made.modules)
      for k = 2, #made.modules do assert.is_true(made.modules[k].at > made.modules[k - 1].at) end
    end
    assert.equal(looks[1], looks[2])
  end)

  it("gets a framebuffer of the size that was asked for, or that it asks for", function()
    local asks = boot.tag(5, 1, { 640, 480, 32 })
    local function size(m, framebuffer)
      local made = fits(m, { framebuffer = framebuffer })
      local tag = (boot.information(made)[8] or {})[1]
      if not tag then return nil end
      local at, pitch, width, height, bpp, kind = ("<I8I4I4I4BB"):unpack(tag)
      assert.same({ 0xe0000000, width * 4, 32, 1 }, { at, pitch, bpp, kind })
      assert.same({ 16, 8, 8, 8, 0, 8 }, { tag:byte(25, 30) })
      assert.same({ at, width, height },
                  { made.framebuffer.at, made.framebuffer.width, made.framebuffer.height })
      return width, height
    end
    local given = require("minikvm.vm.framebuffer").check{ width = 320, height = 200 }
    assert.same({ 640, 480 }, { size(with(asks)) })
    assert.same({ 320, 200 }, { size(with(asks), given) })
    assert.same({ 320, 200 }, { size(boot.multiboot2(), given) })
    assert.same({ 1024, 768 }, { size(with(boot.tag(5, 0, { 0, 0, 0 }))) })
    assert.same({ 1024, 768 }, { size(with(boot.tag(5, 0, { 0xffffffff, 8192, 16 }))) })
    assert.is_nil(size(boot.multiboot2()))
    assert.is_nil(size(with(asks), false))
  end)
end)

describe("a relocatable Multiboot2 kernel (3.1.12)", function()
  local MIB <const> = 1 << 20
  ---Where it goes; its entry and what it is told go along.
  local function base(min, max, align, preference, want)
    local made, why = plan(with(boot.tag(10, 0, { min, max, align, preference })), want)
    if not made then return nil, why end
    local at = made.segments[1].at
    assert.equal(at + 0x100, made.entry)
    assert.same({ ("<I4"):pack(at) }, boot.information(made)[21])
    return at
  end

  it("stays where it is linked, when it may be there and does not care", function()
    assert.equal(AT, base(MIB, 3 * MIB, 0, 0))
    assert.equal(AT, base(MIB, 3 * MIB, 0x10000, 0))
    assert.equal(2 * MIB, base(MIB, 4 * MIB, 2 * MIB, 0))
  end)

  it("goes as low or as high as it likes, with its alignment", function()
    assert.equal(MIB, base(MIB, 4 * MIB - 1, 4096, 1))
    assert.equal(3 * MIB, base(MIB, 4 * MIB - 1, MIB, 2))
    assert.equal(2 * MIB, base(2 * MIB, 2 * MIB + 0x27ff, 4096, 2))
    assert.equal(2 * MIB, base(MIB, 0xffffffff, MIB, 2, { limit = 3 * MIB - 1 }))
  end)

  it("goes beside what is kept in RAM", function()
    local blocks = { { what = "low", at = MIB, from = 0, to = 0x1000, usual = MIB,
                       limit = make.RAM } }
    assert.equal(MIB + 0x1000, base(MIB, 4 * MIB - 1, 0, 1, { blocks = blocks }))
  end)

  it("is refused when it fits nowhere", function()
    for _, case in ipairs{
      { { MIB, MIB + 0x27fe, 0, 0 }, "do not fit from min_addr" },
      { { 2 * MIB, MIB, 0, 0 }, "do not fit from min_addr" },
      { { 5 * MIB, 6 * MIB, 0, 0 }, "no room in RAM" },
      { { MIB, 4 * MIB, 3, 0 }, "align 0x3 is no power of 2" },
      { { MIB, 4 * MIB, 0, 3 }, "preference 3" } } do
      local made, why = base(table.unpack(case[1]))
      assert.is_nil(made)
      assert.is_truthy(why:find(case[2], 1, true), why)
    end
  end)
end)

describe("a bad Multiboot2 kernel is refused by name:", function()
  local function bad(words, m, want)
    local o = { format = "multiboot2" }
    for key, value in pairs(want or {}) do o[key] = value end
    local made, why = plan(m, o)
    assert.is_nil(made, "taken, without: " .. words)
    assert(why:find(words, 1, true), ("wanted %q, got %q"):format(words, why))
  end

  local function changed(field, value)
    local m = boot.multiboot2()
    m[field] = value
    return m
  end

  local function address(...)
    return boot.multiboot2{ boot.tag(2, 0, { ... }), boot.tag(3, 0, { AT }), END }
  end

  it("its header", function()
    bad("no Multiboot2 header", changed("magic", 0xe85250d7))
    bad("no Multiboot2 header", changed("checksum", 1))
    bad("architecture 4", changed("architecture", 4))
    bad("header_length 16 has no room", changed("length", 16))
    bad("header_length 2147483647: it ends beyond", changed("length", 0x7fffffff))
    bad("no end tag", boot.multiboot2{ boot.tag(3, 0, { AT }) })
    bad("starts in 32-bit mode", boot.multiboot2(), { mode = "paged", paging = true })
  end)

  it("its checksum alone, rather than taking the file for ELF (3.1.2)", function()
    local m, base = boot.multiboot2{ boot.tag(0, 0, {}) }, make.bytes(make.elf(32))
    assert.equal("multiboot2", assert(plan(boot.multiboot2_bytes(m, base))).format)
    m.checksum = 0x17adaf29
    local made, why, code = plan(boot.multiboot2_bytes(m, base))
    assert.same({ nil, "ENOEXEC" }, { made, code })
    assert.match("checksum is 0x17adaf29, and 0x17adaf12 would be right", why)
    assert.equal("elf", assert(plan(boot.multiboot2_bytes(m, base), { format = "elf" })).format)
    m.architecture = 7 -- so it is none: the bytes may be anything
    assert.equal("elf", assert(plan(boot.multiboot2_bytes(m, base))).format)
  end)

  it("its tags", function()
    for kind, name in pairs{ [2] = "address tag", [3] = "entry address tag", [4] = "flags tag",
                             [5] = "framebuffer tag", [10] = "relocatable header tag" } do
      bad(name .. ": size 8", with(boot.tag(kind, 0, {})))
    end
    bad("size 7 is not 8 to", with(boot.tag(6, 0, {}, 7)))
    bad("size 4294967295 is not 8 to", with(boot.tag(6, 0, {}, 0xffffffff)))
    bad("a tag of type 77", with(boot.tag(77, 0, {})))
    assert(plan(with(boot.tag(77, 1, {}))))
    bad("size 10 leaves a part", with(boot.tag(1, 0, { 1 }, 10)))
    bad("information request tag: type 22 is not known", with(boot.tag(1, 0, { 1, 22 })))
    assert(plan(with(boot.tag(1, 1, { 1, 22 }))))
    bad("console_flags 0x4", with(boot.tag(4, 0, { 4 })))
    bad("framebuffer=false was given", with(boot.tag(5, 0, { 1, 1, 1 })), { framebuffer = false })
  end)

  it("its addresses", function()
    local h = AT + boot.HEADER
    bad("no address tag, and it is not an ELF", boot.multiboot2{ END })
    bad("above header_addr", address(h, h + 1, 0, 0))
    bad("before the start of the file", address(h, AT - 1, 0, 0))
    bad("is not above load_addr", address(h, AT, AT, 0))
    bad("beyond the end of the file", address(h, AT, AT + boot.SIZE + 1, 0))
    bad("bss_end_addr", address(h, AT, AT + 100, AT + 99))
    bad("would begin below 0", address(boot.HEADER - 1, 0xffffffff, 0, 0))
    bad("do not fit at", address(h, AT, 0, 0xffffffff))
    bad("the entry 0x", boot.multiboot2{ boot.tag(2, 0, { h, AT, 0, 0 }),
                                        boot.tag(3, 0, { AT - 1 }), END })
  end)

  it("what goes beside it", function()
    local function code(want, modules) return select(3, plan(boot.multiboot2(), want, modules)) end
    assert.equal("E2BIG", code{ cmdline = ("x"):rep(4096) })
    assert.equal("EINVAL", code{ cmdline = "a\0b" })
    assert.equal("EFBIG", code({}, { { name = "big", size = make.RAM, text = "" } }))
    local many = {}
    for i = 1, 65 do many[i] = module("m", "m") end
    assert.equal("E2BIG", code({}, many))
  end)

  it("its ELF sections", function()
    local m = make.elf(32)
    m.s[2].offset = 5000
    bad("section 1: Offset", boot.multiboot2_bytes(boot.multiboot2{ END }, make.bytes(m)))
    m = make.elf(32)
    m.e.shnum = 4097
    bad("Start of section headers", boot.multiboot2_bytes(boot.multiboot2{ END }, make.bytes(m)))
  end)
end)
