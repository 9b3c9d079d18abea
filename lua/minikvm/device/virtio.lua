-- device/virtio.lua - kvm.virtio{...}: a virtio device in Lua over PCI (Virtual I/O Device 1.2:
-- chapter 2 and 4.1), which an unmodified driver drives.
--
-- The transport is a PCI function of this file's: common configuration, device's configuration and
-- notifications in BAR 0; the ISR there is the core's (src/dev/virtio.h), and for a device in C so
-- are notifications and queues. Queues are split ones; the core reads and checks what a driver puts
-- there (src/dev/virtq.h). What cannot be is counted in d.state.virtio.errors and sets NEEDS_RESET:
-- the device stands still until its driver resets it, and nothing else happens.

local core = require "minikvm.core"
local device = require "minikvm.device"
local options = require "minikvm.options"
local pci = require "minikvm.device.pci"
local virtqueue = require "minikvm.device.virtqueue"

local M = {}

-- ---- what is where (4.1.4) ----

local COMMON <const>, ISR <const>, DEVICE <const>, NOTIFY <const> = 0, 0x1000, 0x2000, 0x3000
local COMMON_SIZE <const>, DEVICE_SIZE <const>, BAR_SIZE <const> = 0x38, 0x1000, 0x4000
local VENDOR_CAP <const>, BAR <const> = 9, 0
local VENDOR <const>, FIRST_DEVICE <const> = 0x1af4, 0x1040
local NONE <const> = 0xffff -- no vector of MSI-X
local QUEUES_MAX <const>, SIZE_MAX <const> = 64, 1024

local FEATURES_OK <const>, DRIVER_OK <const> = 8, virtqueue.DRIVER_OK -- of STATUS
local NEEDS_RESET <const> = virtqueue.NEEDS_RESET
local VERSION_1 <const> = 1 << 32
local OWN <const> = virtqueue.INDIRECT | virtqueue.EVENT | VERSION_1 -- of transport and queues
local DEVICE_BITS <const> = 0xffffff | 0x3fff << 50 -- of the device's kind: 2.2

local broken, queue_of, is_live = virtqueue.broken, virtqueue.queue_of, virtqueue.is_live
local serve, serve_all = virtqueue.serve, virtqueue.serve_all

-- ---- its state ----

local function virtio_of(d) return d.state.virtio end

local function features_of(d) return d.own.virtio.features end

---As after a reset by the driver, which keeps what was counted.
local function reset_driver(d)
  local p, v = d.own.virtio, virtio_of(d)
  p.generation = p.generation + 1
  v.accepted, v.broken, v.taken, v.used, v.open = 0, false, {}, {}, {}
  for i = 0, p.queues - 1 do
    v.taken[i], v.used[i], v.open[i] = 0, 0, {}
    d.reg.QUEUE_SIZE[i], d.reg.QUEUE_ENABLE[i], d.reg.QUEUE_MSIX[i] = p.sizes[i], 0, NONE
    d.reg.QUEUE_DESC[i], d.reg.QUEUE_DRIVER[i], d.reg.QUEUE_DEVICE[i] = 0, 0, 0
  end
  for _, name in ipairs{ "DEVICE_SELECT", "DRIVER_SELECT", "DRIVER_FEATURE", "STATUS",
                         "QUEUE_SELECT" } do
    d.reg[name] = 0
  end
  d.reg.CONFIG_MSIX = NONE
  d:cancel "virtio"
  core.virtio_stop(p.core)
  core.virtio_isr(p.core, 0)
end

-- ---- registers ----

local function half(value, select) return select < 2 and value >> 32 * select & 0xffffffff or 0 end

local readers <const> = {
  DEVICE_FEATURE = function(d) return half(features_of(d), d.reg.DEVICE_SELECT) end,
  DRIVER_FEATURE = function(d) return half(virtio_of(d).accepted, d.reg.DRIVER_SELECT) end,
  NUM_QUEUES = function(d) return d.own.virtio.queues end,
  QUEUE_NOTIFY_OFF = function(d) return d.reg.QUEUE_SELECT end,
  STATUS = function(d) -- not 0 before a reset is over (2.4.2)
    local p, status = d.own.virtio, d.reg.STATUS
    return status == 0 and core.virtio_busy(p.core) and p.status_before or status
  end,
}

local function write_driver_feature(d, _, value)
  local v, select = virtio_of(d), d.reg.DRIVER_SELECT
  if select > 1 or d.reg.STATUS & FEATURES_OK ~= 0 then return end
  v.accepted = v.accepted & ~(0xffffffff << 32 * select) | value << 32 * select
end

---FEATURES_OK stays only for what was offered (3.1.1).
local function write_status(d, _, value)
  local v = virtio_of(d)
  if value == 0 then
    d.own.virtio.status_before = d.reg.STATUS
    reset_driver(d)
    if d.own.virtio.on_reset then d.own.virtio.on_reset(d) end
    return
  end
  if v.accepted & ~features_of(d) ~= 0 or v.accepted & VERSION_1 == 0 then
    value = value & ~FEATURES_OK
  end
  d.reg.STATUS = value & ~NEEDS_RESET | (v.broken and NEEDS_RESET or 0)
  if value & DRIVER_OK ~= 0 then serve_all(d) end
end

local function write_queue_size(d, _, value, _, i)
  if value == 0 or value > d.own.virtio.sizes[i] or value & value - 1 ~= 0 then
    d.reg.QUEUE_SIZE[i] = d.own.virtio.sizes[i]
    broken(d, ("queue %d: a size of %d: it is a power of two, at most %d"):format(i, value,
      d.own.virtio.sizes[i]))
  end
end

local function write_queue_enable(d, _, value, _, i)
  d.reg.QUEUE_ENABLE[i] = value & 1
  if value & 1 == 0 then return end
  local ok, why = core.virtq_check(d.vm.memory, queue_of(d, i))
  if not ok then broken(d, ("queue %d: %s"):format(i, why)) end
end

local writers <const> = {
  DRIVER_FEATURE = write_driver_feature, STATUS = write_status, QUEUE_SIZE = write_queue_size,
  QUEUE_ENABLE = write_queue_enable,
  CONFIG_MSIX = function(d) d.reg.CONFIG_MSIX = NONE end,
  QUEUE_MSIX = function(d, _, _, _, i) d.reg.QUEUE_MSIX[i] = NONE end,
}

---The common configuration (4.1.4.3).
local function registers(queues)
  local function banked(name, width)
    return { name = name, width = width, bank = "QUEUE_SELECT", banks = queues }
  end
  return {
    [0x00] = { name = "DEVICE_SELECT", width = 4 },
    [0x04] = { name = "DEVICE_FEATURE", width = 4, access = "ro" },
    [0x08] = { name = "DRIVER_SELECT", width = 4 }, [0x0c] = { name = "DRIVER_FEATURE", width = 4 },
    [0x10] = { name = "CONFIG_MSIX", width = 2 },
    [0x12] = { name = "NUM_QUEUES", width = 2, access = "ro" },
    [0x14] = { name = "STATUS", width = 1 },
    [0x15] = { name = "GENERATION", width = 1, access = "ro" },
    [0x16] = { name = "QUEUE_SELECT", width = 2 },
    [0x18] = banked("QUEUE_SIZE", 2), [0x1a] = banked("QUEUE_MSIX", 2),
    [0x1c] = banked("QUEUE_ENABLE", 2),
    [0x1e] = { name = "QUEUE_NOTIFY_OFF", width = 2, access = "ro" },
    [0x20] = banked("QUEUE_DESC", 8), [0x28] = banked("QUEUE_DRIVER", 8),
    [0x30] = banked("QUEUE_DEVICE", 8),
  }
end

-- ---- the device's own configuration, and notifications ----

local function config_bytes(d)
  local config = d.own.virtio.config
  if type(config) == "string" then return config end
  local bytes = config(d)
  if type(bytes) == "string" then return bytes end
  error(("device %s: its 'config' returned a %s, not the bytes"):format(d.name, type(bytes)), 0)
end

local function read_config(d, offset, size)
  local bytes = config_bytes(d):sub(offset + 1, offset + size)
  return (("<I" .. size):unpack(bytes .. ("\0"):rep(size - #bytes)))
end

local function write_config(d, offset, value, size)
  local write = d.own.virtio.config_write
  if write then write(d, offset, value, size) end
end

local function notify(d, offset)
  local i, p = offset // 4, d.own.virtio
  if i >= p.queues or not is_live(d, i) then return end
  if p.new_core then core.virtio_kick(p.core, i) else serve(d, i) end
end

local function hook_rest(d)
  local window = d.bars[BAR]
  d:keep(window:override({ DEVICE, DEVICE + DEVICE_SIZE - 1 }, {
    name = d.name .. " configuration",
    read = function(offset, size) return read_config(d, offset - DEVICE, size) end,
    write = function(offset, value, size) write_config(d, offset - DEVICE, value, size) end }))
  if d.own.virtio.new_core then return end
  d:keep(window:override({ NOTIFY, NOTIFY + 4 * d.own.virtio.queues - 1 }, {
    name = d.name .. " notify", write = function(offset) notify(d, offset - NOTIFY) end }))
end

-- ---- the same by way of configuration space (4.1.4.9) ----

local CFG_AT <const> = 0x40 -- the first capability

---Where an access goes, and its bytes; nil when it goes nowhere.
local function window_access(d)
  local offset, size = d.reg.CFG_OFFSET, d.reg.CFG_LENGTH
  if d.reg.CFG_BAR == BAR and (size == 1 or size == 2 or size == 4) and offset % size == 0
     and offset < BAR_SIZE then
    return offset, size
  end
end

local function read_window(d)
  local offset, size = window_access(d)
  if not offset or offset >= NOTIFY then return 0 end
  if offset >= DEVICE then return read_config(d, offset - DEVICE, size) end
  if offset == ISR then return core.virtio_isr(d.own.virtio.core, 0) end
  return d.places[1].read(offset, size)
end

local function write_window(d, _, value)
  local offset, size = window_access(d)
  if not offset then return end
  value = value & (1 << 8 * size) - 1
  if offset >= NOTIFY then return notify(d, offset - NOTIFY) end
  if offset >= DEVICE then return write_config(d, offset - DEVICE, value, size) end
  d.places[1].write(offset, value, size)
end

local CFG_REGISTERS <const> = {
  [CFG_AT + 4] = { name = "CFG_BAR", width = 1 }, [CFG_AT + 8] = { name = "CFG_OFFSET", width = 4 },
  [CFG_AT + 12] = { name = "CFG_LENGTH", width = 4 },
  [CFG_AT + 16] = { name = "CFG_DATA", width = 4 },
}

---Tells the driver that the device's configuration has changed (2.5).
---@param d minikvm.device
function M.config_changed(d)
  options.argument("virtio.config_changed", "device", d, device.check)
  if not d.own.virtio then
    core.blame(("virtio.config_changed: device %s was not made by kvm.virtio"):format(d.name))
  end
  d.reg.GENERATION = d.reg.GENERATION + 1 & 0xff
  if d.reg.STATUS & DRIVER_OK ~= 0 then
    core.virtio_interrupt(d.own.virtio.core, virtqueue.IS_CONFIG)
  end
end

-- ---- describing one ----

local function capability(kind, offset, length, more)
  more = more or ""
  local head = ("<BBBBBBI4I4"):pack(16 + #more, kind, BAR, 0, 0, 0, offset, length)
  return { id = VENDOR_CAP, bytes = head .. more }
end

local function capabilities(queues)
  return { capability(5, 0, 0, ("\0"):rep(4)), -- at CFG_AT
           capability(1, COMMON, COMMON_SIZE), capability(3, ISR, 1),
           capability(4, DEVICE, DEVICE_SIZE),
           capability(2, NOTIFY, 4 * queues, ("<I4"):pack(4)) }
end

local function check_queues(value)
  if math.type(value) == "integer" then
    local sizes = {}
    for i = 1, math.min(value, QUEUES_MAX + 1) do sizes[i] = 256 end
    value = sizes
  end
  if type(value) ~= "table" or #value < 1 or #value > QUEUES_MAX then
    return nil, ("expected how many, 1 to %d, or a list of their sizes"):format(QUEUES_MAX)
  end
  for _, size in ipairs(value) do
    if math.type(size) ~= "integer" or size < 1 or size > SIZE_MAX or size & size - 1 ~= 0 then
      return nil, ("a size is a power of two, 1 to %d, got %s"):format(SIZE_MAX, tostring(size))
    end
  end
  return table.move(value, 1, #value, 0, {})
end

local VIRTIO <const> = options.declare("kvm.virtio", {
  id = "integer", queues = check_queues, features = "integer", class = "integer",
  config = function(value)
    if type(value) == "string" or type(value) == "function" then return value end
    return nil, "expected the bytes, or a function that returns them"
  end,
  config_write = "function", on_buffer = "function", on_reset = "function",
}, device.OPTIONS)
VIRTIO.irq = nil

---What the instances of a definition share.
local function parts(o, new_core)
  local queues = #o.queues + 1
  return { queues = queues, sizes = o.queues, features = (o.features or 0) | OWN,
           config = o.config or "", config_write = o.config_write, on_buffer = o.on_buffer,
           on_reset = o.on_reset, new_core = new_core }
end

---The core's part.
local function make_core(d, shared)
  return (shared.new_core or core.virtio_new)(d.pci, shared.queues, function(why)
    if not d.gone then broken(d, why) end
  end)
end

local function is_index(value) return math.type(value) == "integer" and value >> 16 == 0 end

---Whether what a snapshot has of one queue is that.
local function is_queue(v, i)
  local open = v.open[i]
  for _, head in ipairs(type(open) == "table" and open or {}) do
    if not is_index(head) then return false end
  end
  return is_index(v.taken[i]) and is_index(v.used[i]) and type(open) == "table"
end

---Raises when a state is not that of such a device.
local function check_saved(d, shared, saved)
  local queues, v = shared.queues, type(saved) == "table" and saved.virtio or {}
  for _, key in ipairs{ "taken", "used", "open" } do
    if type(v[key]) ~= "table" or v[key][queues] ~= nil then v = {} end
  end
  local fits = math.type(v.accepted) == "integer" and math.type(v.errors) == "integer"
  for i = 0, queues - 1 do fits = fits and is_queue(v, i) end
  if not fits then
    error(("device %s: the state that was saved is not that of a virtio device with %d queue%s")
      :format(d.name, queues, queues == 1 and "" or "s"), 0)
  elseif v.accepted & ~shared.features ~= 0 then
    error(("device %s: its driver uses features that it does not have: 0x%x"):format(d.name,
      v.accepted & ~shared.features), 0)
  end
end

---The functions of a device in Lua around those of virtio.
local function wrap(o, shared)
  local def = { name = o.name, irq = true, timers = { virtio = serve_all } }
  for name, fn in pairs(o.timers or {}) do def.timers[name] = fn end
  def.reset = function(d)
    local own, before = {}, d.own.virtio
    for key, value in pairs(shared) do own[key] = value end
    own.generation = before and before.generation or 0
    own.core = before and before.core or make_core(d, shared)
    d.own.virtio = own
    d.state.virtio = { errors = 0 }
    reset_driver(d)
    if o.reset then o.reset(d) end
  end
  def.attach = function(d)
    hook_rest(d)
    if o.attach then o.attach(d) end
  end
  def.replaced = function(d)
    for key, value in pairs(shared) do d.own.virtio[key] = value end
    if o.replaced then o.replaced(d) end
  end
  def.save = function(d)
    virtqueue.count(d)
    d.state.virtio.isr = core.virtio_isr(d.own.virtio.core)
    return { virtio = d.state.virtio, state = o.save and o.save(d) or d.state }
  end
  def.load = function(d, saved)
    check_saved(d, shared, saved)
    d.own.virtio.generation = d.own.virtio.generation + 1
    core.virtio_stop(d.own.virtio.core)
    if o.load then o.load(d, saved.state) else d.state = saved.state end
    d.state.virtio = saved.virtio
    core.virtio_isr(d.own.virtio.core, saved.virtio.isr or 0)
    virtqueue.deliver_again(d)
  end
  def.detach = function(d)
    local p = d.own.virtio
    if not p then return end -- it was not there yet when its beginning failed
    p.generation = p.generation + 1
    core.virtio_close(p.core)
    if o.detach then o.detach(d) end
  end
  return def
end

---Describes a virtio device, for vm.pci:attach().
---  name, reset, save, load, timers, attach, detach, replaced   as for kvm.device; d.state.virtio
---                 is the transport's
---  id             the kind of device (chapter 5): 1 network, 2 block, 3 console, 4 entropy, …
---  class          of PCI (0xff0000)
---  queues         how many, of 256 entries each, or a list of their sizes: powers of two, 1024 at
---                 most
---  features       bits of the device's kind; those of the transport are added
---  config         the bytes of its configuration space, or function(device) that returns them
---  config_write   function(device, offset, value, size): the driver writes there
---  on_buffer      function(device, queue, buffer): the driver has made one available; it is
---                 answered by buffer:done(), at once or later. What was not answered when a
---                 snapshot was taken
---                 comes again after it is restored
---  on_reset       function(device): the driver has reset it
---@param def table
---@return minikvm.definition
function M.define(def) return M.define_in(def) end

---The same for one whose queues are served in C.
---@param def table
---@param kind? string  who makes such a one: "net.new"
---@param new_core? fun(pci: userdata, queues: integer, broken: fun(why: string)): userdata
---@return minikvm.definition
function M.define_in(def, kind, new_core)
  local o = options.check("kvm.virtio", def, VIRTIO)
  if not (o.id and o.queues and (o.on_buffer or new_core)) then
    core.blame("kvm.virtio: it needs 'id', 'queues' and 'on_buffer'")
  elseif o.id < 1 or o.id > 63 then
    core.blame(("kvm.virtio: option 'id': a kind of device is 1 to 63, got %d"):format(o.id))
  elseif (o.features or 0) & ~DEVICE_BITS ~= 0 then
    core.blame("kvm.virtio: option 'features': bits 0 to 23 and 50 to 63 are the device's")
  end
  o.name = o.name or "virtio"
  local shared = parts(o, new_core)
  local full = wrap(o, shared)
  full.vendor, full.device, full.revision = VENDOR, FIRST_DEVICE + o.id, 1
  full.class, full.subsystem = o.class or 0xff0000, { VENDOR, FIRST_DEVICE + o.id }
  full.capabilities = capabilities(shared.queues)
  full.config = { registers = CFG_REGISTERS, read = { CFG_DATA = read_window },
                  write = { CFG_DATA = write_window } }
  full.bars = { [BAR] = { registers = registers(shared.queues), size = BAR_SIZE, read = readers,
                          write = writers } }
  local made = pci.define(full)
  made.kind = kind or "kvm.virtio" -- one in C has no other code
  return made
end

return M
