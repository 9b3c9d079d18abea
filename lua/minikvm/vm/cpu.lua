-- cpu.lua - looking at a vCPU's code, on top of the core (src/lua/cpu.c).

local class = require "minikvm.class"
local core = require "minikvm.core"
local options = require "minikvm.options"

---@class minikvm.cpu
local cpu = core.methods "minikvm.cpu"

local LONGEST <const> = 15 -- bytes of an instruction

---@class minikvm.listing  a list of instructions; tostring gives lines of text
local _, meta = class "minikvm.listing"

local function hex(bytes)
  return (bytes:gsub(".", function(b) return ("%02x "):format(b:byte()) end))
end

function meta.__tostring(list)
  local lines = {}
  for i, insn in ipairs(list) do
    lines[i] = ("%s %08x  %-24s %s"):format(insn.address == list.rip and ">" or " ", insn.address,
                                          hex(insn.bytes), insn.text)
  end
  return table.concat(lines, "\n")
end

local function up_to(bits)
  local most <const> = bits == 64 and -1 or (1 << bits) - 1
  return function(value)
    local integer = type(value) == "number" and math.tointeger(value)
    if integer and (bits == 64 or 0 <= integer and integer <= most) then return integer end
    return nil, ("expected an integer of %d bits, got %s"):format(bits, tostring(value))
  end
end

local SEGMENT <const> = { selector = up_to(16), base = up_to(64), limit = up_to(32), type = up_to(4),
                          dpl = up_to(2), present = up_to(1), s = up_to(1), db = up_to(1),
                          l = up_to(1), g = up_to(1) }
local TABLE <const> = { base = up_to(64), limit = up_to(16) }
local SREGS <const> = { gdt = TABLE, idt = TABLE }
for name in ("cs ds es fs gs ss tr"):gmatch "%a+" do SREGS[name] = SEGMENT end
for name in ("cr0 cr2 cr3 cr4 cr8 efer"):gmatch "%w+" do SREGS[name] = up_to(64) end

---Sets system registers, all at once: what a table as from cpu:sregs() has; the rest stays. A
---segment gets exactly what it says, whatever the tables in memory have (Intel SDM volume 3, 3.4.3:
---the hidden part). Raises when KVM refuses the combination.
---@param values table  { cr0=, …, cs = { selector=, base=, … }, gdt = { base=, limit= }, … }
---@return minikvm.cpu
function cpu:set_sregs(values)
  options.self("cpu:set_sregs", self, "minikvm.cpu")
  core.set_sregs(self, options.check("cpu:set_sregs", values, SREGS))
  return self
end

---The instructions from the next one on, or from a linear address, as far as they are mapped. While
---the VM does not run or is paused, or inside a handler of the vCPU.
---@param count? integer  how many (8)
---@param linear? integer  where to begin: CS:RIP
---@return minikvm.listing  { { address=, size=, text=, bytes= }, … }, with `rip`, the linear
---  address of the next one
function cpu:disassemble(count, linear)
  options.self("cpu:disassemble", self, "minikvm.cpu")
  if linear ~= nil then options.argument("cpu:disassemble", "linear", linear, "integer") end
  count = count or 8
  if math.type(count) ~= "integer" or count < 1 or count > 10000 then
    core.blame(("disassemble: expected a number of instructions, 1 to 10000, got %s")
      :format(tostring(count)))
  end
  local cs, memory = self:sregs().cs, core.memory_of(self)
  local bits = cs.l == 1 and 64 or cs.db == 1 and 32 or 16
  local mask = bits == 64 and -1 or 0xffffffff
  local rip = (cs.base + self.rip) & mask
  linear = linear or rip
  local bytes = {}
  for i = 0, count * LONGEST - 1 do
    local at = self:translate((linear + i) & mask)
    if not at or at < 0 or at >= #memory then break end
    bytes[#bytes + 1] = memory:read(at, 1)
  end
  local code = table.concat(bytes)
  local list = setmetatable({ rip = rip }, meta)
  for i, insn in ipairs(core.disassemble(code, bits, linear)) do
    if i > count then break end
    local from = insn.address - linear
    insn.bytes = code:sub(from + 1, from + insn.size)
    list[i] = insn
  end
  return list
end
