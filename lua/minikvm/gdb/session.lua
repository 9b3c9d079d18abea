-- gdb/session.lua - one VM's debugger: who is connected, whether the guest stands still, and the
-- answers to packets (Debugging with GDB, appendix E).
--
-- serve() is called when something has happened: somebody connected, bytes are there, all vCPUs
-- are outside the guest. It runs on the thread of a vCPU that is outside the guest, or, when the
-- VM does not run, on the script's, and never waits. Threads are vCPUs, from 1; all stop together.

local core = require "minikvm.core"
local monitor = require "minikvm.gdb.monitor"
local registers = require "minikvm.gdb.registers"
local target = require "minikvm.gdb.target"

local M = {}

local PACKET_SIZE <const> = 0x20000 -- of a reply and of what gdb sends (MK_RSP_MOST is twice that)
local AT_ONCE <const> = 64 -- packets between two looks at what else there is to do
local SIGINT <const>, SIGTRAP <const>, SIGTERM <const> = 2, 5, 15
local OK <const>, WRONG <const>, FAULT <const> = "OK", "E16", "E0e" -- EINVAL, EFAULT

-- How a run ended: the signal of a program that ends so.
local SIGNALS <const> = { shutdown = 11, fault = 4, panic = 6, error = 6, forbidden = 6 }

---@class minikvm.gdb.session
---@field vm minikvm.vm
---@field socket userdata
---@field client boolean
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
  return { vm = vm, socket = socket, client = false, state = "running", thread = 1, opts = opts,
           awaited = false, hits = 0, why = { signal = SIGTRAP, cpu = 0 }, points = {}, snapshots = {},
           features = {} }
end

local function say(s, text, ...)
  if s.opts.notify then s.opts.notify(text:format(...)) end
end

local function cpu_count(s)
  local n = 0
  while s.vm.cpu[n] do n = n + 1 end
  return n
end

---The vCPU that packets are about; what KVM told of it is kept until something changes.
local function current(s)
  local number = s.thread - 1
  local cpu = s.vm.cpu[number]
  s.views = s.views or {}
  s.views[number] = s.views[number] or registers.view(cpu)
  return cpu, s.views[number]
end

local function little_endian(digits)
  local bytes = core.unhex(digits)
  return bytes
end

-- ---- stops ----

local function expedited(s)
  local cpu, view = current(s)
  local parts = {}
  for i, register in ipairs(s.description.expedited) do
    local bytes = registers.read(view, cpu, register)
    parts[i] = ("%x:%s;"):format(register.number, core.hex(bytes))
  end
  return table.concat(parts)
end

---What gdb is told of the last stop.
local function stop_reply(s)
  s.thread = s.why.cpu + 1
  return ("T%02xthread:%x;%s%s"):format(s.why.signal, s.thread, s.why.more or "", expedited(s))
end

---The guest's code is for another mode than gdb was told: it cannot learn that but by connecting
---again.
local function note_mode(s)
  local _, view = current(s)
  local now = target.of(view.sregs)
  if s.opts.arch ~= "auto" or now == s.told_mode or s.description.bits == 64 then return end
  s.told_mode = now
  if now ~= "x86-64" then return end
  core.gdb_send(s.socket, "O" .. core.hex("minikvm: the guest is in 64-bit mode now, and gdb was "
    .. "told of " .. s.description.name .. ": 'disconnect', 'target remote' again (the guest stays "
    .. "stopped)\n"))
end

---The step that gdb asked for is over, or is not wanted any more.
local function end_step(s)
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
local function stopped(s)
  local stop = core.last_stop(s.vm)
  if stop and stop.kind == "break" and not stop.handle and s.awaited and not s.interrupted then
    core.hold(s.vm, false) -- met together with another one, and removed meanwhile
    return
  end
  local stepped = s.steps
  end_step(s)
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
  core.gdb_send(s.socket, stop_reply(s))
end

-- ---- the client ----

---The guest goes on, without anybody who debugs it.
local function let_go(s)
  M.remove_points(s)
  end_step(s)
  s.state, s.awaited = "running", false
  core.hold(s.vm, false)
end

local function drop(s)
  core.gdb_drop(s.socket)
  s.client = false
end

---Ends the run, which then does not begin stopped the next time.
local function end_run(s)
  s.vm:stop()
  core.hold(s.vm, false)
end

---The client went without a word.
local function lost(s)
  s.client, s.awaited = false, false
  if s.state == "ended" then return end
  M.remove_points(s)
  local what = s.opts.lost
  say(s, "gdb has gone; %s", what == "continue" and "the guest goes on"
      or what == "stop" and "the run ends"
      or s.state == "running" and "the guest runs" or "the guest stays stopped: connect again")
  if what == "continue" then let_go(s) elseif what == "stop" then end_run(s) end
end

---A new client finds the guest stopped, or waits until it is.
local function welcome(s)
  s.client, s.awaited, s.thread, s.description = true, false, 1, nil
  s.features, s.views = {}, nil
  if s.state == "running" then
    core.hold(s.vm, true)
    s.state = "stopping"
  end
end

---@return boolean came  somebody new did
local function accept(s)
  local who
  repeat
    who = core.gdb_accept(s.socket)
    if who == "refused" then say(s, "a second gdb was sent away: one is connected") end
  until who ~= "refused"
  if who then welcome(s) end
  return who == true
end

-- ---- packets ----

local answer = {} -- by the first letter: function(s, rest) -> reply | nil (none)

---@return minikvm.gdb.description
local function description(s)
  if not s.description then
    local _, view = current(s)
    local name = s.opts.arch ~= "auto" and s.opts.arch or target.of(view.sregs)
    s.description, s.told_mode = target.describe(name), name
  end
  return s.description
end

answer["?"] = function(s)
  description(s)
  return stop_reply(s)
end

answer["!"] = function() return OK end

---H: which thread the packets that follow are about.
answer.H = function(s, rest)
  local kind, id = rest:match "^([gc])(%-?%x+)$"
  if not kind then return WRONG end
  local number = id == "-1" and 0 or tonumber(id, 16)
  if number > cpu_count(s) then return WRONG end
  if kind == "g" then s.thread = number == 0 and s.thread or number end
  if kind == "c" then s.resumes = number > 0 and number or nil end
  return OK
end

answer.T = function(s, rest)
  local number = tonumber(rest, 16)
  return number and number >= 1 and number <= cpu_count(s) and OK or WRONG
end

answer.g = function(s)
  local cpu, view = current(s)
  return registers.read_all(view, cpu, description(s))
end

answer.G = function(s, rest)
  local cpu, view = current(s)
  local bytes = little_endian(rest)
  local ok, done = pcall(registers.write_all, view, cpu, description(s), bytes or "")
  s.views = nil
  return ok and done and OK or WRONG
end

local function find_register(s, digits)
  local number = tonumber(digits, 16)
  return number and description(s).registers[number + 1]
end

answer.p = function(s, rest)
  local register = rest:find "^%x+$" and find_register(s, rest)
  if not register then return WRONG end
  local cpu, view = current(s)
  local bytes = registers.read(view, cpu, register)
  return bytes and core.hex(bytes) or ("x"):rep(2 * register.size)
end

answer.P = function(s, rest)
  local number, digits = rest:match "^(%x+)=(%x+)$"
  local register, bytes = number and find_register(s, number), digits and little_endian(digits)
  if not register or not bytes or #bytes ~= register.size then return WRONG end
  local cpu, view = current(s)
  local ok, done = pcall(registers.write, view, cpu, register, bytes)
  s.views = nil
  return ok and done and OK or WRONG
end

---"address,length" as integers; nil when they are none or more than 64 bits.
local function range_of(text)
  local at, length = text:match "^(%x+),(%x+)$"
  if not at or #at > 16 or #length > 8 then return nil end
  return tonumber("0x" .. at), tonumber(length, 16)
end

answer.m = function(s, rest)
  local at, length = range_of(rest)
  if not at then return WRONG end
  local cpu = current(s)
  local bytes = core.linear_read(cpu, at, math.min(length, PACKET_SIZE // 2))
  return (bytes ~= "" or length == 0) and core.hex(bytes) or FAULT
end

local function write(s, at, length, bytes)
  if not bytes or #bytes ~= length then return WRONG end
  local cpu = current(s)
  return core.linear_write(cpu, at, bytes) and OK or FAULT
end

answer.M = function(s, rest)
  local head, digits = rest:match "^([%x,]+):(%x*)$"
  local at, length = range_of(head or "")
  if not at then return WRONG end
  return write(s, at, length, little_endian(digits))
end

answer.X = function(s, rest)
  local head, bytes = rest:match "^([%x,]+):(.*)$"
  local at, length = range_of(head or "")
  if not at then return WRONG end
  return write(s, at, length, bytes)
end

-- ---- breakpoints and watches ----

---"type,address,kind" as a key of points, and the address; nil when it is none.
local function point_of(rest)
  local kind, at, size = rest:match "^([0-4]),(%x+),(%x+)"
  if not kind or #at > 16 or #size > 8 then return nil end
  local address = tonumber("0x" .. at)
  local key = kind < "2" and "%s,%x" or "%s,%x,%x"
  local bytes = tonumber(size, 16)
  return key:format(kind, address, bytes), kind, address, bytes
end

---@return minikvm.handle? point
---@return string? why
local function insert(s, kind, address, size)
  if kind < "2" then return core.break_at(s.vm, { address = address }) end
  return core.watch_memory(s.vm, { address = address, size = size, read = kind ~= "2",
                                   write = kind ~= "3" })
end

---As gdb inserts them: the same one twice is one.
answer.Z = function(s, rest)
  local key, kind, address, size = point_of(rest)
  if not key or kind >= "2" and (size == 0 or math.ult(address + size - 1, address)) then
    return WRONG
  end
  if s.points[key] then return OK end
  local point, why = insert(s, kind, address, size)
  if not point then return "E." .. why end
  s.points[key] = point
  return OK
end

answer.z = function(s, rest)
  local key = point_of(rest)
  if not key then return WRONG end
  if s.points[key] then s.points[key]:remove() end
  s.points[key] = nil
  return OK
end

-- ---- running ----

---Lets the guest go on; gdb waits for the next stop.
local function go(s)
  if s.state == "ended" then return M.leave(s) end
  s.state, s.awaited, s.views = "running", true, nil
  core.hold(s.vm, false)
end

---One vCPU executes an instruction; the others go on meanwhile or stay.
local function step(s, number, others)
  if s.state == "ended" then return M.leave(s) end
  local begun, why = core.begin_step(s.vm, number - 1, 1)
  if not begun then return "E." .. why end
  s.state, s.awaited, s.views, s.steps = "running", true, nil, number
  if not others then return end
  core.hold(s.vm, false)
  if core.has_stepped(s.vm) then core.hold(s.vm, true) end -- it stopped before they were let go
end

local function set_pc(s, digits)
  if digits == "" then return true end
  local d = description(s)
  local register = d.expedited[1]
  local at = #digits <= 16 and tonumber("0x" .. digits)
  if not at then return false end
  local cpu, view = current(s)
  local ok, done = pcall(registers.write, view, cpu, register,
                         (("<i8"):pack(at)):sub(1, register.size))
  s.views = nil
  return ok and done
end

answer.c = function(s, rest)
  if not rest:find "^%x*$" or not set_pc(s, rest) then return WRONG end
  return go(s)
end

answer.s = function(s, rest)
  if not rest:find "^%x*$" or not set_pc(s, rest) then return WRONG end
  return step(s, s.resumes or s.thread, false)
end

-- With a signal, of which a guest knows none.
answer.C = function(s, rest)
  local at = rest:match "^%x%x;?(%x*)$"
  return at and answer.c(s, at) or WRONG
end

answer.S = function(s, rest)
  local at = rest:match "^%x%x;?(%x*)$"
  return at and answer.s(s, at) or WRONG
end

---What vCont says: by thread "c" or "s", of those that are to do anything; nil when it is wrong.
local function parse_actions(s, rest)
  local actions, default = {}, nil
  for part in rest:gmatch "[^;]+" do
    local letter, id = part:match "^([cCsS])%x*:?(.*)$"
    if not letter then return nil end
    local number = id ~= "" and id ~= "-1" and tonumber(id, 16) or nil
    if number and (number < 1 or number > cpu_count(s)) then return nil end
    if number then
      actions[number] = actions[number] or letter:lower()
    else
      default = default or letter:lower()
    end
  end
  return actions, default
end

local function vcont(s, rest)
  local actions, default = parse_actions(s, rest)
  if not actions or not default and not next(actions) then return WRONG end
  local others, all = default == "c", true
  for number = 1, cpu_count(s) do
    local what = actions[number] or default
    if what == "s" then return step(s, number, others) end
    core.hold_cpu(s.vm, number - 1, what == nil)
  end
  return go(s)
end

-- ---- v, q, Q ----

local function thread_list(s)
  local ids = {}
  for number = 1, cpu_count(s) do ids[number] = ("%x"):format(number) end
  return table.concat(ids, ",")
end

local function part_of(text, range)
  local at, length = range_of(range)
  if not at then return WRONG end
  local part = text:sub(at + 1, at + math.min(length, PACKET_SIZE - 1))
  return (at + #part < #text and "m" or "l") .. part
end

local function memory_map(s)
  local d, _, view = description(s), current(s)
  local paged = ("<i8"):unpack(view.sregs, 225) < 0 or ("<i8"):unpack(view.sregs, 225) >> 31 & 1 == 1
  return target.memory_map(core.regions(s.vm), paged, d.bits)
end

local FEATURES <const> = "PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;"
  .. "qXfer:memory-map:read+;vContSupported+;swbreak+;hwbreak+"

local query = {
  { "^qSupported:?(.*)$", function(s, rest)
    for name in rest:gmatch "([^;]+)%+" do s.features[name] = true end
    return FEATURES:format(PACKET_SIZE)
  end },
  { "^QStartNoAckMode$", function(s)
    core.gdb_send(s.socket, OK)
    core.gdb_acks(s.socket, false)
  end },
  { "^qXfer:features:read:target%.xml:(.*)$", function(s, range)
    return part_of(description(s).xml, range)
  end },
  { "^qXfer:features:read:", function() return "E00" end },
  { "^qXfer:memory%-map:read::(.*)$", function(s, range) return part_of(memory_map(s), range) end },
  { "^qfThreadInfo$", function(s) return "m" .. thread_list(s) end },
  { "^qsThreadInfo$", function() return "l" end },
  { "^qThreadExtraInfo,(%x+)$", function(s, id)
    local number = tonumber(id, 16)
    if number < 1 or number > cpu_count(s) then return WRONG end
    return core.hex("cpu " .. number - 1)
  end },
  { "^qC$", function(s) return ("QC%x"):format(s.thread) end },
  { "^qAttached", function() return "1" end },
  { "^qSymbol", function() return OK end },
  { "^qRcmd,(%x*)$", function(s, digits)
    local text = core.unhex(digits)
    if not text then return WRONG end
    local output = monitor.run(s, text, current(s))
    s.views = nil
    for at = 1, #output, PACKET_SIZE // 4 do
      core.gdb_send(s.socket, "O" .. core.hex(output:sub(at, at + PACKET_SIZE // 4 - 1)))
    end
    return OK
  end },
  { "^vCont%?$", function() return "vCont;c;C;s;S" end },
  { "^vCont;(.*)$", vcont },
  { "^vKill;", function(s)
    core.gdb_send(s.socket, OK)
    return answer.k(s)
  end },
}

local function ask(s, packet)
  for _, entry in ipairs(query) do
    local found = packet:match(entry[1])
    if found then return entry[2](s, found) end
  end
  return ""
end

answer.q = function(s, rest) return ask(s, "q" .. rest) end
answer.Q = function(s, rest) return ask(s, "Q" .. rest) end
answer.v = function(s, rest) return ask(s, "v" .. rest) end

answer.D = function(s)
  core.gdb_send(s.socket, OK)
  drop(s)
  if s.state == "ended" then return M.leave(s) end
  let_go(s)
end

answer.k = function(s)
  drop(s)
  if s.state == "ended" then return M.leave(s) end
  M.remove_points(s)
  s.state = "running"
  end_run(s)
end

local function serve_packet(s, packet)
  local fn = answer[packet:sub(1, 1)]
  local ok, reply = true, ""
  if fn then ok, reply = pcall(fn, s, packet:sub(2)) end
  if not ok then
    if s.vm.state == "closed" then return end
    reply = "E.minikvm: " .. tostring(reply):gsub("\n.*", "")
  end
  if reply and s.client then core.gdb_send(s.socket, reply) end
end

local function serve_stopped(s, event, packet)
  if event == "packet" then
    serve_packet(s, packet)
  elseif event == "too long" then
    core.gdb_send(s.socket, ("E.a packet has at most %d bytes"):format(2 * PACKET_SIZE))
  elseif event == "damaged" then
    core.gdb_send(s.socket, "E.the sum of the packet is wrong")
  end
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
    local event, packet = core.gdb_receive(s.socket, quiet)
    if not event then return end
    if event == "gone" then return lost(s) end
    if quiet then serve_running(s, event) else serve_stopped(s, event, packet) end
    if not s.client or s.vm.state == "closed" then return end
  end
  core.gdb_again(s.socket)
end

---Something has happened.
---@param s minikvm.gdb.session
function M.serve(s)
  if s.closed then return end
  local done = not s.steps or core.has_stepped(s.vm) -- asked first: then it is back outside
  local held = done and core.held(s.vm)
  if held and (s.state == "running" or s.state == "stopping") then stopped(s) end
  if s.client then serve_client(s) end
  if not s.closed and s.vm.state ~= "closed" and accept(s) then M.serve(s) end
end

---Breakpoints and watches that gdb has set go.
function M.remove_points(s)
  for key, point in pairs(s.points) do
    s.points[key] = nil
    point:remove()
  end
end

-- ---- the end of a run ----

---What gdb is told of a run's end.
local function exit_reply(reason, info)
  if reason == "exit" then return ("W%02x"):format((info.code or 0) & 0xff) end
  if reason == "halt" then return "W00" end
  return ("X%02x"):format(SIGNALS[reason] or SIGTERM)
end

---gdb has seen what there is to see of a VM that has ended.
function M.leave(s)
  if s.client then
    core.gdb_send(s.socket, s.end_reply)
    drop(s)
  end
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
local function look(s)
  local seen = s.client
  repeat
    M.serve(s)
    seen = seen or s.client
    if s.closed or seen and not s.client then break end
    core.wait_attention(s.vm)
  until false
end

---The VM has ended: who debugs it is told. Of a crash it may look at what is left; the script waits
---for that. On the script's thread.
---@param s minikvm.gdb.session
---@param reason string
---@param info table
function M.finish(s, reason, info)
  s.end_reply, s.views = exit_reply(reason, info), nil
  end_step(s)
  if M.is_crash(reason) and (s.client or s.opts.on == "crash") then
    s.state, s.why = "ended", { signal = SIGNALS[reason], cpu = dead_cpu(info, reason) }
    if s.client and s.awaited then core.gdb_send(s.socket, stop_reply(s)) end
    if not s.client then say(s, "%s; to look at it: target remote %s", reason, s.address) end
    s.awaited = false
    look(s)
  elseif s.client then
    if s.awaited then core.gdb_send(s.socket, s.end_reply) end
    drop(s)
  end
  s.state, s.awaited = "running", false
end

return M
