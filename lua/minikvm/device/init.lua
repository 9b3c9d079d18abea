-- device.lua - devices written in Lua: kvm.device{...}, vm:attach(), and what their handlers get.
--
-- A device is described once and attached as often as one likes; each attachment is an instance
-- with a state of its own. Its registers (registers.lua) lie in ports or in guest-physical memory
-- outside RAM, hooked by vm.ports or vm.mmio. Handlers run on the vCPU's thread under the Lua lock.

local class = require "minikvm.class"
local core = require "minikvm.core"
local options = require "minikvm.options"
local disks = require "minikvm.device.disk"
local registers = require "minikvm.device.registers"
local strict = require "minikvm.strict"

local M = {}

---@class minikvm.definition  what kvm.device returns: see M.define
local DEFINITION <const> = "minikvm.definition"
local Definition, definition_meta = class(DEFINITION)

---@class minikvm.device  an attached instance: what handlers get as their first argument
---@field name string
---@field vm minikvm.vm
---@field state table  the device's own; empty after a reset, before its reset function
---@field own table  what is the device's own but no state: handles, other VMs; not saved, not reset
---@field reg table<string, integer>  the registers' values: what was written last, or put there
---@field irq integer?  its interrupt line
---@field refused integer  accesses that its `accepts` function turned away
local KIND <const> = "minikvm.device"
local Device, device_meta = class(KIND)
strict.seal(Device, device_meta, "device",
            { "name", "vm", "state", "own", "reg", "irq", "refused", "definition", "list", "handles",
              "disks", "timers", "gone", "readers", "read_any", "writers", "write_any" },
            "what is the device's own goes into d.state, or into d.own if it is not to be saved")

-- ---- describing a device ----

local function handler(value)
  if type(value) == "function" then return value end
  if type(value) ~= "table" then return nil, "expected a function, or functions by register" end
  for name, fn in pairs(value) do
    if type(fn) ~= "function" then
      return nil, ("%s: expected a function, got a %s"):format(tostring(name), type(fn))
    end
  end
  return value
end

local function width(value)
  if registers.WIDTHS[value] then return value end
  return nil, "a width is 1, 2, 4 or 8 bytes"
end

local DEVICE <const> = {
  name = "text", width = width, size = "integer", irq = "boolean",
  registers = function(value)
    if type(value) == "table" then return value end
    return nil, "expected a table of offsets and names"
  end,
  read = handler, write = handler, accepts = "function",
  reset = "function", save = "function", load = "function",
  attach = "function", detach = "function",
}

local fields = { "list", "names", "has_registers" }
for key in pairs(DEVICE) do fields[#fields + 1] = key end
strict.seal(Definition, definition_meta, "device definition", fields)

local function check_names(where, handlers, names)
  if type(handlers) ~= "table" then return end
  for name in pairs(handlers) do
    if not names[name] then
      core.blame(("kvm.device: %s: there is no register %s"):format(where, tostring(name)))
    end
  end
end

---Describes a device.
---  name       for messages and statistics
---  registers  { [offset] = "NAME" | { name=, width=, reset=, access="rw"|"ro"|"wo" } }, in bytes
---             from the base; without registers, handlers get offset and size instead
---  width      bytes of a register that says none: the smallest distance between two otherwise
---  size       bytes the device occupies: to the end of its last register otherwise
---  irq        true: it needs an interrupt line
---  read       function(device, register, size) -> integer, or such functions by register; a
---             register without one reads as device.reg[register]
---  write      function(device, register, value, size), or such functions by register;
---             device.reg[register] has the value already
---  accepts    function(device, offset, size, is_write) -> boolean: whether it answers such an
---             access; others read all ones, go nowhere, and count in device.refused
---  reset      function(device): after attach() and vm:reset(), with an empty device.state
---  save       function(device) -> value of nil, booleans, numbers, strings and tables of them; a
---             copy of device.state and device.reg otherwise
---  load       function(device, value): what save gave; the device's timers are gone
---  attach     function(device), detach function(device): when it comes and goes
---@param def table
---@return minikvm.definition
function M.define(def)
  local o = options.check("kvm.device", def, DEVICE)
  o.name = o.name or "device"
  local list, names = registers.read(o.registers or {}, o.width)
  if not list then core.blame("kvm.device: " .. names) end
  o.list, o.names, o.has_registers = list, names, o.registers ~= nil
  local last = list[#list]
  o.size = o.size or (last and last.offset + last.width) or 1
  if o.size < 1 then core.blame("kvm.device: a size is 1 byte or more") end
  if last and last.offset + last.width > o.size then
    core.blame(("kvm.device: register %s lies behind its %d bytes"):format(last.name, o.size))
  end
  check_names("read", o.read, names)
  check_names("write", o.write, names)
  return setmetatable(o, definition_meta)
end

-- ---- its accesses ----

---Handlers of a device without registers: they get offsets.
local function plain_handlers(d)
  local read, write = d.read_any, d.write_any
  return {
    read = read and function(offset, size) return read(d, offset, size) end,
    write = write and function(offset, value, size) return write(d, offset, value, size) end,
  }
end

---The same handlers for addresses, and only for what the device accepts.
local function bus_handlers(d, base)
  local inner = d.definition.has_registers and registers.handlers(d) or plain_handlers(d)
  local accepts = d.definition.accepts or function() return true end
  local read, write = inner.read, inner.write
  return {
    read = read and function(address, size)
      if accepts(d, address - base, size, false) then return read(address - base, size) end
      d.refused = d.refused + 1
      return registers.mask(size)
    end,
    write = write and function(address, value, size)
      if accepts(d, address - base, size, true) then return write(address - base, value, size) end
      d.refused = d.refused + 1
    end,
  }
end

-- ---- interrupt lines: one may be shared ----

---Which devices raise which line: [vm][line][device] = true.
local raised = setmetatable({}, { __mode = "k" })

local function lines_of(vm)
  raised[vm] = raised[vm] or {}
  return raised[vm]
end

---Whether one of the devices on a line raises it.
local function is_raised(vm, line)
  local devices = lines_of(vm)[line]
  return devices ~= nil and next(devices) ~= nil
end

local function set_line(d, level)
  if not d.irq then
    core.blame(("device %s has no interrupt line: attach it with irq = LINE"):format(d.name))
  end
  local lines = lines_of(d.vm)
  lines[d.irq] = lines[d.irq] or {}
  if (lines[d.irq][d] ~= nil) == level then return end
  lines[d.irq][d] = level or nil
  d.vm:irq(d.irq, is_raised(d.vm, d.irq))
end

---Raises the device's interrupt line; it stays up until lower().
function Device:raise()
  options.self("device:raise", self, KIND)
  set_line(self, true)
end

---Lowers the device's interrupt line; one that others raise too stays up.
function Device:lower()
  options.self("device:lower", self, KIND)
  set_line(self, false)
end

-- ---- what handlers may use ----

local function seconds_from(least)
  return function(value)
    if type(value) == "number" and value >= least and value <= 1e9 then return value end
    return nil, ("expected seconds, %g to 1e9, got %s"):format(least, tostring(value))
  end
end
local SECONDS <const> = { after = seconds_from(0), every = seconds_from(1e-5) }

local function start_timer(d, method, seconds, fn)
  local where = "device:" .. method
  options.self(where, d, KIND)
  options.argument(where, "seconds", seconds, SECONDS[method])
  options.argument(where, "fn", fn, "function")
  local clock = d.vm.clock
  local timer = clock[method](clock, seconds, function() fn(d) end)
  d.timers[timer] = true
  return timer
end

---Calls fn(device) after some seconds, unless the device is reset or detached before.
---@param seconds number
---@param fn fun(device: minikvm.device)
---@return minikvm.handle
function Device:after(seconds, fn)
  return start_timer(self, "after", seconds, fn)
end

---Calls fn(device) every so many seconds, until the device is reset or detached.
---@param seconds number
---@param fn fun(device: minikvm.device)
---@return minikvm.handle
function Device:every(seconds, fn)
  return start_timer(self, "every", seconds, fn)
end

---A disk of kvm.disk becomes a part of the device: what was written to it is in snapshots, goes with
---a reset, and it is closed when the device goes.
---@param disk minikvm.disk
---@return minikvm.disk
function Device:use_disk(disk)
  options.self("device:use_disk", self, KIND)
  return disks.use(self, disk)
end

local function is_handle(value)
  local kind = core.kind(value)
  if kind == "minikvm.handle" or kind == "minikvm.timer"
     or type(value) == "table" and getmetatable(value) == "minikvm.handle" then -- one made in Lua
    return value
  end
  return nil, ("expected a handle, got a %s"):format(type(value))
end

---Keeps a further hook of the device, such as one from vm.ports:on(), which goes with it.
---@param handle minikvm.handle
---@return minikvm.handle
function Device:keep(handle)
  options.self("device:keep", self, KIND)
  options.argument("device:keep", "handle", handle, is_handle)
  self.handles[#self.handles + 1] = handle
  return handle
end

---Whether a guest-physical range lies in RAM that a device may write to.
---@param address integer  as the guest gave it: any 64 bits
---@param length integer  bytes
---@return boolean
function Device:is_ram(address, length)
  options.self("device:is_ram", self, KIND)
  options.argument("device:is_ram", "address", address, "integer")
  options.argument("device:is_ram", "length", length, "integer")
  return self.vm.memory:has(address, length, true)
end

---Reads guest memory, as a device does on its own.
---@param address integer
---@param length integer  bytes
---@return string? bytes  nil when the range is not all RAM
---@return string? why
function Device:dma_read(address, length)
  options.self("device:dma_read", self, KIND)
  options.argument("device:dma_read", "address", address, "integer")
  options.argument("device:dma_read", "length", length, "integer")
  if self.vm.memory:has(address, length) then return self.vm.memory:read(address, length) end
  return nil, ("device %s: DMA of %d bytes from 0x%x is not all in RAM"):format(self.name, length,
                                                                             address)
end

---Writes guest memory.
---@param address integer
---@param bytes string
---@return boolean? done  nil when the range is not all RAM: then nothing was written
---@return string? why
function Device:dma_write(address, bytes)
  options.self("device:dma_write", self, KIND)
  options.argument("device:dma_write", "bytes", bytes, "string")
  if self:is_ram(address, #bytes) then
    self.vm.memory:write(address, bytes)
    return true
  end
  return nil, ("device %s: DMA of %d bytes to 0x%x is not all in RAM"):format(self.name, #bytes,
                                                                           address)
end

-- ---- life ----

---The devices of a VM, in the order in which they came.
local attached = setmetatable({}, { __mode = "k" })

---@param vm minikvm.vm
---@return minikvm.device[]
function M.of(vm) return attached[vm] or {} end

---Timers that are armed are held by the VM; those that are over are not worth a reference.
local function no_timers() return setmetatable({}, { __mode = "k" }) end

local function drop_timers(d)
  for timer in pairs(d.timers) do timer:remove() end
  d.timers = no_timers()
end

local function reset(d)
  drop_timers(d)
  if d.irq then set_line(d, false) end
  d.state, d.reg = {}, {}
  for _, r in ipairs(d.list) do d.reg[r.name] = r.reset end
  strict.fixed(d.reg, ("register of device %s"):format(d.name))
  disks.reset(d)
  if d.definition.reset then d.definition.reset(d) end
end

---vm:reset() does this when the VM itself is as new.
---@param vm minikvm.vm
function M.reset_all(vm)
  for line in pairs(raised[vm] or {}) do raised[vm][line] = nil end -- the PIC forgot them
  for _, d in ipairs(M.of(vm)) do reset(d) end
end

---Takes the device off its VM, which may be running.
function Device:detach()
  options.self("device:detach", self, KIND)
  if self.gone then return end
  self.gone = true
  for _, handle in ipairs(self.handles) do handle:remove() end
  drop_timers(self)
  if self.irq then set_line(self, false) end
  local list = M.of(self.vm)
  for i, other in ipairs(list) do
    if other == self then table.remove(list, i) break end
  end
  if self.definition.detach then self.definition.detach(self) end
  disks.close(self)
end

---Nothing is left to take off when the VM is closed already.
function device_meta:__close()
  if not self.gone and self.vm.state ~= "closed" then self:detach() end
end

---Accesses that its registers served so far.
function Device:hits()
  options.self("device:hits", self, KIND)
  local sum = 0
  for _, handle in ipairs(self.handles) do sum = sum + handle.hits end
  return sum
end

local function new_instance(vm, def, o)
  local read, write = def.read, def.write
  return setmetatable({
    name = o.name or def.name, vm = vm, definition = def, list = def.list, irq = o.irq,
    readers = type(read) == "table" and read or nil, read_any = type(read) == "function" and read
      or nil,
    writers = type(write) == "table" and write or nil, write_any = type(write) == "function"
      and write or nil,
    state = {}, own = {}, reg = {}, handles = {}, disks = {}, timers = no_timers(), refused = 0,
  }, device_meta)
end

local function place(d, def, o)
  local base = o.ports or o.mmio
  if not base then return end
  local handlers = bus_handlers(d, base)
  if not (handlers.read or handlers.write) then
    error(("device %s has neither registers nor handlers"):format(d.name), 0)
  end
  handlers.name = ("device %s"):format(d.name)
  if o.ports then
    d:keep(d.vm.ports:on(base, base + def.size - 1, handlers))
  else
    d:keep(d.vm.mmio:on(base, def.size, handlers))
  end
end

local ATTACH <const> = { ports = "integer", mmio = "integer", irq = "integer", name = "text" }

local function check_attach(def, opts)
  local o = options.check("vm:attach", opts, ATTACH)
  if o.ports and o.mmio then core.blame("vm:attach: give either 'ports' or 'mmio'") end
  if not (o.ports or o.mmio) and def.has_registers then
    core.blame(("vm:attach: device %s has registers: say where, with 'ports' or 'mmio'")
      :format(def.name))
  end
  if def.irq and not o.irq then
    core.blame(("vm:attach: device %s needs an interrupt line: irq = LINE"):format(def.name))
  end
  return o
end

---The device's own beginning; when that fails, nothing of it stays.
local function begin(d)
  local ok, why = pcall(function()
    reset(d)
    if d.definition.attach then d.definition.attach(d) end
  end)
  if ok then return end
  d:detach()
  core.blame(type(why) == "string" and why:gsub("^[^\n]-minikvm[^\n]-%.lua:%d+: ", "") or why)
end

---Attaches an instance of a device; the VM may be running.
---@param vm minikvm.vm
---@param def minikvm.definition
---@param opts { ports: integer?, mmio: integer?, irq: integer?, name: string? }  first port or
---  guest-physical address; interrupt line of the PIC; a name for this instance
---@return minikvm.device
function M.attach(vm, def, opts)
  if getmetatable(def) ~= DEFINITION then
    core.blame("vm:attach: expected a device made by kvm.device{...}")
  end
  local o = check_attach(def, opts)
  local d = new_instance(vm, def, o)
  if o.irq then vm:irq(o.irq, is_raised(vm, o.irq)) end -- raises when there is no such line
  local ok, why = pcall(place, d, def, o)
  if not ok then core.blame((tostring(why):gsub("^[^\n]-%.lua:%d+: ", ""))) end
  attached[vm] = attached[vm] or {}
  table.insert(attached[vm], d)
  begin(d)
  return d
end

-- ---- save and load ----

local function copy(value)
  if type(value) ~= "table" then return value end
  local new = {}
  for key, entry in pairs(value) do new[key] = copy(entry) end
  return new
end

---The states of all devices of a VM, in their order, and what was written to their disks.
---@param vm minikvm.vm
---@return table states
---@return table layers
function M.save_all(vm)
  local list, layers = {}, {}
  for i, d in ipairs(M.of(vm)) do
    local def = d.definition
    local value
    if def.save then value = copy(def.save(d)) else value = { state = copy(d.state) } end
    list[i] = { name = d.name, reg = copy(d.reg), value = value, disks = disks.save(d, layers),
                raised = d.irq and lines_of(d.vm)[d.irq] and lines_of(d.vm)[d.irq][d] or false }
  end
  return list, layers
end

---Whether save_all()'s list is one of these devices: nil and what differs otherwise.
---@param vm minikvm.vm
---@param list table
---@return boolean?
---@return string?
function M.fits(vm, list)
  local devices = M.of(vm)
  if #devices ~= #list then
    return nil, ("it has %d devices in Lua, the vm %d"):format(#list, #devices)
  end
  for i, saved in ipairs(list) do
    if saved.name ~= devices[i].name then
      return nil, ("its device %d is %q, the vm's %q"):format(i, saved.name, devices[i].name)
    end
    local why = disks.misfit(devices[i], saved.disks)
    if why then return nil, why end
  end
  return true
end

---Gives every device back what save_all() took.
---@param vm minikvm.vm
---@param list table
---@param layers table
function M.load_all(vm, list, layers)
  for i, d in ipairs(M.of(vm)) do
    local saved, def = list[i], d.definition
    drop_timers(d) -- those that belong to the saved state are for its load function to start
    d.reg = strict.fixed(copy(saved.reg), ("register of device %s"):format(d.name))
    disks.load(d, layers)
    if def.load then
      def.load(d, copy(saved.value))
    else
      d.state = copy(saved.value and saved.value.state or {})
    end
    if d.irq then
      lines_of(vm)[d.irq] = lines_of(vm)[d.irq] or {}
      lines_of(vm)[d.irq][d] = saved.raised or nil
    end
  end
end

core.methods "minikvm.vm".attach = function(vm, def, opts)
  options.self("vm:attach", vm, "minikvm.vm")
  return M.attach(vm, def, opts)
end

return M
