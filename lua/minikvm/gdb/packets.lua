-- gdb/packets.lua - the packets that gdb sends to a guest that stands still, and the answers
-- (Debugging with GDB, appendix E.2 to E.4).

local connection = require "minikvm.gdb.connection"
local core = require "minikvm.core"
local monitor = require "minikvm.gdb.monitor"
local registers = require "minikvm.gdb.registers"
local session = require "minikvm.gdb.session"
local target = require "minikvm.gdb.target"

local M = {}

local PACKET_SIZE <const> = 0x20000 -- of a reply and of what gdb sends
local OK <const>, WRONG <const>, FAULT <const> = "OK", "E16", "E0e" -- EINVAL, EFAULT

local answer = {} -- by the first letter: function(s, rest) -> reply | nil (none)

answer["?"] = function(s)
  session.description(s)
  return session.stop_reply(s)
end

answer["!"] = function() return OK end

---The thread of this number, in hexadecimal digits; nil: there is none.
local function thread_of(s, digits)
  local number = digits:find "^%x+$" and tonumber(digits, 16)
  return number and number >= 1 and number <= session.cpu_count(s) and number or nil
end

---H: which thread the packets that follow are about; 0 or -1: any.
answer.H = function(s, rest)
  local kind, id = rest:match "^([gc])(%-?%x+)$"
  if not kind then return WRONG end
  local number = (id == "-1" or id == "0") and 0 or thread_of(s, id)
  if not number then return WRONG end
  if kind == "g" then s.thread = number == 0 and s.thread or number end
  if kind == "c" then s.resumes = number > 0 and number or nil end
  return OK
end

answer.T = function(s, rest) return thread_of(s, rest) and OK or WRONG end

answer.g = function(s)
  local cpu, view = session.current(s)
  return registers.read_all(view, cpu, session.description(s))
end

answer.G = function(s, rest)
  local cpu, view = session.current(s)
  local bytes = core.unhex(rest)
  local ok, done = pcall(registers.write_all, view, cpu, session.description(s), bytes or "")
  s.views = nil
  return ok and done and OK or WRONG
end

local function find_register(s, digits)
  local number = tonumber(digits, 16)
  return number and session.description(s).registers[number + 1]
end

answer.p = function(s, rest)
  local register = rest:find "^%x+$" and find_register(s, rest)
  if not register then return WRONG end
  local cpu, view = session.current(s)
  local bytes = registers.read(view, cpu, register)
  return bytes and core.hex(bytes) or ("x"):rep(2 * register.size)
end

answer.P = function(s, rest)
  local number, digits = rest:match "^(%x+)=(%x+)$"
  local register, bytes = number and find_register(s, number), digits and core.unhex(digits)
  if not register or not bytes or #bytes ~= register.size then return WRONG end
  local cpu, view = session.current(s)
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
  local cpu = session.current(s)
  local bytes = core.linear_read(cpu, at, math.min(length, PACKET_SIZE // 2))
  return (bytes ~= "" or length == 0) and core.hex(bytes) or FAULT
end

local function write(s, at, length, bytes)
  if not bytes or #bytes ~= length then return WRONG end
  local cpu = session.current(s)
  return core.linear_write(cpu, at, bytes) and OK or FAULT
end

answer.M = function(s, rest)
  local head, digits = rest:match "^([%x,]+):(%x*)$"
  local at, length = range_of(head or "")
  if not at then return WRONG end
  return write(s, at, length, core.unhex(digits))
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

local function set_pc(s, digits)
  if digits == "" then return true end
  local d = session.description(s)
  local register = d.expedited[1]
  local at = #digits <= 16 and tonumber("0x" .. digits)
  if not at then return false end
  local cpu, view = session.current(s)
  local ok, done = pcall(registers.write, view, cpu, register,
                         (("<i8"):pack(at)):sub(1, register.size))
  s.views = nil
  return ok and done
end

answer.c = function(s, rest)
  if not rest:find "^%x*$" or not set_pc(s, rest) then return WRONG end
  return session.go(s)
end

answer.s = function(s, rest)
  if not rest:find "^%x*$" or not set_pc(s, rest) then return WRONG end
  return session.step(s, s.resumes or s.thread, false)
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
    local number = thread_of(s, id)
    if not number and id ~= "" and id ~= "-1" then return nil end
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
  local others = default == "c"
  for number = 1, session.cpu_count(s) do
    local what = actions[number] or default
    if what == "s" then return session.step(s, number, others) end
    core.hold_cpu(s.vm, number - 1, what == nil)
  end
  return session.go(s)
end

-- ---- v, q, Q ----

local function thread_list(s)
  local ids = {}
  for number = 1, session.cpu_count(s) do ids[number] = ("%x"):format(number) end
  return table.concat(ids, ",")
end

local function part_of(text, range)
  local at, length = range_of(range)
  if not at then return WRONG end
  local part = text:sub(at + 1, at + math.min(length, PACKET_SIZE - 1))
  return (at + #part < #text and "m" or "l") .. part
end

local function memory_map(s)
  local d, _, view = session.description(s), session.current(s)
  local paged = ("<i8"):unpack(view.sregs, 225) >> 31 & 1 == 1 -- CR0.PG
  return target.memory_map(s.vm.memory:regions(), paged, d.bits)
end

local FEATURES <const> = "PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;"
  .. "qXfer:memory-map:read+;vContSupported+;swbreak+;hwbreak+"

local query = {
  { "^qSupported:?(.*)$", function(s, rest)
    for name in rest:gmatch "([^;]+)%+" do s.features[name] = true end
    return FEATURES:format(PACKET_SIZE)
  end },
  { "^QStartNoAckMode$", function(s)
    s.client:send(OK)
    s.client.acks = false
  end },
  { "^qXfer:features:read:target%.xml:(.*)$", function(s, range)
    return part_of(session.description(s).xml, range)
  end },
  { "^qXfer:features:read:", function() return "E00" end },
  { "^qXfer:memory%-map:read::(.*)$", function(s, range) return part_of(memory_map(s), range) end },
  { "^qfThreadInfo$", function(s) return "m" .. thread_list(s) end },
  { "^qsThreadInfo$", function() return "l" end },
  { "^qThreadExtraInfo,(%x+)$", function(s, id)
    local number = thread_of(s, id)
    return number and core.hex("cpu " .. number - 1) or WRONG
  end },
  { "^qC$", function(s) return ("QC%x"):format(s.thread) end },
  { "^qAttached", function() return "1" end },
  { "^qSymbol", function() return OK end },
  { "^qRcmd,(%x*)$", function(s, digits)
    local text = core.unhex(digits)
    if not text then return WRONG end
    local output = monitor.run(s, text, session.current(s))
    s.views = nil
    for at = 1, #output, PACKET_SIZE // 4 do
      s.client:send("O" .. core.hex(output:sub(at, at + PACKET_SIZE // 4 - 1)))
    end
    return OK
  end },
  { "^vCont%?$", function() return "vCont;c;C;s;S" end },
  { "^vCont;(.*)$", vcont },
  { "^vKill;", function(s)
    s.client:send(OK)
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
  s.client:send(OK)
  session.drop(s)
  if s.state == "ended" then return session.leave(s) end
  session.let_go(s)
end

answer.k = function(s)
  session.drop(s)
  if s.state == "ended" then return session.leave(s) end
  session.remove_points(s)
  s.state = "running"
  session.end_run(s)
end

---Answers a packet.
---@param s minikvm.gdb.session
---@param packet string
function M.serve(s, packet)
  local fn = answer[packet:sub(1, 1)]
  local ok, reply = true, ""
  if fn then ok, reply = pcall(fn, s, packet:sub(2)) end
  if not ok then
    if s.vm.state == "closed" then return end
    reply = "E.minikvm: " .. tostring(reply):gsub("\n.*", "")
  end
  if reply and s.client then s.client:send(reply) end
end

---What else may come instead of one.
---@param event "damaged"|"too long"
function M.refuse(s, event)
  s.client:send(event == "damaged" and "E.the sum of the packet is wrong"
    or ("E.a packet has at most %d bytes"):format(connection.MOST))
end

return M
