-- Linux kernels: bzImage by the 64-bit boot protocol (Linux, Documentation/arch/x86/boot.rst), ELF
-- kernels by their PVH note (Xen, public/arch-x86/hvm/start_info.h). The kernels here are small
-- ones of our own, which print what they were told; that Debian's starts is shown by
-- spec/guests/linux_guest_spec.lua.

local make = require "support.image"
local support = require "support.guest"

local MIB <const> = 1 << 20
local AT <const> = make.BZIMAGE_AT
local RAM <const> = 64 * MIB

local kernel, bytes_of = make.bzimage, make.bzimage_bytes

local function wants(more)
  local want = make.wants(64, { limit = RAM })
  for key, value in pairs(more or {}) do want[key] = value end
  return want
end

---@param initrd integer?  its size
local function source_of(bytes, initrd)
  local source = make.source(bytes, "vmlinuz")
  if initrd then
    source.initrd, source.modules = true, { { name = "initrd", size = initrd, text = "" } }
  end
  return source
end

local function refused(change, message, code, want, initrd)
  local k = kernel()
  for key, value in pairs(change) do k[key] = value end
  local made, why, name = make.plan(source_of(bytes_of(k), initrd), wants(want))
  assert.is_nil(made)
  assert.is_truthy(why:find(message, 1, true), why)
  assert.equal(code, name)
end

describe("a bzImage", function()
  local function page_of(made) -- fields of the zero page (zero-page.rst)
    local page = made.info.bytes
    return function(format, at) return (format:unpack(page, at + 1)) end, page
  end

  it("goes to its address, with the initrd as high as it may be, the zero page in RSI", function()
    local k = kernel()
    local made = assert(make.plan(source_of(bytes_of(k), 5000), wants{ cmdline = "quiet a=b" }))
    assert.same({ "linux", AT + 0x200 }, { made.format, made.entry })
    assert.same({ { at = AT, linear = AT, offset = 1024, file_bytes = #k.payload,
                    mem_bytes = 8 * MIB } }, made.segments)
    local get, page = page_of(made)
    assert.same({ esi = made.info.at }, made.regs)
    assert.equal(RAM - 8192, made.modules[1].at) -- below the end of RAM, on a page
    assert.same({ RAM - 8192, 5000 }, { get("<I4", 0x218), get("<I4", 0x21c) })
    assert.same({ 0xff, 0x81, AT }, { get("B", 0x210), get("B", 0x211), get("<I4", 0x214) })
    assert.match("^quiet a=b%z", page:sub(get("<I4", 0x228) - made.info.at + 1))
    assert.equal("HdrS", page:sub(0x203, 0x206))
    assert.equal(3, get("B", 0x1e8)) -- e820: as on a PC, type 1 is RAM
    local e820 = {}
    for i = 0, 2 do e820[i + 1] = { ("<I8I8I4"):unpack(page, 0x2d1 + 20 * i) } end
    assert.same({ { 0, 0xa0000, 1, 0x2e5 }, { 0xa0000, 0x60000, 2, 0x2f9 },
                  { MIB, RAM - MIB, 1, 0x30d } }, e820)
  end)

  it("has its initrd below initrd_addr_max, and clear of what minikvm keeps", function()
    local k = kernel()
    k.initrd_max = 48 * MIB - 1
    local made = assert(make.plan(source_of(bytes_of(k), 4096), wants()))
    assert.equal(48 * MIB - 4096, made.modules[1].at)
    local block = { what = "tables", at = 47 * MIB, usual = 47 * MIB, from = 0, to = MIB,
                    limit = RAM }
    made = assert(make.plan(source_of(bytes_of(k), 4096), wants{ blocks = { block } }))
    assert.equal(47 * MIB - 4096, made.modules[1].at)
  end)

  it("may have 0 or 255 sectors of setup code, and none of those beyond the file", function()
    for sectors, offset in pairs{ [0] = 5 * 512, [255] = 256 * 512 } do -- 0 means 4
      local k = kernel()
      k.setup_sects = sectors
      local made = assert(make.plan(source_of(bytes_of(k)), wants()))
      assert.equal(offset, made.segments[1].offset)
      local cut = bytes_of(k):sub(1, offset)
      local _, why = make.plan(source_of(cut), wants())
      assert.match("ends within the setup code", why)
    end
  end)

  it("goes elsewhere when it is relocatable and that is asked for", function()
    local k = kernel()
    local made = assert(make.plan(bytes_of(k), wants{ at = 32 * MIB, has_at = true }))
    assert.same({ 32 * MIB, 32 * MIB + 0x200 }, { made.segments[1].at, made.entry })
    refused({}, "goes to a multiple of 0x200000", "EINVAL", { at = 33 * MIB, has_at = true })
    refused({ alignment = 0 }, "goes to a multiple of", "EINVAL", { at = 32 * MIB, has_at = true })
    refused({ relocatable = 0 }, "is not relocatable: it runs at 0x1000000", "EINVAL",
            { at = 32 * MIB, has_at = true })
    k.relocatable = 0
    assert.equal(AT, assert(make.plan(bytes_of(k), wants())).segments[1].at)
  end)

  it("that is cut short is refused, wherever that is", function()
    local whole = bytes_of(kernel())
    for length = 1, #whole - 1 do
      local made, why, code = make.plan(source_of(whole:sub(1, length)), wants{ format = "linux" })
      assert.is_nil(made, length)
      assert.is_truthy(why:find("ends within the setup", 1, true)
                       or why:find("is cut short", 1, true), why)
      assert.equal("ENOEXEC", code)
    end
  end)

  it("is refused for what its header says", function()
    local asked <const> = { format = "linux" }
    refused({ magic = "HdrX" }, "no magic number HdrS at 0x202", "ENOEXEC", asked)
    refused({ boot_flag = 0x55aa }, "no boot_flag 0xaa55", "ENOEXEC", asked)
    refused({ version = 0x20b }, "version 2.11: the 64-bit boot protocol takes 2.12", "ENOEXEC")
    refused({ version = 0 }, "version 0.00", "ENOEXEC")
    refused({ xloadflags = 0 }, "it is a kernel of 32 bits", "ENOEXEC")
    refused({ loadflags = 0 }, "a zImage", "ENOEXEC")
    refused({ length = 0x20 }, "it ends at 0x222, before init_size", "ENOEXEC")
    refused({ syssize = 0x20 }, "have no 64-bit entry point", "ENOEXEC")
    refused({ syssize = 0xffffffff }, "the file is cut short: syssize makes the kernel 68719476720",
            "ENOEXEC")
    for _, address in ipairs{ -1, math.mininteger, 1 << 32, math.maxinteger } do
      refused({ pref_address = address }, "is no address below 4 GiB", "ENOEXEC")
    end
  end)

  it("that does not fit is refused with the RAM that it takes", function()
    refused({ init_size = 0x7fffffff }, "it takes RAM of 2066 MiB at least: memory=\"2066M\"",
            "EFBIG")
    refused({ init_size = 0xffffffff }, "(init_size), RAM ends at 0x4000000", "EFBIG")
    refused({}, "it takes RAM of 26 MiB at least", "EFBIG", { limit = 8 * MIB })
    refused({}, "it takes RAM of 26 MiB at least", "EFBIG", { limit = 24 * MIB - 4096 })
    refused({}, "initrd: 52428800 bytes do not fit into RAM beside the kernel: it takes RAM of 76 "
            .. "MiB", "EFBIG", nil, 50 * MIB)
    refused({ initrd_max = 20 * MIB }, "do not fit below 0x1400000, where this kernel takes its "
            .. "initrd (initrd_addr_max)", "EFBIG", nil, 16 * MIB)
    refused({ initrd_max = 0 }, "initrd_addr_max", "EFBIG", nil, 1)
    for mib, want in pairs{ [26] = true, [24] = false } do -- what the message says is enough
      local _, why = make.plan(source_of(bytes_of(kernel())), wants{ limit = mib * MIB - 8192 })
      assert.equal(want, why == nil)
    end
  end)

  it("is refused with a command line that it does not take", function()
    refused({ cmdline_size = 10 }, "of 11 bytes is longer than this kernel takes: 10", "E2BIG",
            { cmdline = "12345678901" })
    refused({}, "has a NUL in it", "EINVAL", { cmdline = "a\0b" })
    local k = kernel()
    k.cmdline_size = 10
    assert(make.plan(bytes_of(k), wants{ cmdline = "1234567890" }))
  end)
end)

describe("a VM of mode \"linux\"", function()
  if support.without_kvm(pending) then return end

  -- mov esi, [rsi + 0x228] (cmd_line_ptr); mov dx, 0xe9; again: lodsb; test al, al; jz done;
  -- out dx, al; jmp again; done: cli; hlt
  local PRINTS_LINE <const> = support.bytes
    "8b b6 28 02 00 00 66 ba e9 00 ac 84 c0 74 03 ee eb f8 fa f4"

  local function vm_of(o)
    return support.vm{ mode = "linux", memory = RAM, cmdline = o and o.cmdline }
  end

  it("starts a bzImage, with words on the machine before the script's own", function()
    local vm <close> = vm_of()
    assert(vm:load({ bytes = bytes_of(kernel(PRINTS_LINE)) }, { cmdline = "quiet x=1" }))
    assert.equal("long", vm.mode)
    assert.equal("halt", (support.run(vm)))
    local text = vm.console:text()
    assert.match("^console=ttyS0 ", text)
    assert.match(" quiet x=1$", text)
    assert(vm:reset()) -- RSI and what it points to are there again
    assert.equal("halt", (support.run(vm)))
    assert.equal(text, vm.console:text())
  end)

  it("has the selectors of the boot protocol, in a GDT that holds them", function()
    -- mov ax, cs; out 0xe9, al; mov ax, ds; out; mov ax, ss; out; push 0x18; pop ds; mov ax, ds;
    -- out; push 0x10; lea rax, [rip + 2]; push rax; retfq; hlt; mov al, 'r'; out 0xe9, al; hlt
    local code = support.bytes [[66 8c c8 e6 e9 66 8c d8 e6 e9 66 8c d0 e6 e9 6a 18 58 8e d8
      66 8c d8 e6 e9 6a 10 48 8d 05 04 00 00 00 50 48 cb f4 b0 72 e6 e9 f4]]
    local vm <close> = vm_of()
    assert(vm:load{ bytes = bytes_of(kernel(code)) })
    assert.equal("halt", (support.run(vm)))
    assert.equal("\x10\x18\x18\x18r", (vm.console:text()))
    local gdt = vm.cpu[0]:sregs().gdt
    assert.equal(("<i8i8"):pack(0x00af9b000000ffff, 0x00cf93000000ffff),
                 vm.memory:read(gdt.base + 0x10, 16))
  end)

  it("hands the initrd over", function()
    -- mov ecx, [rsi + 0x21c]; mov esi, [rsi + 0x218]; mov dx, 0xe9; rep outsb; hlt
    local prints = support.bytes "8b 8e 1c 02 00 00 8b b6 18 02 00 00 66 ba e9 00 f3 6e f4"
    local vm <close> = vm_of()
    assert(vm:load({ bytes = bytes_of(kernel(prints)) }, { initrd = { bytes = "the initrd" } }))
    assert.equal("halt", (support.run(vm)))
    assert.equal("the initrd", vm.console:text())
    local made, why = vm_of():load({ bytes = bytes_of(kernel()) }, { initrd = "/nosuch/initrd" })
    assert.is_nil(made)
    assert.match("/nosuch/initrd: No such file", why)
  end)

  it("starts an ELF kernel at its PVH entry point, with modules", function()
    -- mov esi, [ebx + 24] (cmdline_paddr); mov dx, 0xe9; again: lodsb; test al, al; jz next;
    -- out dx, al; jmp again; next: mov eax, [ebx + 16] (modlist_paddr); mov esi, [eax];
    -- mov ecx, [eax + 8]; rep outsb; mov eax, [ebx]; hlt
    local program = support.bytes [[8b 73 18 66 ba e9 00 ac 84 c0 74 03 ee eb f8 8b 43 10 8b 30
                                 8b 48 08 f3 6e 8b 03 f4]]
    local note = ("<I4I4I4c4I4"):pack(4, 4, 18, "Xen\0", 0x100000)
    local elf = "\x7fELF\1\1\1" .. ("\0"):rep(9)
      .. ("<I2I2I4I4I4I4I4I2I2I2I2I2I2"):pack(2, 3, 1, 0x100000, 52, 0, 0, 52, 32, 2, 40, 0, 0)
      .. ("<I4I4I4I4I4I4I4I4"):pack(4, 116, 0, 0, #note, #note, 0, 4)
      .. ("<I4I4I4I4I4I4I4I4"):pack(1, 116 + #note, 0x100000, 0x100000, #program, #program, 7, 1)
      .. note .. program
    for _, mode in ipairs{ "linux", "open", "protected" } do
      local vm <close> = support.vm{ mode = mode ~= "open" and mode or nil, memory = RAM }
      assert(vm:load({ bytes = elf }, { cmdline = "line ", modules = { { bytes = "module" } } }))
      assert.equal("protected", vm.mode)
      assert.equal("halt", (support.run(vm)), mode)
      assert.match("line module$", (vm.console:text()))
      assert.equal(0x336ec578, vm.cpu[0].eax)
    end
    local vm <close> = support.vm{ mode = "protected" }
    local damaged = elf:gsub("Xen", "Xom")
    local made, why, code = vm:load({ bytes = damaged }, { format = "pvh" })
    assert.same({ nil, "ENOEXEC" }, { made, code })
    assert.match("it has no note of a PVH entry point", why)
  end)

  it("says how much RAM a vmlinux takes that does not fit", function()
    local note = ("<I4I4I4c4I4"):pack(4, 4, 18, "Xen\0", AT)
    local function elf_of(top) -- an ELF32 file (gABI, chapter 5): a note and a segment up to `top`
      return "\x7fELF\1\1\1" .. ("\0"):rep(9)
        .. ("<I2I2I4I4I4I4I4I2I2I2I2I2I2"):pack(2, 3, 1, AT, 52, 0, 0, 52, 32, 2, 40, 0, 0)
        .. ("<I4I4I4I4I4I4I4I4"):pack(4, 116, 0, 0, #note, #note, 0, 4)
        .. ("<I4I4I4I4I4I4I4I4"):pack(1, 116, AT, AT, 4, top - AT, 7, 1) .. note
    end
    local vm <close> = vm_of()
    local made, why, code = vm:load({ bytes = elf_of(80 * MIB) },
                                    { initrd = { bytes = ("x"):rep(3 * MIB) } })
    assert.same({ nil, "EFBIG" }, { made, code })
    assert.match("needs RAM up to 0x5000000, RAM ends at 0x4000000: it takes RAM of 84 MiB", why)
    local enough <close> = support.vm{ mode = "linux", memory = "84M" }
    assert(enough:load({ bytes = elf_of(80 * MIB) }, { initrd = { bytes = ("x"):rep(3 * MIB) } }))
    made, why = vm_of():load{ bytes = elf_of(0xfffff000) } -- more than there can be
    assert.is_nil(made)
    assert.match("it takes RAM of 4096 MiB", why)
  end)

  it("takes nothing but Linux; a bzImage is for it", function()
    for bytes, message in pairs{
      [("\xf4"):rep(4096)] = "neither a bzImage .* nor an ELF file with a PVH note",
      [""] = "the image is empty",
      [make.bytes(make.elf(64))] = "neither a bzImage",
    } do
      local vm <close> = vm_of()
      local made, why = vm:load({ bytes = bytes })
      assert.is_nil(made)
      assert.match(message, why)
      assert.not_match("mode=", why) -- that was chosen
    end
    local vm <close> = support.vm()
    local made, why = vm:load{ bytes = bytes_of(kernel()) }
    assert.is_nil(made)
    assert.match("mode=\"linux\"", why)
    assert.error_matches(function()
      vm:load({ bytes = "\xf4" }, { initrd = "a", modules = { "b" } })
    end, "either 'initrd' or 'modules'")
    made, why = vm:load({ bytes = "\xf4" }, { initrd = { bytes = "x" } })
    assert.is_nil(made)
    assert.match("initrd= is for Linux kernels", why)
  end)

  it("forks with the devices that it has", function()
    -- mov dx, 0xe9; mov al, 'a'; out dx, al; hlt; mov al, 'b'; out dx, al; hlt
    local vm <close> = vm_of()
    assert(vm:load{ bytes = bytes_of(kernel(support.bytes
      "fa 66 ba e9 00 b0 61 ee f4 b0 62 ee f4")) })
    assert.equal("halt", (support.run(vm)))
    local child <close> = assert(vm:fork())
    child.console:echo(false)
    assert.equal("halt", (support.run(child)))
    assert.match("b$", child.console:text())
  end)

  it("tells what Linux's last line means, and shows the last lines", function()
    -- prints a text behind the code; then hlt, or pulses the reset line: mov al, 0xfe; out 0x64, al
    local function ends(text, code)
      local prints = "48 8d 35 14 00 00 00 66 ba e9 00 ac 84 c0 74 03 ee eb f8 "
      local bytes = support.bytes(prints .. code .. " 90 90 90 90 90")
      bytes = bytes:sub(1, 27) .. text .. "\0"
      local vm <close> = vm_of()
      assert(vm:load{ bytes = bytes_of(kernel(bytes)) })
      local reason, info = support.run(vm)
      return reason, info.text, info.report
    end
    local RESET <const>, HALT <const> = "b0 fe e6 64 f4", "fa f4 90 90 90"
    local reason, text, report = ends("[ 1.0] reboot: System halted\r\n", HALT)
    assert.equal("halt", reason)
    assert.match("^Linux powered off, or was halted %(", text)
    assert.is_nil(report)
    reason, text, report =
      ends("[ 1.0] Kernel panic - not syncing: no init\r\n[ 2.0] trace\r\n", RESET)
    assert.equal("shutdown", reason)
    assert.match("^Linux panicked: no init %(reset by the keyboard controller", text)
    assert.equal("the guest's last lines:\n[ 1.0] Kernel panic - not syncing: no init\n"
                 .. "[ 2.0] trace", report)
    reason, text = ends("[ 1.0] reboot: Restarting system\n", RESET)
    assert.equal("shutdown", reason)
    assert.match("^Linux rebooted %(", text)
  end)
end)
