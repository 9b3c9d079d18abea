-- os_1k.lua - a terminal session with 1K OS, the teaching kernel: interrupts, keyboard, programs.
--
--   minikvm scripts/os_1k.lua            Ctrl-A x leaves
--   printf '2\n0\n' | minikvm scripts/os_1k.lua

local kvm = require "minikvm"
local cli = require "minikvm.cli"
require("minikvm.cli.args").explain(arg)

local here <const> = arg[0]:match "^.*/" or ""
local vm = assert(kvm.vm{ name = "1K OS", mode = "paged", memory = "4M", irqchip = "pic" })
assert(vm:load(here .. "../os-1k/kernel.bin"))
vm.console:attach()
os.exit(cli.conclude(vm.name, vm:run()), true)
