-- net.lua - virtio's network card: frames to and from a script, or between the VMs of one process.
--
--   local card = vm.pci:attach(net.new{ on_frame = function(d, frame) net.send(d, frame) end })
--
--   local hub = net.hub()                       -- the same wire for each
--   one.pci:attach(net.new{ hub = hub })
--   other.pci:attach(net.new{ hub = hub })
--
-- Virtual I/O Device 1.2, 5.1, with the features MAC, STATUS and MTU. Frames that come before their
-- time, or before the driver has a buffer for them, wait in d.state, QUEUE of them at most; they
-- are in snapshots. What finds no place there, no driver, or a buffer too short is dropped and
-- counted. Handlers run on the thread of the vCPU that sends, under the Lua lock.

local captures = require "minikvm.net.capture"
local core = require "minikvm.core"
local device = require "minikvm.device"
local hubs = require "minikvm.net.hub"
local kvm = require "minikvm"
local options = require "minikvm.options"

local M = {}

local RECEIVE <const> = 0 -- the queue; the other one sends
local HEADER <const>, LEAST <const>, MOST <const> = 12, 14, 65535 -- bytes
local ONE_BUFFER <const> = ("\0"):rep(10) .. "\1\0"
local MTU <const>, MAC <const>, STATUS <const>, LINK_UP <const> = 1 << 3, 1 << 5, 1 << 16, 1
local DRIVER_OK <const> = 4
local QUEUE <const> = 256 -- frames that wait

-- d.own: `free`, the driver's buffers; `hub`; `tap`, `tap_name`, and whether it is `watched`

-- ---- frames for the guest ----

local function count(d, what) d.state[what] = d.state[what] + 1 end

local function drop(d)
  count(d, "dropped")
  return false
end

---The driver's next buffer, which stays where it is; nil when there is none.
local function next_buffer(d)
  local free = d.own.free
  while free[1] and free[1]:is_stale() do table.remove(free, 1) end
  return free[1]
end

---One frame into a buffer, which is used up only if it fits.
local function fill(d, buffer, frame)
  if HEADER + #frame > buffer.writable then return drop(d) end
  table.remove(d.own.free, 1)
  assert(buffer:write(ONE_BUFFER .. frame))
  buffer:done()
  count(d, "received")
  return true
end

---Hands on the frames whose time has come, as long as there are buffers.
local function hand_on(d)
  local waiting, now = d.state.waiting, d.vm.clock.now
  while waiting[1] and waiting[1].due <= now do
    local buffer = next_buffer(d)
    if not buffer then return end
    fill(d, buffer, table.remove(waiting, 1).frame)
  end
  if waiting[1] then
    d:cancel "frames"
    d:after(waiting[1].due - now, "frames")
  end
end

---Puts a frame in its place in time, behind those of the same.
local function wait(d, frame, after)
  local waiting, due = d.state.waiting, d.vm.clock.now + after
  if #waiting >= QUEUE then return drop(d) end
  local at = #waiting + 1
  while at > 1 and waiting[at - 1].due > due do at = at - 1 end
  table.insert(waiting, at, { due = due, frame = frame })
  hand_on(d)
  return true
end

---Hands a frame to the guest.
---@param d minikvm.device
---@param frame string  from its destination address on, without a checksum; 14 to 65535 bytes
---@param after? number  seconds by the VM's clock: it arrives then
---@return boolean taken  false when it was dropped
function M.send(d, frame, after)
  options.argument("net.send", "device", d, device.check)
  options.argument("net.send", "frame", frame, "string")
  if after ~= nil then options.argument("net.send", "after", after, "seconds") end
  if not d.own.free then core.blame(("net.send: device %s is no network card"):format(d.name)) end
  if #frame < LEAST or #frame > MOST or d.reg.STATUS & DRIVER_OK == 0 then return drop(d) end
  local buffer = not after and not d.state.waiting[1] and next_buffer(d)
  if buffer then return fill(d, buffer, frame) end
  return wait(d, frame, after or 0)
end

-- ---- frames of the guest ----

local function take(d, buffer, on_frame)
  if buffer.readable < HEADER then return buffer:reject "a frame has a header of 12 bytes" end
  buffer:read(HEADER)
  local frame = buffer:read(MOST + 1)
  buffer:done()
  if #frame < LEAST or #frame > MOST then return drop(d) end
  count(d, "sent")
  on_frame(d, frame)
end

-- ---- a tap of the host's ----

local BELL <const> = 0x3ff0 -- in the BAR, behind the notifications: a frame has come from the tap
local AT_ONCE <const> = 64 -- frames, then others have their turn

---Takes frames from the host while the driver has buffers: others wait there.
local function fetch(d)
  d.own.watched = false
  for _ = 1, AT_ONCE do
    if not next_buffer(d) then return end
    local frame = core.tap_read(d.own.tap)
    d.own.watched = not frame
    if not frame then return end
    if #frame < LEAST or #frame > MOST then drop(d) else fill(d, next_buffer(d), frame) end
  end
  core.tap_wait(d.own.tap)
  d.own.watched = true
end

local function to_tap(d, frame)
  if not d.own.tap or not core.tap_write(d.own.tap, frame) then drop(d) end
end

local function close_tap(d)
  if d.own.tap then core.tap_close(d.own.tap) end
  d.own.tap, d.own.tap_name = nil, nil
end

local function check_name(value)
  if type(value) == "string" and value:find "^[^%s%c/:%%]+$" and #value <= 15 and value ~= "."
     and value ~= ".." then
    return value
  end
  return nil, ("expected an interface's name, 1 to 15 bytes without spaces, / : and %%, got %s")
    :format(tostring(value))
end

---The tap that a VM's card is on; nil: none.
local function name_of(tap, vm)
  local name = tap
  if type(tap) == "function" then name = tap(vm) end
  local ok, why = check_name(name)
  if name ~= nil and not ok then error("net.new: what 'tap' returned: " .. why, 0) end
  return name
end

---Uses that tap from now on; nil: none.
local function change_tap(d, tap)
  local name = name_of(tap, d.vm)
  if name == d.own.tap_name then return end
  close_tap(d)
  if not name then return end
  d.own.bell = d.own.bell or d:keep(d.bars[0]:doorbell(BELL, 4, function()
    if d.own.tap then fetch(d) end
  end))
  local opened, why = core.tap_open(d.vm, name, d.own.bell)
  if not opened then error(why, 0) end
  d.own.tap, d.own.tap_name = opened, name
  if next_buffer(d) then fetch(d) end
end

-- ---- hubs and captures ----

local HUB <const> = { on_frame = "function", capture = captures.check }

---A wire between cards, of any VMs of this script: what one sends, all others get.
---  on_frame  function(hub, frame, card): a card has sent it. false: nobody gets it; a string: that
---            goes on instead; hub:send() sends more
---  capture   of net.capture(): has what goes over the wire
---@param opts? { on_frame: function?, capture: minikvm.capture? }
---@return minikvm.hub
function M.hub(opts) return hubs.new(opts, HUB, M.send) end

---Keeps frames for a file that tcpdump reads.
---  limit  bytes that it holds ("64M"): the newest frames
---@param opts? { limit: integer|string? }
---@return minikvm.capture
function M.capture(opts) return captures.new(opts) end

-- ---- the card ----

local function check_mac(value)
  local bytes = {}
  for pair in (type(value) == "string" and value or ""):gmatch "%x%x" do
    bytes[#bytes + 1] = string.char(tonumber(pair, 16))
  end
  if #bytes == 6 and value:find "^%x%x:%x%x:%x%x:%x%x:%x%x:%x%x$" then
    return table.concat(bytes)
  end
  return nil, ("expected an address such as \"52:54:00:00:00:01\", got %s"):format(tostring(value))
end

local function check_mtu(value)
  if math.type(value) == "integer" and value >= 68 and value <= MOST - LEAST then return value end
  return nil, ("expected bytes, 68 to %d, got %s"):format(MOST - LEAST, tostring(value))
end

local function check_tap(value)
  if type(value) == "function" then return value end
  return check_name(value)
end

local OPTIONS <const> = { on_frame = "function", hub = hubs.check, tap = check_tap,
                          mac = check_mac, mtu = check_mtu }

local function sender(o)
  if o.on_frame then return o.on_frame end
  if o.tap then return to_tap end
  return o.hub and function(d, frame) hubs.pass(o.hub, d, frame) end or function() end
end

local function plug(d, hub)
  if d.own.hub then hubs.unplug(d.own.hub, d) end
  d.own.hub = hub
  if hub then hubs.plug(hub, d) end
end

local function forget(d)
  for _ = 1, #d.state.waiting do count(d, "dropped") end
  d.state.waiting, d.own.free, d.own.watched = {}, {}, false
  d:cancel "frames"
end

---Describes it, for vm.pci:attach(). d.state has `sent`, `received` (by the guest) and `dropped`.
---  on_frame  function(device, frame): the guest has sent one
---  hub       or the wire that it is on, of net.hub()
---  tap       or the name of a tap of the host's, which nobody else uses; or function(vm) that
---            returns it, nil for none: it is asked for each fork, too
---  mac       its address, "52:54:00:12:34:56" by default
---  mtu       bytes of a frame behind its header of 14, that the driver is told to use: 68 to 65521
---@param opts? { on_frame: function?, hub: minikvm.hub?, tap: (string|function)?, mac: string?,
---  mtu: integer? }
---@return minikvm.definition
function M.new(opts)
  local o = options.check("net.new", opts, OPTIONS)
  if (o.on_frame and 1 or 0) + (o.hub and 1 or 0) + (o.tap and 1 or 0) > 1 then
    core.blame "net.new: one of 'on_frame', 'hub' and 'tap'"
  end
  local on_frame = sender(o)
  return kvm.virtio{
    name = "net", id = 1, class = 0x020000, queues = 2,
    features = MAC | STATUS | (o.mtu and MTU or 0), timers = { frames = hand_on },
    config = (o.mac or "\x52\x54\0\x12\x34\x56") .. ("<I2I2I2"):pack(LINK_UP, 1, o.mtu or 0),
    on_buffer = function(d, queue, buffer)
      if queue ~= RECEIVE then return take(d, buffer, on_frame) end
      table.insert(d.own.free, buffer)
      if d.state.waiting[1] then hand_on(d) end
      if d.own.tap and not d.own.watched then fetch(d) end
    end,
    on_reset = forget,
    reset = function(d)
      d.own.free, d.own.watched = {}, false
      d.state.sent, d.state.received, d.state.dropped, d.state.waiting = 0, 0, 0, {}
    end,
    load = function(d, state) d.state, d.own.free, d.own.watched = state, {}, false end,
    attach = function(d)
      plug(d, o.hub)
      change_tap(d, o.tap)
    end,
    replaced = function(d)
      plug(d, o.hub)
      change_tap(d, o.tap)
    end,
    detach = function(d)
      plug(d, nil)
      close_tap(d)
    end,
  }
end

return M
