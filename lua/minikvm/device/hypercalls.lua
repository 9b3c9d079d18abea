-- hypercalls.lua - vm.hypercalls: calls of the guest by number or name, answered in Lua.
--
-- The handlers of one number form a stack above the built-in call, if it has one: a list from the
-- newest to the oldest, which may change while one of them is called. The core
-- (src/lua/hypercalls.c) calls one function for each number that has any.

local core = require "minikvm.core"
local abi = require "minikvm.abi"
local handle = require "minikvm.handle"
local options = require "minikvm.options"

local KIND <const> = "minikvm.hypercalls"
local HANDLERS_MAX <const> = 1024 -- of one number

local hypercalls = core.methods(KIND)

local BUILT_IN <const> = {}
for _, name in ipairs{ "EXIT", "PUTCHAR", "GETCHAR", "WRITE", "READ" } do
  BUILT_IN[name] = abi["HC_" .. name]
end

-- By object, the newest handler of each number.
local tops = setmetatable({}, { __mode = "k" })

-- ---- a call of the guest ----

local call_from

---What an override gets as `next` on a vCPU: it belongs to the call that is in progress there.
local function new_turn(h, cpu)
  local turn = {}
  function turn.next()
    if not turn.argument then
      core.blame "next() belongs to a call that is over: call it inside the handler"
    end
    return core.hypercall_answer(h.number, call_from(h.beneath, h, turn.argument, cpu))
  end
  h.turns[cpu] = turn
  return turn
end

---The handlers from `h` on, until one answers; then the built-in call. One that was removed
---meanwhile leads to those beneath it. `of` has number and object.
function call_from(h, of, argument, cpu)
  while h do
    if h.removed then
      h = h.beneath
    else
      h.hits = h.hits + 1
      if h.kind == "define" then return h.fn(argument, cpu) end
      if h.kind == "override" then
        local turn = h.turns[cpu] or new_turn(h, cpu)
        turn.argument = argument
        local answer = h.fn(argument, cpu, turn.next)
        turn.argument = nil
        return answer
      end
      h.fn(argument, cpu)
      h = h.beneath
    end
  end
  return core.hypercall_builtin(of.calls, of.number)
end

---Tells the core who answers a number: the list from `top` on, nobody when that is nil. Raises when
---the VM is closed, or memory runs out.
local function connect(calls, number, top)
  local answer
  if top and top.kind == "define" then
    local fn <const> = top.fn
    answer = function(argument, cpu)
      top.hits = top.hits + 1
      return fn(argument, cpu)
    end
  elseif top then
    answer = function(argument, cpu) return call_from(top, top, argument, cpu) end
  end
  core.hypercall(calls, number, answer)
end

-- ---- handlers ----

local function remove(h)
  local mine = tops[h.calls]
  local top = mine[h.number]
  if top == h then
    connect(h.calls, h.number, h.beneath)
    mine[h.number] = h.beneath
    return
  end
  core.vm_of(h.calls, KIND) -- raises when it is closed
  while top.beneath ~= h do top = top.beneath end
  top.beneath = h.beneath
end

local new = handle.kind("handle of vm.hypercalls", {
  "calls", "number", "name", "kind", "fn", "turns", "beneath", "hits" }, remove)

local function add(self, number, kind, fn, name)
  local mine = tops[self] or {}
  local depth, h = 0, mine[number]
  while h do depth, h = depth + 1, h.beneath end
  if depth >= HANDLERS_MAX then
    core.blame(("hypercall 0x%02x has %d handlers, the most there may be: remove() some")
      :format(number, HANDLERS_MAX))
  end
  h = new{ calls = self, number = number, name = name, kind = kind, fn = fn, turns = {},
           beneath = mine[number], hits = 0 }
  connect(self, number, h)
  tops[self], mine[number] = mine, h
  return h
end

local function expect(method, index, kind, value)
  if type(value) == kind then return value end
  core.blame(("bad argument #%d to '%s' (%s expected, got %s)"):format(index, method, kind,
                                                                       type(value)))
end

local function check(self, method, what, fn, index)
  options.self("hypercalls:" .. method, self, KIND)
  local number = math.tointeger(expect(method, 1, "number", what))
  if not number or number < 0 or number > 255 then
    core.blame(("bad argument #1 to '%s' (a hypercall number is 0 to 255)"):format(method))
  end
  expect(method, index, "function", fn)
  return number
end

---The handler that defines a number.
local function definition(self, number)
  local h = (tops[self] or {})[number]
  while h and h.kind ~= "define" do h = h.beneath end
  return h
end

---A number, or the name of one that is defined or built in.
local function find(self, what)
  if type(what) ~= "string" then return what end
  for number in pairs(tops[self] or {}) do
    local h = definition(self, number)
    if h and h.name == what then return number end
  end
  return BUILT_IN[what]
    or core.blame(("there is no hypercall %q: define() it first, or give its number"):format(
      what:sub(1, 40)))
end

---Adds a call. An integer that fn returns is what the guest's next IN from the port reads.
---@param number integer
---@param name string
---@param fn fun(argument: integer, cpu: integer): integer?
---@return minikvm.handle
function hypercalls:define(number, name, fn)
  options.self("hypercalls:define", self, KIND)
  expect("define", 2, "string", name)
  number = check(self, "define", number, fn, 3)
  options.argument("hypercalls:define", "name", name, "text")
  local other = definition(self, number)
  if other then
    core.blame(('hypercall %d is defined already, as "%s": remove() its handle first, or '
                .. 'override() it')
      :format(number, other.name))
  end
  return add(self, number, "define", fn, name)
end

---Goes on top of a call: next() is the one beneath, and returns its answer.
---@param what integer|string
---@param fn fun(argument: integer, cpu: integer, next: function): integer?
---@return minikvm.handle
function hypercalls:override(what, fn)
  return add(self, check(self, "override", find(self, what), fn, 2), "override", fn)
end

---Sees calls and changes nothing.
---@param what integer|string
---@param fn fun(argument: integer, cpu: integer)
---@return minikvm.handle
function hypercalls:tap(what, fn)
  return add(self, check(self, "tap", find(self, what), fn, 2), "tap", fn)
end

return hypercalls
