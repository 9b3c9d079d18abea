-- test_linux.lua - tests under a Linux kernel, booted once: a program, a file system, its log.
--
--   minikvm test scripts/test_linux.lua      (docs/testing.md)
--
-- It takes kvm_intel or kvm_amd, and the kernel that tools/linux-kernel fetches.

local t = require "minikvm.test"

---The program under test: it says how often each word of its input is there.
local COUNT <const> = [[
#!/bin/sh
tr -cs A-Za-z '\n' | sort | uniq -c | while read -r n word; do echo "$word $n"; done
]]

local linux = t.linux{
  files = { ["bin/count"] = { bytes = COUNT } },
  modules = { "loop", "ext4" },
}

---A disk of 4 MiB in a file, with a file system that is mounted.
local with_disk = linux:branch(function(machine)
  local output, status = machine:sh [[
    set -e
    dd if=/dev/zero of=/tmp/disk bs=1M count=4
    mke2fs -F /tmp/disk
    mkdir /mnt
    mount -t ext4 -o loop /tmp/disk /mnt
  ]]
  assert(status == 0, output)
end)

t.describe("count", function()
  t.it("counts words", function()
    local output, status = linux():sh("count", { input = "to be or not to be\n" })
    assert(status == 0)
    assert(output == "be 2\nnot 1\nor 1\nto 2\n", output)
  end)

  t.it("leaves nothing for the next test", function()
    local machine = linux()
    assert(machine:write("/tmp/words", "a a"))
    assert(machine:sh "count </tmp/words" == "a 2\n")
    machine = linux()
    assert(machine:read "/tmp/words" == "a a") -- the same test, the same machine
  end)

  t.it("finds nothing of the last test", function()
    local bytes, why = linux():read "/tmp/words"
    assert(not bytes and why == "/tmp/words: No such file or directory", why)
  end)
end)

t.describe("ext4", function()
  t.it("has a file, with all its bytes, after it was mounted again", function()
    local machine = with_disk()
    local bytes = ("\0\1\2\xff\n"):rep(100000)
    assert(machine:write("/mnt/file", bytes))
    local output, status = machine:sh "umount /mnt && mount -t ext4 -o loop /tmp/disk /mnt"
    assert(status == 0, output)
    assert(machine:read "/mnt/file" == bytes)
  end)

  t.it("says so when the disk is full", function()
    local done, why, code = with_disk():write("/mnt/big", ("x"):rep(8 << 20))
    assert(not done and code == "ENOSPC", why)
  end)

  t.it("refuses a disk that is none, in the kernel's log", function()
    local machine = linux()
    local _, status = machine:sh [[
      dd if=/dev/zero of=/tmp/none bs=1M count=1
      mkdir /mnt
      mount -t ext4 -o loop,loud /tmp/none /mnt
    ]]
    assert(status ~= 0)
    local log = machine:dmesg{ level = "err" }
    assert(log:find("VFS: Can't find ext4 filesystem", 1, true), log)
  end)
end)
