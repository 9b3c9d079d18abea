-- debug/dies.lua - what entries of debugging information mean: scopes of code, variables, calls,
-- types (DWARF 5, chapters 3.3 to 3.5, 4.1 and 5). src/lua/dwarf_dies.c reads them.

local core = require "minikvm.core"

local M = {}

local TAG <const> = {
  array = 0x01, class = 0x02, enumeration = 0x04, parameter = 0x05, member = 0x0d, struct = 0x13,
  union = 0x17, inlined = 0x1d, subrange = 0x21, enumerator = 0x28, subprogram = 0x2e,
  variable = 0x34, call_site = 0x48, gnu_call_site = 0x4109,
}
local AT <const> = {
  location = 0x02, byte_size = 0x0b, bit_offset = 0x0c, bit_size = 0x0d, low_pc = 0x11,
  const_value = 0x1c, upper_bound = 0x2f, abstract_origin = 0x31, count = 0x37,
  data_member_location = 0x38, decl_line = 0x3b, encoding = 0x3e, frame_base = 0x40, type = 0x49,
  call_file = 0x58, call_line = 0x59, data_bit_offset = 0x6b, call_return_pc = 0x7d,
  call_value = 0x7e, call_origin = 0x7f, gnu_call_site_value = 0x2111,
}
local REG0 <const>, REG31 <const> = 0x50, 0x6f -- operations that are a register

---@class minikvm.scope
---@field kind "function"|"inlined"|"block"
---@field name string?
---@field die integer
---@field low integer?  where its code begins
---@field call_file string?  of one that is inlined: where it is called
---@field call_line integer?

local function scope_of(info, die)
  local tag, name, low = core.dwarf.about(info, die)
  local scope = { name = name, die = die, low = low, kind = "block" }
  if tag == TAG.subprogram then
    scope.kind = "function"
  elseif tag == TAG.inlined then
    scope.kind = "inlined"
    scope.call_file = core.dwarf.get(info, die, AT.call_file, "file")
    scope.call_line = core.dwarf.get(info, die, AT.call_line, "number")
  end
  return scope
end

---The scopes that hold an address, the innermost first; empty when nothing is known. `split`: the
---unit's .dwo file is not there.
---@param info minikvm.dwarf
---@param address integer  of the file
---@return minikvm.scope[]|{ split: true? }
function M.scopes(info, address)
  local dies, split = core.dwarf.scopes(info, address)
  local list = { split = split or nil }
  for i, die in ipairs(dies) do list[i] = scope_of(info, die) end
  return list
end

---The expression of a function's frame base; nil: it has none.
function M.frame_base(info, die, address)
  return core.dwarf.get(info, die, AT.frame_base, "expression", address)
end

---The variables and parameters of a scope, in the order of the source.
---@return { name: string?, type: integer?, line: integer?, location: table?,
---  constant: integer|string?, parameter: true? }[]
function M.variables(info, scope, address)
  local list = {}
  for i, die in ipairs(core.dwarf.children(info, scope, TAG.variable, TAG.parameter)) do
    local tag, name = core.dwarf.about(info, die)
    list[i] = {
      name = name,
      type = core.dwarf.get(info, die, AT.type, "die"),
      line = core.dwarf.get(info, die, AT.decl_line, "number"),
      location = core.dwarf.get(info, die, AT.location, "expression", address),
      constant = core.dwarf.get(info, die, AT.const_value, "constant"),
      parameter = tag == TAG.parameter or nil,
    }
  end
  return list
end

-- ---- calls ----

---The entry of the call that returns to an address, and whether it is GNU's kind of one.
local function find_call(info, address)
  for _, scope in ipairs((core.dwarf.scopes(info, address - 1))) do
    for _, die in ipairs(core.dwarf.children(info, scope, TAG.call_site, TAG.gnu_call_site)) do
      local gnu = core.dwarf.about(info, die) == TAG.gnu_call_site
      local back = core.dwarf.get(info, die, gnu and AT.low_pc or AT.call_return_pc, "address")
      if back == address then return die, gnu end
    end
  end
end

---What registers held at the call that returns to this address, as expressions of the caller's
---frame; and the name of the function that is called. nil: not known.
---@return { [integer]: table, name: string? }?
function M.call(info, address)
  local call, gnu = find_call(info, address)
  if not call then return nil end
  local origin = core.dwarf.get(info, call, gnu and AT.abstract_origin or AT.call_origin, "die")
  local found = { name = origin and select(2, core.dwarf.about(info, origin)) or nil }
  for _, die in ipairs(core.dwarf.children(info, call)) do
    local at = core.dwarf.get(info, die, AT.location, "expression", address - 1)
    if at and #at == 4 and at[1] >= REG0 and at[1] <= REG31 then
      found[at[1] - REG0] = core.dwarf.get(
        info, die, gnu and AT.gnu_call_site_value or AT.call_value, "expression", address - 1)
    end
  end
  return found
end

-- ---- types ----

local KINDS <const> = {
  [TAG.array] = "array", [TAG.class] = "struct", [TAG.enumeration] = "enum", [0x0f] = "pointer",
  [0x10] = "pointer", [TAG.struct] = "struct", [0x15] = "function", [0x16] = "typedef",
  [TAG.union] = "union", [0x24] = "base", [0x26] = "const", [0x35] = "volatile",
  [0x37] = "qualified", [0x42] = "pointer", [0x47] = "qualified",
}

local function member(info, die)
  local function number(name) return core.dwarf.get(info, die, name, "number") end
  local _, name = core.dwarf.about(info, die)
  return {
    name = name,
    type = core.dwarf.get(info, die, AT.type, "die"),
    offset = number(AT.data_member_location),
    bit_size = number(AT.bit_size),
    data_bit_offset = number(AT.data_bit_offset),
    bit_offset = number(AT.bit_offset), -- of DWARF 2 and 3: from the highest bit
    size = number(AT.byte_size),
  }
end

---How many elements a dimension of an array has; -1 when that is not known.
local function dimension(info, die)
  local last = core.dwarf.get(info, die, AT.upper_bound, "number")
  return core.dwarf.get(info, die, AT.count, "number") or last and last + 1 or -1
end

local function enumerator(info, die)
  local _, name = core.dwarf.about(info, die)
  return { name = name, value = core.dwarf.get(info, die, AT.const_value, "constant") }
end

local PARTS <const> = {
  struct = { "members", TAG.member, member }, union = { "members", TAG.member, member },
  array = { "counts", TAG.subrange, dimension }, enum = { "values", TAG.enumerator, enumerator },
}

---@param die integer
---@return minikvm.type
function M.type(info, die)
  local tag, name = core.dwarf.about(info, die)
  local t = {
    kind = KINDS[tag] or "other",
    name = name,
    size = core.dwarf.get(info, die, AT.byte_size, "number"),
    encoding = core.dwarf.get(info, die, AT.encoding, "number"),
    of = core.dwarf.get(info, die, AT.type, "die"),
  }
  local parts = PARTS[t.kind]
  if parts then
    local list = core.dwarf.children(info, die, parts[2])
    for i, child in ipairs(list) do list[i] = parts[3](info, child) end
    t[parts[1]] = list
  end
  return t
end

return M
