-- The guests in guests/prot: what they print and how they end is the same on every KVM. Headers of
-- an .expect, besides those that guests/real has:
--   mode, irqchip, memory  options of the VM
--   keys   typed once the guest printed the line "ready"; \n is Enter
--   needs  what a weak KVM is assisted with, by the names kvm.probe() has for it
--   host   native: only where 32-bit paging is

local lfs = require "lfs"
local process = require "support.process"
local support = require "support.guest"

local function guests()
  local names = {}
  for file in lfs.dir "guests/prot" do
    names[#names + 1] = file:match "^(.*)%.expect$"
  end
  table.sort(names)
  return names
end

---Whether this host's KVM leaves any of it to the assists.
local function assisted(needs)
  for feature in (needs or ""):gmatch "%S+" do
    assert(support.host[feature], "kvm.probe() knows no " .. feature)
    if support.host[feature] == "assist" then return true end
  end
  return false
end

local function run(name, want, opts)
  opts.mode, opts.irqchip, opts.memory = want.mode, want.irqchip, want.memory
  local vm = support.guest("prot/" .. name, opts)
  if want.keys then
    local keys = want.keys:gsub("\\n", "\n")
    vm.console:on_line(function(line)
      if line == "ready" then assert(vm.keyboard:type(keys)) end
    end)
  end
  vm.console:eof()
  return vm, vm:run{ deadline = tonumber(want.deadline) or 20 }
end

describe("guests/prot", function()
  if support.without_kvm(pending) then return end

  for _, name in ipairs(guests()) do
    local want = support.expectation("prot/" .. name)
    local test = it
    if want.host == "native" and support.host.paging32 ~= "native" then test = pending end

    test(name .. " does what its .expect says", function()
      if name == "storm" and process.emulated == "vmx" then
        return pending "a hundred thousand interrupts take minutes there"
      end
      local vm, reason, info = run(name, want, {})
      if want.reason ~= "any" then assert.equal(want.reason, reason, info.text) end
      if want.code then assert.equal(tonumber(want.code), info.code) end
      assert.equal(want.output_text, (vm.console:text()))
      assert.equal(assisted(want.needs), info.assists > 0, info.assists .. " assists")
      vm:close()
    end)

    if want.exits then
      test(name .. " takes exactly " .. want.exits .. " exits", function()
        local vm, _, info = run(name, want, { coalesce = false })
        assert.equal(tonumber(want.exits), info.exits)
        vm:close()
      end)
    end
  end
end)
