-- bios.lua - the services of a PC's BIOS, in Lua, for 16-bit systems that are booted from a disk.
--
--   vm:attach(bios.new{ disks = { kvm.disk{ path = "floppy.img" } } }, {})
--   vm.cpu[0].cs, vm.cpu[0].rip = 0xf000, 0xfff0
--
-- Services are in lua/minikvm/bios: INT 10h text screen, 11h, 12h, 13h disks, 14h, 15h, 16h keys,
-- 17h, 19h boot, 1Ah time; they hold no state but that of the BIOS data area at 40:0 and this
-- device's. Wants a VM in real mode with irqchip = "pic" and RAM of 1 MiB or more. A guest that
-- leaves real mode takes what it needs along. Handlers run on the vCPU's thread under the Lua lock.

local kvm = require "minikvm"
local checks = require "minikvm.device.disk"
local options = require "minikvm.options"
local disks = require "minikvm.bios.disk"
local keyboard = require "minikvm.bios.keyboard"
local rom = require "minikvm.bios.rom"
local screen = require "minikvm.console.screen"
local system = require "minikvm.bios.system"
local video = require "minikvm.bios.video"

local M = {}

local FIRST_MIB <const>, LOW <const>, LOW_SIZE <const> = 1 << 20, 0x400, 0x100
local BOOT <const> = 0x7c00
local FLAGS <const> = 0x0202 -- interrupts on

local function report(d, why)
  if d.own.on_error then d.own.on_error(d, why) end
end

---The guest cannot go on; says why.
local function stop(d, why)
  report(d, why)
  d.vm:stop()
end

---Vectors and BIOS data area; the screen is cleared.
local function write_tables(d)
  local memory = d.vm.memory
  memory:write(0, rom.vector_table())
  memory:fill(LOW, LOW_SIZE)
  keyboard.tables(memory)
  system.tables(d)
  disks.tables(d)
  video.set_mode(d, 3)
  d.state.print_row = nil
end

---INT 19h.
local function boot(d)
  local cpu = d.vm.cpu[0]
  local drive, why = disks.boot(d)
  if not drive then
    video.say(d, "No bootable disk: " .. why .. "\r\n")
    return stop(d, "no bootable disk: " .. why)
  end
  for _, segment in ipairs{ "cs", "ds", "es", "ss" } do cpu[segment] = 0 end
  cpu.rip, cpu.rsp, cpu.rax, cpu.rdx, cpu.rflags = BOOT, BOOT, 0, drive.number, FLAGS
end

---A default handler of an exception, whose return address is on the stack.
local function exception(what)
  return function(d)
    local cpu, memory = d.vm.cpu[0], d.vm.memory
    local at = cpu.ss * 16 + cpu.sp
    if not memory:has(at, 4) then at = 0 end -- a stack that the guest made up
    stop(d, ("%s at %04x:%04x, and the guest has no handler"):format(what, memory:u16(at + 2),
                                                                   memory:u16(at)))
  end
end

---By what rom.traps names.
local SERVICES <const> = {
  post = write_tables, key = keyboard.scancode, [0x10] = video.int10, [0x11] = system.int11,
  [0x12] = system.int12, [0x13] = disks.int13, [0x14] = system.int14, [0x15] = system.int15,
  [0x16] = keyboard.int16, [0x17] = system.int17, [0x19] = boot, [0x1a] = system.int1a,
  [0x18] = function(d) stop(d, "the guest found nothing to boot (INT 18h)") end,
  [0x00] = exception "a division overflowed", [0x06] = exception "an invalid instruction",
}

---Who calls these between two looks for a key is not waiting for it.
local WORK <const> = { [0x10] = true, [0x13] = true, [0x14] = true }

---An OUT to the BIOS's port; of the guest's own code it is none.
local function serve(d)
  local cpu = d.vm.cpu[0]
  local service = cpu.cs == rom.SEGMENT and rom.traps[cpu.ip]
  if not service then return end
  if WORK[service] then d.state.polls = 0 end
  SERVICES[service](d)
end

local function reset(d)
  local began = d.own.time or os and os.time() or 0 -- a safe script has no os
  d.state = { typed = {}, polls = 0, began = began }
  rom.install(d.vm.memory)
end

local function attach(d, o)
  local memory = d.vm.memory
  if #memory < FIRST_MIB then
    error(("a BIOS needs RAM of 1M or more, vm %q has %d bytes"):format(d.vm.name, #memory), 0)
  end
  local own = d.own
  own.on_error, own.report, own.characters, own.time = o.on_error, report, screen.characters, o.time
  own.print = function(_, text) d.vm.console:write(text) end
  own.no_input = function() stop(d, "the guest waits for a key, and its input has ended") end
  local borrowed = {}
  for _, disk in ipairs(o.borrowed or {}) do borrowed[disk] = true end
  for _, disk in ipairs(o.disks or {}) do
    if not borrowed[disk] then d:use_disk(disk) end
  end
  own.drives = disks.drives(o.disks or {})
  d:keep(d.vm.ports:on(rom.PORT, { write = function() serve(d) end, name = "BIOS" }))
  reset(d) -- now that its options are there
end

local OPTIONS <const> = options.declare("bios.new", {
  disks = checks.check_list, borrowed = checks.check_list, time = "integer", on_error = "function",
})

---Describes the BIOS, for vm:attach() without a place.
---  disks     disks (kvm.disk) in the order in which they are booted from; those of a diskette's
---            size are diskettes
---  borrowed  those of them that are another device's, such as an ATA controller's
---  time      seconds since 1970 that the guest's clock shows at first, as UTC (the host's)
---  on_error  function(d, text): what the host refused, and why a guest was stopped
---@param opts? { disks: minikvm.disk[]?, borrowed: minikvm.disk[]?, time: integer?,
---  on_error: function? }
---@return minikvm.definition
function M.new(opts)
  local o = options.check("bios.new", opts, OPTIONS)
  return kvm.device{
    name = "bios", reset = reset, attach = function(d) attach(d, o) end,
    timers = { wake = function(d) d.vm:irq(rom.WAKE) end },
  }
end

return require("minikvm.strict").module(M, "devices.bios")
