-- console.lua - the console's listeners, on top of the core's one (src/lua/console.c).

local core = require "minikvm.core"
local handle = require "minikvm.handle"
local options = require "minikvm.options"

local KIND <const> = "minikvm.console"

---@class minikvm.console
local console = core.methods(KIND)

-- Listeners by console; weak, so that a console takes its own along.
local listeners = setmetatable({}, { __mode = "k" })

local function share_out(list)
  return function(line, cpu, more)
    for _, listener in ipairs(table.move(list, 1, #list, 1, {})) do -- one may remove itself
      listener.hits = listener.hits + 1
      listener.fn(line, cpu, more)
    end
  end
end

---@class minikvm.listener  what on_line returns; may be closed by a to-be-closed variable
local new = handle.kind("listener", { "fn", "list", "console", "hits" }, function(listener)
  for i, other in ipairs(listener.list) do
    if other == listener then table.remove(listener.list, i) break end
  end
  if #listener.list == 0 and listeners[listener.console] == listener.list then
    listeners[listener.console] = nil
    core.listen(listener.console, nil)
  end
end)

---Calls fn(line, cpu, more) for every line the guest prints, without its newline; the last one when
---the run ends, finished or not. A line of more than 1 MiB comes in pieces of that, with `more`
---true for all but the last. Until it is removed output does not go to stdout by itself.
---@param fn fun(line: string, cpu: integer, more: boolean)
---@return minikvm.listener
function console:on_line(fn)
  options.self("console:on_line", self, KIND)
  if type(fn) ~= "function" then
    core.blame(("on_line: expected a function, got %s"):format(type(fn)))
  end
  local list = listeners[self] or {}
  core.listen(self, share_out(list)) -- raises when the VM is closed
  listeners[self] = list
  local listener = new{ fn = fn, list = list, console = self, hits = 0 }
  list[#list + 1] = listener
  return listener
end

---Sends text and a newline.
---@param text string
---@return minikvm.console
function console:sendline(text)
  options.self("console:sendline", self, KIND)
  options.argument("console:sendline", "text", text, "string")
  return self:send(text .. "\n")
end

-- Waiting: in expect.lua, which the first wait loads.

---Waits for the guest to print what a pattern matches, and takes the stream up to the match's end:
---the next wait begins behind it. What was printed before and not waited for counts. A VM that was
---not started runs on this thread meanwhile, and is stopped at the byte that completed the match.
---  timeout  seconds (10)
---  budget   exits, or { exits = n, ticks = n }: also of the guest's timer
---  plain    no character of the pattern has a meaning
---  stop     a started VM is stopped at the byte, too; false: one that was not started is stopped
---           some time later, which lets output be collected
---  cpu      whose output (0)
---A wait that fails raises an error that says what came instead.
---@param patterns string|string[]  Lua patterns; of several the match that ends first counts
---@param opts? table
---@return integer index  of the pattern
---@return string|integer ...  captures, or the whole match
function console:expect(patterns, opts)
  return require("minikvm.console.expect").expect(self, patterns, opts)
end

---The same; a wait that fails returns nil, what expect() raises, and "ETIMEDOUT", "EDQUOT" (the
---budget), "ESHUTDOWN" (the VM ended), "ECANCELED" (forbidden output) or "E2BIG" (the pattern needs
---too much work).
---@param patterns string|string[]
---@param opts? table
---@return integer? index
---@return string|integer ...
function console:try_expect(patterns, opts)
  return require("minikvm.console.expect").try_expect(self, patterns, opts)
end

---From now on output that the pattern matches ends the run, with reason "forbidden", and fails the
---wait.
---  plain  no character of the pattern has a meaning
---  stop   at the very byte: output is not collected
---  cpu    whose output (that of all)
---@param pattern string
---@param opts? table
---@return minikvm.handle
function console:forbid(pattern, opts)
  return require("minikvm.console.expect").forbid(self, pattern, opts)
end

---Types a text one character after the other, as a person does.
---  echo     wait for the guest to print each (true)
---  delay    seconds between two characters
---  timeout, budget, cpu  of the wait for an echo, as in expect
---@param text string
---@param opts? table
---@return minikvm.console
function console:type(text, opts)
  return require("minikvm.console.expect").type(self, text, opts)
end

---Hands the terminal to the user: input from stdin, output to stdout, until Ctrl-A x stops the VM
---or it ends.
---@return string reason  as of vm:run
---@return table info
function console:interact()
  return require("minikvm.console.expect").interact(self)
end
