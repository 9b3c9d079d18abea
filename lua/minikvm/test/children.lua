-- children.lua - processes that the runner starts, listens to and ends, on top of the core's
-- functions (src/lua/process.c).
--
-- Each child leads a process group of its own, with its output in one pipe and what it reports on
-- descriptor 3 in another. The group is killed as a whole when its leader has ended, by kill() and
-- by close(). While the object is open, SIGINT, SIGTERM and SIGHUP are events.

local core = require "minikvm.core"
local class = require "minikvm.class"

local M = {}

local MOST <const> = 64 -- at a time
local LAST_WORDS <const> = 1 << 20 -- bytes that are still read of a child that has ended

---@class minikvm.children
local Children, meta = class "minikvm.children"

---@return minikvm.children? children
---@return string? why
---@return string? code
function M.open()
  local signals, mask, code = core.block_signals()
  if not signals then return nil, mask, code end
  return setmetatable({ signals = signals, mask = mask, next_one = 1 }, meta)
end

---Starts a process. argv[1] is a path, env a list of "NAME=value".
---@return integer? number
---@return string? why
---@return string? code
function Children:spawn(argv, env)
  local number = 1
  while self[number] do number = number + 1 end
  if number > MOST then return nil, ("there are %d children already"):format(MOST), "EAGAIN" end
  local child, why, code = core.spawn(argv, env)
  if not child then return nil, why, code end
  child.budget = LAST_WORDS
  self[number] = child
  return number
end

---Lets go of an ended child. Its number is free again.
local function finish(self, number)
  local child = self[number]
  self[number] = nil
  for _, name in ipairs{ "output", "report", "pidfd" } do
    if child[name] then core.close_fd(child[name]) end
  end
  return core.reap(child.pid, child.guardian)
end

---What there is to read in one of the pipes.
local function read(child, name)
  local bytes = child[name] and core.read_fd(child[name])
  if bytes == "" then
    core.close_fd(child[name])
    child[name] = nil
  end
  if not bytes or bytes == "" then return nil end
  if child.gone then child.budget = child.budget - #bytes end
  return bytes
end

---What a child wrote comes before its end; the rest of its group does not outlive it.
local function child_event(self, number, ready)
  local child = self[number]
  if ready[child.pidfd] and not child.gone then
    core.kill_group(child.pid)
    child.gone = true
  end
  for _, name in ipairs{ "output", "report" } do
    if child.budget > 0 and (child.gone or ready[child[name]]) then
      local bytes = read(child, name)
      if bytes then return name, number, bytes end
    end
  end
  if child.gone then return "ended", number, finish(self, number) end
end

---One that never stops leaves room for the others: the search goes on behind the last one.
local function event(self, ready)
  local name = ready[self.signals] and core.read_signal(self.signals)
  if name then return "signal", name end
  for _ = 1, MOST do
    local number = self.next_one
    self.next_one = number % MOST + 1
    if self[number] then
      local what, of, a, b = child_event(self, number, ready)
      if what then return what, of, a, b end
    end
  end
end

local function descriptors(self)
  local list = { self.signals }
  for number = 1, MOST do
    local child = self[number]
    for _, name in ipairs(child and { "output", "report", "pidfd" } or {}) do
      list[#list + 1] = child[name]
    end
  end
  return list
end

---Waits for what comes next: "output" or "report", number, bytes; "ended", number, "exit" or
---"signal", status; "signal", name; nothing when the time is up.
---@param seconds number
function Children:next(seconds)
  local until_then = core.now() + seconds
  while true do
    local left = math.max(0, until_then - core.now())
    local ready = core.poll(descriptors(self), left)
    local what, a, b, c = event(self, ready)
    if what or left == 0 then return what, a, b, c end
  end
end

---Kills the whole group, at once. Its end is still to come as an event.
function Children:kill(number)
  core.kill_group(self[number].pid)
end

function Children:close()
  if not self.signals then return end
  for number = 1, MOST do
    if self[number] then core.kill_group(self[number].pid) end
  end
  for number = 1, MOST do
    if self[number] then finish(self, number) end
  end
  core.unblock_signals(self.signals, self.mask)
  self.signals = nil
end
meta.__close, meta.__gc = Children.close, Children.close

return M
