-- strict.lua - a field that an object does not have is an error that names what was meant: what
-- newcomers call it (guesses.lua), the object that has it, or the nearest one there is.
--
-- Kinds of userdata come here by way of the core (mk_unknown_field() in src/lua/object.c), classes
-- written in Lua by seal(), tables of results by record(). What is there is found before anybody
-- asks, so it costs nothing.

local core = require "minikvm.core"
local options = require "minikvm.options"

local M = {}

-- What the core computes; methods are found in the kinds' tables. `set`: fields that can be set.
local KINDS <const> = {
  ["minikvm.vm"] = { "a vm has no", get = {
    "name", "state", "mode", "cpu", "memory", "ports", "mmio", "msrs", "cpuid", "hypercalls",
    "console",     "clock", "keyboard", "symbols", "files", "pci" } },
  ["minikvm.cpus"] = { "vm.cpu has no" },
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

---Metamethods, and what libraries look for in any table.
local function is_meta(key) return type(key) == "string" and key:sub(1, 2) == "__" end

local function joined(list, more)
  return table.move(more or {}, 1, #(more or {}), #list + 1, list)
end

---What is known of a kind; nil: nothing. A vCPU's fields are mostly registers.
local function known_of(kind)
  local k = KINDS[kind]
  if kind == "minikvm.cpu" and not k.set then
    k.set = names(require "minikvm.vm.registers", {})
    k.get = joined(k.get, k.set)
  end
  return k
end

---Of a VM's objects, where a script finds them: who looks for a name in one of them mostly means
---the first one here that has it.
local PLACES <const> = {
  { "vm", "vm" }, { "memory", "vm.memory" }, { "console", "vm.console" }, { "cpu", "vm.cpu[0]" },
  { "ports", "vm.ports" }, { "keyboard", "vm.keyboard" }, { "vmfiles", "vm.files" },
  { "cpuid", "vm.cpuid" }, { "hypercalls", "vm.hypercalls" }, { "clock", "vm.clock" },
  { "pci", "vm.pci" },
}
local PLACED <const> = { kvm = true, cpus = true, mmio = true, msrs = true }
for _, place in ipairs(PLACES) do PLACED[place[1]] = true end

local function contains(list, word)
  for _, name in ipairs(list or {}) do
    if name == word then return true end
  end
  return false
end

---Where else a VM has this field or method; of those that can be set, when it is to be set.
local function elsewhere(kind, key, set)
  for _, place in ipairs(PLACED[kind] and PLACES or {}) do
    local name = "minikvm." .. place[1]
    local k = known_of(name) or {}
    local method = not set and rawget(core.methods(name), key) ~= nil
    if method or contains(set and k.set or not set and k.get, key) then
      return place[2] .. (method and ":" or ".") .. key
    end
  end
end

---" (use vm.memory:read(address, length))", " (did you mean 'nearest'?)" or "".
local function meant(kind, key, known, set)
  if type(key) ~= "string" then return "" end
  local guesses = require "minikvm.guesses"
  local remedy, list = guesses.remedy(kind, "fields", key)
  local other = not remedy and elsewhere(kind, key, set)
  if other then return (" (did you mean %s?)"):format(other) end
  local hint = options.hint(key, known)
  if not remedy and hint == "" then -- it may be near to what newcomers guess
    local guess = options.nearest(key, list)
    remedy = guess and guesses.remedy(kind, "fields", guess)
  end
  return remedy and (" (use %s)"):format(remedy) or hint
end

---Raises "WHAT 'key'TAIL (did you mean 'nearest'?)".
---@param kind string  of guesses.lua
local function raise(kind, what, key, known, tail, set)
  local text = type(key) == "string" and ("'%s'"):format(key) or tostring(key)
  core.blame(("%s %s%s%s"):format(what, text, tail or "", meant(kind, key, known, set)))
end

---The fields of objects of the core's, methods left out: for who completes names.
---@param kind string  "minikvm.vm"
---@return string[]
function M.fields(kind)
  return (known_of(kind) or {}).get or {}
end

---Raises for a field of an object of the core's.
---@param kind string  "minikvm.vm"
---@param key any
---@param set boolean  it was written, not read
function M.unknown(kind, key, set)
  local short <const> = kind:match "[^.]*$"
  local k = known_of(kind) or { ("vm.%s has no"):format(short) }
  if set then
    raise(short, k.setting or k[1], key, k.set or {}, " that can be set", true)
  end
  raise(short, k[1], key, names(core.methods(kind), joined({}, k.get)))
end

---What seal() was told, by `what`: for specs.
---@type table<string, { methods: table, fields: string[] }>
M.sealed = {}

---Makes unknown fields of a class's objects errors, read or written.
---@param methods table  of the class, as class() gave it
---@param meta table  the objects' metatable
---@param what string  for messages: "device"
---@param fields string[]  that objects may have; those that may be nil can be set later
---@param advice? string  where a script keeps what is its own
function M.seal(methods, meta, what, fields, advice)
  local may, text = {}, ("a %s has no"):format(what)
  for _, name in ipairs(fields) do may[name] = true end
  M.sealed[what] = { methods = methods, fields = fields }
  setmetatable(methods, { __index = function(_, key)
    if not may[key] and not is_meta(key) then
      raise(what, text, key, names(methods, joined({}, fields)))
    end
  end })
  meta.__newindex = function(object, key, value)
    if may[key] then return rawset(object, key, value) end
    raise(what, text, key, joined({}, fields), advice and ": " .. advice, true)
  end
end

---Makes unknown fields of a module errors, read or written.
---@param values table
---@param what string  its name
---@return table values
function M.module(values, what)
  return setmetatable(values, {
    __index = function(_, key)
      if not is_meta(key) then raise(what, what .. " has no", key, names(values, {})) end
    end,
    __newindex = function(_, key)
      raise(what, what .. " has no", key, names(values, {}), " that can be set", true)
    end,
    __metatable = false,
  })
end

---The fields that tables of results may have, by their kind: for completion and for specs.
---@type table<string, string[]>
M.records = {}

---A kind of table of results: data without methods, whose unknown fields are errors, read or
---written. They can be copied to workers (getmetatable() is false).
---@param kind string  "result"
---@param what string  for messages: "a run's info"
---@param fields string[]  those that it may have; one that it has not is nil
---@param text? fun(values: table): string  for tostring
---@return fun(values: table): table mark  makes a table one of the kind, and returns it
function M.record(kind, what, fields, text)
  M.records[kind] = fields
  local may = {}
  for _, name in ipairs(fields) do may[name] = true end
  local meta = { __name = "minikvm." .. kind, __metatable = false, __tostring = text }
  function meta.__index(_, key)
    if not may[key] and type(key) == "string" and not is_meta(key) then
      raise(kind, what .. " has no", key, names(nil, joined({}, fields)))
    end
  end
  function meta.__newindex(values, key, value)
    if may[key] or type(key) ~= "string" then return rawset(values, key, value) end
    raise(kind, what .. " has no", key, names(nil, joined({}, fields)), nil, true)
  end
  return function(values) return setmetatable(values, meta) end
end

---A table whose keys are given once and for all: others raise, read or written.
---@param values table  which it becomes
---@param what string  "register of device edu"
---@return table values
function M.fixed(values, what)
  local function unknown(_, key)
    if not is_meta(key) then
      raise("register", "there is no " .. what, key, names(values, {}))
    end
  end
  return setmetatable(values, { __index = unknown, __newindex = unknown, __metatable = false })
end

return M
