-- vm:profile: where vCPUs are, as folded stacks. Frames are those of the System V ABIs for i386 and
-- amd64, "The Stack Frame": saved frame pointer, above it the return address.

local kvm = require "minikvm"
local code_file = require "support.code"
local support = require "support.guest"

-- outer calls inner, which spins for ever; both have frames.
local CODE <const> = {
  protected = "55 89e5 e801000000 c3 55 89e5 ebfe",
  long = "55 4889e5 e801000000 c3 55 4889e5 ebfe",
}

---A VM that spins in "inner", called by "outer".
local function spinning(mode)
  local code = support.bytes("e800000000 " .. CODE[mode]) -- start: call outer
  local outer = 0x1005
  local inner = outer + (mode == "long" and 10 or 9)
  local vm = support.vm{ mode = mode }
  assert(vm:load{ bytes = code_file.elf(mode == "long" and 64 or 32, 0x1000, code,
    { { "start", 0x1000, 5 }, { "outer", outer, inner - outer }, { "inner", inner, 0x20 } }) })
  return vm
end

---Lets a started VM run until its profile has what is asked for.
local function wait_for(is_there)
  local give_up = os.time() + 20
  while not is_there() do
    assert(os.time() < give_up, "no samples")
    kvm.sleep(0.001)
  end
end

describe("vm:profile", function()
  if support.without_kvm(pending) then return end

  for _, mode in ipairs{ "protected", "long" } do
    it("has the callers of the function that a vCPU is in, in mode " .. mode, function()
      local vm <close> = spinning(mode)
      local profile <close> = vm:profile{ hz = 1000 }
      vm:start()
      wait_for(function() return profile:folded():find "start;outer;inner %d" end)
      vm:stop()
      vm:wait()
      profile:stop()
      local text, samples = profile:folded(), profile.samples
      local spun = text:match "start;outer;inner (%d+)\n"
      assert(tonumber(spun) and tonumber(spun) <= samples, text)
      vm:close()
      assert.equal(text, profile:folded()) -- it stays when the VM is gone
    end)
  end

  it("without stacks has that function alone", function()
    local vm <close> = spinning "protected"
    local profile <close> = vm:profile{ hz = 1000, stacks = false }
    vm:start()
    wait_for(function() return profile:folded():find "inner %d" end)
    vm:stop()
    vm:wait()
    assert(not profile:folded():find(";", 1, true), profile:folded())
  end)

  it("counts a vCPU that sleeps as idle, and an address without a symbol as itself", function()
    local vm <close> = support.vm{ irqchip = "pic" }
    assert(vm:load{ bytes = support.bytes "fb f4 ebfd" }) -- sti; hlt; jmp -3
    local profile <close> = vm:profile{ hz = 1000 }
    vm:start()
    wait_for(function() return profile.idle > 0 end)
    vm:stop()
    vm:wait()
    assert(profile.idle > 0)
    for line in profile:folded():gmatch "[^\n]+" do assert(line:find "^0x%x+ %d+$", line) end
  end)

  it("takes no sample before the VM runs, and none when it was stopped", function()
    local vm <close> = spinning "protected"
    local profile <close> = vm:profile()
    assert.equal(0, profile.samples)
    profile:stop()
    vm:run{ deadline = 0.05 }
    assert.same({ 0, 0, 0, "" },
                { profile.samples, profile.idle, profile.lost, profile:folded() })
  end)

  it("refuses nonsense, a second one, and a stop after the VM was closed", function()
    local vm <close> = spinning "protected"
    for value, why in pairs{ [0] = "got 0", [1e6] = "got 1000000", x = "got x" } do
      assert.error_matches(function() vm:profile{ hz = value } end, why, 1, true)
    end
    local profile = vm:profile()
    assert.error_matches(function() vm:profile() end, "it is being profiled", 1, true)
    assert.error_matches(function() return profile.hits end, "a profile has no 'hits'", 1, true)
    vm:close()
    assert.error_matches(function() profile:stop() end, "its vm is closed", 1, true)
  end)
end)
