-- strings.lua - string.find, match, gmatch, gsub and rep that can be ended, for --safe.
--
-- They follow the Lua 5.4 manual, section 6.4. What looks for patterns is C (src/lua/string.c),
-- with a limit on the work of one call. The script may change what `string` has, so nothing is
-- taken from there when it runs.

local core = require "minikvm.core"
local concat, max, pack, select = table.concat, math.max, table.pack, select
local tonumber, tostring, type, unpack = tonumber, tostring, type, table.unpack
local byte, plain_find, rep, sub = string.byte, string.find, string.rep, string.sub
local tointeger = math.tointeger

local bounded = core.bounded_strings()
local match, find_text = bounded.match, bounded.find

local M = {}

local function wrong(index, name, expected, value)
  core.blame(("bad argument #%d to '%s' (%s expected, got %s)"):format(index, name, expected,
                                                                       type(value)))
end

local function check_text(index, name, value)
  if type(value) == "string" then return value end
  if type(value) ~= "number" then wrong(index, name, "string", value) end
  return tostring(value)
end

local function check_integer(index, name, value)
  return tointeger(tonumber(value)) or wrong(index, name, "integer", value)
end

---Where the optional argument says to begin: 1 or more; perhaps behind the end.
local function check_init(name, value, length)
  local init = value == nil and 1 or check_integer(3, name, value)
  if init > 0 then return init end
  return init == 0 and 1 or max(length + init + 1, 1)
end

---The captures of a match; the whole of it when there are none.
local function captures(s, from, to, ...)
  if select("#", ...) == 0 then return sub(s, from, to) end
  return ...
end

-- ---- find and match ----

local function find_result(_, from, ...)
  if from then return from, ... end
  return nil
end

function M.find(s, pattern, init, plain)
  s, pattern = check_text(1, "find", s), check_text(2, "find", pattern)
  init = check_init("find", init, #s)
  if init > #s + 1 then return nil end
  if plain or not plain_find(pattern, "[%^%$%*%+%?%.%(%[%%%-]") then
    return find_text(s, pattern, init)
  end
  return find_result(match(s, pattern, init))
end

local function match_result(s, _, from, to, ...)
  if from then return captures(s, from, to, ...) end
  return nil
end

function M.match(s, pattern, init)
  s, pattern = check_text(1, "match", s), check_text(2, "match", pattern)
  init = check_init("match", init, #s)
  if init > #s + 1 then return nil end
  return match_result(s, match(s, pattern, init))
end

-- ---- gmatch ----

---The first match that may follow one that ended at `last`: not an empty one right behind it.
local function behind(s, pattern, at, last, _, from, to, ...)
  if from == at and to == last then return find_result(match(s, pattern, at + 1)) end
  return from, to, ...
end

function M.gmatch(s, pattern, init)
  s, pattern = check_text(1, "gmatch", s), check_text(2, "gmatch", pattern)
  local at, last = check_init("gmatch", init, #s), nil
  if sub(pattern, 1, 1) == "^" then pattern = "%" .. pattern end -- a character as any other
  local function found(from, to, ...)
    at, last = to and to + 1 or #s + 2, to
    if from then return captures(s, from, to, ...) end
  end
  return function() return found(behind(s, pattern, at, last, match(s, pattern, at))) end
end

-- ---- gsub ----

---What stands for a match that begins at m[2] and ends at m[3], with its captures behind these.
local function expand(s, text, m)
  local parts, at = {}, 1
  while true do
    local percent = find_text(text, "%", at)
    parts[#parts + 1] = sub(text, at, (percent or 0) - 1)
    if not percent then return concat(parts) end
    local key = sub(text, percent + 1, percent + 1)
    local index = key ~= "" and plain_find("0123456789", key, 1, true)
    if key == "%" then
      parts[#parts + 1] = "%"
    elseif not index then
      core.blame "invalid use of '%' in replacement string"
    elseif index == 1 or (index == 2 and m.n == 3) then
      parts[#parts + 1] = sub(s, m[2], m[3])
    elseif index + 2 > m.n then
      core.blame(("invalid capture index %%%d in replacement string"):format(index - 1))
    else
      parts[#parts + 1] = tostring(m[index + 2])
    end
    at = percent + 2
  end
end

local function replacement(s, with, m)
  local kind = type(with)
  local value
  if kind == "function" then value = with(captures(s, unpack(m, 2, m.n)))
  elseif kind == "table" then value = with[(captures(s, unpack(m, 2, m.n)))]
  else return expand(s, with, m) end
  if not value then return sub(s, m[2], m[3]) end
  if type(value) ~= "string" and type(value) ~= "number" then
    core.blame(("invalid replacement value (a %s)"):format(type(value)))
  end
  return tostring(value)
end

function M.gsub(s, pattern, with, most)
  s, pattern = check_text(1, "gsub", s), check_text(2, "gsub", pattern)
  if type(with) == "number" then with = tostring(with) end
  if type(with) ~= "string" and type(with) ~= "function" and type(with) ~= "table" then
    wrong(3, "gsub", "string/function/table", with)
  end
  most = most == nil and #s + 1 or check_integer(4, "gsub", most)
  local anchored = byte(pattern) == 94 -- ^
  if anchored then pattern = sub(pattern, 2) end
  local parts, count, at, last, steps = {}, 0, 1, nil, nil -- last: where a match ended
  while count < most and at <= #s + 1 do
    local m = pack(match(s, pattern, at, steps, anchored))
    steps = m[1]
    local from, to = m[2], m[3]
    if from == at and to == last then -- an empty one right behind it: the next begins later
      m = pack(match(s, pattern, at + 1, steps, anchored))
      steps, from, to = m[1], m[2], m[3]
    end
    if not from or (anchored and last) then break end
    parts[#parts + 1] = sub(s, at, from - 1)
    parts[#parts + 1] = replacement(s, with, m)
    count, at, last = count + 1, to + 1, to
    if anchored then break end
  end
  parts[#parts + 1] = sub(s, at)
  return concat(parts), count
end

---Nothing, repeated, takes no time; memory bounds the rest.
function M.rep(s, count, gap)
  s, count = check_text(1, "rep", s), check_integer(2, "rep", count)
  gap = gap == nil and "" or check_text(3, "rep", gap)
  if s == "" and gap == "" then return "" end
  return rep(s, count, gap)
end

for name, fn in pairs(M) do M[name] = bounded.wrap(fn) end

return M
