-- One version: what header, module, program, rock, changelogs, pkg-config file and manuals say.
-- semver.org, 2.0.0, 2: X.Y.Z, non-negative integers without leading zeroes.

local program = require "support.program"

local sh = program.run

local function contents(path)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

---The tables of a rockspec, which is Lua without functions.
local function rockspec(path)
  local fields = {}
  assert(loadfile(path, "t", fields))()
  return fields
end

local version <const> = contents "include/minikvm.h":match '#define MINIKVM_VERSION "([^"]*)"'

describe("the version", function()
  it("is a semantic one, in parts as well", function()
    assert.equal(version, ("%s.%s.%s"):format(contents "include/minikvm.h":match(
      "VERSION_MAJOR (%d+)\n.-VERSION_MINOR (%d+)\n.-VERSION_PATCH (%d+)\n")))
    for part in version:gmatch "[^.]+" do assert.equal(part, tostring(math.tointeger(part))) end
  end)

  it("is what module and program say", function()
    assert.equal(version, require("minikvm")._VERSION)
    assert.equal(("minikvm %s, Lua 5.4\n"):format(version), sh("P --version").out)
    assert.equal(version, sh("P doctor --json").out:match '"minikvm":"([^"]*)"')
  end)

  it("is what make install gives to minikvm.pc and the manual pages", function()
    local r = sh "make -s --eval 'told: ; @echo $(VERSION)' told"
    assert.equal(version .. "\n", r.out, r.err)
    assert.matches('^.TH MINIKVM%-RUN 1 "" "minikvm ' .. version .. '"',
                   sh(("P tools/man.lua run %s"):format(version)).out)
  end)

  it("is the rock's, by name, too, and the newest of the changelogs", function()
    assert.equal(("minikvm-%s-1.rockspec\n"):format(version), sh("ls *.rockspec").out)
    assert.equal(version .. "-1", rockspec(("minikvm-%s-1.rockspec"):format(version)).version)
    assert.equal(version, contents "debian/changelog":match "^minikvm %(([^)]*)%)")
    assert.equal(version, contents "CHANGELOG.md":match "\n## ([%d.]+) %(%d%d%d%d%-%d%d%-%d%d%)\n")
  end)
end)

describe("tools/dist", function()
  it("makes a rock that knows where its sources are", function()
    if sh("git rev-parse HEAD").status ~= 0 then
      pending "it takes a checkout of git"
      return
    end
    local folder = os.tmpname()
    os.remove(folder)
    local r = sh(([[git clone -q --depth 1 "file://$PWD" %s 2>/dev/null && cd %s &&
      tools/dist --homepage https://a.example/b https://a.example/files]]):format(folder, folder))
    local version_there = r.status == 0
      and contents(folder .. "/include/minikvm.h"):match '#define MINIKVM_VERSION "([^"]*)"'
    local name = ("%s/build/dist/minikvm-%s"):format(folder, version_there)
    local spec = r.status == 0 and rockspec(name .. "-1.rockspec") or {}
    local sum = sh(("md5sum %s.tar.gz | cut -c 1-32"):format(name)).out
    local inside = sh(("tar tzf %s.tar.gz | head -1"):format(name)).out
    sh("rm -rf " .. folder)
    assert.equal(0, r.status, r.err)
    assert.same({ url = ("https://a.example/files/minikvm-%s.tar.gz"):format(version_there),
                  md5 = sum:sub(1, -2), dir = "minikvm-" .. version_there }, spec.source)
    assert.equal("https://a.example/b", spec.description.homepage)
    assert.equal(("minikvm-%s/\n"):format(version_there), inside)
  end)

  it("refuses what is no URL", function()
    for _, word in ipairs{ "'https://a b'", "here", "--home", "--homepage" } do
      local r = sh("tools/dist " .. word)
      assert.equal(1, r.status)
      assert.matches("^tools/dist: ", r.err)
    end
  end)
end)
