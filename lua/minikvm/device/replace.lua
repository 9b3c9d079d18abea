-- device/replace.lua - d:replace(): other code for a device that is attached, with its state, its
-- registers and its place. Nothing changes when the new definition does not fit there.

local block = require "minikvm.device.block"
local core = require "minikvm.core"
local device = require "minikvm.device"
local registers = require "minikvm.device.registers"
local strict = require "minikvm.strict"
local timers = require "minikvm.device.timers"

local M = {}

local function refuse(d, text, ...)
  core.blame(("device:replace: device %s: " .. text .. ": detach it and attach the new one"):format(
    d.name, ...))
end

-- ---- does it fit? ----

local IDS <const> = { "vendor", "device", "class", "revision", "subvendor", "subdevice" }

local function same_capabilities(a, b)
  if #a ~= #b then return false end
  for i, c in ipairs(a) do
    for key, value in pairs(c) do
      if b[i][key] ~= value then return false end
    end
  end
  return true
end

local function check_bar(d, number, old, new)
  if (old == nil) ~= (new == nil) then
    refuse(d, "BAR %d is %s", number, old and "not there any more" or "new")
  elseif not old then
    return
  elseif old.kind ~= new.kind or old.prefetch ~= new.prefetch then
    refuse(d, "BAR %d is of another kind", number)
  elseif old.size ~= new.size then
    refuse(d, "BAR %d has 0x%x bytes, not 0x%x", number, new.size, old.size)
  elseif (old.ram and old.ram.at) ~= (new.ram and new.ram.at)
         or (old.ram and old.ram.size) ~= (new.ram and new.ram.size) then
    refuse(d, "the RAM of BAR %d is another", number)
  elseif new.served and not old.served then
    refuse(d, "BAR %d has had no registers", number)
  end
end

---What stands in configuration space is what the guest has seen.
local function check_function(d, old, new)
  for _, key in ipairs(IDS) do
    if old[key] ~= new[key] then refuse(d, "its %s is 0x%x, not 0x%x", key, new[key], old[key]) end
  end
  if not same_capabilities(old.capabilities, new.capabilities) then
    refuse(d, "its capabilities are others")
  end
  for number = 0, 5 do check_bar(d, number, old.bars[number], new.bars[number]) end
end

local function is_covered(list, r)
  for _, other in ipairs(list) do
    if other.offset <= r.offset and r.offset + r.width <= other.offset + other.width then
      return true
    end
  end
  return false
end

local function check_config(d, old, new)
  for _, r in ipairs(new and new.list or {}) do
    if not old or not is_covered(old.list, r) then
      refuse(d, "register %s of configuration space is new", r.name)
    end
  end
end

local function check_plain(d, old, new)
  if new.size > old.size then
    refuse(d, "it takes %d bytes, not %d", new.size, old.size)
  end
  local read, write = block.functions(d, new)
  local place = d.places[1]
  if place and (read and not place.read or write and not place.write) then
    refuse(d, "it %s, which it did not", read and not place.read and "is read" or "is written")
  end
end

local function check(d, def)
  local old = d.definition
  if not device.is_definition(def) then
    core.blame("device:replace: expected a device made by kvm.device{...} or kvm.pci{...}")
  elseif d.gone then
    core.blame(("device:replace: device %s is detached"):format(d.name))
  elseif old.kind ~= def.kind then
    refuse(d, "it was made by %s, the new one by %s", old.kind, def.kind)
  elseif def.irq and not old.irq and not d.irq then
    refuse(d, "it interrupts, and has no line")
  elseif def.pci then
    check_function(d, old.pci, def.pci)
    check_config(d, old.pci.config, def.pci.config)
  else
    check_plain(d, old.blocks[1].block, def.blocks[1].block)
  end
end

-- ---- replacing ----

local function fits(r, value)
  if r.bank then return type(value) == "table" and #value == r.banks - 1 end
  return math.type(value) == "integer" and (r.width == 8 or math.ult(value, 1 << 8 * r.width))
end

---The registers' values as far as the new definition has them.
local function move_registers(d, def, dropped)
  local old, new = d.reg, {}
  device.each_register(def, function(r)
    local had = rawget(old, r.name)
    if had ~= nil and fits(r, had) then
      new[r.name] = had
    else
      new[r.name] = registers.initial(r)
      if had ~= nil then
        dropped[#dropped + 1] = ("register %s: its value does not fit any more"):format(r.name)
      end
    end
  end)
  for name, value in pairs(old) do
    if new[name] == nil then
      dropped[#dropped + 1] = type(value) == "table" and ("register %s is gone"):format(name)
        or ("register %s is gone, it had 0x%x"):format(name, value)
    end
  end
  table.sort(dropped)
  d.reg = strict.fixed(new, ("register of device %s"):format(d.name))
end

local function move_timers(d, def, dropped)
  for _, name in ipairs(timers.missing(timers.save(d), def.timers)) do
    timers.remove(d, name)
    dropped[#dropped + 1] = ("timer %s was armed and is gone"):format(name)
  end
end

---What tells the blocks of a device apart.
local function key_of(b) return b.config and "config" or b.bar or "plain" end

---Code of the new definition at the places where there was some of the old one.
local function move_places(d, old, def)
  local places, index = {}, {}
  for i, b in ipairs(def.blocks) do index[key_of(b)] = i end
  for i, b in ipairs(old.blocks) do
    local place, k = d.places[i], index[key_of(b)]
    if place then
      local new = k and def.blocks[k].block or block.check("device:replace", {}, {})
      block.fill(place, d, new, place.all)
      if k then places[k] = place end
    end
  end
  d.places = places
end

---@param d minikvm.device
---@param def minikvm.definition
---@return string[] dropped
function M.replace(d, def)
  check(d, def)
  local old, dropped = d.definition, {}
  move_registers(d, def, dropped)
  move_timers(d, def, dropped)
  move_places(d, old, def)
  d.definition = def
  if def.replaced then def.replaced(d) end
  return dropped
end

return M
