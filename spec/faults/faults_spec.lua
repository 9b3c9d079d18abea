-- Faults, made on purpose: an allocation, ioctl, mmap, thread, descriptor, write, … that fails is
-- an error, and nothing else comes of it (support/faults.lua). A few of each; `make faults` makes
-- all, under a sanitizer.

local lfs = require "lfs"
local faults = require "support.faults"
local kills = require "support.kills"
local process = require "support.process"
local support = require "support.guest"

local BUILD <const> = process.program:match "^(.*)/[^/]*$"

---Why they are not made here; nil where they are.
local function hindrance()
  if process.emulated then return "it is the same on every host, and takes a minute there" end
  if process.program:find "tsan" then return "the thread sanitizer puts calls of its own there" end
  if not lfs.attributes(BUILD .. "/faults.so") then
    return ("needs %s/faults.so: make test builds it"):format(BUILD)
  end
  local exe = lfs.symlinkattributes("/proc/self/exe", "target") or ""
  if not exe:find "minikvm[^/]*$" then return "they are the program's, which runs this file too" end
end

describe("a fault, made on purpose,", function()
  if support.without_kvm(pending) then return end
  local why = hindrance()
  if why then return pending(why) end

  -- Those of each operation that it has calls for, the ones that were mistaken before among them.
  local KINDS <const> = { "memory", "lua", "ioctl", "mmap", "descriptor", "write-enospc",
                          "write-short" }
  local SLOW <const> = { coverage = true, fork = true, linux = true } -- make faults has them
  for _, name in ipairs(faults.OPERATIONS) do
    if not SLOW[name] then it("is an error: " .. name, function()
      local task = { name = name, kind = table.concat(KINDS, ",") }
      local sum = faults.run(BUILD, task, 3)
      assert.is_nil(sum.bad)
      assert.is_true(sum.faults > 0)
    end) end
  end

  local commands = require "support.fault_commands"
  for _, task in ipairs{ { "jail", "memory" }, { "jail", "descriptor" }, { "safe", "memory" },
                         { "test", "process" } } do
    local name, kind = table.unpack(task)
    it(("ends the program with a message: %s, %s"):format(name, kind), function()
      local sum = faults.run(BUILD, { name = name, kind = kind, command = commands[name] }, 3)
      assert.is_nil(sum.bad)
    end)
  end
end)

describe("a process that is killed", function()
  if support.without_kvm(pending) then return end
  if process.emulated then return pending "it is the same on every host" end
  local random = function() return math.random() end
  for _, name in ipairs(kills.works()) do
    it("leaves whole files, and nothing after the next start: " .. name, function()
      kills.run(name, 1, random)
    end)
  end
end)
