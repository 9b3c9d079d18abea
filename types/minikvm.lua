---@meta minikvm

-- What `require "minikvm"` returns, for editors: the functions of the module and their options.
-- docs/lua-api.md has tables made from these files (tools/api), spec/lua/types_spec.lua holds both
-- against the module.

---Bytes: an integer, or text: `"4096"`, `"0x1000"`, `"256K"`, `"4M"`, `"1G"`.
---@alias minikvm.size integer|string

---A place in a guest's code: a linear address, or `"main"`, `"main+0x10"`, `"file.c:12"`, `"0x1000"`.
---@alias minikvm.where integer|string

---What made a run end, from the mildest to the gravest.
---@alias minikvm.reason
---| "halt" # HLT with nothing left to wake it
---| "exit" # the guest gave an exit code
---| "break" # a breakpoint or step has stopped it; the next vm:run goes on from there
---| "stopped" # by vm:stop, Ctrl-C, or Ctrl-A x on the terminal
---| "deadline" # the time was up
---| "limit" # exits or output; the budget of a wait
---| "forbidden" # output that console:forbid forbids
---| "panic" # the guest has told a device such as devices.pvpanic that it is broken
---| "shutdown" # triple fault, or a reset
---| "fault" # an instruction that KVM could not run, a bad hypercall, an unserved port with unhandled = "fault"
---| "error" # a handler raised

---@alias minikvm.mode "real"|"protected"|"paged"|"long"

---The module.
---@class minikvm
---@field _VERSION string the version, as text
local kvm = {}

---Limits of each run. Options of `kvm.vm.limits`.
---@class minikvm.limits
---@field seconds? number how long a run may take
---@field exits? integer exits of one vCPU
---@field output? minikvm.size bytes that one vCPU may print
---@field handler? number|false seconds that one call of a handler may take; 10. `false`: no limit

---Options of `kvm.vm`.
---@class minikvm.vm.options
---@field name? string for messages, up to 63 bytes; `"vm"`
---@field mode? "real"|"protected"|"paged"|"long"|"linux" how it starts; by default the first image chooses. `"linux"`: the machine that a Linux kernel expects
---@field memory? minikvm.size bytes of RAM, a multiple of 4096, up to 64 GiB; 1M in real mode, else 4M
---@field cpus? integer vCPUs, 1 to 64; 1
---@field irqchip? "none"|"pic" `"pic"`: interrupt controllers, timer and keyboard of a PC; `"none"`
---@field console? "hypercall"|"uart" what the guest's boot information tells it to print to; `"hypercall"`. All of them work
---@field limits? minikvm.limits what ends each run
---@field unhandled? "ignore"|"fault" `"ignore"`: ports that nobody serves read all ones; `"fault"`: they end the VM
---@field coalesce? boolean `false`: every output byte is an exit, so that counts are exact; `true`
---@field echo? boolean whether guest output goes to stdout; `true`
---@field trace? fun(line: string)|minikvm.trace.options as for vm:trace
---@field stats? boolean `true`: measure the time that accesses take, for vm:stats
---@field cpuid? minikvm.cpuid.options what CPUID answers
---@field map_io? integer paged and long mode: an address outside RAM, whose large page appears at itself, for devices
---@field page_size? minikvm.size long mode: `"4K"` or `"2M"`; `"4K"`
---@field map_size? minikvm.size long mode: only this many bytes of RAM appear at their own address; all
---@field map_base? integer long mode: RAM appears once more from this address on; 0, not
---@field cmdline? string for the guest's boot information, up to 447 bytes
---@field disk? string|minikvm.disk.options|(string|minikvm.disk.options)[] disk images to boot from, four at most: the machine is a PC with a BIOS, in real mode, with 256M
---@field disks? (string|minikvm.devices.blk.options)[] virtio disks on the PCI bus, behind those of `pci`
---@field bios? string with `disk`: `"seabios"`, `"lua"`, or a path; `"seabios"`
---@field disk_error? fun(text: string) with `disk`: called for what the host refuses, and when a guest cannot go on
---@field pci? (minikvm.definition|table)[] what is on the PCI bus: definitions of kvm.pci, each alone or with options as `{ definition, slot = 3 }`
---@field files? minikvm.files which files the guest may use; by default only those that it makes itself
---@field assist? boolean `false`: never do for a weak KVM what it cannot do itself; `true`

---What CPUID answers, for `kvm.vm`: leaves by number, too, `[0x40000000] = { eax = 0 }`.
---@class minikvm.cpuid.options
---@field vendor? string 12 letters
---@field hide? string[] features by their names in /proc/cpuinfo
---@field [integer] minikvm.cpuid.registers

---Creates a virtual machine. An option that there is not raises.
---@param options? minikvm.vm.options
---@return minikvm.vm? vm
---@return string? why "what: why", when the host cannot
---@return string? code such as "ENOENT"
function kvm.vm(options) end

---Creates a file policy: which files of the host a guest may use, and how much.
---@param options? minikvm.files.options
---@return minikvm.files? policy
---@return string? why
---@return string? code
function kvm.files(options) end

---Opens a disk image for a device, or makes a disk in memory. Writes stay in memory, unless `write` says otherwise.
---@param options minikvm.disk.options
---@return minikvm.disk? disk
---@return string? why
---@return string? code
function kvm.disk(options) end

---Makes an initramfs for a Linux guest, the same bytes for the same table.
---@param options minikvm.initrd.options
---@return string? bytes
---@return string? why
---@return string? code
function kvm.initrd(options) end

---Reads a snapshot that snapshot:save wrote.
---@param path string
---@return minikvm.snapshot? snapshot
---@return string? why
---@return string? code `"EINVAL"`: it is none; `"EBADMSG"`: damaged; `"EOPNOTSUPP"`: of another version
function kvm.load_snapshot(path) end

---Describes a device, for vm:attach.
---@param definition minikvm.device.options
---@return minikvm.definition
function kvm.device(definition) end

---Describes a function of the PCI bus, for vm.pci:attach.
---@param definition minikvm.pci.options
---@return minikvm.definition
function kvm.pci(definition) end

---Describes a virtio device over PCI, for vm.pci:attach.
---@param definition minikvm.virtio.options
---@return minikvm.definition
function kvm.virtio(definition) end

---Options of `kvm.wait`.
---@class minikvm.wait.options
---@field timeout? number seconds for all of them together

---How one of several VMs has ended.
---@class minikvm.waited
---@field vm minikvm.vm one of `vms`
---@field reason? minikvm.reason nil: it still runs
---@field info minikvm.result|string a sentence when it still runs

---Waits for several started VMs to end.
---@param vms minikvm.vm[]
---@param options? minikvm.wait.options
---@return minikvm.waited[] # in the order of `vms`
function kvm.wait(vms, options) end

---Lets time pass; handlers of started VMs run meanwhile. Ctrl-C ends it.
---@param seconds number
function kvm.sleep(seconds) end

---The signal that interrupts guests, SIGRTMIN + 6. With a number: another one, before the first VM is made.
---@param number? integer
---@return integer number
function kvm.signal(number) end

---What this host's KVM is and can do. Never raises.
---@return minikvm.probe
function kvm.probe() end

---What kvm.probe returns.
---@class minikvm.probe
---@field ok boolean KVM opens and speaks its API
---@field why? string if not: a sentence
---@field code? string and an errno name
---@field host "vmx"|"svm"|"pvm"|"unknown" whose KVM it is: Intel's, AMD's, pvm
---@field api integer KVM's API version, 12; 0 when it could not be asked
---@field paging32 "native"|"assist"|"unknown" 32-bit paging; `"assist"`: minikvm stands in
---@field int_n "native"|"assist"|"unknown" `int n`
---@field iret "native"|"assist"|"unknown" `iret`
---@field cpuid "shaped"|"host"|"unknown" `"shaped"`: guests are told what vm.cpuid says; `"host"`: some feature bits are the host's own
---@field caps table<string, boolean> capabilities by name

---Machine code as text, in Intel syntax, up to the first byte that begins no instruction.
---@param bytes string
---@param bits 16|32|64
---@param address? integer of the first byte; 0
---@return minikvm.instruction[]
function kvm.disassemble(bytes, bits, address) end

---An instruction.
---@class minikvm.instruction
---@field address integer of its first byte
---@field size integer bytes
---@field text string in Intel syntax
---@field bytes? string of cpu:disassemble

---Options of `kvm.jail`.
---@class minikvm.jail.options
---@field level? "best"|"strict"|"log" `"best"`: the walls that the kernel has; `"strict"`: all of them, or an error; `"log"`: none, and what would be refused is told on stderr
---@field read? string|string[] files that may be read, directories below which they may
---@field write? string|string[] the same, to be written to as well
---@field change? string|string[] directories in which files may be made, renamed and removed as well
---@field files? boolean `true`: guests have files (kvm.files) in what is named
---@field listen? boolean|string[] `true`: vm:gdb may listen; or its addresses: a Unix socket's folder is granted, and a socket that was left over there is removed
---@field policy? string a policy file (security.md), whose grants are added

---What kvm.jail returns.
---@class minikvm.jail
---@field level "best"|"strict"|"log" what was asked for
---@field walls string[] of `"privileges"`, `"files"`, `"truncation"`, `"system calls"`
---@field missing? string those that are not there, a sentence

---Puts the process into a jail: it keeps the files that are named, and what running guests takes.
---@param options? minikvm.jail.options
---@return minikvm.jail? jail
---@return string? why
---@return string? code `"EALREADY"`: it is in one; `"EBUSY"`: there are other threads; `"ENOTSUP"`: a wall is missing
function kvm.jail(options) end

---Runs a Lua function or script on a thread and in a Lua state of its own.
---@param what function|string or the path of a script; its first argument is its end of the line
---@param ... any copied, for it
---@return minikvm.worker? worker
---@return string? why
---@return string? code
function kvm.worker(what, ...) end

---What kvm.worker returns; inside, the first argument has `send` and `receive` too.
---@class minikvm.worker
local worker = {}

---Sends a message of one or more values, the first not nil.
---@param ... any
---@return true? sent
---@return string? why
---@return string? code `"EPIPE"`: it has ended; `"ENOBUFS"`: 64 MiB wait
function worker:send(...) end

---The values of the next message.
---@param timeout? number seconds; for ever
---@return any ... nil, why, `"ETIMEDOUT"` or `"EPIPE"`: it has ended and nothing is left
function worker:receive(timeout) end

---Waits for its end.
---@param timeout? number seconds; for ever
---@return true? ended
---@return any ... what it returned; or why, `"ERROR"`, `"ECANCELED"`, `"ETIMEDOUT"`
function worker:wait(timeout) end

---Ends it, its VMs included. So does the end of a `<close>` variable.
---@return true? ended
---@return string? why
---@return string? code `"EBUSY"`: after a second it is in a C function that does not return
function worker:close() end

---A worker's end of the line.
---@class minikvm.owner
local owner = {}

---Sends a message to the owner.
---@param ... any
---@return true? sent
---@return string? why
---@return string? code
function owner:send(...) end

---The values of the owner's next message.
---@param timeout? number seconds; for ever
---@return any ...
function owner:receive(timeout) end

return kvm
