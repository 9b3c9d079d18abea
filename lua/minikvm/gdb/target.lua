-- gdb/target.lua - what gdb is told of a vCPU: target descriptions (Debugging with GDB, appendix G)
-- by the mode it is in, with its registers and where each lies in KVM's structures (Linux,
-- arch/x86/include/uapi/asm/kvm.h).
--
-- gdb reads the description once, when it connects. In 16- and 32-bit code EIP is the linear
-- address, CS.base + EIP, because gdb knows no segments: so disassembly and breakpoints are right.

local options = require "minikvm.options"

local M = {}

---@class minikvm.gdb.register
---@field name string
---@field size integer  bytes that gdb gets
---@field type string
---@field from string?  "regs", "sregs", "fpu", "debugregs", "msr"
---@field at integer?  offset into that structure, number of the MSR
---@field width integer?  bytes there
---@field special string?  "pc", "selector", "ftag"
---@field group string?
---@field number integer

local GENERAL <const> = { rax = 0, rbx = 8, rcx = 16, rdx = 24, rsi = 32, rdi = 40, rsp = 48,
                          rbp = 56, r8 = 64, r9 = 72, r10 = 80, r11 = 88, r12 = 96, r13 = 104,
                          r14 = 112, r15 = 120, rip = 128 }
local RFLAGS <const> = 136
-- struct kvm_sregs: segments, their parts; tables; control registers.
local SEGMENTS <const> = { cs = 0, ds = 24, es = 48, fs = 72, gs = 96, ss = 120, tr = 144,
                           ldt = 168 }
local SELECTOR <const> = 12
local CONTROLS <const> = { cr0 = 224, cr2 = 232, cr3 = 240, cr4 = 248, cr8 = 256, efer = 264 }
-- struct kvm_fpu
local FPU <const> = { fctrl = { 128, 2 }, fstat = { 130, 2 }, fop = { 134, 2 },
                      fioff = { 136, 4 }, fooff = { 144, 4 } }
local XMM <const>, MXCSR <const> = 152, 408
-- MSRs: Intel SDM volume 4, table 2-2.
local MSRS <const> = {
  { "apic_base", 0x1b }, { "tsc", 0x10 }, { "sysenter_cs", 0x174 }, { "sysenter_esp", 0x175 },
  { "sysenter_eip", 0x176 }, { "pat", 0x277 }, { "star", 0xc0000081 }, { "lstar", 0xc0000082 },
  { "cstar", 0xc0000083 }, { "sfmask", 0xc0000084 }, { "kernel_gs_base", 0xc0000102 },
}

-- Flags by bit: Intel SDM volume 1, 3.4.3; volume 3, 2.5 and 2.2.1.
local FLAGS <const> = {
  eflags = { [0] = "CF", "", "PF", [4] = "AF", [6] = "ZF", [7] = "SF", [8] = "TF", [9] = "IF",
             [10] = "DF", [11] = "OF", [14] = "NT", [16] = "RF", [17] = "VM", [18] = "AC",
             [19] = "VIF", [20] = "VIP", [21] = "ID" },
  cr0 = { [0] = "PE", [1] = "MP", [2] = "EM", [3] = "TS", [4] = "ET", [5] = "NE", [16] = "WP",
          [18] = "AM", [29] = "NW", [30] = "CD", [31] = "PG" },
  cr4 = { [0] = "VME", [1] = "PVI", [2] = "TSD", [3] = "DE", [4] = "PSE", [5] = "PAE", [6] = "MCE",
          [7] = "PGE", [8] = "PCE", [9] = "OSFXSR", [10] = "OSXMMEXCPT", [11] = "UMIP",
          [12] = "LA57", [16] = "FSGSBASE", [17] = "PCIDE", [18] = "OSXSAVE", [20] = "SMEP",
          [21] = "SMAP", [22] = "PKE" },
  efer = { [0] = "SCE", [8] = "LME", [10] = "LMA", [11] = "NXE", [12] = "SVME" },
}

-- ---- registers ----

local NAMES_64 <const> = "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip"
local NAMES_32 <const> = "rax rcx rdx rbx rsp rbp rsi rdi rip"
local POINTERS <const> = { rbp = "data_ptr", rsp = "data_ptr", rip = "code_ptr" }

---Registers of so many bytes, in gdb's order, the instruction pointer last.
local function general(add, bytes, names)
  for name in names:gmatch "%w+" do
    add{ name = bytes == 4 and name:gsub("^r", "e") or name, size = bytes, from = "regs",
         type = POINTERS[name] or ("int%d"):format(8 * bytes), at = GENERAL[name], width = bytes,
         special = name == "rip" and "pc" or nil }
  end
end

local function selectors(add)
  for name in ("cs ss ds es fs gs"):gmatch "%a+" do
    add{ name = name, size = 4, type = "int32", from = "sregs", at = SEGMENTS[name] + SELECTOR,
         width = 2, special = "selector" }
  end
end

---A register of the FPU that gdb wants and FXSAVE does not keep: code and data segment.
local function x87(add)
  for i = 0, 7 do
    add{ name = "st" .. i, size = 10, type = "i387_ext", from = "fpu", at = 16 * i, width = 10 }
  end
  for name in ("fctrl fstat ftag fiseg fioff foseg fooff fop"):gmatch "%a+" do
    local place = FPU[name]
    add{ name = name, size = 4, type = "int", group = "float", from = place and "fpu",
         at = place and place[1], width = place and place[2],
         special = name == "ftag" and name or nil }
  end
end

local function sse(add, count)
  for i = 0, count - 1 do
    add{ name = "xmm" .. i, size = 16, type = "vec128", from = "fpu", at = XMM + 16 * i,
         width = 16 }
  end
  add{ name = "mxcsr", size = 4, type = "i386_mxcsr", group = "vector", from = "fpu", at = MXCSR,
       width = 4 }
end

---What no program sees. gdb asks for these when somebody wants to see them.
local function system(add, bytes)
  local function one(name, from, at, width, kind)
    add{ name = name, size = math.min(bytes, width) == 8 and 8 or 4, from = from, at = at,
         width = math.min(bytes, width), group = "system",
         type = kind or (bytes == 8 and width == 8 and "int64" or "int32") }
  end
  for name in ("cr0 cr2 cr3 cr4 cr8 efer"):gmatch "%a%w+" do
    one(name, "sregs", CONTROLS[name], 8, FLAGS[name] and name .. "_flags")
  end
  for name in ("cs ss ds es fs gs"):gmatch "%a+" do
    if bytes == 4 or name ~= "fs" and name ~= "gs" then
      one(name .. "_base", "sregs", SEGMENTS[name], 8)
    end
  end
  one("gdt_base", "sregs", 192, 8)
  one("gdt_limit", "sregs", 200, 2)
  one("idt_base", "sregs", 208, 8)
  one("idt_limit", "sregs", 216, 2)
  one("ldt", "sregs", SEGMENTS.ldt + SELECTOR, 2)
  one("tr", "sregs", SEGMENTS.tr + SELECTOR, 2)
  one("tr_base", "sregs", SEGMENTS.tr, 8)
  for i, name in ipairs{ "dr0", "dr1", "dr2", "dr3", "dr6", "dr7" } do
    one(name, "debugregs", 8 * i - 8, 8)
  end
  for _, msr in ipairs(MSRS) do
    add{ name = msr[1], size = 8, type = "int64", from = "msr", at = msr[2], width = 8,
         group = "system" }
  end
end

-- ---- descriptions ----

local function flags_type(id, name, bytes)
  local lines = { ('<flags id="%s" size="%d">'):format(id, bytes) }
  for _, bit in ipairs(options.keys(FLAGS[name])) do
    lines[#lines + 1] = ('<field name="%s" start="%d" end="%d"/>')
      :format(FLAGS[name][bit], bit, bit)
  end
  lines[#lines + 1] = "</flags>"
  return table.concat(lines)
end

local VECTORS <const> = [[
<vector id="v4f" type="ieee_single" count="4"/><vector id="v2d" type="ieee_double" count="2"/>
<vector id="v16i8" type="int8" count="16"/><vector id="v8i16" type="int16" count="8"/>
<vector id="v4i32" type="int32" count="4"/><vector id="v2i64" type="int64" count="2"/>
<union id="vec128"><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>
<field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/>
<field name="v4_int32" type="v4i32"/><field name="v2_int64" type="v2i64"/>
<field name="uint128" type="uint128"/></union>
<flags id="i386_mxcsr" size="4"><field name="IE" start="0" end="0"/>
<field name="DE" start="1" end="1"/><field name="ZE" start="2" end="2"/>
<field name="OE" start="3" end="3"/>
<field name="UE" start="4" end="4"/><field name="PE" start="5" end="5"/></flags>]]

---A feature: its types, then the registers that `fill` adds.
local function feature(d, name, types, fill)
  local lines = { ('<feature name="%s">'):format(name), types }
  local function add(register)
    register.number = #d.registers
    d.registers[#d.registers + 1] = register
    d.by_name[register.name] = register
    lines[#lines + 1] = ('<reg name="%s" bitsize="%d" type="%s"%s/>'):format(register.name,
      8 * register.size, register.type,
      register.group and (' group="%s"'):format(register.group) or "")
  end
  fill(add)
  lines[#lines + 1] = "</feature>"
  d.features[#d.features + 1] = table.concat(lines, "\n")
end

---@class minikvm.gdb.description
---@field name string  "i8086", "i386", "x86-64"
---@field bits integer  16, 32, 64
---@field registers minikvm.gdb.register[]  by number, from 1
---@field in_g integer  so many of them are in a 'g' packet
---@field expedited minikvm.gdb.register[]  what a stop tells at once
---@field xml string

local ARCHITECTURES <const> = { i8086 = "i8086", i386 = "i386", ["x86-64"] = "i386:x86-64" }

local function describe(name)
  local wide = name == "x86-64"
  local bytes = wide and 8 or 4
  local d = { name = name, bits = wide and 64 or name == "i386" and 32 or 16, registers = {},
              by_name = {}, features = {} }
  feature(d, "org.gnu.gdb.i386.core", flags_type("i386_eflags", "eflags", 4), function(add)
    general(add, bytes, wide and NAMES_64 or NAMES_32)
    add{ name = "eflags", size = 4, type = "i386_eflags", from = "regs", at = RFLAGS, width = 4 }
    selectors(add)
    x87(add)
  end)
  feature(d, "org.gnu.gdb.i386.sse", VECTORS, function(add) sse(add, wide and 16 or 8) end)
  if wide then
    feature(d, "org.gnu.gdb.i386.segments", "", function(add)
      add{ name = "fs_base", size = 8, type = "int", from = "sregs", at = SEGMENTS.fs, width = 8 }
      add{ name = "gs_base", size = 8, type = "int", from = "sregs", at = SEGMENTS.gs, width = 8 }
    end)
  end
  d.in_g = #d.registers
  feature(d, "org.minikvm.system", flags_type("cr0_flags", "cr0", bytes)
    .. flags_type("cr4_flags", "cr4", bytes) .. flags_type("efer_flags", "efer", bytes),
    function(add) system(add, bytes) end)
  d.expedited = wide and { d.by_name.rip, d.by_name.rsp, d.by_name.rbp }
    or { d.by_name.eip, d.by_name.esp, d.by_name.ebp }
  d.xml = ('<?xml version="1.0"?>\n<!DOCTYPE target SYSTEM "gdb-target.dtd">\n'
    .. '<target version="1.0">\n<architecture>%s</architecture>\n<osabi>none</osabi>\n%s\n'
    .. '</target>\n')
    :format(ARCHITECTURES[name], table.concat(d.features, "\n"))
  return d
end

local described = {}

---@param name "i8086"|"i386"|"x86-64"
---@return minikvm.gdb.description
function M.describe(name)
  described[name] = described[name] or describe(name)
  return described[name]
end

---What the code that a vCPU is at is for.
---@param sregs string  a struct kvm_sregs
---@return "i8086"|"i386"|"x86-64"
function M.of(sregs)
  local db, l = sregs:byte(18), sregs:byte(20) -- of CS
  return l == 1 and "x86-64" or db == 1 and "i386" or "i8086"
end

---What a linear address is in.
---  Without paging: ROM where it is; the rest counts as RAM, because page tables may show anything
---  anywhere.
---@param regions table[]  as memory:regions() lists them
---@param paged boolean
---@param bits integer
---@return string xml
function M.memory_map(regions, paged, bits)
  local lines, at = {}, 0
  local last = bits == 64 and math.maxinteger or (1 << 32) - 1
  local function add(kind, from, length)
    lines[#lines + 1] = ('<memory type="%s" start="0x%x" length="0x%x"/>'):format(kind, from,
                                                                                length)
  end
  for _, region in ipairs(paged and {} or regions) do
    if not region.writable and region.at + region.size - 1 <= last then
      if region.at > at then add("ram", at, region.at - at) end
      add("rom", region.at, region.size)
      at = region.at + region.size
    end
  end
  add("ram", at, last - at + 1)
  if bits == 64 then add("ram", 1 << 63, (1 << 63) - 4096) end
  return '<?xml version="1.0"?>\n<!DOCTYPE memory-map PUBLIC "+//IDN gnu.org//DTD GDB Memory Map '
    .. 'V1.0//EN" "http://sourceware.org/gdb/gdb-memory-map.dtd">\n<memory-map>\n'
    .. table.concat(lines, "\n") .. "\n</memory-map>\n"
end

return M
