-- device/virtqueue.lua - the buffers of a virtio device in Lua: taken from its queues, handed to
-- the device's function, given back. The core reads and checks what a driver puts into the queues
-- (src/dev/virtq.h); whether there is a transport, and which, is not known here.
--
-- A device has d.reg.STATUS and the registers of its queues, d.state.virtio (what was taken and
-- used) and d.own.virtio (what it is, and in `core` the core's part: src/dev/virtio.h).

local class = require "minikvm.class"
local core = require "minikvm.core"
local options = require "minikvm.options"
local strict = require "minikvm.strict"

local M = {}

M.DRIVER_OK, M.NEEDS_RESET = 4, 64 -- of STATUS (2.1)
M.IS_QUEUE, M.IS_CONFIG = 1, 2 -- of ISR (4.1.4.5)
M.INDIRECT, M.EVENT = 1 << 28, 1 << 29 -- features (2.7.5.3, 2.7.10)
local DRIVER_OK <const>, NEEDS_RESET <const> = M.DRIVER_OK, M.NEEDS_RESET

---Bytes that buffer:read() gives at once.
M.READ_MAX = 16 << 20

-- ---- buffers ----

---@class minikvm.buffer  what a driver has made available
local BUFFER <const> = "minikvm.buffer"
local Buffer, buffer_meta = class(BUFFER)
strict.seal(Buffer, buffer_meta, "buffer",
            { "queue", "readable", "writable", "written", "device", "head", "into", "out", "at",
              "generation", "over" })

local function check(buffer, what)
  options.self(what, buffer, BUFFER)
  if buffer.over then
    core.blame(("%s: the buffer of device %s was answered already"):format(what,
      buffer.device.name))
  end
end

---Whether the device was reset since the buffer was taken: then nothing comes of it.
---@return boolean
function Buffer:is_stale()
  options.self("buffer:is_stale", self, BUFFER)
  return self.generation ~= self.device.own.virtio.generation
end

---Calls fn(address, length) for the pieces of { address, length, ... }, from byte `from` on, that
---have so many bytes; a part of no bytes may be anywhere.
local function each_piece(parts, from, bytes, fn)
  for i = 1, #parts, 2 do
    local skip = math.min(from, parts[i + 1])
    local length = math.min(parts[i + 1] - skip, bytes)
    if length > 0 then fn(parts[i] + skip, length) end
    from, bytes = from - skip, bytes - length
  end
end

local function read_parts(memory, parts, from, bytes)
  local pieces = {}
  each_piece(parts, from, bytes, function(at, length)
    pieces[#pieces + 1] = memory:read(at, length)
  end)
  return table.concat(pieces)
end

local function write_parts(memory, parts, from, text)
  local done = 0
  each_piece(parts, from, #text, function(at, length)
    memory:write(at, text:sub(done + 1, done + length))
    done = done + length
  end)
end

---The next bytes from the driver: all that are left, or at most `bytes` (16 MiB); "" at the end.
---@param bytes? integer
---@return string
function Buffer:read(bytes)
  check(self, "buffer:read")
  bytes = bytes or M.READ_MAX
  options.argument("buffer:read", "bytes", bytes, "integer")
  if bytes < 0 then core.blame "buffer:read: 'bytes': expected 0 or more" end
  if self:is_stale() then return "" end
  local text = read_parts(self.device.vm.memory, self.out, self.at, math.min(bytes, M.READ_MAX))
  self.at = self.at + #text
  return text
end

---Bytes for the driver, behind those that were written before.
---@param text string
---@return boolean? done  nil when they do not fit: then none was written
---@return string? why
function Buffer:write(text)
  check(self, "buffer:write")
  options.argument("buffer:write", "text", text, "string")
  if self:is_stale() then return true end
  if #text > self.writable - self.written then
    return nil, ("%d bytes do not fit: the buffer has room for %d"):format(#text,
      self.writable - self.written)
  end
  write_parts(self.device.vm.memory, self.into, self.written, text)
  self.written = self.written + #text
  return true
end

---The same at a place of its own, whatever was written before: a status behind the data.
---@param at integer  bytes from the first one to write
---@param text string  which fits
function Buffer:put(at, text)
  check(self, "buffer:put")
  options.argument("buffer:put", "at", at, "integer")
  options.argument("buffer:put", "text", text, "string")
  if at < 0 or at + #text > self.writable then
    core.blame(("buffer:put: %d bytes at %d do not fit into %d"):format(#text, at, self.writable))
  end
  if self:is_stale() then return end
  write_parts(self.device.vm.memory, self.into, at, text)
  self.written = math.max(self.written, at + #text)
end

-- ---- the state of a device ----

local function virtio_of(d) return d.state.virtio end

---Something that cannot be: the driver has to begin anew (2.1).
local function broken(d, why)
  local v = virtio_of(d)
  v.errors, v.last_error, v.broken = v.errors + 1, why, true
  d.reg.STATUS = d.reg.STATUS | NEEDS_RESET
  core.virtio_stop(d.own.virtio.core)
  if d.reg.STATUS & DRIVER_OK ~= 0 then
    core.virtio_interrupt(d.own.virtio.core, M.IS_CONFIG)
  end
end

---A queue as the core takes it.
local function queue_of(d, i)
  local accepted = virtio_of(d).accepted
  return { size = d.reg.QUEUE_SIZE[i], desc = d.reg.QUEUE_DESC[i], driver = d.reg.QUEUE_DRIVER[i],
           device = d.reg.QUEUE_DEVICE[i], indirect = accepted & M.INDIRECT ~= 0,
           event = accepted & M.EVENT ~= 0 }
end

local function is_live(d, i)
  return d.reg.STATUS & DRIVER_OK ~= 0 and not virtio_of(d).broken and d.reg.QUEUE_ENABLE[i] == 1
end

-- ---- queues ----

local function interrupt(d, i, queue, before)
  local v = virtio_of(d)
  if core.virtq_wants_irq(d.vm.memory, queue, before, v.used[i]) then
    core.virtio_interrupt(d.own.virtio.core, M.IS_QUEUE)
  end
end

---Gives the buffer back, with what was written; once, now or later.
function Buffer:done()
  check(self, "buffer:done")
  self.over = true
  local d, i = self.device, self.queue
  if self:is_stale() then return end
  local v, queue = virtio_of(d), queue_of(d, i)
  for k, head in ipairs(v.open[i]) do
    if head == self.head then table.remove(v.open[i], k) break end
  end
  if not is_live(d, i) then return end
  local before = v.used[i]
  local ok, why = core.virtq_push(d.vm.memory, queue, before, self.head, self.written)
  if not ok then return broken(d, why) end
  v.used[i] = before + 1 & 0xffff
  interrupt(d, i, queue, before)
end

---What the driver made available is no request: it is told so by NEEDS_RESET, and `why` is counted.
---@param why string
function Buffer:reject(why)
  check(self, "buffer:reject")
  options.argument("buffer:reject", "why", why, "string")
  self.over = true
  if not self:is_stale() then broken(self.device, why) end
end

---The buffer of a head for the device's function; false when it is none.
local function deliver(d, i, queue, head)
  local out, into, readable, writable = core.virtq_walk(d.vm.memory, queue, head)
  if not out then
    broken(d, into)
    return false
  end
  local p = d.own.virtio
  p.on_buffer(d, i, setmetatable({
    device = d, queue = i, head = head, generation = p.generation, over = false,
    out = out, readable = readable, at = 0, into = into, writable = writable, written = 0,
  }, buffer_meta))
  return true
end

---Hands on what is available: as many as the queue has entries, then others have their turn. More
---than that cannot be unanswered, for a descriptor is the device's until it is used (2.7.13).
local function serve(d, i)
  local v, left = virtio_of(d), math.max(1, d.reg.QUEUE_SIZE[i])
  while is_live(d, i) and left > 0 do
    local queue = queue_of(d, i)
    core.virtq_want_notify(d.vm.memory, queue, v.taken[i])
    local head, why = core.virtq_next(d.vm.memory, queue, v.taken[i])
    if head == nil then return broken(d, why) end
    if not head then return end
    if #v.open[i] >= queue.size then
      return broken(d, ("queue %d: more buffers are not answered than it has entries"):format(i))
    end
    v.taken[i], left = v.taken[i] + 1 & 0xffff, left - 1
    table.insert(v.open[i], head)
    if not deliver(d, i, queue, head) then return end
  end
  if is_live(d, i) then
    d:cancel "virtio" -- one is enough for all queues
    d:after(0, "virtio")
  end
end

---Queues that the core serves: it begins where they are, or looks at them.
local function start(d, i)
  if not is_live(d, i) then return end
  local v, queue = virtio_of(d), queue_of(d, i)
  queue.taken, queue.used, queue.open = v.taken[i], v.used[i], v.open[i]
  core.virtio_start(d.own.virtio.core, i, queue, v.accepted)
end

local function serve_all(d)
  for i = 0, d.own.virtio.queues - 1 do
    if d.own.virtio.new_core then start(d, i) else serve(d, i) end
  end
end

---What the core has taken and used of them.
local function count(d)
  local v = virtio_of(d)
  for i = 0, d.own.virtio.new_core and d.own.virtio.queues - 1 or -1 do
    if is_live(d, i) then
      v.taken[i], v.used[i], v.open[i] = core.virtio_counts(d.own.virtio.core, i)
    end
  end
end

---After a load: what was taken and not answered is handed on again.
local function deliver_again(d)
  local v = virtio_of(d)
  if d.own.virtio.new_core then return serve_all(d) end
  for i = 0, d.own.virtio.queues - 1 do
    for _, head in ipairs(table.move(v.open[i], 1, #v.open[i], 1, {})) do
      if is_live(d, i) then deliver(d, i, queue_of(d, i), head) end
    end
  end
end

M.broken, M.queue_of, M.is_live = broken, queue_of, is_live
M.serve, M.serve_all, M.deliver_again, M.count = serve, serve_all, deliver_again, count

return M
