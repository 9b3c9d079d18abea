-- Framebuffers: vm:screen() of a VM with one, what snapshots keep, options of vm:load and minikvm
-- run.

local kvm = require "minikvm"
local program = require "support.program"
local support = require "support.guest"

---Width, height and the rows of a PNG without filters: red, green and blue of each pixel.
local function decode(png)
  local core = require "minikvm.core"
  assert.equal("\x89PNG\r\n\x1a\n", png:sub(1, 8))
  local width, height, depth, kind = (">I4I4BB"):unpack(png, 17)
  assert.same({ 8, 2 }, { depth, kind })
  local at = png:find("IDAT", 1, true)
  local bytes = core.inflate(png:sub(at + 4, at + 3 + (">I4"):unpack(png, at - 4)), 64 << 20)
  assert.equal((width * 3 + 1) * height, #bytes)
  local rows = {}
  for y = 0, height - 1 do
    local from = y * (width * 3 + 1) + 1
    assert.equal(0, bytes:byte(from))
    rows[y] = bytes:sub(from + 1, from + width * 3)
  end
  return width, height, rows
end

describe("a framebuffer", function()
  if support.without_kvm(pending) then return end

  local function loaded(width, height)
    local vm = support.vm()
    assert(vm:load("guests/boot/multiboot2.elf", {
      framebuffer = { width = width, height = height } }))
    return vm
  end

  it("is the picture that screen:png() makes, with each pixel as large as wanted", function()
    local vm <close> = loaded(5, 3)
    vm.memory:write(0xe0000000 + 4 * 7, "\x01\x02\x03\xff") -- column 2, row 1: blue, green, red
    for _, scale in ipairs{ 1, 3 } do
      local width, height, rows = decode(assert(vm:screen():png(nil, { scale = scale })))
      assert.same({ 5 * scale, 3 * scale }, { width, height })
      assert.equal(("\3\2\1"):rep(scale), rows[scale]:sub(2 * 3 * scale + 1, 3 * 3 * scale))
      assert.equal(rows[scale], rows[2 * scale - 1])
      assert.equal(("\0"):rep(15 * scale), rows[0])
    end
    local path = os.tmpname()
    assert.is_true(vm:screen():png(path))
    assert.equal(vm:screen():png(), support.read_file(path))
    os.remove(path)
    assert.same({ 3, 2, 1 }, { vm:screen():pixel(2, 1) })
    assert.error_matches(function() vm:screen():pixel(5, 0) end, "x is 0 to 4, got 5")
  end)

  it("is in snapshots, forks and files", function()
    local vm <close> = loaded(16, 16)
    assert.equal("halt", (support.run(vm)))
    local snap = assert(vm:snapshot())
    vm.memory:fill(0xe0000000, 1024)
    assert(vm:restore(snap))
    assert.same({ 255, 0, 0 }, { vm:screen():pixel(0, 0) })
    local path = os.tmpname()
    assert(snap:save(path))
    local fork, saved = assert(vm:fork()), assert(kvm.load_snapshot(path))
    for _, other in ipairs{ fork, assert(saved:vm{ echo = false }) } do
      assert.same({ 16, 16 }, { other:screen():size() })
      assert.same({ 255, 255, 255 }, { other:screen():pixel(15, 15) })
      other:close()
    end
    os.remove(path)
  end)

  it("may be one that a script maps, named by its size", function()
    local vm <close> = support.vm{ memory = "64K" }
    assert.error_matches(function() vm:screen() end, "it has no framebuffer")
    local handle = vm.memory:map{ at = 0x200000, size = "4K", name = "framebuffer 32x32" }
    assert.same({ 32, 32 }, { vm:screen():size() })
    handle:remove()
    for _, name in ipairs{ "framebuffer 33x32", "framebuffer 0x1", "framebuffer 99999x1",
                           "framebuffer 99999999999999999999x1" } do
      local wrong = vm.memory:map{ at = 0x200000, size = "4K", name = name }
      assert.error_matches(function() vm:screen() end, "it has no framebuffer", nil, false, name)
      wrong:remove()
    end
  end)

  it("is another one after another load, and none of a kernel's RAM", function()
    local vm <close> = loaded(16, 16)
    assert(vm:load("guests/boot/multiboot2.elf", { framebuffer = { width = 8, height = 8 } }))
    assert.same({ 8, 8 }, { vm:screen():size() })
    assert.equal(2, #vm.memory:regions())
    assert.equal("halt", (support.run(vm)))
    assert.not_matches("memory 0xe", (vm.console:text()))
    local fork <close> = assert(vm:fork())
    local done, why, code = fork:load("guests/boot/multiboot2.elf", { framebuffer = { width = 9 } })
    assert.same({ nil, "EEXIST" }, { done, code })
    assert.matches("the VM has a framebuffer of 8 x 8 pixels", why)
  end)

  it("is the one before after a load for which there is no room", function()
    local vm <close> = loaded(8, 8)
    vm.memory:map{ at = 0xe0100000, size = 4096 }
    local done, why, code = vm:load("guests/boot/multiboot2.elf", {
      framebuffer = { width = 1024, height = 768 } })
    assert.same({ nil, "EEXIST" }, { done, code }, why)
    assert.same({ 8, 8 }, { vm:screen():size() })
    assert(vm:load("guests/boot/multiboot2.elf", { framebuffer = { width = 4, height = 4 } }))
    assert.same({ 4, 4 }, { vm:screen():size() })
  end)

  it("is not there after a load that was refused", function()
    local vm <close> = support.vm{ memory = "8M" }
    vm.memory:map{ at = 0xe0000000, size = "4K", name = "mine" }
    local done, why = vm:load("guests/boot/limine.elf")
    assert.is_nil(done)
    assert.matches("its framebuffer: .*mine", why)
    local other <close> = support.vm{ memory = "8M" }
    assert.is_nil((other:load("guests/boot/limine.elf", { entry = "nothing" })))
    assert.equal(1, #other.memory:regions())
    assert(other:load("guests/boot/limine.elf"))
  end)

  it("has a size that makes sense, and a kernel that is told of it", function()
    local vm <close> = support.vm()
    for _, size in ipairs{ { width = 0 }, { width = 8193 }, { height = 1.5 },
                           { width = 8192, height = 8192 },
                           { depth = 32 }, true, "1024x768" } do
      assert.error_matches(function()
        vm:load("guests/boot/limine.elf", { framebuffer = size })
      end, "vm:load: .*framebuffer")
    end
    for _, image in ipairs{ "boot/pvh.elf", "long/hello.bin" } do
      local done, why = vm:load("guests/" .. image, { framebuffer = {} })
      assert.is_nil(done)
      assert.matches("framebuffer= is for Multiboot and Limine kernels", why)
    end
  end)

  it("and modules are options of minikvm run", function()
    local path = os.tmpname()
    local file <close> = assert(io.open(path, "wb"))
    file:write "twelve bytes"
    file:close()
    local r = program.run(("P run --framebuffer 20x10 --module %s='a text' --cmdline 'x y' "
                           .. "guests/boot/multiboot2.elf"):format(path))
    assert.same({ 0, "" }, { r.status, r.err })
    for _, text in ipairs{ 'command line "x y"', 'module "a text"\n  bytes 0xc',
                           "width 0x14\n  height 0xa" } do
      assert.is_truthy(r.out:find(text, 1, true), r.out)
    end
    local picture = path .. ".png"
    r = program.run(("P run --screenshot %s guests/boot/multiboot2.elf"):format(picture))
    assert.same({ 0, "" }, { r.status, r.err })
    local width, height = decode(support.read_file(picture))
    assert.same({ 64, 48 }, { width, height })
    os.remove(picture)
    r = program.run("P run --screenshot /no/such/picture.png guests/boot/multiboot2.elf")
    assert.equal(1, r.status)
    assert.matches("/no/such/picture.png", r.err)
    r = program.run("P run --screenshot x guests/boot/pvh.elf guests/boot/pvh.elf")
    assert.equal(2, r.status)
    assert.matches("%-%-screenshot is for one image", r.err)
    r = program.run("P run --framebuffer none guests/boot/multiboot2.elf")
    assert.equal(0, r.status)
    assert.not_matches("framebuffer", r.out)
    r = program.run "P run --framebuffer 20 guests/boot/multiboot2.elf"
    assert.equal(2, r.status)
    assert.matches("expected a width and a height such as 1024x768, or none", r.err)
    os.remove(path)
  end)
end)
