-- files.lua - which spec files there are, which of them are this shard's, in which order.
--
-- Everything here depends on nothing but the files, the options and the seed, so that machines that
-- have the same files agree on who runs what.

local lfs = require("minikvm.folder").lfs() -- the runner sees that it is there
local options = require "minikvm.options"

local M = {}

local TIMINGS <const> = 4 << 20 -- bytes of a file of timings

---@class minikvm.specfile
---@field path string
---@field weight number  seconds it took last time, or its size in bytes

local function is_spec(name)
  return name:find "_spec%.lua$" ~= nil or name:find "^test_.*%.lua$" ~= nil
end

---Adds the spec files below a directory, in the order of their names; hidden ones and links to
---directories are left out.
local function collect(folder, found)
  local names = {}
  for name in lfs.dir(folder) do
    if name:sub(1, 1) ~= "." then names[#names + 1] = name end
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local path = folder == "." and name or folder:gsub("/$", "") .. "/" .. name
    if lfs.symlinkattributes(path, "mode") == "directory" then
      collect(path, found)
    elseif is_spec(name) and lfs.attributes(path, "mode") == "file" then
      found[#found + 1] = path
    end
  end
end

local function tidy(path)
  path = path:gsub("/+", "/"):gsub("/%.%f[/\0]", ""):gsub("^%./(.)", "%1")
  if #path > 1 then path = path:gsub("/$", "") end
  return path:sub(1, 1) == "-" and "./" .. path or path
end

---The spec files under the paths; one that is named itself may have any name.
---@param paths string[]
---@return string[]? files  sorted, each once
---@return string? why
function M.find(paths)
  local found = {}
  for _, path in ipairs(paths) do
    path = tidy(path)
    local mode, why = lfs.attributes(path, "mode")
    if not mode then
      why = why:gsub("^.-: ([^:]+)$", "%1")
      return nil, ("%s: %s"):format(path, why)
    elseif mode == "directory" then
      if not pcall(collect, path, found) then return nil, path .. ": cannot be listed" end
    elseif mode ~= "file" then
      return nil, path .. ": it is neither a file nor a folder"
    else
      found[#found + 1] = path
    end
  end
  table.sort(found)
  local once = {}
  for _, path in ipairs(found) do
    if once[#once] ~= path then once[#once + 1] = path end
  end
  if #once == 0 then
    return nil, ("no spec files (*_spec.lua, test_*.lua) in %s"):format(table.concat(paths, ", "))
  end
  return once
end

---Whether a file can be written there, as far as that is known before.
---@param path string
---@return string? why
function M.no_output(path)
  local folder = path:match "^(.*)/[^/]*$"
  folder = folder == "" and "/" or folder or "."
  if path == "" or lfs.attributes(folder, "mode") ~= "directory" then
    return ("%s: No such file or directory"):format(path)
  elseif lfs.attributes(path, "mode") == "directory" then
    return ("%s: Is a directory"):format(path)
  end
end

---Reads what write_timings() wrote: seconds by path.
---@param path string
---@return table<string, number>? seconds
---@return string? why
function M.read_timings(path)
  local file <close>, why = io.open(path)
  if not file then return nil, why end
  local text, problem = file:read(TIMINGS + 1)
  if problem then return nil, ("%s: %s"):format(path, problem) end
  local seconds, number = {}, 0
  for line in (text or ""):gmatch "[^\n]+" do
    number = number + 1
    local time, name = line:match "^(%d[%d.]*) (.+)$"
    if not tonumber(time) or #text > TIMINGS then
      return nil, ("%s:%d: expected SECONDS PATH"):format(path, number)
    end
    seconds[name] = tonumber(time)
  end
  return seconds
end

---@param path string
---@param seconds table<string, number>
---@return boolean? done
---@return string? why
function M.write_timings(path, seconds)
  local lines = {}
  for i, name in ipairs(options.keys(seconds)) do
    lines[i] = ("%.3f %s\n"):format(seconds[name], name)
  end
  return require("minikvm.core").write_file(path, table.concat(lines))
end

---Gives each file its weight. One that was never timed weighs as much as the average.
---@param paths string[]
---@param seconds? table<string, number>
---@return minikvm.specfile[]
function M.weigh(paths, seconds)
  local files, sum, count = {}, 0, 0
  for i, path in ipairs(paths) do
    local known = seconds and seconds[path]
    if known then sum, count = sum + known, count + 1 end
    files[i] = { path = path, weight = seconds and known or lfs.attributes(path, "size") or 0 }
  end
  for _, file in ipairs(seconds and files or {}) do
    if not seconds[file.path] then file.weight = count > 0 and sum / count or 1 end
  end
  return files
end

local function by_path(a, b) return a.path < b.path end

local function by_weight(a, b)
  if a.weight ~= b.weight then return a.weight > b.weight end
  return a.path < b.path
end

---The files of shard k of n: the heaviest first, each to the shard that has least so far. All
---shards together are all files, each once.
---@param files minikvm.specfile[]
---@param k integer  1 to n
---@param n integer
---@return minikvm.specfile[]
function M.shard(files, k, n)
  local sorted = table.move(files, 1, #files, 1, {})
  table.sort(sorted, by_weight)
  local mine, loads, counts = {}, {}, {}
  for i = 1, n do loads[i], counts[i] = 0, 0 end
  for _, file in ipairs(sorted) do
    local least = 1
    for i = 2, n do
      if loads[i] < loads[least] or loads[i] == loads[least] and counts[i] < counts[least] then
        least = i
      end
    end
    loads[least], counts[least] = loads[least] + file.weight, counts[least] + 1
    if least == k then mine[#mine + 1] = file end
  end
  return mine
end

---Orders the files: shuffled by a seed, else by name; for several processes the heaviest first.
---@param files minikvm.specfile[]
---@param jobs integer
---@param seed? integer
function M.order(files, jobs, seed)
  table.sort(files, (seed or jobs == 1) and by_path or by_weight)
  if not seed then return end
  math.randomseed(seed)
  for i = #files, 2, -1 do
    local j = math.random(i)
    files[i], files[j] = files[j], files[i]
  end
end

return M
