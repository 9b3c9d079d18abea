---@meta _

---A function of a device for reads and writes of registers.
---@alias minikvm.device.read fun(d: minikvm.device, register: string|integer, size: integer, bank?: integer): integer
---@alias minikvm.device.write fun(d: minikvm.device, register: string|integer, value: integer, size: integer, bank?: integer)

---A register; `access`: `"rw"` by default.
---@class minikvm.register.options
---@field name string key of `d.reg`
---@field width? integer bytes
---@field reset? integer its value after a reset
---@field access? "rw"|"ro"|"wo" `"rw"`
---@field bank? string a register whose value selects one of `banks` values
---@field banks? integer how many

---What devices, PCI functions and virtio devices have in common.
---@class minikvm.device.common
---@field name? string for messages and statistics
---@field reset? fun(d: minikvm.device) after it was attached and after vm:reset
---@field save? fun(d: minikvm.device): any what `load` gets back: booleans, numbers, strings and tables of them; `d.state` otherwise
---@field load? fun(d: minikvm.device, value: any) gets what `save` has returned
---@field timers? table<string, fun(d: minikvm.device)> what `d:after(seconds, NAME)` calls; such timers are in snapshots
---@field attach? fun(d: minikvm.device) it comes
---@field detach? fun(d: minikvm.device) it goes
---@field replaced? fun(d: minikvm.device) after d:replace with this definition

---Registers and who answers them.
---@class minikvm.block.options
---@field registers? table<integer, string|minikvm.register.options> by offset in bytes; without it handlers get offsets
---@field width? integer bytes of a register that says none, 1, 2, 4 or 8; the smallest distance between two
---@field size? integer bytes that it occupies; to the end of its last register
---@field read? minikvm.device.read|table<string, minikvm.device.read> a function, or functions by register
---@field write? minikvm.device.write|table<string, minikvm.device.write> the same; `d.reg[register]` has the value already
---@field accepts? fun(d: minikvm.device, offset: integer, size: integer, is_write: boolean): boolean `false` refuses an access

---Options of `kvm.device`.
---@class minikvm.device.options : minikvm.device.common, minikvm.block.options
---@field irq? boolean `true`: it needs an interrupt line

---What kvm.device, kvm.pci and kvm.virtio return: its fields are those of the options.
---@class minikvm.definition : minikvm.device.options
---@field private blocks table
---@field private names table
---@field private pci table?
---@field private kind string

---An attached device: what its functions get as their first argument.
---@class minikvm.device
---@field name string of the definition, or that attach was given
---@field vm minikvm.vm whose device it is
---@field state table its own, empty at every reset
---@field own table for what is no state: handles, other VMs; neither saved nor reset
---@field reg table<string, any> the registers' values by name
---@field irq? integer its interrupt line
---@field refused integer accesses that `accepts` refused
---@field base? integer its first port or address
---@field place string where it is: `"ports 0x300"`, `"slot 3.0"`
---@field slot? integer of a PCI function
---@field bars? table<integer, minikvm.window> of a PCI function: what else lies in its BARs
---@field config? minikvm.window and in its configuration space
---@field private definition minikvm.definition
---@field private handles table
---@field private disks table
---@field private timers table
---@field private gone? boolean
---@field private places? table
---@field private pci? table
local d = {}

---Raises its interrupt line, which is up while one of the devices on it raises it.
function d:raise() end

---Lowers it.
function d:lower() end

---Calls a function once; ends with a reset or detach.
---@param seconds number
---@param fn string|fun(d: minikvm.device) a name of `timers`, or a function, whose timer is not in snapshots
---@return minikvm.timer
function d:after(seconds, fn) end

---Calls a function again and again; ends with a reset or detach.
---@param seconds number
---@param fn string|fun(d: minikvm.device)
---@return minikvm.timer
function d:every(seconds, fn) end

---Ends the timers that call the function of this name.
---@param name string
function d:cancel(name) end

---The line of the PIC that its interrupt goes to, or nil.
---@return integer?
function d:line() end

---Other code at once, also while the guest runs: state, registers and place stay.
---@param definition minikvm.definition
---@return minikvm.device d
---@return string[] gone sentences on registers and timers that are gone
function d:replace(definition) end

---Whether that is all RAM, to write to.
---@param address integer
---@param length integer
---@return boolean
function d:is_ram(address, length) end

---Bytes of the guest's memory.
---@param address integer
---@param length integer
---@return string? bytes
---@return string? why they are not all in RAM or ROM, or it is no bus master
function d:dma_read(address, length) end

---Writes to the guest's memory.
---@param address integer
---@param bytes string
---@return true? written
---@return string? why
function d:dma_write(address, bytes) end

---A disk of kvm.disk becomes part of the device.
---@param disk minikvm.disk
---@return minikvm.disk disk
function d:use_disk(disk) end

---A further hook, which goes with the device.
---@generic T
---@param handle T
---@return T handle
function d:keep(handle) end

---Accesses so far.
---@return integer
function d:hits() end

---Takes it off; also at the end of a `<close>` variable.
function d:detach() end

---Of a PCI function: where a BAR is, or nil.
---@param number integer
---@return integer?
function d:bar(number) end

---Of a PCI function: what is in the RAM of a BAR, wherever the guest has put it.
---@param number integer
---@param at integer bytes into the BAR
---@param length integer
---@return string bytes
function d:ram_read(number, at, length) end

---Of a PCI function: writes there.
---@param number integer
---@param at integer bytes into the BAR
---@param bytes string
function d:ram_write(number, at, bytes) end

---Options of `kvm.pci`.
---@class minikvm.pci.options : minikvm.device.common
---@field vendor? integer 16 bits
---@field device? integer 16 bits
---@field class? integer 24 bits: class, subclass, interface; 0xff0000
---@field revision? integer 8 bits; 0
---@field subsystem? [integer, integer] vendor and device of the board; the function's own
---@field irq? boolean `true`: it has an INTx# pin, INTA# as function 0
---@field bars? table<integer, minikvm.bar.options> by number, 0 to 5
---@field config? minikvm.config.options registers of its own in configuration space, at 0x40 to 0xff
---@field capabilities? ("msi"|minikvm.msix.options|minikvm.capability.options)[] in their order

---A BAR. Options of `kvm.pci.bars`.
---@class minikvm.bar.options : minikvm.block.options
---@field io? boolean `true`: ports instead of memory, 256 at most
---@field wide? boolean `true`: 64 bits, which take the next one's place, too
---@field prefetch? boolean `true`: it is prefetchable memory
---@field ram? minikvm.size|minikvm.bar.ram RAM that guests access without exits, in whole pages

---Options of `kvm.pci.bars.ram`.
---@class minikvm.bar.ram
---@field at? integer bytes into the BAR
---@field size? minikvm.size bytes

---Options of `kvm.pci.config`.
---@class minikvm.config.options
---@field registers? table<integer, string|minikvm.register.options> by offset, as of kvm.device
---@field width? integer as of kvm.device
---@field read? minikvm.device.read|table<string, minikvm.device.read> as of kvm.device
---@field write? minikvm.device.write|table<string, minikvm.device.write> as of kvm.device
---@field accepts? fun(d: minikvm.device, offset: integer, size: integer, is_write: boolean): boolean as of kvm.device

---MSI-X with its table in a BAR. Options of `kvm.pci.capabilities.msix`.
---@class minikvm.msix.options
---@field vectors? integer 1 to 2048
---@field bar? integer 0
---@field at? integer 0

---A capability. Options of `kvm.pci.capabilities`.
---@class minikvm.capability.options
---@field id? integer 1 to 0xff
---@field bytes? string what follows id and next
---@field writable? string the bits of it that a guest may write

---vm.pci: PCI bus 0. It is there from the first function on, or from enable on.
---@class minikvm.pci
local pci = {}

---Options of `vm.pci:attach`.
---@class minikvm.pci.attach.options
---@field slot? integer 2 to 31; the first free one
---@field fn? integer function of it, 0 to 7; 0
---@field name? string instead of the definition's
---@field at? table<integer, integer> where BARs are after a reset, as firmware leaves them

---Attaches a function, also while the guest runs; raises when the place is taken.
---@param definition minikvm.definition
---@param options? minikvm.pci.attach.options
---@return minikvm.device
function pci:attach(definition, options) end

---A list of the functions that are attached.
---@return minikvm.device[]
function pci:devices() end

---Makes the bus be there, also without functions.
function pci:enable() end

---Whether it is there.
---@return boolean
function pci:enabled() end

---The bytes of its `$PIR` table.
---@return string
function pci:routing_table() end

---Messages of MSI and MSI-X so far, which nobody takes without an APIC.
---@return integer
function pci:lost() end

---Options of `kvm.virtio`.
---@class minikvm.virtio.options : minikvm.device.common
---@field id? integer the kind of device: 1 network, 2 block, 3 console, 4 entropy, …
---@field class? integer that of PCI; 0xff0000
---@field queues? integer|integer[] how many, of 256 entries each, or a list of their sizes
---@field features? integer bits of the kind, 0 to 23 and 50 to 63
---@field config? string|fun(d: minikvm.device): string the bytes of its configuration
---@field config_write? fun(d: minikvm.device, offset: integer, value: integer, size: integer) the driver writes there
---@field on_buffer? fun(d: minikvm.device, queue: integer, buffer: minikvm.buffer) the driver has made one available
---@field on_reset? fun(d: minikvm.device) the driver has reset the device

---What a driver has made available in a virtqueue.
---@class minikvm.buffer
---@field queue integer from 0
---@field readable integer bytes from the driver
---@field writable integer bytes for it
---@field written integer so far
---@field private device minikvm.device
---@field private head integer
---@field private into table
---@field private out table
---@field private at integer
---@field private generation integer
---@field private over? boolean
local buffer = {}

---The next bytes from the driver, 16 MiB at once; `""` at the end.
---@param bytes? integer at most so many; all
---@return string
function buffer:read(bytes) end

---Writes for the driver.
---@param text string
---@return true? written
---@return string? why they do not fit
function buffer:write(text) end

---Writes at a place of its own.
---@param at integer
---@param text string
---@return true? written
---@return string? why
function buffer:put(at, text) end

---It is no request: sets NEEDS_RESET, and is counted.
---@param why string
function buffer:reject(why) end

---Gives it back, once, now or later.
function buffer:done() end

---Whether the device was reset or restored since: then nothing comes of it.
---@return boolean
function buffer:is_stale() end
