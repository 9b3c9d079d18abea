-- debug/expression.lua - DWARF expressions, evaluated: where a variable or a register is, or what
-- it holds. DWARF 5, chapters 2.5 and 2.6. As data, without a VM: a context answers what is asked.
--
-- An expression is a list { operation, number, number, offset, … } as src/lua/dwarf_dies.c makes
-- it. It comes from a file: steps and the stack are limited, and what it lacks is said.

local ult = math.ult

local M = {}

local STEPS_MAX <const>, STACK_MAX <const> = 10000, 256

---@class minikvm.expression.context
---@field bits 32|64
---@field register fun(number: integer): integer?  by the number of DWARF
---@field memory fun(address: integer, size: integer): integer?  little endian
---@field cfa fun(): integer?
---@field frame_base fun(): integer?
---@field entry_value fun(number: integer): integer?  what a register held when the function began
---@field to_memory fun(address: integer): integer  what an address in the file is in memory

---What evaluate() raises, with the reason.
local function fail(why) error({ expression = why }, 0) end

local function need(value, why)
  if value == nil then fail(why) end
  return value
end

local OPTIMIZED_OUT <const> = "optimized out"
local NO_REGISTER <const> = "in a register that was not kept"

local function push(s, value)
  if #s.stack >= STACK_MAX then fail "its expression is too deep" end
  s.stack[#s.stack + 1] = value & s.mask
end

local function pop(s)
  return need(table.remove(s.stack), "its expression is damaged")
end

local function signed(s, value)
  if s.context.bits == 64 then return value end
  return (value ~ 0x80000000) - 0x80000000
end

local function binary(fn)
  return function(s)
    local b, a = pop(s), pop(s)
    push(s, fn(s, a, b))
  end
end

local function compare(fn)
  return binary(function(s, a, b) return fn(signed(s, a), signed(s, b)) and 1 or 0 end)
end

local function deref(s, size)
  if size < 1 or size > 8 then fail "its expression is damaged" end
  push(s, need(s.context.memory(pop(s), size), "in memory that is not mapped"))
end

local function based(s, number, offset)
  push(s, need(s.context.register(number), NO_REGISTER) + offset)
end

---Jumps to the operation at an offset in the expression.
local function jump(s, to)
  for i = 4, #s.ops, 4 do
    if s.ops[i] == to then
      s.next = i - 3
      return
    end
  end
  s.next = #s.ops + 1
end

local function branch(s, distance)
  jump(s, s.offset + 3 + ((distance & 0xffff) ~ 0x8000) - 0x8000)
end

local function shift(s, n) return ult(n, s.context.bits) end

local function arithmetic_shift(s, a, n)
  a = signed(s, a)
  if not shift(s, n) then return a < 0 and -1 or 0 end
  return a >> n | (a < 0 and n > 0 and ~(-1 >> n) or 0)
end

local function divide(s, a, b)
  a, b = signed(s, a), signed(s, b)
  if b == 0 then fail "its expression divides by zero" end
  local quotient = a // b
  return quotient < 0 and quotient * b ~= a and quotient + 1 or quotient
end

---a // b of unsigned integers.
local function quotient_of(a, b)
  if b < 0 then return ult(a, b) and 0 or 1 end
  if a >= 0 then return a // b end
  local quotient = (a >> 1) // b << 1
  return ult(a - quotient * b, b) and quotient or quotient + 1
end

local function modulo(_, a, b)
  if b == 0 then fail "its expression divides by zero" end
  return a - quotient_of(a, b) * b
end

local function pick(s, n)
  push(s, need(s.stack[#s.stack - n], "its expression is damaged"))
end

local function nothing() end

-- By operation: function(state, number, number).
local RUN <const> = {
  [0x03] = function(s, n) push(s, s.context.to_memory(n)) end, -- addr
  [0x06] = function(s) deref(s, s.context.bits // 8) end,
  [0x10] = push, [0x11] = push, -- constu, consts
  [0x12] = function(s) local a = pop(s) push(s, a) push(s, a) end, -- dup
  [0x13] = pop,
  [0x14] = function(s) pick(s, 1) end, -- over
  [0x15] = pick,
  [0x16] = function(s) local b, a = pop(s), pop(s) push(s, b) push(s, a) end, -- swap
  [0x17] = function(s)                                                        -- rot
    local c, b, a = pop(s), pop(s), pop(s)
    push(s, c) push(s, a) push(s, b)
  end,
  [0x19] = function(s) push(s, math.abs(signed(s, pop(s)))) end,
  [0x1a] = binary(function(_, a, b) return a & b end),
  [0x1b] = binary(divide),
  [0x1c] = binary(function(_, a, b) return a - b end),
  [0x1d] = binary(modulo),
  [0x1e] = binary(function(_, a, b) return a * b end),
  [0x1f] = function(s) push(s, -pop(s)) end,
  [0x20] = function(s) push(s, ~pop(s)) end,
  [0x21] = binary(function(_, a, b) return a | b end),
  [0x22] = binary(function(_, a, b) return a + b end),
  [0x23] = function(s, n) push(s, pop(s) + n) end, -- plus_uconst
  [0x24] = binary(function(s, a, b) return shift(s, b) and a << b or 0 end),
  [0x25] = binary(function(s, a, b) return shift(s, b) and a >> b or 0 end),
  [0x26] = binary(arithmetic_shift),
  [0x27] = binary(function(_, a, b) return a ~ b end),
  [0x28] = function(s, n) if pop(s) ~= 0 then branch(s, n) end end,
  [0x29] = compare(function(a, b) return a == b end),
  [0x2a] = compare(function(a, b) return a >= b end),
  [0x2b] = compare(function(a, b) return a > b end),
  [0x2c] = compare(function(a, b) return a <= b end),
  [0x2d] = compare(function(a, b) return a < b end),
  [0x2e] = compare(function(a, b) return a ~= b end),
  [0x2f] = branch, -- skip
  [0x91] = function(s, n)
    push(s, need(s.context.frame_base(), "its frame is not known") + n)
  end,
  [0x92] = based, -- bregx
  [0x94] = deref, -- deref_size
  [0x96] = nothing,
  [0x9c] = function(s) push(s, need(s.context.cfa(), "its frame is not known")) end,
  [0xa3] = function(s, n) -- entry_value, of a register
    push(s, need(n >= 0 and s.context.entry_value(n) or nil, OPTIMIZED_OUT))
  end,
  [0xa8] = nothing, [0xf7] = nothing, [0xa9] = nothing, [0xf9] = nothing, -- conversions of integers
}
for n = 0x08, 0x0f do RUN[n] = push end
for n = 0, 31 do
  RUN[0x30 + n] = function(s) push(s, n) end
  RUN[0x70 + n] = function(s, offset) based(s, n, offset) end
end

---The location that an operation names by itself; nil when it does not.
local function simple(s, op, number)
  if op >= 0x50 and op <= 0x6f or op == 0x90 then
    return { kind = "register", number = op == 0x90 and number or op - 0x50 }
  elseif op == 0x9e then
    return { kind = "bytes", bytes = type(number) == "string" and number or "" }
  elseif op == 0x9f then
    return { kind = "value", value = pop(s) }
  end
end

local PIECE <const>, BIT_PIECE <const> = 0x93, 0x9d

---Ends a part of a location that has several.
local function end_piece(s, size)
  s.pieces = s.pieces or {}
  local part = s.result or (#s.stack > 0 and { kind = "address", address = pop(s) })
    or { kind = "none" }
  part.size = size
  s.pieces[#s.pieces + 1], s.result, s.stack = part, nil, {}
end

local function step(s)
  local i = s.next
  local op, number, number2 = s.ops[i], s.ops[i + 1], s.ops[i + 2]
  s.offset, s.next = s.ops[i + 3], i + 4
  if op == PIECE then return end_piece(s, number) end
  if op == BIT_PIECE then fail "in parts of a register" end
  local found = simple(s, op, number)
  if found then
    s.result = found
  elseif RUN[op] then
    RUN[op](s, number, number2)
  else
    fail(OPTIMIZED_OUT)
  end
end

local function run(s)
  local steps = 0
  while s.next <= #s.ops do
    steps = steps + 1
    if steps > STEPS_MAX then fail "its expression does not end" end
    step(s)
  end
  if s.pieces then return { kind = "pieces", pieces = s.pieces } end
  return s.result or { kind = "address", address = pop(s) }
end

---Where something is, or what it holds.
---@param ops table  { operation, number, number, offset, … }
---@param context minikvm.expression.context
---@param initial integer?  what is on the stack before
---@return { kind: "address"|"register"|"value"|"bytes"|"pieces"|"none", address: integer?,
---  number: integer?, value: integer?, bytes: string?, pieces: table[]?, size: integer? }? location
---  nil, and why
---@return string? why
function M.evaluate(ops, context, initial)
  if #ops == 0 then return nil, OPTIMIZED_OUT end
  local s = { ops = ops, context = context, stack = { initial }, next = 1,
              mask = context.bits == 64 and -1 or 0xffffffff }
  local ok, result = pcall(run, s)
  if ok then return result end
  if type(result) == "table" and result.expression then return nil, result.expression end
  error(result, 0)
end

M.OPTIMIZED_OUT = OPTIMIZED_OUT

return M
