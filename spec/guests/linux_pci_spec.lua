-- PCI functions in Lua under Debian's kernel and its own drivers, on a stock KVM: kvm_pvm does not
-- run Linux's user space. tools/linux-kernel fetches the kernel; tools/stock runs this in an
-- emulated machine.

local blk = require "minikvm.devices.blk"
local console = require "minikvm.devices.console"
local edu = require "minikvm.devices.edu"
local i6300esb = require "minikvm.devices.i6300esb"
local kvm = require "minikvm"
local lfs = require "lfs"
local linux = require "support.linux"
local net = require "minikvm.devices.net"
local program = require "support.program"
local pvpanic = require "minikvm.devices.pvpanic"
local rng = require "minikvm.devices.rng"
local serial = require "minikvm.devices.serial"
local support = require "support.guest"

local MODULES <const> = (os.getenv "XDG_CACHE_HOME" or (os.getenv "HOME" or "") .. "/.cache")
  .. "/minikvm-linux/modules"
local SYS <const> = "/sys/bus/pci/devices/0000:00:%02x.0"

describe("Linux's drivers for PCI", function()
  if linux.without_linux(pending) then return end

  -- Booted once; what a test changes does not matter to the others.
  local vm, sent, ports, printed
  setup(function()
    sent, ports, printed = { [0] = "", "" }, {}, {}
    local function card(i)
      return serial.new{ on_output = function(d, byte)
        if d.vm == vm then sent[i] = sent[i] .. string.char(byte) end
      end }
    end
    vm = support.vm{ mode = "linux", pci = {
      { edu.pci{ delay = 1e-5 }, slot = 3 }, { pvpanic.new(), slot = 4 },
      { card(0), slot = 5, name = "serial 0" }, { card(1), slot = 9, name = "serial 1" },
      { edu.pci{ delay = 1e-5 }, slot = 7, name = "second edu" },
      { rng.new{ bytes = function(n) return ("Lua!"):rep(n // 4 + 1):sub(1, n) end }, slot = 6 },
      { blk.new{ size = "8M" }, slot = 8 }, { net.new{ hub = net.hub() }, slot = 10 },
      { console.new{ ports = { true, true, "log" },
        on_output = function(_, text, port) printed[port] = (printed[port] or "") .. text end },
        slot = 11 } } }
    for _, d in ipairs(vm.pci:devices()) do
      local i = d.name:match "^serial (%d)"
      if i then ports[tonumber(i)] = d end
    end
    assert(vm:load(linux.KERNEL, { cmdline = "quiet", initrd = { bytes = assert(kvm.initrd{
      agent = true, files = { ["bin/edu"] = "guests/linux/edu.elf" },
      modules = { "pvpanic-pci", "uio_pci_generic", "virtio_pci", "virtio-rng",
                  "virtio_blk", "virtio_net",
                  "virtio_console", from = MODULES } }) } }))
    vm:linux():wait{ timeout = 150 }
  end)
  teardown(function() vm:close() end)

  local function sh(line, timeout) return (vm:linux():sh(line, { timeout = timeout or 60 })) end

  it("find the functions, give them addresses, and their interrupts lines", function()
    local text = sh("for d in /sys/bus/pci/devices/*; do echo ${d##*/} "
      .. "$(cat $d/vendor $d/device $d/class $d/irq); done")
    assert.equal("0000:00:00.0 0x8086 0x1237 0x060000 0\n0000:00:01.0 0x8086 0x7000 0x060100 0\n"
      .. "0000:00:03.0 0x1234 0x11e8 0x00ff00 5\n0000:00:04.0 0x1b36 0x0011 0x08ff00 0\n"
      .. "0000:00:05.0 0x1b36 0x0002 0x070002 10\n0000:00:06.0 0x1af4 0x1044 0xff0000 11\n"
      .. "0000:00:07.0 0x1234 0x11e8 0x00ff00 5\n0000:00:08.0 0x1af4 0x1042 0x010000 9\n"
      .. "0000:00:09.0 0x1b36 0x0002 0x070002 10\n0000:00:0a.0 0x1af4 0x1041 0x020000 11\n"
      .. "0000:00:0b.0 0x1af4 0x1043 0x078000 5\n", text)
    for _, d in ipairs(vm.pci:devices()) do
      local first = sh("head -1 " .. SYS:format(d.slot) .. "/resource"):match "^0x(%x+)"
      if d.name ~= "pvpanic" then assert.equal(tonumber(first, 16), d:bar(0) or tonumber(first,
        16)) end
      assert.is_true(tonumber(first, 16) > 0)
    end
    assert.matches("PCI: Using configuration type 1", sh "dmesg")
    assert.matches("PIIX/ICH IRQ router", sh "dmesg")
  end)

  it("bind: 8250 to the serial cards, in both directions, also both at once", function()
    local found = sh "cat /proc/tty/driver/serial"
    local names = {}
    for line, port in found:gmatch "(%d+): uart:16550A port:(%x+) irq:10" do
      for i = 0, 1 do
        if ports[i]:bar(0) == tonumber(port, 16) then names[i] = "/dev/ttyS" .. line end
      end
    end
    assert.is_string(names[0])
    assert.is_string(names[1])
    sh(("stty -F %s raw -echo; stty -F %s raw -echo; echo out >%s"):format(names[0], names[1],
      names[0]))
    assert.equal("out\n", sent[0])
    -- 500 lines each way on each, on one interrupt line
    local text = {}
    for i = 1, 500 do text[i] = i .. "\n" end
    sent[0], sent[1] = "", ""
    for i = 0, 1 do serial.send(ports[i], table.concat(text)) end
    local counts = sh(("head -500 <%s >/tmp/0 & head -500 <%s >/tmp/1 & seq 500 >%s & "
      .. "seq 500 >%s; wait; "
      .. "for i in 0 1; do seq 500 | cmp - /tmp/$i && echo same; done"):format(names[0], names[1],
        names[0],
                                                                         names[1]))
    assert.equal("same\nsame\n", counts)
    assert.same({ [0] = table.concat(text), table.concat(text) }, sent)
  end)

  it("bind: virtio_rng, which reads what the script gives", function()
    assert.equal("Lua!Lua!", sh "head -c 8 /dev/hwrng")
    assert.equal("virtio_rng.0\n", sh "cat /sys/class/misc/hw_random/rng_current")
    assert.equal("400\n", sh "for i in $(seq 100); do head -c 4 /dev/hwrng; done | wc -c")
    for _, d in ipairs(vm.pci:devices()) do
      if d.name == "rng" then assert.equal(0, d.state.virtio.errors) end
    end
  end)

  it("bind: virtio_blk, whose disk is in forks and not the other way", function()
    assert.equal("16384\n", sh "cat /sys/block/vda/size")
    local sum = sh "dd if=/dev/urandom of=/tmp/d bs=64k count=64 2>/dev/null; md5sum </tmp/d"
    local back = "dd if=/dev/vda bs=64k count=64 iflag=direct 2>/dev/null | md5sum"
    sh "dd if=/tmp/d of=/dev/vda bs=64k oflag=direct 2>/dev/null; sync"
    assert.equal(sum, sh(back))
    local child <close> = assert(vm:fork())
    assert.equal(sum, (child:linux():sh(back, { timeout = 60 })))
    child:linux():sh("dd if=/dev/zero of=/dev/vda bs=64k count=64 oflag=direct 2>/dev/null",
                     { timeout = 60 })
    assert.not_equal(sum, (child:linux():sh(back, { timeout = 60 })))
    assert.equal(sum, sh(back))
    local text, status = vm:linux():sh("dd if=/dev/vda of=/dev/null bs=1M skip=8 count=1 2>&1",
                                       { timeout = 60 })
    assert.same({ "0+0 records in", 0 }, { text:match "^[^\n]*", status })
    for _, d in ipairs(vm.pci:devices()) do
      if d.name == "blk" then
        assert.same({ 0, 0 }, { d.state.failed, d.state.virtio.errors })
      end
    end
  end)

  it("have ext4 on a virtio disk, and give back what they discard", function()
    local sum = sh("mke2fs -F /dev/vda >/dev/null 2>&1; mkdir /mnt; mount -t ext4 /dev/vda /mnt && "
      .. "dd if=/dev/urandom of=/mnt/f bs=64k count=32 2>/dev/null; md5sum </mnt/f; umount /mnt")
    assert.matches("^%x+  %-\n$", sum)
    assert.equal(sum, sh "mount -t ext4 /dev/vda /mnt; md5sum </mnt/f; rm /mnt/f; umount /mnt")
    local disk = vm:disk(1)
    assert.is_true(disk:written() >= 2 << 20, disk:written())
    sh "mount -t ext4 /dev/vda /mnt; fstrim /mnt; umount /mnt"
    assert.is_true(disk:written() < 2 << 20, disk:written())
    sh "blkdiscard /dev/vda"
    assert.equal(0, disk:written())
  end)

  it("ask a virtio disk with two accesses that exit: a mask is read, and the ISR", function()
    local function counts()
      local exits = {}
      for _, row in ipairs(vm:stats{ all = true }) do
        exits[row.owner] = (exits[row.owner] or 0) + row.accesses - row.no_exit
        if row.first == 0xa0 then exits.slave = row.accesses - row.no_exit end
      end
      return exits
    end
    local before = counts()
    sh "dd if=/dev/vda of=/dev/null bs=4k count=300 iflag=direct 2>/dev/null"
    local after = counts()
    assert.equal(300, after.blk - before.blk) -- the ISR; a notification is none
    local masks = after.slave - before.slave
    assert.is_true(300 <= masks and masks <= 340, masks)
  end)

  it("bind: virtio_console, each of its ports in both directions", function()
    local d
    for _, other in ipairs(vm.pci:devices()) do d = other.name == "console" and other or d end
    assert.equal("log\n", sh("until cat /sys/class/virtio-ports/*p2/name && [ -c /dev/hvc1 ]; do "
      .. "sleep 0.1; done 2>/dev/null | tail -1"))
    assert.same({ 0, 0 }, { d.state.virtio.errors, #(d.state.out[2] or {}) })
    for port, name in pairs{ [0] = "hvc0", "hvc1", "vport*p2" } do
      printed[port] = ""
      sh(("echo from %d >$(echo /dev/%s)"):format(port, name))
      assert.equal(("from %d\n"):format(port), (printed[port]:gsub("\r", "")))
      -- Linux drops what comes for a port that nobody has open.
      sh(("rm -f /tmp/open; (touch /tmp/open; read -r x; echo got $x >&0) <>$(echo /dev/%s) & "
        .. "until [ -e /tmp/open ]; do sleep 0.1; done"):format(name))
      console.send(d, ("to %d\n"):format(port), port)
      assert.same({ 1, tostring(port) }, { console.expect(d, "got to (%d)", { port = port,
        timeout = 60 }) })
    end
  end)

  it("bind: virtio_net, by which two forks talk: ping, and 4 MiB by TCP", function()
    local pair <const> = assert(vm:fork(2))
    for i, child in ipairs(pair) do
      local text, status = child:linux():sh(("ip link set eth0 address 02:00:00:00:00:0%d && "
        .. "ip addr add 10.0.0.%d/24 dev eth0 && ip link set eth0 up"):format(i, i),
          { timeout = 60 })
      assert.equal(0, status, text)
    end
    pair[2]:linux():sh("sleep 1000 | nc -l -p 77 >/tmp/f & sleep 0", { timeout = 60 })
    pair[2]:start()
    local text = pair[1]:linux():sh("ping -c 3 -i 0.1 10.0.0.2", { timeout = 60 })
    assert.matches("3 packets transmitted, 3 packets received, 0%% packet loss", text)
    pair[1]:linux():sh("dd if=/dev/zero bs=64k count=64 2>/dev/null | nc 10.0.0.2 77",
      { timeout = 100 })
    pair[2]:stop()
    local sum = pair[2]:linux():sh("n=0; until [ $(wc -c </tmp/f) = 4194304 ] || [ $n = 200 ]; do "
      .. "n=$((n+1)); sleep 0.05; done; wc -c </tmp/f; md5sum </tmp/f", { timeout = 60 })
    assert.equal("4194304\nb5cfa9d6c8febd618f91ac2843d50a1c  -\n", sum)
    for _, child in ipairs(pair) do child:close() end
  end)

  it("let user space drive edu by its resource file", function()
    assert.equal("id 0x10000ed\nalive 0xedcba987\nfactorial 0x375f00\ndma 0x0\n",
                 sh("edu test " .. SYS:format(3)))
  end)

  it("serve two functions on one line: 10,000 interrupts, none lost", function()
    sh "echo 1234 11e8 >/sys/bus/pci/drivers/uio_pci_generic/new_id"
    local run = "edu race 5000 /dev/uio0 " .. SYS:format(3) .. " /dev/uio1 " .. SYS:format(7)
    assert.equal(("sum 0x%x\n"):format(5000 * (120 + 720)), sh(run, 200))
    assert.matches("\n *5: +%d+ +XT%-PIC +[%w, ]*uio_pci_generic, uio_pci_generic\n",
      sh "cat /proc/interrupts")
  end)

  it("let a function go and come, with other code, without a reboot", function()
    local path = SYS:format(12)
    local function card(text)
      return kvm.pci{ name = "card", vendor = 0x1234, device = 1, bars = { [0] = {
        io = true, size = 16, read = function(_, offset) return text:byte(offset + 1) end } } }
    end
    local d = vm.pci:attach(card "one", { slot = 12 })
    sh "echo 1 >/sys/bus/pci/rescan"
    local look = ("echo 1 >%s/enable; dd if=%s/resource0 bs=1 count=3 2>/dev/null"):format(path,
      path)
    assert.equal("one", sh(look))
    d:replace(card "two")
    assert.equal("two", sh(look))
    sh(("echo 1 >%s/remove"):format(path))
    d:detach()
    assert.equal("", sh(("ls %s 2>/dev/null"):format(path)))
    vm.pci:attach(card "new", { slot = 12 })
    sh "echo 1 >/sys/bus/pci/rescan"
    assert.equal("new", sh(look))
  end)

  it("go on after a snapshot and in a fork", function()
    local child <close> = assert(vm:fork(function(new)
      for _, d in ipairs(vm.pci:devices()) do -- what the last test has added
        if d.slot == 12 then new.pci:attach(d.definition, { slot = 12 }) end
      end
    end))
    assert.equal("id 0x10000ed\nalive 0xedcba987\nfactorial 0x375f00\ndma 0x0\n",
                 (child:linux():sh("echo 0000:00:03.0 >/sys/bus/pci/drivers/uio_pci_generic/unbind;"
                                   .. " edu test " .. SYS:format(3))))
  end)

  it("report a panic: a run ends with reason \"panic\"", function()
    assert.matches("pvpanic%-pci/0000:00:04.0\n", sh "ls -d /sys/bus/pci/drivers/pvpanic-pci/0*")
    local done = pcall(sh, "echo c >/proc/sysrq-trigger")
    assert.is_false(done)
    local reason, info = vm:wait(0)
    assert.equal("panic", reason)
    assert.equal("Linux panicked: sysrq triggered crash (the guest's kernel has panicked "
                 .. "(pvpanic))", info.text)
  end)
end)

describe("Linux's driver of the 6300ESB's watchdog", function()
  if linux.without_linux(pending) then return end

  it("keeps it from biting, and is bitten when it does not come back", function()
    if not lfs.attributes(MODULES .. "/kernel/drivers/watchdog/i6300esb.ko") then
      pending "Debian's kernel for clouds has no i6300esb; that of linux-image-amd64 has"
      return
    end
    local vm <close> = support.vm{ mode = "linux", pci = { i6300esb.new() } }
    assert(vm:load(linux.KERNEL, { cmdline = "quiet", initrd = { bytes = assert(kvm.initrd{
      agent = true, modules = { "i6300esb", from = MODULES } }) } }))
    local machine = vm:linux():wait{ timeout = 150 }
    assert.equal("i6300ESB timer\nback\n", (machine:sh(
      "cat /sys/class/watchdog/watchdog0/identity; (sleep 0.2; printf V) >/dev/watchdog; echo back",
      { timeout = 60 })))
    assert.is_false((pcall(machine.sh, machine,
      "watchdog -T 1 -t 60 -F /dev/watchdog & sleep 60", { timeout = 100 })))
    local reason, info = vm:wait(0)
    assert.same({ "shutdown", "reset by the watchdog (i6300esb)" }, { reason, info.text })
  end)
end)

describe("minikvm linux --pci", function()
  if linux.without_linux(pending) then return end

  it("gets its devices from scripts", function()
    local path = program.file [[
      return require("minikvm").pci{ name = "hello", vendor = 0x1234, device = 0x5678 }
    ]]
    local r = program.run("P linux --deadline 100 --pci " .. path
      .. " --run 'cat /sys/bus/pci/devices/0000:00:02.0/device'")
    os.remove(path)
    assert.same({ 0, "0x5678\n", "" }, { r.status, r.out, r.err })
  end)

  it("has a card on a hub that a script gets, and what went over it in a file", function()
    local path, frames = program.file [[
      local vm, hub = ...
      local net = require "minikvm.devices.net"
      vm.pci:attach(net.new{ hub = hub, mac = "02:00:00:00:00:02" }, { name = "other" })
    ]], os.tmpname()
    local r = program.run("P linux --deadline 100 --net hub," .. frames .. " --pci " .. path
      .. " --run 'cat /sys/class/net/eth?/address /sys/class/net/eth?/flags; "
      .. "ip addr add 10.0.0.1/24 dev eth0; arping -q -c 1 -w 1 -I eth0 10.0.0.9'")
    local pcap = support.read_file(frames)
    os.remove(path)
    os.remove(frames)
    assert.same({ "52:54:00:12:34:56\n02:00:00:00:00:02\n0x1003\n0x1003\n", "" }, { r.out, r.err })
    assert.equal("\x4d\x3c\xb2\xa1", pcap:sub(1, 4))
    assert.is_not_nil(pcap:find("\xff\xff\xff\xff\xff\xff\x52\x54\0\x12\x34\x56\8\6", 1, true))
  end)

  it("names what of --net cannot be", function()
    local r = program.run "P linux --net hub,/nowhere/x.pcap"
    assert.matches("minikvm: linux: .*/nowhere/x.pcap", r.err)
    assert.is_true(r.status ~= 0)
  end)

  it("names a script that is none, and what it did wrong", function()
    local path = program.file "return 1"
    local r = program.run("P linux --pci " .. path)
    os.remove(path)
    assert.is_true(r.status ~= 0)
    assert.matches("expected a device made by kvm.pci", r.err)
  end)
end)

describe("docs/pci.md", function()
  if linux.without_linux(pending) then return end

  it("leads from an empty file to a driver that works", function()
    local text = support.read_file "docs/pci.md":match "\n## Linux binds its driver\n(.-)\n## "
    local path, results, listing = os.tmpname(), {}, nil
    for line in text:gmatch "[^\n]*" do
      if line == "```lua fragment" then
        listing = {}
      elseif line == "```" then
        local file <close> = assert(io.open(path, "w"))
        file:write(table.concat(listing, "\n"))
        listing = nil
      elseif listing then
        listing[#listing + 1] = line
      elseif line:find "^    minikvm linux" then
        local command = line:gsub("minikvm", "P", 1):gsub("panic%.lua", path)
          :gsub("%$HOME/%.cache/minikvm%-linux", (MODULES:gsub("/modules$", "")))
        local r = program.run(command .. " --deadline 100")
        results[#results + 1] = { r.status, r.out:match "[^\n]*", r.err }
      end
    end
    os.remove(path)
    assert.same({ 0, "PCI_CLASS=FF0000" }, { results[1][1], results[1][2] })
    assert.same({ 0, true }, { results[2][1], results[2][2]:find "^0x0+1%x+ 0x0+1%x+" ~= nil })
    assert.equal(134, results[3][1])
    assert.matches("Linux panicked: sysrq triggered crash %(event 1%)", results[3][3])
  end)
end)
