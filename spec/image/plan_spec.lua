-- What an image is taken for, and where flat images and boot sectors go: as plans, without a VM.
-- What guests see of them is in image_spec.lua.

local make = require "support.image"
require "minikvm"
local plan = require "minikvm.image.plan"

local RAM <const> = make.RAM

local function fits(image, want)
  local made, why = make.plan(image, want)
  assert(made, why)
  return made
end

local function refused(image, want, words, code)
  local made, why, name = make.plan(image, want)
  assert.is_nil(made, "taken, without: " .. words)
  assert(why:find(words, 1, true), ("wanted %q, got %q"):format(words, why))
  if code then assert.equal(code, name) end
end

describe("the format of an image", function()
  local function detect(bytes, bits, paging)
    local want = make.wants(bits, { paging = paging or false })
    return plan.detect(make.source(bytes), want)
  end

  it("is told by its first bytes", function()
    local elf = make.bytes(make.elf(64))
    assert.equal("elf", detect(elf, 64, true))
    assert.equal("elf", detect(elf:sub(1, 4), 16)) -- the magic number is enough
    assert.equal("flat", detect(elf:sub(1, 3), 16))
    assert.equal("flat", detect("\x7f", 64, true))
  end)

  it("is Multiboot where the header can be followed and the mode is right", function()
    local bytes = make.bytes(make.multiboot(false))
    assert.equal("multiboot", detect(bytes, 32))
    assert.equal("elf", detect(bytes, 32, true))
    assert.equal("flat", detect("\0" .. bytes:sub(2), 32)) -- no address fields and no ELF
    bytes = "\0" .. make.bytes(make.multiboot(true)):sub(2)
    assert.equal("multiboot", detect(bytes, 32))
    assert.equal("flat", detect(bytes:sub(1, make.HEADER + 31), 32)) -- cut short
    local at = make.HEADER + 9
    local wrong = bytes:sub(1, at - 1) .. string.char(bytes:byte(at) ~ 1) .. bytes:sub(at + 1)
    assert.equal("flat", detect(wrong, 32)) -- its checksum
    assert.equal("flat", detect("\0\0" .. bytes:sub(1, -3), 32)) -- not on a boundary of 4 bytes
  end)

  it("is a boot sector for 512 bytes with the signature, in real mode", function()
    local sector = ("\0"):rep(510) .. "\x55\xaa"
    assert.equal("boot", detect(sector, 16))
    assert.equal("flat", detect(sector, 32))
    assert.equal("flat", detect(sector .. sector, 16))
    assert.equal("flat", detect(("\0"):rep(510) .. "\x55\xab", 16))
  end)

  it("tells the mode, where it tells one", function()
    local function mode(bytes) return { plan.mode(make.source(bytes)) } end
    local sector = ("\0"):rep(510) .. "\x55\xaa"
    assert.same({ "protected" }, mode(make.bytes(make.multiboot(true))))
    assert.same({ "real", "boot" }, mode(sector))
    assert.same({ "real", "boot" }, mode(sector .. ("\0"):rep(1474560 - 512))) -- a floppy disk
    assert.same({}, mode(sector .. "x"))
    assert.same({}, mode "\xf4")
  end)

  it("of a Linux kernel is for 64 bits", function() -- Documentation/arch/x86/boot.rst
    local bytes = ("\0"):rep(510) .. "\x55\xaa" .. "\xeb\x66HdrS" .. ("\0"):rep(4096)
    for _, bits in ipairs{ 16, 32 } do
      refused(bytes, make.wants(bits), "a Linux kernel (bzImage) starts in 64-bit mode", "EINVAL")
    end
    assert.equal("flat", fits(bytes, make.wants(32, { format = "flat" })).format)
  end)

  it("is none that can be loaded: disks that are no raw images, what is packed, an initramfs",
     function()
    for bytes, words in pairs{
      ["QFI\xfb"] = "format qcow2: qemu-img convert -O raw", -- QEMU, docs/interop/qcow2.txt
      ["KDMV"] = "format VMDK", ["vhdxfile"] = "format VHDX",
      [("\0"):rep(0x40) .. "\x7f\x10\xda\xbe"] = "format VDI",
      ["\xfd7zXZ\0"] = "packed with xz", ["\x28\xb5\x2f\xfd"] = "packed with zstd", -- RFC 8878
      ["070701"] = "minikvm linux --initrd", -- cpio(5)
    } do
      bytes = bytes .. ("\xf4"):rep(100)
      for _, bits in ipairs{ 16, 32, 64 } do
        refused(bytes, make.wants(bits), words, "ENOEXEC")
        assert.equal("flat", fits(bytes, make.wants(bits, { format = "flat" })).format)
      end
      if bytes:byte() ~= 0 then fits(bytes:sub(2), make.wants(16)) end
    end
  end)

  it("of a boot sector or a disk is refused outside real mode, with the way out", function()
    local sector = ("\0"):rep(510) .. "\x55\xaa"
    for _, bytes in ipairs{ sector, sector .. ("\0"):rep(1474560 - 512) } do
      for _, bits in ipairs{ 32, 64 } do
        refused(bytes, make.wants(bits), 'mode="real" (minikvm run: --mode real); format="flat"')
        assert.equal("flat", fits(bytes, make.wants(bits, { format = "flat" })).format)
        assert.equal("flat", fits(bytes, make.wants(bits, { has_at = true })).format)
      end
    end
  end)

  it("of a Multiboot kernel is refused in modes that are not its own, with the way out", function()
    local bytes = "\0" .. make.bytes(make.multiboot(true)):sub(2)
    for _, mode in ipairs{ "real", "paged", "long" } do
      local bits = mode == "real" and 16 or mode == "paged" and 32 or 64
      local want = make.wants(bits, { mode = mode, paging = mode ~= "real" })
      refused(bytes, want, 'mode="protected" (minikvm run: --mode protected); format="flat"')
    end
  end)
end)

describe("a flat image", function()
  it("goes where it is wanted and starts there", function()
    local want = make.wants(32, { mode = "paged", paging = true, has_at = true, at = 0x1000,
                                  entry = 0x80001000 })
    local made = fits("abc", want)
    assert.same({ 0x1000, 0x80001000, 3 }, { made.segments[1].at, made.entry,
                                             made.segments[1].mem_bytes })
    for _, at in ipairs{ RAM - 2, RAM, -1, -3 } do
      want.at = at
      refused("abc", want, "do not fit", "EFBIG")
    end
  end)
end)

describe("a boot sector", function()
  local DISK <const> = "\xf4" .. ("\0"):rep(509) .. "\x55\xaa" .. ("\x11"):rep(512)

  it("starts at 0:0x7c00 with the drive in DL", function()
    local made = fits(DISK, make.wants(16, { format = "boot" }))
    assert.same({ 0, 0x7c00, { edx = 0x80 } }, { made.cs, made.entry, made.regs })
    assert.same({ { at = 0x7c00, linear = 0x7c00, offset = 0, file_bytes = 512, mem_bytes = 512 } },
                made.segments)
    local floppy = DISK:sub(1, 512) .. ("\0"):rep(1474560 - 512)
    assert.equal(0, fits(floppy, make.wants(16, { format = "boot" })).regs.edx) -- drive A:
  end)

  it("needs real mode, RAM and a signature", function()
    local want = make.wants(32, { format = "boot" })
    refused(DISK, want, "real mode", "EINVAL")
    refused(DISK, make.wants(16, { format = "boot", limit = 0x7dff }), "do not fit", "EFBIG")
    for _, bytes in ipairs{ DISK:sub(1, 510), DISK:sub(1, 511), DISK:sub(1, 510) .. "\0\xaa" } do
      refused(bytes, make.wants(16, { format = "boot" }), "signature", "ENOEXEC")
    end
  end)
end)

-- ---- what minikvm keeps in RAM ----

---A page with something in its bytes from 0x500 on, and a page above.
local function blocks()
  return { { what = "the low tables", at = 0, from = 0x500, to = 0x1000, usual = 0, limit = RAM },
           { what = "the directory", at = 0x100000, from = 0, to = 0x1000, usual = 0x100000,
             limit = RAM } }
end

describe("tables of the mode", function()
  ---Where they are after an image of `size` bytes at `at`.
  local function places(at, size, more)
    local want = make.wants(64, more or {})
    want.at, want.has_at, want.blocks = at, true, want.blocks or blocks()
    local made, why = make.plan(("x"):rep(size), want)
    return made and { want.blocks[1].at, want.blocks[2].at } or why
  end

  it("stay where nothing touches them", function()
    assert.same({ 0, 0x100000 }, places(0, 0x500))
    assert.same({ 0, 0x100000 }, places(0x1000, 0xff000))
    assert.same({ 0, 0x100000 }, places(0x101000, 0x1000))
  end)

  it("give way to an image, one by one", function()
    assert.same({ 0x9f000, 0x100000 }, places(0, 0x501))
    assert.same({ 0x9f000, 0x100000 }, places(0xfff, 1))
    assert.same({ 0, 0x9f000 }, places(0x100fff, 1))
    assert.same({ 0, 0x9f000 }, places(0xff000, 0x1001))
    assert.same({ 0x3ef000, 0x3ee000 }, places(0, 0x200000)) -- below 64 KiB for the stack
    assert.same({ 0x3ff000, 0x3fe000 }, places(0, 0x3fe000))
    local small = { { what = "low", at = 0, from = 0x500, to = 0x1000, usual = 0,
                      limit = 0x10000 } }
    fits(("x"):rep(0x1000), make.wants(32, { at = 0, has_at = true, blocks = small,
                                             limit = 0x10000 }))
    assert.equal(0xb000, small[1].at) -- a quarter of RAM is left for the stack
  end)

  it("do not move onto an earlier image, and come back when they can", function()
    local busy = { { at = 0x9f000, mem_bytes = 0x501 } }
    assert.same({ 0x9e000, 0x100000 }, places(0, 0x1000, { busy = busy }))
    local moved = blocks()
    moved[1].at = 0x9f000
    assert.same({ 0, 0x100000 }, places(0x9f800, 1, { blocks = moved }))
  end)

  it("need room", function()
    assert.matches("it leaves no room in RAM for the directory", places(0, RAM - 0x1000))
    assert.matches("it leaves no room in RAM for the low tables", places(0, RAM))
  end)
end)
