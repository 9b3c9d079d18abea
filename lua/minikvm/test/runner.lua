-- runner.lua - `minikvm test`: runs spec files in parallel, each in a process of its own.
--
-- Started by lua/minikvm/cli/init.lua. The processes are src/lua/process.c's; what they report is
-- described in lua/minikvm/test/child.lua. Exit status: 0 all passed, 1 something failed, 2 wrong
-- command line, 128 + n ended by signal n.

local args = require "minikvm.cli.args"
local artefacts = require "minikvm.test.artefacts"
local children_of = require "minikvm.test.children"
local core = require "minikvm.core"
local coverage = require "minikvm.test.coverage"
local files = require "minikvm.test.files"
local find_lfs = require("minikvm.folder").lfs
local results = require "minikvm.test.results"
local tasks = require "minikvm.test.task"

local M = {}

local MOST_JOBS <const> = 64 -- src/lua/process.c's limit

-- ---- the command line ----

local function positive(what, most)
  return function(text)
    local number = text:match "^%d+$" and math.tointeger(tonumber(text))
    if number and number >= 1 and number <= most then return number end
    return nil, ("expected %s (1 to %d), got %q"):format(what, most, text)
  end
end

local function parse_shard(text)
  local k, n = text:match "^(%d+)/(%d+)$"
  k, n = math.tointeger(tonumber(k)), math.tointeger(tonumber(n))
  if k and n and k >= 1 and k <= n and n <= 10000 then return { k, n } end
  return nil, ("expected K/N with K from 1 to N, such as 2/4, got %q"):format(text)
end

local function parse_pattern(text)
  local fine, why = pcall(string.find, "", text)
  if fine then return text end
  return nil, ("not a Lua pattern: %s"):format(why)
end

M.spec = {
  program = "minikvm test",
  summary = "Runs Busted spec files (*_spec.lua, test_*.lua), each in a process of its own.",
  options = {
    { "--jobs", "-j", value = "N", type = positive("a number of processes", MOST_JOBS),
      help = "files that run at a time (default: one for each processor)" },
    { "--tap", help = "results as TAP on stdout, for prove and others" },
    { "--json", help = "results as one JSON object on stdout, at the end (docs/json.md)" },
    { "--junit", value = "FILE", help = "results as JUnit XML in this file, too" },
    { "--html", value = "DIR",
      help = "one page about the results, in this folder: what failed, its screen, console, last"
        .. " exits, the trend over earlier runs; implies --trace" },
    { "--shard", value = "K/N", type = parse_shard,
      help = "only this part of the files; the parts 1/N to N/N are all, each once" },
    { "--timings", value = "FILE",
      help = "balance shards by these seconds (see --save-timings) instead of by sizes" },
    { "--save-timings", value = "FILE", help = "write how many seconds each file took" },
    { "--repeat", value = "N", type = positive("a number of times", 100000),
      help = "run everything N times and tell what passed only sometimes" },
    { "--seed", value = "S", type = positive("a seed", 0x7fffffff),
      help = "shuffle files and tests, the same way for the same seed" },
    { "--bail", help = "stop at the first failure" },
    { "--filter", value = "PATTERN", type = parse_pattern,
      help = "only tests whose full name matches this Lua pattern" },
    { "--timeout", value = "SEC", type = "duration",
      help = "end a file that takes longer (default: 600)" },
    { "--artefacts", value = "DIR",
      help = "what is kept of failed tests (default: $ARTEFACTS, else build/artefacts)" },
    { "--trace", help = "keep the last exits of every VM, for the artefacts" },
    { "--coverage", value = "DIR",
      help = "which source lines of the guests were executed: a tracefile of lcov and pages" },
    { "--list", help = "print the names of the files instead, in their order" },
  },
  rest = { key = "paths", value = "path", help = "spec files and folders (default: spec)" },
  notes = "Exit status: 0 all passed; 1 something failed; 2 wrong command line; 130 interrupted.\n"
    .. "The last line is N passed, N failed, N skipped. A failed test's console, registers,\n"
    .. "snapshot and the command that repeats it are in a folder that is named beside it.",
}

---Options that cannot be together, and what is missing on this machine.
local function check(o)
  if o.tap and (o.list or o.json) then
    return ("--tap and %s exclude each other"):format(o.list and "--list" or "--json")
  end
  local lfs, missing = find_lfs()
  if not lfs then return missing end
  if not o.list and not package.searchpath("busted.runner", package.path) then
    return "Busted is not installed (Debian: lua-busted)"
  end
  for _, option in ipairs{ "junit", "save_timings" } do
    local why = o[option] and files.no_output(o[option])
    if why then return ("--%s: %s"):format(option:gsub("_", "-"), why) end
  end
end

---The spec files this run is about, in order; nil and a message.
local function choose(o)
  local paths, why = files.find(#o.paths > 0 and o.paths or { "spec" })
  if not paths then return nil, why end
  local seconds
  if o.timings then seconds, why = files.read_timings(o.timings) end
  if why then return nil, "--timings: " .. why end
  local list = files.weigh(paths, seconds)
  if o.shard and o.shard[2] > #list then
    return nil, ("--shard %d/%d: there are %d spec files, too few for %d parts"):format(
      o.shard[1], o.shard[2], #list, o.shard[2])
  end
  if o.shard then list = files.shard(list, o.shard[1], o.shard[2]) end
  files.order(list, o.jobs, o.seed)
  return list
end

-- ---- all of them ----

local function source_of(o, task)
  local fields = { file = task.path, filter = o.filter, artefacts = o.folder,
                   seed = o.seed and o.seed + task.run - 1 }
  local parts = {}
  for key, value in pairs(fields) do parts[#parts + 1] = ("%s = %q"):format(key, value) end
  if o.bail then parts[#parts + 1] = "bail = true" end
  if o.trace then parts[#parts + 1] = "trace = true" end
  if o.coverage then
    task.coverage = ("%s/%d.info"):format(o.coverage_parts, task.number)
    parts[#parts + 1] = ("coverage = %q"):format(task.coverage)
  end
  return ([[require "minikvm" require("minikvm.test.child").run{ %s }]]):format(
    table.concat(parts, ", "))
end

---Starts the next file. A process that cannot be started is an error of that file.
local function start(state)
  local task = table.remove(state.waiting, 1)
  tasks.begin(task)
  local number, why = state.children:spawn(
    { state.program, "-e", source_of(state.o, task) }, state.environment)
  if number then
    state.running[number], state.count = task, state.count + 1
  else
    tasks.add(task, task.path, "", "error", 0, "its process cannot be started: " .. why)
    task.seconds = 0
    state.ended[#state.ended + 1] = task
    state.reporter:ended(task, state)
  end
end

---Ends files that take too long; returns the seconds until the next one would.
local function hurry(state)
  local wait, now = state.reporter.tick or 3600, core.now()
  for number, task in pairs(state.running) do
    local left = task.from + state.o.timeout - now
    if left <= 0 and not task.late then
      task.late = true
      state.children:kill(number)
    end
    wait = math.min(wait, math.max(left, 0.01))
  end
  return wait
end

local EVENTS = {
  output = function(state, number, bytes)
    tasks.read_output(state.running[number], bytes)
  end,
  report = function(state, number, bytes) tasks.read_report(state.running[number], bytes) end,
  ended = function(state, number, how, status)
    local task = state.running[number]
    state.running[number], state.count = nil, state.count - 1
    tasks.conclude(task, how, status, state.o)
    state.ended[#state.ended + 1] = task
    state.reporter:ended(task, state)
    state.bailed = state.bailed or state.o.bail and results.count{ task }.bad > 0
  end,
  signal = function(state, name) state.interrupted = name end,
}

---Ends the files that still run, when all shall stop; what their tests have reported counts.
local function cut_short(state)
  for number in pairs(state.running) do state.children:kill(number) end
  while state.count > 0 do
    local event, number, a, b = state.children:next(60)
    local task = state.running[number]
    if event == "ended" and not task.done then
      state.running[number], state.count = nil, state.count - 1
      task.seconds, task.cut = core.now() - task.from, true
      state.ended[#state.ended + 1] = task
      state.reporter:ended(task, state)
    elseif event and event ~= "signal" then
      EVENTS[event](state, number, a, b)
    end
  end
end

local function loop(state)
  local most = state.o.jobs
  while (state.count > 0 or #state.waiting > 0) and not state.interrupted and not state.bailed do
    while state.count < most and #state.waiting > 0 do start(state) end
    local event, number, a, b
    if state.count > 0 then -- none, where no process could be started
      event, number, a, b = state.children:next(hurry(state))
    end
    if event then EVENTS[event](state, number, a, b) end
    state.reporter:progress(state)
  end
  cut_short(state)
end

local function plan(list, o)
  local waiting = {}
  for run = 1, o["repeat"] do
    for _, file in ipairs(list) do
      waiting[#waiting + 1] = { path = file.path, run = run, number = #waiting + 1,
                                weight = file.weight }
    end
  end
  return waiting
end

---A folder of this run's own below the one for artefacts: two runs never share one.
local function new_artefacts_folder(o)
  local given = os.getenv "ARTEFACTS"
  local parent = o.artefacts or (given ~= "" and given) or "build/artefacts"
  return artefacts.new_folder(parent, os.date "%Y%m%d-%H%M%S")
end

local function save_timings(o, ended)
  local seconds = {}
  for _, task in ipairs(ended) do
    if not task.cut then seconds[task.path] = math.max(seconds[task.path] or 0, task.seconds) end
  end
  return files.write_timings(o.save_timings, seconds)
end

---The files whose processes were started.
local function started(state)
  local list = {}
  for _, task in ipairs(state.ended) do
    if task.coverage then list[#list + 1] = task end
  end
  return list
end

---Runs the files; returns the process's exit status.
local function run(o, list)
  local report = require "minikvm.test.report"
  local why, _
  o.trace = o.trace or o.html
  o.folder, why = new_artefacts_folder(o)
  if not o.folder then return args.complain(M.spec, "--artefacts: " .. why) end
  if o.html then _, why = require("minikvm.test.html").open(o.html) end
  if why then return args.complain(M.spec, "--html: " .. why) end
  if o.coverage then o.coverage_parts, why = coverage.new_folder(o.coverage) end
  if why then return args.complain(M.spec, "--coverage: " .. why) end
  local about = core.process()
  local state = { o = o, waiting = plan(list, o), running = {}, ended = {}, count = 0,
                  total = #list * o["repeat"], from = core.now(), time = os.time(),
                  program = about.program, environment = core.environment(), weight = 0 }
  for _, task in ipairs(state.waiting) do state.weight = state.weight + task.weight end
  state.reporter = report.new(o, about.terminal)
  local children <close> = assert(children_of.open())
  state.children = children
  state.reporter:begin(state)
  loop(state)
  children:close()
  state.seconds = core.now() - state.from
  local lfs = require "lfs"
  lfs.rmdir(o.folder) -- fails when something is in it, and that is right
  if o.coverage then
    state.notes, state.covered = coverage.conclude(o.coverage, started(state))
  end
  local status = state.reporter:finish(state)
  if o.save_timings then
    local done
    done, why = save_timings(o, state.ended)
    if not done then status = args.complain(M.spec, "--save-timings: " .. why) end
  end
  return status
end

local function print_list(list, as_json)
  if as_json then
    local paths, json = {}, require "minikvm.json"
    for i, file in ipairs(list) do paths[i] = { path = file.path } end
    return print(json.encode{ minikvm = require("minikvm")._VERSION, files = json.list(paths) })
  end
  for _, file in ipairs(list) do print(file.path) end
end

---Carries out a command line.
---@param argv string[]
---@return integer status
function M.main(argv)
  local o, status = args.handle(M.spec, argv)
  if not o then return status end
  local why = check(o)
  if why then return args.complain(M.spec, why) end
  o.jobs = o.jobs or math.min(core.process().cpus, MOST_JOBS)
  if o.filter == "" then o.filter = nil end
  o["repeat"], o.timeout = o["repeat"] or 1, o.timeout or 600
  local list
  list, why = choose(o)
  if not list then return args.complain(M.spec, why) end
  if not o.list then return run(o, list) end
  print_list(list, o.json)
  return 0
end

return M
