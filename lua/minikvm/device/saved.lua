-- device/saved.lua - what snapshots keep of devices in Lua. A device is known by its name and its
-- place, so the order in which devices were attached does not matter.

local disks = require "minikvm.device.disk"
local strict = require "minikvm.strict"
local timers = require "minikvm.device.timers"

local M = {}

---A copy without metatables. What is shared, contains itself or is deep stays so: whether that can
---be kept is said where it becomes bytes (minikvm.copy).
local function copy(value)
  local copies, todo = {}, {}
  local function copied(v)
    if type(v) ~= "table" then return v end
    if not copies[v] then copies[v], todo[#todo + 1] = {}, v end
    return copies[v]
  end
  local new = copied(value)
  for _, from in ipairs(todo) do -- which grows meanwhile
    for key, entry in pairs(from) do copies[from][key] = copied(entry) end
  end
  return new
end

local function describe(name, place)
  return place == "" and ("%q"):format(name) or ("%q (%s)"):format(name, place)
end

---What tells devices apart; several of the same name without a place are taken in their order.
local function key_of(name, place, seen)
  local key = name .. "\0" .. place
  seen[key] = (seen[key] or 0) + 1
  return key .. "\0" .. seen[key]
end

---The part for MSI-X, when a device has a table of it.
local function msix_of(def) return def.pci and def.pci.msix and require "minikvm.device.msix" end

---The state of one device. `raised` is of a line that it drives itself.
---@param d minikvm.device
---@param raised boolean
---@param layers table
function M.save(d, raised, layers)
  local def = d.definition
  local value
  if def.save then value = copy(def.save(d)) else value = { state = copy(d.state) } end
  return { name = d.name, place = d.place, reg = copy(d.reg), value = value, raised = raised,
           timers = timers.save(d), disks = disks.save(d, layers),
           msix = msix_of(def) and msix_of(def).save(d) }
end

---What is wrong with a device for a state that is its own; nil when it fits.
local function misfit(d, saved)
  local missing = timers.missing(saved.timers, d.definition.timers)
  if #missing > 0 then
    return ("device %q has no timer %q, which was armed"):format(d.name, missing[1])
  end
  return disks.misfit(d, saved.disks)
end

---Which device each state is of: nil and what is there too much or too little otherwise.
---@param devices minikvm.device[]
---@param list table
---@return table<table, minikvm.device>? by_state
---@return string? why
function M.match(devices, list)
  local by_key, seen, of, missing, more = {}, {}, {}, {}, {}
  for _, d in ipairs(devices) do by_key[key_of(d.name, d.place, seen)] = d end
  seen = {}
  for _, saved in ipairs(list) do
    local key = key_of(saved.name, saved.place or "", seen)
    if by_key[key] then
      of[saved], by_key[key] = by_key[key], nil
    else
      missing[#missing + 1] = describe(saved.name, saved.place or "")
    end
  end
  for _, d in pairs(by_key) do more[#more + 1] = describe(d.name, d.place) end
  table.sort(more)
  if #missing == 0 and #more == 0 then return of end
  local parts = {}
  if #missing > 0 then parts[1] = "the vm lacks " .. table.concat(missing, ", ") end
  if #more > 0 then parts[#parts + 1] = "it has none of " .. table.concat(more, ", ") end
  return nil, table.concat(parts, "; ")
end

---Whether the states are those of these devices: nil and what differs otherwise.
---@return boolean?
---@return string?
function M.fits(devices, list)
  local of, why = M.match(devices, list)
  if not of then return nil, why end
  for _, saved in ipairs(list) do
    why = misfit(of[saved], saved)
    if why then return nil, why end
  end
  return true
end

---Gives a device its state back. Its timers are armed before its own load function is called.
---@param d minikvm.device
---@param saved table
---@param layers table
function M.load(d, saved, layers)
  local def = d.definition
  timers.drop(d)
  d.reg = strict.fixed(copy(saved.reg), ("register of device %s"):format(d.name))
  if msix_of(def) then msix_of(def).reset(d, saved.msix) end
  disks.load(d, layers)
  timers.load(d, saved.timers)
  if def.load then
    def.load(d, copy(saved.value))
  else
    d.state = copy(saved.value and saved.value.state or {})
  end
end

return M
