-- Long mode's options: pages, partial and high-half maps, where images go; output to a file.

local support = require "support.guest"

local HIGH <const> = -1 << 31 -- 0xffffffff80000000

describe("long mode", function()
  if support.without_kvm(pending) then return end

  it("starts at the top of RAM below the tables, aligned, with boot information in RBX", function()
    for _, page in ipairs{ "4K", "2M" } do
      local vm <close> = support.code("f4", { mode = "long", memory = "2M", page_size = page })
      assert.equal("halt", (vm:run{ deadline = 5 }))
      local cpu = vm.cpu[0]
      assert.equal(0, cpu.rsp % 16)
      assert.is_true(cpu.rsp <= cpu.cr3 and cpu.cr3 < 2 << 20)
      assert.equal(0x49424b4d, vm.memory:u32(cpu.rbx))
      assert.equal(page == "4K" and 4096 or 2 << 20, select(2, cpu:translate(0x1000)))
    end
  end)

  it("maps RAM once more in the high half, for code that is entered there", function()
    -- lea rax,[rip]; hlt
    local vm <close> = support.vm{ mode = "long", memory = "4M", map_base = HIGH }
    assert(vm:load({ bytes = "\x48\x8d\x05\0\0\0\0\xf4" }, { entry = HIGH + 0x1000 }))
    assert.equal("halt", (vm:run{ deadline = 5 }))
    assert.equal(HIGH + 0x1007, vm.cpu[0].rax)
    assert.is_true(math.ult(HIGH, vm.cpu[0].rsp))
  end)

  it("maps only the part it is told to", function()
    -- mov rax,[0x100000]; out 0xe9,al; mov rax,[0x200000]; hlt
    local vm <close> = support.code("488b042500001000 e6e9 488b042500002000 f4",
                                    { mode = "long", memory = "4M", map_size = "2M" })
    assert.is_nil((vm.cpu[0]:translate(0x200000)))
    local reason = vm:run{ deadline = 5 }
    assert.equal("shutdown", reason) -- no handler for the page fault
    assert.equal(1, #vm.console:text())
  end)

  it("refuses entries that are not mapped, and sizes of no pages", function()
    local vm <close> = support.vm{ mode = "long", memory = "4M", map_size = "2M" }
    local loaded, why, code = vm:load({ bytes = "\xf4" }, { at = 0x300000, entry = 0x300000 })
    assert.same({ nil, "EINVAL" }, { loaded, code })
    assert.match("entry 0x300000 is not mapped", why)
    loaded, why, code = vm:load({ bytes = ("x"):rep(4 << 20) }, { at = 0 })
    assert.same({ nil, "EFBIG" }, { loaded, code })
    assert.match("leaves no room in RAM for the GDT", why)
    local kvm = require "minikvm"
    assert.error_matches(function() kvm.vm{ mode = "long", memory = "3M", page_size = "2M" } end,
                         "memory of 3145728 bytes: long mode maps it in pages of 2M .* multiples")
    assert.error_matches(function() kvm.vm{ mode = "long", memory = "16K" } end, "too small")
    assert.error_matches(function() kvm.vm{ mode = "real", page_size = "2M" } end,
                         "'page_size' is for mode \"long\"")
    assert.error_matches(function() kvm.vm{ mode = "long", map_base = 1 << 47 } end, "canonical")
  end)

  -- The tables of the mode are where docs/abi.md says unless the image lies there; then they are
  -- elsewhere, and all that the processor was told of them is right.
  it("takes an image anywhere in RAM: over the tables, too", function()
    -- mov eax, [rbx]; push rax; mov ecx, 0x10; mov ds, ecx; hlt
    local code = support.bytes "8b 03  50  b9 10000000  8e d9  f4"
    for _, range in ipairs{ { 0, 0x1001 }, { 0x800, 20 }, { 0x3ff000, 0x1000 },
                            { 0x3f9000, 0x2000 },
                            { 0, 0x90000 }, { 0x1000, 0x3ef000 }, { 0xa0000, 0x360000 } } do
      local vm <close> = support.vm{ mode = "long" }
      local at, size = table.unpack(range)
      assert(vm:load({ bytes = code .. ("\xcc"):rep(size - #code) }, { at = at }))
      local places
      for _ = 1, 2 do
        assert.equal("halt", (vm:run{ deadline = 5 }))
        local cpu = vm.cpu[0]
        assert.equal(0x49424b4d, cpu.rax)
        assert.same(places or { cpu.cr3, cpu.rsp, cpu.rbx }, { cpu.cr3, cpu.rsp, cpu.rbx })
        places = { cpu.cr3, cpu.rsp, cpu.rbx }
        for _, place in ipairs(places) do
          assert.is_true(place >= at + size or place < at, ("0x%x"):format(place))
        end
        assert.equal(code, vm.memory:read(at, #code))
        assert(vm:reset())
      end
    end
  end)

  it("loads again over what the last image made move, and what a snapshot was taken of", function()
    local vm <close> = support.vm{ mode = "long" }
    assert(vm:load({ bytes = ("\xf4"):rep(0x1001) }, { at = 0 }))
    assert.equal(0x9fe00, vm.cpu[0].rbx)
    local child <close> = assert(vm:fork())
    assert(child:load({ bytes = "\x8b\x03\xf4" }, { at = 0x9fe00 })) -- mov eax, [rbx]; hlt
    assert.equal("halt", (child:run{ deadline = 5 }))
    assert.equal(0x49424b4d, child.cpu[0].rax)
    assert.equal(0x9ee00, child.cpu[0].rbx) -- the fork shares nothing of it, but the place is known
  end)
end)

describe("console:output", function()
  if support.without_kvm(pending) then return end

  it("sends what the guest prints to a file, until echo() says otherwise", function()
    local path = os.tmpname()
    local vm <close> = support.guest "real/hello"
    assert(vm.console:output(path))
    assert.equal("halt", (vm:run{ deadline = 5 }))
    vm.console:echo(false)
    assert.equal("Hello, KVM!\n", support.read_file(path))
    vm:reset()
    vm:run{ deadline = 5 }
    assert.equal("Hello, KVM!\n", support.read_file(path))
    os.remove(path)
  end)

  it("names a file that cannot be opened", function()
    local vm <close> = support.vm()
    local set, why, code = vm.console:output "/nosuch/file"
    assert.same({ nil, "/nosuch/file: No such file or directory", "ENOENT" }, { set, why, code })
  end)
end)
