-- The BIOS services in Lua, and SeaBIOS, as 16-bit guests see them: boot sectors that call them.
-- What they must answer is in IBM's PC/AT Technical Reference ("BIOS") unless another source is
-- named.

local kvm = require "minikvm"
local process = require "support.process"
local support = require "support.guest"

local SECTOR <const> = 512
local RESULTS <const> = 0x7000 -- of the calls: AX, flags, BX, CX, DX, 16 bytes each
local EXIT <const> = "\xe6\xf4" -- out 0xf4, al
local CARRY <const>, ZERO <const> = 0x01, 0x40

---An interrupt with registers: mov ax, …; int n.
local REGISTERS <const> = { ax = 0xb8, cx = 0xb9, dx = 0xba, bx = 0xbb, bp = 0xbd, si = 0xbe,
                            di = 0xbf }
local function int(n, registers)
  local code = {}
  for name, value in pairs(registers or {}) do
    code[#code + 1] = ("<BI2"):pack(REGISTERS[name], value)
  end
  return table.concat(code) .. ("BB"):pack(0xcd, n)
end

---mov [at], ax; pushf; pop ax; mov [at + 2], ax; mov [at + 4], bx; … cx; … dx; … es
local function keep(i)
  local at = RESULTS + 16 * i
  return ("<BI2BBBI2I2I2I2I2I2I2I2I2"):pack(0xa3, at, 0x9c, 0x58, 0xa3, at + 2, 0x1e89, at + 4,
                                         0x0e89, at + 6, 0x1689, at + 8, 0x068c, at + 10)
end

local function result(vm, i)
  local ax, flags, bx, cx, dx, es = ("<I2I2I2I2I2I2"):unpack(vm.memory:read(RESULTS + 16 * i, 12))
  return { ax = ax, flags = flags, bx = bx, cx = cx, dx = dx, es = es, carry = flags & CARRY ~= 0,
           ah = ax >> 8 }
end

---Code as a disk's boot sector, and what follows it.
local function boot_disk(code, rest)
  assert(#code <= 510, "the code does not fit into a sector")
  return code .. ("\0"):rep(510 - #code) .. "\x55\xaa" .. (rest or "")
end

---A VM that boots from a disk of so many bytes.
local function machine(parts, opts)
  local o = { echo = false, bios = "lua", memory = "4M", limits = { seconds = 30 } }
  for key, value in pairs(opts or {}) do o[key] = value end
  local disk = o.disk or {}
  if not disk.path then
    disk.bytes = boot_disk(table.concat(parts) .. "\xb0\0" .. EXIT, disk.bytes) -- mov al, 0
    disk.size = disk.size or 1474560
  end
  o.disk = disk
  return assert(kvm.vm(o))
end

local function run(vm, want)
  local reason, info = vm:run{ deadline = 30 }
  assert.equal(want or "exit", reason, info.text .. (info.traceback or ""))
  return info
end

local has_seabios = support.read_file "/usr/share/seabios/bios-256k.bin" ~= nil

describe("a boot disk", function()
  if support.without_kvm(pending) then return end

  local program = support.read_file "guests/real/disk.bin"
  local FLOPPY <const>, FIXED <const> = 1474560, 8 << 20
  local OUTPUT <const> = {
    [FLOPPY] = { "drive 00 heads 02 sectors 12", "written and read", "an error is an error" },
    [FIXED] = { "drive 80 heads 10 sectors 3f", "written and read", "read by number",
                "an error is an error" },
  }

  local function boots(bios, size)
    local vm <close> = assert(kvm.vm{ disk = { bytes = program, size = size }, bios = bios,
                                      echo = false })
    vm.console:send "hello\r"
    local info = run(vm)
    local text = vm.console:text()
    assert.equal(0, info.code, text)
    for _, line in ipairs(OUTPUT[size]) do assert.is_truthy(text:find(line, 1, true), text) end
    assert.matches("ram 10000000", text)
    assert.matches("keys: hello", text)
    local screen = tostring(vm:screen())
    assert.matches("keys: hello 1c", screen)
    assert.matches("%*", vm:screen():row(10))
    return vm:disk(1)
  end

  for name, size in pairs{ diskette = FLOPPY, ["fixed disk"] = FIXED } do
    it("runs from a " .. name .. " by the services in Lua", function()
      boots("lua", size)
    end)
    it("runs from a " .. name .. " by SeaBIOS", function()
      if not has_seabios then return pending "SeaBIOS is not installed (package seabios)" end
      boots("seabios", size)
    end)
  end

  it("is found by SeaBIOS on a machine with PCI, too, however small it is", function()
    if not has_seabios then return pending "SeaBIOS is not installed (package seabios)" end
    local vm <close> = assert(kvm.vm{ disk = { bytes = program }, echo = false,
                                      pci = { require("minikvm.devices.pvpanic").new() } })
    vm.console:send "pci\r"
    assert.equal(0, run(vm).code)
    assert.matches("keys: pci", tostring(vm:screen()))
  end)

  it("is written in memory, and the image when that is asked for", function()
    local path = process.temporary(program .. ("\0"):rep(FLOPPY - #program))
    for _, write in ipairs{ false, true } do
      local vm <close> = assert(kvm.vm{ disk = { path = path, write = write }, bios = "lua",
                                        echo = false })
      vm.console:send "\r"
      assert.equal(0, run(vm).code)
      assert.equal("MK", vm:disk(1):read(20 * SECTOR, 2))
      local on_host = support.read_file(path):sub(20 * SECTOR + 1, 20 * SECTOR + 2)
      assert.equal(write and "MK" or "\0\0", on_host)
    end
    os.remove(path)
  end)

  it("goes on from a snapshot in a file, on the same image", function()
    local path, file = process.temporary(program .. ("\0"):rep(FLOPPY - #program)), os.tmpname()
    local vm <close> = assert(kvm.vm{ disk = path, bios = "lua", echo = false })
    vm.console:expect "keys: "
    assert(assert(vm:snapshot()):save(file))
    local snap = assert(kvm.load_snapshot(file))
    local again <close> = assert(snap:vm{ disk = path, bios = "lua", echo = false })
    again.console:send "again\r"
    assert.equal(0, run(again).code)
    assert.matches("keys: again", tostring(again:screen()))
    assert.equal("MK", again:disk(1):read(20 * SECTOR, 2)) -- written before
    local image = assert(io.open(path, "r+b"))
    image:seek("set", 30 * SECTOR)
    image:write "another"
    image:close()
    local ok, why = pcall(snap.vm, snap, { disk = path, bios = "lua", echo = false })
    assert.is_false(ok)
    assert.matches("is another image now, or was written to", why)
    os.remove(file)
    os.remove(path)
  end)

  it("keeps its image when another takes the name of that", function()
    local path = process.temporary(program .. ("\0"):rep(FLOPPY - #program))
    local vm <close> = assert(kvm.vm{ disk = path, bios = "lua", echo = false })
    local other = process.temporary(("x"):rep(FLOPPY))
    assert(os.rename(other, path))
    vm.console:send "\r"
    assert.equal(0, run(vm).code)
    assert.equal(program:sub(1, SECTOR), vm:disk(1):read(0, SECTOR))
    os.remove(path)
  end)

  it("boots again after a reset, and branches while it waits for a key", function()
    local vm <close> = assert(kvm.vm{ disk = { bytes = program, size = FLOPPY }, bios = "lua",
                                      echo = false })
    for _ = 1, 2 do
      vm.console:expect "keys: "
      assert(vm:reset())
    end
    vm.console:expect "keys: "
    local children = assert(vm:fork(3))
    for i, child in ipairs(children) do child.console:send(("child %d\r"):format(i)) end
    for i, child in ipairs(children) do
      child.console:echo(false)
      assert.equal(0, run(child).code)
      assert.matches("keys: child " .. i, tostring(child:screen()))
      child:close()
    end
  end)
end)

describe("kvm.vm with a disk", function()
  if support.without_kvm(pending) then return end

  local function refused(opts, pattern, code)
    local vm, why, name = kvm.vm(opts)
    assert.is_nil(vm)
    assert.matches(pattern, why)
    assert.equal(code, name)
  end

  it("says what is wrong with its image, or with its BIOS", function()
    refused({ disk = "/nowhere", bios = "lua" }, "^/nowhere: No such file", "ENOENT")
    refused({ disk = "/dev/null", bios = "lua" }, "neither a file nor a block device", "EINVAL")
    refused({ disk = { size = 512 }, bios = "/nowhere" }, "/nowhere: No such file", "ENOENT")
    local path = process.temporary(("x"):rep(65536))
    refused({ disk = { size = 512 }, bios = path }, "no BIOS: .*package seabios.*bios lua",
            "EINVAL")
    refused({ disk = { size = 512 }, bios = "/dev/null" }, "not a regular file", "EINVAL")
    refused({ disk = { size = 512 }, bios = "/tmp" }, "it is a directory", "EISDIR")
    assert(os.execute("truncate -s 1T " .. path)) -- refused without being read
    refused({ disk = { size = 512 }, bios = path }, "no BIOS", "EINVAL")
    os.remove(path)
    if not has_seabios then
      refused({ disk = { size = 512 } }, "SeaBIOS is not installed: .*package seabios.*bios lua",
              "ENOENT")
    end
  end)

  it("blames options that do not go with it on the script", function()
    for pattern, opts in pairs{
      ["starts in mode \"real\", this is \"long\""] = { disk = "x", mode = "long" },
      ["needs irqchip"] = { disk = "x", irqchip = "none" }, ["one vCPU"] = { disk = "x", cpus = 2 },
      ["memory of 1M or more"] = { disk = "x", memory = "512K" },
      ["5 disks, 4 at most"] = { disk = { "a", "b", "c", "d", "e" } },
      ["'bios' is for a VM with a 'disk'"] = { bios = "lua" },
    } do
      local ok, why = pcall(kvm.vm, opts)
      assert.is_false(ok)
      assert.matches("bios_spec.lua:%d+: .*" .. pattern, why)
    end
  end)

  it("stops a guest that finds nothing to boot, and says why", function()
    local told = {}
    for _, case in ipairs{ { { size = 1474560 }, "no boot sector" }, { {}, "there is no disk" } } do
      local vm <close> = case[1].size and assert(kvm.vm{
        disk = case[1], bios = "lua", echo = false, disk_error = function(t) told[1] = t end,
      }) or support.vm{ irqchip = "pic" }
      if not case[1].size then
        local bios = require "minikvm.devices.bios"
        vm:attach(bios.new{ on_error = function(_, t) told[1] = t end }, {})
        vm.cpu[0].cs, vm.cpu[0].rip = 0xf000, 0xfff0
      end
      run(vm, "stopped")
      assert.matches(case[2], told[1])
      assert.matches("No bootable disk: ", vm:screen():row(0))
    end
  end)
end)

describe("INT 10h", function()
  if support.without_kvm(pending) then return end

  it("prints, scrolls and moves the cursor", function()
    local parts = { int(0x10, { ax = 0x0200, bx = 0, dx = 0x1700 }) }
    for c in ("a\r\nb\r\nc\8d\9"):gmatch "." do
      parts[#parts + 1] = int(0x10, { ax = 0x0e00 | c:byte(), bx = 7 })
    end
    parts[#parts + 1] = int(0x10, { ax = 0x0300, bx = 0 }) .. keep(0)
    local vm <close> = machine(parts)
    run(vm)
    local screen = vm:screen()
    assert.same({ "a", "b", "d○" }, { screen:row(22), screen:row(23), screen:row(24) })
    assert.same({ 0x1802, 0x0d0e }, { result(vm, 0).dx, result(vm, 0).cx })
    assert.same({ 2, 24, 13, 14 }, { screen:cursor() })
    assert.equal("a\r\nb\r\nc\8d○", vm.console:text())
  end)

  it("writes cells and strings with attributes, and reads them", function()
    local vm <close> = machine{
      int(0x10, { ax = 0x0200, bx = 0, dx = 0x0305 }),
      int(0x10, { ax = 0x0958, bx = 0x4e, cx = 3 }),
      int(0x10, { ax = 0x0200, bx = 0, dx = 0x0307 }), int(0x10, { ax = 0x0800, bx = 0 }), keep(0),
      int(0x10, { ax = 0x0a59, bx = 0, cx = 1 }), int(0x10, { ax = 0x0800, bx = 0 }), keep(1),
      "\xeb\4blue", -- jmp behind it
      int(0x10, { ax = 0x1301, bx = 0x1f, cx = 4, dx = 0x0a00, bp = 0x7c00 }), keep(2),
      int(0x10, { ax = 0x0f00 }), keep(3), int(0x10, { ax = 0x1a00 }), keep(4),
      int(0x10, { ax = 0x4f00 }), keep(5), -- VBE: unknown, nothing changes
    }
    local sector = vm:disk(1):read(0, 512)
    local text, pointer = sector:find("blue", 1, true), sector:find("\xbd\x00\x7c", 1, true)
    vm:disk(1):write(pointer, ("<I2"):pack(0x7c00 + text - 1)) -- mov bp, text
    run(vm)
    local screen = vm:screen()
    assert.equal("     XXY", screen:row(3))
    assert.same({ 0x4e58, 0x4e59 }, { result(vm, 0).ax, result(vm, 1).ax })
    assert.equal("blue", screen:row(10))
    assert.equal(1, screen:cell(0, 10).bg)
    assert.same({ 0x5003, 0x1a }, { result(vm, 3).ax, result(vm, 4).ax & 0xff })
    assert.same({ 8, 0x4f00 }, { result(vm, 4).bx, result(vm, 5).ax })
  end)

  it("scrolls a window and clears it, and nothing beside it", function()
    local parts = {}
    for y = 0, 4 do
      parts[#parts + 1] = int(0x10, { ax = 0x0200, bx = 0, dx = y << 8 })
        .. int(0x10, { ax = 0x0941 + y, bx = 7, cx = 6 })
    end
    local vm <close> = machine{ table.concat(parts),
      int(0x10, { ax = 0x0601, bx = 0x0700, cx = 0x0101, dx = 0x0302 }), -- up by one
      int(0x10, { ax = 0x0701, bx = 0x0700, cx = 0x0004, dx = 0x0404 }), -- down by one
      int(0x10, { ax = 0x0600, bx = 0x7000, cx = 0x0405, dx = 0xffff }) } -- clear, to the corner
    run(vm)
    local rows = {}
    for y = 0, 4 do rows[y + 1] = vm:screen():row(y) end
    assert.same({ "AAAA A", "BCCBAB", "CDDCBC", "D  DCD", "EEEED" }, rows)
    assert.equal(7, vm:screen():cell(79, 24).bg)
  end)
end)

describe("INT 16h", function()
  if support.without_kvm(pending) then return end

  ---Reads so many keys by AH = call into the results.
  local function reader(count, call)
    local parts = {}
    for i = 0, count - 1 do parts[#parts + 1] = int(0x16, { ax = call << 8 }) .. keep(i) end
    return machine(parts)
  end

  local function keys(vm, count)
    local list = {}
    for i = 0, count - 1 do list[i + 1] = ("%04x"):format(result(vm, i).ax) end
    return table.concat(list, " ")
  end

  it("takes what is typed at the console", function()
    local vm <close> = reader(9, 0x00)
    vm.console:send "aZ\n\27[A\27OP\127\3\27~"
    run(vm)
    assert.equal("1e61 2c5a 1c0d 4800 3b00 0e08 2e03 011b 297e", keys(vm, 9))
  end)

  it("takes scancodes of the keyboard, with shift, ctrl, alt and locks", function()
    local vm <close> = reader(12, 0x10)
    vm.clock:after(0.05, function()
      vm.keyboard:press("a")
      vm.keyboard:press("shift", "1")
      vm.keyboard:press("ctrl", "c")
      vm.keyboard:press("alt", "x")
      vm.keyboard:press("f1")
      vm.keyboard:press("shift", "f2")
      vm.keyboard:press("up")
      vm.keyboard:press("capslock")
      vm.keyboard:press("q")
      vm.keyboard:press("kpenter")
      vm.keyboard:press("alt", "1")
      vm.keyboard:press("f12")
      vm.keyboard:press("kp5")
    end)
    run(vm)
    assert.equal("1e61 0221 2e03 2d00 3b00 5500 48e0 1051 e00d 7800 8600 4c00", keys(vm, 12))
  end)

  it("tells whether a key waits, and keeps those that have no room yet", function()
    local parts = { int(0x16, { ax = 0x0100 }), keep(0), int(0x15, { ax = 0x8600, cx = 0, dx = 9 }),
                    int(0x16, { ax = 0x0100 }), keep(1) }
    local vm <close> = machine(parts)
    run(vm)
    assert.equal(ZERO, result(vm, 0).flags & ZERO)
    local again <close> = machine{ int(0x16, { ax = 0x0100 }), keep(0),
      -- mov cx, 40; read: push cx; mov ah, 0; int 16h; mov ah, 0eh; int 10h; pop cx; loop read
      "\xb9\x28\0\x51\xb4\0\xcd\x16\xb4\x0e\xcd\x10\x59\xe2\xf4" }
    again.console:send(("0123456789"):rep(4))
    run(again)
    assert.same({ 0, 0x0b30 }, { result(again, 0).flags & ZERO, result(again, 0).ax })
    assert.equal(("0123456789"):rep(4), again.console:text())
  end)

  it("stops a guest that waits for a key when the input has ended", function()
    local told
    local vm <close> = machine({ int(0x16, { ax = 0 }), int(0x16, { ax = 0 }) },
                               { disk_error = function(text) told = text end })
    vm.console:send "x"
    vm.console:eof()
    run(vm, "stopped")
    assert.equal("the guest waits for a key, and its input has ended", told)
  end)

  it("lets a deadline end the wait, and the run go on", function()
    local vm <close> = machine{ int(0x16, { ax = 0 }), keep(0) }
    local reason, info = vm:run{ deadline = 0.1 }
    assert.same({ "deadline" }, { reason, info.traceback })
    vm.console:send "k"
    run(vm)
    assert.equal(0x256b, result(vm, 0).ax)
  end)
end)

describe("INT 13h", function()
  if support.without_kvm(pending) then return end

  it("answers with an error what cannot be", function()
    local vm <close> = machine{
      int(0x13, { ax = 0x0201, bx = 0x8000, cx = 1, dx = 0x0080 }), keep(0), -- no such drive
      int(0x13, { ax = 0x0100, dx = 0 }), keep(1), -- the last status
      int(0x13, { ax = 0x0201, bx = 0x8000, cx = 19, dx = 0 }), keep(2), -- 18 sectors a track
      int(0x13, { ax = 0x0202, bx = 0x8000, cx = 0x4f12, dx = 0x0100 }), keep(3), -- and beyond
      int(0x13, { ax = 0x0200, bx = 0x8000, cx = 1, dx = 0 }), keep(4), -- none
      int(0x13, { ax = 0x7700, dx = 0 }), keep(5), int(0x13, { ax = 0x4100, bx = 0x55aa, dx = 0 }),
      keep(6), int(0x13, { ax = 0x1500, dx = 0 }), keep(7), int(0x13, { ax = 0x1500, dx = 0x81 }),
      keep(8),
    }
    run(vm)
    local got = {}
    for i = 0, 8 do
      local r = result(vm, i)
      got[i + 1] = ("%02x%s"):format(r.ah, r.carry and "c" or "")
    end
    assert.equal("01c 01c 04c 04c 01c 01c 01c 02 00", table.concat(got, " "))
  end)

  it("takes a small image for the beginning of a diskette, too", function()
    local vm <close> = machine({
      int(0x13, { ax = 0x0201, bx = 0x8000, cx = 2, dx = 0x0100 }), keep(0), -- 0/1/2: sector 19
      int(0x13, { ax = 0x0201, bx = 0x8000, cx = 0x0102, dx = 0 }), keep(1), -- behind its end
    }, { disk = { bytes = ("x"):rep(18 * 512) .. ("y"):rep(512), size = 20 * 512 } })
    run(vm)
    assert.same({ false, "yyyy" }, { result(vm, 0).carry, vm.memory:read(0x8000, 4) })
    assert.equal(0x04, result(vm, 1).ah)
  end)

  it("reads to the end of RAM and not beyond", function()
    -- mov ax, 0ffffh; mov es, ax
    local vm <close> = machine({ "\xb8\xff\xff\x8e\xc0",
      int(0x13, { ax = 0x0201, bx = 0xfe10 - 0x200, cx = 2, dx = 0 }), keep(0),
      int(0x13, { ax = 0x0202, bx = 0xff00, cx = 2, dx = 0 }), keep(1) },
      { memory = 0x10f000 + 0x1000, disk = { bytes = ("x"):rep(2048) } })
    run(vm)
    assert.is_false(result(vm, 0).carry)
    assert.equal("xxxx", vm.memory:read(0xffff0 + 0xfc10, 4))
    assert.equal(0x09, result(vm, 1).ah)
  end)

  it("reports what the host refuses to the guest and to the script", function()
    local path, told = process.temporary(""), {}
    local code = int(0x16, { ax = 0 }) .. int(0x13, { ax = 0x0201, bx = 0x8000, cx = 9, dx = 0 })
      .. keep(0) .. int(0x13, { ax = 0x0301, bx = 0x8000, cx = 2, dx = 0 }) .. keep(1)
      .. int(0x13, { ax = 0x0303, bx = 0x8000, cx = 0x0101, dx = 0 }) .. keep(2) .. "\xb0\0" .. EXIT
    io.open(path, "wb"):write(boot_disk(code), ("\0"):rep(1474560 - 512)):close()
    local vm <close> = machine({}, { disk = { path = path, limit = 4096 },
                                     disk_error = function(text) told[#told + 1] = text end })
    vm:run{ deadline = 0.2 } -- it waits for a key
    local file = assert(io.open(path, "wb"))
    file:write(boot_disk(code), ("\0"):rep(4096 - 512))
    file:close()
    vm.console:send " "
    run(vm)
    os.remove(path)
    assert.same({ 0x10, 0, 0xcc }, { result(vm, 0).ah, result(vm, 1).ah, result(vm, 2).ah })
    assert.matches("the file ends at 4096", told[1])
    assert.equal(2, #told)
  end)

  it("reads a disk of 10^12 bytes by number, and its size", function()
    -- packets at 7d80h and 7da0h: the last sector to 0:8000h, and the one behind it
    local last = 1000000000000 // 512 - 1
    local vm <close> = machine({
      int(0x13, { ax = 0x4200, dx = 0x80, si = 0x7d80 }), keep(0),
      int(0x13, { ax = 0x4200, dx = 0x80, si = 0x7da0 }), keep(1),
      "\xc7\x06\0\x90\x1a\0", -- mov word [9000h], 26
      int(0x13, { ax = 0x4800, dx = 0x80, si = 0x9000 }), keep(2),
      int(0x13, { ax = 0x0800, dx = 0x80 }), keep(3),
    }, { disk = { size = 1000000000000 } })
    vm:disk(1):write(0x180, ("<I1I1I2I2I2I8"):pack(16, 0, 1, 0x8000, 0, last))
    vm:disk(1):write(0x1a0, ("<I1I1I2I2I2I8"):pack(16, 0, 1, 0x8000, 0, last + 1))
    vm:disk(1):write(last * 512, "the last sector")
    run(vm)
    assert.same({ false, true, false }, { result(vm, 0).carry, result(vm, 1).carry,
                                        result(vm, 2).carry })
    assert.equal("the last sector", vm.memory:read(0x8000, 15))
    assert.equal(4, result(vm, 1).ah)
    assert.equal(last + 1, vm.memory:u64(0x9010))
    assert.same({ 0xff << 8 | 0xff, 0xfe01 }, { result(vm, 3).cx, result(vm, 3).dx })
  end)
end)

describe("INT 15h and 1Ah", function()
  if support.without_kvm(pending) then return end

  it("tell of memory and time", function()
    local vm <close> = machine({
      int(0x12), keep(0), int(0x15, { ax = 0x8800 }), keep(1), int(0x15, { ax = 0xe801 }), keep(2),
      int(0x15, { ax = 0xc000 }), keep(3), int(0x15, { ax = 0x7700 }), keep(4),
      int(0x1a, { ax = 0x0000 }), keep(5), int(0x11), keep(6),
    }, { memory = "32M" })
    run(vm)
    assert.same({ 640, 31 << 10, 15 << 10, 16 << 4 }, { result(vm, 0).ax, result(vm, 1).ax,
                                                    result(vm, 2).ax, result(vm, 2).bx })
    local r = result(vm, 3)
    assert.equal(0xfc, vm.memory:u8(r.es * 16 + r.bx + 2)) -- an AT
    assert.same({ 0x86, true }, { result(vm, 4).ah, result(vm, 4).carry })
    local ticks = os.time() % 86400 * 1193182 // 65536
    local behind = (ticks - (result(vm, 5).cx << 16 | result(vm, 5).dx)) % 0x1800b0 -- of a day
    assert.is_true(behind < 400 or behind > 0x1800b0 - 400)
    assert.equal(0x0021, result(vm, 6).ax & 0x0031) -- a diskette, 80 columns in colour
  end)

  it("show the date that was asked for", function()
    local vm <close> = support.vm{ irqchip = "pic" }
    local code = int(0x1a, { ax = 0x0400 }) .. keep(0) .. int(0x1a, { ax = 0x0200 }) .. keep(1)
      .. EXIT
    vm:attach(require("minikvm.devices.bios").new{
      disks = { assert(kvm.disk{ bytes = boot_disk(code) }) }, time = 951782400 + 3661,
    }, {})
    vm.cpu[0].cs, vm.cpu[0].rip = 0xf000, 0xfff0
    run(vm)
    assert.same({ 0x2000, 0x0229 }, { result(vm, 0).cx, result(vm, 0).dx }) -- 29 February 2000
    assert.equal(0x0101, result(vm, 1).cx)
  end)

  it("show a date however far away", function()
    local vm <close> = support.vm{ irqchip = "pic" }
    local code, time = int(0x1a, { ax = 0x0400 }) .. keep(0) .. EXIT, math.maxinteger - 500
    vm:attach(require("minikvm.devices.bios").new{
      disks = { assert(kvm.disk{ bytes = boot_disk(code) }) }, time = time,
    }, {})
    vm.cpu[0].cs, vm.cpu[0].rip = 0xf000, 0xfff0
    run(vm)
    local date = require("minikvm.device.calendar").from_seconds(time)
    assert.equal(("%02d%02d"):format(date.month, date.day), ("%04x"):format(result(vm, 0).dx))
  end)

  it("move blocks above 1 MiB, as far as there is RAM", function()
    -- the table at 7d80h: descriptors of 8 bytes, the third the source, the fourth the destination
    local function descriptors(from, to)
      return ("<c16 I2I2BBI2 I2I2BBI2"):pack("", 0xffff, from & 0xffff, from >> 16, 0x93, 0, 0xffff,
                                             to & 0xffff, to >> 16 & 0xff, 0x93, to >> 24 << 8)
    end
    local vm <close> = machine{
      int(0x15, { ax = 0x8700, cx = 8, si = 0x7d80 }), keep(0),
      int(0x15, { ax = 0x8700, cx = 8, si = 0x7dc0 }), keep(1) }
    vm:disk(1):write(0x180, descriptors(0x7c00, 0x200000))
    vm:disk(1):write(0x1c0, descriptors(0x7c00, 0x80000000))
    run(vm)
    assert.equal(vm.memory:read(0x7c00, 16), vm.memory:read(0x200000, 16))
    assert.same({ false, true }, { result(vm, 0).carry, result(vm, 1).carry })
  end)

  it("switch the machine off by APM", function()
    local vm <close> = machine{ int(0x15, { ax = 0x5300, bx = 0 }), keep(0),
                                int(0x15, { ax = 0x5307, bx = 1, cx = 3 }), "\xeb\xfe" }
    assert.equal(0, run(vm).code)
    assert.equal(0x504d, result(vm, 0).bx)
  end)
end)

describe("a guest of the BIOS", function()
  if support.without_kvm(pending) then return end

  it("is told of an exception that it has no handler for", function()
    local told
    local vm <close> = machine({ "\xb0\x09\x0f\x0b" }, { disk_error = function(t) told = t end })
    run(vm, "stopped") -- mov al, 9; ud2
    assert.equal("an invalid instruction at 0000:7c02, and the guest has no handler", told)
  end)

  it("cannot call services by the port of the BIOS", function()
    local vm <close> = machine{ "\xb8\x41\x0e\xe6\xb4" } -- mov ax, 0e41h; out 0xb4, al
    run(vm)
    assert.equal("", vm.console:text())
  end)

  it("has the timer's ticks, and its own handler of them", function()
    -- cli; vector 1ch to 7c50h; sti; again: hlt; cmp byte [7000h], 3; jb again
    local code = "\xfa\xc7\x06\x70\0\x50\x7c\xc7\x06\x72\0\0\0\xfb\xf4\x80\x3e\0\x70\x03\x72\xf8"
      .. "\xb0\0" .. EXIT
    local handler = "\x2e\xfe\x06\0\x70\xcf" -- inc byte cs:[7000h]; iret
    local vm <close> = machine{ code .. ("\x90"):rep(0x50 - #code) .. handler }
    local before = vm.clock.now
    run(vm)
    assert.equal(3, vm.memory:u8(0x7000))
    assert.is_true(vm.clock.now - before > 0.1)
  end)
end)

describe("a screen shown in a terminal", function()
  if support.without_kvm(pending) then return end

  -- ECMA-48: CUP, SGR; cells that did not change are not sent again.
  it("gets what has changed, as escape sequences", function()
    local vm <close> = machine{ int(0x10, { ax = 0x1003, bx = 0 }),
      int(0x10, { ax = 0x0200, bx = 0, dx = 0x0203 }),
      int(0x10, { ax = 0x09c4, bx = 0x9e, cx = 2 }),
      int(0x10, { ax = 0x0e41, bx = 7 }), int(0x16, { ax = 0 }), int(0x10, { ax = 0x0e42, bx = 7 }),
      int(0x16, { ax = 0 }) }
    local terminal = require("minikvm.console.terminal").show(vm)
    vm.console:expect "\27%[3;5H\27%[%?25h"
    local text = vm.console:text()
    assert.matches("^\27%[%?7l\27%[0m\27%[2J", text)
    assert.is_truthy(text:find("\27[3;4H\27[0;93;104mA─", 1, true), text)
    local seen = #text
    vm.console:send "x"
    vm.console:expect "\27%[3;6H\27%[%?25h"
    assert.equal("\27[3;5H\27[0;93;104mB\27[0m\27[3;6H\27[?25h", vm.console:text():sub(seen + 1))
    vm.console:send "y"
    run(vm)
    assert.equal("\27[0m\27[?25h\27[?7h\27[25;1H\r\n", terminal:finish():sub(-24))
  end)
end)

describe("a guest that means harm", function()
  if support.without_kvm(pending) then return end

  it("gets errors, and no more time than it has", function()
    -- at the end: mov ax, 0ffffh; mov ss, ax; mov sp, 10h: a stack that ends with RAM
    local vm <close> = machine({
      int(0x10, { ax = 0x0941, bx = 0xffff, cx = 0xffff }), int(0x10, { ax = 0x13ff, cx = 0xffff,
        bp = 0xffff, dx = 0xffff }), int(0x10, { ax = 0x06ff, cx = 0xffff, dx = 0 }),
      "\xc6\x06\x62\x04\xff\xc7\x06\x50\x04\xff\xff", -- page 255, the cursor nowhere
      int(0x10, { ax = 0x0e41 }), int(0x10, { ax = 0x0500 | 0xff }),
      "\xc7\x06\x1a\x04\xff\xff\xc7\x06\x1c\x04\x01\x00", -- 40:1a and 40:1c: no buffer
      int(0x16, { ax = 0x0100 }), int(0x16, { ax = 0x0500, cx = 1 }),
      int(0x13, { ax = 0x4200, dx = 0x80, si = 0xfff8 }), int(0x13, { ax = 0x02ff, bx = 0xffff,
        cx = 0xffff, dx = 0xff00 }), int(0x15, { ax = 0x87ff, cx = 0xffff, si = 0xffff }),
      int(0x15, { ax = 0xe820, bx = 0xffff, di = 0xffff }), keep(0),
      "\xb8\xff\xff\x8e\xd0\xbc\x10\0", int(0x13, { ax = 0x0200 }), int(0x1a, { ax = 0xb101 }),
    }, { memory = "1M" })
    run(vm)
    assert.is_true(result(vm, 0).carry)
  end)
end)
