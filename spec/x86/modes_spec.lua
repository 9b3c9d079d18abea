-- The 32-bit modes as guests see them: the state they begin in, where images may go, page tables
-- that are right, wrong or changed while the guest runs. What the guests, which are tiny, store or
-- leave in registers is looked at afterwards.

local support = require "support.guest"
local kvm = require "minikvm"

local host = kvm.probe()
local native = host.paging32 == "native"

local HIGH <const> = 0x80000000
local DIRECTORY <const> = 0x100000
local TABLE <const> = 0x102000    -- a page table that guests here use, for 0x01000000
local ENTRY_OF_TABLE <const> = DIRECTORY + 4 * 4
local HANDLER <const> = 0x2000
local LARGE <const> = 0x87        -- present, writable, user, 4 MiB

---A VM with this machine code at its usual place.
local function guest(mode, listing, opts)
  local o = { mode = mode }
  for key, value in pairs(opts or {}) do o[key] = value end
  return support.code(listing, o)
end

---Puts a handler at HANDLER and a present 32-bit interrupt gate for it into the IDT.
local function handle(vm, vector, listing)
  vm.memory:write(HANDLER, support.bytes(listing))
  vm.memory:write(0x600 + vector * 8, string.pack("<I2I2I2I2", HANDLER, 0x08, 0x8e00, 0))
end

---Runs to the end; no assist may be counted where the host needs none.
local function run(vm)
  local reason, info = support.run(vm)
  if native then assert.equal(0, info.assists) end
  return reason, info
end

---The numbers of a packed structure.
local function fields(format, bytes)
  local list = { format:unpack(bytes) }
  list[#list] = nil -- where it ended
  return list
end

local function halts(vm)
  local reason, info = run(vm)
  assert.equal("halt", reason, info.text)
  return info
end

local DUMP <const> = [[
  a3 00 30 00 00        ; mov [0x3000], eax
  89 1d 04 30 00 00     ; mov [0x3004], ebx
  89 0d 08 30 00 00     ; mov [0x3008], ecx
  89 15 0c 30 00 00     ; mov [0x300c], edx
  89 35 10 30 00 00     ; mov [0x3010], esi
  89 3d 14 30 00 00     ; mov [0x3014], edi
  89 2d 18 30 00 00     ; mov [0x3018], ebp
  89 25 1c 30 00 00     ; mov [0x301c], esp
  9c                    ; pushfd
  58                    ; pop eax
  a3 20 30 00 00        ; mov [0x3020], eax
  0f 20 c0              ; mov eax, cr0
  a3 24 30 00 00        ; mov [0x3024], eax
  0f 20 d8              ; mov eax, cr3
  a3 28 30 00 00        ; mov [0x3028], eax
  0f 20 e0              ; mov eax, cr4
  a3 2c 30 00 00        ; mov [0x302c], eax
  66 8c c8              ; mov ax, cs
  66 a3 30 30 00 00     ; mov [0x3030], ax
  66 8c d0              ; mov ax, ss
  66 a3 32 30 00 00     ; mov [0x3032], ax
  66 8c d8              ; mov ax, ds
  66 a3 34 30 00 00     ; mov [0x3034], ax
  66 8c c0              ; mov ax, es
  66 a3 36 30 00 00     ; mov [0x3036], ax
  66 8c e0              ; mov ax, fs
  66 a3 38 30 00 00     ; mov [0x3038], ax
  66 8c e8              ; mov ax, gs
  66 a3 3a 30 00 00     ; mov [0x303a], ax
  0f 01 05 40 30 00 00  ; sgdt [0x3040]
  0f 01 0d 48 30 00 00  ; sidt [0x3048]
  66 0f 00 c8           ; str ax
  66 a3 50 30 00 00     ; mov [0x3050], ax
  f4                    ; hlt
]]

describe("a 32-bit guest", function()
  if support.without_kvm(pending) then return end

  for mode, want in pairs{ protected = { cr0 = 0x31, cr3 = 0, cr4 = 0, rip = 0x1000 },
                           paged = { cr0 = 0x80010031, cr3 = DIRECTORY, cr4 = 0x10,
                                     rip = HIGH + 0x1000 } } do
    it("begins in mode " .. mode .. " as its ABI says", function()
      local vm <close> = guest(mode, DUMP, { memory = "8M" })
      assert.equal(want.rip, vm.cpu[0].rip)
      assert.same({ want.cr0, want.cr3, want.cr4, 0 },
                  { vm.cpu[0].cr0, vm.cpu[0].cr3, vm.cpu[0].cr4 & ~0x40, vm.cpu[0].efer & 0x500 })
      halts(vm)
      local function u32(at) return vm.memory:u32(at) end
      assert.same({ 0, 0xe00, 0, 0, 0, 0, 0, 0x7ffff0, 2 },
                  { u32(0x3000), u32(0x3004), u32(0x3008), u32(0x300c), u32(0x3010), u32(0x3014),
                    u32(0x3018), u32(0x301c), u32(0x3020) })
      local unseen = native and 0 or 0x80000000 -- CR0.PG, where the assist does the paging
      assert.equal(want.cr0 & ~unseen, u32(0x3024) & ~unseen)
      assert.same({ want.cr3, want.cr4 }, { u32(0x3028), u32(0x302c) & ~0x40 }) -- but CR4.MCE
      assert.same({ 0x08, 0x10, 0x10, 0x10, 0x10, 0x10 },
                  fields("<I2I2I2I2I2I2", vm.memory:read(0x3030, 12)))
      assert.same({ 47, 0x500 }, fields("<I2I4", vm.memory:read(0x3040, 6)))
      assert.same({ 2047, 0x600 }, fields("<I2I4", vm.memory:read(0x3048, 6)))
      assert.equal(0x28, vm.memory:u16(0x3050))
    end)

    it("in mode " .. mode .. " finds the boot information in EBX", function()
      for _, pic in ipairs{ true, false } do
        for _, coalesce in ipairs{ true, false } do
          local vm <close> = guest(mode, "89 1d 00 30 00 00 f4", -- mov [0x3000], ebx; hlt
                                   { irqchip = pic and "pic" or "none", coalesce = coalesce })
          halts(vm)
          local magic, size, ram, features, line, ranges, list = ("<I4I4I4I4I4I4I4"):unpack(
            vm.memory:read(vm.memory:u32(0x3000), 28))
          assert.same({ 0x49424b4d, 28, 4 << 20, 0 }, { magic, size, ram, line })
          assert.equal(1, ranges) -- in a PC's e820 form: address, size, type 1
          assert.same({ 0, 4 << 20, 1 }, fields("<I8I8I4", vm.memory:read(list, 20)))
          assert.same({ host.paging32 == "native", host.int_n == "native", host.iret == "native",
                        pic, coalesce },
                      { features & 1 ~= 0, features & 2 ~= 0, features & 4 ~= 0, features & 8 ~= 0,
                        features & 0x20 ~= 0 })
        end
      end
    end)

    it("in mode " .. mode .. " reads its command line", function()
      local PRINT <const> = [[
        8b 73 10   ; mov esi, [ebx + 16]
        ac         ; lodsb
        84 c0      ; test al, al
        74 04      ; jz to the end
        e6 e9      ; out 0xe9, al
        eb f7      ; jmp to the lodsb
        f4         ; hlt
      ]]
      for _, given in ipairs{ "init=trial x=1", "\xff\1", ("y"):rep(447), ("z"):rep(9999) } do
        local vm <close> = guest(mode, PRINT, { cmdline = given })
        halts(vm)
        assert.equal(given:sub(1, 447), (vm.console:text()))
      end
      local none <close> = guest(mode, "8b 43 10 f4", { cmdline = "" }) -- mov eax, [ebx + 16]; hlt
      halts(none)
      assert.equal(0, none.cpu[0].eax)
    end)

    it("in mode " .. mode .. " is the same again after a reset", function()
      local vm <close> = guest(mode, DUMP)
      halts(vm)
      local first = vm.memory:read(0, 0x4000)
      vm.memory:fill(0x500, 0xb00, 0xcc) -- the guest lost its tables
      vm:reset()
      halts(vm)
      assert.equal(first, vm.memory:read(0, 0x4000))
    end)
  end

  it("needs memory for its tables", function()
    for mode, sizes in pairs{ protected = { "4K", "8K" }, paged = { "1M", 0x101000 } } do
      assert.error_matches(function() kvm.vm{ mode = mode, memory = sizes[1] } end,
                           "too small for this mode")
      local enough <close> = guest(mode, "50 58 f4", { memory = sizes[2] })
      halts(enough) -- push eax; pop eax; hlt
    end
  end)

  it("has all of its memory at both addresses", function()
    local vm <close> = guest("paged", [[
      a1 fc ff ff 00      ; mov eax, [0x00fffffc]
      ff 05 fc ff ff 80   ; inc dword ptr [0x80fffffc]
      f4                  ; hlt
    ]], { memory = "16M" })
    vm.memory:u32(0xfffffc, 41)
    halts(vm)
    assert.same({ 41, 42 }, { vm.cpu[0].eax, vm.memory:u32(0xfffffc) })
  end)

  it("sees no page where no RAM is, though its 4 MiB page goes on", function()
    local vm <close> = support.code("a1 00 f0 4f 80 f4", { mode = "paged", memory = "5M" })
    halts(vm) -- mov eax, [0x804ff000]: the last page; hlt
    local beyond <close> = support.code("a1 00 00 60 80 f4", { mode = "paged", memory = "5M" })
    halts(beyond)
    assert.equal(0xffffffff, beyond.cpu[0].eax)
  end)
end)

describe("an image for a 32-bit guest", function()
  if support.without_kvm(pending) then return end

  it("begins where it is told", function()
    for mode, base in pairs{ protected = 0, paged = HIGH } do
      for entry, where in pairs{ [base + 0x1000] = {}, [base + 0x20000] = { at = 0x20000 },
                                 [base + 0x200000] = { at = 0x200000 },
                                 [base + 0x200001] = { at = 0x200000, entry = base + 0x200001 },
                                 [0x5001] = { at = 0x5000, entry = 0x5001 } } do
        local vm <close> = support.vm{ mode = mode }
        -- nop; nop; call the next instruction; pop eax; hlt
        assert(vm:load({ bytes = support.bytes "90 90 e8 00 00 00 00 58 f4" }, where))
        assert.equal(entry, vm.cpu[0].rip)
        halts(vm)
        assert.equal(where.entry and entry + 6 or entry + 7, vm.cpu[0].eax)
      end
    end
  end)

  local function refused(mode, size, where, text, code)
    it(("of %d bytes in mode %s is refused: %s"):format(size, mode, text), function()
      local vm <close> = support.vm{ mode = mode }
      local loaded, why, name = vm:load({ bytes = ("\xf4"):rep(size), name = "kernel" }, where)
      assert.is_nil(loaded)
      assert.matches("kernel: .*" .. text, why)
      assert.equal(code, name)
      assert.error_matches(function() vm:run() end, "nothing to run; the last load failed: kernel")
      assert.equal(("\0"):rep(64), vm.memory:read(0x1000, 64))
    end)
  end

  refused("protected", 0x400000, { at = 0 }, "it leaves no room in RAM for the GDT, the IDT",
          "EFBIG")
  refused("protected", 2, { at = 0x3fffff }, "not fit at 0x3fffff: there is room for 1$", "EFBIG")
  refused("protected", 1, { at = 0x400000 }, "not fit at 0x400000: there is room for 0$", "EFBIG")
  refused("protected", 1, { at = math.maxinteger }, "do not fit at 0x7fffffffffffffff", "EFBIG")
  refused("protected", 0x3ff001, {}, "room for 4190208", "EFBIG")
  refused("protected", 1, { entry = 0x400000 }, "entry 0x400000 is outside RAM", "EINVAL")
  refused("protected", 1, { entry = HIGH + 0x1000 }, "entry 0x80001000 is outside RAM", "EINVAL")
  refused("protected", 1, { entry = 1 << 40 }, "entry 0x10000000000 is outside RAM", "EINVAL")
  refused("protected", 1, { segment = 0 }, "segment= is for real mode", "EINVAL")
  refused("paged", 0x3ff000, { at = 0x1000 }, "no room in RAM for the page directory", "EFBIG")
  refused("paged", 0x2ff001, { at = 0x101000 }, "room for 3141632", "EFBIG")
  refused("paged", 1, { entry = 0x400000 }, "entry 0x400000 is not mapped: RAM appears at 0 and at "
          .. "0x80000000", "EINVAL")
  refused("paged", 1, { entry = 0x7fffffff }, "entry 0x7fffffff is not mapped", "EINVAL")
  refused("paged", 1, { entry = HIGH + 0x400000 }, "entry 0x80400000 is not mapped", "EINVAL")
  refused("paged", 1, { entry = (1 << 32) + 0x1000 }, "entry 0x100001000 is not mapped", "EINVAL")
  refused("paged", 1, { segment = 8 }, "segment= is for real mode", "EINVAL")

  -- The tables of the mode are where docs/abi.md says unless the image lies there; then they are
  -- elsewhere, and all that the processor was told of them is right.
  it("may lie anywhere in RAM", function()
    for mode, ranges in pairs{ protected = { { 0, 0x1001 }, { 0xfff, 20 }, { 0x500, 20 } },
                               paged = { { 0, 0x1001 }, { 0, 0x101001 }, { 0x100000, 20 },
                                         { 0x1000, 0xff001 }, { 0x100f00, 0x200 } } } do
      for _, range in ipairs(ranges) do
        local vm <close> = support.vm{ mode = mode, cmdline = "where" }
        local at, size = table.unpack(range)
        -- mov ecx, 0x10; mov ds, ecx; mov eax, [ebx+16]; sgdt [esp]; str cx; hlt
        local code = support.bytes "b9 10000000  8e d9  8b 43 10  0f 01 04 24  66 0f 00 c9  f4"
        assert(vm:load({ bytes = code .. ("\xcc"):rep(size - #code) }, { at = at }))
        for _ = 1, 2 do
          halts(vm)
          local gdt = vm.memory:u32(vm.cpu[0].esp + 2)
          assert.equal("where", vm.memory:cstring(vm.cpu[0].eax))
          assert.equal(vm.cpu[0].ebx - 0x900, gdt) -- 0xe00 and 0x500 of one page
          assert.equal(0x00cf93000000ffff, vm.memory:u64(gdt + 0x10))
          assert.equal(code, vm.memory:read(at, #code))
          assert.is_true(gdt >= at + size or gdt + 0xb00 <= at)
          assert(vm:reset())
          assert.equal(code, vm.memory:read(at, #code))
        end
      end
    end
  end)

  it("made for another address dies where it first jumps, and not silently", function()
    local vm <close> = support.vm{ mode = "paged" }
    -- mov eax, 0x80001007; jmp eax; hlt: right at 0x1000 only
    assert(vm:load({ bytes = support.bytes "b8 07 10 00 80 ff e0 f4" }, { at = 0x3000 }))
    vm.memory:fill(0x1000, 0x2000, 0xff) -- bytes that are no instruction
    local reason, info = run(vm)
    assert.is_true(reason == "shutdown" or reason == "fault", reason)
    assert.matches("registers:", info.report)
  end)
end)

describe("page tables", function()
  if support.without_kvm(pending) then return end

  it("are followed by cpu:translate and cpu:walk", function()
    local vm <close> = guest("paged", "f4")
    local cpu = vm.cpu[0]
    assert.same({ 0x1234, 4 << 20 }, { cpu:translate(0x1234) })
    assert.same({ 0x1234, 4 << 20 }, { cpu:translate(HIGH + 0x1234) })
    assert.is_nil((cpu:translate(0x400000)))
    assert.is_nil((cpu:translate(0xffffffff)))
    assert.same({ present = true, writable = true, user = true, address = 0x1fff,
                  page_size = 4 << 20, entries = { LARGE },
                  entry_addresses = { cpu.cr3 + 0x800 } }, cpu:walk(HIGH + 0x1fff))
    vm.memory:u32(ENTRY_OF_TABLE, TABLE | 7)
    vm.memory:u32(TABLE + 5 * 4, 0x200000 | 5)
    assert.same({ 0x200abc, 4096 }, { cpu:translate(0x1005abc) })
    assert.same({ present = true, writable = false, user = true, address = 0x200abc,
                  page_size = 4096, entries = { TABLE | 7, 0x200005 },
                  entry_addresses = { ENTRY_OF_TABLE, TABLE + 5 * 4 } }, cpu:walk(0x1005abc))
    local absent = cpu:walk(0x1006000)
    assert.same({ false, { TABLE | 7, 0 } }, { absent.present, absent.entries })
    for _, wrong in ipairs{ "x", 1.5, {} } do
      assert.error(function() cpu:translate(wrong) end)
      assert.error(function() cpu:walk(wrong) end)
    end
  end)

  it("are not there in protected mode", function()
    local vm <close> = guest("protected", "f4")
    assert.same({ 0x70001234, 4096 }, { vm.cpu[0]:translate(0x70001234) })
    assert.same({ present = true, writable = true, user = true, address = 5, page_size = 4096,
                  entries = {}, entry_addresses = {} }, vm.cpu[0]:walk(5))
  end)

  it("of the guest's own take over with CR3", function()
    local vm <close> = guest("paged", [[
      b8 00 30 10 00      ; mov eax, 0x103000
      0f 22 d8            ; mov cr3, eax
      e6 80               ; out 0x80, al
      8b 1d 00 00 00 c0   ; mov ebx, [0xc0000000]
      0f 20 d9            ; mov ecx, cr3
      f4                  ; hlt
    ]])
    vm.memory:u32(0x103000 + (HIGH >> 22) * 4, LARGE) -- the code stays where it is
    vm.memory:u32(0x103000 + (0xc0000000 >> 22) * 4, TABLE | 3)
    vm.memory:u32(TABLE, 0x3ff003)
    vm.memory:u32(0x3ff000, 0x600d)
    halts(vm)
    assert.same({ 0x600d, 0x103000, 0x103000 }, { vm.cpu[0].ebx, vm.cpu[0].ecx, vm.cpu[0].cr3 })
    assert.is_nil((vm.cpu[0]:translate(0x1000))) -- the identity map is gone
  end)

  it("can be exchanged from Lua", function()
    local vm <close> = guest("paged", "8b 1d 00 00 00 c0 f4") -- mov ebx, [0xc0000000]; hlt
    vm.memory:u32(0x103000 + (HIGH >> 22) * 4, LARGE)
    vm.memory:u32(0x103000 + (0xc0000000 >> 22) * 4, LARGE)
    vm.cpu[0].cr3 = 0x103000
    assert.equal(0x80010031, vm.cpu[0].cr0)
    halts(vm)
    assert.equal(vm.memory:u32(0), vm.cpu[0].ebx)
    assert.equal(0x103000, vm.cpu[0].cr3)
  end)

  it("that the guest changes hold from then on", function()
    local vm <close> = guest("paged", [[
      8b 1d 00 00 00 01               ; mov ebx, [0x1000000]
      c7 05 00 20 10 00 03 10 20 00   ; mov dword ptr [0x102000], 0x201003
      0f 20 d8                        ; mov eax, cr3
      0f 22 d8                        ; mov cr3, eax
      e6 80                           ; out 0x80, al
      8b 0d 00 00 00 01               ; mov ecx, [0x1000000]
      c7 05 04 00 00 01 78 56 34 12   ; mov dword ptr [0x1000004], 0x12345678
      f4                              ; hlt
    ]])
    vm.memory:u32(ENTRY_OF_TABLE, TABLE | 3)
    vm.memory:u32(TABLE, 0x200003)
    vm.memory:u32(0x200000, 0xaaaa)
    vm.memory:u32(0x201000, 0xbbbb)
    halts(vm)
    assert.same({ 0xaaaa, 0xbbbb, 0x12345678, 0 }, { vm.cpu[0].ebx, vm.cpu[0].ecx,
                vm.memory:u32(0x201004), vm.memory:u32(0x200004) })
  end)

  it("that a handler changes under the guest hold from then on", function()
    local vm <close> = guest("paged", [[
      8b 1d 00 00 00 01   ; mov ebx, [0x1000000]
      e6 80               ; out 0x80, al
      0f 20 d8            ; mov eax, cr3
      0f 22 d8            ; mov cr3, eax
      8b 0d 00 00 00 01   ; mov ecx, [0x1000000]
      f4                  ; hlt
    ]])
    vm.memory:u32(ENTRY_OF_TABLE, TABLE | 3)
    vm.memory:u32(TABLE, 0x200003)
    vm.memory:u32(0x200000, 0xaaaa)
    vm.memory:u32(0x201000, 0xbbbb)
    vm.ports:on(0x80, { write = function() vm.memory:u32(TABLE, 0x201003) end })
    halts(vm)
    assert.same({ 0xaaaa, 0xbbbb }, { vm.cpu[0].ebx, vm.cpu[0].ecx })
  end)

  it("that map themselves can be read and written through themselves", function()
    local vm <close> = guest("paged", [[
      a1 fc ff ff ff                  ; mov eax, [0xfffffffc]: the entry itself
      8b 1d 00 f0 ff ff               ; mov ebx, [0xfffff000]: the first one
      c7 05 10 f0 ff ff 87 00 00 00   ; mov dword ptr [0xfffff010], 0x87: 0x1000000 is RAM's start
      0f 20 d9                        ; mov ecx, cr3
      0f 22 d9                        ; mov cr3, ecx
      e6 80                           ; out 0x80, al
      8b 0d 00 10 00 01               ; mov ecx, [0x1001000]: this code
      f4                              ; hlt
    ]])
    vm.memory:u32(DIRECTORY + 1023 * 4, DIRECTORY | 3)
    halts(vm)
    assert.same({ DIRECTORY | 3, LARGE, 0xfffffca1 },
                { vm.cpu[0].eax & ~0x60, vm.cpu[0].ebx & ~0x60, vm.cpu[0].ecx }) -- but A and D
  end)

  it("with as many separate pages as there can be are followed", function()
    local vm <close> = guest("paged", [[
      31 db               ; xor ebx, ebx
      be 00 00 00 01      ; mov esi, 0x1000000
      03 1e               ; add ebx, [esi]
      81 c6 00 10 00 00   ; add esi, 0x1000
      81 fe 00 00 40 01   ; cmp esi, 0x1400000
      72 f0               ; jb to the add
      f4                  ; hlt
    ]])
    vm.memory:u32(ENTRY_OF_TABLE, TABLE | 3)
    for i = 0, 1023 do -- every second page, backwards: no two are neighbours
      vm.memory:u32(TABLE + i * 4, 0x200000 + (i % 2 * 256 + 255 - i // 2 % 256) * 4096 | 3)
    end
    for i = 0, 511 do vm.memory:u32(0x200000 + i * 4096, 1 << (i // 256 * 16)) end
    halts(vm)
    assert.equal(512 << 16 | 512, vm.cpu[0].ebx)
  end)

  it("with a read-only page stop a write by the kernel, as CR0.WP says", function()
    local vm <close> = guest("paged", "c7 05 10 00 00 01 01 00 00 00 f4") -- mov [0x1000010], 1; hlt
    handle(vm, 14, "0f 20 d0 5b f4") -- mov eax, cr2; pop ebx; hlt
    vm.memory:u32(ENTRY_OF_TABLE, TABLE | 3)
    vm.memory:u32(TABLE, 0x200001)
    halts(vm)
    assert.same({ 0x1000010, 3, 0 }, { vm.cpu[0].eax, vm.cpu[0].ebx, vm.memory:u32(0x200010) })
  end)

  for what, entry in pairs{ ["a table outside RAM"] = 0x7ffff003,
                            ["an absent table"] = 0xffffffe } do
    it("with " .. what .. " map nothing: a page fault", function()
      local vm <close> = guest("paged", "a1 34 12 00 01 f4") -- mov eax, [0x1001234]; hlt
      handle(vm, 14, "0f 20 d0 5b f4") -- mov eax, cr2; pop ebx; hlt
      vm.memory:u32(ENTRY_OF_TABLE, entry)
      local reason, info = run(vm)
      assert.equal("halt", reason, info.report)
      assert.same({ 0x1001234, 0 }, { vm.cpu[0].eax, vm.cpu[0].ebx & ~1 })
      assert.is_nil((vm.cpu[0]:translate(0x1001234)))
    end)
  end

  it("that map a page to where no RAM is read all ones, and go on", function()
    local vm <close> = guest("paged", [[
      a1 00 00 00 01      ; mov eax, [0x1000000]
      a3 00 00 00 01      ; mov [0x1000000], eax
      f4                  ; hlt
    ]])
    vm.memory:u32(ENTRY_OF_TABLE, TABLE | 3)
    vm.memory:u32(TABLE, 0x70000003)
    local info = halts(vm)
    assert.same({ 0xffffffff, 2 }, { vm.cpu[0].eax, info.served.none })
    vm:reset()
    local strict <close> = guest("paged", "a1 00 00 00 01 f4", { unhandled = "fault" })
    strict.memory:u32(ENTRY_OF_TABLE, TABLE | 3)
    strict.memory:u32(TABLE, 0x70000003)
    local reason, why = run(strict)
    assert.equal("fault", reason)
    assert.matches("outside RAM", why.text)
  end)

  it("outside RAM altogether end the guest", function()
    local vm <close> = guest("paged", [[
      b8 00 00 f0 7f   ; mov eax, 0x7ff00000
      0f 22 d8         ; mov cr3, eax
      e6 80            ; out 0x80, al
      f4               ; hlt
    ]])
    -- Some KVMs try for ever to read them; Intel's emulates the next instruction, and cannot fetch
    -- it.
    local reason, info = vm:run{ deadline = 0.5 }
    assert.is_true(reason == "shutdown" or reason == "fault" or reason == "deadline", reason)
    if native then assert.equal(0, info.assists) end
  end)

  it("are filled in on demand by a guest's page-fault handler", function()
    local vm <close> = guest("paged", [[
      a1 10 00 00 01                  ; mov eax, [0x1000010]
      a3 00 30 00 00                  ; mov [0x3000], eax
      c7 05 10 10 00 01 78 56 34 12   ; mov dword ptr [0x1001010], 0x12345678
      ff 05 14 10 00 01               ; inc dword ptr [0x1001014]
      b8 00 20 00 01                  ; mov eax, 0x1002000
      ff d0                           ; call eax
      f4                              ; hlt
    ]])
    handle(vm, 14, [[
      50                     ; push eax
      51                     ; push ecx
      ff 05 10 30 00 00      ; inc dword ptr [0x3010]
      0f 20 d0               ; mov eax, cr2
      89 c1                  ; mov ecx, eax
      c1 e9 0c               ; shr ecx, 12
      81 e1 ff 03 00 00      ; and ecx, 0x3ff
      25 00 30 00 00         ; and eax, 0x3000
      05 03 00 20 00         ; add eax, 0x200003
      89 04 8d 00 20 10 00   ; mov [0x102000 + ecx * 4], eax
      0f 20 d8               ; mov eax, cr3
      0f 22 d8               ; mov cr3, eax
      59                     ; pop ecx
      58                     ; pop eax
      83 c4 04               ; add esp, 4
      cf                     ; iretd
    ]])
    vm.memory:u32(ENTRY_OF_TABLE, TABLE | 3)
    vm.memory:u32(0x200010, 0xfeed)
    vm.memory:u32(0x201014, 6)
    vm.memory:write(0x202000, "\xc3") -- ret
    local info = halts(vm)
    assert.same({ 0xfeed, 0x12345678, 7, 3 }, { vm.memory:u32(0x3000), vm.memory:u32(0x201010),
                vm.memory:u32(0x201014), vm.memory:u32(0x3010) })
    assert.equal(native, info.assists == 0)
  end)
end)

describe("rings", function()
  if support.without_kvm(pending) then return end

  -- To ring 3 by iret, with the TSS loaded anew; there: int 0x30, whose handler halts.
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

  local function ring3(mode, user, opts)
    local vm = guest(mode, RING3, opts)
    vm.memory:u8(0x500 + 0x28 + 5, 0x89) -- the TSS, not busy
    vm.memory:write(0x5000, support.bytes(user))
    handle(vm, 6, "8c d8 8b 1c 24 8b 4c 24 04 8b 54 24 0c f4")
    -- mov eax, ds; mov ebx, [esp]; mov ecx, [esp + 4]; mov edx, [esp + 12]; hlt
    return vm
  end

  for _, mode in ipairs{ "protected", "paged" } do
    it("change by iret, and back by an exception with the TSS's stack, in mode " .. mode, function()
      local vm <close> = ring3(mode, "0f 0b") -- ud2
      local info = halts(vm)
      local cpu = vm.cpu[0]
      assert.same({ 0x5000, 0x1b, 0x300000, 0x08, 0x10, 0x3ffff0 - 20 },
                  { cpu.ebx, cpu.ecx, cpu.edx, cpu.cs, cpu.ss, cpu.esp })
      assert.equal(0, cpu.eax) -- DS was the kernel's: emptied
      assert.equal(host.iret == "native", info.assists == 0)
    end)
  end

  it("keep programs off kernel pages, where paging is native", function()
    if not native then return pending("this KVM's paging is an assist, which does not do that") end
    local vm <close> = ring3("paged", "8e d8 a1 00 00 40 00") -- mov ds, eax; mov eax, [0x400000]
    vm.memory:write(0x5000, support.bytes "b8 23 00 00 00 8e d8 a1 00 00 40 00")
    vm.memory:u32(DIRECTORY + 4, 0x83) -- 0x400000: RAM's start, supervisor
    handle(vm, 14, "58 0f 20 d3 f4") -- pop eax; mov ebx, cr2; hlt
    halts(vm)
    assert.same({ 5, 0x400000 }, { vm.cpu[0].eax, vm.cpu[0].ebx }) -- present, user
  end)
end)

describe("assist = false", function()
  if support.without_kvm(pending) then return end

  it("names 32-bit paging where the host lacks it", function()
    local vm <close> = support.vm{ mode = "paged", assist = false, name = "bare" }
    local loaded, why, code = vm:load{ bytes = "\xf4" }
    if native then
      assert.is_truthy(loaded)
      assert.equal("halt", (run(vm)))
    else
      assert.is_nil(loaded)
      assert.matches('vm "bare": this KVM does not run 32%-bit paging .*leave assist on', why)
      assert.equal("EOPNOTSUPP", code)
      assert.error_matches(function() vm:run() end, "does not run 32%-bit paging")
    end
  end)

  for name, case in pairs{
    int_n = { "cd 30 f4", "int 0x30" },
    iret = { "9c 6a 08 68 08 10 00 00 cf f4", "iretd?" }, -- pushfd; push 8; push 0x1009 - 1; iretd
  } do
    it("names " .. case[2] .. " where the host lacks it", function()
      local vm <close> = guest("protected", case[1], { assist = false })
      handle(vm, 0x30, "f4")
      local reason, info = support.run(vm)
      assert.equal(0, info.assists)
      if host[name] == "native" then
        assert.is_not.equal("fault", reason)
      else
        assert.equal("fault", reason)
        assert.matches("KVM could not run the instruction at rip 0x%x+ %(bytes %x%x", info.text)
        assert.matches("likeliest cause: this KVM cannot run it itself, and the assist is off",
                       info.report, 1, true)
        assert.matches("> %x+  [%x ]+ " .. case[2], info.report)
      end
    end)
  end

  it("changes nothing for guests that need none", function()
    local vm <close> = guest("protected", DUMP, { assist = false })
    halts(vm)
    local paged = guest("protected", "b8 07 00 00 00 f4", { assist = false })
    halts(paged)
    assert.equal(7, paged.cpu[0].eax)
    paged:close()
  end)
end)

describe("PAE under the paging assist", function()
  if support.without_kvm(pending) then return end

  it("is refused by name, not silently", function()
    local vm <close> = guest("paged", [[
      0f 20 e0   ; mov eax, cr4
      83 c8 20   ; or eax, PAE
      0f 22 e0   ; mov cr4, eax
      e6 80      ; out 0x80, al
      f4         ; hlt
    ]])
    local reason, info = vm:run{ deadline = 2 }
    if native then
      assert.equal(0, info.assists)
      assert.is_not.equal("halt", reason) -- the tables are of two levels
    else
      assert.equal("fault", reason)
      assert.matches("two%-level page tables only, not PAE", info.text)
    end
  end)
end)
