-- hooks.lua - vm.ports, vm.mmio and vm.msrs: who serves which addresses. What a script gives is
-- checked here; the core (src/lua/hooks.c, src/lua/prims.c) puts it on the bus.
--
-- A range is { first, last } or { first, size = n }; or, short, first [, last] of ports and MSRs,
-- and base, size of addresses outside RAM.

local core = require "minikvm.core"

local MMIO <const>, WINDOW <const> = "minikvm.mmio", "minikvm.window"
local SPACES <const> = {
  ["minikvm.ports"] = { one = "port", many = "ports", most = 0xffff,
                        limit = "a port is 0 to 0xffff" },
  [MMIO] = { one = "address", many = "addresses", most = math.maxinteger, sized = true,
             limit = "a guest-physical address is 0 or more" },
  ["minikvm.msrs"] = { one = "MSR", many = "MSRs", most = 0xffffffff,
                       limit = "an MSR is 0 to 0xffffffff" },
}
local FORM <const> = "a range is { first, last } or { first, size = n }, in integers"
local BEHIND <const> = "the range ends behind the last address"
local RECORD <const> = 65536 -- MK_FIFO_RECORD

-- ---- arguments ----

---The addresses of a PCI function's window.
local function window_space(window)
  return { one = "address", many = "addresses", most = window.size - 1, sized = not window.io,
           limit = ("the window has 0x%x bytes"):format(window.size) }
end

---A call of a method: which, of what, and the arguments that were not looked at yet.
local function call(name, self, ...)
  local kind = core.kind(self)
  local space = kind == WINDOW and window_space(self) or SPACES[kind]
  if not space then core.blame(("call %s with ':' (vm.ports:%s(...))"):format(name, name)) end
  return { name = name, bus = self, space = space, next = 1, n = select("#", ...), ... }
end

local function bad(c, index, why)
  core.blame(("bad argument #%d to '%s' (%s)"):format(index, c.name, why))
end

local function expected(c, what)
  local given = c.next > c.n and "no value" or type(c[c.next])
  bad(c, c.next, ("%s expected, got %s"):format(what, given))
end

local function next_argument(c, what, kind)
  local value = c[c.next]
  if type(value) ~= kind then expected(c, what) end
  c.next = c.next + 1
  return value
end

local function next_integer(c)
  local value = c[c.next]
  local integer = type(value) == "number" and math.tointeger(value)
  if not integer then expected(c, "integer") end
  c.next = c.next + 1
  return integer
end

-- ---- ranges ----

local function table_range(c, r)
  for key, value in next, r do
    if (key ~= 1 and key ~= 2 and key ~= "size") or math.type(value) ~= "integer" then
      bad(c, 1, FORM)
    end
  end
  local first, last = r[1], r[2]
  if not first or (last == nil) == (r.size == nil) then bad(c, 1, FORM) end
  if not r.size then return first, last end
  if r.size <= 0 then bad(c, 1, "a size is 1 or more") end
  if first > math.maxinteger - r.size + 1 then bad(c, 1, BEHIND) end
  return first, first + r.size - 1
end

---`more`: an integer that is something else follows the range, so the short form is `first` alone.
local function short_range(c, more)
  local first = next_integer(c)
  if c.space.sized then
    local size = next_integer(c)
    if size <= 0 then bad(c, 2, "a size is 1 or more") end
    if first < 0 then bad(c, 1, c.space.limit) end
    if first > math.maxinteger - size + 1 then bad(c, 2, BEHIND) end
    return first, first + size - 1
  end
  return first, not more and math.type(c[2]) == "integer" and next_integer(c) or first
end

local function describe(space, first, last)
  if first == last then return ("%s 0x%x"):format(space.one, first) end
  return ("%s 0x%x-0x%x"):format(space.many, first, last)
end

---Raises when memory is where a device would lie over it; writes to what is read-only do reach one.
local function check_memory(c, first, last)
  for _, r in ipairs(core.vm_of(c.bus, MMIO).memory:regions()) do
    if r.writable and first < r.at + r.size and last >= r.at then
      bad(c, 1, ("addresses 0x%x-0x%x lie over %s, which ends at 0x%x: memory is no device"):format(
        first, last, r.name, r.at + r.size))
    end
  end
end

---Takes the range that the arguments begin with.
local function next_range(c, more)
  local first, last
  if type(c[1]) == "table" then
    c.next = 2
    first, last = table_range(c, c[1])
  else
    first, last = short_range(c, more)
  end
  local most <const> = c.space.most
  if first < 0 or first > most then bad(c, 1, c.space.limit) end
  if last < 0 or last > most then bad(c, c.next - 1, c.space.limit) end
  if last < first then bad(c, c.next - 1, "the last comes before the first") end
  if c.space == SPACES[MMIO] then check_memory(c, first, last) end
  core.check_hooks(c.bus) -- there is room for one more
  return first, last
end

-- ---- handlers ----

---Who serves it, for messages and statistics: where the function was defined.
local function owner_of(fn)
  local about = debug.getinfo(fn, "S")
  if about.linedefined < 0 then return "a Lua handler" end
  return ("a Lua handler (%.40s:%d)"):format(about.short_src, about.linedefined)
end

---A table with read and write, one at least, and perhaps a name.
local function next_handlers(c)
  local handlers = next_argument(c, "table", "table")
  for key, value in next, handlers do
    if key == "name" then
      if type(value) ~= "string" then
        core.blame(("'name' is a %s, not a string"):format(type(value)))
      end
    elseif key ~= "read" and key ~= "write" then
      core.blame(("unknown handler '%s': there are 'read' and 'write'"):format(
        type(key) == "string" and key or "?"))
    elseif type(value) ~= "function" then
      core.blame(("handler '%s' is a %s, not a function"):format(key, type(value)))
    end
  end
  local any = handlers.read or handlers.write
  if not any then bad(c, c.next - 1, "neither read nor write") end
  return handlers, handlers.name or owner_of(any)
end

local M = {}

---Serves what nobody serves yet.
function M.on(self, ...)
  local c = call("on", self, ...)
  local first, last = next_range(c)
  local handlers, owner = next_handlers(c)
  local where, other = core.hook_owner(self, first, last)
  if where then
    core.blame(("%s belongs to %s: use override() to go on top of it (wanted: %s for %s)"):format(
      describe(c.space, where, where), other, describe(c.space, first, last), owner))
  end
  return core.hook(self, first, last, "on", owner, handlers.read, handlers.write)
end

---Goes on top of whatever is there, which its functions may call as `next`.
function M.override(self, ...)
  local c = call("override", self, ...)
  local first, last = next_range(c)
  local handlers, owner = next_handlers(c)
  return core.hook(self, first, last, "override", owner, handlers.read, handlers.write)
end

---Sees accesses and changes nothing.
function M.tap(self, ...)
  local c = call("tap", self, ...)
  local first, last = next_range(c)
  local fn = next_argument(c, "function", "function")
  return core.hook(self, first, last, "tap", owner_of(fn), fn)
end

-- ---- what C answers ----

function M.const(self, ...)
  local c = call("const", self, ...)
  local first, last = next_range(c, true)
  return core.prim(self, first, last, "const", nil, nil, next_integer(c))
end

function M.latch(self, ...)
  local c = call("latch", self, ...)
  local first, last = next_range(c, true)
  local value = c[c.next] ~= nil and next_integer(c) or 0
  return core.prim(self, first, last, "latch", nil, nil, value)
end

function M.sink(self, ...)
  local first, last = next_range(call("sink", self, ...))
  return core.prim(self, first, last, "sink")
end

function M.fifo(self, ...)
  local c = call("fifo", self, ...)
  local first, last = next_range(c)
  local o = next_argument(c, "table", "table")
  for key, value in next, o do
    if key == "on" then
      if type(value) ~= "string" or #value ~= 1 then
        core.blame "fifo: 'on' is one byte, such as \"\\n\""
      end
    elseif key ~= "size" then
      core.blame(("fifo: unknown option '%s': there are 'on' and 'size'"):format(
        type(key) == "string" and key or "?"))
    elseif math.type(value) ~= "integer" or value < 1 or value > RECORD then
      core.blame(("fifo: 'size' is 1 to %d bytes"):format(RECORD))
    end
  end
  local fn = next_argument(c, "function", "function")
  return core.prim(self, first, last, "fifo", owner_of(fn), fn, o.on and o.on:byte() or -1,
                   o.size or RECORD)
end

---Reads take what its handle's put() was given; fn(), if there is one, is told when that is taken.
function M.source(self, ...)
  local c = call("source", self, ...)
  local first, last = next_range(c)
  local fn = c[c.next] ~= nil and next_argument(c, "function", "function") or nil
  return core.prim(self, first, last, "source", fn and owner_of(fn) or nil, fn)
end

function M.match(self, ...)
  local c = call("match", self, ...)
  local first, last = next_range(c, true)
  local value = next_integer(c)
  local fn = next_argument(c, "function", "function")
  return core.prim(self, first, last, "match", owner_of(fn), fn, value)
end

---A write that nobody waits for; its size is the second argument.
function M.doorbell(self, ...)
  local c = call("doorbell", self, ...)
  local first = next_range(c, true)
  c.next = 2
  local size = next_integer(c)
  if size ~= 1 and size ~= 2 and size ~= 4 and not (c.space.sized and size == 8) then
    bad(c, 2, "a write has 1, 2 or 4 bytes, or 8 in memory")
  end
  local value = math.type(c[3]) == "integer" and next_integer(c) or nil
  local fn = next_argument(c, "function", "function")
  return core.doorbell(self, first, size, value, fn, owner_of(fn))
end

for name, fn in pairs(M) do
  for _, kind in ipairs{ "minikvm.ports", "minikvm.mmio", "minikvm.msrs", WINDOW } do
    if name ~= "doorbell" or kind ~= "minikvm.msrs" then core.methods(kind)[name] = fn end
  end
end

return M
