-- odd_places_spec.lua - breakpoints where they are hardest: in ROM, where no memory is, in
-- a file that others see, on instructions that fault, in their handlers, before code is mapped.

local guest = require "spec.support.guest"
local process = require "spec.support.process"
local support = require "spec.support.files"

local UNSURE <const> = "the emulated AMD machine stops at debug registers now and then"

local function nothing() end

describe("breakpoints at odd places, without_kvm none:", function()
  if guest.without_kvm(pending) then return end

  it("in ROM, which stays what it was", function()
    local vm <close> = guest.code("b800000010 ffe0", { mode = "protected" }) -- mov eax; jmp eax
    local bytes = "\x90\x40\xf4" .. ("\0"):rep(4093)
    assert(vm.memory:map{ at = 0x10000000, rom = true, bytes = bytes })
    local handle = vm:break_at(0x10000001)
    assert.are.equal("break", (guest.run(vm)))
    assert.are.equal(bytes, vm.memory:read(0x10000000, 4096))
    assert.are.equal("halt", (guest.run(vm)))
    assert.are.same({ 1, 1 }, { handle.hits, vm.cpu[0].rax & 0xff })
  end)

  it("where no memory is: it is not met, and nothing else changes", function()
    local vm <close> = guest.code("40 f4", { mode = "protected" })
    local handle = vm:break_at(0xfee00000)
    assert.are.equal("halt", (guest.run(vm)))
    assert.are.equal(0, handle.hits)
  end)

  it("in a file that others see: it is not written to", function()
    local path = os.tmpname()
    finally(function() os.remove(path) end)
    local bytes = "\x90\x40\xf4" .. ("\0"):rep(4093)
    support.put(path, bytes)
    local vm <close> = guest.code("b800000010 ffe0", { mode = "protected" })
    assert(vm.memory:map{ at = 0x10000000, shared = true, path = path })
    local seen
    vm:break_at(0x10000001, function() seen = guest.read_file(path) end)
    vm:break_at(0x10000002, nothing)
    assert.are.equal("halt", (guest.run(vm)))
    assert.is_true(seen == nil or seen == bytes) -- where debug registers do not work it is not met
    assert.are.equal(bytes, guest.read_file(path))
  end)

  it("on an instruction that faults, and in the handler: each is told once", function()
    -- at 0x7c00: xor cx, cx; mov ax, 5; div cx; hlt. Vector 0 at 0x500: inc cx; iret
    local vm <close> = guest.vm{ mode = "real" }
    assert(vm:load({ bytes = "\x31\xc9\xb8\x05\0\xf7\xf1\xf4" }, { at = 0x7c00 }))
    vm.memory:write(0, "\0\5\0\0")
    vm.memory:write(0x500, "\x41\xcf")
    local faults, handler = vm:break_at(0x7c05, nothing), vm:break_at(0x500, nothing)
    assert.are.equal("halt", (guest.run(vm)))
    assert.are.same({ 1, 1 }, { faults.hits, handler.hits })
    assert.are.same({ 1, 5 }, { vm.cpu[0].rcx & 0xffff, vm.cpu[0].rax & 0xffff })
  end)

  it("on the guest's own INT3, which reaches its handler", function()
    local vm <close> = guest.vm{ mode = "real" }
    assert(vm:load({ bytes = "\xcc\x90\xf4" }, { at = 0x7c00 }))
    vm.memory:write(12, "\0\5\0\0")
    vm.memory:write(0x500, "\x41\xcf") -- inc cx; iret
    local handle = vm:break_at(0x7c00, nothing)
    assert.are.equal("halt", (guest.run(vm)))
    assert.are.same({ 1, 1 }, { handle.hits, vm.cpu[0].rcx & 0xffff })
  end)

  it("on a repeated instruction: once, whatever is stepped", function()
    local vm <close> = guest.code("b914000000 be00300000 bf00400000 f3a4 f4",
                                  { mode = "protected" })
    vm.memory:fill(0x3000, 20, 7)
    local handle = vm:break_at(0x100f, nothing)
    assert.are.equal("halt", (guest.run(vm)))
    assert.are.equal(1, handle.hits)
    assert.are.equal(("\7"):rep(20), vm.memory:read(0x4000, 20))
  end)

  it("on a jump to itself: at each turn, within the run's limits", function()
    local vm <close> = guest.code("ebfe", { mode = "protected" })
    local handle = vm:break_at(vm.cpu[0].rip, nothing)
    assert.are.equal("limit", (vm:run{ exits = 100, deadline = 20 }))
    assert.is_true(handle.hits >= 49, handle.hits) -- an exit for the hit, and one for the step
  end)

  it("in code whose bytes the guest reads: a hidden one changes nothing", function()
    if process.emulated == "stock" then return pending(UNSURE) end
    for mode, code in pairs{ real = "\xa0\3\0\x90\x40\xf4",
                             long = "\x8a\4\x25\7\x10\0\0\x90\x90\xf4",
                             paged = "\xa0\5\x10\0\0\x90\x90\xf4" } do
      local vm <close> = guest.vm{ mode = mode }
      assert(vm:load{ bytes = code })
      local at = vm.cpu[0].rip + (mode == "real" and 3 or mode == "long" and 7 or 5)
      local handle, why, name = vm:break_at(at, { hidden = true })
      if name == "ENOTSUP" then
        assert.is_truthy(why:find("debug registers", 1, true))
        return pending(why)
      end
      assert.are.equal("break", (guest.run(vm)))
      assert.are.equal(0x90, vm.cpu[0].rax & 0xff)
      assert.are.equal("halt", (guest.run(vm)))
      assert.are.equal(1, handle.hits)
      for i = 1, 3 do assert(vm:break_at(i, { hidden = true })) end
      assert.are.equal("ENOSPC", select(3, vm:break_at(5, { hidden = true })))
      handle:remove()
      assert(vm:break_at(5, { hidden = true }))
    end
  end)

  it("where code is mapped later, with no exit in between", function()
    if process.emulated == "stock" then return pending(UNSURE) end
    local vm <close> = guest.code("f4", { mode = "long" })
    local cpu = vm.cpu[0]
    local pdpt = cpu:walk(0x1000).entry_addresses[2]
    -- mov rax, [pdpt]; mov [pdpt + 8], rax; mov eax, 0x40001100; jmp rax
    assert(vm:load{ bytes = "\x48\x8b\4\x25" .. ("<I4"):pack(pdpt) .. "\x48\x89\4\x25"
                            .. ("<I4"):pack(pdpt + 8) .. "\xb8\0\x11\0\x40\xff\xe0" })
    vm.memory:write(0x1100, "\x90\x90\xf4")
    local _, why, name = vm:break_at(0x40001100, { hidden = true, fn = nothing })
    if name == "ENOTSUP" then return pending(why) end
    local handle = vm:break_at(0x40001101)
    assert.are.equal("break", (guest.run(vm)))
    assert.are.same({ 1, 0x40001101 }, { handle.hits, cpu.rip })
    assert.are.equal("halt", (guest.run(vm)))
  end)
end)
