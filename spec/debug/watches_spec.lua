-- watches_spec.lua - watched memory, and breakpoints in memory that changes.

local guest = require "spec.support.guest"

-- Writes 1 to 0x3000, reads 0x3001, writes 2 to 0x3004, adds 1 to the word or double word at
-- 0x3002, pushes AX, halts; where each of these instructions ends.
local CODE <const> = {
  real = { "c606003001 a00130 c606043002 ff060230 50 f4", 5, 8, 13, 17, 18 },
  protected = { "c6050030000001 a001300000 c6050430000002 ff0502300000 50 f4", 7, 12, 19, 25, 26 },
  long = { "c604250030000001 8a042501300000 c604250430000002 ff042502300000 50 f4",
           8, 15, 23, 30, 31 },
}
CODE.paged = CODE.protected

describe("watches, without_kvm none:", function()
  if guest.without_kvm(pending) then return end

  for _, mode in ipairs{ "real", "protected", "paged", "long" } do
    it(mode .. " mode: writes and reads are told when they are done", function()
      local code = CODE[mode]
      local vm <close> = guest.code(code[1], { mode = mode })
      local base, log = vm.cpu[0].rip, {}
      local function note(name)
        return function(cpu, _, access)
          log[#log + 1] = ("%s %s%x +%d"):format(name, access.kind, access.address, cpu.rip - base)
        end
      end
      vm:watch(0x3000, 4, "w", note "w")
      local read = vm:watch(0x3001, 1, "r", note "r")
      local stack = vm:watch(vm.cpu[0].rsp - 8, 8, "w", function() end)
      assert.are.equal("halt", (guest.run(vm)))
      assert.are.same({ ("w w3000 +%d"):format(code[2]), ("r r3001 +%d"):format(code[3]),
                        ("w w3002 +%d"):format(code[5]) }, log)
      assert.are.same({ 1, 1 }, { read.hits, stack.hits })
      assert.are.same({ 1, 1, 2 }, { vm.memory:u8(0x3000), vm.memory:u8(0x3002),
                                     vm.memory:u8(0x3004) })
    end)

    it(mode .. " mode: a watch stops, and the VM goes on behind the instruction", function()
      local code = CODE[mode]
      local vm <close> = guest.code(code[1], { mode = mode })
      local base = vm.cpu[0].rip
      local handle = vm:watch(0x3004, 1)
      local reason, info = guest.run(vm)
      assert.are.same({ "break", "watch", 0x3004, base + code[4] },
                      { reason, info.stop.kind, info.stop.address, vm.cpu[0].rip })
      assert.are.equal(handle, info.stop.handle)
      assert.are.equal(2, vm.memory:u8(0x3004))
      handle:remove()
      assert.are.equal("halt", (guest.run(vm)))
      assert.are.equal(1, handle.hits)
    end)

    it(mode .. " mode: a breakpoint survives code that is written over it", function()
      -- writes an instruction and RET to 0x2000, calls it
      local codes <const> = {
        real = { "c606002040 c6060120c3 e8f31f f4", "\x40\xc3" },
        protected = { "c60500200000ff c60501200000c0 c60502200000c3 e8e60f0000 f4",
                      "\xff\xc0\xc3" },
        long = { "c6042500200000ff c6042501200000c0 c6042502200000c3 e8e30f0000 f4",
                 "\xff\xc0\xc3" },
      }
      local code = codes[mode] or codes.protected
      local vm <close> = guest.code(code[1], { mode = mode })
      local seen
      local handle = vm:break_at(0x2000 + (mode == "paged" and 0x80000000 or 0), function()
        seen = vm.memory:read(0x2000, #code[2])
      end)
      assert.are.equal("halt", (guest.run(vm)))
      assert.are.same({ 1, code[2], 1 }, { handle.hits, seen, vm.cpu[0].rax & 0xffff })
      assert.are.equal(code[2], vm.memory:read(0x2000, #code[2]))
    end)
  end

  it("instructions of a range, whatever they do", function()
    local vm <close> = guest.code("40 90 40 90 f4", { mode = "protected" })
    local base, seen = vm.cpu[0].rip, {}
    vm:watch(base + 1, 3, "x", function(_, _, access)
      seen[#seen + 1] = access.address - base
    end)
    assert.are.equal("halt", (guest.run(vm)))
    assert.are.same({ 1, 2, 3 }, seen)
  end)

  it("a watch of any size, which the script's own accesses do not meet", function()
    local vm <close> = guest.code("c6050030000001 f4", { mode = "protected", memory = "64M" })
    local stop = vm:watch(0x2000, "4G", "w", function() return true end)
    local reason, info = guest.run(vm)
    assert.are.same({ "break", 0x3000 }, { reason, info.stop.address })
    vm.memory:write(0x5000, "x")
    assert.are.equal("halt", (guest.run(vm)))
    assert.are.equal(1, stop.hits)
  end)

  it("locked instructions of several vCPUs stay whole, and each is told", function()
    -- mov ecx, 20; lock inc dword [0x5000]; dec ecx; jnz -11; hlt
    local vm <close> = guest.code("b914000000 f0ff0500500000 ffc9 75f5 f4",
                                  { mode = "protected", cpus = 3 })
    local handle = vm:watch(0x5000, 4, "w", function() end)
    assert.are.equal("halt", (guest.run(vm)))
    assert.are.same({ 60, 60 }, { handle.hits, vm.memory:u32(0x5000) })
  end)

  it("a page table that is in use", function()
    local vm <close> = guest.code("f4", { mode = "long" })
    local walk = vm.cpu[0]:walk(0x5000)
    local pte = walk.entry_addresses[#walk.entry_addresses]
    local at = ("<I4"):pack(pte)
    -- mov rax, [0x5000]; mov rax, [pte]; mov [pte], rax; mov rax, [0x6000]; hlt
    assert(vm:load{ bytes = "\x48\x8b\4\x25\0\x50\0\0\x48\x8b\4\x25" .. at
                            .. "\x48\x89\4\x25" .. at .. "\x48\x8b\4\x25\0\x60\0\0\xf4" })
    local seen = {}
    vm:watch(pte & ~0xfff, "4K", "w", function(_, _, access) seen[#seen + 1] = access.address end)
    assert.are.equal("halt", (guest.run(vm)))
    assert.are.same({ pte }, seen)
  end)

  it("snapshots taken at a stop have memory whole, and forks write to it", function()
    local vm <close> = guest.code(CODE.long[1], { mode = "long" })
    vm:watch(0x3000, 1)
    guest.run(vm)
    local fork <close> = assert(vm:snapshot():vm{ echo = false })
    assert.are.equal("halt", (guest.run(fork)))
    assert.are.same({ 1, 2 }, { fork.memory:u8(0x3000), fork.memory:u8(0x3004) })
  end)

  it("wrong arguments are blamed on the script's line", function()
    local vm <close> = guest.code("f4", { mode = "real" })
    for want, call in pairs{
      ["vm:watch: size: "] = function() vm:watch(0, 0) end,
      ["vm:watch: kind: expected letters out of"] = function() vm:watch(0, 1, "q") end,
      ["vm:watch: 0x10 bytes at 0xfffffffffffffff8 go beyond"] = function() vm:watch(-8, 16) end,
      ["has no cpu 3"] = function() vm:watch(0, 1, "w", { cpu = 3 }) end,
    } do
      local why = guest.message(call)
      assert.is_truthy(why:find(want, 1, true), why)
    end
  end)
end)
