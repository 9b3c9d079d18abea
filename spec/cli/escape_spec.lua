-- What a script that wants out of --safe can do (spec/support/escapes.lua), and which wall it
-- meets: with the list of what it can reach (lua/minikvm/cli/allowed.lua), and with that taken
-- away, so that the kernel's walls are alone.

local lfs = require "lfs"
local escapes = require "support.escapes"
local process = require "support.process"
local program = require "support.program"
local support = require "support.guest"

local folder

---Runs a script of this code under --safe; with `all` it is given all of Lua and minikvm, as they
---were before anything was taken away.
local function safe(code, all)
  local script = folder .. "/inside/script.lua"
  assert(io.open(script, "w")):write(("local F = %q\n"):format(folder), code):close()
  local starter = folder .. "/starter.lua"
  assert(io.open(starter, "w")):write(([[
    local kvm, all = require "minikvm", %s
    local allowed = require "minikvm.cli.allowed"
    local function copy(t) local c = {} for k, v in pairs(t) do c[k] = v end return c end
    if all then
      local core = require "minikvm.core"
      ALL = { kvm = copy(kvm), core = setmetatable(copy(core), getmetatable(core)),
        lfs = require "lfs", real = require }
      for name, value in pairs(_G) do
        ALL[name] = ALL[name] or (type(value) == "table" and copy(value)) or value
      end
      ALL._G, allowed.GLOBALS.ALL = nil, true
      local everything = setmetatable({}, { __index = function() return true end })
      allowed.METHODS = setmetatable({}, { __index = function() return everything end })
    end
    os.exit(require("minikvm.cli.safe").main{ "--seconds", "50", "--files",
      "inside=%s/inside:shared-rw", %q })
  ]]):format(all, folder, script)):close()
  local r = program.run("P " .. starter)
  r.missing = r.err:match "^minikvm: %-%-safe: not there: [^\n]*\n"
  return r
end

local GIVE_ALL <const> = [[
  for name, value in pairs(ALL) do _G[name] = value end
  assert(io.open and os.execute and core.spawn and lfs.dir and kvm.jail and package.loadlib)
  require = function(name) return name == "lfs" and lfs or ALL.real(name) end
]]

describe("a script that wants out of --safe", function()
  if process.without_jail(pending) then return end
  setup(function() folder = escapes.make_folder(lfs) end)
  teardown(function() os.execute("rm -r " .. folder) end)

  it("does not get out by what it can reach", function()
    local r = safe("local kvm = require 'minikvm' local core\n" .. escapes.code(), false)
    escapes.check(r.out)
    assert.equal("secret", support.read_file(folder .. "/outside/secret"))
  end)

  it("does not get out by the kernel's walls alone, with all of Lua and minikvm", function()
    local r = safe(GIVE_ALL .. escapes.code(), true)
    if r.missing then return pending(r.missing) end
    escapes.check(r.out)
    assert.equal("secret", support.read_file(folder .. "/outside/secret"))
    assert.is_nil(lfs.attributes(folder .. "/outside/new"))
  end)

  it("is many attempts", function() assert(#escapes.ATTEMPTS >= 60) end)

  it("has neither the caller's stdin nor a terminal, whatever it can reach", function()
    local r = safe(GIVE_ALL .. "print(io.read(1), io.open('/dev/tty'))", true)
    assert.matches("^nil\tnil\t/dev/tty: ", r.out .. r.err)
  end)

  it("has its memory and time limited, whatever it can reach", function()
    local r = safe(GIVE_ALL .. [[
      print(pcall(string.rep, "x", 1 << 30))
    ]], true)
    if r.err:find "Sanitizer" or program.minikvm:find "[at]san" then return end
    assert.matches("^false\tnot enough memory\n", r.out)
  end)
end)
