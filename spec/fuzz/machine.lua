-- machine.lua - what machine.c calls: a machine with every device, whose guest is the input
-- (kvm.c). The first byte says which drivers are ready, so that not every input has to start them.

local ata = require "minikvm.devices.ata"
local blk = require "minikvm.devices.blk"
local console = require "minikvm.devices.console"
local edu = require "minikvm.devices.edu"
local fw_cfg = require "minikvm.devices.fw_cfg"
local kvm = require "minikvm"
local net = require "minikvm.devices.net"
local rng = require "minikvm.devices.rng"
local rtc = require "minikvm.devices.rtc"
local serial = require "minikvm.devices.serial"
local vga = require "minikvm.devices.vga"

local BASE <const>, STEP <const> = 0xe0000000, 0x4000

local function place(i) return { slot = 2 + i, at = { [0] = BASE + STEP * i } } end

local function attach(vm)
  local pci, disk = vm.pci, assert(kvm.disk{ size = "64K" })
  pci:attach(blk.new{ size = "64K" }, place(0))
  pci:attach(net.new{ on_frame = function() end }, place(1))
  pci:attach(rng.new{ bytes = function(n) return ("r"):rep(n) end }, place(2))
  pci:attach(console.new{ ports = 2, on_output = function() end }, place(3))
  pci:attach(edu.pci{ delay = 0 }, { slot = 6, at = { [0] = 0xe0100000 } })
  pci:attach(serial.new(), { slot = 7, at = { [0] = 0xc000 } })
  vm:attach(ata.new{ disks = { disk } }, { ports = 0x1f0, irq = 14 })
  vm:attach(fw_cfg.new{ files = { bootorder = "disk\n" } }, { ports = 0x510 })
  vm:attach(rtc.new{ time = 0 }, { ports = 0x70, irq = 8 })
  vm:attach(vga.new(), { ports = 0x3c0 })
end

local function machine()
  local vm = assert(kvm.vm{ mode = "protected", memory = "1M", irqchip = "pic", echo = false,
                            limits = { exits = 2000, seconds = 2 } })
  attach(vm)
  assert(vm:load({ bytes = "\xf4" }, { at = 0x7c00 }))
  vm.console:send "typed\n"
  vm.console:eof()
  return vm
end

-- ---- the driver's part (Virtual I/O Device 1.2, 3.1.1), as instructions of kvm.c ----

---A write of 1 << `size` bytes to the registers of function `i`.
local function poke(i, offset, size, value)
  return ("<BBI2B"):pack(0x90, i & 7 | (offset >> 12) << 3, offset & 0xfff, size)
    .. ("<I" .. (1 << size)):pack(value)
end

local function start(i, features)
  local desc, avail, used = 0x1000 + 0x3000 * i, 0x2000 + 0x3000 * i, 0x3000 + 0x3000 * i
  local list = { poke(i, 0x14, 0, 3), poke(i, 8, 2, 0), poke(i, 0xc, 2, features),
                 poke(i, 8, 2, 1), poke(i, 0xc, 2, 1), poke(i, 0x14, 0, 11) }
  for queue = 0, i == 0 and 0 or i == 2 and 0 or 1 do
    local down = 0x800 * queue
    for _, p in ipairs{ { 0x16, 1, queue }, { 0x18, 1, 8 }, { 0x20, 2, desc + down },
                        { 0x28, 2, avail + down }, { 0x30, 2, used + down }, { 0x1c, 1, 1 } } do
      list[#list + 1] = poke(i, table.unpack(p))
    end
  end
  list[#list + 1] = poke(i, 0x14, 0, 15)
  return table.concat(list)
end

local STARTS <const> = { start(0, 1 << 9 | 1 << 28), start(1, 1 << 15 | 1 << 28 | 1 << 29),
                         start(2, 0), start(3, 2) }

-- ---- a run ----

local ENDS <const> = { shutdown = true, halt = true, exit = true, limit = true, deadline = true,
                       fault = true, panic = true }
local vm = machine()
local terminal = require("minikvm.console.terminal").show(vm)

local function run(exits)
  local reason, info = vm:run(exits and { exits = exits })
  if not reason then error(info, 0) end
  if not ENDS[reason] then error(("%s: %s"):format(reason, info.text or ""), 0) end
  return reason
end

---After some exits everything is saved, copied, and put back; then it goes on.
local function run_in_two(exits, forks)
  if run(exits) ~= "limit" then return end
  local snapshot <close> = assert(vm:snapshot())
  if forks then
    local fork <close> = assert(vm:fork(attach))
    assert(fork.state ~= "running", fork.state)
  end
  assert(vm:restore(snapshot))
  run()
end

---What a user sees of its screen.
local function look()
  local screen = vm:screen()
  screen:text()
  screen:cursor()
  terminal:changes()
end

return function(bytes)
  if #bytes < 2 then return end
  local which, exits = bytes:byte(1, 2)
  local parts = {}
  for i, part in ipairs(STARTS) do
    if which & 1 << i - 1 ~= 0 then parts[#parts + 1] = part end
  end
  parts[#parts + 1] = bytes:sub(3)
  load_program(table.concat(parts))
  assert(vm:reset())
  if which & 0x70 == 0x70 then run_in_two(exits + 1, which & 0x80 ~= 0) else run() end
  look()
end
