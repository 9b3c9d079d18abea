-- Solutions of docs/book/14-files.md.

local kvm = require "minikvm"
local t = require "minikvm.test"

local ROOT <const> = "guests/long/data"

local function read_host()
  local file <close> = assert(io.open(ROOT .. "/shared.txt", "rb"))
  return file:read "a"
end

---Runs the guest that changes shared.txt, with a policy of these limits.
local function writer(limits)
  local policy = { root = ROOT, rules = { { "shared.txt", "cow" } } }
  for key, value in pairs(limits or {}) do policy[key] = value end
  local vm = assert(kvm.vm{ mode = "long", files = assert(kvm.files(policy)), echo = false })
  assert(vm:load "guests/long/cow_writer.bin")
  return vm
end

t.describe("Files:", function()
  t.needs_kvm()

  t.it("1. the host's file stays", function()
    local before = read_host()
    local vm <close> = writer()
    local reason, info = vm:run{ deadline = 20 }
    assert(reason == "exit" and info.code == 0)
    assert(vm.console:text():find "a copy of it")
    assert(read_host() == before)
  end)

  t.it("2. a guest that may write four bytes", function()
    local vm <close> = writer{ max_bytes = 4 }
    local reason, info = vm:run{ deadline = 20 }
    assert(reason == "exit" and info.code == 1) -- it sees that its write was short
  end)

  t.it("3. decide denies", function()
    local asked = {}
    local vm <close> = writer{ decide = function(name, mode)
      asked[#asked + 1] = name .. " " .. mode
      return mode == "r"
    end }
    local reason, info = vm:run{ deadline = 20 }
    assert(reason == "exit" and info.code ~= 0)
    assert(asked[1] == "shared.txt r" and asked[2] == "shared.txt w")
  end)
end)
