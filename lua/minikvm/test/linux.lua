-- test/linux.lua - t.linux: a Linux kernel as a fixture, booted once; each test begins there.
--
-- On top of t.guest. The kernel gets an initramfs with busybox and the agent of vm:linux().

local artefacts = require "minikvm.test.artefacts"
local class = require "minikvm.class"
local core = require "minikvm.core"
local host = require "minikvm.linux.host"
local kvm = require "minikvm"
local linux_of = require("minikvm.linux").of
local options = require "minikvm.options"
local strict = require "minikvm.strict"

local M = {}

local BOOT_TIMEOUT <const> = 120 -- seconds
local INITRD <const> = { "files", "directories", "links", "nodes", "modules", "busybox", "init" }

local LINUX <const> = options.declare("t.linux", {
  kernel = "text", cmdline = "text", boot = "function", timeout = "seconds", trace = "boolean",
  clock = "any", random = "any",
})
for _, key in ipairs(INITRD) do LINUX[key] = "any" end

---@class minikvm.test.linux  a fixture; calling it inside a test gives a minikvm.linux
local KIND <const> = "minikvm.test.linux"
local Fixture, meta = class(KIND)
strict.seal(Fixture, meta, "linux fixture", { "guest" })

---Inside a test: skips it, with the reason, where Linux cannot run.
local function need_linux()
  local test = artefacts.test()
  if not test then core.blame "a linux fixture is for the inside of a test: call it in an it()" end
  local problem = host.problem(kvm, "test " .. test.file)
  if problem then artefacts.skip(problem) end
end

---Modules out of the tree of the kernel that was fetched, unless they say where from.
local function with_modules(modules)
  if type(modules) ~= "table" or modules.from then return modules end
  local tree = host.find_modules()
  if not tree then error("modules: 'from' is missing: their tree, /lib/modules/VERSION", 0) end
  return table.move(modules, 1, #modules, 1, { from = tree })
end

---With the drivers of `disks`, of the kernel that was fetched.
local function with_disks(modules, o)
  if not o.has_disks or o.kernel or modules and modules.from or not host.find_modules() then
    return modules
  end
  local list = table.move(modules or {}, 1, #(modules or {}), 1, {})
  for _, name in ipairs{ "virtio_pci", "virtio_blk" } do list[#list + 1] = name end
  return list
end

---Boots a VM up to its agent, and on with the fixture's own function.
local function boot(vm, o)
  local kernel = o.kernel or assert(host.find_kernel())
  local parts = { agent = true }
  for _, key in ipairs(INITRD) do parts[key] = o[key] end
  parts.modules = with_modules(with_disks(parts.modules, o))
  local cmdline = "quiet loglevel=1" .. (o.cmdline and " " .. o.cmdline or "")
  assert(vm:load(kernel, { cmdline = cmdline,
                           initrd = { bytes = assert(kvm.initrd(parts)), name = "the initrd" } }))
  local linux = linux_of(vm):wait{ timeout = o.timeout or BOOT_TIMEOUT }
  if o.boot then o.boot(linux) end
end

local function wrap(guest)
  return setmetatable({ guest = guest }, meta)
end

---Linux as a fixture: booted when the first test calls it; every test begins where it had booted.
---  kernel   a bzImage, or vmlinux with a PVH note: by default what tools/linux-kernel has fetched,
---           else the host's own
---  files, directories, links, nodes, modules, busybox, init  of its initramfs, as for kvm.initrd;
---           modules without `from` are those of the kernel that was fetched; an init of your own
---           starts /bin/minikvm-agent
---  cmdline  more words for the kernel
---  boot     function(linux): goes on from where the agent is there
---  timeout  seconds to boot (120)
---  clock    what the wall clock shows in each test: false (as the snapshot has it), true (the
---           host's time), or seconds since 1970
---  random   what goes into the pool of random numbers at the beginning of each test: true (the
---           default: new bytes), bytes, or false (nothing)
---  trace    as of t.guest
---  others   options of kvm.vm, such as memory, pci, and disks, whose drivers are loaded
---@param t table  the module minikvm.test
---@param opts table
---@return minikvm.test.linux
function M.new(t, opts)
  if type(opts) ~= "table" then
    core.blame(("t.linux: expected a table of options, got %s"):format(type(opts)))
  end
  local mine, guest = {}, { mode = "linux", name = "linux" }
  for key, value in pairs(opts) do
    if LINUX[key] then mine[key] = value else guest[key] = value end
  end
  local o = options.check("t.linux", mine, LINUX)
  local renewed = { clock = o.clock or false, random = o.random == nil or o.random }
  o.has_disks = guest.disks ~= nil
  guest.trace = o.trace
  guest.boot = function(vm) boot(vm, o) end
  guest.each = (renewed.clock or renewed.random) and function(vm) linux_of(vm):renew(renewed) end
  return wrap(t.guest(guest))
end

---Linux, where it had booted: once in each test.
---@return minikvm.linux
function meta:__call()
  need_linux()
  return linux_of(self.guest())
end

---A fixture that goes on from where this one had booted, on the same VM.
---@param go_on fun(linux: minikvm.linux)
---@return minikvm.test.linux
function Fixture:branch(go_on)
  options.self("linux:branch", self, KIND)
  options.argument("linux:branch", "go_on", go_on, "function")
  return wrap(self.guest:branch(function(vm) go_on(linux_of(vm)) end))
end

---Further machines that go on from where this one stands, each with random numbers of its own; they
---are closed after the test.
---@param n? integer  how many, 1 by default
---@return minikvm.linux ...
function Fixture:fork(n)
  options.self("linux:fork", self, KIND)
  need_linux()
  local list = {}
  for i, vm in ipairs{ self.guest:fork(n) } do
    list[i] = linux_of(vm):renew{ clock = false }
  end
  return table.unpack(list)
end

return M
