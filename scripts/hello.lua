-- hello.lua - one guest, from its image to its result.
--
--   minikvm scripts/hello.lua

local kvm = require "minikvm"
require("minikvm.cli.args").explain(arg)

local here <const> = arg[0]:match "^.*/" or ""
local vm = assert(kvm.vm{ name = "hello", mode = "real" })
assert(vm:load(here .. "../guests/real/hello.bin"))
local reason, info = vm:run{ deadline = 5 }

print(("%s: %s after %d exits"):format(vm.name, reason, info.exits))
os.exit(reason == "halt" and vm.console:text() == "Hello, KVM!\n", true)
