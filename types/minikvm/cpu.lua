---@meta _

---A vCPU, `vm.cpu[i]`. Registers may be read and set while the VM does not run or is paused, and inside a handler of this vCPU.
---@class minikvm.cpu
---@field index integer which one it is, from 0
---@field tsc_hz? integer frequency of the guest's time-stamp counter; nil where the host does not know it
---@field rax integer 64 bits, as a signed integer
---@field rbx integer 64 bits, as a signed integer
---@field rcx integer 64 bits, as a signed integer
---@field rdx integer 64 bits, as a signed integer
---@field rsi integer 64 bits, as a signed integer
---@field rdi integer 64 bits, as a signed integer
---@field rsp integer 64 bits, as a signed integer
---@field rbp integer 64 bits, as a signed integer
---@field r8 integer 64 bits, as a signed integer
---@field r9 integer 64 bits, as a signed integer
---@field r10 integer 64 bits, as a signed integer
---@field r11 integer 64 bits, as a signed integer
---@field r12 integer 64 bits, as a signed integer
---@field r13 integer 64 bits, as a signed integer
---@field r14 integer 64 bits, as a signed integer
---@field r15 integer 64 bits, as a signed integer
---@field rip integer instruction pointer
---@field rflags integer flags
---@field eax integer the low 32 bits; setting them clears the upper half
---@field ebx integer the low 32 bits; setting them clears the upper half
---@field ecx integer the low 32 bits; setting them clears the upper half
---@field edx integer the low 32 bits; setting them clears the upper half
---@field esi integer the low 32 bits; setting them clears the upper half
---@field edi integer the low 32 bits; setting them clears the upper half
---@field esp integer the low 32 bits; setting them clears the upper half
---@field ebp integer the low 32 bits; setting them clears the upper half
---@field eip integer the low 32 bits; setting them clears the upper half
---@field eflags integer the low 32 bits; setting them clears the upper half
---@field ax integer the low 16 bits; setting them leaves the rest
---@field bx integer the low 16 bits; setting them leaves the rest
---@field cx integer the low 16 bits; setting them leaves the rest
---@field dx integer the low 16 bits; setting them leaves the rest
---@field si integer the low 16 bits; setting them leaves the rest
---@field di integer the low 16 bits; setting them leaves the rest
---@field sp integer the low 16 bits; setting them leaves the rest
---@field bp integer the low 16 bits; setting them leaves the rest
---@field ip integer the low 16 bits; setting them leaves the rest
---@field flags integer the low 16 bits; setting them leaves the rest
---@field al integer bits 0 to 7
---@field bl integer bits 0 to 7
---@field cl integer bits 0 to 7
---@field dl integer bits 0 to 7
---@field ah integer bits 8 to 15
---@field bh integer bits 8 to 15
---@field ch integer bits 8 to 15
---@field dh integer bits 8 to 15
---@field cr0 integer control register; `cr8` is 0 to 15
---@field cr2 integer control register; `cr8` is 0 to 15
---@field cr3 integer control register; `cr8` is 0 to 15
---@field cr4 integer control register; `cr8` is 0 to 15
---@field cr8 integer control register; `cr8` is 0 to 15
---@field efer integer extended features
---@field cs integer the selector; setting one loads it as the processor does
---@field ds integer the selector; setting one loads it as the processor does
---@field es integer the selector; setting one loads it as the processor does
---@field fs integer the selector; setting one loads it as the processor does
---@field gs integer the selector; setting one loads it as the processor does
---@field ss integer the selector; setting one loads it as the processor does
local cpu = {}

---The 64-bit general registers, `rip` and `rflags`.
---@return minikvm.regs
function cpu:regs() end

---What cpu:regs returns; tostring makes lines of it.
---@class minikvm.regs
---@field rax integer 64 bits, as a signed integer
---@field rbx integer 64 bits, as a signed integer
---@field rcx integer 64 bits, as a signed integer
---@field rdx integer 64 bits, as a signed integer
---@field rsi integer 64 bits, as a signed integer
---@field rdi integer 64 bits, as a signed integer
---@field rsp integer 64 bits, as a signed integer
---@field rbp integer 64 bits, as a signed integer
---@field r8 integer 64 bits, as a signed integer
---@field r9 integer 64 bits, as a signed integer
---@field r10 integer 64 bits, as a signed integer
---@field r11 integer 64 bits, as a signed integer
---@field r12 integer 64 bits, as a signed integer
---@field r13 integer 64 bits, as a signed integer
---@field r14 integer 64 bits, as a signed integer
---@field r15 integer 64 bits, as a signed integer
---@field rip integer instruction pointer
---@field rflags integer flags

---Control registers, segments and descriptor tables.
---@return minikvm.sregs
function cpu:sregs() end

---What cpu:sregs returns; tostring makes lines of it.
---@class minikvm.sregs
---@field cs minikvm.segment a segment register; `tr` is the task register
---@field ds minikvm.segment a segment register; `tr` is the task register
---@field es minikvm.segment a segment register; `tr` is the task register
---@field fs minikvm.segment a segment register; `tr` is the task register
---@field gs minikvm.segment a segment register; `tr` is the task register
---@field ss minikvm.segment a segment register; `tr` is the task register
---@field tr minikvm.segment a segment register; `tr` is the task register
---@field gdt minikvm.descriptor_table a descriptor table
---@field idt minikvm.descriptor_table a descriptor table
---@field cr0 integer control register; `cr8` is 0 to 15
---@field cr2 integer control register; `cr8` is 0 to 15
---@field cr3 integer page tables
---@field cr4 integer control register; `cr8` is 0 to 15
---@field cr8 integer control register; `cr8` is 0 to 15
---@field efer integer extended features

---A segment register with its hidden part.
---@class minikvm.segment
---@field selector integer 16 bits
---@field base integer linear address
---@field limit integer in bytes
---@field type integer 4 bits
---@field dpl integer privilege level
---@field present integer 0 or 1
---@field s integer 1: code or data, 0: system
---@field db integer 1: 32-bit
---@field l integer 1: 64-bit code
---@field g integer 1: the limit was in pages

---The GDT or the IDT.
---@class minikvm.descriptor_table
---@field base integer linear address linear address
---@field limit integer size less 1

---Parts of a segment.
---@class minikvm.segment.options
---@field selector? integer 16 bits
---@field base? integer linear address
---@field limit? integer in bytes
---@field type? integer 4 bits
---@field dpl? integer privilege level
---@field present? integer 0 or 1
---@field s? integer 1: code or data, 0: system
---@field db? integer 1: 32-bit
---@field l? integer 1: 64-bit code
---@field g? integer 1: the limit was in pages

---Parts of a descriptor table.
---@class minikvm.descriptor_table.options
---@field base? integer linear address
---@field limit? integer size less 1

---What is to change. Options of `cpu:set_sregs`.
---@class minikvm.sregs.options
---@field cs? minikvm.segment.options a segment register; `tr` is the task register
---@field ds? minikvm.segment.options a segment register; `tr` is the task register
---@field es? minikvm.segment.options a segment register; `tr` is the task register
---@field fs? minikvm.segment.options a segment register; `tr` is the task register
---@field gs? minikvm.segment.options a segment register; `tr` is the task register
---@field ss? minikvm.segment.options a segment register; `tr` is the task register
---@field tr? minikvm.segment.options a segment register; `tr` is the task register
---@field gdt? minikvm.descriptor_table.options a descriptor table
---@field idt? minikvm.descriptor_table.options a descriptor table
---@field cr0? integer control register; `cr8` is 0 to 15
---@field cr2? integer control register; `cr8` is 0 to 15
---@field cr3? integer page tables
---@field cr4? integer control register; `cr8` is 0 to 15
---@field cr8? integer control register; `cr8` is 0 to 15
---@field efer? integer extended features

---Sets system registers, all at once: a table as from cpu:sregs, or the parts of it that are to change.
---@param values minikvm.sregs|minikvm.sregs.options
---@return minikvm.cpu cpu
function cpu:set_sregs(values) end

---All registers. tostring makes lines of it, as a report has them.
---@return minikvm.registers
function cpu:registers() end

---What cpu:registers returns.
---@class minikvm.registers : minikvm.regs, minikvm.sregs
---@field bits 16|32|64 of the code that runs

---The next instructions. tostring makes lines of it.
---@param count? integer 8
---@param linear? integer where to begin; CS:RIP
---@return minikvm.listing
function cpu:disassemble(count, linear) end

---A list of instructions.
---@class minikvm.listing
---@field [integer] minikvm.instruction
---@field rip integer linear address of the next one

---Options of `cpu:backtrace`.
---@class minikvm.backtrace.options
---@field limit? integer frames; 64

---The functions that it is in, the innermost first, as far as the images tell. tostring makes lines of it.
---@param options? minikvm.backtrace.options
---@return minikvm.backtrace
function cpu:backtrace(options) end

---A list of calls.
---@class minikvm.backtrace
---@field [integer] minikvm.call
---@field why? string why no more is known; nil at the outermost one

---A function that runs.
---@class minikvm.call
---@field pc integer linear: the next instruction, or where the call returns to
---@field symbol? string function or label
---@field offset? integer into it
---@field file? string source file
---@field line? integer source line
---@field inlined boolean into the one that follows
---@field arguments? string `"a = 1, p = 0x1000"`
---@field how "registers"|"cfi"|"frame pointer"|"interrupt" how its frame was found

---Parameters and variables of a function in the backtrace. tostring makes lines of it.
---@param frame? integer 0, the innermost
---@return minikvm.locals
function cpu:locals(frame) end

---A list of variables; a name is a key, too: `cpu:locals().count.value`.
---@class minikvm.locals
---@field [integer|string] minikvm.local
---@field why? string why there are none

---A variable.
---@class minikvm.local
---@field name string in the source
---@field type string as C writes it
---@field value any an integer, a string, a table of members or elements; nil when it cannot be had
---@field text string the value, or why there is none
---@field available boolean whether the value can be had
---@field address? integer where it is in memory, linear
---@field register? integer or in which register, by DWARF's number
---@field parameter boolean whether it is a parameter
---@field line? integer where it is declared

---The physical address, by the guest's page tables; nil when it is not mapped.
---@param linear integer
---@return integer? address
---@return integer? page_size
function cpu:translate(linear) end

---How a linear address is translated.
---@param linear integer
---@return minikvm.walk
function cpu:walk(linear) end

---What cpu:walk returns.
---@class minikvm.walk
---@field present boolean whether it is mapped
---@field writable boolean whether it may be written to
---@field user boolean whether ring 3 may
---@field address integer physical
---@field page_size integer bytes
---@field entries integer[] those looked at, the outermost first
---@field entry_addresses integer[] where they lie

---Queues an interrupt, delivered as soon as the guest's flags let it in. At any time.
---@param vector integer 0 to 255
function cpu:interrupt(vector) end

---Queues a non-maskable interrupt.
function cpu:nmi() end

---Executes instructions of this vCPU while the others stay where they are.
---@param count? integer 1
---@return minikvm.reason reason `"break"`, or how the run has ended
---@return minikvm.result info
function cpu:step(count) end

---The same for one instruction; a call, an interrupt, a repeated one or a HLT is one with all that comes of it.
---@return minikvm.reason reason
---@return minikvm.result info
function cpu:step_over() end
