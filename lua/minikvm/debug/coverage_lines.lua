-- debug/coverage_lines.lua - what a coverage (debug/coverage.lua) reached as lines, functions and
-- branches of source files.

local code_of = require "minikvm.debug.code"
local lcov = require "minikvm.debug.lcov"

local TAKEN <const>, NOT_TAKEN <const> = code_of.TAKEN, code_of.NOT_TAKEN

local function add_lines(state, data)
  local places = code_of.places(state.code)
  for _, i in ipairs(state.blocks) do
    for _, place in ipairs(places[i]) do
      local lines = lcov.file(data, place.file).lines
      lines[place.line] = math.max(lines[place.line] or 0, state.reached[i] and 1 or 0)
    end
  end
end

---1 or 0: whether a function was called: its first block was reached, or one that has a record; nil
---when nothing tells.
local function calls_of(state, f, first)
  local code, known = state.code, state.can_watch[first]
  if not state.map then return known and (state.reached[first] and 1 or 0) or nil end
  local count
  local i = first
  while i <= code.count and code.address[i] - f.address < f.size do
    if state.can_watch[i] then count = math.max(count or 0, state.reached[i] and 1 or 0) end
    i = i + 1
  end
  return count
end

local function add_functions(state, data)
  local code = state.code
  for _, f in ipairs(code.functions) do
    local i, place = code.by_address[f.address], code_of.place(code, f.address, true)
    local count = i and place and not f.label and calls_of(state, f, i)
    if count then
      local functions = lcov.file(data, place.file).functions
      local known = functions[f.name]
      functions[f.name] = { line = known and known.line or place.line,
                            count = math.max(known and known.count or 0, count) }
    end
  end
end

---0 or 1, or false for a branch that was never come to.
local function way(state, known, there, seen)
  if known then return state.reached[state.code.by_address[there]] and 1 or 0 end
  return seen and 1 or 0
end

local function add_branches(state, data)
  local code, numbers = state.code, {}
  for n, br in ipairs(code_of.branches(code)) do
    local place = state.can_watch[br.block] and code_of.place(code, code.last[br.block])
    if place then
      local i, seen = br.block, state.seen[n] or 0
      local id = place.file .. ":" .. place.line
      local number = numbers[id] or 0
      numbers[id] = number + 1
      local taken = way(state, br.taken_known, code.target[i], seen & TAKEN ~= 0)
      local not_taken = way(state, br.not_taken_known, code.address[i] + code.size[i],
                            seen & NOT_TAKEN ~= 0)
      if not state.reached[i] then taken, not_taken = false, false end
      local branches = lcov.file(data, place.file).branches
      branches[("%d,%d,0"):format(place.line, number)] = taken
      branches[("%d,%d,1"):format(place.line, number)] = not_taken
    end
  end
end

---As lcov.lua has them.
---@param state table  what is behind a coverage
---@return minikvm.lcov
return function(state)
  local data = {}
  add_lines(state, data)
  add_functions(state, data)
  if state.options.branches then add_branches(state, data) end
  return data
end
