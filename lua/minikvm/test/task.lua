-- task.lua - one spec file in one of its runs: what its process prints and reports (child.lua), and
-- what that comes to.

local child = require "minikvm.test.child"
local core = require "minikvm.core"
local results = require "minikvm.test.results"

local M = {}

local TAIL <const> = 64 << 10 -- bytes kept of what a file prints

---@class minikvm.result
---@field name string
---@field where string
---@field status "pass"|"fail"|"error"|"skip"
---@field message string
---@field kept string?  where its artefacts are, for people
---@field folder string?
---@field file string
---@field run integer     of --repeat

---@class minikvm.task  a file in one of its runs
---@field path string
---@field run integer
---@field weight number  of --timings seconds, else bytes
---@field results minikvm.result[]
---@field tail string  the end of what it printed
---@field parts string[]  the beginning of a record that is still to come, of `length` bytes
---@field length integer

---Its process is about to be started.
---@param task minikvm.task
function M.begin(task)
  task.from, task.results, task.tail = core.now(), {}, ""
  task.parts, task.length = {}, 0
end

---Adds a result.
function M.add(task, name, where, status, seconds, message)
  task.results[#task.results + 1] = { name = name, where = where, status = status,
                                      seconds = seconds, message = message, file = task.path,
                                      run = task.run }
end

local add <const> = M.add

---Takes what it printed, of which the end is kept.
function M.read_output(task, bytes)
  local text = task.tail .. bytes
  task.tail = #text > 2 * TAIL and text:sub(-TAIL) or text
end

local RECORDS = {
  start = function(task, name, where) task.test = { name, where } end,
  test = function(task, name, where, status, seconds, message)
    task.test = nil
    add(task, name, where, status, tonumber(seconds) or 0, message)
  end,
  error = function(task, name, where, message) add(task, name, where, "error", 0, message) end,
  left = function(task, text)
    local result = task.results[#task.results]
    if result and not results.is_bad(result) then result.status, result.message = "fail", text end
  end,
  saved = function(task, text, folder)
    local result = task.results[#task.results]
    if result then result.kept, result.folder = text, folder ~= "" and folder or nil end
  end,
  done = function(task) task.done = true end,
}

local function read_record(task, line)
  local fields = child.decode(line)
  local known = RECORDS[fields[1]]
  if known and #fields >= debug.getinfo(known, "u").nparams then
    known(task, table.unpack(fields, 2))
  end
end

---Takes what a child wrote on descriptor 3, which may end in the midst of a record: the rest waits
---in task.parts. A record that is too long is no record, up to its end.
function M.read_report(task, bytes)
  local from = 1
  for at in bytes:gmatch "()\n" do
    task.parts[#task.parts + 1] = bytes:sub(from, at - 1)
    if task.length + at - from < child.LONGEST then read_record(task, table.concat(task.parts)) end
    task.parts, task.length, from = {}, 0, at + 1
  end
  task.length = task.length + #bytes - from + 1
  if task.length < child.LONGEST then
    task.parts[#task.parts + 1] = bytes:sub(from)
  else
    task.parts = {}
  end
end

local SIGNALS <const> = { [4] = "SIGILL", [6] = "SIGABRT", [7] = "SIGBUS", [8] = "SIGFPE",
                          [9] = "SIGKILL", [11] = "SIGSEGV", [13] = "SIGPIPE", [15] = "SIGTERM" }

---A process that did not end as it should is a result of its own.
function M.conclude(task, how, status, o)
  local bad = results.count{ task }.bad > 0
  local why
  if task.late then
    why = ("took longer than %g s (--timeout)"):format(o.timeout)
  elseif how == "signal" then
    why = "was ended by " .. (SIGNALS[status] or "signal " .. status)
  elseif not task.done then
    why = ("ended with status %d before its tests did"):format(status)
  elseif status ~= 0 and not bad then
    why = ("ended with status %d after its tests had passed"):format(status)
  elseif #task.results == 0 and not o.filter then
    why = "found no tests in it: none of its lines calls it(...)"
  end
  task.seconds = core.now() - task.from
  if not why then return end
  local test = task.test or { task.path, "" }
  if task.test then why = why .. ", in the midst of this test" end
  if task.tail ~= "" then why = why .. "; it printed last:\n" .. task.tail:sub(-4000) end
  add(task, test[1], test[2], "error", 0, "the file's process " .. why)
end

return M
