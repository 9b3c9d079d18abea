-- vm.cpu[i]: the state a real-mode cpu starts in, and its registers both ways.

local support = require "support.guest"

local run = support.run

describe("a real-mode cpu", function()
  if support.without_kvm(pending) then return end

  it("set before an image is loaded would be lost: that is an error", function()
    local vm <close> = support.vm()
    vm.cpu[0].ds = 0x1234
    local ok, why = pcall(vm.load, vm, { bytes = "\xf4" })
    assert.is_false(ok)
    assert.matches("vm:load: cpu 0's ds was set before, and loading sets all registers: "
      .. "set it after "
                   .. "vm:load", why, 1, true)
    vm:reset()
    assert(vm:load{ bytes = "\xf4" })
    vm.cpu[0].ds = 0x1234
    assert.equal("halt", (support.run(vm)))
    assert.equal(0x1234, vm.cpu[0].ds)
  end)

  it("starts in a window of its own with everything else zero", function()
    local vm <close> = support.code("f4", { cpus = 4 })
    for i = 0, 3 do
      local cpu, window = vm.cpu[i], i * 0x4000
      assert.same({ i, window, window, window, window },
                  { cpu.index, cpu.cs, cpu.ds, cpu.es, cpu.ss })
      assert.same({ rax = 0, rbx = 0, rcx = 0, rdx = 0, rsi = 0, rdi = 0, rbp = 0, r8 = 0, r9 = 0,
                    r10 = 0, r11 = 0, r12 = 0, r13 = 0, r14 = 0, r15 = 0, rip = 0, rsp = 0xfff0,
                    rflags = 2 }, cpu:regs())
      assert.equal(0, cpu.cr0 & 1)
    end
  end)

  it("computes with the registers it is given", function()
    local vm <close> = support.code "66 01 d8 f4" -- add eax, ebx; hlt
    vm.cpu[0].eax = 0x70000000
    vm.cpu[0].ebx = 0x70000001
    run(vm)
    assert.equal(0xe0000001, vm.cpu[0].rax)
    assert.equal(0x800, vm.cpu[0].flags & 0x801) -- overflow, no carry
  end)

  it("starts where ip and cs say", function()
    local vm <close> = support.code "f4 90 f4"
    vm.cpu[0].ip = 1
    assert.equal(3, select(2, run(vm)).rip)
    vm.memory:write(0x54321, "\x90\xf4")
    vm.cpu[0].cs = 0x5432
    vm.cpu[0].rip = 1
    assert.equal(3, select(2, run(vm)).rip)
  end)

  it("sees segment registers with their real-mode bases", function()
    local vm <close> = support.code "a0 05 00 26 8a 26 05 00 f4" -- mov al, [5]; mov ah, es:[5]; hlt
    vm.memory:write(0x12345, "D")
    vm.memory:write(0x23455, "E")
    vm.cpu[0].ds = 0x1234
    vm.cpu[0].es = 0x2345
    run(vm)
    assert.equal("DE", string.pack("<I2", vm.cpu[0].ax))
    assert.equal(0x12340, vm.cpu[0]:sregs().ds.base)
  end)

  it("takes flags", function()
    local vm <close> = support.code "72 01 f4 f4" -- jc over one hlt
    vm.cpu[0].flags = 3
    assert.equal(4, select(2, run(vm)).rip)
  end)
end)

describe("system registers", function()
  if support.without_kvm(pending) then return end

  -- SDM volume 3, 3.4.3 and 3.4.5: MOV to a segment register loads the hidden part from the GDT.
  it("are loaded from the guest's GDT", function()
    for mode, expected in pairs{ protected = { 0, 0xffffffff, 1 }, long = { 0, 0xffffffff, 1 } } do
      local vm <close> = support.code("f4", { mode = mode })
      local cpu, gdt = vm.cpu[0], vm.cpu[0]:sregs().gdt
      cpu.ds = 0x10 -- kernel data, as the boot code has it
      local ds = cpu:sregs().ds
      assert.same(expected, { ds.base, ds.limit, ds.s })
      -- an entry of the script's own in the place of user data: base 0x123000, 64 KiB, byte limit
      vm.memory:u64(gdt.base + 0x20, 0x0040f3123000ffff & ~(0xff << 56))
      cpu.es = 0x23
      local es = cpu:sregs().es
      assert.same({ 0x23, 0x123000, 0xffff, 3, 3 },
                  { es.selector, es.base, es.limit, es.type, es.dpl })
      cpu.fs = 0
      assert.equal(0, cpu:sregs().fs.present)
      assert.error_matches(function() cpu.ds = 0xfff8 end, "ds = 0xfff8: the GDT at 0x%x+, limit")
      assert.error_matches(function() cpu.ds = 0x14 end, "ds = 0x14: it names an entry of the LDT")
      assert.error_matches(function() cpu.ds = 0x10000 end, "a selector has 16 bits")
      assert.equal("halt", (run(vm)))
    end
  end)

  -- mov al, [0x10]; out 0xe9, al; hlt: DS has a base that no table in memory gives.
  it("are set as a table says", function()
    local vm <close> = support.code("a0 10 00 00 00 e6 e9 f4", { mode = "protected" })
    vm.memory:write(0x5010, "Z")
    vm.cpu[0]:set_sregs{ ds = { base = 0x5000 }, gdt = { base = 0x7000, limit = 0x2f } }
    assert.equal("halt", (run(vm)))
    assert.equal("Z", (vm.console:text()))
    local s = vm.cpu[0]:sregs()
    assert.same({ 0x5000, 0x7000, 0x2f }, { s.ds.base, s.gdt.base, s.gdt.limit })
    vm.cpu[0]:set_sregs(s) -- all of it
    assert.same(s, vm.cpu[0]:sregs())
    for wrong, text in pairs{ [{ dd = {} }] = "unknown option 'dd'",
                              [{ ds = { bse = 1 } }] = "'ds.bse'",
                              [{ gdt = { limit = 65536 } }] = "16 bits", [{ cs = 8 }] = "a table",
                              [{ tr = { dpl = 4 } }] = "2 bits" } do
      assert.error_matches(function() vm.cpu[0]:set_sregs(wrong) end, text)
    end
  end)
end)

describe("registers by name", function()
  if support.without_kvm(pending) then return end

  it("overlap as in the processor", function()
    local vm <close> = support.vm()
    local cpu = vm.cpu[0]
    for _, letter in ipairs{ "a", "b", "c", "d" } do
      local x, l, h = letter .. "x", letter .. "l", letter .. "h"
      local r, e = "r" .. x, "e" .. x
      cpu[r] = 0x1122334455667788
      assert.same({ 0x55667788, 0x7788, 0x88, 0x77 }, { cpu[e], cpu[x], cpu[l], cpu[h] })
      cpu[h] = 0xaa
      cpu[l] = 0xbb
      assert.equal(0x112233445566aabb, cpu[r])
      cpu[x] = 0xcccc
      assert.equal(0x112233445566cccc, cpu[r])
      cpu[e] = 1
      assert.equal(1, cpu[r])
    end
  end)

  it("hold 64 bits", function()
    local vm <close> = support.vm()
    local cpu = vm.cpu[0]
    local names = { "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10",
                    "r11", "r12", "r13", "r14", "r15" }
    for i, name in ipairs(names) do cpu[name] = ~i end
    local regs = cpu:regs()
    for i, name in ipairs(names) do assert.same({ ~i, ~i }, { cpu[name], regs[name] }) end
  end)

  it("drop the bits that do not fit", function()
    local vm <close> = support.vm()
    local cpu = vm.cpu[0]
    cpu.al = 0x1ff
    cpu.si = -1
    cpu.ebx = 1 << 32 | 5
    assert.same({ 0xff, 0xffff, 5 }, { cpu.rax, cpu.rsi, cpu.rbx })
  end)

  it("that do not exist, or cannot be set, are errors", function()
    local vm <close> = support.code "f4"
    local cpu = vm.cpu[0]
    assert.error_matches(function() return cpu.eaxx end, "no register or method 'eaxx'")
    assert.error_matches(function() cpu.eaxx = 1 end, "no register 'eaxx'")
    assert.error_matches(function() cpu.index = 1 end, "no register 'index'")
    assert.error_matches(function() cpu.regs = 1 end, "no register 'regs'")
    assert.error_matches(function() cpu.rax = "x" end, "number expected")
    assert.error_matches(function() cpu.rax = 1.5 end, "integer")
    assert.error_matches(function() cpu.rax = nil end, "number expected")
    assert.error(function() cpu[{}] = 1 end)
    assert.error(function() return cpu[{}] end)
    assert.equal("halt", (run(vm)))
  end)

  it("come as tables too", function()
    local vm <close> = support.code "f4"
    local sregs = vm.cpu[0]:sregs()
    assert.same({ selector = 0, base = 0, limit = 0xffff, type = 11, dpl = 0, present = 1, s = 1,
                  db = 0, l = 0, g = 0 }, sregs.cs)
    for _, name in ipairs{ "cr0", "cr2", "cr3", "cr4", "cr8", "efer" } do
      assert.equal(vm.cpu[0][name], sregs[name])
    end
    assert.is_number(sregs.gdt.base)
    assert.is_number(sregs.idt.limit)
  end)

  it("name the cpu and its VM when printed", function()
    local vm <close> = support.vm{ name = "a" }
    assert.equal('minikvm.cpu 0 of "a" (rip 0xfff0)', tostring(vm.cpu[0]))
  end)
end)

describe("registers in a handler", function()
  if support.without_kvm(pending) then return end

  it("are those at the access, and can be changed", function()
    local vm <close> = support.code [[
      bb 34 12   ; mov bx, 0x1234
      e6 80      ; out 0x80, al
      89 d8      ; mov ax, bx
      f4         ; hlt
    ]]
    local seen
    vm.ports:on(0x80, { write = function()
      seen = vm.cpu[0].bx
      vm.cpu[0].bx = 0x5678
    end })
    local reason = run(vm)
    assert.same({ "halt", 0x1234, 0x5678 }, { reason, seen, vm.cpu[0].ax })
  end)

  it("of an IN can be looked at only, for the answer comes after them", function()
    local vm <close> = support.code "b8 34 12 e4 80 f4" -- mov ax, 0x1234; in al, 0x80; hlt
    local seen, why
    vm.ports:on(0x80, { read = function()
      seen = vm.cpu[0].ax
      why = select(2, pcall(function() vm.cpu[0].cx = 1 end))
      return 0x56
    end })
    run(vm)
    assert.same({ 0x1234, 0x1256, 0 }, { seen, vm.cpu[0].ax, vm.cpu[0].cx })
    assert.matches("while an IN waits", why)
    vm.cpu[0].cx = 1
  end)

  it("of a load outside RAM likewise", function()
    local vm <close> = support.code("a1 00 00 00 fe f4", -- mov eax, [0xfe000000]; hlt
                                    { mode = "protected" })
    local why
    vm.mmio:on(0xfe000000, 0x1000, { read = function()
      why = select(2, pcall(function() vm.cpu[0].ecx = 1 end))
      return 0x56
    end })
    run(vm)
    assert.same({ 0x56, 0 }, { vm.cpu[0].rax, vm.cpu[0].rcx })
    assert.matches("while a read of memory waits", why)
  end)

  it("of another cpu that runs are out of reach", function()
    local vm <close> = support.vm{ cpus = 2 }
    assert(vm:load{ bytes = support.out(0x80, 1) .. "\xf4" })
    assert(vm:load({ bytes = "\xfb\xeb\xfe" }, { cpu = 1 })) -- sti; jmp $
    local why
    vm.ports:on(0x80, { write = function()
      why = select(2, pcall(function() return vm.cpu[1].rip end))
      vm:stop()
    end })
    run(vm)
    assert.matches("cpu 1 of vm \"vm\" is running", why)
  end)
end)

-- KVM itself has RIP behind an OUT that it emulates, at one that the processor ran until the next
-- entry, and at a repeated OUTS until the last item is out.
describe("rip in a handler of a port", function()
  if support.without_kvm(pending) then return end

  ---What handlers of ports 0x80 to 0x8f see, and what a trace shows: "offset instruction, …".
  local function accesses(listing, opts)
    local vm <close> = support.code(listing, opts)
    local cpu, seen, traced, start = vm.cpu[0], {}, {}, vm.cpu[0].rip
    local function note()
      local at = cpu:disassemble(1)
      assert.same({ cpu.rip, cpu:regs().rip, cpu.eip }, { at.rip, at.rip, at.rip })
      seen[#seen + 1] = ("%x %s"):format(cpu.rip - start, at[1].text:match "^%a+ ?outs.?" or
                                                          at[1].text:match "^%a+")
      return 0
    end
    vm.ports:on(0x80, 0x8f, { read = note, write = note })
    vm:trace(function(line)
      local rip = line:match "rip=(%x+) [io]"
      if rip then traced[#traced + 1] = ("%x"):format(tonumber(rip, 16) - start) end
    end)
    local reason, info = run(vm)
    assert.equal("halt", reason, info.text)
    for i, text in ipairs(seen) do assert.equal(text:match "^%x+", traced[i]) end
    return table.concat(seen, ", ")
  end

  it("is the address of the IN or OUT", function()
    assert.equal("1 out, 3 in, 5 out", accesses "90 e6 80 e4 81 e7 82 f4")
    assert.equal("3 out, 4 out, 5 out, 7 in", accesses "ba 80 00 ee ef 66 ef ed f4")
    for _, mode in ipairs{ "protected", "long" } do
      assert.equal("4 out, 5 out, 6 out, 8 in, 9 out",
                   accesses("66 ba 80 00 ee ef 66 ef ed e6 80 f4", { mode = mode }))
    end
  end)

  it("is so when the instructions around are the same", function()
    assert.equal("0 out, 2 out, 4 out, 6 out", accesses "e6 80 e6 80 e6 80 e6 80 f4")
    assert.equal("3 out, 4 out, 5 out", accesses "ba 80 00 ee ee ee f4")
  end)

  it("is that of a string instruction too", function()
    assert.equal("3 outsb, 4 outsw", accesses "ba 80 00 6e 6f f4")
    assert.equal("6 rep outsb, 6 rep outsb", accesses "ba 80 00 b9 02 00 f3 6e f4")
  end)

  it("can be set: the guest goes on there", function()
    local vm <close> = support.code "e6 80 f4 90 f4"
    local hits, go = 0, { 0, 3 }
    vm.ports:on(0x80, { write = function()
      hits = hits + 1
      vm.cpu[0].rip = go[hits]
    end })
    assert.equal(5, select(2, run(vm)).rip)
    assert.equal(2, hits)
  end)

  it("costs an entry only where it is in doubt, and its registers can be set beside", function()
    local vm <close> = support.code "b9 c8 00 e6 80 e2 fc f4" -- 200 times: out 0x80, al; loop
    vm.ports:on(0x80, { write = function()
      assert.equal(3, vm.cpu[0].rip)
      vm.cpu[0].rbx = vm.cpu[0].rbx + 1
    end })
    local _, info = run(vm)
    assert.equal(200, vm.cpu[0].rbx)
    assert.is_true(info.entries - info.exits < 100, info.entries .. " entries")
  end)
end)

-- CR8 is the task priority, four bits (Intel SDM volume 3, 11.8.6). A KVM without an APIC of its
-- own keeps it in kvm_run.cr8 and exits when it is lowered (api.rst 5, KVM_EXIT_SET_TPR).
describe("cr8", function()
  if support.without_kvm(pending) then return end

  local KEEP <const> = "44 0f 20 c0 f4" -- mov rax, cr8; hlt

  it("is the guest's to raise and lower", function()
    -- mov eax, 5; mov cr8, rax; xor eax, eax; mov cr8, rax; hlt
    local vm <close> = support.code("b8 05 00 00 00 44 0f 22 c0 31 c0 44 0f 22 c0 f4",
                                    { mode = "long" })
    local reason, info = run(vm)
    assert.equal("halt", reason, info.text)
    assert.equal(0, vm.cpu[0].cr8)
    assert.is_true((info.by.set_tpr or 0) <= 1)
  end)

  it("holds what the script sets, before a run and in a handler", function()
    local vm <close> = support.code("44 0f 20 c3 e6 80" .. KEEP, { mode = "long" }) -- mov rbx, cr8
    vm.ports:on(0x80, { write = function() vm.cpu[0].cr8 = 9 end })
    vm.cpu[0].cr8 = 5
    assert.equal("halt", (run(vm)))
    assert.same({ 5, 9, 9 }, { vm.cpu[0].rbx, vm.cpu[0].rax, vm.cpu[0].cr8 })
    assert.has_error(function() vm.cpu[0].cr8 = 16 end)
    assert.equal(9, vm.cpu[0].cr8)
  end)

  it("comes back with a snapshot, in the VM and in its forks", function()
    -- mov eax, 7; mov cr8, rax; hlt; mov rax, cr8; hlt
    local vm <close> = support.code("b8 07 00 00 00 44 0f 22 c0 f4" .. KEEP, { mode = "long" })
    run(vm)
    local snap <close> = assert(vm:snapshot())
    vm.cpu[0].cr8 = 1
    vm.cpu[0].rax = 0
    assert(vm:restore(snap))
    local fork <close> = assert(snap:vm{ echo = false })
    for _, each in ipairs{ vm, fork } do
      assert.equal("halt", (run(each)))
      assert.same({ 7, 7 }, { each.cpu[0].rax, each.cpu[0].cr8 })
    end
  end)
end)
