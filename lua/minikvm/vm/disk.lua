-- vm/disk.lua - kvm.vm{ disk = ... }: the machine that boots from a disk, by SeaBIOS or by the BIOS
-- services in Lua.
--
-- A PC/AT without PCI: 8259A, 8254, 8042, MC146818, 16550A, text screen, ATA disks; for SeaBIOS
-- QEMU's fw_cfg. SeaBIOS prints on the UART, too, and takes keys from it (its "sercon"), which is
-- the console; the screen is that of its VGA BIOS, when that lies beside it. It cannot read a
-- diskette without a controller for one; so a diskette's image is handed over as a file that it
-- keeps in RAM (its "floppyimg"). docs/disks.md.

local core = require "minikvm.core"
local sources = require "minikvm.image.source"

local M = {}

local MEMORY <const>, MEMORY_MIN <const> = 256 << 20, 1 << 20
local SEGMENT <const>, RESET <const> = 0xf000, 0xfff0 -- where a processor begins
local MIB <const>, GIB4 <const>, BELOW_MIB <const> = 1 << 20, 1 << 32, 256 << 10
local ROM_UNIT <const>, ROM_MAX <const> = 64 << 10, 16 << 20
local DISKS_MAX <const> = 4
local PLACES <const> = { { ports = 0x1f0, irq = 14 }, { ports = 0x170, irq = 15 } }
local UART <const>, FW_CFG <const>, CMOS <const>, VGA <const> = 0x3f8, 0x510, 0x70, 0x3c0
local CPUS_KEY <const>, MAX_CPUS_KEY <const> = 0x05, 0x0f -- of fw_cfg

-- Where distributions put it.
local SEABIOS <const> = { "/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin",
                          "/usr/share/seabios/bios.bin", "/usr/share/qemu/bios.bin" }

local VGA_BIOS <const> = "vgabios-isavga.bin" -- beside it

-- ---- options ----

---A path, the options of kvm.disk, or a list of such.
---@return table[]? list  of options
---@return string? why
function M.check(value)
  if type(value) == "string" then value = { path = value } end
  if type(value) ~= "table" then return nil, "expected a path, or the options of kvm.disk" end
  local list = value[1] ~= nil and value or { value }
  if #list > DISKS_MAX then return nil, ("%d disks, 4 at most"):format(#list) end
  local checked = {}
  for i, entry in ipairs(list) do
    checked[i] = type(entry) == "string" and { path = entry } or entry
    if type(checked[i]) ~= "table" then return nil, "expected paths, or options of kvm.disk" end
  end
  return checked
end

---Options of kvm.vm for such a machine; raises when they do not go together.
---@param o table  checked
function M.options(o)
  if o.mode and o.mode ~= "real" then
    core.blame(("kvm.vm: option 'disk': a BIOS starts in mode \"real\", this is %q"):format(o.mode))
  elseif o.irqchip == "none" then
    core.blame "kvm.vm: option 'disk': a BIOS needs irqchip = \"pic\""
  elseif (o.cpus or 1) ~= 1 then
    core.blame "kvm.vm: option 'disk': a BIOS runs on one vCPU"
  elseif o.memory and o.memory < MEMORY_MIN then
    core.blame "kvm.vm: option 'disk': a BIOS needs memory of 1M or more"
  end
  o.mode, o.irqchip, o.memory = "real", "pic", o.memory or MEMORY
  o.bios = o.bios or "seabios"
end

-- ---- what the machine is made of ----

---Raises what M.attach() returns.
local function refuse(code, text, ...) error({ text = text:format(...), code = code }, 0) end

local function open_disks(o)
  local list = {}
  for i, entry in ipairs(o.disk) do
    local disk, why, code = require("minikvm.device.disk").open(entry)
    if not disk then refuse(code, "%s", why) end
    list[i] = disk
  end
  return list
end

---The image of a BIOS, checked as far as one can, and that of SeaBIOS' VGA, if it is there.
local function read_bios(name)
  local path = name
  if name == "seabios" then
    for _, candidate in ipairs(SEABIOS) do
      if core.file_size(candidate) then path = candidate break end
    end
    if path == name then
      refuse("ENOENT", "SeaBIOS is not installed: it is in Debian's package seabios "
        .. "(apt-get install seabios); bios = \"lua\" (minikvm run: --bios lua) does without")
    end
  end
  local bytes = (core.file_size(path) or 0) > ROM_MAX and "" or sources.read_file(path)
  local first = bytes:byte(-16)
  if #bytes == 0 or #bytes % ROM_UNIT ~= 0
     or not (first == 0xea or first == 0xe9 or first == 0xeb) then
    refuse("EINVAL", "%s: no BIOS: one has whole 64K, and a jump 16 bytes before its end; Debian's "
      .. "package seabios has one, and bios = \"lua\" (minikvm run: --bios lua) does without", path)
  end
  local vga_path = path:gsub("[^/]*$", VGA_BIOS)
  return bytes, core.file_size(vga_path) and sources.read_file(vga_path, ROM_MAX) or nil
end

---What CMOS says of memory and the order of booting, as SeaBIOS reads it (its src/fw/paravirt.c and
---src/boot.c).
local function cmos_of(vm, floppy)
  local low, high = math.min(#vm.memory, 3 << 30), 0
  for _, r in ipairs(vm.memory:regions()) do
    if r.at == GIB4 then high = r.size >> 16 end
  end
  local kib = math.min((low - MIB) >> 10, 0xffff)
  local above = math.max(low - (16 << 20), 0) >> 16
  return {
    [0x15] = 0x80, [0x16] = 0x02, [0x17] = kib & 0xff, [0x18] = kib >> 8, [0x30] = kib & 0xff,
    [0x31] = kib >> 8, [0x34] = above & 0xff, [0x35] = above >> 8, [0x5b] = high & 0xff,
    [0x5c] = high >> 8 & 0xff, [0x5d] = high >> 16 & 0xff, [0x14] = 0x06,
    [0x3d] = floppy and 0x21 or 0x02,
  }
end

---A diskette's image among the disks, for SeaBIOS: taken off the list; nil when there is none.
local function pop_floppy(disks)
  local bios_disk = require "minikvm.bios.disk"
  for i, disk in ipairs(disks) do
    if bios_disk.is_floppy(disk:size()) then
      if not disk:written() then
        refuse("ENOTSUP", "SeaBIOS keeps a diskette in RAM and cannot write it: bios = \"lua\" "
          .. "(minikvm run: --bios lua) does")
      end
      local bytes, why, code = disk:read(0, disk:size())
      if not bytes then refuse(code, "%s", why) end
      disk:close()
      table.remove(disks, i)
      return bytes
    end
  end
end

---SeaBIOS changes itself in RAM: a fork has what its parent has, a reset the image.
local function attach_image(vm, bytes, fresh)
  local kept = bytes:sub(-BELOW_MIB)
  local function write() vm.memory:write(MIB - #kept, kept) end
  vm:attach(require("minikvm").device{
    name = "BIOS image", attach = function(d) d.own.there = true end,
    reset = function(d) if d.own.there then write() end end,
  }, {})
  if not fresh then return end
  write()
  local ok, why, code = vm.memory:map{ at = GIB4 - #bytes, rom = true, bytes = bytes,
                                       name = "BIOS" }
  if not ok then refuse(code, "%s", why) end
end

local function attach_ata(vm, disks, on_error)
  local ata = require "minikvm.devices.ata"
  for i = 1, #disks, 2 do
    vm:attach(ata.new{ disks = { disks[i], disks[i + 1] }, on_error = on_error },
              PLACES[(i + 1) // 2])
  end
end

---On a machine with PCI SeaBIOS looks for controllers there only: this one says that its channels
---are at the usual ports (PCI IDE Controller Specification 1.0, compatibility mode), as a PIIX3's.
local function attach_pci_ide(vm)
  vm.pci:attach(require("minikvm").pci{ name = "ide", vendor = 0x8086, device = 0x7010,
                                        class = 0x010180 })
end

local function attach_seabios(vm, o, disks, on_error)
  local fw_cfg = require "minikvm.devices.fw_cfg"
  local bios, vga_bios = read_bios(o.bios)
  local floppy = pop_floppy(disks)
  attach_image(vm, bios, not o.snapshot)
  vm:attach(require("minikvm.devices.rtc").new{ cmos = cmos_of(vm, floppy) },
            { ports = CMOS, irq = 8 })
  local one = ("<I2"):pack(1)
  vm:attach(fw_cfg.new{
    files = { ["etc/sercon-port"] = ("<I8"):pack(UART), ["floppyimg/disk"] = floppy,
              ["vgaroms/vgabios.bin"] = vga_bios },
    items = { [CPUS_KEY] = one, [MAX_CPUS_KEY] = one },
  }, { ports = FW_CFG })
  if o.pci and disks[1] then attach_pci_ide(vm) end
  attach_ata(vm, disks, on_error)
end

---A guest that has left real mode finds fixed disks at the ATA controllers.
local function attach_lua(vm, _, disks, on_error)
  local bios_disk, fixed = require "minikvm.bios.disk", {}
  for _, disk in ipairs(disks) do
    if not bios_disk.is_floppy(disk:size()) then fixed[#fixed + 1] = disk end
  end
  vm:attach(require("minikvm.devices.rtc").new(), { ports = CMOS, irq = 8 })
  attach_ata(vm, fixed, on_error)
  vm:attach(require("minikvm.devices.bios").new{ disks = disks, borrowed = fixed,
                                                 on_error = on_error }, {})
end

---By VM, the disks of option `disk`, in its order.
local given = setmetatable({}, { __mode = "k" })

---Makes the machine, and points the vCPU of a fresh VM at the BIOS.
---@param vm minikvm.vm
---@param o table  options of kvm.vm
---@return minikvm.vm? vm  or nil, why, code
---@return string? why
---@return string? code
function M.attach(vm, o)
  local ok, problem = pcall(function()
    local tell = o.disk_error
    local disks = open_disks(o)
    given[vm] = table.move(disks, 1, #disks, 1, {})
    vm:attach(require("minikvm.devices.vga").new(), { ports = VGA })
    local attach = o.bios == "lua" and attach_lua or attach_seabios
    attach(vm, o, disks, tell and function(_, text) tell(text) end)
    if not o.snapshot then assert(core.set_entry(vm, { ip = RESET, segment = SEGMENT })) end
  end)
  if ok then return vm end
  if type(problem) == "table" then return nil, problem.text, problem.code end
  error(problem, 0)
end

---The disks of a VM: those of option `disk`, then those of its other devices, in their order.
---@param vm minikvm.vm
---@return minikvm.disk[]
function M.of(vm)
  local devices, list, known = package.loaded["minikvm.device"], {}, {}
  local function add(disk)
    if not known[disk] then list[#list + 1] = disk end
    known[disk] = true
  end
  for _, disk in ipairs(given[vm] or {}) do add(disk) end
  for _, d in ipairs(devices and devices.of(vm) or {}) do
    for _, disk in ipairs(d.disks) do add(disk) end
  end
  return list
end

return M
