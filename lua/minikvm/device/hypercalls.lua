-- hypercalls.lua - vm.hypercalls: calls of the guest by number or name, answered in Lua. What a
-- script gives is checked here; src/lua/hypercalls.c keeps the handlers and calls them.

local core = require "minikvm.core"
local abi = require "minikvm.abi"
local options = require "minikvm.options"

local hypercalls = core.methods "minikvm.hypercalls"

local BUILT_IN <const> = {}
for _, name in ipairs{ "EXIT", "PUTCHAR", "GETCHAR", "WRITE", "READ" } do
  BUILT_IN[name] = abi["HC_" .. name]
end

-- By object, the names of the numbers that were defined, perhaps not any more.
local names = setmetatable({}, { __mode = "k" })

local function expect(method, index, kind, value)
  if type(value) == kind then return value end
  core.blame(("bad argument #%d to '%s' (%s expected, got %s)"):format(index, method, kind,
                                                                       type(value)))
end

local function check(self, method, what, fn, index)
  options.self("hypercalls:" .. method, self, "minikvm.hypercalls")
  local number = math.tointeger(expect(method, 1, "number", what))
  if not number or number < 0 or number > 255 then
    core.blame(("bad argument #1 to '%s' (a hypercall number is 0 to 255)"):format(method))
  end
  expect(method, index, "function", fn)
  return number
end

---A number, or the name of one that is defined or built in.
local function find(self, what)
  if type(what) ~= "string" then return what end
  for number, name in pairs(names[self] or {}) do
    if name == what and core.hypercall_defined(self, number) then return number end
  end
  return BUILT_IN[what]
    or core.blame(('there is no hypercall "%.40s": define() it first, or give its number')
      :format(what))
end

---Adds a call. An integer that fn returns is what the guest's next IN from the port reads.
---@param number integer
---@param name string
---@param fn fun(argument: integer, cpu: integer): integer?
---@return minikvm.handle
function hypercalls:define(number, name, fn)
  options.self("hypercalls:define", self, "minikvm.hypercalls")
  expect("define", 2, "string", name)
  number = check(self, "define", number, fn, 3)
  options.argument("hypercalls:define", "name", name, "text")
  local mine = names[self] or {}
  if core.hypercall_defined(self, number) then
    core.blame(('hypercall %d is defined already, as "%s": remove() its handle first, or '
                .. 'override() it')
      :format(number, mine[number]))
  end
  local handle = core.hypercall(self, number, "define", fn)
  names[self], mine[number] = mine, name
  return handle
end

---Goes on top of a call: next() is the one beneath, and returns its answer.
---@param what integer|string
---@param fn fun(argument: integer, cpu: integer, next: function): integer?
---@return minikvm.handle
function hypercalls:override(what, fn)
  return core.hypercall(self, check(self, "override", find(self, what), fn, 2), "override", fn)
end

---Sees calls and changes nothing.
---@param what integer|string
---@param fn fun(argument: integer, cpu: integer)
---@return minikvm.handle
function hypercalls:tap(what, fn)
  return core.hypercall(self, check(self, "tap", find(self, what), fn, 2), "tap", fn)
end

return hypercalls
