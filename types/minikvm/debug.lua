---@meta _

---Options of `vm:break_at`.
---@class minikvm.break.options
---@field fn? fun(cpu: minikvm.cpu, handle: minikvm.handle): any called before the instruction; true or `"stop"` stops. Without one each hit stops
---@field condition? fun(cpu: minikvm.cpu, handle: minikvm.handle): any only where it returns true does the hit count
---@field cpu? integer of which vCPU; each
---@field once? boolean `true`: the first hit removes it
---@field after? integer so many hits pass first
---@field physical? boolean `true`: the place is a guest-physical address
---@field hidden? boolean `true`: nothing of it is in memory; four at most, by the host's debug registers

---Options of `vm:watch`.
---@class minikvm.watch.options
---@field fn? fun(cpu: minikvm.cpu, handle: minikvm.handle, access: minikvm.access): any called when the instruction is done; true stops
---@field cpu? integer of which vCPU; each
---@field physical? boolean `true`: the place is a guest-physical address

---An access that was watched for.
---@class minikvm.access
---@field address integer linear
---@field size integer the most that the instruction may have accessed
---@field kind "r"|"w"|"x" what the guest did

---What is known of an address; tostring makes `main+0x10 (kernel.c:12)` of it.
---@class minikvm.place
---@field address integer linear
---@field symbol? string function or label
---@field offset? integer into it
---@field file? string source file, the end of its path
---@field line? integer source line
---@field column? integer in the line
---@field path? string of the source file
---@field functions? minikvm.place.call[] the innermost first, those that are inlined before the one that they are in

---A function at a place.
---@class minikvm.place.call
---@field name string of the function
---@field file? string source file
---@field line? integer source line
---@field low? integer its first address

---Options of `vm:trace`.
---@class minikvm.trace.options
---@field exits? boolean `true`: every exit; so it is unless something else is asked for
---@field interrupts? boolean `true`: every interrupt that is delivered
---@field calls? boolean `true`: every call and its return, by CALL, INT and SYSCALL, interrupts and exceptions
---@field instructions? boolean `true`: every instruction, before it is executed
---@field file? string where it goes, with times, into a new file
---@field format? "text"|"jsonl"|"perfetto" of the file; as its name ends: `.json` is for Perfetto, `.jsonl` for JSON lines
---@field limit? minikvm.size|false bytes of the file; `"64M"`
---@field fn? fun(line: string) without `file`; without both lines go to stderr

---What vm:trace returns for options.
---@class minikvm.trace
---@field hits integer events so far
---@field full boolean whether the limit was reached
---@field lost integer events that are not in the file: who reads from a FIFO was too slow
---@field error string|false why nothing more is written
local trace = {}

---Ends it, as does the end of a `<close>` variable; the file is complete.
function trace:remove() end

---Options of `vm:coverage`.
---@class minikvm.coverage.options
---@field branches? boolean `true`: which way conditional branches go, too
---@field labels? boolean `true`: all labels in executable sections are code
---@field map? boolean `true`: the guest keeps the record itself (`-fsanitize-coverage=trace-pc`)

---What vm:coverage returns.
---@class minikvm.coverage
local coverage = {}

---The addresses of blocks that were reached so far.
---@return minikvm.set
function coverage:reached() end

---The addresses of all blocks.
---@return minikvm.set
function coverage:blocks() end

---What was reached for the first time since the last call.
---@return minikvm.set
function coverage:take() end

---How many there are.
---@return minikvm.coverage.count
function coverage:count() end

---What coverage:count returns.
---@class minikvm.coverage.count
---@field blocks integer all of them
---@field reached integer those that were executed
---@field shared integer blocks inside another instruction, which are left out

---`"lines 64.6% (370 of 573), functions …, branches …"`
---@return string
function coverage:text() end

---A tracefile of lcov, as text.
---@param test? string its test name
---@return string
function coverage:lcov(test) end

---Writes a tracefile of lcov.
---@param path string
---@param test? string its test name
---@return true? written
---@return string? why
---@return string? code
function coverage:save(path, test) end

---Pages by genhtml, and `coverage.info` beside them.
---@param folder string
---@return true? written
---@return string? why
function coverage:pages(folder) end

---Another VM with the same code.
---@param vm minikvm.vm
---@return minikvm.coverage coverage
function coverage:attach(vm) end

---Forgets what was reached.
---@return minikvm.coverage coverage
function coverage:reset() end

---Takes the breakpoints out; what was reached stays. So does the end of a `<close>` variable.
---@return minikvm.coverage coverage
function coverage:stop() end

---A set of addresses: `a | b`, `a & b`, `a - b`, `#a`, `a == b`, `a[address]`.
---@class minikvm.set
---@field [integer] boolean
---@operator bor(minikvm.set): minikvm.set
---@operator band(minikvm.set): minikvm.set
---@operator sub(minikvm.set): minikvm.set
---@operator len: integer
local set = {}

---The addresses, in their order.
---@return integer[]
function set:list() end

---Options of `vm:profile`.
---@class minikvm.profile.options
---@field hz? integer samples in a second; 997
---@field stacks? boolean `false`: only the function that a vCPU is in, not its callers

---What vm:profile returns.
---@class minikvm.profile
---@field samples integer ticks in which a vCPU was in the guest or at an exit
---@field idle integer ticks in which one slept
---@field lost integer ticks of stacks beyond 16,384 different ones
local profile = {}

---Ends it; what was sampled stays.
---@return minikvm.profile profile
function profile:stop() end

---A line for each stack, as programs that draw flame graphs read it.
---@return string
function profile:folded() end

---Options of `vm:gdb`.
---@class minikvm.gdb.options
---@field at? integer|string where gdb connects: a port, `"HOST:PORT"`, `"*:PORT"`, `"unix:PATH"`; a port that is free
---@field stop? boolean `false`: the guest runs until gdb connects
---@field on? "now"|"crash" `"crash"`: nothing until the guest dies; then vm:run and vm:wait return when gdb has looked at it
---@field lost? "hold"|"continue"|"stop" what becomes of the guest when gdb vanishes; `"hold"`
---@field arch? "auto"|"i8086"|"i386"|"x86-64" what gdb is told; what vCPU 0 runs when gdb connects
---@field monitor? boolean `false`: gdb's `monitor` runs no Lua
---@field notify? fun(text: string) gdb has vanished, a second one was sent away, the guest has died

---What vm:gdb returns.
---@class minikvm.gdb
---@field address string for gdb's `target remote`
---@field port? integer nil for a Unix socket
---@field connected boolean whether a gdb is there
---@field hits integer how often the guest stopped for gdb
local gdb = {}

---The guest goes on without gdb.
function gdb:remove() end

---Options of `vm:view`.
---@class minikvm.view.options
---@field port? integer of 127.0.0.1; `0`, one that is free

---What vm:view returns.
---@class minikvm.view
---@field url string the page; it has a token: who has it may look and type
---@field port integer of 127.0.0.1
---@field viewers integer how many pages are open
local view = {}

---Nobody can watch any more; who does is told.
function view:remove() end

---Options of `vm:stats`.
---@class minikvm.stats.options
---@field all? boolean `true`: those never accessed, too
---@field timing? boolean whether times are measured from now on

---What vm:stats returns; tostring makes it a table to read.
---@class minikvm.stats
---@field [integer] minikvm.stats.row
local stats = {}

---The rows as JSON, addresses as text.
---@return string
function stats:json() end

---What a range cost.
---@class minikvm.stats.row
---@field kind "port"|"mmio"|"msr" of address
---@field first integer of the range
---@field last integer of the range
---@field owner string who serves it; `"nobody"`
---@field accesses integer how many there were
---@field no_exit integer of these, those that cost no exit
---@field c integer of the others, those answered in C
---@field lua integer and in Lua
---@field seconds number spent in the handler and what it passed on
