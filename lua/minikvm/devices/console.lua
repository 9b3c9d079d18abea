-- console.lua - virtio's console, of one port or several: text to and from a script.
--
--   local d = vm.pci:attach(console.new{ ports = 2 })           -- hvc0 and hvc1 of a Linux guest
--   console.send(d, "text\n")
--   console.expect(d, "text", { port = 1 })
--
-- Virtual I/O Device 1.2, 5.3. What is sent waits for the driver's buffers; what a port prints and
-- nobody waited for yet is kept, KEPT bytes of it.

local core = require "minikvm.core"
local device = require "minikvm.device"
local kvm = require "minikvm"
local options = require "minikvm.options"
local told = require "minikvm.console.expect_report"
local waits = require "minikvm.console.expect"

local M = {}

local PORTS <const>, KEPT <const>, TIMEOUT <const> = 31, 1 << 20, 10
local MESSAGES <const> = 1024 -- that wait for a driver which asks and takes none
local MULTIPORT <const>, CONTROL <const>, CONTROL_OUT <const> = 1 << 1, 2, 3 -- queues
local READY <const>, ADD <const>, PORT_READY <const>, IS_CONSOLE <const>, OPEN <const>,
  NAME <const> = 0, 1, 3, 4, 6, 7 -- events (5.3.6.2)

---Its queue of buffers for the driver (5.3.2); what it sends comes in the next one.
local function queue_of(port) return port == 0 and 0 or 2 * port + 2 end

---Hands on what waits for a queue: text, or messages of which each is a buffer of its own.
local function deliver(d, queue)
  local list, free = d.state.out[queue] or {}, d.own.free[queue] or {}
  while list[1] and free[1] do
    local buffer = table.remove(free, 1)
    if not buffer:is_stale() then
      assert(buffer:write(list[1]:sub(1, buffer.writable)))
      list[1] = list[1]:sub(buffer.written + 1)
      if list[1] == "" or queue == CONTROL then table.remove(list, 1) end
      buffer:done()
    end
  end
end

local function put(d, queue, text)
  local list = d.state.out[queue] or {}
  d.state.out[queue] = list
  list[#list + 1] = text
  deliver(d, queue)
end

---@param names (string|boolean)[]  by port from 0 on
local function control(d, names, id, event)
  local function tell(port, what, value, more)
    if #(d.state.out[CONTROL] or {}) == MESSAGES then return end
    put(d, CONTROL, ("<I4I2I2"):pack(port, what, value) .. (more or ""))
  end
  if event == READY then
    for port = 0, #names - 1 do tell(port, ADD, 1) end
  elseif event == PORT_READY and names[id + 1] then
    local name = names[id + 1]
    if name == true then tell(id, IS_CONSOLE, 1) else tell(id, NAME, 1, name) end
    tell(id, OPEN, 1)
  end
end

local function hear(d, port, text, on_output)
  d.state.heard[port] = ((d.state.heard[port] or "") .. text):sub(-KEPT)
  if d.own.waits then d.vm:stop() end
  if on_output then on_output(d, text, port) end
end

-- ---- for scripts ----

local function check(where, d, port)
  options.argument(where, "device", d, device.check)
  if not d.own.ports then core.blame(("%s: device %s is no console"):format(where, d.name)) end
  if math.type(port) ~= "integer" or port < 0 or port >= d.own.ports then
    core.blame(("%s: console %s has the ports 0 to %d, got %s"):format(where, d.name,
      d.own.ports - 1, tostring(port)))
  end
end

---Text for the guest.
---@param d minikvm.device
---@param text string
---@param port? integer  0 by default
function M.send(d, text, port)
  check("console.send", d, port or 0)
  options.argument("console.send", "text", text, "string")
  put(d, queue_of(port or 0), text)
end

---The match that ends first of those patterns, as console:expect returns it; what is heard up to
---its end is taken.
local function match_next(d, port, patterns, plain)
  local text, best = d.state.heard[port] or "", nil
  for i, pattern in ipairs(patterns) do
    local found = table.pack(text:find(pattern, 1, plain))
    if found[1] and (not best or found[2] < best.last) then
      if found.n == 2 then found = table.pack(0, 0, text:sub(found[1], found[2])) end
      best = { last = select(2, text:find(pattern, 1, plain)), i, table.unpack(found, 3, found.n) }
    end
  end
  if best then d.state.heard[port] = text:sub(best.last + 1) end
  return best
end

---Lets the guest run until it prints something, or for so many seconds.
local function run(d, seconds)
  if d.vm.state == "running" then return d.vm:wait(math.min(seconds, 0.01)) end
  local reason, info = waits.ended_for_good(d.vm)
  if reason then return reason, info end
  d.own.waits = true
  reason, info = d.vm:run{ deadline = seconds }
  d.own.waits = false
  if reason ~= "stopped" and reason ~= "deadline" then return reason, info end
end

local EXPECT <const> = options.declare("console.expect", {
  port = "integer", timeout = "seconds", plain = "boolean",
})

---Waits for a port to print what a pattern matches, as console:expect does for the VM's console: a
---VM that was not started runs on this thread meanwhile.
---@param d minikvm.device
---@param patterns string|string[]
---@param opts? { port: integer?, timeout: number?, plain: boolean? }  port: 0; timeout: seconds, 10
---@return integer index  of the pattern
---@return string|integer ...  captures, or the whole match
function M.expect(d, patterns, opts)
  local o = options.check("console.expect", opts, EXPECT)
  local port, seconds = o.port or 0, o.timeout or TIMEOUT
  check("console.expect", d, port)
  local list = waits.pattern_list("console.expect", patterns)
  local until_then, reason, info = core.now() + seconds, nil, nil
  while true do
    local found, left = match_next(d, port, list, o.plain), until_then - core.now()
    if found then return table.unpack(found) end
    if reason or left <= 0 then break end
    reason, info = run(d, left)
  end
  core.blame(("console.expect %s: %s\n  printed last on port %d:\n%s\n%s"):format(
    told.quoted(list), reason and ("the vm ended: %s, %s"):format(reason, info.text)
    or ("not within %g s"):format(seconds), port, told.tail(d.state.heard[port] or ""),
    told.cpu_line(d.vm, 0)))
end

-- ---- describing one ----

local function check_ports(value)
  local names = {}
  for i = 1, math.type(value) == "integer" and math.max(0, math.min(value, PORTS + 1)) or 0 do
    names[i] = true
  end
  if type(value) == "table" then names = value end
  for _, name in ipairs(names) do
    if name ~= true and type(name) ~= "string" then names = {} end
  end
  if #names >= 1 and #names <= PORTS then return names end
  return nil, ("expected how many, 1 to %d, or a list of names"):format(PORTS)
end

local OPTIONS <const> = options.declare("console.new", {
  on_output = "function", ports = check_ports,
})

---Describes it, for vm.pci:attach().
---  on_output  function(device, text, port): a port has printed
---  ports      how many (1): consoles, hvc0 and so on; or a list, with a name for each, whose port
---             is no console then, or true
---@param opts? { on_output: function?, ports: (integer|table)? }
---@return minikvm.definition
function M.new(opts)
  local o = options.check("console.new", opts, OPTIONS)
  local names, sizes = o.ports or { true }, {}
  local several = #names > 1 or names[1] ~= true
  for i = 1, several and 2 * #names + 2 or 2 do sizes[i] = 64 end
  return kvm.virtio{
    name = "console", id = 3, class = 0x078000, queues = sizes,
    features = several and MULTIPORT or 0, config = ("<I2I2I4I4"):pack(0, 0, #names, 0),
    on_buffer = function(d, queue, buffer)
      if queue % 2 == 0 then
        d.own.free[queue] = d.own.free[queue] or {}
        table.insert(d.own.free[queue], buffer)
        return deliver(d, queue)
      end
      local text = buffer:read()
      buffer:done()
      if queue ~= CONTROL_OUT or not several then
        return hear(d, queue == 1 and 0 or (queue - 3) // 2, text, o.on_output)
      end
      if #text >= 8 then control(d, names, ("<I4I2"):unpack(text)) end
    end,
    reset = function(d)
      d.state.out, d.state.heard, d.own.free, d.own.ports = {}, {}, {}, #names
    end,
    on_reset = function(d) d.own.free, d.state.out[CONTROL] = {}, nil end,
    load = function(d, state)
      d.state = { out = state.out or {}, heard = state.heard or {} }
      d.own.free = {}
    end,
  }
end

return require("minikvm.strict").module(M, "devices.console")
