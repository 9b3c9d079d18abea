-- Hostile kernels for the boot protocols: every field of their headers, requests, notes and
-- relocations with odd values, and every length of the file. Each is refused by name, or stays
-- inside file and RAM.

local boot = require "support.boot"
local make = require "support.image"
local plan = require "minikvm.image.plan"
require "minikvm"

local RAM <const> = 2 << 20

---Values that sums overflow with, and neighbours of what is right.
local VALUES <const> = { 0, 1, 7, 8, 9, 0xff, 0x800, 0xfff, 0x1000, 0x7fff, 0x8000, 0xffff,
                         0x100000,
                         RAM - 1, RAM, RAM + 1, 0x7fffffff, 0x80000000, 0xffffffff, 1 << 32,
                         boot.HIGH, boot.HIGH + boot.DATA, boot.HHDM, math.maxinteger,
                         math.mininteger, -1, -8, -4096 }

local function must(holds, what, ...)
  if not holds then error(what:format(...), 2) end
end

---Nothing that is put into RAM lies outside of it, or over another part.
local function check_ram(made, limit)
  local list = {}
  local function add(what, at, bytes)
    must(plan.inside(at, bytes, limit), "%s is outside RAM: 0x%x", what, at)
    if bytes > 0 then list[#list + 1] = { at, at + bytes, what } end
  end
  for _, s in ipairs(made.segments) do add("a segment", s.at, s.mem_bytes) end
  for _, m in ipairs(made.modules) do add("a module", m.at, m.source.size) end
  for _, z in ipairs(made.zeros or {}) do add("what is zero", z.at, z.bytes) end
  add("the information", made.info.at, #made.info.bytes)
  table.sort(list, function(a, b) return a[1] < b[1] end)
  for i = 2, #list do
    must(list[i - 1][2] <= list[i][1], "%s lies over %s", list[i - 1][3], list[i][3])
  end
end

local function check_segments(made, source)
  must(#made.segments >= 1 and #made.segments <= plan.SEGMENTS_MAX, "the number of segments")
  for _, s in ipairs(made.segments) do
    must(plan.inside(s.offset, s.file_bytes, source.size), "a segment is outside the file")
    must(not math.ult(s.mem_bytes, s.file_bytes), "a segment has more in the file than in RAM")
  end
  for _, p in ipairs(made.patches or {}) do
    local inside = plan.segment(made, p.at, true) and plan.segment(made, p.at + #p.bytes - 1, true)
    must(inside or p.at == 0x413 and #p.bytes == 2, "a patch at 0x%x is in no segment", p.at)
  end
end

---Plans it; true when it was taken.
local function try(bytes, bits, format)
  local source = make.source(bytes, "fuzz")
  source.modules = { { name = "module", size = 3, bytes = "abc", text = "arg" } }
  function source.put() error "nothing is loaded here" end
  local want = make.wants(bits, { limit = RAM, format = format, cmdline = "line" })
  local ok, made = pcall(plan.make, source, want)
  if ok then
    check_segments(made, source)
    check_ram(made, RAM)
    return true
  end
  must(type(made) == "table" and made.code and made.text:find("^fuzz: %g"), "not refused: %s",
       tostring(type(made) == "table" and made.text or made))
  return false
end

---Puts all values over all fields from `first` on; how many were taken, how many refused.
local function sweep(bytes, bits, format, first, count, step, widths)
  local taken, refused = 0, 0
  for at = first, first + count - 1, step do
    for _, width in ipairs(widths) do
      for _, value in ipairs(VALUES) do
        local part = ("<i8"):pack(value):sub(1, width)
        if try(boot.put(bytes, at, part):sub(1, #bytes), bits, format) then
          taken = taken + 1
        else
          refused = refused + 1
        end
      end
    end
  end
  return taken, refused
end

---Cut off after every byte.
local function cut(bytes, bits, format)
  for size = 1, #bytes - 1, #bytes > 8192 and 13 or 1 do try(bytes:sub(1, size), bits, format) end
end

local function all_tags()
  local m = boot.multiboot2()
  table.remove(m.tags)
  for _, t in ipairs{ boot.tag(1, 0, { 1, 3, 6 }), boot.tag(4, 0, { 3 }),
                      boot.tag(5, 1, { 64, 48, 32 }),
                      boot.tag(6, 0, {}), boot.tag(10, 0, { 0x100000, 0x1fffff, 0x1000, 2 }),
                      boot.tag(0, 0, {}) } do
    m.tags[#m.tags + 1] = t
  end
  return boot.multiboot2_bytes(m)
end

local function all_requests(kind)
  local high = kind == 3 and 0 or boot.HIGH
  local list = { { "paging", 1, { 1, 1, 0 } }, { "stack", 0, { 65536 } },
                 { "entry", 0, { high + boot.TEXT } }, { "framebuffer" }, { "map" },
                 { "module", 1, { 0, 0 } },
                 { "file" }, { "line" }, { "where" } }
  local rela = { { boot.DATA + 0x900, 8, 0, boot.TEXT }, { boot.DATA + 0x908, 0 } }
  if kind == 3 then -- as in the file, the entry's word is 0 until it is relocated
    list[3][3] = { 0 }
    rela[3] = { boot.DATA + #boot.START + 24 + (48 + 24) + (48 + 8) + 48, 8, 0, boot.TEXT }
  end
  return boot.limine{ kind = kind, requests = list, rela = rela }
end

local LONGEST <const> = 600 -- bytes of requests above, and of their tags

describe("a hostile kernel", function()
  it("is made of one that is good", function()
    assert.is_true(try(all_tags(), 32))
    assert.is_true(try(boot.pvh(), 32))
    assert.is_true(try(all_requests(2), 64))
    assert.is_true(try(all_requests(3), 64))
  end)

  local NARROW <const>, WIDE <const> = { 2, 4 }, { 4, 8 }
  local function limine() return all_requests(2) end
  for name, case in pairs{
    ["with a Multiboot2 header"] = { all_tags, 32, "multiboot2", boot.HEADER, 152, 2, NARROW },
    ["with a Multiboot2 header, as an ELF file"] = { function()
      return boot.multiboot2_bytes(boot.multiboot2{ boot.tag(0, 0, {}) }, make.bytes(make.elf(32)))
    end, 32, "multiboot2", make.SHDRS, 120, 4, { 4 } },
    ["with a PVH note"] = { boot.pvh, 32, "pvh", boot.NOTE, 20, 2, NARROW },
    ["for Limine: its ELF header"] = { limine, 64, "limine", 0, 0x40, 2, { 2, 8 } },
    ["for Limine: its program headers"] = { limine, 64, "limine", 0x40, 168, 4, WIDE },
    ["for Limine: its requests"] = { limine, 64, "limine", boot.DATA, LONGEST, 8, { 8 } },
    ["for Limine, position-independent: its relocations"] = {
      function() return all_requests(3) end, 64, "limine", boot.RELA, 0x140, 4, WIDE },
  } do
    it(name .. ", with odd values everywhere", function()
      local taken, refused = sweep(case[1](), table.unpack(case, 2))
      assert.is_true(refused > 50, refused .. " refused")
      assert.is_true(taken > 0)
    end)
  end

  it("of any kind may be cut off at every byte", function()
    cut(all_tags(), 32, "multiboot2")
    cut(boot.pvh(), 32, "pvh")
    cut(all_requests(2), 64, "limine")
    cut(all_requests(3), 64, "limine")
  end)
end)
