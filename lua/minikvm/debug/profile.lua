-- debug/profile.lua - vm:profile: where the vCPUs of a VM spend their time, as folded stacks for
-- flame graphs, on top of the core's functions (src/vm/profile.c).

local class = require "minikvm.class"
local core = require "minikvm.core"
local options = require "minikvm.options"
local strict = require "minikvm.strict"

local vm = core.methods "minikvm.vm"

---@class minikvm.profile
local Profile, meta = class "minikvm.profile"

local vms = setmetatable({}, { __mode = "k" }) -- by profile
local current = setmetatable({}, { __mode = "kv" }) -- by VM: the profile that is being taken
local ended = setmetatable({}, { __mode = "k" }) -- by profile, what it was at its end

local COUNTS <const> = { samples = 1, idle = 2, lost = 3 }

local function counts_of(self)
  return ended[self] and ended[self].counts or { core.profile_counts(vms[self]) }
end

function meta.__index(self, key)
  if COUNTS[key] then return counts_of(self)[COUNTS[key]] end
  return Profile[key]
end
strict.seal(Profile, meta, "profile", { "samples", "idle", "lost" })

function meta.__tostring(self)
  local counts = counts_of(self)
  return ("minikvm.profile of %q (%d samples, %d idle%s)"):format(vms[self].name, counts[1],
    counts[2], ended[self] and "" or ", going on")
end

---The stacks: { { ticks =, addresses, innermost first … }, … }.
local function stacks_of(words)
  local list, at = {}, 1
  while at <= #words do
    local ticks, depth
    ticks, depth, at = ("<i8i8"):unpack(words, at)
    local stack = { ticks = ticks }
    for i = 1, depth do stack[i], at = ("<i8"):unpack(words, at) end
    list[#list + 1] = stack
  end
  return list
end

---What function an address is in; a caller's is that of the call, which lies before the return
---address.
local function namer(machine)
  local known = {}
  return function(address, is_caller)
    local at = is_caller and address - 1 or address
    local name = known[at]
    if not name then
      name = machine:symbol_at(at) or ("0x%x"):format(at)
      known[at] = name
    end
    return name
  end
end

---As text: a line for each stack, its functions from the outermost to the innermost, the count of
---ticks behind them. flamegraph.pl, inferno and speedscope.app read it.
---@return string
function Profile:folded()
  options.self("profile:folded", self, "minikvm.profile")
  if ended[self] then return ended[self].folded end
  local name, sums, lines = namer(vms[self]), {}, {}
  for _, stack in ipairs(stacks_of(core.profile_words(vms[self]))) do
    local names = {}
    for i = #stack, 1, -1 do names[#names + 1] = name(stack[i], i > 1) end
    local line = table.concat(names, ";")
    sums[line] = (sums[line] or 0) + stack.ticks
  end
  for line, ticks in pairs(sums) do lines[#lines + 1] = ("%s %d\n"):format(line, ticks) end
  table.sort(lines)
  return table.concat(lines)
end

---Ends it; what was sampled stays.
---@return minikvm.profile
function Profile:stop()
  options.self("profile:stop", self, "minikvm.profile")
  if ended[self] then return self end
  local machine = vms[self]
  if machine.state == "closed" then
    core.blame "profile:stop: its vm is closed, and what was sampled with it"
  end
  core.profile_stop(machine)
  local last = { folded = self:folded(), counts = counts_of(self) }
  ended[self], current[machine] = last, nil
  return self
end

function meta.__close(self)
  if not ended[self] and vms[self].state ~= "closed" then self:stop() end
end

local function rate(value)
  if type(value) == "number" and value >= 1 and value <= 10000 then return value end
  return nil, ("expected samples in a second (1 to 10000), got %s"):format(tostring(value))
end

local PROFILE <const> = options.declare("vm:profile", { hz = rate, stacks = "boolean" })

---Begins to sample where the VM's vCPUs are while it runs; a vCPU that sleeps is not woken.
---  hz      samples in a second, 1 to 10000 (997)
---  stacks  false: only the function that a vCPU is in, not its callers, which are found by frame
---          pointers (gcc -fno-omit-frame-pointer)
---@param opts? { hz: number?, stacks: boolean? }
---@return minikvm.profile
function vm:profile(opts)
  options.self("vm:profile", self, "minikvm.vm")
  core.check_open(self)
  local o = options.check("vm:profile", opts, PROFILE)
  if current[self] then core.blame "vm:profile: it is being profiled; stop that profile first" end
  local started, why = core.profile_start(self, math.floor(1e9 / (o.hz or 997)),
                                          o.stacks ~= false)
  if not started then core.blame(why) end
  local profile = setmetatable({}, meta)
  vms[profile], current[self] = self, profile
  return profile
end
