---@meta _

---vm.memory: RAM, and what was mapped, by guest-physical address. An access that is not all in memory raises.
---@class minikvm.memory
---@operator len: integer
local memory = {}

---The bytes there, a copy.
---@param address integer
---@param length integer
---@return string
function memory:read(address, length) end

---Writes bytes.
---@param address integer
---@param bytes string
function memory:write(address, bytes) end

---A byte; with a value, writes it.
---@param address integer
---@param value? integer
---@return integer value
function memory:u8(address, value) end

---A little-endian number of 16 bits; with a value, writes it.
---@param address integer
---@param value? integer
---@return integer value
function memory:u16(address, value) end

---A little-endian number of 32 bits; with a value, writes it.
---@param address integer
---@param value? integer
---@return integer value
function memory:u32(address, value) end

---A little-endian number of 64 bits, as a signed Lua integer; with a value, writes it.
---@param address integer
---@param value? integer
---@return integer value
function memory:u64(address, value) end

---The bytes before the next NUL.
---@param address integer
---@param limit? integer at most so many
---@return string
function memory:cstring(address, limit) end

---Fills memory with a byte.
---@param address integer
---@param length integer
---@param byte? integer 0
function memory:fill(address, length, byte) end

---Where bytes occur first.
---@param bytes string
---@param from? integer 0
---@return integer? address
function memory:find(bytes, from) end

---Memory as text, 16 bytes a line.
---@param address integer
---@param length integer
---@return string
function memory:hexdump(address, length) end

---Whether a range is all memory; with `write`, none of it read-only.
---@param address integer
---@param length integer
---@param write? boolean
---@return boolean
function memory:has(address, length, write) end

---Bytes of RAM, as `#vm.memory`.
---@return integer
function memory:size() end

---A list of all memory there is, by address.
---@return minikvm.region[]
function memory:regions() end

---A region of memory.
---@class minikvm.region
---@field at integer its guest-physical address
---@field size integer bytes
---@field kind "ram"|"rom"|"shared" what it is
---@field writable boolean whether the guest may write to it
---@field name string for messages

---Options of `memory:map`.
---@class minikvm.map.options
---@field at integer guest-physical address, a multiple of 4096, where nothing else is
---@field size? minikvm.size bytes, a multiple of 4096; that of the contents, rounded up
---@field bytes? string contents; the rest is zero
---@field path? string contents, from a file
---@field rom? boolean `true`: the guest reads it and runs code in it; what it writes there exits
---@field shared? boolean `true`: the file at `path` itself, which other VMs and processes see change
---@field name? string for messages; the file's name

---Adds memory while the VM does not run.
---@param options minikvm.map.options
---@return minikvm.handle? handle its `hits` counts writes that were ignored
---@return string? why
---@return string? code
function memory:map(options) end

---What a hook returns; a `<close>` variable takes it off.
---@class minikvm.handle
---@field hits integer how often it was called, or its ports were accessed
local handle = {}

---Takes the hook off; twice does no harm.
function handle:remove() end

---Of a const or latch: what is there now.
---@param address? integer the first
---@param size? integer 1
---@return integer value
function handle:get(address, size) end

---Of a const or latch: changes it.
---@param value integer
---@param address? integer the first
---@param size? integer 1
function handle:set(value, address, size) end

---Of a source: what is read next, behind what waits; 65536 bytes in all.
---@param bytes string
---@return boolean? taken
---@return string? why
---@return string? code
function handle:put(bytes) end

---Of a source: takes what waits. Of a fifo: what is collected of an unfinished record.
---@return string bytes
function handle:take() end

---A port or address, `{ first, last }`, or `{ first, size = n }`.
---@alias minikvm.range integer|integer[]|table

---Functions that answer a range.
---@class minikvm.handlers
---@field read? fun(address: integer, size: integer): integer the value; without it reads are all ones
---@field write? fun(address: integer, value: integer, size: integer) without it writes go nowhere
---@field name? string for vm:stats and messages

---The same on top of what is there.
---@class minikvm.override.handlers
---@field read? fun(address: integer, size: integer, next: fun(): integer): integer `next()` is what lies beneath
---@field write? fun(address: integer, value: integer, size: integer, next: fun(value?: integer)) `next()` writes what the guest wrote
---@field name? string for vm:stats and messages

---How a fifo cuts what is written into records.
---@class minikvm.fifo.options
---@field on? integer the byte that ends a record, and is no part of it
---@field size? integer or how many bytes a record has, 65536 at most

---What vm.ports, vm.mmio, vm.msrs and windows have in common.
---@class minikvm.hooks
local hooks = {}

---Serves a range that nobody serves yet; raises when it is taken.
---@param range minikvm.range
---@param handlers minikvm.handlers
---@return minikvm.handle
---@overload fun(self: minikvm.hooks, first: integer, last: integer, handlers: minikvm.handlers): minikvm.handle
function hooks:on(range, handlers) end

---The same on top of whatever is there.
---@param range minikvm.range
---@param handlers minikvm.override.handlers
---@return minikvm.handle
---@overload fun(self: minikvm.hooks, first: integer, last: integer, handlers: minikvm.override.handlers): minikvm.handle
function hooks:override(range, handlers) end

---Calls a function for what passes; it changes nothing.
---@param range minikvm.range
---@param fn fun(what: "read"|"write", address: integer, value: integer, size: integer)
---@return minikvm.handle
---@overload fun(self: minikvm.hooks, first: integer, last: integer, fn: fun(what: "read"|"write", address: integer, value: integer, size: integer)): minikvm.handle
function hooks:tap(range, fn) end

---Reads are the value, as much of it as fits; writes go nowhere.
---@param range minikvm.range
---@param value integer
---@return minikvm.handle
---@overload fun(self: minikvm.hooks, base: integer, size: integer, value: integer): minikvm.handle
function hooks:const(range, value) end

---Reads are what was written last, a byte for each address; 16 MiB at most.
---@param range minikvm.range
---@param initial? integer 0
---@return minikvm.handle
---@overload fun(self: minikvm.hooks, base: integer, size: integer, initial?: integer): minikvm.handle
function hooks:latch(range, initial) end

---Writes go nowhere.
---@param range minikvm.range
---@return minikvm.handle
---@overload fun(self: minikvm.hooks, base: integer, size: integer): minikvm.handle
function hooks:sink(range) end

---Writes are collected into records.
---@param range minikvm.range
---@param options minikvm.fifo.options
---@param fn fun(record: string)
---@return minikvm.handle
---@overload fun(self: minikvm.hooks, base: integer, size: integer, options: minikvm.fifo.options, fn: fun(record: string)): minikvm.handle
function hooks:fifo(range, options, fn) end

---Reads take the bytes that handle:put has put there.
---@param range minikvm.range
---@param fn? fun() called when the last one is taken
---@return minikvm.handle
---@overload fun(self: minikvm.hooks, base: integer, size: integer, fn?: fun()): minikvm.handle
function hooks:source(range, fn) end

---Calls a function for writes of one value; others go on.
---@param range minikvm.range
---@param value integer
---@param fn fun(address: integer, value: integer, size: integer)
---@return minikvm.handle
---@overload fun(self: minikvm.hooks, base: integer, size: integer, value: integer, fn: fun(address: integer, value: integer, size: integer)): minikvm.handle
function hooks:match(range, value, fn) end

---Hooks of a bus whose writes may ring a doorbell.
---@class minikvm.bus : minikvm.hooks
local bus = {}

---Writes of that size, and of that value if one is given, cost no exit; `fn(count)` soon after.
---@param address integer
---@param size integer
---@param value integer|fun(count: integer)
---@param fn? fun(count: integer)
---@return minikvm.handle
function bus:doorbell(address, size, value, fn) end

---vm.ports: ports.
---@class minikvm.ports : minikvm.bus

---vm.mmio: memory outside RAM, by guest-physical address.
---@class minikvm.mmio : minikvm.bus

---vm.msrs: MSRs, 0 to 0xffffffff. A handler that returns `false` raises #GP in the guest.
---@class minikvm.msrs : minikvm.hooks

---A BAR or the configuration space of a PCI function, with addresses from 0.
---@class minikvm.window : minikvm.bus
---@field size integer bytes
---@field io boolean it is one of ports

---vm.hypercalls.
---@class minikvm.hypercalls
local hypercalls = {}

---A handler of `vm.hypercalls`; a `<close>` variable takes it off.
---@class minikvm.hypercalls.handle
---@field hits integer how often it was called
---@field private calls minikvm.hypercalls
---@field private number integer
---@field private name? string
---@field private kind string
---@field private fn function
---@field private turns table
---@field private beneath? minikvm.hypercalls.handle
---@field private removed? boolean
local hypercalls_handle = {}

---Takes it off; twice does no harm.
function hypercalls_handle:remove() end

---Answers a hypercall; the integer that it returns is what the guest reads.
---@param number integer 0 to 255
---@param name string for people
---@param fn fun(argument: integer, cpu: integer): integer?
---@return minikvm.hypercalls.handle
function hypercalls:define(number, name, fn) end

---Answers in the place of a hypercall; `next()` is the call beneath.
---@param call integer|string number or name
---@param fn fun(argument: integer, cpu: integer, next: fun(): integer): integer?
---@return minikvm.hypercalls.handle
function hypercalls:override(call, fn) end

---Sees a hypercall, and changes nothing.
---@param call integer|string number or name
---@param fn fun(argument: integer, cpu: integer)
---@return minikvm.hypercalls.handle
function hypercalls:tap(call, fn) end

---vm.cpuid: what the guest's CPUID answers, until the VM runs for the first time.
---@class minikvm.cpuid
local cpuid = {}

---A leaf's registers. Options of `vm.cpuid`.
---@class minikvm.cpuid.registers
---@field eax? integer 32 bits
---@field ebx? integer 32 bits
---@field ecx? integer 32 bits
---@field edx? integer 32 bits

---Puts back what the leaf answered before.
---@class minikvm.cpuid.handle
---@field private cpuid minikvm.cpuid
---@field private before string
---@field private removed? boolean
local cpuid_handle = {}

---Puts back what was.
function cpuid_handle:remove() end

---What a leaf answers.
---@param leaf integer
---@param subleaf? integer 0
---@return minikvm.cpuid.registers?
function cpuid:get(leaf, subleaf) end

---Sets the registers that are given.
---@param leaf integer
---@param subleaf integer|minikvm.cpuid.registers may be left out
---@param registers? minikvm.cpuid.registers
---@return minikvm.cpuid.handle
function cpuid:set(leaf, subleaf, registers) end

---Whether the guest is told of a feature, by its name in /proc/cpuinfo.
---@param name string
---@return boolean
function cpuid:has(name) end

---Hides features.
---@param name string
---@param ... string
---@return minikvm.cpuid.handle
function cpuid:hide(name, ...) end

---Sets the vendor.
---@param text string twelve letters
---@return minikvm.cpuid.handle
function cpuid:vendor(text) end
