-- What holds for the sources: which room uses which, and that `make format` would change nothing.

local program = require "support.program"

describe("the sources", function()
  it("use each other as the rooms allow", function()
    local build = program.minikvm:match "^(build/.*)/[^/]*$" or "build/release"
    local r = program.run(("%s tools/rooms '%s'"):format(program.lua, build))
    assert.same({ out = "", status = 0 }, { out = r.out .. r.err, status = r.status })
  end)

  it("let devices reach guest memory by functions that check what a guest says alone", function()
    -- of src/kvm/mem.h: not by pointers into it that are kept, nor by its regions
    local r = program.run("grep -rnE "
      .. "'mk_mem_(at|writable|span|page|find)\\(|(->|\\.)host\\b' src/dev")
    assert.equal("", r.out)
    r = program.run("grep -rlE '(->|\\.)host\\b' src --include='*.c' "
      .. "| grep -vE '^src/(kvm|debug|snapshot)/'")
    assert.equal("", r.out)
  end)

  it("are formatted", function()
    local version = program.run("clang-format --version 2>/dev/null").out:match "version (%d+)"
    if version ~= "14" then
      return pending(("needs clang-format 14, as Debian 12 has it; there is %s")
                       :format(version or "none"))
    end
    local r = program.run("find src include bench spec/c spec/fuzz riscv -name '*.[ch]' | "
      .. "xargs clang-format --dry-run -Werror 2>&1")
    assert.same({ out = "", status = 0 }, { out = r.out, status = r.status })
  end)
end)
