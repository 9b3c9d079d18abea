-- vm/run.lua - methods of a VM that run it, and those that look on while it runs: gdb, traces.

local core = require "minikvm.core"
local options = require "minikvm.options"

local M = {}

local vm = core.methods "minikvm.vm"

---A limit, as options.check takes it.
function M.exits(value)
  if math.type(value) == "integer" and value > 0 then return value end
  return nil, ("expected a number of exits, got %s"):format(tostring(value))
end

---Serves a page that shows the VM's screen, live, to browsers of this machine, and types what is
---typed there at its keyboard. One at a time; it ends with the VM.
---@param opts? { port: integer? }  0 (the default): one that is free
---@return minikvm.view? view  its url names the page
---@return string? why
---@return string? code  such as "EADDRINUSE"
function vm:view(opts)
  options.self("vm:view", self, "minikvm.vm")
  core.check_open(self)
  return require("minikvm.view").open(self, opts)
end

---Lets gdb debug the guest: see lua/minikvm/gdb/init.lua and docs/gdb.md.
---  at       where gdb connects: a port of this machine (the default: any that is free),
---           "HOST:PORT",
---           "*:PORT" (from everywhere), "unix:PATH"
---  stop     false: the guest runs until gdb connects; else it is stopped by then
---  on       "crash": nothing happens until the guest dies; then the run waits for gdb
---  lost     when gdb vanishes: "hold" (the default: stopped or running as it was), "continue",
---           "stop" (the run ends)
---  arch     "i8086", "i386", "x86-64": what gdb is told; by default what the vCPU runs when gdb
---           connects
---  monitor  false: gdb's "monitor" runs no Lua
---  notify   function(text): gdb has gone, a second one was sent away
---@param opts? table
---@return minikvm.gdb? gdb  with fields address, port, connected, and remove()
---@return string? why  "what: why" when it cannot listen there
---@return string? code
function vm:gdb(opts)
  options.self("vm:gdb", self, "minikvm.vm")
  core.check_open(self)
  return require("minikvm.gdb").open(self, opts)
end

local function place(value)
  if math.type(value) == "integer" or type(value) == "string" then return value end
  return nil, ("expected an address or the name of a symbol, got %s"):format(tostring(value))
end

local RUN = options.declare("vm:start", {
  deadline = "seconds", exits = M.exits, output = "size",
})

local RUN_UNTIL = options.declare("vm:run", { until_pc = place }, RUN)

local function run_options(where, opts, known)
  local o = options.check(where, opts, known or RUN)
  o.seconds = o.deadline
  return o
end

-- Ends of which a guest's author wants to know where it was.
local PLACED <const> = { deadline = true, limit = true, forbidden = true, panic = true,
                         shutdown = true, fault = true }

---Adds a report to what is worth one; its module is loaded when a guest died first.
local function explained(self, reason, info, ...)
  if reason then require("minikvm.vm.result").of(info) end
  local gdb = package.loaded["minikvm.gdb"]
  if gdb then gdb.ended(self, reason, info) end
  if reason == "shutdown" or reason == "fault" then
    require("minikvm.vm.explain").add(self, reason, info)
  end
  if PLACED[reason] and package.loaded["minikvm.image"] then
    info.place = require("minikvm.debug.where").of_end(self, info)
  end
  local made = require("minikvm.vm").made[self]
  if reason and made and made.linux then
    require("minikvm.vm.linux").explain(self, reason, info)
  end
  local traces = package.loaded["minikvm.debug.trace"]
  if reason and traces then traces.run_ended(self, reason, info) end
  local views = package.loaded["minikvm.view"]
  if views then views.ended(self) end
  return reason, info, ...
end

---Runs the VM to its end, one of one vCPU on this thread.
---@param opts? { deadline: number?, exits: integer?, output: integer|string? }  seconds; exits of a
---  vCPU; bytes printed: instead of the VM's limits; until_pc: an address or a symbol at which it
---  stops
---@return string reason  "halt", "break", "exit", "shutdown", "deadline", "limit", "stopped",
---  "fault" or "error"
---@return table info  reason, text (a sentence), code, exits, by, served, seconds, rip, cpu, …
function vm:run(opts)
  options.self("vm:run", self, "minikvm.vm")
  local o = run_options("vm:run", opts, RUN_UNTIL)
  local function run() return explained(self, core.run(self, o)) end
  if not o.until_pc then return run() end
  core.check_open(self)
  return require("minikvm.debug").run_until(self, o.until_pc, run)
end

---Starts the VM on threads of its own and returns it at once.
---@param opts? table  as for run
---@return minikvm.vm
function vm:start(opts)
  options.self("vm:start", self, "minikvm.vm")
  return core.start(self, run_options("vm:start", opts))
end

---Waits for a started VM to end.
---@param timeout? number  seconds
---@return string? reason  nil, text, "ETIMEDOUT" when it still runs
---@return table|string info
function vm:wait(timeout)
  options.self("vm:wait", self, "minikvm.vm")
  if timeout ~= nil then options.argument("vm:wait", "timeout", timeout, "seconds") end
  return explained(self, core.wait(self, timeout))
end

local stop_core = vm.stop

---Ends the run. Inside a handler it only asks: the run ends when the handler is done.
---@return string? reason  as of run; nothing inside a handler, or when the VM never ran
---@return table? info
function vm:stop()
  options.self("vm:stop", self, "minikvm.vm")
  return explained(self, stop_core(self))
end

---How many exits there were since the last call, or since the VM was made or reset, of all vCPUs
---together; raises when they are not as many as expected. Exact with coalesce = false.
---@param want? integer|{ min: integer?, max: integer? }
---@return integer exits
function vm:expect_exits(want)
  options.self("vm:expect_exits", self, "minikvm.vm")
  return require("minikvm.console.expect").expect_exits(self, want)
end

---Tells what the VM does: see lua/minikvm/debug/trace.lua. With a function: calls fn(line) for
---every exit, in place of an earlier such function; nil ends that.
---  exits         true: every exit (the default, unless something else is wanted)
---  interrupts    true: every interrupt that is delivered
---  calls         true: every call, what it came back from, interrupts and exceptions among them
---  instructions  true: every instruction; for both the guest is stepped through
---  file          a path: what is told goes there, with times; else to `fn`, else to stderr
---  fn            function(line)
---  format        "text", "jsonl", or "perfetto" (trace events); by default what the file's name
---                says: .json "perfetto", .jsonl "jsonl", else "text"
---  limit         bytes of the file ("64M"), or false: what follows is not in it
---@param what fun(line: string)|table?
---@return minikvm.trace? trace  nil, "path: why", "ENAME" when the file cannot be written
---@return string? why
---@return string? code
function vm:trace(what)
  options.self("vm:trace", self, "minikvm.vm")
  core.check_open(self)
  local trace = require "minikvm.debug.trace"
  if type(what) == "table" then return trace.add(self, what) end
  if what ~= nil then options.argument("vm:trace", "fn", what, "function") end
  return trace.set_function(self, what)
end

return M
