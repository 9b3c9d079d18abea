-- debug/backtrace.lua - cpu:backtrace() and cpu:locals(): the functions that a vCPU is in, those
-- that the compiler has inlined among them.

local class = require "minikvm.class"
local core = require "minikvm.core"
local locals = require "minikvm.debug.locals"
local machine = require "minikvm.debug.machine"
local options = require "minikvm.options"
local strict = require "minikvm.strict"
local unwind = require "minikvm.debug.unwind"
local where = require "minikvm.debug.where"

local M = {}

local LIMIT <const>, MOST <const> = 64, 10000 -- frames

---@class minikvm.backtrace  a list of minikvm.call, the innermost first; `why`: why it ends there,
---  nil when nobody called the last one; tostring gives lines of text
local _, meta = class "minikvm.backtrace"

local mark = strict.record("call", "a call", { "pc", "symbol", "offset", "file", "line", "inlined",
                           "how", "arguments" })

---@param before minikvm.call?
local function line_of(i, call, before)
  local name = call.symbol and call.offset and call.offset ~= 0 and not call.inlined
    and ("%s+0x%x"):format(call.symbol, call.offset) or call.symbol or ("0x%x"):format(call.pc)
  local arguments = call.arguments and call.arguments ~= "" and (" (%s)"):format(call.arguments)
    or ""
  local line = call.file and (" at %s:%d"):format(call.file, call.line or 0) or ""
  local innermost = not (before and before.inlined and before.pc == call.pc)
  local note = (call.inlined and ", inlined" or "")
    .. (call.how == "interrupt" and innermost and ", interrupted" or "")
  return ("#%d %s%s%s%s"):format(i - 1, name, arguments, line, note)
end

function meta.__tostring(list)
  local lines = {}
  for i, call in ipairs(list) do lines[i] = line_of(i, call, list[i - 1]) end
  if list.why then lines[#lines + 1] = "no more is known: " .. list.why end
  return table.concat(lines, "\n")
end

local function arguments_of(m, frame, n)
  local parts = {}
  for _, one in ipairs(locals.of(m, frame, n)) do
    if one.parameter then
      parts[#parts + 1] = ("%s = %s"):format(one.name, one.available and one.text
                                             or ("<%s>"):format(one.text))
    end
  end
  return table.concat(parts, ", ")
end

---Adds what a frame is of to a list: calls, and the frame and number behind each.
local function add(list, m, frame)
  local place = where.of(m.vm, unwind.address(frame))
  local offset = place.offset and place.offset + (frame.called and 1 or 0)
  local count = math.max(1, #place.functions)
  for n = 0, count - 1 do
    local fn, inlined = place.functions[n + 1], n < count - 1
    local name = fn and fn.name
    fn = fn or place
    list[#list + 1] = { frame = frame, n = n, call = mark{
      pc = frame.pc, symbol = inlined and name or where.name(place) or name,
      offset = not inlined and offset or nil, file = fn.file, line = fn.line, inlined = inlined,
      how = frame.how,
      arguments = #place.functions > 0 and arguments_of(m, frame, n) or nil } }
  end
end

---The functions that run, with their frames.
---@return minikvm.machine m
---@return { call: minikvm.call, frame: minikvm.frame, n: integer }[]
---@return string? why
local function all(cpu, limit)
  local vm = core.vm_of(cpu, "minikvm.cpu")
  local m, registers = machine.of(vm, cpu)
  local frames, why = unwind.frames(m, registers, limit)
  local list = {}
  for _, frame in ipairs(frames) do add(list, m, frame) end
  return m, list, why
end

local OPTIONS <const> = options.declare("cpu:backtrace", {
  limit = options.between(1, MOST, ("a number of frames, 1 to %d"):format(MOST)),
})

---cpu:backtrace: see lua/minikvm/vm/cpu.lua.
---@return minikvm.backtrace
function M.of(cpu, opts)
  local o = options.check("cpu:backtrace", opts, OPTIONS)
  local _, list, why = all(cpu, o.limit or LIMIT)
  local calls = setmetatable({ why = why }, meta)
  for i, one in ipairs(list) do calls[i] = one.call end
  return calls
end

---cpu:locals: see lua/minikvm/vm/cpu.lua.
---@return minikvm.locals
function M.locals(cpu, number)
  number = number or 0
  options.argument("cpu:locals", "frame", number, "integer")
  local m, list = all(cpu, number < 0 and 1 or math.min(number + 2, MOST))
  local one = list[number + 1]
  if not one or number < 0 then
    core.blame(("cpu:locals: frame %d: there are 0 to %d"):format(number, #list - 1))
  end
  return locals.of(m, one.frame, one.n)
end

return M
