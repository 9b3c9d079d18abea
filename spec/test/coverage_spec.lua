-- minikvm test --coverage: what the tests of several files have executed, in one tracefile of lcov.

require "minikvm" -- first: it brings the parts
local lcov = require "minikvm.debug.lcov"
local lfs = require "lfs"
local program = require "support.program"
local suite = require "support.suite"
local support = require "support.guest"

---A spec file whose tests give this input to the guest that counts words.
local function counting(...)
  local tests = {}
  for i, input in ipairs{ ... } do
    tests[i] = ([[it("case %d", function()
      local vm = guest()
      vm.console:send(%q)
      vm.console:eof()
      assert(vm:run{ deadline = 20 } == "exit")
    end)]]):format(i, input)
  end
  return ([[
    local t = require "minikvm.test"
    local guest = t.guest{ mode = "long", image = "%s/guests/build/long/coverage.elf" }
    describe("counting", function() %s end)
  ]]):format(lfs.currentdir(), table.concat(tests, "\n"))
end

---Counts of the lines of the guest's source, by what is on them.
local function counts(s, path)
  local data = assert(lcov.parse({}, assert(s:read(path)), path))
  local lines, file = {}, nil
  for source, one in pairs(data) do
    if source:find "/guests/long/coverage%.c$" then file = one end
  end
  local number = 0
  for line in io.lines "guests/long/coverage.c" do
    number = number + 1
    if file.lines[number] then lines[line:match "^%s*(.-)%s*$"] = file.lines[number] end
  end
  return lines
end

describe("minikvm test --coverage", function()
  it("names a folder that cannot be made", function()
    local s <close> = suite.new{ ["a_spec.lua"] = "it('a', function() end)" }
    local r = s:test "--coverage D/no/cov D"
    assert.equal(2, r.status)
    assert(r.err:find("--coverage: .*/no/cov: No such file or directory"), r.err)
    r = s:test "--coverage D/a_spec.lua D"
    assert.equal(2, r.status)
    assert(r.err:find("--coverage: .*a_spec.lua: it is no folder"), r.err)
  end)

  it("says when there is nothing to cover, and that is no failure", function()
    local s <close> = suite.new{ ["a_spec.lua"] = "it('a', function() end)" }
    local r = s:test "--coverage D/cov D"
    assert.equal(0, r.status)
    assert(r.out:find("coverage: no source lines", 1, true), r.out)
    assert.equal("1 passed, 0 failed, 0 skipped", r.last)
    assert.same({}, s:files "cov")
  end)

  if support.without_kvm(pending) then return end

  it("adds up what several files have executed; one that dies is named", function()
    local s <close> = suite.new{
      ["a_spec.lua"] = counting "", ["b_spec.lua"] = counting("one", "two words"),
      ["c_spec.lua"] = "it('dies', function() os.exit(3) end)",
    }
    local r = s:test "--tap --coverage D/cov D"
    assert.equal(1, r.status)
    assert(r.out:find("\n# coverage: nothing of c_spec.lua: its process did not come to its end",
                      1, true), r.out)
    assert(r.out:find("\n# coverage: lines [%d.]+%% %(%d+ of %d+%), functions .*: cov/"), r.out)
    local lines = counts(s, "cov/coverage.info")
    assert.equal(2, lines["for (int c; (c = getc()) != END_OF_INPUT;) {"])
    assert.equal(1, lines["inside = true;"])
    assert.is_nil(lfs.attributes(s.folder .. "/cov/parts"))
    assert.equal(lcov.has_genhtml(), s:read "cov/index.html" ~= nil)
  end)

  it("covers the kernel of 1K OS by the lines, functions and branches of its sources", function()
    local s <close> = suite.new{}
    local r = program.run(("P test --filter '48 18 6' --coverage %s/cov scripts/test_1k_os.lua")
      :format(s.folder))
    assert.equal(0, r.status, r.out .. r.err)
    local lines, functions, branches = r.out:match(
      "\ncoverage: lines ([%d.]+)%% .*, functions ([%d.]+)%% .*, branches ([%d.]+)%% ")
    assert(tonumber(lines) > 50 and tonumber(functions) > 50 and tonumber(branches) > 30, r.out)
    assert(s:read "cov/coverage.info":find "\nSF:[^\n]*/os%-1k/kernel/main%.c\n")
  end)
end)
