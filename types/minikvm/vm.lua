---@meta _

---A virtual machine, from kvm.vm.
---@class minikvm.vm
---@field name string text for messages
---@field state "idle"|"running"|"paused"|"ended"|"closed" `"idle"`: it never ran, or was reset
---@field mode minikvm.mode how it starts; `"linux"` is `"long"` or `"protected"`
---@field cpu minikvm.cpus vCPUs, from 0; `#vm.cpu` is how many
---@field memory minikvm.memory guest RAM
---@field ports minikvm.ports port handlers
---@field mmio minikvm.mmio the same for memory outside RAM
---@field msrs minikvm.msrs and for MSRs
---@field pci minikvm.pci the PCI bus
---@field cpuid minikvm.cpuid what CPUID answers
---@field hypercalls minikvm.hypercalls hypercall handlers
---@field console minikvm.console what the guest prints and reads
---@field clock minikvm.clock the VM's time, and timers
---@field keyboard minikvm.keyboard the PC keyboard
---@field files minikvm.vmfiles the guest's files
---@field symbols table<string, integer> addresses of symbols of the loaded ELF images, by name
local vm = {}

---The table of vCPUs, from 0.
---@class minikvm.cpus
---@field [integer] minikvm.cpu
---@operator len: integer

---Copies an image into guest memory and points a vCPU at it.
---@param source string|minikvm.source a path, or bytes
---@param options? minikvm.load.options
---@return minikvm.vm? vm
---@return string? why
---@return string? code
function vm:load(source, options) end

---An image that is no file. Options of `vm:load.source`.
---@class minikvm.source
---@field bytes? string the image
---@field name? string for messages

---Options of `vm:load`.
---@class minikvm.load.options
---@field cpu? integer|"all" which vCPU; 0. `"all"`: each of them
---@field format? "auto"|"flat"|"boot"|"elf"|"multiboot"|"multiboot2"|"limine"|"linux"|"pvh" `"auto"`
---@field at? integer flat images: physical address, the mode's own; ELF in real mode: where the window begins; bzImage: where a relocatable kernel goes
---@field entry? integer|string where to start: IP in real mode, else a virtual address, or the name of a symbol; the image's or the mode's own
---@field segment? integer real mode: what all segment registers hold; `at / 16`
---@field cmdline? string the kernel's command line: Multiboot, Limine, Linux, PVH; that of the VM
---@field initrd? string|minikvm.module Linux, PVH: the first file system
---@field modules? (string|minikvm.module)[] Multiboot, Limine, PVH
---@field framebuffer? minikvm.framebuffer.options|false Multiboot, Limine: its size, or `false` for none; by default there is one when the kernel asks for it

---What goes beside a kernel. Options of `vm:load.modules`.
---@class minikvm.module
---@field path? string a file
---@field bytes? string or what is in it
---@field name? string for messages, and for the kernel
---@field text? string the module's string

---Options of `vm:load.framebuffer`.
---@class minikvm.framebuffer.options
---@field width? integer pixels
---@field height? integer pixels

---The function or label that an address lies in.
---@param address integer linear
---@return string? name
---@return integer? offset
function vm:symbol_at(address) end

---The linear address of a place in the guest's code.
---@param where minikvm.where
---@return integer? address
---@return integer[]|string all addresses: a line may be in several places; or why
---@return string? code `"ENOENT"`
function vm:address_of(where) end

---What is known of an address; tostring makes `main+0x10 (kernel.c:12)` of it.
---@param address integer linear
---@return minikvm.place
function vm:place_of(address) end

---Takes symbols and source lines from a file that is not loaded: an ELF file, or a list as `nm` prints it.
---@param path string
---@param offset? integer what is added to its addresses; 0
---@return minikvm.vm? vm
---@return string? why
---@return string? code `"ESTALE"`: they are of another build
function vm:load_symbols(path, offset) end

---Options of `vm:run`.
---@class minikvm.run.options : minikvm.start.options
---@field until_pc? integer|string an address or symbol at which it stops

---Options of `vm:start`.
---@class minikvm.start.options
---@field deadline? number seconds, instead of the VM's limit
---@field exits? integer exits of one vCPU
---@field output? minikvm.size bytes that one vCPU may print

---Runs the VM to its end. One with one vCPU runs on this thread.
---@param options? minikvm.run.options
---@return minikvm.reason reason
---@return minikvm.result info
function vm:run(options) end

---The same on threads of the VM's own; returns at once.
---@param options? minikvm.start.options
---@return minikvm.vm vm
function vm:start(options) end

---Waits for a started VM to end.
---@param timeout? number seconds
---@return minikvm.reason? reason nil, a sentence and `"ETIMEDOUT"`: it still runs
---@return minikvm.result|string info
---@return string? code
function vm:wait(timeout) end

---Ends the run. Inside a handler it only asks, and returns nothing.
---@return minikvm.reason? reason
---@return minikvm.result? info
function vm:stop() end

---How a run has ended: the second result of vm:run, vm:wait and vm:stop. A field that is not there is nil.
---@class minikvm.result
---@field reason minikvm.reason why it ended
---@field text? string a sentence
---@field code? integer with `"exit"`: the exit code
---@field rip? integer instruction pointer at the end
---@field exits? integer returns from guest code, since the VM was created or reset
---@field entries? integer calls of KVM_RUN: one for each exit, and some that a signal ended or that only finished an access
---@field by? table<string, integer> exits by kind: `io`, `hlt`, `mmio`, `irq_window`, …
---@field served? minikvm.served accesses to ports, and outside RAM, by who answered
---@field assists? integer what was done for a KVM that could not do it itself
---@field seconds? number how long the run took
---@field traceback? string with `"error"`: of the handler
---@field waiting? string with `"error"`: the instruction of the guest that waited for it
---@field bytes? string with `"shutdown"` and `"fault"`: the instruction in hexadecimal
---@field interrupts? integer[] with those: the vectors delivered last, newest last
---@field place? string function and source line of `rip`, as far as images tell; not with `"halt"`, `"exit"`, `"break"`, `"stopped"`, `"error"`
---@field report? string with `"shutdown"` and `"fault"`: registers, code, page walk and the likeliest cause
---@field stop? minikvm.stop with `"break"`: what stopped it
---@field cpu? table<integer, minikvm.result> the same of each vCPU, from 0

---Accesses by who answered.
---@class minikvm.served
---@field c integer in C
---@field lua integer in Lua
---@field none integer by nobody
---@field coalesced integer output that cost no exit

---Why a VM has stopped at a breakpoint; all are nil when it is paused for another reason.
---@class minikvm.stop
---@field kind? "break"|"step"|"until"|"watch" what stopped it
---@field address? integer linear address of the next instruction, or that was accessed
---@field cpu? minikvm.cpu the vCPU
---@field handle? minikvm.handle the breakpoint's

---Adds a vCPU, at most the 64th, before the VM runs.
---@return minikvm.cpu? cpu
---@return string? why
---@return string? code
function vm:add_cpu() end

---Inside a handler: the run ends with reason `"panic"` or `"shutdown"` and this text.
---@param reason "panic"|"shutdown"
---@param text string
function vm:crash(reason, text) end

---Inside a handler: ends the run with reason `"exit"` when the handler is done.
---@param code? integer 0 to 0xffffffff; 0
function vm:exit(code) end

---Makes the vCPUs of a started VM leave the guest and stay outside.
---@return minikvm.vm? vm
---@return string? why
---@return string? code `"ESRCH"`: it had ended
function vm:pause() end

---Lets a paused VM go on.
---@return minikvm.vm vm
function vm:resume() end

---Lets gdb debug the guest.
---@param options? minikvm.gdb.options
---@return minikvm.gdb? gdb
---@return string? why
---@return string? code
function vm:gdb(options) end

---Shows the screen to browsers of this machine, and takes their keys.
---@param options? minikvm.view.options
---@return minikvm.view? view
---@return string? why
---@return string? code `"EADDRINUSE"`: another program listens there
function vm:view(options) end

---Back to the state after the last load. Handlers, listeners and limits stay.
---@return minikvm.vm? vm
---@return string? why
---@return string? code `"ESTALE"`: the file of a large image was written to
function vm:reset() end

---The VM as it is; it must not run, or be paused.
---@return minikvm.snapshot? snapshot
---@return string? why
---@return string? code
function vm:snapshot() end

---Back to a snapshot of this VM, or of another of the same shape.
---@param snapshot minikvm.snapshot
---@return minikvm.vm? vm
---@return string? why
---@return string? code
function vm:restore(snapshot) end

---VMs that go on from where this one stands: a list of `n`, 1 to 10000, or one without `n`.
---@param n? integer
---@param setup? fun(child: minikvm.vm, i: integer) called for each before it gets the states of devices in Lua
---@return minikvm.vm[]|minikvm.vm|nil vms
---@return string? why
---@return string? code
function vm:fork(n, setup) end

---Stops it if need be and frees everything; also at the end of a `<close>` variable.
function vm:close() end

---Options of `vm:expect_exits`.
---@class minikvm.expect_exits.options
---@field min? integer at least so many
---@field max? integer at most so many

---How many exits all vCPUs made since the last call; raises when there were others than expected.
---@param want? integer|minikvm.expect_exits.options
---@return integer exits
function vm:expect_exits(want) end

---Tells what the VM does, from now on: every exit to a function, nil ends that; or what options say.
---@param what fun(line: string)|minikvm.trace.options|nil
---@return minikvm.trace? trace
---@return string? why
---@return string? code
function vm:trace(what) end

---Sets an input of the interrupt controllers; without a level it goes up, and down when the guest took the interrupt.
---@param line integer 0 to 15, not 2
---@param level? boolean
function vm:irq(line, level) end

---Options of `vm:attach`.
---@class minikvm.attach.options
---@field ports? integer its first port
---@field mmio? integer or its guest-physical address
---@field irq? integer its interrupt line
---@field name? string instead of the definition's

---Attaches an instance of a device made by kvm.device, also while the guest runs.
---@param definition minikvm.definition
---@param options? minikvm.attach.options
---@return minikvm.device device
function vm:attach(definition, options) end

---A disk of the VM, from 1: those of option `disk`, then those of its other devices.
---@param number integer
---@return minikvm.disk?
function vm:disk(number) end

---Calls `fn` for every access that nobody serves. An integer for a read, `true` for a write serves it.
---@param fn fun(what: "in"|"out"|"read"|"write"|"rdmsr"|"wrmsr", address: integer, value: integer?, size: integer): integer|boolean|nil
---@return minikvm.handle
function vm:on_unhandled(fn) end

---What each hooked range, and each address that nobody serves, cost so far, the busiest first.
---@param options? minikvm.stats.options
---@return minikvm.stats
function vm:stats(options) end

---Begins to record which blocks of the VM's code are executed.
---@param options? minikvm.coverage.options
---@return minikvm.coverage? coverage
---@return string? why
---@return string? code
function vm:coverage(options) end

---Begins to sample where the vCPUs are while the VM runs.
---@param options? minikvm.profile.options
---@return minikvm.profile
function vm:profile(options) end

---Commands, files and kernel log of a Linux guest, mode `"linux"`.
---@return minikvm.linux
function vm:linux() end

---The screen of a guest that has one.
---@return minikvm.screen
function vm:screen() end

---Stops before an instruction, or calls a function there.
---@param where minikvm.where
---@param what? (fun(cpu: minikvm.cpu, handle: minikvm.handle): any)|minikvm.break.options
---@return minikvm.handle? handle
---@return string? why
---@return string? code `"ENOTSUP"`: the host's debug registers do not work
function vm:break_at(where, what) end

---Watches memory for accesses of the guest's processors.
---@param where minikvm.where
---@param size? integer bytes, 1 and more
---@param kind? string letters out of `"r"`, `"w"` and `"x"`; `"w"`
---@param what? (fun(cpu: minikvm.cpu, handle: minikvm.handle, access: minikvm.access): any)|minikvm.watch.options
---@return minikvm.handle? handle
---@return string? why
---@return string? code
function vm:watch(where, size, kind, what) end

---Waits until a started VM has stopped at a breakpoint.
---@param timeout? number seconds
---@return minikvm.stop? stop
---@return string? why
---@return string? code `"ETIMEDOUT"`, or `"ESRCH"`: it does not run
function vm:wait_break(timeout) end

---A VM at one moment, from vm:snapshot and kvm.load_snapshot.
---@class minikvm.snapshot
---@field name string of the VM that it is of
---@field mode minikvm.mode of the VM
---@field memory integer bytes
---@field cpus integer vCPUs
---@field irqchip "none"|"pic" of the VM
local snapshot = {}

---Options of `snapshot:vm`: those of kvm.vm that a VM may get anew.
---@class minikvm.snapshot.options
---@field name? string as of kvm.vm
---@field echo? boolean as of kvm.vm
---@field limits? minikvm.limits as of kvm.vm
---@field files? minikvm.files as of kvm.vm
---@field unhandled? "ignore"|"fault" as of kvm.vm
---@field coalesce? boolean as of kvm.vm
---@field trace? fun(line: string)|minikvm.trace.options as of kvm.vm
---@field assist? boolean as of kvm.vm
---@field disk? string|minikvm.disk.options|(string|minikvm.disk.options)[] as of kvm.vm
---@field bios? string as of kvm.vm
---@field disk_error? fun(text: string) as of kvm.vm
---@field pci? (minikvm.definition|table)[] as of kvm.vm
---@field disks? (string|minikvm.devices.blk.options)[] as of kvm.vm
---@field setup? fun(vm: minikvm.vm) attaches the devices that the VM had, before they get their states

---A new VM that goes on from it.
---@param options? minikvm.snapshot.options
---@return minikvm.vm? vm
---@return string? why
---@return string? code
function snapshot:vm(options) end

---Writes it to a file, which appears when it is complete.
---@param path string
---@return minikvm.snapshot? snapshot
---@return string? why
---@return string? code
function snapshot:save(path) end

---Gives its memory back; VMs that were made from it go on.
function snapshot:close() end
