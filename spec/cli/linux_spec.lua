-- minikvm linux: its command line, and what it says where it cannot run. That it runs Linux is
-- shown by spec/guests/linux_guest_spec.lua.

local kvm = require "minikvm"
local program = require "support.program"
local tell = require "minikvm.image.tell"

describe("minikvm linux", function()
  it("refuses a wrong command line with status 2", function()
    for line, message in pairs{
      ["--file a"] = "%-%-file: expected PATH=HOST, got \"a\"",
      ["--file =b"] = "expected PATH=HOST", ["--file a=b --file a=c"] = "a is given twice",
      ["--initrd x --run true"] = "not with %-%-initrd", ["--initrd x --file a=b"] = "not with",
      ["--memory 0"] = "expected a size", ["true"] = "unexpected argument \"true\"",
      ["--net bridge"] = "%-%-net: expected hub, hub,FILE, tap or tap,NAME, got \"bridge\"",
      ["--kernl x"] = "did you mean '%-%-kernel'", ["--run"] = "%-%-run needs a value",
    } do
      local r = program.run("P linux " .. line)
      assert.equal(2, r.status, line)
      assert.match(message, r.err)
      assert.match("usage: minikvm linux", r.err)
    end
    assert.equal(0, program.run("P linux --help").status)
  end)

  it("says what is missing on a KVM that does not run Linux, and how to try it", function()
    if kvm.probe().host ~= "pvm" then pending "this KVM is none of those" return end
    local r = program.run "P linux --run \"echo 'a b'\" --memory 64M"
    assert.same({ 1, "" }, { r.status, r.out })
    assert.match("kvm_pvm.*user space.*It takes kvm_intel or kvm_amd", r.err)
    assert.truthy(r.err:find("tools/stock -- ./minikvm linux --run "
      .. "'echo '\\''a b'\\''' --memory 64M",
                             1, true), r.err)
  end)

  it("takes an initrd alone", function()
    local r = program.run("P linux --initrd /nosuch --kernel /nosuch")
    assert.equal(1, r.status)
    assert.match("^minikvm: linux: ", r.err) -- no error of Lua's
  end)

  it("has a program for its guest of which every jump is right", function()
    local bytes, entry = tell.program(), ("<I8"):unpack(tell.program(), 25)
    local jumps, at = {}, entry - 0x400000
    for _, insn in ipairs(kvm.disassemble(bytes:sub(at + 1), 64, entry)) do
      if insn.text:find "^j" or insn.text:find "^call" then
        jumps[#jumps + 1] = insn.text:gsub("0x%x+", function(to)
          return ("%x"):format(tonumber(to) - entry)
        end)
      end
    end
    assert.same({ "jl 44", "call 7a", "jge 65", "jle 71", "jmp 44", "call 7a", "js 8f", "jmp 7e" },
                jumps)
  end)
end)
