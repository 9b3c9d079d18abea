-- The levels of the jail (docs/security.md) on kernels that lack a wall, and in containers that
-- forbid one: test_jail_kernels makes such of this one, by a filter of its own, and starts the
-- program.

local lfs = require "lfs"
local process = require "support.process"
local program = require "support.program"
local support = require "support.guest"

local HELPER <const> = (program.minikvm:match "^(.*)/[^/]*$" or ".") .. "/test_jail_kernels"
local HELLO <const> = "Hello, KVM!\n"

-- What is missing there, as a pattern for what is told of it; whether level log can do its work.
local KERNELS <const> = {
  landlock = { "Landlock, which keeps it from files that were not named %(this kernel has none%)",
               log = true },
  seccomp = { "seccomp, which keeps it from system calls it does not need %(this kernel has none%)",
              log = false },
  prctl = { "no new privileges %(Operation not permitted%)", log = true },
  everything = { "Landlock.*no new privileges.*seccomp", log = false },
}

local function run(kernel, level, words)
  return program.run(("%s --lacks %s P %s"):format(HELPER, kernel, words:format(level)))
end

local function times(text, pattern)
  return select(2, text:gsub(pattern, ""))
end

describe("a kernel that lacks a wall:", function()
  if support.without_kvm(pending) then return end
  if not lfs.attributes(HELPER) then
    return pending("needs " .. HELPER .. ": make test builds it")
  end
  local here = program.run(("%s --lacks prctl true"):format(HELPER))
  if here.status ~= 0 then return pending "this kernel has no seccomp filters" end

  for kernel, missing in pairs(KERNELS) do
    it(kernel .. ", level best uses what there is, and says once what is not", function()
      local r = run(kernel, "best", "run --jail=%s guests/real/hello.bin")
      assert.same({ HELLO, 0 }, { r.out, r.status })
      assert.matches("^minikvm: %-%-jail: not there: .*" .. missing[1], r.err)
      assert.equal(1, times(r.err, "not there"))
    end)

    it(kernel .. ", level strict refuses to start, and names it", function()
      local r = run(kernel, "strict", "run --jail=%s guests/real/hello.bin")
      assert.same({ "", 1 }, { r.out, r.status })
      assert.matches('level "strict", and this is not there: .*' .. missing[1], r.err)
    end)

    it(kernel .. ", level log refuses nothing, or says what it needs", function()
      local r = run(kernel, "log", "run --jail=%s guests/real/hello.bin")
      assert.same(missing.log and { HELLO, 0 } or { "", 1 }, { r.out, r.status })
      assert.equal(not missing.log, r.err:find 'level "log" needs seccomp' ~= nil)
    end)
  end

  it("--safe is strict when it is told to, and says what is missing else", function()
    if process.without_jail(pending) then return end
    local path = program.file "print 'runs'"
    local strict = run("landlock", "strict", "--safe --jail=%s " .. path)
    assert.not_equal(0, strict.status)
    assert.matches("Landlock", strict.err)
    local best = run("landlock", "best", "--safe --jail=%s " .. path)
    os.remove(path)
    assert.same({ "runs\n", 0 }, { best.out, best.status })
    assert.matches("not there: Landlock", best.err)
  end)
end)
