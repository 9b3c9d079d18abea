-- explain.lua - why a guest died: registers, instruction, page walk, and the likeliest cause.
--
-- Works on a VM that has ended; what it says follows the Intel SDM, volume 3: chapter 4 for page
-- tables, 6.13 for error codes, 6.15 for the exceptions.

local core = require "minikvm.core"
local registers = require "minikvm.debug.registers"

local M = {}

local reported = {} -- notes that are said once
local LONGEST <const> = 16 -- bytes that are looked at of the code: more than an instruction has

local EXCEPTION = {
  [0] = "#DE divide error", "#DB debug", "NMI", "#BP breakpoint", "#OF overflow",
  "#BR bound range", "#UD invalid opcode", "#NM no FPU", "#DF double fault", nil, "#TS invalid TSS",
  "#NP segment not present", "#SS stack fault", "#GP general protection", "#PF page fault",
}

---What is needed more than once: registers and how code is to be read.
local function gather(vm, index)
  local cpu = vm.cpu[index]
  local r = registers.of(cpu)
  local mask = r.bits == 64 and -1 or 0xffffffff
  local linear = r.cs.base + r.rip & mask
  return { vm = vm, cpu = cpu, r = r, bits = r.bits, protected = r.cr0 & 1 == 1,
           paged = r.cr0 >> 31 & 1 == 1, mask = mask, linear = linear,
           code = core.linear_read(cpu, linear, LONGEST) }
end

---Bytes at a linear address, as many of `length` as are mapped to memory.
local function read(c, linear, length) return core.linear_read(c.cpu, linear & c.mask, length) end

---The instruction at CS:RIP; nil when there is none.
local function instruction(c) return core.disassemble(c.code, c.bits, c.linear)[1] end

-- ---- sections of the report ----

local function code(c)
  if c.code == "" then return ("  %08x  (no memory there)"):format(c.linear) end
  local list = c.cpu:disassemble(3)
  return #list > 0 and tostring(list)
    or ("> %08x  %s (no instruction)"):format(c.linear, (core.hex(c.code):gsub("..", "%0 ")))
end

local function walk(c, linear)
  local w = c.cpu:walk(linear)
  local levels = {}
  for i, entry in ipairs(w.entries) do
    levels[i] = ("%x%s"):format(entry, entry & 1 == 0 and " (not present)" or "")
  end
  return ("  %08x: %s -> %s"):format(linear, table.concat(levels, " / "),
    w.present and ("%08x%s%s"):format(w.address, w.writable and "" or " read-only",
                                     w.user and " user" or " supervisor")
    or "not mapped")
end

---The vectors delivered last, or nil.
local function last_interrupts(info)
  local delivered = {}
  for i, vector in ipairs(info.interrupts or {}) do delivered[i] = ("0x%02x"):format(vector) end
  return #delivered > 0 and "last interrupts: " .. table.concat(delivered, " ") or nil
end

-- ---- the likeliest cause ----

local function name_of(vector)
  return EXCEPTION[vector] or ("interrupt 0x%02x"):format(vector)
end

---The gate of a vector: present or not, and where it leads; nil and why when there is none.
local function gate(c, vector)
  local idt, size = c.r.idt, c.bits == 64 and 16 or 8
  if vector * size + size - 1 > idt.limit then
    return nil, ("the IDT (limit 0x%x at 0x%x) has no gate for %s"):format(idt.limit, idt.base,
                                                                          name_of(vector))
  end
  local bytes = read(c, idt.base + vector * size, 8)
  if #bytes < 8 then return nil, ("the IDT at 0x%x is not in mapped memory"):format(idt.base) end
  local low, selector, kind, high = ("<I2I2xBI2"):unpack(bytes)
  return { present = kind & 0x80 ~= 0, kind = kind & 0x1f, selector = selector,
           offset = high << 16 | low }
end

local GATES = { [5] = true, [6] = true, [7] = true, [14] = true, [15] = true }

---What is wrong with the handler of a vector; nil when it looks right.
local function gate_trouble(c, vector)
  local name = name_of(vector)
  local g, why = gate(c, vector)
  if not g then
    return why
  elseif not g.present then
    return ("the IDT's gate for %s is absent"):format(name)
  elseif not GATES[g.kind] then
    return ("the IDT's gate for %s has type 0x%x, which is no interrupt, trap or task gate")
      :format(name, g.kind)
  elseif (g.selector | 7) > c.r.gdt.limit then
    return ("the IDT's gate for %s names selector 0x%x, beyond the GDT"):format(name, g.selector)
  elseif c.bits ~= 64 and read(c, g.offset, 1) == "" then
    return ("the handler of %s at 0x%x is not in mapped memory"):format(name, g.offset)
  end
end

---What is wrong with the handler of the interrupt that was delivered last.
local function delivery_trouble(c, info)
  local last = info.interrupts and info.interrupts[#info.interrupts]
  local trouble = last and gate_trouble(c, last)
  return trouble and ("interrupt 0x%02x was delivered; %s"):format(last, trouble)
end

local function stack_trouble(c)
  local size = c.bits == 64 and 8 or 4
  local linear = ((c.r.cs.l == 1 and 0 or c.r.ss.base) + c.r.rsp - size) & c.mask
  if #read(c, linear, size) < size then
    return ("the stack at 0x%x is not in mapped memory, so no exception can be delivered")
      :format(linear)
  end
end

---What is wrong with the stack that a program in an outer ring enters the kernel with.
local function tss_trouble(c)
  if c.r.cs.selector & 3 == 0 or c.bits == 64 then return nil end
  local bytes = read(c, c.r.tr.base + 4, 8)
  if #bytes < 8 then return ("the TSS at 0x%x is not in mapped memory"):format(c.r.tr.base) end
  local esp, ss = ("<I4I2"):unpack(bytes)
  if ss & ~3 == 0 or (ss | 7) > c.r.gdt.limit then
    return ("the TSS names no stack segment for ring 0 (SS0 is 0x%x)"):format(ss)
  elseif #read(c, (esp - 4) & c.mask, 4) < 4 then
    return ("the TSS's ring-0 stack at 0x%x is not in mapped memory, so no exception can be "
      .. "delivered"):format(esp)
  end
end

local function cr3_trouble(c)
  if c.paged and not c.vm.memory:has(c.r.cr3 & ~0xfff & 0x000fffffffffffff, 8) then
    return ("CR3 points to 0x%x, outside RAM"):format(c.r.cr3)
  end
end

local function jump_trouble(c)
  if c.code == "" then
    return ("execution went to 0x%x, where %s"):format(c.linear, c.paged and "nothing is mapped"
                                                     or "there is no RAM")
  end
end

---Bytes of zeros are `add [eax], al`: harmless, and never meant.
local function zeros_trouble(c)
  if c.code:find "^%z%z%z%z" or c.code:find "^%z+$" then
    return "it executes zeros: it ran past its end, or jumped into memory nothing was loaded to"
  end
end

---The vector that the instruction at CS:RIP most likely raised.
local function vector_of(c)
  local insn = instruction(c)
  if not insn then return 6 end
  return insn.text:find "^i?div" and 0 or insn.text:find "^ud2" and 6
    or insn.text:find "^int3" and 3 or tonumber(insn.text:match "^int (%w+)$")
end

local function shutdown_cause(c, info)
  if not c.protected then
    return c.r.idt.limit < 3 and "there is no interrupt table (IDT limit below 3)"
      or "an exception in real mode could not be delivered"
  end
  local trouble = cr3_trouble(c) or delivery_trouble(c, info)
    or zeros_trouble(c)
  if trouble then return trouble end
  trouble = jump_trouble(c) or tss_trouble(c) or stack_trouble(c)
  if c.paged and c.r.cr2 ~= 0 and not c.cpu:translate(c.r.cr2 & c.mask) then
    trouble = (trouble or ("a page fault at 0x%x"):format(c.r.cr2 & c.mask))
    local handler = gate_trouble(c, 14)
    return handler and trouble .. "; " .. handler or trouble
  end
  local vector = vector_of(c)
  if vector and not trouble then
    local handler = gate_trouble(c, vector)
    trouble = handler and ("%s; %s"):format(name_of(vector), handler)
  end
  return trouble or gate_trouble(c, 13) or gate_trouble(c, 8)
    or "an exception's handler faulted itself: look at its stack and segments"
end

-- Groups of instructions that the in-kernel emulator of a paravirtual KVM does not know.
local UNKNOWN = { "^f", "xmm", "mm%d", "xsave", "xrstor", "xgetbv", "ldmxcsr", "popcnt", "movbe",
                  "cmpxchg16b", "^bound", "^daa", "^das", "^aaa", "^aas" }

local function fault_cause(c)
  if c.code == "" then return cr3_trouble(c) or jump_trouble(c) end
  local zeros = zeros_trouble(c)
  if zeros then return zeros end
  local insn = instruction(c)
  if not insn then return "these bytes are no instruction: a wild jump, or code of another mode" end
  local vector = c.protected and vector_of(c)
  local trouble = vector and (gate_trouble(c, vector) or tss_trouble(c) or stack_trouble(c))
  if trouble then return trouble end
  for _, pattern in ipairs(UNKNOWN) do
    if insn.text:find(pattern) then
      return "this KVM's emulator does not know the instruction; build the guest with "
        .. "-mgeneral-regs-only, or use a host with VT-x or AMD-V"
    end
  end
  if insn.text:find "^int" or insn.text:find "^iret" then
    return "this KVM cannot run it itself, and the assist is off or could not complete it"
  end
  return nil
end

---On AMD processors KVM resets a vCPU that shuts down: nothing of its state is left.
local function lost(c, info)
  return info.reason == "shutdown" and c.r.rip == 0xfff0 and c.r.cs.base == 0xffff0000
end

local LOST <const> = "registers: lost, because KVM resets an AMD processor at a triple fault;\n"
  .. "  a trace (--trace) shows the last exits before it"

---What to say of code that is not for real mode, in a VM whose mode nobody chose.
local function wrong_mode(vm)
  local looks = require("minikvm.image.guess").of_vm(vm, require("minikvm.image.plan").as_mode)
  return looks and "no mode was chosen, so it ran in real mode, and " .. looks
end

---Where the guest was, as "function+offset (file:line)"; nil when it has no symbols there.
local function place(c)
  if not package.loaded["minikvm.image"] then return nil end
  return require("minikvm.debug.where").text(c.vm, c.linear)
end

local FRAMES <const> = 16 -- that a report shows

---Who called, as lines; nil without symbols.
local function backtrace(c)
  if not package.loaded["minikvm.image"] then return nil end
  local calls = require("minikvm.debug.backtrace").of(c.cpu, { limit = FRAMES })
  if #calls < 2 and not (calls[1] and calls[1].symbol) then return nil end
  return "backtrace:\n  " .. tostring(calls):gsub("\n", "\n  ")
end

---What a script should know of source lines that could not be read, once.
local function lines_problem(vm)
  local dwarf = package.loaded["minikvm.debug.dwarf"]
  local why = dwarf and dwarf.problem(vm)
  if not why or reported[why] then return nil end
  reported[why] = true
  return "note: " .. why
end

---Why an end came about, in words: the likeliest cause, or at least where the guest was; nil when
---nothing is known.
local function conclusion(c, info)
  local cause
  if info.reason == "shutdown" then
    cause = shutdown_cause(c, info)
  elseif info.bytes ~= "" or info.text:find "instruction" then
    cause = fault_cause(c)
  end
  cause = not c.protected and wrong_mode(c.vm) or cause
  local there = place(c)
  if cause then
    return ("likeliest cause: %s%s"):format(there and ("in %s: "):format(there) or "", cause)
  end
  return there and "it was in " .. there
end

---The same of a vCPU that has ended.
---@param vm minikvm.vm
---@param info table  of the vCPU, as run() or wait() returned it
---@param index? integer  the vCPU, 0 by default
---@return string?
function M.cause(vm, info, index)
  local c = gather(vm, index or 0)
  return not lost(c, info) and conclusion(c, info) or nil
end

---A report for people on a VM that ended with "shutdown" or "fault".
---@param vm minikvm.vm  ended, not reset
---@param info table  what run() or wait() returned
---@param index? integer  the vCPU, 0 by default
---@return string
function M.report(vm, info, index)
  local c = gather(vm, index or 0)
  if lost(c, info) then return table.concat({ LOST, last_interrupts(info) }, "\n") end
  local there = place(c)
  local parts = { "registers:", tostring(c.r), there and "code: " .. there or "code:",
                  code(c) }
  local function add(...) for _, part in ipairs { ... } do parts[#parts + 1] = part end end
  if c.paged then
    add("page walk:", walk(c, c.linear))
    if c.r.cr2 ~= 0 then add(walk(c, c.r.cr2 & c.mask)) end
  end
  if last_interrupts(info) then add(last_interrupts(info)) end
  add(backtrace(c))
  add(lines_problem(vm))
  add(conclusion(c, info))
  return table.concat(parts, "\n")
end

---Adds info.report where there is something to explain.
---@param vm minikvm.vm
---@param reason string?
---@param info table|string
function M.add(vm, reason, info)
  if (reason == "shutdown" or reason == "fault") and vm.state == "ended" then
    for i = 0, #info.cpu - 1 do
      local one = info.cpu[i]
      if one.reason == reason and not info.report then info.report = M.report(vm, one, i) end
    end
  end
end

return M
