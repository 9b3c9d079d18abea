-- frame.lua - what a BIOS service sees of its caller: registers, and the flags that IRET brings
-- back, which lie on the stack.

local M = {}

local CARRY <const>, ZERO <const> = 0x01, 0x40

---Where the flags lie: above the return address (Intel SDM volume 3, 20.1.4).
local function set(d, bit, on)
  local cpu, memory = d.vm.cpu[0], d.vm.memory
  local at = cpu.ss * 16 + (cpu.sp + 4 & 0xffff)
  if not memory:has(at, 2, true) then return end -- a stack that the guest made up
  local flags = memory:u16(at)
  memory:u16(at, on and flags | bit or flags & ~bit)
end

---@param d minikvm.device
---@param on boolean
function M.carry(d, on) set(d, CARRY, on) end

function M.zero(d, on) set(d, ZERO, on) end

---The service is done, with AH = 0; or failed, with a code in AH.
function M.done(d)
  d.vm.cpu[0].ah = 0
  M.carry(d, false)
end

function M.fail(d, code)
  d.vm.cpu[0].ah = code
  M.carry(d, true)
end

---The service has its answer: the stub that may wait returns.
function M.answer(d)
  local cpu = d.vm.cpu[0]
  cpu.flags = cpu.flags & ~CARRY
end

---The stub halts, with interrupts on, and asks again: after so many seconds, or an interrupt.
function M.wait(d, seconds)
  local cpu = d.vm.cpu[0]
  cpu.flags = cpu.flags | CARRY
  d:cancel "wake"
  d:after(seconds, "wake")
end

---A pointer in registers as an address.
function M.linear(segment, offset) return segment * 16 + (offset & 0xffff) end

return M
