-- gdb/server.lua - who is connected, and what is done when something has happened.
--
-- serve() is called when somebody connected, bytes are there, or all vCPUs are outside the guest:
-- on the thread of a vCPU that is outside the guest, or, when the VM does not run, on the script's.
-- It never waits.

local connection = require "minikvm.gdb.connection"
local core = require "minikvm.core"
local packets = require "minikvm.gdb.packets"
local session = require "minikvm.gdb.session"

local M = {}

local AT_ONCE <const> = 64 -- packets between two looks at what else there is to do
local SIGTERM <const> = 15

-- How a run ended: the signal of a program that ends so.
local SIGNALS <const> = { shutdown = 11, fault = 4, panic = 6, error = 6, forbidden = 6 }

---The client went without a word.
local function lost(s)
  session.drop(s)
  s.awaited = false
  if s.state == "ended" then return end
  session.remove_points(s)
  local what = s.opts.lost
  session.say(s, "gdb has gone; %s", what == "continue" and "the guest goes on"
      or what == "stop" and "the run ends"
      or s.state == "running" and "the guest runs" or "the guest stays stopped: connect again")
  if what == "continue" then session.let_go(s) elseif what == "stop" then session.end_run(s) end
end

---A new client finds the guest stopped, or waits until it is.
local function welcome(s, socket)
  s.client = connection.new(socket)
  s.awaited, s.thread, s.description = false, 1, nil
  s.features, s.views = {}, nil
  if s.state == "running" then
    core.hold(s.vm, true)
    s.state = "stopping"
  end
end

---@return boolean came  somebody new did
local function accept(s)
  if s.opts.on == "crash" and s.state ~= "ended" then return false end -- it waits to be let in
  if s.client and s.client.socket:left() then return false end -- it goes first
  for socket in s.socket.accept, s.socket do
    if not s.client then
      welcome(s, socket)
      return true
    end
    socket:close()
    session.say(s, "a second gdb was sent away: one is connected")
  end
  s.socket:watch(false, 0)
  return false
end

---Of a client whose guest runs nothing counts but Ctrl-C.
local function serve_running(s, event)
  if event == "interrupt" and s.state == "running" then
    s.interrupted, s.state = true, "stopping"
    core.hold(s.vm, true)
  end
end

---Answers what has come, up to a number of packets.
local function serve_client(s)
  for _ = 1, AT_ONCE do
    local quiet = s.state == "running" or s.state == "stopping"
    if s.state == "stopping" and not s.awaited then return end -- until it stands still
    local event, packet = s.client:receive(quiet)
    if not event then return end
    if event == "gone" then return lost(s) end
    if quiet then
      serve_running(s, event)
    elseif event == "packet" then
      packets.serve(s, packet)
    elseif event ~= "interrupt" then
      packets.refuse(s, event)
    end
    if not s.client or s.vm.state == "closed" then return end
  end
  core.attend(s.vm)
end

---Something has happened.
---@param s minikvm.gdb.session
function M.serve(s)
  if s.closed then return end
  local done = not s.steps or core.has_stepped(s.vm) -- asked first: then it is back outside
  local held = done and core.held(s.vm)
  if held and (s.state == "running" or s.state == "stopping") then session.stopped(s) end
  if s.client then serve_client(s) end
  if not s.closed and s.vm.state ~= "closed" and accept(s) then M.serve(s) end
end

-- ---- the end of a run ----

---What gdb is told of a run's end.
local function exit_reply(reason, info)
  if reason == "exit" then return ("W%02x"):format((info.code or 0) & 0xff) end
  if reason == "halt" then return "W00" end
  return ("X%02x"):format(SIGNALS[reason] or SIGTERM)
end

---@param reason string
---@return boolean
function M.is_crash(reason) return SIGNALS[reason] ~= nil end

---The vCPU whose end was that of the VM.
local function dead_cpu(info, reason)
  for i = 0, 63 do
    local one = info.cpu and info.cpu[i]
    if not one then break end
    if one.reason == reason then return i end
  end
  return 0
end

---Serves until whoever looks has gone.
local function serve_crash(s)
  local seen = s.client
  repeat
    M.serve(s)
    seen = seen or s.client
    if s.closed or seen and not s.client then break end
    core.wait_attention(s.vm)
  until false
end

local FINAL <const> = { halt = true, exit = true }

---A run has ended: who debugs the VM is told when the guest has come to its end. Of a crash it may
---look at what is left; the script waits for that. After a stop, the deadline and the like the
---script may run it again, with gdb as it was. On the script's thread.
---@param s minikvm.gdb.session
---@param reason string
---@param info table
function M.finish(s, reason, info)
  s.end_reply, s.views = exit_reply(reason, info), nil
  session.end_step(s)
  if M.is_crash(reason) and (s.client or s.opts.on == "crash") then
    s.state, s.why = "ended", { signal = SIGNALS[reason], cpu = dead_cpu(info, reason) }
    if s.client and s.awaited then s.client:send(session.stop_reply(s)) end
    if not s.client then
      session.say(s, "%s; to look at it: target remote %s", reason, s.address)
    end
    s.awaited = false
    serve_crash(s)
    s.state = "running"
  elseif s.client and FINAL[reason] then
    M.part(s)
    s.state = "running"
  end
end

---The client goes; it is told how the last run ended if it waits for that.
function M.part(s)
  if s.client and s.awaited and s.end_reply then s.client:send(s.end_reply) end
  s.awaited = false
  session.drop(s)
end

return M
