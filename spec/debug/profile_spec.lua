-- vm:profile: where vCPUs are, as folded stacks. Frames are those of the System V ABIs for i386 and
-- amd64, "The Stack Frame": saved frame pointer, above it the return address.

local kvm = require "minikvm"
local support = require "support.guest"

---An ELF file with one segment at its address and these symbols: { { name, address }, … }.
local function elf(bits, address, code, symbols)
  local wide = bits == 64
  local names, table_bytes = "\0", (wide and ("\0"):rep(24) or ("\0"):rep(16))
  for _, s in ipairs(symbols) do
    local at = #names
    names = names .. s[1] .. "\0"
    table_bytes = table_bytes .. (wide and ("<I4BBI2I8I8"):pack(at, 0x12, 0, 1, s[2], s[3])
      or ("<I4I4I4BBI2"):pack(at, s[2], s[3], 0x12, 0, 1))
  end
  local head, program, section = wide and 64 or 52, wide and 56 or 32, wide and 64 or 40
  local at_code = head + program
  local at_table = at_code + #code
  local at_names = at_table + #table_bytes
  local at_sections = at_names + #names
  local header = "\x7fELF" .. (wide and "\2" or "\1") .. "\1\1" .. ("\0"):rep(9)
    .. (wide and "<I2I2I4I8I8I8I4I2I2I2I2I2I2" or "<I2I2I4I4I4I4I4I2I2I2I2I2I2"):pack(2,
      wide and 62 or 3, 1, address, head, at_sections, 0, head, program, 1, section, 4, 0)
  local load = wide and ("<I4I4I8I8I8I8I8I8"):pack(1, 5, at_code, address, address, #code, #code, 1)
    or ("<I4I4I4I4I4I4I4I4"):pack(1, at_code, address, address, #code, #code, 5, 1)
  local function sec(kind, flags, at, offset, size, link, entry)
    return (wide and "<I4I4I8I8I8I8I4I4I8I8" or "<I4I4I4I4I4I4I4I4I4I4"):pack(0, kind, flags, at,
      offset, size, link, 0, 1, entry)
  end
  return header .. load .. code .. table_bytes .. names .. sec(0, 0, 0, 0, 0, 0, 0)
    .. sec(1, 6, address, at_code, #code, 0, 0)
    .. sec(2, 0, 0, at_table, #table_bytes, 3, wide and 24 or 16)
    .. sec(3, 0, 0, at_names, #names, 0, 0)
end

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
  assert(vm:load{ bytes = elf(mode == "long" and 64 or 32, 0x1000, code,
    { { "start", 0x1000, 5 }, { "outer", outer, inner - outer }, { "inner", inner, 0x20 } }) })
  return vm
end

---Lets a started VM run until its profile has five samples of this kind.
local function wait_for(profile, kind)
  local give_up = os.time() + 20
  while profile[kind] < 5 do
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
      wait_for(profile, "samples")
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
    wait_for(profile, "samples")
    vm:stop()
    vm:wait()
    assert(profile:folded():find "^inner %d+\n", profile:folded())
  end)

  it("counts a vCPU that sleeps as idle, and an address without a symbol as itself", function()
    local vm <close> = support.vm{ irqchip = "pic" }
    assert(vm:load{ bytes = support.bytes "fb f4 ebfd" }) -- sti; hlt; jmp -3
    local profile <close> = vm:profile{ hz = 1000 }
    vm:start()
    wait_for(profile, "idle")
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
