-- test.lua - helpers for Busted specs: guests as fixtures that every test gets as they were when
-- they had booted, one body over several CPU modes, artefacts of what fails.
--
-- In a spec file: local t = require "minikvm.test". Where there is no Busted yet, because the file
-- was started as a script, that line runs it as `minikvm test FILE` does, and ends the process.
-- What is kept of a failed test: lua/minikvm/artefacts.lua.

local kvm = require "minikvm" -- first: it brings the parts
local artefacts = require "minikvm.artefacts"
local options = require "minikvm.options"

---The script that the process was started for, when it is its main chunk that wants this module.
local function main_script()
  local script = arg and arg[0]
  for level = 2, script and 20 or 0 do
    local info = debug.getinfo(level, "S")
    if not info then break end
    if info.what == "main" and info.source == "@" .. script then return script end
  end
end

local there, busted = pcall(require, "busted")
if not there or not busted.subscribe then
  local script = main_script()
  if not script then
    error("minikvm.test works inside Busted: run the file by 'minikvm test FILE'", 2)
  end
  os.exit(require("minikvm.runner").main{ script, table.unpack(arg) }, true)
end

local M = {}

artefacts.install()

---Busted's own, for files that want no globals.
M.describe, M.it, M.pending = busted.describe, busted.it, busted.pending
M.before_each, M.after_each = busted.before_each, busted.after_each
M.setup, M.teardown = busted.setup, busted.teardown

---Inside a test: skips it, with the reason, where VMs cannot run.
function M.needs_kvm()
  local probe = kvm.probe()
  if not probe.ok then artefacts.skip("needs KVM: " .. probe.why) end
end

local function need_test(what)
  if not artefacts.test() then
    error(what .. " is for the inside of a test: call it in the function of an it()", 3)
  end
end

-- ---- guests ----

local GUEST = { image = "any", boot = "function", load = "any", trace = "boolean" }

---@class minikvm.guest  a fixture; calling it inside a test gives the VM
---@field booted integer  how often its boot function has run
local Guest = {}
Guest.__index = Guest

local guests = setmetatable({}, { __mode = "k" })

---The VM before boot(): new, with its image.
local function new_vm(self)
  local vm, why = kvm.vm(self.vm_options)
  if not vm then error(why, 0) end
  if self.trace then artefacts.keep_exits(vm) end
  local image, loaded = self.image, true
  if image then loaded, why = vm:load(image, self.load) end
  if loaded then return vm end
  vm:close()
  error(why, 0)
end

local function boot(self)
  self.vm = new_vm(self)
  artefacts.use(self.vm)
  self.booted = self.booted + 1
  if self.boot then self.boot(self.vm) end
  local why
  self.ready, why = self.vm:snapshot()
  if not self.ready then error(why, 0) end
end

---Boots once. What went wrong then is the failure of every test that needs the guest, and is kept
---with the first.
local function ensure_booted(self)
  if self.why then error(("the guest %q did not boot: %s"):format(self.name, self.why), 0) end
  if self.ready and self.vm.state ~= "closed" then return end
  local function note(why)
    self.why = tostring(why)
    return why
  end
  xpcall(boot, note, self)
  if self.why then error(("the guest %q did not boot: %s"):format(self.name, self.why), 0) end
end

---The VM, as it was when it had booted: once in each test.
---@return minikvm.vm
function Guest:__call()
  need_test "a guest"
  M.needs_kvm()
  local test = artefacts.test()
  local fresh = not self.ready or self.vm.state == "closed"
  ensure_booted(self)
  artefacts.use(self.vm)
  if self.test ~= test and not fresh then assert(self.vm:restore(self.ready)) end
  self.test = test
  return self.vm
end

---Further VMs that begin where this guest had booted; they are closed after the test.
---@param n? integer  how many, 1 by default
---@return minikvm.vm ...
function Guest:fork(n)
  need_test "guest:fork"
  M.needs_kvm()
  local vm = self()
  local forks = assert(vm:fork(n or 1))
  for _, one in ipairs(forks) do self.forks[#self.forks + 1] = one end
  return table.unpack(forks)
end

---A guest as a fixture. Its VM is made and booted when the first test calls the guest, once in this
---process; every test finds it as it was then.
---  image   a path, or { bytes = … }: what vm:load takes
---  load    a table of options of vm:load
---  boot    function(vm): runs the guest until it is ready
---  trace   true: keep the last exits for the artefacts
---  others  options of kvm.vm; echo is false
---@param opts table
---@return minikvm.guest guest  call it inside a test: guest() is the VM
function M.guest(opts)
  if type(opts) ~= "table" then
    error(("t.guest: expected a table of options, got %s"):format(type(opts)), 2)
  end
  local mine, vm_options = {}, { echo = false }
  for key, value in pairs(opts) do
    if GUEST[key] then mine[key] = value else vm_options[key] = value end
  end
  mine = options.check("t.guest", mine, GUEST, 2)
  local self = setmetatable({ vm_options = vm_options, forks = {}, booted = 0,
                              name = opts.name or "vm", image = mine.image, load = mine.load,
                              boot = mine.boot, trace = mine.trace }, Guest)
  guests[self] = true
  return self
end

busted.subscribe({ "test", "end" }, function()
  for guest in pairs(guests) do
    for _, vm in ipairs(guest.forks) do vm:close() end
    guest.forks = {}
  end
  return nil, true
end)

-- ---- modes ----

local MODES <const> = { "real", "protected", "paged", "long" }

---One body over several CPU modes: t.modes{ "real", "long" }(function(mode) … end) makes a describe
---block of each.
---@param list string[]
---@return fun(body: fun(mode: string))
function M.modes(list)
  if type(list) ~= "table" or #list == 0 then
    error("t.modes: expected a list of modes, such as { \"real\", \"long\" }", 2)
  end
  for i, mode in ipairs(list) do
    options.check("t.modes", { [i] = mode }, { [i] = MODES }, 2)
  end
  return function(body)
    if type(body) ~= "function" then
      error(("t.modes{…}: expected a function, got %s"):format(type(body)), 2)
    end
    for _, mode in ipairs(list) do
      busted.describe(mode .. " mode:", function() body(mode) end)
    end
  end
end

return M
