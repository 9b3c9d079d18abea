-- suite.lua - `minikvm new suite`: tests for an image that is there already.
return {
  { "Makefile", [==[
MINIKVM ?= minikvm
IMAGE ?= $(CURDIR)/example.bin

# IMAGE=../kernel.elf make test
test:
	IMAGE="$(IMAGE)" $(MINIKVM) test .

# For a CI: results as JUnit XML; what failed keeps its console, registers and screen in artefacts/.
ci:
	IMAGE="$(IMAGE)" $(MINIKVM) test --junit results.xml --artefacts artefacts .

.PHONY: test ci
]==] },
  { "guest.lua", [==[
-- The guest under test, as it is when it has booted. Put your own in: where it is, how it is
-- entered (mode, memory, irqchip …) and what it prints when it is ready.
local t = require "minikvm.test"

return t.guest{
  name = "NAME", mode = "real", image = os.getenv "IMAGE" or "example.bin",
  boot = function(vm) vm.console:expect "> " end,
}
]==] },
  { "NAME_spec.lua", [==[
local here = arg[0]:match "^.*/" or ""
package.path = here .. "?.lua;" .. package.path

local t = require "minikvm.test"
local guest = require "guest"

t.describe("NAME", function()
  t.it("says which key came", function()
    local vm = guest()
    vm.console:send "a"
    vm.console:expect "a\n> "
  end)

  t.it("takes one key after the other", function()
    local vm = guest()
    vm.console:send "xyz"
    vm.console:expect "x\n> y\n> z\n> "
  end)

  t.it("ends with Escape", function()
    local vm = guest()
    vm.console:send "\27"
    local reason = vm:run{ deadline = 10 }
    assert(reason == "halt", reason)
  end)
end)
]==] },
  -- next: mov al, '>'; out 0xe9, al; mov al, ' '; out 0xe9, al; wait: in al, 0xe9; cmp al, 0xff;
  -- je wait; cmp al, 27; je done; out 0xe9, al; mov al, 10; out 0xe9, al; jmp next; done: hlt
  { "example.bin", "\xb0>\xe6\xe9\xb0 \xe6\xe9\xe4\xe9\x3c\xff\x74\xfa\x3c\x1b\x74\x08\xe6\xe9"
    .. "\xb0\n\xe6\xe9\xeb\xe6\xf4" },
}
