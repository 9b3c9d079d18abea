-- spool.lua - a file that records are appended to while something else goes on, such as a trace.
--
-- Nobody waits for it. What a FIFO, a terminal or a socket does not take at once is kept, up to
-- ROOM bytes; a record that has no room there is lost, and counted. A regular file is whole after
-- every flush: records, then a tail (of JSON: its closing brackets), which the next ones overwrite;
-- a flush that fails, because the disk is full, is undone.

local class = require "minikvm.class"
local core = require "minikvm.core"

local M = {}

local ROOM <const> = 1 << 20
local FULL <const> = 65536 -- bytes that are worth a write
local OLD <const> = 0.2 -- seconds after which fewer are
local LAST_WAIT <const> = 1 -- seconds for a reader, at the end

---@class minikvm.spool  { stream= (until it is closed), whole=, tail=, at= (end of the records in a
---regular file), bytes=, sent= (what is on its way, and how much of it has gone), records=, count=
---(what follows that), pending= (bytes of all these), waiting= (records among them), written=,
---lost=, error=, last= (time of the last flush) }
local Spool, meta = class "minikvm.spool"

local function new(stream, whole, tail)
  return setmetatable({ stream = stream, whole = whole, tail = tail, at = 0, bytes = "", sent = 0,
                        records = {}, count = 0, pending = 0, waiting = 0, written = 0, lost = 0,
                        last = core.now() }, meta)
end

---What follows is on its way.
local function take_records(self)
  self.bytes, self.sent = table.concat(self.records, "", 1, self.count), 0
  self.records, self.count = {}, 0
end

---In one write.
local function append_whole(self)
  take_records(self)
  local done, why, code = self.stream:replace(self.at, self.bytes .. self.tail, self.tail)
  if done then self.at = self.at + #self.bytes end
  self.bytes, self.pending = "", 0
  return why, code
end

---All that is taken at once.
local function append_some(self)
  while self.pending > 0 do
    if self.sent == #self.bytes then take_records(self) end
    local n, why, code = self.stream:write(self.bytes, self.sent)
    if not n then
      self.pending = 0
      return why, code
    elseif n == 0 then
      return
    end
    self.sent, self.pending = self.sent + n, self.pending - n
  end
end

---Writes what is pending, as far as it is taken.
---@return boolean  nothing is pending any more
function Spool:flush()
  self.last = core.now()
  if not self.error and self.stream and self.pending > 0 then
    self.error, self.code = (self.whole and append_whole or append_some)(self)
    if self.error then self.lost = self.lost + self.waiting
    elseif self.pending == 0 then self.written = self.written + self.waiting end
    if self.pending == 0 then self.waiting = 0 end
  end
  return self.pending == 0
end

---Appends a record.
---@param bytes string
---@return boolean  it is not lost
function Spool:put(bytes)
  if self.pending + #bytes > ROOM then self:flush() end
  if self.error or not self.stream or self.pending + #bytes > ROOM then
    self.lost = self.lost + 1
    return false
  end
  self.count = self.count + 1
  self.records[self.count] = bytes
  self.pending, self.waiting = self.pending + #bytes, self.waiting + 1
  if self.pending >= FULL or core.now() - self.last > OLD then self:flush() end
  return true
end

---Adds what is no record.
local function add(self, bytes)
  self.count = self.count + 1
  self.records[self.count] = bytes
  self.pending = self.pending + #bytes
end

---Writes what is pending, and the tail; a reader gets up to a second for it.
function Spool:close()
  if not self.stream then return end
  local last = core.now() + LAST_WAIT
  if not self.whole then add(self, self.tail) end
  while not self:flush() and not self.error and core.now() < last do
    self.stream:wait(last - core.now())
  end
  if self.pending > 0 then self.lost = self.lost + self.waiting end
  local _, why = self.stream:close()
  self.error, self.stream = self.error or why, nil
end

meta.__gc = Spool.close

---Closes it; what is pending is not written.
function Spool:discard()
  if self.stream then self.stream:close() end
  self.stream = nil
end

---@return integer  records that are written or on their way
---@return integer  that are lost
---@return string?  why nothing is written any more
function Spool:counts()
  return self.written + self.waiting, self.lost, self.error
end

---Creates or empties a file, which then has `head` and `tail`. A FIFO has to have a reader.
---@param path string
---@param head string
---@param tail string
---@return minikvm.spool?
---@return string? why
---@return string? code
function M.open(path, head, tail)
  local stream, whole, code = core.open_stream(path)
  if not stream then return nil, whole, code end
  local self = new(stream, whole, tail)
  if head .. tail ~= "" then
    add(self, head)
    self.error, self.code = (whole and append_whole or append_some)(self)
  end
  if not self.error then return self end
  self:discard()
  return nil, ("%s: %s"):format(path, self.error), self.code
end

---The same on standard output, which stays open.
---@return minikvm.spool?
---@return string? why
---@return string? code
function M.stdout()
  local stream, why, code = core.stdout_stream()
  if not stream then return nil, why, code end
  return new(stream, false, "")
end

return M
