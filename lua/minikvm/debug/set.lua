-- debug/set.lua - sets of addresses, as coverage gives them: a | b, a & b, a - b, #a, a == b,
-- a[address], and the addresses in their order.

local class = require "minikvm.class"
local core = require "minikvm.core"

local M = {}

---@class minikvm.set
---@operator bor(minikvm.set): minikvm.set
---@operator band(minikvm.set): minikvm.set
---@operator sub(minikvm.set): minikvm.set
---@operator len: integer
local Set, meta = class "minikvm.set"

local members = setmetatable({}, { __mode = "k" }) -- by set: { [address] = true }
local counts = setmetatable({}, { __mode = "k" })

local function make(has)
  local set, count = setmetatable({}, meta), 0
  for _ in pairs(has) do count = count + 1 end
  members[set], counts[set] = has, count
  return set
end

---@param addresses integer[]
---@return minikvm.set
function M.new(addresses)
  local has = {}
  for _, address in ipairs(addresses) do has[address] = true end
  return make(has)
end

local function both(a, b)
  if not members[a] or not members[b] then
    core.blame "a set can be joined with another set only"
  end
  return members[a], members[b]
end

function meta.__bor(a, b)
  local has = {}
  for _, one in ipairs{ both(a, b) } do
    for address in pairs(one) do has[address] = true end
  end
  return make(has)
end

function meta.__band(a, b)
  local x, y = both(a, b)
  local has = {}
  for address in pairs(x) do has[address] = y[address] end
  return make(has)
end

function meta.__sub(a, b)
  local x, y = both(a, b)
  local has = {}
  for address in pairs(x) do
    if not y[address] then has[address] = true end
  end
  return make(has)
end

function meta.__len(a) return counts[a] end

function meta.__eq(a, b)
  return members[a] ~= nil and members[b] ~= nil and #a == #b and #(a - b) == 0
end

function meta.__tostring(a) return ("minikvm.set of %d addresses"):format(#a) end

---Whether an address is in it.
function meta.__index(a, key)
  if math.type(key) == "integer" then return members[a][key] == true end
  local method = Set[key]
  if method then return method end
  core.blame(("a set has no '%s'"):format(tostring(key)))
end

function meta.__newindex() core.blame "a set cannot be changed" end

---The addresses in their order.
---@return integer[]
function Set:list()
  if not members[self] then core.blame "set:list: call it with a colon" end
  local list = {}
  for address in pairs(members[self]) do list[#list + 1] = address end
  table.sort(list, math.ult)
  return list
end

return M
