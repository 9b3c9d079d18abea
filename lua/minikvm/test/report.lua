-- report.lua - what `minikvm test` shows: lines for people, TAP or JSON, a summary, JUnit XML.

local core = require "minikvm.core"
local json = require "minikvm.json"
local junit = require "minikvm.test.junit"
local results = require "minikvm.test.results"
local style = require "minikvm.cli.style"

local M = {}

local is_bad <const>, count <const> = results.is_bad, results.count

local SLOWEST <const> = 5
local SURE <const> = 2 -- seconds, before which nobody is told what is left
local NOTHING <const> = "no test ran: none has a name that fits --filter"
local INTERRUPTED <const> = { SIGHUP = 129, SIGINT = 130, SIGTERM = 143 } -- as shells have it

local function summary(n)
  return ("%d passed, %d failed, %d skipped"):format(n.pass, n.bad, n.skip)
end

local function indented(text, by)
  local body = text:match "^.*[^\n]" or "" -- from the end: a long run of newlines costs nothing
  return by .. body:gsub("\n", "\n" .. by)
end

---Control characters that would move the cursor or change colours are shown as dots.
local function printable(text)
  return (text:gsub("[\0-\8\11-\31\127]", "."))
end

-- ---- for people ----

local Plain = {}
Plain.__index = Plain

function Plain.begin() io.stdout:setvbuf "full" end

function Plain:clear()
  if self.line then self.line:clear() end
end

local function details(result, paint)
  local word = paint("red", result.status == "fail" and "failed" or "error")
  local lines = { ("  %s: %s"):format(word, printable(result.name)) }
  local first = result.where ~= "" and result.where .. ": " or ""
  if result.message:sub(1, #first) == first then first = "" end
  lines[#lines + 1] = indented(printable(first .. result.message), "    ")
  if result.kept then lines[#lines + 1] = "    " .. result.kept end
  return table.concat(lines, "\n") .. "\n"
end

---Why tests of a file were skipped, each reason once.
local function skip_lines(task)
  local lines, seen = {}, {}
  for _, result in ipairs(task.results) do
    if result.status == "skip" and result.message ~= "" and not seen[result.message] then
      seen[result.message] = true
      local text = indented(printable(result.message), "    "):sub(5)
      lines[#lines + 1] = ("  skipped: %s\n"):format(text)
    end
  end
  return table.concat(lines)
end

local COLOUR <const> = { ok = "green", FAIL = "red", cut = "yellow" }

function Plain:ended(task)
  self:clear()
  local n = count{ task }
  local word = task.cut and "cut" or n.bad > 0 and "FAIL" or "ok"
  local parts = { n.pass .. " passed" }
  if n.bad > 0 then parts[#parts + 1] = n.bad .. " failed" end
  if n.skip > 0 then parts[#parts + 1] = n.skip .. " skipped" end
  io.stdout:write(self.paint(COLOUR[word], ("%-4s"):format(word)), (" %8.2f s  %s (%s)\n"):format(
    task.seconds, task.path, table.concat(parts, ", ")))
  for _, result in ipairs(task.results) do
    if is_bad(result) then io.stdout:write(details(result, self.paint)) end
  end
  io.stdout:write(skip_lines(task))
  io.stdout:flush()
end

---The seconds that are left if the files that are still to come take as long for their weights as
---those that have ended; nil when that is a guess.
local function seconds_left(state)
  local done, elapsed = 0, core.now() - state.from
  for _, task in ipairs(state.ended) do done = done + task.weight end
  if done == 0 or elapsed < SURE then return nil end
  return elapsed * (state.weight - done) / done
end

---The line that is drawn over itself, on a terminal only.
function Plain:progress(state)
  if not self.line then return end
  local now, names = os.time(), {}
  if now == self.drawn and self.line.shown then return end
  for _, task in pairs(state.running) do names[#names + 1] = task.path:match "[^/]*$" end
  table.sort(names)
  local left = seconds_left(state)
  self.line:show(("[%d/%d] %s%s"):format(#state.ended, state.total,
    left and ("%s left: "):format(style.duration(left)) or "", printable(table.concat(names, " "))))
  self.drawn = now
end

local function list_slowest(tasks)
  local sorted = table.move(tasks, 1, #tasks, 1, {})
  table.sort(sorted, function(a, b)
    if a.seconds ~= b.seconds then return a.seconds > b.seconds end
    return a.path < b.path
  end)
  io.stdout:write "\nslowest:\n"
  for i = 1, math.min(SLOWEST, #sorted) do
    io.stdout:write(("%13.2f s  %s\n"):format(sorted[i].seconds, sorted[i].path))
  end
end

---Tests that passed in some runs and failed in others.
---@return { name: string, file: string, passed: integer, failed: integer }[]
local function find_flakes(tasks)
  local seen, flakes = {}, {}
  for _, task in ipairs(tasks) do
    for _, result in ipairs(task.results) do
      local key = task.path .. "\0" .. result.name
      local f = seen[key] or { name = result.name, file = task.path, passed = 0, failed = 0 }
      if is_bad(result) then f.failed = f.failed + 1 end
      if result.status == "pass" then f.passed = f.passed + 1 end
      seen[key] = f
    end
  end
  for _, f in pairs(seen) do
    if f.passed > 0 and f.failed > 0 then flakes[#flakes + 1] = f end
  end
  table.sort(flakes, function(a, b)
    if a.file ~= b.file then return a.file < b.file end
    return a.name < b.name
  end)
  return flakes
end

local function flake_lines(tasks)
  local lines = {}
  for i, f in ipairs(find_flakes(tasks)) do
    lines[i] = ("flaky: %s: %s (failed in %d of %d runs)"):format(
      f.file, printable(f.name), f.failed, f.failed + f.passed)
  end
  return lines
end

---Why not everything was run.
local function stopped(state)
  local missing = state.total - #state.ended
  for _, task in ipairs(state.ended) do if task.cut then missing = missing + 1 end end
  if missing == 0 then return nil end
  local why = state.interrupted and "interrupted by " .. state.interrupted or "stopped by --bail"
  return ("%s: %d of %d files not run to their end"):format(why, missing, state.total)
end

function Plain:finish(state, n)
  self:clear()
  if #state.ended > 1 then list_slowest(state.ended) end
  for _, line in ipairs(flake_lines(state.ended)) do io.stdout:write(line, "\n") end
  for _, line in ipairs(state.notes or {}) do io.stdout:write(line, "\n") end
  local why = stopped(state)
  io.stdout:write(("\n%s%.2f s, %d at a time\n"):format(why and why .. "\n" or "", state.seconds,
                                                        state.o.jobs))
  io.stdout:write(self.paint(n.bad > 0 and "red" or "green", summary(n)), "\n")
  io.stdout:flush()
end

-- ---- TAP 12 (testanything.org) ----

local Tap = {}
Tap.__index = Tap

function Tap:begin() self.number = 0 end

function Tap.progress() end

local function tap_text(text)
  return (printable(text):gsub("\n", " "):gsub("[\\#]", "\\%0"))
end

function Tap:line(result)
  self.number = self.number + 1
  local directive = result.status == "skip" and " # SKIP " .. tap_text(result.message) or ""
  io.stdout:write(("%s %d - %s: %s%s\n"):format(is_bad(result) and "not ok" or "ok", self.number,
    tap_text(result.file), tap_text(result.name), directive))
  if not is_bad(result) then return end
  local text = (result.where ~= "" and result.where .. "\n" or "") .. result.message
  if result.kept then text = text .. "\n" .. result.kept end
  io.stdout:write(indented(printable(text), "# "), "\n")
end

function Tap:ended(task)
  for _, result in ipairs(task.results) do self:line(result) end
  io.stdout:flush()
end

function Tap:finish(state, n)
  for _, line in ipairs(flake_lines(state.ended)) do io.stdout:write("# ", line, "\n") end
  for _, line in ipairs(state.notes or {}) do io.stdout:write("# ", line, "\n") end
  io.stdout:write("# ", summary(n), "\n")
  if state.interrupted then
    io.stdout:write("Bail out! ", stopped(state) or "interrupted", "\n")
  elseif self.number == 0 then
    io.stdout:write("1..0 # SKIP ", NOTHING, "\n")
  else
    io.stdout:write(("1..%d\n"):format(self.number))
  end
  io.stdout:flush()
end

-- ---- JSON (docs/json.md) ----

local Json = {}
Json.__index = Json

function Json.begin() end
function Json.ended() end
function Json.progress() end

local function plain_test(result)
  return { name = result.name, where = result.where, status = result.status,
           seconds = result.seconds, message = result.message ~= "" and result.message or nil,
           artefacts = result.kept }
end

local function plain_file(task)
  local tests, n = {}, count{ task }
  for i, result in ipairs(task.results) do tests[i] = plain_test(result) end
  return { path = task.path, run = task.run, seconds = task.seconds, passed = n.pass,
           failed = n.bad, skipped = n.skip, cut = task.cut or false, tests = json.list(tests) }
end

function Json.finish(_, state, n, status)
  local list = {}
  for i, task in ipairs(results.in_order(state.ended)) do list[i] = plain_file(task) end
  io.stdout:write(json.encode{
    minikvm = require("minikvm")._VERSION, status = status, seconds = state.seconds,
    jobs = state.o.jobs, passed = n.pass, failed = n.bad, skipped = n.skip,
    files = json.list(list), flaky = json.list(find_flakes(state.ended)),
    notes = json.list(state.notes or {}), stopped = stopped(state),
  }, "\n")
  io.stdout:flush()
end

-- ---- all of them ----

---@class minikvm.reporter
---@field begin fun(self, state: table)
---@field ended fun(self, task: minikvm.task, state: table)
---@field progress fun(self, state: table)
---@field finish fun(self, state: table): integer  the exit status
---@field tick number?  seconds between two calls of progress

---The exit status.
local function status_of(state, n, written)
  if state.interrupted then return INTERRUPTED[state.interrupted] end
  return n.bad == 0 and written and n.pass + n.skip > 0 and 0 or 1
end

local function complain(option, why)
  io.stderr:write("minikvm test: --", option, ": ", tostring(why), "\n")
end

---@param o table  the command line's options
---@param terminal boolean  stdout is one
---@return minikvm.reporter
function M.new(o, terminal)
  local kind = o.tap and Tap or o.json and Json or Plain
  local reporter = setmetatable({ paint = style.painter(terminal) }, { __index = kind })
  reporter.line = kind == Plain and style.progress(terminal) or nil
  if reporter.line then reporter.tick = 1 end
  function reporter.finish(_, state)
    local n = count(state.ended)
    local written = true
    local function write(option, fn)
      local done, why, note = fn(o[option], state)
      if why then complain(option, why) end
      if note then complain(option, note) end
      written = written and done
    end
    if o.junit then write("junit", junit.write) end
    if o.html then write("html", require("minikvm.test.html").write) end
    local status = status_of(state, n, written and state.covered ~= false)
    kind.finish(reporter, state, n, status)
    if n.pass + n.bad + n.skip == 0 and not state.interrupted then
      io.stderr:write("minikvm test: ", NOTHING, "\n")
    end
    return status
  end
  return reporter
end

return M
