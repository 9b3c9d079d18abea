-- minikvm new: each kind of project builds, and its own tests pass, as they are made.

local lfs = require "lfs"
local process = require "support.process"
local program = require "support.program"
local support = require "support.guest"

local root <const> = lfs.currentdir()
local folder

---A shell command in the folder where projects are made; P is the program, by its full path.
local function sh(command)
  local path = program.minikvm
  if path:sub(1, 1) ~= "/" then path = root .. "/" .. path end
  return program.run(("cd %s && { %s\n}"):format(folder, command), { program = path })
end

describe("minikvm new", function()
  before_each(function()
    folder = program.folder()
  end)
  after_each(function() program.run("rm -rf " .. folder) end)

  for kind, tests in pairs{ kernel16 = 3, kernel32 = 3, kernel64 = 4, device = 3, suite = 3 } do
    it("makes a " .. kind .. " whose tests pass", function()
      if support.without_kvm(pending) then return end
      local made = sh("P new " .. kind .. " my_own")
      assert.same({ 0, "my_own/ is there: cd my_own && make test\n", "" },
                  { made.status, made.out, made.err })
      local r = sh "make -s -C my_own MINIKVM=P test"
      assert.equal(0, r.status, r.out .. r.err)
      assert.matches(("\n%d passed, 0 failed, 0 skipped\n"):format(tests), r.out)
      assert.equal("", r.err)
      assert.equal(1, sh("grep -rIw NAME my_own").status) -- all of them are the project's name
    end)
  end

  it("tells editors where the definitions of the API are", function()
    assert.equal(0, sh("P new suite editor").status)
    local text = sh("cat editor/.luarc.json").out
    local types = text:match '"workspace.library": %[%s*"([^"]+)"'
    assert.equal("file", lfs.attributes(types .. "/minikvm.lua", "mode"))
    assert.matches('"runtime.version": "Lua 5.4"', text, 1, true)
  end)

  it("makes a C program whose guest gets its answer", function()
    if support.without_kvm(pending) then return end
    if process.sanitized() then return pending "a sanitizer's runtime must come first" end
    assert.equal(0, sh("P new embed answer").status)
    local build = program.minikvm:match "^(.*)/" -- of this run, not what was built last
    local link = "mkdir there && ln -s %s/include %s/minikvm.so there"
    assert.equal(0, sh(link:format(root, root .. "/" .. build)).status)
    local r = sh "make -s -C answer MINIKVM_CHECKOUT=../there test run"
    assert.same({ 0, "the guest says 42\n", "" }, { r.status, r.out, r.err })
  end)

  it("names what is wrong, and leaves what is there as it is", function()
    for words, message in pairs{
      ["kernl16 a"] = 'no kind "kernl16" %(did you mean \'kernel16\'%?%); there are kernel16',
      ["device a/b"] = '"a/b" is no name for a project: letters, digits and _, a letter first',
      ["device ''"] = '"" is no name', [""] = "kind is missing",
      ["device"] = "name is missing", ["device a b"] = 'unexpected argument "b"',
    } do
      local r = sh("P new " .. words)
      assert.equal(2, r.status, words)
      assert.matches(message, r.err)
    end
    assert.equal(0, sh("mkdir mine && echo x >mine/Makefile && >file").status)
    for _, name in ipairs{ "mine", "file" } do
      local r = sh("P new suite " .. name)
      assert.same({ 1, "" }, { r.status, r.out })
      assert.matches("^minikvm new: cannot make the folder " .. name .. ": File exists\n", r.err)
    end
    assert.equal("x\n", sh("cat mine/*").out)
  end)

  it("leaves nothing when the disk is full", function()
    local r = sh "trap '' XFSZ; ulimit -f 1; P new kernel32 big; s=$?; ls; exit $s"
    assert.is_true(r.status ~= 0)
    assert.equal("", r.out)
  end)
end)
