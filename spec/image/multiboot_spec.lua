-- Multiboot kernels as plans: the header, modules and the information (Multiboot Specification
-- 0.6.96, sections 3.1 to 3.3). What guests see of them is in image_spec.lua.

local make = require "support.image"
require "minikvm"

local RAM <const>, AT <const> = make.RAM, make.KERNEL_AT

local function fits(image, want)
  local made, why = make.plan(image, want)
  assert(made, why)
  return made
end

local function kernel(m, modules)
  local source = make.source(make.bytes(m))
  source.modules = modules
  return source
end

local function module(name, bytes, text)
  return { name = name, size = #bytes, bytes = bytes, text = text or name }
end

---What is at an address of the information.
local function reader(made)
  local info = made.info
  local function u32(at) return (("<I4"):unpack(info.bytes, at - info.at + 1)) end
  local function text(at) return (("z"):unpack(info.bytes, at - info.at + 1)) end
  return info.at, u32, text
end

describe("a Multiboot kernel", function()
  for _, addresses in ipairs{ true, false } do
    it(addresses and "with address fields" or "that is an ELF file", function()
      local source = kernel(make.multiboot(addresses), { module("mod", "module"),
                                                         module("mod", "module", "b arg") })
      local made = fits(source, make.wants(32, { cmdline = "verbose root=1" }))
      assert.equal(addresses and AT + make.CODE or make.TEXT_AT, made.entry)
      local info, u32, text = reader(made)
      assert.same({ eax = 0x2badb002, ebx = info }, made.regs)
      assert.same({ 0x24d, 640, RAM // 1024 - 1024 }, { u32(info), u32(info + 4), u32(info + 8) })
      assert.equal("verbose root=1", text(u32(info + 16)))
      assert.equal("minikvm", text(u32(info + 64)))
      assert.equal(2, u32(info + 20))
      local mods = u32(info + 24)
      assert.same({ 0x100000, 0x100006 }, { u32(mods), u32(mods + 4) }) -- above the first MiB
      assert.same({ 0x101000, 0x101006 }, { u32(mods + 16), u32(mods + 20) }) -- on the next page
      assert.same({ "mod", "b arg" }, { text(u32(mods + 8)), text(u32(mods + 24)) })
      assert.same({ { source = source.modules[1], at = 0x100000 },
                    { source = source.modules[2], at = 0x101000 } }, made.modules)
      if addresses then
        assert.same({ { at = AT, linear = AT, offset = 0, file_bytes = make.SIZE,
                        mem_bytes = make.SIZE + make.BSS } }, made.segments)
      end
    end)
  end

  it("is told of memory as on a PC", function()
    local function map(limit)
      local info, u32 = reader(fits(make.multiboot(true), make.wants(32, { limit = limit })))
      local list, at = {}, u32(info + 48)
      for entry = at, at + u32(info + 44) - 1, 24 do
        assert.equal(20, u32(entry))
        list[#list + 1] = { u32(entry + 4), u32(entry + 12), u32(entry + 20) }
      end
      return list, u32(info + 4), u32(info + 8)
    end
    assert.same({ { 0, 0xa0000, 1 }, { 0xa0000, 0x60000, 2 }, { 0x100000, RAM - 0x100000, 1 } },
                (map(RAM)))
    local list, lower, upper = map(0x14000)
    assert.same({ { 0, 0x14000, 1 } }, list)
    assert.same({ 0x14000 // 1024, 0 }, { lower, upper })
  end)

  it("leaves to others what they keep", function()
    local blocks = { { what = "low", at = 0, from = 0, to = 0x2800, usual = 0, limit = RAM },
                     { what = "high", at = 0x100800, from = 0, to = 0x1000, usual = 0x100800,
                       limit = RAM } }
    local source = kernel(make.multiboot(true), { module("mod", ("m"):rep(4096)) })
    local want = make.wants(32, { blocks = blocks })
    local made = fits(source, want)
    assert.same({ 0x3000, 0x102000 }, { made.info.at, made.modules[1].at })
    want.limit = 0x102fff
    local _, why, code = make.plan(source, want)
    assert.matches("no room in memory for mod of 4096 bytes", why)
    assert.equal("EFBIG", code)
  end)

  it("puts the information behind what is in its place", function()
    local m = make.multiboot(true)
    local h = m.multiboot
    h.header_addr, h.load_addr, h.load_end_addr = 0x1000 + make.HEADER, 0x1000, 0
    h.bss_end_addr, h.entry_addr = 0, 0x1000
    assert.equal(0x2000, fits(m, make.wants(32)).info.at)
  end)

  it("may be an ELF file of 64 bits, which starts in 32-bit mode all the same", function()
    local m = make.elf(64)
    m.multiboot = make.multiboot(false).multiboot
    assert.equal(make.TEXT_AT, fits(m, make.wants(32)).entry)
  end)

  it("without ends is the whole file; broken symbols do not matter", function()
    local m = make.multiboot(true)
    m.multiboot.load_end_addr, m.multiboot.bss_end_addr, m.s[2].entsize = 0, 0, 1
    local made = fits(m, make.wants(32))
    assert.same({ make.SIZE, make.SIZE },
                { made.segments[1].file_bytes, made.segments[1].mem_bytes })
  end)

  it("has bounds for strings and modules", function()
    local long = ("x"):rep(1025)
    local function code_of(source, want) return select(3, make.plan(source, want)) end
    local m = make.multiboot(true)
    assert.equal("E2BIG", code_of(kernel(m, { module("m", "m", long) }), make.wants(32)))
    assert.equal("E2BIG", code_of(kernel(m), make.wants(32, { cmdline = long })))
    local list = {}
    for i = 1, 32 do list[i] = module("m", "m", long:sub(2)) end
    local made = fits(kernel(m, list), make.wants(32, { cmdline = long:sub(2) }))
    local info, u32, text = reader(made)
    assert.equal(long:sub(2), text(u32(u32(info + 24) + 16 * 31 + 8)))
    list[33] = module("m", "m")
    assert.equal("E2BIG", code_of(kernel(m, list), make.wants(32)))
    local _, why = make.plan(kernel(m, { list[1] }), make.wants(32, { format = "elf" }))
    assert.matches("modules= are for Multiboot", why)
  end)
end)

describe("a bad Multiboot kernel is refused:", function()
  ---Changes a good kernel with address fields, and wants these words.
  local function bad(words, change, more)
    local want = make.wants(32, { format = "multiboot" })
    for key, value in pairs(more or {}) do want[key] = value end
    local m = make.multiboot(true)
    if change then change(m, m.multiboot) end
    local made, why = make.plan(m, want)
    assert.is_nil(made, "taken, without: " .. words)
    assert(why:find(words, 1, true), ("wanted %q, got %q"):format(words, why))
  end

  it("its header", function()
    bad("no Multiboot header", function(_, h) h.magic = 0x1badb003 end)
    bad("no Multiboot header", function(_, h) h.magic = 0x2badb002 end)
    bad("no Multiboot header", function(m) m.size = make.HEADER + 31 end)
    bad("no Multiboot header", function(m) m.size = make.HEADER + 11 end)
    bad("video mode", function(_, h) h.flags = h.flags | 4 end, { framebuffer = false })
    bad("something unknown (bits 0x8000)", function(_, h) h.flags = h.flags | 0x8000 end)
    bad("Entry point address", function(m, h) h.flags, m.e.entry = 3, 0 end)
    bad("not an ELF file", function(m, h) h.flags, m.e.magic = 3, "\0ELF" end)
    bad("overlap", function(m, h) h.flags, m.p[1].paddr = 3, make.DATA_AT end)
  end)

  it("its addresses", function()
    bad("load_addr 0x10801 is above header_addr", function(_, h) h.load_addr = 0x10801 end)
    bad("before the start of the file", function(_, h) h.load_addr = 0xffff end)
    bad("before the start of the file", function(_, h) h.load_addr = 0 end)
    bad("load_end_addr 0xffff is below", function(_, h) h.load_end_addr = 0xffff end)
    bad("beyond the end of the file (0x11000)", function(_, h) h.load_end_addr = 0x11001 end)
    bad("beyond the end of the file", function(_, h) h.load_end_addr = 0xffffffff end)
    bad("bss_end_addr 0x10fff is below", function(_, h) h.bss_end_addr = 0x10fff end)
    bad("do not fit", function(_, h) h.bss_end_addr = 0xffffffff end)
    bad("entry_addr 0xffff is outside", function(_, h) h.entry_addr = 0xffff end)
    bad("entry_addr 0x12800 is outside", function(_, h) h.entry_addr = 0x12800 end)
    bad("entry_addr 0x11000 is outside", function(_, h)
      h.bss_end_addr, h.entry_addr = 0, 0x11000
    end)
  end)

  it("the mode, and a place of its own", function()
    bad("paging off", nil, { paging = true })
    bad("paging off", nil, { bits = 16 })
    bad("at= is for flat images", nil, { has_at = true })
  end)
end)
