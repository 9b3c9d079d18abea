-- gdb/init.lua - vm:gdb(): a VM that gdb can connect to, and what its runs ask of that.

local attend = require "minikvm.vm.attend"
local class = require "minikvm.class"
local core = require "minikvm.core"
local options = require "minikvm.options"
local server = require "minikvm.gdb.server"
local session = require "minikvm.gdb.session"
local strict = require "minikvm.strict"

local M = {}

---By VM, its session; weak, so that a VM takes it along.
local sessions = setmetatable({}, { __mode = "k" })

---@class minikvm.gdb  where gdb connects
local KIND <const> = "minikvm.gdb"
local Gdb, meta = class(KIND)
strict.seal(Gdb, meta, "gdb", { "address", "port", "connected", "hits" })
local held = setmetatable({}, { __mode = "k" }) ---@type table<minikvm.gdb, minikvm.gdb.session>

---"1234", "host:1234", "[::1]:1234", "*:1234", "unix:/path".
---@param text string
---@return { host: string?, where: string, shown: string }?  nil, why
function M.parse(text)
  local path = text:match "^unix:(.+)$"
  if path then return { where = path, shown = path } end
  local host, port = text:match "^%[([^%]]+)%]:(%d+)$"
  if not host then host, port = text:match "^([^:%[%]]+):(%d+)$" end
  if not host then host, port = "127.0.0.1", text:match "^:?(%d+)$" end
  local number = tonumber(port)
  if not number or number > 65535 then
    return nil, ('expected a port (1234, HOST:1234) or "unix:PATH", got %q'):format(text)
  end
  return { host = host, where = port, shown = host:find ":" and "[" .. host .. "]" or host }
end

local function address(value)
  if math.type(value) == "integer" then value = tostring(value) end
  if type(value) ~= "string" or value:find("\0", 1, true) then
    return nil, ("expected a port or text, got %s"):format(tostring(value))
  end
  return M.parse(value)
end

local OPTIONS <const> = options.declare("vm:gdb", {
  at = address, stop = "boolean", on = { "now", "crash" }, lost = { "hold", "continue", "stop" },
  arch = { "auto", "i8086", "i386", "x86-64" }, monitor = "boolean", notify = "function",
})

---@param self minikvm.vm
---@param opts table?
---@return minikvm.gdb? gdb
---@return string? why
---@return string? code
function M.open(self, opts)
  local o = options.check("vm:gdb", opts, OPTIONS)
  if sessions[self] and not sessions[self].closed then
    core.blame(("vm:gdb: vm %q has a gdb already: remove() that first"):format(self.name))
  end
  local at = o.at or M.parse "0"
  o.lost, o.arch, o.on = o.lost or "hold", o.arch or "auto", o.on or "now"
  o.monitor = o.monitor ~= false
  local socket, port, code = core.open_socket(self, at.host, at.where)
  if not socket then return nil, port, code end
  local s = session.new(self, socket, o)
  s.port = at.host and port or nil
  s.address = s.port and ("%s:%d"):format(at.shown, port) or at.shown
  sessions[self] = s
  attend.set(self, "gdb", function() server.serve(s) end)
  socket:watch(false, 0)
  if o.on == "now" and o.stop ~= false then
    core.hold(self, true)
    s.state = "stopping"
  end
  local gdb = setmetatable({}, meta)
  held[gdb] = s
  return gdb
end

local FIELDS <const> = {
  address = function(s) return s.address end,
  port = function(s) return s.port end,
  connected = function(s) return s.client ~= nil end,
  hits = function(s) return s.hits end,
}

function meta.__index(self, key)
  local s = held[self]
  if FIELDS[key] then return FIELDS[key](s) end
  return Gdb[key]
end

---Nobody can connect any more; who is connected goes, and the guest goes on.
function Gdb:remove()
  options.self("gdb:remove", self, KIND)
  local s = held[self]
  if s.closed then return end
  s.closed = true
  if s.vm.state == "closed" then return end
  session.remove_points(s)
  if s.vm.state == "ended" then server.part(s) else session.drop(s) end
  s.socket:close()
  attend.set(s.vm, "gdb", nil)
  core.hold(s.vm, false)
  sessions[s.vm] = nil
end

meta.__close = Gdb.remove

function meta:__tostring()
  local s = held[self]
  return ("%s %s%s"):format(KIND, s.address, s.closed and " (removed)" or "")
end

---For vm:run() and vm:wait(): the VM has ended.
---@param self minikvm.vm
---@param reason string?
---@param info table|string
function M.ended(self, reason, info)
  local s = sessions[self]
  if s and not s.closed and reason and type(info) == "table" and self.state == "ended" then
    server.finish(s, reason, info)
  end
end

return M
