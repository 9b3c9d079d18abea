-- debug/locals.lua - cpu:locals(): parameters and variables of a function that runs, where its
-- debugging information tells where they are.

local class = require "minikvm.class"
local dies = require "minikvm.debug.dies"
local dwarf = require "minikvm.debug.dwarf"
local expression = require "minikvm.debug.expression"
local strict = require "minikvm.strict"
local types = require "minikvm.debug.types"
local unwind = require "minikvm.debug.unwind"
local where = require "minikvm.debug.where"

local M = {}

---@class minikvm.locals  a list of minikvm.local; a name is a key as well, the innermost one's
local _, meta = class "minikvm.locals"

function meta.__index(list, key)
  for i = 1, type(key) == "string" and #list or 0 do
    if list[i].name == key then return list[i] end
  end
end

function meta.__tostring(list)
  local lines = {}
  for i, one in ipairs(list) do
    lines[i] = ("%s %s = %s"):format(one.type, one.name, one.available and one.text
                                     or ("<%s>"):format(one.text))
  end
  return #lines > 0 and table.concat(lines, "\n") or rawget(list, "why") or "none"
end

---The bytes of one part of a location.
local function part_bytes(m, context, at, size)
  if at.kind == "address" then
    return m:bytes(m.stack + (at.address & m.mask), size)
  elseif at.kind == "bytes" then
    return at.bytes
  elseif at.kind == "none" then
    return nil, expression.OPTIMIZED_OUT
  end
  local value = at.value
  if at.kind == "register" then value = context.register(at.number) end
  if not value then return nil, "in a register that was not kept" end
  return (("<i8"):pack(value) .. ("\0"):rep(math.max(0, size - 8))):sub(1, size)
end

---The bytes at a location; nil and why.
local function bytes_at(m, context, at, size)
  if at.kind ~= "pieces" then return part_bytes(m, context, at, size) end
  local parts, left = {}, size
  for _, piece in ipairs(at.pieces) do
    local n = math.min(piece.size, left)
    local bytes, why = part_bytes(m, context, piece, n)
    if not bytes then return nil, why end
    parts[#parts + 1], left = bytes, left - n
  end
  return table.concat(parts)
end

---The location of a variable, or the bytes that stand for it.
local function locate(variable, context, size)
  local constant = variable.constant
  if variable.location then return expression.evaluate(variable.location, context) end
  if type(constant) == "string" then return { kind = "bytes", bytes = constant } end
  if constant and size <= 8 then return { kind = "value", value = constant } end
  return nil, expression.OPTIMIZED_OUT
end

---Fills in the value of a variable; returns why there is none.
local function read(one, variable, m, context, info)
  local size = types.size(info, variable.type, context.bits)
  if not size then return "of unknown size" end
  local at, why = locate(variable, context, size)
  if not at then return why end
  if at.kind == "address" then one.address = m.stack + (at.address & m.mask) end
  if at.kind == "register" then one.register = at.number end
  if size > types.LARGEST then return ("%d bytes at 0x%x"):format(size, one.address or 0) end
  local bytes
  bytes, why = bytes_at(m, context, at, size)
  if not bytes then return why end
  if #bytes < size then return "in memory that is not mapped" end
  local reader = { info = info, bits = context.bits,
                   bytes = function(address, length) return m:bytes(address & m.mask, length) end,
                   place = function(address) return where.text(m.vm, address & m.mask) end }
  one.value, one.text = types.of_bytes(reader, variable.type, bytes, 1)
  one.available = one.value ~= nil
end

local mark = strict.record("local", "a variable", { "name", "type", "value", "text", "available",
                           "address", "register", "parameter", "line" })

local function describe(variable, m, context, info)
  local one = mark{ name = variable.name or "?", type = types.name(info, variable.type),
                parameter = variable.parameter or false, line = variable.line, available = false }
  local why = read(one, variable, m, context, info)
  one.text = one.text or why
  return one
end

---The base of the function's variables, computed when a variable needs it.
local function frame_base(info, scopes, m, frame, image, address)
  local busy = false -- it may refer to itself
  return function()
    local outer = scopes[#scopes]
    local ops = not busy and dies.frame_base(info, outer.die, address)
    if not ops then return nil end
    busy = true
    local context = unwind.context(m, frame, image)
    local at = expression.evaluate(ops, context)
    busy = false
    if not at then return nil end
    return at.kind == "register" and context.register(at.number) or at.address or at.value
  end
end

---The scopes of the n-th function at an address, 0 being the innermost that is inlined there.
local function scopes_of(scopes, n)
  local list = {}
  for _, scope in ipairs(scopes) do
    if n == 0 then list[#list + 1] = scope end
    if scope.kind ~= "block" then n = n - 1 end
    if n < 0 then break end
  end
  return list
end

---Variables of one function of a frame.
---@param m minikvm.machine
---@param frame minikvm.frame
---@param n integer  0: the innermost function that is inlined there
---@return minikvm.local[]
function M.of(m, frame, n)
  local list = setmetatable({}, meta)
  unwind.find_cfa(m, frame)
  dwarf.ask(m.vm, unwind.address(frame), function(info, there, image)
    local scopes = dies.scopes(info, there)
    list.why = scopes.split and "its .dwo file is not there" or nil
    local outer = scopes[#scopes]
    local context = unwind.context(m, frame, image,
                                   frame_base(info, scopes, m, frame, image, there),
                                   outer and outer.name)
    for _, scope in ipairs(scopes_of(scopes, n)) do
      for _, variable in ipairs(scope.die and dies.variables(info, scope.die, there) or {}) do
        list[#list + 1] = describe(variable, m, context, info)
      end
    end
    return #scopes > 0 or nil
  end)
  return list
end

return M
