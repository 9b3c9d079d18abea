-- test/coverage.lua - `minikvm test --coverage DIR`: in the process of a spec file, every VM whose
-- code has symbols is covered, from the moment they are loaded; in the runner, what all of them
-- reached is summed up.

local core = require "minikvm.core"
local lcov = require "minikvm.debug.lcov"

local M = {}

-- ---- in the process of a spec file ----

local known = {} ---@type table<string, minikvm.coverage>  by key of the code
local problems = {} ---@type table<string, true>
local path ---@type string  where the file's tracefile goes

local function cover(machine)
  local done, cov, why = pcall(require("minikvm.debug.coverage").share, machine, known,
                               { branches = true })
  if not done then problems[tostring(cov)] = true end
  if done and why then problems[why] = true end
end

---Calls cover() after a method of VMs has done its work.
local function after(name)
  local methods = core.methods "minikvm.vm"
  local method = rawget(methods, name)
  if not method then return end
  methods[name] = function(machine, ...)
    local result = table.pack(method(machine, ...))
    if result[1] then cover(machine) end
    return table.unpack(result, 1, result.n)
  end
end

---@param file string  for the tracefile
function M.install(file)
  path = file
  after "load"
  after "load_symbols"
end

---Writes the tracefile; problems become comments in it.
function M.write()
  if not path then return end
  local total = {}
  for _, coverage in pairs(known) do
    assert(lcov.parse(total, coverage:lcov(), "coverage"))
  end
  local file <close> = assert(io.open(path, "w"))
  for problem in pairs(problems) do file:write("# ", (problem:gsub("%c", " ")), "\n") end
  file:write(lcov.format(total))
end

-- ---- in the runner ----

---A folder for the tracefiles of the files.
---@param folder string
---@return string? parts  nil, "path: why"
---@return string? why
function M.new_folder(folder)
  local make <const>, parts <const> = require("minikvm.folder").make, folder .. "/parts"
  local made, why = make(folder)
  if made then made, why = make(parts) end
  return made and parts, why
end

---Sums the tracefiles up, writes coverage.info and, where genhtml is, pages beside it.
---@param folder string
---@param tasks { coverage: string, path: string }[]
---@return string[] lines  for people
---@return boolean fine
function M.conclude(folder, tasks)
  local total, lines, fine = {}, {}, true
  for _, task in ipairs(tasks) do
    local data, why = lcov.read(total, task.coverage)
    if not data then
      lines[#lines + 1] = ("coverage: nothing of %s: its process did not come to its end (%s)")
        :format(task.path, why)
    end
    os.remove(task.coverage)
  end
  os.remove(folder .. "/parts")
  if next(total) == nil then
    lines[#lines + 1] = "coverage: no source lines: tests load ELF images built with -g, or "
      .. "name them by `symbols` of t.guest"
    return lines, fine
  end
  local done, why = lcov.write(total, folder .. "/coverage.info")
  local there = folder .. "/coverage.info"
  if done and lcov.has_genhtml() then
    done, why = lcov.pages(folder .. "/coverage.info", folder)
    there = folder .. "/index.html"
  end
  if not done then lines[#lines + 1], fine = "coverage: " .. why, false end
  lines[#lines + 1] = ("coverage: %s: %s"):format(lcov.text(total), there)
  return lines, fine
end

return M
