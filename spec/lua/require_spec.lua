-- The parts of the module: require finds each, also when it is the first that a Lua state asks for.

local lfs = require "lfs"
local process = require "support.process"
local program = require "support.program"

local PARTS <const> = { "minikvm.abi", "minikvm.vm", "minikvm.image.mode" }
for file in lfs.dir "lua/minikvm/devices" do
  local device = file:match "^(.+)%.lua$"
  if device then PARTS[#PARTS + 1] = "minikvm.devices." .. device end
end

-- No part is there twice: what is asked for first is what the module uses.
local CODE <const> = [[
local name = ...
local part = require(name)
local kvm = require "minikvm"
assert(package.loaded[name] == part and kvm.vm)
for _, unknown in ipairs{ "minikvm.init", "minikvm.nothing", "minikvm." } do
  assert(not pcall(require, unknown), unknown)
end
io.write "good"]]

describe("a part of the module", function()
  local script
  setup(function() script = program.file(CODE) end)
  teardown(function() os.remove(script) end)

  for _, name in ipairs(PARTS) do
    it(name .. " may come first in the program, and in a stock Lua", function()
      for _, command in ipairs{ program.minikvm, program.minikvm .. " -E",
                                not process.sanitized() and program.lua or nil } do
        local r = program.run(("%s %s %s"):format(command, script, name))
        assert.same({ 0, "good", "" }, { r.status, r.out, r.err })
      end
    end)
  end

  it("may come first in a worker", function()
    local kvm <const> = require "minikvm"
    local worker <close> = assert(kvm.worker(function()
      return require "minikvm.devices.net".hub ~= nil
    end))
    assert.same({ true, true }, { worker:wait(10) })
  end)
end)
