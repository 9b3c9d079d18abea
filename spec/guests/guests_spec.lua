-- Every guest that has a NAME.expect is a test: its output, its end, and where they are exact, its
-- exits.

local lfs = require "lfs"
local process = require "support.process"
local support = require "support.guest"

-- Guests that spin with interrupts off.
local SPINS <const> = { ["real/garbage"] = true, ["real/spin"] = true }

local function guests(mode)
  local names = {}
  for file in lfs.dir("guests/" .. mode) do
    local name = file:match "^(.*)%.expect$"
    if name then names[#names + 1] = mode .. "/" .. name end
  end
  table.sort(names)
  return names
end

local function run(name, opts, want)
  local vm = support.guest(name, opts)
  if want.input then vm.console:send(want.input) end
  vm.console:eof()
  return vm, vm:run{ deadline = tonumber(want.deadline) or 20 }
end

describe("an .expect", function()
  it("has headers that are known, each once", function()
    for text, why in pairs{
      ["reason: halt\nexit: 3\n"] = "x.expect: unknown option 'exit' (did you mean 'exits'?)",
      ["raeson: halt\n"] = "unknown option 'raeson' (did you mean 'reason'?)",
      ["reason: hlat\n"] = "(did you mean \"halt\"?)",
      ["reason halt\n"] = "x.expect: expected NAME: VALUE, got \"reason halt\"",
      ["code: 1\ncode: 2\n"] = "x.expect: header 'code' is there twice",
      ["code: one\n"] = "expected a number, got one",
    } do
      local ok, message = pcall(support.parse_expectation, "x.expect", "real", text)
      assert.is_false(ok)
      assert.matches(why, message, 1, true)
    end
  end)
end)

describe("guests/real", function()
  if support.without_kvm(pending) then return end
  for _, name in ipairs(guests "real") do
    local want = support.expectation(name)

    it(name .. " does what its .expect says", function()
      if process.deaf and SPINS[name] then return pending(process.deaf) end
      local vm, reason, info = run(name, {}, want)
      assert.equal(want.reason, reason, info.text)
      if want.code then assert.equal(tonumber(want.code), info.code) end
      if want.output ~= "any" then assert.equal(want.output_text, (vm.console:text())) end
    end)

    if want.exits then
      it(name .. " takes exactly " .. want.exits .. " exits when nothing is coalesced", function()
        local _, _, info = run(name, { coalesce = false }, want)
        assert.equal(tonumber(want.exits), info.exits)
      end)
    end
  end
end)
