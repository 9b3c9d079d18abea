-- debug/machine.lua - a vCPU as a debugger looks at it: its mode, its registers by DWARF's numbers,
-- memory at linear addresses.
--
-- DWARF's numbers of registers: System V ABI, AMD64 supplement, figure 3.36, and the one for i386,
-- table 2.14.

local core = require "minikvm.core"

local M = {}

local NAMES <const> = {
  [64] = { [0] = "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11",
           "r12", "r13", "r14", "r15", "rip" },
  [32] = { [0] = "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "rip" },
}
local KEPT <const> = { -- registers that a called function preserves
  [64] = { 3, 6, 12, 13, 14, 15 }, [32] = { 3, 5, 6, 7 },
}

---@class minikvm.machine
---@field vm minikvm.vm
---@field cpu minikvm.cpu
---@field bits 16|32|64  of the code that runs
---@field word 2|4|8  bytes of a return address
---@field mask integer
---@field code integer  the base of CS
---@field stack integer  the base of SS
---@field s table  of cpu:sregs()
---@field fp integer  DWARF's number of the frame pointer
---@field sp integer
---@field pc integer  DWARF's number of the return address
local Machine = {}
Machine.__index = Machine

---@param vm minikvm.vm
---@param cpu minikvm.cpu
---@return minikvm.machine
---@return table<integer, integer> registers
function M.of(vm, cpu)
  local s, r = cpu:sregs(), cpu:regs()
  local bits = s.cs.l == 1 and 64 or s.cs.db == 1 and 32 or 16
  local wide = bits == 64
  local m = setmetatable({ vm = vm, cpu = cpu, s = s, bits = bits, word = bits // 8,
                           mask = wide and -1 or 0xffffffff, code = s.cs.base,
                           stack = wide and 0 or s.ss.base,
                           fp = wide and 6 or 5, sp = wide and 7 or 4, pc = wide and 16 or 8 },
                         Machine)
  local registers = {}
  for number, name in pairs(NAMES[wide and 64 or 32]) do registers[number] = r[name] & m.mask end
  return m, registers
end

---@return integer[]  numbers of the registers that calls preserve
function Machine:preserved() return KEPT[self.bits == 64 and 64 or 32] end

---The linear address of code.
function Machine:linear(pc) return self.code + pc & self.mask end

---Bytes at a linear address, as many as are mapped to RAM.
---@return string
function Machine:bytes(linear, length)
  return core.linear_read(self.cpu, linear & self.mask, math.max(0, length))
end

local FORMATS <const> = { "<I1", "<I2", "<I3", "<I4", "<I5", "<I6", "<I7", "<i8" }

---An integer in memory; nil where none is.
---@return integer?
function Machine:integer(linear, size)
  local bytes = self:bytes(linear, size)
  return #bytes == size and FORMATS[size]:unpack(bytes) or nil
end

---A word of the stack, at an offset in its segment.
---@return integer?
function Machine:stacked(offset, size)
  return self:integer(self.stack + (offset & self.mask), size or self.word)
end

return M
