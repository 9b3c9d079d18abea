-- snapshot.lua - vm:snapshot, vm:restore, vm:fork, and VMs made from snapshots, on top of the
-- core's functions (src/lua/snapshot.c): options, and the state of devices that the script made.

local copy = require "minikvm.copy"
local core = require "minikvm.core"
local options = require "minikvm.options"

local M = {}

---@class minikvm.vm
local vm = core.methods "minikvm.vm"

---@class minikvm.snapshot
local snapshot = core.methods "minikvm.snapshot"

-- By VM, the options it was made with: a fork is made like its parent.
local made = require("minikvm.vm").made

local LINUX <const> = "linux" -- what a snapshot says of a VM of this mode

-- ---- devices ----

---The devices' module, when there can be any.
local function devices()
  return package.loaded["minikvm.device"]
end

local function coverage()
  return package.loaded["minikvm.debug.coverage"]
end

---The same for images.
local function images()
  return package.loaded["minikvm.image"]
end

---The states of the VM's devices as bytes, in their order; what was written to their disks.
local function pack_devices(self)
  local list, states, layers = {}, {}, {}
  if devices() then states, layers = devices().save_all(self) end
  for i, saved in ipairs(states) do
    local bytes, why = copy.pack(saved, ("vm:snapshot: device %q"):format(saved.name))
    if not bytes then core.blame(why) end
    list[i] = bytes
  end
  if images() then list.images, list.symbols = require("minikvm.image.saved").pack(self) end
  list.machine = made[self] and made[self].linux and LINUX or nil
  return copy.pack(list, "devices"), layers
end

---What pack_devices() packed of the VM that a snapshot is of.
---@return table
local function unpack_devices(snap)
  local packed = copy.unpack(core.saved_devices(snap))
  return type(packed) == "table" and packed or {}
end

---Whether a snapshot is of a VM of mode "linux", whose devices come along by themselves.
local function is_linux(snap) return unpack_devices(snap).machine == LINUX end

---Whether that is the state of a device, as far as it is looked at before the device gets it: a
---snapshot's file may hold anything.
local function is_state(saved)
  if type(saved) ~= "table" or type(saved.name) ~= "string" or type(saved.reg) ~= "table"
     or type(saved.place or "") ~= "string" or type(saved.timers or {}) ~= "table" then
    return false
  end
  for _, t in ipairs(saved.timers or {}) do
    if type(t) ~= "table" or type(t.name) ~= "string" or type(t.left) ~= "number" then
      return false
    end
  end
  return true
end

---The states of its devices, when these are the VM's; nil and why otherwise.
local function saved_devices(self, snap)
  local list = {}
  for i, bytes in ipairs(unpack_devices(snap)) do
    list[i] = copy.unpack(tostring(bytes))
    if not is_state(list[i]) then return nil, "the states of its devices are damaged" end
  end
  if devices() then
    local fits, why = devices().fits(self, list)
    return fits and list, why and ("devices were added or removed: %s"):format(why)
  elseif #list > 0 then
    return nil, ("it has %d devices in Lua, the vm none"):format(#list)
  end
  return list
end

---Hands the states to the devices; nil, why, "EINVAL" when one does not take its own.
local function load_devices(self, list, snap)
  if not devices() then return self end
  local ok, why = require("minikvm.vm").finish(self, "restore", function()
    devices().load_all(self, list, core.saved_layers(snap))
    return self
  end)
  if ok then return self end
  return nil, ("vm %q: restoring its devices: %s"):format(self.name, tostring(why)), "EINVAL"
end

-- ---- taking and restoring ----

---Takes one; it knows the images that the VM was loaded with.
local function take(self)
  local snap, why, code = core.take(self, pack_devices(self))
  if snap and images() then images().inherit(self, snap) end
  if snap and coverage() then coverage().inherit(self, snap) end
  return snap, why, code
end

---The VM as it is now: CPUs, devices, console, files it made, pending timers, memory. It must not
---run. What it is for: vm:restore, snapshot:vm, snapshot:save. Raises while the VM runs, inside one
---of its handlers, and when a device's state cannot be copied.
---@return minikvm.snapshot? snapshot  or nil, "what: why", "ENAME"
---@return string? why
---@return string? code
function vm:snapshot()
  options.self("vm:snapshot", self, "minikvm.vm")
  core.check_idle(self, "vm:snapshot")
  return take(self)
end

---The images of the VM that a snapshot is of, for this VM; those of a snapshot's file are opened.
---@return table? images
---@return table? symbol_files
local function images_of(snap, self)
  local loaded, files
  if images() then loaded, files = images().get(snap) end
  if loaded or files then return loaded, files end
  local packed = unpack_devices(snap)
  if not (packed.images or packed.symbols) then return nil end
  return require("minikvm.image.saved").unpack(self, packed.images, packed.symbols)
end

-- By VM without images, the snapshot whose symbols it knows.
local adopted = setmetatable({}, { __mode = "kv" })

---A VM without images knows those of the snapshot that it is restored to.
local function adopt_images(self, snap)
  if adopted[self] == snap then return end
  adopted[self] = snap
  local loaded, files = images_of(snap, self)
  if loaded or files then images().adopt(self, loaded, files) end
end

local function restore(self, snap, what)
  core.check_fit(self, snap, what)
  if coverage() then coverage().before_restore(self) end
  local values, why = saved_devices(self, snap)
  if not values then core.blame(("%s: %s"):format(what, why)) end
  local done, code
  done, why, code = core.restore(self, snap)
  if not done then return nil, why, code end
  if not (images() and images().of(self)[1]) then adopt_images(self, snap) end
  return load_devices(self, values, snap)
end

---Back to a snapshot of this VM, or of any other of the same shape (mode, memory, cpus, irqchip).
---Handlers, listeners and counters stay as they are. Raises, and changes nothing, when it does not
---fit, while the VM runs, inside one of its handlers, and when other devices are there than then.
---@param snap minikvm.snapshot
---@return minikvm.vm? vm  or nil, "what: why", "ENAME": it cannot run until restored again
---@return string? why
---@return string? code
function vm:restore(snap)
  options.self("vm:restore", self, "minikvm.vm")
  return restore(self, snap, "vm:restore")
end

---For vm:reset().
function M.restore(self, snap)
  return restore(self, snap, "vm:reset")
end

-- ---- new VMs ----

---A new VM knows the images of the one that its snapshot is of.
local function inherit_images(snap, new)
  if images() and images().get(snap) then return images().inherit(snap, new, new) end
  local loaded, files = images_of(snap, new)
  if loaded or files then images().set(new, loaded, files) end
end

---Makes one; setup(vm, i) may give it devices and handlers.
local function new_vm(o, setup, i, what)
  local new, why, code = core.new_vm(o)
  if not new then return nil, why, code end
  made[new] = o
  inherit_images(o.snapshot, new)
  local ok, problem = true, nil
  local machine
  local vms = require "minikvm.vm"
  machine, why, code = vms.with_trace(new, o, vms.attach_machine(new, o))
  if not machine then return nil, why, code end
  if setup then ok, problem = pcall(setup, new, i) end
  local values
  if ok then
    values, problem = saved_devices(new, o.snapshot)
    problem = problem and ("%s: %s; attach them in setup"):format(what, problem)
  end
  if not values then
    new:close()
    if ok then core.blame(problem) end
    error(problem, 0) -- the script's own
  end
  local fits, misfit = pcall(core.check_fit, new, o.snapshot, what)
  if not fits then
    new:close()
    error(misfit, 0)
  end
  core.fill_hooks(new, o.snapshot)
  if coverage() then coverage().inherit(o.snapshot, new) end
  return load_devices(new, values, o.snapshot)
end

local function close_all(list)
  for _, one in ipairs(list) do one:close() end
end

---Several VMs that go on from where this one stands, or one when `n` is nil; they share its memory
---until they write to it. Handlers, listeners and timers of the script are not copied: `setup`
---makes new ones, and attaches the devices that this VM has. They are called "name#1" and so on.
---@param n? integer|fun(child: minikvm.vm, i: integer)
---@param setup? fun(child: minikvm.vm, i: integer)
---@return minikvm.vm[]|minikvm.vm|nil vms  or nil, "what: why", "ENAME"
---@return string? why
---@return string? code
function vm:fork(n, setup)
  options.self("vm:fork", self, "minikvm.vm")
  if type(n) == "function" and setup == nil then n, setup = nil, n end
  if n ~= nil and (math.type(n) ~= "integer" or n < 1 or n > 10000) then
    core.blame(("vm:fork: expected how many (1 to 10000), got %s"):format(tostring(n)))
  end
  if setup ~= nil and type(setup) ~= "function" then
    core.blame(("vm:fork: expected a function for 'setup', got a %s"):format(type(setup)))
  end
  core.check_idle(self, "vm:fork")
  local snap, why, code = take(self)
  if not snap then return nil, why, code end
  local children = {}
  for i = 1, n or 1 do
    local o = {}
    for key, value in pairs(made[self]) do o[key] = value end
    o.name, o.snapshot, o.trace = ("%s#%d"):format(self.name, i), snap, nil
    local ok, child, text, name = pcall(new_vm, o, setup, i, "vm:fork")
    if not ok then
      close_all(children)
      error(child, 0)
    end
    if not child then
      close_all(children)
      return nil, text, name
    end
    children[i] = child
  end
  return n and children or children[1]
end

---A VM that goes on from where the snapshot was taken.
---  name, echo, limits, files, unhandled, coalesce, trace, assist  as for kvm.vm
---  setup  function(vm): attaches the devices that the snapshotted VM had, but for those of mode
---         "linux", which it has by then; hooks, listeners
---@param opts? table
---@return minikvm.vm? vm  or nil, "what: why", "ENAME"
---@return string? why
---@return string? code
function snapshot:vm(opts)
  options.self("snapshot:vm", self, "minikvm.snapshot")
  local kvm_vm = require "minikvm.vm"
  local o, setup = kvm_vm.from_snapshot(self, opts)
  o.linux = is_linux(self)
  return new_vm(o, setup, 1, "snapshot:vm")
end

return M
