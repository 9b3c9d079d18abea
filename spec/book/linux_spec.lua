-- Solutions of docs/book/16-linux.md.

local support = require "support.linux"
local t = require "minikvm.test"

t.describe("Linux:", function()
  if support.without_linux(pending) then return end

  local linux = t.linux{ kernel = support.KERNEL, memory = "128M" }

  t.it("1. the status of a command", function()
    local _, status = linux():sh "exit 3"
    assert(status == 3)
  end)

  t.it("2. what a command adds to the kernel's log", function()
    local machine = linux()
    local before = machine:dmesg{ level = "err" }
    machine:sh "true"
    assert(machine:dmesg{ level = "err" } == before)
    machine:sh "echo '<3>this is an error' >/dev/kmsg"
    assert(machine:dmesg{ level = "err" }:find "this is an error")
  end)

  t.it("3. a file in one of two forks", function()
    local one, other = linux:fork(2)
    assert(one:write("/tmp/note", "mine"))
    assert(one:read "/tmp/note" == "mine")
    assert(not other:read "/tmp/note")
  end)
end)
