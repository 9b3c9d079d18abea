-- registers.lua - the registers that a vm.cpu[i] has as fields: where each lies in the structures
-- of KVM's API (Linux, arch/x86/include/uapi/asm/kvm.h: struct kvm_regs, struct kvm_sregs). The
-- core unpacks these integers (src/lua/cpu.c).

local core = require "minikvm.core"

local registers = core.registers
local GENERAL <const>, SYSTEM <const>, SELECTOR <const> = 0, 1, 2 -- which structure; a segment's

local function add(name, where, offset, bytes, shift)
  registers[name] = offset | (shift or 0) << 16 | bytes << 24 | where << 32
end

local i = 0
for name in ("ax bx cx dx si di sp bp"):gmatch "%a+" do
  add("r" .. name, GENERAL, 8 * i, 8)
  add("e" .. name, GENERAL, 8 * i, 4)
  add(name, GENERAL, 8 * i, 2)
  if i < 4 then
    add(name:sub(1, 1) .. "l", GENERAL, 8 * i, 1)
    add(name:sub(1, 1) .. "h", GENERAL, 8 * i, 1, 8)
  end
  i = i + 1
end
for n = 8, 15 do add("r" .. n, GENERAL, 8 * n, 8) end
for name, offset in pairs{ ip = 128, flags = 136 } do
  add("r" .. name, GENERAL, offset, 8)
  add("e" .. name, GENERAL, offset, 4)
  add(name, GENERAL, offset, 2)
end
for name, offset in pairs{ cr0 = 224, cr2 = 232, cr3 = 240, cr4 = 248, cr8 = 256, efer = 264 } do
  add(name, SYSTEM, offset, 8)
end
for name, offset in pairs{ cs = 0, ds = 24, es = 48, fs = 72, gs = 96, ss = 120 } do
  add(name, SELECTOR, offset, 2)
end

return registers
