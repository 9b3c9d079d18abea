-- device.lua - devices written in Lua: kvm.device{...}, vm:attach(), and what their handlers get.
--
-- A device is described once and attached as often as one likes; each attachment is an instance
-- with a state of its own. Its registers (registers.lua) lie in ports or in guest-physical memory
-- outside RAM, hooked by vm.ports or vm.mmio, or in the BARs of a PCI function (pci.lua). Handlers
-- run on the vCPU's thread under the Lua lock.

local access = require "minikvm.device.access"
local block = require "minikvm.device.block"
local class = require "minikvm.class"
local core = require "minikvm.core"
local disks = require "minikvm.device.disk"
local options = require "minikvm.options"
local registers = require "minikvm.device.registers"
local saved_state = require "minikvm.device.saved"
local strict = require "minikvm.strict"
local timers = require "minikvm.device.timers"

local M = {}

---@class minikvm.definition  what kvm.device returns: see M.define
local DEFINITION <const> = "minikvm.definition"
local Definition, definition_meta = class(DEFINITION)

---@class minikvm.device  an attached instance: what handlers get as their first argument
local KIND <const> = "minikvm.device"
local Device, device_meta = class(KIND)
strict.seal(Device, device_meta, "device",
            { "name", "vm", "state", "own", "reg", "irq", "refused", "definition", "handles",
              "disks", "timers", "gone", "place", "places", "base", "pci", "bars", "config",
              "slot" },
            "what is the device's own goes into d.state, or into d.own if it is not to be saved")

function device_meta:__tostring()
  return ("%s %q (%s%s)"):format(KIND, self.name, self.place, self.gone and ", detached" or "")
end

---For options.argument(): an attached device.
M.check = options.object(KIND, "a device")

-- ---- describing a device ----

local DEVICE <const> = { name = "text", irq = "boolean", timers = timers.check }
for _, key in ipairs{ "reset", "save", "load", "attach", "detach", "replaced" } do
  DEVICE[key] = "function"
end
---What every kind of device can say of itself, for options.check().
M.OPTIONS = DEVICE

local PLAIN <const> = options.declare("kvm.device", {}, DEVICE, block.OPTIONS)

local fields = { "blocks", "names", "pci", "kind" }
for key in pairs(PLAIN) do fields[#fields + 1] = key end
strict.seal(Definition, definition_meta, "device definition", fields)

function definition_meta:__tostring() return ("%s %q"):format(DEFINITION, self.name) end

---Describes a device.
---  name       for messages and statistics
---  registers  { [offset] = "NAME" | { name=, width=, reset=, access="rw"|"ro"|"wo",
---             bank=, banks= } }, in bytes from the base; without registers, handlers get offset
---             and size instead. One with `bank`, the name of a register that selects, has as many
---             values as `banks` says:
---             device.reg[NAME] is a table from 0, and handlers get the number as a last argument
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
---  load       function(device, value): what save gave; of the device's timers, those by name are
---             armed again
---  timers     { NAME = function(device) }: what device:after(seconds, NAME) and every() call
---  attach     function(device), detach function(device): when it comes and goes
---  replaced   function(device): after device:replace() with this definition
---@param def table
---@return minikvm.definition
function M.define(def)
  local o = options.check("kvm.device", def, PLAIN)
  o.name = o.name or "device"
  o.names, o.kind = {}, "kvm.device"
  o.blocks = { { block = block.check("kvm.device", o, o.names) } }
  return setmetatable(o, definition_meta)
end

---A definition of another kind than kvm.device's.
---@param o table  with name, names and blocks: { { block=, ... }, ... }
---@return minikvm.definition
function M.new_definition(o) return setmetatable(o, definition_meta) end

---@return boolean
function M.is_definition(value) return getmetatable(value) == DEFINITION end

-- ---- interrupt lines: one may be shared ----

---Which devices raise which line: [vm][line][device] = true.
local raised = setmetatable({}, { __mode = "k" })

---The devices that raise a line.
---@return table<minikvm.device, true>
local function raisers(vm, line)
  raised[vm] = raised[vm] or {}
  raised[vm][line] = raised[vm][line] or {}
  return raised[vm][line]
end

local function set_line(d, level)
  if d.pci then
    if not d.definition.irq then
      core.blame(("device %s has no interrupt: say irq = true in its kvm.pci{...}"):format(d.name))
    end
    local capability, control = core.pci_irq(d.pci, level)
    if capability then require("minikvm.device.msix").send(d, capability, control) end
    return
  end
  if not d.irq then
    core.blame(("device %s has no interrupt line: attach it with irq = LINE"):format(d.name))
  end
  local devices = raisers(d.vm, d.irq)
  if (devices[d] ~= nil) == level then return end
  devices[d] = level or nil
  d.vm:irq(d.irq, next(devices) ~= nil)
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

timers.add_to(Device)
for name, fn in pairs(access) do Device[name] = fn end

-- ---- life ----

---The devices of a VM, in the order in which they came.
local attached = setmetatable({}, { __mode = "k" })

---@param vm minikvm.vm
---@return minikvm.device[]
function M.of(vm) return attached[vm] or {} end

---Every register of a definition.
---@param def minikvm.definition
---@param fn fun(r: minikvm.register)
function M.each_register(def, fn)
  for _, b in ipairs(def.blocks) do
    for _, r in ipairs(b.block.list) do fn(r) end
  end
end

local function reset(d)
  timers.drop(d)
  if d.irq then set_line(d, false) end
  d.state, d.reg = {}, {}
  M.each_register(d.definition, function(r) d.reg[r.name] = registers.initial(r) end)
  strict.fixed(d.reg, ("register of device %s"):format(d.name))
  if d.pci and d.definition.pci.msix then require("minikvm.device.msix").reset(d) end
  disks.reset(d)
  if d.definition.reset then d.definition.reset(d) end
end

---vm:reset() does this when the VM itself is as new.
---@param vm minikvm.vm
function M.reset_all(vm)
  raised[vm] = nil -- the PIC forgot them
  for _, d in ipairs(M.of(vm)) do reset(d) end
end

---Takes the device off its VM, which may be running.
function Device:detach()
  options.self("device:detach", self, KIND)
  if self.gone then return end
  self.gone = true
  for _, handle in ipairs(self.handles) do handle:remove() end
  timers.drop(self)
  if self.irq then set_line(self, false) end
  if self.pci then require("minikvm.device.pci").detach(self) end
  local list = M.of(self.vm)
  for i, other in ipairs(list) do
    if other == self then table.remove(list, i) break end
  end
  local detach, ok, why = self.definition.detach, true, nil
  if detach then ok, why = pcall(detach, self) end
  disks.close(self)
  if not ok then error(why, 0) end
end

---Nothing is left to take off when the VM is closed already.
function device_meta:__close()
  if not self.gone and self.vm.state ~= "closed" then self:detach() end
end

---Accesses that its registers served so far.
function Device:hits()
  options.self("device:hits", self, KIND)
  local sum = 0
  for _, handle in ipairs(self.handles) do
    if core.kind(handle) then sum = sum + handle.hits end -- those made in Lua count nothing
  end
  return sum
end

---Other code for a device, at once, also while its guest runs: its state, registers and place stay.
---What the new definition places elsewhere raises, and nothing is changed; registers and timers
---that it does not have any more are dropped.
---@param def minikvm.definition
---@return minikvm.device self
---@return string[] dropped  sentences on what does not fit any more
function Device:replace(def)
  options.self("device:replace", self, KIND)
  return self, require("minikvm.device.replace").replace(self, def)
end

---@param vm minikvm.vm
---@param def minikvm.definition
---@param name string?
---@param place string
---@param irq integer?
---@return minikvm.device
function M.new_instance(vm, def, name, place, irq)
  return setmetatable({
    name = name or def.name, vm = vm, definition = def, irq = irq, place = place, places = {},
    state = {}, own = {}, reg = {}, handles = {}, disks = {}, timers = timers.none(), refused = 0,
  }, device_meta)
end

local function hook(d, def, o)
  local base = o.ports or o.mmio
  if not base then return end
  d.base = base
  local b = def.blocks[1].block
  local place, handlers = block.place(d, b, base)
  if not (handlers.read or handlers.write) then
    error(("device %s has neither registers nor handlers"):format(d.name), 0)
  end
  d.places[1] = place
  if o.ports then
    d:keep(d.vm.ports:on(base, base + b.size - 1, handlers))
  else
    d:keep(d.vm.mmio:on(base, b.size, handlers))
  end
end

local ATTACH <const> = options.declare("vm:attach", {
  ports = "integer", mmio = "integer", irq = "integer", name = "text",
})

local function check_attach(def, opts)
  local o = options.check("vm:attach", opts, ATTACH)
  if o.ports and o.mmio then core.blame("vm:attach: give either 'ports' or 'mmio'") end
  if def.pci then
    core.blame(("vm:attach: device %s is a PCI function: vm.pci:attach()"):format(def.name))
  end
  if not (o.ports or o.mmio) and def.blocks[1].block.has_registers then
    core.blame(("vm:attach: device %s has registers: say where, with 'ports' or 'mmio'")
      :format(def.name))
  end
  if def.irq and not o.irq then
    core.blame(("vm:attach: device %s needs an interrupt line: irq = LINE"):format(def.name))
  end
  return o
end

---The device's own beginning; when that fails, nothing of it stays.
---@param d minikvm.device
function M.begin(d)
  attached[d.vm] = attached[d.vm] or {}
  table.insert(attached[d.vm], d)
  local ok, why = pcall(function()
    reset(d)
    if d.definition.attach then d.definition.attach(d) end
  end)
  if ok then return end
  pcall(d.detach, d) -- which may lack what it did not come to have
  core.blame(type(why) == "string" and why:gsub("^[^\n]-minikvm[^\n]-%.lua:%d+: ", "") or why)
end

local function place_name(o)
  return o.ports and ("ports 0x%x"):format(o.ports) or o.mmio and ("mmio 0x%x"):format(o.mmio) or ""
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
  local d = M.new_instance(vm, def, o.name, place_name(o), o.irq)
  if o.irq then vm:irq(o.irq, next(raisers(vm, o.irq)) ~= nil) end -- raises when there is none such
  local ok, why = pcall(hook, d, def, o)
  if not ok then core.blame(options.without_place(why)) end
  M.begin(d)
  return d
end

-- ---- save and load ----

---Whether a device holds its line, when that is not the bus's business.
local function holds(d) return d.irq ~= nil and raisers(d.vm, d.irq)[d] == true end

---The states of all devices of a VM, in their order, and what was written to their disks.
---@param vm minikvm.vm
---@return table states
---@return table layers
function M.save_all(vm)
  local list, layers = {}, {}
  for i, d in ipairs(M.of(vm)) do list[i] = saved_state.save(d, holds(d), layers) end
  return list, layers
end

---Whether save_all()'s list is one of these devices: nil and what differs otherwise.
---@param vm minikvm.vm
---@param list table
---@return boolean?
---@return string?
function M.fits(vm, list) return saved_state.fits(M.of(vm), list) end

---Gives every device back what save_all() took.
---@param vm minikvm.vm
---@param list table
---@param layers table
function M.load_all(vm, list, layers)
  local of = assert(saved_state.match(M.of(vm), list))
  for _, saved in ipairs(list) do
    local d = of[saved]
    saved_state.load(d, saved, layers)
    if d.irq then raisers(vm, d.irq)[d] = saved.raised == true or nil end
  end
end

return M
