-- device/timers.lua - d:after() and d:every(): the timers of a device. One that calls a function of
-- the definition by its name belongs to snapshots, with the time that is left.

local core = require "minikvm.core"
local options = require "minikvm.options"

local M = {}

local KIND <const> = "minikvm.device"

local function seconds_from(least)
  return function(value)
    if type(value) == "number" and value >= least and value <= 1e9 then return value end
    return nil, ("expected seconds, %g to 1e9, got %s"):format(least, tostring(value))
  end
end
local SECONDS <const> = { after = seconds_from(0), every = seconds_from(1e-5) }

---Timers that are armed are held by the VM; those that are over are not worth a reference.
function M.none() return setmetatable({}, { __mode = "k" }) end

---For a definition: functions by name.
function M.check(value)
  if type(value) ~= "table" then return nil, "expected functions by name" end
  for name, fn in pairs(value) do
    if type(name) ~= "string" or type(fn) ~= "function" then
      return nil, ("%s: expected a function, got a %s"):format(tostring(name), type(fn))
    end
  end
  return value
end

---What a timer calls: the function of that name as it is when the time comes.
local function named(d, name)
  return function()
    local fn = (d.definition.timers or {})[name]
    if fn then fn(d) end
  end
end

local function check_name(d, where, name)
  local known = d.definition.timers or {}
  if not known[name] then
    core.blame(("%s: device %s has no timer %q%s: name it in the definition's 'timers'"):format(
      where, d.name, name, options.hint(name, options.keys(known), "%q")))
  end
end

local function arm(d, method, seconds, name, first)
  local clock = d.vm.clock
  local fn = type(name) == "string" and named(d, name) or function() name(d) end
  local timer = clock[method](clock, seconds, fn, first)
  d.timers[timer] = type(name) == "string"
    and { name = name, period = method == "every" and seconds or nil } or {}
  return timer
end

local function start(d, method, seconds, fn)
  local where = "device:" .. method
  options.self(where, d, KIND)
  options.argument(where, "seconds", seconds, SECONDS[method])
  if type(fn) == "string" then
    check_name(d, where, fn)
  else
    options.argument(where, "fn", fn, "function")
  end
  return arm(d, method, seconds, fn)
end

---Adds the methods to the class.
---@param Device table
function M.add_to(Device)
  ---Calls fn(device) after some seconds, unless the device is reset or detached before.
  ---@param seconds number
  ---@param fn string|fun(device: minikvm.device)  the name of one of the definition's `timers`:
  ---  then the timer is in snapshots; or a function, which no snapshot can keep
  ---@return minikvm.handle
  function Device:after(seconds, fn) return start(self, "after", seconds, fn) end

  ---Calls fn(device) every so many seconds, until the device is reset or detached.
  ---@param seconds number
  ---@param fn string|fun(device: minikvm.device)
  ---@return minikvm.handle
  function Device:every(seconds, fn) return start(self, "every", seconds, fn) end

  ---Ends the timers that call a function of this name.
  ---@param name string
  function Device:cancel(name)
    options.self("device:cancel", self, KIND)
    options.argument("device:cancel", "name", name, "string")
    M.remove(self, name)
  end
end

---Removes those of a name, and what is left of those that are over.
function M.remove(d, name)
  for timer, t in pairs(d.timers) do
    if t.name == name then
      timer:remove()
      d.timers[timer] = nil
    end
  end
end

---Ends all timers of a device.
function M.drop(d)
  for timer in pairs(d.timers) do timer:remove() end
  d.timers = M.none()
end

---The timers by name that are armed: { name=, left=, period= } in seconds, the earliest first.
function M.save(d)
  local list = {}
  for timer, t in pairs(d.timers) do
    local left = timer.left
    if t.name and left then list[#list + 1] = { name = t.name, left = left, period = t.period } end
  end
  table.sort(list, function(a, b)
    if a.left ~= b.left then return a.left < b.left end
    return a.name < b.name
  end)
  return list
end

---Arms what save() listed.
function M.load(d, list)
  for _, t in ipairs(list or {}) do
    if t.period then
      arm(d, "every", t.period, t.name, t.left)
    else
      arm(d, "after", t.left, t.name)
    end
  end
end

---The names of armed timers that a definition has no function for.
---@param list { name: string }[]  as of save()
---@param timers table<string, function>?
---@return string[]
function M.missing(list, timers)
  local names = {}
  for _, t in ipairs(list or {}) do
    if not (timers or {})[t.name] then names[#names + 1] = t.name end
  end
  return names
end

return M
