-- debug/lcov.lua - tracefiles of lcov: read, summed up, written, and made into pages by genhtml.
-- The format is that of geninfo(1), "FILES", of lcov 1.16.
--
-- In memory, a tracefile is { [source] = { lines = { [line] = count }, functions = { [name] =
-- { line =, count = } }, branches = { ["line,block,branch"] = count or false } } }; false: the
-- branch was never come to.

local M = {}

---@alias minikvm.lcov table<string, { lines: table, functions: table, branches: table }>

local function new_file() return { lines = {}, functions = {}, branches = {} } end

---The record of a source, made when it is new.
---@param data minikvm.lcov
---@param source string
function M.file(data, source)
  data[source] = data[source] or new_file()
  return data[source]
end

-- ---- reading ----

local function add_function(file, name, line, count)
  local f = file.functions[name] or { count = 0 }
  file.functions[name] = f
  f.line, f.count = line or f.line, f.count + (count or 0)
end

local function add_branch(file, key, taken)
  local known = file.branches[key]
  file.branches[key] = (known or taken) and (known or 0) + (taken or 0)
end

local function add_line(file, line, count)
  file.lines[line] = (file.lines[line] or 0) + count
end

---By the record's name; each gets the file it belongs to, and returns whether it understood.
local RECORDS <const> = {
  FN = function(file, rest)
    local line, name = rest:match "^(%d+),%d+,(.+)$" -- of lcov 2: with the last line
    if not line then line, name = rest:match "^(%d+),(.+)$" end
    if line then add_function(file, name, math.tointeger(tonumber(line))) end
    return line
  end,
  FNDA = function(file, rest)
    local count, name = rest:match "^(%d+),(.+)$"
    if count then add_function(file, name, nil, math.tointeger(tonumber(count))) end
    return count
  end,
  BRDA = function(file, rest)
    local key, taken = rest:match "^(%d+,e?%d+,[^,]+),([%d-]+)$"
    if key then add_branch(file, key, math.tointeger(tonumber(taken)) or false) end
    return key
  end,
  DA = function(file, rest)
    local line, count = rest:match "^(%d+),(%d+)"
    if line then add_line(file, math.tointeger(tonumber(line)), math.tointeger(tonumber(count))) end
    return line
  end,
}
for _, name in ipairs{ "FNF", "FNH", "BRF", "BRH", "LF", "LH", "VER", "TN" } do
  RECORDS[name] = function() return true end -- are counted again, or of no use here
end

---Adds what a tracefile says to `data`.
---@param data minikvm.lcov
---@param text string
---@param name string  for messages
---@return minikvm.lcov? data  nil and "NAME:LINE: why"
---@return string? why
function M.parse(data, text, name)
  local file, number = nil, 0
  for line in (text:gsub("\n?$", "\n")):gmatch "(.-)\r?\n" do
    number = number + 1
    local kind, rest = line:match "^(%u+):(.*)$"
    if kind == "SF" then
      file = M.file(data, rest)
    elseif line == "end_of_record" then
      file = nil
    elseif line ~= "" and not line:find "^#" and kind ~= "TN" then
      local known = RECORDS[kind]
      if not known or not file or not known(file, rest) then
        return nil, ("%s:%d: not a line of an lcov tracefile: %q"):format(name, number,
                                                                       line:sub(1, 60))
      end
    end
  end
  if file then return nil, ("%s: it ends within a record"):format(name) end
  return data
end

-- ---- writing ----

local function sorted_keys(t, less)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys, less)
  return keys
end

local function branch_key(key)
  local line, block, branch = key:match "^(%d+),(%w+),(.*)$"
  return tonumber(line), block, branch
end

local function branch_less(a, b)
  local line_a, block_a, branch_a = branch_key(a)
  local line_b, block_b, branch_b = branch_key(b)
  if line_a ~= line_b then return line_a < line_b end
  block_a, block_b = tonumber(block_a) or block_a, tonumber(block_b) or block_b
  if block_a ~= block_b then return block_a < block_b end
  return branch_a < branch_b
end

---How many there are and how many of them were reached.
local function count(t, value)
  local found, hit = 0, 0
  for _, v in pairs(t) do
    found = found + 1
    if value(v) then hit = hit + 1 end
  end
  return found, hit
end

local function reached(v) return v and v > 0 end
local function called(f) return f.count > 0 end

local function write_functions(put, file)
  local names = sorted_keys(file.functions, function(a, b)
    local x, y = file.functions[a].line or 0, file.functions[b].line or 0
    if x ~= y then return x < y end
    return a < b
  end)
  for _, name in ipairs(names) do put("FN:%d,%s", file.functions[name].line or 0, name) end
  for _, name in ipairs(names) do put("FNDA:%d,%s", file.functions[name].count, name) end
  local found, hit = count(file.functions, called)
  put("FNF:%d", found)
  put("FNH:%d", hit)
end

local function write_file(put, source, file)
  put("SF:%s", source)
  write_functions(put, file)
  for _, key in ipairs(sorted_keys(file.branches, branch_less)) do
    put("BRDA:%s,%s", key, file.branches[key] or "-")
  end
  put("BRF:%d\nBRH:%d", count(file.branches, reached))
  for _, line in ipairs(sorted_keys(file.lines)) do put("DA:%d,%d", line, file.lines[line]) end
  local found, hit = count(file.lines, reached)
  put("LF:%d\nLH:%d", found, hit)
  put "end_of_record"
end

---@param data minikvm.lcov
---@param test? string  the test's name: letters, digits and '_'
---@return string text
function M.format(data, test)
  local out = {}
  local function put(format, ...) out[#out + 1] = format:format(...) .. "\n" end
  put("TN:%s", ((test or ""):gsub("[^%w_]", "_")))
  for _, source in ipairs(sorted_keys(data)) do write_file(put, source, data[source]) end
  return table.concat(out)
end

-- ---- sums ----

---Lines, functions and branches of all files.
---@param data minikvm.lcov
---@return { lines: integer, lines_hit: integer, functions: integer, functions_hit: integer,
---  branches: integer, branches_hit: integer }
function M.summary(data)
  local sum = { lines = 0, lines_hit = 0, functions = 0, functions_hit = 0, branches = 0,
                branches_hit = 0 }
  for _, file in pairs(data) do
    for name, value in pairs{ lines = reached, functions = called, branches = reached } do
      local found, hit = count(file[name], value)
      sum[name], sum[name .. "_hit"] = sum[name] + found, sum[name .. "_hit"] + hit
    end
  end
  return sum
end

---"lines 90.0% (9 of 10), functions …, branches …", for people.
---@param data minikvm.lcov
function M.text(data)
  local sum, parts = M.summary(data), {}
  for i, name in ipairs{ "lines", "functions", "branches" } do
    local found, hit = sum[name], sum[name .. "_hit"]
    parts[i] = found == 0 and "no " .. name
      or ("%s %.1f%% (%d of %d)"):format(name, 100 * hit / found, hit, found)
  end
  return table.concat(parts, ", ")
end

-- ---- pages ----

---Whether genhtml, which makes pages, is there.
function M.has_genhtml()
  for folder in (os.getenv "PATH" or ""):gmatch "[^:]+" do
    local file = io.open(folder .. "/genhtml")
    if file then return file:close() end
  end
  return false
end

---Pages in `folder`, by genhtml; of a source that is not there, with the counts alone.
---@param tracefile string
---@param folder string
---@return true? done  nil and why
---@return string? why
function M.pages(tracefile, folder)
  if not M.has_genhtml() then return nil, "genhtml is not installed (Debian: lcov)" end
  local command = require("minikvm.shell").line{ "genhtml", "--quiet", "--branch-coverage",
    "--ignore-errors", "source", "--output-directory", folder, tracefile }
  local pipe <close> = assert(io.popen(command .. " 2>&1"))
  local said = pipe:read "a"
  if pipe:close() then return true end
  return nil, "genhtml: " .. (said:match "^genhtml: (.-)\n" or said):gsub("%s+$", "")
end

---Writes a tracefile.
---@return true? done  nil, "path: why"
---@return string? why
function M.write(data, path, test)
  local done, why = require("minikvm.core").write_file(path, M.format(data, test))
  return done, why
end

---Writes a tracefile and pages into a folder, which is made if need be.
---@return true? done  nil, "path: why"
---@return string? why
function M.save_pages(data, folder)
  local path = folder .. "/coverage.info"
  local done, why = require("minikvm.folder").make(folder)
  if done then done, why = M.write(data, path) end
  if not done then return nil, why end
  return M.pages(path, folder)
end

---Adds a tracefile to `data`.
---@return minikvm.lcov? data  nil, "path: why"
---@return string? why
function M.read(data, path)
  local file <close>, why = io.open(path)
  if not file then return nil, why end
  local text
  text, why = file:read "a"
  if not text then return nil, ("%s: %s"):format(path, why) end
  return M.parse(data, text, path)
end

return M
