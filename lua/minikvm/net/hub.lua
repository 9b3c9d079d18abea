-- net/hub.lua - a wire between network cards, of any VMs of a script: what one sends, all others
-- get. The wire itself is the core's (src/dev/hub.c); a script that looks at its frames lies before
-- it.
--
-- A card is plugged in when it is attached, so a fork's is on its parent's wire, too. The hub
-- holds no frame: those that have not arrived are the receiving card's, and in its VM's snapshots.
-- A handler runs on the thread of the vCPU that sends, under the Lua lock.

local captures = require "minikvm.net.capture"
local class = require "minikvm.class"
local core = require "minikvm.core"
local options = require "minikvm.options"
local strict = require "minikvm.strict"

local M = {}

---@class minikvm.hub
local HUB <const> = "minikvm.hub"
local Hub, meta = class(HUB)
strict.seal(Hub, meta, "hub", { "ports", "most", "on_frame", "capture", "wire", "arm" })

---The cards that are plugged in, in the order of their ports.
---@return minikvm.device[]
function Hub:cards()
  options.self("hub:cards", self, HUB)
  local list = {}
  for port = 1, self.most do
    local card = self.ports[port]
    if card and card.vm.state ~= "closed" then list[#list + 1] = card end
  end
  return list
end

---To each card but one.
local function send(hub, frame, from, after)
  if hub.capture then hub.capture:add(frame) end
  local taken = core.hub_send(hub.wire, frame, from and from.own.virtio.core, after)
  for _, other in ipairs(after and hub:cards() or {}) do hub.arm(other) end
  return taken
end

local SEND <const> = options.declare("hub:send", {
  from = options.object("minikvm.device", "a network card"), after = "seconds",
})

---Puts a frame on the wire; on_frame is not asked.
---@param frame string  from its destination address on, 14 to 65535 bytes
---@param opts? { from: minikvm.device?, after: number? }  from: the card that does not get it;
---  after: seconds, by the clock of each VM that gets it
---@return integer cards  that took it; others dropped and counted it
function Hub:send(frame, opts)
  options.self("hub:send", self, HUB)
  options.argument("hub:send", "frame", frame, "string")
  local o = options.check("hub:send", opts, SEND)
  if o.from and not o.from.own.net then
    core.blame(("hub:send: option 'from': device %s is no network card"):format(o.from.name))
  end
  return send(self, frame, o.from, o.after)
end

---What a card sends.
function M.pass(hub, card, frame)
  local answer = hub.on_frame and hub.on_frame(hub, frame, card)
  if answer ~= false then send(hub, type(answer) == "string" and answer or frame, card) end
end

---@param hub minikvm.hub
---@param card minikvm.device
---@param in_core userdata  the core's part of it, which is on no wire from now on but this one
function M.plug(hub, card, in_core)
  local port = 1
  while hub.ports[port] do port = port + 1 end
  hub.ports[port] = card
  hub.most = math.max(hub.most, port)
  if not (hub.on_frame or hub.capture) then return core.net_connect(in_core, hub.wire) end
  core.net_connect(in_core, function(frame) M.pass(hub, card, frame) end)
  core.hub_plug(hub.wire, in_core)
end

---@param hub minikvm.hub
---@param card minikvm.device
function M.unplug(hub, card)
  for port = 1, hub.most do
    if hub.ports[port] == card then hub.ports[port] = nil end
  end
end

---For options: a hub.
M.check = options.object(HUB, "a hub of net.hub()")

local OPTIONS <const> = options.declare("net.hub", {
  on_frame = "function", capture = captures.check,
})

---@param opts table?  what is in OPTIONS
---@param arm fun(card: minikvm.device)  a card has a frame that is for later
---@return minikvm.hub
function M.new(opts, arm)
  local o = options.check("net.hub", opts, OPTIONS)
  return setmetatable({ ports = setmetatable({}, { __mode = "v" }), most = 0,
                        on_frame = o.on_frame, capture = o.capture, wire = core.hub_new(),
                        arm = arm }, meta)
end

return M
