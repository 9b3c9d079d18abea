-- console.lua - the console's listeners, on top of the core's one (src/lua_console.c).

local core = require "minikvm.core"

---@class minikvm.console
local console = core.methods "minikvm.console"

---@class minikvm.listener  what on_line returns; may be closed by a to-be-closed variable
---@field hits integer  lines seen
local Listener = {}
Listener.__index = Listener
Listener.__name = "minikvm.handle"

-- Listeners by console; weak, so that a console takes its own along.
local listeners = setmetatable({}, { __mode = "k" })

local function share_out(list)
  return function(line, cpu)
    for _, listener in ipairs(table.move(list, 1, #list, 1, {})) do -- one may remove itself
      listener.hits = listener.hits + 1
      listener.fn(line, cpu)
    end
  end
end

local function check_self(self, kind, method, object)
  if type(self) ~= kind then
    error(("call %s with ':' (%s:%s(...))"):format(method, object, method), 3)
  end
end

---Takes the listener off again.
function Listener:remove()
  check_self(self, "table", "remove", "listener")
  for i, other in ipairs(self.list) do
    if other == self then table.remove(self.list, i) break end
  end
  if #self.list == 0 and listeners[self.console] == self.list then
    listeners[self.console] = nil
    core.listen(self.console, nil)
  end
end

---Nothing is left to take off when the VM is closed already.
function Listener:__close()
  pcall(Listener.remove, self)
end

---Calls fn(line, cpu) for every line the guest prints, without its newline; the last one when the
---run ends, finished or not. Until it is removed output does not go to stdout by itself.
---@param fn fun(line: string, cpu: integer)
---@return minikvm.listener
function console:on_line(fn)
  check_self(self, "userdata", "on_line", "console")
  if type(fn) ~= "function" then
    error(("on_line: expected a function, got %s"):format(type(fn)), 2)
  end
  local list = listeners[self] or {}
  core.listen(self, share_out(list)) -- raises when the VM is closed
  listeners[self] = list
  local listener = setmetatable({ fn = fn, list = list, console = self, hits = 0 }, Listener)
  list[#list + 1] = listener
  return listener
end

---Sends text and a newline.
---@param text string
---@return minikvm.console
function console:sendline(text)
  check_self(self, "userdata", "sendline", "console")
  return self:send(text .. "\n")
end
