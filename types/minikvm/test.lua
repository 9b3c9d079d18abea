---@meta minikvm.test

---Fixtures and helpers for Busted specs: `local t = require "minikvm.test"`.
---@class minikvm.test
---@field describe fun(name: string, body: fun()) Busted's
---@field it fun(name: string, body: fun()) Busted's
---@field pending fun(name: string, body?: fun()) Busted's
---@field before_each fun(body: fun()) Busted's
---@field after_each fun(body: fun()) Busted's
---@field setup fun(body: fun()) Busted's
---@field teardown fun(body: fun()) Busted's
local t = {}

---Options of `t.guest`, and those of kvm.vm; `echo` is `false`.
---@class minikvm.test.guest.options : minikvm.vm.options
---@field image? string|minikvm.source what vm:load takes
---@field load? minikvm.load.options its options
---@field symbols? string the path of an ELF file with the image's symbols
---@field boot? fun(vm: minikvm.vm) runs the guest until it is ready
---@field each? fun(vm: minikvm.vm) in every test, when it begins there
---@field trace? boolean `true`: keep the last exits for the artefacts

---A fixture, booted once in a process.
---@param options minikvm.test.guest.options
---@return minikvm.guest
function t.guest(options) end

---A fixture. Inside a test `guest()` is the VM, restored to where it had booted.
---@class minikvm.guest
---@field booted integer how often `boot` has run
---@field private vm_options table
---@field private machine table
---@field private forks table
---@field private name string
---@field private image any
---@field private load any
---@field private symbols? string
---@field private boot? function
---@field private trace? boolean
---@field private each? function
---@field private trunk? minikvm.guest
---@field private ready? any
---@field private of? any
---@field private why? string
---@overload fun(): minikvm.vm
local guest = {}

---A fixture on the same VM that goes on from there.
---@param fn fun(vm: minikvm.vm)
---@return minikvm.guest
function guest:branch(fn) end

---Inside a test: further VMs that go on from where the guest stands, closed after the test.
---@param n? integer 1
---@param setup? fun(child: minikvm.vm, i: integer)
---@return minikvm.vm ...
function guest:fork(n, setup) end

---Options of `t.linux`, and those of kvm.vm.
---@class minikvm.test.linux.options : minikvm.vm.options
---@field kernel? string by default what tools/linux-kernel has fetched, else the host's own
---@field files? table as of kvm.initrd
---@field directories? table as of kvm.initrd
---@field links? table<string, string> as of kvm.initrd
---@field nodes? table as of kvm.initrd
---@field modules? table as of kvm.initrd; without `from` the fetched kernel's
---@field busybox? boolean|string as of kvm.initrd
---@field init? string as of kvm.initrd
---@field cmdline? string the kernel's command line
---@field boot? fun(linux: minikvm.linux) runs when Linux is up, once
---@field timeout? number seconds to boot; 120
---@field clock? boolean|number as of linux:renew, for each test; `false`
---@field random? boolean|string as of linux:renew, for each test; `true`
---@field trace? boolean `true`: keep the last exits for the artefacts

---Linux as a fixture. Skips a test where Linux cannot run.
---@param options minikvm.test.linux.options
---@return minikvm.test.linux
function t.linux(options) end

---A fixture. Inside a test `fixture()` is a Linux, restored to where it had booted.
---@class minikvm.test.linux
---@field private guest minikvm.guest
---@overload fun(): minikvm.linux
local fixture = {}

---A fixture on the same Linux that goes on from there.
---@param fn fun(linux: minikvm.linux)
---@return minikvm.test.linux
function fixture:branch(fn) end

---Inside a test: further Linuxes that go on from here, each with random numbers of its own.
---@param n? integer 1
---@return minikvm.linux ...
function fixture:fork(n) end

---A describe block for each mode of a list: `t.modes{ "real", "long" }(function(mode) … end)`.
---@param list minikvm.mode[]
---@return fun(body: fun(mode: minikvm.mode))
function t.modes(list) end

---Inside a test: skips it, with the reason, where VMs cannot run.
function t.needs_kvm() end

return t
