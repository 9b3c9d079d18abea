-- test.lua - helpers for Busted specs: guests as fixtures that every test gets as they were when
-- they had booted, one body over several CPU modes, artefacts of what fails.
--
-- In a spec file: local t = require "minikvm.test". Where there is no Busted yet, because the file
-- was started as a script, that line runs it as `minikvm test FILE` does, and ends the process.
-- What is kept of a failed test: lua/minikvm/test/artefacts.lua.

local kvm = require "minikvm" -- first: it brings the parts
local artefacts = require "minikvm.test.artefacts"
local options = require "minikvm.options"
local class = require "minikvm.class"
local strict = require "minikvm.strict"

---The script that the process was started for, when it is its main chunk that wants this module.
local function main_script()
  local level, info = 2
  repeat
    level, info = level + 1, debug.getinfo(level + 1, "S")
  until not info or info.what ~= "C"
  local script = arg and arg[0]
  return info and info.what == "main" and info.source == "@" .. tostring(script) and script
end

local there, busted = pcall(require, "busted")
if not there or not busted.subscribe then
  local script = main_script()
  if not script then
    error("minikvm.test works inside Busted: run the file by 'minikvm test FILE'", 2)
  end
  if arg[1] == "--help" or arg[1] == "-h" then
    require("minikvm.cli.args").explain(arg, "Options: those of minikvm test --help.")
  end
  os.exit(require("minikvm.test.runner").main{ script, table.unpack(arg) }, true)
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

local GUEST = options.declare("t.guest", {
  image = "any", boot = "function", load = "any", trace = "boolean", each = "function",
  symbols = "text",
})

---@class minikvm.guest  a fixture; calling it inside a test gives the VM
local Guest, meta = class "minikvm.guest"
strict.seal(Guest, meta, "guest", { "vm_options", "machine", "forks", "booted", "name", "image",
                              "load", "symbols", "boot", "trace", "each", "trunk", "ready", "of",
                              "why" })

local guests = setmetatable({}, { __mode = "k" })

---A new VM with its image.
local function new_vm(self)
  local vm, why = kvm.vm(self.vm_options)
  if not vm then error(why, 0) end
  if self.trace then artefacts.keep_exits(vm) end
  local loaded = true
  if self.image then loaded, why = vm:load(self.image, self.load) end
  if loaded and self.symbols then loaded, why = vm:load_symbols(self.symbols) end
  if loaded then return vm end
  vm:close()
  error(why, 0)
end

---Raises what it returned instead of true.
local function must(done, why)
  if not done then error(why, 0) end
  return done
end

---A branch boots the VM of its trunk, from where the trunk had booted.
local function boot(self)
  local machine = self.machine
  if self.trunk then
    self.trunk()
  else
    machine.vm = new_vm(self)
  end
  artefacts.use(machine.vm)
  self.booted = self.booted + 1
  if self.boot then self.boot(machine.vm) end
  self.ready, self.of = must(machine.vm:snapshot()), machine.vm
end

---Boots once. What went wrong then is the failure of every test that needs the guest; the first
---has the artefacts.
local function ensure_booted(self)
  local function note(why)
    self.why = self.trunk and self.trunk.why or tostring(why)
    artefacts.keep(self.why)
  end
  if not self.why then xpcall(boot, note, self) end
  if self.why then error(("the guest %q did not boot: %s"):format(self.name, self.why), 3) end
end

---The VM, as it was when it had booted: once in each test.
---@return minikvm.vm
function meta:__call()
  need_test "a guest"
  M.needs_kvm()
  local test, machine, fresh = artefacts.test(), self.machine, true
  if not self.ready or self.of ~= machine.vm or machine.vm.state == "closed" then
    ensure_booted(self)
  elseif machine.test ~= test or machine.guest ~= self then
    must(machine.vm:restore(self.ready))
  else
    fresh = false
  end
  machine.test, machine.guest = test, self
  artefacts.use(machine.vm)
  if fresh and self.each then self.each(machine.vm) end
  return machine.vm
end

---A fixture that goes on from where this one had booted, on the same VM: a kernel at its prompt,
---and further on a program of it that waits for input.
---@param go_on fun(vm: minikvm.vm)
---@return minikvm.guest
function Guest:branch(go_on)
  if type(go_on) ~= "function" then
    error(("guest:branch: expected a function, got %s"):format(type(go_on)), 2)
  end
  local branch = setmetatable({ trunk = self, machine = self.machine, name = self.name,
                                each = self.each, boot = go_on, forks = {}, booted = 0 }, meta)
  guests[branch] = true
  return branch
end

---Further VMs that go on from where this guest stands, which is where it had booted unless the test
---has run it; they are closed after the test.
---@param n? integer  how many, 1 by default
---@param setup? fun(vm: minikvm.vm, i: integer)  gives each its handlers and devices, as of vm:fork
---@return minikvm.vm ...
function Guest:fork(n, setup)
  need_test "guest:fork"
  M.needs_kvm()
  local forks = must(self():fork(n or 1, setup))
  for _, vm in ipairs(forks) do self.forks[#self.forks + 1] = vm end
  return table.unpack(forks)
end

---A guest as a fixture. Its VM is made and booted when the first test calls the guest, once in this
---process; every test finds it as it was then.
---  image   a path, or { bytes = … }: what vm:load takes
---  load    a table of options of vm:load
---  symbols the path of an ELF file with the image's symbols and source lines: vm:load_symbols
---  boot    function(vm): runs the guest until it is ready
---  each    function(vm): called in every test that begins where the guest had booted
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
  mine = options.check("t.guest", mine, GUEST)
  local self = setmetatable({ vm_options = vm_options, machine = {}, forks = {}, booted = 0,
                              name = opts.name or "vm", image = mine.image, load = mine.load,
                              symbols = mine.symbols, boot = mine.boot, each = mine.each,
                              trace = mine.trace }, meta)
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

---Linux as a fixture, on top of t.guest: see lua/minikvm/test/linux.lua.
---@param opts table
---@return minikvm.test.linux
function M.linux(opts)
  return require("minikvm.test.linux").new(M, opts)
end

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
    options.check("t.modes", { [i] = mode }, { [i] = MODES })
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

return strict.module(M, "minikvm.test")
