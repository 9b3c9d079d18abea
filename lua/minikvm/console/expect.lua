-- expect.lua - waiting for what a guest prints or shows, on top of the core's watches
-- (src/lua/watch.c). Loaded by the first wait.

local core = require "minikvm.core"
local handles = require "minikvm.handle"
local options = require "minikvm.options"
local told = require "minikvm.console.expect_report"

local M = {}

---Who is told of waits that are over: what was waited for, why it did not come (nil: it did), and
---where in all that was printed it begins and ends; wait.began is from where on it was waited for.
---For reports on tests.
---@type fun(wait: table, why: string?, from: integer, to: integer)?
M.observer = nil

local TIMEOUT <const> = 10 -- seconds

-- ---- options ----

local count <const> = options.between(1, math.maxinteger, "a number of 1 or more")
local exits <const> = options.between(0, math.maxinteger, "a number of exits")

---A number of exits, or { exits = n, ticks = n }; as a table.
local function budget(value)
  if count(value) then return { exits = value } end
  if type(value) ~= "table" then
    return nil, "expected a number of exits, or { exits = n, ticks = n }"
  end
  for key, amount in pairs(value) do
    if key ~= "exits" and key ~= "ticks" or not count(amount) then
      return nil, "expected { exits = n, ticks = n }, numbers of 1 or more, got "
        .. tostring(key) .. " = " .. tostring(amount)
    end
  end
  if next(value) == nil then return nil, "expected { exits = n, ticks = n }, got an empty table" end
  return value
end

local EXPECT = options.declare("console:expect", {
  timeout = "seconds", plain = "boolean", stop = "boolean", budget = budget, cpu = "integer",
})
options.declare("console:try_expect", EXPECT)
local SCREEN = options.declare("screen:expect", {
  timeout = "seconds", plain = "boolean", stop = "boolean", budget = budget,
})
local FORBID = options.declare("console:forbid", {
  plain = "boolean", stop = "boolean", cpu = "integer",
})
local TYPE = options.declare("console:type", {
  echo = "boolean", delay = "seconds", timeout = "seconds", budget = budget, cpu = "integer",
})

---A pattern or a list of them, as a list.
local function pattern_list(what, patterns)
  if type(patterns) == "string" then return { patterns } end
  if type(patterns) ~= "table" or #patterns == 0 then
    core.blame(("%s: expected a pattern or a list of patterns, got %s")
               :format(what, type(patterns) == "table" and "an empty table" or type(patterns)))
  end
  for i, pattern in ipairs(patterns) do
    if type(pattern) ~= "string" then
      core.blame(("%s: pattern %d is a %s"):format(what, i, type(pattern)))
    end
  end
  return patterns
end

-- ---- waiting ----

local IF <const> = 1 << 9

local function interruptible(vm)
  for _, cpu in pairs(vm.cpu) do
    if cpu.rflags & IF ~= 0 then return true end
  end
end

---The result of a vm that cannot go on; after HLT it can where an interrupt may come.
local function ended_for_good(vm)
  local reason, info = told.last_result(vm)
  if reason == "exit" or reason == "panic" or reason == "shutdown" or reason == "fault"
    or reason == "error"
     or reason == "halt" and not interruptible(vm) then
    return reason, info
  end
end

---Lets the VM run until the watch is decided: a VM that was not started on this thread.
local function run(wait)
  local vm, left = wait.vm, wait.deadline - core.now()
  if wait.started then
    core.watch_wait(wait.watch, math.max(0, left))
    if wait.stop and core.watch_result(wait.watch) ~= "armed" then return vm:wait() end
    if vm.state ~= "running" then return vm:wait(0) end
    return
  end
  if vm.state == "paused" then
    core.blame(("%s: vm %q is paused: vm:resume() lets it go on"):format(wait.what, vm.name))
  end
  local reason, info = ended_for_good(vm)
  if reason then return reason, info end
  return vm:run{ deadline = math.max(0, left) }
end

local function make(what, con, patterns, o)
  local vm = core.vm_of(con, "minikvm.console")
  local wait = { what = what, con = con, vm = vm, patterns = patterns, cpu = o.cpu or 0,
                 timeout = o.timeout or TIMEOUT, budget = o.budget or {},
                 started = vm.state == "running", stop = o.stop, plain = o.plain }
  wait.deadline = core.now() + wait.timeout
  wait.began = M.observer and core.consumed(con, wait.cpu)
  return wait
end

local function watch(wait, patterns, settings)
  settings.plain = wait.plain
  settings.exits, settings.ticks = wait.budget.exits, wait.budget.ticks
  return core.watch(wait.con, wait.cpu, patterns, settings)
end

---Tells the observer, if there is one.
local function tell(wait, why)
  if M.observer then M.observer(wait, why, core.watch_place(wait.watch)) end
end

---Waits; true, index, captures; or false, the message, the error's name.
local function wait_for_output(wait)
  local stops = not wait.started or wait.stop == true
  local w <close> = watch(wait, wait.patterns, { stops = stops,
                                                 exact = wait.started or wait.stop ~= false })
  wait.watch = w
  local reason, info
  if core.watch_result(w) == "armed" and not core.forbidden(w) then reason, info = run(wait) end
  if wait.vm.state == "closed" then
    return false, told.report(wait, "the vm was closed"), "ESHUTDOWN"
  end
  local result = table.pack(core.watch_result(w))
  if result[1] == "match" and not core.forbidden(w) then
    if wait.started and wait.stop and wait.vm.state == "running" then wait.vm:stop() end
    tell(wait)
    return true, table.unpack(result, 2, result.n)
  end
  local why, code = told.failure(wait, result[1], reason, info)
  tell(wait, why)
  return false, told.report(wait, why), code
end

---Raises for anything but the console of a VM that is open.
local function check_console(con, method, object)
  local where = ("%s:%s"):format(object or "console", method)
  options.self(where, con, "minikvm.console")
  local ok, why = pcall(core.vm_of, con, "minikvm.console")
  if not ok then
    local reason = why:gsub("^[^\n]-:%d+: ", "", 1) -- the line is put before the whole
    core.blame(("%s: %s"):format(where, reason))
  end
end

local function raise_or_return(ok, ...)
  if ok then return ... end
  core.blame((...))
end

local function expect(what, con, patterns, opts)
  check_console(con, what)
  local o = options.check("console:" .. what, opts, EXPECT)
  return wait_for_output(make(what, con, pattern_list("console:" .. what, patterns), o))
end

function M.expect(con, patterns, opts)
  return raise_or_return(expect("expect", con, patterns, opts))
end

function M.try_expect(con, patterns, opts)
  local function nil_for_false(ok, ...)
    if ok then return ... end
    return nil, ...
  end
  return nil_for_false(expect("try_expect", con, patterns, opts))
end

-- By console, what is forbidden there, whether or not a script keeps the handle.
local forbidden = setmetatable({}, { __mode = "k" })

---A console's handle of what is forbidden.
local forbidding = handles.kind("handle of console:forbid", { "console", "watches", "hits" },
  function(handle)
    core.vm_of(handle.console, "minikvm.console") -- raises when it is closed
    for _, w in ipairs(handle.watches) do core.watch_close(w) end
    forbidden[handle.console][handle] = nil
  end,
  function(handle)
    local hits = 0
    for _, w in ipairs(handle.watches) do hits = hits + core.watch_hits(w) end
    return hits
  end)

function M.forbid(con, pattern, opts)
  check_console(con, "forbid")
  local o = options.check("console:forbid", opts, FORBID)
  if type(pattern) ~= "string" then
    core.blame("console:forbid: expected a pattern, got a " .. type(pattern))
  end
  local first, last = o.cpu or 0, o.cpu or core.streams(con) - 1
  local watches, settings = {}, { plain = o.plain, exact = o.stop, stops = true, forbids = true }
  for cpu = first, last do
    watches[#watches + 1] = core.watch(con, cpu, { pattern }, settings)
  end
  local handle = forbidding{ console = con, watches = watches }
  forbidden[con] = forbidden[con] or {}
  forbidden[con][handle] = true
  return handle
end

-- ---- typing ----

---Lets the guest run for a while.
local function pause(vm, seconds)
  if vm.state == "running" then
    core.sleep(seconds)
  elseif not ended_for_good(vm) then
    vm:run{ deadline = seconds }
  end
end

function M.type(con, text, opts)
  check_console(con, "type")
  local o = options.check("console:type", opts, TYPE)
  if type(text) ~= "string" then
    core.blame("console:type: expected a text, got a " .. type(text))
  end
  for i = 1, #text do
    local c = text:sub(i, i)
    local sent, why = con:send(c)
    if not sent then core.blame("console:type: " .. why) end
    if o.echo ~= false then
      local wait = make(("type: the echo of character %d of %d,"):format(i, #text), con,
                        { c == "\r" and "[\r\n]" or c }, o)
      wait.plain = c ~= "\r"
      raise_or_return(wait_for_output(wait))
    end
    if o.delay and i < #text then pause(core.vm_of(con, "minikvm.console"), o.delay) end
  end
  return con
end

-- ---- the user's turn ----

function M.interact(con)
  check_console(con, "interact")
  local vm = core.vm_of(con, "minikvm.console")
  core.hand_over(con)
  local ok, reason, info
  if vm.state == "running" then
    ok, reason, info = pcall(vm.wait, vm)
  else
    ok, reason, info = pcall(vm.run, vm)
  end
  if vm.state ~= "closed" then
    core.take_back(con)
    core.consume(con)
  end
  if not ok then error(reason, 0) end
  return reason, info
end

-- ---- the screen ----

---The captures of the first pattern that the screen matches, with its index. A prompt may end in a
---blank, and a pattern may have the end of a row: both texts are tried.
local function search_screen(wait)
  local texts = { wait.screen:text(), wait.screen:text{ blanks = true } }
  for i, pattern in ipairs(wait.patterns) do
    for _, text in ipairs(texts) do
      local found = table.pack(core.search(text, pattern, wait.plain))
      if found.n > 0 then return i, table.unpack(found, 1, found.n) end
    end
  end
end

---Waits for one change after the other.
local function wait_for_screen(wait)
  local w <close> = watch(wait, {}, { stops = not wait.started, screen = true, looks = wait.card })
  wait.watch = w
  while true do
    local found = table.pack(search_screen(wait))
    if found.n > 0 then
      if wait.started and wait.stop then wait.vm:stop() end
      tell(wait)
      return true, table.unpack(found, 1, found.n)
    end
    local reason, info
    if not core.forbidden(w) then reason, info = run(wait) end
    if wait.vm.state == "closed" then
      return false, told.report(wait, "the vm was closed"), "ESHUTDOWN"
    end
    local state = core.watch_result(w)
    if state ~= "changed" then
      found = table.pack(search_screen(wait)) -- it may have shown it and ended
      if found.n > 0 then return true, table.unpack(found, 1, found.n) end
      local why, code = told.failure(wait, state, reason, info)
      tell(wait, why)
      return false, told.report(wait, why), code
    end
    core.watch_again(w)
  end
end

---`card`: its VGA device. What that shows may change without a change of RAM.
function M.screen_expect(screen, vm, patterns, opts, card)
  check_console(vm.console, "expect", "screen")
  local o = options.check("screen:expect", opts, SCREEN)
  local wait = make("screen:expect", vm.console, pattern_list("screen:expect", patterns), o)
  wait.screen, wait.card = screen, card ~= nil
  return raise_or_return(wait_for_screen(wait))
end

-- ---- exits ----

local EXITS = options.declare("vm:expect_exits", { min = exits, max = exits })

function M.expect_exits(vm, want)
  if math.type(want) == "integer" then want = { min = want, max = want } end
  local o = options.check("vm:expect_exits", want, EXITS)
  local n = core.exits_since(vm)
  local wrong = o.min and n < o.min and ("at least %d"):format(o.min)
    or o.max and n > o.max and ("at most %d"):format(o.max)
  if wrong and o.min == o.max then wrong = tostring(o.min) end
  if wrong then
    core.blame(("expected %s exits since the last look, there were %d\n%s")
               :format(wrong, n, told.cpu_line(vm, 0)))
  end
  return n
end

-- For others that wait for a guest.
M.ended_for_good, M.pattern_list = ended_for_good, pattern_list

return M
