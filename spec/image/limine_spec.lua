-- Kernels for the Limine boot protocol as plans: PROTOCOL.md of limine-protocol, base revision 6.
-- What a guest sees of it is in spec/guests/boot_guests_spec.lua.

local boot = require "support.boot"
local make = require "support.image"
local plan = require "minikvm.image.plan"
require "minikvm"

local HIGH <const>, HHDM <const>, PAGE <const> = boot.HIGH, boot.HHDM, 4096

local function source_of(o, modules)
  local source = make.source(type(o) == "string" and o or boot.limine(o))
  source.modules = modules
  function source.put() error "nothing is loaded here" end
  return source
end

local function try(o, want, modules)
  local source = source_of(o, modules)
  local made, why, code = make.plan(source, make.wants(64, want))
  return made, made and source or why, code
end

local function fits(...)
  local made, source = try(...)
  assert(made, source)
  return made, source
end

local function module(name, bytes, text)
  return { name = name, size = #bytes, bytes = bytes, given_text = text, text = text or name }
end

describe("a kernel for the Limine boot protocol", function()
  it("is recognised by its requests or its base revision", function()
    local function format(o)
      return plan.detect(source_of(o), make.wants(64))
    end
    assert.equal("limine", format{})
    assert.equal("limine", format{ revision = false, requests = { { "hhdm" } } })
    assert.equal("limine", format{ kind = 3 })
    assert.equal("elf", format{ revision = false })
    assert.equal("elf", format{ data = "\0\0\0\0" .. boot.base_tag(6) }) -- not on a boundary of 8
    assert.equal("elf", plan.detect(make.source(make.bytes(make.elf(64))), make.wants(64)))
    assert.equal("long", plan.mode(source_of{}))
  end)

  it("lies in RAM as in the address space, with one offset", function()
    local made = fits{ requests = { { "where" } } }
    assert.equal("limine", made.format)
    local base = made.segments[1].at - boot.TEXT + 0x1000
    assert.equal(0x100000, base)
    assert.same({ { at = base, linear = HIGH + boot.TEXT, offset = boot.TEXT, file_bytes = 16,
                    mem_bytes = 16 },
                  { at = base + 0x1000, linear = HIGH + boot.DATA, offset = boot.DATA,
                    file_bytes = boot.DATA_BYTES, mem_bytes = boot.DATA_MEMORY } }, made.segments)
    assert.equal(HIGH + boot.TEXT, made.entry)
  end)

  it("is entered as the protocol says (Machine State at Entry)", function()
    local made = fits{}
    local h = made.handoff
    assert.same({ 0x80010011, 0x20, 0xd00, 0x28, 0x30, 55 },
                { h.cr0, h.cr4, h.efer, h.cs, h.ds, h.gdt_limit })
    assert.equal(0x010500070406, h.pat & 0xffffffffffff)
    assert.equal(8, h.rsp % 16)
    local stack = made.zeros[1]
    assert.is_true(stack.bytes >= 65536 and h.rsp + 8 == HHDM + stack.at + stack.bytes)
    made = fits({}, { features = function() return { nx = false, pat = false } end })
    assert.same({ 0x500, 0 }, { made.handoff.efer, made.handoff.pat })
  end)

  it("finds its parts mapped with their rights, and memory in the higher half", function()
    local made, source = fits({}, { framebuffer = { at = 0xe0000000, width = 512, height = 256,
                                                    pitch = 2048, bytes = 512 * 1024 } })
    local function walk(at) return boot.walk(made, source, at) end
    local text, data = walk(made.entry), walk(HIGH + boot.DATA + 0x27ff)
    assert.same({ made.segments[1].at, false, true, false },
                { text.at, text.write, text.execute, text.user })
    assert.same({ made.segments[2].at + 0x27ff, true, false, false },
                { data.at, data.write, data.execute, data.user })
    for _, at in ipairs{ 0x1000, 0x9ffff, 0x100000, make.RAM - 1, made.info.at } do
      local there = walk(HHDM + at)
      assert.same({ at, true, true, false }, { there.at, there.write, there.execute, there.user })
    end
    assert.is_true(walk(HHDM + 0x200000).large)
    local screen = walk(HHDM + 0xe0000000)
    assert.equal(0x88, screen.flags & 0x98) -- PAT and PWT: entry 5
    for _, at in ipairs{ HHDM, HHDM + 0xa0000, HHDM + make.RAM, 0x1000, HHDM + 0xe0080000 } do
      assert.is_nil(walk(at), ("%x"):format(at))
    end
  end)

  it("of a base revision below 3 has the first 4 GiB mapped, of 0 twice", function()
    for revision = 0, 6 do
      local made, source = fits({ revision = revision, requests = { { "framebuffer" } } },
                                { ranges = { { 1 << 32, 1 << 30 } } })
      local function walk(at) return boot.walk(made, source, at) end
      assert.equal(revision < 3, walk(HHDM) ~= nil and walk(HHDM + 0xffffffff) ~= nil)
      assert.equal(revision == 0, walk(0x1000) ~= nil and walk(0xffffffff) ~= nil)
      assert.is_nil(walk(0))
      assert.equal((1 << 32) + 5, walk(HHDM + (1 << 32) + 5).at)
      assert.equal(0xe0000001, walk(HHDM + 0xe0000001).at)
      assert.equal(0x1008, walk(HHDM + 0xe0000001).flags & 0x1018) -- a large page: PAT, PWT
      local data = made.segments[2].at + #boot.START
      local memory = boot.memory(made, source)
      assert.same({ revision, 0 }, { memory:u64(data + 8), memory:u64(data + 16) })
    end
  end)

  it("without a base revision tag is of base revision 0", function()
    local made, source = fits{ revision = false, requests = { { "hhdm" } } }
    assert.is_truthy(boot.walk(made, source, 0x1000))
  end)
end)

describe("requests of a Limine kernel", function()
  it("are answered", function()
    local list = {}
    for _, name in ipairs{ "loader", "line", "hhdm", "paging", "where", "date", "tsc", "stack" } do
      list[#list + 1] = { name, 0, name == "stack" and { 0x30001 } or { 0 } }
    end
    local made, source = fits({ requests = list }, {
      cmdline = "a b", now = 1234, features = function()
        return { nx = true, pat = true, tsc_hz = 5678 }
      end })
    local function answer(name, count) return boot.answer(made, source, name, count) end
    local loader, memory = answer("loader", 2)
    assert.equal("minikvm", memory:text(loader[1]))
    assert.equal(require("minikvm")._VERSION, memory:text(loader[2]))
    assert.equal("a b", memory:text(answer("line", 1)[1]))
    assert.same({ [0] = 0, HHDM }, answer("hhdm", 1))
    assert.same({ [0] = 0, 0 }, answer("paging", 1))
    assert.same({ [0] = 0, 0x100000, HIGH + 0x1000 }, answer("where", 2))
    assert.same({ [0] = 0, 1234 }, answer("date", 1))
    assert.same({ [0] = 0, 5678 }, answer("tsc", 1))
    assert.same({ [0] = 0 }, answer("stack", 0))
    assert.is_true(made.zeros[1].bytes >= 0x31000)
  end)

  it("are left alone when there is nothing to answer", function()
    local unknown = { 0x1111, 0x2222 }
    boot.IDS.unknown = unknown
    local made, source = fits({ requests = { { "rsdp" }, { "module" }, { "date" }, { "tsc" },
                                             { "framebuffer" }, { unknown } } },
                              { framebuffer = false })
    for _, name in ipairs{ "rsdp", "module", "date", "tsc", "framebuffer", "unknown" } do
      assert.is_nil(boot.answer(made, source, name, 0), name)
    end
  end)

  it("count between the last start marker and the first end marker", function()
    local hhdm, where = boot.request "hhdm", boot.request "where"
    local made, source = fits{ data = boot.request "line" .. boot.START .. boot.request "loader"
      .. boot.START .. boot.base_tag(6) .. hhdm .. boot.STOP .. where .. boot.request "hhdm" }
    assert.equal(HHDM, boot.answer(made, source, "hhdm", 1)[1])
    for _, name in ipairs{ "line", "loader", "where" } do
      assert.is_nil(boot.answer(made, source, name, 0), name)
    end
  end)

  it("for modules and the kernel's file are answered with files", function()
    local modules = { module("boot/one", "11111"), module("/two", ("2"):rep(4097), "text of two") }
    local made, source = fits({ requests = { { "module" }, { "file" }, { "line" } } },
                              { cmdline = "line" }, modules)
    local answer, memory = boot.answer(made, source, "module", 2)
    assert.same({ [0] = 0, 2 }, { [0] = answer[0], answer[1] })
    for i, m in ipairs(modules) do
      local file = memory:u64(answer[2] + 8 * (i - 1))
      assert.same({ 0, HHDM + made.modules[i].at, #m.bytes },
                  { memory:u64(file), memory:u64(file + 8), memory:u64(file + 16) })
      assert.equal(i == 1 and "/boot/one" or "/two", memory:text(memory:u64(file + 24)))
      assert.equal(m.given_text or "", memory:text(memory:u64(file + 32)))
      assert.equal(0, made.modules[i].at % PAGE)
    end
    local file = boot.answer(made, source, "file", 1)[1]
    assert.same({ HHDM + made.modules[3].at, source.size },
                { memory:u64(file + 8), memory:u64(file + 16) })
    assert.equal(boot.answer(made, source, "line", 1)[1], memory:u64(file + 32))
  end)

  it("for the entry point decide where it starts", function()
    local entry = HIGH + boot.TEXT + 4
    assert.equal(entry, fits{ requests = { { "entry", 0, { entry } } } }.entry)
  end)

  it("for the memory map are answered with all memory, in order", function()
    local modules = { module("m", ("m"):rep(5000)) }
    local made, source = fits({ requests = { { "map" }, { "framebuffer" } } },
                              { ranges = { { 1 << 32, 1 << 20 } } }, modules)
    local answer, memory = boot.answer(made, source, "map", 2)
    local list, total, kinds = {}, {}, {}
    for i = 1, answer[1] do
      local at = memory:u64(answer[2] + 8 * (i - 1))
      local base, length, kind = memory:u64(at), memory:u64(at + 8), memory:u64(at + 16)
      assert.equal(list[i - 1] and list[i - 1][2] <= base and base or base, base)
      if list[i - 1] then assert.is_true(list[i - 1][2] <= base) end
      list[i], kinds[kind] = { base, base + length, kind }, (kinds[kind] or 0) + 1
      total[kind] = (total[kind] or 0) + length
      if kind == 0 or kind == 5 then assert.same({ 0, 0 }, { base % PAGE, length % PAGE }) end
    end
    assert.same({ 0, 0x1000, 1 }, list[1])
    assert.same({ 0x1000, 0xa0000, 0 }, list[2])
    assert.same({ 0xa0000, 0x100000, 1 }, list[3])
    assert.same({ 1 << 32, (1 << 32) + (1 << 20), 0 }, list[#list])
    assert.equal(0x4000 + 2 * PAGE, total[6])
    assert.equal(1024 * 768 * 4, total[7])
    assert.equal(made.zeros[1].at + made.zeros[1].bytes - made.info.at, total[5])
    assert.equal(make.RAM + (1 << 20), total[0] + total[1] + total[5] + total[6])
  end)

  it("for a framebuffer are answered with one", function()
    local made, source = fits{ requests = { { "framebuffer" } } }
    local answer, memory = boot.answer(made, source, "framebuffer", 2)
    assert.same({ [0] = 1, 1 }, { [0] = answer[0], answer[1] }) -- revision 1: with modes
    local f = memory:u64(answer[2])
    assert.same({ HHDM + 0xe0000000, 1024, 768, 4096 },
                { memory:u64(f), memory:u64(f + 8), memory:u64(f + 16), memory:u64(f + 24) })
    assert.same({ 32, 0, 1, 8, 16, 8, 8, 8, 0 }, { memory:read(f + 32, 9):byte(1, 9) })
    assert.same({ 0, 0, 1 }, { memory:u64(f + 48), memory:u64(f + 56), memory:u64(f + 64) })
  end)

  it("for the RSDP are answered by its physical address in base revision 3 alone", function()
    for revision = 2, 6 do
      local made, source = fits({ revision = revision, requests = { { "rsdp" }, { "map" } } }, {
        rsdp = function() return { at = 0xe0010, revision = 2, bytes = ("\0"):rep(36) } end })
      local address = boot.answer(made, source, "rsdp", 1)[1]
      assert.equal(revision == 3 and 0xe0010 or HHDM + 0xe0010, address)
      assert.equal(revision ~= 3, boot.walk(made, source, HHDM + 0xe0010) ~= nil)
    end
  end)
end)

describe("a position-independent Limine kernel", function()
  it("is moved into the higher half, and what its relocations name along", function()
    local made, source = fits{ kind = 3, requests = { { "entry", 0, { 0 } }, { "where" } }, rela = {
      { boot.DATA + #boot.START + 24 + 48, 8, 0, boot.TEXT + 2 }, -- the entry: RELATIVE
      { boot.DATA + 0x900, 8, 0, boot.DATA }, { boot.DATA + 0x908, 0 } } }
    assert.equal(HIGH - 0x1000 + boot.TEXT + 2, made.entry)
    assert.equal(HIGH, boot.answer(made, source, "where", 2)[2])
    local moved = boot.memory(made, source):u64(made.segments[2].at + 0x900)
    assert.equal(HIGH - 0x1000 + boot.DATA, moved)
    assert.equal(HIGH, made.segments[1].linear)
  end)
end)

describe("a bad Limine kernel is refused by name:", function()
  local function bad(words, o, want)
    local more = { format = "limine" }
    for key, value in pairs(want or {}) do more[key] = value end
    local made, why = try(o, more)
    assert.is_nil(made, "taken, without: " .. words)
    assert(why:find(words, 1, true), ("wanted %q, got %q"):format(words, why))
  end

  it("its base revision and requests", function()
    bad("base revision 7 is newer than 6", { revision = 7 })
    bad("two base revision tags", { data = boot.base_tag(6) .. boot.base_tag(6) })
    bad("two requests with the same ID", { requests = { { "hhdm" }, { "hhdm" } } })
    bad("no request of the Limine boot protocol", { data = "" })
    bad("no request of the Limine boot protocol", { data = boot.STOP .. boot.base_tag(6) })
    local many = {}
    for i = 1, 129 do many[i] = boot.words{ 0xc7b1dd30df4c8b88, 0x0a82e883a194f07b, i, i } end
    bad("more than 128 requests", { data = table.concat(many, boot.words{ 0, 0 }) })
  end)

  it("what its requests ask for", function()
    bad("min_mode 1", { requests = { { "paging", 1, { 1, 1, 1 } } } })
    bad("max_mode 0 is below min_mode 1", { requests = { { "paging", 1, { 0, 0, 1 } } } })
    bad("stack_size 0x7fffffffffffffff", { requests = { { "stack", 0, { math.maxinteger } } } })
    bad("no room in RAM for page tables and a stack",
        { requests = { { "stack", 0, { make.RAM } } } })
    for _, entry in ipairs{ 0, HIGH + boot.DATA, HIGH + boot.TEXT + 16 } do
      bad("Entry Point feature: entry", { requests = { { "entry", 0, { entry } } } })
    end
  end)

  it("its place", function()
    bad("is to be linked at 0xffffffff80000000", { base = 0x100000 })
    bad("wraps around", { base = -0x3000 })
    bad("no room in RAM", {}, { limit = 0x101000 })
    bad("starts in 64-bit mode", {}, { mode = "protected", bits = 32, paging = false })
    bad("cpus = 2", {}, { cpus = 2 })
  end)

  it("its relocations", function()
    bad("type 2 is not known", { kind = 3, rela = { { boot.DATA, 2 } } })
    bad("not in a LOAD segment", { kind = 3, rela = { { boot.DATA + boot.DATA_MEMORY - 7, 8 } } })
    bad("is not in the symbol table", { kind = 3, rela = { { boot.DATA, 6, 1 } } })
  end)
end)
