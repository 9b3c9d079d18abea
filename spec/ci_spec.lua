-- The files for GitHub Actions and GitLab CI, the project's own and those for users: what they call
-- is there. (Their form is that of the services' schemas: json.schemastore.org/github-workflow.json
-- and GitLab's editor/schema/ci.json.)

local program = require "support.program"

local OWN <const>, USERS <const> = { ".github/workflows/test.yml", ".gitlab-ci.yml" },
  { "docs/ci/github.yml", "docs/ci/gitlab.yml" }

local function contents(path)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

local function each(lists, fn)
  for _, list in ipairs(lists) do
    for _, path in ipairs(list) do fn(path, contents(path)) end
  end
end

describe("a CI's files", function()
  it("are YAML without tabs, indented by steps of two, every block in its place", function()
    each({ OWN, USERS }, function(path, text)
      local before = 0
      for line in text:gmatch "([^\n]*)\n" do
        local spaces, rest = line:match "^( *)(.*)"
        assert.falsy(line:find "[\t\r]", path)
        if rest ~= "" and rest:sub(1, 1) ~= "#" then
          assert.equal(0, #spaces % 2, path .. ": " .. line)
          assert.is_true(#spaces - before <= 4, path .. ": " .. line)
          before = #spaces
        end
      end
    end)
  end)

  it("call targets and tools that there are", function()
    local makefile = contents "Makefile"
    local count = 0
    each({ OWN }, function(path, text)
      for line in text:gmatch "[^\n]+" do
        local command = line:match "^ *%- run: (.*)" or line:match "^    %- (.*)" or ""
        if command:find "apt%-get install" then command = "" end
        for target in command:gmatch "%f[%w]make (%l[%l-]*)" do
          count = count + 1
          assert.truthy(makefile:find("\n" .. target .. ":", 1, true), path .. ": " .. target)
        end
        for tool in command:gmatch "tools/%l+" do
          assert.equal(0, program.run("test -x " .. tool).status, path .. ": " .. tool)
        end
      end
    end)
    assert.is_true(count >= 8)
  end)

  it("give minikvm options that it has, and packages that make deb makes", function()
    local help, control = program.run("P test --help").out, contents "debian/control"
    local version = require("minikvm")._VERSION
    each({ USERS }, function(path, text)
      local line = text:match "minikvm test ([^\n]+)"
      for option in line:gmatch "%-%-%l+" do assert.truthy(help:find(option, 1, true), option) end
      for name in text:gmatch "%$MINIKVM/([%l-]+)_%${VERSION}" do
        assert.truthy(control:find("\nPackage: " .. name .. "\n", 1, true), name)
      end
      assert.equal(version, text:match "VERSION: ([%d.]+)", path)
      for _, what in ipairs{ "debian:12", "lua-busted", "report.xml", "artefacts", "/dev/kvm" } do
        assert.truthy(text:find(what, 1, true), path .. ": " .. what)
      end
    end)
  end)

  it("get JUnit reports of the project's own tests", function()
    local folder = os.tmpname()
    os.remove(folder)
    local r = program.run(
      ("UNDER=minikvm JUNIT=%s/a tools/test spec/lua/copy_spec.lua"):format(folder))
    local report = program.run(("cat %s/a/minikvm.xml; rm -r %s"):format(folder, folder)).out
    assert.equal(0, r.status, r.out)
    assert.matches('<testsuite name="spec/lua/copy_spec.lua"', report)
  end)
end)
