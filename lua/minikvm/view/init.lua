-- view/init.lua - vm:view(): a guest's screen in browsers of this machine, live, and their keys for
-- its keyboard.
--
-- The I/O thread serves the page and sends pictures (src/lua/view.c, view/server.lua). While
-- somebody watches it asks the VM for attention 60 times a second, and a vCPU's thread looks at the
-- screen then, under the Lua lock, for a quarter of its time at the most. Nothing is done while
-- nobody does, but for a look at the end of each run.

local attend = require "minikvm.vm.attend"
local class = require "minikvm.class"
local core = require "minikvm.core"
local options = require "minikvm.options"
local picture = require "minikvm.view.picture"
local server = require "minikvm.view.server"
local strict = require "minikvm.strict"

local M = {}

---@class minikvm.view  a page that shows a VM's screen
---@field url string  with a token: who has it may look and type
---@field port integer
---@field viewers integer  how many have it open
local KIND <const> = "minikvm.view"
local View, meta = class(KIND)
strict.seal(View, meta, "view", { "url", "port", "viewers" })

---@type table<minikvm.view, table>  { vm=, socket=, port=, url=, last=, known= }
local inner = setmetatable({}, { __mode = "k" })
---By VM, what is behind its view; weak, so that a VM takes it along.
local views = setmetatable({}, { __mode = "k" })

local OPTIONS <const> = options.declare("vm:view", {
  port = options.between(0, 65535, "a port, 0 to 65535"),
})
local REST <const> = 3 -- times as long as a look took, the guest is left alone

---Publishes what the VM shows, if it is something else than before.
local function look(own, running)
  local now = picture.of(own.vm, running, own.known)
  if now == own.last then return end
  own.last = now
  core.view_publish(own.socket, server.picture(#now), now)
end

---A look while the guest runs, if it is time for one.
local function look_in_turn(own)
  local began = core.now()
  if own.closed or began < own.earliest or not core.view_viewers(own.socket) then return end
  look(own, true)
  local now = core.now()
  own.earliest = now + REST * (now - began)
end

---Listens, for a VM that is to come: what M.open() takes as `listening`.
---@param at integer  a port; 0: any
---@return table? listening
---@return string? why
---@return string? code
function M.listen(at)
  local socket, got, code = core.view_open(at)
  if not socket then return nil, got, code end
  local token = core.hex(core.random(16))
  return { socket = socket, port = got, token = token,
           url = ("http://127.0.0.1:%d/%s/"):format(got, token) }
end

---@param self minikvm.vm
---@param opts table?
---@param listening table?  of M.listen(), instead of a port
---@return minikvm.view? view
---@return string? why
---@return string? code
function M.open(self, opts, listening)
  local o = options.check("vm:view", opts, OPTIONS)
  if views[self] and not views[self].closed then
    core.blame(("vm:view: vm %q has a view already: remove() that first"):format(self.name))
  end
  local own, why, code = listening, nil, nil
  if not own then own, why, code = M.listen(o.port or 0) end
  if not own then return nil, why, code end
  own.vm, own.known, own.earliest = self, {}, 0
  look(own, self.state == "running")
  local page = require("minikvm.view.page").of(self.name)
  core.view_start(own.socket, self, own.port, own.token, page)
  attend.set(self, "view", function() look_in_turn(own) end)
  local view = setmetatable({}, meta)
  inner[view], views[self] = own, own
  return view
end

local FIELDS <const> = {
  url = function(own) return own.url end,
  port = function(own) return own.port end,
  viewers = function(own) return core.view_viewers(own.socket) or 0 end,
}

function meta.__index(self, key)
  local own = inner[self]
  if FIELDS[key] then return FIELDS[key](own) end
  return View[key]
end

---Nobody can watch any more; who does is told.
function View:remove()
  options.self("view:remove", self, KIND)
  local own = inner[self]
  if own.closed then return end
  own.closed = true
  core.view_close(own.socket)
  if own.vm.state ~= "closed" then attend.set(own.vm, "view", nil) end
  views[own.vm] = nil
end

meta.__close = View.remove

function meta:__tostring()
  local own = inner[self]
  return ("%s %s%s"):format(KIND, own.url, own.closed and " (removed)" or "")
end

---For vm:run() and vm:wait(): the VM has ended, and shows this now.
---@param self minikvm.vm
function M.ended(self)
  local own = views[self]
  if own and not own.closed and self.state ~= "closed" and core.view_viewers(own.socket) then
    look(own, false)
  end
end

return M
