-- debug/where.lua - places in a guest's code, both ways: what a script or a user writes ("main",
-- "main+0x10", "kernel.c:12", an address) as a linear address, and an address as function and
-- source line. Whoever takes or shows a place calls this.

local core = require "minikvm.core"
local dies = require "minikvm.debug.dies"
local dwarf = require "minikvm.debug.dwarf"
local images = require "minikvm.image"
local options = require "minikvm.options"
local strict = require "minikvm.strict"
local saved = require "minikvm.image.saved"
local symbols = require "minikvm.image.symbols"

local M = {}

-- ---- from a text to an address ----

local function no_symbol(vm, name)
  local names = {}
  for known in pairs(symbols.all(images.objects(vm))) do names[#names + 1] = known end
  local lost = saved.problem(vm)
  if #names == 0 and lost then
    return nil, ("%q: no symbols are known: %s"):format(name, lost), "ENOENT"
  elseif #names == 0 then
    return nil, ("%q: no symbols are known: load an ELF image, or a file with vm:load_symbols")
      :format(name), "ENOENT"
  end
  return nil, ("%q: no such symbol%s"):format(name, options.hint(name, names)), "ENOENT"
end

---How compilers of C++ and Rust write a qualified name within a symbol: each part behind its length
---(Itanium C++ ABI, 5.1; Rust's mangling v0).
local function mangled(name)
  local parts = {}
  for part in (name .. "::"):gmatch "(.-)::" do
    if not part:find "^[%a_][%w_]*$" then return nil end
    parts[#parts + 1] = ("%d%s"):format(#part, part)
  end
  return table.concat(parts)
end

---The address of a function of C++ or Rust; nil when there is none, or several: then also a
---message.
---@return integer? address
---@return string? why
local function of_mangled(vm, name)
  local part, found, count, example = mangled(name), nil, 0, {}
  for symbol, value in pairs(part and symbols.all(images.objects(vm)) or {}) do
    local _, last = symbol:find(part, 1, true)
    local rest = last and (symbol:find "^_R" or symbol:find "^_Z[^ZTG]") and symbol:sub(last + 1)
    -- What follows is the end of the name, a hash or types, no further part; what precedes no
    -- digit.
    if rest and (rest:find "^17h%x+E$" or not rest:find "^%d") and not symbol:find("%d" .. part)
       and value ~= found then
      found, count = value, count + 1
      example[#example + 1] = symbol
    end
  end
  if count <= 1 then return found end
  table.sort(example)
  return nil, ("%q: %d symbols have this name, such as %s and %s"):format(name, count, example[1],
                                                                        example[2])
end

---The address of a symbol by its name.
local function named(vm, name)
  local value = symbols.find(images.objects(vm), name)
  if value then return value end
  return of_mangled(vm, name)
end

local function of_symbol(vm, text)
  local value, why = named(vm, text)
  if value then return value end
  if why then return nil, why, "EINVAL" end
  local name, digits = text:match "^(.-)%s*%+%s*(%w+)$"
  local offset = digits and options.to_integer(digits)
  if not offset then return no_symbol(vm, text) end
  value, why = named(vm, name)
  if value then return value + offset end
  if why then return nil, why, "EINVAL" end
  return no_symbol(vm, name)
end

---Of the addresses of a line, the first one in each function and in each place where one is
---inlined.
local function first_of_each(info, list)
  local seen, first = {}, {}
  table.sort(list, math.ult)
  for _, address in ipairs(list) do
    local key = 0
    for _, scope in ipairs(dies.scopes(info, address)) do
      if scope.kind ~= "block" then
        key = scope.die or address
        break
      end
    end
    if not seen[key] then first[#first + 1], seen[key] = address, true end
  end
  return first
end

---@return integer? address
---@return integer[]|string all
---@return string? code
local function of_line(vm, file, number)
  local list, known, problem = images.objects(vm), false, nil
  if number < 1 or number >= 1 << 31 then
    return nil, ("%s:%d: lines are numbered from 1"):format(file, number), "EINVAL"
  end
  for i = #list, 1, -1 do
    local info, why = dwarf.of(list[i])
    local found = info and core.dwarf.find_line(info, file, number)
    problem, known = problem or why, known or found ~= nil
    if found and #found > 0 then
      local all = first_of_each(info, found)
      for n, address in ipairs(all) do all[n] = symbols.to_memory(list[i], address) end
      return all[1], all
    end
  end
  local why = known and "it has no code on that line or after it"
    or problem and ("source lines are not known: %s"):format(problem)
    or dwarf.any(vm) and "no source file of this name is known"
    or "no source lines are known: build the guest with -g and load its ELF file, or give that to "
      .. "vm:load_symbols"
  return nil, ("%s:%d: %s"):format(file, number, why), "ENOENT"
end

---The linear address of a place: an integer is one; "0x1000"; a symbol; "symbol+offset";
---"file.c:12", where the file is the end of its path, and a line without code means the next one
---that has some.
---@param vm minikvm.vm
---@param where integer|string
---@return integer? address  or nil, "what: why", "ENAME"
---@return integer[]|string all  each address of it: a line may be in several functions
---@return string? code
function M.address(vm, where)
  local address, all, code = where, nil, nil
  if type(where) == "string" then
    local file, number = where:match "^(.+):(%d+)$"
    local digits = options.to_integer(where)
    if file and not where:find "::%d+$" then
      address, all, code = of_line(vm, file, math.tointeger(tonumber(number)) or 0)
    elseif digits then
      address = digits
    else
      address, all, code = of_symbol(vm, where)
    end
  elseif math.type(where) ~= "integer" then
    return nil, ("expected an address, a symbol, \"symbol+offset\" or \"file.c:line\", got %s")
      :format(tostring(where)), "EINVAL"
  end
  if address then return address, all or { address } end
  return nil, all, code
end

---The same for a function that blames the script's line: raises when there is no such place.
---@param what string  the function the caller called: "vm:break_at"
---@return integer address
---@return integer[] all
function M.check(what, vm, where)
  local address, all = M.address(vm, where)
  if not address then core.blame(("%s: %s"):format(what, all)) end
  return address, all
end

-- ---- from an address to a text ----

local mark = strict.record("place", "a place", {
  "address", "symbol", "offset", "file", "line", "column", "path", "functions" },
  function(place) return M.show(place) or ("0x%x"):format(place.address) end)

---What runs there, the innermost first; the place in each is where the one before was called.
local function functions_at(info, address, file, line)
  local list = {}
  for _, scope in ipairs(dies.scopes(info, address)) do
    if scope.kind ~= "block" then
      list[#list + 1] = { name = scope.name or "?", file = file, line = line, low = scope.low }
      file, line = scope.call_file, scope.call_line
    end
  end
  return list
end

---What is known of an address.
---@param vm minikvm.vm
---@param address integer  linear
---@return minikvm.place
function M.of(vm, address)
  local place = mark{ address = address, functions = {} }
  place.symbol, place.offset = symbols.at(images.objects(vm), address)
  dwarf.ask(vm, address, function(info, there)
    place.file, place.line, place.column, place.path = core.dwarf.line(info, there)
    place.functions = functions_at(info, there, place.file, place.line)
    local outer = place.functions[#place.functions]
    if outer and outer.low and not place.symbol then
      place.symbol, place.offset = outer.name, there - outer.low
    end
    return place.file or outer and outer.name
  end)
  return place
end

---The qualified name within a symbol of C++ or Rust: "Kernel::init" of _ZN6Kernel4initEv; nil for
---others. Types and what templates are made for are left out.
---@return string?
local function demangled(symbol)
  local at, parts = symbol:match "^_ZNK?()" or symbol:match "^_Z()", {}
  local digits = at and symbol:match("^%d+", at)
  while digits and #digits < 5 do
    local part = symbol:sub(at + #digits, at + #digits + tonumber(digits) - 1)
    if not (digits == "17" and part:find "^h%x+$") then parts[#parts + 1] = part end -- Rust's hash
    at = at + #digits + #part
    digits = #part > 0 and symbol:match("^%d+", at)
  end
  return #parts > 0 and table.concat(parts, "::") or nil
end

---The name to show of a place: that of the source, where the symbol's is one for the linker.
---@return string?
function M.name(place)
  local outer = place.functions[#place.functions]
  if not place.symbol or not place.symbol:find "^_[ZR]" then return place.symbol end
  return demangled(place.symbol) or outer and outer.name or place.symbol
end

local function at(file, line)
  return file and ("%s:%d"):format(file, line or 0)
end

---A place as text: "main+0x10 (kernel.c:12)", "inb+0x3 …"; nil when nothing is known of it.
---@param place minikvm.place
---@param brief boolean?
---@return string?
function M.show(place, brief)
  local line = at(place.file, place.line)
  if not place.symbol then return line end
  local name = M.name(place)
  local text = place.offset == 0 and name or ("%s+0x%x"):format(name, place.offset)
  if not line then return text end
  for i = 1, brief and 0 or #place.functions - 1 do
    local caller = place.functions[i + 1]
    line = ("%s, %s inlined%s"):format(line, place.functions[i].name,
      caller.line and " at " .. at(caller.file, caller.line) or "")
  end
  return ("%s (%s)"):format(text, line)
end

---Reads symbols and opens debugging information, so that the next question takes no time for it.
function M.prepare(vm)
  symbols.at(images.objects(vm), 0)
  dwarf.any(vm)
end

---The same for an address.
---@param brief boolean?  without the functions that are inlined there
---@return string?
function M.text(vm, address, brief)
  return M.show(M.of(vm, address), brief)
end

---Where a VM was that has ended: of the first vCPU that ended for the same reason.
---@param info table  what a run returned
---@return string?
function M.of_end(vm, info)
  for i = 0, #info.cpu - 1 do
    local one = info.cpu[i]
    if one.reason == info.reason then
      local ok, cs = pcall(function() return vm.cpu[i]:sregs().cs end)
      if not ok then return nil end -- it is closed, or runs again
      return M.text(vm, cs.base + one.rip & (cs.l == 1 and -1 or 0xffffffff))
    end
  end
end

return M
