-- debug/places.lua - a breakpoint at several addresses: a source line may be in several functions,
-- and inlined in several places. One object stands for the breakpoints of the core, one at each.

local class = require "minikvm.class"
local core = require "minikvm.core"
local options = require "minikvm.options"

local M = {}

---@class minikvm.places
---@field hits integer  of all of them
local methods, meta = class "minikvm.places"

---The core's handles behind an object.
local handles = setmetatable({}, { __mode = "k" })

function meta.__index(places, key)
  if key ~= "hits" then return methods[key] end
  local sum = 0
  for _, handle in ipairs(handles[places]) do sum = sum + handle.hits end
  return sum
end

---Removes all of them.
function methods:remove()
  options.self("handle:remove", self, "minikvm.places")
  for _, handle in ipairs(handles[self]) do handle:remove() end
end

meta.__close = methods.remove

---What is called at a hit: it counts where the condition holds, and a `once` goes then, not before.
---@param o table  the options of vm:break_at
---@param places minikvm.places?  of which a hit counts for all; without them for its own handle
---@return fun(cpu: minikvm.cpu, handle: minikvm.handle): boolean
function M.handler(o, places)
  local after = o.after or 0
  return function(cpu, handle)
    handle = places or handle
    if o.condition and not o.condition(cpu, handle) then return false end
    after = after - 1
    if after >= 0 then return false end
    if o.once then handle:remove() end
    if not o.fn then return true end
    return o.fn(cpu, handle)
  end
end

---Breakpoints at each of these addresses, with the options of vm:break_at.
---@param vm minikvm.vm
---@param all integer[]
---@param o table
---@return minikvm.places? places  or nil, "what: why", "ENAME"
---@return string? why
---@return string? code
function M.break_at(vm, all, o)
  local places = setmetatable({}, meta)
  local list, fn = {}, M.handler(o, places)
  handles[places] = list
  for _, address in ipairs(all) do
    local handle, why, code = core.break_at(vm, { address = address, cpu = o.cpu }, fn)
    if not handle then
      places:remove()
      return nil, why, code
    end
    list[#list + 1] = handle
  end
  return places
end

return M
