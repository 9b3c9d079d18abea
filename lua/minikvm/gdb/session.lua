-- gdb/session.lua - one VM's debugger: whether the guest stands still, what gdb is told of a stop,
-- and how the guest goes on. Threads are vCPUs, from 1; all stop together.

local core = require "minikvm.core"
local registers = require "minikvm.gdb.registers"
local target = require "minikvm.gdb.target"

local M = {}

local SIGINT <const>, SIGTRAP <const> = 2, 5

---@class minikvm.gdb.session
---@field vm minikvm.vm
---@field socket userdata  it listens
---@field client minikvm.gdb.connection?
---@field state "running"|"stopping"|"stopped"|"ended"
---@field thread integer  that g, m and so on are about
---@field awaited boolean  gdb waits for the guest to stop
---@field steps integer?  the thread that is to execute an instruction
---@field why { signal: integer, cpu: integer, more: string? }  of the last stop

---@param vm minikvm.vm
---@param socket userdata
---@param opts { lost: string, arch: string, monitor: boolean, notify: function? }
---@return minikvm.gdb.session
function M.new(vm, socket, opts)
  return { vm = vm, socket = socket, state = "running", thread = 1, opts = opts,
           awaited = false, hits = 0, why = { signal = SIGTRAP, cpu = 0 }, points = {},
           snapshots = {}, features = {} }
end

function M.say(s, text, ...)
  if s.opts.notify then s.opts.notify(text:format(...)) end
end

function M.cpu_count(s)
  local n = 0
  while s.vm.cpu[n] do n = n + 1 end
  return n
end

---The vCPU that packets are about; what KVM told of it is kept until something changes.
function M.current(s)
  local number = s.thread - 1
  local cpu = s.vm.cpu[number]
  s.views = s.views or {}
  s.views[number] = s.views[number] or registers.view(cpu)
  return cpu, s.views[number]
end

---@return minikvm.gdb.description
function M.description(s)
  if not s.description then
    local _, view = M.current(s)
    local name = s.opts.arch ~= "auto" and s.opts.arch or target.of(view.sregs)
    s.description, s.told_mode = target.describe(name), name
  end
  return s.description
end

-- ---- stops ----

local function expedited(s)
  local cpu, view = M.current(s)
  local parts = {}
  for i, register in ipairs(s.description.expedited) do
    local bytes = registers.read(view, cpu, register)
    parts[i] = ("%x:%s;"):format(register.number, core.hex(bytes))
  end
  return table.concat(parts)
end

---What gdb is told of the last stop.
function M.stop_reply(s)
  s.thread = s.why.cpu + 1
  return ("T%02xthread:%x;%s%s"):format(s.why.signal, s.thread, s.why.more or "", expedited(s))
end

---The guest's code is for another mode than gdb was told: it cannot learn that but by connecting
---again.
local function note_mode(s)
  local _, view = M.current(s)
  local now = target.of(view.sregs)
  if s.opts.arch ~= "auto" or now == s.told_mode or s.description.bits == 64 then return end
  s.told_mode = now
  if now ~= "x86-64" then return end
  s.client:send("O" .. core.hex("minikvm: the guest is in 64-bit mode now, and gdb was "
    .. "told of " .. s.description.name .. ": 'disconnect', 'target remote' again (the guest stays "
    .. "stopped)\n"))
end

---The step that gdb asked for is over, or is not wanted any more.
function M.end_step(s)
  if s.steps then core.end_step(s.vm) end
  s.steps = nil
end

local WATCHES <const> = { ["2"] = "watch", ["3"] = "rwatch", ["4"] = "awatch" }

---What of gdb's own was met, as a stop reply has it; nil: something of the script's.
local function met(s, stop)
  local at = ("%x"):format(stop.address)
  if stop.kind == "break" then
    return s.points["0," .. at] and s.features.swbreak and "swbreak:;"
      or s.points["1," .. at] and s.features.hwbreak and "hwbreak:;" or nil
  end
  for key, point in pairs(stop.kind == "watch" and s.points or {}) do
    local word = WATCHES[key:sub(1, 1)]
    if word and point == stop.handle then return ("%s:%s;"):format(word, key:match ",(%x+)") end
  end
end

---All vCPUs are outside the guest.
function M.stopped(s)
  local stop = core.last_stop(s.vm)
  if stop and stop.kind == "break" and not stop.handle and s.awaited and not s.interrupted then
    core.hold(s.vm, false) -- met together with another one, and removed meanwhile
    return
  end
  local stepped = s.steps
  M.end_step(s)
  s.state, s.views, s.hits = "stopped", nil, s.hits + 1
  if stop then
    s.why = { signal = SIGTRAP, cpu = stop.cpu.index, more = met(s, stop) }
  else
    s.why = { signal = s.interrupted and SIGINT or SIGTRAP,
              cpu = stepped and stepped - 1 or s.why.cpu } -- it stopped before all were let go
  end
  s.interrupted = false
  if not s.client or not s.awaited then return end
  s.awaited = false
  s.thread = s.why.cpu + 1
  note_mode(s)
  s.client:send(M.stop_reply(s))
end

---Breakpoints and watches that gdb has set go.
function M.remove_points(s)
  for key, point in pairs(s.points) do
    s.points[key] = nil
    point:remove()
  end
end

-- ---- going on ----

---The guest goes on, without anybody who debugs it.
function M.let_go(s)
  M.remove_points(s)
  M.end_step(s)
  s.state, s.awaited = "running", false
  core.hold(s.vm, false)
end

---The client goes.
function M.drop(s)
  if s.client then s.client:close() end
  s.client = nil
end

---Ends the run, which then does not begin stopped the next time.
function M.end_run(s)
  s.vm:stop()
  core.hold(s.vm, false)
end

---gdb has seen what there is to see of a VM that has ended.
function M.leave(s)
  if s.client then
    s.client:send(s.end_reply)
    M.drop(s)
  end
end

---Lets the guest go on; gdb waits for the next stop.
function M.go(s)
  if s.state == "ended" then return M.leave(s) end
  s.state, s.awaited, s.views = "running", true, nil
  core.hold(s.vm, false)
end

---One vCPU executes an instruction; the others go on meanwhile or stay.
function M.step(s, number, others)
  if s.state == "ended" then return M.leave(s) end
  local begun, why = core.begin_step(s.vm, number - 1, 1)
  if not begun then return "E." .. why end
  s.state, s.awaited, s.views, s.steps = "running", true, nil, number
  if not others then return end
  core.hold(s.vm, false)
  if core.has_stepped(s.vm) then core.hold(s.vm, true) end -- it stopped before they were let go
end

return M
