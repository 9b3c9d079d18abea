-- vm.lua - the VM's option tables, on top of the core's functions (src/lua/vm.c).

local core = require "minikvm.core"
local options = require "minikvm.options"
local run = require "minikvm.vm.run"

local M = {}

---By VM, the options it was made with; weak, so that a VM takes them along.
M.made = setmetatable({}, { __mode = "k" })

---@class minikvm.vm
local vm = core.methods "minikvm.vm"

local PAGE <const> = 4096

local function check_memory(value)
  local bytes, why = options.size(value)
  if not bytes then return nil, why end
  if bytes % PAGE ~= 0 then return nil, ("%d bytes is not a multiple of 4096"):format(bytes) end
  return bytes
end

local function page_size(value)
  local bytes = options.size(value)
  if bytes == PAGE or bytes == 2 << 20 then return bytes end
  return nil, ("expected \"4K\" or \"2M\", got %s"):format(tostring(value))
end

---Seconds, or false for no limit.
local function handler_limit(value)
  if value == false or type(value) == "number" and value > 0 and value < math.huge then
    return value
  end
  return nil, ("expected seconds (more than 0) or false, got %s"):format(tostring(value))
end

---An address that a processor with 48-bit linear addresses takes (Intel SDM volume 1, 3.3.7.1).
local function canonical(value)
  if math.type(value) == "integer" and value << 16 >> 16 == value & (1 << 48) - 1
     and (value >> 47 == 0 or value >> 47 == 0x1ffff) then
    return value
  end
  return nil, ("expected a canonical address of 48 bits, got %s"):format(tostring(value))
end

local function function_or_table(value)
  if type(value) == "function" or type(value) == "table" then return value end
  return nil, ("expected a function or a table of options, got %s"):format(tostring(value))
end

local LIMITS = options.declare("kvm.vm.limits", {
  exits = run.exits, seconds = "seconds", output = "size",
  handler = handler_limit,
})

local NEW = options.declare("kvm.vm", {
  name = "text", memory = check_memory, cpus = options.between(1, 64),
  mode = { "real", "protected", "paged", "long", "linux" }, limits = LIMITS,
  unhandled = { "ignore", "fault" }, coalesce = "boolean", echo = "boolean",
  trace = function_or_table,
  page_size = page_size, map_size = "size", map_base = canonical,
  irqchip = { "none", "pic" }, console = { "hypercall", "uart" },
  files = function(value) return require("minikvm.vm.files").check(value) end,
  assist = "boolean", cmdline = "text", stats = "boolean",
  map_io = "address",
  disk = function(value) return require("minikvm.vm.disk").check(value) end,
  bios = "text", disk_error = "function",
  pci = function(value) return require("minikvm.device.pci").check_list(value) end,
  disks = function(value) return require("minikvm.devices.blk").check_list(value) end,
  cpuid = function(value)
    if type(value) == "table" then return value end
    return nil, "expected a table: { vendor=, hide=, [leaf] = { eax= } }"
  end,
})

---Options that mean something in one mode only are misuse in another.
local function check_mode(o)
  for _, key in ipairs{ "page_size", "map_size", "map_base" } do
    if o[key] and o.mode and o.mode ~= "long" and o.mode ~= "linux" then
      core.blame(("kvm.vm: option '%s' is for mode \"long\", this is %q"):format(key, o.mode))
    end
  end
  for _, key in ipairs{ "bios", "disk_error" } do
    if o[key] and not o.disk then
      core.blame(("kvm.vm: option '%s' is for a VM with a 'disk'"):format(key))
    end
  end
  return o
end

---Checked options as the core takes them.
local function for_core(o)
  if o.disk then require("minikvm.vm.disk").options(o) end
  if o.mode == "linux" then require("minikvm.vm.linux").options(o) end
  o.mode_open = (o.mode == nil or o.linux or false) and not o.snapshot
  o.memory_open = o.memory == nil
  o.memory = o.memory or (o.mode or "real") == "real" and 1 << 20 or 4 << 20
  o.large = o.page_size == 2 << 20
  o.uart = o.console == "uart"
  o.pic = o.irqchip == "pic"
  o.assist = o.assist ~= false
  o.coalesce = o.coalesce ~= false
  o.echo = o.echo ~= false
  o.fatal = o.unhandled == "fault"
  for key, value in pairs(o.limits or {}) do o[key] = value end
  return o
end

---What fn(...) returns; a VM for which it raises is closed first.
local function closing(new, fn, ...)
  local results = table.pack(pcall(fn, ...))
  if results[1] then return table.unpack(results, 2, results.n) end
  new:close()
  core.blame(options.without_place(results[2]))
end

---Attaches the devices of the machines that options name.
---@param new minikvm.vm
---@param o table  checked
---@return minikvm.vm? vm  nil, why, code; then it is closed
---@return string? why
---@return string? code
function M.attach_machine(new, o)
  if o.linux then require("minikvm.vm.linux").attach(new) end
  if o.pci then
    closing(new, require("minikvm.device.pci").attach_list, new, o.pci)
  end
  if o.disks then
    local ok, why, code = require("minikvm.devices.blk").attach_list(new, o.disks)
    if not ok then
      new:close()
      return nil, why, code
    end
  end
  if not o.disk then return new end
  local ok, why, code = require("minikvm.vm.disk").attach(new, o)
  if not ok then new:close() end
  return ok, why, code
end

---A new VM is traced from its beginning, when its options say so.
---@param new minikvm.vm
---@param o table  checked
---@param made minikvm.vm?  nil, why, code: it could not be made
---@return minikvm.vm? vm
function M.with_trace(new, o, made, why, code)
  if not made or not o.trace then return made, why, code end
  local trace, reason, name = closing(new, new.trace, new, o.trace)
  if trace then return made end
  new:close()
  return nil, reason, name
end

---Creates a VM.
---  name       for messages ("vm")
---  memory     bytes, or text such as "4M"; 1M in real mode, 4M in others by default
---  mode       "real" (16-bit), "protected" (flat 32-bit), "paged" (32-bit with 4 MiB pages),
---             "long" (64-bit); by default what the first image is for, "real" when it does not
---             say; "linux": what a Linux kernel expects, see lua/minikvm/vm/linux.lua: 256M,
---             "pic", "uart", a real-time clock, the port of vm:linux()
---  page_size  long mode: "4K" (default) or "2M"
---  map_size   long mode: only the first bytes of RAM appear at their own address
---  map_base   long mode: RAM appears once more from this address (high-half kernels)
---  map_io     paged and long mode: an address outside RAM whose large page (4 MiB, 2 MiB) appears
---             at itself, for devices
---  cpus       1 to 64; in real mode each has a window of 256 KiB of its own, of more than four
---             less; in the others a stack, and its number in RDI
---  irqchip    "pic": 8259A pair, 8254 timer and keyboard; "none" (the default)
---  files      which files the guest may use, from kvm.files; only its own by default
---  console    what the guest is told to print to: "hypercall" (the default) or "uart"; all work
---  cmdline    text for the guest's boot information
---  assist     false: never do for a weak KVM what it cannot do itself
---  limits     { exits=, seconds=, output=, handler= } of every run; handler: seconds that one of
---             its handlers may take (10), false for as long as it likes
---  unhandled  "ignore": ports nobody serves read all ones; "fault": they end the VM
---  coalesce   false: every output byte is an exit of its own, so that counts are exact
---  echo       whether guest output goes to stdout (true)
---  disk       a disk image to boot from: a path, the options of kvm.disk, or a list of such; the
---             machine is a PC with a BIOS, see lua/minikvm/vm/disk.lua: "real", 256M, "pic"
---  bios       "seabios" (the default), "lua": services in Lua, for 16-bit systems; or a path
---  disk_error function(text), called for what the host refuses, and when a guest cannot go on
---  pci        what vm.pci has: a list of kvm.pci's, each alone or as
---             { definition, slot=, fn=, at= }; forks get the same
---  disks      virtio disks on its PCI bus, behind `pci`: a list of paths, whose images stay as
---             they are, and of options of minikvm.devices.blk; forks get the same
---  cpuid      { vendor=, hide={ feature, ... }, [leaf] = { eax=, ... } }: what CPUID answers
---  stats      true: measure the time that accesses take, for vm:stats()
---  trace      function(line), called for every exit; or options of vm:trace
---@param opts? table
---@return minikvm.vm? vm
---@return string? why
---@return string? code
function M.new(opts)
  local o = for_core(check_mode(options.check("kvm.vm", opts, NEW)))
  local new, why, code = core.new_vm(o)
  if code == "EINVAL" then core.blame("kvm.vm: " .. why) end -- options that do not go together
  if new and o.stats then core.timing(new, true) end
  if new and o.cpuid then
    closing(new, require("minikvm.vm.cpuid").apply, new, o.cpuid)
  end
  if not new then return nil, why, code end
  M.made[new] = o
  return M.with_trace(new, o, M.attach_machine(new, o))
end

local FROM_SNAPSHOT = options.declare("snapshot:vm", { setup = "function" })
for _, key in ipairs { "name", "echo", "limits", "files", "unhandled", "coalesce", "trace",
                       "assist", "disk", "bios", "disk_error", "pci", "disks" } do
  FROM_SNAPSHOT[key] = NEW[key]
end

---What the core makes a VM of a snapshot from, and the script's setup function.
---@param snap minikvm.snapshot
---@param opts? table
---@return table options
---@return function? setup
function M.from_snapshot(snap, opts)
  local o = options.check("snapshot:vm", opts, FROM_SNAPSHOT)
  local setup = o.setup
  o.mode, o.memory, o.cpus, o.irqchip = snap.mode, snap.memory, snap.cpus, snap.irqchip
  o.name = o.name or snap.name
  o.snapshot, o.setup = snap, nil
  return for_core(o), setup
end

---Loads an image and points a vCPU at it.
---  cpu      which vCPU (0); "all": each of them, which begin alike
---  format   "auto" (the default), "flat", "boot" (a boot sector), "elf", "multiboot",
---           "multiboot2", "limine", "linux" (a bzImage), "pvh" (ELF with a PVH entry point, such
---           as vmlinux)
---  at       flat images: physical address (real mode: the vCPU's window; else 0x1000); ELF in real
---           mode: what its addresses are relative to; bzImage: where a relocatable kernel goes
---  entry    address, or the name of a symbol, instead of the image's own
---  segment  real mode: CS and the others (at // 16)
---  cmdline  Multiboot, Limine, PVH, Linux: command line (that of the VM); in mode "linux" the
---           words on its machine precede it
---  modules  Multiboot, Limine, PVH: list of paths or { path= | bytes=, name=, text= }
---  framebuffer  Multiboot, Limine: { width=, height= }, or false for none; by default what the
---           kernel asks for
---  initrd   Linux: its first file system, a path or { path= | bytes= }
---@param source string|{ bytes: string, name: string? }  a path, or the image itself
---@param opts? table
---@return minikvm.vm? vm  or nil, "what: why", "ENAME"
function vm:load(source, opts)
  return require("minikvm.image").load(self, source, opts)
end

---Adds a vCPU, before the VM runs for the first time. It has nothing to run until something is
---loaded for it; the others learn by their CPUID how many there are.
---@return minikvm.cpu? cpu  or nil, "what: why", "ENAME"
---@return string? why
---@return string? code
function vm:add_cpu()
  options.self("vm:add_cpu", self, "minikvm.vm")
  core.check_open(self)
  local made = M.made[self]
  if made and made.linux then
    core.blame "vm:add_cpu: mode \"linux\" has one vCPU: a kernel starts others by an APIC"
  elseif made and made.snapshot then
    core.blame "vm:add_cpu: the vm was made from a snapshot, and has the vCPUs of that"
  end
  local number, why, code = core.add_cpu(self)
  if code == "EINVAL" or code == "EBUSY" then core.blame("vm:add_cpu: " .. why) end
  if not number then return nil, why, code end
  return self.cpu[number]
end

---Its disks: those of option `disk`, then those of its other devices.
---@param number integer  from 1
---@return minikvm.disk? disk  nil when it has fewer
function vm:disk(number)
  options.self("vm:disk", self, "minikvm.vm")
  core.check_open(self)
  options.argument("vm:disk", "number", number, "integer")
  return require("minikvm.vm.disk").of(self)[number]
end

---Attaches a device: see lua/minikvm/device/init.lua.
---@param def minikvm.definition  from kvm.device
---@param opts { ports: integer?, mmio: integer?, irq: integer?, name: string? }
---@return minikvm.device
function vm:attach(def, opts)
  options.self("vm:attach", self, "minikvm.vm")
  return require("minikvm.device").attach(self, def, opts)
end

---Does what a reset or a restore leaves to Lua. Until then the VM cannot run, nor when it failed.
---@param what string  "reset", "restore"
---@param fn fun(self: minikvm.vm): ...
---@return boolean ok  and fn's results, or what it raised
function M.finish(self, what, fn)
  core.restoring(self, true)
  local ok, done, why, code = pcall(fn, self)
  if self.state == "closed" then
    error(("vm %q was closed during its %s"):format(self.name, what), 0)
  end
  core.restoring(self, false)
  if not (ok and done) then core.disable(self, what, tostring(ok and why or done)) end
  return ok, done, why, code
end

---Images and devices, after a reset.
local function reset_rest(self)
  local images, devices = package.loaded["minikvm.image"], package.loaded["minikvm.device"]
  local done, why, code = self, nil, nil
  if images then done, why, code = images.load_again(self) end
  if done and devices then devices.reset_all(self) end
  return done, why, code
end

local reset_core = vm.reset

---Back to how it was after its load() calls; devices in Lua are reset too. A VM that was made from
---a snapshot goes back to that.
---@return minikvm.vm? vm  or nil, "what: why", "ENAME"
function vm:reset()
  options.self("vm:reset", self, "minikvm.vm")
  local origin = M.made[self] and M.made[self].snapshot
  if origin then return require("minikvm.vm.snapshot").restore(self, origin) end
  local images = package.loaded["minikvm.image"]
  local done, why, code = true, nil, nil
  if images then done, why, code = images.check_again(self) end
  if done then done, why, code = reset_core(self) end
  if not done then return nil, why, code end
  local ok
  ok, done, why, code = M.finish(self, "reset", reset_rest)
  if not ok then error(done, 0) end
  return done, why, code
end

---The function or label that a linear address lies in, when the image has symbols.
---@param where integer
---@return string? name
---@return integer? offset
function vm:symbol_at(where)
  options.self("vm:symbol_at", self, "minikvm.vm")
  core.check_open(self)
  options.argument("vm:symbol_at", "address", where, "integer")
  local images = package.loaded["minikvm.image"]
  if images then return require("minikvm.image.symbols").at(images.objects(self), where) end
end

---The linear address of a place in its code: "main", "main+0x10", "kernel.c:12" (the file is the
---end of its path), "0x1000", or an address as it is.
---@param where integer|string
---@return integer? address  nil, "what: why", "ENAME" when there is no such place
---@return integer[]|string all  each address of it: a line may be in several functions
---@return string? code
function vm:address_of(where)
  options.self("vm:address_of", self, "minikvm.vm")
  core.check_open(self)
  return require("minikvm.debug.where").address(self, where)
end

---What is known of a linear address: function and source line.
---@param linear integer
---@return minikvm.place place  { address=, symbol=, offset=, file=, line=, column=, path=,
---  functions = { { name=, file=, line= }, … } }; tostring gives "main+0x10 (kernel.c:12)"
function vm:place_of(linear)
  options.self("vm:place_of", self, "minikvm.vm")
  core.check_open(self)
  options.argument("vm:place_of", "address", linear, "integer")
  return require("minikvm.debug.where").of(self, linear)
end

-- vm.symbols is a child of its VM: src/lua/load.c.
local symbols_type = core.metatable "minikvm.symbols"

---The images that a VM's symbols are of; raises when it is closed.
local function images_of(symbols)
  local owner = core.vm_of(symbols, "minikvm.symbols")
  local images = package.loaded["minikvm.image"]
  return images and images.objects(owner) or {}
end

---@param name string
---@return integer? address
function symbols_type:__index(name)
  local images = images_of(self)
  options.argument("vm.symbols", "name", name, "string")
  return images[1] and require("minikvm.image.symbols").find(images, name)
end

function symbols_type:__pairs()
  local images = images_of(self)
  return next, images[1] and require("minikvm.image.symbols").all(images) or {}
end

return M
