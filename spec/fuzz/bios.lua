-- bios.lua - what bios.c calls: a PC that boots from a disk, whose guest calls the BIOS with any
-- registers. BIOS services are Lua functions over guest memory (lua/minikvm/bios).

local bios = require "minikvm.devices.bios"
local kvm = require "minikvm"
local rom = require "minikvm.bios.rom"
local rtc = require "minikvm.devices.rtc"
local vga = require "minikvm.devices.vga"

local vm = assert(kvm.vm{ mode = "real", memory = "1M", irqchip = "pic", echo = false,
                          limits = { exits = 1000, seconds = 2 } })
local disk = assert(kvm.disk{ size = "720K", bytes = ("sector"):rep(400) })
vm:attach(vga.new(), { ports = 0x3c0 })
vm:attach(rtc.new{ time = 0 }, { ports = 0x70, irq = 8 })
vm:attach(bios.new{ disks = { disk }, time = 0 })
assert(vm:load({ bytes = "\xf4" }, { at = 0x7c00 }))
vm.console:eof()

local places = {}
for ip in pairs(rom.traps) do places[#places + 1] = ip end
table.sort(places)
set_traps(table.unpack(places))

local ENDS <const> = { shutdown = true, halt = true, exit = true, limit = true, deadline = true,
                       fault = true, stopped = true, panic = true }

return function(bytes)
  load_program(bytes)
  assert(vm:reset())
  local reason, info = vm:run()
  if not ENDS[reason] then error(("%s: %s"):format(reason, info.text), 0) end
  vm:screen():text()
end
