-- net/capture.lua - frames with the time at which they passed, as a file that tcpdump and Wireshark
-- read: pcap, version 2.4 (draft-ietf-opsawg-pcap), of Ethernet, in nanoseconds.
--
-- They are kept in memory, the newest of them when they are more than the limit, and written when
-- the script says so. Any thread that holds the Lua lock.

local class = require "minikvm.class"
local core = require "minikvm.core"
local options = require "minikvm.options"
local strict = require "minikvm.strict"

local M = {}

local MAGIC_NS <const>, ETHERNET <const>, SNAPLEN <const> = 0xa1b23c4d, 1, 262144
local RECORD <const> = 16 -- bytes before a frame
local LIMIT <const> = 64 << 20

---@class minikvm.capture
local CAPTURE <const> = "minikvm.capture"
local Capture, meta = class(CAPTURE)
strict.seal(Capture, meta, "capture",
            { "lost", "records", "first", "last", "held", "limit", "zero" })

local function forget_oldest(c)
  c.held = c.held - #c.records[c.first]
  c.records[c.first] = nil
  c.first, c.lost = c.first + 1, c.lost + 1
end

---What the file has room for: until 2106.
local function stamp(value)
  if type(value) == "number" and value >= 0 and value < 1 << 32 then return value end
  return nil, ("expected seconds since 1970, less than 4294967296, got %s"):format(tostring(value))
end

---Adds a frame.
---@param frame string  from its destination address on
---@param seconds? number  when it passed, since 1970, less than 2^32; now by default
function Capture:add(frame, seconds)
  options.self("capture:add", self, CAPTURE)
  options.argument("capture:add", "frame", frame, "string")
  if seconds ~= nil then options.argument("capture:add", "seconds", seconds, stamp) end
  seconds = seconds or self.zero + core.now()
  local length = math.min(#frame, SNAPLEN)
  local whole = math.floor(seconds)
  self.last = self.last + 1
  self.records[self.last] = ("<I4I4I4I4"):pack(whole & 0xffffffff,
    math.floor((seconds - whole) * 1e9), length, #frame & 0xffffffff) .. frame:sub(1, length)
  self.held = self.held + RECORD + length
  while self.held > self.limit do forget_oldest(self) end
end

---How many frames there are.
---@return integer
function Capture:count()
  options.self("capture:count", self, CAPTURE)
  return self.last - self.first + 1
end

---The file's bytes.
---@return string
function Capture:bytes()
  options.self("capture:bytes", self, CAPTURE)
  return ("<I4I2I2I4I4I4I4"):pack(MAGIC_NS, 2, 4, 0, 0, SNAPLEN, ETHERNET)
    .. table.concat(self.records, "", self.first, self.last)
end

---Writes the file, as a whole: one that was there stays as it was until that is done.
---@param path string
---@return boolean? done
---@return string? why
---@return string? code
function Capture:save(path)
  options.self("capture:save", self, CAPTURE)
  options.argument("capture:save", "path", path, "text")
  return core.write_file(path, self:bytes())
end

local OPTIONS <const> = options.declare("net.capture", { limit = "size" })

---@param opts? { limit: integer|string? }  limit: bytes that it holds ("64M")
---@return minikvm.capture
function M.new(opts)
  local o = options.check("net.capture", opts, OPTIONS)
  return setmetatable({ records = {}, first = 1, last = 0, held = 0, lost = 0,
                        limit = o.limit or LIMIT, zero = os.time() - core.now() }, meta)
end

---For options: a capture.
M.check = options.object(CAPTURE, "a capture of net.capture()")

return M
