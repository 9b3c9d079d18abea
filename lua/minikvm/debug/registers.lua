-- debug/registers.lua - cpu:registers(): all of them as a table, and as text. Intel SDM volume 3,
-- 2.3 (EFLAGS), 2.5 (control registers).

local strict = require "minikvm.strict"

local M = {}

local FLAGS <const> = { { 0, "CF" }, { 2, "PF" }, { 4, "AF" }, { 6, "ZF" }, { 7, "SF" },
                        { 8, "TF" }, { 9, "IF" }, { 10, "DF" }, { 11, "OF" }, { 14, "NT" },
                        { 17, "VM" } }
local CR0 <const> = { { 0, "PE" }, { 2, "EM" }, { 3, "TS" }, { 5, "NE" }, { 16, "WP" },
                      { 31, "PG" } }
local CR4 <const> = { { 4, "PSE" }, { 5, "PAE" }, { 7, "PGE" }, { 9, "OSFXSR" },
                      { 10, "OSXMMEXCPT" } }
local GENERAL <const> = { "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10",
                          "r11", "r12", "r13", "r14", "r15" }

local function bits_of(value, names)
  local set = {}
  for _, bit in ipairs(names) do
    if value >> bit[1] & 1 == 1 then set[#set + 1] = bit[2] end
  end
  return #set > 0 and table.concat(set, " ") or "none"
end

---The general registers, four in a line.
local function general(r)
  local lines, wide = {}, r.bits == 64
  local width, mask = wide and 16 or 8, wide and -1 or 0xffffffff
  for i = 1, wide and 16 or 8, 4 do
    local row = {}
    for j = i, i + 3 do
      local name = GENERAL[j]
      row[#row + 1] = ("%-3s %0" .. width .. "x"):format(wide and name or name:gsub("^r", "e"),
                                                         r[name] & mask)
    end
    lines[#lines + 1] = "  " .. table.concat(row, "  ")
  end
  return table.concat(lines, "\n")
end

local function system(r)
  local protected, paged = r.cr0 & 1 == 1, r.cr0 >> 31 & 1 == 1
  local function segment(name)
    return ("%s %04x base %08x"):format(name, r[name].selector, r[name].base)
  end
  return ("  %s, ring %d; %s; %s\n  rip %08x  flags %08x (%s)\n  cr0 %08x (%s)  cr4 %08x (%s)\n"
    .. "  cr2 %08x  cr3 %08x  efer %x\n  gdt %08x limit %04x  idt %08x limit %04x"):format(
    r.bits .. "-bit " .. (protected and "protected" or "real") .. " mode"
      .. (paged and ", paging" or ""), protected and r.cs.selector & 3 or 0,
    segment "cs", segment "ss",
    r.rip, r.rflags, bits_of(r.rflags, FLAGS), r.cr0, bits_of(r.cr0, CR0), r.cr4,
    bits_of(r.cr4, CR4), r.cr2, r.cr3, r.efer, r.gdt.base, r.gdt.limit, r.idt.base, r.idt.limit)
end

local REGS <const> = table.move(GENERAL, 1, #GENERAL, 3, { "rip", "rflags" })
local SREGS <const> = { "cs", "ds", "es", "fs", "gs", "ss", "tr", "gdt", "idt", "cr0", "cr2", "cr3",
                        "cr4", "cr8", "efer" }

local function mode_of(r) return r.cs.l == 1 and 64 or r.cs.db == 1 and 32 or 16 end

local mark = strict.record("registers", "cpu:registers()", table.move(SREGS, 1, #SREGS, #REGS + 2,
  table.move(REGS, 1, #REGS, 2, { "bits" })), function(r)
    return general(r) .. "\n" .. system(r)
  end)

---A table as from cpu:regs().
M.mark_regs = strict.record("regs", "cpu:regs()", REGS, function(r)
  local wide = { bits = 64 }
  for name, value in pairs(r) do wide[name] = value end
  return ("%s\n  rip %016x  rflags %08x (%s)"):format(general(wide), r.rip, r.rflags,
                                                    bits_of(r.rflags, FLAGS))
end)

---A table as from cpu:sregs(), and those in it.
M.mark_sregs = strict.record("sregs", "cpu:sregs()", SREGS, function(r)
  local lines = {}
  for i, name in ipairs(SREGS) do
    local value = r[name]
    lines[i] = ("  %-4s %s"):format(name, type(value) == "table" and tostring(value)
      or ("%x"):format(value))
  end
  return table.concat(lines, "\n")
end)
M.mark_segment = strict.record("segment", "a segment", { "selector", "base", "limit", "type", "dpl",
                               "present", "s", "db", "l", "g" }, function(s)
  return ("%04x base %x limit %x type %x dpl %d%s"):format(s.selector, s.base, s.limit, s.type,
                                                       s.dpl, s.present == 1 and "" or " unusable")
end)
M.mark_table = strict.record("descriptor_table", "a descriptor table", { "base", "limit" },
  function(t) return ("base %x limit %x"):format(t.base, t.limit) end)

---@param cpu minikvm.cpu
---@return minikvm.registers
function M.of(cpu)
  local r = {}
  for name, value in pairs(cpu:sregs()) do r[name] = value end
  for name, value in pairs(cpu:regs()) do r[name] = value end
  r.bits = mode_of(r)
  return mark(r)
end

return M
