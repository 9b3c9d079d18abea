-- strings.lua - string.find, match, gmatch, gsub and rep that can be ended, for --safe.
--
-- They follow the Lua 5.4 manual, section 6.4. What looks for patterns is C (src/lua/string.c), with
-- a limit on the work.

local core = require "minikvm.core"
local max, select, tonumber, tostring, type = math.max, select, tonumber, tostring, type
local rep, sub, tointeger = string.rep, string.sub, math.tointeger

---next(text, pattern, from): as string.find, but that a pattern without magic is one, too
local bounded = core.bounded_strings()
local next_match = bounded.next

local M = { find = bounded.find, match = bounded.match, gsub = bounded.gsub }

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

---The captures of a match; the whole of it when there are none.
local function captures(s, from, to, ...)
  if select("#", ...) == 0 then return sub(s, from, to) end
  return ...
end

---The first match that may follow one that ended at `last`: not an empty one right behind it.
local function behind(s, pattern, at, last, from, to, ...)
  if from == at and to == last then return next_match(s, pattern, at + 1) end
  return from, to, ...
end

function M.gmatch(s, pattern, init)
  s, pattern = check_text(1, "gmatch", s), check_text(2, "gmatch", pattern)
  local at, last = init == nil and 1 or check_integer(3, "gmatch", init), nil
  if at <= 0 then at = at == 0 and 1 or max(#s + at + 1, 1) end
  if sub(pattern, 1, 1) == "^" then pattern = "%" .. pattern end -- a character as any other
  local function found(from, to, ...)
    at, last = to and to + 1 or #s + 2, to
    if from then return captures(s, from, to, ...) end
  end
  return function() return found(behind(s, pattern, at, last, next_match(s, pattern, at))) end
end

---Nothing, repeated, takes no time; memory bounds the rest.
function M.rep(s, count, gap)
  s, count = check_text(1, "rep", s), check_integer(2, "rep", count)
  gap = gap == nil and "" or check_text(3, "rep", gap)
  if s == "" and gap == "" then return "" end
  return rep(s, count, gap)
end

return M
