-- minikvm linux --net: network cards on the command line, eth0 and so on.

local M = {}

local TAP <const> = "tap0"

M.option = { "--net", value = "hub[,FILE]|tap[,NAME]", repeatable = true,
  help = "a network card (eth0 and so on): on a hub, which the scripts of --pci get and whose"
    .. " frames become FILE, for tcpdump; or on a tap of the host's (" .. TAP .. ")" }

---@param text string  what --net was given
---@return { kind: string, name: string? }?
---@return string? why
local function parse_one(text)
  local kind, name = text:match "^(%a+),(.+)$"
  kind = kind or text
  if kind ~= "hub" and kind ~= "tap" then
    return nil, ("--net: expected hub, hub,FILE, tap or tap,NAME, got %q"):format(text)
  end
  return { kind = kind, name = name }
end

---@param list string[]?
---@return table[]? cards  nil and why one is none
---@return string? why
function M.parse(list)
  local cards = {}
  for i, text in ipairs(list or {}) do
    local card, why = parse_one(text)
    if not card then return nil, why end
    cards[i] = card
  end
  return cards
end

---A hub whose frames are kept; raises when they could not be written.
local function hub_of(net, card)
  if not card.name then return net.hub() end
  card.capture = net.capture()
  assert(card.capture:save(card.name))
  return net.hub{ capture = card.capture }
end

---Attaches the cards; raises when one cannot be.
---@param cards table[]
---@return minikvm.hub[] hubs
function M.attach(vm, cards)
  local net = require "minikvm.devices.net"
  local hubs = {}
  for i, card in ipairs(cards) do
    local o = { mac = ("52:54:00:12:34:%02x"):format(0x55 + i) }
    if card.kind == "hub" then
      o.hub = hub_of(net, card)
      hubs[#hubs + 1] = o.hub
    else
      o.tap = card.name or TAP
    end
    vm.pci:attach(net.new(o), { name = "net " .. i })
  end
  return hubs
end

---Writes what went over the hubs.
---@param cards table[]
---@return string? why  one could not be written
function M.save(cards)
  for _, card in ipairs(cards) do
    if card.capture then
      local done, why = card.capture:save(card.name)
      if not done then return why end
    end
  end
end

return M
