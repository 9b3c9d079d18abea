-- copy.lua - Lua values as flat bytes: for a snapshot's file, and for another Lua state.
--
-- nil, booleans, numbers, strings, and tables of these without a metatable, or with that of results
-- (strict.record), which copies do not have. A table that is reached
-- twice is copied twice; one that contains itself is an error. One byte says what follows: an
-- integer's or float's 8 bytes; a string's length (u32) and bytes; a table's two counts (u32), the
-- values at 1..n, then pairs of key and value. What is read may hold anything. Nothing is required
-- here: a worker's state has only this (worker/main.lua).

local M = {}

local MAX <const>, DEPTH <const> = 64 << 20, 100
local LARGE <const> = "it is larger than 64 MiB"
local NIL <const>, FALSE <const>, TRUE <const> = "\0", "\1", "\2"
local INTEGER <const>, FLOAT <const>, STRING <const>, TABLE <const> = "\3", "\4", "\5", "\6"

-- ---- writing ----

local KEYS <const> = {
  string = function(key) return "." .. key:sub(1, 60) end,
  number = function(key) return (math.type(key) == "integer" and "[%d]" or "[%g]"):format(key) end,
  boolean = function(key) return ("[%s]"):format(key) end,
}

---Raises a table with the place, the reason and the error's name; for pcall() in pack().
local function refuse(w, why, code)
  local path = {}
  for i = 1, w.depth do
    local key = w.keys[i]
    path[i] = (KEYS[type(key)] or function() return ("[a %s]"):format(type(key)) end)(key)
  end
  w.why = ("%s%s: %s"):format(w.what, table.concat(path):sub(1, 249), why)
  w.code = code or "EINVAL"
  error(w, 0)
end

local write

local function add(w, parts, value)
  local bytes = write(w, value)
  parts[#parts + 1] = bytes
  parts.size = parts.size + #bytes
  if parts.size > MAX then refuse(w, LARGE, "E2BIG") end
end

local function write_pairs(w, t, count, parts)
  local found = 0
  for key, value in next, t do
    if not (math.type(key) == "integer" and key >= 1 and key <= count) then
      w.keys[w.depth] = key
      if not KEYS[type(key)] then refuse(w, "keys are strings, numbers or booleans") end
      add(w, parts, key)
      add(w, parts, value)
      found = found + 1
    end
  end
  return found
end

local function write_table(w, t)
  local before = w.done[t] -- at this depth or deeper: what it holds is not too deep here either
  if before and before.depth >= w.depth then return before.bytes end
  if w.open[t] then refuse(w, "a table that contains itself cannot be copied") end
  if w.depth >= DEPTH then refuse(w, "more than 100 tables one inside the other", "E2BIG") end
  if getmetatable(t) then refuse(w, "a table with a metatable cannot be copied") end
  local count, parts = rawlen(t), { "", size = 9 }
  local depth <const> = w.depth
  if count > MAX then refuse(w, LARGE, "E2BIG") end
  w.open[t], w.depth = true, depth + 1
  for i = 1, count do
    w.keys[w.depth] = i
    add(w, parts, rawget(t, i))
  end
  local found = write_pairs(w, t, count, parts)
  w.open[t], w.depth = nil, depth
  parts[1] = TABLE .. ("<I4I4"):pack(count, found)
  local bytes = table.concat(parts)
  w.done[t] = { depth = depth, bytes = bytes }
  return bytes
end

function write(w, value)
  local kind = math.type(value) or type(value)
  if kind == "nil" then return NIL end
  if kind == "boolean" then return value and TRUE or FALSE end
  if kind == "integer" then return INTEGER .. ("<i8"):pack(value) end
  if kind == "float" then return FLOAT .. ("<d"):pack(value) end
  if kind == "table" then return write_table(w, value) end
  if kind ~= "string" then refuse(w, ("a %s cannot be copied"):format(kind)) end
  if #value > MAX then refuse(w, LARGE, "E2BIG") end
  return STRING .. ("<s4"):pack(value)
end

---A value as bytes.
---@param value any
---@param what string  names it in errors: "<what>.name[3]: a function cannot be copied"
---@return string? bytes
---@return string? why
---@return string? code  "EINVAL" for what cannot be copied, "E2BIG" for too much
function M.pack(value, what)
  local w = { what = what, depth = 0, keys = {}, open = {}, done = {} }
  local ok, bytes = pcall(write, w, value)
  if ok then return bytes end
  if bytes ~= w then error(bytes, 0) end -- memory ran out
  return nil, w.why, w.code
end

---Several values as bytes, without a count that they would fit into.
---@param what string  "argument", which their numbers follow
---@return string? bytes
---@return string? why
---@return string? code
function M.pack_values(what, ...)
  local values, size, parts = table.pack(...), 0, {}
  for i = 1, values.n do
    local bytes, why, code = M.pack(values[i], ("%s %d"):format(what, i))
    if not bytes then return nil, why, code end
    size, parts[i] = size + #bytes, bytes
    if size > MAX then return nil, ("%ss of more than 64 MiB"):format(what), "E2BIG" end
  end
  return ("<I4"):pack(values.n) .. table.concat(parts)
end

-- ---- reading ----

local read

local function read_table(bytes, at, depth)
  local t, count, found = {}, ("<I4I4"):unpack(bytes, at)
  at = at + 8
  if depth >= DEPTH or count > #bytes - at + 1 or found > (#bytes - at + 1) / 2 then error "" end
  for i = 1, count do t[i], at = read(bytes, at, depth + 1) end
  for _ = 1, found do
    local key, value
    key, at = read(bytes, at, depth + 1)
    value, at = read(bytes, at, depth + 1)
    if not KEYS[type(key)] then error "" end
    t[key] = value -- raises for NaN
  end
  return t, at
end

---The value at `at`, and what is behind it. Raises when it is malformed.
function read(bytes, at, depth)
  local kind = bytes:sub(at, at)
  at = at + 1
  if kind == NIL then return nil, at end
  if kind == FALSE or kind == TRUE then return kind == TRUE, at end
  if kind == INTEGER then return ("<i8"):unpack(bytes, at) end
  if kind == FLOAT then return ("<d"):unpack(bytes, at) end
  if kind == STRING then return ("<s4"):unpack(bytes, at) end
  if kind == TABLE then return read_table(bytes, at, depth) end
  error ""
end

---The value that pack() made these bytes of.
---@param bytes string
---@return any value  or nil, why, "EBADMSG"
---@return string? why
---@return string? code
function M.unpack(bytes)
  local ok, value, at = pcall(read, bytes, 1, 0)
  if ok and at == #bytes + 1 then return value end
  return nil, "a copied value is malformed", "EBADMSG"
end

---The values that pack_values() made these bytes of, which nobody else had.
---@param bytes string
function M.unpack_values(bytes)
  local count, at = ("<I4"):unpack(bytes)
  local values = {}
  for i = 1, count do values[i], at = read(bytes, at, 0) end
  return table.unpack(values, 1, count)
end

---Lets the methods send and receive, of bytes, of an end of a channel be of values.
---@param methods table
---@param blame fun(why: string)  raises at the script's line
function M.of_values(methods, blame)
  local send, receive = methods.send, methods.receive
  function methods:send(first, ...)
    if type(self) ~= "userdata" then blame "send: call it with ':'" end
    if first == nil then blame "send: the first value of a message is not nil" end
    local bytes, why, code = M.pack_values("send: argument", first, ...)
    if code == "EINVAL" then blame(why) end
    if not bytes then return nil, why, code end
    return send(self, bytes)
  end
  function methods:receive(timeout)
    if type(self) ~= "userdata" then blame "receive: call it with ':'" end
    if timeout ~= nil and not (type(timeout) == "number" and timeout >= 0) then
      blame(("receive: 'timeout': expected seconds, 0 or more, got %s"):format(tostring(timeout)))
    end
    local bytes, why, code = receive(self, timeout)
    if not bytes then return bytes, why, code end
    return M.unpack_values(bytes)
  end
end

return M
