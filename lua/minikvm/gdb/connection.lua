-- gdb/connection.lua - the packets of one client: "$data#sum" as bytes come, and for sending
-- (Debugging with GDB, appendix E.1).
--
-- What comes is a stranger's: a packet that is too long is dropped to its end and reported. A
-- client that does not read its answers is not listened to.

local core = require "minikvm.core"

local M = {}

M.MOST = 0x40000 -- bytes between '$' and '#'
local REST <const> = 0.001 -- s between two looks at a client while the guest runs

---@class minikvm.gdb.connection
---@field socket userdata
---@field acks boolean  the protocol's '+' and '-'
---@field gone boolean?  it is not there any more
---@field out string  what is on its way; as it was sent last
---@field sent integer  so many bytes of it have gone
---@field chunk string  what came; it is read
---@field at integer  from there on
---@field state fun(c: minikvm.gdb.connection): string?, string?
local Connection = {}
Connection.__index = Connection

-- ---- what comes ----

local outside, inside, sum

local function begin(c)
  c.state, c.pieces, c.length, c.sum = inside, {}, 0, ""
end

local EVENTS <const> = { ["\3"] = "interrupt", ["-"] = "again" }

---Between packets: acknowledgements and noise are passed over.
function outside(c)
  local at = c.chunk:find("[$\3-]", c.at) or #c.chunk
  local byte = c.chunk:sub(at, at)
  c.at = at + 1
  if byte == "$" then return begin(c) end
  return EVENTS[byte]
end

function inside(c)
  local at = c.chunk:find("[$#]", c.at)
  local piece = c.chunk:sub(c.at, (at or 0) - 1)
  c.at = (at or #c.chunk) + 1
  c.length = c.length + #piece
  if c.length <= M.MOST then c.pieces[#c.pieces + 1] = piece end
  if not at then return end
  if c.chunk:byte(at) == 36 then return begin(c) end -- '$': the rest of the one before was lost
  c.state = sum
end

local function complete(c)
  c.state = outside
  if c.length > M.MOST then return "too long" end
  local data = table.concat(c.pieces)
  if c.sum:lower() ~= ("%02x"):format(core.rsp_sum(data)) then return "damaged" end
  return "packet", (data:gsub("}(.?)", function(byte)
    return byte ~= "" and string.char(byte:byte() ~ 0x20) or ""
  end))
end

function sum(c)
  local byte = c.chunk:sub(c.at, c.at)
  c.at = c.at + 1
  if byte == "$" then return begin(c) end -- as inside
  c.sum = c.sum .. byte
  if #c.sum == 2 then return complete(c) end
end

---The next event of the bytes that are there; nil: none.
local function parse(c)
  while c.at <= #c.chunk do
    local event, data = c.state(c)
    if event then return event, data end
  end
end

-- ---- what goes ----

---Sends what is left; whether all of it has gone.
local function flush(c)
  if c.sent < #c.out then
    local count = c.socket:send(c.out, c.sent)
    c.gone = c.gone or not count
    c.sent = c.sent + (count or 0)
  end
  return c.sent == #c.out
end

---Sends a packet. What does not go at once goes when receive() is called.
---@param data string
function Connection:send(data)
  if flush(self) then self.out, self.sent = "", 0 end -- notices may be on their way
  self.out = self.out .. core.rsp_encode(data)
  flush(self)
end

---Acknowledges what came; whether the server hears of it.
local function is_heard(c, event)
  if event == "interrupt" then return true end
  if event == "again" then
    if c.acks then c.sent = 0 end
    return false
  end
  local well = event ~= "damaged"
  if c.acks then c.socket:send(well and "+" or "-", 0) end -- all has gone, so there is room
  return well or not c.acks
end

-- ---- both ----

---The next event. While the guest runs only an interrupt counts, and a chunk at a time is enough.
---  nil: nothing yet, and the VM is asked for attention when there is; while the guest runs that
---  is after a while.
---@param runs boolean
---@return "packet"|"interrupt"|"damaged"|"too long"|"gone"|nil event
---@return string? data
function Connection:receive(runs)
  local filled = false
  while flush(self) do
    if self.at > #self.chunk then
      if filled then break end
      local bytes = self.socket:receive()
      self.gone = self.gone or bytes == false
      if not bytes then break end
      self.chunk, self.at, filled = bytes, 1, runs
    end
    local event, data = parse(self)
    if event and is_heard(self, event) and (not runs or event == "interrupt") then
      return event, data
    end
  end
  if self.gone then return "gone" end
  self.socket:watch(self.sent < #self.out, runs and REST or 0)
end

function Connection:close()
  flush(self)
  self.socket:close()
end

---@param socket userdata
---@return minikvm.gdb.connection
function M.new(socket)
  return setmetatable({ socket = socket, acks = true, out = "", sent = 0, chunk = "", at = 1,
                        state = outside }, Connection)
end

return M
