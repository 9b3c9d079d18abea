-- net.lua - virtio's network card: frames to and from a script, or between the VMs of one process.
--
--   local card = vm.pci:attach(net.new{ on_frame = function(d, frame) net.send(d, frame) end })
--
--   local hub = net.hub()                       -- the same wire for each
--   one.pci:attach(net.new{ hub = hub })
--   other.pci:attach(net.new{ hub = hub })
--
-- Virtual I/O Device 1.2, 5.1, with the features MAC, STATUS, MTU, MRG_RXBUF, and checksums and the
-- cutting of TCP segments left to the card. The queues are served in C (src/dev/net.h), which also
-- has the frames that wait: before their time, or before the driver has a buffer for them. They are
-- in snapshots. A script gets whole frames, on the thread of the vCPU that sends, under the Lua
-- lock.

local captures = require "minikvm.net.capture"
local core = require "minikvm.core"
local device = require "minikvm.device"
local hubs = require "minikvm.net.hub"
local options = require "minikvm.options"
local virtio = require "minikvm.device.virtio"

local M = {}

local MOST <const>, ETHERNET <const> = 65535, 14 -- bytes of a frame, of its header
local MTU <const>, MAC <const>, STATUS <const>, LINK_UP <const> = 1 << 3, 1 << 5, 1 << 16, 1

-- d.own: `net`, true; `hub`; `tap_name`

local function card_of(d) return d.own.virtio.core end

-- ---- frames for the guest ----

---A timer for the next frame that is for later.
local function arm(d)
  d:cancel "frames"
  local seconds = core.net_due(card_of(d))
  if seconds then d:after(seconds, "frames") end
end

---The time of a frame has come.
local function hand_on(d)
  core.virtio_kick(card_of(d), 0)
  arm(d)
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
  if not d.own.net then core.blame(("net.send: device %s is no network card"):format(d.name)) end
  local taken = core.net_send(card_of(d), frame, after)
  if after then arm(d) end
  return taken
end

-- ---- where the guest's frames go ----

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

---@param tap string?  nil: a cable that is not plugged in
local function use_tap(d, tap)
  if tap and tap == d.own.tap_name then return end
  core.net_connect(card_of(d), nil)
  d.own.tap_name = nil
  if not tap then return end
  local done, why = core.net_tap(card_of(d), tap)
  if not done then error(why, 0) end
  d.own.tap_name = tap
end

local function leave_hub(d)
  if d.own.hub then hubs.unplug(d.own.hub, d) end
  d.own.hub = nil
end

local function use_hub(d, hub)
  d.own.hub = hub
  hubs.plug(hub, d, card_of(d))
end

local function connect(d, o)
  local tap = o.tap and name_of(o.tap, d.vm)
  leave_hub(d)
  if o.tap then return use_tap(d, tap) end
  d.own.tap_name = nil
  if o.hub then return use_hub(d, o.hub) end
  core.net_connect(card_of(d), o.on_frame and function(frame) o.on_frame(d, frame) end)
end

-- ---- hubs and captures ----

---A wire between cards, of any VMs of this script: what one sends, all others get.
---  on_frame  function(hub, frame, card): a card has sent it. false: nobody gets it; a string: that
---            goes on instead; hub:send() sends more
---  capture   of net.capture(): has what goes over the wire
---@param opts? { on_frame: function?, capture: minikvm.capture? }
---@return minikvm.hub
function M.hub(opts) return hubs.new(opts, arm) end

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

local check_mtu <const> = options.between(68, MOST - ETHERNET,
                                          ("bytes, 68 to %d"):format(MOST - ETHERNET))

local function check_tap(value)
  if type(value) == "function" then return value end
  return check_name(value)
end

local OPTIONS <const> = options.declare("net.new", {
  on_frame = "function", hub = hubs.check, tap = check_tap, mac = check_mac, mtu = check_mtu,
})

local function counts(d)
  local sent, received, dropped, _, owed = core.net_counts(card_of(d))
  return { sent = sent, received = received, dropped = dropped, owed = owed }
end

---What d.state shows of the card: `sent`, `received`, `dropped`, and `waiting`, a list.
local function counters(d, state)
  return setmetatable(state, { __index = function(_, key)
    if key == "waiting" then return core.net_waiting(card_of(d)) end
    return counts(d)[key]
  end })
end

local function save(d)
  local state = counts(d)
  state.waiting = core.net_waiting(card_of(d))
  return state
end

local function load(d, state)
  d.state = counters(d, {})
  core.net_set_counts(card_of(d), state.sent, state.received, state.dropped, state.owed)
  for _, w in ipairs(state.waiting) do core.net_put(card_of(d), w.frame, w.header, w.due) end
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
  return virtio.define_in({
    name = "net", id = 1, class = 0x020000, queues = 2, timers = { frames = hand_on },
    features = MAC | STATUS | core.NET_FEATURES | (o.mtu and MTU or 0),
    config = (o.mac or "\x52\x54\0\x12\x34\x56") .. ("<I2I2I2"):pack(LINK_UP, 1, o.mtu or 0),
    on_reset = function(d) d:cancel "frames" end,
    reset = function(d)
      d.own.net = true
      counters(d, d.state)
      core.net_set_counts(card_of(d), 0, 0, 0)
    end,
    save = save, load = load,
    attach = function(d) connect(d, o) end,
    replaced = function(d) connect(d, o) end,
    detach = leave_hub,
  }, "net.new", core.net_new)
end

return require("minikvm.strict").module(M, "devices.net")
