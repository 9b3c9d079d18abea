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

  it("refuses entries that are not mapped, tables in the way, and sizes of no pages", function()
    local vm <close> = support.vm{ mode = "long", memory = "4M", map_size = "2M" }
    local loaded, why, code = vm:load({ bytes = "\xf4" }, { at = 0x300000, entry = 0x300000 })
    assert.same({ nil, "EINVAL" }, { loaded, code })
    assert.match("entry 0x300000 is not mapped", why)
    loaded, why, code = vm:load({ bytes = "\xf4" }, { at = (4 << 20) - 16 })
    assert.same({ nil, "EFBIG" }, { loaded, code })
    assert.match("do not fit", why)
    assert.match("at = 0x800: the GDT", select(2, vm:load({ bytes = "\xf4" }, { at = 0x800 })))
    local kvm = require "minikvm"
    assert.match("multiples", select(2, kvm.vm{ mode = "long", memory = "3M", page_size = "2M" }))
    assert.match("too small", select(2, kvm.vm{ mode = "long", memory = "16K" }))
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
