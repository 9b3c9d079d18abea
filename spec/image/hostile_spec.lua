-- Hostile image files: whatever the bytes are, an image is refused or stays inside file and RAM,
-- touches nothing else, and its symbols can be asked for; and nothing is read before that is known.

local lfs = require "lfs"
require "minikvm"
local make = require "support.image"
local plan = require "minikvm.image.plan"
local process = require "support.process"
local support = require "support.guest"
local symbols = require "minikvm.image.symbols"

local RAM <const> = 0x30000

---Good images of every kind: ELF32, ELF64, Multiboot without and with address fields, and a boot
---sector.
local function good(kind)
  if kind <= 2 then return make.bytes(make.elf(kind * 32)) end
  if kind <= 4 then return make.bytes(make.multiboot(kind == 4)) end
  return "\xf4" .. ("\0"):rep(509) .. "\x55\xaa"
end

local function overlap(a, a_bytes, b, b_bytes)
  return a < b + b_bytes and b < a + a_bytes
end

local function must(holds, what)
  if not holds then error(what, 2) end
end

local function check_segments(made, source, want)
  for i, s in ipairs(made.segments) do
    must(plan.inside(s.offset, s.file_bytes, source.size), "a segment is outside the file")
    must(plan.inside(s.at, s.mem_bytes, want.limit), "a segment is outside RAM")
    must(not math.ult(s.mem_bytes, s.file_bytes), "a segment has more in the file than in RAM")
    for j = 1, i - 1 do
      local other = made.segments[j]
      must(not overlap(s.at, s.mem_bytes, other.at, other.mem_bytes), "segments overlap")
    end
    for _, b in ipairs(want.blocks or {}) do
      must(not overlap(s.at, s.mem_bytes, b.at + b.from, b.to - b.from), "a segment is in a block")
    end
  end
end

local function check_plan(made, source, want)
  must(#made.segments >= 1 and #made.segments <= plan.SEGMENTS_MAX, "the number of segments")
  check_segments(made, source, want)
  for _, b in ipairs(want.blocks or {}) do
    must(b.at >= 0 and b.at % 0x1000 == 0 and b.at + b.to <= RAM, "a block is outside RAM")
  end
  if made.info then
    must(plan.inside(made.info.at, #made.info.bytes, want.limit), "the information is outside RAM")
  end
end

local function check_symbols(made, source)
  local images = { { source = source, plan = made } }
  local all = symbols.all(images)
  local asked = 0
  for name, value in pairs(all) do
    must(#name < source.size, "a name is longer than the file")
    must(symbols.find(images, name) == value, "a symbol is not found by its name")
    symbols.at(images, value)
    asked = asked + 1
    if asked == 64 then break end
  end
  symbols.at(images, made.entry)
end

local FORMATS <const> = { [4] = "flat", [5] = "boot", [6] = "elf", [7] = "multiboot" }

---What the last byte of a fuzzed image chooses: the machine and the format.
local function want_for(how)
  local bits = how % 3 == 0 and 16 or how % 3 == 1 and 32 or 64
  local want = make.wants(bits, {
    limit = RAM, at = 0x1000, high = how & 0x20 ~= 0 and 0x80000000 or nil,
    format = FORMATS[how >> 2 & 7], symbol = how % 7 == 6 and "main" or nil,
    cmdline = how & 0x40 ~= 0 and "line" or nil })
  want.paging = bits == 64 or how & 0x20 ~= 0
  if bits == 32 and want.paging then want.mode = "paged" end
  if bits ~= 16 then
    want.blocks = { { what = "low", at = 0, from = 0x500, to = 0x1000, usual = 0, limit = RAM },
                    { what = "middle", at = 0x8000, from = 0, to = 0x1000, usual = 0x8000,
                      limit = RAM } }
  end
  return want
end

---Plans it; returns the format it was taken as, or nil.
local function try(bytes, want, module)
  local source = make.source(bytes, "fuzz")
  if module then source.modules = { { name = "module", size = 3, bytes = "abc", text = "arg" } } end
  local ok, made = pcall(plan.make, source, want)
  if ok then
    check_plan(made, source, want)
    check_symbols(made, source)
    return made.format
  end
  must(type(made) == "table" and made.code and made.text:find("^fuzz: "), tostring(made))
end

-- ---- changed in a few places ----

local seed

local function random(below) -- xorshift64*
  seed = seed ~ seed >> 12
  seed = seed ~ seed << 25
  seed = seed ~ seed >> 27
  return (seed * 0x2545f4914f6cdd1d >> 32) % below
end

---Values that sums overflow with, and neighbours of what is right.
local VALUES <const> = { 0, 1, 0x7f, 0x80, 0xff, 0x1000, 0x7fff, 0x8000, 0xffff, 0x7fffffff,
  0x80000000, 0xffffffff, 0xfffffff8, 1 << 32, math.maxinteger, math.mininteger, -1, -8, RAM,
  RAM - 1, RAM + 1, make.TEXT_AT }

local function odd_value(size)
  local choice = random(4)
  if choice == 0 then return size - random(65) end
  if choice == 1 then return random(0xffffffff) << 32 | random(0xffffffff) end
  return VALUES[random(#VALUES) + 1]
end

---Most changes go to headers, on the fields' own boundaries.
local TABLES <const> = { { 0, 0x40 }, { make.PHDRS, 0xc0 }, { make.SYMBOLS, 0xc0 },
                         { make.NAMES, 0x40 }, { make.SHDRS, 0xc0 }, { make.HEADER, 0x20 } }

local function odd_place(size)
  local part = TABLES[random(#TABLES + 1) + 1]
  local at = part and part[1] + random(part[2]) or random(size)
  return random(8) > 0 and at & ~1 or at
end

local WIDTHS <const> = { "<i1", "<i2", "<i4", "<i4", "<i8" }

local function change(bytes)
  if random(16) == 0 then return bytes:sub(1, 1 + random(#bytes)) end
  local value, at, format = odd_value(#bytes), odd_place(#bytes), WIDTHS[random(#WIDTHS) + 1]
  local width = format:packsize()
  if at + width > #bytes then return bytes end
  if random(3) == 0 then value = format:unpack(bytes, at + 1) + random(33) - 16 end
  local narrow = ("<i8"):pack(value):sub(1, width)
  return bytes:sub(1, at) .. narrow .. bytes:sub(at + width + 1)
end

local function fuzzed(kind)
  local bytes = good(kind)
  for _ = 1, random(6) do bytes = change(bytes) end
  return bytes
end

---A machine for this kind of image, most of the time; else any.
local function how_for(kind)
  local wanted = ({ 1, 2, 1, 1, 0 })[kind]
  local how
  repeat how = random(256)
  until random(16) == 0 or how % 3 == wanted and how >> 2 & 7 < 4
  return how
end

describe("a hostile image", function()
  it("of any kind may be cut off at every byte", function()
    for kind = 1, 5 do
      local bytes = good(kind)
      for size = 1, #bytes - 1 do
        for how = 0, 2 do try(bytes:sub(1, size), want_for(how)) end
      end
    end
  end)

  it("may be anything: it is refused, or stays where it may be", function()
    local taken, refusals, images <const> = {}, 0, 6000
    seed = 1
    for _ = 1, images do
      local kind = random(5) + 1
      local how = how_for(kind)
      local format = try(fuzzed(kind), want_for(how), how & 0xc0 == 0x40)
      if format then taken[format] = (taken[format] or 0) + 1 else refusals = refusals + 1 end
    end
    for _, format in ipairs{ "flat", "boot", "elf", "multiboot" } do
      assert.is_true((taken[format] or 0) > images // 1000, format)
    end
    assert.is_true(refusals > images // 10)
  end)
end)

-- ---- into a VM ----

describe("a hostile image, loaded,", function()
  if support.without_kvm(pending) then return end

  local MODES <const> = { "protected", "long", "protected", "protected", "real" }

  ---What was changed in RAM lies where the plan says.
  local function check_ram(vm, before, size)
    local after = vm.memory:read(0, size)
    local image = require("minikvm.image").of(vm)[1]
    local ranges = {}
    for _, s in ipairs(image.plan.segments) do ranges[#ranges + 1] = { s.at, s.mem_bytes } end
    local info = image.plan.info
    if info then ranges[#ranges + 1] = { info.at, #info.bytes } end
    local cpu = vm.cpu[0]
    if vm.mode ~= "real" then ranges[#ranges + 1] = { cpu:sregs().gdt.base - 0x500, 0x1000 } end
    if vm.mode == "long" then ranges[#ranges + 1] = { cpu.rsp, cpu.cr3 + 0x1000 - cpu.rsp } end
    for _, r in ipairs(ranges) do
      local at, n = r[1], math.min(r[2], size - r[1])
      if n > 0 then
        after = after:sub(1, at) .. before:sub(at + 1, at + n) .. after:sub(at + n + 1)
      end
    end
    must(after == before, "a byte changed that is in no segment")
  end

  it("changes nothing in RAM but what it says", function()
    local loaded, size <const> = 0, 0x30000
    seed = 7
    for i = 1, 300 do
      local kind = i % 5 + 1
      local vm <close> = support.vm{ mode = MODES[kind], memory = "256K" }
      vm.memory:fill(0x1000, size - 0x1000, 0xa5)
      local before = vm.memory:read(0, size)
      if vm:load({ bytes = fuzzed(kind), name = "fuzz" }) then
        check_ram(vm, before, size)
        assert(vm:reset())
        loaded = loaded + 1
      else
        must(vm.memory:read(0, size) == before, "a refused image changed RAM")
      end
    end
    assert.is_true(loaded > 75, loaded)
  end)

  ---A file of this many bytes that begins with `head`; it takes no room on the disk.
  local function sparse(size, head)
    local path = process.temporary(head)
    local file = assert(io.open(path, "r+b"))
    local ok = file:seek("set", size - 1) and file:write "\0" and file:flush()
    file:close()
    return path, ok and lfs.attributes(path, "size") == size
  end

  it("may be a sparse file of terabytes: what of it is to be loaded counts", function()
    local huge <const> = 4 << 40
    local wide = make.elf(64)
    wide.p[1].filesz, wide.p[1].memsz, wide.p[1].offset = huge // 2, huge // 2, 0
    for _, case in ipairs{ { "", "real", "do not fit at 0x0" },
                           { "", "long", "do not fit at 0x1000" },
                           { make.bytes(wide), "long", "do not fit at 0x2000" },
                           { make.bytes(make.elf(64)), "long" },
                           { make.bytes(make.multiboot(true)), "protected" } } do
      local path, there = sparse(huge, case[1])
      local resident, descriptors = process.resident(), process.descriptors()
      if there then
        local vm <close> = support.vm{ mode = case[2] }
        local took = process.took(function()
          local ok, why, code = vm:load(path)
          assert.equal(case[3] == nil, ok ~= nil, why)
          if case[3] then
            assert.matches(case[3], why)
            assert.equal("EFBIG", code)
          end
        end)
        assert.is_true(took < process.SOON)
        assert.is_true(process.resident() - resident < 20 << 10)
      end
      os.remove(path)
      assert.equal(descriptors, process.descriptors())
    end
  end)

  it("takes no memory for the holes of its file", function()
    local path, there = sparse(48 << 20, "\xf4")
    local vm <close> = support.vm{ mode = "protected", memory = "64M" }
    local resident = process.resident()
    local loaded = vm:load(path)
    local took = process.resident() - resident
    os.remove(path)
    if not there then return pending "the file system keeps no holes" end
    if process.sanitized() then return pending "a sanitizer has memory for what is read" end
    assert.is_truthy(loaded)
    assert.is_true(took < 20 << 10, took .. " KiB")
    assert.equal("halt", (vm:run{ deadline = 20 }))
  end)

  it("is no FIFO, directory or device", function()
    local vm <close> = support.vm{ mode = "real" }
    local fifo = os.tmpname()
    os.remove(fifo)
    assert(os.execute("mkfifo " .. fifo))
    for path, words in pairs{ [fifo] = "not a regular file", ["/dev/null"] = "not a regular file",
                              spec = "it is a directory", ["/no/such"] = "No such file" } do
      local ok, why = vm:load(path)
      assert.is_nil(ok)
      assert.matches(words, why)
    end
    os.remove(fifo)
    assert.matches("the image is empty", select(2, vm:load{ bytes = "" }))
  end)
end)

describe("a large image", function()
  if support.without_kvm(pending) then return end

  local SIZE <const> = 3 << 20
  -- mov al, 'A'; out 0xe9, al; hlt
  local CODE <const> = support.bytes "b0 41 e6 e9 f4"

  local function large()
    return process.temporary(CODE .. ("x"):rep(SIZE - #CODE - 4) .. "last")
  end

  local function last(vm) return vm.memory:read(0x1000 + SIZE - 4, 4) end

  it("is read again for a reset, though its name is gone", function()
    local path, descriptors = large(), process.descriptors()
    do
      local vm <close> = support.vm{ mode = "protected", memory = "8M" }
      assert(vm:load(path))
      assert.equal("halt", (vm:run{ deadline = 20 }))
      os.remove(path)
      vm.memory:fill(0x1000, SIZE, 0xcc)
      assert(vm:reset())
      assert.equal("last", last(vm))
      assert.equal("halt", (vm:run{ deadline = 20 }))
      assert.equal("A", vm.console:text())
    end
    assert.equal(descriptors, process.descriptors())
  end)

  it("that was written to meanwhile ends no VM: the reset is refused", function()
    local path = large()
    local vm <close> = support.vm{ mode = "protected", memory = "8M" }
    assert(vm:load(path))
    local file <close> = assert(io.open(path, "ab"))
    file:write "more"
    file:flush()
    local ok, why, code = vm:reset()
    assert.is_nil(ok)
    assert.equal(path .. ": the file was written to since it was loaded: load it again, into a "
                 .. "new VM", why)
    assert.equal("ESTALE", code)
    assert.equal("last", last(vm))
    assert.equal("halt", (vm:run{ deadline = 20 }))
    os.remove(path)
  end)

  it("is forgotten when another one lies over it", function()
    local path = large()
    local vm <close> = support.vm{ mode = "protected", memory = "8M" }
    local descriptors = process.descriptors()
    for _ = 1, 5 do assert(vm:load(path)) end
    assert(vm:load({ bytes = "beside" }, { at = 0x1000 + SIZE }))
    assert.equal(descriptors + 1, process.descriptors())
    assert.equal(2, #require("minikvm.image").of(vm))
    assert(vm:reset())
    assert.same({ "last", "beside" }, { last(vm), vm.memory:read(0x1000 + SIZE, 6) })
    os.remove(path)
  end)

  it("that is refused leaves no descriptor", function()
    local path, descriptors = large(), process.descriptors()
    local vm <close> = support.vm{ mode = "protected", memory = "1M" }
    assert.is_nil((vm:load(path)))
    assert.is_nil((vm:load({ bytes = "\xf4" }, { modules = { path } })))
    vm:close()
    assert.equal(descriptors, process.descriptors())
    os.remove(path)
  end)
end)

