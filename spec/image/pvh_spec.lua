-- PVH kernels as plans: the note (Xen, public/elfnote.h; gABI, "Note Section"). What a guest sees
-- is in spec/guests/boot_guests_spec.lua, what becomes of damaged ones in hostile_boot_spec.lua.

local boot = require "support.boot"
local make = require "support.image"
local plan = require "minikvm.image.plan"
require "minikvm"

---An ELF file whose NOTE segment has these bytes.
local function kernel(bits, notes, align)
  local m = make.elf(bits)
  m.p[2].offset, m.p[2].filesz, m.p[2].align = boot.NOTE, #notes, align
  return boot.put(make.bytes(m), boot.NOTE, notes)
end

---A note, with name and value padded to a multiple of `step`.
local function note(name, kind, value, step)
  local bytes = ("<I4I4I4z"):pack(#name + 1, #value, kind, name)
  bytes = bytes .. ("\0"):rep(-#bytes % step) .. value
  return bytes .. ("\0"):rep(-#bytes % step)
end

describe("a kernel with a PVH note", function()
  it("is entered where the note says, whatever lies before it", function()
    for _, bits in ipairs{ 32, 64 } do
      for _, step in ipairs{ 4, 8 } do
        for _, format in ipairs{ "<I4", "<I8" } do
          local entry = note("Xen", 18, format:pack(make.TEXT_AT + 4), step)
          local bytes = kernel(bits, note("GNU", 3, ("b"):rep(20), step)
                                 .. note("Linux", 18, "abcd", step)
                                 .. note("Xen", 5, "text", step) .. entry, step)
          assert.equal("pvh", plan.detect(make.source(bytes), make.wants(32)))
          local made = assert(make.plan(bytes, make.wants(32)))
          assert.equal(make.TEXT_AT + 4, made.entry)
          assert.equal(("<I4I4"):pack(0x336ec578, 1), made.info.bytes:sub(1, 8))
        end
      end
    end
  end)

  it("is an ordinary ELF file without that note", function()
    for _, notes in ipairs{ note("GNU", 18, "abcd", 4), note("Xen", 17, "abcd", 4),
                            note("Xen", 18, "abc", 4), note("Xen", 18, "abcd", 4):sub(1, -2) } do
      assert.equal("elf", plan.detect(make.source(kernel(32, notes, 4)), make.wants(32)))
    end
  end)
end)
