-- net.lua - virtio's network card: frames to and from a script, or between the VMs of one process.
--
--   local card = vm.pci:attach(net.new{ on_frame = function(d, frame) net.send(d, frame) end })
--
--   local hub = net.hub()                       -- the same wire for each
--   one.pci:attach(net.new{ hub = hub })
--   other.pci:attach(net.new{ hub = hub })
--
-- Virtual I/O Device 1.2, 5.1, with the features MAC and STATUS. A frame that nobody takes at once,
-- for want of a buffer or of a driver, is dropped and counted. Handlers run on the thread of the
-- vCPU that sends, under the Lua lock.

local kvm = require "minikvm"
local options = require "minikvm.options"

local M = {}

local RECEIVE <const> = 0 -- the queue; the other one sends
local HEADER <const>, LEAST <const>, MOST <const> = 12, 14, 65535 -- bytes
local ONE_BUFFER <const> = ("\0"):rep(10) .. "\1\0"
local MAC <const>, STATUS <const>, LINK_UP <const> = 1 << 5, 1 << 16, 1

-- ---- frames ----

---Hands a frame to the guest.
---@param d minikvm.device
---@param frame string  from its destination address on, without a checksum; 14 to 65535 bytes
---@return boolean taken  false when it was dropped
function M.send(d, frame)
  options.argument("net.send", "frame", frame, "string")
  local buffer = d.own.free[1]
  while buffer and buffer:is_stale() do
    table.remove(d.own.free, 1)
    buffer = d.own.free[1]
  end
  if not buffer or #frame < LEAST or #frame > MOST or HEADER + #frame > buffer.writable then
    d.state.dropped = d.state.dropped + 1
    return false
  end
  table.remove(d.own.free, 1)
  assert(buffer:write(ONE_BUFFER .. frame))
  buffer:done()
  d.state.received = d.state.received + 1
  return true
end

---A frame of the guest's.
local function take(d, buffer, on_frame)
  if buffer.readable < HEADER then return buffer:reject "a frame has a header of 12 bytes" end
  buffer:read(HEADER)
  local frame = buffer:read(MOST + 1)
  buffer:done()
  if #frame < LEAST or #frame > MOST then
    d.state.dropped = d.state.dropped + 1
  else
    d.state.sent = d.state.sent + 1
    on_frame(d, frame)
  end
end

-- ---- hubs ----

---A wire between cards, of any VMs of this script: what one sends, all others get.
---@return table<minikvm.device, true>
function M.hub() return setmetatable({}, { __mode = "k" }) end

local function to_others(hub)
  return function(d, frame)
    for other in pairs(hub) do
      if other ~= d and other.vm.state ~= "closed" then M.send(other, frame) end
    end
  end
end

-- ---- the card ----

local function check_mac(value)
  local bytes = {}
  for pair in (type(value) == "string" and value or ""):gmatch "%x%x" do
    bytes[#bytes + 1] = string.char(tonumber(pair, 16))
  end
  if #bytes == 6 and value:find "^%x%x:%x%x:%x%x:%x%x:%x%x:%x%x$" then return table.concat(bytes) end
  return nil, ("expected an address such as \"52:54:00:00:00:01\", got %s"):format(tostring(value))
end

local function check_hub(value)
  if type(value) == "table" then return value end
  return nil, "expected a hub of net.hub()"
end

local OPTIONS <const> = { on_frame = "function", hub = check_hub, mac = check_mac }

---Describes it, for vm.pci:attach(). d.state has `sent`, `received` (by the guest) and `dropped`.
---  on_frame  function(device, frame): the guest has sent one
---  hub       or the wire that it is on, of net.hub()
---  mac       its address, "52:54:00:12:34:56" by default
---@param opts? { on_frame: function?, hub: table?, mac: string? }
---@return minikvm.definition
function M.new(opts)
  local o = options.check("net.new", opts, OPTIONS)
  local on_frame = o.on_frame or o.hub and to_others(o.hub) or function() end
  local mac = o.mac or "\x52\x54\0\x12\x34\x56"
  return kvm.virtio{
    name = "net", id = 1, class = 0x020000, queues = 2, features = MAC | STATUS,
    config = mac .. ("<I2"):pack(LINK_UP),
    on_buffer = function(d, queue, buffer)
      if queue == RECEIVE then table.insert(d.own.free, buffer) else take(d, buffer, on_frame) end
    end,
    on_reset = function(d) d.own.free = {} end,
    reset = function(d)
      d.own.free = {}
      d.state.sent, d.state.received, d.state.dropped = 0, 0, 0
    end,
    load = function(d, state) d.state, d.own.free = state, {} end,
    attach = function(d) if o.hub then o.hub[d] = true end end,
    detach = function(d) if o.hub then o.hub[d] = nil end end,
  }
end

return M
