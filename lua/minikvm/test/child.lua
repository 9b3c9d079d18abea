-- child.lua - runs one spec file in a process of its own: Busted, with an output handler
-- that reports to the runner (lua/minikvm/test/runner.lua) on descriptor 3.
--
-- A record is a line of fields between tabs; what could be mistaken for either is written \xHH. Of
-- a long field only its two ends are told: a record has less than LONGEST bytes.
--   start  name  where                                 a test begins
--   test   name  where  pass|fail|error|skip  seconds  message
--   error  name  where  message                        something failed that is no test
--   left   text                                        the last test has left VMs running
--   saved  text  folder                                what was kept of the last test, and where
--   done                                               nothing is missing

local M = {}

local FIELD <const>, END <const> = 32 << 10, 4 << 10 -- bytes told of a field; of them at its end

---Bytes that no record reaches: six fields, of which each byte may become four.
M.LONGEST = 1 << 20

local function shortened(text)
  if #text <= FIELD then return text end
  return ("%s\n... (%d bytes left out) ...\n%s"):format(text:sub(1, FIELD - END), #text - FIELD,
                                                        text:sub(-END))
end

---@param ... string|number
---@return string line  with its newline
function M.encode(...)
  local fields = { ... }
  for i, field in ipairs(fields) do
    fields[i] = shortened(tostring(field)):gsub("[%c\\]", function(c)
      return ("\\x%02x"):format(c:byte())
    end)
  end
  return table.concat(fields, "\t") .. "\n"
end

---@param line string  without its newline
---@return string[] fields
function M.decode(line)
  local fields = {}
  for field in (line .. "\t"):gmatch "([^\t]*)\t" do
    fields[#fields + 1] = field:gsub("\\x(%x%x)", function(h)
      return string.char(tonumber(h, 16))
    end)
  end
  return fields
end

-- ---- Busted's output handler ----

local function where(element, trace)
  local t = trace and trace.currentline and trace or element.trace
  return t and t.currentline and t.currentline > 0
    and ("%s:%d"):format(t.short_src, t.currentline) or ""
end

---Everything that Busted tells, as records. Made by Busted's loader: options are Busted's.
local function handler(busted, artefacts, coverage, report)
  local h, ended = {}, nil
  artefacts.install()

  local function note_left()
    local left = ended and artefacts.left_running(true)
    if left then report("left", left) end
    ended = nil
    return nil, true
  end

  function h.test_start(element)
    note_left()
    h.message, h.at = nil, nil
    report("start", artefacts.full_name(element), where(element))
    return nil, true
  end

  ---Inside a test; what is no test has its own record.
  function h.trouble(element, _, message, trace)
    if element.descriptor == "it" then
      h.message = h.message or message
      h.at = h.at or tostring(message):match "^([^\n:]+:%d+): " or where(element, trace)
    else
      local name = artefacts.full_name(element)
      if name == "" then name = element.name or element.descriptor or "Busted" end
      report("error", name, where(element, trace), message or "no message")
    end
    return nil, true
  end

  function h.test_end(element, _, status)
    local words = { success = "pass", pending = "skip", failure = "fail" }
    local message = h.message
    if status == "pending" then
      message = (message or element.name):gsub("^minikvm[%w/.]*%.lua:%d+: ", "") -- artefacts.skip
    end
    report("test", artefacts.full_name(element), h.at or where(element), words[status] or "error",
           ("%.6f"):format(element.duration or 0), message or "")
    local kept, folder = artefacts.saved()
    if kept then report("saved", kept, folder or "") end
    ended = element
    return nil, true
  end

  function h.suite_end()
    note_left()
    local left = artefacts.left_running(false)
    if left then report("error", "the end of the file", "", left) end
    if coverage then coverage.write() end
    report "done"
    return nil, true
  end

  function h.subscribe()
    busted.subscribe({ "test", "start" }, h.test_start)
    busted.subscribe({ "test", "end" }, h.test_end)
    busted.subscribe({ "describe", "end" }, note_left)
    busted.subscribe({ "pending", "it" }, h.trouble)
    busted.subscribe({ "failure" }, h.trouble)
    busted.subscribe({ "error" }, h.trouble)
    busted.subscribe({ "suite", "end" }, h.suite_end)
  end
  return h
end

-- ---- the process ----

---@class minikvm.child.options
---@field file string
---@field seed integer?     shuffles the tests
---@field filter string?    Lua pattern for the full names of tests
---@field bail boolean?     end at the first failure
---@field artefacts string  folder
---@field trace boolean?    keep the last exits of every VM
---@field coverage string?  record what code is executed, in this file

---Runs the file; ends the process.
---@param o minikvm.child.options
function M.run(o)
  local artefacts = require "minikvm.test.artefacts"
  local coverage = o.coverage and require "minikvm.test.coverage"
  if coverage then coverage.install(o.coverage) end
  local out = assert(io.open("/proc/self/fd/3", "w"))
  out:setvbuf "full"
  local function report(...)
    out:write(M.encode(...))
    out:flush()
  end
  package.preload["minikvm.runner_output"] = function()
    return function()
      return handler(require "busted", artefacts, coverage, report)
    end
  end
  -- Busted's loader passes over a file whose name does not end in .lua, and says nothing.
  package.preload["busted.modules.files.minikvm"] = function()
    return { match = function() return true end, load = require("busted.modules.files.lua").load }
  end
  artefacts.configure{ folder = o.artefacts, file = o.file, seed = o.seed, trace = o.trace }
  local words = { [0] = o.file, "--ignore-lua", "--output=minikvm.runner_output",
                  "--loaders=minikvm", "--repeat=1", "--pattern=.", o.file }
  local function add(word) table.insert(words, #words, word) end
  if o.seed then add "--shuffle-tests" add("--seed=" .. o.seed) end
  if o.filter then add("--filter=" .. o.filter) end
  if o.bail then add "--no-keep-going" end
  _G.arg = words -- where Busted looks
  require "busted.runner"{ standalone = false }
  os.exit(true, true)
end

return M
