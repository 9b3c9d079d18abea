-- dwarf.lua - what dwarf.c calls: all that is asked of the debugging information of a file.

local dwarf = require("minikvm.core").dwarf
local dies = require "minikvm.debug.dies"
local expression = require "minikvm.debug.expression"

local function number() return 0x1000 end
local CONTEXT <const> = { bits = 64, register = number, memory = number, cfa = number,
                          frame_base = number, entry_value = number,
                          to_memory = function(address) return address end }

---Reasons are tables or told as nil; anything else is a fault.
local function evaluate(ops)
  if type(ops) ~= "table" then return end
  local ok, why = pcall(expression.evaluate, ops, CONTEXT)
  if not ok and type(why) ~= "table" then error(why, 0) end
end

local function ask_types(d, die, depth)
  local t = die and depth > 0 and dies.type(d, die)
  if not t then return end
  ask_types(d, t.of, depth - 1)
  for i, member in ipairs(t.members or {}) do
    if i > 8 then break end
    ask_types(d, member.type, depth - 1)
  end
end

local function ask_address(d, address)
  dwarf.line(d, address)
  local frame = dwarf.frame(d, address)
  if frame then
    evaluate(frame.cfa)
    for _, rule in pairs(frame.rules or {}) do evaluate(rule) end
  end
  for _, rule in pairs(dies.call(d, address) or {}) do evaluate(rule) end
  for _, scope in ipairs(dies.scopes(d, address) or {}) do
    evaluate(dies.frame_base(d, scope.die, address))
    for _, v in ipairs(dies.variables(d, scope.die, address) or {}) do
      evaluate(v.location)
      ask_types(d, v.type, 6)
    end
  end
end

return function(bytes)
  if bytes:sub(1, 4) ~= "\x7fELF" then return end
  local d = dwarf.open(nil, bytes, false)
  if not d then return end
  for n, unit in ipairs(dwarf.units(d) or {}) do
    for i, low in ipairs(unit.ranges or {}) do
      if i > 8 then break end
      ask_address(d, low)
      ask_address(d, low + 9)
    end
    dwarf.rows(d, n)
  end
  dwarf.count(d)
  dwarf.find_line(d, "guest.c", 5)
  for _, address in ipairs{ 0, 0x1000, 0x1010, 0x1040, -1 } do ask_address(d, address) end
end
