-- device/pci.lua - kvm.pci{...}: a device in Lua as a function of a PCI bus; vm.pci, the bus.
--
-- Configuration space, BARs and the routing of interrupts are the core's (src/dev/pci.h). A BAR's
-- registers lie in a window: what is hooked there goes where the guest puts the BAR. PCI Local Bus
-- Specification 3.0, chapter 6.

local block = require "minikvm.device.block"
local config_space = require "minikvm.device.config_space"
local core = require "minikvm.core"
local device = require "minikvm.device"
local options = require "minikvm.options"
require "minikvm.device.hooks" -- windows have its methods

local M = {}

---The part for MSI-X, which few functions have.
local function msix_part() return require "minikvm.device.msix" end

---@class minikvm.pci
local pci = core.methods "minikvm.pci"

local BARS <const>, CONFIG <const>, FIRST_FREE <const> = 5, 256, 0x40
local SLOTS <const>, FIRST_SLOT <const> = 31, 2 -- 0 and 1: host bridge and PIIX3

-- ---- describing a function ----

local function between(low, high)
  return options.between(low, high, ("an integer of 0x%x to 0x%x"):format(low, high))
end

local ID <const> = between(0, 0xffff)

local function check_ram(value)
  if type(value) == "table" then return value end
  local bytes, why = options.size(value)
  return bytes and { at = 0, size = bytes }, why
end

local BAR <const> = options.declare("kvm.pci.bars", {
  io = "boolean", wide = "boolean", prefetch = "boolean", ram = check_ram,
}, block.OPTIONS)
local CONFIG_BLOCK <const> = options.declare("kvm.pci.config", {}, block.OPTIONS)
CONFIG_BLOCK.size = nil

local FUNCTION <const> = options.declare("kvm.pci", {
  vendor = between(0, 0xfffe), device = ID, class = between(0, 0xffffff),
  revision = between(0, 255),
  subsystem = "table", bars = "table", config = "table", capabilities = "table",
}, device.OPTIONS)

local MOST <const> = 1 << 40 -- what the largest BAR has
local ROOM <const> = options.between(-MOST, MOST, ("bytes, %d at the most"):format(MOST))
local RAM <const> = options.declare("kvm.pci.bars.ram", {
  at = ROOM, size = function(value)
    local bytes, why = options.size(value)
    if not bytes then return nil, why end
    return ROOM(bytes)
  end,
})

local function power_of_two(least, size)
  local power = least
  while power < size do power = power << 1 end
  return power
end

---What of a BAR is registers, from 0 on: up to its RAM or its MSI-X table.
local function check_bar(where, o, names, msix)
  local ram = o.ram and options.check(where .. ": ram", o.ram, RAM)
  if ram then
    ram.at = ram.at or 0
    if not ram.size then core.blame(where .. ": ram: it has no size") end
  end
  local b = block.check(where, o, names)
  local last = b.list[#b.list]
  local used = last and last.offset + last.width or 0
  local size = o.size or power_of_two(o.io and 4 or 16, math.max(used,
    ram and ram.at + ram.size or 0,
    msix and msix.at + msix_part().length(msix.vectors) or 0))
  local room = math.max(0, math.min(size, ram and ram.at or size, msix and msix.at or size))
  if used > room then
    core.blame(("%s: register %s lies over its %s"):format(where, last.name,
      ram and ram.at <= room and "RAM" or "MSI-X table"))
  elseif not b.has_registers and not o.size and (o.read or o.write) then
    core.blame(where .. ": say its 'size': it has handlers and no registers")
  elseif (o.read or o.write) and room == 0 then
    core.blame(where .. ": its RAM leaves no room for what the handlers are to serve")
  end
  local kind = o.io and "io" or o.wide and "mem64" or "mem32"
  return { block = b, kind = kind, size = size, room = room, ram = ram,
           prefetch = o.prefetch or false,
           served = b.has_registers or o.read ~= nil or o.write ~= nil }
end

local function check_bars(given, names, msix)
  local bars = {}
  for number, entry in pairs(given or {}) do
    if math.type(number) ~= "integer" or number < 0 or number > BARS then
      core.blame(("kvm.pci: bars: [%s]: a BAR is 0 to 5"):format(tostring(number)))
    end
    local where = ("kvm.pci: bars[%d]"):format(number)
    bars[number] = check_bar(where, options.check(where, entry, BAR), names,
                             msix and msix.bar == number and msix)
  end
  return bars
end

---Registers of the function's own in configuration space.
local function check_config(given, names)
  if not given then return end
  local where = "kvm.pci: config"
  local o = options.check(where, given, CONFIG_BLOCK)
  local b = block.check(where, o, names)
  for _, r in ipairs(b.list) do
    local own = r.offset >= FIRST_FREE and r.offset + r.width <= CONFIG
    if not own or r.width > 4 or r.offset % r.width ~= 0 then
      core.blame(("%s: register %s: those of 1, 2 or 4 bytes from 0x40 to 0xff are the function's")
        :format(where, r.name))
    end
  end
  return b
end

local CAPABILITY <const> = options.declare("kvm.pci.capabilities", {
  id = between(1, 0xff), bytes = "string", writable = "string",
})
local MSIX <const> = options.declare("kvm.pci.capabilities.msix", {
  vectors = between(1, 2048), bar = between(0, 5), at = ROOM,
})

local function check_capability(where, entry)
  if entry == "msi" then return { kind = "msi" } end
  if type(entry) == "table" and entry.vectors then
    local o = options.check(where, entry, MSIX)
    o.kind, o.bar, o.at = "msix", o.bar or 0, o.at or 0
    return o
  end
  local o = options.check(where, entry, CAPABILITY)
  if not o.id or not o.bytes then
    core.blame(where .. ": expected \"msi\", { vectors=, bar=, at= } for MSI-X, or { id=, bytes= }")
  end
  o.writable = o.writable or ("\0"):rep(#o.bytes)
  if #o.writable ~= #o.bytes then
    core.blame(where .. ": 'writable' has a byte for each of 'bytes'")
  end
  o.kind = "other"
  return o
end

local function check_capabilities(given)
  local list, msix = {}, nil
  for i, entry in ipairs(given or {}) do
    list[i] = check_capability(("kvm.pci: capabilities[%d]"):format(i), entry)
    for k = 1, i - 1 do
      if list[i].kind ~= "other" and list[k].kind == list[i].kind then
        core.blame(("kvm.pci: capabilities: %s is there twice"):format(list[i].kind))
      end
    end
    if list[i].kind == "msix" then msix = list[i] end
  end
  return list, msix
end

local function check_subsystem(value)
  if not value then return {} end
  local first, second = ID(value[1]), ID(value[2])
  if not (first and second) then
    core.blame("kvm.pci: subsystem: expected { vendor, device }, two numbers of 16 bits")
  end
  return { first, second }
end

---Describes a function of the PCI bus, for vm.pci:attach().
---  name, irq, reset, save, load, timers, attach, detach, replaced   as for kvm.device
---  vendor, device, class, revision   what it is; class is 24 bits: class, subclass, interface
---  subsystem     { vendor, device }: those of the board; vendor and device by default
---  bars          { [0..5] = { registers=, width=, read=, write=, accepts=, size=   as for
---                    kvm.device, but that a size is a power of two: at least as large as what it
---                    holds
---                    io = true        ports, 256 at most, instead of memory
---                    wide = true      64 bits: it takes the next BAR's place, too
---                    prefetch = true
---                    ram = size | { at=, size= } } }   RAM that guests access without exits
---                  Names of registers are the device's: no two BARs have the same
---  config        { registers=, read=, write= }: registers of its own in configuration space
---  capabilities  a list of "msi", { vectors=, bar=, at= } for MSI-X, and { id=, bytes=, writable=
---                  }: the bytes after id and next, and the bits of them that a guest may write
---@param def table
---@return minikvm.definition
function M.define(def)
  local o = options.check("kvm.pci", def, FUNCTION)
  if not (o.vendor and o.device) then core.blame("kvm.pci: it needs 'vendor' and 'device'") end
  o.name = o.name or "device"
  o.names, o.blocks, o.kind = {}, {}, "kvm.pci"
  local list, msix = check_capabilities(o.capabilities)
  local sub = check_subsystem(o.subsystem)
  local bars = check_bars(o.bars, o.names, msix)
  local config = check_config(o.config, o.names)
  for number = 0, BARS do
    if bars[number] then o.blocks[#o.blocks + 1] = { block = bars[number].block, bar = number } end
  end
  if config then o.blocks[#o.blocks + 1] = { block = config, config = true } end
  o.pci = { vendor = o.vendor, device = o.device, class = o.class or 0xff0000,
            revision = o.revision or 0,
            subvendor = sub[1] or o.vendor, subdevice = sub[2] or o.device,
            bars = bars, config = config, capabilities = list, msix = msix }
  for key in pairs(FUNCTION) do
    if not device.OPTIONS[key] then o[key] = nil end
  end
  return device.new_definition(o)
end

-- ---- attaching one ----

---The core's function, with its BARs and capabilities, on no bus yet.
local function new_function(vm, def, name, pin, at)
  local p = def.pci
  local space = config_space.new(name, p, pin)
  for number = 0, BARS do
    if p.bars[number] then space:add_bar(number, p.bars[number], at[number] or 0) end
  end
  for _, c in ipairs(p.capabilities) do
    if c.kind == "msi" then
      space:add_msi()
    elseif c.kind == "msix" then
      space:add_msix(c, msix_part().length(c.vectors), p.bars[c.bar])
    else
      space:add_capability(c.id, c.bytes, c.writable)
    end
  end
  local fn = core.pci_new(vm.pci, name, space:bytes())
  for number, bar in pairs(p.bars) do
    if bar.ram then core.pci_ram(fn, number, bar.ram.at, bar.ram.size) end
  end
  return fn
end

---Puts the handlers into the windows.
local function hook(d, fn)
  local p = d.definition.pci
  d.pci, d.bars, d.config = fn, {}, core.pci_window(fn)
  for i, b in ipairs(d.definition.blocks) do
    if b.bar then
      local bar = p.bars[b.bar]
      d.bars[b.bar] = core.pci_window(fn, b.bar)
      local place, handlers = block.place(d, b.block, 0, true)
      d.places[i] = place
      if bar.served then d:keep(d.bars[b.bar]:on({ 0, bar.room - 1 }, handlers)) end
    else
      local place, handlers = block.place(d, b.block, 0, true)
      d.places[i] = place
      for _, r in ipairs(b.block.list) do
        d:keep(d.config:override({ r.offset, r.offset + r.width - 1 }, handlers))
      end
    end
  end
  if p.msix then msix_part().hook(d, p.msix) end
end

---Takes off what is hooked there, too.
local function close_windows(d)
  for _, window in pairs(d.bars) do core.window_close(window) end
  core.window_close(d.config)
end

local ATTACH <const> = options.declare("vm.pci:attach", {
  slot = between(1, SLOTS), fn = between(0, 7), name = "text", at = "table",
})

local function free_slot(bus)
  for slot = FIRST_SLOT, SLOTS do
    if not core.pci_name(bus, slot << 3) then return slot end
  end
  core.blame "vm.pci:attach: all 30 slots are taken: give fn = 1 to 7 of a slot, or detach others"
end

local function check_at(def, at)
  for number, address in pairs(at or {}) do
    if not def.pci.bars[number] or math.type(address) ~= "integer" then
      core.blame(("vm.pci:attach: at[%s]: expected addresses by the numbers of its BARs")
        :format(tostring(number)))
    end
  end
  return at or {}
end

---The bus's VM.
local function vm_of(bus, where)
  options.self(where, bus, "minikvm.pci")
  return core.vm_of(bus, "minikvm.pci")
end

---Attaches a function; the VM may be running. The bus is there from then on, with a host bridge in
---slot 0 and a PIIX3, which routes interrupts, in slot 1.
---@param def minikvm.definition  from kvm.pci
---@param opts? { slot: integer?, fn: integer?, name: string?, at: table<integer, integer>? }  slot:
---  2 to 31, the first free one by default; fn: 0 to 7 of it (0); at: addresses of BARs by number,
---  as
---  firmware gives them; without one, a BAR is nowhere until the guest puts it somewhere
---@return minikvm.device
function pci:attach(def, opts)
  local vm = vm_of(self, "vm.pci:attach")
  if not device.is_definition(def) or not def.pci then
    core.blame("vm.pci:attach: expected a device made by kvm.pci{...}")
  end
  local o = options.check("vm.pci:attach", opts, ATTACH)
  local at = check_at(def, o.at)
  local linux = package.loaded["minikvm.vm.linux"]
  if linux then linux.check_pci(vm) end
  local slot, fn = o.slot or free_slot(self), o.fn or 0
  local d = device.new_instance(vm, def, o.name, ("slot %d.%d"):format(slot, fn))
  d.slot = slot
  local handle = new_function(vm, def, d.name, def.irq and fn % 4 + 1 or 0, at)
  local ok, why = pcall(function()
    hook(d, handle)
    core.pci_attach(handle, slot << 3 | fn)
  end)
  if not ok then
    close_windows(d)
    error(why, 0)
  end
  device.begin(d)
  return d
end

---For kvm.vm's option: a list of definitions, each alone or as { definition, slot =, ... }.
function M.check_list(value)
  if type(value) ~= "table" or device.is_definition(value) then
    return nil, "expected a list of devices made by kvm.pci{...}"
  end
  for i, entry in ipairs(value) do
    local def = device.is_definition(entry) and entry or type(entry) == "table" and entry[1]
    if not device.is_definition(def) or not def.pci then
      return nil, ("[%d]: expected a device made by kvm.pci{...}, or { device, slot = }"):format(i)
    end
  end
  return value
end

---@param vm minikvm.vm
---@param list table  that check_list() has seen
function M.attach_list(vm, list)
  for _, entry in ipairs(list) do
    if device.is_definition(entry) then
      vm.pci:attach(entry)
    else
      local opts = {}
      for key, value in pairs(entry) do
        if key ~= 1 then opts[key] = value end
      end
      vm.pci:attach(entry[1], opts)
    end
  end
end

---For device:detach().
function M.detach(d)
  core.pci_detach(d.pci)
  close_windows(d)
end

---The functions that were attached by this script.
---@return minikvm.device[]
function pci:devices()
  local list = {}
  for _, d in ipairs(device.of(vm_of(self, "vm.pci:devices"))) do
    if d.pci then list[#list + 1] = d end
  end
  return list
end

---The bus is there, also without a function of the script's: Linux finds it and can look again
---later (/sys/bus/pci/rescan).
---@return minikvm.pci
function pci:enable()
  vm_of(self, "vm.pci:enable")
  core.pci_on(self, true)
  return self
end

---Whether the bus is there.
---@return boolean
function pci:enabled()
  vm_of(self, "vm.pci:enabled")
  return core.pci_on(self)
end

---Messages of MSI and MSI-X that were lost, because there is no APIC.
---@return integer
function pci:lost() return msix_part().lost(vm_of(self, "vm.pci:lost")) end

-- ---- the routing table ----

local PIRQ <const>, LINES <const> = 0x60, 1 << 5 | 1 << 9 | 1 << 10 | 1 << 11

---Where the $PIR table is, in mode "linux".
M.TABLE = 0xf0000

---The `$PIR` table, by which a guest without ACPI routes interrupts (Microsoft, "PCI IRQ Routing
---Table Specification" 1.0): each slot's pins, the router's register for them, and the lines it may
---use. In mode "linux" it is at 0xf0000; other guests get it from the script, at a multiple of 16
---in 0xf0000 to 0xfffff.
---@return string bytes
function pci:routing_table()
  vm_of(self, "vm.pci:routing_table")
  local entries = {}
  for slot = 1, SLOTS do
    local pins = {}
    for pin = 0, 3 do pins[pin + 1] = ("<BI2"):pack(PIRQ + (slot - 1 + pin) % 4, LINES) end
    entries[slot] = ("<BB"):pack(0, slot << 3) .. table.concat(pins) .. ("<BB"):pack(slot, 0)
  end
  local rest = table.concat(entries)
  local head = ("<c4I2I2BBI2I4I4c11"):pack("$PIR", 0x100, 32 + #rest, 0, 1 << 3, 0, 0x70008086, 0,
                                           ("\0"):rep(11))
  local sum = 0
  for i = 1, #head do sum = sum + head:byte(i) end
  for i = 1, #rest do sum = sum + rest:byte(i) end
  return head .. string.char(-sum & 0xff) .. rest
end

return M
