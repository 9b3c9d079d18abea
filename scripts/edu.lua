-- edu.lua - a device in Lua and its driver: QEMU's teaching device, lua/minikvm/devices/edu.lua,
-- and a 64-bit guest, guests/long/edu.c, that exercises all of it; then what it cost.
--
--   minikvm scripts/edu.lua [-v]     -v: every access to the device's registers

local kvm = require "minikvm"
local args = require "minikvm.cli.args"
local cli = require "minikvm.cli"
local edu = require "minikvm.devices.edu"

local opts, status = args.handle({
  program = "edu.lua", summary = "Runs the driver of a device in Lua; says what it cost.",
  options = { { "--verbose", "-v", help = "print every access to the device's registers" } },
}, arg)
if not opts then os.exit(status, true) end

local BASE <const>, LINE <const> = 0xfeb00000, 10
local NAMES <const> = {
  [0x00] = "ID", [0x04] = "ALIVE", [0x08] = "FACTORIAL", [0x20] = "STATUS", [0x24] = "IRQ_STATUS",
  [0x60] = "IRQ_RAISE", [0x64] = "IRQ_ACK", [0x80] = "SOURCE", [0x88] = "DESTINATION",
  [0x90] = "COUNT", [0x98] = "COMMAND",
}

local vm = assert(kvm.vm{ name = "edu", mode = "long", memory = "2M", irqchip = "pic",
                          map_io = BASE, stats = true, limits = { seconds = 20 } })

local refused = {}
local device = vm:attach(edu.new{
  on_error = function(_, text) refused[#refused + 1] = text end,
}, { mmio = BASE, irq = LINE })

if opts.verbose then -- a tap sees the traffic and changes nothing
  vm.mmio:tap(BASE, 0x1000, function(what, address, value, size)
    print(("  %-5s %-11s %d bytes 0x%x"):format(what, NAMES[address - BASE] or address - BASE, size,
                                              value))
  end)
end

assert(vm:load((arg[0]:match "^.*/" or "") .. "../guests/long/edu.bin"))
local reason, info = vm:run()

print(("\nThe device turned away %d accesses and %d transfers:"):format(device.refused, #refused))
for _, text in ipairs(refused) do print("  " .. text) end
print()
print(vm:stats())
os.exit(cli.conclude(vm.name, reason, info), true)
