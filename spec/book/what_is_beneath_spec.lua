-- Solution of docs/book/18-what-is-beneath.md: the chapter's own program with one more port.

local kvm = require "minikvm"
local lfs = require "lfs"
local t = require "minikvm.test"

t.describe("What is beneath:", function()
  t.needs_kvm()

  t.it("1. a port that ends the program", function()
    local chapter <close> = assert(io.open "docs/book/18-what-is-beneath.md")
    local source = assert(chapter:read "a":match "```c bare%.c\n(.-)```")
    local changed, count = source:gsub("        if %(run%->exit_reason != KVM_EXIT_IO",
      "        if (run->exit_reason == KVM_EXIT_IO && run->io.port == 0xf4)\n"
      .. "            return *((unsigned char *)run + run->io.data_offset);\n%0")
    assert(count == 1)
    changed, count = changed:gsub([["\xb0H\xe6\xe9\xb0i\xe6\xe9\xf4"]], [["\xb0\x2a\xe6\xf4"]])
    assert(count == 1)

    local folder = os.tmpname()
    os.remove(folder)
    assert(lfs.mkdir(folder))
    local file <close> = assert(io.open(folder .. "/bare.c", "w"))
    file:write(changed)
    file:close()
    local _, _, status = os.execute(
      ("cd %s && gcc -Wall -Werror -o bare bare.c && ./bare"):format(folder))
    os.execute("rm -rf " .. folder)
    assert(status == 42, status)
    assert(kvm.probe().ok)
  end)
end)
