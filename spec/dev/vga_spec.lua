-- The VGA's text screen, and vm:screen() as a picture: what a guest writes to video memory and
-- registers, and which pixels come of it.

local kvm = require "minikvm"
local core = require "minikvm.core"
local font = require "minikvm.console.font"
local png = require "minikvm.console.png"
local process = require "support.process"
local support = require "support.guest"
local vga = require "minikvm.devices.vga"

local BASE <const> = 0xb8000

---The chunks of a PNG file, their checksums checked.
local function chunks(bytes)
  assert.equal("\x89PNG\r\n\x1a\n", bytes:sub(1, 8))
  local list, at = {}, 9
  while at <= #bytes do
    local length, kind = (">I4c4"):unpack(bytes, at)
    local data = bytes:sub(at + 8, at + 7 + length)
    assert.equal(core.crc32(kind .. data), ((">I4"):unpack(bytes, at + 8 + length)))
    list[#list + 1] = { kind, data }
    at = at + 12 + length
  end
  return list
end

---Decodes a picture of ours: its size, and a function(x, y) -> "rrggbb".
local function decode(bytes)
  local list = chunks(bytes)
  local width, height = (">I4I4"):unpack(list[1][2])
  local pixels = assert(core.inflate(list[3][2], (width + 1) * height))
  assert.equal((width + 1) * height, #pixels)
  return width, height, function(x, y)
    local place = pixels:byte(y * (width + 1) + x + 2)
    return ("%02x%02x%02x"):format(list[2][2]:byte(place * 3 + 1, place * 3 + 3))
  end
end

describe("png", function()
  it("has the chunks of a picture with a palette", function()
    local picture = png.encode(3, 2, { { 1, 2, 3 }, { 255, 0, 128 } }, { "\0\1\0", "\1\1\1" })
    local list = chunks(picture)
    assert.same({ "IHDR", "\0\0\0\3\0\0\0\2\8\3\0\0\0" }, list[1])
    assert.same({ "PLTE", "\1\2\3\xff\0\x80" }, list[2])
    assert.same({ "IEND", "" }, list[4])
    local width, height, pixel = decode(picture)
    assert.same({ 3, 2, "010203", "ff0080", "010203", "ff0080" },
                { width, height, pixel(0, 0), pixel(1, 0), pixel(2, 0), pixel(0, 1) })
  end)
end)

---A PSF 1 font of 256 glyphs of 8 x 2 pixels: glyph n has the lines n and 255 - n.
local function psf1(unicode)
  local glyphs, list = {}, {}
  for i = 0, 255 do
    glyphs[#glyphs + 1] = string.char(i, 255 - i)
    list[#list + 1] = ("<I2I2"):pack(unicode and unicode(i) or i, 0xffff)
  end
  return "\x36\x04" .. string.char(unicode and 2 or 0, 2) .. table.concat(glyphs)
    .. (unicode and table.concat(list) or "")
end

---A PSF 2 font of two glyphs of 9 x 1 pixels, and other headers.
local function psf2(o)
  o = o or {}
  return "\x72\xb5\x4a\x86"
    .. ("<I4I4I4I4I4I4I4"):pack(o.version or 0, o.header or 32, o.flags or 1, o.count or 2,
                                o.size or 2, o.height or 1, o.width or 9)
    .. "\x80\x80\x55\x00" .. (o.table or "A\xc3\xa4\xff?\xfeee\xff")
end

describe("font", function()
  it("reads PSF 1, with and without a Unicode table", function()
    local f = assert(font.parse(psf1()))
    assert.same({ 8, 2, 256 }, { f.width, f.height, f.count })
    assert.equal(200, f:glyph(0x263a, 200)) -- without a table: as in code page 437
    assert.same({ 200, 55 }, { f:row(200, 0), f:row(200, 1) })
    f = assert(font.parse(psf1(function(i) return i ~= 0x3f and i + 1000 or 0x3f end)))
    assert.equal(65, f:glyph(1065, 0))
    assert.equal(0x3f, f:glyph(0x263a, 1)) -- a question mark for what it lacks
  end)

  it("reads PSF 2", function()
    local f = assert(font.parse(psf2()))
    assert.same({ 9, 1, 2 }, { f.width, f.height, f.count })
    assert.same({ 0, 0, 1 }, { f:glyph(0x41, 0), f:glyph(0xe4, 0), f:glyph(0x3f, 0) })
    assert.same({ 0x101, 0xaa }, { f:row(0, 0), f:row(1, 0) })
  end)

  it("refuses what is no font, or a damaged one, and says why", function()
    local whole1, whole2 = psf1(function(i) return i end), psf2()
    for bytes, why in pairs{
      [""] = "no PSF font", ["\x36"] = "no PSF font", ["\x36\x04\0"] = "ends in its header",
      ["\x36\x04\0\0"] = "glyphs of 8 x 0", ["\x36\x04\0\65"] = "glyphs of 8 x 65",
      [psf1():sub(1, -2)] = "before its last glyph", [whole1:sub(1, -2)] = "table ends too early",
      [whole2:sub(1, 31)] = "ends in its header", [whole2:sub(1, -2)] = "table ends too early",
      [psf2{ version = 1 }] = "version 1", [psf2{ header = 31 }] = "header of 31 bytes",
      [psf2{ header = 1 << 31 }] = "header of 2147483648", [psf2{ count = 0 }] = "0 glyphs",
      [psf2{ count = 0xffffffff }] = "4294967295 glyphs",
      [psf2{ count = 3000 }] = "before its last",
      [psf2{ size = 1 }] = "has 1 bytes, not 2", [psf2{ width = 0 }] = "0 x 1 pixels",
      [psf2{ width = 0xffffffff, size = 0 }] = "4294967295 x 1", [psf2{ height = 65 }] = "9 x 65",
      [psf2{ table = "\xc3\xff?\xff" }] = "no UTF%-8 for glyph 0",
      ["\x1f\x8b"] = "damaged", ["\x1f\x8b" .. ("x"):rep(100)] = "damaged",
      [("x"):rep(5 << 20)] = "more than 4 MiB",
    } do
      local f, what = font.parse(bytes)
      assert.is_nil(f)
      assert.matches(why, what)
    end
  end)

  it("refuses any part of a font, and takes or refuses any change to it", function()
    local whole = psf2()
    for i = 0, #whole - 1 do
      assert.is_nil((font.parse(whole:sub(1, i))))
      for _, byte in ipairs{ 0, 1, 0x7f, 0xff } do
        local f = font.parse(whole:sub(1, i) .. string.char(byte) .. whole:sub(i + 2))
        if f then assert.is_number(f:row(f.count - 1, f.height - 1)) end
      end
    end
  end)

  it("names the file, and the package when there is none", function()
    local path = process.temporary "no font"
    local f, why, code = font.load(path)
    os.remove(path)
    assert.same({ nil, path .. ": it is no PSF font", "EINVAL" }, { f, why, code })
    f, why, code = font.load(path)
    assert.is_nil(f)
    assert.equal("ENOENT", code)
    assert.matches(path, why, 1, true)
    local out = process.run [[
      io.open = function() return nil, "nothing", 2 end
      print(require("minikvm.console.font").load())
    ]]
    assert.matches("console%-data %(make deps installs it%); or name one with font = PATH\tENOENT",
                   out)
  end)
end)

describe("vga", function()
  if support.without_kvm(pending) then return end
  assert(kvm.device)

  ---OUT of an index and its register's value at once.
  local function crtc(index, value) return support.out(0x3d4, index | value << 8, 2) end

  local function card(parts, opts)
    local vm = support.program(parts, opts)
    return vm, vm:attach(vga.new(), { ports = 0x3c0 })
  end

  local function run(vm)
    local reason, info = support.run(vm)
    assert.equal("halt", reason, info.text)
  end

  ---mov ax, 0xb800; mov ds, ax; mov word [at], value - and back to DS = 0
  local function cell(at, value)
    return ("<BI2I2I2I2I2I2I2"):pack(0xb8, 0xb800, 0xd88e, 0x06c7, at, value, 0xc031, 0xd88e)
  end

  it("has a cursor that moves, changes shape and goes off", function()
    local vm <close> = card{ crtc(0x0e, 0), crtc(0x0f, 85), crtc(0x0a, 0), crtc(0x0b, 15) }
    local screen = vm:screen()
    assert.same({ 0, 0, 13, 14 }, { screen:cursor() })
    run(vm)
    assert.same({ 5, 1, 0, 15 }, { screen:cursor() })
    vm.memory:write(BASE + 160, "H\7e\7l\7l\7o\7")
    assert.equal("Hello", screen:row(1))
    assert.equal("\nHello_" .. ("\n"):rep(23), screen:text{ cursor = "_" })
    local offs = { crtc(0x0a, 0x20), crtc(0x0a, 0x0f) .. crtc(0x0b, 0x0e), crtc(0x0e, 0x08) }
    for _, off in ipairs(offs) do
      local other <close> = card{ off }
      run(other)
      assert.same({}, { other:screen():cursor() })
      assert.equal(0, #other:screen():text{ cursor = "_" }:gsub("\n", ""))
    end
  end)

  it("scrolls by its start address, and begins again where video memory ends", function()
    local vm <close> = card{ crtc(0x0c, 0), crtc(0x0d, 80), crtc(0x0f, 81) }
    vm.memory:fill(BASE, 0x8000)
    vm.memory:write(BASE + 160, "A\7B\7")
    vm.memory:write(BASE + 0x7ffe, "Z\7")
    run(vm)
    local screen = vm:screen()
    assert.equal("AB", screen:row(0))
    assert.same({ 1, 0, 13, 14 }, { screen:cursor() })
    local last <close> = card{ crtc(0x0c, 0x3f), crtc(0x0d, 0xff) }
    last.memory:fill(BASE, 0x8000)
    last.memory:write(BASE, "a\7")
    last.memory:write(BASE + 0x7ffe, "Z\7")
    run(last)
    assert.equal("Za", last:screen():row(0))
    assert.equal(string.byte "a", last:screen():cell(1, 0).code)
  end)

  it("needs no RAM at 0xb8000", function()
    for _, memory in ipairs{ "64K", "736K", "752K" } do -- none of it, all of 0xb8000, half of it
      local vm <close>, d = card({ cell(0, 0x1f41), cell(158, 0x4e42), cell(0x7ffe, 0x075a),
                                   crtc(0x0d, 0) }, { memory = memory })
      run(vm)
      local screen = vm:screen()
      assert.equal("A" .. (" "):rep(78) .. "B", screen:row(0))
      assert.same({ char = "B", code = 66, fg = 14, bg = 4, blink = false }, screen:cell(79, 0))
      assert.equal("Z\7", vga.video(d, 0x7ffe, 2))
      d:detach()
      if memory ~= "752K" then
        assert.error_matches(function() vm:screen() end, "minikvm.devices.vga is attached")
      end
    end
  end)

  it("is waited for without RAM, and when it scrolls", function()
    local vm <close> = card({ cell(0, 0x0741), cell(160, 0x0742), crtc(0x0d, 80),
                              support.bytes "eb fe" }, { memory = "64K" }) -- spins
    assert.same({ 1, "B" }, { vm:screen():expect("^B", { timeout = 20 }) })
    local ram <close> = card{ cell(0, 0x0741), cell(160, 0x0742), support.out(0x80, 1, 1),
                              crtc(0x0d, 80), support.bytes "eb fe" }
    ram:start{ deadline = 30 }
    assert.same({ 1, "B" }, { ram:screen():expect("^B", { timeout = 20 }) })
  end)

  it("tells who waits for a retrace that it begins and ends", function()
    local vm <close> = card{ support.bytes [[
      ba da 03   ; mov dx, 0x3da
      ec         ; in al, dx
      a8 08      ; test al, 8
      74 fb      ; jz
      ec         ; in al, dx
      a8 08      ; test al, 8
      75 fb      ; jnz
    ]] }
    run(vm)
  end)

  it("keeps what is written to its registers, and answers all of its ports", function()
    local parts = { crtc(0x0e, 3), support.out(0x3d4, 0x0e), support.into(0x8000, 0x3d5, 1),
                    support.out(0x3d4, 0xff), support.out(0x3d5, 1), support.into(0x8001, 0x3d5, 1),
                    support.out(0x3c2, 0xe3), support.into(0x8002, 0x3cc, 1) }
    for port = 0x3c0, 0x3df do
      for _, value in ipairs{ 0xff, 0x00, 0x5a } do
        parts[#parts + 1] = support.out(port, value)
        parts[#parts + 1] = support.into(0x8004, port, 1)
      end
      parts[#parts + 1] = support.into(0x8004, port, 4)
    end
    local vm <close> = card(parts)
    run(vm)
    assert.same({ 3, 0, 0xe3 }, { vm.memory:read(0x8000, 3):byte(1, 3) })
    assert.is_string(vm:screen():text{ cursor = "_" })
    assert.equal(16, #vga.palette(vga.of(vm)))
  end)

  ---Where distributions bring no console font, what needs it is skipped.
  local function without_font()
    local f, why = font.load()
    if not f then pending("needs a console font: " .. why) end
    return not f
  end

  it("is a picture of characters, 16 colours and a cursor", function()
    if without_font() then return end
    local vm <close> = card{ crtc(0x0f, 2), crtc(0x0a, 14), crtc(0x0b, 15) }
    vm.memory:fill(BASE, 4000)
    vm.memory:write(BASE, "\xdb\x1e\xdc\x4f \x02") -- full block, lower half, blank under the cursor
    run(vm)
    local bytes, why = vm:screen():png()
    local width, height, pixel = decode(assert(bytes, why))
    assert.same({ 640, 400 }, { width, height })
    assert.same({ "ffff55", "ffff55" }, { pixel(0, 0), pixel(7, 15) })
    assert.same({ "aa0000", "ffffff" }, { pixel(8, 0), pixel(15, 15) })
    assert.same({ "000000", "00aa00", "00aa00" }, { pixel(16, 13), pixel(16, 14), pixel(23, 15) })
    assert.same({ "000000", "000000" }, { pixel(24, 15), pixel(639, 399) })
    local _, _, without = decode(assert(vm:screen():png(nil, { cursor = false })))
    assert.equal("000000", without(16, 15))
    local wide, high, large = decode(assert(vm:screen():png(nil, { scale = 2 })))
    assert.same({ 1280, 800, "ffff55", "aa0000" }, { wide, high, large(15, 31), large(16, 0) })
  end)

  it("shows the guest's own palette, and bright backgrounds when nothing blinks", function()
    if without_font() then return end
    local vm <close> = card{
      support.out(0x3c8, 0x3f), support.out(0x3c9, 0x3f), support.out(0x3c9, 0x20),
      support.out(0x3c9, 0), -- white becomes orange
      support.into(0x8000, 0x3da, 1), support.out(0x3c0, 0x10), support.out(0x3c0, 0x04),
      support.out(0x3c0, 0x01), support.out(0x3c0, 0x02), support.out(0x3c0, 0x20), -- blue: green
    }
    vm.memory:fill(BASE, 4000)
    vm.memory:write(BASE, " \xf0\xdb\x01")
    run(vm)
    assert.same({ char = " ", code = 32, fg = 0, bg = 15, blink = false }, vm:screen():cell(0, 0))
    local _, _, pixel = decode(assert(vm:screen():png()))
    assert.same({ "ff8100", "00aa00" }, { pixel(0, 0), pixel(8, 0) })
  end)

  it("draws with another font, whose glyphs may have any size", function()
    local path, out = process.temporary(psf1()), os.tmpname()
    local vm <close> = support.program{}
    vm.memory:fill(BASE, 4000)
    vm.memory:write(BASE, "\xf0\7")
    assert.is_true(vm:screen():png(out, { font = path }))
    local width, height, pixel = decode(support.read_file(out))
    assert.same({ 640, 50, "aaaaaa", "000000", "000000", "aaaaaa" },
                { width, height, pixel(0, 0), pixel(4, 0), pixel(0, 1), pixel(4, 1) })
    os.remove(out)
    local ok, why, code = vm:screen():png(out .. "/no/picture.png", { font = path })
    os.remove(path)
    assert.same({ nil, "ENOENT" }, { ok, code })
    assert.matches("picture.png", why)
    assert.same({ nil, "ENOENT" }, { vm:screen():png(nil, { font = out .. ".psf" }), code })
    assert.error_matches(function() vm:screen():png(nil, { scale = 9 }) end, "1 to 8")
    assert.error_matches(function() vm:screen():png(7) end, "'path': expected a string")
  end)

  it("has a font with all of code page 437", function()
    if without_font() then return end
    local f = assert(font.load())
    local vm <close> = support.program{}
    for code = 0, 255 do vm.memory:u16(BASE + 2 * code, code) end
    local screen, question = vm:screen(), f:glyph(0x3f, 0x3f)
    for code = 1, 255 do
      local point = utf8.codepoint(screen:cell(code % 80, code // 80).char)
      assert.is_true(code == 0x3f or f:glyph(point, code) ~= question, code)
    end
  end)

  it("is as new after a reset, and as it was after going back to a snapshot", function()
    local vm <close>, d = card({ crtc(0x0f, 7), cell(0, 0x0741), cell(0x7ffe, 0x075a) },
                               { memory = "64K" })
    run(vm)
    local snapshot = assert(vm:snapshot())
    assert(vm:reset())
    assert.same({ 0, 0, 13, 14 }, { vm:screen():cursor() })
    assert.equal("", vm:screen():row(0))
    assert(vm:restore(snapshot))
    assert.same({ 7, 0, 13, 14 }, { vm:screen():cursor() })
    assert.equal("A", vm:screen():row(0))
    assert.equal("Z", vga.video(d, 0x7ffe, 1))
    local ram <close>, other = card{ crtc(0x0f, 7) }
    other:detach()
    assert.is_nil((ram:screen():cursor()))
  end)
end)
