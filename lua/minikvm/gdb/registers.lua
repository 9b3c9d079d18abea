-- gdb/registers.lua - a vCPU's registers as gdb's packets have them (Debugging with GDB, E.2: g, G,
-- p, P), read from KVM's structures and written to them.

local core = require "minikvm.core"

local M = {}

local LMA <const> = 1 << 10

---KVM's structures of a vCPU, each read when it is first wanted.
---@param cpu minikvm.cpu
function M.view(cpu)
  return setmetatable({}, { __index = function(view, name)
    view[name] = core.state(cpu, name)
    return view[name]
  end })
end

---Of CS: its base where the address of code is relative to it.
local function code_base(view)
  local long = view.sregs:byte(20) == 1
  return long and 0 or (("<i8"):unpack(view.sregs, 1))
end

---The linear address of the next instruction.
---@return integer
function M.pc(view)
  local rip = ("<i8"):unpack(view.regs, 129)
  if view.sregs:byte(20) == 1 then return rip end
  return rip + code_base(view) & 0xffffffff
end

---What a register is tagged with that FXSAVE says is in use (Intel SDM volume 1, 8.1.7).
local function classify(fpu, st)
  local mantissa, exponent = ("<i8I2"):unpack(fpu, 16 * st + 1)
  exponent = exponent & 0x7fff
  if exponent == 0 and mantissa == 0 then return 1 end
  return exponent ~= 0 and exponent ~= 0x7fff and mantissa < 0 and 0 or 2
end

---The FPU's tag word, of which FXSAVE keeps half.
local function tags(fpu)
  local top, used, word = ("<I2"):unpack(fpu, 131) >> 11 & 7, fpu:byte(133), 0
  for i = 0, 7 do
    local tag = used >> i & 1 == 1 and classify(fpu, i - top & 7) or 3
    word = word | tag << 2 * i
  end
  return word
end

---A register's bytes as gdb wants them; nil when KVM has none.
---@param view table
---@param cpu minikvm.cpu
---@param register minikvm.gdb.register
---@return string?
function M.read(view, cpu, register)
  local from, size = register.from, register.size
  if register.special == "pc" then return (("<i8"):pack(M.pc(view))):sub(1, size) end
  if register.special == "ftag" then return ("<I4"):pack(tags(view.fpu)) end
  if not from then return ("\0"):rep(size) end
  if from == "msr" then
    local value = core.msr(cpu, register.at)
    return value and ("<i8"):pack(value)
  end
  local bytes = view[from]:sub(register.at + 1, register.at + register.width)
  return bytes .. ("\0"):rep(size - #bytes)
end

---All registers of a 'g' packet as digits.
---@param view table
---@param cpu minikvm.cpu
---@param d minikvm.gdb.description
function M.read_all(view, cpu, d)
  local parts = {}
  for i = 1, d.in_g do parts[i] = M.read(view, cpu, d.registers[i]) end
  return core.hex(table.concat(parts))
end

local function replaced(bytes, at, part)
  return bytes:sub(1, at) .. part .. bytes:sub(at + #part + 1)
end

---The instruction pointer from a linear address; nil when no code segment gets there.
local function ip_of(view, value)
  if view.sregs:byte(20) == 1 then return value end
  local ip = value - code_base(view) & 0xffffffff
  local limit = ("<I4"):unpack(view.sregs, 9)
  return ip <= limit and ip or nil
end

---Registers of 32 bits: a processor of 64 clears the rest, but for what it does not show in 32-bit
---code.
local function widened(register, view, bytes)
  if register.from ~= "regs" or register.width == 8 or register.name == "eflags" then
    return bytes
  end
  local long = ("<i8"):unpack(view.sregs, 265) & LMA ~= 0
  return long and bytes or bytes .. ("\0"):rep(8 - #bytes)
end

---Sets a register. Raises when KVM refuses it.
---@param view table
---@param cpu minikvm.cpu
---@param register minikvm.gdb.register
---@param bytes string  of register.size
---@return boolean? done
function M.write(view, cpu, register, bytes)
  if register.special == "selector" then
    cpu[register.name] = ("<I4"):unpack(bytes) & 0xffff
    view.sregs, view.regs = nil, nil
    return true
  elseif register.special == "pc" then
    local ip = ip_of(view, (("<i" .. register.size):unpack(bytes)))
    if not ip then return nil end
    bytes = ("<i8"):pack(ip)
  elseif register.from == "msr" then
    return core.set_msr(cpu, register.at, (("<i8"):unpack(bytes))) or nil
  elseif register.from == "debugregs" or not register.from or register.special == "ftag" then
    return nil -- the debugger's own breakpoints need the debug registers
  else
    bytes = widened(register, view, bytes:sub(1, register.width))
  end
  local from = register.from
  core.set_state(cpu, from, replaced(view[from], register.at, bytes))
  view[from] = nil
  return true
end

---Sets those of a 'G' packet that differ from what they are.
---@param bytes string  of all registers of a 'g' packet
---@return boolean? done  nil: wrong length, or one was refused
function M.write_all(view, cpu, d, bytes)
  local at, total = 0, 0
  for i = 1, d.in_g do total = total + d.registers[i].size end
  if #bytes ~= total then return nil end
  for i = 1, d.in_g do
    local register = d.registers[i]
    local new = bytes:sub(at + 1, at + register.size)
    at = at + register.size
    if new ~= M.read(view, cpu, register) and not M.write(view, cpu, register, new) then
      return nil
    end
  end
  return true
end

return M
