-- cli/show.lua - values as the prompt prints them: tables with what is in them.
--
-- What is shown is bounded: a table may be as large as memory, may hold itself, and strings of a
-- guest's hold any bytes. Fields are read raw, so that looking changes nothing.

local M = {}

local WIDTH <const>, DEEPEST <const>, MOST <const>, LONGEST <const> = 96, 4, 60, 400

---Fields that are addresses or registers, besides those that vCPUs have.
local ADDRESSES <const> = { address = true, base = true, at = true, linear = true, limit = true,
                            entry_addresses = true, gpa = true }

local function is_register(key)
  return package.loaded["minikvm.core"] and require("minikvm.vm.registers")[key] ~= nil
end

local ESCAPES <const> = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ['"'] = '\\"',
                          ["\\"] = "\\\\" }

local function escaped(c)
  return ESCAPES[c] or ("\\x%02x"):format(c:byte())
end

---A string in quotes; UTF-8 stays, of other bytes and control characters the number.
local function quoted(text)
  local cut = #text > LONGEST
  if cut then text = text:sub(1, utf8.offset(text, 0, LONGEST) - 1) end
  local pattern = utf8.len(text) and '[%c"\\\x7f]' or '[%c"\\\x7f-\xff]'
  return '"' .. text:gsub(pattern, escaped) .. (cut and "…" or "") .. '"'
end

local function number(value, hexadecimal)
  if hexadecimal and math.type(value) == "integer" and (value > 9 or value < 0) then
    return ("0x%x"):format(value)
  end
  return tostring(value)
end

local KEYWORDS <const> = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat
return then true until while]]):gmatch "%a+" do
  KEYWORDS[word] = true
end

local function key_text(key)
  if type(key) == "string" and key:find "^[%a_][%w_]*$" and not KEYWORDS[key] then return key end
  if type(key) == "string" then return "[" .. quoted(key) .. "]" end
  return "[" .. tostring(key) .. "]"
end

local RANK <const> = { number = 1, string = 2, boolean = 3 }

---Numbers, strings, then the rest.
local function before(a, b)
  local rank_a, rank_b = RANK[type(a)] or 4, RANK[type(b)] or 4
  if rank_a ~= rank_b then return rank_a < rank_b end
  if rank_a <= 2 then return a < b end
  return tostring(a) < tostring(b)
end

---The keys behind the list 1 to `n`, in order.
local function other_keys(t, n)
  local keys = {}
  for key in next, t do
    if not (math.type(key) == "integer" and key >= 1 and key <= n) then keys[#keys + 1] = key end
  end
  table.sort(keys, before)
  return keys
end

local show

---The fields of a table, each as text.
local function fields_of(t, depth, seen, hexadecimal)
  local fields, n = {}, 0
  while rawget(t, n + 1) ~= nil do n = n + 1 end
  local keys = other_keys(t, n)
  for i = 1, math.min(n, MOST) do fields[i] = show(rawget(t, i), depth, seen, hexadecimal) end
  for i, key in ipairs(keys) do
    if #fields >= MOST and i < #keys then break end
    local value = rawget(t, key)
    local as_hex = hexadecimal or ADDRESSES[key] or is_register(key)
      or key == "entries" and type(value) == "table"
    fields[#fields + 1] = ("%s = %s"):format(key_text(key), show(value, depth, seen, as_hex))
  end
  local missing = n + #keys - #fields
  if missing > 0 then fields[#fields + 1] = ("… %d more"):format(missing) end
  return fields
end

---{ a = 1, b = 2 }, on a line if it fits.
local function show_table(t, depth, seen, hexadecimal)
  if next(t) == nil then return "{}" end
  if seen[t] then return "{ the same again }" end
  if depth >= DEEPEST then return "{ … }" end
  seen[t] = true
  local fields = fields_of(t, depth + 1, seen, hexadecimal)
  seen[t] = nil
  local line = "{ " .. table.concat(fields, ", ") .. " }"
  if #line + 2 * depth <= WIDTH and not line:find "\n" then return line end
  local indent = ("  "):rep(depth + 1)
  return "{\n" .. indent .. table.concat(fields, ",\n" .. indent) .. "\n" .. ("  "):rep(depth)
    .. "}"
end

---What says itself what it is: an object with __tostring, in a table on one line only.
local function own_text(value, depth)
  local meta = debug.getmetatable(value)
  if type(meta) ~= "table" or rawget(meta, "__tostring") == nil then return nil end
  if rawget(meta, "__metatable") == false then return nil end -- a result: all of it is shown
  local text = tostring(value)
  if depth == 0 or not text:find "\n" then return text end
  local kind = rawget(meta, "__name") or "table"
  return ("<%s>"):format(kind)
end

function show(value, depth, seen, hexadecimal)
  local kind = type(value)
  if kind == "string" then return quoted(value) end
  if kind == "number" then return number(value, hexadecimal) end
  if kind ~= "table" then return tostring(value) end
  return own_text(value, depth) or show_table(value, depth, seen, hexadecimal)
end

---What an object of minikvm's goes through by pairs(), such as vm.symbols, as a table; else nil.
local function paired(value)
  local meta = type(value) == "userdata" and debug.getmetatable(value)
  local kind = meta and rawget(meta, "__name")
  if type(kind) ~= "string" or not kind:find "^minikvm%." or not rawget(meta, "__pairs") then
    return nil
  end
  local t = {}
  for key, field in pairs(value) do t[key] = field end
  return t
end

---A value as it is printed: a string as it is, a table with what is in it.
---@param value any
---@return string
function M.text(value)
  if type(value) == "table" then return show(value, 0, {}, false) end
  local ok, t = pcall(paired, value)
  return ok and t and show(t, 0, {}, true) or tostring(value)
end

return M
