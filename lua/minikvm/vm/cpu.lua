-- cpu.lua - a vCPU's registers as tables, page walks, its code, on top of the core's functions
-- (src/lua/cpu.c).

local class = require "minikvm.class"
local core = require "minikvm.core"
local options = require "minikvm.options"
local strict = require "minikvm.strict"
local registers = require "minikvm.debug.registers"

---@class minikvm.cpu
local cpu = core.methods "minikvm.cpu"

local LONGEST <const> = 15 -- bytes of an instruction

---@class minikvm.listing  a list of instructions; tostring gives lines of text
local _, meta = class "minikvm.listing"

function meta.__tostring(list)
  local lines = {}
  for i, insn in ipairs(list) do
    lines[i] = ("%s %08x  %-24s %s"):format(insn.address == list.rip and ">" or " ", insn.address,
                                          (core.hex(insn.bytes):gsub("..", "%0 ")), insn.text)
  end
  return table.concat(lines, "\n")
end

local function up_to(bits)
  return options.between(bits == 64 and math.mininteger or 0,
                         bits == 64 and math.maxinteger or (1 << bits) - 1,
                         ("an integer of %d bits"):format(bits))
end

local SEGMENT <const> = { selector = up_to(16), base = up_to(64), limit = up_to(32),
                          type = up_to(4),
                          dpl = up_to(2), present = up_to(1), s = up_to(1), db = up_to(1),
                          l = up_to(1), g = up_to(1) }
local TABLE <const> = { base = up_to(64), limit = up_to(16) }

-- Linux, arch/x86/include/uapi/asm/kvm.h: struct kvm_regs, struct kvm_sregs, and what is in these.
local REGS <const> = { "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10",
                       "r11", "r12", "r13", "r14", "r15", "rip", "rflags" }
local SEGMENTS <const> = { "cs", "ds", "es", "fs", "gs", "ss", "tr" }
local PARTS <const> = { "base", "limit", "selector", "type", "present", "dpl", "db", "s", "l", "g" }
local PART_BYTES <const>, SEGMENT_BYTES <const> = "<i8I4I2BBBBBBB", 24
local UNUSABLE <const> = 22 -- offset of that flag
local TABLES <const> = { gdt = 193, idt = 209 }
local TABLE_BYTES <const> = "<i8I2"
local CONTROLS <const> = { cr0 = 225, cr2 = 233, cr3 = 241, cr4 = 249, cr8 = 257, efer = 265 }

local SREGS <const> = options.declare("cpu:set_sregs", { gdt = TABLE, idt = TABLE })
for _, name in ipairs(SEGMENTS) do SREGS[name] = SEGMENT end
for name in pairs(CONTROLS) do SREGS[name] = up_to(64) end

---The general registers, RIP as handlers see it.
---@return table<string, integer>  { rax=, …, rflags= }
function cpu:regs()
  options.self("cpu:regs", self, "minikvm.cpu")
  local bytes, regs = core.state(self, "regs"), {}
  for i, name in ipairs(REGS) do regs[name] = ("<i8"):unpack(bytes, 8 * i - 7) end
  return registers.mark_regs(regs)
end

local function segment_at(bytes, i)
  local values, segment = { PART_BYTES:unpack(bytes, (i - 1) * SEGMENT_BYTES + 1) }, {}
  for n, part in ipairs(PARTS) do segment[part] = values[n] end
  return registers.mark_segment(segment)
end

---System registers.
---@return table values  { cr0=, …, cs = { selector=, base=, limit=, … }, gdt = { base=, limit= },
---  … }
function cpu:sregs()
  options.self("cpu:sregs", self, "minikvm.cpu")
  local bytes, sregs = core.state(self, "sregs"), {}
  for i, name in ipairs(SEGMENTS) do sregs[name] = segment_at(bytes, i) end
  for name, at in pairs(TABLES) do
    local base, limit = TABLE_BYTES:unpack(bytes, at)
    sregs[name] = registers.mark_table{ base = base, limit = limit }
  end
  for name, at in pairs(CONTROLS) do sregs[name] = ("<i8"):unpack(bytes, at) end
  return registers.mark_sregs(sregs)
end

local function replace(bytes, at, part)
  return bytes:sub(1, at - 1) .. part .. bytes:sub(at + #part)
end

---A segment with some of its parts changed; usable when it is present.
local function change_segment(bytes, i, values)
  local at, segment, parts = (i - 1) * SEGMENT_BYTES + 1, segment_at(bytes, i), {}
  for n, part in ipairs(PARTS) do parts[n] = values[part] or segment[part] end
  bytes = replace(bytes, at, PART_BYTES:pack(table.unpack(parts)))
  local unusable = (values.present or segment.present) == 0
  return replace(bytes, at + UNUSABLE, unusable and "\1" or "\0")
end

---Sets system registers, all at once: what a table as from cpu:sregs() has; the rest stays. A
---segment gets exactly what it says, whatever the tables in memory have (Intel SDM volume 3, 3.4.3:
---the hidden part). Raises when KVM refuses the combination.
---@param values table  { cr0=, …, cs = { selector=, base=, … }, gdt = { base=, limit= }, … }
---@return minikvm.cpu
function cpu:set_sregs(values)
  options.self("cpu:set_sregs", self, "minikvm.cpu")
  values = options.check("cpu:set_sregs", values, SREGS)
  local bytes = core.state(self, "sregs")
  for i, name in ipairs(SEGMENTS) do
    if values[name] then bytes = change_segment(bytes, i, values[name]) end
  end
  for name, at in pairs(TABLES) do
    local base, limit = TABLE_BYTES:unpack(bytes, at)
    local new = values[name] or {}
    bytes = replace(bytes, at, TABLE_BYTES:pack(new.base or base, new.limit or limit))
  end
  for name, at in pairs(CONTROLS) do
    if values[name] then bytes = replace(bytes, at, ("<i8"):pack(values[name])) end
  end
  core.set_state(self, "sregs", bytes)
  return self
end

local mark_walk = strict.record("walk", "cpu:walk()", { "present", "writable", "user", "address",
                                "page_size", "entries", "entry_addresses" }, function(walk)
  if not walk.present then return "not mapped" end
  return ("0x%x, page of %d bytes, %s, %s"):format(walk.address, walk.page_size,
    walk.writable and "writable" or "read-only", walk.user and "user" or "supervisor")
end)

---How a linear address is translated, by the page tables as they are now.
---@param linear integer
---@return table walk  { present=, writable=, user=, address=, page_size=, entries = { … },
---  entry_addresses = { … } }, the outermost entry first
function cpu:walk(linear)
  options.self("cpu:walk", self, "minikvm.cpu")
  options.argument("cpu:walk", "linear", linear, "integer")
  local got, entries, addresses = { core.walk(self, linear) }, {}, {}
  for i = 6, #got, 2 do entries[#entries + 1], addresses[#addresses + 1] = got[i], got[i + 1] end
  return mark_walk{ present = got[1], writable = got[2], user = got[3], address = got[4],
                    page_size = got[5], entries = entries, entry_addresses = addresses }
end

---All registers, as a table whose tostring is what a report shows.
---@return minikvm.registers  { rax=, …, rflags=, cr0=, …, cs = { … }, …, bits = 16|32|64 }
function cpu:registers()
  options.self("cpu:registers", self, "minikvm.cpu")
  return require("minikvm.debug.registers").of(self)
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
  local cs = self:sregs().cs
  local bits = cs.l == 1 and 64 or cs.db == 1 and 32 or 16
  local rip = cs.base + self.rip & (bits == 64 and -1 or 0xffffffff)
  linear = linear or rip
  local code = core.linear_read(self, linear, count * LONGEST)
  local list = setmetatable({ rip = rip }, meta)
  for i, insn in ipairs(core.disassemble(code, bits, linear)) do
    if i > count then break end
    local from = insn.address - linear
    insn.bytes = code:sub(from + 1, from + insn.size)
    list[i] = insn
  end
  return list
end

---The functions that it is in, the innermost first, by DWARF's call-frame information where the
---images have some, else by frame pointers, past the frames of interrupts. While the VM does not
---run or is paused, or inside a handler of the vCPU.
---@param opts? { limit: integer? }  frames (64)
---@return minikvm.backtrace  { { pc=, symbol=, offset=, file=, line=, inlined=, how=, arguments= },
---  … }, with `why` when no more is known; tostring gives lines of text
function cpu:backtrace(opts)
  options.self("cpu:backtrace", self, "minikvm.cpu")
  return require("minikvm.debug.backtrace").of(self, opts)
end

---Parameters and variables of a function that it is in.
---@param frame? integer  its number in cpu:backtrace() (0)
---@return minikvm.locals  { { name=, type=, value=, text=, address=, parameter= }, … }, with each
---  name as a key too; tostring gives lines of text
function cpu:locals(frame)
  options.self("cpu:locals", self, "minikvm.cpu")
  return require("minikvm.debug.backtrace").locals(self, frame)
end
