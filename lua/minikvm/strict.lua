-- strict.lua - a field that an object does not have is an error that names the nearest one it has.
--
-- Kinds of userdata come here by way of the core (mk_unknown_field() in src/lua/object.c), classes
-- written in Lua by seal(). What is there is found before anybody asks, so it costs nothing.

local core = require "minikvm.core"
local options = require "minikvm.options"

local M = {}

-- What the core computes; methods are found in the kinds' tables. `set`: fields that can be set.
local KINDS <const> = {
  ["minikvm.vm"] = { "a vm has no", get = {
    "name", "state", "mode", "cpu", "memory", "ports", "mmio", "msrs", "cpuid", "hypercalls",
    "console",     "clock", "keyboard", "symbols", "files", "pci" } },
  ["minikvm.cpu"] = { "cpu has no register or method", setting = "cpu has no register",
                      get = { "index", "tsc_hz" } }, -- and registers
  ["minikvm.handle"] = { "a handle has no", get = { "hits" } },
  ["minikvm.timer"] = { "a timer has no", get = { "hits", "left" } },
  ["minikvm.clock"] = { "vm.clock has no", get = { "now" } },
  ["minikvm.snapshot"] = { "a snapshot has no",
                           get = { "name", "mode", "memory", "cpus", "irqchip" } },
  ["minikvm.window"] = { "a window has no", get = { "size", "io" } },
  ["minikvm.files"] = { "a file policy has no" }, ["minikvm.vmfiles"] = { "vm.files has no" },
  ["minikvm.disk"] = { "a disk has no" },
  ["minikvm.worker"] = { "a worker has no" }, ["minikvm.owner"] = { "a worker's owner has no" },
}

local function names(of, into)
  for name in pairs(of or {}) do
    if type(name) == "string" and name:sub(1, 2) ~= "__" then into[#into + 1] = name end
  end
  table.sort(into) -- so that the nearest is the same in every run
  return into
end

---Raises "WHAT 'key'TAIL (did you mean 'nearest'?)".
local function raise(what, key, known, tail)
  local text = type(key) == "string" and ("'%s'"):format(key) or tostring(key)
  local hint = type(key) == "string" and options.hint(key, known) or ""
  core.blame(("%s %s%s%s"):format(what, text, tail or "", hint))
end

---Metamethods, and what libraries look for in any table.
local function is_meta(key) return type(key) == "string" and key:sub(1, 2) == "__" end

local function joined(list, more)
  return table.move(more or {}, 1, #(more or {}), #list + 1, list)
end

---A vCPU's fields are mostly registers.
local function add_registers(k)
  k.set = names(require "minikvm.vm.registers", {})
  k.get = table.move(k.set, 1, #k.set, #k.get + 1, k.get)
end

---The fields of objects of the core's, methods left out: for who completes names.
---@param kind string  "minikvm.vm"
---@return string[]
function M.fields(kind)
  local k = KINDS[kind] or {}
  if kind == "minikvm.cpu" and not k.set then add_registers(k) end
  return k.get or {}
end

---Raises for a field of an object of the core's.
---@param kind string  "minikvm.vm"
---@param key any
---@param set boolean  it was written, not read
function M.unknown(kind, key, set)
  local k = KINDS[kind] or { ("vm.%s has no"):format(kind:match "[^.]*$") }
  if kind == "minikvm.cpu" and not k.set then add_registers(k) end
  if set then raise(k.setting or k[1], key, k.set or {}, " that can be set") end
  raise(k[1], key, names(core.methods(kind), joined({}, k.get)))
end

---Makes unknown fields of a class's objects errors, read or written.
---@param methods table  of the class, as class() gave it
---@param meta table  the objects' metatable
---@param what string  for messages: "device"
---@param fields string[]  that objects may have; those that may be nil can be set later
---@param advice? string  where a script keeps what is its own
function M.seal(methods, meta, what, fields, advice)
  local may, text = {}, ("a %s has no"):format(what)
  for _, name in ipairs(fields) do may[name] = true end
  setmetatable(methods, { __index = function(_, key)
    if not may[key] and not is_meta(key) then
      raise(text, key, names(methods, joined({}, fields)))
    end
  end })
  meta.__newindex = function(object, key, value)
    if may[key] then return rawset(object, key, value) end
    raise(text, key, joined({}, fields), advice and ": " .. advice)
  end
end

---Makes unknown fields of a module errors when they are read.
---@param values table
---@param what string  its name
---@return table values
function M.module(values, what)
  return setmetatable(values, { __index = function(_, key)
    if not is_meta(key) then raise(what .. " has no", key, names(values, {})) end
  end })
end

---A table whose keys are given once and for all: others raise, read or written.
---@param values table  which it becomes
---@param what string  "register of device edu"
---@return table values
function M.fixed(values, what)
  local function unknown(_, key)
    if not is_meta(key) then raise("there is no " .. what, key, names(values, {})) end
  end
  return setmetatable(values, { __index = unknown, __newindex = unknown })
end

return M
