-- The kernels in guests/boot: what their loader told them is what the boot protocols say, on every
-- KVM. All are given the same command line and modules. Headers of an .expect, besides those that
-- guests/real has:
--   image        the file's name
--   memory       RAM; that of the format by default
--   framebuffer  its size; the guest draws four fields: red, green, blue, white

local lfs = require "lfs"
local support = require "support.guest"

local LINE <const> = "root=1 quiet"
local MODULES <const> = { { bytes = "first module", name = "a", text = "a first" },
                          { bytes = ("x"):rep(5000), name = "/dir/b" } }

local function guests()
  local names = {}
  for file in lfs.dir "guests/boot" do
    names[#names + 1] = file:match "^(.*)%.expect$"
  end
  table.sort(names)
  return names
end

local function load(want, more)
  local vm = support.vm{ memory = want.memory }
  local width, height = (want.framebuffer or ""):match "^(%d+)x(%d+)$"
  local opts = { cmdline = LINE, modules = MODULES, framebuffer = width and {
    width = tonumber(width), height = tonumber(height) } or nil }
  for key, value in pairs(more or {}) do opts[key] = value end
  assert(vm:load("guests/boot/" .. want.image, opts))
  return vm, tonumber(width), tonumber(height)
end

local function check_picture(vm, width, height)
  local screen = vm:screen()
  assert.same({ width, height }, { screen:size() })
  local fields = { { 255, 0, 0 }, { 0, 255, 0 }, { 0, 0, 255 }, { 255, 255, 255 } }
  for i, colour in ipairs(fields) do
    local right, low = i % 2 == 0, i > 2
    for _, x in ipairs{ right and width // 2 or 0, right and width - 1 or width // 2 - 1 } do
      for _, y in ipairs{ low and height // 2 or 0, low and height - 1 or height // 2 - 1 } do
        assert.same(colour, { screen:pixel(x, y) }, ("%d, %d"):format(x, y))
      end
    end
  end
end

describe("guests/boot", function()
  if support.without_kvm(pending) then return end

  for _, name in ipairs(guests()) do
    local want = support.expectation("boot/" .. name)

    it(name .. " is told what its .expect says, and once more after a reset", function()
      local vm <close>, width, height = load(want)
      for _ = 1, 2 do
        local reason, info = vm:run{ deadline = 20 }
        assert.equal(want.reason, reason, info.text)
        assert.equal(want.output_text, (vm.console:text()))
        if width then check_picture(vm, width, height) end
        assert(vm:reset())
        if width then assert.same({ 0, 0, 0 }, { vm:screen():pixel(0, 0) }) end
      end
    end)
  end

  it("a kernel gets a framebuffer of the size that it asks for, or of 1024 x 768", function()
    for image, size in pairs{ ["multiboot2.elf"] = { 64, 48 }, ["limine.elf"] = { 1024, 768 } } do
      local vm <close> = load({ image = image }, { modules = {} })
      assert.same(size, { vm:screen():size() })
    end
  end)

  it("nothing is answered that is not there: no framebuffer, no modules", function()
    for image, text in pairs{ ["limine.elf"] = "no framebuffer\nno modules\n",
                              ["multiboot2.elf"] = "\nsection" } do
      local vm <close> = load({ image = image }, { framebuffer = false, modules = {} })
      assert.equal("halt", (support.run(vm)))
      local told = vm.console:text()
      assert.is_truthy(told:find(text, 1, true), told)
      assert.not_matches("WRONG", told)
      assert.not_matches("framebuffer at", told)
      assert.not_matches("module \"", told)
    end
  end)

  it("an RSDP that a script put where a BIOS has it is handed over (ACPI 6.5, 5.2.5)", function()
    local head = "RSD PTR \0MINIKV\0" .. ("<I4"):pack(0xe1000)
    local total = 0
    for i = 1, #head do total = total + head:byte(i) end
    local rsdp = head:sub(1, 8) .. string.char(-total & 0xff) .. head:sub(10)
    for image, text in pairs{ ["multiboot2.elf"] = "\nRSDP of revision 0x0\n",
                              ["pvh.elf"] = "\nRSDP at 0xe0040\n" } do
      local vm <close> = support.vm{ mode = "protected", memory = "8M" }
      vm.memory:write(0xe0040, rsdp)
      assert(vm:load("guests/boot/" .. image))
      assert.equal("halt", (support.run(vm)))
      assert.is_truthy(vm.console:text():find(text, 1, true), (vm.console:text()))
    end
  end)
end)
