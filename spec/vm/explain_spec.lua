-- info.report: what a guest that died was doing, and why it most likely died of it.
--
-- A KVM on an AMD processor resets the vCPU at a triple fault. There the report can only say that;
-- what it says elsewhere is not looked at then.

local kvm = require "minikvm"
local program = require "support.program"
local support = require "support.guest"

local host = kvm.probe()
local weak = host.paging32 ~= "native" -- code of ring 0 is run by KVM's instruction emulator

local function set(...)
  local words = {}
  for _, word in ipairs{ ... } do words[word] = true end
  return words
end

local function guest(mode, listing, opts)
  local o = { mode = mode }
  for key, value in pairs(opts or {}) do o[key] = value end
  return support.code(listing, o)
end

---A gate of the IDT: for code at `offset`; by default a present 32-bit interrupt gate of ring 0.
local function gate(vm, vector, offset, kind, selector)
  vm.memory:write(0x600 + vector * 8, ("<I2I2xBI2"):pack(offset & 0xffff, selector or 0x08,
                                                        kind or 0x8e, offset >> 16))
end

---Runs a guest that dies of one of `reasons`; its report has to have all these texts.
---@return table info
local function dies(vm, reasons, texts)
  local reason, info = vm:run{ deadline = 20 }
  assert.is_true(reasons[reason], reason .. ": " .. info.text)
  assert.is_string(info.report)
  if reason == "shutdown" and info.report:find "^registers: lost" then
    assert.equal("svm", host.host)
    return info
  end
  for _, text in ipairs(texts) do assert.matches(text, info.report, 1, true) end
  assert.matches("^registers:\n  eax %x+ ", info.report)
  return info
end

local SHUTDOWN <const>, FAULT <const> = set "shutdown", set "fault"
local DEATH <const> = set("shutdown", "fault")

---Where code is in each mode, as reports write it.
local BASE <const> = { protected = "0000", paged = "8000" }

local WITH_IDT <const> = "0f 01 1d 00 30 00 00 " -- lidt [0x3000]

for mode, base in pairs(BASE) do
  describe("the report on a guest in mode " .. mode, function()
    if support.without_kvm(pending) then return end

    it("shows registers, flags, control registers and the instruction", function()
      local vm <close> = guest(mode, [[
        b8 44 33 22 11   ; mov eax, 0x11223344
        bb ef be ad de   ; mov ebx, 0xdeadbeef
        bf 78 56 34 12   ; mov edi, 0x12345678
        bd 01 00 00 00   ; mov ebp, 1
        f9               ; stc
        fd               ; std
        0f 0b            ; ud2
        90 f4            ; nop; hlt
      ]])
      dies(vm, SHUTDOWN, {
        "  eax 11223344  ebx deadbeef  ecx 00000000  edx 00000000\n",
        "  esi 00000000  edi 12345678  ebp 00000001  esp 003ffff0\n",
        "  32-bit protected mode" .. (mode == "paged" and ", paging" or "") .. ", ring 0; cs 0008 "
          .. "base 00000000; ss 0010 base 00000000\n",
        "(CF DF)\n",
        mode == "paged" and "cr0 80010031 (PE NE WP PG)" or "cr0 00000031 (PE NE)",
        "gdt 00000500 limit 002f  idt 00000600 limit 07ff\n",
        "code:\n> " .. base .. "1016  0f 0b                    ud2\n"
          .. "  " .. base .. "1018  90                       nop\n"
          .. "  " .. base .. "1019  f4                       hlt",
        "likeliest cause: #UD invalid opcode; the IDT's gate for #UD invalid opcode is absent",
      })
    end)

    it("explains a division by zero without a handler", function()
      local vm <close> = guest(mode, "31 c9 f7 f1 f4") -- xor ecx, ecx; div ecx; hlt
      dies(vm, SHUTDOWN, { "> " .. base .. "1002  f7 f1                    div ecx",
        "likeliest cause: #DE divide error; the IDT's gate for #DE divide error is absent" })
    end)

    it("explains int n through an absent gate", function()
      local vm <close> = guest(mode, "cd 30 f4")
      dies(vm, SHUTDOWN, { "> " .. base .. "1000  cd 30                    int 0x30",
        "likeliest cause: interrupt 0x30; the IDT's gate for interrupt 0x30 is absent" })
    end)

    it("explains int n through a gate of the wrong type", function()
      local vm <close> = guest(mode, "cd 30 f4")
      gate(vm, 0x30, 0x1002, 0x8c) -- a call gate
      dies(vm, SHUTDOWN, { "the IDT's gate for interrupt 0x30 has type 0xc, which is no interrupt, "
                           .. "trap or task gate" })
    end)

    it("explains a gate to a selector beyond the GDT", function()
      local vm <close> = guest(mode, "cd 30 f4")
      gate(vm, 0x30, 0x1002, 0x8e, 0x58)
      dies(vm, SHUTDOWN, {
        "the IDT's gate for interrupt 0x30 names selector 0x58, beyond the GDT" })
    end)

    it("explains a handler that is not there", function()
      local vm <close> = guest(mode, "cd 30 f4")
      gate(vm, 0x30, 0x70000000)
      dies(vm, DEATH, { "  70000000  (no memory there)",
        "likeliest cause: execution went to 0x70000000, where "
          .. (mode == "paged" and "nothing is mapped" or "there is no RAM") })
    end)

    it("explains int n beyond the end of the IDT", function()
      local vm <close> = guest(mode, WITH_IDT .. "cd 30 f4")
      vm.memory:write(0x3000, ("<I2I4"):pack(0x7f, 0x600))
      dies(vm, SHUTDOWN, { "idt 00000600 limit 007f",
        "the IDT (limit 0x7f at 0x600) has no gate for interrupt 0x30" })
    end)

    it("explains an IDT outside of memory", function()
      for _, code in ipairs{ "cd 30 f4", "0f 0b f4" } do -- int 0x30, ud2
        local vm <close> = guest(mode, WITH_IDT .. code)
        vm.memory:write(0x3000, ("<I2I4"):pack(0x7ff, 0x70000000))
        dies(vm, DEATH, { "the IDT at 0x70000000 is not in mapped memory" })
      end
    end)

    it("explains an interrupt that was delivered through an absent gate, and lists it", function()
      local vm <close> = guest(mode, "fb f4 fa f4 f4") -- sti; hlt; cli; hlt
      vm.cpu[0]:interrupt(0x41)
      local info = dies(vm, SHUTDOWN, {
        "interrupt 0x41 was delivered; the IDT's gate for interrupt 0x41 is absent" })
      assert.matches("last interrupts: 0x41", info.report, 1, true)
      assert.same({ 0x41 }, info.interrupts)
    end)

    it("lists the last eight interrupts, the newest last", function()
      local vm <close> = guest(mode, "fb f4 eb fd") -- sti; hlt; jmp to the hlt
      vm.memory:write(0x2000, "\xcf") -- iretd
      for vector = 0x20, 0x2a do
        gate(vm, vector, 0x2000)
        vm.cpu[0]:interrupt(vector)
      end
      vm.cpu[0]:interrupt(0x50)
      local info = dies(vm, SHUTDOWN, { "interrupt 0x50 was delivered" })
      assert.same({ 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x50 }, info.interrupts)
      assert.matches("last interrupts: 0x24 0x25 0x26 0x27 0x28 0x29 0x2a 0x50", info.report, 1,
                     true)
    end)

    it("explains a jump to where nothing is", function()
      local vm <close> = guest(mode, "b8 00 00 00 70 ff e0 f4") -- mov eax, 0x70000000; jmp eax
      dies(vm, mode == "paged" and SHUTDOWN or FAULT, { "eax 70000000", "(no memory there)",
        "likeliest cause: execution went to 0x70000000, where "
          .. (mode == "paged" and "nothing is mapped" or "there is no RAM") })
    end)

    it("explains zeros that are executed", function()
      local vm <close> = support.vm{ mode = mode }
      local high = mode == "paged" and 0x80000000 or 0
      -- odd, so that the last `add [eax], al` is cut off by the end of memory
      assert(vm:load({ bytes = "\xf4" }, { entry = high + 0x3fff81 }))
      dies(vm, DEATH, { ("> %08x  00"):format(high + 0x3fffff),
                        "likeliest cause: it executes zeros: it ran past its end" })
    end)

    it("explains an instruction that the host's emulator does not know", function()
      if not weak then return pending "this KVM runs all instructions" end
      local vm <close> = guest(mode, "0f 57 c0 f4") -- xorps xmm0, xmm0
      local info = dies(vm, FAULT, { "> " .. base .. "1000  0f 57 c0                 xorps xmm0",
        "likeliest cause: this KVM's emulator does not know the instruction; build the guest with "
          .. "-mgeneral-regs-only" })
      assert.matches("^0f 57 c0 f4", info.bytes)
      assert.matches(("could not run the instruction at rip 0x%x "):format(info.rip), info.text)
    end)

    it("explains bytes that are no instruction", function()
      if not weak then return pending "this KVM raises #UD for them" end
      local vm <close> = guest(mode, "c4 c4 f1 f1 f4")
      dies(vm, DEATH, { "(no instruction)",
                        "these bytes are no instruction: a wild jump, or code of another mode" })
    end)

    it("is not made for a guest that ended well", function()
      for listing, want in pairs{ f4 = "halt", ["b0 05 e6 f4"] = "exit", ["eb fe"] = "deadline" } do
        local vm <close> = guest(mode, listing)
        local reason, info = vm:run{ deadline = want == "deadline" and 0.02 or 20 }
        assert.same({ want, nil }, { reason, info.report })
      end
    end)
  end)
end

describe("the report on a guest with paging", function()
  if support.without_kvm(pending) then return end

  it("walks the page tables of the faulting address", function()
    local vm <close> = guest("paged", "a1 23 51 00 01 f4") -- mov eax, [0x1005123]; hlt
    dies(vm, SHUTDOWN, { "cr2 01005123  cr3 00100000",
      "01005123: 0 (not present) -> not mapped",
      "likeliest cause: a page fault at 0x1005123; the IDT's gate for #PF page fault is absent" })
    local deeper <close> = guest("paged", "a1 23 51 00 01 f4")
    deeper.memory:u32(0x100010, 0x102007)
    deeper.memory:u32(0x102014, 0x200006)
    dies(deeper, SHUTDOWN, { "/ 200006 (not present) -> not mapped" })
  end)

  -- Whether or not a triple fault loses the registers on this host: CR2 as a MOV left it.
  it("shows every level that it walks, of CR2 and of the code", function()
    local vm <close> = guest("paged", "b8 23 51 00 01 0f 22 d0 e6 99", { unhandled = "fault" })
    -- mov eax, 0x1005123; mov cr2, eax; out 0x99, al
    vm.memory:u32(0x100010, 0x102007)
    vm.memory:u32(0x102014, 0x200006)
    local info = dies(vm, FAULT, { "cr2 01005123" })
    assert.matches("OUT to port 0x99", info.text)
    assert.matches("01005123: 1020[02]7 / 200006 %(not present%) %-> not mapped", info.report)
    assert.matches("8000100%x: [8a]7 %-> 0000100%x user", info.report)
  end)

  it("explains a write without a handler", function()
    local vm <close> = guest("paged", "c7 05 23 01 00 01 01 00 00 00 f4") -- mov [0x1000123], 1
    dies(vm, SHUTDOWN, { "a page fault at 0x1000123; the IDT's gate for #PF page fault is absent" })
  end)

  it("explains a stack that is not mapped", function()
    local vm <close> = guest("paged", "bc 00 00 00 70 50 f4") -- mov esp, 0x70000000; push eax; hlt
    gate(vm, 14, 0x1006)
    dies(vm, SHUTDOWN, { "likeliest cause: the stack at 0x6ffff",
      "is not in mapped memory, so no exception can be delivered",
      "6ffffffc: 0 (not present) -> not mapped" })
    local handled <close> = guest("paged", "bc 00 00 00 70 0f 0b f4") -- mov esp, 0x70000000; ud2
    gate(handled, 6, 0x1007)
    dies(handled, SHUTDOWN, { "likeliest cause: the stack at 0x6ffff" })
  end)

  it("explains a CR3 outside RAM", function()
    local vm <close> = guest("paged", "b8 00 00 f0 7f 0f 22 d8 e6 80 f4")
    -- mov eax, 0x7ff00000; mov cr3, eax; out 0x80, al; hlt
    local reason, info = vm:run{ deadline = 0.5 } -- some KVMs try for ever to read the tables
    assert.is_true(reason == "deadline" or DEATH[reason], reason)
    local cause = info.report and info.report:match "likeliest cause: ([^\n]*)"
    local lost = reason == "deadline" or host.host == "svm"
    assert.equal(not lost and "CR3 points to 0x7ff00000, outside RAM" or nil, cause)
  end)

  -- To ring 3 by iret, with the TSS loaded anew; there: ud2.
  local RING3 <const> = [[
    b8 28 00 00 00   ; mov eax, 0x28
    0f 00 d8         ; ltr ax
    6a 23            ; push 0x23
    68 00 00 30 00   ; push 0x300000
    6a 02            ; push 2
    6a 1b            ; push 0x1b
    68 00 50 00 00   ; push 0x5000
    cf               ; iretd
  ]]

  local function ring3()
    local vm = guest("paged", RING3)
    vm.memory:u8(0x500 + 0x28 + 5, 0x89) -- the TSS, not busy
    vm.memory:write(0x5000, "\x0f\x0b")
    gate(vm, 6, 0x1000)
    return vm
  end

  it("explains a TSS whose stack is not mapped", function()
    local vm <close> = ring3()
    vm.memory:u32(0x584, 0x70000000) -- ESP0
    dies(vm, SHUTDOWN, { "ring 3; cs 001b", "> 00005000  0f 0b                    ud2",
      "likeliest cause: the TSS's ring-0 stack at 0x70000000 is not in mapped memory, so no "
        .. "exception can be delivered" })
  end)

  it("explains a TSS without a stack segment", function()
    for _, selector in ipairs{ 0, 3, 0x58 } do
      local vm <close> = ring3()
      vm.memory:u16(0x588, selector) -- SS0
      dies(vm, SHUTDOWN, { ("likeliest cause: the TSS names no stack segment for ring 0 (SS0 is "
                            .. "0x%x)"):format(selector) })
    end
  end)
end)

describe("the report on a real-mode guest", function()
  if support.without_kvm(pending) then return end

  it("that is none, in a VM whose mode nobody chose, says so", function()
    local code = support.bytes "b8 01 00 00 00 e6 77 f4" -- mov eax, 1; out 0x77, al; hlt
    for _, mode in ipairs{ "open", "real" } do
      local vm <close> = support.vm{ mode = mode == "real" and mode or nil, unhandled = "fault" }
      assert(vm:load{ bytes = code })
      local reason, info = vm:run{ deadline = 20 }
      assert.equal("fault", reason)
      assert.equal(mode == "open",
                   info.report:find("no mode was chosen, so it ran in real mode, and "
        .. "it looks like 32- or 64-bit code: try mode=\"protected\"", 1, true) ~= nil, info.report)
    end
  end)

  it("that went on to protected mode without an IDT tells what it lacks", function()
    local vm <close> = support.guest "real/triple"
    dies(vm, SHUTDOWN, { "16-bit protected mode, ring 0", "div cx",
      "likeliest cause: #DE divide error; the IDT (limit 0x0 at 0x0) has no gate for #DE" })
  end)
end)

describe("minikvm run", function()
  if support.without_kvm(pending) then return end

  it("prints the report on stderr and exits with 134", function()
    local path = program.image "b8 00 00 00 70 ff e0" -- mov eax, 0x70000000; jmp eax
    local r = program.run("P run --mode protected --name lost " .. path)
    os.remove(path)
    assert.same({ 134, "" }, { r.status, r.out })
    assert.matches("^minikvm: lost: fault: KVM could not run the instruction at rip 0x70000000, "
                   .. "where no RAM is\nregisters:\n  eax 70000000 ", r.err)
    assert.matches("likeliest cause: execution went to 0x70000000, where there is no RAM\n$", r.err)
  end)
end)
